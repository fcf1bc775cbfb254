"""Transfers that are in flight together on a group of channels: who they are, and how much longer each takes.

The company of a transfer is how many of each class are in flight on its channels, itself included: a number with
three bits for each class (`sim.traffic`). The kernels know slowdowns as a table of such numbers.
"""

from tilewright.dataflow.kernel import kernel
from tilewright.sim import engine_image as at
from tilewright.sim.engine_image import IntArray
from tilewright.sim.traffic import COMPANY_BITS, MOST_IN_COMPANY, UNIT


@kernel
def _company(image: IntArray, nest: int, traffic: int, at_dram: int) -> int:
    """The company of a transfer of `nest` that reaches the memory at `at_dram`."""
    company = 1 << COMPANY_BITS * traffic
    n = 1
    for i in range(image[at.RUNNING_LIST], image[at.RUNNING_LIST] + image[at.N_RUNNING]):
        other = image[i]
        if (
            image[other + at.SERVED] > at_dram
            and image[other + at.HELD] & image[nest + at.HELD]
            and n < MOST_IN_COMPANY
        ):
            company += 1 << COMPANY_BITS * image[other + at.TRAFFIC]
            n += 1
    return int(company)


@kernel
def _slowdown(image: IntArray, mixes: IntArray, company: int) -> int:
    """The slowdown of a company in UNIT; one that is not known is noted and taken as 1."""
    low, high = 0, mixes.shape[0]
    while low < high:
        middle = (low + high) // 2
        if mixes[middle, 0] < company:
            low = middle + 1
        else:
            high = middle
    if low < mixes.shape[0] and mixes[low, 0] == company:
        return int(mixes[low, 1])
    missing, n = image[at.MISSING_LIST], image[at.N_MISSING]
    for i in range(n):
        if image[missing + i] == company:
            return UNIT
    if n < at.MAX_MISSING:
        image[missing + n] = company
        image[at.N_MISSING] += 1
    return UNIT


@kernel
def serve(image: IntArray, nest: int, traffic: int, service: int, mixes: IntArray) -> int:
    """Let the memory serve a transfer that is granted now; the cycles that it is occupied, `service` or more.

    It waits for every group that its tensor lies on. Of what it takes by itself, the part for which others are
    in flight is slowed down, and as much of the work that waits and was not charged for company yet.
    """
    at_dram = image[at.NOW] + image[nest + at.SETUP]
    free = at_dram
    plain = 0
    group = image[at.GROUPS]
    for g in range(image[at.N_GROUPS]):
        if image[nest + at.HELD] >> g & 1:
            free = max(free, image[group + at.GROUP_FREE])
            plain = max(plain, image[group + at.PLAIN])
        group += at.GROUP_WORDS
    backlog = free - at_dram
    plain = min(plain, backlog)
    left = service
    if backlog > 0 and mixes.shape[0] > 0:
        shared = min(service, backlog)
        slowdown = _slowdown(image, mixes, _company(image, nest, traffic, at_dram))
        left -= shared
        shared += min(shared, plain)
        service += (slowdown - UNIT) * shared // UNIT
        plain = max(0, plain - shared)
    group = image[at.GROUPS]
    for g in range(image[at.N_GROUPS]):
        if image[nest + at.HELD] >> g & 1:
            image[group + at.GROUP_FREE] = free + service
            image[group + at.PLAIN] = plain + left
        group += at.GROUP_WORDS
    image[nest + at.SERVED] = free + service
    image[nest + at.TRAFFIC] = traffic
    return int(service)


@kernel
def save_groups(image: IntArray, saved: IntArray, row: int) -> None:
    """Write the groups to the saved state at `row`."""
    for i in range(image[at.N_GROUPS] * at.GROUP_WORDS):
        saved[row + at.ROW_GROUPS + i] = image[image[at.GROUPS] + i]


@kernel
def groups_alike(image: IntArray, saved: IntArray, row: int, then: int) -> bool:
    """Whether every group has as much to do as it had at `then`, or has been given nothing since (FROZEN)."""
    now = image[at.NOW]
    for g in range(image[at.N_GROUPS]):
        group, old = image[at.GROUPS] + g * at.GROUP_WORDS, row + at.ROW_GROUPS + g * at.GROUP_WORDS
        work = max(0, image[group + at.GROUP_FREE] - now)
        old_work = max(0, saved[old + at.GROUP_FREE] - then)
        same = min(work, image[group + at.PLAIN]) == min(old_work, saved[old + at.PLAIN])
        if work != old_work or not same:
            if image[group + at.GROUP_FREE] != saved[old + at.GROUP_FREE]:
                return False
            image[at.FROZEN] = 1
    return True


@kernel
def served_alike(image: IntArray, saved: IntArray, row: int, word: int, nest: int, stood: bool) -> bool:
    """Whether a running nest's transfer is company to others now as it was in the saved state.

    One that `stood` in its transfer all the time may have become none since, if nobody was there to see it.
    """
    then = saved[row + at.ROW_NOW]
    old = saved[word + at.SERVED]
    if stood:
        for g in range(image[at.N_GROUPS]):
            if old > then and image[nest + at.HELD] >> g & 1:
                place = g * at.GROUP_WORDS + at.GROUP_FREE
                if image[image[at.GROUPS] + place] != saved[row + at.ROW_GROUPS + place]:
                    return False
        return True
    left = max(0, image[nest + at.SERVED] - image[at.NOW])
    alike = left == 0 or image[nest + at.TRAFFIC] == saved[word + at.TRAFFIC]
    return bool(alike and left == max(0, old - then))


@kernel
def shift_groups(image: IntArray, saved: IntArray, row: int, cycles: int) -> None:
    """Move the groups that were given something since `row` was saved on by `cycles`."""
    now, then = image[at.NOW], saved[row + at.ROW_NOW]
    for g in range(image[at.N_GROUPS]):
        group, old = image[at.GROUPS] + g * at.GROUP_WORDS, row + at.ROW_GROUPS + g * at.GROUP_WORDS
        if max(0, image[group + at.GROUP_FREE] - now) == max(0, saved[old + at.GROUP_FREE] - then):
            image[group + at.GROUP_FREE] += cycles
