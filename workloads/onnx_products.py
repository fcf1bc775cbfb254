"""Lowering of products: matrix products, Gemm, Einsum, convolutions, attention."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import sqrt

from tilewright.dataflow.operator import Kind
from tilewright.workloads.onnx_attention import Band
from tilewright.workloads.onnx_builder import Builder, IrOperator, MaskOf, Read
from tilewright.workloads.onnx_file import Node, renamed
from tilewright.workloads.onnx_maps import softmax
from tilewright.workloads.onnx_ranks import Dim, View
from tilewright.workloads.onnx_windows import windows_of


def _group(builder: Builder, node: Node) -> str:
    """The share of the counts: attention, the head, linear where an operand is a weight, else a batched product."""
    if marked := node.attributes.get("group"):
        return str(marked)
    if not any(builder.values[name].constant for name in node.inputs[:2]):
        return "bmm"
    return "head" if builder.net.is_head(node) else "linear"


def _name(builder: Builder, views: Sequence[View]) -> str:
    labels = [builder.tensors[view.tensor].label for view in views]
    return next((label for label in labels if label), builder.label)


def _mask(node: Node, dims: Sequence[Dim], keys: Dim) -> MaskOf | None:
    band = Band(node.attributes.get("upper"), node.attributes.get("lower"))
    return None if band == Band() or len(dims) < 2 else MaskOf(keys, dims[-2], band)


def _scale(node: Node) -> tuple[tuple[str, float], ...]:
    return (("scale", float(node.attributes["scale"])),) if "scale" in node.attributes else ()


def _matmul(builder: Builder, node: Node) -> None:
    a, b = (builder.view(name) for name in node.inputs[:2])
    if node.attributes.get("transA") and len(a.dims) > 1:
        a = a.transposed((*range(len(a.dims) - 2), len(a.dims) - 1, len(a.dims) - 2))
    if node.attributes.get("transB") and len(b.dims) > 1:
        b = b.transposed((*range(len(b.dims) - 2), len(b.dims) - 1, len(b.dims) - 2))
    builder.bind(node.outputs[0], _product(builder, node, a, b))


def _product(builder: Builder, node: Node, a: View, b: View) -> View:
    """a[..., m, k] times b[..., k, n]; vectors have one of the last two dimensions."""
    one_row, one_column = len(a.dims) == 1, len(b.dims) == 1
    a = replace(a, dims=((), *a.dims)) if one_row else a
    b = replace(b, dims=(*b.dims, ())) if one_column else b
    rank = max(len(a.dims), len(b.dims))
    a, b = (replace(v, dims=((),) * (rank - len(v.dims)) + v.dims) for v in (a, b))
    batch = []
    for x, y in zip(a.dims[:-2], b.dims[:-2], strict=True):
        batch.append(builder.classes.dim_like(x if builder.size(x) != 1 or builder.size(y) == 1 else y))
    m, n = builder.classes.dim_like(a.dims[-2]), builder.classes.dim_like(b.dims[-1])
    k = builder.classes.dim_like(a.dims[-1])
    if builder.size(k) != builder.size(b.dims[-2]):
        raise builder.refuse(f"its sums run over {builder.size(k)} and {builder.size(b.dims[-2])} elements")
    dims = (*batch, m, n)
    keys = k if "scale" not in node.attributes else n
    reads = [(a, (*batch, m, k)), (b, (*batch, k, n))]
    if builder.tensors[a.tensor].constant and not builder.tensors[b.tensor].constant:
        reads.reverse()  # a weight stands second
    output = builder.contraction(
        reads, dims, k, _group(builder, node), _name(builder, (b, a)), mask=_mask(node, dims, keys),
        parameters=_scale(node),
    )  # fmt: skip
    kept = tuple(
        dim for place, dim in enumerate(dims)
        if not (one_row and place == rank - 2) and not (one_column and place == rank - 1)
    )  # fmt: skip
    return replace(output, dims=kept)


def _gemm(builder: Builder, node: Node) -> None:
    a, b = (builder.view(name) for name in node.inputs[:2])
    a = a.transposed((1, 0)) if node.attributes.get("transA") else a
    b = b.transposed((1, 0)) if node.attributes.get("transB") else b
    shape = builder.shape(node.outputs[0])
    output = _product(builder, node, a, b)
    if node.input(2) and node.attributes.get("beta", 1.0):
        output = _add_bias(builder, output, builder.view(node.inputs[2]), shape, _group(builder, node))
    builder.bind(node.outputs[0], output)


def _add_bias(builder: Builder, output: View, bias: View, shape: Sequence[int], group: str) -> View:
    label = builder.bias_label((output, bias))
    return builder.pointwise((output, bias), shape, "add", group=group, label=label)


def _integer_product(builder: Builder, node: Node) -> None:
    """A product of quantised operands; scales and zero points are numbers of the function."""
    second = 3 if node.op == "QLinearMatMul" else 1
    a, b = builder.view(node.inputs[0]), builder.view(node.inputs[second])
    pair = renamed(node, inputs=(node.inputs[0], node.inputs[second]))
    builder.bind(node.outputs[0], _product(builder, pair, a, b))


def _einsum(builder: Builder, node: Node) -> None:
    """A sum of products by its equation; no letter may repeat within an operand."""
    views = [builder.view(name) for name in node.inputs]
    terms, result = _letters(builder, node, [len(view.dims) for view in views])
    dims: dict[str, Dim] = {}
    for view, letters in zip(views, terms, strict=True):
        for letter, dim in zip(letters, view.dims, strict=True):
            if letter not in dims or builder.size(dims[letter]) == 1:
                dims[letter] = builder.classes.dim_like(dim)
    output = tuple(dims[letter] for letter in result)
    summed = [letter for letter in dims if letter not in result]
    if len(views) == 1:
        (view,), (letters,) = views, terms
        if summed:
            axes = [letters.index(letter) for letter in summed]
            view = builder.reduction(view, axes, "sum", keep=False)
            letters = [letter for letter in letters if letter in result]
        builder.bind(node.outputs[0], view.transposed([letters.index(letter) for letter in result]))
        return
    extra = tuple(atom for letter in summed for atom in dims[letter])
    keys = dims[summed[0]] if summed and "scale" not in node.attributes else output[-1] if output else ()
    reads = [(view, [dims[letter] for letter in letters]) for view, letters in zip(views, terms, strict=True)]
    if len(reads) == 2 and builder.tensors[views[0].tensor].constant:
        reads.reverse()
    bound = builder.contraction(
        reads, output, extra, _group(builder, node), _name(builder, views[::-1]),
        mask=_mask(node, output, keys), parameters=_scale(node),
    )  # fmt: skip
    builder.bind(node.outputs[0], bound)


def _letters(builder: Builder, node: Node, ranks: list[int]) -> tuple[list[list[str]], list[str]]:
    """The letters of each operand and of the result; an ellipsis becomes letters "0", "1", ... ."""
    equation = node.attributes["equation"].decode().replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = []
    for text, rank in zip(left.split(","), ranks, strict=True):
        before, dots, after = text.partition("...")
        n_hidden = rank - len(before) - len(after)
        hidden = [str(-place) for place in range(n_hidden, 0, -1)] if dots else []
        terms.append([*before, *hidden, *after])
    everything = [letter for term in terms for letter in term]
    hidden = sorted({letter for letter in everything if len(letter) > 1}, key=int)
    if arrow:
        before, dots, after = right.partition("...")
        result = [*before, *(hidden if dots else []), *after]
    else:
        result = hidden + sorted(letter for letter in set(everything) if everything.count(letter) == 1)
        result = [letter for place, letter in enumerate(result) if letter not in result[:place]]
    if any(len(set(term)) < len(term) for term in terms):
        raise builder.refuse("a letter that repeats within an operand is not supported")
    return terms, result


def _conv(builder: Builder, node: Node) -> None:
    """out[b, g, o, y] = sum over c and taps u of x[b, g, c, stride y + dilation u - pad] * W[g, o, c, u]."""
    quantised = node.op == "QLinearConv"
    view = builder.view(node.inputs[0])
    weight = builder.view(node.inputs[3 if quantised else 1])
    in_shape, out_shape = builder.shape(node.inputs[0]), builder.shape(node.outputs[0])
    n_groups = int(node.attributes.get("group", 1))
    w_shape = [builder.size(dim) for dim in weight.dims]
    if n_groups < 1 or in_shape[1] != n_groups * w_shape[1] or w_shape[0] % n_groups:
        raise builder.refuse(
            f"{in_shape[1]} channels do not fit weights of shape {w_shape} in {n_groups} groups"
        )
    if len(w_shape) != len(in_shape):
        raise builder.refuse(f"weights of shape {w_shape} do not fit an image of {len(in_shape)} dimensions")
    grouped = builder.split_dim(view, 1, n_groups)
    windows = windows_of(builder, node, grouped, w_shape[2:], out_shape[2:])
    source = windows.view
    filters = builder.split_dim(weight, 0, n_groups)
    batch, group, channel = builder.like(source.dims[:3])
    filter_dim = builder.classes.dim_like(filters.dims[1])
    own = (*zip(source.dims[:3], (batch, group, channel), strict=True), *windows.pairs)
    read = Read(source, own, windows.moved)
    dims = (batch, group, filter_dim, *windows.positions)
    output = builder.new(dims)
    taps = builder.read(filters, (group, filter_dim, channel, *windows.tap_dims))
    builder.append(
        IrOperator(
            _name(builder, (weight,)), Kind.CONTRACTION, output.tensor, (read, taps), "mul", "sum", "conv",
            (*channel, *windows.taps),
        )
    )  # fmt: skip
    builder.group_of[output.tensor] = "conv"
    bound = _joined(builder, output, out_shape)
    if bias := node.input(8 if quantised else 2):
        shape = (1, out_shape[1], *[1] * (len(out_shape) - 2))
        bound = _add_bias(builder, bound, builder.reshape(builder.view(bias), shape), out_shape, "conv")
    builder.bind(node.outputs[0], bound)


def _joined(builder: Builder, output: View, shape: Sequence[int]) -> View:
    """Groups and channels of a group as one dimension again."""
    dims = (output.dims[0], (*output.dims[1], *output.dims[2]), *output.dims[3:])
    assert [builder.size(dim) for dim in dims] == list(shape)
    return replace(output, dims=dims)


def _conv_transpose(builder: Builder, node: Node) -> None:
    """Each position of the input spreads over its window: multiply-accumulates are those of the input's positions."""
    view, weight = builder.view(node.inputs[0]), builder.view(node.inputs[1])
    in_shape, out_shape = builder.shape(node.inputs[0]), builder.shape(node.outputs[0])
    n_groups = int(node.attributes.get("group", 1))
    w_shape = [builder.size(dim) for dim in weight.dims]
    n_axes = len(in_shape) - 2
    if n_groups < 1 or in_shape[1] != w_shape[0] or w_shape[0] % n_groups or len(w_shape) != n_axes + 2:
        raise builder.refuse(
            f"{in_shape[1]} channels do not fit weights of shape {w_shape} in {n_groups} groups"
        )
    source, filters = builder.split_dim(view, 1, n_groups), builder.split_dim(weight, 0, n_groups)
    inner = builder.like(source.dims)
    batch, group, channel, *places = inner
    filter_dim, *taps = builder.like(filters.dims[2:])
    wholes = [builder.whole_dim(size) for size in out_shape[2:]]
    output = builder.new((batch, group, filter_dim, *wholes))
    strides = [int(n) for n in node.attributes.get("strides") or [1] * n_axes]
    dilations = [int(n) for n in node.attributes.get("dilations") or [1] * n_axes]
    pads = [int(n) for n in node.attributes.get("pads") or [0] * 2 * n_axes]
    reads = (
        builder.read(source, inner),
        builder.read(filters, (group, channel, filter_dim, *taps)),
    )
    builder.append(
        IrOperator(
            _name(builder, (weight,)), Kind.CONTRACTION, output.tensor, reads, "mul", "sum", "conv",
            (*channel, *(atom for dim in (*places, *taps) for atom in dim)),
            builder.spread(output, 3, places, taps, strides, dilations, pads),
        )
    )  # fmt: skip
    builder.group_of[output.tensor] = "conv"
    bound = _joined(builder, output, out_shape)
    if bias := node.input(2):
        shape = (1, out_shape[1], *[1] * n_axes)
        bound = _add_bias(builder, bound, builder.reshape(builder.view(bias), shape), out_shape, "conv")
    builder.bind(node.outputs[0], bound)


