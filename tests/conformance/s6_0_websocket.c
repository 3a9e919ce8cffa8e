/*
 * s6_0_websocket.c - 6 WebSocket.
 *
 * Looked for on the broker's own port: a connection that begins with an HTTP
 * request.  The frames are those of RFC 6455; what its section 1.3 has the
 * client check of the answer is not MQTT's and is not looked at.
 */
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "notation.h"
#include "run.h"

enum opcode { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8 };

struct web {
    struct test *test;
    int fd;
    int ended;
    char head[2000];   /* the answer to the request */
    struct buf in;     /* bytes not yet taken for frames */
    struct buf stream; /* what the frames held: MQTT packets */
    int inside;        /* 1 = a message's last frame is still to come */
};

/* ---- bytes -------------------------------------------------------------- */

/* Reads what comes until the deadline; 0 = nothing more. */
static int web_read(struct web *w, uint64_t deadline)
{
    struct pollfd one = {w->fd, POLLIN, 0};
    uint64_t at = now();

    if (w->ended || at >= deadline || poll(&one, 1, (int)(deadline - at)) <= 0)
        return 0;
    ssize_t n = recv(w->fd, buf_room(&w->in, 4096), 4096, 0);
    if (n <= 0)
        w->ended = 1;
    else
        w->in.n += (size_t)n;
    return n > 0;
}

static void web_write(struct web *w, const uint8_t *bytes, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(w->fd, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return; /* the end: what is read will tell */
        bytes += sent;
        n -= (size_t)sent;
    }
}

/* ---- the handshake ------------------------------------------------------ */

/* The head of the answer, cut off from what follows it; 0 = none came. */
static int head_take(struct web *w)
{
    uint64_t deadline = now() + 1000;

    do
        for (size_t i = 0; i + 4 <= w->in.n; i++)
            if (memcmp(w->in.p + i, "\r\n\r\n", 4) == 0 &&
                i + 2 < sizeof w->head) {
                memcpy(w->head, w->in.p, i + 2);
                buf_take(&w->in, i + 4);
                return 1;
            }
    while (web_read(w, deadline));
    return 0;
}

/* Asks for WebSocket and these subprotocols (NULL: names none); 1 = the answer
 * is 101. */
static int web_open(struct web *w, struct test *t, const char *protocols)
{
    char request[600];

    memset(w, 0, sizeof *w);
    w->test = t;
    w->fd = socket_open(t->setup);
    check(t, w->fd >= 0, "no connection");
    int n = snprintf(request, sizeof request,
                     "GET /mqtt HTTP/1.1\r\n"
                     "Host: %.100s:%.10s\r\n"
                     "Upgrade: websocket\r\n"
                     "Connection: Upgrade\r\n"
                     "Sec-WebSocket-Key: Y29uZm9ybWFuY2UtdGVzdA==\r\n"
                     "Sec-WebSocket-Version: 13\r\n"
                     "%s%.100s%s\r\n",
                     t->setup->host, t->setup->port,
                     protocols == NULL ? "" : "Sec-WebSocket-Protocol: ",
                     protocols == NULL ? "" : protocols,
                     protocols == NULL ? "" : "\r\n");
    story_add(t, NULL, ">", request);
    web_write(w, (const uint8_t *)request, (size_t)n);
    int came = head_take(w);
    story_add(t, NULL, "<", w->head);
    return came && strncmp(w->head, "HTTP/1.1 101", 12) == 0;
}

static void web_need(struct web *w, struct test *t)
{
    if (!web_open(w, t, "mqtt"))
        not_offered(t, "no WebSocket on this port");
}

/* The subprotocol that the broker selected, or "". */
static const char *web_protocol(const struct web *w)
{
    static char value[100];
    const char *name = "Sec-WebSocket-Protocol:";

    for (const char *line = w->head; line != NULL; line = strchr(line, '\n')) {
        line += line[0] == '\n';
        if (strncasecmp(line, name, strlen(name)) != 0)
            continue;
        line += strlen(name);
        snprintf(value, sizeof value, "%s", line + strspn(line, " \t"));
        value[strcspn(value, " \t\r\n")] = '\0';
        return value;
    }
    return "";
}

