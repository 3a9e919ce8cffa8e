/*
 * test_will.c - Will Messages: when they are published, when they are not,
 * and what they carry.
 *
 *   1. when     a table of endings, watched on a made-up clock
 *   2. what     QoS, RETAIN, properties
 *   3. kills    a will that was pending, or whose client was online
 *
 * The notation is that of bench.h.
 */
#include <string.h>

#include "bench.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define NEVER UINT64_MAX

/* ==== 1. when =============================================================
 */

/* How the connection of the client with the will ends. */
enum ending {
    CUT,        /* the network fails */
    NORMAL,     /* DISCONNECT 0x00 */
    WITH_WILL,  /* DISCONNECT 0x04 */
    ERROR,      /* DISCONNECT 0x82 of the client */
    FAULT,      /* a malformed packet: the server closes */
    SHORTER,    /* DISCONNECT 0x04 with Session Expiry Interval 1 */
};

struct will_case {
    const char *words;  /* of CONNECT, besides the will */
    int delay;          /* Will Delay Interval, s */
    enum ending ending;
    uint64_t at;        /* ms after the ending; NEVER */
};

/* 3.1.2.5, 3.1.3.2.2: published when the delay or the session ends. */
static const struct will_case will_cases[] = {
    {"c1", 0, CUT, 0},
    {"c1", 5, CUT, 0},          /* the session ends at once */
    {"c0 x=0", 5, CUT, 0},
    {"c0 x=60", 0, CUT, 0},
    {"c0 x=60", 2, CUT, 2000},
    {"c1 x=60", 2, CUT, 2000},
    {"c0 x=2", 60, CUT, 2000},  /* the session ends first */
    {"c0 x=4294967295", 3, CUT, 3000},
    {"c0", 3, CUT, 3000},
    {"c1", 0, NORMAL, NEVER},
    {"c0 x=2", 0, NORMAL, NEVER},
    {"c0 x=2", 1, NORMAL, NEVER},
    {"c1", 0, WITH_WILL, 0},
    {"c0 x=60", 2, WITH_WILL, 2000},
    {"c0 x=60", 9, SHORTER, 1000},
    {"c0 x=60", 2, ERROR, 2000},
    {"c1", 0, ERROR, 0},
    {"c1", 0, FAULT, 0},
    {"c0 x=60", 2, FAULT, 2000},
};

static void end_by(struct bench_link *l, enum ending ending)
{
    switch (ending) {
    case CUT:
        bench_cut(l);
        return;
    case NORMAL:
        bench_say(l, "disconnect 00");
        break;
    case WITH_WILL:
        bench_say(l, "disconnect 04");
        break;
    case ERROR:
        bench_say(l, "disconnect 82");
        break;
    case FAULT:
        bench_feed(l, "E100"); /* [MQTT-3.14.1-1] */
        bench_end(l, "disconnect 81*");
        return;
    case SHORTER:
        bench_say(l, "disconnect 04 x=1");
        break;
    }
    bench_end(l, "");
}

/* The will's time may be off by a little, never early: a second is allowed
 * where the broker was dead, for it counts from when it last lived. */
static void will_check(struct bench *t, const struct will_case *c)
{
    struct bench_link *w = bench_watch(t, "w/t,q1");
    struct bench_link *l =
        bench_meet(t, "%s id=a will w/t =gone wdi=%d", c->words, c->delay);
    bench_advance(t, 500);
    bench_silent(w);
    end_by(l, c->ending);
    if (c->at != NEVER && c->at > 0) {
        bench_advance(t, c->at - 100);
        bench_silent(w);
        bench_advance(t, 200);
    }
    if (c->at != NEVER)
        bench_hear(w, "publish q0 w/t =gone");
    bench_advance(t, 3600000);
    bench_silent(w); /* and never twice */
    bench_leave(w);
}

static void
test_mqtt_3_1_2_7_mqtt_3_1_2_8_mqtt_3_14_4_3_when(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < COUNT(will_cases); i++)
        will_check(t, &will_cases[i]);
}

/* No Will Flag, no will. */
static void test_mqtt_3_1_2_7_without_will(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "#");
    bench_cut(bench_meet(t, "c1 id=a"));
    bench_silent(w);
}

