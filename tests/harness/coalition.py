"""Several nodes at once: commands that run beside each other, waits that watch all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from tests.harness.node import Node, Result, Running
from tests.harness.signals import signals_held

_POLL_SECONDS: Final = 0.001

N = TypeVar("N", bound=Node)


class Coalition(Generic[N]):
    """Nodes that belong together.

    Attributes:
        nodes: all of them, publishers first.
    """

    def __init__(self, *nodes: N) -> None:
        self.nodes = nodes

    def run_all(self, commands: Sequence[tuple[N, Sequence[str | Path]]]) -> list[Result]:
        """Run commands at the same time; return how each of them ended, in the same order."""
        started = [Running(node, tuple(args), "") for node, args in commands]
        return [running.end() for running in started]

    def await_all(
        self, probes: Mapping[N, Callable[[], bool]], *, seconds: float
    ) -> dict[N, float]:
        """Wait until something holds on several nodes.

        Returns:
            For each, the value of `time.perf_counter()` when it was first seen to hold.

        Raises:
            TimeoutError: it does not hold in time, or a node stopped serving meanwhile.
        """
        seen: dict[N, float] = {}
        deadline = time.perf_counter() + seconds
        while len(seen) < len(probes):
            for node, probe in probes.items():
                if node not in seen and probe():
                    seen[node] = time.perf_counter()
            if time.perf_counter() > deadline:
                late = ", ".join(node.org for node in probes if node not in seen)
                raise TimeoutError(f"nothing new at {late} for {seconds:g} s")
            for node in self.nodes:
                if node.server is not None and node.server.poll() is not None:
                    raise TimeoutError(f"{node.org} stopped serving with {node.server.poll()}")
            time.sleep(_POLL_SECONDS)
        return seen

    def end(self) -> None:
        """Stop all running processes, subscribers first, so that nobody logs a lost peer."""
        with signals_held():
            for node in reversed(self.nodes):
                for running in tuple(node.running):
                    running.abandon()
                node.stop()
                node.abandon()
