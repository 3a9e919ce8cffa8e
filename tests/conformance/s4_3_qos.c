/*
 * s4_3_qos.c - 4.3 Quality of Service.
 *
 *   1. Sessions   a client that goes and comes back
 *   2. QoS 0
 *   3. QoS 1
 *   4. QoS 2, the broker sends
 *   5. QoS 2, the broker receives
 */
#include <string.h>

#include "suite.h"

/* ============================ 1. Sessions ================================ */

static struct peer *cut_and_back(struct test *t, struct peer *p)
{
    cut(p);
    return come_back(t);
}

static struct peer *crash_and_back(struct test *t)
{
    restart(t);
    return come_back(t);
}

/* PUBREC, and the PUBREL that answers it. */
static void receive(struct peer *p, unsigned id)
{
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00", id);
}

/* Takes up to n deliveries, of which a broker may hold some back, and notes
 * their Packet Identifiers; returns how many came. */
static size_t collect(struct peer *p, unsigned *ids, size_t n)
{
    size_t got = 0;

    while (got < n && comes(p, got == 0 ? WAIT : QUIET, "publish *"))
        ids[got++] = hear(p, "publish *")->packet_id;
    return got;
}

static void all_differ(struct test *t, const unsigned *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i; k++)
            check(t, ids[i] != ids[k], "two open deliveries have identifier %u",
                  ids[i]);
}

/* ============================ 2. QoS 0 =================================== */

static void test_mqtt_4_3_1_1_qos_0_and_dup_0(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a");

    for (unsigned qos = 0; qos <= offer(t)->qos_max; qos++) {
        publish(t, "q%u ~/a =%u", qos, qos);
        const struct heard *h = hear(p, "publish q0 ~/a =%u", qos);
        check(t, h->first == 0x30, "it begins with %02X", h->first);
    }
}

static void test_mqtt_4_3_1_1_and_never_again(struct test *t)
{
    struct peer *p = stay(t, "~/a");

    publish(t, "~/a =x");
    hear(p, "publish q0 ~/a =x");
    p = cut_and_back(t, p);
    silent(p);
}

/* ============================ 3. QoS 1 =================================== */

static void test_mqtt_4_3_2_1_each_open_message_has_its_own(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q1");
    unsigned ids[20];

    for (int i = 0; i < 20; i++)
        publish(t, "q1 ~/a =%d", i);
    all_differ(t, ids, collect(p, ids, 20));
}

static void test_mqtt_4_3_2_1_only_what_is_settled_is_free(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q1");
    unsigned ids[8];

    for (int i = 0; i < 4; i++)
        ids[i] = delivered(t, p, 1, "old");
    /* the first two are settled, the last two stay open */
    say(p, "puback #%u", ids[0]);
    say(p, "puback #%u", ids[1]);
    for (int i = 4; i < 8; i++)
        ids[i] = delivered(t, p, 1, "new");
    all_differ(t, ids + 2, 6);
}

static void test_mqtt_4_3_2_1_nor_is_what_was_open_before(struct test *t)
{
    struct peer *p = stay(t, "~/a,q1");
    unsigned ids[6];

    for (int i = 0; i < 3; i++)
        delivered(t, p, 1, "old");
    cut(p);
    for (int i = 0; i < 3; i++)
        publish(t, "q1 ~/a =new");
    p = come_back(t);
    all_differ(t, ids, collect(p, ids, 6));
}

/* The first time, a message comes with this QoS, DUP 0 and an identifier. */
static void comes_fresh(struct test *t, unsigned qos)
{
    need(t, qos == 1 ? NEED_QOS1 : NEED_QOS2);
    struct peer *p = stay(t, qos == 1 ? "~/a,q1" : "~/a,q2");

    publish(t, "q%u ~/a =now", qos);
    const struct heard *h = hear(p, "publish q%u #[1-9]* ~/a =now", qos);
    check(t, h->first == (0x30 | qos << 1), "it begins with %02X", h->first);
    say(p, qos == 1 ? "puback #%u" : "pubrec #%u 80", h->packet_id);
    cut(p);
    publish(t, "q%u ~/a =later", qos);
    p = come_back(t);
    h = hear(p, "publish q%u #[1-9]* ~/a =later", qos);
    check(t, h->first == (0x30 | qos << 1), "it begins with %02X", h->first);
}

static void test_mqtt_4_3_2_2_qos_1_and_dup_0(struct test *t)
{
    comes_fresh(t, 1);
}

