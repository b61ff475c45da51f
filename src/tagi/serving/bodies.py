"""Request bodies: adapters, refinements, and OpenAI's completions and chats."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from tagi.data.task import Example
from tagi.serving.faults import ONE, SEVERAL, ApiError


def _writable(text: str) -> str:
    """Reject lone surrogates, which JSON allows and tokenizers cannot read."""
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
    """A request body. Unknown keys are errors."""

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
        """The example as `tagi.data.task.Example`."""
        return Example(self.input, self.output)


class AdapterBody(Body):
    """An adapter that is to be generated.

    Args:
        instruction: The task's instruction.
        demonstrations: Demonstrations that the generator reads with the instruction.
        name: Display name. It is not a model name.
        truncate: Truncate texts that exceed the generator's limit. Otherwise they are an error.
    """

    instruction: Text = ""
    demonstrations: tuple[ExampleBody, ...] = Field((), max_length=64)
    name: Name = ""
    truncate: bool = False


AdapterBodies = Annotated[
    Annotated[AdapterBody, Tag(ONE)] | Annotated[list[AdapterBody], Tag(SEVERAL)],
    Discriminator(lambda given: SEVERAL if isinstance(given, list) else ONE),
]
"""One adapter or a list of adapters."""


class RefineBody(Body):
    """A refinement of an adapter.

    Args:
        examples: Labelled examples.
        steps: Number of training steps.
        learning_rate: Peak learning rate of AdamW.
        batch_size: Number of examples per step.
        seed: Seed of the order of examples.
        name: Display name of the refined adapter.
        truncate: Truncate examples that exceed the generator's limits. Otherwise they are an error.
    """

    examples: tuple[ExampleBody, ...] = Field(min_length=1)
    steps: int = Field(100, ge=1, strict=True)
    learning_rate: float = Field(1e-3, gt=0, le=10, allow_inf_nan=False)
    batch_size: int = Field(8, ge=1, le=64, strict=True)
    seed: int = Field(0, ge=0, lt=2**32, strict=True)
    name: Name = ""
    truncate: bool = False


class TextPart(BaseModel):
    """A text part of a message."""

    type: Literal["text"]
    text: Text


class MessageBody(BaseModel):
    """A message of a chat.

    Args:
        role: Role of the author. `developer` means the same as `system`.
        content: A text or a list of text parts.
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
        """The message's text. Parts are joined by line breaks."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """Options of a streamed answer.

    Args:
        include_usage: Send the numbers of tokens in a last part.
    """

    include_usage: bool = False


class SamplingBody(BaseModel):
    """The parameters of OpenAI's API that completions and chats share.

    Args:
        model: An adapter's id, the id followed by `:alone` to omit the instruction, or the base model's name.
        stream: Send the answer in parts, as server-sent events.
        stream_options: Options of a streamed answer.
        max_tokens: Maximum length of the answer in tokens.
        temperature: Sampling temperature; 0 is greedy decoding.
        top_p: Probability mass of nucleus sampling.
        seed: Seed. The same seed gives the same answer.
        stop: One or several strings that end the answer.
        n: Number of answers. Must be 1.
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
    """Parameters that are accepted only with the value that has no effect."""

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
        """Drop parameters that are null or have no effect; raise an error for others that are not supported."""
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
        """The strings that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop

    @property
    def most_tokens(self) -> int | None:
        """Maximum length of the answer in tokens; None if only the context limits it."""
        return self.max_tokens

    @property
    @abstractmethod
    def top(self) -> int | None:
        """Number of most probable tokens to report; None for no log-probabilities."""


class ChatBody(SamplingBody):
    """A chat. An adapter takes one user message, the input. The base model takes any chat.

    Args:
        messages: The messages.
        max_completion_tokens: Newer name of `max_tokens`.
        logprobs: Report log-probabilities.
        top_logprobs: Number of most probable tokens to report per position.
    """

    messages: tuple[MessageBody, ...] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=_MOST_TOKENS, strict=True)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20, strict=True)

    @property
    def most_tokens(self) -> int | None:
        """Maximum length of the answer in tokens; None if only the context limits it."""
        given = [most for most in (self.max_completion_tokens, self.max_tokens) if most is not None]
        return min(given) if given else None

    @property
    def top(self) -> int | None:
        """Number of most probable tokens to report; None for no log-probabilities."""
        if not self.logprobs and self.top_logprobs is not None:
            raise ApiError(400, "top_logprobs: expected it with logprobs, got it alone", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(SamplingBody):
    """A completion of raw text.

    Args:
        prompt: The text, used without a chat template.
        max_tokens: Maximum length of the answer in tokens.
        logprobs: Number of most probable tokens to report per position.
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
        """Number of most probable tokens to report; None for no log-probabilities."""
        return self.logprobs


def _unsupported(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="unsupported_parameter", param=param)
