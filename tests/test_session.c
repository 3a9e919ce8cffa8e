/*
 * test_session.c - connections and sessions: who is let in, what a session
 * keeps, and when it ends.
 *
 *   1. CONNECT        accepted, refused, what CONNACK says
 *   2. sessions       Clean Start, Session Expiry, takeover, restart
 *   3. keep alive
 *   4. DISCONNECT and AUTH
 *   5. faults         what the server says to a client that breaks a rule
 *   6. small packets  the client's Maximum Packet Size
 *   7. a full disk
 *
 * The notation is that of bench.h.
 */
#include <string.h>

#include "bench.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* The link ends; a packet before that is allowed, if it matches. */
#define end_after(l, pattern) \
    bench_end(l, bench_waiting(l) > 0 ? (pattern) : "")

/* ==== 1. CONNECT ==========================================================
 */

/* A well-formed beginning: protocol name, version 5. */
#define NAME5 "00044D515454 05 "

struct refusal {
    const char *statement; /* what it breaks */
    const char *hex;       /* the CONNECT after its Remaining Length */
    const char *code;      /* a pattern of Reason Codes that fit */
};

/* Flags: 02 Clean Start, 04 Will, 08/10 Will QoS, 20 Will Retain,
 * 40 Password, 80 User Name. */
static const struct refusal refusals[] = {
    {"MQTT-3.1.2-3", NAME5 "03 0000 00 000161", "81"},
    {"MQTT-3.1.2-9", NAME5 "06 0000 00 000161", "8[12]"},
    {"MQTT-3.1.2-9", NAME5 "06 0000 00 000161 00", "8[12]"},
    {"MQTT-3.1.2-9", NAME5 "06 0000 00 000161 00 000174", "8[12]"},
    {"MQTT-3.1.2-11", NAME5 "0A 0000 00 000161", "8[12]"},
    {"MQTT-3.1.2-11", NAME5 "12 0000 00 000161", "8[12]"},
    {"MQTT-3.1.2-12", NAME5 "1E 0000 00 000161 00 000174 000170", "8[12]"},
    {"MQTT-3.1.2-13", NAME5 "22 0000 00 000161", "8[12]"},
    {"MQTT-3.1.2-16", NAME5 "02 0000 00 000161 000175", "8[12]"},
    {"MQTT-3.1.2-17", NAME5 "82 0000 00 000161", "8[12]"},
    {"MQTT-3.1.2-18", NAME5 "82 0000 00 000161 000175 000170", "8[12]"},
    {"MQTT-3.1.2-19", NAME5 "42 0000 00 000161", "8[12]"},
    {"MQTT-3.1.3-3", NAME5 "02 0000 00", "8[12]"},
    {"MQTT-3.1.3-4", NAME5 "02 0000 00 0002C328", "8[15]"},
    {"MQTT-3.1.3-4", NAME5 "02 0000 00 0003EDA080", "8[15]"},
    {"MQTT-1.5.4-2", NAME5 "02 0000 00 000100", "8[15]"},
    {"MQTT-3.1.3-11", NAME5 "06 0000 00 000161 00 0002C328 000170", "[89][10]"},
    {"MQTT-3.1.3-11", NAME5 "06 0000 00 000161 00 000100 000170", "[89][10]"},
    {"MQTT-4.7.0-1", NAME5 "06 0000 00 000161 00 000123 000170", "[89][012]"},
    {"MQTT-3.1.3-12", NAME5 "82 0000 00 000161 0002C328", "8[16]"},
    {"MQTT-1.5.4-2", NAME5 "82 0000 00 000161 000100", "8[16]"},
    /* one byte more; a Topic Alias; an interval given twice */
    {"MQTT-3.1.4-1", NAME5 "02 0000 00 000161 00", "8[12]"},
    {"MQTT-3.1.4-1", NAME5 "02 0000 03 230001 000161", "8[12]"},
    {"MQTT-3.1.4-1", NAME5 "02 0000 0A 110000003C 110000003C 000161", "8[12]"},
    {"MQTT-3.1.4-1", NAME5 "02 0000 03 210000 000161", "8[12]"}, /* rm=0 */
    {"MQTT-3.1.4-1", NAME5 "02 0000 05 2700000000 000161", "8[12]"},
    {"MQTT-3.1.4-1", NAME5 "02 0000 02 1702 000161", "8[12]"}, /* rpi=2 */
    {"MQTT-3.1.4-1", NAME5 "02 0000 02 1902 000161", "8[12]"}, /* rri=2 */
    /* Authentication Data alone; a length beyond the packet */
    {"MQTT-3.1.4-1", NAME5 "02 0000 04 16000141 000161", "8[12]"},
    {"MQTT-3.1.4-1", NAME5 "02 0000 7F 000161", "8[12]"},
    {"MQTT-3.1.2-1", "00064D5149736470 05 02 0000 00 000161", "8[14]"},
    {"MQTT-3.1.2-1", "00044D515458 05 02 0000 00 000161", "8[14]"},
    {"MQTT-3.1.2-1", "00046D717474 05 02 0000 00 000161", "8[14]"},
    {"MQTT-3.1.2-2", "00044D515454 00 02 0000 00 000161", "84"},
    {"MQTT-3.1.2-2", "00044D515454 06 02 0000 00 000161", "84"},
    {"MQTT-3.1.2-2", "00044D515454 FF 02 0000 00 000161", "84"},
};

/* Each is refused with Session Present 0, and nothing else is done for it:
 * [MQTT-3.2.2-6], [MQTT-3.2.2-7], [MQTT-3.14.0-1]. */
static void test_mqtt_3_1_4_1_mqtt_3_1_2_1_mqtt_3_1_2_2_mqtt_3_1_2_3_refused(
    void **state)
{
    struct bench *t = (struct bench *)*state;
    bench_cut(bench_meet(t, "c0 id=a x=300"));
    for (size_t i = 0; i < COUNT(refusals); i++) {
        struct bench_link *l = bench_link_open(t);
        bench_frame(l, 0x10, refusals[i].hex);
        int named = strcmp(refusals[i].statement, "MQTT-3.1.2-1") != 0;
        if (named || bench_waiting(l) > 0)
            bench_end(l, "connack %s sp=0*", refusals[i].code);
        bench_end(l, "");
    }
}

static void test_mqtt_2_1_3_1_connect_flag_bits(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_link_open(t);
    bench_frame(l, 0x11, NAME5 "02 0000 00 000161");
    end_after(l, "connack 81 sp=0*");
}

/* 3.1.2.1: an older client gets the refusal of its own version. */
static void test_refusal_of_older_versions(void **state)
{
    static const char *const hex[] = {
        "00044D515454 04 02 003C 0003616263",
        "00064D5149736470 03 02 003C 0003616263",
    };
    static const uint8_t refusal[] = {0x20, 0x02, 0x00, 0x01};
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < COUNT(hex); i++) {
        struct bench_link *l = bench_link_open(t);
        l->raw = 1;
        bench_frame(l, 0x10, hex[i]);
        assert_int_equal(l->in.n, 4);
        assert_memory_equal(l->in.p, refusal, 4);
        assert_int_equal(l->ended, 1);
    }
}

static void test_mqtt_3_1_0_1_first_packet(void **state)
{
    static const char *const first[] = {
        "pingreq",           "publish t =x",        "publish q1 #1 t =x",
        "subscribe #1 t",    "unsubscribe #1 t",    "puback #1",
        "pubrec #1",         "pubrel #1",           "pubcomp #1",
        "disconnect 00",     "auth 18 am=x",
    };
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "#");
    for (size_t i = 0; i < COUNT(first); i++) {
        struct bench_link *l = bench_link_open(t);
        bench_say(l, "%s", first[i]);
        bench_end(l, "");
    }
    struct bench_link *l = bench_link_open(t);
    bench_feed(l, "474554202F20485454502F312E310D0A");
    bench_end(l, "");
    bench_silent(w);
}

