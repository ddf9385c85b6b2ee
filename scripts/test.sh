#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test.sh PYTHON [TIER...]: the test tiers unit, host and vm, or those named, one after the other.  A tier that runs
# nothing, or skips anything, fails.  What the guests need is built first: no test's time limit is for that.
set -euo pipefail
python=$1
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tiers=("$@")
[ $# -gt 0 ] || tiers=(unit host vm)
case " ${tiers[*]} " in *" vm "*)
  for script in scripts/base_policy.sh vagrant/build-image.sh vagrant/build-system.sh vagrant/wheels.sh; do
    "$script" >/dev/null
  done
  ;;
esac
mkdir -p build/vm
# Tests send SIGINT: a shell lets its background jobs ignore that one, and they would pass it on.
exec env --default-signal=INT "$python" -m pytest -q "${tiers[@]/#/tests/}" --junitxml=build/vm/junit.xml
