"""results.md: the protocol in words, the tables, and notes on missing results."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Column, Table

from training.compare import tuning
from training.compare.comparison import TEACHER_SEED, TUNING_SEED, Comparison
from training.compare.results import BEST, LAST, VALIDATION, Results, Row, Trials, cost_reference, find
from training.compare.runs import DIVERGED, FAILED, FINISHED, LOG

MISSING = "-"
SETTINGS = "settings"
STUDENTS = {
    "training accuracy": "train_accuracy",
    "test accuracy": LAST,
    "test top-5 accuracy": "test_top5_accuracy",
    "agreement with the teacher": "teacher_agreement",
    "calibration error": "calibration_error",
}
"""The columns of the table of students: for each heading the key of result.json."""


class Cells(NamedTuple):
    """A table as text."""

    title: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def document(results: Results) -> str:
    """results.md."""
    comparison = results.comparison
    parts = [
        f"# {comparison.student} under {comparison.teacher} on {comparison.dataset}",
        _listed(protocol(results)),
        *(f"## {cells.title}\n\n{_markdown(cells)}" for cells in tables(results)),
    ]
    found = notes(results)
    if found:
        parts.append(f"## Notes\n\n{_listed(found)}")
    return "\n\n".join(parts) + "\n"


def tables(results: Results) -> list[Cells]:
    """The tables for the literature's settings, for tuned settings if there are trials, and for the students."""
    found = [_cells("Settings of the literature", results.literature, results, {})]
    if results.trials:
        chosen = {trials.variant.label: trials.chosen for trials in results.trials}
        found.append(_cells("Tuned settings", results.tuned, results, {"chosen trial": chosen}))
    return [*found, _students(results)]


def terminal(cells: Cells) -> Table:
    """The table for a terminal, without the settings, since few terminals are wide enough for them."""
    shown = [place for place, heading in enumerate(cells.headings) if heading != SETTINGS]
    table = Table(*(Column(cells.headings[place], overflow="fold") for place in shown), title=cells.title)
    for line in cells.lines:
        table.add_row(*(line[place] for place in shown))
    return table


def protocol(results: Results) -> list[str]:
    """The protocol, with one or more sentences for each part."""
    comparison = results.comparison
    seeds = "Seed 0" if comparison.seeds == 1 else f"Seeds 0 to {comparison.seeds - 1}"
    return [
        _teacher(results),
        _data(comparison),
        _recipe(comparison),
        "The literature's settings come from each method's publication; those of bickd are this project's.",
        f"{seeds}. A seed decides the initial weights, the order of the samples and their "
        "augmentation, the same for every method. "
        "Results are mean ± sample standard deviation over the n finished seeds; accuracies are in percent, on the test "
        "split unless stated otherwise. The training accuracy is measured on augmented images during the last epoch's "
        "steps; calibration error and agreement are measured on the test split.",
        "The difference to kd is computed per seed, then averaged." if find(results.literature, "kd") else "",
        "The best epoch is the one with the highest validation accuracy."
        if results.validated
        else "There is no validation split.",
        _cost(results),
        _tuning(comparison),
    ]


def notes(results: Results) -> list[str]:
    """Notes on runs without a result, a teacher near chance, runs of too few epochs, variants without a choice, and choices
    at a range's end."""
    missing = [
        f"{each.run.title}: {each.state}; {each.run.folder.name}/{LOG}"
        for each in results.outcomes
        if each.state in (DIVERGED, FAILED)
    ]
    unfinished = sum(each.state not in (FINISHED, DIVERGED, FAILED) for each in results.outcomes)
    if unfinished:
        missing.append(f"unfinished runs: {unfinished}; run the same command again to continue")
    if any(each.result is not None and each.result.get("teacher_near_chance") for each in results.outcomes):
        missing.append(
            f"WARNING: the teacher is near chance, students learn nothing from it; {LOG} of each run names the likely cause"
        )
    missing += [f"WARNING: {', '.join(labels)}: {told}" for told, labels in _too_short(results).items()]
    return missing + [note for trials in results.trials for note in _choice_notes(trials)]


