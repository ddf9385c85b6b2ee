# SPDX-License-Identifier: Apache-2.0
"""`sipc demo`: helper, sender and receiver as separate processes, and what went over the queue.

Owns a temporary registry with one channel in it, which it destroys whatever happens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sipc import enforcement, helper
from sipc.errors import SipcError, SpecError
from sipc.registry import Registry

__all__ = ("describe", "run")

_NAME = "demo"
_SECONDS = 60.0


def _argv(module: str, *arguments: str) -> list[str]:
    isolated = [] if os.environ.get("PYTHONPATH") else ["-I"]
    return [sys.executable, *isolated, "-m", module, *arguments]


def run(file: Path | None, size: int) -> dict[str, Any]:
    """Carry `file` (or `size` random bytes) across; returns what was seen."""
    if file is not None and not (file.is_file() and os.access(file, os.R_OK)):
        raise SpecError(f"{file}: is no file that this user can read: name one, or none for random data")
    with tempfile.TemporaryDirectory(prefix="sipc-demo-") as directory:
        base = Path(directory)
        registry = base / "registry"
        definition = base / "demo.toml"
        definition.write_text(f'[channel.{_NAME}]\nenforcement = "dac"\n')
        if file is None:
            file = base / "random-data"
            with file.open("wb") as output:
                for start in range(0, size, 1 << 20):
                    output.write(os.urandom(min(1 << 20, size - start)))
        with subprocess.Popen(
            _argv("sipc.helper", "--registry", str(registry), "create", str(definition)),
            stdout=subprocess.PIPE,
            text=True,
        ) as making:
            made, _ = making.communicate(timeout=_SECONDS)
        if making.returncode:
            raise SipcError("demo: the helper could not make a channel (its message is above); try 'sipc doctor'")
        try:
            with Registry(registry) as place:
                account = enforcement.account(place.read(_NAME))
            ends = _carry(registry, file, base)
        finally:
            helper.destroy(_NAME, registry)
    return {
        "file_bytes": ends["sender"]["bytes"],
        "helper": {"pid": json.loads(made)["pid"], "exit": making.returncode},
        **ends,
        "equal": ends["sender"]["sha256"] == ends["receiver"]["sha256"],
        "summary": account.summary,
    }


def _carry(registry: Path, file: Path, base: Path) -> dict[str, Any]:
    """Both ends as processes of their own; each reports one JSON line."""
    ends = {
        role: subprocess.Popen(
            _argv("sipc.cli.demo_end", role, str(registry), _NAME, str(path)), stdout=subprocess.PIPE, text=True
        )
        for role, path in (("receiver", base / "received"), ("sender", file))
    }
    reports = {}
    try:
        for role, process in ends.items():
            out, _ = process.communicate(timeout=_SECONDS)
            if process.returncode:
                raise SipcError(f"demo: the {role} ended with exit code {process.returncode}")
            reports[role] = json.loads(out)
    finally:
        for process in ends.values():
            if process.poll() is None:
                process.kill()
                process.wait()
    return reports


def describe(result: dict[str, Any]) -> Iterator[str]:
    """The result for a person."""
    helper_, sender, receiver = result["helper"], result["sender"], result["receiver"]
    yield f"helper    pid {helper_['pid']:<7} made queue and segment, and exited ({helper_['exit']}) before data moved"
    yield f"sender    pid {sender['pid']:<7} sent {result['file_bytes']:,} bytes"
    yield f"receiver  pid {receiver['pid']:<7} received {receiver['bytes']:,} bytes"
    yield ""
    yield "messages that went over the queue:"
    yield "   no.  kind        slot   block     bytes"
    messages = receiver["messages"]
    last = 0
    for number, kind, slot, seq, length in messages:
        if number != last + 1:
            yield "   ..."
        last = number
        yield f"  {number:4}  {kind:10} {slot:5} {seq:7} {length:9,}"
    counts = ", ".join(f"{count} {kind}" for kind, count in receiver["counts"].items())
    yield f"  in all: {counts}"
    yield ""
    yield f"sha256 sent      {sender['sha256']}"
    yield f"sha256 received  {receiver['sha256']}  {'equal' if result['equal'] else 'DIFFERENT'}"
    yield ""
    yield result["summary"]
    if sender["confined"] and receiver["confined"]:
        yield "Both ends have given up, by seccomp filters, the system calls of the other direction (docs/seccomp.md)."
    else:
        yield "No seccomp filters: libseccomp or its binding is not here (pip install 'sipc[seccomp]')."
