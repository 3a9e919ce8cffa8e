/*
 * test_model.c - long random lives of the server against a plain model.
 *
 *   1. the run        what one run consists of; failing
 *   2. clients        what they send
 *   3. hearing        every packet against the model
 *   4. after a turn   what must have come
 *   5. operations     connect, publish, acknowledge, cut, subscribe ...
 *   6. dying          kill, power cut, orderly end; clocks that jump
 *   7. one run        operations, then everything is drained and counted
 *   8. many runs      each in a process of its own; shrinking
 *
 *     test_model                          100 runs of 400 operations
 *     test_model SEEDS LENGTH [FIRST]     that many runs
 *     test_model one SEED LENGTH [LIST]   one run; LIST: only these operations
 *
 * A seed gives a whole list of operations before anything happens, and each
 * of them does something sensible, or nothing, in every state.  So any part
 * of the list is a run too, and what fails is shortened until each operation
 * that is left is needed.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "model.h"
#include "notation.h"

/* ==== 1. the run ===========================================================
 */

/* One operation; what a..d mean is its kind's business. */
struct op {
    uint8_t kind;
    uint8_t who; /* a client */
    uint16_t a, b, c, d;
};

struct answer {
    int kind; /* PUBACK, PUBREC or PUBCOMP that the client has yet to send */
    uint16_t id;
};

/* A QoS 1 or 2 message of the client's own. */
struct out {
    int msg;
    uint16_t id;
    int stage; /* 1 = PUBLISH sent, 2 = PUBREC came, 3 = PUBREL sent */
};

struct reply {
    uint16_t id;    /* of a SUBSCRIBE or UNSUBSCRIBE */
    uint8_t reason; /* that must come for it */
};

#define OUT_MAX 8  /* messages of its own that a client has open */
#define HELD_MAX 8 /* operations in one turn */

/* A well-behaved client, and what it remembers. */
struct client {
    struct bench_link *link; /* NULL = offline */
    int window;              /* its Receive Maximum */
    int asked;               /* its last SUBSCRIBE, 0..99 */
    struct out out[OUT_MAX];
    int out_n;
    struct answer answers[4 * LIST]; /* withheld, in the order they fell due */
    int answer_n;
    struct reply replies[HELD_MAX + 1];
    int reply_n;
    int got[65536]; /* by Packet Identifier: QoS 2 message until PUBREL */
};

static struct bench *T;
static struct world W;
static struct world W_held; /* before the turn that is held */
static struct messages M;
static struct client C[CLIENTS];
static int held;          /* operations in the turn that is held; -1 = none */
static int op_at;         /* the operation that runs */
static uint64_t op_began; /* the clock when it began */
static uint32_t seen;     /* deliveries heard */

static void wrong(const char *format, ...)
{
    char what[300];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    size_t n = T->story.n < 6000 ? T->story.n : 6000;
    if (n > 0)
        fprintf(stderr, "%.*s", (int)n,
                (const char *)T->story.p + T->story.n - n);
    fprintf(stderr, "operation %d: %s\n", op_at, what);
    fflush(stderr);
    _exit(1);
}

/* ==== 2. clients ===========================================================
 */

/* The payload begins with the message's number; the rest depends on it. */
static void payload_print(char *out, int msg)
{
    const struct message *m = &M.at[msg];
    int n = m->empty ? 0 : snprintf(out, 12, "%d.", msg);
    for (uint32_t i = 0; i < (m->empty ? 0 : m->bytes); i++)
        out[n++] = (char)('a' + (msg + (int)(i / 3)) % 26);
    out[n] = '\0';
}

/* A PUBLISH; id 0 at QoS 0. */
static void say_publish(struct client *c, int msg, uint16_t id, int dup)
{
    const struct message *m = &M.at[msg];
    char topic[8], number[12] = "", mei[24] = "", payload[2100];
    topic_print(topic, m->topic);
    payload_print(payload, msg);
    if (id != 0)
        snprintf(number, sizeof number, " #%u", id);
    if (m->mei != 0)
        snprintf(mei, sizeof mei, " mei=%lu", (unsigned long)m->mei);
    bench_say(c->link, "publish q%d%s%s%s %s =%s up=m:%d%s", m->qos,
              dup ? " dup" : "", m->retain ? " retain" : "", number, topic,
              payload, msg, mei);
}

/* The server takes a message in, unless it is a repeat that it knows. */
static int take_message(int c, const struct out *o)
{
    const struct message *m = &M.at[o->msg];
    if (m->qos == 2 && W.s[c].rx[o->id])
        return 1;
    if (m->qos == 2)
        W.s[c].rx[o->id] = 1;
    return model_route(&W, &M, o->msg, T->now);
}

static void out_del(struct client *c, int i)
{
    c->out_n--;
    memmove(&c->out[i], &c->out[i + 1],
            (size_t)(c->out_n - i) * sizeof c->out[0]);
}

static struct out *out_find(struct client *c, uint16_t id)
{
    for (int i = 0; i < c->out_n; i++)
        if (c->out[i].id == id)
            return &c->out[i];
    return NULL;
}

static void answer_add(struct client *c, int kind, uint16_t id)
{
    c->answers[c->answer_n].kind = kind;
    c->answers[c->answer_n++].id = id;
}

static void link_gone(struct client *c)
{
    c->link = NULL;
    c->answer_n = 0;
    c->reply_n = 0;
}

/* The server has no session: the client forgets its own. */
static void client_forget(struct client *c)
{
    c->out_n = 0;
    memset(c->got, 0, sizeof c->got);
}

/* ==== 3. hearing ===========================================================
 */

/* The Message Expiry Interval is what is left of it, in whole seconds, at
 * some moment of this operation. */
static int expiry_fits(const struct bench_heard *h, const struct delivery *d)
{
    uint64_t most = d->expires > op_began ? d->expires - op_began : 0;
    uint64_t least = d->expires > T->now ? d->expires - T->now : 0;
    return (strstr(h->text, " mei=") != NULL) == (d->expires != 0) &&
           (uint64_t)h->expiry * 1000 + 999 >= least &&
           (uint64_t)h->expiry * 1000 <= most + 999;
}

