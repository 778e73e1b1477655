"""Type aliases for what Keras and TensorFlow have no name for."""

from typing import Any

Tensor = Any
"""A tensor of Keras's backend, symbolic or not, or a NumPy array that is converted."""
