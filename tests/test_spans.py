"""The client's spans, by OpenTelemetry's own SDK, over a real server: from who sends to who consumes."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv import schemas
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.trace import SpanKind, StatusCode

from tests.both import Awaited, Blocking
from tests.harness import ROOT, Server, sound_server
from tq.client import Envelope, tracing
from tq.errors import QueueNotFound

NUMBERS = itertools.count(1)
OWN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Spans:
    """A provider of the SDK that keeps what was ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("the program")

    def take_all(self) -> list[ReadableSpan]:
        spans = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return spans

    def take(self, *names: str) -> list[ReadableSpan]:
        """The spans since the last time, which must have these names, in the order in which they ended."""
        spans = self.take_all()
        assert [span.name for span in spans] == list(names)
        return spans


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sound_server(tmp_path_factory.mktemp("spans") / "data") as running:
        yield running


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture(params=[Blocking, Awaited])
def make(request: pytest.FixtureRequest, server: Server) -> Iterator[Callable[..., Any]]:
    made = []

    def make_client(provider: Any, url: str = server.url, **options: Any) -> Any:
        made.append(request.param(url, tracer_provider=provider, **options))
        return made[-1]

    yield make_client
    for client in made:
        client.close()


@pytest.fixture
def client(make: Callable[..., Any], spans: Spans) -> Any:
    return make(spans.provider)


@pytest.fixture
def queue(client: Any, spans: Spans) -> str:
    name = f"q{next(NUMBERS)}"
    client.create_queue(name)
    spans.take()  # that is no message's affair
    return name


def ids(span: Any) -> tuple[int, int]:
    context = span if isinstance(span, trace.SpanContext) else span.context
    return context.trace_id, context.span_id


def parent_of(headers: dict[str, str]) -> tuple[int, int]:
    version, trace_id, span_id, flags = headers["traceparent"].split("-")
    assert (version, int(flags, 16) & 1) == ("00", 1)  # sampled; level 2 has another flag, for ids of chance
    return int(trace_id, 16), int(span_id, 16)


def attributes(span: ReadableSpan, server: Server) -> dict[str, Any]:
    """Those that differ; the others must be as they always are."""
    told = dict(span.attributes or {})
    always = {"messaging.system": "tq", "server.address": "127.0.0.1", "server.port": server.port}
    assert always.items() <= told.items()
    assert told["messaging.operation.name"] == told["messaging.operation.type"] == span.name.split()[0]
    assert told["messaging.destination.name"] == span.name.split()[1]
    names = {*always, "messaging.operation.name", "messaging.operation.type", "messaging.destination.name"}
    return {name: value for name, value in told.items() if name not in names}


def links(span: ReadableSpan) -> list[tuple[int, int]]:
    return [ids(link.context) for link in span.links]


# --- what is sent and received -----------------------------------------------------------


@pytest.mark.parametrize("content", [{"a": 1}, b"\0bytes"])
def test_a_message_carries_the_span_that_sent_it(
    client: Any, queue: str, spans: Spans, server: Server, content: Any
) -> None:
    with spans.tracer.start_as_current_span("order") as order:
        sent = client.send(queue, content)
    send, _ = spans.take(f"send {queue}", "order")
    assert (send.kind, send.status.status_code) == (SpanKind.PRODUCER, StatusCode.UNSET)
    assert send.parent is not None
    assert ids(send.parent) == ids(order.get_span_context())
    assert attributes(send, server) == {"messaging.message.id": str(sent.id)}
    message = client.receive(queue)
    assert message.content == content
    assert parent_of(message.headers) == ids(send)
    (receive,) = spans.take(f"receive {queue}")
    assert (receive.kind, receive.status.status_code, receive.parent) == (SpanKind.CLIENT, StatusCode.UNSET, None)
    assert attributes(receive, server) == {"messaging.message.id": str(sent.id)}
    assert links(receive) == [ids(send)]
    assert receive.start_time > send.start_time
    client.ack(message)
    spans.take()


