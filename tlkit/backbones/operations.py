"""Which operations the graph of a SavedModel from elsewhere may hold: those that compute.

A SavedModel is a program. Its operations can read, write and delete files, open connections and call Python, and some
run while it is loaded. So its graph and all functions in it are looked through before TensorFlow loads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tlkit.errors import TlkitError

_SAVE = frozenset(("MergeV2Checkpoints", "Save", "SaveSlices", "SaveV2"))
_RESTORE = frozenset(("Restore", "RestoreSlice", "RestoreV2"))

# Of the operations that TensorFlow declares stateful, those that only change memory of the model or of the process.
_STATEFUL = re.compile(
    r"Variable(V2|Shape)?|VarHandleOp|VarIsInitializedOp|ReadVariableOp|Assign(Add|Sub)?(VariableOp)?|TemporaryVariable"
    r"|Resource(Gather|Scatter|StridedSlice|Apply|SparseApply|CountUpTo)\w*|DestroyResourceOp|DisableCopyOnRead|DeepCopy"
    r"|Empty|GuaranteeConst|StatefulPartitionedCall|If|While|Case|Assert|CheckNumerics(V2)?|Print(V2)?"
    r"|TensorArray\w*|Stack\w*|XlaCallModule|CudnnRNN\w*"
    r"|Random\w+|TruncatedNormal|ParameterizedTruncatedNormal|Multinomial|Stateful(Random|Standard|Truncated|Uniform)\w*"
    r"|Rng\w+|StatelessRandomGetAlg|NonDeterministicInts|Anonymous(Random)?SeedGenerator|Delete(Random)?SeedGenerator"
    r"|DummySeedGenerator|SampleDistortedBoundingBox(V2)?"
    r"|(Mutable|Anonymous|AnonymousMutable)?(Dense)?HashTable(OfTensors)?(V2)?|InitializeTableV2|LookupTable\w+V2"
)
# Of the operations that TensorFlow declares free of side effects, those that reach outside of the graph nonetheless.
_NOT_PURE = re.compile(
    r"\w*Py\w*Func\w*|ReadFile|MatchingFiles|ImmutableConst|InitializeTableFromTextFile|Reader\w+|Abort|Copy(Host)?"
    r"|Debug\w+|EncodeProto|DecodeProto\w*|\w*Tpu\w*|TPU\w+|XlaCustomCall\w*|XlaLaunch\w*|_\w+"
    r"|(?!Sharded)\w*File\w*|\w*Reader"
)
_STEP = r"(Parallel)?(Map|Batch|Filter|FlatMap|Interleave)|MapAndBatch|PaddedBatch|Concatenate|IgnoreErrors|Prefetch"
_DATASET = re.compile(  # of a pipeline of tf.data, those that only pass tensors on
    rf"({_STEP}|Options|Finalize|Model|Optimize|Range|Reduce|Repeat|Skip|Take|Tensor|TensorSlice|Zip|Window)Dataset(V\d)?"
    r"|Dataset(ToSingleElement|Cardinality)|(Anonymous)?Iterator(V\d|GetNext(AsOptional)?)?|MakeIterator|DeleteIterator"
)
_STREAMS = (b"stderr", b"stdout", b"log(info)", b"log(warning)", b"log(error)")  # of PrintV2, which also writes files


def check_operations(folder: Path, name: str, error: Callable[[str], TlkitError]) -> None:
    """Refuse a SavedModel whose graph holds an operation that does more than compute.

    Files are read and written by no operation but those that save and restore the variables, in the places where
    TensorFlow writes them. A file that is no SavedModel passes: loading it says what is wrong.

    Args:
        folder: of the SavedModel.
        name: what the user calls it.
        error: the kind of error that is raised, with a message that names the operation.
    """
    found = next(refused_operations(folder), None)
    if found is None:
        return
    operation, where = found
    raise error(
        f"The SavedModel '{name}' holds the operation {operation} (in {where}), which may reach files, the network or "
        "Python. Expected operations that compute only. It was not loaded. If you trust who made it, have it exported "
        "again without that operation."
    )


def refused_operations(folder: Path) -> Iterator[tuple[str, str]]:
    """(operation, where it is) of each operation of a SavedModel that is not allowed."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    try:
        stored.ParseFromString((folder / "saved_model.pb").read_bytes())
    except (DecodeError, OSError):
        return
    for graph in stored.meta_graphs:
        yield from _refused_in(graph)


