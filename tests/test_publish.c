/*
 * test_publish.c - messages from a publisher to its subscribers.
 *
 *   1. subscribing      SUBACK, UNSUBACK, options, overlapping filters
 *   2. topics           matching, $, names that are not legal
 *   3. retained         kept, replaced, wiped, sent when
 *   4. properties       what is passed on, byte for byte
 *   5. expiry           of messages, live, queued, retained, restarted
 *   6. aliases          in both directions
 *   7. shared           groups, their absent members, their refusals
 *   8. order            1..1000, live, queued, resumed, restarted
 *   9. shares           of a turn, of the log, of the memory
 *
 * The notation is that of bench.h.
 */
#include <string.h>

#include "bench.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Publishes and finishes the exchange, so that nothing stays open. */
static void publish(struct bench_link *p, int qos, const char *words)
{
    bench_say(p, "publish q%d #%d %s", qos, qos ? 9 : 0, words);
    if (qos == 1)
        bench_find(p, "puback #9 *");
    if (qos == 2) {
        bench_find(p, "pubrec #9 *");
        bench_say(p, "pubrel #9");
        bench_find(p, "pubcomp #9 00");
    }
}

/* ==== 1. subscribing ======================================================
 */

static void test_mqtt_3_8_4_1_mqtt_3_9_3_1_mqtt_3_8_4_6_suback(void **state)
{
    static const char *const table[][2] = {
        {"subscribe #1 a,q2 b,q0 c#,q1 d,q1", "suback #1 02 00 8f 01*"},
        {"subscribe #500 e,q0", "suback #500 00"},
        {"subscribe #65535 e,q1", "suback #65535 01"},
        {"subscribe #65535 e,q2", "suback #65535 02"},
        {"subscribe #2 f,q1 f,q2 g,q0 h+,q1 i", "suback #2 01 02 00 8f 00*"},
    };
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a");
    for (size_t i = 0; i < COUNT(table); i++) {
        bench_say(l, "%s", table[i][0]);
        bench_hear(l, "%s", table[i][1]);
        bench_silent(l);
    }
    struct bench_link *p = bench_meet(t, "c1 id=p");
    publish(p, 2, "a =a");
    bench_hear(l, "publish q2 #* a =a");
    publish(p, 2, "f =f"); /* the second entry took the first one's place */
    bench_hear(l, "publish q2 #* f =f");
    publish(p, 2, "d =d");
    bench_hear(l, "publish q1 #* d =d");
    publish(p, 1, "c =c");
    bench_silent(l);
}

static void test_mqtt_2_2_1_6_mqtt_3_8_4_2_pipelined(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a");
    t->held = 1;
    bench_say(l, "subscribe #11 a");
    bench_say(l, "unsubscribe #12 a");
    bench_say(l, "subscribe #13 b,q1");
    bench_say(l, "unsubscribe #14 c b");
    bench_turn(t);
    bench_hear(l, "suback #11 00");
    bench_hear(l, "unsuback #12 00");
    bench_hear(l, "suback #13 01");
    bench_hear(l, "unsuback #14 11 00*");
    bench_silent(l);
}

static void test_mqtt_3_8_4_5_many_filters(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a");
    struct buf words = {NULL, 0, 0, 0};
    char word[32];
    buf_text(&words, "subscribe #1");
    for (int i = 0; i < 50; i++) {
        snprintf(word, sizeof word, " t/%d,q%d", i, i % 3);
        buf_text(&words, word);
    }
    buf_add(&words, "", 1);
    bench_say(l, "%s", (char *)words.p);
    buf_free(&words);
    buf_text(&words, "suback #1");
    for (int i = 0; i < 50; i++) {
        snprintf(word, sizeof word, " %02x", i % 3);
        buf_text(&words, word);
    }
    buf_add(&words, "", 1);
    bench_hear(l, "%s", (char *)words.p);
    buf_free(&words);
    for (int i = 0; i < 50; i++) {
        snprintf(word, sizeof word, "t/%d =x", i);
        publish(l, 0, word);
        bench_hear(l, "publish q0 t/%d =x", i);
    }
}

/* 3.10: the filter is compared as it was written; each UNSUBSCRIBE has its
 * UNSUBACK: [MQTT-3.10.4-4], [MQTT-3.10.4-6], [MQTT-3.11.3-2]. */
static void test_mqtt_3_10_4_1_mqtt_3_10_4_5_mqtt_3_11_3_1_unsub(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a");
    bench_say(l, "subscribe #1 a/+,q1 b c");
    bench_hear(l, "suback #1 01 00 00");
    bench_say(l, "unsubscribe #777 a/b A/+ a/#");
    bench_hear(l, "unsuback #777 11 11 11*");
    publish(l, 0, "a/b =still");
    bench_hear(l, "publish q0 a/b =still");
    bench_say(l, "unsubscribe #3 b x c"); /* [MQTT-3.10.4-6] */
    bench_hear(l, "unsuback #3 00 11 00*");
    bench_say(l, "unsubscribe #4 x a/+ y");
    bench_hear(l, "unsuback #4 11 00 11*");
    publish(l, 0, "a/b =x");
    publish(l, 0, "b =x");
    publish(l, 0, "c =x");
    bench_silent(l);
}

static void test_mqtt_3_10_4_2_mqtt_3_10_4_3_what_is_under_way(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c0 id=a");
    struct bench_link *p = bench_meet(t, "c1 id=p");
    bench_say(l, "subscribe #1 t,q2 u,q1");
    bench_hear(l, "suback*");
    publish(p, 2, "t =two");
    publish(p, 1, "u =one");
    uint16_t two = bench_hear(l, "publish q2 #* t =two");
    uint16_t one = bench_hear(l, "publish q1 #* u =one");
    bench_say(l, "unsubscribe #2 t u");
    bench_hear(l, "unsuback #2 00 00");
    bench_say(l, "pubrec #%u", two);
    assert_int_equal(bench_hear(l, "pubrel #* 00"), two);
    bench_say(l, "pubcomp #%u", two);
    publish(p, 2, "t =late");
    bench_cut(l);
    publish(p, 1, "u =late");
    l = bench_meet(t, "c0 id=a");
    assert_int_equal(bench_hear(l, "publish q1 dup #* u =one"), one);
    bench_say(l, "puback #%u", one);
    bench_silent(l);
}

static void test_mqtt_3_8_4_8_mqtt_3_8_4_7_mqtt_3_3_4_1_lower_qos(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l[3];
    struct bench_link *p = bench_meet(t, "c1 id=p");
    for (int q = 0; q < 3; q++) {
        l[q] = bench_meet(t, "c1 id=s%d", q);
        bench_say(l[q], "subscribe #1 t,q%d", q);
        bench_hear(l[q], "suback #1 0%d", q);
    }
    for (int sent = 0; sent < 3; sent++) {
        publish(p, sent, "t =x");
        for (int q = 0; q < 3; q++) {
            int low = sent < q ? sent : q;
            bench_hear(l[q], low ? "publish q%d #* t =x" : "publish q%d t =x",
                       low);
            bench_silent(l[q]);
        }
    }
    bench_silent(p);
}

/* One copy at the highest QoS, with every identifier: the server's choice,
 * so that [MQTT-3.3.4-5] never applies. */
