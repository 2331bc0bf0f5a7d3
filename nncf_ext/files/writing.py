"""Files that are there whole or not at all, whoever is killed, and whoever else writes at the same time."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

LEFT = ".part"  # end of the name of a folder that is written in; its name begins with a dot
_LOCK = ".lock"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name for `path`, in a new folder beside it that nobody else has.

    At the end all files in that folder are on disk and move beside `path`, and last of all one replaces `path`; on an error they
    go. What killed writers left in the same place goes first. FileNotFoundError where the folder of `path` is none.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder: cannot write {path.name} there")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: cannot write a file there")
    remove_left(path.parent)
    with _own_folder(path) as folder:
        yield folder / path.name
        files = sorted((f for f in folder.iterdir() if f.name != _LOCK), key=lambda file: file.name == path.name)
        for file in files:
            _on_disk(file)
        for file in files:
            if len(files) > 1 and file.name == path.name:
                _on_disk(path.parent)  # the others have their names before this one speaks of them
            os.replace(file, path.parent / file.name)
        _on_disk(path.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """`Path.write_text` in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def name_beside(temporary: Path, end: str) -> str:
    """A name for a file that goes with the one at a temporary name: no other writer gives it, so that whoever reads the old file
    meanwhile, or after a crash between the two renames, finds what belongs to that."""
    return f"{temporary.name}.{temporary.parent.name.removesuffix(LEFT).rpartition('.')[2]}{end}"


def remove_beside(path: Path, end: str, needed: Callable[[], Collection[str]]) -> None:
    """Remove what `name_beside` named for earlier files at `path`. needed: names that the file which is there now speaks of."""
    for file in path.parent.glob(f"{glob.escape(path.name)}.????????{end}"):
        token = file.name[len(path.name) + 1 : len(path.name) + 9]
        alive = (path.parent / f"{_prefix(path)}{token}{LEFT}").exists()  # asked first: its writer may be about to replace `path`
        with suppress(OSError):
            if not alive and file.name not in needed():
                file.unlink()


def remove_left(folder: Path) -> None:
    """Remove what writers into `folder` that are no longer alive left in it."""
    with suppress(OSError):
        for left in folder.glob(f".*{LEFT}"):
            if left.is_dir() and not left.is_symlink():
                _remove_if_dead(left)


@contextmanager
def _own_folder(path: Path) -> Iterator[Path]:
    with ExitStack() as stack:
        folder, lock = _locked_folder(path)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(lock.close)  # first: where open files cannot be removed
        yield folder


def _prefix(path: Path) -> str:
    return f".{path.name[:100]}."


def _locked_folder(path: Path) -> tuple[Path, IO[bytes]]:
    """A folder with a locked file in it, which tells others that its writer is alive."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path), suffix=LEFT))
        try:
            file = (folder / _LOCK).open("xb")
        except FileNotFoundError:  # somebody took it for one that was left
            continue
        if _locked(file) is not False and (folder / _LOCK).exists():
            return folder, file
        file.close()


def _remove_if_dead(folder: Path) -> None:
    dead = False
    try:
        with (folder / _LOCK).open("rb+") as file:
            dead = _locked(file) is True
            if dead:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # killed before it locked; or, where open files cannot be removed, alive
        with suppress(OSError):
            folder.rmdir()
    if dead:
        shutil.rmtree(folder, ignore_errors=True)  # and the lock, where open files cannot be removed


def _locked(file: IO[bytes]) -> bool | None:
    """Whether the file is now locked by us: until it is closed, or the process ends in whatever way. None where the file system
    knows no locks, so that nobody can tell."""
    try:
        import fcntl
    except ImportError:
        return _locked_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _locked_on_windows(file: IO[bytes]) -> bool | None:
    """The byte at the file's position, beyond its end: that is allowed, and a handle's lock is refused to all others."""
    import msvcrt

    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EDEADLK) else None  # locked by another; other errors: see `_locked`
    return True


def _on_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:  # a file system that knows no such thing
        if not path.is_dir():
            raise
    finally:
        os.close(handle)
