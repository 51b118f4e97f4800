"""Clients of SQS for a server that is killed, and what must be true of all that they saw.

Producers send batches, consumers receive, delete and give back, and leave some messages until they are dead letters,
which a mover brings back. `wrong` judges it: what was deleted never comes again, what was sent and not deleted is there
in the end, once, and no message of a group in flight is handed out beside it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct, field

from tests.clients import Answer, Ask, Client, Place
from tests.harness import Reply, Server, wait_until
from tests.sqs_model import input_shape
from tests.sqs_wire import FORM_TYPE, Query, Told, flatten, read_xml

VISIBILITY_S = 2
RECEIVES = 2  # of a message, then it is a dead letter
PRODUCERS, CONSUMERS = 2, 4
GROUPS = 8  # of a producer
MAX_PAUSE_S = 0.03  # of a producer, so that consumers keep up


class Call(Ask, frozen=True, kw_only=True):
    operation: str
    queue: str
    bodies: tuple[str, ...] = ()


class Seen(Struct):
    """A request and what came of it. `bodies`: those it was about, or got; of a batch those that are known done."""

    operation: str
    queue: str
    bodies: tuple[str, ...]
    answer: Answer


class Log:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seen: list[Seen] = []

    def add(self, seen: Seen) -> None:
        with self._lock:
            self.seen.append(seen)


def call(operation: str, queue: str, bodies: tuple[str, ...] = (), **given: Any) -> Call:
    if operation != "StartMessageMoveTask":
        given["QueueUrl"] = queue
    parameters = [("Action", operation), ("Version", "2012-11-05"), *flatten(input_shape(operation), given)]
    return Call("POST", "/", urlencode(parameters).encode(), FORM_TYPE, operation=operation, queue=queue, bodies=bodies)


class SqsClient(Client):
    def __init__(self, name: str, seed: int, place: Place, log: Log, queues: tuple[str, str]) -> None:
        super().__init__(name, seed, place)
        self.log = log
        self.queue, self.dead = queues
        self.is_fifo = self.queue.endswith(".fifo")

    def learn(self, request: Ask, answer: Answer) -> None:
        assert isinstance(request, Call)
        told = None
        if answer.status:
            told = read_xml(request.operation, Reply(answer.status, {"Content-Type": "text/xml"}, answer.body))
        self.log.add(Seen(request.operation, request.queue, self.take(request, told), answer))

    def take(self, request: Call, told: Told | None) -> tuple[str, ...]:
        """Which bodies the log is told of."""
        return request.bodies


class Producer(SqsClient):
    """Sends a batch again until it knows what came of it, where its deduplication ids make that safe."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._again: Call | None = None
        self._numbers = Counter[str]()

    def next_request(self) -> Ask:
        if self._again:
            return self._again
        time.sleep(self.chance.uniform(0, MAX_PAUSE_S))
        entries: list[dict[str, Any]] = []
        for number in range(self.chance.choice((1, 3, 10))):
            group = f"{self.name}-{self.chance.randrange(GROUPS)}"
            self._numbers[group] += 1
            body = f"{group} {self._numbers[group]}"
            entry = {"Id": str(number), "MessageBody": body}
            entries.append(
                entry | {"MessageGroupId": group, "MessageDeduplicationId": body.replace(" ", ":")}
                if self.is_fifo
                else entry
            )
        bodies = tuple(entry["MessageBody"] for entry in entries)
        return call("SendMessageBatch", self.queue, bodies, Entries=entries)

    def take(self, request: Call, told: Told | None) -> tuple[str, ...]:
        assert told is None or (told.output and len(told.output.get("Successful", ())) == len(request.bodies)), told
        self._again = request if told is None and self.is_fifo else None
        return request.bodies


class Consumer(SqsClient):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._held: list[tuple[str, str]] = []  # bodies and handles

    def next_request(self) -> Ask:
        held, self._held = self._held, []
        queue = self.queue
        if not held:
            wait_s = self.chance.choice((0, 1))
            return call(
                "ReceiveMessage", queue, MaxNumberOfMessages=10, VisibilityTimeout=VISIBILITY_S, WaitTimeSeconds=wait_s
            )
        kept = [each for each in held if self.chance.random() < 0.8]  # the others time out
        entries = [{"Id": str(number), "ReceiptHandle": handle} for number, (_, handle) in enumerate(kept)]
        bodies = tuple(body for body, _ in kept)
        if not kept:
            return self.next_request()
        if self.chance.random() < 0.2:
            entries = [{**entry, "VisibilityTimeout": 0} for entry in entries]
            return call("ChangeMessageVisibilityBatch", queue, bodies, Entries=entries)
        return call("DeleteMessageBatch", queue, bodies, Entries=entries)

    def take(self, request: Call, told: Told | None) -> tuple[str, ...]:
        if told is None:
            return request.bodies
        assert told.output is not None, told
        if request.operation == "ReceiveMessage":
            self._held = [(each["Body"], each["ReceiptHandle"]) for each in told.output.get("Messages", ())]
            return tuple(body for body, _ in self._held)
        done = {int(each["Id"]) for each in told.output.get("Successful", ())}
        return tuple(body for number, body in enumerate(request.bodies) if number in done)


