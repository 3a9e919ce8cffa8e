/*
 * test_recovery.c - what store.c makes of a ledger after a crash, a tear or
 * rot: it opens with exactly what was committed, or it refuses by name.
 *
 * The small ledger that most tests start from (one segment):
 *
 *   header | batch 1: things 1, 2 | batch 2: thing 3, mark | batch 3: thing 4,
 *   thing 2 gone | (the seal, if it was closed cleanly)
 */
#include "store_world.h"

/* The state after each batch of the small ledger, by hand. */
static const char *const small_state[4] = {
    "", "1:1:0 2:0:0 ", "1:1:9 2:0:0 3:5:0 ", "1:1:9 3:5:0 4:2:0 "};

static void small_turn(struct world *w, int turn)
{
    if (turn == 1) {
        thing_put(w, 1, 1, STORE_NOW);
        thing_put(w, 2, 0, STORE_NOW);
    } else if (turn == 2) {
        thing_put(w, 3, 5, STORE_NOW);
        thing_mark(w, 1, 9, STORE_LATER);
    } else {
        thing_put(w, 4, 2, STORE_NOW);
        thing_drop(w, 2, STORE_LATER);
    }
}

/* Makes the small ledger; ends[n] = where batch n ends. */
static void small_make(const char *dir, int clean, uint64_t ends[4])
{
    struct world *w = world_new(64 * KIB);
    assert_int_equal(world_open(w, dir), 0);
    for (int turn = 0; turn <= 3; turn++) {
        if (turn > 0)
            small_turn(w, turn);
        assert_int_equal(world_commit(w), 0);
        ends[turn] = store_figures(w->st).total_bytes;
        world_is(w, small_state[turn]);
    }
    world_close(w, clean);
    world_free(w);
}

/* Opens dir: the state and how many notices hold "torn". */
static void opens_as(const char *dir, const char *state, int torn)
{
    struct world *w = world_new(64 * KIB);
    if (world_open(w, dir) < 0)
        fail_msg("refused: %s", w->err);
    world_is(w, state);
    assert_int_equal(world_notices(w, "torn"), torn);
    world_free(w);
}

static void refused_with(const char *dir, const char *file, const char *what)
{
    struct world *w = world_new(64 * KIB);
    assert_int_equal(world_open(w, dir), -1);
    if (strstr(w->err, file) == NULL || strstr(w->err, what) == NULL ||
        strchr(w->err, '\n') != NULL || strncmp(w->err, dir, strlen(dir)) != 0)
        fail_msg("not the words: %s", w->err);
    world_free(w);
}

/* ---- tear ---------------------------------------------------------------- */

static void test_tail_torn_at_every_byte(void **state)
{
    struct name base = dir_new(), copy = dir_new();
    uint64_t ends[4];
    (void)state;
    small_make(base.s, 0, ends);
    for (size_t cut = (size_t)ends[0]; cut <= ends[3]; cut++) {
        int batch = cut >= ends[3] ? 3 : cut >= ends[2] ? 2 : cut >= ends[1];
        struct name file;
        dir_copy(base.s, copy.s);
        file = segment_name(copy.s, 1);
        assert_int_equal(truncate(file.s, (off_t)cut), 0);
        opens_as(copy.s, small_state[batch], cut != ends[batch]);
        opens_as(copy.s, small_state[batch], 0);
    }
    dir_remove(base.s);
    dir_remove(copy.s);
}

/* The size may have reached the disk before the bytes did. */
static void test_tail_of_zeros_and_garbage(void **state)
{
    struct name base = dir_new(), copy = dir_new();
    uint64_t ends[4];
    (void)state;
    small_make(base.s, 0, ends);
    for (uint64_t from = ends[2]; from < ends[3]; from += 7)
        for (int fill = 0; fill < 512; fill += 170) {
            struct name file;
            struct buf b;
            dir_copy(base.s, copy.s);
            file = segment_name(copy.s, 1);
            b = file_get(file.s);
            memset(b.p + from, fill, (size_t)(ends[3] - from));
            file_put(file.s, b.p, b.n);
            buf_free(&b);
            opens_as(copy.s, small_state[2], 1);
        }
    dir_remove(base.s);
    dir_remove(copy.s);
}

