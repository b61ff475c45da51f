"""A bank as a PEFT adapter of its backbone."""

from pathlib import Path

from tagi.adapters.bank import LoraBank
from tagi.backbones.protocol import Backbone
from tagi.formats.peft import write_peft


def write_lora(folder: Path, bank: LoraBank, backbone: Backbone) -> None:
    """Write a bank of one task into an existing folder, pinned to the backbone as PEFT pins one.

    PEFT knows the hub's commits alone: another revision does not stand there.
    """
    base = backbone.identity
    write_peft(
        folder,
        bank,
        base=base.name,
        revision=None if base.revision.startswith("sha256:") else base.revision,
        task_type="SEQ_2_SEQ_LM" if backbone.encoder_decoder else "CAUSAL_LM",
        linears=backbone.linears,
        transposed=backbone.transposed,
    )
