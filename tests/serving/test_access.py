"""Keys have namespaces that do not meet, limits hold, and nothing of clients is in the log."""

import logging
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tagi.errors import DataError, InputError
from tagi.serving.access import LOCAL, Admission, Keys, Limits, check_address, is_loopback
from tagi.serving.faults import ApiError
from tests.serving.fakes import BASE, FakeEngine, FakeMaker, Running, running, taking_at_most, wait_until

ONE, TWO = "sk-first-0123456789", "sk-second-987654321"
SECRETS = (ONE, TWO, "purple elephant", "secret input")


def keys_of(folder: Path, text: str) -> Keys:
    (folder / "keys.txt").write_text(text, encoding="utf-8")
    return Keys.from_file(folder / "keys.txt")


def test_keys_are_read_with_and_without_names(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, f"# ours\n\none:{ONE}\r\n{TWO}\n")
    assert keys
    assert keys.owner(f"Bearer {ONE}") == keys.owner(f"bearer {ONE} ") == "key:one"
    assert str(keys.owner(f"Bearer {TWO}")).startswith("sha256:")
    for wrong in (None, "", ONE, f"Basic {ONE}", "Bearer ", f"Bearer {ONE}x", f"Bearer {ONE[:-1]}", "Bearer é\udcff"):
        assert keys.owner(wrong) is None
    assert Keys().owner(None) == LOCAL
    assert not Keys()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "expected an API key per line, got none"),
        ("# nothing\n", "expected an API key per line, got none"),
        ("a b\n", ":1: expected NAME:KEY or KEY in visible ASCII characters"),
        ("k\n:key\n", ":2: expected NAME:KEY or KEY"),
        ("one:\n", ":1: expected NAME:KEY or KEY"),
        ("schlüssel\n", ":1: expected NAME:KEY or KEY"),
        ("a:k\nb:k\n", ":2: expected names and keys that differ"),
        ("a:k\na:l\n", ":2: expected names and keys that differ"),
    ],
)
def test_a_file_of_keys_that_is_none_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(DataError, match=fault) as raised:
        keys_of(tmp_path, text)
    assert "schl" not in str(raised.value)  # the line may be a key


def test_keys_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none", tmp_path, tmp_path / "bytes"):
        with pytest.raises(DataError, match="expected a text file of API keys"):
            Keys.from_file(path)


def test_every_key_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    compared: list[bytes] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    keys = keys_of(tmp_path, "a:first\nb:second\nc:third\n")
    for given in ("first", "third", "none of them"):
        compared.clear()
        keys.owner(f"Bearer {given}")
        assert len(compared) == 3


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *[(name, True) for name in ("localhost", "LOCALHOST:80", "127.0.0.1", "127.9.9.9:8000", "::1", "[::1]:80")],
        *[(name, False) for name in ("0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.evil.org", "", "[::]:80")],
    ],
)
def test_other_addresses_need_keys(host: str, own: bool, tmp_path: Path) -> None:
    assert is_loopback(host) == own
    check_address(host, keys_of(tmp_path, "a:key"))
    if own:
        check_address(host, Keys())
    else:
        with pytest.raises(
            InputError, match=r"--host: expected 127\.0\.0\.1, or --keys FILE to listen where others can"
        ):
            check_address(host, Keys())


def test_slots_are_counted_for_each_key() -> None:
    admission = Admission(Limits(concurrent_per_key=2))
    with admission.slot("a"), admission.slot("a"), admission.slot("b"):
        with pytest.raises(ApiError) as raised, admission.slot("a"):
            pass
        assert raised.value.status == 429
        assert raised.value.headers == {"Retry-After": "1"}
    with admission.slot("a"), admission.slot("a"):
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Running]:
    keys = keys_of(tmp_path, f"one:{ONE}\ntwo:{TWO}\nmetrics:sk-metrics\n")
    with running(tmp_path / "store", keys=keys) as server:
        yield server


