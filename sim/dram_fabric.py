"""What stands between a kernel and its memory on an FPGA: AXI port, outstanding limit, HBM switch."""

from dataclasses import dataclass

from tilewright.dataflow.errors import InputError
from tilewright.sim.dram_config import DramConfig, fabric_row
from tilewright.sim.dram_service import idle_read_latency_ns, run_class, steady_gb_per_s


@dataclass(frozen=True, slots=True)
class AxiPort:
    """One master port: its width and clock, the bursts it issues and how many it keeps in flight.

    The defaults are what HLS masters issue onto a hardened HBM port: AXI3 bursts of 16 beats (512 bytes at
    256 bits), 16 outstanding. Sources: AMD PG276 (width, 450 MHz), UG1399 (16 outstanding, unverified).
    """

    width_bits: int = 256
    clock_mhz: float = 450.0
    burst_beats: int = 16
    max_outstanding: int = 16

    def __post_init__(self) -> None:
        for name in ("width_bits", "clock_mhz", "burst_beats", "max_outstanding"):
            if not (value := getattr(self, name)) > 0:
                raise InputError(f"AXI port: {name} must be > 0, got {value}")

    @property
    def burst_bytes(self) -> int:
        return self.width_bits // 8 * self.burst_beats

    def peak_gb_per_s(self) -> float:
        return self.width_bits / 8 * self.clock_mhz * 1e-3


def switch_latency_ns(config_name: str, n_switches: int) -> float:
    """Latency that the HBM switch adds on the way to a channel `n_switches` mini switches away.

    The farthest of them is measured; those between are taken in proportion.
    """
    row = fabric_row(config_name)
    if not 0 <= n_switches < row["switches"]:
        raise InputError(f"switch: distance must be in 0..{row['switches'] - 1} switches, got {n_switches}")
    cycles = row["local_cycles"] + row["farthest_cycles"] * n_switches / (row["switches"] - 1)
    return cycles / row["clock_mhz"] * 1e3  # type: ignore[no-any-return]


def port_gb_per_s(
    config_name: str,
    port: AxiPort,
    run_bytes: int,
    is_write: bool,
    random: bool,
    n_switches: int | None = None,
    n_masters: int = 1,
) -> float:
    """Steady bandwidth of one port on one channel: the least of what memory, port and switch allow.

    The bursts in flight cover the latency (Little's law); runs shorter than a burst cut the bursts short.
    `n_switches`: None for a port wired to its channel, else the distance through the switch. A lateral link
    carries the rate of one port and is shared by two masters: `n_masters` (1 or 2) says how many use it at once.
    The clock domains meet in the port: it gives no more than its width times its own clock.
    """
    config = DramConfig.named(config_name)
    if n_switches is not None and not 1 <= n_masters <= fabric_row(config_name)["masters_per_lateral_link"]:
        raise InputError(f"switch: n_masters of a lateral link must be 1 or 2, got {n_masters}")
    memory = steady_gb_per_s(config_name, run_class(config, run_bytes), is_write, random)
    latency_ns = idle_read_latency_ns(config)
    limits = [memory, port.peak_gb_per_s()]
    if n_switches is not None:
        latency_ns += switch_latency_ns(config_name, n_switches)
        if n_switches:
            limits.append(config.peak_gb_per_s / n_masters)
    limits.append(port.max_outstanding * min(port.burst_bytes, run_bytes) / latency_ns)
    return min(limits)
