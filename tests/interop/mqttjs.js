/*
 * mqttjs.js - the walkthrough's three steps on npm's `mqtt`.
 *
 *     mqttjs.js subscribe PORT ID QOS EXPIRY        subscribe, then leave
 *     mqttjs.js publish   PORT QOS COUNT            publish, then leave
 *     mqttjs.js receive   PORT ID QOS EXPIRY COUNT  resume, check, then leave
 *
 * EXPIRY is a Session Expiry Interval in seconds, or - for none.  Messages
 * are numbered and have properties; `receive` demands each of them once, in
 * order, byte for byte, and then the message that it publishes itself as the
 * end.  Status 0 = all as it should be, else one line says what is not.
 */
'use strict'

const mqtt = require('mqtt')

const TOPIC = 'sensor/temperature'
const WAIT = 30000

function fail (text) {
  console.log('mqttjs.js: ' + text)
  process.exit(1)
}

function payload (number) {
  return '{"temperature": 25.5, "number": ' + number + '}'
}

function properties (number) {
  return {
    payloadFormatIndicator: true,
    contentType: 'application/json',
    responseTopic: 'answer/' + number,
    correlationData: Buffer.concat([Buffer.from([0, 255]),
      Buffer.from(String(number))]),
    userProperties: { number: String(number), 'n\u00e4me': ['twice', 'twice'] }
  }
}

/* The properties as text, in an order of its own. */
function describe (props) {
  const user = props.userProperties || {}
  const correlation = Buffer.from(props.correlationData || '')
  return JSON.stringify([props.payloadFormatIndicator, props.contentType,
    props.responseTopic, correlation.toString('hex'),
    Object.keys(user).sort().map(key => [key, user[key]])])
}

function connect (port, id, expiry, reconnect) {
  const options = {
    host: '127.0.0.1',
    port: Number(port),
    protocolVersion: 5,
    clean: false,
    clientId: id,
    reconnectPeriod: reconnect ? 200 : 0,
    properties: {}
  }
  if (expiry !== '-') options.properties.sessionExpiryInterval = Number(expiry)
  const client = mqtt.connect(options)
  client.on('error', error => {
    if (!reconnect) fail(error.message)
  })
  setTimeout(() => fail('nothing more in ' + WAIT + ' ms'), WAIT).unref()
  return client
}

function leave (client) {
  client.end(false, {}, () => process.exit(0))
}

function subscribe (port, id, qos, expiry) {
  const client = connect(port, id, expiry, false)
  client.on('connect', () => {
    client.subscribe(TOPIC, { qos: Number(qos) }, (error, granted) => {
      if (error) fail(error.message)
      if (granted[0].qos !== Number(qos)) fail('granted ' + granted[0].qos)
      leave(client)
    })
  })
}

function publish (port, qos, count) {
  const client = connect(port, 'mqttjs-publisher', '600', true)
  let open = Number(count)
  let breaks = 0
  client.on('close', () => breaks++)
  client.once('connect', () => {
    for (let i = 1; i <= Number(count); i++) {
      const options = { qos: Number(qos), properties: properties(i) }
      client.publish(TOPIC, payload(i), options, error => {
        // The broker was killed after it had stored the PUBREL and before its
        // PUBCOMP left: to the PUBREL that is resent 0x92 is right, and no
        // error (3.7.2.1).  `receive` tells whether the message came once.
        const resent = error && error.code === 0x92 && breaks > 0
        if (error && !resent) fail(error.message)
        if (--open === 0) leave(client)
      })
    }
  })
}

function receive (port, id, qos, expiry, count) {
  const client = connect(port, id, expiry, false)
  let next = 1
  client.on('connect', ack => {
    if (!ack.sessionPresent) fail('no session present')
    if (Number(count) === 0) client.publish(TOPIC, 'end', { qos: Number(qos) })
  })
  client.on('message', (topic, message, packet) => {
    const text = message.toString()
    if (next > Number(count)) {
      if (text !== 'end') fail('one too many: ' + text)
      leave(client)
      return
    }
    if (text !== payload(next)) fail('expected ' + next + ', got ' + text)
    if (topic !== TOPIC || packet.qos !== Number(qos)) {
      fail(topic + ' at QoS ' + packet.qos)
    }
    if (describe(packet.properties) !== describe(properties(next))) {
      fail('properties differ: ' + describe(packet.properties))
    }
    if (++next > Number(count)) {
      client.publish(TOPIC, 'end', { qos: Number(qos) })
    }
  })
}

const commands = { subscribe, publish, receive }
commands[process.argv[2]](...process.argv.slice(3))
