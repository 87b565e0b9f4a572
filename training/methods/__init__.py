"""The methods, by name. Weights: of kd as in the literature, of bickd those of ``bickd_loss``."""

from training.methods.bickd import BicKD
from training.methods.ce import CrossEntropy
from training.methods.kd import KnowledgeDistillation
from training.methods.method import Method

METHODS: dict[str, type[Method]] = {"ce": CrossEntropy, "kd": KnowledgeDistillation, "bickd": BicKD}

__all__ = ["METHODS", "Method"]
