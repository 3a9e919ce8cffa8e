/*
 * s3_12_pingreq.c - 3.12 PINGREQ.
 */
#include "suite.h"

static void test_mqtt_3_12_4_1_each_pingreq_is_answered(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say_bytes(p, "C0 00");
    hear(p, "pingresp");
    hold(p);
    for (int i = 0; i < 3; i++)
        say(p, "pingreq");
    release(p);
    for (int i = 0; i < 3; i++)
        hear(p, "pingresp");
    silent(p);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_12_4_1_each_pingreq_is_answered),
};

const struct section section_3_12 = SECTION("3.12 PINGREQ", cases);
