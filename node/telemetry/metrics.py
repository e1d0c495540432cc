"""Prometheus metrics of a node, and the port that serves them.

Labels are peers, origins, methods and stable words: bounded by what the operator follows, never
chosen freely by a peer, and never a digest. Knows nothing of where the numbers come from.
"""

from __future__ import annotations

import platform
import threading
from collections import Counter as Counted
from contextlib import suppress
from importlib import metadata
from types import TracebackType
from typing import Final, Self
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


class Metrics:
    """The metrics of one node, in a registry of their own.

    Attributes:
        registry: what is served.
        rpc_requests: answered calls, by method and gRPC status code.
        rpc_duration: seconds that calls took, by method.
        frames_made: frames read from the store and serialized; many streams send the same one.
        frames_sent: frames sent, by peer.
        deltas_accepted: deltas verified and stored, by origin.
        ops_accepted: operations in them, by origin.
        deltas_refused: deltas refused, by origin and `federation.errors.Reason`.
        buckets_accepted: buckets of snapshots verified and stored, by origin.
        snapshots_joined: snapshots put in force in the place of deltas, by origin.
        list_position: deltas of a list that are here, by origin.
        list_live_entries: entries in force, by origin.
        list_lag_deltas: deltas that a peer is known to have and this node has not, by origin.
        list_last_contact: when a peer last answered for a list, in seconds since 1970, by origin.
        scrub_part: how much of its pass the background scrub has done, from 0 to 1.
        last_check: when the last whole check of the store ended, in seconds since 1970.
        damages: what is known to be damaged, by kind.
        followers: open streams of subscribers.
    """

    def __init__(self, version: str | None = None) -> None:
        """Create the metrics, all at zero.

        Args:
            version: the version of this program; by default that of the installed distribution.
        """
        # A second series for every counter, of no use here. The switch is the process's.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it out
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        build = Info("hashfed_build", "What this program is.", registry=registry)
        build.info(
            {
                "version": _installed_version() if version is None else version,
                "python": platform.python_version(),
            }
        )
        self.rpc_requests = Counter(
            "hashfed_rpc_requests", "Calls answered.", ["method", "code"], registry=registry
        )
        self.rpc_duration = Histogram(
            "hashfed_rpc_duration_seconds",
            "Time that calls took.",
            ["method"],
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.frames_made = Counter(
            "hashfed_frames_made",
            "Frames of deltas read from the store and serialized.",
            registry=registry,
        )
        self.frames_sent = Counter(
            "hashfed_frames_sent", "Frames of deltas sent.", ["peer"], registry=registry
        )
        self.deltas_accepted = Counter(
            "hashfed_deltas_accepted", "Deltas verified and stored.", ["origin"], registry=registry
        )
        self.ops_accepted = Counter(
            "hashfed_ops_accepted", "Operations in them.", ["origin"], registry=registry
        )
        self.deltas_refused = Counter(
            "hashfed_deltas_refused", "Deltas refused.", ["origin", "reason"], registry=registry
        )
        self.buckets_accepted = Counter(
            "hashfed_snapshot_buckets_accepted",
            "Buckets of snapshots verified and stored.",
            ["origin"],
            registry=registry,
        )
        self.snapshots_joined = Counter(
            "hashfed_snapshots_joined",
            "Snapshots put in force in the place of deltas.",
            ["origin"],
            registry=registry,
        )
        self.list_position = Gauge(
            "hashfed_list_position", "Deltas that are here.", ["origin"], registry=registry
        )
        self.list_live_entries = Gauge(
            "hashfed_list_live_entries", "Entries in force.", ["origin"], registry=registry
        )
        self.list_lag_deltas = Gauge(
            "hashfed_list_lag_deltas",
            "Deltas that a peer is known to have and this node has not.",
            ["origin"],
            registry=registry,
        )
        self.list_last_contact = Gauge(
            "hashfed_list_last_contact_timestamp_seconds",
            "When a peer last answered for the list.",
            ["origin"],
            registry=registry,
        )
        self._list_state = Gauge(
            "hashfed_list_state",
            "1 for the state that the list is in.",
            ["origin", "state"],
            registry=registry,
        )
        self._states: dict[str, str] = {}
        self.scrub_part = Gauge(
            "hashfed_scrub_part", "Part of its pass that the scrub has done.", registry=registry
        )
        self.last_check = Gauge(
            "hashfed_last_check_timestamp_seconds",
            "When the last whole check of the store ended.",
            registry=registry,
        )
        self.damages = Gauge(
            "hashfed_damages", "What is known to be damaged.", ["kind"], registry=registry
        )
        for kind in DamageKind:
            self.damages.labels(kind).set(0)
        self.followers = Gauge(
            "hashfed_followers", "Open streams of subscribers.", registry=registry
        )

    def set_list_state(self, origin: str, state: str) -> None:
        """Show the state of a list, in place of the one before."""
        before = self._states.get(origin)
        self._states[origin] = state
        # In this order, so that the list is never without a state.
        self._list_state.labels(origin, state).set(1)
        if before is not None and before != state:
            self._list_state.remove(origin, before)

    def show_findings(self, known: Findings) -> None:
        """Show what the checks of the store have found."""
        counts = Counted(damage.kind for damage in known.damages)
        for kind in DamageKind:
            self.damages.labels(kind).set(counts[kind])
        if known.ended_ms is not None:
            self.last_check.set(known.ended_ms / 1000)

    def forget_list(self, origin: str) -> None:
        """Show nothing any more of a list that is not followed any more."""
        for metric in (
            self.deltas_accepted,
            self.ops_accepted,
            self.buckets_accepted,
            self.snapshots_joined,
            self.list_position,
            self.list_live_entries,
            self.list_lag_deltas,
            self.list_last_contact,
        ):
            _remove(metric, origin)
        for reason in Reason:
            _remove(self.deltas_refused, origin, reason)
        state = self._states.pop(origin, None)
        if state is not None:
            _remove(self._list_state, origin, state)

    def serve(self, address: Address) -> MetricsServer:
        """Serve the metrics over plain HTTP, in threads of their own, until closed.

        Args:
            address: where; port 0 lets the system choose.

        Raises:
            ConfigError: the address is taken, or is none of this machine.
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


def _remove(metric: Counter | Gauge, *labels: str) -> None:
    # Versions of the library differ in whether a series that is not there is an error.
    with suppress(KeyError):
        metric.remove(*labels)


def _installed_version() -> str:
    try:
        return metadata.version("hashfed")
    except metadata.PackageNotFoundError:
        return "unknown"
