"""The meta-trained model against TAGI on one task, at one batch size: everything there is to time."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tagi.data.task import Task
from tagi.evaluation.scoring.answers import by_length
from tagi.evaluation.timing.memory import peak_bytes
from tagi.evaluation.timing.stopwatch import (
    Pair,
    Phases,
    Stopwatch,
    median_ratio,
    predicted_ratio,
    time_pairs,
    time_phases,
    whole_task_ratio,
)
from tagi.evaluation.timing.timed_methods import Adapted, AdaptedMerged, AdaptedRows, Contender, Inputs, Metatrained
from tagi.methods.concatenation import Concatenation
from tagi.methods.tagi import TAGI

Say = Callable[[str], None]
ONCE = "once"
"""Added to a contender's name: what it does of a cold instruction."""


@dataclass(frozen=True)
class Contest:
    """The two methods, the task with the inputs to answer, and how many tokens every answer has."""

    metatrained: Concatenation
    tagi: TAGI
    task: Task
    output: int

    def run(self, watch: Stopwatch, *, batch_size: int, pairs: int, say: Say) -> dict[str, Any]:
        """Time TAGI, with LoRA merged and per row, warm and cold, in pairs with the meta-trained model.

        Phases are timed apart, on as many batches as `pairs`, and give every comparison's predicted ratio. Batches go
        by length of the input, so that little is padding.
        """
        reference = Metatrained(self.metatrained, self.task, self.output)
        adapted = (
            AdaptedMerged(self.tagi, self.task, self.output),
            AdaptedRows(self.tagi, self.task, self.output),
        )
        texts = [instance.input for instance in self.task.instances]
        batches = [[texts[at] for at in chosen] for chosen in by_length(texts, batch_size)]
        largest = max(reversed(batches), key=len)
        contenders: tuple[Contender, ...] = (reference, *adapted)
        say("phases")
        chains = {one.name: one.chain() for one in contenders}
        phases = time_phases(
            watch, chains | {f"{one.name}, {ONCE}": one.once() for one in adapted}, batches, rounds=pairs
        )
        comparisons = []
        for one in adapted:
            say(one.name)
            comparisons += _comparisons(watch, reference, one, batches, phases, pairs)
        say("memory")
        return {
            "task": self.task.name,
            "category": self.task.category,
            "batch_size": batch_size,
            "batches": [len(batch) for batch in batches],
            "inputs": len(texts),
            "output_tokens": {one.name: one.answer_tokens(largest) for one in contenders},
            "read_tokens": {one.name: _read(one, batches) / len(texts) for one in contenders},
            "comparisons": comparisons,
            "phases": phases,
            "memory": [_memory(one, largest) for one in contenders],
        }


def _comparisons(
    watch: Stopwatch,
    reference: Contender,
    one: Adapted,
    batches: Sequence[Inputs],
    phases: dict[str, Phases],
    pairs: int,
) -> list[dict[str, Any]]:
    """Warm, cold, and the whole task: its instruction cold once, then all its inputs."""
    rows = [len(batch) for batch in batches]
    given, own, once = (phases[name] for name in (reference.name, one.name, f"{one.name}, {ONCE}"))
    found = []
    for instruction, step in (("warm", one.answer), ("cold", one.cold)):
        timed = time_pairs(watch, reference.answer, step, batches, pairs=pairs)
        ratio, interval = median_ratio(timed)
        predicted = predicted_ratio(given, own, once if instruction == "cold" else None)
        head = {"method": one.name, "instruction": instruction}
        found.append(
            {
                **_compared(head, timed, ratio, interval, predicted),
                **_speeds(reference, one, batches, timed, instruction),
            }
        )
    warm = [Pair(**pair) for pair in found[0]["pairs"]]
    inputs, once_seconds = sum(rows), sum(once.values())
    ratio, interval = whole_task_ratio(warm, rows, once=once_seconds, inputs=inputs)
    head = {"method": one.name, "instruction": "whole task"}
    share = {phase: seconds * max(rows) / inputs for phase, seconds in once.items()}  # of one batch
    found.append(_compared(head, [], ratio, interval, predicted_ratio(given, own, share)))
    return found


def _compared(
    head: dict[str, str], pairs: Sequence[Pair], ratio: float, interval: tuple[float, float], predicted: float
) -> dict[str, Any]:
    return {
        **head,
        "ratio": ratio,
        "interval": list(interval),
        "predicted": predicted,
        "difference": predicted / ratio - 1,
        "pairs": [asdict(pair) for pair in pairs],
    }


def _speeds(
    reference: Contender, one: Adapted, batches: Sequence[Inputs], pairs: Sequence[Pair], instruction: str
) -> dict[str, Any]:
    """Medians over the pairs: seconds an input, and tokens a second, each method's own reading counted."""
    extra = len(one.instruction()) if instruction == "cold" else 0
    speeds: dict[str, Any] = {}
    for side, method, more in (("reference", reference, 0), ("candidate", one, extra)):
        read = [sum(map(len, method.sequences(batch))) + more for batch in batches]
        seconds = [getattr(pair, side) for pair in pairs]
        rows = [len(batches[pair.batch]) for pair in pairs]
        speeds[side] = {
            "seconds_per_input": median(time / count for time, count in zip(seconds, rows, strict=True)),
            "read_tokens_per_second": median(
                read[pair.batch] / time for pair, time in zip(pairs, seconds, strict=True)
            ),
            "written_tokens_per_second": median(
                method.output * count / time for time, count in zip(seconds, rows, strict=True)
            ),
        }
    return {"speed": speeds}


def _read(one: Contender, batches: Sequence[Inputs]) -> int:
    return sum(len(sequence) for batch in batches for sequence in one.sequences(batch))


def _memory(one: Contender, batch: Inputs) -> dict[str, Any]:
    peak, measure = peak_bytes(lambda: one.answer(batch), one.device)
    return {"method": one.name, "held_bytes": one.held(), "peak_bytes": peak, "measure": measure}
