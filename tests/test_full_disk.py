"""A full disk and a full quota, over HTTP: sends are refused, and consumers go on to the last message.

Real servers on a disk of 8 MB, whose reserve is one: seven for messages, of which the last is for leases and the like.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Reply, Server, fill_disk, findings, wait_until

MIB = 1 << 20
JSON_TYPE = {"Content-Type": "application/x-amz-json-1.0"}
ACCOUNT = "000000000000"


@pytest.fixture
def on_disk(small_disk: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers on the small disk, one after the other; the data is checked at the end."""
    servers: list[Server] = []

    def start(*flags: str, **options: Any) -> Server:
        servers.append(Server(small_disk / "data", *flags, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()
    (small_disk / "filler").unlink(missing_ok=True)
    assert findings(small_disk / "data") == []


def create(server: Server, *names: str, **settings: Any) -> None:
    for name in names:
        reply = server.request("POST", "/queues", {"name": name, "max_message_bytes": 2 * MIB, **settings})
        assert reply.status == 201, reply


def content(number: int, size: int) -> str:
    return f"{number} ".ljust(size, "x")


def one_by_one(server: Server, contents: list[str], **options: Any) -> Reply:
    return server.request("POST", "/queues/q/messages", {"content": contents[0], **options})


def at_once(server: Server, contents: list[str], **options: Any) -> Reply:
    return server.request("POST", "/queues/q/messages", [{"content": each, **options} for each in contents])


def together(server: Server, contents: list[str], **_: Any) -> Reply:
    sends = [{"queue": "q", "content": each} for each in contents]
    return server.request("POST", "/transactions", {"ack": [], "send": sends})


Send = Callable[..., Reply]


def fill(server: Server, send: Send, number: int, size: int, **options: Any) -> list[str]:
    """Send until it is refused; what was acknowledged, in order."""
    acknowledged: list[str] = []
    while True:
        first = len(acknowledged)
        contents = [content(n, size) for n in range(first, first + number)]
        reply = send(server, contents, **options)
        if reply.status == 507:
            assert reply.json["code"] == "storage_full"
            assert reply.headers["Retry-After"]
            return acknowledged
        assert reply.status in (200, 201), reply
        acknowledged += contents
        assert len(acknowledged) * size < 32 * MIB, "nothing is ever refused"


def received(reply: Reply) -> list[dict[str, Any]]:
    assert reply.status in (200, 204), reply
    if reply.status == 204:
        return []
    messages: list[dict[str, Any]] = reply.json["messages"]
    return messages


def remove_all(server: Server, queue: str = "q") -> list[str]:
    """Receive and remove until there is nothing."""
    out: list[str] = []
    while messages := received(server.request("GET", f"/queues/{queue}/messages?max=500")):
        out += [message["content"] for message in messages]
    return out


def acknowledge(server: Server, messages: list[dict[str, Any]], queue: str = "q") -> None:
    reply = server.request("POST", f"/queues/{queue}/acks", {"receipts": [each["receipt"] for each in messages]})
    assert (reply.status, reply.json.get("failed", [])) == (200, []), reply


def lease_all(server: Server, queue: str = "q") -> list[str]:
    """Lease and acknowledge until there is nothing."""
    out: list[str] = []
    while messages := received(server.request("GET", f"/queues/{queue}/messages?max=500&visibility_timeout=60")):
        out += [message["content"] for message in messages]
        acknowledge(server, messages, queue)
    return out


def assert_sends_work(server: Server) -> None:
    assert one_by_one(server, ["again"]).status == 201
    assert remove_all(server) == ["again"]


# What is sent, how many at once, of what size, and how it is consumed.
WAYS: dict[str, tuple[Send, int, int, Callable[..., list[str]]]] = {
    "small, removed": (at_once, 50, 1_000, remove_all),
    "small, leased": (at_once, 50, 1_000, lease_all),
    "tiny, leased": (at_once, 2_000, 20, lease_all),
    "large": (one_by_one, 1, MIB, lease_all),
    "large batches": (at_once, 3, MIB // 3, remove_all),
    "transactions": (together, 20, 3_000, lease_all),
}


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow if "tiny" in way else ()) for way in WAYS])
def test_a_full_disk_gives_all_it_took(on_disk: Callable[..., Server], way: str) -> None:
    send, number, size, consume = WAYS[way]
    server = on_disk()
    create(server, "q")
    for _ in range(1 + (size > 100)):
        acknowledged = fill(server, send, number, size)
        assert len(acknowledged) * size > MIB
        assert server.request("GET", "/readyz").status == 200
        assert consume(server) == acknowledged
    assert_sends_work(server)


