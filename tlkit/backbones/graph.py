"""Reads the graph of a functional Keras model. Does not import Keras: it follows the tensors it is given.

Keras has no public way from a tensor to the operation that made it. So `_keras_history` and `_inbound_nodes` are read,
in this module only.
"""

from __future__ import annotations

from collections.abc import Sequence
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
