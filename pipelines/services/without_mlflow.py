"""MLflow's runs and versions for those who only read: MLflow's own import takes longer than all the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddt.sections.run import Tracking

if TYPE_CHECKING:
    from pipelines.services.server import Server
    from pipelines.services.tables import Tables


def open_rows(tracking: Tracking) -> Server | Tables | None:
    """A server's answers or a database's tables; None where MLflow's client has to be asked.

    Raises ValueError naming `tracking.uri` where it can't be used.
    """
    if tracking.uri.startswith(("http://", "https://")):
        from pipelines.services.server import open_server

        return open_server(tracking)
    from pipelines.services.tables import open_tables

    return open_tables(tracking)