/* 4.3 of the standard leaves the time to the server. */
static void test_no_connect_in_time(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *mute = bench_link_open(t);
    struct bench_link *slow = bench_link_open(t);
    bench_feed(slow, "10 0E 0004");
    bench_advance(t, 9900);
    bench_silent(mute);
    bench_silent(slow);
    bench_advance(t, 200);
    bench_end(mute, "");
    bench_end(slow, "");
}

static void test_mqtt_3_1_4_5_mqtt_3_2_2_9_connack_says(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_join(t, "c1 id=a");
    const char *text = l->heard[0]->text;
    assert_non_null(strstr(text, " rm=20"));
    assert_non_null(strstr(text, " mps=200000"));
    assert_non_null(strstr(text, " tam=8"));
    /* [MQTT-3.2.2-9]: no Maximum QoS when all are served; the others are
     * left out or 1; [MQTT-3.1.2-28]: nothing was asked for. */
    static const char *const absent[] = {" mq=",    " ra=0",  " wsa=0",
                                         " sia=0",  " ssa=0", " ska=",
                                         " aci=",   " am=",   " ad=",
                                         " sr=",    " ri="};
    for (size_t i = 0; i < COUNT(absent); i++)
        assert_null(strstr(text, absent[i]));
}

static void test_mqtt_3_1_2_28_response_information(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_join(t, "c1 id=a rri=0");
    assert_null(strstr(l->heard[0]->text, " ri="));
    bench_join(t, "c1 id=b rri=1");
}

static void test_mqtt_3_1_3_5_client_identifiers(void **state)
{
    static const char *const ids[] = {
        "a", "0123456789ABCDEFGHIJKL", "MNOPQRSTUVWXYZabcdefghi",
        "jklmnopqrstuvwxyz", "z9", "%C3%A9%EF%BB%BF"};
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < COUNT(ids); i++) {
        struct bench_link *l = bench_join(t, "c1 id=%s", ids[i]);
        assert_null(strstr(l->heard[0]->text, " aci="));
    }
    /* [MQTT-3.1.3-8] leaves a very long one to the server. */
    char longest[1001];
    memset(longest, 'i', 1000);
    longest[1000] = '\0';
    struct bench_link *l = bench_link_open(t);
    bench_say(l, "connect c1 id=%s", longest);
    bench_hear(l, "connack [08][05] sp=0*");
}

/* The Assigned Client Identifier of a CONNACK. */
static void assigned_copy(const struct bench_link *l, char out[64])
{
    const char *at = strstr(l->heard[0]->text, " aci=");
    assert_non_null(at);
    assert_int_equal(sscanf(at, " aci=%63s", out), 1);
}

static void test_mqtt_3_1_3_6_mqtt_3_1_3_7_mqtt_3_2_2_16_assigned(void **state)
{
    struct bench *t = (struct bench *)*state;
    char ids[12][64];
    for (size_t i = 0; i < COUNT(ids); i++) {
        if (i == 6)
            bench_restart(t, 1000); /* unique beyond the process */
        struct bench_link *l = bench_join(t, "c%d x=600", (int)(i % 2));
        assert_memory_equal(l->heard[0]->text, "connack 00 sp=0", 15);
        assigned_copy(l, ids[i]);
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(ids[i], ids[k]);
        bench_cut(l);
    }
    for (size_t i = 0; i < COUNT(ids); i++) {
        struct bench_link *l = bench_join(t, "c0 x=600 id=%s", ids[i]);
        assert_null(strstr(l->heard[0]->text, " aci="));
        bench_hear(l, "connack 00 sp=1*");
    }
}

static void test_mqtt_3_1_0_2_mqtt_3_2_0_2_second_connect(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/t");
    struct bench_link *l = bench_meet(t, "c1 id=a will w/t =gone");
    bench_say(l, "connect c1 id=a");
    bench_end(l, "disconnect 82 rs=*MQTT-3.1.0-2*");
    bench_hear(w, "publish q0 w/t =gone");
}

/* [MQTT-3.1.4-6]: nothing after a CONNECT that is refused is looked at. */
static void test_mqtt_3_1_4_6_nothing_after_refusal(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "#");
    struct bench_link *l = bench_link_open(t);
    t->held = 1;
    bench_say(l, "connect c1 id=a am=none");
    bench_say(l, "subscribe #1 t");
    bench_say(l, "publish q1 #2 t =x");
    bench_turn(t);
    bench_end(l, "connack 8[7c] sp=0*");
    bench_silent(w);
}

static void test_mqtt_3_2_0_1_connack_first(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_link_open(t);
    t->held = 1;
    bench_say(l, "connect c0 id=a");
    bench_say(l, "subscribe #1 t,q1");
    bench_say(l, "publish q1 #9 t =x");
    bench_say(l, "pingreq");
    bench_turn(t);
    bench_hear(l, "connack 00 sp=0*");
    bench_hear(l, "suback #1 01");
    int seen[16] = {0};
    while (bench_waiting(l) > 0)
        seen[bench_next(l)->type]++;
    assert_int_equal(seen[MQTT_PUBACK], 1);
    assert_int_equal(seen[MQTT_PUBLISH], 1);
    assert_int_equal(seen[MQTT_PINGRESP], 1);
    bench_cut(l);
    l = bench_join(t, "c0 id=a"); /* a full queue comes after it, too */
    bench_hear(l, "connack 00 sp=1*");
    bench_hear(l, "publish q1 dup #* t =x");
}

/* The same bytes one at a time or all at once: the same answers. */
static void test_mqtt_4_2_0_1_cut_anywhere(void **state)
{
    struct bench *t = (struct bench *)*state;
    uint8_t bytes[2048];
    size_t n = 0;
    n += bench_encode(bytes + n, sizeof bytes - n, "connect c1 id=a tam=4");
    n += bench_encode(bytes + n, sizeof bytes - n, "subscribe #1 t,q2 u,q1");
    n += bench_encode(bytes + n, sizeof bytes - n,
                      "publish q1 #2 u =*700 up=a:b mei=60");
    n += bench_encode(bytes + n, sizeof bytes - n, "pingreq");
    n += bench_encode(bytes + n, sizeof bytes - n, "unsubscribe #3 t u v");
    n += bench_encode(bytes + n, sizeof bytes - n, "disconnect 00");
    for (int way = 0; way < 2; way++) {
        struct bench_link *l = bench_link_open(t);
        l->ref.alias_max = 4;
        for (size_t i = 0; way == 1 && i < n; i++)
            bench_send(l, bytes + i, 1);
        if (way == 0)
            bench_send(l, bytes, n);
        bench_hear(l, "connack 00 sp=0*");
        int seen[16] = {0};
        while (bench_waiting(l) > 0)
            seen[bench_next(l)->type]++;
        assert_int_equal(seen[MQTT_SUBACK], 1);
        assert_int_equal(seen[MQTT_PUBACK], 1);
        assert_int_equal(seen[MQTT_PINGRESP], 1);
        assert_int_equal(seen[MQTT_UNSUBACK], 1);
        assert_true(seen[MQTT_PUBLISH] <= 1);
        bench_end(l, "");
    }
}

/* All fields at once, each read from its place. */
static void test_mqtt_3_1_3_1_order_of_fields(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/t,q2");
    struct bench_link *l = bench_meet(
        t, "c1 id=one ka=60 x=0 user=u pass=p%%00q will q1 w/t =gone mei=60 "
           "ct=text rt=r cd=%%00%%FF pfi=1 up=a:1 up=b:2 up=a:3");
    bench_cut(l);
    bench_hear(w, "publish q1 #* w/t =gone pfi=1 mei=60 ct=text rt=r "
                  "cd=%%00%%FF up=a:1 up=b:2 up=a:3");
    l = bench_meet(t, "c1 id=two pass=alone"); /* 3.1.2.9: legal in 5.0 */
    bench_silent(l);
}

