"""The server around the application: slow clients, too many of them, short requests under load, and the end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator

import flask
import pytest

from tlkit.deployment import server as module
from tlkit.deployment.metrics import Metrics
from tlkit.deployment.server import Server

BEGUN = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"


class Running:
    """A server in a thread, whose POST waits until `let_go` is set."""

    def __init__(self) -> None:
        self.dropped, self.let_go, self.entered = 0, threading.Event(), threading.Event()
        self.refused: list[int] = []
        self.left: list[int] = []
        self.begun = 0
        app = flask.Flask("test")

        @app.get("/")
        def short() -> str:
            return "short"

        @app.post("/")
        def long() -> str:
            self.entered.set()
            self.begun += 1
            assert self.let_go.wait(20)
            return f"read {len(flask.request.get_data())}"

        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.server = Server(app, self.listening, 1000, dropped=self.count, refused=self.refused.append)
        self.thread = threading.Thread(target=lambda: self.left.append(self.server.run()), daemon=True)
        self.thread.start()

    def count(self) -> None:
        self.dropped += 1

    def ask(self, method: str = "GET", body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, "/", body)
            return connection.getresponse().read()
        finally:
            connection.close()

    def open(self, sent: bytes) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        made.sendall(sent)
        return made


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.let_go.set()
    if made.thread.is_alive():
        made.server.stop()
    made.thread.join(10)
    assert not made.thread.is_alive()


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], str]:
    """The status, headers and error of an answer; the connection is closed after it."""
    with connection, connection.makefile("rb") as stream:  # reads time out after 10 s
        head, _, body = stream.read().partition(b"\r\n\r\n")
    first, *headers = head.decode("ascii").split("\r\n")
    return int(first.split()[1]), dict(one.split(": ", 1) for one in headers), json.loads(body)["error"]


@pytest.mark.parametrize(
    "sent",
    [BEGUN, b"GET / HT", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n"],
    ids=("body", "head", "chunk"),
)
@pytest.mark.slow
def test_a_request_that_takes_too_long_gets_408(sent: bytes, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.2)
    status, headers, words = answer_of(running.open(sent))
    assert status == 408 and "within 0.2 seconds" in words and headers["Connection"] == "close"
    assert running.dropped == 1 and running.refused == [408]
    assert running.ask() == b"short"


@pytest.mark.slow
def test_a_connection_that_says_nothing_is_closed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.server.adj, "channel_timeout", 1)
    with running.open(b"") as silent:
        assert silent.recv(1) == b"" and running.dropped == 1 and not running.refused


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"junk\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1000000000000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * module.MAX_HEADER_BYTES + b"\r\n\r\n", 431),
    ],
    ids=("junk", "bad length", "too large", "bad chunk", "coding", "long header"),
)
def test_what_is_not_read_is_refused_in_json(sent: bytes, status: int, running: Running) -> None:
    found, headers, words = answer_of(running.open(sent))
    assert found == status and headers["Content-Type"] == "application/json" and words
    assert running.refused == [status]


def test_requests_beyond_those_that_may_wait_get_503(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, whole = running.server.task_dispatcher.queue, BEGUN + b"defghi"
    waiting: list[socket.socket] = []
    for count in (module.THREADS, 3):
        waiting += [running.open(whole) for _ in range(count)]
        deadline = time.monotonic() + 10
        while len(queue) != len(waiting) - module.THREADS or running.begun < module.THREADS:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    status, headers, words = answer_of(running.open(whole))
    assert status == 503 and int(headers["Retry-After"]) > 0 and "too many requests" in words
    assert running.ask() == b"short", "what has no body is answered"
    running.let_go.set()
    for one in waiting:
        assert one.recv(12) == b"HTTP/1.1 200"
        one.close()


@pytest.mark.slow
def test_bodies_beyond_what_may_be_held_get_503(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 1200)
    begun = [running.open(b"POST / HTTP/1.1\r\nContent-Length: 900\r\n\r\n" + b"x" * size) for size in (400, 850)]
    assert answer_of(begun[1])[0] == 503, "the one that sent most"
    begun[0].sendall(b"x" * 500)
    running.let_go.set()
    assert begun[0].recv(12) == b"HTTP/1.1 200"
    begun[0].close()


def test_a_client_that_comes_when_another_is_dropped_is_answered(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new connection has the file descriptor of the old one, to which the events of that turn belong."""
    running.server.stop()
    running.thread.join(10)
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(running.server.application, listening, 1000, dropped=running.count, refused=running.refused.append)
    running.port = listening.getsockname()[1]
    with running.open(BEGUN), contextlib.ExitStack() as stack:
        while not any(one.request for one in server.active_channels.values()):
            server.turn(timeout=1)
        (number,) = server.active_channels
        while (taken := os.dup(listening.fileno())) < number:  # take every free number below it
            stack.callback(os.close, taken)
        os.close(taken)
        with running.open(b"GET / HTTP/1.0\r\n\r\n") as good:
            monkeypatch.setattr(module, "REQUEST_SECONDS", -1)
            server.next_channel_cleanup = 0
            server.turn(timeout=1)
            monkeypatch.setattr(module, "REQUEST_SECONDS", 60)
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(server.stop)
            assert running.dropped == 1 and good.recv(1000).startswith(b"HTTP/1.0 200")


