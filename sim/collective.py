"""Collectives over links between chips, in cycles: closed forms of a ring."""

from math import ceil

from tilewright.sim.architecture import Link


def ring_all_gather_cycles(link: Link, n_chips: int, n_bytes: int) -> int:
    """Cycles until every chip of a ring holds all `n_bytes`, of which each starts with an equal part.

    n_chips - 1 hops one after another; each moves a part over the link and pays its latency.
    """
    if n_chips == 1:
        return 0
    part = ceil(n_bytes / n_chips)
    return (n_chips - 1) * (link.latency_cycles + ceil(part / link.bytes_per_cycle))
