# shellcheck shell=bash
# The lower bound of a wake: from a poke to a running minimal static program. Sourced after lib.sh.
# shellcheck disable=SC2154 # lib.sh sets them

command -v cc >/dev/null || skip "there is no cc: apt-get install gcc libc6-dev"
cc -Os -static -nostdlib tests/systemd/floor.c -o /usr/local/bin/floor
cc -O1 tests/systemd/poke.c -o "$work/poke"

# All outputs go to this pipe; bash reads a line, then the clock.
mkfifo "$work/output"
exec 4<>"$work/output"
await_output() { read -r -t 20 -u 4 _ || fail "no line within 20 s"; }
time_of_wakes() { echo $((${EPOCHREALTIME/[.,]/} - $1)); } # FROM

# floor_unit NAME LINE…: creates a socket, and a service with these lines that it starts.
floor_unit() {
    local name=$1
    shift
    printf '%s\n' '[Socket]' "ListenStream=/run/mqueue/$name.sock" TriggerLimitBurst=2000 >"/etc/systemd/system/$name.socket"
    printf '%s\n' '[Unit]' StartLimitIntervalSec=0 '[Service]' ExecStart=/usr/local/bin/floor "$@" >"/etc/systemd/system/$name.service"
    drop_in "$name.service" '[Service]' "StandardOutput=file:$work/output"
    systemctl start "$name.socket"
}
poke_to_running() { # UNIT
    local poked
    poked=$("$work/poke" "/run/mqueue/$1.sock")
    await_output
    time_of_wakes "$poked" >>"$work/$1"
    wait_until 10 "$1 has ended" asleep "$1"
}
sorted() { sort -n "$work/$1" | awk '{ printf "%.1f\n", $1 / 1000 }' >"$work/$1.ms"; } # FILE
