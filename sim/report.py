"""The result of a simulation: figures with units, trees that sum to their totals."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tilewright.sim.version import model_version

if TYPE_CHECKING:
    import pandas as pd

    from tilewright.sim.memory_report import MemoryReport


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A tree of a quantity: a leaf has a value, a node the sum of its children."""

    name: str
    value: float
    children: tuple["Breakdown", ...] = ()

    @staticmethod
    def of(name: str, children: tuple["Breakdown", ...]) -> "Breakdown":
        return Breakdown(name, sum(child.value for child in children), children)

    def to_dict(self) -> dict[str, Any]:
        """Nested {name: value or {...}}; a node carries its own sum as "total"."""
        if not self.children:
            return {self.name: self.value}
        inner: dict[str, Any] = {"total": self.value}
        for child in self.children:
            inner |= child.to_dict()
        return {self.name: inner}


@dataclass(frozen=True, slots=True)
class OperatorReport:
    """One operator (or fused group) of one layer class; cycles are of one layer.

    `start_cycle` and `end_cycle` count from the start of the layer; an operator starts when its first load
    may, which can be long before its turn. `span_cycles` is by how much it lengthens the layer: the spans of a
    layer sum to its latency. `energy_pj` is of one layer, `macs` are those computed, diagonal tiles included.
    """

    name: str
    layer_class: str
    layers: int
    kind: str
    macs: int
    start_cycle: int
    end_cycle: int
    energy_pj: float
    dram_read_bytes: int
    dram_write_bytes: int
    bottleneck: str
    span_cycles: int = 0


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """What a steady state let the engine skip: `skipped` iterations of `loop` at `period_cycles`."""

    nest: str
    loop: str
    period_iterations: int
    period_cycles: int
    skipped: int


@dataclass(frozen=True, slots=True)
class AreaReport:
    """Area of a design: `mm2` on an ASIC; resources and their used fractions on an FPGA."""

    device_class: str  # "asic", "fpga" or "gpu"
    mm2: float | None = None
    lut: int | None = None
    ff: int | None = None
    dsp: int | None = None
    bram36: int | None = None
    uram: int | None = None
    used_fraction: float | None = None  # the largest of the five, shell included
    fractions: tuple[tuple[str, float], ...] = ()
    parts: Breakdown | None = None  # mm2 by component, or LUT by component

    def to_dict(self) -> dict[str, Any]:
        """The figures that apply to the device class, with the parts if they are known."""
        figures = asdict(self)
        figures["fractions"] = dict(self.fractions)
        figures["parts"] = self.parts.to_dict() if self.parts else None
        return {name: figure for name, figure in figures.items() if figure not in (None, {})}


@dataclass(frozen=True, slots=True)
class Report:
    """What `simulate` answers; see docs for each field. Cycles are of the default clock."""

    workload: str
    template: str
    device: str
    parameters: tuple[tuple[str, int | float | str | bool], ...]
    fidelity: str  # "bound" or "tile"
    lowering: str
    latency_cycles: int
    clock_mhz: float
    energy: Breakdown  # pJ by component and action
    area: AreaReport
    dram_read_bytes: int
    dram_write_bytes: int
    utilisation: tuple[tuple[str, float], ...]  # share of latency that a component is busy
    bound_cycles: int
    bottleneck: str
    operators: tuple[OperatorReport, ...] = ()
    extrapolated: tuple[Extrapolation, ...] = ()
    error_fraction: tuple[tuple[str, float | None], ...] = ()  # None: not validated yet
    macs: int = 0  # that the workload asks for
    macs_computed: int = 0  # on arrays and lanes; more where a mask cuts through a tile
    tokens: int = 0  # tokens produced or processed in the step
    peaks: tuple[tuple[str, float], ...] = ()  # macs_per_cycle, dram_bytes_per_cycle: the roofline
    tables: tuple[str, ...] = ()  # names of the energy and area tables used
    provenance: tuple[tuple[str, str], ...] = field(default=())
    model_version: str = field(default_factory=model_version)
    memory: "MemoryReport | None" = None  # by tensor and channel, where it was asked for
    interval_cycles: int | None = None  # of a pipeline: from one input to the next

    @property
    def latency_ms(self) -> float:
        return self.latency_cycles / (self.clock_mhz * 1e3)

    @property
    def energy_pj(self) -> float:
        return self.energy.value

    @property
    def power_w(self) -> float:
        """Mean power over the run."""
        return self.energy_pj * 1e-12 / (self.latency_ms * 1e-3)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the object that `simulate --json` prints."""
        return {
            "workload": self.workload,
            "template": self.template,
            "device": self.device,
            "parameters": dict(self.parameters),
            "fidelity": self.fidelity,
            "lowering": self.lowering,
            "latency_cycles": self.latency_cycles,
            "latency_ms": self.latency_ms,
            "clock_mhz": self.clock_mhz,
            "tokens": self.tokens,
            "macs": self.macs,
            "macs_computed": self.macs_computed,
            "energy_pj": self.energy_pj,
            "energy": self.energy.to_dict(),
            "power_w": self.power_w,
            "area": self.area.to_dict(),
            "dram_bytes": {"read": self.dram_read_bytes, "write": self.dram_write_bytes},
            "utilisation": dict(self.utilisation),
            "bound_cycles": self.bound_cycles,
            "bottleneck": self.bottleneck,
            "per_op": [asdict(operator) for operator in self.operators],
            "extrapolated": [asdict(skip) for skip in self.extrapolated],
            "error_fraction": dict(self.error_fraction),
            "peaks": dict(self.peaks),
            "tables": list(self.tables),
            "model_version": self.model_version,
            "provenance": dict(self.provenance),
        } | self._optional()

    def _optional(self) -> dict[str, Any]:
        """What only some reports have."""
        found: dict[str, Any] = {} if self.memory is None else {"memory": self.memory.to_dict()}
        if self.interval_cycles is not None:
            found["interval_cycles"] = self.interval_cycles
            found["interval_ms"] = self.interval_cycles / (self.clock_mhz * 1e3)
        return found

    def to_frame(self) -> "pd.DataFrame":
        """One row per operator and layer class, the columns of `OperatorReport`."""
        import pandas as pd

        return pd.DataFrame([asdict(operator) for operator in self.operators])
