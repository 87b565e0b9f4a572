"""What a bilateral loss cannot avoid, by formula: bytes that have to be read or written, and flops of its products.

    forward     both logits and the targets read once;     2 B^2 C of the sample side, 2 B C^2 of the class side
    backward    the gradient written once;                 as many again: only the student has a gradient

Rates in the tables are these over the time, so that a provider that moves or computes more than it has to does not look
busier for it.
"""

from benchmarks.cases import Case

_LOGIT_BYTES, _TARGET_BYTES = 4, 8


def least_bytes(case: Case) -> int:
    """Of forward and backward in float32."""
    return 3 * _LOGIT_BYTES * case.samples * case.classes + _TARGET_BYTES * case.samples


def product_flops(case: Case) -> int:
    """Of forward and backward."""
    vectors = case.samples + (case.classes if case.class_side else 0)
    return 2 * 2 * case.samples * case.classes * vectors
