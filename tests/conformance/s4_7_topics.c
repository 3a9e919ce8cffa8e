/*
 * s4_7_topics.c - 4.7 Topic Names and Topic Filters.
 */
#include <string.h>

#include "suite.h"

/* ---- wildcards ---------------------------------------------------------- */

/* A PUBLISH that names a wildcard gets an error, or ends the connection; at
 * QoS 0 a broker may also drop it in silence. */
static void topic_refused(struct test *t, const char *words)
{
    struct peer *p = peer_join(t, "c1 id=~a");
    const struct heard *h;

    say_wrong(p, "publish %s =wrong", words);
    if (diagnosed(t)) {
        refused_as(p, "90 81 82", "MQTT-4.7.0-1 MQTT-3.3.2-2");
        return;
    }
    say(p, "pingreq");
    while ((h = next(p, WAIT)) != NULL && h->packet.type != MQTT_PINGRESP)
        check(t, h->packet.reason >= 0x80, "no refusal: %s", h->text);
    if (h == NULL)
        ended(p);
}

static void test_mqtt_4_7_0_1_topic_names_have_no_wildcards(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/#");

    topic_refused(t, "~/+");
    topic_refused(t, "~/a/#");
    topic_refused(t, "~/a+b/c");
    topic_refused(t, "~/a#");
    topic_refused(t, "q1 #1 ~/+/a");
    topic_refused(t, "q2 #1 ~/#");
    publish(t, "~/a =right");
    hear(watcher, "publish q0 ~/a =right");
    silent(watcher);
}

static void test_mqtt_4_7_0_1_nor_have_will_topics(struct test *t)
{
    const char *const topics[] = {"~/+", "~/a/#", "~/a+"};
    struct peer *watcher = peer_watch(t, "~/#");

    for (size_t i = 0; i < COUNT(topics); i++) {
        struct peer *p = peer_open(t);
        say_wrong(p, "connect c1 id=~a will %s =wrong", topics[i]);
        if (comes(p, WAIT, "connack 00*"))
            cut(p); /* a will that is never published does no harm */
        else
            refused_as(p, "90 81 82", "MQTT-4.7.0-1");
    }
    silent(watcher);
}

/* None of these filters is granted, or matches anything. */
static void filters_idle(struct test *t, const char *const *filters, size_t n,
                         const char *statement)
{
    struct peer *p = filters_refused(t, filters, n, statement);

    publish(t, "~/ab =x");
    publish(t, "~/a/b =x");
    publish(t, "~/a/c/b =x");
    silent(p);
}

static void test_mqtt_4_7_1_1_hash_is_the_whole_last_level(struct test *t)
{
    const char *const filters[] = {"~/a#", "~/#/b", "~/a/#/", "~/#b",
                                   "~/##", "#/~",   "~/+/a#", "~/a/#/#"};

    need(t, NEED_WILDCARDS);
    filters_idle(t, filters, COUNT(filters), "MQTT-4.7.1-1");
}

static void test_mqtt_4_7_1_1_of_a_shared_filter_too(struct test *t)
{
    const char *const filters[] = {"$share/~g/~/a#", "$share/~g/~/#/b"};

    need(t, NEED_WILDCARDS | NEED_SHARED);
    filters_idle(t, filters, COUNT(filters), "MQTT-4.7.1-1");
}

static void test_mqtt_4_7_1_1_hash_stands_for_all_levels_below(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a/#"), *all = peer_join(t, "c1 id=~a");

    /* A broker may reserve this one for some. */
    say(all, "subscribe #1 #");
    int granted = hear(all, "suback #1 ??")->packet.list.p[0] < 0x80;

    publish(t, "~/b =no");
    publish(t, "~/ab =no");
    publish(t, "~/a =1");
    hear(p, "publish q0 ~/a =1");
    publish(t, "~/a/ =2");
    hear(p, "publish q0 ~/a/ =2");
    publish(t, "~/a/b/c/d =3");
    hear(p, "publish q0 ~/a/b/c/d =3");
    silent(p);
    if (granted)
        find(all, "publish q0 ~/a/b/c/d =3");
}

static void test_mqtt_4_7_1_2_plus_is_a_whole_level(struct test *t)
{
    const char *const filters[] = {"~/a+", "~/+b",   "~/a+/b",   "~/+a/b",
                                   "~/++", "~+/a/b", "~/a/+b/c", "~/a/c+"};

    need(t, NEED_WILDCARDS);
    filters_idle(t, filters, COUNT(filters), "MQTT-4.7.1-2");
}

static void test_mqtt_4_7_1_2_of_a_shared_filter_too(struct test *t)
{
    const char *const filters[] = {"$share/~g/~/a+", "$share/~g/~/+b/c"};

    need(t, NEED_WILDCARDS | NEED_SHARED);
    filters_idle(t, filters, COUNT(filters), "MQTT-4.7.1-2");
}

