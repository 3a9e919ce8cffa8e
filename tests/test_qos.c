/*
 * test_qos.c - the exchanges of QoS 1 and 2, cut at each of their stages.
 *
 *   1. inwards      what clients publish: PUBACK, PUBREC, PUBCOMP
 *   2. outwards     what the server delivers, and repeats on a resume only
 *   3. windows      Receive Maximum of both sides
 *   4. identifiers  distinct, reused, exhausted, unknown
 *   5. exactly once under kills at every step
 *   6. large        Maximum Packet Size of a client: dropped as if delivered
 *
 * Each cut is made in three ways: the connection breaks, the client comes
 * back on a second connection, the broker is killed.
 *
 * The notation is that of bench.h.
 */
#include <string.h>

#include "bench.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

enum cut { CUT, TAKEOVER, KILL, CUTS };

/* Breaks the client's connection in one of the ways and resumes it. */
static struct bench_link *resume(struct bench *t, struct bench_link *l,
                                 enum cut how, const char *words)
{
    if (how == CUT)
        bench_cut(l);
    if (how == KILL)
        bench_restart(t, 700);
    l = bench_join(t, "c0 %s", words);
    bench_hear(l, "connack 00 sp=1*");
    return l;
}

static struct bench_link *subscriber(struct bench *t, const char *words,
                                     const char *filters)
{
    struct bench_link *l = bench_meet(t, "c1 %s", words);
    bench_say(l, "subscribe #1 %s", filters);
    bench_hear(l, "suback*");
    return l;
}

/* ==== 1. inwards ==========================================================
 */

static void
test_mqtt_2_2_1_5_mqtt_3_3_4_1_mqtt_4_3_2_4_mqtt_4_3_3_8_answers(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *s = subscriber(t, "id=s", "t,q2");
    struct bench_link *l = bench_meet(t, "c1 id=a");
    bench_say(l, "publish t =0");
    bench_silent(l);
    bench_say(l, "publish q1 #4660 t =1");
    bench_hear(l, "puback #4660 00");
    bench_say(l, "publish q2 #17185 t =2");
    bench_hear(l, "pubrec #17185 00");
    bench_say(l, "pubrel #17185"); /* [MQTT-4.3.3-11] */
    bench_hear(l, "pubcomp #17185 00");
    bench_say(l, "pubrel #17185");
    bench_hear(l, "pubcomp #17185 92*");
    bench_silent(l);
    struct buf got = {NULL, 0, 0, 0};
    assert_int_equal(bench_serve(s, &got), 3);
    assert_memory_equal(got.p, "0 1 2 ", 6);
    buf_free(&got);
}

/* After PUBACK the same identifier is a new message, DUP or not. */
static void test_mqtt_4_3_2_5_mqtt_3_3_1_3_puback_frees(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *s = subscriber(t, "id=s", "t,q1");
    struct bench_link *l = bench_meet(t, "c1 id=a");
    bench_say(l, "publish q1 #7 t =one");
    bench_hear(l, "puback #7 00");
    bench_say(l, "publish q1 dup #7 t =two");
    bench_hear(l, "puback #7 00");
    bench_hear(s, "publish q1 #* t =one"); /* [MQTT-4.3.2-2]: no DUP */
    bench_hear(s, "publish q1 #* t =two"); /* nor the publisher's */
    bench_silent(s);
}

/* A QoS 2 publish that is cut at each stage and repeated. */
static void
test_mqtt_4_3_3_10_mqtt_4_3_3_11_mqtt_4_3_3_12_once_inwards(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int how = CUT; how < CUTS; how++) {
        struct bench_link *s = subscriber(t, "id=s x=600", "t,q2");
        bench_cut(s);
        struct bench_link *l = bench_meet(t, "c1 id=a x=600");
        bench_say(l, "publish q2 #7 t =one");
        bench_hear(l, "pubrec #7 00");
        l = resume(t, l, (enum cut)how, "id=a x=600");
        bench_silent(l); /* the client is the one to go on */
        for (int i = 0; i < 3; i++) {
            bench_say(l, "publish q2 dup #7 t =one");
            bench_hear(l, "pubrec #7 *");
            l = resume(t, l, (enum cut)how, "id=a x=600");
        }
        bench_say(l, "pubrel #7");
        bench_hear(l, "pubcomp #7 00");
        l = resume(t, l, (enum cut)how, "id=a x=600");
        bench_say(l, "pubrel #7"); /* its PUBCOMP may have been lost */
        bench_hear(l, "pubcomp #7 [09][02]*");
        bench_say(l, "publish q2 #7 t =two"); /* [MQTT-4.3.3-12] */
        bench_hear(l, "pubrec #7 00");
        bench_say(l, "pubrel #7");
        bench_hear(l, "pubcomp #7 00");
        struct buf got = {NULL, 0, 0, 0};
        s = bench_meet(t, "c0 id=s");
        bench_serve(s, &got);
        assert_int_equal(got.n, 8);
        assert_memory_equal(got.p, "one two ", 8);
        buf_free(&got);
        bench_leave(s);
        bench_leave(l);
    }
}

/* Without a session that lasts, nothing is known on the next connection. */
static void test_mqtt_3_2_2_5_identifiers_of_a_lost_session(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *s = subscriber(t, "id=s", "t,q2");
    for (int i = 0; i < 2; i++) {
        struct bench_link *l = bench_meet(t, "c1 id=a");
        bench_say(l, "publish q2 #7 t =%d", i);
        bench_hear(l, "pubrec #7 00");
        bench_hear(s, "publish q2 #* t =%d", i);
        bench_cut(l);
        l = bench_meet(t, "c0 id=a x=0");
        bench_say(l, "pubrel #7");
        bench_hear(l, "pubcomp #7 92*");
        bench_leave(l);
    }
}

