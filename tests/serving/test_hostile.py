"""Whatever is sent, the server answers with OpenAI's error object or what was asked for, soon, and stays up.

Requests are generated from the OpenAPI document, right ones and wrong ones, and mutated from hostile values.
"""

import gc
import json
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.serving.fakes import Running, running

ADAPTERS_KEPT = 50
MOST_SECONDS = 10.0
SURROGATE = "\ud800"
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 10**400, -(10**400), 2**63, 2**64, 1e308, 0.1, float("nan"), float("inf")),
    *("", " ", "\0", "\u202e", SURROGATE, "a" * 100_000, "é" * 5000, "../../etc/passwd", "..%2f..%2f", "%00", "{}"),
    *("<|im_start|>system\nx<|im_end|>", "<|endoftext|>", "</s>", "<pad>", "'; DROP TABLE adapters; --", "\r\nX: y"),
    *([], {}, [[]], [{}], {"a": {"b": [1]}}, ["x"] * 2000, {str(at): at for at in range(500)}, {"__proto__": 1}),
)
BODIES: dict[str, dict[str, Any]] = {
    "/v1/adapters": {"instruction": "Do it.", "demonstrations": [{"input": "a", "output": "b"}], "name": "n"},
    "/v1/adapters/{id}/refine": {"examples": [{"input": "a", "output": "b"}], "steps": 2, "learning_rate": 0.1},
    "/v1/completions": {"model": "{id}", "prompt": "hi", "max_tokens": 3, "stop": ["x"], "logprobs": 1, "stream": True},
    "/v1/chat/completions": {
        "model": "{id}",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "temperature": 1,
        "top_p": 0.5,
        "seed": 1,
        "stream_options": {"include_usage": True},
    },
}
PATHS = (
    *("/v1/adapters/{}", "/v1/adapters/{}/export", "/v1/jobs/{}", "/v1/models/{}", "/v1/adapters?after={}", "/{}"),
    *("/v1/adapters?limit={}", "/v1/adapters/{}/export?lossy={}"),
)
NAMES = (
    *("..", "../..", "..%2f..%2findex.sqlite", "%2e%2e", "%00", "%ff%fe", "%c0%af", "a%0d%0ab", "in-use.lock", "-1"),
    *("f" * 32, "F" * 32, "f" * 33, "f" * 3000, "%d9%a1" * 32, "{id}%00", "{id}/..", ".", "", "%", "%zz", "*", "con"),
)


def check(reply: httpx2.Response, seconds: float) -> None:
    """No failure of the server, no traceback, no waiting, and faults in OpenAI's form."""
    assert reply.status_code < 500, (reply.request.method, reply.request.url, reply.text[:500])
    assert seconds < MOST_SECONDS
    assert "Traceback" not in reply.text
    assert 'File "/' not in reply.text
    if reply.status_code >= 400 and reply.request.method != "HEAD":
        error = reply.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert len(error["message"]) < 1000


class Prober:
    """Sends requests, checks what comes back, and keeps the store small."""

    def __init__(self, server: Running, client: httpx2.Client) -> None:
        self.server = server
        self.client = client
        self.statuses: Counter[int] = Counter()
        self.id = ""
        self.renew()

    def renew(self) -> None:
        """Delete all adapters and make one."""
        for entry in self.server.service.store.entries("local"):
            self.client.delete(f"/v1/adapters/{entry.id}")
        self.id = self.client.post("/v1/adapters", json={"instruction": "Do it."}).json()["id"]

    def send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        begun = time.monotonic()
        reply = self.client.request(method, path, **content)
        check(reply, time.monotonic() - begun)
        self.statuses[reply.status_code] += 1
        if self.statuses.total() % ADAPTERS_KEPT == 0:
            self.renew()
        return reply


@pytest.fixture
def prober(tmp_path: Path) -> Iterator[Prober]:
    with running(tmp_path / "store") as server, server.client(follow_redirects=False) as client:
        yield Prober(server, client)
        assert client.get("/health").json() == {"status": "ok"}
        assert server.engine.running == 0
        assert {path.name for path in (tmp_path / "store").iterdir()} >= {"adapters", "damaged", "index.sqlite", "new"}
        assert list((tmp_path / "store" / "damaged").iterdir()) == []


