/*
 * test_audit.c - the ledger read without a broker (audit.h): what an audit
 * tells, that it writes nothing and disturbs nobody, that it agrees with what
 * a start would say, and what a salvage keeps.
 *
 *   1. Tools      looking, starting, salvaging; records to compare
 *   2. Contents   what the ledger holds, in words
 *   3. Damage     every byte flipped, every length, bad sectors, lost files
 *   4. Company    beside a writer that appends, rotates and cleans
 *   5. Program    holdfast -a, -a -a and -r
 *
 * With an argument, every bit of each byte is flipped instead of one.
 */
#include "bench.h"
#include "client.h"
#include "store_world.h"

#include <signal.h>
#include <sys/wait.h>

#include "audit.h"

/* ============================ 1. Tools =================================== */

static int every_bit; /* 1 = flip each bit of a byte, one after the other */

/* What a look at a store has found. */
struct look {
    char err[STORE_ERROR_MAX]; /* why it could not be opened; "" = it could */
    struct buf shown;          /* batches and records, a line each */
    struct buf faults;         /* a line each */
    struct buf lost;           /* a line each */
    struct buf told;           /* the report */
    int salvaged;              /* what store_salvage() returned */
};

static void buf_end(struct buf *b)
{
    buf_add(b, "", 1);
}

static void look_free(struct look *l)
{
    buf_free(&l->shown);
    buf_free(&l->faults);
    buf_free(&l->lost);
    buf_free(&l->told);
}

static const char *text(const struct buf *b)
{
    return (const char *)b->p;
}

/* POSIX without its syncs. */
static int no_sync(void *ctx, int fd)
{
    (void)ctx;
    (void)fd;
    return 0;
}

static int no_sync_dir(void *ctx, const char *path)
{
    (void)ctx;
    (void)path;
    return 0;
}

static struct store_io quick_io(void)
{
    struct store_io io = store_io_posix;
    io.sync = no_sync;
    io.sync_dir = no_sync_dir;
    return io;
}

static struct store_options options_for(const char *dir,
                                        const struct store_io *io)
{
    struct store_options o = {dir, io, 256 * KIB, 4 * KIB};
    return o;
}

/* Reads all of the store and, if `to` is given, salvages it. */
static struct look look_io(const char *dir, const struct store_io *io,
                           uint64_t now, const char *to)
{
    struct store_options options = options_for(dir, io);
    struct session_options opt;
    struct session_audit *a;
    struct look l;
    const struct buf *faults;
    struct store *st;
    memset(&l, 0, sizeof l);
    session_options_default(&opt);
    st = store_audit(&options, now, 1, l.err);
    if (st != NULL) {
        a = session_audit_open(st, &opt, now);
        while (session_audit_read(a) > 0)
            continue;
        assert_null(store_error(st));
        faults = store_faults(st);
        buf_add(&l.faults, faults->p, faults->n);
        buf_add(&l.shown, store_shown(st)->p, store_shown(st)->n);
        buf_add(&l.lost, session_audit_lost(a)->p, session_audit_lost(a)->n);
        store_report(st, &l.told);
        while (session_audit_report(a, &l.told))
            continue;
        l.salvaged = to != NULL ? store_salvage(st, to) : 0;
        session_audit_close(a);
        store_close(st, 0);
    }
    buf_end(&l.shown);
    buf_end(&l.faults);
    buf_end(&l.lost);
    buf_end(&l.told);
    return l;
}

static struct look look_at(const char *dir, uint64_t now)
{
    return look_io(dir, NULL, now, NULL);
}

static int look_sound(const struct look *l)
{
    return l->err[0] == '\0' && text(&l->faults)[0] == '\0';
}

#define told(l, what) told_at(l, what, __LINE__)
static void told_at(const struct look *l, const char *what, int line)
{
    if (strstr(text(&l->told), what) == NULL)
        fail_msg("line %d: no \"%s\" in:\n%s", line, what, text(&l->told));
}

/* Would a broker start on this store?  It is changed by that. */
static int starts(const char *dir, uint64_t now, char err[STORE_ERROR_MAX])
{
    struct store_io io = quick_io();
    struct store_options options = options_for(dir, &io);
    struct session_options opt;
    struct session_server *server;
    struct store *st = store_open(&options, now, err);
    int good;
    if (st == NULL)
        return 0;
    session_options_default(&opt);
    server = session_server_open(st, &opt, now);
    if (server == NULL)
        (void)snprintf(err, STORE_ERROR_MAX, "%s", store_error(st));
    good = server != NULL && store_commit(st, now) == 0;
    store_close(st, 0);
    if (server != NULL)
        session_server_close(server);
    return good;
}

/* A record among those that were shown, without time and place. */
struct line {
    const char *p; /* "batch 3: ..." or "kind key=value ..." */
    size_t n;
    uint64_t batch; /* in which it stands */
};

