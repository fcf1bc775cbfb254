"""Measured rows of hardware: what each one ran, as something that a template can run too.

Two kinds of tables: measured operators (columns of `sim/data/gpu_points.csv`) and layers of a Gemmini
(`sim/data/gemmini_points.csv`). A row that cannot be expressed keeps the reason.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewright import hardware_graphs as graphs
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.textfile import read_text
from tilewright.files import MAX_FILE_BYTES
from tilewright.hardware_models import MeasuredModel, check_model
from tilewright.sim.device import devices
from tilewright.sim.systolic_ws_layer import WsLayer, WsTiling, library_tiling

OPERATOR_COLUMNS = ("source", "device", "op", "m", "n", "k", "other_dims", "dtype", "metric", "value", "unit")
LAYER_COLUMNS = (
    "layer_id", "op", "R", "S", "P", "Q", "C", "K", "stride_h", "out_h_executed", "out_w_executed", "mapping_kind",
    "tile_P_cols", "tile_Q_rows", "tile_C", "tile_K", "tile_R", "tile_S", "outer_order_executed", "cycles_measured",
)  # fmt: skip
#: Kernels shorter than this are mostly launch and get sets of their own.
SHORT_US = 100.0
#: The device that measured layers ran on; only its clock and prices, no figure of time, depend on it.
WS_DEVICE = "asic45"
CYCLES = "cycles"
#: What the note of a row says whose time leaves out the launch.
KERNEL_TIME = "profiled kernel time"

#: Names of devices in public measurements, beside our own ids.
_DEVICE_NAMES = {
    "a100": "a100_80gb",
    "nvidia a100-pcie-40gb": "a100_pcie_40gb",
    "nvidia a100 80gb pcie": "a100_pcie_80gb",
    "nvidia a100-sxm4-40gb": "a100_40gb",
    "nvidia a100-sxm4-80gb": "a100_80gb",
    "tesla v100-pcie-32gb": "v100_pcie",
    "tesla v100-pcie-16gb": "v100_pcie",
    "tesla v100-sxm2-32gb": "v100",
    "tesla v100-sxm2-16gb": "v100",
    "tesla t4": "t4",
    "nvidia t4": "t4",
    "tesla p100-pcie-16gb": "p100",
    "nvidia h100 80gb hbm3": "h100",
    "nvidia h100 pcie": "h100_pcie",
    "nvidia h200": "h200",
    "nvidia l4": "l4",
}
_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6, "ns": 1e-3}
_DTYPES = ("fp32", "fp16", "bf16", "int8")
#: Tensors that a map reads, by the name of its measurement, and the function it evaluates.
_MAPS = {
    "add": (2, "add"), "addu": (1, "add"), "mul": (2, "mul"), "mulu": (1, "mul"), "div": (2, "div"),
    "divu": (1, "div"), "pow": (2, "pow"), "powu": (1, "mul"), "relu": (1, "relu"), "tanh": (1, "tanh"),
    "gelu": (1, "gelu"), "silu": (1, "silu"), "exp": (1, "exp"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a Gemmini and the tiling that it ran with."""

    layer: WsLayer
    tiling: WsTiling


@dataclass(frozen=True, slots=True)
class HardwarePoint:
    """One measured row.

    `reference` is in `unit` ("us" or "cycles"), not a number where there is none; `work` is None where
    `skipped_because` says why. `group` is what a fit must not take apart: rows of one layer, or the row itself.
    """

    number: int
    set: str
    source: str
    reference: float
    unit: str
    template: str
    device: str
    work: Graph | Layer | MeasuredModel | None
    precision: str = ""
    group: str = ""
    launched: bool = True  # False: the time of the kernel alone, as a profiler gives it
    is_wrong: bool = False  # a value or unit that means nothing, whatever is modelled
    skipped_because: str | None = None


