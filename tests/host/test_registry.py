# SPDX-License-Identifier: Apache-2.0
"""What an endpoint believes of a registry: nothing that the helper could not have written."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.channels import Child, make
from tests.support.forgeries import FORGED, forge, mend

import sipc
from sipc import helper
from sipc.descriptor import Descriptor
from sipc.kernel import Keys
from sipc.spec import ChannelSpec

pytestmark = pytest.mark.host

_ME = os.geteuid()


@pytest.mark.parametrize("case", FORGED)
def test_a_descriptor_that_is_not_the_helpers_is_not_used(case: str, registry: Path) -> None:
    """Both ends, and the helper itself, refuse it and say why; put right, it works again."""
    make(registry, "c", slot_size=64)
    path = registry / "c.json"
    text = path.read_bytes()
    forge(case, path)
    for use in (
        lambda: sipc.open_sender("c", registry=registry, timeout=0),
        lambda: sipc.open_receiver("c", registry=registry, timeout=0),
        lambda: helper.destroy("c", registry),
    ):
        with pytest.raises(sipc.RegistryError, match=FORGED[case]):
            use()
    mend(path, text)
    sipc.open_sender("c", registry=registry, timeout=0).close()


def test_a_registry_that_is_a_link_or_a_file_is_not_used(registry: Path, tmp_path: Path) -> None:
    """Nor one that is not there."""
    make(registry, "c", slot_size=64)
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(registry)
    file.touch()
    for opening in (sipc.open_sender, sipc.open_receiver):
        for path in (link, file):
            with pytest.raises(sipc.RegistryError, match="must be a real directory"):
                opening("c", registry=path, timeout=0)
        with pytest.raises(sipc.ChannelNotFound, match="nowhere"):
            opening("c", registry=tmp_path / "nowhere", timeout=0)


def test_another_ipc_namespace_is_noticed(registry: Path) -> None:
    """Keys mean nothing there: the error names both namespaces."""
    make(registry, "c", slot_size=64)

    def elsewhere() -> list[str]:
        new_ipc, new_user = 0x08000000, 0x10000000
        if ctypes.CDLL(None, use_errno=True).unshare(new_ipc | (0 if _ME == 0 else new_user)):
            raise OSError(ctypes.get_errno(), "unshare")
        errors = []
        for opening in (sipc.open_sender, sipc.open_receiver):
            with pytest.raises(sipc.RegistryError) as caught:
                opening("c", registry=registry, timeout=0)
            errors.append(str(caught.value))
        return errors

    here = str(Path("/proc/self/ns/ipc").stat().st_ino)
    for error in Child(elsewhere).result():
        assert "ipc namespace" in error
        assert here in error


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["schema", "name", "keys"]), inner),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_no_bytes_make_a_descriptor_raise_anything_else(data: bytes) -> None:
    """Arbitrary text is refused as a `RegistryError`."""
    with pytest.raises(sipc.RegistryError):
        Descriptor.from_json(data.decode("utf-8", "replace"), "x")


@given(st.data())
def test_no_change_of_a_field_makes_a_descriptor_raise_anything_else(data: st.DataObject) -> None:
    """Any JSON value in the place of any field gives a descriptor or a `RegistryError`."""
    good = Descriptor(
        spec=ChannelSpec(name="c"),
        epoch=1,
        keys=Keys(queue="1", segment="2"),
        creator_uid=0,
        ipc_namespace=0,
        created=0,
    ).to_json()
    document = json.loads(good)
    assert Descriptor.from_json(good, "x").spec == ChannelSpec(name="c")
    tables = [document, *(value for value in document.values() if isinstance(value, dict))]
    table = data.draw(st.sampled_from(tables))
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    table[data.draw(st.sampled_from(sorted(table)))] = data.draw(leaf | st.lists(leaf, max_size=2))
    with contextlib.suppress(sipc.RegistryError):
        assert Descriptor.from_json(json.dumps(document), "x").epoch > 0
