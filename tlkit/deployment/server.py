"""Waitress, with limits on slow clients, a lane for short requests, and an end that answers what has arrived."""

from __future__ import annotations

import contextlib
import json
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
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import Error

THREADS = 12  # for predictions, which take turns, so that a request of many images does not keep the others waiting
LARGE_THREADS = 2  # for requests of more than `LARGE_BYTES`: read as JSON, each may take 20 times its size of memory
LARGE_BYTES = 2 * 2**20
SHORT_THREADS = 1  # for the page, health, metrics and refusals, which then do not wait behind images
MAX_CONNECTIONS = 200  # beyond them, one that waits for its client is closed for each new one
MAX_WAITING = 150  # requests that wait for a thread; others get 503
MAX_HELD_BYTES = 2**30  # of all requests that have come or are coming; beyond it they get 503
RETRY_SECONDS = 5  # after which a client that got 503 may come again
REQUEST_SECONDS = 60  # in which a request must arrive whole, and in which an answer must be taken
IDLE_SECONDS = 30  # without a byte
LINGER_SECONDS = 3  # in which a client that was refused may end what it sends
ENDING_SECONDS = 20  # in which requests that have arrived are still answered at the end
MAX_HEADER_BYTES = 16 * 1024


class RefusedRequest(Error):
    """Why a request is not read or not answered, as `HTTPRequestParser.error` holds it."""

    def __init__(self, code: int, reason: str, words: str, retry: int | None = None) -> None:
        super().__init__(words)
        self.code, self.reason, self.retry = code, reason, retry


class RefusalTask(ErrorTask):
    """Answers a request that was not read, in JSON, and closes the connection."""

    def execute(self) -> None:
        """Write the answer."""
        error = self.request.error
        body = json.dumps({"error": str(error.body)}).encode("utf-8") + b"\n"
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        if getattr(error, "retry", None) is not None:
            self.response_headers.append(("Retry-After", str(error.retry)))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.server.refused(error.code)
        self.channel.refused = True
        self.write(body)


