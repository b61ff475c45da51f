"""Files and folders that are either whole or absent: written under a temporary name, then renamed."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tagi.errors import DataError, TagiError

LONGEST_NAME = 200
"""The longest name of a file or folder, in bytes: file systems take 255, and temporary names are longer."""
_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointers(*paths: Path) -> None:
    """Raise `TagiError` if a file, or one of a folder's files, is a Git LFS pointer in place of its content.

    What cannot be read is left to the caller's own reading, which reports it.
    """
    for path in paths:
        files = [path]
        with suppress(OSError):
            files = sorted(path.iterdir())
        for file in files:
            start = b""
            with suppress(OSError):
                if file.is_file():
                    with file.open("rb") as content:
                        start = content.read(len(_POINTER))
            if start == _POINTER:
                raise TagiError(
                    f"{file}: expected the file itself, got a Git LFS pointer to it: download it with "
                    f"`git lfs pull` in {file.parent}"
                )


def refuse_long_names(names: Iterable[str], what: str) -> None:
    """Raise `DataError` for a name that is too long for a folder. `what` says in the message whose names they are."""
    for name in names:
        size = len(name.encode("utf-8", "surrogatepass"))
        if size > LONGEST_NAME:
            raise DataError(
                f"{what}: expected names of at most {LONGEST_NAME} bytes, since a folder is named after each, "
                f"got {size}: {name[:40]!r}..."
            )


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one rename. Parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def adapter_folders(names: Sequence[str]) -> list[str]:
    """Return the names of the folders that adapters of tasks with these names are written to.

    Characters that are no letters, digits, dots or hyphens become hyphens. Raises `DataError` if two names then share
    a folder, and for a name that is too long for one.
    """
    refuse_long_names(names, "task names")
    folders = [re.sub(r"[^\w.-]+", "-", name).strip("-.") or "adapter" for name in names]
    clash = next((name for name in folders if folders.count(name) > 1), None)
    if clash is not None:
        raise DataError(f"task names: expected names that differ as folders, got {clash!r} more than once")
    return folders


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `path` when the body succeeds and is removed when it fails.

    Raises `TagiError` if `path` is a file or holds files. With `overwrite` they are replaced as a whole, after the new
    content is complete.
    """
    if not overwrite and path.is_file():
        raise TagiError(f"{path}: expected a new or empty folder, got a file")
    if not overwrite and path.exists() and any(path.iterdir()):
        raise TagiError(f"{path}: expected a new or empty folder, got one that holds files")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        for file in temporary.rglob("*"):  # some writers leave files that only their owner can read
            file.chmod(0o755 if file.is_dir() else 0o644)
        _swap(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _swap(temporary: Path, path: Path) -> None:
    if not path.exists():
        os.replace(temporary, path)
        return
    attic = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    retired = attic / "old"
    try:
        os.replace(path, retired)
        os.replace(temporary, path)
    except BaseException:
        if retired.exists():
            os.replace(retired, path)
        raise
    finally:
        shutil.rmtree(attic, ignore_errors=True)
