/*
 * s3_11_unsuback.c - 3.11 UNSUBACK.
 */
#include <stdio.h>
#include <string.h>

#include "suite.h"

/* An UNSUBACK that says why a filter was refused, to a client whose Maximum
 * Packet Size is just that of the packet without properties.  NULL: the broker
 * ended the connection instead. */
static const struct heard *unsuback_without_room(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a mps=100000");
    size_t room = connack(p)->size; /* the CONNACK must fit too */
    char filters[2000] = "~/a#";

    room = room < 6 ? 6 : room;
    cut(p);
    p = peer_join(t, "c1 id=~a mps=%zu", room);
    /* Five bytes and the codes, six from 128 bytes on. */
    for (size_t k = room < 130 ? room - 5 : room - 6; k > 1; k--) {
        size_t n = strlen(filters);
        snprintf(filters + n, sizeof filters - n, " ~/%zu", k);
    }
    say_wrong(p, "unsubscribe #7 %s", filters);
    if (comes(p, WAIT, "unsuback*"))
        return hear(p, "unsuback #7 *");
    refused_as(p, "8f 81 82", "MQTT-4.7.1-1");
    return NULL;
}

static void test_mqtt_3_11_2_1_no_room_for_a_reason_string(struct test *t)
{
    const struct heard *h = unsuback_without_room(t);

    check(t, h == NULL || !MQTT_HAS(&h->packet.props, MQTT_REASON_STRING),
          "a Reason String though there is no room for it");
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
    const struct heard *h = unsuback_without_room(t);

    check(t, h == NULL || !MQTT_HAS(&h->packet.props, MQTT_USER_PROPERTY),
          "a User Property though there is no room for it");
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

    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
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
