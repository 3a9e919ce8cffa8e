/*
 * s3_10_unsubscribe.c - 3.10 UNSUBSCRIBE.
 */
#include "suite.h"

/* This UNSUBSCRIBE, from its Packet Identifier on, is refused. */
static void frame_refused(struct test *t, unsigned first, const char *bytes,
                          const char *codes)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    subscribe(p, "~/a");
    say_frame(p, first, "%s", bytes);
    refused(p, codes);
}

static void unsubscribe(struct peer *p, const char *filters)
{
    unsigned id = new_id(p);

    say(p, "unsubscribe #%u %s", id, filters);
    hear(p, "unsuback #%u *", id);
}

static void test_mqtt_3_10_1_1_other_flags_end_the_connection(struct test *t)
{
    const unsigned firsts[] = {0xA0, 0xA1, 0xA3, 0xA6, 0xAA};

    for (size_t i = 0; i < COUNT(firsts); i++)
        frame_refused(t, firsts[i], "00 02 00 {'~/a'}", "81");
}

static void test_mqtt_3_10_3_1_filters_are_utf8(struct test *t)
{
    frame_refused(t, 0xA2, "00 02 00 {'~/' C3 28}", "81");
    frame_refused(t, 0xA2, "00 02 00 {'~/' ED A0 80}", "81");
    frame_refused(t, 0xA2, "00 02 00 {'~/' C0 AF}", "81");
    frame_refused(t, 0xA2, "00 02 00 {'~/a'} {'~/' E2 82}", "81");
}

static void test_mqtt_3_10_3_2_no_filter_is_an_error(struct test *t)
{
    frame_refused(t, 0xA2, "00 02 00", "82");
}

/* ---- what is removed ---------------------------------------------------- */

static void test_mqtt_3_10_4_1_other_filters_remove_nothing(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a/+ ~/b");

    unsubscribe(p, "~/a/x ~/a/# ~/A/+ ~/a/+/ ~/a/+/+ ~/a/%20 ~/# ~/+");
    unsubscribe(p, "~/B ~/b/ ~//b ~/ ~ ~/b/# b");
    publish(t, "~/a/x =x");
    hear(p, "publish q0 ~/a/x =x");
    publish(t, "~/b =x");
    hear(p, "publish q0 ~/b =x");
    silent(p);
}

static void test_mqtt_3_10_4_1_the_same_filter_removes_it(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a/+ ~/a/# ~/b ~/end");

    unsubscribe(p, "~/a/+");
    unsubscribe(p, "~/b");
    unsubscribe(p, "~/a/#");
    publish(t, "~/a/x =x");
    publish(t, "~/b =x");
    publish(t, "~/end =x");
    hear(p, "publish q0 ~/end =x");
    silent(p);
}

static void test_mqtt_3_10_4_1_of_this_client_alone(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a"), *other = peer_watch(t, "~/a");

    unsubscribe(p, "~/a");
    publish(t, "~/a =x");
    hear(other, "publish q0 ~/a =x");
    silent(p);
}

static void test_mqtt_3_10_4_2_no_message_comes_any_more(struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *p = peer_join(t, "c1 id=~a x=60");

    subscribe(p, "~/a,q2 ~/b,q2");
    unsubscribe(p, "~/a");
    publish(t, "~/a =x");
    publish(t, "q1 ~/a =x");
    leave(p);
    publish(t, "q2 ~/a =x");
    publish(t, "q1 ~/b =x");
    p = peer_join(t, "c0 id=~a");
    hear(p, "publish q1 #* ~/b =x");
    silent(p);
}

static void test_mqtt_3_10_4_2_nor_through_a_share(struct test *t)
{
    struct peer *p = peer_watch(t, "$share/~g/~/a,q1 ~/b");

    unsubscribe(p, "$share/~g/~/a");
    publish(t, "~/a =x");
    publish(t, "q1 ~/a =x");
    publish(t, "~/b =x");
    hear(p, "publish q0 ~/b =x");
    silent(p);
}

static void test_mqtt_3_10_4_2_nor_after_a_crash(struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *p = peer_join(t, "c1 id=~a x=60");

    subscribe(p, "~/a,q1 ~/b,q1");
    unsubscribe(p, "~/a");
    restart(t);
    p = peer_join(t, "c0 id=~a x=60");
    publish(t, "q1 ~/a =x");
    publish(t, "q1 ~/b =x");
    hear(p, "publish q1 #* ~/b =x");
    silent(p);
}

