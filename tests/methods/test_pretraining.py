"""Pretraining on pieces of documents: who reads which piece, and that it depends on seed and document alone."""

import pytest
import torch

from tagi.data.pretraining import Document, cut
from tagi.methods.pretraining import Pretraining
from tagi.methods.tagi import TAGI
from tests.models import END, fresh_generator, tiny_generator, tokenizer, words

LENGTHS = (9, 23, 14, 31)
DOCUMENTS = [Document(100 + at, words(at, length)) for at, length in enumerate(LENGTHS)]
LIMIT = 25
EOS = tokenizer().convert_tokens_to_ids(END)


def ids_of(document: Document) -> list[int]:
    ids: list[int] = tokenizer()(document.text, add_special_tokens=False)["input_ids"]
    return ids[:LIMIT]


def kept(ids: torch.Tensor, mask: torch.Tensor) -> list[int]:
    return list(ids[mask].tolist())


@pytest.mark.parametrize("parts", [3, 4])
def test_the_parts_go_where_the_paper_says(parts: int) -> None:
    stage = Pretraining(TAGI(tiny_generator()), max_tokens=LIMIT, parts=parts, seed=7)
    batch = stage.collate(DOCUMENTS)
    assert batch["rows"].tolist() == [0, 1, 2, 3]
    for row, document in enumerate(DOCUMENTS):
        pieces = cut(ids_of(document), parts, 7, document.index)
        read = [*pieces[0], *(pieces[3] if parts == 4 else [])]
        # A target ends where its document does, unless the document goes on beyond the limit or in D.
        end = [EOS] if parts == 3 and LENGTHS[row] <= LIMIT else []
        assert kept(batch["instruction_ids"][row], batch["instruction_mask"][row]) == [*read, EOS]
        assert kept(batch["input_ids"][row], batch["input_mask"][row]) == [*pieces[1], EOS]
        assert kept(batch["labels"][row], batch["labels"][row] != -100) == [*pieces[2], *end]


def test_cuts_depend_on_seed_and_document_alone() -> None:
    method = TAGI(tiny_generator())
    one, other = (Pretraining(method, max_tokens=LIMIT, seed=seed) for seed in (1, 2))
    whole = one.collate(DOCUMENTS)["labels"]
    for row, document in enumerate(DOCUMENTS):
        alone = one.collate([document])["labels"][0]
        assert alone.tolist() == whole[row, : len(alone)].tolist()
    assert one.collate(DOCUMENTS)["labels"].tolist() != other.collate(DOCUMENTS)["labels"].tolist()
    again = [Document(document.index + 1, document.text) for document in DOCUMENTS]
    assert one.collate(again)["labels"].tolist() != whole.tolist()


def test_the_loss_is_cross_entropy_of_the_target_piece() -> None:
    stage = Pretraining(TAGI(tiny_generator()), max_tokens=LIMIT).eval()
    batch = stage.collate(DOCUMENTS)
    terms = {name: term.detach() for name, term in stage(**batch).items()}
    logits, _ = stage.method.generator(**batch)  # type: ignore[operator, union-attr]
    chosen = logits.detach().log_softmax(-1).gather(-1, batch["labels"].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    expected = -chosen[batch["labels"] != -100].mean()
    assert float(terms["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert set(terms) == {"loss", "prediction"}


def test_the_hypernetwork_is_what_learns() -> None:
    stage = Pretraining(TAGI(fresh_generator()), max_tokens=LIMIT)
    stage(**stage.collate(DOCUMENTS))["loss"].backward()
    trained = stage.trained_tensors()
    assert all(name.startswith(("method.generator.hypernetwork", "method.generator.fusion")) for name in trained)
    assert any(tensor.grad is not None and bool(tensor.grad.any()) for tensor in trained.values())