/* ---- frames ------------------------------------------------------------- */

/* One whole message of at most 125 bytes, masked as a client's must be. */
static void frame_send(struct web *w, enum opcode opcode, const uint8_t *bytes,
                       size_t n)
{
    static const uint8_t mask[4] = {0x4D, 0x51, 0x54, 0x35};
    uint8_t frame[6 + 125];

    check(w->test, n <= 125, "the test's frame is too long");
    frame[0] = (uint8_t)(0x80 | opcode);
    frame[1] = (uint8_t)(0x80 | n);
    memcpy(frame + 2, mask, 4);
    for (size_t i = 0; i < n; i++)
        frame[6 + i] = (uint8_t)(bytes[i] ^ mask[i % 4]);
    story_add(w->test, NULL, ">", opcode == BINARY ? "(binary)" : "(text)");
    story_bytes(w->test, bytes, n, MQTT_FROM_CLIENT);
    web_write(w, frame, 6 + n);
}

/* A broker's frame is not masked; none of those here is longer than 64 KiB. */
static int frame_take(struct web *w, unsigned *first, struct buf *payload)
{
    const uint8_t *p = w->in.p;
    size_t head = 2, n;

    if (w->in.n < 4 && (w->in.n < 2 || p[1] >= 126))
        return 0;
    n = p[1];
    if (n >= 126) {
        check(w->test, n == 126, "a frame that is masked, or too long");
        n = (size_t)p[2] << 8 | p[3];
        head = 4;
    }
    if (w->in.n < head + n)
        return 0;
    *first = p[0];
    buf_take(payload, payload->n);
    buf_add(payload, p + head, n);
    buf_take(&w->in, head + n);
    return 1;
}

/* Takes one frame's payload to the stream; 0 = the end, or nothing came. */
static int frame_hear(struct web *w)
{
    uint64_t deadline = now() + WAIT;
    struct buf payload = {NULL, 0, 0, 0};
    unsigned first = 0;

    while (!frame_take(w, &first, &payload))
        if (!web_read(w, deadline))
            return 0;
    unsigned opcode = first & 0x0F;
    if (opcode == CLOSE)
        w->ended = 1;
    if (opcode < CLOSE) {
        check(w->test, opcode == (w->inside ? CONTINUATION : BINARY),
              "a data frame with opcode %u", opcode);
        w->inside = (first & 0x80) == 0;
        if (payload.n > 0)
            buf_add(&w->stream, payload.p, payload.n);
    }
    buf_free(&payload);
    return opcode != CLOSE;
}

/* ---- MQTT in them ------------------------------------------------------- */

static void packet_add(struct web *w, struct buf *out, const char *format, ...)
{
    struct draft d;
    va_list args;

    va_start(args, format);
    char *words = words_expand(w->test, format, args);
    va_end(args);
    draft_parse(&d, words);
    draft_encode(&d, out);
    draft_free(&d);
    free(words);
}

/* CONNECT, with the credentials that the suite was given. */
static void connect_add(struct web *w, struct buf *out)
{
    const struct setup *s = w->test->setup;

    packet_add(w, out, "connect c1 id=~a%s%s%s%s",
               s->user == NULL ? "" : " user=", s->user == NULL ? "" : s->user,
               s->password == NULL ? "" : " pass=",
               s->password == NULL ? "" : s->password);
}

/* The next packet is of this type. */
static void packet_hear(struct web *w, uint8_t type)
{
    enum mqtt_frame found;
    struct mqtt_error err;
    size_t size = 0;

    for (;;) {
        found = mqtt_frame_find(w->stream.p, w->stream.n, 65536,
                                MQTT_FROM_SERVER, &size, &err);
        if (found != MQTT_FRAME_MORE)
            break;
        check(w->test, frame_hear(w), "no %s comes", mqtt_type_name(type));
    }
    check(w->test, found == MQTT_FRAME_COMPLETE, "no MQTT packet");
    check(w->test, w->stream.p[0] >> 4 == type, "%s, not %s",
          mqtt_type_name(w->stream.p[0] >> 4), mqtt_type_name(type));
    buf_take(&w->stream, size);
}

