"""A clock for timers: whatever the wall clock does, it counts real time, while running and over a restart."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.api import NOW_MS
from tq.clock import JUMP_MS, TimerClock, boot_id, elapsed_ms, wall_ms

HOUR_MS = 3_600_000
MONTH_MS = 30 * 24 * HOUR_MS
JUMPS = [HOUR_MS, -HOUR_MS, MONTH_MS, -MONTH_MS]


class Machine:
    """A wall clock that can be set, real time, and what the last clock stored."""

    def __init__(self) -> None:
        self.real_ms = 5_000
        self.wall_ms = NOW_MS
        self.latest_ms = 0
        self.offset_ms = 0
        self.began_ms: int | None = None

    def boot(self) -> TimerClock:
        """A clock of a machine that was started anew, as far as the clock knows."""
        return TimerClock(self.latest_ms, self.offset_ms, lambda: self.wall_ms, lambda: self.real_ms)

    def restart(self) -> TimerClock:
        """Another clock on a machine that went on."""
        return TimerClock(self.latest_ms, self.offset_ms, lambda: self.wall_ms, lambda: self.real_ms, self.began_ms)

    def pass_ms(self, passed: int) -> None:
        self.real_ms += passed
        self.wall_ms += passed

    def store(self, clock: TimerClock) -> None:
        self.latest_ms = clock.now_ms()
        self.offset_ms = clock.offset_ms
        self.began_ms = clock.began_ms


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_new_clock_starts_at_the_wall_clock(machine: Machine) -> None:
    clock = machine.boot()
    assert (clock.now_ms(), clock.offset_ms) == (NOW_MS, 0)
    machine.pass_ms(1_234)
    assert clock.now_ms() == NOW_MS + 1_234
    assert not clock.follow()


@pytest.mark.parametrize("jump_ms", JUMPS)
def test_a_jump_changes_the_offset_and_not_the_time(machine: Machine, jump_ms: int) -> None:
    clock = machine.boot()
    machine.wall_ms += jump_ms
    assert clock.now_ms() == NOW_MS
    assert clock.follow()
    assert (clock.now_ms(), clock.offset_ms) == (NOW_MS, -jump_ms)
    assert not clock.follow()  # it is told once
    machine.pass_ms(10)
    assert clock.now_ms() == NOW_MS + 10
    machine.wall_ms -= jump_ms
    assert clock.follow()
    assert (clock.now_ms(), clock.offset_ms) == (NOW_MS + 10, 0)


@pytest.mark.parametrize("jump_ms", JUMPS)
def test_a_jump_that_was_stored_outlives_a_restart(machine: Machine, jump_ms: int) -> None:
    clock = machine.boot()
    machine.wall_ms += jump_ms
    clock.follow()
    machine.store(clock)
    machine.pass_ms(7_000)
    assert machine.boot().now_ms() == NOW_MS + 7_000


@pytest.mark.parametrize("jump_ms", JUMPS)
def test_set_while_the_server_is_down_changes_nothing_as_long_as_the_machine_runs(
    machine: Machine, jump_ms: int
) -> None:
    machine.store(machine.boot())
    machine.pass_ms(7_000)
    machine.wall_ms += jump_ms
    clock = machine.restart()
    assert (clock.now_ms(), clock.offset_ms) == (NOW_MS + 7_000, -jump_ms)
    assert clock.began_ms == machine.began_ms  # so that the next restart knows it too
    assert not clock.follow()


def test_a_count_that_is_behind_what_was_stored_is_not_believed(machine: Machine) -> None:
    machine.store(machine.boot())
    machine.real_ms = 10  # it began anew, whatever the machine calls itself
    machine.wall_ms += 7_000
    assert machine.restart().now_ms() == NOW_MS + 7_000


def test_this_machine_knows_its_start() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) > 36


@pytest.mark.parametrize("jump_ms", [HOUR_MS, MONTH_MS])
def test_set_forward_while_the_machine_is_down_ends_what_was_due_by_then(machine: Machine, jump_ms: int) -> None:
    """Nothing but the wall clock tells how long the server was down, so it is believed."""
    machine.store(machine.boot())
    machine.wall_ms += jump_ms
    assert machine.boot().now_ms() == NOW_MS + jump_ms


@pytest.mark.parametrize("jump_ms", [HOUR_MS, MONTH_MS])
def test_set_back_while_the_machine_is_down_goes_on_from_the_latest_time(machine: Machine, jump_ms: int) -> None:
    machine.store(machine.boot())
    machine.pass_ms(3_000)
    machine.wall_ms -= jump_ms
    clock = machine.boot()
    assert clock.now_ms() == NOW_MS
    assert clock.offset_ms == jump_ms - 3_000  # so that times are shown as the wall clock has them
    machine.pass_ms(500)
    assert clock.now_ms() == NOW_MS + 500


@pytest.mark.parametrize("sign", [1, -1])
def test_a_slew_is_no_jump(machine: Machine, sign: int) -> None:
    clock = machine.boot()
    machine.wall_ms += sign * (JUMP_MS - 1)
    assert not clock.follow()
    assert (clock.now_ms(), clock.offset_ms) == (NOW_MS, 0)
    machine.wall_ms += sign
    assert clock.follow()  # slews that add up are followed when they are a second


def test_the_real_clocks_go_on_together() -> None:
    clock = TimerClock(0, 0)
    before_ms, elapsed_before_ms = wall_ms(), elapsed_ms()
    assert abs(clock.now_ms() - before_ms) < 1_000
    assert abs(before_ms - time.time() * 1_000) < 1_000
    while elapsed_ms() - elapsed_before_ms < 20:
        pass
    assert clock.now_ms() >= before_ms + 19


PASSES = st.integers(0, MONTH_MS)
SETTINGS = st.integers(-MONTH_MS, MONTH_MS)
EVENTS = st.one_of(
    st.tuples(st.just("pass"), PASSES),
    st.tuples(st.just("set"), SETTINGS),
    st.tuples(st.sampled_from(["follow", "restart", "boot"]), st.just(0)),
)


@given(st.lists(EVENTS, max_size=40))
def test_it_counts_real_time_and_never_goes_back(events: list[tuple[str, int]]) -> None:
    """While the machine runs it counts real time exactly. A start of the machine may add what the wall clock says."""
    machine = Machine()
    clock = machine.boot()
    latest_ms = clock.now_ms()
    for event, amount in events:
        before_ms = clock.now_ms()
        if event == "pass":
            machine.pass_ms(amount)
            assert clock.now_ms() == before_ms + amount
        elif event == "set":
            machine.wall_ms = max(0, machine.wall_ms + amount)
        elif event == "follow":
            clock.follow()
            assert abs(clock.now_ms() - clock.offset_ms - machine.wall_ms) < JUMP_MS
        else:
            machine.store(clock)
            clock = machine.restart() if event == "restart" else machine.boot()
        if event not in ("pass", "boot"):
            assert clock.now_ms() == before_ms
        assert clock.now_ms() >= latest_ms
        latest_ms = clock.now_ms()


@given(st.lists(st.tuples(PASSES, SETTINGS), max_size=20))
def test_a_clock_that_follows_before_it_stops_loses_nothing_over_a_restart(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    machine.wall_ms += 100 * MONTH_MS  # so that no setting goes back before 1970
    clock = machine.boot()
    for passed, setting in steps:
        before_ms = clock.now_ms()
        machine.wall_ms += setting
        clock.follow()
        machine.store(clock)
        machine.pass_ms(passed)
        clock = machine.boot()
        assert abs(clock.now_ms() - before_ms - passed) < JUMP_MS
