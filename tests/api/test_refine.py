"""Few-shot refinement: it learns, leaves all but the LoRA alone, is the same when done twice, and says what it did."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tagi.adapters.bank import LoraBank
from tagi.api import task_adapter as adapters
from tagi.api.generator import AdapterGenerator
from tagi.api.lora_training import Refinement
from tagi.api.refine import refine, refine_all
from tagi.api.task_adapter import TaskAdapter
from tagi.data.task import Example, Instance, Task
from tagi.data.toy.family import toy_tasks
from tagi.errors import CheckpointError, DataError, InputError, TrainingError
from tagi.formats.export import export, exportable_of
from tagi.formats.task_adapter import generator_digest
from tagi.methods.refining import Refined
from tests.adapter_folders import adapter_of
from tests.commands import Run
from tests.models import INSTRUCTIONS, MODULES, WORDS, settings, traces, words
from tests.task_files import write_jsonl

EXAMPLES = [Example(f"{WORDS[at]} {WORDS[at + 3]}", WORDS[at + 1]) for at in range(7)]
KINDS = ("t5", "llama", "gpt2")
WEIGHTS = "adapter_model.safetensors"


def opened(folder: Path, kind: str = "llama", **fields: Any) -> TaskAdapter:
    return TaskAdapter.load(adapter_of(folder, kind, fields), AdapterGenerator.from_pretrained(folder / "generator"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_its_examples_and_nothing_else_changes(kind: str, tmp_path: Path) -> None:
    """Also where query and value are columns of one layer; the generator and its backbone stay as they are."""
    adapter = adapter_of(tmp_path, kind)
    generator = AdapterGenerator.from_pretrained(tmp_path / "generator")
    record = refine(adapter, EXAMPLES[:4], tmp_path / "out", Refinement(80, 3e-2, 4), progress=False)
    assert 0 < record["loss"]["last"] < 0.6 * record["loss"]["first"]
    before, after = TaskAdapter.load(adapter, generator), TaskAdapter.load(tmp_path / "out" / "adapter", generator)
    for one in EXAMPLES[:4]:
        scores = [adapted.score([one.input], [one.output])[0][0] for adapted in (before, after)]
        assert scores[0] + 1 < scores[1]
    assert torch.equal(after.states.states, before.states.states)
    assert after.instruction == before.instruction == INSTRUCTIONS[0]
    assert isinstance(after.bank, LoraBank)
    assert after.bank.tensors().keys() == before.bank.tensors().keys()
    for name, tensor in after.bank.tensors().items():
        assert not torch.equal(tensor, before.bank.tensors()[name])
    assert (after.refined["steps"], after.refined["examples"], before.refined) == (80, 4, {})


def test_32_examples_are_learned_by_heart(tmp_path: Path) -> None:
    """By the built-in T5 under an instruction that says nothing, and by a GPT-2 that has learned nothing."""
    toy = AdapterGenerator.from_pretrained("toy").adapt("take the animal")
    made_up = [Example(words(at, 3), words(60 + at, 1)) for at in range(32)]
    of_family = [Example(one.input, one.outputs[0]) for one in toy_tasks("unseen", instances_per_task=32)[3].instances]
    for adapter, examples in ((toy, of_family), (opened(tmp_path, "gpt2", n_embd=102), made_up)):
        before = list(traces(adapter.generator))
        refined = adapter.refine(examples, Refinement(200, 1e-2, 32))
        assert list(traces(adapter.generator)) == before
        loss = refined.refined["loss"]
        assert loss["first"] > 3
        assert loss["last"] < 0.1
        inputs, outputs = [one.input for one in examples], [one.output for one in examples]
        assert refined.predict(inputs) == outputs
        right = [answer == output for answer, output in zip(adapter.predict(inputs), outputs, strict=True)]
        assert sum(right) < 3


def test_a_rate_or_steps_of_nothing_change_nothing_and_twice_is_the_same(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    for name, how in (("still", Refinement(2, 0.0, 3)), ("none", Refinement(0, held_out=2))):
        record = refine(adapter, EXAMPLES, tmp_path / name, how, progress=False)
        found = content(tmp_path / name / "adapter")
        for file in (WEIGHTS, "instruction_states.safetensors", "adapter_config.json"):
            assert found[file] == (adapter / file).read_bytes()
        assert json.loads(found["task_adapter.json"])["source"] == str(tmp_path / "generator")
    assert record["loss"] is None
    assert record["held_out"]["after"] == record["held_out"]["before"]
    for name in ("one", "two"):
        refine(adapter, EXAMPLES, tmp_path / name, Refinement(4, 1e-2, 3, seed=5), progress=False)
    one, two = (content(tmp_path / name / "adapter") for name in ("one", "two"))
    assert one == two
    assert one[WEIGHTS] != (adapter / WEIGHTS).read_bytes()
    refine(adapter, EXAMPLES, tmp_path / "three", Refinement(4, 1e-2, 3, seed=6), progress=False)
    assert content(tmp_path / "three" / "adapter")[WEIGHTS] != one[WEIGHTS]


def test_an_adapter_that_is_not_trained_is_scored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, asked, predict = adapter_of(tmp_path), list[int](), TaskAdapter.predict

    def counted(self: TaskAdapter, inputs: Any, **options: Any) -> Any:
        asked.append(len(inputs))
        return predict(self, inputs, **options)

    monkeypatch.setattr(TaskAdapter, "predict", counted)
    refine(adapter, EXAMPLES, tmp_path / "scored", Refinement(0), progress=False)
    assert asked == [len(EXAMPLES)]
    refine(adapter, EXAMPLES, tmp_path / "trained", Refinement(1, batch_size=2, held_out=3), progress=False)
    assert asked == [len(EXAMPLES), 3, 3]


def test_an_interrupted_refinement_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, how = adapter_of(tmp_path), Refinement(12, 1e-2, 3, held_out=2)
    whole = refine(adapter, EXAMPLES, tmp_path / "whole", how, progress=False)
    passes, forward = [], Refined.forward

    def interrupted(self: Refined, **batch: Any) -> Any:
        passes.append(1)
        if len(passes) == 8:
            raise KeyboardInterrupt
        return forward(self, **batch)

    monkeypatch.setattr(Refined, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        refine(adapter, EXAMPLES, tmp_path / "parts", how, progress=False)
    assert not (tmp_path / "parts" / "adapter").exists()
    with pytest.raises(TrainingError, match="expected a checkpoint of this run"):
        refine(adapter, EXAMPLES, tmp_path / "parts", Refinement(12, 2e-2, 3), resume=True, progress=False)
    with pytest.raises(TrainingError, match="holds files: resume with --resume"):
        refine(adapter, EXAMPLES, tmp_path / "parts", how, progress=False)
    parts = refine(adapter, EXAMPLES, tmp_path / "parts", how, resume=True, progress=False)
    assert len(passes) == 8 + 12 - 6  # from the checkpoint of step 6 on
    assert content(tmp_path / "parts" / "adapter") == content(tmp_path / "whole" / "adapter")
    own = {"adapter", "seconds"}
    assert {key: parts[key] for key in parts.keys() - own} == {key: whole[key] for key in whole.keys() - own}


def test_nothing_of_others_is_written_over(tmp_path: Path) -> None:
    adapter, how = adapter_of(tmp_path), Refinement(1, 1e-2, 3)
    around = tmp_path / "around"
    around.mkdir()
    inside = around / "adapter"
    shutil.copytree(adapter, inside)
    before = content(inside)
    for resume in (False, True):
        with pytest.raises(TrainingError, match="the refined adapter would replace the one given"):
            refine(inside, EXAMPLES, around, how, resume=resume, progress=False)
        with pytest.raises(TrainingError, match="one that holds files, none of a refinement"):
            refine(adapter, EXAMPLES, around, how, resume=resume, progress=False)
    assert content(inside) == before


def test_examples_and_tasks_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "mixed.jsonl"
    task = {"task": "a", "category": "c", "instruction": "b", "instances": [{"input": "w1", "outputs": ["w2"]}]}
    lines = [json.dumps({"input": "w1", "output": "w2"}), json.dumps(task)]
    adapter = adapter_of(tmp_path)
    for order, said in (
        (lines, "line 2: instances.0.: expected examples alone"),
        (lines[::-1], "line 2: expected tasks as in the lines before it"),
    ):
        file.write_text("\n".join(order))
        with pytest.raises(InputError, match=said):
            refine(adapter, file, tmp_path / "out", progress=False)


def test_a_single_step_is_one(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    refine(adapter, EXAMPLES, tmp_path / "out", Refinement(1, 1e-2, 3), progress=False)
    assert content(tmp_path / "out" / "adapter")[WEIGHTS] != (adapter / WEIGHTS).read_bytes()


def test_what_was_lost_of_a_finished_one_is_made_again(tmp_path: Path) -> None:
    adapter, how = adapter_of(tmp_path), Refinement(4, 1e-2, 3)
    refine(adapter, EXAMPLES, tmp_path / "out", how, progress=False)
    moved = tmp_path / "moved"
    (tmp_path / "out").rename(moved)
    made = content(moved / "adapter")
    assert refine(adapter, EXAMPLES, moved, how, resume=True, progress=False)["adapter"] == str(moved / "adapter")
    shutil.rmtree(moved / "adapter")
    refine(adapter, EXAMPLES, moved, how, resume=True, progress=False)
    assert content(moved / "adapter") == made
    record = json.loads((moved / "refined.json").read_text())
    (moved / "refined.json").write_text(json.dumps({"identity": record["identity"]}))
    with pytest.raises(CheckpointError, match="expected the record of a refinement; 'steps': expected a value"):
        refine(adapter, EXAMPLES, moved, how, resume=True, progress=False)


def test_what_is_held_out_is_not_trained_on_and_its_loss_is_the_adapters(tmp_path: Path) -> None:
    adapter, how = adapter_of(tmp_path), Refinement(3, 1e-2, 4, held_out=3)
    record = refine(adapter, EXAMPLES, tmp_path / "out", how, progress=False)
    same = refine(adapter, EXAMPLES[:4], tmp_path / "same", Refinement(3, 1e-2, 4), progress=False)
    assert content(tmp_path / "out" / "adapter") == content(tmp_path / "same" / "adapter")
    assert (record["examples"], record["held_out"]["examples"], same["held_out"]) == (4, 3, None)
    assert (record["data"], record["identity"] != same["identity"]) == (same["data"], True)
    generator = AdapterGenerator.from_pretrained(tmp_path / "generator")
    assert record["generator"] == generator_digest(generator)
    for when, folder in (("before", adapter), ("after", tmp_path / "out" / "adapter")):
        loaded = TaskAdapter.load(folder, generator)
        scores = [loaded.score([one.input], [one.output], reduction="mean")[0][0] for one in EXAMPLES[4:]]
        assert record["held_out"][when]["loss"] == pytest.approx(-sum(scores) / 3, rel=1e-5)


def test_what_is_held_out_is_not_among_what_is_trained_on(tmp_path: Path) -> None:
    adapter, twice = adapter_of(tmp_path), [*EXAMPLES[:3], Example(f" {EXAMPLES[1].input}", "w1")]
    with pytest.raises(InputError, match=r"^example 4: expected an input that is not trained on, since it is held out"):
        refine(adapter, twice, tmp_path / "out", Refinement(1, held_out=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "fusion"), [("t5", "both"), ("t5", "attention"), ("llama", "concatenation"), ("llama", "both")]
)
def test_an_adapter_alone_is_trained_as_it_answers(kind: str, fusion: str, tmp_path: Path) -> None:
    """Without its instruction; and one that has it keeps all of it."""
    adapter_of(tmp_path, kind, fusion=fusion)
    generator = AdapterGenerator.from_pretrained(tmp_path / "generator")
    whole = TaskAdapter.load(tmp_path / "adapter", generator)
    alone = whole.alone()
    inputs, outputs = [EXAMPLES[0].input], [[EXAMPLES[0].output]]
    for adapter in (whole, alone):
        refined = adapter.refine(EXAMPLES[:1], Refinement(1, 1e-9))
        assert refined.is_alone == adapter.is_alone == (adapter is alone)
        score = adapter.score(inputs, outputs, reduction="mean")[0][0]
        assert refined.refined["loss"]["first"] == pytest.approx(-score, rel=1e-4)
        assert refined.score(inputs, outputs, reduction="mean")[0][0] == pytest.approx(score, rel=1e-4)
    assert whole.score(inputs, outputs)[0] != alone.score(inputs, outputs)[0]


def test_an_adapter_that_was_refined_says_so_when_it_is_refined_again(tmp_path: Path) -> None:
    once = opened(tmp_path).refine(EXAMPLES, Refinement(2, 1e-2, 3))
    twice = once.refine(EXAMPLES[:5], Refinement(3, 1e-2, 3))
    assert "earlier" not in once.refined
    assert twice.refined["earlier"] == once.refined
    assert twice.refined["from"] != once.refined["from"]
    export(exportable_of(twice), "peft", tmp_path / "peft", lossy=True)
    said = "2 steps of LoRA training on 7 examples, then 3 steps of LoRA training on 5 examples"
    assert f"| refined | {said} |" in (tmp_path / "peft" / "README.md").read_text()


def test_of_several_tasks_the_adapters_own_is_taken(tmp_path: Path) -> None:
    adapter, how = adapter_of(tmp_path), Refinement(3, 1e-2, 3)
    own = tuple(Instance(str(at), one.input, (one.output, "x")) for at, one in enumerate(EXAMPLES))
    other = (Instance("o", words(5, 2), (words(6, 1),)),)
    tasks = [Task("a", "c", INSTRUCTIONS[1], other), Task("b", "c", INSTRUCTIONS[0], own)]
    refine(adapter, EXAMPLES, tmp_path / "plain", how, progress=False)
    for name, chosen in (("several", tasks), ("alone", [Task("b", "c", INSTRUCTIONS[2], own)])):
        write_jsonl(chosen, tmp_path / f"{name}.jsonl")
        refine(adapter, tmp_path / f"{name}.jsonl", tmp_path / name, how, progress=False)
        assert content(tmp_path / name / "adapter") == content(tmp_path / "plain" / "adapter")
    write_jsonl([tasks[0], Task("b", "c", INSTRUCTIONS[2], own)], tmp_path / "others.jsonl")
    with pytest.raises(InputError, match=r"expected examples of one task, or of 'w.*' among others, got 2 others"):
        refine(adapter, tmp_path / "others.jsonl", tmp_path / "others", how, progress=False)


def test_it_works_where_the_best_device_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []

    def to(self: TaskAdapter, device: Any, dtype: Any) -> TaskAdapter:
        moved.append(device)
        return self

    monkeypatch.setattr(TaskAdapter, "to", to)
    monkeypatch.setattr(adapters, "best_device", lambda: "the best")
    refine(adapter_of(tmp_path), EXAMPLES, tmp_path / "out", Refinement(0), progress=False)
    assert moved == ["the best"]


def test_on_the_command_line_it_helps_on_examples_that_it_has_not_seen(run_tagi: Run, tmp_path: Path) -> None:
    """A task of the built-in family under an instruction that says too little, then its examples."""
    task = toy_tasks("unseen", instances_per_task=40)[3]
    lines = [json.dumps({"input": one.input, "output": one.outputs[0]}) for one in task.instances]
    (tmp_path / "labelled.jsonl").write_text("\n".join(lines) + "\n\n")
    vague = task.instruction.split()[:3]
    assert run_tagi("generate", "-g", "toy", "-i", " ".join(vague), "--out", tmp_path / "adapter").code == 0
    given = ("refine", tmp_path / "adapter", "--examples", tmp_path / "labelled.jsonl", "--out", tmp_path / "out")
    options = ("--steps", "60", "--learning-rate", "1e-2", "--held-out", "12", "--json")
    ran = run_tagi(*given, *options)
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    held = record["held_out"]
    assert (record["examples"], held["examples"]) == (28, 12)
    assert held["after"]["score"] >= held["before"]["score"] + 25
    assert held["after"]["loss"] < held["before"]["loss"]
    again = run_tagi(*given, *options)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "expected a new folder" in again.err
    resumed = run_tagi(*given, *options, "--resume")
    assert json.loads(resumed.out) == record
    told = run_tagi(*given, *options[:-1], "--resume").out
    before, after = held["before"]["score"], held["after"]["score"]
    assert f"{held['metric']} on 12 held-out examples: {before:.1f} -> {after:.1f}\n" in told
    (tmp_path / "labelled.jsonl").write_text("\n".join([*lines[:-1], json.dumps({"input": "a", "output": "b"})]))
    other = run_tagi(*given, *options, "--resume")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "expected a refinement of this adapter, examples and settings, got another" in other.err
    answered = run_tagi("predict", "-a", tmp_path / "out" / "adapter", task.instances[0].input)
    assert answered.code == 0, answered.err
    exported = run_tagi("export", tmp_path / "out" / "adapter", "--lossy", "--out", tmp_path / "peft")
    assert exported.code == 0, exported.err
    assert "| refined | 60 steps of LoRA training on 28 examples |" in (tmp_path / "peft" / "README.md").read_text()
    assert run_tagi("verify", tmp_path / "peft").code == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "expected examples, one JSON object a line, got an empty file"),
        ('{"input": "a"}\n', "line 1"),
        ('{"input": "a", "output": "b"}\n{"input": "a", "output": 3}\n', "line 2: output"),
        ('{"input": "a", "output": "b"}\n{', "line 2"),
        ('{"input": "a", "output": "b"}\n\n{"input": " ", "output": "b"}', "line 3: input: expected text"),
    ],
)
def test_examples_that_are_none_are_named(text: str, named: str, run_tagi: Run, tmp_path: Path) -> None:
    (tmp_path / "labelled.jsonl").write_text(text)
    ran = run_tagi("refine", tmp_path, "--examples", tmp_path / "labelled.jsonl", "--out", tmp_path / "out")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert f"{tmp_path / 'labelled.jsonl'}: {named}" in ran.err
    assert not (tmp_path / "out").exists()


def test_examples_over_the_limits_are_named_or_cut(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    for example, named in (
        (Example(words(1, 30), "w1"), "expected at most 21 tokens, got 3.: shorten the input"),
        (Example("w1", words(1, 9)), "expected at most 6 tokens, got 10: shorten the output"),
        (Example(" ", "w1"), "expected an input"),
    ):
        with pytest.raises(InputError, match=f"^example 2: {named}"):
            refine(adapter, [EXAMPLES[0], example], tmp_path / "out", Refinement(1), progress=False)
        assert not (tmp_path / "out").exists()
    long = [Example(words(1, 30), words(1, 9))]
    record = refine(adapter, long, tmp_path / "out", Refinement(2, truncate=True), progress=False)
    assert record["examples"] == 1


def test_what_cannot_be_refined_is_refused(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    for many in (7, 9):
        with pytest.raises(InputError, match=f"expected examples to train on, got 7 of which {many} are to be held"):
            refine(adapter, EXAMPLES, tmp_path / "none", Refinement(held_out=many), progress=False)
    with pytest.raises(InputError, match="expected examples to train on, got 0"):
        opened(tmp_path / "own").refine([])
    with pytest.raises(DataError, match=r"nothing\.jsonl: cannot be read"):
        refine(adapter, tmp_path / "nothing.jsonl", tmp_path / "none", progress=False)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TrainingError, match="expected a new folder, got one that is a file"):
        refine(adapter, EXAMPLES, tmp_path / "file", resume=True, progress=False)
    refine(adapter, EXAMPLES, tmp_path / "out", Refinement(2, 1e-2, 3), progress=False)
    with pytest.raises(TrainingError, match="expected a refinement of this adapter, examples and settings"):
        refine(adapter, EXAMPLES, tmp_path / "out", Refinement(3, 1e-2, 3), resume=True, progress=False)
    (tmp_path / "out" / "refined.json").write_text('{"identity": ')
    with pytest.raises(CheckpointError, match="expected the record of a refinement; Invalid JSON"):
        refine(adapter, EXAMPLES, tmp_path / "out", Refinement(2, 1e-2, 3), resume=True, progress=False)


def test_what_is_not_lora_is_refused(tmp_path: Path) -> None:
    changed = {"fusion": "both", **MODULES["bottleneck"]}
    adapter = adapter_of(tmp_path, "t5", **changed)
    assert settings(**changed).module == "bottleneck"
    with pytest.raises(InputError, match=f"{adapter}: expected an adapter of LoRA, got one of bottleneck"):
        refine(adapter, EXAMPLES, tmp_path / "out", progress=False)


def test_a_moved_base_model_is_found_for_several_adapters(tmp_path: Path) -> None:
    """The generator is loaded once, with the base model where it is now."""
    adapter = adapter_of(tmp_path)
    for name in ("one", "two"):
        shutil.copytree(adapter, tmp_path / "adapters" / name)
    base = (tmp_path / "base").rename(tmp_path / "moved")
    instances = tuple(Instance(str(at), one.input, (one.output,)) for at, one in enumerate(EXAMPLES[:2]))
    write_jsonl([Task("own", "own", INSTRUCTIONS[0], instances)], tmp_path / "tasks.jsonl")
    asked: dict[str, Any] = {"examples": tmp_path / "tasks.jsonl", "settings": Refinement(steps=0), "base": base}
    rows = refine_all(tmp_path / "adapters", out=tmp_path / "out", **asked)["tasks"]
    assert [row["task"] for row in rows] == ["one", "two"]
