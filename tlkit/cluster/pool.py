"""A pool of workers: `map_ordered` calls a function for every item, and yields the results in order.

A worker is a Ray actor: a process that keeps what a set-up made, such as a network, from one item to the next. Actors
were chosen over Ray Data because the batches must be the same as without a cluster, so that the results are equal, and
because results go to a cache that has its own shards; Ray Data forms its own blocks and writes its own files.

A worker that dies is started again, and its items are sent again. Only the process that began the work writes files, so
a worker that dies half-way leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tlkit.cluster.worker import Worker
from tlkit.devices import available_memory
from tlkit.errors import RunError, SpecError
from tlkit.progress import log
from tlkit.words import counted

LOCAL = "ray"
_ADDRESS = re.compile(r"ray://[^\s/:]+:\d+")
RETRIES = 3  # of an item whose worker died, before it is given up
PER_WORKER = 2  # items that a worker has at once: one in work, one waiting
WAITING = 60.0  # seconds without a first answer, after which that is said
AHEAD = 4  # items a worker that may be done or in work before the oldest is taken: bounds the memory
OBJECT_STORE = (100e6, 2e9)  # bytes of shared memory on this machine, at least and at most, for items and results
SHARE_OF_MEMORY = 0.1


def check_on(on: str | None) -> None:
    """Raise SpecError unless `on` is None, "ray" or "ray://HOST:PORT".

    >>> check_on("ray://head:10001")
    """
    if on is not None and on != LOCAL and not _ADDRESS.fullmatch(on):
        raise SpecError(
            f"`on` is '{on}'. Expected 'ray', for the cores of this machine, or 'ray://HOST:PORT', for a Ray cluster."
        )


class Pool:
    """The workers of a cluster, or this process if there is no cluster.

    Workers are started when they are first needed, and stay until `close`.

    Args:
        ray: the package, connected to a cluster; None: the function is called in this process, item after item.
        on: as in `pool`.

    Attributes:
        workers: how many there are: one for each CPU of the cluster. Each computes with one thread.
    """

    def __init__(self, ray: Any = None, on: str | None = None) -> None:
        self._ray, self.on = ray, on
        self.workers = 1 if ray is None else max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._actors: list[Any] = []
        self._pids: dict[int, int] = {}

    def map_ordered(
        self, function: Callable[[Any, Any], Any], items: Iterable[Any], setup: Callable[[], Any] | None = None
    ) -> Iterator[Any]:
        """Yield `function(state, item)` for each item, in order.

        Args:
            function: of a module, or a `functools.partial` of one, so that a worker can import it.
            items: taken one by one as workers become free: AHEAD for each worker are under way at most.
            setup: makes the state that a worker keeps, as `function`. It is called once in each worker, and again in
                one that takes the place of a worker that died. None: the state is None.

        Raises:
            RunError: the workers of an item died RETRIES + 1 times.
            Otherwise what `function` or `setup` raises.
        """
        if self._ray is None:
            state = None if setup is None else setup()
            for item in items:
                yield function(state, item)
            return
        yield from self._on_cluster(function, iter(items), setup)

    def _on_cluster(
        self, function: Callable[[Any, Any], Any], items: Iterator[Any], setup: Callable[[], Any] | None
    ) -> Iterator[Any]:
        ray, key = self._ray, os.urandom(8).hex()
        shared = ray.put((function, setup))
        results: dict[int, Any] = {}  # done, by number; not yielded yet
        under_way: dict[Any, tuple[int, int]] = {}  # reference -> number of the item, number of the worker
        load: dict[int, int] = {}
        sent = yielded = 0
        more, said = True, False
        try:
            while True:
                while more and len(under_way) < PER_WORKER * self.workers and sent - yielded < AHEAD * self.workers:
                    try:
                        item = next(items)
                    except StopIteration:
                        more = False
                        break
                    worker = self._least(load)
                    # in a list, a reference is handed on as it is, and not replaced by what it refers to
                    under_way[self._actor(worker).run.remote(key, [shared], item)] = (sent, worker)
                    load[worker] = load.get(worker, 0) + 1
                    sent += 1
                while yielded in results:
                    yield results.pop(yielded)
                    yielded += 1
                if under_way:
                    done = ray.wait(list(under_way), num_returns=1, timeout=None if said else WAITING)[0]
                    if not done and not said:
                        log.warning("the cluster has answered nothing yet: it may have no free CPU; waiting")
                    said = True
                    for reference in done:
                        number, worker = under_way.pop(reference)
                        load[worker] -= 1
                        results[number] = self._result(reference, worker)
                elif not more and not results:
                    return
        finally:
            for reference in under_way:
                with contextlib.suppress(Exception):
                    ray.cancel(reference)

    def _least(self, load: dict[int, int]) -> int:
        """The worker with the fewest items; a new one as long as there may be more."""
        return min(range(self.workers), key=lambda worker: load.get(worker, 0))

    def _actor(self, number: int) -> Any:
        while len(self._actors) <= number:
            remote = self._ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES)(Worker)
            self._actors.append(remote.remote())
        return self._actors[number]

    def _result(self, reference: Any, worker: int) -> Any:
        """What an item gave. Says once if its worker is another process than before."""
        errors = self._ray.exceptions
        try:
            pid, value = self._ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except errors.RayError as error:
            raise RunError(
                f"The workers of one part of the work died {RETRIES + 1} times ({type(error).__name__}). It may take "
                "more memory than a worker has: give Ray fewer CPUs on each machine. What was done is in the cache."
            ) from error
        if self._pids.setdefault(worker, pid) != pid:
            log.warning(f"worker {worker + 1} of {self.workers} died; what it was doing is done again")
            self._pids[worker] = pid
        return value

    def pids(self) -> Sequence[int]:
        """The process of each worker that has done something; on a cluster they are of several machines."""
        return list(self._pids.values())

    def close(self) -> None:
        """Stop the workers."""
        for actor in self._actors:
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
        self._actors.clear()


@contextlib.contextmanager
def pool(on: str | None) -> Iterator[Pool]:
    """A pool of workers, in a `with` statement, which stops them at its end.

    Args:
        on: None: this process. "ray": a cluster of this machine's cores, which is started and stopped, unless this
            process is connected to one already. "ray://HOST:PORT": a cluster that runs, and where tlkit is installed.

    Raises:
        SpecError: `on` is neither, or Ray is not installed.
        RunError: the cluster does not answer.
    """
    check_on(on)
    if on is None:
        yield Pool()
        return
    ray = _imported()
    begun = not ray.is_initialized()
    if begun:
        _connect(ray, on)
    workers = Pool(ray, on)
    try:
        yield workers
    finally:
        workers.close()
        if begun:
            ray.shutdown()


_CURRENT: contextvars.ContextVar[Pool | None] = contextvars.ContextVar("tlkit_cluster", default=None)


@contextlib.contextmanager
def working_on(on: str | Pool | None) -> Iterator[None]:
    """Let scanning, decoding, frozen layers, tournaments, folds and seeds use a cluster in this `with` statement.

    It works as joblib's `parallel_config` does. on: as in `pool`, or a pool. None, or where such a pool is in use
    already, changes nothing.
    """
    now = current()
    if on is None or (now is not None and on in (now, now.on)):
        yield
        return
    with contextlib.nullcontext(on) if isinstance(on, Pool) else pool(on) as workers:
        log.info(f"cluster   {workers.on}: {counted(workers.workers, 'worker')}\n")
        token = _CURRENT.set(workers)
        try:
            yield
        finally:
            _CURRENT.reset(token)


def current() -> Pool | None:
    """The pool of the `working_on` that is in effect; None without a cluster."""
    return _CURRENT.get()


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    try:
        import ray
    except ImportError as error:
        raise SpecError(f"`on` needs Ray, which is not installed ({error}): pip install 'tlkit[ray]'.") from None
    return ray


def _connect(ray: Any, on: str) -> None:
    """Start a cluster on this machine, or connect to one. Signals keep the handlers that they have."""
    here = threading.current_thread() is threading.main_thread()
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)} if here else {}
    try:
        if on == LOCAL:
            least, most = OBJECT_STORE
            store = int(min(most, max(least, SHARE_OF_MEMORY * available_memory())))
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=store,
                log_to_driver=False,
                logging_level="error",
            )
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(address=on, log_to_driver=False)
    except (ConnectionError, TimeoutError, RuntimeError, OSError) as error:
        raise RunError(
            f"The Ray cluster '{on}' does not answer ({str(error).splitlines()[0]}). Is it running, with the same "
            "versions of Python and Ray, is the port that of the Ray client (10001 by default), and does it ask for a "
            "token (then set RAY_AUTH_MODE=token here)?"
        ) from None
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
