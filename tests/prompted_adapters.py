"""Adapters whose instruction is read under their own LoRA, on a tiny chat model and SmolLM2, and PEFT's answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import load_backbone
from tagi.hypernetwork.inference import answer
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings
from tagi.stages.recipe_settings import generator_settings, generator_text
from tagi.stages.recipes import load_recipe
from tests.causal_models import tiny_causal_model
from tests.data.test_causal_text import bytes_tokenizer

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|turn|>system\nBe kind.<|over|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' + m['content'] + '<|over|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
"""As SmolLM2's: a user's message that stands alone gets a default system message."""
SETTINGS = GeneratorSettings(
    kind="query",
    rank=3,
    alpha=9.0,
    hidden=13,
    width=12,
    heads=3,
    fusion="none",
    shared_rank=5,
    residual="both",
    instruction_cache="adapted",
)
RANK = 8
"""Of the exported LoRA: that of the shared LoRA and that of the residual."""
TEXT = TextSettings(encoding="chat", max_instruction_tokens=430, max_input_tokens=270, max_target_tokens=29)
NEW_TOKENS = 24
TASKS: dict[str, list[str]] = {
    "Translate the sentence into Spanish.": [
        "The bakery opens at seven in the morning.",
        "My sister lost her umbrella on the bus.",
        "Where can I buy fresh fish around here?",
        "We are going to repaint the kitchen next week.",
        "The children are playing in the garden.",
    ],
    "Say whether the review is positive or negative. Answer with one word.": [
        "The soup was cold and nobody apologised.",
        "I have never slept in a more comfortable bed.",
        "It broke on the second day and the shop refused to help.",
        "Fast delivery, neat packaging, and the colour is lovely.",
        "The plot drags and the ending makes no sense.",
    ],
    "Turn this note into a polite e-mail to a colleague.": [
        "need the budget file before noon",
        "cannot come to the meeting, dentist",
        "who took the projector from room 4?",
        "the printer on floor two is out of paper again",
        "thanks for covering my shift on Sunday",
    ],
    "Which of the things named in the text does not belong with the others? Name it.": [
        "apple, pear, hammer, plum",
        "Monday, Friday, January, Sunday",
        "violin, cello, trumpet, viola",
        "salmon, trout, eagle, cod",
        "sofa, armchair, bicycle, stool",
    ],
    "Rewrite the sentence in the past tense.": [
        "She walks her dog along the river every evening.",
        "They build a small house near the lake.",
        "I think about the question for a long time.",
        "He brings bread and cheese to the picnic.",
        "The train leaves without us.",
    ],
    "Write a short title for the message.": [
        "The lift in building C will be out of order from Tuesday to Thursday. Please use the stairs.",
        "We found a grey cat with a red collar behind the school. It is safe with us.",
        "Our shop will close an hour earlier this Saturday because of the street festival.",
        "The water will be turned off on Maple Street on Wednesday morning for repairs.",
        "Three volunteers are still needed to plant trees in the park on Sunday.",
    ],
    "List the amounts of money that are mentioned, separated by commas.": [
        "Lunch was 12 euros and the taxi another 8.",
        "He paid $40 for the shirt, down from $65.",
        "The ticket costs 3.20, children pay 1.60.",
        "Rent is 700 pounds plus 90 for heating.",
        "I owe Ben 15 dollars and he owes me 20.",
    ],
    "Answer the question with yes or no and one sentence that says why.": [
        "Can I freeze cooked rice?",
        "Is a tomato a fruit?",
        "Do penguins live at the North Pole?",
        "Should I water a cactus every day?",
        "Can you see the moon during the day?",
    ],
}
"""Eight instructions with five inputs each."""


def chat_tokenizer() -> Any:
    """Byte-level, with a chat template and special tokens of its own."""
    tokenizer = bytes_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|over|>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.eos_token = "<|over|>"
    return tokenizer


def tiny_chat_base(folder: Path) -> Path:
    """A tiny Llama with a chat template as a folder."""
    tokenizer = chat_tokenizer()
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"vocab_size": len(tokenizer) + 1, "max_position_embeddings": 1031}
    tiny_causal_model("llama", **ids, **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_chat_generator(folder: Path, **changed: Any) -> AdapterGenerator:
    """A generator on the tiny Llama of a folder, whose adapters do something."""
    backbone = load_backbone(str(folder), CausalBackbone)
    text = {name: changed.pop(name) for name in list(changed) if hasattr(TEXT, name)}
    return _filled(AdapterGenerator(backbone, replace(SETTINGS, **changed), replace(TEXT, **text)), shared=0.2, own=0.1)


def smollm2_base(folder: Path) -> Path:
    """SmolLM2-135M-Instruct in fp32 as a folder that every engine reads."""
    backbone = load_backbone("smollm2-135m-instruct", CausalBackbone)
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder


def smollm2_generator(base: str | Path = "smollm2-135m-instruct") -> AdapterGenerator:
    """The generator of the recipe smollm2 on its backbone in fp32, untrained, with random numbers in all its parts."""
    recipe = load_recipe("smollm2")
    backbone = load_backbone(str(base), CausalBackbone)
    generator = AdapterGenerator(backbone, generator_settings(recipe), generator_text(recipe))
    ids, mask = generator.text.batch_instructions([generator.text.instruction(text) for text in TASKS])
    generator.measure([(ids, mask)])
    return _filled(generator, shared=0.02, own=0.01)


def _filled(generator: AdapterGenerator, *, shared: float, own: float) -> AdapterGenerator:
    """Random numbers of these deviations: B of the shared LoRA, and added to all that is generated from."""
    random = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for b in [] if generator.shared is None else generator.shared.b:
            b.copy_(torch.randn(b.shape, generator=random) * shared)
        for parameter in generator.hypernetwork.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * own)
    return generator.eval()


def without_prefix(adapter: TaskAdapter) -> TaskAdapter:
    """The adapter alone: its LoRA, without anything read of the instruction."""
    return TaskAdapter(adapter.generator, adapter.states.without_states(), adapter.instruction, adapter.examples)


def our_tokens(adapter: TaskAdapter, inputs: Sequence[str]) -> list[list[int]]:
    """Greedy answers as token ids, without what ends them and what fills them up."""
    generator = adapter.generator
    input_encoder = generator.input_encoder(alone=adapter.states.alone)
    ids, mask = generator.text.batch([input_encoder(text) for text in inputs])
    found = answer(adapter.runner(), ids, mask, max_new_tokens=NEW_TOKENS)
    return [ended(row, generator.text.tokenizer) for row in found.tolist()]


def peft_tokens(folder: Path, base: Path | str, instruction: str | None, inputs: Sequence[str]) -> list[list[int]]:
    """Greedy answers of transformers and PEFT to conversations with or without a system message, one by one."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(folder))
    model.eval()
    answers = []
    for text in inputs:
        asked = tokenizer.apply_chat_template(
            conversation(instruction, text), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            found = model.generate(
                **asked,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id,
            )
        answers.append(ended(found[0, asked["input_ids"].shape[1] :].tolist(), tokenizer))
    return answers


def conversation(instruction: str | None, text: str) -> list[dict[str, str]]:
    """The messages of one input, with the instruction as system message if there is one."""
    system = [] if instruction is None else [{"role": "system", "content": instruction}]
    return [*system, {"role": "user", "content": text}]


def ended(tokens: Sequence[int], tokenizer: Any) -> list[int]:
    """An answer's tokens up to the one that ends it."""
    found = list(tokens)
    return found[: found.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in found else found
