"""The demonstrations: a shipped generator on tasks it has never seen, on a real model or on the built-in family."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tagi.api.generate import open_generator
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.causal import CausalBackbone
from tagi.config.recipes import load_recipe
from tagi.data.task import Task
from tagi.data.toy.family import toy_tasks
from tagi.data.toy.programs import train_programs
from tagi.errors import ConfigError
from tagi.evaluation.conditions import INSTRUCTIONS
from tagi.evaluation.scoring.metrics import TASK_SCORES
from tagi.formats.export import export, exportable_of
from tagi.formats.export_card import RECORD
from tagi.formats.verify import as_rows, verify
from tagi.methods.causal import CausalConcatenation
from tagi.methods.tagi import TAGI
from tagi.stages.evaluate import EvaluationRequest, evaluate


@dataclass(frozen=True, slots=True)
class Shown:
    """One task of the demonstration.

    Args:
        kind: What kind of task it is.
        instruction: The instruction, as people type it.
        input: One input.
        answers: The answers that are right.
        metric: How an answer is compared with them (`tagi.data.task.TASK_METRICS`).
    """

    kind: str
    instruction: str
    input: str
    answers: tuple[str, ...]
    metric: str

    def is_right(self, answer: str) -> bool:
        """Return whether an answer is right by the task's metric."""
        return TASK_SCORES[self.metric](answer, self.answers) == 1


SHOWN: tuple[Shown, ...] = (
    Shown(
        "classification",
        "Is this email spam? Answer yes or no.",
        "Congratulations, you have won a free cruise! Click here within 24 hours to claim your prize.",
        ("yes",),
        "choice",
    ),
    Shown(
        "extraction",
        "Give me only the phone number from this message.",
        "Hi, this is Petra from the garage. Please call me back on 555-0142, your car is ready.",
        ("555-0142",),
        "exact",
    ),
    Shown(
        "rewriting",
        "Correct the spelling mistakes in this sentence.",
        "I recieved your leter yesterday.",
        ("I received your letter yesterday.",),
        "exact",
    ),
    Shown(
        "formatting",
        "Turn this list into a JSON array of strings.",
        "apples, pears, plums",
        ('["apples", "pears", "plums"]',),
        "json",
    ),
    Shown(
        "question answering",
        "Answer the question about the text in as few words as possible.",
        "The library opens at nine and closes at six, but on Fridays it closes at four. "
        "When does the library close on Fridays?",
        ("four", "at four", "four o'clock", "at four o'clock", "4", "at 4", "4 pm", "at 4 pm", "4:00", "16:00"),
        "exact",
    ),
    Shown(
        "normalising",
        "Write this date as YYYY-MM-DD.",
        "March 5, 2021",
        ("2021-03-05",),
        "exact",
    ),
)
"""Six everyday tasks of different kinds, each with one input.

They were written for the demonstration, before any model answered them: the instructions and inputs are in no training
set, and no task is one of the everyday benchmark's.
"""
COLUMNS = {"stock": "stock", "adapted": "instruction + LoRA", "alone": "LoRA alone"}
"""What answers each task: the stock model with the instruction, the generated LoRA with it, and without it."""
_SHOWN_EVERY = 5  # unseen tasks are sorted by name: this spreads the shown ones over the family


def demonstrate(out: Path, *, generator: str, max_new_tokens: int = 24) -> dict[str, Any]:
    """Adapt a real model to six instructions (`SHOWN`) and export the first adapter to `out`.

    Returns each answer of the stock model, of the generated LoRA with the instruction and of the LoRA alone, whether it
    is right, and under `right` how many of them are. Raises `ConfigError` for a generator on anything but a
    decoder-only model, or of anything but LoRA.
    """
    begun = time.perf_counter()
    made = open_generator(generator)
    loaded = time.perf_counter() - begun
    if not isinstance(made.backbone, CausalBackbone):
        raise ConfigError(f"{generator}: expected a generator on a decoder-only model to show, got one on T5")
    tasks = [Task(f"shown {at}", "shown", one.instruction, ()) for at, one in enumerate(SHOWN)]
    rows, inputs = torch.arange(len(SHOWN)), [one.input for one in SHOWN]
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
    marks = [{name: one.is_right(found[at]) for name, found in columns.items()} for at, one in enumerate(SHOWN)]
    answers = [
        {
            "kind": one.kind,
            "instruction": one.instruction,
            "input": one.input,
            **{name: found[at] for name, found in columns.items()},
            "expected": list(one.answers),
            "metric": one.metric,
            "right": marks[at],
        }
        for at, one in enumerate(SHOWN)
    ]
    one = TaskAdapter(made, states.select(torch.tensor([0])), SHOWN[0].instruction)
    again = (out / RECORD).is_file()  # an export of before may go, nothing else
    exported = export(exportable_of(one), "peft", out, lossy=True, overwrite=again)
    return {
        "generator": generator,
        "base": str(made.backbone.identity),
        "parameters": states.bank.parameters_per_task,
        "seconds": {"loading": round(loaded, 1), "adapting": round(adapted, 2)},
        "answers": answers,
        "right": {name: sum(own[name] for own in marks) for name in columns},
        "exported": exported,
        "checks": as_rows(verify(out)),
    }


def _together(text: Any) -> Any:
    """Limits of a prompt that holds instruction and input."""
    return replace(text, max_input_tokens=text.max_instruction_tokens + text.max_input_tokens)


def demonstrate_toy(*, limit: int, generator: str = "toy") -> dict[str, Any]:
    """Scores under every instruction condition, and answers to read: one input of every few unseen tasks."""
    record = evaluate(generator, load_recipe("toy", []), request=EvaluationRequest(INSTRUCTIONS, limit=limit))
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