/* A close frame or the end, and no packet before it. */
static void closed(struct web *w)
{
    while (frame_hear(w))
        ;
    check(w->test, w->ended, "the broker does not close the connection");
    check(w->test, w->stream.n == 0, "it answers a packet instead of closing");
}

/* ---- tests -------------------------------------------------------------- */

static void test_mqtt_6_0_0_1_other_frames_close(struct test *t)
{
    struct buf out = {NULL, 0, 0, 0};
    struct web w;

    web_need(&w, t);
    connect_add(&w, &out);
    frame_send(&w, TEXT, out.p, out.n);
    closed(&w);
}

/* frame_hear() looks at the opcode of each frame. */
static void test_mqtt_6_0_0_1_the_brokers_frames_are_binary(struct test *t)
{
    struct buf out = {NULL, 0, 0, 0};
    struct web w;

    web_need(&w, t);
    connect_add(&w, &out);
    frame_send(&w, BINARY, out.p, out.n);
    packet_hear(&w, MQTT_CONNACK);
    buf_take(&out, out.n);
    packet_add(&w, &out, "pingreq");
    frame_send(&w, BINARY, out.p, out.n);
    packet_hear(&w, MQTT_PINGRESP);
}

static void test_mqtt_6_0_0_2_one_byte_a_frame(struct test *t)
{
    struct buf out = {NULL, 0, 0, 0};
    struct web w;

    web_need(&w, t);
    connect_add(&w, &out);
    for (size_t i = 0; i < out.n; i++)
        frame_send(&w, BINARY, out.p + i, 1);
    packet_hear(&w, MQTT_CONNACK);
}

static void test_mqtt_6_0_0_2_many_packets_in_a_frame(struct test *t)
{
    struct buf out = {NULL, 0, 0, 0};
    struct web w;

    web_need(&w, t);
    connect_add(&w, &out);
    frame_send(&w, BINARY, out.p, out.n);
    packet_hear(&w, MQTT_CONNACK);
    buf_take(&out, out.n);
    packet_add(&w, &out, "subscribe #1 ~/a");
    packet_add(&w, &out, "publish =x ~/a");
    packet_add(&w, &out, "unsubscribe #2 ~/a");
    frame_send(&w, BINARY, out.p, out.n);
    packet_hear(&w, MQTT_SUBACK);
    packet_hear(&w, MQTT_PUBLISH);
    packet_hear(&w, MQTT_UNSUBACK);
}

/* A client that does not offer mqtt: the broker may refuse it, or select
 * nothing; but no name that was not offered, nor one that is not mqtt. */
static void test_mqtt_6_0_0_3_without_mqtt_nothing_is_selected(struct test *t)
{
    static const char *const wrong[] = {NULL, "conformance", "mqtt2, amqp"};
    struct web w;

    web_need(&w, t);
    for (size_t i = 0; i < COUNT(wrong); i++)
        if (web_open(&w, t, wrong[i]))
            check(t, web_protocol(&w)[0] == '\0', "the broker selects %s",
                  web_protocol(&w));
}

static void test_mqtt_6_0_0_4_the_broker_selects_mqtt(struct test *t)
{
    static const char *const offers[] = {"mqtt", "conformance, mqtt",
                                         "mqtt, conformance"};
    struct web w;

    web_need(&w, t);
    for (size_t i = 0; i < COUNT(offers); i++) {
        check(t, web_open(&w, t, offers[i]), "%s is refused", offers[i]);
        check(t, strcmp(web_protocol(&w), "mqtt") == 0,
              "of %s the broker selects \"%s\"", offers[i], web_protocol(&w));
    }
}

static const struct test_case cases[] = {
    TEST(test_mqtt_6_0_0_1_other_frames_close),
    TEST(test_mqtt_6_0_0_1_the_brokers_frames_are_binary),
    TEST(test_mqtt_6_0_0_2_one_byte_a_frame),
    TEST(test_mqtt_6_0_0_2_many_packets_in_a_frame),
    TEST(test_mqtt_6_0_0_3_without_mqtt_nothing_is_selected),
    TEST(test_mqtt_6_0_0_4_the_broker_selects_mqtt),
};

const struct section section_6_0 = SECTION("6 WebSocket", cases);
