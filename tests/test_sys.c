/*
 * test_sys.c - the $SYS topics: what the server tells of itself.
 *
 *   1. values    each topic's, after traffic that is known
 *   2. averages  of a steady stream, of silence, over a jump of the clock
 *   3. rounds    when, to whom, with which flags
 *   4. nothing   is queued, stored, or done for nobody
 *
 * The notation is that of bench.h.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define NEVER UINT64_MAX
#define EVERY 10000 /* ms: options.sys_every of these tests */
#define B "$SYS/broker/"

static int sys_setup(void **state)
{
    int failed = bench_setup(state);
    struct bench *t = (struct bench *)*state;
    t->options.sys_every = EVERY / 1000;
    t->options.version = "name 1.2.3";
    bench_restart(t, 0);
    return failed;
}

#define SYS_TEST(f)                                                            \
    cmocka_unit_test_setup_teardown(f, sys_setup, bench_teardown)

/* Subscribes to one topic and hears it: its payload, valid until the link's
 * next packet. */
static const char *asked(struct bench_link *l, const char *name)
{
    bench_say(l, "subscribe #1 " B "%s", name);
    bench_hear(l, "suback #1 00*");
    const struct bench_heard *h = bench_next(l);
    assert_non_null(h);
    char want[128];
    snprintf(want, sizeof want, "publish q0 retain " B "%s =", name);
    assert_memory_equal(h->text, want, strlen(want));
    bench_silent(l);
    return h->payload;
}

static uint64_t number(struct bench_link *l, const char *name)
{
    return strtoull(asked(l, name), NULL, 10);
}

/* How many packets wait, all of which are on topics that begin so. */
static size_t heard_below(struct bench_link *l, const char *start)
{
    const struct bench_heard *h;
    size_t n = 0;
    for (; (h = bench_next(l)) != NULL; n++) {
        const char *topic = strstr(h->text, "$SYS/");
        assert_non_null(topic);
        assert_memory_equal(topic, start, strlen(start));
    }
    return n;
}

static void publish(struct bench_link *p, const char *words)
{
    bench_say(p, "publish q1 #9 %s", words);
    bench_hear(p, "puback #9 *");
}

/* ==== 1. values ===========================================================
 */

static void test_clients_and_what_they_left(void **state)
{
    static const struct {
        const char *name, *value;
    } table[] = {
        {"version", "name 1.2.3"},
        {"uptime", "7 seconds"},
        {"clients/connected", "2"}, /* w and p */
        {"clients/active", "2"},
        {"clients/disconnected", "1"}, /* a */
        {"clients/inactive", "1"},
        {"clients/total", "3"},
        {"clients/maximum", "4"},
        {"clients/expired", "1"}, /* b */
        {"messages/stored", "2"}, /* one retained, one queued */
        {"store/messages/count", "2"},
        {"publish/messages/dropped", "1"},
        {"shared_subscriptions/count", "1"},
        {"retained%20messages/count", "1"},
        /* those of a, and the fifteen of w with this one */
        {"subscriptions/count", "17"},
    };
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *a = bench_meet(t, "c0 x=600 id=a");
    struct bench_link *b = bench_meet(t, "c0 x=1 id=b");
    struct bench_link *w = bench_meet(t, "c1 id=w");
    bench_say(a, "subscribe #1 t,q1 $share/g/u");
    bench_hear(a, "suback #1 *");
    bench_cut(a);
    bench_cut(b);
    publish(p, "retain r =kept");
    publish(p, "t =queued");
    publish(p, "t mei=2 =late");
    bench_advance(t, 7000);
    for (size_t i = 0; i < COUNT(table); i++)
        assert_string_equal(asked(w, table[i].name), table[i].value);
}

/* The counters between two askings: what they rise by is told by the packets
 * on the wire, those of the askings included. */
static void test_counters(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *w = bench_meet(t, "c1 id=w");
    static const struct {
        const char *name;
        int named;   /* a topic's length comes in once, and so */
        int payload; /* does a value's */
        uint64_t rise;
    } table[] = {
        {"messages/received", 0, 0, 2}, /* PUBLISH, SUBSCRIBE */
        {"messages/sent", 0, 0, 2},     /* the value, SUBACK */
        {"publish/messages/received", 0, 0, 1},
        {"publish/messages/sent", 0, 0, 1},
        {"publish/bytes/received", 0, 0, 5},
        {"publish/bytes/sent", 0, 1, 0},
        {"bytes/received", 1, 0, 11 + 8}, /* 8: SUBSCRIBE and no topic */
        {"bytes/sent", 1, 1, 6 + 5},      /* SUBACK; PUBLISH and no topic */
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        const char *value = asked(w, table[i].name);
        uint64_t want = strtoull(value, NULL, 10) + table[i].rise;
        want += table[i].named ? strlen(B) + strlen(table[i].name) : 0;
        want += table[i].payload ? strlen(value) : 0;
        bench_frame(p, 0x30, "0001 74 00 68656C6C6F"); /* t =hello */
        assert_int_equal(number(w, table[i].name), want);
    }
}

