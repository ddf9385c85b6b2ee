# SPDX-License-Identifier: Apache-2.0
"""The main job under SELinux, as an administrator does it: packages, policy, units, a file across, nothing refused.

A guest of its own with systemd and Debian's policy as its packages install it; the policy is loaded by
`sipc policy install`, and nothing of the tests' lab is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.vm.emulator import ROOT, Emulator, built
from tests.vm.guest import Guest, Result, context, running

pytestmark = pytest.mark.vm

AGENT = "initrc_t"  # where Debian's policy puts a service that it does not know
SIZE = 64 << 20
LIMIT = 300.0  # seconds; building a policy under emulation takes a minute


def shell(guest: Guest, script: str) -> Result:
    """Run a shell's lines as root, which must end well."""
    done = guest.run(["sh", "-euc", script], seconds=LIMIT)
    assert done.code == 0, done.output + guest.run(["journalctl", "--no-pager", "-n", "40"]).output
    return done


@pytest.fixture(scope="module")
def system() -> Iterator[Guest]:
    """A guest with systemd, the wheels of this checkout, and the commands of the README."""
    wheels = built("vagrant/wheels.sh")
    machine = Emulator(built("vagrant/build-system.sh"), warm=False, cpus=2)
    with Guest(machine, None, domain=AGENT) as guest:
        guest.check()
        guest.put([wheels, ROOT / "vagrant" / "main-job.sh"])
        yield guest
        guest.check()
    assert not running(machine.pid)


def story() -> tuple[str, str]:
    """The README's commands, and what it says that they print."""
    text = (ROOT / "README.md").read_text().split("## Under SELinux", 1)[1]
    found = re.search(r"```sh\n(.*?)```.*?```text\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1], found[2]


def lasting(text: str) -> str:
    """What is printed every time: without checksums, and what is drawn or counted anew."""
    text = re.sub(r"^[0-9a-f]{64}", "SUM", text, flags=re.MULTILINE)
    return re.sub(r"^(epoch|created|sender|receiver|queue_key|segment_key): .*$", r"\1:", text, flags=re.MULTILINE)


@pytest.mark.timeout(2 * LIMIT)
def test_a_file_crosses_from_packages_to_checksum_and_nothing_is_refused(system: Guest) -> None:
    """Two users, two domains, three units; equal checksums; the helper gone; not one AVC denial."""
    shell(system, f"head -c {SIZE} /dev/urandom >/var/tmp/file")
    before = len(system.denials())
    done = shell(system, "sh /opt/sipc/main-job.sh /opt/sipc/wheels /var/tmp/file")
    refused = system.denials()[before:]
    assert "SELinux enforces the direction: sipc_feed_sender_t may only write" in done.stdout, done.output
    sums = re.findall(r"^([0-9a-f]{64})  (/var/lib/sipc/feed/(?:in|out)/data)$", done.stdout, re.MULTILINE)
    assert [path for _, path in sums] == ["/var/lib/sipc/feed/in/data", "/var/lib/sipc/feed/out/data"]
    assert sums[0][0] == sums[1][0] == shell(system, "sha256sum </var/tmp/file").stdout.split()[0]
    assert refused == []
    (ROOT / "build" / "vm").mkdir(parents=True, exist_ok=True)
    (ROOT / "build" / "vm" / "main-job.log").write_text(done.stdout)
    commands, printed = story()
    assert (ROOT / "vagrant" / "main-job.sh").read_text().endswith(commands)
    assert lasting(printed) == lasting(done.stdout)


def process_of(guest: Guest, unit: str) -> tuple[str, str]:
    """User and context of a unit's process, once that runs its program."""
    script = f"""
        while pid=$(systemctl show -P MainPID {unit}) && [ "$(ps -o comm= -p "$pid")" != sipc ]; do sleep 0.1; done
        ps -o user:20=,label= -p "$pid"
    """
    user, label = shell(guest, script).stdout.split()
    return user, label


def test_each_end_runs_as_its_own_user_in_its_own_domain(system: Guest) -> None:
    """Seen from outside while each waits for the other; the helper has long gone, and so have they in the end."""
    before = len(system.denials())
    for first, second, domain in (
        ("sipc-send", "sipc-recv", "sipc_feed_sender_t"), ("sipc-recv", "sipc-send", "sipc_feed_receiver_t"),
    ):  # fmt: skip
        shell(system, f"rm -f /var/lib/sipc/feed/out/data; systemctl start --no-block {first}@feed")
        assert process_of(system, f"{first}@feed") == (first, context(domain))
        assert not [line for line in shell(system, "ps -eo label=").stdout.splitlines() if ":sipc_feed_t:" in line]
        shell(system, f"systemctl start {second}@feed; while systemctl -q is-active {first}@feed; do sleep 0.1; done")
        shell(system, "cmp /var/lib/sipc/feed/in/data /var/lib/sipc/feed/out/data")
    assert not [line for line in shell(system, "ps -eo label=").stdout.splitlines() if ":sipc_feed" in line]
    assert system.denials()[before:] == []


@pytest.mark.parametrize("role", ["send", "recv"])
def test_outside_its_domain_an_end_is_refused_by_name(system: Guest, role: str) -> None:
    """Root, from the service manager's own domain: the check, both contexts, and what to do."""
    user = f"sipc-{role}"
    tried = system.run(["runuser", "-u", user, "--", "sipc", role, "feed", "/dev/null", "--registry", "/run/sipc"])
    assert tried.code == 4, tried.output
    assert AGENT in tried.stderr
    assert "sipc_feed_sender_t" in tried.stderr or "sipc_feed_receiver_t" in tried.stderr
    assert "Traceback" not in tried.stderr


@pytest.mark.timeout(2 * LIMIT)
def test_the_policy_leaves_when_the_channel_has_and_not_before(system: Guest) -> None:
    """Removing it under a live channel is refused; afterwards the kernel knows the channel's types no more."""
    early = system.run(["sipc", "policy", "remove", "feed"], seconds=LIMIT)
    assert early.code != 0
    assert "sipc destroy feed" in early.stderr
    shell(system, "systemctl stop sipc-channel@feed; test ! -e /run/sipc/feed.json; ! ipcs -q | grep 0x")
    shell(system, "sipc policy remove feed")
    assert shell(system, "sipc policy list").stdout == ""
    assert system.run(["runcon", context("sipc_feed_t"), "true"]).code != 0
