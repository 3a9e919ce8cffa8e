/*
 * model.h - what the clients of test_model.c must hear: the server's
 * behaviour once more, as plain lists, without bytes, files or efficiency.
 *
 *   1. messages     what is published; topics and filters
 *   2. the world    sessions, deliveries, retained messages
 *   3. routing      to sessions, to Shared Subscriptions
 *   4. sessions     detach, end, connect
 *   5. time, death  expiry, wills, kill, orderly end
 *
 * The world is one structure without pointers, so that a turn that a crash
 * undoes is undone by assignment.
 *
 * Where the standard or README.md leaves a choice the model leaves it too: a
 * delivery that may come or not is `maybe`, one whose PUBLISH may have left
 * unheard is `unsure`, and which member of a Shared Subscription gets a
 * message is known only when one of them hears it.
 */
#ifndef HOLDFAST_MODEL_H
#define HOLDFAST_MODEL_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "buf.h"

/* ==== 1. messages ==========================================================
 */

#define CLIENTS 5
#define TOPICS (5 + CLIENTS) /* t/0 t/1 t/2 s/0 s/1, and w/n: wills of n */
#define FILTERS 7
#define SHARED 5   /* the first filter that is shared */
#define LIST 300   /* deliveries that a list of the model holds */
#define OUT_IDS 40 /* Packet Identifiers of the clients: 1..OUT_IDS */

static const char *const model_filters[FILTERS] = {
    "t/0", "t/1", "t/+", "t/#", "w/+", "$share/g/s/+", "$share/h/s/1"};

/* What a client said once; its number is its place in the array. */
struct message {
    uint8_t publisher; /* a client */
    uint8_t topic;
    uint8_t qos;
    uint8_t retain;
    uint32_t mei;   /* s; 0 = no Message Expiry Interval */
    uint32_t bytes; /* of payload after its number */
    int empty;      /* 1 = no payload at all: clears a retained message */
};

struct messages {
    struct message *at;
    int n, cap;
};

static inline int message_add(struct messages *all, struct message m)
{
    if (all->n == all->cap) {
        all->cap = all->cap * 2 + 64;
        all->at = (struct message *)mem_grow(all->at, (size_t)all->cap *
                                                          sizeof *all->at);
    }
    all->at[all->n] = m;
    return all->n++;
}

static inline void topic_print(char out[8], int topic)
{
    snprintf(out, 8, "%c/%d",
             topic < 3   ? 't'
             : topic < 5 ? 's'
                         : 'w',
             topic < 3   ? topic
             : topic < 5 ? topic - 3
                         : topic - 5);
}

/* Does filter f match the topic?  Written out, so as to share nothing with
 * what it checks. */
static inline int filter_matches(int f, int topic)
{
    switch (f) {
    case 0:
    case 1:
        return topic == f;
    case 2:
    case 3:
        return topic < 3;
    case 4:
        return topic >= 5;
    case 5:
        return topic == 3 || topic == 4;
    default:
        return topic == 4;
    }
}

/* ==== 2. the world =========================================================
 */

enum stage { QUEUED, HEARD, RELEASED };

struct delivery {
    int msg;
    uint32_t rank;    /* order of coming in; what is equal may swap */
    uint32_t seen;    /* order of being heard first */
    uint64_t at;      /* when it was queued; of a finished one: finished */
    uint64_t expires; /* 0 = never */
    uint16_t id;      /* Packet Identifier, once heard */
    uint8_t qos;
    uint8_t retain;
    uint8_t ids; /* bit f: carries the identifier of filter f */
    uint8_t stage;
    uint8_t group;  /* the shared filter it came by; 0 = none */
    uint8_t here;   /* open on this connection */
    uint8_t due;    /* 1 = PUBREL must come in this turn */
    uint8_t away;   /* 1 = it was queued for a session that was offline */
    uint8_t maybe;  /* 1 = it may be lost */
    uint8_t unsure; /* 1 = it may have been sent, but nobody heard it */
    uint8_t raised; /* of a finished one: a crash may have undone that */
};

struct list {
    int n;
    struct delivery at[LIST];
};

struct sub {
    uint8_t on, qos, nl, rap, has_id;
};

struct will {
    int msg;        /* 0 = none */
    uint32_t delay; /* s */
    uint64_t due;   /* when offline */
};

#define EXPIRY_NEVER 0xFFFFFFFFu

