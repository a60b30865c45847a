"""One point of a sweep, and the arithmetic that follows from its axes alone (standard library only)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from unrollbench import definition
from unrollbench.errors import CaseError

CELLS: dict[str, int] = {"basic_rnn": 1, "gru": 3, "lstm": 4}
"""Built-in cell name -> number of gates, each with one weight matrix of (input + recurrent) rows."""
DEVICES = ("cpu", "cuda")
MODES = ("forward", "train")
EXECUTIONS = ("static", "dynamic", "stepwise", "library")
DTYPES: dict[str, int] = {"float32": 4, "float64": 8}
"""dtype name -> bytes of one element."""
MATMUL_PRECISIONS = ("float32", "tf32")
L2_CACHES = ("hot", "cold")
VARIANT_AXES: tuple[str, ...] = ("backend", "execution", "unroll", "parallel_iterations", "swap_memory")
VARIANT_AXES += ("matmul_precision", "allow_growth")
"""Axes that say how a network is run; all the others say which network it is, on what and with which data."""
DEVICE_AXES = ("matmul_precision", "device_memory_limit", "allow_growth", "l2_cache")
"""Axes of an accelerator: None on the CPU, and left out of JSON where None, as they were before they existed."""
LARGEST_NUMBER = 1e30
"""Cell options stay within +-1e30, so that float32 holds them; nan and infinity are outside."""


@dataclass(frozen=True)
class CellOptions:
    """What TensorFlow 1 passes to a cell's constructor; all but the defaults are for `lstm` only.

    forget_bias is added to the forget gate before its sigmoid; use_peepholes adds diagonal connections from c to the
    gates; cell_clip bounds c, proj_clip the projected output; num_proj projects h from num_units to num_proj.
    """

    forget_bias: float = 1.0
    use_peepholes: bool = False
    cell_clip: float | None = None
    num_proj: int | None = None
    proj_clip: float | None = None


@dataclass(frozen=True)
class Case:
    """One network, run one way. Axis names are those of suite files and of result columns.

    `unroll`, `parallel_iterations` and `swap_memory` are None where they mean nothing (see `canonical`). `num_units` is
    one int for all layers or a tuple with one int per layer. `lengths` is "full" (every row T steps), "uniform" (drawn
    from 1..T with `seed`) or a tuple with each batch row's own length, 0..T.

    Of an accelerator (device "cuda"): `matmul_precision` "tf32" lets float32 products round their operands to TF32's
    ten bits of mantissa; `device_memory_limit` bounds what a program may allocate, an int in bytes or a float as
    a fraction of the device's memory; `allow_growth` False takes all of that, or all that is free, at build, as
    TensorFlow 1 did; `l2_cache` "cold" empties the device's last cache before every timed run.
    """

    backend: str = "numba_cpu"
    device: str = "cpu"
    cell: str = "lstm"
    cell_options: CellOptions = field(default_factory=CellOptions)
    mode: Literal["forward", "train"] = "forward"
    execution: Literal["static", "dynamic", "stepwise", "library"] = "dynamic"
    unroll: int | Literal["full"] | None = 1
    parallel_iterations: int | None = 32
    swap_memory: bool | None = False
    time_major: bool = True
    dtype: Literal["float32", "float64"] = "float32"
    sequence_length: int = 32
    lengths: Literal["full", "uniform"] | tuple[int, ...] = "full"
    batch_size: int = 16
    input_size: int = 64
    num_units: int | tuple[int, ...] = 64
    num_layers: int = 1
    threads: int = 1
    seed: int = 0
    matmul_precision: Literal["float32", "tf32"] | None = "float32"
    device_memory_limit: int | float | None = None
    allow_growth: bool | None = True
    l2_cache: Literal["hot", "cold"] | None = "hot"

    def __post_init__(self) -> None:
        findings = list(_findings(self))
        if findings:
            raise CaseError(findings)

    def canonical(self) -> Case:
        """The same case with axes that mean nothing for it removed, so that equal programs are equal cases."""
        case = self
        if case.execution == "dynamic":
            unroll = case.sequence_length if case.unroll == "full" else case.unroll or 1
            case = replace(case, unroll=unroll, parallel_iterations=case.parallel_iterations or 32)
            case = replace(case, swap_memory=bool(case.swap_memory) if case.mode == "train" else None)
        else:
            case = replace(case, unroll=None, parallel_iterations=None, swap_memory=None)
        if isinstance(case.num_units, tuple) and len(set(case.num_units)) == 1:
            case = replace(case, num_units=case.num_units[0])
        if isinstance(case.lengths, tuple) and set(case.lengths) == {case.sequence_length}:
            case = replace(case, lengths="full")
        return case._on_its_device()

    def _on_its_device(self) -> Case:
        """The case with an accelerator's axes at their defaults where None, and None where they mean nothing."""
        if self.device == "cpu":
            nothing: dict[str, Any] = dict.fromkeys(DEVICE_AXES)
            return replace(self, **nothing)
        case = self
        precision = (case.matmul_precision or "float32") if case.dtype == "float32" else None
        growth = True if case.allow_growth is None else case.allow_growth
        return replace(case, matmul_precision=precision, allow_growth=growth, l2_cache=case.l2_cache or "hot")

    @property
    def network(self) -> Case:
        """The case with every variant axis at its default: equal for cases that may be held against each other."""
        defaults: dict[str, Any] = {f.name: f.default for f in fields(Case) if f.name in VARIANT_AXES}
        return replace(self.canonical(), **defaults)

    @property
    def gates(self) -> int:
        """How many gates a unit of the cell has."""
        return CELLS[self.cell] if self.cell in CELLS else definition.load(self.cell).gates

    @property
    def units(self) -> tuple[int, ...]:
        """num_units of each layer."""
        return self.num_units if isinstance(self.num_units, tuple) else (self.num_units,) * self.num_layers

    @property
    def layer_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(input size, num_units H, output size P) of each layer; P is num_proj where there is a projection."""
        shapes: list[tuple[int, int, int]] = []
        size = self.input_size
        for units in self.units:
            output = self.cell_options.num_proj or units
            shapes.append((size, units, output))
            size = output
        return tuple(shapes)

    @property
    def itemsize_bytes(self) -> int:
        return DTYPES[self.dtype]

    @property
    def flops(self) -> int:
        """Floating-point operations of one run's matrix products, a multiply-add counted as two.

        The gates' element-wise mathematics is left out, as is usual; training counts three times the forward products
        (forward, gradient of the operands, gradient of the weights). Every row counts all T steps, whatever `lengths`.
        """
        gates = self.gates
        per_row = 0
        for inputs, units, outputs in self.layer_shapes:
            per_row += 2 * gates * units * (inputs + outputs)
            per_row += 2 * units * outputs if self.cell_options.num_proj else 0
        forward = per_row * self.sequence_length * self.batch_size
        return 3 * forward if self.mode == "train" else forward

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights and biases in TensorFlow's layout."""
        gates, count = self.gates, 0
        for inputs, units, outputs in self.layer_shapes:
            count += gates * units * (inputs + outputs + 1)
            count += 3 * units if self.cell_options.use_peepholes else 0
            count += units * outputs if self.cell_options.num_proj else 0
        return count * self.itemsize_bytes

    @property
    def activation_bytes(self) -> int:
        """Bytes that back-propagation needs of every step: gates, states and layer outputs; 0 in forward mode."""
        if self.mode == "forward":
            return 0
        kept = {"basic_rnn": 0, "gru": 1, "lstm": 1}  # GRU keeps r*h, LSTM keeps c
        extra = kept[self.cell] if self.cell in kept else definition.load(self.cell).state - 1
        per_row = sum((self.gates + extra) * units + outputs for _, units, outputs in self.layer_shapes)
        per_row += sum(units for _, units, _ in self.layer_shapes) if self.cell_options.num_proj else 0
        return per_row * self.sequence_length * self.batch_size * self.itemsize_bytes

    @property
    def key(self) -> str:
        """A short stable identifier: equal for equal canonical cases, in any process and on any machine."""
        return hashlib.sha256(json.dumps(to_json(self.canonical()), sort_keys=True).encode()).hexdigest()[:16]


