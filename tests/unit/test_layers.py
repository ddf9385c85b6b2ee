# SPDX-License-Identifier: Apache-2.0
"""The shape of the package: imports go down only, every module says what it offers, nothing is left unfinished."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sipc

SOURCE = Path(sipc.__file__).parent
# Lower layers first; a module may import from its own layer and from those before it.
LAYERS = (
    ("errors",),
    ("spec",),
    ("definitions", "admission", "proto", "selinux"),
    ("kernel",),
    ("descriptor",),
    ("registry", "cursor", "keyfile", "process"),
    ("publisher", "watch", "enforcement", "endpoint_policy", "last_sender"),
    ("helper", "helping", "libsipc", "finding"),
    ("endpoint",),
    ("blocks",),
    ("sender", "receiver"),
    ("channel",),
    ("aio",),
    ("guard",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path.name != "__main__.py")
# DESIGN section 2: the trusted part imports these and nothing else of the package; `selinux` to refuse when it runs
# in the wrong domain (section 8).
HELPER_MAY = {"errors", "spec", "definitions", "admission", "proto", "kernel", "descriptor", "registry", "publisher",
              "selinux"}  # fmt: skip


def imports_of(path: Path) -> set[str]:
    """First component below `sipc` of everything a file imports from the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((SOURCE / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sipc":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("sipc.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_down_only(path: Path) -> None:
    """No module imports from a layer above its own."""
    layer = path.parts[0].removesuffix(".py")
    if layer == "__init__":
        return  # the package itself offers its parts
    above = {name for name in imports_of(path) if name in RANK and RANK[name] > RANK[layer]}
    assert not above


def test_every_module_has_a_layer() -> None:
    """A new module is placed in the layers on purpose."""
    assert {path.parts[0].removesuffix(".py") for path in MODULES} - {"__init__"} <= set(RANK)


def test_the_helper_imports_only_the_trusted_part() -> None:
    """The helper and everything it pulls in stay within the modules that are reviewed as trusted."""
    seen: set[str] = set()
    todo = [Path("helper.py")]
    while todo:
        path = todo.pop()
        for name in imports_of(path):
            assert name in HELPER_MAY, f"{path} imports {name}"
            if name not in seen:
                seen.add(name)
                place = SOURCE / name
                files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
                todo += [file.relative_to(SOURCE) for file in files if "libsipc" not in file.parts]
    assert seen


@pytest.mark.parametrize(
    "name",
    [
        info.name
        for info in pkgutil.walk_packages(sipc.__path__, "sipc.")
        if not info.name.endswith("__main__") and ".cli" not in info.name
    ],
)
def test_all_is_a_tuple_of_names_that_exist(name: str) -> None:
    """`__all__` is a tuple and true."""
    module = importlib.import_module(name)
    assert isinstance(module.__all__, tuple)
    for entry in module.__all__:
        assert hasattr(module, entry), entry


def test_importing_the_library_pulls_in_neither_asyncio_nor_click() -> None:
    """Start-up stays cheap: what few need is imported by those who need it."""
    costly = ("asyncio", "click", "tomllib", "numpy", "argparse")
    code = f"import sys, sipc; print([m for m in {costly} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_no_unfinished_marks_are_left() -> None:
    """The source holds no note to finish something later."""
    marks = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")))
    assert [str(path) for path in MODULES if marks.search((SOURCE / path).read_text())] == []
