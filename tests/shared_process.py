"""One process for the proofs of many exports, in which TensorFlow is imported once.

It runs the program of `tlkit.deployment.parity.FreshProcess` as it stands, once for each question, and has neither
Keras nor tlkit. tests/deployment and tests/test_stopping.py start new processes, as a run does.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tlkit.deployment.parity import _WORKER, FreshProcess
from tlkit.errors import ParityError

PROGRAM = """
import io, os, runpy, sys, traceback
for absent in ("keras", "tf_keras", "tlkit"):
    sys.modules[absent] = None
import tensorflow
asked = sys.stdin
for folder, question in zip(asked, asked):
    try:
        os.chdir(folder.strip())
        sys.stdin = io.StringIO(question)
        runpy.run_path(sys.argv[1], run_name="__main__")
        said = ""
    except Exception:
        said = traceback.format_exc()
    print(repr(said), flush=True)
"""


class SharedProcess(FreshProcess):
    """As `FreshProcess`, but its process goes on. `end` ends it."""

    running: subprocess.Popen[str] | None = None

    def __init__(self) -> None:
        if SharedProcess.running is None or SharedProcess.running.poll() is not None:
            command = [sys.executable, "-P", "-c", PROGRAM, str(_WORKER)]
            SharedProcess.running = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )

    def __exit__(self, *problem: object) -> None:
        pass

    def _answer(self, question: str) -> None:
        process: Any = SharedProcess.running
        process.stdin.write(f"{Path.cwd()}\n{question}\n")
        process.stdin.flush()
        if (said := process.stdout.readline()) != "''\n":
            raise ParityError(f"The exported model failed in a fresh process:\n{said}")

    @classmethod
    def end(cls) -> None:
        if cls.running is not None:
            cls.running.kill()
            cls.running.communicate()
