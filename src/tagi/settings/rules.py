"""Rules between a recipe's tables and its stages: what a stage rests on, and what it cannot be done with.

Tables are those that are valid by themselves; a rule about one that is not there holds.
"""

from collections.abc import Mapping
from typing import Any

from tagi.settings.losses import LossSettings
from tagi.settings.tables import Stage
from tagi.settings.training import MetatrainSettings, RunSettings


def stage_faults(run: RunSettings, tables: Mapping[str, Any]) -> dict[str, str]:
    """Keys of `[run]`, `[metatrain]` excepted, and what is wrong with each beside the other tables."""
    faults: dict[str, str] = {}
    missing = [
        f"{stage!r} among stages ({reason})"
        for stage, reason in _needs(run, tables)
        if stage not in run.stages and len(run.stages) > 1
    ]
    if "pretrain" in run.stages and "pretraining" in tables and tables["pretraining"] is None:
        missing.append("a table [pretraining] (stage pretrain)")
    data = tables.get("data")
    if "single" in run.stages and data is not None and data.source == "p3" and data.test_path is None:
        missing.append("data.test_path (stage single)")
    if missing:
        faults["stages"] = f"expected {', '.join(missing)}, got {', '.join(run.stages)}"
    metatrain = tables.get("metatrain")
    if "metatrain" in run.stages and metatrain is not None:
        for method, reason in _taught_by(run, tables).items():
            if method != metatrain.method:
                wanted = f"expected metatrain.method = {method!r} among them ({reason})"
                faults.setdefault("stages", f"{wanted}, got {metatrain.method!r}")
            elif not metatrain.instruction:
                faults.setdefault("stages", f"expected metatrain.instruction = true ({reason}), got false")
    if run.start == "metatrained":
        faults |= _start_faults(run, tables)
    elif _lacks_shared_lora(run, tables):
        faults["start"] = (
            "expected 'metatrained' with generator.shared_rank and generator.shared_tune = false, since the shared "
            f"LoRA is that of the stage metatrain, got {run.start!r}"
        )
    backbone = tables.get("backbone")
    if backbone is not None and backbone.family == "causal":
        faults |= _causal_faults(run, tables)
    return faults


def generator_faults(tables: Mapping[str, Any], generator: Any) -> dict[str, str]:
    """Keys of `[generator]` and what is wrong with each beside `[backbone]`."""
    backbone, cache = tables.get("backbone"), generator.instruction_cache
    if backbone is not None and backbone.family != "causal" and cache is not None:
        reason = "whose encoder reads a text in both directions"
        wanted = f"expected no value with backbone.family = {backbone.family!r}, {reason}"
        return {"instruction_cache": f"{wanted}, got {cache!r}"}
    if cache == "adapted" and generator.fusion != "none":
        return {"fusion": f"expected 'none' with generator.instruction_cache = 'adapted', got {generator.fusion!r}"}
    return {}


def pair_faults(tables: Mapping[str, Any], losses: LossSettings) -> dict[str, str]:
    """Keys of `[losses]` that ask for rows in pairs, and what is wrong with each beside `[generator]`."""
    generator = tables.get("generator")
    given = [key for key in ("alone", "alone_kl") if getattr(losses, key)]
    if generator is None or not given:
        return {}
    if generator.state_dropout:
        wanted = "expected generator.state_dropout = 0 with it, since half of the rows are without instruction anyway"
        return {given[0]: f"{wanted}, got {generator.state_dropout}"}
    if generator.fusion == "none" and generator.instruction_cache in (None, "none"):
        return {
            given[0]: "expected generator.fusion or generator.instruction_cache other than 'none' with it, since "
            f"otherwise every row is asked with the adapter alone, got {getattr(losses, given[0])}"
        }
    return {}


def alignment_faults(tables: Mapping[str, Any], losses: LossSettings) -> dict[str, str]:
    """What is wrong with L_ins beside a shared LoRA: factors of another rank than the teachers' cannot be compared."""
    generator = tables.get("generator")
    if generator is None or not losses.ins or not generator.shared_rank or losses.alignment == "product":
        return {}
    wanted = "expected 'product' with losses.ins and generator.shared_rank, whose LoRA has a higher rank than teachers"
    return {"alignment": f"{wanted}, got {losses.alignment!r}"}


def metatrain_faults(tables: Mapping[str, Any], metatrain: MetatrainSettings) -> dict[str, str]:
    """Keys of `[metatrain]` and what is wrong with each beside `[backbone]` and the others."""
    backbone, method = tables.get("backbone"), metatrain.method
    faults = {}
    if not metatrain.instruction:
        if method != "concatenation":
            faults["instruction"] = f"expected true with method = {method!r}, got false"
        elif metatrain.prefix_cached:
            faults["instruction"] = "expected true with prefix_cached = true, got false: nothing is left to keep"
    if backbone is None:
        return faults
    causal = backbone.family == "causal"
    if causal and method != "concatenation":
        faults["method"] = f"expected 'concatenation' with backbone.family = 'causal', got {method!r}"
    if metatrain.prefix_cached and not causal:
        faults["prefix_cached"] = f"expected backbone.family = 'causal' with it, got {backbone.family!r}"
    return faults


