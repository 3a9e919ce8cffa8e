/*
 * test_clean.c - cleaning: bounded, paced, and safe in every crash window.
 *
 * A day of a small server on a disk in memory (world.h), the clock made up:
 * messages come, wait for clients that are away, and go.  At each sync of the
 * day the disk is measured.  Then the crash windows of cleaning, as store.c
 * draws the life of a segment:
 *
 *     fold and head written --> synced --> old segment unlinked --> dir synced
 *
 * each with the disks that a crash in it may leave (states.h): the state that
 * the next start finds is the one before the turn or the one after it, and
 * once the batch was synced it is the one after.  The pace is measured on the
 * store alone, with segments large enough to need one.
 *
 * Sections
 *   1  the day        a workload, and the marks of its turns
 *   2  its measure
 *   3  windows        crash points, by what happens around them
 *   4  crash tests
 *   5  the pace
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "states.h"
#include "world.h"

#define SEGMENT 2048 /* bytes; that of world.c */
#define START UINT64_C(1795364303000)
#define DAY UINT64_C(86400000) /* ms */
#define CLIENTS 3              /* subscribers; link 0 is the publisher */
#define RECENT 32              /* turns in which a queue may vanish */
#define POINTS 30              /* crash points of a window, at most */
#define STATES 12              /* disks of a crash point */

/* ==== 1. the day ========================================================== */

struct day {
    struct world w;
    struct disk *disk;
    uint64_t dice;
    int burst;             /* messages that come at once, at most */
    uint16_t id;           /* the publisher's next Packet Identifier */
    uint64_t live[RECENT]; /* live bytes at the ends of the last turns */
    uint64_t used;         /* largest share of the bound, in 1/1000 */
    uint64_t live_most;    /* largest live bytes that were seen */
    uint64_t measured;     /* how often, */
    uint64_t beyond; /* and how often above three times live + 2 segments */
    size_t *marks;   /* operations of the disk at the end of each turn */
    size_t mark_count;
    int (*sync)(void *ctx, int fd); /* the disk's own */
};

static struct day *today; /* for the call that has no room for it */

static uint64_t day_draw(struct day *d, uint64_t sides)
{
    d->dice =
        d->dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (d->dice >> 33) % sides;
}

static int name_is(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

/* Bytes of all segments, those in the making too. */
static uint64_t disk_bytes(const struct disk *d)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < d->now.count; i++)
        if (name_is(d->now.entries[i].name, ".log") ||
            name_is(d->now.entries[i].name, ".new"))
            sum += d->files[d->now.entries[i].file].now.n;
    return sum;
}

/* The most live bytes of the last turns. */
static uint64_t day_recent(const struct day *d, uint64_t live)
{
    for (int i = 0; i < RECENT; i++)
        if (d->live[i] > live)
            live = d->live[i];
    return live;
}

static void day_measure(struct day *d)
{
    uint64_t live = store_figures(d->w.store).live_bytes;
    uint64_t bound = 3 * day_recent(d, live) + 2 * SEGMENT;
    uint64_t bytes = disk_bytes(d->disk), used = bytes * 1000 / bound;
    if (used > d->used)
        d->used = used;
    if (live > d->live_most)
        d->live_most = live;
    d->beyond += bytes > 3 * live + 2 * SEGMENT;
    d->measured++;
}

/* Every sync of the disk passes here: between two nothing is larger. */
static int day_sync(void *ctx, int fd)
{
    int rc = today->sync(ctx, fd);
    if (today->w.store != NULL)
        day_measure(today);
    return rc;
}

static void day_turned(void *arg)
{
    struct day *d = (struct day *)arg;
    if ((d->mark_count & (d->mark_count - 1)) == 0)
        d->marks = (size_t *)mem_grow(
            d->marks,
            (d->mark_count > 0 ? 2 * d->mark_count : 1) * sizeof *d->marks);
    d->live[d->mark_count % RECENT] = store_figures(d->w.store).live_bytes;
    d->marks[d->mark_count++] = d->disk->op_count;
}

