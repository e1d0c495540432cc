"""Changes as signed CSV files, for a user who wants to know that they are genuine."""

from __future__ import annotations

from pathlib import Path

from scripts.benchmarks.lists import DeltaFiles
from scripts.benchmarks.plan import Tools
from scripts.benchmarks.processes import Usage, total


def hand_over(tools: Tools, delta: DeltaFiles, table: Path) -> Usage:
    """Sign a change, verify it, and apply it to a table with the `sqlite3` shell."""
    return total(
        [
            tools.signing.sign(delta.plain),
            tools.signing.verify(delta.plain),
            tools.shell.apply(delta.plain, table, delta.asserted),
        ]
    )