static void test_mqtt_3_3_4_2_mqtt_3_3_4_3_mqtt_3_3_4_4_overlap(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *l = bench_meet(t, "c0 id=a");
    bench_say(l, "subscribe #1 a/#,q0 sid=1");
    bench_say(l, "subscribe #2 a/b,q2 sid=268435455");
    bench_say(l, "subscribe #3 +/b,q1");
    for (int i = 0; i < 3; i++)
        bench_hear(l, "suback*");
    for (int way = 0; way < 3; way++) { /* live, queued, restarted */
        if (way > 0)
            bench_cut(l);
        publish(p, 2, "a/b =x");
        if (way == 2) {
            bench_restart(t, 1000);
            p = bench_meet(t, "c1 id=p");
        }
        if (way > 0)
            l = bench_meet(t, "c0 id=a");
        uint16_t id =
            bench_hear(l, "publish q2 #* a/b =x sid=1 sid=268435455");
        bench_say(l, "pubrec #%u 80", id);
        bench_silent(l);
        bench_advance(t, 1000);
    }
    publish(p, 1, "a/c =y");
    bench_hear(l, "publish q0 a/c =y sid=1");
    publish(p, 2, "c/b =z");
    bench_hear(l, "publish q1 #* c/b =z");
    bench_silent(l);
}

static void test_mqtt_3_8_4_3_replaced(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c0 id=a");
    bench_say(l, "subscribe #1 t,q0,nl sid=1");
    bench_hear(l, "suback #1 00");
    bench_say(l, "subscribe #2 t,q1 sid=2");
    bench_hear(l, "suback #2 01");
    publish(l, 2, "t =x");
    bench_hear(l, "publish q1 #* t =x sid=2");
    bench_silent(l);
    bench_say(l, "subscribe #3 t,q0");
    bench_hear(l, "suback #3 00");
    bench_restart(t, 1000);
    l = bench_meet(t, "c0 id=a");
    bench_hear(l, "publish q1 dup #* t =x sid=2");
    publish(l, 2, "t =y");
    bench_hear(l, "publish q0 t =y");
    bench_silent(l);
    assert_int_equal(session_figures(t->server)->subscriptions, 1);
}

/* A stream loses nothing while its subscription is being replaced. */
static void test_mqtt_3_8_4_4_replaced_in_a_stream(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *l = bench_meet(t, "c1 id=a");
    char words[32];
    publish(p, 0, "retain t/kept =k");
    bench_say(l, "subscribe #1 t/#,q1");
    bench_hear(l, "suback*");
    bench_hear(l, "publish q0 retain t/kept =k");
    for (int i = 0; i < 20; i++) {
        snprintf(words, sizeof words, "t/s =%d", i);
        publish(p, 1, words);
        uint16_t id = bench_hear(l, "publish q1 #* t/s =%d", i);
        bench_say(l, "puback #%u", id);
        bench_say(l, "subscribe #1 t/#,q1");
        bench_hear(l, "suback #1 01");
        bench_hear(l, "publish q0 retain t/kept =k");
        bench_silent(l);
    }
}

static void test_mqtt_3_8_3_3_no_local(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c0 id=a");
    struct bench_link *p = bench_meet(t, "c1 id=p");
    bench_say(l, "subscribe #1 t,q1,nl u,q1");
    bench_hear(l, "suback*");
    for (int again = 0; again < 3; again++) {
        publish(l, 0, "t =own");
        publish(p, 0, "t =other");
        bench_hear(l, "publish q0 t =other");
        publish(l, 0, "u =own");
        bench_hear(l, "publish q0 u =own");
        bench_silent(l);
        if (again == 0)
            bench_cut(l);
        else if (again == 1)
            bench_restart(t, 1000);
        if (again == 1)
            p = bench_meet(t, "c1 id=p");
        l = bench_meet(t, "c0 id=a");
    }
    /* Matched by another filter as well, the message comes by that one. */
    bench_say(l, "subscribe #2 +,q0");
    bench_hear(l, "suback*");
    publish(l, 1, "t =own");
    bench_hear(l, "publish q* t =own");
    bench_silent(l);
}

/* ==== 2. topics ===========================================================
 */

struct match {
    const char *filter;
    const char *yes; /* topics that it matches */
    const char *no;  /* and some that it does not */
};

static const struct match matches[] = {
    {"a/+", "a/x a/", "a a/x/y b A/x"},
    {"a/#", "a a/ a/x a/x/y", "b ab A"},
    {"#", "a / a/b //", "$x $x/x"},
    {"+", "a b", "/ a/ /a $x"},
    {"+/x", "a/x /x", "$x/x x a/x/x"},
    {"+/+", "a/b / /a a/", "a //"},
    {"/+", "/a /", "a a/"},
    {"$x/#", "$x $x/x $x/x/y", "x/x"},
    {"$x/+", "$x/x", "$x/x/y"},
    {"/", "/", "a"},
    {"a//b", "a//b", "a/b"},
    {"a/+/b", "a//b a/x/b", "a/b"},
    {"a/b", "a/b", "a/b/ /a/b A/b a//b a"},
    {"%C3%A9", "%C3%A9", "e%CC%81 e"},
    {"%EF%BB%BFa", "%EF%BB%BFa", "a"},
    {"a%20b", "a%20b", "a%20%20b ab"},
};

static void match_check(struct bench_link *l, struct bench_link *p,
                        const char *topics, int yes)
{
    char copy[100], *rest = NULL;
    snprintf(copy, sizeof copy, "%s", topics);
    for (char *topic = strtok_r(copy, " ", &rest); topic != NULL;
         topic = strtok_r(NULL, " ", &rest)) {
        bench_say(p, "publish %s =x", topic);
        if (yes)
            bench_hear(l, "publish q0 %s =x", topic);
        bench_silent(l);
    }
}

/* Unlike matched topics, all other clients' filters being in the way. */
static void
test_mqtt_3_3_2_3_mqtt_4_7_1_1_mqtt_4_7_2_1_mqtt_4_7_3_4_match(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *l[COUNT(matches)];
    for (size_t i = 0; i < COUNT(matches); i++)
        l[i] = bench_watch(t, matches[i].filter);
    for (size_t i = 0; i < COUNT(matches); i++) {
        for (size_t k = 0; k < COUNT(matches); k++)
            while (bench_next(l[k]) != NULL)
                continue;
        match_check(l[i], p, matches[i].yes, 1);
        match_check(l[i], p, matches[i].no, 0);
    }
}

static void test_mqtt_4_7_1_2_mqtt_4_8_2_1_mqtt_4_8_2_2_illegal(void **state)
{
    static const char *const filters[] = {
        "a#",         "a/#/b",      "#/a",        "##",       "a/b#",
        "a+",         "a/b+",       "a/+b/c",     "++",       "$share/",
        "$share//t",  "$share/g",   "$share/g/",  "$share/g+/t",
        "$share/g#/t", "$share/+/t", "$share/g/a#"};
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a");
    for (size_t i = 0; i < COUNT(filters); i++) {
        bench_say(l, "subscribe #1 %s,q1", filters[i]);
        bench_hear(l, "suback #1 8f*");
    }
    static const char *const legal[] = {"+", "+/a", "a/+/b", "a/#", "#",
                                        "$share/g/t", "$share/g/t/#"};
    for (size_t i = 0; i < COUNT(legal); i++) {
        bench_say(l, "subscribe #2 %s,q1", legal[i]);
        bench_hear(l, "suback #2 01");
    }
}

/* [MQTT-4.7.3-1]: an empty filter. */
static void test_mqtt_4_7_3_1_empty_filter(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a");
    bench_frame(l, 0x82, "0001 00 0000 00");
    if (l->ended)
        bench_end(l, "disconnect 8[f12]*");
    else
        bench_hear(l, "suback #1 8f*");
}

