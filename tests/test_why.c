/*
 * test_why.c - what the server says of what it refuses, ends and discards.
 *
 *   1. mistakes     of client authors: statement, Reason Code, byte
 *   2. refusals     that are no mistake of form, and those without an answer
 *   3. ends         of connections and of sessions
 *   4. discarded    messages and wills
 *   5. habits       legal, surprising, explained once
 *   6. floods       of lines
 *
 * A client is told in the Reason String what the log says, and the log says
 * all of it in one line:
 *
 *     client "m" 127.0.0.1:1: DISCONNECT 0x82 Protocol Error: <why>; ...
 *     <why> = MQTT-3.1.0-2: a second CONNECT on one connection (byte 0)
 *
 * The notation is that of bench.h.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* ---- 1. mistakes --------------------------------------------------------- */

struct mistake {
    const char *thought;   /* by its author */
    const char *before;    /* what the client says first, or NULL */
    const char *bytes;     /* the mistake: words, or else hexadecimal */
    const char *answer;    /* the packet that refuses it */
    const char *code;      /* its Reason Code as the log has it */
    const char *statement; /* the one that is broken */
    int byte;              /* at fault, from the packet's first; -1 = none */
};

#define JOIN "connect c1 id=m"

static const struct mistake mistakes[] = {
    {"MQIsdp is the protocol's name, as it ever was", NULL,
     "10 10 0006 4D5149736470 05 02 0000 00 0001 6D", "connack 84",
     "CONNACK 0x84 Unsupported Protocol Version", "MQTT-3.1.2-1", 2},
    {"bit 0 of the Connect Flags is Clean Start", NULL,
     "10 0E 0004 4D515454 05 03 0000 00 0001 6D", "connack 81",
     "CONNACK 0x81 Malformed Packet", "MQTT-3.1.2-3", 9},
    {"without a user the User Name can stay away", NULL,
     "10 0E 0004 4D515454 05 82 0000 00 0001 6D", "connack 81",
     "CONNACK 0x81 Malformed Packet", "MQTT-3.1.2-17", 16},
    {"a string has its NUL with it", NULL,
     "10 0F 0004 4D515454 05 02 0000 00 0002 6D00", "connack 81",
     "CONNACK 0x81 Malformed Packet", "MQTT-1.5.4-2", 16},
    {"every server has SCRAM", NULL, "connect c1 id=m am=SCRAM", "connack 8c",
     "CONNACK 0x8C Bad authentication method", "MQTT-4.12.0-1", 14},
    {"to connect anew, CONNECT is sent anew", JOIN, JOIN, "disconnect 82",
     "DISCONNECT 0x82 Protocol Error", "MQTT-3.1.0-2", 0},
    {"AUTH can be sent at any time", JOIN, "auth 18 am=x", "disconnect 82",
     "DISCONNECT 0x82 Protocol Error", "MQTT-4.12.0-7", 0},
    {"PUBLISH has no more fields than in MQTT 3.1.1", JOIN, "30 03 0001 61",
     "disconnect 81", "DISCONNECT 0x81 Malformed Packet", "MQTT-2.2.2-1", 5},
    {"a topic is Latin-1", JOIN, "30 07 0004 636166E9 00", "disconnect 81",
     "DISCONNECT 0x81 Malformed Packet", "MQTT-3.3.2-1", 7},
    {"counting identifiers begins at 0", JOIN, "32 06 0001 74 0000 00",
     "disconnect 82", "DISCONNECT 0x82 Protocol Error", "MQTT-2.2.1-3", 5},
    {"one PUBLISH can go to many topics", JOIN, "publish a/# =x",
     "disconnect 90", "DISCONNECT 0x90 Topic Name invalid", "MQTT-3.3.2-2", 6},
    {"the topic of the message before goes on", JOIN, "30 04 0000 00 78",
     "disconnect 82", "DISCONNECT 0x82 Protocol Error", "MQTT-4.7.3-1", 2},
    {"DUP marks a repeat at any QoS", JOIN, "38 04 0001 74 00",
     "disconnect 81", "DISCONNECT 0x81 Malformed Packet", "MQTT-3.3.1-2", 0},
    {"a length may have a fixed number of bytes", JOIN, "C0 80 00",
     "disconnect 81", "DISCONNECT 0x81 Malformed Packet", "MQTT-1.5.5-1", 1},
    {"aliases go up to 65,535", JOIN, "publish t ta=9 =x", "disconnect 94",
     "DISCONNECT 0x94 Topic Alias invalid", "MQTT-3.2.2-17", 7},
    {"an alias is still known after a reconnect", JOIN,
     "30 07 0000 03 23 0001 78", "disconnect 82",
     "DISCONNECT 0x82 Protocol Error", "MQTT-3.3.2-7", 6},
    {"a Subscription Identifier can be sent along", JOIN,
     "30 07 0001 74 02 0B01 78", "disconnect 82",
     "DISCONNECT 0x82 Protocol Error", "MQTT-3.3.4-6", 6},
    {"the low bits of PUBREL's first byte are 0", JOIN, "60 02 0001",
     "disconnect 81", "DISCONNECT 0x81 Malformed Packet", "MQTT-3.6.1-1", 0},
    {"the low bits of SUBSCRIBE's first byte are 0", JOIN,
     "80 07 0001 00 0001 74 00", "disconnect 81",
     "DISCONNECT 0x81 Malformed Packet", "MQTT-3.8.1-1", 0},
    {"an empty list of filters is still a list", JOIN, "82 03 0001 00",
     "disconnect 82", "DISCONNECT 0x82 Protocol Error", "MQTT-3.8.3-2", 5},
    {"# can stand in the middle", JOIN, "subscribe #1 ok a/#/b",
     "suback #1 00 8f", "SUBACK 0x8F Topic Filter invalid", "MQTT-4.7.1-1",
     14},
    {"+ is any end of a level", JOIN, "subscribe #1 a+", "suback #1 8f",
     "SUBACK 0x8F Topic Filter invalid", "MQTT-4.7.1-2", 8},
    {"a share is left by its name", JOIN, "unsubscribe #1 $share/g",
     "unsuback #1 8f", "UNSUBACK 0x8F Topic Filter invalid", "MQTT-4.8.2-2",
     15},
    {"No Local works in a share", JOIN, "subscribe #1 $share/g/t,nl",
     "disconnect 82", "DISCONNECT 0x82 Protocol Error", "MQTT-3.8.3-4", 17},
    {"a PUBREC needs no PUBLISH", JOIN, "pubrec #7", "pubrel #7 92",
     "PUBREL 0x92 Packet Identifier not found", "MQTT-2.2.1-5", 2},
    {"any code says that I leave", JOIN, "E0 01 8E", "disconnect 82",
     "DISCONNECT 0x82 Protocol Error", "MQTT-3.14.2-1", 2},
};

