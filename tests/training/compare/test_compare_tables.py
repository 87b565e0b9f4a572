"""The results of made-up runs, as tables, notes and JSON, against values computed by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.compare import plots, tables
from training.compare.comparison import Comparison, parse_variant
from training.compare.plots import mean_curve
from training.compare.results import Results, as_json, load_results
from training.compare.runs import Run, TeacherFile, note_end, note_launch, read_outcome, report_run, trial_run
from training.compare.tuning import trials

TEACHER = TeacherFile(Path("teacher.pt"), "content")


def finish(run: Run, test: float, best: float = 0.0, seconds: float = 1.0, **others: Any) -> None:
    result = {
        "test_accuracy": test, "best_test_accuracy": best, "validation_accuracy": 50.0, "seconds": seconds, "steps": 100,
        "first_stage_seconds": 0.0, "teacher_accuracy": 81.25, **others,
    }  # fmt: skip
    epochs = [{"epoch": 1, "test_accuracy": test / 2, "seconds": 2.0}, {"epoch": 2, "test_accuracy": test, "seconds": 3.0}]
    run.folder.mkdir(parents=True)
    (run.folder / "result.json").write_text(json.dumps(result))
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))


def fail(run: Run, status: int) -> None:
    run.folder.mkdir(parents=True)
    (run.folder / "failure.json").write_text(json.dumps({"status": status}))


def report(comparison: Comparison, label: str, seed: int, drawn: dict[str, float] | None = None) -> Run:
    return report_run(comparison, parse_variant(label), drawn or {}, seed, TEACHER)


def cells(results: Results, block: int = 0) -> dict[str, dict[str, str]]:
    """The cells of a table by method and heading."""
    table = tables.tables(results)[block]
    return {line[0]: dict(zip(table.headings, line, strict=True)) for line in table.lines}


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return Comparison(methods=("ce", "kd", "bickd:class_wise_weight=0"), seeds=3, output=tmp_path)


@pytest.fixture
def results(comparison: Comparison) -> Results:
    for seed, (kd, bickd) in enumerate([(70.0, 71.0), (72.0, 74.0), (71.0, 71.0)]):
        finish(report(comparison, "ce", seed), 60.0 + seed, 59.0, seconds=1.0, teacher_accuracy=None)
        finish(report(comparison, "kd", seed), kd, kd - 1, seconds=(2.0, 9.0, 1.5)[seed])
        finish(report(comparison, "bickd:class_wise_weight=0", seed), bickd, 70.0, seconds=3.0)
    return load_results(comparison, TEACHER)


def test_the_report_states_the_optimizer_and_warns_of_a_teacher_near_chance(tmp_path: Path) -> None:
    comparison = Comparison(
        methods=("kd",), seeds=1, output=tmp_path, optimizer="adamw", decay_norms_and_biases=False, clip_norm=2.0,
        warmup_steps=30,
    )  # fmt: skip
    finish(report(comparison, "kd", 0), 1.0, teacher_near_chance=True)
    results = load_results(comparison, TEACHER)
    document = tables.document(results)
    assert "AdamW, weight decay 0.0005 (norms and biases excluded)" in document
    assert "gradients clipped to norm 2" in document
    assert "30 steps of linear warm-up" in document
    assert any(note.startswith("WARNING: the teacher is near chance") for note in tables.notes(results))


def test_accuracies_are_mean_and_sample_deviation_over_the_seeds(results: Results) -> None:
    table = cells(results)
    last, best = "test accuracy, last epoch", "test accuracy, best epoch on validation"
    assert table["ce"][last] == "61.00 ± 1.00 (n = 3)"
    assert table["kd"][last] == "71.00 ± 1.00 (n = 3)"
    assert table["kd"][best] == "70.00 ± 1.00 (n = 3)"
    assert table["bickd:class_wise_weight=0"][last] == "72.00 ± 1.73 (n = 3)"
    assert table["bickd:class_wise_weight=0"][best] == "70.00 ± 0.00 (n = 3)"


def test_the_difference_to_kd_is_paired_by_seed(results: Results) -> None:
    table = cells(results)
    assert table["bickd:class_wise_weight=0"]["difference to kd"] == "+1.00 ± 1.00"
    assert table["ce"]["difference to kd"] == "-10.00 ± 1.00"
    assert table["kd"]["difference to kd"] == "-"


def test_the_time_of_a_step_is_the_median_and_relative_to_ce(results: Results) -> None:
    times = {method: line["time per step"] for method, line in cells(results).items()}
    assert times == {"ce": "10.00 ms (1.00)", "kd": "20.00 ms (2.00)", "bickd:class_wise_weight=0": "30.00 ms (3.00)"}


def test_without_ce_times_are_relative_to_kd_and_without_kd_there_is_no_difference(tmp_path: Path) -> None:
    for methods in (("kd", "bickd"), ("bickd",)):
        comparison = Comparison(methods=methods, seeds=1, output=tmp_path / "-".join(methods))
        for method in methods:
            finish(report(comparison, method, 0), 70.0, seconds={"kd": 2.0, "bickd": 3.0}[method])
        line = cells(load_results(comparison, TEACHER))["bickd"]
        assert line["test accuracy, last epoch"] == "70.00 (n = 1)"
        assert ("difference to kd" in line) == ("kd" in methods)
        assert line["time per step"] == ("30.00 ms (1.50)" if "kd" in methods else "30.00 ms")


def test_a_row_lists_the_fixed_and_the_searched_settings(results: Results) -> None:
    table = cells(results)
    assert table["kd"]["settings"] == "ce_weight 0.1, kd_weight 0.9"
    assert table["bickd:class_wise_weight=0"]["settings"].startswith("class_wise_weight 0, ce_weight 0.1, kd_weight 0.9, ")


def test_the_protocol_names_data_models_teacher_and_recipe(results: Results) -> None:
    text = tables.document(results)
    for part in (
        "digits100", "student cnn_small", "teacher cnn_large, 81.25 %", "12 epochs", "batch size 64", "learning rate 0.05",
        "momentum 0.9", "Seeds 0 to 2", "No settings were tuned", "relative to ce",
    ):  # fmt: skip
        assert part in text
    assert "| kd | ce_weight 0.1, kd_weight 0.9 | 71.00 ± 1.00 (n = 3) |" in text
    assert "## Notes" not in text
    assert "shared" not in text


def test_the_protocol_tells_how_data_and_augmentation_differ_from_the_data_set_s_own(tmp_path: Path) -> None:
    def told(**settings: Any) -> str:
        return tables.document(load_results(Comparison(methods=("ce",), output=tmp_path, **settings), TEACHER))

    assert "Data of every run" not in told()
    assert "Data of every run: 40 training samples per class, a share of 0.3 held out for validation." in told(
        train_per_class=40, held_out=0.3
    )
    assert (
        "Data of every run: augmentation none, randaugment, random erasing with probability 0.25, mixup with alpha 0.2, "
        "CutMix with alpha 1."
    ) in told(augmentation="none", auto_augment="randaugment", random_erasing=0.25, mixup=0.2, cutmix=1.0)


def test_the_protocol_states_repeated_views_and_the_cached_teacher(tmp_path: Path) -> None:
    plain = Comparison(methods=("ce", "kd", "rkd", "sskd"), output=tmp_path)
    cached = Comparison(methods=("ce", "kd", "rkd", "sskd"), views=8, output=tmp_path)
    texts = [tables.document(load_results(comparison, TEACHER)) for comparison in (plain, cached)]
    assert "Epochs cycle" not in texts[0]
    assert "from disk" not in texts[0]
    assert "Epochs cycle through 8 augmented versions of each image." in texts[1]
    assert "Runs of kd, rkd read the teacher's output from disk" in texts[1]


def test_the_table_of_students_has_one_row_for_each_choice_of_settings(tuned: Comparison) -> None:
    students = cells(load_results(tuned, TEACHER), block=2)
    assert list(students) == ["ce", "kd", "bickd", "kd, tuned"]
    assert students["kd"]["training accuracy"] == "-"


def test_student_metrics_are_averaged_over_the_seeds_that_have_them(comparison: Comparison) -> None:
    finish(report(comparison, "kd", 0), 70.0, train_accuracy=80.0, teacher_agreement=60.0, calibration_error=None)
    finish(report(comparison, "kd", 1), 70.0, train_accuracy=82.0)
    students = cells(load_results(comparison, TEACHER), block=1)["kd"]
    assert students["training accuracy"] == "81.00 ± 1.41"
    assert students["agreement with the teacher"] == "60.00"
    assert students["calibration error"] == "-"


def test_the_report_states_that_runs_shared_the_machine(comparison: Comparison, results: Results) -> None:
    (report(comparison, "kd", 1).folder / "launch.json").write_text('{"jobs": 4}')
    assert "Up to 4 runs shared the machine" in tables.document(load_results(comparison, TEACHER))


def test_missing_runs_are_marked_and_differences_use_the_seeds_that_both_methods_have(comparison: Comparison) -> None:
    finish(report(comparison, "kd", 0), 70.0)
    fail(report(comparison, "kd", 1), 2)
    finish(report(comparison, "kd", 2), 73.0)
    finish(report(comparison, "bickd:class_wise_weight=0", 1), 99.0)
    finish(report(comparison, "bickd:class_wise_weight=0", 2), 74.0)
    fail(report(comparison, "bickd:class_wise_weight=0", 0), 3)
    results = load_results(comparison, TEACHER)
    table = cells(results)
    assert table["kd"]["test accuracy, last epoch"] == "71.50 ± 2.12 (n = 2 of 3)"
    assert table["bickd:class_wise_weight=0"]["difference to kd"] == "+1.00"
    assert table["ce"]["test accuracy, last epoch"] == table["ce"]["time per step"] == "-"
    notes = tables.notes(results)
    assert [note.split(";")[0] for note in notes] == [
        "bickd:class_wise_weight=0 seed 0: diverged", "kd seed 1: failed", "unfinished runs: 3",
    ]  # fmt: skip
    assert all(note in tables.document(results) for note in notes)
    for plot in (plots.plot_accuracy, plots.plot_cost, plots.plot_against_time):
        plots.plt.close(plot(results))


@pytest.mark.parametrize("plot", [plots.plot_accuracy, plots.plot_cost])
def test_each_setting_of_a_variant_has_a_line_of_its_own_beside_the_axes(plot: Any, results: Results) -> None:
    figure = plot(results)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ce", "kd", "bickd:\nclass_wise_weight=0"]
    plots.plt.close(figure)


def test_what_has_too_few_epochs_is_noted_with_the_methods_that_it_concerns(tmp_path: Path) -> None:
    comparison = Comparison(
        methods=("ce", "dkd", "dkd:warmup_epochs=2"), epochs=12, schedule="step", milestones=(30,), teacher_epochs=60,
        output=tmp_path,
    )  # fmt: skip
    warnings = [note for note in tables.notes(load_results(comparison, TEACHER)) if note.startswith("WARNING")]
    assert [note.partition(" come after ")[0].partition(" has its ")[0] for note in warnings] == [
        "WARNING: ce, dkd, dkd:warmup_epochs=2: milestones 30", "WARNING: dkd: dkd",
    ]  # fmt: skip
    whole = Comparison(methods=("dkd",), epochs=40, schedule="step", milestones=(30,), teacher_epochs=20, output=tmp_path)
    assert [note.partition(": milestones")[0] for note in tables.notes(load_results(whole, TEACHER))][1:] == [
        "WARNING: teacher"
    ]


def test_a_failed_run_that_is_started_again_is_unfinished_until_it_ends(comparison: Comparison) -> None:
    run = report(comparison, "kd", 0)
    fail(run, 2)
    note_launch(run, 1)
    assert read_outcome(run).state == "unfinished"
    assert note_end(run, -9).state == "failed"
    # Status 0 without a result is a failure.
    note_launch(run, 1)
    assert note_end(run, 0).state == "failed"
    note_launch(run, 1)
    assert note_end(run, 3).state == "diverged"


def test_without_a_validation_split_there_is_no_best_epoch(comparison: Comparison) -> None:
    finish(report(comparison, "kd", 0), 70.0, validation_accuracy=None)
    results = load_results(comparison, TEACHER)
    assert not any("validation" in heading for heading in tables.tables(results)[0].headings)
    assert "There is no validation split." in tables.document(results)


@pytest.fixture
def tuned(tmp_path: Path) -> Comparison:
    """The best trial of kd is 2 and of ce is 0, with the literature's settings; of bickd a trial is missing."""
    comparison = Comparison(methods=("ce", "kd", "bickd"), seeds=2, tune=3, output=tmp_path)
    validation: dict[str, list[float | None]] = {"ce": [60.0, 60.0, None], "kd": [60.0, None, 61.0], "bickd": [60.0, 61.0]}
    for label, accuracies in validation.items():
        drawn = trials(parse_variant(label), 3)
        for number, accuracy in enumerate(accuracies):
            run = trial_run(comparison, parse_variant(label), drawn[number], number, TEACHER)
            if accuracy is None:
                fail(run, 3)
            else:
                # The worst trial on validation is the best on test, so that a choice by test accuracy would show.
                finish(run, 100 - accuracy, validation_accuracy=accuracy)
        for seed in range(2):
            finish(report(comparison, label, seed), 70.0 + seed)
    for seed in range(2):
        finish(report(comparison, "kd", seed, trials(parse_variant("kd"), 3)[2]), 75.0 + seed)
    return comparison


