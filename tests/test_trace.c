/*
 * test_trace.c - the trace of the server: each packet both ways, by its
 * fields and by its bytes; of one client only; within bounds; no secret.
 */
#include <stdio.h>
#include <string.h>

#include "bench.h"

/* Restarts the server with these options and keeps its trace from now on. */
static void trace_start(struct bench *t, int level, const char *client)
{
    t->options.trace = level;
    t->options.trace_client = client;
    bench_restart(t, 0);
    t->tracing = 1;
    t->trace.n = 0;
}

/* How many lines of the trace hold both texts. */
static int traced(const struct bench *t, const char *a, const char *b)
{
    const char *p = (const char *)t->trace.p, *end = p + t->trace.n;
    char line[4096];
    int lines = 0;

    while (p != NULL && p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        assert_non_null(stop);
        snprintf(line, sizeof line, "%.*s", (int)(stop - p), p);
        lines += strstr(line, a) != NULL && strstr(line, b) != NULL;
        p = stop + 1;
    }
    return lines;
}

/* Exactly this many lines hold both texts. */
#define TRACED(t, count, a, b) assert_int_equal(traced(t, a, b), count)

/* No two bytes of this text in a row, nor their hexadecimal. */
static void untraced(struct bench *t, const char *secret)
{
    buf_add(&t->trace, "", 1);
    for (size_t i = 0; secret[i + 1] != '\0'; i++) {
        char pair[3] = {secret[i], secret[i + 1], '\0'}, hex[8];
        snprintf(hex, sizeof hex, "%02X %02X", (unsigned)pair[0],
                 (unsigned)pair[1]);
        if (strstr((char *)t->trace.p, pair) != NULL ||
            strstr((char *)t->trace.p, hex) != NULL)
            fail_msg("%s is shown:\n%s", pair, (char *)t->trace.p);
    }
    t->trace.n = 0;
}

/* ---- lines -------------------------------------------------------------- */

/* All 15 packet types, each way that they go; an AUTH ends its connection. */
static void test_all_packets(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *a, *b;
    uint16_t id;

    trace_start(t, 1, NULL);
    a = bench_meet(t, "connect c1 id=a user=u pass=p");
    b = bench_meet(t, "connect c1 id=b");
    bench_say(a, "subscribe #1 s/+,q2");
    bench_hear(a, "suback #1 02");
    bench_say(b, "publish q1 #5 s/1 =one up=k:v");
    bench_hear(b, "puback #5 *");
    id = bench_hear(a, "publish q1 #* s/1 =one up=k:v");
    bench_say(a, "puback #%u", id);
    bench_say(b, "publish q2 #6 s/2 =two");
    bench_hear(b, "pubrec #6 *");
    bench_say(b, "pubrel #6");
    bench_hear(b, "pubcomp #6 *");
    id = bench_hear(a, "publish q2 #* s/2 =two");
    bench_say(a, "pubrec #%u", id);
    bench_hear(a, "pubrel #* *");
    bench_say(a, "pubcomp #%u", id);
    bench_say(a, "unsubscribe #2 s/+");
    bench_hear(a, "unsuback #2 00");
    bench_say(a, "pingreq");
    bench_hear(a, "pingresp");
    bench_say(a, "disconnect 00");
    bench_end(a, "");
    bench_say(b, "auth 18 am=name");
    bench_end(b, "disconnect 82 *");

    TRACED(t, 1, "< ", " \"a\" CONNECT Clean Start=1 Keep Alive=0 "
                       "Client Identifier=\"a\" User Name=\"u\" "
                       "Password=(hidden)");
    TRACED(t, 1, "> ", " \"a\" CONNACK Session Present=0 Reason Code=0x00 "
                       "(Success) ");
    TRACED(t, 1, "< ", " \"a\" SUBSCRIBE Packet Identifier=1 "
                       "Topic Filter=\"s/+\" QoS=2 No Local=0");
    TRACED(t, 1, "> ", " \"a\" SUBACK Packet Identifier=1 Reason Code=0x02 "
                       "(Granted QoS 2)");
    TRACED(t, 1, "< ", " \"b\" PUBLISH DUP=0 QoS=1 RETAIN=0 "
                       "Packet Identifier=5 Topic Name=\"s/1\" "
                       "User Property=\"k\":\"v\" Payload(3)=\"one\"");
    TRACED(t, 1, "> ", " \"a\" PUBLISH DUP=0 QoS=1 ");
    TRACED(t, 1, "> ", " \"b\" PUBACK Packet Identifier=5 ");
    TRACED(t, 1, "< ", " \"a\" PUBACK ");
    TRACED(t, 1, "> ", " \"b\" PUBREC Packet Identifier=6 ");
    TRACED(t, 1, "< ", " \"a\" PUBREC ");
    TRACED(t, 1, "< ", " \"b\" PUBREL Packet Identifier=6 ");
    TRACED(t, 1, "> ", " \"a\" PUBREL ");
    TRACED(t, 1, "> ", " \"b\" PUBCOMP Packet Identifier=6 ");
    TRACED(t, 1, "< ", " \"a\" PUBCOMP ");
    TRACED(t, 1, "< ", " \"a\" UNSUBSCRIBE Packet Identifier=2 "
                       "Topic Filter=\"s/+\"");
    TRACED(t, 1, "> ", " \"a\" UNSUBACK Packet Identifier=2 Reason Code=0x00 "
                       "(Success)");
    TRACED(t, 1, "< ", " \"a\" PINGREQ");
    TRACED(t, 1, "> ", " \"a\" PINGRESP");
    TRACED(t, 1, "< ", " \"a\" DISCONNECT Reason Code=0x00 "
                       "(Normal disconnection)");
    TRACED(t, 1, "< ", " \"b\" AUTH Reason Code=0x18 ");
    TRACED(t, 1, "> ", " \"b\" DISCONNECT Reason Code=0x82 "
                       "(Protocol Error) Reason String=\"MQTT-4.12.0-7: ");
    TRACED(t, 0, "    ", ""); /* no bytes at level 1 */
}

