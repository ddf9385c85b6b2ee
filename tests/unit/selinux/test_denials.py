# SPDX-License-Identifier: Apache-2.0
"""`sipc explain`: every kind of denial gets its verdict, whatever log it stands in, and no text breaks the reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipc.cli import main
from sipc.cli.exits import Exit
from sipc.definitions import parse as define
from sipc.selinux.denials import Denial, Kind, collapse, judge, parse
from sipc.spec import Enforcement

TEXT = '[channel.feed]\nenforcement = "selinux"\n'
SPECS = list(define(TEXT, "feed.toml", enforcement=Enforcement.SELINUX).values())
S, R, C = "sipc_feed_sender_t", "sipc_feed_receiver_t", "sipc_feed_t"


def line(source: str, target: str, cls: str, *permissions: str, more: str = 'pid=7 comm="python3"') -> str:
    """One line as the kernel prints it."""
    return (
        f"audit: type=1400 audit(1795240038.986:8): avc:  denied  {{ {' '.join(permissions)} }} for  {more}  "
        f"scontext=system_u:system_r:{source}:s0 tcontext=system_u:system_r:{target}:s0 tclass={cls} permissive=0"
    )


def verdict(text: str) -> tuple[Kind, str | None, str | None]:
    """Kind, channel and role of one line."""
    (denial,) = parse([text])
    judged = judge(denial, SPECS)
    assert judged.text
    return judged.kind, judged.channel, judged.role


@pytest.mark.parametrize(
    ("source", "target", "cls", "permission", "kind", "role"),
    [
        (R, C, "msgq", "write", Kind.DIRECTION, "receiver"),
        (R, C, "shm", "unix_write", Kind.DIRECTION, "receiver"),
        (S, C, "msgq", "unix_read", Kind.DIRECTION, "sender"),
        (S, C, "msgq", "getattr", Kind.DIRECTION, "sender"),
        (R, "sipc_feed_msg_t", "msg", "send", Kind.DIRECTION, "receiver"),
        (S, "sipc_feed_msg_t", "msg", "receive", Kind.DIRECTION, "sender"),
        (R, R, "msgq", "create", Kind.DIRECTION, "receiver"),
        (R, S, "process", "signal", Kind.DIRECTION, "receiver"),
        (R, "sipc_feed_sender_state_t", "file", "read", Kind.DIRECTION, "receiver"),
        (S, "other_t", "msgq", "read", Kind.DIRECTION, "sender"),
        (S, "null_device_t", "chr_file", "lock", Kind.DIRECTION, "sender"),
        (S, C, "msgq", "unix_write", Kind.MODULE, "sender"),
        (R, "sipc_feed_msg_t", "msg", "receive", Kind.MODULE, "receiver"),
        (C, C, "msgq", "create", Kind.MODULE, "helper"),
        (S, "unlabeled_t", "msgq", "write", Kind.MODULE, "sender"),
        ("unlabeled_t", C, "msgq", "write", Kind.MODULE, None),
        (S, "sipc_feed_descriptor_t", "file", "read", Kind.MODULE, "sender"),
        (R, "sipc_feed_receiver_state_t", "file", "lock", Kind.MODULE, "receiver"),
        (R, "sipc_feed_descriptor_t", "file", "write", Kind.DIRECTION, "receiver"),
        (R, "sipc_registry_t", "dir", "search", Kind.MODULE, "receiver"),
        (R, "sipc_registry_t", "dir", "write", Kind.PROGRAM, "receiver"),
        (S, "lib_t", "file", "map", Kind.MODULE, "sender"),
        ("init_t", S, "process", "transition", Kind.MODULE, None),
        ("unconfined_t", S, "process", "transition", Kind.DOMAIN, None),
        ("unconfined_t", C, "msgq", "read", Kind.DOMAIN, None),
        ("init_t", "sipc_feed_descriptor_t", "file", "read", Kind.DOMAIN, None),
        (R, "user_home_t", "file", "open", Kind.LABEL, "receiver"),
        (R, "httpd_config_t", "file", "open", Kind.PROGRAM, "receiver"),
        (S, S, "tcp_socket", "create", Kind.DIRECTION, "sender"),
        ("httpd_t", "user_home_t", "file", "read", Kind.FOREIGN, None),
    ],
)
def test_each_denial_gets_its_verdict(
    source: str, target: str, cls: str, permission: str, kind: Kind, role: str | None
) -> None:
    """By design, a missing module, a wrong domain, a wrong label, the program's own, or nobody's here."""
    channel = None if kind is Kind.FOREIGN else "feed"
    assert verdict(line(source, target, cls, permission)) == (kind, channel, role)


@pytest.mark.parametrize(
    ("source", "target", "cls", "permission", "kind", "channel", "role"),
    [
        ("filter_t", "sipc_high_t", "msgq", "write", Kind.MODULE, "high", "sender"),
        ("filter_t", "sipc_high_t", "msgq", "read", Kind.DIRECTION, "high", "sender"),
        ("filter_t", "sipc_low_t", "msgq", "write", Kind.DIRECTION, "low", "receiver"),
        ("filter_t", "sipc_low_t", "msgq", "read", Kind.MODULE, "low", "receiver"),
        ("filter_t", "sipc_high_descriptor_t", "file", "read", Kind.MODULE, "high", "sender"),
        ("filter_t", "sipc_high_receiver_t", "process", "signal", Kind.DIRECTION, "high", "sender"),
        ("sipc_low_sender_t", "sipc_high_t", "msgq", "write", Kind.DIRECTION, "low", "sender"),
        ("sipc_low_sender_t", "sipc_high_receiver_t", "process", "signal", Kind.DOMAIN, "high", None),
    ],
)
def test_in_a_chain_the_channel_that_was_touched_speaks(
    source: str, target: str, cls: str, permission: str, kind: Kind, channel: str, role: str | None
) -> None:
    """A filter receives on one channel and sends on the next: each has its own verdict, in any order."""
    text = '[channel.low]\nreceiver = { type = "filter_t" }\n[channel.high]\nsender = { type = "filter_t" }\n'
    specs = list(define(text, "chain.toml", enforcement=Enforcement.SELINUX).values())
    (denial,) = parse([line(source, target, cls, permission)])
    for order in (specs, specs[::-1]):
        judged = judge(denial, order)
        assert (judged.kind, judged.channel, judged.role) == (kind, channel, role)


def test_a_channel_without_kernel_objects_explains_nothing() -> None:
    """Tests' channels in memory may stand in the same file."""
    specs = define('[channel.m]\nbackend = "memory"\n' + TEXT, "x", enforcement=Enforcement.SELINUX).values()
    (denial,) = parse([line(R, C, "msgq", "write")])
    assert judge(denial, list(specs)).channel == "feed"


