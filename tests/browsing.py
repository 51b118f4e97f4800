"""Chromium on the dashboard, watched: whatever a page should never do is kept, and must be nothing at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Playwright, Request, expect

from tests.harness import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 20_000  # ten times what it takes until the page has asked again
LAN = "lan.test"  # a name that Chromium is told to find on this machine
# Not all violations of the policy are errors on the console, so the page says them itself.
TELL_VIOLATIONS = """addEventListener("securitypolicyviolation", (event) =>
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`), true)"""

expect.set_options(timeout=WAIT_MS)


def chromium_path() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def launch(playwright: Playwright, path: str) -> Browser:
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    names = f"--host-resolver-rules=MAP {LAN} 127.0.0.1"
    return playwright.chromium.launch(executable_path=path, args=[*flags, "--disable-dev-shm-usage", names])


class Watched:
    """A page of its own context. `faults`: errors on the console, exceptions, and requests to other hosts."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.faults: list[str] = []
        self.expected: list[str] = []  # parts of errors that a test brings about, as the browser says them
        self.context = context
        context.set_default_timeout(WAIT_MS)
        context.add_init_script(TELL_VIOLATIONS)
        self.page: Page = context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        self.page.on("request", self._on_request)
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")) and urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.faults.append(f"request: {request.url}")

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.url + path)
        return self.page

    def assert_clean(self) -> None:
        found = [fault for fault in self.faults if not any(part in fault for part in self.expected)]
        assert not found, found


@contextmanager
def watched(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    """Raises AssertionError in the end for whatever the page has done wrong."""
    context = browser.new_context(
        **{"viewport": {"width": 1280, "height": 900}, "ignore_https_errors": True, **options}
    )
    page = Watched(context, url)
    try:
        yield page
        page.assert_clean()
    finally:
        context.close()


Watch = Callable[..., AbstractContextManager[Watched]]


# --- what tests say of the page -------------------------------------------------------------


def make(server: Server, name: str, *contents: Any, **settings: Any) -> None:
    assert server.request("PUT", f"/queues/{name}", settings).status == 201
    for content in contents:
        assert server.request("POST", f"/queues/{name}/messages", {"content": content}).status == 201


def shown(server: Server, name: str) -> Any:
    return server.request("GET", f"/queues/{name}").json


def cell(page: Page, queue: str, column: int) -> Any:
    return (
        page.get_by_role("row")
        .filter(has=page.get_by_role("link", name=queue, exact=True))
        .locator("th, td")
        .nth(column)
    )


def tile(page: Page, label: str) -> Locator:
    return page.locator(".tile").filter(has=page.get_by_text(label, exact=True)).locator("dd")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def assert_accessible(page: Page, axe: str, what: str) -> None:
    page.evaluate(axe)
    found = page.evaluate("axe.run(document)")
    lines = [
        f"{one['impact']} {one['id']}: {node['html'][:120]} {node.get('failureSummary', '')}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
    print(f"{what}: {len(found['passes'])} rules passed, {len(lines)} findings")
    assert lines == [], what
