/*
 * s2_2_identifiers.c - 2.2 Variable header.
 */
#include <string.h>

#include "suite.h"

/* ---- 2.2.1 Packet Identifier -------------------------------------------- */

/* The payload begins like an identifier and a Property Length. */
static void test_mqtt_2_2_1_2_qos_0_has_no_identifier(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");

    publish(t, "q0 =%%00%%01%%00abc ~/a");
    hear(p, "publish q0 ~/a =%%00%%01%%00abc");
    publish(t, "q0 ~/a");
    const struct heard *h = hear(p, "publish q0 ~/a =");
    check(t, h->packet.publish.payload.n == 0 && h->packet_id == 0,
          "bytes where there should be none");
}

static void test_mqtt_2_2_1_2_nor_has_what_is_delivered_at_qos_0(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q0");

    publish(t, "q1 =1%%00%%01%%00 ~/a");
    hear(p, "publish q0 ~/a =1%%00%%01%%00");
    publish(t, "q2 =2%%00%%01%%00 ~/a");
    hear(p, "publish q0 ~/a =2%%00%%01%%00");
}

static void test_mqtt_2_2_1_3_identifier_0_is_refused(struct test *t)
{
    static const char *const wrong[] = {
        "subscribe #0 ~/a", "unsubscribe #0 ~/a", "publish q1 #0 =x ~/a",
        "publish q2 #0 =x ~/a"};
    struct peer *w = peer_watch(t, "~/a");

    need(t, NEED_QOS1 | NEED_QOS2);
    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say_wrong(p, "%s", wrong[i]);
        refused(p, "81 82");
    }
    publish(t, "=end ~/a");
    hear(w, "publish q0 ~/a =end");
    silent(w);
}

static void test_mqtt_2_2_1_3_a_client_picks_a_free_identifier(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a", "connack 00");

    say(p, "publish q2 #1 =x ~/a");
    server_says(p, "pubrec #1 00");
    hear(p, "pubrec #1 00");
    client_refuses(p, "MQTT-2.2.1-3", "publish q1 #1 =x ~/b");
    client_refuses(p, "MQTT-2.2.1-3", "subscribe #1 ~/b");
    client_refuses(p, "MQTT-2.2.1-3", "unsubscribe #1 ~/b");
    client_refuses(p, "MQTT-2.2.1-3", "subscribe #0 ~/b");
    say(p, "pubrel #1");
    server_says(p, "pubcomp #1 00");
    hear(p, "pubcomp #1 00");
    say(p, "subscribe #1 ~/b");
    check(t, strcmp(sent(p), "PUBLISH PUBREL SUBSCRIBE ") == 0,
          "the client sent something else");
}

static void
test_mqtt_2_2_1_4_open_deliveries_have_their_own_identifiers(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q1 ~/b,q2");
    uint16_t ids[6];

    for (int i = 0; i < 6; i++) {
        publish(t, i % 2 == 0 ? "q1 =x ~/a" : "q2 =x ~/b");
        ids[i] = hear(p, "publish *")->packet_id;
        check(t, ids[i] != 0, "a Packet Identifier of 0");
        for (int k = 0; k < i; k++)
            check(t, ids[k] != ids[i], "%u is used twice", ids[i]);
    }
}

/* A QoS 2 delivery is open until PUBCOMP. */
static void
test_mqtt_2_2_1_4_an_identifier_is_in_use_until_pubcomp(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");
    unsigned id;

    publish(t, "q2 =1 ~/a");
    id = hear(p, "publish q2 #* ~/a =1")->packet_id;
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00", id);
    for (int i = 0; i < 3; i++) {
        publish(t, "q2 =2 ~/a");
        const struct heard *h = hear(p, "publish q2 #* ~/a =2");
        check(t, h->packet_id != id, "%u is used again before PUBCOMP", id);
    }
}

