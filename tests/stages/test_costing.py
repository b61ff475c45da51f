"""The FLOPs column: what is summed over tasks, what it is compared with, and the paper's figures as they stand."""

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tagi.config.methods import chosen_methods
from tagi.errors import ConfigError
from tagi.hypernetwork.targets import targets_of
from tagi.methods.flops import Cost, Lengths, Shapes, prompted_cost, tagi_cost
from tagi.settings.methods import method_names
from tagi.settings.recipe import Recipe
from tagi.stages.describe import shapes_of
from tagi.stages.flops import GPT2_XL, OPT_13B, flops, table, table_rows
from tagi.stages.recipe_settings import generator_settings
from tagi.stages.recipes import load_recipe
from tests.causal_models import causal_tokenizer, tiny_causal, tiny_causal_model

BASE, XL = "t5-base-lm-adapt", "t5-xl-lm-adapt"
SHAPES = {
    BASE: Shapes(12, 12, 768, 768, 768, 2048, 3, 32128),
    XL: Shapes(24, 24, 2048, 2048, 2048, 5120, 3, 32128),
}
GIVEN = Lengths(101, 61, 7, 90)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("sni-base")


def costs(record: dict[str, Any], method: str) -> Any:
    (row,) = [row for row in record["methods"] if row["method"] == method]
    return row["costs"]


def parameters(shapes: Shapes) -> int:
    layer = 4 * shapes.d_model * shapes.inner + 2 * shapes.d_model * shapes.d_ff
    return shapes.decoder_layers * layer + shapes.d_model * shapes.vocabulary


def nearly(value: Any) -> Any:
    """The same but for the rounding of sums of fractions."""
    if isinstance(value, dict):
        return {key: nearly(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [nearly(inner) for inner in value]
    return pytest.approx(value, rel=1e-12) if isinstance(value, float) else value


def tagi(name: str, recipe: Recipe, lengths: Lengths) -> Cost:
    """What the recipe's generator costs on a published T5."""
    settings = generator_settings(recipe)
    return tagi_cost(SHAPES[name], targets_of(shapes_of(name, recipe), settings), settings, lengths)


def test_given_lengths_on_published_models(recipe: Recipe) -> None:
    record = flops([BASE, XL], recipe, GIVEN, examples=90)
    for name, shapes in SHAPES.items():
        whole, own = prompted_cost(shapes, GIVEN), tagi(name, recipe, GIVEN)
        for same in ("Tk-Instruct / Metatrain", "No FT"):
            assert costs(record, same)[name]["ratio"] == costs(record, same)[name]["mean_of_ratios"] == 1
            assert costs(record, same)[name]["flops"] == whole.total
        found = costs(record, "TAGI")[name]
        assert found["ratio"] == found["mean_of_ratios"] == own.total / whole.total
        assert found["components"] == own.components.as_dict()
        anew, cached = (costs(record, method)[name]["flops"] for method in ("OPT 13B", "OPT 13B cached"))
        assert cached < anew
    assert record["lengths"] == {"instruction": 101, "input": 61, "output": 7, "concatenated": 162}
    assert record["data"] is None


def test_a_decoder_only_recipe_is_costed_on_its_own_model(tmp_path: Path) -> None:
    model = tiny_causal_model("llama", max_position_embeddings=709)
    model.save_pretrained(tmp_path)
    causal_tokenizer().save_pretrained(tmp_path)
    recipe = load_recipe("smollm2", [f"backbone.name={tmp_path}", "data.encoding=plain"])
    record = flops(["recipe"], recipe, GIVEN, methods=chosen_methods("all", "causal"), examples=90)
    shapes = Shapes.of(tiny_causal("llama", max_position_embeddings=709))
    for method, cached in (("No FT", False), ("Decoder-only", False), ("Decoder-only, cached", True)):
        wanted = prompted_cost(shapes, GIVEN, prefix_cached=cached)
        assert costs(record, method)["recipe"]["flops"] == wanted.total
    assert costs(record, "Decoder-only, cached")["recipe"]["ratio"] < 1
    assert costs(record, "Tk-Instruct, LoRA")["recipe"]["ratio"] > 1
    assert costs(record, "TAGI")["recipe"]["components"]["generation"] > 0
    assert costs(record, "TAGI")["recipe"]["components"]["instruction"] == 2 * shapes.read(GIVEN.instruction)
    assert costs(record, "HyperTuning (LoRA)")["recipe"]["components"]["instruction"] == shapes.read(GIVEN.instruction)
    assert not any(row["own_model"] for row in record["methods"])


@pytest.mark.parametrize(("cache", "start"), [("adapted", 0), ("none", 1)])
def test_measured_inputs_are_what_is_read(tmp_path: Path, cache: str, start: int) -> None:
    """After an instruction no start token stands before an input; in one text each is cut at its own limit."""
    tiny_causal_model("llama").save_pretrained(tmp_path)
    causal_tokenizer().save_pretrained(tmp_path)
    instances = [{"input": "cat " * count, "outputs": ["hen"]} for count in (3, 20)]
    task = {"task": "t", "category": "c", "instruction": "fox " * 14, "instances": instances}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task) + "\n")
    limits = ["data.max_instruction_tokens=11", "data.max_input_tokens=9", "data.max_target_tokens=5"]
    data = ["data.source=jsonl", f"data.path={tmp_path / 'tasks.jsonl'}", "data.encoding=plain", *limits]
    kept = [f"generator.instruction_cache={cache}", "losses.alone=0", "losses.alone_kl=0", "data.demonstrations="]
    recipe = load_recipe("smollm2", [f"backbone.name={tmp_path}", *data, *kept])
    alone = flops(["recipe"], recipe, methods=["tagi"], alone=True)["lengths"]
    assert alone["input"] == fmean([4 + 1, 9])
    found = flops(["recipe"], recipe, methods=["tagi"])["lengths"]
    assert found["instruction"] == 11
    assert found["input"] == fmean([4 + start, 9])  # a mark of one token asks for the output
    assert found["concatenated"] == 11 + fmean([4, 9])


