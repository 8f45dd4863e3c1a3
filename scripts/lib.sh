# shellcheck shell=bash
# Shared by `up`, `down` and `clean-data`: NSQ's ports, the two ways to run it, and the identity of
# our processes. Sourced, not run. Each script has changed to the project's folder before.

project=mqueue
state=$PWD/.mqueue # of the background programs: a folder NAME, NAME.pid and NAME.log for each
programs=(nsqlookupd nsqd nsqadmin) # in the order they start
ours=("${programs[@]}" broker)       # all that may run in the background; the broker stands for nsqd

# shellcheck disable=SC2034 # `up` reads it
# nsqd's defaults refuse an event of PAYLOAD_KEYS=10000, about 10 MB (docker/compose.yml has the
# same sizes).
nsqd_flags=(--max-msg-size=16777216 --max-body-size=67108864)

ports_of() {
    case $1 in
        nsqd | broker) echo 4150 4151 ;;
        nsqlookupd) echo 4160 4161 ;;
        nsqadmin) echo 4171 ;;
    esac
}

http_port_of() { local ports; ports=$(ports_of "$1"); echo "${ports##* }"; }

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$@" >&2; exit 1; }

# --- ports ---------------------------------------------------------------------------------------------------------

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Requests /ping without curl, which a minimal system lacks. True only for NSQ's own answer, OK.
pings() {
    local port line answer=
    port=$(http_port_of "$1")
    {
        exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
        printf 'GET /ping HTTP/1.0\r\n\r\n' >&3
        while IFS= read -r -t 2 -u 3 line || [[ -n $line ]]; do answer=${line%$'\r'}; line=; done
        exec 3>&-
    } 2>/dev/null
    [[ $answer == OK ]]
}

# wait_for SECONDS COMMAND…: succeeds as soon as the command does; fails after that time.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# --- programs in the background ------------------------------------------------------------------------------------

# Prints a unique identity of a process: its start (in ticks since the boot) and the boot id.
identity() {
    local stat
    if [[ -r /proc/self/stat ]]; then
        stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
        read -ra stat <<<"${stat##*) }" # past the name, which may hold blanks: state is 0, the start 19
        echo "${stat[19]} $(</proc/sys/kernel/random/boot_id)"
    else
        ps -o lstart= -p "$1"
    fi
}

remember() { { echo "$2"; identity "$2"; } >"$state/$1.pid"; } # NAME PID

# Prints the pid of our NAME, if it runs. The number alone is no proof: after a crash another
# program may have it.
pid_of() {
    local pid identity
    [[ -r $state/$1.pid ]] || return 1
    { read -r pid && read -r identity; } <"$state/$1.pid" || return 1
    [[ $pid =~ ^[1-9][0-9]*$ && -n $identity && $(identity "$pid") == "$identity" ]] || return 1
    [[ ! -r /proc/$pid/stat || $(<"/proc/$pid/stat") != *") Z "* ]] || return 1 # dead, and its parent has not looked
    echo "$pid"
}

runs() { pid_of "$1" >/dev/null; }
gone() { ! runs "$1"; }

any_runs() {
    local name
    for name in "${ours[@]}"; do if runs "$name"; then return 0; fi; done
    return 1
}

# Signals the whole session that `up` created: an nsqd on PATH may be a wrapper around the real one.
signal() { kill "-$1" -- "-$2" 2>/dev/null || kill "-$1" "$2" 2>/dev/null || true; } # SIGNAL PID

# Stops our NAME as an operator would: SIGTERM, so that nsqd writes its memory queue to disk (the
# broker has done so).
stop() {
    local pid
    if pid=$(pid_of "$1"); then
        signal TERM "$pid"
        if ! wait_for 20 gone "$1"; then
            say "$1 (pid $pid) did not end within 20 s of SIGTERM: killed"
            signal KILL "$pid"
            wait_for 5 gone "$1" || fail "$1 (pid $pid) cannot be ended"
        fi
    fi
    rm -f "$state/$1.pid"
}

stop_all() {
    local i
    for ((i = ${#ours[@]} - 1; i >= 0; i--)); do stop "${ours[i]}"; done
}

# --- Docker --------------------------------------------------------------------------------------------------------

# A hanging engine counts as none. (macOS has no `timeout`; there the question has no time limit.)
docker_answers() {
    local -a limit=()
    ! command -v timeout >/dev/null || limit=(timeout 5)
    command -v docker >/dev/null && ${limit[@]+"${limit[@]}"} docker info >/dev/null 2>&1
}

# Sets compose=(…) to the available command: the plugin, or docker-compose 1.29.
find_compose() {
    if docker compose version >/dev/null 2>&1; then
        compose=(docker compose)
    elif command -v docker-compose >/dev/null; then
        compose=(docker-compose)
    else
        return 1
    fi
    compose+=(-p "$project" -f docker/compose.yml --profile nsq)
}

# Prints the ids of our containers, including stopped ones.
containers() { docker ps --all --quiet --filter "label=com.docker.compose.project=$project"; }
running_containers() { docker ps --quiet --filter "label=com.docker.compose.project=$project"; }
