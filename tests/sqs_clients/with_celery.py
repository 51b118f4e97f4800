"""Celery with SQS as its broker: two real workers, one with queues that Celery makes, one with queues that are given.

The first is prefork, the second solo. Tasks succeed, retry, wait for their time, are revoked or expire before they
start, are given back, back off by visibility timeout, or take their worker process with them. In the end no queue holds
anything, and both workers have ended as they were told.
"""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import celery
import kombu
import pycurl
from celery.worker import state
from celery_tasks import PREDEFINED, dying, history, requeued, retrying, succeeding
from checks import ENDPOINT, check, done, same, until

HERE = Path(__file__).parent
WORK = Path(os.environ["WORK"])
REVOKED = "00000000-0000-4000-8000-000000000000"
START_SECONDS = 60  # many times what a start takes

sqs = boto3.client("sqs", endpoint_url=ENDPOINT)


def worker(name: str, queues: str, *flags: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "--hostname", name, "--queues", queues]
    return subprocess.Popen(
        [*command, "--loglevel", "INFO", "--logfile", str(WORK / f"{name}.log"), *flags],
        cwd=HERE,
        env={**os.environ, **environment},
    )


def runs(key: str) -> list[dict[str, Any]]:
    return [line for line in history() if line["key"] == key]


def revoke() -> None:
    """Revoke a task as a worker keeps it over a restart; SQS has no broadcast to tell a running one."""
    state.revoked.add(REVOKED)
    kept = state.Persistent(state, filename=str(WORK / "state"))
    kept.sync()
    kept.close()


def produce() -> float:
    """Send all tasks to a worker that runs; from when on those wait that do."""
    for number in range(20):
        succeeding.delay(f"quick {number}")
    succeeding.apply_async(["revoked"], task_id=REVOKED)
    succeeding.apply_async(["expired"], expires=datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1))
    begun = time.time()
    succeeding.apply_async(["countdown"], countdown=2)
    succeeding.apply_async(["eta"], eta=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2))
    succeeding.apply_async(["delayed"], DelaySeconds=2)
    retrying.delay("retrying")
    requeued.delay("requeued")
    dying.delay("dying")
    twice = {"queue": "auto.fifo", "MessageGroupId": "two", "MessageDeduplicationId": "once"}
    for _ in range(2):
        succeeding.apply_async(["deduplicated"], **twice)
    return begun


def produce_predefined() -> None:
    """By a producer of its own, for the options stand when the application is made."""
    code = """
from celery_tasks import backing_off, retrying, succeeding
succeeding.delay("predefined")
for number in range(5):
    succeeding.apply_async([f"in order {number}"], queue="known.fifo", MessageGroupId="one")
retrying.delay("predefined retrying")
backing_off.delay("backing off")
"""
    variables = {**os.environ, "CELERY_QUEUES": "predefined"}
    subprocess.run([sys.executable, "-c", code], cwd=HERE, env=variables, check=True)


def has_run(key: str, times: int = 1) -> None:
    until(lambda: len(runs(key)) >= times, f"{key} has run {times} times", START_SECONDS)


def results(begun: float) -> None:
    for number in range(20):
        has_run(f"quick {number}")
    for key in ("countdown", "eta", "delayed"):
        has_run(key)
        waited = runs(key)[0]["at"] - begun
        check(1.9 < waited < START_SECONDS, f"{key} waited {waited} s")
    has_run("retrying", 3)
    same([run["retries"] for run in runs("retrying")], [0, 1, 2], "retries")
    times = [run["at"] for run in runs("retrying")]
    check(times[2] - times[0] > 1.8, f"a retry waits for its countdown: {times}")
    has_run("requeued", 2)
    has_run("dying", 2)
    first, second = runs("dying")
    check(first["pid"] != second["pid"], "what a process did not survive runs in another")
    has_run("deduplicated")

    has_run("predefined")
    for number in range(5):
        has_run(f"in order {number}")
    order = [run["key"] for run in history() if run["key"].startswith("in order")]
    same(order, [f"in order {number}" for number in range(5)], "the order of a group")
    has_run("predefined retrying", 3)
    has_run("backing off", 3)
    times = [run["at"] for run in runs("backing off")]
    check(times[1] - times[0] > 0.9, f"the backoff policy delays what failed: {times}")


def nothing_is_left(urls: list[str]) -> None:
    names = [
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
    ]

    def count(url: str) -> int:
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(attributes[name]) for name in names)

    for url in urls:
        until(lambda url=url: count(url) == 0, f"{url} is empty")


def main() -> None:
    for name in PREDEFINED:
        sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"} if name.endswith(".fifo") else {})
    revoke()
    workers = [
        worker(
            "auto", "default,auto.fifo", "--pool", "prefork", "--concurrency", "2", "--statedb", str(WORK / "state")
        ),
        worker("predefined", ",".join(PREDEFINED), "--pool", "solo", CELERY_QUEUES="predefined"),
    ]
    try:
        succeeding.delay("first")
        has_run("first")
        begun = produce()
        produce_predefined()
        results(begun)
        urls = sqs.list_queues()["QueueUrls"]
        same({url.rpartition("/")[2] for url in urls}, {*PREDEFINED, "celery-default", "celery-auto.fifo"}, "queues")
        made = sqs.get_queue_url(QueueName="celery-default")["QueueUrl"]
        same(sqs.list_queue_tags(QueueUrl=made)["Tags"], {"made-by": "celery"}, "the tags of a queue that Celery made")
        nothing_is_left(urls)
        for key, times in (("revoked", 0), ("expired", 0), ("deduplicated", 1), ("countdown", 1), ("retrying", 3)):
            same(len(runs(key)), times, f"runs of {key}")
        log = (WORK / "auto.log").read_text()
        check(f"Discarding revoked task: celery_tasks.succeeding[{REVOKED}]" in log, "the worker knew what is revoked")
        for each in workers:
            each.send_signal(signal.SIGTERM)
        same([each.wait(START_SECONDS) for each in workers], [0, 0], "how the workers ended")
    except BaseException:
        for path in WORK.glob("*.log"):
            print(path.name, path.read_text()[-20_000:], sep="\n", file=sys.stderr)
        raise
    finally:
        for each in workers:
            each.kill()


main()
done(
    f"celery {celery.__version__}",
    f"kombu {kombu.__version__}",
    f"boto3 {boto3.__version__}",
    pycurl.version.split()[0],
)
