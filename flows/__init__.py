"""Metaflow flows: order, retries, resume and cards over the stages of `pipelines`."""
