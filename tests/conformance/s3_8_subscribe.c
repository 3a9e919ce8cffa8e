/*
 * s3_8_subscribe.c - 3.8 SUBSCRIBE.
 */
#include <stdio.h>
#include <string.h>

#include "suite.h"

/* This SUBSCRIBE, from its Packet Identifier on, is refused. */
static void frame_refused(struct test *t, unsigned first, const char *bytes,
                          const char *codes)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say_frame(p, first, "%s", bytes);
    refused(p, codes);
}

static void test_mqtt_3_8_1_1_other_flags_end_the_connection(struct test *t)
{
    const unsigned firsts[] = {0x80, 0x81, 0x83, 0x86, 0x8A};

    for (size_t i = 0; i < COUNT(firsts); i++)
        frame_refused(t, firsts[i], "00 01 00 {'~/a'} 00", "81");
}

static void test_mqtt_3_8_3_1_filters_are_utf8(struct test *t)
{
    frame_refused(t, 0x82, "00 01 00 {'~/' C3 28} 00", "81");
    frame_refused(t, 0x82, "00 01 00 {'~/' ED A0 80} 00", "81");
    frame_refused(t, 0x82, "00 01 00 {'~/' C0 AF} 00", "81");
    frame_refused(t, 0x82, "00 01 00 {'~/a'} 00 {'~/' E2 82} 00", "81");
}

static void test_mqtt_3_8_3_2_no_filter_is_an_error(struct test *t)
{
    frame_refused(t, 0x82, "00 01 00", "82");
}

static void test_mqtt_3_8_3_2_no_options_are_an_error(struct test *t)
{
    frame_refused(t, 0x82, "00 01 00 {'~/a'}", "81 82");
}

/* ---- No Local ----------------------------------------------------------- */

/* What this client publishes does not come back, what another does comes. */
static void others_only(struct test *t, struct peer *p)
{
    say(p, "publish ~/a =own");
    say(p, "publish q1 #1001 ~/a =own");
    hear(p, "puback #1001 [01]0*");
    say(p, "publish q2 #1002 ~/a =own");
    hear(p, "pubrec #1002 [01]0*");
    say(p, "pubrel #1002"); /* some pass it on only now (4.3.3, figure 4.3) */
    hear(p, "pubcomp #1002 00*");
    publish(t, "q1 ~/a =other");
    hear(p, "publish q1 #* ~/a =other");
    silent(p);
}

static void test_mqtt_3_8_3_3_own_messages_stay_away(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    subscribe(p, "~/a,q2,nl");
    others_only(t, p);
}

static void
test_mqtt_3_8_3_3_own_is_what_the_client_identifier_says(struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *p = peer_join(t, "c1 id=~a x=60");

    subscribe(p, "~/a,q2,nl");
    leave(p);
    others_only(t, peer_join(t, "c0 id=~a"));
}

static void test_mqtt_3_8_3_4_no_local_on_a_share_is_an_error(struct test *t)
{
    need(t, NEED_SHARED);
    struct peer *p = peer_join(t, "c1 id=~a");

    say_wrong(p, "subscribe #1 $share/~g/~/a,nl");
    refused(p, "82");
    p = peer_join(t, "c1 id=~a");
    say_wrong(p, "subscribe #1 ~/a,nl $share/~g/~/a,q1,nl");
    refused(p, "82");
}

static void test_mqtt_3_8_3_5_reserved_option_bits_are_malformed(struct test *t)
{
    frame_refused(t, 0x82, "00 01 00 {'~/a'} 40", "81");
    frame_refused(t, 0x82, "00 01 00 {'~/a'} 80", "81");
    frame_refused(t, 0x82, "00 01 00 {'~/a'} C1", "81");
    frame_refused(t, 0x82, "00 01 00 {'~/a'} 00 {'~/b'} 42", "81");
}

/* ---- the answer --------------------------------------------------------- */

static void test_mqtt_3_8_4_1_each_subscribe_has_one_answer(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say(p, "subscribe #1 ~/a");
    hear(p, "suback #1 *");
    say(p, "subscribe #1 ~/a");
    hear(p, "suback #1 *");
    say(p, "subscribe #2 ~/a,q2 ~/b,q1,nl,rap,rh2");
    hear(p, "suback #2 *");
    silent(p);
}

