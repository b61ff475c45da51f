"""Error messages of settings: what was expected, and what was given."""

import re
import tomllib
from typing import Any

_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "a table",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "string_too_short": "some text",
    "string_type": "text",
    "too_short": "a {field_type} of at least {min_length}",
    "tuple_type": "a list",
}
"""Text for pydantic's types of errors."""
_SHOWN = 60


def fault_sentence(fault: Any) -> str:
    """Format one of `ValidationError.errors()` as `key: expected ..., got ...`."""
    key = ".".join(str(part) for part in fault["loc"])
    context = dict(fault.get("ctx", {}))
    if "field_type" in context:
        context["field_type"] = "table" if context["field_type"] == "Dictionary" else "list"
    match fault["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{key}: unknown key"
        case "missing":
            return f"{key}: expected a value, got nothing"
        case "value_error":
            return f"{key}: {context['error']}"
        case kind if kind in _EXPECTED:
            return f"{key}: expected {_EXPECTED[kind].format(**context)}, got {shown(fault['input'])}"
        case _:
            return f"{key}: {fault['msg']}, got {shown(fault['input'])}"


def toml_fault(text: str, error: tomllib.TOMLDecodeError) -> str:
    """Return what is wrong with a TOML text, with the key of the line where reading stopped.

    What is most often no valid value is text without quotes.
    """
    at = re.search(r"line (\d+), column (\d+)", str(error))
    line = text.splitlines()[int(at[1]) - 1] if at else ""
    key, mark, _ = line.partition("=")
    if at is None or not mark:
        return str(error)
    word, hint = re.match(r"[A-Za-z]\w*", line[int(at[2]) - 1 :]), ""
    if word and str(error).startswith("Invalid value"):
        lower = word[0].lower() in ("true", "false")
        hint = ": true and false are written in lower case" if lower else ": text needs quotes"
    return f"{key.strip()}: {error}{hint}"


def shown(value: object) -> str:
    """Format a value of a recipe on one short line."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
