"""Prompts and choices against those that promptsource itself renders, to the character."""

import json
from pathlib import Path
from typing import Any

import pytest

from tagi.data.readers.promptsource import PromptTemplate, Rendered, read_templates

Row = dict[str, Any]
RANDOM = {
    "Randomized prompts template": 4,
    "Appropriate continuation - Yes or No": 4,
    "Reversed appropriate continuation - Yes or No": 4,
}
"""Templates that draw at random, and of how many."""


@pytest.fixture(scope="module")
def oracle(data_dir: Path) -> list[Row]:
    lines = (data_dir / "oracles" / "promptsource_rendered.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


@pytest.fixture(scope="module")
def templates(data_dir: Path, oracle: list[Row]) -> dict[tuple[str, str], PromptTemplate]:
    folder = data_dir / "p3" / "templates"
    return {
        (dataset, template.name): template
        for dataset in {row["dataset"] for row in oracle}
        for template in read_templates(folder / dataset / "templates.yaml")
    }


@pytest.fixture(scope="module")
def sets(data_dir: Path, oracle: list[Row]) -> dict[str, list[Row]]:
    folder = data_dir / "p3" / "eval"
    files = {row["file"]: (folder / row["file"]).read_text(encoding="utf-8").split("\n") for row in oracle}
    return {name: [json.loads(line) for line in lines if line] for name, lines in files.items()}


def wanted(row: Row) -> Rendered:
    choices = row["answer_choices"]
    return Rendered(tuple(row["applied"]), None if choices is None else tuple(choices))


def test_every_row_is_what_promptsource_renders(
    oracle: list[Row], templates: dict[tuple[str, str], PromptTemplate], sets: dict[str, list[Row]]
) -> None:
    assert len(oracle) == 249
    fixed = [row for row in oracle if row["template"] not in RANDOM]
    assert len(fixed) == 240
    for row in fixed:
        found = templates[row["dataset"], row["template"]].render(sets[row["file"]][row["row"]], "here")
        assert found == wanted(row), (row["dataset"], row["template"], row["row"])


def test_random_templates_are_what_promptsource_renders_with_one_of_their_draws(
    oracle: list[Row], templates: dict[tuple[str, str], PromptTemplate], sets: dict[str, list[Row]]
) -> None:
    drawn = [row for row in oracle if row["template"] in RANDOM]
    assert len(drawn) == 9
    for row in drawn:
        template, given = templates[row["dataset"], row["template"]], sets[row["file"]][row["row"]]
        options = range(RANDOM[row["template"]])
        every = [template.render(given, "here", draw=lambda those, at=at: those[at]) for at in options]
        assert every.count(wanted(row)) == 1, (row["template"], row["row"])
        assert template.render(given, "here") in every


def test_original_tasks_are_promptsources(oracle: list[Row], templates: dict[tuple[str, str], PromptTemplate]) -> None:
    flags = {(row["dataset"], row["template"]): row["original_task"] for row in oracle}
    assert {key: template.original_task for key, template in templates.items()} == flags
    assert sorted(set(flags.values())) == [False, True]
