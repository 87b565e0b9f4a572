"""The backends that compute the losses: ``contract`` defines the interface, ``choice`` selects ``torch`` or ``triton``.

The backends do not import each other.
"""
