"""How much of a working set a cache misses that replaces lines at random."""

from math import exp

_ROUNDS = 100  # of the fixed point


def miss_fraction(load: float) -> float:
    """Share of visits that miss; `load` is the working set, visited in turn, over the capacity.

    Between two visits of a line a share m of all lines is replaced, each at a random place of its set, so the line
    is still there with probability exp(-m * load): m = 1 - exp(-m * load), which is 0 up to a load of 1.
    """
    if load <= 1:
        return 0.0
    share = 1.0
    for _ in range(_ROUNDS):
        share = 1 - exp(-share * load)
    return share
