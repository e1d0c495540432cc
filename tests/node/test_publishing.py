"""What `node.publishing` promises: what is staged is signed once, whole, and as any reader checks."""

from __future__ import annotations

from pathlib import Path

import pytest

