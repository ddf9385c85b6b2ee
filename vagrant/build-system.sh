#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# build-system.sh: a slim Debian with systemd, ssh and Debian's SELinux policy as its packages install it, enforcing.
# Prints a directory: vmlinux, vmlinuz, initrd, root.ext4, append, key (of the user vagrant).  The tests boot it as it is; build-box.sh makes a
# Vagrant box of it.  Made once per content; a first run takes two minutes.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
needs_of_an_image
packages

sources=("$here"/{build-system.sh,common.sh,stage0.c,guest_agent.py,system.mask})
place=$cache/system-$(cat "${sources[@]}" | sha256sum | cut -c1-16)
if [ -d "$place" ]; then
  echo "$place"
  exit
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/.new.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
chmod 0755 "$work"
mkdir "$work/made" "$work/root"
say "building the systemd guest (two minutes, once)"

strap "$work/root.tar" "systemd-sysv,dbus,selinux-basics,selinux-policy-default,policycoreutils,semodule-utils,secilc,\
selinux-utils,python3,python3-selinux,python3-pip,openssh-server,sudo,rsync,iproute2,ifupdown,isc-dhcp-client,kmod,\
udev,procps" &
strapping=$!
unpack_kernel "$work/kernel"
mv "$work/kernel/vmlinux" "$work/made/"
cp "$work"/kernel/boot/vmlinuz-* "$work/made/vmlinuz"
make_initrd "$work/kernel" "$work/made/initrd" virtio_pci virtio_blk ext4 virtio_console virtio_net virtio_rng
# For the tests: no network, and the agent as a service like any other.
echo "root=/dev/vda rw init=/lib/systemd/systemd systemd.mask=networking.service systemd.mask=ssh.service" \
  "systemd.wants=sipc-guest-agent.service systemd.show_status=0" >"$work/made/append"

wait "$strapping"
root=$work/root
tar -C "$root" -xf "$work/root.tar"
cp -r "$work/kernel/lib/modules" "$root/lib/"
sed -i 's/^SELINUX=.*/SELINUX=enforcing/' "$root/etc/selinux/config"
echo sipc >"$root/etc/hostname"
echo "127.0.0.1 localhost sipc" >"$root/etc/hosts"
# Fixed, because a fresh one makes systemd's first boot a long one.
echo 53495043000000000000000000000000 >"$root/etc/machine-id"
printf 'auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\n' >"$root/etc/network/interfaces"
# What takes seconds under emulation and does nothing for a guest.
sed 's/#.*//' "$here/system.mask" | while read -r unit; do
  [ -z "$unit" ] || ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# The account that Vagrant expects.  Its key is this image's own: the box carries the private half.
chroot "$root" useradd -m -s /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
chmod 0440 "$root/etc/sudoers.d/vagrant"
chroot "$root" ssh-keygen -q -t ed25519 -N '' -C vagrant -f /tmp/key
mv "$root/tmp/key" "$work/made/key"
install -d -m 0700 -o 1000 -g 1000 "$root/home/vagrant/.ssh"
install -m 0600 -o 1000 -g 1000 "$root/tmp/key.pub" "$root/home/vagrant/.ssh/authorized_keys"
rm "$root/tmp/key.pub"
install -D -m 0644 "$here/guest_agent.py" "$root/usr/lib/sipc-guest/agent.py"
cat >"$root/etc/systemd/system/sipc-guest-agent.service" <<'U'
[Unit]
Description=the tests' agent
After=systemd-user-sessions.service
[Service]
Type=exec
ExecStart=/usr/bin/python3 /usr/lib/sipc-guest/agent.py
StandardOutput=journal+console
U
mkdir -p "$root/opt/sipc"
setfiles -F -r "$root" "$root/etc/selinux/default/contexts/files/file_contexts" "$root" >&2
mke2fs -q -t ext4 -O '^has_journal,^metadata_csum,^64bit' -L root -d "$root" "$work/made/root.ext4" 1200M >&2
mv -T "$work/made" "$place" 2>/dev/null || [ -d "$place" ] # another run may have been faster
say "built $place"
echo "$place"
