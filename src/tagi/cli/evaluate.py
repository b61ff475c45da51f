"""`tagi evaluate`: a checkpoint's scores on tasks it has not seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tagi.cli.output import JsonFlag, Overrides, print_json, print_table

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A run's folder, a checkpoint, or a built-in name.")
]
RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Names the test tasks: a shipped recipe or a TOML file.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="A new folder for record.json, predictions and the picture."),
]
Conditions = Annotated[
    bool, typer.Option("--conditions", help="Also score paraphrases, other tasks' instructions and none.")
]
Channels = Annotated[bool, typer.Option("--channels", help="Also score LoRA and instruction states crossed and alone.")]
Sensitivity = Annotated[
    bool,
    typer.Option(
        "--sensitivity",
        help="Also score wrong, shuffled, random and empty instructions and the mean adapter, and compare the tasks' "
        "adapters with each other.",
    ),
]
Condition = Annotated[
    list[str] | None,
    typer.Option("--condition", metavar="NAME", help="Also score this one of all of these; may be repeated."),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--tasks", metavar="NAME", help="Only test tasks of this name or pattern; may be repeated."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Instances of each task.")]
Wording = Annotated[
    str | None,
    typer.Option("--wording", metavar="NAME", help="Replace the test tasks' instructions by their wording NAME."),
]
Positives = Annotated[
    int | None,
    typer.Option(
        "--positives",
        min=0,
        max=8,
        help="Examples that each test task shows at most. Default: 0 for a recipe with data.demonstrations, otherwise "
        "as many as the checkpoint takes.",
    ),
]
HeldOut = Annotated[
    bool,
    typer.Option("--held-out", help="Score the training tasks that the recipe holds out, instead of the test tasks."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the evaluation in DIR where it was interrupted.")]


def evaluate(
    checkpoint: Checkpoint,
    recipe: RecipeName,
    out: Out = None,
    overrides: Overrides = None,
    conditions: Conditions = False,
    channels: Channels = False,
    sensitivity: Sensitivity = False,
    condition: Condition = None,
    tasks: Tasks = None,
    limit: Limit = None,
    wording: Wording = None,
    positives: Positives = None,
    held_out: HeldOut = False,
    resume: Resume = False,
    as_json: JsonFlag = False,
) -> None:
    """Score a checkpoint on a recipe's test tasks.

    DIR/predictions-*.jsonl hold an answer a line, in the form that natural-instructions' own evaluation reads, both as
    its predictions and as its references. They grow by the task; an interrupted evaluation goes on with --resume.
    With --sensitivity, DIR/adapters.png shows the distances between the tasks' adapters.

    \b
    Examples:
      tagi evaluate toy toy --conditions --channels
      tagi evaluate toy toy --sensitivity --limit 10 --out toy-sensitivity
      tagi evaluate smollm2 everyday --condition "LoRA alone" --out everyday
      tagi evaluate runs/sni sni-small --set data.path=natural-instructions --limit 20 --out scores
      tagi evaluate smollm2 smollm2 --set data.path=natural-instructions --condition "LoRA alone" --limit 2
      tagi evaluate runs/p3 p3-small --set data.test_path=p3/eval --set data.templates=p3/templates --limit 50
      tagi evaluate runs/sni sni-small --set data.path=natural-instructions --tasks 'task1*' --out scores-1
      tagi evaluate runs/sni sni-small --set data.path=natural-instructions --wording terse --positives 0
      tagi evaluate runs/smollm2 smollm2 --set data.path=natural-instructions --held-out --condition "LoRA alone"
    """
    from tagi.cli.quiet import quiet
    from tagi.errors import InputError
    from tagi.stages.recipes import load_recipe

    if out is not None and out.is_file():
        raise InputError(f"--out: expected a new folder, got {out}, which is a file")
    if resume and out is None:
        raise InputError("--resume: expected --out DIR, the folder to go on in, got none")
    loaded = load_recipe(recipe, overrides or [])
    quiet()
    from tagi.evaluation.conditions import CHANNELS, INSTRUCTIONS, SENSITIVITY, in_order
    from tagi.stages.evaluate import Asked
    from tagi.stages.evaluate import evaluate as run

    wanted = [
        *(INSTRUCTIONS if conditions else INSTRUCTIONS[:1]),
        *(SENSITIVITY if sensitivity else ()),
        *(CHANNELS if channels else ()),
        *(condition or ()),
    ]
    asked = Asked(
        in_order(wanted),
        tuple(tasks or ()),
        limit,
        distances=sensitivity,
        wording=wording,
        positives=positives,
        held_out=held_out,
    )
    record = run(checkpoint, loaded, asked=asked, out=out, resume=resume)
    if as_json:
        print_json(record)
        return
    data = record["data"]
    kind = " held out of training" if record.get("held_out") else ""
    typer.echo(f"{data['tasks']} tasks{kind}, {data['instances']} instances{_told(data)}")
    if "best_constant" in record:
        from tagi.cli.task_tables import print_task_scores

        print_task_scores(record)
        _print_notes(record)
        return
    if len(record["results"]["right"]["per_category"]) > 1:
        from tagi.evaluation.scoring.summary import category_rows

        print_table(category_rows(record["results"]["right"]), as_json=False)
    alone = len(record["results"]) == 1
    print_table(condition_rows(record) if alone else paired_rows(record), as_json=False)
    _print_notes(record)


def _print_notes(record: dict[str, Any]) -> None:
    """Print what stands under the table of conditions."""
    lines = [] if len(record["results"]) == 1 else given_lines(record)
    if record["not_scored"]:
        typer.echo(f"not scored, as tasks or method have nothing for it: {'; '.join(record['not_scored'])}")
    for line in [*lines, *_rank_lines(record["results"]["right"]), *adapter_lines(record)]:
        typer.echo(line)


def _told(data: dict[str, Any]) -> str:
    """The wording and the number of examples of the test tasks, where they are not as the recipe has them."""
    wording = f", wording {data['wording']!r}" if "wording" in data else ""
    return wording + (f", at most {data['positives']} examples each" if "positives" in data else "")


def _rank_lines(result: dict[str, Any]) -> list[str]:
    """Of rank classification: how choices were scored, ties, and the averages of P3's evaluation sets."""
    if "choice_score" not in result:
        return []
    averages = [
        f"{name}: {average['value']:.1f} ({average['interval'][0]:.1f} to {average['interval'][1]:.1f})"
        if average["value"] is not None
        else f"{name}: not given, missing {', '.join(average['missing'])}"
        for name, average in result.get("averages", {}).items()
    ]
    return [f"choices by the {result['choice_score']} of their log-probabilities, {result['ties']} ties", *averages]


