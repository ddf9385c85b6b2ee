# SPDX-License-Identifier: Apache-2.0
"""The crash test for longer: `python -m bench.crash --kills 5000` from the repository's top.

Each channel takes its share of the kills; the seed of each is printed.  Exit codes: 0 nothing lost, 1 something
was, 2 usage.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from itertools import cycle, product
from pathlib import Path

from tests.support.crash import BACKENDS, GEOMETRIES, kill_at_random

from sipc import helper

_SHARE = 50


def main() -> int:
    """Kill until `--kills` is reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.crash", description="SIGKILL both ends at random moments.")
    parser.add_argument("--kills", type=int, default=5000, help="how many in all (default: 5000)")
    parser.add_argument("--seed", type=int, help="repeat a run whose seed was printed")
    arguments = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
    done = blocks = 0
    for backend, geometry in cycle(product(BACKENDS, GEOMETRIES)):
        if done >= arguments.kills:
            break
        print(f"{backend} slots={geometry[0]} depth={geometry[1]} seed={seed}", flush=True)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            registry = folder / "registry"
            registry.mkdir(mode=0o700)
            try:
                blocks += kill_at_random(backend, geometry, registry, folder, kills=_SHARE, seed=seed)
            except AssertionError as error:
                print(f"bench.crash: {error}", file=sys.stderr)
                return 1
            finally:
                helper.destroy("c", registry)
        done += _SHARE + 2
        seed = (seed + 1) % (1 << 32)
    print(f"{done} kills, {blocks} blocks: none missing, torn, out of order, or repeated after it was finished")
    return 0


if __name__ == "__main__":
    sys.exit(main())