static void test_mqtt_4_7_1_2_plus_stands_for_one_level(struct test *t)
{
    struct peer *last = peer_watch(t, "~/+"), *first = peer_watch(t, "+/~a");
    struct peer *middle = peer_watch(t, "~/+/c"),
                *many = peer_watch(t, "+/~/+/+/#");

    publish(t, "~ =no");
    publish(t, "~/a =1");
    hear(last, "publish q0 ~/a =1");
    publish(t, "~/ =2");
    hear(last, "publish q0 ~/ =2");
    publish(t, "~/b/c =3");
    hear(middle, "publish q0 ~/b/c =3");
    publish(t, "~//c =4");
    hear(middle, "publish q0 ~//c =4");
    publish(t, "~/~a =5");
    hear(first, "publish q0 ~/~a =5");
    hear(last, "publish q0 ~/~a =5");
    publish(t, "~/~/b/c/d/e =6");
    hear(many, "publish q0 ~/~/b/c/d/e =6");
    silent(last);
    silent(middle);
}

/* ---- topics that begin with $ ------------------------------------------- */

/* The broker may refuse such a topic. */
static void publish_dollar(struct test *t, const char *words)
{
    struct peer *p = peer_join(t, "c1 id=~p");

    say(p, "publish q1 #1 %s", words);
    if (comes(p, WAIT, "puback*"))
        leave(p);
}

static void
test_mqtt_4_7_2_1_wildcards_do_not_reach_dollar_topics(struct test *t)
{
    struct peer *p = peer_watch(t, "+/~/a +/~/# +/+/a");

    /* A broker may reserve this one for some. */
    say(p, "subscribe #100 #");
    hear(p, "suback #100 ??");

    publish_dollar(t, "$~/~/a =x");
    publish(t, "~/~/a =end");
    find(p, "publish q0 ~/~/a =end");
    absent(p, "publish* $*");
}

static void test_mqtt_4_7_2_1_nor_their_retained_messages(struct test *t)
{
    struct peer *p;

    publish_dollar(t, "retain $~/~/a =x");
    publish(t, "retain ~/~/a =end");
    p = peer_watch(t, "+/~/a");
    say(p, "subscribe #100 #"); /* which it may refuse */
    hear(p, "suback #100 ??");
    find(p, "publish q0 retain ~/~/a =end");
    absent(p, "publish* $*");
    publish_dollar(t, "retain $~/~/a =");
    publish(t, "retain ~/~/a =");
}

static void test_mqtt_4_7_2_1_a_dollar_below_is_nothing_special(struct test *t)
{
    struct peer *p = peer_watch(t, "+/$~/+ ~/+/b");

    publish(t, "~/$~/a =x");
    hear(p, "publish q0 ~/$~/a =x");
    publish(t, "~/$a/b =x");
    hear(p, "publish q0 ~/$a/b =x");
}

/* ---- all names ---------------------------------------------------------- */

static void test_mqtt_4_7_3_1_an_empty_filter_is_refused(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say_frame(p, 0x82, "00 01 00 {} 00");
    if (comes(p, WAIT, "suback*"))
        named(p, hear(p, "suback #1 [89a]?"), "MQTT-4.7.3-1");
    else
        refused(p, "8f 81 82");
}

static void test_mqtt_4_7_3_1_an_empty_topic_is_an_error(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say_frame(p, 0x30, "{} 00 'x'");
    refused(p, "82 90 81");
    p = peer_join(t, "c1 id=~a");
    say_frame(p, 0x32, "{} 00 01 00 'x'");
    refused(p, "82 90 81");
}

static void test_mqtt_4_7_3_1_an_empty_will_topic_is_an_error(struct test *t)
{
    struct peer *p = peer_open(t);

    say_wrong(p, "connect c1 id=~a will =x");
    refused(p, "90 82 81");
}

static void test_mqtt_4_7_3_1_one_character_is_enough(struct test *t)
{
    struct peer *p = peer_watch(t, "/");

    publish(t, "/ =~");
    find(p, "publish q0 / =~");
}

static void test_mqtt_4_7_3_2_no_name_holds_a_null_character(struct test *t)
{
    const struct {
        unsigned first;
        const char *bytes;
    } frames[] = {
        {0x30, "{'~/a' 00 'b'} 00 'wrong'"},
        {0x32, "{'~/' 00} 00 01 00 'wrong'"},
        {0x82, "00 01 00 {'~/a' 00 'b'} 00"},
        {0x82, "00 01 00 {'~/a'} 00 {00} 00"},
        {0xA2, "00 01 00 {'~/a' 00}"},
    };
    struct peer *watcher = peer_watch(t, "~/# ~/a");

    for (size_t i = 0; i < COUNT(frames); i++) {
        struct peer *p = peer_join(t, "c1 id=~a");
        say_frame(p, frames[i].first, "%s", frames[i].bytes);
        refused(p, "81 90 8f");
    }
    silent(watcher);
}

