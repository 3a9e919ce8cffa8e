/*
 * s3_5_pubrec.c - 3.5 PUBREC.
 */
#include "suite.h"

#define TO_SYS "publish #7 q2 $SYS/~/a =x up=name:value"

/* Publishes where only the server may; Holdfast says so in PUBREC. */
static const struct heard *pubrec_of_failure(struct test *t, struct peer *p)
{
    say(p, TO_SYS);
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

    for (size_t i = 0; i < COUNT(codes); i++) {
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

    unsigned id = delivered(t, p, 2, "x");
    say_wrong(p, "pubrec #%u 92", id);
    if (diagnosed(t))
        refused(p, "82");
}

static void pubrec_fits(struct test *t, uint8_t property)
{
    struct peer *p = peer_join(t, "c1 id=~c");
    unsigned reason = pubrec_of_failure(t, p)->packet.reason;

    fits_without(t, property, TO_SYS, "pubrec #7 %02x", reason);
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
