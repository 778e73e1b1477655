"""Writes a file or directory completely, or not at all."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

PREFIX = ".unfinished-"  # of temporary directories, which a killed process leaves


@contextlib.contextmanager
def staged(filepath: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, and moves it to `filepath` at the end.

    Missing parent directories are created. If the block raises an exception, an existing
    file or directory stays as it was, and new parent directories are removed.
    """
    filepath = pathlib.Path(filepath).absolute()
    new_parents = [path for path in filepath.parents if not path.exists()]
    try:
        filepath.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=filepath.parent, prefix=PREFIX) as work:
            new, old = pathlib.Path(work, "new"), pathlib.Path(work, "old")
            yield new
            _replace(filepath, new, old)
    except BaseException:
        for path in new_parents:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


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
