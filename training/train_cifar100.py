"""Trains on CIFAR-100, by the recipe ``cifar`` of presets.py:

python training/train_cifar100.py --data PATH --teacher-checkpoint FILE --student resnet8x4 --method bickd

PATH has the folder cifar-100-python, or the Parquet files of the Hugging Face hub. The teacher is trained by the same
command with ``--method ce --student resnet32x4``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Started as a file, Python looks for modules beside it and not in the project that it belongs to.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training.train import main

if __name__ == "__main__":
    sys.exit(main(preset="cifar", command="python training/train_cifar100.py"))
