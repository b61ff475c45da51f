"""Which tasks a recipe trains and tests on, and how they are shown."""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict, field_validator
from pydantic.dataclasses import dataclass

from tagi.settings.tables import SPLITS, Count, Flag, NotNegative, Seed, Table, Text, ValidationInfo, Whole
from tagi.settings.text import TextFormat


@dataclass(frozen=True, kw_only=True)
class DataSettings(TextFormat):
    """Tasks, their training, validation and test instances, and how instructions vary. Beside the format of the texts:

    Args:
        source: The built-in family of tasks ("toy"), Super-Natural Instructions ("sni"), P3 ("p3"), your own JSON Lines
            ("jsonl"), or the everyday benchmark that comes with the package ("everyday", for evaluation only).
        path: Folder or file of the tasks.
        test_path: P3's folder of evaluation sets: the hub's, a file for each prompt, or raw ones with `templates`.
        templates: Folder of prompt templates, with which raw evaluation sets are rendered.
        prompts: Prompts of P3's evaluation sets: those for the original task of a data set ("original", as T0 is
            evaluated), or all.
        instances_per_task: At most so many training instances per task.
        test_instances_per_task: At most so many test instances per task.
        truncate: Shorten texts over their limit. Otherwise such a text is an error.
        shuffle_inputs: A control: exchange inputs among a task's instances, so that they tell nothing.
        task_split: Train only on the tasks of so many categories or data sets, the largest ones (Figure 3).
        validation_tasks: So many training tasks are held out of training for choosing the best checkpoint.
        validation_instances: Instances of each validation task.
        validation_categories: Hold out all training tasks of these categories instead.
        wordings: Weights by name of a wording: training draws a task's instruction by them, once per micro-batch.
            "definition" is the instruction itself. Tasks of Super-Natural Instructions also have "terse", "short",
            "plain", "request" and "detailed", and the `paraphrases` of JSON Lines are "1", "2" and so on. A task draws
            among the names that it has. By default the instruction and its paraphrases are equally likely.
        demonstrations: Share of these draws that show demonstrations, between 1 and `positives` of them. The other
            draws show none, and so do validation and evaluation unless `tagi evaluate --positives` asks for some. By
            default every row shows the first `positives` examples.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"validation_categories", "wordings", "demonstrations", "template_arguments"}
    )

    source: Literal["toy", "sni", "p3", "jsonl", "everyday"]
    path: Text | None = None
    test_path: Text | None = None
    templates: Text | None = None
    prompts: Literal["original", "all"] = "original"
    instances_per_task: Count = 100
    test_instances_per_task: Count = 100
    truncate: Flag = False
    shuffle_inputs: Flag = False
    task_split: Count | None = None
    validation_tasks: Whole = 0
    validation_instances: Count = 10
    validation_categories: Annotated[list[Text], Field(min_length=1)] | None = None
    wordings: dict[Text, NotNegative] | None = None
    demonstrations: Annotated[float, Strict(), Field(ge=0, le=1)] | None = None

    @field_validator("path")
    @classmethod
    def _path_unless_built_in(cls, value: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("source")
        if value is None and source in ("sni", "p3", "jsonl"):
            raise ValueError(f"expected a path with data.source = {source!r}, got nothing")
        if value is not None and source in ("toy", "everyday"):
            raise ValueError(f"expected no path with data.source = {source!r}, got {value!r}")
        return value

    @field_validator("test_path")
    @classmethod
    def _test_path_of_p3(cls, value: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("source")
        if value is not None and source not in ("p3", None):
            raise ValueError(f"expected no test_path with data.source = {source!r}, got {value!r}")
        return value

    @field_validator("templates", "prompts")
    @classmethod
    def _prompts_of_test_sets(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value not in (None, "original") and "test_path" in info.data and info.data["test_path"] is None:
            raise ValueError(f"expected data.test_path with it, got {value!r} alone")
        return value

    @field_validator("template_arguments")
    @classmethod
    def _arguments_of_a_chat(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if value is None:
            return None
        if info.data.get("encoding", "chat") != "chat":
            raise ValueError(f"expected none with data.encoding = {info.data['encoding']!r}, got {value!r}")
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(f"expected values that JSON can hold, got {value!r}") from error
        return value

    @field_validator("task_split")
    @classmethod
    def _split_of_the_source(cls, value: int | None, info: ValidationInfo) -> int | None:
        source = info.data.get("source")
        if value is None or source is None:
            return value
        if source not in SPLITS:
            raise ValueError(f"expected no split with data.source = {source!r}, got {value}")
        if value not in SPLITS[source]:
            raise ValueError(f"expected one of {', '.join(map(str, SPLITS[source]))} with {source}, got {value}")
        return value

    @field_validator("validation_categories")
    @classmethod
    def _one_way_to_hold_out(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        count = info.data.get("validation_tasks")
        if value is not None and count:
            raise ValueError(f"expected this or data.validation_tasks, got both (data.validation_tasks = {count})")
        return value

    @field_validator("wordings")
    @classmethod
    def _some_weight(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and not any(value.values()):
            raise ValueError("expected at least one weight above 0, got none")
        return value

    @field_validator("demonstrations")
    @classmethod
    def _positives_to_show(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value and info.data.get("positives") == 0:
            raise ValueError(f"expected data.positives of at least 1 with it, got {value} and no positives")
        return value


@dataclass(frozen=True)
class ShotSettings(Table):
    """Labelled examples of a task, for methods that learn in context and for models of a single task.

    Shots of test tasks are drawn from what is not tested: further instances of the task, and of P3's prompts further
    rows, or rows of the training sets in the folder `path`.

    Args:
        count: Shots of a test task, and of every episode of training.
        seed: Seed of the draw.
        path: Folder of training sets in the layout of `data.test_path`.
    """

    count: Count = 16
    seed: Seed = 0
    path: Text | None = None