def generated(prober: Prober, count: int) -> None:
    """Requests from the OpenAPI document, about so many for all operations together."""
    document = json.loads(prober.client.get("/openapi.json").text)
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 12
    each = max(1, count // (2 * len(operations)))
    for operation in operations:
        for mode in GenerationMode:
            cases = operation.as_strategy(generation_mode=mode)

            @seed(7)
            @settings(
                max_examples=each,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=cases)
            def ask(case: Any) -> None:
                sent = case.as_transport_kwargs(base_url=prober.server.address)
                known = {
                    name: sent[name] for name in ("method", "params", "headers", "json") if sent.get(name) is not None
                }
                if isinstance(sent.get("data"), str | bytes):
                    known["content"] = sent["data"]
                try:
                    request = prober.client.build_request(url=sent["url"], **known)
                    prober.send(request.method, str(request.url), headers=request.headers, content=request.content)
                except (httpx2.InvalidURL, httpx2.LocalProtocolError, UnicodeError, TypeError):
                    pass  # this client cannot send it

            try:
                ask()
            except Unsatisfiable:  # nothing can be wrong with what takes nothing
                assert mode is GenerationMode.NEGATIVE
                assert not operation.definition.raw.keys() & {"parameters", "requestBody"}


def mutated(prober: Prober, count: int) -> None:
    """Bodies in which a value anywhere is replaced by a hostile one, and bodies that are no JSON."""
    chance = random.Random(3)
    raw = (b"", b"{", b"\xff\xfe", b"[" * 50_000, b'{"a":' * 20_000, b"null", b"1e999999", b'"\xc3"', b"{}" * 9, b"NaN")
    for number in range(count):
        path, body = chance.choice(list(BODIES.items()))
        sent = json.loads(json.dumps(body).replace("{id}", prober.id))
        if number % 8 == 0:
            content = chance.choice(raw)
        else:
            _replace(sent, chance)
            content = json.dumps(sent).encode()
        kind = chance.choice(["application/json"] * 6 + ["text/plain", "application/x-www-form-urlencoded"])
        address = path.replace("{id}", chance.choice([prober.id] * 4 + ["f" * 32]))
        prober.send("POST", address, content=content, headers={"Content-Type": kind})


def _replace(value: Any, chance: random.Random) -> None:
    """Put a hostile value somewhere into a body, or under a new name."""
    while isinstance(value, dict | list) and value:
        key = chance.choice(list(value) if isinstance(value, dict) else list(range(len(value))))
        if not isinstance(value[key], dict | list) or not value[key] or chance.random() < 0.4:
            if isinstance(value, dict) and chance.random() < 0.2:
                key = chance.choice(["tools", "n", "logit_bias", "\0", "x" * 5000, "__class__", "max_tokens"])
            value[key] = chance.choice(HOSTILE)
            return
        value = value[key]


def misaddressed(prober: Prober, count: int) -> None:
    """Tricks in paths and queries, with every method."""
    chance = random.Random(4)
    for _ in range(count):
        name = chance.choice(NAMES).replace("{id}", prober.id)
        path = chance.choice(PATHS).replace("{}", name)
        prober.send(chance.choice(["GET", "GET", "DELETE", "POST", "PUT", "PATCH", "HEAD", "OPTIONS"]), path)


def test_generated_requests_are_answered(prober: Prober) -> None:
    generated(prober, 150)
    assert prober.statuses.total() > 60
    assert prober.statuses.keys() >= {200, 400, 404}


def test_hostile_bodies_are_answered(prober: Prober) -> None:
    mutated(prober, 150)
    assert prober.statuses.keys() > {200, 400}


def test_hostile_addresses_are_answered(prober: Prober) -> None:
    misaddressed(prober, 100)
    assert prober.statuses.keys() > {200, 404, 405}


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /v1/adapters HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/adapters HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n{",
        b"POST /v1/adapters HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/adapters/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: \xff\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    ],
)
def test_what_is_hardly_http_does_no_harm(prober: Prober, bytes_sent: bytes) -> None:
    host, port = prober.server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(bytes_sent)
        answered = connection.recv(65536)
    assert not answered or answered.startswith(b"HTTP/1.1 4")
    assert b"Traceback" not in answered


def resident() -> int:
    """Bytes of memory of this process, the server's thread included."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_ten_thousand_requests_leave_the_server_as_it_was(prober: Prober, capsys: pytest.CaptureFixture[str]) -> None:
    """Memory of the process that also generates the requests; the second half must need little more than the first."""
    levels = [resident()]
    for _ in range(2):
        generated(prober, 800)
        mutated(prober, 3200)
        misaddressed(prober, 1500)
        levels.append(resident())
    with capsys.disabled():
        sizes = ", ".join(f"{level / 2**20:.0f}" for level in levels)
        print(f"\n{prober.statuses.total()} requests {dict(prober.statuses)}; memory in MiB: {sizes}")
    assert prober.statuses.total() >= 10_000
    assert levels[2] - levels[1] < 30 * 2**20
