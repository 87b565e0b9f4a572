"""A pickle that creates a folder when it is loaded: the sign that loading a file has executed it."""

import os
from pathlib import Path


class Payload:
    """Creates the folder ``sign`` when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.sign),)
