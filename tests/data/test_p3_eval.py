"""P3's evaluation sets as tasks: raw sets through templates, the hub's rendered prompts, and what is left out."""

import json
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tagi.data.readers.p3_eval import _OTHER_PROMPTS as OTHER_PROMPTS
from tagi.data.readers.p3_eval import EVALUATION_SETS, P3EvalRead, read_p3_eval, sets_with_training_file
from tagi.data.readers.promptsource import read_templates
from tagi.data.task import Instance
from tagi.errors import DataError
from tests.p3_files import put_templates

NAMES = tuple(one.name for one in EVALUATION_SETS)


@cache
def real(root: Path) -> P3EvalRead:
    """All of the real data, read once for all tests."""
    return read_p3_eval(root / "p3" / "eval", templates=root / "p3" / "templates")


def put_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def premise(number: int, **changes: Any) -> dict[str, Any]:
    return {"premise": f"one is {number}", "label": number % 2, "idx": number} | changes


YES_NO = "{{premise}}, yes or no? ||| {{answer_choices[label]}}"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two rounds of ANLI and CB, with a file of templates for ANLI and one for CB."""
    sets, templates = tmp_path / "eval", tmp_path / "templates"
    put_rows(sets / "anli" / "r1" / "sample.jsonl", [premise(n) for n in range(3)])
    put_rows(sets / "anli" / "r3" / "sample.jsonl", [premise(n) for n in range(40, 45)])
    put_rows(sets / "super_glue" / "cb" / "validation.json", [premise(n) for n in range(70, 77)])
    put_templates(templates / "anli", zeta=(YES_NO, "no ||| yes", True), alpha_one=(YES_NO, "No|||Yes", True))
    put_templates(
        templates / "super_glue" / "cb",
        so=("So {{premise}}? ||| {{answer_choices[label]}}", "no ||| yes", True),
        topic=("{{premise}} ||| {{idx}}", None, False),
    )
    return sets, templates


def fault(*arguments: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_p3_eval(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_task_is_made_of_every_set_and_template(folders: tuple[Path, Path]) -> None:
    read = read_p3_eval(folders[0], templates=folders[1])
    assert [(task.name, task.category, len(task.instances)) for task in read.tasks] == [
        ("anli_alpha_one_r1", "anli_r1", 3),
        ("anli_zeta_r1", "anli_r1", 3),
        ("anli_alpha_one_r3", "anli_r3", 5),
        ("anli_zeta_r3", "anli_r3", 5),
        ("super_glue_cb_so", "super_glue_cb", 7),
    ]
    assert read.tasks[0].instruction == "[...], yes or no?"
    assert read.tasks[4].instruction == "So [...]?"
    assert read.tasks[4].instances[:2] == (
        Instance("super_glue_cb-0", "So one is 70?", ("no",), ("no", "yes")),
        Instance("super_glue_cb-1", "So one is 71?", ("yes",), ("no", "yes")),
    )
    assert read.tasks[2].instances[4] == Instance("anli_r3-4", "one is 44, yes or no?", ("No",), ("No", "Yes"))
    assert read.other_prompts == 1
    assert read.prompt_counts == {"anli_r1": 2, "anli_r3": 2, "super_glue_cb": 1}


def test_what_is_not_there_is_said(folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    put_rows(folders[0] / "boolq" / "validation.jsonl", [premise(1)])
    read = read_p3_eval(folders[0], templates=folders[1])
    assert read.missing == tuple(name for name in NAMES if name not in ("anli_r1", "anli_r3", "super_glue_cb"))
    assert read.not_of_the_11 == ("boolq",)
    assert read.incomplete == {"anli_r1": (2, 15), "anli_r3": (2, 15), "super_glue_cb": (1, 15)}
    assert read.warning == (
        f"8 of P3's 11 evaluation sets are not here: {', '.join(read.missing)}; prompts are missing: anli_r1 2 of 15, "
        "anli_r3 2 of 15, super_glue_cb 1 of 15; passed over, as it is none of the 11: boolq"
    )
    assert [record.message for record in caplog.records] == [read.warning]


def test_all_prompts_are_an_option(folders: tuple[Path, Path]) -> None:
    read = read_p3_eval(folders[0], templates=folders[1], prompts="all")
    assert len(read.tasks) == 5
    assert read.other_prompts == 0
    assert read.without_instances == ("super_glue_cb_topic",)
    assert read.dropped == {"without two different choices": 7}
    assert read.warning is not None
    assert read.warning.endswith(
        "; 1 prompts are left out, as no row can be ranked: super_glue_cb_topic; "
        "rendered rows are left out: 7 without two different choices"
    )


def test_rows_that_cannot_be_ranked_are_counted(tmp_path: Path) -> None:
    jinja = (
        "{% if idx %}{{premise}}? ||| {% if label >= 0 %}{{(answer_choices + ['maybe'])[label]}}{% endif %}{% endif %}"
    )
    rows = [
        premise(1),
        premise(0, label=0),
        premise(3, label=2),
        premise(4, label=-5),
        premise(5, label=1, other="no"),
        premise(6, label=-1),
        premise(7),
        premise(8),
    ]
    rows = [{"other": "yes", **row} for row in rows]
    put_rows(tmp_path / "eval" / "hellaswag" / "a.jsonl", rows)
    put_templates(tmp_path / "templates" / "hellaswag", ask=(jinja, "no ||| {{other}}", True))
    read = read_p3_eval(tmp_path / "eval", templates=tmp_path / "templates")
    assert [instance.id for instance in read.tasks[0].instances] == ["hellaswag-0", "hellaswag-6", "hellaswag-7"]
    assert read.dropped == {
        "whose target is no choice": 1,
        "with an empty input": 1,
        "without a target": 2,
        "without two different choices": 1,
    }
    assert read.summary()["dropped_rows"] == read.dropped
    assert str(read.warning).endswith(
        "rendered rows are left out: 1 whose target is no choice, 1 with an empty input, 2 without a target, "
        "1 without two different choices"
    )
    few = read_p3_eval(tmp_path / "eval", templates=tmp_path / "templates", limit=1)
    assert (few.instances, few.dropped) == (1, {})


@pytest.mark.parametrize("hidden", [-1, "-1", "", None])
@pytest.mark.parametrize("column", ["label", "answer", "answer_right_ending"])
def test_hidden_labels_are_no_targets(tmp_path: Path, column: str, hidden: object) -> None:
    """The last choice would be right if a label of -1 were taken for an index."""
    rows = [{"premise": "a", column: 1}, {"premise": "b", column: hidden}, {"premise": "c", column: 0}]
    put_rows(tmp_path / "eval" / "hellaswag" / "a.jsonl", rows)
    jinja = f"{{{{premise}}}}? ||| {{{{answer_choices[{column} | int]}}}}"
    put_templates(tmp_path / "templates" / "hellaswag", ask=(jinja, "no ||| yes", True))
    read = read_p3_eval(tmp_path / "eval", templates=tmp_path / "templates")
    assert [(one.input, one.outputs) for one in read.tasks[0].instances] == [("a?", ("yes",)), ("c?", ("no",))]
    assert read.dropped == {"without a target": 1}


def test_a_template_without_words_is_named(tmp_path: Path) -> None:
    put_rows(tmp_path / "eval" / "hellaswag" / "a.jsonl", [premise(1), premise(2)])
    put_templates(tmp_path / "t" / "hellaswag", no_words=("{{premise}} ||| {{answer_choices[label]}}", "a|||b", True))
    read = read_p3_eval(tmp_path / "eval", templates=tmp_path / "t")
    assert read.tasks[0].instruction == "no words"
    assert read.named == ("hellaswag_no_words",)
    assert read.summary()["instructions_from_names"] == 1


def test_which_file_of_a_folder_is_read(folders: tuple[Path, Path]) -> None:
    cb = folders[0] / "super_glue" / "cb"
    put_rows(cb / "train.jsonl", [{"no": "columns"}])
    put_rows(cb / ".hidden.jsonl", [{"no": "columns"}])
    assert len(read_p3_eval(folders[0], templates=folders[1]).tasks[4].instances) == 7
    (cb / "validation.json").unlink()
    put_rows(cb / "test.jsonl", [{"no": "columns"}])
    assert fault(folders[0], templates=folders[1]) == (
        f"{cb}: expected one file of rows, or one named 'validation', got test.jsonl, train.jsonl"
    )


def test_faults_of_raw_sets(folders: tuple[Path, Path], tmp_path: Path) -> None:
    sets, templates = folders
    path = sets / "super_glue" / "cb" / "validation.json"
    put_rows(path, [premise(1), {"label": 1}])
    assert fault(sets, templates=templates) == (
        f"{path}: line 2: template 'so': expected a column 'premise', got label"
    )
    path.write_text("")
    assert fault(sets, templates=templates) == f"{path}: expected rows, one JSON object a line, got an empty file"
    put_rows(path, [premise(1)])
    (templates / "super_glue" / "cb" / "templates.yaml").unlink()
    assert fault(sets, templates=templates) == (f"{templates}: expected a file super_glue/cb/templates.yaml, got none")
    put_templates(templates / "super_glue" / "cb", so=("{{ ''.__class__ }}", None, True), too=("{{", None, False))
    assert fault(sets, templates=templates) == (
        f"{templates / 'super_glue' / 'cb' / 'templates.yaml'}: template 'so': "
        "a prompt may not use the attribute '__class__'"
    )
    put_templates(templates / "super_glue" / "cb", so=("So? ||| no", "no|||yes", True), too=("{{", None, False))
    assert read_p3_eval(sets, templates=templates).instances == 3 + 3 + 5 + 5 + 1  # what is not used may be anything
    assert "template 'too': expected a Jinja template" in fault(sets, templates=templates, prompts="all")
    assert fault(sets, templates=tmp_path / "none") == (
        f"{tmp_path / 'none'}: expected a folder of promptsource's files, got no folder"
    )
    assert fault(tmp_path / "none", templates=templates) == (
        f"{tmp_path / 'none'}: expected a folder of evaluation sets, got no folder"
    )
    (tmp_path / "empty").mkdir()
    assert fault(tmp_path / "empty", templates=templates) == (
        f"{tmp_path / 'empty'}: expected rows with choices of P3's evaluation sets, got none"
    )
    assert fault(sets, templates=templates, limit=0) == "limit: expected at least 1, got 0"


def hub_row(number: int, **changes: Any) -> dict[str, Any]:
    columns = {
        "inputs": [3, 9],
        "inputs_pretokenized": f"Given one is {number}, is it {number * 3}? ",
        "targets_pretokenized": "\nYes" if number % 2 else "\nNo",
        "answer_choices": ["Yes", "No"],
    }
    return columns | changes


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    for name, count in (
        ("super_glue_cb_can_we_infer", 5),
        ("anli_GPT_3_style_r2", 4),
        ("super_glue_wsc_fixed_GPT_3_Style", 3),
        ("hellaswag_how_ends", 2),
        ("winogrande_winogrande_debiased_Replace", 6),
    ):
        put_rows(tmp_path / f"{name}.jsonl", [hub_row(n) for n in range(count)])
    put_rows(tmp_path / "super_glue_cb_can_we_infer_score_eval.jsonl", [{"is_correct": True}])
    return tmp_path


def test_the_hubs_prompts_are_read(hub: Path) -> None:
    read = read_p3_eval(hub)
    assert [(task.name, task.category, len(task.instances)) for task in read.tasks] == [
        ("anli_GPT_3_style_r2", "anli_r2", 4),
        ("super_glue_cb_can_we_infer", "super_glue_cb", 5),
        ("super_glue_wsc_fixed_GPT_3_Style", "super_glue_wsc.fixed", 3),
    ]
    assert read.tasks[1].instruction == "Given one is [...], is it [...]?"
    assert read.tasks[1].instances[1] == Instance(
        "super_glue_cb-1", "Given one is 1, is it 3? ", ("Yes",), ("Yes", "No")
    )
    assert read.not_of_the_11 == ("winogrande_winogrande_debiased_Replace",)
    assert (read.other_prompts, read.score_eval) == (1, 1)
    assert [task.name for task in read_p3_eval(hub, prompts="all").tasks][1] == "hellaswag_how_ends"


def test_rows_of_the_hub_that_cannot_be_ranked_are_counted(tmp_path: Path) -> None:
    rows = [
        hub_row(1, inputs_pretokenized=" "),
        hub_row(2, targets_pretokenized=""),
        hub_row(3, answer_choices=None),
        hub_row(4, answer_choices=["Yes", " Yes"]),
        hub_row(5, answer_choices=["A", "B"]),
        *(hub_row(n) for n in range(6, 9)),
    ]
    put_rows(tmp_path / "hellaswag_ask.jsonl", rows)
    read = read_p3_eval(tmp_path, limit=2)
    assert [one.id for one in read.tasks[0].instances] == ["hellaswag-5", "hellaswag-6"]
    assert read.dropped == {
        "whose target is no choice": 1,
        "with an empty input": 1,
        "without a target": 1,
        "without two different choices": 2,
    }
    assert read.tasks[0].instruction == "Given one is [...], is it [...]?"


def test_the_hubs_instruction_is_of_a_sample_of_all_rows(tmp_path: Path) -> None:
    # The first rows are all about one thing, which is no part of the template.
    rows = [hub_row(n) for n in range(400)]
    rows[:220] = [hub_row(n, inputs_pretokenized=f"Given one is the number {n}, is it {n}? ") for n in range(220)]
    put_rows(tmp_path / "hellaswag_ask.jsonl", rows)
    for limit in (1, 205, None):
        (task,) = read_p3_eval(tmp_path, limit=limit).tasks
        assert task.instruction == "Given one is [...], is it [...]?"
        assert [one.id for one in task.instances] == [f"hellaswag-{n}" for n in range(limit or 400)]


def test_the_hubs_prompts_have_promptsources_instructions(tmp_path: Path) -> None:
    for name in ("anli_alpha_one_r1", "hellaswag_own"):
        put_rows(tmp_path / "hub" / f"{name}.jsonl", [hub_row(n) for n in range(5)])
    put_templates(tmp_path / "templates" / "anli", alpha_one=("Is {{one}} it? ||| {{a}}", "a ||| b", True))
    read = read_p3_eval(tmp_path / "hub", templates=tmp_path / "templates")
    assert {task.name: task.instruction for task in read.tasks} == {
        "anli_alpha_one_r1": "Is [...] it?",
        "hellaswag_own": "Given one is [...], is it [...]?",
    }
    assert (read.inferred, read.named) == (("hellaswag_own",), ())
    assert read.summary()["instructions_inferred"] == 1


def test_inputs_without_the_templates_text(folders: tuple[Path, Path]) -> None:
    whole, fields = (read_p3_eval(folders[0], templates=folders[1], inputs=form) for form in ("rendered", "fields"))
    assert [one.prompt for one in fields.tasks[4].instances] == [one.input for one in whole.tasks[4].instances]
    assert fields.tasks[4].instances[0] == Instance(
        "super_glue_cb-0", "one is 70?", ("no",), ("no", "yes"), "So one is 70?"
    )


def test_a_training_set_may_be_beside_the_set_that_is_tested(folders: tuple[Path, Path]) -> None:
    sets, templates = folders
    put_rows(sets / "super_glue" / "cb" / "train.jsonl", [premise(n) for n in range(300, 303)])
    assert sets_with_training_file(sets) == ["super_glue_cb"]
    read = read_p3_eval(sets, templates=templates, split="train", sets=["super_glue_cb"])
    assert {one.input for task in read.tasks for one in task.instances} == {f"So one is {n}?" for n in range(300, 303)}
    assert len(read_p3_eval(sets, templates=templates).tasks[4].instances) == 7


def test_the_hubs_prompts_without_words_are_named(tmp_path: Path) -> None:
    for name in ("anli_two_words_r3", "super_glue_rte_own"):
        put_rows(tmp_path / f"{name}.jsonl", [hub_row(n, inputs_pretokenized=f"{n}?") for n in range(5)])
    read = read_p3_eval(tmp_path)
    assert [task.instruction for task in read.tasks] == ["two words r3", "own"]
    assert read.named == ("anli_two_words_r3", "super_glue_rte_own")


def test_faults_of_the_hubs_files(tmp_path: Path, hub: Path) -> None:
    path = put_rows(hub / "super_glue_rte_x.jsonl", [{"inputs_pretokenized": "a"}])
    assert fault(hub) == f"{path}: line 1: targets_pretokenized: expected a value, got nothing"
    path.write_text("")
    assert fault(hub) == f"{path}: expected rows, one JSON object a line, got an empty file"
    alone = tmp_path / "alone"
    put_rows(alone / "super_glue_cb_x_score_eval.jsonl", [{"is_correct": True}])
    assert fault(alone) == f"{alone}: expected files *.json or *.jsonl, got only *_score_eval"
    (alone / "super_glue_cb_x_score_eval.jsonl").unlink()
    assert fault(alone) == f"{alone}: expected files *.json or *.jsonl, got none"
    assert "got no folder" in fault(tmp_path / "none")


def test_the_real_sets(data_dir: Path) -> None:
    read = real(data_dir)
    summary = json.loads(json.dumps(read.summary()))
    assert (summary["tasks"], summary["instances"], summary["other_prompts"]) == (106, 23_650, 7)
    assert {name: (summary["categories"][name], count) for name, count in summary["category_instances"].items()} == {
        "anli_r1": (15, 15 * 248),
        "anli_r2": (15, 15 * 250),
        "anli_r3": (15, 15 * 250),
        "hellaswag": (4, 4 * 100),
        "super_glue_cb": (15, 15 * 56),
        "super_glue_copa": (12, 12 * 100 - 200),  # four prompts are for causes or effects alone
        "super_glue_rte": (10, 10 * 277),
        "super_glue_wic": (10, 10 * 638),
        "super_glue_wsc.fixed": (10, 10 * 104),
    }
    assert read.missing == ("winogrande_winogrande_xl", "story_cloze_2016")
    assert (read.dropped, read.incomplete, read.named) == ({"with an empty input": 200}, {}, ())
    assert all(len(task.instances) > 40 for task in read.tasks)


def test_the_number_of_prompts_is_that_of_the_templates(data_dir: Path) -> None:
    for one in EVALUATION_SETS:
        folder = data_dir / "p3" / "templates" / (one.folder if not one.folder.startswith("anli") else "anli")
        found = read_templates(folder / "templates.yaml")
        assert sum(template.original_task for template in found) == one.prompts, one.name
        others = {one.prompt(template.key) for template in found if not template.original_task}
        assert others == {name for name in OTHER_PROMPTS if one.owns(name)}


def test_the_instructions_of_the_real_sets(data_dir: Path) -> None:
    instructions = {task.name: task.instruction for task in real(data_dir).tasks}
    assert instructions["super_glue_copa_C1_or_C2_premise_so_because_"] == '"[...]" or "[...]"? [...]  [...]'
    assert instructions["super_glue_copa__why_C1_or_C2"] == '[...] Why? "[...]" or "[...]"?'
    assert instructions["super_glue_wsc.fixed_p_is_are_r"] == (
        'Context: [...] \n\n\nQuestion: "[...]" [...] [...]. True or false?\n\n\nAnswer:'
    )
    assert instructions["anli_guaranteed_possible_impossible_r2"] == (
        'Assume it is true that [...] \n\nTherefore, "[...]" is guaranteed, possible, or impossible?'
    )
    assert instructions["hellaswag_Predict_ending_with_hint"] == (
        "How does this sentence end?\n[...]\n\n(a)  [...]\n\n(b)  [...]\n\n(c)  [...]\n\n(d)  [...]\n\n"
        "Hint: the topic of the sentence is [...]"
    )
    assert not any(re.search(r"[{}]|\|\|\|", text) for text in instructions.values())


def test_real_inputs_are_what_their_instruction_says(data_dir: Path) -> None:
    for task in real(data_dir).tasks:
        pattern = ".*".join(re.escape(piece) for piece in task.instruction.split("[...]"))
        for instance in task.instances:
            assert re.fullmatch(f"{pattern}\\s*", instance.input, re.DOTALL), (task.name, instance.input)


def test_both_ways_give_the_same_instances(data_dir: Path, tmp_path: Path) -> None:
    """What raw sets render to, written as the hub has it and read again."""
    for task in real(data_dir).tasks:
        rows = [
            {
                "inputs_pretokenized": one.input,
                "targets_pretokenized": one.outputs[0],
                "answer_choices": list(one.choices or ()),
            }
            for one in task.instances
        ]
        put_rows(tmp_path / f"{task.name}.jsonl", rows)
    again = read_p3_eval(tmp_path)
    assert [(task.name, task.category) for task in again.tasks] == [
        (task.name, task.category) for task in real(data_dir).tasks
    ]
    for found, task in zip(again.tasks, real(data_dir).tasks, strict=True):
        assert [(one.input, one.outputs, one.choices) for one in found.instances] == [
            (one.input, one.outputs, one.choices) for one in task.instances
        ]
    assert again.dropped == {}


def test_reading_says_nothing_when_nothing_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for one in EVALUATION_SETS:
        put_rows(tmp_path / "eval" / one.folder / "validation.jsonl", [premise(1), premise(2)])
        prompts = {f"ask_{at}": (YES_NO, "no|||yes", True) for at in range(one.prompts)}
        put_templates(tmp_path / "templates" / one.folder, **prompts)
    with caplog.at_level(logging.INFO):
        read = read_p3_eval(tmp_path / "eval", templates=tmp_path / "templates")
    assert read.warning is None
    assert not caplog.records
    assert list(read.prompt_counts) == list(NAMES)
    assert len(read.tasks) == 116
