"""An instruction read once for all inputs of its task: nothing that is answered or scored is any other."""

import pytest
import torch

from tagi.backbones.prefixes import join_prefixes, keep_prefix
from tagi.errors import ConfigError
from tagi.methods import CausalConcatenation, load_method
from tagi.methods.costs import Lengths
from tests.causal_models import MODELS, causal_tokenizer, tiny_causal, tiny_causal_model
from tests.models import CHOICES, INPUTS, ROW_TASKS, same, tasks, text_settings

ROWS_OF = torch.tensor(ROW_TASKS)
TEXT = text_settings(max_input_tokens=40, positives=1)
WINDOWED = ("gemma2", "gemma3_text", "gpt_neo", "mistral")
"""Types with a layer that attends to a window of tokens."""
WHOLE = [kind for kind in MODELS if kind not in WINDOWED]


def both(kind: str) -> tuple[CausalConcatenation, CausalConcatenation]:
    """The same weights, read anew for every input and with the instruction kept."""
    return tuple(  # type: ignore[return-value]
        CausalConcatenation(tiny_causal(kind), TEXT, prefix_cached=kept).double().eval() for kept in (False, True)
    )


@pytest.mark.parametrize("kind", WHOLE)
def test_scores_are_those_of_prompts_read_anew(kind: str) -> None:
    anew, kept = both(kind)
    given = [
        method.score_choices(method.prepare(tasks()), ROWS_OF, INPUTS, CHOICES, reduction="sum")
        for method in (anew, kept)
    ]
    for one, other in zip(*given, strict=True):
        wanted, found = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
        same(found, wanted)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_prompts_read_anew(kind: str, beams: int) -> None:
    anew, kept = both(kind)
    answers = [
        method.predict(method.prepare(tasks()), ROWS_OF, INPUTS, max_new_tokens=6, num_beams=beams)
        for method in (anew, kept)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", WINDOWED)
def test_windows_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"attend to the whole text .*got '{kind}' with a window"):
        both(kind)


def test_only_what_follows_is_read_for_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    _, kept = both("llama")
    states = kept.prepare(tasks())
    lengths: list[int] = []
    inner = kept.backbone.model.forward

    def counting(*args: object, **given: object) -> object:
        lengths.append(given["input_ids"].shape[1])  # type: ignore[attr-defined]
        return inner(*args, **given)

    monkeypatch.setattr(kept.backbone.model, "forward", counting)
    one_task = torch.tensor([1])
    kept.score_choices(states, one_task, ["w5"], [["w7", "w9"]])
    prompt = kept._prompt(tasks()[1], "w5", truncate=False)
    (prefix,) = [states.prefixes[1]]  # type: ignore[attr-defined]
    assert lengths[0] == len(prompt) - prefix.common(prompt) < len(prompt)


def test_a_prompt_that_differs_sooner_goes_on_from_there() -> None:
    backbone = tiny_causal("llama").double().eval()
    prefix = keep_prefix(backbone, [0, 7, 8, 9, 11])
    assert prefix.common([0, 7, 8, 9, 11, 12]) == 5
    assert prefix.common([0, 7, 12, 9, 11, 12]) == 2
    assert prefix.common([0, 7, 8]) == 2  # one token is left to be read
    other = keep_prefix(backbone, [0, 5])
    cache, ids, mask = join_prefixes(backbone, [prefix, other], [3, 1])
    assert ids.tolist() == [[0, 7, 8], [0, 0, 0]]
    assert mask.tolist() == [[True] * 3, [False, False, True]]
    assert cache.get_seq_length() == 3


def test_without_instruction_the_input_is_read_alone() -> None:
    anew, kept = both("gpt2")
    asked = (ROWS_OF, INPUTS)
    wanted = anew.predict(anew.without_instruction(anew.prepare(tasks())), *asked, max_new_tokens=4)
    assert kept.predict(kept.without_instruction(kept.prepare(tasks())), *asked, max_new_tokens=4) == wanted


def test_it_travels_in_a_checkpoint_and_costs_less(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from tagi.backbones import load_backbone

    folder = tmp_path / "llama"
    tiny_causal_model().save_pretrained(folder)
    causal_tokenizer().save_pretrained(folder)
    method = CausalConcatenation(load_backbone(str(folder)), TEXT, prefix_cached=True)  # type: ignore[arg-type]
    method.save(tmp_path / "checkpoint")
    loaded = load_method(tmp_path / "checkpoint")
    assert isinstance(loaded, CausalConcatenation)
    assert loaded.prefix_cached
    lengths = Lengths(instruction=13, input=7, output=3, examples=11)
    plain = CausalConcatenation(load_backbone(str(folder)), TEXT)  # type: ignore[arg-type]
    assert loaded.cost(lengths).total < plain.cost(lengths).total
