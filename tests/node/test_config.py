"""What `node.config` promises: precedence, strictness, and messages that say where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.names import parse_org
from node.address import Address, parse_address
from node.config import (
    Config,
    LogConfig,
    LogFormat,
    LogLevel,
    MetricsConfig,
    NodeConfig,
    PublishConfig,
    SyncConfig,
    describe,
    load_config,
    render_initial,
)
from node.errors import ConfigError
from node.home import Home

_MINIMAL = """\
[node]
org = "hotline.example"
listen = "127.0.0.1:7443"
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "config.toml").write_text(_MINIMAL)
    return Home(tmp_path)


def _load(home: Home, text: str, **environ: str) -> Config:
    home.config.write_text(text)
    return load_config(home, environ)


def _refusal(home: Home, text: str, **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        _load(home, text, **environ)
    return caught.value


# --- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port", "formatted"),
    [
        ("127.0.0.1:7443", "127.0.0.1", 7443, "127.0.0.1:7443"),
        ("[::1]:1", "::1", 1, "[::1]:1"),
        ("[2001:DB8:0:0::1]:65535", "2001:db8::1", 65535, "[2001:db8::1]:65535"),
        ("Node.Hotline.example:443", "node.hotline.example", 443, "node.hotline.example:443"),
        ("localhost:80", "localhost", 80, "localhost:80"),
    ],
)
def test_an_address_is_parsed_into_its_one_form(
    text: str, host: str, port: int, formatted: str
) -> None:
    address = parse_address(text)
    assert address == Address(host, port)
    assert str(address) == formatted
    assert parse_address(formatted) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "host",
        "host:",
        ":7443",
        "7443",
        "::1:7443",
        "[::1]",
        "[::1:7443",
        "[]:1",
        "[127.0.0.1]:1",
        "[fe80::1%eth0]:1",
        "host:65536",
        "host:-1",
        "host:+1",
        "host:007",
        "host:1_0",
        "host:\u0661",
        "host: 1",
        " host:1",
        "host:1\n",
        "ho st:1",
        "-host:1",
        "host.:1",
        "ho_st:1",
        "1.2.3:1",
        "1.2.3.256:1",
        "01.2.3.4:1",
        "bücher.example:1",
        "http://host:1",
        "user@host:1",
        "host/path:1",
        "a" * 64 + ".example:1",
        ".".join(["a" * 60] * 5) + ":1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        parse_address(text)


def test_port_0_is_for_listening_only() -> None:
    assert parse_address("127.0.0.1:0", allow_port_0=True).port == 0
    with pytest.raises(ConfigError, match="port 0"):
        parse_address("127.0.0.1:0")


@pytest.mark.parametrize("text", ["0.0.0.0:7443", "[::]:7443", "[0:0::0]:7443"])
def test_every_interface_is_nothing_to_call(text: str) -> None:
    assert not parse_address(text).is_callable


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused_with_one_error(text: str) -> None:
    try:
        address = parse_address(text, allow_port_0=True)
    except ConfigError:
        return
    assert parse_address(str(address), allow_port_0=True) == address


# --- precedence -------------------------------------------------------------------------------


def test_a_minimal_file_gives_the_defaults(home: Home) -> None:
    config = load_config(home, {})
    listen = Address("127.0.0.1", 7443)
    assert config == Config(
        node=NodeConfig(org=parse_org("hotline.example"), listen=listen, advertise=listen)
    )
    assert config.metrics.listen is None
    assert config.log == LogConfig(level=LogLevel.INFO, format=LogFormat.AUTO)
    assert config.sync.heartbeat_seconds < config.sync.idle_timeout_seconds


def test_flag_wins_over_environment_over_file_over_default(home: Home) -> None:
    environ = {"HASHFED_LOG_LEVEL": "warning"}
    assert load_config(home, {}).log.level is LogLevel.INFO
    home.config.write_text(_MINIMAL + '[log]\nlevel = "error"\n')
    assert load_config(home, {}).log.level is LogLevel.ERROR
    assert load_config(home, environ).log.level is LogLevel.WARNING
    assert load_config(home, environ, {"log.level": "debug"}).log.level is LogLevel.DEBUG


