// The npm ws client against a gateway: node client.cjs SCENARIO ws://ADDRESS
// It exits 0 when everything was as it should be. For the drain it says "connected" when the
// gateway may be told to stop.
'use strict'
const assert = require('node:assert/strict')
const { once } = require('node:events')
const WebSocket = require('ws')

const [scenario, gateway] = process.argv.slice(2)
const maxMessage = 64 * 1024

// Client queues what comes, so that nothing is missed between two awaits.
class Client {
  constructor(query = '', options = {}) {
    this.ws = new WebSocket(`${gateway}/ws/chat/${query}`, options)
    this.frames = []
    this.pings = []
    this.closed = new Promise(resolve => this.ws.on('close', (code, reason) => resolve({ code, reason: `${reason}` })))
    this.ws.on('error', err => { this.error = err })
    this.ws.on('upgrade', response => { this.headers = response.headers })
    this.ws.on('message', (data, binary) => {
      assert.equal(binary, false, 'the gateway speaks in text')
      this.frames.push(JSON.parse(data))
      this.ws.emit('frame')
    })
    this.ws.on('ping', data => { this.pings.push(data); this.ws.emit('pinged') })
  }

  async open() {
    await once(this.ws, 'open')
    this.welcome = await this.frame()
    return this
  }

  async frame() {
    while (this.frames.length === 0) {
      if (this.ws.readyState === WebSocket.CLOSED) throw new Error(`closed while a frame was awaited: ${this.error}`)
      await Promise.race([once(this.ws, 'frame'), this.closed])
    }
    return this.frames.shift()
  }

  async count(data, options) {
    this.ws.send(data, options)
    return (await this.frame()).count
  }

  async leave(code, total) {
    this.ws.close(code, 'leaving')
    assert.deepEqual(await this.frame(), { bye: true, total })
    assert.equal((await this.closed).code, code)
    assert.deepEqual(this.frames, [])
  }
}

