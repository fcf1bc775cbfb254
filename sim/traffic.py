"""Classes of transfers by how they use a memory, and companies of them."""

#: Run lengths that stand for all: what is shorter than three times one of them is of its class. Few classes
#: make few companies, so that a search has soon met all that there are.
CLASS_RUN_BYTES = (128, 1024, 8192)
N_CLASSES = 4 * len(CLASS_RUN_BYTES)
#: A company is a number with so many bits for each class, and of so many transfers at most: more do not turn
#: rows and bus over much more often than these.
COMPANY_BITS = 3
MOST_IN_COMPANY = 4
#: A slowdown of 1 in the engine's table.
UNIT = 1 << 16


def traffic_class(run_bytes: int, is_write: bool, random: bool) -> int:
    """The class of a transfer in runs of `run_bytes`: 0..N_CLASSES - 1."""
    step = sum(run_bytes >= 3 * run for run in CLASS_RUN_BYTES[:-1])
    return 4 * step + 2 * int(is_write) + int(random)


def members(company: int) -> tuple[tuple[int, bool, bool], ...]:
    """(run bytes, is write, random) of a company's transfers, each as often as it is there, by class."""
    found = []
    for one in range(N_CLASSES):
        count = company >> COMPANY_BITS * one & (1 << COMPANY_BITS) - 1
        found += [(CLASS_RUN_BYTES[one // 4], bool(one & 2), bool(one & 1))] * count
    return tuple(found)
