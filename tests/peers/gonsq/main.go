// A go-nsq client that works with brokers: publish, defer, consume, touch, requeue, finish. Run by
// tests/broker_clients.rs as `gonsq MODE…`; the modes run together; each prints what it handled, after its topic.
// `gonsq publish CALLS MODE`, for benches/speed, publishes the lines of the body so many times, as one MPUB if there are
// several, and prints the median time of a call in microseconds.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nsqio/go-nsq"
)

// A connection's options, and the work. Ca, Cert and Key are files.
type mode struct {
	Address, Topic, Body  string
	Ca, Cert, Key, Secret string
	Compression           string
}

func (m mode) config() *nsq.Config {
	config := nsq.NewConfig()
	config.MaxInFlight = 4
	config.AuthSecret = m.Secret
	config.Snappy = m.Compression == "snappy"
	config.Deflate = m.Compression == "deflate"
	if m.Ca != "" {
		check(config.Set("tls_v1", true))
		check(config.Set("tls_root_ca_file", m.Ca))
	}
	if m.Cert != "" {
		check(config.Set("tls_cert", m.Cert))
		check(config.Set("tls_key", m.Key))
	}
	return config
}

func main() {
	if os.Args[1] == "publish" {
		calls, err := strconv.Atoi(os.Args[2])
		check(err)
		publish(calls, parse(os.Args[3]))
		return
	}
	var all sync.WaitGroup
	for _, text := range os.Args[1:] {
		m := parse(text)
		all.Add(1)
		go func() {
			defer all.Done()
			m.run()
		}()
	}
	all.Wait()
}

func parse(text string) (m mode) {
	check(json.Unmarshal([]byte(text), &m))
	return m
}

func publish(calls int, m mode) {
	producer, err := nsq.NewProducer(m.Address, m.config())
	check(err)
	producer.SetLoggerLevel(nsq.LogLevelError)
	check(producer.Ping())
	var bodies [][]byte
	for _, line := range strings.Split(m.Body, "\n") {
		bodies = append(bodies, []byte(line))
	}
	times := make([]time.Duration, calls)
	for call := range times {
		start := time.Now()
		if len(bodies) == 1 {
			check(producer.Publish(m.Topic, bodies[0]))
		} else {
			check(producer.MultiPublish(m.Topic, bodies))
		}
		times[call] = time.Since(start)
	}
	sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
	fmt.Println(float64(times[calls/2].Nanoseconds()) / 1000)
}

func (m mode) run() {
	done := make(chan string, 4)
	producer, err := nsq.NewProducer(m.Address, m.config())
	check(err)
	consumer, err := nsq.NewConsumer(m.Topic, "c", m.config())
	check(err)
	consumer.SetLoggerLevel(nsq.LogLevelError)
	producer.SetLoggerLevel(nsq.LogLevelError)
	consumer.AddConcurrentHandlers(nsq.HandlerFunc(func(message *nsq.Message) error {
		name, body, _ := strings.Cut(string(message.Body), ":")
		if name == "requeued" && message.Attempts == 1 {
			message.Touch()
			message.RequeueWithoutBackoff(200 * time.Millisecond)
			return nil
		}
		when := "in time"
		if name == "deferred" && time.Since(time.Unix(0, message.Timestamp)) < 300*time.Millisecond {
			when = "too early"
		}
		if body != m.Body {
			when += ", damaged"
		}
		done <- fmt.Sprintf("%s %s %d %s", m.Topic, name, message.Attempts, when)
		return nil
	}), 4)
	check(consumer.ConnectToNSQD(m.Address))
	of := func(name string) []byte { return []byte(name + ":" + m.Body) }
	check(producer.Publish(m.Topic, of("one")))
	check(producer.MultiPublish(m.Topic, [][]byte{of("two"), of("requeued")}))
	check(producer.DeferredPublish(m.Topic, 300*time.Millisecond, of("deferred")))

	var handled []string
	for len(handled) < 4 {
		handled = append(handled, <-done)
	}
	sort.Strings(handled)
	fmt.Println(strings.Join(handled, "\n"))
	consumer.Stop()
	<-consumer.StopChan
	producer.Stop()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
