# SPDX-License-Identifier: Apache-2.0
"""`sipc policy`: generate a channel's SELinux policy, and prove that a policy keeps channels one-way.

Generating loads nothing; loading has its own verbs, in `modules.py`.  Verifying reads one policy: a file, the loaded
one, or one composed here from modules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from sipc.cli.exits import Exit
from sipc.cli.places import contents, path_type
from sipc.definitions import DEFINITIONS, load
from sipc.errors import PolicyUnavailable, SpecError
from sipc.guard.storage import replace_file
from sipc.selinux.binary import read_policy
from sipc.selinux.compose import compose
from sipc.selinux.grants import types_of
from sipc.selinux.options import Options, Profile
from sipc.selinux.policy import generate
from sipc.selinux.requirements import parse_requirement
from sipc.selinux.verify import verify
from sipc.spec import ChannelSpec, Enforcement

__all__ = ("options_of", "policy", "shaping", "specs_of", "texts_of")

LOADED = Path("/sys/fs/selinux/policy")

_F = TypeVar("_F", bound=Callable[..., Any])


@click.group()
def policy() -> None:
    """Make SELinux policy for channels, and prove what a policy enforces."""


def shaping(command: _F) -> _F:
    """Options about what the definitions do not say; generate, verify and install must be given the same."""
    for option in (
        click.option("--channel", multiple=True, help="Only this channel of the files; may be repeated."),
        click.option("--launcher", multiple=True, default=("init_t",), show_default=True,
                     help="Domain that may start and signal the ends and the helper; may be repeated."),
        click.option("--switcher", multiple=True, help="Domain that may change into the ends' with setcon(3): tests."),
        click.option("--new", multiple=True, help="A type that the definitions name and that is to be made here."),
        click.option("--sealed", multiple=True, help="A type that the definitions name, made elsewhere, that serves as "
                     "an end and for nothing else: close its pipes, sockets and /proc files to all but launchers."),
        click.option("--lockable", multiple=True, metavar="END=TYPE",
                     help="Type of files that one end may lock besides its own."),
        click.option("--profile", type=click.Choice([profile.value for profile in Profile]), default="refpolicy",
                     show_default=True, help="What the base policy grants every domain."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
    ):  # fmt: skip
        command = option(command)
    return command


def options_of(
    launcher: tuple[str, ...], switcher: tuple[str, ...], new: tuple[str, ...], sealed: tuple[str, ...],
    lockable: tuple[str, ...], profile: str,
) -> Options:  # fmt: skip
    """What the options of `shaping` say."""
    places: dict[str, tuple[str, ...]] = {}
    for entry in lockable:
        end, equals, kind = entry.partition("=")
        if not equals:
            raise SpecError(f"--lockable {entry!r}: write END=TYPE, for example sensor_t=sensor_db_t")
        places[end] = (*places.get(end, ()), kind)
    return Options(
        launchers=launcher,
        switchers=switcher,
        new=frozenset(new),
        sealed=frozenset(sealed),
        lockable=places,
        profile=Profile(profile),
    )


def specs_of(files: tuple[Path, ...], channels: tuple[str, ...]) -> list[ChannelSpec]:
    """The channels that definition files describe, or those of them that are named."""
    found = load(list(files) or [DEFINITIONS], enforcement=Enforcement.SELINUX)
    missing = [name for name in channels if name not in found]
    if missing:
        raise SpecError(f"no definition of channel {missing[0]!r} in the files given: defined are {sorted(found)}")
    return [found[name] for name in channels or found]


@policy.command("generate", epilog="Example: sipc policy generate feed.toml --out modules")
@click.argument("files", nargs=-1, type=path_type())
@click.option("--out", type=path_type(file_okay=False), help="Folder to write NAME.cil files to.")
@shaping
def generate_(
    files: tuple[Path, ...], out: Path | None, channel: tuple[str, ...], launcher: tuple[str, ...],
    switcher: tuple[str, ...], new: tuple[str, ...], sealed: tuple[str, ...], lockable: tuple[str, ...], profile: str,
    as_json: bool,
) -> int:  # fmt: skip
    """Write the CIL modules for the channels that definition FILES describe (default: /etc/sipc/channels.d/*.toml).

    Nothing is loaded.  The module 'sipc' is the same for all channels; each channel, and each end that the
    definitions name, has one more.
    """
    modules = generate(specs_of(files, channel), options_of(launcher, switcher, new, sealed, lockable, profile))
    texts = {name: module.text() for name, module in modules.items()}
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpecError(f"{out}: {error.strerror}: name a folder that this user may write in") from error
        for name, text in texts.items():
            replace_file(out / f"{name}.cil", text.encode())
    if as_json:
        click.echo(json.dumps({"version": 1, "modules": texts, "written": None if out is None else str(out)}))
    elif out is not None:
        for name in texts:
            click.echo(str(out / f"{name}.cil"))
    else:
        click.echo("\n".join(f"; module {name}\n{text}" for name, text in texts.items()), nl=False)
    return Exit.OK


@policy.command("verify", epilog="Example: sipc policy verify feed.toml --base /var/lib/selinux/default/active/modules")
@click.argument("files", nargs=-1, type=path_type())
@click.option(
    "--policy", "binary", type=path_type(), help="A binary policy file (default: the loaded policy)."
)
@click.option(
    "--base",
    multiple=True,
    type=path_type(),
    help="CIL file, folder of them, or module "
    "store: compose a policy from these and the channels' modules, here and now; may be repeated.",
)
@click.option("--as-given", is_flag=True, help="With --base: do not add the channels' modules, they are there.")
@click.option(
    "--require",
    multiple=True,
    help="'low_t -> high_t via filter_t', 'not high_t -> low_t' or 'only filter_t -> high_t'; may be repeated.",
)
@shaping
def verify_(
    files: tuple[Path, ...], binary: Path | None, base: tuple[Path, ...], as_given: bool, require: tuple[str, ...],
    channel: tuple[str, ...], launcher: tuple[str, ...], switcher: tuple[str, ...], new: tuple[str, ...],
    sealed: tuple[str, ...], lockable: tuple[str, ...], profile: str, as_json: bool,
) -> int:  # fmt: skip
    """Prove that a policy keeps the channels of definition FILES one-way, or show why it does not.

    Give all channels that share an end.  Exit code 0: proven; 1: not, with a witness; 3: nothing to verify.
    """
    if binary is not None and base:
        raise SpecError("--policy and --base are two policies: give one")
    if as_given and not base:
        raise SpecError("--as-given says how to compose, and nothing is composed: give --base, or leave it out")
    options = options_of(launcher, switcher, new, sealed, lockable, profile)
    # Requirements alone can be checked without a definition; without both, `verify` refuses.
    specs = specs_of(files, channel) if files or channel or DEFINITIONS.is_dir() or not require else []
    channels = [(types.sender, types.receiver, types.name) for types in map(types_of, specs)]
    requirements = [found for text in require for found in parse_requirement(text, channels)]
    if base:
        modules = {} if as_given or not specs else texts_of(specs, options)
        data, source = compose(base, modules), f"composed of {', '.join(map(str, base))}"
    else:
        data, source = _read(binary)
    report = verify(read_policy(data, source), specs, options, requirements)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        click.echo("\n".join(report.lines()))
    return Exit.OK if report.ok else Exit.NO


def texts_of(specs: Iterable[ChannelSpec], options: Options) -> dict[str, str]:
    """The channels' modules as CIL, by name."""
    return {name: module.text() for name, module in generate(specs, options).items()}


def _read(binary: Path | None) -> tuple[bytes, str]:
    if binary is not None:
        return contents(binary, "give a binary policy file"), str(binary)
    try:
        return LOADED.read_bytes(), str(LOADED)
    except OSError as error:
        raise PolicyUnavailable(
            f"the loaded policy can not be read ({LOADED}: {error.strerror}); without SELinux here, verify a file with "
            "--policy FILE, or compose one with --base FOLDER"
        ) from error
