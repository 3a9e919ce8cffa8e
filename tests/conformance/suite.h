/*
 * suite.h - what the conformance tests are written in.
 *
 * A test is a function of one struct test, run in a process of its own, side
 * by side with others against one broker.  It passes by returning.  Its name
 * is test_mqtt_ and the number of the statement it is about, then words:
 * test_mqtt_3_1_2_4_clean_start_discards_the_session.
 *
 * Names on the broker.  "~" in any text stands for a prefix of letters and
 * digits that is this test's alone: client identifiers are "~a" (at most 12
 * letters or digits after the "~"), topics "~/a/b".  In what is heard the
 * prefix reads "~" again.
 *
 * Fairness.  A test demands what the standard demands, and nothing more:
 * hear() lets packets of other types wait, for the standard does not order
 * them; a reason is demanded only where a statement prescribes it; what the
 * broker does not offer ends the test with "not offered".
 */
#ifndef HOLDFAST_SUITE_H
#define HOLDFAST_SUITE_H

#include <stddef.h>
#include <stdint.h>

#include "mqtt.h"

#define WAIT 10000 /* ms after which an awaited event has failed */
#define QUIET 250  /* ms in which nothing must come; see silent() */

/* How many elements an array has. */
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

struct test;

/* ---- the list of tests --------------------------------------------------- */

struct test_case {
    const char *name;
    void (*run)(struct test *t); /* NULL: it cannot be observed */
    const char *reason;          /* why not */
    int restarts;                /* 1 = it restarts the broker: runs alone */
};

#define TEST(f) {#f, f, NULL, 0}
#define TEST_RESTARTS(f) {#f, f, NULL, 1}
/* name: test_mqtt_3_2_2_4, say */
#define UNOBSERVABLE(name, reason) {#name, NULL, reason, 0}

struct section {
    const char *title; /* "3.1 CONNECT" */
    const struct test_case *cases;
    size_t count;
};

#define SECTION(title, cases) {title, cases, COUNT(cases)}

/* One for each file of this directory. */
extern const struct section section_1_5, section_2_1, section_2_2, section_3_1,
    section_3_1_3, section_3_2, section_3_3, section_3_3_4, section_3_4,
    section_3_5, section_3_6, section_3_7, section_3_8, section_3_9,
    section_3_10, section_3_11, section_3_12, section_3_14, section_3_15,
    section_4_1, section_4_2, section_4_3, section_4_4, section_4_5,
    section_4_6, section_4_7, section_4_8, section_4_9, section_4_12,
    section_4_13, section_6_0;

/* ---- the test and the broker --------------------------------------------- */

/* What the broker's CONNACK says it serves. */
struct offer {
    uint8_t qos_max;               /* Maximum QoS */
    int retain, wildcards, ids, shared;
    int sessions;                  /* it grants a Session Expiry Interval */
    uint16_t receive_max;          /* Receive Maximum */
    uint16_t alias_max;            /* Topic Alias Maximum */
    uint16_t keep_alive;           /* Server Keep Alive; 0 = none */
    uint32_t packet_max;           /* Maximum Packet Size; 0 = none */
    unsigned send_max;             /* QoS 1 and 2 deliveries that it leaves
                                      open at a time, as far as was tried: its
                                      send quota may be below the client's
                                      Receive Maximum [MQTT-4.9.0-1] */
};

const struct offer *offer(const struct test *t);

enum need {
    NEED_RETAIN = 1,
    NEED_WILDCARDS = 2,
    NEED_IDS = 4, /* Subscription Identifiers */
    NEED_SHARED = 8,
    NEED_SESSIONS = 16,
    NEED_QOS1 = 32,
    NEED_QOS2 = 64
};

/* Ends the test as "not offered" if the broker lacks any of these.  say() does
 * the same by itself when the packet needs what the broker does not offer. */
void need(struct test *t, int needs);

/* Ends the test: failed, or not offered.  In words, without a period. */
void test_fail(struct test *t, const char *format, ...);
void not_offered(struct test *t, const char *format, ...);

/* Fails the test unless it holds; what: "the will was published twice". */
void check(struct test *t, int holds, const char *format, ...);

/* 1 = the broker is Holdfast: it must name the statement in its Reason Strings,
 * which refused() checks; other brokers need not. */
int diagnosed(const struct test *t);

