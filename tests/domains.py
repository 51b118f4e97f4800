"""What random commands are drawn from: tiny domains, so that commands meet.

Three queues, few contents, settings and times, bounds of one or two messages. In some of the examples the queues that
most is about are FIFO queues: `fitted` gives them other names, and drafts that such a queue takes, but for a few.
"""

from __future__ import annotations

import operator
from typing import Any

from hypothesis import strategies as st
from msgspec import structs

from tq import keys, model
from tq.codec import CHUNK_BYTES

FORGED = "r" + "A" * 22
TEXT = "text/plain"

# Most is about one queue, so that commands meet there; "a" and "ab" because one name begins with the other.
names = st.sampled_from(["a"] * 8 + ["b"] * 2 + ["ab"])
any_name = st.sampled_from(["a"] * 12 + ["b"] * 3 + ["ab", "c", "-bad"])
limits = st.sampled_from([1, 1, 2, 10])
times_ms = st.sampled_from([0, 1, 1_000, 1_000, 2_000])
SETTINGS_OF = {
    "visibility_timeout": st.sampled_from([2, 1, 0]),
    "delay": st.sampled_from([0] * 6 + [1, 2]),
    "ttl": st.sampled_from([None] * 4 + [1, 2]),
    "retention": st.sampled_from([None] * 4 + [1, 2]),
    "max_messages": st.sampled_from([None] * 4 + [1, 2, 2, 2]),
    "max_bytes": st.sampled_from([None] * 5 + [1, 2, 2 * CHUNK_BYTES]),
    "overflow": st.sampled_from(["reject", "drop_oldest"]),
    "max_message_bytes": st.sampled_from([1_048_576] * 5 + [CHUNK_BYTES]),
    "dead_letter": st.none()
    | st.builds(model.DeadLetter, any_name | st.just("b"), st.sampled_from([1, 2]), st.booleans(), st.booleans()),
    "dedup_window": st.sampled_from([0, 1, 1, 2]),
    "dedup_scope": st.sampled_from(["queue", "queue", "group"]),
    "content_dedup": st.sampled_from([False] * 6 + [True]),
    "max_in_flight": st.sampled_from([None] * 7 + [1, 2]),
    "receive_wait": st.sampled_from([0, 0, 0, 1]),
    "paused": st.sampled_from([False] * 7 + [True]),
}
WRONG_KIND = st.sampled_from([False] * 9 + [True])  # of a queue by its name: see `fitted`
queue_settings = st.builds(model.QueueSettings, **SETTINGS_OF, fifo=WRONG_KIND)
first_letters = st.none() | st.builds(
    model.DeadLetter, st.just("b"), st.sampled_from([1, 2]), st.booleans(), st.booleans()
)
tight = st.builds(
    model.QueueSettings,
    overflow=st.sampled_from(["drop_oldest", "drop_oldest", "reject"]),
    dead_letter=first_letters,
    max_messages=st.sampled_from([None, 2, 3, 3]),
    max_bytes=st.sampled_from([None, None, 2, 3]),
    retention=st.sampled_from([None, None, 1, 2]),
)
first_settings = tight | st.builds(model.QueueSettings, **SETTINGS_OF | {"dead_letter": first_letters})
changed = SETTINGS_OF | {"paused": st.booleans()}
changes = st.fixed_dictionaries({}, optional=changed).map(lambda chosen: model.SettingsChange(**chosen))

contents = st.sampled_from([b"x", b"x", b"", b"yy", b"yy", b"z" * CHUNK_BYTES, b"z" * (CHUNK_BYTES + 1)])
BINARY = {"b": model.Attribute("Binary", b"\xff"), "n": model.Attribute("Number.x", "1")}
drafts = st.builds(
    model.Draft,
    contents,
    st.sampled_from([None, TEXT]),
    delay_ms=st.sampled_from([None] * 6 + [0, 1_000, 2_000]),
    ttl_ms=st.sampled_from([None] * 4 + [1_000, 1_000, 1, 2_000]),
    priority=st.sampled_from([0, 0, 0, 1, 9, 9]),
    group=st.sampled_from([None] * 3 + ["g", "g", "h"]),
    dedup_id=st.sampled_from([None] * 4 + ["d", "d", "e"]),
    headers=st.sampled_from([None, None, {"h": "v"}]),
    attributes=st.sampled_from([None] * 5 + [{"n": model.Attribute("Number", "1")}, BINARY]),
    notes=st.sampled_from([None] * 5 + [{"k": "v"}]),
)
few_drafts = st.lists(drafts, min_size=1, max_size=3).map(tuple)
ids = st.integers(0, 8)
lease_times_ms = st.sampled_from([2_000, 2_000, 2_000, 1_000, 1, 0, -1, -1])
leases = st.none() | lease_times_ms
places = st.builds(keys.message_key, ids, st.sampled_from([0, 0, 1, 9]))

