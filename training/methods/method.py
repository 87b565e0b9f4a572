"""The interface of a method: the loss of one step, and its inputs."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from training.models.output import Output

Terms = dict[str, Tensor]
"""Unweighted, detached scalars by name."""


class Samples(NamedTuple):
    """The samples of a step, without the networks' outputs.

    ``target`` holds ``(B,)`` int64 classes, or for mixed samples ``(B, C)`` float32 probabilities; ``index`` ``(B,)`` int64
    positions in the training split; ``epochs`` is the number of epochs trained so far, including the fraction of the current
    one; ``share`` is this process's number of samples divided by the mean over all processes.
    """

    target: Tensor
    index: Tensor  # type: ignore[assignment]  # tuples have a method of this name
    epochs: float = 0.0
    share: float = 1.0


class Dimensions(NamedTuple):
    """The sizes from which heads and memory banks are built.

    ``student_features`` and ``teacher_features`` are the widths of the pooled features; ``labels`` ``(N,)`` int64 are those
    of the whole training split.
    """

    student_features: int
    teacher_features: int
    classes: int
    labels: Tensor


class Stage(NamedTuple):
    """A stage before the student's training, with its own optimizer; ``milestones`` are epochs after which the
    learning rate is divided by 10."""

    epochs: int
    learning_rate: float
    milestones: tuple[int, ...]


class Method(nn.Module, ABC):
    """A loss of student, teacher and samples.

    It is a module because some methods train heads and keep memory banks: its parameters and buffers are trained, moved and
    saved with the student. The parameters of a method, except ``first_stage_parameters()``, are trained together with the
    student's.

    Attributes:
        needs_teacher: the teacher's output is used.
        needs_features: the outputs must have features.
        cacheable: the teacher sees only the student's images, so that its cached output can replace it.
        takes_probabilities: targets may be class probabilities.
        search: for ``compare --tune``, the settings to tune and the range ``(low, high)`` of each, both positive, sampled
            on a logarithmic scale.
        standardized: the settings that ``logit_standardization`` changes, with their values; None if the method has no
            such switch.
    """

    needs_teacher: ClassVar[bool] = True
    needs_features: ClassVar[bool] = False
    cacheable: ClassVar[bool] = True
    takes_probabilities: ClassVar[bool] = True
    search: ClassVar[dict[str, tuple[float, float]]] = {}
    standardized: ClassVar[dict[str, float] | None] = None

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def set_up(self, dimensions: Dimensions) -> None:
        """Creates heads and memory banks; called once, before the optimizer is created and before a state is loaded."""

    @property
    def spans_processes(self) -> bool:
        """Whether the loss covers the samples of all processes; otherwise it is the mean over the process's own samples."""
        return False

    def without_samples(self, classes: int, samples: Samples) -> None:
        """Takes part in the exchanges of ``forward`` in a step in which only other processes have samples.

        Args:
            classes: number of logits.
            samples: an empty batch.
        """

    @property
    def first_stage(self) -> Stage | None:
        """The stage that comes before the student's training, if there is one."""
        return None

    def first_stage_parameters(self) -> list[nn.Parameter]:
        """The parameters that the first stage trains; frozen after it."""
        return []

    def first_stage_loss(self, teacher: Output, samples: Samples) -> tuple[Tensor, Terms]:
        """The loss of a first-stage step, from the teacher's output for ``views(images)``."""
        raise NotImplementedError(f"{type(self).__name__} has no first stage")

    def views(self, images: Tensor) -> Tensor:
        """The input of both networks for a batch of ``images`` ``(B, channels, height, width)``: the images themselves, or
        several views of them, concatenated along the batch."""
        return images

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean cross-entropy with the run's label smoothing."""
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    @abstractmethod
    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        """The loss, a scalar with a gradient, and its terms.

        Args:
            student: output for ``views(images)``, logits in float32 or float64.
            teacher: the same without a gradient, or None where ``needs_teacher`` is False.
            samples: the samples before ``views``.
        """


def teacher_of(teacher: Output | None) -> Output:
    """The teacher's output, which must not be None.

    Raises:
        ValueError: it is None.
    """
    if teacher is None:
        raise ValueError("teacher must be the teacher's output, got None")
    return teacher


def features_of(output: Output, name: str) -> Tensor:
    """The pooled features ``(B, D)`` of the output of ``name``.

    Raises:
        ValueError: the output has no features.
    """
    if output.features is None:
        raise ValueError(f"{name} must have features, got an output of logits alone")
    return output.features


def check_weights(**weights: float) -> None:
    """Refuses weights that are negative, NaN or infinite.

    Raises:
        ValueError: names the argument.
    """
    for name, value in weights.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be finite and not negative, got {value}")


def check_positive(**values: float) -> None:
    """Refuses values that are not positive and finite, such as temperatures.

    Raises:
        ValueError: names the argument.
    """
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}")
