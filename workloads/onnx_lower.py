"""Lowering of a graph's nodes, one after the other, by the tables of their kinds."""

from collections.abc import Mapping

from tilewright.dataflow.errors import InputError, nearest
from tilewright.workloads.onnx_builder import Builder, Lower
from tilewright.workloads.onnx_maps import MAPS
from tilewright.workloads.onnx_moves import MOVES
from tilewright.workloads.onnx_norms import NORMS
from tilewright.workloads.onnx_products import PRODUCTS

_LOWERINGS: Mapping[str, Lower] = {**MOVES, **MAPS, **PRODUCTS, **NORMS}


def lower_nodes(builder: Builder) -> None:
    """Lower all nodes of the builder's net in order. Raises InputError for one that is not supported."""
    for node in builder.net.nodes:
        builder.start(node)
        function = _LOWERINGS.get(node.op)
        if function is None:
            raise builder.refuse(f"operator {node.op} is not supported{nearest(node.op, tuple(_LOWERINGS))}")
        running = [name for name in node.inputs if name and not builder.values[name].constant]
        for name in running if node.op != "Concat" else ():  # an empty piece is no piece
            if 0 in builder.shape(name):
                raise builder.refuse(f"operand {name!r} is empty: it has shape {list(builder.shape(name))}")
        try:
            function(builder, node)
        # attributes may be of any type and number: a lowering meets the wrong ones where it needs them
        except (IndexError, KeyError, TypeError, ZeroDivisionError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise builder.refuse("its operands or attributes do not fit together") from None
