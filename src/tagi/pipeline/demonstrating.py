"""The demonstrations: a shipped generator on tasks it has never seen, on a real model or on the built-in family."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tagi.backbones import CausalBackbone
from tagi.config import load_recipe
from tagi.data.task import Task
from tagi.data.toy import toy_tasks, train_programs
from tagi.errors import ConfigError
from tagi.evaluation.conditions import INSTRUCTIONS
from tagi.hypernetwork import TaskAdapter
from tagi.methods import TAGI, CausalConcatenation
from tagi.pipeline.evaluating import Asked, evaluate
from tagi.pipeline.export_card import RECORD
from tagi.pipeline.exporting import export, exportable_of
from tagi.pipeline.generating import open_generator
from tagi.pipeline.verifying import as_rows, verify

SHOWN: tuple[tuple[str, str], ...] = (
    (
        "Decide whether the review is favourable. Answer with one word, positive or negative.",
        "The battery died after two days and nobody answered my letters.",
    ),
    ("Write the sentence in the past tense.", "She walks to the station and buys a newspaper."),
    ("Name the city that is mentioned in the text.", "My brother moved to Lisbon last spring to open a bakery."),
    (
        "You are given two sentences. Answer yes if the second follows from the first, otherwise no.",
        "All the shops were closed on Sunday. The bookshop was open on Sunday.",
    ),
    (
        "Write a short title for the article.",
        "Farmers in the north have begun to plant olives. Warmer winters let the trees live where apples grew before.",
    ),
    ("Rewrite the question as a statement.", "Is the museum closed on Mondays?"),
)
"""Instructions of different kinds, each with an input; none is in any training set."""
_SHOWN_EVERY = 5  # unseen tasks are sorted by name: this spreads the shown ones over the family


def demonstrate(out: Path, *, generator: str, max_new_tokens: int = 24) -> dict[str, Any]:
    """Adapt a real model to a handful of instructions; answers beside the stock model's; one adapter exported to `out`.

    Raises `ConfigError` for a generator on anything but a decoder-only model, or of anything but LoRA.
    """
    begun = time.perf_counter()
    made = open_generator(generator)
    loaded = time.perf_counter() - begun
    if not isinstance(made.backbone, CausalBackbone):
        raise ConfigError(f"{generator}: expected a generator on a decoder-only model to show, got one on T5")
    tasks = [Task(f"shown {at}", "shown", instruction, ()) for at, (instruction, _) in enumerate(SHOWN)]
    rows, inputs = torch.arange(len(SHOWN)), [text for _, text in SHOWN]
    begun = time.perf_counter()
    method = TAGI(made).eval()
    states = method.prepare(tasks)
    adapted = time.perf_counter() - begun
    stock = CausalConcatenation(made.backbone, _together(made.text.settings), frozen=True).eval()
    columns = {
        "stock": stock.predict(stock.prepare(tasks), rows, inputs, max_new_tokens=max_new_tokens),
        "adapted": method.predict(states, rows, inputs, max_new_tokens=max_new_tokens),
        "alone": method.predict(states.without_states(), rows, inputs, max_new_tokens=max_new_tokens),
    }
    answers = [
        {"instruction": instruction, "input": text, **{name: found[at] for name, found in columns.items()}}
        for at, (instruction, text) in enumerate(SHOWN)
    ]
    one = TaskAdapter(made, states.select(torch.tensor([0])), SHOWN[0][0])
    again = (out / RECORD).is_file()  # an export of before may go, nothing else
    exported = export(exportable_of(one), "peft", out, lossy=True, overwrite=again)
    return {
        "generator": generator,
        "base": str(made.backbone.identity),
        "parameters": states.bank.parameters_per_task,
        "seconds": {"loading": round(loaded, 1), "adapting": round(adapted, 2)},
        "answers": answers,
        "exported": exported,
        "checks": as_rows(verify(out)),
    }


def _together(text: Any) -> Any:
    """Limits of a prompt that holds instruction and input."""
    return replace(text, max_input_tokens=text.max_instruction_tokens + text.max_input_tokens)


def demonstrate_toy(*, limit: int, generator: str = "toy") -> dict[str, Any]:
    """Scores under every instruction condition, and answers to read: one input of every few unseen tasks."""
    record = evaluate(generator, load_recipe("toy", []), asked=Asked(INSTRUCTIONS, limit=limit))
    tasks = toy_tasks("unseen", instances_per_task=1)[::_SHOWN_EVERY]
    adapters = open_generator(generator).adapt([task.instruction for task in tasks])
    assert isinstance(adapters, list)
    return {"record": record, "answers": _answers(tasks, adapters), "trained_on": len(train_programs())}


def _answers(tasks: Sequence[Task], adapters: Sequence[TaskAdapter]) -> list[dict[str, Any]]:
    answers = []
    for task, adapter in zip(tasks, adapters, strict=True):
        instance = task.instances[0]
        answer = adapter.predict(instance.input)
        expected = instance.outputs[0]
        answers.append(
            {
                "instruction": task.instruction,
                "input": instance.input,
                "answer": answer,
                "expected": expected,
                "right": answer == expected,
            }
        )
    return answers
