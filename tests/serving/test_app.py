"""The server's own addresses: adapters, refinements, damage, full disks, metrics and documentation."""

import errno
import io
import json
import os
import re
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tagi.serving.access import Limits
from tests.serving.drafts import files
from tests.serving.fakes import BASE, LAYERS, FakeMaker, Running, running, wait_until

EXAMPLES = [{"input": "He sings.", "output": "He sang."}]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "store") as server:
        yield server


def test_an_adapter_is_made_shown_and_deleted(served: Running) -> None:
    with served.client() as client:
        body = {"instruction": "Do it.", "demonstrations": EXAMPLES, "name": "mine"}
        made = client.post("/v1/adapters", json=body)
        assert made.status_code == 201
        about = made.json()
        assert re.fullmatch("[0-9a-f]{32}", about["id"])
        shown = client.get(f"/v1/adapters/{about['id']}").json()
        assert shown == {**about, "layers": LAYERS}
        assert (
            about.items()
            >= {"object": "adapter", "status": "ready", "fault": None, "refined_from": None, **body}.items()
        )
        assert about.items() >= {"rank": 5, "parameters": 460, "base_model": BASE}.items()
        assert client.get("/v1/adapters").json() == {"object": "list", "data": [about], "has_more": False}
        again = client.post("/v1/adapters", json=body)
        assert (again.status_code, again.json()) == (200, about)
        other = client.post("/v1/adapters", json={**body, "name": "other"})
        assert other.json()["id"] != about["id"]
        gone = client.delete(f"/v1/adapters/{about['id']}")
        assert gone.json() == {"id": about["id"], "object": "adapter.deleted", "deleted": True}
        assert client.delete(f"/v1/adapters/{about['id']}").status_code == 404
        assert about["id"] not in served.engine.folders
        anew = client.post("/v1/adapters", json=body)  # an id is never used again
        assert anew.status_code == 201
        assert anew.json()["id"] != about["id"]


def test_a_list_is_made_in_one_pass(served: Running) -> None:
    with served.client() as client:
        first = client.post("/v1/adapters", json={"instruction": "a"}).json()["id"]
        served.service.maker.passes.clear()  # type: ignore[attr-defined]
        reply = client.post("/v1/adapters", json=[{"instruction": text} for text in ("b", "a", "c", "b")])
        assert reply.status_code == 201
        assert served.service.maker.passes == [2]  # type: ignore[attr-defined]
        made = [one["id"] for one in reply.json()["data"]]
        assert made[1] == first
        assert made[0] == made[3] != made[2]
        listed = [client.get("/v1/adapters", params={"limit": 2}).json()]
        listed.append(client.get("/v1/adapters", params={"limit": 2, "after": listed[0]["data"][-1]["id"]}).json())
        assert [[one["instruction"] for one in page["data"]] for page in listed] == [["a", "b"], ["c"]]
        assert [page["has_more"] for page in listed] == [True, False]


def test_one_wrong_adapter_of_a_list_makes_none(served: Running) -> None:
    with served.client() as client:
        long = {"instruction": "word " * 50}
        for wrong in ({"instruction": " "}, long, {"instruction": 3}, {"name": "x"}, {"instruction": "x", "more": 1}):
            reply = client.post(
                "/v1/adapters", json=[{"instruction": "a"}, {"instruction": "c", "truncate": True}, wrong]
            )
            assert reply.status_code == 400
        assert served.service.store.count() == 0
        assert client.post("/v1/adapters", json=[{"instruction": "a"}, {**long, "truncate": True}]).status_code == 201


def test_an_export_is_a_zip_file_of_a_folder(served: Running) -> None:
    with served.client() as client:
        id = client.post("/v1/adapters", json={"instruction": "Do it."}).json()["id"]
        replies = [client.get(f"/v1/adapters/{id}/export") for _ in range(2)]
        assert replies[0].headers["content-type"] == "application/zip"
        assert f'filename="{id}.zip"' in replies[0].headers["content-disposition"]
        assert replies[0].content == replies[1].content
        archive = zipfile.ZipFile(io.BytesIO(replies[0].content))
        assert archive.namelist() == [f"{id}/adapter_config.json", f"{id}/adapter_model.safetensors"]
        assert archive.read(f"{id}/adapter_model.safetensors") == files("Do it.")["weights.bin"]


def test_exports_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    with running(tmp_path / "store") as served, served.client() as client:
        id = client.post("/v1/adapters", json={"instruction": "Do it."}).json()["id"]
        assert client.get(f"/v1/adapters/{id}/export").status_code == 200
        monkeypatch.setattr(zipfile.ZipFile, "writestr", lambda *_: _raise(errno.ENOSPC))
        assert client.get(f"/v1/adapters/{id}/export").status_code == 507
        wait_until(lambda: list((tmp_path / "scratch").iterdir()) == [])