/* Does the text of a PUBLISH fit what the model says of the delivery? */
static void text_check(const struct bench_heard *h, const struct delivery *d)
{
    const struct message *m = &M.at[d->msg];
    char topic[8], payload[2100], expected[24];
    topic_print(topic, m->topic);
    payload_print(payload, d->msg);
    snprintf(expected, sizeof expected, " %s =", topic);
    if (strncmp(strchr(h->text, '/') - 2, expected, strlen(expected)) != 0)
        wrong("the topic is not %s: %s", topic, h->text);
    if (strcmp(h->payload, payload) != 0)
        wrong("the payload was altered: %s", h->text);
    if ((strstr(h->text, " retain ") != NULL) != d->retain)
        wrong("RETAIN is not %d: %.200s", d->retain, h->text);
    for (int f = 0; f < FILTERS; f++) {
        snprintf(expected, sizeof expected, " sid=%d ", f + 1);
        if ((strstr(h->text, expected) != NULL) != (d->ids >> f & 1))
            wrong("not the identifiers %02x: %.200s", d->ids, h->text);
    }
    if (!expiry_fits(h, d))
        wrong("Message Expiry Interval: %.200s", h->text);
}

/* Is this delivery in the list of flights the PUBLISH that was heard? */
static int same_publish(const struct delivery *d, const struct bench_heard *h,
                        int msg)
{
    return d->id == h->packet_id && d->msg == msg && d->qos == h->qos &&
           d->stage == HEARD;
}

/* The PUBLISH of a delivery that the client has heard before; 1 = it is. */
static int hear_repeat(int c, const struct bench_heard *h, int msg, int dup)
{
    struct session *s = &W.s[c];
    int i = list_find(&s->flights, h->packet_id);
    int was = list_find(&s->finished, h->packet_id);
    if (i < 0 && dup && was >= 0 && s->finished.at[was].raised &&
        same_publish(&s->finished.at[was], h, msg)) {
        struct delivery d = s->finished.at[was];
        d.here = d.raised = 0;
        list_del(&s->finished, was);
        list_add(&s->flights, d);
        i = s->flights.n - 1;
    }
    if (i < 0)
        return 0;
    struct delivery *d = &s->flights.at[i];
    if (!same_publish(d, h, msg) || d->here || !dup)
        wrong("client %d: identifier %u is open for message %d: %.200s", c,
              h->packet_id, d->msg, h->text);
    for (int k = 0; k < s->flights.n; k++) {
        const struct delivery *o = &s->flights.at[k];
        if (o->stage == HEARD && !o->here && o->seen < d->seen)
            wrong("client %d: message %d is repeated before message %d", c, msg,
                  o->msg);
    }
    d->here = 1;
    text_check(h, d);
    return 1;
}

static int same_class(const struct delivery *d, int qos)
{
    return (d->qos == 0) == (qos == 0);
}

/* The place in the queue of a delivery that may come now: nothing that must
 * come stands before it. */
static int queue_due(const struct list *q, const struct bench_heard *h, int msg)
{
    int retain = strstr(h->text, " retain ") != NULL;
    uint32_t bound = UINT32_MAX;
    for (int i = 0; i < q->n; i++) {
        const struct delivery *d = &q->at[i];
        if (!same_class(d, h->qos))
            continue;
        if (d->rank > bound)
            break;
        if (d->msg == msg && d->qos == h->qos && d->retain == retain &&
            expiry_fits(h, d))
            return i;
        if (!delivery_optional(d, T->now))
            bound = d->rank;
    }
    return -1;
}

/* Takes a delivery out of the queue, and those before it, which were lost.
 * If it might have been lost itself, and its publisher has repeated the
 * message, nobody can tell which of the two has come. */
static struct delivery queue_take(struct list *q, int found)
{
    struct delivery d = q->at[found];
    for (int i = found + 1; i < q->n; i++)
        q->at[i].maybe |=
            q->at[i].msg == d.msg && delivery_optional(&d, T->now);
    list_del(q, found);
    for (int i = found - 1; i >= 0; i--)
        if (same_class(&q->at[i], d.qos) && q->at[i].rank < d.rank)
            list_del(q, i);
    return d;
}

/* The same for Shared Subscriptions, which keep no order among members.  Each
 * has its identifier; the QoS is bounded by what the member was granted.  If
 * there are several, one that must come; with DUP, one that may have it. */
static int pool_due(int c, const struct bench_heard *h, int msg, int dup)
{
    int best = -1, best_points = -1;
    const char *sid = strstr(h->text, " sid=");
    int group = sid != NULL ? atoi(sid + 5) - 1 : 0;
    for (int i = 0; i < W.pool.n; i++) {
        const struct delivery *d = &W.pool.at[i];
        int most = M.at[d->msg].qos, least = most < 1 ? most : 1;
        if (d->msg != msg || d->group != group || !W.s[c].was[group] ||
            h->qos > most || h->qos < least || !expiry_fits(h, d))
            continue;
        int points = 2 * (d->unsure == dup) + !delivery_optional(d, T->now);
        if (points > best_points) {
            best = i;
            best_points = points;
        }
    }
    return best;
}

/* The PUBLISH of a delivery that the client has not heard before. */
static void hear_new(int c, const struct bench_heard *h, int msg, int dup)
{
    struct session *s = &W.s[c];
    int shared = M.at[msg].topic == 3 || M.at[msg].topic == 4;
    int i = shared ? pool_due(c, h, msg, dup) : queue_due(&s->queue, h, msg);
    if (i < 0)
        wrong("client %d: message %d is not due: %.200s", c, msg, h->text);
    struct delivery d = shared ? W.pool.at[i] : queue_take(&s->queue, i);
    if (shared)
        list_del(&W.pool, i);
    d.qos = h->qos;
    text_check(h, &d);
    if (h->qos == 0)
        return;
    if (dup && !d.unsure)
        wrong("client %d: message %d has DUP the first time", c, msg);
    for (int k = 0; k < s->flights.n && !d.unsure; k++)
        if (s->flights.at[k].stage == HEARD && !s->flights.at[k].here)
            wrong("client %d: message %d comes before the repeat of %d", c, msg,
                  s->flights.at[k].msg);
    for (int k = s->finished.n - 1; k >= 0; k--)
        if (s->finished.at[k].id == h->packet_id)
            list_del(&s->finished, k);
    d.id = h->packet_id;
    d.stage = HEARD;
    d.here = 1;
    d.unsure = d.maybe = 0;
    d.seen = ++seen;
    list_add(&s->flights, d);
}