# What is known only when a command runs is drawn as a number: which of the leases that are held, of the receipts that
# were ever handed out, of the messages that are there, or of the receives that may be given back. 0 is the latest.
LIVE, OLD = "live ", "old "
whiches = st.sampled_from([0, 0, 0, 1, 1, 2])
live, old = [f"{LIVE}{which}" for which in (0, 0, 0, 1, 1, 2)], [f"{OLD}{which}" for which in (0, 1, 2)]
receipts = st.sampled_from([*live, *live, *old, FORGED, "rubbish"])
OWNER = "owner"  # the queue that the receipt is of
owners = st.sampled_from([OWNER] * 6 + ["a", "b", "ab"])
actions = st.one_of(
    st.builds(model.Ack, receipts),
    st.builds(model.Extend, receipts, times_ms | st.just(43_200_000)),
    st.builds(model.Release, receipts, times_ms),
    st.builds(model.Release, receipts),
    st.builds(model.Reject, receipts),
)
seldom = st.sampled_from([False] * 4 + [True])
sends = st.builds(model.Send, any_name, few_drafts, seldom, seldom)
from_queues = st.tuples(any_name) | st.sampled_from([("a", "b"), ("b", "a"), ("ab", "a"), ("a", "ab", "b")])
attempts = st.sampled_from(["x", "x", "y"])
receives = st.builds(
    model.Receive, from_queues, limits, leases, st.sampled_from([0, -1]), st.none() | attempts, with_uuids=seldom
)
settles = st.builds(model.Settle, owners, st.lists(actions, min_size=1, max_size=3).map(tuple), seldom)
acks = st.lists(st.tuples(owners, receipts), max_size=2).map(tuple)
transactions = st.builds(model.Transaction, acks, st.lists(st.tuples(owners, drafts), max_size=3).map(tuple))
returns = st.builds(model.Unreceive, whiches.map(str), st.just(()))
ticks = st.builds(model.Tick, st.sampled_from([0, 1, 2, 100, 100]))
redrives = st.builds(
    model.Redrive,
    st.sampled_from(["b", "b", "a", "ab", "c"]),
    st.none() | names,
    limits,
    st.just(b"") | places,
    st.sampled_from([0, 0, 1, 2, 3]),
)
some_notes = [{"k": "v"}, {"k": "w", "l": "x"}, {"k": None}]
expected_notes = st.sampled_from([{}] * 5 + [{"k": "v"}, {"k": None}])
move_names = st.sampled_from(["b", "b", "b", "a", "ab", "c"])
move_ids = st.sampled_from(["m", "m", "n"])
purges = st.builds(model.PurgeQueue, any_name)
WEIGHTS = [
    (16, sends),
    (14, receives),
    (14, settles),
    (6, transactions),
    (5, returns),
    (6, ticks),
    (3, st.builds(model.Cancel, any_name, ids | whiches.map(operator.neg))),
    (4, redrives),
    (5, st.builds(model.PatchQueue, any_name, changes, st.sampled_from([{}, {}, *some_notes]), expected_notes)),
    (1, st.builds(model.PutQueue, any_name, queue_settings)),
    (1, st.builds(model.CreateQueue, any_name, queue_settings, st.sampled_from([{}, {"k": "v"}]))),
    (1, st.builds(model.DeleteQueue, any_name, st.sampled_from([True, True, False]))),
    (1, purges),
    (2, st.builds(model.Sweep, limits)),
    (1, st.just(model.Probe())),
    (1, st.builds(model.SetClock, st.sampled_from([0, 1_500, -1_500]), st.sampled_from([None, model.Boot("a", -1)]))),
    (1, st.builds(model.StartMove, move_names, move_ids, st.none() | names, st.none() | st.just(10))),
    (1, st.builds(model.CancelMove, move_names, move_ids)),
    (1, st.builds(model.MoveSome, move_names, move_ids, limits)),
]
KINDS = [kind for weight, kind in WEIGHTS for _ in range(weight)]
waits_ms = st.sampled_from([0, 1_000, 1_000, 999, 2_000])
steps_ms = st.sampled_from([0, 0, 0, 0, 1, 999, 1_000, 1_000, 2_000])


@st.composite
def commands(draw: st.DrawFn) -> model.Command:
    """Not `one_of`, which takes nested alternatives out of their nests and so forgets what they weigh."""
    return draw(KINDS[draw(st.sampled_from(range(len(KINDS))))])


