"""Who waits, in the order in which they came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.waiters import Waiter, Waiters


def waiter(number: int, *queues: str) -> Waiter:
    return Waiter(number, queues or ("a",), False, lambda: None)


def filled(*those: Waiter) -> Waiters:
    waiters = Waiters()
    for one in those:
        waiters.add(one)
    return waiters


def test_the_oldest_is_first_whenever_it_was_added() -> None:
    those = [waiter(number) for number in range(5)]
    waiters = filled(*(those[number] for number in (3, 0, 4, 2, 1)))
    assert waiters.take("a", 2) == those[:2]
    waiters.add(those[0])  # back with empty hands, at its old place
    assert waiters.take("a", 1) == [those[0]]
    assert waiters.take("a") == those[2:]


@pytest.mark.parametrize(("most", "taken"), [(0, 0), (1, 1), (3, 3), (7, 3), (None, 3)])
def test_take_gives_as_many_as_there_are(most: int | None, taken: int) -> None:
    those = [waiter(number) for number in range(3)]
    waiters = filled(*those)
    assert waiters.take("a", most) == those[:taken]
    assert len(waiters) == 3 - taken


def test_nobody_waits_on_an_unknown_queue() -> None:
    assert Waiters().take("a") == Waiters().take("a", 3) == []


def test_one_who_waits_on_several_queues_is_taken_from_all() -> None:
    both, only_b = waiter(1, "a", "b"), waiter(2, "b")
    waiters = filled(only_b, both)
    assert len(waiters) == 2
    assert waiters.take("b", 1) == [both]
    assert waiters.take("a") == []
    assert waiters.queues() == ["b"]
    assert waiters.take("b") == [only_b]


def test_a_queue_that_is_named_twice_counts_once() -> None:
    twice = waiter(1, "a", "a")
    waiters = filled(twice)
    assert waiters.take("a") == [twice]
    assert (len(waiters), waiters.queues()) == (0, [])


def test_removing_leaves_the_others_and_may_be_repeated() -> None:
    first, second = waiter(1, "a", "b"), waiter(2)
    waiters = filled(first, second)
    waiters.remove(first)
    waiters.remove(first)
    assert waiters.queues() == ["a"]
    assert waiters.take("a") == [second]


def test_no_key_is_left_where_nobody_waits() -> None:
    """There may be as many names as there were ever queues."""
    waiters = Waiters()
    for number in range(100):
        one = waiter(number, f"q{number}", "shared")
        waiters.add(one)
        if number % 2:
            waiters.remove(one)
        else:
            waiters.take(f"q{number}")
    assert waiters.queues() == []
    assert len(waiters) == 0


QUEUES = ("a", "b", "c")
STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 9), st.lists(st.sampled_from(QUEUES), min_size=1, max_size=3)),
    st.tuples(st.just("remove"), st.integers(0, 9), st.just([])),
    st.tuples(st.just("take"), st.one_of(st.none(), st.integers(0, 4)), st.lists(st.sampled_from(QUEUES), min_size=1)),
)


@given(st.lists(STEPS, max_size=60))
def test_it_is_a_sorted_list(steps: list[tuple[str, int | None, list[str]]]) -> None:
    waiters = Waiters()
    known: dict[int, Waiter] = {}
    naive: list[Waiter] = []
    for step, number, queues in steps:
        if step == "take":
            taken = sorted((one for one in naive if queues[0] in one.queues), key=lambda one: one.number)[:number]
            naive = [one for one in naive if one not in taken]
            assert waiters.take(queues[0], number) == taken
            continue
        assert number is not None
        if step == "add":
            one = known.setdefault(number, waiter(number, *queues))
            waiters.add(one)
            naive = [other for other in naive if other is not one] + [one]
        elif number in known:
            waiters.remove(known[number])
            naive = [other for other in naive if other is not known[number]]
        assert len(waiters) == len(naive)
        assert set(waiters.queues()) == {name for one in naive for name in one.queues}
