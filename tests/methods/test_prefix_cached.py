"""An instruction's keys and values kept: the same answers and scores as without, of every type, with less to read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import load_backbone
from tagi.backbones.prompt_cache import cached_part, keep_starts
from tagi.data.batches import Sample
from tagi.data.task import Example, Task
from tagi.errors import InputError
from tagi.methods import causal
from tagi.methods.causal import CausalConcatenation
from tagi.methods.flops import Lengths
from tagi.methods.load import load_method
from tagi.settings.generator import LoraShape
from tests.causal_models import CORE, MODELS, WINDOW, causal_tokenizer, close, exact_causal, tiny_causal_model
from tests.methods.counting import counting
from tests.models import (
    ALPHA,
    CHOICES,
    IDENTITY,
    INPUTS,
    INSTRUCTIONS,
    RANK,
    ROW_TASKS,
    ROWS,
    tasks,
    text_settings,
    traces,
    words,
)

ROWS_OF = torch.tensor(ROW_TASKS)
TEXT = text_settings(max_input_tokens=40, positives=1)
every_type = pytest.mark.parametrize("kind", MODELS)
core = pytest.mark.parametrize("kind", CORE)


def both(kind: str = "llama", **options: Any) -> tuple[CausalConcatenation, CausalConcatenation]:
    """The same weights, anew and cached."""
    anew, cached = (
        CausalConcatenation(exact_causal(kind), TEXT, prefix_cached=kept, **options).eval() for kept in (False, True)
    )
    return anew, cached


@pytest.fixture(autouse=True)
def _unlike_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that begin in unlike ways for a tokenizer of these words: to it the others are all unknown, so alike."""
    monkeypatch.setattr(causal, "_UNLIKE", ("w1", "w2 w3"))


def widths(method: CausalConcatenation) -> list[tuple[int, ...]]:
    """The shape of everything that the model reads from now on."""
    read: list[tuple[int, ...]] = []
    embedding = method.backbone.model.get_input_embeddings()
    embedding.register_forward_hook(lambda _, args, __: read.append(tuple(args[0].shape)))
    return read


def flat(scores: list[list[float]], kind: str) -> Tensor:
    dtype = exact_causal(kind).model.dtype
    return torch.tensor([one for row in scores for one in row], dtype=dtype)


@every_type
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_scores_are_those_without_a_cache(kind: str, reduction: Any) -> None:
    """Every row of its own task, instructions shorter and longer than a sliding window."""
    lengths = [len(text.split()) for text in INSTRUCTIONS]
    assert min(lengths) < WINDOW < max(lengths)
    anew, cached = both(kind)
    wanted = anew.score_choices(anew.prepare(tasks()), ROWS_OF, INPUTS, CHOICES, reduction=reduction)
    found = cached.score_choices(cached.prepare(tasks()), ROWS_OF, INPUTS, CHOICES, reduction=reduction)
    close(flat(found, kind), flat(wanted, kind))


@every_type
@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_without_a_cache(kind: str, beams: int) -> None:
    anew, cached = both(kind)
    wanted = anew.predict(anew.prepare(tasks()), ROWS_OF, INPUTS, max_new_tokens=5, num_beams=beams)
    states = cached.prepare(tasks())
    assert cached.predict(states, ROWS_OF, INPUTS, max_new_tokens=5, num_beams=beams) == wanted
    assert len(set(wanted)) > 1
    for row in range(ROWS):  # alone, and after all that has been asked of the same states
        found = cached.predict(states, ROWS_OF[row : row + 1], [INPUTS[row]], max_new_tokens=5, num_beams=beams)
        assert found == [wanted[row]]


