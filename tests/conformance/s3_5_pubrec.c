/*
 * s3_5_pubrec.c - 3.5 PUBREC.
 */
#include "suite.h"

/* Publishes where only the server may; Holdfast says so in PUBREC. */
static const struct heard *pubrec_of_failure(struct test *t, struct peer *p)
{
    say(p, "publish #7 q2 $SYS/~/a =x up=name:value");
    if (diagnosed(t))
        return hear(p, "pubrec #7 87");
    const struct heard *h = next(p, WAIT);
    if (h == NULL || h->packet.type != MQTT_PUBREC || h->packet.reason < 0x80)
        not_offered(t, "no PUBREC refuses a PUBLISH to $SYS/");
    return h;
}

static void test_mqtt_3_5_2_1_the_broker_keeps_to_the_list(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    peer_watch(t, "~/a");
    say(p, "publish #1 q2 ~/a =x");
    hear(p, "pubrec #1 *");
    say(p, "publish #2 q2 ~/nobody =x");
    hear(p, "pubrec #2 *");
    pubrec_of_failure(t, p);
}

/* 0x10 is the server's alone; 0x00 goes on, the others end the exchange. */
static void test_mqtt_3_5_2_1_the_client_may_use_the_list(struct test *t)
{
    static const unsigned codes[] = {0x00, 0x80, 0x83, 0x87,
                                     0x90, 0x91, 0x97, 0x99};
    struct peer *p = peer_watch(t, "~/a,q2");

    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        publish(t, "q2 ~/a =%zu", i);
        unsigned id = hear(p, "publish q2 #* ~/a =%zu", i)->packet_id;
        say(p, "pubrec #%u %02x", id, codes[i]);
        if (codes[i] == 0) {
            hear(p, "pubrel #%u 00", id);
            say(p, "pubcomp #%u", id);
        }
    }
    silent(p);
}

/* What the broker does about it is not prescribed. */
static void test_mqtt_3_5_2_1_other_codes_are_noticed(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");

    publish(t, "q2 ~/a =x");
    unsigned id = hear(p, "publish q2 #* ~/a =x")->packet_id;
    say_wrong(p, "pubrec #%u 92", id);
    if (diagnosed(t))
        refused(p, "82");
}

/* The PUBREC of failure comes to a client that takes no more than this. */
static void pubrec_within(struct test *t, size_t limit, unsigned reason,
                          uint8_t property)
{
    struct peer *p = peer_join(t, "c1 id=~b mps=%zu", limit);

    say(p, "publish #7 q2 $SYS/~/a =x up=name:value");
    const struct heard *h = hear(p, "pubrec #7 %02x", reason);
    check(t, h->size <= limit || !MQTT_HAS(&h->packet.props, property),
          "%s makes a PUBREC of %zu bytes, Maximum Packet Size is %zu",
          mqtt_property_name(property), h->size, limit);
    leave(p);
}

/* Below the size that the whole PUBREC has, down to what CONNACK needs. */
static void pubrec_fits(struct test *t, uint8_t property)
{
    struct peer *p = peer_join(t, "c1 id=~a");
    size_t least = connack(p)->size;
    const struct heard *h = pubrec_of_failure(t, p);
    size_t whole = h->size;
    unsigned reason = h->packet.reason;

    check(t,
          !diagnosed(t) ||
              (h->packet.props.reason_string.n > 0 && whole > least + 1),
          "there is no Reason String that must be left out");
    pubrec_within(t, least, reason, property);
    if (whole > least + 1)
        pubrec_within(t, whole - 1, reason, property);
}

static void test_mqtt_3_5_2_2_no_reason_string_over_the_limit(struct test *t)
{
    pubrec_fits(t, MQTT_REASON_STRING);
}

static void test_mqtt_3_5_2_3_no_user_property_over_the_limit(struct test *t)
{
    pubrec_fits(t, MQTT_USER_PROPERTY);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_5_2_1_the_broker_keeps_to_the_list),
    TEST(test_mqtt_3_5_2_1_the_client_may_use_the_list),
    TEST(test_mqtt_3_5_2_1_other_codes_are_noticed),
    TEST(test_mqtt_3_5_2_2_no_reason_string_over_the_limit),
    TEST(test_mqtt_3_5_2_3_no_user_property_over_the_limit),
};

const struct section section_3_5 = SECTION("3.5 PUBREC", cases);
