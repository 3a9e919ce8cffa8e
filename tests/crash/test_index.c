/*
 * test_index.c - a start with the index equals a start without it.
 *
 * Random lives of a server end in order, or by a kill some time after a
 * checkpoint.  Then two processes start, each on a copy of the disk of its
 * own, one of which has lost the index.  All clients come back, take and
 * answer what waits for them, and both processes end.  They must be equal in
 *
 *   - the state: every object with all its fields and its place in the log,
 *     as the next checkpoint writes it; the figures; what the operator is told
 *   - every packet that any client gets, in its order, byte for byte
 *   - every file that they leave, byte for byte
 *
 * and the one that had the index lives on into the next round: a chain of
 * starts from an index of a start from an index.
 *
 * All of that is so for a start at the very moment of an orderly end.  After
 * a kill, the start itself writes since when the clients are away, in an
 * order that is nobody's business: then it is the state without its places in
 * the log.  If time has passed, wills, sessions and messages fall due in the
 * start; of two things of one moment the ledger does not tell which is first,
 * nor whose turn it is in a Shared Subscription.  So the lives that are
 * followed by a later start have no such ties in them (`plain`), and it is
 * also the state without the receivers of messages.
 *
 * An index that must not be used is refused in one line, the state is that of
 * a start without it, and the next checkpoint replaces it.  test_damage.c cuts
 * a small index at every byte and flips every bit; here the index is that of
 * a rich life, and there are those that are whole and yet wrong: stale,
 * foreign, of another format, unreadable.
 *
 * Sections
 *   1  a life      clients that do things drawn by a seed
 *   2  looking     all there is to see of a server and its files
 *   3  equality    with the index and without
 *   4  refusals
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "notation.h"
#include "scene.h"

#define CLIENTS 6
#define CHAINS 60    /* each with a seed of its own */
#define ROUNDS 4     /* starts of a chain */
#define ACTIONS 130  /* of a life between two starts */
#define SEGMENT 2048 /* bytes, so that a life fills and cleans many */
#define RESERVE 65536

/* ==== 1. a life =========================================================== */

struct player {
    int link;        /* -1 = away */
    uint16_t id;     /* the last Packet Identifier it used */
    struct buf owed; /* answers that it has yet to give, as words; owned */
};

struct life {
    struct scene s;
    uint64_t dice;
    int plain;        /* 1 = nothing that could fall due together */
    struct player players[CLIENTS];
    int messages;     /* published so far */
    struct buf heard; /* what all clients got, as words and bytes; owned */
};

static uint64_t draw(struct life *l, uint64_t sides)
{
    l->dice = l->dice * UINT64_C(6364136223846793005) +
              UINT64_C(1442695040888963407);
    return (l->dice >> 33) % sides;
}

/* An answer is owed: a line of words. */
static void owe(struct life *l, int link, const char *answer, uint16_t id)
{
    for (int c = 0; c < CLIENTS; c++)
        if (l->players[c].link == link)
            text_format(&l->players[c].owed, "%s #%u\n", answer, (unsigned)id);
}

/* The packet in words, to be read, and in bytes, to be exact. */
static void life_hear(void *arg, int link, const struct mqtt_packet *p)
{
    struct life *l = (struct life *)arg;
    size_t n = mqtt_packet_encode(p, NULL, 0);
    text_format(&l->heard, "%d: ", link);
    text_packet(&l->heard, p, p->publish.topic);
    l->heard.n += mqtt_packet_encode(p, buf_room(&l->heard, n), n);
    buf_text(&l->heard, "\n");
    if (p->type == MQTT_PUBLISH && p->publish.qos > 0)
        owe(l, link, p->publish.qos == 1 ? "puback" : "pubrec",
            p->publish.packet_id);
    else if (p->type == MQTT_PUBREC && p->reason < 0x80)
        owe(l, link, "pubrel", p->packet_id);
    else if (p->type == MQTT_PUBREL)
        owe(l, link, "pubcomp", p->packet_id);
}

