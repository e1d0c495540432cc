"""What `node.staging.source` promises: every line, bounded memory, and clear refusals."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import CommandError, ConfigError
from node.staging.source import MAX_LINE_BYTES, open_source


def _lines(source: Path | io.BytesIO) -> list[bytes]:
    with open_source(source) as opened:
        return [line for chunk in opened.iter_chunks() for line in chunk.split(b"\n")]


@given(
    st.lists(st.binary(max_size=5).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    st.sampled_from([b"", b"end"]),
)
def test_lines_are_those_of_the_file(lines: list[bytes], end: bytes) -> None:
    data = b"x" + b"".join(line + b"\n" for line in lines) + end
    expected = data.split(b"\n")
    assert _lines(io.BytesIO(data)) == expected[: len(expected) - (not expected[-1])]


@pytest.mark.parametrize("size", [256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 10**6])
def test_lines_longer_than_a_read_are_whole(size: int) -> None:
    lines = [b"a", b"b" * size, b"c" * size, b"", b"d"]
    assert _lines(io.BytesIO(b"\n".join(lines))) == lines


def test_too_long_a_line_is_cut_and_the_next_one_found() -> None:
    data = b"a\n" + b"b" * (3 * MAX_LINE_BYTES) + b"\nc\n" + b"d" * (MAX_LINE_BYTES + 1) + b"\ne"
    assert [(line[:1], len(line)) for line in _lines(io.BytesIO(data))] == [
        (b"a", 1),
        (b"b", MAX_LINE_BYTES + 1),
        (b"c", 1),
        (b"d", MAX_LINE_BYTES + 1),
        (b"e", 1),
    ]


def test_a_line_that_never_ends_is_not_held(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(MAX_LINE_BYTES))
    with open_source(bomb) as opened:
        assert max(map(len, opened.iter_chunks())) <= 2 * MAX_LINE_BYTES


def test_gzip_is_told_by_its_first_bytes_not_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes(gzip.compress(b"a\nb\n") + gzip.compress(b"c\n"))
    assert _lines(file) == [b"a", b"b", b"c"]


def test_progress_counts_what_lies_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "list.gz"
    file.write_bytes(gzip.compress(b"a\n" * 10_000))
    with open_source(file) as opened:
        list(opened.iter_chunks())
        assert opened.bytes_read == opened.total_bytes == file.stat().st_size


@pytest.mark.parametrize("keep", [3, 12, 40, -1])
def test_cut_off_gzip_is_refused(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "list.gz"
    file.write_bytes(gzip.compress(bytes(range(256)) * 20)[:keep])
    with pytest.raises(CommandError, match="incomplete"):
        _lines(file)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(bytes(range(256)) * 20))
    data[-6] ^= 1  # its checksum
    file = tmp_path / "list.gz"
    file.write_bytes(data)
    with pytest.raises(CommandError, match="damaged"):
        _lines(file)


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert _lines(io.BytesIO(b"\xef\xbb\xbfa\n\xef\xbb\xbfb")) == [b"a", b"\xef\xbb\xbfb"]


def test_utf16_is_named() -> None:
    with pytest.raises(CommandError, match="UTF-16"):
        _lines(io.BytesIO("type,digest,label".encode("utf-16")))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there is no file"):
        _lines(tmp_path / "missing")


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is a directory"):
        _lines(tmp_path)


def test_a_forbidden_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever runs the tests may be allowed to read anything.
    def refuse(*_args: object, **_named: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match="no permission"):
        _lines(tmp_path / "file")
