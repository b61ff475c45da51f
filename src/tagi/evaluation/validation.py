"""Messages about data from files that is not as it should be."""

from pydantic import ValidationError


def first_fault(error: ValidationError, *keys: str) -> str:
    """Return the first fault on one line: the dotted key, after `keys`, what it should be, and what it is."""
    fault = error.errors(include_url=False)[0]
    message = fault["msg"].removeprefix("Value error, ")
    got = "" if fault["type"] == "missing" else f", got {fault['input']!r:.60}"
    return f"{'.'.join(map(str, (*keys, *fault['loc'])))}: {message[:1].lower()}{message[1:]}{got}"