static void test_mqtt_3_1_3_9_back_in_time(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/t");
    for (int kill = 0; kill < 2; kill++) {
        struct bench_link *l =
            bench_meet(t, "c0 id=a x=60 will w/t =gone wdi=3");
        bench_cut(l);
        bench_advance(t, 500);
        if (kill) {
            bench_restart(t, 500);
            w = bench_watch(t, "w/t");
        } else {
            bench_advance(t, 500);
        }
        l = bench_meet(t, "c0 id=a x=60");
        bench_advance(t, 6000);
        bench_silent(w);
        bench_cut(l); /* the new connection brought no will */
        bench_advance(t, 100000);
        bench_silent(w);
    }
}

/* 3.1.3.2.2: Clean Start 1 ends the session, and the will is due. */
static void test_mqtt_3_1_2_8_clean_start_within_delay(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/t");
    struct bench_link *l = bench_meet(t, "c0 id=a x=60 will w/t =gone wdi=9");
    bench_cut(l);
    bench_advance(t, 1000);
    bench_silent(w);
    l = bench_meet(t, "c1 id=a x=60");
    bench_hear(w, "publish q0 w/t =gone");
    bench_advance(t, 20000);
    bench_silent(w);
    bench_silent(l);
}

struct takeover {
    const char *second; /* words of the CONNECT that takes over */
    int delay;          /* of the first one's will */
    int published;      /* is the first one's will? */
};

static void test_mqtt_3_1_4_3_takeover(void **state)
{
    static const struct takeover table[] = {
        {"c0 x=60", 0, 1}, {"c0 x=60", 3, 0}, {"c1 x=60", 0, 1},
        {"c1 x=60", 3, 1}};
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/#");
    for (size_t i = 0; i < COUNT(table); i++) {
        struct bench_link *a = bench_meet(
            t, "c1 id=a x=60 will w/1 =first wdi=%d", table[i].delay);
        struct bench_link *b =
            bench_meet(t, "%s id=a will w/2 =second", table[i].second);
        bench_end(a, "disconnect 8e*");
        if (table[i].published)
            bench_hear(w, "publish q0 w/1 =first");
        bench_advance(t, 20000);
        bench_silent(w);
        bench_cut(b);
        bench_hear(w, "publish q0 w/2 =second");
        bench_advance(t, 200000);
        bench_silent(w);
    }
}

/* A session that ends with its connection has its will published then. */
static void test_takeover_of_session_that_ends(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/#");
    struct bench_link *a = bench_meet(t, "c1 id=a will w/t =gone wdi=30");
    bench_meet(t, "c0 id=a x=60");
    bench_end(a, "disconnect 8e*");
    bench_hear(w, "publish q0 w/t =gone");
}

/* Once published or discarded it is gone from the session. */
static void test_mqtt_3_1_2_10_removed(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/t");
    struct bench_link *l = bench_meet(t, "c0 id=a x=60 will w/t =gone");
    bench_cut(l);
    bench_hear(w, "publish q0 w/t =gone");
    l = bench_meet(t, "c0 id=a x=60");
    bench_cut(l);
    bench_restart(t, 1000);
    w = bench_watch(t, "w/t");
    bench_advance(t, 200000);
    bench_silent(w);
    l = bench_meet(t, "c0 id=a x=2 will w/t =gone");
    bench_leave(l);
    bench_restart(t, 500);
    w = bench_watch(t, "w/t");
    bench_advance(t, 200000);
    bench_silent(w);
}

/* 3.14.2.1, 0x8B: a server that stops closes without the client's farewell. */
static void test_server_stops(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *off = bench_meet(t, "c0 id=off");
    bench_say(off, "subscribe #1 w/#,q1");
    bench_cut(off);
    struct bench_link *a = bench_meet(t, "c1 id=a will q1 w/a =now");
    struct bench_link *b =
        bench_meet(t, "c0 id=b x=600 will q1 w/b =later wdi=9");
    bench_stop(t);
    bench_end(a, "disconnect 8b*");
    bench_end(b, "disconnect 8b*");
    bench_restart(t, 1000);
    off = bench_meet(t, "c0 id=off");
    bench_hear(off, "publish q1 #* w/a =now");
    bench_silent(off);
    bench_advance(t, 12000);
    bench_hear(off, "publish q1 #* w/b =later");
    bench_silent(off);
}

