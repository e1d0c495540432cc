"""All parts. A new part is a module with a `PART`, and a line here."""

from __future__ import annotations

from typing import Final

from tests.faults import bitflips, clocks, diskfull, kills, large, powerloss, races, syscalls
from tests.faults.part import Part

PARTS: Final[dict[str, Part]] = {
    part.name: part
    for part in (
        kills.PART,
        large.PART,
        syscalls.PART,
        powerloss.PART,
        diskfull.PART,
        bitflips.PART,
        races.PART,
        clocks.PART,
    )
}
