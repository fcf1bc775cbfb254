"""What the derivative of an operator reads besides the gradient of its output."""

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Kind, Operator
from tilewright.dataflow.tensor import Role

#: Functions whose derivative does not depend on the inputs, so that none is read for it.
_LINEAR = frozenset({"add", "sub", "identity", "scale", "resize", "rotary", "concat", "mean"})
#: Products: linear in each factor, so that the derivative reads the other ones.
_PRODUCTS = frozenset({"mul", "mul_add", "scale_add"})
#: Functions whose derivative follows from their value: y, y (1 - y), 1 - y^2, whether y is 0.
_OF_THE_VALUE = frozenset({"exp", "softmax", "sigmoid", "tanh", "relu", "relu6"})
_NORMS = frozenset({"layernorm", "rmsnorm"})


def read_for(graph: Graph, operator: Operator, position: int) -> tuple[Access, ...]:
    """The operands, and perhaps the result, that the derivative by the input at `position` reads.

    A function that stands in no table reads all its inputs. The rows that the data selects are those to
    which their gradient goes.
    """
    inputs, output = operator.inputs, operator.output
    others = tuple(access for place, access in enumerate(inputs) if place != position)
    selects = tuple(a for a in others if graph.tensor_by_name[a.tensor].role is Role.INDEX)
    if operator.kind is Kind.CONTRACTION:
        return others
    if operator.kind is Kind.GATHER:
        return selects
    if operator.kind is Kind.REDUCTION and operator.reduce not in ("sum", "mean"):
        return (inputs[position], output)  # a maximum's place, a variance, a length
    if operator.kind is Kind.REDUCTION and operator.function == "square":
        return (inputs[position],)
    selected = selects if Index() in inputs[position].indices else ()
    return _by_function(operator, position, others) + selected


def _by_function(operator: Operator, position: int, others: tuple[Access, ...]) -> tuple[Access, ...]:
    inputs, output = operator.inputs, operator.output
    match operator.function:
        case name if name in _LINEAR or (name == "scale_add" and len(inputs) == 2):
            return ()
        case "mul_add" if operator.kind is Kind.POINTWISE:  # first + second * third
            return () if position == 0 else others[1:]
        case name if name in _PRODUCTS:
            return others
        case name if name in _OF_THE_VALUE:
            return (output,)
        case "div":
            return (inputs[1],) if position == 0 else (output, inputs[1])
        case name if name in _NORMS:
            return _of_norm(inputs, position)
        case "batchnorm":  # x, weight, bias
            return ((inputs[1],), (inputs[0],), ())[position]
        case "exp_scale":
            return (*others, output)
    return inputs


def _of_norm(inputs: tuple[Access, ...], position: int) -> tuple[Access, ...]:
    """Of x, statistics and then weight and bias, those that there are."""
    match position:
        case 0:
            return inputs[1:3]
        case 1:
            return (*inputs[:3],)
        case 2:
            return inputs[:2]
    return ()
