"""Starts the program under test quickly: each command is forked from a process that has already
done the imports.

    python -P forkserver.py SOCKET [MODULE ...]      serve until stdin ends

The modules are imported after those of the program. Each changes the program under test, for
example its clock.

A request is one line of JSON, `{"argv": […], "cwd": …, "env": {…}}`, with the three standard
streams as file descriptors. The answer is two lines: the process id, and later the exit code, which
is negative when a signal ended the process, as with `subprocess`.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]

SHIM = """#!{python} -IS
# Passes its arguments, folder, environment and streams to the fork server at {address}.
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = dict(argv=sys.argv[1:], cwd=os.getcwd(), env=dict(os.environ))
    socket.send_fds(server, [json.dumps(request).encode() + b"\\n"], [0, 1, 2])
    # The reader of our output must see its end when the program ends, not when this process does.
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    code = int(server.makefile().read().split()[1])
os._exit(code if code >= 0 else 128 - code)
"""


# --- the side of the tests --------------------------------------------------------------------


class Process:
    """A running command.

    Attributes:
        pid: its process id.
    """

    def __init__(self, answers: socket.socket) -> None:
        self._socket = answers
        self._code: int | None = None
        self.pid = self._read_number()

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        # The system gives out ids in turn, so no other process has the id of one that just ended.
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send it SIGKILL, if it has not ended."""
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """Return its exit code if it has ended."""
        if self._code is None and select.select([self._socket], [], [], 0)[0]:
            self.wait()
        return self._code

    def wait(self, timeout: float | None = 180.0) -> int:
        """Return its exit code, negative for a signal, once it has ended."""
        if self._code is None:
            self._socket.settimeout(timeout)
            self._code = self._read_number()
            self._socket.close()
        return self._code

    def _read_number(self) -> int:
        # Read byte by byte: `poll` would not see what is read ahead.
        line = b""
        while not line.endswith(b"\n"):
            byte = self._socket.recv(1)
            if not byte:
                raise EOFError("the fork server has ended")
            line += byte
        return int(line)


class ForkServer:
    """A running fork server.

    Attributes:
        folder: holds `hashfed`, a program for shells that makes the server run the command.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._address = str(folder / "socket")

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        streams: tuple[int, int, int],
    ) -> Process:
        """Start a command with these standard streams."""
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._address)
        request = {"argv": list(argv), "cwd": str(cwd), "env": dict(env)}
        socket.send_fds(server, [json.dumps(request).encode() + b"\n"], streams)
        return Process(server)


@contextmanager
def running(*modules: str, wrap: Sequence[str] = ()) -> Iterator[ForkServer]:
    """Run a fork server while the block runs.

    Args:
        modules: modules that change the program that it starts.
        wrap: a program that runs the server, such as a tracer.
    """
    # Not in pytest's folder: the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="hashfed-") as name:
        server = ForkServer(Path(name))
        address = str(server.folder / "socket")
        shim = server.folder / "hashfed"
        shim.write_text(SHIM.format(python=sys.executable, address=address))
        shim.chmod(0o700)
        process = subprocess.Popen(
            [*wrap, sys.executable, "-P", __file__, address, *modules],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield server
        finally:
            process.communicate(timeout=30)


# --- the side of the server -------------------------------------------------------------------


def _serve(address: str, modules: Sequence[str]) -> dict[str, Any]:
    """Fork for each request; return the request in the process that is to carry it out."""
    for module, _ in import_module("node.cli.main").COMMANDS.values():
        import_module(f"node.cli.{module}")
    for module in modules:
        import_module(module)
    # All children share the objects that exist now: a child that ends need not look through them.
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    # The system cleans up after the processes that answer clients.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        readable, _, _ = select.select([listener.fileno(), 0], [], [])
        if 0 in readable:
            sys.exit()
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _answer(client)
        client.close()


def _answer(client: socket.socket) -> dict[str, Any]:
    """Fork once more: one process carries the request out, this one reports how it ends."""
    data, descriptors, _, _ = socket.recv_fds(client, 65_536, 3)
    while not data.endswith(b"\n"):
        data += client.recv(65_536)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        client.close()
        for stream, descriptor in enumerate(descriptors):
            os.dup2(descriptor, stream)
            os.close(descriptor)
        request: dict[str, Any] = json.loads(data)
        return request
    for descriptor in (0, 1, *descriptors):
        os.close(descriptor)
    client.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


if __name__ == "__main__":
    _request = _serve(sys.argv[1], sys.argv[2:])
    os.chdir(_request["cwd"])
    os.environ.clear()
    os.environ.update(_request["env"])
    sys.argv = ["hashfed", *_request["argv"]]
    # This comes last and at the top level, so it ends as the interpreter ends any program.
    import_module("node.cli.main").main()
