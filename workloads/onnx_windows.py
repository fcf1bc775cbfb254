"""Windows that slide over an image: positions of the result, taps, and where each tap reads."""

from dataclasses import dataclass

from tilewright.workloads.onnx_builder import Builder
from tilewright.workloads.onnx_file import Node
from tilewright.workloads.onnx_ranks import Atom, Dim, View


@dataclass(frozen=True, slots=True)
class Windows:
    """`view` is read at stride * position + dilation * tap - padding along its last axes.

    Axes of a single tap that are read in place are `pairs`, the others `moved`. `positions` are the dimensions of the
    result, `taps` the atoms of all taps, `tap_dims` those by axis.
    """

    view: View
    positions: tuple[Dim, ...]
    taps: Dim
    tap_dims: tuple[Dim, ...]
    pairs: tuple[tuple[Dim, Dim], ...]
    moved: tuple[tuple[Atom, tuple[tuple[Atom, int], ...], int], ...]


def windows_of(
    builder: Builder, node: Node, view: View, kernel: list[int], out_sizes: tuple[int, ...]
) -> Windows:
    """The windows of a convolution or a pooling; the view is moved where its rows are no single ranks."""
    n_axes = len(out_sizes)
    first = len(view.dims) - n_axes
    strides = [int(n) for n in node.attributes.get("strides") or [1] * n_axes]
    dilations = [int(n) for n in node.attributes.get("dilations") or [1] * n_axes]
    sizes = [builder.size(dim) for dim in view.dims[first:]]
    if not len(kernel) == len(strides) == len(dilations) == len(sizes) == n_axes:
        raise builder.refuse(f"kernel, strides and dilations must have {n_axes} entries each")
    if min((*kernel, *strides, *dilations), default=1) < 1:
        raise builder.refuse("kernel, strides and dilations must be positive")
    view = _single_ranks(builder, view, first)
    positions: list[Dim] = []
    taps: list[Dim] = []
    pairs: list[tuple[Dim, Dim]] = []
    moved = []
    for axis, out in enumerate(out_sizes):
        own = view.dims[first + axis]
        in_place = kernel[axis] == strides[axis] == 1 and out == sizes[axis]
        same = out == sizes[axis]
        positions.append(builder.classes.dim_like(own) if same and own else builder.dims_of((out,))[0])
        taps.append(builder.dims_of((kernel[axis],))[0])
        if in_place:
            pairs.append((own, positions[-1]))
        elif own:
            before = _before(node, axis, sizes[axis], out, kernel[axis], strides[axis], dilations[axis])
            terms = [(atom, strides[axis]) for atom in positions[-1]]
            terms += [(atom, dilations[axis]) for atom in taps[-1]]
            moved.append((own[0], tuple(terms), -before))
    return Windows(
        view,
        tuple(positions),
        tuple(atom for dim in taps for atom in dim),
        tuple(taps),
        tuple(pairs),
        tuple(moved),
    )


def _single_ranks(builder: Builder, view: View, first: int) -> View:
    """The view with one whole rank per axis from `first` on, moved if need be."""
    fits = all(len(dim) < 2 and all(map(builder.classes.keep_whole, dim)) for dim in view.dims[first:])
    own = {id(item.atom) for item in view.items if item.terms is None}
    fits &= all(id(atom) in own for dim in view.dims[first:] for atom in dim)
    if fits:
        return view
    shape = [builder.size(dim) for dim in view.dims]
    inner = builder.scatter(
        view,
        [
            builder.classes.dim_like(dim) if axis < first else builder.whole_dim(size)
            for axis, (dim, size) in enumerate(zip(view.dims, shape, strict=True))
        ],
        dict.fromkeys(range(first, len(shape)), 0),
        None,
        "move",
    )
    return inner


def _before(node: Node, axis: int, size: int, out: int, taps: int, stride: int, dilation: int) -> int:
    """Padding in front of an axis."""
    mode = node.attributes.get("auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        total = max(0, (out - 1) * stride + (taps - 1) * dilation + 1 - size)
        return total // 2 if mode == b"SAME_UPPER" else -(-total // 2)
    pads = node.attributes.get("pads") or [0] * (2 * (axis + 1))
    return int(pads[axis]) if mode == b"NOTSET" else 0
