"""Which failures are the user's to mend, and which may be gone when the same is tried again."""

from __future__ import annotations

LASTING = (ValueError, TypeError, LookupError, AttributeError)


def is_mistake(error: BaseException) -> bool:
    """Whether the same would fail again: a ValueError, unless something beneath it failed.

    A store, for one, raises its errors `from` those of the disk or the network, and these may pass.
    """
    cause = error.__cause__
    return isinstance(error, LASTING) and (cause is None or is_mistake(cause))