static void do_connect(struct life *l, int client, int clean)
{
    static const char *const expiry[CLIENTS] = {"4294967295", "100000",
                                                "100000", "4", "0", "100000"};
    static const char *const wills[] = {
        " will q1 a/1 =gone wdi=1", " will q2 retain r/2 =gone wdi=3",
        " will q0 b =gone wdi=20 mei=9"};
    struct player *p = &l->players[client];
    uint64_t window = 1 + draw(l, 12), will = draw(l, 6);
    if (p->link < 0)
        p->link = client;
    else
        p->link = client + CLIENTS - (p->link >= CLIENTS ? CLIENTS : 0);
    world_link_cut(&l->s.w, p->link); /* what is left of the one before */
    p->owed.n = 0;
    world_link_open(&l->s.w, p->link);
    world_say(&l->s.w, p->link, "connect c%d id=c%d x=%s rm=%u%s", clean,
              client, expiry[client], (unsigned)window,
              will < 3 && (!l->plain || client == 0) ? wills[will] : "");
}

static void do_publish(struct life *l, int client)
{
    static const char *const topics[] = {"a/0", "a/1", "a/2", "b", "b",
                                         "r/0", "r/1", "r/2"};
    struct player *p = &l->players[client];
    uint64_t topic = draw(l, 8), qos = draw(l, 3), size = draw(l, 90);
    int expires = draw(l, 6) == 0, empty = topic > 4 && draw(l, 4) == 0;
    char id[16] = "", fill[100];
    memset(fill, 'a' + (int)(size % 26), size);
    fill[size] = '\0';
    if (qos > 0)
        (void)snprintf(id, sizeof id, " #%u", (unsigned)++p->id);
    l->messages++;
    if (empty)
        world_say(&l->s.w, p->link, "publish q%d retain%s %s =", (int)qos, id,
                  topics[topic]);
    else
        world_say(&l->s.w, p->link, "publish q%d%s%s %s =m%d.%s%s", (int)qos,
                  topic > 4 ? " retain" : "", id, topics[topic], l->messages,
                  fill, expires ? " mei=5 up=k:v" : "");
}

static const char *const filters[] = {
    "a/0", "a/+", "#", "b", "r/#", "$share/g/a/#", "$share/g/b",
    "$share/h/a/1"};
#define SHARED 5 /* the first of them that is shared */
#define FILTERS (sizeof filters / sizeof filters[0])

static void do_subscribe(struct life *l, int client)
{
    struct player *p = &l->players[client];
    uint64_t filter = draw(l, l->plain ? SHARED : FILTERS), qos = draw(l, 3);
    uint64_t local = draw(l, 2), as_published = draw(l, 2);
    uint64_t handling = draw(l, 3), id = draw(l, 3);
    char number[16] = "";
    if (id > 0 && !l->plain)
        (void)snprintf(number, sizeof number, " sid=%u",
                       (unsigned)(id * 100 + filter));
    world_say(&l->s.w, p->link, "subscribe #%u %s,q%d%s%s,rh%d%s",
              (unsigned)++p->id, filters[filter], (int)qos,
              local && filter < SHARED ? ",nl" : "", as_published ? ",rap" : "",
              (int)handling, number);
}

/* Gives some of the answers that are owed, the oldest first. */
static void do_answer(struct life *l, int client, uint64_t count)
{
    struct player *p = &l->players[client];
    char words[32];
    for (; count > 0 && p->owed.n > 0; count--) {
        uint8_t *end = (uint8_t *)memchr(p->owed.p, '\n', p->owed.n);
        size_t n = (size_t)(end - p->owed.p);
        memcpy(words, p->owed.p, n);
        words[n] = '\0';
        buf_take(&p->owed, n + 1);
        world_say(&l->s.w, p->link, "%s", words);
    }
}

static void do_cut(struct life *l, int client)
{
    struct player *p = &l->players[client];
    if (p->link >= 0)
        world_link_cut(&l->s.w, p->link);
    p->link = -1;
}

static void do_leave(struct life *l, int client)
{
    static const char *const ways[] = {"disconnect 00", "disconnect 04",
                                       "disconnect 00 x=7"};
    struct player *p = &l->players[client];
    if (p->link < 0)
        return;
    /* an expiry cannot be given to a session that has none (3.14.2.2.2) */
    world_say(&l->s.w, p->link, "%s", ways[draw(l, client == 4 ? 2 : 3)]);
    p->link = -1;
}

