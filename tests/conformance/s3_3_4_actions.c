/*
 * s3_3_4_actions.c - 3.3.4 PUBLISH: actions.
 */
#include <string.h>

#include "suite.h"

/* ---- the answer -------------------------------------------------------- */

static void test_mqtt_3_3_4_1_no_answer_at_qos_0(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/a");
    struct peer *p = peer_join(t, "c1 id=~a");

    say(p, "publish ~/a =x");
    hear(watcher, "publish q0 ~/a =x");
    silent(p);
}

static void test_mqtt_3_3_4_1_puback_at_qos_1(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    peer_watch(t, "~/a");
    say(p, "publish #7 q1 ~/a =x");
    hear(p, "puback #7 [01]0*");
    say(p, "publish #8 q1 ~/nobody =x");
    hear(p, "puback #8 [01]0*");
    silent(p);
}

static void test_mqtt_3_3_4_1_pubrec_at_qos_2(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    peer_watch(t, "~/a");
    say(p, "publish #7 q2 ~/a =x");
    hear(p, "pubrec #7 [01]0*");
    say(p, "publish #8 q2 ~/nobody =x");
    hear(p, "pubrec #8 [01]0*");
    silent(p);
}

/* ---- overlapping subscriptions ----------------------------------------- */

/* What one message came to at a client whose subscriptions overlap. */
struct copies {
    unsigned n;       /* how many came */
    unsigned qos[3];  /* how many of them at each QoS */
    unsigned with[8]; /* how many with this set of Subscription Identifiers:
                         bit 0 for 1, bit 1 for 2, bit 2 for any other */
};

static unsigned id_set(const struct heard *h)
{
    struct mqtt_bytes rest = h->packet.props.raw;
    struct mqtt_property_view v;
    unsigned set = 0;

    while (mqtt_property_next(&rest, &v))
        if (v.id == MQTT_SUBSCRIPTION_IDENTIFIER)
            set |= v.number == 1 ? 1u : v.number == 2 ? 2u : 4u;
    return set;
}

/* Takes a delivery over, whatever its QoS. */
static void acknowledge(struct peer *p, const struct heard *h)
{
    unsigned id = h->packet_id, qos = h->packet.publish.qos;

    if (qos == 1)
        say(p, "puback #%u", id);
    if (qos < 2)
        return;
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00", id);
    say(p, "pubcomp #%u", id);
}

static struct copies copies_heard(struct peer *p)
{
    struct copies c;

    memset(&c, 0, sizeof c);
    do {
        const struct heard *h = hear(p, "publish *");
        c.n++;
        c.qos[h->packet.publish.qos]++;
        c.with[id_set(h)]++;
        acknowledge(p, h);
    } while (comes(p, QUIET, "publish *"));
    return c;
}

/* One copy at QoS 2; the other subscriptions may bring one each at theirs. */
static void highest_comes(struct test *t, struct peer *p)
{
    struct copies c = copies_heard(p);

    check(t, c.qos[2] == 1, "%u of %u copies came at QoS 2, not 1", c.qos[2],
          c.n);
    check(t, c.qos[1] <= 1 && c.qos[0] <= 1,
          "%u copies at QoS 1 and %u at QoS 0 for one subscription each",
          c.qos[1], c.qos[0]);
}

static void test_mqtt_3_3_4_2_the_highest_qos_of_all(struct test *t)
{
    need(t, NEED_QOS2);
    struct peer *rising = peer_watch(t, "~/#,q0 ~/+,q1 ~/a,q2");
    struct peer *falling = peer_watch(t, "~/#,q2 ~/+,q1 ~/a,q0");

    publish(t, "q2 ~/a =x");
    highest_comes(t, rising);
    highest_comes(t, falling);
}

static void test_mqtt_3_3_4_2_but_not_above_the_message(struct test *t)
{
    need(t, NEED_QOS2);
    struct peer *p = peer_watch(t, "~/#,q0 ~/+,q1 ~/a,q2");

    publish(t, "q1 ~/a =x");
    struct copies c = copies_heard(p);
    check(t, c.qos[2] == 0 && c.qos[1] >= 1,
          "of %u copies %u came at QoS 2, %u at QoS 1", c.n, c.qos[2],
          c.qos[1]);
    check(t, c.qos[1] <= 2 && c.qos[0] <= 1,
          "%u copies at QoS 1 for two subscriptions, %u at QoS 0 for one",
          c.qos[1], c.qos[0]);
}