static void test_publishing_to_sys_is_refused(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "$SYS/#");
    struct bench_link *p = bench_meet(t, "c1 id=p");
    while (bench_next(w) != NULL)
        continue; /* the server may publish there itself */
    bench_say(p, "publish q1 #1 $SYS/x =no");
    bench_hear(p, "puback #1 87*");
    bench_say(p, "publish q2 #2 $SYS/x =no");
    bench_hear(p, "pubrec #2 87*");
    int before = bench_logged(t, "SYS/x");
    bench_say(p, "publish retain $SYS/x =no");
    bench_silent(p);
    assert_true(bench_logged(t, "SYS/x") > before);
    /* [MQTT-4.3.3-9]: the identifier is free for something else */
    bench_say(p, "publish q2 #2 t =yes");
    bench_hear(p, "pubrec #2 10*");
    bench_say(p, "pubrel #2");
    bench_hear(p, "pubcomp #2 00");
    const struct bench_heard *h;
    while ((h = bench_next(w)) != NULL)
        assert_null(strstr(h->text, "=no"));
}

static void test_mqtt_3_4_2_1_mqtt_3_5_2_1_nobody_matched(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    bench_say(p, "publish q1 #1 t =x");
    bench_hear(p, "puback #1 10*");
    bench_say(p, "publish q2 #2 t =x");
    bench_hear(p, "pubrec #2 10*");
    bench_say(p, "subscribe #3 t");
    bench_hear(p, "suback*");
    bench_say(p, "publish q1 #1 t =x");
    while (bench_waiting(p) > 0) {
        const struct bench_heard *h = bench_next(p);
        if (h->type == MQTT_PUBACK)
            assert_string_equal(h->text, "puback #1 00");
    }
    bench_say(p, "publish #0 t =x"); /* [MQTT-3.3.4-1]: no answer */
    bench_hear(p, "publish q0 t =x");
    bench_silent(p);
}

/* A topic of the greatest length there is. */
static void test_mqtt_4_7_3_3_longest_topic(void **state)
{
    struct bench *t = (struct bench *)*state;
    char *topic = (char *)mem_new(65536);
    memset(topic, 'a', 65535);
    struct bench_link *l = bench_meet(t, "c1 id=a");
    bench_say(l, "subscribe #1 %s,q1", topic);
    bench_hear(l, "suback #1 0[01]*");
    bench_say(l, "publish %s =x", topic);
    bench_hear(l, "publish q0 %s =x", topic);
    free(topic);
}

/* ==== 3. retained =========================================================
 */

/* What a new subscriber to the filter gets, one packet per pattern. */
static void expect_retained(struct bench *t, const char *filter,
                            const char *pattern)
{
    struct bench_link *l = bench_watch(t, filter);
    if (pattern != NULL)
        bench_hear(l, "%s", pattern);
    bench_silent(l);
    bench_leave(l);
}

static void
test_mqtt_3_3_1_5_mqtt_3_3_1_6_mqtt_3_3_1_7_mqtt_3_3_1_8_kept(void **state)
{
    static const char *const table[][2] = {
        {"r =", NULL},                       /* wipes nothing */
        {"t =A ct=one up=a:1", NULL},        /* RETAIN 0 */
        {"retain t =A ct=one up=a:1", "publish q0 retain t =A ct=one up=a:1"},
        {"retain t =B up=b:2", "publish q0 retain t =B up=b:2"},
        {"t =C", "publish q0 retain t =B up=b:2"},
        {"t =", "publish q0 retain t =B up=b:2"},
        {"retain t =", NULL},
        {"retain t =", NULL},
        {"retain t =D", "publish q0 retain t =D"},
    };
    struct bench *t = (struct bench *)*state;
    for (int i = 0; i < 3 * (int)COUNT(table); i++) {
        const char *const *row = table[i / 3];
        struct bench_link *l = bench_watch(t, "t,q0 r");
        while (bench_next(l) != NULL)
            continue;
        struct bench_link *p = bench_meet(t, "c1 id=p");
        publish(p, i % 3, row[0]);
        bench_hear(l, "publish q0 ? =*"); /* routed as usual, RETAIN 0 */
        bench_silent(l);
        bench_leave(l);
        expect_retained(t, "t", row[1]);
        bench_restart(t, 1000);
        expect_retained(t, "t", row[1]);
    }
    assert_int_equal(session_figures(t->server)->retained, 1);
}

/* 3.3.1.3: sent at the lower of both QoS. */
static void test_retained_qos(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    for (int sent = 0; sent < 3; sent++) {
        publish(p, sent, "retain t =x");
        for (int q = 0; q < 3; q++) {
            struct bench_link *l = bench_meet(t, "c1 id=s");
            int low = sent < q ? sent : q;
            bench_say(l, "subscribe #1 t,q%d sid=5", q);
            bench_hear(l, "suback*");
            bench_hear(l, low ? "publish q%d retain #* t =x sid=5"
                              : "publish q%d retain t =x sid=5", low);
            bench_serve(l, NULL);
            bench_leave(l);
        }
    }
}

static void test_mqtt_3_3_1_9_mqtt_3_3_1_10_mqtt_3_3_1_11_handling(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    publish(p, 0, "retain r/1 =1");
    publish(p, 1, "retain r/2 =2");
    publish(p, 2, "retain r/3 =3");
    publish(p, 0, "retain $r/4 =4");
    /* how many come: first time, again, after an UNSUBSCRIBE, resumed */
    static const size_t counts[3][4] = {{3, 3, 3, 3}, {3, 0, 3, 0},
                                        {0, 0, 0, 0}};
    for (int rh = 0; rh < 3; rh++) {
        struct bench_link *l = bench_meet(t, "c1 id=a x=60");
        for (int i = 0; i < 4; i++) {
            if (i == 2)
                bench_say(l, "unsubscribe #2 +/+");
            if (i == 3) {
                bench_cut(l);
                l = bench_meet(t, "c0 id=a x=60");
            }
            while (bench_next(l) != NULL)
                continue;
            bench_say(l, "subscribe #1 +/+,q1,rh%d", rh);
            bench_hear(l, "suback #1 01");
            assert_int_equal(bench_waiting(l), counts[rh][i]);
            for (size_t k = 0; k < counts[rh][i]; k++)
                assert_non_null(strstr(l->heard[l->heard_first + k]->text,
                                       " retain "));
            bench_serve(l, NULL);
        }
        publish(p, 0, "r/5 =live");
        bench_hear(l, "publish q0 r/5 =live");
        bench_leave(l);
    }
}

static void test_mqtt_3_3_1_12_mqtt_3_3_1_13_as_published(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *l = bench_meet(t, "c0 id=a");
    struct bench_link *m = bench_meet(t, "c0 id=b");
    bench_say(l, "subscribe #1 t,q1");
    bench_say(m, "subscribe #1 t,q1,rap");
    bench_hear(l, "suback*");
    bench_hear(m, "suback*");
    for (int i = 0; i < 3; i++) {
        if (i) {
            bench_cut(l);
            bench_cut(m);
        }
        publish(p, 1, "retain t =one");
        publish(p, 1, "t =two");
        if (i == 2) {
            bench_restart(t, 1000);
            p = bench_meet(t, "c1 id=p");
        }
        if (i) {
            l = bench_meet(t, "c0 id=a");
            m = bench_meet(t, "c0 id=b");
        }
        uint16_t id = bench_hear(l, "publish q1 #* t =one");
        bench_say(l, "puback #%u", id);
        id = bench_hear(l, "publish q1 #* t =two");
        bench_say(l, "puback #%u", id);
        id = bench_hear(m, "publish q1 retain #* t =one");
        bench_say(m, "puback #%u", id);
        id = bench_hear(m, "publish q1 #* t =two");
        bench_say(m, "puback #%u", id);
        bench_advance(t, 1000);
    }
}

