"""Which records may stand in one table: of one version, of the same test data, scored in the same way, each once."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from tagi.evaluation.reports.records import LeftOut, Record
from tagi.evaluation.reports.settings import Setting, seed_of, setting_of

_IN_WORDS = ("max_new_tokens", "num_beams")
"""Keys of `[evaluation]` that decide the score of answers in words."""
_RANKED = "choice_score"
"""In a result, what ranked choices are ranked by."""


def choose(records: Sequence[Record]) -> tuple[list[Record], list[LeftOut]]:
    """The records that can be compared with one another, and the others, each with what most have instead.

    In this order: all are of the version that most are of; evaluations of a data set are of the test data that most are
    of, and scored as most are. Of as many on both sides, the newest record's side stays. Then no run counts twice.
    """
    left_out: list[LeftOut] = []
    records = _readable(records, left_out)
    kept = _majority(records, lambda one: one.content["environment"]["tagi"], "another version", "tagi {}", left_out)
    trained = [one for one in kept if one.kind == "training"]
    by_data: dict[str, list[Record]] = {}
    for one in kept:
        if one.kind == "evaluation":
            by_data.setdefault(one.data_set, []).append(one)
    evaluated: list[Record] = []
    for own in by_data.values():
        alike = _majority(own, lambda one: one.content["data"]["digest"], "other test data", "{}", left_out)
        alike = _majority(alike, _metrics, "another metric", "{}", left_out)
        evaluated += _majority(alike, _how, "other evaluation settings", "{}", left_out)
    once = _once(evaluated, left_out)
    kept_ids = {id(one) for one in (*trained, *once)}
    return [one for one in records if id(one) in kept_ids], left_out


def _readable(records: Sequence[Record], left_out: list[LeftOut]) -> list[Record]:
    """Those whose setting can be read: a recipe that was edited may hold anything."""
    readable = []
    for one in records:
        try:
            setting, _ = setting_of(one), seed_of(one)
            _ = one.data_set, setting.positives, setting.size, setting.family
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            left_out.append(LeftOut("broken", one.path, f"recipe: cannot be read ({type(error).__name__}: {error})"))
        else:
            readable.append(one)
    return readable


def _majority(
    records: Sequence[Record],
    of: Callable[[Record], Hashable],
    reason: str,
    form: str,
    left_out: list[LeftOut],
) -> list[Record]:
    counts = Counter(of(one) for one in records)
    if len(counts) < 2:
        return list(records)
    newest = {value: max(one.written for one in records if of(one) == value) for value in counts}
    chosen = max(counts, key=lambda value: (counts[value], newest[value]))
    for one in records:
        if of(one) != chosen:
            most = f"where {counts[chosen]} of {len(records)} have {form.format(chosen)}"
            left_out.append(LeftOut(reason, one.path, f"{form.format(of(one))}, {most}"))
    return [one for one in records if of(one) == chosen]


def _metrics(one: Record) -> str:
    return ", ".join(sorted({result["metric"] for result in one.content["results"].values()}))


def _how(one: Record) -> str:
    ranked = sorted({str(found[_RANKED]) for found in one.content["results"].values() if _RANKED in found})
    if ranked:
        return f"{_RANKED} = {', '.join(ranked)}"
    settings: dict[str, Any] = one.content["recipe"]["evaluation"]
    return ", ".join(f"{key} = {settings.get(key)}" for key in _IN_WORDS)


def _once(records: Iterable[Record], left_out: list[LeftOut]) -> list[Record]:
    """Of runs of one setting and seed that with the most conditions, of those the newest."""
    chosen: dict[tuple[str, Setting, int | None], Record] = {}
    for one in sorted(records, key=lambda one: (-len(one.content["results"]), -one.written, one.path)):
        key = one.data_set, setting_of(one), seed_of(one)
        first = chosen.setdefault(key, one)
        if first is not one:
            same = first.content["revision"] == one.content["revision"]
            what = "the same checkpoint's scores" if same else "scores of the same setting and seed"
            left_out.append(LeftOut("counted once", one.path, f"{what} are in {first.path}"))
    return list(chosen.values())