/* A subscriber answers at once, the publisher too. */
static void day_hear(void *arg, int link, const struct mqtt_packet *p)
{
    struct day *d = (struct day *)arg;
    if (p->type == MQTT_PUBLISH && p->publish.qos == 1)
        world_say(&d->w, link, "puback #%u", (unsigned)p->publish.packet_id);
    if (p->type == MQTT_PUBLISH && p->publish.qos == 2)
        world_say(&d->w, link, "pubrec #%u", (unsigned)p->publish.packet_id);
    if (p->type == MQTT_PUBREC)
        world_say(&d->w, link, "pubrel #%u", (unsigned)p->packet_id);
    if (p->type == MQTT_PUBREL)
        world_say(&d->w, link, "pubcomp #%u", (unsigned)p->packet_id);
}

static void day_connect(struct day *d, int link)
{
    world_link_open(&d->w, link);
    world_say(&d->w, link, "connect id=client%d x=604800", link);
}

static void day_publish(struct day *d)
{
    unsigned qos = 1 + (unsigned)day_draw(d, 2);
    unsigned size = 1 + (unsigned)day_draw(d, 300);
    const char *retain = day_draw(d, 8) == 0 ? " retain" : "";
    d->id = (uint16_t)(d->id % 60000 + 1);
    if (day_draw(d, 4) == 0)
        world_say(&d->w, 0, "publish q%u%s #%u t/%u =*%u mei=600", qos, retain,
                  (unsigned)d->id, (unsigned)day_draw(d, 5), size);
    else
        world_say(&d->w, 0, "publish q%u%s #%u t/%u =*%u", qos, retain,
                  (unsigned)d->id, (unsigned)day_draw(d, 5), size);
}

/* One event: a message in most cases, else a client comes or goes.  Now and
 * then so many messages at once that a fold has no room in their batch, and a
 * segment is cleaned in two turns. */
static void day_event(struct day *d)
{
    int link = 1 + (int)day_draw(d, CLIENTS);
    int count = day_draw(d, 10) == 0 ? d->burst : 1;
    if (day_draw(d, 4) != 0)
        while (count-- > 0)
            day_publish(d);
    else if (d->w.links[link].link == NULL)
        day_connect(d, link);
    else
        world_link_cut(&d->w, link);
}

/* The first turns: sessions and subscriptions. */
static void day_begin(struct day *d, uint64_t seed, int burst)
{
    memset(d, 0, sizeof *d);
    d->burst = burst;
    today = d;
    d->dice = seed;
    d->disk = disk_new(seed);
    d->sync = d->disk->io.sync;
    d->disk->io.sync = day_sync;
    d->w.hear = day_hear;
    d->w.turned = day_turned;
    d->w.arg = d;
    assert_int_equal(world_open(&d->w, d->disk, START), 0);
    for (int i = 0; i <= CLIENTS; i++)
        day_connect(d, i);
    for (int i = 1; i <= CLIENTS; i++)
        world_say(&d->w, i, "subscribe #1 t/+,q2");
    assert_int_equal(world_turn(&d->w), 0);
}

/* Events at random times until the day has so many ms. */
static void day_live(struct day *d, uint64_t ms)
{
    while (d->w.now < START + ms) {
        day_event(d);
        if (world_advance(&d->w, 1 + day_draw(d, 40000)) != 0)
            fail_msg("the day ends early: %s", d->w.error);
    }
}

static void day_end(struct day *d)
{
    world_kill(&d->w);
    disk_free(d->disk);
    free(d->marks);
}

/* ==== 2. its measure ====================================================== */

/* Live bytes may vanish in one turn (a client came back and took all that
 * waited), and cleaning, which is paced, has to follow: so `live` is the most
 * that lived in the last few turns, and moments that are beyond three times
 * what lives at the very moment are rare. */
static void test_disk_stays_under_three_times_live_and_two_segments(void **s)
{
    struct day *d = (struct day *)mem_new(sizeof *d);
    struct store_figures f;
    (void)s;
    day_begin(d, 1, 7);
    day_live(d, DAY);
    f = store_figures(d->w.store);
    print_message("a day: %" PRIu64 " batches, measured %" PRIu64
                  " times; live at most %" PRIu64 " bytes; at most %" PRIu64
                  ".%" PRIu64 " %% of the bound; %" PRIu64
                  " times beyond it by what lived just then\n",
                  f.batches, d->measured, d->live_most, d->used / 10,
                  d->used % 10, d->beyond);
    assert_true(d->measured > 4000);
    assert_true(d->live_most > 4 * SEGMENT);
    assert_true(d->used <= 1000);
    assert_true(d->beyond * 20 <= d->measured);
    day_end(d);
    free(d);
}

