"""Grouping the rows of a batch by length, to reduce padding."""

from collections.abc import Callable

import torch
from torch import Tensor

from tagi.backbones.shapes import Labels, Logits, TokenIds, TokenMask
from tagi.settings.text import IGNORED

_OVERHEADS = {"cpu": 16}
_OVERHEAD = 8192
"""Fixed cost of a forward pass in tokens: reading the weights on a CPU, launching kernels on an accelerator."""

Compute = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Computes the logits of rows from their indices, ids, mask and labels without common padding."""


def grouped_logits(ids: TokenIds, mask: TokenMask, labels: Labels, compute: Compute) -> Logits:
    """Compute teacher-forced logits of prompts that are padded on the left, group by group.

    The result differs from that of the whole batch only by rounding. Groups are small on a CPU; on an accelerator,
    where each forward pass has a fixed cost, only rows of very different length are separated.

    Args:
        ids: Prompts, padded on the left.
        mask: Which tokens are not padding.
        labels: Targets, padded with -100 on the right.
        compute: Computes the logits of a group.

    Returns:
        Logits at every target position. Values at padding have no meaning.
    """
    prompts, targets = mask.sum(1), (labels != IGNORED).sum(1)
    groups = length_groups((prompts + targets).tolist(), pass_overhead(ids.device))
    parts, width = [], labels.shape[1]
    for group in groups:
        rows = torch.tensor(group, device=ids.device)
        longest, most = max(1, int(prompts[rows].max())), max(1, int(targets[rows].max()))
        start = ids.shape[1] - longest
        logits = compute(rows, ids[rows, start:], mask[rows, start:], labels[rows, :most])
        parts.append(torch.nn.functional.pad(logits, (0, 0, 0, width - most)))
    order = torch.tensor([row for group in groups for row in group], device=ids.device)
    return torch.cat(parts)[order.argsort()]


def pass_overhead(device: torch.device) -> int:
    """Return the fixed cost of a forward pass on a device, in tokens."""
    return _OVERHEADS.get(device.type, _OVERHEAD)


def length_groups(lengths: list[int], overhead: int) -> list[list[int]]:
    """Partition rows into groups with the minimal number of padded tokens plus `overhead` per group.

    Args:
        lengths: Length of every row in tokens.
        overhead: Cost of a group in tokens.

    Returns:
        Row indices by group. Groups are contiguous in the order of lengths, as an optimal partition always is.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    best: list[tuple[int, int]] = [(0, 0)]  # minimal cost of the first rows, and the start of their last group
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[start][0] + (end - start) * longest + overhead, start) for start in range(end)))
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups
