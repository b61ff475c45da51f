"""The instruction before every input of a decoder-only model: loss, answers and scores by hand, checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import load_backbone
from tagi.data.batches import Sample
from tagi.data.task import Example, Task
from tagi.errors import CheckpointError, ConfigError, InputError
from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.load import load_method
from tagi.methods.lora import lora_bank
from tagi.settings.generator import LoraShape
from tests.causal_models import CORE, POSITIONS, causal_tokenizer, tiny_causal, tiny_causal_model
from tests.models import (
    ALPHA,
    CHOICES,
    IDENTITY,
    INPUTS,
    INSTRUCTIONS,
    RANK,
    ROW_TASKS,
    ROWS,
    TASKS,
    same,
    tasks,
    text_settings,
    tokenizer,
    traces,
    words,
)

ROWS_OF = torch.tensor(ROW_TASKS)
TEXT = text_settings(max_input_tokens=40, positives=1)
SAMPLES = [
    Sample(tasks()[task], INSTRUCTIONS[task], INPUTS[row], CHOICES[row][-1]) for row, task in enumerate(ROW_TASKS)
]
core = pytest.mark.parametrize("kind", CORE)


def causal(kind: str = "llama", **options: Any) -> CausalConcatenation:
    return CausalConcatenation(tiny_causal(kind), TEXT, **options).double().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as transformers writes it."""
    folder = tmp_path_factory.mktemp("backbone") / "llama"
    tiny_causal_model().save_pretrained(folder)
    causal_tokenizer().save_pretrained(folder)
    return folder


def prompt_of(row: int) -> list[int]:
    """What a row's prompt is, token by token: start, instruction, input, and the arrow of an example."""
    known = causal_tokenizer().get_vocab()
    return [0, *(known[word] for word in f"{INSTRUCTIONS[ROW_TASKS[row]]} {INPUTS[row]} ->".split())]


def test_no_answer_ends_before_the_least_length() -> None:
    """With the first token that the model writes as its end, nothing else keeps it going."""
    method = causal()
    states, row, one = method.prepare(tasks()), torch.tensor([0]), INPUTS[:1]
    first = method.predict(states, row, one, max_new_tokens=1)
    end = causal_tokenizer().convert_tokens_to_ids(first[0])
    method.backbone.model.generation_config.eos_token_id = end
    assert method.predict(states, row, one, max_new_tokens=6) == first
    (longer,) = method.predict(states, row, one, max_new_tokens=6, min_new_tokens=6)
    assert len(longer.split()) == 6
    assert first[0] not in longer.split()


def target_of(text: str) -> list[int]:
    """An answer's tokens and the end."""
    return [*(causal_tokenizer().get_vocab()[word] for word in text.split()), 1]


def alone(method: CausalConcatenation, ids: list[int]) -> Tensor:
    """The logits of one text by itself: no padding, no mask, no cache."""
    with torch.no_grad():
        logits: Tensor = method.backbone.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


@core
def test_the_loss_is_the_cross_entropy_of_the_target_alone(kind: str) -> None:
    method = causal(kind)
    batch = method.collate(SAMPLES)
    for row, sample in enumerate(SAMPLES):
        ids, mask, labels = (batch[name][row] for name in ("input_ids", "input_mask", "labels"))
        assert ids[mask].tolist() == prompt_of(row)
        assert labels[labels != -100].tolist() == target_of(sample.target)
    terms = method(**batch)
    losses = []
    for row, sample in enumerate(SAMPLES):
        prompt, target = prompt_of(row), target_of(sample.target)
        logits = alone(method, prompt + target)[len(prompt) - 1 : -1]
        losses.append(-logits.log_softmax(-1).gather(1, torch.tensor(target).unsqueeze(1)).squeeze(1))
    assert terms.keys() == {"loss", "prediction"}
    assert torch.equal(terms["loss"], terms["prediction"])
    assert not terms["prediction"].requires_grad
    assert terms["loss"].item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)  # summed in fp32


