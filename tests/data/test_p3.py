"""P3's rendered prompts: a task for each template file."""

import json
import logging
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tagi.data.readers._p3_files import fields_of
from tagi.data.readers.p3 import P3Read, read_p3, template_datasets
from tagi.data.splits import limit_to_split, table11
from tagi.data.task import Instance
from tagi.errors import DataError
from tests.p3_files import put_templates

NAMES = ["cosmos_qa_ask", "samsum_sum_up", "cnn_dailymail_3_0_0_2_or_3_words", "zoo_keeper_short"]


@cache
def real(root: Path) -> P3Read:
    """All of the real data, read once for all tests."""
    return read_p3(root / "p3" / "train", instances_per_task=200, datasets="all")


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
        read_p3(folder, **{"instances_per_task": 4, "datasets": "all", **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_template_is_read_whole(folder: Path) -> None:
    read = read_p3(folder, instances_per_task=None, datasets="all")
    assert [task.name for task in read.tasks] == sorted(NAMES)
    task = read.tasks[3]
    assert (task.name, task.category) == ("zoo_keeper_short", "zoo_keeper_short")
    assert task.instruction == "What is [...] plus [...]?\nSay it:"
    assert task.examples == task.paraphrases == ()
    assert len(task.instances) == 9
    assert task.instances[:2] == (
        Instance("zoo_keeper_short-0", " What is 1 plus 3?\nSay it: ", ("4",), ("4", "none")),
        Instance("zoo_keeper_short-1", " What is 2 plus 6?\nSay it: ", ("8",), ("8", "none")),
    )


def test_categories_are_table_11s_names(folder: Path) -> None:
    read = read_p3(folder, instances_per_task=None, datasets="all")
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
    read = read_p3(folder, instances_per_task=3, datasets="all")
    assert read.warning is not None
    assert read.warning.startswith("33 datasets of P3 have no template here: adversarial_qa_dbert, ")
    assert [record.message for record in caplog.records] == [read.warning]


def test_the_instruction_does_not_depend_on_how_many_instances_are_asked_for(tmp_path: Path) -> None:
    rows = [row(n, inputs_pretokenized=f"Read: passage {n // 60}\nAsk: {n}?") for n in range(260)]
    put(tmp_path, "dream_ask", rows)
    for seed, limit in enumerate((1, 7, 200, 250, None)):
        (task,) = read_p3(tmp_path, instances_per_task=limit, seed=seed).tasks
        assert task.instruction == "Read: passage [...]\nAsk: [...]?"
        assert len(task.instances) == (limit or 260)


def test_rows_without_targets_are_skipped_and_counted(folder: Path) -> None:
    put(folder, "trec_all_empty", [row(n, targets_pretokenized=" \n") for n in range(5)])
    put(folder, "trec_some_empty", [row(n, targets_pretokenized="" if n % 2 else "yes") for n in range(9)])
    read = read_p3(folder, instances_per_task=5, datasets="all")
    task = next(task for task in read.tasks if task.category == "trec")
    assert [one.id for one in task.instances] == [f"trec_some_empty-{n}" for n in (0, 2, 4, 6, 8)]
    assert read.without_targets == ("trec_all_empty",)
    assert 5 <= read.skipped_rows <= 5 + 4
    assert read_p3(folder, instances_per_task=None, datasets="all").skipped_rows == 5 + 4
    assert read.warning is not None
    assert "; 1 templates are left out, as no row has a target: trec_all_empty" in read.warning
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
    read = read_p3(tmp_path, instances_per_task=3, datasets="all")
    assert {task.name: task.instruction for task in read.tasks if task.name in read.named} == {
        "dream_just_ask_": "just ask",
        "dream": "dream",
        "own_words": "own words",
    }
    assert read.summary()["instructions"] == {
        "from_templates": 0,
        "inferred_from_rows": ["dream_read"],
        "names": ["dream", "dream_just_ask_", "own_words"],
    }
    assert read.warning is not None
    assert read.warning.endswith(
        "3 templates have a mere name for an instruction, as they share no words: dream, dream_just_ask_, own_words"
    )


def test_which_files_are_read(folder: Path) -> None:
    put(folder, "cosmos_qa_ask_score_eval", [{"no": "columns"}])
    put(folder, ".hidden", [{"no": "columns"}])
    (folder / "README.md").write_text("no template")
    put(folder, "dream_ask", [row(n) for n in range(3)], ending=".json")
    assert [task.name for task in read_p3(folder, instances_per_task=1, datasets="all").tasks] == sorted(
        [*NAMES, "dream_ask"]
    )
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
    # Perhaps not among the instances asked for, but among the rows that the instruction is inferred from.
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
    assert len(summary["instructions"]["names"]) == 7
    assert (summary["instructions"]["from_templates"], len(summary["instructions"]["inferred_from_rows"])) == (0, 269)


def test_real_templates_with_one_label_are_named(data_dir: Path) -> None:
    """The sample at hand is of the first rows of sorted sets: whole templates have one label."""
    read = real(data_dir)
    counts = Counter(name.split("_")[0] for name in read.constant)
    assert len(read.constant) == 25
    assert (counts["imdb"], counts["rotten"], counts["dbpedia"]) == (11, 10, 4)
    assert read.warning is not None
    assert f"learnt without reading: {', '.join(read.constant)}" in read.warning
    assert read.summary()["constant_targets"] == list(read.constant)


def some_real_files(data_dir: Path, folder: Path, *datasets: str) -> Path:
    """Links to the real files of a few datasets."""
    for path in (data_dir / "p3" / "train").iterdir():
        if path.name.startswith(datasets):
            (folder / path.name).symlink_to(path)
    return folder


def test_table_11_alone_is_read_of_the_real_files(data_dir: Path, tmp_path: Path) -> None:
    some = some_real_files(data_dir, tmp_path, "commonsense_qa", "quarel", "trec", "xsum")
    read = read_p3(some, instances_per_task=1)
    assert (len(read.tasks), list(read.category_counts)) == (10, ["xsum"])
    assert read.not_in_table_11 == ()
    assert read.passed_over == ("commonsense_qa", "quarel", "trec")
    assert read.warning is not None
    assert (
        "3 datasets are passed over, as Table 11 lacks them (data.datasets = 'all' reads them): commonsense_qa, quarel"
        in read.warning
    )


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("super_glue_copa_best_option", "super_glue_copa"),
        ("super_glue_wsc.fixed_does_p_stand_for", "super_glue_wsc.fixed"),
        ("super_glue_wsc_fixed_does_p_stand_for", "super_glue_wsc.fixed"),
        ("anli_GPT_3_style_r1", "anli"),
        ("hellaswag_Randomized_prompts_template", "hellaswag"),
        ("winogrande_winogrande_debiased_Replace", "winogrande"),
        ("story_cloze_2016_Answer_Given_options", "story_cloze"),
    ],
)
def test_evaluation_sets_are_never_trained_on(data_dir: Path, tmp_path: Path, name: str, dataset: str) -> None:
    some_real_files(data_dir, tmp_path, "imdb_Reviewer_Enjoyment")
    path = put(tmp_path, name, [row(n) for n in range(3)])
    for datasets in ("table-11", "all"):
        assert fault(tmp_path, datasets=datasets) == (
            f"{path}: expected prompts of training datasets alone, got some of {dataset}, which P3 is evaluated on: "
            "move them to a folder of their own (data.test_path)"
        )


