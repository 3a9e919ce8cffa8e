/*
 * s3_2_connack.c - 3.2 CONNACK.
 */
#include <stdio.h>
#include <string.h>

#include "suite.h"

/* A session of ~a with no connection. */
static void session_leave(struct test *t)
{
    need(t, NEED_SESSIONS);
    cut(peer_join(t, "c1 id=~a x=60"));
}

/* ---- CONNACK as a packet ------------------------------------------------- */

static void connack_first(struct test *t, struct peer *p)
{
    const struct heard *h = next(p, WAIT);

    check(t, h != NULL && h->packet.type == MQTT_CONNACK,
          "CONNACK is not first");
    check(t, h->packet.reason == 0, "CONNACK is not 0x00");
}

static void test_mqtt_3_2_0_1_before_all_other_answers(struct test *t)
{
    struct peer *p = peer_open(t);

    hold(p);
    say(p, "connect c1 id=~a");
    say(p, "pingreq");
    say(p, "subscribe #1 ~/a");
    say(p, "publish ~/a =x");
    release(p);
    connack_first(t, p);
    hear(p, "pingresp");
    hear(p, "suback #1 00");
}

static void test_mqtt_3_2_0_1_before_what_a_session_holds(struct test *t)
{
    need(t, NEED_SESSIONS | NEED_QOS2);
    struct peer *p = peer_join(t, "c1 id=~a x=60");
    subscribe(p, "~/a,q2");
    unsigned id = delivered(t, p, 2, "one");
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00", id);
    cut(p);
    publish(t, "q2 ~/a =two");
    p = peer_open(t);
    say(p, "connect c0 id=~a x=60");
    connack_first(t, p);
    hear(p, "pubrel #%u *", id);
    say(p, "pubcomp #%u", id); /* it may have no quota for another one */
    hear(p, "publish q2 #* ~/a =two");
}

static void test_mqtt_3_2_0_2_none_for_a_second_connect(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say_wrong(p, "connect c1 id=~a");
    refused_as(p, "82", "MQTT-3.2.0-2 MQTT-3.1.0-2");
    p = peer_open(t);
    hold(p);
    say(p, "connect c1 id=~a");
    say_wrong(p, "connect c1 id=~b");
    release(p);
    hear(p, "connack 00*");
    refused_as(p, "82", "MQTT-3.2.0-2 MQTT-3.1.0-2");
}

/* A CONNACK with any other flag does not decode, which fails the test. */
static void test_mqtt_3_2_2_1_seven_flags_are_0(struct test *t)
{
    session_leave(t);
    peer_join(t, "c0 id=~a x=60");
    peer_join(t, "c1 id=~a");
    peer_join(t, "c0 id=~b");
    struct peer *p = peer_open(t);
    say_frame(p, 0x10, "{'MQTT'} 05 01 00 00 [] {'~a'}");
    refused_as(p, "81", "MQTT-3.2.2-1 MQTT-3.1.2-3");
}

/* ---- Session Present ----------------------------------------------------- */

static void test_mqtt_3_2_2_2_clean_start_1_finds_nothing(struct test *t)
{
    session_leave(t);
    check(t, !present(peer_join(t, "c1 id=~a x=60")), "Session Present 1");
    check(t, !present(peer_join(t, "c1 id=~a x=60")),
          "Session Present 1 after a takeover");
    check(t, !present(peer_join(t, "c1 id=~b")), "Session Present 1");
}

static void test_mqtt_3_2_2_3_1_if_there_is_a_session(struct test *t)
{
    session_leave(t);
    check(t, present(peer_join(t, "c0 id=~a x=60")), "Session Present 0");
    check(t, present(peer_join(t, "c0 id=~a x=60")),
          "Session Present 0 after a takeover");
}

static void test_mqtt_3_2_2_3_0_if_there_never_was_one(struct test *t)
{
    check(t, !present(peer_join(t, "c0 id=~a x=60")), "Session Present 1");
    check(t, !present(peer_join(t, "c0 id=~b")), "Session Present 1");
}