static void test_mqtt_4_7_3_2_nor_does_a_will_topic(struct test *t)
{
    struct peer *p = peer_open(t);

    say_wrong(p, "connect c1 id=~a will ~/a%%00b =x");
    refused(p, "81 90");
}

/* ---- matching ----------------------------------------------------------- */

/* Names that are easily taken for one another: slashes, case, blanks, dots,
 * two ways to write an accent, a character that nobody knows and the one that
 * stands in for such, U+FEFF, and % as in addresses. */
static const char *const names[] = {
    "~/a/b",    "~/a/b/",      "~//a/b",   "~/a//b",    "~/A/b",
    "~/a/b%20", "~/a/./b",     "~/a/../b", "~/ab",      "~/a%252Fb",
    "~/a",      "~/%C3%A9",    "~/%C3%89", "~/e%CC%81", "~/%EF%BB%BFa",
    "~/%CD%B8", "~/%EF%BF%BD",
};

static void test_mqtt_4_7_3_4_names_match_as_they_are(struct test *t)
{
    struct peer *p[COUNT(names)];

    for (size_t i = 0; i < COUNT(names); i++)
        p[i] = peer_watch(t, "%s", names[i]);
    for (size_t i = 0; i < COUNT(names); i++)
        publish(t, "%s =%zu", names[i], i);
    for (size_t i = 0; i < COUNT(names); i++)
        hear(p[i], "publish q0 %s =%zu", names[i], i);
    silent(p[0]);
    for (size_t i = 0; i < COUNT(names); i++)
        check(t, next(p[i], 0) == NULL, "%s got two messages", names[i]);
}

static void test_mqtt_4_7_3_4_so_do_names_of_retained_messages(struct test *t)
{
    struct peer *p[COUNT(names)];

    for (size_t i = 0; i < COUNT(names); i++)
        publish(t, "retain %s =%zu", names[i], i);
    for (size_t i = 0; i < COUNT(names); i++)
        p[i] = peer_watch(t, "%s", names[i]);
    for (size_t i = 0; i < COUNT(names); i++)
        hear(p[i], "publish q0 retain %s =%zu", names[i], i);
    silent(p[0]);
    for (size_t i = 0; i < COUNT(names); i++)
        check(t, next(p[i], 0) == NULL, "%s got two messages", names[i]);
    for (size_t i = 0; i < COUNT(names); i++)
        publish(t, "retain %s =", names[i]);
}

static void test_mqtt_4_7_3_4_the_longest_name_arrives_whole(struct test *t)
{
    static char name[65535] = "~/";
    struct peer *p = peer_join(t, "c1 id=~a");

    /* 65,535 bytes with the prefix in the place of ~ */
    memset(name + 2, 'x', 65535 - strlen(prefix(t)) - 1);
    say(p, "subscribe #1 %s", name);
    if (!comes(p, WAIT, "suback #1 00"))
        not_offered(t, "a filter of 65,535 bytes is refused");
    say(p, "publish q1 #1 %s =x", name);
    if (!comes(p, WAIT, "puback #1 00"))
        not_offered(t, "a topic of 65,535 bytes is refused");
    hear(p, "publish q0 %s =x", name);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_4_7_0_1_topic_names_have_no_wildcards),
    TEST(test_mqtt_4_7_0_1_nor_have_will_topics),
    TEST(test_mqtt_4_7_1_1_hash_is_the_whole_last_level),
    TEST(test_mqtt_4_7_1_1_of_a_shared_filter_too),
    TEST(test_mqtt_4_7_1_1_hash_stands_for_all_levels_below),
    TEST(test_mqtt_4_7_1_2_plus_is_a_whole_level),
    TEST(test_mqtt_4_7_1_2_of_a_shared_filter_too),
    TEST(test_mqtt_4_7_1_2_plus_stands_for_one_level),
    TEST(test_mqtt_4_7_2_1_wildcards_do_not_reach_dollar_topics),
    TEST(test_mqtt_4_7_2_1_nor_their_retained_messages),
    TEST(test_mqtt_4_7_2_1_a_dollar_below_is_nothing_special),
    TEST(test_mqtt_4_7_3_1_an_empty_filter_is_refused),
    TEST(test_mqtt_4_7_3_1_an_empty_topic_is_an_error),
    TEST(test_mqtt_4_7_3_1_an_empty_will_topic_is_an_error),
    TEST(test_mqtt_4_7_3_1_one_character_is_enough),
    TEST(test_mqtt_4_7_3_2_no_name_holds_a_null_character),
    TEST(test_mqtt_4_7_3_2_nor_does_a_will_topic),
    UNOBSERVABLE(test_mqtt_4_7_3_3,
                 "a longer string cannot be written: its length has 16 bits"),
    TEST(test_mqtt_4_7_3_4_names_match_as_they_are),
    TEST(test_mqtt_4_7_3_4_so_do_names_of_retained_messages),
    TEST(test_mqtt_4_7_3_4_the_longest_name_arrives_whole),
};

const struct section section_4_7 =
    SECTION("4.7 Topic Names and Filters", cases);
