//go:build tools

// Package nats names the programs of NATS that `make compare` and the tests of `mqueue prove` run.
// It is never compiled: `scripts/peers --nats` builds each into target/peers.
package nats

import (
	_ "github.com/nats-io/nats-server/v2"
	_ "github.com/nats-io/natscli/nats"
)
