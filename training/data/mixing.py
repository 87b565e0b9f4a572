"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899): images and labels of two samples mixed.

mixed image = w * own + (1 - w) * partner's;   probabilities = l * one-hot of own + (1 - l) * one-hot of the partner's label

For mixup, w = l is one number drawn from Beta(alpha, alpha); for CutMix, w is 0 within a random rectangle and 1 outside it,
and l is its mean. l and the rectangle depend on seed, view and sample. The samples of an epoch are paired in its order, so
the partner of a sample depends neither on the number of processes nor on the micro-batches.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.augmentations import rectangles
from training.data.splits import Batch, View
from training.data.transfer import transfer
from training.seeds import derived_seed


@dataclass(frozen=True)
class Mixing:
    """How samples are mixed; with both, each sample uses one of the two, with probability 1/2.

    Attributes:
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none.

    Raises:
        ValueError: names the setting that is negative or not finite.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def draw(self, count: int, view: View) -> Tensor:
        """For each of ``count`` samples, ``(count, 4)`` float64: l, of CutMix before its rectangle is cut off at the edges;
        the centre of the rectangle, as parts of height and width; whether it is CutMix."""
        generator = np.random.Generator(np.random.Philox(derived_seed("mixing", view.seed, view.number)))
        cut = generator.random(count) < (1.0 if not self.mixup else 0.5 if self.cutmix else 0.0)
        mixup, cutmix = (generator.beta(alpha, alpha, count) if alpha else 0 for alpha in (self.mixup, self.cutmix))
        centre = generator.random((2, count))
        return torch.from_numpy(np.stack((np.where(cut, cutmix, mixup), *centre, cut), axis=1))


class Mixer:
    """Mixes the batches of a split.

    Args:
        mixing: the settings.
        count: number of samples of the split.
        classes: number of its classes.
    """

    def __init__(self, mixing: Mixing, count: int, classes: int) -> None:
        self.mixing, self.count, self.classes = mixing, count, classes
        self._drawn: tuple[View, Tensor] | None = None

    def __call__(self, batch: Batch, part: Tensor, view: View) -> Batch:
        """Mixes the samples of a micro-batch with their partners.

        Args:
            batch: has the samples ``part[0]`` that could be read, in their order, and those of ``part[1]`` anywhere.
            part: ``(2, B)`` int64, positions and those of their partners, as in ``with_partners``. A sample whose partner
                could not be read is not mixed.
            view: the view of the epoch.
        """
        if not len(batch.index):
            return batch._replace(probabilities=batch.images.new_zeros(0, self.classes))
        own, other = _rows(batch.index, part)
        index = batch.index[own]
        height, width = batch.images.shape[2:]
        keep, boxes = _weights(self._draws(view)[index], height, width)
        device = batch.images.device
        own, other, keep, boxes = (transfer(each, device) for each in (own, other, keep, boxes))
        cut = rectangles(boxes, height, width)
        # CutMix takes only the rectangle from the partner; mixup mixes the whole image.
        weight = torch.where((boxes[:, 2:3] >= 0)[:, :, None, None], (~cut).float(), keep[:, None, None, None])
        labels = F.one_hot(batch.labels, self.classes).float()
        return batch._replace(
            images=torch.lerp(batch.images[other], batch.images[own], weight),
            labels=batch.labels[own],
            index=index,
            probabilities=torch.lerp(labels[other], labels[own], keep[:, None]),
        )

    def _draws(self, view: View) -> Tensor:
        if self._drawn is None or self._drawn[0] != view:
            self._drawn = view, self.mixing.draw(self.count, view)
        return self._drawn[1]


def with_partners(order: Tensor) -> Tensor:
    """The samples of an epoch and their partners, ``(2, N)``: first and second, third and fourth, and so on in ``order``
    ``(N,)``; the last of an odd number is its own partner."""
    place = (torch.arange(len(order)) ^ 1).clamp(max=len(order) - 1)
    return torch.stack((order, order[place]))


def missing_partners(part: Tensor) -> Tensor:
    """The partners in a part ``(2, B)`` that are not among its samples."""
    own, partners = part
    return partners[~torch.isin(partners, own)]


def _rows(index: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """The rows in a batch of the samples ``index`` of a part's samples, and of the partner of each."""
    found, order = index.sort()
    place = torch.searchsorted(found, part.contiguous()).clamp(max=len(found) - 1)
    there, rows = found[place] == part, order[place]
    other = torch.where(there[1], rows[1], rows[0])
    return rows[0][there[0]], other[there[0]]


def _weights(drawn: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """l ``(B,)`` float32, and the rectangles ``(B, 4)`` int64, of -1 rows for mixup."""
    weight, y, x, cut = drawn.unbind(dim=1)
    size = torch.tensor([height, width])
    half = ((1 - weight).sqrt()[:, None] * size / 2).long()
    centre = (torch.stack((y, x), dim=1) * size).long()
    first, last = (centre - half).clamp(min=0), torch.minimum(centre + half, size)
    boxes = torch.cat((first, last - first), dim=1)
    inside = boxes[:, 2] * boxes[:, 3] / (height * width)
    boxes[cut == 0] = -1
    return torch.where(cut > 0, 1 - inside, weight).float(), boxes
