# SPDX-License-Identifier: Apache-2.0
"""The units of a guard with blanks in them.

Owns every directive; `units.py` fills in what differs.  Why each sandbox directive stands there is systemd.exec(5)'s to
say; a test holds the exposure that `systemd-analyze security` finds, and the enforcing guest runs them.
"""

from __future__ import annotations

__all__ = ("ACT", "CHANNEL", "COMMON", "SLICE", "STAGE", "TARGET")

# What holds for the helper and for every stage; sipc-channel@.service and its fellows begin the same way.
COMMON = """\
NoNewPrivileges=yes
PrivateNetwork=yes
PrivateTmp=yes
ProtectSystem=strict
{home}
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
KeyringMode=private
SystemCallArchitectures=native
"""

TARGET = """\
# SPDX-License-Identifier: Apache-2.0
# Made by 'sipc guard install': change the guard file, and install it again.
[Unit]
Description=sipc guard {guard}
Documentation=man:sipc(1)
Wants={units}

[Install]
WantedBy=multi-user.target
"""

SLICE = """\
# SPDX-License-Identifier: Apache-2.0
# Made by 'sipc guard install': all processes of one guard, which share fairly and take no more than this.
[Unit]
Description=sipc guard {guard}

[Slice]
CPUWeight=100
IOWeight=100
MemoryMax={memory}%
MemorySwapMax=0
TasksMax={tasks}
"""

CHANNEL = """\
# SPDX-License-Identifier: Apache-2.0
# Made by 'sipc guard install'.  The helper exits at once; the channel stays until the unit is stopped, so what is on it
# outlives its stages.
[Unit]
Description=sipc guard {guard}: channel {channel}, {sender} -> {receiver}
Documentation=man:sipc(1)
After=systemd-tmpfiles-setup.service

[Service]
Type=oneshot
RemainAfterExit=yes
Slice={slice}
{context}Environment=SIPC_REGISTRY={registry}
ExecStart={helper} create {file} --channel {registered}
ExecStop={helper} destroy {registered}

# It needs to make IPC objects, give them away, and write to the registry; nothing else.
CapabilityBoundingSet=CAP_CHOWN CAP_FOWNER CAP_IPC_OWNER CAP_SYS_RESOURCE CAP_DAC_OVERRIDE
RuntimeDirectory=sipc
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
{common}RestrictAddressFamilies=none
SystemCallFilter=@system-service @ipc
# Objects must outlive the helper, in the host's own ipc namespace.
PrivateIPC=no
RemoveIPC=no
"""

STAGE = """\
# SPDX-License-Identifier: Apache-2.0
# Made by 'sipc guard install': change the guard file, and install it again.
[Unit]
Description=sipc guard {guard}: {kind} {stage}
Documentation=man:sipc(1)
PartOf={target}
Requires={channels}
After={after}
OnFailure={act}
StartLimitIntervalSec=60
StartLimitBurst=10

[Service]
Type=exec
Slice={slice}
{user}{context}Environment=SIPC_REGISTRY={registry} PYTHONPATH={modules} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
ExecStart={sipc} guard stage {file} {stage}
StateDirectory={state}
StateDirectoryMode=0700
RuntimeDirectory={state}
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
SyslogIdentifier={identifier}
LogRateLimitIntervalSec=0

# Exit codes: 130 stopped in order; 75 temporary; 3, 4, 76, 77 as a new start would end too (docs/guards.md).
Restart=on-failure
RestartSec=500ms
RestartPreventExitStatus={not_restarted}
SuccessExitStatus=130
TimeoutStopSec=20s

# What one stage takes, the others still have.
CPUWeight=100
IOWeight=100
MemoryMax={memory}%
MemorySwapMax=0
TasksMax={tasks}
OOMPolicy={oom}
LimitNOFILE=1024
LimitCORE=0
LimitMSGQUEUE=0

CapabilityBoundingSet=
AmbientCapabilities=
{common}RestrictSUIDSGID=yes
PrivateDevices=yes
# Its ends' locks and state, and the places that the guard file gives it; nothing of another stage's.
ReadWritePaths={writable}
{binds}ProtectProc={proc}
ProcSubset=all
RestrictAddressFamilies={families}
MemoryDenyWriteExecute={deny}
SystemCallFilter=@system-service seccomp
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
UMask=0077
# The channels are in the host's own ipc namespace, and their objects outlive this process.
PrivateIPC=no
RemoveIPC=no
"""

ACT = """\
# SPDX-License-Identifier: Apache-2.0
# Made by 'sipc guard install'.  Started by systemd when {stage} has failed and is not started again: does what the
# guard file says.  The stage itself could not: it has no way to its senders.
[Unit]
Description=sipc guard {guard}: what follows from the end of stage {stage}
Documentation=man:sipc(1)

[Service]
Type=oneshot
SyslogIdentifier={identifier}
ExecStart=/bin/sh -c {script}

# The log of a stage is closed to everybody else.
CapabilityBoundingSet=CAP_DAC_READ_SEARCH
PrivateNetwork=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX
RestrictRealtime=yes
MemoryMax=128M
TasksMax=16
"""