static void test_stored_bytes(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *w = bench_meet(t, "c1 id=w");
    assert_int_equal(number(w, "store/messages/bytes"), 0);
    /* PUBLISH: 2 + 2 + 1 for the topic + 1 for no properties + 100 */
    publish(p, "retain t =*100");
    assert_int_equal(number(w, "store/messages/bytes"), 106);
    publish(p, "retain t");
    assert_int_equal(number(w, "store/messages/bytes"), 0);
}

/* ==== 2. averages =========================================================
 */

/* A value with two decimals, in hundredths, is near what it must be. */
static void load_near(struct bench_link *l, const char *name, unsigned window,
                      uint64_t want)
{
    char topic[64];
    unsigned whole, part;
    snprintf(topic, sizeof topic, "load/%s/%umin", name, window);
    const char *value = asked(l, topic);
    assert_int_equal(sscanf(value, "%u.%2u", &whole, &part), 2);
    assert_int_equal(strlen(strchr(value, '.')), 3);
    assert_in_range(100 * whole + part, want - want / 50,
                    want + want / 50 + 1);
}

/* One PUBLISH every 5 s: 12 a minute, whatever the window.  Then silence,
 * which makes of each average its e-th part in its window's time. */
static void test_load_of_a_stream(void **state)
{
    static const unsigned windows[] = {1, 5, 15};
    static const unsigned left[] = {674, 36788, 71653}; /* of 100,000 */
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *w = bench_meet(t, "c1 id=w");
    for (int i = 0; i < 12 * 90; i++) {
        bench_frame(p, 0x30, "0001 74 00 68656C6C6F"); /* 11 bytes */
        bench_advance(t, 5000);
    }
    for (size_t i = 0; i < COUNT(windows); i++) {
        load_near(w, "publish/received", windows[i], 1200);
        load_near(w, "bytes/received", windows[i], 100 * 12 * 11);
        bench_say(w, "unsubscribe #2 " B "load/publish/received/%umin " B
                     "load/bytes/received/%umin", windows[i], windows[i]);
        bench_hear(w, "unsuback *");
    }
    t->now += 5 * 60 * 1000; /* many steps at once */
    for (size_t i = 0; i < COUNT(windows); i++)
        load_near(w, "publish/received", windows[i],
                  1200 * (uint64_t)left[i] / 100000);
}

/* Each average is that of its own counter. */
static void test_load_of_each(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *a = bench_meet(t, "c0 x=600 id=a");
    struct bench_link *w = bench_meet(t, "c1 id=w");
    bench_say(a, "subscribe #1 t,q1");
    bench_hear(a, "suback *");
    bench_advance(t, 24 * 3600 * 1000); /* what was is forgotten */
    for (int i = 0; i < 3; i++) {
        publish(p, "t =x");
        bench_say(a, "puback #%u", bench_hear(a, "publish q1 #* t =x"));
    }
    bench_cut(a);
    publish(p, "t mei=1 =late");
    bench_link_open(t);
    bench_advance(t, 5000);
    /* a step's count is 12 times that in a minute; of this the average over
     * one minute takes 1 - exp(-1/12), and over fifteen 1 - exp(-1/180) */
    load_near(w, "publish/received", 1, 4 * 12 * 100 * 7996 / 100000);
    load_near(w, "publish/sent", 1, 3 * 12 * 100 * 7996 / 100000);
    load_near(w, "publish/dropped", 1, 12 * 100 * 7996 / 100000);
    load_near(w, "messages/received", 1, 7 * 12 * 100 * 7996 / 100000);
    load_near(w, "messages/sent", 1, 7 * 12 * 100 * 7996 / 100000);
    load_near(w, "sockets", 1, 12 * 100 * 7996 / 100000);
    load_near(w, "connections", 1, 0);
    load_near(w, "publish/received", 15, 4 * 12 * 100 * 554 / 100000);
}

/* ==== 3. rounds ===========================================================
 */

