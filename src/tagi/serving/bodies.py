"""What clients send: adapters to make, and OpenAI's completions and chats."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from tagi.data.task import Example
from tagi.serving.faults import ONE, SEVERAL, ApiError


def _writable(text: str) -> str:
    """JSON can hold halves of surrogate pairs, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("expected text that UTF-8 can write, got half a surrogate pair") from error
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(_writable)]
Name = Annotated[Text, Field(max_length=200)]
Stop = Annotated[Text, Field(min_length=1, max_length=1000)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63, strict=True)]
_MOST_TOKENS = 2**31


class Body(BaseModel):
    """A request's body. Keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ExampleBody(Body):
    """A demonstration or a labelled example.

    Args:
        input: The input.
        output: Its answer.
    """

    input: Text
    output: Text

    @property
    def example(self) -> Example:
        """The same as the task model has it."""
        return Example(self.input, self.output)


class AdapterBody(Body):
    """An adapter to make.

    Args:
        instruction: The task's instruction.
        demonstrations: Inputs and outputs that are read with it.
        name: A name to show; it is not a model's name.
        truncate: Truncate what is over the generator's limit, instead of refusing it.
    """

    instruction: Text = ""
    demonstrations: tuple[ExampleBody, ...] = Field((), max_length=64)
    name: Name = ""
    truncate: bool = False


AdapterBodies = Annotated[
    Annotated[AdapterBody, Tag(ONE)] | Annotated[list[AdapterBody], Tag(SEVERAL)],
    Discriminator(lambda given: SEVERAL if isinstance(given, list) else ONE),
]
"""One adapter, or a list."""


class RefineBody(Body):
    """A refinement of an adapter.

    Args:
        examples: Labelled examples.
        steps: Steps of training.
        learning_rate: Peak learning rate of AdamW.
        batch_size: Examples of a step.
        seed: Decides which examples make up which step.
        name: A name to show of the refined adapter.
        truncate: Truncate examples that are over the generator's limits, instead of refusing them.
    """

    examples: tuple[ExampleBody, ...] = Field(min_length=1)
    steps: int = Field(100, ge=1, strict=True)
    learning_rate: float = Field(1e-3, gt=0, le=10, allow_inf_nan=False)
    batch_size: int = Field(8, ge=1, le=64, strict=True)
    seed: int = Field(0, ge=0, lt=2**32, strict=True)
    name: Name = ""
    truncate: bool = False


class TextPart(BaseModel):
    """A part of a message that is text."""

    type: Literal["text"]
    text: Text


class MessageBody(BaseModel):
    """A message of a chat.

    Args:
        role: Whose it is; `developer` is another word for `system`.
        content: A text, or parts that are texts.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | tuple[TextPart, ...]

    @model_validator(mode="before")
    @classmethod
    def _texts_alone(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for key in ("tool_calls", "function_call", "audio"):
                if given.get(key):
                    raise _unsupported(f"messages: expected texts, got {key}", "messages")
            content = given.get("content")
            for part in content if isinstance(content, list) else ():
                kind = part.get("type") if isinstance(part, Mapping) else None
                if isinstance(kind, str) and kind != "text":
                    raise _unsupported(f"messages: expected parts of type 'text', got {kind[:40]!r}", "messages")
        return given

    @property
    def text(self) -> str:
        """The message's text; parts are joined by line ends."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """Options of a streamed answer.

    Args:
        include_usage: Whether a last part gives the number of tokens.
    """

    include_usage: bool = False


class SamplingBody(BaseModel):
    """What completions and chats have in common, as OpenAI's API has it.

    Args:
        model: An adapter's id, the same with `:alone` behind it to leave the instruction out, or the base model's name.
        stream: Whether the answer comes in parts, as server-sent events.
        stream_options: Options of that.
        max_tokens: Tokens of the answer at most.
        temperature: 0 always takes the most probable token.
        top_p: Probability mass that is sampled from.
        seed: The same seed gives the same answer.
        stop: One or several texts that end the answer.
        n: Answers, of which there is always one.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    HARMLESS: ClassVar[frozenset[str]] = frozenset(
        [
            "user",
            "metadata",
            "store",
            "service_tier",
            "safety_identifier",
            "prompt_cache_key",
            "prompt_cache_retention",
            "prediction",
            "parallel_tool_calls",
        ]
    )
    """Parameters that do not change an answer."""
    NEUTRAL: ClassVar[Mapping[str, Any]] = {
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "logit_bias": {},
        "best_of": 1,
        "tools": [],
        "functions": [],
        "tool_choice": "none",
        "function_call": "none",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "echo": False,
        "suffix": "",
    }
    """Parameters that are accepted with the value that changes nothing."""

    model: Text
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=_MOST_TOKENS, strict=True)
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    seed: Seed | None = None
    stop: Stop | Annotated[tuple[Stop, ...], Field(max_length=16)] = ()
    n: Literal[1] = 1

    @model_validator(mode="before")
    @classmethod
    def _known_parameters(cls, given: Any) -> Any:
        """Leave out what is null or changes nothing; refuse all that the server would otherwise not do as asked."""
        if not isinstance(given, Mapping):
            return given
        kept = {name: value for name, value in given.items() if value is not None}
        for name in [name for name in kept if name not in cls.model_fields]:
            value = kept.pop(name)
            if name in cls.HARMLESS or (name in cls.NEUTRAL and value == cls.NEUTRAL[name]):
                continue
            shown = name if len(name) <= 60 else f"{name[:57]}..."
            if name in cls.NEUTRAL:
                raise _unsupported(
                    f"{name}: expected {cls.NEUTRAL[name]!r} or nothing: other values are not supported", name
                )
            raise _unsupported(f"expected parameters that this server knows, got {shown!r}", shown)
        if type(count := kept.get("n", 1)) is int and count != 1:
            raise _unsupported(f"n: expected 1, since a request gives one answer, got {count}", "n")
        return kept

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop

    @property
    def most_tokens(self) -> int | None:
        """Tokens of the answer at most; None for as many as there is room for."""
        return self.max_tokens

    @property
    @abstractmethod
    def top(self) -> int | None:
        """Number of most probable tokens that are reported; None for no probabilities at all."""


