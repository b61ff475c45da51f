"""Adapters on disk: one folder each and an index. Acknowledged adapters survive a crash.

A folder is written under a temporary name, synced, renamed and added to the index, which is also synced. Only then does
`add` return. Only one process at a time can open the store.
"""

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tagi.data.task import Example
from tagi.errors import CheckpointError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about(name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS adapters(
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, request TEXT,
    name TEXT NOT NULL, created REAL NOT NULL, instruction TEXT NOT NULL, examples TEXT NOT NULL, parent TEXT,
    facts TEXT NOT NULL, files TEXT NOT NULL, fault TEXT, UNIQUE(owner, request));
CREATE INDEX IF NOT EXISTS of_owner ON adapters(owner, number);
CREATE TABLE IF NOT EXISTS jobs(
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL NOT NULL, adapter TEXT NOT NULL, status TEXT NOT NULL,
    result TEXT, error TEXT);
"""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DELETED = ".deleted"
_log = logging.getLogger(__name__)


class StorageError(Exception):
    """Writing failed. No partial files are left, and existing adapters are not affected.

    Args:
        message: Description of the failure.
        full: Whether the disk is full.
    """

    def __init__(self, message: str, *, full: bool) -> None:
        super().__init__(message)
        self.full = full


class DamagedAdapter(Exception):
    """An adapter's files have changed since they were written. Its folder was moved to `damaged/`."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An adapter that is to be stored.

    Args:
        write: Writes its files to a new folder.
        instruction: The instruction.
        examples: The demonstrations.
        name: Display name.
        request: Digest of the request. The same owner's next request with this digest returns this adapter.
        parent: Id of the adapter that was refined.
        facts: Description of the adapter for responses, ready for JSON.
    """

    write: Callable[[Path], None]
    instruction: str
    examples: tuple[Example, ...] = ()
    name: str = ""
    request: str | None = None
    parent: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored adapter: its draft's fields, id, owner, creation time (seconds since 1970), and damage if any."""

    id: str
    owner: str
    name: str
    created: float
    instruction: str
    examples: tuple[Example, ...]
    parent: str | None
    facts: dict[str, Any]
    fault: str | None


@dataclass(frozen=True, slots=True)
class JobEntry:
    """A refinement job: its owner, the adapter, the progress and the result."""

    id: str
    owner: str
    created: float
    adapter: str
    status: str
    result: str | None = None
    error: str | None = None


class AdapterStore:
    """The adapters of all owners in one folder. Methods may be called from any thread.

    Args:
        root: The folder. It is created if it does not exist.
        generator: Digest of the generator. Adapters of another generator need another store.

    Raises `CheckpointError` if the store belongs to another generator, is in use, or has a damaged index.
    """

    def __init__(self, root: Path, generator: str) -> None:
        self.root = root
        self._new, self._kept, self._aside = (root / name for name in ("new", "adapters", "damaged"))
        for folder in (root, self._new, self._kept, self._aside):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(root / "in-use.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise CheckpointError(f"{root}: expected a store that no other server uses, got one in use") from error
        self._mutex, self._reading = threading.RLock(), threading.Lock()
        try:
            # Readers do not wait for a writer's transaction.
            self._db, self._reader = (
                sqlite3.connect(root / "index.sqlite", check_same_thread=False, isolation_level=None) for _ in range(2)
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            self._check_generator(generator)
            self._recover()
        except sqlite3.DatabaseError as error:
            self._lock.release()
            raise CheckpointError(f"{root / 'index.sqlite'}: expected the index of a store, got: {error}") from error
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Close the store, so that another process can open it."""
        with self._mutex, self._reading:
            self._reader.close()
            self._db.close()
        self._lock.release()

    def folder(self, adapter: str) -> Path:
        """Return the folder of an adapter."""
        return self._kept / adapter

    def add(self, owner: str, drafts: Sequence[Draft]) -> list[Entry]:
        """Store adapters, all or none, and return them when they are synced to disk.

        Raises `StorageError` if writing fails.
        """
        ids = [secrets.token_hex(16) for _ in drafts]
        try:
            written = [self._write(id, draft) for id, draft in zip(ids, drafts, strict=True)]
            with disk_faults(), self._mutex:
                for id in ids:
                    os.rename(self._new / id, self._kept / id)
                _sync(self._kept)
                with self._transaction():
                    for id, draft, files in zip(ids, drafts, written, strict=True):
                        self._insert(id, owner, draft, files)
        except BaseException:
            for id in ids:
                shutil.rmtree(self._new / id, ignore_errors=True)
                shutil.rmtree(self._kept / id, ignore_errors=True)
            raise
        return [entry for entry in map(self.entry, ids) if entry is not None]

    def entry(self, adapter: str, owner: str | None = None) -> Entry | None:
        """Return an adapter; with `owner`, only if it belongs to this owner."""
        found = self._select("WHERE id = ?", (adapter,))
        return found[0] if found and owner in (None, found[0].owner) else None

    def requested(self, owner: str, request: str) -> Entry | None:
        """Return the adapter of an owner's earlier request with this digest."""
        found = self._select("WHERE owner = ? AND request = ? AND fault IS NULL", (owner, request))
        return found[0] if found else None

    def entries(self, owner: str, *, after: str | None = None, limit: int = -1) -> list[Entry]:
        """Return an owner's adapters, oldest first: those after a given one, at most `limit` (-1 for all)."""
        later = "AND number > COALESCE((SELECT number FROM adapters WHERE owner = ? AND id = ?), 0)"
        return self._select(f"WHERE owner = ? {later} ORDER BY number LIMIT ?", (owner, owner, after, limit))

    def count(self, owner: str | None = None, *, damaged: bool = False) -> int:
        """Return the number of adapters of an owner or of all owners; optionally only of damaged ones."""
        where = "(?1 IS NULL OR owner = ?1)" + (" AND fault IS NOT NULL" if damaged else "")
        return int(self._fetch(f"SELECT COUNT(*) FROM adapters WHERE {where}", (owner,))[0][0])

    def delete(self, owner: str, adapter: str) -> bool:
        """Delete an owner's adapter with its files. Returns whether it existed."""
        with disk_faults(), self._mutex:
            if self.entry(adapter, owner) is None:
                return False
            trash = self._new / f"{adapter}{_DELETED}"
            for place in (self._kept / adapter, self._aside / adapter):
                if place.is_dir():
                    shutil.rmtree(trash, ignore_errors=True)
                    os.rename(place, trash)
            with self._transaction():
                self._db.execute("DELETE FROM adapters WHERE id = ?", (adapter,))
        shutil.rmtree(trash, ignore_errors=True)
        return True

    def check(self, adapter: str) -> None:
        """Check an adapter's files against their digests.

        If they differ, moves the folder to `damaged/` and raises `DamagedAdapter`.
        """
        self._check(adapter, bytes_too=True)

    def keep_job(self, job: JobEntry) -> None:
        """Store a job's state."""
        row = (job.id, job.owner, job.created, job.adapter, job.status, job.result, job.error)
        with disk_faults(), self._mutex, self._transaction():
            self._db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def job(self, owner: str, job: str) -> JobEntry | None:
        """Return an owner's job."""
        found = self._fetch("SELECT * FROM jobs WHERE owner = ? AND id = ?", (owner, job))
        return JobEntry(*found[0]) if found else None

    def _write(self, id: str, draft: Draft) -> dict[str, tuple[int, str]]:
        """Write a draft's files under a temporary name and sync them. Returns the size and digest of each file."""
        folder = self._new / id
        with disk_faults():
            draft.write(folder)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            digests = {str(path.relative_to(folder)): (path.stat().st_size, _digest(path, sync=True)) for path in files}
            for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
                _sync(path)
        return digests

    def _insert(self, id: str, owner: str, draft: Draft, files: Mapping[str, tuple[int, str]]) -> None:
        examples = json.dumps([[one.input, one.output] for one in draft.examples])
        # The request of a damaged adapter can be repeated.
        self._db.execute(
            "UPDATE adapters SET request = NULL WHERE owner = ? AND request = ? AND fault IS NOT NULL",
            (owner, draft.request),
        )
        row = (id, owner, draft.request, draft.name, time.time(), draft.instruction, examples, draft.parent)
        self._db.execute(
            "INSERT INTO adapters(id, owner, request, name, created, instruction, examples, parent, facts, files) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, json.dumps(dict(draft.facts)), json.dumps(dict(files))),
        )

    def _select(self, where: str, values: tuple[Any, ...]) -> list[Entry]:
        columns = "id, owner, name, created, instruction, examples, parent, facts, fault"
        entries = []
        for *first, examples, parent, facts, fault in self._fetch(f"SELECT {columns} FROM adapters {where}", values):
            shown = tuple(Example(*one) for one in json.loads(examples))
            id, owner, name, created, instruction = first
            entries.append(Entry(id, owner, name, created, instruction, shown, parent, json.loads(facts), fault))
        return entries

    def _fetch(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        with self._reading:
            return self._reader.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _check_generator(self, generator: str) -> None:
        known = self._fetch("SELECT value FROM about WHERE name = 'generator'", ())
        if known and known[0][0] != generator:
            raise CheckpointError(
                f"{self.root}: expected a store of the generator {generator}, got one of {known[0][0]}: "
                "choose another --store"
            )
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO about VALUES ('generator', ?)", (generator,))

    def _recover(self) -> None:
        """Finish or undo what a killed process had started, and move damaged folders to `damaged/`."""
        for leftover in self._new.iterdir():
            if leftover.name.endswith(_DELETED):
                self._db.execute("DELETE FROM adapters WHERE id = ?", (leftover.name.removesuffix(_DELETED),))
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        known = {id for (id,) in self._fetch("SELECT id FROM adapters WHERE fault IS NULL", ())}
        for folder in self._kept.iterdir():
            if folder.name not in known:  # killed before it was acknowledged, or not in this index
                self._set_aside(folder.name)
                _log.warning("set aside an adapter folder that the index does not know: %s", folder.name)
        for id in sorted(known):
            try:
                self._check(id, bytes_too=False)
            except DamagedAdapter as damage:
                _log.warning("%s", damage)
        self._db.execute("UPDATE jobs SET status = 'failed', error = 'the server stopped' WHERE status IN (?, ?)", LIVE)

    def _check(self, adapter: str, *, bytes_too: bool) -> None:
        """Compare an adapter's files with the index: names and sizes, and optionally digests."""
        row = self._fetch("SELECT files FROM adapters WHERE id = ? AND fault IS NULL", (adapter,))
        if not row:
            return
        written = {name: (size, digest) for name, (size, digest) in json.loads(row[0][0]).items()}
        fault = _fault(self._kept / adapter, written, bytes_too=bytes_too)
        if fault is None:
            return
        with self._mutex, self._transaction():
            self._db.execute("UPDATE adapters SET fault = ? WHERE id = ?", (fault, adapter))
            self._set_aside(adapter)
        raise DamagedAdapter(f"adapter {adapter} is damaged and was set aside: {fault}")

    def _set_aside(self, id: str) -> None:
        if (self._kept / id).exists():
            shutil.rmtree(self._aside / id, ignore_errors=True)
            os.rename(self._kept / id, self._aside / id)


LIVE = ("queued", "running")
"""The states of a job that goes on."""


@contextmanager
def disk_faults() -> Iterator[None]:
    """Convert errors of the file system and the index to `StorageError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL
        reason = "the disk is full" if full else f"the disk does not take it: {error.strerror or error}"
        raise StorageError(reason, full=full) from error
    except sqlite3.OperationalError as error:
        full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
        raise StorageError("the disk is full" if full else f"the index does not take it: {error}", full=full) from error


def _fault(folder: Path, written: Mapping[str, tuple[int, str]], *, bytes_too: bool) -> str | None:
    """Return how a folder differs from the index, or None."""
    for name, (size, digest) in written.items():
        try:
            same = (folder / name).stat().st_size == size and (not bytes_too or _digest(folder / name) == digest)
        except OSError as error:
            return f"{name}: {(error.strerror or str(error)).lower()}"
        if not same:
            return f"{name} is not what was written"
    others = (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())
    return next((f"{name} was not written with it" for name in others if name not in written), None)


def _digest(path: Path, *, sync: bool = False) -> str:
    """Return the SHA-256 of a file, and optionally sync the file."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Sync a directory."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