/* A publisher sends what stood in the log once, batch lines and all, and the
 * crash tears the batch that holds it: no part of it is taken for a batch. */
static void test_forged_batch_in_a_body(void **state)
{
    struct name dir = dir_new(), log;
    struct world *w = world_new(64 * KIB);
    struct store_object o;
    struct buf forged;
    uint64_t ends[4];
    (void)state;
    small_make(dir.s, 0, ends);
    log = segment_name(dir.s, 1);
    forged = file_get(log.s);
    assert_int_equal(world_open(w, dir.s), 0);
    memset(&o, 0, sizeof o);
    store_record_begin(w->st, "thing");
    store_record_number(w->st, "id", 7);
    store_record_end_object(w->st, STORE_NOW, &o, forged.p, forged.n);
    assert_int_equal(world_commit(w), 0);
    world_close(w, 0);
    log = segment_name(dir.s, 1);
    buf_free(&forged);
    forged = file_get(log.s);
    assert_int_equal(truncate(log.s, (off_t)forged.n - 3), 0);
    opens_as(dir.s, small_state[3], 1);
    buf_free(&forged);
    world_free(w);
    dir_remove(dir.s);
}

/* ---- rot ----------------------------------------------------------------- */

/* Flips one bit of a copy's only segment. */
static void flip(const char *base, const char *copy, size_t at)
{
    struct name file;
    struct buf b;
    dir_copy(base, copy);
    file = segment_name(copy, 1);
    b = file_get(file.s);
    assert_true(at < b.n);
    b.p[at] = (uint8_t)(b.p[at] ^ (1u << (at % 8)));
    file_put(file.s, b.p, b.n);
    buf_free(&b);
}

static void test_every_byte_flipped(void **state)
{
    struct name base = dir_new(), copy = dir_new();
    uint64_t ends[4];
    (void)state;
    small_make(base.s, 0, ends);
    for (size_t at = 0; at < ends[3]; at++) {
        char offset[64];
        uint64_t from = at < ends[0] ? 0 : at < ends[1] ? ends[0] : ends[1];
        flip(base.s, copy.s, at);
        (void)snprintf(offset, sizeof offset, "offset %" PRIu64 ":", from);
        if (at >= ends[2])
            opens_as(copy.s, small_state[2], 1);
        else if (at == 9) /* the version's digit: 1 becomes 3 */
            refused_with(copy.s, "/00000001.log", "newer format");
        else
            refused_with(copy.s, "/00000001.log", offset);
    }
    dir_remove(base.s);
    dir_remove(copy.s);
}

/* After a clean close, the last batch's damage is rot too; only the seal's
 * own bytes can be cut, and hold nothing. */
static void test_every_byte_flipped_after_clean_close(void **state)
{
    struct name base = dir_new(), copy = dir_new();
    struct name log;
    struct buf whole;
    uint64_t ends[4];
    (void)state;
    small_make(base.s, 1, ends);
    log = segment_name(base.s, 1);
    whole = file_get(log.s);
    assert_true(whole.n > ends[3]);
    for (size_t at = (size_t)ends[2]; at < whole.n; at++) {
        flip(base.s, copy.s, at);
        if (at < ends[3])
            refused_with(copy.s, ".log", "offset");
        else
            opens_as(copy.s, small_state[3], 1);
    }
    buf_free(&whole);
    dir_remove(base.s);
    dir_remove(copy.s);
}

/* A ledger of several segments, all objects alive. */
static char *long_make(const char *dir, int clean)
{
    struct world *w = world_new(2 * KIB);
    char *state;
    assert_int_equal(world_open(w, dir), 0);
    for (uint64_t id = 0; id < 40; id++) {
        thing_put(w, id, 3, STORE_NOW);
        assert_int_equal(world_commit(w), 0);
    }
    assert_true(store_figures(w->st).segments > 5);
    state = world_print(w);
    world_close(w, clean);
    world_free(w);
    return state;
}

