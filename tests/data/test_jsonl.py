import json

import pytest

from tagi.data.readers.jsonl import Labelled, read_jsonl, read_labelled
from tagi.data.task import Example, Instance, Task
from tagi.errors import DataError
from tests.task_files import write_jsonl

LINE = {
    "task": "colour",
    "category": "Extraction",
    "instruction": " Name the colour. ",
    "examples": [{"input": "a red car", "output": "red"}],
    "instances": [
        {"input": "blue sky", "outputs": ["blue", "Blue"]},
        {"input": "grass", "outputs": ["green"], "choices": ["green", "red", "blue"]},
        {"id": "snow", "input": " snow", "outputs": ["white"]},
    ],
    "paraphrases": ["Which colour is it?", " Say the colour."],
    "metric": "choice",
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tasks.jsonl"


def fault(path, *lines, **options):
    """The one-line message raised on reading these lines (objects, or raw bytes)."""
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    with pytest.raises(DataError) as caught:
        read_jsonl(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def changed(**changes):
    return {name: value for name, value in (LINE | changes).items() if value is not None}


def instance(**fields):
    return changed(instances=[{"input": "x", "outputs": ["y"]}, fields])


def test_a_task_is_read_whole(path):
    path.write_text(json.dumps(LINE))
    assert read_jsonl(path) == [
        Task(
            name="colour",
            category="Extraction",
            instruction="Name the colour.",
            instances=(
                Instance("colour-0", "blue sky", ("blue", "Blue")),
                Instance("colour-1", "grass", ("green",), ("green", "red", "blue")),
                Instance("snow", " snow", ("white",)),
            ),
            examples=(Example("a red car", "red"),),
            paraphrases=("Which colour is it?", "Say the colour."),
            metric="choice",
        )
    ]


def test_every_field_is_read_as_it_was_written(path):
    tasks = [
        Task(
            "t1",
            "c1",
            "Zähle\u2028die Wörter\n1, 2",
            (Instance("i", "é", ("ü",), ("ü", "ö")),),
            (Example("", "∅"),),
        ),
        Task(
            "t2",
            "c2",
            "Say it.",
            (Instance("x", "d", ("a", "b")), Instance("y", "c", ("",))),
            (),
            ("Speak.",),
            metric="number",
        ),
    ]
    write_jsonl(tasks, path)
    assert read_jsonl(path) == tasks


def test_instructions_alone(path):
    path.write_text('{"task": "a", "instruction": "Do."}\n\n{"task": "b", "category": "k", "instruction": "Undo."}\n')
    assert read_jsonl(path, require_instances=False) == [
        Task("a", "a", "Do.", ()),
        Task("b", "k", "Undo.", ()),
    ]
    assert fault(path, path.read_bytes()) == "line 1: instances: expected a list of at least 1, got none"


def test_a_task_without_category_is_one_of_its_own(path):
    path.write_text(json.dumps(changed(category=None, metric=None)))
    (task,) = read_jsonl(path)
    assert (task.category, task.metric) == ("colour", None)


def test_windows_files(path):
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(LINE).encode() + b"\r\n")
    assert read_jsonl(path)[0].name == "colour"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (changed(task=None), "task: expected a value, got nothing"),
        (changed(instruction=None), "instruction: expected a value, got nothing"),
        (changed(instances=None), "instances: expected a list of at least 1, got none"),
        (changed(task=" "), "task: expected text, got an empty string"),
        (changed(category=""), "category: expected text, got an empty string"),
        (changed(instruction="\t"), "instruction: expected text, got an empty string"),
        (changed(instruction=["Do."]), "instruction: expected text, got ['Do.']"),
        (
            changed(metric="rouge"),
            "metric: expected 'choice', 'exact', 'exact_case', 'json', 'number', 'rouge_l' or 'rouge_l_unicode', got",
        ),
        (changed(metric=3), "metric: expected 'choice', "),
        (changed(instructions="x"), "unknown field 'instructions', expected task, category, instruction, "),
        (changed(instances=[]), "instances: expected a list of at least 1"),
        (changed(instances={}), "instances: expected a list, got a table"),
        (
            changed(examples=[{"input": "x", "output": "y"}, 3]),
            "examples.1: expected an object, got 3",
        ),
        (changed(examples=[{"input": "x"}]), "examples.0.output: expected a value, got nothing"),
        (changed(examples=[{"input": "x", "output": "y", "why": "z"}]), "examples.0: unknown field 'why'"),
        (changed(paraphrases="Do."), "paraphrases: expected a list, got 'Do.'"),
        (changed(paraphrases=["Do.", ""]), "paraphrases.1: expected text, got an empty string"),
        (instance(outputs=["y"]), "instances.1.input: expected a value, got nothing"),
        (instance(input="", outputs=["y"]), "instances.1.input: expected text, got an empty"),
        (
            instance(input="x", output="y"),
            "instances.1: unknown field 'output', expected id, input, outputs, choices",
        ),
        (instance(input="x", outputs="y"), "instances.1.outputs: expected a list, got 'y'"),
        (instance(input="x", outputs=[]), "instances.1.outputs: expected a list of at least 1"),
        (
            instance(input="x", outputs=["y", 2.5]),
            "instances.1.outputs.1: expected text, got 2.5",
        ),
        (
            instance(input=None, outputs=["y"]),
            "instances.1.input: expected text, got None",
        ),
        (
            instance(input="x", outputs=["y"], choices=[]),
            "instances.1.choices: expected a list of at least 1",
        ),
        (
            instance(input="x", outputs=["y"], choices=["a", "b"]),
            "instances.1.choices: expected one of the outputs",
        ),
        (instance(id="", input="x", outputs=["y"]), "instances.1.id: expected text"),
        (
            instance(id="colour-0", input="x", outputs=["y"]),
            "instances.1.id: 'colour-0' is already the id of an earlier instance",
        ),
        (instance(input="\udc80", outputs=["y"]), "instances.1.input: expected Unicode text"),
    ],
)
def test_faults_name_line_and_field(path, line, message):
    assert fault(path, changed(task="first"), line).startswith(f"line 2: {message}")


