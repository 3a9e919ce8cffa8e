/*
 * disk.c - a disk in memory that knows what a power cut may leave of it.
 *
 * Sections
 *   1  tables       files, names, what is pending
 *   2  operations   the one place where anything changes
 *   3  calls        struct store_io: faults, then an operation
 *   4  disks        making, copying, cutting the power
 */
#include "disk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

/* ==== 1. tables =========================================================== */

static void pending_add(const struct disk_op ***list, size_t *count,
                        size_t *cap, const struct disk_op *op)
{
    if (*count == *cap) {
        *cap = *cap * 2 + 4;
        *list = (const struct disk_op **)mem_grow(*list, *cap * sizeof **list);
    }
    (*list)[(*count)++] = op;
}

/* The index of a new file, empty and without a name. */
static int file_new(struct disk *d)
{
    if (d->file_count == d->file_cap) {
        d->file_cap = d->file_cap * 2 + 8;
        d->files = (struct disk_file *)mem_grow(
            d->files, d->file_cap * sizeof *d->files);
    }
    memset(&d->files[d->file_count], 0, sizeof *d->files);
    return (int)d->file_count++;
}

static void file_free(struct disk_file *f)
{
    buf_free(&f->now);
    buf_free(&f->safe);
    free(f->pending);
}

int disk_names_find(const struct disk_names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->entries[i].name, name) == 0)
            return names->entries[i].file;
    return -1;
}

static void names_del(struct disk_names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->entries[i].name, name) == 0) {
            names->entries[i] = names->entries[--names->count];
            return;
        }
}

static void names_put(struct disk_names *names, const char *name, int file)
{
    struct disk_entry *e;
    names_del(names, name);
    if (names->count == names->cap) {
        names->cap = names->cap * 2 + 8;
        names->entries = (struct disk_entry *)mem_grow(
            names->entries, names->cap * sizeof *names->entries);
    }
    e = &names->entries[names->count++];
    memcpy(e->name, name, strlen(name) + 1);
    e->file = file;
}

static void names_copy(struct disk_names *to, const struct disk_names *from)
{
    to->count = 0;
    for (size_t i = 0; i < from->count; i++)
        names_put(to, from->entries[i].name, from->entries[i].file);
}

void disk_names_change(struct disk_names *names, const struct disk_op *op)
{
    if (op->change == CHANGE_CREATE)
        names_put(names, op->name, op->file);
    if (op->change == CHANGE_UNLINK || op->change == CHANGE_RENAME)
        names_del(names, op->name);
    if (op->change == CHANGE_RENAME)
        names_put(names, op->to, op->file);
}

/* Plays a write or a truncation on the bytes of a file. */
static void bytes_change(struct buf *b, const struct disk_op *op)
{
    size_t end = (size_t)op->at + op->n;
    if (op->change == CHANGE_TRUNCATE) {
        b->n = 0;
        return;
    }
    if (end > b->n) {
        (void)buf_room(b, end - b->n);
        memset(b->p + b->n, 0, end - b->n);
        b->n = end;
    }
    memcpy(b->p + op->at, op->bytes, op->n);
}

static void buf_set(struct buf *to, const void *bytes, size_t n)
{
    to->n = 0;
    buf_add(to, bytes, n);
}

/* ==== 2. operations ======================================================= */

/* What is pending becomes safe, but for what a failed sync was for. */
static void file_make_safe(struct disk_file *f)
{
    if (f->doomed == 0)
        buf_set(&f->safe, f->now.p, f->now.n);
    for (size_t i = f->doomed; f->doomed > 0 && i < f->pending_count; i++)
        bytes_change(&f->safe, f->pending[i]);
    f->pending_count = f->doomed;
}

void disk_apply(struct disk *d, const struct disk_op *op)
{
    struct disk_file *f = NULL;
    while (op->file >= 0 && (size_t)op->file >= d->file_count)
        (void)file_new(d);
    if (op->file >= 0)
        f = &d->files[op->file];
    switch (op->change) {
    case CHANGE_WRITE:
    case CHANGE_TRUNCATE:
        bytes_change(&f->now, op);
        pending_add(&f->pending, &f->pending_count, &f->pending_cap, op);
        break;
    case CHANGE_SYNC:
        file_make_safe(f);
        break;
    case CHANGE_SYNC_BAD:
        f->doomed = f->pending_count;
        break;
    case CHANGE_CREATE:
    case CHANGE_RENAME:
    case CHANGE_UNLINK:
        disk_names_change(&d->now, op);
        pending_add(&d->pending, &d->pending_count, &d->pending_cap, op);
        break;
    case CHANGE_SYNC_DIR:
        names_copy(&d->safe, &d->now);
        d->pending_count = 0;
        break;
    case CHANGE_MKDIR:
        d->made = 1;
        break;
    case CHANGE_SYNC_UP:
        d->made_safe = d->made;
        break;
    }
}

