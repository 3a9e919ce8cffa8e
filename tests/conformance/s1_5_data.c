/*
 * s1_5_data.c - 1.5 Data representation.
 */
#include <string.h>

#include "suite.h"

/* A packet up to the end of one string in it, to which a test adds bytes that
 * no string may hold. */
static const struct {
    const char *words;
    const char *utf8_id; /* what Holdfast names for ill-formed UTF-8, */
    const char *null_id; /* and for U+0000 */
} places[] = {
    {"connect c1 id=~a", "MQTT-3.1.3-4", "MQTT-1.5.4-2"},
    {"connect c1 id=~a user=a", "MQTT-3.1.3-12", "MQTT-1.5.4-2"},
    {"connect c1 id=~a am=a", "MQTT-1.5.4-1", "MQTT-1.5.4-2"},
    {"connect c1 id=~a will =gone ~/a", "MQTT-3.1.3-11", "MQTT-4.7.3-2"},
    {"connect c1 id=~a will =gone ~/a ct=a", "MQTT-3.3.2-19", "MQTT-1.5.4-2"},
    {"publish =bad ~/a", "MQTT-3.3.2-1", "MQTT-4.7.3-2"},
    {"publish =bad ~/a ct=a", "MQTT-3.3.2-19", "MQTT-1.5.4-2"},
    {"publish =bad ~/a rt=a", "MQTT-3.3.2-13", "MQTT-1.5.4-2"},
    {"subscribe #1 ~/a", "MQTT-3.8.3-1", "MQTT-4.7.3-2"},
    {"unsubscribe #1 ~/a", "MQTT-3.10.3-1", "MQTT-4.7.3-2"},
    {"disconnect 00 rs=a", "MQTT-1.5.4-1", "MQTT-1.5.4-2"},
};

#define PLACES COUNT(places)

static void packet_refused(struct test *t, const char *words, const char *end,
                           const char *statements)
{
    int first = strncmp(words, "connect", 7) == 0;
    struct peer *p = first ? peer_open(t) : peer_join(t, "c1 id=~a");

    say_wrong(p, "%s%s", words, end);
    refused_as(p, "81", statements);
}

static void test_mqtt_1_5_4_1_ill_formed_utf8_is_refused(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a");

    for (size_t i = 0; i < PLACES; i++)
        packet_refused(t, places[i].words, "%C3%28", places[i].utf8_id);
    publish(t, "=end ~/a");
    hear(w, "publish q0 ~/a =end");
    silent(w);
}

static void test_mqtt_1_5_4_1_no_sequence_gets_through(struct test *t)
{
    static const char *const wrong[] = {
        "%80",          "%BF",          "%C3",
        "%C3%C3",       "%E2%82",       "%E2%28%AC",
        "%F0%9F%98",    "%F0%9F%98x",   "%E2%82(",
        "%F0%28%98%80", "%F0%9F(%80",   "%C0%80",
        "%C1%BF",       "%E0%9F%BF",    "%F0%8F%BF%BF",
        "%ED%A0%80",    "%ED%BF%BF",    "%ED%A0%BD%ED%B8%80",
        "%F4%90%80%80", "%F5%80%80%80", "%F8%88%80%80%80",
        "%FE",          "%FF"};
    struct peer *w = peer_watch(t, "~/#");

    for (size_t i = 0; i < COUNT(wrong); i++)
        packet_refused(t, "publish =bad ~/a", wrong[i],
                       "MQTT-1.5.4-1 MQTT-3.3.2-1");
    publish(t, "=end ~/a");
    hear(w, "publish q0 ~/a =end");
    silent(w);
}

/* The first and the last character of each length that every receiver has to
 * take: 1.5.4 lets it refuse control characters and noncharacters. */
static void test_mqtt_1_5_4_1_well_formed_utf8_gets_through(struct test *t)
{
    static const char *const right[] = {
        "%C2%A0",       "%DF%BF",      "%E0%A0%80", "%E2%82%AC",
        "%ED%9F%BF",    "%EE%80%80",   "%EF%BF%BD", "%F0%90%80%80",
        "%F0%9F%98%80", "%F4%8F%BF%BD"};

    for (size_t i = 0; i < COUNT(right); i++) {
        const char *c = right[i];
        struct peer *p = peer_join(t, "c1 id=~a");
        subscribe(p, "~/%s", c);
        publish(t, "=x ~/%s ct=%s rt=%s up=%s:%s", c, c, c, c, c);
        hear(p, "publish q0 ~/%s =x ct=%s rt=%s up=%s:%s", c, c, c, c, c);
        leave(p);
    }
}

