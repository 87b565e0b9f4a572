"""RandAugment (arXiv 1909.13719) and TrivialAugment (arXiv 2103.10158) for a whole batch, as defined by torchvision.

torchvision draws an operation for each image and applies it to that image. Here each operation is applied
together to all images of a batch that drew it, each with its own magnitude. The random numbers are on the CPU, so the sizes
of these groups are known without synchronizing with the device.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from training.data.splits import Draws
from training.data.transfer import transfer

BINS = 31
"""Number of magnitudes of an operation."""


@dataclass(frozen=True)
class Space:
    """The largest magnitudes: shears, vertical and horizontal translations in pixels, rotations in degrees, changes of
    brightness, colour, contrast and sharpness, and the number of bits that posterizing drops."""

    shear: float
    translate: tuple[float, float]
    rotate: float
    enhance: float
    bits: int

    def magnitudes(self) -> Tensor:
        """The magnitudes ``(operations, BINS)`` without their sign, in the order of ``OPERATIONS``."""
        height, width = self.translate
        signed = (self.shear, self.shear, width, height, self.rotate, *(self.enhance,) * 4)
        rows = [torch.linspace(0.0, largest, BINS) for largest in signed]
        rows[2:4] = [row.trunc() for row in rows[2:4]]
        posterize = (8 - torch.arange(BINS) / ((BINS - 1) / self.bits)).round()
        solarize = (255 * torch.linspace(1.0, 0.0, BINS).double()).float()
        unused = torch.zeros(BINS)
        return torch.stack((unused, *rows, posterize, solarize, unused, unused))


@dataclass(frozen=True)
class AutoAugment:
    """Draws ``count`` operations for each image, with a fixed or a random magnitude.

    Attributes:
        space: the largest magnitudes.
        count: number of operations, applied in sequence.
        magnitude: index from 0 to ``BINS - 1``; None draws it at random.
    """

    space: Space
    count: int
    magnitude: int | None

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Operations and signed magnitudes, each ``(count, self.count)``."""
        shape = (count, self.count)
        operation = torch.randint(len(OPERATIONS), shape, generator=generator)
        sign = torch.where((torch.rand(shape, generator=generator) <= 0.5) & SIGNED[operation], -1.0, 1.0)
        if self.magnitude is None:
            strength = torch.randint(BINS, shape, generator=generator)
        else:
            strength = torch.full(shape, self.magnitude)
        return operation, sign * self.space.magnitudes()[operation, strength]

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Augmented uint8 images; float32 ``images`` in [0, 1] are rounded to uint8."""
        operations, magnitudes = draws
        images = as_bytes(images)
        for step in range(self.count):
            images = _apply_each(images, operations[:, step], magnitudes[:, step])
        return images


def rand_augment(height: int, width: int) -> AutoAugment:
    """RandAugment with the defaults of torchvision: 2 operations at magnitude 9."""
    return AutoAugment(Space(0.3, (150 / 331 * height, 150 / 331 * width), 30.0, 0.9, 4), 2, 9)


def trivial_augment() -> AutoAugment:
    """TrivialAugment in its wide space: 1 operation at any magnitude."""
    return AutoAugment(Space(0.99, (32.0, 32.0), 135.0, 0.99, 6), 1, None)


def as_bytes(images: Tensor) -> Tensor:
    """uint8 images in [0, 255] from uint8 images, or from float32 images in [0, 1]."""
    return images if images.dtype == torch.uint8 else (255 * images).round().clamp(0, 255).to(torch.uint8)


def _apply_each(images: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Applies to each uint8 image of ``(B, channels, height, width)`` its operation ``(B,)`` with its magnitude ``(B,)``."""
    order = torch.argsort(operations, stable=True)
    sizes = torch.bincount(operations, minlength=len(OPERATIONS)).tolist()
    rows = transfer(order, images.device)
    sorted_magnitudes = transfer(magnitudes[order], images.device)[:, None, None, None]
    groups = zip(OPERATIONS, images[rows].split(sizes), sorted_magnitudes.split(sizes), strict=True)
    done = [operation(group, own) for operation, group, own in groups if len(group)]
    return torch.empty_like(images).index_copy_(0, rows, torch.cat(done))


