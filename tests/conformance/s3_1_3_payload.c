/*
 * s3_1_3_payload.c - 3.1.3 CONNECT: payload, and 3.1.4: actions.
 */
#include <stdio.h>
#include <string.h>

#include "suite.h"

/* A client that has sent CONNECT with these bytes from the flags on. */
static struct peer *connect_bytes(struct test *t, const char *bytes)
{
    struct peer *p = peer_open(t);

    say_frame(p, 0x10, "{'MQTT'} 05 %s", bytes);
    return p;
}

static int has_assigned(const struct peer *p)
{
    return MQTT_HAS(&connack(p)->packet.props,
                    MQTT_ASSIGNED_CLIENT_IDENTIFIER) != 0;
}

/* This client was taken over: its connection ends, and if there is a
 * DISCONNECT before that, it says so. */
static void displaced(struct test *t, struct peer *p)
{
    check(t, comes(p, WAIT, "disconnect 8e*") || !comes(p, 0, "disconnect*"),
          "the DISCONNECT of the first client has not Reason Code 0x8E");
    refused_as(p, "8e", "MQTT-3.1.4-3");
}

/* Behind the CONNECT of p comes one that nobody would refuse: too late, for the
 * connection is over. */
static void refused_for_good(struct peer *p, const char *codes,
                             const char *statements)
{
    say_wrong(p, "connect c1 id=~z");
    release(p);
    refused_as(p, codes, statements);
}

/* A session of ~a with a subscription to ~/a, and no connection. */
static void session_leave(struct test *t)
{
    need(t, NEED_SESSIONS | NEED_QOS1);
    struct peer *p = peer_join(t, "c1 id=~a x=60");
    subscribe(p, "~/a,q1");
    cut(p);
}

/* ---- 3.1.3: the fields --------------------------------------------------- */

/* Accounts are nobody's business here: where these are refused, those that
 * the suite was given do as well. */
static struct peer *join_with_all_fields(struct test *t)
{
    const char *will = "up=a:1 will q1 ~/w =gone ct=text up=b:2";
    struct peer *p = peer_open(t);

    say(p, "connect c1 id=~a user=~u pass=~p %s", will);
    const struct heard *h = next(p, WAIT);
    if (h == NULL || h->packet.reason == 0x86 || h->packet.reason == 0x87)
        return peer_join(t, "c1 id=~a %s", will);
    check(t, h->packet.reason == 0, "CONNECT with all its fields is refused");
    return p;
}

static void test_mqtt_3_1_3_1_each_field_is_read_at_its_place(struct test *t)
{
    struct peer *w = peer_watch(t, "~/w"), *p = join_with_all_fields(t);

    peer_join(t, "c1 id=~a");
    displaced(t, p);
    hear(w, "publish q0 ~/w =gone*ct=text*up=b:2*");
}

static void test_mqtt_3_1_3_1_another_order_is_malformed(struct test *t)
{
    /* What should be Will Properties are the first bytes of the Will Topic:
     * no property, and then a topic that is longer than the packet. */
    struct peer *p =
        connect_bytes(t, "06 00 00 [] {'~a'} {'~/w'} [] {'gone'}");

    refused_as(p, "81", "MQTT-3.1.3-1 MQTT-3.1.2-9");
}

static void sessions_are_told_apart(struct test *t)
{
    static const char *const others[] = {"~A", "~aa", "~b"};

    for (int i = 0; i < 3; i++) {
        struct peer *p = peer_join(t, "c0 id=%s x=60", others[i]);
        check(t, !present(p), "%s has the session of ~a", others[i]);
        silent(p);
    }
    struct peer *p = peer_join(t, "c0 id=~a x=60");
    check(t, present(p), "~a does not get its session back");
    hear(p, "publish q1 #* ~/a =kept");
}

static void test_mqtt_3_1_3_2_the_identifier_names_the_session(struct test *t)
{
    session_leave(t);
    publish(t, "q1 ~/a =kept");
    sessions_are_told_apart(t);
}

static void test_mqtt_3_1_3_2_also_after_a_crash(struct test *t)
{
    session_leave(t);
    publish(t, "q1 ~/a =kept");
    restart(t);
    sessions_are_told_apart(t);
}

