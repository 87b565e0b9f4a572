"""The interface of all methods; ce, kd, bickd and their switches against values computed by hand."""

import math
import statistics

import pytest
import torch
from by_hand import ROUNDING, kl_of_logits, softmax

from bickd_kernels import bickd_loss, bilateral_loss
from training.methods import METHODS, Dimensions, Samples, make_method
from training.methods.bickd import BicKD
from training.methods.ce import CrossEntropy
from training.methods.crd import ContrastiveRepresentationDistillation
from training.methods.kd import KnowledgeDistillation
from training.methods.method import Method
from training.methods.standardization import standardize
from training.models.output import Output

STUDENT = [[1.0, -0.5, 2.0], [0.3, 0.1, -1.2]]
TEACHER = [[0.2, 1.5, -0.7], [2.2, -0.4, 0.9]]
TARGET = [2, 0]


def cross_entropy_by_hand(smoothing: float = 0.0) -> float:
    total = 0.0
    for row, label in zip(STUDENT, TARGET, strict=True):
        for c, p in enumerate(softmax(row, 1)):
            total -= ((1 - smoothing) * (c == label) + smoothing / len(row)) * math.log(p)
    return total / 2


def divergence_by_hand(
    temperature: float, student: list[list[float]] = STUDENT, teacher: list[list[float]] = TEACHER
) -> float:
    return sum(kl_of_logits(*rows, temperature) for rows in zip(student, teacher, strict=True)) / 2


def standardized_by_hand(rows: list[list[float]]) -> list[list[float]]:
    return [[(z - statistics.mean(row)) / (statistics.stdev(row) + 1e-7) for z in row] for row in rows]


def batch() -> tuple[Output, Output, Samples]:
    student, teacher = Output(torch.tensor(STUDENT, dtype=torch.float64)), Output(torch.tensor(TEACHER, dtype=torch.float64))
    return student, teacher, Samples(torch.tensor(TARGET), torch.tensor([0, 1]))


def any_batch(method: Method) -> tuple[Output, Output, Samples]:
    """A batch with features and the views that ``method`` needs; student features are narrower than the teacher's."""
    generator = torch.Generator().manual_seed(0)
    views = len(method.views(torch.zeros(4, 1, 6, 6))) // 4
    shapes = ((4 * views, 5), (4 * views, 6), (4 * views, 5), (4 * views, 8))
    x, f, y, g = (torch.randn(shape, generator=generator) for shape in shapes)
    student, teacher = Output(x.requires_grad_(), f.requires_grad_()), Output(y, g)
    method.set_up(Dimensions(6, 8, 5, torch.tensor([2, 0, 4, 0, 1, 3])))
    return student, teacher, Samples(torch.tensor([2, 0, 4, 1]), torch.tensor([0, 3, 2, 4]))


def test_ce_is_the_mean_negative_log_probability() -> None:
    student, _, samples = batch()
    loss, terms = CrossEntropy(ce_weight=3.0)(student, None, samples)
    assert terms["ce"].item() == pytest.approx(cross_entropy_by_hand(), rel=ROUNDING)
    assert loss.item() == pytest.approx(3 * cross_entropy_by_hand(), rel=ROUNDING)


def test_kd_sums_the_divergence_over_classes_and_averages_it_over_samples() -> None:
    loss, terms = KnowledgeDistillation()(*batch())
    assert terms["kd"].item() == pytest.approx(divergence_by_hand(4.0), rel=ROUNDING)
    assert loss.item() == pytest.approx(0.1 * cross_entropy_by_hand() + 0.9 * divergence_by_hand(4.0), rel=ROUNDING)


def test_bickd_is_the_sum_of_kd_and_the_bilateral_loss() -> None:
    student, teacher, samples = batch()
    loss, terms = BicKD()(student, teacher, samples)
    bilateral = bilateral_loss(student.logits, teacher.logits, samples.target, backend="reference")
    expected = 0.1 * cross_entropy_by_hand() + 0.9 * divergence_by_hand(4.0) + 4.0 * bilateral.item()
    assert loss.item() == pytest.approx(expected, rel=ROUNDING)
    assert set(terms) == {"ce", "kd", "class_wise", "sample_wise"}


def test_bickd_with_positives_by_sample_ignores_labels_in_its_bilateral_term() -> None:
    student, teacher, samples = batch()
    same_class = samples._replace(target=torch.tensor([1, 1]))
    by_sample, by_label = BicKD(ce_weight=0.0, positives="sample"), BicKD(ce_weight=0.0)
    loss, terms = by_sample(student, teacher, same_class)
    expected, sides = bilateral_loss(student.logits, teacher.logits, return_terms=True, backend="reference")
    assert loss.item() == pytest.approx(0.9 * divergence_by_hand(4.0) + 4.0 * expected.item(), rel=ROUNDING)
    assert terms["sample_wise"].item() == pytest.approx(sides.sample_wise.item(), rel=ROUNDING)
    assert loss.item() != pytest.approx(by_label(student, teacher, same_class)[0].item(), rel=1e-3)


