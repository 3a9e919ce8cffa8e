/*
 * test_inspect.c - what an onlooker is told (inspect.h): that it is what the
 * clients have brought about, and that it agrees with itself.
 *
 *   1. Tools      looking, and adding up all that can be seen
 *   2. Sessions   each field of one; pages of 2,000
 *   3. Messages   deliveries, retained messages, bodies
 *   4. Random     lives in which the counts must add up after each step
 *   5. Figures    what session_figures() counts
 *
 * The notation is that of bench.h.
 */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "inspect.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* ==== 1. Tools ============================================================ */

static struct mqtt_bytes bytes(const char *text)
{
    struct mqtt_bytes b = {(const uint8_t *)text, strlen(text)};
    return b;
}

static int same(struct mqtt_bytes b, const char *text)
{
    return b.n == strlen(text) && (b.n == 0 || memcmp(b.p, text, b.n) == 0);
}

static struct inspect_session look(struct bench *t, const char *client)
{
    struct inspect_session row;
    memset(&row, 0xAA, sizeof row);
    assert_int_equal(inspect_session(t->server, bytes(client), &row), 1);
    assert_true(same(row.client, client));
    return row;
}

static int there_is(struct bench *t, const char *client)
{
    struct inspect_session row;
    return inspect_session(t->server, bytes(client), &row);
}

static const struct session_figures *figures(const struct bench *t)
{
    return session_figures(t->server);
}

/* Numbers always the same in each run. */
static uint32_t random_below(uint64_t *seed, uint32_t n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % n;
}

/* Messages seen, each once. */
struct seen {
    uint64_t seq[4000];
    size_t n;
    uint64_t bytes;
};

static void seen_add(struct seen *seen, const struct inspect_message *m)
{
    for (size_t i = 0; i < seen->n; i++)
        if (seen->seq[i] == m->seq)
            return;
    assert_true(seen->n < COUNT(seen->seq));
    seen->seq[seen->n++] = m->seq;
    seen->bytes += m->bytes;
}

/* A session's deliveries, one after the other, against its sums. */
static void session_add_up(struct bench *t, const struct inspect_session *row,
                           struct seen *seen, uint64_t *deliveries)
{
    static struct inspect_delivery all[2000];
    uint32_t queued[3] = {0}, flying = 0, later = 0;
    struct inspect_sub subs[20];
    uint16_t receiving[100];
    uint64_t oldest = UINT64_MAX;
    size_t n = inspect_deliveries(t->server, row->client, 0, all, COUNT(all));
    assert_true(n < COUNT(all));
    for (size_t i = 0; i < n; i++) {
        if (all[i].stage == INSPECT_QUEUED)
            queued[all[i].qos]++;
        else
            flying++;
        later += all[i].stage == INSPECT_QUEUED;
        if (later <= 1 && all[i].message.at < oldest)
            oldest = all[i].message.at;
        seen_add(seen, &all[i].message);
    }
    assert_memory_equal(queued, row->queued, sizeof queued);
    assert_int_equal(flying, row->in_flight);
    assert_int_equal(row->oldest, n > 0 ? oldest : 0);
    assert_int_equal(row->subscriptions,
                     inspect_subs(t->server, row->client, 0, subs, 20));
    assert_int_equal(row->receiving, inspect_receiving(t->server, row->client,
                                                       0, receiving, 100));
    *deliveries += n;
}

/* All that can be seen must add up to the figures. */
static void add_up(struct bench *t)
{
    static struct inspect_session rows[100];
    static struct inspect_message kept[1000];
    static struct seen seen;
    struct inspect_query q;
    const struct session_figures *f = figures(t);
    uint64_t matched, first, deliveries = 0, subs = 0, online = 0, retained = 0;
    static const char *const all[] = {"#", "$x/#"};
    memset(&q, 0, sizeof q);
    memset(&seen, 0, sizeof seen);
    q.limit = COUNT(rows);
    size_t n = inspect_sessions(t->server, &q, rows, &matched, &first);
    assert_int_equal(n, matched);
    assert_int_equal(n, f->sessions);
    assert_int_equal(first, 0);
    for (size_t i = 0; i < n; i++) {
        session_add_up(t, &rows[i], &seen, &deliveries);
        subs += rows[i].subscriptions;
        online += rows[i].peer != NULL;
    }
    for (size_t i = 0; i < COUNT(all); i++) {
        n = inspect_retained(t->server, bytes(all[i]), 0, kept, COUNT(kept),
                             &matched);
        assert_int_equal(n, matched);
        retained += n;
        for (size_t k = 0; k < n; k++)
            seen_add(&seen, &kept[k]);
    }
    assert_int_equal(deliveries, f->deliveries);
    assert_int_equal(subs, f->subscriptions);
    assert_int_equal(online, f->online);
    assert_int_equal(retained, f->retained);
    assert_int_equal(seen.n, f->messages);
    assert_int_equal(seen.bytes, f->message_bytes);
}

static struct bench_link *subscriber(struct bench *t, const char *words,
                                     const char *filters)
{
    struct bench_link *l = bench_meet(t, "%s", words);
    bench_say(l, "subscribe #1 %s", filters);
    bench_hear(l, "suback*");
    return l;
}

/* ==== 2. Sessions ========================================================= */

