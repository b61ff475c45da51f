"""Model cards of generators and exports, with front matter for the hub."""

import json
from collections.abc import Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from tagi.backbones.gguf import SUFFIX, WHEELS
from tagi.backbones.load import BUILT_IN, locate
from tagi.formats.export_prompts import INPUT
from tagi.formats.records import ExportRecord
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.targets import describe_targets

CARD = "README.md"


def generator_card(generator: GeneratorModel, provenance: Mapping[str, Any]) -> str:
    """Return the card of a generator: base model, kind of module, and training."""
    return _rendered(
        "generator_card.md.j2",
        settings=generator.settings,
        base=generator.backbone.identity,
        generates=describe_targets(generator.targets),
        encoding=generator.text.settings.encoding,
        provenance=sorted(provenance.items()),
    )


def export_card(record: ExportRecord) -> str:
    """Return the card of an export: its origin, its limits and its use."""
    told = [] if record.instruction is None else [record.instruction]
    told += [f"{example.input} -> {example.output}" for example in record.examples]
    name = record.base_model.name
    ours = name in BUILT_IN or name in WHEELS or name.endswith(SUFFIX)  # names that transformers does not know
    local = not ours and isinstance(locate(name), Path)
    shown = Path(name).name if local or name.endswith(SUFFIX) else name  # do not publish local paths
    auto = f"AutoPeftModelFor{'Seq2SeqLM' if record.model.endswith('ConditionalGeneration') else 'CausalLM'}"
    kind = {"ours": ours, "hub": not ours and not local, "shown": shown, "auto": auto}
    return _rendered("export_card.md.j2", record=record, told=told, input=INPUT, **kind)


def _rendered(template: str, **values: Any) -> str:
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"json": partial(json.dumps, ensure_ascii=False), "block": _block}
    text = resources.files(__package__).joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(text).render(values)


def _block(text: str) -> str:
    """Format text as a code block in Markdown."""
    return "\n".join(f"    {line}" for line in text.splitlines())