/* Records an operation and carries it out. */
static void disk_do(struct disk *d, enum disk_change change, int file,
                    const char *name, const char *to)
{
    struct disk_op *op = (struct disk_op *)mem_new(sizeof *op);
    op->change = change;
    op->file = file;
    (void)snprintf(op->name, sizeof op->name, "%s", name);
    (void)snprintf(op->to, sizeof op->to, "%s", to);
    if (d->op_count == d->op_cap) {
        d->op_cap = d->op_cap * 2 + 64;
        d->ops = (struct disk_op **)mem_grow(d->ops,
                                             d->op_cap * sizeof *d->ops);
    }
    d->ops[d->op_count++] = op;
    if (change != CHANGE_WRITE)
        disk_apply(d, op);
}

static void disk_do_write(struct disk *d, int file, const void *bytes,
                          size_t n, uint64_t at)
{
    struct disk_op *op;
    disk_do(d, CHANGE_WRITE, file, "", "");
    op = d->ops[d->op_count - 1];
    op->at = at;
    op->n = n;
    op->bytes = (uint8_t *)mem_grow(NULL, n + 1);
    memcpy(op->bytes, bytes, n);
    disk_apply(d, op);
}

/* ==== 3. calls ============================================================ */

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Counts a call; 1 = it fails, errno is set. */
static int disk_fails(struct disk *d, enum disk_call call, const char *path)
{
    struct disk_fault *f = &d->fault;
    d->counts[call]++;
    if ((f->calls & DISK_BIT(call)) == 0 ||
        (f->only != NULL && !ends_with(path, f->only)))
        return 0;
    f->count++;
    if (f->nth == 0 || f->count < f->nth || (f->count > f->nth && !f->forever))
        return 0;
    f->hits++;
    errno = f->error;
    return 1;
}

/* The name inside the directory, or NULL and errno. */
static const char *disk_name(const struct disk *d, const char *path)
{
    size_t n = strlen(DISK_DIR);
    if (strncmp(path, DISK_DIR "/", n + 1) != 0 ||
        strlen(path + n + 1) >= DISK_NAME || !d->made) {
        errno = ENOENT;
        return NULL;
    }
    return path + n + 1;
}

static int disk_open(void *ctx, const char *path, int flags, mode_t mode)
{
    struct disk *d = (struct disk *)ctx;
    const char *name;
    int file, fd = 0;
    (void)mode;
    if (disk_fails(d, DISK_OPEN, path) || (name = disk_name(d, path)) == NULL)
        return -1;
    file = disk_names_find(&d->now, name);
    if (file < 0 && (flags & O_CREAT) == 0) {
        errno = ENOENT;
        return -1;
    }
    while (fd < DISK_FDS && d->fds[fd].file >= 0)
        fd++;
    assert(fd < DISK_FDS);
    if (file < 0) {
        file = file_new(d);
        disk_do(d, CHANGE_CREATE, file, name, "");
    } else if ((flags & O_TRUNC) != 0) {
        if (d->room >= 0)
            d->room += (int64_t)d->files[file].now.n;
        disk_do(d, CHANGE_TRUNCATE, file, "", "");
    }
    d->fds[fd].file = file;
    (void)snprintf(d->fds[fd].path, DISK_NAME, "%s", name);
    return fd;
}

/* The file behind a descriptor, which must be open. */
static int disk_fd(const struct disk *d, int fd)
{
    assert(fd >= 0 && fd < DISK_FDS && d->fds[fd].file >= 0);
    return d->fds[fd].file;
}

static int disk_close(void *ctx, int fd)
{
    struct disk *d = (struct disk *)ctx;
    (void)disk_fd(d, fd);
    (void)disk_fails(d, DISK_CLOSE, d->fds[fd].path);
    d->fds[fd].file = -1;
    return 0;
}

