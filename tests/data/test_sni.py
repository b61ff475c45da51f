import json
import logging
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from tagi.data.readers.sni import SNISplit, read_sni
from tagi.data.splits import SNI_SPLIT_SIZES, CategoryCount, compare_with_table10, sni_categories, table10
from tagi.data.task import Example, Instance, Task
from tagi.errors import DataError


@cache
def real(root: Path, split: str) -> SNISplit:
    """A whole split of the real data, read once for all tests."""
    return read_sni(root / "natural-instructions", split)


@pytest.fixture
def training(data_dir):
    return real(data_dir, "train")


@pytest.fixture
def testing(data_dir):
    return real(data_dir, "test")


def task_file(**changes):
    fields = {
        "Categories": ["Counting"],
        "Definition": [" Count the words. ", "How many words are there?"],
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Positive Examples": [
            {"input": "a b", "output": "2", "explanation": "two"},
            {"input": "a", "output": "1", "explanation": "one"},
            {"input": "", "output": "0", "explanation": "none"},
        ],
        "Negative Examples": [],
        "Instances": [{"id": f"i{n}", "input": "x " * n, "output": [str(n), f"{n} words"]} for n in range(5)],
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


@pytest.fixture
def checkout(tmp_path):
    """A small checkout: two tasks with files, one listed without a file, and one for testing."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "splits" / "default").mkdir(parents=True)
    (tmp_path / "splits" / "default" / "train_tasks.txt").write_text("task2_b\ntask1_a\n\ntask3_c\n")
    (tmp_path / "splits" / "default" / "test_tasks.txt").write_text("task4_d\n")
    put(tmp_path, "task1_a")
    put(tmp_path, "task2_b", Categories=["Sorting", "Counting"])
    put(tmp_path, "task4_d")
    return tmp_path


def put(root, name, **changes):
    (root / "tasks" / f"{name}.json").write_text(json.dumps(task_file(**changes), indent=1))


def fault(root, **options):
    """The one-line message of the fault that reading the training split raises."""
    with pytest.raises(DataError) as caught:
        read_sni(root, "train", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_counts_of_the_real_training_tasks(training):
    assert (len(training.listed), len(training.tasks), len(training.missing)) == (756, 691, 65)
    assert training.non_english == ()
    assert training.instances == 68_817
    assert len(training.category_counts) == 60
    assert training.summary()["categories"]["Question Answering"] == 136
    assert training.summary()["instances"] == 68_817
    assert training.summary()["missing"] == 65


def test_counts_of_the_real_test_tasks(testing):
    assert (len(testing.listed), len(testing.tasks), len(testing.missing)) == (119, 55, 64)
    assert testing.instances == 5_500
    assert all(len(task.instances) == 100 for task in testing.tasks)


def test_splits_share_no_task_and_no_category(training, testing):
    assert not {task.name for task in training.tasks} & {task.name for task in testing.tasks}
    assert not set(training.category_counts) & set(testing.category_counts)


def test_table10_sums_to_the_training_split_and_falls(training):
    counts = list(table10().values())
    assert len(counts) == 60
    assert sum(counts) == len(training.listed) == 756
    assert counts == sorted(counts, reverse=True)


def test_table10_is_the_papers(data_dir):
    lines = (data_dir / "paper" / "table10.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines[1:] if line]
    assert table10() == {name: int(count) for name, count in rows if count.isdigit()}
    # The headings of the splits stand after as many categories as the splits before them hold.
    headings = [index for index, (_, count) in enumerate(rows) if not count]
    assert [index - above for above, index in enumerate(headings)] == [0, *SNI_SPLIT_SIZES[:-1]]


def test_real_counts_against_table10(training):
    rows = compare_with_table10(training)
    assert [row.category for row in rows] == list(table10())
    assert sum(row.here for row in rows) == 691
    assert all(0 < row.here <= row.paper for row in rows)
    # What the data lacks is what its categories lack.
    assert sum(row.paper - row.here for row in rows) == len(training.missing)
    assert CategoryCount("Question Answering", here=136, paper=157) in rows


def test_comparison_shows_categories_unknown_to_the_paper(checkout):
    rows = compare_with_table10(read_sni(checkout, "train"))
    assert rows[0] == CategoryCount("Question Answering", here=0, paper=157)
    assert rows[60:] == [CategoryCount("Counting", 1, 0), CategoryCount("Sorting", 1, 0)]


def test_splits_of_figure_3_are_cumulative():
    for smaller, larger in pairwise(SNI_SPLIT_SIZES):
        assert sni_categories(larger)[:smaller] == sni_categories(smaller)
    assert sni_categories(6)[-1] == "Toxic Language Detection"
    assert sni_categories(15)[-1] == "Text to Code"
    assert sni_categories(30)[-1] == "Word Relation Classification"
    assert len(sni_categories(60)) == 60
    with pytest.raises(DataError, match="expected 6, 15, 30, 60 categories, got 7"):
        sni_categories(7)


def test_definitions_of_the_real_tasks_are_bare(training):
    assert all(task.instruction == task.instruction.strip() != "" for task in training.tasks)
    assert not any(task.instruction.startswith("Definition:") for task in training.tasks)


def test_a_task_is_read_whole(checkout):
    split = read_sni(checkout, "train", instances_per_task=2)
    assert split.tasks[1] == Task(
        name="task1_a",
        category="Counting",
        instruction="Count the words.",
        instances=(Instance("i0", "", ("0", "0 words")), Instance("i1", "x ", ("1", "1 words"))),
        examples=(Example("a b", "2"), Example("a", "1"), Example("", "0")),
        paraphrases=("How many words are there?",),
    )
    assert [task.category for task in split.tasks] == ["Sorting", "Counting"]


def test_all_instances_and_the_first_ones(checkout):
    assert read_sni(checkout, "train", instances_per_task=None).instances == 10
    assert [i.id for i in read_sni(checkout, "test", instances_per_task=3).tasks[0].instances] == [
        "i0",
        "i1",
        "i2",
    ]
    assert "expected at least 1, got 0" in fault(checkout, instances_per_task=0)


def test_a_seed_shuffles_instances_before_the_limit(checkout):
    def read(seed, split="train", **options):
        return {
            task.name: [instance.id for instance in task.instances]
            for task in read_sni(checkout, split, seed=seed, **options).tasks
        }

    in_order, orders = read(None), [read(seed) for seed in range(5)]
    for name, ids in in_order.items():
        assert all(sorted(order[name]) == sorted(ids) for order in orders)
        assert len({tuple(order[name]) for order in orders}) > 1
        for seed, order in enumerate(orders):
            assert read(seed, instances_per_task=2)[name] == order[name][:2]
            assert read(seed, tasks=[name]) == {name: order[name]}
    texts = {i.id: i for task in read_sni(checkout, "train", tasks=["task1_a"]).tasks for i in task.instances}
    for seed in range(5):
        (task,) = read_sni(checkout, "train", tasks=["task1_a"], seed=seed).tasks
        assert all(texts[instance.id] == instance for instance in task.instances)


def test_a_shuffled_instance_without_an_id_is_named_by_its_place_in_the_file(checkout):
    put(checkout, "task1_a", Instances=[{"input": str(at), "output": str(at)} for at in range(7)])
    (task,) = read_sni(checkout, "train", tasks=["task1_a"], seed=1, instances_per_task=5).tasks
    assert len(task.instances) == 5
    assert [instance.id for instance in task.instances] == [f"task1_a-{i.input}" for i in task.instances]
    assert [instance.input for instance in task.instances] != ["0", "1", "2", "3", "4"]


def test_a_sorted_task_is_trained_on_more_than_its_first_answer(data_dir):
    name = "task766_craigslist_bargains_classification"
    root = data_dir / "natural-instructions"
    answers = []
    for seed in (None, 0, 1):
        (task,) = read_sni(root, "train", tasks=[name], seed=seed).tasks
        assert len(task.instances) == 100
        answers.append({output for instance in task.instances for output in instance.outputs})
    assert len(answers[0]) == 1
    assert len(answers[1]) > 1
    assert len(answers[2]) > 1


def test_missing_files_are_named_in_one_warning(checkout, caplog):
    put(checkout, "task2_b", Input_language=["Igbo"])
    with caplog.at_level(logging.WARNING):
        split = read_sni(checkout, "train")
    assert split.missing == ("task3_c",)
    assert split.non_english == ("task2_b",)
    assert [record.getMessage() for record in caplog.records] == [split.warning]
    assert split.warning == "1 of 3 tasks listed for train have no file: task3_c"
    assert split.summary() == {
        "split": "train",
        "listed": 3,
        "tasks": 1,
        "missing": 1,
        "non_english": 1,
        "instances": 5,
        "instances_per_task": 100,
        "categories": {"Counting": 1},
    }


def test_nothing_missing_warns_of_nothing(checkout, caplog):
    with caplog.at_level(logging.WARNING):
        assert read_sni(checkout, "test").warning is None
    assert not caplog.records


@pytest.mark.parametrize("field", ["Input_language", "Output_language", "Instruction_language"])
def test_only_english_is_kept(checkout, field):
    put(checkout, "task1_a", **{field: ["English", "Oromo"]})
    put(checkout, "task2_b", **{field: ["English"]})
    split = read_sni(checkout, "train")
    assert split.non_english == ("task1_a",)
    assert [task.name for task in split.tasks] == ["task2_b"]


def test_older_files(checkout):
    put(checkout, "task1_a", Definition="One text. ", Instances=[{"input": "p", "output": "q"}])
    task = read_sni(checkout, "train", tasks=["task1_a"]).tasks[0]
    assert (task.instruction, task.paraphrases) == ("One text.", ())
    assert task.instances == (Instance("task1_a-0", "p", ("q",)),)


def test_a_choice_of_tasks(checkout):
    chosen = read_sni(checkout, "train", tasks={"task1_a"})
    assert chosen.listed == ("task1_a",)
    assert chosen.missing == ()
    assert fault(checkout, tasks=["task4_d", "task1_a"]).endswith("'task4_d'")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Definition": None}, ": Definition: expected a value, got nothing"),
        ({"Definition": []}, "Definition: expected a list of at least 1"),
        ({"Definition": ["ok", 3]}, "Definition.1: expected text, got 3"),
        ({"Definition": [" \n"]}, "Definition.0: expected text, got an empty string"),
        ({"Categories": "Counting"}, "Categories: expected a list, got 'Counting'"),
        ({"Categories": [""]}, "Categories.0: expected text"),
        ({"Input_language": None}, "Input_language: expected a value, got nothing"),
        ({"Output_language": []}, "Output_language: expected a list of at least 1"),
        ({"Positive Examples": None}, "Positive Examples: expected a value, got nothing"),
        (
            {"Positive Examples": [{"input": "a", "output": "b"}, {"input": "c"}]},
            "Positive Examples.1.output",
        ),
        ({"Positive Examples": ["a"]}, "Positive Examples.0: expected an object, got 'a'"),
        ({"Instances": None}, "Instances: expected a value, got nothing"),
        ({"Instances": []}, "Instances: expected a list of at least 1"),
        (
            {"Instances": [{"input": "a", "output": ["b"]}, {"input": 5, "output": ["b"]}]},
            "Instances[1]: input",
        ),
        ({"Instances": [{"input": "a"}]}, "Instances[0]: output: expected a value, got nothing"),
        (
            {"Instances": [{"input": "a", "output": []}]},
            "Instances[0]: output: expected a list of at least 1",
        ),
        (
            {"Instances": [{"input": "a", "output": [None]}]},
            "Instances[0]: output.0: expected text",
        ),
        (
            {"Instances": [{"input": "a", "output": 7}]},
            "output: expected a list, got 7",
        ),
        (
            {"Instances": [{"id": 4, "input": "a", "output": "b"}]},
            "Instances[0]: id: expected text",
        ),
        (
            {"Instances": [{"input": "\ud83d", "output": "b"}]},
            "Instances[0]: input: expected Unicode text",
        ),
        ({"Instances": [17]}, "Instances[0]: expected an object, got 17"),
    ],
)
def test_malformed_files_name_file_field_and_instance(checkout, changes, message):
    put(checkout, "task1_a", **changes)
    said = fault(checkout)
    assert said.startswith(str(checkout / "tasks" / "task1_a.json"))
    assert message in said


def test_instances_that_are_not_used_are_not_checked(checkout):
    put(checkout, "task1_a", Instances=[{"input": "a", "output": ["b"]}, "broken"])
    assert read_sni(checkout, "train", instances_per_task=1).instances == 2
    assert "Instances[1]" in fault(checkout, instances_per_task=2)


def test_files_that_are_no_json_or_no_text(checkout):
    path = checkout / "tasks" / "task1_a.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert f"{path}: invalid JSON at line" in fault(checkout)
    path.write_bytes(b"[1]")
    assert f"{path}: expected a JSON object, got [1]" in fault(checkout)
    path.write_bytes(whole[:23] + b"\xff" + whole[23:])
    assert fault(checkout) == f"{path}: expected UTF-8 text, got byte 0xff at byte offset 23"
    path.unlink()
    path.mkdir()
    assert read_sni(checkout, "train").missing == ("task1_a", "task3_c")


def test_folders_that_are_no_checkout(checkout, tmp_path_factory):
    assert "expected a checkout of natural-instructions" in fault(tmp_path_factory.mktemp("empty"))
    assert "expected a checkout of natural-instructions" in fault(checkout / "nowhere")
    for path in (checkout / "tasks").iterdir():
        path.unlink()
    assert "expected English tasks of the train split" in fault(checkout)


def test_split_files_at_fault(checkout):
    path = checkout / "splits" / "default" / "train_tasks.txt"
    path.write_text("task1_a\ntask2_b\ntask1_a\n")
    assert fault(checkout) == f"{path}: line 3: task 'task1_a' is listed already on line 1"
    path.write_text("\n \n")
    assert fault(checkout) == f"{path}: expected task names, one a line, got none"
