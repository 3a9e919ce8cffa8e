/*
 * s3_3_publish.c - 3.3 PUBLISH: header.
 */
#include "suite.h"

/* For a Message Expiry Interval of 1: a broker may count in whole seconds. */
#define EXPIRED 3000

/* This frame is refused, and no subscriber to ~/a gets it. */
static void frame_refused(struct test *t, unsigned first, const char *bytes,
                          const char *codes, const char *statements)
{
    struct peer *w = peer_watch(t, "~/a,q2"), *p = peer_join(t, "c1 id=~p");

    say_frame(p, first, "%s", bytes);
    refused_as(p, codes, statements);
    publish(t, "~/a =end");
    hear(w, "publish q0 ~/a =end*");
}

/* The broker has seen the PUBLISH that was just said.  The standard has it
 * refuse it, but in several ways: by an end of the connection, by PUBACK or
 * PUBREC, and at QoS 0 also silently.  That it is not passed on is for the
 * test to see. */
static void declined(struct test *t, struct peer *p, const char *codes)
{
    const struct heard *h;

    if (diagnosed(t)) {
        refused(p, codes);
        return;
    }
    say(p, "pingreq");
    while ((h = next(p, WAIT)) != NULL && h->packet.type != MQTT_PINGRESP)
        ;
    if (h == NULL)
        ended(p);
}

/* A client with these filters is sent the retained message of `topic`, which
 * is older than its subscription, and no other. */
static void retained_alone(struct test *t, const char *filters,
                           const char *topic, const char *payload)
{
    struct peer *p = peer_watch(t, "%s", filters);

    find(p, "publish q? retain*~/%s =%s*", topic, payload);
    absent(p, "publish*");
}

/* ---- 3.3.1.1 DUP ----------------------------------------------------------
 */

/* The message that waits for the client again has DUP 1 and its old id. */
static void repeated(struct test *t, struct peer *p, unsigned qos, unsigned id)
{
    const struct heard *h = find(p, "publish q%u *~/a =%u*", qos, qos);

    check(t, h->packet.publish.dup, "DUP is 0 in the repeat: %s", h->text);
    check(t, h->packet_id == id, "the identifier was %u before: %s", id,
          h->text);
}

static void repeated_after(struct test *t, int crash)
{
    struct peer *p = resume(t, "");
    unsigned id[3];

    subscribe(p, "~/a,q2");
    for (unsigned qos = 1; qos <= 2; qos++) {
        publish(t, "q%u ~/a =%u", qos, qos);
        id[qos] = hear(p, "publish q%u #* ~/a =%u*", qos, qos)->packet_id;
    }
    if (!crash)
        cut(p);
    if (crash)
        restart(t);
    p = resume(t, "");
    for (unsigned qos = 1; qos <= 2; qos++)
        repeated(t, p, qos, id[qos]);
}

static void test_mqtt_3_3_1_1_what_is_sent_again_has_dup_1(struct test *t)
{
    repeated_after(t, 0);
}

static void test_mqtt_3_3_1_1_also_after_a_crash(struct test *t)
{
    repeated_after(t, 1);
}

static void test_mqtt_3_3_1_2_deliveries_at_qos_0_have_dup_0(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a,q0"), *p = peer_join(t, "c1 id=~p");

    say(p, "publish q1 dup #7 ~/a =again");
    hear(p, "puback #7 [01]0*");
    hear(w, "publish q0 ~/a =again*");
}

static void test_mqtt_3_3_1_2_a_client_sets_dup_at_qos_0(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a,q0"), *p = peer_join(t, "c1 id=~p");

    /* Whatever the broker does with it, hear() sees that DUP is 0. */
    say_frame(p, 0x38, "{'~/a'} [] 'wrong'");
    declined(t, p, "81");
    publish(t, "~/a =end");
    find(w, "publish q0 ~/a =end*");
}

static void test_mqtt_3_3_1_3_dup_of_the_publisher_is_its_own(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a,q2"), *p = peer_join(t, "c1 id=~p");

    say(p, "publish q1 dup #1 ~/a =one");
    hear(p, "puback #1 [01]0*");
    hear(w, "publish q1 #* ~/a =one*");
    say(p, "publish q2 dup #2 ~/a =two");
    hear(p, "pubrec #2 [01]0*");
    say(p, "pubrel #2");
    hear(p, "pubcomp #2 00*");
    hear(w, "publish q2 #* ~/a =two*");
}