/* The prefix that "~" stands for. */
const char *prefix(const struct test *t);

/* Kills the broker and starts it again; all peers are cut off.  Only in
 * TEST_RESTARTS; "not offered" where no way to restart is known.
 *
 * Holdfast must keep what it acknowledged.  Another broker may lose it (4.1.1:
 * software failures may cost Session State): one that does loses a session or
 * a retained message that the runner has it store and then kills it over, and
 * its tests of this kind are "not offered". */
void restart(struct test *t);

/* Milliseconds that only go up. */
uint64_t now(void);

/* Lets time pass that the standard's own timers need; pings for every peer
 * that promised a Keep Alive. */
void let_pass(struct test *t, unsigned ms);

/* ---- peers: the suite's clients ------------------------------------------ */

struct peer;

/* A packet of the server.  It lives until the next call for its peer. */
struct heard {
    char *text;                /* notation.h; of Reason String and User
                                  Properties only PUBLISH shows the latter */
    struct mqtt_packet packet; /* decoded */
    size_t size;               /* of the whole packet */
    uint8_t first;             /* its first byte */
    uint16_t packet_id;        /* of any type that has one; 0 = none */
    uint16_t alias;            /* Topic Alias of a PUBLISH; 0 = none */
    uint64_t at;               /* when it came, by now() */
};

/* A TCP connection on which nothing was sent. */
struct peer *peer_open(struct test *t);

/* The same, then `connect` with these words; CONNACK 0x00 must come and is
 * taken (connack() shows it). */
struct peer *peer_join(struct test *t, const char *words, ...);

/* A client with Clean Start 1 that has subscribed to these filters. */
struct peer *peer_watch(struct test *t, const char *filters, ...);

/* A client whose server is the test itself: it has sent `connect` with these
 * words and was answered with this packet.  What it sends then is read by
 * sent(). */
struct peer *peer_scripted(struct test *t, const char *connect,
                           const char *connack);

/* Its CONNACK; of that, Session Present and the Client Identifier that the
 * broker chose for this client. */
const struct heard *connack(const struct peer *p);
int present(const struct peer *p);
struct mqtt_bytes assigned(const struct peer *p);

/* The connection breaks without DISCONNECT; returns when the broker has
 * closed its side, so that what follows comes later.  What came until then
 * and was not heard is lost. */
void cut(struct peer *p);

/* DISCONNECT 0x00, end of the connection awaited. */
void leave(struct peer *p);

/* ---- saying -------------------------------------------------------------- */

/* Sends a packet that this client may send here (else the test is wrong, and
 * fails naming the statement that it would have broken itself).  CONNECT gets
 * the user name and password that the suite was given, if it names none. */
void say(struct peer *p, const char *words, ...);

/* Sends a packet that breaks a rule. */
void say_wrong(struct peer *p, const char *words, ...);

/* Sends bytes:  0A FF  two hexadecimal digits a byte;  'text';  {...} a
 * string or binary: its length in two bytes, then what is inside;  [...] a
 * property block: its length as variable byte integer, then what is inside;
 *     "30 0D {'~/a'} [26 {'name'} {C3 28}] 'payload'"                        */
void say_bytes(struct peer *p, const char *bytes, ...);

/* The same with a first byte and the Remaining Length put before it. */
void say_frame(struct peer *p, unsigned first, const char *bytes, ...);

/* Holds back what is said until release(): all goes out in one write. */
void hold(struct peer *p);
void release(struct peer *p);

/* The suite's own client refuses to send this, as it would break `statement`;
 * nothing of it reached the (scripted) server. */
void client_refuses(struct peer *p, const char *statement, const char *words,
                    ...);

/* What a scripted peer's client sent since the last call: the names of the
 * packets, each followed by a blank ("CONNECT PINGREQ ").  "" = nothing. */
const char *sent(struct peer *p);

/* A scripted peer's server sends this. */
void server_says(struct peer *p, const char *words, ...);

/* ---- hearing ------------------------------------------------------------- */

/* The next packet of the type that the pattern begins with must match it and
 * come in time; packets of other types wait for their own hear().  Fails on a
 * DISCONNECT or an end that was not asked for.  A PUBLISH that cannot come, as
 * the broker's own send quota is used up, is "not offered". */
const struct heard *hear(struct peer *p, const char *pattern, ...);

