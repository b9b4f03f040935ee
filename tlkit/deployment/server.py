"""Waitress, with limits on slow clients, a lane for short requests, and an end that answers what has arrived."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

THREADS = 4  # for predictions: each may hold a request of the largest size in memory
SHORT_THREADS = 1  # for the page, health and metrics, which then do not wait behind images
MAX_CONNECTIONS = 200  # beyond them, one that waits for its client is closed for each new one
REQUEST_SECONDS = 60  # in which a request must arrive whole, and in which an answer must be taken
IDLE_SECONDS = 30  # without a byte
ENDING_SECONDS = 20  # in which requests that have arrived are still answered at the end
MAX_HEADER_BYTES = 16 * 1024


class Channel(HTTPChannel):
    """A connection that knows since when it waits for its client."""

    begun: float | None = None  # when the first byte of an unfinished request came, or an answer was ready

    def received(self, data: bytes) -> bool:
        """Take bytes of the client."""
        before = self.request
        result = super().received(data)
        if self.request is None:
            self.begun = None
        elif self.request is not before:
            self.begun = time.time()
        return result

    def service(self) -> None:
        """Answer a request, in a thread."""
        super().service()
        if self.request is None:
            self.begun = time.time()

    def waits(self) -> bool:
        """Whether the client is to go on: with its request, or by taking its answer."""
        return not self.requests and (self.request is not None or bool(self.total_outbufs_len))

    def last_to_close(self) -> tuple[bool, float]:
        """The order in which connections are closed for others: first the idle ones, then the slowest."""
        return (True, self.begun or self.last_activity) if self.waits() else (False, self.last_activity)


class Server(TcpWSGIServer):
    """A server of one listening socket."""

    channel_class = Channel

    def __init__(self, app: Any, listening: socket.socket, max_body_bytes: int, dropped: Callable[[], None]) -> None:
        """dropped: called for each connection that is closed for a slow or idle client."""
        adjustments = Adjustments(
            sockets=[listening],
            threads=THREADS,
            max_request_body_size=max_body_bytes,
            max_request_header_size=MAX_HEADER_BYTES,
            connection_limit=2 * MAX_CONNECTIONS,
            channel_timeout=IDLE_SECONDS,
            cleanup_interval=1,
            asyncore_use_poll=True,
            log_socket_errors=False,  # clients hang up
            ident="tlkit",
        )
        self._dropped, self._stopped = dropped, False
        self._closing: list[Channel] = []
        self._short = ThreadedTaskDispatcher()
        self._short.set_thread_count(SHORT_THREADS)
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # that requests wait is no news
        info = (listening.family, listening.type, listening.proto, listening.getsockname())
        super().__init__(app, {}, _sock=listening, adj=adjustments, sockinfo=info, bind_socket=False)

    def add_task(self, task: Channel) -> None:
        """Queue a request. Those without a body take little time, and have a thread of their own."""
        first = task.requests[0]
        short = not first.error and first.command == "GET"
        (self._short if short else self.task_dispatcher).add_task(task)

    def handle_accept(self) -> None:
        """Accept a connection. If there are too many, close the one that has kept the server waiting longest."""
        super().handle_accept()
        if len(self.active_channels) <= MAX_CONNECTIONS:
            return
        *others, _ = self.active_channels.values()  # the last is the new one
        idle = [one for one in others if not one.requests]
        if idle:
            self._drop(min(idle, key=Channel.last_to_close))

    def maintenance(self, now: float) -> None:
        """Close connections that are idle, or whose client takes too long."""
        for channel in list(self.active_channels.values()):
            slow = channel.waits() and channel.begun is not None and channel.begun < now - REQUEST_SECONDS
            if slow or (not channel.requests and channel.last_activity < now - self.adj.channel_timeout):
                self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        """Let `turn` close a connection at its end.

        Closed at once, its file descriptor could be that of a new connection while events of the old one are due.
        """
        if channel not in self._closing:
            self._dropped()
            self._closing.append(channel)

    def turn(self, timeout: float) -> None:
        """Wait for events, at most `timeout` seconds, handle them, and close connections that were dropped."""
        wasyncore.loop(timeout=timeout, use_poll=True, map=self._map, count=1)
        while self._closing:
            self._closing.pop().handle_close()

    def run(self) -> None:
        """Answer until `stop` or KeyboardInterrupt; then answer what has arrived whole, and end."""
        with contextlib.suppress(KeyboardInterrupt):
            while not self._stopped:
                self.turn(timeout=1)
        self.accepting = False
        self.del_channel()
        self.socket.close()  # new clients are refused from here on
        end = time.time() + ENDING_SECONDS
        while time.time() < end and any(one.requests or one.total_outbufs_len for one in self._open()):
            self.turn(timeout=0.1)
        for dispatcher in (self._short, self.task_dispatcher):
            dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._map)

    def stop(self) -> None:
        """Let `run` end. For another thread."""
        self._stopped = True
        self.pull_trigger()

    def _open(self) -> list[Channel]:
        return list(self.active_channels.values())


@contextlib.contextmanager
def termination_interrupts() -> Iterator[None]:
    """Let SIGTERM, which ends containers and services, do what Ctrl-C does. Does nothing in another thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