static void test_mqtt_3_3_1_3_what_waited_is_no_repeat(struct test *t)
{
    struct peer *w = resume(t, ""), *p = peer_join(t, "c1 id=~p");

    subscribe(w, "~/a,q1");
    cut(w);
    say(p, "publish q1 dup #1 ~/a =one");
    hear(p, "puback #1 [01]0*");
    w = resume(t, "");
    hear(w, "publish q1 #* ~/a =one*");
}

/* ---- 3.3.1.2 QoS ----------------------------------------------------------
 */

static void test_mqtt_3_3_1_4_qos_3_is_malformed(struct test *t)
{
    const unsigned first[] = {0x36, 0x37, 0x3E, 0x3F};

    for (int i = 0; i < 4; i++)
        frame_refused(t, first[i], "{'~/a'} 00 07 [] 'x'", "81",
                      "MQTT-3.3.1-4");
}

/* ---- 3.3.1.3 RETAIN -------------------------------------------------------
 */

static void test_mqtt_3_3_1_5_the_last_one_is_retained(struct test *t)
{
    for (unsigned qos = 0; qos <= offer(t)->qos_max; qos++) {
        char topic[] = {(char)('0' + qos), '\0'};
        publish(t, "q%u retain ~/%s =old ct=text", qos, topic);
        publish(t, "q%u retain ~/%s =new", qos, topic);
        struct peer *p = peer_watch(t, "~/%s,q2", topic);
        hear(p, "publish q%u retain*~/%s =new", qos, topic);
        absent(p, "publish*");
    }
}

static void test_mqtt_3_3_1_5_properties_are_retained(struct test *t)
{
    publish(t, "q1 retain ~/a =x pfi=1 ct=text rt=~/b cd=%%00%%FF up=n:v");
    struct peer *p = peer_watch(t, "~/a,q1");
    hear(p, "publish q1 retain #* ~/a =x pfi=1 ct=text rt=~/b cd=%%00%%FF "
            "up=n:v*");
}

static void test_mqtt_3_3_1_5_also_over_a_crash(struct test *t)
{
    publish(t, "q1 retain ~/a =old");
    publish(t, "q1 retain ~/a =new pfi=1 ct=text up=n:v");
    restart(t);
    struct peer *p = peer_watch(t, "~/a,q1");
    hear(p, "publish q1 retain #* ~/a =new pfi=1 ct=text up=n:v*");
}

static void test_mqtt_3_3_1_6_an_empty_one_clears_the_topic(struct test *t)
{
    struct peer *w = peer_watch(t, "~/0 ~/1,q1");

    publish(t, "retain ~/1 =other");
    for (unsigned qos = 0; qos <= 1; qos++) {
        publish(t, "q%u retain ~/%u =old", qos, qos);
        publish(t, "q%u retain ~/%u =", qos, qos);
        find(w, "publish q%u*~/%u =old*", qos, qos);
        find(w, "publish q%u*~/%u =", qos, qos);
    }
    publish(t, "retain ~/2 =kept");
    retained_alone(t, "~/0 ~/1 ~/2", "2", "kept");
}

static void test_mqtt_3_3_1_6_also_over_a_crash(struct test *t)
{
    publish(t, "q1 retain ~/a =old");
    publish(t, "q1 retain ~/a =");
    restart(t);
    absent(peer_watch(t, "~/a"), "publish*");
}

static void test_mqtt_3_3_1_7_nothing_is_not_retained(struct test *t)
{
    publish(t, "q1 retain ~/a =");
    publish(t, "q1 retain ~/b = ct=text up=n:v");
    publish(t, "q1 retain ~/c =kept");
    retained_alone(t, "~/a ~/b ~/c", "c", "kept");
}

static void test_mqtt_3_3_1_8_retain_0_stores_nothing(struct test *t)
{
    publish(t, "q1 ~/a =passing");
    publish(t, "~/a =passing");
    publish(t, "q1 retain ~/b =kept");
    retained_alone(t, "~/a ~/b", "b", "kept");
}