def test_all_of_a_batch_carry_its_one_span(client: Any, queue: str, spans: Spans, server: Server) -> None:
    client.send_batch(queue, [1, Envelope(content=2, headers={"traceparent": OWN}), 3])
    (send,) = spans.take(f"send {queue}")
    assert (send.kind, attributes(send, server)) == (SpanKind.PRODUCER, {"messaging.batch.message_count": 3})
    messages = client.receive(queue, max=10)
    (receive,) = spans.take(f"receive {queue}")
    assert attributes(receive, server) == {"messaging.batch.message_count": 3}
    assert links(receive) == [ids(send), parent_of({"traceparent": OWN})]
    assert [parent_of(message.headers) for message in messages] == [ids(send), links(receive)[1], ids(send)]


def test_many_have_a_span_for_each_batch(client: Any, queue: str, spans: Spans, server: Server) -> None:
    assert client.send_many(queue, range(2_500)) == 2_500
    batches = spans.take(*[f"send {queue}"] * 3)
    counts = [attributes(span, server)["messaging.batch.message_count"] for span in batches]
    assert counts == [1_000, 1_000, 500]
    messages = client.receive(queue, max=1_000) + client.receive(queue, max=1_000)
    assert {parent_of(message.headers) for message in messages} == {ids(batches[0]), ids(batches[1])}
    first, second = spans.take(f"receive {queue}", f"receive {queue}")
    assert links(first) + links(second) == [ids(batches[0]), ids(batches[1])]


def test_a_transaction_sends_with_its_span(client: Any, queue: str, spans: Spans) -> None:
    other = f"{queue}-other"
    client.create_queue(other)
    client.transaction(send=[(queue, 1)])
    client.transaction(send=[(queue, 2), (other, 3)])
    one, several = spans.take(f"send {queue}", "send")
    assert "messaging.destination.name" not in (several.attributes or {})
    messages = [client.receive(name) for name in (queue, queue, other)]
    assert [parent_of(message.headers) for message in messages] == [ids(one), ids(several), ids(several)]


def test_of_several_queues_the_one_that_gave_is_named(client: Any, queue: str, spans: Spans) -> None:
    client.send(queue, 1)
    empty = f"{queue}-empty"
    client.create_queue(empty)
    assert client.receive([empty, queue]).content == 1
    assert len(spans.take(f"send {queue}", f"receive {queue}")) == 2


def test_a_receive_that_finds_nothing_leaves_no_span(client: Any, queue: str, spans: Spans) -> None:
    assert client.receive(queue) is None
    assert client.receive(queue, max=5) == []
    spans.take()


# --- what is done with messages -----------------------------------------------------------


class Shop(Exception):
    """What a program may fail with."""


def consumed(client: Any, queue: str, work: Callable[[Any], object], count: int = 1) -> None:
    """Work on so many messages, as a program does."""
    if isinstance(client, Blocking):
        with client.consume(queue, wait=1) as messages:
            for message in messages:
                work(message)
                count -= 1
                if not count:
                    messages.stop()
        return

    async def consume() -> None:
        nonlocal count
        async with client.client.consume(queue, wait=1) as messages:
            async for message in messages:
                work(message)
                count -= 1
                if not count:
                    messages.stop()

    client.loop.run_until_complete(consume())


def test_who_works_on_a_message_goes_on_with_its_trace(client: Any, queue: str, spans: Spans, server: Server) -> None:
    """From the order over the message to what the work does."""
    with spans.tracer.start_as_current_span("order") as order:
        first, second = client.send(queue, "first").id, client.send(queue, "second").id
    sends = spans.take(f"send {queue}", f"send {queue}", "order")[:2]
    seen = []

    def work(message: Any) -> None:
        with spans.tracer.start_as_current_span("work"):
            seen.append(message.id)

    consumed(client, queue, work, 2)
    assert seen == [first, second]
    found = [span for span in spans.take_all() if not span.name.startswith("receive")]
    assert [span.name for span in found] == ["work", f"process {queue}"] * 2
    for send, work_span, process, number in zip(sends, found[::2], found[1::2], seen, strict=True):
        assert (process.kind, process.status.status_code) == (SpanKind.CONSUMER, StatusCode.UNSET)
        assert attributes(process, server) == {"messaging.message.id": str(number)}
        assert links(process) == [ids(send)]
        assert process.parent is not None
        assert work_span.parent is not None
        assert (ids(process.parent), ids(work_span.parent)) == (ids(send), ids(process))
        assert work_span.context.trace_id == order.get_span_context().trace_id
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_where_a_span_is_active_that_is_the_parent(client: Any, queue: str, spans: Spans) -> None:
    client.send(queue, 1)
    (send,) = spans.take(f"send {queue}")
    with spans.tracer.start_as_current_span("job") as job:
        consumed(client, queue, lambda message: None)
        assert trace.get_current_span() is job
    (process,) = [span for span in spans.take_all() if span.name == f"process {queue}"]
    assert process.parent is not None
    assert (ids(process.parent), links(process)) == (ids(job.get_span_context()), [ids(send)])