/* One small SUBSCRIBE asks for two million messages: neither the queue nor the
 * log of what is discarded grows with it. */
static void test_mqtt_3_3_1_9_log_of_a_flood(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.trace = 0;
    t->options.queue_max = 5000;
    bench_restart(t, 0);
    struct bench_link *p = bench_meet(t, "c1 id=p");
    char words[40];
    for (int i = 0; i < 1000; i++) {
        snprintf(words, sizeof words, "retain r/%d =x", i);
        publish(p, 1, words);
    }
    struct buf many = {NULL, 0, 0, 0};
    buf_text(&many, "subscribe #1");
    for (int i = 0; i < 2000; i++)
        buf_text(&many, " #,q1");
    buf_add(&many, "", 1);
    struct bench_link *l = bench_meet(t, "c1 id=a rm=1");
    t->held = 1;
    bench_say(l, "%s", (char *)many.p);
    buf_free(&many);
    assert_true(session_log(t->server)->n < 1024 * 1024);
    session_server_settle(t->server, t->now);
    assert_true(session_log(t->server)->n < 1024 * 1024);
    bench_turn(t);
    assert_true(t->log.n < 1024 * 1024);
    assert_true(bench_logged(t, "discarded: ") > 0);
    struct session_figures f = *session_figures(t->server);
    assert_true(f.dropped > 100000);
    assert_int_equal(f.deliveries, 5000);
    bench_hear(l, "suback #1 01*");
    bench_hear(l, "publish q1 retain #* r/* =x");
    bench_silent(l);
}

/* ==== 4. properties =======================================================
 */

static const char all_properties[] =
    " =%00%01body pfi=0 ct=text/plain rt=answer/here cd=%00%FF%0A "
    "up=b:1 up=a:2 up=b:3 up=:empty up=e: up=a:2";

/* The same, as it is heard, in the order of identifiers. */
static const char all_heard[] =
    " =%%00%%01body pfi=0 ct=text/plain rt=answer/here cd=%%00%%FF%%0A "
    "up=b:1 up=a:2 up=b:3 up=:empty up=e: up=a:2";

/* Response Topic, Correlation Data, User Properties in their order, Content
 * Type: [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-18],
 * [MQTT-3.3.2-20]. */
static void test_mqtt_3_3_2_15_to_mqtt_3_3_2_20_unaltered(void **state)
{
    struct bench *t = (struct bench *)*state;
    char text[256], heard[256];
    struct bench_link *off = bench_meet(t, "c0 id=off");
    bench_say(off, "subscribe #1 t,q2");
    bench_cut(off);
    struct bench_link *live = bench_watch(t, "t,q2");
    struct bench_link *p = bench_meet(t, "c1 id=p");
    snprintf(text, sizeof text, "retain t%s", all_properties);
    publish(p, 1, text);
    snprintf(heard, sizeof heard, "publish q1 #* t%s", all_heard);
    bench_hear(live, heard, 0);
    for (int i = 0; i < 3; i++) { /* queued, and at each resend */
        if (i)
            bench_restart(t, 1000);
        off = bench_meet(t, "c0 id=off");
        snprintf(heard, sizeof heard, "publish q1 %s#* t%s", i ? "dup " : "",
                 all_heard);
        bench_hear(off, heard, 0);
        live = bench_watch(t, "t,q2");
        snprintf(heard, sizeof heard, "publish q1 retain #* t%s", all_heard);
        bench_hear(live, heard, 0);
    }
}

static void test_mqtt_3_3_2_4_payload_format(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "t,q2");
    struct bench_link *p = bench_meet(t, "c1 id=p");
    publish(p, 0, "retain t =a");
    bench_hear(w, "publish q0 t =a");
    publish(p, 0, "retain t =b pfi=0");
    bench_hear(w, "publish q0 t =b pfi=0");
    publish(p, 0, "retain t =%C3%A9 pfi=1");
    bench_hear(w, "publish q0 t =%%C3%%A9 pfi=1");
    expect_retained(t, "t", "publish q0 retain t =%C3%A9 pfi=1");
    publish(p, 0, "retain t =%FF pfi=0"); /* unspecified bytes */
    bench_hear(w, "publish q0 t =%%FF pfi=0");
    /* 3.3.2.3.2: announced as UTF-8, and it is none */
    bench_say(p, "publish q1 #1 t =%%C3%%28 pfi=1");
    bench_hear(p, "puback #1 99*");
    bench_say(p, "publish q2 #2 t =%%FF pfi=1");
    bench_hear(p, "pubrec #2 99*");
    bench_say(p, "publish t =%%FF pfi=1");
    if (p->ended)
        bench_end(p, "disconnect 99*");
    bench_silent(w);
}

/* ==== 5. expiry ===========================================================
 */

static void test_mqtt_3_3_2_5_mqtt_3_3_2_6_queued_expiry(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int kill = 0; kill < 2; kill++) {
        struct bench_link *l = bench_meet(t, "c1 id=a x=6000");
        bench_say(l, "subscribe #1 t,q2");
        bench_cut(l);
        struct bench_link *p = bench_meet(t, "c1 id=p");
        for (int q = 0; q < 3; q++) {
            publish(p, q, "t =gone mei=1");
            publish(p, q, "t =left mei=30");
            publish(p, q, "t =ever");
        }
        if (kill)
            bench_restart(t, 4000);
        else
            bench_advance(t, 4000);
        l = bench_meet(t, "c0 id=a x=6000");
        for (int q = 0; q < 3; q++) {
            const struct bench_heard *h = bench_next(l);
            assert_non_null(h);
            assert_string_equal(h->payload, "left");
            assert_int_equal(h->qos, q);
            assert_in_range(h->expiry, 25, 26);
            bench_hear(l, "publish q%d*t =ever", q);
        }
        bench_silent(l);
        assert_true(session_figures(t->server)->dropped >= 3 || kill);
        bench_leave(l);
    }
}

static void test_mqtt_3_3_2_6_live_and_retained_expiry(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int kill = 0; kill < 2; kill++) {
        struct bench_link *w = bench_watch(t, "t");
        struct bench_link *p = bench_meet(t, "c1 id=p");
        publish(p, 0, "retain t =x mei=10");
        bench_hear(w, "publish q0 t =x mei=10");
        bench_leave(w);
        if (kill)
            bench_restart(t, 2500);
        else
            bench_advance(t, 2500);
        expect_retained(t, "t", "publish q0 retain t =x mei=8");
        if (kill)
            bench_restart(t, 5000);
        else
            bench_advance(t, 5000);
        expect_retained(t, "t", "publish q0 retain t =x mei=3");
        if (kill)
            bench_restart(t, 3000);
        else
            bench_advance(t, 3000);
        expect_retained(t, "t", NULL);
    }
}

/* Unsent ones expire also while the window of a live client is full. */
static void test_mqtt_3_3_2_5_behind_a_full_window(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a rm=1");
    struct bench_link *p = bench_meet(t, "c1 id=p");
    bench_say(l, "subscribe #1 t,q1");
    bench_hear(l, "suback*");
    publish(p, 1, "t =1 mei=2");
    publish(p, 1, "t =2 mei=2");
    publish(p, 1, "t =3 mei=9");
    uint16_t id = bench_hear(l, "publish q1 #* t =1 mei=2");
    bench_advance(t, 4000);
    bench_say(l, "puback #%u", id);
    bench_hear(l, "publish q1 #* t =3 mei=5");
    bench_silent(l);
}