@core
def test_an_instruction_is_read_once(kind: str) -> None:
    _, cached = both(kind)
    read = widths(cached)
    states = cached.prepare(tasks())
    longest = 1 + max(len(text.split()) for text in INSTRUCTIONS)
    assert read == [(len(INSTRUCTIONS), longest)]
    shortest = min(range(ROWS), key=lambda row: len(INPUTS[row].split()))
    alone = ROWS_OF[shortest : shortest + 1], [INPUTS[shortest]]
    cached.score_choices(states, *alone, [("w1",)])
    assert read[1] == (1, len(INPUTS[shortest].split()) + 1)  # the input and the arrow that asks
    cached.score_choices(states, ROWS_OF, INPUTS, [("w1",)] * ROWS)
    assert read[3] == (ROWS, max(len(text.split()) for text in INPUTS) + 1)


@core
def test_what_it_costs_is_what_it_does(kind: str) -> None:
    if kind == "opt":  # the states of this one are of another width than its embeddings: not costed
        return
    _, cached = both(kind)
    (task,) = tasks()[:1]
    seen, read = 1 + len(task.instruction.split()), len(INPUTS[0].split()) + 1
    lengths = Lengths(seen, read, 1, 9)
    with counting() as once:
        states = cached.prepare([task])
    with counting() as each:
        cached.score_choices(states, torch.tensor([0]), INPUTS[:1], [("",)])  # a choice of the end alone
    cost = cached.cost(lengths)
    assert cost.each.total == each.total
    head = 2 * cached.backbone.d_model * cached.backbone.vocabulary  # of a token that no one asks for
    assert cost.once.total == once.total - head
    assert cost.total < CausalConcatenation.cost(both(kind)[0], lengths).total


@core
def test_no_instruction_another_s_and_texts_that_are_cut(kind: str) -> None:
    anew, cached = both(kind)
    shown = Task("shown", "c", INSTRUCTIONS[1], (), (Example(words(8, 3), words(9, 1)),))
    long = Task("long", "c", words(1, 30), ())
    every = [*tasks(), shown, long]
    rows = torch.tensor([3, 4, 0, 4, 1, 3, 2])
    inputs = [*INPUTS[:3], words(5, 33), *INPUTS[4:]]
    pairs = []
    for method in (anew, cached):
        states = method.prepare(every, truncate=True)
        silent = method.without_instruction(states)
        found = [method.score_choices(one, rows, inputs, CHOICES, truncate=True) for one in (states, silent)]
        pairs.append(found)
    for wanted, found in zip(*pairs, strict=True):
        close(flat(found, kind), flat(wanted, kind))
    assert pairs[0][0] != pairs[0][1]
    for row in range(ROWS):  # of each as much kept as may be
        alone = (rows[row : row + 1], [inputs[row]], [CHOICES[row]])
        found = cached.score_choices(cached.prepare(every, truncate=True), *alone, truncate=True)
        close(flat(found, kind), flat([pairs[0][0][row]], kind))
    with pytest.raises(InputError, match="expected at most 17 tokens, got 31"):
        cached.prepare(every)