def test_two_keys_see_nothing_of_each_other_anywhere(served: Running) -> None:
    """The whole API: whatever the first key makes, the second gets what it gets for an id that never was."""
    never = "f" * 32
    with served.client(ONE) as one, served.client(TWO) as two:
        body = {"instruction": "Say purple elephant.", "name": "mine"}
        made = one.post("/v1/adapters", json=body).json()
        id = made["id"]
        job = one.post(f"/v1/adapters/{id}/refine", json={"examples": [{"input": "a", "output": "b"}]}).json()["id"]
        wait_until(lambda: one.get(f"/v1/jobs/{job}").json()["status"] == "succeeded")
        assert len(one.get("/v1/adapters").json()["data"]) == 2
        chat = {"messages": [{"role": "user", "content": "hi"}]}
        asked: list[tuple[str, str, Any]] = [
            ("GET", "/v1/adapters/{id}", None),
            ("DELETE", "/v1/adapters/{id}", None),
            ("GET", "/v1/adapters/{id}/export", None),
            ("POST", "/v1/adapters/{id}/refine", {"examples": [{"input": "a", "output": "b"}]}),
            ("GET", "/v1/models/{id}", None),
            ("GET", "/v1/models/{id}:alone", None),
            ("POST", "/v1/chat/completions", {"model": "{id}", **chat}),
            ("POST", "/v1/chat/completions", {"model": "{id}:alone", **chat, "stream": True}),
            ("POST", "/v1/completions", {"model": "{id}", "prompt": "hi"}),
        ]
        for method, path, content in asked:
            replies = []
            for name in (id, never):
                sent = content and {key: name_in(value, name) for key, value in content.items()}
                reply = two.request(method, path.replace("{id}", name), json=sent)
                replies.append((reply.status_code, reply.text.replace(name, "ID")))
            assert replies[0] == replies[1]
            assert replies[0][0] == 404
        assert two.get(f"/v1/jobs/{job}").text == two.get(f"/v1/jobs/{never}").text
        assert two.get("/v1/adapters").json() == {"object": "list", "data": [], "has_more": False}
        assert [model["id"] for model in two.get("/v1/models").json()["data"]] == [BASE]
        assert two.get("/v1/adapters", params={"after": id}).json()["data"] == []
        other = two.post("/v1/adapters", json=body)
        assert other.status_code == 201
        assert other.json()["id"] != id
        assert two.get("/metrics").status_code == one.get("/metrics").status_code == 403
        assert len(one.get("/v1/adapters").json()["data"]) == 2
        assert one.get(f"/v1/adapters/{id}").json()["name"] == "mine"
    with served.client("sk-metrics") as watcher:
        assert "tagi_adapters 3.0" in watcher.get("/metrics").text


def name_in(value: Any, name: str) -> Any:
    return value.replace("{id}", name) if isinstance(value, str) else value


def test_without_a_known_key_nothing_is_answered_but_pages(served: Running) -> None:
    for key in (None, "sk-wrong"):
        with served.client(key) as client:
            for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/v1/nothing")):
                reply = client.request(method, path)
                assert reply.status_code == 401
                assert reply.headers["WWW-Authenticate"] == "Bearer"
                assert reply.json()["error"]["code"] == "invalid_api_key"
            for path in ("/", "/docs", "/openapi.json", "/health"):
                assert client.get(path).status_code == 200
            assert client.get("/metrics").status_code == 403
            served.engine.problems = ["http://10.0.0.7 does not answer"]
            assert client.get("/ready").json() == {"status": "not ready", "problems": []}
            served.engine.problems = []


