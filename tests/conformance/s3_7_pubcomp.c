/*
 * s3_7_pubcomp.c - 3.7 PUBCOMP.
 */
#include "suite.h"

static void test_mqtt_3_7_2_1_the_broker_keeps_to_the_list(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say(p, "publish #7 q2 ~/a =x");
    hear(p, "pubrec #7 [01]0*");
    say(p, "pubrel #7");
    hear(p, "pubcomp #7 00");
    say(p, "pubrel #7");
    hear(p, "pubcomp #7 *");
    say(p, "pubrel #77");
    hear(p, "pubcomp #77 *");
}

/* A delivery at the stage where its client must send PUBCOMP. */
static unsigned released(struct test *t, struct peer *p)
{
    unsigned id = delivered(t, p, 2, "x");
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00", id);
    return id;
}

/* 0x92 may follow a mismatch, as after the loss of one side's session. */
static void test_mqtt_3_7_2_1_the_client_may_use_the_list(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");

    say(p, "pubcomp #%u 00", released(t, p));
    say(p, "pubcomp #%u 92", released(t, p));
    silent(p);
}

/* What the broker does about it is not prescribed. */
static void test_mqtt_3_7_2_1_other_codes_are_noticed(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");

    say_wrong(p, "pubcomp #%u 80", released(t, p));
    if (diagnosed(t))
        refused(p, "82");
}

static void test_mqtt_3_7_2_2_no_reason_string_over_the_limit(struct test *t)
{
    fits_without(t, MQTT_REASON_STRING, "pubrel #77", "pubcomp #77 *");
}

static void test_mqtt_3_7_2_3_no_user_property_over_the_limit(struct test *t)
{
    fits_without(t, MQTT_USER_PROPERTY, "pubrel #77", "pubcomp #77 *");
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_7_2_1_the_broker_keeps_to_the_list),
    TEST(test_mqtt_3_7_2_1_the_client_may_use_the_list),
    TEST(test_mqtt_3_7_2_1_other_codes_are_noticed),
    TEST(test_mqtt_3_7_2_2_no_reason_string_over_the_limit),
    TEST(test_mqtt_3_7_2_3_no_user_property_over_the_limit),
};

const struct section section_3_7 = SECTION("3.7 PUBCOMP", cases);