static void test_mqtt_3_8_4_1_a_refused_filter_has_an_answer(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say_wrong(p, "subscribe #1 ~/a#");
    if (comes(p, WAIT, "suback*"))
        hear(p, "suback #1 [89a]?");
    else
        refused_as(p, "8f 81 82", "MQTT-4.7.1-1");
}

static void test_mqtt_3_8_4_2_the_answer_has_the_same_identifier(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    hold(p);
    say(p, "subscribe #500 ~/a");
    say(p, "subscribe #1 ~/b");
    say(p, "subscribe #65535 ~/c ~/d");
    say(p, "subscribe #256 ~/a");
    release(p);
    find(p, "suback #1 ??");
    find(p, "suback #256 ??");
    find(p, "suback #500 ??");
    find(p, "suback #65535 ?? ??");
    silent(p);
}

/* ---- a filter that is subscribed already -------------------------------- */

static void
test_mqtt_3_8_4_3_the_new_subscription_is_the_only_one(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q1");

    subscribe(p, "~/a,q2");
    subscribe(p, "~/a,q1");
    publish(t, "q2 ~/a =x");
    hear(p, "publish q1 #* ~/a =x");
    silent(p);
    subscribe(p, "~/a");
    publish(t, "q2 ~/a =y");
    hear(p, "publish q0 ~/a =y");
}

static void test_mqtt_3_8_4_3_its_options_count(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,nl");

    subscribe(p, "~/a");
    say(p, "publish ~/a =own");
    hear(p, "publish q0 ~/a =own");
    subscribe(p, "~/a,rap,nl,rh2");
    say(p, "publish ~/a =own");
    publish(t, "retain ~/a =x");
    hear(p, "publish q0 retain ~/a =x");
    subscribe(p, "~/a,rh2");
    publish(t, "retain ~/a =y");
    hear(p, "publish q0 ~/a =y");
    publish(t, "retain ~/a =");
}

static void test_mqtt_3_8_4_3_its_subscription_identifier_counts(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say(p, "subscribe #1 sid=1 ~/a");
    hear(p, "suback #1 00");
    say(p, "subscribe #1 sid=268435455 ~/a");
    hear(p, "suback #1 00");
    publish(t, "~/a =x");
    hear(p, "publish q0 ~/a =x sid=268435455");
    say(p, "subscribe #1 ~/a");
    hear(p, "suback #1 00");
    publish(t, "~/a =y");
    hear(p, "publish q0 ~/a =y");
    silent(p);
}

static void test_mqtt_3_8_4_3_it_is_what_a_crash_leaves(struct test *t)
{
    need(t, NEED_SESSIONS | NEED_QOS1 | NEED_RETAIN | NEED_IDS);
    struct peer *p = peer_join(t, "c1 id=~a x=60");

    say(p, "subscribe #1 sid=1 ~/a");
    hear(p, "suback #1 00");
    say(p, "subscribe #1 sid=2 ~/a,q1,nl,rap,rh2");
    hear(p, "suback #1 01");
    restart(t);
    p = peer_join(t, "c0 id=~a x=60");
    say(p, "publish ~/a =own");
    publish(t, "q1 retain ~/a =x");
    hear(p, "publish q1 retain #* ~/a =x sid=2");
    silent(p);
    publish(t, "retain ~/a =");
}

static void test_mqtt_3_8_4_4_retained_messages_are_sent_again(struct test *t)
{
    struct peer *p;

    publish(t, "retain ~/a =x");
    publish(t, "retain ~/b =x");
    p = peer_watch(t, "~/a ~/b");
    for (int i = 0; i < 2; i++) {
        find(p, "publish q0 retain ~/a =x");
        find(p, "publish q0 retain ~/b =x");
        silent(p);
        subscribe(p, "~/a ~/b");
    }
    publish(t, "retain ~/a =");
    publish(t, "retain ~/b =");
}

