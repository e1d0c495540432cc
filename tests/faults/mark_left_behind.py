"""A planted bug: a written mark that must not be put in place is not removed."""

from __future__ import annotations

from node.publish.high_water import PreparedRaise

PreparedRaise.cancel = lambda _self: None  # type: ignore[method-assign, assignment]
