"""The pooled features of any classification network: the input of its last linear layer."""

from typing import Any

from torch import Tensor, nn

from training.models.output import Output


class InputOfClassifier:
    """A forward pre-hook that keeps a layer's input, only in forward passes that request it."""

    def __init__(self) -> None:
        self.wanted = False
        self.kept: Tensor | None = None

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.wanted:
            self.kept = inputs[0]


class Network(nn.Module):
    """A model whose forward pass returns an ``Output``, with pooled features if requested.

    The classifier is the layer that timm's ``get_classifier`` names, or else the model's last ``nn.Linear`` with ``classes``
    outputs. Without one the network returns only logits.

    Args:
        model: returns logits ``(B, classes)`` of images ``(B, channels, height, width)``, or an object with ``.logits``.
        classes: number of logits.
    """

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes
        self._input = InputOfClassifier()
        classifier = classifier_of(model, classes)
        self._width = None if classifier is None else classifier.in_features
        if classifier is not None:
            classifier.register_forward_pre_hook(self._input)

    @property
    def feature_width(self) -> int:
        """Width ``D`` of the features.

        Raises:
            ValueError: the model has no classifier to take them from.
        """
        if self._width is None:
            raise ValueError(f"{self._name} gives no features: it has no nn.Linear with {self.classes} outputs")
        return self._width

    def forward(self, images: Tensor, *, features: bool = False) -> Output:
        """Logits ``(B, classes)`` and, if ``features``, the pooled features ``(B, D)``, through which gradients flow.

        Raises:
            TypeError: the model returns something other than logits.
            ValueError: features are requested and the model has no classifier, or it reads more than a vector per image.
        """
        if not features:
            return Output(self._logits(images))
        width = self.feature_width
        self._input.wanted = True
        try:
            logits, kept = self._logits(images), self._input.kept
        finally:
            # The kept input would hold the graph of this step until the next.
            self._input.wanted, self._input.kept = False, None
        shape, expected = None if kept is None else tuple(kept.shape), (len(images), width)
        if shape != expected:
            raise ValueError(f"{self._name} gives no pooled features: its classifier reads {shape} instead of {expected}")
        return Output(logits, kept)

    def _logits(self, images: Tensor) -> Tensor:
        result = self.model(images)
        logits = result if isinstance(result, Tensor) else getattr(result, "logits", None)
        if not isinstance(logits, Tensor):
            raise TypeError(f"{self._name} must give logits or an object with .logits, got {type(result).__name__}")
        return logits

    @property
    def _name(self) -> str:
        return type(self.model).__name__


def classifier_of(model: nn.Module, classes: int) -> nn.Linear | None:
    """The layer that timm's ``get_classifier`` names, or else the last ``nn.Linear`` with ``classes`` outputs."""
    get: Any = getattr(model, "get_classifier", None)
    named = get() if callable(get) else None
    if isinstance(named, nn.Linear):
        return named
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == classes]
    return linear[-1] if linear else None