struct session {
    int exists, online;
    uint32_t expiry;  /* s */
    uint64_t offline; /* since when */
    int late;         /* 1 = that is synced up to a second later */
    struct will will;
    struct sub subs[FILTERS];
    uint8_t was[FILTERS];    /* was ever subscribed to it */
    uint8_t rx[OUT_IDS + 1]; /* QoS 2 messages of its own, not released */
    struct list queue;       /* not heard yet */
    struct list flights;     /* QoS 1 and 2: heard, not finished */
    struct list finished;    /* lately: a crash may undo it */
};

struct retained {
    int msg; /* 0 = none */
    uint64_t expires;
};

struct world {
    struct session s[CLIENTS];
    struct retained retained[TOPICS];
    struct list pool; /* of Shared Subscriptions, not heard yet */
    uint32_t rank;
    int same;   /* 1 = messages come at the same time, in any order */
    int ending; /* 1 = orderly end: QoS 0 may or may not get out */
};

static inline struct delivery *list_add(struct list *l, struct delivery d)
{
    if (l->n == LIST) {
        fprintf(stderr, "the model is too small\n");
        abort();
    }
    l->at[l->n] = d;
    return &l->at[l->n++];
}

static inline void list_del(struct list *l, int i)
{
    l->n--;
    memmove(&l->at[i], &l->at[i + 1], (size_t)(l->n - i) * sizeof l->at[0]);
}

/* The open delivery under this Packet Identifier, or -1. */
static inline int list_find(const struct list *l, uint16_t id)
{
    for (int i = 0; i < l->n; i++)
        if (l->at[i].id == id)
            return i;
    return -1;
}

/* Must it not come any more, as far as the model knows? */
static inline int delivery_optional(const struct delivery *d, uint64_t now)
{
    return d->maybe || (d->expires != 0 && d->expires <= now);
}

/* ==== 3. routing ===========================================================
 */

static inline uint64_t expires_at(const struct message *m, uint64_t now)
{
    return m->mei == 0 ? 0 : now + (uint64_t)m->mei * 1000;
}

/* How many other sessions are members of a Shared Subscription. */
static inline int group_members(const struct world *w, int f, int but)
{
    int n = 0;
    for (int c = 0; c < CLIENTS; c++)
        n += c != but && w->s[c].exists && w->s[c].subs[f].on;
    return n;
}

/* One delivery to a session, however many of its subscriptions match. */
static inline int route_session(struct world *w, int c, const struct message *m,
                                struct delivery d)
{
    struct session *s = &w->s[c];
    int matches = 0, qos = 0, rap = 0;
    for (int f = 0; f < SHARED; f++) {
        const struct sub *sub = &s->subs[f];
        if (!sub->on || !filter_matches(f, m->topic) ||
            (sub->nl && m->publisher == c))
            continue;
        matches = 1;
        qos = sub->qos > qos ? sub->qos : qos;
        rap |= sub->rap;
        d.ids |= (uint8_t)(sub->has_id << f);
    }
    if (!matches)
        return 0;
    d.qos = (uint8_t)(m->qos < qos ? m->qos : qos);
    d.retain = rap && m->retain;
    d.away = !s->online;
    d.maybe = d.qos == 0 && w->ending;
    list_add(&s->queue, d);
    return 1;
}

/* Returns how many it went to. */
static inline int model_route(struct world *w, const struct messages *all,
                              int msg, uint64_t now)
{
    const struct message *m = &all->at[msg];
    struct delivery d = {0};
    int matched = 0;
    d.msg = msg;
    d.rank = w->rank += !w->same;
    d.at = now;
    d.expires = expires_at(m, now);
    for (int c = 0; c < CLIENTS; c++)
        if (w->s[c].exists)
            matched += route_session(w, c, m, d);
    for (int f = SHARED; f < FILTERS; f++) {
        if (!filter_matches(f, m->topic) || group_members(w, f, -1) == 0)
            continue;
        matched++;
        d.group = (uint8_t)f;
        d.ids = (uint8_t)(1u << f);
        d.qos = m->qos;
        list_add(&w->pool, d);
    }
    if (m->retain) {
        w->retained[m->topic].msg = m->empty ? 0 : msg;
        w->retained[m->topic].expires = d.expires;
    }
    return matched;
}

