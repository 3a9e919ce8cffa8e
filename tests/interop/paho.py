"""paho.py - the walkthrough's steps on python3-paho-mqtt.

    paho.py subscribe PORT ID QOS EXPIRY          subscribe, then leave
    paho.py publish   PORT QOS COUNT              publish, then leave
    paho.py receive   PORT ID QOS EXPIRY COUNT    resume, check, then leave
    paho.py present   PORT ID EXPIRY              print Session Present, 0 or 1

EXPIRY is a Session Expiry Interval in seconds, or - for none.  Messages are
numbered and have properties; `receive` demands each of them once, in order,
byte for byte, and then the message that it publishes itself as the end.
Status 0 = all as it should be, else one line says what is not.
"""
import queue
import sys

# This file has the package's name: its directory must not be searched.
sys.path.pop(0)

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

TOPIC = "sensor/temperature"
WAIT = 30


def fail(text):
    print("paho.py: " + text)
    sys.exit(1)


def payload(number):
    return ('{"temperature": 25.5, "number": %d}' % number).encode()


def properties(number):
    props = Properties(PacketTypes.PUBLISH)
    props.ContentType = "application/json"
    props.ResponseTopic = "answer/" + str(number)
    props.CorrelationData = b"\x00\xff" + str(number).encode()
    props.PayloadFormatIndicator = 1
    props.UserProperty = ("number", str(number))
    props.UserProperty = ("n\u00e4me", "twice")
    props.UserProperty = ("n\u00e4me", "twice")
    return props


class Client:
    """A connected client; what happens to it is waited for in `events`."""

    def __init__(self, port, name, expiry, clean):
        self.events = queue.Queue()
        kind = getattr(mqtt, "CallbackAPIVersion", None)
        first = (kind.VERSION1,) if kind else ()
        self.mqtt = mqtt.Client(*first, client_id=name, protocol=mqtt.MQTTv5)
        self.mqtt.on_connect = lambda c, u, flags, rc, props: \
            self.events.put(("connect", rc, flags["session present"]))
        self.mqtt.on_subscribe = lambda c, u, mid, codes, props: \
            self.events.put(("subscribe", codes[0].value))
        self.mqtt.on_message = lambda c, u, message: \
            self.events.put(("message", message))
        self.mqtt.max_queued_messages_set(0)
        self.mqtt.reconnect_delay_set(1, 1)
        props = Properties(PacketTypes.CONNECT)
        if expiry != "-":
            props.SessionExpiryInterval = int(expiry)
        self.mqtt.connect("127.0.0.1", port, clean_start=clean,
                          properties=props)
        self.mqtt.loop_start()
        event = self.await_event("connect")
        if event[1] != 0:
            fail("refused: %s" % event[1])
        self.present = event[2]

    def await_event(self, kind):
        while True:
            try:
                event = self.events.get(timeout=WAIT)
            except queue.Empty:
                fail("no %s in %d s" % (kind, WAIT))
            if event[0] == kind:
                return event

    def leave(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


def subscribe(port, name, qos, expiry):
    client = Client(int(port), name, expiry, False)
    client.mqtt.subscribe(TOPIC, int(qos))
    granted = client.await_event("subscribe")[1]
    if granted != int(qos):
        fail("granted %d" % granted)
    client.leave()


def publish(port, qos, count):
    client = Client(int(port), "paho-publisher", "600", False)
    infos = [client.mqtt.publish(TOPIC, payload(i), int(qos),
                                 properties=properties(i))
             for i in range(1, int(count) + 1)]
    for info in infos:
        info.wait_for_publish()
    client.leave()


def receive(port, name, qos, expiry, count):
    client = Client(int(port), name, expiry, False)
    if not client.present:
        fail("no session present")
    for number in range(1, int(count) + 1):
        message = client.await_event("message")[1]
        if message.payload != payload(number):
            fail("expected %d, got %r" % (number, message.payload))
        if message.topic != TOPIC or message.qos != int(qos):
            fail("%s at QoS %d" % (message.topic, message.qos))
        if message.properties.json() != properties(number).json():
            fail("properties differ: %s" % message.properties.json())
    client.mqtt.publish(TOPIC, b"end", int(qos))
    message = client.await_event("message")[1]
    if message.payload != b"end":
        fail("one too many: %r" % message.payload)
    client.leave()


def present(port, name, expiry):
    client = Client(int(port), name, expiry, False)
    print(int(client.present))
    client.leave()


if __name__ == "__main__":
    {"subscribe": subscribe, "publish": publish,
     "receive": receive, "present": present}[sys.argv[1]](*sys.argv[2:])
