/*
 * store.h - the ledger: records in, durable bytes out, and back again.
 *
 * The store knows nothing of MQTT.  Its owner describes each of its objects
 * (a session, a message, ...) by a record that holds the object's whole
 * state, notes changes by smaller records, and embeds a struct store_object
 * in each object so that the store can find what is alive.  A record is a
 * line of text, `kind key=value ...`, optionally with a body of bytes.
 * Format, batches and recovery: at the top of store.c.
 *
 * Errors: the first failure is final.  It is kept as one line of text
 * (store_error()), every later call does nothing, and store_commit() returns
 * -1: the caller says why and exits, having acknowledged nothing since the
 * last successful commit.
 */
#ifndef HOLDFAST_STORE_H
#define HOLDFAST_STORE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "buf.h"

struct store;

/* ---- the seam to the system --------------------------------------------- */

/* All that store.c asks of the system.  Each call behaves as its POSIX
 * namesake: -1 and errno on failure.  Paths begin with the store directory.
 * `ctx` comes back as the first argument. */
struct store_io {
    void *ctx;
    int (*open)(void *ctx, const char *path, int flags, mode_t mode);
    int (*close)(void *ctx, int fd);
    ssize_t (*pread)(void *ctx, int fd, void *buf, size_t n, off_t at);
    ssize_t (*pwrite)(void *ctx, int fd, const void *buf, size_t n, off_t at);
    int (*size)(void *ctx, int fd, uint64_t *size);
    int (*sync)(void *ctx, int fd);               /* data and size, to disk */
    int (*sync_dir)(void *ctx, const char *path); /* names, to disk */
    int (*rename)(void *ctx, const char *from, const char *to);
    int (*unlink)(void *ctx, const char *path);
    int (*mkdir)(void *ctx, const char *path, mode_t mode);
    /* Calls each(arg, name) for every name in the directory but . and .. */
    int (*list)(void *ctx, const char *path,
                void (*each)(void *arg, const char *name), void *arg);
    /* An exclusive lock on all of fd, not waited for. */
    int (*lock)(void *ctx, int fd);
    /* n unpredictable bytes (store id and salts). */
    int (*random)(void *ctx, void *buf, size_t n);
};

extern const struct store_io store_io_posix;

/* ---- opening ------------------------------------------------------------ */

#define STORE_ERROR_MAX 512

struct store_options {
    const char *dir;           /* made (0700) if its parent exists */
    const struct store_io *io; /* NULL: store_io_posix */
    uint64_t segment_size;     /* bytes of a full segment; 0: 16 MiB */
    uint64_t reserve_size;     /* bytes for a full disk; 0: 32 MiB */
};

/* Opens, locks and checks the store, or begins a new one; cuts a torn tail
 * and moves the unsealed tail into a fresh segment.  now: ms since 1970.
 * NULL: one line that names what, where and what to do is in err, and errno
 * is EAGAIN if another process has the lock, which it may be about to lose.
 * The records must then be read to the end with store_replay_next() before the
 * first record is written. */
struct store *store_open(const struct store_options *options, uint64_t now,
                         char err[STORE_ERROR_MAX]);

/* Closes and frees.  clean: first commits what is left and seals the ledger,
 * so that any later damage is seen as rot.  Not clean: what was not committed
 * is dropped. */
void store_close(struct store *st, int clean);

/* ---- reading back ------------------------------------------------------- */

/* One record of the ledger during replay. */
struct store_record {
    const char *kind;     /* NUL-ended, valid until the next replay call */
    uint64_t body_len;    /* 0 = no body */
    int lost;             /* only in an audit (audit.h): reads like a record,
                             but stands in a batch that is damaged */
    const char *next;     /* private: the fields not yet taken */
    const char *end;      /* private: end of the line */
    uint32_t segment;     /* private: where the record stands */
    uint64_t body_at;     /* private */
    uint32_t body_crc;    /* private */
    uint32_t line_len;    /* private */
};

struct store_field {
    const char *key;   /* NUL-ended, as is the value; both valid until the */
    const char *value; /* next field is taken; value is unescaped */
    size_t n;          /* bytes of value (it may hold a NUL) */
};

/* The next record, oldest first: those of the index if there is a good one,
 * then what the log holds after it.  1 = *rec, 0 = end, -1 = the store is
 * rotten: store_error(). */
int store_replay_next(struct store *st, struct store_record *rec);

/* The next field of the record: 1 = *f, 0 = none left, -1 = not a field. */
int store_field_next(struct store *st, struct store_record *rec,
                     struct store_field *f);

/* The field's value as a decimal number up to `max`: 0, or -1 if it is none. */
int store_field_number(const struct store_field *f, uint64_t max,
                       uint64_t *number);

/* The owner found a record that makes no sense (why: a literal).  -1: it ends
 * the replay, its file and offset are in store_error().  0: this is an audit,
 * it is among the faults; go on with the next. */
int store_replay_refuse(struct store *st, const struct store_record *rec,
                        const char *why);

/* ---- objects ------------------------------------------------------------ */

/* Where an object's latest whole record stands.  Embedded in the owner's
 * object; all zero (but kind) = not in the ledger.  The store links these in
 * the order of the log, so that cleaning finds the oldest at once. */