class ChatBody(SamplingBody):
    """A chat. An adapter takes one message of the user, the input; the base model takes any chat.

    Args:
        messages: The messages.
        max_completion_tokens: The newer name of `max_tokens`.
        logprobs: Whether log-probabilities are reported.
        top_logprobs: Number of most probable tokens that are reported with each token.
    """

    messages: tuple[MessageBody, ...] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=_MOST_TOKENS, strict=True)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20, strict=True)

    @property
    def most_tokens(self) -> int | None:
        """Tokens of the answer at most; None for as many as there is room for."""
        given = [most for most in (self.max_completion_tokens, self.max_tokens) if most is not None]
        return min(given) if given else None

    @property
    def top(self) -> int | None:
        """Number of most probable tokens that are reported; None for no probabilities at all."""
        if not self.logprobs and self.top_logprobs is not None:
            raise ApiError(400, "top_logprobs: expected it with logprobs, got it alone", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(SamplingBody):
    """A completion of raw text.

    Args:
        prompt: The text, which is read as it stands.
        max_tokens: Tokens of the answer at most.
        logprobs: Number of most probable tokens that are reported with each token.
    """

    prompt: Text | Annotated[tuple[Text, ...], Field(min_length=1, max_length=1)]
    max_tokens: int | None = Field(16, ge=1, le=_MOST_TOKENS, strict=True)
    logprobs: int | None = Field(None, ge=0, le=5, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _one_text(cls, given: Any) -> Any:
        prompt = given.get("prompt") if isinstance(given, Mapping) else None
        if isinstance(prompt, list) and (len(prompt) != 1 or not isinstance(prompt[0], str)):
            raise _unsupported(
                "prompt: expected one text, got a list: send a request for each text, and no tokens", "prompt"
            )
        return given

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    @property
    def top(self) -> int | None:
        """Number of most probable tokens that are reported; None for no probabilities at all."""
        return self.logprobs


def _unsupported(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="unsupported_parameter", param=param)
