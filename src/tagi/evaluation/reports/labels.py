"""Short names of settings: the keys in which they differ from most others."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tagi.evaluation.reports.settings import ALIGNED, CHECKPOINT, FUSION, INS, PARTS, PRETRAINED, SPLIT, Setting
from tagi.evaluation.scoring.statistics import group_by

_ELSEWHERE = ("backbone.", "data.positives")
"""Keys that have a column of their own."""
_TRAINED = {"learning_rate": "learning rate {}", "steps": "{} steps", "warmup_ratio": "warm-up {}"}
"""Keys of the training of a setting's own stage."""
_WORDS = {
    "generator.rank": "rank {}",
    INS: "L_ins weighed {}",
    SPLIT: "{} categories",
    ALIGNED: "L_ins on {} categories",
    CHECKPOINT: "checkpoint {}, training not recorded",
}
_VALUES: dict[tuple[str, Any], str] = {
    **{(key, without): f"without {part}" for key, part, without in PARTS},
    **{(key, None): "all categories" for key in (SPLIT, ALIGNED)},
    (PRETRAINED, True): "with pretraining",
    (FUSION, "both"): "with instruction fusion",
}
_UNKNOWN = "unknown"


def variant_names(settings: Sequence[Setting]) -> dict[Setting, str]:
    """Return a name for each setting: its method, and each key in which it differs from most runs of that method.

    A setting that is given several times counts several times. If a key has no most frequent value, all names contain
    it. Backbone and demonstrations are not in names, because tables have columns for them.
    """
    names = {}
    # Settings without recorded training have hardly any key in common with others.
    for own in group_by(settings, lambda setting: (setting.method, CHECKPOINT in setting.table)).values():
        usual = _usual(own)
        for setting in own:
            differing = [key for key in sorted(usual) if setting.table.get(key, _UNKNOWN) != usual[key]]
            words = list(dict.fromkeys(_word(key, setting) for key in differing))
            names[setting] = f"{setting.method}{': ' if len(words) > 1 else ', ' if words else ''}{', '.join(words)}"
    return names


def _usual(settings: Sequence[Setting]) -> dict[str, Any]:
    """Return the most frequent value of every key that varies; a list, which equals no value, if there is none."""
    usual: dict[str, Any] = {}
    for key in {key for setting in settings for key in setting.table}:
        if key.startswith(_ELSEWHERE):
            continue
        counts = Counter(setting.table.get(key, _UNKNOWN) for setting in settings).most_common()
        if key == CHECKPOINT:
            usual[key] = []
        elif len(counts) > 1:
            usual[key] = [] if counts[0][1] == counts[1][1] else counts[0][0]
    return usual


def _word(key: str, setting: Setting) -> str:
    value = setting.table.get(key, _UNKNOWN)
    if (key, value) in _VALUES:
        return _VALUES[key, value]
    words = {**_WORDS, **{setting.training_key(name): words for name, words in _TRAINED.items()}}
    return words[key].format(shown(value)) if key in words else f"{key} = {shown(value)}"


def shown(value: Any) -> str:
    """Return a short form of a recipe value."""
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
