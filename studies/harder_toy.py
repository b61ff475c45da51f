"""A harder family of tasks than the built-in one: tasks, unlabelled text, a tokenizer and a backbone that can copy.

    python studies/harder_toy.py FOLDER [--steps 2000] [--tasks 40]

An input is eight words, one of each kind, in random order. A task names two to four kinds; the answer is their words in
the order in which the instruction names them, through one of six word maps. Of these 12,432 programs 240 are trained
on and 30 others tested. FOLDER gets `tasks.jsonl`, `text/documents.jsonl` in C4's form, `tokenizer`, `backbone`, and
`record.json` with the share of lists that the backbone repeats. The recipe `harder-toy` reads them.
"""

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import torch

from tagi.backbones.load import load_backbone, make_backbone
from tagi.backbones.t5 import T5Backbone
from tagi.data.batches import StreamBatches
from tagi.data.toy.language import PHRASES, TEMPLATES
from tagi.data.toy.lexicon import FACTS
from tagi.data.toy.lexicon import PAIRS as FIVE_KINDS
from tagi.data.toy.tokenizer import toy_tokenizer, vocabulary_of
from tagi.files import write_text
from tagi.methods.denoiser import Denoiser
from tagi.settings.training import TrainingSettings
from tagi.training.trainer import fingerprint, train

Pairs = Sequence[tuple[str, str]]
PAIRS: Mapping[str, Pairs] = {
    **FIVE_KINDS,
    "colour": (("red", "blue"), ("black", "white"), ("green", "brown")),
    "garment": (("coat", "cloak"), ("shoe", "sock"), ("hat", "scarf")),
    "vessel": (("cup", "bowl"), ("pot", "pan"), ("barrel", "basket")),
}
WORDS: Mapping[str, Sequence[str]] = {kind: [word for pair in pairs for word in pair] for kind, pairs in PAIRS.items()}
KINDS = tuple(PAIRS)
LENGTHS = (2, 3, 4)
INVENTORIES = {
    "train": ("the {}", "the word for the {}", "the one that is a {}"),
    "heldout": ("the name of the {}",),
}
"""Phrases for a kind; a held-out wording has a held-out template and phrases of both."""


