"""Whoever uses the dashboard and however: by keyboard alone, on a phone, in the dark, read out, by any address."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browsing import LAN, Watch, Watched, assert_accessible, button, cell, make, shown
from tests.guarded import Guarded
from tests.harness import ROOT, Server, wait_until

pytestmark = pytest.mark.slow  # each looks at many pages
PHONE = {"width": 360, "height": 740}
LONG = "a.very-long_name.of-a_queue." + "x" * 52  # of as many characters as it may have


def stock(server: Server) -> None:
    """Something of everything."""
    make(server, "dead")
    make(server, LONG, paused=True, dead_letter={"queue": "dead", "max_receives": 3})
    make(server, "q", {"text": "x" * 5_000}, "plain", [1, 2])
    server.request("POST", "/queues/q/messages", bytes(100), {"Content-Type": "image/png"})
    send = {"content": "y", "group": "g" * 60, "priority": 9, "headers": {"h" * 200: "v" * 200}}
    server.request("POST", "/queues/q/messages", send)
    wait_until(lambda: len(server.request("GET", "/queues/q/history").json["seconds_ago"]) > 1, 60)


# --- by keyboard -------------------------------------------------------------


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id")


def tab_to(page: Page, text: str) -> None:
    """Press Tab until an element with this text or id has the focus; it must be seen that it has."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if focused(page) == text:
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", text
            return
    raise AssertionError(f"{text!r} cannot be reached")


def test_everything_can_be_done_by_keyboard(server: Server, look: Watched) -> None:
    make(server, "first")
    page = look.open()
    expect(cell(page, "first", 1)).to_have_text("0")
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    tab_to(page, "New queue")
    page.keyboard.press("Enter")
    page.keyboard.type("made")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="made", level=1)).to_be_visible()
    tab_to(page, "Send a message")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    for _ in range(40):  # the focus goes round in the dialog, or to the browser's own bars
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.get_by_label("Content", exact=True).focus()
    page.keyboard.type("[1]")
    tab_to(page, "Send")
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    expect(page.locator(":focus")).to_have_text("Send a message")
    expect(page.locator(".messages > li")).to_have_count(1)
    tab_to(page, "Refresh")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".messages pre")).to_have_text("[\n  1\n]")
    wait_until(lambda: len(server.request("GET", "/queues/made/history").json["seconds_ago"]) > 1, 60)
    page.reload()
    stage = page.get_by_role("slider").first
    expect(stage).to_have_attribute("aria-valuetext", re.compile("Ready 1"))
    stage.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".readout").first).to_contain_text("Ready 1")
    before = stage.get_attribute("aria-valuenow")
    page.keyboard.press("Home")
    assert stage.get_attribute("aria-valuenow") == "0" != before
    page.keyboard.press("Escape")
    expect(page.locator(".readout").first).to_be_hidden()
    tab_to(page, "Delete …")
    page.keyboard.press("Enter")
    page.keyboard.type("made")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Queues", level=1)).to_be_visible()
    assert server.request("GET", "/queues/made").status == 404


# --- on a phone -------------------------------------------------------------


def test_on_a_phone_nothing_is_beside_the_screen(server: Server, watch: Watch) -> None:
    stock(server)
    with watch(server.url, viewport=PHONE, has_touch=True) as look:
        for path in ("/", "/#/queues/q", f"/#/queues/{LONG}", "/#/queues/q/settings", "/#/queues/q/totals"):
            page = look.open(path)
            expect(page.locator("#state")).to_have_text("Live")
            for summary in page.locator(".messages summary:visible").all():
                summary.click()
            assert_fits(page, path)
        page = look.open("/#/queues/q")
        for name in ("Send a message", "Redrive …", "Purge …"):
            button(page, name).click()
            for summary in page.locator("dialog summary").all():
                summary.click()
            assert_fits(page, name)
            page.keyboard.press("Escape")


def assert_fits(page: Page, what: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], what
    beside = """() => [...document.querySelectorAll("main *, dialog *")]
        .filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest("pre, .snippet, .badge"))
        .map((one) => one.outerHTML.slice(0, 100))"""
    assert page.evaluate(beside) == [], what


