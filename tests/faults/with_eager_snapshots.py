"""Imported by the fork server: a node that has nothing yet is offered a snapshot at any cost.

Otherwise a list would have to be published twice, which takes twice as long: one that was published
once is fetched just as well by its deltas.
"""

from __future__ import annotations

from federation.follow import cursors

vars(cursors)["_STARTING"] = 0.0