def test_a_refinement_is_a_job_that_gives_a_new_adapter(tmp_path: Path) -> None:
    with running(tmp_path / "store", maker=FakeMaker(seconds=0.3)) as served, served.client() as client:
        id = client.post("/v1/adapters", json={"instruction": "Do it."}).json()["id"]
        body = {"examples": EXAMPLES, "steps": 30, "name": "better"}
        begun = client.post(f"/v1/adapters/{id}/refine", json=body)
        assert begun.status_code == 202
        job = begun.json()
        assert job.items() >= {"object": "job", "adapter": id, "result": None, "error": None}.items()
        seen = []

        def ended() -> bool:
            found = client.get(f"/v1/jobs/{job['id']}").json()
            seen.append((found["status"], found["progress"]))
            return found["status"] == "succeeded"

        wait_until(ended)
        assert any(status == "running" and 0 < progress < 1 for status, progress in seen)
        assert [progress for _, progress in seen] == sorted(progress for _, progress in seen)
        result = client.get(f"/v1/jobs/{job['id']}").json()["result"]
        refined = client.get(f"/v1/adapters/{result}").json()
        assert refined.items() >= {"refined_from": id, "name": "better", "status": "ready"}.items()
        reply = client.post("/v1/completions", json={"model": result, "prompt": "hi"})
        assert reply.status_code == 200


def test_refinements_that_cannot_be(served: Running) -> None:
    served.service.limits = Limits(refine_examples=2, refine_steps=20, jobs_per_key=1, adapters_per_key=2)
    with served.client() as client:
        id = client.post("/v1/adapters", json={"instruction": "Do it."}).json()["id"]
        for wrong in (
            {"examples": []},
            {"examples": EXAMPLES * 3},
            {"examples": EXAMPLES, "steps": 21},
            {"examples": EXAMPLES, "learning_rate": 0},
            {"examples": [{"input": " ", "output": "x"}]},
        ):
            assert client.post(f"/v1/adapters/{id}/refine", json=wrong).status_code == 400
        served.service.maker.seconds = 3.0  # type: ignore[attr-defined]
        job = client.post(f"/v1/adapters/{id}/refine", json={"examples": EXAMPLES, "steps": 5}).json()["id"]
        reply = client.post(f"/v1/adapters/{id}/refine", json={"examples": EXAMPLES, "steps": 5})
        assert (reply.status_code, reply.headers["Retry-After"]) == (429, "30")
        wait_until(lambda: client.get(f"/v1/jobs/{job}").json()["progress"] > 0)
        served.service.maker.seconds = 0.0  # type: ignore[attr-defined]
        assert client.post("/v1/adapters", json={"instruction": "the last that may be"}).status_code == 201
        wait_until(lambda: client.get(f"/v1/jobs/{job}").json()["status"] == "failed")
        assert "expected at most 2 adapters of a key" in client.get(f"/v1/jobs/{job}").json()["error"]
        assert served.service.store.count() == 2


def test_a_server_that_stops_ends_its_refinements(tmp_path: Path) -> None:
    with running(tmp_path / "store", maker=FakeMaker(seconds=60)) as served, served.client() as client:
        served.service.maker.seconds = 0.0  # type: ignore[attr-defined]
        id = client.post("/v1/adapters", json={"instruction": "Do it."}).json()["id"]
        served.service.maker.seconds = 60.0  # type: ignore[attr-defined]
        jobs = [
            client.post(f"/v1/adapters/{id}/refine", json={"examples": EXAMPLES, "steps": 900}).json()["id"]
            for _ in "ab"
        ]
        wait_until(lambda: client.get(f"/v1/jobs/{jobs[0]}").json()["status"] == "running")
        assert client.get(f"/v1/jobs/{jobs[1]}").json()["status"] == "queued"
    with running(tmp_path / "store") as served, served.client() as client:
        for job in jobs:
            found = client.get(f"/v1/jobs/{job}").json()
            assert (found["status"], found["error"]) == ("failed", "the server stopped")


