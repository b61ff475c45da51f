"""Settings: everything in a record that affects a score, except the seed."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tagi.evaluation.reports.records import Record, training_mark

TAGI = "TAGI"
METATRAINED = "Meta-trained"
_PROMPTED = {
    "concatenation": METATRAINED,
    "fid-icl": "FiD-ICL",
    "concat-icl": "Concat-ICL",
    "ensemble-icl": "Ensemble-ICL",
}
"""Names in tables of models that meta-training produces. Other methods have their own names."""
_CONCATENATED = "Instruction concatenated"
_METHODS = {
    "tagi": TAGI,
    "task adapters": "Task adapters",
    "concatenation": _CONCATENATED,
    "causal-concatenation": _CONCATENATED,
}

STEPS = "training.finetune.steps"
SPLIT = "data.task_split"
ALIGNED = "losses.alignment_split"
INS = "losses.ins"
PRETRAINED = "run.pretrain"
STAGE = "stage"
CHECKPOINT = "checkpoint"
"""Replaces the training settings if the record does not have the checkpoint's training."""
FUSION = "generator.fusion"
PARTS: tuple[tuple[str, str, Any], ...] = (
    (PRETRAINED, "pretraining", False),
    (FUSION, "attention in the encoder", "concatenation"),
    (FUSION, "concatenation before the decoder", "attention"),
    (FUSION, "instruction fusion", "none"),
    ("losses.prediction", "L_pred", 0),
    ("losses.kl", "L_kl", 0),
    (INS, "L_ins", 0),
)
"""Parts of the method that Table 4 removes: the key, the part, and the value that removes it."""

_RESTED_ON = ("run", "generator", "losses", "teacher", "metatrain", "pretraining", "single", "shots")
_BEFORE = {"finetune": ("pretrain", "teachers", "metatrain")}
"""Stage -> earlier stages whose training also affects its result."""
_NOT_OUTCOME = {"keep_checkpoints", "report_to", "save_every", "log_every", "gradient_checkpointing"}
_PLACES = {"path", "test_path", "templates", "prompts", "test_instances_per_task"}
"""Keys of `[data]` that are paths or concern test tasks. The digest in the record replaces them."""
_READ_AT_TEST = ("encoding", "positives", "max_instruction_tokens", "max_input_tokens", "truncate")
_SIZES = {"base": "Base (250M)", "large": "Large (800M)", "xl": "XL (3B)", "3b": "XL (3B)", "xxl": "XXL (11B)"}
_DIGITS = len("sha256:01234567")
_T5 = re.compile(r"(?:^|/)t5-(base|large|xl|xxl)-lm-adapt$")
_T0 = re.compile(r"(?:^|/)my-t0-(base|large|3b)$")  # as retrained by FiD-ICL's authors (appendix A.5)


@dataclass(frozen=True)
class Setting:
    """A method and every key that affects its result, flattened, with JSON values."""

    method: str
    values: tuple[tuple[str, Any], ...]

    @cached_property
    def table(self) -> Mapping[str, Any]:
        """Dotted key -> value."""
        return dict(self.values)

    def training_key(self, key: str) -> str:
        """Return the dotted key of a training setting, for the stage that trained the model."""
        return f"training.{self.table.get(STAGE)}.{key}"

    @property
    def positives(self) -> int:
        """Number of demonstrations in the instruction."""
        return int(self.table.get("data.positives", 0))

    @property
    def demonstrations(self) -> str:
        """The form of the instruction, with Table 2's name."""
        return "Def" if not self.positives else f"Def + {self.positives} Pos"

    @property
    def family(self) -> str | None:
        """`T5-LM` or `T0` for the paper's backbones, else None."""
        name = str(self.table["backbone.name"])
        return "T5-LM" if _T5.search(name) else "T0" if _T0.search(name) else None

    @property
    def size(self) -> str:
        """The backbone's size with the paper's name, or else the backbone's name."""
        name = str(self.table["backbone.name"])
        if found := _T5.search(name) or _T0.search(name):
            return _SIZES[found[1]]
        if name == "config":
            config = json.loads(str(self.table.get("backbone.config") or "{}"))
            return f"made from a configuration (d_model {config.get('d_model')})"
        return name if name.count("/") == 1 else Path(name).name or name

    @property
    def missing(self) -> tuple[str, ...]:
        """Parts of TAGI that are removed, with Table 4's names; empty for other methods."""
        if self.method != TAGI:
            return ()
        return tuple(part for key, part, without in PARTS if key in self.table and self.table[key] == without)

    def masked(self, *keys: str) -> "Setting":
        """Return the setting without these keys: settings that differ only in them become equal."""
        return Setting(self.method, tuple(pair for pair in self.values if pair[0] not in keys))


def trained_by(record: Record) -> Mapping[str, Any] | None:
    """Return `recipe`, `stage` and `seed` of the training of the scored checkpoint; in newer records also `start`.

    None if they are not recorded.
    """
    content = record.content
    trained = content.get("trained") or (content if "stage" in content else None)
    if isinstance(trained, dict) and isinstance(trained.get("recipe"), dict) and {"stage", "seed"} <= trained.keys():
        return trained
    return None


