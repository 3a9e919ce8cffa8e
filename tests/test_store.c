/*
 * test_store.c - the ledger's records, files, timing, faults, cleaning and
 * index, through include/store.h and the files that it leaves.  Crashes, tears
 * and rot: test_recovery.c.
 */
#include <sys/wait.h>

#include "store_world.h"

static struct world *world_at(const char *dir, uint64_t segment_size)
{
    struct world *w = world_new(segment_size);
    if (world_open(w, dir) < 0)
        fail_msg("refused: %s", w->err);
    return w;
}

static void refused_with(const char *dir, const char *what)
{
    struct world *w = world_new(64 * KIB);
    assert_int_equal(world_open(w, dir), -1);
    if (strstr(w->err, what) == NULL || strchr(w->err, '\n') != NULL)
        fail_msg("not the words: %s", w->err);
    world_free(w);
}

/* ---- records and format -------------------------------------------------- */

static void test_fields_come_back(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 64 * KIB);
    struct store_options options = {dir.s, NULL, 0, 4096};
    struct store_record rec;
    struct store_object o;
    struct store_field f;
    struct store *st;
    uint8_t all[256];
    uint64_t n;
    (void)state;
    for (int i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    memset(&o, 0, sizeof o);
    o.kind = 7;
    store_record_begin(w->st, "note-x");
    store_record_number(w->st, "zero", 0);
    store_record_number(w->st, "most", UINT64_MAX);
    store_record_text(w->st, "all", all, sizeof all);
    store_record_text(w->st, "none", NULL, 0);
    store_record_end(w->st, STORE_NOW);
    store_record_begin(w->st, "bare");
    store_record_end_object(w->st, STORE_NOW, &o, all, sizeof all);
    assert_int_equal(o.kind, 7);
    assert_int_equal(world_commit(w), 0);
    world_free(w);

    st = store_open(&options, T0 + 5000, (char[STORE_ERROR_MAX]){0});
    assert_non_null(st);
    assert_int_equal(store_replay_next(st, &rec), 1);
    assert_string_equal(rec.kind, "note-x");
    assert_int_equal(rec.body_len, 0);
    assert_int_equal(store_field_next(st, &rec, &f), 1);
    assert_string_equal(f.key, "zero");
    assert_int_equal(store_field_number(&f, 0, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(store_field_next(st, &rec, &f), 1);
    assert_int_equal(store_field_number(&f, UINT64_MAX, &n), 0);
    assert_true(n == UINT64_MAX);
    assert_int_equal(store_field_number(&f, UINT64_MAX - 1, &n), -1);
    assert_int_equal(store_field_next(st, &rec, &f), 1);
    assert_int_equal(f.n, sizeof all);
    assert_memory_equal(f.value, all, sizeof all);
    assert_int_equal(store_field_number(&f, UINT64_MAX, &n), -1);
    assert_int_equal(store_field_next(st, &rec, &f), 1);
    assert_string_equal(f.key, "none");
    assert_int_equal(f.n, 0);
    assert_int_equal(store_field_number(&f, UINT64_MAX, &n), -1);
    assert_int_equal(store_field_next(st, &rec, &f), 0);
    assert_int_equal(store_replay_next(st, &rec), 1);
    assert_string_equal(rec.kind, "bare");
    assert_int_equal(rec.body_len, sizeof all);
    assert_int_equal(store_field_next(st, &rec, &f), 0);
    store_object_adopt(st, &o, &rec);
    assert_memory_equal(store_body(st, &o), all, sizeof all);
    assert_int_equal(store_replay_next(st, &rec), 0);
    assert_int_equal(store_replay_next(st, &rec), 0);
    store_close(st, 1);
    dir_remove(dir.s);
}

/* The check value that every description of CRC-32C gives for "123456789". */
static void test_log_reads_as_documented(void **state)
{
    struct name dir = dir_new(), log;
    struct world *w = world_at(dir.s, 64 * KIB);
    struct store_object o;
    struct buf b;
    struct stat s;
    char *text;
    (void)state;
    memset(&o, 0, sizeof o);
    store_record_begin(w->st, "message");
    store_record_text(w->st, "topic", "a b%\xc3\xa9\x7f", 7);
    store_record_number(w->st, "seq", 12);
    store_record_end_object(w->st, STORE_NOW, &o, "123456789", 9);
    assert_int_equal(store_commit(w->st, UINT64_C(1700000077000)), 0);
    log = segment_name(dir.s, 1);
    b = file_get(log.s);
    buf_add(&b, "", 1);
    text = (char *)b.p;
    assert_memory_equal(text, "holdfast 1 store=", 17);
    assert_non_null(strstr(text, " segment=00000001 salt="));
    assert_non_null(strstr(text, " replaces=00000000-00000000 created="));
    assert_non_null(strstr(text, "\nbatch 000000000001 head=00000001 "
                                 "at=01700000077000 records=00000001 "
                                 "bytes=0000000065 crc="));
    assert_non_null(strstr(text, "\nmessage topic=a%20b%25\xc3\xa9%7F seq=12 "
                                 "body=9 crc=e3069283\n123456789\n"
                                 "commit 000000000001 "));
    assert_int_equal(stat(log.s, &s), 0);
    assert_int_equal(s.st_mode & 0777, 0600);
    buf_free(&b);
    world_free(w);
    dir_remove(dir.s);
}

static void test_directory_is_made_private(void **state)
{
    struct name dir = dir_new(), inner = name_of(dir.s, "data");
    struct world *w = world_at(inner.s, 64 * KIB);
    struct stat s;
    (void)state;
    assert_int_equal(stat(inner.s, &s), 0);
    assert_int_equal(s.st_mode & 0777, 0700);
    assert_int_equal(store_last_alive(w->st), 0);
    world_free(w);
    dir_remove(inner.s);
    dir_remove(dir.s);
}

static void test_records_survive_reopening(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 64 * KIB);
    (void)state;
    thing_put(w, 1, 4, STORE_NOW);
    thing_put(w, 2, 5, STORE_NOW);
    world_is(w, "1:4:0 2:5:0 "); /* bodies not yet written */
    assert_int_equal(world_commit(w), 0);
    thing_mark(w, 2, 77, STORE_NOW);
    thing_drop(w, 1, STORE_NOW);
    thing_put(w, 3, 0, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    for (int i = 0; i < 3; i++) {
        world_close(w, i == 1);
        assert_int_equal(world_open(w, dir.s), 0);
        world_is(w, "2:5:77 3:0:0 ");
        assert_int_equal(world_notices(w, "\n"), 0);
    }
    thing_put(w, 9, 9, STORE_NOW); /* never committed: dropped */
    world_close(w, 0);
    assert_int_equal(world_open(w, dir.s), 0);
    world_is(w, "2:5:77 3:0:0 ");
    thing_put(w, 9, 9, STORE_LATER); /* a clean close commits */
    world_close(w, 1);
    assert_int_equal(world_open(w, dir.s), 0);
    world_is(w, "2:5:77 3:0:0 9:9:0 ");
    world_free(w);
    dir_remove(dir.s);
}

static void test_owner_refuses_a_record(void **state)
{
    struct name dir = dir_new();
    struct store_options options = {dir.s, NULL, 0, 4096};
    struct world *w = world_at(dir.s, 64 * KIB);
    uint64_t at = store_figures(w->st).total_bytes;
    char err[STORE_ERROR_MAX], where[64];
    struct store_record rec;
    struct buf b;
    struct name log = segment_name(dir.s, 1);
    struct store *st;
    (void)state;
    thing_put(w, 1, 4, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    b = file_get(log.s);
    at = bytes_find_last(&b, "thing ");
    buf_free(&b);
    world_free(w);
    st = store_open(&options, T0, err);
    assert_int_equal(store_replay_next(st, &rec), 1);
    store_replay_refuse(st, &rec, "no such thing");
    assert_int_equal(store_replay_next(st, &rec), -1);
    (void)snprintf(where, sizeof where, "00000002.log: offset %" PRIu64
                   ": no such thing", at);
    assert_non_null(strstr(store_error(st), where));
    store_close(st, 1);
    dir_remove(dir.s);
}

/* ---- refused starts ------------------------------------------------------ */

static void test_second_process_is_refused(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 64 * KIB);
    char pid[64];
    pid_t child;
    int status;
    (void)state;
    (void)snprintf(pid, sizeof pid, "/lock: is locked by process %ld,",
                   (long)getpid());
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct store_options options = {dir.s, NULL, 0, 4096};
        char err[STORE_ERROR_MAX];
        int wrong = store_open(&options, T0, err) != NULL ||
                    strstr(err, pid) == NULL;
        _exit(wrong);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    thing_put(w, 1, 1, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    world_free(w);
    dir_remove(dir.s);
}

static void test_foreign_directory_is_refused(void **state)
{
    struct name dir = dir_new(), file = name_of(dir.s, "letter.txt");
    struct name deep = name_of(dir.s, "no/such");
    (void)state;
    file_put(file.s, "Dear", 4);
    refused_with(dir.s, "is not a Holdfast store: it has no segment but holds "
                        "\"letter.txt\"");
    assert_false(file_there(dir.s, "lock"));
    refused_with(file.s, "letter.txt: cannot be listed: Not a directory");
    refused_with(deep.s, "/no/such: cannot be made: No such file");
    refused_with("", "no path");
    dir_remove(dir.s);
}

static void test_newer_format_is_refused(void **state)
{
    struct name dir = dir_new(), log = name_of(dir.s, "00000001.log");
    static const char line[] = "holdfast 12 other=things\n";
    (void)state;
    file_put(log.s, line, sizeof line - 1);
    refused_with(dir.s, "/00000001.log: is of a newer format");
    dir_remove(dir.s);
}

static void test_unwritable_directory_is_refused(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_new(64 * KIB);
    (void)state;
    w->fault.kinds = CALL_OPEN;
    w->fault.at = 1;
    w->fault.error = EACCES;
    assert_int_equal(world_open(w, dir.s), -1);
    assert_non_null(strstr(w->err, "/lock: cannot be opened for writing: "
                                   "Permission denied; "));
    world_free(w);
    dir_remove(dir.s);
}

static void test_segment_of_another_store_is_refused(void **state)
{
    struct name a = dir_new(), b = dir_new(), from, to;
    struct world *w = world_at(a.s, 64 * KIB);
    struct buf bytes;
    (void)state;
    world_close(w, 1);
    assert_int_equal(world_open(w, b.s), 0);
    world_close(w, 1);
    assert_int_equal(world_open(w, b.s), 0);
    world_free(w);
    from = name_of(a.s, "00000001.log");
    to = name_of(b.s, "00000001.log");
    bytes = file_get(from.s);
    file_put(to.s, bytes.p, bytes.n);
    buf_free(&bytes);
    /* Number 1 is replaced by 2, so it is removed, not believed. */
    w = world_at(b.s, 64 * KIB);
    assert_false(file_there(b.s, "00000001.log"));
    world_free(w);
    to = name_of(b.s, "00000004.log");
    bytes = file_get(from.s);
    file_put(to.s, bytes.p, bytes.n);
    buf_free(&bytes);
    refused_with(b.s, "/00000004.log: offset 0: the first line");
    dir_remove(a.s);
    dir_remove(b.s);
}

/* ---- timing -------------------------------------------------------------- */

static void test_when_records_are_written_and_synced(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 64 * KIB);
    uint64_t now = T0 + 50000;
    (void)state;
    assert_true(store_due(w->st) == UINT64_MAX);
    assert_int_equal(store_commit(w->st, now), 0);
    assert_int_equal(store_figures(w->st).syncs, 0);
    thing_put(w, 1, 1, STORE_LATER);
    assert_int_equal(store_commit(w->st, now), 0);
    assert_int_equal(store_figures(w->st).batches, 0);
    assert_true(store_due(w->st) == now + 100);
    assert_int_equal(store_commit(w->st, now + 99), 0);
    assert_int_equal(store_figures(w->st).batches, 0);
    assert_int_equal(store_commit(w->st, now + 100), 0);
    assert_int_equal(store_figures(w->st).batches, 1);
    assert_int_equal(store_figures(w->st).syncs, 0);
    assert_true(store_due(w->st) == now + 1100);
    assert_int_equal(store_commit(w->st, now + 1100), 0);
    assert_int_equal(store_figures(w->st).syncs, 1);
    assert_true(store_due(w->st) == UINT64_MAX);
    thing_put(w, 2, 1, STORE_SOON);
    assert_int_equal(store_commit(w->st, now + 2000), 0);
    assert_int_equal(store_figures(w->st).batches, 2);
    assert_int_equal(store_figures(w->st).syncs, 1);
    thing_put(w, 3, 1, STORE_LATER);
    thing_put(w, 4, 1, STORE_NOW); /* takes the waiting ones along */
    assert_int_equal(store_commit(w->st, now + 2001), 0);
    assert_int_equal(store_figures(w->st).batches, 3);
    assert_int_equal(store_figures(w->st).syncs, 3); /* batch 2, then 3 */
    assert_true(store_due(w->st) == UINT64_MAX);
    world_free(w);
    dir_remove(dir.s);
}

/* The changes since the last look are these, in this order. */
static void changes_are(struct world *w, const char *expected)
{
    assert_string_equal(w->fault.trace, expected);
    w->fault.trace[0] = '\0';
}

/* Every sync and every order that the promise rests on, by hand. */
static void test_order_of_writes_and_syncs(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 2 * KIB);
    (void)state;
    /* The parent; segment 1 made and named; the reserve of two chunks; the
     * lock file's text. */
    changes_are(w, "D" "WSRD" "WWSD" "W");
    thing_put(w, 1, 2, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    changes_are(w, "WS");
    thing_put(w, 2, 3, STORE_SOON);
    assert_int_equal(world_commit(w), 0);
    changes_are(w, "W");
    thing_put(w, 3, 3, STORE_SOON);
    assert_int_equal(world_commit(w), 0);
    changes_are(w, "SW"); /* never two batches unsynced */
    while (store_figures(w->st).total_bytes < 2 * KIB) {
        thing_put(w, 4, 40, STORE_SOON);
        assert_int_equal(world_commit(w), 0);
        changes_are(w, "SW");
    }
    thing_put(w, 5, 4, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    changes_are(w, "S" "WSRD" "WS"); /* the old one first, then the next */
    assert_int_equal(world_index(w), 0);
    changes_are(w, "WW" "SRD"); /* its records, then its last line */
    thing_put(w, 6, 1, STORE_LATER);
    assert_int_equal(world_index(w), 0);
    changes_are(w, "WS" "WWSRD"); /* the log before the index */
    for (uint64_t id = 1; id <= 4; id++)
        thing_drop(w, id, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    changes_are(w, "WS" "UD"); /* segment 1 goes once the head is safe */
    thing_put(w, 7, 1, STORE_SOON);
    assert_int_equal(world_commit(w), 0);
    world_close(w, 1);
    changes_are(w, "W" "SWS"); /* the last batch, then the seal */
    assert_int_equal(world_open(w, dir.s), 0);
    /* The fresh tail: first line, copy, safe, named; the old one; the lock. */
    changes_are(w, "WWSRD" "UD" "W");
    world_is(w, "5:4:0 6:1:0 7:1:0 ");
    world_free(w);
    dir_remove(dir.s);
}

static void test_great_batch_of_later_records_is_written(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 64 * KIB);
    uint8_t *great = (uint8_t *)mem_new(2 * 1024 * KIB);
    struct store_object o;
    (void)state;
    memset(&o, 0, sizeof o);
    store_record_begin(w->st, "thing");
    store_record_number(w->st, "id", 3);
    store_record_end_object(w->st, STORE_LATER, &o, great, 2 * 1024 * KIB);
    assert_int_equal(world_commit(w), 0);
    assert_int_equal(store_figures(w->st).batches, 1);
    assert_memory_equal(store_body(w->st, &o), great, 2 * 1024 * KIB);
    store_object_drop(w->st, &o);
    free(great);
    thing_drop(w, 3, STORE_NOW); /* goes to a new segment; the great one dies */
    assert_int_equal(world_commit(w), 0);
    assert_int_equal(store_figures(w->st).segments, 1);
    world_free(w);
    dir_remove(dir.s);
}

static void test_clock_going_back(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 64 * KIB);
    (void)state;
    thing_put(w, 1, 1, STORE_NOW);
    assert_int_equal(store_commit(w->st, T0 + 90000), 0);
    store_alive(w->st, T0 + 95000);
    world_close(w, 0);
    w->now = T0 + 99000; /* world_open() adds a second */
    assert_int_equal(world_open(w, dir.s), 0);
    assert_true(store_last_alive(w->st) == T0 + 95000);
    assert_int_equal(world_notices(w, "clock"), 0);
    world_close(w, 0);
    w->now = T0 - 61000;
    assert_int_equal(world_open(w, dir.s), 0);
    /* the ledger's time goes on from the last opening */
    assert_true(store_last_alive(w->st) == T0 + 100000);
    assert_int_equal(world_notices(w, "clock went back by 160 s"), 1);
    thing_put(w, 2, 1, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    world_close(w, 0);
    w->now = T0 + 200000;
    assert_int_equal(world_open(w, dir.s), 0);
    assert_true(store_last_alive(w->st) == T0 + 100000);
    world_is(w, "1:1:0 2:1:0 ");
    world_free(w);
    dir_remove(dir.s);
}

/* ---- calls that fail ----------------------------------------------------- */

/* A sync that failed is never tried again, whatever its errno. */
static void sync_fails(int error)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 64 * KIB);
    long syncs;
    w->fault.kinds = CALL_SYNC;
    w->fault.at = 1;
    w->fault.error = error;
    thing_put(w, 1, 1, STORE_NOW);
    assert_int_equal(world_commit(w), -1);
    assert_non_null(strstr(store_error(w->st),
                           "/00000001.log: cannot be synced: "));
    syncs = w->fault.syncs;
    thing_put(w, 2, 1, STORE_NOW);
    assert_int_equal(world_commit(w), -1);
    assert_null(store_body(w->st, &w->things[1].o));
    assert_null(store_clean_next(w->st));
    assert_int_equal(world_index(w), -1);
    world_close(w, 1);
    assert_int_equal(w->fault.syncs, syncs);
    world_free(w);
    dir_remove(dir.s);
}

static void test_failed_sync_is_final(void **state)
{
    (void)state;
    sync_fails(EIO);
    sync_fails(EINTR);
    sync_fails(ENOSPC);
}

static void test_interrupted_calls_are_repeated(void **state)
{
    struct name dir = dir_new();
    (void)state;
    for (long n = 1; n < 30; n++) {
        struct world *w = world_new(64 * KIB);
        w->now += (uint64_t)n * 60000;
        w->fault.kinds = CALL_OPEN | CALL_PREAD | CALL_PWRITE;
        w->fault.at = n;
        w->fault.error = EINTR;
        assert_int_equal(world_open(w, dir.s), 0);
        thing_put(w, 1, 1, STORE_NOW);
        assert_int_equal(world_commit(w), 0);
        world_is(w, "1:1:0 ");
        assert_int_equal(world_notices(w, "\n"), 0);
        world_free(w);
        if (n % 2 == 0) /* a new store every other time */
            dir_empty(dir.s);
    }
    dir_remove(dir.s);
}

static void test_short_writes_go_on(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_new(64 * KIB);
    (void)state;
    w->fault.write_max = 13;
    assert_int_equal(world_open(w, dir.s), 0);
    thing_put(w, 1, 1, STORE_NOW);
    thing_put(w, 2, 7, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    assert_int_equal(world_index(w), 0);
    world_close(w, 0);
    assert_int_equal(world_open(w, dir.s), 0);
    world_is(w, "1:1:0 2:7:0 ");
    assert_int_equal(world_notices(w, "\n"), 0);
    world_free(w);
    dir_remove(dir.s);
}

static void test_full_disk_uses_the_reserve_and_recovers(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 64 * KIB);
    uint64_t id = 0;
    (void)state;
    w->fault.room = 1500;
    while (!store_full(w->st)) {
        thing_put(w, id++, 3, STORE_NOW);
        assert_int_equal(world_commit(w), 0);
        assert_true(id < 20);
    }
    assert_false(file_there(dir.s, "reserve"));
    assert_int_equal(world_notices(w, "the disk is full"), 1);
    thing_drop(w, 0, STORE_NOW); /* finishing goes on */
    assert_int_equal(world_commit(w), 0);
    assert_int_equal(world_index(w), -1);
    assert_int_equal(world_notices(w, "not written: the disk is full"), 1);
    w->now = store_due(w->st); /* no room yet */
    assert_int_equal(world_commit(w), 0);
    assert_true(store_full(w->st));
    assert_false(file_there(dir.s, "reserve"));
    w->fault.room = 20000;
    assert_int_equal(world_commit(w), 0);
    assert_true(store_full(w->st)); /* not time yet */
    w->now = store_due(w->st);
    assert_int_equal(world_commit(w), 0);
    assert_false(store_full(w->st));
    assert_true(file_there(dir.s, "reserve"));
    assert_int_equal(world_notices(w, "there is room again"), 1);
    world_close(w, 0);
    assert_int_equal(world_open(w, dir.s), 0);
    assert_false(w->things[0].there);
    assert_true(w->things[id - 1].there);
    world_free(w);
    dir_remove(dir.s);
}

static void test_full_disk_without_reserve_is_final(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 64 * KIB);
    int good = 0;
    (void)state;
    w->fault.room = 100;
    while (thing_put(w, (uint64_t)good, 3, STORE_NOW), world_commit(w) == 0)
        assert_true(++good < 100);
    assert_true(store_full(w->st));
    assert_true(good > 5); /* the reserve's 8 KiB were of use */
    assert_true(store_due(w->st) == UINT64_MAX);
    assert_non_null(strstr(store_error(w->st), "No space left on device"));
    world_close(w, 1);
    w->fault.room = -1;
    assert_int_equal(world_open(w, dir.s), 0);
    assert_true(w->things[good - 1].there);
    assert_false(w->things[good].there);
    world_free(w);
    dir_remove(dir.s);
}

