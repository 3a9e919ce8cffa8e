/*
 * hear.c - what a test expects of the broker.
 *
 *   1. The queue      packets that came and were not asked for yet
 *   2. Expectations   hear, find, silent, ended
 *   3. Refusals       a broken rule, and what the broker may say to it
 *   4. Exchanges      whole ones, and time that passes
 *   5. Sections       what several of them ask
 */
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "notation.h"
#include "run.h"

/* ============================ 1. The queue =============================== */

/* Takes packet i out; it lives until the next one is taken. */
static const struct heard *queue_take(struct peer *p, size_t i)
{
    if (p->taken != NULL)
        free(p->taken->text);
    free(p->taken);
    p->taken = p->heard[i];
    p->heard_count--;
    memmove(p->heard + i, p->heard + i + 1,
            (p->heard_count - i) * sizeof *p->heard);
    return p->taken;
}

static int matches(const struct heard *h, const char *pattern)
{
    return fnmatch(pattern, h->text, 0) == 0;
}

/* The first packet whose text matches, or NULL. */
static const struct heard *queue_find(const struct peer *p, const char *pattern,
                                      size_t *at)
{
    for (size_t i = 0; i < p->heard_count; i++)
        if (matches(p->heard[i], pattern)) {
            *at = i;
            return p->heard[i];
        }
    return NULL;
}

/* The first packet of this type (its name in notation), or NULL. */
static const struct heard *queue_type(const struct peer *p, const char *pattern,
                                      size_t *at)
{
    size_t n = strcspn(pattern, " *");

    for (size_t i = 0; i < p->heard_count; i++)
        if (strncmp(p->heard[i]->text, pattern, n) == 0 &&
            (p->heard[i]->text[n] == ' ' || p->heard[i]->text[n] == '\0')) {
            *at = i;
            return p->heard[i];
        }
    return NULL;
}

/* What a failure says that came: the oldest packet not asked for, the end. */
static const char *queue_shows(const struct peer *p)
{
    if (p->heard_count > 0)
        return p->heard[0]->text;
    return p->ended ? "the end of the connection" : "nothing";
}

static void unexpected(struct peer *p, const char *pattern, const char *came)
{
    char expected[400];

    snprintf(expected, sizeof expected, "client %c hears [%.300s]", p->name,
             pattern);
    story_fail(p->test, expected, came);
}

/* It did not come in time.  A broker with a small send quota (4.9) owes no
 * further delivery while those before it are open. */
static void missing(struct peer *p, const char *pattern)
{
    unsigned most = offer(p->test)->send_max;

    if (!p->ended && !diagnosed(p->test) && p->referee.open >= most &&
        strncmp(pattern, "publish", 7) == 0)
        not_offered(p->test, "no more than %u deliveries are open at a time",
                    most);
    unexpected(p, pattern, queue_shows(p));
}

/* ============================ 2. Expectations ============================ */

/* A DISCONNECT that waits, unless that is what is asked for. */
static const char *queue_goodbye(const struct peer *p, const char *pattern)
{
    size_t at;
    const struct heard *h = queue_type(p, "disconnect", &at);

    return h == NULL || strncmp(pattern, "disconnect", 10) == 0 ? NULL
                                                                : h->text;
}

const struct heard *hear(struct peer *p, const char *format, ...)
{
    uint64_t deadline = now() + WAIT;
    size_t at = 0;
    va_list args;

    va_start(args, format);
    char *pattern = words_print(format, args);
    va_end(args);
    for (;;) {
        const struct heard *h = queue_type(p, pattern, &at);
        if (h != NULL && !matches(h, pattern))
            unexpected(p, pattern, h->text);
        if (h != NULL)
            break;
        if (queue_goodbye(p, pattern) != NULL)
            unexpected(p, pattern, queue_goodbye(p, pattern));
        if (p->ended || !pump(p->test, deadline))
            missing(p, pattern);
    }
    free(pattern);
    return queue_take(p, at);
}

const struct heard *find(struct peer *p, const char *format, ...)
{
    uint64_t deadline = now() + WAIT;
    size_t at = 0;
    va_list args;

    va_start(args, format);
    char *pattern = words_print(format, args);
    va_end(args);
    while (queue_find(p, pattern, &at) == NULL) {
        if (queue_goodbye(p, pattern) != NULL)
            unexpected(p, pattern, queue_goodbye(p, pattern));
        if (p->ended || !pump(p->test, deadline))
            missing(p, pattern);
    }
    free(pattern);
    return queue_take(p, at);
}

const struct heard *next(struct peer *p, unsigned ms)
{
    uint64_t deadline = now() + ms;

    while (p->heard_count == 0)
        if (p->ended || !pump(p->test, deadline))
            return NULL;
    return queue_take(p, 0);
}

