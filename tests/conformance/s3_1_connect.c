/*
 * s3_1_connect.c - 3.1 CONNECT: where it stands, and its variable header.
 *
 *   1. First, and once      3.1.0
 *   2. Name and version     3.1.2.1, 3.1.2.2
 *   3. Flags and payload    3.1.2.3 to 3.1.2.9
 *   4. Clean Start          3.1.2.4
 *   5. The will             3.1.2.5 to 3.1.2.7
 *   6. Keep Alive           3.1.2.10
 *   7. Session Expiry       3.1.2.11.2
 *   8. Maximum Packet Size  3.1.2.11.4
 *   9. Topic aliases        3.1.2.11.5
 *  10. What is requested    3.1.2.11.6, 3.1.2.11.7
 *  11. Authentication       3.1.2.11.9
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "run.h" /* for the bytes of a broker that answers in MQTT 3 */

/* Another message comes through, and nothing came before it. */
static void marked(struct test *t, struct peer *watcher, const char *topic)
{
    publish(t, "~/%s =mark", topic);
    hear(watcher, "publish q0 ~/%s =mark", topic);
}

/* These payloads are delivered, each followed by a blank, and no others
 * before them. */
static void served(struct peer *p, unsigned count, const char *payloads)
{
    const char *came = serve(p, count);

    check(p->test, strcmp(came, payloads) == 0, "these came: %s", came);
}

/* Two ways for connections to end, for what must hold after either. */
static void drop(struct test *t, struct peer *p)
{
    (void)t;
    cut(p);
}

static void crash(struct test *t, struct peer *p)
{
    (void)p;
    restart(t);
}

/* ==== 1. First, and once ================================================== */

/* What the broker sent until it closed the connection. */
static size_t last_bytes(struct peer *p, uint8_t *bytes, size_t size)
{
    uint64_t deadline = now() + WAIT;
    size_t n = 0;

    while (n < size) {
        struct pollfd one = {p->fd, POLLIN, 0};
        poll(&one, 1, 100);
        ssize_t got = recv(p->fd, bytes + n, size - n, 0);
        if (got > 0)
            n += (size_t)got;
        else if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
            break;
        check(p->test, now() < deadline, "the connection was not closed");
    }
    p->ended = 1;
    return n;
}

/* The connection is closed; a CONNACK that refuses may come before that.  To
 * one who does not speak MQTT 5.0 it may well be one of an older version (20
 * 02 00 01), so it is not decoded. */
static void turned_away(struct peer *p)
{
    uint8_t bytes[400];
    size_t n = last_bytes(p, bytes, sizeof bytes);
    size_t code = n > 1 && bytes[1] > 127 ? 4 : 3;

    check(p->test,
          n == 0 || (n > code && bytes[0] == 0x20 && bytes[code] != 0),
          "%zu bytes came that are no refusing CONNACK, the first is %02X", n,
          bytes[0]);
}

static void test_mqtt_3_1_0_1_any_other_first_packet_closes(struct test *t)
{
    static const char *const first[] = {
        "pingreq",          "publish ~/a =x",     "publish q1 #1 ~/a =x",
        "subscribe #1 ~/a", "unsubscribe #1 ~/a", "disconnect 00"};
    struct peer *watcher = peer_watch(t, "~/a");

    for (size_t i = 0; i < COUNT(first); i++) {
        struct peer *p = peer_open(t);
        say_wrong(p, "%s", first[i]);
        turned_away(p);
    }
    marked(t, watcher, "a");
}

static void test_mqtt_3_1_0_1_connect_does_not_mend_it(struct test *t)
{
    struct peer *p = peer_open(t);

    hold(p);
    say_wrong(p, "pingreq");
    say(p, "connect c1 id=~a");
    release(p);
    turned_away(p);
}

static void test_mqtt_3_1_0_2_a_second_connect_closes(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say_wrong(p, "connect c1 id=~a");
    refused(p, "82");
}

static void test_mqtt_3_1_0_2_a_second_connect_has_no_effect(struct test *t)
{
    struct peer *other = peer_join(t, "c1 id=~b");
    struct peer *p = peer_join(t, "c1 id=~a");

    say_wrong(p, "connect c1 id=~b");
    refused(p, "82");
    silent(other);
}

/* ==== 2. Name and version ================================================= */

static void version_refused(struct peer *p)
{
    if (diagnosed(p->test))
        refused(p, "84");
    else
        turned_away(p);
}

