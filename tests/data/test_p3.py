"""P3's rendered prompts: a task for each template file."""

import json
import logging
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tagi.data.readers.p3 import P3Read, read_p3, template_datasets
from tagi.data.splits import limit_to_split, table11
from tagi.data.task import Instance
from tagi.errors import DataError

NAMES = ["cosmos_qa_ask", "samsum_sum_up", "cnn_dailymail_3_0_0_2_or_3_words", "zoo_keeper_short"]


@cache
def real(root: Path) -> P3Read:
    """All of the real data, read once for all tests."""
    return read_p3(root / "p3" / "train", instances_per_task=200)


def row(number: int, **changes: Any) -> dict[str, Any]:
    columns = {
        "inputs": [3, 9],
        "inputs_pretokenized": f" What is {number} plus {number * 3}?\nSay it: ",
        "targets_pretokenized": f"\n{number * 4} ",
        "answer_choices": [f"{number * 4}", " none\n"],
    }
    return {name: value for name, value in (columns | changes).items() if value is not None}


def put(folder: Path, name: str, rows: list[dict[str, Any]], *, ending: str = ".jsonl") -> Path:
    path = folder / f"{name}{ending}"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for at, name in enumerate(NAMES):
        put(tmp_path, name, [row(n + 1) for n in range(6 + at)])
    return tmp_path


def fault(folder: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_p3(folder, **{"instances_per_task": 4, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_template_is_read_whole(folder: Path) -> None:
    read = read_p3(folder, instances_per_task=2)
    assert [task.name for task in read.tasks] == sorted(NAMES)
    task = read.tasks[3]
    assert (task.name, task.category) == ("zoo_keeper_short", "zoo_keeper_short")
    assert task.instruction == "What is [...] plus [...]?\nSay it:"
    assert task.examples == task.paraphrases == ()
    assert task.instances == (
        Instance("zoo_keeper_short-0", " What is 1 plus 3?\nSay it: ", ("4",), ("4", "none")),
        Instance("zoo_keeper_short-1", " What is 2 plus 6?\nSay it: ", ("8",), ("8", "none")),
    )


def test_categories_are_table_11s_names(folder: Path) -> None:
    read = read_p3(folder, instances_per_task=None)
    assert {task.name: task.category for task in read.tasks} == {
        "cosmos_qa_ask": "cosmos_qa",
        "samsum_sum_up": "samsum",
        "cnn_dailymail_3_0_0_2_or_3_words": "cnn_dailymail_3.0.0",
        "zoo_keeper_short": "zoo_keeper_short",
    }
    assert read.instances == 6 + 7 + 8 + 9
    assert read.not_in_table_11 == ("zoo_keeper_short",)
    assert len(read.missing) == 33
    assert "quail" in read.missing


def test_missing_datasets_are_named_in_one_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    read = read_p3(folder, instances_per_task=3)
    assert read.warning is not None
    assert read.warning.startswith("33 datasets of P3 have no template here: adversarial_qa_dbert, ")
    assert [record.message for record in caplog.records] == [read.warning]


def test_the_instruction_does_not_depend_on_how_many_instances_are_asked_for(tmp_path: Path) -> None:
    # The first rows are all about one passage, and the passage is no part of the template.
    rows = [row(n, inputs_pretokenized=f"Read: passage {n // 60}\nAsk: {n}?") for n in range(260)]
    rows[230] = row(230, inputs_pretokenized="unlike the others")
    put(tmp_path, "dream_ask", rows)
    for limit in (1, 7, 200, 250, None):
        (task,) = read_p3(tmp_path, instances_per_task=limit).tasks
        assert task.instruction == "Read: passage [...]\nAsk: [...]?"
        assert len(task.instances) == (limit or 260)


def test_rows_without_targets_are_skipped_and_counted(folder: Path) -> None:
    put(folder, "trec_all_empty", [row(n, targets_pretokenized=" \n") for n in range(5)])
    put(folder, "trec_some_empty", [row(n, targets_pretokenized="" if n % 2 else "yes") for n in range(9)])
    read = read_p3(folder, instances_per_task=3)
    task = next(task for task in read.tasks if task.category == "trec")
    assert [one.id for one in task.instances] == [f"trec_some_empty-{n}" for n in (0, 2, 4)]
    assert read.without_targets == ("trec_all_empty",)
    assert read.skipped_rows == 5 + 2
    assert read.warning is not None
    assert read.warning.endswith("; 1 templates are left out, as no row has a target: trec_all_empty")
    assert fault(folder, instances_per_task=0) == "instances_per_task: expected at least 1, got 0"


def test_choices_that_lack_the_target_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [row(1), row(2, answer_choices=["yes", "no"]), row(3, answer_choices=None), row(4, answer_choices=[])]
    put(tmp_path, "dream_ask", [*rows, row(5) | {"answer_choices": None}])
    read = read_p3(tmp_path, instances_per_task=None)
    assert [one.choices for one in read.tasks[0].instances] == [("4", "none"), None, None, None, None]
    assert read.dropped_choices == 1


def test_a_template_that_shares_no_word_is_named(tmp_path: Path) -> None:
    for name in ("dream_just_ask_", "dream", "own_words"):
        put(tmp_path, name, [row(n, inputs_pretokenized=f"{n}\n\n{n * 7}?") for n in range(5)])
    put(tmp_path, "dream_read", [row(n) for n in range(5)])
    put(tmp_path, "dream_no_target", [row(n, inputs_pretokenized=f"{n}?", targets_pretokenized="") for n in range(5)])
    read = read_p3(tmp_path, instances_per_task=3)
    assert {task.name: task.instruction for task in read.tasks if task.name in read.named} == {
        "dream_just_ask_": "just ask",
        "dream": "dream",
        "own_words": "own words",
    }
    assert read.summary()["instructions_from_names"] == 3


def test_which_files_are_read(folder: Path) -> None:
    put(folder, "cosmos_qa_ask_score_eval", [{"no": "columns"}])
    put(folder, ".hidden", [{"no": "columns"}])
    (folder / "README.md").write_text("no template")
    put(folder, "dream_ask", [row(n) for n in range(3)], ending=".json")
    assert [task.name for task in read_p3(folder, instances_per_task=1).tasks] == sorted([*NAMES, "dream_ask"])
    put(folder, "dream_ask", [row(1)])
    assert fault(folder) == f"{folder / 'dream_ask.jsonl'}: expected one file for each template, got dream_ask.json too"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"inputs_pretokenized": "a"}', "targets_pretokenized: expected a value, got nothing"),
        (b'{"targets_pretokenized": "a"}', "inputs_pretokenized: expected a value, got nothing"),
        (b'{"inputs_pretokenized": " ", "targets_pretokenized": "a"}', "inputs_pretokenized: expected text"),
        (b'{"inputs_pretokenized": "a", "targets_pretokenized": 3}', "targets_pretokenized: expected text"),
        (
            b'{"inputs_pretokenized": "a", "targets_pretokenized": "b", "answer_choices": "b"}',
            "answer_choices: expected a list, got 'b'",
        ),
        (
            b'{"inputs_pretokenized": "a", "targets_pretokenized": "b", "answer_choices": ["b", 1]}',
            "answer_choices.1: expected text, got 1",
        ),
        (b'{"inputs_pretokenized": "a", "targets_pretok', "invalid JSON at column 30"),
        (b"7", "expected a JSON object, got 7"),
        (b'"\xff"', "expected UTF-8 text, got byte 0xff at byte offset"),
    ],
)
def test_a_bad_line_is_named_wherever_it_counts(folder: Path, line: bytes, message: str) -> None:
    path = folder / "samsum_sum_up.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:5], b"", line]))
    # Beyond the instances asked for, but among the rows that make the instruction.
    assert fault(folder, instances_per_task=1).startswith(f"{path}: line 7: {message}")