def test_lora_unmerged_costs_more(recipe: Recipe) -> None:
    merged = costs(flops([BASE], recipe, GIVEN), "TAGI")[BASE]
    unmerged = costs(flops([BASE], recipe, GIVEN, merged=False), "TAGI")[BASE]
    more = unmerged["components"]["adapter"] - merged["components"]["adapter"]
    assert unmerged["flops"] - merged["flops"] == more > 0


def test_the_adapter_alone_costs_less_than_after_its_instruction(tmp_path: Path) -> None:
    """Without the prefix the instruction is read once, and no input attends to it; other methods cost the same."""
    tiny_causal_model("llama", max_position_embeddings=709).save_pretrained(tmp_path)
    causal_tokenizer().save_pretrained(tmp_path)
    recipe = load_recipe("smollm2", [f"backbone.name={tmp_path}", "data.encoding=plain"])
    assert recipe.generator.instruction_cache == "adapted"
    whole, alone = (
        flops(["recipe"], recipe, GIVEN, methods=["tk-instruct", "tagi"], alone=chosen) for chosen in (False, True)
    )
    assert (whole["alone"], alone["alone"]) == (False, True)
    assert costs(whole, "Tk-Instruct / Metatrain") == costs(alone, "Tk-Instruct / Metatrain")
    shapes = Shapes.of(tiny_causal("llama", max_position_embeddings=709))
    found = costs(alone, "TAGI")["recipe"]["components"]
    assert found["instruction"] == shapes.read(GIVEN.instruction)
    answer = shapes.answer(GIVEN.input, GIVEN.output, last_apart=True)
    assert (found["decoder"], found["head"]) == (90 * answer.decoder, 90 * answer.head)
    assert costs(alone, "TAGI")["recipe"]["ratio"] < costs(whole, "TAGI")["recipe"]["ratio"]


def test_measured_tasks_are_summed_by_their_own_means(tmp_path: Path) -> None:
    """Attention is quadratic: the cost of mean lengths is not the mean of costs."""
    words = ["cat hen fox dog " * 9, "the animal"]
    lines = []
    for at, instruction in enumerate(words):
        instances = [{"input": "cat " * count, "outputs": ["hen " * count]} for count in (1 + 30 * at, 2)]
        task = {"task": f"t{at}", "category": "c", "instruction": instruction, "instances": instances}
        lines.append(json.dumps(task) + "\n")
    (tmp_path / "tasks.jsonl").write_text("".join(lines))
    data = ("data.source=jsonl", f"data.path={tmp_path / 'tasks.jsonl'}", "data.encoding=plain")
    recipe = load_recipe("sni-base", [*data, "backbone.tokenizer=toy"])
    record = flops([BASE], recipe, examples=11, out=tmp_path / "out")
    own = {name: Lengths(**values) for name, values in record["tasks"].items()}
    assert [(one.instruction, one.input, one.output) for one in own.values()] == [(37, 2.5, 2.5), (3, 17.5, 17.5)]
    assert {one.examples for one in own.values()} == {11}
    assert record["lengths"]["concatenated"] == fmean([38.5, 19.5])
    totals = [tagi(BASE, recipe, one).total for one in own.values()]
    rival = [prompted_cost(SHAPES[BASE], one).total for one in own.values()]
    found = costs(record, "TAGI")[BASE]
    assert found["flops"] == pytest.approx(fmean(totals), rel=1e-12)
    assert found["ratio"] == sum(totals) / sum(rival)
    assert found["mean_of_ratios"] == fmean(a / b for a, b in zip(totals, rival, strict=True))
    mean = Lengths(20, 10, 10, 11, concatenated=29)
    assert found["ratio"] != costs(flops([BASE], recipe, mean), "TAGI")[BASE]["ratio"]
    written = json.loads((tmp_path / "out" / "record.json").read_text())
    assert written["methods"] == record["methods"]
    assert written["recipe"]["data"]["path"] == str(tmp_path / "tasks.jsonl")


