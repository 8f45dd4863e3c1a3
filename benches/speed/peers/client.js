// Publishes or consumes with nsqjs, and prints messages a second: node client.js HOST:PORT publish|consume COUNT
const nsq = require('nsqjs')

const [address, what, count] = process.argv.slice(2)
const [host, port] = address.split(':')
let start = Date.now()

const end = () => {
  console.log(count / ((Date.now() - start) / 1000))
  process.exit(0)
}

if (what === 'publish') {
  const batch = new Array(200).fill('x'.repeat(200))
  const writer = new nsq.Writer(host, Number(port))
  let left = Number(count)
  const publish = (error) => {
    if (error) throw error
    if (left <= 0) return end()
    left -= batch.length
    writer.publish('bench', batch, publish)
  }
  writer.on('ready', () => {
    start = Date.now()
    publish()
  })
  writer.connect()
} else {
  const reader = new nsq.Reader('bench', 'ch', { nsqdTCPAddresses: [address], maxInFlight: 2500 })
  let handled = 0
  reader.on('message', (message) => {
    if (handled === 0) start = Date.now()
    handled += 1
    message.finish()
    if (handled === Number(count)) end()
  })
  reader.connect()
}