/* The next of them from *p on; 0 = no more. */
static int line_next(const char **p, struct line *line)
{
    const char *end = strchr(*p, '\n'), *log;
    if (end == NULL)
        return 0;
    log = strstr(*p, ".log:");
    assert_non_null(log);
    line->p = strchr(log, ' ');
    while (*line->p == ' ')
        line->p++;
    line->n = (size_t)(end - line->p);
    if (strncmp(line->p, "batch ", 6) == 0)
        line->batch = strtoull(line->p + 6, NULL, 10);
    *p = end + 1;
    return 1;
}

/* Do the faults say that this batch is lost? */
static int batch_lost(const char *faults, uint64_t batch)
{
    if (strstr(faults, "offset 136: no batch here can be proven") != NULL)
        return 1; /* the first line is bad just where the salt stands */
    for (const char *p = strchr(faults, ';'); p != NULL;
         p = strchr(p + 1, ';')) {
        unsigned long long from = 0, to = 0;
        if (sscanf(p, "; batch %llu is lost", &from) == 1)
            to = from;
        else if (sscanf(p, "; batches %llu to %llu", &from, &to) != 2 &&
                 sscanf(p, "; the batches up to %llu", &to) != 1)
            continue;
        if (batch >= from && batch <= to)
            return 1;
    }
    return 0;
}

/* All records that were shown, but for those of batches that are lost. */
static struct buf records_but(const struct look *l, const char *faults)
{
    struct buf out;
    struct line line = {NULL, 0, 0};
    const char *p = text(&l->shown);
    memset(&out, 0, sizeof out);
    while (line_next(&p, &line)) {
        if (strncmp(line.p, "batch ", 6) == 0 ||
            strncmp(line.p, "LOST? ", 6) == 0 ||
            batch_lost(faults, line.batch))
            continue;
        buf_add(&out, line.p, line.n);
        buf_text(&out, "\n");
    }
    buf_end(&out);
    return out;
}

/* ============================ 2. Contents ================================ */

/* Sessions of every kind, and messages in every stage. */
static void story(struct bench *t)
{
    struct bench_link *r, *p, *w;
    r = bench_meet(t, "c0 id=robust x=86400");
    bench_say(r, "subscribe #1 sensor/+,q2 a/b,q1");
    bench_hear(r, "suback #1 02 01");
    p = bench_meet(t, "c1 id=side");
    bench_say(p, "publish q1 #9 a/b =flying");
    bench_hear(p, "puback #9 00");
    bench_hear(r, "publish q1 #* a/b =flying");
    bench_cut(r);
    w = bench_meet(t, "c0 id=willing x=3600");
    bench_say(w, "publish q2 #77 nobody =x");
    bench_hear(w, "pubrec #77 *");
    bench_say(p, "publish q1 #10 sensor/one ={\"t\":25.5}");
    bench_hear(p, "puback #10 00");
    bench_say(p, "publish q1 #11 sensor/two =later mei=60");
    bench_hear(p, "puback #11 00");
    bench_say(p, "publish q0 sensor/three =light");
    bench_say(p, "publish q1 retain #12 kept/here =stays");
    bench_hear(p, "puback #12 *");
    bench_turn(t);
}

static void test_audit_tells_what_the_ledger_holds(void **state)
{
    struct bench *t = *state;
    struct look l;
    story(t);
    bench_advance(t, 65000);
    l = look_at(t->dir, t->now);
    assert_true(look_sound(&l));
    assert_string_equal(text(&l.lost), "");
    told(&l, "2 sessions (1 online), 2 subscriptions");
    told(&l, "session 1, client \"robust\": offline since 2023-11-14 22:13:20");
    told(&l, "for 1 min 5 s; expiry 86400 s, left 23 h 58 min");
    told(&l, "  subscription \"sensor/+\" QoS 2\n");
    told(&l, "  subscription \"a/b\" QoS 1\n");
    told(&l, "  queue: 3 messages, ");
    told(&l, "the oldest 1 min 5 s old, the newest 1 min 5 s; 1 at QoS 0; 1 "
             "have expired\n");
    told(&l, "  sent, not acknowledged: 1 messages, ");
    told(&l, "    Packet Identifiers 1\n");
    told(&l, "session 2, client \"willing\": online; expiry 3600 s\n");
    told(&l, "  received at QoS 2, not released: 77\n");
    told(&l, "retained on \"kept/here\": QoS 1, ");
    told(&l, "1 segments of ");
    told(&l, ", all sound\n");
    assert_non_null(strstr(text(&l.shown), "2023-11-14 22:13:20.000 UTC "
                                           "00000001.log:"));
    assert_non_null(strstr(text(&l.shown), " session id=1 client=robust "));
    look_free(&l);
}

