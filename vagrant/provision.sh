#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# In the Vagrant machine, as root: what the distribution must give, then the main job with a file of 64 MiB.
set -eu
if command -v dnf >/dev/null; then
  dnf -q -y install python3-pip python3-libselinux policycoreutils-python-utils secilc
fi
if [ "$(getenforce)" != Enforcing ]; then
  echo "provision.sh: SELinux is not enforcing here: set SELINUX=enforcing in /etc/selinux/config and reboot" >&2
  exit 4
fi
systemctl stop sipc-channel@feed 2>/dev/null || true
restorecon -RF /opt/sipc
head -c 67108864 /dev/urandom >/var/tmp/sipc-file
sh /opt/sipc/vagrant/main-job.sh /opt/sipc/wheels /var/tmp/sipc-file
cmp /var/tmp/sipc-file /var/lib/sipc/feed/out/data
rm /var/tmp/sipc-file
