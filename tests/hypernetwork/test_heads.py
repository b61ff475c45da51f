"""Both hypernetworks: shapes, starts, padding, which parameters learn and what is shared by whom."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tagi.adapters.bank import LoraBank
from tagi.backbones.protocol import TargetModule
from tagi.hypernetwork.heads import RowHeads
from tagi.hypernetwork.pooled import PooledHypernetwork
from tagi.hypernetwork.query import QueryHypernetwork
from tagi.hypernetwork.targets import LoraTarget
from tagi.settings.generator import GeneratorSettings
from tests.models import ALPHA, D_MODEL, HIDDEN, QUERY_HEADS, RANK, TASKS, WIDTH, same

EQUAL = tuple(
    TargetModule(f"layer.{layer}.{projection}", layer, projection, D_MODEL, 15)
    for layer in range(2)
    for projection in "qv"
)
GROUPED = tuple(
    TargetModule(f"layer.{layer}.{projection}", layer, projection, D_MODEL, {"q": 15, "v": 6}[projection])
    for layer in range(2)
    for projection in "qv"
)
UNEVEN = (*GROUPED[:2], TargetModule("layer.1.q", 1, "q", 31, 15), TargetModule("layer.1.v", 1, "v", D_MODEL, 8))
KINDS: dict[str, dict[str, Any]] = {
    "pooled": {},
    "pooled attention": {"pooling": "attention"},
    "query": {"width": WIDTH, "heads": QUERY_HEADS},
}


def make(
    kind: str, target_modules: tuple[TargetModule, ...] = EQUAL, seed: int = 0
) -> PooledHypernetwork | QueryHypernetwork:
    made = QueryHypernetwork if kind == "query" else PooledHypernetwork
    settings = GeneratorSettings(kind=kind.split()[0], alpha=ALPHA, hidden=HIDDEN, seed=seed, **KINDS[kind])
    return made((target(target_modules),), D_MODEL, settings)


def target(target_modules: tuple[TargetModule, ...]) -> LoraTarget:
    return LoraTarget(target_modules, RANK, ALPHA)


def wake(module: nn.Module) -> None:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".B" in name or name == "score.weight":
                parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=parameter.dtype))


def instructions(dtype: torch.dtype = torch.float32, padding: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    states = torch.randn(TASKS, 9 + padding, D_MODEL, generator=random, dtype=torch.float64).to(dtype)
    mask = torch.arange(9 + padding) < torch.tensor([[9], [2], [5]])
    return states, mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target_modules", [EQUAL, GROUPED, UNEVEN])
def test_every_site_gets_factors_of_its_shape(kind: str, target_modules: tuple[TargetModule, ...]) -> None:
    bank = make(kind, target_modules)(*instructions())
    assert list(bank.factors) == [module.path for module in target_modules]
    assert bank.scale == ALPHA / RANK
    for module in target_modules:
        a, b = bank.factors[module.path]
        assert a.shape == (TASKS, RANK, module.d_in)
        assert b.shape == (TASKS, module.d_out, RANK)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_at_no_update_from_the_saved_start(kind: str) -> None:
    hypernetwork = make(kind, GROUPED)
    bank = hypernetwork(*instructions())
    saved = hypernetwork.state_dict()
    for module in GROUPED:
        a, b = bank.factors[module.path]
        assert not b.any()
        start = hypernetwork.heads.start(module.path)
        assert saved[f"heads.start_{module.path.replace('.', '_')}"] is not None
        assert 0.9 * D_MODEL**-0.5 < start.abs().max() <= D_MODEL**-0.5
        assert 0 < (a - start).abs().max() < start.abs().max()
    starts = [hypernetwork.heads.start(module.path) for module in GROUPED]
    assert not torch.equal(starts[0], starts[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides(kind: str) -> None:
    torch.manual_seed(11)
    one, other = make(kind, seed=1), make(kind, seed=2)
    torch.manual_seed(12)
    again = make(kind, seed=1)
    for name, tensor in one.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert not torch.equal(one.heads.first, other.heads.first)
    assert not torch.equal(one.heads.start(EQUAL[0].path), other.heads.start(EQUAL[0].path))


def factors(bank: LoraBank) -> list[Tensor]:
    return [factor for pair in bank.factors.values() for factor in pair]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_never_counts(kind: str) -> None:
    hypernetwork = make(kind, GROUPED).double()
    wake(hypernetwork)
    states, mask = instructions(torch.float64)
    bank = hypernetwork(states, mask)
    more, longer = instructions(torch.float64, padding=4)
    more[:, :9] = states
    more[~longer] = 1e3
    for wanted, found in zip(factors(bank), factors(hypernetwork(more, longer)), strict=True):
        same(found, wanted)
    for task, length in enumerate((9, 2, 5)):
        one = slice(task, task + 1)
        alone = hypernetwork(states[one, :length], mask[one, :length])
        for wanted, found in zip(factors(bank), factors(alone), strict=True):
            same(found, wanted[one])
    tasks = [factors(bank.select(torch.tensor([task]))) for task in range(TASKS)]
    for one, two in zip(tasks[0], tasks[1], strict=True):
        assert (one - two).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_its_own(kind: str) -> None:
    hypernetwork = make(kind)
    wake(hypernetwork)
    bank = hypernetwork(*instructions())
    rows = [
        (a[0] - hypernetwork.heads.start(module), b[0].T) for module, (a, b) in bank.factors.items()
    ]  # every one a row of `rank`
    for part in (0, 1):
        flat = torch.cat([row[part] for row in rows])
        assert len(flat) == RANK * len(EQUAL)
        assert torch.cdist(flat, flat).fill_diagonal_(1.0).min() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_counts(kind: str) -> None:
    hypernetwork = make(kind).double()
    wake(hypernetwork)
    states, mask = instructions(torch.float64)
    states.requires_grad_()
    sum(factor.square().sum() for factor in factors(hypernetwork(states, mask))).backward()
    assert states.grad is not None
    assert states.grad[mask].abs().amax(-1).min() > 0
    assert not states.grad[~mask].any()


def test_a_learned_pooling_begins_as_the_mean() -> None:
    states, mask = instructions(torch.float64)
    mean, learned = make("pooled").double(), make("pooled attention").double()
    assert isinstance(mean, PooledHypernetwork)
    assert isinstance(learned, PooledHypernetwork)
    by_hand = torch.stack([states[task, : int(row.sum())].mean(0) for task, row in enumerate(mask)])
    same(mean.pool(states, mask), by_hand)
    same(learned.pool(states, mask), by_hand)
    wake(learned)
    assert (learned.pool(states, mask) - by_hand).abs().max() > 0.01


def test_a_layer_shares_its_network_between_query_and_value_and_with_no_other_layer() -> None:
    heads = RowHeads(target(GROUPED), width=D_MODEL, hidden=HIDDEN)
    assert heads.first.shape == (2, HIDDEN, D_MODEL)
    assert {key: tuple(head.shape) for key, head in heads.heads.items()} == {
        f"A_qv_{D_MODEL}": (2, D_MODEL, HIDDEN),
        "B_q_15": (2, 15, HIDDEN),
        "B_v_6": (2, 6, HIDDEN),
    }
    uneven = RowHeads(target(UNEVEN), width=D_MODEL, hidden=HIDDEN)
    assert {key: tuple(head.shape) for key, head in uneven.heads.items()} == {
        f"A_qv_{D_MODEL}": (1, D_MODEL, HIDDEN),
        "A_q_31": (1, 31, HIDDEN),
        f"A_v_{D_MODEL}": (1, D_MODEL, HIDDEN),
        "B_q_15": (2, 15, HIDDEN),
        "B_v_6": (1, 6, HIDDEN),
        "B_v_8": (1, 8, HIDDEN),
    }
    equal = RowHeads(target(EQUAL), width=D_MODEL, hidden=HIDDEN)
    assert set(equal.heads) == {f"A_qv_{D_MODEL}", "B_qv_15"}


def test_a_layers_parameters_reach_its_sites_alone() -> None:
    heads = RowHeads(target(UNEVEN), width=D_MODEL, hidden=HIDDEN)
    wake(heads)
    with torch.no_grad():
        for head in heads.heads.values():
            head.copy_(torch.randn(head.shape))
    features = torch.randn(TASKS, 1, 1, 1, 1, D_MODEL)

    def changed(parameter: Tensor, index: tuple[int, ...]) -> set[str]:
        before = heads(features)
        with torch.no_grad():
            parameter[index] += 1.0
        after = heads(features)
        return {
            f"{module}.{part}"
            for module in before.factors
            for part, old, new in zip("AB", before.factors[module], after.factors[module], strict=True)
            if not torch.equal(old, new)
        }

    layer_0 = {f"layer.0.{projection}.{part}" for projection in "qv" for part in "AB"}
    assert changed(heads.first, (0,)) == layer_0
    assert changed(heads.first, (1,)) == {name.replace("0", "1") for name in layer_0}
    assert changed(heads.heads["B_v_8"], (0,)) == {"layer.1.v.B"}
    assert changed(heads.heads["A_q_31"], (0,)) == {"layer.1.q.A"}
    assert changed(heads.heads["B_q_15"], (1,)) == {"layer.1.q.B"}
    assert changed(heads.heads[f"A_qv_{D_MODEL}"], (0,)) == {"layer.0.q.A", "layer.0.v.A"}
    assert changed(heads.id_embedding, (0, 1, 1, 2)) == {"layer.0.v.B"}


def test_the_row_heads_by_hand() -> None:
    """LoRA_l = MLP_l(features; id): gelu(W1_l x + id) W2, a row at a time."""
    heads = RowHeads(target(UNEVEN), width=D_MODEL, hidden=HIDDEN).double()
    wake(heads)
    features = torch.randn(TASKS, 2, 2, 2, RANK, D_MODEL, dtype=torch.float64)
    bank = heads(features)
    for module, head_a, head_b, at in (
        (UNEVEN[0], f"A_qv_{D_MODEL}", "B_q_15", 0),
        (UNEVEN[1], f"A_qv_{D_MODEL}", "B_v_6", 0),
        (UNEVEN[3], f"A_v_{D_MODEL}", "B_v_8", 0),
    ):
        projection = "qv".index(module.projection)
        for task in range(TASKS):
            for row in range(RANK):
                a_row, b_row = (
                    heads.heads[key][at]
                    @ nn.functional.gelu(
                        heads.first[module.layer] @ features[task, module.layer, projection, part, row]
                        + heads.id_embedding[module.layer, projection, part, row]
                    )
                    for part, key in enumerate((head_a, head_b))
                )
                same(bank.factors[module.path][0][task, row], heads.start(module.path)[row] + a_row)
                same(bank.factors[module.path][1][task, :, row], b_row)


def test_width_must_divide_among_the_heads() -> None:
    with pytest.raises(ValueError, match=r"expected a divisor of generator.width \(14\), got 4"):
        GeneratorSettings(kind="query", alpha=ALPHA, hidden=HIDDEN, width=WIDTH, heads=4)


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_a_narrower_type_are_read(kind: str) -> None:
    """The backbone may be in bf16 while what is trained stays in fp32."""
    hypernetwork = make(kind)
    wake(hypernetwork)
    states, mask = instructions(torch.bfloat16)
    for found, wanted in zip(
        factors(hypernetwork(states, mask)), factors(hypernetwork(states.float(), mask)), strict=True
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)