/* ==== 3. windows ========================================================== */

/* What a window is: asked for each operation of the record; nonzero = a crash
 * after the operation of this index is in it. */
typedef int window_fn(const struct day *d, size_t at);

static const struct disk_op *op_at(const struct day *d, size_t at)
{
    return d->disk->ops[at];
}

/* The head that a written batch names, 0 = it is no batch. */
static unsigned batch_head(const struct disk_op *op)
{
    char line[64] = "";
    unsigned head = 0;
    if (op->change != CHANGE_WRITE || op->n < 64 ||
        memcmp(op->bytes, "batch ", 6) != 0)
        return 0;
    memcpy(line, op->bytes, 63);
    return sscanf(line, "batch %*12u head=%8u", &head) == 1 ? head : 0;
}

/* 1 = this batch moves the head: the oldest segment has been folded. */
static int head_moves(const struct day *d, size_t at)
{
    unsigned head = batch_head(op_at(d, at)), before = 0;
    for (size_t i = at; head > 0 && before == 0 && i-- > 0;)
        before = batch_head(op_at(d, i));
    return before > 0 && head > before;
}

/* The `seq=` of the record that begins here, 0 = it is no message. */
static uint64_t message_seq(const uint8_t *p, size_t n)
{
    static const char kind[] = "\nmessage seq=";
    size_t m = sizeof kind - 1;
    uint64_t seq = 0;
    if (n < m || memcmp(p, kind, m) != 0)
        return 0;
    for (size_t i = m; i < n && p[i] >= '0' && p[i] <= '9'; i++)
        seq = seq * 10 + (uint64_t)(p[i] - '0');
    return seq;
}

/* The largest seq among a batch's messages, or the smallest. */
static uint64_t batch_seq(const struct disk_op *op, int largest)
{
    uint64_t found = 0;
    if (batch_head(op) == 0)
        return 0;
    for (size_t i = 0; i < op->n; i++) {
        uint64_t seq = message_seq(op->bytes + i, op->n - i);
        if (seq > 0 && (found == 0 || (largest ? seq > found : seq < found)))
            found = seq;
    }
    return found;
}

/* 1 = this batch holds a fold: a message that came before. */
static int batch_folds(const struct day *d, size_t at)
{
    uint64_t seq = batch_seq(op_at(d, at), 0), newest = 0;
    for (size_t i = at; seq > 0 && i-- > 0;) {
        newest = batch_seq(op_at(d, i), 1);
        if (newest >= seq)
            return 1;
    }
    return 0;
}

static int is(const struct day *d, size_t at, enum disk_change change)
{
    return at < d->disk->op_count && op_at(d, at)->change == change;
}

static int fold_written(const struct day *d, size_t at)
{
    return head_moves(d, at) && batch_folds(d, at);
}

/* The fold is safe, the head does not yet pass its old place. */
static int fold_synced_head_stays(const struct day *d, size_t at)
{
    return at > 0 && is(d, at, CHANGE_SYNC) && is(d, at - 1, CHANGE_WRITE) &&
           !head_moves(d, at - 1) && batch_folds(d, at - 1);
}

static int head_synced(const struct day *d, size_t at)
{
    return is(d, at, CHANGE_SYNC) && is(d, at + 1, CHANGE_UNLINK) &&
           name_is(op_at(d, at + 1)->name, ".log");
}

static int one_of_several_unlinked(const struct day *d, size_t at)
{
    return is(d, at, CHANGE_UNLINK) && is(d, at + 1, CHANGE_UNLINK);
}

static int all_unlinked(const struct day *d, size_t at)
{
    return is(d, at, CHANGE_UNLINK) && is(d, at + 1, CHANGE_SYNC_DIR);
}

static int unlinks_synced(const struct day *d, size_t at)
{
    return at > 0 && is(d, at, CHANGE_SYNC_DIR) && is(d, at - 1, CHANGE_UNLINK);
}

/* A segment is begun for a batch that moves the head: from its creation to
 * the sync of its name. */