/* ==== 2. sessions =========================================================
 */

struct life {
    const char *words;   /* of the first CONNECT */
    const char *granted; /* must stand in CONNACK; "" = need not */
    uint64_t after;      /* s until it comes back with Clean Start 0 */
    int kept;            /* 1 = the session is still there then */
};

static const struct life lives[] = {
    {"c0", " x=604800", 604790, 1},
    {"c0", " x=604800", 604810, 0},
    {"c0 x=0", "", 0, 0},
    {"c1", "", 0, 0},
    {"c1 x=0", "", 0, 0},
    {"c0 x=300", "", 290, 1},
    {"c0 x=300", "", 310, 0},
    {"c1 x=300", "", 290, 1},
    {"c1 x=300", "", 310, 0},
    {"c0 x=4294967295", "", 400000000, 1},
    {"c1 x=4294967295", "", 400000000, 1},
};

/* How the first connection ends, and what the broker does meanwhile. */
enum way { CUT, CUT_THEN_KILL, KILLED_ONLINE, EXPIRED_THEN_KILL, WAYS };

/* One life, watched by what the session's subscription still delivers. */
static void life_check(struct bench *t, const struct life *life, int number,
                       enum way way)
{
    char id[32];
    snprintf(id, sizeof id, "c%d-%d", number, (int)way);
    struct bench_link *l = bench_meet(t, "%s id=%s", life->words, id);
    bench_say(l, "subscribe #1 t/%s,q1", id);
    bench_hear(l, "suback #1 01");
    if (way != KILLED_ONLINE)
        bench_cut(l);
    struct bench_link *p = bench_meet(t, "c1 id=pub");
    bench_say(p, "publish q1 #1 t/%s =first", id);
    bench_hear(p, "puback #1 *");
    if (way == CUT || way == EXPIRED_THEN_KILL)
        bench_advance(t, life->after * 1000);
    if (way == EXPIRED_THEN_KILL)
        bench_restart(t, 0);
    else if (way != CUT)
        bench_restart(t, life->after * 1000);
    l = bench_meet(t, "c0 x=1 id=%s", id);
    p = bench_meet(t, "c1 id=pub");
    bench_say(p, "publish q1 #2 t/%s =second", id);
    bench_hear(p, life->kept ? "puback #2 00" : "puback #2 10");
    if (life->kept) {
        bench_hear(l, "publish q1 *#* t/%s =first", id);
        bench_hear(l, "publish q1 #* t/%s =second", id);
    }
    bench_silent(l);
    bench_cut(l);
}

static void
test_mqtt_3_1_2_5_mqtt_3_1_2_6_mqtt_3_1_2_23_mqtt_4_1_0_2_expiry(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int i = 0; i < (int)COUNT(lives); i++)
        for (int way = CUT; way < WAYS; way++)
            life_check(t, &lives[i], i, (enum way)way);
    bench_advance(t, 3000);
    assert_true(session_figures(t->server)->sessions < 20);
}

/* [MQTT-3.2.2-3]: Session Present, by the same table. */
static void test_mqtt_3_2_2_3_mqtt_3_1_4_4_session_present(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int i = 0; i < (int)COUNT(lives); i++) {
        struct bench_link *l = bench_meet(t, "%s id=a%d", lives[i].words, i);
        bench_cut(l);
        bench_advance(t, lives[i].after * 1000);
        l = bench_join(t, "c0 x=900 id=a%d", i);
        bench_hear(l, "connack 00 sp=%d*", lives[i].kept);
        bench_cut(l);
        l = bench_join(t, "c1 x=900 id=a%d", i); /* [MQTT-3.2.2-2] */
        bench_hear(l, "connack 00 sp=0*");
        bench_cut(l);
    }
}

static void test_mqtt_3_1_2_4_mqtt_3_2_2_2_clean_start(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int kill = 0; kill < 2; kill++) {
        struct bench_link *l = bench_meet(t, "c1 id=a x=300");
        bench_say(l, "subscribe #1 t,q1");
        bench_cut(l);
        struct bench_link *p = bench_meet(t, "c1 id=p");
        bench_say(p, "publish q1 #1 t =old");
        bench_hear(p, "puback #1 00");
        if (kill)
            bench_restart(t, 1000);
        l = bench_join(t, "c1 id=a x=300");
        bench_hear(l, "connack 00 sp=0*");
        p = bench_meet(t, "c1 id=p");
        bench_say(p, "publish q1 #2 t =new");
        bench_hear(p, "puback #2 10");
        bench_silent(l);
        bench_cut(l);
        if (kill)
            bench_restart(t, 1000);
        l = bench_join(t, "c0 id=a x=300"); /* the clean session is kept */
        bench_hear(l, "connack 00 sp=1*");
        bench_silent(l);
        bench_leave(l);
    }
}

static void test_mqtt_3_1_3_2_one_session_per_identifier(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *a = bench_meet(t, "c0 id=client1");
    struct bench_link *b = bench_meet(t, "c0 id=client2");
    bench_say(a, "subscribe #1 t1,q1");
    bench_say(b, "subscribe #1 t2,q1");
    bench_cut(a);
    bench_cut(b);
    struct bench_link *p = bench_meet(t, "c1 id=p");
    bench_say(p, "publish q1 #1 t1 =one");
    bench_say(p, "publish q1 #2 t2 =two");
    b = bench_join(t, "c0 id=client2");
    bench_hear(b, "connack 00 sp=1*");
    bench_hear(b, "publish q1 #* t2 =two");
    bench_silent(b);
    a = bench_join(t, "c0 id=client1");
    bench_hear(a, "connack 00 sp=1*");
    bench_hear(a, "publish q1 #* t1 =one");
    bench_silent(a);
}

/* While connected the session stays, however short its interval. */
static void test_mqtt_4_1_0_1_kept_while_connected(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int x = 0; x < 2; x++) {
        struct bench_link *l = bench_meet(t, "c1 id=a x=%d", x);
        bench_say(l, "subscribe #1 t,q1");
        bench_hear(l, "suback #1 01");
        bench_say(l, "publish q2 #5 u =x");
        bench_hear(l, "pubrec #5 10");
        bench_advance(t, 5000);
        bench_say(l, "pubrel #5");
        bench_hear(l, "pubcomp #5 00");
        bench_say(l, "publish q1 #6 t =x");
        bench_hear(l, "pub*");
        bench_hear(l, "pub*");
        bench_leave(l);
    }
}

/* 3.2.2.3.2: the server may grant less, and says so. */
static void test_expiry_maximum_and_bare_default(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.expiry_max = 100;
    t->options.expiry_default = 0;
    bench_restart(t, 0);
    static const char *const words[] = {"x=300", "x=4294967295"};
    for (size_t i = 0; i < COUNT(words); i++) {
        struct bench_link *l = bench_join(t, "c0 id=a%zu %s", i, words[i]);
        bench_hear(l, "connack 00 sp=0 x=100 *");
        bench_cut(l);
        bench_advance(t, 95000);
        l = bench_join(t, "c0 id=a%zu %s", i, words[i]);
        bench_hear(l, "connack 00 sp=1 x=100 *");
        bench_cut(l);
        bench_advance(t, 105000);
        l = bench_join(t, "c0 id=a%zu %s", i, words[i]);
        bench_hear(l, "connack 00 sp=0 x=100 *");
    }
    struct bench_link *l = bench_join(t, "c0 id=bare");
    assert_null(strstr(l->heard[0]->text, " x="));
    bench_cut(l);
    l = bench_join(t, "c0 id=bare");
    bench_hear(l, "connack 00 sp=0*");
}