static void test_mqtt_3_3_1_8_retain_0_leaves_what_is_stored(struct test *t)
{
    publish(t, "q1 retain ~/a =kept");
    publish(t, "q1 ~/a =passing");
    retained_alone(t, "~/a", "a", "kept");
    publish(t, "q1 ~/a =");
    publish(t, "~/a =");
    retained_alone(t, "~/a", "a", "kept");
}

/* Three retained messages, which the filter ~/r/+ matches, and one beside. */
static void three_retained(struct test *t)
{
    for (int i = 1; i <= 3; i++)
        publish(t, "q1 retain ~/r/%d =%d", i, i);
    publish(t, "q1 retain ~/b =beside");
}

static void three_come(struct peer *p)
{
    for (int i = 1; i <= 3; i++)
        find(p, "publish q1 retain #* ~/r/%d =%d*", i, i);
    absent(p, "publish*");
}

static void test_mqtt_3_3_1_9_handling_0_sends_each_time(struct test *t)
{
    three_retained(t);
    struct peer *p = peer_watch(t, "~/r/+,q1,rh0");
    three_come(p);
    subscribe(p, "~/r/+,q1,rh0");
    three_come(p);
}

static void test_mqtt_3_3_1_10_handling_1_sends_to_new_ones(struct test *t)
{
    three_retained(t);
    struct peer *p = peer_watch(t, "~/r/+,q1,rh1");
    three_come(p);
    subscribe(p, "~/r/+,q1,rh1");
    absent(p, "publish*");
    say(p, "unsubscribe #100 ~/r/+");
    hear(p, "unsuback #100 00*");
    subscribe(p, "~/r/+,q1,rh1");
    three_come(p);
}

static void test_mqtt_3_3_1_10_what_a_session_kept_is_old(struct test *t)
{
    struct peer *p = resume(t, "");

    publish(t, "q1 retain ~/a =x");
    subscribe(p, "~/a,q1,rh2");
    cut(p);
    p = resume(t, "");
    subscribe(p, "~/a,q1,rh1");
    absent(p, "publish*");
}

static void test_mqtt_3_3_1_11_handling_2_sends_none(struct test *t)
{
    three_retained(t);
    struct peer *p = peer_watch(t, "~/r/+,q1,rh2");
    absent(p, "publish*");
    subscribe(p, "~/r/+,q1,rh2");
    absent(p, "publish*");
    publish(t, "q1 ~/r/1 =live");
    hear(p, "publish q1 #* ~/r/1 =live*");
}

/* Messages with RETAIN 1 and 0 for a client that is there and for one that
 * is away; `retain` is what must become of RETAIN 1. */
static void forwarded(struct test *t, const char *option, const char *retain)
{
    struct peer *w = peer_watch(t, "~/a,q1,%s", option);
    struct peer *away = resume(t, "");

    subscribe(away, "~/a,q1,%s", option);
    cut(away);
    publish(t, "q1 retain ~/a =one");
    publish(t, "q1 ~/a =two");
    publish(t, "q0 retain ~/a =three");
    /* Only messages of one QoS keep their order (4.6). */
    find(w, "publish q1%s #* ~/a =one*", retain);
    find(w, "publish q1 #* ~/a =two*");
    find(w, "publish q0%s ~/a =three*", retain);
    away = resume(t, "");
    find(away, "publish q1%s #* ~/a =one*", retain);
    find(away, "publish q1 #* ~/a =two*");
}

static void test_mqtt_3_3_1_12_retain_is_0_if_not_asked_for(struct test *t)
{
    forwarded(t, "rh2", "");
}

static void test_mqtt_3_3_1_13_retain_as_published(struct test *t)
{
    forwarded(t, "rap,rh2", " retain");
}

/* ---- 3.3.2.1 Topic Name ---------------------------------------------------
 */

static void test_mqtt_3_3_2_1_topic_comes_first_and_is_utf8(struct test *t)
{
    const char *wrong[] = {
        "{'~/a' C3 28} [] 'x'",    /* half a character */
        "{'~/a' ED A0 80} [] 'x'", /* a surrogate */
        "{'~/a' C0 AF} [] 'x'",    /* longer than it need be */
        "7F FF '~/a'",             /* ends beyond the packet */
        "00",
        "",
    };

    for (int i = 0; i < 6; i++)
        frame_refused(t, 0x30, wrong[i], "81", "MQTT-3.3.2-1 MQTT-1.5.4-1");
}