def test_every_setting_of_bickd_reaches_the_loss() -> None:
    student, teacher, samples = batch()
    settings = {"ce_weight": 0.3, "kd_weight": 0.7, "kd_temperature": 3.0, "bilateral_weight": 2.0,
                "contrast_temperature": 0.4, "bilateral_temperature": 1.5, "class_wise_weight": 0.6,
                "sample_wise_weight": 1.7, "label_smoothing": 0.1, "positives": "sample",
                "similarity": "correlation"}  # fmt: skip
    usual = BicKD()(student, teacher, samples)[0].item()
    for name, value in settings.items():
        alone = bickd_loss(student.logits, teacher.logits, samples.target, **{name: value}, backend="reference").item()
        assert BicKD(**{name: value})(student, teacher, samples)[0].item() == pytest.approx(alone, rel=ROUNDING)
        # For two samples of different classes, the positives by sample are those by label.
        assert name == "positives" or alone != pytest.approx(usual, rel=1e-4)
    together = bickd_loss(student.logits, teacher.logits, samples.target, **settings, backend="reference").item()
    assert BicKD(**settings)(student, teacher, samples)[0].item() == pytest.approx(together, rel=ROUNDING)


def test_bickd_with_both_switches_standardizes_all_logits_except_in_the_cross_entropy() -> None:
    student, teacher, samples = batch()
    loss, terms = make_method("bickd", logit_standardization=True, label_smoothing=0.2)(student, teacher, samples)
    x, y = standardized_by_hand(STUDENT), standardized_by_hand(TEACHER)
    kd = divergence_by_hand(2.0, x, y)
    logits = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    bilateral = bilateral_loss(*logits, samples.target, backend="reference").item()
    assert terms["kd"].item() == pytest.approx(kd, rel=ROUNDING)
    assert loss.item() == pytest.approx(0.1 * cross_entropy_by_hand(0.2) + 9 * kd + 4 * bilateral, rel=ROUNDING)


def test_standardized_rows_match_the_formula_and_constant_rows_are_zero() -> None:
    expected = torch.tensor([*standardized_by_hand(STUDENT), [0.0, 0.0, 0.0]], dtype=torch.float64)
    rows = torch.tensor([*STUDENT, [7.0, 7.0, 7.0]], dtype=torch.float64)
    torch.testing.assert_close(standardize(rows), expected, rtol=ROUNDING, atol=0)


def test_kd_with_logit_standardization_has_its_published_weights() -> None:
    loss, terms = make_method("kd", logit_standardization=True)(*batch())
    kd = divergence_by_hand(2.0, standardized_by_hand(STUDENT), standardized_by_hand(TEACHER))
    assert terms["kd"].item() == pytest.approx(kd, rel=ROUNDING)
    assert loss.item() == pytest.approx(0.1 * cross_entropy_by_hand() + 9 * kd, rel=ROUNDING)


