"""Several requesters on one DRAM channel, request by request: the arbiter in front of the controller, as kernels.

Every requester has its requests in order, a limit on how many are in flight, and a pace. Each tick the arbiter
lets at most one request into the controller's queues, round robin over the requesters that have one to offer; a
requester keeps its turn for one burst of its port, and a request that finds its queue full holds up those behind
it, as in a trace. A request leaves its slot when it and all before it of the same requester are done and the
answer is back, as under one AXI identifier; a write is done for its requester when the controller has it (it is
posted). The controllers are those of single streams. By themselves they let writes that keep coming starve a few
reads for ever, so the arbiter holds writes up while a read has waited for longer than its patience.
"""

from typing import Any

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at
from tilewright.sim.dram_bank_queues import _WRITES_LEFT_ALONE, _tick
from tilewright.sim.dram_bank_queues import _offer as _offer_bank_queues
from tilewright.sim.dram_clocked import _tick_clocked_bus
from tilewright.sim.dram_frfcfs import _tick_one_bus, _tick_two_buses, accept, begin_tick, end_tick

# Rows of the requesters' table, a column each: next request to be accepted, the end of its requests, the oldest
# one in flight, slots, whether it writes, requests per turn; the least distance of two turns and the instant
# from which the next one may begin, both in ticks * PACE_UNIT.
NEXT, END, OLDEST, SLOTS, KIND, TURN, PACE, DUE = range(8)
N_REQUESTER_ROWS = 8
PACE_UNIT = 1 << 10

# The arbiter: who has the turn and what is left of it, requests accepted so far, ticks of the way back, ticks
# that a read may wait before writes are held up for it.
HOLDER, LEFT, N_ACCEPTED, WAY_BACK, PATIENCE = range(5)
N_ARBITER = 5

# Rows of the accepted requests: those that controllers read (bank, row, burst, is write), and the tick.
ACCEPTED_TICK = 4
N_ACCEPTED_ROWS = 5
UNDONE = -1


@kernel
def _done_tick(out: Any, position: int) -> int:
    """The tick at which an accepted request is done, UNDONE before; joined reads follow the one they joined."""
    done = out[at.DONE, position]
    while done < UNDONE:
        done = out[at.DONE, -2 - done]
    return int(done)


@kernel
def _answer_tick(q: Any, a: Any, out: Any, offered: Any, position: Any, r: int) -> int:
    """The tick at which the answer to the oldest request of `r` is back, NEVER where that is not known yet."""
    p = position[q[OLDEST, r]]
    done = offered[ACCEPTED_TICK, p] if q[KIND, r] else _done_tick(out, p)
    return at.NEVER if done == UNDONE else int(done + a[WAY_BACK])


@kernel
def _ready_tick(q: Any, a: Any, out: Any, offered: Any, position: Any, r: int, now: int, due: int) -> int:
    """The first tick from `due` at which requester `r` has a request to offer, as far as is known; frees slots."""
    answer = -1
    while q[OLDEST, r] < q[NEXT, r]:
        answer = _answer_tick(q, a, out, offered, position, r)
        if answer > now:
            break
        q[OLDEST, r] += 1
    if q[NEXT, r] == q[END, r]:
        return at.NEVER
    return due if q[NEXT, r] - q[OLDEST, r] < q[SLOTS, r] else max(due, answer)


@kernel
def _hungry_read(m: Any, q: Any, a: Any, out: Any, offered: Any, position: Any, now: int) -> bool:
    """Whether the oldest read of some requester has waited for longer than the arbiter's patience."""
    if m[at.SCALAR, at.N_WRITES] == 0:
        return False
    for r in range(q.shape[1]):
        if q[KIND, r] == 0 and q[OLDEST, r] < q[NEXT, r]:
            p = position[q[OLDEST, r]]
            if now - offered[ACCEPTED_TICK, p] > a[PATIENCE] and out[at.DONE, p] == UNDONE:
                return True
    return False