static void test_mqtt_3_1_2_1_another_protocol_name_is_refused(struct test *t)
{
    static const char *const names[] = {"MQTX", "mqtt", "MQIsdp", "MQTTT",
                                        "MQT", ""};

    for (size_t i = 0; i < COUNT(names); i++) {
        struct peer *p = peer_open(t);
        say_frame(p, 0x10, "{'%s'} 05 02 00 00 [] {'~a'}", names[i]);
        version_refused(p);
    }
}

static void test_mqtt_3_1_2_2_another_version_is_refused(struct test *t)
{
    static const unsigned versions[] = {0, 2, 6, 255};

    for (size_t i = 0; i < COUNT(versions); i++) {
        struct peer *p = peer_open(t);
        say_frame(p, 0x10, "{'MQTT'} %02X 02 00 00 [] {'~a'}", versions[i]);
        version_refused(p);
    }
}

/* ==== 3. Flags and payload ================================================ */

/* A CONNECT with these Connect Flags and this payload is refused. */
static void flags_refused(struct test *t, unsigned flags, const char *payload)
{
    struct peer *p = peer_open(t);

    say_frame(p, 0x10, "{'MQTT'} 05 %02X 00 00 [] %s", flags, payload);
    refused(p, "81");
}

static void test_mqtt_3_1_2_3_the_reserved_flag_is_checked(struct test *t)
{
    flags_refused(t, 0x03, "{'~a'}");
    flags_refused(t, 0x01, "{'~a'}");
}

static void test_mqtt_3_1_2_9_no_part_of_a_will_is_missing(struct test *t)
{
    flags_refused(t, 0x06, "{'~a'}");
    flags_refused(t, 0x06, "{'~a'} []");
    flags_refused(t, 0x06, "{'~a'} [] {'~/w'}");
    flags_refused(t, 0x06, "{'~a'} [] {'~/w'} 00 04 'go'");
}

static void test_mqtt_3_1_2_9_a_will_payload_may_be_empty(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w");

    cut(peer_join(t, "c1 id=~a will ~/w ="));
    hear(watcher, "publish q0 ~/w =");
}

static void test_mqtt_3_1_2_11_no_will_has_no_will_qos(struct test *t)
{
    flags_refused(t, 0x0A, "{'~a'}");
    flags_refused(t, 0x12, "{'~a'}");
}

static void test_mqtt_3_1_2_12_will_qos_3_is_refused(struct test *t)
{
    flags_refused(t, 0x1E, "{'~a'} [] {'~/w'} {'gone'}");
}

static void test_mqtt_3_1_2_12_will_qos_0_to_2_is_that_of_the_will(
    struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w,q2");

    for (int qos = 0; qos < 3; qos++) {
        cut(peer_join(t, "c1 id=~a will q%d ~/w =gone", qos));
        hear(watcher, "publish q%d* ~/w =gone", qos);
    }
}

static void test_mqtt_3_1_2_13_no_will_has_no_will_retain(struct test *t)
{
    flags_refused(t, 0x22, "{'~a'}");
}

static void test_mqtt_3_1_2_16_no_user_name_without_its_flag(struct test *t)
{
    flags_refused(t, 0x02, "{'~a'} {'user'}");
}

static void test_mqtt_3_1_2_17_a_user_name_with_its_flag(struct test *t)
{
    flags_refused(t, 0x82, "{'~a'}");
    flags_refused(t, 0x82, "{'~a'} 00 06 'user'");
}

static void test_mqtt_3_1_2_18_no_password_without_its_flag(struct test *t)
{
    flags_refused(t, 0x82, "{'~a'} {'user'} {'word'}");
}

static void test_mqtt_3_1_2_19_a_password_with_its_flag(struct test *t)
{
    flags_refused(t, 0xC2, "{'~a'} {'user'}");
    flags_refused(t, 0xC2, "{'~a'} {'user'} 00 06 'word'");
    flags_refused(t, 0x42, "{'~a'}");
}

/* ==== 4. Clean Start ====================================================== */

static void test_mqtt_3_1_2_4_clean_start_1_begins_anew(struct test *t)
{
    struct peer *p = stay(t, "~/a,q1");

    cut(p);
    publish(t, "q1 ~/a =queued");
    p = peer_join(t, "c1 id=~a x=300");
    check(t, !present(p), "Session Present 1 after Clean Start 1");
    publish(t, "q1 ~/a =unasked");
    absent(p, "publish*");
}