static void do_something(struct life *l, int client, uint64_t what)
{
    struct player *p = &l->players[client];
    static const uint64_t waits[] = {20, 150, 1200, 6000};
    if (p->link < 0 && what < 70)
        what = draw(l, 3) == 0 ? 60 : 90;
    if (what < 27)
        do_publish(l, client);
    else if (what < 45)
        do_answer(l, client, 1 + draw(l, 6));
    else if (what < 55)
        do_subscribe(l, client);
    else if (what < 58)
        world_say(&l->s.w, p->link, "unsubscribe #%u %s", (unsigned)++p->id,
                  filters[draw(l, FILTERS)]);
    else if (what < 70)
        do_connect(l, client, draw(l, 15) == 0);
    else if (what < 76)
        do_cut(l, client);
    else if (what < 80)
        do_leave(l, client);
    else if (what < 93)
        (void)scene_advance(&l->s, waits[draw(l, 4)]);
}

static void life_turn(struct life *l)
{
    if (scene_turn(&l->s) != 0)
        fail_msg("%s", l->s.w.error);
}

/* So many actions, often several in one turn. */
static void life_go(struct life *l, int actions)
{
    for (int i = 0; i < actions; i++) {
        int client = (int)draw(l, CLIENTS);
        do_something(l, client, draw(l, 100));
        if (draw(l, 3) > 0)
            life_turn(l);
    }
    life_turn(l);
}

/* Everybody comes back and answers all there is. */
static void life_return(struct life *l)
{
    for (int c = 0; c < CLIENTS; c++) {
        do_connect(l, c, 0);
        life_turn(l);
        while (l->players[c].owed.n > 0) {
            do_answer(l, c, 100);
            life_turn(l);
        }
    }
}

static struct life *life_new(uint64_t seed, int plain)
{
    struct life *l = (struct life *)mem_new(sizeof *l);
    l->dice = seed;
    l->plain = plain;
    l->s.segment_size = SEGMENT;
    l->s.reserve_size = RESERVE;
    l->s.w.hear = life_hear;
    l->s.w.arg = l;
    for (int c = 0; c < CLIENTS; c++)
        l->players[c].link = -1;
    return l;
}

/* The process is gone, and its clients know it.  What was heard of it is
 * history. */
static void life_over(struct life *l)
{
    for (int c = 0; c < CLIENTS; c++) {
        l->players[c].link = -1;
        l->players[c].owed.n = 0;
    }
    l->heard.n = l->s.notices.n = 0;
}

/* Its clients, to go on in the same way on another disk. */
static struct life *life_twin(const struct life *l)
{
    struct life *twin = life_new(l->dice, l->plain);
    twin->messages = l->messages;
    for (int c = 0; c < CLIENTS; c++)
        twin->players[c].id = l->players[c].id;
    return twin;
}

static void life_open(struct life *l, struct disk *d, uint64_t now)
{
    if (scene_open(&l->s, d, now) != 0)
        fail_msg("%s", l->s.w.error);
}

static void life_free(struct life *l)
{
    for (int c = 0; c < CLIENTS; c++)
        buf_free(&l->players[c].owed);
    buf_free(&l->heard);
    scene_free(&l->s);
    free(l);
}

/* ==== 2. looking ========================================================== */

static int line_compare(const void *a, const void *b)
{
    const char *const *x = (const char *const *)a;
    const char *const *y = (const char *const *)b;
    return strcmp(*x, *y);
}

/* How much of the state is looked at. */
enum look {
    LOOK_ALL,
    LOOK_PLACELESS, /* all but where in the log each object stands */
    LOOK_LOOSE      /* nor who is to get a message */
};

/* Prints a message's line with each of its receivers on a line of its own:
 * their order is nobody's business. */
