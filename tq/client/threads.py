"""Consuming with threads: one leases ahead, one tells the server what is to become of messages."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from tq.client.connecting import Line
from tq.client.leases import LOG, Bell, Leases
from tq.client.messages import Message
from tq.client.retrying import Tries
from tq.client.tracing import Work
from tq.errors import TqError

if TYPE_CHECKING:
    from tq.client.sync import Client

EXIT_S = 5.0  # how long the end of the program waits for a consumer that was not closed


class Stopped(Exception):
    """It is not to be tried again."""


class Threads:
    """What works for a consumer. It knows nothing of the `Messages` that the user holds, which may be forgotten."""

    def __init__(self, client: Client, leases: Leases) -> None:
        self.leases = leases
        self.tracing = client._tracing
        self.left: list[Work] = []  # what loops have left in the middle of it
        self._client = client
        self._line = Line()
        self._bells: dict[Bell, threading.Condition] = {
            "workers": threading.Condition(leases.lock),
            "poller": threading.Condition(leases.lock),
            "keeper": threading.Condition(leases.lock),
        }
        leases.ring = lambda bell, count: self._bells[bell].notify(count)
        self._poller = threading.Thread(target=self._poll, name="tq-poller", daemon=True)
        self._keeper = threading.Thread(target=self._keep, name="tq-keeper", daemon=True)

    def start(self) -> None:
        self._client._consumers.add(self.leases)
        self._poller.start()
        self._keeper.start()

    def next(self) -> Message | None:
        """Waits for a message; None when it was stopped."""
        leases = self.leases
        with leases.lock:
            message = leases.take()
            if message or leases.is_stopping:
                return message
            leases.hunger(1)
            try:
                while not (message := leases.take()) and not leases.is_stopping:
                    self._bells["workers"].wait()
                return message
            finally:
                leases.hunger(-1)

    def end_left(self, error: BaseException | None) -> None:
        while self.left:
            self.left.pop().end(error)

    def stop(self) -> None:
        self.leases.stop()
        self._line.hang_up()

    def close(self) -> None:
        """Give back what was not handled, and wait until the server knows all. Raises as `Leases.settle_up`."""
        self.end_left(None)
        self.leases.give_all_back()
        self._line.hang_up()
        self._poller.join(self._client._place.timeout_s)
        self.leases.close()
        self._keeper.join()
        self._client._consumers.discard(self.leases)
        self.leases.settle_up()

    def abandon(self) -> None:
        """Whoever held it has forgotten it, or the program ends."""
        if threading.current_thread() in (self._poller, self._keeper):
            self.leases.give_all_back()
            self._line.hang_up()
            self.leases.close()
            return
        self.leases.retry_s = min(self.leases.retry_s, EXIT_S)
        try:
            self.close()
        except Exception:
            LOG.exception("a consumer that was not closed could not tell the server all")

    # --- the threads -------------------------------------------------------------------

    def _poll(self) -> None:
        leases = self.leases
        transport = self._client._new_transport()
        ask = partial(self._client._ask_on, transport, pause=self._pause_poll, trace=self._line.trace)
        try:
            while room := self._wait_for_room():
                poll = self._client._receive(leases.queues, room, leases.wait_s, leases.visibility_s, True)
                leases.add(self._client._run(poll, ask))
        except Stopped:
            pass
        except BaseException as error:
            leases.stop(error)
        finally:
            self._line.drop()
            transport.close()

    def _wait_for_room(self) -> int:
        """0 when it was stopped."""
        with self.leases.lock:
            while not self.leases.is_stopping:
                if room := self.leases.room():
                    return room
                self._bells["poller"].wait()
            return 0

    def _pause_poll(self, tries: Tries) -> None:
        self._line.drop()
        with self.leases.lock:
            over_s = monotonic() + tries.pause_s
            if tries.count == 1 and not self.leases.is_stopping:
                LOG.warning("no messages can be leased at the moment: %s", tries.why)
            while not self.leases.is_stopping and (left_s := over_s - monotonic()) > 0:
                self._bells["poller"].wait(left_s)
            if self.leases.is_stopping:
                raise Stopped

    def _keep(self) -> None:
        leases = self.leases
        transport = self._client._new_transport()
        ask = partial(self._client._ask_on, transport, pause=self._pause_round)
        try:
            while self._wait_for_round():
                self._client._run(leases.round(), ask)
        except Stopped:
            pass
        except BaseException as error:
            leases.stop(error)
            self._line.hang_up()
        finally:
            transport.close()

    def _wait_for_round(self) -> bool:
        """False when all is told."""
        with self.leases.lock:
            while due_s := self.leases.due_s():
                if self.leases.is_closing:
                    return False
                self._bells["keeper"].wait(min(due_s, threading.TIMEOUT_MAX))
            return True

    def _pause_round(self, tries: Tries) -> None:
        """Raises Stopped when time is over before it is, also where that is said meanwhile."""
        with self.leases.lock:
            until_s = monotonic() + tries.pause_s
            if tries.count == 1:
                LOG.warning("leases can be neither extended nor ended at the moment: %s", tries.why)
            while (left_s := min(until_s, self.leases.over_s) - monotonic()) > 0:
                self._bells["keeper"].wait(left_s)
            if self.leases.over_s < until_s:
                raise Stopped


class Messages:
    """The messages of `Client.consume`, each of which is acknowledged when the next one is asked for.

    Several threads may iterate over it at a time; each has a message in hand. Leaving the `with` gives back what was
    not handled.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._finalizer: weakref.finalize[[], Messages] | None = None

    def __enter__(self) -> Messages:
        if not self._finalizer:
            self._finalizer = weakref.finalize(self, self._threads.abandon)
            self._threads.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._threads.end_left(error)
        if self._finalizer and self._finalizer.detach():
            try:
                self._threads.close()
            except TqError as unknown:
                if not kind:
                    raise
                LOG.warning("%s", unknown)

    def close(self) -> None:
        """What leaving the `with` does."""
        self.__exit__(None, None, None)

    def __iter__(self) -> Iterator[Message]:
        self.__enter__()
        return Worker(self, self._threads)

    def stop(self) -> None:
        """Have each loop end when the message in its hand is handled. Any thread or signal handler may call it."""
        self._threads.stop()

    def is_lost(self, message: Message) -> bool:
        """Whether the lease of a message in hand is over, so that another consumer may have it."""
        return self._threads.leases.is_lost(message)


class Worker:
    """One loop over messages. It keeps `Messages` alive, which is closed when both are forgotten."""

    def __init__(self, messages: Messages, threads: Threads) -> None:
        self._messages = messages
        self._threads = threads
        self._in_hand: Message | None = None
        self._work: Work | None = None

    def __iter__(self) -> Worker:
        return self

    def __next__(self) -> Message:
        if self._in_hand:
            self._threads.leases.handled(self._in_hand)
            self._in_hand = None
            if self._work:
                self._work.end()
        self._in_hand = self._threads.next()
        if not self._in_hand:
            raise StopIteration
        if tracing := self._threads.tracing:
            self._work = tracing.begin(self._in_hand)
        return self._in_hand

    def __del__(self) -> None:
        if self._in_hand:
            self._threads.leases.give_back(self._in_hand)
            if self._work:
                self._work.leave()
                self._threads.left.append(self._work)
