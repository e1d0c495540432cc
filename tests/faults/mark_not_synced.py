"""A planted bug, imported before the program: the file of the high-water mark is not synced."""

from __future__ import annotations

import os
from types import SimpleNamespace

from node.system import durable

vars(durable)["os"] = SimpleNamespace(**{**vars(os), "fsync": lambda _descriptor: None})