# --- light and dark, and less motion -------------------------------------------------------------


def test_light_and_dark(server: Server, watch: Watch) -> None:
    def darkness(page: Page) -> float:
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)[0]")

    for scheme in ("light", "dark"):
        with watch(server.url, color_scheme=scheme) as look:
            page = look.open()
            assert (darkness(page) > 128) == (scheme == "light")
            theme = page.locator("#theme")
            expect(theme).to_have_text("Theme: system")
            theme.click()
            expect(theme).to_have_text("Theme: light")
            assert darkness(page) > 128
            theme.click()
            assert darkness(page) < 128
            page.reload()
            expect(theme).to_have_text("Theme: dark")
            assert darkness(page) < 128


def test_less_motion_where_that_is_wished(server: Server, watch: Watch) -> None:
    moves = (
        "[...document.querySelectorAll('*')].some((one) => parseFloat(getComputedStyle(one).transitionDuration) > 0)"
    )
    with watch(server.url, reduced_motion="reduce") as look:
        assert not look.open().evaluate(moves)
    with watch(server.url, reduced_motion="no-preference") as look:
        assert look.open().evaluate(moves)


# --- read out -------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_anywhere(server: Server, watch: Watch, axe: str, scheme: str, width: int) -> None:
    with watch(server.url, color_scheme=scheme, viewport={"width": width, "height": 900}) as look:
        look.expected = ["status of 404", "status of 400"]
        page = look.open()
        expect(page.get_by_text("There are no queues yet")).to_be_visible()
        assert_accessible(page, axe, "empty list")
        stock(server)
        expect(cell(page, "q", 1)).to_have_text("5")
        assert_accessible(page, axe, "list")
        button(page, "New queue").click()
        page.get_by_label("Name", exact=True).fill("!")
        page.get_by_text("Settings", exact=True).click()
        button(page, "Create").click()
        expect(page.locator("[aria-invalid]")).to_have_count(1)
        assert_accessible(page, axe, "dialog of a new queue, with a mistake")
        page.keyboard.press("Escape")
        for path in ("q", "q/settings", "q/totals", LONG, "none"):
            page = look.open(f"/#/queues/{path}")
            expect(page.locator("#state")).to_have_text("Live")
            for summary in page.locator(".messages summary:visible").all():
                summary.click()
            assert_accessible(page, axe, path)
        page = look.open("/#/queues/q")
        page.get_by_role("slider").first.focus()
        page.keyboard.press("ArrowLeft")
        assert_accessible(page, axe, "readout")
        for name in ("Send a message", "Redrive …", "Purge …", "Delete …"):
            button(page, name).click()
            for summary in page.locator("dialog summary").all():
                summary.click()
            assert_accessible(page, axe, name)
            page.keyboard.press("Escape")


def test_axe_finds_nothing_where_something_is_wrong(guarded: Guarded, watch: Watch, axe: str) -> None:
    with watch(guarded.server.url) as look:
        look.expected = ["status of 401", "status of 403", "ERR_CONNECTION"]
        page = look.open()
        page.get_by_label("Token", exact=True).fill("wrong")
        button(page, "Use this token").click()
        expect(page.get_by_text("The token is not known")).to_be_visible()
        assert_accessible(page, axe, "token")
        page.get_by_label("Token", exact=True).fill(guarded.shop)
        button(page, "Use this token").click()
        expect(page.get_by_text("no right to list queues")).to_be_visible()
        assert_accessible(page, axe, "refused list")
        guarded.server.kill()
        expect(page.locator("#lost")).to_be_visible()
        assert_accessible(page, axe, "lost")


# --- by any address -------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", LAN])
def test_by_each_address_of_its_own(start: Callable[..., Server], watch: Watch, host: str) -> None:
    """Over plain HTTP to another name browsers say less of where a request is from."""
    server = start("--allowed-host", LAN)
    assert_works(watch, server, f"http://{host}:{server.port}")


