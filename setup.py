"""For tools that still run setup.py; pyproject.toml holds the metadata."""

from setuptools import setup

setup()
