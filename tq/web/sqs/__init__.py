"""Amazon SQS, in both of its protocols, over the same queues and messages as tq's own API.

    request ─▶ JSON 1.0 or Query ─▶ `shapes` (input) ─▶ operation ─▶ commands of the model
    answer  ◀─ JSON 1.0 or XML   ◀─ output (a dict)  ◀─ operation ◀─ results

An operation is a generator: it yields commands and queries, is sent their results, and returns its output by the names
of the service model. `queues`, `messages` and `moves` hold them; `attributes` and `contents` say what a queue's
attributes and a message's are in tq; `errors` has the codes and texts of the service; `query` is the older protocol.
Rules that change what becomes of a message are not here but in `lifecycle`, as properties of queues and commands.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable
from typing import Any

import msgspec

from tq.errors import InternalError, TqError
from tq.metrics import Metrics
from tq.settings import Settings
from tq.tokens import Token, Tokens
from tq.web.exchange import ANY, NO_PAGE, Answer, Request, Response, Route, Steps, decode
from tq.web.sqs import messages, moves, query, queues, shapes
from tq.web.sqs.call import Call, Operation, Output, Recent
from tq.web.sqs.errors import MODELED, MODELED_KINDS, UNMODELED, WRONG_VALUES, SqsError, from_tq
from tq.web.sqs.signature import verify

JSON_1_0 = "application/x-amz-json-1.0"
XML = "text/xml"
TARGET = "AmazonSQS."
UNKNOWN_OPERATION = "UnknownOperationException"
MAX_BODY_BYTES = 4 * 1024 * 1024  # a megabyte in the longest forms of its characters, and a form with what it takes
MAX_CREDENTIAL_LENGTH = 256  # characters of a presigned request's; a name, a day, a region and two words

log = logging.getLogger("tq.web")

_OPERATIONS: dict[str, tuple[type[shapes.Input], Callable[[Call, Any], Operation]]] = {
    "AddPermission": (shapes.AddPermission, queues.add_permission),
    "CancelMessageMoveTask": (shapes.CancelMessageMoveTask, moves.cancel_message_move_task),
    "ChangeMessageVisibility": (shapes.ChangeMessageVisibility, messages.change_message_visibility),
    "ChangeMessageVisibilityBatch": (shapes.ChangeMessageVisibilityBatch, messages.change_message_visibility_batch),
    "CreateQueue": (shapes.CreateQueue, queues.create_queue),
    "DeleteMessage": (shapes.DeleteMessage, messages.delete_message),
    "DeleteMessageBatch": (shapes.DeleteMessageBatch, messages.delete_message_batch),
    "DeleteQueue": (shapes.DeleteQueue, queues.delete_queue),
    "GetQueueAttributes": (shapes.GetQueueAttributes, queues.get_queue_attributes),
    "GetQueueUrl": (shapes.GetQueueUrl, queues.get_queue_url),
    "ListDeadLetterSourceQueues": (shapes.ListDeadLetterSourceQueues, queues.list_dead_letter_source_queues),
    "ListMessageMoveTasks": (shapes.ListMessageMoveTasks, moves.list_message_move_tasks),
    "ListQueueTags": (shapes.ListQueueTags, queues.list_queue_tags),
    "ListQueues": (shapes.ListQueues, queues.list_queues),
    "PurgeQueue": (shapes.PurgeQueue, queues.purge_queue),
    "ReceiveMessage": (shapes.ReceiveMessage, messages.receive_message),
    "RemovePermission": (shapes.RemovePermission, queues.remove_permission),
    "SendMessage": (shapes.SendMessage, messages.send_message),
    "SendMessageBatch": (shapes.SendMessageBatch, messages.send_message_batch),
    "SetQueueAttributes": (shapes.SetQueueAttributes, queues.set_queue_attributes),
    "StartMessageMoveTask": (shapes.StartMessageMoveTask, moves.start_message_move_task),
    "TagQueue": (shapes.TagQueue, queues.tag_queue),
    "UntagQueue": (shapes.UntagQueue, queues.untag_queue),
}
_NOT_AT_A_QUEUE = ("CreateQueue", "ListQueues")
# Of the JSON protocol, by what it calls them: how their input is decoded, and the operation.
_TARGETS = {TARGET + name: (msgspec.json.Decoder(shape).decode, name) for name, (shape, _) in _OPERATIONS.items()}


class Endpoint:
    """What answers SQS at `/` and at `/{account}/{queue}`."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._counts = metrics.sqs_requests
        self._account = settings.sqs_account
        self._scheme = settings.scheme
        self._purged = Recent(settings.sqs_purge_seconds)
        self._deleted = Recent(settings.sqs_recreate_seconds)
        self.tokens: Tokens | None = None

    def routes(self) -> tuple[Route, ...]:
        answers = {200: Answer({ANY: bytes})}
        about: dict[str, Any] = {"query": None, "bodies": {ANY: bytes}, "answers": answers, "is_open": True}
        return tuple(
            Route(method, path, self.ask, _rendered, refuse=_refused, **about)
            for method in ("POST", "GET")
            for path in ("/", "/{account}/{queue}")
        )

    def ask(self, request: Request) -> Steps:
        """Run the operation that a request names, and answer in its protocol."""
        protocol = _protocol_of(request)
        try:
            if len(request.body) > MAX_BODY_BYTES:
                message = f"A request has at most {MAX_BODY_BYTES} bytes."
                raise SqsError("RequestEntityTooLarge", message, status=413)
            begin, wanted = protocol.read()
            call = Call(request, protocol.credential, self._account, self._scheme, self._purged, self._deleted)
            try:
                output = yield from self._permitted(request, begin(call, wanted))
            except SqsError as error:
                # Where the queue is missing too, the service says that. It is looked for only now, because it is rare.
                if error.kind in WRONG_VALUES and hasattr(wanted, "queue_url"):
                    yield from self._permitted(request, queues.look_for(call, wanted.queue_url))
                raise
        except SqsError as error:
            refusal = error
        except TqError as error:
            refusal = from_tq(error)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            refusal = from_tq(InternalError())
        else:
            self._counts[protocol.operation, ""] += 1
            return protocol.answer(output)
        self._counts[protocol.operation, refusal.code] += 1
        return _told(protocol, refusal)

    def _permitted(self, request: Request, operation: Operation) -> Operation:
        """The operation, each part of which the signer must have the right to where there are tokens."""
        return _checked(verify(request, self.tokens), operation) if self.tokens else operation


