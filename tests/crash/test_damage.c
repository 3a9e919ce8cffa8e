/*
 * test_damage.c - a store truncated at every byte, with every bit flipped.
 *
 * Two small stores of three segments are made: one that was ended in order
 * (sealed, with an index), and one that was killed (no index).  Of each,
 * every file is truncated at every byte, then removed, and every single bit
 * of it is flipped.  A start on what is left must
 *
 *   - find exactly the state after one of the batches: that of the last one
 *     before the cut, or of the last of all if the damage takes nothing; or
 *   - refuse in one line with the file and the offset of the damaged batch,
 *     and leave the evidence as it is.
 *
 * State is the printed index (world_print()) and what a client gets that
 * comes back for its messages, byte for byte.  With an index, a batch is not
 * read at the start: damage shows at the latest when a body is fetched, and
 * that ends the process with such a line, before the body leaves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "notation.h"
#include "scene.h"

#define STATES 24
#define LATER UINT64_C(60000) /* ms from the end of the store to the start */

/* What a start finds. */
struct found {
    int started;                 /* 0 = refused */
    struct buf text;             /* the printed state; owned */
    struct buf heard;            /* what the clients got; owned */
    struct buf notices;          /* owned */
    int died;                    /* after the start */
    char error[STORE_ERROR_MAX]; /* why refused, or died */
};

/* A store, and the states after each of its batches. */
struct sample {
    const char *name;
    int indexed;                 /* 1 = ended in order */
    struct disk *disk;           /* as its process left it */
    struct found states[STATES]; /* by count of batches */
    struct found again;          /* of a second start after the last one */
    size_t sizes[STATES];        /* bytes of the last segment then, */
    char files[STATES][DISK_NAME]; /* and its name */
    int count;
};

/* Counts of what came out. */
struct tally {
    long tried, whole, prefix, refused, late;
};

/* ==== the store =========================================================== */

static void found_hear(void *arg, int link, const struct mqtt_packet *p)
{
    struct found *f = (struct found *)arg;
    (void)link;
    if (f == NULL)
        return;
    text_packet(&f->heard, p, p->publish.topic);
    f->heard.p[f->heard.n - 1] = '\n';
}

static struct scene *scene_new(struct found *f)
{
    struct scene *s = (struct scene *)mem_new(sizeof *s);
    s->segment_size = 500;
    s->reserve_size = 64;
    s->w.hear = found_hear;
    s->w.arg = f;
    return s;
}

/* One turn: 1 = go on. */
static int say(struct scene *s, int link, const char *words)
{
    if (s->w.links[link].link == NULL)
        world_link_open(&s->w, link);
    world_say(&s->w, link, "%s", words);
    return scene_turn(s) == 0;
}

/* The n-th step of the store's life; 0 = there is none. */
static int life_step(struct scene *s, int n)
{
    switch (n) {
    case 0:
        return say(s, 0, "connect c0 id=s x=100000");
    case 1:
        return say(s, 0, "subscribe #1 a/#,q2");
    case 2:
        world_link_cut(&s->w, 0);
        return say(s, 1, "connect c0 id=p x=100000 "
                         "will q1 a/w =late wdi=90000");
    case 3:
        return say(s, 1, "publish q1 #1 a/1 =first-body");
    case 4:
        return say(s, 1, "publish q2 #2 a/2 =second-body");
    case 5:
        return say(s, 1, "publish q1 retain #3 r/1 =kept");
    case 6:
        return say(s, 0, "connect c0 id=s x=100000");
    case 7:
        return say(s, 0, "pubrec #2 00");
    default:
        return 0;
    }
}

static void sample_note(struct sample *m)
{
    uint32_t top = 0;
    int n = m->count++;
    assert_true(n < STATES);
    for (size_t i = 0; i < m->disk->now.count; i++) {
        const char *name = m->disk->now.entries[i].name;
        uint32_t number = (uint32_t)strtoul(name, NULL, 10);
        if (number > top && strcmp(name + 8, ".log") == 0) {
            top = number;
            (void)snprintf(m->files[n], DISK_NAME, "%s", name);
        }
    }
    m->sizes[n] = disk_get(m->disk, m->files[n])->n;
}

static struct found found_on(struct disk *d);
static void found_free(struct found *f);

