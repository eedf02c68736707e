"""Ray's command line for a busy processor: Ray gives a node 30 s to come up, however slow the machine is.

python -m tests.patient_ray start --head ...
"""

from __future__ import annotations

import time
from typing import Any

from ray._private import services
from ray.scripts.scripts import main

PATIENCE_S = 600
get_node = services.get_node


def wait_for_node(*where: Any) -> Any:
    """What Ray knows of the node that it starts, as soon as it knows it."""
    limit = time.monotonic() + PATIENCE_S
    while True:
        try:
            return get_node(*where)
        except RuntimeError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    services.get_node = wait_for_node
    main()