def test_a_message_that_came_without_a_trace_begins_one(make: Callable[..., Any], spans: Spans) -> None:
    untraced, name = make(None), f"q{next(NUMBERS)}"
    untraced.create_queue(name)
    untraced.send(name, 1)
    untraced.send(name, 2, headers={"traceparent": "not one"})
    consumed(make(spans.provider), name, lambda message: None, 2)
    found = [span for span in spans.take_all() if span.name == f"process {name}"]
    assert [(span.parent, span.links) for span in found] == [(None, ())] * 2


def test_an_exception_in_the_work_is_on_its_span(client: Any, queue: str, spans: Spans) -> None:
    client.send(queue, "bad")
    spans.take(f"send {queue}")

    def work(message: Any) -> None:
        raise Shop("closed")

    with pytest.raises(Shop):
        consumed(client, queue, work)
    (process,) = [span for span in spans.take_all() if span.name == f"process {queue}"]
    assert (process.status.status_code, process.status.description) == (StatusCode.ERROR, "closed")
    assert (process.attributes or {})["error.type"] == "tests.test_spans.Shop"
    (event,) = process.events
    assert (event.attributes or {})["exception.type"] == "tests.test_spans.Shop"
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert client.receive(queue).receive_count == 2


def test_threads_that_share_a_consumer_have_a_span_each(make: Callable[..., Any], spans: Spans, server: Server) -> None:
    """One of them fails without a `with` of its own; its message goes back, and both spans end."""
    client, name = Blocking(server.url, tracer_provider=spans.provider), f"q{next(NUMBERS)}"
    client.create_queue(name)
    client.send_batch(name, ["good", "bad"])
    both = threading.Barrier(2)

    def work(messages: Any) -> None:
        with suppress(Shop):
            for message in messages:
                both.wait(10)
                assert (trace.get_current_span().attributes or {})["messaging.message.id"] == str(message.id)
                messages.stop()
                if message.content == "bad":
                    raise Shop
        assert trace.get_current_span() is trace.INVALID_SPAN

    with client.consume(name, wait=1) as messages:
        other = threading.Thread(target=work, args=(messages,))
        other.start()
        work(messages)
        other.join()
    found = [span for span in spans.take_all() if span.name == f"process {name}"]
    assert sorted((span.attributes or {})["messaging.message.id"] for span in found) == ["1", "2"]
    assert client.receive(name).content == "bad"
    client.close()


# --- what goes wrong -----------------------------------------------------------


def test_an_error_is_on_the_span(client: Any, spans: Spans) -> None:
    missing = f"q{next(NUMBERS)}"
    client.create_queue(missing)
    client.send(missing, 1)
    client.delete_queue(missing)
    client.create_queue(f"{missing}x")
    spans.take(f"send {missing}")
    with pytest.raises(QueueNotFound):
        client.receive(missing)
    (receive,) = spans.take(f"receive {missing}")
    assert receive.status.status_code is StatusCode.ERROR
    assert (receive.attributes or {})["error.type"] == "queue_not_found"
    (event,) = receive.events
    assert (event.name, (event.attributes or {})["exception.type"]) == ("exception", "tq.errors.QueueNotFound")


