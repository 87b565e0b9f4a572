"""The models: by name, and with their pooled features."""

from training.models.features import Network, classifier_of
from training.models.output import Output
from training.models.registry import MODELS, check_model, expects_own_normalization, make_model, same_model

__all__ = [
    "MODELS",
    "Network",
    "Output",
    "check_model",
    "classifier_of",
    "expects_own_normalization",
    "make_model",
    "same_model",
]
