// An nsqjs client that works with brokers: publish, defer, consume, touch, requeue, finish. Run by
// tests/broker_clients.rs as `node client.js MODE…`; a mode is a JSON object: address, topic and body, and for
// security ca, cert and key (files), secret, and compression (deflate or snappy). The modes run together; each
// prints what it handled, after its topic.
const fs = require('fs')
const nsq = require('nsqjs')

const security = ({ ca, cert, key, secret, compression }) => ({
  ...(ca && { tls: true, ca: fs.readFileSync(ca) }),
  ...(cert && { cert: fs.readFileSync(cert), key: fs.readFileSync(key) }),
  ...(secret && { authSecret: secret }),
  ...(compression && { [compression]: true }),
})

const run = (mode) => new Promise((resolve) => {
  const { address, topic } = mode
  const [host, port] = address.split(':')
  const fail = (error) => {
    console.error(`${topic}: ${error.message}`)
    process.exit(1)
  }
  const handled = []
  const reader = new nsq.Reader(topic, 'c', { nsqdTCPAddresses: [address], maxInFlight: 4, ...security(mode) })
  reader.on('error', fail)
  reader.on('message', (message) => {
    const [name, ...rest] = message.body.toString().split(':')
    if (name === 'requeued' && message.attempts === 1) {
      message.touch()
      message.requeue(200, false)
      return
    }
    // Date.now() is cut to whole milliseconds
    const late = name !== 'deferred' || Date.now() + 1 - Number(message.timestamp) / 1e6 >= 300
    const whole = rest.join(':') === mode.body
    handled.push(`${topic} ${name} ${message.attempts} ${late ? 'in time' : 'too early'}${whole ? '' : ', damaged'}`)
    message.finish()
    if (handled.length === 4) {
      console.log(handled.sort().join('\n'))
      setTimeout(resolve, 200)
    }
  })
  reader.connect()

  const writer = new nsq.Writer(host, Number(port), security(mode))
  const check = (error) => error && fail(error)
  writer.on('error', fail)
  writer.on('ready', () => {
    writer.publish(topic, `one:${mode.body}`, check)
    writer.publish(topic, [`two:${mode.body}`, `requeued:${mode.body}`], check)
    writer.deferPublish(topic, [`deferred:${mode.body}`], 300, check)
  })
  writer.connect()
})

Promise.all(process.argv.slice(2).map((mode) => run(JSON.parse(mode)))).then(() => process.exit(0))
