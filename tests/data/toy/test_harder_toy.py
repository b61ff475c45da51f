"""The harder family that `studies/harder_toy.py` writes: its programs, its words, its recipe."""

import random
from collections import Counter
from pathlib import Path

from studies.harder_toy import KINDS, MAPS, WORDS, documents, programs, task, train_backbone, vocabulary, write_data
from tagi.data.toy.tokenizer import UNK, toy_tokenizer
from tagi.stages.recipes import load_recipe
from tagi.stages.train import train_stage

MAP = {"copy": "{}", "plural": "{}s", "small": "{}ling"}


def test_programs_are_balanced_and_none_is_tested_that_is_trained_on() -> None:
    trained, tested = programs(40)
    assert (len(trained), len(tested)) == (240, 30)
    assert len({*trained, *tested}) == 270
    for split, each in ((trained, 40), (tested, 5)):
        assert Counter(one.mapping for one in split) == dict.fromkeys(MAPS, each)
        lengths = Counter(len(one.kinds) for one in split)
        assert set(lengths) == {2, 3, 4}
        assert max(lengths.values()) - min(lengths.values()) <= 6
    assert {kind for one in trained for kind in one.kinds} == set(KINDS)
    assert all(len(set(table.values())) == len(table) == sum(map(len, WORDS.values())) for table in MAPS.values())


def test_answers_follow_the_order_in_which_the_instruction_names_kinds() -> None:
    for program in programs(2)[0]:
        line = task(program, 3, "train")
        for wording in (line["instruction"], *line["paraphrases"]):
            at = [wording.index(f" {kind} ") for kind in program.kinds]
            assert at == sorted(at), wording
        if program.mapping not in MAP:
            continue
        for one in line["instances"]:
            words = one["input"].split()
            assert sorted(len(set(words) & set(own)) for own in WORDS.values()) == [1] * len(KINDS)
            picked = [next(word for word in words if word in WORDS[kind]) for kind in program.kinds]
            assert one["outputs"] == [" ".join(MAP[program.mapping].format(word) for word in picked)]


def test_every_word_is_known_and_texts_keep_to_the_recipes_limits() -> None:
    known = toy_tokenizer(vocabulary())
    data = load_recipe("harder-toy").data
    trained, tested = programs(3)
    stream = documents(0, trained, copies=0.5)
    texts = [next(stream) for _ in range(50)]
    for split, own in (("train", trained), ("test", tested)):
        for line in (task(one, 2, split) for one in own):
            both = [
                f"{wording} {line['instances'][0]['input']}" for wording in (line["instruction"], *line["paraphrases"])
            ]
            assert max(len(known(text).input_ids) for text in both) <= data.max_input_tokens
            texts += [*both, line["instances"][0]["outputs"][0]]
    assert not any(known.convert_tokens_to_ids(UNK) in known(text).input_ids for text in texts)


def test_held_out_wordings_are_not_in_training() -> None:
    trained, tested = programs(3)
    seen = {wording for one in trained for wording in task(one, 1, "train")["paraphrases"]}
    assert not any("name of the animal" in wording for wording in seen)
    assert any("name of the" in wording for one in tested for wording in task(one, 1, "test")["paraphrases"])
    assert tested[0].wording(random.Random(3)) == tested[0].wording(random.Random(3))


def test_the_recipe_trains_on_what_the_study_writes(tmp_path: Path) -> None:
    """The tasks with a backbone that stays as it is, and the text."""
    themes = write_data(tmp_path, per_map=1, instances=2, text=20)
    assert 0 <= train_backbone(tmp_path, themes, steps=1) <= 1
    overrides = [
        *(f"backbone.name={tmp_path / 'backbone'}", f"data.path={tmp_path / 'tasks.jsonl'}", "training.steps=1"),
        *(f"pretraining.path={tmp_path / 'text'}", "training.tasks_per_batch=2", "training.queries_per_task=2"),
        *("training.pretrain.tasks_per_batch=2", "training.report_to=[]"),
    ]
    hypter = train_stage(load_recipe("harder-toy+hypter", overrides), "finetune", tmp_path / "hypter", progress=False)
    assert (hypter["data"]["tasks"], hypter["training"]["steps"]) == (6, 1)
    assert hypter["parameters"]["frozen"] > hypter["parameters"]["trained"]
    pretrained = train_stage(load_recipe("harder-toy", overrides), "pretrain", tmp_path / "pretrain", progress=False)
    assert pretrained["training"]["steps"] == 1
