"""A planted bug: an error during a write to a file is not noticed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from node.system import durable


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with suppress(OSError):
        os.write(descriptor, data)
        os.fsync(descriptor)
    os.close(descriptor)


durable.write_new = _write_new