struct farewell {
    const char *connect;    /* words */
    const char *disconnect; /* words */
    uint64_t after;         /* s */
    int kept;               /* is the session there then? */
};

/* 3.14.2.2.2: DISCONNECT may change the Session Expiry Interval. */
static void test_expiry_changed_in_disconnect(void **state)
{
    static const struct farewell table[] = {
        {"x=300", "", 290, 1},        {"x=300", "", 310, 0},
        {"x=300", "x=600", 590, 1},   {"x=300", "x=600", 610, 0},
        {"x=300", "x=0", 0, 0},       {"x=300", "x=10", 5, 1},
        {"x=300", "x=10", 15, 0},     {"x=300", "x=4294967295", 99999999, 1},
        {"x=0", "x=0", 0, 0},         {"x=4294967295", "x=10", 15, 0},
    };
    struct bench *t = (struct bench *)*state;
    for (int kill = 0; kill < 2; kill++)
        for (size_t i = 0; i < COUNT(table); i++) {
            struct bench_link *l =
                bench_meet(t, "c1 id=a%zu %s", i, table[i].connect);
            bench_say(l, "disconnect 00 %s", table[i].disconnect);
            bench_end(l, "");
            if (kill)
                bench_restart(t, table[i].after * 1000);
            else
                bench_advance(t, table[i].after * 1000);
            l = bench_join(t, "c0 id=a%zu x=0", i);
            bench_hear(l, "connack 00 sp=%d*", table[i].kept);
            bench_cut(l);
        }
}

static void test_expiry_raised_from_zero_in_disconnect(void **state)
{
    static const char *const words[] = {"c1", "c1 x=0", "c0 x=0"};
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/t");
    for (size_t i = 0; i < COUNT(words); i++) {
        struct bench_link *l =
            bench_meet(t, "%s id=a will w/t =gone", words[i]);
        bench_say(l, "disconnect 00 x=5");
        bench_end(l, "disconnect 82 rs=*");
        /* 3.1.2.5: the server closed it for a protocol error */
        bench_hear(w, "publish q0 w/t =gone");
        l = bench_join(t, "c0 id=a x=0");
        bench_hear(l, "connack 00 sp=0*");
        bench_leave(l);
    }
}

static void test_mqtt_3_1_4_3_takeover(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/t");
    struct bench_link *p = bench_meet(t, "c1 id=p");
    struct bench_link *a = bench_meet(t, "c0 id=a x=300 will w/t =gone");
    bench_say(a, "subscribe #1 t,q1");
    bench_hear(a, "suback #1 01");
    bench_say(p, "publish q1 #1 t =one");
    bench_hear(a, "publish q1 #* t =one");
    struct bench_link *b = bench_join(t, "c0 id=a x=300");
    bench_end(a, "disconnect 8e*");
    bench_hear(w, "publish q0 w/t =gone");
    bench_hear(b, "connack 00 sp=1*");
    uint16_t id = bench_hear(b, "publish q1 dup #* t =one");
    bench_say(b, "puback #%u", id);
    bench_say(p, "publish q1 #2 t =two");
    bench_hear(b, "publish q1 #* t =two");
    struct bench_link *c = bench_join(t, "c1 id=a x=300");
    bench_end(b, "disconnect 8e*");
    bench_hear(c, "connack 00 sp=0*");
    bench_silent(c);
}

/* A session without expiry ends with its connection, so also here. */
static void test_takeover_of_session_that_ends(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *a = bench_meet(t, "c1 id=a");
    bench_say(a, "subscribe #1 t,q1");
    struct bench_link *b = bench_join(t, "c0 id=a x=300");
    bench_hear(a, "suback #1 01");
    bench_end(a, "disconnect 8e*");
    bench_hear(b, "connack 00 sp=0*");
    bench_say(b, "publish q1 #1 t =x");
    bench_hear(b, "puback #1 10");
    bench_silent(b);
}

/* A refused CONNECT leaves the session and its connection alone. */
static void test_mqtt_3_2_2_6_refused_takeover(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *a = bench_meet(t, "c0 id=a");
    struct bench_link *b = bench_link_open(t);
    bench_say(b, "connect c0 id=a am=none");
    bench_end(b, "connack 8c sp=0*");
    bench_say(a, "pingreq");
    bench_hear(a, "pingresp");
    bench_silent(a);
}

/* Ten sessions, half of them offline, half of these across a kill. */
static void test_mqtt_4_5_0_1_every_session(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l[10];
    for (int i = 0; i < 10; i++) {
        l[i] = bench_meet(t, "c0 id=s%d", i);
        bench_say(l[i], "subscribe #1 %s,q1", i % 3 ? "a/+" : "a/b");
        bench_hear(l[i], "suback #1 01");
        if (i % 2)
            bench_cut(l[i]);
    }
    struct bench_link *p = bench_meet(t, "c1 id=p");
    bench_say(p, "publish q1 #1 a/b =all");
    bench_hear(p, "puback #1 00");
    for (int i = 0; i < 10; i += 2)
        bench_hear(l[i], "publish q1 #* a/b =all");
    for (int i = 1; i < 10; i += 2) {
        if (i == 5)
            bench_restart(t, 1000);
        l[i] = bench_join(t, "c0 id=s%d", i);
        bench_hear(l[i], "connack 00 sp=1*");
        bench_hear(l[i], "publish q1 #* a/b =all");
        bench_silent(l[i]);
    }
}

/* The walkthrough: an offline session at QoS 0 outlives the broker. */
static void test_walkthrough_at_each_qos(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int q = 0; q < 3; q++) {
        struct bench_link *l = bench_meet(t, "c0 id=robustmq_client");
        bench_say(l, "subscribe #1 sensor/temperature,q%d", q);
        bench_hear(l, "suback #1 0%d", q);
        bench_leave(l);
        struct bench_link *p = bench_meet(t, "c1 id=p");
        bench_say(p, "publish q%d #%d sensor/temperature "
                     "={%%22t%%22:%%2025.5} up=k:v",
                  q, q ? 1 : 0);
        if (q == 2)
            bench_say(p, "pubrel #1");
        bench_restart(t, 60000);
        l = bench_join(t, "c0 id=robustmq_client");
        bench_hear(l, "connack 00 sp=1*");
        uint16_t sent = bench_hear(l, "publish q%d*sensor/temperature "
                                      "={\"t\":%%2025.5} up=k:v",
                                   q);
        if (q > 0)
            bench_say(l, q == 1 ? "puback #%u" : "pubrec #%u", sent);
        bench_serve(l, NULL);
        bench_silent(l);
        bench_leave(l);
    }
}

/* Many restarts in a row change nothing. */
static void test_subscriptions_outlive_restarts(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c0 id=a");
    bench_say(l, "subscribe #1 a/+,q1,rap sid=7");
    bench_say(l, "subscribe #2 b,q2,nl");
    bench_say(l, "subscribe #3 gone,q1");
    bench_say(l, "unsubscribe #4 gone");
    bench_cut(l);
    for (int i = 0; i < 5; i++)
        bench_restart(t, 1000);
    l = bench_join(t, "c0 id=a");
    bench_hear(l, "connack 00 sp=1*");
    bench_say(l, "publish q1 #1 b =own");
    bench_hear(l, "puback #1 *");
    struct bench_link *p = bench_meet(t, "c1 id=p");
    bench_say(p, "publish q1 #1 gone =no");
    bench_hear(p, "puback #1 10");
    bench_say(p, "publish q1 retain #2 a/x =kept");
    bench_hear(l, "publish q1 retain #* a/x =kept sid=7");
    bench_say(p, "publish q2 #3 b =two");
    bench_say(p, "pubrel #3");
    bench_hear(l, "publish q2 #* b =two");
    bench_silent(l);
}

