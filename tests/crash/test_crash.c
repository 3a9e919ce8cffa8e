/*
 * test_crash.c - every disk that a crash may leave holds what was promised.
 *
 *     test_crash                         the tests, 100,000 states
 *     test_crash STATES [SEED [JOBS]]    as many states, from this seed on
 *     test_crash -r SEED POINT NUMBER    one state again, told in detail
 *
 * Workloads (story.h) run on a disk that records (disk.h).  For every crash
 * point of each, disks that the crash may leave (states.h) are started on:
 *
 *     - the server must start;
 *     - a second start, after a second power cut, with the index or without
 *       it, must find the same state as the first;
 *     - the first start is crashed at its own crash points, and what that
 *       leaves must be the same state again;
 *     - what clients see must be what they were promised (verdict.h).  This
 *       is looked at once for each state of the server at a crash point.
 *
 * CRASH_FLUSH_EARLY=1 breaks the loop: output leaves before the commit.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "states.h"
#include "verdict.h"

#define ACTIONS 150      /* of a workload */
#define STATES 100000    /* of a test run */
#define SAMPLES 20       /* states of a crash point, if there are more */
#define EXHAUSTIVE 48    /* up to so many are all tried */
#define NESTED 6         /* states of a recovery that is crashed, */
#define NESTED_EVERY 5   /* which every fifth is */
#define SEEN 4096        /* states of the server told apart at a point */

/* What the processes tell the first one. */
struct tally {
    uint64_t states;   /* disks started on */
    uint64_t nested;   /* of them, left by a crash of a recovery */
    uint64_t looked;   /* of them, looked at from outside */
    uint64_t points;   /* crash points */
    uint64_t stories;
    uint64_t whole;    /* points of which every state was tried */
    char failure[900]; /* "" = none */
};

/* One crash point. */
struct point {
    const struct story *story;
    size_t at;
    uint64_t now;         /* when the next process starts */
    uint64_t seen[SEEN];  /* hashes of states that were looked at */
    size_t seen_count;
    struct tally *tally;
};

/* ==== one state =========================================================== */

static void tally_fail(const struct point *p, uint64_t number, int nested,
                       const char *why)
{
    if (p->tally->failure[0] == '\0')
        (void)snprintf(p->tally->failure, sizeof p->tally->failure,
                       "state %" PRIu64 " %zu %" PRIu64 "%s: %s",
                       p->story->seed, p->at, number,
                       nested ? " (its recovery crashed)" : "", why);
}

static int failed(const struct point *p)
{
    return p->tally->failure[0] != '\0';
}

static uint64_t hash_text(const struct buf *text, int killed)
{
    uint64_t h = UINT64_C(14695981039346656037) + (uint64_t)killed;
    for (size_t i = 0; i < text->n; i++)
        h = (h ^ text->p[i]) * UINT64_C(1099511628211);
    return h;
}

/* 1 = this state of the server was not looked at yet. */
static int point_new(struct point *p, const struct buf *full, int killed)
{
    uint64_t h = hash_text(full, killed);
    for (size_t i = 0; i < p->seen_count; i++)
        if (p->seen[i] == h)
            return 0;
    if (p->seen_count < SEEN)
        p->seen[p->seen_count++] = h;
    return 1;
}

/* The first place where two texts differ, in words. */
static void text_difference(const struct buf *a, const struct buf *b,
                            char *why, size_t cap)
{
    size_t i = 0, from;
    while (i < a->n && i < b->n && a->p[i] == b->p[i])
        i++;
    from = i;
    while (from > 0 && a->p[from - 1] != '\n')
        from--;
    (void)snprintf(why, cap, "two recoveries differ: [%.*s] and [%.*s]",
                   (int)(a->n - from < 150 ? a->n - from : 150),
                   (const char *)a->p + from,
                   (int)(b->n - from < 150 ? b->n - from : 150),
                   (const char *)b->p + from);
}

