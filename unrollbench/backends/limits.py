"""What each framework cannot run exactly: pure functions from a case to a reason, which need no framework installed."""

from __future__ import annotations

from unrollbench.case import CELLS, DEVICES, Case

_ALLOCATOR = "torch's allocator takes a device's memory as it is needed; it has no allow_growth = false"


def tensorflow(case: Case) -> str | None:
    """Why TensorFlow 1's own functions cannot run the case, or None."""
    if case.execution == "library":
        return _unknown(case, "tensorflow") or _block_lstm(case)
    if case.execution == "stepwise" and case.mode == "train":
        return "session.run keeps no activations between calls, so a loop over session.run has no backward pass"
    return _unknown(case, "tensorflow") or _unroll(case, "tf.nn.dynamic_rnn")


def keras(case: Case) -> str | None:
    """Why a Keras recurrent layer on TensorFlow cannot run the case, or None."""
    return _unknown(case, "keras") or _keras_layer(case) or _loop(case, "a Keras layer")


def jax(case: Case) -> str | None:
    """Why JAX cannot run the case, or None; whether it has a GPU here is the backend's to say."""
    if case.execution == "library":
        return (
            "JAX has no recurrent operator that owns its loop on the CPU; jax.experimental.rnn, cuDNN's and for GPUs "
            "only, is not driven here"
        )
    return _unknown(case, "jax", DEVICES) or _windows(case, "lax.scan") or _jax_on_cuda(case.canonical())


def torch(case: Case) -> str | None:
    """Why PyTorch cannot run the case, or None; whether it has `scan` and a GPU here is the backend's to say."""
    if case.canonical().allow_growth is False:
        return _ALLOCATOR
    if case.execution == "library":
        return _unknown(case, "torch", DEVICES) or _torch_library(case)
    if case.execution == "dynamic" and case.mode == "train":
        return "torch.compile computes wrong gradients of scan (pytorch issue 153679, seen with torch 2.13)"
    return _unknown(case, "torch", DEVICES) or _loop(case, "torch's scan operator")


def onnx(case: Case) -> str | None:
    """Why ONNX Runtime cannot run the case, or None."""
    if case.mode == "train":
        return "ONNX Runtime runs inference only; it has no backward pass"
    if case.execution == "library":
        return _unknown(case, "onnx") or _onnx_library(case)
    return _unknown(case, "onnx") or _loop(case, "ONNX Scan")


def openvino(case: Case) -> str | None:
    """Why OpenVINO cannot run the case, or None."""
    if case.mode == "train":
        return "OpenVINO runs inference only; it has no backward pass"
    if case.dtype != "float32":
        return "OpenVINO's CPU plugin computes in float32 what is given in float64"
    if case.execution == "library":
        return _unknown(case, "openvino") or _openvino_library(case)
    return _unknown(case, "openvino") or _openvino_loop(case)


def flashrnn(case: Case) -> str | None:
    """Why FlashRNN's fused CUDA kernel cannot run the case, or None; what fits the GPU is the backend's to say."""
    reason = _flashrnn(case, "flashrnn")
    if reason is None and case.canonical().matmul_precision != "tf32":
        return "FlashRNN's fused kernel multiplies in TF32; set matmul_precision = 'tf32', or take flashrnn_alternating"
    if reason is None and any(units % 16 for units in case.units):
        return f"FlashRNN's fused kernel takes multiples of 16 units, not {_sizes(case)}"
    return reason


def flashrnn_alternating(case: Case) -> str | None:
    """Why FlashRNN's alternating CUDA kernels cannot run the case, or None."""
    reason = _flashrnn(case, "flashrnn_alternating")
    if reason is None and case.canonical().matmul_precision != "float32":
        return "FlashRNN's alternating kernels multiply without TF32; set matmul_precision = 'float32', or flashrnn"
    return reason


def flashrnn_triton(case: Case) -> str | None:
    """Why FlashRNN's Triton kernel cannot run the case, or None."""
    if case.cell == "basic_rnn":
        return "FlashRNN's Triton kernel is one of lstm only"
    reason = _flashrnn(case, "flashrnn_triton")
    if reason is None and not set(case.units) <= {16, 32, 64}:
        return f"FlashRNN's Triton kernel takes 16, 32 or 64 units, not {_sizes(case)}"
    return reason


def _flashrnn(case: Case, name: str) -> str | None:
    missing = _options(case, allowed=())
    reasons = {
        _ALLOCATOR: case.canonical().allow_growth is False,
        "FlashRNN's operator owns its loop: that is execution = 'library'": case.execution != "library",
        "FlashRNN's gru applies the reset gate after the recurrent product, TensorFlow 1's GRUCell before it": (
            case.cell == "gru"
        ),
        "FlashRNN's kernels compute in float32 and below, not in float64": case.dtype != "float32",
        "FlashRNN takes no lengths: every row runs all steps": case.lengths != "full",
        f"FlashRNN's lstm has no {missing}": missing is not None,
    }
    return _unknown(case, name, ("cuda",)) or next((reason for reason, holds in reasons.items() if holds), None)


def _sizes(case: Case) -> str:
    return ", ".join(map(str, dict.fromkeys(case.units)))


