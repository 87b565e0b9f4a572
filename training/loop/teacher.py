"""The frozen teacher of a run: loads it, checks it and computes its output, through a cache if there is one."""

import math
import pickle
from functools import cached_property
from pathlib import Path

import torch
from rich.console import Console
from scipy.stats import binom
from torch import Tensor, nn
from torchvision import models as torchvision_models

from training.config import Config
from training.data import Splits
from training.data.transfer import transfer
from training.loop.distributed import Processes, wait
from training.loop.evaluation import OnBroken, accuracy, network_on, warn_of_broken
from training.loop.learner import run
from training.loop.teacher_cache import TeacherCache, fingerprint
from training.loop.trial import try_on_splits
from training.messages import say
from training.methods import METHODS
from training.models import MODELS, Network, Output
from training.storage import checkpoint, files

TOLERANCE, CHANGED = 0.5, 0.02
"""Percentage points by which a teacher's accuracy may always differ from its checkpoint's, and the share of its predictions
that another device or precision may change."""

MARGIN, SIGNIFICANCE = 0.05, 0.01
"""A teacher is near chance unless its accuracy is significantly above MARGIN of the way from chance to 1."""


class Teacher:
    """A frozen network in evaluation mode.

    Args:
        network: the model; its parameters are frozen.
        accuracy: on the test split, in percent.
        precision: of its forward pass.
        cache: of its output.
        near_chance: whether its accuracy cannot be distinguished from guessing.
    """

    def __init__(
        self, network: Network, accuracy: float, precision: str, cache: TeacherCache | None = None, near_chance: bool = False
    ) -> None:
        self.network, self.accuracy, self.precision, self.cache = freeze(network), accuracy, precision, cache
        self.near_chance = near_chance

    @cached_property
    def fingerprint(self) -> str:
        """A hash of its weights, which do not change."""
        return fingerprint(self.network.model)

    @torch.no_grad()
    def __call__(self, images: Tensor, index: Tensor, view: int, *, features: bool) -> Output:
        """The output for ``images`` ``(B, channels, height, width)`` in ``view``; ``index`` ``(B,)``, on the CPU, has
        their positions in the training split."""
        if self.cache is None:
            return run(self.network, images, precision=self.precision, features=features)
        kept = self.cache.get(view, index)
        if kept is None:
            output = run(self.network, images, precision=self.precision, features=features)
            kept = output.map(lambda part: part.float().cpu())
            self.cache.put(view, index, kept)
        return kept.map(lambda part: transfer(part, images.device))


def freeze(network: Network) -> Network:
    """The network in evaluation mode, with frozen parameters."""
    network.eval().requires_grad_(False)
    return network


def load_teacher(
    config: Config,
    splits: Splits,
    device: torch.device,
    processes: Processes,
    console: Console,
    on_broken: OnBroken = warn_of_broken,
) -> Teacher | None:
    """Loads the teacher that ``config`` selects, measures and prints its accuracy, and compares it with its checkpoint's.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        OSError: published weights could not be downloaded.
        ValueError: the teacher has other classes than the data set, or its accuracy differs from when it was saved with
            images of this size: a different data set, or damaged weights.
    """
    if config.teacher_checkpoint is None and config.teacher is None:
        return None
    trained = _read(config, splits, processes)
    if trained.classes != splits.classes:
        raise ValueError(f"teacher {trained.name} has {trained.classes} classes, {config.dataset} has {splits.classes}")
    network = freeze(network_on(device, trained.model, splits.classes, config))
    for note in trained.notes:
        say(console, f"teacher {trained.name}, left out: {note}")
    try_on_splits("teacher", trained.name, network, splits, config, device)
    measured = accuracy(network, splits.test, config, device, processes, on_broken)
    say(console, f"teacher {trained.name}: test accuracy {measured:.2f} %")
    guesses = near_chance(measured, len(splits.test), splits.classes)
    if guesses:
        say(console, _warning(trained, measured, splits), style="bold red")
    same_size = trained.image_size == config.image_size
    if trained.test_accuracy is not None and not same_size:
        then = f"{trained.test_accuracy:.2f} % with image_size {trained.image_size} when it was saved"
        say(console, f"teacher {trained.name}: {then}, image_size is {config.image_size} now")
    elif trained.test_accuracy is not None and abs(measured - trained.test_accuracy) > tolerance(len(splits.test)):
        raise ValueError(
            f"teacher {trained.name} reached {trained.test_accuracy:.2f} % when it was saved and reaches "
            f"{measured:.2f} % now: the data is not the same"
        )
    cache = _cache(config, network, splits, processes)
    if config.compile:
        network.compile()
    return Teacher(network, measured, config.precision, cache, guesses)