static int text_has(const struct buf *text, const char *what)
{
    size_t n = strlen(what);
    for (size_t i = 0; i + n <= text->n; i++)
        if (memcmp(text->p + i, what, n) == 0)
            return 1;
    return 0;
}

static int text_same(const struct buf *a, const struct buf *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->p, b->p, a->n) == 0);
}

/* May the state differ if a recovery was crashed?  Only in what hangs on when
 * the broker last lived, for then that may have been later: whether the brief
 * session has expired and a delayed will is out, and the order of the wills of
 * two clients. */
static int may_differ(const struct buf *a, const struct buf *b)
{
    struct buf x = {NULL, 0, 0, 0}, y = {NULL, 0, 0, 0};
    int same;
    world_print_loose(a, &x);
    world_print_loose(b, &y);
    same = text_same(&x, &y);
    buf_free(&x);
    buf_free(&y);
    return same ||
           text_has(a, " client=c5 ") != text_has(b, " client=c5 ") ||
           text_has(a, " will-delay=2 ") != text_has(b, " will-delay=2 ");
}

/* Starts on d; its state must be `expected`.  Looks from outside if this is a
 * new one.  The server is left dead.  0, or -1 and why. */
static int hold(struct point *p, struct disk *d, const struct crash *crash,
                const struct buf *expected, char *why, size_t cap)
{
    struct world *w = (struct world *)mem_new(sizeof *w);
    struct buf text = {NULL, 0, 0, 0}, full = {NULL, 0, 0, 0};
    int bad = world_open(w, d, p->now);
    if (bad == 0)
        bad = world_print(w, &text, &full);
    if (bad < 0)
        (void)snprintf(why, cap, "does not start: %s", w->error);
    if (bad == 0 && !text_same(expected, &text) &&
        !(crash->again && may_differ(expected, &text))) {
        text_difference(expected, &text, why, cap);
        bad = -1;
    }
    if (bad == 0 && point_new(p, &full, crash->killed)) {
        bad = verdict(p->story, crash, w, why, cap);
        p->tally->looked++;
    }
    world_kill(w);
    buf_free(&text);
    buf_free(&full);
    free(w);
    return bad;
}

/* The first start is crashed at points of its own. */
static void hold_nested(struct point *p, const struct disk *before,
                        const struct disk *after, size_t ops, uint64_t number,
                        const struct buf *expected)
{
    struct crash crash = {p->at, number == 0, 1};
    struct states *s = states_new(before, after->ops, ops,
                                  p->story->seed ^ p->at ^ number);
    char why[700] = "";
    for (size_t i = 0; i < NESTED && !failed(p); i++) {
        size_t from = ops * i / NESTED, to = ops * (i + 1) / NESTED;
        size_t at = from + (number * 7 + i) % (to - from + 1);
        struct disk *d;
        states_at(s, at);
        d = states_make(s, 4 + i, 0);
        if (hold(p, d, &crash, expected, why, sizeof why) < 0)
            tally_fail(p, number, 1, why);
        disk_free(d);
        p->tally->states++;
        p->tally->nested++;
    }
    states_free(s);
}

/* One disk that the crash may have left. */
static void hold_state(struct point *p, struct disk *d, uint64_t number,
                       int nested)
{
    struct crash crash = {p->at, number == 0, 0};
    struct disk *before = nested ? disk_copy(d) : NULL;
    struct world *w = (struct world *)mem_new(sizeof *w);
    struct buf text = {NULL, 0, 0, 0}, full = {NULL, 0, 0, 0};
    char why[700] = "";
    size_t ops = 0;
    int bad = world_open(w, d, p->now);
    if (bad == 0) {
        ops = d->op_count;
        bad = world_print(w, &text, &full);
    }
    if (bad < 0)
        (void)snprintf(why, sizeof why, "does not start: %s", w->error);
    world_kill(w);
    free(w);
    if (bad == 0) {
        if (number % 2 == 0)
            disk_power_cut(d);
        if (number % 4 < 2)
            disk_remove(d, "index");
        bad = hold(p, d, &crash, &text, why, sizeof why);
    }
    if (bad < 0)
        tally_fail(p, number, 0, why);
    if (bad == 0 && nested)
        hold_nested(p, before, d, ops, number, &text);
    p->tally->states++;
    if (before != NULL)
        disk_free(before);
    buf_free(&text);
    buf_free(&full);
}

