"""Contrastive representation distillation against its formulas; its negatives, its banks, and several processes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from together import together
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from training.methods import Dimensions, Samples, make_method
from training.methods import memory_bank as memory_bank_module
from training.methods.crd import ContrastiveRepresentationDistillation
from training.methods.gathering import rows_of_all
from training.methods.memory_bank import MemoryBank
from training.methods.negatives import OtherClasses
from training.models.output import Output

LABELS = torch.tensor([1, 0, 2, 2, 0, 1, 0, 2, 0])
CLASSES, STUDENT_WIDTH, TEACHER_WIDTH = 3, 4, 5


def made(labels: Tensor = LABELS, **settings: Any) -> ContrastiveRepresentationDistillation:
    """A method in float64 with a few negatives."""
    torch.manual_seed(0)
    method = make_method("crd", {"negatives": 6, "embedding": 3, **settings})
    assert isinstance(method, ContrastiveRepresentationDistillation)
    method.set_up(Dimensions(STUDENT_WIDTH, TEACHER_WIDTH, CLASSES, labels))
    return method.double()


def batch(index: list[int], seed: int = 0) -> tuple[Output, Output, Samples]:
    generator = torch.Generator().manual_seed(seed)
    x, f, y, g = (
        torch.randn(len(index), width, generator=generator, dtype=torch.float64)
        for width in (CLASSES, STUDENT_WIDTH, CLASSES, TEACHER_WIDTH)
    )
    samples = Samples(LABELS[index], torch.tensor(index))
    return Output(x.requires_grad_(), f.requires_grad_()), Output(y, g), samples


def unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    return [value / length for value in vector]


def embedded(layer: torch.nn.Linear, features: Tensor) -> list[list[float]]:
    rows = []
    for feature in features.tolist():
        products = [sum(w * f for w, f in zip(row, feature, strict=True)) for row in layer.weight.tolist()]
        rows.append(unit([a + b for a, b in zip(products, layer.bias.tolist(), strict=True)]))
    return rows


def nce_by_hand(
    embeddings: list[list[float]], bank: list[list[float]], index: list[list[int]], normalizer: float | None = None
) -> tuple[float, float]:
    """The loss and the normalizer, which is estimated from these embeddings if none is given."""
    exponentials = [
        [math.exp(sum(a * b for a, b in zip(embedding, bank[i], strict=True)) / 0.07) for i in row]
        for embedding, row in zip(embeddings, index, strict=True)
    ]
    flat = [value for row in exponentials for value in row]
    z = sum(flat) / len(flat) * len(bank) if normalizer is None else normalizer
    noise, total = (len(index[0]) - 1) / len(bank), 0.0
    for row in exponentials:
        total -= math.log(row[0] / z / (row[0] / z + noise))
        total -= sum(math.log(noise / (value / z + noise)) for value in row[1:])
    return total / len(embeddings), z


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The negatives that the sampler has drawn."""
    results = []
    forward = OtherClasses.forward

    def watched(self: OtherClasses, target: Tensor, count: int) -> Tensor:
        results.append(forward(self, target, count))
        return results[-1]

    monkeypatch.setattr(OtherClasses, "forward", watched)
    return results


def test_loss_and_normalizers_match_the_formulas_in_the_first_batch_and_the_next(drawn: list[Tensor]) -> None:
    method = made()
    normalizers: list[float | None] = [None, None]
    for step, index in enumerate([[3, 0, 4], [8, 3, 1, 5]]):
        banks = [bank.vectors.tolist() for bank in (method.teacher_bank, method.student_bank)]
        student, teacher, samples = batch(index, step)
        loss, terms = method(student, teacher, samples)
        s = embedded(method.student_embedding, student.features)
        t = embedded(method.teacher_embedding, teacher.features)
        contrasted = [[own, *others] for own, others in zip(index, drawn[step].tolist(), strict=True)]
        losses = [nce_by_hand(e, bank, contrasted, z) for e, bank, z in zip((s, t), banks, normalizers, strict=True)]
        normalizers = [z for _, z in losses]
        expected = sum(value for value, _ in losses)
        ce = -torch.log_softmax(student.logits, dim=1)[range(len(index)), samples.target].mean().item()
        assert terms["crd"].item() == pytest.approx(expected, rel=1e-9)
        assert loss.item() == pytest.approx(ce + 0.8 * expected, rel=1e-9)
    saved = [method.teacher_bank.log_normalizer.exp().item(), method.student_bank.log_normalizer.exp().item()]
    assert saved == pytest.approx(normalizers, rel=1e-6)


