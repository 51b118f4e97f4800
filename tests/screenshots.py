"""The pictures of the dashboard in `docs/`: `python -m tests.screenshots` makes them anew, or in another directory.

A server in this process has run a shop's queues for an hour, whose clock was sped up: all that the pictures show was
sent, received and acknowledged, and sampled every five seconds, as a server does. Then Chromium looks at it.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.browsing import chromium_path, launch, watched
from tests.harness import ROOT, open_store
from tq import model
from tq.broker import Broker
from tq.clock import TimerClock
from tq.history import POINTS, SAMPLE_S
from tq.settings import Settings
from tq.survey import Sampler
from tq.web.server import Application, Server

STEP_MS = round(SAMPLE_S * 1000)
LEASE_MS = 30_000
LETTERS = model.DeadLetter("orders.failed", 3)

SETTINGS = {
    "orders.failed": model.QueueSettings(),
    "orders": model.QueueSettings(visibility_timeout=30, dead_letter=LETTERS),
    "emails": model.QueueSettings(dead_letter=model.DeadLetter("emails.failed", 5)),
    "emails.failed": model.QueueSettings(),
    "invoices.fifo": model.QueueSettings(fifo=True, content_dedup=True),
    "thumbnails": model.QueueSettings(max_messages=100_000),
    "search-index": model.QueueSettings(),
    "reminders": model.QueueSettings(),
    "exports": model.QueueSettings(paused=True),
    "webhooks": model.QueueSettings(visibility_timeout=120),
}
CITIES = ("Lisbon", "Turin", "Graz", "Lund", "Brno", "Ghent")


class Shop:
    """An hour of a small shop: producers and consumers of several queues, step by step."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.chance = random.Random(7)
        self.leased: dict[str, list[str]] = {name: [] for name in SETTINGS}
        self.numbers = iter(range(48_211, 10_000_000))

    async def make(self) -> None:
        for name in ("orders.failed", "emails.failed", *SETTINGS):
            if name in SETTINGS:
                await self.broker.call(model.PutQueue(name, SETTINGS[name]))

    async def step(self, number: int) -> None:
        hour = number / POINTS
        wave = 1 + 0.35 * math.sin(hour * 9) + 0.15 * math.sin(hour * 41)
        rush = 1.0 if 0.42 < hour < 0.52 else 0.75 if hour > 0.94 else 0.0
        await self._send("orders", 60 * wave + 190 * rush, self._order)
        await self._consume("orders", 155 + 25 * wave, failing=0.004)
        await self._send("emails", 34 * wave + 40 * rush, self._email)
        await self._consume("emails", 0 if 0.7 < hour < 0.78 else 90, failing=0.001)
        await self._send("thumbnails", 260 if 0.15 < hour < 0.3 else 12, self._thumbnail)
        await self._consume("thumbnails", 95, failing=0)
        await self._send("invoices.fifo", 9 * wave, self._invoice, has_group=True)
        await self._consume("invoices.fifo", 30, failing=0)
        await self._send("search-index", 22 * wave, self._order)
        await self._consume("search-index", 60, failing=0)
        await self._send("reminders", 2.2, self._email, delay_ms=900_000)
        await self._consume("reminders", 40, failing=0)
        await self._send("exports", 0.25 * wave, self._thumbnail)
        await self._send("webhooks", 15 * wave + 30 * rush, self._order)
        await self._consume("webhooks", 21, failing=0.002)

    async def _send(self, queue: str, about: float, content: Any, has_group: bool = False, delay_ms: int = 0) -> None:
        number = int(about) + (self.chance.random() < about % 1)
        drafts = tuple(
            model.Draft(
                content().encode(),
                group=self.chance.choice(CITIES) if has_group else None,
                delay_ms=delay_ms or None,
                headers={"from": "shop"} if queue == "orders" else None,
            )
            for _ in range(number)
        )
        if drafts:
            await self.broker.call(model.Send(queue, drafts))

    async def _consume(self, queue: str, most: float, failing: float) -> None:
        """What was leased in the step before is done now; a few are given back, or were never handled."""
        actions: list[model.Action] = [
            model.Reject(receipt, "no such customer") if self.chance.random() < failing else model.Ack(receipt)
            for receipt in self.leased[queue]
            if self.chance.random() > failing
        ]
        for first in range(0, len(actions), model.MAX_PARTS):
            await self.broker.call(model.Settle(queue, tuple(actions[first : first + model.MAX_PARTS])))
        number = int(most * self.chance.uniform(0.85, 1.1))
        received = await self.broker.call(model.Receive((queue,), number, LEASE_MS)) if number else model.Received()
        self.leased[queue] = [message.receipt for message in received.messages if message.receipt]

    def _order(self) -> str:
        number, price = next(self.numbers), self.chance.randrange(490, 24_990)
        items = f'[{{"sku": "A-{number % 97:02}", "quantity": {1 + number % 3}}}]'
        city = self.chance.choice(CITIES)
        return f'{{"order": {number}, "total": {price / 100:.2f}, "city": "{city}", "items": {items}}}'

    def _email(self) -> str:
        return f'{{"to": "customer-{next(self.numbers)}@example.com", "template": "order-confirmed", "language": "en"}}'

    def _thumbnail(self) -> str:
        return f'{{"picture": "uploads/{next(self.numbers)}.jpg", "sizes": [120, 480, 1200]}}'

    def _invoice(self) -> str:
        return f'{{"invoice": "2026-{next(self.numbers)}", "state": "issued"}}'