/* One delivery stays open while the identifiers go round once. */
static void test_mqtt_2_2_1_4_the_numbers_go_round(struct test *t)
{
    unsigned batch = offer(t)->receive_max < 100 ? offer(t)->receive_max : 100;
    struct peer *p = peer_watch(t, "~/a,q1");
    struct peer *from = peer_join(t, "c1 id=~b");

    publish(t, "q1 =open ~/a");
    unsigned open = hear(p, "publish q1 #* ~/a =open")->packet_id;
    for (unsigned done = 0; done < 66000; done += batch) {
        hold(from);
        for (unsigned i = 1; i <= batch; i++)
            say(from, "publish q1 #%u ~/a", i);
        release(from);
        for (unsigned i = 0; i < batch; i++) {
            unsigned id = hear(p, "publish q1 #* ~/a =")->packet_id;
            check(t, id != 0 && id != open, "%u is not free", id);
            say(p, "puback #%u", id);
        }
        for (unsigned i = 1; i <= batch; i++)
            hear(from, "puback #%u [01]0", i);
    }
}

/* Two bytes that differ show an order that is turned round. */
static void test_mqtt_2_2_1_5_the_brokers_answers_repeat_it(struct test *t)
{
    static const unsigned ids[] = {0x0102, 0x0201, 1, 65535, 0x1234};
    struct peer *p = peer_join(t, "c1 id=~a");

    hold(p);
    for (int i = 0; i < 5; i++)
        say(p, i % 2 == 0 ? "publish q1 #%u =x ~/a" : "publish q2 #%u =x ~/a",
            ids[i]);
    release(p);
    for (int i = 0; i < 5; i++)
        find(p, i % 2 == 0 ? "puback #%u [01]0" : "pubrec #%u [01]0", ids[i]);
    say(p, "pubrel #%u", ids[3]);
    hear(p, "pubcomp #%u 00", ids[3]);
    say(p, "pubrel #%u", ids[1]);
    hear(p, "pubcomp #%u 00", ids[1]);
    silent(p);
}

static void test_mqtt_2_2_1_5_the_brokers_pubrel_repeats_it(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");
    unsigned ids[3];

    for (int i = 0; i < 3; i++) {
        publish(t, "q2 =%d ~/a", i);
        ids[i] = hear(p, "publish q2 #* ~/a =%d", i)->packet_id;
    }
    for (int i = 2; i >= 0; i--) {
        say(p, "pubrec #%u", ids[i]);
        hear(p, "pubrel #%u 00", ids[i]);
    }
    for (int i = 0; i < 3; i++)
        say(p, "pubcomp #%u", ids[i]);
    silent(p);
}

/* Whether the broker bears an identifier that is nobody's or closes: what was
 * not acknowledged comes again, what was does not. */
static void
test_mqtt_2_2_1_5_another_identifier_acknowledges_nothing(struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *p = peer_join(t, "c1 id=~a x=60");
    unsigned settled, a, b, other = 1;

    subscribe(p, "~/a,q1");
    publish(t, "q1 =0 ~/a");
    settled = hear(p, "publish q1 #* ~/a =0")->packet_id;
    say(p, "puback #%u", settled);
    publish(t, "q1 =1 ~/a");
    a = hear(p, "publish q1 #* ~/a =1")->packet_id;
    publish(t, "q1 =2 ~/a");
    b = hear(p, "publish q1 #* ~/a =2")->packet_id;
    while (other == settled || other == a || other == b)
        other++;
    say(p, "puback #%u", b);
    if (settled != a)
        say_wrong(p, "puback #%u", settled);
    say_wrong(p, "puback #%u", other);
    say(p, "pingreq");
    comes(p, WAIT, "pingresp");
    cut(p);
    p = peer_join(t, "c0 id=~a");
    hear(p, "publish q1 dup #%u ~/a =1", a);
    silent(p);
}