def test_a_given_setting_overrides_that_of_logit_standardization() -> None:
    loss, terms = make_method("kd", {"kd_weight": 5.0, "ce_weight": 0.0}, logit_standardization=True)(*batch())
    assert loss.item() == pytest.approx(5 * terms["kd"].item(), rel=ROUNDING)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_label_smoothing_mixes_the_uniform_distribution_into_the_targets_of_every_method(name: str) -> None:
    method = make_method(name, label_smoothing=0.3)
    student, teacher, samples = any_batch(method)
    _, terms = method(student, teacher if method.needs_teacher else None, samples)
    expected = 0.0
    for row, label in zip(student.logits[:4].tolist(), samples.target.tolist(), strict=True):
        for c, p in enumerate(softmax(row, 1)):
            expected -= (0.7 * (c == label) + 0.3 / 5) * math.log(p) / 4
    assert terms["ce"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_terms_are_detached_and_the_gradient_reaches_the_student(name: str) -> None:
    method = make_method(name)
    student, teacher, samples = any_batch(method)
    loss, terms = method(student, teacher if method.needs_teacher else None, samples)
    loss.backward()
    assert loss.shape == ()
    assert all(term.shape == () and not term.requires_grad for term in terms.values())
    reached = [student.logits, student.features] if method.needs_features else [student.logits]
    assert all(z is not None and z.grad is not None and z.grad.isfinite().all() and z.grad.any() for z in reached)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_searched_setting_exists_and_its_default_is_within_the_range(name: str) -> None:
    defaults = METHODS[name].__init__.__kwdefaults__
    assert "ce_weight" in METHODS[name].search
    for setting, (low, high) in METHODS[name].search.items():
        assert 0 < low < defaults[setting] < high, setting


@pytest.mark.parametrize("name", sorted(name for name, method in METHODS.items() if method.needs_teacher))
def test_a_method_with_a_teacher_refuses_to_run_without_one(name: str) -> None:
    method = make_method(name)
    student, _, samples = any_batch(method)
    with pytest.raises(ValueError, match="teacher must be the teacher's output, got None"):
        method(student, None, samples)


@pytest.mark.parametrize("name", sorted(name for name, method in METHODS.items() if method.needs_features))
@pytest.mark.parametrize("without", ["student", "teacher"])
def test_a_method_of_features_refuses_logits_alone(name: str, without: str) -> None:
    method = make_method(name)
    student, teacher, samples = any_batch(method)
    outputs = {"student": student, "teacher": teacher}
    outputs[without] = Output(outputs[without].logits)
    with pytest.raises(ValueError, match=f"{without} must have features"):
        method(*outputs.values(), samples)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nothing", {}, "method must be one of bickd, ce, crd, dist, dkd, kd, rkd, sskd, got 'nothing'"),
        ("kd", {"weight": 1.0}, "settings of method 'kd' must be of ce_weight, kd_weight, temperature, got 'weight'"),
        ("ce", {"logit_standardization": True}, "settings of method 'ce' must be of ce_weight, got 'logit_standardization'"),
        ("ce", {"ce_weight": math.nan}, "ce_weight must be finite and not negative, got nan"),
        ("kd", {"kd_weight": -1.0}, "kd_weight must be finite and not negative, got -1.0"),
        ("kd", {"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ("bickd", {"positives": "class"}, 'positives must be "label", "sample" or None, got \'class\''),
        ("bickd", {"contrast_temperature": 0.01}, "contrast_temperature must be >= 0.02, got 0.01"),
        ("rkd", {"angle_weight": math.inf}, "angle_weight must be finite and not negative, got inf"),
        ("crd", {"negatives": 0}, "negatives must be at least 1, got 0"),
        ("crd", {"embedding": 0}, "embedding must be at least 1, got 0"),
        ("crd", {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ("crd", {"temperature": -0.1}, "temperature must be positive and finite, got -0.1"),
        ("sskd", {"head_epochs": 0}, "head_epochs must be at least 1, .* got 0"),
        ("sskd", {"kept_share": 1.5}, r"kept_share must be in \[0, 1\], got 1.5"),
        ("sskd", {"similarity_temperature": 0.0}, "similarity_temperature must be positive and finite, got 0.0"),
        ("dkd", {"beta": -8.0}, "beta must be finite and not negative, got -8.0"),
        ("dkd", {"warmup_epochs": -1}, "warmup_epochs must be finite and not negative, got -1"),
        ("dist", {"gamma": math.nan}, "gamma must be finite and not negative, got nan"),
        ("kd", {"temperature": "warm"}, "temperature must be a number, got 'warm'"),
        ("kd", {"temperature": True}, "temperature must be a number, got True"),
        ("bickd", {"kd_weight": "nan"}, "kd_weight must be a number, got 'nan'"),
        ("bickd", {"global_batch": 0}, "global_batch must be true or false, got 0"),
        ("bickd", {"similarity": 1}, "similarity must be a name, got 1"),
        ("crd", {"negatives": 64.5}, "negatives must be a whole number, got 64.5"),
        ("crd", {"negatives": math.inf}, "negatives must be a whole number, got inf"),
        ("sskd", {"head_epochs": 2.5}, "head_epochs must be a whole number, got 2.5"),
    ],
)
def test_wrong_settings_are_refused_by_name(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_method(name, settings)


def test_whole_numbers_may_be_written_as_floats() -> None:
    method = make_method("crd", {"negatives": 1e3})
    assert isinstance(method, ContrastiveRepresentationDistillation)
    assert repr(method.negatives) == "1000"


def test_logit_standardization_is_refused_by_the_methods_that_have_none() -> None:
    for name in ("ce", "rkd", "crd", "sskd", "dist"):
        with pytest.raises(ValueError, match=f"left out for method '{name}'; methods that have it: bickd, dkd, kd"):
            make_method(name, logit_standardization=True)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_label_smoothing_outside_0_to_1_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        make_method("ce", label_smoothing=smoothing)