def _keras_layer(case: Case) -> str | None:
    if case.execution not in ("static", "dynamic"):
        return (
            f"a Keras layer owns its loop, static (unroll=True) or dynamic (unroll=False); it has no {case.execution}"
        )
    if case.time_major:
        return "Keras layers take batch-major inputs only; set time_major = false"
    missing = _options(case, allowed=())
    return f"Keras's LSTM has no {missing}" if missing else None


def _block_lstm(case: Case) -> str | None:
    if case.cell != "lstm":
        return f"TensorFlow has a fused CPU operator that owns its loop for lstm only (BlockLSTM), none for {case.cell}"
    if case.dtype != "float32":
        return "BlockLSTM is float32 only on the CPU"
    if case.lengths != "full":
        return "BlockLSTM takes one length for the whole batch, not one per row"
    missing = _options(case, allowed=("use_peepholes", "cell_clip"))
    if missing:
        return f"BlockLSTM has no {missing}"
    if case.cell_options.cell_clip is not None and case.mode == "train":
        return "BlockLSTM's gradient ignores cell_clip, tf.nn.rnn_cell.LSTMCell's does not"
    return None


def _torch_library(case: Case) -> str | None:
    if case.cell == "gru":
        return "torch.nn.GRU applies the reset gate after the recurrent product, TensorFlow 1's GRUCell before it"
    missing = _options(case, allowed=("num_proj",))
    if missing:
        return f"torch.nn.LSTM has no {missing}"
    projection = case.cell_options.num_proj
    if projection is not None and projection >= min(case.units):
        return f"torch.nn.LSTM wants proj_size < hidden_size; num_proj = {projection} is not below {min(case.units)}"
    if _has_empty_rows(case):
        return "torch.nn.utils.rnn.pack_padded_sequence wants every length to be at least 1"
    return None


def _onnx_library(case: Case) -> str | None:
    if case.dtype != "float32":
        return "ONNX Runtime's fused RNN, GRU and LSTM are float32 only on the CPU"
    if _has_empty_rows(case):
        return "ONNX Runtime's fused operators return zeros, not the initial state, for a row of length 0"
    missing = _options(case, allowed=("use_peepholes",))
    if missing == "cell_clip":
        return "the ONNX LSTM's clip bounds the gates' inputs, TensorFlow's cell_clip bounds c"
    return f"the ONNX LSTM operator has no {missing}" if missing else None


def _openvino_library(case: Case) -> str | None:
    if _has_empty_rows(case):
        return "OpenVINO's sequence operators return zeros, not the initial state, for a row of length 0"
    missing = _options(case, allowed=())
    return f"OpenVINO's LSTMSequence has no {missing}" if missing else None


def _openvino_loop(case: Case) -> str | None:
    if case.execution == "static":
        return "OpenVINO puts copies of a step together again, so that a graph of them need not run unrolled"
    if case.execution == "stepwise":
        return "this backend gives OpenVINO whole sequences only"
    plain = case.cell == "lstm" and case.num_layers == 1 and case.lengths == "full"
    if plain and _options(case, allowed=()) is None:
        return "OpenVINO rewrites a loop over one plain LSTM into its LSTMSequence; that is execution = 'library'"
    return _loop(case, "OpenVINO's TensorIterator")


def _has_empty_rows(case: Case) -> bool:
    return isinstance(case.lengths, tuple) and min(case.lengths) == 0


def _jax_on_cuda(case: Case) -> str | None:
    if case.allow_growth is False or case.device_memory_limit is not None:
        return (
            "JAX's client takes its memory settings from the environment only; leave allow_growth and the limit alone"
        )
    if case.l2_cache == "cold":
        return "JAX gives no events to time runs by, and a flush of the L2 cache between them cannot be left out"
    return None


def _unknown(case: Case, name: str, devices: tuple[str, ...] = ("cpu",)) -> str | None:
    """Why no execution of this backend takes the case at all."""
    if case.device not in devices:
        return f"backend {name!r} drives device {devices[0]!r} only, not {case.device!r}"
    if case.cell not in CELLS:
        return f"backend {name!r} has its own equations for {', '.join(CELLS)}, none for {case.cell}"
    return None


def _loop(case: Case, loop: str) -> str | None:
    return _unroll(case, loop) or _windows(case, loop)


def _unroll(case: Case, loop: str) -> str | None:
    if case.execution == "dynamic" and case.canonical().unroll != 1:
        return f"{loop} has no partial unroll; set unroll = 1, or execution = 'static'"
    return None


def _windows(case: Case, loop: str) -> str | None:
    canonical = case.canonical()
    if canonical.parallel_iterations not in (None, 32):
        return f"{loop} has no parallel_iterations to set; leave it at 32, its default"
    if canonical.swap_memory:
        return f"{loop} has no swap_memory"
    return None


def _options(case: Case, allowed: tuple[str, ...]) -> str | None:
    """The cell options in use that are not allowed, as words; None if there are none."""
    options = case.cell_options
    used = {
        "use_peepholes": options.use_peepholes,
        "cell_clip": options.cell_clip is not None,
        "num_proj": options.num_proj is not None,
        "proj_clip": options.proj_clip is not None,
    }
    return ", ".join(name for name, on in used.items() if on and name not in allowed) or None