static void test_session_online_and_offline(void **state)
{
    struct bench *t = (struct bench *)*state;
    uint64_t start = t->now;
    struct bench_link *l =
        bench_meet(t, "c0 id=a x=60 will q1 w/a =gone wdi=9");
    bench_advance(t, 5000);
    struct inspect_session s = look(t, "a");
    uint64_t number = s.number;
    assert_true(number > 0);
    assert_string_equal(s.peer, "127.0.0.1:1");
    assert_int_equal(s.since, start);
    assert_int_equal(s.expiry, 60);
    assert_int_equal(s.ends, 0);
    assert_int_equal(s.will, 1);
    assert_int_equal(s.will_due, 0);
    bench_cut(l);
    start = t->now;
    bench_advance(t, 8000);
    s = look(t, "a");
    assert_int_equal(s.number, number);
    assert_null(s.peer);
    assert_int_equal(s.since, start);
    assert_int_equal(s.ends, start + 60000);
    assert_int_equal(s.will, 1);
    assert_int_equal(s.will_due, start + 9000);
    bench_advance(t, 1000);
    s = look(t, "a");
    assert_int_equal(s.will, 0);
    assert_int_equal(s.will_due, 0);
    bench_restart(t, 2000);
    s = look(t, "a");
    assert_int_equal(s.number, number);
    assert_int_equal(s.since, start);
    assert_int_equal(s.ends, start + 60000);
    bench_advance(t, start + 60000 - t->now);
    assert_false(there_is(t, "a"));
    add_up(t);
}

/* The broker died while the client was online: offline since about then. */
static void test_session_of_a_broker_that_died(void **state)
{
    struct bench *t = (struct bench *)*state;
    bench_meet(t, "c0 id=a x=4294967295 will w/a =gone wdi=99");
    bench_meet(t, "c1 id=b");
    uint64_t death = t->now;
    struct inspect_session s = look(t, "b");
    assert_int_equal(s.number, 0);
    assert_int_equal(s.expiry, 0);
    bench_restart(t, 20000);
    assert_false(there_is(t, "b"));
    s = look(t, "a");
    assert_null(s.peer);
    assert_in_range(s.since, death, death + 1000);
    assert_int_equal(s.expiry, UINT32_MAX);
    assert_int_equal(s.ends, 0);
    assert_int_equal(s.will_due, s.since + 99000);
}

/* It had an end once, and has none any more. */
static void test_session_that_never_ends(void **state)
{
    struct bench *t = (struct bench *)*state;
    bench_cut(bench_meet(t, "c0 id=a x=60"));
    assert_int_equal(look(t, "a").ends, t->now + 60000);
    bench_cut(bench_meet(t, "c0 id=a x=4294967295"));
    assert_int_equal(look(t, "a").ends, 0);
}

/* Counts of the queue follow each event; it begins with what is live. */
static void test_session_queue_and_flights(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l = subscriber(t, "c0 id=a x=999", "t,q2 u,q1 $x/#,q0");
    assert_int_equal(look(t, "a").subscriptions, 3);
    assert_int_equal(look(t, "a").oldest, 0);
    bench_cut(l);
    bench_publish(t, 2, "t =first mei=10");
    bench_advance(t, 2000);
    uint64_t second = t->now;
    bench_publish(t, 1, "t =second");
    bench_publish(t, 0, "t =third mei=5");
    bench_publish(t, 2, "u =fourth");
    struct inspect_session s = look(t, "a");
    assert_int_equal(s.queued[0], 1);
    assert_int_equal(s.queued[1], 2);
    assert_int_equal(s.queued[2], 1);
    assert_int_equal(s.oldest, second - 2000);
    add_up(t);
    bench_advance(t, 5000); /* the third expires behind the others */
    add_up(t);
    assert_int_equal(look(t, "a").queued[0], 0);
    assert_int_equal(look(t, "a").oldest, second - 2000);
    bench_advance(t, 3000); /* the first: its front */
    assert_int_equal(look(t, "a").queued[2], 0);
    assert_int_equal(look(t, "a").oldest, second);
    bench_restart(t, 1000);
    s = look(t, "a");
    assert_int_equal(s.queued[0], 0);
    assert_int_equal(s.queued[1], 2);
    assert_int_equal(s.queued[2], 0);
    assert_int_equal(s.oldest, second);
    add_up(t);
    l = bench_meet(t, "c0 id=a x=999 rm=1");
    s = look(t, "a");
    assert_int_equal(s.in_flight, 1);
    assert_int_equal(s.queued[1], 1);
    assert_int_equal(s.oldest, second);
    assert_int_equal(bench_serve(l, NULL), 2);
    s = look(t, "a");
    assert_int_equal(s.in_flight, 0);
    assert_int_equal(s.oldest, 0);
    bench_say(l, "unsubscribe #2 t u");
    assert_int_equal(look(t, "a").subscriptions, 1);
    add_up(t);
}

/* A member of a Shared Subscription goes offline: what it was not sent goes
 * to another, and what expired behind that is not left at the front. */
static void test_session_queue_after_sharing(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l =
        subscriber(t, "c0 id=a x=600 rm=1", "$share/g/t,q1 u,q1");
    bench_publish(t, 1, "u =sent");
    uint16_t id = bench_hear(l, "publish q1 #* u =sent");
    bench_publish(t, 1, "t =shared");
    bench_publish(t, 1, "u =expiring mei=1");
    bench_advance(t, 1000);
    uint64_t last = t->now;
    bench_publish(t, 1, "u =last");
    struct bench_link *other = subscriber(t, "c0 id=b x=600", "$share/g/t,q1");
    t->held = 1;
    bench_say(l, "puback #%u", id);
    bench_cut(l);
    bench_hear(other, "publish q1 #* t =shared");
    struct inspect_session s = look(t, "a");
    assert_int_equal(s.queued[1], 1);
    assert_int_equal(s.in_flight, 0);
    assert_int_equal(s.oldest, last);
    add_up(t);
}

