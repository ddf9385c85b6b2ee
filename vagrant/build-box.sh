#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# build-box.sh: a Vagrant box (libvirt) of the systemd guest.  Prints the box file; made once per content.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need extlinux extlinux
need qemu-utils qemu-img
need fdisk sfdisk
need attr setfattr
packages

image=$("$here/build-system.sh")
place=$cache/box-$(cat "$here/build-box.sh" <(echo "$image") | sha256sum | cut -c1-16)
if [ -e "$place/sipc.box" ]; then
  echo "$place/sipc.box"
  exit
fi
work=$(mktemp -d "$cache/.new.XXXXXX")
loop=
trap '[ -z "$loop" ] || { umount "$work/mnt" 2>/dev/null || true; losetup -d "$loop"; }; rm -rf "$work"' EXIT
mkdir "$work/mnt" "$work/box"
say "building the box"

# A disk with one partition, which holds the image's file system, a boot loader, and the kernel it starts.
size=$(stat -c %s "$image/root.ext4")
truncate -s $((size + 2 * 1048576)) "$work/disk"
printf 'label: dos\nstart=2048, size=%s, type=83, bootable\n' $((size / 512)) | sfdisk -q "$work/disk" >&2
dd if="$image/root.ext4" of="$work/disk" bs=1M seek=1 conv=notrunc,sparse status=none
dd if=/usr/lib/EXTLINUX/mbr.bin of="$work/disk" bs=440 count=1 conv=notrunc status=none
loop=$(losetup -f --show -o 1048576 --sizelimit "$size" "$work/disk")
mount "$loop" "$work/mnt"
boot=$work/mnt/boot
mkdir -p "$boot/extlinux"
cp "$image/vmlinuz" "$image/initrd" "$boot/"
cat >"$boot/extlinux/extlinux.conf" <<'C'
DEFAULT sipc
PROMPT 0
LABEL sipc
  KERNEL /boot/vmlinuz
  INITRD /boot/initrd
  APPEND root=/dev/vda1 rw init=/lib/systemd/systemd console=ttyS0 lsm=selinux selinux=1 audit=1 audit_backlog_limit=8192 quiet mitigations=off nokaslr cryptomgr.notests no_timer_check printk.devkmsg=on sysctl.kernel.printk_ratelimit=0 log_buf_len=4M
C
extlinux --install "$boot/extlinux" >&2
# Labels of what this added; the kernel of the machine that builds may know nothing of SELinux.
chattr -i "$boot"/extlinux/ldlinux.*
find "$boot" -exec setfattr -h -n security.selinux -v 'system_u:object_r:boot_t:s0' {} +
umount "$work/mnt"
losetup -d "$loop"
loop=
qemu-img convert -f raw -O qcow2 -c "$work/disk" "$work/box/box.img"
cp "$image/key" "$work/box/key"
chmod 0600 "$work/box/key"
printf '{"provider": "libvirt", "format": "qcow2", "virtual_size": 2}\n' >"$work/box/metadata.json"
cat >"$work/box/Vagrantfile" <<'V'
Vagrant.configure("2") do |config|
  config.ssh.insert_key = false
  config.ssh.private_key_path = File.expand_path("key", __dir__)
end
V
tar -C "$work/box" -cf "$work/sipc.box" metadata.json Vagrantfile key box.img
mkdir -p "$place"
mv "$work/sipc.box" "$place/sipc.box"
say "built $place/sipc.box"
echo "$place/sipc.box"
