"""Package metadata; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

TRAINING = [
    "torchvision>=0.29",
    "numpy>=2.0",
    "scikit-learn>=1.5",
    "matplotlib>=3.9",
    "rich>=13.7",
    "jsonargparse>=4.40",
    "pyyaml>=6.0",
    "torchmetrics>=1.5",
    "tensorboard>=2.18",
    "scipy>=1.13",
]
DEVELOPMENT = [
    "hypothesis>=6.100",
    "mypy>=1.14",
    "pytest>=8.2",
    "pytest-benchmark>=5.1",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "triton>=3.4; platform_system == 'Linux'",
    "types-PyYAML",
]

setup(
    name="bickd-kernels",
    version="0.1.0",
    description="BicKD, bilateral contrastive knowledge distillation: an exact, fast loss for PyTorch",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["bickd_kernels*"]),
    package_data={"bickd_kernels": ["py.typed"]},
    install_requires=["torch>=2.14", "typing_extensions>=4.10"],
    extras_require={"triton": ["triton>=3.4"], "training": TRAINING, "dev": TRAINING + DEVELOPMENT},
)