/* [MQTT-4.3.3-13]: the exchange is finished though the message expired. */
static void test_mqtt_4_3_3_13_expired_meanwhile(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *s = subscriber(t, "id=s x=60", "t,q2");
    bench_cut(s);
    for (int how = CUT; how < CUTS; how++) {
        struct bench_link *l = bench_meet(t, "c1 id=a x=60");
        bench_say(l, "publish q2 #7 t =x mei=1");
        bench_hear(l, "pubrec #7 00");
        bench_advance(t, 3000);
        l = resume(t, l, (enum cut)how, "id=a x=60");
        bench_say(l, "pubrel #7");
        bench_hear(l, "pubcomp #7 00");
        bench_leave(l);
    }
    s = bench_meet(t, "c0 id=s");
    bench_silent(s);
}

/* The server cannot know what order a client keeps: it answers each. */
static void
test_mqtt_4_6_0_1_mqtt_4_6_0_4_order_of_clients(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *s = subscriber(t, "id=s", "t,q2");
    struct bench_link *l = bench_meet(t, "c1 id=a x=60");
    for (int i = 1; i <= 3; i++) {
        bench_say(l, "publish q2 #%d t =%d", i, i);
        bench_hear(l, "pubrec #%d 00", i);
    }
    l = resume(t, l, CUT, "id=a x=60");
    for (int i = 3; i >= 1; i--) {
        bench_say(l, "publish q2 dup #%d t =%d", i, i);
        bench_hear(l, "pubrec #%d *", i);
    }
    for (int i = 3; i >= 1; i--) {
        bench_say(l, "pubrel #%d", i);
        bench_hear(l, "pubcomp #%d 00", i);
    }
    struct buf got = {NULL, 0, 0, 0};
    bench_serve(s, &got);
    assert_int_equal(got.n, 6);
    assert_memory_equal(got.p, "1 2 3 ", 6);
    buf_free(&got);
}

/* ==== 2. outwards =========================================================
 */

/* How far the client got with its delivery when the connection broke. */
enum stage { SENT, RECEIVED, RELEASED, STAGES };

/* [MQTT-4.4.0-1]: repeated on a resume, with the old identifier, once. */
static void outwards_qos_1(struct bench *t, enum cut how, int queued)
{
    struct bench_link *l = subscriber(t, "id=s x=600", "t,q1");
    if (queued)
        bench_cut(l);
    bench_publish(t, 1, "t =x");
    if (queued)
        l = bench_meet(t, "c0 id=s x=600");
    uint16_t id = bench_hear(l, "publish q1 #* t =x");
    bench_advance(t, 20000);
    bench_silent(l);
    for (int i = 0; i < 3; i++) {
        l = resume(t, l, how, "id=s x=600");
        assert_int_equal(bench_hear(l, "publish q1 dup #* t =x"), id);
        bench_advance(t, 20000);
        bench_silent(l);
    }
    bench_say(l, "puback #%u", id);
    bench_advance(t, 500);
    l = resume(t, l, how, "id=s x=600");
    bench_silent(l);
    bench_leave(l);
}

static void
test_mqtt_3_3_1_1_mqtt_4_3_2_2_mqtt_4_3_2_3_mqtt_4_4_0_1_qos_1(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int how = CUT; how < CUTS; how++)
        for (int queued = 0; queued < 2; queued++)
            outwards_qos_1(t, (enum cut)how, queued);
}

/* The resumes after SENT repeat PUBLISH, after PUBREC only PUBREL. */
static void outwards_qos_2(struct bench *t, enum cut how, int queued)
{
    struct bench_link *l = subscriber(t, "id=s x=600", "t,q2");
    if (queued)
        bench_cut(l);
    bench_publish(t, 2, "t =x");
    if (queued)
        l = bench_meet(t, "c0 id=s x=600");
    uint16_t id = bench_hear(l, "publish q2 #* t =x");
    for (int i = 0; i < 2; i++) {
        bench_advance(t, 20000);
        bench_silent(l);
        l = resume(t, l, how, "id=s x=600");
        assert_int_equal(bench_hear(l, "publish q2 dup #* t =x"), id);
    }
    bench_say(l, "pubrec #%u", id);
    assert_int_equal(bench_hear(l, "pubrel #* 00"), id);
    for (int i = 0; i < 2; i++) {
        bench_advance(t, 20000);
        bench_silent(l);
        l = resume(t, l, how, "id=s x=600");
        assert_int_equal(bench_hear(l, "pubrel #* 00"), id);
    }
    bench_say(l, "pubrec #%u", id); /* once more, as a slow client might */
    bench_hear(l, "pubrel #%u 00", id);
    bench_say(l, "pubcomp #%u", id);
    bench_advance(t, 500);
    l = resume(t, l, how, "id=s x=600");
    bench_silent(l);
    bench_leave(l);
}

/* [MQTT-4.3.3-2], [MQTT-4.3.3-3], [MQTT-4.3.3-4], [MQTT-4.3.3-5],
 * [MQTT-4.3.3-6]. */
static void test_mqtt_4_3_3_2_to_mqtt_4_3_3_6_qos_2(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int how = CUT; how < CUTS; how++)
        for (int queued = 0; queued < 2; queued++)
            outwards_qos_2(t, (enum cut)how, queued);
}