/* Three subscriptions to one topic: with identifiers 1 and 2, and without. */
static void subscribe_with_ids(struct peer *p)
{
    subscribe(p, "~/#,q1 sid=1");
    subscribe(p, "~/+,q1");
    subscribe(p, "~/a,q1 sid=2");
}

static void ids_come(struct test *t, struct peer *p)
{
    struct copies c = copies_heard(p);
    unsigned seen = 0;

    for (unsigned set = 0; set < 8; set++)
        seen |= c.with[set] > 0 ? set : 0;
    check(t, (seen & 1) != 0, "Subscription Identifier 1 did not come");
    check(t, (seen & 2) != 0, "Subscription Identifier 2 did not come");
    check(t, (seen & 4) == 0, "a Subscription Identifier of nobody's came");
}

static void test_mqtt_3_3_4_3_the_identifiers_come(struct test *t)
{
    need(t, NEED_WILDCARDS | NEED_IDS);
    struct peer *p = peer_watch(t, "~m");

    subscribe_with_ids(p);
    publish(t, "~/a =x");
    ids_come(t, p);
    need(t, NEED_QOS1);
    publish(t, "q1 ~/a =x");
    ids_come(t, p);
}

static void test_mqtt_3_3_4_3_also_to_a_session_that_was_away(struct test *t)
{
    need(t, NEED_WILDCARDS | NEED_IDS | NEED_SESSIONS | NEED_QOS1);
    struct peer *p = peer_join(t, "c1 id=~a x=300");

    subscribe_with_ids(p);
    cut(p);
    publish(t, "q1 ~/a =x");
    ids_come(t, peer_join(t, "c0 id=~a x=300"));
}

static void test_mqtt_3_3_4_4_one_copy_has_all_identifiers(struct test *t)
{
    need(t, NEED_WILDCARDS | NEED_IDS);
    struct peer *p = peer_watch(t, "~m");

    subscribe_with_ids(p);
    publish(t, "~/a =x");
    struct copies c = copies_heard(p);
    check(t, c.n > 1 || c.with[3] == 1,
          "one copy came, but not with Subscription Identifiers 1 and 2");
}

/* One copy names both identifiers, several have one each and `without` none. */
static void each_has_its_own(struct test *t, struct peer *p, unsigned without)
{
    struct copies c = copies_heard(p);

    if (c.n == 1)
        check(t, c.with[3] == 1, "the only copy does not name both");
    else
        check(t,
              c.with[1] == 1 && c.with[2] == 1 && c.with[0] <= without &&
                  c.n == 2 + c.with[0],
              "of %u copies %u have Subscription Identifier 1 alone, %u have 2 "
              "alone, %u have none",
              c.n, c.with[1], c.with[2], c.with[0]);
}

static void test_mqtt_3_3_4_5_separate_copies_have_their_own(struct test *t)
{
    need(t, NEED_WILDCARDS | NEED_IDS);
    struct peer *p = peer_watch(t, "~m");

    subscribe_with_ids(p);
    publish(t, "~/a =x");
    each_has_its_own(t, p, 1);
}

static void test_mqtt_3_3_4_5_so_has_a_shared_subscription(struct test *t)
{
    need(t, NEED_SHARED | NEED_IDS);
    struct peer *p = peer_watch(t, "~m");

    subscribe(p, "$share/~g/~/a,q1 sid=1");
    subscribe(p, "~/a,q1 sid=2");
    publish(t, "~/a =x");
    each_has_its_own(t, p, 0);
    need(t, NEED_QOS1);
    publish(t, "q1 ~/a =x");
    each_has_its_own(t, p, 0);
}

static void test_mqtt_3_3_4_6_none_from_a_client(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/a");

    for (unsigned qos = 0; qos <= offer(t)->qos_max; qos++) {
        struct peer *p = peer_join(t, "c1 id=~a%u", qos);
        say_wrong(p, "publish #%u q%u ~/a =wrong sid=1", qos, qos);
        refused(p, "82");
    }
    publish(t, "~/a =right");
    hear(watcher, "publish q0 ~/a =right");
}

