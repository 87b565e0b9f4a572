"""The models: by name, and with their pooled features."""

from training.models.features import Network, classifier_of
from training.models.output import Output
from training.models.registry import MODELS, check_model, make_model

__all__ = ["MODELS", "Network", "Output", "check_model", "classifier_of", "make_model"]
