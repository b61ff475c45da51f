"""Pretraining a backbone by span corruption on unlabelled text. Used for the toy backbone."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tagi.backbones.model_files import write_model
from tagi.backbones.shapes import Labels, Scalar, TokenIds, TokenMask
from tagi.backbones.t5 import T5Backbone
from tagi.data.denoising import corrupt_spans
from tagi.data.text.encoder import TextEncoder
from tagi.errors import ConfigError
from tagi.files import new_folder
from tagi.methods.objective.losses import prediction_loss
from tagi.methods.protocol import Batch, Trainable
from tagi.settings.text import TextSettings


class Denoiser(Trainable):
    """T5's pretraining task, training all parameters.

    T5 corrupts 15% of documents of 512 tokens; the default here is for documents of about 30 tokens.
    """

    def __init__(self, backbone: T5Backbone, *, seed: int, density: float = 0.3, mean_length: float = 3.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.seed = seed
        self.density = density
        self.mean_length = mean_length
        self.text = TextEncoder(backbone.tokenizer, TextSettings(encoding="plain"))
        vocabulary = backbone.tokenizer.get_vocab()
        names = sorted((name for name in vocabulary if name.startswith("<extra_id_")), key=_sentinel_number)
        self.sentinels = [vocabulary[name] for name in names]
        if not self.sentinels:
            raise ConfigError("span corruption: expected a tokenizer with sentinels <extra_id_0>, ..., got none")

    def collate(self, samples: Sequence[str]) -> Batch:
        """Corrupt documents into sources and targets. The spans depend only on seed and text."""
        tokenizer = self.backbone.tokenizer
        pairs = []
        for document in samples:
            rng = random.Random(f"spans {self.seed} {document}")
            pairs.append(
                corrupt_spans(
                    self.text.document(document),
                    self.sentinels,
                    tokenizer.eos_token_id,
                    rng,
                    density=self.density,
                    mean_length=self.mean_length,
                )
            )
        ids, mask = self.text.batch([pair.source for pair in pairs])
        return {
            "input_ids": ids,
            "input_mask": mask,
            "labels": self.text.labels([pair.target for pair in pairs]),
        }

    def forward(self, input_ids: TokenIds, input_mask: TokenMask, labels: Labels) -> dict[str, Scalar]:
        """Compute the cross-entropy of the spans."""
        states = self.backbone.encode(input_ids, input_mask)
        return {"loss": prediction_loss(self.backbone.logits(states, input_mask, labels), labels)}

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write a transformers folder, replacing an earlier one."""
        with new_folder(folder, overwrite=True) as temporary:
            write_model(temporary, self.backbone.model, self.backbone.tokenizer)


def _sentinel_number(name: str) -> int:
    return int(name.removeprefix("<extra_id_").removesuffix(">"))