def _checked(token: Token, operation: Operation) -> Operation:
    """An operation of which the token must have the right to every part. Raises Forbidden."""
    result: Any = None
    refusal: TqError | None = None
    while True:
        try:
            asked = operation.throw(refusal) if refusal else operation.send(result)
        except StopIteration as stop:
            output: Output = stop.value
            return output
        token.check(asked)
        refusal = None
        try:
            result = yield asked
        except TqError as error:
            refusal = error


_requests = itertools.count(random.getrandbits(48))
_PROCESS = f"{random.getrandbits(32):08x}-{random.getrandbits(16):04x}-4{random.getrandbits(12):03x}-8000"


def _request_id() -> str:
    """A UUID of version 4 in its form. It only has to be another one each time, so they are counted."""
    return f"{_PROCESS}-{next(_requests) & 0xFFFFFFFFFFFF:012x}"


def _rendered(_: Request, response: Response) -> Response:
    return response


_Begin = Callable[[Call, Any], Operation]


class _Protocol:
    """One of the two, for one request. `operation` is the name of one that is known, once it was read."""

    operation = "unknown"

    def __init__(self, request: Request) -> None:
        self._request = request
        self._request_id = _request_id()

    def read(self) -> tuple[_Begin, Any]:
        """The operation that is asked for, and its input. Raises SqsError."""
        raise NotImplementedError

    def answer(self, output: Output) -> Response:
        raise NotImplementedError

    def error(self, error: SqsError) -> Response:
        raise NotImplementedError

    def credential(self) -> str:
        """Where the request says who has signed it."""
        return self._request.headers.get("authorization", "")

    def _headers(self) -> tuple[tuple[str, str], ...]:
        return (("x-amzn-RequestId", self._request_id),)


