# SPDX-License-Identifier: Apache-2.0
"""Policies put together offline: CIL modules in, a binary policy out, by way of secilc.

Owns running the compiler in a directory of its own, and finding modules in folders and in a module store, of which
only those in force count.  It reads the files it is given and loads nothing.
"""

from __future__ import annotations

import bz2
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from sipc.errors import PolicyUnavailable, SpecError

__all__ = ("compose", "find_modules", "in_force")

_LIMIT = 300  # seconds; the largest policies take about ten


def find_modules(places: Iterable[Path]) -> list[Path]:
    """CIL files: those named, those in folders (*.cil), those in force in a module store (files called `cil`).

    Raises `SpecError` for a place that is not there or holds none.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted([*place.glob("*.cil"), *in_force(place.glob("**/cil"))])
            if not inside:
                raise SpecError(f"{place}: no *.cil in it, and it is no module store: name a folder of CIL modules")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise SpecError(f"{place}: no such file or folder: name CIL modules, or folders of them")
    return found


def in_force(files: Iterable[Path]) -> list[Path]:
    """Of a store's files `modules/PRIORITY/NAME/cil` those that libsemanage builds the policy of.

    That is the highest priority of each name, unless `modules/disabled/NAME` is there (libsemanage's semanage_store.c,
    semanage_get_active_modules).  Files that lie in no such place all count.
    """
    best: dict[Path, Path] = {}
    for path in files:
        modules, priority, name = path.absolute().parents[2], path.absolute().parents[1].name, path.parent.name
        if not priority.isdigit():
            best[path] = path
        elif not (modules / "disabled" / name).exists():
            known = best.get(modules / name)
            if known is None or int(known.absolute().parents[1].name) < int(priority):
                best[modules / name] = path
    return sorted(best.values())


def compose(
    places: Iterable[Path], modules: Mapping[str, str] | None = None, *, checks: bool = False, dontaudit: bool = True,
    version: int = 33,
) -> bytes:
    """Compile CIL files, and module texts by name, into one binary policy.

    `checks` does what `expand-check=1` does in semanage.conf: neverallow rules are enforced; without
    `dontaudit` every refusal is logged.  Raises `SpecError`
    with the compiler's words when it refuses, `PolicyUnavailable` when there is no compiler.
    """
    compiler = shutil.which("secilc")
    if compiler is None:
        raise PolicyUnavailable("no secilc here to compile a policy with: install the package secilc")
    with tempfile.TemporaryDirectory(prefix="sipc-policy-") as work:
        files: list[str] = []
        for number, place in enumerate(find_modules(places)):
            data = place.read_bytes()
            if data.startswith(b"BZh"):
                unpacked = Path(work, f"{number}.cil")
                unpacked.write_bytes(bz2.decompress(data))
                files.append(str(unpacked))
            else:
                files.append(str(place.absolute()))
        for name, text in (modules or {}).items():
            written = Path(work, f"{name}.cil")
            written.write_text(text)
            files.append(str(written))
        if not files:
            raise SpecError("no module to compile: name CIL files or folders")
        argv = [compiler, "-M", "true", "-c", str(version), "-U", "allow", *([] if checks else ["-N"])]
        argv += [] if dontaudit else ["-D"]
        argv += ["-o", f"{work}/policy", "-f", f"{work}/contexts", *files]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_LIMIT)
        if done.returncode != 0:
            said = "; ".join(line.replace(f"{work}/", "") for line in (done.stdout + done.stderr).split("\n") if line)
            raise SpecError(f"the policy compiler refuses these modules: {said or 'without a word'}")
        return Path(work, "policy").read_bytes()
