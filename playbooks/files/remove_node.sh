#!/bin/sh
# Removes everything that a deploy put on this VM. Something that is already gone is not an error. The file that marks an
# installation is removed last, so that an interrupted run can be repeated.
set -eu
systemctl disable --now rainstorm.target 2>/dev/null || true
systemctl stop 'rainstorm-*.service' 'rainstorm-*.socket' rainstorm.slice 2>/dev/null || true
rm -rf /etc/systemd/system/rainstorm.target /etc/systemd/system/rainstorm.slice /etc/systemd/system/rainstorm-*
systemctl daemon-reload
systemctl reset-failed 'rainstorm*' 2>/dev/null || true
rm -rf /opt/rainstorm /etc/rainstorm /run/rainstorm /var/log/rainstorm
# The folder itself may be a mount point.
find /var/lib/rainstorm -mindepth 1 -delete 2>/dev/null || true
rmdir /var/lib/rainstorm 2>/dev/null || true
for user in rainstorm rainstorm-task; do
    if getent passwd $user >/dev/null; then userdel $user; fi
    if getent group $user >/dev/null; then groupdel $user; fi
done
rm -f /etc/sysusers.d/rainstorm.conf /etc/tmpfiles.d/rainstorm.conf