/* ==== all states ========================================================== */

/* For how long nobody started the broker again. */
static uint64_t point_away(const struct story *s, size_t at)
{
    static const uint64_t aways[] = {1, 900, 5000, 3600000};
    return aways[(s->seed + at * 5) % 4];
}

static void point_begin(struct point *p, const struct story *s, size_t at,
                        struct tally *t)
{
    memset(p, 0, sizeof *p);
    p->story = s;
    p->at = at;
    p->now = story_time(s, at) + point_away(s, at);
    p->tally = t;
}

static void point_run(struct point *p, struct states *states)
{
    uint64_t count, all, number;
    states_at(states, p->at);
    count = states_count(states);
    all = count <= EXHAUSTIVE;
    if (!all)
        count = SAMPLES;
    for (number = 0; number < count && !failed(p); number++) {
        struct disk *d = states_make(states, number, all != 0);
        hold_state(p, d, number, (number + p->at) % NESTED_EVERY == 0);
        disk_free(d);
    }
    p->tally->points++;
    p->tally->whole += all != 0;
}

static void story_run(uint64_t seed, uint64_t states, struct tally *t)
{
    struct story *s = story_new(seed, ACTIONS);
    struct disk *empty = disk_new(1);
    struct states *at = states_new(empty, s->disk->ops, s->disk->op_count,
                                   seed);
    struct point *p = (struct point *)mem_new(sizeof *p);
    if (s->error[0] != '\0')
        (void)snprintf(t->failure, sizeof t->failure, "story %" PRIu64 ": %s",
                       seed, s->error);
    for (size_t i = 0; i <= s->disk->op_count && t->failure[0] == '\0' &&
                       t->states < states;
         i++) {
        point_begin(p, s, i, t);
        point_run(p, at);
    }
    t->stories++;
    free(p);
    states_free(at);
    disk_free(empty);
    story_free(s);
}

/* Stories until so many states were tried. */
static void stories_run(uint64_t seed, uint64_t step, uint64_t states,
                        struct tally *t)
{
    for (; t->states < states && t->failure[0] == '\0'; seed += step)
        story_run(seed, states, t);
}

static void tally_add(struct tally *sum, const struct tally *t)
{
    sum->states += t->states;
    sum->nested += t->nested;
    sum->looked += t->looked;
    sum->points += t->points;
    sum->stories += t->stories;
    sum->whole += t->whole;
    if (sum->failure[0] == '\0')
        memcpy(sum->failure, t->failure, sizeof sum->failure);
}

/* One process for each job; each tells its tally through a pipe. */
static int job_start(uint64_t seed, unsigned jobs, uint64_t states)
{
    struct tally t;
    ssize_t put;
    int fds[2];
    if (pipe(fds) != 0)
        return -1;
    if (fork() != 0) {
        (void)close(fds[1]);
        return fds[0];
    }
    memset(&t, 0, sizeof t);
    stories_run(seed, jobs, states, &t);
    put = write(fds[1], &t, sizeof t);
    _exit(put == (ssize_t)sizeof t ? 0 : 1);
}

