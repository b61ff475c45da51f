"""What learns in context: demonstrations encoded once are as good as anew, one at a time and all in one text."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from tagi.backbones.load import load_backbone
from tagi.backbones.t5 import T5Backbone
from tagi.data.batches import Sample
from tagi.data.task import Example, Task
from tagi.errors import InputError
from tagi.methods.fid import QUERY_MARK, FidICL
from tagi.methods.in_context import ConcatICL, EnsembleICL, InContext
from tagi.methods.load import load_method
from tagi.settings.generator import LoraShape
from tests.models import (
    ALPHA,
    CHOICES,
    IDENTITY,
    INPUTS,
    INSTRUCTIONS,
    RANK,
    ROW_TASKS,
    same,
    tasks,
    text_settings,
    tiny_backbone,
    tokenizer,
    words,
)

ROWS_OF = torch.tensor(ROW_TASKS)
KINDS: tuple[type[InContext], ...] = (FidICL, ConcatICL, EnsembleICL)
every_kind = pytest.mark.parametrize("kind", KINDS)
LONGEST = 90


def made(kind: type[InContext], backbone: T5Backbone | None = None, **changed: Any) -> Any:
    limits = {"max_input_tokens": LONGEST, "max_instruction_tokens": LONGEST, **changed}
    return kind(backbone or tiny_backbone(), text_settings(**limits)).double().eval()


def one_shot() -> list[Task]:
    """The tasks with a single demonstration each."""
    return [replace(task, shots=task.shots[:1]) for task in tasks()]


def demonstration(example: Example) -> list[int]:
    """By hand: marks of words that the tokenizer does not know."""
    known = tokenizer().get_vocab()
    mark = [known["<unk>"]] * 3
    return [*mark, *(known[word] for word in example.input.split()), *mark, *(known[w] for w in example.output.split())]


def encoded(backbone: T5Backbone, ids: list[int]) -> Tensor:
    rows = torch.tensor([ids])
    return backbone.encode(rows, torch.ones_like(rows, dtype=torch.bool))


def anew(method: FidICL, shots: tuple[Example, ...], prompt: list[int], choice: str) -> float:
    """Log-probability of a choice with everything encoded for it alone, by transformers' own loss."""
    backbone = method.backbone
    parts = [*(demonstration(shot) for shot in shots), prompt]
    states = torch.cat([encoded(backbone, part) for part in parts], dim=1)
    labels = torch.tensor([tokenizer()(choice)["input_ids"]])
    loss = backbone.model(encoder_outputs=BaseModelOutput(last_hidden_state=states), labels=labels).loss
    return -float(loss) * labels.shape[1]


@pytest.mark.parametrize("reads", ["instruction", "demonstrations"])
@pytest.mark.parametrize("all_shots", [False, True])
@torch.no_grad()
def test_cached_demonstrations_are_as_good_as_encoded_anew(reads: str, all_shots: bool) -> None:
    """In a batch that mixes tasks of one demonstration, or of one, two and three."""
    method = made(FidICL, reads=reads)
    known = tasks() if all_shots else one_shot()
    scores = method.score_choices(method.prepare(known), ROWS_OF, INPUTS, CHOICES)
    for row, task in enumerate(ROW_TASKS):
        told = f"{INSTRUCTIONS[task]} {INPUTS[row]}" if reads == "instruction" else INPUTS[row]
        prompt = tokenizer()(told)["input_ids"]
        wanted = [anew(method, known[task].shots, prompt, choice) for choice in CHOICES[row]]
        assert scores[row] == pytest.approx(wanted, rel=1e-12)
    # What is generated is likeliest token by token under the same states.
    answers = method.predict(method.prepare(known), ROWS_OF, INPUTS, max_new_tokens=3)
    for row, task in enumerate(ROW_TASKS):
        told = f"{INSTRUCTIONS[task]} {INPUTS[row]}" if reads == "instruction" else INPUTS[row]
        parts = [*map(demonstration, known[task].shots), tokenizer()(told)["input_ids"]]
        states = torch.cat([encoded(method.backbone, part) for part in parts], dim=1)
        whole = torch.ones(1, states.shape[1], dtype=torch.long)
        found = method.backbone.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=whole,
            max_new_tokens=3,
            do_sample=False,
        )
        assert method.text.decode(found) == [answers[row]]