static void test_mqtt_3_1_2_4_also_when_the_client_is_connected(struct test *t)
{
    stay(t, "~/a,q1");
    struct peer *p = peer_join(t, "c1 id=~a x=300");

    check(t, !present(p), "Session Present 1 after Clean Start 1");
    publish(t, "q1 ~/a =unasked");
    absent(p, "publish*");
}

static void test_mqtt_3_1_2_4_old_packet_identifiers_are_forgotten(
    struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/in");

    need(t, NEED_SESSIONS);
    struct peer *p = peer_join(t, "c1 id=~a x=300");
    say(p, "publish q2 #5 ~/in =old");
    hear(p, "pubrec #5 [01]0*");
    cut(p);
    p = peer_join(t, "c1 id=~a x=300");
    say(p, "publish q2 #5 ~/in =new");
    hear(p, "pubrec #5 [01]0*");
    say(p, "pubrel #5");
    hear(p, "pubcomp #5 00*");
    find(watcher, "publish q0 ~/in =new");
}

/* What was subscribed to, and what came meanwhile, is there after it. */
static void session_stays(struct test *t,
                          void (*end)(struct test *t, struct peer *p))
{
    struct peer *p = stay(t, "~/a,q1");

    cut(p);
    publish(t, "q1 ~/a =queued");
    end(t, p);
    p = come_back(t);
    served(p, 1, "queued ");
    publish(t, "q1 ~/a =live");
    served(p, 1, "live ");
}

static void test_mqtt_3_1_2_5_clean_start_0_goes_on(struct test *t)
{
    session_stays(t, drop);
}

static void test_mqtt_3_1_2_5_clean_start_0_goes_on_after_a_crash(
    struct test *t)
{
    session_stays(t, crash);
}

static void test_mqtt_3_1_2_5_also_when_the_client_is_connected(struct test *t)
{
    stay(t, "~/a,q1");
    struct peer *p = come_back(t);

    publish(t, "q1 ~/a =live");
    served(p, 1, "live ");
}

static void test_mqtt_3_1_2_6_clean_start_0_without_a_session(struct test *t)
{
    struct peer *p = peer_join(t, "c0 id=~a x=0");

    check(t, !present(p), "Session Present 1 for a client never seen before");
    subscribe(p, "~/a");
    say(p, "publish ~/a =own");
    hear(p, "publish q0 ~/a =own");
}

/* ==== 5. The will ========================================================= */

static void test_mqtt_3_1_2_7_the_will_is_kept_as_it_was_given(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w,q1");

    cut(peer_join(t, "c1 id=~a will q1 ~/w =gone pfi=1 ct=text/plain rt=~/r "
                     "cd=77 up=name:value"));
    hear(watcher, "publish q1 #* ~/w =gone pfi=1 ct=text/plain rt=~/r cd=77 "
                  "up=name:value");
}

static void test_mqtt_3_1_2_7_without_will_flag_there_is_none(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w");

    cut(peer_join(t, "c1 id=~a will ~/w =gone"));
    hear(watcher, "publish q0 ~/w =gone");
    cut(peer_join(t, "c1 id=~a"));
    marked(t, watcher, "w");
}

/* The crash ends the connection: the will comes, to those who ask later. */
static void test_mqtt_3_1_2_7_the_will_is_kept_across_a_crash(struct test *t)
{
    stay(t, "~/w,q1");
    peer_join(t, "c1 id=~b x=300 will q1 ~/w =gone");
    restart(t);
    struct peer *watcher = come_back(t);
    served(watcher, 1, "gone ");
    publish(t, "q1 ~/w =mark");
    served(watcher, 1, "mark ");
}

static void test_mqtt_3_1_2_8_at_once_without_a_delay(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w");

    cut(peer_join(t, "c1 id=~a will ~/w =gone"));
    hear(watcher, "publish q0 ~/w =gone");
}

/* The will of a client that connected so comes a second after the cut. */
static void will_after_a_second(struct test *t, const char *times)
{
    struct peer *watcher = peer_watch(t, "~/w");

    need(t, NEED_SESSIONS);
    struct peer *p = peer_join(t, "c1 id=~a %s", times);
    uint64_t from = now();
    cut(p);
    const struct heard *h = hear(watcher, "publish q0 ~/w =gone");
    check(t, h->at >= from + 1000, "the will came after %u ms",
          (unsigned)(h->at - from));
}

static void test_mqtt_3_1_2_8_after_the_will_delay(struct test *t)
{
    will_after_a_second(t, "x=300 will ~/w =gone wdi=1");
}