def read_points(file: Path) -> list[HardwarePoint]:
    """Every row of a table, in order. Raises InputError for a file that is neither kind of table."""
    text = read_text(file, MAX_FILE_BYTES)
    reader = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    columns = reader.fieldnames or ()
    layers = "cycles_measured" in columns
    for column in LAYER_COLUMNS if layers else OPERATOR_COLUMNS:
        if column not in columns:
            raise InputError(f"{file}: column {column!r} is missing")
    parse = _layer_point if layers else _operator_point
    return [
        parse(number, {key: value or "" for key, value in row.items() if key})
        for number, row in enumerate(reader, 1)
    ]


def _layer_point(number: int, row: Mapping[str, str]) -> HardwarePoint:
    chosen = row["mapping_kind"] != "gemmini_default"
    name = "gemmini_mapped" if chosen else "gemmini_default"
    reason, work, reference, is_wrong = None, None, float("nan"), False
    try:
        reference = _positive("cycles_measured", row["cycles_measured"])
    except InputError as error:
        reason, is_wrong = str(error), True
    try:
        work = None if reason else _layer(row, chosen)
    except InputError as error:
        reason = str(error)
    return HardwarePoint(
        number, name, "gemmini", reference, CYCLES, "systolic_ws", WS_DEVICE, work,
        group=row["layer_id"], is_wrong=is_wrong, skipped_because=reason,
    )  # fmt: skip


def _layer(row: Mapping[str, str], chosen: bool) -> Layer:
    if row["op"] not in ("matmul", "conv2d"):
        raise InputError(f"op {row['op']!r} is neither matmul nor conv2d")
    if row["op"] == "matmul":
        layer = WsLayer(True, _whole(row, "P"), 1, _whole(row, "C"), _whole(row, "K"))
    else:
        sizes = ("out_w_executed", "out_h_executed", "C", "K", "R", "S", "stride_h")
        layer = WsLayer(False, *(_whole(row, name) for name in sizes))
    if not chosen:
        return Layer(layer, library_tiling(layer))
    p, q, c, k, r, s = (_whole(row, name) for name in LAYER_COLUMNS[12:18])
    order = tuple(dim.lower() for dim in row["outer_order_executed"] if dim != "N")
    if sorted(order) != sorted("pqckrs"):
        raise InputError(
            f"outer_order_executed {row['outer_order_executed']!r} does not name N, P, Q, C, K, R, S"
        )
    return Layer(layer, WsTiling(p, q, c, k, r, s, order))


def _operator_point(number: int, row: Mapping[str, str]) -> HardwarePoint:
    name = f"{_slug(row['device'])}_{_slug(row['op'])}"
    device = _DEVICE_NAMES.get(row["device"].strip().lower(), row["device"].strip().lower())
    reason, work, reference, is_wrong = None, None, float("nan"), False
    if row["metric"] == "latency":
        try:
            reference = _microseconds(row)
        except InputError as error:
            reason, is_wrong = str(error), True
    else:
        reason = f"metric {row['metric']!r} is no latency of an operator"
    try:
        work = None if reason else _operator_work(row, device)
    except InputError as error:
        reason = str(error)
    if reference < SHORT_US:
        name += "_short"
    return HardwarePoint(
        number, name, row["source"], reference, "us", "gpu_like", device, work, row["dtype"], str(number),
        KERNEL_TIME not in row.get("note", ""), is_wrong, reason,
    )  # fmt: skip


def _microseconds(row: Mapping[str, str]) -> float:
    if row["unit"] not in _MICROSECONDS:
        raise InputError(f"unit {row['unit']!r} is none of {', '.join(_MICROSECONDS)}")
    return _positive("value", row["value"]) * _MICROSECONDS[row["unit"]]


def _operator_work(row: Mapping[str, str], device: str) -> Graph | MeasuredModel:
    if device not in devices() or devices()[device].gpu is None:
        raise InputError(f"device {row['device']!r} is none whose operators are modelled")
    if row["dtype"] not in _DTYPES:
        raise InputError(f"dtype {row['dtype']!r} is none of {', '.join(_DTYPES)}")
    return _model(row) or _operator_graph(row)


#: What the last part of an operator's name says of a whole model, and the phase that it is.
_PHASES = {"_inference_prefill": "prefill", "_train_step": "train"}