/* A session of the crowd as the test knows it. */
struct face {
    char name[24];
    int online, waiting;
};

static int face_compare(const void *a, const void *b)
{
    return strcmp(((const struct face *)a)->name,
                  ((const struct face *)b)->name);
}

/* A name of few different bytes, so that parts of it are often found. */
static void face_name(struct face *f, size_t number, uint64_t *seed)
{
    static const char *const letters[] = {"a", "A", "z", "Z",
                                          "<", "@", "[", "\xC3\xA9"};
    for (uint32_t i = 0, n = 1 + random_below(seed, 5); i < n; i++)
        strcat(f->name, letters[random_below(seed, COUNT(letters))]);
    size_t n = strlen(f->name);
    snprintf(f->name + n, sizeof f->name - n, "%u", (unsigned)number * 7919);
}

#define CROWD 2000

/* Connects a client of the crowd with an expiry of a day and a
 * subscription. */
static void face_connect(struct bench *t, struct face *f, uint64_t *seed)
{
    uint8_t packet[200];
    struct session_link *link = session_link_open(t->server, "[::1]:9", t->now);
    size_t n = bench_encode(packet, sizeof packet, "connect c0 id=%s x=86400",
                            f->name);
    session_link_input(link, packet, n, t->now);
    f->waiting = random_below(seed, 10) == 0;
    n = bench_encode(packet, sizeof packet, "subscribe #1 %s,q1",
                     f->waiting ? "wanted" : "unwanted");
    session_link_input(link, packet, n, t->now);
    bench_turn(t);
    session_link_lost(link, t->now);
}

/* Every seventh is back online. */
static void crowd_make(struct bench *t, struct face *crowd, uint64_t *seed)
{
    for (size_t i = 0; i < CROWD; i++) {
        face_name(&crowd[i], i, seed);
        face_connect(t, &crowd[i], seed);
    }
    bench_publish(t, 1, "wanted =x");
    for (size_t i = 0; i < CROWD; i += 7) {
        crowd[i].online = 1;
        bench_meet(t, "c0 id=%s x=86400", crowd[i].name);
    }
    qsort(crowd, CROWD, sizeof *crowd, face_compare);
}

static int face_holds(const struct face *f, const char *part)
{
    char name[24], low[24];
    size_t i = 0;
    for (; f->name[i] != '\0'; i++)
        name[i] = (char)tolower((unsigned char)f->name[i]);
    name[i] = '\0';
    for (i = 0; part[i] != '\0'; i++)
        low[i] = (char)tolower((unsigned char)part[i]);
    low[i] = '\0';
    return strstr(name, low) != NULL;
}

static int face_fits(const struct face *f, const struct inspect_query *q,
                     const char *search)
{
    if ((q->which == INSPECT_ONLINE && !f->online) ||
        (q->which == INSPECT_OFFLINE && f->online) ||
        (q->which == INSPECT_WAITING && !f->waiting))
        return 0;
    return face_holds(f, search);
}

/* Asks, and compares with what the crowd itself gives. */
static size_t crowd_check(struct bench *t, const struct face *crowd,
                          const char *search, enum inspect_which which,
                          const char *after, const char *before, size_t limit)
{
    static const struct face *fit[CROWD];
    static struct inspect_session rows[CROWD];
    uint64_t matched = 99, first = 99;
    size_t n = 0, from = 0, end = 0;
    struct inspect_query q = {bytes(search), which, bytes(after),
                              bytes(before), limit};
    for (size_t i = 0; i < CROWD; i++)
        if (face_fits(&crowd[i], &q, search))
            fit[n++] = &crowd[i];
    while (from < n && after[0] != '\0' && strcmp(fit[from]->name, after) <= 0)
        from++;
    end = from;
    while (end < n && (before[0] == '\0' || strcmp(fit[end]->name, before) < 0))
        end++;
    if (before[0] != '\0' && end - from > limit)
        from = end - limit;
    else if (end - from > limit)
        end = from + limit;
    size_t got = inspect_sessions(t->server, &q, rows, &matched, &first);
    assert_int_equal(got, end - from);
    assert_int_equal(matched, n);
    assert_int_equal(first, from);
    for (size_t i = 0; i < got; i++) {
        assert_true(same(rows[i].client, fit[from + i]->name));
        assert_int_equal(rows[i].peer != NULL, fit[from + i]->online);
        assert_int_equal(rows[i].subscriptions, 1);
    }
    return got;
}

static void crowd_check_some(struct bench *t, const struct face *crowd,
                             int times, uint64_t *seed)
{
    static const char *const parts[] = {"",  "",  "a",    "A",   "aZ", "<",
                                        "7", "@", "\xA9", "a<A", "zz", "Z1",
                                        "[", "`", "{",    "none"};
    for (int i = 0; i < times; i++) {
        uint32_t a = random_below(seed, 2 * CROWD);
        uint32_t b = random_below(seed, 2 * CROWD);
        crowd_check(t, crowd, parts[random_below(seed, COUNT(parts))],
                    (enum inspect_which)random_below(seed, 4),
                    a < CROWD ? crowd[a].name : "",
                    b < CROWD ? crowd[b].name : b % 2 ? "" : "b",
                    random_below(seed, 40));
    }
}