def condition_rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per condition: what was given, the score in percent with its interval, and how many answers."""
    return [
        {"condition": name, "given": result["given"], **_score(result), "n": result["n"]}
        for name, result in record["results"].items()
    ]


def paired_rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per condition: its score, and the mean difference from `right` on the same instances, with intervals."""
    rows = []
    for name, result in record["results"].items():
        difference = result.get("minus_right")
        rows.append(
            {
                "condition": name,
                **_score(result),
                "minus right": "" if difference is None else f"{difference['mean']:+.1f}",
                "95% of it": "" if difference is None else _interval(difference["interval"]),
            }
        )
    return rows


def given_lines(record: dict[str, Any]) -> list[str]:
    """What each condition gave in the instruction's place, and for how many of the tasks if not for all."""
    width = max(len(name) for name in record["results"])
    lines = []
    for name, result in record["results"].items():
        left_out = len(result.get("left_out", ()))
        tasks = record["data"]["tasks"]
        some = f" ({tasks - left_out} of {tasks} tasks have one)" if left_out else ""
        lines.append(f"{name:{width}}  {result['given']}{some}")
    return [*lines, ""]


def adapter_lines(record: dict[str, Any]) -> list[str]:
    """What is said of the distances between adapters, if they were asked for."""
    adapters = record.get("adapters")
    if adapters is None:
        return []
    lines = [f"variance of the adapters' updates over their mean square: {record['delta_variance']:.2f}"]
    apart = adapters["categories_apart"]
    if apart is not None:
        low, high = apart["chance"]
        lines += [
            f"mean distance of two tasks' updates: {apart['within']:.2f} in the same category, "
            f"{apart['between']:.2f} in different ones",
            f"a pair of the same category is the closer one {100 * apart['auc']:.1f}% of the time "
            f"(by chance {100 * low:.1f} to {100 * high:.1f}; p = {apart['p']:.4f})",
        ]
    return lines


def _score(result: dict[str, Any]) -> dict[str, str]:
    return {result["metric"]: f"{result['overall'][result['metric']]:.1f}", "95%": _interval(result["interval"])}


def _interval(bounds: Sequence[float]) -> str:
    low, high = bounds
    return f"{low:.1f} to {high:.1f}"
