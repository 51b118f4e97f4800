"""Moving messages out of a dead-letter queue: at once with `redrive`, or by a task that the broker does in parts.

A task lies on disk, so that it goes on after a restart. Each queue keeps its latest few.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from msgspec.structs import replace

from tq import codec, keys, model
from tq.codec import CorruptRecord, MessageRecord
from tq.errors import InvalidRequest, MoveNotFound, MoveRunning
from tq.lifecycle.group import Group, Queue
from tq.lifecycle.places import displace, move

MAX_LOOKED = 5_000  # messages in one part, those included that stay
KEPT_TASKS = 10  # of each queue, as in SQS


def redrive(group: Group, command: model.Redrive) -> model.Redriven:
    queue = group.queue(command.queue)
    if command.to is not None:
        group.queue(command.to)
    before = command.before or queue.record.next_sequence
    found: list[tuple[bytes, MessageRecord]] = []
    size = 0
    after = b""
    for looked, (key, value) in enumerate(queue.ready.scan(command.after + b"\0" if command.after else b"")):
        if len(found) == command.limit or size >= model.MAX_PAGE_BYTES or looked == MAX_LOOKED:
            break
        after = key
        with suppress(CorruptRecord):
            record = codec.unpack_message(value)
            if keys.sequence_of(key) < before:
                found.append((key, record))
                size += codec.stored_bytes(record)
    else:
        after = b""
    moved = sum(_redrive_one(group, queue, key, record, command.to) for key, record in found)
    return model.Redriven(moved, after, before)


def _redrive_one(group: Group, queue: Queue, key: bytes, record: MessageRecord, to: str | None) -> bool:
    """Whether the message could be moved; one that came from nowhere, or from a queue that is gone, stays."""
    target = to or (record.dead_letter.source if record.dead_letter else None)
    if target is None or target == queue.name or group.find_sound(target) is None:
        return False
    displace(group, queue, "ready", key, record)
    return move(group, queue, key, record, target, None)


def start(group: Group, command: model.StartMove) -> model.MoveTask:
    queue = group.queue(command.queue)
    if command.to == queue.name:
        raise InvalidRequest("Messages cannot be moved to where they are - at `$.to`.")
    if command.to is not None:
        group.queue(command.to)
    tasks = _tasks(group, queue.name)
    if any(task.status == "running" for _, task in tasks):
        raise MoveRunning
    moves = group.tx.space(keys.MOVES)
    prefix = keys.moves_prefix(queue.name)
    for key, _ in tasks[: max(0, len(tasks) - KEPT_TASKS + 1)]:
        moves.delete(key)
    number = int.from_bytes(tasks[-1][0][len(prefix) :]) + 1 if tasks else 1
    task = model.MoveTask(
        command.id,
        queue.name,
        command.to,
        command.per_second,
        started_at_ms=group.wall_ms(),
        to_move=queue.ready.count() + queue.record.blocked,
        before=queue.record.next_sequence,
    )
    moves.put(prefix + number.to_bytes(8), codec.pack_move(task))
    return task


def cancel(group: Group, command: model.CancelMove) -> model.MoveTask:
    key, task = _running(group, command.queue, command.id)
    task = replace(task, status="cancelled")
    group.tx.space(keys.MOVES).put(key, codec.pack_move(task))
    return task


def move_some(group: Group, command: model.MoveSome) -> model.MoveTask:
    key, task = _running(group, command.queue, command.id)
    if task.to is not None and group.find(task.to) is None:
        task = replace(task, status="failed", failure="target_gone")
    else:
        part = redrive(group, model.Redrive(task.queue, task.to, command.limit, task.after, task.before))
        task = replace(task, moved=task.moved + part.moved, after=part.after)
        if not part.after:
            task = _at_the_end(group, task)
    group.tx.space(keys.MOVES).put(key, codec.pack_move(task))
    return task


def _at_the_end(group: Group, task: model.MoveTask) -> model.MoveTask:
    """Go over the queue once more when something was moved, for others of its group have stepped forward then."""
    if task.moved > task.moved_before:
        return replace(task, moved_before=task.moved)
    if _has_homeless(group, task):
        return replace(task, status="failed", failure="no_source")
    return replace(task, status="completed")


def _has_homeless(group: Group, task: model.MoveTask) -> bool:
    """Whether there is still a message that should have been moved: the first of each priority is the oldest."""
    ready = group.queue(task.queue).ready
    for rank in range(model.MAX_PRIORITY + 1):
        for key, _ in islice(ready.scan(bytes([rank]), bytes([rank + 1])), 1):
            if keys.sequence_of(key) < task.before:
                return True
    return False


def list_moves(group: Group, query: model.ListMoves) -> tuple[model.MoveTask, ...]:
    if query.queue is not None:
        return tuple(task for _, task in reversed(_tasks(group, group.queue(query.queue).name)))
    found: list[model.MoveTask] = []
    for _, value in group.tx.space(keys.MOVES).scan():
        with suppress(CorruptRecord):
            found.append(codec.unpack_move(value))
    return tuple(task for task in found if task.status == "running")


def _tasks(group: Group, queue: str) -> list[tuple[bytes, model.MoveTask]]:
    """Those of a queue with their keys, the oldest first."""
    prefix = keys.moves_prefix(queue)
    found: list[tuple[bytes, model.MoveTask]] = []
    for key, value in group.tx.space(keys.MOVES).scan(prefix, keys.after_prefix(prefix)):
        if len(key) == len(prefix) + 8:
            with suppress(CorruptRecord):
                found.append((key, codec.unpack_move(value)))
    return found


def _running(group: Group, queue: str, task_id: str) -> tuple[bytes, model.MoveTask]:
    """Raises QueueNotFound, MoveNotFound."""
    for key, task in _tasks(group, group.queue(queue).name):
        if task.id == task_id and task.status == "running":
            return key, task
    raise MoveNotFound