class Scene:
    """A server with an hour behind it, on `url` from its making until `close`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._behind_ms = POINTS * STEP_MS
        self._loop = asyncio.new_event_loop()
        self._is_over = asyncio.Event()
        self._has_started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        self._has_started.wait()

    def _now_ms(self) -> int:
        return time.time_ns() // 1_000_000 - self._behind_ms

    async def _serve(self) -> None:
        settings = Settings(data_dir=str(self._directory))
        broker = Broker(open_store(self._directory), settings, TimerClock(0, 0, self._now_ms, self._now_ms))
        broker._sampler.stop()  # it samples in real time
        shop = Shop(broker)
        await shop.make()
        for step in range(POINTS):
            await shop.step(step)
            self._behind_ms -= STEP_MS
            broker.history.begin()
            broker.history.take((await broker.call(model.GetFigures())).figures)
            broker.history.finish(self._now_ms())
        broker._sampler = Sampler(broker._look, broker.history, self._now_ms)
        broker._started_s -= POINTS * SAMPLE_S  # by its own clock it has run for an hour
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = Server(Application(broker, settings), settings)
        await server.listen_on([listening])
        self._has_started.set()
        going_on = asyncio.create_task(self._go_on(shop))
        await self._is_over.wait()
        going_on.cancel()
        await server.close()
        await broker.close()

    async def _go_on(self, shop: Shop) -> None:
        """In real time, so that there is traffic to see."""
        for step in range(POINTS, 2 * POINTS):
            await shop.step(step)
            await asyncio.sleep(SAMPLE_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join()
        self._loop.close()


def main(target: Path) -> None:
    path = chromium_path()
    if not path:
        sys.exit("chromium is not installed")
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        scene = Scene(Path(directory) / "data")
        browser = launch(playwright, path)
        looks = {"list": ("/", 905, "light"), "queue": ("/#/queues/orders", 1_010, "dark")}
        for name, (address, height, scheme) in looks.items():
            size = {"width": 1280, "height": height}
            with watched(browser, scene.url, viewport=size, color_scheme=scheme) as look:
                page = look.open(address)
                page.wait_for_timeout(12_500)  # for rates of its own
                page.screenshot(path=target / f"dashboard-{name}.png")
        browser.close()
        scene.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs")
