"""Attaching computation to a model during one call.

An attachment maps modules to functions of their output, and attention modules to a prefix. All hooks are removed when
the call ends, also after an exception. Only the innermost attachment of the current thread is active, so a teacher can
run inside its student on the same backbone, and two threads can use different banks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

OutputHook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
"""`hook(module, args, output) -> output`: replaces the output of a module while the attachment is active."""


@dataclass(frozen=True)
class AttentionPrefix:
    """Keys and values that precede those of an attention module while the attachment is active.

    With `shared` there is one prefix for all rows of a call, otherwise one per row. Attention modules that support
    prefixes look them up with `prefix_of`.
    """

    keys: Float[Tensor, "prefix_row heads prefix d_kv"]
    values: Float[Tensor, "prefix_row heads prefix d_kv"]
    shared: bool

    @property
    def tokens(self) -> int:
        """Length of the prefix in tokens."""
        return self.keys.shape[2]


Attached = OutputHook | AttentionPrefix
"""A hook or a prefix."""


class Attachment:
    """Hooks and prefixes that act on modules while the attachment is active.

    Several hooks of one module are applied in the order of `hooks`. A module has at most one prefix.
    """

    def __init__(self, *hooks: Mapping[nn.Module, Attached]) -> None:
        self.hooks = hooks
        self.prefixes: dict[nn.Module, AttentionPrefix] = {}
        for mapping in hooks:
            for module, attached in mapping.items():
                if not isinstance(attached, AttentionPrefix):
                    continue
                if module in self.prefixes:
                    raise ValueError("an attention can read one prefix, got two")
                self.prefixes[module] = attached

    @contextmanager
    def active(self) -> Iterator["Attachment"]:
        """Activate the attachment for the body; an outer attachment is suspended."""
        scope = _Scope(self)
        with ExitStack() as stack:
            for mapping in self.hooks:
                for module, hook in mapping.items():
                    if isinstance(hook, AttentionPrefix):
                        continue  # the attention module looks it up
                    stack.callback(module.register_forward_hook(_Scoped(scope, hook)).remove)
            token = _in_force.set(scope)
            try:
                yield self
            finally:
                _in_force.reset(token)


class _Scope:
    """One activation: the same attachment may be active in two threads, or inside itself."""

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment


_in_force: ContextVar[_Scope | None] = ContextVar("tagi_attachment_in_force", default=None)


class _Scoped:
    """A hook that acts only in its own scope, because other threads and inner calls run the same modules."""

    def __init__(self, scope: _Scope, hook: OutputHook) -> None:
        self.scope = scope
        self.hook = hook

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self.hook(module, args, output) if _in_force.get() is self.scope else None


def is_attached(hook: object) -> bool:
    """Whether a hook belongs to an attachment."""
    return isinstance(hook, _Scoped)


def prefix_of(module: nn.Module) -> AttentionPrefix | None:
    """Return the prefix of an attention module in the active attachment, or None."""
    scope = _in_force.get()
    return None if scope is None else scope.attachment.prefixes.get(module)


def detached() -> AbstractContextManager[Attachment]:
    """A scope without attachment: the unchanged backbone, also inside another scope."""
    return Attachment().active()


class _Again(AbstractContextManager[None]):
    """A reusable `attachment.active()`: a retained graph is recomputed in every backward pass."""

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self.entered: list[AbstractContextManager[Attachment]] = []

    def __enter__(self) -> None:
        scope = self.attachment.active()
        scope.__enter__()
        self.entered.append(scope)

    def __exit__(self, *error: Any) -> None:
        self.entered.pop().__exit__(*error)


def reenter() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """`context_fn` for `torch.utils.checkpoint`: recompute under the attachment of the forward pass.

    Recomputation happens during the backward pass, after the attachment has ended and, on an accelerator, in another
    thread.
    """
    scope = _in_force.get()
    return nullcontext(), _Again(Attachment() if scope is None else scope.attachment)