def test_what_is_by_design_has_no_command_and_all_else_has_one() -> None:
    """A command for a refusal that is right would be a way to break it."""
    for text, has in ((line(R, C, "msgq", "write"), False), (line(S, C, "msgq", "write"), True)):
        (denial,) = parse([text])
        assert (judge(denial, SPECS).command is not None) == has


def test_every_log_is_read() -> None:
    """audit.log, the journal, the kernel's ring buffer; quoted and hexadecimal names."""
    rest = (
        'avc:  denied  { unix_read unix_write } for  pid=95 comm=2873642070616D29 path="/run/x" '
        f"scontext=system_u:system_r:{R}:s0-s0:c0.c1023 tcontext=system_u:object_r:{C}:s0 tclass=msgq permissive=1"
    )
    for text in (f"type=AVC msg=audit(1.2:3): {rest}", f"Nov 21 host kernel: audit: {rest}", f"[ 5.6] {rest}", rest):
        (denial,) = parse([text])
        assert denial == Denial(
            permissions=("unix_read", "unix_write"), source=R, target=C, cls="msgq", comm="(sd pam)", pid="95",
            source_context=f"system_u:system_r:{R}:s0-s0:c0.c1023", target_context=f"system_u:object_r:{C}:s0",
            name="/run/x", permissive=True,
        )  # fmt: skip
        assert "let through" in judge(denial, SPECS).text


def test_the_same_denial_again_counts_and_is_said_once() -> None:
    """A loop that is refused fills a log with one fact."""
    lines = [line(R, C, "msgq", "write", more=f'pid={pid} comm="x"') for pid in range(5)] + [line(S, C, "shm", "lock")]
    assert list(collapse(parse(lines)).values()) == [5, 1]


@given(st.text(alphabet=st.sampled_from("avc: denied{}=\"'forscontextclass_t:\0 \n0aF")), st.text())
def test_no_text_breaks_the_reader(near: str, any_text: str) -> None:
    """Logs hold what attackers wrote."""
    for text in (near, any_text, f"avc:  denied  {{ {near} }} for  {any_text}", line(near or "x", "y", "z", "p")):
        for denial in parse(text.splitlines()):
            assert judge(denial, SPECS).text


def test_the_command_reads_a_file_and_says_whether_something_is_to_be_fixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 when all is by design, 1 when not, 3 when there is nothing to explain."""
    log, definition = tmp_path / "log", tmp_path / "feed.toml"
    definition.write_text(TEXT)
    log.write_text(line(R, C, "msgq", "write") + "\n" + line("httpd_t", "tmp_t", "file", "read"))
    assert main(["explain", str(log), "-d", str(definition)]) == Exit.OK
    out = capsys.readouterr().out
    assert "by design" in " ".join(out.split())
    log.write_text(line(S, C, "msgq", "write") + "\n" + line(S, C, "msgq", "write"))
    assert main(["explain", str(log), "-d", str(definition), "--json"]) == Exit.NO
    said = json.loads(capsys.readouterr().out)
    assert (said["version"], said["kind"], said["channel"], said["role"], said["count"]) == (
        1, "module", "feed", "sender", 2,
    )  # fmt: skip
    assert said["command"] == f"sipc policy install {definition}"
    log.write_text("nothing of interest\n")
    assert main(["explain", str(log), "-d", str(definition)]) == Exit.BAD_INPUT
    assert main(["explain", str(tmp_path / "none"), "-d", str(definition)]) == Exit.BAD_INPUT
