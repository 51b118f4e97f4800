"""Every way a request can fail, as one tree.

    TqError                          code                     status
    ├── InvalidRequest               invalid_request             400
    │   ├── GroupMissing             group_missing               400
    │   ├── DedupIdMissing           dedup_id_missing            400
    │   ├── LeaseTooLong             lease_too_long              400
    │   └── NotInFifo                not_in_fifo                 400
    ├── InvalidQueueName             invalid_queue_name          400
    ├── HostMissing                  invalid_host                400
    ├── Unauthenticated              unauthenticated             401
    ├── Forbidden                    forbidden                   403
    ├── HostNotAllowed               host_not_allowed            403
    ├── CrossSiteRequest             cross_site_request          403
    ├── NotFound                     not_found                   404
    │   ├── QueueNotFound            queue_not_found             404
    │   ├── MessageNotFound          message_not_found           404
    │   │   └── NotAReceipt          not_a_receipt               404
    │   └── MoveNotFound             move_not_found              404
    ├── MethodNotAllowed             method_not_allowed          405
    ├── RequestTimeout               request_timeout             408
    ├── QueueExists                  queue_exists                409
    ├── QueueNotEmpty                queue_not_empty             409
    ├── InFlight                     in_flight                   409
    ├── StaleReceipt                 stale_receipt               409
    ├── MoveRunning                  move_running                409
    ├── MessageTooLarge              message_too_large           413
    ├── UnsupportedMediaType         unsupported_media_type      415
    ├── TooManyQueues                too_many_queues             429
    ├── QueueFull                    queue_full                  429
    ├── TooManyInFlight              too_many_in_flight          429
    ├── HeadersTooLarge              headers_too_large           431
    ├── InternalError                internal_error              500
    ├── QueueDamaged                 queue_damaged               500
    ├── Overloaded                   overloaded                  503
    ├── StorageFailed                storage_failed              503
    │   └── StorageDamaged           storage_damaged             503
    └── StorageFull                  storage_full                507

A `code` is for programs and never changes; `title` is the same sentence for every error of its kind;
`detail` says what is wrong with this one. `retry_after_s` is set where trying again later can help.

`StartError` stands apart: it ends the start of a server and carries the exit code of the process.
"""

from __future__ import annotations

from typing import ClassVar


class TqError(Exception):
    """Base of every error that a client is told about."""

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title

    def __eq__(self, other: object) -> bool:
        """Errors are results of commands too, so they compare by what they say."""
        return type(self) is type(other) and self.args == other.args

    def __hash__(self) -> int:
        return hash((type(self), self.args))


class InvalidRequest(TqError):
    code, status, title = "invalid_request", 400, "The request is not valid."


class GroupMissing(InvalidRequest):
    code, title = "group_missing", "A message of a FIFO queue has a group."


class DedupIdMissing(InvalidRequest):
    code = "dedup_id_missing"
    title = "A message of a FIFO queue has a deduplication id, or the queue takes it from the content."


class LeaseTooLong(InvalidRequest):
    code, title = "lease_too_long", "The message would be leased for more than 12 hours in all."


class NotInFifo(InvalidRequest):
    code, title = "not_in_fifo", "A message of a FIFO queue has no delay and no priority of its own."


class InvalidQueueName(TqError):
    code, status = "invalid_queue_name", 400
    title = "A queue name is 1 to 80 of A-Z, a-z, 0-9, '.', '_' and '-', and begins with a letter or a digit."


class HostMissing(TqError):
    code, status, title = "invalid_host", 400, "An HTTP/1.1 request has exactly one Host header."


class Unauthenticated(TqError):
    code, status, title = "unauthenticated", 401, "The request shows no token that is known."


class Forbidden(TqError):
    code, status, title = "forbidden", 403, "The token has no right to this."


class HostNotAllowed(TqError):
    code, status, title = "host_not_allowed", 403, "The server does not answer to this name."


class CrossSiteRequest(TqError):
    code, status, title = "cross_site_request", 403, "A page of another site may not do this."


class NotFound(TqError):
    code, status, title = "not_found", 404, "There is nothing at this path."


class QueueNotFound(NotFound):
    code, title = "queue_not_found", "There is no queue of this name."