def test_long_values_are_shown_short(path):
    assert len(fault(path, changed(examples="very " * 1000 + "\nlong"))) < 200


def test_a_name_used_twice(path):
    assert fault(path, LINE, b"", LINE) == f"line 3: task: 'colour' is already the task of {path}: line 1"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"task": "x",}', "line 2: invalid JSON at column 14: "),
        (b'{"task": "x"', "line 2: invalid JSON at column 13: "),
        (b'["task"]', "line 2: expected a JSON object, got ['task']"),
        (b'{"task": "x", "task": "y"}', "line 2: invalid JSON: field 'task' appears twice"),
        (b"[" * 100_000, "line 2: invalid JSON: "),
        (b'{"task": ' + b"1" * 5000 + b"}", "line 2: invalid JSON: "),
    ],
)
def test_lines_that_are_no_json_objects(path, raw, message):
    assert fault(path, LINE, raw).startswith(message)


def test_bytes_that_are_no_utf8_are_placed_in_the_file(path):
    first = json.dumps(LINE).encode()
    expected = len(first) + 1 + 4
    said = fault(path, first, b'{"t\xe9')
    assert said == f"line 2: expected UTF-8 text, got byte 0xe9 at byte offset {expected - 1}"
    assert path.read_bytes()[expected - 1] == 0xE9
    said = fault(path, b"\xef\xbb\xbf" + b'{"task\xe9')
    assert said.endswith("byte offset 9")
    assert path.read_bytes()[9] == 0xE9


def test_files_without_tasks(path, tmp_path):
    assert fault(path) == "expected tasks, one JSON object a line, got an empty file"
    assert fault(path, b"\n", b" ") == "expected tasks, one JSON object a line, got an empty file"
    with pytest.raises(DataError, match=r"absent\.jsonl: cannot be read \(No such file"):
        read_jsonl(tmp_path / "absent.jsonl")


def test_labelled_examples_are_lines_or_the_instances_of_tasks(path):
    path.write_text('{"input": " a", "output": ""}\n\n' + json.dumps(LINE))
    places = [f"{path}: line 3: instances[{at}]" for at in range(3)]
    assert read_labelled(path) == [
        Labelled(Example(" a", ""), f"{path}: line 1"),
        Labelled(Example("blue sky", "blue"), places[0], "Name the colour."),
        Labelled(Example("grass", "green"), places[1], "Name the colour."),
        Labelled(Example(" snow", "white"), places[2], "Name the colour."),
    ]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"input": "a", "output": "b", "more": 1}, "line 1: unknown field 'more'"),
        ({"input": "a", "outputs": ["b"]}, "line 1: unknown field 'outputs'"),
        ({"input": "\t", "output": "b"}, "line 1: input: expected text"),
        ({"input": "a", "output": None}, "line 1: output: expected text"),
        (instance(input="x", outputs=[]), "line 1: instances.1.outputs"),
        (changed(instances=[]), "line 1: instances"),
        (changed(instruction=None), "line 1: "),
    ],
)
def test_faults_of_labelled_examples(path, line, named):
    path.write_text(json.dumps(line))
    with pytest.raises(DataError) as caught:
        read_labelled(path)
    assert str(caught.value).startswith(f"{path}: {named}")
