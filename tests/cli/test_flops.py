"""`tagi flops`: ratios beside the paper's, components, records, and mistakes in one line."""

import json
from pathlib import Path

import pytest

from tests.cli.test_bad_input import assert_refused
from tests.commands import Run

GIVEN = ("--instruction", "90.5", "--input", "60", "--output", "5")


def test_given_lengths(run_tagi: Run) -> None:
    ran = run_tagi("flops", *GIVEN)
    assert ran.code == 0, ran.err
    assert "100 examples a task, lengths as given: instruction 90.5 tokens, input 60.0" in ran.out
    lines = {line.split("  ")[0].strip(): line.split() for line in ran.out.splitlines()}
    assert lines["Tk-Instruct / Metatrain"][3:] == ["1.00", "1.00", "1.000", "1.000", "1.000"]
    assert lines["HINT"][1:3] == ["0.37", "-"]
    assert lines["TAGI"][1] == "0.39"
    assert all(0.1 < float(ratio) < 1 for ratio in lines["TAGI"][3:])


def test_components_and_json(run_tagi: Run) -> None:
    shown = run_tagi("flops", "t5-xl-lm-adapt", *GIVEN, "--components")
    assert shown.code == 0, shown.err
    assert "…" not in shown.out
    on_backbone, own = shown.out.split("TFLOPs of a task")[1:]
    lines = {line.split()[0]: line.split()[1:] for line in on_backbone.splitlines() if line.strip()}
    ran = run_tagi("flops", "t5-xl-lm-adapt", *GIVEN, "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    costs = {row["method"]: row["costs"]["t5-xl-lm-adapt"] for row in record["methods"]}
    for component, value in {**costs["TAGI"]["components"], "total": costs["TAGI"]["flops"]}.items():
        assert len(lines[component]) == 7  # No FT, Tk-Instruct, Hypter, HyperTuning twice, HINT, TAGI
        assert float(lines[component][-1]) == pytest.approx(value / 1e12, rel=1e-3)
    (total,) = [line.split()[1:] for line in own.splitlines() if line.strip().startswith("total")]
    models = ("GPT-2 XL", "OPT 13B", "GPT-2 XL cached", "OPT 13B cached")
    assert [float(one) for one in total] == pytest.approx([costs[name]["flops"] / 1e12 for name in models], rel=1e-3)
    assert costs["TAGI"]["flops"] == pytest.approx(sum(costs["TAGI"]["components"].values()))


def test_more_examples_share_the_instruction(run_tagi: Run) -> None:
    ratios = []
    for examples in ("1", "10", "1000"):
        ran = run_tagi("flops", "t5-base-lm-adapt", *GIVEN, "--examples", examples, "--json")
        (tagi,) = [row for row in json.loads(ran.out)["methods"] if row["method"] == "TAGI"]
        ratios.append(tagi["costs"]["t5-base-lm-adapt"]["ratio"])
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > 1 > ratios[1]


def test_lora_unmerged(run_tagi: Run) -> None:
    adapters = []
    for option in ((), ("--unmerged",)):
        ran = run_tagi("flops", "t5-base-lm-adapt", *GIVEN, *option, "--json")
        record = json.loads(ran.out)
        assert record["merged"] is (not option)
        (tagi,) = [row for row in record["methods"] if row["method"] == "TAGI"]
        adapters.append(tagi["costs"]["t5-base-lm-adapt"]["components"]["adapter"])
    assert adapters[0] < adapters[1]


def test_the_adapter_alone(run_tagi: Run) -> None:
    ratios = []
    for option in ((), ("--alone",)):
        ran = run_tagi("flops", "--recipe", "toy", "recipe", "--methods", "tk-instruct,tagi", *GIVEN, *option, "--json")
        assert ran.code == 0, ran.err
        record = json.loads(ran.out)
        assert record["alone"] is bool(option)
        ratios.append([row["costs"]["recipe"]["ratio"] for row in record["methods"]])
    (_, with_states), (rival, alone) = ratios
    assert alone < with_states < rival == 1


def test_a_recipes_own_backbone_measured_on_its_test_tasks(run_tagi: Run, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    instances = [{"input": "cat hen", "outputs": ["cats"]}]
    task = {"task": "one", "category": "c", "instruction": "the animal", "instances": instances}
    tasks.write_text(json.dumps(task) + "\n")
    own = ("--recipe", "sni-small", "--set", "data.source=jsonl", "--set", f"data.path={tasks}")
    out = tmp_path / "out"
    ran = run_tagi("flops", "recipe", *own, "--set", "backbone.tokenizer=toy", "--out", out)
    assert ran.code == 0, ran.err
    assert "1 tasks, 1 instances, means over tasks" in ran.out
    record = json.loads((out / "record.json").read_text())
    assert record["recipe"]["name"] == "sni-small"
    assert set(record["tasks"]) == {"one"}
    assert_refused(run_tagi("flops", *GIVEN, "--out", out), "expected a new folder")


def test_mistakes(run_tagi: Run, tmp_path: Path) -> None:
    refused = run_tagi("flops", "--instruction", "3", "--output", "4")
    assert_refused(refused, "expected all of --instruction, --input, --output or none", "got no --input")
    assert_refused(
        run_tagi("flops", "--input", "inf", *GIVEN[:2], *GIVEN[4:]), "input: expected a finite length", "got inf"
    )
    assert_refused(run_tagi("flops", "t5-enormous", *GIVEN), "t5-base-lm-adapt", "t5-enormous")
    assert_refused(run_tagi("flops", "--set", f"data.path={tmp_path / 'none'}"), "none")
    assert_refused(run_tagi("flops", "--recipe", "no-such", *GIVEN), "no-such")
    toy = ("--recipe", "toy", "t5-base-lm-adapt", "--set", "backbone.name=google/t5-base-lm-adapt")
    assert_refused(run_tagi("flops", *toy, "--set", "backbone.tokenizer=no/such"), "backbone.tokenizer", "no/such")
    assert run_tagi("flops", *GIVEN, "--examples", "0").code == 2
