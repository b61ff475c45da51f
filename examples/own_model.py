"""A generator for a model of yours, from nothing to an export: backbone, LoRA for all tasks, generator, adapter, PEFT.

The model is made small from a configuration, so that everything takes seconds on a processor and nothing is downloaded;
with `backbone.name` in place of `backbone.config` the same steps take a pretrained model. So small a model that is
trained for so few steps learns nothing: this shows the way.

    python examples/own_model.py llama runs/own-llama
    python examples/own_model.py qwen2 runs/own-qwen2
    python examples/own_model.py gpt2 runs/own-gpt2
"""

import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tagi import AdapterGenerator, read_tasks, train, verify

TASKS = Path(__file__).parent / "own_tasks.csv"
GROUPED = "hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2"
SIZES = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "gpt2": "n_embd=48, n_layer=2, n_head=4",
}
POSITIONS = {"gpt2": "n_positions"}
VOCABULARY = 1024
SHARED = """shared_rank = 4             # the LoRA for all tasks
residual = "both"
"""


def main(kind: str, out: Path, steps: int = 20) -> None:
    """Train a generator on a small model of a type and export an adapter, everything under `out`."""
    tokenizer = out / "tokenizer"
    make_tokenizer(tokenizer)
    recipe = out / "recipe.toml"
    recipe.write_text(recipe_text(kind, tokenizer, steps))
    # The backbone is made from its configuration; a LoRA for all tasks is trained with the instruction in the prompt,
    # and the generator on top of it. The scores are those of the tasks marked "test".
    for row in train(recipe, out / "run"):
        print(f"{row['step']}: {row['state']}, {row['result']}")
    generator = AdapterGenerator.from_pretrained(out / "run" / "finetune")
    adapter = generator.adapt("Name the city that is mentioned in the text.")
    print(adapter.predict("My brother moved to Lisbon last spring."))
    adapter.export(out / "peft")
    adapter.export(out / "merged", "merged")
    adapter.export(out / "gguf", "gguf")
    failed = [check for check in verify(out / "peft") if not check.passed]
    print(f"exported to {out / 'peft'} and {out / 'merged'}; checks that failed: {failed or 'none'}")


def make_tokenizer(folder: Path) -> None:
    """Train a byte-level tokenizer on the tasks' own texts."""
    texts = [text for task in read_tasks(TASKS) for one in task.instances for text in (one.input, *one.outputs)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)


def recipe_text(kind: str, tokenizer: Path, steps: int) -> str:
    """Return the recipe: which model, which tasks, what is trained."""
    fused = kind == "gpt2"  # one layer projects query, key and value: a LoRA for all tasks cannot be trained first
    positions = POSITIONS.get(kind, "max_position_embeddings")
    return f'''
name = "own-{kind}"

[backbone]
name = "config"
family = "causal"
tokenizer = "{tokenizer}"
config = {{ model_type = "{kind}", vocab_size = {VOCABULARY}, {positions} = 512, {SIZES[kind]} }}

[generator]
kind = "query"
{"" if fused else SHARED}rank = 4
alpha = 8.0
hidden = 24
width = 24
heads = 4
fusion = "none"
instruction_cache = "adapted"       # the instruction is read under the task's own LoRA
tune = "none"
standardize = true

[data]
source = "jsonl"
path = "{TASKS}"
encoding = "plain"                  # "chat" for a model with a chat template
max_instruction_tokens = 96
max_input_tokens = 128
max_target_tokens = 48
truncate = true

[metatrain]
tune = "lora"

[run]
stages = {'["finetune"]' if fused else '["metatrain", "finetune"]'}
start = {'"backbone"' if fused else '"metatrained"'}

[losses]
alone = 1.0                         # the adapter is also trained without the instruction
alone_kl = 1.0

[training]
steps = {steps}
tasks_per_batch = 4
queries_per_task = 1
learning_rate = 1e-3

[evaluation]
max_new_tokens = 8
limit = 1
'''


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
