"""SavedModels from elsewhere whose graph does more than compute are refused before they are loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.reusable import write_module, write_tf1_module
from tlkit.backbones.hub import hub_backbone
from tlkit.backbones.operations import is_allowed, refused_operations
from tlkit.errors import RunError, WeightsError
from tlkit.runs.predict import predict
from tlkit.runs.reading import load_signatures

OUTSIDE = {
    "WriteFile": lambda to: tf.io.write_file(to, "written"),
    "ReadFile": lambda to: tf.io.read_file(to),
    "MatchingFiles": lambda to: tf.io.matching_files(to),
    "SaveV2": lambda to: tf.raw_ops.SaveV2(prefix=to, tensor_names=["a"], shape_and_slices=[""], tensors=[[1.0]]),
    "RestoreV2": lambda to: tf.raw_ops.RestoreV2(
        prefix=to, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
    ),
    "MergeV2Checkpoints": lambda to: tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[to], destination_prefix="b", delete_old_dirs=True
    ),
    "EagerPyFunc": lambda to: tf.py_function(lambda: 1.0, [], tf.float32),
    "PrintV2": lambda to: tf.print("written", output_stream=f"file://{to}"),
    "TextLineDataset": lambda to: tf.data.TextLineDataset(to).reduce(0, lambda n, _: n + 1),
    "CacheDataset": lambda to: tf.raw_ops.CacheDataset(
        input_dataset=tf.data.Dataset.range(2)._variant_tensor,
        filename=to,
        output_types=[tf.int64],
        output_shapes=[()],
    ),
    "ImmutableConst": lambda to: tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=[1], memory_region_name=to),
    "Abort": lambda to: tf.raw_ops.Abort(),
    "DebugIdentity": lambda to: tf.raw_ops.DebugIdentity(input=1.0, debug_urls=[f"file://{to}"]),
}


class Network(tf.Module):
    """The mean colours of images by a matrix, and `work` besides."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self.matrix, self.work = tf.Variable(tf.ones((3, 4))), work

    @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3))])
    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        tf.cond(tf.reduce_sum(images) > 1e9, lambda: [self.work(), 0][1], lambda: 0)  # it would seldom run
        return tf.reduce_mean(images, (1, 2)) @ self.matrix


def saved(work: Callable[[], Any], folder: Path) -> Path:
    tf.saved_model.save(Network(work), str(folder))
    return folder


@pytest.mark.parametrize("operation", OUTSIDE)
def test_an_operation_that_reaches_outside_is_named_and_the_module_not_loaded(operation: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    folder = saved(lambda: OUTSIDE[operation](str(target)), tmp_path / "module")
    with pytest.raises(WeightsError, match=rf"holds the operation {operation} .in the function .* was not loaded"):
        hub_backbone(f"hub:{folder}")
    assert not target.exists()


def test_a_module_that_computes_is_loaded(tmp_path: Path) -> None:
    folder = saved(lambda: tf.print("a word", tf.random.uniform(())), tmp_path / "module")
    assert list(refused_operations(folder)) == []
    assert hub_backbone(f"hub:{folder}").size == 32


def test_what_keras_and_tensorflow_save_holds_allowed_operations_only(tmp_path: Path, trained: Path) -> None:
    inputs = keras.Input((32, 32, 3))
    layers = keras.layers
    values = layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs))
    network = keras.Model(inputs, layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(values)))
    network.compile("adam", "mse")
    network.fit(np.zeros((2, 32, 32, 3)), np.zeros((2, 4)), verbose=0)
    network.export(tmp_path / "exported", verbose=False)
    tf.saved_model.save(network, str(tmp_path / "saved"))
    write_module(network, tmp_path / "reusable", size=32)
    write_tf1_module(tmp_path / "old")
    for folder in (*sorted(tmp_path.iterdir()), trained / "saved_model"):
        assert list(refused_operations(folder)) == [], folder


def change(folder: Path, how: Callable[[Any], None]) -> Path:
    """Change the first graph of a SavedModel."""
    stored = saved_model_pb2.SavedModel()
    stored.ParseFromString((folder / "saved_model.pb").read_bytes())
    how(stored.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(stored.SerializeToString())
    return folder


def test_saving_is_allowed_only_where_nothing_else_reaches_it(tmp_path: Path) -> None:
    plain = saved(lambda: 0, tmp_path / "plain")

    def listed(graph: Any) -> None:  # the function that saves as one that the module offers
        name = next(f.signature.name for f in graph.graph_def.library.function if "traced_save" in f.signature.name)
        graph.object_graph_def.concrete_functions[name].bound_inputs.append(1)

    def called(graph: Any) -> None:  # by another node
        node = next(n for n in graph.graph_def.node if graph.saver_def.save_tensor_name.startswith(f"{n.name}:"))
        graph.graph_def.node.add(name="mine", op=node.op).attr["f"].CopyFrom(node.attr["f"])

    def not_the_savers(graph: Any) -> None:
        graph.saver_def.save_tensor_name = ""

    def initial(graph: Any) -> None:  # computed while the model is loaded
        graph.collection_def["saved_model_main_op"].node_list.value.append(graph.saver_def.save_tensor_name)

    def restoring(graph: Any) -> None:
        graph.saver_def.restore_op_name = graph.saver_def.save_tensor_name

    for how in (listed, called, not_the_savers, initial, restoring):
        folder = change(shutil.copytree(plain, tmp_path / how.__name__), how)
        assert "SaveV2" in {operation for operation, _ in refused_operations(folder)}, how.__name__


def test_an_old_module_that_writes_while_it_is_loaded_is_refused(tmp_path: Path) -> None:
    def writes(graph: Any) -> None:
        for name in ("name", "what"):
            tensor = tf.make_tensor_proto(str(tmp_path / "target"))
            graph.graph_def.node.add(name=name, op="Const").attr["value"].tensor.CopyFrom(tensor)
        graph.graph_def.node.add(name="mine", op="WriteFile", input=["name", "what"])
        next(n for n in graph.graph_def.node if n.name == graph.saver_def.restore_op_name).input.append("^mine")

    folder = change(write_tf1_module(tmp_path / "old"), writes)
    with pytest.raises(WeightsError, match=r"WriteFile .in its graph"):
        hub_backbone(f"hub:{folder}")
    assert not (tmp_path / "target").exists()


def test_the_saved_model_of_a_run_is_looked_through_as_well(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run / "saved_model" / "variables")
    module = saved(lambda: OUTSIDE["WriteFile"](str(tmp_path / "target")), tmp_path / "module")
    shutil.copytree(module, run / "saved_model", dirs_exist_ok=True)
    (run / "saved_model" / "tlkit.json").unlink()  # whoever changes the model can also leave out its checksums
    for door in (lambda: predict(run, [run / "plan.json"]), lambda: load_signatures(run)):
        with pytest.raises(RunError, match="WriteFile"):
            door()


def test_every_operation_that_names_files_or_python_is_refused() -> None:
    for operation in ("WriteFile", "ReadFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc", "SaveV2"):
        assert not is_allowed(operation)
    for operation in ("TFRecordDataset", "SnapshotDatasetV2", "SqlDataset", "DataServiceDatasetV4", "DumpTensor"):
        assert not is_allowed(operation)
    for operation in ("RpcCall", "RemoteCall", "CreateSummaryFileWriter", "LoadAndRemapMatrix", "DecodeProtoV2"):
        assert not is_allowed(operation)
    for operation in ("Conv2D", "StatefulPartitionedCall", "DecodeJpeg", "VarHandleOp", "MapDataset", "RandomUniform"):
        assert is_allowed(operation)