def test_a_damaged_adapter_is_never_served(tmp_path: Path) -> None:
    with running(tmp_path / "store") as served, served.client() as client:
        ids = [client.post("/v1/adapters", json={"instruction": text}).json()["id"] for text in ("one", "two")]
    weights = tmp_path / "store" / "adapters" / ids[0] / "weights.bin"
    weights.write_bytes(b"x" * len(weights.read_bytes()))  # its size tells nothing
    with running(tmp_path / "store") as served, served.client() as client:
        chat = {"model": ids[0], "messages": [{"role": "user", "content": "hi"}]}
        for _ in range(2):
            reply = client.post("/v1/chat/completions", json=chat)
            assert reply.status_code == 404
            assert "is damaged and was set aside: weights.bin is not what was" in reply.json()["error"]["message"]
        assert served.engine.requests == []
        about = client.get(f"/v1/adapters/{ids[0]}").json()
        assert (about["status"], about["fault"]) == ("damaged", "weights.bin is not what was written")
        assert client.get(f"/v1/adapters/{ids[0]}/export").json()["error"]["code"] == "damaged_adapter"
        assert client.post(f"/v1/adapters/{ids[0]}/refine", json={"examples": EXAMPLES}).status_code == 404
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [BASE, ids[1]]
        assert "tagi_damaged_adapters 1.0" in client.get("/metrics").text
        assert client.post("/v1/chat/completions", json={**chat, "model": ids[1]}).status_code == 200
        anew = client.post("/v1/adapters", json={"instruction": "one"})
        assert anew.status_code == 201
        assert client.post("/v1/chat/completions", json={**chat, "model": anew.json()["id"]}).status_code == 200
        assert client.delete(f"/v1/adapters/{ids[0]}").status_code == 200


