/*
 * s4_13_errors.c - 4.13 Handling errors.
 */
#include <stdio.h>
#include <string.h>

#include "suite.h"

/* ---- 4.13.1 Malformed Packet and Protocol Errors ------------------------ */

/* Each with the codes that the standard gives it. */
static const struct {
    unsigned first;
    const char *bytes;
    const char *codes;
} faults[] = {
    {0x00, "", "81"},                                /* type 0 (2.1.2) */
    {0x10, "{'MQTT'} 05 02 0000 00 {'~a'}", "82"},   /* again (3.1.0) */
    {0x20, "00 00 00", "81 82"},                     /* CONNACK (2.1.2) */
    {0x36, "{'~/a'} 0001 00 'x'", "81"},             /* QoS 3 (3.3.1.2) */
    {0x30, "{'~/#'} 00 'x'", "90 81 82"},            /* wildcard (3.3.2.1) */
    {0x30, "{} 00 'x'", "82"},                       /* no topic (3.3.2.1) */
    {0x30, "{'~/a' C0 80} 00 'x'", "81"},            /* not UTF-8 (1.5.4) */
    {0x30, "{'~/a'} [23 0000] 'x'", "94"},           /* alias 0 (3.3.2.3.4) */
    {0x30, "{'~/a'} [03 {'t'} 03 {'t'}] 'x'", "82"}, /* twice (3.3.2.3.9) */
    {0x30, "{'~/a'} [11 00000001] 'x'", "81"},       /* foreign (2.2.2.2) */
    {0x30, "{'~/a'} [7F 00] 'x'", "81"},             /* unknown (2.2.2.2) */
    {0x30, "{'~/a'} [01", "81"},                     /* cut short (2.2.2) */
    {0x80, "0001 00 {'~/a'} 00", "81"},              /* flags (3.8.1) */
    {0x82, "0001 00", "82"},                         /* no filter (3.8.3) */
    {0x82, "0001 00 {'~/a'} 03", "82"},              /* QoS 3 (3.8.3.1) */
    {0x82, "0001 00 {'~/a'} 30", "82"},              /* Handling 3 (3.8.3.1) */
    {0x82, "0001 00 {'~/a'} 40", "81"},              /* reserved (3.8.3.1) */
    {0x82, "0001 [0B 00] {'~/a'} 00", "82"},         /* Identifier 0 */
    {0xA2, "0001 00", "82"},                         /* no filter (3.10.3) */
    {0xE0, "00 [11 00000001]", "82"},                /* from 0 (3.14.2.2.2) */
    {0xF0, "18 [15 {'x'}]", "82"},                   /* no method (4.12) */
};

/* The end, by itself; what Holdfast says before it has one of these codes. */
static void shut(struct test *t, struct peer *p, const char *codes)
{
    const struct heard *h = next(p, WAIT);
    char code[3];

    check(t,
          h == NULL ||
              (h->packet.type == MQTT_DISCONNECT && h->packet.reason >= 0x80),
          "the broker says [%s]", h == NULL ? "" : h->text);
    if (diagnosed(t)) {
        check(t, h != NULL, "the broker does not say why");
        snprintf(code, sizeof code, "%02x", h->packet.reason);
        check(t, strstr(codes, code) != NULL, "[%s], not %s", h->text, codes);
    }
    ended(p);
}

static void test_mqtt_4_13_1_1_an_error_closes_the_connection(struct test *t)
{
    for (size_t i = 0; i < COUNT(faults); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say_frame(p, faults[i].first, "%s", faults[i].bytes);
        shut(t, p, faults[i].codes);
    }
}