@torch.no_grad()
def test_training_reads_what_inference_caches() -> None:
    method = made(FidICL)
    known = tasks()
    samples = [
        Sample(known[task], INSTRUCTIONS[task], INPUTS[row], CHOICES[row][-1]) for row, task in enumerate(ROW_TASKS)
    ]
    batch = method.collate(samples)
    assert batch["owners"].tolist() == [0, 0, 0, 1, 1, 2]  # tasks 2, 0, 1 as they come
    assert batch["rows"].tolist() == [0, 1, 2, 2, 0, 1, 0]
    logits = method.logits(**batch)
    scores = method.score_choices(method.prepare(known), ROWS_OF, INPUTS, [[choices[-1]] for choices in CHOICES])
    for row, sample in enumerate(samples):
        alone = method.collate([sample])
        same(logits[row : row + 1, : alone["labels"].shape[1]], method.logits(**alone))
        loss = float(method(**alone)["loss"]) * alone["labels"].shape[1]
        assert -loss == pytest.approx(scores[row][0], rel=1e-6)  # the loss is in fp32
    # An episode's own demonstrations stand before the task's.
    other = [replace(samples[0], shots=samples[1].task.shots)]
    assert not torch.allclose(method.logits(**method.collate(other)), method.logits(**method.collate(samples[:1])))


def test_the_order_of_demonstrations_does_not_matter_and_each_does() -> None:
    """FiD-ICL's demonstrations do not see each other, and the decoder's cross-attention has no positions."""
    method = made(FidICL)
    task = tasks()[2]
    orders = [task.shots, task.shots[::-1], task.shots[:2]]
    states = method.prepare([replace(task, shots=shots) for shots in orders])
    one, other, fewer = method.score_choices(states, torch.arange(3), INPUTS[:1] * 3, [CHOICES[3]] * 3)
    assert one == pytest.approx(other, rel=1e-12)
    assert one != pytest.approx(fewer, rel=1e-4)


@pytest.mark.parametrize("reads", ["instruction", "demonstrations"])
def test_an_ensemble_of_one_is_one_shot_concatenation(reads: str) -> None:
    backbone = tiny_backbone()
    ensemble, concat = made(EnsembleICL, backbone, reads=reads), made(ConcatICL, backbone, reads=reads)
    known = one_shot()
    for one in (
        lambda method: method.score_choices(method.prepare(known), ROWS_OF, INPUTS, CHOICES),
        lambda method: method.predict(method.prepare(known), ROWS_OF, INPUTS, max_new_tokens=5),
        lambda method: {name: tensor.tolist() for name, tensor in method.collate(samples_of(known)).items()},
    ):
        assert one(ensemble) == one(concat)


def samples_of(known: list[Task]) -> list[Sample]:
    return [Sample(known[task], INSTRUCTIONS[task], INPUTS[row], CHOICES[row][0]) for row, task in enumerate(ROW_TASKS)]


@torch.no_grad()
def test_an_ensemble_is_the_mean_of_its_passes() -> None:
    backbone = tiny_backbone()
    ensemble, concat = made(EnsembleICL, backbone), made(ConcatICL, backbone)
    known = tasks()
    scores = ensemble.score_choices(ensemble.prepare(known), ROWS_OF, INPUTS, CHOICES)
    answers = ensemble.predict(ensemble.prepare(known), ROWS_OF, INPUTS, max_new_tokens=4)
    alone = ensemble.prepare(known[1:2])
    for row, task in enumerate(ROW_TASKS):
        shots, only = known[task].shots, torch.tensor([0])
        states = [concat.prepare([replace(known[task], shots=(shot,))]) for shot in shots]
        passes = torch.tensor([concat.score_choices(one, only, [INPUTS[row]], [CHOICES[row]])[0] for one in states])
        assert scores[row] == pytest.approx(passes.mean(0).tolist(), rel=1e-6)
        if task == 1:
            assert ensemble.predict(alone, only, [INPUTS[row]], max_new_tokens=4) == [answers[row]]
    assert greedy_means(concat, known[2], INPUTS[0], 4) == answers[0]
    one_by_one = concat.prepare([replace(known[2], shots=(shot,)) for shot in known[2].shots])
    assert len({answers[0], *concat.predict(one_by_one, torch.arange(3), INPUTS[:1] * 3, max_new_tokens=4)}) > 1


def greedy_means(concat: ConcatICL, task: Task, text: str, steps: int) -> str:
    """Token by token, every pass run anew: the token whose log-probability is largest on average."""
    backbone, written = concat.backbone, list[int]()
    prompts = [[*demonstration(shot), *tokenizer()(f"{task.instruction} {text}")["input_ids"]] for shot in task.shots]
    while len(written) < steps and written[-1:] != [1]:
        given = torch.tensor([[0, *written]])
        means = [
            backbone.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded(backbone, prompt)), decoder_input_ids=given
            ).logits[0, -1].log_softmax(-1)
            for prompt in prompts
        ]  # fmt: skip
        written.append(int(torch.stack(means).mean(0).argmax()))
    return concat.text.decode(torch.tensor([written]))[0]


@torch.no_grad()
def test_an_ensembles_loss_is_the_mean_of_its_passes() -> None:
    ensemble = made(EnsembleICL)
    sample = samples_of(tasks())[0]
    assert len(sample.task.shots) == 3
    losses = [
        float(ensemble(**ensemble.collate([replace(sample, shots=(shot,))]))["loss"]) for shot in sample.task.shots
    ]
    assert float(ensemble(**ensemble.collate([sample]))["loss"]) == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert max(losses) - min(losses) > 1e-3


