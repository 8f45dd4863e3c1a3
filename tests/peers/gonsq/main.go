// A go-nsq client that works with a broker: publish, defer, consume, touch, requeue, finish. Prints what it handled; run by
// tests/broker_clients.rs as `gonsq HOST:PORT TOPIC`.
package main

import (
	"fmt"
	"log"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/nsqio/go-nsq"
)

func main() {
	address, topic := os.Args[1], os.Args[2]
	done := make(chan string, 4)
	config := nsq.NewConfig()
	config.MaxInFlight = 4

	producer, err := nsq.NewProducer(address, config)
	check(err)
	consumer, err := nsq.NewConsumer(topic, "c", config)
	check(err)
	consumer.SetLoggerLevel(nsq.LogLevelError)
	producer.SetLoggerLevel(nsq.LogLevelError)
	consumer.AddConcurrentHandlers(nsq.HandlerFunc(func(message *nsq.Message) error {
		body := string(message.Body)
		if body == "requeued" && message.Attempts == 1 {
			message.Touch()
			message.RequeueWithoutBackoff(200 * time.Millisecond)
			return nil
		}
		when := "in time"
		if body == "deferred" && time.Since(time.Unix(0, message.Timestamp)) < 300*time.Millisecond {
			when = "too early"
		}
		done <- fmt.Sprintf("%s %d %s", body, message.Attempts, when)
		return nil
	}), 4)
	check(consumer.ConnectToNSQD(address))
	check(producer.Publish(topic, []byte("one")))
	check(producer.MultiPublish(topic, [][]byte{[]byte("two"), []byte("requeued")}))
	check(producer.DeferredPublish(topic, 300*time.Millisecond, []byte("deferred")))

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
