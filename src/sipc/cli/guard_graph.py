# SPDX-License-Identifier: Apache-2.0
"""`sipc guard graph`: a guard as a picture, with what a policy proves of it.

Reads the guard file and one policy; loads nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from sipc.cli.exits import EPILOG, Exit
from sipc.cli.places import contents, path_type
from sipc.cli.policy import LOADED, texts_of
from sipc.errors import SpecError
from sipc.guard.check import load
from sipc.guard.graph import as_dict, as_svg
from sipc.guard.model import Guard
from sipc.guard.policy import channel_specs, options
from sipc.guard.proof import Proof, prove, unproven
from sipc.guard.storage import replace_file
from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose

__all__ = ("graph",)


@click.command(epilog=f"Example: sipc guard graph guard.toml -o guard.svg\n\n{EPILOG}")
@click.argument("file", type=path_type())
@click.option("--policy", "binary", type=path_type(), help="A binary policy file, with the guard's "
              "modules in it, to prove the channels by (default: the loaded policy, where there is one).")
@click.option("--base", multiple=True, type=path_type(), help="CIL file, folder of them, or module "
              "store: compose the policy from these and the guard's modules, here and now; may be repeated.")
@click.option("--output", "-o", type=path_type(dir_okay=False), help="Write there, whole or not at "
              "all, instead of stdout.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a picture.")
def graph(
    file: Path, binary: Path | None, base: tuple[Path, ...], output: Path | None, as_json: bool
) -> int:  # fmt: skip
    """Draw the guard that FILE describes as SVG: stages, channels, direction, and what a policy proves of them.

    Exit code 0: drawn; 1: drawn, and the policy does not hold all that it should; 3: there was nothing to draw.
    """
    if binary is not None and base:
        raise SpecError("--policy and --base are two policies: give one")
    guard = load(file)
    proof = _proof(guard, binary, base)
    drawn = (json.dumps(as_dict(guard, proof)) + "\n" if as_json else as_svg(guard, proof)).encode()
    if output is None:
        click.echo(drawn, nl=False)
    else:
        replace_file(output, drawn)
    return Exit.NO if proof.refuted else Exit.OK


def _proof(guard: Guard, binary: Path | None, base: tuple[Path, ...]) -> Proof:
    if base:
        modules = texts_of(channel_specs(guard, users=False).values(), options(guard))
        return prove(guard, read_policy(compose(base, modules), f"the policy composed of {', '.join(map(str, base))}"))
    if binary is not None:
        return prove(guard, read_policy(contents(binary, "give a binary policy file"), str(binary)))
    try:
        data = LOADED.read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return unproven(guard)
        return unproven(guard, f"the loaded policy can not be read ({LOADED}: {error.strerror})")
    return prove(guard, read_policy(data, str(LOADED)))