static void message_print(char *line, enum look look, struct buf *out)
{
    struct buf receivers = {NULL, 0, 0, 0};
    const char *seq = "", *via = "";
    for (char *word = strtok(line, " "); word != NULL;
         word = strtok(NULL, " ")) {
        seq = strncmp(word, "seq=", 4) == 0 ? word : seq;
        via = strncmp(word, "via=", 4) == 0 ? word : via;
        if (strncmp(word, "to=", 3) == 0) {
            text_format(&receivers, "to %s %s %s\n", seq, via, word);
        } else if (word != via) {
            buf_text(out, word);
            buf_text(out, " ");
        }
    }
    buf_text(out, "\n");
    if (look != LOOK_LOOSE)
        buf_add(out, receivers.p, receivers.n);
    buf_free(&receivers);
}

static void line_print(char *line, enum look look, struct buf *out)
{
    char *place = NULL;
    for (char *at = line; (at = strstr(at, " at=")) != NULL; at++)
        place = at;
    if (strncmp(line, "end ", 4) == 0) /* its checksum goes by the order */
        *strstr(line, " crc=") = '\0';
    else if (look != LOOK_ALL && place != NULL)
        *place = '\0';
    if (look != LOOK_ALL && (strncmp(line, "index ", 6) == 0 ||
                             strncmp(line, "segment ", 8) == 0))
        return;
    if (strncmp(line, "message ", 8) == 0) {
        message_print(line, look, out);
    } else {
        buf_text(out, line);
        buf_text(out, "\n");
    }
}

/* The lines of text in alphabetical order: objects stand in an index as the
 * server has numbered them, which is nobody's business. */
static void lines_sort(struct buf *text)
{
    char *all = (char *)mem_new(text->n + 1), *p = all, *end;
    char **lines = (char **)mem_new((text->n + 1) * sizeof *lines);
    size_t count = 0;
    memcpy(all, text->p, text->n);
    for (; (end = strchr(p, '\n')) != NULL; p = end + 1) {
        *end = '\0';
        lines[count++] = p;
    }
    qsort(lines, count, sizeof *lines, line_compare);
    text->n = 0;
    for (size_t i = 0; i < count; i++) {
        buf_text(text, lines[i]);
        buf_text(text, "\n");
    }
    free(lines);
    free(all);
}

/* What an index says.  Owned by the caller. */
static struct buf index_print(const struct buf *index, enum look look)
{
    struct buf out = {NULL, 0, 0, 0};
    char *all = (char *)mem_new(index->n + 1), *p = all, *end;
    memcpy(all, index->p, index->n);
    for (; (end = strchr(p, '\n')) != NULL; p = end + 1) {
        *end = '\0';
        line_print(p, look, &out);
    }
    lines_sort(&out);
    free(all);
    return out;
}

/* All there is to see of a server that has just started. */
struct view {
    struct buf state; /* as a checkpoint writes it; owned */
    struct session_figures server;
    struct store_figures store;
};

/* Messages that had expired before the end are dropped, and counted, once
 * more by a start that reads them again; an index has none of them. */
static void figures_trim(struct session_figures *f)
{
    f->dropped -= f->dropped_by[DROP_EXPIRED];
    f->dropped_by[DROP_EXPIRED] = 0;
}

static struct view view_take(struct life *l, enum look look)
{
    struct view v;
    memset(&v, 0, sizeof v);
    v.server = *session_figures(l->s.w.server);
    v.store = store_figures(l->s.w.store);
    figures_trim(&v.server);
    assert_int_equal(session_server_checkpoint(l->s.w.server), 0);
    v.state = index_print(disk_get(l->s.w.disk, "index"), look);
    return v;
}

/* Bytes from here on; those that are no text as dots. */
static void text_show(const struct buf *b, size_t from)
{
    for (size_t i = from; i < b->n && i < from + 500; i++)
        putchar(b->p[i] == '\n' || (b->p[i] >= ' ' && b->p[i] < 0x7F)
                    ? b->p[i]
                    : '.');
    putchar('\n');
}

static void same(const char *what, const struct buf *a, const struct buf *b)
{
    size_t i = 0, from, n = a->n < b->n ? a->n : b->n;
    while (i < n && a->p[i] == b->p[i])
        i++;
    if (i == a->n && i == b->n)
        return;
    from = i > 200 ? i - 200 : 0;
    printf("%s: not the same at %zu of %zu and %zu; with the index:\n", what,
           i, a->n, b->n);
    text_show(a, from);
    printf("---- and without:\n");
    text_show(b, from);
    fail_msg("%s", what);
}

