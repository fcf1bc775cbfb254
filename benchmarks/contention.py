"""How far steady rates are from a co-simulation of requesters on one channel, and what either costs.

    python benchmarks/contention.py [companies]

Each line: the memory, requesters, error of the whole company's time, the worst of a single requester's, CPU
seconds of co-simulation and answer. The companies are those of `tilewright validate dram`.
"""

import statistics
import sys
import time

from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_contention import cosimulate, finish_ns
from tilewright.sim.dram_contention_validation import N_DESIGNS, companies


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else N_DESIGNS
    whole, single = [], []
    print("memory          requesters   whole  single   co-simulated s  answered s")
    for number, company in enumerate(companies(n), start=1):
        config = DramConfig.named(company.config)
        start = time.process_time()
        reference = cosimulate(config, company.requesters, company.n_bytes, number).finish_ns
        middle = time.process_time()
        ours = finish_ns(company.config, company.requesters, company.n_bytes)
        end = time.process_time()
        errors = [mine / theirs - 1 for mine, theirs in zip(ours, reference, strict=True)]
        whole.append(abs(max(ours) / max(reference) - 1))
        single += [abs(error) for error in errors]
        print(
            f"{company.config:<16}{len(ours):>10}{100 * whole[-1]:>7.2f} %{100 * max(map(abs, errors)):>6.2f} %"
            f"{middle - start:>15.2f}{end - middle:>12.2f}"
        )
    print(f"whole: mean {100 * statistics.mean(whole):.2f} %, worst {100 * max(whole):.2f} %")
    print(f"single: mean {100 * statistics.mean(single):.2f} %, worst {100 * max(single):.2f} %")


if __name__ == "__main__":
    main()