/* Only what changed, and at the round, not before. */
static void test_rounds_tell_changes(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *w = bench_meet(t, "c1 id=w");
    assert_string_equal(asked(w, "retained%20messages/count"), "0");
    bench_advance(t, 3 * EVERY);
    bench_silent(w);
    publish(p, "retain r =x");
    bench_advance(t, EVERY - 1);
    bench_silent(w);
    bench_advance(t, 1);
    bench_hear(w, "publish q0 " B "retained%%20messages/count =1");
    bench_advance(t, 3 * EVERY);
    bench_silent(w);
}

/* What changes by being told is told: the asking's own PUBLISH. */
static void test_rounds_begin_with_the_first_answer(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_meet(t, "c1 id=w");
    assert_string_equal(asked(w, "publish/messages/sent"), "0");
    bench_advance(t, EVERY);
    bench_hear(w, "publish q0 " B "publish/messages/sent =1");
}

/* A value that comes back to what the last round told is told to who has
 * heard another one since. */
static void test_a_value_that_comes_back(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *v = bench_meet(t, "c1 id=v");
    struct bench_link *w = bench_meet(t, "c1 id=w");
    assert_string_equal(asked(v, "retained%20messages/count"), "0");
    publish(p, "retain r =x");
    assert_string_equal(asked(w, "retained%20messages/count"), "1");
    publish(p, "retain r");
    bench_advance(t, EVERY);
    bench_hear(w, "publish q0 " B "retained%%20messages/count =0");
}

static void test_mqtt_3_3_1_9_mqtt_3_3_1_10_mqtt_3_3_1_12_options(void **state)
{
    static const struct {
        const char *filter;
        int first, again, retain;
    } table[] = {
        {B "uptime", 1, 1, 0},      {B "uptime,rap", 1, 1, 1},
        {B "uptime,rh1", 1, 0, 0},  {B "uptime,rh2", 0, 0, 0},
        {B "uptime,q2,nl", 1, 1, 0}, {"$share/g/" B "uptime,rap", 0, 0, 1},
    };
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < COUNT(table); i++) {
        struct bench_link *w = bench_meet(t, "c1 id=w%d", (int)i);
        for (int again = 0; again < 2; again++) {
            bench_say(w, "subscribe #1 sid=7 %s", table[i].filter);
            bench_hear(w, "suback #1 *");
            if (again ? table[i].again : table[i].first)
                bench_hear(w, "publish q0 retain " B "uptime =* sid=7");
            bench_silent(w);
        }
        bench_advance(t, EVERY);
        bench_hear(w, "publish q0 %s" B "uptime =* sid=7",
                   table[i].retain ? "retain " : "");
        bench_silent(w);
        bench_leave(w);
    }
}

/* Overlapping filters bring one copy of a round's value, with all their
 * identifiers; the order of the two is the server's. */
static void test_mqtt_3_3_4_3_overlapping(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_meet(t, "c1 id=w");
    bench_say(w, "subscribe #1 sid=5 " B "uptime");
    bench_say(w, "subscribe #2 sid=6 " B "+");
    while (bench_next(w) != NULL)
        continue;
    bench_advance(t, EVERY);
    bench_hear(w, "publish q0 " B "uptime =10%%20seconds sid=5 sid=6");
    bench_silent(w);
}

static void test_mqtt_4_7_2_1_wildcards(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *deaf = bench_watch(t, "# +/broker/uptime +/#");
    struct bench_link *all = bench_watch(t, "$SYS/#");
    struct bench_link *some = bench_watch(t, "$SYS/+/clients/+");
    size_t told = heard_below(all, B);
    assert_true(told > 40);
    assert_int_equal(heard_below(some, B "clients/"), 7);
    bench_advance(t, EVERY);
    bench_find(all, "publish q0 " B "uptime =10%20seconds");
    assert_true(heard_below(all, B) + 1 < told);
    bench_advance(t, 60000);
    bench_silent(deaf);
}

/* In turn, who is away left out; a topic that has not changed (the version)
 * takes nobody's turn. */
static void test_one_member_of_a_shared_subscription(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w[2];
    struct bench_link *a = bench_meet(t, "c0 x=600 id=a");
    bench_say(a, "subscribe #1 $share/g/" B "+");
    bench_cut(a);
    for (int i = 0; i < 2; i++)
        w[i] = bench_watch(t, "$share/g/" B "+");
    bench_advance(t, 6 * EVERY);
    for (int i = 0; i < 2; i++)
        assert_int_equal(heard_below(w[i], B "uptime"), 3);
}

/* 3.3.2.3.4, 3.1.2.11.4: aliases where they are taken, and what is too large
 * is left out, without a line in the log. */
