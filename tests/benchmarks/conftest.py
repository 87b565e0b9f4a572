"""Leaves the tests of the forecast out where what it imports is not installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") and find_spec("rich") else ["test_forecast.py"]
