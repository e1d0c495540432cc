"""A planted bug: what was signed is released first, and the mark is raised after that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from node.publish.permit import Permit, Step
from node.store.connection import Store
from node.store.release import release


@contextmanager
def _step(permit: Permit, store: Store) -> Iterator[Step]:
    step = Step(permit._mark, permit._origin, permit._held)
    yield step
    if step.raised:
        with store.update_status() as connection:
            release(connection, permit._list, step._next.checkpoint.size)
        time.sleep(0.4)
    permit._held = step.complete()


Permit.step = _step  # type: ignore[assignment, method-assign]
