"""Spans of what a client does, by OpenTelemetry's conventions for messaging (1.44, in development).

`send` is a span of kind PRODUCER, around all tries of a request. Its context goes with the request, and the server
hands it on with each of the messages. `receive` is of kind CLIENT and made when something came, or failed: a wait that
found nothing leaves no span. `process` is of kind CONSUMER, around what a program does with a message. Both are linked
to the spans that sent the messages, and `process` is a child of that where no other span is active.

A span that cannot be made or ended is logged, and harms nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from time import time_ns
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from tq import __version__
from tq.client.calls import About, Answer, Call
from tq.client.messages import Message
from tq.errors import TqError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind, TracerProvider
try:
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    IS_INSTALLED = False
else:
    IS_INSTALLED = True
    _PROPAGATOR = TraceContextTextMapPropagator()  # what the server takes, whatever the program uses elsewhere

Operation = Literal["send", "receive", "process"]

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
MAX_LINKS = 128  # of one span; the SDK drops more

_LEFT: ContextVar[Work | None] = ContextVar("left", default=None)  # what was worked on here last

log = logging.getLogger("tq.client")


class _Sent(Struct):
    """All that is read of an answer to a send."""

    id: int | None = None


class _Handed(Struct):
    id: int
    queue: str | None = None
    headers: dict[str, str] = {}


class _Received(_Handed):
    """A message, or many."""

    id: int = 0
    messages: list[_Handed] | None = None


class Asking(AbstractContextManager["Asking"]):
    """A call that is under way: as it is to be asked, and its answer when that is there."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.answer: Answer | None = None

    def __exit__(self, *_: object) -> None:
        pass

    def answered(self, answer: Answer) -> Answer:
        self.answer = answer
        return answer


def tracing(provider: TracerProvider | None, address: str, port: int) -> Tracing | None:
    """None where OpenTelemetry is not installed; then nothing is traced. Raises ImportError for a provider then."""
    if IS_INSTALLED:
        return Tracing(provider, address, port)
    if provider is not None:
        raise ImportError("Traces need OpenTelemetry: pip install 'tq[otel]'")
    return None