/* ==== 6. aliases ==========================================================
 */

static void test_mqtt_3_3_2_12_mqtt_3_2_2_17_alias_from_client(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "#");
    struct bench_link *p = bench_meet(t, "c1 id=p");
    for (int i = 1; i <= 8; i++) {
        bench_say(p, "publish t/%d =set ta=%d", i, i);
        bench_hear(w, "publish q0 t/%d =set", i);
    }
    for (int i = 8; i >= 1; i--) {
        bench_say(p, "publish =use ta=%d", i);
        bench_hear(w, "publish q0 t/%d =use", i);
    }
    bench_say(p, "publish new =set ta=3");
    bench_hear(w, "publish q0 new =set");
    bench_say(p, "publish =use ta=3");
    bench_hear(w, "publish q0 new =use");
    bench_say(p, "publish q1 retain #1 =kept ta=3");
    bench_hear(p, "puback #1 00");
    bench_hear(w, "publish q0 new =kept");
    expect_retained(t, "new", "publish q0 retain new =kept");
}

static void test_mqtt_3_3_2_7_alias_ends_with_connection(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "#");
    struct bench_link *other = bench_meet(t, "c1 id=o");
    struct bench_link *p = bench_meet(t, "c0 id=p");
    bench_say(p, "publish t =set ta=1");
    bench_hear(w, "publish q0 t =set");
    bench_say(other, "publish =x ta=1");
    bench_end(other, "disconnect 82 rs=*");
    bench_cut(p);
    p = bench_meet(t, "c0 id=p");
    bench_say(p, "publish =x ta=1");
    bench_end(p, "disconnect 82 rs=*");
    bench_silent(w);
}

static void test_mqtt_3_2_2_18_no_alias_maximum(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.alias_max = 0;
    bench_restart(t, 0);
    struct bench_link *p = bench_meet(t, "c1 id=p");
    bench_say(p, "publish t =x ta=1");
    bench_end(p, "disconnect [89][24] rs=*");
}

/* The rules of the bench look at every alias the server uses. */
static void
test_mqtt_3_1_2_26_mqtt_3_1_2_27_mqtt_3_3_2_11_alias_to_client(void **state)
{
    static const char *const words[] = {"", "tam=0", "tam=1", "tam=3",
                                        "tam=20"};
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    for (size_t i = 0; i < COUNT(words); i++) {
        struct bench_link *l = bench_meet(t, "c0 id=a%zu %s", i, words[i]);
        bench_say(l, "subscribe #1 topic/#,q1");
        bench_hear(l, "suback*");
        for (int k = 0; k < 40; k++) {
            bench_say(p, "publish topic/%d =%d ta=1", k % 10, k);
            bench_hear(l, "publish q0 topic/%d =%d", k % 10, k);
        }
        for (int k = 0; k < 5; k++) {
            bench_say(p, "publish topic/same =%d", k);
            bench_hear(l, "publish q0 topic/same =%d", k);
        }
        assert_true(i >= 2 || l->ref.aliased == 0);
        assert_true(i < 4 || l->ref.aliased > 0); /* ours, by design */
        /* a new connection begins with no alias */
        bench_say(p, "publish q1 #1 topic/0 =open");
        bench_hear(p, "puback*");
        bench_hear(l, "publish q1 #* topic/0 =open");
        bench_cut(l);
        l = bench_meet(t, "c0 id=a%zu %s", i, words[i]);
        bench_hear(l, "publish q1 dup #* topic/0 =open");
        bench_leave(l);
    }
}

/* An alias takes more room than a name of one or two bytes: whatever fits in
 * one of the two ways must come, and nothing else may. */
static void test_mqtt_3_1_2_24_mqtt_3_1_2_25_alias_too_long(void **state)
{
    static const char *const topics[] = {"t", "tt", "ttt", "tttt", "ttttt"};
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    for (size_t i = 0; i < COUNT(topics); i++) {
        struct bench_link *l = bench_meet(t, "c1 id=a mps=64 tam=5");
        bench_say(l, "subscribe #1 #,q1");
        bench_hear(l, "suback #1 01");
        bench_say(p, "publish %s =first", topics[i]);
        bench_hear(l, "publish q0 %s =first", topics[i]);
        /* 2 + 2 + topic + 2 + 1, or 3 for the alias instead of the topic */
        int overhead = 7 + (int)(i + 1 < 3 ? i + 1 : 3);
        for (int n = 45; n < 70; n++) {
            bench_say(p, "publish q1 #9 %s =*%d", topics[i], n);
            bench_hear(p, "puback #9 00");
            if (n + overhead > 64)
                bench_silent(l);
            else
                bench_say(l, "puback #%u",
                          bench_hear(l, "publish q1 #* %s =*", topics[i]));
        }
        bench_leave(l);
    }
}

/* ==== 7. shared ===========================================================
 */

static void test_shared_is_fair(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l[3], *p = bench_meet(t, "c1 id=p");
    struct bench_link *other = bench_watch(t, "$share/other/a/+,q1");
    struct bench_link *plain = bench_watch(t, "a/b");
    for (int i = 0; i < 3; i++)
        l[i] = bench_watch(t, "$share/g/a/+,q1");
    for (int i = 0; i < 300; i++)
        bench_say(p, "publish a/b =%d", i);
    size_t sum = 0;
    for (int i = 0; i < 3; i++) {
        size_t n = bench_serve(l[i], NULL);
        assert_in_range(n, 50, 150);
        sum += n;
    }
    assert_int_equal(sum, 300); /* each message to one of them */
    assert_int_equal(bench_serve(other, NULL), 300);
    assert_int_equal(bench_serve(plain, NULL), 300);
}

/* 4.8.2: the bare topic is what is matched and shown; no retained. */
static void test_mqtt_3_3_2_3_shared_topic(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    publish(p, 1, "retain a/b =old");
    struct bench_link *l = bench_watch(t, "$share/g/a/+,q1");
    bench_silent(l);
    publish(p, 1, "a/b =new");
    bench_hear(l, "publish q1 #* a/b =new");
    publish(p, 1, "$share/g/a/b =no");
    bench_say(l, "unsubscribe #2 a/+ $share/h/a/+ $share/g/a/+");
    bench_hear(l, "unsuback #2 11 11 00*");
    publish(p, 1, "a/b =no");
    bench_silent(l);
}

static void test_mqtt_4_8_2_3_shared_qos(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *l[2];
    l[0] = bench_watch(t, "$share/g/t,q0");
    l[1] = bench_watch(t, "$share/g/t,q1");
    for (int i = 0; i < 20; i++)
        publish(p, 2, "t =x");
    size_t sum = 0;
    for (int q = 0; q < 2; q++) {
        const struct bench_heard *h;
        size_t n = 0;
        while ((h = bench_next(l[q])) != NULL && ++n)
            assert_int_equal(h->qos, q);
        assert_true(n > 0);
        sum += n;
    }
    assert_int_equal(sum, 20);
}

/* 4.8.2: while one member is online, messages need not wait for another;
 * with all offline they wait for one of them. */
