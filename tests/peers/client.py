# What pynsq does with a broker: publish, defer, consume, touch, requeue, finish. Prints what it handled; run by
# tests/broker_clients.rs as `python client.py HOST:PORT TOPIC`.
import sys
import time

import nsq
import tornado.ioloop

address, topic = sys.argv[1:]
handled = []


def handle(message):
    body = message.body.decode()
    if body == "requeued" and message.attempts == 1:
        message.touch()
        message.requeue(time_ms=200, backoff=False)
        return
    late = body != "deferred" or time.time() - message.timestamp / 1e9 >= 0.3
    handled.append(f"{body} {message.attempts} {'in time' if late else 'too early'}")
    message.finish()
    if len(handled) == 4:
        print("\n".join(sorted(handled)), flush=True)
        tornado.ioloop.IOLoop.current().call_later(0.2, tornado.ioloop.IOLoop.current().stop)


def published(_, data):
    if isinstance(data, nsq.Error):
        sys.exit(f"not published: {data}")


def publish():
    if not writer.conns:
        return tornado.ioloop.IOLoop.current().call_later(0.05, publish)
    writer.pub(topic, b"one", callback=published)
    writer.mpub(topic, [b"two", b"requeued"], callback=published)
    writer.dpub(topic, 300, b"deferred", callback=published)


reader = nsq.Reader(topic=topic, channel="c", nsqd_tcp_addresses=[address], max_in_flight=4)


def asynchronous(message):
    message.enable_async()
    handle(message)


reader.set_message_handler(asynchronous)
writer = nsq.Writer([address])
tornado.ioloop.IOLoop.current().call_later(0.2, publish)
nsq.run()
