"""Shapes of the tensors that pass between backbones, hypernetworks and methods.

The axes: `row` of a batch, `task` or instruction, `token` with padding, `target` token, `choice`, `vocabulary`.
"""

from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

TokenIds: TypeAlias = Int[Tensor, "row token"]
"""Texts as token ids."""
TokenMask: TypeAlias = Bool[Tensor, "row token"]
"""Which tokens of texts are not padding."""
TokenStates: TypeAlias = Float[Tensor, "row token d_model"]
"""Hidden states of texts."""
MemoryMask: TypeAlias = Bool[Tensor, "row memory"]
"""Which tokens that answers attend to are not padding."""
Labels: TypeAlias = Int[Tensor, "row target"]
"""Target tokens, -100 for padding."""
ChoiceLabels: TypeAlias = Int[Tensor, "row choice target"]
"""Tokens of every row's choices, -100 for padding."""
Logits: TypeAlias = Float[Tensor, "row target vocabulary"]
"""Logits at every target token."""
ChoiceScores: TypeAlias = Float[Tensor, "row choice"]
"""Log-probabilities of every row's choices."""
AnswerIds: TypeAlias = Int[Tensor, "row answer"]
"""Generated answers as token ids."""
InstructionIds: TypeAlias = Int[Tensor, "task token"]
"""Instructions as token ids."""
InstructionMask: TypeAlias = Bool[Tensor, "task token"]
"""Which tokens of instructions are not padding."""
InstructionStates: TypeAlias = Float[Tensor, "task token d_model"]
"""Instruction states `I_x`."""
TaskRows: TypeAlias = Int[Tensor, " row"]
"""The task of every row."""
Scalar: TypeAlias = Float[Tensor, ""]
"""A loss."""