static void files_same(const struct disk *a, const struct disk *b)
{
    assert_int_equal(a->now.count, b->now.count);
    for (size_t i = 0; i < a->now.count; i++) {
        const char *name = a->now.entries[i].name;
        const struct buf *x = disk_get(a, name), *y = disk_get(b, name);
        struct buf ours, theirs;
        if (y == NULL)
            fail_msg("%s is on one disk only", name);
        if (strcmp(name, "index") != 0) {
            same(name, x, y);
            continue;
        }
        ours = index_print(x, LOOK_ALL);
        theirs = index_print(y, LOOK_ALL);
        same(name, &ours, &theirs);
        buf_free(&ours);
        buf_free(&theirs);
    }
}

/* ==== 3. equality ========================================================= */

/* What must be in some of the indexes.  A receiver ends in its QoS, RETAIN,
 * stage (queued, sent, released) and Packet Identifier. */
static const char *const things[] = {
    "rx=",       ":q:",     ":s:",       ":r:",    " expires=", " retain=1",
    " nl=1",     " rap=1",  " rh=2",     ":0:0:q", ":2:0:q",    " id=100 ",
    "via=;$share", "filter=$share/", "will-due=", "expiry=4294967295",
    "expiry=4 "};
#define THINGS (sizeof things / sizeof things[0])

/* Over all rounds: what became of the index. */
static struct {
    int used;   /* it was used, and nothing was after it but the seal */
    int behind; /* it was used, and the log went on behind it */
    int stale;  /* it was refused, since the log was cleaned meanwhile */
    int folded; /* in a log whose first record is gone */
    int things[THINGS]; /* used, with this in it */
} seen;

/* The first record of every log is that of the counters at 1; from then on
 * only cleaning writes it. */
static int log_folded(const struct disk *d)
{
    for (size_t i = 0; i < d->now.count; i++)
        if (scene_has(disk_get(d, d->now.entries[i].name),
                      "counters next-session=1 next-message=1\n"))
            return 0;
    return 1;
}

static void round_count(const struct disk *d, const struct view *v, int sealed,
                        int stale)
{
    seen.stale += stale;
    if (stale)
        return;
    seen.used += sealed;
    seen.behind += !sealed;
    seen.folded += log_folded(d);
    for (size_t i = 0; i < THINGS; i++)
        seen.things[i] += scene_has(&v->state, things[i]);
}

/* One line, of a start that has no use for the index: how its reason begins. */
static void refusal_is(const struct buf *notices, const char *why)
{
    static const char end[] = "; all of the log is read instead\n";
    char line[STORE_ERROR_MAX], begin[STORE_ERROR_MAX];
    size_t n = notices->n < sizeof line ? notices->n : sizeof line - 1;
    if (n > 0)
        memcpy(line, notices->p, n);
    line[n] = '\0';
    (void)snprintf(begin, sizeof begin, DISK_DIR "/index: not used, %s", why);
    if (strncmp(line, begin, strlen(begin)) != 0 || n < sizeof end ||
        strcmp(line + n - (sizeof end - 1), end) != 0 ||
        strchr(line, '\n') != line + n - 1)
        fail_msg("not \"%s\" but \"%s\"", begin, line);
}

/* Both servers run, the one with the index first. */
static void starts_compare(struct life *l, struct life *m, int sealed)
{
    int stale = scene_has(&l->s.notices, "index: not used");
    enum look look = l->plain ? LOOK_LOOSE
                     : sealed ? LOOK_ALL
                              : LOOK_PLACELESS;
    struct view a = view_take(l, look), b = view_take(m, look);
    assert_false(stale && sealed);
    if (stale)
        refusal_is(&l->s.notices, "it is older than the last cleaning");
    else
        same("the notices", &l->s.notices, &m->s.notices);
    same("the state", &a.state, &b.state);
    assert_memory_equal(&a.server, &b.server, sizeof a.server);
    if (!l->plain)
        assert_memory_equal(&a.store, &b.store, sizeof a.store);
    round_count(l->s.w.disk, &a, sealed, stale);
    buf_free(&a.state);
    buf_free(&b.state);
    life_return(l);
    life_return(m);
    same("what clients hear", &l->heard, &m->heard);
}

