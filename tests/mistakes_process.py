"""`python mistakes_process.py`: run the imagenet recipe with several invalid commands.

Reads {name: flags} as JSON from standard input and prints {name: (exit code, stderr)}.
Each command runs in a fork of this process, so that TensorFlow is imported only once.
"""

import gc
import json
import os
import runpy
import sys
import tempfile

import keras_hybrid.recipes.imagenet as recipe


def run_recipe(flags):
    with tempfile.TemporaryFile("w+") as stderr:
        child = os.fork()
        if not child:
            os.dup2(stderr.fileno(), sys.stderr.fileno())
            sys.argv = [recipe.__file__, *flags]
            sys.exit(runpy.run_path(recipe.__file__, run_name="__main__"))
        _, status = os.waitpid(child, 0)
        stderr.seek(0)
        return os.waitstatus_to_exitcode(status), stderr.read()


if __name__ == "__main__":
    mistakes = json.load(sys.stdin)
    gc.freeze()  # spares each fork a garbage collection of the imported modules
    results = {name: run_recipe(flags) for name, flags in mistakes.items()}
    print(json.dumps(results))
