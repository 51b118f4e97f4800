"""The same work over SQS and over tq's own API, on one server.

Requests are as large as those of an SDK (boto3 1.42): its headers, with a signature. The queue that they are sent to
was made over SQS, so that its messages have a retention.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.load import Failed, HttpRequest, Loader, Sample, run_raw
from benchmarks.loader import Work
from benchmarks.measure import Plan, Speed, Spread, Step, new_setup, ratio, speed
from benchmarks.server import Client
from benchmarks.systems import Tq, send_batch, start_tq
from benchmarks.wires import TOKEN
from benchmarks.wires import Step as Exchange

CONNECTIONS = 128
APIS = ("own", "SQS")
ROUNDS = {"send, lease, ack": ("send", "lease", "ack"), "the same 10": ("send 10", "lease 10", "ack 10")}
CELLS = ("send", "lease", "send 10", *ROUNDS)
ENTRIES = 10
RECEIPTS = {"lease": 1, "lease 10": ENTRIES}
RECEIPT_BYTES = 23
LEASES_PER_SECOND = 60_000  # more than are done
LEASE_S = 36_000  # longer than any run
TOKENS = [TOKEN.decode()] * ENTRIES
JSON_1_0 = "application/x-amz-json-1.0"
SDK = (
    ("Accept-Encoding", "identity"),
    ("x-amzn-query-mode", "true"),
    (
        "User-Agent",
        "Boto3/1.42.0 md/Botocore#1.42.0 ua/2.1 os/linux#6.1 md/arch#x86_64 lang/python#3.11.7 md/pyimpl#CPython "
        "m/Z,b,D cfg/retry-mode#legacy Botocore/1.42.0",
    ),
    ("X-Amz-Date", "20260101T000000Z"),
    (
        "Authorization",
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/us-east-1/sqs/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date;x-amz-target;x-amzn-query-mode, Signature="
        + "0123456789abcdef"
        * 4,
    ),
    ("amz-sdk-invocation-id", "01234567-89ab-4def-8123-456789abcdef"),
    ("amz-sdk-request", "attempt=1"),
)


class SqsFigures(Struct, frozen=True):
    """A cell in one of the two. `ratio` is its requests/s to those of tq's own API; None for that itself."""

    cell: str
    api: str
    speed: Speed
    ratio: Spread | None


def sqs_steps(plan: Plan) -> int:
    return 1 + plan.repeats * len(CELLS) * len(APIS)


def compare_sqs(plan: Plan, loader: Loader, directory: Path, step: Step) -> list[SqsFigures]:
    """Raises Failed."""
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    connections = CONNECTIONS if plan.warm_up_s else max(plan.connections)
    with start_tq(new_setup(plan, loader, directory, "sqs")) as tq:
        with step("two queues are made"):
            _make_queues(tq)
        for _ in range(plan.repeats):
            for cell in CELLS:
                for api in APIS:
                    with step(f"{cell}, {api}"):
                        samples[cell, api].append(_measure(tq, cell, api, connections, plan.duration_s))
    return [
        SqsFigures(cell, api, speed(found), None if api == "own" else ratio(found, samples[cell, "own"]))
        for (cell, api), found in samples.items()
    ]


def _make_queues(tq: Tq) -> None:
    with Client(tq.port) as client:
        client.json("POST", "/queues", b'{"name": "own"}')
        target = {"X-Amz-Target": "AmazonSQS.CreateQueue"}
        client.json("POST", "/", b'{"QueueName": "SQS"}', JSON_1_0, target)


def _measure(tq: Tq, cell: str, api: str, connections: int, duration_s: float) -> Sample:
    queue = f"lease-{uuid4().hex[:8]}" if cell == "lease" else api
    with Client(tq.port) as client:
        if cell == "lease":
            client.json("POST", "/queues", json.dumps({"name": queue}).encode())
            left = int(LEASES_PER_SECOND * duration_s)
            while left > 0:
                left -= send_batch(client, queue, tq.setup.envelope, left)
        host = f"127.0.0.1:{tq.port}"
        requests = sdk_requests(host, queue, tq.setup.content_bytes) if api == "SQS" else _own(tq, queue)
        counter = "sent" if cell.startswith("send") else "received"
        before = client.json("GET", f"/queues/{queue}")["totals"][counter]
        if cell in ROUNDS:
            steps = [with_receipts(requests[name], RECEIPTS.get(name, 0)) for name in ROUNDS[cell]]
            return run_raw(Work(tq.port, "HTTP", steps, connections, duration_s))
        sample = tq.setup.loader.run(requests[cell], connections, duration_s)
        done = client.json("GET", f"/queues/{queue}")["totals"][counter] - before
        if not 0 <= done / (ENTRIES if cell == "send 10" else 1) - sample.requests <= connections:
            raise Failed(f"{sample.requests} requests were answered and {done} messages counted ({cell}, {api})")
        return sample


def _own(tq: Tq, queue: str) -> dict[str, HttpRequest]:
    queue_url = f"http://127.0.0.1:{tq.port}/queues/{queue}"
    url = f"{queue_url}/messages"
    envelope = tq.setup.envelope
    return {
        "send": HttpRequest("POST", url, envelope),
        "send 10": HttpRequest("POST", url, f"[{', '.join([envelope] * ENTRIES)}]"),
        "lease": HttpRequest("GET", f"{url}?visibility_timeout={LEASE_S}"),
        "lease 10": HttpRequest("GET", f"{url}?visibility_timeout={LEASE_S}&max={ENTRIES}"),
        "ack": HttpRequest("DELETE", f"{url}/{TOKEN.decode()}"),
        "ack 10": HttpRequest("POST", f"{queue_url}/acks", json.dumps({"receipts": TOKENS})),
    }


def sdk_requests(host: str, queue: str, content_bytes: int) -> dict[str, HttpRequest]:
    """What an SDK sends, by what for."""
    url = f"http://{host}/000000000000/{queue}"
    body = "x" * (content_bytes - 2)
    entries = [{"Id": str(number), "MessageBody": body} for number in range(ENTRIES)]
    handles = [{"Id": str(number), "ReceiptHandle": token} for number, token in enumerate(TOKENS)]
    inputs = {
        "send": ("SendMessage", {"MessageBody": body}),
        "send 10": ("SendMessageBatch", {"Entries": entries}),
        "lease": ("ReceiveMessage", {"VisibilityTimeout": LEASE_S}),
        "lease 10": ("ReceiveMessage", {"VisibilityTimeout": LEASE_S, "MaxNumberOfMessages": ENTRIES}),
        "ack": ("DeleteMessage", {"ReceiptHandle": TOKEN.decode()}),
        "ack 10": ("DeleteMessageBatch", {"Entries": handles}),
    }
    return {
        name: HttpRequest(
            "POST",
            f"http://{host}/",
            json.dumps({"QueueUrl": url, **wanted}),
            JSON_1_0,
            (("X-Amz-Target", f"AmazonSQS.{operation}"), *SDK),
        )
        for name, (operation, wanted) in inputs.items()
    }


def with_receipts(request: HttpRequest, receipts: int) -> Exchange:
    """The request with what its answer begins with, and so many receipts in it."""
    longer = (RECEIPT_BYTES - len(TOKEN)) * request.body.count(TOKEN.decode())
    padded = replace(request, body=request.body + " " * longer).as_bytes()
    sized = padded[: len(padded) - longer] if longer else padded
    return Exchange(sized, rb"HTTP/1.1 20[014] " + rb'.*?"(?:receipt|ReceiptHandle)":"([^"]+)"' * receipts)