/* ---- the client's window ----------------------------------------------- */

/* For more than Receive Maximum this section names DISCONNECT 0x93 and has it
 * handled as 4.13 says: such an error closes the connection [MQTT-4.13.1-1]. */
static void test_mqtt_3_3_4_7_one_publish_too_many(struct test *t)
{
    unsigned max = offer(t)->receive_max;
    struct peer *p = peer_join(t, "c1 id=~a");

    if (max == 65535)
        not_offered(t, "Receive Maximum is 65535, as many as there are "
                       "Packet Identifiers");
    hold(p);
    for (unsigned id = 1; id <= max; id++)
        say(p, "publish #%u q2 ~/a =x", id);
    release(p);
    for (unsigned id = 1; id <= max; id++)
        hear(p, "pubrec #%u [01]0*", id);
    say(p, "pubrel #1");
    hear(p, "pubcomp #1 00*");
    say(p, "publish #1 q2 ~/a =x");
    hear(p, "pubrec #1 [01]0*");
    say_wrong(p, "publish #%u q2 ~/a =x", max + 1);
    refused(p, "93");
}

static void test_mqtt_3_3_4_7_the_client_keeps_to_it(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a", "connack 00 rm=2");
    const char *third = "publish #3 q1 ~/a =x";

    say(p, "publish #1 q1 ~/a =x");
    say(p, "publish #2 q2 ~/a =x");
    client_refuses(p, "MQTT-3.3.4-7", "%s", third);
    server_says(p, "pubrec #2 00");
    hear(p, "pubrec #2 00");
    client_refuses(p, "MQTT-3.3.4-7", "%s", third);
    server_says(p, "puback #1 00");
    hear(p, "puback #1 00");
    say(p, "%s", third);
    check(t, strcmp(sent(p), "PUBLISH PUBLISH PUBLISH ") == 0,
          "the client sent something else");
}

/* ---- the broker's window ----------------------------------------------- */

static void test_mqtt_3_3_4_9_puback_lets_the_next_one_come(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a rm=1");

    subscribe(p, "~/a,q1");
    for (int i = 1; i <= 3; i++)
        publish(t, "q1 ~/a =%d", i);
    for (int i = 1; i <= 3; i++) {
        unsigned id = hear(p, "publish q1 #* ~/a =%d", i)->packet_id;
        absent(p, "publish *");
        say(p, "puback #%u", id);
    }
    silent(p);
}

static void test_mqtt_3_3_4_9_pubcomp_does_pubrec_does_not(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a rm=1");

    subscribe(p, "~/a,q2");
    publish(t, "q2 ~/a =1");
    publish(t, "q1 ~/a =2");
    unsigned id = hear(p, "publish q2 #* ~/a =1")->packet_id;
    absent(p, "publish *");
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00", id);
    absent(p, "publish *");
    say(p, "pubcomp #%u", id);
    hear(p, "publish q1 #* ~/a =2");
}

static void test_mqtt_3_3_4_9_pubrec_of_0x80_does(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a rm=1");

    subscribe(p, "~/a,q2");
    for (int i = 1; i <= 3; i++)
        publish(t, "q2 ~/a =%d", i);
    for (int i = 1; i <= 3; i++) {
        unsigned id = hear(p, "publish q2 #* ~/a =%d", i)->packet_id;
        absent(p, "publish *");
        say(p, "pubrec #%u 80", id);
    }
    silent(p);
}

static void test_mqtt_3_3_4_9_many_messages_never_too_many(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a rm=3");
    unsigned came = 0;

    subscribe(p, "~/a,q2");
    for (int i = 0; i < 8; i++)
        publish(t, "q%d ~/a =%d", i % 2 + 1, i);
    while (came < 4 && comes(p, came == 0 ? WAIT : QUIET, "publish *")) {
        hear(p, "publish *");
        came++;
    }
    check(t, came >= 1 && came <= 3, "%u came at Receive Maximum 3", came);
}