int comes(struct peer *p, unsigned ms, const char *format, ...)
{
    uint64_t deadline = now() + ms;
    size_t at;
    va_list args;

    va_start(args, format);
    char *pattern = words_print(format, args);
    va_end(args);
    while (queue_find(p, pattern, &at) == NULL)
        if (p->ended || !pump(p->test, deadline))
            break;
    int found = queue_find(p, pattern, &at) != NULL;
    free(pattern);
    return found;
}

/* PINGREQ, PINGRESP, and QUIET after that. */
static void quiet(struct peer *p, const char *pattern)
{
    uint64_t deadline;
    size_t at = 0;

    say(p, "pingreq");
    hear(p, "pingresp");
    for (deadline = now() + QUIET; pump(p->test, deadline);)
        if (p->ended || queue_find(p, pattern, &at) != NULL)
            break;
    if (queue_find(p, pattern, &at) != NULL)
        unexpected(p, "nothing", p->heard[at]->text);
    if (p->ended)
        unexpected(p, "nothing", "the end of the connection");
}

void silent(struct peer *p)
{
    quiet(p, "*");
}

void absent(struct peer *p, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    char *pattern = words_print(format, args);
    va_end(args);
    quiet(p, pattern);
    free(pattern);
}

uint64_t ended(struct peer *p)
{
    uint64_t deadline = now() + WAIT;

    while (!p->ended && p->heard_count == 0)
        if (!pump(p->test, deadline))
            break;
    if (p->heard_count > 0 || !p->ended)
        unexpected(p, "the end of the connection", queue_shows(p));
    return p->ended_at;
}

uint64_t ended_after(struct peer *p, unsigned after)
{
    uint64_t from = p->said_at, deadline = from + after + WAIT;
    /* Only the end of that time is prescribed [MQTT-3.1.2-22], but no client
     * that keeps its Keep Alive may be taken for a silent one. */
    unsigned least = diagnosed(p->test) ? after : p->referee.keep_alive * 1000u;

    while (!p->ended && pump(p->test, deadline))
        ;
    check(p->test, p->ended, "client %c is still connected %u ms after it "
          "last said something, %u were allowed", p->name,
          (unsigned)(now() - from), after);
    check(p->test, p->ended_at + 10 >= from + least,
          "client %c was cut off %ld ms after it last said something, %u were "
          "allowed",
          p->name, (long)p->ended_at - (long)from, least);
    return p->ended_at;
}

/* ============================ 3. Refusals ================================ */

/* 1 = one of these words is in the text, and ends there. */
static int names_one(const char *text, size_t n, const char *words)
{
    while (*words != '\0') {
        size_t length = strcspn(words, " ");
        for (size_t i = 0; i + length <= n; i++)
            if (memcmp(text + i, words, length) == 0 &&
                (i + length == n || text[i + length] < '0' ||
                 text[i + length] > '9'))
                return 1;
        words += length + strspn(words + length, " ");
    }
    return 0;
}

void named(struct peer *p, const struct heard *h, const char *statements)
{
    struct mqtt_bytes reason = h->packet.props.reason_string;
    char expected[300];

    if (!diagnosed(p->test) ||
        names_one((const char *)reason.p, reason.n, statements))
        return;
    snprintf(expected, sizeof expected, "a Reason String that names %s",
             statements);
    char came[300];
    snprintf(came, sizeof came, "%.80s, Reason String \"%.*s\"", h->text,
             (int)(reason.n < 150 ? reason.n : 150),
             reason.n > 0 ? (const char *)reason.p : "");
    story_fail(p->test, expected, came);
}

/* Holdfast says why, with the right code. */
static void refusal_check(struct peer *p, const struct heard *h,
                          const char *codes, const char *statements)
{
    char code[3];

    if (!diagnosed(p->test))
        return;
    if (h == NULL)
        unexpected(p, "a packet that says why", "the end of the connection");
    snprintf(code, sizeof code, "%02x", h->packet.reason);
    if (!names_one(codes, strlen(codes), code))
        unexpected(p, codes, h->text);
    named(p, h, statements);
}

/* Deliveries that were on their way may still come. */
static const struct heard *refusal_next(struct peer *p)
{
    uint64_t deadline = now() + WAIT;
    const struct heard *h;

    do
        h = next(p, deadline > now() ? (unsigned)(deadline - now()) : 0);
    while (h != NULL && h->packet.type == MQTT_PUBLISH);
    return h;
}