def test_a_page_elsewhere_cannot_ask_without_keys(tmp_path: Path) -> None:
    """Neither under this machine's address with a name of its own, nor with a form."""
    with running(tmp_path / "store") as server, server.client() as client:
        reply = client.get("/v1/models", headers={"Host": "evil.example"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden_host")
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            reply = client.post("/v1/adapters", content=b'{"instruction": "x"}', headers={"Content-Type": kind})
            assert reply.status_code == 400
        assert server.service.store.count() == 0
        assert "access-control-allow-origin" not in client.options("/v1/adapters").headers


def test_keys_and_texts_are_not_in_the_log(
    served: Running, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "tagi")
    with served.client(ONE) as client:
        id = client.post("/v1/adapters", json={"instruction": "Say purple elephant."}).json()["id"]
        for text in ("secret input", "break secret input", "fail secret input", "refuse secret input"):
            for stream in (False, True):
                client.post("/v1/completions", json={"model": id, "prompt": text, "stream": stream})
                client.post("/v1/completions", json={"model": id, "prompt": text + " late", "stream": stream})
        client.post("/v1/adapters", json={"instruction": ["purple elephant"]})
        client.get("/v1/adapters", params={"after": "purple elephant"})
        client.get("/v1/purple elephant")
    served.client("sk-wrong-purple elephant").get("/v1/models")
    logged = caplog.text + "".join(capfd.readouterr())
    assert "POST /v1/completions 500" in logged  # the log is there
    assert "RuntimeError" in logged
    assert [secret for secret in (*SECRETS, "sk-wrong", id) if secret in logged] == []


def test_limits_on_size(tmp_path: Path) -> None:
    limits = Limits(body_bytes=5000, instruction_characters=100, adapters_per_request=3, adapters_per_key=4)
    with running(tmp_path / "store", limits=limits) as server, server.client() as client:

        def refused(reply: httpx2.Response, status: int, code: str) -> None:
            assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)

        refused(client.post("/v1/adapters", json={"instruction": "x" * 6000}), 413, "body_too_large")
        parts = (b"x" * 1000 for _ in range(50))  # its length is not told beforehand
        json = {"Content-Type": "application/json"}
        refused(client.post("/v1/adapters", content=parts, headers=json), 413, "body_too_large")
        refused(client.post("/v1/adapters", json={"instruction": "x" * 101}), 400, "instruction_too_long")
        shown = [{"input": "x" * 60, "output": "y" * 60}]
        reply = client.post("/v1/adapters", json=[{"instruction": "a"}, {"instruction": "b", "demonstrations": shown}])
        refused(reply, 400, "instruction_too_long")
        assert "adapter 2: expected an instruction of at most 100 characters" in reply.json()["error"]["message"]
        refused(client.post("/v1/adapters", json=[{"instruction": f"{at}"} for at in range(4)]), 400, "invalid_value")
        refused(client.post("/v1/adapters", json=[]), 400, "invalid_value")
        assert client.post("/v1/adapters", json=[{"instruction": f"{at}"} for at in range(3)]).status_code == 201
        many = [{"instruction": f"{at}"} for at in range(3, 5)]
        refused(client.post("/v1/adapters", json=many), 403, "adapter_limit_reached")
        assert client.post("/v1/adapters", json=[{"instruction": f"{at}"} for at in range(1, 4)]).status_code == 201
        refused(client.post("/v1/adapters", json={"instruction": "one more"}), 403, "adapter_limit_reached")
        assert client.post("/v1/adapters", json={"instruction": "1"}).status_code == 200  # it is there
        client.delete(f"/v1/adapters/{client.get('/v1/adapters').json()['data'][0]['id']}")
        assert client.post("/v1/adapters", json={"instruction": "one more"}).status_code == 201


def test_too_many_requests_are_told_when_to_come_again(tmp_path: Path) -> None:
    engine = FakeEngine(seconds_per_token=0.2)
    limits = Limits(concurrent_per_key=3, waiting=5)
    with running(tmp_path / "store", engine=engine, limits=limits) as server, server.client() as client:
        ask = {"model": BASE, "prompt": "hi"}
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: client.post("/v1/completions", json=ask), range(8)))
        statuses = [reply.status_code for reply in replies]
        assert statuses.count(200) >= 3
        assert statuses.count(200) + statuses.count(429) == 8
        assert engine.most_at_once <= 3
        for reply in replies:
            if reply.status_code == 429:
                assert int(reply.headers["Retry-After"]) >= 1
                assert reply.json()["error"]["code"] == "rate_limit_exceeded"
        engine.seconds_per_token = 0.0
        assert client.post("/v1/completions", json=ask).status_code == 200  # the places are free again
        engine.waiting = 5
        assert client.post("/v1/completions", json=ask).status_code == 429
        assert client.post("/v1/completions", json={**ask, "stream": True}).status_code == 429


