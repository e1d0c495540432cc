"""The node's configuration: one TOML file, the environment and flags, read strictly.

A flag wins over the environment (`HASHFED_<SECTION>_<KEY>`), the environment over config.toml, and
config.toml over the default. The configuration holds no secrets: keys are files.

Each setting is declared once, as a field of its section: type, default, bounds and one sentence.
Reading, the initial file, `hashfed config` and the table of docs/operate.md follow from that.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import TypeVar, get_type_hints

from federation.errors import FederationError
from federation.names import OrgName, parse_org
from node.address import Address, parse_address
from node.errors import ConfigError
from node.home import Home
from node.system import filesystem, settings
from node.system.settings import Setting, number_setting, text_setting
from node.system.toml_file import TomlFile, suggest

_E = TypeVar("_E", bound=StrEnum)

# --- texts ------------------------------------------------------------------------------------


def _parse_org(text: str) -> OrgName:
    try:
        return parse_org(text)
    except FederationError as error:
        raise ConfigError(str(error)) from error


def _parse_advertise(text: str) -> Address:
    address = parse_address(text)
    if not address.is_callable:
        raise ConfigError(
            f"peers cannot call the address {text!r}",
            hint="use a host name or address at which peers reach this node",
        )
    return address


def _parse_metrics_listen(text: str) -> Address | None:
    return parse_address(text, allow_port_0=True) if text else None


def _parse_mark_dir(text: str) -> Path | None:
    path = Path(text) if text else None
    if path is not None and not (text.isprintable() and path.is_absolute()):
        raise ConfigError(
            f"{text!r} is not the absolute path of a folder",
            hint="write the path from the root on, such as /srv/mark; another disk is best",
        )
    return path


def _parse_filesystem(text: str) -> str:
    return _one_of(sorted(filesystem.UNSAFE), text) if text else ""


def _one_of(words: list[str], text: str) -> str:
    if text not in words:
        raise ConfigError(
            f"got {text!r}, expected one of {', '.join(words)}", hint=suggest(text, words)
        )
    return text


def _word(words: type[_E], text: str) -> _E:
    return words(_one_of(list(words), text))


# --- what a configuration is ------------------------------------------------------------------


class LogLevel(StrEnum):
    """The lowest level of the events that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How events are written; AUTO is CONSOLE on a terminal and JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True)
