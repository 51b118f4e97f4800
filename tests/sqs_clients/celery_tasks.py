"""The Celery application of `with_celery.py`, for producers and workers. What its tasks have done stands in a file."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject

ENDPOINT = os.environ["SQS_ENDPOINT"]
HISTORY = Path(os.environ["WORK"]) / "history"  # a JSON object in each line
PREDEFINED = ("known", "known.fifo")
BACKOFF = dict.fromkeys(range(1, 10), 1)  # seconds, by how often a message was received

options: dict[str, Any] = {
    "region": os.environ["AWS_DEFAULT_REGION"],
    "is_secure": False,
    "visibility_timeout": 60,
    "wait_time_seconds": 2,
    "polling_interval": 0,
}
if os.environ.get("CELERY_QUEUES") == "predefined":
    options["predefined_queues"] = {
        name: {
            "url": f"{ENDPOINT}/000000000000/{name}",
            "backoff_policy": BACKOFF,
            "backoff_tasks": ["celery_tasks.backing_off"],
        }
        for name in PREDEFINED
    }
else:
    options["queue_name_prefix"] = "celery-"
    options["queue_tags"] = {"made-by": "celery"}

app = Celery("celery_tasks", broker=f"sqs://any:any@{ENDPOINT.removeprefix('http://')}")
app.conf.update(
    broker_transport_options=options,
    broker_connection_retry_on_startup=True,
    task_default_queue="known" if "predefined_queues" in options else "default",
    task_ignore_result=True,
    worker_enable_remote_control=False,  # SQS has no broadcast
    worker_prefetch_multiplier=4,
)


def note(task: Task, key: str) -> int:
    """Write down that a task runs; how often one with this key has run before."""
    before = sum(line["key"] == key for line in history())
    told = {"task": task.name, "key": key, "at": time.time(), "retries": task.request.retries, "pid": os.getpid()}
    with HISTORY.open("a") as file:
        file.write(json.dumps(told) + "\n")
    return before


def history() -> list[dict[str, Any]]:
    return [json.loads(line) for line in HISTORY.read_text().splitlines()] if HISTORY.exists() else []


@app.task(bind=True)
def succeeding(self: Task, key: str) -> None:
    note(self, key)


@app.task(bind=True)
def retrying(self: Task, key: str) -> None:
    note(self, key)
    if self.request.retries < 2:
        raise self.retry(countdown=1)


@app.task(bind=True, acks_late=True)
def requeued(self: Task, key: str) -> None:
    if not note(self, key):
        raise Reject("not now", requeue=True)


@app.task(bind=True, acks_late=True, acks_on_failure_or_timeout=False)
def backing_off(self: Task, key: str) -> None:
    if note(self, key) < 2:
        raise RuntimeError("not yet")


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def dying(self: Task, key: str) -> None:
    if not note(self, key):
        os.kill(os.getpid(), signal.SIGKILL)
