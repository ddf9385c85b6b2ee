#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# build-image.sh: a Debian guest that enforces SELinux and boots in seconds under software emulation.
# Prints a directory: vmlinux, initrd, root.ext4, append (kernel options).  Made once per content (this folder, the
# policy package): a first run takes a minute, later ones none.  As root missing Debian packages are installed;
# otherwise this says which.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
needs_of_an_image
packages

policy=$("$here/../scripts/base_policy.sh")
sources=("$here"/{build-image.sh,common.sh,stage0.c,guest-init,guest_agent.py,lab.cil})
place=$cache/image-$(cat "${sources[@]}" <(echo "$policy") | sha256sum | cut -c1-16)
if [ -d "$place" ]; then
  echo "$place"
  exit
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/.new.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
chmod 0755 "$work"
mkdir "$work/made" "$work/root"
say "building the guest image (a minute, once)"

# The root file system: Python and libselinux, no init system of its own.  The policy comes from its package, unpacked.
strap "$work/root.tar" python3,python3-selinux,policycoreutils,selinux-utils,kmod,procps &
strapping=$!
unpack_kernel "$work/kernel"
mv "$work/kernel/vmlinux" "$work/made/"
make_initrd "$work/kernel" "$work/made/initrd" virtio_pci virtio_blk ext4 virtio_console
# Its root is read-only, so that a saved state of a booted guest and this image stay of one piece.
echo "root=/dev/vda ro init=/sbin/guest-init quiet" >"$work/made/append"

wait "$strapping"
root=$work/root
tar -C "$root" -xf "$work/root.tar"
# The policy: Debian's, with the test-only way from the init program into the lab's domain.
store=$root/etc/selinux
mkdir -p "$work/pkg"
(cd "$work/pkg" && apt-get -qq -o APT::Sandbox::User=root download selinux-policy-default >&2 && dpkg -x selinux-policy-default_*.deb .)
mkdir -p "$store/default/policy"
cp -r "$work/pkg/etc/selinux/default/." "$store/default/"
mkdir -p "$store/default/contexts/files"
secilc -M true -c 33 -U allow -N -o "$store/default/policy/policy.33" -f "$store/default/contexts/files/file_contexts" \
  "$policy"/small/*.cil "$here/lab.cil" >&2
printf 'SELINUX=enforcing\nSELINUXTYPE=default\nSETLOCALDEFS=0\n' >"$store/config"
wheels "$work/wheels" sysv_ipc posix_ipc
for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$root/usr/lib/python3/dist-packages"; done
install -m 0755 "$here/guest-init" "$root/sbin/guest-init"
install -D -m 0644 "$here/guest_agent.py" "$root/usr/lib/sipc-guest/agent.py"
mkdir -p "$root/opt/sipc" "$root/run/sipc"
setfiles -F -r "$root" "$store/default/contexts/files/file_contexts" "$root" >&2
mke2fs -q -t ext4 -O '^has_journal' -d "$root" "$work/made/root.ext4" "$(($(du -sm "$root" | cut -f1) + 200))M" >&2
mv -T "$work/made" "$place" 2>/dev/null || [ -d "$place" ] # another run may have been faster
say "built $place"
echo "$place"