static void test_mqtt_3_3_2_1_any_utf8_is_delivered(struct test *t)
{
    const char *topic = "~/%20%C3%A9%E2%82%AC%F0%9F%98%80";
    struct peer *p = peer_watch(t, "%s", topic);

    publish(t, "%s =x", topic);
    hear(p, "publish q0 %s =x*", topic);
}

static void test_mqtt_3_3_2_2_no_wildcard_in_a_topic(struct test *t)
{
    const char *wrong[] = {"+", "#", "~/+", "~/#", "~/a/+/b", "~/a+", "~/a#b"};
    struct peer *w = peer_watch(t, "~/#,q1");

    for (int i = 0; i < 14; i++) {
        struct peer *p = peer_join(t, "c1 id=~p");
        if (i < 7)
            say_wrong(p, "publish %s =x", wrong[i]);
        else
            say_wrong(p, "publish q1 #7 %s =x", wrong[i - 7]);
        declined(t, p, "90");
    }
    publish(t, "~/end =end");
    hear(w, "publish q0 ~/end =end*");
}

static void test_mqtt_3_3_2_3_the_filter_matches_the_topic(struct test *t)
{
    const char *topics[] = {"a", "b", "b/a/x", "a/x/y", "aa/x", "A/x", "x/a/x"};
    struct peer *w = peer_watch(t, "~/a/+");

    for (int i = 0; i < 7; i++)
        publish(t, "~/%s =no", topics[i]);
    publish(t, "~/a/x =yes");
    hear(w, "publish q0 ~/a/x =yes*");
    publish(t, "~/a/ =empty");
    hear(w, "publish q0 ~/a/ =empty*");
}

static void test_mqtt_3_3_2_3_a_shared_one_gets_the_topic(struct test *t)
{
    struct peer *w = peer_watch(t, "$share/~g/~/a,q1");

    publish(t, "q1 ~/a =x");
    hear(w, "publish q1 #* ~/a =x*");
}

/* ---- 3.3.2.3 properties ---------------------------------------------------
 */

/* What is published with these properties comes so to a client that is there,
 * to one that is away, and to one that subscribes later. */
static void unaltered(struct test *t, const char *topic, const char *properties,
                      const char *expected)
{
    const struct offer *o = offer(t);
    struct peer *w = peer_watch(t, "~/%s,q1", topic);

    if (o->sessions) {
        struct peer *away = resume(t, "");
        subscribe(away, "~/%s,q1", topic);
        cut(away);
    }
    publish(t, "q%d %s ~/%s =x %s", o->qos_max > 0, o->retain ? "retain" : "",
            topic, properties);
    hear(w, "publish *~/%s =x%s", topic, expected);
    if (o->retain) {
        w = peer_watch(t, "~/%s,q1", topic);
        hear(w, "publish q? retain*~/%s =x%s", topic, expected);
    }
    if (o->sessions && o->qos_max > 0) {
        struct peer *away = resume(t, "");
        say(away, "puback #%u",
            find(away, "publish *~/%s =x%s", topic, expected)->packet_id);
    }
}

static void test_mqtt_3_3_2_4_payload_format_is_unaltered(struct test *t)
{
    unaltered(t, "a", "pfi=1", " pfi=1*");
}

static void test_mqtt_3_3_2_4_bytes_are_not_made_text(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a");

    /* 0 and no indicator mean the same (3.3.2.3.2). */
    publish(t, "~/a =x pfi=0");
    publish(t, "~/a =y");
    for (int i = 0; i < 2; i++) {
        const struct heard *h = hear(w, "publish q0 ~/a =[xy]*");
        check(t, h->packet.props.payload_format_indicator == 0,
              "bytes became text: %s", h->text);
    }
}

static void test_mqtt_3_3_2_5_what_waits_expires(struct test *t)
{
    struct peer *p = resume(t, "");

    subscribe(p, "~/a,q1");
    cut(p);
    publish(t, "q1 ~/a =short mei=1");
    publish(t, "q1 ~/a =long mei=100");
    let_pass(t, EXPIRED);
    p = resume(t, "");
    hear(p, "publish q1 #* ~/a =long*");
    absent(p, "publish*");
}

