#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test.sh PYTHON: `vagrant up` for real, the guest tests in that machine under its systemd, `vagrant destroy`.
# As root missing Debian packages are installed.  Where no libvirt runs, one is started for this run and ended with it.
set -euo pipefail
python=$1
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
root=$(cd "$here/.." && pwd)
need vagrant vagrant
need libvirt-daemon-system libvirtd
need libvirt-clients virsh
need dnsmasq-base dnsmasq
need iptables iptables
need openssh-client ssh
need rsync rsync
[ -d /usr/share/rubygems-integration/all/gems ] && ls -d /usr/share/rubygems-integration/all/gems/vagrant-libvirt-* >/dev/null 2>&1 || missing+=(vagrant-libvirt)
packages
export VAGRANT_CWD=$here VAGRANT_DEFAULT_PROVIDER=libvirt VAGRANT_HOME=$root/build/vagrant/home
mkdir -p "$VAGRANT_HOME"
logs=$root/build/vagrant

started=()
conf=/etc/libvirt/qemu.conf
finish() {
  set +e
  vagrant destroy -f >>"$logs/vagrant.log" 2>&1
  if [ "${#started[@]}" -gt 0 ]; then
    for pool in $(virsh -q -c qemu:///system pool-list --name 2>/dev/null); do
      for volume in $(virsh -q -c qemu:///system vol-list "$pool" 2>/dev/null | awk '/sipc-VAGRANTSLASH-|sipc_/ {print $1}'); do
        virsh -q -c qemu:///system vol-delete "$volume" "$pool" >>"$logs/vagrant.log" 2>&1
      done
    done
    for network in $(virsh -q -c qemu:///system net-list --name 2>/dev/null); do
      virsh -q -c qemu:///system net-destroy "$network" >>"$logs/vagrant.log" 2>&1
    done
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${started[@]}"; do tail --pid="$pid" -f /dev/null & waiting=$!; (sleep 10; kill $waiting 2>/dev/null) & wait $waiting 2>/dev/null; done
    [ ! -e "$conf.sipc" ] || mv "$conf.sipc" "$conf"
  fi
}
trap finish EXIT

if ! virsh -c qemu:///system version >/dev/null 2>&1; then
  # As root without systemd, cgroups of its own or a security driver (a container, say).
  cp "$conf" "$conf.sipc"
  printf '%s\n' 'user = "root"' 'group = "root"' 'security_driver = "none"' 'security_default_confined = 0' \
    'cgroup_controllers = [ ]' 'namespaces = [ ]' 'seccomp_sandbox = 0' 'remember_owner = 0' 'dynamic_ownership = 1' \
    'stdio_handler = "file"' >"$conf"
  mkdir -p /run/libvirt /var/lib/libvirt/images
  virtlogd >>"$logs/libvirt.log" 2>&1 &
  started+=($!)
  libvirtd >>"$logs/libvirt.log" 2>&1 &
  started+=($!)
  for _ in $(seq 100); do virsh -c qemu:///system version >/dev/null 2>&1 && break; sleep 0.2; done
  virsh -c qemu:///system version >/dev/null || { say "libvirtd did not start: $logs/libvirt.log"; exit 4; }
fi

vagrant box remove -f sipc/debian >/dev/null 2>&1 || true
vagrant up
vagrant ssh-config >"$logs/ssh-config"
vagrant ssh -c 'sestatus; ps -eo label,args | grep -c "[s]ystemd"'
# The suite loads policies whole: the machine's own comes back at the end.
lab="$(cat "$here/lab.cil")"
ssh -F "$logs/ssh-config" default "cat >/tmp/sipc_lab.cil && sudo semodule -i /tmp/sipc_lab.cil" <<<"$lab"
ssh -F "$logs/ssh-config" default 'sudo cp -r /opt/sipc/wheels /var/tmp/' 
cd "$root"
SIPC_GUEST_COMMAND="ssh -F $logs/ssh-config default sudo runcon system_u:system_r:sipc_lab_t:s0 /usr/bin/python3 /opt/sipc/vagrant/guest_agent.py -" \
  "$python" -m pytest -q tests/vm --junitxml="$logs/junit.xml"
