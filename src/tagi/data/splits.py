"""How many training tasks the paper counts per category, and its cumulative splits (Tables 10 and 11, Figure 3)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tagi.data.readers.sni import SNISplit
from tagi.data.task import Task
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

# Table 11: dataset and number of prompts, in the paper's order (which spells samsum "samsun").
_TABLE_11 = """
cosmos_qa 13
kilt_tasks_hotpotqa 5
amazon_polarity 9
cnn_dailymail_3.0.0 9
common_gen 9
glue_mrpc 7
adversarial_qa_dbert 5
ag_news 7
dream 5
gigaword 9
paws 12
wiki_qa 11
ropes 12
quoref 11
dbpedia_14 4
multi_news 6
imdb 10
quail 13
quartz 8
wiki_bio 5
adversarial_qa_dbidaf 5
adversarial_qa_droberta 5
duorc_SelfRC 9
duorc_ParaphraseRC 9
cos_e_v1.11 11
qasc 8
sciq 5
glue_qqp 6
social_i_qa 6
wiki_hop_original 9
wiqa 8
app_reviews 4
rotten_tomatoes 10
yelp_review_full 7
samsum 7
xsum 10
"""

SNI_SPLIT_SIZES = (6, 15, 30, 60)
P3_SPLIT_SIZES = (5, 10, 20, 36)


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """Training tasks of one category: `here` in the data read, `paper` in its table (0: not listed there)."""

    category: str
    here: int
    paper: int


def table10() -> dict[str, int]:
    """Number of SNI training tasks per category, falling, as in Table 10 of the paper (756 in all)."""
    return _counts(_TABLE_10)


def table11() -> dict[str, int]:
    """Number of prompts per P3 training dataset, in the order of Table 11 of the paper (36 datasets, 289 prompts)."""
    return _counts(_TABLE_11)


def sni_categories(size: int) -> tuple[str, ...]:
    """The `size` (6, 15, 30 or 60) largest categories: Table 10's splits, each holding the one before.

    Raises `DataError` for any other size.
    """
    if size not in SNI_SPLIT_SIZES:
        raise DataError(f"SNI split: expected {', '.join(map(str, SNI_SPLIT_SIZES))} categories, got {size}")
    return tuple(table10())[:size]


def p3_datasets(size: int) -> tuple[str, ...]:
    """The first `size` (5, 10, 20 or 36) datasets of Table 11: its splits, each holding the one before.

    Raises `DataError` for any other size.
    """
    if size not in P3_SPLIT_SIZES:
        raise DataError(f"P3 split: expected {', '.join(map(str, P3_SPLIT_SIZES))} datasets, got {size}")
    return tuple(table11())[:size]


def p3_key(name: str) -> str:
    """A P3 name in one spelling: `cnn_dailymail_3_0_0` is `cnn_dailymail_3.0.0`, `samsun` is `samsum`.

    As long as the name itself, letter for letter.
    """
    return name.replace(".", "_").replace("samsun", "samsum")


def compare_with_table10(split: SNISplit) -> list[CategoryCount]:
    """Tasks per category, as read and in Table 10: in the table's order, then what it does not list."""
    return _compared(split.category_counts, table10())


def compare_with_table11(tasks: Sequence[Task]) -> list[CategoryCount]:
    """P3 templates per dataset, as read and in Table 11: in the table's order, then what it does not list."""
    names = {p3_key(name): name for name in table11()}
    return _compared(Counter(names.get(p3_key(task.category), task.category) for task in tasks), table11())


def limit_to_split(tasks: Sequence[Task], source: Literal["sni", "p3"], size: int) -> tuple[Task, ...]:
    """The tasks whose category is in the paper's split of `size` categories or datasets, in the same order.

    Raises `DataError` when there is no such split or none of the tasks is in it.
    """
    spelling = p3_key if source == "p3" else str
    chosen = {spelling(name) for name in (p3_datasets(size) if source == "p3" else sni_categories(size))}
    kept = tuple(task for task in tasks if spelling(task.category) in chosen)
    if not kept:
        got = ", ".join(sorted({repr(task.category) for task in tasks})[:3]) or "no task"
        raise DataError(f"{source} split: expected tasks of its {size} categories, got none of them (of {got})")
    return kept


def _counts(table: str) -> dict[str, int]:
    pairs = (line.rsplit(" ", 1) for line in table.strip().splitlines())
    return {name: int(count) for name, count in pairs}


def _compared(here: Mapping[str, int], paper: Mapping[str, int]) -> list[CategoryCount]:
    return [CategoryCount(name, here.get(name, 0), paper.get(name, 0)) for name in {**paper, **here}]