static void hear_publish(int c, const struct bench_heard *h)
{
    const char *number = strstr(h->text, " up=m:");
    int msg = number != NULL ? atoi(number + 6) : 0;
    int dup = strncmp(h->text + 10, " dup", 4) == 0;
    if (msg <= 0 || msg >= M.n)
        wrong("client %d: no message of ours: %.200s", c, h->text);
    if (h->qos == 0 || !hear_repeat(c, h, msg, dup))
        hear_new(c, h, msg, dup);
    if (h->qos == 2 && C[c].got[h->packet_id] != 0 &&
        C[c].got[h->packet_id] != msg)
        wrong("client %d: identifier %u still stands for message %d, not %d", c,
              h->packet_id, C[c].got[h->packet_id], msg);
    if (h->qos == 2)
        C[c].got[h->packet_id] = msg;
    if (h->qos > 0)
        answer_add(&C[c], h->qos == 1 ? MQTT_PUBACK : MQTT_PUBREC,
                   h->packet_id);
}

static void hear_pubrel(int c, const struct bench_heard *h)
{
    struct session *s = &W.s[c];
    int i = list_find(&s->flights, h->packet_id);
    int was = list_find(&s->finished, h->packet_id);
    if (i < 0 && was >= 0 && s->finished.at[was].raised &&
        s->finished.at[was].stage == RELEASED) {
        list_add(&s->flights, s->finished.at[was]);
        list_del(&s->finished, was);
        i = s->flights.n - 1;
        s->flights.at[i].here = 0;
    }
    if (i < 0 || s->flights.at[i].stage != RELEASED ||
        (s->flights.at[i].here && !s->flights.at[i].due) ||
        strcmp(strrchr(h->text, ' '), " 00") != 0)
        wrong("client %d: nothing is to be released: %s", c, h->text);
    s->flights.at[i].here = 1;
    s->flights.at[i].due = 0;
    s->flights.at[i].raised = 0;
    C[c].got[h->packet_id] = 0;
    answer_add(&C[c], MQTT_PUBCOMP, h->packet_id);
}

/* PUBACK, PUBREC, PUBCOMP for a message of the client's own. */
static void hear_answer(int c, const struct bench_heard *h)
{
    struct out *o = out_find(&C[c], h->packet_id);
    unsigned reason = 0xFF;
    int qos = o != NULL ? M.at[o->msg].qos : 0;
    sscanf(h->text, "%*s #%*u %x", &reason);
    int fits = (h->type == MQTT_PUBACK && qos == 1 && o->stage == 1) ||
               (h->type == MQTT_PUBREC && qos == 2 && o->stage == 1) ||
               (h->type == MQTT_PUBCOMP && qos == 2 && o->stage == 3);
    /* a PUBREL is repeated too, and then the server may know of nothing */
    if (!fits || (reason != 0 && reason != 0x10 &&
                  !(reason == 0x92 && h->type == MQTT_PUBCOMP)))
        wrong("client %d: an answer to nothing: %s", c, h->text);
    if (h->type == MQTT_PUBREC)
        o->stage = 2;
    else
        out_del(&C[c], (int)(o - C[c].out));
}

static void hear_reply(int c, const struct bench_heard *h)
{
    struct client *client = &C[c];
    unsigned reason = 0xFF;
    sscanf(h->text, "%*s #%*u %x", &reason);
    if (client->reply_n == 0 || client->replies[0].id != h->packet_id ||
        client->replies[0].reason != reason)
        wrong("client %d: reason %02x of #%u was due: %s", c,
              client->replies[0].reason, client->replies[0].id, h->text);
    client->reply_n--;
    memmove(&client->replies[0], &client->replies[1],
            (size_t)client->reply_n * sizeof client->replies[0]);
}

static void hear(int c, const struct bench_heard *h)
{
    switch (h->type) {
    case MQTT_PUBLISH:
        hear_publish(c, h);
        break;
    case MQTT_PUBREL:
        hear_pubrel(c, h);
        break;
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBCOMP:
        hear_answer(c, h);
        break;
    case MQTT_SUBACK:
    case MQTT_UNSUBACK:
        hear_reply(c, h);
        break;
    default:
        wrong("client %d: not expected: %.200s", c, h->text);
    }
}

/* ==== 4. after a turn ======================================================
 */

/* With room in the client's window nothing is left to be sent. */
static void queue_check(int c)
{
    struct session *s = &W.s[c];
    int flying = 0;
    for (int i = 0; i < s->flights.n; i++)
        flying += s->flights.at[i].here;
    if (flying >= C[c].window)
        return;
    for (int i = 0; i < s->flights.n; i++)
        if (!s->flights.at[i].here)
            wrong("client %d: message %d, #%u, was not sent again", c,
                  s->flights.at[i].msg, s->flights.at[i].id);
    for (int i = 0; i < s->queue.n; i++)
        if (!delivery_optional(&s->queue.at[i], op_began))
            wrong("client %d: message %d did not come", c, s->queue.at[i].msg);
    s->queue.n = 0;
    for (int i = s->finished.n - 1; i >= 0; i--)
        if (s->finished.at[i].raised)
            list_del(&s->finished, i); /* it was not undone */
}

