#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# wheels.sh: this checkout and what it needs at run time as wheels in build/wheels, so that a guest needs no network.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
folder=$here/../build/wheels
content=$(cd "$here/.." && cat pyproject.toml vagrant/wheels.sh $(find src helper -type f -not -name '*.pyc' | sort) | sha256sum)
if [ "$content" != "$(cat "$folder/content" 2>/dev/null)" ]; then
  rm -rf "$folder"
  mkdir -p "$folder"
  python3 -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$folder" "$here/.." >&2
  wheels "$folder" sysv_ipc posix_ipc click pyseccomp msgspec
  echo "$content" >"$folder/content"
fi
(cd "$folder" && pwd)
