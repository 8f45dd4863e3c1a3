# Shared by the scripts of the .deb and the .rpm; scripts/package puts it at the beginning of each.

booted() { [ -d /run/systemd/system ]; }

# Creates the user mqueue and /run/mqueue. Starts nothing.
after_install() {
    if command -v systemd-sysusers >/dev/null; then systemd-sysusers mqueue.conf; fi
    if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create mqueue.conf || true; fi
    if booted; then systemctl daemon-reload || true; fi
}

# Restarts the services that run, those that use others first. A consumer finishes its messages before it ends; sockets go on
# listening.
after_upgrade() {
    if booted && ! systemctl try-restart 'mqueue-wakeup.service' 'mqueue-consumer*.service' 'mqueue-w*.service' \
        'mqueue-stage@*.service' 'mqueue-bridge@*.service' 'mqueue-node@*.service' 'mqueue-gateway.service' \
        'mqueue-ingest@*.service' 'mqueue-broker.service'; then
        echo "mqueue: not every service could be restarted: systemctl --failed 'mqueue-*'" >&2
    fi
}

# Stops the sockets, so that nothing is started again, and then the services.
before_removal() {
    if booted; then
        systemctl stop mqueue-wakeup.service 'mqueue-*.socket' || true
        systemctl stop 'mqueue-*.service' || true
    fi
}

after_removal() {
    if booted; then
        systemctl daemon-reload || true
        systemctl reset-failed 'mqueue-*' 2>/dev/null || true
    fi
    rm -f /run/mqueue/*.sock /run/mqueue/ingest/*.sock
    rmdir /run/mqueue/ingest /run/mqueue 2>/dev/null || true
}

# Removes what enabling units left, and the user, unless there is data; says what stays.
forget() {
    find /etc/systemd/system -type l \( -lname '/lib/systemd/system/mqueue-*' -o -lname '/usr/lib/systemd/system/mqueue-*' \) \
        -delete 2>/dev/null || true
    find /etc/systemd/system -type d -name '*.wants' -empty -delete 2>/dev/null || true
    rmdir /var/lib/mqueue/broker /var/lib/mqueue 2>/dev/null || true
    if [ -d /var/lib/mqueue ]; then
        echo "mqueue: the data in /var/lib/mqueue is kept, and its owner, the user mqueue; to remove both:" \
            "rm -r /var/lib/mqueue && userdel mqueue"
    elif getent passwd mqueue >/dev/null; then
        userdel mqueue || true
    fi
}
