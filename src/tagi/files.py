"""Files and folders that are either whole or absent: written under a temporary name, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tagi.errors import TagiError


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