static void test_mqtt_3_1_2_8_when_the_session_ends(struct test *t)
{
    will_after_a_second(t, "x=1 will ~/w =gone wdi=300");
}

static void test_mqtt_3_1_2_8_after_disconnect_0x04(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w");

    say(peer_join(t, "c1 id=~a will ~/w =gone"), "disconnect 04");
    hear(watcher, "publish q0 ~/w =gone");
}

static void test_mqtt_3_1_2_8_after_a_protocol_error(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w");

    say_bytes(peer_join(t, "c1 id=~a will ~/w =malformed"), "00 00");
    hear(watcher, "publish q0 ~/w =malformed");
    say_wrong(peer_join(t, "c1 id=~b will ~/w =twice"), "connect c1 id=~b");
    hear(watcher, "publish q0 ~/w =twice");
}

static void test_mqtt_3_1_2_8_not_after_disconnect_0x00(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w");

    leave(peer_join(t, "c1 id=~a will ~/w =gone"));
    marked(t, watcher, "w");
}

static void test_mqtt_3_1_2_8_not_after_a_return_in_time(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w");

    need(t, NEED_SESSIONS);
    cut(peer_join(t, "c1 id=~a x=300 will ~/w =gone wdi=2"));
    come_back(t);
    let_pass(t, 2500);
    marked(t, watcher, "w");
}

static void test_mqtt_3_1_2_8_the_delay_goes_on_across_a_crash(struct test *t)
{
    stay(t, "~/w,q1");
    struct peer *p = peer_join(t, "c1 id=~b x=300 will q1 ~/w =gone wdi=2");
    uint64_t from = now();

    cut(p);
    restart(t);
    struct peer *watcher = come_back(t);
    const struct heard *h = hear(watcher, "publish q1* ~/w =gone");
    check(t, h->at >= from + 2000, "the will came after %u ms",
          (unsigned)(h->at - from));
    absent(watcher, "publish*");
}

static void test_mqtt_3_1_2_10_a_published_will_is_gone(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w");

    need(t, NEED_SESSIONS);
    cut(peer_join(t, "c1 id=~a x=300 will ~/w =gone"));
    hear(watcher, "publish q0 ~/w =gone");
    cut(come_back(t));
    marked(t, watcher, "w");
}

static void test_mqtt_3_1_2_10_it_does_not_come_again_with_the_end(
    struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w");

    need(t, NEED_SESSIONS);
    cut(peer_join(t, "c1 id=~a x=1 will ~/w =gone"));
    hear(watcher, "publish q0 ~/w =gone");
    let_pass(t, 2000);
    marked(t, watcher, "w");
}

static void test_mqtt_3_1_2_10_disconnect_0x00_removes_it(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w");

    need(t, NEED_SESSIONS);
    leave(peer_join(t, "c1 id=~a x=1 will ~/w =gone wdi=1"));
    leave(peer_join(t, "c1 id=~b x=1 will ~/w =gone"));
    let_pass(t, 2000);
    marked(t, watcher, "w");
}

static void test_mqtt_3_1_2_14_will_retain_0_is_not_retained(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w,rap");

    cut(peer_join(t, "c1 id=~a will ~/w =gone"));
    hear(watcher, "publish q0 ~/w =gone");
    absent(peer_watch(t, "~/w"), "publish*");
}

static void test_mqtt_3_1_2_15_will_retain_1_is_retained(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w,rap");

    cut(peer_join(t, "c1 id=~a will retain ~/w =gone"));
    hear(watcher, "publish q0 retain ~/w =gone");
    hear(peer_watch(t, "~/w"), "publish q0 retain ~/w =gone");
    publish(t, "retain ~/w =");
}

/* ==== 6. Keep Alive ======================================================= */

/* With nothing else to send, the client of this connection sends PINGREQ
 * within a second, again and again. */
static void pings(struct test *t, const char *connect, const char *answer)
{
    struct peer *p = peer_scripted(t, connect, answer);

    for (int i = 0; i < 2; i++) {
        let_pass(t, 1000);
        check(t, strncmp(sent(p), "PINGREQ ", 8) == 0,
              "the client sent no PINGREQ in time");
    }
}

static void test_mqtt_3_1_2_20_an_idle_client_pings(struct test *t)
{
    pings(t, "c1 id=~a ka=1", "connack 00");
}

static void test_mqtt_3_1_2_20_a_client_that_pings_stays(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a ka=1");

    let_pass(t, 3500);
    silent(p);
}