/* The first packet that matches, now or later; others wait. */
const struct heard *find(struct peer *p, const char *pattern, ...);

/* The next packet of any type within ms; NULL = none came, or the end. */
const struct heard *next(struct peer *p, unsigned ms);

/* 1 = a packet that matches is here or comes within ms (it is not taken). */
int comes(struct peer *p, unsigned ms, const char *pattern, ...);

/* Nothing comes and the connection stands: PINGREQ is answered with nothing
 * before it or QUIET after it. */
void silent(struct peer *p);

/* No packet that matches waits or comes until a PINGREQ is answered and QUIET
 * after that; other packets wait for their own hear(). */
void absent(struct peer *p, const char *pattern, ...);

/* The broker closes the connection, with no packet before that which was not
 * heard.  Returns when, by now(). */
uint64_t ended(struct peer *p);

/* For Keep Alive: the connection ends within WAIT after `after` ms from the
 * last thing this client said, and not before its Keep Alive is over; that of
 * Holdfast not earlier than `after`.  A DISCONNECT may come before it. */
uint64_t ended_after(struct peer *p, unsigned after);

/* The broker refuses what was just sent and ends the connection.  CONNACK
 * (before acceptance; Session Present 0) or DISCONNECT (after it) may come
 * first; its Reason Code is an error.  Deliveries may come before it, nothing
 * else.  Against Holdfast it must come, with one of these codes ("81 82") and
 * with a Reason String that names the statement of this test. */
void refused(struct peer *p, const char *codes);

/* The same where the standard states the rule more than once: Holdfast may
 * name any of these ("MQTT-3.3.2-1 MQTT-1.5.4-1"). */
void refused_as(struct peer *p, const char *codes, const char *statements);

/* Holdfast's answer (PUBACK, SUBACK...) names the statement of this test, or
 * one of these; checks nothing of other brokers. */
void named(struct peer *p, const struct heard *h, const char *statements);

/* Answers everything as a receiver must until `count` PUBLISHes have come;
 * their payloads, each followed by a blank, in memory of the test. */
const char *serve(struct peer *p, unsigned count);

/* ---- whole exchanges ----------------------------------------------------- */

/* PUBLISH from a client of its own up to its last acknowledgement: words as in
 * "q1 retain ~/a =x"; the Packet Identifier is chosen here. */
void publish(struct test *t, const char *words, ...);

/* SUBSCRIBE with a Packet Identifier of its own; each filter must be granted,
 * and if with less than the QoS that it asks for and the broker serves, the
 * test ends as "not offered". */
void subscribe(struct peer *p, const char *filters, ...);

/* Has a message published to ~/a at this QoS and hears it come to this client
 * for the first time; the delivery's Packet Identifier. */
unsigned delivered(struct test *t, struct peer *p, unsigned qos,
                   const char *payload);

/* A free Packet Identifier of this client. */
uint16_t new_id(struct peer *p);

/* ---- what several sections ask ------------------------------------------- */

/* End the test as "not offered": if the broker takes no client without an
 * identifier; if it takes a client whatever Authentication Method it names,
 * for then there is no well-formed CONNECT that it must refuse. */
void need_assigned(struct test *t);
void need_refusal(struct test *t);

/* The client ~a with a new session that outlives its connections, and this
 * subscription. */
struct peer *stay(struct test *t, const char *filter);

/* ~a comes back to that session, which must be there. */
struct peer *come_back(struct test *t);

/* The client ~s, whose session outlives its connections and may be there
 * already; more: further words of its CONNECT. */
struct peer *resume(struct test *t, const char *more);

/* A client to which none of these filters is granted: each is refused in
 * SUBACK, or by the end of the connection. */
struct peer *filters_refused(struct test *t, const char *const *filters,
                             size_t n, const char *statement);

/* The broker answers these words with a packet that matches `answer`, to
 * clients of every Maximum Packet Size; where it would be too large with this
 * property, it is sent without it. */
void fits_without(struct test *t, uint8_t property, const char *words,
                  const char *answer, ...);

/* A SUBACK or UNSUBACK that says why a filter was refused comes without this
 * property to a client whose Maximum Packet Size is just that of the packet
 * without properties; the broker may end the connection instead.  ask:
 * "subscribe", answer: "suback". */
void no_room_for(struct test *t, uint8_t property, const char *ask,
                 const char *answer);

#endif
