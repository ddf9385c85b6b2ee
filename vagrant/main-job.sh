#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The main job under SELinux, from packages to a file on the other side.  As root on a system that enforces SELinux and
# runs systemd; $1 is a folder of wheels (vagrant/wheels.sh), $2 the file to send.  The README shows these commands.
set -eu
wheels=$1 file=$2

# Install: the programs, two accounts, the registry, the units.
pip install --quiet --root-user-action=ignore --break-system-packages --no-index --find-links "$wheels" 'sipc[cli]'
systemd-sysusers
systemd-tmpfiles --create sipc.conf
systemctl daemon-reload

# One channel, and its policy: proven before it is loaded.
cat >/etc/sipc/channels.d/feed.toml <<'TOML'
[channel.feed]
sender.user = "sipc-send"
receiver.user = "sipc-recv"
TOML
sipc policy install

# Helper, sender and receiver: three units, three domains.
install -D -o sipc-send -m 0400 "$file" /var/lib/sipc/feed/in/data
chown sipc-send /var/lib/sipc/feed/in
restorecon -R /usr/local /etc/sipc /run/sipc /var/lib/sipc
systemctl start sipc-channel@feed
systemctl start sipc-recv@feed sipc-send@feed

sipc status feed
sha256sum /var/lib/sipc/feed/in/data /var/lib/sipc/feed/out/data