def _causal_faults(run: RunSettings, tables: Mapping[str, Any]) -> dict[str, str]:
    """What a decoder-only backbone cannot serve."""
    generator, training = tables.get("generator"), tables.get("training")
    on = "with backbone.family = 'causal'"
    generating = [stage for stage in run.stages if stage in ("pretrain", "finetune")]
    if not generating or generator is None:
        return {}
    concatenates = generator.fusion in ("both", "concatenation") or generator.instruction_cache == "stock"
    for key, wanted in (("module", "lora"), ("reader", "backbone" if concatenates else None), ("fusion_init", "t5")):
        found = getattr(generator, key)
        if found != wanted and wanted is not None:
            return {"stages": f"expected generator.{key} = {wanted!r} for {generating[0]!r} {on}, got {found!r}"}
    if generator.instruction_cache is not None and generator.fusion not in ("attention", "none"):
        return {
            "stages": f"expected generator.fusion = 'none' or 'attention' {on} and generator.instruction_cache, "
            f"which takes the place of concatenation, got {generator.fusion!r}"
        }
    if not concatenates or training is None:
        return {}
    for stage in generating:
        own = getattr(training, stage).gradient_checkpointing
        if training.gradient_checkpointing if own is None else own:
            return {
                "stages": f"expected training.{stage}.gradient_checkpointing = false {on} and "
                "a cached instruction, which it would drop, got true"
            }
    return {}


def _lacks_shared_lora(run: RunSettings, tables: Mapping[str, Any]) -> bool:
    """Whether a run of several stages generates on top of a frozen shared LoRA that nothing is copied into.

    A recipe of one stage may be trained from a checkpoint that is named on the command line.
    """
    generator = tables.get("generator")
    if generator is None or not generator.shared_rank or generator.shared_tune or len(run.stages) == 1:
        return False
    return not {"pretrain", "finetune"}.isdisjoint(run.stages)


def _start_faults(run: RunSettings, tables: Mapping[str, Any]) -> dict[str, str]:
    generator, metatrain = tables.get("generator"), tables.get("metatrain")
    if generator is None or {"pretrain", "finetune", "single"}.isdisjoint(run.stages):
        return {}  # nothing is known to start on it
    if metatrain is not None and generator.shared_rank:
        if metatrain.tune != "lora":
            return {"start": f"expected metatrain.tune = 'lora' to be the shared LoRA, got {metatrain.tune!r}"}
        if metatrain.rank not in (None, generator.shared_rank):
            wanted = f"expected metatrain.rank = {generator.shared_rank}, that of the shared LoRA"
            return {"start": f"{wanted}, got {metatrain.rank}"}
        return {}
    if metatrain is not None and metatrain.tune != "all":
        return {"start": f"expected metatrain.tune = 'all' to start on the whole model, got {metatrain.tune!r}"}
    generates = not {"pretrain", "finetune"}.isdisjoint(run.stages)
    if generates and generator.tune != "all":
        wanted = "expected generator.tune = 'all' to start on the meta-trained model"
        return {"start": f"{wanted}, got {generator.tune!r}"}
    return {}


def _needs(run: RunSettings, tables: Mapping[str, Any]) -> list[tuple[Stage, str]]:
    """Stages that others rest on, and why."""
    losses, teacher = tables.get("losses"), tables.get("teacher")
    if losses is None or teacher is None:
        return []
    taught = "finetune" in run.stages
    distilled = taught and losses.kl > 0
    needs: list[tuple[Stage, str]] = []
    if taught and losses.ins > 0:
        needs.append(("teachers", "losses.ins"))
    elif distilled and losses.teacher == "lora":
        needs.append(("teachers", "losses.kl with losses.teacher = 'lora'"))
    if distilled and losses.teacher in ("metatrained", "fid-icl"):
        needs.append(("metatrain", f"losses.teacher = {losses.teacher!r}"))
    elif teacher.base == "metatrained" and "teachers" in run.stages:
        needs.append(("metatrain", "teacher.base = 'metatrained'"))
    return needs


def _taught_by(run: RunSettings, tables: Mapping[str, Any]) -> dict[str, str]:
    """Methods that later stages need the stage metatrain to train, and why."""
    losses, teacher = tables.get("losses"), tables.get("teacher")
    needed: dict[str, str] = {}
    if "finetune" in run.stages and losses is not None and losses.kl > 0 and losses.teacher != "lora":
        method = "concatenation" if losses.teacher == "metatrained" else losses.teacher
        needed[method] = f"losses.teacher = {losses.teacher!r}"
    if "teachers" in run.stages and teacher is not None and teacher.base == "metatrained":
        needed.setdefault("concatenation", "teacher.base = 'metatrained'")
    return needed
