"""Names for types that Keras and TensorFlow have none for."""

from typing import Any

Tensor = Any
"""A tensor of Keras's backend, symbolic or not, or a NumPy array that becomes one."""