static void test_mqtt_3_1_2_24_mqtt_3_1_2_27_limits_of_the_client(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *alias = bench_meet(t, "c1 id=a tam=8");
    struct bench_link *small = bench_meet(t, "c1 id=s mps=40");
    bench_say(alias, "subscribe #1 " B "uptime");
    bench_hear(alias, "suback *");
    bench_say(small, "subscribe #1 $SYS/#");
    bench_hear(small, "suback *");
    bench_advance(t, EVERY);
    bench_hear(alias, "publish q0 retain " B "uptime =0%%20seconds");
    bench_hear(alias, "publish q0 " B "uptime =10%%20seconds");
    assert_true(alias->ref.aliased > 0);
    bench_find(small, "publish q0 retain " B "uptime =0%20seconds");
    for (const struct bench_heard *h; (h = bench_next(small)) != NULL;)
        assert_null(strstr(h->text, "retained%20messages")); /* 38 + 2 + 1 */
    assert_int_equal(bench_logged(t, "discarded"), 0);
    assert_int_equal(session_figures(t->server)->dropped, 0);
}

/* Who has much to read is left alone; the next round tells it what it missed,
 * even what has not changed since. */
static void test_slow_reader(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *v = bench_watch(t, B "clients/maximum");
    struct bench_link *w = bench_watch(t, "t " B "clients/maximum");
    bench_next(v);
    bench_hear(w, "publish q0 retain " B "clients/maximum =3");
    t->held = 1;
    bench_say(p, "publish q0 t =*100000");
    bench_say(bench_link_open(t), "connect c1 id=fourth");
    t->now += EVERY;
    bench_step(t, 0);
    bench_turn(t);
    bench_hear(w, "publish q0 t =*100000");
    bench_silent(w);
    bench_hear(v, "publish q0 " B "clients/maximum =4");
    assert_int_equal(session_figures(t->server)->dropped, 0);
    bench_advance(t, EVERY);
    bench_hear(w, "publish q0 " B "clients/maximum =4");
    bench_advance(t, 3 * EVERY);
    bench_silent(w);
    bench_silent(v);
}

/* So is who has QoS 0 messages waiting. */
static void test_qos_0_waits(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *w = bench_meet(t, "c0 x=600 id=w");
    bench_say(w, "subscribe #1 t,q1 u " B "uptime,rh2");
    bench_cut(w);
    publish(p, "t =1");
    publish(p, "t =2");
    bench_say(p, "publish q0 u =3");
    w = bench_meet(t, "c0 x=600 id=w rm=1");
    uint16_t id = bench_hear(w, "publish q1 #* t =1");
    bench_advance(t, EVERY);
    bench_silent(w);
    bench_say(w, "puback #%u", id);
    bench_say(w, "puback #%u", bench_hear(w, "publish q1 #* t =2"));
    bench_hear(w, "publish q0 u =3");
    bench_silent(w);
    bench_advance(t, EVERY);
    bench_hear(w, "publish q0 " B "uptime =20%%20seconds");
}

/* Hours pass in one turn: one round. */
static void test_jump_of_the_clock(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, B "uptime " B "load/sockets/1min");
    assert_int_equal(heard_below(w, B), 2);
    t->now += (uint64_t)1000000 * 3600 * 1000;
    bench_turn(t);
    bench_hear(w, "publish q0 " B "uptime =3600000000%%20seconds");
    bench_silent(w); /* the average came up and is down again */
    assert_int_equal(session_server_due(t->server), t->now + EVERY);
}

/* ==== 4. nothing ==========================================================
 */

/* 1 = a file of the store holds this text. */
static int stored(const struct bench *t, const char *text)
{
    int found = 0;
    size_t n = strlen(text);
    DIR *dir = opendir(t->dir);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char path[512];
        static char bytes[1 << 20];
        snprintf(path, sizeof path, "%s/%s", t->dir, e->d_name);
        FILE *f = fopen(path, "rb");
        size_t got = f != NULL ? fread(bytes, 1, sizeof bytes, f) : 0;
        for (size_t i = 0; i + n <= got; i++)
            found |= memcmp(bytes + i, text, n) == 0;
        if (f != NULL)
            fclose(f);
    }
    closedir(dir);
    return found;
}

