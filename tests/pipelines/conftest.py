"""Ray reads its environment when it is imported, which test modules do before one asks for a cluster."""

from pipelines.engine.cluster import _prepare_environment
from pipelines.services.surroundings import prepare

prepare()
_prepare_environment()