@kernel
def _take_turn(m: Any, q: Any, a: Any, out: Any, offered: Any, position: Any, now: int) -> int:
    """Give the turn to a requester that has something to offer, if any has; the tick at which one will.

    Who has the turn keeps it while something of it is left, unless it has nothing to offer.
    """
    n = q.shape[1]
    wake = at.NEVER
    held = _hungry_read(m, q, a, out, offered, position, now)
    first = a[HOLDER] if a[LEFT] > 0 else a[HOLDER] + 1
    for i in range(n):
        r = (first + i) % n
        goes_on = i == 0 and a[LEFT] > 0
        due = now if goes_on else -(-q[DUE, r] // PACE_UNIT)
        ready = _ready_tick(q, a, out, offered, position, r, now, due)
        if held and q[KIND, r] == 1:
            ready = max(ready, now + 1)
        if ready <= now:
            if not goes_on:
                a[LEFT] = q[TURN, r]
                q[DUE, r] = max(q[DUE, r], now * PACE_UNIT) + q[PACE, r]
            a[HOLDER] = r
            return now
        wake = min(wake, ready)
    return wake


@kernel
def _accept(m: Any, out: Any, q: Any, a: Any, requests: Any, offered: Any, position: Any) -> int:
    """Let one request in, if there is one and its queue has room; the tick at which there may be another."""
    now = m[at.SCALAR, at.CLOCK]
    ready = _take_turn(m, q, a, out, offered, position, now)
    if ready > now:
        return ready
    r = a[HOLDER]
    kind = q[KIND, r]
    if m[at.SCALAR, at.N_READS + kind] >= m[at.FIXED, at.READ_QUEUE + kind]:
        return at.NEVER  # room comes with a command, after which this is asked again
    source = q[NEXT, r]
    p = a[N_ACCEPTED]
    for row in range(4):
        offered[row, p] = requests[row, source]
    offered[ACCEPTED_TICK, p] = now
    position[source] = p
    a[N_ACCEPTED] += 1
    m[at.SCALAR, at.END] = a[N_ACCEPTED]
    a[LEFT] -= 1
    q[NEXT, r] += 1
    return int(now + 1)


@kernel
def _is_over(m: Any, q: Any, until: int) -> bool:
    """Whether all requests are answered, or the clock has come to `until`."""
    if m[at.SCALAR, at.CLOCK] >= until:
        return True
    left = 0
    for r in range(q.shape[1]):
        left += q[END, r] - q[OLDEST, r]
    return bool(left == 0)


@kernel
def _hold(m: Any, now: int, wake: int) -> None:
    """Do not let the clock pass the tick at which the arbiter may act."""
    m[at.SCALAR, at.CLOCK] = min(m[at.SCALAR, at.CLOCK], max(now, wake))


@kernel
def share_two_buses(
    m: Any, out: Any, q: Any, a: Any, requests: Any, offered: Any, position: Any, none: Any, until: int
) -> None:
    """Serve all requesters on a channel with separate command buses, to the end or to tick `until`.

    m, out: a channel. q, a: requesters and arbiter. requests: (4, n), those of a requester side by side.
    offered: (5, n), filled in the order of acceptance. position: (n,), filled. none: (0,).
    """
    while not _is_over(m, q, until):
        wake = _accept(m, out, q, a, requests, offered, position)
        accept(m, out, offered, none, False)
        begin_tick(m)
        now = m[at.SCALAR, at.CLOCK]
        end_tick(m, _tick_two_buses(m, out))
        _hold(m, now, wake)


@kernel
def share_one_bus(
    m: Any, out: Any, q: Any, a: Any, requests: Any, offered: Any, position: Any, none: Any, until: int
) -> None:
    """As `share_two_buses` with one command bus."""
    while not _is_over(m, q, until):
        wake = _accept(m, out, q, a, requests, offered, position)
        accept(m, out, offered, none, False)
        begin_tick(m)
        now = m[at.SCALAR, at.CLOCK]
        end_tick(m, _tick_one_bus(m, out))
        _hold(m, now, wake)


@kernel
def share_clocked_bus(
    m: Any, out: Any, q: Any, a: Any, requests: Any, offered: Any, position: Any, none: Any, until: int
) -> None:
    """As `share_two_buses` with a data clock to be started."""
    while not _is_over(m, q, until):
        wake = _accept(m, out, q, a, requests, offered, position)
        accept(m, out, offered, none, False)
        begin_tick(m)
        now = m[at.SCALAR, at.CLOCK]
        end_tick(m, _tick_clocked_bus(m, out))
        _hold(m, now, wake)


@kernel
def _settle_leftovers(m: Any, out: Any, q: Any, a: Any) -> bool:
    """With nothing else to do, call the writes that never leave the buffer done; whether it came to that."""
    for r in range(q.shape[1]):
        if q[NEXT, r] < q[END, r]:
            return False
    left = m[at.SCALAR, at.N_READS] + m[at.SCALAR, at.N_COMMANDS] + m[at.SCALAR, at.DRAIN_LEFT]
    if left > 0 or m[at.SCALAR, at.N_WRITES] > _WRITES_LEFT_ALONE:
        return False
    for p in range(a[N_ACCEPTED]):
        if out[at.DONE, p] == UNDONE:
            out[at.DONE, p] = m[at.SCALAR, at.CLOCK]
    return True


@kernel
def share_bank_queues(
    m: Any, out: Any, q: Any, a: Any, requests: Any, offered: Any, position: Any, none: Any, until: int
) -> None:
    """As `share_two_buses` with a command queue per bank; writes left in the buffer count as done at the end."""
    while not _is_over(m, q, until):
        wake = _accept(m, out, q, a, requests, offered, position)
        _offer_bank_queues(m, out, offered, none)
        if _settle_leftovers(m, out, q, a):
            return
        m[at.SCALAR, at.WAKE] = at.NEVER
        now = m[at.SCALAR, at.CLOCK]
        if not _tick(m, out):
            soonest = min(m[at.SCALAR, at.WAKE], m[at.SCALAR, at.NEXT_REFRESH])
            for b in range(m[at.FIXED, at.N_BANKS]):
                if m[at.COMMAND_HEAD, b] >= 0:
                    soonest = min(soonest, m[at.BANK_WAKE, b])
            m[at.SCALAR, at.CLOCK] = max(m[at.SCALAR, at.CLOCK], soonest - 1)
        m[at.SCALAR, at.CLOCK] += 1
        _hold(m, now + 1, wake)
