"""Trains on ImageNet, by the recipe ``imagenet`` of presets.py:

torchrun --nproc-per-node=8 training/train_imagenet.py --data PATH --teacher resnet34 --student resnet18 --method bickd

PATH has the folders imagenet/train and imagenet/val, or train and val, each with a folder of images for every class. Without
--teacher-checkpoint the teacher has torchvision's published weights.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Started as a file, Python looks for modules beside it and not in the project that it belongs to.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training.train import main

if __name__ == "__main__":
    sys.exit(main(preset="imagenet", command="torchrun training/train_imagenet.py"))