static void test_mqtt_3_2_2_3_0_if_it_has_ended(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a x=60");

    say(p, "disconnect 00 x=0");
    cut(p);
    cut(peer_join(t, "c1 id=~b x=0"));
    cut(peer_join(t, "c1 id=~c x=1"));
    check(t, !present(peer_join(t, "c0 id=~a")), "given up, and present");
    check(t, !present(peer_join(t, "c0 id=~b")), "without expiry, and present");
    let_pass(t, 3000);
    check(t, !present(peer_join(t, "c0 id=~c")), "expired, and present");
}

static void test_mqtt_3_2_2_3_also_after_a_crash(struct test *t)
{
    session_leave(t);
    peer_join(t, "c1 id=~b x=60");
    struct peer *p = peer_join(t, "c1 id=~c x=60");
    say(p, "disconnect 00 x=0");
    cut(p);
    peer_join(t, "c1 id=~d x=0");
    restart(t);
    check(t, present(peer_join(t, "c0 id=~a x=60")), "stored, not present");
    check(t, present(peer_join(t, "c0 id=~b x=60")), "connected, not present");
    check(t, !present(peer_join(t, "c0 id=~c")), "given up, and present");
    check(t, !present(peer_join(t, "c0 id=~d")), "without expiry, and present");
    check(t, !present(peer_join(t, "c0 id=~e")), "never there, and present");
}

/* The client kept the Packet Identifier of an open exchange, and a
 * subscription: the new session knows of neither. */
static void test_mqtt_3_2_2_5_what_a_client_kept_is_unknown(struct test *t)
{
    need(t, NEED_SESSIONS | NEED_QOS2);
    struct peer *w = peer_watch(t, "~/a");
    struct peer *p = peer_join(t, "c1 id=~a x=60");
    subscribe(p, "~/b,q1");
    say(p, "publish q2 #7 ~/a =old");
    hear(p, "pubrec #7 [01]0*");
    cut(p);
    p = peer_join(t, "c1 id=~a x=60");
    check(t, !present(p), "Session Present 1");
    say(p, "publish q2 dup #7 ~/a =new");
    hear(p, "pubrec #7 [01]0*");
    say(p, "pubrel #7");
    hear(p, "pubcomp #7 00*");
    find(w, "publish q0 ~/a =new");
    say(p, "pubrel #7");
    hear(p, "pubcomp #7 *");
    publish(t, "q1 ~/b =x");
    silent(p);
}

/* ---- refusals ------------------------------------------------------------ */

static void test_mqtt_3_2_2_6_a_refusal_speaks_of_no_session(struct test *t)
{
    session_leave(t);
    struct peer *p = peer_open(t);
    say_frame(p, 0x10, "{'MQTT'} 05 01 00 00 [] {'~a'}");
    refused_as(p, "81", "MQTT-3.2.2-6 MQTT-3.1.2-3");
    p = peer_open(t);
    say(p, "connect c0 id=~a x=60 am=~none");
    if (!comes(p, WAIT, "connack 00*"))
        refused_as(p, "8c", "MQTT-3.2.2-6 MQTT-4.12.0-1");
}

/* After the CONNECT of p comes one that nobody would refuse; its connection
 * must be over by then. */
static void refused_at_once(struct peer *p, const char *codes,
                            const char *statements)
{
    say_wrong(p, "connect c1 id=~b");
    say_wrong(p, "pingreq");
    release(p);
    refused_as(p, codes, statements);
}

static void test_mqtt_3_2_2_7_no_more_of_a_malformed_one(struct test *t)
{
    struct peer *p = peer_open(t);

    hold(p);
    say_frame(p, 0x10, "{'MQTT'} 05 02 00 00 [21 0000] {'~a'}");
    refused_at_once(p, "82", "MQTT-3.2.2-7 MQTT-3.1.4-1");
}

static void test_mqtt_3_2_2_7_no_more_of_an_unwelcome_one(struct test *t)
{
    need_refusal(t);
    struct peer *p = peer_open(t);
    hold(p);
    say(p, "connect c1 id=~a am=~none");
    refused_at_once(p, "8c", "MQTT-3.2.2-7 MQTT-4.12.0-1");
}

