# SPDX-License-Identifier: Apache-2.0
"""The JSON guard at work: good and bad documents go in; what arrived, what was kept back and why, and the audit.

Runs the guard of guard.toml in the foreground, with the paths of a temporary directory, without users and SELinux, and
ends it.  Needs no root.  Exit code 0 only if everything went as it must.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = 60.0  # a loaded machine; it takes about two
STOPPED = 130  # `sipc guard run`: told to end, and everything that came before has been finished

ORDER = """\
{"order": "A-1001", "customer": "C-17", "currency": "EUR",
 "items": [{"sku": "BOLT-8", "count": 200, "price": 15}],
 "total": 3000, "note": "20 €"}
"""

SAME = r"""
{"total":3000,"note":"20 \u20AC","items":[{"price":15,"count":200,"sku":"BOLT\u002d8"}],
"currency":"EUR","order":"A-1001","customer":"C-17"}"""

# Each document, and what must become of it: None is to be delivered, a word is the reason for a quarantine.
DOCUMENTS: dict[str, tuple[bytes, str | None]] = {
    "01-order": (ORDER.encode(), None),
    "02-spelled-otherwise": (SAME.encode(), None),
    "03-a-key-twice": (ORDER.replace("3000", '3000, "total": 1').encode(), "duplicate"),
    "04-cut-off": (ORDER.encode()[:100], "syntax"),
    "05-deep": (b"[" * 50_000 + b"]" * 50_000, "size"),
    "06-not-so-deep": (b"[" * 20_000 + b"]" * 20_000, "depth"),
    "07-a-huge-number": (ORDER.replace("3000", "9" * 5000).encode(), "number"),
    "08-a-fraction": (ORDER.replace("3000", "3e3").encode(), "float"),
    "09-not-utf-8": (ORDER.encode("cp1252"), "utf8"),
    "10-a-key-too-many": (ORDER.replace('"EUR"', '"EUR", "admin": true').encode(), "schema"),
    "11-a-terminals-escape": (ORDER.replace("20 €", "\\u001b[2J").encode(), "text"),
    "12-a-wrong-sum": (ORDER.replace("3000", "1").encode(), "sum"),
    "13-20-megabytes": (b" " * 20_000_000, "size"),
    "14-order": (ORDER.replace("A-1001", "A-1002").encode(), None),
}


def local(folder: Path) -> str:
    """The guard file for a directory of one's own: held by nothing but file modes, and all stages are one user."""
    text = (HERE / "guard.toml").read_text()
    text = re.sub(r'^user = ".*"\n', "", text, flags=re.MULTILINE).replace('"selinux"', '"dac"')
    return text.replace("/var/spool/json-guard", json.dumps(str(folder))[1:-1])


def sipc(*arguments: str | Path) -> list[str]:
    """The command line's program, and arguments."""
    return [sys.executable, "-P", "-m", "sipc.cli", *map(str, arguments)]


def put(folder: Path) -> None:
    """Into the spool, each whole: a name that begins with a dot is left alone."""
    for name, (data, _) in DOCUMENTS.items():
        part = folder / f".{name}"
        part.write_bytes(data)
        part.rename(folder / f"{name}.json")


def run(folder: Path, environment: dict[str, str]) -> bool:
    """Run the guard until everything that went in has come out somewhere; whether that was so."""
    with (folder / "log").open("wb") as log:
        guard = subprocess.Popen(
            sipc("guard", "run", folder / "guard.toml", "--state", folder / "state"), env=environment, stderr=log
        )
        deadline = time.monotonic() + SECONDS
        try:
            while (done := len(delivered(folder)) + len(quarantined(folder))) < len(DOCUMENTS):
                if guard.poll() is not None or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        finally:
            code = end(guard)
    if done < len(DOCUMENTS) or code != STOPPED:
        print((folder / "log").read_text(errors="replace"), file=sys.stderr)
        print(f"demo: {done} of {len(DOCUMENTS)} documents were judged, exit code {code}", file=sys.stderr)
        return False
    return True


def end(guard: subprocess.Popen[bytes]) -> int:
    """Tell the guard to end; its exit code.  Not by SIGINT, which a shell lets its background jobs ignore."""
    guard.terminate()
    try:
        return guard.wait(SECONDS)
    except subprocess.TimeoutExpired:
        guard.kill()  # its stages end with it
        return guard.wait()


def delivered(folder: Path) -> list[bytes]:
    """What has arrived, in its order."""
    return [path.read_bytes() for path in sorted((folder / "out").iterdir()) if not path.name.startswith(".")]


def quarantined(folder: Path) -> dict[bytes, str]:
    """What was kept back, and the reason."""
    kept = [place for place in sorted((folder / "quarantine").iterdir()) if not place.name.startswith(".")]
    return {
        (place / "payload").read_bytes(): json.loads((place / "meta.json").read_bytes())["reason"] for place in kept
    }


def show(folder: Path) -> bool:
    """One line for each document, and what arrived, byte for byte; whether each became what it must."""
    arrived, kept = delivered(folder), quarantined(folder)
    right = len(arrived) == sum(reason is None for _, reason in DOCUMENTS.values())
    for name, (data, reason) in DOCUMENTS.items():
        found = kept.get(data)
        right &= found == reason
        what = f"quarantined: {found}" if found else "delivered" if reason is None else "NOT THERE"
        print(f"  {name:<22} {len(data):>10,} bytes  {what}")
    print("what arrived:")
    for document in arrived:
        print(f"  {document.decode()}")
    print("the audit log of scrub:")
    return right


def audit(folder: Path) -> bool:
    """What the audit log of the filter says of itself, and of a copy in which one verdict was changed."""
    log = folder / "state" / "json" / "scrub" / "state" / "audit.jsonl"
    changed = folder / "changed.jsonl"
    changed.write_text(log.read_text().replace('"quarantine"', '"pass"', 1))
    codes = []
    for path, what in ((log, "as it is"), (changed, "with one verdict changed")):
        done = subprocess.run(sipc("guard", "audit", "verify", path), capture_output=True, text=True, check=False)
        print(f"  {what}: {(done.stdout or done.stderr).splitlines()[0].replace(f'{folder}/', '')}")
        codes.append(done.returncode)
    return codes == [0, 1]


def main() -> int:
    """All of it."""
    with tempfile.TemporaryDirectory(prefix="sipc-json-guard-") as name:
        folder = Path(name).resolve()
        for place in ("in", "out", "quarantine", "registry"):
            (folder / place).mkdir(mode=0o700)
        (folder / "guard.toml").write_text(local(folder))
        path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "SIPC_REGISTRY": str(folder / "registry")}
        subprocess.run(sipc("guard", "check", folder / "guard.toml"), check=True, stdout=subprocess.DEVNULL)
        print("JSON guard: ingest -> scrub -> deliver, a process each; nothing leads back")
        put(folder / "in")
        right = run(folder, environment) and show(folder) and audit(folder)
    print("all as it must be" if right else "demo: not all is as it must be", file=sys.stdout if right else sys.stderr)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