static void test_mqtt_3_3_2_5_also_behind_a_full_window(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a rm=1");

    subscribe(p, "~/a,q1");
    publish(t, "q1 ~/a =first");
    unsigned id = hear(p, "publish q1 #* ~/a =first*")->packet_id;
    publish(t, "q1 ~/a =short mei=1");
    let_pass(t, EXPIRED);
    say(p, "puback #%u", id);
    absent(p, "publish*=short*");
    publish(t, "~/a =end");
    find(p, "publish q0 ~/a =end*");
}

static void test_mqtt_3_3_2_5_also_a_retained_message(struct test *t)
{
    publish(t, "q1 retain ~/a =short mei=1");
    publish(t, "q1 retain ~/b =long mei=100");
    let_pass(t, EXPIRED);
    retained_alone(t, "~/a ~/b", "b", "long");
}

/* The Message Expiry Interval of a message published at `from` with 30, which
 * has waited `least` ms at least.  The broker may count in whole seconds. */
static void lowered(struct test *t, const struct heard *h, unsigned least,
                    uint64_t from)
{
    uint64_t left = h->packet.props.message_expiry_interval;
    uint64_t most = h->at - from;

    check(t, MQTT_HAS(&h->packet.props, MQTT_MESSAGE_EXPIRY_INTERVAL),
          "no Message Expiry Interval in %s", h->text);
    check(t, left <= 30 && left * 1000 <= 30000 - least + 1000,
          "of 30 s are left %u after %u ms", (unsigned)left, least);
    check(t, left * 1000 + most + 2000 > 30000,
          "of 30 s are left %u after %u ms", (unsigned)left, (unsigned)most);
}

static void test_mqtt_3_3_2_6_what_does_not_wait_keeps_it(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a,q1");
    uint64_t from = now();

    publish(t, "q1 ~/a =x mei=30");
    lowered(t, hear(w, "publish q1 #* ~/a =x*"), 0, from);
    publish(t, "~/a =y mei=30");
    lowered(t, hear(w, "publish q0 ~/a =y*"), 0, from);
}

/* A message waits for its session for two seconds, and over a crash or not. */
static void waits(struct test *t, int crash)
{
    struct peer *p = resume(t, "");
    uint64_t from = now();

    subscribe(p, "~/a,q1");
    cut(p);
    publish(t, "q1 ~/a =x mei=30");
    let_pass(t, 2000);
    if (crash)
        restart(t);
    p = resume(t, "");
    lowered(t, hear(p, "publish q1 #* ~/a =x*"), 2000, from);
}

static void test_mqtt_3_3_2_6_time_in_the_broker_is_taken_off(struct test *t)
{
    waits(t, 0);
}

static void test_mqtt_3_3_2_6_also_of_a_retained_message(struct test *t)
{
    uint64_t from = now();

    publish(t, "q1 retain ~/a =x mei=30");
    let_pass(t, 2000);
    struct peer *p = peer_watch(t, "~/a,q1");
    lowered(t, hear(p, "publish q1 retain #* ~/a =x*"), 2000, from);
}

static void test_mqtt_3_3_2_6_also_over_a_crash(struct test *t)
{
    waits(t, 1);
}

/* ---- 3.3.2.3.4 Topic Alias ------------------------------------------------
 */

static void test_mqtt_3_3_2_7_the_next_connection_has_none(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a"), *p = peer_join(t, "c0 id=~p x=300");

    say(p, "publish ~/a =set ta=1");
    say(p, "publish =used ta=1");
    hear(w, "publish q0 ~/a =set*");
    hear(w, "publish q0 ~/a =used*");
    cut(p);
    p = peer_join(t, "c0 id=~p x=300");
    say_wrong(p, "publish =wrong ta=1");
    refused(p, "82");
    publish(t, "~/a =end");
    hear(w, "publish q0 ~/a =end*");
}

static void test_mqtt_3_3_2_7_nor_has_another_client(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a"), *other = peer_join(t, "c1 id=~o");
    struct peer *p = peer_join(t, "c1 id=~p");

    say(other, "publish ~/a =set ta=1");
    hear(w, "publish q0 ~/a =set*");
    say_wrong(p, "publish =wrong ta=1");
    refused(p, "82");
    say(other, "publish =end ta=1");
    hear(w, "publish q0 ~/a =end*");
}

