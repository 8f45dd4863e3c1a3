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
