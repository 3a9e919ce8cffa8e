/*
 * s4_9_flow.c - 4.9 Flow Control.
 */
#include <string.h>

#include "suite.h"

/* A client ~0, ~1... that is away, with this many QoS 1 messages waiting. */
static void away(struct test *t, int number, int messages)
{
    struct peer *p = peer_join(t, "c1 id=~%d x=60", number);

    subscribe(p, "~/%d,q1", number);
    leave(p);
    for (int i = 0; i < messages; i++)
        publish(t, "q1 ~/%d =%d", number, i);
}

/* It comes back with this Receive Maximum and acknowledges nothing: how many
 * messages come? */
static unsigned burst(struct test *t, int number, unsigned receive_max)
{
    struct peer *p = peer_join(t, "c0 id=~%d x=60 rm=%u", number, receive_max);
    unsigned n = 0;

    while (next(p, n == 0 ? WAIT : QUIET) != NULL)
        n++;
    cut(p);
    return n;
}

static void
test_mqtt_4_9_0_1_the_quota_starts_within_receive_maximum(struct test *t)
{
    const unsigned maxima[] = {1, 5, 65535};

    need(t, NEED_SESSIONS);
    for (int i = 0; i < 3; i++) {
        away(t, i, 10);
        unsigned n = burst(t, i, maxima[i]);
        check(t, n >= 1 && n <= maxima[i], "Receive Maximum %u, and %u came",
              maxima[i], n);
    }
}

static void
test_mqtt_4_9_0_1_it_starts_anew_with_each_connection(struct test *t)
{
    const unsigned maxima[] = {3, 1, 2};

    need(t, NEED_SESSIONS);
    away(t, 0, 10);
    for (int i = 0; i < 3; i++) {
        unsigned n = burst(t, 0, maxima[i]);
        check(t, n >= 1 && n <= maxima[i], "Receive Maximum %u, and %u came",
              maxima[i], n);
    }
}

static void test_mqtt_4_9_0_1_so_it_does_in_our_client(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a", "connack 00 sp=0 rm=1");

    say(p, "publish q1 #1 ~/a =x");
    client_refuses(p, "MQTT-3.3.4-7", "publish q1 #2 ~/a =y");
    server_says(p, "puback #1 00");
    hear(p, "puback #1 00");
    say(p, "publish q2 #2 ~/a =y");
}

static void test_mqtt_4_9_0_2_without_quota_no_publish_goes_out(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a rm=2");

    subscribe(p, "~/a,q2");
    for (int i = 0; i < 6; i++)
        publish(t, i % 2 == 0 ? "q2 ~/a =%d" : "q1 ~/a =%d", i);
    unsigned first = hear(p, "publish q2 #* ~/a =0")->packet_id;
    unsigned second = hear(p, "publish q1 #* ~/a =1")->packet_id;
    absent(p, "publish q[12]*");
    say(p, "pubrec #%u", first);
    hear(p, "pubrel #%u 00", first);
    absent(p, "publish q[12]*"); /* PUBREC 0x00 gives no quota back */
    say(p, "pubcomp #%u", first);
    unsigned third = hear(p, "publish q2 #* ~/a =2")->packet_id;
    absent(p, "publish q[12]*");
    say(p, "puback #%u", second);
    hear(p, "publish q1 #* ~/a =3");
    absent(p, "publish q[12]*");
    say(p, "pubrec #%u 80", third);
    hear(p, "publish q2 #* ~/a =4");
    absent(p, "publish q[12]*");
}

/* This statement binds who sends; it does not say what becomes of one PUBLISH
 * too many.  So it is only asked here that the broker notices; that it ends
 * the connection is asked where the standard says so [MQTT-3.3.4-7]. */
static void test_mqtt_4_9_0_2_who_sends_without_quota_is_refused(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");
    unsigned max = offer(t)->receive_max;

    need(t, NEED_QOS2);
    if (max > 2000)
        not_offered(t, "Receive Maximum is %u, too many to send", max);
    hold(p);
    for (unsigned id = 1; id <= max; id++)
        say(p, "publish q2 #%u ~/a =x", id);
    release(p);
    for (unsigned id = 1; id <= max; id++)
        hear(p, "pubrec #%u [01]0*", id);
    say_wrong(p, "publish q2 #%u ~/a =x", max + 1);
    if (comes(p, WAIT, "pubrec*"))
        hear(p, "pubrec #%u [89]?", max + 1); /* that is noticed, too */
    else
        refused_as(p, "93", "MQTT-3.3.4-7 MQTT-4.9.0-2");
}

