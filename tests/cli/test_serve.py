"""`tagi serve`: what it refuses before it begins, what it prints, and how it stops."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.commands import Run
from tests.prompted_adapters import tiny_chat_base, tiny_chat_generator


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    tiny_chat_generator(tiny_chat_base(folder / "base")).save_pretrained(folder / "generator")
    return folder / "generator"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (
            ["--host", "0.0.0.0"],
            "--host: expected 127.0.0.1, or --keys FILE to listen where others can ask, got 0.0.0.0",
        ),
        (["--host", "no such host"], "--host: expected 127.0.0.1, or --keys FILE"),
        (["--keys", "missing"], "missing: expected a text file of API keys, got"),
        (
            ["--upstream", "http://127.0.0.1:1"],
            "--upstream: expected --adapter-dir and --upstream-model with it, got none",
        ),
        (["--adapter-dir", "x"], "--adapter-dir: expected --upstream URL with it, got none"),
        (["--device", "abacus"], "--device: expected a device of this machine, such as cpu or cuda:0, got 'abacus'"),
        (["--dtype", "int8"], "float32"),
        (["--port", "70000"], "'--port': Input should be less than or equal to 65535"),
        (["--max-adapters", "0"], "'--max-adapters': Input should be greater than or equal to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(run_tagi: Run, arguments: list[str], fault: str, tmp_path: Path) -> None:
    ran = run_tagi("serve", "toy", "--store", tmp_path / "store", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert fault in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "store").exists()


def test_what_cannot_be_served_is_refused(run_tagi: Run, generator: Path, tmp_path: Path) -> None:
    ran = run_tagi("serve", "nothing", "--port", "0")
    assert (ran.code, ran.out) == (2, "")
    assert "nothing: expected a built-in generator" in ran.err
    ran = run_tagi("serve", "toy", "--port", "0", "--store", tmp_path / "store")
    assert ran.code == 2
    assert "expected a generator of a decoder-only base model to serve" in ran.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = run_tagi("serve", generator, "--port", str(port))
        assert (ran.code, ran.out) == (2, "")
        assert f"--port: expected an address to listen on, got 127.0.0.1:{port}" in ran.err


def test_a_missing_extra_is_named(run_tagi: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("tagi.cli.serve.find_spec", lambda name: None if name == "uvicorn" else real(name))
    ran = run_tagi("serve")
    assert ran.code == 2
    assert ran.err == "error: tagi serve needs uvicorn, which is not installed: pip install 'tagi-adapters[serve]'\n"


@contextmanager
def started(generator: Path, store: Path, *arguments: str) -> Iterator[tuple[Any, str]]:
    """A server in a process of its own, with its address."""
    command = [sys.executable, "-m", "tagi", "serve", str(generator), "--port", "0", "--store", str(store), *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("stop", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_server_is_started_asked_and_stopped(generator: Path, tmp_path: Path, stop: signal.Signals) -> None:
    (tmp_path / "keys").write_text("one:sk-first-key\n")
    options = ("--keys", str(tmp_path / "keys"), "--dtype", "float32")
    with started(generator, tmp_path / "store", *options) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        headers = {"Authorization": "Bearer sk-first-key"}
        with httpx2.Client(base_url=url, timeout=120, headers=headers) as client:  # the generator is still loaded
            assert "<title>tagi" in client.get("/").text
            id = client.post("/v1/adapters", json={"instruction": "Say it loud."}).json()["id"]
            ask = {"model": id, "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 5}
            reply = client.post("/v1/chat/completions", json=ask).json()
            assert reply["usage"]["completion_tokens"] == 5
        process.send_signal(stop)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert "Say it loud" not in err
    assert "sk-first-key" not in err


def test_a_store_in_use_is_refused(run_tagi: Run, generator: Path, tmp_path: Path) -> None:
    from tagi.serving.store import AdapterStore

    AdapterStore(tmp_path / "other", "sha256:another").close()
    ran = run_tagi("serve", generator, "--port", "0", "--store", tmp_path / "other")
    assert ran.code == 2
    assert "expected a store of the generator sha256:" in ran.err
    assert "choose another --store" in ran.err