static void test_missing_segment_refused(void **state)
{
    struct name base = dir_new(), copy = dir_new(), gone;
    char *expected = long_make(base.s, 0);
    (void)state;
    dir_copy(base.s, copy.s);
    gone = name_of(copy.s, "00000003.log");
    assert_int_equal(unlink(gone.s), 0);
    refused_with(copy.s, "/00000003.log", "missing");
    dir_copy(base.s, copy.s);
    gone = segment_name(copy.s, 0);
    assert_int_equal(unlink(gone.s), 0);
    refused_with(copy.s, ".log", "missing");
    dir_copy(base.s, copy.s);
    opens_as(copy.s, expected, 0);
    free(expected);
    dir_remove(base.s);
    dir_remove(copy.s);
}

/* A middle segment that ends early, even between two batches, is rot. */
static void test_middle_segment_cut_refused(void **state)
{
    struct name base = dir_new(), copy = dir_new();
    char *expected = long_make(base.s, 0);
    struct name third = name_of(base.s, "00000003.log");
    struct buf b = file_get(third.s);
    size_t last = bytes_find_last(&b, "\nbatch ") + 1;
    (void)state;
    for (size_t cut = 0; cut < b.n; cut += cut < last ? last / 10 : 31) {
        struct name file = name_of(copy.s, "00000003.log");
        if (cut > last - last / 10 && cut < last)
            cut = last;
        dir_copy(base.s, copy.s);
        assert_int_equal(truncate(file.s, (off_t)cut), 0);
        refused_with(copy.s, "/0000000", "offset");
    }
    buf_free(&b);
    free(expected);
    dir_remove(base.s);
    dir_remove(copy.s);
}

static void test_segment_under_another_name_refused(void **state)
{
    struct name base = dir_new(), a, b;
    char *expected = long_make(base.s, 0);
    (void)state;
    a = name_of(base.s, "00000003.log");
    b = name_of(base.s, "00000004.log");
    assert_int_equal(rename(a.s, b.s), 0);
    refused_with(base.s, "/00000004.log", "first line");
    free(expected);
    dir_remove(base.s);
}

/* ---- the tail ------------------------------------------------------------ */

static void test_offsets_survive_restarts(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_new(64 * KIB);
    struct store_object before;
    uint64_t ends[4];
    (void)state;
    small_make(dir.s, 0, ends);
    assert_int_equal(world_open(w, dir.s), 0);
    before = w->things[4].o;
    world_close(w, 0);
    assert_int_equal(world_open(w, dir.s), 0);
    assert_int_equal(w->things[4].o.body_at, before.body_at);
    assert_int_equal(w->things[4].o.segment, before.segment + 1);
    assert_int_equal(store_figures(w->st).segments, 1);
    world_is(w, small_state[3]);
    world_free(w);
    dir_remove(dir.s);
}

/* The n-th change of an opening fails, and all after it: whatever that leaves
 * behind, the next opening finds the same records. */
static void test_crash_at_each_step_of_opening(void **state)
{
    struct name base = dir_new(), copy = dir_new(), torn, stale;
    char *expected = long_make(base.s, 0);
    long steps = 0;
    (void)state;
    torn = segment_name(base.s, 1);
    stale = name_of(base.s, "00000001.new");
    file_put(stale.s, "x", 1);
    for (long n = 1; steps == 0; n++) {
        struct world *w = world_new(2 * KIB);
        struct buf b;
        dir_copy(base.s, copy.s);
        torn = segment_name(copy.s, 1);
        b = file_get(torn.s);
        buf_text(&b, "batch 00000");
        file_put(torn.s, b.p, b.n);
        buf_free(&b);
        w->fault.kinds = CALL_CHANGES;
        w->fault.at = n;
        w->fault.forever = 1;
        if (world_open(w, copy.s) == 0 && w->fault.count < n)
            steps = n;
        world_free(w);
        w = world_new(2 * KIB);
        if (world_open(w, copy.s) < 0)
            fail_msg("step %ld: %s", n, w->err);
        world_is(w, expected);
        assert_false(file_there(copy.s, "00000001.new"));
        world_free(w);
    }
    assert_true(steps > 8);
    free(expected);
    dir_remove(base.s);
    dir_remove(copy.s);
}

