# SPDX-License-Identifier: Apache-2.0
# Sourced by the build scripts of this folder: the packages they take, the kernel from its package, an initrd for it.
# Sets `here`, `cache`; gives say, need, packages, wheels, unpack_kernel, make_initrd.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sipc-vm
PATH=$PATH:/usr/sbin:/sbin
say() { echo "$(basename "$0"): $*" >&2; }

missing=()
need() { # need PACKAGE COMMAND
  command -v "$2" >/dev/null || missing+=("$1")
}

packages() { # install what `need` found missing; then only root can go on, because only root can write labels
  if [ "${#missing[@]}" -gt 0 ]; then
    [ "$(id -u)" = 0 ] || { say "missing: ${missing[*]}; install as root: apt-get install ${missing[*]}"; exit 4; }
    say "installing ${missing[*]}"
    apt-get -qq update >&2
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
  fi
  [ "$(id -u)" = 0 ] || { say "labels can only be written as root: run it as root"; exit 4; }
}

needs_of_an_image() {
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
}

strap() { # strap TAR PACKAGES: a Debian root file system without documents
  mmdebstrap --quiet --variant=minbase --include="$2" --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$1" >&2
}

wheels() { # wheels FOLDER REQUIREMENT...: of this project's dependencies, for a guest's Python
  local folder=$1
  shift
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux_2_5_x86_64 --platform manylinux1_x86_64 --platform any --implementation cp \
    -d "$folder" "$@" >&2
}

unpack_kernel() { # unpack_kernel FOLDER: the cloud kernel's package in FOLDER, its unpacked image as FOLDER/vmlinux
  mkdir -p "$1"
  (
    cd "$1"
    name() { apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)$/\1/p' | head -n 1; }
    package=$(name)
    [ -n "$package" ] || { apt-get -qq update >&2; package=$(name); }
    apt-get -qq -o APT::Sandbox::User=root download "$package" >&2
    dpkg -x "$package"_*.deb .
    depmod -b . "$(basename lib/modules/*)"
    # The compressed kernel inside, by the fields of the boot header (Documentation/arch/x86/boot.rst of the kernel).
    python3 - boot/vmlinuz-* >payload <<'P'
import sys
data = open(sys.argv[1], "rb").read()
number = lambda at: int.from_bytes(data[at : at + 4], "little")
start = (data[0x1F1] + 1) * 512 + number(0x248)
sys.stdout.buffer.write(data[start : start + number(0x24C) - 4])  # the last four bytes are its size unpacked
P
    case $(head -c 4 payload | od -An -tx1 | tr -d ' ') in
    02214c18) lz4 -dc payload ;;
    fd377a58) xz -dc payload ;;
    28b52ffd) zstd -dc payload ;;
    1f8b*) gzip -dc payload ;;
    *) say "the kernel is compressed in a way that this does not know" && exit 4 ;;
    esac >vmlinux
  )
}

make_initrd() { # make_initrd KERNEL-FOLDER FILE MODULE...: stage 0, and the modules that it loads
  local kernel=$1 file=$2 tree version
  shift 2
  tree=$(mktemp -d "$kernel/initrd.XXXXXX")
  version=$(basename "$kernel"/lib/modules/*)
  mkdir -p "$tree/m" "$tree/proc" "$tree/dev" "$tree/sysroot"
  cc -O2 -static -o "$tree/init" "$here/stage0.c"
  : >"$tree/mods"
  for name in "$@"; do
    # In the order that their dependencies want.
    modprobe -d "$kernel" -S "$version" --show-depends "$name" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
  done | awk '!seen[$0]++' | while read -r module; do
    base=$(basename "$module" .xz)
    case $module in *.xz) xz -dc "$module" >"$tree/m/$base" ;; *) cp "$module" "$tree/m/$base" ;; esac
    strip --strip-debug "$tree/m/$base"
    echo "/m/$base" >>"$tree/mods"
  done
  (cd "$tree" && find . | cpio -o -H newc --quiet) >"$file"
}