def test_files_and_folders_that_cannot_be_used(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert fault(empty) == f"{empty}: expected files *.json or *.jsonl, got none"
    assert "expected a folder with a file for each prompt template" in fault(empty / "nowhere")
    path = put(folder, "dream_ask", [])
    assert fault(folder) == f"{path}: expected rows, one JSON object a line, got an empty file"
    path.unlink()
    path.mkdir()
    assert fault(folder) == f"{path}: cannot be read (Is a directory)"


def test_unknown_datasets_are_told_by_what_their_templates_begin_with() -> None:
    assert template_datasets(
        ["zoo_keeper_a", "zoo_keeper_b_c", "lake", "river_deep_a", "zoo_keeper", "river_wide_a", "paws_x", "pawsnot_x"]
    ) == {
        "zoo_keeper_a": "zoo_keeper",
        "zoo_keeper_b_c": "zoo_keeper",
        "lake": "lake",
        "river_deep_a": "river",
        "zoo_keeper": "zoo_keeper",
        "river_wide_a": "river",
        "paws_x": "paws",
        "pawsnot_x": "pawsnot_x",
    }


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("cos_e_v1.11_aligned_with_common_sense", "cos_e_v1.11"),
        ("cos_e_v1_11_question", "cos_e_v1.11"),
        ("cnn_dailymail_3.0.0_news_stock", "cnn_dailymail_3.0.0"),
        ("super_glue_wsc.fixed_p_is_are_r", "super_glue_wsc.fixed"),
        ("adversarial_qa_dbert_based_on", "adversarial_qa_dbert"),
        ("samsun_Summarize_", "samsum"),
        ("samsum_Summarize_", "samsum"),
        ("xsum", "xsum"),
    ],
)
def test_the_hubs_names_and_the_files(name: str, dataset: str) -> None:
    assert template_datasets([name, "unrelated"])[name] == dataset


