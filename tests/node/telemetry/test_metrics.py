"""What `telemetry.metrics` promises: the names that dashboards read; a taken port is named."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from federation.errors import Reason
from node.address import Address
from node.errors import ConfigError
from node.store.damage import Damage, DamageKind, Findings
from node.telemetry.metrics import Metrics

_ORIGIN = "hotline.example/main"


def _samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _use_all(metrics: Metrics) -> None:
    metrics.rpc_requests.labels("Follow", "OK").inc()
    metrics.rpc_duration.labels("ListLogs").observe(0.003)
    metrics.frames_made.inc()
    metrics.frames_sent.labels("ngo.example").inc()
    metrics.deltas_accepted.labels(_ORIGIN).inc(2)
    metrics.ops_accepted.labels(_ORIGIN).inc(2_000)
    metrics.deltas_refused.labels(_ORIGIN, Reason.POSITION_GAP).inc()
    metrics.list_position.labels(_ORIGIN).set(7)
    metrics.list_live_entries.labels(_ORIGIN).set(6_000)
    metrics.list_lag_deltas.labels(_ORIGIN).set(1)
    metrics.list_last_contact.labels(_ORIGIN).set(1_767_225_600)
    metrics.set_list_state(_ORIGIN, "current")
    metrics.followers.set(3)


def test_the_names_and_labels_are_those_that_dashboards_read() -> None:
    metrics = Metrics("1.2.3")
    _use_all(metrics)
    samples = _samples(metrics)
    by_name = {name: dict(labels) for name, labels in samples if name.startswith("hashfed_")}
    origin = {"origin": _ORIGIN}
    assert by_name.pop("hashfed_build_info")["version"] == "1.2.3"
    assert by_name.pop("hashfed_rpc_duration_seconds_bucket")["method"] == "ListLogs"
    assert by_name == {
        "hashfed_rpc_requests_total": {"method": "Follow", "code": "OK"},
        "hashfed_rpc_duration_seconds_count": {"method": "ListLogs"},
        "hashfed_rpc_duration_seconds_sum": {"method": "ListLogs"},
        "hashfed_frames_made_total": {},
        "hashfed_frames_sent_total": {"peer": "ngo.example"},
        "hashfed_deltas_accepted_total": origin,
        "hashfed_ops_accepted_total": origin,
        "hashfed_deltas_refused_total": {**origin, "reason": "POSITION_GAP"},
        "hashfed_list_position": origin,
        "hashfed_list_live_entries": origin,
        "hashfed_list_lag_deltas": origin,
        "hashfed_list_last_contact_timestamp_seconds": origin,
        "hashfed_list_state": {**origin, "state": "current"},
        "hashfed_followers": {},
        "hashfed_damages": {"kind": "claim"},
        "hashfed_last_check_timestamp_seconds": {},
        "hashfed_scrub_part": {},
    }
    assert samples["hashfed_ops_accepted_total", (("origin", _ORIGIN),)] == 2_000


def test_what_is_damaged_is_shown_by_kind_and_gone_when_it_is_repaired() -> None:
    metrics = Metrics()
    damage = Damage(kind=DamageKind.BODY, origin=_ORIGIN, position=3, message="changed")
    for damages in ((damage,), ()):
        metrics.show_findings(Findings(ended_ms=5_000, damages=damages))
        samples = _samples(metrics)
        assert samples["hashfed_damages", (("kind", "body"),)] == len(damages)
        assert samples["hashfed_damages", (("kind", "header"),)] == 0
        assert samples["hashfed_last_check_timestamp_seconds", ()] == 5


def test_nothing_but_the_process_itself_is_named_otherwise() -> None:
    metrics = Metrics()
    _use_all(metrics)
    assert all(name.startswith(("hashfed_", "process_")) for name, _ in _samples(metrics))


def test_a_list_is_in_one_state_at_a_time() -> None:
    metrics = Metrics()
    for state in ("catching-up", "current", "current", "stale"):
        metrics.set_list_state(_ORIGIN, state)
        states = [labels for name, labels in _samples(metrics) if name == "hashfed_list_state"]
        assert states == [(("origin", _ORIGIN), ("state", state))]


def test_a_forgotten_list_leaves_no_series_and_others_stay() -> None:
    metrics = Metrics()
    _use_all(metrics)
    metrics.list_position.labels("ngo.example/main").set(1)
    metrics.set_list_state("ngo.example/main", "current")
    metrics.forget_list(_ORIGIN)
    metrics.forget_list(_ORIGIN)
    origins = {dict(labels).get("origin") for _, labels in _samples(metrics)}
    assert origins == {None, "ngo.example/main"}


def test_two_nodes_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.followers.set(5)
    assert _samples(other)["hashfed_followers", ()] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_metrics_are_served_until_closed(host: str) -> None:
    metrics = Metrics()
    metrics.followers.set(4)
    with metrics.serve(Address(host, 0)) as server:
        assert server.address.port != 0
        url = f"http://{server.address}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert b"\nhashfed_followers 4.0\n" in answer.read()
    server.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


def test_a_closed_port_is_free_again() -> None:
    metrics = Metrics()
    server = metrics.serve(Address("127.0.0.1", 0))
    server.close()
    metrics.serve(server.address).close()


def test_a_taken_port_is_a_configuration_error_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"127.0.0.1:{port}: Address already in use"
        ) as caught:
            Metrics().serve(Address("127.0.0.1", port))
    assert "[metrics]" in caught.value.hint


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_of_this_machine_is_a_configuration_error(host: str) -> None:
    with pytest.raises(ConfigError, match="cannot be served"):
        Metrics().serve(Address(host, 1_024))
