"""DRAM as the product sees it: traces and streams in, cycles, latency, row behaviour and energy out.

This module is the face of the memory model; the parts are in the modules named `dram_...`.
"""

from tilewright.sim.dram_config import DramConfig, config_names
from tilewright.sim.dram_energy import DramEnergy, energy_of, energy_pj_per_bit, energy_tree
from tilewright.sim.dram_fabric import AxiPort, port_gb_per_s, switch_latency_ns
from tilewright.sim.dram_service import ServiceTable, idle_read_latency_ns, service_table
from tilewright.sim.dram_stream import Stream, simulate_stream
from tilewright.sim.dram_trace import Load, MemoryResult, simulate_trace

__all__ = [
    "AxiPort",
    "DramConfig",
    "DramEnergy",
    "Load",
    "MemoryResult",
    "ServiceTable",
    "Stream",
    "config_names",
    "energy_of",
    "energy_pj_per_bit",
    "energy_tree",
    "idle_read_latency_ns",
    "port_gb_per_s",
    "service_table",
    "simulate_stream",
    "simulate_trace",
    "switch_latency_ns",
]
