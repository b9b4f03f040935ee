"""Bounds what a request to a server may cost: the order in which requests are answered, pixels, and conversions."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tlkit.data.convert import Unreadable, convert
from tlkit.data.headers import Status, examine
from tlkit.errors import TlkitError

MAX_PIXELS_OF_REQUEST = 1_000_000_000  # of all its images, by their headers: twenty of the largest
CONVERTING = 6  # requests that convert a file, or wait for it, at the same time; others get 503
CONVERTING_SECONDS = 60.0  # for all files of a request that are converted
ROWS_AT_ONCE = 8  # of a request are answered together, which bounds memory and how long others wait
PIXELS_AT_ONCE = 13_000_000  # and not more pixels than this: a larger image is answered alone
RETRY_SECONDS = 5  # after which a client that was refused with 503 may come again


class Refused(TlkitError, ValueError):
    """A request that cannot be answered. status: of HTTP; retry: seconds after which it may be sent again, or None."""

    def __init__(self, message: str, status: int = 400, retry: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry = status, retry


class Turns:
    """A lock that goes to those who wait in the order in which they came. A request of many images cannot keep it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: collections.deque[threading.Event] = collections.deque()
        self._since: float | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn, and hold it in the block."""
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            if len(self._waiting) == 1:
                mine.set()
        mine.wait()
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None
            with self._lock:
                self._waiting.popleft()
                if self._waiting:
                    self._waiting[0].set()

    def seconds(self) -> float:
        """How long the present turn has lasted; 0 if there is none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since


@dataclass(frozen=True)
class Prepared:
    """A file of a request.

    index: its place in the request. data: what the model decodes, or the file itself where it cannot be converted.
    problem: why it cannot be read, if that is known before the model is asked; otherwise "".
    """

    index: int
    data: bytes
    problem: str = ""


class Converter:
    """Converts the files that a model does not decode, one at a time, beside the model's own work."""

    def __init__(self) -> None:
        self.turns = Turns()
        self._places = threading.BoundedSemaphore(CONVERTING)

    def convert(self, data: bytes) -> tuple[bytes, float]:
        """A file as the model decodes it, and the seconds that took without the wait.

        Raises Unreadable, and Refused with status 503 if too many wait.
        """
        if not self._places.acquire(blocking=False):
            raise Refused(
                "Too many images wait for their conversion. Send it again later, or send JPEG, PNG, GIF, BMP or WebP.",
                503,
                RETRY_SECONDS,
            )
        try:
            with self.turns.turn():
                begun = time.monotonic()
                return convert(data), time.monotonic() - begun
        finally:
            self._places.release()


class Allowance:
    """What one request may still cost."""

    def __init__(self, converter: Converter) -> None:
        self._converter, self._pixels, self._seconds = converter, 0, 0.0

    def pieces(self, files: Iterable[bytes]) -> Iterator[list[Prepared]]:
        """The files in pieces that are answered at once: `ROWS_AT_ONCE` files, `PIXELS_AT_ONCE` pixels at most.

        A file is examined, and converted if need be, only when its piece is due, to bound memory. Raises Refused with
        status 413 if they are too much together.
        """
        piece: list[Prepared] = []
        held = 0
        for index, data in enumerate(files):
            one, pixels = self._prepared(index, data)
            if piece and (held + pixels > PIXELS_AT_ONCE or len(piece) == ROWS_AT_ONCE):
                yield piece
                piece, held = [], 0
            piece.append(one)
            held += pixels
        if piece:
            yield piece

    def _prepared(self, index: int, data: bytes) -> tuple[Prepared, int]:
        """A file as the model decodes it, and its pixels; 0 if it is refused by its header."""
        verdict = examine(data)
        if verdict.status is Status.CONVERT:
            if self._seconds > CONVERTING_SECONDS:
                raise Refused(
                    f"Converting the images of the request took more than {CONVERTING_SECONDS:.0f} seconds. Send fewer "
                    "at a time, or send JPEG, PNG, GIF, BMP or WebP.",
                    413,
                )
            try:
                data, seconds = self._converter.convert(data)
            except Unreadable as reason:
                return Prepared(index, data, str(reason)), 0
            self._seconds += seconds
            verdict = examine(data)
        if verdict.status is not Status.DECODES:
            return Prepared(index, data, f"{verdict.problem}: {verdict.reason}"), 0
        pixels = verdict.width * verdict.height
        self._pixels += pixels
        if self._pixels > MAX_PIXELS_OF_REQUEST:
            raise Refused(
                f"The images of the request have more than {MAX_PIXELS_OF_REQUEST // 1_000_000:,} megapixels together. "
                "Send fewer at a time.",
                413,
            )
        return Prepared(index, data), pixels