static void send_any(struct bench_link *l, const char *bytes)
{
    if (islower((unsigned char)bytes[0]))
        bench_say(l, "%s", bytes);
    else
        bench_feed(l, bytes);
}

/* The Reason String of a packet in the notation. */
static void reason_string(const char *text, char out[400])
{
    const char *p = strstr(text, " rs=");
    size_t n = 0;
    if (p == NULL)
        fail_msg("no Reason String: %s", text);
    for (p += 4; *p != '\0' && *p != ' ' && n < 399; p++) {
        unsigned byte = (unsigned char)*p;
        if (*p == '%') {
            assert_int_equal(sscanf(p + 1, "%2X", &byte), 1);
            p += 2;
        }
        out[n++] = (char)byte;
    }
    out[n] = '\0';
}

/* It names the statement, then says something, and the right byte last. */
static void reason_check(const struct mistake *m, const char *why)
{
    char byte[32];
    size_t n = strlen(m->statement);
    if (strncmp(why, m->statement, n) != 0 || strncmp(why + n, ": ", 2) != 0)
        fail_msg("%s: %s expected: %s", m->thought, m->statement, why);
    snprintf(byte, sizeof byte, " (byte %d)", m->byte);
    const char *end = strstr(why, " (byte ");
    if (m->byte < 0 ? end != NULL : end == NULL || strcmp(end, byte) != 0)
        fail_msg("%s: byte %d expected: %s", m->thought, m->byte, why);
    assert_true(strlen(why) > n + 12);
}

static void test_mistakes(void **state)
{
    struct bench *t = (struct bench *)*state;
    char why[400], line[600], pattern[60];
    for (size_t i = 0; i < COUNT(mistakes); i++) {
        const struct mistake *m = &mistakes[i];
        struct bench_link *l = bench_link_open(t);
        if (m->before != NULL) {
            bench_say(l, "%s", m->before);
            bench_hear(l, "connack 00*");
        }
        size_t said = t->log.n;
        send_any(l, m->bytes);
        snprintf(pattern, sizeof pattern, "%s *rs=*", m->answer);
        bench_hear(l, "%s", pattern);
        reason_string(l->taken->text, why);
        reason_check(m, why);
        snprintf(line, sizeof line, "\" 127.0.0.1:1: %s: %s", m->code, why);
        assert_int_equal(bench_logged(t, line), 1);
        assert_int_equal(memcmp(t->log.p + said, "client \"m", 9), 0);
        t->log.n = 0;
        bench_cut(l);
    }
}

/* ---- 2. refusals ----------------------------------------------------------
 *
 * From here on the lines are given whole, and all of them.  */

#define M(words) "client \"m\" 127.0.0.1:1: " words "\n"
#define NOBODY(words) "client - 127.0.0.1:1: " words "\n"
#define AWAY(words) "client \"m\": " words "\n"
#define ACCEPTED(words) M("CONNACK 0x00 Success: " words)

/* Takes the lines out that tell how a client kept its side (test_marks.c). */
static void marks_pass_over(struct buf *log)
{
    size_t kept = 0;
    buf_add(log, "", 1);
    for (char *line = (char *)log->p, *end; (end = strchr(line, '\n')) != NULL;
         line = end + 1) {
        *end = '\0';
        int marks = strstr(line, "of the client's side") != NULL;
        *end = '\n';
        if (marks)
            continue;
        memmove(log->p + kept, line, (size_t)(end + 1 - line));
        kept += (size_t)(end + 1 - line);
    }
    log->n = kept;
}

/* What was logged since the last call is this and nothing else. */
#define said(t, lines) said_at(__FILE__, __LINE__, t, lines)

static void said_at(const char *file, int line, struct bench *t,
                    const char *lines)
{
    size_t n = strlen(lines);
    marks_pass_over(&t->log);
    if (t->log.n != n || memcmp(t->log.p, lines, n) != 0) {
        print_error("expected:\n%slogged:\n%.*s", lines, (int)t->log.n,
                    t->log.n > 0 ? (const char *)t->log.p : "");
        _fail(file, line);
    }
    t->log.n = 0;
}

/* Connects without a habit; what that logs is for other tests. */
static struct bench_link *meet(struct bench *t, const char *words)
{
    struct bench_link *l = bench_meet(t, "%s ka=60", words);
    t->log.n = 0;
    return l;
}

