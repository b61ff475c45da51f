"""A teacher's distributions computed once ahead, so that it need not sit in memory while its student is trained."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tagi.data.batches import Sample
from tagi.data.text.encoder import TextEncoder
from tagi.errors import CheckpointError
from tagi.files import write_text
from tagi.methods.objective.losses import top_logits
from tagi.methods.objective.teachers import Teacher
from tagi.settings.text import IGNORED

_IDENTITY = "cache.json"
_SHARD = 2048
_TOLERANCE = 0.02
"""Log-probabilities are kept in half precision, and a batch of another make-up rounds otherwise."""


def sample_key(sample: Sample) -> str:
    """What a teacher's distribution depends on besides the teacher: task, wording, input, target and demonstrations.

    Demonstrations count only where they were drawn for the sample, so that older caches keep their keys.
    """
    parts = [sample.task.name, sample.task.category, sample.instruction, sample.input, sample.target]
    if sample.examples is not None:
        parts.append(json.dumps([(one.input, one.output) for one in sample.examples]))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def distinct_samples(batches: Iterable[Sequence[Sample]]) -> dict[str, Sample]:
    """Every sample that the batches hold, once, by key and in their order."""
    return {sample_key(sample): sample for batch in batches for sample in batch}


class TeacherCache:
    """Reads what `write_cache` left: per sample the largest log-probabilities at each of its target's tokens."""

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

    def rows(self, samples: Sequence[Sample]) -> tuple[Float[Tensor, "row target k"], Int[Tensor, "row target k"]]:
        """Log-probabilities and their tokens, padded to the longest target; `CheckpointError` if one is not there."""
        found = [self._read(sample) for sample in samples]
        length = max(values.shape[0] for values, _ in found)
        kept = found[0][0].shape[1]
        # Padding is ignored by its labels: any distribution that gives no NaN will do.
        values = torch.full((len(found), length, kept), -float(torch.tensor(kept + 1.0).log()))
        indices = torch.arange(kept).expand(len(found), length, kept).clone()
        for row, (own_values, own_indices) in enumerate(found):
            values[row, : own_values.shape[0]] = own_values.float()
            indices[row, : own_indices.shape[0]] = own_indices.long()
        return values, indices

    def _read(self, sample: Sample) -> tuple[Tensor, Tensor]:
        key = sample_key(sample)
        if key not in self._where:
            raise CheckpointError(
                f"{self.folder}: expected the teacher's distribution for an input of task {sample.task.name!r}, got "
                "none: the data or the seed has changed since the cache was made"
            )
        shard, start, end = self._where[key]
        with _opened(shard) as file:
            return file.get_slice("values")[start:end], file.get_slice("indices")[start:end]


def write_cache(
    folder: Path,
    teacher: Teacher,
    samples: Mapping[str, Sample],
    text: TextEncoder,
    *,
    top_k: int,
    temperature: float,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda _: None,
) -> TeacherCache:
    """Ask the teacher for every sample once and keep its `top_k` largest log-probabilities.

    Parts that an interrupted call has left are kept. A folder that was made with another teacher, temperature, limit or
    other samples is a `CheckpointError`, and so is one whose entries are not what the teacher says now (checked on a
    few): nothing in it is trusted.
    """
    identity = _identity(teacher, samples, text, top_k, temperature)
    _claim(folder, identity)
    ordered = list(samples.values())
    for number, start in enumerate(range(0, len(ordered), _SHARD)):
        part = ordered[start : start + _SHARD]
        shard = folder / f"part-{number:05d}.safetensors"
        if not shard.exists():
            _write_shard(shard, teacher, part, text, top_k, temperature, batch_size, device)
        advance(len(part))
    cache = TeacherCache(folder)
    _spot_check(cache, teacher, ordered, text, top_k, temperature, device)
    return cache


def _identity(
    teacher: Teacher, samples: Mapping[str, Sample], text: TextEncoder, top_k: int, temperature: float
) -> dict[str, Any]:
    content = {
        "teacher": dict(teacher.identity()),
        "text": text.settings.as_dict(),
        "top_k": top_k,
        "temperature": temperature,
        "samples": len(samples),
        "samples_digest": hashlib.sha256("".join(samples).encode()).hexdigest()[:16],
    }
    return dict(json.loads(json.dumps(content)))


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / _IDENTITY
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


def _write_shard(
    shard: Path,
    teacher: Teacher,
    samples: Sequence[Sample],
    text: TextEncoder,
    top_k: int,
    temperature: float,
    batch_size: int,
    device: torch.device,
) -> None:
    values, indices, offsets = [], [], [0]
    for start in range(0, len(samples), batch_size):
        for kept, tokens in _ask(teacher, samples[start : start + batch_size], text, top_k, temperature, device):
            values.append(kept.half())
            indices.append(tokens.int())
            offsets.append(offsets[-1] + kept.shape[0])
    tensors = {"values": torch.cat(values), "indices": torch.cat(indices), "offsets": torch.tensor(offsets)}
    temporary = shard.with_name(f".{shard.name}")
    save_file(tensors, temporary, metadata={"keys": json.dumps([sample_key(sample) for sample in samples])})
    temporary.replace(shard)


def _ask(
    teacher: Teacher,
    samples: Sequence[Sample],
    text: TextEncoder,
    top_k: int,
    temperature: float,
    device: torch.device,
) -> Iterator[tuple[Float[Tensor, "_target k"], Int[Tensor, "_target k"]]]:
    """Every sample's largest log-probabilities and their tokens, without padding."""
    labels = text.labels([text.target(sample.target) for sample in samples])
    batch = {name: tensor.to(device) for name, tensor in teacher.collate(samples).items()}
    top = top_logits(teacher.logits(batch, labels.to(device)), top_k, temperature)
    for row, length in enumerate((labels != IGNORED).sum(1).tolist()):
        yield top.values[row, :length].cpu(), top.indices[row, :length].cpu()


def _spot_check(
    cache: TeacherCache,
    teacher: Teacher,
    samples: Sequence[Sample],
    text: TextEncoder,
    top_k: int,
    temperature: float,
    device: torch.device,
) -> None:
    some = samples[:: max(1, len(samples) // 8)]
    for sample, (now, _) in zip(some, _ask(teacher, some, text, top_k, temperature, device), strict=True):
        kept, _ = cache._read(sample)
        room = _TOLERANCE * (1 + float(now.abs().max()))
        if kept.shape != now.shape or float((kept.float() - now).abs().max()) > room:
            raise CheckpointError(
                f"{cache.folder}: expected what the teacher says of an input of task {sample.task.name!r}, got "
                "something else: remove the cache to make it anew"
            )


def _opened(shard: Path) -> Any:
    try:
        return safe_open(shard, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{shard}: expected whole safetensors, got a damaged file ({error})") from error