static void test_mqtt_3_1_3_3_it_must_be_there(struct test *t)
{
    refused(connect_bytes(t, "02 00 00 []"), "81");
    refused(connect_bytes(t, "02 00 00 [] 00"), "81");
    refused(connect_bytes(t, "02 00 00 [] 00 09 'ab'"), "81");
}

static void test_mqtt_3_1_3_4_it_must_be_utf_8(struct test *t)
{
    static const char *const wrong[] = {
        "C3 28", "C0 80", "ED A0 80", "E0 80 AF", "F4 90 80 80", "FF", "C3",
    };

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char bytes[60];
        snprintf(bytes, sizeof bytes, "02 00 00 [] {'~' %s}", wrong[i]);
        refused(connect_bytes(t, bytes), "81");
    }
}

static void test_mqtt_3_1_3_5_letters_and_digits_are_taken(struct test *t)
{
    static const char *const ids[] = {
        "~0123456789",   "~ABCDEFGHIJKL", "~MNOPQRSTUVWX",
        "~YZabcdefghij", "~klmnopqrstuv", "~wxyz",
    };

    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        check(t, !has_assigned(peer_join(t, "c1 id=%s", ids[i])),
              "%s is given another Client Identifier", ids[i]);
}

static void test_mqtt_3_1_3_5_1_to_23_bytes_are_taken(struct test *t)
{
    int room = 23 - (int)strlen(prefix(t));
    /* One byte has no room for the prefix. */
    struct peer *all[] = {
        peer_join(t, "c1 id=%c", prefix(t)[2]),
        peer_join(t, "c1 id=~%0*d", room - 1, 1),
        peer_join(t, "c1 id=~%0*d", room, 1),
        peer_join(t, "c1 id=~%0*d", room, 2),
    };

    /* None is cut: then one of them would have displaced another. */
    for (int i = 0; i < 4; i++) {
        check(t, !has_assigned(all[i]), "another Client Identifier is given");
        say(all[i], "pingreq");
        hear(all[i], "pingresp");
    }
    silent(all[2]);
}

static void test_mqtt_3_1_3_6_each_nameless_client_gets_a_name(struct test *t)
{
    need_assigned(t);
    struct peer *all[4];
    for (int i = 0; i < 4; i++) {
        all[i] = peer_join(t, "c1");
        check(t, assigned(all[i]).n > 0, "CONNACK assigns none");
        for (int k = 0; k < i; k++)
            check(t, assigned(all[i]).n != assigned(all[k]).n ||
                      memcmp(assigned(all[i]).p, assigned(all[k]).p,
                             assigned(all[i]).n) != 0,
                  "two clients are given the same");
    }
    /* Nobody was displaced. */
    for (int i = 0; i < 4; i++) {
        say(all[i], "pingreq");
        hear(all[i], "pingresp");
    }
}

static void test_mqtt_3_1_3_7_it_names_the_session(struct test *t)
{
    need_assigned(t);
    need(t, NEED_SESSIONS | NEED_QOS1);
    struct peer *p = peer_join(t, "c1 x=60");
    struct mqtt_bytes id = assigned(p);
    subscribe(p, "~/a,q1");
    cut(p);
    publish(t, "q1 ~/a =kept");
    p = peer_join(t, "c0 x=60 id=%.*s", (int)id.n, (const char *)id.p);
    check(t, present(p), "the session of %.*s is not there", (int)id.n,
          (const char *)id.p);
    hear(p, "publish q1 #* ~/a =kept");
}

static void test_mqtt_3_1_3_7_it_names_the_client(struct test *t)
{
    need_assigned(t);
    struct peer *p = peer_join(t, "c1");
    struct mqtt_bytes id = assigned(p);

    check(t, id.n > 0, "CONNACK assigns none");
    peer_join(t, "c1 id=%.*s", (int)id.n, (const char *)id.p);
    displaced(t, p);
}

static void test_mqtt_3_1_3_8_an_impossible_one_ends_it(struct test *t)
{
    struct peer *p = peer_open(t);

    hold(p);
    say_frame(p, 0x10, "{'MQTT'} 05 02 00 00 [] {'~' FF}");
    refused_for_good(p, "81 85", "MQTT-3.1.3-8 MQTT-3.1.3-4");
}

