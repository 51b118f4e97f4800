"""Both clients under one face, so that each case runs through either."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from tq.client import AsyncClient, Client


class Blocking:
    """`Client` as it is."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = Client(url, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)


class Awaited:
    """`AsyncClient` on an event loop of its own; each method is awaited to its end."""

    def __init__(self, url: str, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = found(*args, **kwargs)
            return self.loop.run_until_complete(result) if inspect.isawaitable(result) else result

        return call

    def close(self) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.close()