def test_a_flag_that_was_not_given_changes_nothing(home: Home) -> None:
    assert load_config(home, {}, {"log.level": None}) == load_config(home, {})


def test_every_setting_can_come_from_every_place(home: Home) -> None:
    texts = {
        "node.org": "other.example",
        "node.listen": "127.0.0.1:0",
        "node.advertise": "node.other.example:443",
        "node.allow_filesystem": "fuse",
        "metrics.listen": "[::1]:9100",
        "log.level": "debug",
        "log.format": "json",
        "store.scrub_hours": "0.25",
        "publish.mark_dir": '/srv/"the mark"\\',
        "publish.peers_needed": "3",
        "publish.ask_seconds": "0.5",
        "sync.interval_seconds": "7",
        "sync.idle_timeout_seconds": "5.5",
        "sync.heartbeat_seconds": "0.25",
        "sync.deadline_seconds": "60",
        "sync.check_budget_seconds": "3",
        "publish.snapshot_ops": "0",
    }
    environ = {f"HASHFED_{key.replace('.', '_').upper()}": text for key, text in texts.items()}
    by_environment = load_config(home, environ)
    by_flags = load_config(home, {}, texts)
    by_file = _load(home, render_initial(by_flags))
    assert by_environment == by_flags == by_file
    assert {item.key: item.value for item in describe(by_flags)} == texts
    assert {item.source for item in describe(by_flags)} == {"command line"}
    assert all(item.source.startswith("environment") for item in describe(by_environment))
    assert all(str(home.config) in item.source for item in describe(by_file))


def test_the_environment_can_turn_metrics_off(home: Home) -> None:
    text = _MINIMAL + '[metrics]\nlisten = "127.0.0.1:9100"\n'
    assert _load(home, text).metrics.listen == Address("127.0.0.1", 9100)
    assert _load(home, text, HASHFED_METRICS_LISTEN="").metrics.listen is None


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("publish.mark_dir", "mark", "is not the absolute path of a folder"),
        ("publish.mark_dir", "/a\x7fb", "is not the absolute path of a folder"),
        ("publish.peers_needed", "most", "expected all, or a number"),
        ("publish.peers_needed", "-1", "expected all, or a number"),
        ("node.allow_filesystem", "ext4", "expected one of 9p, afs"),
    ],
)
def test_what_would_guard_nothing_is_refused(home: Home, key: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(home, {}, {key: text})


def test_peers_call_where_the_node_listens_unless_told_otherwise(home: Home) -> None:
    config = load_config(home, {"HASHFED_NODE_LISTEN": "[::1]:1"})
    assert config.node.advertise == Address("::1", 1)


def test_describe_says_where_each_value_came_from(home: Home) -> None:
    home.config.write_text(_MINIMAL + "\n[sync]\n# often\ninterval_seconds = 60\n")
    config = load_config(home, {"HASHFED_LOG_LEVEL": "debug"}, {"node.listen": "[::1]:1"})
    described = {item.key: (item.value, item.source) for item in describe(config)}
    assert described["node.org"] == ("hotline.example", f"{home.config}, line 2")
    assert described["node.listen"] == ("[::1]:1", "command line")
    assert described["log.level"] == ("debug", "environment variable HASHFED_LOG_LEVEL")
    assert described["sync.interval_seconds"] == ("60", f"{home.config}, line 7")
    assert described["metrics.listen"] == ("", "default")
    assert len(described) == 17


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ('[node]\norg = "a.example"\nlisen = "a:1"\n', 3, "did you mean listen?"),
        ('[nodes]\norg = "a.example"\n', 1, "did you mean node?"),
        ("# first\n\n[snyc]\ninterval_seconds = 1\n", 3, "did you mean sync?"),
        ('listen = "a:1"\n', 1, "did you mean node.listen or metrics.listen?"),
        ('[node]\nlevel = "debug"\n', 2, "it belongs into [log]"),
        ('node.lisen = "a:1"\n', 1, "did you mean listen?"),
        ('[node]\n"lisen" = "a:1"\n', 2, "did you mean listen?"),
        ("[zzz]\n", 1, "known are log, metrics, node, publish, store, sync"),
    ],
)
def test_an_unknown_key_is_refused_with_its_line_and_the_one_that_was_meant(
    home: Home, text: str, line: int, hint: str
) -> None:
    error = _refusal(home, text)
    assert f"{home.config}, line {line}:" in str(error)
    assert error.hint == hint