/* The process is gone; two start on what it left, after so many ms.  The
 * first of them runs on. */
static void round_check(struct life *l, struct disk *disk, uint64_t later,
                        int sealed)
{
    struct disk *other = disk_copy(disk);
    struct life *m;
    disk->random = other->random; /* for the salts of segments */
    disk_remove(other, "index");
    life_over(l);
    m = life_twin(l);
    life_open(l, disk, l->s.w.now + later);
    life_open(m, other, l->s.w.now);
    starts_compare(l, m, sealed);
    if (!l->plain && sealed)
        files_same(disk, other);
    life_free(m);
    disk_free(other);
}

/* Ends in order, or is killed a short or a long time after a checkpoint. */
static int round_end(struct life *l, int how)
{
    if (how < 2) {
        assert_int_equal(scene_stop(&l->s), 0);
        return 1;
    }
    assert_int_equal(session_server_checkpoint(l->s.w.server), 0);
    life_go(l, how == 2 ? 1 + (int)draw(l, 8) : ACTIONS / 2);
    scene_kill(&l->s);
    return 0;
}

static void chain_run(uint64_t seed, int plain)
{
    struct disk *disk = disk_new(seed);
    struct life *l = life_new(seed, plain);
    life_open(l, disk, SCENE_T0);
    for (int round = 0; round < ROUNDS; round++) {
        int sealed;
        life_go(l, ACTIONS);
        sealed = round_end(l, (int)draw(l, 4));
        round_check(l, disk, plain ? draw(l, 9000) : 0, sealed);
    }
    life_free(l);
    disk_free(disk);
}

static void test_with_index_equals_without(void **state)
{
    (void)state;
    memset(&seen, 0, sizeof seen);
    for (uint64_t seed = 1; seed <= CHAINS; seed++)
        chain_run(seed, 0);
    printf("%d starts at once: index used %d, with log behind it %d, "
           "refused as stale %d; of those used, %d on a log that was cleaned\n",
           CHAINS * ROUNDS, seen.used, seen.behind, seen.stale, seen.folded);
    assert_true(seen.used > CHAINS && seen.behind > CHAINS / 4);
    assert_true(seen.stale > CHAINS / 10 && seen.folded > CHAINS / 4);
    for (size_t i = 0; i < THINGS; i++)
        if (seen.things[i] < 5)
            fail_msg("\"%s\" is in %d indexes only", things[i],
                     seen.things[i]);
}

static void test_the_same_after_a_time(void **state)
{
    (void)state;
    memset(&seen, 0, sizeof seen);
    for (uint64_t seed = 1001; seed <= 1000 + CHAINS; seed++)
        chain_run(seed, 1);
    printf("%d later starts: index used %d, with log behind it %d, refused "
           "as stale %d\n",
           CHAINS * ROUNDS, seen.used, seen.behind, seen.stale);
    assert_true(seen.used > CHAINS && seen.behind > CHAINS / 4);
}

/* ==== 4. refusals ========================================================= */

/* A store that was ended in order, and a start on it without an index. */
struct sample {
    struct disk *disk;
    struct buf index;   /* that it has; owned */
    struct buf old;     /* that it had long before; owned */
    struct buf foreign; /* of a store that is like it; owned */
    struct life *ended; /* its clients */
    struct buf state;   /* as the start without an index finds it; owned */
    struct buf heard;   /* what the clients get there; owned */
    struct buf rebuilt; /* what the index says in the end; owned */
};

static struct buf buf_copy(const struct buf *b)
{
    struct buf copy = {NULL, 0, 0, 0};
    buf_add(&copy, b->p, b->n);
    return copy;
}

static struct life *sample_live(struct disk *d, uint64_t seed)
{
    struct life *l = life_new(seed, 0);
    life_open(l, d, SCENE_T0);
    life_go(l, ACTIONS);
    return l;
}

/* A start on d; the next checkpoint, and the index of an orderly end, are as
 * those of a start without an index.  why: of the refusal; NULL = nothing is
 * said.  The first of them all says what must be. */
