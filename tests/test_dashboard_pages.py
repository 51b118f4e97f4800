"""The dashboard in a real browser: what it shows is what the API says, and what it does is done.

In each test, an error or a warning on the console, an exception, a violation of the page's policy or a request to
another host fails it, but for those that it names as `expected`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browsing import Watch, Watched, assert_accessible, button, cell, make, shown, tile
from tests.guarded import Guarded
from tests.harness import Server, wait_until

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&amp; \u202egnp.exe\x00\x1b[31m 漢字🙂"
# --- the list -------------------------------------------------------------


def test_the_list_follows_what_happens(server: Server, look: Watched) -> None:
    page = look.open()
    expect(page.get_by_text("There are no queues yet")).to_be_visible()
    make(server, "orders", 1, 2, 3, 4)
    make(server, "emails", paused=True)
    server.request("GET", "/queues/orders/messages?visibility_timeout=60")
    expect(cell(page, "orders", 1)).to_have_text("3")
    expect(cell(page, "orders", 2)).to_have_text("1")
    expect(tile(page, "In flight")).to_have_text("1")
    expect(page.get_by_text("paused")).to_be_visible()
    names = page.locator("tbody th a")
    expect(names).to_have_text(["emails", "orders"])
    button(page, "Ready").click()
    expect(names).to_have_text(["orders", "emails"])
    page.keyboard.press("/")
    page.keyboard.type("EMA")
    expect(names).to_have_text(["emails"])
    server.request("DELETE", "/queues/emails")
    expect(page.get_by_text("No queue has this in its name")).to_be_visible()


@pytest.mark.slow
def test_a_queue_is_made_and_mistakes_are_shown_at_their_fields(server: Server, look: Watched) -> None:
    look.expected = ["status of 400"]
    page = look.open()
    button(page, "New queue").click()
    name = page.get_by_label("Name", exact=True)
    expect(name).to_be_focused()
    name.fill(HOSTILE)
    button(page, "Create").click()
    expect(page.locator(".field", has=name).locator(".wrong")).to_contain_text("1 to 80")
    name.fill("jobs.fifo")
    page.get_by_text("Settings").click()
    page.get_by_role("checkbox", name="FIFO queue").check()
    page.get_by_label("Delay seconds", exact=True).fill("-1")
    button(page, "Create").click()
    delay = page.locator(".field", has=page.get_by_label("Delay seconds", exact=True))
    expect(delay.locator(".wrong")).to_contain_text(">= 0")
    expect(page.get_by_label("Delay seconds", exact=True)).to_be_focused()
    page.get_by_label("Delay seconds", exact=True).fill("2")
    button(page, "Create").click()
    expect(page.get_by_role("heading", name="jobs.fifo", level=1)).to_be_visible()
    made = shown(server, "jobs.fifo")
    assert (made["fifo"], made["delay"], made["visibility_timeout"]) == (True, 2, 30)
    page.go_back()
    expect(page.get_by_role("heading", name="Queues", level=1)).to_be_visible()
    page.go_forward()
    expect(page.get_by_role("heading", name="jobs.fifo", level=1)).to_be_visible()


def test_axe_finds_nothing_in_list_and_queue(server: Server, look: Watched, axe: str) -> None:
    make(server, "q", 1)
    page = look.open()
    expect(cell(page, "q", 1)).to_have_text("1")
    assert_accessible(page, axe, "list")
    page.get_by_role("link", name="q", exact=True).click()
    expect(page.locator(".messages > li")).to_have_count(1)
    page.locator(".messages summary").click()
    assert_accessible(page, axe, "queue")


# --- a queue -------------------------------------------------------------


def test_messages_are_sent_and_cancelled(server: Server, look: Watched) -> None:
    look.expected = ["status of 400"]
    make(server, "q")
    page = look.open("/#/queues/q")
    said = page.locator("#said")

    button(page, "Send a message").click()
    page.get_by_label("Content", exact=True).fill('{"price": 1.10,}')
    button(page, "Send").click()
    expect(page.get_by_role("dialog")).to_contain_text("This is not JSON")
    page.get_by_label("Content", exact=True).fill('{"price": 1.10, "n": 12345678901234567890}')
    page.get_by_text("Options").click()
    page.get_by_label("Priority").fill("99")
    button(page, "Send").click()
    expect(page.locator(".field", has=page.get_by_label("Priority")).locator(".wrong")).to_contain_text("<= 9")
    page.get_by_label("Priority").fill("9")
    page.get_by_label("Headers").fill("from: shop\nurl: http://x/?a=1")
    button(page, "Send").click()
    expect(said).to_have_text("Message 1 was sent.")
    raw = server.request("GET", "/queues/q/messages/1").body
    assert b'"content":{"price": 1.10, "n": 12345678901234567890}' in raw
    assert json.loads(raw)["headers"] == {"from": "shop", "url": "http://x/?a=1"}
    expect(page.locator(".messages summary")).to_contain_text('{"price": 1.10, "n": 12345678901234567890}')

    button(page, "Send a message").click()
    page.get_by_role("radio", name="Text").check()
    page.get_by_label("Content", exact=True).fill("not { JSON")
    button(page, "Send").click()
    expect(said).to_have_text("Message 2 was sent.")
    assert server.request("GET", "/queues/q/messages/2").json["content"] == "not { JSON"

    page.locator("summary", has_text="#2").click()
    button(page, "Cancel message …").click()
    button(page, "Cancel message").click()
    expect(said).to_have_text("Message 2 was cancelled.")
    assert shown(server, "q")["totals"]["cancelled"] == 1


def test_settings_are_edited_and_a_queue_is_paused(server: Server, look: Watched) -> None:
    look.expected = ["status of 400"]
    make(server, "dead")
    make(server, "q", dead_letter={"queue": "dead", "max_receives": 5})
    page = look.open("/#/queues/q")
    said = page.locator("#said")
    button(page, "Pause").click()
    expect(page.locator(".badge", has_text="Paused")).to_be_visible()
    assert shown(server, "q")["paused"] is True
    button(page, "Resume").click()
    expect(button(page, "Pause")).to_be_visible()
    assert shown(server, "q")["paused"] is False

    page.get_by_role("link", name="Settings").click()
    page.get_by_label("Lease seconds", exact=True).fill("x")
    button(page, "Save settings").click()
    lease = page.locator(".settings .field", has=page.get_by_label("Lease seconds", exact=True))
    expect(lease.locator(".wrong")).to_contain_text("Expected")
    page.get_by_label("Lease seconds", exact=True).fill("77.5")
    page.get_by_label("Most messages").fill("1000")
    page.get_by_label("When it is full").select_option("drop_oldest")
    page.get_by_label("After so many receives").fill("7")
    button(page, "Save settings").click()
    expect(said).to_have_text("The settings were saved.")
    saved = shown(server, "q")
    assert (saved["visibility_timeout"], saved["max_messages"], saved["overflow"]) == (77.5, 1000, "drop_oldest")
    assert saved["dead_letter"]["max_receives"] == 7
    page.locator(".settings").get_by_label("Queue", exact=True).fill("")
    button(page, "Save settings").click()
    wait_until(lambda: shown(server, "q")["dead_letter"] is None)


def test_a_queue_is_purged_and_deleted_when_its_name_is_typed(server: Server, look: Watched) -> None:
    look.expected = ["status of 404"]  # where the page asks for the queue that is just being deleted
    make(server, "q", 1)
    page = look.open("/#/queues/q")
    said = page.locator("#said")
    button(page, "Purge …").click()
    expect(button(page, "Purge")).to_be_disabled()
    page.get_by_label("Type q to go on").fill("Q")
    expect(button(page, "Purge")).to_be_disabled()
    page.get_by_label("Type q to go on").fill("q")
    button(page, "Purge").click()
    expect(said).to_have_text("1 messages were purged.")
    assert shown(server, "q")["messages"]["ready"] == 0

    button(page, "Delete …").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button(page, "Delete …")).to_be_focused()
    button(page, "Delete …").click()
    page.get_by_label("Type q to go on").fill("q")
    button(page, "Delete").click()
    expect(page.get_by_role("heading", name="Queues", level=1)).to_be_visible()
    assert server.request("GET", "/queues/q").status == 404


@pytest.mark.slow
def test_dead_letters_are_redriven(server: Server, look: Watched) -> None:
    make(server, "dead")
    make(server, "q", "a", "b", dead_letter={"queue": "dead", "max_receives": 5})
    for _ in range(2):
        receipt = server.request("GET", "/queues/q/messages?visibility_timeout=60").json["receipt"]
        rejected = {"dead_letter": True, "reason": "no such <b>customer</b>"}
        server.request("PATCH", f"/queues/q/messages/{receipt}", rejected)
    page = look.open("/#/queues/dead")
    expect(page.locator(".messages .badge").first).to_have_text("no such <b>customer</b>")
    button(page, "Redrive …").click()
    page.get_by_label("At most messages", exact=True).fill("1")
    button(page, "Redrive").click()
    expect(page.locator("#said")).to_have_text("1 messages were moved.")
    assert shown(server, "q")["messages"]["ready"] == 1


@pytest.mark.slow
def test_every_state_is_shown_page_by_page(server: Server, look: Watched) -> None:
    make(server, "q", *range(45))
    server.request("POST", "/queues/q/messages", {"content": "later", "delay": 600})
    for content in ("first of group", "second of group"):
        server.request("POST", "/queues/q/messages", {"content": content, "group": "g", "priority": 9})
    server.request("GET", "/queues/q/messages?visibility_timeout=600")
    page = look.open("/#/queues/q")
    rows = page.locator(".messages > li")
    expect(rows).to_have_count(20)
    button(page, "Next").click()
    expect(page.get_by_text("Page 2")).to_be_visible()
    button(page, "Next").click()
    expect(rows).to_have_count(5)
    expect(button(page, "Next")).to_be_disabled()
    button(page, "Previous").click()
    expect(rows).to_have_count(20)
    for state, content in (("In flight", "first of group"), ("Delayed", "later"), ("Blocked", "second of group")):
        page.get_by_role("radio", name=state).check()
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text(content)
    assert shown(server, "q")["totals"]["received"] == 1


def test_hostile_contents_are_text(server: Server, look: Watched) -> None:
    make(server, "q", HOSTILE, {HOSTILE: [HOSTILE]})
    options = {"content": 1, "group": "<b>group</b>", "headers": {"<i>name</i>": "<script>alert(3)</script>"}}
    server.request("POST", "/queues/q/messages", options)
    page_type = {"Content-Type": "text/html"}
    server.request("POST", "/queues/q/messages", b"<h1>page</h1><script>alert(4)</script>", page_type)
    server.request("POST", "/queues/q/messages", bytes(range(256)) * 100, {"Content-Type": "image/png"})
    page = look.open("/#/queues/q")
    rows = page.locator(".messages > li")
    expect(rows).to_have_count(5)
    for place in range(5):
        rows.nth(place).locator("summary").click()
    expect(rows.nth(0).locator("pre")).to_contain_text("<img src=x onerror=alert(1)>")
    expect(rows.nth(0).locator("pre")).to_contain_text("⟨U+202E⟩gnp.exe␀␛[31m 漢字🙂")
    expect(rows.nth(1).locator("pre")).to_contain_text("<script>alert(2)</script>")
    expect(rows.nth(2)).to_contain_text("<script>alert(3)</script>")
    expect(rows.nth(2)).to_contain_text("<b>group</b>")
    expect(rows.nth(3).locator("pre")).to_have_text("<h1>page</h1><script>alert(4)</script>")
    expect(rows.nth(4).locator("pre")).to_contain_text("000010  10 11 12 13")
    expect(rows.nth(4)).to_contain_text("image/png, 25 KiB")
    assert page.locator("main img, main script, main b, main i").count() == 0
    look.expected = ["status of 400"]
    page.evaluate("name => location.hash = `#/queues/${encodeURIComponent(name)}`", HOSTILE)
    expect(page.get_by_role("heading", name="There is no such queue")).to_be_visible()
    assert page.locator("main img, main script").count() == 0


@pytest.mark.slow
def test_large_contents_are_cut_until_they_are_asked_for(server: Server, look: Watched) -> None:
    make(server, "q", "x" * 1_000_000 + "the end", {"long": ["y" * 100] * 100})
    server.request("POST", "/queues/q/messages", bytes(100_000), {"Content-Type": "image/png"})
    page = look.open("/#/queues/q")
    rows = page.locator(".messages > li")
    for place, (size, end) in enumerate((("977 KiB", "the end"), ("10 KiB", "]\n}"), ("98 KiB", "018690  00 00"))):
        rows.nth(place).locator("summary").click()
        expect(rows.nth(place)).to_contain_text(size)
        content = rows.nth(place).locator("pre")
        assert len(content.text_content() or "") < 6_000
        rows.nth(place).get_by_role("button", name="Show all").click()
        expect(content).to_be_focused()
        assert end in (content.text_content() or "")


# --- the connection -------------------------------------------------------------


@pytest.mark.slow
def test_a_server_that_is_gone_is_waited_for(start: Callable[..., Server], watch: Watch) -> None:
    server = start()
    make(server, "q", 1)
    with watch(server.url) as look:
        look.expected = ["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_SOCKET"]
        page = look.open()
        expect(cell(page, "q", 1)).to_have_text("1")
        server.kill()
        expect(page.get_by_role("alert")).to_contain_text("Connection lost. Trying again")
        expect(cell(page, "q", 1)).to_have_text("1")
        for messages, pause in (("2", "2 s"), ("3", "16 s")):
            expect(page.locator("#lost")).to_contain_text(f"Trying again in {pause}")
            again = start("--port", str(server.port))
            again.request("POST", "/queues/q/messages", {"content": 2})
            if pause == "16 s":  # else it comes back by itself before anybody can press the button
                button(page, "Try now").click()
            expect(cell(page, "q", 1)).to_have_text(messages, timeout=8_000)
            expect(page.locator("#lost")).to_be_hidden()
            expect(page.locator("#state")).to_have_text("Live")
            again.kill()
            expect(page.locator("#lost")).to_contain_text("Trying again")


@pytest.mark.slow
def test_a_token_is_asked_for_kept_in_the_tab_and_forgotten(guarded: Guarded, watch: Watch) -> None:
    with watch(guarded.server.url) as look:
        look.expected = ["status of 401", "status of 403"]
        page = look.open()
        page.get_by_label("Token", exact=True).fill("wrong")
        button(page, "Use this token").click()
        expect(page.get_by_text("The token is not known")).to_be_visible()
        page.get_by_label("Token", exact=True).fill(guarded.shop)
        button(page, "Use this token").click()
        expect(page.get_by_text("This token has no right to list queues")).to_be_visible()
        page.get_by_role("searchbox").fill("orders")
        page.keyboard.press("Enter")
        expect(page.get_by_text("no right to look at messages")).to_be_visible()
        expect(page.get_by_text("no right to see the history")).to_be_visible()
        button(page, "Pause").click()
        expect(page.get_by_text("no right to change this queue")).to_be_visible()
        for name in ("Pause", "Purge …", "Delete …", "Redrive …"):
            expect(button(page, name)).to_be_disabled()
        page.reload()
        expect(page.get_by_role("heading", name="orders", level=1)).to_be_visible()  # the tab has kept it
        assert page.evaluate("JSON.stringify(localStorage)") == "{}"
        assert look.context.cookies() == []
        button(page, "Forget token").click()
        expect(page.get_by_label("Token", exact=True)).to_be_visible()
        page.get_by_label("Token", exact=True).fill(guarded.all)
        button(page, "Use this token").click()
        expect(page.get_by_text("no right to look at messages")).to_be_hidden()
        expect(page.get_by_text("No message is ready.")).to_be_visible()
