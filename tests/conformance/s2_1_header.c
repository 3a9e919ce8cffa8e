/*
 * s2_1_header.c - 2.1 Fixed header.
 */
#include "suite.h"

/* A client that has just got a delivery of this QoS. */
static struct peer *receiver(struct test *t, unsigned qos, unsigned *id)
{
    struct peer *p = peer_join(t, "c1 id=~r");

    subscribe(p, "~/a,q%u", qos);
    publish(t, "q%u =x ~/a", qos);
    *id = hear(p, "publish q%u #* ~/a =x", qos)->packet_id;
    return p;
}

static void test_mqtt_2_1_3_1_reserved_flags_are_refused(struct test *t)
{
    static const struct {
        unsigned first;
        const char *bytes;
        const char *statements;
    } wrong[] = {
        {0xC1, "", "MQTT-2.1.3-1"},
        {0xC2, "", "MQTT-2.1.3-1"},
        {0xC4, "", "MQTT-2.1.3-1"},
        {0xC8, "", "MQTT-2.1.3-1"},
        {0x80, "0001 00 {'~/a'} 00", "MQTT-2.1.3-1 MQTT-3.8.1-1"},
        {0x8A, "0001 00 {'~/a'} 00", "MQTT-2.1.3-1 MQTT-3.8.1-1"},
        {0xA0, "0001 00 {'~/a'}", "MQTT-2.1.3-1 MQTT-3.10.1-1"},
        {0xE1, "", "MQTT-2.1.3-1 MQTT-3.14.1-1"},
        {0xF1, "", "MQTT-2.1.3-1 MQTT-3.15.1-1"},
    };

    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say_frame(p, wrong[i].first, "%s", wrong[i].bytes);
        refused_as(p, "81", wrong[i].statements);
    }
}

static void
test_mqtt_2_1_3_1_reserved_flags_of_connect_are_refused(struct test *t)
{
    for (unsigned flag = 1; flag <= 8; flag *= 2) {
        struct peer *p = peer_open(t);
        say_frame(p, 0x10 | flag, "{'MQTT'} 05 02 0000 00 {'~a'}");
        refused(p, "81");
    }
}

/* Each in an exchange in which the right one would have been in order. */
static void
test_mqtt_2_1_3_1_reserved_flags_of_answers_are_refused(struct test *t)
{
    unsigned id;
    struct peer *p = receiver(t, 1, &id);

    say_frame(p, 0x41, "%04X", id); /* PUBACK */
    refused(p, "81");
    p = receiver(t, 2, &id);
    say_frame(p, 0x52, "%04X", id); /* PUBREC */
    refused(p, "81");
    p = receiver(t, 2, &id);
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00", id);
    say_frame(p, 0x74, "%04X", id); /* PUBCOMP */
    refused(p, "81");
    p = peer_join(t, "c1 id=~a");
    say(p, "publish q2 #7 ~/a =x");
    hear(p, "pubrec #7 [01]0");
    say_frame(p, 0x60, "0007"); /* PUBREL */
    refused_as(p, "81", "MQTT-2.1.3-1 MQTT-3.6.1-1");
}

static void first_is(struct test *t, const struct heard *h, unsigned first)
{
    check(t, h->first == first, "the first byte of [%s] is %02X, not %02X",
          h->text, h->first, first);
}

static void
test_mqtt_2_1_3_1_the_brokers_flags_are_as_prescribed(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    first_is(t, connack(p), 0x20);
    say(p, "subscribe #1 ~/a,q0 ~/b,q1 ~/c,q2");
    first_is(t, hear(p, "suback #1 *"), 0x90);
    say(p, "publish q0 =x ~/a");
    first_is(t, hear(p, "publish q0 ~/a =x"), 0x30);
    say(p, "unsubscribe #1 ~/a");
    first_is(t, hear(p, "unsuback #1 *"), 0xB0);
    say(p, "pingreq");
    first_is(t, hear(p, "pingresp"), 0xD0);
    say(p, "publish q1 #2 =x ~/b");
    first_is(t, hear(p, "puback #2 *"), 0x40);
    first_is(t, hear(p, "publish q1 #* ~/b =x"), 0x32);
}

static void test_mqtt_2_1_3_1_the_brokers_flags_at_qos_2(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    subscribe(p, "~/a,q2");
    say(p, "publish q2 #2 =x ~/a");
    first_is(t, hear(p, "pubrec #2 [01]0"), 0x50);
    say(p, "pubrel #2");
    first_is(t, hear(p, "pubcomp #2 *"), 0x70);
    const struct heard *h = hear(p, "publish q2 #* ~/a =x");
    first_is(t, h, 0x34);
    say(p, "pubrec #%u", h->packet_id);
    first_is(t, hear(p, "pubrel #* 00"), 0x62);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_2_1_3_1_reserved_flags_are_refused),
    TEST(test_mqtt_2_1_3_1_reserved_flags_of_connect_are_refused),
    TEST(test_mqtt_2_1_3_1_reserved_flags_of_answers_are_refused),
    TEST(test_mqtt_2_1_3_1_the_brokers_flags_are_as_prescribed),
    TEST(test_mqtt_2_1_3_1_the_brokers_flags_at_qos_2),
};

const struct section section_2_1 = SECTION("2.1 Fixed header", cases);
