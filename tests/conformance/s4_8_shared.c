/*
 * s4_8_shared.c - 4.8 Subscriptions.
 */
#include "suite.h"

/* ---- the filter --------------------------------------------------------- */

/* None of these filters is granted, or matches anything. */
static void shares_idle(struct test *t, const char *const *filters, size_t n,
                        const char *statement)
{
    need(t, NEED_SHARED);
    struct peer *p = filters_refused(t, filters, n, statement);

    publish(t, "~/a =x");
    silent(p);
}

static void test_mqtt_4_8_2_1_a_share_has_a_name(struct test *t)
{
    const char *const filters[] = {"$share//~/a", "$share/", "$share//",
                                   "$share///~/a"};

    shares_idle(t, filters, COUNT(filters), "MQTT-4.8.2-1");
}

static void test_mqtt_4_8_2_1_another_beginning_makes_no_share(struct test *t)
{
    const char *const filters[] = {"$SHARE/~g/~/a", "share/~g/~/a",
                                   "$share~g/~/a", "/$share/~g/~/a"};
    struct peer *p = peer_join(t, "c1 id=~a");

    for (size_t i = 0; i < COUNT(filters); i++) {
        say(p, "subscribe #1 %s", filters[i]);
        hear(p, "suback #1 ??");
    }
    publish(t, "~/a =x");
    publish(t, "share/~g/~/a =y");
    hear(p, "publish q0 share/~g/~/a =y");
    silent(p);
}

static void test_mqtt_4_8_2_2_its_name_ends_at_a_slash(struct test *t)
{
    const char *const filters[] = {
        "$share/~g",      "$share/~g/",     "$share/+/~/a",   "$share/#/~/a",
        "$share/~g+/~/a", "$share/~#g/~/a", "$share/+~g/~/a", "$share/#"};

    shares_idle(t, filters, COUNT(filters), "MQTT-4.8.2-2");
}

static void test_mqtt_4_8_2_2_a_filter_follows(struct test *t)
{
    struct peer *p =
        peer_watch(t, "$share/~g/~/+/b $share/~g//~/a $share/~g/~");

    publish(t, "~/a/b =1");
    hear(p, "publish q0 ~/a/b =1");
    publish(t, "/~/a =2");
    hear(p, "publish q0 /~/a =2");
    publish(t, "~ =3");
    hear(p, "publish q0 ~ =3");
    publish(t, "~/a =4");
    silent(p);
}

/* ---- the members -------------------------------------------------------- */

/* Two clients, ~0 and ~1, that share ~/a. */
static void members_join(struct test *t, struct peer *member[2],
                         const char *connect)
{
    for (int i = 0; i < 2; i++) {
        member[i] = peer_join(t, "c1 id=~%d %s", i, connect);
        subscribe(member[i], "$share/~g/~/a,q2");
    }
}

/* Which one has got the message. */
static int member_chosen(struct test *t, struct peer *member[2])
{
    for (uint64_t end = now() + WAIT; now() < end;)
        for (int i = 0; i < 2; i++)
            if (comes(member[i], 10, "publish*"))
                return i;
    test_fail(t, "no member got the message");
    return 0;
}

static void test_mqtt_4_8_2_3_the_granted_qos_bounds_each_copy(struct test *t)
{
    struct peer *p = peer_watch(t, "$share/~0/~/a $share/~1/~/a,q1 "
                                   "$share/~2/~/a,q2");

    publish(t, "q2 ~/a =x");
    find(p, "publish q0 ~/a =x");
    find(p, "publish q1 #* ~/a =x");
    find(p, "publish q2 #* ~/a =x");
    publish(t, "q1 ~/a =y");
    find(p, "publish q0 ~/a =y");
    find(p, "publish q1 #* ~/a =y");
    find(p, "publish q1 #* ~/a =y");
    silent(p);
}

static void test_mqtt_4_8_2_3_that_of_the_member_counts(struct test *t)
{
    struct peer *member[2] = {peer_watch(t, "$share/~g/~/a"),
                              peer_watch(t, "$share/~g/~/a,q1")};

    for (int n = 0; n < 8; n++) {
        publish(t, "q2 ~/a =%d", n);
        int k = member_chosen(t, member);
        unsigned id =
            hear(member[k], "publish q%d *~/a =%d", k, n)->packet_id;
        if (k == 1) /* or its window may fill while messages wait for it */
            say(member[1], "puback #%u", id);
    }
    silent(member[0]);
    silent(member[1]);
}

static void test_mqtt_4_8_2_3_of_one_that_takes_over_too(struct test *t)
{
    struct peer *p = peer_watch(t, "$share/~g/~/a,q1"), *heir;

    publish(t, "q1 ~/a =x");
    hear(p, "publish q1 #* ~/a =x");
    heir = peer_watch(t, "$share/~g/~/a");
    cut(p);
    /* The broker should send it to the heir, but need not. */
    if (comes(heir, QUIET, "publish*"))
        hear(heir, "publish q0 ~/a =x");
}

/* ---- QoS 2 deliveries that are cut off ---------------------------------- */

static void
test_mqtt_4_8_2_4_it_is_finished_with_the_same_member(struct test *t)
{
    struct peer *member[2];

    need(t, NEED_SESSIONS);
    members_join(t, member, "x=60");
    publish(t, "q2 ~/a =x");
    int k = member_chosen(t, member);
    unsigned id = hear(member[k], "publish q2 #* ~/a =x")->packet_id;
    cut(member[k]);
    silent(member[!k]);
    member[k] = peer_join(t, "c0 id=~%d x=60", k);
    hear(member[k], "publish q2 dup #%u ~/a =x", id);
    say(member[k], "pubrec #%u", id);
    hear(member[k], "pubrel #%u 00", id);
    cut(member[k]);
    silent(member[!k]);
    member[k] = peer_join(t, "c0 id=~%d", k);
    hear(member[k], "pubrel #%u 00", id);
    say(member[k], "pubcomp #%u", id);
    silent(member[k]);
}

