"""The memory model against what was measured on boards: one record per row of a table of measurements."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from tilewright.dataflow.errors import InputError
from tilewright.sim.dram_config import MAPPING_FIELDS, DramConfig
from tilewright.sim.dram_fabric import AxiPort, port_gb_per_s, switch_latency_ns
from tilewright.sim.dram_patterns import size_of
from tilewright.sim.dram_service import STREAM_RUN_BYTES
from tilewright.sim.dram_trace import simulate_trace

COLUMNS = ("device", "op", "other_dims", "metric", "value")
_DEVICES = (("HBM2 on U280", "u280_hbm2"), ("DDR4 on U280", "u280_ddr4"), ("HBM2 on U55C", "u55c_hbm2"))
_BOARDS = {"u50": "u280_hbm2", "u280": "u280_hbm2", "u55c": "u55c_hbm2"}  # U50: the same two-stack part
_CHANNELS = {"u280_hbm2": 32, "u55c_hbm2": 32, "u280_ddr4": 2}
_DEFAULT_POLICY = "rgbcg"
_WINDOW_BYTES = 1 << 28
_N_BURSTS = 20000
_STATES = ("hit", "closed", "miss")


class _Dims(NamedTuple):
    """`other_dims` of a row: name=value pairs, lower case, and the whole text."""

    named: Mapping[str, str]
    text: str

    def size(self, name: str, default: int | None = None) -> int:
        if name in self.named and re.fullmatch(r"\d+[kmg]?b?", self.named[name]):
            return size_of(self.named[name].rstrip("b").upper())
        if default is None or name in self.named:
            raise InputError(f"{name} must be a number of bytes, got {self.named.get(name)!r}")
        return default

    def whole(self, name: str, default: int) -> int:
        text = self.named.get(name, str(default))
        if not text.isdigit() or not int(text):
            raise InputError(f"{name} must be a count from 1 on, got {text!r}")
        return int(text)


def figure_of(row: Mapping[str, str]) -> float:
    """Our figure for a row in its unit (ns, GB/s or a ratio). Raises InputError for what is no memory figure."""
    dims = _dims(row["other_dims"])
    for ending, figure in _FIGURES.items():
        if row["op"] == ending or row["op"].endswith("/" + ending):
            return figure(row, dims)
    raise InputError(f"op {row['op']!r} of {row['device']} is no measurement of a memory")


def _dims(text: str) -> _Dims:
    low = text.lower()
    return _Dims(dict(re.findall(r"(\w+)=(\S+)", low)), low)


def _config_name(row: Mapping[str, str], dims: _Dims) -> str:
    """The configuration of a row's device under its address map."""
    names = [name for start, name in _DEVICES if row["device"].startswith(start)]
    if not names:
        raise InputError(f"device {row['device']!r} has no memory configuration")
    policy = dims.named.get("policy") or dims.named.get("mapping") or dims.named.get("map")
    return _with_policy(names[0], policy or _DEFAULT_POLICY)


def _with_policy(name: str, policy: str) -> str:
    """The configuration with an address map by its usual letters (R, B, C, G for row, bank, column, group)."""
    letters = re.sub(r"[^a-z]", "", policy)
    if letters in (_DEFAULT_POLICY, "default"):
        return name
    return DramConfig.named(f"{name}_{letters}").name


def _latency_ns(row: Mapping[str, str], dims: _Dims) -> float:
    """Idle read: page hit, closed or miss; through the switch where that is on or a distance is given."""
    name = _config_name(row, dims)
    state = next((s for s in _STATES if s in dims.named.get("state", dims.text)), None)
    if state is None:
        raise InputError(f"state must be page_hit, page_closed or page_miss, got {row['other_dims']!r}")
    latency_ns = idle_latency_ns(DramConfig.named(name), state)
    n_switches = _distance(dims)
    return latency_ns if n_switches is None else latency_ns + switch_latency_ns(name, n_switches)


def _distance(dims: _Dims) -> int | None:
    """Switches between port and channel, None where the switch is off."""
    for name in ("distance", "hops", "switches", "switch_distance"):
        if name in dims.named:
            return int(dims.named[name]) if dims.named[name].isdigit() else None
    if "axi_channel" in dims.named and dims.named["axi_channel"].isdigit():
        return abs(int(dims.named["axi_channel"]) - int(dims.named.get("hbm_channel", "0"))) // 4
    if "farthest" in dims.text:
        return 7
    return 0 if dims.named.get("switch") in ("on", "local") or "switch on" in dims.text else None


