"""First come, first served: who asked earlier is served earlier, of those who asked in one cycle the first listed."""

from collections.abc import Sequence

import pyrtl
from pyrtl import Register, WireVector

from tilewright.hls_templates.rtl.wires import constant


def first_come(requests: Sequence[WireVector], is_free: WireVector) -> list[WireVector]:
    """A grant per request, at most one of them 1, and none unless `is_free`.

    A request stays until it is granted. Each pair has a register that remembers who came first.
    """
    waiting = [Register(1) for _ in requests]
    ahead: dict[tuple[int, int], WireVector] = {}
    for i in range(len(requests)):
        for j in range(i + 1, len(requests)):
            before = Register(1)
            came_first = pyrtl.select(waiting[i], constant(1, 1), ~waiting[j])
            leads = pyrtl.select(waiting[i] & waiting[j], before, came_first)
            before.next <<= leads
            ahead[i, j], ahead[j, i] = leads, ~leads
    grants = []
    for i, request in enumerate(requests):
        grant = request & is_free
        for j, other in enumerate(requests):
            if j != i:
                grant = grant & ~(other & ahead[j, i])
        grants.append(grant)
    for register, request, grant in zip(waiting, requests, grants, strict=True):
        register.next <<= request & ~grant
    return grants
