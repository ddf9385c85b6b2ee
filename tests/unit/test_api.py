# SPDX-License-Identifier: Apache-2.0
"""What the package offers: names that exist and are described, and two ends without each other's verbs."""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sipc
from sipc.aio import AsyncReceiver, AsyncSender
from sipc.channel import open_receiver, open_sender

MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(sipc.__path__, "sipc.")
    if not info.name.endswith("__main__")
]
SENDING = {"send", "send_many", "reserve", "flush", "abort", "pending", "resumption"}
RECEIVING = {
    "receive", "receive_many", "receive_into", "unsafe_borrow", "finish", "sender_restarted", "check_peer", "at_end",
    "record", "violated",
}  # fmt: skip
BOTH = {"name", "epoch", "spec", "closed", "fileno", "close", "confine", "last_seq"}


def public(kind: type) -> set[str]:
    """Names of a class that a caller may use."""
    return {name for name in dir(kind) if not name.startswith("_")}


def own_doc(value: Any) -> str:
    """A description that somebody wrote: not an inherited one, nor the one a dataclass or an enum makes for itself."""
    doc = inspect.getdoc(value) if not inspect.isclass(value) else value.__dict__.get("__doc__")
    if inspect.isclass(value) and doc and doc.startswith((f"{value.__name__}(", "An enumeration", "str(object")):
        return ""
    return doc or ""


# -- names


@pytest.mark.parametrize("module", [sipc, *MODULES], ids=lambda module: module.__name__)
def test_a_module_says_what_it_offers_and_describes_it(module: ModuleType) -> None:
    """A tuple `__all__`, sorted, without doubles; every name exists; modules, classes and functions have docstrings."""
    assert module.__doc__
    offered = module.__all__
    assert isinstance(offered, tuple)
    assert len(set(offered)) == len(offered)
    for name in offered:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert own_doc(value), f"{module.__name__}.{name}"


def members() -> Iterator[Any]:
    """Every public function, method and property of every offered class."""
    for module in MODULES:
        for name in module.__all__:
            kind = getattr(module, name)
            if not inspect.isclass(kind) or kind.__module__ != module.__name__ or issubclass(kind, enum.Enum):
                continue
            for member in sorted(public(kind)):
                value = inspect.getattr_static(kind, member)
                if inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod)):
                    yield pytest.param(kind, member, id=f"{module.__name__}.{name}.{member}")


@pytest.mark.parametrize(("kind", "member"), list(members()))
def test_every_public_member_is_described(kind: type, member: str) -> None:
    """In its class, or where its interface is."""
    assert inspect.getdoc(getattr(kind, member))


def test_the_package_offers_what_a_caller_needs_and_no_more() -> None:
    """Opening, the two ends and what they hand out, finding, the errors; the rest is for those who read modules."""
    errors = set(importlib.import_module("sipc.errors").__all__)
    ends = {"Sender", "Receiver", "Block", "Reservation", "Resumption", "open_sender", "open_receiver"}
    finding = {"ChannelChange", "ChannelEvent", "ChannelWatch", "Descriptor", "wait_for_channel", "watch_channels"}
    assert set(sipc.__all__) == errors | ends | finding
    assert list(sipc.__all__) == sorted(sipc.__all__)


def test_star_import_brings_just_that() -> None:
    """Nothing of the machinery."""
    found: dict[str, object] = {}
    exec("from sipc import *", found)
    assert set(found) - {"__builtins__"} == set(sipc.__all__)


# -- one way


def test_neither_end_has_the_others_verbs() -> None:
    """A sender can not be asked to receive, nor the other way round: there is no such attribute."""
    assert public(sipc.Sender) == SENDING | BOTH
    assert public(sipc.Receiver) == RECEIVING | BOTH
    assert not {name for name in public(sipc.Sender) if "receiv" in name or "recv" in name}
    assert {name for name in public(sipc.Receiver) if "send" in name} == {"sender_restarted"}


