"""RandAugment and TrivialAugment on whole batches, compared with torchvision's on single images."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from training.data.auto_augment import BINS, OPERATIONS, AutoAugment, rand_augment, trivial_augment

NAMES = tuple(v2.TrivialAugmentWide._AUGMENTATION_SPACE)
"""torchvision's names of the operations, in the order of ``OPERATIONS``."""

EXACT = {"Identity", "Posterize", "Solarize", "Equalize"}
"""Operations on whole numbers."""
SPATIAL = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}


def pictures(count: int, channels: int = 3, height: int = 32, width: int = 24) -> Tensor:
    """Smooth random images: in noise, every pixel that rounding takes from a neighbour would differ."""
    noise = torch.rand(count, channels, 5, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
    return (255 * smooth.clamp(0, 1)).to(torch.uint8)


def torchvision_space(kind: type, name: str) -> tuple[Tensor, bool]:
    magnitudes, signed = kind._AUGMENTATION_SPACE[name]  # type: ignore[attr-defined]
    found = magnitudes(BINS, 32, 24)
    return (torch.zeros(BINS) if found is None else found.float()), signed


@pytest.mark.parametrize(
    ("augmentation", "kind"), [(rand_augment(32, 24), v2.RandAugment), (trivial_augment(), v2.TrivialAugmentWide)]
)
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_matches_torchvision_at_every_magnitude(
    augmentation: AutoAugment, kind: Any, number: int, channels: int
) -> None:
    magnitudes, signed = torchvision_space(kind, NAMES[number])
    images, own = pictures(2 * BINS, channels), augmentation.space.magnitudes()[number]
    own, theirs = (torch.cat((each, -each if signed else each)) for each in (own, magnitudes))
    draws = torch.full((2 * BINS, 1), number), own[:, None]
    applied = AutoAugment(augmentation.space, 1, None).apply(images, draws)
    transform, expected = kind(), []
    for image, magnitude in zip(images, theirs.tolist(), strict=True):
        expected.append(
            transform._apply_image_or_video_transform(
                image, NAMES[number], magnitude, interpolation=v2.InterpolationMode.NEAREST, fill={torch.Tensor: None}
            )
        )
    differences = (applied.int() - torch.stack(expected).int()).abs()
    if NAMES[number] in EXACT:
        assert not differences.any()
    elif NAMES[number] in SPATIAL:
        differences *= ~tied(NAMES[number], magnitudes)[:, None]
        # Positions are off by 1e-6 pixels: one in 250,000 is so close to the middle that the other neighbour is taken.
        assert (differences > 0).double().mean() < 1e-4
    else:
        # A level that is a whole number, one in 30 for magnitudes in hundredths, may be rounded to either side of it.
        assert differences.max() <= 1
        assert (differences > 0).double().mean() < 0.01


def tied(name: str, magnitudes: Tensor) -> Tensor:
    """Where a shear by ``magnitudes``, and by their negatives, moves pixels to the exact middle between two others."""
    rows, columns = torch.arange(32)[:, None].expand(32, 24), torch.arange(24).expand(32, 24)
    lines = {"ShearX": rows, "ShearY": columns}.get(name)
    if lines is None:
        return torch.zeros(2 * BINS, 32, 24, dtype=torch.bool)
    moves = magnitudes.double()[:, None, None] * (lines + 0.5)
    return ((moves % 1 - 0.5).abs() < 1e-5).repeat(2, 1, 1)


def test_an_image_is_augmented_the_same_in_every_batch() -> None:
    images = pictures(200)
    for augmentation in (rand_augment(32, 24), trivial_augment()):
        operations, magnitudes = augmentation.draw(200, torch.Generator().manual_seed(1))
        whole = augmentation.apply(images, (operations, magnitudes))
        for index in torch.randperm(200, generator=torch.Generator().manual_seed(2)).split(17):
            assert torch.equal(augmentation.apply(images[index], (operations[index], magnitudes[index])), whole[index])


def test_operations_magnitudes_and_signs_are_drawn_uniformly() -> None:
    operations, magnitudes = trivial_augment().draw(14 * BINS * 100, torch.Generator().manual_seed(0))
    counts = torch.bincount(operations[:, 0], minlength=len(OPERATIONS))
    assert ((counts - 3100).abs() < 300).all()
    rotations = magnitudes[operations == NAMES.index("Rotate")]
    assert rotations.unique().numel() == 2 * BINS - 1
    assert abs((rotations < 0).double().mean() - 0.5) < 0.05
    operations, magnitudes = rand_augment(32, 32).draw(1000, torch.Generator().manual_seed(0))
    assert operations.shape == (1000, 2)
    torch.testing.assert_close(magnitudes[operations == 5].abs().unique(), torch.tensor([9.0]))


def test_float_images_are_rounded_to_bytes() -> None:
    images = pictures(20, 1)
    augmentation = trivial_augment()
    draws = augmentation.draw(20, torch.Generator().manual_seed(0))
    assert torch.equal(augmentation.apply(images.float() / 255, draws), augmentation.apply(images, draws))
