"""Prompts against those that Tk-Instruct's own collator makes, with T5's tokenizer and 1024 tokens."""

import json

import pytest

from tagi.data.readers.sni import read_sni
from tagi.data.text.encoding import Budget, encoding_from_name
from tagi.errors import DataError

LIMIT = 1024
POSITIVES = {"def": 0, "def_2pos": 2}


@pytest.fixture(scope="module")
def tokenizer(data_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(data_dir / "t5_tokenizer")


@pytest.fixture(scope="module")
def oracle(data_dir):
    lines = (data_dir / "oracles" / "tk_instruct_sources.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


@pytest.fixture(scope="module")
def tasks(data_dir, oracle):
    """The oracle's tasks, by name, with every instance."""
    names, found = {row["task"] for row in oracle}, {}
    for split in ("train", "test"):
        root = data_dir / "natural-instructions"
        listed = (root / "splits" / "default" / f"{split}_tasks.txt").read_text().split()
        chosen = [name for name in listed if name in names]
        found |= {task.name: task for task in read_sni(root, split, instances_per_task=None, tasks=chosen).tasks}
    assert set(found) == names
    return found


def given(row, tasks):
    """Encoding, instruction, examples and input of an oracle's row."""
    task = tasks[row["task"]]
    texts = {instance.input for instance in task.instances if instance.id == row["id"]}
    if len(texts) != 1:
        raise DataError(f"expected one instance {row['id']!r} of {task.name}, got {len(texts)}")
    return (
        encoding_from_name("tk-instruct", POSITIVES[row["setting"]]),
        task.instruction,
        task.examples,
        *texts,
    )


def test_prompts_to_the_character(oracle, tasks, tokenizer):
    assert len(oracle) == 120
    assert {row["setting"] for row in oracle} == set(POSITIVES)
    for row in oracle:
        encoding, *parts = given(row, tasks)
        prompt = encoding.concatenated(*parts, budget=Budget(tokenizer, LIMIT))
        assert prompt == row["source"], (row["task"], row["setting"])
        assert len(tokenizer(prompt)["input_ids"]) == row["n_tokens"] <= LIMIT


def test_an_example_is_left_out_in_the_oracle(oracle, tasks):
    """Otherwise the rule that leaves examples out would go untested above."""
    short = [row for row in oracle if row["setting"] == "def_2pos" and "Positive Example 2" not in row["source"]]
    assert [row["task"] for row in short] == ["task522_news_editorial_summary"]
    encoding, *parts = given(short[0], tasks)
    assert "Positive Example 2" in encoding.concatenated(*parts)


def test_both_parts_make_the_prompt(oracle, tasks, tokenizer):
    for row in oracle:
        encoding, instruction, examples, text = given(row, tasks)
        b = encoding.input(text, budget=Budget(tokenizer, LIMIT))
        assert b.startswith("Now complete the following example -\n")
        assert row["source"].endswith(b)
        a = encoding.instruction(instruction, examples, budget=Budget(tokenizer, LIMIT))
        # Alone, the instruction has room for examples that the whole prompt may have had to leave out.
        if row["task"] != "task522_news_editorial_summary":
            assert a + b == row["source"]
        assert a.startswith(row["source"].removesuffix(b))


def test_a_prompt_over_the_limit_is_what_its_first_tokens_decode_to(oracle, tasks, tokenizer):
    encoding, *parts = given(max(oracle, key=lambda row: row["n_tokens"]), tasks)
    without_examples = encoding_from_name("tk-instruct", 0).concatenated(*parts)
    ids = tokenizer(without_examples)["input_ids"]
    limit = len(ids) - 23
    cut = encoding.concatenated(*parts, budget=Budget(tokenizer, limit, truncate=True))
    assert cut == tokenizer.decode(ids[:limit], skip_special_tokens=True)
    assert cut.startswith(without_examples[:80])
    assert without_examples.endswith("Output: ")
    assert "Output: " not in cut[-30:]


def test_truncated_parts_fit(oracle, tasks, tokenizer):
    row = max(oracle, key=lambda row: row["n_tokens"])
    encoding, instruction, examples, text = given(row, tasks)
    for limit in (64, 97):
        b = encoding.input(text, budget=Budget(tokenizer, limit, truncate=True))
        assert limit - 2 <= len(tokenizer(b)["input_ids"]) <= limit
        assert b.endswith("\nOutput: ")
        a = encoding.instruction(3 * instruction, examples, budget=Budget(tokenizer, limit, truncate=True))
        assert limit - 2 <= len(tokenizer(a)["input_ids"]) <= limit
        assert a.startswith("Definition: ")