def test_a_batch_moves_only_the_vectors_of_its_own_samples() -> None:
    method = made(momentum=0.3)
    before = [bank.vectors.tolist() for bank in (method.student_bank, method.teacher_bank)]
    student, teacher, samples = batch([5, 2])
    method(student, teacher, samples)
    sides = (
        (method.student_bank, method.student_embedding, student.features),
        (method.teacher_bank, method.teacher_embedding, teacher.features),
    )
    for old, (bank, layer, features) in zip(before, sides, strict=True):
        expected = [list(row) for row in old]
        for position, embedding in zip([5, 2], embedded(layer, features), strict=True):
            expected[position] = unit([0.3 * a + 0.7 * b for a, b in zip(old[position], embedding, strict=True)])
        torch.testing.assert_close(bank.vectors, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_banks_and_normalizers_do_not_change_in_evaluation_or_without_a_gradient() -> None:
    method = made()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.eval()
    loss, _ = method(*batch([5, 2]))
    method.train()
    with torch.no_grad():
        method(*batch([5, 2]))
    assert loss.isfinite()
    assert math.isnan(method.student_bank.log_normalizer)
    torch.testing.assert_close(method.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    method(*batch([5, 2]))
    assert not math.isnan(method.student_bank.log_normalizer)
    assert not torch.equal(method.student_bank.vectors, before["student_bank.vectors"])


@pytest.mark.parametrize("count", [2000, 30])
@pytest.mark.parametrize("block", [1, 5000])
def test_blocks_have_the_gradient_of_the_formula_whether_vectors_or_products_are_gathered(
    count: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_bank_module, "BLOCK_ELEMENTS", block)
    torch.manual_seed(1)
    bank = MemoryBank(count, 8, momentum=0.5, temperature=0.2).double()
    embeddings = torch.nn.functional.normalize(torch.randn(6, 8, dtype=torch.float64), dim=1).requires_grad_()
    index = torch.randint(count, (6, 11))
    ratio = torch.exp(torch.einsum("bd,bkd->bk", embeddings, bank.vectors[index]) / 0.2) / 7.0
    d = ratio / (ratio + 10 / count)
    whole = -(torch.log(d[:, 0]) + torch.log(1 - d[:, 1:]).sum(dim=1)).mean()
    (expected,) = torch.autograd.grad(3 * whole, embeddings)
    loss = bank.contrast(embeddings, index, torch.tensor(7.0).double().log())
    # As in training, the bank changes between the forward and the backward pass.
    bank.update(torch.arange(6), torch.ones(6, 8).double())
    (3 * loss).backward()
    assert loss.item() == pytest.approx(whole.item(), rel=1e-9)
    torch.testing.assert_close(embeddings.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [3000, 50])
def test_no_tensor_is_larger_than_a_block(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 20 * 10 * 8
    monkeypatch.setattr(memory_bank_module, "BLOCK_ELEMENTS", most)
    bank = MemoryBank(count, 8, momentum=0.5, temperature=0.07)
    embeddings, index = torch.randn(64, 8, requires_grad=True), torch.randint(count, (64, 20))
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            # The transposed bank is a view and allocates nothing.
            if isinstance(result, Tensor) and result.untyped_storage().data_ptr() != bank.vectors.data_ptr():
                largest = max(largest, result.numel())
            return result

    with Watch():
        means = bank.log_means(embeddings, index)
        bank.contrast(embeddings, index, means.mean()).backward()
    assert 0 < largest <= most


def test_negatives_are_never_of_the_own_class_and_uniform_over_all_others() -> None:
    torch.manual_seed(0)
    labels = torch.randint(5, (40,)).clamp(min=1)
    target = torch.tensor([0, 1, 2, 3, 4, 2])
    count = 20_000
    drawn = OtherClasses(labels)(target, count)
    assert drawn.shape == (6, count)
    for row, label in zip(drawn, target.tolist(), strict=True):
        frequencies = torch.bincount(row, minlength=40).double()
        others = labels != label
        assert frequencies[~others].sum() == 0
        expected = count / int(others.sum())
        degrees = int(others.sum()) - 1
        chi_square = ((frequencies[others] - expected) ** 2 / expected).sum().item()
        # Five standard deviations of the chi-square distribution, to both sides.
        assert abs(chi_square - degrees) < 5 * math.sqrt(2 * degrees)


def test_negatives_need_a_second_class() -> None:
    with pytest.raises(ValueError, match="labels must be of at least 2 classes, got 1"):
        OtherClasses(torch.tensor([3, 3, 3]))


def test_initial_vectors_are_random_with_length_about_one() -> None:
    torch.manual_seed(0)
    vectors = MemoryBank(4000, 128, momentum=0.5, temperature=0.07).vectors
    assert vectors.abs().max() <= math.sqrt(3 / 128)
    assert vectors.norm(dim=1).mean().item() == pytest.approx(1.0, abs=0.01)
    assert vectors.mean().abs() < 1e-3


def test_the_size_of_the_banks_is_printed_before_they_are_allocated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr("training.methods.crd.MemoryBank", refuse)
    method = ContrastiveRepresentationDistillation()
    assert method.bank_bytes(1_281_167) == 1_281_167 * 128 * 4 * 2
    with pytest.raises(MemoryError):
        method.set_up(Dimensions(4, 5, 3, torch.arange(3).repeat(1000)))
    assert capsys.readouterr().out == "crd: two memory banks of 3000 x 128 float32, 3.1 MB\n"


def test_a_state_contains_banks_and_normalizers() -> None:
    method, other = made(), made()
    method(*batch([5, 2]))
    other(*batch([1, 3], seed=7))
    other.load_state_dict(method.state_dict())
    assert not math.isnan(method.state_dict()["teacher_bank.log_normalizer"])
    results = []
    for each in (method, other):
        torch.manual_seed(3)
        results.append([each(*batch([0, 4, 8], seed=2))[0].detach(), each.state_dict()])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_normalizers_are_estimated_again_after_loading_a_state_from_before_the_first_batch() -> None:
    method = made()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    torch.manual_seed(3)
    method(*batch([5, 2]))
    first = method.student_bank.log_normalizer.clone()
    method.load_state_dict(state)
    torch.manual_seed(3)
    method(*batch([5, 2]))
    assert torch.equal(method.student_bank.log_normalizer, first)


SHARES = [[[3, 0, 4], [2, 7]], [[8, 1], [5, 6, 0]]]
"""The samples of two steps by process, in unequal numbers."""


def work(rank: int) -> tuple[dict[str, Tensor], list[list[int]]]:
    """The banks after both steps, and rows that were gathered."""
    method = made()
    torch.manual_seed(rank)
    for step, shares in enumerate(SHARES):
        student, teacher, samples = batch(shares[rank], 10 * step + rank)
        method(student, teacher, samples)[0].backward()
    (gathered,) = rows_of_all(torch.full((rank + 1, 2), rank))
    return method.state_dict(), gathered.tolist()


def test_two_processes_have_identical_banks_with_the_samples_of_both(tmp_path: Path) -> None:
    (first, first_rows), (second, second_rows) = together(2, work, folder=tmp_path)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert first_rows == second_rows == [[0, 0], [1, 1], [1, 1]]
    # Nothing was trained: the embeddings are still the initial ones, and every vector can be computed by hand.
    method = made()
    expected = method.student_bank.vectors.tolist()
    for step, shares in enumerate(SHARES):
        for rank, index in enumerate(shares):
            student, _, _ = batch(index, 10 * step + rank)
            for i, embedding in zip(index, embedded(method.student_embedding, student.features), strict=True):
                expected[i] = unit([(a + b) / 2 for a, b in zip(expected[i], embedding, strict=True)])
    vectors = first["student_bank.vectors"]
    torch.testing.assert_close(vectors, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_the_normalizer_of_two_processes_is_estimated_from_all_their_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub replaces the other process, whose mean exponentials are e and e^3."""
    method = made()
    own: list[Tensor] = []

    def gather(*tensors: Tensor) -> list[Tensor]:
        if len(tensors) > 1:
            return list(tensors)
        (means,) = tensors
        own.append(means.exp())
        return [torch.cat((means, torch.tensor([1.0, 3.0], dtype=means.dtype)))]

    monkeypatch.setattr("training.methods.crd.rows_of_all", gather)
    method(*batch([5, 2, 1]))
    expected = [(sum(exponentials.tolist()) + math.e + math.e**3) / 5 * len(LABELS) for exponentials in own]
    found = [method.teacher_bank.log_normalizer.exp().item(), method.student_bank.log_normalizer.exp().item()]
    assert found == pytest.approx(expected, rel=1e-9)