static void test_mqtt_2_2_1_6_each_request_has_its_own_answer(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    hold(p);
    say(p, "subscribe #258 ~/a");
    say(p, "subscribe #513 ~/b ~/c");
    say(p, "unsubscribe #65535 ~/a ~/b ~/d");
    say(p, "subscribe #1 ~/e ~/f ~/g ~/h");
    say(p, "unsubscribe #256 ~/e");
    release(p);
    find(p, "suback #258 00");
    find(p, "suback #513 00 00");
    find(p, "suback #1 00 00 00 00");
    find(p, "unsuback #65535 ?? ?? ??");
    find(p, "unsuback #256 ??");
    silent(p);
}

/* ---- 2.2.2 Properties --------------------------------------------------- */

static void
test_mqtt_2_2_2_1_a_packet_without_its_length_is_refused(struct test *t)
{
    static const struct {
        unsigned first;
        const char *bytes;
    } wrong[] = {
        {0x30, "{'~/a'}"},
        {0x32, "{'~/a'} 0001"},
        {0x82, "0001"},
        {0xA2, "0001"},
    };
    struct peer *p = peer_open(t);

    need(t, NEED_QOS1);
    say_frame(p, 0x10, "{'MQTT'} 05 02 0000");
    refused(p, "81");
    for (size_t i = 0; i < COUNT(wrong); i++) {
        p = peer_join(t, "c1 id=~a");
        say_frame(p, wrong[i].first, "%s", wrong[i].bytes);
        refused(p, "81 82");
    }
}

/* Where the length should be stands the first byte of a string's: 0. */
static void
test_mqtt_2_2_2_1_what_follows_is_not_taken_for_the_length(struct test *t)
{
    struct peer *p = peer_open(t);

    say_frame(p, 0x10, "{'MQTT'} 05 02 0000 {'~a'}");
    refused_as(p, "81", "MQTT-2.2.2-1 MQTT-3.1.3-3");
}

/* The size tells: there is a byte for the length. */
static void length_is_there(struct test *t, const struct heard *h, size_t rest)
{
    size_t n = h->packet.props.raw.n;

    if (n > 100)
        return; /* the length takes more bytes */
    check(t, h->size == 2 + rest + 1 + n,
          "[%s] has %u bytes, of them %u are properties", h->text,
          (unsigned)h->size, (unsigned)n);
}

static void
test_mqtt_2_2_2_1_the_brokers_packets_have_their_length(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a rpi=0");

    length_is_there(t, connack(p), 2);
    say(p, "subscribe #1 ~/a ~/b");
    length_is_there(t, hear(p, "suback #1 00 00"), 2 + 2);
    say(p, "publish ~/a");
    length_is_there(t, hear(p, "publish q0 ~/a ="), 2 + strlen(prefix(t)) + 2);
    say(p, "unsubscribe #2 ~/a ~/b ~/c");
    length_is_there(t, hear(p, "unsuback #2 ?? ?? ??"), 2 + 3);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_2_2_1_2_qos_0_has_no_identifier),
    TEST(test_mqtt_2_2_1_2_nor_has_what_is_delivered_at_qos_0),
    TEST(test_mqtt_2_2_1_3_identifier_0_is_refused),
    TEST(test_mqtt_2_2_1_3_a_client_picks_a_free_identifier),
    TEST(test_mqtt_2_2_1_4_open_deliveries_have_their_own_identifiers),
    TEST(test_mqtt_2_2_1_4_an_identifier_is_in_use_until_pubcomp),
    TEST(test_mqtt_2_2_1_4_the_numbers_go_round),
    TEST(test_mqtt_2_2_1_5_the_brokers_answers_repeat_it),
    TEST(test_mqtt_2_2_1_5_the_brokers_pubrel_repeats_it),
    TEST(test_mqtt_2_2_1_5_another_identifier_acknowledges_nothing),
    TEST(test_mqtt_2_2_1_6_each_request_has_its_own_answer),
    TEST(test_mqtt_2_2_2_1_a_packet_without_its_length_is_refused),
    TEST(test_mqtt_2_2_2_1_what_follows_is_not_taken_for_the_length),
    TEST(test_mqtt_2_2_2_1_the_brokers_packets_have_their_length),
};

const struct section section_2_2 = SECTION("2.2 Variable header", cases);
