"""The model card that travels with a generator."""

from collections.abc import Mapping
from typing import Any

from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.targets import words_of
from tagi.settings.generator import Module

_OBJECTS: dict[Module, str] = {
    "lora": "a LoRA adapter",
    "bottleneck": "bottleneck adapters",
    "prefix": "attention prefixes",
    "bottleneck+prefix": "bottleneck adapters and attention prefixes",
}


def generator_card(generator: GeneratorModel, provenance: Mapping[str, Any]) -> str:
    """Markdown with the hub's front matter: base model, what the generator makes, how it was trained."""
    settings, base = generator.settings, generator.backbone.identity
    facts = [
        ("base model", f"`{base.name}` at `{base.revision}`"),
        ("generates", words_of(generator.targets)),
        ("generator", f"`{settings.kind}`"),
        ("instruction fusion", f"`{settings.fusion}`"),
        ("tuned backbone parameters", f"`{settings.tune}`"),
        ("instruction encoding", f"`{generator.text.settings.encoding}`"),
        *((key, f"`{value}`") for key, value in sorted(provenance.items())),
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts)
    tags = "".join(f"- {tag}\n" for tag in settings.module.split("+"))
    return (
        f"---\nlibrary_name: tagi\ntags:\n- hypernetwork\n{tags}---\n\n"
        "# A TAGI generator\n\n"
        f"Reads a task's instruction and writes {_OBJECTS[settings.module]} for its base model "
        "(Liao et al., NeurIPS 2024).\n\n"
        f"| | |\n| --- | --- |\n{rows}\n\n"
        "```python\nfrom tagi import AdapterGenerator\n\n"
        'generator = AdapterGenerator.from_pretrained("this folder or hub name")\n'
        'adapter = generator.adapt("What the task asks for, in plain words.")\n'
        'adapter.predict(["an input"])\n```\n'
    )
