# SPDX-License-Identifier: Apache-2.0
"""Policies put together offline: CIL modules in, a binary policy out, by way of secilc.

Owns running the compiler in a directory of its own, and finding modules in folders and in a module store, of which
only those in force count.  It reads the files it is given and loads nothing.
"""

from __future__ import annotations

import bz2
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from sipc.errors import PolicyUnavailable, SpecError

__all__ = ("compose", "find_modules", "in_force")

_LIMIT = 300  # seconds; the largest policies take about ten
_LONGEST_WORDS = 2000  # characters of what it says; the first error is what counts


def find_modules(places: Iterable[Path]) -> list[Path]:
    """CIL files: those named, those in folders (*.cil), those in force in a module store (files called `cil`).

    Raises `SpecError` for a place that is not there or holds none.
    """
    found: list[Path] = []
    for place in places:
        try:
            folder = place.is_dir()
            if folder:
                os.scandir(place).close()  # to glob() a folder that can not be read is an empty one
        except OSError as error:
            raise SpecError(f"{place}: {error.strerror}: name CIL modules that this user can read") from error
        if folder:
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
            try:
                data = place.read_bytes()
                plain = bz2.decompress(data) if data.startswith(b"BZh") else None
            except (OSError, ValueError, EOFError) as error:
                reason = getattr(error, "strerror", None) or f"it begins as bzip2 does, and is not ({error})"
                raise SpecError(f"{place}: {reason}: name a CIL module that this user can read") from error
            if plain is not None:
                unpacked = Path(work, f"{number}.cil")
                unpacked.write_bytes(plain)
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
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, errors="backslashreplace", check=False, timeout=_LIMIT
            )
        except subprocess.TimeoutExpired as error:
            raise SpecError(f"the policy compiler did not end within {_LIMIT:g} s: give it fewer modules") from error
        if done.returncode != 0:
            said = "; ".join(line.replace(f"{work}/", "") for line in (done.stdout + done.stderr).split("\n") if line)
            raise SpecError(f"the policy compiler refuses these modules: {_printable(said) or 'without a word'}")
        return Path(work, "policy").read_bytes()


def _printable(text: str) -> str:
    """What the compiler quotes of a file, without anything that a terminal would obey."""
    cut = text[:_LONGEST_WORDS]
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in cut)
