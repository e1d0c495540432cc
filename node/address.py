"""Network addresses as people write them: `host:port`, parsed once and strictly."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from node.errors import ConfigError

_HOST_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*")
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_MAX_HOST: Final = 253
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where to listen or whom to call.

    Attributes:
        host: an IPv4 address, an IPv6 address without brackets, or a DNS name in lower case.
        port: 0 lets the system choose, when listening.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_callable(self) -> bool:
        """Whether a peer can call it: it has a port and does not stand for every interface."""
        return self.port != 0 and self.host not in {"0.0.0.0", "::"}  # noqa: S104  # nothing binds


def parse_address(text: str, *, allow_port_0: bool = False) -> Address:
    """Parse `host:port`: an IPv4 address, an IPv6 address in brackets, or a DNS name.

    Args:
        text: the address.
        allow_port_0: accept port 0, for listening where the system chooses.

    Raises:
        ConfigError: it is not an address.
    """
    host, colon, port_text = text.rpartition(":")
    if not colon or not host or (":" in host and not _is_bracketed(host)):
        raise ConfigError(
            f"address {text!r} must be written as host:port",
            hint="such as 127.0.0.1:7443, [::1]:7443, 0.0.0.0:7443 or node.hotline.example:7443",
        )
    if _PORT.fullmatch(port_text) is None or int(port_text) > _MAX_PORT:
        raise ConfigError(f"address {text!r}: got port {port_text!r}, expected 1 to {_MAX_PORT}")
    port = int(port_text)
    if port == 0 and not allow_port_0:
        raise ConfigError(f"address {text!r}: nobody can call port 0")
    return Address(_parse_host(host, text), port)


def _is_bracketed(host: str) -> bool:
    return host.startswith("[") and host.endswith("]")


def _parse_host(host: str, text: str) -> str:
    if _is_bracketed(host):
        try:
            # A zone (fe80::1%eth0) means something on one machine only.
            if "%" not in host:
                return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            pass
        raise ConfigError(f"address {text!r}: {host!r} is not an IPv6 address in brackets")
    name = host.lower()
    # A name whose last label is a number is an IPv4 address, or a mistyped one.
    if name.rpartition(".")[2].isdigit():
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError as error:
            raise ConfigError(f"address {text!r}: {host!r} is not an IPv4 address") from error
    if len(name) > _MAX_HOST or _HOST.fullmatch(name) is None:
        raise ConfigError(f"address {text!r}: {host!r} is not a host name")
    return name