def _too_short(results: Results) -> dict[str, list[str]]:
    """What the runs have too few epochs for, with the variants that this concerns, and the teacher if it is trained here."""
    comparison = results.comparison
    configs = {row.variant.label: row.outcomes[0].run.config for row in results.literature}
    if comparison.teacher_checkpoint is None and any(row.variant.needs_teacher for row in results.literature):
        configs["teacher"] = comparison.teacher_config(comparison.output)
    labels: dict[str, list[str]] = {}
    for label, config in configs.items():
        for told in config.too_short:
            labels.setdefault(told, []).append(label)
    return labels


def _teacher(results: Results) -> str:
    comparison = results.comparison
    reached = f", {results.teacher_accuracy:.2f} % on the test split" if results.teacher_accuracy is not None else ""
    if comparison.teacher_checkpoint is not None:
        origin = "a given checkpoint"
    else:
        epochs = comparison.teacher_config(comparison.output).epochs
        origin = f"trained with cross-entropy for {epochs} epochs from seed {TEACHER_SEED}"
    return f"Data set {comparison.dataset}, student {comparison.student}, teacher {comparison.teacher}{reached}: {origin}."


def _data(comparison: Comparison) -> str:
    """The settings of the data and their augmentation that are not the data set's own, for the teacher trained here too."""
    chosen = {
        f"{comparison.train_per_class} training samples per class": comparison.train_per_class is not None,
        f"a share of {comparison.held_out} held out for validation": comparison.held_out is not None,
        f"images of {comparison.image_size} pixels": comparison.image_size is not None,
        f"augmentation {comparison.augmentation}": comparison.augmentation is not None,
        f"{comparison.auto_augment}": comparison.auto_augment is not None,
        f"random erasing with probability {comparison.random_erasing:g}": comparison.random_erasing > 0,
        f"mixup with alpha {comparison.mixup:g}": comparison.mixup > 0,
        f"CutMix with alpha {comparison.cutmix:g}": comparison.cutmix > 0,
    }
    told = ", ".join(text for text, used in chosen.items() if used)
    return f"Data of every run: {told}." if told else ""


def _recipe(comparison: Comparison) -> str:
    schedule = f"{comparison.schedule} schedule"
    if comparison.milestones:
        schedule += f" (divided by 10 after epochs {', '.join(map(str, comparison.milestones))})"
    if comparison.warmup_epochs:
        schedule += f" after {comparison.warmup_epochs} epochs of linear warm-up"
    if comparison.warmup_steps:
        schedule += f" after {comparison.warmup_steps} steps of linear warm-up"
    optimizer = "AdamW" if comparison.optimizer == "adamw" else f"SGD with Nesterov momentum {comparison.momentum:g}"
    spared = "" if comparison.decay_norms_and_biases else " (norms and biases excluded)"
    optional = {
        f", gradients clipped to norm {comparison.clip_norm}": comparison.clip_norm,
        f", label smoothing {comparison.label_smoothing:g}": comparison.label_smoothing,
        f", moving average of the weights with decay {comparison.ema_decay:g}": comparison.ema_decay,
        f", {comparison.accumulate} micro-batches per step": comparison.accumulate - 1,
    }
    repeated = f" Epochs cycle through {comparison.views} augmented versions of each image." if comparison.views else ""
    return (
        f"Every run: {comparison.epochs} epochs, batch size {comparison.batch_size}, {optimizer}, weight decay "
        f"{comparison.weight_decay:g}{spared}, learning rate {comparison.learning_rate:g}, "
        f"{schedule}, {comparison.precision}{''.join(text for text, used in optional.items() if used)}.{repeated}"
    )


def _cost(results: Results) -> str:
    jobs = max((each.jobs for each in results.outcomes), default=1)
    shared = f" Up to {jobs} runs shared the machine, which affects the times." if jobs > 1 else ""
    reference = cost_reference(results.literature)
    relative = f", in brackets relative to {reference.variant.label}" if reference else ""
    return (
        "Time per step is training time divided by steps, including a method's first stage but not evaluation; the median "
        f"over the seeds{relative}.{shared}{_caching(results.comparison)}"
    )