static void test_audit_tells_what_has_run_out(void **state)
{
    struct bench *t = *state;
    struct look l;
    struct bench_link *w =
        bench_meet(t, "c0 id=w x=600 will q1 w/gone =bye");
    bench_turn(t);
    l = look_at(t->dir, t->now);
    told(&l, "  will on \"w/gone\" QoS 1, 3 bytes, delay 0 s\n");
    look_free(&l);
    bench_cut(w);
    story(t);
    l = look_at(t->dir, t->now + 90000);
    told(&l, "queue: 3 messages, ");
    told(&l, "\"willing\": online when the broker ended, ");
    look_free(&l);
    l = look_at(t->dir, t->now + 86400000u + 1000);
    told(&l, "has passed: the next start ends it");
    look_free(&l);
}

/* Neither beside the writer nor on a copy is anything written. */
static void test_audit_writes_nothing(void **state)
{
    struct bench *t = *state;
    struct name copy = dir_new(), file, log;
    struct look here, there;
    struct buf before, after;
    int files, again;
    uint64_t bytes;
    story(t);
    bytes = dir_bytes(t->dir, &files);
    log = segment_name(t->dir, 1);
    before = file_get(log.s);
    dir_copy(t->dir, copy.s);
    file = name_of(copy.s, "lock");
    assert_int_equal(unlink(file.s), 0);
    here = look_at(t->dir, t->now);
    assert_int_equal(bytes, dir_bytes(t->dir, &again));
    assert_int_equal(files, again);
    after = file_get(log.s);
    assert_int_equal(before.n, after.n);
    assert_memory_equal(before.p, after.p, before.n);
    assert_int_equal(chmod(copy.s, 0500), 0);
    there = look_at(copy.s, t->now);
    assert_false(file_there(copy.s, "lock"));
    assert_int_equal(chmod(copy.s, 0700), 0);
    assert_true(look_sound(&here) && look_sound(&there));
    assert_string_equal(text(&here.shown), text(&there.shown));
    assert_string_equal(strstr(text(&here.told), "sessions ("),
                        strstr(text(&there.told), "sessions ("));
    buf_free(&before);
    buf_free(&after);
    look_free(&here);
    look_free(&there);
    dir_remove(copy.s);
}

/* ============================ 3. Damage ================================== */

/* Cut anywhere, the log ends with a torn batch: sound, for a start too. */
static void test_audit_calls_a_torn_end_sound(void **state)
{
    struct bench *t = *state;
    struct name copy = dir_new(), log = segment_name(t->dir, 1), to;
    struct buf whole;
    char err[STORE_ERROR_MAX];
    story(t);
    whole = file_get(log.s);
    to = name_of(copy.s, "00000001.log");
    for (size_t n = 0; n < whole.n; n++) {
        struct look l;
        dir_empty(copy.s);
        file_put(to.s, whole.p, n);
        l = look_at(copy.s, t->now);
        assert_int_equal(look_sound(&l), starts(copy.s, t->now, err));
        assert_int_equal(look_sound(&l), n >= 136);
        if (n == whole.n - 1)
            told(&l, "the last batch is torn or just being written");
        look_free(&l);
    }
    buf_free(&whole);
    dir_remove(copy.s);
}

/* The faults' first line must name the place that the start names. */
static void same_place(const struct look *l, const char *err)
{
    const char *at = strstr(err, "offset ");
    size_t n;
    if (strstr(err, "newer format") != NULL)
        at = "offset 0:";
    assert_non_null(at);
    n = (size_t)(strchr(at, ':') - at);
    if (strncmp(strstr(text(&l->faults), "offset "), at, n) != 0)
        fail_msg("start: %s\naudit: %s", err, text(&l->faults));
}

/* What is saved from a damaged store is all but the batches that the audit
 * lists, and a broker starts on it. */
static void salvaged(const struct look *whole, const char *dir, uint64_t now,
                     const struct look *bad)
{
    char err[STORE_ERROR_MAX];
    struct look l = look_at(dir, now);
    struct buf expected = records_but(whole, text(&bad->faults));
    struct buf got = records_but(&l, "");
    assert_int_equal(bad->salvaged, 0);
    assert_true(look_sound(&l));
    assert_string_equal(text(&expected), text(&got));
    if (!starts(dir, now, err))
        fail_msg("what was saved does not start: %s", err);
    buf_free(&expected);
    buf_free(&got);
    look_free(&l);
}

/* One damaged copy: the audit says what the start says; all else is saved.
 * Returns 1 if it was found rotten. */
static int damaged(const struct look *whole, const char *dir, const char *to,
                   uint64_t now)
{
    struct store_io io = quick_io();
    struct look l = look_io(dir, &io, now, to);
    char err[STORE_ERROR_MAX];
    int sound = look_sound(&l);
    assert_string_equal(l.err, "");
    assert_int_equal(sound, starts(dir, now, err));
    if (!sound) {
        same_place(&l, err);
        salvaged(whole, to, now, &l);
    }
    dir_remove(to);
    look_free(&l);
    return !sound;
}

