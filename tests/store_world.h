/*
 * store_world.h - what the tests of store.c share: a toy owner of objects
 * whose whole state can be printed, files and directories, and a system that
 * fails on demand.
 *
 *   owner    things, numbered from 0.  A thing has a version (its body follows
 *            from it), a mark (changed by notes) and is there or not.
 *   records  thing id= v= mark= text=  (an object)
 *            mark id= mark=            (a note)
 *            gone id=                  (a note)
 *   system   POSIX, but syncs only count, and calls may fail by plan.
 */
#ifndef HOLDFAST_TESTS_STORE_WORLD_H
#define HOLDFAST_TESTS_STORE_WORLD_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "store.h"

#define T0 UINT64_C(1700000000000) /* the tests' clock begins here */
#define KIB UINT64_C(1024)
#define THINGS 400

/* ---- files --------------------------------------------------------------- */

struct name {
    char s[300]; /* a path */
};

static inline struct name name_of(const char *dir, const char *file)
{
    struct name n;
    (void)snprintf(n.s, sizeof n.s, "%.150s/%.100s", dir, file);
    return n;
}

static inline struct name dir_new(void)
{
    struct name n;
    (void)snprintf(n.s, sizeof n.s, "/tmp/holdfast-store-XXXXXX");
    assert_non_null(mkdtemp(n.s));
    return n;
}

static inline void dir_empty(const char *dir)
{
    struct dirent *e;
    DIR *d = opendir(dir);
    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        struct name n = name_of(dir, e->d_name);
        if (e->d_name[0] != '.')
            (void)unlink(n.s);
    }
    (void)closedir(d);
}

static inline void dir_remove(const char *dir)
{
    dir_empty(dir);
    assert_int_equal(rmdir(dir), 0);
}

static inline struct buf file_get(const char *path)
{
    struct buf b;
    ssize_t n;
    int fd = open(path, O_RDONLY);
    memset(&b, 0, sizeof b);
    assert_true(fd >= 0);
    while ((n = read(fd, buf_room(&b, 65536), 65536)) > 0)
        b.n += (size_t)n;
    (void)close(fd);
    return b;
}

static inline void file_put(const char *path, const void *p, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), (ssize_t)n);
    (void)close(fd);
}

static inline int file_there(const char *dir, const char *file)
{
    struct name n = name_of(dir, file);
    return access(n.s, F_OK) == 0;
}

static inline void dir_copy(const char *from, const char *to)
{
    struct dirent *e;
    DIR *d = opendir(from);
    assert_non_null(d);
    dir_empty(to);
    while ((e = readdir(d)) != NULL) {
        struct name a = name_of(from, e->d_name), b = name_of(to, e->d_name);
        struct buf bytes;
        if (e->d_name[0] == '.')
            continue;
        bytes = file_get(a.s);
        file_put(b.s, bytes.p, bytes.n);
        buf_free(&bytes);
    }
    (void)closedir(d);
}

/* Bytes of all files, and how many files there are. */
static inline uint64_t dir_bytes(const char *dir, int *files)
{
    struct dirent *e;
    uint64_t bytes = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (*files = 0; (e = readdir(d)) != NULL;) {
        struct name n = name_of(dir, e->d_name);
        struct stat status;
        if (e->d_name[0] == '.')
            continue;
        assert_int_equal(stat(n.s, &status), 0);
        bytes += (uint64_t)status.st_size;
        ++*files;
    }
    (void)closedir(d);
    return bytes;
}

/* The segment with the highest (last) or lowest number. */
static inline struct name segment_name(const char *dir, int last)
{
    struct dirent *e;
    struct name best = {""};
    DIR *d = opendir(dir);
    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        struct name n = name_of(dir, e->d_name);
        int order = strcmp(n.s, best.s);
        if (strstr(e->d_name, ".log") == NULL)
            continue;
        if (best.s[0] == '\0' || (last ? order > 0 : order < 0))
            best = n;
    }
    (void)closedir(d);
    assert_true(best.s[0] != '\0');
    return best;
}

/* The last offset of `text` in b, which must hold it. */
static inline size_t bytes_find_last(const struct buf *b, const char *text)
{
    size_t n = strlen(text), at = b->n - n + 1;
    while (at-- > 0)
        if (memcmp(b->p + at, text, n) == 0)
            return at;
    fail_msg("no \"%s\"", text);
    return 0;
}

