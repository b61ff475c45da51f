"""Decoder-only models: target modules, padding that changes nothing, prompts read once, answers and scores by hand."""

import copy
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.attach import Attachment
from tagi.adapters.merge import merge
from tagi.backbones.causal import CausalBackbone, score_after
from tagi.backbones.load import CAUSAL
from tagi.backbones.scores import choice_scores
from tagi.data.text.encoder import CausalTextEncoder
from tagi.errors import InputError
from tests.causal_models import (
    CORE,
    EMBEDDED,
    FUSED,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    MODELS,
    POSITIONS,
    WINDOW,
    causal_tokenizer,
    close,
    exact_causal,
    tiny_causal,
    tiny_causal_model,
)
from tests.models import (
    CHOICES,
    IDENTITY,
    INPUTS,
    ROUNDING,
    ROW_TASKS,
    ROWS,
    random_bank,
    rounding,
    same,
    text_settings,
    traces,
)

TEXT = CausalTextEncoder(causal_tokenizer(), text_settings())
PROMPTS = [TEXT.input(text) for text in INPUTS]
IDS, MASK = TEXT.batch(PROMPTS)
TARGETS = [TEXT.target(row[-1]) for row in CHOICES]
LABELS = TEXT.labels(TARGETS)
CHOICE_LABELS = TEXT.choice_labels(CHOICES)
END = causal_tokenizer().eos_token_id
ROWS_OF = torch.tensor(ROW_TASKS)
every_type = pytest.mark.parametrize("kind", MODELS)
core = pytest.mark.parametrize("kind", CORE)


def test_every_supported_type_is_tested() -> None:
    assert set(MODELS) == set(CAUSAL)
    assert set(CORE) < set(MODELS)


@every_type
def test_sites_are_separate_query_and_value_projections(kind: str) -> None:
    backbone = tiny_causal(kind)
    assert backbone.max_tokens == POSITIONS
    assert backbone.d_model == (EMBEDDED if kind == "opt" else HIDDEN)
    assert backbone.fused == (kind in FUSED)
    if kind in FUSED:  # tests/parity/test_peft_causal.py
        return
    assert [(module.layer, module.projection) for module in backbone.target_modules] == [
        (at, p) for at in range(LAYERS) for p in "qv"
    ]
    config = backbone.model.config
    width = getattr(config, "head_dim", None) or HIDDEN // HEADS
    value = getattr(config, "num_key_value_heads", None) or HEADS
    for module in backbone.target_modules:
        assert module.path.endswith(f".{module.projection}_proj")
        assert (module.d_in, module.d_out) == (HIDDEN, width * (HEADS if module.projection == "q" else value))
        assert backbone.target_layers[module.path].weight.shape == (module.d_out, module.d_in)
    if kind == "llama":
        assert {module.d_out for module in backbone.target_modules} == {HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM}


def alone(model: Any, ids: list[int]) -> Tensor:
    """What transformers gives one text by itself: no padding, no mask, no cache."""
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


@every_type
def test_a_padded_batch_gives_every_row_what_it_gets_alone(kind: str) -> None:
    assert len({len(ids) for ids in PROMPTS}) > 3
    assert max(map(len, PROMPTS)) > WINDOW > min(map(len, PROMPTS))
    backbone = exact_causal(kind)
    with torch.no_grad():
        states = backbone.encode(IDS, MASK)
        logits = backbone.logits(IDS, MASK, LABELS)
        for row, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
            wanted = alone(backbone.model, prompt + target)[len(prompt) - 1 : -1]
            close(logits[row, : len(target)], wanted)
            own = backbone.model.base_model(input_ids=torch.tensor([prompt])).last_hidden_state[0]
            close(states[row, -len(prompt) :], own)
    assert states.shape == (*IDS.shape, backbone.d_model)


@core
def test_more_padding_on_the_left_changes_nothing(kind: str) -> None:
    backbone = tiny_causal(kind).double()
    wider = torch.cat([torch.full((ROWS, 4), 77), IDS], 1), torch.cat([torch.zeros(ROWS, 4).bool(), MASK], 1)
    with torch.no_grad():
        same(backbone.logits(*wider, LABELS), backbone.logits(IDS, MASK, LABELS))
        same(backbone.encode(*wider)[:, 4:][MASK], backbone.encode(IDS, MASK)[MASK])
        found = score_after(backbone, backbone.read(*wider), CHOICE_LABELS)
        same(found, score_after(backbone, backbone.read(IDS, MASK), CHOICE_LABELS))
    wanted = backbone.generate(IDS, MASK, max_new_tokens=5)
    assert torch.equal(backbone.generate(*wider, max_new_tokens=5), wanted)


