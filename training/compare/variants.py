"""Variants: a method, and settings that differ from the literature's, such as ``bickd:class_wise_weight=0``."""

import re
from dataclasses import dataclass, field
from typing import Any

from training.methods import METHODS, make_method

SWITCH = "logit_standardization"


@dataclass(frozen=True)
class Variant:
    """A method with fixed settings.

    Attributes:
        label: how the user wrote it.
        method: one of ``METHODS``.
        settings: that are fixed; the others are the literature's, or tuned.
        logit_standardization: match standardized logits.
    """

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    logit_standardization: bool = False

    @property
    def needs_teacher(self) -> bool:
        return METHODS[self.method].needs_teacher

    @property
    def search(self) -> dict[str, tuple[float, float]]:
        """The settings that tuning chooses, and their ranges: those of the method, without the fixed ones."""
        return {name: ends for name, ends in METHODS[self.method].search.items() if name not in self.settings}

    def all_settings(self, drawn: dict[str, float] | None = None) -> dict[str, Any]:
        """Every setting of the method with its value: the literature's, over it the fixed ones and those ``drawn``."""
        kind = METHODS[self.method]
        defaults = dict(kind.__init__.__kwdefaults__ or {})
        known = {name: value for name, value in defaults.items() if name not in ("label_smoothing", SWITCH)}
        published = (kind.standardized or {}) if self.logit_standardization else {}
        return {**known, **published, **self.settings, **(drawn or {})}


def parse_variant(text: str) -> Variant:
    """The variant that ``METHOD`` or ``METHOD:NAME=VALUE,NAME=VALUE`` describes.

    Raises:
        ValueError: the text has another form, or the method refuses the settings.
    """
    method, colon, listed = text.partition(":")
    settings: dict[str, Any] = {}
    for assignment in listed.split(",") if colon else []:
        name, equals, value = (part.strip() for part in assignment.partition("="))
        if not (name and equals and value):
            raise ValueError(f"methods must be METHOD or METHOD:NAME=VALUE,NAME=VALUE, got {text!r}")
        if name in settings:
            raise ValueError(f"methods: {text!r} sets {name} twice")
        settings[name] = _value(value)
    switch = settings.pop(SWITCH, False)
    if not isinstance(switch, bool):
        raise ValueError(f"methods: {SWITCH} of {text!r} must be true or false, got {switch!r}")
    try:
        make_method(method, settings, logit_standardization=switch)
    except (ValueError, TypeError) as error:
        raise ValueError(f"methods: {text!r} is impossible: {error}") from error
    return Variant(text, method, settings, switch)


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text