static void test_mqtt_3_1_0_1_closed_before_connect(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_link_open(t);
    bench_feed(l, "C0 00");
    bench_end(l, "");
    said(t, NOBODY("closed: MQTT-3.1.0-1: the first packet is not CONNECT "
                   "(byte 0)"));
    l = bench_link_open(t);
    bench_feed(l, "16 03 01 02 00");
    bench_end(l, "");
    said(t, NOBODY("closed: MQTT-3.1.0-1: this looks like TLS, which the "
                   "server does not offer (byte 0)"));
    l = bench_link_open(t);
    bench_advance(t, t->options.connect_wait);
    bench_end(l, "");
    said(t, NOBODY("closed: no CONNECT in time (3.1.4)"));
    l = bench_link_open(t);
    bench_cut(l);
    said(t, NOBODY("the connection was lost before CONNECT"));
    l = bench_link_open(t);
    bench_feed(l, "10 0E 0004 4D51");
    bench_cut(l);
    said(t, NOBODY("the connection was lost before CONNECT, within a packet"));
    bench_link_open(t);
    bench_stop(t);
    said(t, NOBODY("closed: the server is shutting down"));
}

#define OLDER(byte)                                                            \
    NOBODY("closed: MQTT-3.1.2-2: an MQTT 3.1 or 3.1.1 client, answered in "   \
           "its own way (20 02 00 01); this server speaks MQTT 5.0 (byte "     \
           byte ")")

/* The version stands behind the name. */
static void test_mqtt_3_1_2_2_older_clients(void **state)
{
    struct bench *t = (struct bench *)*state;
    static const char *const connect[] = {
        "10 0D 0004 4D515454 04 02 003C 0001 6D",
        "10 0F 0006 4D5149736470 03 02 003C 0001 6D"};
    static const char *const line[] = {
        OLDER("8"), OLDER("10")};
    for (size_t i = 0; i < COUNT(connect); i++) {
        struct bench_link *l = bench_link_open(t);
        l->raw = 1;
        bench_feed(l, connect[i]);
        assert_true(l->ended);
        said(t, line[i]);
    }
}

/* A CONNECT that is refused although its form is right, or by its form where
 * no statement is on that form. */
static void test_mqtt_3_1_4_1_mqtt_3_1_4_2_connect_refused(void **state)
{
    struct bench *t = (struct bench *)*state;
    static const struct {
        const char *bytes, *answer, *line;
    } refused[] = {
        {"10 10 0004 4D515454 05 02 0000 02 7F00 0001 6D",
         "connack 81 sp=0 rs=MQTT-3.1.4-1:*",
         M("CONNACK 0x81 Malformed Packet: MQTT-3.1.4-1: there is no "
                "property of this identifier (byte 13)")},
        {"10 81 80 20 0004 4D515454 05", "connack 95 sp=0 rs=MQTT-3.1.4-2:*",
         NOBODY("CONNACK 0x95 Packet too large: MQTT-3.1.4-2: the CONNECT is "
                "larger than this server takes (byte 1)")},
        {"connect c1 id=m will q1 $SYS/x =gone",
         "connack 87 sp=0 rs=MQTT-3.1.4-2:*",
         M("CONNACK 0x87 Not authorized: MQTT-3.1.4-2: topics that "
                "begin with $SYS/ are the server's (byte 19)")},
        {"connect c1 id=m will q1 w =a%FF pfi=1",
         "connack 99 sp=0 rs=MQTT-3.1.4-2:*",
         M("CONNACK 0x99 Payload format invalid: MQTT-3.1.4-2: Payload "
                "Format Indicator 1, but the Will Payload is not UTF-8 "
                "(byte 25)")},
        {"connect c1 id=m will retain 1/2/3/4/5 =x",
         "connack 97 sp=0 rs=MQTT-3.1.4-2:*",
         M("CONNACK 0x97 Quota exceeded: MQTT-3.1.4-2: no room for "
                "another retained topic (byte 19)")},
    };
    t->options.topics_max = 3;
    bench_restart(t, 0);
    t->log.n = 0;
    for (size_t i = 0; i < COUNT(refused); i++) {
        struct bench_link *l = bench_link_open(t);
        send_any(l, refused[i].bytes);
        bench_end(l, "%s", refused[i].answer);
        said(t, refused[i].line);
    }
}

/* What a client's Maximum Packet Size leaves no room for. */
static void test_mqtt_3_1_2_24_answers_too_large(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_link_open(t);
    bench_say(l, "connect c1 id=m mps=10");
    bench_end(l, "");
    said(t, M("closed: MQTT-3.1.2-24: CONNACK is larger than the client's "
              "Maximum Packet Size; its session ends with it"));
    l = meet(t, "c1 id=m mps=20");
    bench_say(l, "subscribe #1 a b c d e f g h i j k l m n o p");
    bench_end(l, "disconnect 95");
    said(t, M("DISCONNECT 0x95 Packet too large: MQTT-3.1.2-24: the answer is "
              "larger than the client's Maximum Packet Size; its session ends "
              "with it"));
}

/* Where no single byte is at fault, none is named. */
static void test_mqtt_3_1_2_22_mqtt_3_3_4_7_no_byte(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m");
    for (int i = 1; i <= t->options.receive_max; i++) {
        bench_say(l, "publish q2 #%d t =x", i);
        bench_hear(l, "pubrec #%d *", i);
    }
    bench_say(l, "publish q2 #99 t =x");
    bench_end(l, "disconnect 93 rs=MQTT-3.3.4-7:*");
    said(t, M("DISCONNECT 0x93 Receive Maximum exceeded: MQTT-3.3.4-7: more "
              "QoS 1 and 2 messages than the server's Receive Maximum are "
              "unfinished; its session ends with it"));
    l = meet(t, "c1 id=m");
    bench_advance(t, 90000);
    bench_end(l, "disconnect 8d rs=MQTT-3.1.2-22:*");
    said(t, M("DISCONNECT 0x8D Keep Alive timeout: MQTT-3.1.2-22: no packet "
              "within one and a half times the Keep Alive; its session ends "
              "with it"));
}