static ssize_t disk_pread(void *ctx, int fd, void *p, size_t n, off_t at)
{
    struct disk *d = (struct disk *)ctx;
    const struct buf *b = &d->files[disk_fd(d, fd)].now;
    uint64_t from = (uint64_t)at;
    if (disk_fails(d, DISK_PREAD, d->fds[fd].path))
        return -1;
    if (from >= b->n)
        return 0;
    if (n > b->n - from)
        n = (size_t)(b->n - from);
    memcpy(p, b->p + from, n);
    return (ssize_t)n;
}

/* How many of n bytes there is room for; takes that room. */
static size_t disk_room(struct disk *d, const struct buf *b, size_t n,
                        uint64_t at)
{
    uint64_t end = at + n;
    int64_t grows = end > b->n ? (int64_t)(end - b->n) : 0;
    if (d->room < 0)
        return n;
    if (grows > d->room) {
        n = (int64_t)n > grows - d->room ? n - (size_t)(grows - d->room) : 0;
        grows = d->room;
    }
    if (n > 0)
        d->room -= grows;
    return n;
}

static ssize_t disk_pwrite(void *ctx, int fd, const void *p, size_t n,
                           off_t at)
{
    struct disk *d = (struct disk *)ctx;
    int file = disk_fd(d, fd);
    int bad = disk_fails(d, DISK_PWRITE, d->fds[fd].path);
    int error = errno;
    size_t fits;
    if (bad && d->fault.part < n)
        n = d->fault.part;
    fits = disk_room(d, &d->files[file].now, n, (uint64_t)at);
    if (fits > 0)
        disk_do_write(d, file, p, fits, (uint64_t)at);
    if (bad && d->fault.error != 0) {
        errno = error;
        return -1;
    }
    if (fits == 0 && n > 0) {
        errno = ENOSPC;
        return -1;
    }
    return (ssize_t)fits;
}

static int disk_size(void *ctx, int fd, uint64_t *size)
{
    struct disk *d = (struct disk *)ctx;
    if (disk_fails(d, DISK_SIZE, d->fds[fd].path))
        return -1;
    *size = d->files[disk_fd(d, fd)].now.n;
    return 0;
}

static int disk_sync(void *ctx, int fd)
{
    struct disk *d = (struct disk *)ctx;
    int file = disk_fd(d, fd);
    int bad = disk_fails(d, DISK_SYNC, d->fds[fd].path);
    int error = errno;
    disk_do(d, bad ? CHANGE_SYNC_BAD : CHANGE_SYNC, file, "", "");
    errno = error;
    return bad ? -1 : 0;
}

static int disk_sync_dir(void *ctx, const char *path)
{
    struct disk *d = (struct disk *)ctx;
    int up = strcmp(path, DISK_DIR "/..") == 0;
    if (disk_fails(d, DISK_SYNC_DIR, path))
        return -1;
    if (!up && strcmp(path, DISK_DIR) != 0) {
        errno = ENOENT;
        return -1;
    }
    disk_do(d, up ? CHANGE_SYNC_UP : CHANGE_SYNC_DIR, -1, "", "");
    return 0;
}

static int disk_rename(void *ctx, const char *from, const char *to)
{
    struct disk *d = (struct disk *)ctx;
    const char *a = disk_name(d, from), *b = disk_name(d, to);
    int file = a != NULL ? disk_names_find(&d->now, a) : -1;
    if (disk_fails(d, DISK_RENAME, from))
        return -1;
    if (file < 0 || b == NULL) {
        errno = ENOENT;
        return -1;
    }
    disk_do(d, CHANGE_RENAME, file, a, b);
    return 0;
}

static int disk_unlink(void *ctx, const char *path)
{
    struct disk *d = (struct disk *)ctx;
    const char *name = disk_name(d, path);
    int file = name != NULL ? disk_names_find(&d->now, name) : -1;
    if (disk_fails(d, DISK_UNLINK, path))
        return -1;
    if (file < 0) {
        errno = ENOENT;
        return -1;
    }
    if (d->room >= 0)
        d->room += (int64_t)d->files[file].now.n;
    disk_do(d, CHANGE_UNLINK, file, name, "");
    return 0;
}

