"""Every stage on backbones laid out as the paper's are on the hub: weights as `.bin`, untied heads, `spiece.model`."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

from tagi.backbones.load import load_backbone
from tagi.data.toy.tokenizer import toy_vocabulary
from tagi.formats.generator import load_generator
from tagi.stages.recipes import load_recipe
from tagi.stages.run import run
from tests.models import DECODER, SIZES, tiny_model
from tests.p3_files import put_templates

PIECES, SENTINELS, UNUSED = 150, 100, 28
"""Pieces of the tokenizer's file, tokens that transformers adds, and rows of embeddings without a token."""
STAGES = ("metatrain", "teachers", "pretrain", "finetune")
WORDS = ("cat", "hen", "fox", "dog", "owl", "cow")


@pytest.fixture(scope="module")
def pieces() -> bytes:
    """A `spiece.model` with T5's first three ids, for the words of the toy family."""
    model = io.BytesIO()
    words = [word for word in toy_vocabulary() if word.isalpha()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[at:] + words[:at]) for at in range(0, 60, 7)]),
        model_writer=model,
        vocab_size=PIECES,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def t5_lm_adapt(folder: Path, pieces: bytes) -> Path:
    """The files of `google/t5-*-lm-adapt`: no safetensors, no `tokenizer.json`, embeddings under three names."""
    model = tiny_model("v1.1", vocab_size=PIECES + SENTINELS + UNUSED)
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    folder.mkdir()
    config = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        **SIZES,
        "num_decoder_layers": DECODER,
        "vocab_size": model.config.vocab_size,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "dropout_rate": 0.1,
        "initializer_factor": 1.0,
        "layer_norm_epsilon": 1e-06,
        "relative_attention_num_buckets": 32,
        "output_past": True,
        "use_cache": True,
        "torch_dtype": "float32",
        "transformers_version": "4.10.0.dev0",
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "spiece.model").write_bytes(pieces)
    return folder


def t0(folder: Path, pieces: bytes) -> Path:
    """The files of `bigscience/T0*`: those of T5-LM-adapt and what its tokenizer was saved with."""
    t5_lm_adapt(folder, pieces)
    config = json.loads((folder / "config.json").read_text())
    kept = {"_name_or_path": "google/t5-xl-lm-adapt", "gradient_checkpointing": False, "transformers_version": "4.10.0"}
    (folder / "config.json").write_text(json.dumps({**config, **kept}))
    special: dict[str, Any] = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    special["additional_special_tokens"] = [f"<extra_id_{at}>" for at in range(SENTINELS)]
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    given = {**special, "extra_ids": SENTINELS, "tokenizer_class": "T5Tokenizer", "sp_model_kwargs": {}}
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    return folder


def sni(folder: Path) -> list[str]:
    """Two categories to train on and one task to test, in the project's own form."""
    lines = [
        {
            "task": f"task{at}",
            "category": f"category{at % 2}",
            "split": "test" if at == 2 else "train",
            "instruction": f"Name the animal that is number {at} .",
            "instances": [{"input": " ".join(WORDS[at:] + WORDS[:at]), "outputs": [WORDS[at]]}] * 3,
        }
        for at in range(3)
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["data.source=jsonl", f"data.path={folder / 'tasks.jsonl'}"]


def p3(folder: Path) -> list[str]:
    """One training data set, CB to test, promptsource's templates of both."""
    ask = ("sort the animals : {{premise}} ||| {{answer_choices[label]}}", "cat ||| hen", True)
    sets = {"train": folder / "train", "eval": folder / "eval" / "super_glue" / "cb"}
    for place in sets.values():
        place.mkdir(parents=True)
    for name in ("super_glue/cb", "imdb"):
        put_templates(folder / "templates" / name, ask=ask)
    rows = [{"premise": f"{' '.join(WORDS[at % 5 :])} {'- ' * at}", "label": at % 2} for at in range(9)]
    (sets["eval"] / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [(f"sort the animals : {row['premise']}", ("cat", "hen")[int(str(row["label"]))]) for row in rows]
    rendered = [{"inputs_pretokenized": text, "targets_pretokenized": target} for text, target in texts]
    (sets["train"] / "imdb_ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rendered))
    return [
        *("data.source=p3", f"data.path={sets['train']}", f"data.test_path={folder / 'eval'}"),
        *(f"data.templates={folder / 'templates'}", "shots.count=4", "data.test_instances_per_task=4"),
    ]


@pytest.mark.parametrize(
    ("recipe", "published", "data"), [("sni-base", t5_lm_adapt, sni), ("p3-base-t0", t0, p3)], ids=["t5", "t0"]
)
def test_every_stage_runs_on_what_the_hub_has(
    recipe: str,
    published: Callable[[Path, bytes], Path],
    data: Callable[[Path], list[str]],
    pieces: bytes,
    tmp_path: Path,
) -> None:
    backbone = published(tmp_path / "published", pieces)
    loaded = load_backbone(str(backbone))
    stored = torch.load(backbone / "pytorch_model.bin")
    assert torch.equal(loaded.model.lm_head.weight, stored["lm_head.weight"])
    assert torch.equal(loaded.model.get_input_embeddings().weight, stored["shared.weight"])
    tokens = loaded.tokenizer
    assert len(tokens) == PIECES + SENTINELS
    assert tokens.decode(tokens("cat hen fox").input_ids, skip_special_tokens=True) == "cat hen fox"
    assert tokens("cat").input_ids[-1] == tokens.eos_token_id == 1

    overrides = [
        *(f"backbone.name={backbone}", "generator.rank=4", "generator.hidden=11", "generator.width=16"),
        *(
            "pretraining.source=toy",
            "pretraining.path=",
            "pretraining.max_tokens=32",
            "training.report_to=[]",
            "training.log_every=1",
        ),
        *(
            f"training.{stage}{key}"
            for stage in ("", *(f"{stage}." for stage in STAGES))
            for key in ("steps=1", "bf16=true")
        ),
        *("data.instances_per_task=3", "evaluation.max_new_tokens=2", *data(tmp_path)),
    ]
    chosen = load_recipe(recipe, overrides)
    assert tuple(chosen.run.stages) == STAGES
    assert all(chosen.training_for(stage).bf16 for stage in STAGES)
    out = tmp_path / "out"
    run(chosen, out, progress=False)
    for stage in ("metatrain", "pretrain", "finetune"):
        (entry,) = json.loads((out / stage / "record.json").read_text())["training"]["history"]
        assert math.isfinite(entry["loss"]), stage
    catalogue = json.loads((out / "teachers" / "catalogue.json").read_text())
    assert len(catalogue["teachers"]) == catalogue["planned"] > 0
    for folder in ("evaluate", "evaluate-metatrain"):
        assert json.loads((out / folder / "record.json").read_text())["results"]["right"]["n"] > 0
    generator = load_generator(out / "finetune" / "model")
    assert {parameter.dtype for parameter in generator.parameters()} == {torch.float32}  # bf16 is the arithmetic's
    assert not torch.equal(generator.backbone.model.lm_head.weight, generator.backbone.model.shared.weight)