/* ==== 2. what =============================================================
 */

static void test_mqtt_3_1_2_12_mqtt_3_1_2_14_mqtt_3_1_2_15_as(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int q = 0; q < 3; q++)
        for (int retain = 0; retain < 2; retain++) {
            struct bench_link *w = bench_watch(t, "w/t,q2,rap");
            while (bench_next(w) != NULL)
                continue;
            struct bench_link *l = bench_meet(
                t, "c1 id=a will q%d %s w/t =q%d", q,
                retain ? "retain" : "", q);
            bench_cut(l);
            bench_hear(w, q ? "publish q%d%s #* w/t =q%d"
                            : "publish q%d%s w/t =q%d",
                       q, retain ? " retain" : "", q);
            bench_silent(w);
            bench_leave(w);
            w = bench_watch(t, "w/t,q0");
            if (retain)
                bench_hear(w, "publish q0 retain w/t =q%d", q);
            bench_silent(w);
            bench_say(w, "publish retain w/t =");
        }
}

static void test_mqtt_3_1_3_10_properties(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int delay = 0; delay < 2; delay++) {
        struct bench_link *w = bench_watch(t, "w/t,q2");
        struct bench_link *l = bench_meet(
            t, "c0 id=a x=60 will q1 w/t =%%00%%FF pfi=0 mei=50 ct=c/t "
               "rt=r/t cd=%%00%%01 wdi=%d up=a:1 up=b:2 up=a:3",
            delay * 20);
        bench_cut(l);
        if (delay)
            bench_restart(t, 10000);
        if (delay)
            w = bench_watch(t, "w/t,q2");
        bench_advance(t, 12000);
        /* 3.1.3.2.4: the Will's expiry counts from its publication */
        bench_hear(w, "publish q1 #* w/t =%%00%%FF pfi=0 mei=50 ct=c/t "
                      "rt=r/t cd=%%00%%01 up=a:1 up=b:2 up=a:3");
        bench_silent(w);
    }
}

static void test_mqtt_3_1_2_9_empty_payload(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/t,q2");
    bench_cut(bench_meet(t, "c1 id=a will q1 w/t"));
    bench_hear(w, "publish q1 #* w/t =");
}

/* ==== 3. kills ============================================================
 */

static void test_mqtt_3_1_2_8_pending_over_a_kill(void **state)
{
    static const struct {
        uint64_t dead;     /* ms that the broker is dead */
        int at_once;       /* is the will due when it comes back? */
    } table[] = {{1000, 0}, {20000, 1}};
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < COUNT(table); i++) {
        struct bench_link *off = bench_meet(t, "c0 id=off");
        bench_say(off, "subscribe #1 w/t,q1");
        bench_cut(off);
        struct bench_link *l =
            bench_meet(t, "c0 id=a x=600 will q1 w/t =gone wdi=10");
        bench_cut(l);
        bench_advance(t, 2000);
        bench_restart(t, table[i].dead);
        off = bench_meet(t, "c0 id=off");
        if (!table[i].at_once) {
            bench_silent(off);
            bench_advance(t, 10000 - 2000 - table[i].dead - 100);
            bench_silent(off);
            bench_advance(t, 200);
        }
        uint16_t id = bench_hear(off, "publish q1 #* w/t =gone");
        bench_say(off, "puback #%u", id);
        bench_advance(t, 1000);
        bench_restart(t, 100000);
        off = bench_meet(t, "c0 id=off");
        bench_silent(off);
        bench_leave(off);
    }
}

