"""The demonstrations: built-in generators on unseen tasks."""

import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from tagi.api.export import verify
from tagi.api.generator import AdapterGenerator
from tagi.api.recipes import evaluate
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.causal import CausalBackbone
from tagi.data.readers.jsonl import read_jsonl
from tagi.data.task import Task
from tagi.data.toy.family import toy_tasks
from tagi.data.toy.programs import train_programs
from tagi.errors import ConfigError
from tagi.evaluation.conditions import INSTRUCTIONS
from tagi.evaluation.scoring.metrics import TASK_SCORES
from tagi.formats.records import ExportRecord
from tagi.formats.verify import as_rows
from tagi.methods.causal import CausalConcatenation
from tagi.methods.tagi import TAGI

COLUMNS = {"stock": "stock", "adapted": "instruction + LoRA", "alone": "LoRA alone"}
"""Ways to answer: stock model with instruction, generated LoRA with instruction, generated LoRA alone."""
_SHOWN_EVERY = 5  # unseen tasks are sorted by name: show every fifth


def shown_tasks() -> list[Task]:
    """Return six everyday tasks of different kinds, each with one input.

    They were written before any model answered them. They are in no training set and not in the everyday benchmark.
    """
    return read_jsonl(Path(str(resources.files("tagi") / "data" / "demo.jsonl")))


def is_right(task: Task, answer: str) -> bool:
    """Return whether an answer to the task's first input is correct by the task's metric."""
    return TASK_SCORES[str(task.metric)](answer, task.instances[0].outputs) == 1


def demonstrate(out: Path, *, generator: str = "smollm2", max_new_tokens: int = 24) -> dict[str, Any]:
    """Generate adapters for six instructions (`shown_tasks`), answer with them, and export the first one to `out`.

    Returns a record with the answers of the stock model, of the LoRA with instruction and of the LoRA alone, and under
    `right` the number of correct ones. Raises `ConfigError` if the generator's backbone is not decoder-only, and
    `InputError` if it does not generate LoRA.
    """
    begun = time.perf_counter()
    made = AdapterGenerator.from_pretrained(generator)
    loading = time.perf_counter() - begun
    if not isinstance(made.backbone, CausalBackbone):
        raise ConfigError(f"{generator}: expected a generator on a decoder-only model to show, got one on T5")
    tasks = shown_tasks()
    begun = time.perf_counter()
    method = TAGI(made).eval()
    states = method.prepare(tasks)
    adapting = time.perf_counter() - begun
    text = made.text.settings
    together = replace(text, max_input_tokens=text.max_instruction_tokens + text.max_input_tokens)
    stock = CausalConcatenation(made.backbone, together, frozen=True).eval()
    rows, inputs = torch.arange(len(tasks)), [task.instances[0].input for task in tasks]
    asked = (stock, stock.prepare(tasks)), (method, states), (method, states.without_states())
    answered = [model.predict(given, rows, inputs, max_new_tokens=max_new_tokens) for model, given in asked]
    columns = dict(zip(COLUMNS, answered, strict=True))
    answers: list[dict[str, Any]] = [
        {
            "kind": task.name,
            "instruction": task.instruction,
            "input": inputs[at],
            **{name: found[at] for name, found in columns.items()},
            "expected": list(task.instances[0].outputs),
            "metric": task.metric,
            "right": {name: is_right(task, found[at]) for name, found in columns.items()},
        }
        for at, task in enumerate(tasks)
    ]
    again = (out / ExportRecord.FILE).is_file()  # replace an earlier export, but no other folder
    first = TaskAdapter(made, states.select(torch.tensor([0])), tasks[0].instruction)
    exported = first.export(out, lossy=True, overwrite=again)
    return {
        "generator": generator,
        "base": str(made.backbone.identity),
        "parameters": states.bank.parameters_per_task,
        "seconds": {"loading": round(loading, 1), "adapting": round(adapting, 2)},
        "answers": answers,
        "right": {name: sum(answer["right"][name] for answer in answers) for name in columns},
        "exported": exported,
        "checks": as_rows(verify(out)),
    }


def demonstrate_toy(*, limit: int, generator: str = "toy") -> dict[str, Any]:
    """Return scores for all instruction conditions, and the answers of some unseen tasks to one input each."""
    record = evaluate(generator, "toy", conditions=INSTRUCTIONS, limit=limit)
    tasks = toy_tasks("unseen", instances_per_task=1)[::_SHOWN_EVERY]
    answers = []
    for task, adapter in zip(tasks, AdapterGenerator.from_pretrained(generator).adapt_tasks(tasks), strict=True):
        instance = task.instances[0]
        answer, expected = adapter.predict(instance.input), instance.outputs[0]
        row = {"instruction": task.instruction, "input": instance.input, "answer": answer, "expected": expected}
        answers.append({**row, "right": answer == expected})
    return {"record": record, "answers": answers, "trained_on": len(train_programs())}