def idle_latency_ns(config: DramConfig, state: str) -> float:
    """Latency of one read of a bank whose row is open (hit), closed, or another one open (miss), in ns."""
    first = dict.fromkeys(MAPPING_FIELDS, 0)
    second = first | ({"column": 1} if state == "hit" else {"row": 1})
    address = np.array([config.mapping.encode(first), config.mapping.encode(second)])
    closed = simulate_trace(config, address[:1], np.zeros(1, dtype=np.bool_), "single").mean_read_latency_ns
    if state == "closed":
        return closed
    idle_cycles = 4 * config.read_latency_cycles + 200  # long past the first read, long before a refresh
    both = simulate_trace(config, address, np.zeros(2, dtype=np.bool_), ("period", idle_cycles))
    return 2 * both.mean_read_latency_ns - closed


def _bandwidth_gb_per_s(row: Mapping[str, str], dims: _Dims) -> float:
    """Peak, sequential or strided bandwidth of so many channels with a port each."""
    name = _config_name(row, dims)
    n_channels = dims.whole("channels", 1)
    if n_channels > _CHANNELS.get(name, 32):
        raise InputError(f"channels must be at most {_CHANNELS[name]} on {row['device']}, got {n_channels}")
    if "peak" in row["metric"]:
        return n_channels * DramConfig.named(name).peak_gb_per_s
    is_write = "write" in dims.text
    if "stride_b" in dims.named or "burst_b" in dims.named:
        return n_channels * _walk_gb_per_s(name, dims, is_write)
    if "random" in dims.text:
        run_bytes = dims.size("size_b", DramConfig.named(name).transaction_bytes)
        return n_channels * port_gb_per_s(name, _port(name), run_bytes, is_write, True, _distance(dims))
    return n_channels * port_gb_per_s(name, _port(name), STREAM_RUN_BYTES, is_write, False, _distance(dims))


def _port(name: str) -> AxiPort:
    """Full rate: 256 bits at 450 MHz in front of HBM, 512 bits at 300 MHz in front of DDR4."""
    return AxiPort() if "hbm" in name else AxiPort(width_bits=512, clock_mhz=300.0)


def _walk_gb_per_s(name: str, dims: _Dims, is_write: bool) -> float:
    """Accesses of burst_b bytes, stride_b apart, round a window of window_b bytes."""
    config = DramConfig.named(name)
    tx = config.transaction_bytes
    size = max(dims.size("burst_b", tx), tx)
    stride, window = dims.size("stride_b", size), dims.size("window_b", _WINDOW_BYTES)
    if size % tx or stride % tx or window < size or window > config.capacity_bytes:
        raise InputError(f"bursts, strides and windows must be multiples of {tx} bytes, got {dims.text!r}")
    starts = np.arange(-(-_N_BURSTS * tx // size), dtype=np.int64) * stride % window
    address = np.add.outer(starts, np.arange(0, size, tx, dtype=np.int64)).ravel() % window
    rate = simulate_trace(config, address, np.full(address.size, is_write)).bandwidth_gb_per_s
    return min(rate, _port(name).peak_gb_per_s())


def _mapping_ratio(row: Mapping[str, str], dims: _Dims) -> float:
    """Bandwidth under one address map over that under another: `... <map> vs <map>`."""
    name = _config_name(row, dims)
    found = re.search(r"(\w+) vs (?:default )?(\w+)", dims.text)
    if found is None:
        raise InputError(f"address mapping: expected '<map> vs <map>', got {row['other_dims']!r}")
    rates = [
        _walk_gb_per_s(_with_policy(name, policy), dims, "write" in dims.text) for policy in found.groups()
    ]
    return rates[0] / rates[1]


def _buffers_gb_per_s(row: Mapping[str, str], dims: _Dims) -> float:
    """A kernel with a full-rate port for each of its buffers, streaming one pseudo-channel after the other."""
    board = row["device"].lower().split()[-1]
    found = re.match(r"(\d+) buffers?\b", dims.text)
    if board not in _BOARDS or found is None:
        raise InputError(
            f"expected '<n> buffers ...' on one of {', '.join(_BOARDS)}, got {row['other_dims']!r}"
        )
    port = port_gb_per_s(_BOARDS[board], AxiPort(), STREAM_RUN_BYTES, False, False)
    return int(found[1]) * port


_FIGURES: dict[str, Callable[[Mapping[str, str], _Dims], float]] = {
    "dram_latency": _latency_ns,
    "dram_bandwidth": _bandwidth_gb_per_s,
    "dram_address_mapping": _mapping_ratio,
    "vadd": _buffers_gb_per_s,
}
