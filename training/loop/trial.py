"""A trial forward pass at the start of a run: checks that a network accepts the run's images."""

import torch
from torch import Tensor

from training.config import Config
from training.data import Split, Splits, View
from training.loop.evaluation import formatted
from training.loop.learner import run
from training.methods import METHODS
from training.models import Network

TRIED = 16
"""Number of samples of a split that are tried until one can be read."""


def try_on_splits(role: str, name: str, network: Network, splits: Splits, config: Config, device: torch.device) -> None:
    """``try_network`` with training images and with test images, and with features if the run needs them.

    Raises:
        ValueError: names the model, the setting and the size.
    """
    features = METHODS[config.method].needs_features
    for split, view in ((splits.train, View(config.seed, 0)), (splits.test, None)):
        try_network(role, name, network, split, config, device, features=features, view=view)


@torch.no_grad()
def try_network(
    role: str, name: str, network: Network, split: Split, config: Config, device: torch.device, *, features: bool = False,
    view: View | None = None,
) -> None:  # fmt: skip
    """Passes two images of the size of those in ``split`` through ``network``, in evaluation mode and without changing it.

    Args:
        role: student or teacher, for the message.
        name: of the model, for the message.
        features: whether the run needs its features.
        view: the view in which the images are loaded.

    Raises:
        ValueError: names the model, the setting and the size.
    """
    image = _image(split, view)
    if image is None:
        return
    images = formatted(torch.stack((image, image)).to(device), config)
    modes = {module: module.training for module in network.modules()}
    try:
        logits = run(network.eval(), images, precision=config.precision, features=features).logits
    # Networks reject an image size in different ways, with assertions or with errors of any operation.
    except Exception as error:
        raise ValueError(_refusal(role, name, network, image, config, str(error))) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if logits.shape != (2, network.classes):
        told = f"it returns {tuple(logits.shape)} instead of (2, {network.classes}) logits"
        raise ValueError(_refusal(role, name, network, image, config, told))


def _image(split: Split, view: View | None) -> Tensor | None:
    """The first readable image ``(channels, height, width)``, None if none of the first samples is readable."""
    for sample in range(min(TRIED, len(split))):
        batch = split.load(torch.tensor([sample]), view)
        if len(batch.labels):
            return batch.images[0]
    return None


def _refusal(role: str, name: str, network: Network, image: Tensor, config: Config, told: str) -> str:
    size = " x ".join(map(str, image.shape))
    wanted = getattr(network.model, "image_size", None)
    advice = f"; it expects image_size {wanted}" if isinstance(wanted, int) else ""
    reason = (told.splitlines() or ["no reason given"])[0]
    return (
        f"{role} {name} does not accept the images of {config.dataset}, {size} with image_size {config.image_size}: "
        f"{reason}{advice}"
    )
