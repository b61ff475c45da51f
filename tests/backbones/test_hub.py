"""Nothing waits for a hub that cannot be reached, and nothing that lies here asks it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from tagi.backbones import hub

_NO_NETWORK = """
import socket, sys
def refused(*_, **__):
    print("asked for a host", file=sys.stderr)
    raise socket.gaierror("no network")
socket.getaddrinfo = refused
from tagi.cli.app import main
main(sys.argv[1:])
"""


def ran(*arguments: str | Path) -> tuple[int, str, float]:
    """The exit code and stderr of a command without network and without `HF_HUB_OFFLINE`, and its seconds."""
    environment = {key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HTTP"))}
    begun = time.perf_counter()
    found = subprocess.run(
        [sys.executable, "-c", _NO_NETWORK, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    return found.returncode, found.stderr, time.perf_counter() - begun


def test_what_lies_here_is_read_without_the_hub(tmp_path: Path) -> None:
    code, err, usual = ran("generate", "-g", "toy", "-i", "take the animal .", "--out", tmp_path / "adapter")
    assert (code, err) == (0, "")
    code, err, seconds = ran("generate", "-g", "some/generator", "-i", "a", "--out", tmp_path / "other")
    assert (code, err.count("asked for a host")) == (2, 1)  # once, without another attempt
    assert "error: some/generator: no such folder, and the hub gave none" in err
    assert seconds < usual + 10


def test_the_hub_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refused(address: object, timeout: float) -> None:
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub.socket, "create_connection", refused)
    hub.hub_is_unreachable.cache_clear()
    try:
        assert hub.hub_is_unreachable()
        assert hub.hub_is_unreachable()
        assert asked == [("huggingface.co", 443)]
        hub.hub_is_unreachable.cache_clear()
        monkeypatch.setattr(hub, "getproxies", lambda: {"https": "proxy"})
        assert not hub.hub_is_unreachable()
    finally:
        hub.hub_is_unreachable.cache_clear()
