# shellcheck shell=bash
# Shared by the tests in a booted systemd. Each is a script of its own, started as
#
#   scripts/with-systemd tests/systemd/NAME
#
# MQUEUE names the program (default: target/release/mqueue). nsqd comes from target/peers or PATH.
# Exit codes: 0 passed; 77 skipped, with the reason on stderr; else failed, with the journal on
# stderr.
#
# All changes of a test to /etc, /usr/local, /run, /var/lib, units and users disappear with its
# systemd.
set -euo pipefail

skip() {
    echo "skipped: ${0##*/}: $*" >&2
    exit 77
}

if [[ ! -e /run/with-systemd ]]; then
    echo "${0##*/}: this would change the machine: scripts/with-systemd $0" >&2
    exit 125
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mqueue=$(realpath "${MQUEUE:-target/release/mqueue}")
[[ -x $mqueue ]] || skip "there is no $mqueue: make build"
work=$(mktemp -d /run/test.XXXXXX)

# --- what failed ---------------------------------------------------------------------------------------------------

# shellcheck disable=SC2317 # the trap calls it
tell() {
    local status=$?
    if ((status != 0 && status != 77)); then
        {
            echo "--- ${0##*/} failed ($status); the units, and the end of the journal:"
            systemctl list-units --all --no-legend 'mqueue-*' | head -n 20
            journalctl --no-pager --output=short-precise --lines="${LINES_TOLD:-60}"
        } >&2
    fi
}
trap tell EXIT
trap 'echo "${0##*/}:$LINENO: failed: $BASH_COMMAND" >&2' ERR
set -o errtrace

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# wait_until SECONDS WHAT COMMAND…: waits until the command succeeds; after the deadline the test
# fails and names WHAT. It asks often at first and then seldom: what it asks takes processor time from what it waits for.
exec {never}<> <(:)
wait_until() {
    local seconds=$1 what=$2 deadline tries=0
    shift 2
    deadline=$((SECONDS + seconds))
    until "$@" 2>/dev/null; do
        ((SECONDS <= deadline)) || fail "not within $seconds s: $what"
        read -r -t "0.0$((++tries < 20 ? 1 : 5))" -u "$never" || true
    done
}

# distribution FILE: prints its percentiles; FILE has sorted numbers, one per line.
percentile() { sed -n "$((($(wc -l <"$1") * $2 + 99) / 100))p" "$1"; } # FILE PERCENT
distribution() { echo "p50 $(percentile "$1" 50), p90 $(percentile "$1" 90), p99 $(percentile "$1" 99), max $(tail -n 1 "$1")"; }

# --- nsqd ----------------------------------------------------------------------------------------------------------

# Starts nsqd on free ports, or on its previous ones. With MQUEUE_TEST_BROKER=mqueue it is `mqueue
# broker`.
start_nsqd() {
    local program=(target/peers/nsqd)
    [[ -x ${program[0]} ]] || program=("$(command -v nsqd)") || skip "there is no nsqd: make peers, or put one on PATH"
    [[ ${MQUEUE_TEST_BROKER:-nsqd} != mqueue ]] || program=("$mqueue" broker)
    mkdir -p "$work/nsqd"
    : >"$work/nsqd.log"
    "${program[@]}" --data-path="$work/nsqd" --tcp-address="${nsqd_tcp:-127.0.0.1:0}" \
        --http-address="${nsqd_http:-127.0.0.1:0}" >"$work/nsqd.log" 2>&1 &
    nsqd_pid=$!
    wait_until 10 "nsqd's ports" grep -q 'HTTP: listening' "$work/nsqd.log"
    wait_until 10 "nsqd's ports" grep -q 'TCP: listening' "$work/nsqd.log"
    nsqd_tcp=$(sed -n 's/.* TCP: listening on //p' "$work/nsqd.log")
    nsqd_http=$(sed -n 's/.* HTTP: listening on //p' "$work/nsqd.log")
}

stop_nsqd() {
    kill "$nsqd_pid"
    wait "$nsqd_pid" || true
}

# http METHOD PATH [BODY]: prints the response body; fails unless the status is 200.
http() {
    local line status
    exec 3<>"/dev/tcp/${nsqd_http%:*}/${nsqd_http#*:}" || return 1
    printf '%s %s HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s' "$1" "$2" "${#3}" "$3" >&3
    read -r _ status _ <&3
    while IFS= read -r line <&3 && [[ -n ${line%$'\r'} ]]; do :; done
    cat <&3
    exec 3>&-
    [[ $status == 200 ]]
}

publish() { http POST "/pub?topic=$1" "$2" >/dev/null; } # STREAM BODY
create_group() { # STREAM GROUP
    http POST "/topic/create?topic=$1" '' >/dev/null
    http POST "/channel/create?topic=$1&channel=$2" '' >/dev/null
}

