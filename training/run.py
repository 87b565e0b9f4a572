"""One run, from its settings to the files in its folder, which ``storage/run_folder.py`` names."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from training import report
from training.config import Config
from training.data import Identity, Splits, load_splits
from training.data.loader import refuse_small_memory, worker_failures
from training.loop import distributed, random_state
from training.loop.distributed import Processes
from training.loop.engine import NonFiniteLossError, Trainer, build
from training.loop.evaluation import BATCH, OnBroken, Quality, measure, network_on
from training.loop.interruption import Interruption
from training.loop.teacher import Teacher, load_teacher
from training.loop.trial import try_on_splits
from training.messages import say
from training.methods import Dimensions, Method, make_method
from training.models import Network, make_model
from training.observer import Observer, Observers
from training.progress import RunProgress
from training.seeds import derived_seed
from training.state import EpochRecord, best_epoch
from training.storage import checkpoint, run_folder
from training.storage.records import Records, read_records
from training.storage.resume import load_state, refuse_other_data, remove_states, save_state


class Best(Observer):
    """Keeps the student of the epoch with the best validation accuracy in best.pt.

    ``before`` are the completed epochs of a resumed run.
    """

    def __init__(self, config: Config, splits: Splits, before: list[EpochRecord]) -> None:
        self.config, self.splits, self.records = config, splits, [*before]

    def on_epoch(self, record: EpochRecord, network: Network, trained: Network) -> None:
        self.records.append(record)
        if best_epoch(self.records) is record:
            save_model(self.config, self.splits, network, trained, run_folder.BEST, record)


def run(config: Config, console: Console) -> list[EpochRecord]:
    """Executes the run that ``config`` describes and returns the record of every epoch.

    Raises:
        FileNotFoundError: data or the teacher's checkpoint is missing.
        OSError: an image could not be read, with ``strict_data``, or published weights could not be downloaded.
        ValueError: the teacher does not fit, the folder already holds a run, or the run to resume had other settings.
        NonFiniteLossError: training diverged.
        Interrupted: a signal arrived; the run is saved.
    """
    processes, device = distributed.start(config.device)
    run_folder.refuse_used(config)
    if run_folder.read_result(config.output) is not None:
        say(console, f"{config.output} is already finished")
        return read_records(config.output)
    refuse_uneven(config, processes)
    with Interruption() as interruption, worker_failures():
        return _train(config, processes, device, console if processes.first else Console(stderr=True), interruption)


def refuse_uneven(config: Config, processes: Processes) -> None:
    """Refuses a batch size that the processes and micro-batches cannot divide equally.

    Raises:
        ValueError: names batch_size.
    """
    if config.batch_size % (processes.count * config.accumulate):
        raise ValueError(
            f"batch_size must be a multiple of processes x accumulate = {processes.count} x {config.accumulate}, "
            f"got {config.batch_size}"
        )


def refuse_workers_without_memory(config: Config, splits: Splits, processes: Processes) -> None:
    """Refuses workers if shared memory is too small for their batches in training or evaluation.

    Raises:
        ValueError: suggests a remedy.
    """
    parts = config.accumulate * processes.count
    batch = -(-min(config.batch_size, len(splits.train)) // parts)
    refuse_small_memory(
        splits.train, batch, workers=config.workers, batches=len(splits.train) // max(1, batch), held=config.accumulate
    )
    for split in (splits.validation, splits.test):
        if split is not None:
            own = -(-len(split) // processes.count)
            refuse_small_memory(split, min(BATCH, own), workers=config.workers, batches=-(-own // BATCH))


def refuse_different(splits: Splits) -> None:
    """Refuses processes whose data differ, as may happen on different machines.

    Raises:
        ValueError: names the differences.
    """
    for rank, content in enumerate(distributed.gather(splits.identity.as_dict())):
        found = Identity.from_dict(content).differences(splits.identity)
        if found:
            raise ValueError(f"data must be the same for every process, got from process {rank}: {'; '.join(found)}")


def load_data(config: Config) -> Splits:
    """Loads the data that ``config`` selects.

    Raises:
        FileNotFoundError, ValueError: as in ``load_splits``.
    """
    return load_splits(
        config.dataset, config.data, held_out=config.held_out, image_size=config.image_size, columns=config.columns,
        augmenting=config.augmenting, train_per_class=config.train_per_class,
    )  # fmt: skip


def _train(
    config: Config, processes: Processes, device: torch.device, console: Console, interruption: Interruption
) -> list[EpochRecord]:
    state = load_state(config.output, config) if config.resume else None
    random_state.seed_everything(config.seed, processes.rank)
    speaking = console if processes.first else Console(quiet=True)
    splits = load_data(config)
    refuse_different(splits)
    if state is not None:
        refuse_other_data(config.output, state, splits.identity)
    refuse_workers_without_memory(config, splits, processes)
    for line in splits.summary():
        say(speaking, line)
    progress = RunProgress(console, title(config), config.epochs)
    student = make_student(config, splits, device)
    # A resumed student gets its weights from the saved state.
    if config.student_checkpoint is not None and state is None:
        start_student(config, config.student_checkpoint, student, splits.identity.class_names, speaking)
    try_on_splits("student", config.student, student, splits, config, device)
    teacher = load_teacher(config, splits, device, processes, speaking, progress.on_broken)
    if config.compile:
        student.compile()
    method = set_up_method(config, splits, student, teacher)
    if processes.first:
        config.output.mkdir(parents=True, exist_ok=True)
        run_folder.write_config(config)
        run_folder.write_environment(config.output)
    say(speaking, _batches(config, processes))
    for told in config.too_short:
        say(speaking, f"WARNING: {told}", style="bold red")
    before = [EpochRecord(**record) for record in state["records"]] if state else []
    with _observers(config, splits, processes, before, progress) as observer:
        trainer = Trainer(
            config, splits, student, method, teacher, device, processes, observer,
            lambda content: save_state(config.output, content), interruption,
        )  # fmt: skip
        with contextlib.closing(trainer):
            if state is not None:
                trainer.load_state(state)
                say(speaking, f"resumed at epoch {trainer.epoch}, step {trainer.step}")
            try:
                trainer.train()
            except NonFiniteLossError as error:
                raise NonFiniteLossError(f"{error}; last good checkpoint: {_last_good(config)}") from error
    quality = _quality(trainer, progress.on_broken)
    if processes.first:
        finish(config, splits, trainer, quality, console)
    distributed.wait()
    return trainer.records


@contextlib.contextmanager
def _observers(
    config: Config, splits: Splits, processes: Processes, before: list[EpochRecord], progress: RunProgress
) -> Iterator[Observer]:
    """The observers of this process; in all but the first process, only the one that names broken images."""
    with progress:
        if not processes.first:
            yield progress
            return
        with contextlib.closing(Records(config.output, before)) as records:
            yield Observers([progress, records, Best(config, splits, before)])


def make_student(config: Config, splits: Splits, device: torch.device) -> Network:
    """The untrained student; its weights depend only on the seed."""
    model = build(lambda: make_model(config.student, splits.channels, splits.classes), config.seed)
    return network_on(device, model, splits.classes, config)


def start_student(
    config: Config, file: Path, student: Network, class_names: tuple[str, ...], console: Console
) -> None:  # fmt: skip
    """Initializes the student from the weights in ``file``, and prints what was left out and whether the classes differ.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it holds more than weights, or they do not fit.
    """
    saved = checkpoint.read(file, "student_checkpoint")
    fitted = checkpoint.fill(
        saved, student.model, student.classes, file, "student_checkpoint", new_classifier=config.new_classifier
    )
    say(console, f"student {config.student}: starts from {file}")
    for note in fitted.notes:
        say(console, f"student {config.student}, left out: {note}")
    if not fitted.untrained and saved.weights.class_names not in ((), class_names):
        console.print(
            f"student {config.student}: its classifier was trained on other classes than those of the data", soft_wrap=True
        )
    for layer in fitted.untrained:
        say(console, f"student {config.student}: classifier {layer!r} is left untrained")


def set_up_method(config: Config, splits: Splits, student: Network, teacher: Teacher | None) -> Method:
    """The method with its heads and memory banks, which depend only on the seed."""
    method = make_method(
        config.method, config.settings, logit_standardization=config.logit_standardization,
        label_smoothing=config.label_smoothing,
    )  # fmt: skip
    widths = (0, 0)
    if method.needs_features and teacher is not None:
        widths = (student.feature_width, teacher.network.feature_width)
    dimensions = Dimensions(*widths, splits.classes, splits.train.labels)

    def set_up() -> Method:
        method.set_up(dimensions)
        return method

    build(set_up, derived_seed("method", config.seed))
    return method


def _quality(trainer: Trainer, on_broken: OnBroken) -> Quality:
    """The quality of the trained network on the test split."""
    teacher = None if trainer.teacher is None else trainer.teacher.network
    return measure(
        trainer.network, trainer.splits.test, trainer.config, trainer.device, trainer.processes, on_broken, teacher
    )  # fmt: skip


def finish(config: Config, splits: Splits, trainer: Trainer, quality: Quality, console: Console) -> None:
    """Writes the trained student, the curves and the result, prints the summary, and removes the states."""
    records, last = trainer.records, trainer.records[-1]
    average = trainer.network is not trainer.learner.student
    save_model(config, splits, trainer.network, trainer.learner.student, run_folder.CHECKPOINT, last)
    checkpoint.export(
        config.output / run_folder.EXPORT, trainer.network.model, origin(config, splits, last), average=average
    )
    report.plot_run(records, config.output / run_folder.CURVES, title(config))
    console.print(report.summary(records, title(config)))
    run_folder.write_result(config.output, result(config, trainer, quality))
    remove_states(config.output)


def result(config: Config, trainer: Trainer, quality: Quality) -> dict[str, Any]:
    """The result that ``compare`` reads: accuracies, calibration error and agreement in percent, times in seconds.

    All but ``best_test_accuracy`` are of the last epoch; ``train_accuracy`` is the mean over its steps, on augmented images.
    """
    records, last = trainer.records, trainer.records[-1]
    best = best_epoch(records)
    return {
        "method": config.method,
        "student": config.student,
        "dataset": config.dataset,
        "seed": config.seed,
        "epochs": config.epochs,
        "train_accuracy": last.train_accuracy,
        "test_accuracy": last.test_accuracy,
        "test_top5_accuracy": quality.top5,
        "calibration_error": quality.calibration_error,
        "teacher_agreement": quality.agreement,
        "validation_accuracy": last.validation_accuracy,
        "best_epoch": best.epoch,
        "best_test_accuracy": best.test_accuracy,
        "steps": sum(record.steps for record in records),
        "seconds": trainer.seconds + trainer.first_stage_seconds,
        "first_stage_seconds": trainer.first_stage_seconds,
        "teacher_accuracy": None if trainer.teacher is None else trainer.teacher.accuracy,
        "teacher_near_chance": trainer.teacher is not None and trainer.teacher.near_chance,
    }


def save_model(
    config: Config, splits: Splits, network: Network, trained: Network, name: str, record: EpochRecord
) -> None:  # fmt: skip
    """Writes the network evaluated for ``record`` as a checkpoint; with a moving average, also the trained weights."""
    beside = None if network is trained else trained.model
    checkpoint.save(config.output / name, network.model, origin(config, splits, record), beside)


def origin(config: Config, splits: Splits, record: EpochRecord) -> checkpoint.Origin:
    """The student's model and what it was trained on."""
    return checkpoint.Origin(
        config.student,
        config.dataset,
        splits.channels,
        splits.classes,
        splits.identity.class_names,
        record.test_accuracy,
        config.image_size,
    )


def title(config: Config) -> str:
    """The title of a run in messages and plots."""
    return f"{config.method} {config.student} seed {config.seed}"


def resume_command(config: Config) -> str:
    """The options that resume an interrupted run."""
    return f"--config {shlex.quote(str(config.output / run_folder.CONFIG))} --resume"


def _batches(config: Config, processes: Processes) -> str:
    part = config.batch_size // (processes.count * config.accumulate)
    return (
        f"effective batch size {config.batch_size} = {processes.count} processes x {config.accumulate} micro-batches x "
        f"{part}, learning rate {config.learning_rate:g}"
    )


def _last_good(config: Config) -> Path | str:
    path = config.output / run_folder.LAST
    return path if path.exists() else "none, because no epoch was completed"
