"""Variants of methods: how their text is read and which texts are refused; settings of a comparison and their checks."""

from pathlib import Path
from typing import Any

import pytest

from training.command_line import parse
from training.compare.comparison import Comparison, Variant, parse_variant
from training.methods import METHODS


@pytest.mark.parametrize(
    ("text", "method", "settings", "standardized"),
    [
        ("kd", "kd", {}, False),
        ("kd:kd_weight=1e1,temperature=2.5", "kd", {"kd_weight": 10.0, "temperature": 2.5}, False),
        (
            "bickd:class_wise_weight=0, sample_wise_weight=0",
            "bickd",
            {"class_wise_weight": 0, "sample_wise_weight": 0},
            False,
        ),
        ("bickd:positives=sample", "bickd", {"positives": "sample"}, False),
        ("kd:logit_standardization=true,ce_weight=1", "kd", {"ce_weight": 1}, True),
        ("kd:logit_standardization=false", "kd", {}, False),
    ],
)
def test_a_variant_is_a_method_with_settings(text: str, method: str, settings: dict[str, Any], standardized: bool) -> None:
    assert parse_variant(text) == Variant(text, method, settings, standardized)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "method must be one of"),
        ("kdd", "method must be one of .*got 'kdd'"),
        ("kd:", "METHOD:NAME=VALUE.*got 'kd:'"),
        ("kd:kd_weight", "METHOD:NAME=VALUE.*got 'kd:kd_weight'"),
        ("kd:kd_weight=", "METHOD:NAME=VALUE"),
        ("kd:kd_weight=1,kd_weight=2", "sets kd_weight twice"),
        ("kd:weight=1", "settings of method 'kd' must be of .*got 'weight'"),
        ("kd:kd_weight=-1", "kd_weight must be finite and not negative, got -1"),
        ("kd:kd_weight=nan", "kd_weight must be finite"),
        ("kd:kd_weight=much", "'kd:kd_weight=much' is invalid"),
        ("ce:logit_standardization=true", "logit_standardization must be left out for method 'ce'"),
        ("kd:logit_standardization=1", "must be true or false, got 1"),
    ],
)
def test_an_invalid_variant_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_variant(text)


def test_fixed_and_drawn_settings_override_the_published_ones() -> None:
    plain = parse_variant("kd").all_settings()
    assert plain == {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4.0}
    switched = parse_variant("kd:logit_standardization=true,ce_weight=1")
    published = METHODS["kd"].standardized
    assert published is not None
    assert published["temperature"] != plain["temperature"]
    assert switched.all_settings() == {**plain, **published, "ce_weight": 1}
    assert switched.all_settings({"kd_weight": 5.0})["kd_weight"] == 5.0
    assert set(switched.search) == set(METHODS["kd"].search) - {"ce_weight"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ()}, "methods must name at least one"),
        ({"methods": ("kd", "ce", "kd")}, "methods must be distinct, got kd more than once"),
        ({"methods": ("kdd",)}, "methods: 'kdd' is invalid"),
        ({"seeds": 0}, r"seeds must be .*in \[1, 100\], got 0"),
        ({"seeds": 101}, r"seeds must be .*in \[1, 100\], got 101"),
        ({"tune": 1}, "tune must be 0 or at least 2 .*got 1"),
        ({"tune": -2}, "tune must be 0 or at least 2"),
        ({"tune": 4, "held_out": 0.0}, "tune needs a validation split .*held_out must be above 0, got 0"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"teacher_epochs": 0}, "teacher_epochs must be at least 1, got 0"),
        ({"teacher_checkpoint": Path("nowhere.pt")}, "teacher_checkpoint must be a file, got nowhere.pt"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"student": "cnn_huge"}, "student must be one of .*got 'cnn_huge'"),
        ({"teacher": "cnn_huge"}, "got 'cnn_huge'"),
        ({"dataset": "digits"}, "dataset must be one of .*got 'digits'"),
        ({"schedule": "step"}, "milestones must be given"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_trained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Comparison(**settings)


def test_every_run_has_the_settings_of_the_comparison() -> None:
    comparison = Comparison(
        epochs=7, batch_size=32, accumulate=2, learning_rate=0.3, schedule="step", milestones=(3, 5), label_smoothing=0.1,
        held_out=0.3, teacher="cnn_large", teacher_epochs=9, workers=3,
    )  # fmt: skip
    student = comparison.student_config(parse_variant("kd:kd_weight=2"), {"ce_weight": 0.3}, 4, Path("t.pt"), Path("o"))
    teacher = comparison.teacher_config(Path("o"))
    for config in (student, teacher):
        assert (config.batch_size, config.accumulate, config.learning_rate) == (32, 2, 0.3)
        assert (config.schedule, config.milestones, config.label_smoothing) == ("step", (3, 5), 0.1)
        assert (config.held_out, config.workers) == (0.3, 3)
    assert (teacher.epochs, teacher.method, teacher.student, teacher.seed) == (9, "ce", "cnn_large", 100)
    assert (student.epochs, student.method, student.student, student.seed) == (7, "kd", "cnn_small", 4)
    assert (student.teacher, student.teacher_checkpoint) == ("cnn_large", Path("t.pt"))
    assert student.settings == {"kd_weight": 2, "ce_weight": 0.3}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--methods", "ce", "kd:kd_weight=1,ce_weight=2", "--seeds", "2"], ("ce", "kd:kd_weight=1,ce_weight=2")),
        (["--seeds", "2", "--methods", "ce"], ("ce",)),
        (["--methods=kd:kd_weight=1", "kd", "--seeds", "2"], ("kd:kd_weight=1", "kd")),
        (["--methods", '["ce"]', "--seeds=2"], ("ce",)),
    ],
)
def test_methods_may_be_separate_arguments_or_one_list(arguments: list[str], expected: tuple[str, ...]) -> None:
    comparison = parse(Comparison, arguments, description="")
    assert (comparison.methods, comparison.seeds) == (expected, 2)