/* The broker's maximum made 0 of the interval: that the client asked for more
 * than 0 still counts, so DISCONNECT may name one (3.14.2.2.2). */
static void test_expiry_maximum_of_zero(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.expiry_max = 0;
    bench_restart(t, 0);
    for (int i = 0; i < 2; i++) {
        struct bench_link *l = bench_join(t, "c0 id=a x=600");
        bench_hear(l, "connack 00 sp=0 x=0 *");
        bench_say(l, "disconnect 00 x=600");
        bench_end(l, "");
    }
    struct bench_link *l = bench_meet(t, "c0 id=a x=0");
    bench_say(l, "disconnect 00 x=600");
    bench_end(l, "disconnect 82*");
}

#define MANY 20000

/* One client comes, says something and is lost, at no great expense. */
static void visit(struct bench *t, const char *more, int number)
{
    uint8_t bytes[128];
    struct session_link *link =
        session_link_open(t->server, "127.0.0.1:1", t->now);
    size_t n =
        bench_encode(bytes, sizeof bytes, "connect c0 id=s%d x=600", number);
    if (more != NULL)
        n += bench_encode(bytes + n, sizeof bytes - n, more, number);
    session_link_input(link, bytes, n, t->now);
    session_link_lost(link, t->now);
    if (number % 100 == 99)
        bench_turn(t);
}

/* Their records are written anew, again and again, so that those of their
 * subscriptions come to stand before them in the ledger. */
static void test_mqtt_4_1_0_1_many_sessions_over_a_restart(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.trace = 0;
    bench_restart(t, 0);
    for (int i = 0; i < MANY; i++)
        visit(t, "subscribe #1 x/%d,q1", i);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < MANY; i++)
            visit(t, NULL, i);
    for (int kill = 0; kill < 2; kill++) {
        bench_restart(t, 1000);
        struct session_figures f = *session_figures(t->server);
        assert_int_equal(f.sessions, MANY);
        assert_int_equal(f.subscriptions, MANY);
        struct bench_link *p = bench_meet(t, "c1 id=p");
        for (int i = kill; i < MANY; i += 1999) {
            bench_say(p, "publish q1 #1 x/%d =%d", i, i);
            bench_hear(p, "puback #1 00");
            struct bench_link *l = bench_join(t, "c0 id=s%d x=600", i);
            bench_hear(l, "connack 00 sp=1*");
            bench_hear(l, "publish q1 #* x/%d =%d", i, i);
            bench_cut(l);
        }
        bench_leave(p);
    }
}

/* ==== 3. keep alive ======================================================
 */

static void test_mqtt_3_1_2_22_mqtt_3_2_2_22_keep_alive(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/t");
    struct bench_link *never = bench_meet(t, "c1 id=n ka=0");
    struct bench_link *l = bench_meet(t, "c1 id=a ka=2 will w/t =gone");
    for (int i = 0; i < 3; i++) { /* any packet restarts the clock */
        bench_advance(t, 2900);
        bench_say(l, i == 1 ? "publish t =x" : "pingreq");
        if (i != 1)
            bench_hear(l, "pingresp");
    }
    bench_advance(t, 2950);
    bench_silent(l);
    bench_silent(w);
    bench_advance(t, 150);
    end_after(l, "disconnect 8d*");
    bench_hear(w, "publish q0 w/t =gone");
    bench_advance(t, 86400000);
    bench_silent(never);
}

static void test_mqtt_3_1_2_20_mqtt_3_12_4_1_ping(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a ka=2");
    for (int i = 0; i < 10; i++) {
        bench_advance(t, 2000);
        bench_say(l, "pingreq");
        bench_hear(l, "pingresp");
    }
    bench_feed(l, "C000 C000 C000");
    for (int i = 0; i < 3; i++)
        bench_hear(l, "pingresp");
    bench_silent(l);
}

static void test_mqtt_3_1_2_21_mqtt_3_2_2_21_server_keep_alive(void **state)
{
    static const struct {
        int asked, told;
    } table[] = {{0, 10}, {600, 10}, {11, 10}, {5, 0}, {10, 0}};
    struct bench *t = (struct bench *)*state;
    t->options.keep_alive_max = 10;
    bench_restart(t, 0);
    for (size_t i = 0; i < COUNT(table); i++) {
        struct bench_link *l = bench_join(t, "c1 id=a ka=%d", table[i].asked);
        const char *told = strstr(l->heard[0]->text, " ska=10");
        assert_int_equal(told != NULL, table[i].told != 0);
        bench_hear(l, "connack*");
        uint64_t used = (uint64_t)(table[i].asked == 5 ? 5 : 10);
        bench_advance(t, used * 1500 - 100);
        bench_silent(l);
        bench_advance(t, 200);
        end_after(l, "disconnect 8d*");
    }
}

/* What came while the broker was busy, or the machine asleep, came in time:
 * only silence cuts a client off. */
static void test_mqtt_3_1_2_22_read_late(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/#");
    struct bench_link *l = bench_meet(t, "c1 id=a ka=2 will w/a =gone");
    struct bench_link *mute = bench_meet(t, "c1 id=b ka=2 will w/b =gone");
    struct bench_link *last = bench_meet(t, "c1 id=c ka=2 will w/c =gone");
    struct bench_link *slow = bench_link_open(t);
    t->held = 1;
    t->now += 11000;
    bench_say(w, "pingreq");
    bench_say(l, "pingreq");
    bench_say(last, "publish t =x");
    bench_say(slow, "connect c1 id=d");
    bench_turn(t);
    bench_hear(slow, "connack 00*");
    bench_hear(l, "pingresp");
    bench_silent(l);
    bench_silent(last);
    bench_end(mute, "disconnect 8d*");
    bench_find(w, "publish q0 w/b =gone");
    bench_hear(w, "pingresp");
    bench_silent(w);
    bench_advance(t, 2900); /* and its time begins anew */
    bench_silent(l);
    bench_advance(t, 200);
    bench_end(l, "disconnect 8d*");
    bench_end(last, "disconnect 8d*");
}

/* ==== 4. DISCONNECT and AUTH ===============================================
 */

static void test_mqtt_3_14_4_1_mqtt_3_14_4_2_after_disconnect(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "#");
    struct bench_link *l = bench_meet(t, "c1 id=a");
    t->held = 1;
    bench_say(l, "disconnect 00");
    bench_say(l, "publish t =late");
    bench_say(l, "pingreq");
    bench_turn(t);
    bench_end(l, "");
    bench_silent(w);
}

static void test_mqtt_4_13_2_1_mqtt_3_14_2_1_disconnect_codes(void **state)
{
    static const struct {
        const char *hex;   /* the client's DISCONNECT */
        int legal;         /* 0 = a code that is not listed for clients */
    } table[] = {
        {"E000", 1},     {"E00100", 1},   {"E00104", 1},   {"E00180", 1},
        {"E00182", 1},   {"E0020000", 1}, {"E00101", 0},   {"E0018E", 0},
        {"E00105", 0},   {"E001FF", 0},   {"E00194", 1}, /* MQTT-3.3.2-10 */
    };
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "w/t");
    for (size_t i = 0; i < COUNT(table); i++) {
        struct bench_link *l = bench_meet(t, "c1 id=a will w/t =gone");
        bench_feed(l, table[i].hex);
        if (table[i].legal)
            bench_end(l, "");
        else
            end_after(l, "disconnect 8[12]*");
        if (i == 0 || i == 1 || i == 5) /* [MQTT-3.14.4-3] */
            bench_silent(w);
        else
            bench_hear(w, "publish q0 w/t =gone");
    }
}

