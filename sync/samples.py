"""What `ns7 sample-config rsyncd` prints: the daemon that gives the publisher's store to its pullers."""

from __future__ import annotations

from typing import Any

_RSYNCD = """\
# rsyncd for the publisher's zones: /etc/ns7/rsyncd.conf
# Nothing in it can be written, and what is copied is signed; hosts allow keeps strangers away.
address = {publisher}
log file = /dev/stderr
use chroot = yes
uid = ns7
gid = ns7
read only = yes
list = no
strict modes = yes
max connections = 20
timeout = 300
reverse lookup = no
socket options = TCP_NODELAY

[ns7]
    comment = zones of ns7
    path = {store}
    exclude = /staging /staging.old /state /lock /current
    hosts allow = {hosts}
    hosts deny = *

# The unit: /etc/systemd/system/ns7-rsyncd.service
#
# [Unit]
# Description=rsync daemon for the zones of ns7
# After=network-online.target
# Wants=network-online.target
#
# [Service]
# ExecStart=/usr/bin/rsync --daemon --no-detach --config=/etc/ns7/rsyncd.conf
# Restart=on-failure
# RestartSec=1
# ProtectSystem=strict
# ProtectHome=yes
# PrivateTmp=yes
# PrivateDevices=yes
# NoNewPrivileges=yes
# CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_SETUID CAP_SETGID CAP_DAC_READ_SEARCH
# RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
#
# [Install]
# WantedBy=multi-user.target
"""


def rsyncd(section: Any) -> str:
    """rsyncd.conf and a unit; for the settings of [sync], or for documentation addresses when there are none."""
    if section is None:
        return _RSYNCD.format(publisher="192.0.2.88", store="/var/lib/bind/ns7", hosts="192.0.2.89")
    hosts = " ".join(dict.fromkeys(each.host for each in section.pullers))
    return _RSYNCD.format(publisher=section.publisher, store=section.store, hosts=hosts or "192.0.2.89")