static void test_audit_agrees_with_the_start_on_every_flipped_byte(void **state)
{
    struct bench *t = *state;
    struct name copy = dir_new(), saved = dir_new(), file, to;
    struct buf bytes;
    struct look whole;
    int rotten = 0;
    story(t);
    whole = look_at(t->dir, t->now);
    assert_true(look_sound(&whole));
    file = segment_name(t->dir, 1);
    bytes = file_get(file.s);
    file = name_of(copy.s, "00000001.log");
    to = name_of(saved.s, "new");
    for (size_t i = 0; i < bytes.n * 8; i++) {
        if (!every_bit && i % 8 != i / 8 % 8)
            continue;
        bytes.p[i / 8] ^= (uint8_t)(1u << i % 8);
        dir_empty(copy.s);
        file_put(file.s, bytes.p, bytes.n);
        rotten += damaged(&whole, copy.s, to.s, t->now);
        bytes.p[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    assert_true(rotten > 1000);
    look_free(&whole);
    buf_free(&bytes);
    dir_remove(copy.s);
    dir_remove(saved.s);
}

/* Two stretches are two faults; what is readable in them is told. */
static void test_audit_goes_on_past_each_bad_batch(void **state)
{
    struct bench *t = *state;
    struct name copy = dir_new(), saved = dir_new(), to, file;
    struct store_io io = quick_io();
    struct buf b;
    struct look l, whole, kept;
    const char *second;
    story(t);
    bench_advance(t, 65000); /* the writer lives on and writes no batch */
    whole = look_at(t->dir, t->now);
    dir_copy(t->dir, copy.s);
    file = segment_name(copy.s, 1);
    b = file_get(file.s);
    b.p[bytes_find_last(&b, "filter=a/b")] ^= 1;
    b.p[bytes_find_last(&b, "25.5")] ^= 1;
    file_put(file.s, b.p, b.n);
    to = name_of(saved.s, "new");
    l = look_io(copy.s, &io, t->now, to.s);
    second = strchr(text(&l.faults), '\n') + 1;
    assert_non_null(strstr(text(&l.faults), "/00000001.log: offset "));
    assert_non_null(strstr(second, "/00000001.log: offset "));
    assert_string_equal(strchr(second, '\n'), "\n");
    assert_non_null(strstr(text(&l.lost), "perhaps a subscription, session 1, "
                                          "client \"robust\""));
    assert_non_null(strstr(text(&l.lost),
                           "perhaps a message, message 2, topic \"sensor/one\""
                           ", session 1, client \"robust\", delivery 1\n"));
    told(&l, "DAMAGED in 2 places");
    kept = look_at(to.s, t->now);
    told(&kept, "alive at 2023-11-14 22:14:25.");
    look_free(&kept);
    salvaged(&whole, to.s, t->now, &l);
    dir_remove(to.s);
    look_free(&l);
    look_free(&whole);
    buf_free(&b);
    dir_remove(copy.s);
    dir_remove(saved.s);
}

/* A disk that does not give its bytes back. */
struct sector {
    struct store_io io;
    off_t from, to; /* cannot be read */
};

static ssize_t sector_pread(void *ctx, int fd, void *p, size_t n, off_t at)
{
    const struct sector *s = ctx;
    if (at < s->to && at + (off_t)n > s->from) {
        errno = EIO;
        return -1;
    }
    return pread(fd, p, n, at);
}

static void test_audit_goes_on_past_a_bad_sector(void **state)
{
    struct bench *t = *state;
    struct name saved = dir_new(), to;
    struct sector s;
    struct look l, whole;
    struct bench_link *p;
    story(t);
    p = bench_meet(t, "c1 id=bulk");
    for (int i = 1; i <= 200; i++) {
        bench_say(p, "publish q1 #%d sensor/bulk =a-payload-that-takes-room",
                  i);
        bench_hear(p, "puback #%d *", i);
    }
    whole = look_at(t->dir, t->now);
    memset(&s, 0, sizeof s);
    s.io = quick_io();
    s.io.ctx = &s;
    s.io.pread = sector_pread;
    s.from = 8192;
    s.to = 8704;
    to = name_of(saved.s, "new");
    l = look_io(t->dir, &s.io, t->now, to.s);
    assert_string_equal(l.err, "");
    assert_non_null(strstr(text(&l.faults), "/00000001.log: offset "));
    assert_non_null(strstr(text(&l.faults), "are lost\n"));
    salvaged(&whole, to.s, t->now, &l);
    dir_remove(to.s);
    dir_remove(saved.s);
    look_free(&l);
    look_free(&whole);
}

/* Segments of 4 KiB, several of them, all things alive. */
static struct world *many_segments(const char *dir)
{
    struct world *w = world_new(4 * KIB);
    assert_int_equal(world_open(w, dir), 0);
    for (uint64_t id = 0; id < 60; id++) {
        thing_put(w, id, id + 1, STORE_NOW);
        assert_int_equal(world_commit(w), 0);
    }
    return w;
}

/* Reads a store of things to its end; the faults, to be freed. */
static char *world_faults(const char *dir, const char *to)
{
    struct world *w = world_new(4 * KIB);
    struct store_options options = {dir, &w->fault.io, 4 * KIB, 8 * KIB};
    struct store_record rec;
    const struct buf *faults;
    struct buf out;
    w->st = store_audit(&options, T0, 0, w->err);
    assert_non_null(w->st);
    while (store_replay_next(w->st, &rec) == 1)
        if (!rec.lost)
            world_apply(w, &rec);
    assert_null(store_error(w->st));
    memset(&out, 0, sizeof out);
    faults = store_faults(w->st);
    buf_add(&out, faults->p, faults->n);
    buf_end(&out);
    if (to != NULL)
        assert_int_equal(store_salvage(w->st, to), 0);
    world_free(w);
    return (char *)out.p;
}

/* How many things a start finds there. */
static int things_in(const char *dir)
{
    struct world *w = world_new(4 * KIB);
    int n = 0;
    if (world_open(w, dir) < 0)
        fail_msg("%s", w->err);
    for (int i = 0; i < THINGS; i++)
        n += w->things[i].there;
    world_free(w);
    return n;
}

static void test_audit_names_a_segment_that_is_gone(void **state)
{
    struct name dir = dir_new(), saved = dir_new(), to, file;
    struct world *w = many_segments(dir.s);
    char *faults;
    int n;
    (void)state;
    world_close(w, 1);
    world_free(w);
    file = name_of(dir.s, "00000002.log");
    assert_int_equal(unlink(file.s), 0);
    to = name_of(saved.s, "new");
    faults = world_faults(dir.s, to.s);
    assert_non_null(strstr(faults, "/00000002.log: offset 0: this segment is "
                                   "missing\n"));
    assert_non_null(strstr(faults, "/00000003.log: offset 136: batches are "
                                   "missing before this one; batches "));
    free(faults);
    n = things_in(to.s);
    assert_true(n > 30 && n < 60);
    dir_remove(to.s);
    dir_remove(saved.s);
    dir_remove(dir.s);
}

/* The salt is still there to prove each batch: nothing else is lost. */
static void damaged_first_line(size_t at)
{
    struct name dir = dir_new(), saved = dir_new(), to, file;
    struct world *w = many_segments(dir.s);
    struct buf b;
    char *faults;
    world_close(w, 1);
    world_free(w);
    file = segment_name(dir.s, 1);
    b = file_get(file.s);
    b.p[at] ^= 1;
    file_put(file.s, b.p, b.n);
    to = name_of(saved.s, "new");
    faults = world_faults(dir.s, to.s);
    assert_non_null(strstr(faults, "offset 0: the first line is not valid; "
                                   "damaged up to offset 136, 136 bytes\n"));
    assert_int_equal(things_in(to.s), 60);
    free(faults);
    buf_free(&b);
    dir_remove(to.s);
    dir_remove(saved.s);
    dir_remove(dir.s);
}

static void test_salvage_proves_batches_under_a_damaged_first_line(void **state)
{
    (void)state;
    damaged_first_line(0);  /* the word `holdfast` */
    damaged_first_line(20); /* the store's name */
}

/* After cleaning the oldest segments are gone, rightly: the new store begins
 * with its first. */
static void test_salvage_of_a_store_that_was_cleaned(void **state)
{
    struct name dir = dir_new(), saved = dir_new(), to;
    struct world *w = many_segments(dir.s);
    char *faults;
    (void)state;
    for (uint64_t i = 0; i < 600; i++) {
        thing_put(w, i % 60, i, STORE_NOW);
        (void)world_clean(w);
        assert_int_equal(world_commit(w), 0);
    }
    assert_false(file_there(dir.s, "00000001.log"));
    world_close(w, 1);
    world_free(w);
    to = name_of(saved.s, "new");
    faults = world_faults(dir.s, to.s);
    assert_string_equal(faults, "");
    free(faults);
    assert_int_equal(things_in(to.s), 60);
    dir_remove(to.s);
    dir_remove(saved.s);
    dir_remove(dir.s);
}

static void test_audit_names_a_segment_of_another_store(void **state)
{
    struct name dir = dir_new(), other = dir_new(), from, file;
    struct world *w = many_segments(dir.s);
    struct buf b;
    char *faults;
    (void)state;
    world_free(w);
    w = many_segments(other.s);
    world_free(w);
    from = name_of(other.s, "00000002.log");
    file = name_of(dir.s, "00000002.log");
    b = file_get(from.s);
    file_put(file.s, b.p, b.n);
    faults = world_faults(dir.s, NULL);
    assert_non_null(strstr(faults, "/00000002.log: offset 0: belongs to "
                                   "another store"));
    free(faults);
    buf_free(&b);
    dir_remove(other.s);
    dir_remove(dir.s);
}

/* An index that has seen batches that the log does not hold: a start refuses,
 * and so does the audit; a salvage leaves the index behind. */
static void test_audit_believes_an_index_that_knows_more(void **state)
{
    struct name dir = dir_new(), saved = dir_new(), to, file;
    struct world *w = many_segments(dir.s);
    struct buf b;
    char *faults;
    (void)state;
    assert_int_equal(world_index(w), 0);
    world_close(w, 0);
    world_free(w);
    faults = world_faults(dir.s, NULL);
    assert_string_equal(faults, "");
    free(faults);
    file = segment_name(dir.s, 1);
    b = file_get(file.s);
    file_put(file.s, b.p, bytes_find_last(&b, "batch 0000"));
    to = name_of(saved.s, "new");
    faults = world_faults(dir.s, to.s);
    assert_non_null(strstr(faults, "/index: knows batch 60, but the log ends "
                                   "with batch 59"));
    free(faults);
    buf_free(&b);
    assert_int_equal(things_in(to.s), 59);
    dir_remove(to.s);
    dir_remove(saved.s);
    dir_remove(dir.s);
}

/* A good batch with a record that makes no sense loses that one only. */
static void test_salvage_drops_only_the_record_without_sense(void **state)
{
    struct name dir = dir_new(), saved = dir_new(), to;
    struct world *w = world_new(64 * KIB);
    struct store_options options = {dir.s, &w->fault.io, 64 * KIB, 8 * KIB};
    struct store_record rec;
    (void)state;
    assert_int_equal(world_open(w, dir.s), 0);
    for (uint64_t id = 0; id < 5; id++)
        thing_put(w, id, id + 1, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    world_close(w, 0);
    w->st = store_audit(&options, T0, 0, w->err);
    for (int i = 0; store_replay_next(w->st, &rec) == 1; i++)
        if (i == 2)
            assert_int_equal(store_replay_refuse(w->st, &rec, "odd"), 0);
    assert_non_null(strstr(text(store_faults(w->st)), ": odd; damaged up to "));
    to = name_of(saved.s, "new");
    assert_int_equal(store_salvage(w->st, to.s), 0);
    world_free(w);
    assert_int_equal(things_in(to.s), 4);
    dir_remove(to.s);
    dir_remove(saved.s);
    dir_remove(dir.s);
}

/* A Will Message whose checksum is right and that is no PUBLISH packet all
 * the same: a start refuses, and says where. */
static void test_start_refuses_a_will_that_is_no_publish(void **state)
{
    struct name dir = dir_new();
    struct store_io io = quick_io();
    struct store_options options = options_for(dir.s, &io);
    struct store_object session;
    struct store_record rec;
    char err[STORE_ERROR_MAX];
    struct store *st = store_open(&options, T0, err);
    (void)state;
    memset(&session, 0, sizeof session);
    assert_int_equal(store_replay_next(st, &rec), 0);
    store_record_begin(st, "session");
    store_record_number(st, "id", 1);
    store_record_text(st, "client", "c", 1);
    store_record_number(st, "expiry", 60);
    store_record_end_object(st, STORE_NOW, &session, "3 bytes", 7);
    assert_int_equal(store_commit(st, T0), 0);
    store_close(st, 0);
    assert_false(starts(dir.s, T0, err));
    assert_non_null(strstr(err, ".log: offset "));
    assert_non_null(strstr(err, ": the body here is no PUBLISH packet; "));
    dir_remove(dir.s);
}

static void test_salvage_never_writes_into_what_is_there(void **state)
{
    struct bench *t = *state;
    struct store_io io = quick_io();
    struct name other = dir_new();
    struct look l;
    int files;
    story(t);
    l = look_io(t->dir, &io, t->now, other.s);
    assert_int_equal(l.salvaged, -1);
    (void)dir_bytes(other.s, &files);
    assert_int_equal(files, 0);
    look_free(&l);
    dir_remove(other.s);
}

/* ============================ 4. Company ================================= */

/* The writer goes on, rotates and cleans between the audit's opening and its
 * end: the audit shows what was there at its opening. */
static void test_audit_reads_what_cleaning_unlinks(void **state)
{
    struct name dir = dir_new();
    struct world *w = many_segments(dir.s), *a = world_new(4 * KIB);
    struct store_options options = {dir.s, NULL, 0, 0};
    struct store_record rec;
    char *before;
    (void)state;
    before = world_print(w);
    a->st = store_audit(&options, T0, 0, a->err);
    assert_non_null(a->st);
    for (int round = 0; round < 20; round++) {
        for (uint64_t id = 0; id < 60; id++) {
            thing_put(w, id, id + 2, STORE_NOW);
            (void)world_clean(w);
            assert_int_equal(world_commit(w), 0);
        }
    }
    assert_false(file_there(dir.s, "00000001.log"));
    while (store_replay_next(a->st, &rec) == 1)
        world_apply(a, &rec);
    assert_string_equal(text(store_faults(a->st)) == NULL
                            ? ""
                            : text(store_faults(a->st)), "");
    world_is(a, before);
    free(before);
    world_free(a);
    world_free(w);
    dir_remove(dir.s);
}

/* A writer that works on while the directory is being listed. */
struct company {
    struct store_io io;
    struct world *w;
    int times; /* that it still does so */
};

static int company_list(void *ctx, const char *path,
                        void (*each)(void *arg, const char *name), void *arg)
{
    struct company *c = ctx;
    int result = store_io_posix.list(NULL, path, each, arg);
    if (c->times-- <= 0)
        return result;
    for (int round = 0; round < 3; round++) {
        for (uint64_t id = 0; id < 60; id++) {
            thing_put(c->w, id, c->w->things[id].v + 1, STORE_NOW);
            (void)world_clean(c->w);
            assert_int_equal(world_commit(c->w), 0);
        }
    }
    (void)world_index(c->w);
    return result;
}

static void test_audit_looks_again_when_the_list_is_old(void **state)
{
    struct name dir = dir_new();
    struct world *a = world_new(4 * KIB);
    struct company c;
    struct store_options options = {dir.s, &c.io, 0, 0};
    struct store_record rec;
    (void)state;
    c.io = store_io_posix;
    c.io.ctx = &c;
    c.io.list = company_list;
    c.times = 5;
    c.w = many_segments(dir.s);
    a->st = store_audit(&options, T0, 0, a->err);
    if (a->st == NULL)
        fail_msg("%s", a->err);
    while (store_replay_next(a->st, &rec) == 1)
        world_apply(a, &rec);
    assert_int_equal(store_faults(a->st)->n, 0);
    assert_true(c.times <= 0);
    world_free(a);
    world_free(c.w);
    dir_remove(dir.s);
}

/* ============================ 5. Program ================================= */

/* Runs the program; its output and exit status. */
static int run(const char *args, struct buf *out)
{
    const char *program = getenv("HOLDFAST");
    char command[600];
    FILE *f;
    int status;
    snprintf(command, sizeof command, "%s %s 2>&1",
             program != NULL ? program : "./holdfast", args);
    f = popen(command, "r");
    assert_non_null(f);
    memset(out, 0, sizeof *out);
    while (!feof(f))
        out->n += fread(buf_room(out, 4096), 1, 4096, f);
    buf_end(out);
    status = pclose(f);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void runs(const char *args, int status, const char *says)
{
    struct buf out;
    int got = run(args, &out);
    if (got != status || strstr(text(&out), says) == NULL)
        fail_msg("%s: status %d\n%s", args, got, text(&out));
    buf_free(&out);
}

static void test_audit_options(void **state)
{
    (void)state;
    runs("-a", 2, "-a needs the directory of one store");
    runs("-a x y", 2, "-a needs the directory of one store");
    runs("-r x", 2, "-r needs the directory of a store and the name of a new");
    runs("-a -r x y", 2, "-a and -r are two things");
    runs("-a /nonexistent", 1, "/nonexistent: cannot be listed");
    runs("-h", 0, "holdfast -r directory new-directory");
}

static void test_audit_of_a_rotten_store(void **state)
{
    struct bench *t = *state;
    struct name copy = dir_new(), saved = dir_new(), file;
    char args[400];
    struct buf b;
    story(t);
    dir_copy(t->dir, copy.s);
    snprintf(args, sizeof args, "-a %.150s", copy.s);
    runs(args, 0, "\nsound: every byte of the log was read and verified\n");
    snprintf(args, sizeof args, "-a -a %.150s", copy.s);
    runs(args, 0, " sub session=1 filter=a/b qos=1 nl=0 rap=0 rh=0 id=0\n");
    file = segment_name(copy.s, 1);
    b = file_get(file.s);
    b.p[bytes_find_last(&b, "25.5")] ^= 1;
    file_put(file.s, b.p, b.n);
    snprintf(args, sizeof args, "-a %.150s", copy.s);
    runs(args, 1, "/00000001.log: offset ");
    runs(args, 1, "NOT SOUND");
    snprintf(args, sizeof args, "-r %.150s %.150s/new", copy.s, saved.s);
    runs(args, 0, "perhaps a message, message 2, topic \"sensor/one\"");
    runs(args, 1, "cannot be made: ");
    snprintf(args, sizeof args, "-a %.150s/new", saved.s);
    runs(args, 0, "\nsound: ");
    file = name_of(saved.s, "new");
    dir_remove(file.s);
    dir_remove(saved.s);
    dir_remove(copy.s);
    buf_free(&b);
}

/* Publishes retained messages of 300 KB on three topics until it is killed:
 * the log rotates and is cleaned all the time. */
static void load(uint16_t port)
{
    static uint8_t payload[300000];
    struct client c = {.fd = -1};
    struct mqtt_packet ack, p;
    if (client_connect(&c, port, "load", 1, CLIENT_NO_EXPIRY, &ack) != 0)
        _exit(1);
    memset(payload, 'x', sizeof payload);
    memset(&p, 0, sizeof p);
    p.type = MQTT_PUBLISH;
    p.publish.qos = p.publish.retain = 1;
    p.publish.packet_id = 1;
    p.publish.payload.p = payload;
    p.publish.payload.n = sizeof payload;
    p.publish.topic.n = 1;
    for (size_t i = 0;; i++) {
        p.publish.topic.p = (const uint8_t *)"abc" + i % 3;
        if (client_send(&c, &p) != 0 ||
            client_expect(&c, MQTT_PUBACK, &ack) != 0)
            _exit(0);
    }
}

/* A broker and its load; both are gone after the test, however it ends. */
struct busy {
    struct client_broker b;
    char dir[64];
    pid_t child; /* 0 = none */
};

static int busy_setup(void **state)
{
    struct busy *t = (struct busy *)mem_new(sizeof *t);
    *state = t;
    if (client_dir_make(t->dir, sizeof t->dir) != 0 ||
        client_broker_start(&t->b, t->dir, NULL) != 0)
        return -1;
    t->child = fork();
    if (t->child == 0)
        load(t->b.port);
    return 0;
}

static void busy_end(struct busy *t)
{
    int status;
    if (t->child > 0) {
        kill(t->child, SIGKILL);
        waitpid(t->child, &status, 0);
    }
    t->child = 0;
}

static int busy_teardown(void **state)
{
    struct busy *t = *state;
    busy_end(t);
    if (t->b.pid > 0)
        (void)client_broker_end(&t->b, SIGKILL);
    client_broker_forget(&t->b);
    client_dir_remove(t->dir);
    free(t);
    return 0;
}

static void test_audit_beside_a_running_broker(void **state)
{
    struct busy *t = *state;
    struct name first = name_of(t->dir, "00000001.log");
    int rounds = every_bit ? 300 : 20;
    char args[200];
    snprintf(args, sizeof args, "-a %s", t->dir);
    /* until the first segments have been cleaned away under its eyes */
    for (int i = 0; i < rounds || access(first.s, F_OK) == 0; i++)
        runs(args, 0, "\nsound: ");
    busy_end(t);
    runs(args, 0, "retained on \"a\": QoS 1, 30");
    (void)client_broker_end(&t->b, SIGKILL);
    runs(args, 0, "\nsound: ");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(test_audit_tells_what_the_ledger_holds),
        BENCH_TEST(test_audit_tells_what_has_run_out),
        BENCH_TEST(test_audit_writes_nothing),
        BENCH_TEST(test_audit_calls_a_torn_end_sound),
        BENCH_TEST(test_audit_agrees_with_the_start_on_every_flipped_byte),
        BENCH_TEST(test_audit_goes_on_past_each_bad_batch),
        BENCH_TEST(test_audit_goes_on_past_a_bad_sector),
        cmocka_unit_test(test_audit_names_a_segment_that_is_gone),
        cmocka_unit_test(
            test_salvage_proves_batches_under_a_damaged_first_line),
        cmocka_unit_test(test_salvage_of_a_store_that_was_cleaned),
        cmocka_unit_test(test_audit_names_a_segment_of_another_store),
        cmocka_unit_test(test_audit_believes_an_index_that_knows_more),
        cmocka_unit_test(test_start_refuses_a_will_that_is_no_publish),
        cmocka_unit_test(test_salvage_drops_only_the_record_without_sense),
        BENCH_TEST(test_salvage_never_writes_into_what_is_there),
        cmocka_unit_test(test_audit_reads_what_cleaning_unlinks),
        cmocka_unit_test(test_audit_looks_again_when_the_list_is_old),
        cmocka_unit_test(test_audit_options),
        BENCH_TEST(test_audit_of_a_rotten_store),
        cmocka_unit_test_setup_teardown(test_audit_beside_a_running_broker,
                                        busy_setup, busy_teardown),
    };
    (void)argv;
    every_bit = argc > 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