static void test_mqtt_3_1_2_21_server_keep_alive_takes_the_place(
    struct test *t)
{
    pings(t, "c1 id=~a ka=60", "connack 00 ska=1");
    pings(t, "c1 id=~a ka=0", "connack 00 ska=1");
}

/* The client ~a, for which silence of more than 1.5 s ends the connection. */
static struct peer *brief(struct test *t, const char *will)
{
    struct peer *p = peer_join(t, "c1 id=~a ka=1 %s", will);

    if (p->referee.keep_alive != 1)
        not_offered(t, "CONNACK makes Keep Alive 1 Server Keep Alive %u",
                    p->referee.keep_alive);
    return p;
}

/* The client is cut off one and a half times its second after it spoke. */
static void silence_ends(struct peer *p)
{
    ended_after(p, 1500);
    if (diagnosed(p->test))
        named(p, hear(p, "disconnect 8d*"), "MQTT-3.1.2-22");
}

static void test_mqtt_3_1_2_22_silence_is_cut_off(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/w");
    struct peer *p = brief(t, "will ~/w =gone");

    silence_ends(p);
    hear(watcher, "publish q0 ~/w =gone");
}

static void test_mqtt_3_1_2_22_each_packet_starts_the_time_anew(struct test *t)
{
    struct peer *p = brief(t, "");

    for (int i = 0; i < 4; i++) {
        let_pass(t, 700);
        say(p, "publish ~/a =x");
    }
    silence_ends(p);
}

static void test_mqtt_3_1_2_22_what_the_client_is_sent_does_not_count(
    struct test *t)
{
    struct peer *p = brief(t, "");

    subscribe(p, "~/a");
    /* Longer than silence_ends() would wait for it. */
    for (int i = 0; i < 40 && !p->ended; i++) {
        publish(t, "~/a =x");
        comes(p, 300, "disconnect*");
    }
    silence_ends(p);
}

/* ==== 7. Session Expiry =================================================== */

/* A QoS 2 message of the client, half sent when its connection ended. */
static void half_sent(struct test *t,
                      void (*end)(struct test *t, struct peer *p))
{
    struct peer *watcher = stay(t, "~/in,q1");
    struct peer *p = peer_join(t, "c1 id=~b x=300");

    cut(watcher);
    say(p, "publish q2 #7 ~/in =once");
    hear(p, "pubrec #7 [01]0*");
    end(t, p);
    p = peer_join(t, "c0 id=~b x=300");
    check(t, present(p), "Session Present 0 though the session was to stay");
    say(p, "publish q2 dup #7 ~/in =once");
    hear(p, "pubrec #7 [01]0*");
    say(p, "pubrel #7");
    hear(p, "pubcomp #7 00*");
    publish(t, "q1 ~/in =mark");
    served(come_back(t), 2, "once mark ");
}

/* One for the client, half delivered when its connection ended: twice. */
static void half_delivered(struct test *t,
                           void (*end)(struct test *t, struct peer *p))
{
    struct peer *p = stay(t, "~/a,q2");

    unsigned id = delivered(t, p, 2, "once");
    end(t, p);
    p = come_back(t);
    hear(p, "publish q2 dup #%u ~/a =once", id);
    say(p, "pubrec #%u", id);
    hear(p, "pubrel #%u 00*", id);
    end(t, p);
    p = come_back(t);
    hear(p, "pubrel #%u 00*", id);
    say(p, "pubcomp #%u", id);
    publish(t, "q2 ~/a =mark");
    served(p, 1, "mark ");
}

static void test_mqtt_3_1_2_23_the_session_outlives_the_connection(
    struct test *t)
{
    session_stays(t, drop);
}

static void test_mqtt_3_1_2_23_a_half_sent_message_is_completed(struct test *t)
{
    half_sent(t, drop);
}

static void test_mqtt_3_1_2_23_a_half_sent_message_after_a_crash(
    struct test *t)
{
    half_sent(t, crash);
}

static void test_mqtt_3_1_2_23_a_half_delivered_message_is_completed(
    struct test *t)
{
    half_delivered(t, drop);
}

static void test_mqtt_3_1_2_23_a_half_delivered_message_after_a_crash(
    struct test *t)
{
    half_delivered(t, crash);
}

/* ==== 8. Maximum Packet Size ============================================== */

/* The payload of a PUBLISH on ~/a at QoS 1 that has this size in all: the
 * rest is two bytes of header, the Topic Name, the identifier, no property. */
