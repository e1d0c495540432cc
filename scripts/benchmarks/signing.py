"""Signatures as a user would make them: OpenSSH's, over files and over git's commits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks.processes import BenchError, Usage, run

SIGNER: Final = "publisher@hotline.example"
"""The signer that the file of allowed signers names."""

_NAMESPACE: Final = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """An Ed25519 key of one publisher, and the file from which others know it.

    Attributes:
        program: `ssh-keygen`.
        key: the private key; the public key is beside it.
        allowed: the file of allowed signers, which the others have.
    """

    program: Path
    key: Path
    allowed: Path

    @classmethod
    def create(cls, program: Path, folder: Path) -> Signing:
        """Make a key."""
        folder.mkdir()
        key, allowed = folder / "key", folder / "allowed"
        run([program, "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", key])
        public = key.with_suffix(".pub").read_text()
        allowed.write_text(f'{SIGNER} namespaces="git,{_NAMESPACE}" {public}')
        return cls(program=program, key=key, allowed=allowed)

    def sign(self, file: Path) -> Usage:
        """Sign a file."""
        self._signature(file).unlink(missing_ok=True)
        return run([self.program, "-q", "-Y", "sign", "-f", self.key, "-n", _NAMESPACE, file])

    def verify(self, file: Path) -> Usage:
        """Verify a file.

        Raises:
            BenchError: it is not signed, or the program did not check it.
        """
        command: list[str | Path] = [self.program, "-Y", "verify", "-f", self.allowed]
        command += ["-I", SIGNER, "-n", _NAMESPACE, "-s", self._signature(file)]
        used = run(command, stdin=file)
        if "Good" not in used.output:
            raise BenchError(f"ssh-keygen did not verify {file}: {used.output}")
        return used

    def _signature(self, file: Path) -> Path:
        return file.with_name(f"{file.name}.sig")