/* Whatever a client is owed at once came in this turn. */
static void client_check(int c)
{
    const struct session *s = &W.s[c];
    for (int i = 0; i < C[c].out_n; i++)
        if (C[c].out[i].stage != 2)
            wrong("client %d: no answer to its message %d", c, C[c].out[i].msg);
    if (C[c].reply_n > 0)
        wrong("client %d: no answer to its #%u", c, C[c].replies[0].id);
    for (int i = 0; i < s->flights.n; i++)
        if (s->flights.at[i].due)
            wrong("client %d: no PUBREL for #%u", c, s->flights.at[i].id);
    if (C[c].link->ended)
        wrong("client %d: the server closed its connection", c);
    queue_check(c);
}

static void figures_check(void)
{
    struct session_figures f = *session_figures(T->server);
    uint64_t sessions = 0, online = 0, subs = 0, retained = 0;
    for (int c = 0; c < CLIENTS; c++) {
        sessions += W.s[c].exists != 0;
        online += W.s[c].online != 0;
        for (int i = 0; i < FILTERS; i++)
            subs += W.s[c].exists && W.s[c].subs[i].on;
    }
    for (int t = 0; t < TOPICS; t++)
        retained += W.retained[t].msg != 0;
    if (f.sessions != sessions || f.online != online ||
        f.subscriptions != subs || f.retained != retained)
        wrong("%d sessions, %d online, %d subscriptions, %d retained messages; "
              "expected %d, %d, %d, %d",
              (int)f.sessions, (int)f.online, (int)f.subscriptions,
              (int)f.retained, (int)sessions, (int)online, (int)subs,
              (int)retained);
}

/* The turn is over: everybody listens. */
static void listen_all(void)
{
    const struct bench_heard *h;
    for (int c = 0; c < CLIENTS; c++)
        while (C[c].link != NULL && (h = bench_next(C[c].link)) != NULL)
            hear(c, h);
}

static void turn_over(void)
{
    if (held >= 0)
        return;
    model_clock(&W, &M, T->now, 0);
    listen_all();
    for (int c = 0; c < CLIENTS; c++)
        if (C[c].link != NULL)
            client_check(c);
    figures_check();
}

/* Ends the turn that is held, if one is. */
static void release(void)
{
    if (held < 0)
        return;
    held = -1;
    bench_turn(T);
    turn_over();
}

/* Counts what is said in a turn that is held. */
static void said(void)
{
    if (held >= 0 && ++held >= HELD_MAX)
        release();
    else
        turn_over();
}

/* ==== 5. operations ========================================================
 */

/* The CONNECT of an operation; its will goes into *will. */
static void connect_words(const struct op *o, int clean, int keep, char *words,
                          size_t size, struct session *s, struct will *will)
{
    static const uint32_t delays[] = {0, 5, 40};
    char x[24], w[120] = "";
    uint32_t shortly = 20 + 3u * o->who;
    memset(will, 0, sizeof *will);
    if (keep || o->a % 8 >= 4) {
        s->expiry = o->a % 3 == 0 ? EXPIRY_NEVER : 100000000;
        snprintf(x, sizeof x, " x=%lu", (unsigned long)s->expiry);
    } else if (o->a % 8 < 2) {
        s->expiry = o->a % 8 == 0 ? 0 : shortly;
        snprintf(x, sizeof x, " x=%lu", (unsigned long)s->expiry);
    } else { /* Holdfast's own default */
        s->expiry = clean ? 0 : 604800;
        x[0] = '\0';
    }
    if (!keep && o->b % 3 == 0) {
        struct message m = {o->who,
                            (uint8_t)(5 + o->who),
                            (uint8_t)(o->c % 3),
                            o->c / 3 % 4 == 0,
                            o->c / 12 % 3 == 0 ? 7 : 0,
                            o->d % 50,
                            0};
        char payload[100];
        will->msg = message_add(&M, m);
        will->delay = delays[o->d % 3];
        payload_print(payload, will->msg);
        int n = snprintf(w, sizeof w, " will q%d%s w/%d =%s up=m:%d wdi=%lu",
                         m.qos, m.retain ? " retain" : "", o->who, payload,
                         will->msg, (unsigned long)will->delay);
        if (m.mei != 0)
            snprintf(w + n, sizeof w - (size_t)n, " mei=%lu",
                     (unsigned long)m.mei);
    }
    snprintf(words, size, "connect c%d id=s%d%s rm=%d%s%s", clean, o->who, x,
             C[o->who].window, o->d % 2 ? " tam=3" : "", w);
}

/* The client sends again what was not answered. */
static void resend_own(int c)
{
    struct client *client = &C[c];
    for (int i = 0; i < client->out_n; i++) {
        struct out o = client->out[i];
        if (o.stage == 1) {
            take_message(c, &o);
            say_publish(client, o.msg, o.id, 1);
        } else {
            client->out[i].stage = 3;
            W.s[c].rx[o.id] = 0;
            bench_say(client->link, "pubrel #%u", o.id);
        }
    }
}

/* What the connection that is taken over hears last. */
static void taken_over(struct bench_link *old)
{
    const struct bench_heard *h = bench_next(old);
    if (h == NULL || strncmp(h->text, "disconnect 8e", 13) != 0 ||
        bench_next(old) != NULL || !old->ended)
        wrong("the old connection heard %s", h != NULL ? h->text : "nothing");
}

static void connect_now(const struct op *o, int clean, int keep)
{
    struct client *client = &C[o->who];
    struct bench_link *old = client->link;
    struct session fresh = {0};
    struct will will;
    char words[300], expected[24];
    release();
    if (T->link_count > BENCH_LINKS - 2 * CLIENTS)
        return;
    client->window = keep ? 1000 : o->c % 5 == 0 ? 1000 : 1 + o->c % 5;
    connect_words(o, clean, keep, words, sizeof words, &fresh, &will);
    link_gone(client);
    client->link = bench_link_open(T);
    int present = model_connect(&W, &M, o->who, clean, T->now);
    W.s[o->who].expiry = fresh.expiry;
    W.s[o->who].will = will;
    bench_say(client->link, "%s", words);
    if (old != NULL)
        taken_over(old);
    const struct bench_heard *h = bench_next(client->link);
    snprintf(expected, sizeof expected, "connack 00 sp=%d ", present);
    if (h == NULL || strncmp(h->text, expected, strlen(expected)) != 0)
        wrong("client %d: expected %s, heard %s", o->who, expected,
              h != NULL ? h->text : "nothing");
    if (!present)
        client_forget(client);
    held = 0; /* its repeats go out in one turn */
    T->held = 1;
    resend_own(o->who);
    release();
}