def test_a_client_that_leaves_frees_what_it_held(tmp_path: Path) -> None:
    engine = FakeEngine(seconds_per_token=0.1)
    with running(tmp_path / "store", engine=engine) as server:
        host, port = server.address.removeprefix("http://").split(":")
        for stream in (b"true", b"false"):
            body = b'{"model": "%s", "prompt": "hi", "stream": %s}' % (BASE.encode(), stream)
            head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                wait_until(lambda: engine.running == 1)
            with taking_at_most(0.6):  # an answer takes a second
                wait_until(lambda: engine.running == 0)
        assert engine.closed == 2


def test_slow_clients_do_not_hang_the_server(tmp_path: Path) -> None:
    """One never ends its body, one never reads its answer; others are served meanwhile and afterwards."""
    limits = Limits(body_seconds=0.5, stall_seconds=0.5)
    with running(tmp_path / "store", limits=limits) as server, server.client() as client:
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /v1/adapters HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{")
            assert client.get("/health").status_code == 200
            slow.settimeout(10)
            assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        flood = FakeEngine()
        flood._answer = endless  # type: ignore[method-assign]
        server.service.engine = flood
        with socket.create_connection((host, int(port))) as deaf:
            body = b'{"model": "%s", "prompt": "hi", "stream": true}' % BASE.encode()
            head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            deaf.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: flood.running == 1)
            assert client.get("/health").status_code == 200
            wait_until(lambda: flood.running == 0)


async def endless(request: Any) -> Any:
    """An answer that never ends, in large pieces."""
    import asyncio

    from tagi.serving.protocol import Piece

    while True:
        await asyncio.sleep(0)
        yield Piece("x" * 100_000)


def test_creating_what_another_key_has_takes_as_long(tmp_path: Path) -> None:
    """Nothing is looked up for another key: a pass of the generator is made for each."""
    keys, maker = keys_of(tmp_path, f"one:{ONE}\ntwo:{TWO}\n"), FakeMaker(seconds=0.005)
    taken: dict[str, list[float]] = {"new": [], "known elsewhere": []}
    served = running(tmp_path / "store", keys=keys, maker=maker)
    with served as server, server.client(ONE) as one, server.client(TWO) as two:

        def seconds(instruction: str) -> float:
            begun = time.perf_counter()
            assert two.post("/v1/adapters", json={"instruction": instruction}).status_code == 201
            return time.perf_counter() - begun

        for at in range(15):
            assert one.post("/v1/adapters", json={"instruction": f"known {at}"}).status_code == 201
            taken["known elsewhere"].append(seconds(f"known {at}"))
            taken["new"].append(seconds(f"fresh {at}"))
    assert maker.passes == [1] * 45
    medians = {kind: statistics.median(found) for kind, found in taken.items()}
    assert medians["known elsewhere"] > 0.005  # it was made


def test_the_same_request_at_the_same_time_makes_one_adapter(tmp_path: Path) -> None:
    maker = FakeMaker(seconds=0.1)
    with running(tmp_path / "store", maker=maker) as server, server.client() as client:
        barrier = threading.Barrier(5)

        def create(_: int) -> str:
            barrier.wait()
            return str(client.post("/v1/adapters", json={"instruction": "same"}).json()["id"])

        with ThreadPoolExecutor(5) as pool:
            assert len(set(pool.map(create, range(5)))) == 1
        assert maker.passes == [1]
        assert server.service.store.count() == 1