/* That an alias is used which was never set is seen by every hear(). */
static void test_mqtt_3_3_2_7_the_brokers_own_end_too(struct test *t)
{
    struct peer *p = resume(t, "tam=4");

    subscribe(p, "~/a,q1");
    for (int i = 1; i <= 3; i++) {
        publish(t, "q1 ~/a =%d", i);
        hear(p, "publish q1 #* ~/a =%d*", i);
    }
    cut(p);
    publish(t, "q1 ~/a =4");
    for (unsigned max = 0; max <= 4; max += 2) {
        p = resume(t, max == 0 ? "" : max == 2 ? "tam=2" : "tam=4");
        for (int i = 1; i <= 3; i++)
            hear(p, "publish q1 dup #* ~/a =%d*", i);
        hear(p, "publish q1 *#* ~/a =4*");
        cut(p);
    }
}

/* Ten topics, twice, to a client that allows this many aliases. */
static void aliases_within(struct test *t, unsigned max)
{
    struct peer *p = peer_join(t, "c1 id=~m%u tam=%u", max, max);

    subscribe(p, "~/%u/+", max);
    for (int i = 0; i < 20; i++) {
        publish(t, "~/%u/%d =%d", max, i % 10, i);
        const struct heard *h =
            hear(p, "publish q0 ~/%u/%d =%d*", max, i % 10, i);
        check(t, h->alias <= max, "Topic Alias %u, the client's maximum is %u",
              h->alias, max);
    }
}

static void test_mqtt_3_3_2_8_alias_0_is_refused(struct test *t)
{
    frame_refused(t, 0x30, "{'~/a'} [23 00 00] 'x'", "94", "MQTT-3.3.2-8");
    frame_refused(t, 0x32, "{'~/a'} 00 07 [23 00 00] 'x'", "94",
                  "MQTT-3.3.2-8");
}

/* Every hear() would see it. */
static void test_mqtt_3_3_2_8_the_broker_does_not_use_it(struct test *t)
{
    aliases_within(t, 3);
}

static void test_mqtt_3_3_2_9_alias_over_the_maximum(struct test *t)
{
    unsigned max = offer(t)->alias_max, alias[] = {max + 1, 65535};
    struct peer *w = peer_watch(t, "~/a");

    if (max == 65535)
        not_offered(t, "Topic Alias Maximum is 65535: none is above it");
    for (int i = 0; i < 2; i++) {
        struct peer *p = peer_join(t, "c1 id=~p");
        say_wrong(p, "publish ~/a =x ta=%u", alias[i]);
        /* What CONNACK means, 3.2.2.3.8 says as well. */
        refused_as(p, "94", "MQTT-3.3.2-9 MQTT-3.2.2-17 MQTT-3.2.2-18");
    }
    publish(t, "~/a =end");
    hear(w, "publish q0 ~/a =end*");
}

/* The suite's own client, for only a client can break this one. */
static void test_mqtt_3_3_2_10_a_client_takes_what_it_allows(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a tam=3", "connack 00 sp=0");

    for (int i = 1; i <= 3; i++) {
        server_says(p, "publish ~/%d =set ta=%d", i, i);
        hear(p, "publish q0 ~/%d =set", i);
    }
    for (int i = 1; i <= 3; i++) {
        server_says(p, "publish =used ta=%d", i);
        hear(p, "publish q0 ~/%d =used", i);
    }
    server_says(p, "publish ~/new =set ta=3");
    server_says(p, "publish =used ta=3");
    hear(p, "publish q0 ~/new =set");
    hear(p, "publish q0 ~/new =used");
}

static void test_mqtt_3_3_2_11_no_alias_over_the_clients(struct test *t)
{
    aliases_within(t, 0);
    aliases_within(t, 1);
    aliases_within(t, 3);
}

/* The first fifty, and the last ten. */
static unsigned alias_after(unsigned alias, unsigned max)
{
    return alias == 50 && max > 60 ? max - 9 : alias + 1;
}

static void test_mqtt_3_3_2_12_the_broker_takes_each_alias(struct test *t)
{
    unsigned max = offer(t)->alias_max;
    struct peer *w = peer_watch(t, "~/+"), *p = peer_join(t, "c1 id=~p");

    if (max == 0)
        not_offered(t, "Topic Alias Maximum is 0");
    for (unsigned a = 1; a <= max; a = alias_after(a, max))
        say(p, "publish ~/%u =set ta=%u", a, a);
    for (unsigned a = 1; a <= max; a = alias_after(a, max))
        say(p, "publish =used ta=%u", a);
    for (unsigned a = 1; a <= max; a = alias_after(a, max))
        find(w, "publish q0 ~/%u =used*", a);
}

