"""The training loop: a student, perhaps a frozen teacher, a method; accuracy after every epoch.

Weights, order and augmentation come from the seed, each from random numbers of its own: two methods with one seed start from
the same weights and see the same images in the same order. A run goes on from any step as if it had never stopped.
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
"""Steps on a GPU between two looks at the loss, each of which waits for the device."""


class NonFiniteLossError(RuntimeError):
    """The loss of a step was NaN or infinite."""


class Measured(NamedTuple):
    """Accuracy on a split in percent, and the number of its images that could not be read."""

    accuracy: float
    skipped: int


def build(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model whose weights depend on the seed alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


class Trainer:
    """One run in progress.

    Args:
        config: the recipe, the seed, and how the run is executed.
        splits: the data.
        student: is trained in place, on ``device``.
        method: the loss; set up for student and teacher.
        teacher: None for a method without one.
        device: of student, method and teacher.
        processes: those that train together.
        observer: is told of steps and epochs.
        save: writes a state; called in the first process alone.
        interruption: tells of signals.
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
        self.unchecked = STEPS_UNCHECKED if device.type == "cuda" else 1
        self.phase = self._begin(method.first_stage)
        self.epoch, self.step, self.tally, self.seconds = 1, 0, Tally(), 0.0
        self.first_stage_seconds = 0.0
        self.records: list[EpochRecord] = []
        self.saved_at = time.monotonic()

    @property
    def network(self) -> Network:
        """What is evaluated: the student, or the moving average of its weights."""
        return self.learner.student if self.average is None else cast(Network, self.average.module)

    def train(self) -> list[EpochRecord]:
        """Trains to the end and returns the record of every epoch.

        Raises:
            NonFiniteLossError: names the epoch, the step and the terms at fault.
            UnreadableImageError: an image with ``strict_data``, or all of an epoch.
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
        """Takes the steps that are left of an epoch, and looks at their losses from time to time."""
        view = self._view()
        batches = self.loader.batches(self._parts(), view)
        self.learner.train()
        start, already, done = time.perf_counter(), self.seconds, self.step
        while self.step < self.steps:
            self.train_step(batches, view)
            self.step += 1
            self.seconds = already + time.perf_counter() - start
            if self.step % self.unchecked == 0 or self.step == self.steps:
                self._check()
                self._report((self.step - done) * self.batch / (time.perf_counter() - start))
        if not self.tally.totals_over_processes()["samples"]:
            raise UnreadableImageError(f"no image of epoch {self.epoch} could be read")

    def train_step(self, batches: Iterator[Batch], view: View) -> None:
        """Changes the weights once, by the gradient of the next ``accumulate`` batches, the parts of a step.

        Parts and processes weigh by their images, so that the gradient is that of the whole batch, less what could not be
        read. A step without any image changes nothing.
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
        """The images of each part in all processes; counts and names what could not be read.

        Raises:
            UnreadableImageError: with ``strict_data``, an image could not be read, by whichever process.
        """
        broken = [message for batch in parts for message in batch.broken]
        # Between the hosts, none of which waits for its device.
        *counts, all_broken = sum_over(torch.tensor([*(len(batch.labels) for batch in parts), len(broken)])).tolist()
        if all_broken:
            refuse_broken(broken or ["an image of another process could not be read"], self.config)
        self._tell_broken(broken)
        self.tally.count(samples=sum(len(batch.labels) for batch in parts), skipped=len(broken))
        return counts

    def _add_gradient(self, batch: Batch, count: int, total: int, view: View) -> None:
        """Adds the gradient of a part, which has ``count`` of the ``total`` images of the step in all processes."""
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
        """The positions of the samples of every part of the steps that are left, this process's share of each; where samples
        are mixed, also those of their partners."""
        # Negative epochs, as of the view: the student's training sees the same with a first stage as without.
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
        """Stops where a loss is not finite or a signal came, and saves where it is time; all processes do the same."""
        wrong = self.tally.first_non_finite()
        due = self.processes.first and time.monotonic() - self.saved_at >= 60 * self.config.checkpoint_minutes
        wanted = [int(wrong is not None), self.interruption.number, int(due)]
        is_wrong, number, is_due = largest_of(wanted, self.device)
        if is_wrong:
            raise NonFiniteLossError(self._told(wrong.step, wrong.values) if wrong else "a loss of another process")
        if number or (is_due and self.step < self.steps):
            self._save()
        if number:
            raise Interrupted(number)

    def _told(self, step: int, values: dict[str, float]) -> str:
        wrong = {name: value for name, value in values.items() if name != "loss" and not math.isfinite(value)}
        named = ", ".join(f"{name} = {value}" for name, value in wrong.items()) or "no single term"
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
        """Measures the student, and records what the epoch came to."""
        start = time.perf_counter()
        average_statistics(self.network)
        if self.average is not None:
            average_statistics(self.learner.student)
        validation = None if self.splits.validation is None else self._measure(self.splits.validation)
        test = self._measure(self.splits.test)
        self._record(validation, test, time.perf_counter() - start)

    def _measure(self, split: Split) -> Measured:
        """The accuracy on a split, and how many of its images could not be read by any process."""
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
        # From the CPU: what is gathered from a GPU would come back on that GPU, in every process.
        statistics = [buffer.cpu() for buffer in self._statistics()]
        own: OwnState = {"random": random_state.capture(), "statistics": statistics, "tally": self.tally.state()}
        return {
            "config": self.config.as_dict(),
            "data": self.splits.identity.as_dict(),
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
        """Goes back to where ``state`` was taken.

        Raises:
            ValueError: it was taken by another number of processes.
        """
        if len(state["ranks"]) != self.processes.count:
            raise ValueError(
                f"resume: the run was saved by {len(state['ranks'])} processes, this is one of {self.processes.count}"
            )
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
        """The buffers that every process has values of its own for."""
        yield from self.learner.student.buffers()
        if self.average is not None:
            yield from self.average.module.buffers()

    def _begin(self, stage: Stage | None) -> Phase:
        return begin_phase(stage, self.learner, self.config, self.steps, self.processes, self.device)
