"""Benchmarks on scenes, with exact ground truth: one file each."""
