"""The methods, by name. Weights and temperatures are the literature's; those of bickd are the defaults of ``bickd_loss``."""

from collections.abc import Mapping
from typing import Any

from training.methods.bickd import BicKD
from training.methods.ce import CrossEntropy
from training.methods.crd import ContrastiveRepresentationDistillation
from training.methods.dist import DistillationFromStrongerTeacher
from training.methods.dkd import DecoupledKnowledgeDistillation
from training.methods.kd import KnowledgeDistillation
from training.methods.method import Dimensions, Method, Samples, Stage, Terms
from training.methods.rkd import RelationalKnowledgeDistillation
from training.methods.sskd import SelfSupervisedKnowledgeDistillation

METHODS: dict[str, type[Method]] = {
    "ce": CrossEntropy,
    "kd": KnowledgeDistillation,
    "rkd": RelationalKnowledgeDistillation,
    "crd": ContrastiveRepresentationDistillation,
    "sskd": SelfSupervisedKnowledgeDistillation,
    "dkd": DecoupledKnowledgeDistillation,
    "dist": DistillationFromStrongerTeacher,
    "bickd": BicKD,
}


def make_method(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    logit_standardization: bool = False,
    label_smoothing: float = 0.0,
) -> Method:
    """The method ``name`` with its defaults, or the settings published for ``logit_standardization``; ``settings`` override
    both.

    Raises:
        ValueError: the method does not exist, lacks or refuses a setting, or its type, or does not support a switch.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(sorted(METHODS))}, got {name!r}")
    kind = METHODS[name]
    settings = dict(settings or {})
    known = default_settings(name)
    for setting in settings:
        if setting not in known:
            raise ValueError(f"settings of method {name!r} must be of {', '.join(known) or 'none'}, got {setting!r}")
        settings[setting] = _of_type(setting, settings[setting], type(known[setting]))
    if logit_standardization:
        if kind.standardized is None:
            able = ", ".join(sorted(other for other, method in METHODS.items() if method.standardized is not None))
            raise ValueError(f"logit_standardization must be left out for method {name!r}; methods that have it: {able}")
        settings = {**kind.standardized, **settings, "logit_standardization": True}
    return kind(**settings, label_smoothing=label_smoothing)


def _of_type(name: str, value: Any, kind: type) -> Any:
    """A setting, if it fits the type of its default; whole numbers may be written as floats, such as 1e3."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int and number and float(value).is_integer():
        return int(value)
    fits = {bool: isinstance(value, bool), int: False, float: number}
    if not fits.get(kind, value is None or isinstance(value, str)):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a name")
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return value


def default_settings(name: str, *, logit_standardization: bool = False) -> dict[str, Any]:
    """The settings of a method with their defaults, or with the published values for ``logit_standardization``."""
    kind = METHODS[name]
    switches = ("label_smoothing", "logit_standardization")
    defaults = {setting: value for setting, value in (kind.__init__.__kwdefaults__ or {}).items() if setting not in switches}
    return {**defaults, **(kind.standardized or {})} if logit_standardization else defaults


__all__ = ["METHODS", "Dimensions", "Method", "Samples", "Stage", "Terms", "default_settings", "make_method"]
