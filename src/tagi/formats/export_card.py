"""What an export says of itself: a record for `tagi verify` and a card for people."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagi.adapters.bank import LoraBank
from tagi.backbones.gguf import SUFFIX, WHEELS
from tagi.backbones.load import BUILT_IN
from tagi.backbones.protocol import BaseModel
from tagi.errors import CheckpointError
from tagi.formats.export_prompts import prompts_section

RECORD = "tagi_export.json"
CARD = "README.md"
FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """What an adapter was made from; unknown parts are None.

    `model` is transformers' class of its base, `refined` how it was trained further after it was generated, `prompt`
    what is written around an input, `{input}` in its place.

    `prompts`, as `export_prompts.prompts_of` returns them, stand in place of `prompt` for generators with
    `instruction_cache`.
    """

    base: BaseModel
    model: str
    instruction: str | None = None
    examples: tuple[tuple[str, str], ...] = ()
    generator: str | None = None
    seed: int | None = None
    refined: Mapping[str, Any] | None = None
    prompt: str | None = None
    prompts: Mapping[str, Any] | None = None


def write_record(
    folder: Path, kind: str, bank: LoraBank, origin: Origin, lost: tuple[str, ...], digest: str | None
) -> dict[str, Any]:
    """Write the record and the card into an export's folder; the same export gives the same bytes.

    `digest` is of the tensors that the folder holds, where `tagi verify` compares it. Gives the record.
    """
    whole = bank.whole()
    record = {
        "format": FORMAT,
        "kind": kind,
        "base_model": {"name": origin.base.name, "revision": origin.base.revision},
        "instruction": origin.instruction,
        "examples": [{"input": source, "output": target} for source, target in origin.examples],
        "generator": origin.generator,
        "seed": origin.seed,
        **({"refined": dict(origin.refined)} if origin.refined else {}),
        **({"prompt": origin.prompt} if origin.prompt is not None else {}),
        **({"prompts": dict(origin.prompts)} if origin.prompts is not None else {}),
        "rank": whole.rank,
        "alpha": whole.scale * whole.rank,
        "layers": len(whole.factors),
        "targets": sorted({layer.rsplit(".", 1)[-1] for layer in whole.factors}),
        "model": origin.model,
        "dtype": str(next(iter(whole.factors.values()))[0].dtype).removeprefix("torch."),
        "lost": list(lost),
        "tensors": digest,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / CARD).write_text(_card(record), encoding="utf-8")
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """What an export says it is; `CheckpointError` if it says nothing that can be read."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: expected an export with {RECORD}, got: {error}") from error
    wanted = {"kind": str, "base_model": dict, "rank": int, "dtype": str}
    for name, type_ in wanted.items():
        if not isinstance(record, dict) or not isinstance(record.get(name), type_):
            raise CheckpointError(f"{path}: expected a field {name!r} ({type_.__name__}), got none")
    if record.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected export format {FORMAT}, got {record.get('format')!r}")
    return dict(record)


_USE = {
    "peft": (
        "from peft import PeftModel\n{imports}\n\nmodel = {load}\n"
        'model = PeftModel.from_pretrained(model, "this folder")'
    ),
    "merged": (
        "from transformers import AutoTokenizer, {model}\n\n"
        'model = {model}.from_pretrained("this folder")\ntokenizer = AutoTokenizer.from_pretrained("this folder")'
    ),
    "gguf": "# with the GGUF file of the base model\nllama-cli -m base.gguf --lora adapter.gguf",
}
_TITLES = {
    "peft": "A LoRA adapter made from an instruction",
    "merged": "A model with an adapter made from an instruction merged in",
    "gguf": "A LoRA adapter for llama.cpp made from an instruction",
}


def _card(record: Mapping[str, Any]) -> str:
    base = record["base_model"]
    facts = [
        ("base model", f"`{base['name']}` at `{base['revision']}`"),
        ("LoRA", f"rank {record['rank']}, alpha {record['alpha']:g}, {record['dtype']}"),
        ("target modules", f"{', '.join(f'`{name}`' for name in record['targets'])}: {record['layers']} layers"),
        ("generator", f"`{record['generator']}`" if record["generator"] else "unknown"),
        ("seed", "unknown" if record["seed"] is None else record["seed"]),
        ("left behind", "; ".join(record["lost"]) or "nothing"),
    ]
    if record.get("prompt") is not None:
        shown = json.dumps(record["prompt"], ensure_ascii=False).replace("|", "\\|")  # a table's cells end at bars
        facts.append(("prompt", f"`{shown}`, and nothing before it"))
    if record.get("refined"):
        facts.append(("refined", _refinement(record["refined"])))
    prompts = prompts_section(record["prompts"]) if record.get("prompts") else ""
    told = [] if record["instruction"] is None else [record["instruction"]]
    told += [f"{example['input']} -> {example['output']}" for example in record["examples"]]
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts)
    quoted = "\n".join(f"    {line}" for text in told for line in text.splitlines())
    instruction = f"Made from this instruction:\n\n{quoted}\n\n" if told else "Its instruction is unknown.\n\n"
    kind = record["kind"]
    library = "peft" if kind == "peft" else "transformers" if kind == "merged" else "llama.cpp"
    language = "sh" if kind == "gguf" else "python"
    return (
        f"---\nlibrary_name: {library}\nbase_model: {json.dumps(base['name'])}\ntags:\n- lora\n- tagi\n---\n\n"
        f"# {_TITLES[kind]}\n\n{instruction}| | |\n| --- | --- |\n{rows}\n\n"
        f"```{language}\n{_USE[kind].format(model=record['model'], **_loading(record))}\n```\n{prompts}"
    )


def _refinement(how: Mapping[str, Any]) -> str:
    """How what was generated was trained further, once or more often."""
    earlier = f"{_refinement(how['earlier'])}, then " if how.get("earlier") else ""
    return f"{earlier}{how['steps']} steps of LoRA training on {how['examples']} examples"


def _loading(record: Mapping[str, Any]) -> dict[str, str]:
    """How the base model is loaded; what transformers does not know by its name is loaded by this project."""
    name, revision = record["base_model"]["name"], record["base_model"]["revision"]
    if name in BUILT_IN or name in WHEELS or name.endswith(SUFFIX):
        load = f"load_backbone({json.dumps(name)}, revision={json.dumps(revision)}).model"
        return {"imports": "from tagi.backbones import load_backbone", "load": load}
    at = "" if revision.startswith("sha256:") else f", revision={json.dumps(revision)}"
    model = record["model"]
    return {"imports": f"from transformers import {model}", "load": f"{model}.from_pretrained({json.dumps(name)}{at})"}
