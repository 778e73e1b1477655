"""A file or directory appears whole, or not at all."""

import contextlib
import os
import pathlib
import tempfile

PREFIX = ".unfinished-"  # of the temporary directories that a killed process leaves


@contextlib.contextmanager
def staged(filepath):
    """Yields a path beside `filepath` to write to, and moves it there at the end.

    Missing parents are created. When the block raises, everything is as it was before:
    an existing target, and no new directories.
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
    """Puts `new` at `filepath`; a directory that is there goes to `old` first."""
    if not filepath.is_dir():
        os.replace(new, filepath)
        return
    os.replace(filepath, old)
    try:
        os.replace(new, filepath)
    except BaseException:
        os.replace(old, filepath)
        raise
