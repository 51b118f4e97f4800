"""Looking: what queries answer, and how a message is shown. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice

import msgspec
from msgspec.structs import replace

from tq import codec, keys, model
from tq.codec import CorruptRecord, MessageRecord
from tq.errors import InvalidQueueName, InvalidRequest, MessageNotFound, QueueDamaged
from tq.lifecycle.group import Group, Queue
from tq.lifecycle.places import held_back_ms, key_in, locate, read, space_of
from tq.store import Space

MAX_COUNTED = 100  # messages of a FIFO queue that are looked at to say how many its delay holds back


def show(
    group: Group,
    queue: Queue,
    key: bytes,
    record: MessageRecord,
    state: model.State | None = None,
    is_leased: bool = False,
    has_uuid: bool = False,
) -> model.Message:
    """A message as clients see it; `record` has its whole body. Times that timers run on become the wall clock's.

    `has_uuid`: its identity is shown also where it came into being in this queue.
    """
    assert isinstance(record.body, bytes)
    priority, sequence = keys.parse_message_key(key)
    due_at_ms, expires_at_ms = record.due_at_ms, record.expires_at_ms
    ahead_ms = group.ahead_ms() if due_at_ms or expires_at_ms else 0
    return model.Message(  # by position: names would take four times as long
        sequence,
        record.body,
        record.media_type,
        record.sent_at_ms,
        record.receive_count,
        priority,
        record.group,
        record.headers,
        record.dead_letter,
        record.attempt,
        keys.receipt(queue.id, key, record.attempt) if is_leased else None,
        due_at_ms - ahead_ms if due_at_ms else None,
        expires_at_ms - ahead_ms if expires_at_ms else None,
        state,
        record.dedup_id,
        record.attributes,
        record.notes,
        record.first_received_at_ms or None,
        record.uuid or (queue.uuid(sequence) if has_uuid else None),
        record.ahead_ms,
        record.receives_before,
    )


def get_queue(group: Group, query: model.GetQueue) -> model.QueueInfo:
    return describe(group, group.queue(query.name))


def list_queues(group: Group, query: model.ListQueues) -> model.QueuePage:
    prefix = query.prefix.encode()
    start = max(prefix, query.after.encode() + b"\0" if query.after else b"")
    found = group.tx.space(keys.QUEUES).scan(start, keys.after_prefix(prefix))
    names = [key.decode(errors="replace") for key, _ in islice(found, query.limit + 1)]
    page = names[: query.limit]
    infos: list[model.QueueInfo] = []
    for name in page:
        with suppress(QueueDamaged, InvalidQueueName):
            infos.append(describe(group, group.queue(name)))
    return model.QueuePage(tuple(infos), page[-1] if len(names) > query.limit else None)


def list_sources(group: Group, query: model.ListSources) -> model.Sources:
    """It looks at the queues one after the other, but reads only the records that have the name in them."""
    target = group.queue(query.queue).name
    found: list[str] = []
    after = ""
    for looked, (key, value) in enumerate(_queues_behind(group, query.after)):
        if len(found) == query.limit:
            break
        if looked == query.looked:
            return model.Sources(tuple(found), after)
        after = _place(key)
        if target.encode() in value:
            with suppress(CorruptRecord):
                letter = codec.unpack_queue(value).settings.dead_letter
                if letter and letter.queue == target:
                    found.append(key.decode(errors="replace"))
    return model.Sources(tuple(found))


def get_totals(group: Group, query: model.GetTotals) -> model.Totals:
    queues = ready = in_flight = delayed = blocked = 0
    after = b""
    for key, value in _queues_behind(group, query.after):
        if queues == query.looked:
            break
        after = key
        queues += 1
        try:
            record = codec.unpack_queue(value)
        except CorruptRecord:
            continue
        ready += group.tx.space(keys.ready_space(record.id)).count()
        in_flight += record.in_flight
        delayed += record.delayed
        blocked += record.blocked
    else:
        after = b""
    return model.Totals(queues, model.Counts(ready, in_flight, delayed, blocked), _place(after))


def get_figures(group: Group, query: model.GetFigures) -> model.FiguresPage:
    found: list[model.Figures] = []
    after = ""
    for looked, (key, value) in enumerate(_queues_behind(group, query.after)):
        if looked == query.looked:
            return model.FiguresPage(tuple(found), after)
        after = _place(key)
        with suppress(CorruptRecord):
            record = codec.unpack_queue(value)
            ready = group.tx.space(keys.ready_space(record.id))
            found.append(
                model.Figures(
                    key.decode(errors="replace"),
                    record.created_at_ms,
                    model.Counts(ready.count(), record.in_flight, record.delayed, record.blocked),
                    record.bytes,
                    _oldest_age_ms(group, ready),
                    msgspec.convert(record.counters, model.Counters),
                )
            )
    return model.FiguresPage(tuple(found))


def _place(key: bytes) -> str:
    """A queue's name, from which `_queues_behind` goes on even when it is damaged."""
    return key.decode(errors="surrogateescape")