class Parser(HTTPRequestParser):
    """Reads a request. What Waitress reads of it after an error, or at its end, is there before it has come."""

    command = path = ""

    def parse_header(self, header_plus: bytes) -> None:
        """Read the head. Raises ParsingError where Waitress would close the connection without an answer."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # a length of more digits than Python reads, or what is not text
            raise ParsingError("Invalid header") from error


class Channel(HTTPChannel):
    """A connection that knows since when it waits for its client."""

    error_task_class = RefusalTask
    parser_class = Parser
    request: Any = None
    close_when_flushed: bool
    refused = False  # without reading it all; the client may still be sending
    lingering: float | None = None  # since when what it sends is thrown away
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

    def held(self) -> int:
        """Bytes of the bodies of requests that have come or are coming."""
        requests, coming = list(self.requests), self.request
        if coming is not None and coming not in requests:
            requests.append(coming)
        return sum(one.body_bytes_received for one in requests)

    def refuse(self, error: RefusedRequest) -> None:
        """Answer the request that is coming with an error, without the rest of it."""
        with self.requests_lock:
            request, self.request = self.request, None
            if request is None or self.requests:
                return
            request.error, request.completed = error, True
            self.requests.append(request)
            self.server.add_task(self)

    def handle_write(self) -> None:
        """Send what is ready. After a refusal, read on for a while: closed at once, a client may lose the answer."""
        if self.refused and self.close_when_flushed and not self.requests and not self.lingering:
            self._flush_exception(self._flush_some)
            if self.connected and not self.total_outbufs_len and not self.will_close:
                self.close_when_flushed, self.lingering = False, time.time()
                with contextlib.suppress(OSError):
                    self.socket.shutdown(socket.SHUT_WR)
            return
        super().handle_write()

    def handle_read(self) -> None:
        """Read what has come."""
        if not self.lingering:
            super().handle_read()
            return
        try:
            self.recv(self.adj.recv_bytes)  # closes the connection at its end
        except OSError:
            self.handle_close()

    def unanswered(self) -> bool:
        """Whether a request that has come whole is not answered yet, or its answer is not sent."""
        return bool(self.requests or self.total_outbufs_len)

    def waits(self) -> bool:
        """Whether the client is to go on: with its request, or by taking its answer."""
        return not self.requests and (self.request is not None or bool(self.total_outbufs_len))

    def last_to_close(self) -> tuple[bool, float]:
        """The order in which connections are closed for others: first the idle ones, then the slowest."""
        return (True, self.begun or self.last_activity) if self.waits() else (False, self.last_activity)


class Server(TcpWSGIServer):
    """A server of one listening socket."""

    channel_class = Channel

    def __init__(
        self,
        app: Any,
        listening: socket.socket,
        max_body_bytes: int,
        *,
        dropped: Callable[[], None],
        refused: Callable[[int], None],
    ) -> None:
        """dropped: called for each connection that is closed for a slow or idle client.

        refused: called with the status of each request that is answered without being read.
        """
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
        self._dropped, self.refused = dropped, refused
        self._stopped = self._at_once = False
        self._closing: list[Channel] = []
        self._short, self._large = ThreadedTaskDispatcher(), ThreadedTaskDispatcher()
        self._short.set_thread_count(SHORT_THREADS)
        self._large.set_thread_count(LARGE_THREADS)
        logging.getLogger("waitress").setLevel(logging.ERROR)  # that requests wait, or are left at the end, is no news
        info = (listening.family, listening.type, listening.proto, listening.getsockname())
        super().__init__(app, {}, _sock=listening, adj=adjustments, sockinfo=info, bind_socket=False)

    def add_task(self, task: Channel) -> None:
        """Queue a request. Those without a body take little time, and have a thread of their own."""
        first = task.requests[0]
        if not first.error and first.command != "GET":
            waiting = len(self.task_dispatcher.queue) + len(self._large.queue)
            if waiting >= MAX_WAITING or self.held() > MAX_HELD_BYTES:
                first.error = _too_many()
        if first.error or first.command == "GET":
            self._short.add_task(task)
        else:
            (self._large if first.body_bytes_received > LARGE_BYTES else self.task_dispatcher).add_task(task)

    def held(self) -> int:
        """Bytes of the bodies of all requests that have come or are coming."""
        return sum(one.held() for one in self._open())

    def handle_accept(self) -> None:
        """Accept a connection. If there are too many, close the one that has kept the server waiting longest."""
        super().handle_accept()
        if len(self.active_channels) <= MAX_CONNECTIONS:
            return
        *others, _ = self.active_channels.values()  # the last is the new one
        idle = [one for one in others if not one.requests and one not in self._closing]
        if idle:
            self._give_up(min(idle, key=Channel.last_to_close), _too_many())

    def maintenance(self, now: float) -> None:
        """Refuse requests that take too long to come, and close connections that are idle or do not take an answer."""
        for channel in self._open():
            slow = channel.waits() and channel.begun is not None and channel.begun < now - REQUEST_SECONDS
            if channel.lingering and channel.lingering < now - LINGER_SECONDS:
                self._closing.append(channel)
            elif slow or (not channel.requests and channel.last_activity < now - self.adj.channel_timeout):
                self._give_up(channel, _too_slow())
        if self.held() > MAX_HELD_BYTES:  # from those that send most
            coming = [one for one in self._open() if one.request is not None and not one.requests]
            for channel in sorted(coming, key=Channel.held)[-len(coming) // 2 :]:
                self._give_up(channel, _too_many())

    def _give_up(self, channel: Channel, reason: RefusedRequest) -> None:
        """Refuse the request that is coming, or close a connection on which none is."""
        if channel.request is None or channel.total_outbufs_len:
            self._drop(channel)
        else:
            self._dropped()
            channel.refuse(reason)

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

    def run(self) -> int:
        """Answer until `stop`; then answer what has arrived whole, and end. A second `stop` ends it at once.

        Returns how many requests were left without an answer.
        """
        while not self._stopped:
            self.turn(timeout=1)
        self.accepting = False
        self.del_channel()
        self.socket.close()  # new clients are refused from here on
        end = time.time() + ENDING_SECONDS
        while not self._at_once and time.time() < end and any(map(Channel.unanswered, self._open())):
            self.turn(timeout=0.1)
        left = sum(map(Channel.unanswered, self._open()))
        for dispatcher in (self._short, self._large, self.task_dispatcher):
            dispatcher.shutdown(timeout=0 if left else 1)
        wasyncore.close_all(self._map)
        return left

    def stop(self) -> None:
        """Let `run` end. For another thread, or a signal."""
        self._at_once, self._stopped = self._stopped, True
        self.pull_trigger()

    def _open(self) -> list[Channel]:
        return list(self.active_channels.values())


def _too_slow() -> RefusedRequest:
    words = f"The request did not come within {REQUEST_SECONDS} seconds, or nothing of it came for {IDLE_SECONDS}."
    return RefusedRequest(408, "Request Timeout", words)


def _too_many() -> RefusedRequest:
    words = f"The server has too many requests to answer. Send it again in {RETRY_SECONDS} seconds, or later."
    return RefusedRequest(503, "Service Unavailable", words, RETRY_SECONDS)


@contextlib.contextmanager
def stopped_by_signals(server: Server) -> Iterator[None]:
    """Let Ctrl-C, and SIGTERM, which ends containers and services, stop a server. Does nothing in another thread.

    A handler that raised KeyboardInterrupt would lose what has just been read of a request.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for one, handler in before.items():
        if handler is not signal.SIG_IGN:  # as a shell's job in the background ignores Ctrl-C
            signal.signal(one, lambda number, frame: server.stop())
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