/* A sound disk after each step gives the states. */
static void sample_make(struct sample *m, const char *name, int indexed)
{
    struct scene *s = scene_new(NULL);
    struct disk *d;
    memset(m, 0, sizeof *m);
    m->name = name;
    m->indexed = indexed;
    m->disk = disk_new(3);
    assert_int_equal(scene_open(s, m->disk, SCENE_T0), 0);
    for (int n = -1; n < 0 || life_step(s, n); n++) {
        d = disk_copy(m->disk);
        assert_false(s->dead);
        sample_note(m);
        m->states[m->count - 1] = found_on(d);
        assert_true(m->states[m->count - 1].started);
        assert_false(m->states[m->count - 1].died);
        disk_free(d);
    }
    if (indexed) {
        assert_int_equal(scene_stop(s), 0);
        d = disk_copy(m->disk);
        sample_note(m);
        m->states[m->count - 1] = found_on(d);
        disk_free(d);
    }
    scene_free(s);
    free(s);
    d = disk_copy(m->disk);
    m->again = found_on(d);
    found_free(&m->again);
    m->again = found_on(d);
    disk_free(d);
}

static void sample_free(struct sample *m)
{
    for (int i = 0; i < m->count; i++)
        found_free(&m->states[i]);
    found_free(&m->again);
    disk_free(m->disk);
}

/* ==== a start ============================================================= */

static void found_free(struct found *f)
{
    buf_free(&f->text);
    buf_free(&f->heard);
    buf_free(&f->notices);
}

/* Both clients come back, and a third asks for what is retained. */
static void found_ask(struct scene *s)
{
    static const char *const asked[] = {
        "connect c0 id=s x=100000", "connect c0 id=p x=100000",
        "connect c1 id=n", "subscribe #1 r/#,q1"};
    static const int links[] = {0, 1, 2, 2};
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++)
        if (!s->dead)
            (void)say(s, links[i], asked[i]);
}

static struct found found_on(struct disk *d)
{
    struct found f;
    struct scene *s;
    struct buf full = {NULL, 0, 0, 0};
    memset(&f, 0, sizeof f);
    s = scene_new(&f);
    f.started = scene_open(s, d, SCENE_T0 + LATER) == 0;
    if (f.started) {
        if (world_print(&s->w, &f.text, &full) == 0)
            found_ask(s);
        f.died = s->dead || store_error(s->w.store) != NULL;
    }
    (void)snprintf(f.error, sizeof f.error, "%s", s->w.error);
    buf_add(&f.notices, s->notices.p, s->notices.n);
    scene_free(s);
    free(s);
    buf_free(&full);
    return f;
}

/* ==== what it must be ===================================================== */

/* One damage. */
struct damage {
    const struct sample *sample;
    const char *file;
    size_t at;   /* the byte */
    int bit;     /* that is flipped; -1 = truncated here, -2 = removed */
};

static void damage_fail(const struct damage *x, const struct found *f,
                        const char *why)
{
    printf("%s, %s, %s %zu", x->sample->name, x->file,
           x->bit == -2 ? "removed" : x->bit < 0 ? "truncated to" : "byte",
           x->at);
    if (x->bit >= 0)
        printf(" bit %d", x->bit);
    printf(": %s\n%s [%s]\n%.*s\n%.*s\n", why,
           f->started ? "started" : "refused", f->error, (int)f->text.n,
           (const char *)f->text.p, (int)f->heard.n,
           (const char *)f->heard.p);
    (void)fflush(stdout);
    _exit(1);
}

static int buf_same(const struct buf *a, const struct buf *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->p, b->p, a->n) == 0);
}

static int is_log(const char *file)
{
    return strlen(file) > 4 && strcmp(file + strlen(file) - 4, ".log") == 0;
}

/* The last state that was there when the file was no longer than this, or was
 * not there: -1 = none, its first line is cut. */
static int state_before(const struct damage *x)
{
    const struct buf *b = disk_get(x->sample->disk, x->file);
    const uint8_t *line = (const uint8_t *)memchr(b->p, '\n', b->n);
    int here = 1, best = -1;
    if (x->bit == -1 && x->at <= (size_t)(line - b->p))
        return -1;
    for (int i = 0; i < x->sample->count; i++) {
        here = strcmp(x->sample->files[i], x->file) == 0;
        if (!here || (x->bit == -1 && x->sample->sizes[i] <= x->at))
            best = i;
    }
    return best;
}

/* Where the damaged batch begins (0: it is the first line). */
static size_t batch_start_at(const struct damage *x, size_t at)
{
    const struct buf *b = disk_get(x->sample->disk, x->file);
    size_t start = 0, line = 0;
    for (size_t i = 0; i < at && i < b->n; i++)
        if (b->p[i] == '\n') {
            int head = line == 0 ||
                       (i - line > 7 && memcmp(b->p + line, "commit ", 7) == 0);
            line = i + 1;
            start = head ? line : start;
        }
    return start;
}

