"""Selection of comparable records: the same version, test data and scoring, and each run once."""

from collections.abc import Callable, Sequence

from tagi.evaluation.reports.records import LeftOut, Record
from tagi.evaluation.reports.settings import Setting, seed_of, setting_of
from tagi.evaluation.scoring.statistics import group_by

_GENERATION = ("max_new_tokens", "num_beams")
"""Keys of `[evaluation]` that decide the score of generated answers."""
_RANKED = "choice_score"
"""In a result, what ranked choices are ranked by."""


def choose(records: Sequence[Record]) -> tuple[list[Record], list[LeftOut]]:
    """Return the records that are comparable with each other, and the others with the reason.

    Selects, in this order: the records of the most frequent version; for each data set, the evaluations with the most
    frequent test data and the most frequent scoring. In a tie, the group with the newest record is kept. No run counts
    twice.
    """
    left_out: list[LeftOut] = []
    kept = _readable(records, left_out)
    kept = _majority(kept, lambda one: f"tagi {one.content['environment']['tagi']}", "another version", left_out)
    chosen = [one for one in kept if one.kind != "evaluation"]
    evaluations = []
    for own in group_by((one for one in kept if one.kind == "evaluation"), lambda one: one.data_set).values():
        alike = _majority(own, lambda one: str(one.content["data"]["digest"]), "other test data", left_out)
        alike = _majority(alike, _metrics, "another metric", left_out)
        evaluations += _majority(alike, _how, "other evaluation settings", left_out)
    ids = {id(one) for one in (*chosen, *_once(evaluations, left_out))}
    return [one for one in records if id(one) in ids], left_out


def _readable(records: Sequence[Record], left_out: list[LeftOut]) -> list[Record]:
    """Return the records whose setting can be read. An edited recipe may contain anything."""
    readable = []
    for one in records:
        if one.kind not in ("training", "evaluation"):
            readable.append(one)
            continue
        try:
            setting, _ = setting_of(one), seed_of(one)
            _ = one.data_set, setting.positives, setting.size, setting.family
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            left_out.append(LeftOut("broken", one.path, f"recipe: cannot be read ({type(error).__name__}: {error})"))
        else:
            readable.append(one)
    return readable


def _majority(
    records: Sequence[Record], of: Callable[[Record], str], reason: str, left_out: list[LeftOut]
) -> list[Record]:
    sides = group_by(records, of)
    if not sides:
        return []
    most = max(sides, key=lambda value: (len(sides[value]), max(one.written for one in sides[value])))
    for one in records:
        if of(one) != most:
            detail = f"{of(one)}, where {len(sides[most])} of {len(records)} have {most}"
            left_out.append(LeftOut(reason, one.path, detail))
    return sides[most]


def _metrics(one: Record) -> str:
    return ", ".join(sorted({result["metric"] for result in one.content["results"].values()}))


def _how(one: Record) -> str:
    ranked = sorted({str(found[_RANKED]) for found in one.content["results"].values() if _RANKED in found})
    if ranked:
        return f"{_RANKED} = {', '.join(ranked)}"
    return ", ".join(f"{key} = {one.content['recipe']['evaluation'].get(key)}" for key in _GENERATION)


def _once(records: Sequence[Record], left_out: list[LeftOut]) -> list[Record]:
    """Keep, of runs with the same setting and seed, the one with the most conditions; in a tie, the newest."""
    chosen: dict[tuple[str, Setting, int | None], Record] = {}
    for one in sorted(records, key=lambda one: (-len(one.content["results"]), -one.written, one.path)):
        first = chosen.setdefault((one.data_set, setting_of(one), seed_of(one)), one)
        if first is not one:
            same = first.content["revision"] == one.content["revision"]
            what = "the same checkpoint's scores" if same else "scores of the same setting and seed"
            left_out.append(LeftOut("counted once", one.path, f"{what} are in {first.path}"))
    return list(chosen.values())