static void test_shared_offline_members(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *a = bench_meet(t, "c0 id=a");
    struct bench_link *b = bench_meet(t, "c0 id=b");
    bench_say(a, "subscribe #1 $share/g/t,q1");
    bench_say(b, "subscribe #1 $share/g/t,q1");
    bench_hear(a, "suback*");
    bench_hear(b, "suback*");
    bench_cut(a);
    for (int i = 0; i < 10; i++)
        publish(p, 1, "t =x");
    assert_int_equal(bench_serve(b, NULL), 10);
    bench_cut(b);
    for (int i = 0; i < 10; i++)
        publish(p, 1, "t =y");
    bench_restart(t, 1000);
    a = bench_meet(t, "c0 id=a");
    b = bench_meet(t, "c0 id=b");
    size_t n = bench_serve(a, NULL);
    n += bench_serve(b, NULL);
    assert_int_equal(n, 10);
}

/* A member whose session ends hands its waiting messages to the others:
 * 4.8.2 asks it for QoS 1, forbids it for QoS 2 already sent. */
static void test_shared_member_ends(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *a = bench_meet(t, "c1 id=a x=1 rm=1");
    struct buf got = {NULL, 0, 0, 0};
    bench_say(a, "subscribe #1 $share/g/t,q1");
    bench_hear(a, "suback*");
    for (int i = 0; i < 3; i++)
        publish(p, 1, "t =x"); /* one is sent, two wait */
    bench_hear(a, "publish q1 #* t =x");
    struct bench_link *b = bench_watch(t, "$share/g/t,q1");
    bench_cut(a);
    bench_advance(t, 3000);
    size_t n = bench_serve(b, &got);
    assert_in_range(n, 2, 3); /* 4.8.2: the sent one SHOULD come too */
    buf_free(&got);
    publish(p, 1, "t =y");
    bench_hear(b, "publish q1 #* t =y");
}

static void test_mqtt_4_8_2_4_same_member_finishes(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int stage = 0; stage < 2; stage++)
        for (int kill = 0; kill < 2; kill++) {
            struct bench_link *p = bench_meet(t, "c1 id=p");
            struct bench_link *a = bench_meet(t, "c1 id=a x=300");
            bench_say(a, "subscribe #1 $share/g/t,q2");
            bench_hear(a, "suback*");
            publish(p, 2, "t =x");
            uint16_t id = bench_hear(a, "publish q2 #* t =x");
            if (stage) {
                bench_say(a, "pubrec #%u", id);
                bench_hear(a, "pubrel #* 00");
            }
            struct bench_link *b = bench_meet(t, "c1 id=b x=300");
            bench_say(b, "subscribe #1 $share/g/t,q2");
            bench_hear(b, "suback*");
            bench_cut(a);
            bench_advance(t, 5000);
            bench_silent(b);
            if (kill) {
                bench_restart(t, 1000);
                b = bench_meet(t, "c0 id=b x=300");
            }
            bench_silent(b);
            a = bench_meet(t, "c0 id=a x=300");
            assert_int_equal(bench_hear(a, stage ? "pubrel #* 00"
                                                 : "publish q2 dup #* t =x"),
                             id);
            if (!stage) {
                bench_say(a, "pubrec #%u", id);
                bench_hear(a, "pubrel #* 00");
            }
            bench_say(a, "pubcomp #%u", id);
            bench_silent(b);
            bench_say(a, "disconnect 00 x=0");
            bench_say(b, "disconnect 00 x=0");
        }
}

static void test_mqtt_4_8_2_5_member_lost_amid_qos_2(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *a = bench_meet(t, "c1 id=a x=1");
    bench_say(a, "subscribe #1 $share/g/t,q2");
    bench_hear(a, "suback*");
    publish(p, 2, "t =x");
    bench_hear(a, "publish q2 #* t =x");
    struct bench_link *b = bench_watch(t, "$share/g/t,q2");
    bench_cut(a);
    bench_advance(t, 3000);
    bench_silent(b);
    a = bench_join(t, "c0 id=a x=1");
    bench_hear(a, "connack 00 sp=0*");
    bench_silent(a);
    bench_silent(b);
}

static void test_mqtt_4_8_2_6_refused_by_member(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *a = bench_watch(t, "$share/g/t,q2");
    publish(p, 1, "t =one");
    publish(p, 2, "t =two");
    uint16_t one = bench_hear(a, "publish q1 #* t =one");
    uint16_t two = bench_hear(a, "publish q2 #* t =two");
    struct bench_link *b = bench_watch(t, "$share/g/t,q2");
    bench_say(a, "puback #%u 80", one);
    bench_say(a, "pubrec #%u 80", two);
    bench_silent(a);
    bench_silent(b);
    bench_cut(a);
    bench_silent(b);
}

/* A QoS 1 message that its member had on the way is passed on when that
 * member's session ends, but not once it has expired. */
static void test_mqtt_3_3_2_5_shared_in_flight_expires(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int expired = 0; expired < 2; expired++) {
        struct bench_link *p = bench_meet(t, "c1 id=p");
        struct bench_link *a = bench_meet(t, "c1 id=a x=600");
        bench_say(a, "subscribe #1 $share/g/t,q1");
        bench_hear(a, "suback*");
        publish(p, 1, "t =x mei=10");
        bench_hear(a, "publish q1 #* t =x mei=10");
        struct bench_link *b = bench_watch(t, "$share/g/t,q1");
        bench_advance(t, expired ? 12000 : 4000);
        bench_say(a, "disconnect 00 x=0");
        if (!expired)
            bench_hear(b, "publish q1 #* t =x mei=6");
        bench_silent(b);
        bench_leave(b);
    }
}

/* One that is away and full is passed over for one that has room. */
static void test_shared_queue_full(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.queue_max = 5;
    bench_restart(t, 0);
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *l[2];
    for (int i = 0; i < 2; i++) {
        l[i] = bench_meet(t, "c1 id=s%d x=600", i);
        bench_say(l[i], "subscribe #1 $share/g/t,q1 own/%d,q1", i);
        bench_hear(l[i], "suback*");
        bench_cut(l[i]);
    }
    for (int i = 0; i < 5; i++)
        publish(p, 1, "own/0 =own");
    for (int i = 0; i < 5; i++)
        publish(p, 1, "t =x");
    assert_int_equal(session_figures(t->server)->dropped, 0);
    publish(p, 1, "t =x"); /* both are full */
    assert_int_equal(session_figures(t->server)->dropped, 1);
    assert_int_equal(bench_logged(t, "the queue is full"), 1);
    for (int i = 0; i < 2; i++) {
        l[i] = bench_meet(t, "c0 id=s%d x=600", i);
        for (int k = 0; k < 5; k++)
            bench_hear(l[i], i ? "publish q1 #* t =x"
                               : "publish q1 #* own/0 =own");
        bench_silent(l[i]);
    }
}

/* The one that is connected gets all; when it is gone, the others in turn. */
static void test_shared_one_of_three_connected(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *l[3];
    for (int stays = 0; stays < 2; stays++) {
        for (int i = 0; i < 3; i++) {
            l[i] = bench_meet(t, "c1 id=s%d x=%d", i, i || stays ? 600 : 0);
            bench_say(l[i], "subscribe #1 $share/g/t,q1");
            bench_hear(l[i], "suback*");
        }
        bench_cut(l[1]);
        bench_cut(l[2]);
        for (int i = 0; i < 30; i++)
            publish(p, 1, "t =x");
        assert_int_equal(bench_serve(l[0], NULL), 30);
        bench_cut(l[0]);
        for (int i = 0; i < 30; i++)
            publish(p, 1, "t =x");
        size_t each = stays ? 10 : 15;
        for (int i = 0; i < 3; i++) {
            l[i] = bench_meet(t, "c0 id=s%d x=600", i);
            assert_int_equal(bench_serve(l[i], NULL),
                             i || stays ? each : 0);
        }
        for (int i = 0; i < 3; i++)
            bench_say(l[i], "disconnect 00 x=0");
    }
}

