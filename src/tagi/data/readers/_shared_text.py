"""Infer a template's text: the text that all its rendered rows have in common."""

import re
from collections.abc import Sequence
from itertools import takewhile

FIELD = "[...]"
"""Placeholder where rows differ. It has square brackets, because T5's vocabulary has no curly ones."""

_SAMPLE = 48
_TOKEN = re.compile(r"\w+|\W")
_BETWEEN = "\x1f"
"""Between tokens, so that a run of whole tokens is found as fast as any text."""

_Row = list[str]


def shared_text(rows: Sequence[str]) -> str:
    """Return the text that a sample of rows has in common, with `FIELD` where they differ; "" if they share no word.

    The common text consists of the common beginning, the common end, and in between all runs of words that occur
    exactly once in each row and in the same order. (Text that long rows share by chance, such as "of the", usually
    occurs several times.) The sample has up to 48 distinct rows, spread evenly, because neighbouring rows often share
    more than their template, such as a passage with several questions.
    """
    distinct = list(dict.fromkeys(rows))
    if len(distinct) < 2:
        return ""
    step = max(1.0, len(distinct) / _SAMPLE)
    sample = [distinct[int(at * step)].replace(_BETWEEN, " ") for at in range(min(len(distinct), _SAMPLE))]
    text = _shared([_TOKEN.findall(row) for row in sample], head=True, tail=True)
    return text if re.search(r"[^\W\d_]", text.replace(FIELD, "")) else ""


def merged_text(texts: Sequence[str]) -> str:
    """Return the text that a few texts have in common, as `shared_text` does, even if it has no word."""
    rows = [_TOKEN.findall(text) for text in dict.fromkeys(texts)]
    return _shared(rows, head=True, tail=True) if len(rows) > 1 else "".join(texts[:1])


def _shared(rows: list[_Row], *, head: bool = False, tail: bool = False) -> str:
    """Return the common text of tokenised rows. `head` and `tail`: whether a common beginning or end may count."""
    if not any(rows):
        return ""
    if head:
        length = _common_start(rows)
        return "".join(rows[0][:length]) + _shared([row[length:] for row in rows], tail=tail)
    if tail:
        length = _common_start([row[::-1] for row in rows])
        start = _shared([row[: len(row) - length] for row in rows])
        return start + "".join(rows[0][len(rows[0]) - length :])
    run = _longest_once(rows)
    if not run:
        return FIELD
    key = _join(run)
    starts = [text.count(_BETWEEN, 0, text.index(key)) for text in map(_join, rows)]
    before = _shared([row[:start] for row, start in zip(rows, starts, strict=True)])
    after = _shared([row[start + len(run) :] for row, start in zip(rows, starts, strict=True)])
    return before + "".join(run) + after


def _common_start(rows: list[_Row]) -> int:
    """Return the number of tokens that all rows begin with."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*rows, strict=False)))


def _longest_once(rows: list[_Row]) -> _Row:
    """Return the run of tokens with the most words that occurs exactly once in every row, or an empty one."""
    reference = min(rows, key=len)
    common = set(reference).intersection(*rows)
    best: _Row = []
    if not _in_words(list(common)):
        return best
    texts = [_join(row) for row in rows]
    end = 0
    # If a run is common, so are its parts. The end of the longest run from each start therefore never moves back.
    for start in range(len(reference)):
        reached = end
        end = max(end, start)
        while end < len(reference) and reference[end] in common:
            key = _join(reference[start : end + 1])
            if not all(key in text for text in texts):
                break
            end += 1
        run = reference[start:end]
        if end > reached and _in_words(run) > _in_words(best):
            key = _join(run)
            if all(text.count(key) == 1 for text in texts):
                best = run
    return best


def _in_words(run: _Row) -> int:
    return sum(len(token) for token in run if token[0].isalnum())


def _join(tokens: _Row) -> str:
    return _BETWEEN + _BETWEEN.join(tokens) + _BETWEEN
