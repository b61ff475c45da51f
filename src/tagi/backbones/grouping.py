"""Rows of a batch in groups of similar length, so that little of what is computed is padding."""

from collections.abc import Callable

import torch
from torch import Tensor

from tagi.backbones.shapes import Labels, Logits, TokenIds, TokenMask
from tagi.settings.text import IGNORED

_OVERHEADS = {"cpu": 16}
_OVERHEAD = 8192
"""What one more pass through the model costs, in tokens: on a CPU reading its weights, on an accelerator the time in
which its kernels are launched."""

Compute = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Row numbers, their ids, mask and labels without common padding -> their logits."""


def grouped_logits(ids: TokenIds, mask: TokenMask, labels: Labels, compute: Compute) -> Logits:
    """Teacher-forced logits of prompts padded on the left, computed group by group.

    The result differs from that of the whole batch by rounding alone. On a CPU groups are small; on an accelerator,
    where a pass has a price of its own, only very unlike rows are parted.

    Args:
        ids: Prompts, padded on the left.
        mask: Which tokens are not padding.
        labels: Targets, padded with -100 on the right.
        compute: Gives the logits of a group.

    Returns:
        Logits at every target position; at padding they are those of the group, or 0.
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
    """Return what one more pass through a model costs on a device, in tokens."""
    return _OVERHEADS.get(device.type, _OVERHEAD)


def length_groups(lengths: list[int], overhead: int) -> list[list[int]]:
    """Partition rows into groups so that padded tokens, plus `overhead` per group, are as few as possible.

    Args:
        lengths: Tokens of every row.
        overhead: Cost of a group in tokens.

    Returns:
        Row numbers by group. Groups are contiguous in the order of lengths, where an optimal partition always is.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the first rows, and where their last group starts
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[start][0] + (end - start) * longest + overhead, start) for start in range(end)))
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups
