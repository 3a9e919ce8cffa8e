/*
 * s3_14_disconnect.c - 3.14 DISCONNECT.
 */
#include <stdio.h>
#include <string.h>

#include "suite.h"

/* Each is an error that a broker may answer with DISCONNECT. */
static const char *const faults[] = {
    "connect c1 id=~a",    "publish q1 #0 =x ~/a", "publish =x ~/+",
    "publish =x ta=0 ~/a", "publish =x sid=1 ~/a", "subscribe #1",
    "subscribe #0 ~/a",    "unsubscribe #1",       "auth 19 am=x",
    "publish =x ~/%C3%28", "disconnect 87",
};

#define FAULTS COUNT(faults)

/* The broker's DISCONNECT, after which it closes, or NULL: there was none. */
static const struct heard *goodbye(struct test *t, struct peer *p)
{
    if (!comes(p, diagnosed(t) ? WAIT : 1000, "disconnect *")) {
        check(t, !diagnosed(t), "no DISCONNECT");
        cut(p);
        return NULL;
    }
    const struct heard *h = find(p, "disconnect *");
    ended(p);
    return h;
}

/* What the broker says to each of the faults and, at last, to a client whose
 * session another one takes over.  Returns 0 after that. */
static int provoke(struct test *t, size_t i, const char *connect,
                   const struct heard **h)
{
    if (i > FAULTS)
        return 0;
    struct peer *p = peer_join(t, "%s", connect);
    if (i < FAULTS)
        say_wrong(p, "%s", faults[i]);
    else
        peer_join(t, "%s", connect);
    *h = goodbye(t, p);
    return 1;
}

/* ---- before CONNACK ----------------------------------------------------- */

/* CONNACK with an error, or nothing, and the end. */
static void not_accepted(struct test *t, struct peer *p)
{
    const struct heard *h = next(p, WAIT);

    check(t,
          h == NULL ||
              (h->packet.type == MQTT_CONNACK && h->packet.reason >= 0x80),
          "before CONNACK came [%s]", h == NULL ? "" : h->text);
    ended(p);
}

static void test_mqtt_3_14_0_1_not_to_who_does_not_connect(struct test *t)
{
    static const char *const wrong[] = {"pingreq", "publish =x ~/a",
                                        "subscribe #1 ~/a", "disconnect 00",
                                        "auth 18 am=x"};

    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct peer *p = peer_open(t);
        say_wrong(p, "%s", wrong[i]);
        not_accepted(t, p);
    }
}

static void test_mqtt_3_14_0_1_not_to_who_is_refused(struct test *t)
{
    static const char *const wrong[] = {
        "{'MQTT'} 05 03 0000 00 {'~a'}",               /* reserved flag */
        "{'MQTT'} 05 02 0000 [21 0000] {'~a'}",        /* Receive Maximum 0 */
        "{'MQTT'} 05 02 0000 [7F 00] {'~a'}",          /* no such property */
        "{'MQTT'} 05 02 0000 00 {'~a' C3 28}",         /* not UTF-8 */
        "{'MQTT'} 05 06 0000 00 {'~a'} 00 {'~/#'} {}", /* Will Topic */
    };

    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct peer *p = peer_open(t);
        say_frame(p, 0x10, "%s", wrong[i]);
        not_accepted(t, p);
    }
}

/* ---- what it holds ------------------------------------------------------ */

/* It is no DISCONNECT 0x00, which would take the will back. */
static void test_mqtt_3_14_1_1_reserved_bits_are_refused(struct test *t)
{
    struct peer *w = peer_watch(t, "~/w");

    for (unsigned flag = 1; flag <= 8; flag *= 2) {
        struct peer *p = peer_join(t, "c1 id=~a will =%u ~/w", flag);
        say_frame(p, 0xE0 | flag, "");
        refused(p, "81");
        hear(w, "publish q0 ~/w =%u", flag);
    }
}

static void code_listed(struct test *t, const struct heard *h)
{
    static const char listed[] = "80 81 82 83 87 89 8b 8c 8d 8e 8f 90 93 94 95 "
                                 "96 97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2";
    char code[3];

    snprintf(code, sizeof code, "%02x", h->packet.reason);
    check(t, strstr(listed, code) != NULL, "0x%s is not on the list", code);
}

static void test_mqtt_3_14_2_1_the_brokers_codes_are_on_the_list(struct test *t)
{
    const struct heard *h;

    for (size_t i = 0; provoke(t, i, "c1 id=~a", &h); i++)
        if (h != NULL)
            code_listed(t, h);
}

static void test_mqtt_3_14_2_1_so_is_that_of_a_timeout(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a ka=1");

    if (comes(p, WAIT, "disconnect *"))
        code_listed(t, find(p, "disconnect *"));
    else
        check(t, !diagnosed(t), "no DISCONNECT");
}

static void test_mqtt_3_14_2_1_unlisted_codes_are_refused(struct test *t)
{
    static const unsigned codes[] = {0x01, 0x10, 0x18, 0x7F, 0x84, 0x87,
                                     0x8B, 0x8D, 0x8E, 0x91, 0x9D, 0xFF};

    for (size_t i = 0; i < COUNT(codes); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say_wrong(p, "disconnect %02x", codes[i]);
        refused(p, "81 82");
    }
}

static void test_mqtt_3_14_2_2_no_session_expiry_interval(struct test *t)
{
    const struct heard *h;

    for (size_t i = 0; provoke(t, i, "c1 id=~a x=2", &h); i++)
        check(t,
              h == NULL ||
                  !MQTT_HAS(&h->packet.props, MQTT_SESSION_EXPIRY_INTERVAL),
              "DISCONNECT with a Session Expiry Interval");
}

/* The client takes nothing larger than its CONNACK: too little for what the
 * broker would like to say of a fault. */
static void left_out(struct test *t, unsigned property, const char *name)
{
    struct peer *p = peer_join(t, "c1 id=~a");
    unsigned max = (unsigned)connack(p)->size;
    const struct heard *h;
    char connect[64];

    leave(p);
    snprintf(connect, sizeof connect, "c1 id=~a mps=%u", max);
    for (size_t i = 0; provoke(t, i, connect, &h); i++)
        check(t,
              h == NULL || h->size <= max ||
                  !(h->packet.props.has >> property & 1),
              "%s in a DISCONNECT of more than %u bytes", name, max);
}

static void test_mqtt_3_14_2_3_reason_string_only_if_it_fits(struct test *t)
{
    left_out(t, MQTT_REASON_STRING, "a Reason String");
}

static void test_mqtt_3_14_2_4_user_properties_only_if_they_fit(struct test *t)
{
    left_out(t, MQTT_USER_PROPERTY, "a User Property");
}

/* ---- what follows it ---------------------------------------------------- */

static void test_mqtt_3_14_4_1_nothing_follows_the_brokers(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a rm=1");

    subscribe(p, "~/a,q1");
    for (int i = 0; i < 5; i++)
        publish(t, "q1 =x ~/a");
    unsigned id = hear(p, "publish q1 #* ~/a =x")->packet_id;
    hold(p);
    say_wrong(p, "connect c1 id=~a");
    say(p, "puback #%u", id); /* lets the next delivery come */
    say(p, "pingreq");
    say(p, "subscribe #9 ~/b");
    say(p, "publish =x ~/a");
    release(p);
    refused_as(p, "82", "MQTT-3.1.0-2");
}

static void test_mqtt_3_14_4_1_nothing_follows_a_takeover(struct test *t)
{
    struct peer *old = peer_join(t, "c1 id=~a");

    subscribe(old, "~/a");
    struct peer *young = peer_join(t, "c0 id=~a");
    subscribe(young, "~/a");
    publish(t, "=x ~/a");
    hear(young, "publish q0 ~/a =x");
    goodbye(t, old);
}