static void test_mqtt_3_8_4_4_no_message_is_lost_meanwhile(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q1");

    for (int i = 100; i < 130; i++) {
        say(p, "subscribe #%d ~/a,q1", i);
        publish(t, "q1 ~/a =%d", i);
        const struct heard *h = hear(p, "publish q1 #* ~/a =%d", i);
        say(p, "puback #%u", h->packet_id);
        hear(p, "suback #%d 01", i);
    }
    silent(p);
}

static void test_mqtt_3_8_4_4_what_is_queued_is_kept(struct test *t)
{
    need(t, NEED_SESSIONS | NEED_QOS1);
    struct peer *p = peer_join(t, "c1 id=~a x=60");

    subscribe(p, "~/a,q1");
    leave(p);
    publish(t, "q1 ~/a =a");
    publish(t, "q1 ~/a =b");
    publish(t, "q1 ~/a =c");
    p = peer_open(t);
    hold(p);
    say(p, "connect c0 id=~a rm=1");
    say(p, "subscribe #1 ~/a,q1");
    release(p);
    hear(p, "connack 00 sp=1*");
    hear(p, "suback #1 01");
    const char *came = serve(p, 3);
    check(t, strcmp(came, "a b c ") == 0, "of a b c came %s", came);
}

/* ---- many filters ------------------------------------------------------- */

static void
test_mqtt_3_8_4_5_many_filters_are_like_many_subscribes(struct test *t)
{
    need(t, NEED_QOS1);
    struct peer *p = peer_join(t, "c1 id=~a");

    say(p, "subscribe #7 ~/a ~/b,q1,nl ~/c ~/a,q1 ~/d,nl");
    hear(p, "suback #7 00 01 00 01 00");
    publish(t, "q1 ~/a =x");
    hear(p, "publish q1 #* ~/a =x");
    publish(t, "q1 ~/b =x");
    hear(p, "publish q1 #* ~/b =x");
    say(p, "publish ~/d =own");
    say(p, "publish ~/c =own");
    hear(p, "publish q0 ~/c =own");
    publish(t, "~/d =x");
    hear(p, "publish q0 ~/d =x");
    silent(p);
}

static void
test_mqtt_3_8_4_5_one_identifier_goes_with_all_filters(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say(p, "subscribe #7 sid=5 ~/a ~/b");
    hear(p, "suback #7 00 00");
    publish(t, "~/a =x");
    hear(p, "publish q0 ~/a =x sid=5");
    publish(t, "~/b =x");
    hear(p, "publish q0 ~/b =x sid=5");
}

static void test_mqtt_3_8_4_5_a_refused_filter_leaves_the_others(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say_wrong(p, "subscribe #7 ~/a ~/b# ~/c");
    if (!comes(p, WAIT, "suback*")) {
        refused_as(p, "8f 81 82", "MQTT-4.7.1-1");
        return;
    }
    hear(p, "suback #7 00 [89a]? 00");
    publish(t, "~/a =x");
    hear(p, "publish q0 ~/a =x");
    publish(t, "~/c =x");
    hear(p, "publish q0 ~/c =x");
    silent(p);
}

static void test_mqtt_3_8_4_6_each_filter_has_a_code(struct test *t)
{
    const int counts[] = {1, 2, 50};
    struct peer *p = peer_join(t, "c1 id=~a");

    for (size_t i = 0; i < COUNT(counts); i++) {
        char filters[500] = "";
        for (int k = 0; k < counts[i]; k++) {
            size_t n = strlen(filters);
            snprintf(filters + n, sizeof filters - n, " ~/%d", k);
        }
        say(p, "subscribe #7%s", filters);
        size_t n = hear(p, "suback #7 *")->packet.list.n;
        check(t, n == (size_t)counts[i], "%zu codes for %d filters", n,
              counts[i]);
    }
}

/* ---- the granted QoS ---------------------------------------------------- */

