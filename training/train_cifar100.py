"""Trains on CIFAR-100 with the recipe ``cifar`` of presets.py:

python training/train_cifar100.py --data PATH --teacher-checkpoint FILE --student resnet8x4 --method bickd

PATH holds the folder cifar-100-python, or the Parquet files of the Hugging Face hub. To train the teacher, use the same
command with ``--method ce --student resnet32x4``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Started as a file, Python looks for modules in the file's folder, not in the project.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training.train import main

if __name__ == "__main__":
    sys.exit(main(preset="cifar", command="python training/train_cifar100.py"))