static void test_mqtt_3_2_2_18_no_alias(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.alias_max = 0;
    bench_restart(t, 0);
    struct bench_link *l = meet(t, "c1 id=m");
    bench_say(l, "publish q1 #1 t mei=5 ta=1 =x");
    bench_end(l, "disconnect 94 rs=MQTT-3.2.2-18:*");
    said(t, M("DISCONNECT 0x94 Topic Alias invalid: MQTT-3.2.2-18: Topic "
              "Alias above the server's Topic Alias Maximum (byte 14); its "
              "session ends with it"));
}

/* 3.14.2.2.2 has no number. */
static void test_expiry_raised_from_0(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m");
    bench_say(l, "disconnect 00 x=5");
    bench_end(l, "disconnect 82 rs=Session*");
    said(t, M("DISCONNECT 0x82 Protocol Error: Session Expiry Interval raised "
              "from 0 in DISCONNECT (3.14.2.2.2) (byte 5); its session ends "
              "with it"));
}

#define SYS "topics that begin with $SYS/ are the server's (4.7.2) "
#define FORMAT "Payload Format Indicator 1, but the payload is not UTF-8 " \
               "(3.3.2.3.2) "

/* A message that is not taken; the topic may have come as an alias. */
static void test_publish_refused(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m");
    bench_say(l, "publish $SYS/x =no");
    bench_silent(l);
    said(t, M("PUBLISH 0x87 Not authorized: " SYS "(byte 4), \"$SYS/x\""));
    bench_say(l, "publish q1 #1 ta=1 $SYS/x =no");
    bench_hear(l, "puback #1 87 rs=topics*");
    said(t, M("PUBACK 0x87 Not authorized: " SYS "(byte 4), \"$SYS/x\""));
    bench_feed(l, "34 08 0000 0002 03 23 0001"); /* QoS 2, by the alias */
    bench_hear(l, "pubrec #2 87 rs=topics*");
    said(t, M("PUBREC 0x87 Not authorized: " SYS "(byte 8), \"$SYS/x\""));
    bench_say(l, "publish q1 #3 t pfi=1 =ab%%FF");
    bench_hear(l, "puback #3 99 rs=Payload*");
    said(t, M("PUBACK 0x99 Payload format invalid: " FORMAT
              "(byte 12), \"t\""));
    bench_say(l, "publish t pfi=1 =%%FF");
    bench_end(l, "disconnect 99 rs=Payload*");
    said(t, M("DISCONNECT 0x99 Payload format invalid: " FORMAT
              "(byte 8); its session ends with it"));
}

/* Request Problem Information 0 silences answers, not the log
 * [MQTT-3.1.2-29]. */
static void test_mqtt_3_1_2_29_no_problem_information(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m rpi=0");
    bench_say(l, "subscribe #1 a#");
    bench_hear(l, "suback #1 8f");
    said(t, M("SUBACK 0x8F Topic Filter invalid: MQTT-4.7.1-1: # must be the "
              "whole last level of a filter (byte 8), \"a#\""));
}

/* Each filter that is refused has its line; the Reason String is the first
 * one's. */
static void test_filters_refused(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.topics_max = 3;
    bench_restart(t, 0);
    struct bench_link *l = meet(t, "c1 id=m");
    bench_say(l, "subscribe #1 1/2/3/4 a+ b");
    bench_hear(l, "suback #1 97 8f 00 rs=no%%20room*");
    said(t, M("SUBACK 0x97 Quota exceeded: no room for another Topic Filter, "
              "\"1/2/3/4\"")
            M("SUBACK 0x8F Topic Filter invalid: MQTT-4.7.1-2: + must be a "
              "whole level of a filter (byte 18), \"a+\""));
    bench_say(l, "publish retain q1 #1 x/y/z =x");
    bench_hear(l, "puback #1 97 rs=no*");
    said(t, M("PUBACK 0x97 Quota exceeded: no room for another retained topic "
              "(byte 4), \"x/y/z\""));
}

#define NO_DELIVERY "no delivery that waits for this packet has its Packet " \
                    "Identifier (byte 2)"

static void test_mqtt_2_2_1_5_unknown_identifiers(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m");
    bench_say(l, "puback #7");
    said(t, M("PUBACK ignored: MQTT-2.2.1-5: " NO_DELIVERY
              ", Packet Identifier 7"));
    bench_say(l, "pubcomp #7");
    said(t, M("PUBCOMP ignored: " NO_DELIVERY ", Packet Identifier 7"));
    bench_say(l, "pubrec #8 80");
    said(t, M("PUBREC ignored: MQTT-2.2.1-5: " NO_DELIVERY
              ", Packet Identifier 8"));
    bench_silent(l);
    bench_say(l, "pubrel #7");
    bench_hear(l, "pubcomp #7 92 rs=no*");
    said(t, M("PUBCOMP 0x92 Packet Identifier not found: no QoS 2 message "
              "with this Packet Identifier is open; after a lost PUBCOMP that "
              "is no error (3.7.2.1) (byte 2), Packet Identifier 7"));
}

/* In a resumed session they may be about an earlier connection: nobody is to
 * blame. */