def test_tuned_settings_have_a_table_of_their_own(tuned: Comparison) -> None:
    results = load_results(tuned, TEACHER)
    assert {trial.variant.label: trial.chosen for trial in results.trials} == {"ce": 0, "kd": 2, "bickd": None}
    literature, chosen = cells(results, 0), cells(results, 1)
    assert list(chosen) == ["ce", "kd"]
    assert literature["kd"]["test accuracy, last epoch"] == "70.50 ± 0.71 (n = 2)"
    assert chosen["kd"]["test accuracy, last epoch"] == "75.50 ± 0.71 (n = 2)"
    assert (chosen["ce"]["chosen trial"], chosen["kd"]["chosen trial"]) == ("0", "2")
    assert chosen["ce"] == {**literature["ce"], "chosen trial": "0", "difference to kd": "-5.00 ± 0.00"}
    kd_weight = trials(parse_variant("kd"), 3)[2]["kd_weight"]
    assert chosen["kd"]["settings"].endswith(f"kd_weight {kd_weight:g}")
    text = tables.document(results)
    assert "best of 3 trials for each method, all with seed 1000" in text
    assert "bickd: trials are missing, no settings were chosen" in text


def test_a_choice_at_the_end_of_a_range_is_noted(tuned: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    value = trials(parse_variant("kd"), 3)[2]["kd_weight"]
    assert not any("end of its range" in note for note in tables.notes(load_results(tuned, TEACHER)))
    monkeypatch.setattr("training.compare.tuning.END", 0.499)
    notes = tables.notes(load_results(tuned, TEACHER))
    assert any(note.startswith(f"kd, tuned: kd_weight {value:g} is at the ") for note in notes)


def test_when_every_trial_diverged_nothing_is_chosen(tmp_path: Path) -> None:
    comparison = Comparison(methods=("kd",), seeds=1, tune=2, output=tmp_path)
    for number, drawn in enumerate(trials(parse_variant("kd"), 2)):
        fail(trial_run(comparison, parse_variant("kd"), drawn, number, TEACHER), 3)
    results = load_results(comparison, TEACHER)
    assert results.tuned == ()
    assert "kd: every trial diverged, no settings were chosen" in tables.notes(results)


def test_results_json_has_every_run_and_every_trial(tuned: Comparison) -> None:
    content = json.loads(as_json(load_results(tuned, TEACHER)))
    assert content["comparison"]["tune"] == 3
    assert content["teacher_accuracy"] == 81.25
    rows = {row["variant"]: row for row in content["tuned"]}
    assert [run["result"]["test_accuracy"] for run in rows["kd"]["runs"]] == [75.0, 76.0]
    found = {each["variant"]: each for each in content["trials"]}
    assert [trial["state"] for trial in found["kd"]["trials"]] == ["finished", "diverged", "finished"]
    assert found["kd"]["trials"][2]["settings"] == rows["kd"]["settings"]
    assert found["kd"]["chosen"] == 2


def test_curves_are_means_over_the_seeds_and_start_after_the_first_stage(comparison: Comparison) -> None:
    finish(report(comparison, "kd", 0), 70.0, first_stage_seconds=4.0)
    finish(report(comparison, "kd", 1), 74.0, first_stage_seconds=6.0)
    row = load_results(comparison, TEACHER).literature[1]
    assert mean_curve(row.outcomes) == ([7.0, 10.0], [36.0, 72.0])
