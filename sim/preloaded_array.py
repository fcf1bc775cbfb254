"""Cycles of a weight-stationary array that loads its next weights while it computes (two registers per PE)."""

from math import prod

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
    own rows, at least `SHORTEST_STEP_CYCLES`. With a single rank of m the steps are padded to whole blocks, as
    matrices are.
    """
    blocks = (
        -(-k_sizes[-1] // array.rows)
        * prod(k_sizes[:-1])
        * -(-n_sizes[-1] // array.cols)
        * prod(n_sizes[:-1])
    )
    whole, rest = divmod(m_sizes[-1], array.rows)
    if len(m_sizes) == 1:
        return blocks * (whole + (rest > 0)) * array.rows
    row_cycles = whole * array.rows + (max(rest, SHORTEST_STEP_CYCLES) if rest else 0)
    first = array.rows if whole else max(rest, SHORTEST_STEP_CYCLES)
    return blocks * (prod(m_sizes[:-1]) * row_cycles + array.rows - first)