static void test_unknown_identifiers_in_a_resumed_session(void **state)
{
    struct bench *t = (struct bench *)*state;
    bench_cut(meet(t, "c1 id=m x=60"));
    struct bench_link *l = bench_link_open(t);
    bench_say(l, "connect c0 id=m x=60 ka=60");
    bench_hear(l, "connack 00 sp=1*");
    t->log.n = 0;
    bench_say(l, "puback #7");
    said(t, M("PUBACK ignored: " NO_DELIVERY ", Packet Identifier 7"));
    bench_say(l, "pubrec #8");
    bench_hear(l, "pubrel #8 92 rs=no%%20delivery*");
    said(t, M("PUBREL 0x92 Packet Identifier not found: " NO_DELIVERY
              ", Packet Identifier 8"));
}

static void test_mqtt_4_4_0_2_refused_by_the_client(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m");
    bench_say(l, "subscribe #1 t,q2");
    bench_hear(l, "suback*");
    bench_say(l, "publish q1 #5 t =x");
    bench_hear(l, "puback #5 00");
    bench_say(l, "puback #%u 97", bench_hear(l, "publish q1 *"));
    said(t, M("the client refuses a message with PUBACK 0x97 Quota exceeded "
              "[MQTT-4.4.0-2], Packet Identifier 1"));
    bench_say(l, "publish q2 #6 t =x");
    bench_hear(l, "pubrec #6 00");
    bench_say(l, "pubrec #%u 83", bench_hear(l, "publish q2 *"));
    said(t, M("the client refuses a message with PUBREC 0x83 Implementation "
              "specific error [MQTT-4.4.0-2], Packet Identifier 2"));
}

/* The disk has no room: what that refuses. */
static void test_disk_full(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *away = meet(t, "c1 id=away x=600");
    bench_say(away, "subscribe #1 big,q1");
    bench_hear(away, "suback*");
    bench_leave(away);
    struct bench_link *l = meet(t, "c1 id=m");
    t->room = 200000;
    for (int i = 0; i < 100; i++)
        bench_say(l, "publish big =*20000");
    assert_true(store_full(t->store));
    t->log.n = 0;
    bench_say(l, "publish q1 #1 t =x");
    bench_find(l, "puback #1 97 rs=the*");
    said(t, M("PUBACK 0x97 Quota exceeded: the server's disk is full, \"t\""));
    bench_say(l, "subscribe #1 t");
    bench_find(l, "suback #1 97 rs=the*");
    said(t, M("SUBACK 0x97 Quota exceeded: the server's disk is full, \"t\""));
    bench_say(l, "publish big =x");
    said(t, "client \"away\": message on \"big\" discarded: QoS 0, the disk "
            "is full\n");
    l = bench_link_open(t);
    bench_say(l, "connect c0 id=new");
    bench_end(l, "connack 97 sp=0 rs=MQTT-3.1.4-2:*");
    said(t, "client \"new\" 127.0.0.1:1: CONNACK 0x97 Quota exceeded: "
            "MQTT-3.1.4-2: the server's disk is full\n");
}

/* ---- 3. ends --------------------------------------------------------------
 */

static void test_accepted(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.keep_alive_max = 100;
    bench_restart(t, 0);
    t->log.n = 0;
    struct bench_link *l = bench_meet(t, "c1 id=m ka=60");
    said(t, ACCEPTED("a new session; Session Expiry Interval 0 s; Keep Alive "
                     "60 s"));
    bench_leave(l);
    t->log.n = 0;
    l = bench_meet(t, "c0 id=m ka=101");
    said(t, ACCEPTED("a new session; Session Expiry Interval 604800 s, the "
                     "default; Keep Alive 100 s, asked for 101 s"));
    bench_say(l, "subscribe #1 t,q1");
    bench_hear(l, "suback*");
    bench_say(l, "publish q1 #1 t =in-flight");
    bench_hear(l, "puback*");
    bench_cut(l);
    struct bench_link *p = bench_meet(t, "c1 id=p ka=60");
    bench_say(p, "publish q1 #1 t =queued");
    bench_hear(p, "puback*");
    bench_say(p, "publish t =queued");
    t->log.n = 0;
    bench_meet(t, "c0 id=m ka=60 x=4294967295");
    said(t, ACCEPTED("resumed its session, 2 queued, 1 in flight; Session "
                     "Expiry Interval without end; Keep Alive 60 s"));
}

/* How a client may leave, and what becomes of what it leaves behind. */
static void test_client_leaves(void **state)
{
    struct bench *t = (struct bench *)*state;
    static const struct {
        const char *connect, *bye, *line;
    } left[] = {
        {"c1 id=m", "disconnect 00",
         M("left with DISCONNECT 0x00 Normal disconnection; its session ends "
           "with it")},
        {"c1 id=m x=300", "disconnect 00",
         M("left with DISCONNECT 0x00 Normal disconnection; its session is "
           "kept 300 s")},
        {"c1 id=m x=300", "disconnect 00 x=0",
         M("left with DISCONNECT 0x00 Normal disconnection; its session ends "
           "with it")},
        {"c1 id=m x=4294967295 will w =x", "disconnect 00",
         M("left with DISCONNECT 0x00 Normal disconnection; its session is "
           "kept without end; its will is deleted [MQTT-3.14.4-3]")},
        {"c1 id=m will w =x", "disconnect 04",
         M("left with DISCONNECT 0x04 Disconnect with Will Message; its "
           "session ends with it; its will is published [MQTT-3.1.2-8]")},
        {"c1 id=m x=300 will w =x wdi=10", "disconnect 97 rs=no%20%0A",
         M("left with DISCONNECT 0x97 Quota exceeded \"no \\x0A\"; its "
           "session is kept 300 s; its will is published in 10 s "
           "[MQTT-3.1.2-8]")},
    };
    for (size_t i = 0; i < COUNT(left); i++) {
        struct bench_link *l = meet(t, left[i].connect);
        bench_say(l, "%s", left[i].bye);
        bench_end(l, "");
        said(t, left[i].line);
    }
}