def _caching(comparison: Comparison) -> str:
    cached = [variant.label for variant in comparison.variants if comparison.caches_teacher(variant)]
    if not cached:
        return ""
    return (
        f" Runs of {', '.join(cached)} read the teacher's output from disk once a run with the same seed has computed "
        "what they need of it."
    )


def _tuning(comparison: Comparison) -> str:
    if not comparison.tune:
        return "No settings were tuned: every method uses the literature's, except those given in its name."
    return (
        f"Tuned settings are the best of {comparison.tune} trials for each method, all with seed {TUNING_SEED}, which no "
        "run in the tables uses: trial 0 has the literature's settings, the others follow a quasi-random sequence over the "
        "ranges, on a logarithmic scale. Validation accuracy after the last epoch decides, never the test "
        "split. "
        "If trial 0 is chosen, the runs are the same as with the literature's settings."
    )


def _cells(title: str, rows: Sequence[Row], results: Results, beside: dict[str, dict[str, int | None]]) -> Cells:
    kd, reference = find(rows, "kd"), cost_reference(rows)
    has_kd, has_validation = find(results.literature, "kd") is not None, results.validated
    columns = {
        "method": [row.variant.label for row in rows],
        SETTINGS: [_settings(row) for row in rows],
        "test accuracy, last epoch": [_accuracy(row, LAST) for row in rows],
    }
    if has_validation:
        columns["test accuracy, best epoch on validation"] = [_accuracy(row, BEST) for row in rows]
        columns["validation accuracy, last epoch"] = [_accuracy(row, VALIDATION) for row in rows]
    if has_kd:
        columns["difference to kd"] = [MISSING if row is kd else _difference(row, kd) for row in rows]
    columns["time per step"] = [_time(row, reference) for row in rows]
    columns |= {heading: [str(values[row.variant.label]) for row in rows] for heading, values in beside.items()}
    return Cells(title, tuple(columns), tuple(zip(*columns.values(), strict=True)))


def _students(results: Results) -> Cells:
    """One line per row; tuned rows with the literature's settings are omitted."""
    rows = [*results.literature, *(row for row in results.tuned if row.drawn)]
    names = [f"{row.variant.label}, tuned" if row.drawn else row.variant.label for row in rows]
    lines = [(name, *(_value(row, key) for key in STUDENTS.values())) for name, row in zip(names, rows, strict=True)]
    return Cells("Students", ("method", *STUDENTS), tuple(lines))


def _value(row: Row, key: str) -> str:
    found = row.value(key)
    return MISSING if found is None else found.text()


def _settings(row: Row) -> str:
    values = row.variant.all_settings(row.drawn)
    shown = [f"{name} {_plain(values[name])}" for name in (*row.variant.settings, *row.variant.search)]
    if row.variant.logit_standardization:
        shown.append("logit_standardization")
    return ", ".join(shown) or MISSING


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _accuracy(row: Row, key: str) -> str:
    planned = len(row.outcomes)
    found = row.value(key)
    if found is None:
        return MISSING
    count = f"{found.number}" if found.number == planned else f"{found.number} of {planned}"
    return f"{found.text()} (n = {count})"


def _difference(row: Row, reference: Row | None) -> str:
    found = row.difference(reference) if reference is not None else None
    return MISSING if found is None else found.text("+")


def _time(row: Row, reference: Row | None) -> str:
    own = row.step_time
    if own is None:
        return MISSING
    other = reference.step_time if reference is not None else None
    return f"{own:.2f} ms" + (f" ({own / other:.2f})" if other else "")


def _choice_notes(trials: Trials) -> list[str]:
    label = trials.variant.label
    if not trials.outcomes:
        return [f"{label}: every setting is fixed, there was nothing to tune"]
    if trials.chosen is None:
        if all(each.state == DIVERGED for each in trials.outcomes):
            return [f"{label}: every trial diverged, no settings were chosen"]
        return [f"{label}: trials are missing, no settings were chosen"]
    settings = trials.variant.all_settings(trials.drawn[trials.chosen])
    return [f"{label}, tuned: {note}" for note in tuning.range_ends(trials.variant, settings)]


def _markdown(cells: Cells) -> str:
    lines = [cells.headings, ("---",) * len(cells.headings), *cells.lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _listed(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences if sentence)
