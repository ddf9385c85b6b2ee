# SPDX-License-Identifier: Apache-2.0
"""The type of every option and argument that names a file or a directory."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ("Place",)


class Place(click.Path):
    """A path.  Whether it can be read is not asked here: who reads it says what to do, and ends in another code.

    What is only written, or replaced, need not be readable.
    """

    def __init__(self, *, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(file_okay=file_okay, dir_okay=dir_okay, readable=False, path_type=Path)