static void test_mqtt_3_14_2_2_server_stops(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *a = bench_meet(t, "c1 id=a");
    struct bench_link *b = bench_meet(t, "c0 id=b");
    struct bench_link *mute = bench_link_open(t);
    bench_stop(t);
    bench_end(a, "disconnect 8b*");
    bench_end(b, "disconnect 8b*");
    bench_end(mute, "");
    bench_restart(t, 1000);
    b = bench_join(t, "c0 id=b");
    bench_hear(b, "connack 00 sp=1*");
}

static void test_mqtt_4_12_0_1_unknown_method(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_link_open(t);
    bench_say(l, "connect c1 id=a am=no-such-method ad=x");
    bench_end(l, "connack 8c sp=0*");
}

static void test_mqtt_4_12_0_7_mqtt_4_12_0_6_auth_without_method(void **state)
{
    static const char *const hex[] = {
        "F000", "F0021800", "F0021900", "F00A 19 08 15 0005 53 43 52 41 4D"};
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < COUNT(hex); i++) {
        struct bench_link *l = bench_meet(t, "c1 id=a");
        bench_feed(l, hex[i]);
        bench_end(l, "disconnect 82 rs=*");
    }
}

/* ==== 5. faults =============================================================
 */

struct fault {
    const char *statement; /* "" = no numbered one, or several would do */
    unsigned first;        /* the packet's first byte */
    const char *hex;       /* what follows its Remaining Length */
    const char *code;      /* a pattern */
};

static const struct fault faults[] = {
    {"MQTT-2.1.3-1", 0xC1, "", "81"},
    {"", 0xC0, "00", "8[12]"},            /* PINGREQ with a payload */
    {"", 0x00, "", "81"},                 /* 2.1.2: type 0 is forbidden */
    {"MQTT-3.8.1-1", 0x80, "0001 00 000161 00", "81"},
    {"MQTT-3.8.1-1", 0x83, "0001 00 000161 00", "81"},
    {"MQTT-3.10.1-1", 0xA0, "0001 00 000161", "81"},
    {"MQTT-3.10.1-1", 0xA3, "0001 00 000161", "81"},
    {"MQTT-3.6.1-1", 0x60, "0001", "81"},
    {"MQTT-3.6.1-1", 0x63, "0001", "81"},
    {"MQTT-3.15.1-1", 0xF1, "", "81"},
    {"MQTT-3.14.1-1", 0xE1, "", "81"},
    {"MQTT-3.3.1-4", 0x36, "000161 0001 00", "81"},
    {"MQTT-3.3.1-2", 0x38, "000161 00", "8[12]"},
    {"", 0x32, "000161 0000 00", "8[12]"},  /* [MQTT-2.2.1-3] */
    {"", 0x82, "0000 00 000161 00", "8[12]"},
    {"", 0xA2, "0000 00 000161", "8[12]"},
    {"", 0x30, "0002C328 00", "81"},        /* [MQTT-3.3.2-1] */
    {"", 0x30, "000500", "81"},
    {"", 0x30, "0003EDA080 00", "81"},      /* [MQTT-1.5.4-1] */
    {"", 0x30, "0003610062 00", "81"},      /* [MQTT-1.5.4-2] */
    {"", 0x30, "0003612F2B 00", "(90|8[12])"}, /* [MQTT-3.3.2-2] */
    {"", 0x30, "000123 00", "(90|8[12])"},  /* [MQTT-4.7.0-1] */
    {"", 0x30, "0000 00", "82"},            /* [MQTT-4.7.3-1] */
    {"MQTT-3.3.4-6", 0x30, "000161 02 0B01", "82"},
    {"MQTT-3.3.2-8", 0x30, "000161 03 230000", "94"},
    {"", 0x30, "000161 03 230009", "94"},   /* [MQTT-3.2.2-17] */
    {"", 0x30, "000161 03 23FFFF", "94"},   /* [MQTT-3.3.2-9] */
    {"", 0x30, "0000 03 230001", "82"},     /* [MQTT-3.3.2-7] */
    {"", 0x30, "000161 06 230001 230001", "82"},
    {"", 0x30, "000161 02 0102", "8[12]"},  /* Payload Format 2 */
    {"", 0x30, "000161 05 080002C328", "81"}, /* [MQTT-3.3.2-13] */
    {"", 0x30, "000161 04 08000100", "81"},
    {"", 0x30, "000161 06 080003722F23", "(90|8[12])"}, /* 3.3.2-14 */
    {"", 0x30, "000161 05 030002C328", "81"}, /* [MQTT-3.3.2-19] */
    {"", 0x30, "000161 07 260002C328 0000", "81"}, /* [MQTT-1.5.7-1] */
    {"", 0x30, "000161 06 26 000161 000100 00", "8[12]"},
    {"", 0x30, "000161 05 1100000001", "8[12]"}, /* not a PUBLISH's */
    {"MQTT-3.8.3-2", 0x82, "0001 00", "8[12]"},
    {"MQTT-3.8.3-5", 0x82, "0001 00 000161 40", "81"},
    {"MQTT-3.8.3-5", 0x82, "0001 00 000161 80", "81"},
    {"MQTT-3.8.3-5", 0x82, "0001 00 000161 C0", "81"},
    {"", 0x82, "0001 00 000161 03", "8[12]"}, /* 3.8.3.1: QoS 3 */
    {"", 0x82, "0001 00 000161 30", "8[12]"}, /* Retain Handling 3 */
    {"", 0x82, "0001 02 0B00 000161 00", "8[12]"}, /* 3.8.2.1.2 */
    {"", 0x82, "0001 04 0B010B02 000161 00", "82"},
    {"", 0x82, "0001 00 0002C328 00", "8[1f]"}, /* [MQTT-3.8.3-1] */
    {"", 0x82, "0001 00 0003EDA080 00", "8[1f]"},
    {"", 0x82, "0001 00 0003610062 00", "8[1f]"}, /* [MQTT-4.7.3-2] */
    {"", 0x82, "0001 000161 00", "81"},     /* [MQTT-2.2.2-1] */
    {"MQTT-3.8.3-4", 0x82, "0001 00 000A2473686172652F672F74 04", "82"},
    {"MQTT-3.10.3-2", 0xA2, "0001 00", "8[12]"},
    {"", 0xA2, "0001 00 0002C328", "8[1f]"}, /* [MQTT-3.10.3-1] */
    {"", 0xA2, "0001 00 0003EDA080", "8[1f]"},
    {"", 0x20, "000000", "8[12]"},          /* only a server sends these */
    {"", 0x90, "00010000", "8[12]"},
    {"", 0xB0, "00010000", "8[12]"},
    {"", 0xD0, "", "8[12]"},
    {"", 0x40, "000101", "8[12]"},          /* codes not listed: 3.4.2-1 */
    {"", 0x50, "000101", "8[12]"},          /* [MQTT-3.5.2-1] */
    {"", 0x62, "000110", "8[12]"},          /* [MQTT-3.6.2-1] */
    {"", 0x70, "000110", "8[12]"},          /* [MQTT-3.7.2-1] */
    {"", 0xF0, "01", "8[12]"},              /* [MQTT-3.15.2-1] */
    {"", 0xF0, "80", "8[12]"},
    {"", 0x40, "0001 00 01", "81"},         /* cut inside */
};

/* fnmatch() has no alternatives: "(90|8[12])" is two patterns. */
static void fault_expect(struct bench_link *l, const struct fault *f)
{
    const char *text = bench_waiting(l) ? l->heard[l->heard_first]->text : "";
    const char *code = f->code;
    if (code[0] == '(')
        code = strncmp(text, "disconnect 90", 13) == 0 ? "90" : "8[12]";
    if (f->statement[0] != '\0')
        bench_end(l, "disconnect %s rs=*%s*", code, f->statement);
    else
        bench_end(l, "disconnect %s rs=*", code);
}