static unsigned payload_of(const struct test *t, unsigned size)
{
    return size - (unsigned)(2 + 2 + strlen(prefix(t)) + 2 + 2 + 1);
}

static void test_mqtt_3_1_2_24_no_larger_publish_is_sent(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a mps=120");

    subscribe(p, "~/a,q1");
    publish(t, "q1 ~/a =*%u", payload_of(t, 120));
    const struct heard *h = hear(p, "publish q1 #* ~/a =*");
    check(t, h->size == 120, "its size is %zu", h->size);
    say(p, "puback #%u", h->packet_id);
    publish(t, "q1 ~/a =*%u", payload_of(t, 121));
    publish(t, "q1 ~/a =small");
    served(p, 1, "small ");
}

/* All that comes is that small; most likely that is the end. */
static void only_small(struct peer *p, size_t max)
{
    const struct heard *h;

    while ((h = next(p, 1000)) != NULL)
        check(p->test, h->size <= max, "%zu bytes came: %s", h->size, h->text);
}

static void test_mqtt_3_1_2_24_no_larger_connack_is_sent(struct test *t)
{
    unsigned size = (unsigned)connack(peer_join(t, "c1 id=~a mps=9999"))->size;

    const unsigned max[] = {4, size - 1}; /* no CONNACK fits; one nearly */

    for (int i = 0; i < 2; i++) {
        struct peer *p = peer_open(t);
        say(p, "connect c1 id=~a mps=%u", max[i]);
        only_small(p, max[i]);
    }
}

static void test_mqtt_3_1_2_24_no_larger_suback_is_sent(struct test *t)
{
    struct peer *p = peer_open(t);
    char filters[40 * 5 + 1];

    for (int i = 0; i < 40; i++)
        snprintf(filters + i * 5, 6, " ~/%02d", i);
    say(p, "connect c1 id=~a mps=40");
    say(p, "subscribe #1%s", filters);
    only_small(p, 40);
}

static void test_mqtt_3_1_2_25_what_is_too_large_blocks_nothing(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a mps=120 rm=1");
    struct peer *other = peer_watch(t, "~/a,q1");

    subscribe(p, "~/a,q1");
    for (int i = 0; i < 3; i++)
        publish(t, "q1 ~/a =*500");
    publish(t, "q1 ~/a =small");
    served(p, 1, "small ");
    for (int i = 0; i < 3; i++)
        hear(other, "publish q1 #* ~/a =*");
    hear(other, "publish q1 #* ~/a =small");
}

/* What waited for the client while it was away. */
static void test_mqtt_3_1_2_25_what_is_too_large_counts_as_sent(struct test *t)
{
    struct peer *p = stay(t, "~/a,q1");

    cut(p);
    publish(t, "q1 ~/a =*500");
    publish(t, "q1 ~/a =small");
    p = peer_join(t, "c0 id=~a x=300 mps=120");
    served(p, 1, "small ");
    say(p, "pingreq");
    hear(p, "pingresp");
    cut(p);
    p = come_back(t);
    publish(t, "q1 ~/a =mark");
    served(p, 1, "mark ");
}

/* ==== 9. Topic aliases ==================================================== */

static void test_mqtt_3_1_2_26_no_alias_over_the_maximum(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a tam=2");

    subscribe(p, "~/1 ~/2 ~/3 ~/4 ~/5 ~/6 ~/7 ~/8");
    for (int round = 1; round <= 3; round++)
        for (int topic = 1; topic <= 8; topic++) {
            publish(t, "~/%d =%d", topic, round);
            const struct heard *h =
                hear(p, "publish q0 ~/%d =%d", topic, round);
            check(t, h->alias <= 2, "Topic Alias %u", h->alias);
        }
}

static void test_mqtt_3_1_2_27_no_alias_without_a_maximum(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");
    struct peer *zero = peer_join(t, "c1 id=~b tam=0");
    struct peer *from = peer_join(t, "c1 id=~c");

    subscribe(p, "~/a");
    subscribe(zero, "~/a");
    for (int i = 0; i < 4; i++) {
        if (offer(t)->alias_max == 0)
            say(from, "publish ~/a =%d", i);
        else
            say(from, "publish %s =%d ta=1", i == 0 ? "~/a" : "", i);
        check(t, hear(p, "publish q0 ~/a =%d", i)->alias == 0 &&
                     hear(zero, "publish q0 ~/a =%d", i)->alias == 0,
              "a Topic Alias came");
    }
}

/* ==== 10. What is requested =============================================== */

