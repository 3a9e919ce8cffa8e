"""As much of an MQTT client as the story needs, by bytes."""

import socket

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
SUBSCRIBE, SUBACK, DISCONNECT = 8, 9, 14


def string(text):
    data = text.encode() if isinstance(text, str) else text
    return len(data).to_bytes(2, "big") + data


def packet(kind, flags, body):
    length = b""
    n = len(body)
    while True:
        n, low = n >> 7, n & 127
        length += bytes([low | (128 if n else 0)])
        if not n:
            return bytes([kind << 4 | flags]) + length + body


class Client:
    """A connection that has had its CONNACK.  Clean Start 0, no Session
    Expiry Interval, no keep-alive."""

    def __init__(self, port, name, will=None):
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        flags = 0 if will is None else 0x04
        body = string("MQTT") + bytes([5, flags, 0, 0, 0]) + string(name)
        if will is not None:
            body += b"\0" + string(will) + string("gone")
        self.send(CONNECT, 0, body)
        _, answer = self.expect(CONNACK)
        self.present = answer[0] == 1
        if answer[1] != 0:
            raise RuntimeError("CONNECT was answered with %#x" % answer[1])

    def send(self, kind, flags, body):
        self.socket.sendall(packet(kind, flags, body))

    def take(self, n):
        data = b""
        while len(data) < n:
            more = self.socket.recv(n - len(data))
            if not more:
                raise RuntimeError("the broker closed the connection")
            data += more
        return data

    def expect(self, kind):
        """The next packet, which has to be of this type: flags, body."""
        head = self.take(1)[0]
        length = shift = 0
        while True:
            byte = self.take(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        body = self.take(length)
        if head >> 4 != kind:
            raise RuntimeError("type %d came, not %d" % (head >> 4, kind))
        return head & 15, body

    def subscribe(self, topic_filter, qos):
        self.send(SUBSCRIBE, 2, b"\0\1\0" + string(topic_filter) + bytes([qos]))
        self.expect(SUBACK)

    def publish(self, topic, payload, qos=0, retain=False):
        """qos: 0 or 1, of which the PUBACK is awaited."""
        self.send(PUBLISH, qos << 1 | retain, string(topic) +
                  (b"\0\1" if qos else b"") + b"\0" +
                  (payload.encode() if isinstance(payload, str) else payload))
        if qos:
            self.expect(PUBACK)

    def acknowledge(self, identifier):
        self.send(PUBACK, 0, identifier.to_bytes(2, "big"))

    def message(self):
        """Topic and payload of the next PUBLISH, which is not acknowledged;
        its properties have fewer than 128 bytes."""
        flags, body = self.expect(PUBLISH)
        end = 2 + int.from_bytes(body[:2], "big")
        rest = end + (2 if flags & 6 else 0)
        return body[2:end].decode(), body[rest + 1 + body[rest]:].decode()

    def leave(self):
        self.send(DISCONNECT, 0, b"")
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        self.leave()
