"""A Tornado server whose one `RequestHandler` does nothing: what an HTTP answer costs before any queueing.

`python -m benchmarks.do_nothing 100` answers every POST and GET with a constant of the size that tq's answers have for
100 bytes of content. It prints its address and runs until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

BACKLOG = 1024  # connections that may wait to be accepted; the same as tq's


class DoNothing(RequestHandler):
    def initialize(self, message: bytes) -> None:
        self.message = message

    def post(self) -> None:
        self._answer(201, b'{"id":1000}')

    def get(self) -> None:
        self._answer(200, self.message)

    def _answer(self, status: int, body: bytes) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(body)


def routes(content_bytes: int) -> list[Any]:
    """One route for every path. `content_bytes` is the size of the message's content as JSON text."""
    message = b'{"id":1000,"content":"%b","sent_at":"2026-01-01T00:00:00.000Z","receive_count":1}'
    return [(r"/.*", DoNothing, {"message": message % (b"x" * (content_bytes - 2))})]


async def serve(content_bytes: int) -> None:
    """Serve on a free port of the loopback, for ever."""
    sockets = bind_sockets(0, "127.0.0.1", backlog=BACKLOG)
    HTTPServer(Application(routes(content_bytes))).add_sockets(sockets)
    print(f"listens on http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
