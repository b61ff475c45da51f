"""Metrics of a generated answer against references: Tk-Instruct's, exact accuracy, and the metrics that tasks can name.

ROUGE and exact match are those of Tk-Instruct's English track: ROUGE ignores everything except the letters a to z and
digits, and compares stems of words. `rouge_l_unicode` works for every script, without stemming.
"""

import json
import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from operator import eq
from typing import Any

import regex

from tagi.errors import DataError

METRICS = ("rougeL", "rouge1", "exact_match")
"""Tk-Instruct's metrics."""
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_QUOTES = "\"'`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"
_BEFORE_CHOICE = re.compile(rf"^[\s{_QUOTES}]+")
_AFTER_CHOICE = re.compile(rf"[\s{_QUOTES}.,;:!?]+$")
_FENCED = re.compile(r"```(?:json)?\s(.*)```", re.DOTALL | re.IGNORECASE)
# Digits with or without thousands separators (comma, apostrophe, no-break spaces), decimals, an exponent. A minus after
# a letter or digit is a hyphen.
_NUMBER = re.compile(
    r"(?:(?<![\w.])[-+\u2212])?"
    r"(?:(?:[0-9]{1,3}(?:[,'\u2019\u00a0\u202f][0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?"
)
# A letter of a script that is written without spaces, or letters and digits with their marks.
_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*|[\p{L}\p{N}][\p{L}\p{M}\p{N}]*"
)
_UNPARSED = (ValueError, ArithmeticError, RecursionError)
_SEPARATORS = str.maketrans({",": None, "'": None, "\u2019": None, "\u00a0": None, "\u202f": None, "\u2212": "-"})


@lru_cache(maxsize=1)
def _rouge() -> Any:
    # Imported here, because the package imports nltk.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL", "rouge1"], use_stemmer=True)


class _Words:
    """A tokenizer for rouge-score: `unicode_words`."""

    tokenize = staticmethod(lambda text: unicode_words(text))


@lru_cache(maxsize=1)
def _unicode_rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def unicode_words(text: str) -> list[str]:
    """Return the lower-case words of a text in any script; if it has no words, its characters.

    In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each letter is a word.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(text) or list("".join(text.split()))


def rouge_reads(reference: str) -> bool:
    """Return whether rouge-score, which drops all but letters a to z and digits, reads at least half of a reference.

    Even a perfect answer scores 0 if the reference has none of these.
    """
    told = [character for character in reference.casefold() if character.isalnum()]
    read = sum(character.isascii() for character in told)
    return 0 < len(told) <= 2 * read


def _normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, one space between words."""
    return " ".join(text.lower().translate(_WITHOUT_PUNCTUATION).split())


def instruct_scores(prediction: str, references: Sequence[str]) -> tuple[float, ...]:
    """Return the score in [0, 1] by each of `METRICS`: F1 of ROUGE-L and ROUGE-1 with stemmer, and exact match.

    Each is the maximum over the references. Raises `DataError` without a reference.
    """
    best = _rouge().score_multi(_some(references), prediction)
    rouge = (float(best[name].fmeasure) for name in METRICS[:2])  # for an answer without words it is the integer 0
    return *rouge, exact_match(prediction, references)


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return ROUGE-L F1 with stemmer in [0, 1], maximum over references. Raises `DataError` without a reference."""
    return float(_rouge().score_multi(_some(references), prediction)["rougeL"].fmeasure)


def rouge_l_unicode(prediction: str, references: Sequence[str]) -> float:
    """Return ROUGE-L F1 over `unicode_words` in [0, 1], maximum over references.

    Raises `DataError` without a reference.
    """
    return float(_unicode_rouge().score_multi(_some(references), prediction)["rougeL"].fmeasure)


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the prediction equals a reference, ignoring case, ASCII punctuation and white space, else 0.0.

    Raises `DataError` without a reference.
    """
    return _equals_any(prediction, references, _normalised)


