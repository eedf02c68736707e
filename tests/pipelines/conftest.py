"""Ray reads its environment when it is imported, which test modules do before one asks for a cluster."""

from pipelines.engine.cluster import _prepare_environment

_prepare_environment()