@pytest.mark.parametrize("way", ["small, leased", "large"])
def test_a_full_quota_gives_all_it_took(start: Callable[..., Server], way: str) -> None:
    send, number, size, consume = WAYS[way]
    server = start("--max-store-bytes", str(4 * MIB))
    create(server, "q")
    for _ in range(2):
        acknowledged = fill(server, send, number, size)
        assert 2 * MIB < len(acknowledged) * size < 5 * MIB
        assert consume(server) == acknowledged
    assert_sends_work(server)


@pytest.mark.parametrize("size", [pytest.param(50, marks=pytest.mark.slow), 1_000])
def test_leases_cannot_take_the_room_that_acks_need(
    on_disk: Callable[..., Server], small_disk: Path, size: int
) -> None:
    """All are leased that may be, which takes room for each, while another program holds the rest of the disk."""
    server = on_disk()
    create(server, "q")
    acknowledged = fill(server, at_once, 500, size)
    fill_disk(small_disk)
    out: list[str] = []
    while True:
        leased: list[dict[str, Any]] = []
        while (reply := server.request("GET", "/queues/q/messages?max=500&visibility_timeout=600")).status == 200:
            leased += reply.json["messages"]
        assert (reply.status, bool(leased)) in ((204, True), (204, False), (507, True)), reply
        if reply.status == 507:
            assert room(server, small_disk) > MIB // 4
        if not leased:
            break
        out += [message["content"] for message in leased]
        for first in range(0, len(leased), 100):
            acknowledge(server, leased[first : first + 100])
    assert out == acknowledged
    (small_disk / "filler").unlink()
    assert_sends_work(server)


def room(server: Server, disk: Path) -> int:
    """The bytes that are left to the data file: behind its last page, free ones in it, and of the disk."""
    used: int = server.request("GET", "/status").json["storage"]["used_bytes"]
    figures = os.statvfs(disk)
    return figures.f_bavail * figures.f_frsize + (disk / "data" / "data.mdb").stat().st_size - used


def test_another_program_fills_the_disk_and_frees_it(on_disk: Callable[..., Server], small_disk: Path) -> None:
    server = on_disk()
    create(server, "q")
    contents = [content(n, 1_000) for n in range(1_000)]
    assert at_once(server, contents).status == 201
    filler = fill_disk(small_disk)
    assert one_by_one(server, ["more"]).status == 507
    assert lease_all(server) == contents
    fill_disk(small_disk)
    assert_sends_work(server)  # into pages that are free now
    filler.unlink()
    contents = fill(server, at_once, 50, 1_000)
    assert len(contents) > 4_000
    assert remove_all(server) == contents


def test_leases_end_and_dead_letters_move_on_a_full_disk(on_disk: Callable[..., Server], small_disk: Path) -> None:
    """And back again: wherever they are, none is lost and none is there twice."""
    server = on_disk()
    create(server, "dead")
    create(server, "q", dead_letter={"queue": "dead", "max_receives": 1})
    acknowledged = fill(server, at_once, 50, 2_000)
    fill_disk(small_disk)

    def counts(name: str) -> dict[str, int]:
        found: dict[str, int] = server.request("GET", f"/queues/{name}").json["messages"]
        return found

    while counts("q")["ready"]:
        reply = server.request("GET", "/queues/q/messages?max=100&visibility_timeout=0.01")
        assert reply.status in (200, 204, 507), reply
        wait_until(lambda: not counts("q")["in_flight"], 30)
    assert counts("dead")["ready"] == len(acknowledged)
    moved = 0
    while counts("dead")["ready"]:
        reply = server.request("POST", "/queues/dead/redrive", {"limit": 50})
        assert reply.status == 200, reply
        moved += reply.json["moved"]
    assert moved == len(acknowledged)
    assert sorted(lease_all(server)) == sorted(acknowledged)


