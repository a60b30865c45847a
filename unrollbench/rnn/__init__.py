"""TensorFlow 1's recurrent networks: its cells, `static_rnn`, `dynamic_rnn`, and `compile` for programs with gradients.

Names, arguments, defaults, weight layouts and shapes are TensorFlow 1's, arrays are NumPy's: a program of 2017 ports by
changing an import, and its results can be held against TensorFlow number by number. Everything is computed by the
`numba_cpu` backend, or by `numba_cuda` where `compile` was asked for a GPU. What TensorFlow accepts and this does not
(other activations, initializers, concatenated state) is refused by name.
"""

from unrollbench.errors import ArgumentError
from unrollbench.rnn.cell import RNNCell
from unrollbench.rnn.cells import BasicLSTMCell, BasicRNNCell, GRUCell, LSTMCell, MultiRNNCell
from unrollbench.rnn.compilation import compile
from unrollbench.rnn.functions import dynamic_rnn, static_rnn
from unrollbench.rnn.program import Program
from unrollbench.rnn.settings import Gradients
from unrollbench.rnn.state import LSTMStateTuple

__all__ = [
    "ArgumentError",
    "BasicLSTMCell",
    "BasicRNNCell",
    "GRUCell",
    "Gradients",
    "LSTMCell",
    "LSTMStateTuple",
    "MultiRNNCell",
    "Program",
    "RNNCell",
    "compile",
    "dynamic_rnn",
    "static_rnn",
]
