"""Tables and notes of an evaluation's record."""

from collections.abc import Mapping
from typing import Any

import typer

from tagi.cli.output import interval_text, print_table
from tagi.data.task import HEADLINES

Record = Mapping[str, Any]
Rows = list[dict[str, Any]]
_ANSWER = 48
_TASKS = 60
"""Evaluations of more tasks are shown by category."""


def print_evaluation(record: Record) -> None:
    """Print scores by category or task and by condition, and what belongs to them."""
    data, results = record["data"], record["results"]
    kind = " held out of training" if record.get("held_out") else ""
    wording = f", wording {data['wording']!r}" if "wording" in data else ""
    shown = f", at most {data['positives']} examples each" if "positives" in data else ""
    typer.echo(f"{data['tasks']} tasks{kind}, {data['instances']} instances{wording}{shown}")
    if trained_on := data.get("trained_on"):
        typer.echo(f"TESTED ON TRAINING DATA: {trained_on['instances']} of these instances were trained on")
    if len(results["right"].get("tasks", ())) in range(1, _TASKS + 1):
        print_table(task_rows(record))
    if "best_constant" in record:
        print_table(task_metric_rows(record))
    else:
        if len(results["right"]["per_category"]) > 1:
            print_table(category_rows(results["right"]))
        print_table(condition_rows(record) if len(results) == 1 else paired_rows(record))
    if record["not_scored"]:
        typer.echo(f"not scored, as tasks or method have nothing for it: {'; '.join(record['not_scored'])}")
    given = [] if len(results) == 1 else given_lines(record)
    for line in [*given, *unread_lines(results["right"]), *rank_lines(results["right"]), *adapter_lines(record)]:
        typer.echo(line)


def category_rows(summary: Record) -> Rows:
    """Return one row per category and one for all."""
    named = [*sorted(summary["per_category"].items()), ("all", summary["overall"])]
    return [{"category": name, **{key: round(value, 1) for key, value in scores.items()}} for name, scores in named]


def condition_rows(record: Record) -> Rows:
    """Return one row per condition: what was given, the score in percent with its interval, and how many answers."""
    results = record["results"].items()
    return [{"condition": name, "given": one["given"], **_score(one), "n": one["n"]} for name, one in results]


def paired_rows(record: Record) -> Rows:
    """Return one row per condition: its score, and the mean difference from `right` on the same instances."""
    results = record["results"].items()
    return [{"condition": name, **_score(one), **_difference(one, "minus right")} for name, one in results]


def task_rows(record: Record) -> Rows:
    """Return one row per task with its own instruction: its score beside others of the same task, and a sample.

    The others are the stock model's, if it was asked, the best constant answer's and the unchanged input's.
    """
    free = {
        "stock": record["results"].get("stock"),
        "constant": record.get("best_constant"),
        "unchanged": record.get("unchanged_input"),
    }
    scores = {name: {row["task"]: row["score"] for row in of["tasks"]} for name, of in free.items() if of}
    return [
        {
            "task": row["task"],
            "metric": row["metric"],
            "n": row["n"],
            "score": round(row["score"], 1),
            **{name: round(of[row["task"]], 1) for name, of in scores.items()},
            "sample answer": _short(row["sample"]["answer"]),
        }
        for row in record["results"]["right"]["tasks"]
    ]


def task_metric_rows(record: Record) -> Rows:
    """Return one row per condition and one for each baseline: every score, and over how many tasks it is a mean.

    `right` has its 95% interval. With several conditions there is also the mean difference from the condition of the
    task's own instruction, with its 95% interval: over the tasks scored by the headline score.
    """
    results, rows = record["results"], []
    free = {"best constant answer": record["best_constant"], "unchanged input": record.get("unchanged_input")}
    rouges = [name for name in HEADLINES if name != "right" and name in record["best_constant"]["overall"]]
    for name, result in {**results, **{name: one for name, one in free.items() if one}}.items():
        right, right_tasks = _mean(result, "right")
        interval = interval_text(result["intervals"]["right"]) if right else ""
        difference = _difference(result, "minus own instruction") if len(results) > 1 else {}
        row = {"condition": name, HEADLINES["right"]: right, "95%": interval, "tasks": right_tasks, **difference}
        for number, rouge in enumerate(rouges):
            row[HEADLINES[rouge]], row["its tasks" + " " * number] = _mean(result, rouge)
        rows.append(row)
    return rows


def given_lines(record: Record) -> list[str]:
    """Return what each condition gave in place of the instruction, and for how many tasks if not for all."""
    width = max(map(len, record["results"]))
    lines = []
    for name, result in record["results"].items():
        left_out, tasks = len(result.get("left_out", ())), record["data"]["tasks"]
        some = f" ({tasks - left_out} of {tasks} tasks have one)" if left_out else ""
        lines.append(f"{name:{width}}  {result['given']}{some}")
    return [*lines, ""]


def unread_lines(result: Record) -> list[str]:
    """Return how many references ROUGE cannot read, if any."""
    if "unread" not in result:
        return []
    unread = result["unread"]
    return [
        f"ROUGE reads only the letters a to z and digits: it reads no reference of {unread['instances']} instances, "
        f"such as {unread['id']} of task {unread['task']}; --set evaluation.metric=task reads every script"
    ]


def rank_lines(result: Record) -> list[str]:
    """Return how choices were ranked, ties, and the averages of P3's evaluation sets."""
    if "choice_score" not in result:
        return []
    averages = [
        f"{name}: not given, missing {', '.join(average['missing'])}"
        if average["value"] is None
        else f"{name}: {average['value']:.1f} ({interval_text(average['interval'])})"
        for name, average in result.get("averages", {}).items()
    ]
    return [f"choices by the {result['choice_score']} of their log-probabilities, {result['ties']} ties", *averages]


def adapter_lines(record: Record) -> list[str]:
    """Return what the distances between adapters show, if they were asked for."""
    adapters = record.get("adapters")
    if adapters is None:
        return []
    lines = [f"variance of the adapters' updates over their mean square: {record['delta_variance']:.2f}"]
    apart = adapters["categories_apart"]
    if apart is not None:
        chance = interval_text([100 * bound for bound in apart["chance"]])
        lines += [
            f"mean distance of two tasks' updates: {apart['within']:.2f} in the same category, "
            f"{apart['between']:.2f} in different ones",
            f"a pair of the same category is the closer one {100 * apart['auc']:.1f}% of the time "
            f"(by chance {chance}; p = {apart['p']:.4f})",
        ]
    return lines


def _score(result: Record) -> dict[str, str]:
    return {result["metric"]: f"{result['overall'][result['metric']]:.1f}", "95%": interval_text(result["interval"])}


def _difference(result: Record, head: str) -> dict[str, str]:
    difference = result.get("minus_right")
    if difference is None:
        return {head: "", "95% of it": ""}
    return {head: f"{difference['mean']:+.1f}", "95% of it": interval_text(difference["interval"])}


def _mean(result: Record, name: str) -> tuple[str, str]:
    """A mean in percent and its number of tasks; empty where no task is scored so."""
    if name not in result["overall"]:
        return "", ""
    return f"{result['overall'][name]:.1f}", str(result["counts"][name]["tasks"])


def _short(text: str) -> str:
    """An answer on one line."""
    words = " ".join(text.split())
    return words if len(words) <= _ANSWER else f"{words[: _ANSWER - 3]}..."