def test_delays_end_on_a_full_disk(on_disk: Callable[..., Server], small_disk: Path) -> None:
    server = on_disk()
    create(server, "q")
    acknowledged = fill(server, at_once, 20, 2_000, delay=1)
    fill_disk(small_disk)
    wait_until(lambda: server.request("GET", "/queues/q").json["messages"]["ready"] == len(acknowledged), 30)
    assert remove_all(server) == acknowledged


def test_a_purge_and_a_deletion_free_a_full_disk(on_disk: Callable[..., Server], small_disk: Path) -> None:
    server = on_disk()
    create(server, "q", "other")
    acknowledged = fill(server, at_once, 20, 10_000)
    filler = fill_disk(small_disk)
    assert server.request("DELETE", "/queues/q/messages").json == {"purged": len(acknowledged)}
    wait_until(lambda: one_by_one(server, ["again"]).status == 201, 30)
    assert set(remove_all(server)) == {"again"}
    filler.unlink()
    fill(server, at_once, 20, 10_000)
    fill_disk(small_disk)
    assert server.request("DELETE", "/queues/q").status == 204
    wait_until(lambda: server.request("POST", "/queues", {"name": "q"}).status == 201, 30)
    assert_sends_work(server)


def sqs(server: Server, operation: str, **given: Any) -> Reply:
    headers = {**JSON_TYPE, "X-Amz-Target": f"AmazonSQS.{operation}"}
    return server.request("POST", "/", json.dumps(given).encode(), headers)


def test_settings_and_notes_cannot_eat_the_reserve(on_disk: Callable[..., Server], small_disk: Path) -> None:
    """Tags, policies, permissions, settings and move tasks of many queues, again and again until all are refused."""
    server = on_disk()
    names = [f"q{n}" for n in range(120)]
    create(server, "q", *names)
    acknowledged = fill(server, at_once, 50, 1_000)
    fill_disk(small_disk)
    refused = set()
    tags = {f"{n} {'k' * 100}": "v" * 250 for n in range(50)}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [], "Id": "p" * 20_000})
    for name in names:
        url = f"{server.url}/{ACCOUNT}/{name}"
        arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"
        asked = {
            "TagQueue": sqs(server, "TagQueue", QueueUrl=url, Tags=tags),
            "SetQueueAttributes": sqs(server, "SetQueueAttributes", QueueUrl=url, Attributes={"Policy": policy}),
            "AddPermission": sqs(
                server, "AddPermission", QueueUrl=url, Label="x", AWSAccountIds=[ACCOUNT], Actions=["SendMessage"]
            ),
            "PATCH": server.request("PATCH", f"/queues/{name}", {"delay": 1}),
            "moves": server.request("POST", f"/queues/{name}/moves", {"to": "q"}),
        }
        for operation, reply in asked.items():
            if reply.status in (503, 507):
                refused.add(operation)
            else:
                assert reply.status in (200, 400, 409), (operation, arn, reply)
    assert refused == {"TagQueue", "SetQueueAttributes", "AddPermission", "moves"}
    assert lease_all(server) == acknowledged
    (small_disk / "filler").unlink()
    assert_sends_work(server)


def test_a_server_starts_and_logs_on_a_full_disk(on_disk: Callable[..., Server], small_disk: Path) -> None:
    """Its log is on the same disk. What cannot be logged stops nothing."""
    server = on_disk()
    create(server, "q")
    acknowledged = fill(server, at_once, 50, 1_000)
    assert server.stop() == 0
    log = small_disk / "log"
    fill_disk(small_disk)
    wrapper = ("sh", "-c", f'exec "$@" 2>>{log}', "sh")
    server = on_disk(wrapper=wrapper)
    assert one_by_one(server, ["more"]).status == 507
    server.kill()
    server = on_disk(wrapper=wrapper)
    assert lease_all(server) == acknowledged
    assert_sends_work(server)
    assert server.stop() == 0
