"""Generate the protobuf code from `protos/`, or check that what is committed is not stale.

`python -m rhe_parties.proto.generate` writes it, `… --check` compares and exits with 1 when it differs. Needs
`grpcio-tools` (the `dev` extra) and a checkout, since `protos/` is not part of the installed package.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

__all__ = ["generate", "main", "stale_files"]

_PACKAGE = Path(__file__).resolve().parent
_ROOT = _PACKAGE.parents[1]


def generate(target: Path, sources: Path = _ROOT / "protos") -> list[Path]:
    """Compile every `.proto` below `sources` into `target`; returns the files written.

    Raises:
        RuntimeError: the compiler refused a file.
    """
    from grpc_tools import protoc

    protos = sorted(sources.rglob("*.proto"))
    arguments = ["protoc", f"-I{sources}", f"--python_out={target}", f"--pyi_out={target}", *map(str, protos)]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc failed on {', '.join(p.name for p in protos)}")
    return sorted((target / "rhe_parties" / "proto").glob("*_pb2.py*"))


def _essence(text: str) -> str:
    """The generated text without what only names the compiler's release."""
    lines = []
    in_version_block = False
    for line in text.splitlines():
        if line.startswith("_runtime_version.ValidateProtobufRuntimeVersion("):
            in_version_block = True
        if not in_version_block and not line.startswith("# Protobuf Python Version:"):
            lines.append(line)
        if in_version_block and line.startswith(")"):
            in_version_block = False
    return "\n".join(lines)


def stale_files() -> list[str]:
    """Names of generated files that differ from what `protos/` gives now (missing and left-over ones included)."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = {p.name: _essence(p.read_text()) for p in generate(Path(folder))}
    held = {p.name: _essence(p.read_text()) for p in _PACKAGE.glob("*_pb2.py*")}
    return sorted(name for name in fresh.keys() | held.keys() if fresh.get(name) != held.get(name))


def main(arguments: list[str]) -> int:
    """Write the code, or with `--check` compare it; returns the exit code."""
    if arguments == ["--check"]:
        stale = stale_files()
        if stale:
            sys.stderr.write(f"stale generated code: {', '.join(stale)}; run python -m rhe_parties.proto.generate\n")
        return 1 if stale else 0
    if arguments:
        sys.stderr.write(f"unknown argument {arguments[0]!r} (allowed: --check)\n")
        return 2
    generate(_ROOT)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