class Mover(SqsClient):
    """Brings dead letters back, at any rate."""

    def next_request(self) -> Ask:
        time.sleep(self.chance.uniform(0, 0.2))
        rate = {"MaxNumberOfMessagesPerSecond": self.chance.choice((20, 100, 500))}
        arn = f"arn:aws:sqs:us-east-1:000000000000:{self.dead}"
        return call("StartMessageMoveTask", self.dead, SourceArn=arn, **(rate if self.chance.random() < 0.5 else {}))

    def take(self, request: Call, told: Told | None) -> tuple[str, ...]:
        assert told is None or told.output or "already a task running" in (told.message or ""), told
        return ()


def make_queues(server: Server, queues: tuple[str, str]) -> None:
    name, dead = queues
    wire = Query(server.port)
    fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    assert wire.ask("CreateQueue", {"QueueName": dead, "Attributes": fifo}).status == 200
    policy = f'{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:{dead}","maxReceiveCount":{RECEIVES}}}'
    made = wire.ask("CreateQueue", {"QueueName": name, "Attributes": fifo | {"RedrivePolicy": policy}})
    assert made.status == 200, made
    wire.close()


def crew(seed: int, place: Place, log: Log, queues: tuple[str, str]) -> list[SqsClient]:
    clients: list[SqsClient] = [Producer(f"p{number}", seed, place, log, queues) for number in range(PRODUCERS)]
    clients += [Consumer(f"c{number}", seed, place, log, queues) for number in range(CONSUMERS)]
    return [*clients, Mover("m", seed, place, log, queues)]


def is_still(server: Server, queues: tuple[str, str]) -> bool:
    """Whether no lease and no move is under way, so that what is there stays where it is."""
    moves = server.request("GET", f"/queues/{queues[1]}/moves").json["moves"]
    counts = [server.request("GET", f"/queues/{queue}").json["messages"] for queue in queues]
    return not any(count["in_flight"] for count in counts) and not any(move["status"] == "running" for move in moves)


def left(server: Server, queues: tuple[str, str]) -> list[str]:
    """All that is there, in any state."""
    wait_until(lambda: is_still(server, queues), 60)
    found: list[str] = []
    for queue in queues:
        for state in ("ready", "in_flight", "delayed", "blocked"):
            after = ""
            while after is not None:
                page = server.request("GET", f"/queues/{queue}/peek?state={state}&limit=1000&after={after}").json
                found += [message["content"] for message in page["messages"]]
                after = page["next"]
    return found


class Story(Struct):
    """Everything that was seen, what was left in the end, and how many messages became dead letters and came back."""

    seen: list[Seen]
    left: list[str]
    dead_lettered: int = 0
    redriven: int = 0
    in_store: list[str] = field(default_factory=list)


def wrong(story: Story, is_fifo: bool) -> Iterator[str]:
    yield from story.in_store
    sent = {body for each in story.seen if each.operation == "SendMessageBatch" for body in each.bodies}
    known = {
        body
        for each in story.seen
        if each.operation == "SendMessageBatch" and each.answer.status
        for body in each.bodies
    }
    deleted: dict[str, int] = {}  # when it was known that it was
    perhaps: set[str] = set()
    for each in story.seen:
        if each.operation == "DeleteMessageBatch":
            perhaps.update(each.bodies)
            if each.answer.status:
                for body in each.bodies:
                    deleted[body] = min(deleted.get(body, each.answer.returned), each.answer.returned)
    for each in story.seen:
        for body in each.bodies if each.operation == "ReceiveMessage" else ():
            if body not in sent:
                yield f"invented: {body}"
            if each.answer.invoked > deleted.get(body, each.answer.invoked):
                yield f"came again: {body} was deleted"
    remaining = Counter(story.left)
    yield from (f"there {number} times: {body}" for body, number in remaining.items() if number > 1)
    yield from (f"back from the dead: {body}" for body in remaining if body in deleted)
    yield from (f"lost: {body}" for body in known - perhaps - remaining.keys())
    if is_fifo:
        yield from _beside(story.seen)


def _beside(seen: Sequence[Seen]) -> Iterator[str]:
    """Messages of a group that were handed out while others of it were surely in flight."""
    receives: dict[str, list[Seen]] = defaultdict(list)
    settled: dict[str, list[int]] = defaultdict(list)  # when it was begun to settle something of a group
    for each in seen:
        for group in {body.split(" ")[0] for body in each.bodies}:
            if each.operation == "ReceiveMessage":
                receives[group].append(each)
            elif each.operation != "SendMessageBatch":
                settled[group].append(each.answer.invoked)
    for group, those in receives.items():
        those.sort(key=lambda each: each.answer.invoked)
        for place, first in enumerate(those):
            until = first.answer.invoked + VISIBILITY_S * 1_000_000_000
            for second in takewhile(lambda each, until=until: each.answer.invoked < until, those[place + 1 :]):
                is_after = first.answer.returned < second.answer.invoked and second.answer.returned < until
                is_held = not any(first.answer.returned <= at <= second.answer.returned for at in settled[group])
                if is_after and is_held:
                    yield f"beside: {second.bodies} were handed out while {first.bodies} were in flight"
    for each in seen:
        if each.operation == "ReceiveMessage":
            for group in {body.split(" ")[0] for body in each.bodies}:
                numbers = [int(body.split(" ")[1]) for body in each.bodies if body.startswith(f"{group} ")]
                if len(numbers) != len(set(numbers)):
                    yield f"twice in one answer: {each.bodies}"


def figures(story: Story) -> Counter[str]:
    found: Counter[str] = Counter()
    for each in story.seen:
        found[f"{'ok' if each.answer.status else 'unknown'} {each.operation}"] += 1
        found[f"messages of {each.operation}"] += len(each.bodies)
    return found