later = st.one_of([settles] * 3 + [transactions] * 2 + [returns] * 2 + [purges])  # most often about what is leased
groups = st.lists(commands(), min_size=2, max_size=8)

# Times of a dump are the wall clock's, around the time at which an example begins.
START_MS = 1_700_000_000_000
around_ms = st.sampled_from([START_MS + ms for ms in (-1_000, 0, 1_000, 2_000, 3_000)])
told = st.builds(
    model.Message,
    st.just(1),
    contents,
    st.sampled_from([None, TEXT]),
    around_ms,
    st.sampled_from([0, 0, 1, 2]),
    st.sampled_from([0, 0, 0, 9]),
    st.sampled_from([None, "g", "g", "h"]),
    dead_letter=st.sampled_from([None, None, model.DeadLetterOrigin("b", "x", 1)]),
    visible_at_ms=st.none() | around_ms,
    expires_at_ms=st.none() | around_ms,
    dedup_id=st.sampled_from([None, "d", "e"]),
    attributes=st.sampled_from([None, BINARY]),
    first_received_at_ms=st.sampled_from([None, START_MS]),
    uuid=st.sampled_from([None, bytes(16)]),
    ahead_ms=st.sampled_from([0, 0, 500, -500]),
)
loaded = st.one_of(
    st.lists(
        st.builds(model.LoadedMessage, any_name, told, st.just(0) | around_ms, seldom)
        | st.builds(model.LoadedId, any_name, st.sampled_from(["d", "e"]), around_ms, st.sampled_from([None, "g"])),
        max_size=4,
    ).map(tuple),
    st.tuples(st.builds(model.CreateQueue, any_name, queue_settings, st.sampled_from([{}, {"k": "v"}]))),
)

prefixes = st.sampled_from(["", "a", "ab", "b", "é"])
queries = st.one_of(
    st.builds(model.ListQueues, prefixes, st.just("") | names, limits),
    st.builds(model.Peek, any_name, st.sampled_from(model.STATES), st.just("") | places.map(bytes.hex), limits),
    st.builds(model.GetMessage, any_name, ids | whiches.map(operator.neg)),
    st.builds(model.GetQueue, any_name),
    st.builds(model.ListMoves, st.none() | any_name),
    st.builds(model.ListSources, any_name, st.just("") | names, limits, limits | st.just(model.MAX_QUEUES)),
    st.builds(model.GetTotals, st.just("") | names, limits | st.just(model.MAX_QUEUES)),
    st.builds(model.GetFigures, st.just("") | names, limits | st.just(model.MAX_QUEUES)),
    st.just(model.GetClock()),
    st.just(model.GetLoaded("dump")),
)


# --- FIFO queues ---------------------------------------------------------------------------

NAMINGS: list[dict[str, str]] = [{}, {}, {"a": "f.fifo"}, *[{"a": "f.fifo", "b": "d.fifo"}] * 2]


def fitted(request: Any, naming: dict[str, str]) -> Any:
    """A command or query about the queues of an example, of the kind that their names tell."""
    changes: dict[str, Any] = {}
    for field in request.__struct_fields__:
        value = getattr(request, field)
        if field in ("name", "queue", "to"):
            changes[field] = naming.get(value, value)
        elif field == "queues":
            changes[field] = tuple(naming.get(name, name) for name in value)
        elif field in ("acks", "sends"):
            changes[field] = tuple((naming.get(name, name), each) for name, each in value)
        elif field in ("settings", "change") and value.dead_letter:
            letter = structs.replace(
                value.dead_letter, queue=naming.get(value.dead_letter.queue, value.dead_letter.queue)
            )
            changes[field] = structs.replace(value, dead_letter=letter)
    request = structs.replace(request, **changes)
    if isinstance(request, model.CreateQueue | model.PutQueue):
        is_fifo = request.name.endswith(".fifo") != request.settings.fifo
        request = structs.replace(request, settings=structs.replace(request.settings, fifo=is_fifo))
    return request


def fit(draft: model.Draft, number: int, has_content_dedup: bool) -> model.Draft:
    """As a FIFO queue takes it; some of priority 1 stay as they are."""
    if draft.priority == 1 and draft.media_type:
        return draft
    own = None if has_content_dedup and draft.dedup_id is None else f"own {number}"
    dedup_id = draft.dedup_id if draft.dedup_id == "d" else own
    return structs.replace(draft, group=draft.group or "g", dedup_id=dedup_id, priority=0, delay_ms=None)
