#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test.sh PYTHON: the test tiers, one after the other.  A tier that runs nothing, or skips anything, fails.
set -euo pipefail
python=$1
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p build/vm
exec "$python" -m pytest -q tests/unit tests/host tests/vm --junitxml=build/vm/junit.xml