static void test_mqtt_3_3_2_12_an_alias_is_set_anew(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a ~/b"), *p = peer_join(t, "c1 id=~p");

    say(p, "publish ~/a =one ta=1");
    find(w, "publish q0 ~/a =one*");
    say(p, "publish ~/b =two ta=1");
    find(w, "publish q0 ~/b =two*");
    say(p, "publish =three ta=1");
    find(w, "publish q0 ~/b =three*");
}

/* ---- 3.3.2.3.5 and further ------------------------------------------------
 */

static void test_mqtt_3_3_2_13_response_topic_is_utf8(struct test *t)
{
    const char *statements = "MQTT-3.3.2-13 MQTT-1.5.4-1 MQTT-1.5.4-2";

    frame_refused(t, 0x30, "{'~/a'} [08 {'r' C3 28}] 'x'", "81", statements);
    frame_refused(t, 0x30, "{'~/a'} [08 {'r' ED A0 80}] 'x'", "81", statements);
    frame_refused(t, 0x30, "{'~/a'} [08 {'r' 00}] 'x'", "81", statements);
}

static void test_mqtt_3_3_2_14_no_wildcard_in_a_response_topic(struct test *t)
{
    const char *wrong[] = {"~/r/+", "~/r/#", "#", "~/r+"};
    struct peer *w = peer_watch(t, "~/a,q1");

    for (int i = 0; i < 8; i++) {
        struct peer *p = peer_join(t, "c1 id=~p");
        say_wrong(p, "publish %s ~/a =x rt=%s", i < 4 ? "" : "q1 #7",
                  wrong[i % 4]);
        declined(t, p, "81 82 90");
    }
    publish(t, "~/a =end");
    hear(w, "publish q0 ~/a =end*");
}

static void test_mqtt_3_3_2_15_response_topic_is_unaltered(struct test *t)
{
    unaltered(t, "a", "rt=~/r/%20%C3%A9", " rt=~/r/%20%C3%A9*");
}

static void test_mqtt_3_3_2_16_correlation_data_is_unaltered(struct test *t)
{
    unaltered(t, "a", "cd=%00%FF%C3%28=", " cd=%00%FF%C3(=*");
    unaltered(t, "b", "cd=", " cd=*");
}

static void test_mqtt_3_3_2_17_user_properties_are_unaltered(struct test *t)
{
    unaltered(t, "a", "up=n:v up=n:v", " *up=n:v up=n:v*");
    unaltered(t, "b", "up=n:", " *up=n:*");
    unaltered(t, "c", "up=%C3%A9%20:%E2%82%AC", " *up=%C3%A9%20:%E2%82%AC*");
    unaltered(t, "d", "ct=t mei=300 up=n:v", " mei=* ct=t *up=n:v*");
}

static void test_mqtt_3_3_2_18_user_properties_keep_their_order(struct test *t)
{
    unaltered(t, "a", "up=b:1 up=a:2 up=b:3 up=a:0",
              " *up=b:1 up=a:2 up=b:3 up=a:0*");
}

static void test_mqtt_3_3_2_19_content_type_is_utf8(struct test *t)
{
    const char *statements = "MQTT-3.3.2-19 MQTT-1.5.4-1 MQTT-1.5.4-2";

    frame_refused(t, 0x30, "{'~/a'} [03 {'c' C3 28}] 'x'", "81", statements);
    frame_refused(t, 0x30, "{'~/a'} [03 {'c' ED A0 80}] 'x'", "81", statements);
    frame_refused(t, 0x30, "{'~/a'} [03 {'c' 00}] 'x'", "81", statements);
}