const scenarios = {
  // With --app echo: what ws compresses comes back whole, whatever window it says that it has.
  async compressed() {
    const noise = require('node:crypto').randomBytes(3000)
    for (const clientMaxWindowBits of [true, 9]) {
      const ws = new WebSocket(`${gateway}/ws/chat/`, { perMessageDeflate: { threshold: 0, clientMaxWindowBits } })
      await once(ws, 'open')
      assert.match(ws.extensions, /^permessage-deflate/)
      for (const data of [Buffer.from('a'), Buffer.alloc(60000, 'abc'), noise, Buffer.alloc(0), Buffer.alloc(257, 'x')]) {
        ws.send(data)
        const [got] = await once(ws, 'message')
        assert.ok(data.equals(got), `${data.length} bytes came back as ${got.length}`)
      }
      ws.close(1000)
      assert.equal((await once(ws, 'close'))[0], 1000)
    }
    // A server window that the gateway does not have: the offer is declined, and all goes on
    // without.
    const plain = new WebSocket(`${gateway}/ws/chat/`, { perMessageDeflate: { serverMaxWindowBits: 10 } })
    await once(plain, 'open')
    assert.equal(plain.extensions, '')
    plain.send('x'.repeat(2000))
    assert.equal(`${(await once(plain, 'message'))[0]}`, 'x'.repeat(2000))
    plain.close()
    await once(plain, 'close')
  },

  // With --app echo, over wss://, one connection after the other: the second resumes the TLS
  // session.
  async tls() {
    for (let round = 0; round < 2; round++) {
      const ws = new WebSocket(`${gateway}/ws/chat/`, { servername: 'a.test', checkServerIdentity: () => undefined })
      await once(ws, 'open')
      const sizes = Array.from({ length: 200 }, (_, i) => i * 300)
      const got = []
      ws.on('message', data => { if (got.push(data.length) === sizes.length) ws.close(1000) })
      for (const size of sizes) ws.send('x'.repeat(size))
      assert.equal((await once(ws, 'close'))[0], 1000)
      assert.deepEqual(got, sizes)
    }
  },

  async count() {
    const c = await new Client().open()
    const id = c.headers['x-session-id']
    assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    assert.deepEqual(c.welcome, { session_id: id, count: 0, resumed: false })
    assert.equal(c.ws.extensions, '', 'ws offers compression, which the gateway does not take')

    assert.equal(await c.count('hello'), 1)
    assert.equal(await c.count(Buffer.from([0, 255, 254])), 2)
    assert.equal(await c.count(''), 3)
    assert.equal(await c.count('κόσμε 🌍'), 4)

    c.ws.send('in ', { fin: false })
    c.ws.ping('between fragments')
    c.ws.send('three ', { fin: false })
    c.ws.send('fragments', { fin: true })
    const [pong] = await once(c.ws, 'pong')
    assert.equal(`${pong}`, 'between fragments')
    assert.deepEqual(await c.frame(), { count: 5 })

    for (let i = 0; i < 500; i++) c.ws.send(`${i}`)
    for (let i = 0; i < 500; i++) assert.deepEqual(await c.frame(), { count: 6 + i })
    await c.leave(1000, 505)
  },

  async ping() {
    const c = await new Client().open()
    for (const payload of ['', 'x', 'y'.repeat(125)]) {
      c.ws.ping(payload)
      const [pong] = await once(c.ws, 'pong')
      assert.equal(`${pong}`, payload)
    }
    c.ws.pong('nobody asked') // is allowed, and not answered
    assert.equal(await c.count('hello'), 1)
    await c.leave(3000, 1)
  },

  async resume() {
    const first = await new Client().open()
    const id = first.headers['x-session-id']
    for (let i = 1; i <= 3; i++) assert.equal(await first.count('x'), i)
    first.ws.terminate() // no goodbye
    await first.closed

    const second = await new Client(`?session_id=${id}`).open()
    assert.deepEqual(second.welcome, { session_id: id, count: 3, resumed: true })
    assert.equal(second.headers['x-session-id'], id)
    assert.equal(await second.count('x'), 4)

    const both = await new Client(`?session_id=${id.toUpperCase()}`).open() // two at a time add up
    assert.deepEqual(both.welcome, { session_id: id, count: 4, resumed: true })
    assert.equal(await both.count('x'), 5)
    assert.equal(await second.count('x'), 6)
    await both.leave(1000, 6)
    await second.leave(1000, 6)

    const own = '00000000-0000-4000-8000-00000000000a' // a client may choose its own
    const third = await new Client(`?session_id=${own}`).open()
    assert.deepEqual(third.welcome, { session_id: own, count: 0, resumed: false })
    await third.leave(1000, 0)

    const bad = new Client('?session_id=42')
    await bad.closed
    assert.match(`${bad.error}`, /400/)
  },

  // With --heartbeat 2s.
  async heartbeat() {
    const quiet = await new Client('', { autoPong: false }).open()
    const c = await new Client().open()
    let last = 0
    for (let i = 0; i < 4; i++) { // longer than a silent client is borne with
      const { ts, ...rest } = await c.frame()
      assert.deepEqual(rest, {})
      assert.match(ts, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
      assert.ok(Date.parse(ts) > last, `${ts} is not later than the one before`)
      last = Date.parse(ts)
      if (c.pings.length <= i) await once(c.ws, 'pinged')
    }
    assert.equal((await quiet.closed).code, 1006, 'a client that answers no Ping is cut off')
    assert.ok(quiet.pings.length >= 1)
    assert.equal(c.ws.readyState, WebSocket.OPEN)
    c.ws.terminate()
  },

  async large() {
    const c = await new Client().open()
    assert.equal(await c.count('x'.repeat(maxMessage - 1)), 1)
    assert.equal(await c.count(Buffer.alloc(maxMessage)), 2)
    for (const over of [1, 10 * maxMessage]) {
      const c = await new Client().open()
      c.ws.send(Buffer.alloc(maxMessage + over))
      assert.equal((await c.closed).code, 1009)
      assert.deepEqual(c.frames, [])
    }
    const pieces = await new Client().open() // each fits, the message does not
    pieces.ws.send(Buffer.alloc(maxMessage), { fin: false })
    pieces.ws.send(Buffer.alloc(1), { fin: true })
    assert.equal((await pieces.closed).code, 1009)
    assert.equal(await c.count('and the first is still there'), 3)
    await c.leave(1000, 3)
  },

  async drain() {
    const clients = await Promise.all(Array.from({ length: 20 }, () => new Client().open()))
    for (const [i, c] of clients.entries()) {
      for (let n = 1; n <= i; n++) assert.equal(await c.count('x'), n)
    }
    console.log('connected')
    await Promise.all(clients.map(async (c, i) => {
      assert.deepEqual(await c.frame(), { bye: true, total: i })
      assert.equal((await c.closed).code, 1001)
      assert.deepEqual(c.frames, [])
    }))
  }
}

const patience = setTimeout(() => {
  console.error(`${scenario}: not over after 100 s`)
  process.exit(1)
}, 100_000)
scenarios[scenario]().then(() => clearTimeout(patience), err => {
  console.error(err)
  process.exit(1)
})