static void op_connect(const struct op *o)
{
    if (C[o->who].link == NULL || o->d % 4 == 0)
        connect_now(o, o->d % 7 == 0, 0);
}

/* A held turn's output to this client is lost with its link. */
static void output_lost(int c)
{
    struct list *q = &W.s[c].queue;
    for (int i = 0; i < q->n; i++)
        q->at[i].maybe |= q->at[i].qos == 0 && !q->at[i].away;
}

static void op_cut(const struct op *o)
{
    struct bench_link *l = C[o->who].link;
    if (l == NULL)
        return;
    if (held >= 0)
        output_lost(o->who);
    model_detach(&W, &M, o->who, LOST, T->now);
    link_gone(&C[o->who]);
    held = -1;
    bench_cut(l);
    turn_over();
}

static void op_leave(const struct op *o)
{
    struct session *s = &W.s[o->who];
    struct bench_link *l = C[o->who].link;
    release();
    if (l == NULL)
        return;
    int change = o->a % 5 == 0 && s->expiry != 0;
    if (change)
        s->expiry = o->b % 3 == 0 ? 0 : 30;
    model_detach(&W, &M, o->who, o->a % 2 ? LOST : CLEAN, T->now);
    link_gone(&C[o->who]);
    if (change)
        bench_say(l, "disconnect %s x=%d", o->a % 2 ? "04" : "00",
                  o->b % 3 == 0 ? 0 : 30);
    else
        bench_say(l, "disconnect %s", o->a % 2 ? "04" : "00");
    if (!l->ended || bench_next(l) != NULL)
        wrong("client %d: something after its DISCONNECT", o->who);
    turn_over();
}

/* Is there room in the lists of the model? */
static int roomy(void)
{
    int most = W.pool.n;
    for (int c = 0; c < CLIENTS; c++) {
        int n = W.s[c].queue.n + W.s[c].flights.n + W.s[c].finished.n;
        most = n > most ? n : most;
    }
    return most < LIST / 2;
}

static void op_publish(const struct op *o)
{
    struct client *client = &C[o->who];
    struct message m = {
        o->who, (uint8_t)(o->a % 5), (uint8_t)(o->b % 3), 0, 0, 0, 0};
    struct out out = {0, 0, 1};
    if (client->link == NULL || !roomy() ||
        (m.qos > 0 && client->out_n == OUT_MAX))
        return;
    m.retain = m.topic < 3 && o->b / 3 % 4 == 0;
    m.empty = m.retain && o->b / 12 % 3 == 0;
    m.mei = o->c % 6 == 0 ? 1 + o->c / 6 % 12 : 0;
    m.bytes = o->d % 8 == 0 ? 1500 : o->d % 40;
    out.msg = message_add(&M, m);
    if (m.qos == 0) {
        model_route(&W, &M, out.msg, T->now);
        say_publish(client, out.msg, 0, 0);
        said();
        return;
    }
    do
        out.id = (uint16_t)(out.id + 1);
    while (out_find(client, out.id) != NULL);
    client->out[client->out_n++] = out;
    take_message(o->who, &out);
    say_publish(client, out.msg, out.id, 0);
    said();
}

/* The first message of its own that waits for it is released. */
static void op_release(const struct op *o)
{
    struct client *client = &C[o->who];
    for (int i = 0; i < client->out_n && client->link != NULL; i++) {
        if (client->out[i].stage != 2)
            continue;
        client->out[i].stage = 3;
        W.s[o->who].rx[client->out[i].id] = 0;
        bench_say(client->link, "pubrel #%u", client->out[i].id);
        said();
        return;
    }
}

/* The server takes in that a delivery is finished. */
static void finish_flight(int c, int i)
{
    struct session *s = &W.s[c];
    struct delivery d = s->flights.at[i];
    d.at = T->now;
    d.raised = 0;
    list_del(&s->flights, i);
    session_forget(s, T->now, 2000);
    list_add(&s->finished, d);
}

/* Sends one answer.  Those of a kind go in the order in which they fell due
 * [MQTT-4.6.0-2] [MQTT-4.6.0-3]; the kinds among each other in any. */
static void answer_say(const struct op *o, int i)
{
    struct client *client = &C[o->who];
    struct answer a = client->answers[i];
    const char *name = a.kind == MQTT_PUBACK   ? "puback"
                       : a.kind == MQTT_PUBREC ? "pubrec"
                                               : "pubcomp";
    int refuse = a.kind != MQTT_PUBCOMP && o->c % 16 == 0;
    int at = list_find(&W.s[o->who].flights, a.id);
    if (at < 0)
        wrong("the model lost #%u of client %d", a.id, o->who);
    client->answer_n--;
    memmove(&client->answers[i], &client->answers[i + 1],
            (size_t)(client->answer_n - i) * sizeof a);
    if (a.kind == MQTT_PUBREC && !refuse) {
        W.s[o->who].flights.at[at].stage = RELEASED;
        W.s[o->who].flights.at[at].due = 1;
    } else {
        finish_flight(o->who, at);
    }
    if (a.kind == MQTT_PUBREC && refuse)
        client->got[a.id] = 0;
    bench_say(client->link, "%s #%u%s", name, a.id, refuse ? " 83" : "");
    said();
}

static void op_answer(const struct op *o)
{
    static const int kinds[] = {MQTT_PUBACK, MQTT_PUBREC, MQTT_PUBCOMP};
    struct client *client = &C[o->who];
    for (int n = o->b % 6; n >= 0; n--) {
        int i = 0;
        int kind = kinds[(o->a + n) % 3];
        while (i < client->answer_n && client->answers[i].kind != kind)
            i++;
        if (client->link != NULL && i < client->answer_n && roomy())
            answer_say(o, i);
    }
}

