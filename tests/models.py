"""Tiny models made from configurations, and texts for them. Every dimension differs from every other."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import MT5Config, MT5ForConditionalGeneration, PreTrainedTokenizerFast

from tagi.adapters.bank import LoraBank
from tagi.adapters.protocol import Bank
from tagi.api.generator import AdapterGenerator
from tagi.backbones.load import build_t5
from tagi.backbones.protocol import BaseModel, TargetModule
from tagi.backbones.t5 import T5Backbone
from tagi.data.task import Example, Instance, Task
from tagi.hypernetwork.targets import blank_bank, targets_of
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings

D_MODEL, D_KV, HEADS, D_FF, ENCODER, DECODER = 24, 5, 3, 37, 3, 2
RANK, ALPHA, HIDDEN, WIDTH, QUERY_HEADS = 4, 10.0, 11, 14, 2
TASKS, ROWS = 3, 7
SIZES: dict[str, Any] = {
    "d_model": D_MODEL,
    "d_kv": D_KV,
    "num_heads": HEADS,
    "d_ff": D_FF,
    "num_layers": ENCODER,
    "num_decoder_layers": DECODER,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "v1.0": {},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "deep decoder": {"num_layers": 2, "num_decoder_layers": 3},
}
"""What makes a `T5Config` of `SIZES` a relative of T5."""

IDENTITY = BaseModel("tiny", "sha256:0123456789abcdef")
ROUNDING = 4096 * torch.finfo(torch.float64).eps
"""What rounding may cost in fp64, relative to the largest number: anything else costs far more."""


PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SENTINELS = [f"<extra_id_{at}>" for at in range(20)]
WORDS = [f"w{at}" for at in range(211)]


@lru_cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token; T5's conventions: padding 0, an end 1 after every text, sentinels."""
    vocabulary = {token: at for at, token in enumerate([PAD, END, UNKNOWN, *SENTINELS, *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, vocabulary[END])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=SENTINELS,
    )


def words(start: int, count: int) -> str:
    """Words of the vocabulary, as a text of `count` tokens and one that ends it."""
    return " ".join(WORDS[(start * 37 + at * 11) % len(WORDS)] for at in range(count))


INSTRUCTIONS = (words(1, 9), words(2, 4), words(3, 13))
INPUTS = tuple(words(10 + row, 3 + (row * 5) % 8) for row in range(ROWS))
ROW_TASKS = (2, 0, 1, 1, 2, 0, 2)
CHOICES = tuple(tuple(words(40 + row + 9 * at, 1 + at) for at in range(1 + row % 4)) for row in range(ROWS))


SHOTS = tuple(
    tuple(
        Example(words(80 + 7 * task + at, 2 + (task + at) % 3), words(110 + 5 * task + at, 1 + at))
        for at in range(count)
    )
    for task, count in enumerate((2, 1, 3))
)


def tasks(instructions: Sequence[str] = INSTRUCTIONS) -> list[Task]:
    instances = tuple(Instance(f"i{at}", text, (words(60 + at, 2),)) for at, text in enumerate(INPUTS))
    return [
        Task(f"task{at}", "c", text, instances, shots=SHOTS[at % len(SHOTS)]) for at, text in enumerate(instructions)
    ]


def tiny_model(variant: str = "v1.0", seed: int = 0, **fields: Any) -> Any:
    """A T5 (or "mt5") of `SIZES`, whose logits depend on what it reads."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": len(tokenizer()) + 3, **SIZES}
    if variant == "mt5":
        special = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
        model: Any = MT5ForConditionalGeneration(MT5Config(**sizes, **special, **fields))
    else:
        model = build_t5({**sizes, **VARIANTS[variant], **fields})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "EncDecAttention" in name or "DenseReluDense" in name:
                parameter.mul_(3)
    return model.eval()


def tiny_backbone(variant: str = "v1.0", seed: int = 0, **fields: Any) -> T5Backbone:
    return T5Backbone(tiny_model(variant, seed, **fields), tokenizer(), IDENTITY)


def text_settings(**changed: Any) -> TextSettings:
    limits = {"max_instruction_tokens": 17, "max_input_tokens": 21, "max_target_tokens": 6}
    return TextSettings(**{"encoding": "plain", **limits, **changed})


def settings(**changed: Any) -> GeneratorSettings:
    sizes = {"kind": "query", "rank": RANK, "alpha": ALPHA, "hidden": HIDDEN, "width": WIDTH, "heads": QUERY_HEADS}
    return GeneratorSettings(**{**sizes, **changed})


def fresh_generator(backbone: T5Backbone | None = None, **changed: Any) -> AdapterGenerator:
    """A generator as training starts with it: Delta W = 0, gates closed."""
    return AdapterGenerator(backbone or tiny_backbone(), settings(**changed), text_settings()).eval()


def tiny_generator(backbone: T5Backbone | None = None, **changed: Any) -> AdapterGenerator:
    """A generator whose adapters and gates do something, different for every task."""
    generator = fresh_generator(backbone, **changed)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if re.search(r"\.(B|up|down_bias|up_bias)_[qv]*_?\d+$", name):
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.2)
            elif re.search(r"heads\.(keys|values)_\d+$", name):
                parameter.mul_(9)
            elif name.endswith("gate"):
                parameter.copy_(torch.rand((), generator=random) + 0.5)
    return generator


def random_bank(
    target_modules: Sequence[TargetModule], tasks: int = TASKS, seed: int = 3, scale: float = ALPHA / RANK
) -> LoraBank:
    """Factors as large as weights: what they do is far above rounding."""
    random = torch.Generator().manual_seed(seed)
    factors = {
        module.path: (
            torch.randn(tasks, RANK, module.d_in, generator=random) * module.d_in**-0.5,
            torch.randn(tasks, module.d_out, RANK, generator=random) * 0.3,
        )
        for module in target_modules
    }
    return LoraBank(factors, scale)


MODULES: dict[str, dict[str, Any]] = {
    "bottleneck": {"module": "bottleneck", "bottleneck": 7},
    "parallel bottleneck": {"module": "bottleneck", "placement": "ffn", "bottleneck": 7},
    "prefix": {"module": "prefix", "prefix": 2},
    "bottleneck+prefix": {"module": "bottleneck+prefix", "placement": "ffn", "bottleneck": 7, "prefix": 2},
}
"""What is generated besides LoRA, as settings say it."""


def random_module(backbone: T5Backbone, name: str, tasks: int = TASKS, seed: int = 6) -> Bank:
    """A bank of `MODULES` whose numbers are large enough for what it does to be far above rounding."""
    random = torch.Generator().manual_seed(seed)
    blank = blank_bank(targets_of(backbone, settings(**MODULES[name])))
    if "prefix" in name:
        backbone.take_prefixes()
    shapes = {key: tensor.shape[1:] for key, tensor in blank.tensors().items()}
    return blank.like({key: torch.randn(tasks, *shape, generator=random) * 0.4 for key, shape in shapes.items()})


def rounding(found: Tensor, wanted: Tensor) -> float:
    """How far `found` is from `wanted`, relative to the largest number there."""
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).abs().max() / wanted.abs().max())


def same(found: Tensor, wanted: Tensor) -> None:
    """Equal to what rounding in fp64 may cost."""
    assert found.dtype == wanted.dtype == torch.float64
    assert found.shape == wanted.shape
    assert rounding(found, wanted) < ROUNDING


def traces(module: nn.Module) -> Iterator[tuple[Any, ...]]:
    """All that a call could leave on a module or on any inside it."""
    for path, part in module.named_modules():
        hooks = [key for key, value in vars(part).items() if "hooks" in key and value]
        forward = vars(part).get("forward")
        yield path, sorted(vars(part)), hooks, forward, part.training
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        yield name, id(tensor), tensor.requires_grad, tensor.grad is None, tensor.detach().clone().numpy().tobytes()
