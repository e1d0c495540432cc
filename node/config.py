"""The node's configuration: one TOML file, the environment and flags, read strictly.

A flag wins over the environment (`HASHFED_<SECTION>_<KEY>`), that over config.toml, and that over
the default. Holds no secrets: keys are files.

Each setting is declared once, as a field of its section: type, default, bounds and one sentence.
Reading, the initial file, `hashfed config` and the table of docs/operate.md follow from that.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_type_hints

import msgspec

from federation.errors import FederationError
from federation.names import OrgName, parse_org
from node.address import Address, parse_address
from node.errors import ConfigError
from node.home import HOME_VARIABLE, Home
from node.system import filesystem
from node.system.toml_file import TomlFile, refuse_unknown, suggest, type_of

VARIABLE_PREFIX: Final = "HASHFED_"
"""What the name of every environment variable of this program starts with."""

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
            f"address {text!r} is not one that a peer can call",
            hint="name the host under which peers reach this node",
        )
    return address


def _parse_metrics_listen(text: str) -> Address | None:
    return parse_address(text, allow_port_0=True) if text else None


def _parse_mark_dir(text: str) -> Path | None:
    path = Path(text) if text else None
    if path is not None and not (text.isprintable() and path.is_absolute()):
        raise ConfigError(
            f"{text!r} is not the full name of a folder",
            hint="name a folder from the root on, best on another disk",
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


def _text(
    parse: Callable[[str], object], sentence: str, default: object = MISSING, shown: str = ""
) -> Any:  # noqa: ANN401  # a field of a dataclass
    """Declare a text that a function reads; `shown` says the default where its value does not."""
    return field(default=default, metadata={"parse": parse, "sentence": sentence, "shown": shown})


def _number(default: float, unit: str, lowest: float, highest: float, sentence: str) -> Any:  # noqa: ANN401
    """Declare a number of a unit within bounds; a whole number where its type says so."""
    bounds = msgspec.Meta(ge=lowest, le=highest)
    return field(default=default, metadata={"bounds": bounds, "unit": unit, "sentence": sentence})


class LogLevel(StrEnum):
    """From which level on events are written."""

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

    org: OrgName = _text(
        _parse_org, "The organization that this node speaks for: a DNS name that it owns."
    )
    listen: Address = _text(
        partial(parse_address, allow_port_0=True),
        "Where peers are served: host:port. 0.0.0.0 is every interface.",
    )
    advertise: Address = _text(
        _parse_advertise,
        "Where peers call this node, if that is not `listen`. It stands in invitations.",
        shown="as `node.listen`",
    )
    allow_filesystem: str = _text(
        _parse_filesystem,
        'Use this kind of file system although it can lose or damage the store; "" allows none.',
        default="",
        shown="none",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Metrics for Prometheus."""

    listen: Address | None = _text(
        _parse_metrics_listen,
        'Where metrics are served over HTTP: host:port, best of this machine only; "" is off.',
        default=None,
        shown="off",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Events, on stderr."""

    level: LogLevel = _text(
        partial(_word, LogLevel), "debug, info, warning or error.", LogLevel.INFO
    )
    format: LogFormat = _text(
        partial(_word, LogFormat),
        "auto (console on a terminal, json elsewhere), json or console.",
        LogFormat.AUTO,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Looking after the store."""

    scrub_hours: float = _number(
        24.0,
        "hours",
        *(0, 8_760),
        "Hours within which `serve` checks all that is stored, again and again; 0: never.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishConfig:
    """Publishing our own lists, and guarding that no position is signed twice."""

    mark_dir: Path | None = _text(
        _parse_mark_dir,
        'The folder of the high-water mark, best on another disk; "" is mark/ in the home folder.',
        default=None,
        shown="`mark/`",
    )
    peers_needed: PeersNeeded = _text(
        PeersNeeded.parse,
        "How many peers have to answer before the first signature after a start: all, or a number.",
        PeersNeeded(),
    )
    ask_seconds: float = _number(
        3.0, "seconds", 0.1, 60, "How long peers are waited for before a publication."
    )
    snapshot_ops: int = _number(
        100_000,
        "operations",
        *(0, 1_000_000_000_000),
        "Operations since its last snapshot after which a list gets one; 0: on command only.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncConfig:
    """Following peers. Times are in seconds."""

    interval_seconds: float = _number(
        300.0, "seconds", 1, 86_400, "The longest wait before a peer is contacted again."
    )
    idle_timeout_seconds: float = _number(
        60.0, "seconds", 0.1, 3_600, "How long a stream may be silent before it counts as broken."
    )
    heartbeat_seconds: float = _number(
        15.0,
        "seconds",
        *(0.05, 1_800),
        "How often this node speaks on a stream without news; less than idle_timeout_seconds.",
    )
    check_budget_seconds: float = _number(
        60.0,
        "seconds",
        *(0.01, 86_400),
        "How long what was accepted may wait for the checks behind acceptance.",
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


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """One setting, as its section declares it: place, type, default, and what is said of it."""

    section: str
    key: str
    type: Any
    default: object
    said: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its full name."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"{VARIABLE_PREFIX}{self.section}_{self.key}".upper()

    @property
    def is_required(self) -> bool:
        """Whether it must be set: `advertise` is what `listen` is."""
        return self.default is MISSING and self.key != "advertise"

    def value(self, config: Config) -> object:
        """Return its value in a configuration."""
        value: object = getattr(getattr(config, self.section), self.key)
        return value

    def read(self, raw: object) -> object:
        """Return the value that stands in a file as `raw`.

        Raises:
            ConfigError: it is of another type, or out of bounds.
        """
        if "parse" in self.said:
            if not isinstance(raw, str):
                raise ConfigError(f"got {type_of(raw)}, expected a text in quotes")
            return self.said["parse"](raw)
        try:
            return msgspec.convert(raw, Annotated[self.type, self.said["bounds"]])
        except msgspec.ValidationError as error:
            is_of_type = type(raw) in {int, self.type}
            got = raw if is_of_type else type_of(raw)
            raise ConfigError(f"got {got}, expected {self._expected()}") from error

    def read_text(self, text: str) -> object:
        """Return the value that a variable or a flag says.

        Raises:
            ConfigError: as for `read`.
        """
        if "parse" in self.said:
            return self.read(text)
        plain = r"[0-9]{1,18}" if self.type is int else r"[0-9]{1,9}(?:\.[0-9]{1,20})?"
        if re.fullmatch(plain, text, re.ASCII) is None:
            raise ConfigError(f"got {text!r}, expected {self._expected()}")
        return self.read(self.type(text))

    def _expected(self) -> str:
        bounds = self.said["bounds"]
        what = "whole number" if self.type is int else f"number of {self.said['unit']}"
        return f"a {what} from {format_value(bounds.ge)} to {format_value(bounds.le)}"


@cache
def sections() -> Mapping[str, type]:
    """Return the class of each section, by name."""
    types = get_type_hints(Config)
    return {name: types[name] for name in types if name != "sources"}


@cache
def settings() -> tuple[Setting, ...]:
    """Return all settings, in the order of the sections."""
    return tuple(
        Setting(section, one.name, get_type_hints(cls)[one.name], one.default, one.metadata)
        for section, cls in sections().items()
        for one in dataclasses.fields(cls)
    )


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
        ConfigError: there is no config.toml, or anything in the three places is not known, of
            the wrong type, out of range, or missing.
    """
    keys = {name: [s.key for s in settings() if s.section == name] for name in sections()}
    file = TomlFile(home.config, keys)
    variables = {name: text for name, text in environ.items() if name.startswith(VARIABLE_PREFIX)}
    variables.pop(HOME_VARIABLE, None)
    _check_known("environment", "variable", variables, [s.variable for s in settings()])
    flags = {name: text for name, text in (overrides or {}).items() if text is not None}
    _check_known("command line", "setting", overrides or {}, [s.name for s in settings()])
    sources: dict[str, str] = {}
    values: dict[str, dict[str, Any]] = {section: {} for section in sections()}
    for setting in settings():
        table = file.document.get(setting.section, {})
        if setting.name in flags:
            where, read = "command line", partial(setting.read_text, flags[setting.name])
        elif setting.variable in variables:
            where = f"environment variable {setting.variable}"
            read = partial(setting.read_text, variables[setting.variable])
        elif setting.key in table:
            where = file.where(setting.section, setting.key)
            read = partial(setting.read, table[setting.key])
        elif setting.is_required:
            raise ConfigError(
                f"{setting.name} is set nowhere",
                hint=f"set {setting.key} in [{setting.section}] of {home.config}, "
                f"or {setting.variable}",
            )
        else:
            continue
        try:
            values[setting.section][setting.key] = read()
        except ConfigError as error:
            raise ConfigError(f"{where}: {setting.name}: {error}", hint=error.hint) from error
        sources[setting.name] = where
    values["node"].setdefault("advertise", values["node"]["listen"])
    made = {section: cls(**values[section]) for section, cls in sections().items()}
    config = Config(**made, sources=sources)
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


def _check_known(where: str, what: str, names: Mapping[str, object], known: list[str]) -> None:
    for name in sorted(names):
        if name not in known:
            extra = [HOME_VARIABLE] if what == "variable" else []
            refuse_unknown(where, what, name, [*known, *extra])


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
            value=format_value(setting.value(config)),
            source=config.sources.get(setting.name, "default"),
        )
        for setting in settings()
    ]


def render_initial(config: Config) -> str:
    """Render the config.toml of a new node: what differs from the defaults, the rest as comments.

    Reading it back gives an equal configuration.
    """
    lines = [
        "# The configuration of this node. A flag wins over an environment variable, and that over",
        "# this file; HASHFED_LOG_LEVEL stands for `level` in [log], and so on. What is commented",
        "# out is the default. `hashfed config` shows what is in force, and why.",
    ]
    for section, cls in sections().items():
        lines += ["", f"# {cls.__doc__}", f"[{section}]"]
        for setting in settings():
            if setting.section == section:
                value = setting.value(config)
                default = config.node.listen if setting.key == "advertise" else setting.default
                mark = "# " if value == default and not setting.is_required else ""
                lines.append(f"# {setting.said['sentence']}")
                lines.append(f"{mark}{setting.key} = {_format_toml(value)}")
    return "\n".join([*lines, ""])


def format_value(value: object) -> str:
    """Return a value as it would stand in an environment variable."""
    if isinstance(value, float):
        # Within the ranges allowed here, the shortest exact form never has an exponent.
        return str(int(value)) if value.is_integer() else repr(value)
    return "" if value is None else str(value)


def _format_toml(value: object) -> str:
    text = format_value(value)
    # TOML's escapes are those of JSON.
    return text if isinstance(value, float | int) else json.dumps(text, ensure_ascii=False)