/* Page by page, to the end and back. */
static void crowd_walk(struct bench *t, const struct face *crowd, size_t limit)
{
    size_t at = 0, got;
    while ((got = crowd_check(t, crowd, "", INSPECT_ALL,
                              at > 0 ? crowd[at - 1].name : "", "", limit)) > 0)
        at += got;
    assert_int_equal(at, CROWD);
    at = CROWD - 1;
    while ((got = crowd_check(t, crowd, "", INSPECT_ALL, "", crowd[at].name,
                              limit)) > 0)
        at -= got;
    assert_int_equal(at, 0);
}

/* Parts that begin anew within what has fitted so far. */
static void test_search_for_what_repeats_itself(void **state)
{
    struct bench *t = (struct bench *)*state;
    char name[17] = "", part[8] = "", longest[INSPECT_SEARCH_MAX + 2];
    struct inspect_session row;
    uint64_t matched, first, seed = 3;
    struct inspect_query q = {{NULL, 0}, INSPECT_ALL, bytes(""), bytes(""), 1};
    for (int round = 0; round < 2000; round++) {
        if (round % 20 == 0) {
            for (size_t i = 0; i < 16; i++)
                name[i] = random_below(&seed, 3) > 0 ? 'a' : 'b';
            bench_meet(t, "c1 id=%s", name);
        }
        size_t n = 1 + random_below(&seed, 7);
        for (size_t i = 0; i < n; i++)
            part[i] = random_below(&seed, 3) > 0 ? 'A' : 'B';
        part[n] = '\0';
        q.search = bytes(part);
        inspect_sessions(t->server, &q, &row, &matched, &first);
        for (size_t i = 0; i < n; i++)
            part[i] = (char)tolower((unsigned char)part[i]);
        assert_int_equal(matched > 0, strstr(name, part) != NULL);
        if (round % 20 == 19)
            bench_leave(bench_meet(t, "c1 id=%s", name));
    }
    memset(longest, 'a', sizeof longest);
    longest[INSPECT_SEARCH_MAX + 1] = '\0';
    bench_meet(t, "c1 id=%s", longest);
    q.search = bytes(longest);
    inspect_sessions(t->server, &q, &row, &matched, &first);
    assert_int_equal(matched, 0);
    q.search.n = INSPECT_SEARCH_MAX;
    inspect_sessions(t->server, &q, &row, &matched, &first);
    assert_int_equal(matched, 1);
}

static void test_pages_of_a_crowd(void **state)
{
    struct bench *t = (struct bench *)*state;
    static struct face crowd[CROWD];
    uint64_t seed = 5;
    memset(crowd, 0, sizeof crowd);
    crowd_make(t, crowd, &seed);
    crowd_walk(t, crowd, 50);
    crowd_walk(t, crowd, 333);
    crowd_check_some(t, crowd, 200, &seed);
    assert_int_equal(crowd_check(t, crowd, "", INSPECT_ALL, "", "", CROWD),
                     CROWD);
    bench_restart(t, 1000);
    for (size_t i = 0; i < CROWD; i++)
        crowd[i].online = 0;
    crowd_check_some(t, crowd, 100, &seed);
    assert_int_equal(crowd_check(t, crowd, "", INSPECT_ONLINE, "", "", 9), 0);
}

static const struct inspect_sub *sub_of(const struct inspect_sub *subs,
                                        size_t n, const char *filter)
{
    for (size_t i = 0; i < n; i++)
        if (same(subs[i].filter, filter))
            return &subs[i];
    fail_msg("no subscription to %s", filter);
    return NULL;
}

static void test_subscriptions(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct inspect_sub subs[9], some[2];
    struct bench_link *l = bench_meet(t, "c0 id=a x=600");
    bench_say(l, "subscribe #1 a/+,q1,nl sid=7");
    bench_say(l, "subscribe #2 $share/g/t,q2 b,q0,rap,rh2");
    for (int again = 0; again < 2; again++) {
        struct mqtt_bytes a = bytes("a");
        assert_int_equal(inspect_subs(t->server, a, 0, subs, 9), 3);
        const struct inspect_sub *s = sub_of(subs, 3, "a/+");
        assert_int_equal(s->id, 7);
        assert_int_equal(s->qos, 1);
        assert_int_equal(s->no_local, 1);
        assert_int_equal(s->retain_as_published, 0);
        assert_int_equal(s->retain_handling, 0);
        s = sub_of(subs, 3, "$share/g/t");
        assert_int_equal(s->id, 0);
        assert_int_equal(s->qos, 2);
        s = sub_of(subs, 3, "b");
        assert_int_equal(s->qos, 0);
        assert_int_equal(s->no_local, 0);
        assert_int_equal(s->retain_as_published, 1);
        assert_int_equal(s->retain_handling, 2);
        assert_int_equal(inspect_subs(t->server, a, 1, some, 2), 2);
        assert_memory_equal(some, subs + 1, sizeof some);
        assert_int_equal(inspect_subs(t->server, a, 3, some, 2), 0);
        bench_restart(t, 1000);
    }
    assert_int_equal(inspect_subs(t->server, bytes("b"), 0, subs, 9), 0);
}

/* ==== 3. Messages ========================================================= */

