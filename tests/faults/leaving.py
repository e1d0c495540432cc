"""Imported by the fork server: a process may end as one that is killed, with its store left open.

The store's log stays where it is then, with what was committed last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from node.store.connection import Store

LEAVING: Final[Mapping[str, str]] = {"FAULTS_LEAVING": "1"}
"""In the environment of a process that is to end so."""

LEFT: Final = 9
"""How it ends."""

_close = Store.close


def _leave(store: Store) -> None:
    if LEAVING.items() <= os.environ.items():
        os._exit(LEFT)
    _close(store)


Store.close = _leave  # type: ignore[method-assign, assignment]