static void test_mqtt_3_1_2_28_no_response_information_unasked(struct test *t)
{
    static const char *const words[] = {"", "rri=0"};

    for (size_t i = 0; i < 2; i++) {
        struct peer *p = peer_join(t, "c1 id=~a %s", words[i]);
        check(t,
              !MQTT_HAS(&connack(p)->packet.props, MQTT_RESPONSE_INFORMATION),
              "CONNACK has Response Information");
    }
}

/* Up to a PINGRESP, or the end, only those packets say why that always may. */
static void no_reasons(struct peer *p)
{
    const struct heard *h;

    say(p, "pingreq");
    while ((h = next(p, WAIT)) != NULL && h->packet.type != MQTT_PINGRESP)
        check(p->test,
              h->packet.type == MQTT_DISCONNECT ||
                  (!MQTT_HAS(&h->packet.props, MQTT_REASON_STRING) &&
                   !MQTT_HAS(&h->packet.props, MQTT_USER_PROPERTY)),
              "a Reason String or User Property in %s", h->text);
    check(p->test, p->ended || h != NULL, "neither PINGRESP nor the end came");
}

/* Each of these may be answered by an error, and the connection stay. */
static void test_mqtt_3_1_2_29_no_reason_strings_unasked(struct test *t)
{
    static const char *const words[] = {
        "publish q1 #1 $SYS/~ =x",       "publish q2 #1 $SYS/~ =x",
        "publish q1 #1 ~/a =%FF pfi=1",  "publish q2 #1 ~/a =%FF pfi=1",
        "pubrec #9",                     "pubrel #9",
        "subscribe #1 $SYS/~ $share/~/", "subscribe #1 ~/a#",
        "unsubscribe #1 ~/never",        "unsubscribe #1 ~/a#"};

    for (size_t i = 0; i < COUNT(words); i++) {
        struct peer *p = peer_join(t, "c1 id=~a%zu rpi=0", i);
        say_wrong(p, "%s", words[i]);
        no_reasons(p);
    }
}

/* ==== 11. Authentication ================================================== */

static void test_mqtt_3_1_2_30_only_auth_or_disconnect_before_connack(
    struct test *t)
{
    struct peer *p = peer_scripted(t, "c1 id=~a am=~m", "auth 18 am=~m");

    hear(p, "auth 18 am=~m");
    client_refuses(p, "MQTT-3.1.2-30", "publish ~/a =x");
    client_refuses(p, "MQTT-3.1.2-30", "subscribe #1 ~/a");
    client_refuses(p, "MQTT-3.1.2-30", "pingreq");
    say(p, "auth 18 am=~m ad=answer");
    check(t, strcmp(sent(p), "AUTH ") == 0, "not just AUTH was sent");
    say(p, "disconnect 00");
    check(t, strcmp(sent(p), "DISCONNECT ") == 0, "DISCONNECT was not sent");
}

static void test_mqtt_3_1_2_30_nothing_else_is_acted_on(struct test *t)
{
    struct peer *watcher = peer_watch(t, "~/a");
    struct peer *p = peer_open(t);

    hold(p);
    say(p, "connect c1 id=~a am=~method");
    say_wrong(p, "publish ~/a =early");
    say_wrong(p, "subscribe #1 ~/a");
    release(p);
    refused_as(p, "8c", "MQTT-4.12.0-1");
    marked(t, watcher, "a");
}

