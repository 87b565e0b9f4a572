"""The minimal work of a bilateral loss, by formula: bytes that must be read or written, and flops of its products.

    forward     both logits and the targets read once;     2 B^2 C for the sample side, 2 B C^2 for the class side
    backward    the gradient written once;                 the same flops again: only the student has a gradient

Rates in the tables are this work divided by the time, so that a provider does not look better for moving or computing more
than necessary.
"""

from benchmarks.cases import Case

_LOGIT_BYTES, _TARGET_BYTES = 4, 8


def least_bytes(case: Case) -> int:
    """Bytes for forward and backward in float32."""
    return 3 * _LOGIT_BYTES * case.samples * case.classes + _TARGET_BYTES * case.samples


def product_flops(case: Case) -> int:
    """Flops for forward and backward."""
    vectors = case.samples + (case.classes if case.class_side else 0)
    return 2 * 2 * case.samples * case.classes * vectors
