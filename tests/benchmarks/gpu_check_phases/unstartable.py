"""A phase whose module cannot be imported."""

raise ImportError("no module named what this machine lacks")
