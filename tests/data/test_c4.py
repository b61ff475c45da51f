"""C4's files as one endless stream: what is read depends on what is asked alone."""

import copy
import gzip
import json
import os
import pickle
import random
import warnings
from pathlib import Path

import pytest

import tagi.data.readers.c4 as c4
from tagi.data.batches import StreamBatches
from tagi.data.pretraining import Document
from tagi.data.readers.c4 import C4Documents
from tagi.errors import DataError

PER_FILE = (5, 3, 7)
TEXTS = [[f"document {file} {line} " + "word " * (14 + line) for line in range(n)] for file, n in enumerate(PER_FILE)]
PASS = [text for texts in TEXTS for text in texts]


def write(path: Path, texts: list[str], *, end: str = "\n") -> Path:
    raw = end.join(json.dumps({"url": "x", "text": text}) for text in texts).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "en"
    folder.mkdir()
    for file, texts in reversed(list(enumerate(TEXTS))):
        short = " few \n words " + "x" * 99
        write(folder / f"c4-train.{file:05}-of-00003.json.gz", [short, *texts, short])
    return folder


def texts(documents: list[Document]) -> list[str]:
    return [document.text for document in documents]


def fault(path: Path, start: int = 0, count: int = 99, **options: int) -> str:
    with pytest.raises(DataError) as caught:
        C4Documents(path, **options).read(start, count)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_in_order_and_then_from_the_start_again(corpus: Path) -> None:
    found = C4Documents(corpus).read(0, 37)
    assert texts(found) == (PASS * 3)[:37]
    assert [document.index for document in found] == list(range(37))


def test_what_is_read_depends_on_the_arguments_alone(corpus: Path) -> None:
    rng = random.Random(4)
    one = C4Documents(corpus)
    endless = PASS * 9
    for start, count in [(2, 3), (40, 2), (0, 1), (1, 0), (1, 4), (15, 15), (5, 1), (6, 2)]:
        assert C4Documents(corpus).read(start, count) == one.read(start, count)
    for _ in range(200):
        start, count = rng.randrange(100), rng.randrange(20)
        assert one.read(start, count) == [Document(start + offset, endless[start + offset]) for offset in range(count)]


def test_reading_on_reads_nothing_twice_and_jumps_pass_over_files(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    lines = 0
    original = c4._read

    def counted(path: Path):  # type: ignore[no-untyped-def]
        nonlocal lines
        opened.append(path.name[9:14])
        for text in original(path):
            lines += 1
            yield text

    monkeypatch.setattr(c4, "_read", counted)
    documents = C4Documents(corpus)
    for start in range(0, 15, 3):
        documents.read(start, 3)
    assert opened == ["00000", "00001", "00002"]
    # Two short ones in each file; what follows a file's last document is read only when more is asked for.
    assert lines == 15 + 3 * 2 - 1
    documents.read(15, 1)
    opened.clear()
    assert texts(documents.read(9, 1)) == [PASS[9]]
    assert opened == ["00002"]
    assert texts(documents.read(15 * 10**9 + 6, 1)) == [PASS[6]]
    assert opened == ["00002", "00001"]
    assert texts(documents.read(15 * 10**9 + 7, 9)) == (PASS * 2)[7:16]
    assert opened == ["00002", "00001", "00002", "00000"]


def test_words_decide_what_counts(corpus: Path) -> None:
    # The shortest document has 3 + 14 words, the first of each file.
    assert texts(C4Documents(corpus, minimum_words=18).read(0, 12))[:4] == PASS[1:5]
    assert len({*texts(C4Documents(corpus, minimum_words=18).read(0, 30))}) == 12
    assert len({*texts(C4Documents(corpus, minimum_words=17).read(0, 40))}) == 15
    assert len({*texts(C4Documents(corpus, minimum_words=1).read(0, 40))}) == 16
    assert "expected documents of at least 24 words, got none in 3 file(s)" in fault(corpus, minimum_words=24)
    with pytest.raises(DataError, match="minimum_words: expected at least 1, got 0"):
        C4Documents(corpus, minimum_words=0)


def test_an_empty_pass_stays_an_error(corpus: Path) -> None:
    documents = C4Documents(corpus, minimum_words=24)
    for start in (0, 5, 0):
        with pytest.raises(DataError, match="got none"):
            documents.read(start, 1)
    assert documents.read(0, 0) == []


def test_folder_file_and_glob(corpus: Path, tmp_path: Path) -> None:
    write(corpus / "c4-validation.00000-of-00001.json.gz", ["validation " * 20])
    (corpus / "README.md").write_text("not a document")
    write(corpus / ".c4-train.00009.json.gz", ["hidden " * 20])
    assert texts(C4Documents(corpus).read(0, 30)) == PASS * 2
    assert texts(C4Documents(str(corpus / "c4-validation*")).read(0, 2)) == ["validation " * 20] * 2
    assert texts(C4Documents(f"{tmp_path}/**/c4-train.0000[02]*").read(0, 12)) == TEXTS[0] + TEXTS[2]
    assert texts(C4Documents(corpus / "c4-train.00001-of-00003.json.gz").read(1, 3)) == [*TEXTS[1][1:], TEXTS[1][0]]


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".json.gz", ".jsonl.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_every_kind_of_file(tmp_path: Path, ending: str, end: str) -> None:
    odd = [f"zwölf\u2028Zeichen\n{n} " + "wort " * 16 for n in range(3)]
    assert texts(C4Documents(write(tmp_path / f"own{ending}", odd, end=end)).read(0, 3)) == odd


def test_nothing_to_read(corpus: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (empty, tmp_path / "nowhere", tmp_path / "*.json"):
        assert fault(path) == (
            f"{path}: expected files of documents (*.json.gz, *.jsonl.gz, *.json, *.jsonl), got none"
        )
    (corpus / "notes.txt").touch()
    assert fault(corpus / "notes.txt").startswith(f"{corpus / 'notes.txt'}: expected a name that ends with")
    assert fault(corpus / "*").startswith(f"{corpus / 'notes.txt'}: expected a name that ends with")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', "invalid JSON at column 13"),
        (b'["text"]', "expected a JSON object, got ['text']"),
        (b'{"txt": "a"}', "text: expected a value, got nothing"),
        (b'{"text": 4}', "text: expected text, got 4"),
        (b'{"text": "\\ud800"}', "text: expected Unicode text, got a lone surrogate"),
        (b'{"text": "\xff"}', "expected UTF-8 text, got byte 0xff at byte offset"),
    ],
)
def test_a_bad_line_is_named_and_what_stands_before_it_is_read(tmp_path: Path, line: bytes, message: str) -> None:
    path = write(tmp_path / "own.jsonl", PASS[:2])
    path.write_bytes(path.read_bytes() + b"\n\n" + line + b"\n")
    documents = C4Documents(path)
    for _ in range(2):
        assert texts(documents.read(0, 2)) == PASS[:2]
        with pytest.raises(DataError) as caught:
            documents.read(1, 2)
        assert str(caught.value).startswith(f"{path}: line 4: {message}")