static void test_mqtt_1_5_4_2_u_0000_is_refused(struct test *t)
{
    struct peer *w = peer_watch(t, "~/a");

    for (size_t i = 0; i < PLACES; i++)
        packet_refused(t, places[i].words, "%00", places[i].null_id);
    publish(t, "=end ~/a");
    hear(w, "publish q0 ~/a =end");
    silent(w);
}

static void test_mqtt_1_5_4_2_u_0000_is_refused_anywhere(struct test *t)
{
    static const char *const wrong[] = {"%00", "%00/b", "/%00", "/b%00c"};
    struct peer *w = peer_watch(t, "~/#");

    for (size_t i = 0; i < COUNT(wrong); i++)
        packet_refused(t, "publish =bad ~/a", wrong[i],
                       "MQTT-1.5.4-2 MQTT-4.7.3-2");
    publish(t, "=end ~/a");
    hear(w, "publish q0 ~/a =end");
    silent(w);
}

#define MARK "%EF%BB%BF"

static void test_mqtt_1_5_4_3_u_feff_makes_another_topic(struct test *t)
{
    struct peer *marked = peer_watch(t, "%s", MARK "~/a");
    struct peer *plain = peer_watch(t, "~/a");

    publish(t, "%s", "=1 " MARK "~/a");
    hear(marked, "%s", "publish q0 " MARK "~/a =1");
    publish(t, "=2 ~/a");
    hear(plain, "publish q0 ~/a =2");
    silent(marked);
    silent(plain);
}

static void test_mqtt_1_5_4_3_u_feff_stays_where_it_stands(struct test *t)
{
    struct peer *p = peer_watch(t, "%s", "~/" MARK "/x" MARK);

    publish(t, "%s",
            "=x ~/" MARK "/x" MARK " ct=" MARK "a rt=" MARK "b" MARK " up=" MARK
            "n:" MARK "v");
    hear(p, "%s",
         "publish q0 ~/" MARK "/x" MARK " =x ct=" MARK "a rt=" MARK "b" MARK
         " up=" MARK "n:" MARK "v");
}

static void
test_mqtt_1_5_5_1_remaining_length_is_in_shortest_form(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a");

    /* One byte has room for 127, two have room for 16,383. */
    for (unsigned n = 100; n <= 130; n++) {
        publish(t, "=*%u ~/a", n);
        hear(p, "publish q0 ~/a =*%u", n);
    }
    for (unsigned n = 16360; n <= 16390; n++) {
        publish(t, "=*%u ~/a", n);
        hear(p, "publish q0 ~/a =*%u", n);
    }
}

static void
test_mqtt_1_5_5_1_property_length_is_in_shortest_form(struct test *t)
{
    char value[131];
    struct peer *p = peer_watch(t, "~/a");

    for (unsigned n = 115; n <= 130; n++) {
        memset(value, 'v', n);
        value[n] = '\0';
        publish(t, "=x ~/a up=n:%s", value);
        hear(p, "publish q0 ~/a =x up=n:%s", value);
    }
}

static void
test_mqtt_1_5_5_1_subscription_identifier_is_in_shortest_form(struct test *t)
{
    static const unsigned numbers[] = {1,     127,     128,     16383,
                                       16384, 2097151, 2097152, 268435455};
    struct peer *p = peer_join(t, "c1 id=~a");

    for (size_t i = 0; i < COUNT(numbers); i++) {
        subscribe(p, "~/a sid=%u", numbers[i]);
        publish(t, "=x ~/a");
        hear(p, "publish q0 ~/a =x sid=%u", numbers[i]);
    }
}

/* 1.5.5 binds who writes: a broker may refuse the longer form, or read it for
 * what it is. */