def test_damage_that_the_engine_meets_is_found(served: Running) -> None:
    """The engine may read a folder again, long after it was compared."""
    with served.client() as client:
        id = client.post("/v1/adapters", json={"instruction": "one"}).json()["id"]
        (served.service.store.folder(id) / "weights.bin").write_bytes(b"x")
        reply = client.post("/v1/completions", json={"model": id, "prompt": "fail"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "damaged_adapter")
        assert client.get(f"/v1/adapters/{id}").json()["status"] == "damaged"


def test_an_adapter_that_the_engine_does_not_take_is_stored_and_tried_again(served: Running) -> None:
    served.engine.refuses_adapters = True
    with served.client() as client:
        made = client.post("/v1/adapters", json={"instruction": "Do it."})
        assert made.status_code == 201
        ask = {"model": made.json()["id"], "prompt": "hi"}
        reply = client.post("/v1/completions", json=ask)
        assert reply.status_code == 503
        assert "Retry-After" in reply.headers
        served.engine.refuses_adapters = False
        assert client.post("/v1/completions", json=ask).status_code == 200


def _raise(number: int) -> Any:
    raise OSError(number, os.strerror(number))


def test_a_full_disk_is_told_and_nothing_is_lost(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with served.client() as client:
        id = client.post("/v1/adapters", json={"instruction": "before"}).json()["id"]
        for number, status, code in ((errno.ENOSPC, 507, "disk_full"), (errno.EIO, 503, "storage_unavailable")):
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", lambda handle, number=number: _raise(number))
                reply = client.post("/v1/adapters", json=[{"instruction": "a"}, {"instruction": "b"}])
                assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
                assert reply.json()["error"]["message"].startswith("nothing was stored: the disk ")
            assert [one["id"] for one in client.get("/v1/adapters").json()["data"]] == [id]
            assert [path.name for path in (served.service.store.root / "adapters").iterdir()] == [id]
        assert client.post("/v1/completions", json={"model": id, "prompt": "hi"}).status_code == 200
        assert client.post("/v1/adapters", json=[{"instruction": "a"}, {"instruction": "b"}]).status_code == 201


def test_a_client_that_leaves_does_not_stop_what_is_made(tmp_path: Path) -> None:
    maker = FakeMaker(seconds=1.0)
    with running(tmp_path / "store", maker=maker) as served, served.client() as client:
        host, port = served.address.removeprefix("http://").split(":")
        body = b'{"instruction": "Do it."}'
        head = b"POST /v1/adapters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: maker.passes == [1])
        wait_until(lambda: served.service.store.count() == 1)
        again = client.post("/v1/adapters", json={"instruction": "Do it."})
        assert again.status_code == 200  # the client asks again and gets what was made
        assert maker.passes == [1]


def test_other_requests_are_answered_while_an_adapter_is_made(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    maker = FakeMaker(seconds=1.0)
    with running(tmp_path / "store", maker=maker) as served, served.client() as client, ThreadPoolExecutor(1) as pool:
        making = pool.submit(client.post, "/v1/adapters", json={"instruction": "Do it."})
        wait_until(lambda: maker.passes == [1])
        assert client.post("/v1/completions", json={"model": BASE, "prompt": "hi"}).status_code == 200
        assert not making.done()
        assert making.result().status_code == 201


def test_metrics_count_what_was_done(served: Running) -> None:
    with served.client() as client:
        id = client.post("/v1/adapters", json={"instruction": "Do it."}).json()["id"]
        for stream in (False, True):
            client.post("/v1/completions", json={"model": id, "prompt": "one two", "stream": stream})
        client.post("/v1/completions", json={"model": "nothing", "prompt": "hi"})
        client.get(f"/v1/adapters/{id}")
        client.get("/nowhere/at/all")
        lines = set(client.get("/metrics").text.splitlines())
        assert {
            'tagi_requests_total{method="POST",route="/v1/completions",status="200"} 2.0',
            'tagi_requests_total{method="POST",route="/v1/completions",status="404"} 1.0',
            'tagi_requests_total{method="GET",route="/v1/adapters/{id}",status="200"} 1.0',
            'tagi_requests_total{method="other",route="other",status="404"} 1.0',
            'tagi_tokens_total{kind="prompt"} 10.0',
            'tagi_tokens_total{kind="cached"} 4.0',
            'tagi_tokens_total{kind="generated"} 20.0',
            "tagi_first_token_seconds_count 2.0",
            "tagi_running 0.0",
            "tagi_waiting 0.0",
            "tagi_adapters 1.0",
            'tagi_engine{detail="cache_bytes"} 7.0',
        } <= lines


def test_readiness_is_the_engine_s(served: Running) -> None:
    with served.client() as client:
        assert (client.get("/ready").status_code, client.get("/health").status_code) == (200, 200)
        served.engine.problems = ["one of two servers does not answer"]
        reply = client.get("/ready")
        assert (reply.status_code, reply.json()["problems"]) == (503, ["one of two servers does not answer"])
        assert client.get("/health").status_code == 200
        served.engine.details["replicas"] = 2  # the other one answers
        reply = client.get("/ready")
        assert (reply.status_code, reply.json()["problems"]) == (200, ["one of two servers does not answer"])


def test_pages_need_nothing_from_elsewhere(served: Running) -> None:
    with served.client() as client:
        for path in ("/", "/docs"):
            reply = client.get(path)
            assert reply.headers["content-type"] == "text/html; charset=utf-8"
            assert "default-src 'none'" in reply.headers["content-security-policy"]
            assert re.findall(r"""(?:src|href)=["']?(?!/|data:)[^"'> ]+""", reply.text.replace("#", "/")) == []
            assert "http://www.w3.org/2000/svg" in reply.text or "http" not in reply.text.replace("HTTP", "")
        documented = client.get("/openapi.json").json()
        assert documented["paths"].keys() >= {"/v1/adapters", "/v1/chat/completions", "/v1/jobs/{id}", "/metrics"}
        for path in documented["paths"]:
            assert f" {path}</code>" in client.get("/docs").text
        assert "422" not in str(documented["paths"]["/v1/adapters"]["post"]["responses"].keys())


def test_faults_have_one_form(served: Running) -> None:
    with served.client() as client:
        for reply, status, code in (
            (client.get("/v1/nothing"), 404, "not_found"),
            (client.put("/v1/adapters"), 405, "method_not_allowed"),
            (
                client.post("/v1/adapters", content=b"{", headers={"Content-Type": "application/json"}),
                400,
                "invalid_json",
            ),
            (client.post("/v1/adapters", data={"a": "b"}), 400, "invalid_body"),
            (client.get("/v1/adapters", params={"limit": "many"}), 400, "invalid_value"),
        ):
            assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
            assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
        assert client.put("/v1/adapters").headers["allow"]
        for body, sentence in (
            ({"instruction": 3}, "instruction: expected text, got 3"),
            ([{"instruction": "a"}, {"instruction": "b", "name": 3}], "1.name: expected text, got 3"),
            ({"instruction": "a", "x-y": 3}, "x-y: unknown key"),
            ("text", "body: expected an object, got 'text'"),
            ({"instruction": "\ud800"}, "instruction: expected text that UTF-8 can write, got half a surrogate pair"),
        ):
            sent: Any = {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
            assert client.post("/v1/adapters", **sent).json()["error"]["message"] == sentence
        for content, sentence in (
            ({"model": BASE, "prompt": 3}, "prompt: expected text, got 3"),
            ({"model": BASE, "prompt": "x", "stop": [3]}, "stop.0: expected text, got 3"),
        ):
            assert client.post("/v1/completions", json=content).json()["error"]["message"] == sentence
