# SPDX-License-Identifier: Apache-2.0
"""Files that are no modules: refused with the compiler's words, or ours, on one printable line."""

from __future__ import annotations

import bz2
from pathlib import Path

import pytest

from sipc.errors import SpecError
from sipc.selinux.compose import compose


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "refuses these modules"),
        (b"(block a", "Open parenthesis without matching close at line 1"),
        (b"(" * 100_000, "Number of open parenthesis exceeds limit"),
        (b"(type \xc9\xff)", r"Invalid token '\xc9'"),
        (b"(type \x1b[2J)", r"Invalid token '\x1b'"),
        (b"BZh9" + bytes(100), "it begins as bzip2 does, and is not (Invalid data stream): name a CIL module"),
        (bz2.compress(b"(type a)")[:-5], "it begins as bzip2 does, and is not (Compressed data ended before"),
        (bz2.compress(b"(type \xc9)"), r"Invalid token '\xc9'"),
    ],
)
def test_what_is_no_module_is_refused_in_one_printable_line(data: bytes, why: str, tmp_path: Path) -> None:
    """Whatever it has in it, the terminal of who looks at it obeys nothing of that."""
    place = tmp_path / "module.cil"
    place.write_bytes(data)
    with pytest.raises(SpecError) as caught:
        compose([place])
    assert why in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2200