static void test_mqtt_4_3_2_3_unacknowledged_until_puback(struct test *t)
{
    struct peer *p = stay(t, "~/a,q1");
    unsigned first = delivered(t, p, 1, "1"), second = delivered(t, p, 1, "2");

    p = cut_and_back(t, p);
    hear(p, "publish q1*#%u ~/a =1", first);
    hear(p, "publish q1*#%u ~/a =2", second);
    say(p, "puback #%u", first);
    p = cut_and_back(t, p);
    hear(p, "publish q1*#%u ~/a =2", second);
    say(p, "puback #%u", second);
    p = cut_and_back(t, p);
    silent(p);
}

static void test_mqtt_4_3_2_3_also_across_a_crash(struct test *t)
{
    struct peer *p = stay(t, "~/a,q1");
    unsigned first = delivered(t, p, 1, "1"), second = delivered(t, p, 1, "2");

    say(p, "puback #%u", first);
    /* A broker need not store a PUBACK at once: losing it does no harm. */
    let_pass(t, 1200);
    p = crash_and_back(t);
    find(p, "publish q1*#%u ~/a =2", second);
    if (diagnosed(t)) /* others may have lost the PUBACK (4.1.1) */
        silent(p);
}

static void test_mqtt_4_3_2_4_puback_has_the_identifier(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say(p, "publish #7 q1 ~/a =x");
    hear(p, "puback #7 [01]0*");
    say(p, "publish #65535 q1 ~/a =x");
    hear(p, "puback #65535 [01]0*");
    say(p, "publish #256 q1 ~/a =x");
    hear(p, "puback #256 [01]0*");
}

static void test_mqtt_4_3_2_4_and_the_message_is_in_its_hands(struct test *t)
{
    struct peer *p = stay(t, "~/a,q1"), *from = peer_join(t, "c1 id=~b");

    cut(p);
    say(from, "publish #7 q1 ~/a =x");
    hear(from, "puback #7 [01]0*");
    cut(from);
    p = come_back(t);
    hear(p, "publish q1 #* ~/a =x");
}

static void test_mqtt_4_3_2_5_after_puback_it_is_a_new_message(struct test *t)
{
    static const char *const words[] = {"~/a =1", "~/a =2", "dup ~/a =3",
                                        "dup ~/a =3"};
    struct peer *watcher = peer_watch(t, "~/a");
    struct peer *p = peer_join(t, "c1 id=~a");

    for (size_t i = 0; i < COUNT(words); i++) {
        say(p, "publish #7 q1 %s", words[i]);
        hear(p, "puback #7 [01]0*");
    }
    const char *came = serve(watcher, 4);
    check(t, strcmp(came, "1 2 3 3 ") == 0, "%s came, not 1 2 3 3", came);
}

/* ============================ 4. QoS 2, the broker sends ================= */

static void test_mqtt_4_3_3_1_each_open_message_has_its_own(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");
    unsigned ids[16];

    for (int i = 0; i < 8; i++) {
        ids[i] = delivered(t, p, 2, "old");
        if (i < 4) /* these are at the stage of PUBREL */
            receive(p, ids[i]);
    }
    for (unsigned i = 0; i < 8; i++)
        publish(t, "q%u ~/a =new", 1 + i % 2);
    all_differ(t, ids, 8 + collect(p, ids + 8, 8));
}

static void test_mqtt_4_3_3_1_only_what_is_settled_is_free(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");
    unsigned ids[8];

    for (int i = 0; i < 4; i++) {
        ids[i] = delivered(t, p, 2, "old");
        receive(p, ids[i]);
    }
    /* the first two are settled, the last two stay open */
    say(p, "pubcomp #%u", ids[0]);
    say(p, "pubcomp #%u", ids[1]);
    for (int i = 4; i < 8; i++)
        ids[i] = delivered(t, p, 2, "new");
    all_differ(t, ids + 2, 6);
}

static void test_mqtt_4_3_3_2_qos_2_and_dup_0(struct test *t)
{
    comes_fresh(t, 2);
}

static void test_mqtt_4_3_3_3_unacknowledged_until_pubrec(struct test *t)
{
    struct peer *p = stay(t, "~/a,q2");
    unsigned first = delivered(t, p, 2, "1"), second = delivered(t, p, 2, "2");

    p = cut_and_back(t, p);
    hear(p, "publish q2*#%u ~/a =1", first);
    hear(p, "publish q2*#%u ~/a =2", second);
    receive(p, first);
    p = cut_and_back(t, p);
    hear(p, "publish q2*#%u ~/a =2", second);
    absent(p, "publish *");
}