static int segment_made_for_it(const struct day *d, size_t at)
{
    size_t next = at + 1;
    if (batch_head(op_at(d, at)) > 0)
        return 0;
    while (next < d->disk->op_count && batch_head(op_at(d, next)) == 0 &&
           !is(d, next, CHANGE_UNLINK))
        next++;
    if (next == d->disk->op_count || !head_moves(d, next))
        return 0;
    while (at > 0 && !is(d, at, CHANGE_CREATE)) {
        if (batch_head(op_at(d, at)) > 0)
            return 0;
        at--;
    }
    return name_is(op_at(d, at)->name, ".new");
}

/* ==== 4. crash tests ====================================================== */

static struct day *story; /* the record that all crash tests share */

/* The disk after so many operations, all of them done. */
static struct disk *disk_until(const struct day *d, size_t count)
{
    struct disk *x = disk_new(1), *copy;
    for (size_t i = 0; i < count; i++)
        disk_apply(x, d->disk->ops[i]);
    copy = disk_copy(x);
    disk_free(x);
    return copy;
}

/* Starts on the disk, prints the state, dies.  The disk stays. */
static void state_print(const struct day *d, struct disk *disk,
                        struct buf *text, const char *what)
{
    struct world w;
    struct buf full = {NULL, 0, 0, 0};
    memset(&w, 0, sizeof w);
    if (world_open(&w, disk, d->w.now) != 0)
        fail_msg("%s: no start: %s", what, w.error);
    if (world_print(&w, text, &full) != 0)
        fail_msg("%s: %s", what, w.error);
    world_kill(&w);
    buf_free(&full);
}

/* The state at a mark: that of the disk with all that was done. */
static void mark_print(const struct day *d, size_t count, struct buf *text)
{
    struct disk *disk = disk_until(d, count);
    state_print(d, disk, text, "without a crash");
    disk_free(disk);
}