def test_the_asyncio_ends_have_no_other_verbs() -> None:
    """The same two, with the same names, so that code moves between them by adding await."""
    assert public(AsyncSender) <= SENDING | BOTH
    assert public(AsyncReceiver) <= RECEIVING | BOTH
    assert public(AsyncSender) >= {"send", "send_many", "reserve", "flush", "close"}
    assert public(AsyncReceiver) >= {"receive", "receive_many", "unsafe_borrow", "finish", "close"}


def test_neither_end_is_the_other() -> None:
    """No class of one end appears among the bases of the other, but for what both share."""
    for sender, receiver in ((sipc.Sender, sipc.Receiver), (AsyncSender, AsyncReceiver)):
        assert not any("Receiver" in kind.__name__ for kind in sender.__mro__)
        assert not any("Sender" in kind.__name__ for kind in receiver.__mro__)


def test_only_receivers_are_iterated_and_nothing_reads_a_sender() -> None:
    """No `__iter__`, `__next__`, `__getitem__` or `__len__` on a sender."""
    for name in ("__iter__", "__next__", "__getitem__", "__len__", "__aiter__", "__anext__"):
        assert not hasattr(sipc.Sender, name)
        assert not hasattr(AsyncSender, name)
    assert hasattr(sipc.Receiver, "__iter__")
    assert hasattr(AsyncReceiver, "__aiter__")


def test_opening_says_in_its_type_what_it_yields() -> None:
    """And risky or rare things are given by name."""
    assert inspect.signature(open_sender, eval_str=True).return_annotation is sipc.Sender
    assert inspect.signature(open_receiver, eval_str=True).return_annotation is sipc.Receiver
    for opening in (open_sender, open_receiver):
        kinds = {name: parameter.kind for name, parameter in inspect.signature(opening).parameters.items()}
        assert kinds.pop("name") is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert set(kinds.values()) == {inspect.Parameter.KEYWORD_ONLY}
    assert "cursor" not in inspect.signature(open_sender).parameters


def test_what_is_unsafe_has_it_in_its_name() -> None:
    """A reviewer greps for one word to find every look at memory that a sender can still change."""
    borrowing = [name for name in public(sipc.Receiver) if "borrow" in name]
    assert borrowing == ["unsafe_borrow"]


@pytest.mark.parametrize(
    "kind", [sipc.Sender, sipc.Receiver, AsyncSender, AsyncReceiver], ids=lambda kind: kind.__name__
)
def test_every_wait_can_be_bounded(kind: type) -> None:
    """`timeout` is in seconds, last, and None unless given."""
    for name in public(kind) & (SENDING | RECEIVING):
        function = inspect.getattr_static(kind, name)
        if isinstance(function, property) or name in ("finish", "abort", "confine", "check_peer"):
            continue
        parameters = list(inspect.signature(function).parameters.values())
        assert (parameters[-1].name, parameters[-1].default) == ("timeout", None), name


# -- the distribution


def test_the_version_is_the_distributions() -> None:
    """One number, in two places."""
    assert sipc.__version__ == version("sipc")


def test_the_package_is_typed() -> None:
    """Its marker is there, so that callers' checkers read its types."""
    assert (Path(sipc.__file__).parent / "py.typed").is_file()


def test_no_module_does_anything_when_imported() -> None:
    """No output, no thread, no descriptor left open, no file made."""
    code = (
        "import importlib, os, pkgutil, threading\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        "import sipc\n"
        "for info in pkgutil.walk_packages(sipc.__path__, 'sipc.'):\n"
        "    if not info.name.endswith('__main__'):\n"
        "        importlib.import_module(info.name)\n"
        "assert set(os.listdir('/proc/self/fd')) == before\n"
        "assert threading.active_count() == 1\n"
        "assert os.listdir('.') == []\n"
    )
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], cwd=empty, capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