void refused_as(struct peer *p, const char *codes, const char *statements)
{
    int accepted = p->referee.accepted;
    const struct heard *h = refusal_next(p);

    if (h == NULL && !p->ended)
        unexpected(p, "the end of the connection", "nothing");
    if (h != NULL) {
        if (h->packet.type != (accepted ? MQTT_DISCONNECT : MQTT_CONNACK) ||
            h->packet.reason < 0x80)
            unexpected(p, "a refusal, or the end", h->text);
        check(p->test, !h->packet.session_present,
              "a refusing CONNACK with Session Present 1");
    }
    refusal_check(p, h, codes, statements);
    ended(p);
}

void refused(struct peer *p, const char *codes)
{
    refused_as(p, codes, p->test->statement);
}

/* ============================ 4. Exchanges =============================== */

/* The acknowledgement that this packet calls for; 1 = a delivery is over. */
static int delivery_answer(struct peer *p, const struct heard *h)
{
    unsigned id = h->packet_id;

    if (h->packet.type == MQTT_PUBREL) {
        say(p, "pubcomp #%u", id);
        return 1;
    }
    if (h->packet.type != MQTT_PUBLISH || h->packet.publish.qos == 0)
        return h->packet.type == MQTT_PUBLISH;
    say(p, h->packet.publish.qos == 1 ? "puback #%u" : "pubrec #%u", id);
    return h->packet.publish.qos == 1;
}

const char *serve(struct peer *p, unsigned count)
{
    struct buf *out = &p->test->memory;
    unsigned over = 0;

    buf_take(out, out->n);
    while (over < count) {
        const struct heard *h = next(p, WAIT);
        if (h == NULL)
            unexpected(p, "a delivery", queue_shows(p));
        if (h->packet.type == MQTT_PUBLISH) {
            buf_add(out, h->packet.publish.payload.p,
                    h->packet.publish.payload.n);
            buf_text(out, " ");
        } else if (h->packet.type != MQTT_PUBREL) {
            unexpected(p, "a delivery", h->text);
        }
        over += (unsigned)delivery_answer(p, h);
    }
    buf_add(out, "", 1);
    return (const char *)out->p;
}

/* The QoS that words as in "q1 retain ~/a =x" ask for. */
static int words_qos(const char *words)
{
    for (const char *c = words; c != NULL; c = strchr(c, ' ')) {
        c += strspn(c, " ");
        if (c[0] == 'q' && c[1] >= '0' && c[1] <= '2' &&
            (c[2] == ' ' || c[2] == '\0'))
            return c[1] - '0';
    }
    return 0;
}

void publish(struct test *t, const char *format, ...)
{
    va_list args;

    if (t->publisher == NULL)
        t->publisher = peer_join(t, "c1 id=~pub");
    struct peer *p = t->publisher;
    va_start(args, format);
    char *words = words_print(format, args);
    va_end(args);
    int qos = words_qos(words);
    unsigned id = qos > 0 ? new_id(p) : 0;
    if (qos == 0) {
        /* The PINGRESP tells that it was read: what others say comes later. */
        say(p, "publish %s", words);
        say(p, "pingreq");
        hear(p, "pingresp");
    } else {
        say(p, "publish #%u %s", id, words);
        hear(p, qos == 1 ? "puback #%u [01]0*" : "pubrec #%u [01]0*", id);
    }
    if (qos == 2) {
        say(p, "pubrel #%u", id);
        hear(p, "pubcomp #%u 00*", id);
    }
    free(words);
}

/* Each filter is granted, and with its QoS: a broker may grant less (3.8.4),
 * and what the test is about does not come to pass then. */
static void grants_check(struct peer *p, const struct heard *h, char *words)
{
    struct mqtt_subscription s;
    struct draft d;

    draft_parse(&d, words);
    struct mqtt_bytes rest = d.packet.list;
    for (size_t i = 0; i < h->packet.list.n; i++) {
        uint8_t granted = h->packet.list.p[i];
        if (granted > 2)
            unexpected(p, "a grant", h->text);
        if (mqtt_subscribe_next(&rest, &s) && granted < s.qos &&
            granted < offer(p->test)->qos_max)
            not_offered(p->test, "SUBACK grants QoS %u of %u", granted, s.qos);
    }
    draft_free(&d);
}

void subscribe(struct peer *p, const char *format, ...)
{
    struct buf words = {NULL, 0, 0, 0};
    unsigned id = new_id(p);
    va_list args;

    va_start(args, format);
    char *filters = words_print(format, args);
    va_end(args);
    text_format(&words, "subscribe #%u ", id);
    buf_text(&words, filters);
    buf_add(&words, "", 1);
    say(p, "%s", (const char *)words.p);
    grants_check(p, hear(p, "suback #%u *", id), (char *)words.p);
    buf_free(&words);
    free(filters);
}

unsigned delivered(struct test *t, struct peer *p, unsigned qos,
                   const char *payload)
{
    publish(t, "q%u ~/a =%s", qos, payload);
    return hear(p, "publish q%u #* ~/a =%s", qos, payload)->packet_id;
}