def test_other_datasets_alone_are_no_training_data(tmp_path: Path) -> None:
    put(tmp_path, "quarel_ask", [row(n) for n in range(3)])
    assert fault(tmp_path, datasets="table-11") == (
        f"{tmp_path}: expected rows with targets of Table 11's datasets, got only quarel "
        "(data.datasets = 'all' reads them)"
    )


def test_instances_are_drawn_by_seed_over_the_whole_file(tmp_path: Path) -> None:
    put(tmp_path, "imdb_ask", [row(n, targets_pretokenized="good" if n < 300 else "bad") for n in range(600)])

    def drawn(**how: Any) -> list[int]:
        (task,) = read_p3(tmp_path, **how).tasks
        return [int(instance.id.rpartition("-")[2]) for instance in task.instances]

    first = drawn(instances_per_task=100)
    assert first == sorted(set(first)) == drawn(instances_per_task=100)
    assert len(first) == 100
    assert 30 < sum(number < 300 for number in first) < 70
    assert drawn(instances_per_task=100, seed=1) != first
    assert set(drawn(instances_per_task=60)) <= set(first)
    assert drawn(instances_per_task=None) == drawn(instances_per_task=600) == list(range(600))


def test_instructions_are_promptsources_where_it_has_the_template(tmp_path: Path) -> None:
    rows, templates = tmp_path / "rows", tmp_path / "templates"
    rows.mkdir()
    # All of the rows at hand begin with "how", which is no part of the template.
    for name in ("wiki_qa_Direct_Answer_", "cnn_dailymail_3_0_0_no_words", "glue_mrpc_new"):
        put(rows, name, [row(n, inputs_pretokenized=f"Answer this: how {n}?") for n in range(9)])
    put_templates(templates / "wiki_qa", **{"Direct Answer?": ("Answer this: {{q}}? ||| {{a}}", None, True)})
    put_templates(templates / "cnn_dailymail" / "3.0.0", no_words=("{{article}} ||| {{a}}", None, True))
    put_templates(templates / "glue" / "mrpc", old=("Another one: {{q}} ||| {{a}}", None, True))
    inferred = read_p3(rows, instances_per_task=5)
    assert {task.instruction for task in inferred.tasks} == {"Answer this: how [...]?"}
    read = read_p3(rows, instances_per_task=5, templates=templates)
    assert {task.name: task.instruction for task in read.tasks} == {
        "wiki_qa_Direct_Answer_": "Answer this: [...]?",
        "cnn_dailymail_3_0_0_no_words": "no words",
        "glue_mrpc_new": "Answer this: how [...]?",
    }
    assert read.summary()["instructions"] == {
        "from_templates": 1,
        "inferred_from_rows": ["glue_mrpc_new"],
        "names": ["cnn_dailymail_3_0_0_no_words"],
    }
    assert read.warning is not None
    assert read.warning.endswith(
        "1 datasets have no templates.yaml, so that instructions are inferred from rows: glue_mrpc"
    )
    assert "no folder" in fault(rows, templates=tmp_path / "nowhere")


