def test_round_trip(server):
    assert server.request("POST", "/queues", {"name": "a"}).status == 201
    assert server.request("POST", "/queues/a/messages", {"content": "x"}).json == {"id": 1}
    assert server.request("GET", "/queues/a/messages").json["content"] == "x"
    assert server.request("GET", "/queues/a/messages").status == 204
    assert server.stop() == 0
    assert server.errors() == ""


def test_store(store):
    from tq.model import CreateQueue, Draft, Send

    store.commit([CreateQueue("a"), Send("a", (Draft(b"1"), Draft(b"x" * 20000)))], 1)