def test_of_several_names_the_longest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (["zoo", "zoo_keeper"], ["zoo_keeper", "zoo"]):
        monkeypatch.setattr("tagi.data.readers.p3._OTHER_DATASETS", known)
        assert template_datasets(["zoo_keeper_a", "zoo_a"]) == {"zoo_keeper_a": "zoo_keeper", "zoo_a": "zoo"}


def test_the_real_templates_fall_into_37_datasets(data_dir: Path) -> None:
    names = [path.stem for path in (data_dir / "p3" / "train").iterdir()]
    groups = template_datasets(names)
    assert (len(names), len(set(groups.values()))) == (283, 37)
    assert set(groups.values()) - set(table11()) == {"commonsense_qa", "quarel", "trec"}
    assert set(table11()) - set(groups.values()) == {"quail", "cos_e_v1.11"}


def test_the_real_files(data_dir: Path) -> None:
    read = real(data_dir)
    # Of 283 files and 55,185 rows, trec's 7 and 1,400 have no target.
    assert (len(read.tasks), read.instances, read.skipped_rows) == (276, 53_785, 1400)
    assert read.missing == ("cos_e_v1.11", "quail")
    assert read.not_in_table_11 == ("commonsense_qa", "quarel")
    assert len(read.without_targets) == 7
    assert all(name.startswith("trec_") for name in read.without_targets)
    assert read.dropped_choices == 0
    summary = json.loads(json.dumps(read.summary()))
    assert (summary["source"], summary["split"], summary["tasks"]) == ("p3", "train", 276)
    assert len(summary["categories"]) == 36
    assert summary["instructions_from_names"] == 7


def test_real_counts_against_table_11(data_dir: Path) -> None:
    here, paper = real(data_dir).category_counts, table11()
    pairs = {name: (here.get(name, 0), paper.get(name, 0)) for name in {**paper, **here}}
    assert {name: pair for name, pair in pairs.items() if pair[0] != pair[1]} == {
        "imdb": (11, 10),
        "quail": (0, 13),
        "cos_e_v1.11": (0, 11),
        "commonsense_qa": (5, 0),
        "quarel": (5, 0),
    }


@pytest.mark.parametrize(("size", "datasets", "tasks"), [(5, 5, 45), (10, 10, 78), (20, 19, 158), (36, 34, 266)])
def test_splits_of_the_real_templates(data_dir: Path, size: int, datasets: int, tasks: int) -> None:
    kept = limit_to_split(real(data_dir).tasks, "p3", size)
    counts = Counter(task.category for task in kept)
    assert (len(counts), len(kept)) == (datasets, tasks)


@pytest.mark.parametrize(
    ("name", "instruction"),
    [
        ("ag_news_classify", "[...] \nWhat label best describes this news article?"),
        (
            "quarel_heres_a_story",
            "Here's a short story: [...] (A) [...] (B) [...].\n\n"
            'What is the most sensical answer between "[...]" and  "[...]"?',
        ),
        (
            "adversarial_qa_dbidaf_tell_what_it_is",
            'I know that the answer to the question "[...]" is in "[...]". Can you tell me what it is?',
        ),
        ("xsum_DOC_tldr", "[...]\n\nTL;DR:"),
        (
            "app_reviews_generate_review",
            "Generate a [...]-star review (1 being lowest and 5 being highest) about an app with package [...].",
        ),
        (
            "sciq_Multiple_Choice",
            "Answer the following question given this paragraph: \n\n[...]\n\n\nQ: [...]\n\n Choices:\n\n- [...]\n\nA:",
        ),
        (
            "wiki_hop_original_generate_object",
            "Information:\n\n- [...].\n\n\n\nWhat entity does '[...]' has the relation '[...]' with?",
        ),
        ("cosmos_qa_no_prompt_text", "no prompt text"),
    ],
)
def test_instructions_of_real_templates(data_dir: Path, name: str, instruction: str) -> None:
    assert next(task for task in real(data_dir).tasks if task.name == name).instruction == instruction


def test_real_rows_are_what_their_instruction_says(data_dir: Path) -> None:
    read = real(data_dir)
    for task in read.tasks:
        if task.name in read.named:
            continue
        pieces = [piece.strip() for piece in task.instruction.split("[...]")]
        fitting = sum(in_order(pieces, instance.input) for instance in task.instances)
        # A full stop that all of the sampled rows have before a template's text may be absent from another row.
        assert fitting >= 0.95 * len(task.instances), task.name


def in_order(pieces: list[str], text: str) -> bool:
    at = 0
    for piece in pieces:
        at = text.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True


def test_reading_says_nothing_when_nothing_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in table11():
        put(tmp_path, f"{name}_ask", [row(n + 1) for n in range(2)])
    with caplog.at_level(logging.INFO):
        assert read_p3(tmp_path, instances_per_task=1).missing == ()
    assert not caplog.records
