"""Locks by `msvcrt.locking`, with a module that does what its documentation says: a lock on bytes from the file's position on,
which may lie beyond its end, refused with EACCES to every other handle, and gone with it. And open files are not removed."""

import errno
import os
import shutil
import sys
import types

import pytest

from nncf_ext.files import writing
from nncf_ext.files.writing import replacing, write_text


class Windows(types.ModuleType):
    LK_NBLCK = 2

    def __init__(self, refusal=None):
        super().__init__("msvcrt")
        self.refusal, self._locks = refusal, {}

    def locking(self, handle, mode, count):
        assert mode == self.LK_NBLCK and count == 1
        if self.refusal is not None:
            raise OSError(self.refusal, os.strerror(self.refusal))
        place = os.fstat(handle).st_ino, os.lseek(handle, 0, os.SEEK_CUR)
        if self.is_locked(place) and self._locks[place] != handle:
            raise OSError(errno.EACCES, "Permission denied")
        self._locks[place] = handle

    def is_locked(self, place):
        """By a handle that is still open, of the same file."""
        try:
            return place in self._locks and os.fstat(self._locks[place]).st_ino == place[0]
        except OSError:
            return False


def on_windows(monkeypatch, module):
    remove = shutil.rmtree

    def remove_all_but_open_ones(folder, ignore_errors):
        lock = folder / ".lock"
        if not (lock.exists() and module.is_locked((lock.stat().st_ino, 0))):
            return remove(folder, ignore_errors=ignore_errors)
        for file in folder.iterdir():
            if file != lock:
                file.unlink()

    monkeypatch.setitem(sys.modules, "fcntl", None)  # ImportError
    monkeypatch.setitem(sys.modules, "msvcrt", module)
    monkeypatch.setattr(writing.shutil, "rmtree", remove_all_but_open_ones)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_writer_that_is_alive_keeps_its_folder(tmp_path, monkeypatch):
    on_windows(monkeypatch, Windows())
    with replacing(tmp_path / "slow") as temporary:
        temporary.write_text("slow")
        write_text(tmp_path / "fast", "fast")
        write_text(tmp_path / "slow", "other")
        assert temporary.read_text() == "slow"
    assert names(tmp_path) == ["fast", "slow"] and (tmp_path / "slow").read_text() == "slow"


def test_what_a_dead_writer_left_goes_with_its_lock(tmp_path, monkeypatch):
    on_windows(monkeypatch, Windows())
    left = tmp_path / ".run.abcdefgh.part"
    left.mkdir()
    (left / ".lock").write_bytes(b"")
    (left / "run").write_bytes(b"half")
    write_text(tmp_path / "other", "")
    assert names(tmp_path) == ["other"]


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EBADF, errno.ENOSYS])
def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch, refusal):
    on_windows(monkeypatch, Windows(refusal))
    left = tmp_path / ".run.abcdefgh.part"
    left.mkdir()
    (left / ".lock").write_bytes(b"")
    write_text(tmp_path / "file", "text")
    assert names(tmp_path) == [left.name, "file"]  # whose writer may be alive: nobody can tell
