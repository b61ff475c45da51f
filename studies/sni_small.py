"""Does a small T5, made from a configuration, learn anything of real tasks in a few hundred steps?

Trains the recipe `sni-small` twice, as it is and with each task's inputs shuffled among its instances, on the same
targets in the same order, and sets the losses of the last steps beside what the targets' own token frequencies give.

    python studies/sni_small.py NATURAL_INSTRUCTIONS TOKENIZER OUT [KEY=VALUE ...]
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from tagi.data.batches import TaskBatches
from tagi.data.task import Task
from tagi.data.text.encoder import TextEncoder
from tagi.files import write_text
from tagi.stages.recipe_settings import text_settings
from tagi.stages.recipes import load_recipe
from tagi.stages.tasks import load_tasks
from tagi.stages.train import train_stage

LAST_STEPS = 100


def unigram_losses(tasks: Sequence[Task], batches: TaskBatches, text: TextEncoder, last: int) -> dict[str, float]:
    """Mean cross-entropy in nats of the last batches' target tokens under two tables of token frequencies.

    Of all training targets, and of those alone that the run has seen: the second knows the last batches better.
    """
    seen = [[text.target(row.target) for row in batch] for batch in batches]
    tables = {
        "all_training_targets": Counter(
            token for task in tasks for one in task.instances for token in text.target(one.outputs[0])
        ),
        "targets_of_the_run": Counter(token for batch in seen for row in batch for token in row),
    }
    losses = {}
    for name, counts in tables.items():
        total, means = sum(counts.values()), []
        for batch in seen[-last:]:
            tokens = [token for row in batch for token in row]
            # A target that is not its instance's first may hold a token that no first target has: half a count.
            means.append(-sum(math.log(max(counts[token], 0.5) / total) for token in tokens) / len(tokens))
        losses[name] = sum(means) / len(means)
    return losses


def main(root: str, tokenizer: str, out: Path, overrides: list[str]) -> None:
    """Run both, compare, write `comparison.json`."""
    alone = ["losses.kl=0", "losses.ins=0", "run.stages=['finetune']"]  # cross-entropy, no other stage before it
    shared = [f"data.path={root}", f"backbone.tokenizer={tokenizer}", *alone, *overrides]
    losses, curves = {}, {}
    for name, extra in (("inputs", []), ("shuffled inputs", ["data.shuffle_inputs=true"])):
        recipe = load_recipe("sni-small", [*shared, *extra])
        record = train_stage(recipe, "finetune", out / name.replace(" ", "-"), resume=True)
        history = record["training"]["history"]
        curves[name] = {entry["step"]: entry["loss"] for entry in history}
        last = [entry["loss"] for entry in history if entry["step"] > recipe.training.steps - LAST_STEPS]
        losses[name] = {
            "first": history[0]["loss"],
            "last": sum(last) / len(last),
            "seconds": record["training"]["seconds"],
        }
    recipe = load_recipe("sni-small", shared)
    loaded, settings = load_tasks(recipe, "train"), recipe.training_for("finetune")
    batches = TaskBatches(
        loaded.tasks,
        length=settings.steps * settings.accumulation,
        tasks_per_batch=settings.tasks_per_batch,
        queries_per_task=settings.queries_per_task,
        seed=recipe.seed,
    )
    text = TextEncoder(AutoTokenizer.from_pretrained(tokenizer), text_settings(recipe))
    unigram = unigram_losses(loaded.tasks, batches, text, LAST_STEPS * settings.accumulation)
    gaps = {step: curves["shuffled inputs"][step] - loss for step, loss in curves["inputs"].items()}
    comparison = {
        "steps": settings.steps,
        "last_steps": LAST_STEPS,
        "losses": losses,
        "target_unigram": unigram,
        "shuffled_minus_inputs_by_step": gaps,
    }
    write_text(out / "comparison.json", json.dumps({**comparison, "data": loaded.summary}, indent=2) + "\n")
    print(json.dumps(comparison, indent=2))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
