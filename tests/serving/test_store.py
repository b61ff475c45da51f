"""The store keeps what it acknowledged, through kills, damage and full disks, and nothing half."""

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tagi.data.task import Example
from tagi.errors import CheckpointError
from tagi.serving.store import AdapterStore, DamagedAdapter, Draft, JobEntry, StorageError
from tests.serving.drafts import GENERATOR, draft, files, write_files
from tests.serving.writer import SIZE


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = AdapterStore(tmp_path / "store", GENERATOR)
    yield opened
    opened.close()


def reopened(store: AdapterStore) -> AdapterStore:
    store.close()
    return AdapterStore(store.root, GENERATOR)


def files_of(store: AdapterStore, id: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder(id).iterdir()}


def test_an_adapter_is_there_after_the_store_was_closed(store: AdapterStore) -> None:
    shown, facts = (Example("in", "out"), Example("é", "\n")), {"rank": 3, "layers": {"q": 0.5}}
    made = store.add("a", [draft("Do it.", examples=shown, name="mine", request="r", facts=facts, parent="0" * 32)])
    again = reopened(store)
    found = again.entry(made[0].id, "a")
    assert found == made[0]
    assert (found.instruction, found.examples, found.name, found.facts) == ("Do it.", shown, "mine", facts)
    assert found.parent == "0" * 32
    assert files_of(again, found.id) == files("Do it.")
    assert again.requested("a", "r") == found
    again.check(found.id)
    again.close()


def test_owners_see_their_own_alone(store: AdapterStore) -> None:
    first, second = (store.add(owner, [draft("same", request="r")])[0] for owner in ("a", "b"))
    assert first.id != second.id
    assert store.entry(first.id, "b") is None
    assert store.requested("b", "r") == second
    assert store.requested("c", "r") is None
    assert [entry.id for entry in store.entries("a")] == [first.id]
    assert (store.count("a"), store.count("c"), store.count()) == (1, 0, 2)
    assert not store.delete("b", first.id)
    assert store.entry(first.id, "a") == first
    store.keep_job(JobEntry("j", "a", 1.0, first.id, "running"))
    assert store.job("b", "j") is None
    assert store.job("a", "j") == JobEntry("j", "a", 1.0, first.id, "running")


def test_lists_go_on_where_they_ended(store: AdapterStore) -> None:
    ids = [entry.id for entry in store.add("a", [draft(f"task {at}") for at in range(5)])]
    other = store.add("b", [draft("other")])[0]
    assert [entry.id for entry in store.entries("a", limit=2)] == ids[:2]
    assert [entry.id for entry in store.entries("a", after=ids[1], limit=2)] == ids[2:4]
    assert [entry.id for entry in store.entries("a", after=ids[3])] == ids[4:]
    assert [entry.id for entry in store.entries("b", after=ids[4])] == [other.id]  # it is none of theirs


def test_what_is_deleted_stays_deleted(store: AdapterStore) -> None:
    kept, gone = store.add("a", [draft("kept"), draft("gone", request="r")])
    assert store.delete("a", gone.id)
    assert not store.delete("a", gone.id)
    assert not store.folder(gone.id).exists()
    assert store.requested("a", "r") is None
    again = reopened(store)
    assert [entry.id for entry in again.entries("a")] == [kept.id]
    again.close()


def test_a_deletion_that_was_interrupted_is_finished(store: AdapterStore) -> None:
    entry = store.add("a", [draft("gone")])[0]
    os.rename(store.folder(entry.id), store.root / "new" / f"{entry.id}.deleted")
    again = reopened(store)
    assert again.entry(entry.id) is None
    assert list((store.root / "new").iterdir()) == []
    again.close()


