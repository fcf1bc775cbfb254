"""Speed of the memory model in requests per CPU second; run with `python benchmarks/memory.py`."""

import time

import numpy as np

from tilewright.sim.memory import DramConfig, Stream, service_table, simulate_stream, simulate_trace

N_REQUESTS = 1_000_000
CONFIGS = (
    "hbm2_pc_bg",
    "hbm2_ch_bg",
    "hbm2_stack8",
    "hbm3_ch_bg",
    "ddr4_3200",
    "lpddr5_6400",
    "d3_hbm2_pc_bg",
)


def _cpu_seconds(call: object, repeats: int = 3) -> float:
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        call()  # type: ignore[operator]
        best = min(best, time.process_time() - begin)
    return best


def main() -> None:
    begin = time.process_time()
    table = service_table("u280_hbm2", 32, 300.0)
    table.service_cycles(1 << 20, 256, False, False)
    print(f"first service call, compiling if need be: {time.process_time() - begin:.1f} s")
    calls = 200_000
    seconds = _cpu_seconds(lambda: [table.service_cycles(4096 + k, 256, False, False) for k in range(calls)])
    print(f"later service calls: {seconds / calls * 1e6:.2f} us")
    random = np.random.Generator(np.random.PCG64(1))
    print(f"{'config':<16}{'sequential':>14}{'random':>14}   million requests per CPU second")
    for name in CONFIGS:
        config = DramConfig.named(name)
        tx = config.transaction_bytes
        is_write = np.zeros(N_REQUESTS, dtype=np.bool_)
        ordered = np.arange(N_REQUESTS, dtype=np.int64) * tx % config.capacity_bytes
        scattered = random.integers(0, min(config.capacity_bytes, 1 << 30) // tx, N_REQUESTS) * tx
        simulate_trace(config, ordered[:100], is_write[:100])
        rates = [
            N_REQUESTS / _cpu_seconds(lambda a=a, c=config, w=is_write: simulate_trace(c, a, w)) / 1e6
            for a in (ordered, scattered)
        ]
        print(f"{name:<16}{rates[0]:>14.2f}{rates[1]:>14.2f}")
    config = DramConfig.named("hbm2_ch_bg")
    simulate_stream(config, Stream(0, 32, 2000))
    for stride in (32, 64, 192, 4096, 65536):
        for is_write in (False, True):
            stream = Stream(0, stride, 10**9, is_write)
            first = _cpu_seconds(lambda s=stream: simulate_stream(config, s), repeats=1)
            again = _cpu_seconds(lambda s=stream: [simulate_stream(config, s) for _ in range(1000)]) / 1000
            kind = "writes" if is_write else "reads"
            print(f"a billion {kind}, stride {stride}: {first:.2f} s, again {again * 1e6:.1f} us")


if __name__ == "__main__":
    main()