@core
def test_padding_of_the_prompt_moves_neither_loss_nor_gradient(kind: str) -> None:
    method = causal(kind)
    batch = method.collate(SAMPLES)
    ids, mask = batch["input_ids"], batch["input_mask"]
    assert not mask.all()
    other = torch.cat([torch.full((ROWS, 3), 99), ids.masked_fill(~mask, 98)], 1)
    wider = {**batch, "input_ids": other, "input_mask": torch.cat([torch.zeros(ROWS, 3).bool(), mask], 1)}
    found = []
    for one in (batch, wider):
        method.zero_grad()
        loss = method(**one)["loss"]
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert float((found[0][1] - found[1][1]).abs().max()) < 1e-6 * float(found[0][1].abs().max())


@core
def test_scores_are_those_of_single_passes_whatever_the_batch(kind: str) -> None:
    method = causal(kind)
    states = method.prepare(tasks())
    for reduction in ("sum", "mean"):
        together = method.score_choices(states, ROWS_OF, INPUTS, CHOICES, reduction=reduction)
        for row, choices in enumerate(CHOICES):
            wanted = []
            for choice in choices:
                prompt, target = prompt_of(row), target_of(choice)
                logits = alone(method, prompt + target)[len(prompt) - 1 : -1].log_softmax(-1)
                total = logits.gather(1, torch.tensor(target).unsqueeze(1)).sum()
                wanted.append(total / len(target) if reduction == "mean" else total)
            same(torch.tensor(together[row], dtype=torch.float64), torch.stack(wanted))
            states_alone, only = method.prepare([tasks()[ROW_TASKS[row]]]), torch.tensor([0])
            single = method.score_choices(states_alone, only, [INPUTS[row]], [choices], reduction=reduction)
            same(torch.tensor(single[0], dtype=torch.float64), torch.stack(wanted))
    others = method.score_choices(states, (ROWS_OF + 1) % TASKS, INPUTS, CHOICES)
    for one, other in zip(others, together, strict=True):
        assert one != pytest.approx(other, rel=1e-4)


@core
def test_predictions_are_an_argmax_loop_whatever_the_batch(kind: str) -> None:
    method = causal(kind)
    states = method.prepare(tasks())
    together, beams = (method.predict(states, ROWS_OF, INPUTS, max_new_tokens=5, num_beams=count) for count in (1, 3))
    for row, task in enumerate(ROW_TASKS):
        answer: list[int] = []
        while len(answer) < 5 and answer[-1:] != [1]:
            answer.append(int(alone(method, prompt_of(row) + answer)[-1].argmax()))
        assert together[row] == causal_tokenizer().decode(answer, skip_special_tokens=True)
        single = method.prepare([tasks()[task]])
        for count, wanted in ((1, together), (3, beams)):
            found = method.predict(single, torch.tensor([0]), [INPUTS[row]], max_new_tokens=5, num_beams=count)
            assert found == [wanted[row]]
    assert len(set(together)) > ROWS // 2
    assert together != beams


def test_without_its_instruction_the_input_is_read_alone() -> None:
    method = causal()
    states = method.prepare(tasks())
    silent = method.without_instruction(states)
    found = method.score_choices(silent, ROWS_OF, INPUTS, CHOICES)
    for row, choices in enumerate(CHOICES):
        prompt = [0, *prompt_of(row)[1 + len(INSTRUCTIONS[ROW_TASKS[row]].split()) :]]
        target = target_of(choices[0])
        logits = alone(method, prompt + target)[len(prompt) - 1 : -1].log_softmax(-1)
        wanted = logits.gather(1, torch.tensor(target).unsqueeze(1)).sum()
        same(torch.tensor(found[row][0], dtype=torch.float64), wanted)
    assert found == method.score_choices(silent, (ROWS_OF + 1) % TASKS, INPUTS, CHOICES)
    assert found != method.score_choices(states, ROWS_OF, INPUTS, CHOICES)


