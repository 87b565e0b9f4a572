"""Trains on ImageNet with the recipe ``imagenet`` of presets.py:

torchrun --nproc-per-node=8 training/train_imagenet.py --data PATH --teacher resnet34 --student resnet18 --method bickd

PATH holds the folders imagenet/train and imagenet/val, or train and val, each with one folder of images per class. Without
--teacher-checkpoint the teacher uses torchvision's published weights.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Started as a file, Python looks for modules in the file's folder, not in the project.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training.train import main

if __name__ == "__main__":
    sys.exit(main(preset="imagenet", command="torchrun training/train_imagenet.py"))