static void message_check(struct bench *t, const struct inspect_message *m,
                          const char *topic, const char *payload)
{
    uint8_t packet[300];
    struct mqtt_bytes is_topic, is_payload;
    assert_int_equal(inspect_message(t->server, m, &is_topic, &is_payload), 0);
    assert_true(same(is_topic, topic));
    assert_true(same(is_payload, payload));
    assert_int_equal(m->bytes, bench_encode(packet, sizeof packet,
                                            "publish %s =%s", topic, payload));
}

static void delivery_check(struct bench *t, const struct inspect_delivery *d,
                           enum inspect_stage stage, int qos, int retain,
                           const char *payload)
{
    assert_int_equal(d->stage, stage);
    assert_int_equal(d->packet_id != 0, stage != INSPECT_QUEUED);
    assert_int_equal(d->qos, qos);
    assert_int_equal(d->retain, retain);
    message_check(t, &d->message, "t", payload);
}

static void deliveries_check(struct bench *t, uint64_t at)
{
    struct inspect_delivery d[9], some[9];
    struct mqtt_bytes a = bytes("a");
    assert_int_equal(inspect_deliveries(t->server, a, 0, d, 9), 4);
    delivery_check(t, &d[0], INSPECT_RELEASED, 2, 1, "kept");
    delivery_check(t, &d[1], INSPECT_SENT, 1, 0, "one");
    delivery_check(t, &d[2], INSPECT_QUEUED, 2, 0, "two");
    delivery_check(t, &d[3], INSPECT_QUEUED, 0, 0, "");
    assert_true(d[0].packet_id < d[1].packet_id);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(d[i].message.at, i == 0 ? at - 1000 : at);
        assert_int_equal(d[i].message.expires, i == 2 ? at + 50000 : 0);
        assert_int_equal(d[i].message.qos, d[i].qos);
        if (i > 0)
            assert_true(d[i].message.seq > d[i - 1].message.seq);
    }
    for (size_t skip = 0; skip < 6; skip++)
        for (size_t limit = 0; limit < 6; limit++) {
            size_t left = skip < 4 ? 4 - skip : 0;
            size_t n = inspect_deliveries(t->server, a, skip, some, limit);
            assert_int_equal(n, left < limit ? left : limit);
            for (size_t i = 0; i < n; i++)
                assert_memory_equal(&some[i], &d[skip + i], sizeof *d);
        }
}

static void test_deliveries_at_each_stage(void **state)
{
    struct bench *t = (struct bench *)*state;
    bench_publish(t, 2, "retain t =kept");
    bench_advance(t, 1000);
    struct bench_link *l = bench_meet(t, "c0 id=a x=600 rm=2");
    bench_say(l, "subscribe #1 t,q2");
    uint16_t id = bench_find(l, "publish q2 retain #* t =kept");
    bench_say(l, "pubrec #%u", id);
    bench_publish(t, 1, "t =one");
    bench_publish(t, 2, "t =two mei=50");
    bench_publish(t, 0, "t =none"); /* no room in the window, nor needed */
    bench_find(l, "publish q0 t =none");
    uint64_t at = t->now;
    bench_cut(l);
    bench_publish(t, 0, "t =");
    deliveries_check(t, at);
    bench_restart(t, 1000);
    deliveries_check(t, at);
    add_up(t);
}

static void test_receiving(void **state)
{
    struct bench *t = (struct bench *)*state;
    uint16_t ids[9];
    struct mqtt_bytes a = bytes("a");
    struct bench_link *l = bench_meet(t, "c0 id=a x=600");
    assert_int_equal(inspect_receiving(t->server, a, 0, ids, 9), 0);
    bench_say(l, "publish q2 #500 t =x");
    bench_say(l, "publish q2 #3 t =x");
    bench_say(l, "publish q2 #44 t =x");
    bench_say(l, "pubrel #44");
    bench_restart(t, 1000);
    assert_int_equal(look(t, "a").receiving, 2);
    assert_int_equal(inspect_receiving(t->server, a, 0, ids, 9), 2);
    assert_int_equal(ids[0], 3);
    assert_int_equal(ids[1], 500);
    assert_int_equal(inspect_receiving(t->server, a, 1, ids, 1), 1);
    assert_int_equal(ids[0], 500);
    assert_int_equal(inspect_receiving(t->server, a, 2, ids, 9), 0);
}

#define TOPICS 150

/* Topic Names or, with wildcards, filters of up to four levels. */
static void topic_random(char out[40], int wild, uint64_t *seed)
{
    static const char *const levels[] = {"a", "b",  "",   "$x", "abc",
                                         "a", "$x", "%C3%A9"};
    uint32_t n = 1 + random_below(seed, 4);
    out[0] = '\0';
    for (uint32_t i = 0; i < n; i++) {
        const char *level = levels[random_below(seed, COUNT(levels))];
        uint32_t dice = wild ? random_below(seed, 6) : 0;
        if (i + 1 == n && dice == 5)
            level = "#";
        else if (dice > 3)
            level = "+";
        strcat(strcat(out, i > 0 ? "/" : ""), level);
    }
    if (out[0] == '\0')
        strcpy(out, "a");
}

/* The walk finds each retained message that the oracle says matches, once,
 * in whatever pages. */
