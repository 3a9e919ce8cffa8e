/*
 * s4_1_state.c - 4.1 Session State.
 */
#include "suite.h"

/* A client that connects so; the broker gives it the Session Expiry Interval
 * that it asks for. */
static struct peer *join(struct test *t, const char *words, uint32_t expiry)
{
    struct peer *p = peer_join(t, "%s", words);
    const struct mqtt_properties *props = &connack(p)->packet.props;

    if (MQTT_HAS(props, MQTT_SESSION_EXPIRY_INTERVAL) &&
        props->session_expiry_interval != expiry)
        not_offered(t, "CONNACK makes Session Expiry Interval %lu of %lu",
                    (unsigned long)props->session_expiry_interval,
                    (unsigned long)expiry);
    return p;
}

/* ~a has no session any more: no message that waits, no subscription. */
static void gone(struct test *t)
{
    struct peer *p = peer_join(t, "c0 id=~a x=0");

    check(t, !present(p), "Session Present 1 though the session was over");
    publish(t, "q1 ~/a =unasked");
    absent(p, "publish*");
}

/* Halves of two QoS 2 exchanges, one in each direction. */
static unsigned exchanges_begin(struct test *t, struct peer *p)
{
    subscribe(p, "~/a,q2");
    say(p, "publish q2 #5 ~/in =x");
    hear(p, "pubrec #5 [01]0*");
    return delivered(t, p, 2, "first");
}

static void exchanges_end(struct peer *p, unsigned id)
{
    say(p, "pubrel #5");
    hear(p, "pubcomp #5 00*");
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00*", id);
    say(p, "pubcomp #%u", id);
    hear(p, "publish q2 #* ~/a =second");
}

static void test_mqtt_4_1_0_1_it_stays_while_the_connection_is_open(
    struct test *t)
{
    struct peer *zero = peer_join(t, "c1 id=~a x=0");
    struct peer *one = peer_join(t, "c1 id=~b x=1");
    unsigned id = exchanges_begin(t, zero);

    subscribe(one, "~/b");
    let_pass(t, 2500);
    publish(t, "q2 ~/a =second");
    exchanges_end(zero, id);
    publish(t, "~/b =second");
    hear(one, "publish q0 ~/b =second");
}

/* The time that began with the end of one connection ends with the next. */
static void test_mqtt_4_1_0_1_its_time_does_not_run_after_a_return(
    struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *p = peer_join(t, "c1 id=~a x=2");
    subscribe(p, "~/a");
    cut(p);
    p = peer_join(t, "c0 id=~a x=2");
    check(t, present(p), "Session Present 0");
    let_pass(t, 3500);
    publish(t, "~/a =x");
    hear(p, "publish q0 ~/a =x");
}

static void test_mqtt_4_1_0_2_at_once_without_an_expiry_interval(
    struct test *t)
{
    static const char *const words[] = {"c1 id=~a x=0", "c1 id=~a"};

    for (size_t i = 0; i < 2; i++) {
        struct peer *p = join(t, words[i], 0);
        subscribe(p, "~/a,q1");
        cut(p);
        publish(t, "q1 ~/a =queued");
        gone(t);
    }
}

static void test_mqtt_4_1_0_2_when_the_expiry_interval_is_over(struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *p = join(t, "c1 id=~a x=1", 1);
    subscribe(p, "~/a,q1");
    cut(p);
    publish(t, "q1 ~/a =queued");
    let_pass(t, 2500);
    gone(t);
}

static void test_mqtt_4_1_0_2_the_time_runs_across_a_crash(struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *p = join(t, "c1 id=~a x=1", 1);
    subscribe(p, "~/a,q1");
    cut(p);
    restart(t);
    let_pass(t, 2500);
    gone(t);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_4_1_0_1_it_stays_while_the_connection_is_open),
    TEST(test_mqtt_4_1_0_1_its_time_does_not_run_after_a_return),
    TEST(test_mqtt_4_1_0_2_at_once_without_an_expiry_interval),
    TEST(test_mqtt_4_1_0_2_when_the_expiry_interval_is_over),
    TEST_RESTARTS(test_mqtt_4_1_0_2_the_time_runs_across_a_crash),
};

const struct section section_4_1 = SECTION("4.1 Session State", cases);
