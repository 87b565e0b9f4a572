"""The processes of a group: what they agree on before a tensor moves (``agreement``), and what then moves (``exchange``).

No module here knows the loss.
"""
