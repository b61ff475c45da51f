"""What the server does, without HTTP: adapters made, kept and deleted for their owners, and prompts answered."""

import asyncio
import hashlib
import json
import logging
import os
import re
import tempfile
import time
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tagi.data.task import Task
from tagi.serving.access import Limits, overloaded
from tagi.serving.bodies import AdapterBody
from tagi.serving.faults import ApiError, not_found
from tagi.serving.making import Made, Maker
from tagi.serving.metrics import Metrics
from tagi.serving.protocol import Engine, EngineError, Piece, Request
from tagi.serving.store import AdapterStore, DamagedAdapter, Draft, Entry, disk_faults

ALONE = ":alone"
"""Ends the model name of an adapter that is asked without its instruction."""
_ID = re.compile(r"[0-9a-f]{32}")
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Service:
    """Adapters of several owners, made by one generator and answered by one engine.

    Args:
        store: Where adapters are kept.
        maker: Makes them.
        engine: Answers with them.
        limits: What is taken at most.
        metrics: Counts what is done.
    """

    def __init__(
        self,
        store: AdapterStore,
        maker: Maker,
        engine: Engine,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.store = store
        self.maker = maker
        self.engine = engine
        self.limits = limits or Limits()
        self.metrics = metrics or Metrics()
        self._making = asyncio.Lock()
        self._queued = 0
        self._available: set[str] = set()
        self._adding: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Begin to answer. Raises `EngineError` if that is impossible."""
        self.metrics.watch(self.engine, self.store)
        await self.engine.start()

    async def close(self) -> None:
        """Let what is being made become whole, and end the engine."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.engine.close()

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work to its end, also if whoever waits for it goes away."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def create(self, owner: str, wanted: Sequence[AdapterBody]) -> list[tuple[Entry, bool]]:
        """Return an adapter for each request, and whether it is new: the same request of an owner gives the same one.

        Raises `ApiError` for more than the limits allow, `InputError` for what the generator cannot read, and
        `StorageError`.
        """
        for number, body in enumerate(wanted):
            length = len(body.instruction) + sum(len(one.input) + len(one.output) for one in body.demonstrations)
            if length > self.limits.instruction_characters:
                most = self.limits.instruction_characters
                where = f"adapter {number + 1}: " if len(wanted) > 1 else ""
                sentence = (
                    f"{where}expected an instruction of at most {most} characters with its demonstrations, got {length}"
                )
                raise ApiError(400, sentence, code="instruction_too_long", param="instruction")
        if self._queued >= self.limits.waiting:
            raise overloaded("too many adapters are being made already")
        self._queued += 1
        try:
            return await self.finish(self._create(owner, wanted))
        finally:
            self._queued -= 1

    async def _create(self, owner: str, wanted: Sequence[AdapterBody]) -> list[tuple[Entry, bool]]:
        requests = {_request_digest(body): body for body in wanted}
        async with self._making:
            found = {digest: self.store.requested(owner, digest) for digest in requests}
            missing = {digest: requests[digest] for digest, entry in found.items() if entry is None}
            self._check_room(owner, len(missing))
            made: dict[str, Entry] = {}
            if missing:
                made = dict(zip(missing, await asyncio.to_thread(self._make, owner, missing), strict=True))
        for entry in made.values():
            try:
                await self._make_available(entry)
            except EngineError as error:  # it is tried again when the adapter is asked
                _log.warning("adapter %s is stored, but the engine does not take it yet: %s", entry.id, error)
        known = {digest: entry for digest, entry in found.items() if entry is not None} | made
        digests = [_request_digest(body) for body in wanted]
        return [(known[digest], digest in made) for digest in digests]

    def _make(self, owner: str, wanted: Mapping[str, AdapterBody]) -> list[Entry]:
        """Make and store adapters by the digest of their requests, all or none; one pass unless `truncate` differs."""
        drafts: dict[str, Draft] = {}
        for truncate in (False, True):
            group = {digest: body for digest, body in wanted.items() if body.truncate == truncate}
            tasks = [
                Task("", "", body.instruction, (), tuple(one.example for one in body.demonstrations))
                for body in group.values()
            ]
            made = self.maker.make(tasks, truncate=truncate) if tasks else []
            for one, (digest, body) in zip(made, group.items(), strict=True):
                drafts[digest] = replace(_draft(one), name=body.name, request=digest)
        return self.store.add(owner, [drafts[digest] for digest in wanted])

    def _check_room(self, owner: str, count: int) -> None:
        """Raise `ApiError` if an owner may not have so many adapters more."""
        most, there = self.limits.adapters_per_key, self.store.count(owner)
        if count and there + count > most:
            sentence = (
                f"expected at most {most} adapters of a key, got {count} more than the {there} there are: delete some"
            )
            raise ApiError(403, sentence, code="adapter_limit_reached")

    async def keep(self, owner: str, made: Made, *, name: str, parent: str) -> Entry:
        """Store a refined adapter. Raises `ApiError` if the owner may not have more, and `StorageError`."""
        self._check_room(owner, 1)
        draft = replace(_draft(made), name=name, parent=parent)
        return (await asyncio.to_thread(self.store.add, owner, [draft]))[0]

    def entry(self, owner: str, adapter: str) -> Entry:
        """Return an owner's adapter. Raises `ApiError` (404) if there is none."""
        found = self.store.entry(adapter, owner) if _ID.fullmatch(adapter) else None
        if found is None:
            raise not_found("expected the id of an adapter of this key, got another", "adapter_not_found")
        return found

    def sound(self, owner: str, adapter: str) -> Entry:
        """Return an owner's adapter as `entry` does. Raises `DamagedAdapter` for one that was set aside."""
        found = self.entry(owner, adapter)
        if found.fault is not None:
            raise DamagedAdapter(f"adapter {adapter} is damaged and was set aside: {found.fault}")
        return found

    async def delete(self, owner: str, adapter: str) -> None:
        """Delete an owner's adapter from the disk and from the engine."""
        self.entry(owner, adapter)
        await self.finish(self._delete(owner, adapter))

    async def _delete(self, owner: str, adapter: str) -> None:
        async with self._lock_of(adapter):
            await asyncio.to_thread(self.store.delete, owner, adapter)
            self._available.discard(adapter)
            try:
                await self.engine.remove(adapter)
            except EngineError as error:
                _log.warning("adapter %s is deleted, but the engine could not be told everywhere: %s", adapter, error)
        self._adding.pop(adapter, None)

    async def export(self, owner: str, adapter: str, *, lossy: bool) -> Path:
        """Return a zip file with an owner's adapter as a PEFT folder; whoever gets it removes it.

        Raises `InputError` if something would be lost, unless `lossy`.
        """
        self.sound(owner, adapter)
        return await self.finish(self._in_order(self._export, adapter, lossy))

    def _export(self, adapter: str, lossy: bool) -> Path:
        self.store.check(adapter)
        with disk_faults(), tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "peft"
            self.maker.export(self.store.folder(adapter), folder, lossy=lossy)
            handle, name = tempfile.mkstemp(suffix=".zip")
            os.close(handle)
            try:
                _zip(folder, adapter, Path(name))
            except BaseException:
                Path(name).unlink()
                raise
        return Path(name)

    async def _in_order(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run work in a thread, after all that was begun before it."""
        async with self._making:
            return await asyncio.to_thread(work, *arguments)

    def addressed(self, owner: str, model: str) -> tuple[str | None, bool]:
        """Return the adapter (None: the base model) that a model's name means, and whether its instruction is left out.

        Raises `ApiError` (404) for a name that means none of the owner's models.
        """
        if model == self.engine.base_model:
            return None, False
        adapter = model.removesuffix(ALONE)
        try:
            return self.sound(owner, adapter).id, adapter != model
        except ApiError as error:
            sentence = f"expected a model that GET /v1/models lists, got {model[:80]!r}"
            raise not_found(sentence, "model_not_found", "model") from error
        except DamagedAdapter as damage:
            raise not_found(str(damage), "model_not_found", "model") from damage

    async def answer(self, request: Request) -> AsyncGenerator[Piece]:
        """Answer a prompt piece by piece; closing the iterator ends the engine's.

        Raises before the first piece `ApiError` (429) if too many wait, `PromptError`, `EngineError` and
        `DamagedAdapter`.
        """
        if self.engine.load().waiting >= self.limits.waiting:
            raise overloaded("too many requests wait for an answer already")
        if request.adapter is not None:
            entry = self.store.entry(request.adapter)
            if entry is None:
                raise not_found("expected a model, got one that was deleted", "model_not_found", "model")
            await self.finish(self._make_available(entry))
        begun, piece = time.monotonic(), None
        async with aclosing(_closable(self.engine.stream(request))) as pieces:
            try:
                async for following in pieces:
                    if piece is None:
                        self.metrics.first_token(time.monotonic() - begun)
                    piece = following
                    yield piece
            except EngineError:
                if piece is None and request.adapter is not None:  # its folder may be the reason
                    await asyncio.to_thread(self.store.check, request.adapter)
                raise
        if piece is None or piece.finish is None:
            raise EngineError("the engine ended an answer too early")
        self.metrics.answered(piece)

    async def _make_available(self, entry: Entry) -> None:
        """Give the engine an adapter, after comparing its files with what was written; once."""
        if entry.id in self._available:
            return
        async with self._lock_of(entry.id):
            if entry.id in self._available or self.store.entry(entry.id) is None:
                return
            await asyncio.to_thread(self.store.check, entry.id)
            await self.engine.add(entry.id, self.store.folder(entry.id))
            self._available.add(entry.id)

    def _lock_of(self, adapter: str) -> asyncio.Lock:
        return self._adding.setdefault(adapter, asyncio.Lock())


async def _closable(pieces: AsyncIterator[Piece]) -> AsyncGenerator[Piece]:
    """The same pieces; closing this closes the iterator too."""
    try:
        async for piece in pieces:
            yield piece
    finally:
        close: Callable[[], Awaitable[None]] | None = getattr(pieces, "aclose", None)
        if close is not None:
            await close()


def _draft(made: Made) -> Draft:
    return Draft(made.write, made.instruction, made.examples, facts=made.facts)


def _request_digest(body: AdapterBody) -> str:
    return hashlib.sha256(json.dumps(body.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _zip(folder: Path, top: str, out: Path) -> None:
    """Write a folder's files as a zip file; the same files give the same bytes."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            about = zipfile.ZipInfo(f"{top}/{file.relative_to(folder)}", _ZIP_DATE)
            about.external_attr = 0o644 << 16
            archive.writestr(about, file.read_bytes())
