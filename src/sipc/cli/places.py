# SPDX-License-Identifier: Apache-2.0
"""Where the command line reads: the type of what names a file or a directory, files whole, and standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from sipc.errors import SpecError

__all__ = ("contents", "path_type", "standard_input")


def path_type(*, file_okay: bool = True, dir_okay: bool = True) -> click.Path:
    """A path.  Whether it can be read is not asked here: who reads it says what to do, and ends in another code.

    What is only written, or replaced, need not be readable.
    """
    return click.Path(file_okay=file_okay, dir_okay=dir_okay, readable=False, path_type=Path)


def contents(path: Path, advice: str) -> bytes:
    """A whole file.  Raises `SpecError`, with the advice, when it can not be read or has no end."""
    try:
        if path.is_char_device():
            raise SpecError(f"{path} is a device, which has no end: {advice}")
        return path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}: {advice}") from error


@contextmanager
def standard_input() -> Iterator[BinaryIO]:
    """Standard input as bytes.  Raises `SpecError` when it is closed, and when it can not be read inside."""
    if sys.stdin is None:
        raise SpecError("standard input is closed: name a file, or redirect it")
    try:
        yield sys.stdin.buffer
    except OSError as error:
        raise SpecError(f"standard input: {error.strerror}: redirect it from a file or a pipe") from error