def tolerance(pictures: int) -> float:
    """Percentage points by which an accuracy may differ from an earlier one on the same images, computed differently.

    Each changed prediction moves it up or down: three standard deviations of the sum, which count on few images.
    """
    return max(TOLERANCE, 100 * 3 * math.sqrt(CHANGED / pictures))


def near_chance(accuracy: float, pictures: int, classes: int) -> bool:
    """Whether an accuracy in percent cannot be distinguished from one barely above 1 / classes.

    Tests the hypothesis that an image is classified correctly with the probability that lies MARGIN of the way from
    1 / classes to 1, against larger probabilities: logits in another class order have a few classes right by accident.
    """
    chance = 1 / classes
    right = round(accuracy / 100 * pictures)
    return bool(binom.sf(right - 1, pictures, chance + MARGIN * (1 - chance)) > SIGNIFICANCE)


def _warning(trained: checkpoint.Trained, measured: float, splits: Splits) -> str:
    cause = "its training images were normalized or scaled differently, or its weights are damaged"
    if not trained.class_names:
        first = ", ".join(splits.identity.class_names[:3])
        cause = (
            "its classes are in another order than those of the data"
            f"{f', which begin with {first}' if first else ''} (its file does not name its classes); or {cause}"
        )
    return (
        f"WARNING: teacher {trained.name} is near chance, {measured:.2f} % on {len(splits.test)} images of "
        f"{splits.classes} classes, where chance is {100 / splits.classes:.2f} %: a student learns nothing from it. "
        f"Likely cause: {cause}."
    )


def _read(config: Config, splits: Splits, processes: Processes) -> checkpoint.Trained:
    if config.teacher_checkpoint is not None:
        return checkpoint.load(
            config.teacher_checkpoint, dataset=config.dataset, class_names=splits.identity.class_names, name=config.teacher,
            channels=splits.channels, classes=splits.classes,
        )  # fmt: skip
    assert config.teacher is not None
    if not processes.first:
        wait()
    model = published(config.teacher)
    if processes.first:
        # The other processes find the weights already downloaded.
        wait()
    return checkpoint.Trained(model, config.teacher, 1000, None)


def published(name: str) -> nn.Module:
    """A torchvision model with its first published ImageNet weights, which the literature used.

    Raises:
        ValueError: torchvision has no weights for it, or the local file is damaged or holds more than weights.
        OSError: the weights are not on this machine and could not be downloaded.
    """
    if name in MODELS:
        raise ValueError(f"teacher_checkpoint must be given for teacher {name!r}, got None")
    name = name.removeprefix("torchvision:")
    try:
        weights = torchvision_models.get_model_weights(name)["IMAGENET1K_V1"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"teacher_checkpoint must be given: torchvision has no published weights for {name!r}") from error
    try:
        return torchvision_models.get_model(name, weights=weights)
    except OSError as error:
        raise OSError(f"the weights of teacher {name} could not be obtained ({error}); give --teacher-checkpoint") from error
    except (pickle.UnpicklingError, RuntimeError) as error:
        told = files.refusal(Path(torch.hub.get_dir()), error)
        raise ValueError(f"the weights of teacher {name} on this machine are damaged: {told}") from error


def _cache(config: Config, network: Network, splits: Splits, processes: Processes) -> TeacherCache | None:
    if config.teacher_cache is None or config.views is None:
        return None
    description = {
        "teacher": fingerprint(network.model),
        "precision": config.precision,
        "dataset": splits.identity.checksum(),
        "transform": splits.transform,
        "seed": config.seed,
    }
    if not processes.first:
        wait()
    cache = TeacherCache(
        config.teacher_cache, description, views=config.views, samples=len(splits.train), classes=splits.classes,
        features=network.feature_width if METHODS[config.method].needs_features else None,
    )  # fmt: skip
    if processes.first:
        wait()
    return cache
