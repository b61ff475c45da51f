"""An adapter that reads its instruction under its own LoRA answers as transformers and PEFT do from messages alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tagi.api.generator import AdapterGenerator
from tagi.formats.export import export, exportable_of
from tests.prompted_adapters import (
    NEW_TOKENS,
    TASKS,
    our_tokens,
    peft_tokens,
    smollm2_base,
    smollm2_generator,
    tiny_chat_base,
    tiny_chat_generator,
    without_prefix,
)

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MODELS: list[Any] = [
    pytest.param(tiny_chat_base, tiny_chat_generator, 2, id="tiny"),
    pytest.param(smollm2_base, smollm2_generator, 5, id="smollm2", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("make_base", "make_generator", "count"), MODELS)
@pytest.mark.parametrize("prompted", [True, False], ids=["instruction", "alone"])
def test_peft_gives_the_same_tokens(
    make_base: Callable[[Path], Path],
    make_generator: Callable[[Path], AdapterGenerator],
    count: int,
    prompted: bool,
    tmp_path: Path,
) -> None:
    """With every task's first inputs, as many as `count`."""
    tasks = {instruction: inputs[:count] for instruction, inputs in TASKS.items()}
    base = make_base(tmp_path / "base")
    generator = make_generator(base)
    adapters = generator.adapt(list(tasks))
    assert isinstance(adapters, list)
    answers = {}
    for at, (adapter, (instruction, inputs)) in enumerate(zip(adapters, tasks.items(), strict=True)):
        export(exportable_of(adapter), "peft", tmp_path / str(at))
        asked = adapter if prompted else without_prefix(adapter)
        wanted = our_tokens(asked, inputs)
        assert asked.predict(inputs, max_new_tokens=NEW_TOKENS) == [
            generator.text.tokenizer.decode(row, skip_special_tokens=True).strip() for row in wanted
        ]
        assert peft_tokens(tmp_path / str(at), base, instruction if prompted else None, inputs) == wanted
        answers |= {(instruction, text): row for text, row in zip(inputs, wanted, strict=True)}
    # The adapters do something, and the inputs are told apart.
    bare = [row for inputs in tasks.values() for row in our_tokens(without_lora(adapters[0]), inputs)]
    changed = sum(row != plain for row, plain in zip(answers.values(), bare, strict=True))
    assert changed > len(bare) / 2
    assert len({tuple(row) for row in answers.values()}) > len(answers) / 2


def without_lora(adapter: Any) -> Any:
    """The backbone itself, asked without an instruction."""
    alone = without_prefix(adapter)
    alone.states = alone.states.without_lora()
    return alone
