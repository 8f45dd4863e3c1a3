# shellcheck shell=bash
# What the CI scripts share. Sourced, not run.

stage() { printf '\n=== %s (after %d s)\n' "$1" "$SECONDS"; }

apt_install() { # PACKAGE…
    echo "ci: apt-get install $*"
    if [[ -z ${apt_updated:-} ]]; then
        apt-get update -qq
        apt_updated=yes
    fi
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# need COMMAND PACKAGE…: installs the packages where the command is missing.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null || apt_install "$@"
}

# cargo_install PACKAGE…: installs those that are missing; what they have in common is compiled once, and all of it quickly, as they
# do little work here.
cargo_install() {
    local package
    for package in "$@"; do
        command -v "$package" >/dev/null ||
            CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}/tools") CARGO_PROFILE_DEV_DEBUG=0 \
                cargo install --quiet --locked --debug "$package"
    done
}

engine_answers() { timeout 5 docker info >/dev/null 2>&1; }

# start_engine FOLDER ARG…: starts a Docker engine of our own, whose process is $engine; all that it keeps is in FOLDER. Where that
# cannot be, its last words, and $why says so.
start_engine() {
    local folder=$1 deadline=$((SECONDS + 60))
    shift
    engine=''
    why="no engine answers, and only root can start one"
    [[ $(id -u) == 0 ]] || return 1
    export DOCKER_HOST=unix://$folder/docker.sock
    dockerd --host "$DOCKER_HOST" --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" \
        --bridge none "$@" >"$folder/log" 2>&1 &
    engine=$!
    until engine_answers; do
        if ! kill -0 "$engine" 2>/dev/null; then
            tail -n 3 "$folder/log"
            engine=''
            why="dockerd cannot run here (its last words stand above)"
            return 1
        fi
        if ((SECONDS >= deadline)); then
            tail -n 3 "$folder/log"
            why="dockerd did not answer within 60 s (the end of its log stands above)"
            return 1
        fi
        sleep 0.2
    done
    echo "ci: started a Docker engine of our own"
}

stop_engine() {
    [[ -n ${engine:-} ]] || return 0
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true # dockerd ends its containerd before itself
    engine=''
    echo "ci: our own Docker engine is stopped"
}