/* A crash between the rename of the fresh tail and the unlink of the old. */
static void test_replaced_segment_is_deleted(void **state)
{
    struct name dir = dir_new(), keep = dir_new(), old;
    struct buf b;
    uint64_t ends[4];
    (void)state;
    small_make(dir.s, 0, ends);
    old = segment_name(dir.s, 1);
    b = file_get(old.s);
    opens_as(dir.s, small_state[3], 0);
    file_put(old.s, b.p, b.n);
    opens_as(dir.s, small_state[3], 0);
    assert_true(access(old.s, F_OK) < 0);
    buf_free(&b);
    dir_remove(dir.s);
    dir_remove(keep.s);
}

/* ---- crashes at work ----------------------------------------------------- */

/* One turn of a busy owner on few things, so that cleaning has work. */
static void busy_turn(struct world *w, uint64_t *seed, uint64_t turn)
{
    for (int i = 0; i < 3; i++) {
        uint64_t id = dice(seed, 12), what = dice(seed, 10);
        if (what < 6 || !w->things[id].there)
            thing_put(w, id, 1 + dice(seed, 1000), STORE_NOW);
        else if (what < 8)
            thing_mark(w, id, turn, STORE_NOW);
        else
            thing_drop(w, id, STORE_NOW);
    }
    (void)world_clean(w);
}

/* Runs until something fails or all turns are done; *safe is the state after
 * the last good commit, *tried the one that the last commit was for. */
static void busy_run(struct world *w, const char *dir, uint64_t turns,
                     char **safe, char **tried)
{
    uint64_t seed = 7;
    struct store *st;
    *safe = *tried = NULL;
    if (world_open(w, dir) < 0) {
        memset(w->things, 0, sizeof w->things);
        *safe = world_print(w);
        *tried = world_print(w);
        return;
    }
    *safe = world_print(w);
    for (uint64_t turn = 0; turn < turns; turn++) {
        busy_turn(w, &seed, turn);
        free(*tried);
        st = w->st;
        w->st = NULL; /* state only; bodies may be unreadable by now */
        *tried = world_print(w);
        w->st = st;
        if (world_commit(w) < 0)
            return;
        free(*safe);
        *safe = strdup(*tried);
        if (turn % 16 == 9 && world_index(w) < 0 && store_error(w->st) != NULL)
            return;
    }
}

static long crash_run(unsigned kinds, int error, int forever, size_t step)
{
    struct name dir = dir_new();
    long n = 1, tried_count = 0;
    for (int done = 0; !done; n += (long)step) {
        struct world *w = world_new(4 * KIB);
        char *safe, *tried, *found;
        w->fault.kinds = kinds;
        w->fault.at = n;
        w->fault.error = error;
        w->fault.forever = forever;
        busy_run(w, dir.s, 60, &safe, &tried);
        done = w->fault.count < n;
        world_free(w);
        w = world_new(4 * KIB);
        if (world_open(w, dir.s) < 0)
            fail_msg("call %ld: %s", n, w->err);
        found = world_print(w);
        if (strcmp(found, safe) != 0 && strcmp(found, tried) != 0)
            fail_msg("call %ld: %s\nis neither %s\nnor %s", n, found, safe,
                     tried);
        tried_count++;
        world_free(w);
        free(safe);
        free(tried);
        free(found);
        dir_empty(dir.s);
    }
    dir_remove(dir.s);
    return tried_count;
}

static void test_crash_at_each_change(void **state)
{
    (void)state;
    assert_true(crash_run(CALL_CHANGES, EIO, 1, 1) > 120);
}

static void test_each_change_fails_once(void **state)
{
    (void)state;
    assert_true(crash_run(CALL_CHANGES, EIO, 0, 2) > 60);
}