def _attention(builder: Builder, node: Node) -> None:
    """Attention as one operator: scores, softmax and mixing, query heads in groups that share keys and values."""
    query, key, value = (builder.view(name) for name in node.inputs[:3])
    heads = [int(node.attributes.get(name, 0)) for name in ("q_num_heads", "kv_num_heads")]
    if node.op == "MultiHeadAttention":
        heads = [int(node.attributes["num_heads"])] * 2
        if any(node.input(position) for position in range(3, 8)):
            raise builder.refuse("bias, mask and cache operands are not supported")
    elif any(node.input(position) for position in (4, 5, 6)) or any(node.outputs[1:]):
        raise builder.refuse("a cache inside the operator is not supported; export it beside")
    if len(query.dims) == 3:
        query, key, value = (
            _to_heads(builder, view, count)
            for view, count in ((query, heads[0]), (key, heads[1]), (value, heads[1]))
        )
    (n_batch, n_heads, n_rows, width), n_shared = (
        (builder.size(d) for d in query.dims),
        builder.size(key.dims[1]),
    )
    if n_heads % n_shared:
        raise builder.refuse(f"{n_heads} heads of queries are no multiple of {n_shared} of keys")
    query = builder.reshape(query, (n_batch, n_shared, n_heads // n_shared, n_rows, width))
    key, value = (replace(v, dims=(*v.dims[:2], (), *v.dims[2:])) for v in (key, value))
    n_keys = builder.size(key.dims[3])
    causal = bool(node.attributes.get("is_causal") or node.attributes.get("unidirectional"))
    marks = {"group": "attention", "upper": 0 if causal and n_keys > 1 else None, "lower": None}
    scale = float(node.attributes.get("scale") or 1 / sqrt(width))
    marked = renamed(node, attributes={**marks, "scale": scale})
    square = (n_batch, n_shared, n_heads // n_shared, n_rows, n_keys)
    scores = _product(builder, marked, query, key.transposed((0, 1, 2, 4, 3)))
    if node.op == "Attention" and node.input(3):
        bias = builder.view(node.inputs[3], weight=False)
        scores = _biased(builder, scores, bias, square)
    if limit := float(node.attributes.get("softcap") or 0):
        scores = builder.pointwise(
            (scores,), square, "tanh", group="attention", label="softcap", parameters=(("limit", limit),)
        )
    shares = softmax(builder, scores, (4,), renamed(node, op="Softmax", attributes=marks))
    mixed = _product(builder, renamed(node, attributes=marks), shares, value)
    mixed = replace(mixed, dims=(mixed.dims[0], (*mixed.dims[1], *mixed.dims[2]), *mixed.dims[3:]))
    shape = builder.shape(node.outputs[0])
    builder.bind(
        node.outputs[0], mixed if len(shape) == 4 else builder.reshape(mixed.transposed((0, 2, 1, 3)), shape)
    )


def _to_heads(builder: Builder, view: View, n_heads: int) -> View:
    batch, rows, width = (builder.size(dim) for dim in view.dims)
    if n_heads < 1 or width % n_heads:
        raise builder.refuse(f"a width of {width} is no multiple of {n_heads} heads")
    return builder.reshape(view, (batch, rows, n_heads, width // n_heads)).transposed((0, 2, 1, 3))


def _biased(builder: Builder, scores: View, bias: View, square: Sequence[int]) -> View:
    """The scores plus a mask or bias over [batch, heads, query, key]."""
    sizes = [builder.size(dim) for dim in bias.dims]
    sizes = [1] * (4 - len(sizes)) + sizes
    heads = (1, 1) if sizes[1] == 1 else tuple(square[1:3])
    fitted = builder.reshape(bias, (sizes[0], *heads, *sizes[2:]))
    return builder.pointwise((scores, fitted), square, "add", group="attention", label="score_bias")


PRODUCTS: Mapping[str, Callable[[Builder, Node], None]] = {
    "MatMul": _matmul, "FusedMatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum, "Conv": _conv,
    "ConvTranspose": _conv_transpose, "QLinearConv": _conv, "MatMulInteger": _integer_product,
    "QLinearMatMul": _integer_product, "Attention": _attention, "MultiHeadAttention": _attention,
}  # fmt: skip
