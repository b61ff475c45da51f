"""Model cards: what a generator's folder and an export say of themselves to people, with the hub's front matter."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tagi.backbones.gguf import SUFFIX, WHEELS
from tagi.backbones.load import BUILT_IN
from tagi.formats.export_prompts import prompts_section
from tagi.formats.records import ExportRecord
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.targets import describe_targets
from tagi.settings.generator import Module

CARD = "README.md"
_OBJECTS: dict[Module, str] = {
    "lora": "a LoRA adapter",
    "bottleneck": "bottleneck adapters",
    "prefix": "attention prefixes",
    "bottleneck+prefix": "bottleneck adapters and attention prefixes",
}
_GENERATOR_USE = """```python
from tagi import AdapterGenerator

generator = AdapterGenerator.from_pretrained("this folder or hub name")
adapter = generator.adapt("What the task asks for, in plain words.")
adapter.predict(["an input"])
```
"""
_EXPORTS = {
    "peft": (
        "peft",
        "A LoRA adapter made from an instruction",
        "python",
        "from peft import PeftModel\n{imports}\n\nmodel = {load}\n"
        'model = PeftModel.from_pretrained(model, "this folder")',
    ),
    "merged": (
        "transformers",
        "A model with an adapter made from an instruction merged in",
        "python",
        "from transformers import AutoTokenizer, {model}\n\n"
        'model = {model}.from_pretrained("this folder")\ntokenizer = AutoTokenizer.from_pretrained("this folder")',
    ),
    "gguf": (
        "llama.cpp",
        "A LoRA adapter for llama.cpp made from an instruction",
        "sh",
        "# with the GGUF file of the base model\nllama-cli -m base.gguf --lora adapter.gguf",
    ),
}
"""Kind of export -> library, title, language and code of its use."""


def generator_card(generator: GeneratorModel, provenance: Mapping[str, Any]) -> str:
    """Return a generator's card: base model, what the generator makes, how it was trained."""
    settings, base = generator.settings, generator.backbone.identity
    facts = [
        ("base model", f"`{base.name}` at `{base.revision}`"),
        ("generates", describe_targets(generator.targets)),
        ("generator", f"`{settings.kind}`"),
        ("instruction fusion", f"`{settings.fusion}`"),
        ("tuned backbone parameters", f"`{settings.tune}`"),
        ("instruction encoding", f"`{generator.text.settings.encoding}`"),
        *((key, f"`{value}`") for key, value in sorted(provenance.items())),
    ]
    tags = "".join(f"- {tag}\n" for tag in settings.module.split("+"))
    return (
        f"---\nlibrary_name: tagi\ntags:\n- hypernetwork\n{tags}---\n\n# A TAGI generator\n\n"
        f"Reads a task's instruction and writes {_OBJECTS[settings.module]} for its base model "
        f"(Liao et al., NeurIPS 2024).\n\n{_table(facts)}\n{_GENERATOR_USE}"
    )


def export_card(record: ExportRecord) -> str:
    """Return an export's card: what it was made from, what it lacks, how it is used."""
    base = record.base_model
    facts = [
        ("base model", f"`{base.name}` at `{base.revision}`"),
        ("LoRA", f"rank {record.rank}, alpha {record.alpha:g}, {record.dtype}"),
        ("target modules", f"{', '.join(f'`{name}`' for name in record.targets)}: {record.layers} layers"),
        ("generator", f"`{record.generator}`" if record.generator else "unknown"),
        ("seed", "unknown" if record.seed is None else record.seed),
        ("left behind", "; ".join(record.lost) or "nothing"),
    ]
    if record.prompt is not None:
        shown = json.dumps(record.prompt, ensure_ascii=False).replace("|", "\\|")  # a table's cells end at bars
        facts.append(("prompt", f"`{shown}`, and nothing before it"))
    if record.refined:
        facts.append(("refined", _refinement(record.refined)))
    told = [] if record.instruction is None else [record.instruction]
    told += [f"{example.input} -> {example.output}" for example in record.examples]
    quoted = "\n".join(f"    {line}" for text in told for line in text.splitlines())
    instruction = f"Made from this instruction:\n\n{quoted}\n\n" if told else "Its instruction is unknown.\n\n"
    library, title, language, use = _EXPORTS[record.kind]
    return (
        f"---\nlibrary_name: {library}\nbase_model: {json.dumps(base.name)}\ntags:\n- lora\n- tagi\n---\n\n"
        f"# {title}\n\n{instruction}{_table(facts)}\n"
        f"```{language}\n{use.format(model=record.model, **_loading(record))}\n```\n"
        f"{prompts_section(record.prompts) if record.prompts else ''}"
    )


def _table(facts: Sequence[tuple[str, Any]]) -> str:
    return "| | |\n| --- | --- |\n" + "".join(f"| {name} | {value} |\n" for name, value in facts)


def _refinement(how: Mapping[str, Any]) -> str:
    """How what was generated was trained further, once or more often."""
    earlier = f"{_refinement(how['earlier'])}, then " if how.get("earlier") else ""
    return f"{earlier}{how['steps']} steps of LoRA training on {how['examples']} examples"


def _loading(record: ExportRecord) -> dict[str, str]:
    """How the base model is loaded: by transformers, or by this project where transformers does not know its name."""
    name, revision, model = record.base_model.name, record.base_model.revision, record.model
    if name in BUILT_IN or name in WHEELS or name.endswith(SUFFIX):
        load = f"load_backbone({json.dumps(name)}, revision={json.dumps(revision)}).model"
        return {"imports": "from tagi.backbones.load import load_backbone", "load": load}
    at = "" if revision.startswith("sha256:") else f", revision={json.dumps(revision)}"
    return {"imports": f"from transformers import {model}", "load": f"{model}.from_pretrained({json.dumps(name)}{at})"}
