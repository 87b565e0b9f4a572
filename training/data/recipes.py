"""Augmentations by name: the published recipes, and additional augmentations.

``cifar``: zero padding, a random crop to the image size, a flip. ``imagenet``: a random resized crop, a flip.
"""

from dataclasses import dataclass
from typing import Any

from torchvision.transforms import v2

from training.data.augmentations import RandomErasing, ResizedCropAndFlip, Sequence, ShiftAndFlip
from training.data.auto_augment import rand_augment, trivial_augment
from training.data.pairs import Disturbance
from training.data.splits import Augmentation, TensorSplit

RECIPES = ("none", "cifar", "imagenet")
AUTO_AUGMENT = ("randaugment", "trivialaugment")
PADDING = 8
"""``cifar`` pads images with zeros by 1/8 of their height: 4 pixels for 32."""


@dataclass(frozen=True)
class Augmenting:
    """How a run augments the training images.

    Attributes:
        recipe: one of ``RECIPES``; None for the data set's own augmentation.
        auto_augment: one of ``AUTO_AUGMENT``, or None.
        random_erasing: the probability of erasing a rectangle of an image.

    Raises:
        ValueError: names the setting, what it got and what is allowed.
    """

    recipe: str | None = None
    auto_augment: str | None = None
    random_erasing: float = 0.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("augmentation", self.recipe, RECIPES),
            ("auto_augment", self.auto_augment, AUTO_AUGMENT),
        ):
            if value is not None and value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if not 0 <= self.random_erasing <= 1:
            raise ValueError(f"random_erasing must be in [0, 1], got {self.random_erasing}")


def of_images(augmenting: Augmenting, split: TensorSplit) -> Augmentation | None:
    """The augmentation for a split in memory; ``split.augmentation`` is the data set's own."""
    height, width = split.images.shape[2:]
    own = split.augmentation
    if augmenting.recipe is not None:
        flipped = ShiftAndFlip(height // PADDING, flip=True)
        own = {"none": None, "cifar": flipped, "imagenet": ResizedCropAndFlip(height, width)}[augmenting.recipe]
    steps: list[Augmentation] = [] if own is None else [own]
    if augmenting.auto_augment is not None:
        auto = rand_augment(height, width) if augmenting.auto_augment == "randaugment" else trivial_augment()
        # Noise comes last: it is outside the range that the operations are defined for.
        steps.insert(0 if isinstance(own, Disturbance) else len(steps), auto)
    if augmenting.random_erasing:
        steps.append(RandomErasing(augmenting.random_erasing, height, width, split.normalization.mean))
    if len(steps) > 1:
        return Sequence(tuple(steps))
    return steps[0] if steps else None


def of_pictures(augmenting: Augmenting, size: int, normalize: list[Any]) -> v2.Transform:
    """The transform for pictures of any size that are read one by one; ``imagenet`` unless a recipe is given.

    Args:
        size: side length of the result in pixels.
        normalize: makes a normalized tensor of a picture.
    """
    own: dict[str, list[v2.Transform]] = {
        "none": [*centred(size)],
        "cifar": [*centred(size), v2.RandomCrop(size, padding=size // PADDING), v2.RandomHorizontalFlip()],
        "imagenet": [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()],
    }
    steps = own[augmenting.recipe or "imagenet"]
    if augmenting.auto_augment is not None:
        steps.append(v2.RandAugment() if augmenting.auto_augment == "randaugment" else v2.TrivialAugmentWide())
    erasing = [v2.RandomErasing(augmenting.random_erasing)] if augmenting.random_erasing else []
    return v2.Compose([*steps, *normalize, *erasing])


def centred(size: int) -> list[v2.Transform]:
    """The centre of a picture that is scaled to 256/224 of ``size``."""
    return [v2.Resize(size * 256 // 224), v2.CenterCrop(size)]
