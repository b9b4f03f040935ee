"""Silence the output that TensorFlow and the format converters write directly to the file descriptors."""

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
    """Hide all output of format converters, which is long and of no use; errors are still raised."""
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
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(hidden)


@contextlib.contextmanager
def _tensorflow_quietly() -> Iterator[None]:
    """Import TensorFlow and run the block without its start-up messages; print them if either fails."""
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