/* ---- the system that fails ----------------------------------------------- */

enum call {
    CALL_OPEN = 1,
    CALL_PWRITE = 2,
    CALL_SYNC = 4,
    CALL_SYNC_DIR = 8,
    CALL_RENAME = 16,
    CALL_UNLINK = 32,
    CALL_PREAD = 64,
    CALL_CHANGES = CALL_PWRITE | CALL_SYNC | CALL_SYNC_DIR | CALL_RENAME |
                   CALL_UNLINK
};

struct fault {
    struct store_io io; /* give this to the store */
    unsigned kinds;     /* of the calls that count */
    long at;            /* which of them fails, from 1; 0 = none */
    int error;          /* with this errno */
    int forever;        /* and all after it */
    long count;         /* how many there were */
    long syncs;         /* of files */
    size_t write_max;   /* bytes a write moves at most; 0 = all */
    int64_t room;       /* bytes left on the disk; -1 = no end */
    char trace[200];    /* the last changes: Write, Sync, sync of the
                           Directory, Rename, Unlink */
};

/* Notes a change, forgetting the oldest when there are too many. */
static inline void fault_trace(struct fault *f, unsigned kind)
{
    size_t n = strlen(f->trace);
    char letter = kind == CALL_PWRITE     ? 'W'
                  : kind == CALL_SYNC     ? 'S'
                  : kind == CALL_SYNC_DIR ? 'D'
                  : kind == CALL_RENAME   ? 'R'
                                          : 'U';
    if ((kind & CALL_CHANGES) == 0)
        return;
    if (n + 1 == sizeof f->trace)
        memmove(f->trace, f->trace + 1, n--);
    f->trace[n] = letter;
    f->trace[n + 1] = '\0';
}

static inline int fault_hits(struct fault *f, unsigned kind)
{
    fault_trace(f, kind);
    if ((f->kinds & kind) == 0)
        return 0;
    f->count++;
    if (f->at == 0 || f->count < f->at || (f->count > f->at && !f->forever))
        return 0;
    errno = f->error;
    return 1;
}

static inline int fault_open(void *ctx, const char *path, int flags,
                             mode_t mode)
{
    struct fault *f = (struct fault *)ctx;
    return fault_hits(f, CALL_OPEN) ? -1 : open(path, flags, mode);
}

static inline ssize_t fault_pread(void *ctx, int fd, void *p, size_t n,
                                  off_t at)
{
    struct fault *f = (struct fault *)ctx;
    return fault_hits(f, CALL_PREAD) ? -1 : pread(fd, p, n, at);
}

static inline ssize_t fault_pwrite(void *ctx, int fd, const void *p, size_t n,
                                   off_t at)
{
    struct fault *f = (struct fault *)ctx;
    struct stat s;
    off_t grows;
    if (fault_hits(f, CALL_PWRITE))
        return -1;
    if (f->write_max > 0 && n > f->write_max)
        n = f->write_max;
    assert_int_equal(fstat(fd, &s), 0);
    grows = at + (off_t)n > s.st_size ? at + (off_t)n - s.st_size : 0;
    if (f->room >= 0 && grows > f->room) {
        n -= (size_t)(grows - f->room);
        grows = (off_t)f->room;
        errno = ENOSPC;
        if (n == 0)
            return -1;
    }
    if (f->room >= 0)
        f->room -= grows;
    return pwrite(fd, p, n, at);
}

static inline int fault_sync(void *ctx, int fd)
{
    struct fault *f = (struct fault *)ctx;
    (void)fd;
    f->syncs++;
    return fault_hits(f, CALL_SYNC) ? -1 : 0;
}

static inline int fault_sync_dir(void *ctx, const char *path)
{
    struct fault *f = (struct fault *)ctx;
    (void)path;
    return fault_hits(f, CALL_SYNC_DIR) ? -1 : 0;
}

static inline int fault_rename(void *ctx, const char *from, const char *to)
{
    struct fault *f = (struct fault *)ctx;
    return fault_hits(f, CALL_RENAME) ? -1 : rename(from, to);
}

static inline int fault_unlink(void *ctx, const char *path)
{
    struct fault *f = (struct fault *)ctx;
    struct stat s;
    if (fault_hits(f, CALL_UNLINK))
        return -1;
    if (f->room >= 0 && stat(path, &s) == 0)
        f->room += s.st_size;
    return unlink(path);
}