/* Makes or replaces a subscription and queues retained messages for it. */
static inline void model_subscribe(struct world *w, const struct messages *all,
                                   int c, int f, struct sub sub, int rh,
                                   uint64_t now)
{
    struct session *s = &w->s[c];
    int existed = s->subs[f].on;
    w->rank++;
    s->subs[f] = sub;
    s->was[f] = 1;
    if (f >= SHARED || rh == 2 || (rh == 1 && existed))
        return;
    for (int t = 0; t < TOPICS; t++) {
        const struct retained *r = &w->retained[t];
        const struct message *m = &all->at[r->msg];
        struct delivery d = {0};
        if (r->msg == 0 || !filter_matches(f, t) ||
            (sub.nl && m->publisher == c))
            continue;
        d.msg = r->msg;
        d.rank = w->rank;
        d.at = now;
        d.expires = r->expires;
        d.qos = m->qos < sub.qos ? m->qos : sub.qos;
        d.retain = 1;
        d.ids = (uint8_t)(sub.has_id << f);
        list_add(&s->queue, d);
    }
}

/* ==== 4. sessions ==========================================================
 */

/* A delivery of a Shared Subscription that session c had and will not finish:
 * it goes to another member.  QoS 2 that c may have goes to nobody. */
static inline void group_reopen(struct world *w, struct delivery d, int c)
{
    if (d.group == 0 || d.qos != 1 || d.stage != HEARD)
        return;
    d.stage = QUEUED;
    d.id = 0;
    d.maybe |= d.raised || group_members(w, d.group, c) == 0;
    d.raised = d.here = 0;
    list_add(&w->pool, d);
}

/* What session c ends with, of its Shared Subscriptions. */
static inline void group_leave(struct world *w, int c)
{
    struct session *s = &w->s[c];
    for (int i = 0; i < w->pool.n; i++) {
        struct delivery *d = &w->pool.at[i];
        if (s->was[d->group] &&
            (d->unsure || group_members(w, d->group, c) == 0))
            d->maybe = 1;
    }
    for (int i = 0; i < s->flights.n; i++)
        group_reopen(w, s->flights.at[i], c);
    for (int i = 0; i < s->finished.n; i++)
        if (s->finished.at[i].raised)
            group_reopen(w, s->finished.at[i], c);
}

static inline void will_publish(struct world *w, const struct messages *all,
                                int c, uint64_t now)
{
    int msg = w->s[c].will.msg;
    w->s[c].will.msg = 0;
    if (msg != 0)
        model_route(w, all, msg, now);
}

static inline void model_end(struct world *w, const struct messages *all, int c,
                             uint64_t now)
{
    struct will will = w->s[c].will;
    group_leave(w, c);
    memset(&w->s[c], 0, sizeof w->s[c]);
    w->s[c].will = will;
    will_publish(w, all, c, now);
}

enum detach { LOST, CLEAN, RESUMED };

/* The connection is over. */
static inline void model_detach(struct world *w, const struct messages *all,
                                int c, enum detach how, uint64_t now)
{
    struct session *s = &w->s[c];
    s->online = 0;
    s->offline = now;
    for (int i = 0; i < s->flights.n; i++)
        s->flights.at[i].here = s->flights.at[i].due = 0;
    if (how == CLEAN)
        s->will.msg = 0;
    s->late = how == LOST && (s->will.msg == 0 || s->will.delay > 0);
    if (s->expiry == 0)
        model_end(w, all, c, now);
    else if (s->will.delay == 0)
        will_publish(w, all, c, now);
    else if (how == RESUMED)
        s->will.msg = 0;
    s->will.due = now + (uint64_t)s->will.delay * 1000;
}

/* Returns Session Present. */
static inline int model_connect(struct world *w, const struct messages *all,
                                int c, int clean, uint64_t now)
{
    struct session *s = &w->s[c];
    if (s->online)
        model_detach(w, all, c, clean ? LOST : RESUMED, now);
    if (s->exists && clean)
        model_end(w, all, c, now);
    int present = s->exists;
    s->exists = s->online = 1;
    s->will.msg = 0;
    return present;
}

/* ==== 5. time, death =======================================================
 */

/* When something happens to session c by itself. */
static inline uint64_t session_due(const struct session *s)
{
    uint64_t due = UINT64_MAX;
    if (!s->exists || s->online)
        return due;
    if (s->expiry != EXPIRY_NEVER)
        due = s->offline + (uint64_t)s->expiry * 1000;
    if (s->will.msg != 0 && s->will.due < due)
        due = s->will.due;
    return due;
}