def _refused_in(graph: Any) -> Iterator[tuple[str, str]]:
    """(operation, where) in one MetaGraphDef."""
    places = _Places(graph)
    known: dict[str, bool] = {}
    for where, node, allowed in places.nodes():
        if node.op in _SAVE | _RESTORE:
            fine = node.op in allowed
        elif node.op == "PrintV2":
            fine = node.attr["output_stream"].s in (b"", *_STREAMS)
        else:
            fine = known.setdefault(node.op, is_allowed(node.op))
        if not fine:
            yield node.op, where


def is_allowed(operation: str) -> bool:
    """Whether an operation only computes. One that this TensorFlow does not know passes: it cannot be loaded."""
    from tensorflow.python.framework import op_def_registry

    about = op_def_registry.get(operation)
    if about is None:
        return True
    if "Dataset" in operation or "Iterator" in operation:
        return bool(_DATASET.fullmatch(operation))
    return bool(_STATEFUL.fullmatch(operation)) if about.is_stateful else not _NOT_PURE.fullmatch(operation)


class _Places:
    """Where in a MetaGraphDef variables may be saved and restored: in what only its saver reaches.

    The saver's two nodes call functions that nothing else calls (TensorFlow 2), or are built of nodes that no signature
    and no initialisation needs (TensorFlow 1). When a model of TensorFlow 1 is loaded, its restoring nodes run.
    """

    def __init__(self, graph: Any) -> None:
        self._nodes = {node.name: node for node in graph.graph_def.node}
        self._functions = {one.signature.name: one for one in graph.graph_def.library.function}
        fetched = self._before(_fetched(graph))
        self._restoring = self._before([graph.saver_def.restore_op_name]) - fetched
        self._saving = self._before([graph.saver_def.save_tensor_name]) - fetched - self._restoring
        saved = self._called(self._nodes[one] for one in self._saving)
        restored = self._called(self._nodes[one] for one in self._restoring)
        others = self._nodes.keys() - self._saving - self._restoring
        roots = [self._nodes[one] for one in others]
        objects = graph.object_graph_def
        callable_ones = set(objects.concrete_functions) | self._functions.keys() - saved - restored
        callable_ones |= {one.bare_concrete_function.concrete_function_name for one in objects.nodes}
        roots += [node for one in callable_ones & self._functions.keys() for node in self._functions[one].node_def]
        shared = self._called(roots) | callable_ones
        self._restorers = restored - shared
        self._savers = saved - shared - restored

    def nodes(self) -> Iterator[tuple[str, Any, frozenset[str]]]:
        """(where, node, operations allowed there in addition) of each node."""
        for name, node in self._nodes.items():
            yield "its graph", node, _in_addition(name in self._saving, name in self._restoring)
        for name, function in self._functions.items():
            allowed = _in_addition(name in self._savers, name in self._restorers)
            for node in function.node_def:
                yield f"the function '{name}'", node, allowed

    def _before(self, names: Iterable[str]) -> set[str]:
        """These nodes and all that they need."""
        found: set[str] = set()
        left = [_node_of(name) for name in names]
        while left:
            name = left.pop()
            if name in self._nodes and name not in found:
                found.add(name)
                left += [_node_of(one) for one in self._nodes[name].input]
        return found

    def _called(self, nodes: Iterable[Any]) -> set[str]:
        """The functions that nodes call, and those that these call."""
        found: set[str] = set()
        left = [name for node in nodes for name in _functions_of(node)]
        while left:
            name = left.pop()
            if name in self._functions and name not in found:
                found.add(name)
                left += [one for node in self._functions[name].node_def for one in _functions_of(node)]
        return found


def _in_addition(saves: bool, restores: bool) -> frozenset[str]:
    return _SAVE | _RESTORE if saves else _RESTORE if restores else frozenset()


def _fetched(graph: Any) -> Iterator[str]:
    """The tensors and nodes of a MetaGraphDef that are computed when it is loaded or used."""
    for signature in graph.signature_def.values():
        for tensor in signature.outputs.values():
            yield tensor.name
            yield from (one.name for one in tensor.composite_tensor.components)
            yield from (tensor.coo_sparse.values_tensor_name, tensor.coo_sparse.indices_tensor_name)
    for collection in graph.collection_def.values():
        yield from collection.node_list.value


def _node_of(tensor: str) -> str:
    """The node of a tensor's name, or of a control input's: "^a" and "a:0" are the node "a"."""
    return tensor.removeprefix("^").partition(":")[0]


def _functions_of(node: Any) -> Iterator[str]:
    """The functions that a node names, by its attributes or as its operation."""
    yield node.op
    for value in node.attr.values():
        yield value.func.name
        yield from (one.name for one in value.list.func)
