"""Silences what TensorFlow and the converters write past Python."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Converters write pages past Python, of no use to the person; errors are raised anyway."""
    kept = [os.dup(1), os.dup(2)]
    hidden = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(hidden, number)
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, one in zip((1, 2), kept, strict=True):
            os.dup2(one, number)
            os.close(one)
        os.close(hidden)


@contextlib.contextmanager
def _tensorflow_quietly() -> Iterator[None]:
    """Import TensorFlow without its start-up lines, which it writes past Python; replay them if the import fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
            yield
        except BaseException:
            os.dup2(kept, 2)
            hidden.seek(0)
            sys.stderr.write(hidden.read().decode("utf-8", "replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