static size_t batch_start(const struct damage *x)
{
    return batch_start_at(x, x->at);
}

/* Is the damage in the last batch of all, the only one that can be torn? */
static int in_last_batch(const struct damage *x)
{
    const struct sample *m = x->sample;
    size_t last = disk_get(m->disk, x->file)->n - 1;
    return strcmp(x->file, m->files[m->count - 1]) == 0 &&
           batch_start(x) == batch_start_at(x, last);
}

/* A line with the file and the offset of the damaged batch.  A segment of a
 * newer format and one that is missing have no offset; of synced batches that
 * are lost, the index knows. */
static void line_check(const struct damage *x, const struct found *f)
{
    char words[100];
    const char *e = f->error;
    (void)snprintf(words, sizeof words, DISK_DIR "/%s: offset ", x->file);
    if (strchr(e, '\n') != NULL)
        damage_fail(x, f, "more than one line");
    if (strncmp(e, words, strlen(words)) == 0) {
        size_t at = strtoul(e + strlen(words), NULL, 10);
        if (at == batch_start(x) || (at > batch_start(x) && at <= x->at &&
                                     strstr(e, "the body here") != NULL))
            return;
    }
    (void)snprintf(words, sizeof words, DISK_DIR "/%s: ", x->file);
    if (strncmp(e, words, strlen(words)) == 0 &&
        ((x->at == 9 && strstr(e, "newer format") != NULL) ||
         (x->bit == -2 && strstr(e, "this segment is missing") != NULL)))
        return;
    /* cut between two batches: only the next segment can tell */
    if (x->bit == -1 && strncmp(e, DISK_DIR "/0", 6) == 0 &&
        strstr(e, ": batches are missing before this one") != NULL)
        return;
    if (x->sample->indexed && strncmp(e, DISK_DIR "/index: knows batch ",
                                      strlen(DISK_DIR) + 20) == 0)
        return;
    damage_fail(x, f, "refused, but not with the file and its offset");
}

/* The damaged file is kept as it is, and so are all but the last segment of
 * the log, which a start moves before it has read all the others. */
static void evidence_check(const struct damage *x, const struct found *f,
                           const struct disk *before, const struct disk *after)
{
    const char *last = x->sample->files[x->sample->count - 1];
    for (size_t i = 0; i < before->now.count; i++) {
        const char *name = before->now.entries[i].name;
        const struct buf *b = disk_get(after, name);
        if (strcmp(name, "lock") == 0 ||
            (strcmp(name, last) == 0 && strcmp(name, x->file) != 0))
            continue;
        if (b == NULL || !buf_same(b, disk_get(before, name)))
            damage_fail(x, f, "refused, but it changed a file");
    }
}

/* Died of a body: only of one that the index told of, and what was heard by
 * then is as it should be. */
static void late_check(const struct damage *x, const struct found *f,
                       const struct found *whole)
{
    char words[100];
    (void)snprintf(words, sizeof words, DISK_DIR "/%s: offset ", x->file);
    if (!x->sample->indexed || !is_log(x->file) ||
        strncmp(f->error, words, strlen(words)) != 0 ||
        strchr(f->error, '\n') != NULL)
        damage_fail(x, f, "died");
    if (f->heard.n > whole->heard.n ||
        (f->heard.n > 0 &&
         memcmp(f->heard.p, whole->heard.p, f->heard.n) != 0))
        damage_fail(x, f, "something else was heard before it died");
}

/* A start that worked found one of the states. */
static void started_check(const struct damage *x, const struct found *f,
                          struct tally *t)
{
    int last = x->sample->count - 1, expected = last;
    int torn = scene_has(&f->notices, "the last batch is torn");
    const struct found *state;
    if (is_log(x->file) && x->bit < 0)
        expected = state_before(x);
    if (is_log(x->file) && x->bit >= 0 && torn)
        expected--; /* only the last batch is taken for a tear */
    if (expected < 0)
        damage_fail(x, f, "started without a sound first line");
    if (is_log(x->file) && x->bit < 0 &&
        strcmp(x->file, x->sample->files[last]) != 0)
        damage_fail(x, f, "started without a part of its middle");
    state = &x->sample->states[expected];
    if (!buf_same(&f->text, &state->text))
        damage_fail(x, f, "not the right state");
    if (f->died) {
        late_check(x, f, state);
        t->late++;
    } else if (!buf_same(&f->heard, &state->heard)) {
        damage_fail(x, f, "not what the clients must get");
    }
    if (expected < last && x->bit >= 0 && !in_last_batch(x))
        damage_fail(x, f, "rot was taken for a tear");
    if (expected < last && x->bit == -1 && !torn && x->at != batch_start(x))
        damage_fail(x, f, "a tear was cut without a word");
    if (strcmp(x->file, "index") == 0 && x->bit != -2 &&
        !scene_has(&f->notices, "index: not used"))
        damage_fail(x, f, "a damaged index was used");
    *(expected < last ? &t->prefix : &t->whole) += 1;
}