static void test_start_on_a_full_disk(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_new(64 * KIB);
    (void)state;
    w->fault.room = 3000; /* too little for the reserve of 8 KiB */
    assert_int_equal(world_open(w, dir.s), 0);
    assert_true(store_full(w->st));
    assert_int_equal(world_notices(w, "no room for the reserve"), 1);
    thing_put(w, 1, 1, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    w->fault.room = 10000;
    w->now += 6000;
    assert_int_equal(world_commit(w), 0);
    assert_false(store_full(w->st));
    world_close(w, 0);
    w->fault.room = 200; /* moving the tail needs the reserve's room */
    assert_int_equal(world_open(w, dir.s), 0);
    assert_true(store_full(w->st));
    assert_int_equal(world_notices(w, "the reserve is given up"), 1);
    world_is(w, "1:1:0 ");
    w->now = store_due(w->st);
    assert_int_equal(world_commit(w), 0); /* the old tail has gone since */
    assert_false(store_full(w->st));
    assert_int_equal(world_notices(w, "there is room again"), 1);
    world_free(w);
    dir_remove(dir.s);
}

static void test_pending_counts_what_waits(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 64 * KIB);
    (void)state;
    assert_int_equal(store_pending(w->st), 0);
    thing_mark(w, 1, 1, STORE_LATER);
    assert_int_equal(store_pending(w->st), strlen("mark id=1 mark=1\n"));
    assert_int_equal(world_commit(w), 0); /* it may wait longer */
    assert_int_equal(store_pending(w->st), strlen("mark id=1 mark=1\n"));
    thing_put_bulk(w, 2, 5000);
    assert_in_range(store_pending(w->st), 5000, 5200);
    assert_int_equal(world_commit(w), 0);
    assert_int_equal(store_pending(w->st), 0);
    assert_int_equal(world_index(w), 0);
    assert_int_equal(store_pending(w->st), 0);
    world_free(w);
    dir_remove(dir.s);
}