class MessageNotFound(NotFound):
    code, title = "message_not_found", "There is no message with this id in the queue."


class NotAReceipt(MessageNotFound):
    code, title = "not_a_receipt", "This is not a receipt of this queue."


class MoveNotFound(NotFound):
    code, title = "move_not_found", "There is no running move of this id out of the queue."


class MethodNotAllowed(TqError):
    code, status, title = "method_not_allowed", 405, "This path does not take this method."


class RequestTimeout(TqError):
    code, status, title = "request_timeout", 408, "The request took too long to arrive."


class QueueExists(TqError):
    code, status = "queue_exists", 409
    title = "A queue of this name exists with other settings."


class QueueNotEmpty(TqError):
    code, status, title = "queue_not_empty", 409, "The queue still holds messages."


class InFlight(TqError):
    code, status = "in_flight", 409
    title = "The message is leased to a consumer."


class StaleReceipt(TqError):
    code, status = "stale_receipt", 409
    title = "The receipt is not valid any more; the message may be with another consumer."


class MoveRunning(TqError):
    code, status, title = "move_running", 409, "Messages are being moved out of the queue already."


class MessageTooLarge(TqError):
    """`limit` is how many bytes the queue takes, where a queue has refused it."""

    code, status, title = "message_too_large", 413, "The message or the request body is too large."
    limit = 0


class UnsupportedMediaType(TqError):
    code, status, title = "unsupported_media_type", 415, "This content type is not taken here."


class TooManyQueues(TqError):
    code, status, title = "too_many_queues", 429, "The server holds as many queues as it may."


class QueueFull(TqError):
    code, status, title = "queue_full", 429, "The queue holds as much as its owner allows."
    retry_after_s = 1


class TooManyInFlight(TqError):
    code, status, title = "too_many_in_flight", 429, "As many messages are leased as the queue's owner allows."
    retry_after_s = 1


class HeadersTooLarge(TqError):
    code, status, title = "headers_too_large", 431, "The request line and headers are too large."


class InternalError(TqError):
    code, status, title = "internal_error", 500, "The server failed; its log says how."


class QueueDamaged(TqError):
    code, status = "queue_damaged", 500
    title = "The queue's record was damaged on the disk; other queues are not affected."


class Overloaded(TqError):
    code, status, title = "overloaded", 503, "Too much work is waiting; try again."
    retry_after_s = 1


class StorageFailed(TqError):
    code, status = "storage_failed", 503
    title = "The storage failed; whether the request took effect is unknown."
    retry_after_s = 5


class StorageDamaged(StorageFailed):
    code = "storage_damaged"
    title = "The data file is damaged; the server stops, so that it does no further harm."


class StorageFull(TqError):
    code, status = "storage_full", 507
    title = "There is no room for new messages; receiving goes on."
    retry_after_s = 10


class StartError(Exception):
    """The server cannot start. The message is one sentence that names the flag to use."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


EXIT_FINDINGS = 1  # a check or a dump found damage
EXIT_USAGE = 2  # a flag or variable is wrong; click's own code for it
EXIT_ADDRESS = 3  # the port is taken or the host cannot be bound
EXIT_DATA = 4  # the data directory cannot be used
EXIT_STORAGE_FAILED = 5  # a write or sync failed while serving
EXIT_DAMAGED = 6  # the data file was found damaged while serving
EXIT_UNREACHABLE = 7  # no server answers a command
EXIT_REFUSED = 8  # the server refuses what a command asks
EXIT_NO_QUEUE = 9  # the queue that a command names is not there
EXIT_EMPTY = 10  # there is no message to receive or to peek at
EXIT_COMMAND = 11  # a command of `tq receive --exec` failed, and its message was released
EXIT_INTERRUPTED = 130  # SIGINT has ended a command, or nobody reads what it writes; a shell's code for it


def all_errors(base: type[TqError] = TqError) -> list[type[TqError]]:
    """Every class of the tree below `base`, parents before children; those that only a client has are not of it."""
    found: list[type[TqError]] = []
    for child in base.__subclasses__():
        if child.__module__ == __name__:
            found += [child, *all_errors(child)]
    return found
