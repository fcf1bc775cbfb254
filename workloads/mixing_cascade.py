"""Attention of a model by a cascade: a text over Q, K and V takes the place of scores, softmax and mixing."""

from collections.abc import Mapping
from dataclasses import replace

from tilewright.dataflow.cascade import Cascade, load_cascade
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Kind, Mask, Operator
from tilewright.dataflow.passes import rename_graph
from tilewright.workloads.builder import LayerBuilder, word
from tilewright.workloads.mixing import Form, Heads

#: Forms that have a name of their own.
CASCADE_BY_FORM = {"one_pass": "attention_one_pass"}

#: Elements of the inner part of a split rank of the keys; a mapping may cut the hardware's tiles otherwise.
TILE = 128

#: The offset that is given: keys that stand before those of the first query.
CACHED = "c"

_RANKS = {
    "Q": ({"b", "h", "m", "e"},),
    "K": ({"b", "hkv", "n", "e"}, {"b", "h", "n", "e"}, {"b", "n", "e"}),
    "V": ({"b", "hkv", "n", "f"}, {"b", "h", "n", "f"}, {"b", "n", "f"}),
    "AV": ({"b", "h", "m", "f"},),
}


def mix_by_cascade(builder: LayerBuilder, heads: Heads, form: Form, mask: Mask | None) -> str:
    """Append the cascade that the run names; returns mixed[b, m, h, f].

    The text's conditions say which keys a query sees, within `mask`; its offset `c` is given, so that all
    keys are seen where the model masks none. The reference's lowering computes masked points. The model's
    own scale takes the place of the text's on the product of Q and K. Raises InputError for a text that is
    not over Q, K and V or does not fit the model's heads, and where the model does more to its scores.
    """
    run, name = builder.run, builder.run.attention
    if form.biased or form.softcap or form.sinks:
        raise InputError(f"attention {name!r} does not know what this model does to its scores")
    cascade = load_cascade(CASCADE_BY_FORM.get(name, name))
    _check_signature(cascade, name, form)
    sizes = _sizes(cascade, builder, form, mask)
    types = {"activation": run.precision.activations, "state": run.precision.accumulators}
    graph = cascade.bind(sizes, types, skip_masked=run.lowering == "hardware")
    graph = _renamed(graph, cascade, builder, form)
    _append(builder, heads, form, mask, graph)
    return f"{form.prefix}mixed"


def _check_signature(cascade: Cascade, name: str, form: Form) -> None:
    """Raises InputError unless the text maps Q, K and V of the model's heads to AV."""
    declared = cascade.declarations
    if set(declared.inputs) != {"Q", "K", "V"} or declared.outputs != ("AV",):
        raise InputError(
            f"attention {name!r}: must have the live-ins Q, K, V and the live-out AV, has"
            f" {', '.join(declared.inputs)} and {', '.join(declared.outputs)}"
        )
    for tensor, known in _RANKS.items():
        ranks = cascade.tensors[tensor].ranks
        if set(ranks) not in known:
            wanted = " or ".join(f"[{','.join(sorted(one))}]" for one in known)
            raise InputError(
                f"attention {name!r}: {tensor} must have the ranks {wanted} in any order, has [{','.join(ranks)}]"
            )
    if "hkv" in cascade.ranks:
        return
    n_read = form.n_heads if "h" in cascade.tensors["K"].ranks else 1
    if n_read != form.n_kv_heads:
        raise InputError(
            f"attention {name!r}: K has {n_read} heads, the model has {form.n_kv_heads} of keys for"
            f" {form.n_heads} of queries"
        )


def _sizes(cascade: Cascade, builder: LayerBuilder, form: Form, mask: Mask | None) -> dict[str, int | float]:
    """The model's sizes for the text's ranks, what the run states, and tiles of the keys."""
    n_keys = builder.size((form.keys_rank,))
    known = {rank: builder.size((rank,)) for rank in ("b", "h", "m", "e", "f")}
    known |= {"n": n_keys, "hkv": form.n_kv_heads}
    stated = dict(builder.run.attention_sizes)
    if given := [name for name in (*known, CACHED) if name in stated or name.upper() in stated]:
        raise InputError(
            f"attention {builder.run.attention!r}: {given[0]!r} is the model's, it cannot be given"
        )
    sizes: dict[str, int | float] = {rank: size for rank, size in known.items() if rank in cascade.ranks}
    if any(scalar.name == CACHED for scalar in cascade.declarations.scalars):
        sizes[CACHED] = n_keys if mask is None or mask.upper is None else mask.upper
    parts = cascade.splits.get("n")
    if parts and not {parts[1], parts[1].upper()} & set(stated):
        sizes[parts[1]] = min(TILE, n_keys)
    return sizes | stated


