/*
 * disk.h - a disk in memory that knows what a power cut may leave of it.
 *
 * It implements struct store_io, all that store.c asks of the system, for one
 * directory (DISK_DIR), and keeps two views of it:
 *
 *   now    what the process sees: every call takes effect at once
 *   safe   what every crash leaves: of each file the bytes as of its last
 *          sync, of the directory the names as of its last sync
 *
 * and between them, in order, what is pending: writes and truncations of each
 * file, creations, renames and unlinks of the directory, and the directory's
 * own name until its parent is synced.  states.h makes from this the disks
 * that a crash may leave.  All changes are recorded, so that they can be
 * played again, up to any of them, on another disk (disk_apply()).
 *
 * A test that wants calls to fail writes
 *
 *     struct disk *d = disk_new(1);
 *     d->fault.calls = DISK_BIT(DISK_SYNC) | DISK_BIT(DISK_PWRITE);
 *     d->fault.nth = 7;              the seventh of these, from now on,
 *     d->fault.error = EIO;          fails with this errno,
 *     d->fault.forever = 0;          once (1: and so do all after it)
 *     options.io = &d->io;
 *     options.dir = DISK_DIR;        ... work, then
 *     if (d->fault.hits == 0)        n was beyond the last such call
 *     disk_kill(d);                  the process is gone: a new one may open
 *     disk_power_cut(d);             the same, and all that was not safe
 *
 * and counts by d->counts[DISK_SYNC] how many calls of a kind there are.
 * Only one process has the disk at a time, so locks are always given, unless
 * d->foreign_lock is set.  No memory failures: those end the process (buf.h).
 */
#ifndef HOLDFAST_TESTS_DISK_H
#define HOLDFAST_TESTS_DISK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "buf.h"
#include "store.h"

#define DISK_DIR "disk" /* the one directory; its parent always exists */
#define DISK_NAME 24    /* bytes of a file's name, with its NUL */
#define DISK_FDS 64     /* open descriptors */

/* The kinds of calls, in the order of struct store_io. */
enum disk_call {
    DISK_OPEN,
    DISK_CLOSE,
    DISK_PREAD,
    DISK_PWRITE,
    DISK_SIZE,
    DISK_SYNC,
    DISK_SYNC_DIR,
    DISK_RENAME,
    DISK_UNLINK,
    DISK_MKDIR,
    DISK_LIST,
    DISK_LOCK,
    DISK_RANDOM,
    DISK_CALLS /* how many kinds there are */
};
#define DISK_BIT(call) (1u << (call))

/* One change, or one sync, as it was asked for. */
enum disk_change {
    CHANGE_WRITE,    /* n bytes at `at` of the file */
    CHANGE_TRUNCATE, /* the file is empty now (open with O_TRUNC) */
    CHANGE_SYNC,     /* the file is safe */
    CHANGE_SYNC_BAD, /* a sync failed: what it was for is never made safe by
                        a later one (the system may have dropped it) */
    CHANGE_CREATE,   /* name -> file */
    CHANGE_RENAME,   /* name -> to, replacing what was there */
    CHANGE_UNLINK,   /* name is gone */
    CHANGE_SYNC_DIR, /* the names are safe */
    CHANGE_MKDIR,    /* the directory is made */
    CHANGE_SYNC_UP   /* the directory's own name is safe */
};

struct disk_op {
    enum disk_change change;
    int file;             /* index of the file, -1 = none */
    uint64_t at;          /* of a write */
    size_t n;
    uint8_t *bytes;       /* of a write; owned */
    char name[DISK_NAME]; /* of the directory's changes */
    char to[DISK_NAME];   /* of a rename */
};

/* One file, with or without a name. */
struct disk_file {
    struct buf now;                 /* its bytes as the process sees them */
    struct buf safe;                /* as of its last sync */
    const struct disk_op **pending; /* since then, oldest first; the list is
                                       owned, what it points to is not */
    size_t pending_count, pending_cap;
    size_t doomed; /* the first so many are from before a failed sync: later
                      syncs do not make them safe */
};

struct disk_entry {
    char name[DISK_NAME];
    int file;
};

struct disk_names {
    struct disk_entry *entries; /* in no order; owned */
    size_t count, cap;
};

/* Which call fails, and how.  All zero: none. */
struct disk_fault {
    unsigned calls;   /* DISK_BIT()s of the kinds that count */
    const char *only; /* and only those whose path (of a descriptor: the path
                         it was opened by) ends with this; NULL = all */
    long nth;         /* which of them fails, from 1; 0 = none */
    int error;        /* with this errno.  0, for DISK_PWRITE only: a short
                         write, which succeeds with `part` bytes */
    int forever;      /* 1 = all after it fail too */
    size_t part;      /* a failing or short write has moved so many bytes
                         (less than it was asked to) */
    long count;       /* out: calls that counted so far */
    long hits;        /* out: calls that failed (or were short) */
};

struct disk {
    struct store_io io;       /* give its address to store_open() */
    struct disk_fault fault;  /* set by the test */
    int foreign_lock;         /* 1 = another process has the lock */
    int64_t room;             /* bytes that files may still grow by, then
                                 ENOSPC; unlinking gives back; -1 = no end */
    long counts[DISK_CALLS];  /* calls of each kind, failed ones too */
    uint64_t random;          /* state of io.random */

    struct disk_file *files;  /* never reused, so an index stays good */
    size_t file_count, file_cap;
    struct disk_names now;    /* names as the process sees them */
    struct disk_names safe;   /* as of the last sync of the directory */
    const struct disk_op **pending; /* the directory's changes since then */
    size_t pending_count, pending_cap;
    int made;                 /* 1 = the directory exists */
    int made_safe;            /* 1 = and its name is safe in its parent */

    struct disk_op **ops;     /* the record, oldest first; owned */
    size_t op_count, op_cap;

    struct {
        int file;                /* -1 = not open */
        char path[DISK_NAME];    /* as it was opened */
    } fds[DISK_FDS];
};

/* An empty disk, not even the directory on it.  The seed is that of
 * io.random, so that a run can be repeated. */
struct disk *disk_new(uint64_t seed);
void disk_free(struct disk *d);

/* Plays an operation of another disk's record on this one, which must have
 * begun like that other.  d keeps pointers into the record of that other, which
 * must outlive it; d's own record stays as it is. */
void disk_apply(struct disk *d, const struct disk_op *op);

/* Lays a file on the disk (replacing one of that name), or removes it, safe
 * from the first moment and not recorded. */
void disk_put(struct disk *d, const char *name, const void *bytes, size_t n);
void disk_remove(struct disk *d, const char *name);

/* The bytes of a file as the process sees them; NULL = there is none. */
const struct buf *disk_get(const struct disk *d, const char *name);

/* The file of a name, or -1. */
int disk_names_find(const struct disk_names *names, const char *name);

/* Plays one change of the directory on a table of names. */
void disk_names_change(struct disk_names *names, const struct disk_op *op);

/* A new disk that holds what d holds now, all of it safe: what the next
 * process finds if this one is killed and the system goes on. */
struct disk *disk_copy(const struct disk *d);

/* The process dies: its descriptors are closed.  disk_power_cut(): and what
 * was not safe is gone.  Both leave the record and the faults as they are
 * (disk_power_cut() is not in the record). */
void disk_kill(struct disk *d);
void disk_power_cut(struct disk *d);

#endif
