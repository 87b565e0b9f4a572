"""``python -m bickd_kernels``: what a bug report should hold; see ``self_check``."""

import sys

from bickd_kernels.self_check import main

if __name__ == "__main__":
    sys.exit(main())
