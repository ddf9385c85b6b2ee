# SPDX-License-Identifier: Apache-2.0
"""The type of every option and argument that names a file or a directory."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ("path_type",)


def path_type(*, file_okay: bool = True, dir_okay: bool = True) -> click.Path:
    """A path.  Whether it can be read is not asked here: who reads it says what to do, and ends in another code.

    What is only written, or replaced, need not be readable.
    """
    return click.Path(file_okay=file_okay, dir_okay=dir_okay, readable=False, path_type=Path)