def _model(row: Mapping[str, str]) -> MeasuredModel | None:
    """The run of a whole model that a row names, None for a single operator."""
    phase = next((phase for ending, phase in _PHASES.items() if row["op"].endswith(ending)), None)
    if phase is None:
        return None
    dims = _dims(row)
    fused = "-fusion" in row["source"]
    run = MeasuredModel(
        dims.get("model", ""), phase, _whole(dims, "batch"), _whole(dims, "seq"), row["dtype"], fused
    )
    check_model(run)
    return run


def _dims(row: Mapping[str, str]) -> dict[str, str]:
    return dict(part.split("=", 1) for part in row["other_dims"].split() if "=" in part)


def _operator_graph(row: Mapping[str, str]) -> Graph:
    op, dtype = row["op"], row["dtype"]
    dims = _dims(row)
    if op.startswith("llm_layer/"):
        return _llm_graph(op.removeprefix("llm_layer/"), dims, dtype)
    if op in ("matmul", "linear", "bmm"):
        m, n, k = (_whole(row, name) for name in "mnk")
        if op != "matmul":  # (m, n) x (n, k) in the tables' names: n is summed over
            n, k = k, n
        return graphs.product_graph(_whole(dims, "b") if op == "bmm" else 1, m, n, k, dtype)
    if op in ("softmax", "layernorm", "ln"):
        named = "rows" in dims
        rows, columns = (
            _whole(dims if named else row, name) for name in (("rows", "cols") if named else "mn")
        )
        build: Callable[[int, int, str], Graph] = (
            graphs.softmax_graph if op == "softmax" else graphs.layer_norm_graph
        )
        return build(rows, columns, dtype)
    if op in _MAPS:
        elements = (
            _whole(dims, "elements") if "elements" in dims else _whole(dims, "rows") * _whole(dims, "cols")
        )
        n_inputs, function = _MAPS[op]
        return graphs.map_graph(function, n_inputs, elements, dtype)
    raise InputError(f"op {op!r} is no single operator that a template runs on one device")


def _llm_graph(op: str, dims: Mapping[str, str], dtype: str) -> Graph:
    """One operator of a decoder layer, split over `tp` devices; a network without gate is told by its model."""
    tokens, shards, width, wide = (_whole(dims, name) for name in ("tokens", "tp", "n_embd", "n_ffn"))
    heads, kv_heads = _whole(dims, "heads"), _whole(dims, "kv_heads")
    head = width // heads
    gated = "phi" not in dims.get("model", "")
    products = {
        "attn_pre_proj": ((heads + 2 * kv_heads) * head // shards, width),
        "attn_post_proj": (width, width // shards),
        "mlp_up_proj": ((2 if gated else 1) * wide // shards, width),
        "mlp_down_proj": (width, wide // shards),
    }
    if op in products:
        return graphs.product_graph(1, tokens, *products[op], dtype)
    if op == "input_layernorm":
        return graphs.layer_norm_graph(tokens, width, dtype)
    if op == "add":
        return graphs.map_graph("add", 2, tokens * width, dtype)
    if op == "mlp_act":
        return (
            graphs.gated_graph(tokens, wide // shards, dtype)
            if gated
            else graphs.map_graph("gelu", 1, tokens * wide // shards, dtype)
        )
    if op == "attn_rope":
        return graphs.map_graph("rotate", 1, tokens * (heads + kv_heads) * head // shards, dtype)
    raise InputError(f"operator {op!r} of a decoder layer is none that is modelled")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _whole(row: Mapping[str, str], column: str) -> int:
    text = row.get(column, "")
    if not text.isdecimal() or not 0 < int(text) < 1 << 62:
        raise InputError(f"{column} must be a positive whole number, got {text!r}")
    return int(text)


def _positive(column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{column} {text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise InputError(f"{column} must be > 0, got {text}")
    return value


def in_first_half(point: HardwarePoint, points: Sequence[HardwarePoint]) -> bool:
    """Whether a point is in the half that constants are fitted on: groups of even number in order of name, or,
    where every row is a group, of even number in order of appearance."""
    groups = list(dict.fromkeys(one.group for one in points))
    if not all(group.isdecimal() for group in groups):
        groups = sorted(groups)
    return groups.index(point.group) % 2 == 0
