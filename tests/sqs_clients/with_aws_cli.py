"""The `aws` command line: what a person at a shell does with queues, its JSON output and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from checks import ACCOUNT, ENDPOINT, REGION, check, done, same

FAILED = (254, 255)  # the exit code when a service has answered with an error: of version 2, and of 1


def run(operation: str, *parameters: str) -> subprocess.CompletedProcess[str]:
    command = ["aws", "--endpoint-url", ENDPOINT, "--output", "json", "sqs", operation, *parameters]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def aws(operation: str, *parameters: str) -> Any:
    """What it prints, as JSON; None when it prints nothing."""
    ran = run(operation, *parameters)
    assert ran.returncode == 0, f"{operation}: {ran.stderr}"
    return json.loads(ran.stdout) if ran.stdout else None


def queues() -> str:
    attributes = json.dumps({"VisibilityTimeout": "20", "DelaySeconds": "0"})
    url = aws("create-queue", "--queue-name", "cli", "--attributes", attributes, "--tags", "team=a,stage=b")["QueueUrl"]
    same(url, f"{ENDPOINT}/{ACCOUNT}/cli", "create-queue")
    same(aws("get-queue-url", "--queue-name", "cli"), {"QueueUrl": url}, "get-queue-url")
    same(aws("list-queues", "--queue-name-prefix", "cl"), {"QueueUrls": [url]}, "list-queues")
    found = aws("get-queue-attributes", "--queue-url", url, "--attribute-names", "All")["Attributes"]
    same(found["QueueArn"], f"arn:aws:sqs:{REGION}:{ACCOUNT}:cli", "get-queue-attributes")
    same(aws("list-queue-tags", "--queue-url", url), {"Tags": {"team": "a", "stage": "b"}}, "list-queue-tags")
    same(
        aws("set-queue-attributes", "--queue-url", url, "--attributes", "VisibilityTimeout=25"), None, "prints nothing"
    )
    return url


def messages(url: str) -> None:
    attributes = json.dumps({
        "n": {"DataType": "Number", "StringValue": "7"},
        "s": {"DataType": "String", "StringValue": "ä"},
    })  # fmt: skip
    sent = aws("send-message", "--queue-url", url, "--message-body", "from a shell", "--message-attributes", attributes)
    ask = ["--queue-url", url, "--message-attribute-names", "All", "--attribute-names", "All"]
    (got,) = aws("receive-message", *ask, "--wait-time-seconds", "2")["Messages"]
    same(got["MessageId"], sent["MessageId"], "the id")
    same(got["Body"], "from a shell", "the body")
    same(got["MessageAttributes"]["s"], {"StringValue": "ä", "DataType": "String"}, "a message attribute")
    same(got["MD5OfMessageAttributes"], sent["MD5OfMessageAttributes"], "the MD5 of attributes")
    handle = got["ReceiptHandle"]
    change = ["--queue-url", url, "--receipt-handle", handle, "--visibility-timeout", "0"]
    same(aws("change-message-visibility", *change), None, "change-message-visibility")
    (again,) = aws("receive-message", "--queue-url", url)["Messages"]
    same(aws("delete-message", "--queue-url", url, "--receipt-handle", again["ReceiptHandle"]), None, "delete-message")
    same(aws("receive-message", "--queue-url", url), None, "no messages")


def batch(url: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "entries.json"
        path.write_text(json.dumps([{"Id": str(number), "MessageBody": f"m{number}"} for number in range(3)]))
        sent = aws("send-message-batch", "--queue-url", url, "--entries", f"file://{path}")
    same([each["Id"] for each in sent["Successful"]], ["0", "1", "2"], "send-message-batch")
    got = aws("receive-message", "--queue-url", url, "--max-number-of-messages", "10")["Messages"]
    same([each["Body"] for each in got], ["m0", "m1", "m2"], "received of a batch")
    entries = [f"Id={number},ReceiptHandle={each['ReceiptHandle']}" for number, each in enumerate(got)]
    deleted = aws("delete-message-batch", "--queue-url", url, "--entries", *entries)
    same(len(deleted["Successful"]), 3, "delete-message-batch in the short syntax")
    same(aws("purge-queue", "--queue-url", url), None, "purge-queue")


def errors(url: str) -> None:
    ran = run("get-queue-url", "--queue-name", "absent")
    check(ran.returncode in FAILED, f"the exit code of an error: {ran.returncode}")
    check("AWS.SimpleQueueService.NonExistentQueue" in ran.stderr, f"the code of an error: {ran.stderr}")
    same(aws("delete-queue", "--queue-url", url), None, "delete-queue")
    check("QueueUrls" not in (aws("list-queues") or {}), "no queue is left")


url = queues()
messages(url)
batch(url)
errors(url)
version = subprocess.run(["aws", "--version"], capture_output=True, text=True, check=True, env=dict(os.environ))
done(*version.stdout.split()[:1])
