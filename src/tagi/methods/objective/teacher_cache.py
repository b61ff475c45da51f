"""Cache of a teacher's distributions, so that the teacher is not needed during training."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tagi.backbones.shapes import Scalar
from tagi.data.batches import Sample
from tagi.data.text.encoder import TextEncoder
from tagi.errors import CheckpointError
from tagi.files import write_text
from tagi.methods.objective.losses import TopLogits, top_distillation_loss, top_logits
from tagi.methods.objective.teachers import Teacher
from tagi.methods.protocol import Batch

_IDENTITY = "cache.json"
_SHARD = 2048
_TOLERANCE = 0.02
"""Log-probabilities are stored in half precision, and their rounding depends on the other samples of a batch."""


def sample_key(sample: Sample) -> str:
    """Return a digest of what a distribution depends on besides the teacher: task, wording, input, target, examples.

    Demonstrations count only where they were drawn for the sample, so that older caches keep their keys.
    """
    parts = [sample.task.name, sample.task.category, sample.instruction, sample.prompt, sample.target]
    if sample.examples is not None:
        parts.append(json.dumps([(one.input, one.output) for one in sample.examples]))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def distinct_samples(batches: Iterable[Sequence[Sample]]) -> dict[str, Sample]:
    """Return every sample of the batches once, by key and in their order."""
    return {sample_key(sample): sample for batch in batches for sample in batch}


class TeacherCache:
    """Reads what `CacheWriter` wrote: for each sample the largest log-probabilities at its target's tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._where: dict[str, tuple[Path, int, int]] = {}
        for shard in sorted(folder.glob("part-*.safetensors")):
            with _opened(shard) as file:
                offsets = file.get_tensor("offsets").tolist()
                keys = json.loads(file.metadata()["keys"])
            for key, start, end in zip(keys, offsets, offsets[1:], strict=False):
                self._where[key] = (shard, start, end)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Return log-probabilities and their tokens, `(row, target, k)`, padded to the longest target.

        Raises `CheckpointError` for a sample that is not in the cache.
        """
        found = [self.entry(sample) for sample in samples]
        # The loss ignores padding according to the labels.
        values = pad_sequence([values.float() for values, _ in found], batch_first=True)
        return {"values": values, "indices": pad_sequence([ids.long() for _, ids in found], batch_first=True)}

    def distillation(self, batch: Batch, logits: Tensor, labels: Tensor, temperature: float) -> Scalar:
        """Return L_kl of a student's logits (eq. 5) from what `collate` made."""
        return top_distillation_loss(logits, TopLogits(batch["values"], batch["indices"]), labels, temperature)

    def entry(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Return one sample's log-probabilities and tokens; `CheckpointError` if it is not in the cache."""
        key = sample_key(sample)
        if key not in self._where:
            raise CheckpointError(
                f"{self.folder}: expected the teacher's distribution for an input of task {sample.task.name!r}, got "
                "none: the data or the seed has changed since the cache was made"
            )
        shard, start, end = self._where[key]
        with _opened(shard) as file:
            return file.get_slice("values")[start:end], file.get_slice("indices")[start:end]


@dataclass(frozen=True)
class CacheWriter:
    """Runs a teacher on every sample once and stores the largest log-probabilities at each token of the target.

    Args:
        teacher: The teacher, on `device`.
        text: Turns targets into tokens.
        top_k: Log-probabilities stored per token.
        temperature: Temperature of the teacher's distributions.
        batch_size: Samples in a batch.
        device: Device on which the teacher runs.
        vocabulary: Size of the student's vocabulary: a teacher's may be padded to a larger one. None if it is not.
    """

    teacher: Teacher
    text: TextEncoder
    top_k: int
    temperature: float
    batch_size: int
    device: torch.device
    vocabulary: int | None = None

    def write(
        self, folder: Path, samples: Mapping[str, Sample], advance: Callable[[int], None] = lambda _: None
    ) -> TeacherCache:
        """Write a cache of the samples, and call `advance` with the number of samples of every part.

        Parts of an interrupted call are used. Raises `CheckpointError` if the folder was made with another teacher,
        temperature, limit or other samples, and if the teacher now gives other values for a few samples.
        """
        _claim(folder, self._identity(samples))
        ordered = list(samples.values())
        for number, start in enumerate(range(0, len(ordered), _SHARD)):
            part = ordered[start : start + _SHARD]
            shard = folder / f"part-{number:05d}.safetensors"
            if not shard.exists():
                self._write_shard(shard, part)
            advance(len(part))
        cache = TeacherCache(folder)
        self._check(cache, ordered)
        return cache

    def _identity(self, samples: Mapping[str, Sample]) -> dict[str, Any]:
        return {
            "teacher": dict(self.teacher.identity()),
            "text": self.text.settings.as_dict(),
            "top_k": self.top_k,
            "temperature": self.temperature,
            "samples": len(samples),
            "samples_digest": hashlib.sha256("".join(samples).encode()).hexdigest()[:16],
        }

    def _write_shard(self, shard: Path, samples: Sequence[Sample]) -> None:
        values, indices, offsets = [], [], [0]
        for start in range(0, len(samples), self.batch_size):
            for largest, tokens in self._ask(samples[start : start + self.batch_size]):
                values.append(largest.half())
                indices.append(tokens.int())
                offsets.append(offsets[-1] + largest.shape[0])
        tensors = {"values": torch.cat(values), "indices": torch.cat(indices), "offsets": torch.tensor(offsets)}
        temporary = shard.with_name(f".{shard.name}")
        save_file(tensors, temporary, metadata={"keys": json.dumps([sample_key(sample) for sample in samples])})
        temporary.replace(shard)

    def _ask(self, samples: Sequence[Sample]) -> Iterator[tuple[Float[Tensor, "_target k"], Int[Tensor, "_target k"]]]:
        """Yield every sample's largest log-probabilities and their tokens, without padding."""
        labels = self.text.labels([self.text.target(sample.target) for sample in samples])
        batch = {name: tensor.to(self.device) for name, tensor in self.teacher.collate(samples).items()}
        logits = self.teacher.logits(batch, labels.to(self.device))[..., : self.vocabulary]
        top = top_logits(logits, self.top_k, self.temperature)
        for row, length in enumerate((labels != -100).sum(1).tolist()):
            yield top.values[row, :length].cpu(), top.indices[row, :length].cpu()

    def _check(self, cache: TeacherCache, samples: Sequence[Sample]) -> None:
        some = samples[:: max(1, len(samples) // 8)]
        for sample, (now, _) in zip(some, self._ask(some), strict=True):
            stored, _ = cache.entry(sample)
            room = _TOLERANCE * (1 + float(now.abs().max()))
            if stored.shape != now.shape or float((stored.float() - now).abs().max()) > room:
                raise CheckpointError(
                    f"{cache.folder}: expected what the teacher says of an input of task {sample.task.name!r}, got "
                    "something else: remove the cache to make it anew"
                )


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    path, identity = folder / _IDENTITY, json.loads(json.dumps(identity))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(identity, indent=2) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}") from error
    odd = [key for key in identity if not isinstance(found, dict) or found.get(key) != identity[key]]
    if odd:
        got = found.get(odd[0]) if isinstance(found, dict) else found
        raise CheckpointError(
            f"{folder}: expected a cache with {odd[0]} = {identity[odd[0]]}, got {got}: remove it to make it anew"
        )


def _opened(shard: Path) -> Any:
    try:
        return safe_open(shard, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{shard}: expected whole safetensors, got a damaged file ({error})") from error