# Prints a number of a group's statistics: depth, in_flight_count, client_count, message_count …
of_group() { # STREAM GROUP NAME
    local stats
    stats=$(http GET "/stats?format=json&include_clients=false&include_mem=false&topic=$1&channel=$2" '')
    stats=${stats#*\"channel_name\":\""$2"\"}
    grep -o "\"$3\":[0-9]*" <<<"$stats" | head -n 1 | cut -d : -f 2
}
has_had() { [[ $(of_group "$1" "$2" message_count) == "$3" ]]; } # STREAM GROUP MESSAGES
empty() { [[ $(of_group "$1" "$2" depth) == 0 && $(of_group "$1" "$2" in_flight_count) == 0 ]]; } # STREAM GROUP

# --- systemd -------------------------------------------------------------------------------------------------------

# Installs the program and the units, as `make reload-systemd-consumer` does.
install_units() { PREFIX=/usr/local DESTDIR='' PROGRAM=$mqueue scripts/install --reload >/dev/null; }

# settings NAME LINE…: writes /etc/mqueue/NAME.env, with nsqd's addresses.
settings() {
    local name=$1
    shift
    printf '%s\n' "NSQD_TCP_ADDRESS=${nsqd_tcp:-}" "NSQD_HTTP_ADDRESS=${nsqd_http:-}" "$@" >"/etc/mqueue/$name.env"
}

# drop_in UNIT LINE…: adds a drop-in, as `systemctl edit` does.
drop_in() {
    local unit=$1
    shift
    mkdir -p "/etc/systemd/system/$unit.d"
    printf '%s\n' "$@" >"/etc/systemd/system/$unit.d/override.conf"
    systemctl daemon-reload
}

state() { systemctl show --property=ActiveState --value "$1"; }
is() { [[ $(state "$1") == "$2" ]]; } # UNIT STATE
# The unit's socket waits for its next poke.
asleep() { # UNIT
    local states
    states=$(systemctl show --property=ActiveState,SubState --value "$1.service" "$1.socket")
    [[ ${states//$'\n'/ } == "inactive dead  active listening" ]]
}

# Counts PID 1's messages that a unit was started (by message id).
starts() {
    journalctl --sync
    journalctl --unit="$1" --output=cat --no-pager MESSAGE_ID=39f53479d3a045ac8e11786248231fbf | wc -l
}

# Prints a unit's output.
printed() {
    journalctl --sync
    journalctl --unit="$1" --output=cat --no-pager _TRANSPORT=stdout
}

none_failed() {
    local failed
    failed=$(systemctl list-units --state=failed --plain --no-legend)
    [[ -z $failed ]] || fail "failed units: $failed"
}

# Connects to a socket once, with a tool that every Debian has (curl, socat and python may be
# missing; logger connects twice).
poke() { perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "$ARGV[0]: $!\n"' "$1"; }

# wakeup gives the pokes; for a build without it they come from here.
has_wakeup() { "$mqueue" wakeup --help >/dev/null 2>&1; }
start_wakeup() {
    has_wakeup || return 0
    settings wakeup
    systemctl start mqueue-wakeup.service
}
wake() { has_wakeup || poke "/run/mqueue/$1.sock"; } # GROUP

# --- the sleeping broker -------------------------------------------------------------------------------------------

# Puts mqueue-broker.socket on free ports, which http and publish use, and starts it. LINE…: settings of the broker.
sleeping_broker() { # LINE…
    local ports
    ports=$(perl -MIO::Socket::INET -e 'print join " ", map { $_->sockport } map { IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") } 1, 2')
    nsqd_tcp=127.0.0.1:${ports% *} nsqd_http=127.0.0.1:${ports#* }
    settings broker "MQUEUE_TCP_ADDRESS=$nsqd_tcp" "MQUEUE_HTTP_ADDRESS=$nsqd_http" "$@"
    # any number of starts: a test sleeps more often than the broker does
    drop_in mqueue-broker.service '[Unit]' StartLimitIntervalSec=0
    drop_in mqueue-broker.socket '[Socket]' ListenStream= "ListenStream=$nsqd_tcp" "ListenStream=$nsqd_http" \
        ListenStream=/run/mqueue-broker.sock TriggerLimitBurst=2000
    systemctl start mqueue-broker.socket
}
defer() { http POST "/pub?topic=$1&defer=$3" "$2" >/dev/null; } # STREAM BODY MILLISECONDS
# Prints the bodies of a group's messages, after which the group has none.
drained() { # STREAM GROUP
    "$mqueue" consumer --nsqd-tcp-address="$nsqd_tcp" --nsqd-http-address="$nsqd_http" --stream="$1" --group="$2" \
        --timeout=2 --output=body 2>"$work/drained.log"
}
