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
  cd "$root"
  vagrant destroy -f >>"$logs/vagrant.log" 2>&1
  [ "${#started[@]}" -gt 0 ] || return
  virsh -q -c qemu:///system vol-delete --pool default "$(virsh -q -c qemu:///system vol-list default | awk '/sipc-VAGRANTSLASH-debian/ {print $1; exit}')" >>"$logs/vagrant.log" 2>&1
  for network in $(virsh -q -c qemu:///system net-list --name); do
    virsh -q -c qemu:///system net-destroy "$network" >>"$logs/vagrant.log" 2>&1
  done
  kill "${started[@]}"
  wait "${started[@]}"
  mv "$conf.sipc" "$conf"
  for program in iptables ip6tables; do
    for table in filter nat mangle; do
      $program-save -t "$table" | sed -n 's/^-A \(.* -j LIBVIRT_.*\)/\1/p' | while read -r rule; do eval "$program -t $table -D $rule"; done
      for chain in $($program-save -t "$table" | sed -n 's/^:\(LIBVIRT_[A-Z]*\) .*/\1/p'); do
        $program -t "$table" -F "$chain" && $program -t "$table" -X "$chain"
      done
    done
  done
}
trap finish EXIT
trap 'exit 130' INT TERM

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

# A box of an earlier checkout would be taken for this one's.
vagrant box remove -f sipc/debian >/dev/null 2>&1 || true
vagrant up
vagrant ssh-config >"$logs/ssh-config"
vagrant ssh -c 'sestatus; ps -o label,args -p 1'
# The suite's agent runs in the lab's domain, as a transient service.  The suite loads policies whole, over the
# machine's own, which ends with it.
vagrant ssh -c 'sudo systemctl stop sipc-channel@feed; sudo semodule -i /opt/sipc/vagrant/lab.cil'
agent=(ssh -F "$logs/ssh-config" default sudo systemd-run --quiet --pipe --wait --collect
  -p SELinuxContext=system_u:system_r:sipc_lab_t:s0 /usr/bin/python3 /opt/sipc/vagrant/guest_agent.py -)
cd "$root"
SIPC_GUEST_COMMAND="${agent[*]}" "$python" -m pytest -q tests/vm --ignore=tests/vm/test_main_job.py --ignore=tests/vm/test_guard.py \
  --ignore=tests/vm/test_guard_rules.py --ignore=tests/vm/test_journal.py --ignore=tests/vm/test_json_example.py \
  --junitxml="$logs/junit.xml"
