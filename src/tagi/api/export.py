"""Exports of adapter folders for other software, and their verification."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tagi.formats.export import Format, open_exportable
from tagi.formats.export import export as write_export
from tagi.formats.verify import INPUTS, Check
from tagi.formats.verify import verify as verify_export


def export(
    adapter: str | Path,
    folder: str | Path,
    format: Format = "peft",
    *,
    generator: str | Path | None = None,
    base: str | Path | None = None,
    lossy: bool = False,
) -> dict[str, Any]:
    """Write an adapter folder for other software and return a summary, with what is `lost`.

    Args:
        adapter: An adapter's folder, or any plain LoRA in PEFT's format.
        folder: A new or empty folder.
        format: "peft" (PEFT, vLLM), "merged" (a transformers model with tokenizer) or "gguf" (a LoRA for llama.cpp).
        generator: The name of the generator that made the adapter; by default the one that its folder names.
        base: The base model of a plain LoRA, by default the one that it names; or where that of a generator is now.
        lossy: Write the LoRA although the adapter acts by more than that.

    Raises `InputError`, before anything is written, if something would be lost, unless `lossy`, and `CheckpointError`
    for a damaged folder, another generator or another base model.
    """
    named, of = None if generator is None else str(generator), None if base is None else str(base)
    source = open_exportable(Path(adapter), generator=named, base=of)
    return {**write_export(source, format, Path(folder), lossy=lossy), "lost": list(source.lost(format))}


def verify(folder: str | Path, *, base: str | Path | None = None, inputs: Sequence[str] = INPUTS) -> list[Check]:
    """Read an export of format "peft" back with PEFT and check that it does there what it does here.

    Args:
        folder: The export's folder.
        base: Where its base model is, if not where the export says.
        inputs: Texts on which logits are compared.

    Returns the checks, each with its `name`, whether it `passed` (None: not made, because of another that failed) and a
    `detail`. Raises `CheckpointError` if the folder is no such export, `InputError` for an empty text.
    """
    return verify_export(Path(folder), base=None if base is None else str(base), inputs=inputs)
