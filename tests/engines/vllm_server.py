"""A real vLLM on the CPU, started and stopped by the tests.

`TAGI_VLLM_PYTHON` names the Python of an environment with vLLM for CPUs, which is not this one: `make test-engines`.
"""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

PYTHON = "TAGI_VLLM_PYTHON"
START_SECONDS = int(os.environ.get("TAGI_VLLM_START_SECONDS", "1500"))
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(START_SECONDS),
    "VLLM_NO_USAGE_STATS": "1",
}


def vllm_python() -> str:
    """The interpreter of the environment with vLLM."""
    named = os.environ.get(PYTHON)
    if not named:
        pytest.fail(f"{PYTHON}: expected the Python of an environment with vLLM, got none")
    if not Path(named).is_file():
        pytest.fail(f"{PYTHON}: expected the Python of an environment with vLLM, got {named!r}, which is no file")
    return named


@contextmanager
def running_vllm(model: Path, log: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve a model folder in fp32 on a free port of this machine.

    Args:
        model: The folder.
        log: A file for what vLLM writes.
        *options: Further options of `vllm serve`.
        environment: Further environment variables.

    Yields:
        The address.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(vllm_python(), "-m", "vllm.entrypoints.cli.main", "serve", str(model)),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", "1024", "--enable-lora", "--max-lora-rank", "32", *options),
    ]
    with log.open("w") as file:
        given = {**os.environ, **ENVIRONMENT, **(environment or {})}
        server = subprocess.Popen(command, stdout=file, stderr=file, env=given)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()


def wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            pytest.fail(f"vLLM ended with exit code {server.returncode}:\n{log.read_text()[-4000:]}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(2)
    pytest.fail(f"vLLM did not start within {START_SECONDS} s:\n{log.read_text()[-4000:]}")