/* A CONNACK with a code that is none of its own does not decode. */
static void test_mqtt_3_2_2_8_the_code_is_one_of_connack(struct test *t)
{
    static const char *const wrong[] = {
        "03 00 00 [] {'~a'}",                  /* a reserved flag */
        "1E 00 00 [] {'~a'} [] {'~/w'} {'x'}", /* Will QoS 3 */
        "02 00 00 [21 0000] {'~a'}",           /* Receive Maximum 0 */
        "02 00 00 [23 0001] {'~a'}",           /* Topic Alias */
        "02 00 00 [] {'~' FF}",                /* ClientID no UTF-8 */
        "06 00 00 [] {'~a'} [] {'~/#'} {'x'}", /* wildcard in a Will Topic */
        "06 00 00 [] {'~a'} [01 01] {'~/w'} {FF}", /* payload no UTF-8 */
        "02 00 00 [15 {'~none'}] {'~a'}",      /* Authentication Method */
    };

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct peer *p = peer_open(t);
        say_frame(p, 0x10, "{'MQTT'} 05 %s", wrong[i]);
        /* Some brokers take some of these. */
        const struct heard *h = next(p, WAIT);
        if (h != NULL && h->packet.reason != 0)
            ended(p);
    }
}

/* ---- what the server is able to do --------------------------------------- */

static void test_mqtt_3_2_2_9_what_is_not_limited_is_served(struct test *t)
{
    unsigned max = offer(t)->qos_max;

    for (unsigned qos = 0; qos <= max; qos++) {
        /* another client each time: none waits for what another left open */
        struct peer *w = peer_watch(t, "~/a,q%u", max);
        publish(t, "q%u ~/a =x", qos);
        hear(w, "publish q%u *~/a =x", qos);
    }
}

static void test_mqtt_3_2_2_10_any_qos_may_be_asked_for(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    for (unsigned qos = 0; qos <= 2; qos++) {
        say(p, "subscribe #1 ~/%u,q%u", qos, qos);
        const struct heard *h = hear(p, "suback #1 *");
        check(t, h->packet.list.n == 1 && h->packet.list.p[0] <= qos,
              "SUBSCRIBE for QoS %u is not granted", qos);
    }
}

static void test_mqtt_3_2_2_11_a_client_keeps_to_maximum_qos(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a", "connack 00 mq=1");

    client_refuses(p, "MQTT-3.2.2-11", "publish q2 #1 ~/a =x");
    say(p, "publish q1 #1 ~/a =x");
    check(t, strcmp(sent(p), "PUBLISH ") == 0, "QoS 1 was not sent");
    p = peer_scripted(t, "c1 id=~b", "connack 00 mq=0");
    client_refuses(p, "MQTT-3.2.2-11", "publish q2 #1 ~/a =x");
    client_refuses(p, "MQTT-3.2.2-11", "publish q1 #1 ~/a =x");
    say(p, "publish ~/a =x");
    check(t, strcmp(sent(p), "PUBLISH ") == 0, "QoS 0 was not sent");
}

static void test_mqtt_3_2_2_11_a_higher_one_is_refused(struct test *t)
{
    if (offer(t)->qos_max == 2)
        not_offered(t, "CONNACK names no Maximum QoS");
    struct peer *p = peer_join(t, "c1 id=~a");
    say_wrong(p, "publish q%u #1 ~/a =x", offer(t)->qos_max + 1u);
    refused(p, "9b");
}

static void test_mqtt_3_2_2_12_a_higher_will_qos_is_refused(struct test *t)
{
    if (offer(t)->qos_max == 2)
        not_offered(t, "CONNACK names no Maximum QoS");
    struct peer *p = peer_open(t);
    say_wrong(p, "connect c1 id=~a will q%u ~/w =x", offer(t)->qos_max + 1u);
    refused(p, "9b");
}

static void test_mqtt_3_2_2_13_will_retain_is_refused(struct test *t)
{
    if (offer(t)->retain)
        not_offered(t, "CONNACK does not say Retain Available 0");
    struct peer *p = peer_open(t);
    say_wrong(p, "connect c1 id=~a will retain ~/w =x");
    refused(p, "9a");
}