static unsigned lower(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

static void test_mqtt_3_8_4_7_the_code_is_the_granted_qos(struct test *t)
{
    unsigned top = offer(t)->qos_max;

    for (unsigned asked = 0; asked <= 2; asked++) {
        struct peer *p = peer_join(t, "c1 id=~%u", asked);
        say(p, "subscribe #1 ~/%u,q%u", asked, asked);
        unsigned code = hear(p, "suback #1 ??")->packet.list.p[0];
        check(t, code <= asked || code >= 0x80, "QoS %u asked for, code %02x",
              asked, code);
        publish(t, "q%u ~/%u =x", top, asked);
        if (code >= 0x80)
            silent(p);
        else
            hear(p, "publish q%u *~/%u =x", lower(code, top), asked);
    }
}

static void test_mqtt_3_8_4_8_the_lower_qos_counts(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");
    uint8_t granted[3];

    say(p, "subscribe #1 ~/0,q0 ~/1,q1 ~/2,q2");
    memcpy(granted, hear(p, "suback #1 0? 0? 0?")->packet.list.p, 3);
    for (unsigned q = 0; q <= offer(t)->qos_max; q++)
        for (unsigned i = 0; i < 3; i++) {
            publish(t, "q%u ~/%u =%u", q, i, q);
            unsigned came =
                find(p, "publish q? *~/%u =%u", i, q)->packet.publish.qos;
            check(t, came == lower(q, granted[i]),
                  "published at QoS %u, granted %u, sent at %u", q, granted[i],
                  came);
        }
}

static void test_mqtt_3_8_4_8_of_retained_messages_too(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    publish(t, "q2 retain ~/a =x");
    publish(t, "q1 retain ~/b =x");
    publish(t, "q2 retain ~/c =x");
    say(p, "subscribe #1 ~/a,q1 ~/b,q2 ~/c");
    hear(p, "suback #1 01 02 00");
    find(p, "publish q1 retain #* ~/a =x");
    find(p, "publish q1 retain #* ~/b =x");
    find(p, "publish q0 retain ~/c =x");
    publish(t, "retain ~/a =");
    publish(t, "retain ~/b =");
    publish(t, "retain ~/c =");
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_8_1_1_other_flags_end_the_connection),
    TEST(test_mqtt_3_8_3_1_filters_are_utf8),
    TEST(test_mqtt_3_8_3_2_no_filter_is_an_error),
    TEST(test_mqtt_3_8_3_2_no_options_are_an_error),
    TEST(test_mqtt_3_8_3_3_own_messages_stay_away),
    TEST(test_mqtt_3_8_3_3_own_is_what_the_client_identifier_says),
    TEST(test_mqtt_3_8_3_4_no_local_on_a_share_is_an_error),
    TEST(test_mqtt_3_8_3_5_reserved_option_bits_are_malformed),
    TEST(test_mqtt_3_8_4_1_each_subscribe_has_one_answer),
    TEST(test_mqtt_3_8_4_1_a_refused_filter_has_an_answer),
    TEST(test_mqtt_3_8_4_2_the_answer_has_the_same_identifier),
    TEST(test_mqtt_3_8_4_3_the_new_subscription_is_the_only_one),
    TEST(test_mqtt_3_8_4_3_its_options_count),
    TEST(test_mqtt_3_8_4_3_its_subscription_identifier_counts),
    TEST_RESTARTS(test_mqtt_3_8_4_3_it_is_what_a_crash_leaves),
    TEST(test_mqtt_3_8_4_4_retained_messages_are_sent_again),
    TEST(test_mqtt_3_8_4_4_no_message_is_lost_meanwhile),
    TEST(test_mqtt_3_8_4_4_what_is_queued_is_kept),
    TEST(test_mqtt_3_8_4_5_many_filters_are_like_many_subscribes),
    TEST(test_mqtt_3_8_4_5_one_identifier_goes_with_all_filters),
    TEST(test_mqtt_3_8_4_5_a_refused_filter_leaves_the_others),
    TEST(test_mqtt_3_8_4_6_each_filter_has_a_code),
    TEST(test_mqtt_3_8_4_7_the_code_is_the_granted_qos),
    TEST(test_mqtt_3_8_4_8_the_lower_qos_counts),
    TEST(test_mqtt_3_8_4_8_of_retained_messages_too),
};

const struct section section_3_8 = SECTION("3.8 SUBSCRIBE", cases);