static void test_connection_lost(void **state)
{
    struct bench *t = (struct bench *)*state;
    bench_cut(meet(t, "c1 id=m"));
    said(t, M("the connection was lost without DISCONNECT; its session ends "
              "with it"));
    bench_cut(meet(t, "c1 id=m x=300 will w =x"));
    said(t, M("the connection was lost without DISCONNECT; its session is "
              "kept 300 s; its will is published [MQTT-3.1.2-8]"));
    struct bench_link *l = meet(t, "c1 id=m x=5 will w =x wdi=10");
    bench_feed(l, "30 20 00");
    bench_cut(l);
    said(t, M("the connection was lost without DISCONNECT, within a packet; "
              "its session is kept 5 s; its will is published in 5 s "
              "[MQTT-3.1.2-8]"));
}

static void test_server_stops(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m x=300");
    bench_stop(t);
    bench_end(l, "disconnect 8b rs=the*");
    said(t, M("DISCONNECT 0x8B Server shutting down: the server is shutting "
              "down; its session is kept 300 s"));
}

#define TAKEN "DISCONNECT 0x8E Session taken over: MQTT-3.1.4-3: another " \
              "connection uses this Client Identifier; "

static void test_mqtt_3_1_4_3_taken_over(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m x=300 will w =x wdi=10");
    struct bench_link *next = bench_meet(t, "c0 id=m x=300 ka=60");
    bench_end(l, "disconnect 8e rs=MQTT-3.1.4-3:*");
    said(t, M(TAKEN "its session is kept 300 s; its will is deleted "
                    "[MQTT-3.1.3-9]")
            ACCEPTED("resumed its session, 0 queued, 0 in flight; Session "
                     "Expiry Interval 300 s; Keep Alive 60 s"));
    bench_meet(t, "c1 id=m ka=60");
    bench_end(next, "disconnect 8e rs=MQTT-3.1.4-3:*");
    said(t, M(TAKEN "its session ends with it")
            AWAY("session ended: Clean Start 1 [MQTT-3.1.2-4]")
            ACCEPTED("a new session; Session Expiry Interval 0 s; Keep Alive "
                     "60 s"));
}

/* A session of m that is away, with messages queued, and the log empty. */
static void leave_behind(struct bench *t, const char *words, int messages)
{
    struct bench_link *l = meet(t, words);
    struct bench_link *p = meet(t, "c1 id=p");
    bench_say(l, "subscribe #1 t,q1");
    bench_hear(l, "suback*");
    bench_cut(l);
    for (int i = 0; i < messages; i++) {
        bench_say(p, "publish q1 #1 t =x");
        bench_hear(p, "puback #1 00");
    }
    bench_leave(p);
    t->log.n = 0;
}

static void test_mqtt_4_1_0_2_session_expires(void **state)
{
    struct bench *t = (struct bench *)*state;
    leave_behind(t, "c1 id=m x=300", 0);
    bench_advance(t, 300000);
    said(t, AWAY("session ended: its Session Expiry Interval of 300 s passed "
                 "[MQTT-4.1.0-2]"));
    leave_behind(t, "c1 id=m x=300", 1);
    bench_advance(t, 300000);
    said(t, AWAY("session ended: its Session Expiry Interval of 300 s passed "
                 "[MQTT-4.1.0-2]; 1 message discarded"));
    leave_behind(t, "c1 id=m x=300 will w =x wdi=900", 3);
    bench_restart(t, 400000);
    assert_int_equal(
        bench_logged(t, AWAY("session ended: its Session Expiry Interval of "
                             "300 s passed [MQTT-4.1.0-2]; 3 messages "
                             "discarded; its will is published "
                             "[MQTT-3.1.2-8]")), 1);
}

static void test_mqtt_3_1_2_4_session_thrown_away(void **state)
{
    struct bench *t = (struct bench *)*state;
    leave_behind(t, "c1 id=m x=300", 2);
    bench_meet(t, "c1 id=m ka=60");
    said(t, AWAY("session ended: Clean Start 1 [MQTT-3.1.2-4]; 2 messages "
                 "discarded")
            ACCEPTED("a new session; Session Expiry Interval 0 s; Keep Alive "
                     "60 s"));
}

/* ---- 4. discarded ---------------------------------------------------------
 */

static void test_session_ends_with_messages(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m rm=1");
    bench_say(l, "subscribe #1 t,q1");
    bench_hear(l, "suback*");
    for (int i = 1; i < 4; i++) {
        bench_say(l, "publish q1 #%d t =x", i);
        bench_find(l, "puback*");
    }
    bench_cut(l);
    said(t, M("the connection was lost without DISCONNECT; its session ends "
              "with it")
            AWAY("session ended with its connection; 3 messages discarded"));
}

static void test_mqtt_3_3_2_5_message_expires(void **state)
{
    struct bench *t = (struct bench *)*state;
    leave_behind(t, "c1 id=m x=300", 0);
    struct bench_link *p = meet(t, "c1 id=p");
    bench_say(p, "publish q1 #1 mei=5 retain t =x");
    bench_hear(p, "puback*");
    bench_advance(t, 5000);
    said(t, AWAY("message on \"t\" discarded: its Message Expiry Interval "
                 "passed [MQTT-3.3.2-5]")
            "client \"p\": its retained message on \"t\" discarded: its "
            "Message Expiry Interval passed [MQTT-3.3.2-5]\n");
}