/* [MQTT-4.13.1-1]: each fault ends its connection, says why, and nobody
 * else notices. */
static void test_mqtt_4_13_1_1_mqtt_3_14_2_1_faults(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "#");
    for (size_t i = 0; i < COUNT(faults); i++) {
        struct bench_link *l = bench_meet(t, "c1 id=a");
        bench_frame(l, faults[i].first, faults[i].hex);
        fault_expect(l, &faults[i]);
    }
    bench_say(w, "pingreq");
    bench_hear(w, "pingresp");
    bench_silent(w);
}

/* The rest of a connection's bytes are not looked at after a fault. */
static void test_mqtt_3_14_4_1_nothing_after_fault(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = bench_watch(t, "#");
    struct bench_link *l = bench_meet(t, "c1 id=a");
    t->held = 1;
    bench_feed(l, "C100");
    bench_say(l, "publish t =x");
    bench_say(l, "pingreq");
    bench_turn(t);
    bench_end(l, "disconnect 81*");
    bench_silent(w);
}

static void test_mqtt_1_5_5_1_length_not_shortest(void **state)
{
    static const char *const hex[] = {"C0 80 00", "C0 FF FF FF FF",
                                      "30 84 00 00016100"};
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < COUNT(hex); i++) {
        struct bench_link *l = bench_meet(t, "c1 id=a");
        bench_feed(l, hex[i]);
        bench_end(l, "disconnect 81 rs=*");
    }
}

static void test_mqtt_3_2_2_15_too_large(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.packet_max = 1000;
    bench_restart(t, 0);
    struct bench_link *w = bench_watch(t, "t");
    struct bench_link *l = bench_join(t, "c1 id=a");
    assert_non_null(strstr(l->heard[0]->text, " mps=1000"));
    bench_hear(l, "connack*");
    bench_say(l, "publish t =*993"); /* 3 + 3 + 1 + 993 = 1000 bytes */
    bench_hear(w, "publish q0 t =\\*993");
    bench_say(l, "publish t =*994");
    bench_end(l, "disconnect 95*");
    bench_silent(w);
    l = bench_meet(t, "c1 id=a"); /* judged by the header alone */
    bench_feed(l, "30 FF FF FF 7F");
    bench_end(l, "disconnect 95*");
}

/* A stranger may not make the broker hold much: a CONNECT has a limit of its
 * own, half a mebibyte, whatever the Maximum Packet Size is. */
static void test_connect_too_large(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.packet_max = 1024 * 1024;
    bench_restart(t, 0);
    static char bytes[60001];
    memset(bytes, 'x', 60000);
    for (int n = 8; n <= 9; n++) { /* 480,000 bytes; 540,000 bytes */
        struct buf words = {NULL, 0, 0, 0};
        buf_text(&words, "connect c1 id=a");
        for (int i = 0; i < n; i++) {
            buf_text(&words, " up=a:");
            buf_text(&words, bytes);
        }
        buf_add(&words, "", 1);
        struct bench_link *l = bench_link_open(t);
        bench_say(l, "%s", (char *)words.p);
        buf_free(&words);
        if (n == 8) {
            bench_hear(l, "connack 00 sp=0 *mps=1048576*");
            bench_say(l, "publish q1 #1 t =*1000000");
            bench_hear(l, "puback #1 10*");
        } else {
            end_after(l, "connack 95*");
        }
    }
    /* [MQTT-3.2.2-15] is told by the length alone, nothing is waited for */
    struct bench_link *l = bench_link_open(t);
    bench_feed(l, "10 81 80 20 0004 4D515454 05");
    end_after(l, "connack 95*");
}

static void test_mqtt_3_1_2_29_no_problem_information(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a rpi=0");
    static const char *const table[][2] = {
        {"publish q1 #1 nobody =x", "puback #1 10"},
        {"publish q1 #2 $SYS/x =x", "puback #2 87"},
        {"publish q2 #3 $SYS/x =x", "pubrec #3 87"},
        {"pubrel #99", "pubcomp #99 92"},
        {"pubrec #98", "pubrel #98 92"},
        {"subscribe #4 a#", "suback #4 8f"},
        {"unsubscribe #5 a", "unsuback #5 11"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        bench_say(l, "%s", table[i][0]);
        bench_hear(l, "%s", table[i][1]);
    }
    bench_feed(l, "C100");
    bench_end(l, "disconnect 81*");
}

/* ==== 6. small packets ====================================================
 */

/* Bytes that a CONNACK needs here: 5 + rm 3 + tam 3 + mps 5, and room for
 * single-byte properties that say what is available.  No Reason String and
 * no User Property may make an answer longer than that: [MQTT-3.4.2-2],
 * [MQTT-3.4.2-3], [MQTT-3.5.2-2], [MQTT-3.5.2-3], [MQTT-3.6.2-2],
 * [MQTT-3.6.2-3], [MQTT-3.7.2-2], [MQTT-3.7.2-3], [MQTT-3.9.2-1],
 * [MQTT-3.9.2-2], [MQTT-3.11.2-1], [MQTT-3.11.2-2]; at the end
 * [MQTT-3.14.2-3], [MQTT-3.14.2-4]. */
static void test_mqtt_3_4_2_2_mqtt_3_5_2_2_mqtt_3_9_2_1_small(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a mps=30");
    static const char *const table[][2] = {
        {"publish q1 #1 nobody =x", "puback #1 10*"},
        {"publish q1 #2 $SYS/x =x", "puback #2 87*"},
        {"publish q2 #3 $SYS/x =x", "pubrec #3 87*"},
        {"pubrel #99", "pubcomp #99 92*"},
        {"pubrec #98", "pubrel #98 92*"},
        {"subscribe #4 a#", "suback #4 8f*"},
        {"unsubscribe #5 a b c", "unsuback #5 11 11 11*"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        bench_say(l, "%s", table[i][0]);
        bench_hear(l, "%s", table[i][1]);
    }
    bench_feed(l, "C100");
    end_after(l, "disconnect 81*");
}

static void test_mqtt_3_2_2_19_mqtt_3_2_2_20_small_connack(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int mps = 5; mps < 30; mps += 3) {
        struct bench_link *l = bench_link_open(t);
        bench_say(l, "connect c1 id=a am=none mps=%d", mps);
        end_after(l, "connack 8c sp=0*");
    }
    struct bench_link *l = bench_link_open(t);
    bench_say(l, "connect c1 id=a am=none mps=5");
    bench_end(l, "connack 8c sp=0");
}

/* SUBACK and UNSUBACK have a code for each filter and cannot be made shorter:
 * [MQTT-3.1.2-24] forbids to send, the others forbid to be silent. */
static void test_mqtt_3_8_4_1_mqtt_3_10_4_4_answer_too_large(void **state)
{
    static const char *const types[] = {"subscribe", "unsubscribe"};
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < COUNT(types); i++)
        for (int filters = 25; filters <= 26; filters++) {
            struct buf words = {NULL, 0, 0, 0};
            buf_text(&words, types[i]);
            buf_text(&words, " #1");
            for (int k = 0; k < filters; k++)
                buf_text(&words, " f");
            buf_add(&words, "", 1);
            struct bench_link *w = bench_watch(t, "w/t");
            struct bench_link *l =
                bench_meet(t, "c1 id=a mps=30 will w/t =gone");
            bench_say(l, "%s", (char *)words.p);
            buf_free(&words);
            if (filters == 25) { /* 30 bytes */
                bench_find(l, i == 0 ? "suback #1 00*" : "unsuback #1 11*");
                bench_silent(l);
                bench_leave(l);
            } else {
                bench_end(l, "disconnect 95*");
                bench_hear(w, "publish q0 w/t =gone");
            }
        }
}

