"""Tables of tasks and of labelled examples: what spreadsheets write, and what is said of a fault."""

from pathlib import Path

import pytest

from tagi.data.readers.jsonl import read_jsonl, read_labelled
from tagi.data.task import Example, Instance, Task
from tagi.errors import DataError

ROWS = [
    ("Instruction", "Input", "Output"),
    ("Name the city.", 'He said "Rome", then left.', "Rome"),
    ("Write it in capitals.", "one;\ntwo, three", "ONE;\nTWO, THREE"),
    ("Name the city.", "Oslo is cold", "Oslo"),
]
TASKS = [
    Task(
        "name-the-city",
        "name-the-city",
        "Name the city.",
        (
            Instance("name-the-city-0", 'He said "Rome", then left.', ("Rome",)),
            Instance("name-the-city-1", "Oslo is cold", ("Oslo",)),
        ),
    ),
    Task(
        "write-it-in-capitals",
        "write-it-in-capitals",
        "Write it in capitals.",
        (Instance("write-it-in-capitals-0", "one;\ntwo, three", ("ONE;\nTWO, THREE",)),),
    ),
]


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def written(delimiter: str, end: str = "\n") -> str:
    return "".join(delimiter.join(map(quoted, row)) + end for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", written(",").encode()),
        ("excel.csv", b"\xef\xbb\xbf" + written(";", "\r\n").encode()),
        ("tabs.tsv", written("\t").encode()),
        ("blank.CSV", (written(",") + "\n,,\n").encode()),
    ],
)
def test_what_spreadsheets_write(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_jsonl(tmp_path / name) == TASKS


def test_all_columns(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text(
        "task,instruction,category,metric,split,id,choices,input,output\n"
        "spam,Is it spam?,mail,choice,train,,yes|no,free money,yes\n"
        "spam,Is it spam?,mail,choice,test,m1,yes | no,see you,no\n"
    )
    same = ("spam", "mail", "Is it spam?")
    choices = ("yes", "no")
    assert read_jsonl(path) == [
        Task(*same, (Instance("spam-0", "free money", ("yes",), choices),), metric="choice", split="train"),
        Task(*same, (Instance("m1", "see you", ("no",), choices),), metric="choice", split="test"),
    ]


def test_instructions_alone_and_examples_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('instruction\nName the city in this text now please.\n"Name the city in this text now, please!"\n')
    names = [task.name for task in read_jsonl(path, require_instances=False)]
    assert names == ["name-the-city-in-this-text", "name-the-city-in-this-text-2"]
    path.write_text("output;input\nRome;in Rome\n")
    (one,) = read_labelled(path)
    assert (one.example, one.instruction, one.where) == (Example("in Rome", "Rome"), None, f"{path}: line 2")
    path.write_text("instruction,input,output\nDo.,a,b\n")
    (one,) = read_labelled(path)
    assert (one.example, one.instruction) == (Example("a", "b"), "Do.")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "line 1: expected the names of columns, input and output or instruction among them, got nothing"),
        ("text,label\na,b\n", "got text, label"),
        ("instruction,input\nDo.,a\n", "line 1: expected both columns input and output, or neither"),
        ("input,output,note\na,b,c\n", "line 1: column 'note': which is none of instruction, input, output"),
        ("input,output,input\na,b,c\n", "line 1: column 'input': twice"),
        ("input,output\n", "expected examples, one in a row under the names of the columns, got no row"),
        ("input,output\na,b\na\n", r"line 3: expected 2 cells \(input, output\), got 1"),
        ('input,output\n"a\nb",c\n ,d\n', "line 4: input: expected text, got an empty string"),
        ("input,output\na, \n", "line 2: output: expected text, got an empty cell"),
        ('input,output\n"a"b,c\n', "line 2: expected a row of a table, got"),
        ("instruction,input,output\n,a,b\n", "line 2: instruction: expected text, got an empty cell"),
        (
            "task,instruction,input,output\na,Do.,b,c\na,Undo.,b,c\n",
            "line 3: instruction: expected 'Do.' as for task 'a' in .*line 2, got 'Undo.'",
        ),
        ("instruction,metric,input,output\nDo.,bleu,b,c\n", "line 2: metric: expected 'choice', .* got 'bleu'"),
    ],
)
def test_faults_name_the_line(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=fault) as caught:
        read_labelled(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_other_bytes_than_utf_8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("input,output\nä,b\n".encode("cp1252"))
    with pytest.raises(DataError, match="expected UTF-8 text, got byte 0xe4 at byte offset 13"):
        read_labelled(path)