static void test_mqtt_3_3_4_9_the_window_of_this_connection(struct test *t)
{
    struct peer *p = stay(t, "~/a,q1");

    for (int i = 1; i <= 3; i++)
        publish(t, "q1 ~/a =%d", i);
    hear(p, "publish q1 #* ~/a =1");
    cut(p);
    p = peer_join(t, "c0 id=~a x=300 rm=1");
    for (int i = 1; i <= 3; i++) {
        unsigned id = hear(p, "publish q1*#* ~/a =%d", i)->packet_id;
        absent(p, "publish *");
        say(p, "puback #%u", id);
    }
}

/* A client whose window a delivery of "=1" has filled while "=2" waits; *id is
 * the delivery's Packet Identifier. */
static struct peer *peer_full(struct test *t, unsigned qos, unsigned *id)
{
    struct peer *p = peer_join(t, "c1 id=~a rm=1");

    subscribe(p, "~/a,q%u", qos);
    publish(t, "q%u ~/a =1", qos);
    publish(t, "q%u ~/a =2", qos);
    *id = hear(p, "publish q%u #* ~/a =1", qos)->packet_id;
    return p;
}

static void test_mqtt_3_3_4_10_a_full_window_delays_no_answer(struct test *t)
{
    unsigned id, own;
    struct peer *p = peer_full(t, 1, &id);

    say(p, "pingreq");
    hear(p, "pingresp");
    subscribe(p, "~/b");
    own = new_id(p);
    say(p, "unsubscribe #%u ~/b", own);
    hear(p, "unsuback #%u 00*", own);
    own = new_id(p);
    say(p, "publish #%u q1 ~/c =x", own);
    hear(p, "puback #%u [01]0*", own);
    say(p, "puback #%u", id);
    hear(p, "publish q1 #* ~/a =2");
}

static void test_mqtt_3_3_4_10_nor_a_qos_2_exchange(struct test *t)
{
    unsigned id, own;
    struct peer *p = peer_full(t, 2, &id);

    own = new_id(p);
    say(p, "publish #%u q2 ~/c =x", own);
    hear(p, "pubrec #%u [01]0*", own);
    say(p, "pubrel #%u", own);
    hear(p, "pubcomp #%u 00*", own);
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00", id);
    say(p, "pubcomp #%u", id);
    hear(p, "publish q2 #* ~/a =2");
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_3_4_1_no_answer_at_qos_0),
    TEST(test_mqtt_3_3_4_1_puback_at_qos_1),
    TEST(test_mqtt_3_3_4_1_pubrec_at_qos_2),
    TEST(test_mqtt_3_3_4_2_the_highest_qos_of_all),
    TEST(test_mqtt_3_3_4_2_but_not_above_the_message),
    TEST(test_mqtt_3_3_4_3_the_identifiers_come),
    TEST(test_mqtt_3_3_4_3_also_to_a_session_that_was_away),
    TEST(test_mqtt_3_3_4_4_one_copy_has_all_identifiers),
    TEST(test_mqtt_3_3_4_5_separate_copies_have_their_own),
    TEST(test_mqtt_3_3_4_5_so_has_a_shared_subscription),
    TEST(test_mqtt_3_3_4_6_none_from_a_client),
    TEST(test_mqtt_3_3_4_7_one_publish_too_many),
    TEST(test_mqtt_3_3_4_7_the_client_keeps_to_it),
    UNOBSERVABLE(test_mqtt_3_3_4_8,
                 "a packet that a client holds back looks like one that it "
                 "does not want to send"),
    TEST(test_mqtt_3_3_4_9_puback_lets_the_next_one_come),
    TEST(test_mqtt_3_3_4_9_pubcomp_does_pubrec_does_not),
    TEST(test_mqtt_3_3_4_9_pubrec_of_0x80_does),
    TEST(test_mqtt_3_3_4_9_many_messages_never_too_many),
    TEST(test_mqtt_3_3_4_9_the_window_of_this_connection),
    TEST(test_mqtt_3_3_4_10_a_full_window_delays_no_answer),
    TEST(test_mqtt_3_3_4_10_nor_a_qos_2_exchange),
};

const struct section section_3_3_4 = SECTION("3.3.4 PUBLISH: actions", cases);