def _change(folder: Path) -> None:
    path = folder / "weights.bin"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def _shorten(folder: Path) -> None:
    (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:-1])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a changed bit": (_change, "weights.bin is not what was written"),
    "a short file": (_shorten, "weights.bin is not what was written"),
    "an empty file": (lambda folder: (folder / "about.json").write_bytes(b""), "about.json is not what was written"),
    "a missing file": (lambda folder: (folder / "about.json").unlink(), "about.json: no such file or directory"),
    "a further file": (lambda folder: (folder / "more").write_bytes(b"x"), "more was not written with it"),
    "no folder": (lambda folder: os.rename(folder, folder.parent.parent / "moved"), "about.json: no such file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_set_aside_and_reported(store: AdapterStore, kind: str) -> None:
    sound, broken = store.add("a", [draft("sound"), draft("broken", request="r")])
    damage, fault = DAMAGE[kind]
    damage(store.folder(broken.id))
    store.check(sound.id)
    with pytest.raises(DamagedAdapter, match=f"{broken.id} is damaged and was set aside: {fault}"):
        store.check(broken.id)
    assert not store.folder(broken.id).exists()
    assert (store.root / "damaged" / broken.id).exists() == (kind != "no folder")
    found = store.entry(broken.id, "a")
    assert found is not None
    assert str(found.fault).startswith(fault)
    assert (store.count("a"), store.count("a", damaged=True)) == (2, 1)
    assert store.requested("a", "r") is None
    assert store.add("a", [draft("broken", request="r")])[0].fault is None  # the same request makes it anew
    assert store.delete("a", broken.id)
    assert not (store.root / "damaged" / broken.id).exists()


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "a changed bit"])
def test_damage_is_found_when_the_store_is_opened(store: AdapterStore, kind: str) -> None:
    sound, broken = store.add("a", [draft("sound"), draft("broken")])
    DAMAGE[kind][0](store.folder(broken.id))
    again = reopened(store)
    assert [entry.fault is None for entry in again.entries("a")] == [True, False]
    assert again.entry(sound.id) == sound
    again.close()


def test_leftovers_and_folders_that_the_index_does_not_know_are_cleared(store: AdapterStore) -> None:
    entry = store.add("a", [draft("known")])[0]
    write_files(store.root / "new" / "half", "half")
    (store.root / "new" / ".half.xyz").mkdir()
    write_files(store.root / "adapters" / "unknown", "unknown")
    again = reopened(store)
    assert list((store.root / "new").iterdir()) == []
    assert [path.name for path in (store.root / "adapters").iterdir()] == [entry.id]
    assert files_of(again, entry.id) == files("known")
    assert (store.root / "damaged" / "unknown").is_dir()  # another index may know it: nothing is lost
    again.close()


def test_a_store_has_one_server_and_one_generator(store: AdapterStore, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a store that no other server uses, got one in use"):
        AdapterStore(store.root, GENERATOR)
    store.close()
    with pytest.raises(CheckpointError, match=f"expected a store of the generator other, got one of {GENERATOR}"):
        AdapterStore(store.root, "other")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "index.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(CheckpointError, match=r"index\.sqlite: expected the index of a store, got: file is not"):
        AdapterStore(tmp_path / "broken", GENERATOR)
    AdapterStore(store.root, GENERATOR).close()  # each of them let go of it


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _of_adapter(store: AdapterStore) -> Draft:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "weights.bin").write_bytes(b"half")
        raise FULL

    return Draft(write, "half")