class PeersNeeded:
    """How many peers have to answer before the first signature; `count` is None for all."""

    count: int | None = None

    @classmethod
    def parse(cls, text: str) -> PeersNeeded:
        """Read `all` or a number."""
        if text == "all":
            return cls()
        if re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) is None:
            raise ConfigError(f"got {text!r}, expected all, or a number of peers in quotes")
        return cls(int(text))

    def __str__(self) -> str:
        return "all" if self.count is None else str(self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Who this node is and where."""

    org: OrgName = text_setting(
        _parse_org, "The organization that this node speaks for: a DNS name that it owns."
    )
    listen: Address = text_setting(
        partial(parse_address, allow_port_0=True),
        "Where peers are served: host:port. 0.0.0.0 is every interface.",
    )
    advertise: Address = text_setting(
        _parse_advertise,
        "Where peers call this node, if not at `listen`. Invitations contain it.",
        same_as="listen",
    )
    allow_filesystem: str = text_setting(
        _parse_filesystem,
        'A kind of file system to use although it can lose or damage the store; "" allows none.',
        default="",
        shown="none",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Metrics for Prometheus."""

    listen: Address | None = text_setting(
        _parse_metrics_listen,
        'Where metrics are served over HTTP: host:port, best a local address; "" is off.',
        default=None,
        shown="off",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Events, on stderr."""

    level: LogLevel = text_setting(
        partial(_word, LogLevel), "debug, info, warning or error.", LogLevel.INFO
    )
    format: LogFormat = text_setting(
        partial(_word, LogFormat),
        "auto (console on a terminal, json elsewhere), json or console.",
        LogFormat.AUTO,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Looking after the store."""

    scrub_hours: float = number_setting(
        24.0,
        "hours",
        *(0, 8_760),
        "Hours within which `serve` checks the whole store, over and over; 0: never.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishConfig:
    """Publishing our own lists without ever signing one position twice."""

    mark_dir: Path | None = text_setting(
        _parse_mark_dir,
        'The folder of the high-water mark; another disk is best; "" is mark/ in the home folder.',
        default=None,
        shown="`mark/`",
    )
    peers_needed: PeersNeeded = text_setting(
        PeersNeeded.parse,
        "How many peers must answer before the first signature after a start: all, or a number.",
        PeersNeeded(),
    )
    ask_seconds: float = number_setting(
        3.0, "seconds", 0.1, 60, "How long a publication waits for answers of peers."
    )
    snapshot_ops: int = number_setting(
        100_000,
        "operations",
        *(0, 1_000_000_000_000),
        "How many operations after its last snapshot a list gets a new one; 0: on command only.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncConfig:
    """Following peers. Times are in seconds."""

    interval_seconds: float = number_setting(
        300.0, "seconds", 1, 86_400, "The longest wait before a peer is contacted again."
    )
    idle_timeout_seconds: float = number_setting(
        60.0, "seconds", 0.1, 3_600, "How long a stream may be silent before it counts as broken."
    )
    heartbeat_seconds: float = number_setting(
        15.0,
        "seconds",
        *(0.05, 1_800),
        "How often this node sends on a stream without news; less than idle_timeout_seconds.",
    )
    deadline_seconds: float = number_setting(
        21_600.0,
        "seconds",
        1,
        604_800,
        "How long one `hashfed sync` may take; the next one goes on.",
    )
    check_budget_seconds: float = number_setting(
        60.0,
        "seconds",
        *(0.01, 86_400),
        "How long accepted changes may wait for the checks behind acceptance.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The configuration of one node: its sections.

    `sources` says where each value came from, by `section.key`; what is missing there is a default.
    """

    node: NodeConfig
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()
    store: StoreConfig = StoreConfig()
    publish: PublishConfig = PublishConfig()
    sync: SyncConfig = SyncConfig()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@cache
def sections() -> Mapping[str, type]:
    """Return the class of each section, by name."""
    types = get_type_hints(Config)
    return {name: types[name] for name in types if name != "sources"}


@cache
def all_settings() -> tuple[Setting, ...]:
    """Return all settings, in the order of the sections."""
    return settings.declared(sections())


# --- reading ----------------------------------------------------------------------------------


def load_config(
    home: Home, environ: Mapping[str, str], overrides: Mapping[str, str | None] | None = None
) -> Config:
    """Load the configuration of a node.

    Args:
        home: the node's folder.
        environ: the environment.
        overrides: flags of the command line, by `section.key`; None is a flag that was not given.

    Raises:
        ConfigError: there is no config.toml; or a setting in one of the three places is unknown,
            of the wrong type, out of range, or missing.
    """
    keys = {name: [one.name for one in dataclasses.fields(cls)] for name, cls in sections().items()}
    file = TomlFile(home.config, keys)
    read = settings.read_all(all_settings(), file, environ, overrides or {})
    made = {section: cls(**read.sections[section]) for section, cls in sections().items()}
    config = Config(**made, sources=read.sources)
    if config.sync.heartbeat_seconds >= config.sync.idle_timeout_seconds:
        idle, beat = (
            f"{item.value} ({item.source})"
            for item in describe(config)
            if item.key in {"sync.idle_timeout_seconds", "sync.heartbeat_seconds"}
        )
        raise ConfigError(
            f"sync.heartbeat_seconds: got {beat}, expected less than "
            f"sync.idle_timeout_seconds, which is {idle}",
            hint="a third of idle_timeout_seconds is a good value",
        )
    return config


# --- writing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One value of a configuration: `section.key`, the value as text, and where it came from."""

    key: str
    value: str
    source: str


def describe(config: Config) -> list[Described]:
    """List every value of a configuration and where it came from."""
    return [
        Described(
            key=setting.name,
            value=settings.format_value(setting.value(config)),
            source=config.sources.get(setting.name, "default"),
        )
        for setting in all_settings()
    ]


def render_initial(config: Config) -> str:
    """Render the config.toml of a new node: what differs from the defaults, the rest as comments.

    Reading it back gives an equal configuration.
    """
    lines = [
        "# The configuration of this node. A flag wins over an environment variable, a variable",
        "# over this file; HASHFED_LOG_LEVEL stands for `level` in [log], and so on. Values that",
        "# are commented out are the defaults. `hashfed config` shows which are in force, and why.",
    ]
    for section, cls in sections().items():
        lines += ["", f"# {cls.__doc__}", f"[{section}]"]
        for setting in all_settings():
            if setting.section == section:
                value, default = setting.value(config), setting.default
                if setting.same_as:
                    default = getattr(getattr(config, section), setting.same_as)
                # What has to be set has no default, and nothing equals that.
                mark = "# " if value == default else ""
                lines.append(f"# {setting.said['sentence']}")
                lines.append(f"{mark}{setting.key} = {settings.format_toml(value)}")
    return "\n".join([*lines, ""])