static struct tally jobs_run(uint64_t seed, unsigned jobs, uint64_t states)
{
    struct tally sum, t;
    int fds[64];
    memset(&sum, 0, sizeof sum);
    jobs = jobs < 1 ? 1 : jobs > 64 ? 64 : jobs;
    for (unsigned i = 0; i < jobs; i++)
        fds[i] = job_start(seed + i, jobs, states / jobs + 1);
    for (unsigned i = 0; i < jobs; i++) {
        ssize_t got = fds[i] < 0 ? -1 : read(fds[i], &t, sizeof t);
        if (got != (ssize_t)sizeof t) {
            memset(&t, 0, sizeof t);
            (void)snprintf(t.failure, sizeof t.failure,
                           "a process died, see above");
        }
        tally_add(&sum, &t);
        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
    while (wait(NULL) > 0)
        continue;
    return sum;
}

static void tally_print(const struct tally *t)
{
    printf("crash states tried: %" PRIu64 " (%" PRIu64 " of them of crashed "
           "recoveries), at %" PRIu64 " crash points of %" PRIu64
           " workloads, every state at %" PRIu64 " points; %" PRIu64
           " servers looked at from outside\n",
           t->states, t->nested, t->points, t->stories, t->whole, t->looked);
    if (t->failure[0] != '\0')
        printf("FAILED: %s\n", t->failure);
    (void)fflush(stdout);
}

static void test_every_crash_state_keeps_what_was_promised(void **state)
{
    struct tally t = jobs_run(1, 2, STATES);
    (void)state;
    tally_print(&t);
    assert_string_equal(t.failure, "");
    assert_true(t.states >= STATES);
}

/* ==== the model itself ==================================================== */

static int model_open(struct disk *d, const char *path, int flags)
{
    int fd = d->io.open(d->io.ctx, path, flags, 0600);
    assert_true(fd >= 0);
    return fd;
}

/* A new directory with the files a (1,000 bytes, safe, with its name) and b
 * (600 bytes, its name not safe). */
static struct disk *model_disk(void)
{
    struct disk *d = disk_new(1);
    uint8_t bytes[1000];
    int fd;
    memset(bytes, 'A', sizeof bytes);
    assert_int_equal(d->io.mkdir(d, DISK_DIR, 0700), 0);
    assert_int_equal(d->io.sync_dir(d, DISK_DIR "/.."), 0);
    fd = model_open(d, DISK_DIR "/a", O_RDWR | O_CREAT);
    assert_int_equal(d->io.pwrite(d, fd, bytes, 1000, 0), 1000);
    assert_int_equal(d->io.sync(d, fd), 0);
    assert_int_equal(d->io.sync_dir(d, DISK_DIR), 0);
    memset(bytes, 'B', sizeof bytes);
    assert_int_equal(d->io.pwrite(d, fd, bytes, 600, 1000), 600);
    fd = model_open(d, DISK_DIR "/b", O_RDWR | O_CREAT);
    assert_int_equal(d->io.pwrite(d, fd, bytes, 600, 0), 600);
    return d;
}

static struct states *model_states(const struct disk *d)
{
    struct disk *empty = disk_new(1);
    struct states *s = states_new(empty, d->ops, d->op_count, 7);
    disk_free(empty);
    states_at(s, d->op_count);
    return s;
}

/* What was synced is in every state, what was not is in some. */
static void test_model_synced_is_safe_unsynced_is_not(void **state)
{
    struct disk *d = model_disk();
    struct states *s = model_states(d);
    int lost = 0, kept = 0, odd = 0, named = 0, sizes = 0;
    (void)state;
    for (uint64_t number = 0; number < 2000; number++) {
        struct disk *left = states_make(s, number, 0);
        const struct buf *a = disk_get(left, "a");
        assert_non_null(a);
        assert_in_range(a->n, 1000, 1600);
        for (size_t i = 0; i < 1000; i++)
            assert_int_equal(a->p[i], 'A');
        lost += a->n == 1000;
        kept += a->n == 1600 && a->p[1100] == 'B' && a->p[1599] == 'B';
        odd += a->n == 1600 && a->p[1100] == 'B' && a->p[1599] != 'B';
        sizes += a->n > 1000 && a->n < 1600;
        named += disk_get(left, "b") != NULL;
        disk_free(left);
    }
    assert_true(lost > 50 && kept > 50 && odd > 50 && sizes > 50);
    assert_in_range(named, 500, 1500);
    states_free(s);
    disk_free(d);
}

/* Each change of names for itself: 2 x 2 x 2 states, and they are all met. */
static void test_model_names_are_lost_one_by_one(void **state)
{
    struct disk *d = disk_new(1);
    struct states *s;
    unsigned met = 0;
    (void)state;
    disk_put(d, "old", "x", 1);
    {
        struct disk *base = disk_copy(d);
        (void)model_open(d, DISK_DIR "/new", O_RDWR | O_CREAT);
        assert_int_equal(
            d->io.rename(d, DISK_DIR "/new", DISK_DIR "/moved"), 0);
        assert_int_equal(d->io.unlink(d, DISK_DIR "/old"), 0);
        s = states_new(base, d->ops, d->op_count, 1);
        disk_free(base);
    }
    states_at(s, d->op_count);
    assert_int_equal(states_count(s), 9);
    for (uint64_t number = 1; number < 9; number++) {
        struct disk *left = states_make(s, number, 1);
        unsigned names = (disk_get(left, "new") != NULL) +
                         2u * (disk_get(left, "moved") != NULL) +
                         4u * (disk_get(left, "old") != NULL);
        met |= 1u << names;
        disk_free(left);
    }
    /* none, new, moved; each with old and without */
    assert_int_equal(met, 0x77);
    states_free(s);
    disk_free(d);
}

/* The same triple is the same state. */
static void test_model_states_can_be_made_again(void **state)
{
    struct disk *d = model_disk();
    struct states *s = model_states(d), *t = model_states(d);
    (void)state;
    for (uint64_t number = 0; number < 50; number++) {
        struct disk *a = states_make(s, number, 0);
        struct disk *b = states_make(t, number, 0);
        assert_int_equal(a->now.count, b->now.count);
        for (size_t i = 0; i < a->now.count; i++) {
            const struct buf *x = disk_get(a, a->now.entries[i].name);
            const struct buf *y = disk_get(b, a->now.entries[i].name);
            assert_non_null(y);
            assert_int_equal(x->n, y->n);
            if (x->n > 0)
                assert_memory_equal(x->p, y->p, x->n);
        }
        disk_free(a);
        disk_free(b);
    }
    states_free(s);
    states_free(t);
    disk_free(d);
}

/* What a failed sync was for is not made safe by a later one. */
static void test_model_a_failed_sync_is_final(void **state)
{
    struct disk *d = model_disk();
    int fd = model_open(d, DISK_DIR "/a", O_RDWR);
    (void)state;
    d->fault.calls = DISK_BIT(DISK_SYNC);
    d->fault.nth = 1;
    d->fault.error = EIO;
    assert_int_equal(d->io.sync(d, fd), -1);
    assert_int_equal(errno, EIO);
    assert_int_equal(d->io.sync(d, fd), 0);
    assert_int_equal(d->fault.hits, 1);
    disk_power_cut(d);
    assert_int_equal(disk_get(d, "a")->n, 1000);
    disk_free(d);
}

/* Short writes, writes that fail half done, and a disk without room. */
static void test_model_writes_fail_on_demand(void **state)
{
    struct disk *d = model_disk();
    int fd = model_open(d, DISK_DIR "/b", O_RDWR);
    (void)state;
    d->fault.calls = DISK_BIT(DISK_PWRITE);
    d->fault.nth = 1;
    d->fault.part = 3;
    assert_int_equal(d->io.pwrite(d, fd, "12345", 5, 600), 3);
    d->fault.nth = 2;
    d->fault.error = EINTR;
    assert_int_equal(d->io.pwrite(d, fd, "12345", 5, 603), -1);
    assert_int_equal(errno, EINTR);
    assert_int_equal(disk_get(d, "b")->n, 606);
    d->room = 2;
    assert_int_equal(d->io.pwrite(d, fd, "12345", 5, 606), 2);
    assert_int_equal(d->io.pwrite(d, fd, "12345", 5, 608), -1);
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(d->io.pwrite(d, fd, "12345", 5, 600), 5);
    assert_int_equal(d->io.unlink(d, DISK_DIR "/b"), 0);
    assert_int_equal(d->room, 608);
    disk_free(d);
}

/* ==== main ================================================================ */

static void stamp_print(const char *name, size_t stamp)
{
    if (stamp != NOT_YET)
        printf(" %s=%zu", name, stamp);
}

/* What was asked and told, and when. */
static void story_print(const struct story *s)
{
    for (size_t i = 0; i < s->message_count; i++) {
        const struct message *m = &s->messages[i];
        printf("message %zu of client %d to %s qos %d #%u%s", i, m->from,
               m->topic, m->qos, (unsigned)m->id, m->retain ? " retain" : "");
        stamp_print("asked", m->asked);
        stamp_print("told", m->told);
        stamp_print("finished", m->finished);
        stamp_print("cleared", m->cleared);
        printf("\n");
    }
    for (size_t i = 0; i < s->delivery_count; i++) {
        const struct delivery *d = &s->deliveries[i];
        printf("delivery of message %d to client %d (session %d) qos %d #%u",
               d->message, s->epochs[d->epoch].client, d->epoch, d->qos,
               (unsigned)d->id);
        stamp_print("asked", d->asked);
        stamp_print("sent", d->sent);
        stamp_print("got", d->got);
        stamp_print("released", d->released);
        stamp_print("done", d->done);
        stamp_print("past", d->past_cut);
        printf("\n");
    }
}

/* One state again. */
static int replay(uint64_t seed, size_t at, uint64_t number)
{
    struct tally t;
    struct story *s = story_new(seed, ACTIONS);
    struct disk *empty = disk_new(1);
    struct states *states = states_new(empty, s->disk->ops,
                                       s->disk->op_count, seed);
    struct point *p = (struct point *)mem_new(sizeof *p);
    struct disk *d;
    memset(&t, 0, sizeof t);
    story_print(s);
    printf("%zu operations; %s\n", s->disk->op_count, s->error);
    point_begin(p, s, at, &t);
    states_at(states, at);
    d = states_make(states, number, states_count(states) <= EXHAUSTIVE);
    for (size_t i = 0; i < d->now.count; i++) {
        const struct disk_entry *e = &d->now.entries[i];
        const struct buf *b = &d->files[e->file].now;
        printf("==== %s, %zu bytes\n", e->name, b->n);
        if (strcmp(e->name, "reserve") != 0)
            (void)fwrite(b->p, 1, b->n, stdout);
    }
    printf("====\n");
    hold_state(p, d, number, (number + at) % NESTED_EVERY == 0);
    tally_print(&t);
    disk_free(d);
    free(p);
    states_free(states);
    disk_free(empty);
    story_free(s);
    return t.failure[0] != '\0';
}

static uint64_t argument(int argc, char **argv, int i, uint64_t otherwise)
{
    return i < argc ? strtoull(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_synced_is_safe_unsynced_is_not),
        cmocka_unit_test(test_model_names_are_lost_one_by_one),
        cmocka_unit_test(test_model_states_can_be_made_again),
        cmocka_unit_test(test_model_a_failed_sync_is_final),
        cmocka_unit_test(test_model_writes_fail_on_demand),
        cmocka_unit_test(test_every_crash_state_keeps_what_was_promised),
    };
    struct tally t;
    if (argc > 1 && strcmp(argv[1], "-r") == 0)
        return replay(argument(argc, argv, 2, 1),
                      (size_t)argument(argc, argv, 3, 0),
                      argument(argc, argv, 4, 0));
    if (argc == 1)
        return cmocka_run_group_tests(tests, NULL, NULL);
    t = jobs_run(argument(argc, argv, 2, 1),
                 (unsigned)argument(argc, argv, 3, 2),
                 argument(argc, argv, 1, STATES));
    tally_print(&t);
    return t.failure[0] != '\0';
}
