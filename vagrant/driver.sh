#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# driver.sh: which libvirt driver works here, kvm or qemu (software emulation).  A device file is not enough: on some
# virtual machines guests hang under it.  So a kernel is started with it, and must reach its first program.
# SIPC_VAGRANT_DRIVER overrides; the answer is kept in build/vagrant/driver.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kept=$here/../build/vagrant/driver
[ -z "${SIPC_VAGRANT_DRIVER:-}" ] || { echo "$SIPC_VAGRANT_DRIVER"; exit; }
[ ! -e "$kept" ] || { cat "$kept"; exit; }
driver=qemu
if [ -w /dev/kvm ] && image=$("$here/build-system.sh"); then
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  # Stage 0 finds no disk, says so after ten seconds, and the kernel panics and ends: that is a working machine.
  { timeout -k 1 30 qemu-system-x86_64 -machine q35,accel=kvm -cpu host -m 256 -nodefaults -display none -no-reboot \
    -serial "file:$log" -kernel "$image/vmlinuz" -initrd "$image/initrd" -append 'console=ttyS0 panic=-1 quiet' \
    </dev/null; } 2>/dev/null || true
  ! grep -q 'stage0: mount root' "$log" || driver=kvm
fi
mkdir -p "$(dirname "$kept")"
echo "$driver" >"$kept"
echo "$driver"
