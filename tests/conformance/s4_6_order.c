/*
 * s4_6_order.c - 4.6 Message ordering.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "suite.h"

/* ---- what binds the client ------------------------------------------------
 *
 * A client that breaks the order confuses no broker that goes by Packet
 * Identifiers; but a broker may also end the connection. */

/* 1 = the connection stands after what was just said. */
static int stands(struct test *t, struct peer *p)
{
    say(p, "pingreq");
    if (diagnosed(t) || comes(p, WAIT, "pingresp")) {
        hear(p, "pingresp");
        return 1;
    }
    while (next(p, QUIET) != NULL)
        ;
    ended(p);
    return 0;
}

static void test_mqtt_4_6_0_1_repeats_in_wrong_order(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a,q2"), *p = resume(t, "");

    for (int i = 1; i <= 2; i++) {
        say(p, "publish q2 #%d ~/a =%d", i, i);
        hear(p, "pubrec #%d [01]0*", i);
    }
    cut(p);
    p = resume(t, "");
    for (int i = 2; i >= 1; i--)
        say(p, "publish q2 dup #%d ~/a =%d", i, i);
    if (!stands(t, p))
        return;
    for (int i = 2; i >= 1; i--) {
        find(p, "pubrec #%d [01]0*", i);
        say(p, "pubrel #%d", i);
        hear(p, "pubcomp #%d 00*", i);
    }
    serve(w, 2);
    silent(w);
}

/* Three deliveries to a client; what their identifiers are. */
static struct peer *three_delivered(struct test *t, unsigned qos,
                                    unsigned id[3])
{
    struct peer *p = resume(t, "");

    subscribe(p, "~/a,q2");
    for (int i = 0; i < 3; i++) {
        publish(t, "q%u ~/a =%d", qos, i);
        id[i] = hear(p, "publish q%u #* ~/a =%d*", qos, i)->packet_id;
    }
    return p;
}

static void test_mqtt_4_6_0_2_pubacks_in_wrong_order(struct test *t)
{
    unsigned id[3];
    struct peer *p = three_delivered(t, 1, id);

    say(p, "puback #%u", id[2]);
    say(p, "puback #%u", id[1]);
    if (!stands(t, p))
        return;
    cut(p);
    p = resume(t, "");
    hear(p, "publish q1 dup #%u ~/a =0*", id[0]);
    say(p, "puback #%u", id[0]);
    silent(p);
}

static void test_mqtt_4_6_0_3_pubrecs_in_wrong_order(struct test *t)
{
    unsigned id[3];
    struct peer *p = three_delivered(t, 2, id);

    say(p, "pubrec #%u", id[2]);
    say(p, "pubrec #%u", id[1]);
    if (!stands(t, p))
        return;
    for (int i = 2; i >= 1; i--) {
        find(p, "pubrel #%u 00*", id[i]);
        say(p, "pubcomp #%u", id[i]);
    }
    silent(p);
    cut(p);
    p = resume(t, "");
    hear(p, "publish q2 dup #%u ~/a =0*", id[0]);
    silent(p);
}

static void test_mqtt_4_6_0_4_pubrels_in_wrong_order(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a,q2"), *p = peer_join(t, "c1 id=~p");

    for (int i = 1; i <= 3; i++) {
        say(p, "publish q2 #%d ~/a =%d", i, i);
        hear(p, "pubrec #%d [01]0*", i);
    }
    for (int i = 3; i >= 2; i--)
        say(p, "pubrel #%d", i);
    if (!stands(t, p))
        return;
    for (int i = 3; i >= 2; i--)
        find(p, "pubcomp #%d 00*", i);
    /* The first one is still open: this is a repeat. */
    say(p, "publish q2 dup #1 ~/a =1");
    hear(p, "pubrec #1 [01]0*");
    say(p, "pubrel #1");
    hear(p, "pubcomp #1 00*");
    serve(w, 3);
    silent(w);
}

/* ---- what binds the broker ------------------------------------------------
 */

/* Publishes the numbers to the topic, up to ten in one write, and sees each
 * ten acknowledged. */