static void test_off(void **state)
{
    struct bench *t = (struct bench *)*state;

    trace_start(t, 0, NULL);
    bench_meet(t, "connect c1 id=a");
    assert_int_equal(t->trace.n, 0);
}

/* Level 2: the bytes, both ways; a payload is cut. */
static void test_bytes(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *a;

    trace_start(t, 2, NULL);
    a = bench_meet(t, "connect c1 id=a");
    bench_say(a, "publish q1 #258 t =*300");
    bench_hear(a, "puback #258 *");
    TRACED(t, 1, "    00 04 4D 51 54 54   Protocol Name \"MQTT\"",
           "(3.1.2.1)");
    TRACED(t, 1, "    00 01 61            Client Identifier \"a\"",
           "(3.1.3.1)");
    TRACED(t, 1, "    00                  Reason Code 0x00 Success",
           "(3.2.2.2)");
    TRACED(t, 1, "    01 02               Packet Identifier 258",
           "(3.3.2.2)");
    TRACED(t, 1, "    01 02               Packet Identifier 258", "(2.2.1)");
    TRACED(t, 1, " ... 236 more  Payload of 300 bytes ", "(3.3.3)");
    TRACED(t, 4, "    78 78 78 78 78 78 78 78 78 78 78 78 78 78 78 78", "");
}

/* ---- what is wrong ------------------------------------------------------ */

static void test_malformed(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *a;

    trace_start(t, 2, NULL);
    a = bench_meet(t, "connect c1 id=a");
    bench_frame(a, 0x30, "00 01 23 00 68"); /* a topic of "#" */
    bench_end(a, "disconnect *");
    TRACED(t, 1, "< ", " \"a\" not accepted: MQTT-3.3.2-2: ");
    TRACED(t, 1, "    00 01 23            Topic Name \"#\"", "");
    a = bench_meet(t, "connect c1 id=a");
    bench_feed(a, "82 03 00 00 00");
    bench_end(a, "disconnect *");
    TRACED(t, 1, "< ", " \"a\" not accepted: MQTT-2.2.1-3: ");
    TRACED(t, 1, "    Topic Filter is missing", "(3.8.3)");
    a = bench_meet(t, "connect c1 id=a");
    bench_feed(a, "30 FF FF FF FF");
    bench_end(a, "disconnect *");
    TRACED(t, 1, "    30 FF FF FF FF      PUBLISH, Remaining Length is longer",
           "");
}

/* Larger than the server's Maximum Packet Size, of which a part is here. */
static void test_too_large(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *a;

    trace_start(t, 2, NULL);
    a = bench_meet(t, "connect c1 id=a");
    bench_feed(a, "30 80 80 40 00 01 74 00");
    bench_end(a, "disconnect 95 *");
    TRACED(t, 1, "< ", " \"a\" not accepted: MQTT-3.2.2-15: ");
    TRACED(t, 1, "cut here: 1048572 bytes are missing", "");
}

