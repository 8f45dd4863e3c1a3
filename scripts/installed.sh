# shellcheck shell=bash
# Shared by `install` and `uninstall`: the files and their targets. Sourced, in the project's
# folder.
# shellcheck disable=SC2034 # they use what stands here

PREFIX=${PREFIX:-/usr/local}
PREFIX=${PREFIX%/}
root=${DESTDIR:-}
root=${root%/}
case $PREFIX in
    /usr | /usr/local) lib=$PREFIX/lib ;;
    *) lib=/etc ;; # systemd looks nowhere else
esac
mapfile -t units < <(cd systemd && printf '%s\n' *.service *.socket *.service.d/*.conf)
mapfile -t settings < <(cd systemd/env && printf '%s\n' *)
# The services that run all the time, as patterns: those that use others first. A consumer is a new process at each wake.
daemons=(mqueue-wakeup.service mqueue-web.service 'mqueue-worker@*.service' 'mqueue-stage@*.service' 'mqueue-bridge@*.service'
    'mqueue-node@*.service' mqueue-gateway.service 'mqueue-ingest@*.service' mqueue-broker.service)

say() { printf '%s\n' "$*"; }
fail() {
    printf '%s\n' "$@" >&2
    exit 1
}
[[ $PREFIX == /* ]] || fail "invalid PREFIX \"$PREFIX\": use a full path, as in PREFIX=/usr/local"
[[ $PREFIX != *[!-A-Za-z0-9/._+]* ]] || fail "invalid PREFIX \"$PREFIX\": letters, digits and . _ - + / only, as it goes into the units"

remove() { [[ ! -e $1 ]] || rm "$1" || fail "cannot remove $1 (as root: sudo make uninstall)"; }