@pytest.mark.parametrize(("unlike", "kept"), [(("a", "c"), True), (("a",), False)])
def test_a_token_that_reaches_over_the_end_is_read_anew(
    unlike: tuple[str, ...], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`b` and a line's end are one token: what the instruction ends with is no token of the prompt. By one input alone
    it cannot be told where prompts part; what is then kept too much is no token of theirs either.
    """
    monkeypatch.setattr(causal, "_UNLIKE", unlike)
    characters = ["<s>", "</s>", *"abcdefg ->\n", "b\n"]
    backend = Tokenizer(BPE({one: at for at, one in enumerate(dict.fromkeys(characters))}, [("b", "\n")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    model = tiny_causal_model("llama", vocab_size=len(tokenizer) + 3).double()
    pair = [
        CausalConcatenation(CausalBackbone(model, tokenizer, IDENTITY), TEXT, prefix_cached=whether)
        for whether in (False, True)
    ]
    asked = [Task("one", "c", "a cab", ()), Task("two", "c", "ab cd", ())]
    assert pair[1].text.instruction("a cab")[-1] != pair[1].text.concatenated("a cab", (), "fed")[4]
    read = widths(pair[1])
    rows, inputs, choices = torch.tensor([0, 1, 0]), ["fed", "a", "g"], [("a", "bed"), ("c", "d"), ("gag", "e")]
    wanted, found = (one.score_choices(one.prepare(asked), rows, inputs, choices) for one in pair)
    close(flat(found, "llama"), flat(wanted, "llama"))
    assert read[3] == (3, len("fed ->"))  # after both ways of reading whole, and the instructions
    assert (read[2][1] == len("\nab cd")) == kept  # of the longer instruction with the line's end


def test_a_batch_may_be_as_wide_as_any_of_its_prompts() -> None:
    """A long instruction with a short input beside a short one with a long: no row is longer than the model reads."""
    anew, cached = both()
    answer = 4
    room = cached.backbone.max_tokens - answer
    limits = text_settings(max_instruction_tokens=room, max_input_tokens=room, max_target_tokens=answer)
    anew.text, cached.text = (type(anew.text)(causal_tokenizer(), limits) for _ in range(2))
    asked = [Task("long", "c", words(1, room - 6), ()), Task("short", "c", words(2, 2), ())]
    inputs, rows = [words(3, 4), words(4, room - 4)], torch.tensor([0, 1])
    wanted, found = (one.predict(one.prepare(asked), rows, inputs, max_new_tokens=answer) for one in (anew, cached))
    assert found == wanted


def test_what_is_kept_stays_as_it_was() -> None:
    _, cached = both()
    states = cached.prepare(tasks())
    before = [(keys.clone(), values.clone()) for keys, values in states.kept.layers]
    left = list(traces(cached))
    cached.predict(states, ROWS_OF, INPUTS, max_new_tokens=3, num_beams=2)
    cached.score_choices(states, ROWS_OF, INPUTS, CHOICES)
    assert list(traces(cached)) == left
    for (keys, values), (old_keys, old_values) in zip(states.kept.layers, before, strict=True):
        assert torch.equal(keys, old_keys)
        assert torch.equal(values, old_values)


def test_the_last_token_is_always_read() -> None:
    backbone = exact_causal("llama")
    kept = keep_starts(backbone, [[0, 9, 8, 7]])
    ids = torch.tensor([[77, 0, 9, 8, 7], [0, 9, 8, 7, 6]])
    mask = torch.tensor([[False, True, True, True, True], [True] * 5])
    known = cached_part(kept, torch.tensor([0, 0]), ids, mask)
    assert known is not None
    assert known.get_seq_length() == 4
    assert cached_part(kept, torch.tensor([0, 0]), ids[:, :1], mask[:, 1:2]) is None
    other = ids.clone()
    other[1, 0] = 5
    assert cached_part(kept, torch.tensor([0, 0]), other, mask) is None


def test_trained_saved_and_loaded_as_what_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    tiny_causal_model().save_pretrained(folder)
    causal_tokenizer().save_pretrained(folder)
    anew, method = (
        CausalConcatenation(
            load_backbone(str(folder), CausalBackbone), TEXT, LoraShape(RANK, ALPHA), prefix_cached=kept
        ).eval()
        for kept in (False, True)
    )
    batch = method.collate([Sample(tasks()[0], INSTRUCTIONS[0], INPUTS[0], "w1")])
    assert torch.equal(method(**batch)["loss"], anew(**batch)["loss"])
    with torch.no_grad():
        for tensor in method.trained_tensors().values():
            tensor.add_(0.1)
    method.save(tmp_path / "saved")
    again = load_method(tmp_path / "saved")
    assert isinstance(again, CausalConcatenation)
    assert again.prefix_cached
    states = again.prepare(tasks())
    wanted = method.score_choices(method.prepare(tasks()), ROWS_OF, INPUTS, CHOICES)
    assert again.score_choices(states, ROWS_OF, INPUTS, CHOICES) == wanted
    assert wanted != anew.score_choices(anew.prepare(tasks()), ROWS_OF, INPUTS, CHOICES)
