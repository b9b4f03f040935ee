"""Processes that compute together: Ray Train starts them, on one machine or several, and JAX connects them.

Ray Train's `JaxTrainer` connects GPUs and TPUs only, so its `DataParallelTrainer` starts the processes, and
`jax.distributed` is called here.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from tlkit.errors import RunError, SpecError

WAITING = 300.0  # seconds for the first process to say where the others find it


class _Board:
    """A Ray actor on which the processes write what the others, and the one that began, must know."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def write(self, name: str, value: Any) -> None:
        self._values[name] = value

    def read(self, name: str) -> Any:
        return self._values.get(name)


def run_together(function: Callable[[Any], Any], given: Any, processes: int, variables: Mapping[str, str]) -> Any:
    """Call `function(given)` in several processes that JAX has connected, and return what the first one returns.

    A process asks for one CPU, and for one GPU if there are as many as processes. If one fails, all end.

    Args:
        function: of a module, so that a worker can import it.
        given: its argument, the same for all.
        processes: 1 or more.
        variables: of the processes' environment.

    Raises:
        SpecError: Ray is not installed.
        RunError: a process failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # importing TensorFlow may take a minute
    try:
        import ray
        from ray.train.v2.api import config
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError
    except ImportError as error:
        raise SpecError(
            f"Several machines need Ray Train, which is not installed ({error}): pip install 'tlkit[ray]' 'ray[train]'."
        ) from None
    if not ray.is_initialized():
        raise RunError(
            "No Ray cluster is in use. Call ray.init() first: address='ray://HOST:PORT', or none for a local."
        )
    use_gpu = ray.cluster_resources().get("GPU", 0) >= processes
    board: Any = ray.remote(num_cpus=0)(_Board).remote()
    with tempfile.TemporaryDirectory() as folder:  # Ray Train writes its own state there
        scaling: Any = config.ScalingConfig(num_workers=processes, use_gpu=use_gpu)
        settings: Any = config.RunConfig(storage_path=folder, worker_runtime_env={"env_vars": dict(variables)})
        trainer = DataParallelTrainer(
            _process,
            train_loop_config={"function": function, "given": ray.put(given), "board": board},
            scaling_config=scaling,
            run_config=settings,
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            reason = str(error).strip().splitlines()
            raise RunError(
                f"A process on the cluster failed: {reason[-1] if reason else type(error).__name__}"
            ) from error
    return ray.get(board.read.remote("result"))


def _process(config: dict[str, Any]) -> None:
    """What each process does."""
    import jax
    import ray
    from ray import train

    context, board = train.get_context(), config["board"]
    number, count = context.get_world_rank(), context.get_world_size()
    if number == 0:
        ray.get(board.write.remote("address", f"{ray.util.get_node_ip_address()}:{_free_port()}"))
    begun, address = time.monotonic(), None
    while address is None and time.monotonic() - begun < WAITING:
        address = ray.get(board.read.remote("address"))
        time.sleep(0.1)
    jax.distributed.initialize(address, num_processes=count, process_id=number)
    try:
        result = config["function"](ray.get(config["given"]))
        if number == 0:
            ray.get(board.write.remote("result", result))
    finally:
        jax.distributed.shutdown()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])
