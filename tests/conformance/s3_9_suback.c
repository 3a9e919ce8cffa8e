/*
 * s3_9_suback.c - 3.9 SUBACK.
 */
#include <string.h>

#include "suite.h"

static void test_mqtt_3_9_2_1_no_room_for_a_reason_string(struct test *t)
{
    no_room_for(t, MQTT_REASON_STRING, "subscribe", "suback");
}

/* What there would have been without the limit. */
static void
test_mqtt_3_9_2_1_a_reason_string_where_there_is_room(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a mps=100000");

    say_wrong(p, "subscribe #7 ~/a#");
    if (comes(p, WAIT, "suback*"))
        named(p, hear(p, "suback #7 ??"), "MQTT-4.7.1-1");
    else
        refused_as(p, "8f 81 82", "MQTT-4.7.1-1");
}

static void test_mqtt_3_9_2_2_no_room_for_user_properties(struct test *t)
{
    no_room_for(t, MQTT_USER_PROPERTY, "subscribe", "suback");
}

static void test_mqtt_3_9_3_1_codes_are_in_the_order_of_filters(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    need(t, NEED_QOS2);
    say(p, "subscribe #7 ~/a,q2 ~/b ~/c,q1 ~/d,q1 ~/e");
    hear(p, "suback #7 02 00 01 01 00");
    say(p, "subscribe #8 ~/e ~/d,q2 ~/f ~/a,q1");
    hear(p, "suback #8 00 02 00 01");
}

static void test_mqtt_3_9_3_1_codes_of_refused_filters_too(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    need(t, NEED_QOS1);
    say_wrong(p, "subscribe #7 ~/a,q1 ~/b# ~/c ~/d#,q1 ~/e,q1");
    if (comes(p, WAIT, "suback*"))
        hear(p, "suback #7 01 [89a]? 00 [89a]? 01");
    else
        refused_as(p, "8f 81 82", "MQTT-4.7.1-1");
}

/* Table 3-8. */
static int is_suback_code(uint8_t code)
{
    static const uint8_t codes[] = {0x00, 0x01, 0x02, 0x80, 0x83, 0x87,
                                    0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2};

    return memchr(codes, code, sizeof codes) != NULL;
}

static void test_mqtt_3_9_3_2_codes_are_those_for_suback(struct test *t)
{
    static const char *const filters[] = {
        "~/a",    "~/b,q1",    "~/c,q2,nl,rap,rh1",
        "~/#",    "~/+/a,rh2", "$share/~g/~/a",
        "$SYS/~", "$~/a",      "~/a#",
        "~/+a/b", "$share/~g", "$share//~/a"};

    for (size_t i = 0; i < COUNT(filters); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say_wrong(p, "subscribe #7 %s", filters[i]);
        if (!comes(p, WAIT, "suback*"))
            continue; /* the connection was ended */
        const struct heard *h = hear(p, "suback #7 ??");
        check(t, is_suback_code(h->packet.list.p[0]), "code %02x for %s",
              h->packet.list.p[0], filters[i]);
        leave(p);
    }
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_9_2_1_no_room_for_a_reason_string),
    TEST(test_mqtt_3_9_2_1_a_reason_string_where_there_is_room),
    TEST(test_mqtt_3_9_2_2_no_room_for_user_properties),
    TEST(test_mqtt_3_9_3_1_codes_are_in_the_order_of_filters),
    TEST(test_mqtt_3_9_3_1_codes_of_refused_filters_too),
    TEST(test_mqtt_3_9_3_2_codes_are_those_for_suback),
};

const struct section section_3_9 = SECTION("3.9 SUBACK", cases);
