"""Does a small T5, made from a configuration, learn anything of real tasks in a few hundred steps?

Trains the recipe `sni-small` twice, as it is and with each task's inputs shuffled among its instances, on the same
targets in the same order, and sets the losses of the last steps beside what the targets' own token frequencies give.

    python studies/sni_small.py NATURAL_INSTRUCTIONS TOKENIZER OUT [KEY=VALUE ...]
"""

import json
import math
import sys
from collections import Counter
from pathlib import Path

from transformers import AutoTokenizer

from tagi.cli.quiet import quiet
from tagi.config import load_recipe
from tagi.data.batches import TaskBatches
from tagi.files import write_text
from tagi.pipeline import load_tasks, train_stage

LAST_STEPS = 100


def unigram_loss(batches: TaskBatches, tokenizer: object, limit: int, last: int) -> float:
    """Mean cross-entropy in nats of the last batches' target tokens under the frequencies of all batches' targets."""
    ids = [
        [tokenizer(row.target, truncation=True, max_length=limit)["input_ids"] for row in batch] for batch in batches
    ]  # type: ignore[operator]
    counts = Counter(token for batch in ids for row in batch for token in row)
    total = sum(counts.values())
    means = []
    for batch in ids[-last:]:  # as the trainer averages: over a micro-batch's tokens, then over micro-batches
        tokens = [token for row in batch for token in row]
        means.append(-sum(math.log(counts[token] / total) for token in tokens) / len(tokens))
    return sum(means) / len(means)


def main(root: str, tokenizer: str, out: Path, overrides: list[str]) -> None:
    """Run both, compare, write `comparison.json`."""
    shared = [f"data.path={root}", f"backbone.tokenizer={tokenizer}", *overrides]
    losses = {}
    for name, extra in (("inputs", []), ("shuffled inputs", ["data.shuffle_inputs=true"])):
        recipe = load_recipe("sni-small", [*shared, *extra])
        record = train_stage(recipe, "finetune", out / name.replace(" ", "-"), resume=True)
        history = record["training"]["history"]
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
    unigram = unigram_loss(
        batches,
        AutoTokenizer.from_pretrained(tokenizer),
        recipe.data.max_target_tokens,
        LAST_STEPS * settings.accumulation,
    )
    comparison = {"steps": settings.steps, "last_steps": LAST_STEPS, "losses": losses, "target_unigram": unigram}
    write_text(out / "comparison.json", json.dumps({**comparison, "data": loaded.summary}, indent=2) + "\n")
    print(json.dumps(comparison, indent=2))


if __name__ == "__main__":
    quiet()
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
