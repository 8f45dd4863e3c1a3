# A pynsq client that works with brokers: publish, defer, consume, touch, requeue, finish. Run by
# tests/broker_clients.rs as `python client.py MODE…`; a mode is a JSON object: address, topic and body, and for
# security ca, cert and key (files), secret, and compression (deflate or snappy). The modes run together; each prints
# what it handled, after its topic.
import json
import sys
import time

import nsq
import tornado.ioloop

loop = tornado.ioloop.IOLoop.current()
modes = [json.loads(mode) for mode in sys.argv[1:]]
unfinished = len(modes)


def security(mode):
    options = {"auth_secret": mode.get("secret")}
    if "ca" in mode:
        files = {"ca_certs": mode["ca"], "certfile": mode.get("cert"), "keyfile": mode.get("key")}
        options.update(tls_v1=True, tls_options={name: file for name, file in files.items() if file})
    if "compression" in mode:
        options[mode["compression"]] = True
    return options


def run(mode):
    topic, body = mode["topic"], mode["body"]
    handled = []

    def handle(message):
        global unfinished
        message.enable_async()
        name, rest = message.body.decode().split(":", 1)
        if name == "requeued" and message.attempts == 1:
            message.touch()
            message.requeue(time_ms=200, backoff=False)
            return
        late = name != "deferred" or time.time() - message.timestamp / 1e9 >= 0.3
        damaged = "" if rest == body else ", damaged"
        handled.append(f"{topic} {name} {message.attempts} {'in time' if late else 'too early'}{damaged}")
        message.finish()
        if len(handled) == 4:
            print("\n".join(sorted(handled)), flush=True)
            unfinished -= 1
            if unfinished == 0:
                loop.call_later(0.2, loop.stop)

    def published(_, data):
        if isinstance(data, nsq.Error):
            sys.exit(f"{topic}: not published: {data}")

    def publish():
        # a connection is usable after its upgrades, and AUTH
        if not any(conn.state == "CONNECTED" for conn in writer.conns.values()):
            return loop.call_later(0.05, publish)
        of = lambda name: f"{name}:{body}".encode()
        writer.pub(topic, of("one"), callback=published)
        writer.mpub(topic, [of("two"), of("requeued")], callback=published)
        writer.dpub(topic, 300, of("deferred"), callback=published)

    options = security(mode)
    nsq.Reader(
        topic=topic,
        channel="c",
        message_handler=handle,
        nsqd_tcp_addresses=[mode["address"]],
        max_in_flight=4,
        **options,
    )
    writer = nsq.Writer([mode["address"]], **options)
    loop.call_later(0.2, publish)


for mode in modes:
    run(mode)
nsq.run()
