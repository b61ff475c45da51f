"""A Jinja environment for untrusted prompt templates, which can only render text from a row.

In addition to Jinja's own sandbox, only the statements, functions, methods and filters that prompts need are available,
and iterations and sizes are bounded.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import Environment, Template, nodes, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import do_round, make_attrgetter
from jinja2.runtime import LoopContext
from jinja2.sandbox import SandboxedEnvironment
from jinja2.visitor import NodeTransformer

Draw = Callable[[Sequence[Any]], Any]
"""Implements the filter `choice`: options in, one of them out."""

STEPS = 10_000
"""Most iterations of all loops of one rendering, and most numbers of a `range`."""
SIZE = 10_000_000
"""Most characters and elements that one rendering may make; the longest documents need far fewer."""
DIGITS = 30
"""Most digits before or after the point that a number may be rounded to."""

_STATEMENTS = (nodes.Output, nodes.If, nodes.For, nodes.Assign)
_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "join"),
    *("last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse"),
    *("select", "selectattr", "sort", "string", "sum", "title", "trim", "truncate", "unique", "upper", "wordcount"),
)
_METHODS: dict[type, tuple[str, ...]] = {
    str: (
        *("capitalize", "casefold", "count", "endswith", "find", "index", "isalpha", "isdigit", "isupper", "join"),
        *("lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rpartition", "rsplit"),
        *("rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper"),
    ),
    dict: ("get", "items", "keys", "values"),
    list: ("count", "index"),
    tuple: ("count", "index"),
    LoopContext: ("depth", "first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex"),
}


@dataclass
class _Rendering:
    """State of one rendering: the random choice, and counts of iterations and of created characters and elements."""

    draw: Draw
    steps: int = 0
    size: int = 0


_now: ContextVar[_Rendering] = ContextVar("rendering")


class PromptEnvironment(SandboxedEnvironment):
    """Jinja as configured by promptsource, without features that prompts do not need.

    promptsource adds the function `zip` and the filters `choice` (a random element) and `most_frequent` (the list of
    the most frequent elements).
    """

    intercepted_binops = frozenset(["+", "*", "%", "**"])

    def __init__(self) -> None:
        super().__init__()
        plain = {name: self.filters[name] for name in _FILTERS}
        self.filters = {
            **plain,
            "choice": lambda options: _now.get().draw(options),
            "most_frequent": _most_frequent,
            "join": _joined,
            "round": _rounded,
            "replace": lambda text, old, new, count=None: _replaced(str(text), str(old), str(new), count),
            "made": _made,
            "steps": _steps,
        }
        self.globals = {"range": _range, "zip": zip}

    def compiled(self, tree: nodes.Template) -> Template:
        """Compile a parsed template, which is modified. Raises `SecurityError` for anything that is not allowed."""
        _Bounding().visit(tree)
        tree.set_environment(self)
        return self.from_string(tree)

    def text(self, template: Template, variables: Mapping[str, Any], draw: Draw) -> str:
        """Render a compiled template. Raises `SecurityError` if it does something forbidden or exceeds a limit."""
        token = _now.set(_Rendering(draw))
        try:
            pieces: list[str] = []
            made = 0
            for piece in template.generate(**variables):
                made += len(piece)
                if made > SIZE:
                    break
                pieces.append(piece)
            _make(made)
            return "".join(pieces)
        finally:
            _now.reset(token)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow only listed attributes of strings, lists, dicts and loops."""
        return any(isinstance(obj, kind) and attr in names for kind, names in _METHODS.items())

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Raise immediately; Jinja would render such an attribute as an empty text."""
        raise SecurityError(f"a prompt may not use the attribute {attribute!r} of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> None:
        """Forbid `format`, which can pad a text to any length."""

    def call(self, context: Any, function: Any, /, *args: Any, **options: Any) -> Any:
        """Call a function. `replace` and `join` of strings check the length of their result first."""
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str) and function.__name__ == "replace":
            return _replaced(owner, *args, **options)
        if isinstance(owner, str) and function.__name__ == "join" and len(args) == 1:
            return _joined(self, *args, owner)
        return super().call(context, function, *args, **options)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Allow arithmetic on numbers, and multiplication of a string or list by a number, within limits."""
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or (operator == "%" and not numbers):
            raise SecurityError(f"a prompt may not use {operator!r} here")
        if operator == "*" and not numbers:
            sized, factor = (left, right) if isinstance(right, int) else (right, left)
            _make(len(sized) * int(factor))
        if operator == "+" and not numbers:
            _make(len(left) + len(right))
        return super().call_binop(context, operator, left, right)


class _Bounding(NodeTransformer):
    """Rejects nodes that prompts must not contain, and adds counting to loops and to string expressions."""

    def generic_visit(self, node: nodes.Node, *args: Any, **options: Any) -> nodes.Node:
        if isinstance(node, nodes.Stmt) and not isinstance(node, _STATEMENTS):
            raise SecurityError(f"a prompt may not hold the statement {type(node).__name__.lower()!r}")
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            raise SecurityError(f"a prompt may not use the attribute {node.attr!r}")
        return super().generic_visit(node, *args, **options)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise SecurityError("a prompt may not hold a recursive loop")
        node.iter = _filtered(node.iter, "steps")
        return self.generic_visit(node)

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:
        node.node = _filtered(node.node, "made")
        return self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        return self.generic_visit(_filtered(nodes.List(node.nodes, lineno=node.lineno), "join"))


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _make(size: int) -> None:
    rendering = _now.get()
    rendering.size += max(size, 0)
    if rendering.size > SIZE:
        raise SecurityError(f"a prompt may make texts and lists of {SIZE} at most in all, got {rendering.size}")


def _made(value: Any) -> Any:
    if isinstance(value, str | list | tuple | dict):
        _make(len(value))
    return value


def _steps(values: Iterable[Any]) -> Iterator[Any]:
    rendering = _now.get()
    for value in values:
        rendering.steps += 1
        if rendering.steps > STEPS:
            raise SecurityError(f"the loops of a prompt may go round {STEPS} times at most")
        yield value


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    # Not with len(), which raises for very large ranges.
    if numbers and abs(numbers[-1] - numbers[0]) // abs(numbers.step) >= STEPS:
        raise SecurityError(f"the range of a prompt may have {STEPS} numbers at most")
    return numbers


def _replaced(text: str, old: str, new: str, count: int | None = None) -> str:
    times = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    _make(len(text) + times * (len(new) - len(old)))
    return text.replace(old, new, -1 if count is None else count)


@pass_environment
def _joined(environment: Environment, values: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    texts = [str(value) for value in values]
    _make(len(texts) * len(str(d)) + sum(map(len, texts)))
    return str(d).join(texts)


def _rounded(value: Any, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common") -> float:
    if abs(precision) > DIGITS:
        raise SecurityError(f"a prompt may round to {DIGITS} digits at most, got {precision}")
    return do_round(value, precision, method)


def _most_frequent(items: Iterable[Any]) -> list[Any] | None:
    counts = Counter(items)
    if not counts:
        return None
    most = max(counts.values())
    return [item for item, count in counts.items() if count == most]