/* After a start that worked, the index stands again and is used. */
static void index_check(const struct damage *x, struct disk *d)
{
    struct found again;
    again = found_on(d);
    if (!again.started || scene_has(&again.notices, "index: not used"))
        damage_fail(x, &again, "the index was not rebuilt");
    if (!buf_same(&again.text, &x->sample->again.text) ||
        !buf_same(&again.heard, &x->sample->again.heard))
        damage_fail(x, &again, "the rebuilt index tells something else");
    found_free(&again);
}

/* Damages a copy of the disk, and starts on it. */
static void damage_try(const struct damage *x, struct tally *t)
{
    struct disk *d = disk_copy(x->sample->disk), *before;
    const struct buf *b = disk_get(d, x->file);
    struct buf bytes = {NULL, 0, 0, 0};
    struct found f;
    buf_add(&bytes, b->p, b->n);
    if (x->bit >= 0)
        bytes.p[x->at] ^= (uint8_t)(1 << x->bit);
    disk_remove(d, x->file);
    if (x->bit != -2)
        disk_put(d, x->file, bytes.p, x->bit == -1 ? x->at : bytes.n);
    before = disk_copy(d);
    f = found_on(d);
    t->tried++;
    if (f.started) {
        started_check(x, &f, t);
        if (strcmp(x->file, "index") == 0 && x->bit <= 0)
            index_check(x, d);
    } else {
        line_check(x, &f);
        evidence_check(x, &f, before, d);
        if (!is_log(x->file))
            damage_fail(x, &f, "refused, though the log is sound");
        t->refused++;
    }
    found_free(&f);
    disk_free(before);
    disk_free(d);
    buf_free(&bytes);
}

/* ==== all of it =========================================================== */

/* Every damage of every file, in a process of its own. */
static pid_t sample_run(const char *name, int indexed, int part, int parts)
{
    struct sample m;
    struct tally t = {0, 0, 0, 0, 0};
    pid_t child;
    (void)fflush(stdout);
    child = fork();
    if (child != 0)
        return child;
    sample_make(&m, name, indexed);
    for (size_t i = 0; i < m.disk->now.count; i++) {
        struct damage x = {&m, m.disk->now.entries[i].name, 0, -2};
        size_t size = disk_get(m.disk, x.file)->n;
        if (part == 0)
            damage_try(&x, &t);
        for (x.at = (size_t)part; x.at < size; x.at += (size_t)parts)
            for (x.bit = -1; x.bit < 8; x.bit++)
                damage_try(&x, &t);
    }
    printf("%s: damages tried: %ld; whole state %ld (%ld with a body that "
           "was refused when fetched), the right prefix %ld, refused %ld\n",
           name, t.tried, t.whole, t.late, t.prefix, t.refused);
    (void)fflush(stdout);
    sample_free(&m);
    _exit(0);
}

static void test_every_byte_and_every_bit(void **state)
{
    pid_t children[2];
    (void)state;
    children[0] = sample_run("ended in order", 1, 0, 1);
    children[1] = sample_run("killed", 0, 0, 1);
    for (int i = 0; i < 2; i++) {
        int status = -1;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

/* The stores hold what the test is about. */
static void test_the_stores_are_worth_it(void **state)
{
    struct sample m;
    const struct found *f;
    (void)state;
    for (int indexed = 0; indexed < 2; indexed++) {
        sample_make(&m, "a sample", indexed);
        f = &m.states[m.count - 1];
        printf("%.*s%.*s%d states, %s %zu\n", (int)f->text.n,
               (const char *)f->text.p, (int)f->heard.n,
               (const char *)f->heard.p, m.count, m.files[m.count - 1],
               m.sizes[m.count - 1]);
        assert_true(scene_has(&f->heard, "first-body"));
        assert_true(scene_has(&f->heard, "kept"));
        assert_true(scene_has(&f->heard, "pubrel #2"));
        assert_true(m.disk->now.count >= 5);
        assert_int_equal(disk_get(m.disk, "index") != NULL, indexed);
        for (int i = 1; i < m.count - indexed; i++)
            assert_false(buf_same(&m.states[i].text, &m.states[i - 1].text));
        sample_free(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_stores_are_worth_it),
        cmocka_unit_test(test_every_byte_and_every_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