static void retained_check(struct bench *t, char topics[TOPICS][40],
                           const char *filter, uint64_t *seed)
{
    static struct inspect_message all[TOPICS], page[TOPICS];
    uint64_t matched = 99, again = 99;
    size_t expected = 0;
    size_t n = inspect_retained(t->server, bytes(filter), 0, all, TOPICS,
                                &matched);
    for (size_t i = 0; i < TOPICS; i++) {
        int found = 0, match = mqtt_topic_match(bytes(filter),
                                                bytes(topics[i]));
        expected += match != 0;
        for (size_t k = 0; k < n; k++) {
            struct mqtt_bytes topic, payload;
            assert_int_equal(
                inspect_message(t->server, &all[k], &topic, &payload), 0);
            found += same(topic, topics[i]);
        }
        assert_int_equal(found, match != 0);
    }
    assert_int_equal(n, expected);
    assert_int_equal(matched, expected);
    for (int i = 0; i < 5; i++) {
        size_t skip = random_below(seed, TOPICS / (1 + (uint32_t)i * 4));
        size_t limit = random_below(seed, 20);
        size_t left = skip < n ? n - skip : 0;
        size_t got = inspect_retained(t->server, bytes(filter), skip, page,
                                      limit, &again);
        assert_int_equal(again, matched);
        assert_int_equal(got, left < limit ? left : limit);
        for (size_t k = 0; k < got; k++)
            assert_memory_equal(&page[k], &all[skip + k], sizeof *page);
    }
}

static void unescape(char *text)
{
    char *at;
    while ((at = strstr(text, "%C3%A9")) != NULL) {
        memcpy(at, "\xC3\xA9", 2);
        memmove(at + 2, at + 6, strlen(at + 6) + 1);
    }
}

static int topic_known(char topics[TOPICS][40], size_t n, const char *topic)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(topics[i], topic) == 0)
            return 1;
    return 0;
}

static void test_mqtt_4_7_2_1_retained_by_filter(void **state)
{
    struct bench *t = (struct bench *)*state;
    static char topics[TOPICS][40];
    static const char *const fixed[] = {"#", "+/#", "$x/#", "+", "+/+", "/#",
                                        "a/#", "nothing/#", "/", "$x"};
    char filter[40];
    uint64_t seed = 11;
    struct bench_link *l = bench_meet(t, "c1 id=p");
    for (size_t n = 0; n < TOPICS;) {
        topic_random(filter, 0, &seed);
        snprintf(topics[n], sizeof topics[n], "%s", filter);
        unescape(topics[n]);
        if (topic_known(topics, n, topics[n]))
            continue;
        bench_say(l, "publish retain %s =x", filter);
        n++;
    }
    for (int again = 0; again < 2; again++) {
        for (size_t i = 0; i < COUNT(fixed); i++)
            retained_check(t, topics, fixed[i], &seed);
        for (int i = 0; i < 150; i++) {
            topic_random(filter, 1, &seed);
            unescape(filter);
            retained_check(t, topics, filter, &seed);
        }
        bench_restart(t, 1000);
    }
}

/* As many levels as a topic can have: none of them may cost stack. */
static void test_retained_at_the_greatest_depth(void **state)
{
    struct bench *t = (struct bench *)*state;
    static char topic[65001];
    struct inspect_message row;
    struct mqtt_bytes is, payload;
    uint64_t matched;
    memset(topic, '/', sizeof topic - 1);
    bench_publish(t, 1, "retain / =shallow");
    struct bench_link *l = bench_meet(t, "c1 id=p");
    bench_say(l, "publish retain %s =deep", topic);
    for (size_t skip = 0; skip < 2; skip++) {
        assert_int_equal(inspect_retained(t->server, bytes("#"), skip, &row, 1,
                                          &matched), 1);
        assert_int_equal(matched, 2);
        assert_int_equal(inspect_message(t->server, &row, &is, &payload), 0);
        assert_true(same(is, skip == 0 ? "/" : topic));
    }
    assert_int_equal(inspect_retained(t->server, bytes(topic), 0, &row, 1,
                                      &matched), 1);
    assert_int_equal(matched, 1);
}

/* Turns a byte of every file that holds the text; how many. */
static int damage(const struct bench *t, const char *text)
{
    struct dirent *entry;
    DIR *dir = opendir(t->dir);
    int hits = 0;
    while ((entry = readdir(dir)) != NULL) {
        static char all[300000];
        char path[400];
        snprintf(path, sizeof path, "%s/%s", t->dir, entry->d_name);
        FILE *f = entry->d_name[0] != '.' ? fopen(path, "r+b") : NULL;
        if (f == NULL)
            continue;
        size_t n = fread(all, 1, sizeof all, f);
        for (size_t i = 0; i + strlen(text) <= n; i++) {
            if (memcmp(all + i, text, strlen(text)) != 0)
                continue;
            hits++;
            fseek(f, (long)i, SEEK_SET);
            fputc(text[0] ^ 1, f);
        }
        fclose(f);
    }
    closedir(dir);
    return hits;
}

/* Who looks at it is told, and all else goes on. */
static void test_a_body_that_rots(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct inspect_message row;
    struct mqtt_bytes topic, payload;
    uint64_t matched;
    bench_publish(t, 1, "retain u =sound");
    bench_publish(t, 1, "retain t =the-words-that-rot");
    assert_int_equal(inspect_retained(t->server, bytes("t"), 0, &row, 1,
                                      &matched), 1);
    message_check(t, &row, "t", "the-words-that-rot");
    assert_int_equal(damage(t, "the-words-that-rot"), 1);
    assert_null(store_error(t->store));
    assert_int_equal(inspect_message(t->server, &row, &topic, &payload), -1);
    assert_null(store_error(t->store));
    assert_int_equal(inspect_retained(t->server, bytes("u"), 0, &row, 1,
                                      &matched), 1);
    message_check(t, &row, "u", "sound");
    bench_publish(t, 2, "retain v =taken");
}