/* Several at once: resends first, in their order, then what waited. */
static void test_mqtt_4_4_0_1_mqtt_4_6_0_5_resends_in_order(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int how = CUT; how < CUTS; how++) {
        struct bench_link *l = subscriber(t, "id=s x=600 rm=4", "t,q2");
        uint16_t id[5];
        for (int i = 0; i < 7; i++) {
            char words[16];
            snprintf(words, sizeof words, "t =%d", i);
            bench_publish(t, i % 2 + 1, words);
        }
        for (int i = 0; i < 4; i++)
            id[i] = bench_hear(l, "publish q%d #* t =%d", i % 2 + 1, i);
        bench_silent(l);
        bench_say(l, "pubrec #%u", id[1]);
        bench_hear(l, "pubrel #%u 00", id[1]);
        bench_silent(l); /* [MQTT-3.3.4-9]: PUBREC frees no place */
        l = resume(t, l, (enum cut)how, "id=s x=600 rm=3");
        /* PUBREL takes no part in the order of PUBLISH packets */
        int publishes = 0, pubrels = 0;
        static const int order[] = {0, 2, 3};
        while (bench_waiting(l) > 0) {
            const struct bench_heard *h = bench_next(l);
            if (h->type == MQTT_PUBREL) {
                assert_int_equal(h->packet_id, id[1]);
                pubrels++;
            } else {
                assert_in_range(publishes, 0, 2);
                assert_int_equal(h->packet_id, id[order[publishes]]);
                assert_non_null(strstr(h->text, " dup "));
                assert_int_equal(h->payload[0] - '0', order[publishes]);
                publishes++;
            }
        }
        assert_int_equal(pubrels, 1);
        assert_in_range(publishes, 2, 3); /* within its Receive Maximum */
        bench_say(l, "pubcomp #%u", id[1]);
        bench_say(l, "puback #%u", id[0]);
        if (publishes == 2)
            bench_hear(l, "publish q2 dup #%u t =3", id[3]);
        bench_hear(l, "publish q1 #* t =4");
        bench_silent(l);
        bench_say(l, "disconnect 00 x=0");
    }
}

static void test_mqtt_4_3_1_1_qos_0_is_never_repeated(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int how = CUT; how < CUTS; how++) {
        struct bench_link *l = subscriber(t, "id=s x=600", "t,q0");
        for (int q = 0; q < 3; q++) {
            bench_publish(t, q, "t =x");
            bench_hear(l, "publish q0 t =x");
        }
        l = resume(t, l, (enum cut)how, "id=s x=600");
        bench_silent(l);
        bench_leave(l);
    }
}

/* Stored while its receiver was away, sent in a turn that has nothing else to
 * sync (what stood before it has expired): a power cut after that does not
 * send it again (4.3.1). */
static void test_qos_0_is_not_repeated_by_a_power_cut(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_watch(t, "other");
    struct bench_link *s = bench_meet(t, "c0 id=s");
    bench_say(s, "subscribe #1 a/b,q1");
    bench_cut(s);
    bench_say(l, "publish q1 #1 a/b =first");
    bench_say(l, "publish q1 #2 a/b =expires mei=3");
    bench_say(l, "publish a/b =zero");
    bench_advance(t, 2000);
    s = bench_meet(t, "c0 id=s rm=1");
    uint16_t id = bench_hear(s, "publish q1 #* a/b =first");
    bench_advance(t, 2000);
    bench_say(s, "puback #%u", id);
    bench_hear(s, "publish q0 a/b =zero");
    bench_power_cut(t, 0);
    s = bench_meet(t, "c0 id=s");
    const struct bench_heard *h;
    while ((h = bench_next(s)) != NULL) /* the PUBACK may be lost */
        assert_string_equal(h->payload, "first");
}

/* [MQTT-4.4.0-2]: a refusal settles the message. */
static void test_mqtt_4_4_0_2_mqtt_4_3_3_4_refused_by_client(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int how = CUT; how < CUTS; how++) {
        struct bench_link *l = subscriber(t, "id=s x=600 rm=2", "t,q2");
        bench_publish(t, 1, "t =one");
        bench_publish(t, 2, "t =two");
        bench_publish(t, 1, "t =three");
        bench_publish(t, 2, "t =four");
        uint16_t one = bench_hear(l, "publish q1 #* t =one");
        uint16_t two = bench_hear(l, "publish q2 #* t =two");
        bench_say(l, "puback #%u 80", one);
        uint16_t three = bench_hear(l, "publish q1 #* t =three");
        bench_say(l, "pubrec #%u 97", two);
        uint16_t four = bench_hear(l, "publish q2 #* t =four");
        bench_silent(l);
        bench_advance(t, 500);
        l = resume(t, l, (enum cut)how, "id=s x=600");
        bench_hear(l, "publish q1 dup #%u t =three", three);
        bench_hear(l, "publish q2 dup #%u t =four", four);
        bench_silent(l);
        bench_say(l, "disconnect 00 x=0");
    }
}

/* [MQTT-4.3.3-7]: what was sent once does not expire. */
static void test_mqtt_4_3_3_7_sent_does_not_expire(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int how = CUT; how < CUTS; how++) {
        struct bench_link *l = subscriber(t, "id=s x=600", "t,q2");
        bench_publish(t, 2, "t =x mei=2");
        uint16_t id = bench_hear(l, "publish q2 #* t =x mei=2");
        bench_advance(t, 4000);
        l = resume(t, l, (enum cut)how, "id=s x=600");
        assert_int_equal(bench_hear(l, "publish q2 dup #* t =x*"), id);
        bench_say(l, "pubrec #%u", id);
        bench_hear(l, "pubrel #%u 00", id);
        bench_say(l, "pubcomp #%u", id);
        bench_silent(l);
        bench_leave(l);
    }
}