@core
def test_asking_leaves_nothing(kind: str) -> None:
    method = causal(kind)
    before = list(traces(method))
    states = method.prepare(tasks())
    method.predict(states, ROWS_OF, INPUTS, max_new_tokens=2, num_beams=2)
    method.score_choices(states, ROWS_OF, INPUTS, CHOICES)
    assert list(traces(method)) == before


def test_demonstrations_are_read_with_the_instruction() -> None:
    shown = Task("shown", "c", INSTRUCTIONS[1], (), (Example(words(8, 3), words(9, 1)),))
    ids = causal().collate([Sample(shown, INSTRUCTIONS[1], INPUTS[0], "a")])["input_ids"]
    assert ids.shape == (1, 1 + 4 + (3 + 1 + 1) + 3 + 1)
    assert ids[0].tolist().count(3) == 2  # the arrow of the example, and the one that asks


def test_texts_over_the_limit_are_refused_or_cut() -> None:
    method = causal()
    long = [Task("long", "c", words(1, 50), ())]
    with pytest.raises(InputError, match="expected at most 17 tokens, got 51"):
        method.prepare(long)
    states, known = method.prepare(long, truncate=True), method.prepare(tasks())
    one, far = torch.tensor([0]), [words(2, 60)]
    for call in (
        lambda **options: method.predict(max_new_tokens=2, **options),
        lambda **options: method.score_choices(choices=[CHOICES[3]], **options),
    ):
        with pytest.raises(InputError, match="expected at most 40 tokens"):
            call(states=known, rows=one, inputs=far)
        assert len(call(states=states, rows=one, inputs=far, truncate=True)) == 1
    batch = method.collate([Sample(tasks()[0], INSTRUCTIONS[0], far[0], words(3, 9))])
    assert (batch["input_ids"].shape, batch["labels"].shape) == ((1, 40), (1, 6))
    assert (batch["input_ids"][0, -1], batch["labels"][0, -1]) == (3, 1)


def test_limits_beyond_the_models_positions_are_refused() -> None:
    room = POSITIONS - 6
    CausalConcatenation(tiny_causal("gpt2"), text_settings(max_input_tokens=room))
    with pytest.raises(ConfigError, match=rf"at most {POSITIONS} tokens together .*, got {room + 1} and 6"):
        CausalConcatenation(tiny_causal("gpt2"), text_settings(max_input_tokens=room + 1))


def test_a_tokenizer_of_the_other_kind_serves_too() -> None:
    """T5's conventions: an end after every text, padding of its own."""
    model = tiny_causal_model(vocab_size=len(tokenizer()), pad_token_id=0)
    method = CausalConcatenation(CausalBackbone(model, tokenizer(), IDENTITY), TEXT).double()
    states = method.prepare(tasks())
    together = method.predict(states, ROWS_OF, INPUTS, max_new_tokens=4)
    scores = method.score_choices(states, ROWS_OF, INPUTS, CHOICES)
    for row in range(ROWS):
        one = method.prepare([tasks()[ROW_TASKS[row]]]), torch.tensor([0]), [INPUTS[row]]
        assert method.predict(*one, max_new_tokens=4) == [together[row]]
        assert method.score_choices(*one, [CHOICES[row]])[0] == pytest.approx(scores[row], rel=1e-9)
    ids = method.collate(SAMPLES)["input_ids"]
    assert not (ids == tokenizer().eos_token_id).any()
    assert set(ids[:, 0].tolist()) > {tokenizer().pad_token_id}


