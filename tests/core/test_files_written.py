"""Files are whole or not there: killed writers, threads and processes at one path, symbolic links in the way."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from nncf_ext.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from nncf_ext.files.writing import replacing, write_text
from nncf_ext.packed import load, pack_arrays, unpack_file

_KILLED = """
import os, signal, sys
from pathlib import Path
from nncf_ext.files.writing import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    target = tmp_path / "run.safetensors"
    save_checkpoint(target, {"a": np.zeros(2, np.float32)}, {})
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = [name for name in names(tmp_path) if name.endswith(".part")]
    assert len(left) == 1 and (tmp_path / left[0] / "run.safetensors").read_bytes() == b"half"
    os.utime(tmp_path / left[0] / "run.safetensors", (time.time() + 10,) * 2)
    assert find_checkpoint(tmp_path) == target  # the leftover is newer, and is no checkpoint
    assert load_checkpoint(target)[0]["a"].tolist() == [0, 0]
    write_text(tmp_path / "other.json", "{}")
    assert names(tmp_path) == ["other.json", "run.safetensors"]


def test_a_writer_that_is_alive_keeps_its_folder(tmp_path):
    with replacing(tmp_path / "slow") as temporary:
        temporary.write_text("slow")
        write_text(tmp_path / "fast", "fast")
        write_text(tmp_path / "slow", "other")
        assert temporary.read_text() == "slow"
    assert names(tmp_path) == ["fast", "slow"] and (tmp_path / "slow").read_text() == "slow"


def test_a_folder_without_lock_is_removed_if_it_is_empty(tmp_path):
    (tmp_path / ".a.x.part").mkdir()
    (tmp_path / ".b.x.part").mkdir()
    (tmp_path / ".b.x.part" / "mine").write_text("")
    write_text(tmp_path / "c", "")
    assert names(tmp_path) == [".b.x.part", "c"]


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need rights elsewhere")
def test_no_symbolic_link_is_followed(tmp_path):
    victim, elsewhere = tmp_path / "victim", tmp_path / "elsewhere"
    victim.write_text("precious")
    elsewhere.mkdir()
    (elsewhere / "file").write_text("precious")
    for name in ("o.ncp", "o.safetensors"):
        (tmp_path / f".{name}.{os.getpid()}").symlink_to(victim)  # the name that was predictable once
    (tmp_path / ".x.part").symlink_to(elsewhere)
    pack_arrays(tmp_path / "o.ncp", {"a": np.ones(3)})
    unpack_file(tmp_path / "o.ncp", tmp_path / "o.safetensors")
    assert victim.read_text() == "precious" and names(elsewhere) == ["file"]
    assert not (tmp_path / "o.ncp").is_symlink() and load(tmp_path / "o.ncp")["a"].tolist() == [1, 1, 1]


def test_threads_that_pack_to_one_path(tmp_path):
    path, errors = tmp_path / "race.ncp", []
    arrays = [{f"w{i}": np.full((30, 20 + seed), i + seed, np.float32) for i in range(4)} for seed in (0, 7)]

    def write(own):
        try:
            pack_arrays(path, own)
        except Exception as error:
            errors.append(error)

    for _ in range(10):
        threads = [threading.Thread(target=write, args=(own,)) for own in arrays]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert load(path)["w0"].shape in ((30, 20), (30, 27))
    assert errors == [] and names(tmp_path) == ["race.ncp"]


def test_long_names_and_folders(tmp_path):
    write_text(tmp_path / ("n" * 250), "text")
    assert (tmp_path / ("n" * 250)).read_text() == "text"
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder is a folder: cannot write a file there"):
        write_text(tmp_path / "folder", "")


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), replace(*names))[1])
    write_text(tmp_path / "a", "")
    assert order == ["fsync", "replace", "fsync"][: 3 if os.name == "posix" else 2]