static void
test_mqtt_4_6_0_2_mqtt_4_6_0_3_answers_in_reverse(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = subscriber(t, "id=s x=600", "t,q2");
    uint16_t id[6];
    for (int i = 0; i < 6; i++) {
        bench_publish(t, i < 3 ? 1 : 2, "t =x");
        id[i] = bench_hear(l, "publish q* t =x");
    }
    for (int i = 5; i >= 3; i--) {
        bench_say(l, "pubrec #%u", id[i]);
        bench_hear(l, "pubrel #%u 00", id[i]);
    }
    for (int i = 2; i >= 0; i--)
        bench_say(l, "puback #%u", id[i]);
    for (int i = 3; i < 6; i++)
        bench_say(l, "pubcomp #%u", id[i]);
    bench_silent(l);
    l = resume(t, l, CUT, "id=s x=600");
    bench_silent(l);
}

/* Answers to deliveries of the earlier connection, in any order, before this
 * one has repeated them: the client may have had them all. */
static void test_mqtt_4_4_0_1_answered_before_repeated(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int order = 0; order < 24; order++) {
        struct bench_link *l = subscriber(t, "id=s x=600", "t,q2");
        uint16_t id[4];
        int left[4] = {0, 1, 2, 3};
        for (int i = 0; i < 4; i++) {
            bench_publish(t, i % 2 + 1, "t =x");
            id[i] = bench_hear(l, "publish q* t =x");
        }
        l = resume(t, l, CUT,
                   order % 2 ? "id=s x=600 rm=2" : "id=s x=600 rm=1");
        for (int n = 4, rest = order; n > 0; n--) {
            int k = rest % n, i = left[k];
            rest /= n;
            left[k] = left[n - 1];
            bench_say(l, i % 2 ? "pubrec #%u" : "puback #%u", id[i]);
        }
        bench_serve(l, NULL);
        assert_int_equal(l->ended, 0);
        bench_publish(t, 1, "t =new");
        bench_hear(l, "publish q1 #* t =new");
        l = resume(t, l, CUT, "id=s x=600"); /* the four are finished */
        bench_hear(l, "publish q1 dup #* t =new");
        bench_silent(l);
        bench_say(l, "disconnect 00 x=0");
    }
}

/* ==== 3. windows ==========================================================
 */

static void
test_mqtt_3_3_4_9_mqtt_4_9_0_1_mqtt_4_9_0_2_client_window(void **state)
{
    static const struct {
        const char *words;
        size_t first; /* QoS 1/2 messages that come at first */
    } table[] = {{"rm=1", 1}, {"rm=5", 5}, {"rm=2", 2}, {"", 20}};
    struct bench *t = (struct bench *)*state;
    for (size_t i = 0; i < COUNT(table); i++) {
        struct bench_link *l = subscriber(t, "id=s x=600", "t,q2");
        bench_cut(l);
        for (int k = 0; k < 20; k++)
            bench_publish(t, k % 2 + 1, "t =x");
        l = bench_meet(t, "c0 id=s x=600 %s", table[i].words);
        assert_int_equal(bench_waiting(l), table[i].first);
        size_t left = 20 - table[i].first;
        for (; left > 0; left--) { /* each that is settled lets one come */
            const struct bench_heard *h = bench_next(l);
            uint16_t id = h->packet_id;
            int qos = h->qos;
            size_t wait = bench_waiting(l);
            if (qos == 2) {
                bench_say(l, "pubrec #%u", id);
                assert_int_equal(bench_waiting(l), wait + 1);
                assert_int_equal(bench_find(l, "pubrel #* 00"), id);
            }
            bench_say(l, qos == 2 ? "pubcomp #%u" : "puback #%u", id);
            assert_int_equal(bench_waiting(l), wait + 1);
        }
        assert_int_equal(bench_serve(l, NULL), table[i].first);
        bench_leave(l);
    }
}

/* QoS 0 needs no place in the window, and all else is answered. */
static void
test_mqtt_3_3_4_10_mqtt_4_9_0_3_full_window_blocks_nothing(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = subscriber(t, "id=s rm=1", "t,q2");
    bench_publish(t, 1, "t =open");
    uint16_t id = bench_hear(l, "publish q1 #* t =open");
    bench_publish(t, 2, "t =waits");
    bench_silent(l);
    bench_say(l, "pingreq");
    bench_hear(l, "pingresp");
    bench_say(l, "subscribe #2 u");
    bench_hear(l, "suback #2 00");
    bench_say(l, "unsubscribe #3 u");
    bench_hear(l, "unsuback #3 00");
    bench_say(l, "publish q1 #4 u =x");
    bench_hear(l, "puback #4 10*");
    bench_say(l, "publish q2 #5 u =x");
    bench_hear(l, "pubrec #5 10*");
    bench_say(l, "pubrel #5");
    bench_hear(l, "pubcomp #5 00");
    bench_say(l, "puback #%u", id);
    bench_hear(l, "publish q2 #* t =waits");
    bench_leave(l);
}

/* [MQTT-4.5.0-2]: one that never answers is neither closed nor skipped. */
static void test_mqtt_4_5_0_2_client_that_never_acknowledges(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = subscriber(t, "id=s x=600 rm=3", "t,q1");
    uint16_t id[3];
    for (int i = 0; i < 10; i++)
        bench_publish(t, 1, "t =x");
    for (int i = 0; i < 3; i++)
        id[i] = bench_hear(l, "publish q1 #* t =x");
    bench_advance(t, 3600000);
    bench_silent(l);
    l = resume(t, l, CUT, "id=s x=600 rm=3");
    for (int i = 0; i < 3; i++)
        assert_int_equal(bench_hear(l, "publish q1 dup #* t =x"), id[i]);
    bench_silent(l);
}