/* The kill is what broke the connection: the will counts from it. */
static void test_mqtt_3_1_2_8_online_at_the_kill(void **state)
{
    static const struct {
        const char *words;
        int delay;         /* s */
        uint64_t dead;     /* ms */
        int at_once;       /* is it there when the broker is back? */
    } table[] = {
        {"c0 x=600", 0, 3000, 1},  {"c0 x=600", 5, 1000, 0},
        {"c0 x=600", 5, 60000, 1}, {"c0 x=2", 100, 60000, 1},
        {"c1 x=600", 0, 3000, 1},
    };
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < COUNT(table); i++) {
        struct bench_link *off = bench_meet(t, "c0 id=off");
        bench_say(off, "subscribe #1 w/t,q1");
        bench_cut(off);
        bench_meet(t, "%s id=a will q1 w/t =gone wdi=%d up=a:1",
                   table[i].words, table[i].delay);
        bench_advance(t, 10000);
        bench_restart(t, table[i].dead);
        off = bench_meet(t, "c0 id=off");
        if (!table[i].at_once) {
            bench_advance(t, (uint64_t)table[i].delay * 1000 - 1100 -
                                 table[i].dead);
            bench_silent(off);
            bench_advance(t, 3000);
        }
        uint16_t id = bench_hear(off, "publish q1 #* w/t =gone up=a:1");
        bench_say(off, "puback #%u", id);
        bench_advance(t, 200000);
        bench_silent(off);
        bench_leave(off);
    }
}

/* A client that came back after the kill in time has no will published. */
static void test_mqtt_3_1_3_9_back_after_the_kill(void **state)
{
    struct bench *t = (struct bench *)*state;
    bench_meet(t, "c0 id=a x=600 will w/t =gone wdi=30");
    bench_restart(t, 5000);
    struct bench_link *w = bench_watch(t, "w/t");
    struct bench_link *l = bench_meet(t, "c0 id=a x=600 will w/t =new");
    bench_advance(t, 100000);
    bench_silent(w);
    bench_cut(l);
    bench_hear(w, "publish q0 w/t =new");
    bench_silent(w);
}

/* A will that went out is out, whatever happens to the broker right after
 * that turn: it must not come again when the ledger is read back. */
static void test_mqtt_3_1_2_10_published_and_then_the_end(void **state)
{
    static const struct {
        const char *words; /* of CONNECT */
        int delay;         /* Will Delay Interval, s */
        enum ending ending;
        uint64_t at;       /* ms after the ending that the will goes out */
    } table[] = {
        {"x=2", 60, CUT, 2000}, /* with the end of its session */
        {"x=60", 2, CUT, 2000},
        {"x=60", 0, CUT, 0},
        {"x=60", 0, FAULT, 0},
        {"x=60", 0, WITH_WILL, 0},
    };
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < 2 * COUNT(table); i++) {
        size_t k = i / 2;
        struct bench_link *w = bench_meet(t, "c1 id=w x=600");
        bench_say(w, "subscribe #1 w/t,q0"); /* stores nothing while online */
        bench_hear(w, "suback #1 00");
        struct bench_link *l = bench_meet(t, "c1 id=a %s will w/t =gone wdi=%d",
                                          table[k].words, table[k].delay);
        bench_advance(t, 1000);
        end_by(l, table[k].ending);
        t->now += table[k].at;
        bench_turn(t);
        bench_hear(w, "publish q0 w/t =gone");
        if (i % 2)
            bench_power_cut(t, 0);
        else
            bench_restart(t, 0);
        w = bench_meet(t, "c0 id=w x=600");
        bench_silent(w);
        bench_advance(t, 100000);
        bench_silent(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(test_mqtt_3_1_2_7_mqtt_3_1_2_8_mqtt_3_14_4_3_when),
        BENCH_TEST(test_mqtt_3_1_2_7_without_will),
        BENCH_TEST(test_mqtt_3_1_3_9_back_in_time),
        BENCH_TEST(test_mqtt_3_1_2_8_clean_start_within_delay),
        BENCH_TEST(test_mqtt_3_1_4_3_takeover),
        BENCH_TEST(test_takeover_of_session_that_ends),
        BENCH_TEST(test_mqtt_3_1_2_10_removed),
        BENCH_TEST(test_server_stops),
        BENCH_TEST(test_mqtt_3_1_2_12_mqtt_3_1_2_14_mqtt_3_1_2_15_as),
        BENCH_TEST(test_mqtt_3_1_3_10_properties),
        BENCH_TEST(test_mqtt_3_1_2_9_empty_payload),
        BENCH_TEST(test_mqtt_3_1_2_8_pending_over_a_kill),
        BENCH_TEST(test_mqtt_3_1_2_8_online_at_the_kill),
        BENCH_TEST(test_mqtt_3_1_3_9_back_after_the_kill),
        BENCH_TEST(test_mqtt_3_1_2_10_published_and_then_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