@pytest.mark.slow
def test_a_byte_now_and_then_does_not_keep_a_connection(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.1)
    with running.open(b"GET / HTTP/1.1\r\nX-Long: ") as slow:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 8:
                slow.sendall(b"x")
                time.sleep(0.2)
        assert time.monotonic() - began < 8 and running.dropped == 1


def test_more_clients_than_allowed_close_the_slowest(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 8)
    slow = [running.open(BEGUN) for _ in range(30)]
    for _ in range(3):
        assert running.ask() == b"short", "good clients are answered all the same"
    assert running.dropped >= 30 - 8
    for one in slow:
        one.close()


def test_short_requests_do_not_wait_behind_long_ones(running: Running) -> None:
    threads = [threading.Thread(target=running.ask, args=("POST", b"abc")) for _ in range(module.THREADS + 4)]
    for one in threads:
        one.start()
    assert running.entered.wait(10)
    assert running.ask() == b"short"
    running.let_go.set()
    for one in threads:
        one.join(10)
        assert not one.is_alive()


def test_the_end_answers_what_has_arrived_and_takes_no_more(running: Running) -> None:
    answers: list[bytes] = []
    waiting = threading.Thread(target=lambda: answers.append(running.ask("POST", b"abc")))
    waiting.start()
    assert running.entered.wait(10)
    running.server.stop()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", running.port), timeout=1).close()
        except OSError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("it still takes connections")
    running.let_go.set()
    waiting.join(10)
    running.thread.join(10)
    assert answers == [b"read 3"] and not running.thread.is_alive() and running.left == [0]


def test_a_second_stop_ends_it_at_once_and_counts_what_is_left(running: Running) -> None:
    waiting = running.open(BEGUN + b"defghi")
    assert running.entered.wait(10)
    running.server.stop()
    running.server.stop()
    running.thread.join(10)
    assert not running.thread.is_alive() and running.left == [1]
    waiting.close()


def test_metrics_are_counts_that_add_up() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.3, 99.0):
        metrics.request("predict", 200, seconds)
    metrics.request("predict", 400, 0.01)
    metrics.image("answered", 3)
    metrics.drop()
    text = metrics.text()
    assert 'tlkit_requests_total{endpoint="predict",status="200"} 3' in text
    assert 'tlkit_images_total{outcome="answered"} 3' in text and "tlkit_connections_dropped_total 1" in text
    buckets = [int(line.split()[1]) for line in text.splitlines() if "_bucket{" in line]
    assert buckets == sorted(buckets) and buckets[0] == 2 and buckets[-1] == 4 and buckets[-2] == 3
    assert "tlkit_request_seconds_count" in text and text.endswith("\n")
    for line in text.splitlines():
        assert line.startswith("# ") or float(line.rsplit(" ", 1)[1]) >= 0
