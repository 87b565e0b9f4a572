"""Mixup and CutMix: what is mixed depends on seed, view and sample, the partner on the order of the epoch."""

import pytest
import torch
from torch import Tensor

from training.data.augmentations import ShiftAndFlip
from training.data.loader import Loader, epoch_order
from training.data.mixing import Mixer, Mixing, missing_partners, with_partners
from training.data.splits import Batch, Normalization, Split, TensorSplit, View

COUNT, CLASSES = 60, 5
KINDS = [Mixing(mixup=0.4), Mixing(cutmix=1.0), Mixing(0.4, 1.0)]


def make_split(unreadable: dict[int, str] | None = None) -> TensorSplit:
    images = torch.randint(256, (COUNT, 3, 12, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    augmentation = ShiftAndFlip(2, flip=True)
    return TensorSplit(
        images, torch.arange(COUNT) % CLASSES, Normalization((0.5,) * 3, (0.25,) * 3), augmentation, unreadable
    )


def mixed(mixing: Mixing, parts: list[Tensor], view: View, split: Split | None = None, workers: int = 0) -> list[Batch]:
    mixer = Mixer(mixing, COUNT, CLASSES)
    with Loader(split or make_split(), workers=workers, mixer=mixer) as loader:
        return list(loader.batches(parts, view))


def by_sample(batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """Images and probabilities in the order of the samples."""
    order = torch.cat([batch.index for batch in batches]).argsort()
    probabilities = torch.cat([batch.target for batch in batches])
    return torch.cat([batch.images for batch in batches])[order], probabilities[order]


@pytest.mark.parametrize("mixing", KINDS, ids=repr)
@pytest.mark.parametrize("parts", [2, 7, 12, 60])
def test_a_mixed_image_does_not_depend_on_the_parts_that_a_step_is_divided_into(mixing: Mixing, parts: int) -> None:
    pairs, view = with_partners(epoch_order(COUNT, 0, 1)), View(0, 3)
    whole, split_up = (by_sample(mixed(mixing, [*pairs.tensor_split(n, dim=1)], view)) for n in (1, parts))
    assert all(torch.equal(one, other) for one, other in zip(whole, split_up, strict=True))


@pytest.mark.parametrize("mixing", KINDS, ids=repr)
def test_images_and_probabilities_mix_two_samples_in_the_same_shares(mixing: Mixing) -> None:
    pairs, view = with_partners(epoch_order(COUNT, 0, 1)), View(0, 3)
    split = make_split()
    split = TensorSplit(split.images, torch.arange(COUNT), split.normalization)
    batch = Mixer(mixing, COUNT, COUNT)(split.load(pairs[0]), pairs, view)
    own, other = (split.load(samples).images for samples in pairs)
    shares = batch.target.gather(1, pairs[0, :, None])[:, 0]
    torch.testing.assert_close(batch.target.gather(1, pairs[1, :, None])[:, 0], 1 - shares)
    torch.testing.assert_close(batch.target.sum(dim=1), torch.ones(COUNT))
    blend = shares[:, None, None, None] * own + (1 - shares[:, None, None, None]) * other
    cut = mixing.draw(COUNT, view)[pairs[0], 3].bool()
    torch.testing.assert_close(batch.images[~cut], blend[~cut], rtol=1e-4, atol=1e-5)
    foreign = (batch.images != own).any(dim=1)
    for row in cut.nonzero()[:, 0].tolist():
        assert torch.equal(torch.where(foreign[row], other[row], own[row]), batch.images[row])
        rows, columns = (foreign[row].any(dim).sum().item() for dim in (1, 0))
        assert rows * columns == foreign[row].sum()
        assert abs(1 - shares[row] - rows * columns / (12 * 16)) < 1e-6
    assert cut.all() if not mixing.mixup else not cut.any() if not mixing.cutmix else 10 < cut.sum() < 50


def test_the_weights_are_drawn_from_the_beta_distribution_again_for_every_view() -> None:
    drawn = Mixing(mixup=0.4).draw(20000, View(0, 0))
    # Beta(a, a) has mean 1/2 and variance 1 / (8 a + 4), here 0.373^2; the squared deviation itself deviates by 0.0901.
    # Mean and variance of 20000 numbers stay within four standard errors.
    assert abs(drawn[:, 0].mean() - 0.5) < 4 * 0.373 / 20000**0.5
    assert abs(drawn[:, 0].var() - 1 / 7.2) < 4 * 0.0901 / 20000**0.5
    for other in (View(0, 1), View(1, 0)):
        assert (Mixing(mixup=0.4).draw(20000, other) != drawn).any(dim=1).all()
    assert torch.equal(Mixing(mixup=0.4).draw(20000, View(0, 0)), drawn)


def test_partners_are_mutual_and_the_last_of_an_odd_number_is_its_own_partner() -> None:
    own, partners = with_partners(torch.tensor([4, 2, 0, 1, 3]))
    assert partners.tolist() == [2, 4, 1, 0, 3]
    assert missing_partners(torch.stack((own, partners))[:, 1:3]).tolist() == [4, 1]


@pytest.mark.parametrize("parts", [1, 60])
def test_a_sample_whose_partner_cannot_be_read_is_not_mixed(parts: int) -> None:
    pairs, view = with_partners(torch.arange(COUNT)), View(0, 0)
    split = make_split({6: "image 6 is broken"})
    batches = mixed(Mixing(mixup=0.4), [*pairs.tensor_split(parts, dim=1)], view, split)
    assert [message for batch in batches for message in batch.broken] == ["image 6 is broken"]
    read = [batch for batch in batches if len(batch.index)]
    samples = torch.cat([batch.index for batch in read]).tolist()
    assert samples == [sample for sample in range(COUNT) if sample != 6]
    images, probabilities = by_sample(read)
    assert torch.equal(images[6], make_split().load(torch.tensor([7]), view).images[0])
    assert probabilities[6].tolist() == [0, 0, 1, 0, 0]


def test_without_a_view_nothing_is_mixed() -> None:
    mixer = Mixer(Mixing(mixup=1.0), COUNT, CLASSES)
    with Loader(make_split(), workers=0, mixer=mixer) as loader:
        (batch,) = loader.batches([torch.arange(5)])
    assert batch.probabilities is None
    assert batch.target.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_an_invalid_alpha_is_refused_by_name(name: str, alpha: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be finite and not negative"):
        Mixing(**{name: alpha})