@pytest.mark.parametrize("lora", [None, LoraShape(RANK, ALPHA, 2)])
def test_saved_and_loaded_it_is_the_same(lora: LoraShape | None, folder: Path, tmp_path: Path) -> None:
    method = CausalConcatenation(load_backbone(str(folder), CausalBackbone), TEXT, lora).eval()
    with torch.no_grad():
        for tensor in method.trained_tensors().values():
            tensor.add_(0.02)
    method.save(tmp_path / "one", {"steps": 3})
    again = load_method(tmp_path / "one")
    assert isinstance(again, CausalConcatenation)
    assert again.lora == lora
    assert not again.training
    again.save(tmp_path / "two", {"steps": 3})
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["config.json", "model.safetensors"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for one in (again, method):
        states = one.prepare(tasks())
        assert one.predict(states, ROWS_OF, INPUTS, max_new_tokens=4) == method.predict(
            states, ROWS_OF, INPUTS, max_new_tokens=4
        )
        assert one.score_choices(states, ROWS_OF, INPUTS, CHOICES) == method.score_choices(
            states, ROWS_OF, INPUTS, CHOICES
        )
    untrained = CausalConcatenation(load_backbone(str(folder), CausalBackbone), TEXT).eval()
    wanted = untrained.score_choices(states, ROWS_OF, INPUTS, CHOICES)
    assert again.score_choices(states, ROWS_OF, INPUTS, CHOICES) != wanted


def test_a_lora_on_every_site_alone_is_trained() -> None:
    method = CausalConcatenation(tiny_causal(), TEXT, LoraShape(RANK, ALPHA))
    bare = CausalConcatenation(tiny_causal(), TEXT)
    batch = method.collate(SAMPLES)
    assert torch.equal(method(**batch)["loss"], bare(**batch)["loss"])
    method(**batch)["loss"].backward()
    trained = method.trained_tensors()
    assert len(trained) == 2 * len(method.backbone.target_modules) == 8
    assert all("lora_" in name and tensor.grad is not None for name, tensor in trained.items())
    bank = lora_bank(method.backbone, LoraShape(RANK, ALPHA))
    assert {module: b.shape[1] for module, (_, b) in bank.factors.items()} == {
        module.path: module.d_out for module in method.backbone.target_modules
    }
    with pytest.raises(ConfigError, match="lora: expected a backbone with query and value projections of their own"):
        CausalConcatenation(tiny_causal("gpt2"), TEXT, LoraShape(RANK, ALPHA))


def test_a_checkpoint_of_another_architecture_is_one_clear_error(
    folder: Path, backbone_folder: Path, tmp_path: Path
) -> None:
    CausalConcatenation(load_backbone(str(folder), CausalBackbone), TEXT).save(tmp_path / "causal")
    Concatenation(load_backbone(str(backbone_folder)), TEXT).save(tmp_path / "t5")
    with pytest.raises(CheckpointError, match="expected method 'concatenation', got 'causal-concatenation'"):
        Concatenation.load(tmp_path / "causal")
    with pytest.raises(CheckpointError, match="expected method 'causal-concatenation', got 'concatenation'"):
        CausalConcatenation.load(tmp_path / "t5")
    config = json.loads((tmp_path / "t5" / "config.json").read_text())
    (tmp_path / "t5" / "config.json").write_text(json.dumps({**config, "method": "causal-concatenation"}))
    with pytest.raises(ConfigError, match=r"expected a model of type gemma, .*, got 't5'") as caught:
        load_method(tmp_path / "t5")
    assert "\n" not in str(caught.value)


def test_a_few_examples_are_learnt_by_heart() -> None:
    """Every tensor is trained, and what is said in the end is what was taught."""
    torch.manual_seed(0)
    method = CausalConcatenation(tiny_causal(initializer_range=0.1), TEXT)
    batch = method.collate(SAMPLES[:4])
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    losses = []
    for _ in range(32):
        loss = method(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(tensor.grad is not None for tensor in method.trained_tensors().values())
    assert losses[0] > 4
    assert losses[-1] < 0.05
    states = method.eval().prepare(tasks())
    found = method.predict(states, ROWS_OF[:4], INPUTS[:4], max_new_tokens=6)
    assert found == [sample.target for sample in SAMPLES[:4]]
