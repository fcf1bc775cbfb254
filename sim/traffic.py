"""Classes of transfers by how they use a memory, and companies of them."""

#: Run lengths that stand for all; one stands for those from half to twice itself.
CLASS_RUN_BYTES = (64, 256, 1024, 4096, 16384)
N_CLASSES = 4 * len(CLASS_RUN_BYTES)
#: A company is a number with so many bits for each class; so many transfers are told apart at most.
COMPANY_BITS = 3
MOST_IN_COMPANY = (1 << COMPANY_BITS) - 1
#: A slowdown of 1 in the engine's table.
UNIT = 1 << 16


def traffic_class(run_bytes: int, is_write: bool, random: bool) -> int:
    """The class of a transfer in runs of `run_bytes`: 0..N_CLASSES - 1."""
    step = sum(run_bytes >= 2 * run for run in CLASS_RUN_BYTES[:-1])
    return 4 * step + 2 * int(is_write) + int(random)


def members(company: int) -> tuple[tuple[int, bool, bool], ...]:
    """(run bytes, is write, random) of a company's transfers, each as often as it is there, by class."""
    found = []
    for one in range(N_CLASSES):
        count = company >> COMPANY_BITS * one & MOST_IN_COMPANY
        found += [(CLASS_RUN_BYTES[one // 4], bool(one & 2), bool(one & 1))] * count
    return tuple(found)
