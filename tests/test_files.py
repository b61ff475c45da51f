"""Files and folders are whole or absent, whatever happens while they are written."""

import os
from pathlib import Path

import pytest

from tagi.errors import CheckpointError, DataError, TagiError
from tagi.files import LONGEST_NAME, new_folder, refuse_long_names, refuse_pointers, write_text
from tagi.formats.quality import Quality


class Crash(BaseException):
    """Neither an `Exception` nor anything a body may catch, like an interrupt."""


def crash_in(folder: Path) -> None:
    (folder / "a").write_text("1")
    raise Crash


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_text_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "note.txt"
    write_text(path, "first é\n")
    write_text(path, "second")
    assert tree(tmp_path) == {"deep/er/note.txt": "second"}
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \udc80")
    assert tree(tmp_path) == {"note.txt": "old"}


def test_a_folder_appears_when_its_body_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    with new_folder(path) as temporary:
        assert temporary.parent == path.parent
        (temporary / "a").write_text("1")
        assert not path.exists()
    assert tree(tmp_path) == {"deep/out/a": "1"}
    assert path.stat().st_mode & 0o777 == 0o755
    assert [one.name for one in path.parent.iterdir()] == ["out"]


def test_a_crash_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Crash), new_folder(tmp_path / "out") as temporary:
        crash_in(temporary)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_is_taken(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out", overwrite=overwrite) as temporary:
        (temporary / "a").write_text("1")
    assert tree(tmp_path) == {"out/a": "1"}
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_there_is_kept_unless_overwritten(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    write_text(path / "old" if kind == "folder" else path, "0")
    before = tree(tmp_path)
    with pytest.raises(TagiError, match="out: expected a new or empty folder"), new_folder(path):
        raise AssertionError("the body of a refused folder ran")
    assert tree(tmp_path) == before
    with pytest.raises(Crash), new_folder(path, overwrite=True) as temporary:
        crash_in(temporary)
    assert tree(tmp_path) == before
    with new_folder(path, overwrite=True) as temporary:
        (temporary / "a").write_text("1")
        assert tree(path) == tree(tmp_path / "out")
    assert tree(tmp_path) == {"out/a": "1"}
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_swap_that_fails_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = tmp_path / "out"
    write_text(path / "old", "0")
    calls = 0
    real = os.replace

    def replace(source: str | Path, target: str | Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError("no room")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no room"), new_folder(path, overwrite=True) as temporary:
        (temporary / "a").write_text("1")
    assert tree(tmp_path) == {"out/old": "0"}
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_a_file_that_cannot_be_read_is_left_to_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for a pointer is no reading: whoever reads the file says what is wrong."""

    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    write_text(tmp_path / Quality.FILE, "{}")
    monkeypatch.setattr(Path, "open", denied)
    refuse_pointers(tmp_path, tmp_path / Quality.FILE, tmp_path / "none")
    with pytest.raises(CheckpointError, match="got permission denied"):
        Quality.read(tmp_path)


def test_names_are_measured_in_bytes_whatever_is_in_them() -> None:
    refuse_long_names(["a" * LONGEST_NAME, "\udc80"], "names")
    for name in ("a" * (LONGEST_NAME + 1), "\u00e9" * 101, "\udc80" * 67):
        with pytest.raises(DataError, match=f"names: expected names of at most {LONGEST_NAME} bytes, .* got 20"):
            refuse_long_names([name], "names")