static void test_mqtt_3_1_3_8_one_it_does_not_like_ends_it(struct test *t)
{
    static const char *const odd[] = {
        "", "~%20a", "~/a", "~+", "~#", "$~", "~%7F", "~%EF%BF%BF",
        "~234567890123456789012345678901234567890123456789012345678901234567",
    };
    int liked = 0, all = sizeof odd / sizeof *odd;

    for (int i = 0; i < all; i++) {
        struct peer *p = peer_open(t);
        say(p, "connect c1 id=%s", odd[i]);
        if (comes(p, WAIT, "connack 00*"))
            liked++;
        else
            refused(p, "85");
    }
    if (liked == all)
        not_offered(t, "it takes every Client Identifier");
}

static void test_mqtt_3_1_3_9_no_will_of_who_is_back_in_time(struct test *t)
{
    need(t, NEED_SESSIONS);
    struct peer *w = peer_watch(t, "~/a ~/b ~/c");
    struct peer *a = peer_join(t, "c1 id=~a x=60 will ~/a =back wdi=2");
    peer_join(t, "c1 id=~b x=60 will ~/b =displaced wdi=2");
    struct peer *c = peer_join(t, "c1 id=~c x=60 will ~/c =gone wdi=2");

    cut(a);
    peer_join(t, "c0 id=~a x=60");
    peer_join(t, "c0 id=~b x=60");
    cut(c);
    hear(w, "publish q0 ~/c =gone");
    silent(w);
}

static void test_mqtt_3_1_3_10_user_properties_keep_their_order(struct test *t)
{
    struct peer *w = peer_watch(t, "~/w");
    struct peer *p =
        peer_join(t, "c1 id=~a up=x:y will ~/w =gone wdi=0 ct=text "
                     "up=b:1 up=a:2 up=b:0 up=a:2 up=:");

    cut(p);
    hear(w, "publish q0 ~/w =gone*up=b:1*up=a:2*up=b:0*up=a:2*up=:*");
}

static void test_mqtt_3_1_3_11_the_will_topic_must_be_utf_8(struct test *t)
{
    static const char *const wrong[] = {"C3 28", "ED A0 80", "FF", "E2 82"};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char bytes[80];
        snprintf(bytes, sizeof bytes,
                 "06 00 00 [] {'~a'} [] {'~/' %s} {'gone'}", wrong[i]);
        refused(connect_bytes(t, bytes), "81");
    }
}

static void test_mqtt_3_1_3_12_the_user_name_must_be_utf_8(struct test *t)
{
    refused(connect_bytes(t, "82 00 00 [] {'~a'} {'~' C3 28}"), "81");
    refused(connect_bytes(t, "C2 00 00 [] {'~a'} {ED A0 80} {'word'}"), "81");
    /* It is what follows the will. */
    refused(connect_bytes(t, "C6 00 00 [] {'~a'} [] {'~/w'} {'x'} {FF} {'p'}"),
            "81");
}

/* ---- 3.1.4: what the server does ----------------------------------------- */

static void test_mqtt_3_1_4_1_what_has_another_form_is_refused(struct test *t)
{
    static const char *const wrong[] = {
        /* cut short, or with more behind it than the flags announce */
        "02 00", "02 00 00", "02 00 00 7F {'~a'}", "02 00 00 [] {'~a'} 00",
        "42 00 00 [] {'~a'} {'p'} {'q'}", "06 00 00 [] {'~a'} [] {'~/w'}",
        /* a property that there is not, or not here */
        "02 00 00 [7E 00] {'~a'}", "02 00 00 [23 00 01] {'~a'}",
        "02 00 00 [18 00000001] {'~a'}", "02 00 00 [24 01] {'~a'}",
        "06 00 00 [] {'~a'} [21 00 05] {'~/w'} {'x'}",
        /* one that comes twice */
        "02 00 00 [21 0005 21 0006] {'~a'}",
        "02 00 00 [11 00000001 11 00000001] {'~a'}",
        "06 00 00 [] {'~a'} [18 00000001 18 00000001] {'~/w'} {'x'}",
        /* a value that it may not have */
        "02 00 00 [21 0000] {'~a'}", "02 00 00 [27 00000000] {'~a'}",
        "02 00 00 [17 02] {'~a'}", "02 00 00 [19 02] {'~a'}",
    };

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        refused_as(connect_bytes(t, wrong[i]), "81 82",
                   "MQTT-3.1.4-1 MQTT-2.2.2-1 MQTT-3.1.2-9 MQTT-3.1.2-16 "
                   "MQTT-3.1.2-18");
}