def slow_score(backbone: CausalBackbone, prompt: list[int], target: list[int], reduction: str) -> Tensor:
    """One full pass over one choice after one prompt."""
    logits = alone(backbone.model, prompt + target)
    steps = [logits[len(prompt) - 1 + at].log_softmax(-1)[token] for at, token in enumerate(target)]
    return torch.stack(steps).sum() / (len(target) if reduction == "mean" else 1)


@every_type
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_scores_from_a_cache_are_those_of_single_passes(kind: str, reduction: Any) -> None:
    backbone = exact_causal(kind)
    most = max(len(row) for row in CHOICES)
    assert len({len(TEXT.target(choice)) for row in CHOICES for choice in row}) > 3
    with torch.no_grad():
        found = score_after(backbone, backbone.read(IDS, MASK), CHOICE_LABELS, reduction)
    assert found.shape == (ROWS, most)
    for row, choices in enumerate(CHOICES):
        wanted = [slow_score(backbone, PROMPTS[row], TEXT.target(choice), reduction) for choice in choices]
        close(found[row, : len(choices)], torch.stack(wanted))
        assert torch.equal(found[row, len(choices) :], torch.zeros(most - len(choices), dtype=found.dtype))
        labels = CHOICE_LABELS[row : row + 1, : len(choices)]
        ids, mask = TEXT.batch([PROMPTS[row]])
        with torch.no_grad():
            close(score_after(backbone, backbone.read(ids, mask), labels, reduction)[0], torch.stack(wanted))


def test_choices_of_a_single_token() -> None:
    backbone = tiny_causal().double()
    labels = TEXT.choice_labels([[""]] * ROWS)
    assert labels.tolist() == [[[END]]] * ROWS
    with torch.no_grad():
        found = score_after(backbone, backbone.read(IDS, MASK), labels)
    for row, prompt in enumerate(PROMPTS):
        same(found[row, 0], slow_score(backbone, prompt, [END], "sum"))


def test_scores_of_given_logits_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [torch.nan, 0.0]]]).bfloat16()
    labels = torch.tensor([[[1, 0], [1, -100]]])
    first, second, third = (-torch.log1p(torch.exp(torch.tensor(-x))) for x in (0.0, 1.0, 3.0))
    found = choice_scores(logits, labels, "sum")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.stack([first + second, third]).unsqueeze(0))
    means = torch.stack([(first + second) / 2, third]).unsqueeze(0)
    torch.testing.assert_close(choice_scores(logits, labels, "mean"), means)


@core
def test_a_prompt_is_read_once_and_stays_as_it_was(kind: str) -> None:
    backbone = tiny_causal(kind).double()
    read: list[tuple[int, ...]] = []
    handle = backbone.model.get_input_embeddings().register_forward_hook(lambda _, args, __: read.append(args[0].shape))
    with torch.no_grad():
        prefix = backbone.read(IDS, MASK)
        before = [layer.keys.clone() for layer in prefix.cache.layers]
        one = score_after(backbone, prefix, CHOICE_LABELS)
        assert torch.equal(score_after(backbone, prefix, CHOICE_LABELS), one)
    handle.remove()
    rows, most, longest = CHOICE_LABELS.shape
    assert read == [tuple(IDS.shape), (rows * most, longest - 1), (rows * most, longest - 1)]
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(prefix.cache.layers, before, strict=True))
    assert prefix.cache.get_seq_length() == IDS.shape[1]


def greedy(backbone: CausalBackbone, prompt: list[int], steps: int) -> list[int]:
    answer: list[int] = []
    while len(answer) < steps and answer[-1:] != [END]:
        answer.append(int(alone(backbone.model, prompt + answer)[-1].argmax()))
    return answer


def ended(answer: Tensor) -> list[int]:
    """Up to and with the end."""
    ids: list[int] = answer.tolist()
    return ids[: ids.index(END) + 1] if END in ids else ids


def likes_to_end(backbone: CausalBackbone) -> CausalBackbone:
    """The same model, which ends wherever it would say its favourite word: answers of unequal length."""
    favourite = backbone.generate(IDS, MASK, max_new_tokens=8)[:, 1:].flatten().mode().values
    head = backbone.model.get_output_embeddings().weight.data
    head[END] = head[favourite] * 1.1
    return backbone


