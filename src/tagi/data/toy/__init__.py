"""A small compositional text-to-text task family with a text corpus and a tokenizer of its own.

An input is five words, one of each kind (animal, food, tool, place, person), in random order. A task asks for the words
of two or three of the kinds, through a word map (as they are, plural, partner, small form, two invented languages), in
one of many wordings. Unseen tasks combine a selection of kinds and a map that training saw apart; nobody can answer
without the instruction, for no two programs agree.
"""

from tagi.data.toy.corpus import ToyDocuments, toy_corpus
from tagi.data.toy.family import (
    InputSplit,
    TaskSplit,
    input_split,
    toy_inputs,
    toy_instances,
    toy_summary,
    toy_tasks,
)
from tagi.data.toy.language import Inventory, all_wordings, wording, wording_words, wordings
from tagi.data.toy.lexicon import KIND_OF, KINDS, MAPS, WORDS, lexicon_words
from tagi.data.toy.programs import (
    INPUT_WORDS,
    SELECTIONS,
    Program,
    all_programs,
    program_of,
    train_programs,
    unseen_programs,
)
from tagi.data.toy.tokenizer import SENTINELS, toy_tokenizer, toy_vocabulary

__all__ = [
    "INPUT_WORDS",
    "KINDS",
    "KIND_OF",
    "MAPS",
    "SELECTIONS",
    "SENTINELS",
    "WORDS",
    "InputSplit",
    "Inventory",
    "Program",
    "TaskSplit",
    "ToyDocuments",
    "all_programs",
    "all_wordings",
    "input_split",
    "lexicon_words",
    "program_of",
    "toy_corpus",
    "toy_inputs",
    "toy_instances",
    "toy_summary",
    "toy_tasks",
    "toy_tokenizer",
    "toy_vocabulary",
    "train_programs",
    "unseen_programs",
    "wording",
    "wording_words",
    "wordings",
]
