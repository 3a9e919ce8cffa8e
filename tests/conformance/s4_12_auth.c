/*
 * s4_12_auth.c - 4.12 Enhanced authentication.
 *
 * The standard defines no Authentication Method.  An exchange is tested with
 * brokers that know one of the name CONFORMANCE; what it proves is theirs.
 */
#include <string.h>

#include "suite.h"

#define METHOD "am=CONFORMANCE"

static struct peer *introduced(struct test *t)
{
    struct peer *p = peer_open(t);

    say(p, "connect c1 id=~a " METHOD);
    return p;
}

/* A client that was asked for more by AUTH. */
static struct peer *challenged(struct test *t)
{
    struct peer *p = introduced(t);
    const struct heard *h = next(p, WAIT);

    if (h == NULL || h->packet.type != MQTT_AUTH)
        not_offered(t, "no exchange with the Authentication Method "
                       "CONFORMANCE");
    check(t, h->packet.reason == 0x18, "it is [%s]", h->text);
    return p;
}

/* Answers until something else than a challenge comes; NULL = the end. */
static const struct heard *exchange(struct peer *p, const char *data)
{
    const struct heard *h = NULL;

    for (int i = 0; i < 20; i++) {
        say(p, "auth 18 " METHOD " ad=%s", data);
        h = next(p, WAIT);
        if (h == NULL || h->packet.type != MQTT_AUTH || h->packet.reason == 0)
            break;
    }
    return h;
}

static struct peer *logged_in(struct test *t)
{
    struct peer *p = challenged(t);
    const struct heard *h = exchange(p, "good");

    if (h == NULL || h->packet.type != MQTT_CONNACK || h->packet.reason != 0)
        not_offered(t, "no way to log in with the method CONFORMANCE");
    return p;
}

/* ---- 4.12.0 ------------------------------------------------------------- */

static void test_mqtt_4_12_0_1_an_unknown_method_is_refused(struct test *t)
{
    static const char *const words[] = {
        "am=~", "am=~ ad=~", "am=~ user=u pass=p", "am=~ will =x ~/w"};

    for (size_t i = 0; i < COUNT(words); i++) {
        struct peer *p = peer_open(t);
        say(p, "connect c1 id=~a %s", words[i]);
        refused(p, "8c 87");
    }
}

static void test_mqtt_4_12_0_2_the_broker_asks_with_0x18(struct test *t)
{
    const struct heard *h = exchange(challenged(t), "good");

    check(t, h == NULL || h->packet.type == MQTT_CONNACK,
          "before CONNACK comes [%s]", h == NULL ? "" : h->text);
}

static void test_mqtt_4_12_0_3_the_client_answers_with_0x18(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a am=m", "auth 18 am=m");

    hear(p, "auth 18 am=m");
    client_refuses(p, "MQTT-4.12.0-3", "auth 19 am=m");
    client_refuses(p, "MQTT-4.12.0-3", "auth 00 am=m");
    say(p, "auth 18 am=m ad=x");
    check(t, strcmp(sent(p), "AUTH ") == 0, "it sent something else");
}

static void test_mqtt_4_12_0_3_another_answer_is_refused(struct test *t)
{
    struct peer *p = challenged(t);

    say_wrong(p, "auth 19 " METHOD);
    refused(p, "82");
}

static void test_mqtt_4_12_0_4_a_wrong_proof_is_refused(struct test *t)
{
    struct peer *p = challenged(t);
    const struct heard *h = exchange(p, "wrong");

    if (h != NULL && h->packet.type == MQTT_CONNACK && h->packet.reason == 0)
        not_offered(t, "the method CONFORMANCE takes any proof");
    check(t, h == NULL || h->packet.reason >= 0x80, "it is [%s]",
          h == NULL ? "" : h->text);
    ended(p);
}

static void test_mqtt_4_12_0_5_the_method_is_in_each_packet(struct test *t)
{
    struct peer *p = introduced(t);
    const struct heard *h = next(p, WAIT);

    if (h == NULL || h->packet.reason >= 0x80)
        not_offered(t, "the broker does not know the method CONFORMANCE");
    while (h != NULL && h->packet.reason < 0x80) {
        struct mqtt_bytes m = h->packet.props.authentication_method;
        check(t, m.n == 11 && memcmp(m.p, "CONFORMANCE", 11) == 0,
              "another method, or none, in [%s]", h->text);
        if (h->packet.type != MQTT_AUTH)
            break;
        say(p, "auth 18 " METHOD " ad=good");
        h = next(p, WAIT);
    }
}

static void test_mqtt_4_12_0_5_the_client_repeats_the_method(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a am=m", "auth 18 am=m");

    hear(p, "auth 18 am=m");
    client_refuses(p, "MQTT-4.12.0-5", "auth 18 am=M");
    client_refuses(p, "MQTT-4.12.0-5", "auth 18");
    check(t, strcmp(sent(p), "") == 0, "it sent something");
}

