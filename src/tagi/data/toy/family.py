"""Tasks and instances of the toy family."""

import hashlib
import random
from collections.abc import Iterator
from typing import Literal

from tagi.data.task import Example, Instance, Task
from tagi.data.toy.language import wordings
from tagi.data.toy.lexicon import KIND_WORDS, KINDS
from tagi.data.toy.programs import Program, train_programs, unseen_programs

TaskSplit = Literal["train", "unseen"]
InputSplit = Literal["train", "eval"]

_EVAL_SHARE = 8  # one input in eight is for evaluation


def input_split(text: str) -> InputSplit:
    """Return the split of an input, which depends only on its text."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return "eval" if int.from_bytes(digest, "big") % _EVAL_SHARE == 0 else "train"


def toy_inputs(rng: random.Random, split: InputSplit) -> Iterator[list[str]]:
    """Yield random inputs of the split endlessly: one base word of each kind, in random order."""
    while True:
        words = [rng.choice(KIND_WORDS[kind]) for kind in KINDS]
        rng.shuffle(words)
        if input_split(" ".join(words)) == split:
            yield words


def toy_instances(program: Program, n: int, seed: int, split: InputSplit) -> tuple[Instance, ...]:
    """Return `n` instances with distinct inputs of the split.

    Equal arguments give equal instances. A larger `n` appends instances.
    """
    rng = random.Random(f"toy instances {seed} {split} {program.name}")
    found: dict[str, Instance] = {}
    inputs = toy_inputs(rng, split)
    while len(found) < n:
        words = next(inputs)
        text = " ".join(words)
        if text not in found:
            name = f"{program.name}-{split}-{seed}-{len(found)}"
            found[text] = Instance(name, text, (" ".join(program.apply(words)),))
    return tuple(found.values())


def toy_tasks(
    split: TaskSplit,
    seed: int = 0,
    instances_per_task: int = 100,
    *,
    examples_per_task: int = 0,
    paraphrases_per_task: int = 16,
    inputs: InputSplit | None = None,
    holdout: int = 0,
) -> list[Task]:
    """Return the family's training or unseen tasks, sorted by name. The category is the program's word map.

    `instruction` is a training wording. `paraphrases` are further training wordings for training tasks, and held-out
    wordings for unseen ones. `seed` selects wordings and instances; only `holdout` selects the unseen programs. By
    default, instances of training tasks have training inputs and those of unseen tasks evaluation inputs; `inputs`
    overrides this. Examples always have training inputs.
    """
    programs = {"train": train_programs, "unseen": unseen_programs}[split](holdout)
    source: InputSplit = inputs or ("train" if split == "train" else "eval")
    tasks = []
    for program in programs:
        wanted = instances_per_task + (examples_per_task if source == "train" else 0)
        made = toy_instances(program, wanted, seed, source)
        shown = made[instances_per_task:]
        if source == "eval":
            shown = toy_instances(program, examples_per_task, seed, "train")
        instruction, *others = wordings(program, 1 + (paraphrases_per_task if split == "train" else 0), seed)
        if split == "unseen":
            others = list(wordings(program, paraphrases_per_task, seed, "heldout"))
        examples = tuple(Example(one.input, one.outputs[0]) for one in shown)
        instances = made[:instances_per_task]
        tasks.append(Task(program.name, program.mapping, instruction, instances, examples, tuple(others)))
    return tasks