/* ==== 4. Random =========================================================== */

#define LIVES 6

static void life_connect(struct bench *t, struct bench_link **l, uint32_t who,
                         uint64_t *seed)
{
    bench_cut(*l);
    *l = bench_meet(t, "c%u id=l%u x=%u rm=%u%s",
                    (unsigned)(random_below(seed, 6) == 0), (unsigned)who,
                    (unsigned)random_below(seed, 4) * 20,
                    (unsigned)(1 + random_below(seed, 4)),
                    random_below(seed, 2) ? " will q1 w/t =will wdi=5" : "");
}

static void life_publish(struct bench_link *l, uint64_t *seed)
{
    static const char *const topics[] = {"a", "a/b", "b", "$x/a"};
    static int id;
    unsigned qos = (unsigned)random_below(seed, 3);
    char expiry[32] = "";
    if (random_below(seed, 2))
        snprintf(expiry, sizeof expiry, " mei=%u",
                 (unsigned)(1 + random_below(seed, 20)));
    id = id % 60000 + 1;
    bench_say(l, "publish q%u #%d %s %s =%s%s", qos, qos > 0 ? id : 0,
              random_below(seed, 4) == 0 ? "retain" : "",
              topics[random_below(seed, 4)],
              random_below(seed, 6) == 0 ? "" : "*30", expiry);
    if (qos == 2 && random_below(seed, 3) > 0)
        bench_say(l, "pubrel #%d", id);
}

static void life_step(struct bench *t, struct bench_link **l, uint64_t *seed)
{
    static const char *const filters[] = {"a,q0", "#,q1", "a/b,q2", "+,q1",
                                          "$share/g/#,q1", "$share/g/a,q2"};
    uint32_t who = random_below(seed, LIVES);
    switch (random_below(seed, 9)) {
    case 0:
        life_connect(t, &l[who], who, seed);
        break;
    case 1:
        bench_say(l[who], "subscribe #1 %s", filters[random_below(seed, 6)]);
        break;
    case 2:
        bench_say(l[who], "unsubscribe #2 # a $share/g/#");
        break;
    case 3:
        bench_serve(l[who], NULL);
        break;
    case 4:
        bench_cut(l[who]);
        break;
    case 5:
        bench_advance(t, 1000 * random_below(seed, 12));
        break;
    default:
        life_publish(l[who], seed);
        break;
    }
}

/* Whatever happens: the counts that are kept up are those that are seen, and
 * when everything has gone, nothing is counted any more. */
static void test_random_lives_add_up(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct bench_link *l[LIVES];
    uint64_t seed = 3;
    for (uint32_t i = 0; i < LIVES; i++)
        l[i] = bench_meet(t, "c1 id=l%u x=60", (unsigned)i);
    for (int i = 0; i < 3000; i++) {
        life_step(t, l, &seed);
        if (i % 300 == 299)
            bench_restart(t, 500);
        add_up(t);
    }
    bench_restart(t, 500);
    for (uint32_t i = 0; i < LIVES; i++)
        l[i] = bench_meet(t, "c1 id=l%u", (unsigned)i);
    static const char *const topics[] = {"a", "a/b", "b", "$x/a"};
    for (size_t i = 0; i < COUNT(topics); i++)
        bench_say(l[0], "publish retain %s =", topics[i]);
    add_up(t);
    assert_int_equal(figures(t)->messages, 0);
    assert_int_equal(figures(t)->message_bytes, 0);
    assert_int_equal(figures(t)->deliveries, 0);
    assert_int_equal(figures(t)->retained, 0);
}

/* ==== 5. Figures ========================================================== */

static void test_figures_of_packets(void **state)
{
    struct bench *t = (struct bench *)*state;
    uint8_t packet[300];
    struct bench_link *l = bench_link_open(t);
    struct session_figures before = *figures(t);
    const struct session_figures *f = figures(t);
    size_t in = bench_encode(packet, sizeof packet, "connect c1 id=a");
    in += bench_encode(packet, sizeof packet, "subscribe #1 t,q1");
    in += bench_encode(packet, sizeof packet, "publish q1 #2 t =hello");
    in += bench_encode(packet, sizeof packet, "pingreq");
    l->raw = 1;
    bench_say(l, "connect c1 id=a");
    bench_say(l, "subscribe #1 t,q1");
    bench_say(l, "publish q1 #2 t =hello");
    bench_say(l, "pingreq");
    assert_int_equal(f->bytes_received - before.bytes_received, in);
    assert_int_equal(f->bytes_sent - before.bytes_sent, l->in.n);
    assert_int_equal(f->publish_bytes_received, 5);
    assert_int_equal(f->publish_bytes_sent, 5);
    static const uint8_t once_in[] = {MQTT_CONNECT, MQTT_SUBSCRIBE,
                                      MQTT_PUBLISH, MQTT_PINGREQ};
    static const uint8_t once_out[] = {MQTT_CONNACK, MQTT_SUBACK, MQTT_PUBACK,
                                       MQTT_PUBLISH, MQTT_PINGRESP};
    uint64_t received = 0, sent = 0;
    for (size_t i = 0; i < COUNT(once_in); i++)
        assert_int_equal(f->received[once_in[i]], 1);
    for (size_t i = 0; i < COUNT(once_out); i++)
        assert_int_equal(f->sent[once_out[i]], 1);
    for (int i = 0; i < 16; i++) {
        received += f->received[i];
        sent += f->sent[i];
    }
    assert_int_equal(received, COUNT(once_in));
    assert_int_equal(sent, COUNT(once_out));
}