/* Not CONNECT; another version; a CONNECT that cannot be decoded. */
static void test_first_packet(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l;

    trace_start(t, 2, NULL);
    l = bench_link_open(t);
    bench_send(l, "GET / HTTP/1.1\r\n", 16);
    bench_end(l, "");
    TRACED(t, 1, "< ", " - not accepted: MQTT-3.1.0-1: the first packet is not "
                       "CONNECT (byte 0)");
    TRACED(t, 1, "    (hidden)            credentials may stand in these 14 "
                 "bytes", "");
    l = bench_link_open(t);
    l->raw = 1;
    bench_frame(l, 0x10, "00 04 4D 51 54 54 04 02 00 3C 00 01 63");
    TRACED(t, 1, "< ", " - not accepted: MQTT-3.1.2-2: an MQTT 3.1 or ");
    l = bench_link_open(t);
    bench_frame(l, 0x10, "00 04 4D 51 54 54 05 03 00 3C 00 00 01 63");
    bench_end(l, "connack 81 *");
    TRACED(t, 1, "< ", " - not accepted: MQTT-3.1.2-3: ");
    TRACED(t, 1, "    03                  Connect Flags: Clean Start, "
                 "reserved bit", "(3.1.2.3)");
    TRACED(t, 1, "> ", " - CONNACK Session Present=0 Reason Code=0x81 ");
}

/* ---- of one client ------------------------------------------------------ */

/* Its packets both ways and nobody else's; its new connection and the end of
 * the old one. */
static void test_one_client(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *a, *b;

    trace_start(t, 1, "a");
    b = bench_meet(t, "connect c1 id=b");
    bench_say(b, "pingreq");
    assert_int_equal(t->trace.n, 0);
    a = bench_meet(t, "connect c0 id=a");
    bench_say(a, "pingreq");
    bench_hear(a, "pingresp");
    TRACED(t, 1, "< ", "\"a\" CONNECT");
    TRACED(t, 1, "> ", "\"a\" CONNACK");
    TRACED(t, 1, "< ", "\"a\" PINGREQ");
    TRACED(t, 1, "> ", "\"a\" PINGRESP");
    t->trace.n = 0;
    bench_meet(t, "connect c0 id=a");
    bench_end(a, "disconnect 8e *");
    TRACED(t, 1, "< ", "\"a\" CONNECT");
    TRACED(t, 1, "> ", "\"a\" DISCONNECT Reason Code=0x8E");
    TRACED(t, 1, "> ", "\"a\" CONNACK Session Present=1");
    t->trace.n = 0;
    bench_say(b, "disconnect 00");
    assert_int_equal(t->trace.n, 0);
    TRACED(t, 0, "\"b\"", "");
}

/* A client whose identifier the server assigns is known from then on.  With
 * the same seed and clock a new server assigns the same one. */
static void test_assigned(void **state)
{
    struct bench *t = (struct bench *)*state;
    const struct bench_heard *h;
    char name[64] = "";
    struct bench_link *l;

    trace_start(t, 1, "a");
    l = bench_join(t, "connect c1");
    h = bench_next(l);
    assert_non_null(strstr(h->text, " aci="));
    assert_int_equal(sscanf(strstr(h->text, " aci="), " aci=%63s", name), 1);
    assert_int_equal(t->trace.n, 0);
    trace_start(t, 1, name);
    l = bench_meet(t, "connect c1");
    bench_say(l, "pingreq");
    TRACED(t, 1, "> ", "CONNACK");
    TRACED(t, 1, "< ", "PINGREQ");
    TRACED(t, 0, "< ", "CONNECT");
    t->trace.n = 0;
    l = bench_meet(t, "connect c1"); /* the next one is another */
    bench_say(l, "pingreq");
    assert_int_equal(t->trace.n, 0);
}