static void test_mqtt_4_9_0_2_our_client_waits_for_quota(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a", "connack 00 sp=0 rm=2");

    say(p, "publish q2 #1 ~/a =x");
    say(p, "publish q1 #2 ~/a =x");
    client_refuses(p, "MQTT-3.3.4-7", "publish q1 #3 ~/a =y");
    server_says(p, "pubrec #1 00");
    hear(p, "pubrec #1 00");
    say(p, "pubrel #1");
    client_refuses(p, "MQTT-3.3.4-7", "publish q1 #3 ~/a =y");
    server_says(p, "pubcomp #1 00");
    hear(p, "pubcomp #1 00");
    say(p, "publish q1 #3 ~/a =y");
}

static void test_mqtt_4_9_0_3_all_else_goes_on_without_quota(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a rm=1");

    subscribe(p, "~/a,q1 ~/b");
    publish(t, "q1 ~/a =1");
    publish(t, "q1 ~/a =2");
    unsigned id = hear(p, "publish q1 #* ~/a =1")->packet_id;
    say(p, "pingreq");
    hear(p, "pingresp");
    say(p, "subscribe #7 ~/c");
    hear(p, "suback #7 00");
    say(p, "unsubscribe #7 ~/c");
    hear(p, "unsuback #7 00");
    say(p, "publish q1 #7 ~/d =x");
    hear(p, "puback #7 [01]0*");
    say(p, "publish q2 #7 ~/d =x");
    hear(p, "pubrec #7 [01]0*");
    say(p, "pubrel #7");
    hear(p, "pubcomp #7 00");
    absent(p, "publish q1*");
    say(p, "puback #%u", id);
    hear(p, "publish q1 #* ~/a =2");
    leave(p);
}

static void test_mqtt_4_9_0_3_the_open_delivery_goes_on_too(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a rm=1");

    subscribe(p, "~/a,q2");
    publish(t, "q2 ~/a =1");
    publish(t, "q2 ~/a =2");
    unsigned id = hear(p, "publish q2 #* ~/a =1")->packet_id;
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00", id);
    say(p, "pubcomp #%u", id);
    hear(p, "publish q2 #* ~/a =2");
}

static void test_mqtt_4_9_0_3_our_client_goes_on_too(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a", "connack 00 sp=0 rm=1");

    say(p, "publish q1 #1 ~/a =x");
    client_refuses(p, "MQTT-3.3.4-7", "publish q1 #2 ~/a =y");
    say(p, "pingreq");
    say(p, "subscribe #2 ~/a");
    say(p, "unsubscribe #3 ~/a");
    say(p, "disconnect 00");
    check(t,
          strcmp(sent(p), "PUBLISH PINGREQ SUBSCRIBE UNSUBSCRIBE "
                          "DISCONNECT ") == 0,
          "it did not send all of it");
}

static const struct test_case cases[] = {
    TEST(test_mqtt_4_9_0_1_the_quota_starts_within_receive_maximum),
    TEST(test_mqtt_4_9_0_1_it_starts_anew_with_each_connection),
    TEST(test_mqtt_4_9_0_1_so_it_does_in_our_client),
    TEST(test_mqtt_4_9_0_2_without_quota_no_publish_goes_out),
    TEST(test_mqtt_4_9_0_2_who_sends_without_quota_is_refused),
    TEST(test_mqtt_4_9_0_2_our_client_waits_for_quota),
    TEST(test_mqtt_4_9_0_3_all_else_goes_on_without_quota),
    TEST(test_mqtt_4_9_0_3_the_open_delivery_goes_on_too),
    TEST(test_mqtt_4_9_0_3_our_client_goes_on_too),
};

const struct section section_4_9 = SECTION("4.9 Flow Control", cases);
