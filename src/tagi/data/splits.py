"""How many training tasks the paper counts per category, and its cumulative splits (Table 10, Figure 3)."""

from dataclasses import dataclass

from tagi.data.sni import SNISplit
from tagi.errors import DataError

# Table 10: category and number of tasks, in the paper's order.
_TABLE_10 = """
Question Answering 157
Program Execution 90
Question Generation 51
Sentiment Analysis 42
Misc. 36
Toxic Language Detection 32
Text Categorization 28
Commonsense Classification 23
Text Matching 17
Named Entity Recognition 17
Information Extraction 17
Wrong Candidate Generation 15
Text Completion 14
Question Understanding 13
Text to Code 12
Summarization 12
Dialogue Generation 11
Word Semantics 10
Story Composition 9
Speaker Identification 9
Pos Tagging 9
Linguistic Probing 9
Fill in The Blank 8
Text Quality Evaluation 7
Stereotype Detection 7
Sentence Composition 7
Negotiation Strategy Detection 7
Gender Classification 7
Coherence Classification 6
Word Relation Classification 5
Explanation 5
Text Simplification 4
Sentence Perturbation 4
Paraphrasing 4
Mathematics 4
Intent Identification 4
Dialogue State Tracking 4
Code to Text 4
Sentence Ordering 3
Fact Verification 3
Answer Verification 3
Translation 2
Style Transfer 2
Stance Detection 2
Speaker Relation Classification 2
Question Decomposition 2
Number Conversion 2
Irony Detection 2
Grammar Error Detection 2
Spelling Error Detection 1
Spam Classification 1
Sentence Expansion 1
Sentence Compression 1
Punctuation Error Detection 1
Preposition Prediction 1
Poem Generation 1
Entity Relation Classification 1
Entity Generation 1
Discourse Relation Classification 1
Discourse Connective Identification 1
"""

SNI_SPLIT_SIZES = (6, 15, 30, 60)


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """Training tasks of one category: `here` in the data read, `paper` in Table 10 (0: not listed there)."""

    category: str
    here: int
    paper: int


def table10() -> dict[str, int]:
    """Number of SNI training tasks per category, falling, as in Table 10 of the paper (756 in all)."""
    pairs = (line.rsplit(" ", 1) for line in _TABLE_10.strip().splitlines())
    return {category: int(count) for category, count in pairs}


def sni_categories(size: int) -> tuple[str, ...]:
    """The `size` (6, 15, 30 or 60) largest categories: Table 10's splits, each holding the one before.

    Raises `DataError` for any other size.
    """
    if size not in SNI_SPLIT_SIZES:
        raise DataError(f"SNI split: expected {', '.join(map(str, SNI_SPLIT_SIZES))} categories, got {size}")
    return tuple(table10())[:size]


def compare_with_table10(split: SNISplit) -> list[CategoryCount]:
    """Tasks per category, as read and in Table 10: in the table's order, then what it does not list."""
    here, paper = split.category_counts, table10()
    return [CategoryCount(name, here.get(name, 0), paper.get(name, 0)) for name in {**paper, **here}]
