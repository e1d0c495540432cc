"""The program behind `scripts/gen-vectors`: writes the committed vectors, or compares them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.federation import delta_vectors, snapshot_vectors, vectors
from tests.federation.vectors import Json


def files() -> dict[str, Json]:
    """Return what every file says, by its name."""
    made = {"delta": delta_vectors.files(), "snapshot": snapshot_vectors.files()}
    return {f"{folder}/{name}": value for folder, of in made.items() for name, value in of.items()}


def main(arguments: Sequence[str]) -> int:
    """Write the files, or compare them if the one argument is `--check`; return the exit status."""
    if list(arguments) != ["--check"]:
        for name in vectors.write(files()):
            print(f"wrote {name}")
        return 0
    differing = vectors.stale(files())
    for name in differing:
        print(f"differs from what the code makes: {name}: run scripts/gen-vectors")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
