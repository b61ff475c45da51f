"""Base classes of all settings, types with ranges, and the sizes of task splits.

Settings are frozen pydantic dataclasses. The types below are strict: no value is converted, except an integer where a
float is expected.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
)
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError

from tagi.errors import CheckpointError
from tagi.settings.faults import fault_sentence

if TYPE_CHECKING:
    from pydantic import SerializerFunctionWrapHandler
    from pydantic import ValidationInfo as ValidationInfo
else:
    SerializerFunctionWrapHandler = ValidationInfo = Any  # protocols that the tests' runtime type checks cannot check

IN_RECIPE = "recipe"
"""Validation context for the tables of a recipe."""


def _refuse_in_recipe(value: Any, info: ValidationInfo) -> Any:
    if info.context == IN_RECIPE:
        raise PydanticKnownError("extra_forbidden")
    return value


Text = Annotated[str, Strict(), Field(min_length=1)]
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict(), Field(ge=0)]
Count = Annotated[int, Strict(), Field(ge=1)]
Positive = Annotated[float, Strict(), Field(gt=0)]
NotNegative = Annotated[float, Strict(), Field(ge=0)]
Share = Annotated[float, Strict(), Field(ge=0, lt=1)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**32)]
OwnSeed = Annotated[int, Strict(), BeforeValidator(_refuse_in_recipe), Field(exclude=True, validate_default=False)]
"""Seed of a group of settings. Not a key in recipes, where `Recipe.seed` is used for all groups."""

SPLITS = {"sni": (6, 15, 30, 60), "p3": (5, 10, 20, 36)}
"""Sizes of the task splits of Figure 3, in categories or data sets (Tables 10 and 11)."""
Rule = Callable[[Any, Mapping[str, Any]], str | dict[str, str] | None]
"""Checks a value, given the valid values of the keys before it. Returns an error message, or one for each key of a
table, or None."""
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)


@dataclass(frozen=True, config=STRICT)
class Table:
    """A group of settings. Unknown keys and values of the wrong type are errors."""

    rules: ClassVar[Mapping[str, Rule]] = {}
    """Rules between keys, each under the later key, so that all errors are reported together."""
    later: ClassVar[frozenset[str]] = frozenset()
    """Keys that were added later. They are serialised only if they differ from their default, so that the
    identities of older recipes do not change."""

    @field_validator("*")
    @classmethod
    def _check_rule(cls, value: Any, info: ValidationInfo) -> Any:
        return check_rule(cls.rules, value, info)

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_defaults(self, serialize(self), self.later)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Return the settings as a dictionary, with the options of pydantic's `model_dump`."""
        values: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, **options)
        return values


_Stored = TypeVar("_Stored", bound="StoredSettings")


@dataclass(frozen=True)
class StoredSettings(Table):
    """Settings that a checkpoint stores as JSON."""

    title: ClassVar[str] = ""
    """Name of these settings in messages."""
    newer: ClassVar[frozenset[str]] = frozenset()
    """Keys that were added later. Stored only if they differ from their default, so that digests do not change."""
    unstored: ClassVar[frozenset[str]] = frozenset()
    """Keys that a checkpoint stores elsewhere."""

    def as_dict(self) -> dict[str, Any]:
        """Return the settings for a checkpoint's JSON."""
        values = {name: getattr(self, name) for name in fields_of(type(self)) if name not in self.unstored}
        return _without_defaults(self, values, self.newer)

    @classmethod
    def from_dict(cls: type[_Stored], values: Any) -> _Stored:
        """Return the settings from the result of `as_dict`.

        Raises `CheckpointError` for an unknown or missing key and for a value that is not allowed.
        """
        if not isinstance(values, dict):
            raise CheckpointError(f"{cls.title}: expected an object, got {values!r}")
        known = {name for name in fields_of(cls) if name in values or name not in cls.newer} - cls.unstored
        if known != values.keys():
            odd = sorted(known ^ values.keys())[0]
            raise CheckpointError(f"{cls.title}: expected exactly {sorted(known)}, got a difference at {odd!r}")
        try:
            return cls(**values)
        except ValidationError as error:
            raise CheckpointError(f"{cls.title}: {fault_sentence(error.errors()[0])}") from error


def fields_of(settings: Any) -> dict[str, FieldInfo]:
    """Return the pydantic fields of a settings class by name."""
    fields: dict[str, FieldInfo] = settings.__pydantic_fields__
    return fields


def _without_defaults(settings: Table, values: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Drop keys in `names` that have their default value."""
    fields = fields_of(type(settings))
    return {
        key: value
        for key, value in values.items()
        if key not in names or getattr(settings, key) != fields[key].get_default(call_default_factory=True)
    }


def check_rule(rules: Mapping[str, Rule], value: Any, info: ValidationInfo) -> Any:
    """Return the value unchanged, or raise the error that its rule reports. For use in a pydantic validator."""
    rule = rules.get(str(info.field_name))
    fault = rule(value, info.data) if rule else None
    if not fault:
        return value
    if isinstance(fault, str):
        raise ValueError(fault)
    details = []
    for key, message in fault.items():  # report each error of a table under its own dotted key
        kind = PydanticCustomError("value_error", "{error}", {"error": message})
        details.append(InitErrorDetails(type=kind, loc=tuple(key.split(".")), input=None))
    raise ValidationError.from_exception_data("recipe", details)