static void test_mqtt_3_1_4_1_authentication_data_of_no_method(struct test *t)
{
    struct peer *p = connect_bytes(t, "02 00 00 [16 {'data'}] {'~a'}");

    refused(p, "82");
}

static void test_mqtt_3_1_4_2_credentials_it_rejects_end_it(struct test *t)
{
    static const char *const wrong[] = {"user=~u pass=~p", "pass=~p"};
    int taken = 0;

    for (int i = 0; i < 2; i++) {
        struct peer *p = peer_open(t);
        say(p, "connect c1 id=~a %s", wrong[i]);
        if (comes(p, WAIT, "connack 00*"))
            taken++;
        else
            refused(p, "86 87");
    }
    if (taken == 2)
        not_offered(t, "it takes every User Name and Password");
}

static void test_mqtt_3_1_4_2_a_check_that_fails_ends_it(struct test *t)
{
    need_refusal(t);
    struct peer *p = peer_open(t);
    hold(p);
    say(p, "connect c1 id=~a am=~none");
    refused_for_good(p, "8c", "MQTT-3.1.4-2 MQTT-4.12.0-1");
}

static void test_mqtt_3_1_4_3_the_second_displaces_the_first(struct test *t)
{
    struct peer *other = peer_join(t, "c1 id=~A");
    struct peer *first = peer_join(t, "c1 id=~a");
    struct peer *second = peer_join(t, "c1 id=~a");

    displaced(t, first);
    struct peer *third = peer_join(t, "c0 id=~a");
    displaced(t, second);
    say(other, "pingreq");
    hear(other, "pingresp");
    silent(third);
}

static void test_mqtt_3_1_4_4_with_0_the_session_goes_on(struct test *t)
{
    session_leave(t);
    struct peer *p = peer_join(t, "c0 id=~a x=60");
    check(t, present(p), "CONNACK does not say so");
    publish(t, "q1 ~/a =one");
    hear(p, "publish q1 #* ~/a =one");
    /* Also if the first connection is still there. */
    p = peer_join(t, "c0 id=~a x=60");
    check(t, present(p), "CONNACK does not say so");
    hear(p, "publish q1 dup #* ~/a =one");
}

static void test_mqtt_3_1_4_4_with_1_it_begins_anew(struct test *t)
{
    session_leave(t);
    publish(t, "q1 ~/a =one");
    struct peer *p = peer_join(t, "c1 id=~a x=60");
    check(t, !present(p), "CONNACK speaks of the old session");
    publish(t, "q1 ~/a =two");
    silent(p);
    subscribe(p, "~/a,q1");
    publish(t, "q1 ~/a =three");
    hear(p, "publish q1 #* ~/a =three");
    /* Also if the first connection is still there. */
    p = peer_join(t, "c1 id=~a x=60");
    check(t, !present(p), "CONNACK speaks of the old session");
    publish(t, "q1 ~/a =four");
    silent(p);
}

static void test_mqtt_3_1_4_4_without_a_session_both_are_new(struct test *t)
{
    check(t, !present(peer_join(t, "c0 id=~a")), "Session Present 1");
    check(t, !present(peer_join(t, "c1 id=~b")), "Session Present 1");
}

static void test_mqtt_3_1_4_5_the_answer_is_connack_0x00(struct test *t)
{
    static const char *const right[] = {
        "c1 id=~a",
        "c1 id=~b ka=65535 x=60 rm=1 mps=1000 tam=10 rri=1 rpi=0 up=a:b",
        "c1 id=~c will ~/w =",
        "c0 id=~d x=60",
        "c0 id=~d x=60", /* on its session, from the first */
    };

    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        struct peer *p = peer_open(t);
        say(p, "connect %s", right[i]);
        hear(p, "connack 00 *");
        say(p, "pingreq");
        hear(p, "pingresp");
    }
}

