"""Shows a coalition of three organizations at work on this machine. See `scripts/demo`."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import material
from coalition import SERVE_ENVIRONMENT, Coalition
from story import Story
from telling import DemoError, Teller

from scripts.ending import end_on_signals

_EXIT_FAILED: Final = 1
_EXIT_INTERRUPTED: Final = 130


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="the list to share, as `hashfed import` takes it: JSON Lines or CSV, also .gz; "
        "by default one is made from files of Python's standard library",
    )
    parser.add_argument(
        "--files",
        type=int,
        default=3_000,
        metavar="N",
        help="entries of the list that is made, at most (default 3000)",
    )
    parser.add_argument(
        "--parts",
        type=int,
        default=10,
        metavar="N",
        help="how many change files the list is cut into (default 10)",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in this new folder, and leave it there"
    )
    parser.add_argument(
        "--pause", action="store_true", help="wait for Enter before each chapter (terminal only)"
    )
    arguments = parser.parse_args()
    if arguments.parts < material.FEWEST_PARTS:
        parser.error(f"--parts: got {arguments.parts}, at least {material.FEWEST_PARTS}")
    return arguments


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="hashfed-demo-") as name:
            yield Path(name)
        return
    try:
        keep.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise DemoError(f"{keep} exists already: name a folder that does not") from error
    except OSError as error:
        raise DemoError(f"cannot make {keep}: {error.strerror}") from error
    yield keep.absolute()


def _run(arguments: argparse.Namespace, teller: Teller) -> None:
    began = time.perf_counter()
    with _folder(arguments.keep) as folder:
        source = arguments.input
        if source is None:
            source = folder / "input.jsonl"
            material.write_sample(source, arguments.files)
        parts = material.cut(source, folder, arguments.parts)
        coalition = Coalition(folder, teller)
        story = Story(folder=folder, coalition=coalition, teller=teller, source=source, parts=parts)
        try:
            story.tell()
        except DemoError:
            _show_logs(coalition)
            raise
        finally:
            coalition.stop()
        teller.close(time.perf_counter() - began)
        if arguments.keep is not None:
            _explain_kept(folder, coalition)


def _show_logs(coalition: Coalition) -> None:
    for node in coalition.nodes:
        lines = node.log_tail()
        if lines:
            print(f"\nlast lines of the log of {node.name}:", file=sys.stderr)
            print("\n".join(f"  {line}" for line in lines), file=sys.stderr)


def _explain_kept(folder: Path, coalition: Coalition) -> None:
    settings = " ".join(f"{key}={value}" for key, value in SERVE_ENVIRONMENT.items())
    print(f"\nThe nodes lie in {folder}; nothing runs any more. To go on:\n")
    program = Path(sys.executable).with_name("hashfed")
    print(f"   cd {shlex.quote(str(folder))}; alias hashfed={shlex.quote(str(program))}")
    for node in coalition.nodes:
        print(f"   {settings} {node.line('serve')} &")
    print(f"   {coalition.ngo.line('status')}")


def main() -> int:
    """Run the demonstration and return its exit code."""
    arguments = _parse_arguments()
    end_on_signals()
    try:
        _run(arguments, Teller(pause=arguments.pause))
    except DemoError as error:
        print(f"\nscripts/demo: {error}", file=sys.stderr)
        return _EXIT_FAILED
    except BrokenPipeError:
        # Whoever watched has had enough; the nodes are stopped.
        sys.stderr.close()
        return _EXIT_FAILED
    except KeyboardInterrupt:
        print("\nscripts/demo: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