def test_a_server_that_is_not_there_is_an_error_of_the_span(make: Callable[..., Any], spans: Spans) -> None:
    client = make(spans.provider, "http://127.0.0.1:1", retry_seconds=0)
    for ask in (lambda: client.send("q", 1), lambda: client.receive("q")):
        with pytest.raises(Exception, match="cannot be reached") as caught:
            ask()
        assert caught.value.code == "unreachable"
    for span in spans.take("send q", "receive q"):
        assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.ERROR, "unreachable")


class Broken(SpanProcessor):
    """What somebody's plugin may do."""

    def __init__(self, *broken: str) -> None:
        self._broken = broken

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if "start" in self._broken:
            raise RuntimeError("start")

    def on_end(self, span: Any) -> None:
        if "end" in self._broken:
            raise RuntimeError("end")


@pytest.mark.parametrize("broken", ["start", "end"])
def test_a_tracer_that_fails_fails_nothing_else(
    make: Callable[..., Any], server: Server, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider = TracerProvider()
    provider.add_span_processor(Broken(broken))
    client, name = make(provider), f"q{next(NUMBERS)}"
    client.create_queue(name)
    with caplog.at_level(logging.WARNING, "tq.client"):
        assert client.send(name, "all the same").id == 1
        assert client.receive(name).content == "all the same"
    assert [record.message for record in caplog.records if record.name == "tq.client"] == ["a span was lost"] * 2


# --- without the SDK, and without anything -----------------------------------------------------------


def test_what_is_not_sampled_is_said_to_be_so(make: Callable[..., Any]) -> None:
    client, name = make(TracerProvider(sampler=ALWAYS_OFF)), f"q{next(NUMBERS)}"
    client.create_queue(name)
    client.send(name, 1)
    assert int(client.receive(name).headers["traceparent"][-2:], 16) & 1 == 0


def test_without_an_sdk_nothing_is_made_and_what_is_there_goes_on(make: Callable[..., Any], spans: Spans) -> None:
    client, name = make(None), f"q{next(NUMBERS)}"
    client.create_queue(name)
    client.send(name, 1)
    assert client.receive(name).headers == {}
    with spans.tracer.start_as_current_span("order") as order:
        client.send(name, 1)
    assert parent_of(client.receive(name).headers) == ids(order.get_span_context())


def test_the_provider_of_the_program_may_be_set_later(server: Server) -> None:
    """In a process of its own, for it can be set once."""
    script = """if 1:
        import sys
        import tq
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        client = tq.Client(sys.argv[1])
        client.create_queue("later")
        client.send("later", 1)
        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        client.send("later", 2)
        first, second = client.receive("later", max=2)
        print([span.name for span in exporter.get_finished_spans()], first.headers, len(second.headers))
    """
    ran = subprocess.run(
        [sys.executable, "-c", script, server.url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("['send later', 'receive later'] {} 1\n", "")


def test_without_opentelemetry_there_are_no_traces(server: Server) -> None:
    script = """if 1:
        import sys
        sys.modules["opentelemetry"] = None
        import tq
        client = tq.Client(sys.argv[1])
        client.create_queue("untraced")
        client.send("untraced", 1)
        assert client.receive("untraced").headers == {}
        assert client._tracing is None
        try:
            tq.Client(tracer_provider=object())
        except ImportError as error:
            print(error)
    """
    ran = subprocess.run(
        [sys.executable, "-c", script, server.url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("Traces need OpenTelemetry: pip install 'tq[otel]'\n", "")


def test_the_names_are_those_of_the_conventions() -> None:
    source = Path(tracing.__file__).read_text()
    known = {value for value in vars(messaging_attributes).values() if isinstance(value, str)}
    known |= {"server.address", "server.port", "error.type"}
    used = {name for name in known if f'"{name}"' in source}
    assert len(used) == 9
    assert source.count('"messaging.') == sum(name.startswith("messaging.") for name in used)
    kinds = {kind.value for kind in messaging_attributes.MessagingOperationTypeValues}
    assert {"send", "receive", "process"} <= kinds
    assert tracing.SCHEMA in {schema.value for schema in schemas.Schemas}
