"""The one training loop: a student, perhaps a frozen teacher, a method; accuracy after every epoch.

Weights, order and augmentation come from the seed alone, each from a generator of its own: two methods with one seed start
from the same weights and see the same images in the same order.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from training.data import Split, Splits
from training.methods import Method

EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch came to; accuracies in percent, ``terms`` are means over its steps, unweighted."""

    epoch: int
    loss: float
    terms: dict[str, float]
    validation_accuracy: float
    test_accuracy: float
    seconds: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum and a cosine decay of the learning rate to 0."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    seed: int


class NonFiniteLossError(RuntimeError):
    """The loss of a step was NaN or infinite."""


def build(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A model whose weights depend on the seed alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def freeze(teacher: nn.Module) -> nn.Module:
    """The teacher in evaluation mode, its parameters without gradients, and ``train()`` without effect."""
    teacher.eval().requires_grad_(False)
    teacher.train = lambda mode=True: teacher  # type: ignore[method-assign]
    return teacher


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Logits ``(N, classes)`` in evaluation mode, without gradients; the model's mode is restored."""
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in images.split(EVALUATION_BATCH)])
    model.train(training)
    return logits


def accuracy(model: nn.Module, split: Split, classes: int) -> float:
    """Top-1 accuracy in percent."""
    metric = MulticlassAccuracy(num_classes=classes, average="micro")
    return 100 * metric(predict(model, split.images), split.labels).item()


def train(
    student: nn.Module,
    teacher: nn.Module | None,
    method: Method,
    splits: Splits,
    recipe: Recipe,
    on_step: Callable[[int, int, int, float], None],
    on_epoch: Callable[[EpochRecord], None],
) -> list[EpochRecord]:
    """Trains ``student`` in place.

    Args:
        student: gives logits ``(B, classes)``.
        teacher: the same, or None for a method without one; it is frozen.
        method: the loss.
        splits: the data.
        recipe: optimizer, schedule and seed.
        on_step: told epoch, step, steps an epoch, and the mean loss so far.
        on_epoch: told each epoch's record.

    Raises:
        NonFiniteLossError: names the epoch, the step and the terms at fault.
    """
    if teacher is not None:
        freeze(teacher)
    optimizer = torch.optim.SGD(
        student.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )
    steps = max(1, len(splits.train.labels) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * steps)
    order = torch.Generator().manual_seed(recipe.seed)
    disturbance = torch.Generator().manual_seed(recipe.seed + 2**32)
    records = []
    for epoch in range(1, recipe.epochs + 1):
        start = time.perf_counter()
        student.train()
        sums: dict[str, float] = {}
        for step, batch in enumerate(splits.train.batches(recipe.batch_size, order), 1):
            values = train_step(student, teacher, method, optimizer, splits.augment(batch.images, disturbance), batch.labels)
            _refuse_non_finite(values, epoch, step)
            schedule.step()
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            on_step(epoch, step, steps, sums["loss"] / step)
        means = {name: total / steps for name, total in sums.items()}
        record = EpochRecord(
            epoch=epoch,
            loss=means.pop("loss"),
            terms=means,
            validation_accuracy=accuracy(student, splits.validation, splits.classes),
            test_accuracy=accuracy(student, splits.test, splits.classes),
            seconds=time.perf_counter() - start,
        )
        records.append(record)
        on_epoch(record)
    return records


def train_step(
    student: nn.Module,
    teacher: nn.Module | None,
    method: Method,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
) -> dict[str, float]:
    """One step of the optimizer, unless the loss is not finite; returns the loss and its terms."""
    teacher_logits = None
    if teacher is not None:
        with torch.no_grad():
            teacher_logits = teacher(images)
    loss, terms = method(student(images), teacher_logits, labels)
    values = {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}
    if math.isfinite(values["loss"]):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return values


def _refuse_non_finite(values: dict[str, float], epoch: int, step: int) -> None:
    if math.isfinite(values["loss"]):
        return
    wrong = {name: value for name, value in values.items() if name != "loss" and not math.isfinite(value)}
    named = ", ".join(f"{name} = {value}" for name, value in wrong.items()) or "no single term"
    raise NonFiniteLossError(f"loss {values['loss']} in epoch {epoch}, step {step}: {named} is not finite")
