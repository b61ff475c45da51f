"""Where the time of `tagi refine` goes, and what a step costs whose instruction is read once, in one run.

Processor time of one thread. A step is computed in two ways on the same rows, in turn:

- `row by row`: every row is read with its instruction before it, as steps were computed before
- `once a step`: the instruction is read once under the LoRA that is trained, and all rows go on from it (as trained)

Both have the same loss up to rounding.

    python benchmarks/refinement.py OUT [--generator smollm2] [--steps 4]

The rows are the six training rows of two tasks of `examples/own_tasks.csv`: one with its own instruction, and one with
that of the same task written out at length. Writes OUT/refinement.json.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

begun = time.process_time()
import torch  # noqa: E402

import tagi.training.trainer  # noqa: E402, F401  # what training imports
from tagi import AdapterGenerator, Refinement, TaskAdapter, read_tasks  # noqa: E402
from tagi.data.batches import Sample  # noqa: E402
from tagi.data.task import Task  # noqa: E402
from tagi.files import write_text  # noqa: E402
from tagi.methods.objective.losses import prediction_loss  # noqa: E402
from tagi.methods.refining import Refined  # noqa: E402

IMPORTING = time.process_time() - begun
TABLE = Path(__file__).parents[1] / "examples" / "own_tasks.csv"
LONG = (
    "You are given a message that a customer has sent to the help desk of a software company. Decide whether somebody "
    "has to look at it at once. A message is urgent if people cannot work, if money or data are being lost, or if "
    "there is danger. Wishes, questions and thanks are not urgent, even where the customer is impatient. Answer yes or "
    "no."
)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns and its seconds of processor time."""
    start = time.process_time()
    return call(), time.process_time() - start


def steps_in_turn(adapter: TaskAdapter, task: Task, steps: int) -> dict[str, Any]:
    """Compute the same step in both ways in turn; the first of each is not counted."""
    model = Refined(adapter).train()
    batch = model.collate([Sample(task, task.instruction, one.input, one.outputs[0]) for one in task.instances])
    read, rows = adapter.states.read, torch.zeros(len(task.instances), dtype=torch.long)

    def row_by_row() -> torch.Tensor:
        return prediction_loss(adapter.generator.logits(read, model.bank, rows, **batch), batch["labels"])

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "row by row": row_by_row,
        "once a step": lambda: model(**batch)["loss"],
    }
    seconds, losses = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)

    def step(way: str) -> float:
        start = time.process_time()
        loss = ways[way]()
        loss.backward()
        losses[way] = float(loss.detach())
        for factor in model.factors:
            factor.grad = None
        return time.process_time() - start

    for number in range(steps + 1):
        for way in ways:
            took = step(way)
            seconds[way] += took if number else 0.0
    model.release()
    return {
        "instruction_tokens": int(read.mask.sum()),
        "input_tokens": int(batch["input_mask"].sum()),
        "seconds_a_step": {way: round(total / steps, 3) for way, total in seconds.items()},
        "speedup": round(seconds["row by row"] / seconds["once a step"], 2),
        "difference_of_losses": abs(losses["row by row"] - losses["once a step"]),
    }


def main(out: Path, generator: str, steps: int) -> None:
    """Time the parts and both ways, print them and write the record."""
    torch.set_num_threads(1)
    task, tested = [one for one in read_tasks(TABLE) if one.name == "urgent"]
    made, loading = timed(lambda: AdapterGenerator.from_pretrained(generator))
    adapter, generating = timed(lambda: made.adapt(task.instruction))
    inputs, examples = [one.input for one in tested.instances], [(one.input, one.outputs[0]) for one in task.instances]
    refined, training = timed(lambda: adapter.refine(examples, Refinement(steps)))
    _, answering = timed(lambda: refined.predict(inputs))
    _, scoring = timed(lambda: refined.score(inputs, [[one.outputs[0]] for one in tested.instances]))
    with tempfile.TemporaryDirectory() as folder:
        _, writing = timed(lambda: refined.save_pretrained(Path(folder) / "adapter"))
    record = {
        "machine": platform.machine(),
        "generator": generator,
        "rows": len(examples),
        "parts": {
            "import": round(IMPORTING, 2),
            "load the generator": round(loading, 2),
            "generate an adapter": round(generating, 2),
            f"train {steps} steps": round(training, 2),
            f"answer {len(inputs)} held-out inputs": round(answering, 2),
            "their losses": round(scoring, 2),
            "write the adapter": round(writing, 2),
        },
        "steps": {
            "short instruction": steps_in_turn(adapter, task, steps),
            "long instruction": steps_in_turn(made.adapt(LONG), task, steps),
        },
    }
    write_text(out / "refinement.json", json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--generator", default="smollm2")
    parser.add_argument("--steps", type=int, default=4)
    main(**vars(parser.parse_args()))