static void numbers_send(struct test *t, struct peer *p, unsigned qos,
                         const char *topic, unsigned first, unsigned last)
{
    unsigned most = offer(t)->receive_max, step = most < 10 ? most : 10;

    for (unsigned n = first; n <= last; n += step) {
        unsigned end = n + step - 1 < last ? n + step - 1 : last;
        hold(p);
        for (unsigned i = n; qos > 0 && i <= end; i++)
            say(p, "publish q%u #%u %s =%u", qos, i, topic, i);
        for (unsigned i = n; qos == 0 && i <= end; i++)
            say(p, "publish %s =%u", topic, i);
        say(p, "pingreq");
        release(p);
        for (unsigned i = n; qos > 0 && i <= end; i++)
            find(p, "pub%s #%u [01]0*", qos == 1 ? "ack" : "rec", i);
        for (unsigned i = n; qos == 2 && i <= end; i++)
            say(p, "pubrel #%u", i);
        for (unsigned i = n; qos == 2 && i <= end; i++)
            find(p, "pubcomp #%u 00*", i);
        hear(p, "pingresp");
    }
}

/* The next deliveries are these numbers, each once and in their order. */
static void numbers_hear(struct test *t, struct peer *p, unsigned first,
                         unsigned last)
{
    char expected[400] = "";
    size_t at = 0;

    for (unsigned i = first; i <= last; i++)
        at += (size_t)snprintf(expected + at, sizeof expected - at, "%u ", i);
    const char *came = serve(p, last - first + 1);
    check(t, strcmp(came, expected) == 0, "client hears the numbers %.400s",
          came);
}

static void test_mqtt_4_6_0_5_live_messages_keep_their_order(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a,q2"), *p = peer_join(t, "c1 id=~p");

    for (unsigned qos = 0; qos <= offer(t)->qos_max; qos++) {
        numbers_send(t, p, qos, "~/a", 1, 50);
        numbers_hear(t, w, 1, 50);
    }
}

/* A client is sent the first numbers, the connection breaks, more come; when
 * it is back it gets all that it has not answered, in order. */
static void in_mid_stream(struct test *t, unsigned qos)
{
    struct peer *w = resume(t, "rm=5"), *p = peer_join(t, "c1 id=~p");

    subscribe(w, "~/a,q2");
    numbers_send(t, p, qos, "~/a", 1, 10);
    for (unsigned i = 1; i <= 5; i++)
        hear(w, "publish q%u #* ~/a =%u*", qos, i);
    cut(w);
    numbers_send(t, p, qos, "~/a", 11, 20);
}

static void test_mqtt_4_6_0_5_a_resumed_session_goes_on(struct test *t)
{
    for (unsigned qos = 1; qos <= 2; qos++) {
        in_mid_stream(t, qos);
        struct peer *w = resume(t, "rm=5");
        numbers_hear(t, w, 1, 20);
        cut(w);
    }
}

/* Freed identifiers may be in use again: the order is not that of them. */
static void test_mqtt_4_6_0_5_also_with_gaps(struct test *t)
{
    struct peer *w = resume(t, "rm=5"), *p = peer_join(t, "c1 id=~p");
    unsigned id[6];

    subscribe(w, "~/a,q1");
    numbers_send(t, p, 1, "~/a", 1, 12);
    for (unsigned i = 1; i <= 5; i++)
        id[i] = hear(w, "publish q1 #* ~/a =%u*", i)->packet_id;
    say(w, "puback #%u", id[1]);
    say(w, "puback #%u", id[2]);
    hear(w, "publish q1 #* ~/a =6*");
    hear(w, "publish q1 #* ~/a =7*");
    cut(w);
    numbers_hear(t, resume(t, "rm=5"), 3, 12);
}

/* The number of the next delivery, which is answered. */
static unsigned number_take(struct peer *p)
{
    const struct heard *h = hear(p, "publish q[12] * ~/a =*");
    unsigned number = (unsigned)strtoul(strchr(h->text, '=') + 1, NULL, 10);
    unsigned id = h->packet_id, qos = h->packet.publish.qos;

    say(p, qos == 1 ? "puback #%u" : "pubrec #%u", id);
    if (qos == 2) {
        find(p, "pubrel #%u 00*", id);
        say(p, "pubcomp #%u", id);
    }
    return number;
}