static uint16_t ask(struct client *client, uint8_t reason)
{
    client->asked = client->asked % 99 + 1;
    struct reply r = {(uint16_t)(100 + client->asked), reason};
    client->replies[client->reply_n++] = r;
    return r.id;
}

static void op_subscribe(const struct op *o)
{
    struct client *client = &C[o->who];
    int f = o->a % FILTERS, rh = o->b / 16 % 3;
    struct sub sub = {1, (uint8_t)(o->b % 3), o->b / 3 % 4 == 0, o->c % 2,
                      o->d % 2};
    char sid[16] = "";
    if (client->link == NULL || !roomy())
        return;
    if (f >= SHARED) { /* No Local is not for these [MQTT-3.8.3-4] */
        sub.qos = (uint8_t)(1 + o->b % 2);
        sub.nl = sub.rap = 0;
        sub.has_id = 1;
    }
    if (sub.has_id)
        snprintf(sid, sizeof sid, " sid=%d", f + 1);
    model_subscribe(&W, &M, o->who, f, sub, rh, T->now);
    bench_say(client->link, "subscribe #%u %s,q%d%s%s,rh%d%s",
              ask(client, sub.qos), model_filters[f], sub.qos,
              sub.nl ? ",nl" : "", sub.rap ? ",rap" : "", rh, sid);
    said();
}

static void op_unsubscribe(const struct op *o)
{
    struct client *client = &C[o->who];
    int f = o->a % FILTERS;
    if (client->link == NULL)
        return;
    uint8_t reason = W.s[o->who].subs[f].on ? 0x00 : 0x11;
    memset(&W.s[o->who].subs[f], 0, sizeof W.s[o->who].subs[f]);
    bench_say(client->link, "unsubscribe #%u %s", ask(client, reason),
              model_filters[f]);
    said();
}

static void op_wait(const struct op *o)
{
    uint64_t ms = o->a % 4 == 0   ? o->b % 60000u
                  : o->a % 4 == 1 ? o->b % 5000u
                                  : o->b % 300u;
    release();
    bench_advance(T, ms);
    turn_over();
}

/* What is said from now on is read in one turn. */
static void op_hold(const struct op *o)
{
    (void)o;
    if (held >= 0)
        return;
    W_held = W;
    held = 0;
    T->held = 1;
}

static void op_checkpoint(const struct op *o)
{
    (void)o;
    release();
    if (session_server_checkpoint(T->server) != 0)
        wrong("no index");
}

/* ==== 6. dying =============================================================
 */

static void server_down(int clean)
{
    for (int i = 0; i < T->link_count; i++)
        T->links[i]->link = NULL;
    for (int c = 0; c < CLIENTS; c++)
        link_gone(&C[c]);
    held = -1;
    store_close(T->store, clean);
    session_server_close(T->server);
    T->store = NULL;
    T->server = NULL;
}

/* Starts the broker as broker.c does: it goes on from the wall clock, but
 * never from a time before the last one (README.md, Time).  The segments are
 * small, so that cleaning is always at work. */
static void server_up(uint64_t wall)
{
    struct store_options options;
    char err[STORE_ERROR_MAX] = "";
    memset(&options, 0, sizeof options);
    options.dir = T->dir;
    options.io = &T->io;
    options.segment_size = 12 * 1024;
    options.reserve_size = 64 * 1024;
    T->store = store_open(&options, wall, err);
    if (T->store == NULL)
        wrong("store_open: %s", err);
    uint64_t alive = store_last_alive(T->store);
    T->now = wall > alive ? wall : alive;
    T->server = session_server_open(T->store, &T->options, T->now);
    if (T->server == NULL)
        wrong("session_server_open: %s", store_error(T->store));
    bench_turn(T);
    op_began = T->now;
}

static void index_delete(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/index", T->dir);
    unlink(path);
}

/* The power cut: the file that was synced last is cut to what was synced. */
static void unsynced_cut(void)
{
    char path[512];
    struct dirent *entry;
    struct stat s;
    DIR *dir = opendir(T->dir);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        snprintf(path, sizeof path, "%s/%s", T->dir, entry->d_name);
        if (strstr(entry->d_name, ".log") != NULL && stat(path, &s) == 0 &&
            s.st_ino == T->synced_file && s.st_size > T->synced_size &&
            truncate(path, T->synced_size) != 0)
            wrong("truncate: %s", path);
    }
    if (dir != NULL)
        closedir(dir);
}

/* What the wall clock says when the broker starts again. */
static uint64_t wall_clock(const struct op *o)
{
    switch (o->b % 6) {
    case 0:
        return T->now + o->d % 2000u;
    case 1:
        return T->now + o->d;
    case 2:
        return T->now + (uint64_t)(o->d % 40) * 86400000; /* days ahead */
    case 3:
        return T->now - (uint64_t)o->d * 50; /* up to an hour behind */
    default:
        return T->now;
    }
}

/* That a connection was lost is synced within a second, if no will went out;
 * since when the client is offline after a power cut before that, the model
 * does not know. */
static void offline_wait(void)
{
    int young = 0;
    for (int c = 0; c < CLIENTS; c++)
        young |= W.s[c].exists && !W.s[c].online && W.s[c].late &&
                 W.s[c].offline + 1000 >= T->now;
    if (!young)
        return;
    release();
    bench_advance(T, 1100);
    turn_over();
}

/* Kill or power cut.  If a turn is held: before its commit, so that it never
 * was, or after that, but before an answer has left. */
static void op_die(const struct op *o)
{
    int power = o->a % 2, unheard = 0;
    if (o->d % 3 == 0)
        op_cut(o); /* just before, so that little of it is synced */
    if (power)
        offline_wait();
    if (held >= 0 && o->a / 2 % 2 == 0) {
        W = W_held;
    } else if (held >= 0) {
        session_server_settle(T->server, T->now);
        if (store_commit(T->store, T->now) != 0)
            wrong("store_commit: %s", store_error(T->store));
        unheard = 1;
    }
    uint64_t alive = T->now, wall = wall_clock(o);
    server_down(0);
    if (power)
        unsynced_cut();
    if (o->c % 4 == 0)
        index_delete();
    server_up(wall);
    if (T->now != (wall > alive ? wall : alive))
        wrong("the store was last alive at %lu, not %lu",
              (unsigned long)store_last_alive(T->store), (unsigned long)alive);
    model_kill(&W, power, unheard, alive, T->now);
    model_clock(&W, &M, T->now, 1);
    turn_over();
}