def _renamed(graph: Graph, cascade: Cascade, builder: LayerBuilder, form: Form) -> Graph:
    """The graph with the model's name of the keys' rank; ranks of the text's own do not meet the model's."""
    keys = form.keys_rank
    names: dict[str, str] = {"n": keys}
    for rank in cascade.ranks:
        if rank in ("b", "h", "m", "e", "f", "n", "hkv"):
            continue
        parts = cascade.splits.get("n", ())
        names[rank] = f"{keys}{rank.removeprefix('n')}" if rank in parts else f"{form.prefix}own_{rank}"
        builder.rank(names[rank], graph.size(rank))
    return rename_graph(graph, ranks={rank: name for rank, name in names.items() if rank in graph.ranks})


def _append(builder: LayerBuilder, heads: Heads, form: Form, mask: Mask | None, graph: Graph) -> None:
    """The graph's operators in the layer, Q, K, V and AV in the places of the model's tensors."""
    rows = {"Q": heads.query, "K": heads.key, "V": heads.value}
    keys, mixed = form.keys_rank, f"{form.prefix}mixed"

    def named(name: str) -> str:
        return form.prefix + (word(name) if name[:1].isupper() else f"own_{word(name)}")

    def access(there: Access) -> Access:
        if there.tensor not in rows and there.tensor != "AV":
            return replace(there, tensor=named(there.tensor))
        place: Mapping[str, Index] = dict(
            zip(graph.tensor_by_name[there.tensor].ranks, there.indices, strict=True)
        )
        if there.tensor == "AV":
            return Access(mixed, (place["b"], place["m"], place["h"], place["f"]))
        token = place["m"] if there.tensor == "Q" else place[keys]
        head = place.get("hkv", place.get("h", Index()))
        return rows[there.tensor](token, head, place["f" if there.tensor == "V" else "e"])

    for tensor in graph.tensors:
        if tensor.name == "AV":
            builder.tensor(mixed, ("b", "m", "h", "f"), tensor.role, tensor.dtype)
        elif tensor.name not in rows:
            builder.tensor(named(tensor.name), tensor.ranks, tensor.role, tensor.dtype)
    for operator in graph.operators:
        builder.append(
            replace(
                operator, name=named(operator.name), output=access(operator.output), group="attention",
                inputs=tuple(map(access, operator.inputs)), mask=_within(operator.mask, mask, graph, keys),
                parameters=_scaled(operator, form.score_scale),
            )
        )  # fmt: skip


def _within(own: Mask | None, mask: Mask | None, graph: Graph, keys: str) -> Mask | None:
    """The text's mask within the model's window; none where it leaves nothing out."""
    if own is None or (own.rank, own.of) != (keys, "m"):
        return own
    if mask is not None and mask.lower is not None:
        own = replace(own, lower=mask.lower if own.lower is None else max(own.lower, mask.lower))
    n_keys, n_queries = graph.size(keys), graph.size("m")
    ragged = own.rank_parts and graph.size(own.rank_parts[0]) * graph.size(own.rank_parts[1]) != n_keys
    whole = own.n_points(n_keys, n_queries) == n_keys * n_queries
    return None if whole and not ragged and not own.of_parts else own


def _scaled(operator: Operator, scale: float) -> tuple[tuple[str, float], ...]:
    """The parameters with the model's scale in the place of the text's, on the product of Q and K."""
    read = {access.tensor for access in operator.inputs}
    if operator.kind is not Kind.CONTRACTION or not {"Q", "K"} <= read:
        return operator.parameters
    return tuple((name, scale if name == "scale" else value) for name, value in operator.parameters)
