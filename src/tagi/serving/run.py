"""The server as a process: its address, its engine, how it starts and how it stops."""

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
    """How a server is run.

    Args:
        generator: The generator's name.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        store: The folder where adapters are kept.
        keys: A file of API keys; None where nobody needs one.
        device: Where to compute; None for the GPU if there is one.
        dtype: Type of the backbone's weights; None for that in which the checkpoint loads it.
        limits: What is taken at most.
        embedded: Limits of the engine in this process.
        upstream: Addresses of the servers that answer in place of this process.
        adapter_dir: The folder where these servers look for adapters.
        upstream_model: The base model's name there.
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
    """Serve until SIGINT or SIGTERM; what is being answered then has ten seconds to end.

    The first line on standard output is the web page's address. It accepts connections at once, and answers when the
    generator is loaded.

    Raises `InputError` for settings that do not go together or an address that cannot be had, `CheckpointError` for a
    generator or a store that cannot be read, `ConfigError` if the engine does not start, and `OSError` for a store that
    cannot be written.
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
        be_quiet()  # from here on the log tells what happens
        maker, engine = GeneratorMaker(generator), _engine(settings, generator)
        store = AdapterStore(settings.store, maker.identity)
        try:
            asyncio.run(serve_until_stopped(Service(store, maker, engine, settings.limits), keys, listener))
        except EngineError as error:
            raise ConfigError(f"the engine did not start: {error}") from error
        finally:
            store.close()


def _check_upstream(settings: ServerSettings) -> None:
    """Raise `InputError` unless all or none of what an upstream engine needs is given."""
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
    """A socket that accepts connections. Raises `InputError` for an address that cannot be had."""
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
    """The web page's address, as a browser on this machine takes it."""
    port = listener.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/"


class _Server(uvicorn.Server):
    """Stops at a signal as at any other end: uvicorn would raise the signal once more."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while the server runs; a second SIGINT does not wait for running requests."""
        before = {taken: signal.signal(taken, self.handle_exit) for taken in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for taken, handler in before.items():
                signal.signal(taken, handler)


async def serve_until_stopped(service: Service, keys: Keys, listener: socket.socket) -> None:
    """Answer what comes in at a socket until a signal stops it. Raises `EngineError` if the engine does not start."""
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