static void test_each_open_and_read_fails(void **state)
{
    (void)state;
    assert_true(crash_run(CALL_OPEN | CALL_PREAD, EIO, 0, 2) > 20);
}

/* A copy of the directory at the end of each turn is what kill -9 leaves. */
static void test_copy_after_each_turn(void **state)
{
    struct name dir = dir_new(), copy = dir_new();
    struct world *w = world_new(4 * KIB);
    uint64_t seed = 99;
    (void)state;
    assert_int_equal(world_open(w, dir.s), 0);
    for (uint64_t turn = 0; turn < 150; turn++) {
        struct world *other = world_new(4 * KIB);
        char *expected;
        busy_turn(w, &seed, turn);
        assert_int_equal(world_commit(w), 0);
        if (turn % 40 == 20)
            assert_int_equal(world_index(w), 0);
        expected = world_print(w);
        dir_copy(dir.s, copy.s);
        if (world_open(other, copy.s) < 0)
            fail_msg("turn %d: %s", (int)turn, other->err);
        world_is(other, expected);
        free(expected);
        world_free(other);
        if (turn % 50 == 49) {
            world_close(w, turn % 100 == 49);
            assert_int_equal(world_open(w, dir.s), 0);
        }
    }
    world_free(w);
    dir_remove(dir.s);
    dir_remove(copy.s);
}

/* ---- a full disk --------------------------------------------------------- */

/* Fills the disk until the reserve is given up; the last segment is almost as
 * long as segments get, and longer than the reserve.  Nothing of it is dead.
 * Returns how many things there are. */
static uint64_t full_make(struct world *w, const char *dir)
{
    uint64_t id = 0;
    w->reserve_size = w->segment_size / 4 * 3;
    assert_int_equal(world_open(w, dir), 0);
    w->fault.room = (int64_t)w->segment_size - 4000;
    while (!store_full(w->st)) {
        thing_put(w, id++, 3, STORE_NOW);
        assert_int_equal(world_commit(w), 0);
        assert_true(id < THINGS - 10);
    }
    return id;
}

/* The segment that met the full disk is longer than the reserve was.  Yet the
 * broker, stopped in the usual way, comes back, again and again, and takes no
 * more room by it. */
static void test_stop_and_start_on_a_full_disk(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_new(64 * KIB);
    uint64_t id = full_make(w, dir.s);
    int64_t room = 0;
    char *expected;
    (void)state;
    thing_drop(w, --id, STORE_NOW);
    assert_int_equal(world_commit(w), 0);
    expected = world_print(w);
    world_close(w, 1);
    for (int i = 0; i < 5; i++) {
        if (world_open(w, dir.s) < 0)
            fail_msg("start %d: %s", i, w->err);
        assert_true(store_full(w->st));
        assert_int_equal(world_notices(w, "the disk is full"), 1);
        world_is(w, expected);
        world_close(w, 1);
        assert_true(room - w->fault.room < 400); /* a seal or two */
        room = w->fault.room;
    }
    assert_int_equal(world_open(w, dir.s), 0);
    w->fault.room = 70 * (int64_t)KIB;
    w->now = store_due(w->st);
    assert_int_equal(world_commit(w), 0);
    assert_false(store_full(w->st));
    world_is(w, expected);
    free(expected);
    world_free(w);
    dir_remove(dir.s);
}

/* What failed starts left behind has all the room that there is. */
static void test_start_takes_the_room_of_leftovers(void **state)
{
    static const char *const names[] = {"00000008.new", "00000009.new",
                                        "index.new"};
    struct name dir = dir_new();
    struct world *w = world_new(64 * KIB);
    struct buf b;
    char *expected;
    (void)state;
    memset(&b, 0, sizeof b);
    (void)full_make(w, dir.s);
    expected = world_print(w);
    world_close(w, 0);
    for (size_t i = 0; i < 3; i++) {
        struct name n = name_of(dir.s, names[i]);
        b.n = 0;
        memset(buf_room(&b, 24 * KIB), 'x', 24 * KIB);
        file_put(n.s, b.p, 24 * KIB);
    }
    w->fault.room = 0;
    if (world_open(w, dir.s) < 0)
        fail_msg("%s", w->err);
    world_is(w, expected);
    for (size_t i = 0; i < 3; i++)
        assert_false(file_there(dir.s, names[i]));
    buf_free(&b);
    free(expected);
    world_free(w);
    dir_remove(dir.s);
}