class Tracing:
    """Makes the spans of one client. Without a provider of its own they go to OpenTelemetry's global one."""

    def __init__(self, provider: TracerProvider | None, address: str, port: int) -> None:
        self._provider = provider
        self._tracer = trace.get_tracer("tq.client", __version__, provider, SCHEMA)
        self._always = {"messaging.system": "tq", "server.address": address, "server.port": port}

    def asking(self, call: Call, about: About) -> AbstractContextManager[Asking]:
        """Around the tries of a call."""
        if self._is_idle():
            return Asking(call)
        return self._sending(call, about) if about.operation == "send" else self._receiving(call, about)

    def _is_idle(self) -> bool:
        """Nobody has set up any tracing in this process, so that it is not worth a look at each message."""
        return (
            self._provider is None
            and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
            and trace.get_current_span() is trace.INVALID_SPAN
        )

    @contextmanager
    def _sending(self, call: Call, about: About) -> Iterator[Asking]:
        asking = Asking(call)
        with self._span("send", trace.SpanKind.PRODUCER, about.queue, _count(about.count)) as span:
            with _harmless():
                carrier: dict[str, str] = {}
                _PROPAGATOR.inject(carrier)
                context = tuple((name.encode(), value.encode()) for name, value in carrier.items())
                asking.call = replace(call, headers=(*call.headers, *context))
            yield asking
            with _harmless():
                answer = asking.answer
                if answer and answer.error:
                    _fail(span, answer.error)
                elif answer and about.count is None and span.is_recording():
                    span.set_attributes(_id(msgspec.json.decode(answer.content, type=_Sent).id))

    @contextmanager
    def _receiving(self, call: Call, about: About) -> Iterator[Asking]:
        asking, began_ns = Asking(call), time_ns()
        error: BaseException | None = None
        try:
            yield asking
        except BaseException as raised:
            error = raised
            raise
        finally:
            with _harmless():
                self._received(about, asking.answer, error, began_ns)

    def _received(self, about: About, answer: Answer | None, error: BaseException | None, began_ns: int) -> None:
        queue: str = about.queue
        messages: list[_Handed] = []
        if answer and not answer.error and answer.content:
            told = msgspec.json.decode(answer.content, type=_Received)
            messages = [told] if told.messages is None else told.messages
            queue = messages[0].queue or queue if messages else queue
        error = error or (answer.error if answer else None)
        if not messages and (error is None or isinstance(error, GeneratorExit)):
            return
        told_of = _count(len(messages)) if about.count is not None else _id(messages[0].id if messages else None)
        links = _links(messages)
        with self._span("receive", trace.SpanKind.CLIENT, queue, told_of, links, began_ns) as span:
            if error:
                _fail(span, error)

    def begin(self, message: Message) -> Work | None:
        """A program has got a message to work on, in the context that is current here."""
        if self._is_idle():
            return None
        with _harmless():
            links = _links([_Handed(message.id, message.queue, message.headers)])
            outer = context.get_current()
            parent = outer
            if links and not trace.get_current_span(outer).get_span_context().is_valid:
                parent = trace.set_span_in_context(trace.NonRecordingSpan(links[0].context), outer)
            span = self._start("process", trace.SpanKind.CONSUMER, message.queue, _id(message.id), links, parent)
            context.attach(trace.set_span_in_context(span, outer))
            return Work(span, outer)
        return None

    @contextmanager
    def _span(
        self,
        operation: Operation,
        kind: SpanKind,
        queue: str,
        about: dict[str, Any],
        links: Sequence[trace.Link] = (),
        began_ns: int | None = None,
    ) -> Iterator[Span]:
        span: Span | None = None
        with _harmless():
            span = self._start(operation, kind, queue, about, links, None, began_ns)
        if span is None:
            yield trace.INVALID_SPAN  # which takes everything and does nothing
            return
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield span
        except BaseException as error:
            with _harmless():
                _fail(span, error)
            raise
        finally:
            with _harmless():
                span.end()

    def _start(
        self,
        operation: Operation,
        kind: SpanKind,
        queue: str,
        about: dict[str, Any],
        links: Sequence[trace.Link] = (),
        parent: Context | None = None,
        began_ns: int | None = None,
    ) -> Span:
        operations = {"messaging.operation.name": operation, "messaging.operation.type": operation}
        where = {"messaging.destination.name": queue} if queue else {}
        name = f"{operation} {queue}" if queue else operation
        attributes = {**self._always, **operations, **where, **about}
        return self._tracer.start_span(name, parent, kind, attributes, links, began_ns)


class Work:
    """A message in the hand of a program. Its span is the current one there until it ends."""

    def __init__(self, span: Span, outer: Context) -> None:
        self._span: Span | None = span
        self._outer = outer

    def leave(self) -> None:
        """The program does not work on it any more, and is in the context where it did. Why is not known yet."""
        with _harmless():
            if trace.get_current_span() is self._span:
                context.attach(self._outer)  # and not `detach`: it may be another task that has a copy of the context
                _LEFT.set(self)

    def end(self, error: BaseException | None = None) -> None:
        """It was handled, or given back: with the error that has ended a loop, if it is the one that was left here."""
        with _harmless():
            self.leave()
            if self._span:
                if error and _LEFT.get() is self:
                    _fail(self._span, error)
                self._span.end()
                self._span = None
            if _LEFT.get() is self:
                _LEFT.set(None)


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception:
        log.warning("a span was lost", exc_info=True)


def _count(count: int | None) -> dict[str, Any]:
    return {} if count is None else {"messaging.batch.message_count": count}


def _id(number: int | None) -> dict[str, Any]:
    return {} if number is None else {"messaging.message.id": str(number)}


def _fail(span: Span, error: BaseException) -> None:
    """An error of tq's is named by its code, others by their type."""
    of = type(error)
    name = of.__qualname__ if of.__module__ == "builtins" else f"{of.__module__}.{of.__qualname__}"
    span.set_attribute("error.type", error.code if isinstance(error, TqError) else name)
    span.record_exception(error)
    span.set_status(trace.StatusCode.ERROR, str(error))


def _links(messages: Sequence[_Handed]) -> list[trace.Link]:
    """To the spans that sent them, each once."""
    found = {}
    for message in messages:
        if "traceparent" in message.headers:
            context = trace.get_current_span(_PROPAGATOR.extract(message.headers)).get_span_context()
            if context.is_valid:
                found[context.trace_id, context.span_id] = context
    return [trace.Link(context) for context in list(found.values())[:MAX_LINKS]]
