#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test.sh PYTHON [TIER...]: the test tiers vm, host and unit, or those named; of several, two at a time.  A test that is
# skipped fails (tests/conftest.py), and so does a tier named alone that has none.  What the guests need is built first:
# no test's time limit is for that.
set -euo pipefail
python=$1
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tiers=("$@")
[ $# -gt 0 ] || tiers=(vm host unit)  # the longest first
workers=()
[ ${#tiers[@]} -eq 1 ] || workers=(-n 2)  # how they are shared out: tests/conftest.py
case " ${tiers[*]} " in *" vm "*)
  for script in scripts/base_policy.sh vagrant/build-image.sh vagrant/build-system.sh vagrant/wheels.sh; do
    "$script" >/dev/null
  done
  ;;
esac
mkdir -p build/vm
# Tests send SIGINT: a shell lets its background jobs ignore that one, and they would pass it on.
exec env --default-signal=INT "$python" -m pytest -q "${workers[@]}" "${tiers[@]/#/tests/}" --junitxml=build/vm/junit.xml