/* Nobody knows whose they were: shown where they fail. */
static void test_unknown_client(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l;

    trace_start(t, 1, "a");
    l = bench_link_open(t);
    bench_feed(l, "C0 00");
    bench_end(l, "");
    TRACED(t, 1, "< ", " - not accepted: MQTT-3.1.0-1: ");
    l = bench_link_open(t);
    bench_frame(l, 0x10, "00 04 4D 51 54 54 05 03 00 3C 00 00 01 63");
    bench_end(l, "connack 81 *");
    TRACED(t, 1, "< ", " - not accepted: MQTT-3.1.2-3: ");
    TRACED(t, 1, "> ", " - CONNACK ");
    t->trace.n = 0;
    l = bench_meet(t, "connect c1 id=b");
    bench_feed(l, "C1 00");
    bench_end(l, "disconnect 81 *");
    assert_int_equal(t->trace.n, 0);
    l = bench_link_open(t);
    bench_say(l, "connect c1 id=b am=none"); /* refused, but known */
    bench_end(l, "connack 8c *");
    assert_int_equal(t->trace.n, 0);
}

/* ---- bounds ------------------------------------------------------------- */

#define TURN_MAX (600 * 1024) /* bytes of trace that one turn may leave */

/* In one turn: more packets than the trace keeps, and one whose fields are
 * more than it keeps. */
static void test_bounds(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *a;
    struct buf many = {NULL, 0, 0, 0};
    uint8_t one[64];
    size_t n = bench_encode(one, sizeof one, "publish t =x");

    trace_start(t, 2, NULL);
    a = bench_meet(t, "connect c1 id=a");
    t->trace.n = 0;
    for (int i = 0; i < 5000; i++)
        buf_add(&many, one, n);
    t->held = 1;
    bench_send(a, many.p, many.n);
    bench_step(t, 0);
    assert_in_range(t->trace.n, TURN_MAX / 2, TURN_MAX);
    TRACED(t, 1, " more packets in one turn", "");
    t->held = 0;
    bench_turn(t);
    t->trace.n = many.n = 0;
    buf_add(&many, "\x30\x84\xF1\x04\x00\x01t\xFE\xF0\x04", 10);
    for (int i = 0; i < 80000 / 5; i++)
        buf_add(&many, "\x26\x00\x00\x00\x00", 5);
    many.p[1] = (uint8_t)((many.n - 4) & 0x7F) | 0x80;
    many.p[2] = (uint8_t)((many.n - 4) >> 7 & 0x7F) | 0x80;
    many.p[7] = (uint8_t)((many.n - 10) & 0x7F) | 0x80;
    many.p[8] = (uint8_t)((many.n - 10) >> 7 & 0x7F) | 0x80;
    bench_send(a, many.p, many.n);
    assert_in_range(t->trace.n, TURN_MAX / 2, TURN_MAX);
    TRACED(t, 1, "    ... ", " more bytes");
    TRACED(t, 1, "\"a\" PUBLISH", "...");
    bench_silent(a);
    buf_free(&many);
}

/* ---- secrets ------------------------------------------------------------ */

#define SECRET "Zq9#Kv7!"

/* The Password of a CONNECT, whole, changed in each byte and cut (with a next
 * packet behind), never shows; of an id that is nobody's, too. */
static void test_password(void **state)
{
    struct bench *t = (struct bench *)*state;
    uint8_t bytes[128], wrong[128];
    struct bench_link *l;
    size_t n = bench_encode(bytes, sizeof bytes,
                            "connect c1 id=a user=u pass=" SECRET);

    trace_start(t, 2, NULL);
    l = bench_link_open(t);
    bench_send(l, bytes, n);
    TRACED(t, 1, "    (hidden)            Password", "(3.1.3.6)");
    untraced(t, SECRET);
    for (size_t i = 0; i < n; i++)
        for (unsigned change = 1; change < 256; change <<= 1) {
            memcpy(wrong, bytes, n);
            wrong[i] ^= (uint8_t)change;
            l = bench_link_open(t);
            l->raw = 1;
            bench_send(l, wrong, n);
            bench_cut(l);
            untraced(t, SECRET);
        }
    l = bench_meet(t, "connect c1 id=b");
    bytes[n - 1 - sizeof SECRET] ^= 1; /* a wrong length, and not the first */
    bench_send(l, bytes, n);
    bench_end(l, "disconnect 81 *");
    TRACED(t, 1, "\"b\" not accepted", "");
    untraced(t, SECRET);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(test_all_packets),    BENCH_TEST(test_off),
        BENCH_TEST(test_bytes),          BENCH_TEST(test_malformed),
        BENCH_TEST(test_too_large),      BENCH_TEST(test_first_packet),
        BENCH_TEST(test_one_client),     BENCH_TEST(test_assigned),
        BENCH_TEST(test_unknown_client), BENCH_TEST(test_bounds),
        BENCH_TEST(test_password),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
