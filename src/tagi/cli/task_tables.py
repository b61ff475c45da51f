"""Tables of an evaluation by tasks' own metrics."""

from collections.abc import Mapping
from typing import Any

from tagi.cli.output import print_table

_ANSWER = 48


def print_task_scores(record: Mapping[str, Any]) -> None:
    """Print a row for each task, then one for each condition and one for the best constant answer."""
    print_table(task_rows(record), as_json=False)
    print_table(score_rows(record), as_json=False)


def task_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per task with its own instruction: metric, answers, score, the best constant answer's, a sample."""
    constant = {row["task"]: row["score"] for row in record["best_constant"]["tasks"]}
    return [
        {
            "task": row["task"],
            "metric": row["metric"],
            "n": row["n"],
            "score": round(row["score"], 1),
            "constant": round(constant[row["task"]], 1),
            "sample answer": _short(row["sample"]["answer"]),
        }
        for row in record["results"]["right"]["tasks"]
    ]


def score_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per condition and one for the best constant answer: `right` and ROUGE-L in percent, over how many tasks.

    `right` has its 95% interval. With several conditions there is also the mean difference from the condition of the
    task's own instruction, with its 95% interval: over the tasks scored by the headline score.
    """
    results = record["results"]
    scored = {**results, "best constant answer": record["best_constant"]}
    rows = []
    for name, result in scored.items():
        shown = "right" in result["overall"]
        row = {
            "condition": name,
            "right": _mean(result, "right"),
            "95%": _interval(result["intervals"]["right"]) if shown else "",
            "tasks": _tasks(result, "right"),
        }
        if len(results) > 1:
            difference = result.get("minus_right")
            row |= {
                "minus own instruction": "" if difference is None else f"{difference['mean']:+.1f}",
                "95% of it": "" if difference is None else _interval(difference["interval"]),
            }
        rows.append({**row, "ROUGE-L": _mean(result, "rouge_l"), "its tasks": _tasks(result, "rouge_l")})
    return rows


def _mean(result: Mapping[str, Any], name: str) -> str:
    """A mean in percent; empty where no task is scored so."""
    return f"{result['overall'][name]:.1f}" if name in result["overall"] else ""


def _tasks(result: Mapping[str, Any], name: str) -> str:
    return str(result["counts"][name]["tasks"]) if name in result["overall"] else ""


def _interval(bounds: list[float]) -> str:
    low, high = bounds
    return f"{low:.1f} to {high:.1f}"


def _short(text: str) -> str:
    """An answer on one line."""
    words = " ".join(text.split())
    return words if len(words) <= _ANSWER else f"{words[: _ANSWER - 3]}..."
