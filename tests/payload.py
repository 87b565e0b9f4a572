"""A pickle that does something when it is read: the sign that a file was executed."""

import os
from pathlib import Path


class Payload:
    """Makes the folder ``sign`` when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.sign),)
