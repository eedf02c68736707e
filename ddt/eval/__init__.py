"""Evaluation: official metrics, benchmarks on scenes, controls and the report."""
