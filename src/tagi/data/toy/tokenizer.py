"""A word-level tokenizer for the toy family's closed vocabulary."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tagi.data.toy.language import wording_words
from tagi.data.toy.lexicon import FACTS, lexicon_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
SENTINELS: tuple[str, ...] = tuple(f"<extra_id_{i}>" for i in range(20))


def toy_vocabulary() -> tuple[str, ...]:
    """Return all tokens in the order of their ids: padding, end, unknown, the sentinels, then the sorted words."""
    facts = (text.format(x="", y="").split() for texts in FACTS.values() for text in texts)
    words = lexicon_words() | wording_words("train") | wording_words("heldout") | frozenset().union(*facts)
    return vocabulary_of(words)


def vocabulary_of(words: Iterable[str]) -> tuple[str, ...]:
    """Return the tokens of `toy_vocabulary` with these words in place of the toy family's."""
    return (PAD, EOS, UNK, *SENTINELS, *sorted(words))


def toy_tokenizer(tokens: Iterable[str] | None = None) -> "PreTrainedTokenizerFast":
    """Return a fast tokenizer with T5's conventions: padding 0, end 1 (appended to every text), unknown 2, sentinels.

    Built in memory, of the tokens of `toy_vocabulary` or of others. Decoding with `skip_special_tokens=True` gives the
    words joined by single spaces.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: at for at, token in enumerate(tokens or toy_vocabulary())}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, vocabulary[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=list(SENTINELS),
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
