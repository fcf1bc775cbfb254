"""CPU seconds and peak memory of the main job, warm and from an empty kernel cache.

    python benchmarks/demo.py [evaluations] [--cold]

Limits: 1,000 distinct tile evaluations in 90 CPU s with compiled kernels; the parent's peak memory 1 GiB. With
--cold the kernels are compiled into an empty folder first, which is what a first run pays.
"""

import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    numbers = [argument for argument in sys.argv[1:] if argument.isdigit()]
    evaluations = numbers[0] if numbers else "1000"
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        if "--cold" in sys.argv:
            environment |= {"TILEWRIGHT_CACHE": f"{folder}/cache"}
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "tilewright", "codesign", str(ROOT / "examples/gpt2_medium_lora.yaml"),
                   "--out", str(out), "--evaluations", evaluations]  # fmt: skip
        subprocess.run(command, check=True, env=environment)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        store = sqlite3.connect(out / "study.sqlite")
        ((simulated,),) = store.execute("SELECT count(*) FROM evaluation WHERE simulated = 1")
        seconds = used.ru_utime + used.ru_stime
        print(f"{simulated} simulated designs, {seconds:.1f} CPU s, {1e3 * seconds / simulated:.1f} ms each")
        print(f"peak memory of the largest process {used.ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