void let_pass(struct test *t, unsigned ms)
{
    uint64_t end = now() + ms;

    while (now() < end) {
        uint64_t until = end;
        for (int i = 0; i < t->peer_count; i++) {
            struct peer *p = t->peers[i];
            /* Three quarters of the Keep Alive leave time for the way. */
            uint64_t due = p->said_at + p->referee.keep_alive * 750u;
            if (p->fd < 0 || p->ended || p->referee.keep_alive == 0)
                continue;
            if (due <= now()) {
                say(p, "pingreq");
                p->pings++;
                due = now() + p->referee.keep_alive * 750u;
            }
            until = due < until ? due : until;
        }
        pump(t, until);
    }
}

/* ============================ 5. Sections ================================ */

void need_assigned(struct test *t)
{
    struct peer *p = peer_open(t);

    say(p, "connect c1");
    const struct heard *h = next(p, WAIT);
    if (h == NULL || h->packet.reason >= 0x80)
        not_offered(t, "it takes no empty Client Identifier");
}

void need_refusal(struct test *t)
{
    struct peer *p = peer_open(t);

    say(p, "connect c1 id=~no am=~none");
    if (comes(p, WAIT, "connack 00*"))
        not_offered(t, "it does not check the Authentication Method");
}

struct peer *stay(struct test *t, const char *filter)
{
    need(t, NEED_SESSIONS);
    struct peer *p = peer_join(t, "c1 id=~a x=300");

    subscribe(p, "%s", filter);
    return p;
}

struct peer *come_back(struct test *t)
{
    struct peer *p = peer_join(t, "c0 id=~a x=300");

    check(t, present(p), "Session Present 0 though the session was to stay");
    return p;
}

struct peer *resume(struct test *t, const char *more)
{
    need(t, NEED_SESSIONS);
    return peer_join(t, "c0 id=~s x=300 %s", more);
}

struct peer *filters_refused(struct test *t, const char *const *filters,
                             size_t n, const char *statement)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    for (size_t i = 0; i < n; i++) {
        say_wrong(p, "subscribe #1 %s", filters[i]);
        if (comes(p, WAIT, "suback*")) {
            named(p, hear(p, "suback #1 [89a]?"), statement);
        } else {
            refused_as(p, "8f 81 82", statement);
            p = peer_join(t, "c1 id=~a");
        }
    }
    return p;
}

/* The answer comes to a client that takes no more than this. */
static void fits_within(struct test *t, size_t limit, uint8_t property,
                        const char *words, const char *answer)
{
    struct peer *p = peer_join(t, "c1 id=~b mps=%zu", limit);

    say(p, "%s", words);
    const struct heard *h = hear(p, "%s", answer);
    check(t, h->size <= limit || !MQTT_HAS(&h->packet.props, property),
          "%s makes a packet of %zu bytes, Maximum Packet Size is %zu",
          mqtt_property_name(property), h->size, limit);
    leave(p);
}

void fits_without(struct test *t, uint8_t property, const char *words,
                  const char *format, ...)
{
    struct peer *p = peer_join(t, "c1 id=~a");
    size_t least = connack(p)->size; /* the CONNACK must fit too */
    va_list args;

    va_start(args, format);
    char *answer = words_print(format, args);
    va_end(args);
    say(p, "%s", words);
    const struct heard *h = hear(p, "%s", answer);
    size_t whole = h->size;
    check(t,
          !diagnosed(t) ||
              (h->packet.props.reason_string.n > 0 && whole > least + 1),
          "there is no Reason String that must be left out");
    fits_within(t, least, property, words, answer);
    if (whole > least + 1)
        fits_within(t, whole - 1, property, words, answer);
    free(answer);
}

void no_room_for(struct test *t, uint8_t property, const char *ask,
                 const char *answer)
{
    struct peer *p = peer_join(t, "c1 id=~a mps=100000");
    size_t room = connack(p)->size; /* the CONNACK must fit too */
    char filters[2000] = "~/a#";

    room = room < 6 ? 6 : room;
    cut(p);
    p = peer_join(t, "c1 id=~a mps=%zu", room);
    /* Five bytes and the codes, six from 128 bytes on. */
    for (size_t k = room < 130 ? room - 5 : room - 6; k > 1; k--) {
        size_t n = strlen(filters);
        snprintf(filters + n, sizeof filters - n, " ~/%zu", k);
    }
    say_wrong(p, "%s #7 %s", ask, filters);
    if (!comes(p, WAIT, "%s*", answer)) {
        refused_as(p, "8f 81 82", "MQTT-4.7.1-1");
        return;
    }
    check(t, !MQTT_HAS(&hear(p, "%s #7 *", answer)->packet.props, property),
          "%s though there is no room for it", mqtt_property_name(property));
}
