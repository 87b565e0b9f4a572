"""``python -m bickd_kernels`` prints what a bug report should contain; see ``self_check``."""

import sys

from bickd_kernels.self_check import main

if __name__ == "__main__":
    sys.exit(main())
