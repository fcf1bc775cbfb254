"""CPU seconds of `import tilewright` and `tilewright --help`, each in a fresh process (limit 0.5 s).

python benchmarks/startup.py
"""

import os
import resource
import statistics
import subprocess
import sys

RUNS = 7
COMMANDS = {
    "import tilewright": [sys.executable, "-c", "import tilewright"],
    "tilewright --help": [sys.executable, "-m", "tilewright", "--help"],
    "tilewright simulate --help": [sys.executable, "-m", "tilewright", "simulate", "--help"],
    "tilewright count gpt2-medium": [sys.executable, "-m", "tilewright", "count", "gpt2-medium", "--json"],
}


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    for name, command in COMMANDS.items():
        times = [cpu_seconds(command) for _ in range(RUNS)]
        print(f"{name:32} median {statistics.median(times):.3f} s, worst {max(times):.3f} s of {RUNS}")


if __name__ == "__main__":
    main()
