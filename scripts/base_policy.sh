#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# base_policy.sh: Debian's SELinux policy as CIL, to compile channels' modules against without SELinux on this host.
# Prints a directory: full/*.cil (every module of selinux-policy-default), small/*.cil (what a minimal guest runs),
# include/ (headers to build modules in the reference policy's language with) and pp (turns such a module into CIL).
# Made once per version of the package, from the downloaded packages; nothing is installed or configured.
set -euo pipefail

say() { echo "base_policy.sh: $*" >&2; }
command -v apt-get >/dev/null || { say "needs apt-get: this is made from a Debian package"; exit 4; }
known() { apt-cache show --no-all-versions selinux-policy-default 2>/dev/null | sed -n 's/^Version: //p' | head -n 1; }
version=$(known)
if [ -z "$version" ] && [ "$(id -u)" = 0 ]; then
  apt-get -qq update >&2
  version=$(known)
fi
[ -n "$version" ] || { say "apt knows no selinux-policy-default: run apt-get update as root"; exit 4; }

cache=${XDG_CACHE_HOME:-$HOME/.cache}/sipc-policy
place=$cache/debian-${version//:/_}-2
if [ ! -d "$place" ]; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  get() { # get PACKAGE: unpack it here
    (cd "$work" && apt-get -qq download "$1" >/dev/null 2>&1) ||
      { [ "$(id -u)" = 0 ] && apt-get -qq update >&2 && (cd "$work" && apt-get -qq download "$1" >&2); } ||
      { say "can not download $1"; exit 4; }
    dpkg -x "$work/$1"_*.deb "$work/root"
  }
  get selinux-policy-default
  get selinux-policy-dev
  get policycoreutils
  modules=$work/root/usr/share/selinux/default
  mkdir -p "$work/made/full" "$work/made/small"
  cp "$work/root/usr/libexec/selinux/hll/pp" "$work/made/pp"
  cp -r "$work/root/usr/share/selinux/devel/include" "$work/made/include"
  for module in $(cat "$modules/.modules"); do
    bunzip2 -c "$modules/$module.pp.bz2" | "$work/made/pp" >"$work/made/full/$module.cil" 2>"$work/log" ||
      { cat "$work/log" >&2; say "can not convert $module"; exit 4; }
  done
  for module in base unconfined ssh su sudo rsync; do
    # base names a user whose role another module brings.
    sed '/^(selinuxuser sddm /d' "$work/made/full/$module.cil" >"$work/made/small/$module.cil"
  done
  mv -T "$work/made" "$place" 2>/dev/null || [ -d "$place" ] # another run may have been faster
fi
echo "$place"