static void test_mqtt_3_2_2_14_a_client_retains_nothing_then(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a", "connack 00 ra=0");

    client_refuses(p, "MQTT-3.2.2-14", "publish retain ~/a =x");
    say(p, "publish ~/a =x");
    check(t, strcmp(sent(p), "PUBLISH ") == 0, "nothing else was sent");
}

static void test_mqtt_3_2_2_14_retain_is_refused(struct test *t)
{
    if (offer(t)->retain)
        not_offered(t, "CONNACK does not say Retain Available 0");
    struct peer *p = peer_join(t, "c1 id=~a");
    say_wrong(p, "publish retain ~/a =x");
    refused(p, "9a");
}

static void test_mqtt_3_2_2_15_a_client_keeps_to_the_maximum(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a", "connack 00 mps=40");

    /* 6 bytes around the payload */
    client_refuses(p, "MQTT-3.2.2-15", "publish t =*35");
    say(p, "publish t =*34");
    check(t, strcmp(sent(p), "PUBLISH ") == 0, "40 bytes were not sent");
}

/* The payload of a PUBLISH of QoS 0 that is so long as a whole; one byte
 * more of it, and the packet is longer. */
static size_t payload_for(size_t whole, size_t topic)
{
    size_t length = 1; /* of the Remaining Length */

    while (whole - 1 - length >= (size_t)1 << 7 * length)
        length++;
    return whole - 1 - length - 2 - topic - 1;
}

static void test_mqtt_3_2_2_15_a_larger_packet_is_refused(struct test *t)
{
    uint32_t max = offer(t)->packet_max;
    size_t topic = strlen(prefix(t)) + 2;

    if (max == 0 || max > 0x2000000)
        not_offered(t, "Maximum Packet Size is %lu", (unsigned long)max);
    struct peer *w = peer_watch(t, "~/a"), *p = peer_join(t, "c1 id=~a");
    say(p, "publish ~/b =*%zu", payload_for(max, topic));
    say(p, "pingreq");
    hear(p, "pingresp");
    say_wrong(p, "publish ~/a =*%zu", payload_for(max, topic) + 1);
    refused(p, "95");
    publish(t, "~/a =small");
    hear(w, "publish q0 ~/a =small");
}

