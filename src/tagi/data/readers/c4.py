"""Streaming of C4's files, with one `{"text": ...}` object per line. No file is loaded whole."""

import glob
import gzip
import os
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from tagi.data.pretraining import Document
from tagi.data.readers._checks import Row, Text, objects_of
from tagi.data.readers._records import check_limit
from tagi.errors import DataError

_ENDINGS = (".json.gz", ".jsonl.gz", ".json", ".jsonl")


class _Line(Row):
    text: Text


class C4Documents:
    """An endless stream of the documents of a corpus: its files in order of their names, over and over.

    `path` is a folder, a file or a glob of `.json` or `.jsonl` files, optionally with `.gz`. If a folder has files
    named `*-train.*`, as C4's has next to its validation files, only those are read. Documents with fewer than
    `minimum_words` words are skipped. Raises `DataError` if there is no such file.

    The result of `read` depends only on its arguments. An instance can be copied or pickled to other processes, which
    then read independently. It is not thread-safe.
    """

    def __init__(self, path: Path | str, *, minimum_words: int = 16) -> None:
        check_limit("minimum_words", minimum_words)
        self.path = Path(path)
        self.minimum_words = minimum_words
        self.files = _files(self.path)
        # Number of usable documents per file, as far as known, so that files can be skipped without reading them.
        self._sizes: list[int | None] = [None] * len(self.files)
        self._stream: Iterator[str] | None = None
        self._next = 0
        self._process = os.getpid()

    def read(self, start: int, count: int) -> list[Document]:
        """Return documents `start` to `start + count - 1` of the stream.

        Reading is sequential if a call continues where the last one ended; going back reopens the file. Raises
        `DataError` for a malformed line (with file and line), for a damaged file, and if no document is usable.
        """
        if start < 0 or count < 0:
            raise IndexError(f"documents: expected a start and a count of at least 0, got {start} and {count}")
        try:
            stream = self._at(start)
            documents = [Document(start + offset, next(stream)) for offset in range(count)]
        except BaseException:
            self._stream = None  # a generator that raised cannot continue
            raise
        self._next = start + count
        return documents

    def _at(self, start: int) -> Iterator[str]:
        """Return the open stream, advanced to `start`."""
        begin, file = self._nearest(start)
        # A forked process shares the file position with its parent, so each process opens the file itself.
        if self._stream is None or self._process != os.getpid() or start < self._next or self._next < begin:
            self._stream, self._next, self._process = self._texts(file), begin, os.getpid()
        for _ in range(start - self._next):
            next(self._stream)
        return self._stream

    def _nearest(self, start: int) -> tuple[int, int]:
        """Return the last known start of a file at or before `start`: the document's index and the file's."""
        sizes = [size for size in self._sizes if size is not None]
        whole = sum(sizes) if len(sizes) == len(self.files) else 0
        begin = start - start % whole if whole else 0
        file = 0
        while file < len(sizes) and begin + sizes[file] <= start:
            begin += sizes[file]
            file += 1
        return begin, file % len(self.files)

    def _texts(self, file: int) -> Iterator[str]:
        """Yield usable texts endlessly, starting with a given file. The sizes of earlier files are known."""
        while True:
            for number in range(file, len(self.files)):
                size = 0
                for text in _read(self.files[number]):
                    if len(text.split(None, self.minimum_words - 1)) >= self.minimum_words:
                        size += 1
                        yield text
                self._sizes[number] = size
            if not any(self._sizes):
                raise DataError(
                    f"{self.path}: expected documents of at least {self.minimum_words} words, "
                    f"got none in {len(self.files)} file(s)"
                )
            file = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None, "_sizes": list(self._sizes)}


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = [file for file in path.iterdir() if file.name.endswith(_ENDINGS) and not file.name.startswith(".")]
        found = [file for file in found if "-train." in file.name] or found
    elif path.is_file():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
    odd = next((file for file in sorted(found) if not file.name.endswith(_ENDINGS)), None)
    if odd is not None:
        raise DataError(f"{odd}: expected a name that ends with {', '.join(_ENDINGS)}")
    if not found:
        raise DataError(f"{path}: expected files of documents ({', '.join('*' + end for end in _ENDINGS)}), got none")
    return sorted(found)


def _open(path: Path) -> BufferedIOBase:
    if path.suffix != ".gz":
        return path.open("rb")
    if not path.stat().st_size:  # gzip would read it as an empty text
        raise EOFError("an empty file")
    return gzip.open(path, "rb")


def _read(path: Path) -> Iterator[str]:
    """Yield the texts of a file, in order."""
    where = "the start"
    try:
        with _open(path) as file:
            for where, fields in objects_of(file, path):
                yield _Line.checked(fields, where).text
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise DataError(f"{path}: expected a whole gzip file, got damage after {where} ({fault})") from fault
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror})") from fault