/* ==== 8. order ============================================================
 */

/* got must be "<first> <first+1> ... <last> ". */
static void expect_numbers(struct buf *got, int first, int last)
{
    char *at = (char *)got->p;
    buf_add(got, "", 1);
    at = (char *)got->p;
    for (int i = first; i <= last; i++)
        assert_int_equal(strtol(at, &at, 10), i);
    assert_string_equal(at, " ");
    buf_free(got);
}

static void publish_numbers(struct bench *t, int qos, int first, int last)
{
    struct bench_link *p = bench_meet(t, "c1 id=p");
    char words[40];
    for (int i = first; i <= last; i++) {
        snprintf(words, sizeof words, "o/t =%d", i);
        publish(p, qos, words);
    }
    bench_leave(p);
}

static void test_mqtt_4_6_0_5_live_order(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int q = 0; q < 3; q++) {
        struct buf got = {NULL, 0, 0, 0};
        struct bench_link *l = bench_meet(t, "c1 id=s%d rm=7", q);
        bench_say(l, "subscribe #1 o/+,q2");
        bench_hear(l, "suback*");
        publish_numbers(t, q, 1, 300); /* far over its Receive Maximum */
        bench_serve(l, &got);
        expect_numbers(&got, 1, 300);
        bench_leave(l);
    }
}

static void order_queued(struct bench *t, int qos, int kill)
{
    struct buf got = {NULL, 0, 0, 0};
    struct bench_link *l = bench_meet(t, "c1 id=s x=6000");
    bench_say(l, "subscribe #1 o/+,q2");
    bench_hear(l, "suback #1 02");
    bench_leave(l);
    publish_numbers(t, qos, 1, 500);
    if (kill)
        bench_restart(t, 1000);
    publish_numbers(t, qos, 501, 1000);
    l = bench_meet(t, "c0 id=s x=6000 rm=10");
    assert_true(qos == 0 || bench_waiting(l) == 10);
    /* in mid stream: half of the window is answered, then it breaks */
    for (int i = 0; i < 5 && qos > 0; i++) {
        const struct bench_heard *h = bench_next(l);
        assert_int_equal(strtol(h->payload, NULL, 10), i + 1);
        uint16_t id = h->packet_id;
        bench_say(l, qos == 1 ? "puback #%u" : "pubrec #%u", id);
    }
    if (qos > 0) {
        bench_advance(t, 500); /* what the client settled is written */
        if (kill)
            bench_restart(t, 1000);
        else
            bench_cut(l);
        l = bench_meet(t, "c0 id=s x=6000 rm=13");
    }
    bench_serve(l, &got);
    expect_numbers(&got, qos > 0 ? 6 : 1, 1000);
    bench_leave(l);
}

static void test_mqtt_4_6_0_5_mqtt_4_6_0_6_queued_order(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int q = 0; q < 3; q++)
        order_queued(t, q, 0);
}

static void test_mqtt_4_6_0_5_order_across_kills(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int q = 0; q < 3; q++)
        order_queued(t, q, 1);
}

/* ==== 9. shares of a turn, of the log, of the memory ======================
 */

#define LONG 30000

/* Many small packets at once, from this link. */
static void send_long(struct bench_link *l, const char *last)
{
    struct buf b = {NULL, 0, 0, 0};
    for (int i = 1; i <= LONG; i++)
        b.n += bench_encode(buf_room(&b, 64), 64, "publish o/t =%d", i);
    if (last != NULL)
        b.n += bench_encode(buf_room(&b, 64), 64, "%s", last);
    bench_send(l, b.p, b.n);
    buf_free(&b);
}

/* Who sends much at once is heard in several turns, and keeps nobody
 * waiting meanwhile. */
static void test_mqtt_4_6_0_5_long_input(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.trace = 0;
    bench_restart(t, 0);
    struct buf got = {NULL, 0, 0, 0};
    struct bench_link *w = bench_watch(t, "o/t");
    struct bench_link *other = bench_meet(t, "c1 id=other");
    struct bench_link *l = bench_meet(t, "c1 id=a");
    t->held = 1;
    send_long(l, "subscribe #7 end");
    bench_say(other, "pingreq");
    assert_true(session_server_due(t->server) <= t->now);
    assert_int_equal(session_link_ready(l->link), 0);
    bench_step(t, SIZE_MAX);
    bench_hear(other, "pingresp");
    assert_int_equal(session_link_ready(other->link), 1);
    assert_true(bench_waiting(w) < LONG);
    bench_silent(l);
    bench_say(l, "pingreq"); /* what comes now waits behind it */
    bench_turn(t);
    assert_int_equal(session_link_ready(l->link), 1);
    bench_hear(l, "suback #7 00");
    bench_hear(l, "pingresp");
    bench_serve(w, &got);
    expect_numbers(&got, 1, LONG);
}

/* What a client sent before its connection broke is heard to the end. */
static void test_mqtt_4_6_0_5_long_input_of_a_link_lost(void **state)
{
    static const char *const last[] = {NULL, "disconnect 00"};
    struct bench *t = (struct bench *)*state;
    t->options.trace = 0;
    bench_restart(t, 0);
    for (int i = 0; i < 4; i++) {
        struct bench_link *w = bench_watch(t, "o/t w/t");
        struct bench_link *l = bench_meet(t, "c1 id=a will w/t =gone");
        t->held = 1;
        send_long(l, last[i % 2]);
        session_link_lost(l->link, t->now);
        l->link = NULL;
        if (i >= 2) { /* and its client is back in the same turn */
            l = bench_link_open(t);
            bench_say(l, "connect c0 id=a x=60");
        }
        bench_turn(t);
        if (i >= 2)
            bench_hear(l, "connack 00 sp=0*");
        for (int n = 1; n <= LONG; n++) {
            const struct bench_heard *h = bench_next(w);
            assert_non_null(h);
            assert_int_equal(strtol(h->payload, NULL, 10), n);
        }
        if (i % 2 == 0)
            bench_hear(w, "publish q0 w/t =gone"); /* after all it sent */
        bench_silent(w);
        if (i >= 2)
            bench_say(l, "disconnect 00 x=0");
        bench_leave(w);
    }
}

/* Its client comes by another connection, or the server stops, while much of
 * its input is still to be heard: what was heard was heard in order, and no
 * more comes. */
static void test_mqtt_3_1_4_3_ended_amid_long_input(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.trace = 0;
    bench_restart(t, 0);
    for (int stop = 0; stop < 2; stop++) {
        struct bench_link *w = bench_watch(t, "o/t w/t");
        struct bench_link *l = bench_meet(t, "c1 id=a x=60 will w/t =gone");
        struct bench_link *next = bench_link_open(t);
        const struct bench_heard *h;
        int n = 0;
        t->held = 1;
        send_long(l, NULL);
        if (stop)
            bench_stop(t);
        else
            bench_say(next, "connect c0 id=a x=60");
        bench_turn(t);
        bench_end(l, stop ? "disconnect 8b*" : "disconnect 8e*");
        if (!stop)
            bench_hear(next, "connack 00 sp=1*");
        while ((h = bench_next(w)) != NULL && h->payload[0] != 'g' &&
               h->type == MQTT_PUBLISH)
            assert_int_equal(strtol(h->payload, NULL, 10), ++n);
        assert_true(n > 0 && n < LONG);
        assert_non_null(h); /* the will; at the stop DISCONNECT, too */
        if (!stop)
            bench_silent(w);
    }
}

