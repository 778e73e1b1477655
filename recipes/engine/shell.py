"""Runs a recipe from the command line: its flags, and how it ends."""

import contextlib
import gc
import itertools
import os
import signal
import sys
import threading

import tensorflow as tf
from absl import app, flags, logging
from etils import eapp

from keras_hybrid.data import sources
from keras_hybrid.recipes.engine.recipe import Recipe
from keras_hybrid.training import atomic_write, startup

_MISTAKES = ValueError, TypeError, OSError, flags.Error
_LOST_MACHINE = tf.errors.UnavailableError, tf.errors.AbortedError


def run(recipe: Recipe) -> None:
    """Runs a recipe with the flags of the command line.

    An error in a flag or a file, which `recipe.start` finds, ends the process with one
    line instead of a traceback. An error in training is not the user's mistake and keeps
    its traceback, except for those that `_endings_in_one_line` handles.
    """

    def parse(argv):
        with _mistakes_in_one_line():
            if words := _words(argv):
                raise flags.Error(
                    f"Only flags are taken, as --name=value. Received: {' '.join(words)}"
                )
            config = eapp.make_flags_parser(recipe.config, allow_abbrev=False)(argv)
        with startup.without_banners():
            tf.config.list_physical_devices()
        return config

    def main(config):
        logging.set_verbosity(logging.INFO)
        with _endings_in_one_line(config.workdir):
            with _mistakes_in_one_line():
                work = recipe.start(config)
            work()

    gc.freeze()  # The collector then skips imported objects, also when Python exits.
    app.run(main, flags_parser=parse)


def _words(argv):
    """Arguments that are neither flags nor values of a flag, which absl would ignore."""
    return [
        word
        for before, word in itertools.pairwise(argv)
        if not word.startswith("-") and not (before[:2] == "--" and "=" not in before)
    ]


@contextlib.contextmanager
def _mistakes_in_one_line():
    try:
        yield
    except _MISTAKES as error:
        sys.exit(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _endings_in_one_line(directory):
    """Says in one line why a run that had started ends, and how to resume it."""
    how_to_resume = (
        f"The same command resumes after the last finished epoch, if any, in {directory}."
    )
    interrupted = threading.Event()
    try:
        with _ctrl_c_ends_the_run(interrupted):
            yield
    except BaseException as error:
        if interrupted.is_set() or isinstance(error, KeyboardInterrupt):
            logging.info("Interrupted. %s", how_to_resume)
            sys.exit(128 + 2)  # a shell's exit status for SIGINT
        if isinstance(error, FloatingPointError):
            sys.exit(f"{type(error).__name__}: {error}")
        if message := sources.too_many_unreadable(error):
            sys.exit(f"{message} {how_to_resume}")
        if atomic_write.is_full_disk(error):
            sys.exit(f"The disk is full. Make room on it. {how_to_resume}")
        if isinstance(error, _LOST_MACHINE):
            sys.exit(
                "Another machine in TF_CONFIG is gone. Restart all of them. "
                f"{how_to_resume}"
            )
        raise


@contextlib.contextmanager
def _ctrl_c_ends_the_run(interrupted):
    """Sets `interrupted` at Ctrl-C, and lets it end the run wherever it arrives.

    TensorFlow's context managers replace a `KeyboardInterrupt` in them by an error of
    their own. Python passes one raised in finalizers and callbacks of weak references to
    `sys.unraisablehook` and continues.
    """
    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGINT)

    def interrupt(number, frame):
        interrupted.set()
        handler(number, frame)

    def interrupt_again(unraisable):
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # After a delay: an exception raised inside this hook is ignored as well.
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            hook(unraisable)

    if not callable(handler):  # a background shell's processes ignore Ctrl-C
        yield
        return
    sys.unraisablehook = interrupt_again
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = hook