/* This session after a crash. */
static struct peer *member_back(struct test *t, const char *id)
{
    return peer_join(t, "c0 id=%s x=60", id);
}

static void test_mqtt_4_8_2_4_after_a_crash_too(struct test *t)
{
    const char *const ids[] = {"~0", "~1"};
    struct peer *member[2];

    need(t, NEED_SESSIONS);
    members_join(t, member, "x=60");
    publish(t, "q2 ~/a =x");
    int k = member_chosen(t, member);
    unsigned id = hear(member[k], "publish q2 #* ~/a =x")->packet_id;
    restart(t);
    member[!k] = member_back(t, ids[!k]);
    silent(member[!k]);
    member[k] = member_back(t, ids[k]);
    hear(member[k], "publish q2 dup #%u ~/a =x", id);
    say(member[k], "pubrec #%u", id);
    hear(member[k], "pubrel #%u 00", id);
    restart(t);
    member[!k] = member_back(t, ids[!k]);
    member[k] = member_back(t, ids[k]);
    hear(member[k], "pubrel #%u 00", id);
    say(member[k], "pubcomp #%u", id);
    silent(member[!k]);
}

/* The member that has read a QoS 2 message goes; returns the other one. */
static struct peer *member_goes(struct test *t, const char *connect,
                                int answers, int *gone)
{
    struct peer *member[2];

    members_join(t, member, connect);
    publish(t, "q2 ~/a =x");
    int k = member_chosen(t, member);
    unsigned id = hear(member[k], "publish q2 #* ~/a =x")->packet_id;
    if (answers) {
        say(member[k], "pubrec #%u", id);
        hear(member[k], "pubrel #%u 00", id);
    }
    cut(member[k]);
    *gone = k;
    return member[!k];
}

/* This one is the share's last member, and did not get the message. */
static void heir_got_nothing(struct test *t, struct peer *heir)
{
    silent(heir);
    publish(t, "q2 ~/a =next");
    hear(heir, "publish q2 #* ~/a =next");
}

static void test_mqtt_4_8_2_5_nobody_inherits_it(struct test *t)
{
    int gone;

    heir_got_nothing(t, member_goes(t, "", 0, &gone));
    heir_got_nothing(t, member_goes(t, "", 1, &gone));
}

static void test_mqtt_4_8_2_5_nor_when_the_session_expires(struct test *t)
{
    int gone;

    need(t, NEED_SESSIONS);
    struct peer *heir = member_goes(t, "x=1", 0, &gone);
    let_pass(t, 2500);
    heir_got_nothing(t, heir);
    peer_join(t, "c0 id=~%d", gone);
    silent(heir);
}

static void test_mqtt_4_8_2_5_nor_when_it_is_thrown_away(struct test *t)
{
    int gone;

    need(t, NEED_SESSIONS);
    struct peer *heir = member_goes(t, "x=60", 0, &gone);
    silent(peer_join(t, "c1 id=~%d", gone));
    heir_got_nothing(t, heir);
}

/* ---- deliveries that are rejected --------------------------------------- */

/* A member answers a message of this QoS with an error, then is gone. */
static void member_rejects(struct test *t, int qos, const char *answer)
{
    struct peer *member[2];

    members_join(t, member, "");
    publish(t, "q%d ~/a =x", qos);
    int k = member_chosen(t, member);
    unsigned id = hear(member[k], "publish q%d #* ~/a =x", qos)->packet_id;
    say(member[k], "%s #%u 97", answer, id);
    silent(member[k]);
    cut(member[k]);
    heir_got_nothing(t, member[!k]);
}

static void
test_mqtt_4_8_2_6_an_error_in_puback_ends_the_message(struct test *t)
{
    member_rejects(t, 1, "puback");
}

static void
test_mqtt_4_8_2_6_an_error_in_pubrec_ends_the_message(struct test *t)
{
    member_rejects(t, 2, "pubrec");
}

static const struct test_case cases[] = {
    TEST(test_mqtt_4_8_2_1_a_share_has_a_name),
    TEST(test_mqtt_4_8_2_1_another_beginning_makes_no_share),
    TEST(test_mqtt_4_8_2_2_its_name_ends_at_a_slash),
    TEST(test_mqtt_4_8_2_2_a_filter_follows),
    TEST(test_mqtt_4_8_2_3_the_granted_qos_bounds_each_copy),
    TEST(test_mqtt_4_8_2_3_that_of_the_member_counts),
    TEST(test_mqtt_4_8_2_3_of_one_that_takes_over_too),
    TEST(test_mqtt_4_8_2_4_it_is_finished_with_the_same_member),
    TEST_RESTARTS(test_mqtt_4_8_2_4_after_a_crash_too),
    TEST(test_mqtt_4_8_2_5_nobody_inherits_it),
    TEST(test_mqtt_4_8_2_5_nor_when_the_session_expires),
    TEST(test_mqtt_4_8_2_5_nor_when_it_is_thrown_away),
    TEST(test_mqtt_4_8_2_6_an_error_in_puback_ends_the_message),
    TEST(test_mqtt_4_8_2_6_an_error_in_pubrec_ends_the_message),
};

const struct section section_4_8 = SECTION("4.8 Subscriptions", cases);