static void test_figures_of_refusals(void **state)
{
    struct bench *t = (struct bench *)*state;
    const struct session_figures *f = figures(t);
    uint64_t refused = 0;
    struct bench_link *l = bench_meet(t, "c1 id=a");
    bench_say(l, "subscribe #1 a#,q0 b,q0 c#,q0");
    bench_hear(l, "suback #1 8f 00 8f*");
    assert_int_equal(f->refused[0x8F], 2);
    bench_say(l, "publish q1 #2 $SYS/x =x");
    bench_hear(l, "puback #2 87*");
    assert_int_equal(f->refused[0x87], 1);
    bench_say(l, "unsubscribe #3 none");
    bench_hear(l, "unsuback #3 11*"); /* no refusal */
    bench_feed(l, "C0 01 00");
    assert_true(l->ended);
    struct bench_link *m = bench_link_open(t);
    bench_say(m, "connect c1 id=b am=x");
    bench_end(m, "connack 8c*");
    assert_int_equal(f->refused[0x8C], 1);
    for (int i = 0; i < 256; i++)
        refused += f->refused[i];
    assert_int_equal(refused, 5); /* with that of the malformed PINGREQ */
}

static void test_figures_of_drops(void **state)
{
    struct bench *t = (struct bench *)*state;
    t->options.queue_max = 3;
    t->options.memory_max = 1000;
    bench_restart(t, 0);
    const struct session_figures *f = figures(t);
    struct bench_link *l = subscriber(t, "c0 id=a x=600 mps=100", "t,q1");
    bench_publish(t, 1, "t =*200");
    assert_int_equal(f->dropped_by[DROP_TOO_LARGE], 1);
    bench_cut(l);
    for (int i = 0; i < 5; i++)
        bench_publish(t, 1, "t =x mei=5");
    assert_int_equal(f->dropped_by[DROP_QUEUE_FULL], 2);
    bench_advance(t, 5000);
    assert_int_equal(f->dropped_by[DROP_EXPIRED], 3);
    bench_publish(t, 1, "t =x");
    bench_meet(t, "c1 id=a");
    assert_int_equal(f->dropped_by[DROP_SESSION_ENDED], 1);
    l = subscriber(t, "c1 id=b rm=1", "t,q1");
    for (int i = 0; i < 3; i++)
        bench_publish(t, 1, "t =*600");
    assert_int_equal(f->dropped_by[DROP_MEMORY_FULL], 1);
    uint64_t sum = 0;
    for (int i = 0; i < DROP_KINDS; i++)
        sum += f->dropped_by[i];
    assert_int_equal(f->dropped, sum);
    assert_int_equal(sum, 8);
    bench_cut(l); /* two more end with the session */
    assert_int_equal(f->dropped_by[DROP_SESSION_ENDED], 3);
    assert_int_equal(f->message_bytes, 0);
    add_up(t);
}

static void test_figures_of_sessions(void **state)
{
    struct bench *t = (struct bench *)*state;
    const struct session_figures *f = figures(t);
    struct bench_link *a = bench_meet(t, "c0 id=a x=5");
    struct bench_link *b = bench_meet(t, "c1 id=b");
    bench_cut(b);
    bench_meet(t, "c0 id=c x=30");
    assert_int_equal(f->online, 2);
    assert_int_equal(f->online_max, 2);
    assert_int_equal(f->links, 3);
    bench_meet(t, "c0 id=c x=30"); /* takes over: nobody is there twice */
    bench_silent(a);
    assert_int_equal(f->online_max, 2);
    assert_int_equal(f->links, 4);
    bench_cut(a);
    assert_int_equal(f->online, 1);
    assert_int_equal(f->online_max, 2);
    bench_advance(t, 5000);
    assert_int_equal(f->expired, 1); /* b ended, but did not expire */
    bench_advance(t, 1000); /* until the ledger knows it too */
    bench_restart(t, 40000);
    assert_int_equal(figures(t)->expired, 1);
    assert_int_equal(figures(t)->online_max, 0);
    assert_int_equal(figures(t)->sessions, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(test_session_online_and_offline),
        BENCH_TEST(test_session_of_a_broker_that_died),
        BENCH_TEST(test_session_that_never_ends),
        BENCH_TEST(test_session_queue_and_flights),
        BENCH_TEST(test_session_queue_after_sharing),
        BENCH_TEST(test_search_for_what_repeats_itself),
        BENCH_TEST(test_pages_of_a_crowd),
        BENCH_TEST(test_subscriptions),
        BENCH_TEST(test_deliveries_at_each_stage),
        BENCH_TEST(test_receiving),
        BENCH_TEST(test_mqtt_4_7_2_1_retained_by_filter),
        BENCH_TEST(test_retained_at_the_greatest_depth),
        BENCH_TEST(test_a_body_that_rots),
        BENCH_TEST(test_random_lives_add_up),
        BENCH_TEST(test_figures_of_packets),
        BENCH_TEST(test_figures_of_refusals),
        BENCH_TEST(test_figures_of_drops),
        BENCH_TEST(test_figures_of_sessions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
