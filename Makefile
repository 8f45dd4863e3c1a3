# Short names for frequent commands; the work is in cargo and in scripts/.
# STREAM, GROUP, TIMEOUT, PAYLOAD_KEYS and GOROUTINES are read by the program itself, from the environment: both
# `STREAM=foo make producer` and `make producer STREAM=foo` put them there. ARGS="…" adds flags.
# Other variables of the program begin with MQUEUE_: `make pipeline COUNT=500`, on make's own command line, sets
# MQUEUE_COUNT; a COUNT in the environment sets nothing.

program = $(or $(CARGO_TARGET_DIR),target)/release/mqueue

given := $(foreach word,$(MAKEOVERRIDES),$(firstword $(subst =, ,$(word))))
$(foreach name,$(sort $(given)),$(if $(filter command,$(origin $(name))),$(eval export MQUEUE_$(name) = $$($(name)))))

# The socket of systemd-socket-activate-consumer, which wakeup pokes beside those in /run/mqueue.
wakeup doctor systemd-socket-activate-consumer: export MQUEUE_SOCKET ?= /var/run/sa-consumer.sock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-32s %s\n", $$1, $$2 }' Makefile

# The sources of the program. If one is newer than the program, cargo builds it first, with its progress on stderr, because stdout
# belongs to the messages.
sources := Cargo.toml Cargo.lock $(shell find src -type f)

demo: $(program) ## show the program at work: two groups, one of them asleep; needs nothing else (FOR=10s)
	@exec $(program) demo $(ARGS)

up: ## start NSQ on this machine: in Docker, or in the background (MQUEUE_UP=docker|nsqd|broker selects)
	@scripts/up

down: ## stop the NSQ that up started, and keep its data
	@scripts/down

clean-data: ## stop the NSQ that up started, and delete its data
	@scripts/down --data

peers: ## build nsqd and the other NSQ programs into target/peers (needs Go)
	@scripts/peers

build: ## build the program: target/release/mqueue
	cargo build --release

$(program): $(sources)
	@cargo build --release >&2
	@touch $@

producer: $(program) ## publish: STREAM=foo make producer (ARGS="--help" lists the flags)
	@exec $(program) producer $(ARGS)

consumer: $(program) ## consume: STREAM=foo GROUP=1 make consumer (TIMEOUT=3: exit when idle for 3 s)
	@exec $(program) consumer $(ARGS)

wakeup: $(program) ## poke the sockets of sleeping consumers that have messages
	@exec $(program) wakeup $(ARGS)

doctor: $(program) ## find what is wrong, and print the command that fixes it
	@exec $(program) doctor $(ARGS)

pipeline: $(program) ## run a feed through stages and count every message: STAGES=5 RATE=500 COUNT=5000
	@exec $(program) pipeline $(ARGS)

simulate: $(program) ## run 100 streams against 50 workers, until Ctrl-C: WORKERS_COUNT=25 STREAMS_COUNT=50 make simulate
	@exec $(program) simulate $(ARGS)

gateway: $(program) ## serve a job queue over HTTP on port 5000 (ARGS=--counter: with numbered jobs)
	@exec $(program) gateway $(ARGS)

worker: $(program) ## take jobs from the gateway: make worker ARGS="-n 1 -p 1"
	@exec $(program) worker $(ARGS)

node: $(program) ## run one node of a fleet that generates and handles events: STREAM=foo GROUP=1 MPORT=8081 make node
	@exec $(program) node $(ARGS)

prove: $(program) ## cut the power to a broker for ten minutes, and count what it lost (ARGS="--sync interval")
	@exec $(program) prove --duration 10m $(ARGS)

bench: $(program) ## measure publishing and consuming: ARGS="both --rate 1000" (publish, consume or both)
	@exec $(program) bench $(or $(ARGS),both)

systemd-socket-activate-consumer: $(program) ## run a sleeping consumer in this terminal: STREAM=foo TIMEOUT=30 make …
	@PROGRAM=$(program) exec scripts/socket-activate $(ARGS)

# PREFIX and DESTDIR count on make's own command line only: `perf` and others leave a PREFIX in the environment.
install uninstall reload-systemd-consumer: places = $(foreach name,PREFIX DESTDIR,$(name)='$(if $(filter command,$(origin $(name))),$($(name)))')

install: $(program) ## install the program and its systemd units (PREFIX=/usr/local, DESTDIR)
	@$(places) PROGRAM='$(program)' scripts/install

uninstall: ## remove the program and its units, and keep changed settings and data
	@$(places) scripts/uninstall

reload-systemd-consumer: $(program) ## install, and make systemd read the units
	@$(places) PROGRAM='$(program)' scripts/install --reload

static: ## build the program as one static file: target/static/x86_64-unknown-linux-musl/mqueue (ARGS=--twice: the same bytes again)
	@scripts/static $(ARGS)

packages: ## build the .deb and the .rpm in target/package, of the static program
	@scripts/package

image: ## build the image mqueue for Docker, of the static program
	@scripts/image

test-packages: ## test the packages: install, upgrade and purge the .deb in a bare Debian 12 (root)
	@tests/packages/run

compare: ## compare mqueue with its peers, and write docs/benchmarks, in 30 minutes (ARGS="lines broker": some parts)
	@scripts/peers && scripts/clients
	cargo bench --bench speed --features tokio-nsq -- --write $(ARGS)

test: ## run all tests, on real NSQ programs where available (ARGS goes to cargo test)
	@scripts/test $(ARGS)

soak: ## run the long versions of tests: hundreds of sleeps and wakes, storms of kills
	MQUEUE_SOAK=1 cargo test --features tokio-nsq --test main -- --include-ignored sleeping:: worker::no_job_is_lost wakeup_hosts_load::

simulated-world: ## run client, worker and broker in a simulated world where things go wrong: SEEDS=0..1000 (VERBOSE=1)
	@scripts/simulated-world

mutation-check: ## put faults into the sources, and fail unless the simulated world finds each (ARGS="NAME…")
	@scripts/mutation-check $(ARGS)

instructions: ## count the instructions of the hot paths, and fail if they increased (ARGS=--update accepts them)
	@scripts/instructions $(ARGS)

lint: ## check formatting, wording, clippy and the documentation, warnings denied
	cargo fmt --check
	@scripts/style
	cargo clippy --all-targets --locked --features tokio-nsq -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked --quiet

images: ## draw the pictures in docs/images
	@scripts/images

# the targets that `make help` lists: none of them is a file
.PHONY: $(shell awk -F ':.*\#\# ' '/^[a-z-]+:.*\#\# / { print $$1 }' Makefile)