static inline void fault_init(struct fault *f)
{
    memset(f, 0, sizeof *f);
    f->io = store_io_posix;
    f->io.ctx = f;
    f->io.open = fault_open;
    f->io.pread = fault_pread;
    f->io.pwrite = fault_pwrite;
    f->io.sync = fault_sync;
    f->io.sync_dir = fault_sync_dir;
    f->io.rename = fault_rename;
    f->io.unlink = fault_unlink;
    f->error = EIO;
    f->room = -1;
}

/* ---- the owner ----------------------------------------------------------- */

struct thing {
    struct store_object o; /* its place in the ledger */
    int there;             /* 1 = alive */
    uint64_t v;            /* version; 0 has no body */
    uint64_t mark;         /* set by notes */
};

struct world {
    struct store *st;            /* NULL = not open */
    struct fault fault;          /* its system */
    uint64_t segment_size;       /* options */
    uint64_t reserve_size;       /* 8 KiB unless the test says else */
    uint64_t now;                /* the clock */
    char err[STORE_ERROR_MAX];   /* why it would not open */
    struct thing things[THINGS]; /* its objects */
};

static inline struct world *world_new(uint64_t segment_size)
{
    struct world *w = (struct world *)mem_new(sizeof *w);
    fault_init(&w->fault);
    w->segment_size = segment_size;
    w->reserve_size = 8 * KIB;
    w->now = T0;
    return w;
}

/* The body of version v of thing id: some bytes that follow from both. */
static inline size_t thing_body(uint64_t id, uint64_t v, uint8_t *out)
{
    size_t n = v == 0 ? 0 : (size_t)(1 + (id * 131 + v * 37) % 700);
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(id + v * 7 + i * (1 + v % 5));
    return n;
}

static inline void thing_record(struct world *w, uint64_t id)
{
    static const char text[] = "a b%\n\x7f=\xc3\xa9";
    struct thing *t = &w->things[id];
    store_record_begin(w->st, "thing");
    store_record_number(w->st, "id", id);
    store_record_number(w->st, "v", t->v);
    store_record_number(w->st, "mark", t->mark);
    store_record_text(w->st, "text", text, sizeof text); /* with its NUL */
}

static inline void thing_put(struct world *w, uint64_t id, uint64_t v,
                             enum store_when when)
{
    uint8_t body[1024];
    struct thing *t = &w->things[id];
    t->there = 1;
    t->v = v;
    t->mark = 0;
    thing_record(w, id);
    store_record_end_object(w->st, when, &t->o, body, thing_body(id, v, body));
}

static inline void thing_mark(struct world *w, uint64_t id, uint64_t mark,
                              enum store_when when)
{
    w->things[id].mark = mark;
    store_record_begin(w->st, "mark");
    store_record_number(w->st, "id", id);
    store_record_number(w->st, "mark", mark);
    store_record_end(w->st, when);
}

static inline void thing_drop(struct world *w, uint64_t id,
                              enum store_when when)
{
    struct thing *t = &w->things[id];
    store_record_begin(w->st, "gone");
    store_record_number(w->st, "id", id);
    store_record_end(w->st, when);
    store_object_drop(w->st, &t->o);
    t->there = 0;
    t->v = t->mark = 0;
}

/* The same with a body of n bytes 'x': for tests that never print it. */
static inline void thing_put_bulk(struct world *w, uint64_t id, size_t n)
{
    uint8_t *bulk = (uint8_t *)mem_new(n + 1);
    memset(bulk, 'x', n);
    thing_record(w, id);
    store_record_end_object(w->st, STORE_NOW, &w->things[id].o, bulk, n);
    w->things[id].there = 1;
    free(bulk);
}

static inline int world_clean(struct world *w)
{
    struct store_object *o;
    int folds = 0;
    while ((o = store_clean_next(w->st)) != NULL) {
        struct thing *t = (struct thing *)(void *)o;
        thing_record(w, (uint64_t)(t - w->things));
        if (store_record_end_fold(w->st, STORE_LATER, o) < 0)
            break;
        folds++;
    }
    return folds;
}

static inline int world_commit(struct world *w)
{
    w->now += 10;
    return store_commit(w->st, w->now);
}