/* A second may discard more than anybody would read: the log names the first
 * ones and says how many there were besides. */
static void test_log_of_one_second(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.trace = 0;
    t->options.output_high = 4096;
    bench_restart(t, 0);
    struct bench_link *w = bench_watch(t, "o/t");
    struct bench_link *l = bench_meet(t, "c1 id=a");
    t->held = 1;
    send_long(l, NULL);
    bench_cut(l);
    size_t came = bench_serve(w, NULL);
    uint64_t dropped = session_figures(t->server)->dropped;
    assert_int_equal(came + dropped, LONG);
    assert_true(t->log.n < 1024 * 1024);
    assert_int_equal(bench_logged(t, " more lines like these"), 0);
    bench_advance(t, 1000);
    assert_int_equal(bench_logged(t, " more lines like these"), 1);
    buf_add(&t->log, "", 1);
    const char *more = strstr((char *)t->log.p, " more lines");
    while (more[-1] >= '0' && more[-1] <= '9')
        more--;
    /* and two lines on the end of the connection */
    assert_int_equal(bench_logged(t, "discarded: ") + strtol(more, NULL, 10),
                     dropped + 2);
}

/* Sessions that are not stored have their messages in memory, all of them
 * together not more than memory_max; those that are stored have no part in
 * it. */
static void test_memory_of_sessions_not_stored(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.memory_max = 50000;
    bench_restart(t, 0);
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *brief = bench_meet(t, "c1 id=brief rm=1");
    struct bench_link *durable = bench_meet(t, "c1 id=durable x=600 rm=1");
    bench_say(brief, "subscribe #1 brief,q1");
    bench_hear(brief, "suback*");
    bench_say(durable, "subscribe #1 durable,q1");
    bench_hear(durable, "suback*");
    for (int i = 0; i < 200; i++)
        publish(p, 1, "brief =*1000");
    uint64_t dropped = session_figures(t->server)->dropped;
    assert_in_range(dropped, 150, 160);
    assert_int_equal(bench_logged(t, "discarded: "), dropped);
    for (int i = 0; i < 200; i++)
        publish(p, 1, "durable =*1000");
    assert_int_equal(session_figures(t->server)->dropped, dropped);
    assert_int_equal(bench_serve(durable, NULL), 200);
    assert_int_equal(bench_serve(brief, NULL), 200 - dropped);
    publish(p, 1, "brief =again"); /* there is room */
    bench_hear(brief, "publish q1 #* brief =again");
    assert_int_equal(session_figures(t->server)->dropped, dropped);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(test_mqtt_3_8_4_1_mqtt_3_9_3_1_mqtt_3_8_4_6_suback),
        BENCH_TEST(test_mqtt_2_2_1_6_mqtt_3_8_4_2_pipelined),
        BENCH_TEST(test_mqtt_3_8_4_5_many_filters),
        BENCH_TEST(test_mqtt_3_10_4_1_mqtt_3_10_4_5_mqtt_3_11_3_1_unsub),
        BENCH_TEST(test_mqtt_3_10_4_2_mqtt_3_10_4_3_what_is_under_way),
        BENCH_TEST(test_mqtt_3_8_4_8_mqtt_3_8_4_7_mqtt_3_3_4_1_lower_qos),
        BENCH_TEST(test_mqtt_3_3_4_2_mqtt_3_3_4_3_mqtt_3_3_4_4_overlap),
        BENCH_TEST(test_mqtt_3_8_4_3_replaced),
        BENCH_TEST(test_mqtt_3_8_4_4_replaced_in_a_stream),
        BENCH_TEST(test_mqtt_3_8_3_3_no_local),
        BENCH_TEST(
            test_mqtt_3_3_2_3_mqtt_4_7_1_1_mqtt_4_7_2_1_mqtt_4_7_3_4_match),
        BENCH_TEST(test_mqtt_4_7_1_2_mqtt_4_8_2_1_mqtt_4_8_2_2_illegal),
        BENCH_TEST(test_mqtt_4_7_3_1_empty_filter),
        BENCH_TEST(test_publishing_to_sys_is_refused),
        BENCH_TEST(test_mqtt_3_4_2_1_mqtt_3_5_2_1_nobody_matched),
        BENCH_TEST(test_mqtt_4_7_3_3_longest_topic),
        BENCH_TEST(
            test_mqtt_3_3_1_5_mqtt_3_3_1_6_mqtt_3_3_1_7_mqtt_3_3_1_8_kept),
        BENCH_TEST(test_retained_qos),
        BENCH_TEST(test_mqtt_3_3_1_9_mqtt_3_3_1_10_mqtt_3_3_1_11_handling),
        BENCH_TEST(test_mqtt_3_3_1_12_mqtt_3_3_1_13_as_published),
        BENCH_TEST(test_mqtt_3_3_1_9_log_of_a_flood),
        BENCH_TEST(test_mqtt_3_3_2_15_to_mqtt_3_3_2_20_unaltered),
        BENCH_TEST(test_mqtt_3_3_2_4_payload_format),
        BENCH_TEST(test_mqtt_3_3_2_5_mqtt_3_3_2_6_queued_expiry),
        BENCH_TEST(test_mqtt_3_3_2_6_live_and_retained_expiry),
        BENCH_TEST(test_mqtt_3_3_2_5_behind_a_full_window),
        BENCH_TEST(test_mqtt_3_3_2_12_mqtt_3_2_2_17_alias_from_client),
        BENCH_TEST(test_mqtt_3_3_2_7_alias_ends_with_connection),
        BENCH_TEST(test_mqtt_3_2_2_18_no_alias_maximum),
        BENCH_TEST(
            test_mqtt_3_1_2_26_mqtt_3_1_2_27_mqtt_3_3_2_11_alias_to_client),
        BENCH_TEST(test_mqtt_3_1_2_24_mqtt_3_1_2_25_alias_too_long),
        BENCH_TEST(test_shared_is_fair),
        BENCH_TEST(test_mqtt_3_3_2_3_shared_topic),
        BENCH_TEST(test_mqtt_4_8_2_3_shared_qos),
        BENCH_TEST(test_shared_offline_members),
        BENCH_TEST(test_shared_member_ends),
        BENCH_TEST(test_mqtt_4_8_2_4_same_member_finishes),
        BENCH_TEST(test_mqtt_4_8_2_5_member_lost_amid_qos_2),
        BENCH_TEST(test_mqtt_4_8_2_6_refused_by_member),
        BENCH_TEST(test_mqtt_3_3_2_5_shared_in_flight_expires),
        BENCH_TEST(test_shared_queue_full),
        BENCH_TEST(test_shared_one_of_three_connected),
        BENCH_TEST(test_mqtt_4_6_0_5_live_order),
        BENCH_TEST(test_mqtt_4_6_0_5_mqtt_4_6_0_6_queued_order),
        BENCH_TEST(test_mqtt_4_6_0_5_order_across_kills),
        BENCH_TEST(test_mqtt_4_6_0_5_long_input),
        BENCH_TEST(test_mqtt_4_6_0_5_long_input_of_a_link_lost),
        BENCH_TEST(test_mqtt_3_1_4_3_ended_amid_long_input),
        BENCH_TEST(test_log_of_one_second),
        BENCH_TEST(test_memory_of_sessions_not_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