/* No room for the tail even so: said in one line, and nothing is changed. */
static void test_start_without_room_changes_nothing(void **state)
{
    struct name dir = dir_new();
    struct world *w = world_new(64 * KIB);
    char *expected;
    uint64_t bytes;
    int files, now;
    (void)state;
    (void)full_make(w, dir.s);
    expected = world_print(w);
    world_close(w, 0);
    bytes = dir_bytes(dir.s, &files);
    for (int64_t room = 0; room < 60 * (int64_t)KIB; room += 9999) {
        w->fault.room = room;
        assert_int_equal(world_open(w, dir.s), -1);
        assert_non_null(strstr(w->err, "No space left on device"));
        assert_non_null(strstr(w->err, "make room"));
        assert_true(dir_bytes(dir.s, &now) == bytes);
        assert_int_equal(now, files);
        assert_true(w->fault.room == room);
    }
    assert_non_null(strstr(w->err, "the start copies the last segment and "
                                   "needs 6"));
    w->fault.room = 70 * (int64_t)KIB;
    assert_int_equal(world_open(w, dir.s), 0);
    world_is(w, expected);
    free(expected);
    world_free(w);
    dir_remove(dir.s);
}

/* The reserve stands, and the disk gets full at any byte of the copy: what is
 * copied is kept, the reserve goes, and the copy goes on from there. */
static void test_start_gives_up_the_reserve_at_every_byte(void **state)
{
    struct name base = dir_new(), copy = dir_new();
    uint64_t ends[4];
    (void)state;
    small_make(base.s, 1, ends);
    for (int64_t room = 0; room < (int64_t)ends[3]; room++) {
        struct world *w = world_new(64 * KIB);
        dir_copy(base.s, copy.s);
        w->fault.room = room;
        assert_int_equal(world_open(w, copy.s), 0);
        assert_true(store_full(w->st));
        assert_false(file_there(copy.s, "reserve"));
        assert_int_equal(world_notices(w, "the reserve is given up"), 1);
        world_is(w, small_state[3]);
        w->now = store_due(w->st);
        assert_int_equal(world_commit(w), 0);
        assert_false(store_full(w->st));
        world_close(w, 1);
        opens_as(copy.s, small_state[3], 0);
        world_free(w);
    }
    dir_remove(base.s);
    dir_remove(copy.s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tail_torn_at_every_byte),
        cmocka_unit_test(test_tail_of_zeros_and_garbage),
        cmocka_unit_test(test_forged_batch_in_a_body),
        cmocka_unit_test(test_every_byte_flipped),
        cmocka_unit_test(test_every_byte_flipped_after_clean_close),
        cmocka_unit_test(test_missing_segment_refused),
        cmocka_unit_test(test_middle_segment_cut_refused),
        cmocka_unit_test(test_segment_under_another_name_refused),
        cmocka_unit_test(test_offsets_survive_restarts),
        cmocka_unit_test(test_crash_at_each_step_of_opening),
        cmocka_unit_test(test_replaced_segment_is_deleted),
        cmocka_unit_test(test_crash_at_each_change),
        cmocka_unit_test(test_each_change_fails_once),
        cmocka_unit_test(test_each_open_and_read_fails),
        cmocka_unit_test(test_copy_after_each_turn),
        cmocka_unit_test(test_stop_and_start_on_a_full_disk),
        cmocka_unit_test(test_start_takes_the_room_of_leftovers),
        cmocka_unit_test(test_start_without_room_changes_nothing),
        cmocka_unit_test(test_start_gives_up_the_reserve_at_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
