"""The demonstration: the shipped generator on tasks it has never seen."""

from typing import Any

from tagi.config import load_recipe
from tagi.data.toy import toy_tasks, train_programs
from tagi.evaluation.conditions import INSTRUCTIONS
from tagi.pipeline.evaluating import Asked, evaluate
from tagi.pipeline.generating import open_generator

_SHOWN_EVERY = 5  # unseen tasks are sorted by name: this spreads the shown ones over the family


def demonstrate(*, limit: int, generator: str = "toy") -> dict[str, Any]:
    """Scores under every instruction condition, and answers to read: one input of every few unseen tasks."""
    record = evaluate(generator, load_recipe("toy", []), asked=Asked(INSTRUCTIONS, limit=limit))
    tasks = toy_tasks("unseen", instances_per_task=1)[::_SHOWN_EVERY]
    adapters = open_generator(generator).adapt([task.instruction for task in tasks])
    answers = []
    for task, adapter in zip(tasks, adapters, strict=True):  # type: ignore[arg-type]
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
    return {"record": record, "answers": answers, "trained_on": len(train_programs())}