def test_inputs_without_the_templates_text(tmp_path: Path) -> None:
    texts = [
        "Read the story: It rains.\nQuestion: Why?\nAnswer:",
        "Read the story: It snows.\nQuestion: When?\nAnswer:",
    ]
    put(tmp_path, "dream_ask", [row(n, inputs_pretokenized=text) for n, text in enumerate(texts)])
    put(tmp_path, "dream_bare", [row(n, inputs_pretokenized=f"{n}, {n}") for n in range(2)])
    asked, bare = read_p3(tmp_path, instances_per_task=None, inputs="fields").tasks
    assert asked.instruction == "Read the story: It [...].\nQuestion: [...]?\nAnswer:"
    assert [(one.input, one.rendered, one.prompt) for one in asked.instances] == [
        ("rains\nWhy", texts[0], texts[0]),
        ("snows\nWhen", texts[1], texts[1]),
    ]
    assert [(one.input, one.prompt) for one in bare.instances] == [("0, 0", "0, 0"), ("1, 1", "1, 1")]


@pytest.mark.parametrize(
    ("prompt", "instruction", "fields"),
    [
        ("Question: Is it? Yes. Answer:", "Question: [...] Answer:", "Is it? Yes."),
        ("A says: hm. B says: ho, then what?", "A says: [...] B says: [...], then what?", "hm.\nho"),
        ("A says: hm. C says: ho", "A says: [...] B says: [...]", "hm. C says: ho"),
        ("All of it, word by word", "All of it, word by word", "All of it, word by word"),
        ("x? y?", "[...]? [...]?", "x? y?"),
        ("  Sum up: two\nlines ", "Sum up: [...]", "two\nlines"),
    ],
)
def test_what_a_prompt_holds_beside_its_template(prompt: str, instruction: str, fields: str) -> None:
    assert fields_of(prompt, instruction) == fields


def test_real_fields_are_the_prompts_less_their_templates(data_dir: Path, tmp_path: Path) -> None:
    some = some_real_files(data_dir, tmp_path, "xsum", "sciq", "app_reviews", "wiki_qa")
    tasks = read_p3(some, instances_per_task=20, inputs="fields").tasks
    shorter = sum(len(one.input) < len(one.prompt) for task in tasks for one in task.instances)
    count = sum(len(task.instances) for task in tasks)
    assert 0.85 * count < shorter
    sums = next(task for task in tasks if task.name == "xsum_DOC_tldr")
    assert all(one.prompt.strip() == f"{one.input}\n\nTL;DR:" for one in sums.instances)


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
