"""The mapper's kernel: closed-form time and energy of every candidate mapping of one contraction.

All arguments are numbers and arrays; the constants below give the layout of the two parameter vectors that
`sim.mapper` fills. The array's cycles are `sim.arrays`' own closed forms, compiled; the tests hold the sharing of
a product by several arrays to `sim.arrays.leaf_cycles`.
"""

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.kernel import kernel
from tilewright.sim import arrays

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# sizes (int64)
M, N, K, BATCH, A_BITS, B_BITS, OUT_BITS, ACC_BITS, A_ROOM, B_ROOM, C_ELEMENTS, COPIES = range(12)
ROWS, COLS, STATIONARITY, COUNT, OVERLAP, CHANNELS, A_STAYS, M_OUTER, SIDE_BITS = range(12, 21)
# rates (float64): bytes per cycle, cycles, pJ
IN_RATE, OUT_RATE, DRAM_RATE, TRANSFER_CYCLES, VECTOR_START, ARRAY_SCALE = range(6)
A_PORT, B_PORT, C_PORT, DRAM_PJ, BUFFER_PJ, STATIC_PJ, VECTOR_CYCLES, COMPUTED = range(6, 14)

#: What stays on chip: (order, residency of A, residency of B). Order 0 is mnk, 1 is nmk; residency 0 is
#: stream, 1 is panel, 2 is whole.
CONFIGURATIONS = np.array(
    [[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 2], [1, 2, 1], [0, 2, 2], [1, 0, 0]], dtype=np.int64
)
STREAM, PANEL, WHOLE = 0, 1, 2
#: Mappings whose cost differs by less than this share count as equally good, and the other measure decides.
SLACK = 0.01
OBJECTIVE_CODE = {"latency": 0, "energy": 1, "edp": 2}
STATIONARITY_CODE = {"output": 0, "weight": 1, "input": 2}


fold_depth = kernel(arrays.fold_depth)
fold_period = kernel(arrays.fold_period)
own_cycles = kernel(arrays.own_cycles)