static void test_mqtt_3_1_2_25_message_too_large(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m mps=300");
    bench_say(l, "subscribe #1 t,q1");
    bench_hear(l, "suback*");
    t->log.n = 0;
    for (int qos = 0; qos < 2; qos++) {
        bench_say(l, "publish q%d #%d t =*400", qos, qos);
        said(t, M("message on \"t\" discarded: larger than the client's "
                  "Maximum Packet Size [MQTT-3.1.2-25]"));
    }
}

static void test_queue_full(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.queue_max = 1;
    bench_restart(t, 0);
    leave_behind(t, "c1 id=m x=300", 1);
    struct bench_link *p = meet(t, "c1 id=p");
    bench_say(p, "publish q1 #1 t =x");
    bench_hear(p, "puback*");
    said(t, AWAY("message on \"t\" discarded: the queue is full"));
    for (int i = 0; i < 3; i++)
        bench_say(p, "publish retain r/%d =x", i);
    struct bench_link *l = meet(t, "c1 id=m");
    bench_say(l, "subscribe #1 r/#");
    said(t, M("retained messages for \"r/#\" discarded: the queue is full, 2 "
              "do not fit"));
}

static void test_no_memory(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.memory_max = 0;
    bench_restart(t, 0);
    struct bench_link *l = meet(t, "c1 id=m");
    bench_say(l, "subscribe #1 t,q1");
    bench_hear(l, "suback*");
    bench_say(l, "publish q1 #1 t =x");
    said(t, M("message on \"t\" discarded: no memory for sessions that end "
              "with their connection"));
}

static void test_slow_reader(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.output_high = 1; /* sixteen times that for QoS 0 */
    bench_restart(t, 0);
    struct bench_link *l = meet(t, "c1 id=m");
    bench_say(l, "subscribe #1 t");
    bench_hear(l, "suback*");
    struct bench_link *p = meet(t, "c1 id=p");
    t->held = 1;
    bench_say(p, "publish t =*400");
    bench_say(p, "publish t =*400");
    bench_turn(t);
    said(t, M("message on \"t\" discarded: QoS 0, the client reads too "
              "slowly"));
}

static void test_mqtt_3_1_3_9_will_deleted(void **state)
{
    struct bench *t = (struct bench *)*state;
    leave_behind(t, "c1 id=m x=300 will w =x wdi=10", 0);
    bench_meet(t, "c0 id=m x=300 ka=60");
    said(t, M("the will of the connection before is deleted: the client is "
              "back [MQTT-3.1.3-9]")
            ACCEPTED("resumed its session, 0 queued, 0 in flight; Session "
                     "Expiry Interval 300 s; Keep Alive 60 s"));
}

static void test_mqtt_3_1_2_8_will_after_its_delay(void **state)
{
    struct bench *t = (struct bench *)*state;
    leave_behind(t, "c1 id=m x=300 will w =x wdi=10", 0);
    bench_advance(t, 10000);
    said(t, AWAY("its will is published: its Will Delay Interval of 10 s "
                 "passed [MQTT-3.1.2-8]"));
}

/* ---- 5. habits ------------------------------------------------------------
 */

struct habit {
    const char *connect;
    const char *twice; /* said two times afterwards, or NULL */
    const char *note;  /* the line there is, once */
};

#define NOTE(words) M("note: " words)

static const struct habit habits[] = {
    {"c0 id=m ka=9 x=0", NULL,
     NOTE("Clean Start 0 with Session Expiry Interval 0: this session ends "
          "with its connection (3.1.2.11.2)")},
    {"c1 id=m ka=9 x=60", NULL,
     NOTE("Clean Start 1 with a Session Expiry Interval: the session is kept, "
          "and thrown away if the next CONNECT has Clean Start 1 too "
          "[MQTT-3.1.2-4]")},
    {"c1 id=m", NULL,
     NOTE("Keep Alive 0: a dead connection is not noticed, and its will waits "
          "(3.1.2.10)")},
    {"c0 ka=9", NULL,
     "note: the Client Identifier is assigned and the session is kept: only a "
     "CONNECT with that identifier resumes it [MQTT-3.1.3-7]\n"},
    {"c0 id=m ka=9 x=60 will w =x wdi=61", NULL,
     NOTE("the Will Delay Interval is longer than the Session Expiry "
          "Interval: the will is published when the session ends "
          "[MQTT-3.1.2-8]")},
    {"c0 id=m ka=9 mps=255", NULL,
     NOTE("a Maximum Packet Size below 256 bytes: Reason Strings may not fit, "
          "and larger messages are not sent [MQTT-3.1.2-25]")},
    {"c0 id=m ka=9 rri=1", NULL,
     NOTE("Response Information was asked for: this server has none to give "
          "(3.1.2.11.6)")},
    {"c0 id=m ka=9", "publish /a =x",
     NOTE("a topic or filter that begins with /: its first level is empty, /a "
          "is not a (4.7.3)")},
    {"c0 id=m ka=9", "subscribe #1 /a,q1",
     NOTE("a topic or filter that begins with /: its first level is empty, /a "
          "is not a (4.7.3)")},
    {"c0 id=m ka=9", "subscribe #1 #,q1",
     NOTE("the filter # matches no topic that begins with $ [MQTT-4.7.2-1]")},
    {"c0 id=m ka=9", "subscribe #1 $share/g/t,q1",
     NOTE("a Shared Subscription is sent no retained messages when it is made "
          "(4.8.2)")},
    {"c0 id=m ka=9", "subscribe #1 t",
     NOTE("a session that is kept subscribes at QoS 0: messages of QoS 1 and 2 "
          "come to it at QoS 0, too [MQTT-3.8.4-8]")},
    {"c0 id=m ka=9", "publish mei=0 t =x",
     NOTE("Message Expiry Interval 0: only who can be sent the message at once "
          "gets it [MQTT-3.3.2-5]")},
};

