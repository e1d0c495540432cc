"""Prometheus metrics of a node, and the port that serves them.

Labels are peers, origins, methods and stable words. What the operator follows bounds their number;
a peer cannot choose them freely, and they are never digests. Does not know where the numbers come
from.
"""

from __future__ import annotations

import platform
import threading
from collections import Counter as Counted
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from types import TracebackType
from typing import Annotated, Final, Self, get_args, get_type_hints
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from federation.errors import Reason
from node.address import Address
from node.errors import ConfigError
from node.store.damage import DamageKind, Findings

_DURATION_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class MetricsServer:
    """A running HTTP server of one `Metrics`.

    Attributes:
        address: where it listens; its port is never 0.
    """

    def __init__(self, address: Address, server: WSGIServer, thread: threading.Thread) -> None:
        self.address = address
        self._server = server
        self._thread = thread
        self._is_closed = False

    def close(self) -> None:
        """Stop serving and free the port; calling it again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Declared:
    """The declaration of one metric.

    Attributes:
        name: the served name, without the suffix that a kind adds.
        help: one sentence.
        labels: the names of its labels.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()


class Metrics:
    """The metrics of one node, in a registry of their own.

    Attributes:
        registry: what is served.
    """

    build: Annotated[Info, Declared("hashfed_build", "Version of this program and of Python.")]
    list_state: Annotated[
        Gauge,
        Declared("hashfed_list_state", "1 for the current state of the list.", ("origin", "state")),
    ]
    list_position: Annotated[
        Gauge, Declared("hashfed_list_position", "Deltas of the list stored here.", ("origin",))
    ]
    list_live_entries: Annotated[
        Gauge, Declared("hashfed_list_live_entries", "Entries in force.", ("origin",))
    ]
    list_lag_deltas: Annotated[
        Gauge,
        Declared(
            "hashfed_list_lag_deltas",
            "Deltas that a peer is known to have and this node does not.",
            ("origin",),
        ),
    ]
    list_last_contact: Annotated[
        Gauge,
        Declared(
            "hashfed_list_last_contact_timestamp_seconds",
            "When a peer last answered for the list, accurate to half a minute.",
            ("origin",),
        ),
    ]
    deltas_accepted: Annotated[
        Counter, Declared("hashfed_deltas_accepted", "Deltas verified and stored.", ("origin",))
    ]
    ops_accepted: Annotated[
        Counter, Declared("hashfed_ops_accepted", "Operations in these deltas.", ("origin",))
    ]
    buckets_accepted: Annotated[
        Counter,
        Declared(
            "hashfed_snapshot_buckets_accepted",
            "Buckets of snapshots verified and stored.",
            ("origin",),
        ),
    ]
    snapshots_joined: Annotated[
        Counter,
        Declared(
            "hashfed_snapshots_joined",
            "Snapshots put in force instead of deltas.",
            ("origin",),
        ),
    ]
    deltas_refused: Annotated[
        Counter, Declared("hashfed_deltas_refused", "Deltas refused.", ("origin", "reason"))
    ]
    damages: Annotated[Gauge, Declared("hashfed_damages", "Known damages in the store.", ("kind",))]
    last_check: Annotated[
        Gauge,
        Declared(
            "hashfed_last_check_timestamp_seconds",
            "When the last whole check of the store ended, by `serve` or by `fsck`; 0 before the "
            "first.",
        ),
    ]
    scrub_part: Annotated[
        Gauge,
        Declared("hashfed_scrub_part", "Part of its pass that the scrub has done, from 0 to 1."),
    ]
    followers: Annotated[Gauge, Declared("hashfed_followers", "Open streams of subscribers.")]
    frames_made: Annotated[
        Counter,
        Declared(
            "hashfed_frames_made",
            "Frames read from the store and serialized; many streams send the same one.",
        ),
    ]
    frames_sent: Annotated[Counter, Declared("hashfed_frames_sent", "Frames sent.", ("peer",))]
    rpc_requests: Annotated[
        Counter, Declared("hashfed_rpc_requests", "Calls answered.", ("method", "code"))
    ]
    rpc_duration: Annotated[
        Histogram,
        Declared("hashfed_rpc_duration_seconds", "How long calls took.", ("method",)),
    ]

    def __init__(self, version: str | None = None) -> None:
        """Create the metrics, all at zero.

        Args:
            version: the version of this program; by default that of the installed distribution.
        """
        # Without this, every counter gets a useless second series. The switch is per process.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it out
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        for name, (kind, said) in declared().items():
            more = {"buckets": _DURATION_BUCKETS} if kind is Histogram else {}
            made = kind(said.name, said.help, said.labels, registry=self.registry, **more)
            setattr(self, name, made)
        self.build.info(
            {
                "version": _installed_version() if version is None else version,
                "python": platform.python_version(),
            }
        )
        for damage in DamageKind:
            self.damages.labels(damage).set(0)
        self._states: dict[str, str] = {}

    def set_list_state(self, origin: str, state: str) -> None:
        """Show the state of a list instead of the one before."""
        before = self._states.get(origin)
        self._states[origin] = state
        # Keep this order, so that the list is never without a state.
        self.list_state.labels(origin, state).set(1)
        if before is not None and before != state:
            self.list_state.remove(origin, before)

    def show_findings(self, known: Findings) -> None:
        """Show what the checks of the store have found."""
        counts = Counted(damage.kind for damage in known.damages)
        for kind in DamageKind:
            self.damages.labels(kind).set(counts[kind])
        if known.ended_ms is not None:
            self.last_check.set(known.ended_ms / 1000)

    def forget_list(self, origin: str) -> None:
        """Stop showing a list that is no longer followed."""
        for name, (_, said) in declared().items():
            if said.labels == ("origin",):
                _remove(getattr(self, name), origin)
        for reason in Reason:
            _remove(self.deltas_refused, origin, reason)
        state = self._states.pop(origin, None)
        if state is not None:
            _remove(self.list_state, origin, state)

    def serve(self, address: Address) -> MetricsServer:
        """Serve the metrics over plain HTTP, in threads of their own, until closed.

        Args:
            address: where; port 0 lets the system choose.

        Raises:
            ConfigError: the address is taken, or is not one of this machine.
        """
        try:
            server, thread = start_http_server(
                address.port, addr=address.host, registry=self.registry
            )
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be served at {address}: {error.strerror or error}",
                hint='set `listen` in [metrics] to a free address of this machine, or to "" for '
                "no metrics",
            ) from error
        return MetricsServer(Address(address.host, server.server_port), server, thread)


@cache
def declared() -> dict[str, tuple[type, Declared]]:
    """Return kind and declaration of each metric, by its name in `Metrics`."""
    hints = get_type_hints(Metrics, include_extras=True)
    return {name: get_args(hint)[:2] for name, hint in hints.items() if get_args(hint)}


def _remove(metric: Counter | Gauge, *labels: str) -> None:
    # In some versions of the library, a missing series is an error.
    with suppress(KeyError):
        metric.remove(*labels)


def _installed_version() -> str:
    try:
        return metadata.version("hashfed")
    except metadata.PackageNotFoundError:
        return "unknown"
