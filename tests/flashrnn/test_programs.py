"""What FlashRNN is given and gives back: its PyTorch code in its kernels' place, and its Triton kernel interpreted."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from unrollbench import reference
from unrollbench.backends.flashrnn_library import ALTERNATING, FUSED, TRITON, FlashLibrary, Kernel
from unrollbench.backends.phases import Phases
from unrollbench.backends.torch_rnn import TorchProgram, cotangents_of, leaves_of
from unrollbench.case import Case, CellOptions
from unrollbench.tensors import draw

SMALL = Case(execution="library", sequence_length=5, batch_size=3, input_size=4, num_units=6).canonical()

NETWORKS: dict[str, dict[str, Any]] = {
    "an LSTM": {},
    "a basic RNN": {"cell": "basic_rnn"},
    "an LSTM in float64": {"dtype": "float64"},
    "two unequal layers": {"num_layers": 2, "num_units": (5, 7), "cell_options": CellOptions(forget_bias=0.25)},
    "one step of one row into one unit": {"sequence_length": 1, "batch_size": 1, "input_size": 1, "num_units": 1},
    "a gate that saturates": {"cell_options": CellOptions(forget_bias=200.0)},
}


def check(case: Case, kernel: Kernel) -> None:
    """The program's results, twice, are the reference's."""
    tensors = draw(case)
    library = FlashLibrary(case, tensors.weights, kernel)
    parts = leaves_of(case, tensors, library), None, cotangents_of(case, tensors, library)
    with closing(TorchProgram(case, library.network, *parts, library, Phases())) as program:
        for _ in range(2):
            program.run()
            program.synchronize()
            reference.check(case, program.outputs(), reference.expected(case, tensors))
        assert program.memory().weight_bytes == case.weight_bytes
        assert program.listing().source.count("FlashRNNConfig(") == case.num_layers


@pytest.mark.parametrize("kernel", [FUSED, ALTERNATING, TRITON], ids=lambda kernel: kernel.backend)
@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("time_major", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_weights_states_and_gradients_are_converted_for_each_kernel_s_layouts(
    network: str, time_major: bool, mode: Any, kernel: Kernel
) -> None:
    case = replace(SMALL, time_major=time_major, mode=mode, **NETWORKS[network])
    check(case, replace(kernel, backend="vanilla"))


# Of FlashRNN's backward pass, and of what its kernel is written in.
@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda':UserWarning")
@pytest.mark.filterwarnings("ignore:tl.make_block_ptr is deprecated:UserWarning")
@pytest.mark.parametrize("axes", [{}, {"time_major": False, "num_layers": 2, "num_units": (16, 32)}])
@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("batch_size", [1, 16, 19])
def test_the_triton_kernel_computes_the_reference_s_results_in_triton_s_interpreter(
    batch_size: int, mode: Any, axes: dict[str, Any]
) -> None:
    check(replace(SMALL, batch_size=batch_size, mode=mode, **{"num_units": 16, **axes}), TRITON)