def test_an_ensemble_refuses_beams() -> None:
    ensemble = made(EnsembleICL)
    with pytest.raises(InputError, match=r"^ensemble-icl: expected greedy answers, .* got 3 beams$"):
        ensemble.predict(ensemble.prepare(tasks()), ROWS_OF, INPUTS, max_new_tokens=2, num_beams=3)


def test_demonstrations_go_before_the_query_is_cut() -> None:
    task, text = tasks()[2], INPUTS[0]
    query = tokenizer()(f"{task.instruction} {text}")["input_ids"]
    shown = [demonstration(shot) for shot in task.shots]
    lengths = [len(query) + sum(map(len, shown[:count])) for count in range(4)]
    for count, length in enumerate(lengths):
        for limit in (length, lengths[count + 1] - 1 if count < 3 else length + 50):
            method = made(ConcatICL, max_input_tokens=limit)
            ids = method.collate([Sample(task, task.instruction, text, "a")])["input_ids"][0].tolist()
            assert ids == [*(one for part in shown[:count] for one in part), *query]
    cut = made(ConcatICL, max_input_tokens=lengths[0] - 4)
    ids = cut.collate([Sample(task, task.instruction, text, "a")])["input_ids"][0].tolist()
    assert ids == [*query[: lengths[0] - 5], 1]
    with pytest.raises(InputError, match=f"expected at most {lengths[0] - 4} tokens, got {lengths[0]}"):
        cut.score_choices(cut.prepare([task]), torch.tensor([0]), [text], [CHOICES[0]])


def marked_backbone() -> T5Backbone:
    """With a tokenizer that has the query's mark, in the place of a sentinel."""
    backend = tokenizer().backend_tokenizer.to_str().replace("<extra_id_7>", QUERY_MARK)
    from tokenizers import Tokenizer

    known = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(backend), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    return T5Backbone(tiny_backbone().model, known, IDENTITY)


def test_a_query_starts_with_its_mark_where_there_is_one() -> None:
    sample = [Sample(tasks()[1], INSTRUCTIONS[1], INPUTS[0], "a")]
    plain, marked = made(FidICL, reads="demonstrations"), made(FidICL, marked_backbone(), reads="demonstrations")
    mark = tokenizer().get_vocab()["<extra_id_7>"]
    ids = plain.collate(sample)["input_ids"][0].tolist()
    assert marked.collate(sample)["input_ids"][0].tolist() == [mark, *ids]
    short = made(FidICL, marked_backbone(), reads="demonstrations", max_input_tokens=len(ids))
    assert short.collate(sample)["input_ids"].shape == (1, 1 + len(ids))  # the limit does not count it
    for kind in (ConcatICL, EnsembleICL):
        assert mark not in made(kind, marked_backbone()).collate(sample)["input_ids"]


@every_kind
def test_shots_are_needed(kind: type[InContext]) -> None:
    method = made(kind)
    assert method.needs_demonstrations
    bare = replace(tasks()[0], name="bare", shots=())
    with pytest.raises(InputError, match=r"^bare: expected demonstrations \(shots\) to learn from, got none$"):
        method.prepare([tasks()[1], bare])
    with pytest.raises(InputError, match=r"^bare: expected demonstrations"):
        method.collate([Sample(bare, bare.instruction, INPUTS[0], "a")])


@every_kind
def test_a_trained_lora_travels(kind: type[InContext], backbone_folder: Path, tmp_path: Path) -> None:
    settings = text_settings(max_input_tokens=70, reads="demonstrations")
    method = kind(load_backbone(str(backbone_folder), T5Backbone), settings, LoraShape(RANK, ALPHA, 2)).eval()
    with torch.no_grad():
        for parameter in method.trained_tensors().values():
            parameter.add_(0.1)
    method.save(tmp_path / "model")
    loaded = load_method(tmp_path / "model")
    assert type(loaded) is kind
    assert loaded.text.settings == settings
    known = tasks()
    found, wanted = (one.score_choices(one.prepare(known), ROWS_OF, INPUTS, CHOICES) for one in (loaded, method))
    assert found == wanted
    frozen = kind(load_backbone(str(backbone_folder), T5Backbone), settings).eval()
    assert frozen.score_choices(frozen.prepare(known), ROWS_OF, INPUTS, CHOICES) != wanted


def test_positive_examples_are_not_shown_besides() -> None:
    shown = replace(tasks()[1], examples=(Example(words(3, 2), words(4, 1)),))
    for kind in KINDS:
        method = made(kind, positives=1)
        batches = [method.collate([Sample(task, INSTRUCTIONS[1], INPUTS[0], "a")]) for task in (shown, tasks()[1])]
        assert batches[0].keys() == batches[1].keys()
        assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])