def to_json(case: Case) -> dict[str, Any]:
    """The case as plain JSON values; `from_json` returns an equal case."""
    return {name: value for name, value in asdict(case).items() if value is not None or name not in DEVICE_AXES}


def from_json(data: Mapping[str, Any]) -> Case:
    """The case that `to_json` wrote. Raises CaseError on unknown axes or values out of range."""
    values = {**dict.fromkeys(DEVICE_AXES), **data}
    unknown = sorted(set(values) - {f.name for f in fields(Case)})
    if unknown:
        raise CaseError(f"case: unknown axis {name!r}" for name in unknown)
    options = values.get("cell_options")
    if isinstance(options, Mapping):
        values["cell_options"] = CellOptions(**options)
    for name in ("num_units", "lengths"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    limit = values["device_memory_limit"]
    if isinstance(limit, float) and limit > 1 and limit.is_integer():
        values["device_memory_limit"] = int(limit)  # a table with fractions beside it holds bytes as a float
    return Case(**values)


def _is_int(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -LARGEST_NUMBER <= value <= LARGEST_NUMBER  # type: ignore[operator]


def _findings(case: Case) -> Any:
    yield from _choices(case)
    yield from _of_device(case)
    yield from _sizes(case)
    yield from _options(case)


def _choices(case: Case) -> Any:
    for name, allowed in (
        ("device", DEVICES),
        ("cell", tuple(CELLS)),
        ("mode", MODES),
        ("execution", EXECUTIONS),
        ("dtype", tuple(DTYPES)),
    ):
        value = getattr(case, name)
        if name == "cell" and value not in allowed:
            allowed += definition.names()
        if value not in allowed:
            yield f"{name} = {value!r}: expected one of {', '.join(map(repr, allowed))}"
    if not isinstance(case.backend, str) or not case.backend:
        yield f"backend = {case.backend!r}: expected the name of a backend"
    if not isinstance(case.time_major, bool):
        yield f"time_major = {case.time_major!r}: expected true or false"
    if case.swap_memory is not None and not isinstance(case.swap_memory, bool):
        yield f"swap_memory = {case.swap_memory!r}: expected true or false"
    if case.unroll is not None and case.unroll != "full" and not _is_int(case.unroll, 1):
        yield f'unroll = {case.unroll!r}: expected an integer >= 1 or "full"'
    if case.parallel_iterations is not None and not _is_int(case.parallel_iterations, 1):
        yield f"parallel_iterations = {case.parallel_iterations!r}: expected an integer >= 1"


def _of_device(case: Case) -> Any:
    for name, allowed in (("matmul_precision", MATMUL_PRECISIONS), ("l2_cache", L2_CACHES)):
        value = getattr(case, name)
        if value is not None and value not in allowed:
            yield f"{name} = {value!r}: expected one of {', '.join(map(repr, allowed))}"
    if case.allow_growth is not None and not isinstance(case.allow_growth, bool):
        yield f"allow_growth = {case.allow_growth!r}: expected true or false"
    limit = case.device_memory_limit
    # 1 is refused: it equals 1.0, and nobody who writes it means one byte.
    fraction = isinstance(limit, float) and 0 < limit <= 1
    if limit is not None and not fraction and not _is_int(limit, 2):
        expected = "an integer >= 2 of bytes, or a fraction of the device's memory, > 0.0 and <= 1.0"
        yield f"device_memory_limit = {limit!r}: expected {expected}"


def _sizes(case: Case) -> Any:
    for name in ("sequence_length", "batch_size", "input_size", "num_layers", "threads"):
        if not _is_int(getattr(case, name), 1):
            yield f"{name} = {getattr(case, name)!r}: expected an integer >= 1"
    if not _is_int(case.seed, 0):
        yield f"seed = {case.seed!r}: expected an integer >= 0"
    if isinstance(case.num_units, tuple):
        if not case.num_units or not all(_is_int(units, 1) for units in case.num_units):
            yield f"num_units = {list(case.num_units)!r}: expected integers >= 1, one per layer"
        elif len(case.num_units) != case.num_layers:
            yield f"num_units = {list(case.num_units)!r}: expected {case.num_layers} values, one per layer (num_layers)"
    elif not _is_int(case.num_units, 1):
        yield f"num_units = {case.num_units!r}: expected an integer >= 1, or a list with one per layer"
    yield from _lengths(case)


def _lengths(case: Case) -> Any:
    if not isinstance(case.lengths, tuple):
        if case.lengths not in ("full", "uniform"):
            yield f'lengths = {case.lengths!r}: expected "full", "uniform" or a list of integers'
        return
    if not all(_is_int(length, 0) for length in case.lengths):
        yield f"lengths = {list(case.lengths)!r}: expected integers >= 0"
    elif _is_int(case.batch_size, 1) and len(case.lengths) != case.batch_size:
        yield f"lengths: {len(case.lengths)} values: expected one per batch row, batch_size = {case.batch_size}"
    elif _is_int(case.sequence_length, 1) and max(case.lengths, default=0) > case.sequence_length:
        yield f"lengths: {max(case.lengths)}: expected at most sequence_length = {case.sequence_length}"


def _options(case: Case) -> Any:
    options = case.cell_options
    if not isinstance(options, CellOptions):
        yield f"cell_options = {options!r}: expected a table of cell options"
        return
    for f in fields(CellOptions):
        value = getattr(options, f.name)
        if case.cell != "lstm" and value != f.default:
            yield f"cell_options.{f.name} = {value!r}: cell {case.cell!r} has no such option; it belongs to 'lstm'"
    if not _is_number(options.forget_bias):
        yield f"cell_options.forget_bias = {options.forget_bias!r}: expected a finite number"
    if not isinstance(options.use_peepholes, bool):
        yield f"cell_options.use_peepholes = {options.use_peepholes!r}: expected true or false"
    for name in ("cell_clip", "proj_clip"):
        value = getattr(options, name)
        if value is not None and not (_is_number(value) and value > 0):
            yield f"cell_options.{name} = {value!r}: expected a finite number > 0"
    if options.num_proj is not None and not _is_int(options.num_proj, 1):
        yield f"cell_options.num_proj = {options.num_proj!r}: expected an integer >= 1"
    if options.proj_clip is not None and options.num_proj is None:
        yield f"cell_options.proj_clip = {options.proj_clip!r}: has no effect without num_proj; set num_proj too"
