"""Package metadata; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# From the oldest to the newest minor version of those that `make test-matrix` runs, which are all between them.
TORCH = "torch>=2.6,<2.15"
TRAINING = [
    # With PyTorch 2.8, the first whose processes cannot wait for each other forever when they leave.
    "torchvision>=0.23,<0.30",
    "numpy>=2.0",
    "scikit-learn>=1.5",
    "matplotlib>=3.9",
    "rich>=13.7",
    "safetensors>=0.4",
    "jsonargparse>=4.40",
    "pyyaml>=6.0",
    "torchmetrics>=1.5",
    "tensorboard>=2.18",
    "scipy>=1.13",
]
TESTING = [
    "build>=1.2",
    "hypothesis>=6.100",
    "mypy>=1.14",
    "numpy>=2.0",
    "pytest>=8.2",
    # The first that warns of workers only where one of them is to benchmark.
    "pytest-benchmark>=5.3",
    "pytest-xdist>=3.6",
    "setuptools>=77",
]
# With the versions whose folders of files no script can be part of.
HUGGING_FACE = ["datasets>=4.0"]
DEVELOPMENT = [
    "pip-audit>=2.7",
    "psutil>=6.0",
    "ruff>=0.9",
    "triton>=3.4; platform_system == 'Linux'",
    "types-PyYAML",
    "types-psutil",
]

setup(
    name="bickd-kernels",
    version="0.1.0",
    description="BicKD, bilateral contrastive knowledge distillation: an exact, fast loss for PyTorch",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    keywords=["knowledge distillation", "contrastive learning", "loss", "PyTorch", "Triton"],
    project_urls={"Paper": "https://arxiv.org/abs/2602.01265"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["bickd_kernels*"]),
    package_data={"bickd_kernels": ["py.typed", "backends/triton/README.md"]},
    install_requires=[TORCH, "typing_extensions>=4.10"],
    extras_require={
        "triton": ["triton>=3.4"],
        "training": TRAINING,
        "hf": HUGGING_FACE,
        "test": TESTING,
        "dev": TRAINING + HUGGING_FACE + TESTING + DEVELOPMENT,
    },
)
