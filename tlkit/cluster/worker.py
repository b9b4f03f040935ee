"""What runs in a worker of a cluster."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

KEPT = 2  # states of earlier functions that a worker keeps: networks take memory
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OPENBLAS_NUM_THREADS")
_here = False  # whether this process is a worker


def threads() -> int:
    """How many threads work may take here: one in a worker, which has one CPU, else one for each core."""
    return 1 if _here else os.cpu_count() or 1


class Worker:
    """Calls functions, and keeps what their set-ups made. It computes with one thread, as it has one CPU."""

    def __init__(self) -> None:
        global _here
        _here = True
        for name in THREADS:  # read when TensorFlow is imported, which it is by the first function
            os.environ[name] = "1"
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        self._kept: OrderedDict[str, tuple[Any, Any]] = OrderedDict()

    def run(self, key: str, shared: list[Any], item: Any) -> tuple[int, Any]:
        """Call a function for one item. Returns this process's number, and the result.

        key: of the function and its set-up. shared: a reference to the two.
        """
        if key not in self._kept:
            import ray

            function, setup = ray.get(shared[0])
            self._kept[key] = function, None if setup is None else setup()
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        function, state = self._kept[key]
        return os.getpid(), function(state, item)
