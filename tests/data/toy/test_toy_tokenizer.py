"""The tokenizer: ids, the closed vocabulary, exact decoding and saving."""

from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tagi.data.toy.corpus import toy_corpus
from tagi.data.toy.family import TaskSplit, toy_tasks
from tagi.data.toy.language import wording_words, wordings
from tagi.data.toy.lexicon import FACT_TABLES, FACTS, WORDS, lexicon_words
from tagi.data.toy.programs import all_programs
from tagi.data.toy.tokenizer import SENTINELS, toy_tokenizer, toy_vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return toy_tokenizer()


def test_special_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.convert_tokens_to_ids(list(SENTINELS)) == list(range(3, 23))
    assert len(tokenizer) == len(toy_vocabulary()) == len(set(toy_vocabulary())) <= 450


def test_end_is_appended_and_padding_is_on_the_right(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = tokenizer(["cat dog", "king"], padding=True)
    assert batch["attention_mask"] == [[1, 1, 1], [1, 1, 0]]
    assert batch["input_ids"][0][2] == 1
    assert batch["input_ids"][1][1:] == [1, 0]
    assert tokenizer("nonsense").input_ids == [2, 1]


def test_no_text_of_the_family_has_unknown_words(tokenizer: PreTrainedTokenizerFast) -> None:
    splits: tuple[TaskSplit, ...] = ("train", "unseen")
    texts = list(islice(toy_corpus(0), 300))
    texts += [text.format(x=x, y=FACT_TABLES[name][x]) for name in FACTS for text in FACTS[name] for x in WORDS]
    texts += [" ".join(sorted(words)) for words in (lexicon_words(), wording_words(), wording_words("heldout"))]
    for program in all_programs():
        texts += [*wordings(program, 20, 0), *wordings(program, 20, 0, "heldout")]
    for split in splits:
        for task in toy_tasks(split, 0, 3, examples_per_task=2):
            texts += [task.instruction, *task.paraphrases]
            texts += [text for one in task.instances for text in (one.input, *one.outputs)]
            texts += [text for one in task.examples for text in (one.input, one.output)]
    rows = tokenizer(texts).input_ids
    for text, row in zip(texts, rows, strict=True):
        assert tokenizer.unk_token_id not in row
        assert len(row) == len(text.split()) + 1
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == texts


def test_saved_and_loaded_is_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "look for <extra_id_0> , find <extra_id_19> and make each one plural ."
    assert loaded(text).input_ids == tokenizer(text).input_ids
    ids = loaded(text).input_ids
    assert loaded.decode(ids, skip_special_tokens=True) == "look for , find and make each one plural ."
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id) == (0, 1, 2)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.padding_side == "right"
