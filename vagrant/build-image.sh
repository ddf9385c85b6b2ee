#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# build-image.sh: a Debian guest that enforces SELinux and boots in seconds under software emulation.
# Prints a directory: vmlinux, initrd, root.ext4.  Made once per content (this folder, the policy package): a first run
# takes a few minutes, later ones none.  As root missing Debian packages are installed; otherwise this says which.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { echo "build-image.sh: $*" >&2; }

missing=()
need() { command -v "$2" >/dev/null || [ -x "/usr/sbin/$2" ] || missing+=("$1"); }
need qemu-system-x86 qemu-system-x86_64
need mmdebstrap mmdebstrap
need policycoreutils setfiles
need secilc secilc
need e2fsprogs mke2fs
need cpio cpio
need kmod depmod
need gcc cc
need binutils strip
need xz-utils xz
need lz4 lz4
need zstd zstd
need python3-pip pip3
[ -e /usr/lib/x86_64-linux-gnu/libc.a ] || missing+=(libc6-dev)
if [ "${#missing[@]}" -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { say "missing: ${missing[*]}; install as root: apt-get install ${missing[*]}"; exit 4; }
  say "installing ${missing[*]}"
  apt-get -qq update >&2
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi
[ "$(id -u)" = 0 ] || { say "labels can only be written as root: run it as root"; exit 4; }
PATH=$PATH:/usr/sbin:/sbin

policy=$("$here/../scripts/base_policy.sh")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sipc-vm
sources=("$here"/build-image.sh "$here"/stage0.c "$here"/guest-init "$here"/guest_agent.py "$here"/lab.cil)
content=$(cat "${sources[@]}" <(echo "$policy") | sha256sum | cut -c1-16)
place=$cache/image-$content
if [ -d "$place" ]; then
  echo "$place"
  exit
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/.new.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
chmod 0755 "$work"
mkdir "$work/made" "$work/kernel" "$work/root"
say "building the guest image (a few minutes, once)"

# The root file system: Python and libselinux, no init system of its own.  The policy comes from its package, unpacked.
mmdebstrap --quiet --variant=minbase --include=python3,python3-selinux,policycoreutils,selinux-utils,kmod,procps \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/root.tar" >&2 &
strapping=$!

# The kernel, from its package: an unpacked image, and the modules that stage 0 loads.
(
  cd "$work/kernel"
  package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)$/\1/p' | head -n 1)
  [ -n "$package" ] || { apt-get -qq update >&2; package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)$/\1/p' | head -n 1); }
  apt-get -qq -o APT::Sandbox::User=root download "$package" >&2
  dpkg -x "$package"_*.deb .
)
# The compressed kernel inside, by the fields of the boot header (Documentation/arch/x86/boot.rst of the kernel).
python3 - "$work"/kernel/boot/vmlinuz-* >"$work/payload" <<'P'
import sys
data = open(sys.argv[1], "rb").read()
number = lambda at: int.from_bytes(data[at : at + 4], "little")
start = (data[0x1F1] + 1) * 512 + number(0x248)
sys.stdout.buffer.write(data[start : start + number(0x24C) - 4])  # the last four bytes are its size unpacked
P
case $(head -c 4 "$work/payload" | od -An -tx1 | tr -d ' ') in
02214c18) lz4 -dc "$work/payload" ;;
fd377a58) xz -dc "$work/payload" ;;
28b52ffd) zstd -dc "$work/payload" ;;
1f8b*) gzip -dc "$work/payload" ;;
*) say "the kernel is compressed in a way that this does not know" && exit 4 ;;
esac >"$work/made/vmlinux"
mkdir -p "$work/initrd/m" "$work/initrd/proc" "$work/initrd/dev" "$work/initrd/sysroot"
cc -O2 -static -o "$work/initrd/init" "$here/stage0.c"
: >"$work/initrd/mods"
modules=$(echo "$work"/kernel/lib/modules/*)
depmod -b "$work/kernel" "$(basename "$modules")"
for name in virtio_pci virtio_blk ext4 virtio_console; do
  # In the order that their dependencies want.
  modprobe -d "$work/kernel" -S "$(basename "$modules")" --show-depends "$name" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' | while read -r file; do
  base=$(basename "$file" .xz)
  case $file in *.xz) xz -dc "$file" >"$work/initrd/m/$base" ;; *) cp "$file" "$work/initrd/m/$base" ;; esac
  strip --strip-debug "$work/initrd/m/$base"
  echo "/m/$base" >>"$work/initrd/mods"
done
(cd "$work/initrd" && find . | cpio -o -H newc --quiet) >"$work/made/initrd"

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
# The C extensions of the library, for the guest's Python.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 \
  --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
  --platform manylinux_2_5_x86_64 --platform manylinux1_x86_64 --implementation cp -d "$work/wheels" sysv_ipc posix_ipc >&2
for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$root/usr/lib/python3/dist-packages"; done
install -m 0755 "$here/guest-init" "$root/sbin/guest-init"
install -D -m 0644 "$here/guest_agent.py" "$root/usr/lib/sipc-guest/agent.py"
mkdir -p "$root/opt/sipc" "$root/run/sipc"
setfiles -F -r "$root" "$store/default/contexts/files/file_contexts" "$root" >&2
mke2fs -q -t ext4 -O '^has_journal' -d "$root" "$work/made/root.ext4" "$(($(du -sm "$root" | cut -f1) + 200))M" >&2
mv -T "$work/made" "$place" 2>/dev/null || [ -d "$place" ] # another run may have been faster
say "built $place"
echo "$place"
