"""Describes a .tflite file inside itself, as MediaPipe Tasks and other readers of TFLite metadata expect it.

The metadata are a flatbuffer (metadata_schema.fbs of MediaPipe, Apache-2.0) in the model's own table of metadata, and
labels.txt is in a zip archive behind the model. MediaPipe's own writer would need the package mediapipe, which brings
another build of OpenCV; the numbers of fields below are those of its schema.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NAME, _IDENTIFIER, _PARSER = "TFLITE_METADATA", b"M001", "1.0.0"
_LABELS = "labels.txt"
_IMAGE, _FEATURE, _NORMALIZATION, _RGB, _AXIS_LABELS = 2, 1, 1, 1, 2  # codes of unions and enumerations
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of labels.txt in the archive, so that the same model gives the same file


def describe_itself(file: Path, description: dict[str, Any]) -> None:
    """Add the classes and the input's normalisation to a .tflite file: none, from values of 0 to 255."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    buffer = schema.BufferT()
    buffer.data = list(_metadata(description))
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = _NAME, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    file.write_bytes(builder.Output())
    labels = "".join(" ".join(name.splitlines()) + "\n" for name in description["classes"])
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(_LABELS, _EPOCH), labels.encode())


def _metadata(description: dict[str, Any]) -> bytes:
    """The flatbuffer: what the image input and the output of probabilities are."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    rule = description["preprocessing"]
    note = f"RGB 0-255, {rule['size']} x {rule['size']} pixels, made square by {rule['fit']}: see tlkit.json"
    image = _tensor(
        builder,
        ("images", note),
        _table(builder, 3, bytes_={0: _IMAGE}, offsets={1: _table(builder, 2, bytes_={0: _RGB})}),
        limits=(0.0, 255.0),
        units=[
            _table(
                builder,
                2,
                bytes_={0: _NORMALIZATION},
                offsets={1: _table(builder, 2, offsets={0: _floats(builder, [0.0]), 1: _floats(builder, [1.0])})},
            )
        ],
    )
    labels = _table(builder, 5, bytes_={2: _AXIS_LABELS}, offsets={0: builder.CreateString(_LABELS)})
    answer = _tensor(
        builder,
        ("probabilities", "of the classes in labels.txt; they add up to 1"),
        _table(builder, 3, bytes_={0: _FEATURE}, offsets={1: _table(builder, 0)}),
        limits=(0.0, 1.0),
        files=[labels],
    )
    graph = _table(builder, 10, offsets={2: _tables(builder, [image]), 3: _tables(builder, [answer])})
    texts = {0: "ImageClassifier", 1: "An image classifier written by tlkit"}
    offsets = {slot: builder.CreateString(text) for slot, text in texts.items()}
    offsets |= {3: _tables(builder, [graph]), 7: builder.CreateString(_PARSER)}
    builder.Finish(_table(builder, 8, offsets=offsets), _IDENTIFIER)
    return bytes(builder.Output())


def _tensor(
    builder: Any,
    words: tuple[str, str],
    content: int,
    *,
    limits: tuple[float, float],
    units: Sequence[int] = (),
    files: Sequence[int] = (),
) -> int:
    """A TensorMetadata. words: name and description."""
    offsets = {0: builder.CreateString(words[0]), 1: builder.CreateString(words[1]), 3: content}
    if units:
        offsets[4] = _tables(builder, units)
    low, high = _floats(builder, limits[:1]), _floats(builder, limits[1:])
    offsets[5] = _table(builder, 2, offsets={0: high, 1: low})
    if files:
        offsets[6] = _tables(builder, files)
    return _table(builder, 7, offsets=offsets)


def _table(
    builder: Any, fields: int, *, bytes_: dict[int, int] | None = None, offsets: dict[int, int] | None = None
) -> int:
    """A table of so many fields, from the values of one byte and the references by the number of their field."""
    builder.StartObject(fields)
    for slot, offset in (offsets or {}).items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in (bytes_ or {}).items():
        builder.PrependUint8Slot(slot, value, 0)
    return builder.EndObject()


def _tables(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _floats(builder: Any, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return builder.EndVector()
