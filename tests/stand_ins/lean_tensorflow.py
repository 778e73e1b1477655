"""TensorFlow without work that only its users need; what ops compute is the same.

- Eager ops run as they are. TensorFlow would make a function of each, which takes it half
  a millisecond for each op that is new, as every variable's is by its name.
- All ops of graphs share one stack trace, which error messages show. TensorFlow would
  walk the stack for each op, and stacks are deep in a test.
- The members of a protocol are looked up once, as in Python 3.12. TensorFlow asks for
  those of tensors whenever it converts something.

Measured one by one, they took up to a seventh, about a tenth and 3 % of a test's time.
"""

import functools
import sys
import typing

from tensorflow.python import pywrap_tfe
from tensorflow.python.util import tf_stack


def switch_on():
    """For this process, before TensorFlow's first op."""
    set_option = pywrap_tfe.TFE_ContextOptionsSetRunEagerOpAsFunction
    stack = tf_stack.extract_stack()

    def set_to_false(options, as_function):
        set_option(options, False)

    pywrap_tfe.TFE_ContextOptionsSetRunEagerOpAsFunction = set_to_false
    tf_stack.extract_stack = lambda stacklevel=1: stack
    if sys.version_info < (3, 12):
        for name in ("_get_protocol_attrs", "_is_callable_members_only"):
            setattr(typing, name, functools.cache(getattr(typing, name)))
