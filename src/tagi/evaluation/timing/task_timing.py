"""Timing of TAGI relative to the meta-trained model on one task, and of any method relative to another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

from tagi.data.task import Instance, Task
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
from tagi.evaluation.timing.timed_methods import Inputs, TimedMetatrained, TimedMethod, TimedTAGI, answers_of
from tagi.methods.concatenation import Concatenation
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI

Say = Callable[[str], None]
ONCE = "once"
"""Added to the name of a timed method: its phases of a cold instruction."""


def time_ratio(
    watch: Stopwatch, method: Method, reference: Method, task: Task, *, batch_size: int, output: int, pairs: int
) -> dict[str, Any]:
    """Time a method relative to a reference on one task's inputs, without what is computed once per task.

    All answers have `output` tokens. Returns the median ratio of at least `pairs` pairs, with its 95% interval.
    """
    steps = [partial(answers_of, one, one.prepare([task], truncate=True), output=output) for one in (reference, method)]
    timed = time_pairs(watch, steps[0], steps[1], _batches(task, batch_size), pairs=pairs)
    ratio, interval = median_ratio(timed)
    counts = {"pairs": len(timed), "batch_size": batch_size, "task": task.name}
    return {"ratio": ratio, "interval": list(interval), **counts}


@dataclass(frozen=True)
class TaskTiming:
    """A timing: the two methods, the task with its inputs, and the number of tokens per answer."""

    metatrained: Concatenation
    tagi: TAGI
    task: Task
    output: int

    def run(self, watch: Stopwatch, *, batch_size: int, pairs: int, say: Say) -> dict[str, Any]:
        """Time TAGI, with LoRA merged and per row, warm and cold, in pairs with the meta-trained model.

        Phases are timed separately, on `pairs` batches, and give the predicted ratio of every comparison. `say` gets a
        description of what is timed next.
        """
        reference = TimedMetatrained(self.metatrained, self.task, self.output)
        candidates = [TimedTAGI(self.tagi, self.task, self.output, merged=merged) for merged in (True, False)]
        batches = _batches(self.task, batch_size)
        largest = max(reversed(batches), key=len)
        methods: list[TimedMethod] = [reference, *candidates]
        say("phases")
        chains = {one.name: one.chain() for one in methods}
        chains |= {f"{one.name}, {ONCE}": one.once() for one in candidates}
        phases = time_phases(watch, chains, batches, rounds=pairs)
        comparisons = []
        for one in candidates:
            say(one.name)
            comparisons += _comparisons(watch, reference, one, batches, phases, pairs)
        say("memory")
        inputs = len(self.task.instances)
        return {
            "task": self.task.name,
            "category": self.task.category,
            "batch_size": batch_size,
            "batches": [len(batch) for batch in batches],
            "inputs": inputs,
            "output_tokens": {one.name: one.answer_tokens(largest) for one in methods},
            "read_tokens": {one.name: sum(_read(one, batch) for batch in batches) / inputs for one in methods},
            "comparisons": comparisons,
            "phases": phases,
            "memory": [_memory(one, largest) for one in methods],
        }


def _batches(task: Task, batch_size: int) -> list[list[Instance]]:
    """Return the task's inputs in batches of similar length, which avoids padding."""
    texts = [instance.input for instance in task.instances]
    return [[task.instances[at] for at in chosen] for chosen in by_length(texts, batch_size)]


def _comparisons(
    watch: Stopwatch,
    reference: TimedMethod,
    one: TimedTAGI,
    batches: Sequence[Inputs],
    phases: Mapping[str, Phases],
    pairs: int,
) -> list[dict[str, Any]]:
    """Return the comparisons: warm, cold, and the whole task (a cold instruction once, then all inputs)."""
    rows = [len(batch) for batch in batches]
    inputs, once = sum(rows), phases[f"{one.name}, {ONCE}"]
    warm, cold = (time_pairs(watch, reference.answer, step, batches, pairs=pairs) for step in (one.answer, one.cold))
    whole = whole_task_ratio(warm, rows, once=sum(once.values()), inputs=inputs)
    share = {phase: seconds * max(rows) / inputs for phase, seconds in once.items()}  # of one batch
    measured: list[tuple[str, list[Pair], tuple[float, tuple[float, float]], Phases]] = [
        ("warm", warm, median_ratio(warm), {}),
        ("cold", cold, median_ratio(cold), once),
        ("whole task", [], whole, share),
    ]
    found = []
    for instruction, timed, (ratio, interval), added in measured:
        predicted = predicted_ratio(phases[reference.name], phases[one.name], added)
        comparison = {
            "method": one.name,
            "instruction": instruction,
            "ratio": ratio,
            "interval": list(interval),
            "predicted": predicted,
            "difference": predicted / ratio - 1,
            "pairs": [asdict(pair) for pair in timed],
        }
        if timed:
            extra = len(one.instruction()) if timed is cold else 0
            comparison["speed"] = {
                "reference": _speed(reference, batches, [(pair.batch, pair.reference) for pair in timed], 0),
                "candidate": _speed(one, batches, [(pair.batch, pair.candidate) for pair in timed], extra),
            }
        found.append(comparison)
    return found


def _speed(
    one: TimedMethod, batches: Sequence[Inputs], timed: Sequence[tuple[int, float]], extra: int
) -> dict[str, float]:
    """Return medians over batches: seconds per input, tokens written and read per second (`extra` more per batch)."""
    read = [_read(one, batch) + extra for batch in batches]
    return {
        "seconds_per_input": median(seconds / len(batches[at]) for at, seconds in timed),
        "read_tokens_per_second": median(read[at] / seconds for at, seconds in timed),
        "written_tokens_per_second": median(one.output * len(batches[at]) / seconds for at, seconds in timed),
    }


def _read(one: TimedMethod, batch: Inputs) -> int:
    return sum(map(len, one.sequences(batch)))


def _memory(one: TimedMethod, batch: Inputs) -> dict[str, Any]:
    peak, measure = peak_bytes(lambda: one.answer(batch), one.device)
    return {"method": one.name, "held_bytes": one.held(), "peak_bytes": peak, "measure": measure}