static void test_mqtt_3_3_2_20_content_type_is_unaltered(struct test *t)
{
    unaltered(t, "a", "ct=text/%20%C3%A9", " ct=text/%20%C3%A9*");
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_3_1_1_what_is_sent_again_has_dup_1),
    TEST_RESTARTS(test_mqtt_3_3_1_1_also_after_a_crash),
    TEST(test_mqtt_3_3_1_2_deliveries_at_qos_0_have_dup_0),
    TEST(test_mqtt_3_3_1_2_a_client_sets_dup_at_qos_0),
    TEST(test_mqtt_3_3_1_3_dup_of_the_publisher_is_its_own),
    TEST(test_mqtt_3_3_1_3_what_waited_is_no_repeat),
    TEST(test_mqtt_3_3_1_4_qos_3_is_malformed),
    TEST(test_mqtt_3_3_1_5_the_last_one_is_retained),
    TEST(test_mqtt_3_3_1_5_properties_are_retained),
    TEST_RESTARTS(test_mqtt_3_3_1_5_also_over_a_crash),
    TEST(test_mqtt_3_3_1_6_an_empty_one_clears_the_topic),
    TEST_RESTARTS(test_mqtt_3_3_1_6_also_over_a_crash),
    TEST(test_mqtt_3_3_1_7_nothing_is_not_retained),
    TEST(test_mqtt_3_3_1_8_retain_0_stores_nothing),
    TEST(test_mqtt_3_3_1_8_retain_0_leaves_what_is_stored),
    TEST(test_mqtt_3_3_1_9_handling_0_sends_each_time),
    TEST(test_mqtt_3_3_1_10_handling_1_sends_to_new_ones),
    TEST(test_mqtt_3_3_1_10_what_a_session_kept_is_old),
    TEST(test_mqtt_3_3_1_11_handling_2_sends_none),
    TEST(test_mqtt_3_3_1_12_retain_is_0_if_not_asked_for),
    TEST(test_mqtt_3_3_1_13_retain_as_published),
    TEST(test_mqtt_3_3_2_1_topic_comes_first_and_is_utf8),
    TEST(test_mqtt_3_3_2_1_any_utf8_is_delivered),
    TEST(test_mqtt_3_3_2_2_no_wildcard_in_a_topic),
    TEST(test_mqtt_3_3_2_3_the_filter_matches_the_topic),
    TEST(test_mqtt_3_3_2_3_a_shared_one_gets_the_topic),
    TEST(test_mqtt_3_3_2_4_payload_format_is_unaltered),
    TEST(test_mqtt_3_3_2_4_bytes_are_not_made_text),
    TEST(test_mqtt_3_3_2_5_what_waits_expires),
    TEST(test_mqtt_3_3_2_5_also_behind_a_full_window),
    TEST(test_mqtt_3_3_2_5_also_a_retained_message),
    TEST(test_mqtt_3_3_2_6_what_does_not_wait_keeps_it),
    TEST(test_mqtt_3_3_2_6_time_in_the_broker_is_taken_off),
    TEST(test_mqtt_3_3_2_6_also_of_a_retained_message),
    TEST_RESTARTS(test_mqtt_3_3_2_6_also_over_a_crash),
    TEST(test_mqtt_3_3_2_7_the_next_connection_has_none),
    TEST(test_mqtt_3_3_2_7_nor_has_another_client),
    TEST(test_mqtt_3_3_2_7_the_brokers_own_end_too),
    TEST(test_mqtt_3_3_2_8_alias_0_is_refused),
    TEST(test_mqtt_3_3_2_8_the_broker_does_not_use_it),
    TEST(test_mqtt_3_3_2_9_alias_over_the_maximum),
    TEST(test_mqtt_3_3_2_10_a_client_takes_what_it_allows),
    TEST(test_mqtt_3_3_2_11_no_alias_over_the_clients),
    TEST(test_mqtt_3_3_2_12_the_broker_takes_each_alias),
    TEST(test_mqtt_3_3_2_12_an_alias_is_set_anew),
    TEST(test_mqtt_3_3_2_13_response_topic_is_utf8),
    TEST(test_mqtt_3_3_2_14_no_wildcard_in_a_response_topic),
    TEST(test_mqtt_3_3_2_15_response_topic_is_unaltered),
    TEST(test_mqtt_3_3_2_16_correlation_data_is_unaltered),
    TEST(test_mqtt_3_3_2_17_user_properties_are_unaltered),
    TEST(test_mqtt_3_3_2_18_user_properties_keep_their_order),
    TEST(test_mqtt_3_3_2_19_content_type_is_utf8),
    TEST(test_mqtt_3_3_2_20_content_type_is_unaltered),
};

const struct section section_3_3 = SECTION("3.3 PUBLISH: header", cases);
