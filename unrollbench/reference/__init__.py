"""The oracle: TensorFlow 1's recurrent networks in NumPy float64, forward and backward.

Written from the equations alone, for people to read and for programs to be held against; it shares no code with the
kernels. `equations` has one step of each cell, `network` the time loop, the stack and the lengths, `comparison` says
whether a program's results are right.
"""

from unrollbench.reference.comparison import Expected, check, expected, tolerance
from unrollbench.reference.network import Layer, forward, forward_backward

__all__ = ["Expected", "Layer", "check", "expected", "forward", "forward_backward", "tolerance"]