def seed_of(record: Record) -> int | None:
    """Return the seed of training, or None if it is not recorded."""
    trained = trained_by(record) or {"seed": None, "recipe": {}}
    seed = trained["seed"] if trained["seed"] is not None else trained["recipe"].get("seed")  # older records
    return seed if isinstance(seed, int) else None


def setting_of(record: Record) -> Setting:
    """Return the setting of an evaluation or of a training run."""
    content, trained = record.content, trained_by(record)
    read = {f"data.{key}": value for key, value in content["recipe"]["data"].items() if key in _READ_AT_TEST}
    method = str(content.get("method", "tagi"))
    method = _METHODS.get(method, method)
    if trained is None:  # the recipe has only the test tasks
        checkpoint = f"{content.get('checkpoint')} ({str(content['revision'])[:_DIGITS]})"
        return _setting(
            f"{method}{training_mark(content)}",
            {CHECKPOINT: checkpoint, **_flat({"backbone": content["recipe"]["backbone"]}), **read},
        )
    recipe, stage = trained["recipe"], str(trained["stage"])
    data = {key: value for key, value in recipe["data"].items() if key not in _PLACES}
    training = _training(recipe, _ran(recipe, stage, trained.get("start")))
    flat = _flat({**_tables(recipe, stage), **training, "backbone": recipe["backbone"], "data": data})
    if content["kind"] == "evaluation":
        flat |= {f"evaluated with {key}": value for key, value in read.items() if flat.get(key, value) != value} | read
    name = f"{_trained_method(recipe, stage) or method}{training_mark(content)}"
    return _setting(name, {STAGE: stage, **flat})


def _setting(method: str, flat: Mapping[str, Any]) -> Setting:
    hashable = ((key, json.dumps(value) if isinstance(value, list | dict) else value) for key, value in flat.items())
    return Setting(method, tuple(sorted(hashable)))


def _flat(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}


def _trained_method(recipe: Mapping[str, Any], stage: str) -> str | None:
    """Return the paper's name for the result of a recipe's stage; None for a stage that does not train a method."""
    if stage == "finetune":
        return str(recipe.get("method") or TAGI)
    if stage == "pretrain":
        return "TAGI, pretrained alone"
    if stage == "single":
        return "Full FT" if recipe.get("single", {}).get("examples") == "shots" else "Simple FT"
    if stage != "metatrain":
        return None
    table = recipe.get("metatrain", {})
    kind, tune = table.get("method", "concatenation"), table.get("tune")
    name = _PROMPTED.get(kind, kind)
    if recipe["backbone"].get("family") == "causal":
        name = f"Decoder-only{', cached' if table.get('prefix_cached') else ''}"
    if tune == "none":
        return "No FT" if kind == "concatenation" else f"{name}, not trained"
    return f"{name} by LoRA" if tune == "lora" else name


def _ran(recipe: Mapping[str, Any], stage: str, start: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the stages whose training affects a stage's result: itself and, for finetuning, those it depends on.

    Stages of the recipe that it did not start from, according to `start` in the training record, are left out. Stages
    that are not in the recipe are kept, so that settings without a part can be compared with those that have it.
    """
    begun, taught, teachers = (bool((start or {}).get(key)) for key in ("start", "metatrained", "teachers"))
    rested = {"pretrain": begun, "teachers": teachers, "metatrain": begun or taught}
    own = (recipe.get("run") or {}).get("stages") or ()
    alone = [earlier for earlier, used in rested.items() if start is not None and earlier in own and not used]
    return (*(earlier for earlier in _BEFORE.get(stage, ()) if earlier not in alone), stage)


def _training(recipe: Mapping[str, Any], ran: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the `[training]` tables of the stages that ran."""
    training, tables = recipe["training"], {}
    shared = {key: value for key, value in training.items() if not isinstance(value, dict)}
    for trained in ran:
        own = {key: value for key, value in training.get(trained, {}).items() if value is not None}
        tables[f"training.{trained}"] = {k: v for k, v in {**shared, **own}.items() if k not in _NOT_OUTCOME}
    return tables


def _tables(recipe: Mapping[str, Any], stage: str) -> dict[str, Mapping[str, Any]]:
    """Return the tables that affect a stage's result, besides `[training]`, `[backbone]` and `[data]`."""
    tables = {name: dict(recipe.get(name) or {}) for name in _RESTED_ON}
    generator, run = tables["generator"], tables["run"]
    for name in ("shots", "pretraining"):
        tables[name].pop("path", None)
    if stage == "single":
        return {"single": tables["single"], "shots": tables["shots"], "run": {"start": run.get("start")}}
    if stage == "metatrain":
        table = tables["metatrain"]
        lora = {key: generator[key] for key in ("rank", "alpha")} if table.get("tune") == "lora" else {}
        shots = tables["shots"] if table.get("method", "concatenation") != "concatenation" else {}
        return {"metatrain": table, "generator": lora, "shots": shots}
    alpha, rank = generator.pop("alpha", None), generator.get("rank")
    if alpha and rank:
        generator["scale"] = alpha / rank  # scale of updates, because alpha itself changes with the rank
    tables["run"] = {"pretrain": "pretrain" in run.pop("stages", ["pretrain"]), **run}
    apart = ("single", "shots") if stage == "finetune" else ("single", "shots", "losses")
    return {name: table for name, table in tables.items() if name not in apart}
