"""Twenty tasks of one's own, from a table to files that need no tagi.

Generates an adapter for every instruction, evaluates them beside the stock model on the rows marked "test", refines
those that are bad on the rows marked "train", evaluates again, and exports one adapter in three forms, each of which
is loaded again by other software in a process of its own. The docs tell the same by commands: docs/own-tasks.md.

    python examples/own_tasks.py runs/own                                 # all of it
    python examples/own_tasks.py runs/own --tasks 2 --rows 1 --steps 2    # a rehearsal

Prints the seconds of every part and a table of the tasks, which are also in OUT/tasks.md.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tagi import AdapterGenerator, Example, Refinement, Task, TaskAdapter, evaluate, read_tasks, refine_all
from tagi.api.task_adapter import save_adapters
from tagi.backbones.model_files import write_model
from tagi.evaluation.timing.tables import markdown

TABLE = Path(__file__).parent / "own_tasks.csv"
BAD = 70
"""An adapter that scores less on its training rows is refined."""
SHORT = ("evaluation.max_new_tokens=24",)
"""More tokens than any answer of the table has."""
PEFT = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2])
ids = AutoTokenizer.from_pretrained(sys.argv[1])(sys.argv[3], return_tensors="pt", add_special_tokens=False)
print(model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1]:].tolist())
assert "tagi" not in sys.modules
"""
MERGED = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer(sys.argv[2], return_tensors="pt", add_special_tokens=False)
print(model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1]:].tolist())
assert "tagi" not in sys.modules
"""
GGUF = """
import sys
from gguf import GGUFReader

reader = GGUFReader(sys.argv[1])
print(len(reader.tensors), "tensors of", reader.get_field("adapter.type").contents())
assert "tagi" not in sys.modules
"""


def main(out: Path, generator: str = "smollm2", tasks: int = 20, rows: int = 9, steps: int = 16) -> dict[str, Any]:
    """Do all of it under `out`, with the first tasks and rows of each alone if so many are asked for."""
    seconds: dict[str, float] = {}
    training, tested = split(tasks, rows)
    with timed("load the generator", seconds):
        made = AdapterGenerator.from_pretrained(generator)
    with timed("generate and write the adapters", seconds):
        adapters = dict(zip([task.name for task in training], made.adapt_tasks(training), strict=True))
        save_adapters(adapters, out / "adapters")
    with timed("score the training rows", seconds):
        # What is bad is told by the training rows: what is chosen by test rows is no longer measured by them.
        known = scores(evaluate(out / "adapters", training, overrides=SHORT), "right")
        bad = [name for name, score in known.items() if score < BAD]
    with timed("score the test rows, the stock model's too", seconds):
        first = evaluate(out / "adapters", tested, conditions=("right", "stock"), overrides=SHORT)
    table = out / "rows.jsonl"
    write_rows(table, [*training, *tested])
    refined: dict[str, float] = {}
    if bad:
        with timed(f"refine {len(bad)} of {len(known)} adapters, {steps} steps each", seconds):
            refine_all(out / "adapters", table, out / "refined", Refinement(steps), only=bad)
        with timed("score the refined ones on the test rows", seconds):
            refined = scores(evaluate(out / "refined", tested, overrides=SHORT), "right")
    with timed("export one in three forms and load each", seconds):
        export_one(out, made, training[0], steps)
    report = task_table(first, refined)
    text = f"{markdown(report)}\n{markdown([{'part': part, 's': round(took)} for part, took in seconds.items()])}"
    (out / "tasks.md").write_text(text, encoding="utf-8")
    print(text)
    return {"report": report, "refined": refined, "seconds": seconds}


@contextmanager
def timed(part: str, seconds: dict[str, float]) -> Iterator[None]:
    """Note and print how many seconds the body took."""
    begun = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - begun
    print(f"{part}: {seconds[part]:.0f} s", flush=True)


def scores(record: dict[str, Any], condition: str) -> dict[str, float]:
    """Return every task's score in percent."""
    return {row["task"]: row["score"] for row in record["results"][condition]["tasks"]}


def task_table(first: dict[str, Any], refined: dict[str, float]) -> list[dict[str, Any]]:
    """Return a row for each task on its test rows, and one for the means over tasks.

    A task whose adapter was good enough keeps it: "in the end" is the refined adapter's score where there is one.
    """
    stock, right = scores(first, "stock"), scores(first, "right")
    every = {"stock": stock, "adapter": right, "refined": refined, "in the end": {**right, **refined}}
    rows = [
        {
            "task": row["task"],
            "metric": row["metric"],
            "n": row["n"],
            **{name: f"{of[row['task']]:.0f}" if row["task"] in of else "" for name, of in every.items()},
        }
        for row in first["results"]["right"]["tasks"]
    ]
    means = {name: f"{sum(of.values()) / len(of):.1f}" if of else "" for name, of in every.items()}
    return [*rows, {"task": "mean", "metric": "", "n": sum(row["n"] for row in rows), **means}]


def split(tasks: int, rows: int) -> tuple[list[Task], list[Task]]:
    """Return the first tasks of the table with their training rows, and with their test rows."""
    every = read_tasks(TABLE)
    names = list(dict.fromkeys(task.name for task in every))[:tasks]
    short = [replace(task, instances=task.instances[:rows]) for task in every if task.name in names]
    return [task for task in short if task.split == "train"], [task for task in short if task.split == "test"]


def write_rows(path: Path, tasks: list[Task]) -> None:
    """Write tasks as JSON Lines."""
    import json

    def line(task: Task) -> dict[str, Any]:
        fields = ({"input": one.input, "outputs": one.outputs, "choices": one.choices} for one in task.instances)
        rows = [{key: value for key, value in one.items() if value} for one in fields]
        own = {"task": task.name, "instruction": task.instruction, "split": task.split, "metric": task.metric}
        return {**{key: value for key, value in own.items() if value}, "instances": rows}

    path.write_text("".join(json.dumps(line(task), ensure_ascii=False) + "\n" for task in tasks), encoding="utf-8")


def export_one(out: Path, generator: AdapterGenerator, task: Task, steps: int) -> None:
    """Train one adapter to work without its instruction, export it in three forms and load each without tagi."""
    examples = [Example(one.input, one.outputs[0]) for one in task.instances]
    adapter: TaskAdapter = generator.adapt(task.instruction).alone().refine(examples, Refinement(steps))
    (out / "base").mkdir()
    write_model(out / "base", generator.backbone.model, generator.backbone.tokenizer, generator.backbone.files)
    adapter.export(out / "peft", "peft")
    adapter.export(out / "merged", "merged")
    adapter.export(out / "gguf", "gguf")
    prompt = generator.text.tokenizer.decode(generator.input_encoder(alone=True)(examples[0].input))
    alone(PEFT, out / "base", out / "peft", prompt)
    alone(MERGED, out / "merged", prompt)
    alone(GGUF, out / "gguf" / "adapter.gguf")


def alone(script: str, *arguments: Path | str) -> None:
    """Run a script in a process of its own."""
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--generator", default="smollm2")
    for name, default in (("tasks", 20), ("rows", 9), ("steps", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    main(**vars(parser.parse_args()))
