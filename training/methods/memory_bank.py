"""A memory bank: the last embedding of every training sample, and the contrastive loss of a batch with it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_ELEMENTS = 2**24
"""Maximum number of elements of a tensor for a block of samples; a block has at least one sample."""


class MemoryBank(nn.Module):
    """``vectors`` ``(N, d)``, saved with the method; initially uniform in +-sqrt(3 / d), with length about 1.

    ``log_normalizer`` is log Z, NaN until it is estimated from the first batch:
    Z = N * mean of exp(u . v / temperature) over the batch's embeddings u and the vectors v that they are contrasted with.

    Args:
        count: ``N``.
        width: ``d``.
        momentum: weight of the old vector when a sample's vector is updated.
        temperature: divides the dot products of vectors.
    """

    vectors: Tensor
    log_normalizer: Tensor

    def __init__(self, count: int, width: int, *, momentum: float, temperature: float) -> None:
        super().__init__()
        self.momentum, self.temperature = momentum, temperature
        bound = math.sqrt(3 / width)
        self.register_buffer("vectors", torch.empty(count, width).uniform_(-bound, bound))
        self.register_buffer("log_normalizer", torch.tensor(math.nan))
        self.estimated = False
        self.register_load_state_dict_post_hook(_look_again)

    @property
    def has_normalizer(self) -> bool:
        """Whether log Z has been estimated."""
        # Cached, because otherwise every step would wait for the device.
        self.estimated = self.estimated or not bool(self.log_normalizer.isnan())
        return self.estimated

    def log_means(self, embeddings: Tensor, index: Tensor) -> Tensor:
        """The logarithm of the mean of exp(u . v / temperature), ``(B,)``, of every embedding ``(B, d)`` with the vectors at
        ``index`` ``(B, K)``."""
        with torch.no_grad():
            blocks = [self._scores(embeddings[rows], index[rows]).logsumexp(dim=1) for rows in self._blocks(index)]
        return torch.cat([embeddings.new_zeros(0), *blocks]) - math.log(index.shape[1])

    def contrast(self, embeddings: Tensor, index: Tensor, log_normalizer: Tensor) -> Tensor:
        """Noise-contrastive estimation for embeddings ``(B, d)`` with the vectors at ``index`` ``(B, 1 + K)``, whose first
        is the positive one: the mean over the samples of

            -log D(first) - sum over the others of log(1 - D),   D = P / (P + K / N),  P = exp(u . v / temperature) / Z

        Its gradient is computed here, block by block: neither B x (1 + K) vectors nor scores are kept, and the bank may be
        updated before the backward pass.
        """
        differentiated = torch.is_grad_enabled() and embeddings.requires_grad
        total, gradients = embeddings.new_zeros(()), list[Tensor]()
        for rows in self._blocks(index):
            with torch.set_grad_enabled(differentiated):
                block = embeddings[rows].detach().requires_grad_(differentiated)
                log_ratio = self._scores(block, index[rows]) - log_normalizer - self._log_noise(index)
                loss = F.softplus(-log_ratio[:, 0]).sum() + F.softplus(log_ratio[:, 1:]).sum()
            if differentiated:
                gradients += torch.autograd.grad(loss, block)
            total = total + loss.detach()
        if differentiated:
            # The second factor is 0 with derivative 1, so the sum has the loss's value and the gradient found above.
            total = total + (torch.cat(gradients) * (embeddings - embeddings.detach())).sum()
        # A process may have no samples; then the sum is 0.
        return total / max(1, len(index))

    @torch.no_grad()
    def update(self, index: Tensor, embeddings: Tensor) -> None:
        """Moves the vectors at ``index`` ``(B,)`` toward ``embeddings`` ``(B, d)`` and normalizes them to length 1."""
        moved = self.momentum * self.vectors[index] + (1 - self.momentum) * embeddings
        self.vectors[index] = F.normalize(moved, dim=1)

    def _log_noise(self, index: Tensor) -> float:
        return math.log((index.shape[1] - 1) / len(self.vectors))

    def _scores(self, embeddings: Tensor, index: Tensor) -> Tensor:
        """Dot products over the temperature ``(b, K)`` of embeddings ``(b, d)`` with the vectors at ``index`` ``(b, K)``."""
        scaled = embeddings / self.temperature
        if self._gathers(index):
            return (self.vectors[index] @ scaled[:, :, None])[:, :, 0]
        return (scaled @ self.vectors.T).gather(1, index)

    def _gathers(self, index: Tensor) -> bool:
        """Whether the K vectors of a sample are fewer elements than its products with the whole bank."""
        return index.shape[1] * self.vectors.shape[1] < len(self.vectors)

    def _blocks(self, index: Tensor) -> list[slice]:
        elements = index.shape[1] * self.vectors.shape[1] if self._gathers(index) else len(self.vectors)
        size = max(1, BLOCK_ELEMENTS // max(elements, index.shape[1]))
        return [slice(start, start + size) for start in range(0, len(index), size)]


def _look_again(module: nn.Module, _: object) -> None:
    assert isinstance(module, MemoryBank)
    module.estimated = False
