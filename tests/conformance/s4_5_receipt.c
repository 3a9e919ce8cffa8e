/*
 * s4_5_receipt.c - 4.5 Message receipt.
 */
#include "suite.h"

#define SESSIONS 10

/* Session i, with `start` c1 made anew and with c0 taken up again. */
static struct peer *session(struct test *t, unsigned i, const char *start)
{
    need(t, NEED_SESSIONS);
    return peer_join(t, "%s id=~s%u x=300", start, i);
}

/* Ten sessions with a matching subscription; five of the clients are away. */
static void sessions_make(struct test *t, struct peer *p[SESSIONS])
{
    for (unsigned i = 0; i < SESSIONS; i++) {
        p[i] = session(t, i, "c1");
        subscribe(p[i], "%s,q2",
                  i % 4 < 2 || !offer(t)->wildcards ? "~/a" : "~/+");
        if (i % 2 == 1)
            cut(p[i]);
    }
}

/* All ten get the message, those that were away when they are back. */
static void all_get_it(struct test *t, struct peer *p[SESSIONS], unsigned qos)
{
    for (unsigned i = 0; i < SESSIONS; i++) {
        if (i % 2 == 1)
            p[i] = session(t, i, "c0");
        hear(p[i], "publish q%u #* ~/a =x*", qos);
    }
}

static void test_mqtt_4_5_0_1_qos_1_reaches_every_session(struct test *t)
{
    struct peer *p[SESSIONS];

    sessions_make(t, p);
    publish(t, "q1 ~/a =x");
    all_get_it(t, p, 1);
}

static void test_mqtt_4_5_0_1_qos_2_reaches_every_session(struct test *t)
{
    struct peer *p[SESSIONS];

    sessions_make(t, p);
    publish(t, "q2 ~/a =x");
    all_get_it(t, p, 2);
}

/* What the broker acknowledged it has taken ownership of (4.3.2).  All are
 * away: no delivery has the broker store the message before it need. */
static void test_mqtt_4_5_0_1_also_over_a_crash(struct test *t)
{
    struct peer *p[SESSIONS];

    sessions_make(t, p);
    for (unsigned i = 0; i < SESSIONS; i++)
        cut(p[i]);
    publish(t, "q2 ~/a =2");
    publish(t, "q1 ~/a =1");
    restart(t);
    for (unsigned i = 0; i < SESSIONS; i++) {
        p[i] = session(t, i, "c0");
        find(p[i], "publish q1 #* ~/a =1*");
        find(p[i], "publish q2 #* ~/a =2*");
    }
}

/* A client that breaks the rule, and acknowledges nothing, gets what it
 * allows to be open at a time, and the same again when it comes back. */
static void test_mqtt_4_5_0_2_unacknowledged_ones_stay_open(struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *p = peer_join(t, "c1 id=~a x=300 rm=2");

    subscribe(p, "~/a,q1");
    for (int i = 1; i <= 4; i++)
        publish(t, "q1 ~/a =%d", i);
    hear(p, "publish q1 #* ~/a =1*");
    hear(p, "publish q1 #* ~/a =2*");
    silent(p);
    cut(p);
    p = peer_join(t, "c0 id=~a x=300 rm=2");
    for (int i = 1; i <= 4; i++) {
        const char *dup = i <= 2 ? " dup" : "";
        say(p, "puback #%u",
            hear(p, "publish q1%s #* ~/a =%d*", dup, i)->packet_id);
    }
    silent(p);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_4_5_0_1_qos_1_reaches_every_session),
    TEST(test_mqtt_4_5_0_1_qos_2_reaches_every_session),
    TEST_RESTARTS(test_mqtt_4_5_0_1_also_over_a_crash),
    TEST(test_mqtt_4_5_0_2_unacknowledged_ones_stay_open),
};

const struct section section_4_5 = SECTION("4.5 Message receipt", cases);
