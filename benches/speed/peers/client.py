# Publishes or consumes with pynsq, and prints messages a second: python client.py HOST:PORT publish|consume COUNT
import sys
import time

import nsq
import tornado.ioloop

address, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
loop = tornado.ioloop.IOLoop.current()
start = time.time()


def end():
    print(count / (time.time() - start), flush=True)
    loop.stop()


if what == "publish":
    batch = [b"x" * 200] * 200
    left = count

    def publish(*_):
        global left, start
        if not writer.conns:
            start = time.time()
            return loop.call_later(0.01, publish)
        if left <= 0:
            return end()
        left -= len(batch)
        writer.mpub("bench", batch, callback=publish)

    writer = nsq.Writer([address])
    loop.call_later(0.01, publish)
else:
    handled = 0

    def handle(message):
        global handled, start
        if handled == 0:
            start = time.time()
        handled += 1
        if handled == count:
            loop.call_later(0, end)
        return True

    nsq.Reader(topic="bench", channel="ch", nsqd_tcp_addresses=[address], max_in_flight=2500, message_handler=handle)
nsq.run()