/* A client of very small packets is served in small packets or not at all. */
static void test_mqtt_3_1_2_24_very_small(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int mps = 1; mps < 40; mps++) {
        struct bench_link *l = bench_link_open(t);
        bench_say(l, "connect c1 id=a mps=%d", mps);
        if (l->ended)
            continue;
        bench_hear(l, "connack 00*");
        bench_say(l, "pingreq");
        bench_hear(l, "pingresp");
    }
}

/* ==== 7. a full disk ======================================================
 *
 * The store gives its reserve up and takes nothing new in; what deletes and
 * finishes goes on, and all comes back by itself. */

/* Fills the disk, with what a client may still add. */
static void disk_fill(struct bench *t, struct bench_link *p)
{
    t->room = 0;
    bench_say(p, "publish q1 #1 other/t =x");
    bench_hear(p, "puback #1 *");
    assert_true(store_full(t->store));
}

static void refused_when_full(struct bench *t, struct bench_link *p)
{
    bench_say(p, "publish q1 #2 t =no");
    bench_hear(p, "puback #2 97*");
    bench_say(p, "publish q2 #3 t =no");
    bench_hear(p, "pubrec #3 97*");
    bench_say(p, "publish q1 retain #4 kept =no");
    bench_hear(p, "puback #4 97*");
    struct bench_link *l = bench_link_open(t);
    bench_say(l, "connect c0 id=new x=600");
    bench_end(l, "connack 97 sp=0*");
    l = bench_link_open(t);
    bench_say(l, "connect c1 x=600");
    bench_end(l, "connack 97 sp=0*");
    bench_leave(bench_meet(t, "c1 id=passing")); /* which is not stored */
}

static void test_full_disk(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *s = bench_meet(t, "c1 id=s x=600");
    bench_say(s, "subscribe #1 t,q2 other/t,q1");
    bench_hear(s, "suback*");
    bench_cut(s);
    struct bench_link *p = bench_meet(t, "c1 id=p");
    for (int i = 0; i < 4; i++) {
        bench_say(p, "publish q1 #%d t =%d", i + 1, i);
        bench_hear(p, "puback #%d 00", i + 1);
    }
    disk_fill(t, p);
    refused_when_full(t, p);
    s = bench_join(t, "c0 id=s x=600"); /* and takes what is queued */
    bench_hear(s, "connack 00 sp=1*");
    for (int i = 0; i < 4; i++)
        bench_say(s, "puback #%u", bench_hear(s, "publish q1 #* t =%d", i));
    bench_serve(s, NULL);
    bench_cut(s);
    bench_restart(t, 100);
    s = bench_join(t, "c0 id=s x=600");
    bench_hear(s, "connack 00 sp=1*");
    bench_silent(s);
    t->room = -1;
    for (int i = 0; i < 100 && store_full(t->store); i++)
        bench_advance(t, store_due(t->store) - t->now);
    assert_false(store_full(t->store));
    p = bench_meet(t, "c0 id=new x=600");
    bench_say(p, "publish q1 #1 t =yes");
    bench_hear(p, "puback #1 00");
    bench_hear(s, "publish q1 #* t =yes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(
            test_mqtt_3_1_4_1_mqtt_3_1_2_1_mqtt_3_1_2_2_mqtt_3_1_2_3_refused),
        BENCH_TEST(test_mqtt_2_1_3_1_connect_flag_bits),
        BENCH_TEST(test_refusal_of_older_versions),
        BENCH_TEST(test_mqtt_3_1_0_1_first_packet),
        BENCH_TEST(test_no_connect_in_time),
        BENCH_TEST(test_mqtt_3_1_4_5_mqtt_3_2_2_9_connack_says),
        BENCH_TEST(test_mqtt_3_1_2_28_response_information),
        BENCH_TEST(test_mqtt_3_1_3_5_client_identifiers),
        BENCH_TEST(test_mqtt_3_1_3_6_mqtt_3_1_3_7_mqtt_3_2_2_16_assigned),
        BENCH_TEST(test_mqtt_3_1_0_2_mqtt_3_2_0_2_second_connect),
        BENCH_TEST(test_mqtt_3_1_4_6_nothing_after_refusal),
        BENCH_TEST(test_mqtt_3_2_0_1_connack_first),
        BENCH_TEST(test_mqtt_4_2_0_1_cut_anywhere),
        BENCH_TEST(test_mqtt_3_1_3_1_order_of_fields),
        BENCH_TEST(
            test_mqtt_3_1_2_5_mqtt_3_1_2_6_mqtt_3_1_2_23_mqtt_4_1_0_2_expiry),
        BENCH_TEST(test_mqtt_3_2_2_3_mqtt_3_1_4_4_session_present),
        BENCH_TEST(test_mqtt_3_1_2_4_mqtt_3_2_2_2_clean_start),
        BENCH_TEST(test_mqtt_3_1_3_2_one_session_per_identifier),
        BENCH_TEST(test_mqtt_4_1_0_1_kept_while_connected),
        BENCH_TEST(test_expiry_maximum_and_bare_default),
        BENCH_TEST(test_expiry_maximum_of_zero),
        BENCH_TEST(test_expiry_changed_in_disconnect),
        BENCH_TEST(test_expiry_raised_from_zero_in_disconnect),
        BENCH_TEST(test_mqtt_3_1_4_3_takeover),
        BENCH_TEST(test_takeover_of_session_that_ends),
        BENCH_TEST(test_mqtt_3_2_2_6_refused_takeover),
        BENCH_TEST(test_mqtt_4_5_0_1_every_session),
        BENCH_TEST(test_walkthrough_at_each_qos),
        BENCH_TEST(test_subscriptions_outlive_restarts),
        BENCH_TEST(test_mqtt_4_1_0_1_many_sessions_over_a_restart),
        BENCH_TEST(test_mqtt_3_1_2_22_mqtt_3_2_2_22_keep_alive),
        BENCH_TEST(test_mqtt_3_1_2_20_mqtt_3_12_4_1_ping),
        BENCH_TEST(test_mqtt_3_1_2_22_read_late),
        BENCH_TEST(test_mqtt_3_1_2_21_mqtt_3_2_2_21_server_keep_alive),
        BENCH_TEST(test_mqtt_3_14_4_1_mqtt_3_14_4_2_after_disconnect),
        BENCH_TEST(test_mqtt_4_13_2_1_mqtt_3_14_2_1_disconnect_codes),
        BENCH_TEST(test_mqtt_3_14_2_2_server_stops),
        BENCH_TEST(test_mqtt_4_12_0_1_unknown_method),
        BENCH_TEST(test_mqtt_4_12_0_7_mqtt_4_12_0_6_auth_without_method),
        BENCH_TEST(test_mqtt_4_13_1_1_mqtt_3_14_2_1_faults),
        BENCH_TEST(test_mqtt_3_14_4_1_nothing_after_fault),
        BENCH_TEST(test_mqtt_1_5_5_1_length_not_shortest),
        BENCH_TEST(test_mqtt_3_2_2_15_too_large),
        BENCH_TEST(test_connect_too_large),
        BENCH_TEST(test_mqtt_3_1_2_29_no_problem_information),
        BENCH_TEST(test_mqtt_3_4_2_2_mqtt_3_5_2_2_mqtt_3_9_2_1_small),
        BENCH_TEST(test_mqtt_3_2_2_19_mqtt_3_2_2_20_small_connack),
        BENCH_TEST(test_mqtt_3_8_4_1_mqtt_3_10_4_4_answer_too_large),
        BENCH_TEST(test_mqtt_3_1_2_24_very_small),
        BENCH_TEST(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