def test_damaged_archives(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(40_000).hex()
    path = write(tmp_path / "own.json.gz", [*PASS, noise])
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[20_000:20_099] = bytes(99)
    no_such_block = whole[:10] + b"\x07" + whole[11:]
    cut_off = (whole[:-1], whole[: len(whole) // 2], b"")
    for raw in (*cut_off, bytes(damaged), no_such_block, b'{"text": "plain"}', whole + b"more"):
        path.write_bytes(raw)
        assert fault(path, minimum_words=16).startswith(f"{path}: expected a whole gzip file, got damage after ")


def test_a_file_that_vanishes(corpus: Path) -> None:
    documents = C4Documents(corpus)
    documents.read(0, 1)
    documents.files[1].unlink()
    with pytest.raises(DataError, match=r"00001-of-00003.json.gz: cannot be read \(No such file"):
        documents.read(1, 12)


def test_copies_read_for_themselves(corpus: Path) -> None:
    one = C4Documents(corpus)
    one.read(0, 4)
    for two in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert texts(two.read(4, 3)) == PASS[4:7]
        assert texts(two.read(0, 2)) == PASS[:2]
    assert texts(one.read(4, 3)) == PASS[4:7]


def test_a_forked_process_leaves_the_parents_place_alone(tmp_path: Path) -> None:
    rng = random.Random(5)
    # Larger than any buffer, so that the position in the file matters.
    long = [f"{n} " + " ".join(rng.randbytes(5000).hex() for _ in range(20)) for n in range(12)]
    documents = C4Documents(write(tmp_path / "own.json", long))
    documents.read(0, 1)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on, if the test runner has threads
        child = os.fork()
    if not child:
        found = b"wrong"
        try:
            if texts(documents.read(1, 11)) == long[1:]:
                found = b"right"
        finally:
            os.write(writer, found)
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 5) == b"right"
    os.close(reader)
    os.close(writer)
    assert texts(documents.read(1, 11)) == long[1:]


def test_batches_are_the_stream_in_order(corpus: Path) -> None:
    documents = C4Documents(corpus)
    batches = StreamBatches(lambda index: documents.read(index * 4, 4), length=11)
    assert len(batches) == 11
    assert [document for batch in batches for document in batch] == C4Documents(corpus).read(0, 44)
    assert batches[2] == C4Documents(corpus).read(8, 4)
    for index in (11, -1):
        with pytest.raises(IndexError):
            batches[index]
    with pytest.raises(IndexError):
        C4Documents(corpus).read(-1, 2)


def test_the_real_stand_in_for_c4(data_dir: Path) -> None:
    whole = C4Documents(data_dir / "c4" / "en", minimum_words=1)
    assert len(whole.files) == 4
    with gzip.open(whole.files[2]) as file:
        lines = [json.loads(line)["text"] for line in file]
    assert len(lines) == 17_177
    documents = C4Documents(whole.files[2], minimum_words=1)
    for start in range(0, 20_000, 5000):
        found = documents.read(start, 5000)
        assert texts(found) == (lines * 2)[start : start + 5000]
    assert found[-1].index == 19_999
