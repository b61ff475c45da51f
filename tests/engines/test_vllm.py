"""A real vLLM gives the tokens that our adapters give, in fp32, from exported folders and chat messages alone.

`TAGI_VLLM_PYTHON` names the Python of an environment with vLLM for CPUs, which is not this one: `make test-engines`.
"""

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tagi.api.task_adapter import TaskAdapter
from tagi.formats.export import export, exportable_of
from tests.engines.vllm_server import running_vllm, vllm_python
from tests.prompted_adapters import (
    NEW_TOKENS,
    TASKS,
    conversation,
    ended,
    our_tokens,
    smollm2_base,
    smollm2_generator,
    without_prefix,
)

pytestmark = pytest.mark.slow

MODEL = "base"
AT_ONCE = 8


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TaskAdapter]]:
    """A folder with the base model and an export for every task, and the adapters in memory."""
    vllm_python()
    folder = tmp_path_factory.mktemp("vllm")
    generator = smollm2_generator(smollm2_base(folder / MODEL))
    made = generator.adapt(list(TASKS))
    assert isinstance(made, list)
    for at, adapter in enumerate(made):
        export(exportable_of(adapter), "peft", folder / f"task{at}")
    return folder, made


@pytest.fixture(scope="module")
def address(adapters: tuple[Path, list[TaskAdapter]]) -> Iterator[str]:
    """The address of a running vLLM that serves the exports."""
    folder, made = adapters
    modules = [f"task{at}={folder / f'task{at}'}" for at in range(len(made))]
    options = ("--served-model-name", MODEL, "--max-num-seqs", str(AT_ONCE), "--max-loras", str(len(made)))
    with running_vllm(folder / MODEL, folder / "vllm.log", *options, "--lora-modules", *modules) as found:
        yield found


def vllm_tokens(address: str, model: str, instruction: str | None, text: str) -> list[int]:
    asked = {
        "model": model,
        "messages": conversation(instruction, text),
        "temperature": 0,
        "max_tokens": NEW_TOKENS,
        "return_token_ids": True,
    }
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answered:
        found: Any = json.load(answered)
    tokens: list[int] = found["choices"][0]["token_ids"]
    return tokens


@pytest.mark.parametrize("prompted", [True, False], ids=["instruction", "alone"])
def test_vllm_gives_the_same_tokens(prompted: bool, adapters: tuple[Path, list[TaskAdapter]], address: str) -> None:
    """Eight adapters, each a system message or none, five inputs each."""
    asked = [
        (f"task{at}", instruction if prompted else None, text)
        for at, (instruction, inputs) in enumerate(TASKS.items())
        for text in inputs
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:  # requests for different adapters share vLLM's batches
        answered = list(pool.map(lambda one: vllm_tokens(address, *one), asked))
    wanted = [
        row
        for adapter, inputs in zip(adapters[1], TASKS.values(), strict=True)
        for row in our_tokens(adapter if prompted else without_prefix(adapter), inputs)
    ]
    tokenizer = adapters[1][0].generator.text.tokenizer
    found = [ended(row, tokenizer) for row in answered]
    different = [
        {"model": model, "input": text, "vllm": theirs, "tagi": ours}
        for (model, _, text), theirs, ours in zip(asked, found, wanted, strict=True)
        if theirs != ours
    ]
    assert len(found) == sum(map(len, TASKS.values()))
    assert different == []


def test_the_base_model_answers_otherwise(adapters: tuple[Path, list[TaskAdapter]], address: str) -> None:
    """vLLM serves the adapters and not the base model under their names."""
    instruction, inputs = next(iter(TASKS.items()))
    answers = [[vllm_tokens(address, model, instruction, text) for text in inputs] for model in (MODEL, "task0")]
    assert answers[0] != answers[1]