@core
def test_greedy_answers_are_an_argmax_loop(kind: str) -> None:
    backbone = likes_to_end(tiny_causal(kind).double())
    found = backbone.generate(IDS, MASK, max_new_tokens=8)
    wanted = [greedy(backbone, prompt, 8) for prompt in PROMPTS]
    assert [ended(row) for row in found] == wanted
    assert len({len(answer) for answer in wanted}) > 1
    assert len({tuple(answer) for answer in wanted}) > ROWS // 2


@core
def test_beams_are_transformers_own_for_every_prompt_alone(kind: str) -> None:
    backbone = likes_to_end(tiny_causal(kind).double())
    found = backbone.generate(IDS, MASK, max_new_tokens=6, num_beams=3)
    for row, prompt in enumerate(PROMPTS):
        own = backbone.model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)).long(),
            max_new_tokens=6,
            num_beams=3,
            do_sample=False,
            early_stopping=True,
            pad_token_id=END,
        )
        assert ended(found[row]) == ended(own[0, len(prompt) :])
    assert [ended(row) for row in found] != [greedy(backbone, prompt, 6) for prompt in PROMPTS]


class Heard(logging.Handler):
    """What transformers says while it works."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def heard() -> Iterator[list[str]]:
    handler = Heard()
    library = logging.getLogger("transformers")
    level = library.level  # a command that ran in this process has told it to be quiet
    library.setLevel(logging.WARNING)
    library.addHandler(handler)
    yield handler.lines
    library.removeHandler(handler)
    library.setLevel(level)


HUB = {
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 3,
    "repetition_penalty": 3.0,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(30)),
    "length_penalty": 5.0,
    "max_length": 9,
    "max_new_tokens": 2,
}
"""What a model's own generation settings may hold."""


@core
def test_nothing_is_said_and_nothing_is_left(kind: str, heard: list[str]) -> None:
    """Also with what hub models bring along."""
    backbone = tiny_causal(kind).double()
    wanted = [backbone.generate(IDS, MASK, max_new_tokens=5, num_beams=beams) for beams in (1, 3)]
    own = backbone.model.generation_config
    for name, value in HUB.items():
        setattr(own, name, value)
    settings = own.to_dict(), backbone.model.config.to_dict()
    before = list(traces(backbone.model))
    with torch.no_grad():
        backbone.encode(IDS, MASK)
        backbone.logits(IDS, MASK, LABELS)
        score_after(backbone, backbone.read(IDS, MASK), CHOICE_LABELS)
    found = [backbone.generate(IDS, MASK, max_new_tokens=5, num_beams=beams) for beams in (1, 3)]
    assert list(traces(backbone.model)) == before
    assert (own.to_dict(), backbone.model.config.to_dict()) == settings
    assert backbone.model.generation_config is own
    assert heard == []
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_what_transformers_says_is_heard(heard: list[str]) -> None:
    model = tiny_causal_model()
    model.generation_config.max_length = 9
    model.generate(input_ids=IDS, attention_mask=MASK.long(), max_new_tokens=2, pad_token_id=END)
    assert "Both `max_new_tokens`" in heard[0]


def test_whatever_ends_an_answer_for_the_model_ends_it() -> None:
    backbone = tiny_causal().double()
    answer = backbone.generate(IDS, MASK, max_new_tokens=6)
    second = int(answer[0, 1])
    assert second not in (END, int(answer[0, 0]))
    assert backbone.end_tokens == [END]
    for own in (second, [second, END]):
        backbone.model.generation_config.eos_token_id = own
        assert backbone.end_tokens == sorted([END, second])
        found = backbone.generate(IDS, MASK, max_new_tokens=6)
        assert found[0].tolist() == [*answer[0, :2].tolist(), *[END] * (found.shape[1] - 2)]
    backbone.model.generation_config.eos_token_id = None
    assert backbone.end_tokens == [END]


def test_no_more_than_the_positions() -> None:
    backbone = tiny_causal("gpt2")
    room = POSITIONS - IDS.shape[1]
    likes = backbone.generate(IDS, MASK, max_new_tokens=room)
    assert likes.shape[1] <= room
    with pytest.raises(InputError, match=rf"at most {POSITIONS} tokens .* got {IDS.shape[1]} and {room + 1}"):
        backbone.generate(IDS, MASK, max_new_tokens=room + 1)


