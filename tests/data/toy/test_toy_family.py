"""Tasks and instances: contents, determinism, and training apart from evaluation."""

import hashlib
import os
import random
import subprocess
import sys
from itertools import islice

import pytest

from tagi.data.toy.corpus import toy_corpus
from tagi.data.toy.family import TaskSplit, input_split, toy_inputs, toy_instances, toy_tasks
from tagi.data.toy.lexicon import KIND_OF, KINDS, MAPS, WORDS
from tagi.data.toy.programs import INPUT_WORDS, all_programs, program_of, train_programs, unseen_programs
from tagi.data.toy.tokenizer import toy_vocabulary
from tagi.errors import DataError
from tests.data.toy.reading import programs_asked_for


def fingerprint(seed: int = 3) -> str:
    """Everything the family makes for the seed, digested."""
    made = [
        repr(toy_tasks("train", seed, 4, examples_per_task=2)),
        repr(toy_tasks("unseen", seed, 4)),
        repr(list(islice(toy_corpus(seed), 30))),
        repr(toy_vocabulary()),
    ]
    return hashlib.sha256("\n".join(made).encode()).hexdigest()


@pytest.mark.parametrize("split", ["train", "unseen"])
def test_task_contents(split: TaskSplit) -> None:
    tasks = toy_tasks(split, seed=1, instances_per_task=7, examples_per_task=3, paraphrases_per_task=12)
    programs = {"train": train_programs(), "unseen": unseen_programs()}[split]
    assert [task.name for task in tasks] == [program.name for program in programs]
    assert len(tasks) == {"train": 96, "unseen": 24}[split]
    assert {task.category for task in tasks} == set(MAPS)
    for task in tasks:
        program = program_of(task.name)
        assert task.category == program.mapping
        assert (len(task.instances), len(task.examples), len(task.paraphrases)) == (7, 3, 12)
        assert len({one.id for one in task.instances}) == 7
        for instance in task.instances:
            assert instance.outputs == (" ".join(program.apply(instance.input.split())),)
        for example in task.examples:
            assert example.output.split() == program.apply(example.input.split())
        inputs = [one.input for one in task.instances] + [one.input for one in task.examples]
        assert len(set(inputs)) == len(inputs)


@pytest.mark.parametrize("split", ["train", "unseen"])
def test_paraphrases_are_heldout_wordings_for_unseen_tasks_alone(split: TaskSplit) -> None:
    for task in toy_tasks(split, instances_per_task=1):
        program = program_of(task.name)
        assert programs_asked_for(task.instruction) == {program}
        for text in task.paraphrases:
            assert programs_asked_for(text, "train" if split == "train" else "heldout") == {program}
        assert len({task.instruction, *task.paraphrases}) == 17


def test_inputs_are_one_base_word_of_each_kind_in_random_order() -> None:
    inputs = list(islice(toy_inputs(random.Random(1), "train"), 3000))
    assert all(sorted(KIND_OF[word] for word in words) == sorted(KINDS) for words in inputs)
    assert {(at, word) for words in inputs for at, word in enumerate(words)} == {
        (at, word) for at in range(INPUT_WORDS) for word in WORDS
    }


def test_training_and_evaluation_inputs_are_disjoint() -> None:
    train = {one.input for task in toy_tasks("train", 0, 8) for one in task.instances}
    shown = {one.input for task in toy_tasks("unseen", 0, 2, examples_per_task=5) for one in task.examples}
    seen_tasks = {one.input for task in toy_tasks("train", 0, 8, inputs="eval") for one in task.instances}
    evaluation = {one.input for task in toy_tasks("unseen", 5, 20) for one in task.instances} | seen_tasks
    assert not (train | shown) & evaluation
    assert {input_split(text) for text in train | shown} == {"train"}
    assert {input_split(text) for text in evaluation} == {"eval"}


def test_split_of_an_input_never_changes() -> None:
    assert input_split("cat soup pen hill queen") == "train"
    assert input_split("nurse rice wolf thread hill") == "eval"


def test_one_input_in_eight_is_for_evaluation() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.sample(WORDS, INPUT_WORDS)) for _ in range(4000)]
    assert sum(input_split(text) == "eval" for text in texts) / len(texts) == pytest.approx(1 / 8, abs=0.02)


def test_inputs_of_a_task_are_different() -> None:
    """Enough of them that independent draws would repeat some."""
    drawn = toy_instances(all_programs()[5], 2500, 0, "eval")
    assert len({tuple(one.input.split()) for one in drawn}) == len({one.id for one in drawn}) == 2500


def test_more_instances_append() -> None:
    program = all_programs()[3]
    assert toy_instances(program, 5, 0, "train") == toy_instances(program, 50, 0, "train")[:5]
    assert toy_instances(program, 5, 0, "train") != toy_instances(program, 5, 1, "train")


def test_seed_changes_wordings_but_not_programs() -> None:
    one, other = toy_tasks("unseen", 0, 1), toy_tasks("unseen", 1, 1)
    assert [task.name for task in one] == [task.name for task in other]
    assert [task.instruction for task in one] != [task.instruction for task in other]
    assert [task.instances for task in one] != [task.instances for task in other]
    assert [task.name for task in one] != [task.name for task in toy_tasks("unseen", 0, 1, holdout=1)]


@pytest.mark.parametrize(("split", "most"), [("train", 540), ("unseen", 768)])
def test_too_many_paraphrases_are_refused(split: TaskSplit, most: int) -> None:
    with pytest.raises(DataError, match=f"^expected 0 to {most} wordings of toy-.*, got 800$"):
        toy_tasks(split, 0, 1, paraphrases_per_task=800 - (split == "train"))


def test_same_again_and_other_for_another_seed() -> None:
    assert fingerprint() == fingerprint()
    assert fingerprint(4) != fingerprint()


def test_same_in_another_process_with_another_hash_seed() -> None:
    code = f"import sys, runpy; sys.path[:] = {sys.path!r}; print(runpy.run_path({__file__!r})['fingerprint']())"
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == fingerprint()


def test_data_of_the_family_needs_no_torch() -> None:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import tagi.data.toy; "
        "print(sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