/* Time has come to now.  late: the broker was down until now, and publishes
 * then what fell due before. */
static inline void model_clock(struct world *w, const struct messages *all,
                               uint64_t now, int late)
{
    uint64_t before = 0;
    for (;;) {
        int first = 0;
        for (int c = 1; c < CLIENTS; c++)
            if (session_due(&w->s[c]) < session_due(&w->s[first]))
                first = c;
        struct session *s = &w->s[first];
        uint64_t due = session_due(s);
        if (due > now)
            break;
        w->same = due == before;
        before = due;
        if (s->expiry != EXPIRY_NEVER &&
            due == s->offline + (uint64_t)s->expiry * 1000)
            model_end(w, all, first, late ? now : due);
        else
            will_publish(w, all, first, late ? now : due);
    }
    w->same = 0;
    for (int t = 0; t < TOPICS; t++)
        if (w->retained[t].expires != 0 && w->retained[t].expires <= now)
            memset(&w->retained[t], 0, sizeof w->retained[t]);
}

/* A session that was never written is gone with the broker, its will too,
 * and with it what it alone had of a Shared Subscription. */
static inline void session_vanish(struct world *w, int c)
{
    for (int i = 0; i < w->pool.n; i++)
        w->pool.at[i].maybe |= w->s[c].was[w->pool.at[i].group];
    memset(&w->s[c], 0, sizeof w->s[c]);
}

/* No crash brings back what was finished more than `window` ms ago. */
static inline void session_forget(struct session *s, uint64_t now,
                                  uint64_t window)
{
    for (int i = s->finished.n - 1; i >= 0; i--)
        if (!s->finished.at[i].raised && s->finished.at[i].at + window < now)
            list_del(&s->finished, i);
}

/* What the broker's death does to what waits for one session. */
static inline void session_survive(struct session *s, int power, uint64_t alive)
{
    session_forget(s, alive, power ? 1200 : 100);
    for (int i = 0; i < s->finished.n; i++)
        s->finished.at[i].raised = 1;
    for (int i = 0; i < s->flights.n; i++)
        s->flights.at[i].here = s->flights.at[i].due = 0;
    for (int i = 0; i < s->queue.n; i++) {
        struct delivery *d = &s->queue.at[i];
        if (d->qos == 0 && (!d->away || (power && d->at + 1000 >= alive)))
            d->maybe = 1;
    }
}

/* The broker was killed, or the power failed; it was last alive then.  now:
 * when it starts again.  unheard: what its last turn sent nobody heard. */
static inline void model_kill(struct world *w, int power, int unheard,
                              uint64_t alive, uint64_t now)
{
    for (int c = 0; c < CLIENTS; c++) {
        struct session *s = &w->s[c];
        if (!s->exists)
            continue;
        if (s->expiry == 0) {
            session_vanish(w, c);
            continue;
        }
        session_survive(s, power, alive);
        if (!s->online)
            continue;
        for (int i = 0; unheard && i < s->queue.n; i++) {
            s->queue.at[i].unsure = 1;
            s->queue.at[i].maybe |= s->queue.at[i].qos == 0;
        }
        s->online = s->late = 0;
        s->offline = alive + 1000 < now ? alive + 1000 : now;
        s->will.due = s->offline + (uint64_t)s->will.delay * 1000;
    }
    for (int i = 0; i < w->pool.n; i++)
        w->pool.at[i].unsure |= (uint8_t)unheard;
}

/* The orderly end: everybody is disconnected, all is written. */
static inline void model_stop(struct world *w, const struct messages *all,
                              uint64_t now)
{
    w->ending = w->same = 1;
    w->rank++;
    for (int c = 0; c < CLIENTS; c++)
        if (w->s[c].online)
            model_detach(w, all, c, LOST, now);
    for (int c = 0; c < CLIENTS; c++) {
        struct list *finished = &w->s[c].finished, *q = &w->s[c].queue;
        for (int i = finished->n - 1; i >= 0; i--)
            if (!finished->at[i].raised)
                list_del(finished, i);
        for (int i = 0; i < q->n; i++)
            q->at[i].maybe |= q->at[i].qos == 0 && !q->at[i].away;
    }
    w->ending = w->same = 0;
}

#endif