static void test_mqtt_4_3_3_3_also_across_a_crash(struct test *t)
{
    struct peer *p = stay(t, "~/a,q2");

    say(p, "pubrec #%u 80", delivered(t, p, 2, "settled"));
    unsigned id = delivered(t, p, 2, "x");
    p = crash_and_back(t);
    find(p, "publish q2*#%u ~/a =x", id);
    receive(p, id);
    say(p, "pubcomp #%u", id);
    if (diagnosed(t)) /* others may have lost the PUBREC of 0x80 (4.1.1) */
        silent(p);
}

static void test_mqtt_4_3_3_4_pubrec_brings_pubrel(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");
    unsigned first = delivered(t, p, 2, "1"), second = delivered(t, p, 2, "2");

    receive(p, second);
    silent(p);
    receive(p, first);
    silent(p);
}

static void test_mqtt_4_3_3_4_also_after_the_session_resumed(struct test *t)
{
    struct peer *p = stay(t, "~/a,q2");
    unsigned id = delivered(t, p, 2, "x");

    p = cut_and_back(t, p);
    hear(p, "publish q2*#%u ~/a =x", id);
    receive(p, id);
}

static void test_mqtt_4_3_3_4_pubrec_of_0x80_brings_none(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");

    say(p, "pubrec #%u 80", delivered(t, p, 2, "1"));
    silent(p);
    say(p, "pubrec #%u 97", delivered(t, p, 2, "2"));
    silent(p);
}

static void test_mqtt_4_3_3_5_unacknowledged_until_pubcomp(struct test *t)
{
    struct peer *p = stay(t, "~/a,q2");
    unsigned first = delivered(t, p, 2, "1"), second = delivered(t, p, 2, "2");

    receive(p, first);
    receive(p, second);
    p = cut_and_back(t, p);
    find(p, "pubrel #%u 00", first);
    find(p, "pubrel #%u 00", second);
    say(p, "pubcomp #%u", first);
    p = cut_and_back(t, p);
    hear(p, "pubrel #%u 00", second);
    say(p, "pubcomp #%u", second);
    p = cut_and_back(t, p);
    silent(p);
}

static void test_mqtt_4_3_3_5_also_across_a_crash(struct test *t)
{
    struct peer *p = stay(t, "~/a,q2");
    unsigned first = delivered(t, p, 2, "1"), second = delivered(t, p, 2, "2");

    receive(p, first);
    receive(p, second);
    say(p, "pubcomp #%u", first);
    /* A broker need not store a PUBCOMP at once: losing it does no harm. */
    let_pass(t, 1200);
    p = crash_and_back(t);
    find(p, "pubrel #%u 00", second);
    say(p, "pubcomp #%u", second);
    if (diagnosed(t)) /* others may have lost the PUBCOMP (4.1.1) */
        silent(p);
}

static void test_mqtt_4_3_3_6_after_pubrel_no_publish(struct test *t)
{
    struct peer *p = stay(t, "~/a,q2");
    unsigned id = delivered(t, p, 2, "x");

    receive(p, id);
    p = cut_and_back(t, p);
    hear(p, "pubrel #%u 00", id);
    silent(p);
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u *", id);
    silent(p);
}

static void test_mqtt_4_3_3_6_also_across_a_crash(struct test *t)
{
    struct peer *p = stay(t, "~/a,q2");

    receive(p, delivered(t, p, 2, "x"));
    p = crash_and_back(t);
    absent(p, "publish *");
}

static void test_mqtt_4_3_3_7_what_was_sent_does_not_expire(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q2");

    publish(t, "q2 ~/a =x mei=1");
    unsigned id = hear(p, "publish q2 #* ~/a =x*")->packet_id;
    let_pass(t, 2500);
    receive(p, id);
    say(p, "pubcomp #%u", id);
    silent(p);
}

static void test_mqtt_4_3_3_7_not_even_while_the_client_is_away(struct test *t)
{
    struct peer *p = stay(t, "~/a,q2");

    publish(t, "q2 ~/a =x mei=1");
    unsigned id = hear(p, "publish q2 #* ~/a =x*")->packet_id;
    cut(p);
    let_pass(t, 2500);
    p = come_back(t);
    hear(p, "publish q2*#%u ~/a =x*", id);
    receive(p, id);
    say(p, "pubcomp #%u", id);
    silent(p);
}

