"""Imported by the fork server: lets a process end as if killed, with its store left open.

Then the store's log stays where it is, with what was committed last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from node.store.connection import Store

LEAVING: Final[Mapping[str, str]] = {"FAULTS_LEAVING": "1"}
"""The environment of a process that is to end like this."""

LEFT: Final = 9
"""The exit code of such a process."""

_close = Store.close


def _leave(store: Store) -> None:
    if LEAVING.items() <= os.environ.items():
        os._exit(LEFT)
    _close(store)


Store.close = _leave  # type: ignore[method-assign, assignment]