static const struct test_case cases[] = {
    TEST(test_mqtt_3_1_0_1_any_other_first_packet_closes),
    TEST(test_mqtt_3_1_0_1_connect_does_not_mend_it),
    TEST(test_mqtt_3_1_0_2_a_second_connect_closes),
    TEST(test_mqtt_3_1_0_2_a_second_connect_has_no_effect),
    TEST(test_mqtt_3_1_2_1_another_protocol_name_is_refused),
    TEST(test_mqtt_3_1_2_2_another_version_is_refused),
    TEST(test_mqtt_3_1_2_3_the_reserved_flag_is_checked),
    TEST(test_mqtt_3_1_2_4_clean_start_1_begins_anew),
    TEST(test_mqtt_3_1_2_4_also_when_the_client_is_connected),
    TEST(test_mqtt_3_1_2_4_old_packet_identifiers_are_forgotten),
    TEST(test_mqtt_3_1_2_5_clean_start_0_goes_on),
    TEST(test_mqtt_3_1_2_5_also_when_the_client_is_connected),
    TEST_RESTARTS(test_mqtt_3_1_2_5_clean_start_0_goes_on_after_a_crash),
    TEST(test_mqtt_3_1_2_6_clean_start_0_without_a_session),
    TEST(test_mqtt_3_1_2_7_the_will_is_kept_as_it_was_given),
    TEST(test_mqtt_3_1_2_7_without_will_flag_there_is_none),
    TEST_RESTARTS(test_mqtt_3_1_2_7_the_will_is_kept_across_a_crash),
    TEST(test_mqtt_3_1_2_8_at_once_without_a_delay),
    TEST(test_mqtt_3_1_2_8_after_the_will_delay),
    TEST(test_mqtt_3_1_2_8_when_the_session_ends),
    TEST(test_mqtt_3_1_2_8_after_disconnect_0x04),
    TEST(test_mqtt_3_1_2_8_after_a_protocol_error),
    TEST(test_mqtt_3_1_2_8_not_after_disconnect_0x00),
    TEST(test_mqtt_3_1_2_8_not_after_a_return_in_time),
    TEST_RESTARTS(test_mqtt_3_1_2_8_the_delay_goes_on_across_a_crash),
    TEST(test_mqtt_3_1_2_9_no_part_of_a_will_is_missing),
    TEST(test_mqtt_3_1_2_9_a_will_payload_may_be_empty),
    TEST(test_mqtt_3_1_2_10_a_published_will_is_gone),
    TEST(test_mqtt_3_1_2_10_it_does_not_come_again_with_the_end),
    TEST(test_mqtt_3_1_2_10_disconnect_0x00_removes_it),
    TEST(test_mqtt_3_1_2_11_no_will_has_no_will_qos),
    TEST(test_mqtt_3_1_2_12_will_qos_3_is_refused),
    TEST(test_mqtt_3_1_2_12_will_qos_0_to_2_is_that_of_the_will),
    TEST(test_mqtt_3_1_2_13_no_will_has_no_will_retain),
    TEST(test_mqtt_3_1_2_14_will_retain_0_is_not_retained),
    TEST(test_mqtt_3_1_2_15_will_retain_1_is_retained),
    TEST(test_mqtt_3_1_2_16_no_user_name_without_its_flag),
    TEST(test_mqtt_3_1_2_17_a_user_name_with_its_flag),
    TEST(test_mqtt_3_1_2_18_no_password_without_its_flag),
    TEST(test_mqtt_3_1_2_19_a_password_with_its_flag),
    TEST(test_mqtt_3_1_2_20_an_idle_client_pings),
    TEST(test_mqtt_3_1_2_20_a_client_that_pings_stays),
    TEST(test_mqtt_3_1_2_21_server_keep_alive_takes_the_place),
    TEST(test_mqtt_3_1_2_22_silence_is_cut_off),
    TEST(test_mqtt_3_1_2_22_each_packet_starts_the_time_anew),
    TEST(test_mqtt_3_1_2_22_what_the_client_is_sent_does_not_count),
    TEST(test_mqtt_3_1_2_23_the_session_outlives_the_connection),
    TEST(test_mqtt_3_1_2_23_a_half_sent_message_is_completed),
    TEST(test_mqtt_3_1_2_23_a_half_delivered_message_is_completed),
    TEST_RESTARTS(test_mqtt_3_1_2_23_a_half_sent_message_after_a_crash),
    TEST_RESTARTS(test_mqtt_3_1_2_23_a_half_delivered_message_after_a_crash),
    TEST(test_mqtt_3_1_2_24_no_larger_publish_is_sent),
    TEST(test_mqtt_3_1_2_24_no_larger_connack_is_sent),
    TEST(test_mqtt_3_1_2_24_no_larger_suback_is_sent),
    TEST(test_mqtt_3_1_2_25_what_is_too_large_blocks_nothing),
    TEST(test_mqtt_3_1_2_25_what_is_too_large_counts_as_sent),
    TEST(test_mqtt_3_1_2_26_no_alias_over_the_maximum),
    TEST(test_mqtt_3_1_2_27_no_alias_without_a_maximum),
    TEST(test_mqtt_3_1_2_28_no_response_information_unasked),
    TEST(test_mqtt_3_1_2_29_no_reason_strings_unasked),
    TEST(test_mqtt_3_1_2_30_only_auth_or_disconnect_before_connack),
    TEST(test_mqtt_3_1_2_30_nothing_else_is_acted_on),
};

const struct section section_3_1 = SECTION("3.1 CONNECT: header", cases);
