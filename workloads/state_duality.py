"""State spaces with one decay per head (Mamba-2, arXiv 2405.21060): chunks of tokens as products."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Mask
from tilewright.dataflow.tensor import Role
from tilewright.workloads.block import residual
from tilewright.workloads.builder import LayerBuilder, Linear, shifted
from tilewright.workloads.norms import Norm, normalise
from tilewright.workloads.state_space import convolve_causally

_B, _M, _H, _C, _L, _S, _E, _Z = map(Index.of, "bmhclsez")


@dataclass(frozen=True, slots=True)
class ChunkedScan:
    """A layer x += mixer(norm x) whose mixer keeps `head_dim` x `state_width` numbers per head.

    Inputs and read-outs of the states are shared by the heads of each of `n_groups`. Tokens are taken in
    chunks of `chunk`: products within a chunk, states between them. A step of one token is a recurrence.
    The reference makes the products per head and always a whole chunk, and carries states by a product over
    all chunks; it computes them elementwise where `by_element`.
    """

    norm: Norm
    n_heads: int
    head_dim: int
    state_width: int
    n_groups: int
    taps: int
    chunk: int
    function: str
    epsilon: float
    path: str = "mixer"
    bias: bool = False
    conv_bias: bool = True
    by_element: bool = False
    channel: str = "y"

    @property
    def keeps_cache(self) -> bool:
        return True

    @property
    def input_ranks(self) -> tuple[str, ...]:
        return ("b", "m", "d")

    @property
    def inner_width(self) -> int:
        return self.n_heads * self.head_dim

    def declare(self, builder: LayerBuilder) -> None:
        """b, m and d are all that it takes."""

    def fill(self, builder: LayerBuilder, x: str) -> str:
        """Add the layer on x[b, m, d].

        Ranks: `h` head, `e` channel of a head, `z` state, `y` convolved channel, `j` inner channel, `u` tap,
        `c` chunk, `l` and `s` positions in a chunk, `g` group.
        """
        n_convolved = self.inner_width + 2 * self.n_groups * self.state_width
        sizes = {
            "h": self.n_heads, "e": self.head_dim, "z": self.state_width, "j": self.inner_width,
            "u": self.taps, "y": n_convolved, "w": self.inner_width + n_convolved + self.n_heads,
        }  # fmt: skip
        for rank, size in sizes.items():
            builder.rank(rank, size)
        inner = builder.access(normalise(builder, builder.access(x), self.norm))
        all_parts = builder.linear(Linear(f"{self.path}.in_proj", inner, ("w",), ("d",), self.bias))
        gate = Access(all_parts, (_B, _M, Index.of("j")))
        hidden = Access(all_parts, (_B, _M, shifted("y", self.inner_width)))
        steps = Access(all_parts, (_B, _M, shifted("h", self.inner_width + n_convolved)))
        convolved = convolve_causally(builder, self, hidden)
        bias = builder.access(builder.weight(self.path, "dt_bias", ("h",)))
        steps = builder.access(
            builder.pointwise(
                "step_size", "steps", (steps, bias), "softplus", ranks=("b", "m", "h"), group="ssm"
            )
        )
        scanned = _scan(builder, self, convolved, steps)
        y = builder.linear(
            Linear(f"{self.path}.out_proj", _gated(builder, self, scanned, gate), ("d",), ("j",), self.bias)
        )
        return residual(builder, "residual", "y_out", x, y)


def _gated(builder: LayerBuilder, spec: ChunkedScan, scanned: str, gate: Access) -> Access:
    """The scan's result times function(gate), normalised."""
    opened = builder.pointwise(
        "gate_activation", "gate_opened", (gate,), spec.function, ranks=("b", "m", "j"), group="ssm"
    )
    head, channel = IndexTerm("j", 1, spec.head_dim), IndexTerm("j")
    row = Access(
        scanned, (_B, _M, Index((head,)), Index((channel, IndexTerm("j", -spec.head_dim, spec.head_dim))))
    )
    factors = (builder.access(opened), row)
    gated = builder.pointwise("gate", "gated", factors, "mul", group="ssm")
    norm = Norm(f"{spec.path}.norm", "rmsnorm", spec.epsilon, ("j",))
    return builder.access(normalise(builder, builder.access(gated), norm))


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the convolution writes: tokens at an index, per head."""

    tensor: str
    spec: ChunkedScan

    def x(self, token: Index) -> Access:
        return Access(self.tensor, (_B, token, Index((IndexTerm("h", self.spec.head_dim), IndexTerm("e")))))

    def row(self, token: Index, number: int, head: str) -> Access:
        """What goes into the states (0) or reads them (1); `head` is the rank of heads or of groups."""
        spec = self.spec
        n_each = spec.n_heads // spec.n_groups if head == "h" else 1
        offset = spec.inner_width + number * spec.n_groups * spec.state_width
        channel = Index((IndexTerm(head, spec.state_width, n_each), IndexTerm("z")), offset)
        return Access(self.tensor, (_B, token, channel))


def _scan(builder: LayerBuilder, spec: ChunkedScan, convolved: str, steps: Access) -> str:
    """scanned[b, m, h, e] = C h + D x with h = exp(A step) h[m - 1] + step B x, per head."""
    parts, run = _Parts(convolved, spec), builder.run
    decay = builder.access(builder.weight(spec.path, "A_log", ("h",)))
    one = run.cache and run.seq == 1
    y = _step(builder, parts, steps, decay) if one else _chunks(builder, parts, steps, decay)
    skip = builder.access(builder.weight(spec.path, "D", ("h",)))
    terms = (y, parts.x(_M), skip)
    return builder.pointwise("skip", "scanned", terms, "mul_add", ranks=("b", "m", "h", "e"), group="ssm")


def _step(builder: LayerBuilder, parts: _Parts, steps: Access, decay: Access) -> Access:
    """The recurrence of one token."""
    past = builder.access(builder.input("ssm_past", ("b", "h", "e", "z"), Role.STATE))
    fed = builder.pointwise(
        "drive", "drives", (steps, parts.row(_M, 0, "h"), parts.x(_M)), "mul",
        ranks=("b", "m", "h", "e", "z"), group="ssm",
    )  # fmt: skip
    state = builder.tensor("ssm_state", ("b", "h", "e", "z"), Role.STATE)
    last = Access(fed, (_B, Index(), _H, _E, _Z))
    inputs = (past, Access(steps.tensor, (_B, Index(), _H)), decay, last)
    builder.add("recur", Kind.POINTWISE, builder.access(state), inputs, function="exp_mul_add", group="ssm")
    builder.keep(state)
    factors = (builder.access(state), parts.row(_M, 1, "h"))
    ranks = ("b", "m", "h", "e")
    return builder.access(builder.contraction("read_state", "read_out", ranks, factors, "ssm"))


def _chunks(builder: LayerBuilder, parts: _Parts, steps: Access, decay: Access) -> Access:
    """read_out[b, m, h, e] of all tokens, chunk by chunk; keeps the last state."""
    run, spec = builder.run, parts.spec
    reference = run.lowering == "reference"
    chunk = spec.chunk if reference else min(spec.chunk, run.seq)
    n_chunks = -(-run.seq // chunk)
    for rank, size in {"c": n_chunks, "l": chunk, "s": chunk, "g": spec.n_groups}.items():
        builder.rank(rank, size)
    token, source = (Index((IndexTerm("c", chunk), IndexTerm(rank))) for rank in "ls")
    summed = _running_sums(builder, steps, decay, token)
    near = _within(builder, parts, summed, steps, token, source)
    states = _between(builder, parts, summed, steps, token)
    group, ranks = _group(builder, spec), ("b", "c", "l", "h", "e")
    factors = (parts.row(token, 1, "h"), states)
    far = _product(builder, "read_states", "far", ranks, factors, group)
    terms = (builder.access(near), builder.access(far), Access(summed, (_B, _C, _L, _H)))
    output = builder.tensor("read_out", ("b", "m", "h", "e"), Role.ACTIVATION)
    place = Access(output, (_B, token, _H, _E))
    builder.add("chunk_sum", Kind.SCATTER, place, terms, function="scale_add", group="ssm")
    return builder.access(output)


def _group(builder: LayerBuilder, spec: ChunkedScan) -> str:
    """The share of the products; those that the library makes elementwise are none."""
    return "elementwise" if spec.by_element and builder.run.lowering == "reference" else "ssm"


def _product(
    builder: LayerBuilder, name: str, output: str, ranks: tuple[str, ...], factors: tuple[Access, ...],
    group: str, mask: Mask | None = None,
) -> str:  # fmt: skip
    """A sum of products: a contraction, or a reduction where the library multiplies and adds."""
    if group == "elementwise":
        return builder.reduction(name, output, ranks, factors, "sum", function="mul", group="ssm")
    return builder.contraction(name, output, ranks, factors, group, mask=mask)


def _running_sums(builder: LayerBuilder, steps: Access, decay: Access, token: Index) -> str:
    """sums[b, c, l, h] of the exponents A step from the start of a chunk."""
    sums = builder.tensor("decay_sums", ("b", "c", "l", "h"), Role.ACTIVATION)
    before = Access(sums, (_B, _C, shifted("l", -1), _H))
    inputs = (before, Access(steps.tensor, (_B, token, _H)), decay)
    return builder.add(
        "decay_sum", Kind.SCAN, builder.access(sums), inputs, function="mul_add", group="ssm",
        serial_rank="l", parameters=(("init_0", 0.0),),
    )  # fmt: skip


def _within(
    builder: LayerBuilder, parts: _Parts, sums: str, steps: Access, token: Index, source: Index
) -> str:
    """near[b, c, l, h, e]: what tokens of the same chunk, this one included, give."""
    reference = builder.run.lowering == "reference"
    mask = None if reference else Mask("s", "l", upper=0)
    head, group = "h" if reference else "g", _group(builder, parts.spec)
    factors = (parts.row(token, 1, head), parts.row(source, 0, head))
    scores = _product(builder, "chunk_scores", "scores", ("b", "c", head, "l", "s"), factors, group, mask)
    n_each = parts.spec.n_heads // parts.spec.n_groups
    shared = _H if reference else Index((IndexTerm("h", 1, n_each),))
    terms = (
        Access(scores, (_B, _C, shared, _L, _S)), Access(sums, (_B, _C, _L, _H)), Access(sums, (_B, _C, _S, _H)),
        Access(steps.tensor, (_B, source, _H)),
    )  # fmt: skip
    weights = builder.pointwise(
        "chunk_decay", "decayed_scores", terms, "exp_mul", ranks=("b", "c", "h", "l", "s"), group="ssm",
        mask=mask,
    )  # fmt: skip
    factors = (builder.access(weights), parts.x(source))
    return _product(builder, "chunk_mix", "near", ("b", "c", "l", "h", "e"), factors, group, mask)


def _between(builder: LayerBuilder, parts: _Parts, sums: str, steps: Access, token: Index) -> Access:
    """The state [b, c, h, e, z] before each chunk; the one behind the last is kept."""
    spec, run, ranks = parts.spec, builder.run, ("b", "c", "h", "e", "z")
    terms = (parts.x(token), Access(steps.tensor, (_B, token, _H)), Access(sums, (_B, _C, _L, _H)))
    fed = builder.pointwise(
        "chunk_drive", "drives", terms, "exp_mul", ranks=("b", "c", "l", "h", "e"), group="ssm"
    )
    factors = (builder.access(fed), parts.row(token, 0, "h"))
    own = _product(builder, "chunk_states", "own_states", ranks, factors, _group(builder, spec))
    past = []
    if run.cache:
        past = [builder.access(builder.input("ssm_past", ("b", "h", "e", "z"), Role.STATE))]
    n_chunks = builder.size(("c",))
    builder.rank("k", n_chunks + 1)
    states = builder.tensor("states", ("b", "k", "h", "e", "z"), Role.STATE)
    after = Access(sums, (_B, Index(), Index(offset=builder.size(("l",)) - 1), _H))
    k = Index.of("k")
    if run.lowering == "reference":
        _carry_by_product(builder, spec, own, after, past)
    else:
        before = Access(states, (_B, shifted("k", -1), _H, _E, _Z))
        inputs = (before, Access(own, (_B, shifted("k", -1), _H, _E, _Z)), after, *past)
        builder.add(
            "carry", Kind.SCAN, Access(states, (_B, k, _H, _E, _Z)), inputs, function="mul_add", group="ssm",
            serial_rank="k", parameters=(("init_0", 0.0),),
        )  # fmt: skip
    if run.phase != "train":
        kept = builder.tensor("ssm_state", ("b", "h", "e", "z"), Role.STATE)
        last = Access(states, (_B, Index(offset=n_chunks), _H, _E, _Z))
        builder.add("keep_state", Kind.SCATTER, builder.access(kept), (last,), group="kv_cache")
        builder.keep(kept)
    return Access(states, (_B, _C, _H, _E, _Z))


def _carry_by_product(
    builder: LayerBuilder, spec: ChunkedScan, own: str, after: Access, past: list[Access]
) -> None:
    """states[k] = sum over q of decay[q, k] (state before the first chunk, then the chunks' own)[q]."""
    builder.rank("q", builder.size(("k",)))
    decays = builder.pointwise(
        "carry_decay", "carry_decays", (after,), "exp_sum", ranks=("b", "q", "k", "h"), group="ssm"
    )
    chain = builder.tensor("chain", ("b", "q", "h", "e", "z"), Role.ACTIVATION)
    place = Access(chain, (_B, shifted("c", 1), _H, _E, _Z))
    builder.add("chain_states", Kind.SCATTER, place, (builder.access(own), *past), group="ssm")
    factors = (builder.access(decays), builder.access(chain))
    by_element = _group(builder, spec) == "elementwise"
    builder.add(
        "carry", Kind.REDUCTION if by_element else Kind.CONTRACTION, builder.access("states"), factors,
        function="mul", reduce="sum", group="ssm",
    )  # fmt: skip