static void test_offline_sessions_miss_it(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *a = bench_meet(t, "c0 x=600 id=a");
    bench_say(a, "subscribe #1 $SYS/#,q2");
    bench_cut(a);
    struct bench_link *w = bench_watch(t, B "uptime");
    bench_advance(t, 5 * EVERY);
    assert_int_equal(heard_below(w, B "uptime"), 6);
    assert_int_equal(session_figures(t->server)->deliveries, 0);
    assert_int_equal(session_figures(t->server)->messages, 0);
    assert_true(stored(t, "SYS/#"));
    assert_true(stored(t, "broker/uptime") == 0); /* that of w neither */
    assert_false(stored(t, "seconds"));
    a = bench_join(t, "c0 x=600 id=a");
    bench_hear(a, "connack 00 sp=1*");
    bench_silent(a);
    bench_advance(t, EVERY); /* it missed rounds: it is told all again */
    bench_find(a, "publish q0 " B "version =name%201.2.3");
    bench_restart(t, 1000);
    assert_int_equal(session_figures(t->server)->deliveries, 0);
}

static void test_nobody_listens(void **state)
{
    struct bench *t = (struct bench *)*state;
    assert_int_equal(session_server_due(t->server), NEVER);
    struct bench_link *w = bench_meet(t, "c0 x=4294967295 id=w");
    assert_int_equal(session_server_due(t->server), NEVER);
    asked(w, "uptime");
    assert_int_equal(session_server_due(t->server), t->now + EVERY);
    bench_say(w, "unsubscribe #2 " B "uptime");
    assert_int_equal(session_server_due(t->server), NEVER);
    bench_next(w);
    asked(w, "uptime");
    assert_int_equal(session_server_due(t->server), t->now + EVERY);
    bench_cut(w);
    assert_int_equal(session_server_due(t->server), NEVER);
}

static void test_every_0_is_none(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.sys_every = 0;
    bench_restart(t, 0);
    struct bench_link *w = bench_watch(t, "$SYS/#");
    assert_int_equal(session_server_due(t->server), NEVER);
    bench_advance(t, 3600 * 1000);
    bench_silent(w);
}

static void test_no_version(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.version = NULL;
    bench_restart(t, 0);
    struct bench_link *w = bench_watch(t, B "+");
    bench_hear(w, "publish q0 retain " B "uptime =0%%20seconds");
    bench_silent(w);
}

static void test_clients_do_not_publish_there(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, B "uptime");
    bench_hear(w, "publish q0 retain " B "uptime =0%%20seconds");
    bench_say(w, "publish q1 #2 retain " B "uptime =long");
    bench_hear(w, "puback #2 87*");
    bench_silent(w);
    assert_string_equal(asked(w, "uptime"), "0 seconds");
}

/* A SUBACK that the client cannot take ends the session, and with it the
 * subscriptions whose values were to follow. */
static void test_mqtt_3_1_2_24_no_values_without_suback(void **state)
{
    struct bench *t = (struct bench *)*state;
    char words[2000] = "subscribe #1";
    struct bench_link *w = bench_meet(t, "c1 id=w mps=60");
    for (int i = 0; i < 60; i++)
        strcat(words, " $SYS/#");
    bench_say(w, "%s", words);
    bench_end(w, "disconnect 95*");
    struct bench_link *v = bench_meet(t, "c1 id=v");
    assert_string_equal(asked(v, "uptime"), "0 seconds");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SYS_TEST(test_clients_and_what_they_left),
        SYS_TEST(test_counters),
        SYS_TEST(test_stored_bytes),
        SYS_TEST(test_load_of_a_stream),
        SYS_TEST(test_load_of_each),
        SYS_TEST(test_rounds_tell_changes),
        SYS_TEST(test_rounds_begin_with_the_first_answer),
        SYS_TEST(test_a_value_that_comes_back),
        SYS_TEST(test_mqtt_3_3_1_9_mqtt_3_3_1_10_mqtt_3_3_1_12_options),
        SYS_TEST(test_mqtt_3_3_4_3_overlapping),
        SYS_TEST(test_mqtt_4_7_2_1_wildcards),
        SYS_TEST(test_one_member_of_a_shared_subscription),
        SYS_TEST(test_mqtt_3_1_2_24_mqtt_3_1_2_27_limits_of_the_client),
        SYS_TEST(test_slow_reader),
        SYS_TEST(test_qos_0_waits),
        SYS_TEST(test_jump_of_the_clock),
        SYS_TEST(test_offline_sessions_miss_it),
        SYS_TEST(test_nobody_listens),
        SYS_TEST(test_every_0_is_none),
        SYS_TEST(test_no_version),
        SYS_TEST(test_clients_do_not_publish_there),
        SYS_TEST(test_mqtt_3_1_2_24_no_values_without_suback),
    };
    return cmocka_run_group_tests_name("sys", tests, NULL, NULL);
}