/* The orderly end, and a start with or without the index that it left. */
static void op_end(const struct op *o)
{
    const struct bench_heard *h;
    release();
    model_stop(&W, &M, T->now);
    bench_stop(T);
    for (int c = 0; c < CLIENTS; c++)
        while (C[c].link != NULL && (h = bench_next(C[c].link)) != NULL)
            if (strncmp(h->text, "publish q0 ", 11) != 0 &&
                strncmp(h->text, "disconnect 8b", 13) != 0)
                wrong("client %d: at the end: %.200s", c, h->text);
    if (session_server_checkpoint(T->server) != 0)
        wrong("no index");
    uint64_t wall = wall_clock(o);
    server_down(1);
    if (o->c % 2 == 0)
        index_delete();
    server_up(wall);
    model_clock(&W, &M, T->now, 1);
    turn_over();
}

/* ==== 7. one run ===========================================================
 */

static const struct {
    const char *name;
    void (*run)(const struct op *o);
    int weight; /* of 100 */
} kinds[] = {
    {"publish", op_publish, 29},
    {"answer", op_answer, 20},
    {"connect", op_connect, 14},
    {"subscribe", op_subscribe, 9},
    {"wait", op_wait, 5},
    {"release", op_release, 6},
    {"hold", op_hold, 5},
    {"cut", op_cut, 3},
    {"leave", op_leave, 2},
    {"unsubscribe", op_unsubscribe, 2},
    {"die", op_die, 3},
    {"end", op_end, 1},
    {"checkpoint", op_checkpoint, 1},
};

#define KINDS (int)(sizeof kinds / sizeof kinds[0])

static uint32_t random_next(uint64_t *state)
{
    uint64_t x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)(x >> 32);
}

static struct op op_random(uint64_t *state)
{
    struct op o;
    int pick = (int)(random_next(state) % 100);
    for (o.kind = 0; pick >= kinds[o.kind].weight; o.kind++)
        pick -= kinds[o.kind].weight;
    o.who = (uint8_t)(random_next(state) % CLIENTS);
    uint32_t ab = random_next(state), cd = random_next(state);
    o.a = (uint16_t)ab;
    o.b = (uint16_t)(ab >> 16);
    o.c = (uint16_t)cd;
    o.d = (uint16_t)(cd >> 16);
    return o;
}

/* All answer everything until nothing is left to be done. */
static void drain(void)
{
    int busy = 1;
    for (int round = 0; busy; round++) {
        busy = 0;
        if (round > 20 * LIST)
            wrong("it does not come to rest");
        for (int c = 0; c < CLIENTS; c++) {
            struct op o = {0, (uint8_t)c, (uint16_t)round, 5, 1, 0};
            busy |= C[c].link != NULL && (C[c].answer_n > 0 || C[c].out_n > 0);
            op_answer(&o);
            op_release(&o);
        }
        if (round % 50 == 0) { /* finished ones leave the lists */
            bench_advance(T, 1500);
            for (int c = 0; c < CLIENTS; c++)
                session_forget(&W.s[c], T->now, 1200);
            turn_over();
        }
    }
}

static void all_connect(void)
{
    for (int c = 0; c < CLIENTS; c++) {
        struct op o = {0, (uint8_t)c, 0, 0, 0, 0};
        if (W.s[c].exists && (!W.s[c].online || W.s[c].expiry != 0))
            connect_now(&o, 0, 1);
    }
}

/* Nothing that was due has failed to come, and nothing is left over. */
static void finish(void)
{
    struct op kill = {0, 0, 0, 0, 0, 1}; /* without a cut before */
    op_at++;
    text_format(&T->story, "-- %d: all connect and answer\n", op_at);
    release();
    op_began = T->now;
    all_connect();
    drain();
    for (int c = 0; c < CLIENTS; c++)
        if (C[c].link != NULL && (W.s[c].queue.n > 0 || W.s[c].flights.n > 0))
            wrong("client %d: %d to come, %d open", c, W.s[c].queue.n,
                  W.s[c].flights.n);
    for (int i = 0; i < W.pool.n; i++)
        if (!delivery_optional(&W.pool.at[i], T->now) &&
            M.at[W.pool.at[i].msg].qos > 0)
            wrong("message %d came to no member", W.pool.at[i].msg);
    bench_advance(T, 40000);
    turn_over();
    struct session_figures f = *session_figures(T->server);
    if (f.deliveries != 0 || f.messages != f.retained)
        wrong("%d deliveries left, %d messages, %d of them retained",
              (int)f.deliveries, (int)f.messages, (int)f.retained);
    op_die(&kill);
    all_connect();
    if (session_figures(T->server)->deliveries != 0)
        wrong("deliveries after all were finished");
}

/* The number of operation `at` if it is to run, else 0: the list is
 * "3,7,12", NULL = all. */
static int listed(const char *list, int at)
{
    char number[16];
    if (list == NULL)
        return 1;
    size_t n = (size_t)snprintf(number, sizeof number, "%d", at);
    for (const char *p = list; *p != '\0'; p++) {
        if (strncmp(p, number, n) == 0 && (p[n] == ',' || p[n] == '\0'))
            return 1;
        while (*p != ',' && p[1] != '\0')
            p++;
    }
    return 0;
}

static int run_one(uint64_t seed, int length, const char *list)
{
    void *state = NULL;
    struct message none = {0};
    held = -1;
    if (bench_setup(&state) != 0)
        return 1;
    T = (struct bench *)state;
    message_add(&M, none); /* number 0 is no message */
    server_down(0);
    server_up(T->now);
    for (op_at = 0; op_at < length; op_at++) {
        struct op o = op_random(&seed);
        if (!listed(list, op_at))
            continue;
        text_format(&T->story, "-- %d: %s, client %d\n", op_at,
                    kinds[o.kind].name, o.who);
        op_began = T->now;
        kinds[o.kind].run(&o);
    }
    finish();
    bench_teardown(&state);
    free(M.at);
    return 0;
}