def test_super_natural_instructions_with_and_without_demonstrations(data_dir: Path) -> None:
    few = ("data.test_instances_per_task=2", f"data.path={data_dir / 'natural-instructions'}")
    tokens = f"backbone.tokenizer={data_dir / 't5_tokenizer'}"
    plain = flops([BASE], load_recipe("sni-base", [*few, tokens]))
    shown = flops([BASE], load_recipe("sni-base", [*few, tokens, "data.positives=2"]))
    assert (plain["data"]["tasks"], plain["data"]["instances"]) == (55, 110)
    assert len(plain["tasks"]) == 55
    assert plain["lengths"]["input"] == shown["lengths"]["input"]
    assert 2 * plain["lengths"]["instruction"] < shown["lengths"]["instruction"] < 1024
    assert costs(shown, "TAGI")[BASE]["ratio"] < costs(plain, "TAGI")[BASE]["ratio"] < 1


def test_a_source_without_test_tasks() -> None:
    recipe = load_recipe("sni-base", ["data.source=p3", "data.path=nowhere"])
    with pytest.raises(ConfigError, match=r"data\.test_path: expected a folder"):
        flops([BASE], recipe)


def test_the_papers_figures_are_table_2s(data_dir: Path) -> None:
    quoted = {}
    for line in (data_dir / "paper" / "table2.tsv").read_text().splitlines():
        cells = line.split("\t")
        ratio = re.fullmatch(r"\W(\d.*)", cells[-1].replace(" ", ""))  # a multiplication sign before the number
        if ratio:
            name = re.sub(r" \(.*\)", "", cells[0]).strip(" *†")
            quoted[name] = float(ratio[1])
    assert len(quoted) == 8
    ours = {re.sub(r" (cached|13B|/ Metatrain|\(.*\))", "", row.title): row.paper for row in table_rows()}
    assert {name.removesuffix(" cached").removesuffix(" 13B"): figure for name, figure in ours.items()} == quoted


KEPT = ("def", "def-2-pos", "def-no-attention", "def-2-pos-no-attention")


@pytest.fixture(scope="module")
def kept(repo_root: Path) -> dict[str, Any]:
    """The records of `studies/flops`."""
    return {name: json.loads((repo_root / "studies" / "flops" / f"{name}.json").read_text()) for name in KEPT}


@pytest.mark.parametrize("name", KEPT)
def test_kept_records_follow_from_their_lengths(kept: dict[str, Any], name: str) -> None:
    record = kept[name]
    recipe = Recipe.model_validate(record["recipe"])
    tasks = {task: Lengths(**lengths) for task, lengths in record["tasks"].items()}
    assert len(tasks) == record["data"]["tasks"] == 55
    names = method_names() if len(record["methods"]) > 2 else ["tk-instruct", "tagi"]
    wanted = [{**row, "costs": {XL: row["costs"][XL]}} for row in record["methods"]]
    assert table([XL], recipe, tasks, methods=names) == nearly(wanted)


def test_the_page_shows_the_kept_records(kept: dict[str, Any], repo_root: Path) -> None:
    page = (repo_root / "docs" / "flops.md").read_text(encoding="utf-8")

    def ratios(record: str, method: str) -> list[str]:
        found = costs(kept[record], method).values()
        return [f"{cost['ratio']:.3f}" for cost in found]

    for row in table_rows(method_names()):
        shown = " | ".join([*ratios("def", row.title), *ratios("def-2-pos", row.title)])
        paper = " | ".join("" if figure is None else f"{figure:.2f}" for figure in (row.paper, row.paper_time))
        assert f"| {row.title} | {paper} | {shown} |\n" in page, row.title
    alone = " | ".join([*ratios("def-no-attention", "TAGI"), *ratios("def-2-pos-no-attention", "TAGI")])
    assert f"| TAGI, fusion by concatenation alone | | | {alone} |\n" in page


def test_the_decoder_only_models_have_their_published_sizes() -> None:
    """Matrices alone, without biases, norms and positions."""
    assert parameters(GPT2_XL) == pytest.approx(1.5576e9, rel=0.005)
    assert parameters(OPT_13B) == pytest.approx(12.853e9, rel=0.005)
