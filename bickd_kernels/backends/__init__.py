"""What computes the losses: ``contract`` says what a backend is, ``choice`` picks one, ``torch`` and ``triton`` are two.

No backend knows the other.
"""