/* ============================ 5. QoS 2, the broker receives ============== */

/* PUBREL, and the PUBCOMP that answers it. */
static void let_go(struct peer *p, unsigned id)
{
    say(p, "pubrel #%u", id);
    hear(p, "pubcomp #%u 00*", id);
}

/* This PUBLISH with Packet Identifier 7 is received. */
static void hand_over(struct peer *p, const char *words)
{
    say(p, "publish #7 q2 %s", words);
    hear(p, "pubrec #7 [01]0*");
}

static void test_mqtt_4_3_3_8_pubrec_has_the_identifier(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say(p, "publish #7 q2 ~/a =x");
    hear(p, "pubrec #7 [01]0*");
    say(p, "publish #65535 q2 ~/a =x");
    hear(p, "pubrec #65535 [01]0*");
    say(p, "publish #256 q2 ~/a =x");
    hear(p, "pubrec #256 [01]0*");
}

static void test_mqtt_4_3_3_8_and_the_message_is_in_its_hands(struct test *t)
{
    struct peer *p = stay(t, "~/a,q2"), *from = peer_join(t, "c1 id=~b");

    cut(p);
    hand_over(from, "~/a =x");
    let_go(from, 7);
    cut(from);
    p = come_back(t);
    unsigned id = hear(p, "publish q2 #* ~/a =x")->packet_id;
    receive(p, id);
    say(p, "pubcomp #%u", id);
    silent(p);
}

static void
test_mqtt_4_3_3_9_after_a_failure_it_is_a_new_message(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/a"), *p = peer_join(t, "c1 id=~a");

    say(p, "publish #7 q2 $SYS/~/a =refused");
    const struct heard *h = next(p, WAIT);
    int failure =
        h != NULL && h->packet.type == MQTT_PUBREC && h->packet.reason >= 0x80;
    if (!failure && !diagnosed(t))
        not_offered(t, "no PUBREC refuses a PUBLISH to $SYS/");
    check(t, failure, "a PUBLISH to $SYS/ was not refused");
    hand_over(p, "~/a =taken");
    let_go(p, 7);
    hear(watcher, "publish q0 ~/a =taken");
}

/* The PUBLISH with Packet Identifier 7 once more. */
static void repeat(struct peer *p, const char *words)
{
    say(p, "publish #7 q2 dup %s", words);
    hear(p, "pubrec #7 [01]0*");
}

static void test_mqtt_4_3_3_10_until_pubrel_it_is_a_repeat(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/a"), *p = stay(t, "~/b");

    hand_over(p, "~/a =x");
    for (int i = 0; i < 2; i++) {
        p = cut_and_back(t, p);
        repeat(p, "~/a =x");
    }
    let_go(p, 7);
    hear(watcher, "publish q0 ~/a =x");
    silent(watcher);
}

/* A client must not do this [MQTT-4.4.0-1]: a broker may end the connection,
 * but it passes nothing on twice. */
static void test_mqtt_4_3_3_10_also_on_the_same_connection(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/a"), *p = peer_join(t, "c1 id=~a");

    hand_over(p, "~/a =x");
    for (int i = 0; i < 2; i++) {
        say_wrong(p, "publish #7 q2 dup ~/a =x");
        if (!diagnosed(t) && !comes(p, WAIT, "pubrec #7 *"))
            return;
        const struct heard *h = hear(p, "pubrec #7 *");
        if (!diagnosed(t) && h->packet.reason >= 0x80)
            return; /* 0x91, say */
        check(t, h->packet.reason < 0x80, "the repeat is refused: %s", h->text);
    }
    let_go(p, 7);
    hear(watcher, "publish q0 ~/a =x");
    silent(watcher);
}

static void test_mqtt_4_3_3_10_also_across_a_crash(struct test *t)
{
    struct peer *p = stay(t, "~/a,q1");

    hand_over(p, "~/a =x");
    p = crash_and_back(t);
    repeat(p, "~/a =x");
    let_go(p, 7);
    hear(p, "publish q1*#* ~/a =x");
    silent(p);
}

static void test_mqtt_4_3_3_11_pubrel_brings_pubcomp(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    for (unsigned id = 7; id < 10; id++) {
        say(p, "publish #%u q2 ~/a =x", id);
        hear(p, "pubrec #%u [01]0*", id);
    }
    let_go(p, 9);
    let_go(p, 7);
    say(p, "pubrel #7");
    hear(p, "pubcomp #7 *");
    let_go(p, 8);
    silent(p);
}

