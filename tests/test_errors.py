from __future__ import annotations

import pytest

from tlkit import errors


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("vgg61", ["vgg19", "vgg16", "resnet50"], "vgg16"),
        ("mobilnetv2", ["mobilenet", "mobilenetv2"], "mobilenetv2"),
        ("VGG16", ["vgg16"], "vgg16"),
        ("qqqq", ["vgg16"], None),
        ("x", [], None),
    ],
)
def test_the_nearest_name_is_found(name: str, known: list[str], expected: str | None) -> None:
    assert errors.nearest(name, known) == expected


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.SpecError, ValueError),
        (errors.DataError, ValueError),
        (errors.NameUnknown, ValueError),
        (errors.WeightsError, OSError),
        (errors.RunError, OSError),
        (errors.TrainingError, RuntimeError),
        (errors.ParityError, RuntimeError),
    ],
)
def test_each_error_is_also_a_builtin(kind: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin) and issubclass(kind, errors.TlkitError)