@kernel
def array_cycles(
    m: int, n: int, k: int, rows: int, cols: int, stationarity: int, count: int, overlap: int
) -> int:
    """Cycles of one product on `count` arrays that share it (twin of `sim.arrays.leaf_cycles`)."""
    n_widths = -(-n // cols)
    n_heights = -(-m // rows)
    along_n = min(count, n_widths)
    along_m = min(count // along_n, n_heights)
    part_m = min(m, -(-n_heights // along_m) * rows)
    part_n = min(n, -(-n_widths // along_n) * cols)
    if count == 1:
        part_m = m
        part_n = n
    if stationarity == 0:
        folds = -(-part_m // rows) * -(-part_n // cols)
        beats = k
    elif stationarity == 1:
        folds = -(-k // rows) * -(-part_n // cols)
        beats = part_m
    else:
        folds = -(-k // rows) * -(-part_m // cols)
        beats = part_n
    depth = fold_depth(rows, cols, stationarity == 0)
    period = fold_period(beats, rows, depth, stationarity == 0, overlap == 1)
    return int(own_cycles(folds, beats, period, depth))


@kernel
def gemm_compute_cycles(
    m: int, n: int, k: int, m_tile: int, n_tile: int, k_tile: int, sizes: IntArray, transposed: int
) -> int:
    """Array cycles of all leaves of one product, remainders counted as they are."""
    rows, cols = sizes[ROWS], sizes[COLS]
    code, count, overlap = sizes[STATIONARITY], sizes[COUNT], sizes[OVERLAP]
    total = 0
    for last_m in range(2):
        n_m, size_m = m // m_tile, m_tile
        if last_m:
            n_m, size_m = 1, m % m_tile
        if n_m == 0 or size_m == 0:
            continue
        for last_n in range(2):
            n_n, size_n = n // n_tile, n_tile
            if last_n:
                n_n, size_n = 1, n % n_tile
            if n_n == 0 or size_n == 0:
                continue
            for last_k in range(2):
                n_k, size_k = k // k_tile, k_tile
                if last_k:
                    n_k, size_k = 1, k % k_tile
                if n_k == 0 or size_k == 0:
                    continue
                if transposed:
                    cycles = array_cycles(size_n, size_m, size_k, rows, cols, code, count, overlap)
                else:
                    cycles = array_cycles(size_m, size_n, size_k, rows, cols, code, count, overlap)
                total += n_m * n_n * n_k * cycles
    return total


@kernel
def edge_elements(
    m: int, n: int, k: int, m_tile: int, n_tile: int, k_tile: int, sizes: IntArray, transposed: int
) -> tuple[float, float, float]:
    """Elements of A, B and C that pass between buffers and array over a whole product.

    As `sim.arrays.streamed_elements` has it for a full tile, times the tiles.
    """
    rows, cols, code, count = sizes[ROWS], sizes[COLS], sizes[STATIONARITY], sizes[COUNT]
    tm, tn = (n_tile, m_tile) if transposed else (m_tile, n_tile)
    n_widths, n_heights = -(-tn // cols), -(-tm // rows)
    along_n = min(count, n_widths)
    along_m = min(count // along_n, n_heights)
    folds_n = -(-n_widths // along_n)
    part_m = min(tm, -(-n_heights // along_m) * rows)
    folds_k = -(-k_tile // rows)
    rows_side = float(m) * k if not transposed else float(n) * k
    cols_side = float(n) * k if not transposed else float(m) * k
    sums = 1.0
    if code == 0:
        rows_side, cols_side = rows_side * folds_n, cols_side * -(-part_m // rows)
    elif code == 1:
        rows_side, sums = rows_side * folds_n, 2.0 * folds_k - 1.0
    else:
        cols_side, sums = cols_side * -(-part_m // cols), 2.0 * folds_k - 1.0
    # every tile of A meets every tile of n, and the reverse
    rows_side *= -(-n // n_tile) if not transposed else -(-m // m_tile)
    cols_side *= -(-m // m_tile) if not transposed else -(-n // n_tile)
    c = float(m) * n * sums * -(-k // k_tile)
    if transposed:
        return cols_side, rows_side, c
    return rows_side, cols_side, c


@kernel
def operand_traffic(residency: int, outer_trips: int, own_trips: int, k_trips: int) -> tuple[int, int]:
    """(times that the operand is loaded, transfers per batch item) of an operand with `own_trips` tiles.

    `outer_trips` are the tiles of the other operand's rank.
    """
    if residency == WHOLE:
        return 1, 1
    if residency == PANEL:
        return 1, own_trips
    return outer_trips, own_trips * outer_trips * k_trips


@kernel
def fits(
    m_tile: int, n_tile: int, a_elements: int, b_elements: int, configuration: IntArray, sizes: IntArray
) -> bool:
    """Whether a mapping that holds so much of A and of B has room, in the order that its problem asks for."""
    order, a_residency = configuration[0], configuration[1]
    if (sizes[A_STAYS] and a_residency == STREAM) or (sizes[M_OUTER] and order == 1):
        return False
    return bool(
        m_tile * n_tile <= sizes[C_ELEMENTS]
        and a_elements * sizes[A_BITS] <= 8 * sizes[A_ROOM]
        and b_elements * sizes[B_BITS] <= 8 * sizes[B_ROOM]
    )


@kernel
def held_elements(elements: IntArray, own: int, depth: int, residency: int) -> int:
    """Elements of an operand that stay at a time.

    elements: (own tiles + 1, k tiles + 1), the last of each for the whole; `own` and `depth` are positions.
    """
    if residency == WHOLE:
        own = elements.shape[0] - 1
    if residency != STREAM:
        depth = elements.shape[1] - 1
    return int(elements[own, depth])


@kernel
def mapping_cost(
    m_tile: int, n_tile: int, k_tile: int, a_elements: int, b_elements: int, configuration: IntArray,
    compute: float, sizes: IntArray, rates: FloatArray, transposed: int, found: FloatArray,
) -> None:  # fmt: skip
    """Write (cycles, energy_pj, dram_bytes) of a mapping that holds so much of A and of B into `found`.

    Time: the busiest of array, vector unit, DMA and DRAM, plus the first tiles' way in and the last tile's
    way out; without a second copy of the buffers, loading and computing alternate.
    """
    m, n, k, batch = sizes[M], sizes[N], sizes[K], sizes[BATCH]
    a_residency, b_residency = configuration[1], configuration[2]
    a_tile_bytes = a_elements * sizes[A_BITS] / 8.0
    b_tile_bytes = b_elements * sizes[B_BITS] / 8.0
    m_trips, n_trips, k_trips = -(-m // m_tile), -(-n // n_tile), -(-k // k_tile)
    a_times, a_moves = operand_traffic(a_residency, n_trips, m_trips, k_trips)
    b_times, b_moves = operand_traffic(b_residency, m_trips, n_trips, k_trips)
    share = rates[COMPUTED]
    # the last tiles are as much smaller as the ranks have it; windows overlap, so tiles may hold more than A
    a_pieces = (1.0 if a_residency == WHOLE else m / m_tile) * (k / k_tile if a_residency == STREAM else 1.0)
    b_pieces = (1.0 if b_residency == WHOLE else n / n_tile) * (k / k_tile if b_residency == STREAM else 1.0)
    a_bytes = batch * a_times * a_tile_bytes * a_pieces
    b_bytes = batch * b_times * b_tile_bytes * b_pieces
    if a_residency == STREAM:
        a_bytes *= share
    if b_residency == STREAM:
        b_bytes *= share
    out_bytes = batch * share * (m * n * sizes[OUT_BITS] / 8.0)
    side_bytes = batch * (m * n * sizes[SIDE_BITS] / 8.0)
    each = rates[TRANSFER_CYCLES]
    a_cycles = a_bytes / rates[IN_RATE] + each * batch * a_moves * (share if a_residency == STREAM else 1.0)
    b_cycles = b_bytes / rates[IN_RATE] + each * batch * b_moves * (share if b_residency == STREAM else 1.0)
    side_cycles = 0.0
    if side_bytes > 0:
        side_cycles = side_bytes / rates[IN_RATE] + each * batch * m_trips * n_trips
    all_in = a_cycles + b_cycles + side_cycles
    in_cycles = max(max(a_cycles, max(b_cycles, side_cycles)), all_in / sizes[CHANNELS])
    out_cycles = out_bytes / rates[OUT_RATE] + each * batch * m_trips * n_trips * share
    dram_bytes = a_bytes + b_bytes + side_bytes + out_bytes
    dram_cycles = dram_bytes / rates[DRAM_RATE]
    vector_cycles = 0.0
    tail_vector = 0.0
    if rates[VECTOR_CYCLES] > 0:
        vector_cycles = batch * share * (
            rates[VECTOR_CYCLES] * m * n + rates[VECTOR_START] * m_trips * n_trips
        )  # fmt: skip
        tail_vector = rates[VECTOR_CYCLES] * m_tile * n_tile + rates[VECTOR_START]
    a_edge, b_edge, c_edge = edge_elements(m, n, k, m_tile, n_tile, k_tile, sizes, transposed)
    a_edge_bytes = batch * share * a_edge * sizes[A_BITS] / 8.0
    b_edge_bytes = batch * share * b_edge * sizes[B_BITS] / 8.0
    # a leaf that goes on with a tile of sums reads it once more
    c_edge += float(m) * n * (k_trips - 1)
    c_edge_bytes = batch * share * c_edge * sizes[ACC_BITS] / 8.0
    array = compute * batch * share * rates[ARRAY_SCALE]
    array = max(array, max(a_edge_bytes / rates[A_PORT], b_edge_bytes / rates[B_PORT]))
    array = max(array, c_edge_bytes / rates[C_PORT])
    tail = tail_vector + each + m_tile * n_tile * sizes[OUT_BITS] / 8.0 / rates[OUT_RATE]
    first_in = max(a_tile_bytes, b_tile_bytes)
    if sizes[CHANNELS] == 1:
        first_in = a_tile_bytes + b_tile_bytes
    first_in = max(first_in / rates[IN_RATE], (a_tile_bytes + b_tile_bytes) / rates[DRAM_RATE]) + each
    if sizes[COPIES] == 1:
        busy = max(array + in_cycles + vector_cycles, max(out_cycles, dram_cycles))
    else:
        busy = max(max(array, vector_cycles), max(max(in_cycles, out_cycles), dram_cycles))
    cycles = busy + first_in + tail
    buffer_bytes = a_bytes + b_bytes + out_bytes + a_edge_bytes + b_edge_bytes + c_edge_bytes
    energy = dram_bytes * rates[DRAM_PJ] + buffer_bytes * rates[BUFFER_PJ] + cycles * rates[STATIC_PJ]
    found[0] = cycles
    found[1] = energy
    found[2] = dram_bytes


@kernel
def best_mapping(
    m_tiles: IntArray,
    n_tiles: IntArray,
    k_tiles: IntArray,
    a_elements: IntArray,
    b_elements: IntArray,
    sizes: IntArray,
    rates: FloatArray,
    objective: int,
) -> FloatArray:
    """The cheapest mapping: (m_tile, n_tile, k_tile, configuration, transposed, cycles, pJ, DRAM bytes).

    Tiles ascend; `a_elements` and `b_elements` are what `held_elements` takes. m_tile is 0 if no candidate
    fits. Of the mappings within `SLACK` of the least cost the one that is best by the other measure (energy,
    or cycles) is taken, then the one with larger tiles, then the one that is not transposed, then the
    earlier configuration.
    """
    n_configurations = CONFIGURATIONS.shape[0]
    cost = np.full((m_tiles.size, n_tiles.size, k_tiles.size, 2, n_configurations), np.inf)
    second = np.zeros(cost.shape)
    found = np.zeros(3)
    least = np.inf
    for i in range(m_tiles.size):
        for j in range(n_tiles.size):
            if m_tiles[i] * n_tiles[j] > sizes[C_ELEMENTS]:
                break
            for p in range(k_tiles.size):
                tile = m_tiles[i], n_tiles[j], k_tiles[p]
                for turned in range(2):
                    compute = -1
                    for c in range(n_configurations):
                        a_held = held_elements(a_elements, i, p, CONFIGURATIONS[c][1])
                        b_held = held_elements(b_elements, j, p, CONFIGURATIONS[c][2])
                        if not fits(tile[0], tile[1], a_held, b_held, CONFIGURATIONS[c], sizes):
                            continue
                        if compute < 0:
                            compute = gemm_compute_cycles(sizes[M], sizes[N], sizes[K], *tile, sizes, turned)
                        mapping_cost(
                            *tile, a_held, b_held, CONFIGURATIONS[c], compute, sizes, rates, turned, found
                        )
                        value, other = found[0], found[1]
                        if objective == 1:
                            value, other = found[1], found[0]
                        elif objective == 2:
                            value = found[0] * found[1]
                        cost[i, j, p, turned, c] = value
                        second[i, j, p, turned, c] = other
                        least = min(least, value)
    best = np.zeros(8)
    if least == np.inf:
        return best
    best_second = np.inf
    limit = least * (1 + SLACK)
    for i in range(m_tiles.size - 1, -1, -1):
        for j in range(n_tiles.size - 1, -1, -1):
            for p in range(k_tiles.size - 1, -1, -1):
                for turned in range(2):
                    for c in range(n_configurations):
                        if cost[i, j, p, turned, c] <= limit and second[i, j, p, turned, c] < best_second:
                            best_second = second[i, j, p, turned, c]
                            best[0], best[1], best[2] = m_tiles[i], n_tiles[j], k_tiles[p]
                            best[3], best[4] = c, turned
                            a_held = held_elements(a_elements, i, p, CONFIGURATIONS[c][1])
                            b_held = held_elements(b_elements, j, p, CONFIGURATIONS[c][2])
    compute = gemm_compute_cycles(
        sizes[M], sizes[N], sizes[K], int(best[0]), int(best[1]), int(best[2]), sizes, int(best[4])
    )
    mapping_cost(
        int(best[0]), int(best[1]), int(best[2]), a_held, b_held, CONFIGURATIONS[int(best[3])], compute,
        sizes, rates, int(best[4]), found,
    )  # fmt: skip
    best[5], best[6], best[7] = found[0], found[1], found[2]
    return best
