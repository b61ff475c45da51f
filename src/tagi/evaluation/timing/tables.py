"""Tables of a timing: rows for the terminal, and Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from tagi.evaluation.timing.task_timing import ONCE
from tagi.evaluation.timing.timed_methods import ADAPTER, INSTRUCTION, KEYS_VALUES, MERGE

Row = dict[str, Any]
_ONCE = (INSTRUCTION, ADAPTER, KEYS_VALUES, MERGE)
_MIB = 2**20


def ratio_rows(timing: Mapping[str, Any]) -> list[Row]:
    """Return a row per comparison: time relative to Metatrain, measured and predicted from the phases."""
    return [
        {
            "method": f"{one['method']}, {one['instruction']}",
            "pairs": len(one["pairs"]) or "",
            "ratio": f"{one['ratio']:.3f}",
            "95%": "{:.3f} to {:.3f}".format(*one["interval"]),
            "predicted": f"{one['predicted']:.3f}",
            "off by": f"{100 * one['difference']:+.0f}%",
        }
        for one in timing["comparisons"]
    ]


def speed_rows(timing: Mapping[str, Any]) -> list[Row]:
    """Return a row per method, warm and cold: milliseconds per input, tokens per second, memory."""
    memory = {one["method"]: one for one in timing["memory"]}
    paired = [one for one in timing["comparisons"] if "speed" in one]
    shown = [("Metatrain", "", paired[0]["speed"]["reference"])]
    shown += [(one["method"], f", {one['instruction']}", one["speed"]["candidate"]) for one in paired]
    return [
        {
            "method": method + instruction,
            "ms/input": f"{1000 * speed['seconds_per_input']:.1f}",
            "read/s": f"{speed['read_tokens_per_second']:.0f}",
            "written/s": f"{speed['written_tokens_per_second']:.1f}",
            "held MiB": f"{memory[method]['held_bytes'] / _MIB:.0f}",
            # Percentages of a warm answer: a cold one also has the phases of the instruction.
            "peak MiB": "" if instruction == ", cold" else f"{memory[method]['peak_bytes'] / _MIB:.1f}",
        }
        for method, instruction, speed in shown
    ]


def phase_rows(timing: Mapping[str, Any]) -> list[Row]:
    """Return a row per phase: each method's milliseconds per batch, and the percentage of its warm answer."""
    phases: Mapping[str, Mapping[str, float]] = timing["phases"]
    methods = [name for name in phases if not name.endswith(ONCE)]
    rows = []
    for phase in dict.fromkeys([*phases[methods[0]], *_ONCE]):
        row: Row = {"phase": phase}
        for method in methods:
            warm = sum(phases[method].values())
            seconds = {**phases.get(f"{method}, {ONCE}", {}), **phases[method]}.get(phase)
            row[f"{method} ms"] = "" if seconds is None else f"{1000 * seconds:.1f} ({100 * seconds / warm:.0f}%)"
        rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of rows that have the same keys."""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([str(row[head]) for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
