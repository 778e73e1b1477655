"""Writes a file or directory completely, or not at all."""

import contextlib
import errno
import os
import pathlib
import tempfile
from collections.abc import Iterator

PREFIX = ".unfinished-"  # of temporary directories, which a killed process leaves
_DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


@contextlib.contextmanager
def staged(filepath: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, and moves it to `filepath` at the end.

    Missing parent directories are created. If the block raises an exception, an existing
    file or directory stays as it was, and new parent directories are removed.

    Raises:
        OSError: The disk is full, whatever the library that writes raised. The error
            names `filepath`, or the directory of temporary files where that is full.
    """
    filepath = pathlib.Path(filepath).absolute()
    new_parents = [path for path in filepath.parents if not path.exists()]
    try:
        filepath.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=filepath.parent, prefix=PREFIX) as work:
            new, old = pathlib.Path(work, "new"), pathlib.Path(work, "old")
            yield new
            _replace(filepath, new, old)
    except BaseException as error:
        for path in new_parents:
            with contextlib.suppress(OSError):
                path.rmdir()
        if getattr(error, "filename", None) != tempfile.gettempdir():
            _raise_if_full(error, filepath)
        raise


@contextlib.contextmanager
def temporary_directory() -> Iterator[str]:
    """Yields a directory for files that are deleted at the end.

    Raises:
        OSError: The disk of temporary files is full; the error names their directory.
    """
    try:
        with tempfile.TemporaryDirectory() as work:
            yield work
    except BaseException as error:
        _raise_if_full(error, tempfile.gettempdir())
        raise


def _raise_if_full(error, path):
    if is_full_disk(error):
        number = errno.ENOSPC
        raise OSError(number, os.strerror(number), os.fspath(path)) from error


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, such as one of TensorFlow or h5py, says that the disk is full."""
    return getattr(error, "errno", None) in _DISK_FULL or any(
        os.strerror(number) in str(error) for number in _DISK_FULL
    )


def is_pattern(path: str | os.PathLike) -> bool:
    """Whether TensorFlow takes a path to write to for a pattern of several.

    The names of the files of a checkpoint or SavedModel are matched as one, so that those
    of other runs can be deleted in place of it (FileSystem::GetMatchingPaths).
    """
    return not set("*?[\\").isdisjoint(pathlib.Path(path).absolute().as_posix())


def _replace(filepath, new, old):
    """Moves `new` to `filepath`, and a directory that exists there to `old` first."""
    if not filepath.is_dir():
        os.replace(new, filepath)
        return
    os.replace(filepath, old)
    try:
        os.replace(new, filepath)
    except BaseException:
        os.replace(old, filepath)
        raise