def exact_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the prediction equals a reference after both are stripped, else 0.0.

    Raises `DataError` without a reference.
    """
    return _equals_any(prediction, references, str.strip)


def choice(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the answer is an accepted choice, else 0.0.

    Case is ignored, and so are white space and quotation marks at both ends and . , ; : ! ? at the end. The text in
    between must be equal: "It is positive." is not "positive".
    Raises `DataError` without a reference.
    """
    return _equals_any(prediction, references, _bare_choice)


def exact(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the answer equals a reference, ignoring case, outer white space and one final full stop, else 0.0.

    Raises `DataError` without a reference.
    """
    return _equals_any(prediction, references, _without_stop)


def json_equal(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the answer is JSON and equals a reference as JSON, else 0.0.

    The order of keys does not matter; the order of a list does. Numbers are compared by value, and true is not 1. The
    whole answer must be JSON, or a fenced code block with JSON. Duplicate keys, NaN and Infinity are not accepted.
    Raises `DataError` without a reference, or with one that is not JSON.
    """
    return _equals_parsed(prediction, references, _json, "that is JSON", _same_json)


def number(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the only number in the answer has the value of a reference's number, else 0.0.

    Other words and units are allowed: "It costs $1,250.50." is 1250.5. Commas, apostrophes and no-break spaces may
    separate thousands; the decimal separator is a point. An answer with two numbers is wrong. Raises `DataError`
    without a reference, or with one that does not hold exactly one number.
    """
    return _equals_parsed(prediction, references, _only_number, "with one number", eq)


def _equals_any(prediction: str, references: Sequence[str], normalise: Callable[[str], str]) -> float:
    answer = normalise(prediction)
    return float(any(answer == normalise(reference) for reference in _some(references)))


def _equals_parsed(
    prediction: str, references: Sequence[str], parse: Callable[[str], Any], kind: str, same: Callable[[Any, Any], bool]
) -> float:
    wanted = []
    for reference in _some(references):
        try:
            wanted.append(parse(reference))
        except _UNPARSED as error:
            raise DataError(f"expected a reference {kind}, got {reference!r:.60}") from error
    try:
        answer = parse(prediction)
        return float(any(same(answer, one) for one in wanted))
    except _UNPARSED:
        return 0.0


def _some(references: Sequence[str]) -> Sequence[str]:
    if isinstance(references, str) or not references:
        raise DataError(f"expected a list of at least one reference, got {references!r}")
    return references


def _bare_choice(text: str) -> str:
    bare = _BEFORE_CHOICE.sub("", _AFTER_CHOICE.sub("", text)).casefold()
    return bare or text.strip()  # a choice may consist of punctuation only


def _without_stop(text: str) -> str:
    return text.strip().removesuffix(".").strip().casefold()


def _json(text: str) -> Any:
    """Parse JSON, alone or in a fenced code block, with exact numbers. Raises `ValueError`."""
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    return json.loads(
        fenced[1] if fenced else text,
        parse_float=Decimal,
        parse_int=Decimal,
        parse_constant=_not_json,
        object_pairs_hook=_object,
    )


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is given twice")
    return fields


def _same_json(a: Any, b: Any) -> bool:
    """Compare parsed JSON. In Python's own comparison, True equals 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same_json(value, b[key]) for key, value in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same_json, a, b))
    return type(a) is type(b) and bool(a == b)


def _only_number(text: str) -> Decimal:
    (found,) = _NUMBER.findall(text)
    return Decimal(found.translate(_SEPARATORS))


TASK_SCORES: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "choice": choice,
    "exact": exact,
    "exact_case": exact_accuracy,
    "json": json_equal,
    "number": number,
    "rouge_l": rouge_l,
    "rouge_l_unicode": rouge_l_unicode,
}
"""Score of an answer, from 0 to 1, by the metric that its task names (`tagi.data.task.TASK_METRICS`)."""