static void sample_start(struct sample *m, struct disk *d, const char *why)
{
    static const struct buf silence = {NULL, 0, 0, 0};
    struct life *l = life_twin(m->ended);
    struct buf rebuilt;
    struct view v;
    int first = m->state.n == 0;
    life_open(l, d, m->ended->s.w.now);
    if (why != NULL)
        refusal_is(&l->s.notices, why);
    else
        same("the notices", &l->s.notices, &silence);
    v = view_take(l, LOOK_ALL);
    life_return(l);
    assert_int_equal(scene_stop(&l->s), 0);
    rebuilt = index_print(disk_get(d, "index"), LOOK_ALL);
    if (first) {
        m->state = buf_copy(&v.state);
        m->heard = buf_copy(&l->heard);
        m->rebuilt = buf_copy(&rebuilt);
    }
    same("the state", &v.state, &m->state);
    same("what clients hear", &l->heard, &m->heard);
    same("the new index", &rebuilt, &m->rebuilt);
    buf_free(&v.state);
    buf_free(&rebuilt);
    life_free(l);
}

/* A start with these bytes for an index, and one more after it. */
static void sample_try(struct sample *m, const void *bytes, size_t n,
                       const char *why)
{
    struct disk *d = disk_copy(m->disk);
    struct life *l;
    disk_put(d, "index", bytes, n);
    sample_start(m, d, why);
    l = life_twin(m->ended);
    life_open(l, d, m->ended->s.w.now);
    assert_int_equal(l->s.notices.n, 0);
    life_free(l);
    disk_free(d);
}

static int sample_make(void **state)
{
    struct sample *m = (struct sample *)mem_new(sizeof *m);
    struct disk *other = disk_new(77), *d;
    struct life *l = sample_live(other, 77);
    assert_int_equal(scene_stop(&l->s), 0);
    m->foreign = buf_copy(disk_get(other, "index"));
    life_free(l);
    disk_free(other);
    m->disk = disk_new(42);
    l = sample_live(m->disk, 42);
    assert_int_equal(session_server_checkpoint(l->s.w.server), 0);
    m->old = buf_copy(disk_get(m->disk, "index"));
    life_go(l, ACTIONS);
    assert_int_equal(scene_stop(&l->s), 0);
    m->index = buf_copy(disk_get(m->disk, "index"));
    life_over(l);
    m->ended = l;
    d = disk_copy(m->disk);
    disk_remove(d, "index");
    sample_start(m, d, NULL);
    disk_free(d);
    *state = m;
    return 0;
}

static int sample_free(void **state)
{
    struct sample *m = (struct sample *)*state;
    struct buf *bufs[] = {&m->index, &m->old,   &m->foreign,
                          &m->state, &m->heard, &m->rebuilt};
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++)
        buf_free(bufs[i]);
    life_free(m->ended);
    disk_free(m->disk);
    free(m);
    return 0;
}

static void test_sound_index_is_used(void **state)
{
    struct sample *m = (struct sample *)*state;
    sample_try(m, m->index.p, m->index.n, NULL);
    assert_true(m->index.n > 3000 && m->heard.n > 1000);
}

/* Bytes that a change of the first lines or of the last can hit, and some of
 * all others. */
static size_t step_next(const struct buf *index, size_t at)
{
    return at < 250 || index->n - at < 60 ? at + 1 : at + 17;
}

static void test_torn_index_is_refused(void **state)
{
    struct sample *m = (struct sample *)*state;
    for (size_t n = 0; n < m->index.n; n = step_next(&m->index, n))
        sample_try(m, m->index.p, n, "it is torn");
}

static void test_damaged_index_is_refused(void **state)
{
    struct sample *m = (struct sample *)*state;
    struct buf *b = &m->index;
    for (size_t at = 0; at < b->n; at = step_next(b, at)) {
        b->p[at] ^= (uint8_t)(1 << at % 8);
        sample_try(m, b->p, b->n, "it is torn or damaged");
        b->p[at] ^= (uint8_t)(1 << at % 8);
    }
}

static void test_stale_index_is_refused(void **state)
{
    struct sample *m = (struct sample *)*state;
    sample_try(m, m->old.p, m->old.n, "it is older than the last cleaning");
}

