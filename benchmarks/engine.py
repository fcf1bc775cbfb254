"""CPU time of the engine on one GPT-2 medium layer with LoRA: compiling the program and running it.

    python benchmarks/engine.py

Each line: the sequence length, nests, leaves, leaves stepped through, then milliseconds of CPU to compile the
program and to run it, best of ten with the kernels compiled.
"""

import time
from collections.abc import Callable

from tilewright.sim.architecture import Dram
from tilewright.sim.device import device_named
from tilewright.sim.dram_service import service_table
from tilewright.sim.engine import compile_program, run
from tilewright.sim.template import template_named
from tilewright.workloads.workload import load_workload

LENGTHS = (512, 1024)
N_ROUNDS = 10


def best_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds of the fastest of a few rounds."""
    found = []
    for _ in range(N_ROUNDS):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found) * 1e3


def main() -> None:
    template, device = template_named("sequential"), device_named("u280")
    architecture = template.build(template.space(device).defaults(), device)
    (dram,) = architecture.of_kind(Dram)
    memory = service_table(dram.config, dram.channels, architecture.clock_mhz)
    print("seq   nests   leaves  stepped  compile ms  run ms")
    for length in LENGTHS:
        workload = load_workload(
            "gpt2-medium", adapter="lora:r=16", phase="prefill", batch=1, seq=length, lowering="hardware"
        )
        graph = max((layer.graph for layer in workload.network), key=lambda graph: len(graph.operators))
        program = template.schedule(graph, architecture)
        tasks = compile_program(program, architecture, memory)
        timing = run(tasks)
        n_leaves = sum(nest.n_leaves for nest in program.nests)
        compile_ms = best_ms(lambda p=program: compile_program(p, architecture, memory))  # type: ignore[misc]
        run_ms = best_ms(lambda t=tasks: run(t))  # type: ignore[misc]
        print(
            f"{length:5} {len(program.nests):5} {n_leaves:8} {timing.n_simulated:8}"
            f" {compile_ms:11.2f} {run_ms:7.2f}"
        )


if __name__ == "__main__":
    main()