static void test_mqtt_3_3_4_7_server_window(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a");
    for (int i = 1; i <= 20; i++) {
        bench_say(l, "publish q2 #%d t =x", i);
        bench_hear(l, "pubrec #%d 10*", i);
    }
    bench_say(l, "publish q2 dup #20 t =x"); /* no new one: 4.3.3 */
    bench_hear(l, "pubrec #20 *");
    bench_say(l, "pubrel #20");
    bench_hear(l, "pubcomp #20 00");
    bench_say(l, "publish q2 #21 t =x"); /* in its place */
    bench_hear(l, "pubrec #21 10*");
    bench_say(l, "publish q2 #22 t =x");
    bench_end(l, "disconnect 93 rs=*MQTT-3.3.4-7*");
}

/* Before the commit no PUBACK has left: a burst counts as unfinished. */
static void test_mqtt_3_3_4_7_mqtt_4_9_0_2_burst(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int n = 20; n <= 21; n++) {
        struct bench_link *l = bench_meet(t, "c1 id=a");
        uint8_t bytes[1024];
        size_t size = 0;
        for (int i = 1; i <= n; i++)
            size += bench_encode(bytes + size, sizeof bytes - size,
                                 "publish q1 #%d t =x", i);
        bench_send(l, bytes, size);
        int acks = 0;
        while (bench_waiting(l) > 0 &&
               l->heard[l->heard_first]->type == MQTT_PUBACK) {
            acks++;
            bench_next(l);
        }
        assert_in_range(acks, n == 20 ? 20 : 0, 20);
        if (n == 20)
            bench_silent(l);
        else
            bench_end(l, "disconnect 93*");
    }
}

/* Counts and takes the PUBACKs among the packets that wait. */
static int pubacks_take(struct bench_link *l)
{
    const struct bench_heard *h;
    int n = 0;
    while ((h = bench_next(l)) != NULL)
        n += h->type == MQTT_PUBACK;
    return n;
}

/* A client with at most two PUBLISHes open, whose PUBACKs come among other
 * packets and never with the last byte that the server has for it. */
static void test_mqtt_3_3_4_7_slow_reader_with_few_open(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = subscriber(t, "id=s x=600", "t,q0");
    bench_cut(l);
    struct bench_link *p = bench_meet(t, "c1 id=p");
    for (int i = 0; i < 1500; i++)
        bench_say(p, "publish t =*1000");
    l = bench_link_open(t);
    t->held = 1;
    bench_say(l, "connect c0 id=s x=600");
    int sent = 0, acked = 0;
    for (int turn = 0; sent < 100; turn++) {
        while (sent - acked < 2)
            bench_say(l, "publish q1 #%d other =x", ++sent);
        bench_step(t, 20000);
        acked += pubacks_take(l);
        assert_int_equal(l->ended, 0);
        assert_true(turn < 1000);
    }
    bench_turn(t);
    assert_int_equal(acked + pubacks_take(l), sent);
    bench_silent(l);
}

/* Our own bound on open deliveries, for clients that name none or more. */
static void test_mqtt_4_9_0_1_mqtt_3_3_4_9_own_window(void **state)
{
    static const struct {
        const char *words;
        size_t open;
    } table[] = {{"", 10}, {" rm=5", 5}, {" rm=50", 10}, {" rm=10", 10}};
    struct bench *t = (struct bench *)*state;
    t->options.window_max = 10;
    bench_restart(t, 0);
    for (size_t i = 0; i < COUNT(table); i++) {
        char words[40];
        snprintf(words, sizeof words, "id=s x=600%s", table[i].words);
        struct bench_link *l = subscriber(t, words, "t,q2");
        for (int k = 0; k < 30; k++)
            bench_publish(t, k % 2 + 1, "t =x");
        assert_int_equal(bench_waiting(l), table[i].open);
        l = resume(t, l, CUT, words); /* a new connection, a new window */
        assert_int_equal(bench_waiting(l), table[i].open);
        assert_int_equal(bench_serve(l, NULL), 30);
        bench_say(l, "disconnect 00 x=0");
    }
}

/* ==== 4. identifiers ======================================================
 */

static void
test_mqtt_2_2_1_4_mqtt_4_3_2_1_mqtt_4_3_3_1_distinct(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = subscriber(t, "id=s x=600", "t,q2");
    uint16_t rel = 0;
    for (int i = 0; i < 40; i++) { /* the rules of the bench compare them */
        bench_publish(t, i % 2 + 1, "t =x");
        uint16_t id = bench_hear(l, "publish q* t =x");
        if (i % 8 == 1) {
            bench_say(l, "pubrec #%u", id);
            rel = bench_hear(l, "pubrel #* 00");
            assert_int_equal(rel, id);
        }
    }
    assert_int_equal(l->ref.open, 40);
    bench_restart(t, 1000); /* and new ones keep off the old ones */
    l = bench_meet(t, "c0 id=s x=600");
    for (int i = 0; i < 10; i++)
        bench_publish(t, 1, "t =y");
    size_t publishes = 0, pubrels = 0;
    const struct bench_heard *h;
    while ((h = bench_next(l)) != NULL) {
        publishes += h->type == MQTT_PUBLISH;
        pubrels += h->type == MQTT_PUBREL;
        assert_true(h->type != MQTT_PUBLISH || h->packet_id != rel);
    }
    assert_int_equal(publishes, 45);
    assert_int_equal(pubrels, 5);
}

