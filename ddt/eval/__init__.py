"""Evaluation: what a model is worth, with floor, ceiling and interval.

A benchmark has three places, under one name where it can be:
    metrics    its published number, a pure function
    scenes     its drawn form with exact ground truth, which the stage `evaluate` runs
    official   its published files, which `ddt benchmark` reads
Each has a `Case` of its own: a drawn one becomes a row, made and scored at once; a published one asks for an
output in the benchmark's own folder, which may be made elsewhere and is scored when all are there.
`scorers` are models that judge, `report` puts both beside the paper.
"""
