"""Benchmarks: CPU per operation of every process, beside a floor measured in the same run. Never a timed test."""
