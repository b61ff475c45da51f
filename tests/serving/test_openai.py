"""OpenAI's own client against the server: models, chats, completions, streams, probabilities and errors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tagi.serving.access import Keys
from tagi.serving.protocol import Message, Request, Sampling
from tests.documentation import blocks
from tests.serving.fakes import BASE, CONTEXT, Running, running, words

KEY = "sk-0123456789abcdef"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "keys.txt").write_text(f"one:{KEY}\n")
    with running(folder / "store", keys=Keys.from_file(folder / "keys.txt")) as server:
        yield server


@pytest.fixture
def client(served: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.address}/v1", api_key=KEY, max_retries=0, timeout=30) as opened:
        yield opened


@pytest.fixture
def model(client: OpenAI) -> str:
    made: Any = client.post("/adapters", body={"instruction": "Write it in the past tense."}, cast_to=dict[str, Any])
    return str(made["id"])


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def said(model: str | None, text: str, *, chat: bool = True, alone: bool = False, **sampling: Any) -> list[str]:
    """The words that the engine answers to a request."""
    prompt = (Message("user", text),) if chat else text
    return words(Request(prompt, Sampling(CONTEXT, **{"temperature": 1.0, **sampling}), model, alone))


def test_models_are_listed_and_described(client: OpenAI, model: str) -> None:
    listed = {one.id: one for one in client.models.list()}
    assert listed.keys() >= {BASE, model}
    assert client.models.retrieve(model).id == model
    assert client.models.retrieve(f"{model}:alone").id == f"{model}:alone"
    assert client.models.retrieve(BASE).owned_by == "tagi"


def test_a_chat_with_an_adapter_alone_and_with_the_base_model(client: OpenAI, model: str, served: Running) -> None:
    for name, adapter, alone in ((model, model, False), (f"{model}:alone", model, True), (BASE, None, False)):
        answer = client.chat.completions.create(model=name, messages=user("She walks."), temperature=0)
        choice = answer.choices[0]
        assert choice.message.content == "".join(said(adapter, "She walks.", alone=alone, temperature=0.0))
        assert (choice.message.role, choice.finish_reason, choice.logprobs) == ("assistant", "stop", None)
        assert (answer.model, answer.object) == (name, "chat.completion")
        assert answer.usage is not None
        assert answer.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}) == {
            "prompt_tokens": 5,
            "completion_tokens": 10,
            "total_tokens": 15,
        }
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 2
    messages: Any = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    client.chat.completions.create(model=BASE, messages=messages)
    assert served.engine.requests[-1].prompt == (
        Message("system", "Be kind."),
        Message("user", "one\ntwo"),
        Message("assistant", "three"),
        Message("user", "four"),
    )


def test_what_decides_an_answer_reaches_the_engine(client: OpenAI, model: str, served: Running) -> None:
    client.chat.completions.create(
        model=model,
        messages=user("hi"),
        temperature=0.5,
        top_p=0.25,
        seed=-7,
        max_completion_tokens=9,
        stop=["x", "yy"],
        user="me",
        metadata={"a": "b"},
        store=False,
        n=1,
        presence_penalty=0,
        response_format={"type": "text"},
    )
    assert served.engine.requests[-1].sampling == Sampling(9, 0.5, 0.25, -7, ("x", "yy"), None)
    client.chat.completions.create(model=model, messages=user("hi"), stop=None, seed=None, max_tokens=None)
    assert served.engine.requests[-1].sampling == Sampling(CONTEXT, 1.0, 1.0, None, (), None)
    client.completions.create(model=model, prompt="hi", stop="z")
    assert served.engine.requests[-1] == Request("hi", Sampling(16, 1.0, 1.0, None, ("z",), None), model)


def test_answers_end_at_their_length_and_at_a_stop(client: OpenAI, model: str) -> None:
    short = client.chat.completions.create(model=model, messages=user("hi"), max_tokens=3, temperature=0)
    assert short.choices[0].finish_reason == "length"
    assert short.choices[0].message.content == "".join(said(model, "hi", temperature=0.0)[:3])
    for stream in (False, True):
        stopped: Any = client.completions.create(model=model, prompt="hi", stop=" é", stream=stream)
        parts = list(stopped) if stream else [stopped]
        assert "".join(part.choices[0].text for part in parts) == "".join(said(model, "hi", chat=False)[:-2])
        assert parts[-1].choices[0].finish_reason == "stop"


def test_a_streamed_chat_is_the_same_in_parts(client: OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=user("hi"), seed=3).choices[0].message.content
    parts = list(client.chat.completions.create(model=model, messages=user("hi"), seed=3, stream=True))
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole
    assert len(parts) == 12  # the role, ten tokens, the end
    assert [part.choices[0].finish_reason for part in parts] == [None] * 11 + ["stop"]
    assert len({part.id for part in parts}) == 1
    assert {part.object for part in parts} == {"chat.completion.chunk"}
    assert all(part.usage is None for part in parts)
    counted = list(
        client.chat.completions.create(
            model=model, messages=user("hi"), stream=True, stream_options={"include_usage": True}
        )
    )
    assert counted[-1].choices == []
    assert counted[-1].usage is not None
    assert counted[-1].usage.total_tokens == 14
    assert all(part.usage is None for part in counted[:-1])


def test_a_streamed_completion_is_the_same_in_parts(client: OpenAI, model: str) -> None:
    whole = client.completions.create(model=model, prompt="hi there", seed=3)
    assert whole.choices[0].text == "".join(said(model, "hi there", chat=False, seed=3))
    options: Any = {"include_usage": True}
    stream = client.completions.create(model=model, prompt=["hi there"], seed=3, stream=True, stream_options=options)
    parts = list(stream)
    assert "".join(part.choices[0].text for part in parts[:-1]) == whole.choices[0].text
    assert parts[-2].choices[0].finish_reason == "stop"
    assert parts[-1].usage == whole.usage


@pytest.mark.parametrize("stream", [False, True])
def test_probabilities_of_a_chat(client: OpenAI, model: str, stream: bool) -> None:
    answer: Any = client.chat.completions.create(
        model=model, messages=user("hi"), logprobs=True, top_logprobs=2, stream=stream, temperature=0
    )
    parts = [part.choices[0] for part in (answer if stream else [answer])]
    tokens = [token for part in parts if part.logprobs for token in part.logprobs.content]
    assert [token.token for token in tokens] == said(model, "hi", temperature=0.0)
    assert [token.logprob for token in tokens[:3]] == [-0.5, -1.0, -9999.0]  # minus infinity is no JSON
    assert tokens[8].bytes == list(" é".encode())
    assert [(top.token, top.logprob) for top in tokens[0].top_logprobs] == [("w0", 0.0), ("w1", -1.0)]
    bare: Any = client.chat.completions.create(model=model, messages=user("hi"), logprobs=True)
    assert bare.choices[0].logprobs.content[0].top_logprobs == []


@pytest.mark.parametrize("stream", [False, True])
def test_probabilities_of_a_completion(client: OpenAI, model: str, stream: bool) -> None:
    answer: Any = client.completions.create(model=model, prompt="hi", logprobs=1, stream=stream, temperature=0)
    parts = [part.choices[0].logprobs for part in (answer if stream else [answer])]
    expected = said(model, "hi", chat=False, temperature=0.0)
    assert [token for part in parts for token in part.tokens] == expected
    offsets = [offset for part in parts for offset in part.text_offset]
    assert offsets == [sum(map(len, expected[:at])) for at in range(len(expected))]
    assert [value for part in parts for value in part.token_logprobs][:3] == [-0.5, -1.0, -9999.0]
    assert parts[0].top_logprobs[0] == {"w0": 0.0}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a system message": ({"messages": [{"role": "system", "content": "x"}, *user("y")]}, "got: system, user"),
    "several turns": ({"messages": [*user("x"), {"role": "assistant", "content": "y"}, *user("z")]}, "got: user, ass"),
    "no user": ({"messages": [{"role": "assistant", "content": "y"}]}, "got: assistant"),
    "no message": ({"messages": []}, "messages: expected a list of at least 1, got"),
    "a tool": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, r"tools: expected \[\] or nothing"),
    "a JSON answer": ({"response_format": {"type": "json_object"}}, "response_format: expected {'type': 'text'}"),
    "two answers": ({"n": 2}, "n: expected 1, since a request gives one answer, got 2"),
    "a penalty": ({"frequency_penalty": 1}, "frequency_penalty: expected 0 or nothing"),
    "a bias": ({"logit_bias": {"1": 100}}, "logit_bias: expected {} or nothing"),
    "sound": ({"modalities": ["audio"]}, "modalities: expected"),
    "an unknown parameter": ({"extra_body": {"top_k": 5}}, "expected parameters that this server knows, got 'top_k'"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages: expected parts of type 'text', got 'image_url'",
    ),
    "a role": ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages.0.role: expected"),
    "heat": ({"temperature": 2.5}, "temperature: expected at most 2.0, got 2.5"),
    "no mass": ({"top_p": 0}, "top_p: expected more than 0.0, got 0"),
    "no token": ({"max_tokens": 0}, "max_tokens: expected at least 1, got 0"),
    "too many tokens": ({"max_tokens": CONTEXT + 1}, f"max_tokens: expected at most {CONTEXT}"),
    "many stops": ({"stop": ["x"] * 17}, "stop"),
    "an empty stop": ({"stop": [""]}, "stop"),
    "a large seed": ({"seed": 2**63}, "seed: expected less than"),
    "top alone": ({"top_logprobs": 2}, "top_logprobs: expected it with logprobs"),
    "many tops": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs: expected at most 20"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_with_a_sentence(client: OpenAI, model: str, case: str, stream: bool) -> None:
    changed, sentence = REFUSED[case]
    with pytest.raises(openai.BadRequestError, match=sentence) as raised:
        client.chat.completions.create(**{"model": model, "messages": user("hi"), "stream": stream, **changed})
    assert raised.value.type == "invalid_request_error"
    assert raised.value.code in ("unsupported_messages", "unsupported_parameter", "invalid_value", None)
    assert set(raised.value.body) == {"message", "type", "param", "code"}  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], [[1, 2]], []])
def test_completions_are_of_one_text(client: OpenAI, model: str, prompt: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="prompt: expected one text"):
        client.completions.create(model=model, prompt=prompt)


@pytest.mark.parametrize("name", ["nothing", "f" * 32, "f" * 32 + ":alone", ":alone", BASE + ":alone", "", "../" * 9])
def test_an_unknown_model_is_not_found(client: OpenAI, name: str) -> None:
    for ask in (
        lambda: client.chat.completions.create(model=name, messages=user("hi")),
        lambda: client.completions.create(model=name, prompt="hi", stream=True),
    ):
        with pytest.raises(openai.NotFoundError) as raised:
            ask()
        assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("fail", openai.InternalServerError, "engine_unavailable"),
        ("refuse", openai.BadRequestError, None),
        ("break", openai.InternalServerError, "internal_error"),
    ],
)
def test_faults_of_the_engine(client: OpenAI, model: str, text: str, kind: type[openai.APIError], code: str) -> None:
    for stream in (False, True):
        with pytest.raises(kind) as raised:
            client.chat.completions.create(model=model, messages=user(text), stream=stream)
        assert raised.value.code == code
        assert "secret" not in str(raised.value)
    with pytest.raises(openai.APIError) as raised:  # its status was sent before
        list(client.chat.completions.create(model=model, messages=user(f"{text} late"), stream=True))
    assert raised.value.code == code
    assert "secret" not in str(raised.value)


def test_a_wrong_key_and_a_deleted_adapter(client: OpenAI, served: Running) -> None:
    with OpenAI(base_url=f"{served.address}/v1", api_key="sk-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as raised:
            stranger.models.list()
        assert raised.value.code == "invalid_api_key"
    made: Any = client.post("/adapters", body={"instruction": "for a moment"}, cast_to=dict[str, Any])
    client.chat.completions.create(model=made["id"], messages=user("hi"))
    client.delete(f"/adapters/{made['id']}", cast_to=object)
    assert made["id"] not in served.engine.folders
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=made["id"], messages=user("hi"))


def test_a_second_server_answers_with_the_same_adapters(tmp_path: Path) -> None:
    with running(tmp_path / "store") as server, server.client() as client:
        id = client.post("/v1/adapters", json={"instruction": "Do it."}).json()["id"]
    with running(tmp_path / "store") as server, server.client() as client:
        assert server.engine.folders == {}
        reply = client.post("/v1/completions", json={"model": id, "prompt": "hi", "temperature": 0})
        assert reply.json()["choices"][0]["text"] == "".join(said(id, "hi", chat=False, temperature=0.0))
        assert client.post("/v1/adapters", json={"instruction": "Do it."}).json()["id"] == id


def test_the_block_of_the_documentation_runs(
    repo_root: Path, served: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = [one for one in blocks(repo_root / "docs" / "serving.md") if one.language == "python"]
    code = block.code.replace("http://127.0.0.1:8000", served.address).replace('"none"', repr(KEY))
    namespace: dict[str, Any] = {}
    exec(compile(code, block.place, "exec"), namespace)
    namespace["client"].close()
    assert capsys.readouterr().out == "".join(
        said(namespace["made"]["id"], "She walks to the station.", temperature=0.0)
    )