static int disk_mkdir(void *ctx, const char *path, mode_t mode)
{
    struct disk *d = (struct disk *)ctx;
    (void)mode;
    if (disk_fails(d, DISK_MKDIR, path))
        return -1;
    if (strcmp(path, DISK_DIR) != 0 || d->made) {
        errno = d->made ? EEXIST : ENOENT;
        return -1;
    }
    disk_do(d, CHANGE_MKDIR, -1, "", "");
    return 0;
}

static int disk_list(void *ctx, const char *path,
                     void (*each)(void *arg, const char *name), void *arg)
{
    struct disk *d = (struct disk *)ctx;
    if (disk_fails(d, DISK_LIST, path))
        return -1;
    if (strcmp(path, DISK_DIR) != 0 || !d->made) {
        errno = ENOENT;
        return -1;
    }
    for (size_t i = 0; i < d->now.count; i++)
        each(arg, d->now.entries[i].name);
    return 0;
}

static int disk_lock(void *ctx, int fd)
{
    struct disk *d = (struct disk *)ctx;
    if (disk_fails(d, DISK_LOCK, d->fds[fd].path))
        return -1;
    if (d->foreign_lock)
        errno = EAGAIN;
    return d->foreign_lock ? -1 : 0;
}

static int disk_random(void *ctx, void *p, size_t n)
{
    struct disk *d = (struct disk *)ctx;
    uint8_t *to = (uint8_t *)p;
    if (disk_fails(d, DISK_RANDOM, ""))
        return -1;
    for (size_t i = 0; i < n; i++) {
        d->random = d->random * UINT64_C(6364136223846793005) +
                    UINT64_C(1442695040888963407);
        to[i] = (uint8_t)(d->random >> 40);
    }
    return 0;
}

/* ==== 4. disks ============================================================ */

struct disk *disk_new(uint64_t seed)
{
    struct disk *d = (struct disk *)mem_new(sizeof *d);
    struct store_io io = {
        NULL, disk_open, disk_close, disk_pread, disk_pwrite, disk_size,
        disk_sync, disk_sync_dir, disk_rename, disk_unlink, disk_mkdir,
        disk_list, disk_lock, disk_random};
    d->io = io;
    d->io.ctx = d;
    d->room = -1;
    d->random = seed * 2 + 1;
    for (int i = 0; i < DISK_FDS; i++)
        d->fds[i].file = -1;
    return d;
}

void disk_free(struct disk *d)
{
    for (size_t i = 0; i < d->file_count; i++)
        file_free(&d->files[i]);
    for (size_t i = 0; i < d->op_count; i++) {
        free(d->ops[i]->bytes);
        free(d->ops[i]);
    }
    free(d->files);
    free(d->now.entries);
    free(d->safe.entries);
    free(d->pending);
    free(d->ops);
    free(d);
}

void disk_put(struct disk *d, const char *name, const void *bytes, size_t n)
{
    int file = file_new(d);
    d->made = d->made_safe = 1;
    buf_set(&d->files[file].now, bytes, n);
    buf_set(&d->files[file].safe, bytes, n);
    names_put(&d->now, name, file);
    names_put(&d->safe, name, file);
}

void disk_remove(struct disk *d, const char *name)
{
    names_del(&d->now, name);
    names_del(&d->safe, name);
}

const struct buf *disk_get(const struct disk *d, const char *name)
{
    int file = disk_names_find(&d->now, name);
    return file >= 0 ? &d->files[file].now : NULL;
}

struct disk *disk_copy(const struct disk *d)
{
    struct disk *copy = disk_new(d->random);
    for (size_t i = 0; i < d->now.count; i++) {
        const struct disk_entry *e = &d->now.entries[i];
        const struct buf *b = &d->files[e->file].now;
        disk_put(copy, e->name, b->p, b->n);
    }
    copy->made = copy->made_safe = d->made;
    return copy;
}

void disk_kill(struct disk *d)
{
    for (int i = 0; i < DISK_FDS; i++)
        d->fds[i].file = -1;
}

void disk_power_cut(struct disk *d)
{
    disk_kill(d);
    for (size_t i = 0; i < d->file_count; i++) {
        struct disk_file *f = &d->files[i];
        buf_set(&f->now, f->safe.p, f->safe.n);
        f->pending_count = f->doomed = 0;
    }
    names_copy(&d->now, &d->safe);
    d->pending_count = 0;
    d->made = d->made_safe;
    if (!d->made)
        d->now.count = d->safe.count = 0;
}