static int text_same(const struct buf *a, const struct buf *b)
{
    return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

/* No segment below the head is left once a start has seen it. */
static void leftovers_check(const struct disk *d, const char *what)
{
    unsigned head = 0, number;
    for (size_t i = 0; i < d->now.count; i++) {
        const struct buf *b = &d->files[d->now.entries[i].file].now;
        for (size_t k = 0;
             name_is(d->now.entries[i].name, ".log") && k + 30 < b->n; k++)
            if (b->p[k] == '\n' &&
                sscanf((const char *)b->p + k, "\nbatch %*12u head=%8u ",
                       &number) == 1 &&
                number > head)
                head = number;
    }
    for (size_t i = 0; i < d->now.count; i++)
        if (sscanf(d->now.entries[i].name, "%8u.log", &number) == 1 &&
            number < head)
            fail_msg("%s: %s is still there, the head is %u", what,
                     d->now.entries[i].name, head);
}

/* One crash point: its disks, each with a start and, after a power cut in
 * every second, another. */
static void point_try(const struct day *d, struct states *st, size_t at,
                      int safe)
{
    struct buf before = {NULL, 0, 0, 0}, after = {NULL, 0, 0, 0};
    size_t mark = 0;
    uint64_t count = states_count(st);
    while (d->marks[mark] < at)
        mark++;
    mark_print(d, mark > 0 ? d->marks[mark - 1] : 0, &before);
    mark_print(d, d->marks[mark], &after);
    for (uint64_t i = 0; i < STATES && i < count; i++) {
        struct disk *disk = states_make(st, i, count <= STATES);
        struct buf text = {NULL, 0, 0, 0}, again = {NULL, 0, 0, 0};
        char what[80];
        (void)snprintf(what, sizeof what, "crash point %zu, disk %" PRIu64, at,
                       i);
        state_print(d, disk, &text, what);
        leftovers_check(disk, what);
        if (!text_same(&text, &after) && (safe || !text_same(&text, &before)))
            fail_msg("%s: [%.*s] but it was [%.*s]", what, (int)text.n,
                     (char *)text.p, (int)after.n, (char *)after.p);
        disk_power_cut(disk);
        state_print(d, disk, &again, what);
        assert_true(text_same(&text, &again));
        disk_free(disk);
        buf_free(&text);
        buf_free(&again);
    }
    buf_free(&before);
    buf_free(&after);
}

/* All crash points of the window, but no more than POINTS.  safe: the batch
 * was synced, so the turn has happened. */
static void window_try(window_fn *in, int safe, size_t least)
{
    struct disk *empty = disk_new(1);
    struct states *st =
        states_new(empty, story->disk->ops, story->disk->op_count, 1);
    size_t found = 0, from = story->marks[0];
    for (size_t at = from; at < story->disk->op_count; at++) {
        if (found == POINTS || !in(story, at))
            continue;
        states_at(st, at + 1);
        point_try(story, st, at + 1, safe);
        found++;
    }
    print_message("%zu crash points\n", found);
    states_free(st);
    disk_free(empty);
    assert_true(found >= least);
}

static void test_crash_fold_and_head_written_not_synced(void **s)
{
    (void)s;
    window_try(fold_written, 0, 5);
}

static void test_crash_fold_synced_head_stays(void **s)
{
    (void)s;
    window_try(fold_synced_head_stays, 1, 3);
}

static void test_crash_head_synced_segment_not_unlinked(void **s)
{
    (void)s;
    window_try(head_synced, 1, 10);
}

static void test_crash_one_of_several_segments_unlinked(void **s)
{
    (void)s;
    window_try(one_of_several_unlinked, 1, 3);
}

static void test_crash_unlinked_directory_not_synced(void **s)
{
    (void)s;
    window_try(all_unlinked, 1, 10);
}

static void test_crash_unlinked_directory_synced(void **s)
{
    (void)s;
    window_try(unlinks_synced, 1, 10);
}

static void test_crash_segment_made_for_the_fold(void **s)
{
    (void)s;
    window_try(segment_made_for_it, 0, 5);
}

/* The start after such a crash deletes what is left over, and dies in it. */
static void test_crash_while_the_start_deletes_leftovers(void **s)
{
    size_t at = story->marks[0], tried = 0;
    struct disk *base, *disk;
    struct states *st;
    struct buf whole = {NULL, 0, 0, 0}, text = {NULL, 0, 0, 0};
    (void)s;
    while (!head_synced(story, at))
        at++;
    base = disk_until(story, at + 1);
    disk = disk_copy(base);
    state_print(story, disk, &whole, "start");
    st = states_new(base, disk->ops, disk->op_count, 1);
    for (size_t i = 0; i <= disk->op_count; i++) {
        states_at(st, i);
        for (uint64_t k = 0; k < 6 && k < states_count(st); k++, tried++) {
            struct disk *x = states_make(st, k, states_count(st) <= 6);
            text.n = 0;
            state_print(story, x, &text, "a start after a crashed start");
            leftovers_check(x, "a start after a crashed start");
            assert_true(text_same(&whole, &text));
            disk_free(x);
        }
    }
    print_message("%zu disks of %zu crash points\n", tried, disk->op_count + 1);
    states_free(st);
    disk_free(disk);
    disk_free(base);
    buf_free(&whole);
    buf_free(&text);
}

static int group_begin(void **s)
{
    (void)s;
    story = (struct day *)mem_new(sizeof *story);
    day_begin(story, 2, 10);
    day_live(story, DAY / 6);
    return 0;
}

static int group_end(void **s)
{
    (void)s;
    day_end(story);
    free(story);
    return 0;
}

/* ==== 5. the pace ========================================================= */

#define LARGE (256 * 1024) /* bytes of a segment, here */
#define THINGS 1500        /* objects that may live */
#define THING_MAX 2000     /* bytes of a body, below this */
#define CHUNK (64 * 1024)  /* what a turn may always copy (store.c) */
#define TURNS 3000

struct pace {
    struct store *store;
    struct store_object things[THINGS];
    uint64_t dice;
    uint64_t appended, copied; /* bytes, in all */
    uint64_t turn_most;        /* bytes copied by one turn, at most */
    uint64_t used;             /* of the bound on the disk, in 1/1000 */
};

static uint64_t pace_draw(struct pace *p, uint64_t sides)
{
    p->dice =
        p->dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (p->dice >> 33) % sides;
}

/* A thing comes, anew or in the place of an old one; or an old one goes. */
static void thing_change(struct pace *p)
{
    static const uint8_t body[THING_MAX];
    struct store_object *o = &p->things[pace_draw(p, THINGS)];
    int dies = pace_draw(p, 3) == 0;
    if (dies && o->segment == 0)
        return;
    store_record_begin(p->store, dies ? "gone" : "thing");
    store_record_number(p->store, "n", (uint64_t)(o - p->things));
    if (dies) {
        store_record_end(p->store, STORE_NOW);
        store_object_drop(p->store, o);
    } else {
        store_record_end_object(p->store, STORE_NOW, o, body,
                                (size_t)pace_draw(p, THING_MAX));
    }
}

/* What a turn copies: twice what it appended, a chunk, and the object with
 * which it went beyond. */
static void pace_turn(struct pace *p, uint64_t now)
{
    size_t before, appended, copied, changes = 1 + pace_draw(p, 20);
    struct store_object *o;
    struct store_figures f;
    before = store_pending(p->store);
    while (changes-- > 0)
        thing_change(p);
    appended = store_pending(p->store) - before;
    while ((o = store_clean_next(p->store)) != NULL) {
        store_record_begin(p->store, "thing");
        store_record_number(p->store, "n", (uint64_t)(o - p->things));
        assert_int_equal(store_record_end_fold(p->store, STORE_NOW, o), 0);
    }
    copied = store_pending(p->store) - before - appended;
    assert_true(copied <= 2 * appended + CHUNK + THING_MAX + 200);
    assert_int_equal(store_commit(p->store, now), 0);
    f = store_figures(p->store);
    if (f.total_bytes * 1000 / (3 * f.live_bytes + 2 * LARGE) > p->used)
        p->used = f.total_bytes * 1000 / (3 * f.live_bytes + 2 * LARGE);
    p->appended += appended;
    p->copied += copied;
    if (copied > p->turn_most)
        p->turn_most = copied;
}

static void test_a_turn_copies_in_proportion_to_what_it_appends(void **s)
{
    struct pace *p = (struct pace *)mem_new(sizeof *p);
    struct disk *disk = disk_new(3);
    struct store_options options;
    struct store_record rec;
    char error[STORE_ERROR_MAX];
    uint64_t now = START;
    (void)s;
    memset(&options, 0, sizeof options);
    options.dir = DISK_DIR;
    options.io = &disk->io;
    options.segment_size = LARGE;
    options.reserve_size = LARGE;
    p->store = store_open(&options, now, error);
    assert_non_null(p->store);
    assert_int_equal(store_replay_next(p->store, &rec), 0);
    for (int i = 0; i < TURNS; i++)
        pace_turn(p, now += DAY / TURNS);
    print_message("%" PRIu64 " bytes appended, %" PRIu64 " copied, by one "
                  "turn at most %" PRIu64 "; at most %" PRIu64 ".%" PRIu64
                  " %% of the bound on the disk\n",
                  p->appended, p->copied, p->turn_most, p->used / 10,
                  p->used % 10);
    assert_true(p->copied > 0 && p->copied <= 2 * p->appended);
    assert_true(p->used <= 1000);
    store_close(p->store, 0);
    disk_free(disk);
    free(p);
}

int main(void)
{
    const struct CMUnitTest measures[] = {
        cmocka_unit_test(
            test_disk_stays_under_three_times_live_and_two_segments),
        cmocka_unit_test(test_a_turn_copies_in_proportion_to_what_it_appends),
    };
    const struct CMUnitTest crashes[] = {
        cmocka_unit_test(test_crash_fold_and_head_written_not_synced),
        cmocka_unit_test(test_crash_fold_synced_head_stays),
        cmocka_unit_test(test_crash_head_synced_segment_not_unlinked),
        cmocka_unit_test(test_crash_one_of_several_segments_unlinked),
        cmocka_unit_test(test_crash_unlinked_directory_not_synced),
        cmocka_unit_test(test_crash_unlinked_directory_synced),
        cmocka_unit_test(test_crash_segment_made_for_the_fold),
        cmocka_unit_test(test_crash_while_the_start_deletes_leftovers),
    };
    int failed = cmocka_run_group_tests_name("cleaning: disk and pace",
                                             measures, NULL, NULL);
    failed += cmocka_run_group_tests_name("cleaning: crashes", crashes,
                                          group_begin, group_end);
    return failed;
}
