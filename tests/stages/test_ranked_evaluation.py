"""Choices are ranked from the command line: P3's raw sets and the hub's form, and own tasks with choices."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run

TEMPLATE = """dataset: super_glue
subset: cb
templates:
  1: !Template
    answer_choices: cat ||| hen ||| dog hen
    id: "1"
    jinja: "{{premise}} Does it follow that {{hypothesis}}? ||| {{ answer_choices[label] }}"
    metadata: !TemplateMetadata
      choices_in_prompt: false
      metrics: [Accuracy]
      original_task: true
    name: does it follow
    reference: ""
  2: !Template
    answer_choices: null
    id: "2"
    jinja: "{{premise}} ||| {{hypothesis}}"
    metadata: !TemplateMetadata
      choices_in_prompt: false
      metrics: [BLEU]
      original_task: false
    name: say more
    reference: ""
"""
ROWS = [
    {"premise": f"the cat {word}", "hypothesis": "a cat is here", "label": at % 3} for at, word in enumerate("abcde")
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for folder, name, text in (
        ("sets", "validation.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("templates", "templates.yaml", TEMPLATE),
    ):
        place = tmp_path / folder / "super_glue" / "cb"
        place.mkdir(parents=True)
        (place / name).write_text(text)
    return tmp_path


def scored(run_tagi: Run, *settings: str) -> dict[str, Any]:
    given = [part for setting in settings for part in ("--set", setting)]
    ran = run_tagi("evaluate", "toy", "p3-small", *given, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_raw_sets_and_the_hubs_form_are_ranked_alike(run_tagi: Run, raw: Path) -> None:
    record = scored(run_tagi, f"data.test_path={raw / 'sets'}", f"data.templates={raw / 'templates'}")
    right = record["results"]["right"]
    assert (right["n"], right["metric"], right["choice_score"]) == (5, "accuracy", "sum")
    assert right["prompts"] == {"super_glue_cb": 1}
    assert right["averages"]["mtest11"]["value"] is None
    assert "winogrande_winogrande_xl" in right["averages"]["mtest11"]["missing"]
    assert record["data"]["other_prompts"] == 1

    hub = raw / "hub"
    hub.mkdir()
    lines = [
        {
            "inputs_pretokenized": f"{row['premise']} Does it follow that a cat is here?",
            "targets_pretokenized": ("cat", "hen", "dog hen")[int(str(row["label"]))],
            "answer_choices": ["cat", "hen", "dog hen"],
        }
        for row in ROWS
    ]
    (hub / "super_glue_cb_does_it_follow.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = scored(run_tagi, f"data.test_path={hub}", "data.templates=")
    assert again["results"]["right"]["n"] == 5
    per_token = scored(run_tagi, f"data.test_path={hub}", "data.templates=", "evaluation.choice_score=mean")
    assert per_token["results"]["right"]["choice_score"] == "mean"


def test_the_summary_says_how_and_what_is_missing(run_tagi: Run, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    given = ("--set", f"data.test_path={raw / 'sets'}", "--set", f"data.templates={raw / 'templates'}")
    ran = run_tagi("evaluate", "toy", "p3-small", *given, "--out", out)
    assert ran.code == 0, ran.err
    assert "choices by the sum of their log-probabilities, 0 ties" in ran.out
    assert "mtest11: not given, missing" in ran.out
    lines = [json.loads(line) for line in (out / "predictions-right.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    assert all(line["prediction"] in ("cat", "hen", "dog hen") for line in lines)
    assert all(len(line["scores"]) == 3 for line in lines)


def test_own_tasks_with_choices_are_ranked_on_demand(run_tagi: Run, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    instances = [{"input": "cat hen", "outputs": ["cat"], "choices": ["cat", "hen", "hen"]}]
    tasks.write_text(
        json.dumps({"task": "one", "category": "c", "instruction": "take the animal .", "instances": instances}) + "\n"
    )
    own = ("--set", "data.source=jsonl", "--set", f"data.path={tasks}")
    ran = run_tagi("evaluate", "toy", "toy", *own, "--set", "evaluation.metric=rank", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["results"]["right"]["metric"] == "accuracy"
    instances[0].pop("choices")
    tasks.write_text(
        json.dumps({"task": "one", "category": "c", "instruction": "take the animal .", "instances": instances}) + "\n"
    )
    none = run_tagi("evaluate", "toy", "toy", *own, "--set", "evaluation.metric=rank")
    assert (none.code, none.err.count("\n")) == (2, 1)
    assert "expected at least 2 different choices" in none.err


def test_without_test_sets_one_line_says_so(run_tagi: Run) -> None:
    ran = run_tagi("evaluate", "toy", "p3-small", "--set", "data.test_path=", "--set", "data.templates=")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "data.test_path: expected a folder of P3's evaluation sets" in ran.err