def test_a_bank_in_a_mixed_batch_is_merged_weights() -> None:
    """Grouped queries: the value's B is narrower. Rows, choices and beams each get their own task's LoRA."""
    backbone = tiny_causal().double()
    bank = random_bank(backbone.target_modules).map(lambda factor: factor.double())
    most = CHOICE_LABELS.shape[1]

    def attached(times: int) -> Any:
        return Attachment(bank.hooks(backbone.target_layers, ROWS_OF.repeat_interleave(times))).active()

    with torch.no_grad():
        with attached(1):
            logits, prefix = backbone.logits(IDS, MASK, LABELS), backbone.read(IDS, MASK)
        with attached(most):
            scores = score_after(backbone, prefix, CHOICE_LABELS)
        with attached(3):
            beams = backbone.generate(IDS, MASK, max_new_tokens=4, num_beams=3)
        for task in set(ROW_TASKS):
            merged = CausalBackbone(merge(backbone.model, bank, task), causal_tokenizer(), IDENTITY)
            rows = task == ROWS_OF
            same(logits[rows], merged.logits(IDS[rows], MASK[rows], LABELS[rows]))
            same(scores[rows], score_after(merged, merged.read(IDS[rows], MASK[rows]), CHOICE_LABELS[rows]))
            found = merged.generate(IDS[rows], MASK[rows], max_new_tokens=4, num_beams=3)
            assert [ended(row) for row in found] == [ended(row) for row in beams[rows]]
        assert rounding(logits, backbone.logits(IDS, MASK, LABELS)) > 0.1


def test_two_threads_on_two_banks_leave_one_another_alone() -> None:
    backbone = tiny_causal().double()
    banks = [
        random_bank(backbone.target_modules, tasks=1, seed=seed).map(lambda factor: factor.double()) for seed in (3, 4)
    ]

    @torch.no_grad()
    def ask(at: int) -> tuple[Tensor, Tensor]:
        with Attachment(banks[at].hooks(backbone.target_layers)).active():
            scores = score_after(backbone, backbone.read(IDS, MASK), CHOICE_LABELS)
            return scores, backbone.generate(IDS, MASK, max_new_tokens=4 + at, num_beams=1 + at)

    wanted = [ask(0), ask(1)]
    before = list(traces(backbone.model))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(ask, [0, 1] * 5))
    for at, (scores, answers) in enumerate(found):
        assert torch.equal(scores, wanted[at % 2][0])
        assert torch.equal(answers, wanted[at % 2][1])
    assert not torch.equal(wanted[0][0], wanted[1][0])
    assert list(traces(backbone.model)) == before


@core
def test_gradient_checkpointing_recomputes_with_the_same_adapters(kind: str) -> None:
    def gradients(checkpointed: bool) -> list[Tensor]:
        backbone = tiny_causal(kind).double()
        bank = random_bank(backbone.target_modules).map(lambda factor: factor.double())
        if checkpointed:
            backbone.checkpoint_gradients()
        backbone.train()
        for part in backbone.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        calls: list[int] = []
        layer = next(part for name, part in backbone.model.named_modules() if name.endswith(("mlp", "fc1")))
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
        with Attachment(bank.hooks(backbone.target_layers, ROWS_OF)).active():
            logits = backbone.logits(IDS, MASK, LABELS)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), LABELS.flatten()).backward()
        assert len(calls) == (2 if checkpointed else 1)
        return [p.grad for p in backbone.parameters() if p.grad is not None]

    plain, recomputed = gradients(False), gradients(True)
    assert len(plain) == len(recomputed) > 10
    for one, other in zip(plain, recomputed, strict=True):
        assert torch.equal(one, other)


@core
def test_half_precision(kind: str) -> None:
    backbone = tiny_causal(kind)
    with torch.no_grad():
        exact = backbone.logits(IDS, MASK, LABELS)
        backbone = copy.deepcopy(backbone).to(torch.bfloat16)
        found = backbone.logits(IDS, MASK, LABELS)
        assert found.dtype == torch.bfloat16
        assert ROUNDING < rounding(found, exact) < 64 * torch.finfo(torch.bfloat16).eps
        prefix = backbone.read(IDS, MASK)
        assert {layer.keys.dtype for layer in prefix.cache.layers} == {torch.bfloat16}
        assert score_after(backbone, prefix, CHOICE_LABELS).dtype == torch.float32
    assert backbone.generate(IDS, MASK, max_new_tokens=5).shape[0] == ROWS