/* The CONNECT of p is followed at once by all that a client could want; it is
 * refused, and nothing of that happens. */
static void nothing_is_processed(struct test *t, struct peer *p,
                                 const char *codes, const char *statements)
{
    struct peer *w = peer_watch(t, "~/a");

    say_wrong(p, "connect c1 id=~b");
    say_wrong(p, "subscribe #1 ~/a");
    say_wrong(p, "publish q1 #2 ~/a =early");
    say_wrong(p, "pingreq");
    release(p);
    refused_as(p, codes, statements);
    publish(t, "~/a =late");
    hear(w, "publish q0 ~/a =late");
    silent(w);
}

static void test_mqtt_3_1_4_6_nothing_after_a_malformed_connect(struct test *t)
{
    struct peer *p = peer_open(t);

    hold(p);
    say_frame(p, 0x10, "{'MQTT'} 05 03 00 00 [] {'~a'}");
    nothing_is_processed(t, p, "81", "MQTT-3.1.4-6 MQTT-3.1.2-3");
}

static void test_mqtt_3_1_4_6_nothing_after_a_refused_connect(struct test *t)
{
    need_refusal(t);
    struct peer *p = peer_open(t);
    hold(p);
    say(p, "connect c1 id=~a am=~none");
    nothing_is_processed(t, p, "8c", "MQTT-3.1.4-6 MQTT-4.12.0-1");
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_1_3_1_each_field_is_read_at_its_place),
    TEST(test_mqtt_3_1_3_1_another_order_is_malformed),
    TEST(test_mqtt_3_1_3_2_the_identifier_names_the_session),
    TEST_RESTARTS(test_mqtt_3_1_3_2_also_after_a_crash),
    TEST(test_mqtt_3_1_3_3_it_must_be_there),
    TEST(test_mqtt_3_1_3_4_it_must_be_utf_8),
    TEST(test_mqtt_3_1_3_5_letters_and_digits_are_taken),
    TEST(test_mqtt_3_1_3_5_1_to_23_bytes_are_taken),
    TEST(test_mqtt_3_1_3_6_each_nameless_client_gets_a_name),
    TEST(test_mqtt_3_1_3_7_it_names_the_session),
    TEST(test_mqtt_3_1_3_7_it_names_the_client),
    TEST(test_mqtt_3_1_3_8_an_impossible_one_ends_it),
    TEST(test_mqtt_3_1_3_8_one_it_does_not_like_ends_it),
    TEST(test_mqtt_3_1_3_9_no_will_of_who_is_back_in_time),
    TEST(test_mqtt_3_1_3_10_user_properties_keep_their_order),
    TEST(test_mqtt_3_1_3_11_the_will_topic_must_be_utf_8),
    TEST(test_mqtt_3_1_3_12_the_user_name_must_be_utf_8),
    TEST(test_mqtt_3_1_4_1_what_has_another_form_is_refused),
    TEST(test_mqtt_3_1_4_1_authentication_data_of_no_method),
    TEST(test_mqtt_3_1_4_2_credentials_it_rejects_end_it),
    TEST(test_mqtt_3_1_4_2_a_check_that_fails_ends_it),
    TEST(test_mqtt_3_1_4_3_the_second_displaces_the_first),
    TEST(test_mqtt_3_1_4_4_with_0_the_session_goes_on),
    TEST(test_mqtt_3_1_4_4_with_1_it_begins_anew),
    TEST(test_mqtt_3_1_4_4_without_a_session_both_are_new),
    TEST(test_mqtt_3_1_4_5_the_answer_is_connack_0x00),
    TEST(test_mqtt_3_1_4_6_nothing_after_a_malformed_connect),
    TEST(test_mqtt_3_1_4_6_nothing_after_a_refused_connect),
};

const struct section section_3_1_3 =
    SECTION("3.1.3 CONNECT: payload, actions", cases);