/* ==== 8. many runs =========================================================
 *
 * A run that fails ends its process, wherever it is; so each has its own. */

static const char *program;
static char place[64]; /* the directory that the runs work in */
static uint64_t seeds = 100, first_seed = 1;
static int length = 400;

/* What a run that died has left behind. */
static void place_clean(const char *dir, int depth)
{
    char path[600];
    struct dirent *entry;
    DIR *d = opendir(dir);
    while (d != NULL && (entry = readdir(d)) != NULL) {
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (entry->d_name[0] == '.')
            continue;
        if (depth > 0)
            place_clean(path, depth - 1);
        else
            unlink(path);
    }
    if (d != NULL)
        closedir(d);
    if (depth == 0)
        rmdir(dir);
}

/* Runs the operations of the list in a process of its own; 1 = it failed. */
static int run_apart(uint64_t seed, const char *list, int quiet)
{
    char number[24], count[16];
    int status = 0;
    snprintf(number, sizeof number, "%llu", (unsigned long long)seed);
    snprintf(count, sizeof count, "%d", length);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        if (quiet && null >= 0) {
            dup2(null, 1);
            dup2(null, 2);
        }
        setenv("TMPDIR", place, 1);
        alarm(120); /* a run that hangs has failed */
        execl(program, program, "one", number, count, list, (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    assert_true(waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        place_clean(place, 1);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

/* Which of the operations are left, and what tells whether they fail. */
struct sequence {
    int *op;
    int n;
    int (*fails)(const struct sequence *q);
    uint64_t seed;
};

static char *sequence_print(const struct sequence *q)
{
    struct buf b = {NULL, 0, 0, 0};
    for (int i = 0; i < q->n; i++)
        text_format(&b, i > 0 ? ",%d" : "%d", q->op[i]);
    buf_add(&b, "", 1);
    return (char *)b.p;
}

static int sequence_fails(const struct sequence *q)
{
    char *list = sequence_print(q);
    int failed = run_apart(q->seed, list, 1);
    free(list);
    return failed;
}

/* Takes out n operations from the i-th if it fails without them; 1 = done. */
static int sequence_cut(struct sequence *q, int i, int n)
{
    struct sequence shorter = *q;
    n = n < q->n - i ? n : q->n - i;
    shorter.n = q->n - n;
    shorter.op = (int *)mem_new((size_t)q->n * sizeof *q->op);
    memcpy(shorter.op, q->op, (size_t)i * sizeof *q->op);
    memcpy(shorter.op + i, q->op + i + n,
           (size_t)(shorter.n - i) * sizeof *q->op);
    int fails = q->fails(&shorter);
    if (fails) {
        memcpy(q->op, shorter.op, (size_t)shorter.n * sizeof *q->op);
        q->n = shorter.n;
    }
    free(shorter.op);
    return fails;
}

/* Leaves out ever smaller parts for as long as it fails without them: in the
 * end no single operation can be left out. */
static void sequence_shrink(struct sequence *q)
{
    int part = (q->n + 1) / 2, cut = 0;
    while (part > 0 && q->n > 1) {
        cut = 0;
        for (int i = q->n - part; i > -part; i -= part)
            cut |= sequence_cut(q, i > 0 ? i : 0, part);
        if (part > 1)
            part = (part + 1) / 2;
        else if (!cut)
            break;
    }
}

/* Shows what is left of a run that fails. */
static void report(uint64_t seed)
{
    struct sequence q = {NULL, length, sequence_fails, seed};
    q.op = (int *)mem_new((size_t)length * sizeof *q.op);
    for (int i = 0; i < length; i++)
        q.op[i] = i;
    sequence_shrink(&q);
    char *list = sequence_print(&q);
    print_error("seed %llu fails; of its %d operations these %d are enough:\n"
                "    %s one %llu %d %s\n",
                (unsigned long long)seed, length, q.n, program,
                (unsigned long long)seed, length, list);
    run_apart(seed, list, 0);
    free(list);
    free(q.op);
}

static void test_model_holds(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < seeds; i++) {
        if (!run_apart(first_seed + i, NULL, 1))
            continue;
        report(first_seed + i);
        fail_msg("run %llu of %llu", (unsigned long long)i + 1,
                 (unsigned long long)seeds);
    }
}

/* Operations 7 and 31 together fail: shrinking must find just these. */
static int made_up_fails(const struct sequence *q)
{
    int found = 0;
    for (int i = 0; i < q->n; i++)
        found += q->op[i] == 7 || q->op[i] == 31;
    return found == 2;
}

static void test_sequence_is_shortened(void **state)
{
    int op[50];
    struct sequence q = {op, 50, made_up_fails, 0};
    (void)state;
    for (int i = 0; i < 50; i++)
        op[i] = i;
    sequence_shrink(&q);
    char *list = sequence_print(&q);
    assert_string_equal(list, "7,31");
    free(list);
}

static int place_make(void **state)
{
    const char *tmp = getenv("TMPDIR");
    (void)state;
    snprintf(place, sizeof place, "%s/model-XXXXXX",
             tmp != NULL && strlen(tmp) < 20 ? tmp : "/tmp");
    return mkdtemp(place) == NULL;
}

static int place_remove(void **state)
{
    (void)state;
    place_clean(place, 1);
    return rmdir(place);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sequence_is_shortened),
        cmocka_unit_test(test_model_holds),
    };
    program = argv[0];
    if (argc >= 4 && strcmp(argv[1], "one") == 0)
        return run_one(strtoull(argv[2], NULL, 10), atoi(argv[3]),
                       argc > 4 ? argv[4] : NULL);
    if (argc >= 3) {
        seeds = strtoull(argv[1], NULL, 10);
        length = atoi(argv[2]);
    }
    if (argc >= 4)
        first_seed = strtoull(argv[3], NULL, 10);
    return cmocka_run_group_tests(tests, place_make, place_remove);
}