def _protocol_of(request: Request) -> _Protocol:
    return _Json(request) if "x-amz-target" in request.headers else _Query(request)


def _refused(request: Request, error: TqError) -> Response:
    return _told(_protocol_of(request), from_tq(error))


def _told(protocol: _Protocol, error: SqsError) -> Response:
    response = protocol.error(error)
    return msgspec.structs.replace(response, outcome=(response.status, error.code))


class _Json(_Protocol):
    """AWS JSON 1.0: the operation in a header, its input as the body."""

    def read(self) -> tuple[_Begin, Any]:
        target = _TARGETS.get(self._request.headers["x-amz-target"])
        if target is None:
            raise SqsError(UNKNOWN_OPERATION, "The operation that X-Amz-Target names is not known.")
        decoder, self.operation = target
        try:
            wanted = decode(decoder, self._request.body or b"{}")
        except TqError as error:
            raise SqsError("SerializationException", error.detail) from error
        return _OPERATIONS[self.operation][1], wanted

    def answer(self, output: Output) -> Response:
        told = output if all(output.values()) else {name: value for name, value in output.items() if _is_told(value)}
        return Response(200, msgspec.json.encode(told), JSON_1_0, self._headers())

    def error(self, error: SqsError) -> Response:
        prefix = MODELED if error.kind in MODELED_KINDS else UNMODELED
        body = msgspec.json.encode({"__type": prefix + error.kind, "message": error.message})
        headers = (*self._headers(), ("x-amzn-query-error", f"{error.code};{error.blame}"))
        return Response(error.status, body, JSON_1_0, headers)


def _is_told(value: Any) -> bool:
    """Lists and maps that are empty are left out."""
    return bool(value) or not isinstance(value, list | dict)


class _Query(_Protocol):
    """The Query protocol: `Action` and the rest as parameters, and XML back."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._name = ""
        self._parameters: dict[str, str] = {}

    def read(self) -> tuple[_Begin, Any]:
        request = self._request
        self._parameters = query.parameters(request.query, request.body)
        self._name = self._parameters.get("Action", "")
        if not self._name:
            raise SqsError(UNKNOWN_OPERATION, "The request names no Action.", status=404)
        is_out_of_place = self._name in _NOT_AT_A_QUEUE and "queue" in request.params
        if self._name not in _OPERATIONS or is_out_of_place:
            message = f"The action {self._name} is not valid for this endpoint."
            raise SqsError("InvalidAction", message)
        self.operation = self._name
        shape, operation = _OPERATIONS[self._name]
        return operation, query.read(self._parameters, self._name, shape)

    def credential(self) -> str:
        presigned = self._parameters.get("X-Amz-Credential")
        return f"Credential={presigned[:MAX_CREDENTIAL_LENGTH]}" if presigned else super().credential()

    def answer(self, output: Output) -> Response:
        if self._wants_json:
            return self._response(200, query.json(self._name, output, self._request_id), "application/json")
        return self._response(200, query.xml(self._name, output, self._request_id), XML)

    def error(self, error: SqsError) -> Response:
        if error.code == UNKNOWN_OPERATION:
            return self._response(404, b"<UnknownOperationException/>\n", XML)
        if error.kind == "QueueDoesNotExist":
            message = "The specified queue does not exist for this wsdl version."
            error = SqsError(error.code, message, error.kind, error.status)
        if self._wants_json:
            return self._response(error.status, query.json_error(error, self._request_id), "application/json")
        return self._response(error.status, query.xml_error(error, self._request_id), XML)

    @property
    def _wants_json(self) -> bool:
        return self._request.headers.get("accept", "").partition(";")[0].strip() == "application/json"

    def _response(self, status: int, body: bytes, content_type: str) -> Response:
        return Response(status, body, content_type, (*self._headers(), *(NO_PAGE if content_type == XML else ())))
