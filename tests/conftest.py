"""Settings of the whole test suite."""

from __future__ import annotations

import pytest
from hypothesis import settings

# How long one example takes is no claim of any property, and depends on what else the machine
# does. Otherwise Hypothesis's own choice stands: on CI the same examples in every run.
settings.register_profile(
    "suite", parent=settings.get_profile(settings.get_current_profile_name()), deadline=None
)
settings.load_profile("suite")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each of several processes begin with its share of the long tests.

    xdist gives each process an equal run of the tests, in order. A process that is done takes tests
    from the end of another's. Long tests at an end would be one process's, while the others wait.
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers == 1:
        return
    is_long = [any(item.iter_markers("slow")) or any(item.iter_markers("fault")) for item in items]
    long, short = (
        [item for item, mark in zip(items, is_long, strict=True) if mark is wanted]
        for wanted in (True, False)
    )
    items[:] = []
    for worker in range(workers):
        share = long[worker::workers]
        # Equal runs: what a process gets fewer of the long ones, it gets more of the others.
        count = (len(long) + len(short) + worker) // workers - len(share)
        items += [*share, *short[:count]]
        del short[:count]
    items += short
