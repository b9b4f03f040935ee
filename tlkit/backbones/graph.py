"""Reads the graph of a functional Keras model. Does not import Keras: it follows the tensors it is given.

Keras has no public way from a tensor to the operation that made it. So `_keras_history` and `_inbound_nodes` are read,
in this module only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def graph_nodes(model: Any) -> dict[Any, Any]:
    """Map every operation of a functional model to the node at which this model uses it, inputs first."""
    order: dict[Any, Any] = {}
    seen: set[Any] = set()
    waiting = [(tensor._keras_history, False) for tensor in model.outputs]
    while waiting:
        history, children_done = waiting.pop()
        operation = history.operation
        node = operation._inbound_nodes[history.node_index]
        if children_done:
            order.setdefault(operation, node)
        elif operation not in seen:
            seen.add(operation)
            waiting.append((history, True))
            waiting.extend((tensor._keras_history, False) for tensor in node.input_tensors)
    return order


def ancestors_of(tensors: Sequence[Any], nodes: dict[Any, Any]) -> set[Any]:
    """Return the operations that the tensors depend on, including those that made them."""
    found: set[Any] = set()
    waiting = [tensor._keras_history.operation for tensor in tensors]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting.extend(tensor._keras_history.operation for tensor in nodes[operation].input_tensors)
    return found


def crossing_tensors(below: set[Any], nodes: dict[Any, Any]) -> tuple[Any, ...]:
    """Return the tensors made by operations in `below` and used by others, in graph order."""
    crossing: dict[int, Any] = {}
    for operation, node in nodes.items():
        if operation not in below:
            for tensor in node.input_tensors:
                if tensor._keras_history.operation in below:
                    crossing.setdefault(id(tensor), tensor)
    return tuple(crossing.values())


def _boundary_tensors(model: keras.Model, nodes: dict[Any, Any], boundary: str) -> Sequence[Any]:
    side, name = boundary.split(" ", 1)
    node = nodes[model.get_layer(name)]
    return node.output_tensors if side == "after" else node.input_tensors


def walk(model: Any, inputs: Any, apply: Callable[[Any, Sequence[Any], Mapping[str, Any]], Any]) -> Any:
    """Evaluate a functional model with one input, operation by operation. Returns its output; a list if it has several.

    Outputs are forgotten as soon as no further operation reads them, to save memory.

    apply: called with an operation and its arguments, and returns its outputs.
    """
    nodes = graph_nodes(model)
    left: dict[int, int] = {}  # how many operations still read a tensor
    for node in nodes.values():
        for tensor in node.input_tensors:
            left[id(tensor)] = left.get(id(tensor), 0) + 1
    for tensor in model.outputs:
        left[id(tensor)] = left.get(id(tensor), 0) + 1
    values = {id(model.inputs[0]): inputs}
    for operation, node in nodes.items():
        if not node.input_tensors:
            continue
        args, kwargs = node.arguments.fill_in(values)
        made = apply(operation, args, kwargs)
        for tensor in node.input_tensors:
            left[id(tensor)] -= 1
            if not left[id(tensor)]:
                values.pop(id(tensor), None)
        for tensor, value in zip(node.output_tensors, made if isinstance(made, list | tuple) else [made], strict=True):
            if left.get(id(tensor)):
                values[id(tensor)] = value
    found = [values[id(tensor)] for tensor in model.outputs]
    return found if len(found) > 1 else found[0]