/* Before CONNACK there are errors, too. */
static void test_mqtt_4_13_1_1_an_error_in_connect_closes(struct test *t)
{
    static const char *const wrong[] = {
        "{'MQTT'} 05 03 0000 00 {'~a'}",            /* reserved flag */
        "{'MQTT'} 05 1A 0000 00 {'~a'}",            /* Will QoS, no will */
        "{'MQTT'} 05 02 0000 [21 0000] {'~a'}",     /* Receive Maximum 0 */
        "{'MQTT'} 05 02 0000 [27 00000000] {'~a'}", /* Maximum Packet Size 0 */
        "{'MQTT'} 05 02 0000 [17 02] {'~a'}",       /* neither 0 nor 1 */
        "{'MQTT'} 05 02 0000 [11 00000001 11 00000001] {'~a'}",
        "{'MQTT'} 05 02 0000 [23 0001] {'~a'}",  /* Topic Alias */
        "{'MQTT'} 05 02 0000 [16 {'x'}] {'~a'}", /* data, no method */
        "{'MQTT'} 05 02 0000 00",                /* no identifier */
    };

    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct peer *p = peer_open(t);
        say_frame(p, 0x10, "%s", wrong[i]);
        const struct heard *h = next(p, WAIT);
        check(t,
              h == NULL ||
                  (h->packet.type == MQTT_CONNACK && h->packet.reason >= 0x80),
              "the broker says [%s]", h == NULL ? "" : h->text);
        ended(p);
    }
}

static void test_mqtt_4_13_1_1_others_notice_nothing(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a ~/b");

    for (size_t i = 0; i < COUNT(faults); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        hold(p);
        say(p, "publish =%u ~/b", (unsigned)i);
        say_frame(p, faults[i].first, "%s", faults[i].bytes);
        say_wrong(p, "publish =bad ~/b");
        release(p);
        cut(p);
        hear(w, "publish q0 ~/b =%u", (unsigned)i);
    }
    silent(w);
}

/* ---- 4.13.2 Other errors ------------------------------------------------ */

/* Whom the broker does not accept, it closes the connection to; not only when
 * it gives up waiting for a CONNECT. */
static void shut_out(struct test *t, const char *words)
{
    struct peer *p = peer_open(t);
    uint64_t from = now();

    say_wrong(p, "connect %s", words);
    const struct heard *h = next(p, WAIT / 2);
    if (h == NULL || h->packet.reason >= 0x80)
        check(t, ended(p) < from + WAIT / 2, "the connection stays");
    else
        check(t, !diagnosed(t), "the broker says [%s]", h->text);
}

static void test_mqtt_4_13_2_1_a_refusing_connack_is_the_end(struct test *t)
{
    shut_out(t, "c1 id=~a rm=0");
    shut_out(t, "c1 id=~a ad=x");
    shut_out(t, "c1 id=~a am=~");
    shut_out(t, "c1 id=%C3%28");
    shut_out(t, "c1 id=~a will =x ~/#");
}

/* There is no room for a CONNACK. */
static void test_mqtt_4_13_2_1_an_unsaid_one_is_the_end_too(struct test *t)
{
    shut_out(t, "c1 id=~a mps=4 am=~");
    shut_out(t, "c1 id=~a mps=4 will =x ~/#");
}

/* CONNACK fits, and no DISCONNECT that says why. */
static void test_mqtt_4_13_2_1_a_disconnect_is_the_end(struct test *t)
{
    struct peer *old = peer_join(t, "c1 id=~a");
    unsigned max = (unsigned)connack(old)->size;

    peer_join(t, "c1 id=~a");
    shut(t, old, "8e");
    struct peer *p = peer_join(t, "c1 id=~b mps=%u", max);
    say_wrong(p, "connect c1 id=~b");
    shut(t, p, "82");
}

static void test_mqtt_4_13_2_1_the_clients_error_is_the_end(struct test *t)
{
    static const unsigned codes[] = {0x80, 0x81, 0x82, 0x83, 0x90, 0x93,
                                     0x94, 0x95, 0x96, 0x97, 0x98, 0x99};

    for (size_t i = 0; i < COUNT(codes); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say(p, "disconnect %02x", codes[i]);
        if (diagnosed(t))
            ended(p); /* who receives it only SHOULD close (3.14.4) */
        else
            cut(p);
    }
}

static const struct test_case cases[] = {
    TEST(test_mqtt_4_13_1_1_an_error_closes_the_connection),
    TEST(test_mqtt_4_13_1_1_an_error_in_connect_closes),
    TEST(test_mqtt_4_13_1_1_others_notice_nothing),
    TEST(test_mqtt_4_13_2_1_a_refusing_connack_is_the_end),
    TEST(test_mqtt_4_13_2_1_an_unsaid_one_is_the_end_too),
    TEST(test_mqtt_4_13_2_1_a_disconnect_is_the_end),
    TEST(test_mqtt_4_13_2_1_the_clients_error_is_the_end),
};

const struct section section_4_13 = SECTION("4.13 Handling errors", cases);
