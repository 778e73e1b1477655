"""`python mistakes_process.py`: ends the imagenet recipe with each of several mistakes.

Takes {name: flags} in JSON from the standard input, and prints {name: (exit code, what
the recipe said)}. TensorFlow, which takes seconds, is imported once: each mistake is made
in a fork of this process, as from a shell otherwise.
"""

import gc
import json
import os
import runpy
import sys
import tempfile

import keras_hybrid.recipes.imagenet as recipe


def made(flags):
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), sys.stderr.fileno())
            sys.argv = [recipe.__file__, *flags]
            sys.exit(runpy.run_path(recipe.__file__, run_name="__main__"))
        _, status = os.waitpid(child, 0)
        said.seek(0)
        return os.waitstatus_to_exitcode(status), said.read()


if __name__ == "__main__":
    mistakes = json.load(sys.stdin)
    gc.freeze()  # or each fork would look for garbage in what is imported
    results = {name: made(flags) for name, flags in mistakes.items()}
    print(json.dumps(results))
