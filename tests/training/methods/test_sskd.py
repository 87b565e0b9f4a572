"""SSKD: its views, both of its stages against their formulas, and which rows the student learns from."""

import math

import pytest
import torch
from by_hand import ROUNDING, kl_of_logits, softmax
from torch import Tensor

from training.methods import Dimensions, Samples, make_method
from training.methods.sskd import SelfSupervisedKnowledgeDistillation, kept_rows
from training.models.output import Output

B, CLASSES = 3, 4


def made(**settings: float) -> SelfSupervisedKnowledgeDistillation:
    torch.manual_seed(0)
    method = make_method("sskd", settings)
    assert isinstance(method, SelfSupervisedKnowledgeDistillation)
    method.set_up(Dimensions(5, 6, CLASSES, torch.arange(CLASSES)))
    return method.double()


def batch() -> tuple[Output, Output, Samples]:
    generator = torch.Generator().manual_seed(1)
    x, f, y, g = (torch.randn(4 * B, width, generator=generator, dtype=torch.float64) for width in (CLASSES, 5, CLASSES, 6))
    return Output(x.requires_grad_(), f.requires_grad_()), Output(y, g), Samples(torch.tensor([2, 0, 3]), torch.arange(B))


def through_head(head: torch.nn.Sequential, feature: list[float]) -> list[float]:
    """Linear, ReLU, Linear, with explicit sums."""
    hidden, last = head[0], head[2]
    for layer, rectified in ((hidden, True), (last, False)):
        feature = [
            sum(w * f for w, f in zip(row, feature, strict=True)) + bias
            for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        if rectified:
            feature = [max(value, 0.0) for value in feature]
    return feature


def similarity_by_hand(head: torch.nn.Sequential, features: Tensor) -> list[list[float]]:
    outputs = [through_head(head, row) for row in features.tolist()]
    return [
        [sum(a * b for a, b in zip(r, u, strict=True)) / (math.hypot(*r) * math.hypot(*u)) for u in outputs[:B]]
        for r in outputs[B:]
    ]


def kept_by_hand(scores: list[list[float]], share: float) -> list[int]:
    """All correct rows, then the wrong ones with the best ranks."""
    ranks = [sorted(row, reverse=True).index(row[i % len(row)]) for i, row in enumerate(scores)]
    wrong = sorted((i for i, rank in enumerate(ranks) if rank > 0), key=lambda i: ranks[i])
    return [i for i, rank in enumerate(ranks) if rank == 0] + wrong[: int(share * len(wrong))]


def test_views_are_the_batch_upright_and_rotated_by_90_180_and_270_degrees() -> None:
    images = torch.arange(2 * 1 * 2 * 2).reshape(2, 1, 2, 2).float()
    first = [image[0].tolist() for image in made().views(images)[::2]]
    assert first == [[[0, 1], [2, 3]], [[1, 3], [0, 2]], [[3, 2], [1, 0]], [[2, 0], [3, 1]]]
    second = made().views(images)[1::2, 0]
    assert second.tolist() == [[[value + 4 for value in row] for row in image] for image in first]


def test_views_of_images_that_are_not_square_keep_height_and_width() -> None:
    images = torch.tensor([[[[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 8.0]]]])
    views = made().views(images)
    assert views.shape == (4, 1, 2, 4)
    assert torch.equal(views[0], images[0])
    assert views[2, 0].tolist() == [[8.0, 8.0, 0.0, 0.0]] * 2
    # Rotated, the bright half is above or below, and resizing leaves it there.
    assert views[1, 0].tolist() == [[8.0] * 4, [0.0] * 4]
    assert views[3, 0].tolist() == [[0.0] * 4, [8.0] * 4]


@pytest.mark.parametrize(("epochs", "milestones"), [(60, (30, 45)), (8, (4, 6)), (4, (2, 3)), (2, (1,)), (1, ())])
def test_the_first_stage_has_its_milestones_in_proportion(epochs: int, milestones: tuple[int, ...]) -> None:
    assert made(head_epochs=epochs).first_stage == (epochs, 0.05, milestones)


def test_the_first_stage_matches_every_rotated_image_to_its_own_upright_one() -> None:
    method, (_, teacher, samples) = made(), batch()
    assert teacher.features is not None
    features = teacher.features.requires_grad_()
    loss, terms = method.first_stage_loss(Output(teacher.logits, features), samples)
    scores = similarity_by_hand(method.teacher_head, features)
    expected = -sum(math.log(softmax(row, 1.0)[i % B]) for i, row in enumerate(scores)) / (3 * B)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert [term.item() for term in terms.values()] == [loss.item()]
    loss.backward()
    trained = {id(parameter) for parameter in method.first_stage_parameters()}
    for name, parameter in method.named_parameters():
        assert (id(parameter) in trained) == name.startswith("teacher_head.") == (parameter.grad is not None)
    assert features.grad is None


def test_training_the_first_stage_lowers_its_loss() -> None:
    method, (_, teacher, samples) = made(), batch()
    optimizer = torch.optim.SGD(method.first_stage_parameters(), lr=0.5)
    losses = []
    for _ in range(100):
        loss, _ = method.first_stage_loss(teacher, samples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("share", [0.0, 0.75, 1.0])
def test_the_second_stage_matches_the_formulas(share: float) -> None:
    method, (student, teacher, samples) = made(kept_share=share), batch()
    loss, terms = method(student, teacher, samples)
    x, y = student.logits.tolist(), teacher.logits.tolist()
    ce = -sum(math.log(softmax(x[a], 1.0)[label]) for a, label in enumerate(samples.target.tolist())) / B
    kd = sum(kl_of_logits(x[a], y[a], 4.0) for a in range(B)) / B
    transformed = sum(kl_of_logits(x[a], y[a], 4.0) for a in range(B, 4 * B)) / (3 * B)
    assert student.features is not None
    assert teacher.features is not None
    s = similarity_by_hand(method.student_head, student.features)
    t = similarity_by_hand(method.teacher_head, teacher.features)
    kept = kept_by_hand(t, share)
    assert len(kept) == {0.0: 3, 0.75: 7, 1.0: 9}[share]
    similarity = sum(kl_of_logits(s[i], t[i], 0.5) for i in kept) / len(kept)
    by_hand = {"ce": ce, "kd": kd, "transformed": transformed, "similarity": similarity}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(by_hand, rel=ROUNDING)
    assert loss.item() == pytest.approx(0.1 * ce + 0.9 * kd + 2.7 * transformed + 10 * similarity, rel=ROUNDING)


def test_the_second_stage_trains_only_the_student_and_its_head() -> None:
    method, (student, teacher, samples) = made(), batch()
    method(student, teacher, samples)[0].backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == name.startswith("student_head."), name
    assert student.features is not None
    assert student.features.grad is not None
    assert student.features.grad.any()


def test_kept_rows_are_the_correct_ones_and_the_best_ranked_share_of_the_wrong_ones() -> None:
    # Nine rows whose own columns are 0, 1, 2, 0, 1, 2, 0, 1, 2, with ranks 0, 2, 1, 1, 0, 2, 2, 1, 1.
    scores = torch.tensor(
        [
            [0.9, 0.1, 0.2], [0.5, 0.1, 0.2], [0.9, 0.1, 0.2], [0.5, 0.6, 0.1], [0.1, 0.8, 0.2],
            [0.9, 0.5, 0.2], [0.1, 0.4, 0.2], [0.1, 0.4, 0.6], [0.9, 0.1, 0.3],
        ]
    )  # fmt: skip
    right, second, last = {0, 4}, {2, 3, 7, 8}, {1, 5, 6}
    rows = {share: set(kept_rows(scores, share).nonzero()[:, 0].tolist()) for share in (0.0, 0.6, 0.75, 1.0)}
    assert rows[0.0] == right
    assert rows[0.6] == right | second
    assert right | second < rows[0.75]
    assert len(rows[0.75]) == 2 + 5
    assert rows[1.0] == right | second | last


def test_without_a_row_to_keep_the_similarity_term_is_zero_with_a_finite_gradient() -> None:
    method, (student, teacher, samples) = made(kept_share=0.0), batch()
    assert teacher.features is not None
    upright = teacher.features[:B]
    # Every rotated image looks like another upright one.
    turned = Output(teacher.logits, torch.cat((upright, *[upright.roll(1, 0)] * 3)))
    loss, terms = method(student, turned, samples)
    loss.backward()
    assert terms["similarity"].item() == 0
    assert student.features is not None
    assert student.features.grad is not None
    assert not student.features.grad.any()


def test_a_batch_of_one_image_has_finite_losses_in_both_stages() -> None:
    method, (student, teacher, samples) = made(), batch()
    rows = torch.arange(4) * B
    one = [Output(z.logits.detach()[rows].requires_grad_(), z.features.detach()[rows]) for z in (student, teacher)]
    single = Samples(samples.target[:1], samples.index[:1])
    loss, terms = method(*one, single)
    loss.backward()
    assert loss.isfinite()
    assert terms["similarity"].item() == pytest.approx(0, abs=1e-12)
    assert one[0].logits.grad is not None
    assert one[0].logits.grad.isfinite().all()
    assert method.first_stage_loss(one[1], single)[0].item() == pytest.approx(0, abs=1e-12)