static void test_foreign_index_is_refused(void **state)
{
    struct sample *m = (struct sample *)*state;
    sample_try(m, m->foreign.p, m->foreign.n, "it belongs to another store");
}

/* The index with other words in the place of those at their first occurrence,
 * and with the right checksum. */
static void forged_try(struct sample *m, const char *words, const char *others,
                       const char *why)
{
    static const char digits[] = "0123456789abcdef";
    struct buf b = buf_copy(&m->index);
    size_t n = strlen(words), at = 0;
    uint32_t crc = UINT32_MAX;
    while (at + n < b.n && memcmp(b.p + at, words, n) != 0)
        at++;
    assert_true(at + n < b.n && strlen(others) == n);
    memcpy(b.p + at, others, n);
    for (at = 0; at < b.n - 9; at++) { /* CRC-32C, the plain way */
        crc ^= b.p[at];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82F63B78u : 0);
    }
    crc = ~crc;
    for (size_t i = 0; i < 8; i++)
        b.p[b.n - 2 - i] = (uint8_t)digits[crc >> 4 * i & 15];
    sample_try(m, b.p, b.n, why);
    buf_free(&b);
}

/* Only its own words speak against it. */
static void test_forged_index_is_refused(void **state)
{
    struct sample *m = (struct sample *)*state;
    char batch[sizeof " batch=000000000001"];
    char salt[sizeof " salt=0123456789abcdef"], other[sizeof salt];
    forged_try(m, "index 2 ", "index 2 ", NULL);
    forged_try(m, "index 2 ", "index 1 ", "its first line is not valid");
    forged_try(m, "index 2 ", "holdfast", "its first line is not valid");
    forged_try(m, " segments=0000", " segments=9999",
               "its list of segments is not valid");
    forged_try(m, "\nsegment ", "\nsegmen: ",
               "its list of segments is not valid");
    forged_try(m, " size=000000", " size=999999",
               "a segment is shorter than it says");
    memcpy(batch, strstr((const char *)m->index.p, " batch="), sizeof batch);
    batch[sizeof batch - 1] = '\0';
    forged_try(m, batch, " batch=000000000001",
               "it belongs to another copy of this store");
    memcpy(salt, strstr((const char *)m->index.p, " salt="), sizeof salt);
    salt[sizeof salt - 1] = '\0';
    memcpy(other, salt, sizeof salt);
    other[6] = other[6] == '0' ? '1' : '0';
    forged_try(m, salt, other, "it belongs to another copy of this store");
}

/* A disk that does not give it back. */
static void test_unreadable_index_is_refused(void **state)
{
    static const struct {
        enum disk_call call;
        int error;
        const char *why;
    } faults[] = {{DISK_OPEN, EACCES, "it cannot be opened"},
                  {DISK_SIZE, EIO, "it cannot be opened"},
                  {DISK_PREAD, EIO, "it cannot be read"}};
    struct sample *m = (struct sample *)*state;
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        struct disk *d = disk_copy(m->disk);
        d->fault.calls = DISK_BIT(faults[i].call);
        d->fault.only = "index";
        d->fault.nth = 1;
        d->fault.error = faults[i].error;
        sample_start(m, d, faults[i].why);
        assert_int_equal(d->fault.hits, 1);
        disk_free(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_with_index_equals_without),
        cmocka_unit_test(test_the_same_after_a_time),
        cmocka_unit_test_setup_teardown(test_sound_index_is_used, sample_make,
                                        sample_free),
        cmocka_unit_test_setup_teardown(test_torn_index_is_refused,
                                        sample_make, sample_free),
        cmocka_unit_test_setup_teardown(test_damaged_index_is_refused,
                                        sample_make, sample_free),
        cmocka_unit_test_setup_teardown(test_stale_index_is_refused,
                                        sample_make, sample_free),
        cmocka_unit_test_setup_teardown(test_foreign_index_is_refused,
                                        sample_make, sample_free),
        cmocka_unit_test_setup_teardown(test_forged_index_is_refused,
                                        sample_make, sample_free),
        cmocka_unit_test_setup_teardown(test_unreadable_index_is_refused,
                                        sample_make, sample_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