/* ---- what is seen through ----------------------------------------------- */

static void test_mqtt_3_10_4_3_a_qos2_delivery_goes_on(struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *p = peer_join(t, "c1 id=~a x=60");

    subscribe(p, "~/a,q2");
    unsigned id = delivered(t, p, 2, "x");
    unsubscribe(p, "~/a");
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00", id);
    cut(p);
    p = peer_join(t, "c0 id=~a");
    hear(p, "pubrel #%u 00", id);
    say(p, "pubcomp #%u", id);
    silent(p);
}

static void test_mqtt_3_10_4_3_a_cut_off_delivery_goes_on(struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *p = peer_join(t, "c1 id=~a x=60");

    subscribe(p, "~/a,q2");
    publish(t, "q1 ~/a =x");
    publish(t, "q2 ~/a =y");
    unsigned x = hear(p, "publish q1 #* ~/a =x")->packet_id;
    unsigned y = hear(p, "publish q2 #* ~/a =y")->packet_id;
    unsubscribe(p, "~/a");
    cut(p);
    p = peer_join(t, "c0 id=~a");
    find(p, "publish q1 dup #%u ~/a =x", x);
    find(p, "publish q2 dup #%u ~/a =y", y);
}

/* ---- the answer --------------------------------------------------------- */

static void test_mqtt_3_10_4_4_each_unsubscribe_has_one_answer(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a ~/b ~/c");

    say(p, "unsubscribe #7 ~/a");
    hear(p, "unsuback #7 00");
    say(p, "unsubscribe #7 ~/a");
    hear(p, "unsuback #7 ??");
    say(p, "unsubscribe #8 ~/b ~/c ~/d");
    hear(p, "unsuback #8 00 00 ??");
    silent(p);
}

static void test_mqtt_3_10_4_5_with_its_packet_identifier(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a ~/b");

    hold(p);
    say(p, "unsubscribe #500 ~/a");
    say(p, "unsubscribe #11 ~/b");
    say(p, "unsubscribe #65535 ~/c");
    release(p);
    find(p, "unsuback #11 00");
    find(p, "unsuback #500 00");
    find(p, "unsuback #65535 ??");
    silent(p);
}

static void test_mqtt_3_10_4_5_even_if_nothing_was_removed(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say(p, "unsubscribe #777 ~/a ~/+");
    hear(p, "unsuback #777 ?? ??");
    silent(p);
}

static void
test_mqtt_3_10_4_6_many_filters_are_like_many_unsubscribes(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a ~/b ~/c ~/d");

    say(p, "unsubscribe #7 ~/a ~/x ~/a ~/c");
    hear(p, "unsuback #7 00 ?? ?? 00");
    publish(t, "~/a =x");
    publish(t, "~/c =x");
    publish(t, "~/b =x");
    publish(t, "~/d =x");
    find(p, "publish q0 ~/b =x"); /* each topic has an order of its own */
    find(p, "publish q0 ~/d =x");
    silent(p);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_10_1_1_other_flags_end_the_connection),
    TEST(test_mqtt_3_10_3_1_filters_are_utf8),
    TEST(test_mqtt_3_10_3_2_no_filter_is_an_error),
    TEST(test_mqtt_3_10_4_1_other_filters_remove_nothing),
    TEST(test_mqtt_3_10_4_1_the_same_filter_removes_it),
    TEST(test_mqtt_3_10_4_1_of_this_client_alone),
    TEST(test_mqtt_3_10_4_2_no_message_comes_any_more),
    TEST(test_mqtt_3_10_4_2_nor_through_a_share),
    TEST_RESTARTS(test_mqtt_3_10_4_2_nor_after_a_crash),
    TEST(test_mqtt_3_10_4_3_a_qos2_delivery_goes_on),
    TEST(test_mqtt_3_10_4_3_a_cut_off_delivery_goes_on),
    TEST(test_mqtt_3_10_4_4_each_unsubscribe_has_one_answer),
    TEST(test_mqtt_3_10_4_5_with_its_packet_identifier),
    TEST(test_mqtt_3_10_4_5_even_if_nothing_was_removed),
    TEST(test_mqtt_3_10_4_6_many_filters_are_like_many_unsubscribes),
};

const struct section section_3_10 = SECTION("3.10 UNSUBSCRIBE", cases);
