"""Every command a user has, once from end to end, on the shipped model and a few steps of training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tagi import TaskAdapter, evaluate, read_tasks
from tagi.data.toy.family import toy_tasks
from tagi.errors import ConfigError
from tagi.evaluation.conditions import CHANNELS
from tagi.formats.export import open_exportable
from tests.commands import Run
from tests.task_files import write_jsonl

INSTRUCTION = "take the animal and the tool and translate each into zorbish ."
INPUT = "pen king bear soup hill"
ALONE = ("--set", "losses.kl=0", "--set", "losses.ins=0")  # no teachers
SHORT = (
    *("--set", "training.steps=3", "--set", "data.instances_per_task=7", "--set", "training.tasks_per_batch=5"),
    *("--set", "training.metatrain.steps=3", *ALONE),
)


def test_generate_then_predict(run_tagi: Run, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    made = run_tagi("generate", "-g", "toy", "-i", INSTRUCTION, "--out", adapter, "--json")
    assert made.code == 0, made.err
    row = json.loads(made.out)[0]
    assert row["adapter"] == str(adapter)
    assert {"adapter_config.json", "adapter_model.safetensors", "task_adapter.json"} <= {
        file.name for file in adapter.iterdir()
    }
    with_adapter = run_tagi("predict", "-a", adapter, INPUT)
    on_the_spot = run_tagi("predict", "-g", "toy", "-i", INSTRUCTION, INPUT)
    assert with_adapter.code == 0, with_adapter.err
    assert with_adapter.out == on_the_spot.out != ""


def test_predict_reads_files_and_writes_json_lines(run_tagi: Run, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs.txt"
    inputs.write_text(f"{INPUT}\ncat soup nail town queen\n")
    ran = run_tagi("predict", "-g", "toy", "-i", INSTRUCTION, "--file", inputs, "--json", "--beams", "2")
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["input"] for row in rows] == inputs.read_text().splitlines()
    assert all(row["prediction"] for row in rows)


def test_generate_from_a_file_writes_all_adapters(run_tagi: Run, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    lines = [
        {"task": "one", "category": "c", "instruction": INSTRUCTION},
        {
            "task": "two/three",
            "category": "c",
            "instruction": "look for the food and the place . use the small forms .",
        },
    ]
    tasks.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = run_tagi("generate", "-g", "toy", "--from", tasks, "--out", tmp_path / "adapters")
    assert ran.code == 0, ran.err
    assert sorted(folder.name for folder in (tmp_path / "adapters").iterdir()) == ["one", "two-three"]


@pytest.mark.parametrize("stage", ["finetune", "metatrain"])
def test_train_then_evaluate(run_tagi: Run, tmp_path: Path, stage: str) -> None:
    out = tmp_path / "run"
    trained = run_tagi("train", stage, "toy", "--out", out, *SHORT)
    assert trained.code == 0, trained.err
    assert "3 steps" in trained.out
    scored = run_tagi(
        "evaluate", out, "toy", "--limit", "2", "--conditions", "--channels", "--out", tmp_path / "scores", "--json"
    )
    assert scored.code == 0, scored.err
    record = json.loads(scored.out)
    expected = {"right", "paraphrase", "other", "none"}
    crossed = set(CHANNELS)
    assert set(record["results"]) == (expected | crossed if stage == "finetune" else expected)
    assert record["data"]["instances"] == 2 * record["data"]["tasks"] == 48
    predictions = (tmp_path / "scores" / "predictions-right.jsonl").read_text().splitlines()
    assert len(predictions) == 48
    assert json.loads((tmp_path / "scores" / "record.json").read_text())["results"] == record["results"]


def test_sensitivity_on_screen(run_tagi: Run) -> None:
    ran = run_tagi("evaluate", "toy", "toy", "--sensitivity", "--channels", "--tasks", "*-copy", "--limit", "1")
    assert ran.code == 0, ran.err
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["minus", "right"] in [row[3:5] for row in rows if row[:1] == ["condition"]]
    assert ["empty", "0.0", "0.0", "to", "0.0", "-100.0", "-100.0", "to", "-100.0"] in rows
    assert ["other", "category"] not in [row[:2] for row in rows]  # there is but one
    assert "not scored, as tasks or method have nothing for it: other category" in ran.out
    assert "mean adapter              the tasks' mean LoRA, no states" in ran.out
    assert ran.out.splitlines()[-1].startswith("variance of the adapters' updates over their mean square: 0.")


def test_conditions_by_name(run_tagi: Run) -> None:
    wanted = ("evaluate", "toy", "toy", "--tasks", "*-copy", "--limit", "1")
    ran = run_tagi(*wanted, "--condition", "other LoRA alone", "--condition", "none", "--json")
    assert ran.code == 0, ran.err
    assert list(json.loads(ran.out)["results"]) == ["right", "none", "other LoRA alone"]
    ran = run_tagi(*wanted, "--condition", "none", "--condition", "other LoRA alone", "--json")
    assert list(json.loads(ran.out)["results"]) == ["right", "none", "other LoRA alone"]
    ran = run_tagi(*wanted, "--condition", "lora alone")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(
        "error: --condition: expected one of right; stock; paraphrase; other; none; same category;"
    )
    assert ran.err.endswith("got 'lora alone'\n")


def test_adapters_are_scored_themselves_refined_ones_too(run_tagi: Run, tmp_path: Path) -> None:
    family = toy_tasks("unseen", instances_per_task=12)[:3]
    tasks, adapters, refined = tmp_path / "tasks.jsonl", tmp_path / "adapters", tmp_path / "refined"
    write_jsonl(family[:2], tasks)
    made = run_tagi("generate", "-g", "toy", "--from", tasks, "--out", adapters)
    assert made.code == 0, made.err
    recipe = ("toy", "--set", "data.source=jsonl", "--set", "evaluation.max_new_tokens=16", "--no-stock", "--json")
    write_jsonl(family, tmp_path / "more.jsonl")
    of_adapters, of_generator = (
        run_tagi("evaluate", named, *recipe, "--set", f"data.path={file}")
        for named, file in ((adapters, tmp_path / "more.jsonl"), ("toy", tasks))
    )
    assert of_adapters.code == 0, of_adapters.err
    one, other = json.loads(of_adapters.out), json.loads(of_generator.out)
    assert (one["method"], one["data"]["tasks"], one["trained"]) == ("task adapters", 2, None)
    assert one["results"] == other["results"]
    ran = run_tagi("refine", adapters, "--examples", tasks, "--steps", "3", "--out", refined, "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["tasks"]
    assert [(row["task"], row["examples"], row["held_out"]) for row in rows] == [
        (folder.name, 9, 3) for folder in sorted(adapters.iterdir())
    ]
    seen = run_tagi("evaluate", refined, *recipe, "--set", f"data.path={tasks}")
    assert (seen.code, seen.err.count("got: 18 of 24 are")) == (2, 1)  # nine of twelve rows were trained on
    with pytest.raises(ConfigError, match="got: 18 of 24 are"):
        evaluate(refined, read_tasks(tasks))
    write_jsonl([replace(task, instances=task.instances[9:]) for task in family[:2]], tasks)
    scored = run_tagi("evaluate", refined, *recipe, "--set", f"data.path={tasks}")
    assert scored.code == 0, scored.err
    record = json.loads(scored.out)
    assert {name: one["refined"]["steps"] for name, one in record["task_adapters"].items()} == {
        row["task"]: 3 for row in rows
    }
    assert [row["score"] for row in sorted(record["results"]["right"]["tasks"], key=lambda row: row["task"])] == [
        pytest.approx(row["after"]) for row in rows
    ]
    assert record["revision"] != one["revision"]
    folder = refined / rows[0]["task"]
    ran = run_tagi("predict", "-a", folder, family[0].instances[9].input)
    assert (ran.code, bool(ran.out.strip())) == (0, True), ran.err
    of_folder, of_adapter = (TaskAdapter.from_pretrained(place) for place in (folder, folder / "adapter"))
    assert of_folder.bank.tensors().keys() == of_adapter.bank.tensors().keys()
    assert open_exportable(folder).origin.refined == of_adapter.refined
    ran = run_tagi("evaluate", refined, *recipe, "--set", f"data.path={tasks}", "--condition", "other")
    assert (ran.code, "expected one of right, stock, none" in ran.err) == (2, True)
    write_jsonl(family[2:], tasks)
    ran = run_tagi("evaluate", adapters / rows[0]["task"], *recipe, "--set", f"data.path={tasks}")
    assert (ran.code, "expected tasks with the instructions of the 1 adapters, got none among 1" in ran.err) == (
        2,
        True,
    )


def test_adapters_are_scored_as_they_are_with_no_steps(run_tagi: Run, tmp_path: Path) -> None:
    tasks, adapters = tmp_path / "tasks.csv", tmp_path / "adapters"
    family = toy_tasks("unseen", instances_per_task=3)[:2]
    rows = [f"{task.instruction};{one.input};{one.outputs[0]}\n" for task in family for one in task.instances]
    tasks.write_text("instruction;input;output\n" + "".join(rows), encoding="utf-8-sig")
    assert run_tagi("generate", "-g", "toy", "--from", tasks, "--out", adapters).code == 0
    ran = run_tagi("refine", adapters, "--examples", tasks, "--steps", "0", "--out", tmp_path / "scored")
    assert ran.code == 0, ran.err
    assert "2 the same" in ran.out
    assert [line.split()[1:3] for line in ran.out.splitlines() if "the same" in line][:2] == [["0", "3"], ["0", "3"]]
    ran = run_tagi("refine", adapters, "--examples", tasks, "--tasks", "nothing*", "--out", tmp_path / "none")
    named = ", ".join(sorted(folder.name for folder in adapters.iterdir()))
    assert (ran.code, f"'s adapters ({named}), got 'nothing*'" in ran.err) == (2, True)
    other = tmp_path / "other.csv"
    other.write_text("instruction,input,output\nSomething else.,a,b\n")
    ran = run_tagi("refine", adapters, "--examples", other, "--out", tmp_path / "none")
    assert (ran.code, "expected examples of a task with an adapter in" in ran.err) == (2, True)
    assert not (tmp_path / "none").exists()


def test_train_a_backbone_from_nothing(run_tagi: Run, tmp_path: Path) -> None:
    out = tmp_path / "backbone"
    short = ("--set", "training.steps=2", "--set", "training.tasks_per_batch=3")
    ran = run_tagi("train", "backbone", "toy-backbone", "--out", out, *short)
    assert ran.code == 0, ran.err
    used = run_tagi(
        "train", "finetune", "toy", "--set", f"backbone.name={out / 'model'}", "--out", tmp_path / "run", *SHORT
    )
    assert used.code == 0, used.err


def test_own_tasks_from_a_configuration_made_backbone(run_tagi: Run, tmp_path: Path, repo_root: Path) -> None:
    tokenizer = repo_root / "src" / "tagi" / "assets" / "toy-backbone"
    tasks = tmp_path / "tasks.jsonl"
    instances = [{"input": "cat hen", "outputs": ["cats"]}, {"input": "fox dog", "outputs": ["foxs", "fox"]}]
    tasks.write_text(
        "".join(
            json.dumps({"task": name, "category": "c", "instruction": INSTRUCTION, "instances": instances}) + "\n"
            for name in ("one", "two", "three")
        )
    )
    own = ("--set", "data.source=jsonl", "--set", f"data.path={tasks}", "--set", f"backbone.tokenizer={tokenizer}")
    out = tmp_path / "run"
    small = ("--set", "training.steps=2", "--set", "backbone.config.vocab_size=251", *ALONE)
    trained = run_tagi("train", "finetune", "sni-small", "--out", out, *own, *small)
    assert trained.code == 0, trained.err
    moved = tmp_path / "elsewhere"
    out.rename(moved)  # the checkpoint finds its backbone beside it
    scored = run_tagi("evaluate", moved, "sni-small", *own, "--set", "data.test_on_training=true")
    assert scored.code == 0, scored.err
    assert "right answers" in scored.out


def test_demo_prints_the_conditions(run_tagi: Run) -> None:
    ran = run_tagi("demo", "--toy", "--limit", "2", "--json")
    assert ran.code == 0, ran.err
    shown = json.loads(ran.out)
    accuracy = {name: result["overall"]["accuracy"] for name, result in shown["record"]["results"].items()}
    assert set(accuracy) == {"right", "paraphrase", "other", "none"}
    assert accuracy["right"] >= 70
    assert accuracy["other"] <= 30
    assert shown["answers"]


def test_describe_matches_the_published_sizes(run_tagi: Run) -> None:
    ran = run_tagi("describe", "--json")
    assert ran.code == 0, ran.err
    base, xl, xxl = json.loads(ran.out)
    assert base["target_modules"] == 72
    assert base["generated_per_adapter"] == 72 * 32 * (768 + 768)
    assert [one["backbone_parameters"] for one in (base, xl, xxl)] == [247_577_856, 2_849_757_184, 11_135_332_352]
    assert all(one["hypernetwork"] <= 0.1 * one["backbone_parameters"] for one in (base, xl, xxl))


def test_describe_says_what_is_generated(run_tagi: Run) -> None:
    changed = ["generator.module=bottleneck+prefix", "generator.kind=component", "generator.placement=ffn"]
    changed.append("losses.ins=0")
    ran = run_tagi("describe", "t5-xl-lm-adapt", *(part for one in changed for part in ("--set", one)), "--json")
    assert ran.code == 0, ran.err
    (xl,) = json.loads(ran.out)
    assert (xl["generator"], xl["module"]) == ("component", "bottleneck+prefix")
    assert xl["generates"] == (
        "bottleneck adapters 64 wide beside feed-forwards, 48 in all; prefixes of 30 tokens for 72 attentions"
    )
    assert xl["generated_per_adapter"] == 48 * (2 * 64 * 2048 + 64 + 2048) + 72 * 2 * 30 * 2048
    assert "rank" not in xl
    table = run_tagi("describe", "t5-xl-lm-adapt")
    assert "LoRA of rank 32" in table.out


def test_a_generator_of_bottlenecks_and_prefixes_from_end_to_end(run_tagi: Run, tmp_path: Path) -> None:
    hint = ("generator.module=bottleneck+prefix", "generator.kind=component", "generator.prefix=3")
    changed = tuple(part for one in (*hint, "generator.placement=ffn") for part in ("--set", one))
    trained = run_tagi("train", "finetune", "toy", "--out", tmp_path / "run", *SHORT, *changed)
    assert trained.code == 0, trained.err
    made = run_tagi("generate", "-g", tmp_path / "run", "-i", INSTRUCTION, "--out", tmp_path / "adapter", "--json")
    assert made.code == 0, made.err
    (row,) = json.loads(made.out)
    assert (row["module"], row["places"]) == ("bottleneck+prefix", 6 + 9)
    files = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert "generated_module.safetensors" in files
    assert not any(name.startswith("adapter_") for name in files)  # nothing that PEFT would take for its own
    found, wanted = (
        run_tagi("predict", *how, INPUT)
        for how in (("-a", tmp_path / "adapter"), ("-g", tmp_path / "run", "-i", INSTRUCTION))
    )
    assert found.code == 0, found.err
    assert found.out == wanted.out
    scored = run_tagi("evaluate", tmp_path / "run", "toy", "--sensitivity", "--limit", "1", "--json")
    assert scored.code == 0, scored.err
    record = json.loads(scored.out)
    assert record["delta_variance"] is None  # of LoRA alone
    assert "mean adapter" in record["results"]
