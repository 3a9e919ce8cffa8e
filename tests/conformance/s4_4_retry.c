/*
 * s4_4_retry.c - 4.4 Message delivery retry.
 */
#include "suite.h"

/* Three deliveries that their client has left open. */
struct open {
    unsigned one;      /* PUBLISH at QoS 1, payload "1" */
    unsigned two;      /* PUBLISH at QoS 2, payload "2" */
    unsigned released; /* at QoS 2, payload "3", PUBREL was sent */
};

/* A client with a session, and the deliveries that it leaves open. */
static struct peer *leave_open(struct test *t, struct open *o)
{
    struct peer *p = stay(t, "~/a,q2");

    say(p, "puback #%u", delivered(t, p, 1, "0"));
    o->one = delivered(t, p, 1, "1");
    o->two = delivered(t, p, 2, "2");
    o->released = delivered(t, p, 2, "3");
    say(p, "pubrec #%u", o->released);
    hear(p, "pubrel #%u 00", o->released);
    return p;
}

/* Everything that is open comes under its own identifier. */
static void each_comes_again(struct peer *p, const struct open *o)
{
    find(p, "publish q1*#%u ~/a =1", o->one);
    find(p, "publish q2*#%u ~/a =2", o->two);
    hear(p, "pubrel #%u 00", o->released);
}

/* So it does, once, and nothing else comes. */
static void all_come_again(struct peer *p, const struct open *o)
{
    each_comes_again(p, o);
    silent(p);
}

static void test_mqtt_4_4_0_1_a_resumed_session_gets_all_again(struct test *t)
{
    struct open o;
    struct peer *p = leave_open(t, &o);

    for (int i = 0; i < 2; i++) {
        cut(p);
        p = come_back(t);
        all_come_again(p, &o);
    }
    say(p, "puback #%u", o.one);
    say(p, "pubrec #%u", o.two);
    hear(p, "pubrel #%u 00", o.two);
    say(p, "pubcomp #%u", o.two);
    say(p, "pubcomp #%u", o.released);
    cut(p);
    silent(peer_join(t, "c0 id=~a x=300"));
}

static void test_mqtt_4_4_0_1_so_it_does_after_a_crash(struct test *t)
{
    struct open o;

    leave_open(t, &o);
    restart(t);
    struct peer *p = come_back(t);
    each_comes_again(p, &o);
    if (diagnosed(t)) /* others may have lost the PUBACK (4.1.1) */
        silent(p);
}

static void test_mqtt_4_4_0_1_nothing_comes_again_meanwhile(struct test *t)
{
    struct open o;
    struct peer *p = leave_open(t, &o);

    subscribe(p, "~/a,q2");
    say(p, "puback #%u", delivered(t, p, 1, "4"));
    let_pass(t, 3000);
    silent(p);
}

static void test_mqtt_4_4_0_1_nor_to_a_clean_start(struct test *t)
{
    struct open o;

    cut(leave_open(t, &o));
    struct peer *p = peer_join(t, "c1 id=~a x=300");
    subscribe(p, "~/a,q2");
    silent(p);
}

static void test_mqtt_4_4_0_2_a_failure_settles_the_publish(struct test *t)
{
    struct open o;
    struct peer *p = leave_open(t, &o);

    say(p, "puback #%u 80", o.one);
    say(p, "pubrec #%u 80", o.two);
    say(p, "pubcomp #%u 92", o.released);
    silent(p);
    cut(p);
    p = peer_join(t, "c0 id=~a x=300");
    silent(p);
}

static void test_mqtt_4_4_0_2_also_of_one_that_was_sent_again(struct test *t)
{
    struct open o;

    cut(leave_open(t, &o));
    struct peer *p = peer_join(t, "c0 id=~a x=300");
    all_come_again(p, &o);
    say(p, "puback #%u 97", o.one);
    say(p, "pubrec #%u 97", o.two);
    cut(p);
    p = peer_join(t, "c0 id=~a x=300");
    hear(p, "pubrel #%u 00", o.released);
    silent(p);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_4_4_0_1_a_resumed_session_gets_all_again),
    TEST_RESTARTS(test_mqtt_4_4_0_1_so_it_does_after_a_crash),
    TEST(test_mqtt_4_4_0_1_nothing_comes_again_meanwhile),
    TEST(test_mqtt_4_4_0_1_nor_to_a_clean_start),
    TEST(test_mqtt_4_4_0_2_a_failure_settles_the_publish),
    TEST(test_mqtt_4_4_0_2_also_of_one_that_was_sent_again),
};

const struct section section_4_4 = SECTION("4.4 Message delivery retry", cases);
