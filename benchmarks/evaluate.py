"""CPU time of one evaluation: schedule, mapping, simulation, energy and area, for designs never seen before.

    python benchmarks/evaluate.py [designs]

Limits: a tile evaluation of one GPT-2 medium layer 20 ms a design, the bound 1 ms, and at most 1.5 times the
cost at 8192 tokens of that at 512. Every line draws its own designs from the whole space of the device and
keeps those that fit; kernels are compiled and the memory's tables filled with others before the clock starts.
"""

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import LayerClass, Network
from tilewright.sim.architecture import Architecture, Dram
from tilewright.sim.area import area_of, check_fits
from tilewright.sim.bound import design_bound
from tilewright.sim.design import Design
from tilewright.sim.device import device_named
from tilewright.sim.evaluate import evaluate
from tilewright.sim.placed_residents import check_placed
from tilewright.sim.sequential import Sequential
from tilewright.sim.space import Value
from tilewright.sim.technology import resolve_table
from tilewright.workloads.workload import load_workload

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "gpt2_medium"
DEVICES = ("u280", "asic7")
LENGTHS = (512, 2048, 8192)
MODES = ("unmerged", "merged", "none")


def network(seq: int, phase: str = "prefill", mode: str = "none", model: Path = EXAMPLES) -> Network:
    return load_workload(
        model,
        adapter=None if mode == "none" else EXAMPLES / "lora_r16_attention",
        adapter_mode="unmerged" if mode == "none" else mode,
        phase=phase,
        seq=seq if phase == "prefill" else 1,
        cache=0 if phase == "prefill" else seq - 1,
    ).network


def designs(device: str, networks: tuple[Network, ...], n: int, seed: int) -> list[dict[str, Value]]:
    """`n` random points of the space that fit on the device, with room for `networks` where they place them."""
    space = Sequential().space(device_named(device))
    draw = random.Random(seed)
    found: list[dict[str, Value]] = []
    while len(found) < n:
        parameters = {one.name: draw.choice(one.values) for one in space.parameters}
        architecture = built(device, parameters)
        (dram,) = architecture.of_kind(Dram)
        try:
            check_fits(area_of(architecture, device_named(device)), device_named(device))
            for layers in networks:
                check_placed(layers, dram)
        except InputError:
            continue
        found.append(parameters)
    return found


def built(device: str, parameters: dict[str, Value]) -> Architecture:
    return Sequential().build(parameters, device_named(device))


def costs_ms(work: Callable[[dict[str, Value]], object], points: list[dict[str, Value]]) -> list[float]:
    """CPU milliseconds of `work` on every design."""
    found = []
    for parameters in points:
        start = time.process_time()
        work(parameters)
        found.append(1e3 * (time.process_time() - start))
    return found


def measure(
    name: str,
    work: Callable[[dict[str, Value]], object],
    device: str,
    n: int,
    seed: int,
    networks: tuple[Network, ...],
) -> float:
    """Print and return the mean over `n` designs, after as many others to warm up."""
    costs_ms(work, designs(device, networks, n, seed + 1000))
    costs = costs_ms(work, designs(device, networks, n, seed))
    mean, worst = statistics.mean(costs), sorted(costs)[round(0.95 * (n - 1))]
    print(f"{name:44} mean {mean:7.2f} ms   median {statistics.median(costs):7.2f}   95 % {worst:7.2f}")
    return mean


def block(layers: Network) -> Network:
    """One layer of the repeated class."""
    repeated = max(layers, key=lambda layer: layer.count)
    return (LayerClass(repeated.name, repeated.graph, 1),)


def tile(device: str, *networks: Network) -> Callable[[dict[str, Value]], None]:
    def work(parameters: dict[str, Value]) -> None:
        for layers in networks:
            evaluate(layers, Design("sequential", device, parameters))

    return work


def bound(device: str, layers: Network) -> Callable[[dict[str, Value]], None]:
    known = device_named(device)

    def work(parameters: dict[str, Value]) -> None:
        design_bound(layers, built(device, parameters), known, resolve_table(known))

    return work


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    one = block(network(512))
    phases = (("prefill", 512), ("decode", 1024))
    six = [network(length, phase, mode) for phase, length in phases for mode in MODES]
    for seed, device in enumerate(DEVICES):
        measure(f"{device}: one layer, prefill 512, tile", tile(device, one), device, n, 10 * seed, (one,))
        measure(
            f"{device}: one layer, prefill 512, bound", bound(device, one), device, n, 10 * seed + 1, (one,)
        )
        all_six = tile(device, *six)
        measure(f"{device}: six workloads of the example, tile", all_six, device, n, 10 * seed + 2, (*six,))
    show_growth(n)


def show_growth(n: int) -> None:
    """One layer at growing lengths; positions are widened, which changes nothing else in a layer."""
    with tempfile.TemporaryDirectory() as folder:
        config = json.loads((EXAMPLES / "config.json").read_text(encoding="utf-8"))
        config |= {"n_positions": max(LENGTHS), "n_ctx": max(LENGTHS)}
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        means = []
        for length in LENGTHS:
            layer = block(network(length, model=Path(folder)))
            name, work = f"u280: one layer, prefill {length}, tile", tile("u280", layer)
            means.append(measure(name, work, "u280", n, 100, (layer,)))
        print(f"mean at {LENGTHS[-1]} over mean at {LENGTHS[0]}: {means[-1] / means[0]:.2f}")


if __name__ == "__main__":
    main()
