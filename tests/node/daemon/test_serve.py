"""`hashfed serve` as a process: it starts, says so, and goes when told to."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no types

from federation.follow import FollowState
from node.system import wake
from tests.federation.worlds import assertion
from tests.node.support.peering import Site, Sites, acquaint, eventually, published, run

PROGRAM = """
import asyncio, sys
from pathlib import Path
from node.address import Address
from node.config import Config, LogFormat, LogLevel, MetricsConfig, NodeConfig, SyncConfig
from node.daemon.serve import serve
from node.errors import NodeError
from node.home import Home
from node.telemetry.logs import configure

org, home, metrics = sys.argv[1:]
configure(LogLevel.INFO, LogFormat.JSON)
address = Address("127.0.0.1", 0)
config = Config(
    node=NodeConfig(org=org, listen=address, advertise=address),
    metrics=MetricsConfig(listen=Address("127.0.0.1", int(metrics)) if metrics else None),
    sync=SyncConfig(interval_seconds=1),
)
try:
    asyncio.run(serve(Home(Path(home)), config, on_ready=lambda at: print(at, flush=True)))
except NodeError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Process:
    """A node in a process of its own."""

    def __init__(self, site: Site, *, metrics_port: int = 0, **environment: str) -> None:
        site.home.keys.mkdir(exist_ok=True)
        site.home.tls_key.touch(0o600)
        site.home.tls_key.write_bytes(site.identity.key)
        site.home.tls_certificate.write_bytes(site.identity.certificate)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-c", PROGRAM),
                *(site.org, str(site.home.path), str(metrics_port or "")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self._site = site

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        self._site.address = self.process.stdout.readline().strip()
        assert self._site.address, self.process.communicate()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=15)
        return self.process.returncode, log


def read_page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        return str(page.read().decode())


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    made = Sites(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_when_told_to(sites: Sites, number: int) -> None:
    process = Process(sites("a.example"))
    process.wait_until_ready()
    code, log = process.stop(number)
    assert code == 0, log
    events = re.findall(r'"event": ?"(\w+)"', log)
    assert events == ["serving", "stopping", "stopped"]
    assert "Traceback" not in log


def test_a_second_one_on_the_same_home_is_refused(sites: Sites) -> None:
    site = sites("a.example")
    first = Process(site)
    first.wait_until_ready()
    second = Process(site)
    _, log = second.process.communicate(timeout=15)
    assert second.process.returncode == 11
    assert "hashfed serve" in log
    assert first.stop()[0] == 0


def test_it_follows_publishes_and_relays_between_processes(sites: Sites) -> None:
    async def main() -> list[float]:
        owner, reader = sites("a.example"), sites("b.example")
        publisher = published("a.example/main", 1)
        owner.own(publisher)
        acquaint(owner, reader)
        processes = [Process(owner), Process(reader)]
        for process in processes:
            await asyncio.to_thread(process.wait_until_ready)
        acquaint(owner, reader)
        reader.follow(publisher.origin, owner)
        wake.notify(reader.home)
        await eventually(lambda: reader.state(publisher.origin) is FollowState.CURRENT)
        times = []
        for at in range(1, 21):
            delta = publisher.publish(assertion(f"later {at}"))
            owner.append(publisher.origin, at, delta)
            began = time.perf_counter()
            wake.notify(owner.home)
            while reader.record(publisher.origin).log.size <= at:  # noqa: ASYNC110  # to the millisecond
                await asyncio.sleep(0.0005)
            times.append(time.perf_counter() - began)
        # A wake-up that is lost costs a second, and nothing else.
        owner.append(publisher.origin, 21, publisher.publish(assertion("without a wake-up")))
        await eventually(lambda: reader.deltas(publisher.origin) == publisher.log, 4)
        # What acceptance left for later is checked behind it.
        await eventually(lambda: reader.record(publisher.origin).checked == 22)
        for process in processes:
            code, log = await asyncio.to_thread(process.stop)
            assert code == 0, log
        return sorted(times)

    times = run(main())
    print(f"median {times[10] * 1000:.1f} ms, highest {times[-1] * 1000:.1f} ms")
    assert times[10] < 0.1


def test_it_shows_its_health_and_its_metrics_and_tells_the_service_manager(
    sites: Sites, tmp_path: Path
) -> None:
    async def main() -> None:
        site, peer = sites("a.example"), sites("b.example")
        site.own(published("a.example/main", 1))
        acquaint(site, peer)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            manager.settimeout(10)
            process = Process(site, metrics_port=port, NOTIFY_SOCKET=str(tmp_path / "notify"))
            await asyncio.to_thread(process.wait_until_ready)
            assert manager.recv(100) == b"READY=1"
            line = 'hashfed_list_position{origin="a.example/main"} 1.0'
            await eventually(lambda: line in read_page(port))
            async with peer.channel(site) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                watch = health.Watch(health_pb2.HealthCheckRequest())
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
                process.process.send_signal(signal.SIGTERM)
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                watch.cancel()
            assert manager.recv(100) == b"STOPPING=1"
            assert await asyncio.to_thread(process.process.wait, 15) == 0
            process.process.communicate()

    run(main())