def test_a_line_is_found_in_its_own_section(home: Home) -> None:
    text = _MINIMAL + '[metrics]\nlisten = 5\n[log]\nlevel = "info"\n'
    assert f"{home.config}, line 5: metrics.listen" in str(_refusal(home, text))


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("HASHFED_NODE_LISTN", "did you mean HASHFED_NODE_LISTEN?"),
        ("HASHFED_LISTEN", "did you mean HASHFED_NODE_LISTEN?"),
        ("HASHFED_HOMES", "did you mean HASHFED_HOME?"),
        ("HASHFED_node_listen", "did you mean HASHFED_NODE_LISTEN?"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_one_that_was_meant(
    home: Home, variable: str, hint: str
) -> None:
    error = _refusal(home, _MINIMAL, **{variable: "x"})
    assert variable in str(error)
    assert error.hint == hint


def test_other_programs_variables_and_the_home_are_none_of_its_business(home: Home) -> None:
    environ = {"HASHFED_HOME": "/x", "HASHFEDX": "1", "_HASHFED_COMPLETE": "1", "PATH": "/bin"}
    assert load_config(home, environ) == load_config(home, {})


def test_an_unknown_flag_is_refused(home: Home) -> None:
    with pytest.raises(ConfigError, match=r"node\.lisen") as caught:
        load_config(home, {}, {"node.lisen": "x"})
    assert caught.value.hint == "did you mean node.listen?"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("interval_seconds", '"60"', "got the text '60'"),
        ("interval_seconds", "true", "got the boolean true"),
        ("interval_seconds", "0", "expected a number of seconds from 1 to 86400"),
        ("interval_seconds", "86400.5", "got 86400.5"),
        ("interval_seconds", "nan", "got nan"),
        ("interval_seconds", "inf", "got inf"),
        ("interval_seconds", "1e400", "got inf"),
        ("interval_seconds", "[1]", "got an array"),
        ("interval_seconds", "{a = 1}", "got a table"),
        ("interval_seconds", "2026-01-01", "got a date or time"),
        ("heartbeat_seconds", "60", "less than sync.idle_timeout_seconds, which is 60 (default)"),
    ],
)
def test_a_wrong_type_or_range_is_refused_where_it_stands(
    home: Home, key: str, value: str, message: str
) -> None:
    error = _refusal(home, f"{_MINIMAL}[sync]\n{key} = {value}\n")
    assert message in str(error)
    assert f"{home.config}, line 5" in str(error)


@pytest.mark.parametrize("text", ["", "1e3", "0x10", " 5", "5s", "nan", "-1", "1_0", "\u0665"])
def test_a_variable_that_is_no_plain_number_is_refused(home: Home, text: str) -> None:
    error = _refusal(home, _MINIMAL, HASHFED_SYNC_INTERVAL_SECONDS=text)
    assert "environment variable HASHFED_SYNC_INTERVAL_SECONDS" in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[log]\nlevel = "warn"\n', "expected one of debug, info, warning, error"),
        ('[log]\nformat = "JSON"\n', "expected one of auto, json, console"),
        ('[metrics]\nlisten = "9100"\n', "host:port"),
        ("[metrics]\nlisten = 9100\n", "got the number 9100, expected a text in quotes"),
    ],
)
def test_a_value_outside_the_allowed_ones_is_refused(home: Home, text: str, message: str) -> None:
    assert message in str(_refusal(home, _MINIMAL + text))


def test_a_wrong_word_comes_with_the_one_that_was_meant(home: Home) -> None:
    error = _refusal(home, _MINIMAL, HASHFED_LOG_LEVEL="warn")
    assert error.hint == "did you mean warning?"


