"""Settings of the whole test suite."""

from __future__ import annotations

from hypothesis import settings

# How long one example takes is no claim of any property, and depends on what else the machine
# does. Otherwise Hypothesis's own choice stands: on CI the same examples in every run.
settings.register_profile(
    "suite", parent=settings.get_profile(settings.get_current_profile_name()), deadline=None
)
settings.load_profile("suite")
