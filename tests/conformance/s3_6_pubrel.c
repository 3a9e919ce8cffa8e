/*
 * s3_6_pubrel.c - 3.6 PUBREL.
 */
#include "suite.h"

static void test_mqtt_3_6_1_1_other_flags_are_refused(struct test *t)
{
    static const unsigned flags[] = {0x0, 0x1, 0x3, 0x6, 0xA, 0xF};

    for (size_t i = 0; i < COUNT(flags); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say(p, "publish #7 q2 ~/a =x");
        hear(p, "pubrec #7 [01]0*");
        say_frame(p, 0x60 | flags[i], "00 07");
        refused(p, "81");
    }
}

static void test_mqtt_3_6_1_1_the_broker_sets_0010(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");

    unsigned id = delivered(t, p, 2, "x");
    say(p, "pubrec #%u", id);
    const struct heard *h = hear(p, "pubrel #%u 00", id);
    check(t, h->first == 0x62, "the PUBREL begins with %02X", h->first);
}

/* The answer to a PUBREC for a PUBLISH that never was, or NULL: the standard
 * prescribes none. */
static const struct heard *pubrel_to_nothing(struct test *t, struct peer *p)
{
    const struct heard *h;

    say(p, "pubrec #77");
    if (diagnosed(t))
        return hear(p, "pubrel #77 92");
    say(p, "pingreq");
    h = next(p, WAIT);
    return h != NULL && h->packet.type == MQTT_PUBREL ? h : NULL;
}

static void test_mqtt_3_6_2_1_the_broker_keeps_to_the_list(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");

    unsigned id = delivered(t, p, 2, "x");
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u *", id);
    say(p, "pubcomp #%u", id);
    pubrel_to_nothing(t, p);
}

/* 0x92 may follow a mismatch, as after the loss of one side's session. */
static void test_mqtt_3_6_2_1_the_client_may_use_the_list(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say(p, "publish #7 q2 ~/a =x");
    hear(p, "pubrec #7 [01]0*");
    say_frame(p, 0x62, "00 07 00 00");
    hear(p, "pubcomp #7 00");
    say(p, "pubrel #8 92");
    hear(p, "pubcomp #8 *");
}

/* What the broker does about it is not prescribed. */
static void test_mqtt_3_6_2_1_other_codes_are_noticed(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say(p, "publish #7 q2 ~/a =x");
    hear(p, "pubrec #7 [01]0*");
    say_wrong(p, "pubrel #7 80");
    if (diagnosed(t))
        refused(p, "82");
}

static void pubrel_fits(struct test *t, uint8_t property)
{
    const struct heard *h = pubrel_to_nothing(t, peer_join(t, "c1 id=~c"));

    if (h == NULL)
        not_offered(t, "no PUBREL answers a PUBREC for no PUBLISH");
    fits_without(t, property, "pubrec #77", "pubrel #77 %02x",
                 h->packet.reason);
}

static void test_mqtt_3_6_2_2_no_reason_string_over_the_limit(struct test *t)
{
    pubrel_fits(t, MQTT_REASON_STRING);
}

static void test_mqtt_3_6_2_3_no_user_property_over_the_limit(struct test *t)
{
    pubrel_fits(t, MQTT_USER_PROPERTY);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_6_1_1_other_flags_are_refused),
    TEST(test_mqtt_3_6_1_1_the_broker_sets_0010),
    TEST(test_mqtt_3_6_2_1_the_broker_keeps_to_the_list),
    TEST(test_mqtt_3_6_2_1_the_client_may_use_the_list),
    TEST(test_mqtt_3_6_2_1_other_codes_are_noticed),
    TEST(test_mqtt_3_6_2_2_no_reason_string_over_the_limit),
    TEST(test_mqtt_3_6_2_3_no_user_property_over_the_limit),
};

const struct section section_3_6 = SECTION("3.6 PUBREL", cases);