static void test_mqtt_4_3_3_11_also_after_the_session_resumed(struct test *t)
{
    struct peer *p = stay(t, "~/b");

    hand_over(p, "~/a =x");
    p = cut_and_back(t, p);
    let_go(p, 7);
    p = cut_and_back(t, p);
    say(p, "pubrel #7");
    hear(p, "pubcomp #7 *");
}

static void test_mqtt_4_3_3_12_after_pubcomp_it_is_a_new_message(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/a"), *p = stay(t, "~/b");

    for (int i = 0; i < 2; i++) {
        hand_over(p, "~/a =x");
        let_go(p, 7);
        hear(watcher, "publish q0 ~/a =x");
    }
    p = cut_and_back(t, p);
    hand_over(p, "~/a =x");
    let_go(p, 7);
    hear(watcher, "publish q0 ~/a =x");
}

static void test_mqtt_4_3_3_13_an_expired_message_is_finished(struct test *t)
{
    struct peer *p = stay(t, "~/a,q2"), *from = peer_join(t, "c1 id=~b");

    cut(p);
    hand_over(from, "~/a =x mei=1");
    let_pass(t, 2500);
    let_go(from, 7);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_4_3_1_1_qos_0_and_dup_0),
    TEST(test_mqtt_4_3_1_1_and_never_again),
    TEST(test_mqtt_4_3_2_1_each_open_message_has_its_own),
    TEST(test_mqtt_4_3_2_1_only_what_is_settled_is_free),
    TEST(test_mqtt_4_3_2_1_nor_is_what_was_open_before),
    TEST(test_mqtt_4_3_2_2_qos_1_and_dup_0),
    TEST(test_mqtt_4_3_2_3_unacknowledged_until_puback),
    TEST_RESTARTS(test_mqtt_4_3_2_3_also_across_a_crash),
    TEST(test_mqtt_4_3_2_4_puback_has_the_identifier),
    TEST(test_mqtt_4_3_2_4_and_the_message_is_in_its_hands),
    TEST(test_mqtt_4_3_2_5_after_puback_it_is_a_new_message),
    TEST(test_mqtt_4_3_3_1_each_open_message_has_its_own),
    TEST(test_mqtt_4_3_3_1_only_what_is_settled_is_free),
    TEST(test_mqtt_4_3_3_2_qos_2_and_dup_0),
    TEST(test_mqtt_4_3_3_3_unacknowledged_until_pubrec),
    TEST_RESTARTS(test_mqtt_4_3_3_3_also_across_a_crash),
    TEST(test_mqtt_4_3_3_4_pubrec_brings_pubrel),
    TEST(test_mqtt_4_3_3_4_also_after_the_session_resumed),
    TEST(test_mqtt_4_3_3_4_pubrec_of_0x80_brings_none),
    TEST(test_mqtt_4_3_3_5_unacknowledged_until_pubcomp),
    TEST_RESTARTS(test_mqtt_4_3_3_5_also_across_a_crash),
    TEST(test_mqtt_4_3_3_6_after_pubrel_no_publish),
    TEST_RESTARTS(test_mqtt_4_3_3_6_also_across_a_crash),
    TEST(test_mqtt_4_3_3_7_what_was_sent_does_not_expire),
    TEST(test_mqtt_4_3_3_7_not_even_while_the_client_is_away),
    TEST(test_mqtt_4_3_3_8_pubrec_has_the_identifier),
    TEST(test_mqtt_4_3_3_8_and_the_message_is_in_its_hands),
    TEST(test_mqtt_4_3_3_9_after_a_failure_it_is_a_new_message),
    TEST(test_mqtt_4_3_3_10_until_pubrel_it_is_a_repeat),
    TEST(test_mqtt_4_3_3_10_also_on_the_same_connection),
    TEST_RESTARTS(test_mqtt_4_3_3_10_also_across_a_crash),
    TEST(test_mqtt_4_3_3_11_pubrel_brings_pubcomp),
    TEST(test_mqtt_4_3_3_11_also_after_the_session_resumed),
    TEST(test_mqtt_4_3_3_12_after_pubcomp_it_is_a_new_message),
    TEST(test_mqtt_4_3_3_13_an_expired_message_is_finished),
};

const struct section section_4_3 = SECTION("4.3 Quality of Service", cases);