@pytest.mark.parametrize("address", ["0.0.0.0:7443", "[::]:7443", "node.example:0"])
def test_an_address_that_nobody_can_call_is_not_advertised(home: Home, address: str) -> None:
    assert "node.advertise" in str(_refusal(home, f'{_MINIMAL}advertise = "{address}"\n'))


@pytest.mark.parametrize("org", ["Hotline.example", "hotline", "", "a b.example"])
def test_the_organization_must_be_a_dns_name(home: Home, org: str) -> None:
    assert "node.org" in str(_refusal(home, f'[node]\norg = "{org}"\nlisten = "a:1"\n'))


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("", "node.org"),
        ('[node]\norg = "a.example"\n', "node.listen"),
        ('[node]\nlisten = "a:1"\n', "node.org"),
    ],
)
def test_a_missing_required_value_is_named_with_its_variable(
    home: Home, text: str, missing: str
) -> None:
    error = _refusal(home, text)
    assert str(error) == f"{missing} is not set"
    assert f"HASHFED_{missing.replace('.', '_').upper()}" in error.hint


def test_broken_toml_is_refused_with_its_line(home: Home) -> None:
    error = _refusal(home, "[node]\norg = hotline.example\n")
    assert str(home.config) in str(error)
    assert "line 2" in str(error)


def test_a_section_must_be_a_section(home: Home) -> None:
    assert "expected [node]" in str(_refusal(home, 'node = "x"\n'))


@pytest.mark.parametrize("data", [b"\xff\xfe", b'[node]\norg = "\xe9"\n'])
def test_a_file_that_is_not_utf8_is_refused(home: Home, data: bytes) -> None:
    home.config.write_bytes(data)
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(home, {})


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        load_config(Home(tmp_path), {})
    assert "hashfed init" in caught.value.hint


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Home(tmp_path), {})


# --- writing ----------------------------------------------------------------------------------

_ADDRESSES = st.builds(
    Address,
    st.sampled_from(["127.0.0.1", "::1", "node.hotline.example"]),
    st.integers(1, 65_535),
)
_CONFIGS = st.builds(
    Config,
    node=st.builds(
        NodeConfig,
        org=st.sampled_from([parse_org("hotline.example"), parse_org("a.b-c.example")]),
        listen=_ADDRESSES,
        advertise=_ADDRESSES,
    ),
    metrics=st.builds(MetricsConfig, listen=st.none() | _ADDRESSES),
    log=st.builds(
        LogConfig, level=st.sampled_from(list(LogLevel)), format=st.sampled_from(list(LogFormat))
    ),
    sync=st.builds(
        SyncConfig,
        interval_seconds=st.integers(1, 86_400).map(float),
        idle_timeout_seconds=st.integers(31, 3_600).map(float),
        heartbeat_seconds=st.integers(1, 600).map(lambda tick: tick / 20),
        deadline_seconds=st.integers(1, 604_800).map(float),
        check_budget_seconds=st.integers(1, 1_000).map(lambda tick: tick / 100),
    ),
    publish=st.builds(PublishConfig, snapshot_ops=st.integers(0, 10**12)),
)


@given(config=_CONFIGS)
def test_what_is_rendered_reads_back_as_the_same(
    config: Config, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = Home(tmp_path_factory.mktemp("home"))
    home.config.write_text(render_initial(config))
    assert load_config(home, {}) == config


def test_the_initial_file_shows_every_setting_and_sets_only_what_differs(home: Home) -> None:
    config = load_config(home, {})
    text = render_initial(replace(config, log=LogConfig(level=LogLevel.DEBUG)))
    set_lines = [line for line in text.splitlines() if line and not line.startswith(("#", "["))]
    assert set_lines == [
        'org = "hotline.example"',
        'listen = "127.0.0.1:7443"',
        'level = "debug"',
    ]
    for item in describe(config):
        assert f"{item.key.partition('.')[2]} = " in text


def test_uncommenting_the_defaults_changes_nothing(home: Home) -> None:
    config = load_config(home, {})
    lines = render_initial(config).splitlines()
    uncommented = [
        line.removeprefix("# ") if " = " in line and not line.startswith("# #") else line
        for line in lines
    ]
    assert uncommented != lines
    assert _load(home, "\n".join(uncommented)) == config
