"""The frozen teacher of a run: loaded, checked, and asked for its output, by way of a cache where there is one."""

import pickle
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
from training.loop.logit_cache import LogitCache, fingerprint
from training.loop.trial import try_on_splits
from training.messages import say
from training.models import MODELS, Network, Output
from training.storage import checkpoint, files

TOLERANCE = 0.5
"""Percent by which a teacher's accuracy may differ from its checkpoint's, on another device or in another precision."""

MARGIN, SIGNIFICANCE = 0.05, 0.01
"""A teacher is near chance unless it is this share of the way from chance to perfection, with this risk of being wrong."""


class Teacher:
    """A frozen network in evaluation mode.

    Args:
        network: the model; its parameters lose their gradients.
        accuracy: on the test split, in percent.
        precision: of its forward pass.
        cache: of its logits for the images of a batch.
        near_chance: its accuracy cannot be told from that of a guess.
    """

    def __init__(
        self, network: Network, accuracy: float, precision: str, cache: LogitCache | None = None, near_chance: bool = False
    ) -> None:
        self.network, self.accuracy, self.precision, self.cache = freeze(network), accuracy, precision, cache
        self.near_chance = near_chance

    @torch.no_grad()
    def __call__(self, images: Tensor, index: Tensor, view: int, *, features: bool) -> Output:
        """The output for ``images`` ``(B, channels, height, width)`` of the samples ``index`` ``(B,)``, on the CPU, in
        ``view``."""
        if self.cache is None:
            return run(self.network, images, precision=self.precision, features=features)
        kept = self.cache.get(view, index)
        if kept is None:
            kept = run(self.network, images, precision=self.precision, features=False).logits.float().cpu()
            self.cache.put(view, index, kept)
        return Output(transfer(kept, images.device))


def freeze(network: Network) -> Network:
    """The network in evaluation mode, its parameters without gradients."""
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
    """The teacher that ``config`` asks for, after its accuracy was measured, compared with its checkpoint's and printed.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        OSError: published weights could not be downloaded.
        ValueError: it has other classes than the data set, or is not as accurate as when it was saved with images of this
            size: a different data set, or damaged weights.
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
    elif trained.test_accuracy is not None and abs(measured - trained.test_accuracy) > TOLERANCE:
        raise ValueError(
            f"teacher {trained.name} reached {trained.test_accuracy:.2f} % when it was saved and reaches "
            f"{measured:.2f} % now: the data is not the same"
        )
    cache = _cache(config, network, splits, processes)
    if config.compile:
        network.compile()
    return Teacher(network, measured, config.precision, cache, guesses)


def near_chance(accuracy: float, pictures: int, classes: int) -> bool:
    """Whether an accuracy in percent cannot be told from one that is hardly above 1 / classes.

    The hypothesis that a picture is right with a probability of 1 / classes and MARGIN of the way from there to 1 is tested
    against larger ones: logits in another order of the classes have a few of them right by accident.
    """
    chance = 1 / classes
    right = round(accuracy / 100 * pictures)
    return bool(binom.sf(right - 1, pictures, chance + MARGIN * (1 - chance)) > SIGNIFICANCE)


def _warning(trained: checkpoint.Trained, measured: float, splits: Splits) -> str:
    cause = "its images were normalized or scaled in another way, or its weights are damaged"
    if not trained.class_names:
        first = ", ".join(splits.identity.class_names[:3])
        cause = (
            "its classes are in another order than those of the data"
            f"{f', which begin with {first},' if first else ''} as its file does not name them; or {cause}"
        )
    return (
        f"WARNING: teacher {trained.name} is near chance, {measured:.2f} % on {len(splits.test)} pictures of "
        f"{splits.classes} classes, where chance is {100 / splits.classes:.2f} %: a student learns nothing from it. "
        f"Likely {cause}."
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
        # The others find the weights downloaded.
        wait()
    return checkpoint.Trained(model, config.teacher, 1000, None)


def published(name: str) -> nn.Module:
    """A model of torchvision with its published weights for ImageNet, the first ones, which the literature used.

    Raises:
        ValueError: torchvision has no weights for it, or what is on this machine is damaged or holds more than weights.
        OSError: they are not on this machine and could not be downloaded.
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
        raise OSError(f"the weights of teacher {name} could not be had ({error}); give --teacher-checkpoint") from error
    except (pickle.UnpicklingError, RuntimeError) as error:
        told = files.refusal(Path(torch.hub.get_dir()), error)
        raise ValueError(f"the weights of teacher {name} on this machine are damaged: {told}") from error


def _cache(config: Config, network: Network, splits: Splits, processes: Processes) -> LogitCache | None:
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
    cache = LogitCache(
        config.teacher_cache, description, views=config.views, samples=len(splits.train),
        classes=splits.classes,
    )  # fmt: skip
    if processes.first:
        wait()
    return cache
