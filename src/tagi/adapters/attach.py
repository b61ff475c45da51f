"""Attaching computation to a model for the length of one call.

An attachment maps modules to functions of their output, and attentions to a prefix that they read. It is a value:
nothing of it stays on a module when its call ends, also after an exception, and only the innermost scope of the
current thread is in force, so a teacher may run inside its student on the same backbone and two threads may use two
banks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

OutputHook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
"""`hook(module, args, output) -> output`: what a module returns while the attachment is in force."""


@dataclass(frozen=True)
class AttentionPrefix:
    """Keys and values that an attention reads before its own while the attachment is in force.

    `shared`: one for all rows of a call; else row i is for row i. Nothing asks for it of itself: an attention that
    takes prefixes looks it up by `prefix_of`.
    """

    keys: Float[Tensor, "prefix_row heads prefix d_kv"]
    values: Float[Tensor, "prefix_row heads prefix d_kv"]
    shared: bool

    @property
    def tokens(self) -> int:
        """Its length."""
        return self.keys.shape[2]


Attached = OutputHook | AttentionPrefix
"""What an attachment can hold for a module."""


class Attachment:
    """Hooks and prefixes that act on modules while the attachment is in force.

    Several functions of one module's output apply in the order of `hooks`. A module has one prefix at most.
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
        """Put the attachment in force for the body; what was in force around it is suspended."""
        scope = _Scope(self)
        with ExitStack() as stack:
            for mapping in self.hooks:
                for module, hook in mapping.items():
                    if isinstance(hook, AttentionPrefix):
                        continue  # looked up by the attention itself
                    stack.callback(module.register_forward_hook(_Scoped(scope, hook)).remove)
            token = _in_force.set(scope)
            try:
                yield self
            finally:
                _in_force.reset(token)


class _Scope:
    """One stay in `Attachment.active`: the same attachment may be in force in two threads or inside itself."""

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment


_in_force: ContextVar[_Scope | None] = ContextVar("tagi_attachment_in_force", default=None)


class _Scoped:
    """A hook that acts only in its own scope: other threads and inner calls run the same modules."""

    def __init__(self, scope: _Scope, hook: OutputHook) -> None:
        self.scope = scope
        self.hook = hook

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self.hook(module, args, output) if _in_force.get() is self.scope else None


def is_attached(hook: object) -> bool:
    """Whether a hook found on a module belongs to some call's attachment."""
    return isinstance(hook, _Scoped)


def prefix_of(module: nn.Module) -> AttentionPrefix | None:
    """Return the prefix that the attachment in force has for an attention, if any."""
    scope = _in_force.get()
    return None if scope is None else scope.attachment.prefixes.get(module)


def detached() -> AbstractContextManager[Attachment]:
    """A scope in which no attachment is in force: the bare backbone, also inside another's scope."""
    return Attachment().active()


class _Again(AbstractContextManager[None]):
    """`attachment.active()`, to be entered more than once: a graph kept alive is recomputed per backward."""

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
    """`context_fn` for `torch.utils.checkpoint`: recompute under the attachment in force in the forward pass.

    Recomputation runs during backward, when the call's attachment has ended (and, on an accelerator, in
    another thread).
    """
    scope = _in_force.get()
    return nullcontext(), _Again(Attachment() if scope is None else scope.attachment)
