# SPDX-License-Identifier: Apache-2.0
"""The `sipc` command.  The only code that prints or exits; no traceback reaches a user.

Results go to stdout, everything else to stderr.  `SIPC_DEBUG=1` shows the traceback of a bug.
"""

from __future__ import annotations

import os
import sys
import traceback

__all__ = ("main",)

_UNWRITABLE = ("standard output", "make room, or send it elsewhere")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    _hold_standard_descriptors()
    try:
        import click  # noqa: PLC0415 - an extra, and slow: nothing else pays for it
    except ImportError:
        print("sipc: the command line needs click: run pip install 'sipc[cli]'", file=sys.stderr)
        return 2
    from sipc.cli.commands import cli  # noqa: PLC0415 - needs click
    from sipc.cli.exits import Exit, code_of  # noqa: PLC0415 - with the commands
    from sipc.errors import SipcError  # noqa: PLC0415 - with the commands

    try:
        result = cli.main(args=argv, prog_name="sipc", standalone_mode=False)
        return int(result) if isinstance(result, int) else Exit.OK
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        print("sipc: interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except SipcError as error:
        print(f"sipc: {error}", file=sys.stderr)
        return code_of(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer has nowhere to go
        return Exit.NO
    except OSError as error:
        what, then = (error.filename, "name one that this user may use") if error.filename else _UNWRITABLE
        print(f"sipc: {what}: {error.strerror}: {then}", file=sys.stderr)
        return Exit.REFUSED
    except Exception as error:  # noqa: BLE001 - the last line of defence
        print(f"sipc: this is a bug in sipc: {error!r} (SIPC_DEBUG=1 shows where)", file=sys.stderr)
        if os.environ.get("SIPC_DEBUG"):
            traceback.print_exc()
        return Exit.BUG


def _hold_standard_descriptors() -> None:
    """Where one of 0, 1, 2 is closed, put what refuses every read and write: else the next file opened has its number.

    A stage of a guard would then read its input from a directory of the supervisor's, or write into one of its files.
    """
    for number, unusable in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, unusable), True)  # the lowest number is free
    if sys.stderr is None:  # print would take stdout in its place
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - until the process ends
