"""Benchmarks: CPU per operation of every process, compared with a baseline (floor) of the same run. Not timed tests."""