static void longer_refused(struct test *t, struct peer *p, const char *answer)
{
    if (diagnosed(t) || !comes(p, WAIT, "%s", answer))
        refused(p, "81");
}

static void test_mqtt_1_5_5_1_a_longer_form_is_refused(struct test *t)
{
    static const struct {
        unsigned first;
        const char *bytes;
        const char *answer;
    } wrong[] = {
        {0x32, "{'~/a'} 0001 80 00 'x'", "puback #1 *"},
        {0x82, "0001 [0B 81 00] {'~/a'} 00", "suback #1 *"},
        {0x82, "0001 [0B 81 80 80 00] {'~/a'} 00", "suback #1 *"},
        {0x82, "0001 80 80 80 00 {'~/a'} 00", "suback #1 *"},
    };

    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say_frame(p, wrong[i].first, "%s", wrong[i].bytes);
        longer_refused(t, p, wrong[i].answer);
    }
}

static void
test_mqtt_1_5_5_1_a_longer_remaining_length_is_refused(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say_bytes(p, "C0 80 00");
    longer_refused(t, p, "pingresp");
    p = peer_join(t, "c1 id=~a");
    say_bytes(p, "C0 80 80 80 00");
    longer_refused(t, p, "pingresp");
    p = peer_join(t, "c1 id=~a");
    say_bytes(p, "32 %02X 00 {'~/a'} 0001 00 'x'",
              0x80u + (unsigned)strlen(prefix(t)) + 8);
    longer_refused(t, p, "puback #1 *");
}

static void test_mqtt_1_5_7_1_a_pair_is_two_strings(struct test *t)
{
    static const char *const packets[] = {
        "connect c1 id=~a",   "connect c1 id=~a will =gone ~/a",
        "publish =bad ~/a",   "subscribe #1 ~/a",
        "unsubscribe #1 ~/a", "disconnect 00"};
    static const char *const pairs[] = {
        " up=n%C3%28:v", " up=n:v%C3%28",          " up=n%00:v",
        " up=n:%00v",    " up=n:v up=%ED%A0%80:v", " up=n:v up=n:%F4%90%80%80"};
    struct peer *w = peer_watch(t, "~/a");

    for (size_t i = 0; i < COUNT(packets); i++)
        for (size_t k = 0; k < COUNT(pairs); k++)
            packet_refused(t, packets[i], pairs[k], "MQTT-1.5.7-1");
    publish(t, "=end ~/a");
    hear(w, "publish q0 ~/a =end");
    silent(w);
}

static void test_mqtt_1_5_7_1_good_pairs_get_through(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a");

    publish(t,
            "=x ~/a up=n:v up=:v up=n: up=: up=n:%%C3%%A9 up=%%E2%%82%%AC:n");
    hear(p, "publish q0 ~/a =x up=n:v up=:v up=n: up=: up=n:%%C3%%A9 "
            "up=%%E2%%82%%AC:n");
}

static const struct test_case cases[] = {
    TEST(test_mqtt_1_5_4_1_ill_formed_utf8_is_refused),
    TEST(test_mqtt_1_5_4_1_no_sequence_gets_through),
    TEST(test_mqtt_1_5_4_1_well_formed_utf8_gets_through),
    TEST(test_mqtt_1_5_4_2_u_0000_is_refused),
    TEST(test_mqtt_1_5_4_2_u_0000_is_refused_anywhere),
    TEST(test_mqtt_1_5_4_3_u_feff_makes_another_topic),
    TEST(test_mqtt_1_5_4_3_u_feff_stays_where_it_stands),
    TEST(test_mqtt_1_5_5_1_remaining_length_is_in_shortest_form),
    TEST(test_mqtt_1_5_5_1_property_length_is_in_shortest_form),
    TEST(test_mqtt_1_5_5_1_subscription_identifier_is_in_shortest_form),
    TEST(test_mqtt_1_5_5_1_a_longer_form_is_refused),
    TEST(test_mqtt_1_5_5_1_a_longer_remaining_length_is_refused),
    TEST(test_mqtt_1_5_7_1_a_pair_is_two_strings),
    TEST(test_mqtt_1_5_7_1_good_pairs_get_through),
};

const struct section section_1_5 = SECTION("1.5 Data representation", cases);
