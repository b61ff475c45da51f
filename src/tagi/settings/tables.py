"""What every table of a recipe is made of: types, ranges, and how unknown keys and other types are met."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer
from pydantic_core import InitErrorDetails, PydanticCustomError

if TYPE_CHECKING:
    from pydantic import SerializerFunctionWrapHandler
else:
    SerializerFunctionWrapHandler = Any  # a protocol that the tests' runtime type checks cannot check

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]

Optimizer = Literal["adamw", "adafactor", "adafactor-scaled"]
Schedule = Literal["linear", "constant", "cosine"]
Tune = Literal["none", "norms+embeddings", "ffn", "all"]
Balance = Literal["natural", "category"]
Stage = Literal["backbone", "metatrain", "teachers", "pretrain", "finetune", "single"]
STAGES: tuple[Stage, ...] = get_args(Stage)
SPLITS = {"sni": (6, 15, 30, 60), "p3": (5, 10, 20, 36)}
"""Sizes of the task splits of Figure 3, in categories or data sets (Tables 10 and 11)."""
VALIDATED: tuple[Stage, ...] = ("metatrain", "finetune")
"""Stages that can be scored on held-out tasks while they train."""


class Table(BaseModel):
    """A table of a recipe: unknown keys and values of another type are faults, nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    later: ClassVar[frozenset[str]] = frozenset()
    """Keys that were added later: they are written only where they differ from their default, so that identities of
    older recipes hold."""

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            key: value
            for key, value in written(self).items()
            if key not in self.later or getattr(self, key) != fields[key].default
        }


def faults_below(faults: dict[str, str]) -> ValidationError:
    """Dotted keys below the table that is being validated, and what is wrong with each: raise it in a validator."""
    details = []
    for key, message in faults.items():
        kind = PydanticCustomError("value_error", "{error}", {"error": message})
        details.append(InitErrorDetails(type=kind, loc=tuple(key.split(".")), input=None))
    return ValidationError.from_exception_data("recipe", details)