@pytest.mark.parametrize("step", ["write", "fsync", "rename", "index"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_full_disk_loses_nothing_and_leaves_nothing(
    store: AdapterStore, step: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the first, second or third call of each kind that adds two adapters."""
    before = store.add("a", [draft("before")])[0]
    wanted = [draft("first"), draft("second")]
    with monkeypatch.context() as patch:
        if step == "index":
            size = store._db.execute("PRAGMA page_count").fetchone()[0]
            store._db.execute(f"PRAGMA max_page_count = {size + call - 1}")
            wanted = [draft("large " * 2000), draft("larger " * 4000)]
        elif step == "write":
            wanted = [draft(f"task {at}") for at in range(call - 1)] + [_of_adapter(store)]
        else:
            calls, real = iter(range(1, 1000)), getattr(os, step)

            def full(*arguments: Any) -> Any:
                if next(calls) == call:
                    raise FULL
                return real(*arguments)

            patch.setattr(os, step, full)
        if step == "rename" and call == 3:
            wanted.append(draft("third"))
        with pytest.raises(StorageError, match="the disk is full") as raised:
            store.add("a", wanted)
    assert raised.value.full
    assert [path.name for path in (store.root / "adapters").iterdir()] == [before.id]
    assert list((store.root / "new").iterdir()) == []
    assert store.entries("a") == [before]
    store._db.execute("PRAGMA max_page_count = 1000000")
    after = store.add("a", [draft("after")])[0]  # when there is room again
    again = reopened(store)
    assert [entry.id for entry in again.entries("a")] == [before.id, after.id]
    assert files_of(again, before.id) == files("before")
    again.close()


def test_other_faults_of_the_disk_are_not_called_full(store: AdapterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(StorageError, match="the disk does not take it: Input/output error") as raised:
        store.add("a", [draft("first")])
    assert not raised.value.full
    assert store.count() == 0


def test_everything_is_synced_before_it_is_acknowledged(store: AdapterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, real = [], os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    entry = store.add("a", [draft("first")])[0]
    new = str(store.root / "new" / entry.id)
    assert synced == [f"{new}/about.json", f"{new}/weights.bin", new, str(store.root / "adapters")]
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def killed_while_writing(root: Path, kills: int, seconds: float) -> tuple[dict[str, str], int]:
    """Kill a process that writes into a store so often; return what it acknowledged, and check all of it each time."""
    chance, acknowledged, started = random.Random(5), {}, 0
    for _ in range(kills):
        command = [sys.executable, "-m", "tests.serving.writer", str(root), str(started)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            time.sleep(chance.uniform(0, seconds))
            process.kill()
            lines += process.stdout.read().splitlines()
        whole = [tuple(line.strip().split("\t")) for line in lines if line.count("\t") == 1]
        acknowledged |= dict(whole)
        started += 100_000
        store = AdapterStore(root, GENERATOR)
        entries = {entry.id: entry for entry in store.entries("local")}
        assert acknowledged.keys() <= entries.keys()
        assert [entry for entry in entries.values() if entry.fault is not None] == []
        for id, entry in entries.items():  # those that were written, but not yet acknowledged, are whole too
            assert files_of(store, id) == files(entry.instruction, SIZE)
            assert acknowledged.get(id, entry.instruction) == entry.instruction
        assert {path.name for path in (root / "adapters").iterdir()} == entries.keys()
        assert list((root / "new").iterdir()) == []
        store.close()
    return acknowledged, started


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    acknowledged, _ = killed_while_writing(tmp_path / "store", 2, 0.2)
    assert len(acknowledged) > 2


@pytest.mark.slow
def test_what_was_acknowledged_survives_twenty_kills(tmp_path: Path) -> None:
    acknowledged, _ = killed_while_writing(tmp_path / "store", 20, 1.0)
    assert len(acknowledged) > 100


def test_readers_do_not_wait_for_a_writer(store: AdapterStore) -> None:
    store.add("a", [draft("first")])
    store._db.execute("BEGIN IMMEDIATE")
    assert store.count("a") == 1
    store._db.execute("ROLLBACK")


def test_an_index_that_cannot_be_written_is_told(store: AdapterStore) -> None:
    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(StorageError, match="the index does not take it: attempt to write a readonly database"):
        store.add("a", [draft("first")])
    assert list((store.root / "adapters").iterdir()) == []


def test_jobs_that_a_kill_ended_have_failed(store: AdapterStore) -> None:
    for status in ("queued", "running", "succeeded"):
        store.keep_job(JobEntry(status, "a", 1.0, "0" * 32, status))
    again = reopened(store)
    found = {status: again.job("a", status) for status in ("queued", "running", "succeeded")}
    assert [job and job.status for job in found.values()] == ["failed", "failed", "succeeded"]
    assert found["queued"] is not None
    assert found["queued"].error == "the server stopped"
    again.close()
