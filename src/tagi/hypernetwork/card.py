"""The model card that travels with a generator."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagi.hypernetwork.generator import Generator


def generator_card(generator: "Generator", provenance: Mapping[str, Any]) -> str:
    """Markdown with the hub's front matter: base model, what the generator makes, how it was trained."""
    settings, base = generator.settings, generator.backbone.identity
    sites = len(generator.backbone.sites)
    facts = [
        ("base model", f"`{base.name}` at `{base.revision}`"),
        (
            "generates",
            f"LoRA of rank {settings.rank} (alpha {settings.alpha:g}) for {sites} sites",
        ),
        ("generator", f"`{settings.kind}`"),
        ("instruction fusion", f"`{settings.fusion}`"),
        ("tuned backbone parameters", f"`{settings.tune}`"),
        ("instruction encoding", f"`{generator.text.settings.encoding}`"),
        *((key, f"`{value}`") for key, value in sorted(provenance.items())),
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts)
    return (
        "---\nlibrary_name: tagi\ntags:\n- hypernetwork\n- lora\n---\n\n"
        "# A TAGI generator\n\n"
        "Reads a task's instruction and writes a LoRA adapter for its base model "
        "(Liao et al., NeurIPS 2024).\n\n"
        f"| | |\n| --- | --- |\n{rows}\n\n"
        "```python\nfrom tagi import Generator\n\n"
        'generator = Generator.from_pretrained("this folder or hub name")\n'
        'adapter = generator.adapt("What the task asks for, in plain words.")\n'
        'adapter.predict(["an input"])\n```\n'
    )
