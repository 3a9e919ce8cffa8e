/*
 * s3_15_auth.c - 3.15 AUTH.
 */
#include "suite.h"

/* A client that was sent an AUTH: the broker knows the method. */
static struct peer *challenged(struct test *t, const struct heard **h)
{
    struct peer *p = peer_open(t);

    say(p, "connect c1 id=~a am=CONFORMANCE");
    *h = next(p, WAIT);
    if (*h == NULL || (*h)->packet.type != MQTT_AUTH)
        not_offered(t, "no exchange with the Authentication Method "
                       "CONFORMANCE");
    return p;
}

static void test_mqtt_3_15_1_1_reserved_bits_are_refused(struct test *t)
{
    for (unsigned flag = 1; flag <= 8; flag *= 2) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say_frame(p, 0xF0 | flag, "18 [15 {'CONFORMANCE'}]");
        refused(p, "81");
    }
}

static void test_mqtt_3_15_1_1_also_before_connack(struct test *t)
{
    const struct heard *h;
    struct peer *p = challenged(t, &h);

    check(t, h->first == 0xF0, "the first byte is %02X", h->first);
    say_frame(p, 0xF2, "18 [15 {'CONFORMANCE'}]");
    refused(p, "81");
}

static void test_mqtt_3_15_2_1_unlisted_codes_are_refused(struct test *t)
{
    static const unsigned codes[] = {0x00, 0x01, 0x17, 0x1A, 0x80, 0x87, 0xFF};

    for (size_t i = 0; i < COUNT(codes); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say_wrong(p, "auth %02x am=CONFORMANCE", codes[i]);
        refused(p, "81 82");
    }
}

static void test_mqtt_3_15_2_1_the_brokers_code_is_on_the_list(struct test *t)
{
    const struct heard *h;
    struct peer *p = challenged(t, &h);

    check(t, h->packet.reason == 0x18, "AUTH %02x", h->packet.reason);
    say_wrong(p, "auth ff am=CONFORMANCE");
    refused(p, "81 82");
}

/* The same exchange with just less room than the AUTH has taken. */
static void left_out(struct test *t, unsigned property, const char *name)
{
    const struct heard *h;

    challenged(t, &h);
    if (!(h->packet.props.has >> property & 1))
        not_offered(t, "its AUTH has no %s", name);
    unsigned max = (unsigned)h->size - 1;
    struct peer *p = peer_open(t);
    say(p, "connect c1 id=~b am=CONFORMANCE mps=%u", max);
    h = next(p, WAIT);
    check(t,
          h == NULL || h->size <= max || !(h->packet.props.has >> property & 1),
          "a %s in a packet of more than %u bytes", name, max);
}

static void test_mqtt_3_15_2_2_reason_string_only_if_it_fits(struct test *t)
{
    left_out(t, MQTT_REASON_STRING, "Reason String");
}

static void test_mqtt_3_15_2_3_user_properties_only_if_they_fit(struct test *t)
{
    left_out(t, MQTT_USER_PROPERTY, "User Property");
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_15_1_1_reserved_bits_are_refused),
    TEST(test_mqtt_3_15_1_1_also_before_connack),
    TEST(test_mqtt_3_15_2_1_unlisted_codes_are_refused),
    TEST(test_mqtt_3_15_2_1_the_brokers_code_is_on_the_list),
    TEST(test_mqtt_3_15_2_2_reason_string_only_if_it_fits),
    TEST(test_mqtt_3_15_2_3_user_properties_only_if_they_fit),
};

const struct section section_3_15 = SECTION("3.15 AUTH", cases);
