"""The training loop: trains a student with a method, and a frozen teacher if there is one; evaluates after every epoch.

Weights, order and augmentation are derived from the seed independently of each other: two methods with one seed start from
the same weights and see the same images in the same order. A run resumes from any step as if it had never stopped.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from training.config import Config
from training.data import Batch, Split, Splits, View
from training.data.loader import Loader, epoch_order
from training.data.mixing import Mixer, with_partners
from training.data.transfer import transfer
from training.loop import random_state
from training.loop.distributed import Processes, average_statistics, gather, largest_of, sum_over
from training.loop.evaluation import UnreadableImageError, accuracy, formatted, refuse_broken
from training.loop.interruption import Interrupted, Interruption
from training.loop.learner import Learner
from training.loop.optimization import clip, make_average, make_scaler
from training.loop.phase import Phase, begin_phase
from training.loop.tally import Tally, means
from training.loop.teacher import Teacher
from training.methods import Method, Samples, Stage
from training.models import Network
from training.observer import Observer, StepReport
from training.state import EpochRecord, OwnState, State, best_epoch

STEPS_UNCHECKED = 50
"""Steps on a GPU between two checks of the loss, each of which waits for the device."""


class NonFiniteLossError(RuntimeError):
    """The loss of a step was NaN or infinite."""


class Measured(NamedTuple):
    """Accuracy on a split in percent, and the number of its images that could not be read."""

    accuracy: float
    skipped: int


def build(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model whose weights depend only on the seed; the global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def steps_unchecked(device: torch.device, config: Config) -> int:
    """The number of steps from one check of the loss, and of whether to save, to the next."""
    return STEPS_UNCHECKED if device.type == "cuda" and config.checkpoint_minutes > 0 else 1


class Trainer:
    """One run in progress.

    Args:
        config: the recipe, the seed and the execution settings.
        splits: the data.
        student: trained in place, on ``device``.
        method: the loss; set up for student and teacher.
        teacher: None for a method without one.
        device: of student, method and teacher.
        processes: the processes that train together.
        observer: receives reports of steps and epochs.
        save: writes a state; called only in the first process.
        interruption: records signals.
    """

    def __init__(
        self,
        config: Config,
        splits: Splits,
        student: Network,
        method: Method,
        teacher: Teacher | None,
        device: torch.device,
        processes: Processes,
        observer: Observer,
        save: Callable[[State], None],
        interruption: Interruption,
    ) -> None:
        self.config, self.splits, self.teacher, self.device, self.processes = config, splits, teacher, device, processes
        self.observer, self.save, self.interruption = observer, save, interruption
        self.learner = Learner(student, method, config.precision).to(device)
        self.average = make_average(self.learner.student, config.ema_decay)
        self.scaler = make_scaler(device, config.precision)
        mixer = Mixer(config.mixing, len(splits.train), splits.classes) if config.mixing else None
        self.loader = Loader(splits.train, workers=config.workers, device=device, mixer=mixer)
        self.batch = min(config.batch_size, len(splits.train))
        self.steps = max(1, len(splits.train) // config.batch_size)
        self.unchecked = steps_unchecked(device, config)
        self.phase = self._begin(method.first_stage)
        self.epoch, self.step, self.tally, self.seconds = 1, 0, Tally(), 0.0
        self.first_stage_seconds = 0.0
        self.records: list[EpochRecord] = []
        self.saved_at = time.monotonic()

    @property
    def network(self) -> Network:
        """The network that is evaluated: the student, or the moving average of its weights."""
        return self.learner.student if self.average is None else cast(Network, self.average.module)

    def train(self) -> list[EpochRecord]:
        """Trains to the end and returns the record of every epoch.

        Raises:
            NonFiniteLossError: names the epoch, the step and the non-finite terms.
            UnreadableImageError: with ``strict_data`` an image could not be read, or otherwise no image of an epoch.
            Interrupted: after a signal and a save.
        """
        if self.phase.stage is not None:
            self._train_phase()
            self.first_stage_seconds, self.seconds = self.seconds, 0.0
            self.phase, self.epoch = self._begin(None), 1
        self._train_phase()
        return self.records

    def _train_phase(self) -> None:
        while self.epoch <= self.phase.epochs:
            self._train_one_epoch()
            if self.phase.stage is None:
                self._evaluate()
            self.epoch, self.step, self.tally = self.epoch + 1, 0, Tally()
            if self.phase.stage is None or self.epoch <= self.phase.epochs:
                self._save()

    def _train_one_epoch(self) -> None:
        """Executes the remaining steps of an epoch, and checks their losses from time to time."""
        view = self._view()
        batches = self.loader.batches(self._parts(), view)
        self.learner.train()
        start, already, done = time.perf_counter(), self.seconds, self.step
        while self.step < self.steps:
            self.train_step(batches, view)
            self.step += 1
            self.seconds = already + time.perf_counter() - start
            # Several processes check together, at the same steps, so none of them can react to a signal at once.
            stopped = self.interruption.number > 0 and self.processes.count == 1
            if self.step % self.unchecked == 0 or self.step == self.steps or stopped:
                self._check()
                self._report((self.step - done) * self.batch / (time.perf_counter() - start))
        if not self.tally.totals_over_processes()["samples"]:
            raise UnreadableImageError(f"no image of epoch {self.epoch} could be read")

    def train_step(self, batches: Iterator[Batch], view: View) -> None:
        """Updates the weights once, with the gradient of the next ``accumulate`` micro-batches.

        Micro-batches and processes are weighted by their numbers of images, so that the gradient is that of the whole batch
        without unreadable images. A step without any image does not change the weights.
        """
        parts = [next(batches) for _ in range(self.config.accumulate)]
        counts = self._count(parts)
        filled = [part for part, count in enumerate(counts) if count]
        self.phase.optimizer.zero_grad(set_to_none=True)
        for part in filled:
            with self.phase.backward_of_part(last=part == filled[-1]):
                self._add_gradient(parts[part], counts[part], sum(counts), view)
        if filled:
            clip(self.phase.optimizer, self.scaler, self.config.clip_norm)
            self.scaler.step(self.phase.optimizer)
            self.scaler.update()
        self.phase.schedule.step()
        if filled and self.average is not None and self.phase.stage is None:
            self.average.update(self.learner.student)

    def _count(self, parts: list[Batch]) -> list[int]:
        """The number of images of each micro-batch over all processes; counts and reports unreadable images.

        Raises:
            UnreadableImageError: with ``strict_data``, an image could not be read in any of the processes.
        """
        broken = [message for batch in parts for message in batch.broken]
        # The hosts exchange the counts, so that none of them waits for its device.
        *counts, all_broken = sum_over(torch.tensor([*(len(batch.labels) for batch in parts), len(broken)])).tolist()
        if all_broken:
            refuse_broken(broken or ["an image of another process could not be read"], self.config)
        self._tell_broken(broken)
        self.tally.count(samples=sum(len(batch.labels) for batch in parts), skipped=len(broken))
        return counts

    def _add_gradient(self, batch: Batch, count: int, total: int, view: View) -> None:
        """Adds the gradient of a micro-batch, which has ``count`` of the step's ``total`` images over all processes."""
        phase, method, own = self.phase, self.learner.method, len(batch.labels)
        index = transfer(batch.index, self.device)
        share = own * self.processes.count / count
        samples = Samples(batch.target, index, self.epoch - 1 + self.step / self.steps, share)
        images, output = batch.images, None
        if own:
            images = method.views(formatted(images, self.config))
            if self.teacher is not None:
                output = self.teacher(images, batch.index, view.number, features=method.needs_features)
        result = phase.module(images, output, samples, phase.stage is not None)
        weight = count / total if method.spans_processes else count / total * share
        self.scaler.scale(result.loss * weight).backward()
        if own:
            values = {"right": result.right.double() / own, "loss": result.loss, **result.terms}
            self.tally.add(self.step + 1, values, weight=own)

    def _view(self) -> View:
        """The augmentation of the epoch."""
        views = self.config.epochs if self.config.views is None else self.config.views
        return View(self.config.seed, (self.epoch - 1) % views if self.phase.stage is None else -self.epoch)

    def _parts(self) -> list[Tensor]:
        """The sample positions of this process for every micro-batch of the remaining steps; with mixing, also those of the
        samples' partners."""
        # Negative epochs, as in the view: the student's training sees the same images with and without a first stage.
        epoch = self.epoch if self.phase.stage is None else -self.epoch
        order = epoch_order(len(self.splits.train), self.config.seed, epoch)
        if self.config.mixing:
            order = with_partners(order)
        parts: list[Tensor] = []
        for step in range(self.step, self.steps):
            samples = order[..., step * self.batch : (step + 1) * self.batch]
            shares = samples.tensor_split(self.config.accumulate * self.processes.count, dim=-1)
            parts += shares[self.processes.rank :: self.processes.count]
        return parts

    def _tell_broken(self, broken: Sequence[str]) -> None:
        if broken:
            self.observer.on_broken(broken)

    def _check(self) -> None:
        """Stops if a loss is not finite or a signal arrived, and saves when due; all processes act alike."""
        wrong = self.tally.first_non_finite()
        due = self.processes.first and time.monotonic() - self.saved_at >= 60 * self.config.checkpoint_minutes
        wanted = [int(wrong is not None), self.interruption.number, int(due)]
        is_wrong, number, is_due = largest_of(wanted, self.device)
        if is_wrong:
            raise NonFiniteLossError(self._told(wrong.step, wrong.values) if wrong else "non-finite loss in another process")
        if number or (is_due and self.step < self.steps):
            self._save()
        if number:
            raise Interrupted(number)

    def _told(self, step: int, values: dict[str, float]) -> str:
        wrong = {name: value for name, value in values.items() if name != "loss" and not math.isfinite(value)}
        named = ", ".join(f"{name} = {value}" for name, value in wrong.items()) or "the sum of finite terms"
        return f"loss {values['loss']} in epoch {self.epoch}, step {step}: {named} is not finite"

    def _report(self, images_per_second: float) -> None:
        if not self.processes.first or not self.tally.counts["samples"]:
            return
        so_far = means(self.tally.totals())
        self.observer.on_step(
            StepReport(
                self.phase.name, self.epoch, self.phase.epochs, self.step, self.steps, so_far.loss, so_far.terms,
                so_far.accuracy, images_per_second,
            )
        )  # fmt: skip

    def _evaluate(self) -> None:
        """Evaluates the student and records the results of the epoch."""
        start = time.perf_counter()
        average_statistics(self.network)
        if self.average is not None:
            average_statistics(self.learner.student)
        validation = None if self.splits.validation is None else self._measure(self.splits.validation)
        test = self._measure(self.splits.test)
        self._record(validation, test, time.perf_counter() - start)

    def _measure(self, split: Split) -> Measured:
        """The accuracy on a split, and the number of its unreadable images over all processes."""
        broken: list[str] = []
        measured = accuracy(self.network, split, self.config, self.device, self.processes, broken.extend)
        self._tell_broken(broken)
        return Measured(measured, int(sum_over(torch.tensor(len(broken), device=self.device)).item()))

    def _record(self, validation: Measured | None, test: Measured, evaluation_seconds: float) -> None:
        epoch = means(self.tally.totals_over_processes())
        seconds = self.seconds - sum(record.seconds for record in self.records)
        record = EpochRecord(
            epoch=self.epoch,
            loss=epoch.loss,
            terms=epoch.terms,
            train_accuracy=epoch.accuracy,
            validation_accuracy=None if validation is None else validation.accuracy,
            test_accuracy=test.accuracy,
            steps=self.steps,
            seconds=seconds,
            evaluation_seconds=evaluation_seconds,
            images_per_second=epoch.samples / seconds,
            learning_rate=float(self.phase.schedule.get_last_lr()[0]),
            skipped=epoch.skipped,
            validation_skipped=0 if validation is None else validation.skipped,
            test_skipped=test.skipped,
        )
        self.records.append(record)
        if self.processes.first:
            self.observer.on_epoch(record, self.network, self.learner.student)

    def _save(self) -> None:
        state = self.state()
        if self.processes.first:
            self.save(state)
        self.saved_at = time.monotonic()

    def close(self) -> None:
        """Ends the processes that read images."""
        self.loader.close()

    def state(self) -> State:
        """Everything that the rest of the run depends on; every process must call it."""
        # On the CPU: tensors gathered from a GPU would be restored on that GPU, in every process.
        statistics = [buffer.cpu() for buffer in self._statistics()]
        own: OwnState = {"random": random_state.capture(), "statistics": statistics, "tally": self.tally.state()}
        return {
            "config": self.config.as_dict(),
            "data": self.splits.identity.as_dict(),
            "teacher": None if self.teacher is None else self.teacher.fingerprint,
            "stage": self.phase.name,
            "epoch": self.epoch,
            "step": self.step,
            "learner": self.learner.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.phase.optimizer.state_dict(),
            "schedule": self.phase.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "seconds": self.seconds,
            "first_stage_seconds": self.first_stage_seconds,
            "records": [record.as_dict() for record in self.records],
            "best_epoch": best_epoch(self.records).epoch if self.records else None,
            "ranks": gather(own),
        }

    def load_state(self, state: State) -> None:
        """Restores ``state``.

        Raises:
            ValueError: another number of processes saved it, or another teacher taught the run.
        """
        if len(state["ranks"]) != self.processes.count:
            raise ValueError(
                f"resume: the run was saved by {len(state['ranks'])} processes, but is resumed by {self.processes.count}"
            )
        taught_by = state.get("teacher")
        if taught_by is not None and self.teacher is not None and taught_by != self.teacher.fingerprint:
            raise ValueError("resume: the teacher has other weights than the one that has taught the run so far")
        self.learner.load_state_dict(state["learner"])
        if self.phase.name != state["stage"]:
            self.phase = self._begin(None)
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.phase.optimizer.load_state_dict(state["optimizer"])
        self.phase.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.seconds, self.first_stage_seconds = state["seconds"], state["first_stage_seconds"]
        self.records = [EpochRecord(**record) for record in state["records"]]
        own = state["ranks"][self.processes.rank]
        self.tally = Tally(own["tally"])
        with torch.no_grad():
            for buffer, saved in zip(self._statistics(), own["statistics"], strict=True):
                buffer.copy_(saved)
        random_state.restore(own["random"])

    def _statistics(self) -> Iterator[Tensor]:
        """The buffers whose values differ between processes."""
        yield from self.learner.student.buffers()
        if self.average is not None:
            yield from self.average.module.buffers()

    def _begin(self, stage: Stage | None) -> Phase:
        return begin_phase(stage, self.learner, self.config, self.steps, self.processes, self.device)