def test_over_tls(start: Callable[..., Server], watch: Watch, tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", f"subjectAltName=DNS:localhost,DNS:{LAN}", "-days", "2"]
    subprocess.run([*made, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = start("--tls-cert", certificate, "--tls-key", key, "--allowed-host", LAN)
    for host in ("localhost", LAN):
        assert_works(watch, server, f"https://{host}:{server.port}", f"q-{host}")


def assert_works(watch: Watch, server: Server, url: str, name: str = "q") -> None:
    """A page at the address can make a queue, send to it, change it and delete it."""
    with watch(url) as look:
        look.expected = ["status of 404"]  # where the page asks for the queue that is just being deleted
        page = look.open()
        button(page, "New queue").click()
        page.get_by_label("Name", exact=True).fill(name)
        button(page, "Create").click()
        button(page, "Send a message").click()
        page.get_by_label("Content", exact=True).fill("1")
        button(page, "Send").click()
        expect(page.locator(".messages > li")).to_have_count(1)
        button(page, "Pause").click()
        expect(button(page, "Resume")).to_be_visible()
        button(page, "Delete …").click()
        page.get_by_label(f"Type {name} to go on").fill(name)
        button(page, "Delete").click()
        expect(page.get_by_text("There are no queues yet")).to_be_visible()


def test_a_page_that_nobody_sees_asks_for_nothing(server: Server, look: Watched) -> None:
    make(server, "q")
    asked: list[str] = []
    look.context.add_init_script(
        "let hidden = false; Object.defineProperty(document, 'hidden', {get: () => hidden});"
        "globalThis.hide = (so) => { hidden = so; document.dispatchEvent(new Event('visibilitychange')) }"
    )
    page = look.open()
    expect(cell(page, "q", 1)).to_have_text("0")
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("hide(true)")
    expect(page.locator("#state")).to_have_text("Paused")
    page.wait_for_timeout(5_000)  # more than two of the times at which it would ask
    assert len(asked) <= 3  # what was on its way
    asked.clear()
    page.evaluate("hide(false)")
    expect(page.locator("#state")).to_have_text("Live")
    assert asked


def test_of_many_queues_a_part_is_shown_and_all_are_found(server: Server, look: Watched) -> None:
    for number in range(250):
        make(server, f"queue-{number:03}")
    page = look.open()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(100)
    expect(page.get_by_text("250 queues")).to_be_visible()
    page.get_by_role("searchbox").fill("queue-24")
    expect(rows).to_have_count(10)
    page.get_by_role("searchbox").fill("")
    button(page, "Show more").click()
    expect(rows).to_have_count(200)
    button(page, "Show more").click()
    expect(rows).to_have_count(250)
    expect(button(page, "Show more")).to_be_hidden()
    assert shown(server, "queue-249")["messages"]["ready"] == 0


def test_the_pictures_can_be_made_anew(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.screenshots", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "chromium is not installed" in ran.stderr:
        pytest.skip("chromium is not installed")
    assert ran.returncode == 0, ran.stderr
    for name in ("dashboard-list.png", "dashboard-queue.png"):
        made, kept = (tmp_path / name).stat().st_size, (ROOT / "docs" / name).stat().st_size
        assert kept / 2 < made < 2 * kept
        assert kept < 200_000


def test_the_parts_of_an_answer_say_any_thing(server: Server, look: Watched) -> None:
    """Names of queues that only SQS can make, and settings at their bounds."""
    names: dict[str, Any] = {"-dash": {}, "under_score": {"max_bytes": 2**53 - 1, "ttl": 0.001}}
    for name in names:
        body = f"Action=CreateQueue&QueueName={name}".encode()
        server.request("POST", "/", body, {"Content-Type": "application/x-www-form-urlencoded"})
    server.request("PATCH", "/queues/under_score", names["under_score"])
    page = look.open("/#/queues/-dash")
    expect(page.get_by_role("heading", name="-dash", level=1)).to_be_visible()
    page.goto(look.url + "/#/queues/under_score/settings")
    expect(page.get_by_label("Most content bytes", exact=True)).to_have_value("9007199254740991")
    expect(page.get_by_label("Time to live seconds", exact=True)).to_have_value("0.001")