static void test_mqtt_3_14_4_1_nothing_follows_a_clients(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a");
    struct peer *p = peer_join(t, "c1 id=~a");

    hold(p);
    say(p, "disconnect 00");
    say_wrong(p, "publish =bad ~/a");
    release(p);
    cut(p);
    publish(t, "=end ~/a");
    hear(w, "publish q0 ~/a =end");
    silent(w);
}

static void test_mqtt_3_14_4_1_nor_does_the_client_send_more(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a", "connack 00");

    say(p, "disconnect 00");
    client_refuses(p, "MQTT-3.14.4-1", "pingreq");
    client_refuses(p, "MQTT-3.14.4-1", "publish =x ~/a");
    client_refuses(p, "MQTT-3.14.4-1", "disconnect 00");
    check(t, strcmp(sent(p), "DISCONNECT ") == 0, "it sent something else");
}

/* The client keeps its side open: the broker closes by itself. */
static void test_mqtt_3_14_4_2_the_broker_closes_after_it(struct test *t)
{
    const struct heard *h;

    for (size_t i = 0; provoke(t, i, "c1 id=~a", &h); i++)
        ;
}

/* ---- the will ----------------------------------------------------------- */

static void test_mqtt_3_14_4_3_0x00_discards_the_will(struct test *t)
{
    static const char *const good[] = {"E0 00", "E0 01 00", "E0 02 00 00"};
    struct peer *w = peer_watch(t, "~/w");

    for (size_t i = 0; i < COUNT(good); i++) {
        struct peer *p = peer_join(t, "c1 id=~a will =bad ~/w");
        say_bytes(p, "%s", good[i]);
        cut(p);
    }
    struct peer *p = peer_join(t, "c1 id=~a will =good ~/w");
    say(p, "disconnect 04");
    cut(p);
    hear(w, "publish q0 ~/w =good");
    silent(w);
}

static void test_mqtt_3_14_4_3_nor_does_the_will_come_later(struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *w = peer_watch(t, "~/w");
    struct peer *p = peer_join(t, "c1 id=~a x=60 will =bad ~/w wdi=1");
    struct peer *q = peer_join(t, "c1 id=~b x=1 will =bad ~/w wdi=60");
    struct peer *r = peer_join(t, "c1 id=~c x=60 will =good ~/w wdi=1");

    leave(p);
    leave(q);
    cut(r);
    hear(w, "publish q0 ~/w =good"); /* the delay is over */
    let_pass(t, 1000);               /* the second session, too */
    silent(w);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_14_0_1_not_to_who_does_not_connect),
    TEST(test_mqtt_3_14_0_1_not_to_who_is_refused),
    TEST(test_mqtt_3_14_1_1_reserved_bits_are_refused),
    TEST(test_mqtt_3_14_2_1_the_brokers_codes_are_on_the_list),
    TEST(test_mqtt_3_14_2_1_so_is_that_of_a_timeout),
    TEST(test_mqtt_3_14_2_1_unlisted_codes_are_refused),
    TEST(test_mqtt_3_14_2_2_no_session_expiry_interval),
    TEST(test_mqtt_3_14_2_3_reason_string_only_if_it_fits),
    TEST(test_mqtt_3_14_2_4_user_properties_only_if_they_fit),
    TEST(test_mqtt_3_14_4_1_nothing_follows_the_brokers),
    TEST(test_mqtt_3_14_4_1_nothing_follows_a_takeover),
    TEST(test_mqtt_3_14_4_1_nothing_follows_a_clients),
    TEST(test_mqtt_3_14_4_1_nor_does_the_client_send_more),
    TEST(test_mqtt_3_14_4_2_the_broker_closes_after_it),
    TEST(test_mqtt_3_14_4_3_0x00_discards_the_will),
    TEST(test_mqtt_3_14_4_3_nor_does_the_will_come_later),
};

const struct section section_3_14 = SECTION("3.14 DISCONNECT", cases);