/* 70,000 others pass; the open one's identifier is never taken again. */
static void test_mqtt_2_2_1_4_wrap_around(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = subscriber(t, "id=s", "t,q2 u,q1");
    bench_publish(t, 2, "t =open");
    uint16_t open = bench_hear(l, "publish q2 #* t =open");
    struct bench_link *p = bench_meet(t, "c1 id=p");
    uint8_t bytes[1024], ack[4] = {0x40, 0x02, 0, 0};
    size_t size = 0;
    for (int i = 1; i <= 20; i++)
        size += bench_encode(bytes + size, sizeof bytes - size,
                             "publish q1 #%d u =x", i);
    for (int round = 0; round < 3500; round++) {
        t->held = 1;
        bench_send(p, bytes, size);
        bench_turn(t);
        t->held = 1;
        while (bench_waiting(l) > 0) {
            uint16_t id = bench_next(l)->packet_id;
            assert_int_not_equal(id, open);
            ack[2] = (uint8_t)(id >> 8);
            ack[3] = (uint8_t)id;
            bench_send(l, ack, 4);
        }
        bench_turn(t);
        memset(l->ref.open_ids, 0, sizeof l->ref.open_ids);
        l->ref.open = 0;
        while (bench_next(p) != NULL)
            continue;
    }
    bench_say(l, "pubrec #%u", open);
    bench_hear(l, "pubrel #%u 00", open);
}

/* All 65,535 in use: the rest waits until one is free. */
static void test_mqtt_2_2_1_4_exhaustion(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = subscriber(t, "id=s", "t,q1");
    struct bench_link *p = bench_meet(t, "c1 id=p");
    uint8_t bytes[1024];
    size_t size = 0;
    for (int i = 1; i <= 20; i++)
        size += bench_encode(bytes + size, sizeof bytes - size,
                             "publish q1 #%d t =x", i);
    for (int round = 0; round < 3277; round++) { /* 65,540 messages */
        bench_send(p, bytes, size);
        while (bench_next(p) != NULL)
            continue;
    }
    assert_int_equal(bench_waiting(l), 65535);
    uint16_t id = bench_next(l)->packet_id;
    bench_say(l, "pingreq");
    bench_say(l, "puback #%u", id);
    assert_int_equal(bench_waiting(l), 65536);
    assert_int_equal(l->heard[l->heard_end - 1]->packet_id, id);
}

static void
test_mqtt_3_6_2_1_mqtt_3_7_2_1_unknown_identifiers(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = bench_meet(t, "c1 id=a");
    bench_say(l, "pubrel #77");
    bench_hear(l, "pubcomp #77 92*");
    bench_say(l, "pubrec #78");
    bench_hear(l, "pubrel #78 92*");
    bench_say(l, "pubcomp #78");
    bench_say(l, "puback #79");
    bench_say(l, "puback #79 80");
    bench_say(l, "pubrel #80 92");
    bench_hear(l, "pubcomp #80 92*");
    bench_silent(l);
}

/* An answer that does not fit the QoS of the delivery settles nothing. */
static void test_answers_of_the_wrong_kind(void **state)
{
    struct bench *t = (struct bench *)*state;
    static const char *const wrong[][2] = {{"pubrec #%u", "1"},
                                           {"pubcomp #%u", "1"},
                                           {"puback #%u", "2"},
                                           {"pubcomp #%u", "2"}};
    for (size_t i = 0; i < COUNT(wrong); i++) {
        int qos = wrong[i][1][0] - '0';
        struct bench_link *l = subscriber(t, "id=s x=600", "t,q2");
        bench_publish(t, qos, "t =x");
        uint16_t id = bench_hear(l, "publish q%d #* t =x", qos);
        bench_say(l, wrong[i][0], id);
        while (bench_waiting(l) > 0) /* 0x92 or a Protocol Error */
            bench_next(l);
        l = bench_meet(t, "c0 id=s x=600");
        bench_hear(l, "publish q%d dup #%u t =x", qos, id);
        bench_say(l, "disconnect 00 x=0");
    }
}

/* ==== 5. exactly once ====================================================
 *
 * Publisher and subscriber both resend as the standard says, while the
 * broker dies after a given number of packets; then all is finished. */

/* One packet from each side at a time; 1 = the publisher is finished. */
static int step_publisher(struct bench_link *p, int *stage, int number)
{
    if (*stage == 0)
        bench_say(p, "publish q2 #5 t =%d", number);
    else
        bench_say(p, "pubrel #5");
    bench_hear(p, *stage == 0 ? "pubrec #5 *" : "pubcomp #5 *");
    (*stage)++;
    return *stage == 2;
}

static void step_subscriber(struct bench_link *s, struct buf *got)
{
    const struct bench_heard *h = bench_next(s);
    if (h == NULL)
        return;
    uint16_t id = h->packet_id;
    if (h->type == MQTT_PUBREL) {
        bench_say(s, "pubcomp #%u", id);
        return;
    }
    /* The client keeps its own list of identifiers: here by the payload. */
    struct buf word = {NULL, 0, 0, 0};
    buf_text(&word, h->payload);
    buf_text(&word, " ");
    buf_add(&word, "", 1);
    buf_add(got, "", 1);
    got->n--;
    int again = strstr(h->text, " dup ") != NULL &&
                strstr((char *)got->p, (char *)word.p) != NULL;
    if (!again)
        buf_text(got, (char *)word.p);
    buf_free(&word);
    bench_say(s, "pubrec #%u", id);
}

