#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# setup.sh VENV EXTRAS: make a virtual environment with this project in it, installing what it takes.
# As root missing Debian packages are installed; otherwise this says which are missing.
set -euo pipefail
venv=$1 extras=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

need() { # need PACKAGE TEST-COMMAND...
  local package=$1
  shift
  "$@" >/dev/null 2>&1 && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $package" >&2
    apt-get -qq update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "$package" >/dev/null
  else
    echo "missing: $package; install it as root: apt-get install $package" >&2
    exit 4
  fi
}

python=${PYTHON:-python3}
need python3 command -v "$python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "sipc needs Python 3.11 or later; $("$python" --version) is older: set PYTHON to a newer one" >&2
  exit 4
}
need python3-venv "$python" -c 'import venv, ensurepip'
case $extras in *dev* | *bench*) need gcc command -v cc && need libc6-dev sh -c 'echo "#include <sys/msg.h>" | cc -E -' ;; esac
# The policy compiler and what reads a policy back: the SELinux tests compile and prove policies on any host.
# setools and audit2why, of the distribution's own Python, are what the tests compare our reading with.
case $extras in *dev*)
  need libseccomp2 sh -c '/sbin/ldconfig -p | grep -q libseccomp.so.2'
  need secilc command -v secilc
  need m4 command -v m4
  need make command -v make
  need checkpolicy command -v checkmodule
  need semodule-utils command -v semodule_package
  need policycoreutils sh -c 'PATH=$PATH:/usr/sbin:/sbin; command -v semodule'
  need systemd command -v systemd-analyze
  need python3-setools /usr/bin/python3 -c 'import setools'
  need python3-selinux /usr/bin/python3 -c 'import selinux.audit2why'
  ;;
esac

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root[$extras]"