static void test_mqtt_4_12_0_6_no_method_no_auth(struct test *t)
{
    static const char *const words[] = {"c1 id=~a", "c0 id=~a x=1",
                                        "c1 id=~a user=u pass=p",
                                        "c1 id=~a ka=60 rm=5 rpi=1 rri=1"};

    for (size_t i = 0; i < COUNT(words); i++) {
        struct peer *p = peer_open(t);
        say(p, "connect %s", words[i]);
        const struct heard *h = next(p, WAIT);
        check(t,
              h != NULL && h->packet.type == MQTT_CONNACK &&
                  !MQTT_HAS(&h->packet.props, MQTT_AUTHENTICATION_METHOD),
              "it is [%s]", h == NULL ? "" : h->text);
        if (h->packet.reason != 0)
            continue; /* this user is unknown */
        silent(p);
        leave(p);
    }
}

static void test_mqtt_4_12_0_6_nor_to_who_is_refused(struct test *t)
{
    static const char *const wrong[] = {"c1 id=~a rm=0", "c1 id=~a will =x ~/#",
                                        "c1 id=%C3%28", "c1 id=~a ad=x"};

    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct peer *p = peer_open(t);
        say_wrong(p, "connect %s", wrong[i]);
        const struct heard *h = next(p, WAIT);
        check(t,
              h == NULL ||
                  (h->packet.type == MQTT_CONNACK &&
                   !MQTT_HAS(&h->packet.props, MQTT_AUTHENTICATION_METHOD)),
              "it is [%s]", h == NULL ? "" : h->text);
        cut(p);
    }
}

static void test_mqtt_4_12_0_7_auth_without_a_method_is_refused(struct test *t)
{
    static const char *const wrong[] = {"auth 18 am=x", "auth 19 am=x",
                                        "auth 18 am=x ad=x"};

    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say_wrong(p, "%s", wrong[i]);
        refused(p, "82");
    }
}

static void test_mqtt_4_12_0_7_the_client_sends_none(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a", "connack 00");

    client_refuses(p, "MQTT-4.12.0-7", "auth 18 am=m");
    client_refuses(p, "MQTT-4.12.0-7", "auth 19 am=m");
    check(t, strcmp(sent(p), "") == 0, "it sent something");
}

/* ---- 4.12.1 Re-authentication ------------------------------------------- */

static void test_mqtt_4_12_1_1_the_client_names_the_same_method(struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a am=m", "connack 00 am=m");

    client_refuses(p, "MQTT-4.12.1-1", "auth 19 am=other");
    client_refuses(p, "MQTT-4.12.1-1", "auth 19");
    say(p, "auth 19 am=m");
    check(t, strcmp(sent(p), "AUTH ") == 0, "it sent something else");
}

static void test_mqtt_4_12_1_1_another_method_is_refused(struct test *t)
{
    struct peer *p = logged_in(t);

    say_wrong(p, "auth 19 am=OTHER");
    refused(p, "82 8c");
}

static void test_mqtt_4_12_1_2_a_wrong_proof_closes(struct test *t)
{
    struct peer *p = logged_in(t);

    say(p, "auth 19 " METHOD " ad=wrong");
    const struct heard *h = next(p, WAIT);
    if (h != NULL && h->packet.type == MQTT_AUTH && h->packet.reason == 0x18)
        h = exchange(p, "wrong");
    if (h != NULL && h->packet.type == MQTT_AUTH)
        not_offered(t, "the method CONFORMANCE takes any proof");
    check(t,
          h == NULL ||
              (h->packet.type == MQTT_DISCONNECT && h->packet.reason >= 0x80),
          "it is [%s]", h == NULL ? "" : h->text);
    ended(p);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_4_12_0_1_an_unknown_method_is_refused),
    TEST(test_mqtt_4_12_0_2_the_broker_asks_with_0x18),
    TEST(test_mqtt_4_12_0_3_the_client_answers_with_0x18),
    TEST(test_mqtt_4_12_0_3_another_answer_is_refused),
    TEST(test_mqtt_4_12_0_4_a_wrong_proof_is_refused),
    TEST(test_mqtt_4_12_0_5_the_method_is_in_each_packet),
    TEST(test_mqtt_4_12_0_5_the_client_repeats_the_method),
    TEST(test_mqtt_4_12_0_6_no_method_no_auth),
    TEST(test_mqtt_4_12_0_6_nor_to_who_is_refused),
    TEST(test_mqtt_4_12_0_7_auth_without_a_method_is_refused),
    TEST(test_mqtt_4_12_0_7_the_client_sends_none),
    TEST(test_mqtt_4_12_1_1_the_client_names_the_same_method),
    TEST(test_mqtt_4_12_1_1_another_method_is_refused),
    TEST(test_mqtt_4_12_1_2_a_wrong_proof_closes),
};

const struct section section_4_12 =
    SECTION("4.12 Enhanced authentication", cases);