static void once_run(struct bench *t, int die_at)
{
    struct buf got = {NULL, 0, 0, 0};
    struct bench_link *p = bench_meet(t, "c1 id=p x=600");
    struct bench_link *s = subscriber(t, "id=s x=600", "t,q2");
    int steps = 0;
    for (int number = 0; number < 4; number++)
        for (int stage = 0, done = 0; !done;) {
            done = step_publisher(p, &stage, number);
            if (++steps % die_at == 0) {
                bench_restart(t, 100);
                p = bench_meet(t, "c0 id=p x=600");
                s = bench_meet(t, "c0 id=s x=600");
                if (stage == 1) { /* the PUBREC may have been lost */
                    bench_say(p, "publish q2 dup #5 t =%d", number);
                    bench_hear(p, "pubrec #5 *");
                }
            }
            step_subscriber(s, &got);
            if (++steps % die_at == 0) {
                bench_restart(t, 100);
                p = bench_meet(t, "c0 id=p x=600");
                s = bench_meet(t, "c0 id=s x=600");
            }
        }
    for (int i = 0; i < 20; i++)
        step_subscriber(s, &got);
    bench_silent(s);
    buf_add(&got, "", 1);
    assert_string_equal((char *)got.p, "0 1 2 3 ");
    buf_free(&got);
    bench_say(p, "disconnect 00 x=0");
    bench_say(s, "disconnect 00 x=0");
}

static void test_mqtt_4_3_3_10_exactly_once_under_kills(void **state)
{
    struct bench *t = (struct bench *)*state;
    for (int die_at = 1; die_at < 8; die_at++)
        once_run(t, die_at);
}

/* A subscriber that keeps its QoS 2 identifiers as a client must. */
struct receiver {
    struct bench_link *link; /* NULL while it is away */
    int number;              /* its Client Identifier is "r<number>" */
    int last;                /* the last message received */
    uint8_t held[65536 / 8]; /* received and not yet released (4.3.3) */
};

static void receiver_join(struct bench *t, struct receiver *r)
{
    static const int windows[] = {1, 3, 10, 65535};
    r->link = bench_join(t, "c0 id=r%d tam=2 rm=%d", r->number,
                         windows[r->number % 4]);
    bench_hear(r->link, "connack 00 sp=1*");
}

/* Handles one packet: a new message must be the next one. */
static int receiver_step(struct receiver *r)
{
    const struct bench_heard *h =
        r->link == NULL ? NULL : bench_next(r->link);
    if (h == NULL)
        return 0;
    uint16_t id = h->packet_id;
    uint8_t bit = (uint8_t)(1u << (id % 8));
    int fresh = !(r->held[id / 8] & bit);
    if (h->type == MQTT_PUBREL) {
        r->held[id / 8] &= (uint8_t)~bit;
        bench_say(r->link, "pubcomp #%u", id);
        return 1;
    }
    if (fresh)
        assert_int_equal(strtol(h->payload, NULL, 10), ++r->last);
    r->held[id / 8] |= bit;
    bench_say(r->link, "pubrec #%u", id);
    return 1;
}

static void receivers_away(struct receiver *r, int n)
{
    for (int i = 0; i < n; i++)
        r[i].link = NULL;
}

/* A long life: five receivers that come and go, a broker that is killed now
 * and then, and enough bytes that the store's cleaning moves everything.
 * Each receiver has every message once, in order.  The last one stays away
 * to the end. */
static void test_mqtt_4_3_3_10_mqtt_4_6_0_5_long_life(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct receiver *r = (struct receiver *)mem_new(5 * sizeof *r);
    struct bench_link *p = NULL;
    uint32_t dice = 1;
    for (int i = 0; i < 5; i++) {
        r[i].number = i;
        struct bench_link *l = bench_meet(t, "c0 id=r%d", i);
        bench_say(l, "subscribe #1 f/#,q2 sid=%d", i + 1);
        bench_cut(l);
    }
    for (int number = 1; number <= 600; number++) {
        p = bench_meet(t, "c1 id=side");
        bench_say(p, "publish q2 #9 f/t =%d,%0700d", number, 0);
        bench_say(p, "pubrel #9");
        bench_hear(p, "pubrec #9 00");
        bench_hear(p, "pubcomp #9 00");
        bench_leave(p);
        dice = dice * 1664525u + 1013904223u;
        struct receiver *one = &r[(dice >> 10) % 4];
        if (one->link == NULL)
            receiver_join(t, one);
        for (uint32_t i = 0; i < (dice >> 16) % 16; i++)
            receiver_step(one);
        if ((dice >> 20) % 4 == 0) {
            bench_cut(one->link);
            one->link = NULL;
        }
        if (number % 97 == 0) /* some starts find an index */
            assert_int_equal(session_server_checkpoint(t->server), 0);
        if ((dice >> 24) % 16 == 0) {
            bench_restart(t, 100);
            receivers_away(r, 5);
        }
        bench_advance(t, 10);
    }
    for (int i = 0; i < 5; i++) {
        if (r[i].link == NULL)
            receiver_join(t, &r[i]);
        while (receiver_step(&r[i]))
            continue;
        assert_int_equal(r[i].last, 600);
    }
    free(r);
}

