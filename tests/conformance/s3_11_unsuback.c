/*
 * s3_11_unsuback.c - 3.11 UNSUBACK.
 */
#include <string.h>

#include "suite.h"

static void test_mqtt_3_11_2_1_no_room_for_a_reason_string(struct test *t)
{
    no_room_for(t, MQTT_REASON_STRING, "unsubscribe", "unsuback");
}

/* What there would have been without the limit. */
static void
test_mqtt_3_11_2_1_a_reason_string_where_there_is_room(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a mps=100000");

    say_wrong(p, "unsubscribe #7 ~/a#");
    if (comes(p, WAIT, "unsuback*"))
        named(p, hear(p, "unsuback #7 ??"), "MQTT-4.7.1-1");
    else
        refused_as(p, "8f 81 82", "MQTT-4.7.1-1");
}

static void test_mqtt_3_11_2_2_no_room_for_user_properties(struct test *t)
{
    no_room_for(t, MQTT_USER_PROPERTY, "unsubscribe", "unsuback");
}

static void test_mqtt_3_11_3_1_codes_are_in_the_order_of_filters(struct test *t)
{
    struct peer *p = peer_watch(t, "~/b ~/c ~/e");
    unsigned id = new_id(p);

    /* What the broker says of a filter that nobody subscribed to. */
    say(p, "unsubscribe #%u ~/a", id);
    unsigned none = hear(p, "unsuback #%u ??", id)->packet.list.p[0];
    say(p, "unsubscribe #%u ~/a ~/b ~/c ~/d ~/e", id);
    hear(p, "unsuback #%u %02x 00 00 %02x 00", id, none, none);
}

/* Table 3-9. */
static int is_unsuback_code(uint8_t code)
{
    static const uint8_t codes[] = {0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91};

    return memchr(codes, code, sizeof codes) != NULL;
}

static void test_mqtt_3_11_3_2_codes_are_those_for_unsuback(struct test *t)
{
    static const char *const filters[] = {
        "~/a",    "~/b",  "~/#",  "~/+/a",  "$share/~g/~/a", "$share/~g/~/b",
        "$SYS/~", "$~/a", "~/a#", "~/+a/b", "$share/~g",     "$share//~/a"};

    for (size_t i = 0; i < COUNT(filters); i++) {
        struct peer *p = peer_watch(t, "~/a");
        say_wrong(p, "unsubscribe #7 %s", filters[i]);
        if (!comes(p, WAIT, "unsuback*"))
            continue; /* the connection was ended */
        const struct heard *h = hear(p, "unsuback #7 ??");
        check(t, is_unsuback_code(h->packet.list.p[0]), "code %02x for %s",
              h->packet.list.p[0], filters[i]);
    }
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_11_2_1_no_room_for_a_reason_string),
    TEST(test_mqtt_3_11_2_1_a_reason_string_where_there_is_room),
    TEST(test_mqtt_3_11_2_2_no_room_for_user_properties),
    TEST(test_mqtt_3_11_3_1_codes_are_in_the_order_of_filters),
    TEST(test_mqtt_3_11_3_2_codes_are_those_for_unsuback),
};

const struct section section_3_11 = SECTION("3.11 UNSUBACK", cases);
