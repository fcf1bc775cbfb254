"""Cycles of a weight-stationary array that loads its next weights while it computes (two registers per PE)."""

from math import ceil, prod

from tilewright.sim.architecture import MatrixArray

#: A step that goes on with the weights of the one before takes at least so many cycles.
SHORTEST_STEP_CYCLES = 4


def leaf_cycles(
    array: MatrixArray, m_sizes: tuple[int, ...], n_sizes: tuple[int, ...], k_sizes: tuple[int, ...]
) -> int:
    """Cycles of one product whose groups of ranks have these sizes, outermost first, operands on chip.

    Weights are cut into blocks of rows x cols along the innermost ranks of k and n. Past every block stream the
    rows of the input, in steps of at most `array.rows` that end where the innermost rank of m does (a row of an
    image). A step that brings new weights takes at least `array.rows` cycles, one that goes on with them its
    own rows, at least `SHORTEST_STEP_CYCLES`. The steps of a block are issued one after another, `issue_cycles`
    apart, under those of the block before. With a single rank of m the steps are padded to whole blocks, as
    matrices are.
    """
    n_blocks = -(-k_sizes[-1] // array.rows) * -(-n_sizes[-1] // array.cols)
    n_blocks *= prod(k_sizes[:-1]) * prod(n_sizes[:-1])
    whole, rest = divmod(m_sizes[-1], array.rows)
    n_steps = prod(m_sizes[:-1]) * (whole + (rest > 0))
    if len(m_sizes) == 1:
        streaming = n_steps * array.rows
    else:
        row_cycles = whole * array.rows + (max(rest, SHORTEST_STEP_CYCLES) if rest else 0)
        first = array.rows if whole else max(rest, SHORTEST_STEP_CYCLES)
        streaming = prod(m_sizes[:-1]) * row_cycles + array.rows - first
    return ceil(n_blocks * max(streaming, n_steps * array.issue_cycles))
