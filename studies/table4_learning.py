"""What each point of Table 4's grid is worth: scores paired with the whole's, and when it learns, by seed, with a plot.

A point's difference from the whole is taken task by task and averaged over seeds; its 95% interval draws tasks. When it
learns is the step at which L_pred falls below half a nat.

    python studies/table4_learning.py OUT LEARNING

OUT is what `studies/table4.sh` wrote; writes LEARNING.json and LEARNING.png.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tagi.evaluation.scoring.statistics import bootstrap_interval

LEARNED = 0.5
"""Nats per target token; the points come from over 3 and end near 0.1."""
CONDITIONS = ("right", "paraphrase")
ORDER = (
    "the whole",
    "without pretraining",
    "without attention in the encoder",
    "without instruction fusion",
    "without L_pred",
    "without L_kl",
    "without L_ins",
    "L_ins weighed 30",
    "L_ins weighed 300",
)


def name_of(recipe: dict[str, Any]) -> str:
    """What a recipe does otherwise than the whole."""
    losses, fusion = recipe["losses"], recipe["generator"]["fusion"]
    if "pretrain" not in recipe["run"]["stages"]:
        return "without pretraining"
    if fusion != "both":
        return {"concatenation": "without attention in the encoder", "none": "without instruction fusion"}[fusion]
    for key, term in (("prediction", "L_pred"), ("kl", "L_kl"), ("ins", "L_ins")):
        if losses[key] == 0:
            return f"without {term}"
    return "the whole" if losses["ins"] == 1 else f"L_ins weighed {losses['ins']:g}"


def runs(out: Path) -> Iterator[tuple[str, int, list[dict[str, float]]]]:
    """Name, seed and losses of every finetuning run."""
    for path in sorted(out.glob("*/shared/finetune-*/record.json")):
        record = json.loads(path.read_text())
        history = [entry for entry in record["training"]["history"] if "prediction" in entry]
        yield name_of(record["recipe"]), record["recipe"]["seed"], history


def scores(out: Path) -> dict[str, dict[int, dict[str, dict[str, float]]]]:
    """By name and seed: accuracy of every test task under every condition, in percent."""
    found: dict[str, dict[int, dict[str, dict[str, float]]]] = {}
    for table in sorted(out.glob("*/sweep.json")):
        for point in json.loads(table.read_text())["points"]:
            shared = table.parent / "shared"
            trained = json.loads((shared / point["folders"]["finetune"] / "record.json").read_text())["recipe"]
            results = json.loads((shared / point["folders"]["evaluate"] / "record.json").read_text())["results"]
            by_task = {
                condition: {task: own["accuracy"] for task, own in result["per_task"].items()}
                for condition, result in results.items()
            }
            found.setdefault(name_of(trained), {})[trained["seed"]] = by_task
    return found


def difference(own: dict[int, dict[str, float]], whole: dict[int, dict[str, float]]) -> dict[str, Any]:
    """Of the seeds that both have."""
    seeds = sorted(own.keys() & whole.keys())
    tasks = sorted(whole[seeds[0]])
    gaps = [[own[seed][task] - whole[seed][task] for task in tasks] for seed in seeds]
    means = [sum(column) / len(seeds) for column in zip(*gaps, strict=True)]
    low, high = bootstrap_interval(means, seed=0)
    by_seed = {str(seed): sum(gap) / len(gap) for seed, gap in zip(seeds, gaps, strict=True)}
    return {"mean": sum(means) / len(means), "interval": [low, high], "by_seed": by_seed}


def learned_at(history: list[dict[str, float]]) -> int | None:
    """The first logged step below `LEARNED`; None if there is none."""
    return next((int(entry["step"]) for entry in history if entry["prediction"] < LEARNED), None)


def draw(curves: dict[str, dict[int, list[dict[str, float]]]], path: Path) -> None:
    """A panel for each point, a line for each seed."""
    names = [name for name in ORDER if name in curves]
    figure, panels = plt.subplots(3, 3, figsize=(9, 6.5), sharex=True, sharey=True, layout="constrained")
    for name, panel in zip(names, panels.flat, strict=False):
        for (seed, history), style in zip(sorted(curves[name].items()), ("-", "--", ":"), strict=False):
            steps, losses = zip(*((entry["step"], entry["prediction"]) for entry in history), strict=True)
            panel.plot(steps, losses, style, color="#0072b2", label=f"seed {seed}")
        panel.axhline(LEARNED, color="#999999", linewidth=0.8)
        panel.set_title(name, fontsize=9)
        panel.set_yscale("log")
    panels[0, 0].legend(fontsize=8)
    figure.supxlabel("step of finetuning")
    figure.supylabel("$L_{pred}$, nats a token")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(out: Path, to: Path) -> None:
    curves: dict[str, dict[int, list[dict[str, float]]]] = {}
    for name, seed, history in runs(out):
        curves.setdefault(name, {})[seed] = history
    found = scores(out)
    table = {
        name: {
            "accuracy": {
                condition: {
                    str(seed): sum(of[condition].values()) / len(of[condition]) for seed, of in found[name].items()
                }
                for condition in CONDITIONS
            },
            "minus_whole": {
                condition: difference(
                    *({seed: of[condition] for seed, of in found[one].items()} for one in (name, ORDER[0]))
                )
                for condition in CONDITIONS
            },
            "learned_at": {str(seed): learned_at(history) for seed, history in sorted(own.items())},
            "last": {
                str(seed): {term: history[-1].get(term) for term in ("prediction", "kl", "ins")}
                for seed, history in sorted(own.items())
            },
        }
        for name, own in sorted(curves.items(), key=lambda item: ORDER.index(item[0]))
    }
    to.with_suffix(".json").write_text(json.dumps(table, indent=1) + "\n")
    draw(curves, to.with_suffix(".png"))
    for name, own in table.items():
        gap = own["minus_whole"]["right"]
        low, high = gap["interval"]
        accuracy = ", ".join(f"{value:.1f}" for value in own["accuracy"]["right"].values())
        steps = ", ".join(str(step) for step in own["learned_at"].values())
        print(f"{name:34s} {accuracy:20s} {gap['mean']:+6.1f} ({low:+.1f} to {high:+.1f})   learned at {steps}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