/* The reserve that is made by default holds 4 MiB of records and a packet of
 * the greatest size besides. */
static void test_default_reserve_holds_the_greatest_batch(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_new(0);
    (void)state;
    w->reserve_size = 0;
    assert_int_equal(world_open(w, dir.s), 0);
    w->fault.room = 0;
    thing_put_bulk(w, 1, 4 * 1024 * KIB);
    thing_put_bulk(w, 2, 16 * 1024 * KIB);
    assert_int_equal(world_commit(w), 0);
    assert_true(store_full(w->st));
    thing_drop(w, 1, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    world_free(w);
    dir_remove(dir.s);
}

/* A ledger in which cleaning is due: things 0 to 99 alive in the segments
 * from the oldest on, and as much again and more dead behind them. */
static struct world *world_due(const char *dir, uint64_t reserve_size)
{
    struct world *w = world_new(64 * KIB);
    w->reserve_size = reserve_size;
    assert_int_equal(world_open(w, dir), 0);
    for (uint64_t id = 0; id < 100; id++)
        thing_put_bulk(w, id, 500);
    assert_int_equal(world_commit(w), 0);
    for (int i = 0; i < 100; i++) {
        thing_put_bulk(w, 399, 2000);
        assert_int_equal(world_commit(w), 0);
    }
    assert_true(store_figures(w->st).segments > 2);
    return w;
}

/* What lives in the oldest segment is more than the reserve: no part of it is
 * moved before deletions have made it small enough, and then all of it. */
static void test_cleaning_leaves_the_reserve_to_deletions(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_due(dir.s, 32 * KIB);
    uint64_t id = 0;
    (void)state;
    w->fault.room = 0;
    thing_drop(w, id++, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    assert_true(store_full(w->st));
    for (; id < 40; id++) {
        thing_drop(w, id, STORE_NOW);
        assert_int_equal(world_clean(w), 0);
        assert_int_equal(world_commit(w), 0);
    }
    while (store_full(w->st)) {
        assert_true(id < 90);
        thing_drop(w, id++, STORE_NOW);
        (void)world_clean(w);
        w->now += 5000; /* each turn looks for room */
        if (world_commit(w) < 0)
            fail_msg("%s", store_error(w->st));
    }
    assert_true(w->fault.room > 0);
    for (; id < 100; id++)
        assert_non_null(store_body(w->st, &w->things[id].o));
    world_free(w);
    dir_remove(dir.s);
}

/* What cleaning adds to a large turn, the reserve can still take. */
static void test_cleaning_keeps_a_batch_below_the_reserve(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_due(dir.s, 64 * KIB);
    (void)state;
    thing_put_bulk(w, 398, 40 * KIB);
    assert_true(world_clean(w) > 0);
    assert_true(store_pending(w->st) <= 48 * KIB + 200);
    w->fault.room = 0;
    assert_int_equal(world_commit(w), 0);
    assert_true(store_full(w->st));
    thing_drop(w, 0, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    world_free(w);
    dir_remove(dir.s);
}

/* An object that fits into no large turn's batch moves in a quiet turn. */
static void test_cleaning_of_a_great_object_waits(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_new(64 * KIB);
    (void)state;
    w->reserve_size = 64 * KIB;
    assert_int_equal(world_open(w, dir.s), 0);
    thing_put_bulk(w, 1, 30 * KIB);
    for (int i = 0; i < 8; i++) {
        thing_put_bulk(w, 2, 40 * KIB);
        assert_int_equal(world_clean(w), 0);
        assert_int_equal(world_commit(w), 0);
    }
    assert_int_equal(world_clean(w), 1); /* nothing appended, the one due */
    assert_int_equal(world_clean(w), 0);
    thing_put_bulk(w, 3, 10);
    assert_int_equal(world_commit(w), 0);
    assert_int_equal(store_figures(w->st).segments, 1);
    world_free(w);
    dir_remove(dir.s);
}

static void test_damaged_body_is_named(void **state)
{
    struct name dir = dir_new(), log;
    struct world *w = world_at(dir.s, 64 * KIB);
    char where[64];
    struct buf b;
    (void)state;
    thing_put(w, 5, 6, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    log = segment_name(dir.s, 1);
    b = file_get(log.s);
    b.p[w->things[5].o.body_at + 2] ^= 4;
    file_put(log.s, b.p, b.n);
    buf_free(&b);
    assert_null(store_body(w->st, &w->things[5].o));
    (void)snprintf(where, sizeof where, "/00000001.log: offset %" PRIu64
                   ": the body here fails its checksum",
                   w->things[5].o.body_at);
    assert_non_null(strstr(store_error(w->st), where));
    assert_int_equal(world_commit(w), -1);
    world_free(w);
    dir_remove(dir.s);
}

/* ---- cleaning ------------------------------------------------------------ */

/* A long churn over a changing number of things: the disk stays bounded, no
 * turn copies much more than it appended, and a reopening finds all. */
static void test_cleaning_bounds_the_disk(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 256 * KIB);
    uint64_t seed = 3, worst = 0, folds = 0;
    char *expected;
    (void)state;
    for (int turn = 0; turn < 30000; turn++) {
        uint64_t things = turn % 10000 < 5000 ? THINGS : 60;
        uint64_t id = 30 + dice(&seed, things - 30); /* the first 30 are old */
        struct store_figures f;
        if (turn < 30)
            thing_put(w, (uint64_t)turn, 12, STORE_NOW);
        else if (dice(&seed, 4) > 0 || !w->things[id].there)
            thing_put(w, id, 1 + dice(&seed, 99), STORE_NOW);
        else
            thing_drop(w, id, STORE_NOW);
        folds += (uint64_t)world_clean(w);
        assert_int_equal(world_commit(w), 0);
        f = store_figures(w->st);
        if (f.total_bytes > 3 * f.live_bytes + 2 * 256 * KIB)
            fail_msg("turn %d: %d bytes for %d live", turn,
                     (int)f.total_bytes, (int)f.live_bytes);
        if (f.total_bytes > worst)
            worst = f.total_bytes;
    }
    assert_true(folds > 30);
    assert_true(worst < 2 * 1024 * KIB);
    for (uint64_t id = 0; id < 30; id++)
        assert_int_equal(w->things[id].v, 12);
    expected = world_print(w);
    world_close(w, 0);
    assert_int_equal(world_open(w, dir.s), 0);
    world_is(w, expected);
    free(expected);
    world_free(w);
    dir_remove(dir.s);
}

static void test_cleaning_is_paced(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_new(2 * 1024 * KIB);
    uint8_t *bulk = (uint8_t *)mem_new(KIB * 8);
    uint64_t live = 0;
    (void)state;
    w->reserve_size = 128 * KIB; /* does not hold back what is measured */
    assert_int_equal(world_open(w, dir.s), 0);
    for (uint64_t id = 0; id < 200; id++) { /* 1.6 MiB that stay */
        w->things[id].there = 1;
        store_record_begin(w->st, "thing");
        store_record_number(w->st, "id", id);
        store_record_end_object(w->st, STORE_NOW, &w->things[id].o, bulk,
                                KIB * 8);
    }
    assert_int_equal(world_commit(w), 0);
    live = store_figures(w->st).live_bytes;
    for (uint64_t turn = 0; turn < 20000; turn++) {
        int folds;
        store_record_begin(w->st, "thing");
        store_record_number(w->st, "id", 399);
        store_record_end_object(w->st, STORE_NOW, &w->things[399].o, bulk,
                                (size_t)(turn % 4) * 300);
        folds = world_clean(w);
        /* 64 KiB and twice 900 bytes, and the object that goes beyond. */
        assert_true(folds <= 10);
        assert_int_equal(world_commit(w), 0);
    }
    /* A fold's line is up to 64 bytes longer than those written above. */
    assert_true(store_figures(w->st).live_bytes < live + 201 * 64 + 1000);
    assert_true(store_figures(w->st).segments <= 4);
    assert_null(store_clean_next(w->st)); /* nothing appended, nothing due */
    free(bulk);
    world_free(w);
    dir_remove(dir.s);
}

/* When everything dies, every old segment goes with the next batch. */
static void test_dead_segments_go_at_once(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 4 * KIB);
    (void)state;
    for (uint64_t id = 0; id < 100; id++) {
        thing_put(w, id, 3, STORE_NOW);
        assert_int_equal(world_commit(w), 0);
    }
    assert_true(store_figures(w->st).segments > 8);
    for (uint64_t id = 0; id < 100; id++)
        thing_drop(w, id, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    assert_int_equal(store_figures(w->st).live_bytes, 0);
    assert_int_equal(store_figures(w->st).segments, 1);
    assert_false(file_there(dir.s, "00000001.log"));
    world_close(w, 0);
    assert_int_equal(world_open(w, dir.s), 0);
    world_is(w, "");
    world_free(w);
    dir_remove(dir.s);
}

/* ---- the index ----------------------------------------------------------- */

/* A store of several segments, an index half way, and things after it. */
static char *indexed_make(const char *dir)
{
    struct world *w = world_at(dir, 4 * KIB);
    uint64_t seed = 5;
    char *state;
    for (int turn = 0; turn < 80; turn++) {
        thing_put(w, dice(&seed, 90), 2 + dice(&seed, 50), STORE_NOW);
        thing_mark(w, dice(&seed, 20), 6, STORE_NOW);
        for (uint64_t id = 0; id < 20; id++) /* marks of nothing do not count */
            if (!w->things[id].there)
                w->things[id].mark = 0;
        assert_int_equal(world_commit(w), 0);
        if (turn == 50)
            assert_int_equal(world_index(w), 0);
    }
    assert_true(store_figures(w->st).segments > 5);
    state = world_print(w);
    world_free(w);
    return state;
}

static void opens_with(const char *dir, const char *expected, int not_used)
{
    struct world *w = world_at(dir, 4 * KIB);
    world_is(w, expected);
    assert_int_equal(world_notices(w, "/index: not used, "), not_used);
    world_free(w);
}

static void test_index_equals_no_index(void **state)
{
    struct name dir = dir_new(), copy = dir_new(), index, first;
    char *expected = indexed_make(dir.s);
    struct world *w;
    struct buf b;
    (void)state;
    for (int i = 0; i < 3; i++) /* also through a chain of fresh tails */
        opens_with(dir.s, expected, 0);
    dir_copy(dir.s, copy.s);
    index = name_of(copy.s, "index");
    assert_int_equal(unlink(index.s), 0);
    opens_with(copy.s, expected, 0);
    /* That it is used at all: a body before it is not read at the start. */
    dir_copy(dir.s, copy.s);
    first = name_of(copy.s, "00000002.log");
    b = file_get(first.s);
    b.p[b.n - 60] ^= 1;
    file_put(first.s, b.p, b.n);
    buf_free(&b);
    w = world_at(copy.s, 4 * KIB);
    world_close(w, 0);
    assert_int_equal(unlink(index.s), 0);
    assert_int_equal(world_open(w, copy.s), -1);
    world_free(w);
    free(expected);
    dir_remove(dir.s);
    dir_remove(copy.s);
}

/* After an index-only start, objects are again in the order of the log: the
 * oldest are folded first and nothing is lost by it. */
static void test_cleaning_after_a_start_with_index(void **state)
{
    struct name dir = dir_new();
    char *expected = indexed_make(dir.s);
    struct world *w = world_at(dir.s, 4 * KIB);
    struct store_object *o;
    uint64_t id = 200;
    (void)state;
    for (o = w->things[0].o.next; o != NULL && o->next != NULL; o = o->next)
        assert_true(o->segment < o->next->segment ||
                    (o->segment == o->next->segment &&
                     o->body_at < o->next->body_at));
    for (int turn = 0; turn < 500; turn++) {
        thing_put(w, id, 3, STORE_NOW);
        (void)world_clean(w);
        assert_int_equal(world_commit(w), 0);
    }
    assert_false(file_there(dir.s, "00000001.log"));
    thing_drop(w, id, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    world_is(w, expected);
    world_close(w, 0);
    opens_with(dir.s, expected, 1); /* its segments are cleaned away */
    free(expected);
    world_free(w);
    dir_remove(dir.s);
}

static void test_torn_or_damaged_index_is_ignored(void **state)
{
    struct name dir = dir_new(), copy = dir_new(), index, mine;
    char *expected = indexed_make(dir.s);
    struct buf b;
    (void)state;
    mine = name_of(dir.s, "index");
    index = name_of(copy.s, "index");
    b = file_get(mine.s);
    for (size_t at = 0; at < b.n; at += at < 200 ? 1 : 23) {
        dir_copy(dir.s, copy.s);
        file_put(index.s, b.p, at);
        opens_with(copy.s, expected, 1);
        dir_copy(dir.s, copy.s);
        b.p[at] ^= 2;
        file_put(index.s, b.p, b.n);
        b.p[at] ^= 2;
        opens_with(copy.s, expected, 1);
    }
    buf_free(&b);
    free(expected);
    dir_remove(dir.s);
    dir_remove(copy.s);
}

/* Something else of that name stays, and nothing but speed is lost. */
static void test_directory_in_place_of_the_index(void **state)
{
    struct name dir = dir_new(), index;
    char *expected = indexed_make(dir.s);
    struct world *w;
    (void)state;
    index = name_of(dir.s, "index");
    assert_int_equal(unlink(index.s), 0);
    assert_int_equal(mkdir(index.s, 0700), 0);
    opens_with(dir.s, expected, 1);
    w = world_at(dir.s, 4 * KIB);
    assert_int_equal(world_index(w), -1);
    assert_int_equal(world_notices(w, "/index.new: not written: "), 1);
    assert_null(store_error(w->st));
    world_free(w);
    assert_false(file_there(dir.s, "index.new"));
    assert_int_equal(rmdir(index.s), 0);
    opens_with(dir.s, expected, 0);
    free(expected);
    dir_remove(dir.s);
}

static void test_foreign_index_is_ignored(void **state)
{
    struct name a = dir_new(), b = dir_new(), from, to;
    char *one = indexed_make(a.s), *two = indexed_make(b.s);
    struct buf bytes;
    (void)state;
    from = name_of(a.s, "index");
    to = name_of(b.s, "index");
    bytes = file_get(from.s);
    file_put(to.s, bytes.p, bytes.n);
    buf_free(&bytes);
    opens_with(b.s, two, 1);
    free(one);
    free(two);
    dir_remove(a.s);
    dir_remove(b.s);
}

/* Batches that the index knows were synced; a log without them is rot. */
static void test_index_that_knows_more_refuses(void **state)
{
    struct name dir = dir_new(), log;
    struct world *w = world_at(dir.s, 64 * KIB);
    struct stat s;
    (void)state;
    thing_put(w, 1, 1, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    thing_put(w, 2, 1, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    assert_int_equal(world_index(w), 0);
    world_free(w);
    log = segment_name(dir.s, 1);
    assert_int_equal(stat(log.s, &s), 0);
    assert_int_equal(truncate(log.s, s.st_size - 1), 0);
    refused_with(dir.s, "/index: knows batch 2, but the log ends with batch 1");
    log = name_of(dir.s, "index");
    assert_int_equal(unlink(log.s), 0);
    w = world_at(dir.s, 64 * KIB);
    world_is(w, "1:1:0 ");
    world_free(w);
    dir_remove(dir.s);
}

/* An index that cannot be written is a notice, not an end. */
static void test_failing_index_is_not_final(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_at(dir.s, 64 * KIB);
    static const unsigned kinds[] = {CALL_OPEN, CALL_PWRITE, CALL_SYNC,
                                     CALL_RENAME};
    (void)state;
    thing_put(w, 1, 1, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        w->fault.kinds = kinds[i];
        w->fault.count = 0;
        w->fault.at = 1;
        assert_int_equal(world_index(w), -1);
        assert_int_equal(world_notices(w, "/index.new: not written: "), 1);
        assert_null(store_error(w->st));
        assert_false(file_there(dir.s, "index.new"));
    }
    w->fault.at = 0;
    assert_int_equal(world_index(w), 0);
    assert_int_equal(world_commit(w), 0);
    world_free(w);
    dir_remove(dir.s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields_come_back),
        cmocka_unit_test(test_log_reads_as_documented),
        cmocka_unit_test(test_directory_is_made_private),
        cmocka_unit_test(test_records_survive_reopening),
        cmocka_unit_test(test_owner_refuses_a_record),
        cmocka_unit_test(test_second_process_is_refused),
        cmocka_unit_test(test_foreign_directory_is_refused),
        cmocka_unit_test(test_newer_format_is_refused),
        cmocka_unit_test(test_unwritable_directory_is_refused),
        cmocka_unit_test(test_segment_of_another_store_is_refused),
        cmocka_unit_test(test_when_records_are_written_and_synced),
        cmocka_unit_test(test_order_of_writes_and_syncs),
        cmocka_unit_test(test_great_batch_of_later_records_is_written),
        cmocka_unit_test(test_clock_going_back),
        cmocka_unit_test(test_failed_sync_is_final),
        cmocka_unit_test(test_interrupted_calls_are_repeated),
        cmocka_unit_test(test_short_writes_go_on),
        cmocka_unit_test(test_full_disk_uses_the_reserve_and_recovers),
        cmocka_unit_test(test_full_disk_without_reserve_is_final),
        cmocka_unit_test(test_start_on_a_full_disk),
        cmocka_unit_test(test_pending_counts_what_waits),
        cmocka_unit_test(test_default_reserve_holds_the_greatest_batch),
        cmocka_unit_test(test_cleaning_leaves_the_reserve_to_deletions),
        cmocka_unit_test(test_cleaning_keeps_a_batch_below_the_reserve),
        cmocka_unit_test(test_cleaning_of_a_great_object_waits),
        cmocka_unit_test(test_damaged_body_is_named),
        cmocka_unit_test(test_cleaning_bounds_the_disk),
        cmocka_unit_test(test_cleaning_is_paced),
        cmocka_unit_test(test_dead_segments_go_at_once),
        cmocka_unit_test(test_index_equals_no_index),
        cmocka_unit_test(test_cleaning_after_a_start_with_index),
        cmocka_unit_test(test_torn_or_damaged_index_is_ignored),
        cmocka_unit_test(test_directory_in_place_of_the_index),
        cmocka_unit_test(test_foreign_index_is_ignored),
        cmocka_unit_test(test_index_that_knows_more_refuses),
        cmocka_unit_test(test_failing_index_is_not_final),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
