"""What a developer in a hurry would write for want of a queue: FastAPI in front of a SQLite table, durable and plain.

`python -m benchmarks.fastapi_sqlite FILE` sends with `POST /queues/{queue}/messages` and receives with a GET, as tq
does. One connection serves all threads, which SQLite lets write one after the other anyway. It prints its address and
runs until it is ended.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import sys
import threading
import time
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

BACKLOG = 1024  # connections that may wait to be accepted; the same as tq's

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    content TEXT NOT NULL,
    sent_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS next_message ON messages (queue, id);
"""
SEND = "INSERT INTO messages (queue, content, sent_at) VALUES (?, ?, ?)"
RECEIVE = """
DELETE FROM messages WHERE id = (SELECT id FROM messages WHERE queue = ? ORDER BY id LIMIT 1)
RETURNING id, content, sent_at
"""


class Message(BaseModel):
    content: Any


def connect(path: str) -> sqlite3.Connection:
    """A commit waits for the disk: `FULL` syncs the log of the write-ahead mode at each."""
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(SCHEMA)
    return connection


def application(path: str) -> FastAPI:
    app = FastAPI()
    connection = connect(path)
    lock = threading.Lock()

    @app.post("/queues/{queue}/messages", status_code=201)
    def send(queue: str, message: Message) -> dict[str, Any]:
        content = json.dumps(message.content)
        with lock, connection:
            cursor = connection.execute(SEND, (queue, content, time.time()))
        return {"id": cursor.lastrowid}

    @app.get("/queues/{queue}/messages", response_model=None)
    def receive(queue: str) -> dict[str, Any] | Response:
        with lock, connection:
            row = connection.execute(RECEIVE, (queue,)).fetchone()
        if row is None:
            return Response(status_code=204)
        return {"id": row[0], "content": json.loads(row[1]), "sent_at": row[2]}

    return app


def serve(path: str) -> None:
    """Serve on a free port of the loopback, until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    config = uvicorn.Config(application(path), log_level="warning", access_log=False, backlog=BACKLOG)
    print(f"listens on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(sys.argv[1])