struct store_object {
    struct store_object *prev, *next; /* private: neighbours in the log */
    uint64_t body_at;                 /* private: the body's file offset */
    uint32_t body_len;                /* bytes; 0 = no body */
    uint32_t body_crc;                /* private: CRC-32C of the body */
    uint32_t line_len;                /* private: bytes of the header line */
    uint32_t segment;                 /* private: 0 = not in the ledger */
    uint8_t kind; /* the owner's: tells its kinds of objects apart */
};

/* During replay: this record is now the object's whole record (also again,
 * when a later record replaces an earlier one). */
void store_object_adopt(struct store *st, struct store_object *o,
                        const struct store_record *rec);

/* The object is dead (the owner's records say so): forget it.  Harmless if
 * it is not in the ledger. */
void store_object_drop(struct store *st, struct store_object *o);

/* The object's body, verified.  Valid until the next call of any store
 * function.  NULL: it cannot be read or fails its CRC: store_error(). */
const uint8_t *store_body(struct store *st, const struct store_object *o);

/* The same for who only looks: a body that cannot be given back is NULL, and
 * no error of the store; it will be one when it is needed. */
const uint8_t *store_body_peek(struct store *st, const struct store_object *o);

/* The owner found that this body makes no sense (why: a literal), though its
 * checksum is right.  Final: store_error() names file and offset. */
void store_body_refuse(struct store *st, const struct store_object *o,
                       const char *why);

/* ---- writing ------------------------------------------------------------ */

/* How soon a record must be safe. */
enum store_when {
    STORE_LATER, /* with the next commit that writes, or within 100 ms; losing
                    it only repeats work (a finished delivery) */
    STORE_SOON,  /* written by this turn's commit, synced within a second or
                    with the next write: survives kill -9 (QoS 0, offline) */
    STORE_NOW    /* written and synced by this turn's commit */
};

/* A record is begun, gets its fields in order, and is ended by one of the
 * four store_record_end*().  Keys and kinds are literals of [a-z-]; the keys
 * `body` and `crc` are the store's own. */
void store_record_begin(struct store *st, const char *kind);
void store_record_number(struct store *st, const char *key, uint64_t number);
void store_record_text(struct store *st, const char *key, const void *text,
                       size_t n);

/* A note about an object; it is never folded and dies with its segment. */
void store_record_end(struct store *st, enum store_when when);

/* The whole state of o, with a body of n bytes (NULL, 0 = none). */
void store_record_end_object(struct store *st, enum store_when when,
                             struct store_object *o, const void *body,
                             size_t n);

/* The whole state of o anew, its body carried over from where it stands:
 * verified against its CRC, never recomputed.  0, or -1: store_error(). */
int store_record_end_fold(struct store *st, enum store_when when,
                          struct store_object *o);

/* Between store_index_begin() and store_index_end() only: the whole state of
 * o, for the index, which points at the body instead of holding it. */
void store_record_end_index(struct store *st, const struct store_object *o);

/* Bytes of records that wait for store_commit().  They become one batch, and
 * at a full disk the reserve has to hold it: the owner ends the turn when much
 * waits, and never lets more wait than the reserve holds. */
size_t store_pending(const struct store *st);

/* Ends the turn: writes and syncs what must be.  0 = everything STORE_NOW up
 * to here survives a power cut.  -1: store_error(); acknowledge nothing. */
int store_commit(struct store *st, uint64_t now);

/* ---- cleaning, index, condition ----------------------------------------- */

/* The next object that cleaning wants moved (write it again with
 * store_record_end_fold()), or NULL: nothing to do, or enough for this turn.
 * Call in a loop before each store_commit(). */
struct store_object *store_clean_next(struct store *st);

/* A checkpoint of all live objects as of the last commit, between the two
 * calls.  Only a cache: 0, or -1 and the reason among the notices. */
void store_index_begin(struct store *st);
int store_index_end(struct store *st);

/* The disk is full: the reserve is in use.  Take nothing new in; deleting
 * and finishing go on.  Ends by itself, in store_commit(). */
int store_full(const struct store *st);

/* Notes, in the lock file, that the process lives (not synced). */
void store_alive(struct store *st, uint64_t now);

/* When the ledger's writer was last known to live, before this opening:
 * ms since 1970; 0 for a new store.  After now if the clock was set back
 * since: the caller's time must go on from there. */
uint64_t store_last_alive(const struct store *st);

/* When store_commit() must be called next though no record comes: ms since
 * 1970, UINT64_MAX = no need. */
uint64_t store_due(const struct store *st);

/* NULL, or the one line that says what failed. */
const char *store_error(const struct store *st);

/* Lines for the operator (a torn tail cut, the clock, the reserve), each
 * ended by a newline.  The caller takes them out. */
struct buf *store_notices(struct store *st);

struct store_figures {
    uint64_t live_bytes;  /* of live objects' records */
    uint64_t total_bytes; /* of all segments */
    uint64_t segments;
    uint64_t batches; /* the last batch's number */
    uint64_t syncs;   /* since the opening */
};
struct store_figures store_figures(const struct store *st);

#endif