static void order_over_a_crash(struct test *t, unsigned qos)
{
    unsigned last = 0, count = 0, number;

    in_mid_stream(t, qos);
    restart(t);
    struct peer *w = resume(t, "rm=5");
    numbers_send(t, peer_join(t, "c1 id=~p"), qos, "~/a", 21, 21);
    for (; last < 21; last = number, count++) {
        number = number_take(w);
        check(t, number > last, "%u comes after %u", number, last);
    }
    check(t, count == 21, "%u of 21 came", count);
    cut(w);
}

static void test_mqtt_4_6_0_5_also_over_a_crash(struct test *t)
{
    order_over_a_crash(t, 1);
    order_over_a_crash(t, 2);
}

/* A broker need not keep messages of QoS 0 for those that are away (3.1.2.4);
 * if it does, later ones must not overtake them. */
static void test_mqtt_4_6_0_5_waiting_ones_of_qos_0_come_first(struct test *t)
{
    struct peer *p = resume(t, ""), *from = peer_join(t, "c1 id=~p");
    int last = 0;

    subscribe(p, "~/a,q1");
    cut(p);
    numbers_send(t, from, 1, "~/a", 1, 2);
    numbers_send(t, from, 0, "~/a", 3, 4);
    p = resume(t, "rm=1");
    unsigned id = find(p, "publish q1 #* ~/a =1*")->packet_id;
    numbers_send(t, from, 0, "~/a", 5, 6);
    say(p, "puback #%u", id);
    say(p, "puback #%u", find(p, "publish q1 #* ~/a =2*")->packet_id);
    while (last < 6) {
        const struct heard *h = hear(p, "publish q0 ~/a =?*");
        int number = h->packet.publish.payload.p[0] - '0';
        check(t, number > last, "%d comes after %d", number, last);
        last = number;
    }
    absent(p, "publish*");
}

/* Two publishers write to three topics in turn.  The payload tells whose it
 * is, for which topic, and its number. */
static void test_mqtt_4_6_0_6_every_topic_is_ordered(struct test *t)
{
    struct peer *w = peer_watch(t, "~/+,q1");
    struct peer *p[2] = {peer_join(t, "c1 id=~p"), peer_join(t, "c1 id=~q")};
    unsigned last[2][3] = {{0, 0, 0}, {0, 0, 0}};

    hold(p[0]);
    hold(p[1]);
    for (unsigned i = 0; i < 30; i++)
        say(p[i % 2], "publish q1 #%u ~/%u =%u%u%02u", i + 1, i / 2 % 3, i % 2,
            i / 2 % 3, i + 1);
    release(p[0]);
    release(p[1]);
    for (const char *c = serve(w, 30); *c != '\0'; c += 5) {
        unsigned number = (unsigned)strtoul(c + 2, NULL, 10);
        unsigned *before = &last[c[0] == '1'][(c[1] - '0') % 3];
        check(t, number > *before, "%u comes after %u", number, *before);
        *before = number;
    }
}

static const struct test_case cases[] = {
    TEST(test_mqtt_4_6_0_1_repeats_in_wrong_order),
    TEST(test_mqtt_4_6_0_2_pubacks_in_wrong_order),
    TEST(test_mqtt_4_6_0_3_pubrecs_in_wrong_order),
    TEST(test_mqtt_4_6_0_4_pubrels_in_wrong_order),
    TEST(test_mqtt_4_6_0_5_live_messages_keep_their_order),
    TEST(test_mqtt_4_6_0_5_a_resumed_session_goes_on),
    TEST(test_mqtt_4_6_0_5_also_with_gaps),
    TEST_RESTARTS(test_mqtt_4_6_0_5_also_over_a_crash),
    TEST(test_mqtt_4_6_0_5_waiting_ones_of_qos_0_come_first),
    TEST(test_mqtt_4_6_0_6_every_topic_is_ordered),
};

const struct section section_4_6 = SECTION("4.6 Message ordering", cases);
