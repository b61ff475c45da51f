"""Adapters made, refined and exported by a real generator, also while an engine answers with it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tagi.api.generator import AdapterGenerator
from tagi.api.lora_training import Refinement
from tagi.api.task_adapter import TaskAdapter
from tagi.data.task import Example, Task
from tagi.errors import InputError
from tagi.formats.peft import read_peft
from tagi.formats.task_adapter import digest_of, generator_digest
from tagi.serving.embedded import EmbeddedEngine
from tagi.serving.making import GeneratorMaker, Made
from tests.models import tiny_generator
from tests.prompted_adapters import tiny_chat_base, tiny_chat_generator
from tests.serving.fakes import Running, running, wait_until

INSTRUCTIONS = ("Write it in the past tense.", "Translate the sentence into Spanish.")
EXAMPLES = [Example("She walks.", "She walked."), Example("He sings.", "He sang."), Example("I go.", "I went.")]
SETTINGS = Refinement(steps=5, batch_size=2, learning_rate=0.01)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> AdapterGenerator:
    folder = tmp_path_factory.mktemp("generator")
    made = tiny_chat_generator(tiny_chat_base(folder / "base"))
    made.save_pretrained(folder / "generator")
    return made


def one(maker: GeneratorMaker, instruction: str = INSTRUCTIONS[0]) -> Made:
    return maker.make([Task("", "", instruction, ())], truncate=False)[0]


def test_made_adapters_are_the_generator_s(generator: AdapterGenerator, tmp_path: Path) -> None:
    maker = GeneratorMaker(generator)
    shown = (Example("a", "b"),)
    tasks = [Task("", "", text, (), shown) for text in INSTRUCTIONS]
    made, wanted = maker.make(tasks, truncate=False), generator.adapt_tasks(tasks)
    for number, (text, adapter, expected) in enumerate(zip(INSTRUCTIONS, made, wanted, strict=True)):
        adapter.write(tmp_path / f"{number}")
        assert digest_of(TaskAdapter.from_pretrained(tmp_path / f"{number}", generator).bank) == digest_of(
            expected.bank
        )
        assert (adapter.instruction, adapter.examples) == (text, shown)
        bank = expected.bank
        facts = {name: adapter.facts[name] for name in ("rank", "target_modules")}
        assert facts == {"rank": 8, "target_modules": len(bank.factors)}  # type: ignore[attr-defined]
        for path, norm in adapter.facts["layers"].items():
            assert norm == pytest.approx(float(bank.delta(path).norm()), rel=1e-4)  # type: ignore[attr-defined]
            assert norm > 0
    with pytest.raises(InputError, match="expected an instruction, got an empty text"):
        one(maker, " ")


def test_a_refinement_leaves_the_generator_as_it_is(generator: AdapterGenerator, tmp_path: Path) -> None:
    maker, said = GeneratorMaker(generator), []
    one(maker).write(tmp_path / "before")
    flags = [parameter.requires_grad for parameter in generator.parameters()]
    made = maker.refine(tmp_path / "before", EXAMPLES, SETTINGS, lambda *steps: said.append(steps))
    assert said == [(step, 5) for step in range(1, 6)]
    made.write(tmp_path / "after")
    expected = TaskAdapter.from_pretrained(tmp_path / "before", generator).refine(EXAMPLES, SETTINGS)
    found = TaskAdapter.from_pretrained(tmp_path / "after", generator)
    assert digest_of(found.bank) == digest_of(expected.bank) != digest_of(generator.adapt(INSTRUCTIONS[0]).bank)
    assert [parameter.requires_grad for parameter in generator.parameters()] == flags
    assert maker.identity == generator_digest(generator)
    assert not any(part.training for part in generator.modules())

    def stop(done: int, steps: int) -> None:
        raise KeyError(done)

    with pytest.raises(KeyError, match="1"):
        maker.refine(tmp_path / "before", EXAMPLES, SETTINGS, stop)
    assert maker.identity == generator_digest(generator)
    with pytest.raises(InputError, match="example 1: expected an input"):
        maker.check_examples([Example(" ", "x")], SETTINGS)


def test_a_tuned_backbone_is_not_shared_with_training(tmp_path: Path) -> None:
    """Freezing it for training would change what the generator is, while adapters are made."""
    generator = tiny_generator(tune="all")
    maker, seen = GeneratorMaker(generator), set()
    adapter = generator.adapt("w1 w2")
    adapter.save_pretrained(tmp_path / "before")
    examples = [Example("w3", "w4")]
    maker.refine(tmp_path / "before", examples, Refinement(steps=2), lambda *_: seen.add(generator_digest(generator)))
    assert seen == {maker.identity}


def test_an_export_is_what_peft_reads(generator: AdapterGenerator, tmp_path: Path) -> None:
    maker = GeneratorMaker(generator)
    one(maker).write(tmp_path / "adapter")
    maker.export(tmp_path / "adapter", tmp_path / "export", lossy=False)
    expected = generator.adapt(INSTRUCTIONS[0]).bank
    assert digest_of(read_peft(tmp_path / "export")) == digest_of(expected.whole())  # type: ignore[attr-defined]


def test_an_export_that_loses_something_is_asked_for(tmp_path: Path) -> None:
    maker = GeneratorMaker(tiny_generator(fusion="both"))
    one(maker, "w1 w2").write(tmp_path / "adapter")
    with pytest.raises(InputError, match=r"got one with .*: ask with lossy=true to export the LoRA without"):
        maker.export(tmp_path / "adapter", tmp_path / "export", lossy=False)
    maker.export(tmp_path / "adapter", tmp_path / "export", lossy=True)
    assert read_peft(tmp_path / "export").rank


@pytest.fixture
def served(generator: AdapterGenerator, tmp_path: Path) -> Iterator[Running]:
    engine = EmbeddedEngine(generator, name="base")
    with running(tmp_path / "store", engine=engine, maker=GeneratorMaker(generator)) as server:
        yield server


def chat(model: str, text: str, tokens: int = 12) -> dict[str, object]:
    sampling = {"temperature": 0, "max_tokens": tokens}
    return {"model": model, "messages": [{"role": "user", "content": text}], **sampling}


def test_a_server_gives_the_answers_of_the_adapters(served: Running, generator: AdapterGenerator) -> None:
    with served.client() as client:
        made = client.post("/v1/adapters", json=[{"instruction": text} for text in INSTRUCTIONS]).json()["data"]
        for text, about in zip(INSTRUCTIONS, made, strict=True):
            adapter = generator.adapt(text)
            for name, expected in ((about["id"], adapter), (f"{about['id']}:alone", adapter.alone())):
                reply = client.post("/v1/chat/completions", json=chat(name, "She walks.")).json()
                answer = reply["choices"][0]["message"]["content"]
                predicted = expected.predict("She walks.", max_new_tokens=12)
                assert answer == predicted.rstrip("\ufffd")  # half a character is not sent


def test_adapters_are_made_and_refined_while_others_are_answered(served: Running) -> None:
    """What is answered meanwhile is the same, and so is what is made."""
    with served.client() as client:
        ids = [
            one["id"]
            for one in client.post("/v1/adapters", json=[{"instruction": f"x {at}"} for at in "ab"]).json()["data"]
        ]
        asked = [chat(id, "She walks.", 60) for id in (*ids, f"{ids[0]}:alone", "base")]

        def answers() -> list[str]:
            replies = [client.post("/v1/chat/completions", json=body).json() for body in asked]
            return [reply["choices"][0]["message"]["content"] for reply in replies]

        alone, meanwhile, stop = answers(), [], threading.Event()
        assert len(set(alone)) == 4

        def ask() -> None:
            while not stop.is_set():
                meanwhile.append(answers())

        asking = threading.Thread(target=ask)
        asking.start()
        body = {"examples": [{"input": "She walks.", "output": "She walked."}] * 2, "steps": 6, "learning_rate": 0.01}
        jobs = [client.post(f"/v1/adapters/{ids[0]}/refine", json=body).json()["id"] for _ in range(2)]
        for number in range(4):
            assert client.post("/v1/adapters", json={"instruction": f"further {number}"}).status_code == 201
        wait_until(lambda: all(client.get(f"/v1/jobs/{job}").json()["result"] for job in jobs), 120)
        stop.set()
        asking.join()
        assert meanwhile
        assert all(found == alone for found in meanwhile)
        store = served.service.store
        refined = [client.get(f"/v1/jobs/{job}").json()["result"] for job in jobs]
        weights = [(store.folder(id) / "adapter_model.safetensors").read_bytes() for id in refined]
        assert weights[0] == weights[1]
