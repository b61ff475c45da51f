"""Export of adapters for other software, and verification of exports."""

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
    """Export an adapter folder for other software.

    Args:
        adapter: Adapter folder, or any LoRA in PEFT's format.
        folder: New or empty folder for the export.
        format: "peft" (for PEFT and vLLM), "merged" (a transformers model with tokenizer) or "gguf" (a LoRA for
            llama.cpp).
        generator: Generator of the adapter; by default the one that the adapter names.
        base: Base model of a plain LoRA, or of a generator whose base was moved; by default the one the adapter names.
        lossy: Export the LoRA even if other parts of the adapter are lost.

    Returns:
        A summary. `lost` lists the parts of the adapter that the export does not contain.

    Raises:
        InputError: Parts of the adapter would be lost and `lossy` is False. Nothing is written.
        CheckpointError: The folder is damaged, or belongs to another generator or base model.
    """
    named, of = None if generator is None else str(generator), None if base is None else str(base)
    source = open_exportable(Path(adapter), generator=named, base=of)
    return {**write_export(source, format, Path(folder), lossy=lossy), "lost": list(source.lost(format))}


def verify(folder: str | Path, *, base: str | Path | None = None, inputs: Sequence[str] = INPUTS) -> list[Check]:
    """Load an export of format "peft" with PEFT and check that it gives the same logits.

    Args:
        folder: Folder of the export.
        base: Base model; by default the one that the export names.
        inputs: Texts to compare logits on.

    Returns:
        The checks, each with `name`, `passed` (None if it was skipped because another check failed) and `detail`.

    Raises:
        CheckpointError: The folder is not an export of format "peft".
        InputError: A text is empty.
    """
    return verify_export(Path(folder), base=None if base is None else str(base), inputs=inputs)