def _identity(images: Tensor, _: Tensor) -> Tensor:
    return images


def _shear_x(images: Tensor, magnitude: Tensor) -> Tensor:
    x, y = _coordinates(images)
    return _sample(images, x + magnitude[:, 0] * (y + 0.5 * images.shape[2]), y)


def _shear_y(images: Tensor, magnitude: Tensor) -> Tensor:
    x, y = _coordinates(images)
    return _sample(images, x, y + magnitude[:, 0] * (x + 0.5 * images.shape[3]))


def _translate_x(images: Tensor, magnitude: Tensor) -> Tensor:
    x, y = _coordinates(images)
    return _sample(images, x - magnitude[:, 0], y)


def _translate_y(images: Tensor, magnitude: Tensor) -> Tensor:
    x, y = _coordinates(images)
    return _sample(images, x, y - magnitude[:, 0])


def _rotate(images: Tensor, magnitude: Tensor) -> Tensor:
    x, y = _coordinates(images)
    angle = torch.deg2rad(magnitude[:, 0])
    return _sample(images, angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y)


def _coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    """The columns ``(width,)`` and rows ``(height, 1)`` of the pixels, relative to the image centre."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device, dtype=torch.float32) - (height - 1) / 2
    return torch.arange(width, device=images.device, dtype=torch.float32) - (width - 1) / 2, rows[:, None]


def _sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The pixel nearest to each position, 0 outside the image."""
    height, width = images.shape[2:]
    places = torch.broadcast_tensors(x / (0.5 * width), y / (0.5 * height), torch.empty_like(images[:, 0], dtype=x.dtype))
    sampled = F.grid_sample(images.float(), torch.stack(places[:2], dim=3), mode="nearest", align_corners=False)
    return sampled.round().to(torch.uint8)


def _brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(images[:, :1, :1, :1]), 1 + magnitude)


def _color(images: Tensor, magnitude: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blend(images, _grey(images), 1 + magnitude)


def _contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    return _blend(images, _grey(images).mean(dim=(1, 2, 3), keepdim=True), 1 + magnitude)


def _sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    if min(images.shape[2:]) <= 2:
        return images
    sharpened, inner = images.float(), images[:, :, 1:-1, 1:-1].float()
    # The mean over 3 x 3 pixels, with weight 5 for the middle one.
    blurred = ((9 * F.avg_pool2d(sharpened, 3, stride=1) + 4 * inner) / 13).round()
    sharpened[:, :, 1:-1, 1:-1] = inner - (blurred - inner) * magnitude
    return sharpened.clamp(0, 255).to(torch.uint8)


def _posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    return images & (256 - torch.exp2(8 - magnitude).round()).to(torch.uint8)


def _solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    return torch.where(images >= magnitude, 255 - images, images)


def _auto_contrast(images: Tensor, _: Tensor) -> Tensor:
    return transforms.autocontrast(images)


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    return transforms.equalize(images)


def _grey(images: Tensor) -> Tensor:
    """The luminance ``(B, 1, height, width)`` float32, rounded down to integers."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().unbind(dim=1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor()[:, None]


def _blend(images: Tensor, others: Tensor, ratio: Tensor) -> Tensor:
    return (images * ratio + others * (1 - ratio)).clamp(0, 255).to(torch.uint8)


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _identity, _shear_x, _shear_y, _translate_x, _translate_y, _rotate, _brightness, _color, _contrast, _sharpness,
    _posterize, _solarize, _auto_contrast, _equalize,
)  # fmt: skip
SIGNED = torch.tensor([0 < index < 10 for index in range(len(OPERATIONS))])