static int same(struct mqtt_bytes a, struct mqtt_bytes b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

/* Clients `from` to 5 join without an identifier; each leaves its session, or
 * stays where there are none to leave: what has ended may be used again. */
static void nameless_join(struct test *t, struct peer *all[6], int from)
{
    for (int i = from; i < 6; i++) {
        all[i] = peer_join(t, i % 2 == 0 ? "c0 x=60" : "c1 x=60");
        check(t, assigned(all[i]).n > 0,
              "CONNACK assigns no Client Identifier");
        check(t, !present(all[i]), "it has a session already");
        for (int k = 0; k < i; k++)
            check(t, !same(assigned(all[i]), assigned(all[k])),
                  "another session has it");
        if (offer(t)->sessions)
            cut(all[i]);
    }
}

static void test_mqtt_3_2_2_16_no_session_has_it_yet(struct test *t)
{
    struct peer *all[6];

    need_assigned(t);
    nameless_join(t, all, 0);
}

static void test_mqtt_3_2_2_16_also_after_a_crash(struct test *t)
{
    struct peer *all[6];

    need(t, NEED_SESSIONS);
    need_assigned(t);
    for (int i = 0; i < 3; i++)
        all[i] = peer_join(t, "c1 x=60");
    restart(t);
    nameless_join(t, all, 3);
}

static void test_mqtt_3_2_2_17_a_client_keeps_to_the_maximum(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a", "connack 00 tam=5");

    client_refuses(p, "MQTT-3.2.2-17", "publish ~/a =x ta=6");
    client_refuses(p, "MQTT-3.2.2-17", "publish ~/a =x ta=65535");
    say(p, "publish ~/a =x ta=5");
    check(t, strcmp(sent(p), "PUBLISH ") == 0, "alias 5 was not sent");
}

static void test_mqtt_3_2_2_17_a_higher_alias_is_refused(struct test *t)
{
    unsigned max = offer(t)->alias_max;

    if (max == 0 || max == 65535)
        not_offered(t, "Topic Alias Maximum is %u", max);
    struct peer *w = peer_watch(t, "~/a"), *p = peer_join(t, "c1 id=~a");
    say(p, "publish ~/a =highest ta=%u", max);
    hear(w, "publish q0 ~/a =highest");
    say_wrong(p, "publish ~/a =higher ta=%u", max + 1);
    refused(p, "94");
    publish(t, "~/a =last");
    hear(w, "publish q0 ~/a =last");
}

static void test_mqtt_3_2_2_18_a_client_uses_no_alias_then(struct test *t)
{
    static const char *const none[] = {"connack 00", "connack 00 tam=0"};

    for (int i = 0; i < 2; i++) {
        struct peer *p = peer_scripted(t, "c1 id=~a", none[i]);
        client_refuses(p, "MQTT-3.2.2-18", "publish ~/a =x ta=1");
        say(p, "publish ~/a =x");
        check(t, strcmp(sent(p), "PUBLISH ") == 0, "nothing else was sent");
    }
}

static void test_mqtt_3_2_2_18_an_alias_is_refused(struct test *t)
{
    if (offer(t)->alias_max > 0)
        not_offered(t, "Topic Alias Maximum is %u", offer(t)->alias_max);
    struct peer *p = peer_join(t, "c1 id=~a");
    say_wrong(p, "publish ~/a =x ta=1");
    refused(p, "94 82");
}

/* ---- CONNACK and the client's Maximum Packet Size ------------------------ */

/* The size of the CONNACK that answers these words if it has this property,
 * else 0. */
static size_t size_with(struct test *t, const char *words, size_t max,
                        uint8_t property)
{
    struct peer *p = peer_open(t);

    say_wrong(p, "connect mps=%zu %s", max, words);
    const struct heard *h = next(p, WAIT);
    return h != NULL && MQTT_HAS(&h->packet.props, property) ? h->size : 0;
}

/* Where the property just fits, and a limit takes one byte away or nearly
 * all, it is not sent. */
static void property_gives_way(struct test *t, const char *words,
                               uint8_t property)
{
    size_t whole = size_with(t, words, 65535, property);

    if (whole == 0)
        return;
    check(t, size_with(t, words, whole - 1, property) < whole,
          "a CONNACK of more than %zu bytes", whole - 1);
    check(t, size_with(t, words, 5, property) == 0,
          "a CONNACK of more than 5 bytes");
}

static void test_mqtt_3_2_2_19_a_reason_string_must_fit(struct test *t)
{
    const char *unwelcome = "c1 id=~a am=~none";
    size_t size = size_with(t, unwelcome, 65535, MQTT_REASON_STRING);

    check(t, size > 0 || !diagnosed(t), "the refusal has no Reason String");
    property_gives_way(t, unwelcome, MQTT_REASON_STRING);
    property_gives_way(t, "c1 id=~a will ~/# =x", MQTT_REASON_STRING);
    property_gives_way(t, "c1 id=~a", MQTT_REASON_STRING);
}

static void test_mqtt_3_2_2_20_user_properties_must_fit(struct test *t)
{
    property_gives_way(t, "c1 id=~a am=~none", MQTT_USER_PROPERTY);
    property_gives_way(t, "c1 id=~a", MQTT_USER_PROPERTY);
}

/* ---- Server Keep Alive --------------------------------------------------- */

static void test_mqtt_3_2_2_21_a_client_takes_the_servers(struct test *t)
{
    struct peer *more = peer_scripted(t, "c1 id=~a ka=60", "connack 00 ska=1");
    struct peer *less = peer_scripted(t, "c1 id=~b ka=1", "connack 00 ska=60");
    struct peer *none = peer_scripted(t, "c1 id=~c ka=1", "connack 00 ska=0");

    let_pass(t, 1100);
    check(t, strcmp(sent(more), "PINGREQ ") == 0, "1 second was not kept");
    check(t, strcmp(sent(less), "") == 0, "60 seconds were not taken");
    check(t, strcmp(sent(none), "") == 0, "no Keep Alive was not taken");
}

/* A client with this Keep Alive, or NULL if the server sets another one. */
static struct peer *join_keeping(struct test *t, const char *words)
{
    struct peer *p = peer_join(t, "c1 %s", words);
    const struct mqtt_properties *props = &connack(p)->packet.props;

    return MQTT_HAS(props, MQTT_SERVER_KEEP_ALIVE) ? NULL : p;
}

static void test_mqtt_3_2_2_22_without_one_the_clients_counts(struct test *t)
{
    struct peer *none = join_keeping(t, "id=~a ka=0");
    struct peer *more = join_keeping(t, "id=~b ka=60");
    struct peer *one = join_keeping(t, "id=~c ka=1");
    struct peer *two = join_keeping(t, "id=~d ka=2");

    if (one == NULL || two == NULL)
        not_offered(t, "CONNACK has a Server Keep Alive");
    ended_after(one, 1500);
    ended_after(two, 3000);
    if (none != NULL)
        silent(none);
    if (more != NULL)
        silent(more);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_2_0_1_before_all_other_answers),
    TEST(test_mqtt_3_2_0_1_before_what_a_session_holds),
    TEST(test_mqtt_3_2_0_2_none_for_a_second_connect),
    TEST(test_mqtt_3_2_2_1_seven_flags_are_0),
    TEST(test_mqtt_3_2_2_2_clean_start_1_finds_nothing),
    TEST(test_mqtt_3_2_2_3_1_if_there_is_a_session),
    TEST(test_mqtt_3_2_2_3_0_if_there_never_was_one),
    TEST(test_mqtt_3_2_2_3_0_if_it_has_ended),
    TEST_RESTARTS(test_mqtt_3_2_2_3_also_after_a_crash),
    UNOBSERVABLE(test_mqtt_3_2_2_4,
                 "what a client does whose own state is gone, and a broker "
                 "sees no more of it than a closed connection"),
    TEST(test_mqtt_3_2_2_5_what_a_client_kept_is_unknown),
    TEST(test_mqtt_3_2_2_6_a_refusal_speaks_of_no_session),
    TEST(test_mqtt_3_2_2_7_no_more_of_a_malformed_one),
    TEST(test_mqtt_3_2_2_7_no_more_of_an_unwelcome_one),
    TEST(test_mqtt_3_2_2_8_the_code_is_one_of_connack),
    TEST(test_mqtt_3_2_2_9_what_is_not_limited_is_served),
    TEST(test_mqtt_3_2_2_10_any_qos_may_be_asked_for),
    TEST(test_mqtt_3_2_2_11_a_client_keeps_to_maximum_qos),
    TEST(test_mqtt_3_2_2_11_a_higher_one_is_refused),
    TEST(test_mqtt_3_2_2_12_a_higher_will_qos_is_refused),
    TEST(test_mqtt_3_2_2_13_will_retain_is_refused),
    TEST(test_mqtt_3_2_2_14_a_client_retains_nothing_then),
    TEST(test_mqtt_3_2_2_14_retain_is_refused),
    TEST(test_mqtt_3_2_2_15_a_client_keeps_to_the_maximum),
    TEST(test_mqtt_3_2_2_15_a_larger_packet_is_refused),
    TEST(test_mqtt_3_2_2_16_no_session_has_it_yet),
    TEST_RESTARTS(test_mqtt_3_2_2_16_also_after_a_crash),
    TEST(test_mqtt_3_2_2_17_a_client_keeps_to_the_maximum),
    TEST(test_mqtt_3_2_2_17_a_higher_alias_is_refused),
    TEST(test_mqtt_3_2_2_18_a_client_uses_no_alias_then),
    TEST(test_mqtt_3_2_2_18_an_alias_is_refused),
    TEST(test_mqtt_3_2_2_19_a_reason_string_must_fit),
    TEST(test_mqtt_3_2_2_20_user_properties_must_fit),
    TEST(test_mqtt_3_2_2_21_a_client_takes_the_servers),
    TEST(test_mqtt_3_2_2_22_without_one_the_clients_counts),
};

const struct section section_3_2 = SECTION("3.2 CONNACK", cases);
