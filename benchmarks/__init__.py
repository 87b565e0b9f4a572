"""Benchmarks: measurements that print and are never asserted in a test."""
