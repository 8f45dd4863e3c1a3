// An nsqjs client that works with a broker: publish, defer, consume, touch, requeue, finish. Prints what it handled; run by tests/broker_clients.rs as
// `node client.js HOST:PORT TOPIC`.
const nsq = require('nsqjs')

const [address, topic] = process.argv.slice(2)
const [host, port] = address.split(':')
const handled = []

const reader = new nsq.Reader(topic, 'c', { nsqdTCPAddresses: [address], maxInFlight: 4 })
reader.on('message', (message) => {
  const body = message.body.toString()
  if (body === 'requeued' && message.attempts === 1) {
    message.touch()
    message.requeue(200, false)
    return
  }
  const late = body !== 'deferred' || Date.now() - Number(message.timestamp) / 1e6 >= 300
  handled.push(`${body} ${message.attempts} ${late ? 'in time' : 'too early'}`)
  message.finish()
  if (handled.length === 4) {
    console.log(handled.sort().join('\n'))
    setTimeout(() => process.exit(0), 200)
  }
})
reader.connect()

const writer = new nsq.Writer(host, Number(port))
const check = (error) => {
  if (error) {
    console.error(`not published: ${error.message}`)
    process.exit(1)
  }
}
writer.on('ready', () => {
  writer.publish(topic, 'one', check)
  writer.publish(topic, ['two', 'requeued'], check)
  writer.deferPublish(topic, ['deferred'], 300, check)
})
writer.connect()
