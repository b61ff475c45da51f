"""The constant text of a prompt template, with a placeholder for each field."""

from collections.abc import Sequence

from jinja2 import nodes
from jinja2.meta import find_undeclared_variables

from tagi.data.readers._sandbox import PromptEnvironment
from tagi.data.readers._shared_text import FIELD, merged_text

_MARK = "\ue000"
"""Stands for `FIELD` while texts are compared: one character, which no template holds."""
_CHOICES = "answer_choices"


def with_placeholders(environment: PromptEnvironment, tree: nodes.Template, choices: Sequence[str] | None) -> str:
    """Return the text of a parsed template, with `FIELD` for every expression that depends on the row.

    Constant expressions are replaced by their value, and so is `answer_choices` if `choices` is given because they do
    not depend on the row. For branches with an `else`, the text that all branches share is kept. Other branches and
    the body of a loop occur once.
    """
    return _text(environment, tree.body, choices).replace(_MARK, FIELD)


def _text(environment: PromptEnvironment, body: Sequence[nodes.Node], choices: Sequence[str] | None) -> str:
    return "".join(_statement(environment, node, choices) for node in body)


def _statement(environment: PromptEnvironment, node: nodes.Node, choices: Sequence[str] | None) -> str:
    match node:
        case nodes.Output():
            return "".join(_expression(environment, part, choices) for part in node.nodes)
        case nodes.If():
            branches = [node.body, *(branch.body for branch in node.elif_), *([node.else_] if node.else_ else [])]
            merged = merged_text([_text(environment, branch, choices) for branch in branches])
            return merged.replace(FIELD, _MARK)
        case nodes.For():
            return _text(environment, node.body, choices)
        case _:
            return ""  # variables are resolved where they are used


def _expression(environment: PromptEnvironment, node: nodes.Expr, choices: Sequence[str] | None) -> str:
    if isinstance(node, nodes.TemplateData):
        return node.data
    alone = nodes.Template([nodes.Output([node])])
    alone.set_environment(environment)
    known = {} if choices is None else {_CHOICES: choices}
    random_nodes = [node, *node.find_all(nodes.Filter)]
    if find_undeclared_variables(alone) - known.keys() or any(
        getattr(one, "name", "") == "choice" for one in random_nodes
    ):
        return _MARK
    return environment.text(environment.compiled(alone), known, lambda options: options[0])