static inline int world_index(struct world *w)
{
    store_index_begin(w->st);
    for (uint64_t id = 0; id < THINGS; id++) {
        if (!w->things[id].there)
            continue;
        thing_record(w, id);
        store_record_end_index(w->st, &w->things[id].o);
    }
    return store_index_end(w->st);
}

/* One record of the replay. */
static inline void world_apply(struct world *w, struct store_record *rec)
{
    static const char text[] = "a b%\n\x7f=\xc3\xa9";
    uint64_t id = THINGS, v = 0, mark = 0;
    struct store_field f;
    struct thing *t;
    while (store_field_next(w->st, rec, &f) == 1) {
        if (strcmp(f.key, "id") == 0)
            assert_int_equal(store_field_number(&f, THINGS - 1, &id), 0);
        else if (strcmp(f.key, "v") == 0)
            assert_int_equal(store_field_number(&f, UINT64_MAX, &v), 0);
        else if (strcmp(f.key, "mark") == 0)
            assert_int_equal(store_field_number(&f, UINT64_MAX, &mark), 0);
        else if (strcmp(f.key, "text") == 0) {
            assert_int_equal(f.n, sizeof text);
            assert_memory_equal(f.value, text, sizeof text);
        }
    }
    assert_true(id < THINGS);
    t = &w->things[id];
    if (strcmp(rec->kind, "thing") == 0) {
        t->there = 1;
        t->v = v;
        t->mark = mark;
        store_object_adopt(w->st, &t->o, rec);
    } else if (strcmp(rec->kind, "mark") == 0) {
        if (t->there)
            t->mark = mark;
    } else {
        assert_string_equal(rec->kind, "gone");
        store_object_drop(w->st, &t->o);
        t->there = 0;
        t->v = t->mark = 0;
    }
}

/* Opens and replays: 0, or -1 and w->err. */
static inline int world_open(struct world *w, const char *dir)
{
    struct store_options options = {dir, &w->fault.io, w->segment_size,
                                    w->reserve_size};
    struct store_record rec;
    int more;
    memset(w->things, 0, sizeof w->things);
    w->now += 1000;
    w->st = store_open(&options, w->now, w->err);
    if (w->st == NULL)
        return -1;
    while ((more = store_replay_next(w->st, &rec)) == 1)
        world_apply(w, &rec);
    if (more == 0)
        return 0;
    (void)snprintf(w->err, sizeof w->err, "%s", store_error(w->st));
    store_close(w->st, 0);
    w->st = NULL;
    return -1;
}

static inline void world_close(struct world *w, int clean)
{
    store_close(w->st, clean);
    w->st = NULL;
}

static inline void world_free(struct world *w)
{
    if (w->st != NULL)
        store_close(w->st, 0);
    free(w);
}

/* The state in words, bodies verified: to be compared and freed. */
static inline char *world_print(struct world *w)
{
    struct buf out;
    char line[100];
    uint8_t body[1024];
    memset(&out, 0, sizeof out);
    for (uint64_t id = 0; id < THINGS; id++) {
        const struct thing *t = &w->things[id];
        size_t n = thing_body(id, t->v, body);
        if (!t->there)
            continue;
        assert_int_equal(t->o.body_len, n);
        if (w->st != NULL && n > 0) {
            const uint8_t *p = store_body(w->st, &t->o);
            assert_non_null(p);
            assert_memory_equal(p, body, n);
        }
        (void)snprintf(line, sizeof line, "%" PRIu64 ":%" PRIu64 ":%" PRIu64
                       " ", id, t->v, t->mark);
        buf_text(&out, line);
    }
    buf_add(&out, "", 1);
    return (char *)out.p;
}

static inline void world_is(struct world *w, const char *expected)
{
    char *state = world_print(w);
    assert_string_equal(state, expected);
    free(state);
}

/* Lines among the notices that hold `text`; all notices are taken out. */
static inline int world_notices(struct world *w, const char *text)
{
    struct buf *b = store_notices(w->st);
    char *p, *s;
    int n = 0;
    buf_add(b, "", 1);
    s = (char *)b->p;
    for (p = strstr(s, text); p != NULL; p = strstr(p + 1, text))
        n++;
    buf_take(b, b->n);
    return n;
}

/* A small generator of numbers, so that every run is the same. */
static inline uint64_t dice(uint64_t *state, uint64_t sides)
{
    *state = *state * UINT64_C(6364136223846793005) +
             UINT64_C(1442695040888963407);
    return (*state >> 33) % sides;
}

#endif