/* Each is explained once on a connection, and again on the next. */
static void test_habits(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < COUNT(habits); i++) {
        const struct habit *h = &habits[i];
        for (int again = 0; again < 2; again++) {
            bench_restart(t, 0);
            t->log.n = 0;
            struct bench_link *l = bench_meet(t, "%s", h->connect);
            for (int n = 0; h->twice != NULL && n < 2; n++)
                bench_say(l, "%s", h->twice);
            if (bench_logged(t, h->note) != 1 ||
                bench_logged(t, ": note: ") != 1)
                fail_msg("%s; %s: %.*s", h->connect,
                         h->twice != NULL ? h->twice : "", (int)t->log.n,
                         (char *)t->log.p);
        }
    }
}

/* Nothing is said of a client without such habits. */
static void test_no_habit(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c0 id=m x=60 mps=256 will w =x wdi=60");
    bench_say(l, "subscribe #1 a/+,q1 b/#,q2 +/c,q1");
    bench_hear(l, "suback #1 01 02 01");
    bench_say(l, "publish retain mei=1 a =x");
    bench_say(l, "publish retain a");
    bench_say(l, "publish a/");
    said(t, "");
    bench_cut(l);
    l = meet(t, "c1 id=m");
    bench_say(l, "disconnect 04");
    bench_end(l, "");
    said(t, M("left with DISCONNECT 0x04 Disconnect with Will Message; its "
              "session ends with it"));
}

/* ---- 6. floods ------------------------------------------------------------
 */

/* One client, many turns within one second: what is over 256 KiB is counted,
 * told when the second has passed, and the next second has its own lines. */
static void test_a_flood_is_counted(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m");
    bench_advance(t, 1000);
    for (int second = 0; second < 2; second++) {
        long more = 0;
        t->log.n = 0;
        for (int i = 0; i < 5000; i++) {
            t->now += i % 10 == 0;
            bench_say(l, "puback #7");
        }
        int lines = bench_logged(t, "PUBACK ignored: ");
        assert_in_range(t->log.n, 255 * 1024, 257 * 1024);
        t->log.n = 0;
        bench_advance(t, 499);
        assert_int_equal(t->log.n, 0);
        bench_advance(t, 1);
        assert_int_equal(
            bench_logged(t, " more lines like these in one second\n"), 1);
        buf_add(&t->log, "", 1);
        assert_int_equal(sscanf((char *)t->log.p, "%ld", &more), 1);
        assert_int_equal(lines + more, 5000);
    }
    assert_true(session_server_due(t->server) > t->now + 1000);
}

/* What is counted when the server stops is told. */
static void test_a_flood_is_counted_at_the_end(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = meet(t, "c1 id=m");
    for (int i = 0; i < 5000; i++)
        bench_say(l, "puback #7");
    assert_int_equal(bench_logged(t, " more lines like these"), 0);
    bench_stop(t);
    assert_int_equal(bench_logged(t, " more lines like these in one second\n"),
                     1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(test_mistakes),
        BENCH_TEST(test_mqtt_3_1_0_1_closed_before_connect),
        BENCH_TEST(test_mqtt_3_1_2_2_older_clients),
        BENCH_TEST(test_mqtt_3_1_4_1_mqtt_3_1_4_2_connect_refused),
        BENCH_TEST(test_mqtt_3_1_2_24_answers_too_large),
        BENCH_TEST(test_mqtt_3_1_2_22_mqtt_3_3_4_7_no_byte),
        BENCH_TEST(test_mqtt_3_2_2_18_no_alias),
        BENCH_TEST(test_expiry_raised_from_0),
        BENCH_TEST(test_publish_refused),
        BENCH_TEST(test_mqtt_3_1_2_29_no_problem_information),
        BENCH_TEST(test_filters_refused),
        BENCH_TEST(test_mqtt_2_2_1_5_unknown_identifiers),
        BENCH_TEST(test_unknown_identifiers_in_a_resumed_session),
        BENCH_TEST(test_mqtt_4_4_0_2_refused_by_the_client),
        BENCH_TEST(test_disk_full),
        BENCH_TEST(test_accepted),
        BENCH_TEST(test_client_leaves),
        BENCH_TEST(test_connection_lost),
        BENCH_TEST(test_server_stops),
        BENCH_TEST(test_mqtt_3_1_4_3_taken_over),
        BENCH_TEST(test_mqtt_4_1_0_2_session_expires),
        BENCH_TEST(test_mqtt_3_1_2_4_session_thrown_away),
        BENCH_TEST(test_session_ends_with_messages),
        BENCH_TEST(test_mqtt_3_3_2_5_message_expires),
        BENCH_TEST(test_mqtt_3_1_2_25_message_too_large),
        BENCH_TEST(test_queue_full),
        BENCH_TEST(test_no_memory),
        BENCH_TEST(test_slow_reader),
        BENCH_TEST(test_mqtt_3_1_3_9_will_deleted),
        BENCH_TEST(test_mqtt_3_1_2_8_will_after_its_delay),
        BENCH_TEST(test_habits),
        BENCH_TEST(test_no_habit),
        BENCH_TEST(test_a_flood_is_counted),
        BENCH_TEST(test_a_flood_is_counted_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