def _maps() -> dict[str, dict[str, str]]:
    words = [word for own in WORDS.values() for word in own]
    partner = {a: b for pairs in PAIRS.values() for pair in pairs for a, b in (pair, pair[::-1])}

    def invented(onsets: str, vowels: str, codas: Sequence[str]) -> dict[str, str]:
        return {
            word: onsets[i % len(onsets)] + vowels[i // len(onsets) % len(vowels)] + codas[i % len(codas)]
            for i, word in enumerate(words)
        }

    return {
        "copy": {word: word for word in words},
        "plural": {word: word + "s" for word in words},
        "partner": partner,
        "small": {word: word + "ling" for word in words},
        "zorbish": invented("zvmgkrtbx", "oiua", ("rb", "v", "zz", "k", "mp")),
        "kelvan": invented("klndsfhpw", "eayo", ("lune", "hari", "dil", "sha", "nn", "vei", "qua")),
    }


MAPS: Mapping[str, Mapping[str, str]] = _maps()
KIND_OF = {word: kind for kind, words in WORDS.items() for word in words}


@dataclass(frozen=True, slots=True)
class Program:
    """The kinds whose words are the answer, in their order, and the word map that they go through."""

    kinds: tuple[str, ...]
    mapping: str

    @property
    def name(self) -> str:
        """The task's name."""
        return f"{'-'.join(self.kinds)}-{self.mapping}"

    def answer(self, words: Sequence[str]) -> str:
        """The answer for a list with one word of each kind."""
        by_kind = {KIND_OF[word]: word for word in words}
        return " ".join(MAPS[self.mapping][by_kind[kind]] for kind in self.kinds)

    def wording(self, rng: random.Random, inventory: str = "train") -> str:
        """An instruction that names the kinds in their order."""
        phrases = INVENTORIES["train"] if inventory == "train" else (*INVENTORIES["train"], *INVENTORIES["heldout"])
        own = PHRASES["map"][self.mapping]
        chosen = [rng.choice(phrases).format(kind).replace("a animal", "an animal") for kind in self.kinds]
        return rng.choice(
            TEMPLATES[inventory]
        ).format(  # type: ignore[index]
            kinds=f"{' , '.join(chosen[:-1])} and {chosen[-1]}",
            map=rng.choice(own["train"] if inventory == "train" else [*own["train"], *own["heldout"]]),
        )


def programs(per_map: int, tested: int = 5) -> tuple[list[Program], list[Program]]:
    """Programs to train on and to test, so many for each map, lengths balanced, none in both."""
    rng = random.Random("harder toy programs")
    split: tuple[list[Program], list[Program]] = ([], [])
    for mapping in MAPS:
        drawn = {length: rng.sample(list(permutations(KINDS, length)), len(KINDS) * 7) for length in LENGTHS}
        for number in range(per_map + tested):
            kinds = drawn[LENGTHS[number % len(LENGTHS)]].pop()
            split[number >= per_map].append(Program(kinds, mapping))
    return split


def task(program: Program, count: int, split: str) -> dict[str, Any]:
    """A line of `tasks.jsonl`. Test tasks have held-out wordings as paraphrases."""
    rng = random.Random(f"harder toy task {program.name}")
    inventory = "train" if split == "train" else "heldout"
    inputs = {" ".join(rng.sample([rng.choice(WORDS[kind]) for kind in KINDS], len(KINDS))): None for _ in range(count)}
    return {
        "task": program.name,
        "category": program.mapping,
        "split": split,
        "metric": "exact",
        "instruction": program.wording(rng),
        "paraphrases": list(dict.fromkeys(program.wording(rng, inventory) for _ in range(16))),
        "instances": [{"input": text, "outputs": [program.answer(text.split())]} for text in inputs],
    }


def documents(seed: int, themes: Sequence[Program], copies: float = 0.0) -> Iterator[str]:
    """Endless documents about a program each: its wording, facts of its map, a list twice and a list in its form.

    Nothing is labelled: no document has a list together with what a task would answer for it, but for copies. The share
    `copies` of the documents is three lists, each twice.
    """
    rng = random.Random(f"harder toy documents {seed}")
    while True:
        if rng.random() < copies:
            yield " ".join(f"{one} . {one} ." for one in (_list(rng) for _ in range(3)))
            continue
        theme = rng.choice(themes)
        name = theme.mapping if theme.mapping in FACTS else "kind"
        word = rng.choice(sorted(KIND_OF))
        value = KIND_OF[word] if name == "kind" else MAPS[name][word]
        fact = rng.choice(FACTS[name]).format(x=word, y=value)
        form = [MAPS[theme.mapping][rng.choice(WORDS[kind])] for kind in theme.kinds]
        twice = _list(rng)
        sentences = [theme.wording(rng), fact, f"{twice} . {twice} .", f"{' '.join(form)} ."]
        rng.shuffle(sentences)
        yield " ".join(sentences)


def _list(rng: random.Random) -> str:
    """Words of three kinds or more."""
    return " ".join(rng.choice(WORDS[kind]) for kind in rng.sample(KINDS, rng.randint(3, len(KINDS))))


def vocabulary() -> tuple[str, ...]:
    """Every token."""
    texts = [template.format(kinds=" , and ", map="") for group in TEMPLATES.values() for template in group]
    texts += [phrase for own in PHRASES["map"].values() for group in own.values() for phrase in group]
    texts += [phrase.format("animal") for group in INVENTORIES.values() for phrase in group] + ["an"]
    texts += [text.format(x="", y="") for group in FACTS.values() for text in group]
    words = {word for text in texts for word in text.split()} | set(KINDS)
    return vocabulary_of(words.union(*(table.values() for table in MAPS.values())))


def write_data(folder: Path, per_map: int, instances: int, text: int) -> list[Program]:
    """Write tasks, text and tokenizer; returns the programs that are trained on."""
    trained, tested = programs(per_map)
    lines = [task(one, instances, "train") for one in trained] + [task(one, 50, "test") for one in tested]
    write_text(folder / "tasks.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    stream = documents(0, trained)
    (folder / "text").mkdir(exist_ok=True)
    write_text(
        folder / "text" / "documents.jsonl", "".join(f"{json.dumps({'text': next(stream)})}\n" for _ in range(text))
    )
    toy_tokenizer(vocabulary()).save_pretrained(folder / "tokenizer")
    return trained


def train_backbone(folder: Path, themes: Sequence[Program], steps: int) -> float:
    """Train a T5 to fill in spans of the text, write it, and return the share of lists that it repeats rightly."""
    fields = {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 3, "num_decoder_layers": 3, "num_heads": 4}
    kind = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": True, "dropout_rate": 0.0}
    sizes = {**fields, **kind, "vocab_size": len(vocabulary())}
    made = make_backbone(sizes, str(folder / "tokenizer"), 0, folder / "untrained")
    backbone = load_backbone(str(made), T5Backbone)
    model = Denoiser(backbone, seed=0)

    def batch(index: int) -> list[str]:
        stream = documents(1 + index, themes, copies=0.5)
        return [next(stream) for _ in range(32)]

    settings = TrainingSettings(
        steps=steps, tasks_per_batch=32, queries_per_task=1, learning_rate=1e-3, schedule="linear", save_every=250,
        log_every=50, report_to=(),
    )  # fmt: skip
    identity = fingerprint(sizes, steps)
    train(model, StreamBatches(batch, length=steps), settings, folder / "training", identity=identity, resume=True)
    model.save(folder / "backbone")
    return repeated(backbone)


def repeated(backbone: T5Backbone, count: int = 100) -> float:
    """The share of lists that fill the gap behind themselves."""
    rng = random.Random("harder toy repeated")
    lists = [" ".join(rng.choice(WORDS[kind]) for kind in rng.sample(KINDS, 4)) for _ in range(count)]
    tokens = backbone.tokenizer([f"{one} . <extra_id_0> ." for one in lists], return_tensors="pt", padding=True)
    with torch.no_grad():
        answers = backbone.model.eval().generate(**tokens, max_new_tokens=6, do_sample=False)
    texts = backbone.tokenizer.batch_decode(answers, skip_special_tokens=True)
    return sum(text.split()[:4] == one.split() for text, one in zip(texts, lists, strict=True)) / count


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2000, help="of the backbone")
    parser.add_argument("--tasks", type=int, default=40, help="training tasks for each word map")
    parser.add_argument("--instances", type=int, default=200, help="of each training task")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    trained = write_data(given.folder, given.tasks, given.instances, text=20_000)
    share = train_backbone(given.folder, trained, given.steps)
    record = {"steps": given.steps, "training_tasks": len(trained), "vocabulary": len(vocabulary()), "repeated": share}
    write_text(given.folder / "record.json", json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
