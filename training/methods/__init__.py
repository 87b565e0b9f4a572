"""The methods, by name. The weights of each are its literature's defaults."""

from training.methods.bickd import BicKD
from training.methods.ce import CrossEntropy
from training.methods.kd import KnowledgeDistillation
from training.methods.method import Method

METHODS: dict[str, type[Method]] = {"ce": CrossEntropy, "kd": KnowledgeDistillation, "bickd": BicKD}

__all__ = ["METHODS", "Method"]
