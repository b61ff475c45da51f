"""Start, run and stop the server process."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import uvicorn

from tagi.activity import be_quiet
from tagi.api.generator import AdapterGenerator
from tagi.errors import ConfigError, InputError
from tagi.formats.finding import DEFAULT, find_checkpoint
from tagi.serving.access import Keys, Limits, check_address
from tagi.serving.app import application
from tagi.serving.embedded import EmbeddedEngine, EmbeddedLimits
from tagi.serving.making import GeneratorMaker
from tagi.serving.protocol import Engine, EngineError
from tagi.serving.service import Service
from tagi.serving.store import AdapterStore
from tagi.serving.upstream import UpstreamEngine

_GRACE_SECONDS = 10
_BACKLOG = 128


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Args:
        generator: Name of the generator.
        host: Address to listen on.
        port: Port; 0 picks a free one.
        store: Folder that adapters are stored in.
        keys: File of API keys; None if no key is needed.
        device: Device; None for a GPU if there is one.
        dtype: Data type of the backbone's weights; None for that of the checkpoint.
        limits: Limits of the server.
        embedded: Limits of the embedded engine.
        upstream: URLs of the vLLM servers that generate the answers, instead of the embedded engine.
        adapter_dir: Folder from which the vLLM servers load adapters.
        upstream_model: Name of the base model in vLLM.
    """

    generator: str = DEFAULT
    host: str = "127.0.0.1"
    port: int = 8000
    store: Path = Path("runs/serve")
    keys: Path | None = None
    device: str | None = None
    dtype: str | None = None
    limits: Limits = field(default_factory=Limits)
    embedded: EmbeddedLimits = field(default_factory=EmbeddedLimits)
    upstream: Sequence[str] = ()
    adapter_dir: Path | None = None
    upstream_model: str | None = None


def serve(settings: ServerSettings) -> None:
    """Serve until SIGINT or SIGTERM. Running requests then have ten seconds to finish.

    The first line on standard output is the address of the web page. The server accepts connections immediately and
    answers them when the generator is loaded.

    Raises `InputError` for inconsistent settings or an address that is not available, `CheckpointError` for a generator
    or a store that cannot be read, `ConfigError` if the engine does not start, and `OSError` for a store that cannot be
    written.
    """
    keys = Keys() if settings.keys is None else Keys.from_file(settings.keys)
    check_address(settings.host, keys)
    _check_upstream(settings)
    find_checkpoint(settings.generator)
    device = _device(settings.device)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    with _listening(settings.host, settings.port) as listener:
        print(_address(settings.host, listener), flush=True)
        print(f"Loading {settings.generator} ...", file=sys.stderr, flush=True)
        dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
        generator = AdapterGenerator.from_pretrained(settings.generator, device=device, dtype=dtype)
        be_quiet()  # from here on the log reports progress
        maker, engine = GeneratorMaker(generator), _engine(settings, generator)
        store = AdapterStore(settings.store, maker.identity)
        try:
            asyncio.run(serve_until_stopped(Service(store, maker, engine, settings.limits), keys, listener))
        except EngineError as error:
            raise ConfigError(f"the engine did not start: {error}") from error
        finally:
            store.close()


def _check_upstream(settings: ServerSettings) -> None:
    """Raise `InputError` unless all or none of the upstream settings are given."""
    needed = {"--adapter-dir": settings.adapter_dir, "--upstream-model": settings.upstream_model}
    if settings.upstream and (missing := [name for name, value in needed.items() if value is None]):
        raise InputError(f"--upstream: expected {' and '.join(missing)} with it, got none")
    if not settings.upstream and (alone := [name for name, value in needed.items() if value is not None]):
        raise InputError(f"{alone[0]}: expected --upstream URL with it, got none")


def _engine(settings: ServerSettings, generator: AdapterGenerator) -> Engine:
    if not settings.upstream:
        return EmbeddedEngine(generator, settings.embedded)
    assert settings.adapter_dir is not None
    assert settings.upstream_model is not None
    return UpstreamEngine(settings.upstream, settings.adapter_dir, settings.upstream_model, generator)


def _device(name: str | None) -> torch.device | None:
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device: expected a device of this machine, such as cpu or cuda:0, got {name!r}") from error
    return device


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Return a listening socket. Raises `InputError` if the address is not available."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise InputError(f"--host: expected an address of this machine, got {host!r} ({error.strerror})") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise InputError(
                f"--port: expected an address to listen on, got {host}:{port} ({error.strerror})"
            ) from error
        yield listener


def _address(host: str, listener: socket.socket) -> str:
    """Return the address of the web page for a browser on this machine."""
    port = listener.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/"


class _Server(uvicorn.Server):
    """A server that returns normally after a signal; uvicorn's own would raise the signal again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while the server runs. A second SIGINT does not wait for running requests."""
        before = {taken: signal.signal(taken, self.handle_exit) for taken in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for taken, handler in before.items():
                signal.signal(taken, handler)


async def serve_until_stopped(service: Service, keys: Keys, listener: socket.socket) -> None:
    """Serve requests on a socket until a signal. Raises `EngineError` if the engine does not start."""
    async with application(service, keys) as app:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            http="h11",
            ws="none",
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        await _Server(config).serve(sockets=[listener])