/* Nothing is left behind when all is settled. */
static void test_nothing_left(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = subscriber(t, "id=s x=600", "t,q2");
    for (int i = 0; i < 30; i++)
        bench_publish(t, i % 3, "t =*500");
    bench_serve(l, NULL);
    bench_leave(l);
    for (int i = 0; i < 30; i++)
        bench_publish(t, i % 3, "t =*500");
    l = bench_meet(t, "c0 id=s x=600");
    bench_serve(l, NULL);
    for (int i = 0; i < 2; i++) {
        struct session_figures f = *session_figures(t->server);
        assert_int_equal(f.messages, 0);
        assert_int_equal(f.deliveries, 0);
        assert_int_equal(f.dropped, 0);
        bench_advance(t, 1000);
        bench_restart(t, 1000);
    }
}

/* ==== 6. large ============================================================
 */

/* PUBLISH at QoS 1 to "t": 2 + 3 + 2 + 1 bytes and the payload. */
static void
test_mqtt_3_1_2_24_mqtt_3_1_2_25_dropped_as_if_sent(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *w = subscriber(t, "id=w", "t,q1");
    for (int q = 0; q < 3; q++)
        for (int queued = 0; queued < 2; queued++) {
            struct bench_link *l =
                subscriber(t, "id=s x=600 rm=1 mps=60", "t,q2");
            char fits[16];
            int small = q == 0 ? 54 : 52;
            if (queued)
                bench_cut(l);
            snprintf(fits, sizeof fits, "t =*%d", small + 1);
            bench_publish(t, q, fits);
            snprintf(fits, sizeof fits, "t =*%d", small);
            bench_publish(t, q, fits);
            assert_int_equal(bench_serve(w, NULL), 2);
            if (queued)
                l = bench_meet(t, "c0 id=s x=600 rm=1 mps=60");
            const struct bench_heard *h = bench_next(l);
            assert_non_null(h);
            assert_int_equal(strlen(h->payload), small);
            bench_say(l, q == 1 ? "puback #%u" : "pubrec #%u",
                      h->packet_id ? h->packet_id : 1);
            while (bench_next(l) != NULL)
                continue;
            bench_cut(l);
            l = bench_meet(t, "c0 id=s x=600");
            while ((h = bench_next(l)) != NULL)
                assert_int_equal(h->type, MQTT_PUBREL);
            bench_say(l, "disconnect 00 x=0");
        }
    assert_true(bench_logged(t, "t") > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(
            test_mqtt_2_2_1_5_mqtt_3_3_4_1_mqtt_4_3_2_4_mqtt_4_3_3_8_answers),
        BENCH_TEST(test_mqtt_4_3_2_5_mqtt_3_3_1_3_puback_frees),
        BENCH_TEST(test_mqtt_4_3_3_10_mqtt_4_3_3_11_mqtt_4_3_3_12_once_inwards),
        BENCH_TEST(test_mqtt_3_2_2_5_identifiers_of_a_lost_session),
        BENCH_TEST(test_mqtt_4_3_3_13_expired_meanwhile),
        BENCH_TEST(test_mqtt_4_6_0_1_mqtt_4_6_0_4_order_of_clients),
        BENCH_TEST(
            test_mqtt_3_3_1_1_mqtt_4_3_2_2_mqtt_4_3_2_3_mqtt_4_4_0_1_qos_1),
        BENCH_TEST(test_mqtt_4_3_3_2_to_mqtt_4_3_3_6_qos_2),
        BENCH_TEST(test_mqtt_4_4_0_1_mqtt_4_6_0_5_resends_in_order),
        BENCH_TEST(test_mqtt_4_3_1_1_qos_0_is_never_repeated),
        BENCH_TEST(test_qos_0_is_not_repeated_by_a_power_cut),
        BENCH_TEST(test_mqtt_4_4_0_2_mqtt_4_3_3_4_refused_by_client),
        BENCH_TEST(test_mqtt_4_3_3_7_sent_does_not_expire),
        BENCH_TEST(test_mqtt_4_6_0_2_mqtt_4_6_0_3_answers_in_reverse),
        BENCH_TEST(test_mqtt_4_4_0_1_answered_before_repeated),
        BENCH_TEST(test_mqtt_3_3_4_9_mqtt_4_9_0_1_mqtt_4_9_0_2_client_window),
        BENCH_TEST(
            test_mqtt_3_3_4_10_mqtt_4_9_0_3_full_window_blocks_nothing),
        BENCH_TEST(test_mqtt_4_5_0_2_client_that_never_acknowledges),
        BENCH_TEST(test_mqtt_3_3_4_7_server_window),
        BENCH_TEST(test_mqtt_3_3_4_7_mqtt_4_9_0_2_burst),
        BENCH_TEST(test_mqtt_3_3_4_7_slow_reader_with_few_open),
        BENCH_TEST(test_mqtt_4_9_0_1_mqtt_3_3_4_9_own_window),
        BENCH_TEST(test_mqtt_2_2_1_4_mqtt_4_3_2_1_mqtt_4_3_3_1_distinct),
        BENCH_TEST(test_mqtt_2_2_1_4_wrap_around),
        BENCH_TEST(test_mqtt_2_2_1_4_exhaustion),
        BENCH_TEST(test_mqtt_3_6_2_1_mqtt_3_7_2_1_unknown_identifiers),
        BENCH_TEST(test_answers_of_the_wrong_kind),
        BENCH_TEST(test_mqtt_4_3_3_10_exactly_once_under_kills),
        BENCH_TEST(test_mqtt_4_3_3_10_mqtt_4_6_0_5_long_life),
        BENCH_TEST(test_nothing_left),
        BENCH_TEST(test_mqtt_3_1_2_24_mqtt_3_1_2_25_dropped_as_if_sent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