def _queues_behind(group: Group, place: str) -> Iterator[tuple[bytes, bytes]]:
    return group.tx.space(keys.QUEUES).scan(place.encode(errors="surrogateescape") + b"\0" if place else b"")


def get_clock(group: Group, _: model.GetClock) -> model.Clock:
    return replace(group.clock(), boot=codec.unpack_boot(group.tx.space(keys.META).get(keys.BOOT)))


def describe(group: Group, queue: Queue) -> model.QueueInfo:
    record = queue.record
    return model.QueueInfo(
        name=queue.name,
        settings=record.settings,
        created_at_ms=record.created_at_ms,
        messages=model.Counts(queue.ready.count(), record.in_flight, record.delayed, record.blocked),
        bytes=record.bytes,
        oldest_message_age_ms=_oldest_age_ms(group, queue.ready),
        counters=msgspec.convert(record.counters, model.Counters),
        notes=group.notes(queue.name),
        held_back=_held_back(group, queue),
    )


def _held_back(group: Group, queue: Queue) -> int:
    """How many messages the delay of a FIFO queue holds back.

    A few are counted. Of many, the first that is too young is found by halving, because they were sent in the order of
    their numbers. Behind that a few are counted again; more are by their numbers about so many.
    """
    if not queue.is_fifo or not queue.delay_ms:
        return 0
    total = queue.ready.count() + queue.record.blocked
    if total <= MAX_COUNTED:
        return sum(is_young for _, is_young in _from(group, queue, 1, MAX_COUNTED))
    low, high = 1, queue.record.next_sequence
    while low < high:
        middle = (low + high) // 2
        number, is_young = min(_from(group, queue, middle, 1), default=(high, True))
        if is_young:
            high = middle
        else:
            low = number + 1
    behind = list(_from(group, queue, low, MAX_COUNTED))
    if len(behind) < MAX_COUNTED:
        return sum(is_young for _, is_young in behind)
    return min(total, queue.record.next_sequence - min(behind)[0])


def _from(group: Group, queue: Queue, sequence: int, most: int) -> Iterator[tuple[int, bool]]:
    """From `sequence` on, at most so many each that are ready or blocked: their numbers, and if they are held back."""
    key = keys.message_key(sequence)
    stop = keys.after_prefix(keys.queue_prefix(queue.id))
    spaces = queue.ready.scan(key), group.tx.space(keys.BLOCKED).scan(keys.shared_key(queue.id, key), stop)
    for entry, value in chain.from_iterable(islice(space, most) for space in spaces):
        with suppress(CorruptRecord):
            record = codec.unpack_message(value)
            yield keys.sequence_of(entry[-8:]), held_back_ms(group, queue, record) > 0


def _oldest_age_ms(group: Group, ready: Space) -> int | None:
    """How long ago the oldest of the next ready messages of each priority was sent."""
    ages: list[int] = []
    rank = 0
    while found := next(ready.scan(bytes([rank]), bytes([model.MAX_PRIORITY + 1])), None):
        key, value = found
        with suppress(CorruptRecord):
            ages.append(group.wall_ms() - codec.unpack_message(value).sent_at_ms)
        rank = key[0] + 1
    return max(0, *ages) if ages else None


def get_message(group: Group, query: model.GetMessage) -> model.Message:
    queue = group.queue(query.queue)
    for priority in range(model.MAX_PRIORITY + 1):
        key = keys.message_key(query.id, priority)
        found = locate(group, queue, key)
        if found is not None:
            state, value = found
            with suppress(CorruptRecord):  # it will go to quarantine when its turn comes: there is nothing to show
                return show(group, queue, key, read(group, queue, key, codec.unpack_message(value)), state)
    raise MessageNotFound(f"There is no message {query.id} in the queue {query.queue!r}.")


def peek(group: Group, query: model.Peek) -> model.MessagePage:
    queue = group.queue(query.queue)
    space = space_of(group, queue, query.state)
    start, stop = b"", None
    if query.state != "ready":
        start = keys.queue_prefix(queue.id)
        stop = keys.after_prefix(start)
    if query.after:
        start = key_in(queue, query.state, _parse_cursor(query.after)) + b"\0"
    found = space.scan(start, stop)
    messages: list[model.Message] = []
    size = 0
    last = b""
    for shared, value in found:
        last = shared[-8:]
        with suppress(CorruptRecord):
            record = read(group, queue, last, codec.unpack_message(value))
            messages.append(show(group, queue, last, record, query.state))
            size += messages[-1].size
        if len(messages) == query.limit or size >= model.MAX_PAGE_BYTES:
            break
    more = next(found, None) is not None
    return model.MessagePage(tuple(messages), last.hex() if more else None)


def _parse_cursor(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 8:
        raise InvalidRequest(f"{text!r} is not a place to go on from - at `$.after`.")
    return key
