"""Clients of a server that is killed and comes back: threads that make one request after the other.

What they ask and what they make of the answers is said by those who derive from `Client`.
"""

from __future__ import annotations

import http.client
import random
import threading
from abc import ABC, abstractmethod
from time import monotonic_ns

import msgspec

REQUEST_SECONDS = 30  # a server that hangs for so long is a failure
MAX_CHARACTERS = 15_000  # of a content, 20 KB; from 1,984 bytes on it is cut into chunks of 4,080

TEXT = "".join(random.Random(0).choices("abcdefg 0123456789 {}[],:/ äß€漢字🙂", k=2 * MAX_CHARACTERS))


class Ask(msgspec.Struct, frozen=True):
    """A request as it is put on the wire."""

    method: str
    path: str
    body: bytes | None = None
    media_type: str = "application/json"


class Answer(msgspec.Struct, frozen=True):
    """What came of it, and when it was under way (monotonic ns). The status is 0 when it is not known what it did."""

    invoked: int
    returned: int
    status: int = 0
    body: bytes = b""


class Place:
    """Where the server is now. Clients that lost it wait here for its successor."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._generation = 0
        self._is_over = False
        self.port = 0

    def announce(self, port: int) -> int:
        """A new server is there; returns when. What was begun before cannot have reached it."""
        with self._changed:
            self._generation += 1
            self.port = port
            self._changed.notify_all()
            return monotonic_ns()

    def end(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def after(self, generation: int) -> int:
        """Wait for a later generation; 0 when all is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._generation > generation)
            return 0 if self._is_over else self._generation

    def begin(self, generation: int) -> int:
        """When a request to the server of this generation begins; 0 when it must not."""
        with self._changed:
            return 0 if self._is_over or self._generation != generation else monotonic_ns()


class Client(threading.Thread, ABC):
    """Makes one request after the other on a connection that it keeps."""

    def __init__(self, name: str, seed: int, place: Place) -> None:
        super().__init__(name=name, daemon=True)
        self.failure: BaseException | None = None
        self.path = ""  # of the request that is under way
        self.chance = random.Random(f"{seed} {name}")
        self._place = place
        self._sent = 0

    @abstractmethod
    def next_request(self) -> Ask: ...

    @abstractmethod
    def learn(self, request: Ask, answer: Answer) -> None: ...

    def content(self) -> bytes:
        """JSON text that no one else sends. Few bytes, hundreds and thousands of them are equally likely."""
        self._sent += 1
        size = int(MAX_CHARACTERS ** self.chance.random())
        start = self.chance.randrange(MAX_CHARACTERS)
        return f'["{self.name}", {self._sent}, "{TEXT[start : start + size]}"]'.encode()

    def run(self) -> None:
        generation = 0
        try:
            while generation := self._place.after(generation):
                connection = http.client.HTTPConnection("127.0.0.1", self._place.port, timeout=REQUEST_SECONDS)
                try:
                    connection.connect()
                except OSError:
                    continue  # killed again already, and nothing was asked
                while self._ask(connection, generation):
                    pass
                connection.close()
        except BaseException as failure:
            self.failure = failure

    def _ask(self, connection: http.client.HTTPConnection, generation: int) -> bool:
        """Make a request; False when the connection is of no more use."""
        request = self.next_request()
        status, body = 0, b""
        invoked = self._place.begin(generation)
        if not invoked:
            return False
        self.path = request.path
        try:
            connection.request(request.method, request.path, request.body, {"Content-Type": request.media_type})
            response = connection.getresponse()
            body = response.read()
            if response.status != 204 and not response.headers.get("Content-Length"):  # the last of them
                raise http.client.IncompleteRead(body)  # http.client takes headers that were cut off for all of them
            status = response.status
        except (OSError, http.client.HTTPException):
            pass  # whether any of it reached the server is not asked: it counts as possible
        self.path = ""
        self.learn(request, Answer(invoked, monotonic_ns(), status if status < 500 else 0, body))
        return status > 0

    def finish(self) -> None:
        """Wait for the last answer. Raises what it failed with."""
        self.join(2 * REQUEST_SECONDS)
        assert not self.is_alive()
        if self.failure:
            raise self.failure
