"""aiobotocore: many sends and receives at the same time on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import aiobotocore
import botocore
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from checks import ENDPOINT, check, done, same

SENDERS = 20
EACH = 10
RECEIVERS = 10


async def crowd(client: Any) -> None:
    """All that is sent by many at once is received once by many others, who wait in long polls before it comes."""
    url = (await client.create_queue(QueueName="crowd", Attributes={"VisibilityTimeout": "60"}))["QueueUrl"]
    received: list[str] = []

    async def receiver() -> None:
        while len(received) < SENDERS * EACH * 2:
            answer = await client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            got = answer.get("Messages", [])
            received.extend(each["Body"] for each in got)
            if got:
                entries = [{"Id": each["MessageId"], "ReceiptHandle": each["ReceiptHandle"]} for each in got]
                gone = await client.delete_message_batch(QueueUrl=url, Entries=entries)
                same(len(gone["Successful"]), len(got), "deleted by a receiver")

    async def sender(number: int) -> None:
        for each in range(EACH):
            await client.send_message(QueueUrl=url, MessageBody=f"single {number} {each}")
        entries = [{"Id": str(each), "MessageBody": f"batch {number} {each}"} for each in range(EACH)]
        sent = await client.send_message_batch(QueueUrl=url, Entries=entries)
        same(len(sent["Successful"]), EACH, "sent by a sender")

    receivers = [asyncio.create_task(receiver()) for _ in range(RECEIVERS)]
    await asyncio.gather(*map(sender, range(SENDERS)))
    await asyncio.gather(*receivers)
    wanted = {
        f"{kind} {number} {each}" for kind in ("single", "batch") for number in range(SENDERS) for each in range(EACH)
    }
    same(len(received), len(wanted), "as many as were sent")
    same(set(received), wanted, "each of them")
    answer = await client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    for name in ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"):
        same(answer["Attributes"][name], "0", name)


async def long_polls(client: Any) -> None:
    """Those who wait are served one after the other, each with one of the messages."""
    url = (await client.create_queue(QueueName="polls"))["QueueUrl"]

    async def wait() -> list[Any]:
        return (await client.receive_message(QueueUrl=url, WaitTimeSeconds=20)).get("Messages", [])

    begun = time.monotonic()
    waiting = [asyncio.create_task(wait()) for _ in range(RECEIVERS)]
    entries = [{"Id": str(each), "MessageBody": str(each)} for each in range(RECEIVERS)]
    await client.send_message_batch(QueueUrl=url, Entries=entries)
    got = [await task for task in waiting]
    same(sorted(each["Body"] for (each,) in got), sorted(map(str, range(RECEIVERS))), "each poll has a message")
    check(time.monotonic() - begun < 10, "no poll waited to its end")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(wait(), 0.3)
        raise AssertionError("a poll of an empty queue was over")
    await client.send_message(QueueUrl=url, MessageBody="after the cancel")
    (message,) = await wait()
    same(message["Body"], "after the cancel", "a poll that was given up takes nothing")


async def paged(client: Any) -> None:
    await asyncio.gather(*(client.create_queue(QueueName=f"page-{number}") for number in range(5)))
    paginator = client.get_paginator("list_queues")
    pages = [
        page["QueueUrls"] async for page in paginator.paginate(QueueNamePrefix="page", PaginationConfig={"PageSize": 2})
    ]
    same([len(page) for page in pages], [2, 2, 1], "pages of ListQueues")
    try:
        await client.get_queue_url(QueueName="absent")
    except client.exceptions.QueueDoesNotExist as error:
        same(error.response["Error"]["Code"], "AWS.SimpleQueueService.NonExistentQueue", "the code")
    else:
        raise AssertionError("a queue that is absent was found")


async def main() -> None:
    # A long poll holds a connection of the pool, which has 10 when nothing is said.
    config = AioConfig(max_pool_connections=2 * (SENDERS + RECEIVERS))
    async with get_session().create_client("sqs", endpoint_url=ENDPOINT, config=config) as client:
        await crowd(client)
        await long_polls(client)
        await paged(client)


asyncio.run(main())
done(f"aiobotocore {aiobotocore.__version__}", f"botocore {botocore.__version__}")
