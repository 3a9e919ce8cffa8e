/*
 * store.c - the ledger: an append-only log of text records in a directory.
 *
 * Sections
 *   1  The system          store_io_posix: the only calls to the system
 *   2  Text and checksums  fixed-width numbers, escapes, CRC-32C
 *   3  The store           its parts; failing and telling
 *   4  Files               open, read, write, sync; the reserve
 *   5  Segments            the table, the descriptors, making and removing
 *   6  Batches             signing and checking; tear or rot
 *   7  Objects             what is alive, in the order of the log
 *   8  Opening             the directory, the lock, the log, the index
 *   9  The tail            moved into a fresh segment at every start
 *  10  Replay              records out
 *  11  Records             records in
 *  12  Commit              one write and one sync for a turn
 *  13  Cleaning and index
 *  14  Open and close
 *  15  Audit              reading without a broker, past damage
 *  16  Salvage            what is sound, into a new store
 *
 * THE DIRECTORY (0700; its files 0600)
 *
 *   lock           pid=0000012345 alive=01795364303000 crc=2b90ce41
 *   NNNNNNNN.log   the segments of the log, numbered from 1; no number is
 *                  ever used for two segments
 *   NNNNNNNN.new   a segment in the making; deleted at the next start
 *   index          a checkpoint (a cache: deleting it is always safe);
 *                  index.new is one in the making
 *   reserve        bytes given up when the disk is full
 *
 * A SEGMENT, as `less` shows it (lines marked \ are one line in the file):
 *
 *   holdfast 1 store=8c1d0f6a52b7e943 segment=00000007 \
 *     salt=51f0c2d7a9e86b34 replaces=00000005-00000006 \
 *     created=01795364303000 crc=09ab34cd
 *   batch 000000000041 head=00000005 at=01795364303120 records=00000002 \
 *     bytes=0000000098 crc=5d0e7f21
 *   message seq=12 topic=sensor/a%20b body=24 crc=8f3a11c2
 *   {"temperature": 25.5...}
 *   queued session=robust seq=12
 *   commit 000000000041 77e0b1d9
 *
 * Every line ends with one newline (0x0A).  The lines `holdfast`, `batch` and
 * `commit` have fixed widths, so that offsets are known before the values
 * are.  Numbers are decimal; store, salt and crc are lower-case hexadecimal.
 *
 *   holdfast  1 is the format.  `replaces` names the segments whose batches
 *             were copied into this one, 00000000-00000000 if none.  `crc` is
 *             the CRC-32C of the line up to and with "crc=".
 *   batch     its number (one more than the one before), the oldest segment
 *             that still counts (head), the time in ms since 1970, how many
 *             records and how many bytes of them follow.
 *   records   `kind key=value ...`: space, control characters (DEL too) and %
 *             stand as %XX in values; all other bytes stand for themselves.
 *             A record with a body ends with `body=<length> crc=<CRC-32C of
 *             the body>`, newline, the body's bytes verbatim, newline.
 *   commit    the batch's number again and the CRC-32C of the `batch` line
 *             and all records with their bodies.
 *
 * Both checksums of a batch are salted: they begin with the text
 * "<store> <segment> <offset of the batch> <salt> ", each in the width that it
 * has above (the offset in 14 digits).  Whoever publishes a payload that looks
 * like a batch does not know the salt, so his batch is never a valid one; nor
 * is a true batch at another place or from another store.
 *
 * THE LIFE OF A BATCH
 *
 *   record_begin       store_commit             store_commit
 *   empty --> buffered ------------> written ---------------> synced
 *               |  ^  batch_write       |  segment_sync           |
 *               +--+                    +-- any error: final      v
 *             records                                 segments_release
 *
 * Batch N+1 is never written before the sync of batch N has succeeded.  So at
 * most one batch is not safe at any time, and it is the last:
 *
 *   a bad batch at the very end   a tear: a crash cut it; it was never
 *                                 acknowledged; it is cut off with a notice
 *   a bad batch anywhere else     rot: the disk lost what it had promised;
 *                                 nothing is changed, the start is refused
 *
 * After a bad batch, a valid `batch` line further on is proof that the bad one
 * had been synced.  An empty batch at a clean close (the seal) gives this
 * proof for all that precedes it.
 *
 * THE LIFE OF A SEGMENT
 *
 *   segment_create    segment_publish
 *   NNNNNNNN.new  -->  synced, renamed to .log, directory synced
 *                         |
 *        current: batches are appended; full -> the next one is made
 *                         |
 *        oldest: its live objects are folded into the current segment
 *                         |  no live object in it: a batch with head=NNN+1
 *                         v  is written and synced
 *                      unlinked
 *
 * Because a name NNNNNNNN.log appears only after its first line is on disk, a
 * segment whose first line is bad is rot, never a tear.
 *
 * Every start copies the valid batches of the last segment, at the same
 * offsets, into a fresh one that `replaces` it: what a failed sync left only
 * in memory is then truly on disk, and nothing is ever appended to a file that
 * a crash may have left in an unknown state.  If the crash comes before the
 * old one is unlinked, the next start finds both and deletes the replaced.
 *
 * THE INDEX
 *
 *   index 2 store=8c1d0f6a52b7e943 batch=000000000041 at=01795364303120 \
 *     segments=00000001
 *   segment 00000007 size=00000000000324 salt=51f0c2d7a9e86b34
 *   message seq=12 topic=sensor/a%20b at=00000007:00000000000238 \
 *     line=0000000057 body=0000000024 crc=8f3a11c2
 *   end records=0000000001 crc=4e0c9d72
 *
 * All live objects as of a batch, with the place of the body (or of what
 * follows the line), the length of the line with its newline, and the body.
 * The last checksum is over everything before it.  An index that is torn,
 * foreign, or names a segment that is gone is ignored with a notice.  A sound
 * index that knows of a batch that the log does not hold is proof of rot.
 *
 * A FULL DISK
 *
 *            reserve_drop: no room for a batch, the file `reserve` is deleted
 *   normal -----------------------------------------------------> full
 *          <-----------------------------------------------------
 *            reserve_retry: every 5 s; there is room for it again
 *
 * The batch that met the full disk still goes in, and what is left of the
 * reserve is for what makes room: acknowledgements and deletions.  So
 *
 *   - a batch is no larger than the reserve: the owner looks at
 *     store_pending() and takes nothing more in when enough waits, the
 *     reserve holds that and one greatest packet, and cleaning leaves a
 *     quarter of it (store_clean_next());
 *   - while full, cleaning begins on a segment only if all that lives in it
 *     fits into the room that is left, and again leaves a quarter;
 *   - while full, segments are short: the next start has to copy the last.
 */
#define _DARWIN_C_SOURCE /* macOS shows F_FULLFSYNC only with it */

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "audit.h"
#include "store.h"

#define MIB ((uint64_t)1024 * 1024)
#define SEGMENT_SIZE (16 * MIB)
#define RESERVE_SIZE (32 * MIB) /* more than any batch; see A FULL DISK */
#define RESERVE_WAIT 5000     /* ms between two looks for room */
#define LATER_WAIT 100        /* ms that STORE_LATER may wait */
#define LATER_BYTES MIB       /* bytes that STORE_LATER may hold */
#define SYNC_WAIT 1000        /* ms that STORE_SOON may be unsynced */
#define CLEAN_CHUNK (64 * 1024) /* bytes a turn may always clean */
#define READ_WINDOW (256 * 1024) /* bytes read at once */
#define OPEN_MAX_READ 8       /* segments open beside the current one */
#define SEGMENT_LAST 99999999u /* the last number of 8 digits */
#define DIR_MAX 900           /* bytes of the directory's path */
#define AUDIT_TRIES 20        /* how often an audit looks at a moving store */
#define PATCH_SIZE 4096       /* bytes that an audit gives up for bad ones */

/* The fixed lines, to take their lengths from. */
#define SEGMENT_SAMPLE                                                         \
    "holdfast 1 store=0123456789abcdef segment=00000000 "                      \
    "salt=0123456789abcdef replaces=00000000-00000000 "                        \
    "created=00000000000000 crc=00000000\n"
#define BATCH_SAMPLE                                                           \
    "batch 000000000000 head=00000000 at=00000000000000 records=00000000 "     \
    "bytes=0000000000 crc=00000000\n"
#define COMMIT_SAMPLE "commit 000000000000 00000000\n"
#define INDEX_SAMPLE                                                           \
    "index 2 store=0123456789abcdef batch=000000000000 at=00000000000000 "     \
    "segments=00000000\n"
#define INDEX_SEGMENT_SAMPLE                                                   \
    "segment 00000000 size=00000000000000 salt=0123456789abcdef\n"
#define INDEX_PLACE_SAMPLE                                                     \
    " at=00000000:00000000000000 line=0000000000 body=0000000000 "             \
    "crc=00000000"
#define INDEX_END_SAMPLE "end records=0000000000 crc=00000000\n"
#define LOCK_SAMPLE "pid=0000000000 alive=00000000000000 crc=00000000\n"

enum {
    SEGMENT_HEADER = sizeof SEGMENT_SAMPLE - 1,
    BATCH_HEADER = sizeof BATCH_SAMPLE - 1,
    BATCH_COMMIT = sizeof COMMIT_SAMPLE - 1,
    INDEX_HEADER = sizeof INDEX_SAMPLE - 1,
    INDEX_SEGMENT = sizeof INDEX_SEGMENT_SAMPLE - 1,
    INDEX_PLACE = sizeof INDEX_PLACE_SAMPLE - 1,
    INDEX_END = sizeof INDEX_END_SAMPLE - 1,
    LOCK_LINE = sizeof LOCK_SAMPLE - 1,
    CRC_DIGITS = 9 /* eight digits and the newline end each signed line */
};

/* ==== 1  The system ========================================================
 *
 * Thin shells around POSIX.  They retry nothing and decide nothing; that is
 * done where they are called, so that a test that replaces them tests it. */

static int system_open(void *ctx, const char *path, int flags, mode_t mode)
{
    (void)ctx;
    return open(path, flags | O_CLOEXEC, mode);
}

static int system_close(void *ctx, int fd)
{
    (void)ctx;
    return close(fd);
}

static ssize_t system_pread(void *ctx, int fd, void *buf, size_t n, off_t at)
{
    (void)ctx;
    return pread(fd, buf, n, at);
}

static ssize_t system_pwrite(void *ctx, int fd, const void *buf, size_t n,
                            off_t at)
{
    (void)ctx;
    return pwrite(fd, buf, n, at);
}

static int system_size(void *ctx, int fd, uint64_t *size)
{
    struct stat status;
    (void)ctx;
    if (fstat(fd, &status) < 0)
        return -1;
    *size = (uint64_t)status.st_size;
    return 0;
}

/* macOS's fsync() leaves the bytes in the drive's own memory; F_FULLFSYNC
 * does not.  Where a file system does not know it, fsync() is all there is. */
static int system_sync(void *ctx, int fd)
{
    (void)ctx;
#ifdef F_FULLFSYNC
    if (fcntl(fd, F_FULLFSYNC) == 0)
        return 0;
    if (errno != ENOTSUP && errno != ENOTTY && errno != EINVAL)
        return -1;
#endif
    return fsync(fd);
}

/* A system that cannot sync a directory says EINVAL and keeps names safe in
 * its own way. */
static int system_sync_dir(void *ctx, const char *path)
{
    int saved, result;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    result = system_sync(ctx, fd);
    saved = errno;
    (void)close(fd);
    errno = saved;
    return result < 0 && saved == EINVAL ? 0 : result;
}

static int system_rename(void *ctx, const char *from, const char *to)
{
    (void)ctx;
    return rename(from, to);
}

static int system_unlink(void *ctx, const char *path)
{
    (void)ctx;
    return unlink(path);
}

static int system_mkdir(void *ctx, const char *path, mode_t mode)
{
    (void)ctx;
    return mkdir(path, mode);
}

static int system_list(void *ctx, const char *path,
                      void (*each)(void *arg, const char *name), void *arg)
{
    struct dirent *entry;
    int saved;
    DIR *dir = opendir(path);
    (void)ctx;
    if (dir == NULL)
        return -1;
    for (errno = 0; (entry = readdir(dir)) != NULL; errno = 0)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            each(arg, entry->d_name);
    saved = errno;
    (void)closedir(dir);
    errno = saved;
    return saved == 0 ? 0 : -1;
}

static int system_lock(void *ctx, int fd)
{
    struct flock all;
    (void)ctx;
    memset(&all, 0, sizeof all);
    all.l_type = F_WRLCK;
    all.l_whence = SEEK_SET;
    return fcntl(fd, F_SETLK, &all) < 0 ? -1 : 0;
}

static int system_random(void *ctx, void *buf, size_t n)
{
    uint8_t *p = (uint8_t *)buf;
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    (void)ctx;
    if (fd < 0)
        return -1;
    while (n > 0) {
        ssize_t got = read(fd, p, n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        p += got;
        n -= (size_t)got;
    }
    (void)close(fd);
    return n == 0 ? 0 : -1;
}

const struct store_io store_io_posix = {
    NULL, system_open, system_close, system_pread, system_pwrite, system_size,
    system_sync, system_sync_dir, system_rename, system_unlink, system_mkdir,
    system_list, system_lock, system_random
};

/* ==== 2  Text and checksums =============================================== */

/* The CRC-32C of eight zero bytes after each byte, and so on down to none:
 * eight bytes are then eight look-ups that do not wait for each other. */
struct crc_table {
    uint32_t of[8][256]; /* of[k][b]: byte b followed by k zero bytes */
};

static void crc_prepare(struct crc_table *t)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
        t->of[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int k = 1; k < 8; k++) {
            uint32_t crc = t->of[k - 1][byte];
            t->of[k][byte] = (crc >> 8) ^ t->of[0][crc & 0xFF];
        }
}

/* Goes on with `crc` (0 to begin) over n more bytes.  Bytes are put together
 * one by one, so the byte order of the machine plays no part. */
static uint32_t crc_add(const struct crc_table *t, uint32_t crc,
                        const void *bytes, size_t n)
{
    const uint8_t *p = (const uint8_t *)bytes;
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        crc ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
               (uint32_t)p[3] << 24;
        crc = t->of[7][crc & 0xFF] ^ t->of[6][crc >> 8 & 0xFF] ^
              t->of[5][crc >> 16 & 0xFF] ^ t->of[4][crc >> 24] ^
              t->of[3][p[4]] ^ t->of[2][p[5]] ^ t->of[1][p[6]] ^
              t->of[0][p[7]];
    }
    for (; n > 0; n--, p++)
        crc = (crc >> 8) ^ t->of[0][(crc ^ *p) & 0xFF];
    return ~crc;
}

static const char hex_digits[] = "0123456789abcdef";

/* A digit's value in base 10 or 16 (lower case), or -1. */
static int digit_value(uint8_t c, unsigned base)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (base == 16 && c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* Writes a checksum's eight digits. */
static void crc_print(uint8_t *to, uint32_t crc)
{
    for (int i = 7; i >= 0; i--, crc >>= 4)
        to[i] = (uint8_t)hex_digits[crc & 0xF];
}

/* A cursor over a line of fixed width.  It never runs past the end and
 * remembers that something did not fit; asked once, at the end. */
struct scan {
    const uint8_t *p;   /* the next byte */
    const uint8_t *end; /* one past the last */
    int bad;            /* 1 = the line is not what it should be */
};

static struct scan scan_begin(const uint8_t *p, size_t n)
{
    struct scan s = {p, p + n, 0};
    return s;
}

static void scan_text(struct scan *s, const char *text)
{
    size_t n = strlen(text);
    if (s->bad || (size_t)(s->end - s->p) < n || memcmp(s->p, text, n) != 0)
        s->bad = 1;
    else
        s->p += n;
}

static uint64_t scan_number(struct scan *s, size_t width, unsigned base)
{
    uint64_t number = 0;
    if (s->bad || (size_t)(s->end - s->p) < width) {
        s->bad = 1;
        return 0;
    }
    for (; width > 0; width--, s->p++) {
        int digit = digit_value(*s->p, base);
        s->bad |= digit < 0;
        number = number * base + (uint64_t)(digit < 0 ? 0 : digit);
    }
    return number;
}

/* A key, "=" and a number. */
static uint64_t scan_field(struct scan *s, const char *key, size_t width,
                           unsigned base)
{
    scan_text(s, key);
    return scan_number(s, width, base);
}

/* Whole and nothing left? */
static int scan_done(const struct scan *s)
{
    return !s->bad && s->p == s->end;
}

/* Writes the shortest decimal form, no NUL; returns its length (<= 20). */
static size_t number_print(char *to, uint64_t number)
{
    char digits[20];
    size_t n = 0;
    do {
        digits[n++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    for (size_t i = 0; i < n; i++)
        to[i] = digits[n - 1 - i];
    return n;
}

static int text_special(uint8_t c)
{
    return c <= ' ' || c == '%' || c == 0x7F;
}

/* Appends a value with what would break a line escaped. */
static void text_escape(struct buf *out, const uint8_t *p, size_t n)
{
    static const char upper[] = "0123456789ABCDEF";
    uint8_t *to;
    if (n == 0)
        return;
    to = buf_room(out, 3 * n);
    for (size_t i = 0; i < n; i++) {
        if (text_special(p[i])) {
            *to++ = '%';
            *to++ = (uint8_t)upper[p[i] >> 4];
            *to++ = (uint8_t)upper[p[i] & 0xF];
        } else {
            *to++ = p[i];
        }
    }
    out->n = (size_t)(to - out->p);
}

static int escape_digit(char c)
{
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : digit_value((uint8_t)c, 10);
}

/* Undoes text_escape() in place; the new length, or -1 if it is none of
 * its products. */
static long text_unescape(char *p, size_t n)
{
    char *to = p;
    for (size_t i = 0; i < n; i++) {
        int high, low;
        if (p[i] != '%') {
            *to++ = p[i];
            continue;
        }
        if (n - i < 3)
            return -1;
        high = escape_digit(p[i + 1]);
        low = escape_digit(p[i + 2]);
        if (high < 0 || low < 0)
            return -1;
        *to++ = (char)(high * 16 + low);
        i += 2;
    }
    return (long)(to - p);
}

/* ==== 3  The store ======================================================== */

/* One file of the log. */
struct segment {
    uint32_t number; /* in its name; rising through the table */
    uint32_t first;  /* the first number it stands for; mostly its own */
    uint64_t salt;   /* from its first line */
    uint64_t size;   /* bytes of good batches, its first line included */
    uint64_t used;   /* the store's tick when fd was last asked for */
    int fd;          /* -1 = not open */
    int doubt;       /* audit: 1 = its first line is bad, all this is a guess */
    uint64_t good;   /* audit: how many good batches were read, */
    uint64_t from;   /* the number of the first of them */
    uint64_t to;     /* and of the last */
};

/* What the `batch` line says, and where the batch stands. */
struct batch {
    uint64_t number;  /* its place in the sequence of all batches */
    uint64_t at;      /* ms since 1970 */
    uint64_t bytes;   /* of records */
    uint64_t offset;  /* of its `batch` line in the file */
    uint64_t end;     /* offset of what follows its `commit` line */
    uint32_t head;    /* the oldest segment that counts */
    uint32_t records; /* how many */
};

/* A file read from front to back through a window. */
struct reader {
    int fd;            /* the file's */
    int error;         /* errno of a read that failed; 0 = none */
    uint64_t size;     /* bytes of the file that may be read */
    uint64_t at;       /* file offset of the window's first byte */
    struct buf window; /* bytes of the file */
};

/* What an audit found where a start would have been refused. */
struct fault {
    uint32_t segment; /* the file, */
    uint64_t at;      /* the offset in it, */
    uint64_t end;     /* and one past the last damaged byte */
    uint64_t first;   /* of the batches that are lost; 0 = not known */
    uint64_t last;    /* of them; 0 = not known */
    uint32_t records; /* not batches but records of a good one: how many */
    uint32_t files;   /* segments that are missing, this the last of them */
    const char *why;  /* a literal */
};

/* Reading without a broker. */
struct audit {
    int active;         /* 1 = write nothing, note damage and go past it */
    int show;           /* 1 = list what is read in `shown` */
    struct buf faults;  /* struct fault */
    struct buf lines;   /* the faults as text */
    struct buf shown;   /* batches and records as text */
    uint64_t pid;       /* of the last writer; 0 = not known */
    struct buf ahead;   /* a line: the index knows more than the log */
    int index;          /* 1 = there is an index that a start would use */
    uint64_t lost_at;   /* damaged bytes that are searched for records: */
    uint64_t lost_end;  /* from here to here, in the segment at hand */
    size_t open;        /* fault whose last batch is not known yet, from 1 */
};

enum replay_state {
    REPLAY_INDEX, /* records of the index come next */
    REPLAY_LOG,   /* records of the log come next */
    REPLAY_DONE   /* all read; writing may begin */
};

struct replay {
    enum replay_state state; /* index -> log -> done */
    struct reader reader;    /* of the index, then of the segment at hand */
    size_t segment;          /* which of the table is at hand */
    uint64_t at;             /* offset of the next line or batch */
    uint64_t records_end;    /* offset where the records end */
    uint32_t left;           /* records left in the batch at hand */
    uint64_t last;           /* number of the batch at hand; 0 = none yet */
    uint64_t time;           /* and when it was written, ms */
    uint32_t resume_segment; /* where the log goes on after the index: */
    uint64_t resume_at;      /* segment (an old number, maybe) and offset */
    struct buf line;         /* the line at hand, NUL-ended, changed freely */
};

/* The index being written. */
struct index_writer {
    int active;       /* between begin and end */
    int fd;           /* of index.new; -1 = given up */
    uint32_t crc;     /* of what was written */
    uint64_t at;      /* bytes written */
    uint64_t records; /* in it */
    struct buf out;   /* what was not written yet */
};

struct store {
    const struct store_io *io; /* the system */
    char *dir;                 /* path of the directory; owned */
    uint64_t segment_size;     /* from the options */
    uint64_t reserve_size;     /* from the options */
    uint64_t id;               /* drawn once; 0 = not known yet */
    struct crc_table crc;      /* filled at open, then read only */
    char error[STORE_ERROR_MAX]; /* "" = nothing failed so far */
    struct buf notices;        /* lines for the operator */
    int lock_fd;               /* never closed while running (fcntl) */
    int locked;                /* another process has the lock */
    uint64_t now;              /* ms; as of the last call that said it */
    uint64_t alive;            /* ms; of the writer before this opening */

    struct segment *segments; /* those that count, oldest first; owned */
    size_t segment_count;     /* how many */
    size_t segment_cap;       /* room in the table */
    uint64_t tick;            /* counts uses of descriptors */
    uint64_t total;           /* bytes of all segments */

    uint64_t last;     /* number of the last batch written */
    uint64_t last_at;  /* its time; times never go backwards in the log */
    uint32_t head;     /* its head */
    int unsynced;      /* 1 = the last batch is written but not synced */
    uint64_t sync_due; /* ms; when it must be */
    uint64_t syncs;    /* of the log since the opening */

    struct buf batch;       /* the batch being made, its `batch` line first */
    uint32_t batch_segment; /* where it will stand: segment */
    uint64_t batch_at;      /* and offset */
    uint32_t batch_records; /* in it so far */
    enum store_when want;   /* the soonest of them */
    uint64_t later_due;     /* ms; when it must be written; 0 = not known */
    struct buf *out;        /* where the open record goes; NULL = none */
    size_t line_at;         /* where in it its line begins */
    struct buf scratch;     /* the body given out last */

    int reserve;          /* 1 = the reserve stands */
    int full;             /* 1 = no room for it */
    uint64_t reserve_due; /* ms; when to try again */
    uint64_t room;        /* while full: bytes that can still be written */

    struct store_object *oldest; /* live objects in the order of the log */
    struct store_object *newest;
    int unsorted;            /* 1 = the index brought them in another order */
    uint64_t live;           /* bytes of their records */
    uint64_t turn_appended;  /* bytes of new records this turn */
    uint64_t turn_folded;    /* bytes of folded records this turn */
    uint64_t debt;           /* bytes folded beyond earlier turns' measure */
    int clean_late;          /* 1 = an object waits for a smaller batch */
    int clean_fits;          /* while full: 1 = the oldest segment's objects
                                fit into the room */

    struct replay replay;       /* reading back */
    struct audit audit;         /* and how */
    struct index_writer index;  /* checkpointing */
};

/* A path inside the directory, kept on the stack of whoever needs it. */
struct path {
    char s[DIR_MAX + 32]; /* NUL-ended */
};

static struct path path_make(const struct store *st, const char *name)
{
    struct path path;
    size_t n = strlen(st->dir);
    memcpy(path.s, st->dir, n);
    (void)snprintf(path.s + n, sizeof path.s - n, "/%s", name);
    return path;
}

static struct path path_segment(const struct store *st, uint32_t number,
                                const char *suffix)
{
    char name[32];
    (void)snprintf(name, sizeof name, "%08" PRIu32 "%s", number, suffix);
    return path_make(st, name);
}

/* The first failure is kept, and final.  Always -1. */
static int store_fail(struct store *st, const char *format, ...)
{
    va_list args;
    if (st->error[0] != '\0')
        return -1;
    va_start(args, format);
    (void)vsnprintf(st->error, sizeof st->error, format, args);
    va_end(args);
    return -1;
}

/* A call to the system failed, errno says why. */
static int store_fail_system(struct store *st, const char *path,
                             const char *what, const char *remedy)
{
    return store_fail(st, "%s: %s: %s; %s", path, what, strerror(errno),
                      remedy);
}

/* The log is damaged at this offset of this segment. */
static int store_fail_rot(struct store *st, uint32_t segment, uint64_t at,
                          const char *why)
{
    struct path path = path_segment(st, segment, ".log");
    return store_fail(st,
                      "%s: offset %" PRIu64 ": %s; the ledger is damaged, "
                      "restore this file from a copy",
                      path.s, at, why);
}

/* An audit notes a fault; what there is to say of it beyond place and reason
 * is the caller's.  Valid until the next one. */
static struct fault *fault_add(struct store *st, uint32_t segment, uint64_t at,
                               const char *why)
{
    struct fault fault;
    memset(&fault, 0, sizeof fault);
    fault.segment = segment;
    fault.at = fault.end = at;
    fault.why = why;
    buf_add(&st->audit.faults, &fault, sizeof fault);
    return (struct fault *)(void *)(st->audit.faults.p + st->audit.faults.n) -
           1;
}

static size_t fault_count(const struct store *st)
{
    return st->audit.faults.n / sizeof(struct fault);
}

static struct fault *fault_at(const struct store *st, size_t i)
{
    return (struct fault *)(void *)st->audit.faults.p + i;
}

static void store_notice(struct store *st, const char *format, ...)
{
    char line[STORE_ERROR_MAX];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof line, format, args);
    va_end(args);
    buf_text(&st->notices, line);
    buf_text(&st->notices, "\n");
}

static int store_failed(const struct store *st)
{
    return st->error[0] != '\0';
}

static const char remedy_disk[] = "look after the disk, then start again";
static const char remedy_access[] =
    "give the broker's user access to it, or use another directory";

/* ==== 4  Files =============================================================
 *
 * EINTR is retried where nothing can have been half done (open, read, write),
 * never after a sync.  A write goes on where the short one before it ended. */

static int file_open(struct store *st, const char *path, int flags)
{
    int fd;
    do {
        fd = st->io->open(st->io->ctx, path, flags, 0600);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* Nothing hangs on the result: what must be safe was synced before. */
static void file_close(struct store *st, int fd)
{
    int saved = errno;
    if (fd >= 0)
        (void)st->io->close(st->io->ctx, fd);
    errno = saved;
}

/* All n bytes, or -1; a file that ends early is an input/output error. */
static int file_read(struct store *st, int fd, uint8_t *p, size_t n,
                     uint64_t at)
{
    while (n > 0) {
        ssize_t got = st->io->pread(st->io->ctx, fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            errno = got == 0 ? EIO : errno;
            return -1;
        }
        p += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

/* Writes bytes [*done, n) of p to offset `at` + *done.  -1: *done tells how
 * far it came, so that it can be called again once there is room. */
static int file_write(struct store *st, int fd, const uint8_t *p, size_t n,
                      uint64_t at, size_t *done)
{
    while (*done < n) {
        ssize_t put = st->io->pwrite(st->io->ctx, fd, p + *done, n - *done,
                                     (off_t)(at + *done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            errno = put == 0 ? ENOSPC : errno;
            return -1;
        }
        *done += (size_t)put;
    }
    return 0;
}

/* A failed sync of names is as final as one of bytes. */
static int dir_sync(struct store *st)
{
    if (st->io->sync_dir(st->io->ctx, st->dir) < 0)
        return store_fail_system(st, st->dir, "cannot be synced",
                                 remedy_disk);
    return 0;
}

static int file_unlink(struct store *st, const char *path)
{
    if (st->io->unlink(st->io->ctx, path) < 0 && errno != ENOENT)
        return store_fail_system(st, path, "cannot be removed", remedy_disk);
    return 0;
}

static int error_is_full(int error)
{
    return error == ENOSPC || error == EDQUOT;
}

static void full_begin(struct store *st)
{
    st->full = 1;
    st->reserve_due = st->now + RESERVE_WAIT;
}

/* A call failed with errno.  If it was for want of room and the reserve
 * stands, gives it up: 1 = try the call again. */
static int reserve_drop(struct store *st)
{
    struct path path = path_make(st, "reserve");
    if (!error_is_full(errno) || !st->reserve)
        return 0;
    if (file_unlink(st, path.s) < 0)
        return 0;
    st->reserve = 0;
    st->room = st->reserve_size;
    full_begin(st);
    store_notice(st,
                 "%s: the disk is full, the reserve is given up; make room",
                 st->dir);
    return 1;
}

/* n bytes were written, maybe out of what the reserve had held. */
static void room_take(struct store *st, uint64_t n)
{
    st->room -= n < st->room ? n : st->room;
}

/* Writes the reserve: real bytes, since a hole reserves nothing.  *room is
 * how many there was room for. */
static int reserve_fill(struct store *st, int fd, uint64_t *room)
{
    uint8_t chunk[4096];
    *room = 0;
    memset(chunk, '.', sizeof chunk);
    chunk[sizeof chunk - 1] = '\n';
    for (uint64_t at = 0; at < st->reserve_size; at += sizeof chunk) {
        uint64_t left = st->reserve_size - at;
        size_t n = left < sizeof chunk ? (size_t)left : sizeof chunk;
        size_t done = 0;
        int bad = file_write(st, fd, chunk, n, at, &done);
        *room += done;
        if (bad < 0)
            return -1;
    }
    if (st->io->sync(st->io->ctx, fd) == 0)
        return 0;
    *room = 0; /* the system had promised more than it has */
    return -1;
}

/* Makes the reserve.  1 = it stands, 0 = no room for it, -1 = failed.  Its
 * own sync may fail for want of room: no promise hangs on its bytes. */
static int reserve_make(struct store *st)
{
    struct path path = path_make(st, "reserve");
    int fd = file_open(st, path.s, O_WRONLY | O_CREAT | O_TRUNC);
    uint64_t room = 0;
    int result = fd < 0 ? -1 : reserve_fill(st, fd, &room);
    int error = errno;
    file_close(st, fd);
    if (result == 0) {
        st->reserve = 1;
        return dir_sync(st) < 0 ? -1 : 1;
    }
    if (!error_is_full(error)) {
        errno = error;
        return store_fail_system(st, path.s, "cannot be written",
                                 remedy_disk);
    }
    st->room = room;
    return file_unlink(st, path.s);
}

/* Is it time, and is there room again? */
static void reserve_retry(struct store *st)
{
    if (!st->full || st->now < st->reserve_due)
        return;
    full_begin(st);
    if (reserve_make(st) == 1) {
        st->full = 0;
        store_notice(st, "%s: there is room again, the reserve stands",
                     st->dir);
    }
}

/* An audit goes on where a disk does not give its bytes back: they count as
 * zeros, and fail the checksums of what they belong to. */
static void reader_patch(struct store *st, const struct reader *r, uint8_t *p,
                         size_t n, uint64_t at)
{
    while (n > 0) {
        size_t piece = PATCH_SIZE - (size_t)(at % PATCH_SIZE);
        piece = piece < n ? piece : n;
        if (file_read(st, r->fd, p, piece, at) < 0)
            memset(p, 0, piece);
        p += piece;
        at += piece;
        n -= piece;
    }
}

/* n bytes from offset `at` on, all in memory; NULL if the file has no such
 * bytes or (r->error) they cannot be read.  Never more memory than the file
 * has bytes.  Valid until the next view. */
static uint8_t *reader_view(struct store *st, struct reader *r, uint64_t at,
                            uint64_t n)
{
    uint64_t size = n > READ_WINDOW ? n : READ_WINDOW;
    if (at > r->size || n > r->size - at || n == 0)
        return NULL;
    if (at >= r->at && at - r->at <= r->window.n &&
        n <= r->window.n - (at - r->at))
        return r->window.p + (at - r->at);
    if (size > r->size - at)
        size = r->size - at;
    r->window.n = 0;
    (void)buf_room(&r->window, (size_t)size);
    r->at = at;
    if (file_read(st, r->fd, r->window.p, (size_t)size, at) < 0) {
        if (!st->audit.active) {
            r->error = errno;
            return NULL;
        }
        reader_patch(st, r, r->window.p, (size_t)size, at);
    }
    r->window.n = (size_t)size;
    return r->window.p;
}

static void reader_start(struct reader *r, int fd, uint64_t size)
{
    r->fd = fd;
    r->error = 0;
    r->size = size;
    r->at = 0;
    r->window.n = 0;
}

/* ==== 5  Segments ========================================================= */

static struct segment *segment_current(struct store *st)
{
    assert(st->segment_count > 0);
    return &st->segments[st->segment_count - 1];
}

/* The segment that stands for this number now, or NULL. */
static struct segment *segment_resolve(struct store *st, uint32_t number)
{
    size_t low = 0, high = st->segment_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (st->segments[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == st->segment_count || st->segments[low].first > number)
        return NULL;
    return &st->segments[low];
}

/* Puts a segment into the table, at `place`. */
static struct segment *segment_insert(struct store *st, size_t place,
                                      const struct segment *segment)
{
    if (st->segment_count == st->segment_cap) {
        st->segment_cap = st->segment_cap * 2 + 16;
        st->segments = (struct segment *)mem_grow(
            st->segments, st->segment_cap * sizeof *st->segments);
    }
    memmove(st->segments + place + 1, st->segments + place,
            (st->segment_count - place) * sizeof *st->segments);
    st->segments[place] = *segment;
    st->segment_count++;
    st->total += segment->size;
    return &st->segments[place];
}

static void segment_remove(struct store *st, size_t place)
{
    file_close(st, st->segments[place].fd);
    st->total -= st->segments[place].size;
    st->segment_count--;
    memmove(st->segments + place, st->segments + place + 1,
            (st->segment_count - place) * sizeof *st->segments);
}

/* Closes the descriptor that was not used for the longest time, if there are
 * too many; the current segment's is never one of them. */
static void segment_fd_spare(struct store *st)
{
    struct segment *idle = NULL;
    size_t count = 0;
    for (size_t i = 0; i + 1 < st->segment_count; i++) {
        struct segment *segment = &st->segments[i];
        if (segment->fd < 0)
            continue;
        count++;
        if (idle == NULL || segment->used < idle->used)
            idle = segment;
    }
    if (count >= OPEN_MAX_READ) {
        file_close(st, idle->fd);
        idle->fd = -1;
    }
}

/* A descriptor to read it with, or -1: failed.  Good until the next call. */
static int segment_fd(struct store *st, struct segment *segment)
{
    segment->used = ++st->tick;
    if (segment->fd < 0) {
        struct path path = path_segment(st, segment->number, ".log");
        segment_fd_spare(st);
        segment->fd = file_open(st, path.s, O_RDONLY);
        if (segment->fd < 0)
            return store_fail_system(st, path.s, "cannot be opened",
                                     remedy_access);
    }
    return segment->fd;
}

/* Writes to a segment file; at a full disk, with the help of the reserve. */
static int segment_write(struct store *st, int fd, const char *path,
                         const uint8_t *p, size_t n, uint64_t at)
{
    size_t done = 0;
    while (file_write(st, fd, p, n, at, &done) < 0)
        if (!reserve_drop(st))
            return store_fail_system(st, path, "cannot be written",
                                     "make room or look after the disk, "
                                     "then start again");
    return 0;
}

/* The first line of a segment. */
static void segment_header_print(struct store *st, const struct segment *s,
                                 uint8_t line[SEGMENT_HEADER])
{
    char text[SEGMENT_HEADER + 64];
    uint32_t replaced = s->first < s->number;
    (void)snprintf(text, sizeof text,
                   "holdfast 1 store=%016" PRIx64 " segment=%08" PRIu32
                   " salt=%016" PRIx64 " replaces=%08" PRIu32 "-%08" PRIu32
                   " created=%014" PRIu64 " crc=00000000\n",
                   st->id, s->number, s->salt, replaced ? s->first : 0,
                   replaced ? s->number - 1 : 0, st->now);
    memcpy(line, text, SEGMENT_HEADER);
    crc_print(line + SEGMENT_HEADER - CRC_DIGITS,
              crc_add(&st->crc, 0, line, SEGMENT_HEADER - CRC_DIGITS));
}

/* Reads the first line; the number is what the file's name says. */
static int segment_header_parse(struct store *st, const uint8_t *line,
                                struct segment *segment, uint64_t *id)
{
    struct scan s = scan_begin(line, SEGMENT_HEADER);
    uint32_t first, last, crc;
    uint64_t number;
    scan_text(&s, "holdfast 1");
    *id = scan_field(&s, " store=", 16, 16);
    number = scan_field(&s, " segment=", 8, 10);
    segment->salt = scan_field(&s, " salt=", 16, 16);
    first = (uint32_t)scan_field(&s, " replaces=", 8, 10);
    last = (uint32_t)scan_field(&s, "-", 8, 10);
    (void)scan_field(&s, " created=", 14, 10);
    crc = (uint32_t)scan_field(&s, " crc=", 8, 16);
    scan_text(&s, "\n");
    if (!scan_done(&s) || number != segment->number || *id == 0 ||
        crc != crc_add(&st->crc, 0, line, SEGMENT_HEADER - CRC_DIGITS))
        return -1;
    if (first != 0 && (first > last || last != segment->number - 1))
        return -1;
    segment->first = first != 0 ? first : segment->number;
    return 0;
}

/* Is this the first line of a format that came after this one? */
static int segment_header_newer(const uint8_t *line, size_t n)
{
    struct scan s = scan_begin(line, n);
    uint64_t version = 0;
    scan_text(&s, "holdfast ");
    if (s.bad)
        return 0;
    for (int i = 0; i < 9 && s.p < s.end && *s.p >= '0' && *s.p <= '9'; i++)
        version = version * 10 + (uint64_t)(*s.p++ - '0');
    return version > 1 && s.p < s.end && *s.p == ' ';
}

/* A number of a first line that is damaged, taken from its fixed place. */
static uint64_t segment_header_guess(const uint8_t *line, const char *key,
                                     size_t width, unsigned base)
{
    static const char sample[] = SEGMENT_SAMPLE;
    size_t at = (size_t)(strstr(sample, key) - sample) + strlen(key);
    struct scan s = scan_begin(line + at, width);
    uint64_t number = scan_number(&s, width, base);
    return s.bad ? 0 : number;
}

/* The first line is bad, or from elsewhere.  A start is refused.  An audit
 * takes what can be made of it: if the salt is still right, the checksums of
 * the batches will prove it. */
static int segment_doubt(struct store *st, struct segment *s,
                         const uint8_t line[SEGMENT_HEADER], const char *why)
{
    uint64_t first = segment_header_guess(line, " replaces=", 8, 10);
    if (!st->audit.active)
        return store_fail_rot(st, s->number, 0, why);
    fault_add(st, s->number, 0, why)->end = SEGMENT_HEADER;
    s->doubt = 1;
    s->salt = segment_header_guess(line, " salt=", 16, 16);
    s->first = first > 0 && first < s->number ? (uint32_t)first : s->number;
    if (st->id == 0)
        st->id = segment_header_guess(line, " store=", 16, 16);
    if (s->size < SEGMENT_HEADER)
        s->size = SEGMENT_HEADER;
    return 0;
}

/* Opens the segment of this number and checks its first line. */
static int segment_load(struct store *st, uint32_t number,
                        struct segment *segment)
{
    struct path path = path_segment(st, number, ".log");
    uint8_t line[SEGMENT_HEADER];
    uint64_t id;
    size_t n = SEGMENT_HEADER;
    memset(line, 0, sizeof line);
    memset(segment, 0, sizeof *segment);
    segment->number = number;
    segment->fd = file_open(st, path.s, O_RDONLY);
    if (segment->fd < 0)
        return store_fail_system(st, path.s, "cannot be opened",
                                 remedy_access);
    if (st->io->size(st->io->ctx, segment->fd, &segment->size) < 0)
        return store_fail_system(st, path.s, "cannot be read", remedy_disk);
    if (segment->size < n)
        n = (size_t)segment->size;
    if (file_read(st, segment->fd, line, n, 0) < 0 && !st->audit.active)
        return store_fail_system(st, path.s, "cannot be read", remedy_disk);
    if (segment_header_newer(line, n) && !st->audit.active)
        return store_fail(st,
                          "%s: is of a newer format than this broker knows; "
                          "start the newer broker on it",
                          path.s);
    if (n < SEGMENT_HEADER ||
        segment_header_parse(st, line, segment, &id) < 0)
        return segment_doubt(st, segment, line,
                             segment_header_newer(line, n)
                                 ? "the first line is not valid, or of a newer "
                                   "format than this broker knows"
                                 : "the first line is not valid");
    if (st->id != 0 && st->id != id && st->audit.active)
        return segment_doubt(st, segment, line, "belongs to another store");
    if (st->id != 0 && st->id != id)
        return store_fail(st,
                          "%s: belongs to another store; restore the file "
                          "that was here",
                          path.s);
    st->id = id;
    return 0;
}

/* Begins NNNNNNNN.new with its first line; *segment is not yet in the table. */
static int segment_create(struct store *st, uint32_t number, uint32_t first,
                          struct segment *segment)
{
    struct path path = path_segment(st, number, ".new");
    uint8_t line[SEGMENT_HEADER];
    memset(segment, 0, sizeof *segment);
    segment->number = number;
    segment->first = first;
    segment->size = SEGMENT_HEADER;
    segment->fd = -1;
    if (number > SEGMENT_LAST)
        return store_fail(st, "%s: no segment number is left; begin a new "
                              "store", path.s);
    if (st->io->random(st->io->ctx, &segment->salt, sizeof segment->salt) < 0)
        return store_fail_system(st, path.s, "no random bytes for its salt",
                                 "see that /dev/urandom can be read");
    do {
        segment->fd = file_open(st, path.s, O_RDWR | O_CREAT | O_TRUNC);
    } while (segment->fd < 0 && reserve_drop(st));
    if (segment->fd < 0)
        return store_fail_system(st, path.s, "cannot be made", remedy_access);
    segment_header_print(st, segment, line);
    return segment_write(st, segment->fd, path.s, line, SEGMENT_HEADER, 0);
}

/* It could not be made: what there is of it must not take room. */
static void segment_abandon(struct store *st, const struct segment *segment)
{
    struct path path = path_segment(st, segment->number, ".new");
    file_close(st, segment->fd);
    (void)st->io->unlink(st->io->ctx, path.s);
}

/* Makes it safe under its final name: its bytes before its name, and both
 * before anything that depends on them. */
static int segment_publish(struct store *st, struct segment *segment)
{
    struct path from = path_segment(st, segment->number, ".new");
    struct path to = path_segment(st, segment->number, ".log");
    int result;
    if (st->io->sync(st->io->ctx, segment->fd) < 0)
        return store_fail_system(st, from.s, "cannot be synced", remedy_disk);
    do {
        result = st->io->rename(st->io->ctx, from.s, to.s);
    } while (result < 0 && reserve_drop(st));
    if (result < 0)
        return store_fail_system(st, from.s, "cannot be renamed",
                                 remedy_disk);
    return dir_sync(st);
}

/* Unlinks the segments that the last batch, now synced, says do not count. */
static int segments_release(struct store *st)
{
    int removed = 0;
    while (st->segment_count > 1 && st->segments[0].number < st->head) {
        struct path path = path_segment(st, st->segments[0].number, ".log");
        if (file_unlink(st, path.s) < 0)
            return -1;
        st->room += st->segments[0].size;
        segment_remove(st, 0);
        removed = 1;
    }
    return removed ? dir_sync(st) : 0;
}

/* Makes the last batch safe.  A failure is final, EINTR too: the system may
 * have dropped the bytes, and a second call would then lie. */
static int segment_sync(struct store *st)
{
    struct segment *segment = segment_current(st);
    struct path path = path_segment(st, segment->number, ".log");
    if (st->io->sync(st->io->ctx, segment->fd) < 0)
        return store_fail_system(st, path.s, "cannot be synced", remedy_disk);
    st->unsynced = 0;
    st->syncs++;
    return segments_release(st);
}

/* ==== 6  Batches ========================================================== */

/* Where both checksums of a batch begin. */
static uint32_t batch_salt(const struct store *st, const struct segment *s,
                           uint64_t offset)
{
    char text[80];
    int n = snprintf(text, sizeof text,
                     "%016" PRIx64 " %08" PRIu32 " %014" PRIu64
                     " %016" PRIx64 " ",
                     st->id, s->number, offset, s->salt);
    return crc_add(&st->crc, 0, text, (size_t)n);
}

/* Fills in both checksums of the whole batch of n bytes at p. */
static void batch_sign(const struct store *st, const struct segment *s,
                       uint64_t offset, uint8_t *p, size_t n)
{
    uint32_t salt = batch_salt(st, s, offset);
    crc_print(p + BATCH_HEADER - CRC_DIGITS,
              crc_add(&st->crc, salt, p, BATCH_HEADER - CRC_DIGITS));
    crc_print(p + n - CRC_DIGITS,
              crc_add(&st->crc, salt, p, n - BATCH_COMMIT));
}

/* Reads a `batch` line that stands at `offset`.  1 = it is valid there. */
static int batch_header_parse(const struct store *st, const struct segment *s,
                              uint64_t offset, const uint8_t *p,
                              struct batch *b)
{
    struct scan line = scan_begin(p, BATCH_HEADER);
    uint32_t crc;
    b->number = scan_field(&line, "batch ", 12, 10);
    b->head = (uint32_t)scan_field(&line, " head=", 8, 10);
    b->at = scan_field(&line, " at=", 14, 10);
    b->records = (uint32_t)scan_field(&line, " records=", 8, 10);
    b->bytes = scan_field(&line, " bytes=", 10, 10);
    crc = (uint32_t)scan_field(&line, " crc=", 8, 16);
    scan_text(&line, "\n");
    b->offset = offset;
    b->end = offset + BATCH_HEADER + b->bytes + BATCH_COMMIT;
    return scan_done(&line) &&
           crc == crc_add(&st->crc, batch_salt(st, s, offset), p,
                          BATCH_HEADER - CRC_DIGITS);
}

/* Reads the batch at `offset` whole.  1 = valid, and all of it is in the
 * window; 0 = not a valid batch; -1 = failed to read. */
static int batch_check(struct store *st, struct reader *r,
                       const struct segment *s, uint64_t offset,
                       struct batch *b)
{
    struct path path = path_segment(st, s->number, ".log");
    struct scan line;
    uint64_t number;
    uint32_t crc;
    uint8_t *p = reader_view(st, r, offset, BATCH_HEADER);
    if (p != NULL && !batch_header_parse(st, s, offset, p, b))
        return 0;
    if (p != NULL)
        p = reader_view(st, r, offset, b->end - offset);
    if (p == NULL && r->error != 0) {
        errno = r->error;
        return store_fail_system(st, path.s, "cannot be read", remedy_disk);
    }
    if (p == NULL)
        return 0;
    line = scan_begin(p + (b->end - offset - BATCH_COMMIT), BATCH_COMMIT);
    number = scan_field(&line, "commit ", 12, 10);
    crc = (uint32_t)scan_field(&line, " ", 8, 16);
    scan_text(&line, "\n");
    return scan_done(&line) && number == b->number &&
           crc == crc_add(&st->crc, batch_salt(st, s, offset), p,
                          BATCH_HEADER + (size_t)b->bytes);
}

/* Does a valid `batch` line stand anywhere behind `offset`?  If so the bad
 * batch at `offset` had been synced.  1 = *b is the next, 0, or -1 = failed to
 * read. */
static int batch_follows(struct store *st, struct reader *r,
                         const struct segment *s, uint64_t offset,
                         struct batch *b)
{
    uint64_t at = offset + 1;
    while (at < r->size && r->size - at >= BATCH_HEADER) {
        uint64_t left = r->size - at;
        size_t n = left < READ_WINDOW ? (size_t)left : READ_WINDOW;
        size_t starts = n - BATCH_HEADER + 1, i = 0;
        uint8_t *p = reader_view(st, r, at, n);
        if (p == NULL) {
            struct path path = path_segment(st, s->number, ".log");
            errno = r->error;
            return store_fail_system(st, path.s, "cannot be read",
                                     remedy_disk);
        }
        for (; i < starts; i++)
            if (p[i] == 'b' && memcmp(p + i, "batch ", 6) == 0 &&
                batch_header_parse(st, s, at + i, p + i, b))
                return 1;
        at += starts;
    }
    return 0;
}

/* batch_check() of the batch at *at.  An audit goes on with the next one that
 * can be read, and moves *at there; if there is none, to the last that began
 * well. */
static int batch_seek(struct store *st, struct reader *r,
                      const struct segment *s, uint64_t *at, struct batch *b)
{
    int good = batch_check(st, r, s, *at, b);
    while (good == 0 && st->audit.active &&
           batch_follows(st, r, s, *at, b) == 1) {
        *at = b->offset;
        good = batch_check(st, r, s, *at, b);
    }
    return good;
}

/* ==== 7  Objects ===========================================================
 *
 * Live objects hang in one list in the order of their latest whole records in
 * the log.  So the oldest segment's objects are the first of the list, and a
 * segment without live objects is known by looking at one pointer. */

static uint64_t object_size(const struct store_object *o)
{
    return (uint64_t)o->line_len + (o->body_len > 0 ? o->body_len + 1ull : 0);
}

static void object_unlink(struct store *st, struct store_object *o)
{
    if (o->prev != NULL)
        o->prev->next = o->next;
    else
        st->oldest = o->next;
    if (o->next != NULL)
        o->next->prev = o->prev;
    else
        st->newest = o->prev;
    st->live -= object_size(o);
}

/* Puts o, whose place is filled in, at the new end of the list. */
static void object_append(struct store *st, struct store_object *o)
{
    o->prev = st->newest;
    o->next = NULL;
    if (st->newest != NULL)
        st->newest->next = o;
    else
        st->oldest = o;
    st->newest = o;
    st->live += object_size(o);
}

static int object_before(const struct store_object *a,
                         const struct store_object *b)
{
    return a->segment != b->segment ? a->segment < b->segment
                                    : a->body_at < b->body_at;
}

/* Takes the objects that are in order off the front of *rest, as a list of
 * their own. */
static struct store_object *object_cut(struct store_object **rest)
{
    struct store_object *front = *rest, *last = front;
    while (last->next != NULL && !object_before(last->next, last))
        last = last->next;
    *rest = last->next;
    last->next = NULL;
    return front;
}

/* Merges two sorted lists. */
static struct store_object *object_merge(struct store_object *a,
                                         struct store_object *b)
{
    struct store_object *first = NULL, **end = &first;
    while (a != NULL && b != NULL) {
        int take_a = !object_before(b, a);
        *end = take_a ? a : b;
        if (take_a)
            a = a->next;
        else
            b = b->next;
        end = &(*end)->next;
    }
    *end = a != NULL ? a : b;
    return first;
}

/* Puts the list into the order of the log: a merge sort that needs no memory
 * and begins with the pieces that are in order.  An index has many short ones
 * and then, mostly, all messages in one, which is so passed over but once. */
static void object_sort(struct store *st)
{
    struct store_object *sorted[64] = {NULL}; /* [k]: of 2^k pieces, or none */
    struct store_object *rest = st->oldest, *o = NULL;
    while (rest != NULL) {
        size_t k = 0;
        for (o = object_cut(&rest); sorted[k] != NULL; k++) {
            o = object_merge(sorted[k], o);
            sorted[k] = NULL;
        }
        sorted[k] = o;
    }
    o = NULL;
    for (size_t k = 0; k < 64; k++)
        o = object_merge(sorted[k], o);
    st->oldest = o;
    st->newest = NULL;
    for (; o != NULL; o = o->next) {
        o->prev = st->newest;
        st->newest = o;
    }
}

void store_object_drop(struct store *st, struct store_object *o)
{
    uint8_t kind = o->kind;
    if (o->segment == 0)
        return;
    object_unlink(st, o);
    memset(o, 0, sizeof *o);
    o->kind = kind;
}

void store_object_adopt(struct store *st, struct store_object *o,
                        const struct store_record *rec)
{
    store_object_drop(st, o);
    o->segment = rec->segment;
    o->body_at = rec->body_at;
    o->body_len = (uint32_t)rec->body_len;
    o->body_crc = rec->body_crc;
    o->line_len = rec->line_len;
    if (st->newest != NULL && object_before(o, st->newest))
        st->unsorted = 1;
    object_append(st, o);
}

/* The body from the batch being made, or from its file, into scratch. */
static int body_read(struct store *st, const struct store_object *o)
{
    struct segment *segment;
    struct path path;
    int fd;
    st->scratch.n = 0;
    (void)buf_room(&st->scratch, (size_t)o->body_len + 1);
    if (st->batch.n > 0 && o->segment == st->batch_segment &&
        o->body_at >= st->batch_at) {
        memcpy(st->scratch.p, st->batch.p + (o->body_at - st->batch_at),
               o->body_len);
        return 0;
    }
    segment = segment_resolve(st, o->segment);
    assert(segment != NULL);
    fd = segment_fd(st, segment);
    if (fd < 0)
        return -1;
    if (file_read(st, fd, st->scratch.p, o->body_len, o->body_at) == 0)
        return 0;
    path = path_segment(st, segment->number, ".log");
    return store_fail(st, "%s: offset %" PRIu64 ": cannot be read: %s; %s",
                      path.s, o->body_at, strerror(errno), remedy_disk);
}

const uint8_t *store_body(struct store *st, const struct store_object *o)
{
    if (store_failed(st) || body_read(st, o) < 0)
        return NULL;
    if (crc_add(&st->crc, 0, st->scratch.p, o->body_len) != o->body_crc) {
        (void)store_fail_rot(st, o->segment, o->body_at,
                             "the body here fails its checksum");
        return NULL;
    }
    return st->scratch.p;
}

const uint8_t *store_body_peek(struct store *st, const struct store_object *o)
{
    const uint8_t *body;
    if (store_failed(st))
        return NULL;
    body = store_body(st, o);
    st->error[0] = '\0'; /* reading has changed nothing else */
    return body;
}

void store_body_refuse(struct store *st, const struct store_object *o,
                       const char *why)
{
    (void)store_fail_rot(st, o->segment, o->body_at, why);
}

/* ==== 8  Opening ===========================================================
 *
 * Everything that can refuse the start is looked at before anything is
 * changed: list, lock, log, index; only then the tail is moved. */

/* What the directory holds. */
struct listing {
    struct buf logs;  /* uint32_t numbers of NNNNNNNN.log */
    struct buf temps; /* uint32_t numbers of NNNNNNNN.new */
    uint32_t top;     /* the highest of both; 0 = none */
    int index_temp;   /* 1 = index.new is there */
    int reserve;      /* 1 = reserve is there */
    char foreign[64]; /* a name that is not ours; "" = none */
};

/* The number in NNNNNNNN<suffix>, or 0. */
static uint32_t name_number(const char *name, const char *suffix)
{
    size_t n = strlen(name);
    struct scan s = scan_begin((const uint8_t *)name, n);
    uint32_t number = (uint32_t)scan_number(&s, 8, 10);
    scan_text(&s, suffix);
    return scan_done(&s) ? number : 0;
}

static void listing_each(void *arg, const char *name)
{
    struct listing *l = (struct listing *)arg;
    uint32_t log = name_number(name, ".log");
    uint32_t temp = name_number(name, ".new");
    uint32_t number = log != 0 ? log : temp;
    if (number > l->top)
        l->top = number;
    if (log != 0)
        buf_add(&l->logs, &log, sizeof log);
    else if (temp != 0)
        buf_add(&l->temps, &temp, sizeof temp);
    else if (strcmp(name, "index.new") == 0)
        l->index_temp = 1;
    else if (strcmp(name, "reserve") == 0)
        l->reserve = 1;
    else if (strcmp(name, "lock") != 0 && strcmp(name, "index") != 0)
        (void)snprintf(l->foreign, sizeof l->foreign, "%s", name);
}

static void listing_free(struct listing *l)
{
    buf_free(&l->logs);
    buf_free(&l->temps);
}

static uint32_t listing_number(const struct buf *numbers, size_t i)
{
    uint32_t number;
    memcpy(&number, numbers->p + i * sizeof number, sizeof number);
    return number;
}

static size_t listing_count(const struct buf *numbers)
{
    return numbers->n / sizeof(uint32_t);
}

static int number_compare(const void *a, const void *b)
{
    uint32_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* Lists the directory, segment numbers rising.  A directory with other
 * people's files and no log is refused before a single file is made in it. */
static int listing_read(struct store *st, struct listing *l)
{
    listing_free(l);
    memset(l, 0, sizeof *l);
    if (st->io->list(st->io->ctx, st->dir, listing_each, l) < 0)
        return store_fail_system(st, st->dir, "cannot be listed",
                                 remedy_access);
    if (l->logs.n > 0)
        qsort(l->logs.p, listing_count(&l->logs), sizeof(uint32_t),
              number_compare);
    else if (l->foreign[0] != '\0')
        return store_fail(st,
                          "%s: is not a Holdfast store: it has no segment "
                          "but holds \"%s\"; use an empty directory",
                          st->dir, l->foreign);
    return 0;
}

static int directory_make(struct store *st)
{
    if (st->io->mkdir(st->io->ctx, st->dir, 0700) < 0 && errno != EEXIST)
        return store_fail_system(st, st->dir, "cannot be made",
                                 "see that its parent exists and can be "
                                 "written");
    return 0;
}

/* A new store: the directory's own name must be safe in its parent, else a
 * power cut takes all of it.  Asked of every new store, since the start that
 * made the directory may have died before it came here.  A parent that may
 * not be read cannot be synced; its owner made the directory long ago. */
static int directory_sync_name(struct store *st)
{
    struct path parent = path_make(st, "..");
    if (st->io->sync_dir(st->io->ctx, parent.s) < 0 && errno != EACCES)
        return store_fail_system(st, parent.s, "cannot be synced",
                                 remedy_disk);
    return 0;
}

/* Reads what the last writer left in the lock file; zeros if nothing, or if
 * its checksum is wrong: a flipped bit must not move the ledger's time, which
 * would end sessions. */
static void lock_read(struct store *st, uint64_t *pid, uint64_t *alive)
{
    uint8_t text[64];
    struct scan s;
    uint32_t crc;
    ssize_t n;
    do {
        n = st->io->pread(st->io->ctx, st->lock_fd, text, sizeof text, 0);
    } while (n < 0 && errno == EINTR);
    s = scan_begin(text, n < 0 ? 0 : (size_t)n);
    *pid = scan_field(&s, "pid=", 10, 10);
    *alive = scan_field(&s, " alive=", 14, 10);
    crc = (uint32_t)scan_field(&s, " crc=", 8, 16);
    scan_text(&s, "\n");
    if (s.bad || crc != crc_add(&st->crc, 0, text, LOCK_LINE - CRC_DIGITS))
        *pid = *alive = 0;
}

/* The descriptor stays open until the end: closing any descriptor of a file
 * gives up all fcntl locks on it. */
static int lock_take(struct store *st)
{
    struct path path = path_make(st, "lock");
    uint64_t pid;
    st->lock_fd = file_open(st, path.s, O_RDWR | O_CREAT);
    if (st->lock_fd < 0)
        return store_fail_system(st, path.s, "cannot be opened for writing",
                                 remedy_access);
    if (st->io->lock(st->io->ctx, st->lock_fd) == 0) {
        lock_read(st, &pid, &st->alive);
        return 0;
    }
    if (errno != EACCES && errno != EAGAIN)
        return store_fail_system(st, path.s, "cannot be locked",
                                 "use a file system with fcntl locks");
    lock_read(st, &pid, &st->alive);
    st->locked = 1;
    return store_fail(st,
                      "%s: is locked by process %" PRIu64 ", which serves "
                      "this store; stop it or use another directory",
                      path.s, pid);
}

/* Reads all batches of a segment.  Its size becomes the end of the last good
 * one; bytes behind that are a tear if `tail` and nothing valid follows. */
static int segment_check(struct store *st, struct segment *s, int tail)
{
    struct reader r;
    struct batch b;
    uint64_t at = SEGMENT_HEADER;
    int good = 1;
    memset(&r, 0, sizeof r);
    reader_start(&r, s->fd, s->size);
    while (at < s->size && (good = batch_seek(st, &r, s, &at, &b)) == 1) {
        if (at > SEGMENT_HEADER && b.number != st->last + 1 &&
            !st->audit.active)
            good = store_fail_rot(st, s->number, at,
                                  "a batch has the wrong number");
        if (good < 0)
            break;
        st->last = b.number;
        st->last_at = b.at;
        st->head = b.head;
        at = b.end;
    }
    if (good == 0 && tail)
        good = batch_follows(st, &r, s, at, &b) == 0;
    buf_free(&r.window);
    if (good == 0 && st->audit.active)
        return 0; /* the replay comes by and notes it */
    if (good <= 0)
        return store_fail_rot(st, s->number, at,
                              "a batch here cannot be read, yet later ones "
                              "were written");
    if (at < s->size) {
        struct path path = path_segment(st, s->number, ".log");
        store_notice(st,
                     "%s: offset %" PRIu64 ": the last batch is torn%s, %"
                     PRIu64 " bytes that were never acknowledged are cut%s",
                     path.s, at,
                     st->audit.active ? " or just being written" : "",
                     s->size - at,
                     st->audit.active ? " by the next start" : "");
        s->size = at;
    }
    return 0;
}

/* Segments that must be there are not, `last` the last of them. */
static int segments_missing(struct store *st, uint32_t first, uint32_t last)
{
    struct path path = path_segment(st, last, ".log");
    if (!st->audit.active)
        return store_fail(st,
                          "%s: this segment is missing; the ledger is "
                          "damaged, restore the file from a copy",
                          path.s);
    fault_add(st, last, 0, "this segment is missing")->files =
        last - first + 1;
    return 0;
}

/* What a damaged first line says that its segment replaces is no reason to
 * pass over a segment that is there: `below` is the next one. */
static void segment_doubt_replaced(struct segment *s, uint32_t below)
{
    if (s->doubt && s->first <= below)
        s->first = below + 1;
}

/* Walks the segments from the newest down: those that a later one replaces or
 * that are below the head do not count, all others must be there.  The last
 * batch is found in the newest, or below it if that one has none yet. */
static int log_load(struct store *st, const struct listing *l)
{
    uint32_t above = 0; /* first number that the table stands for; 0 = none */
    for (size_t i = listing_count(&l->logs); i-- > 0;) {
        uint32_t number = listing_number(&l->logs, i);
        struct segment segment;
        int bad;
        if ((above != 0 && number >= above) || number < st->head)
            continue;
        if (above != 0 && number != above - 1 &&
            segments_missing(st, number + 1, above - 1) < 0)
            return -1;
        bad = segment_load(st, number, &segment);
        if (bad == 0 && st->last == 0)
            bad = segment_check(st, &segment, above == 0 && !segment.doubt);
        if (bad < 0 || !st->audit.active) {
            file_close(st, segment.fd);
            segment.fd = -1;
        }
        if (bad < 0)
            return -1;
        segment_doubt_replaced(&segment,
                               i > 0 ? listing_number(&l->logs, i - 1) : 0);
        (void)segment_insert(st, 0, &segment);
        above = segment.first;
    }
    if (above > (st->head > 0 ? st->head : 1))
        return segments_missing(st, st->head > 0 ? st->head : 1, above - 1);
    return 0;
}

/* Checks the index's checksum and its last line.  NULL = sound, or why not. */
static const char *index_verify(struct store *st, struct reader *r,
                                uint64_t *body_end)
{
    struct scan s;
    uint32_t crc = 0, expected;
    uint64_t at = 0;
    uint8_t *p;
    if (r->size < INDEX_HEADER + INDEX_SEGMENT + INDEX_END)
        return "it is torn";
    *body_end = r->size - INDEX_END;
    while (at < *body_end) {
        uint64_t n = *body_end - at;
        n = n < READ_WINDOW ? n : READ_WINDOW;
        p = reader_view(st, r, at, n);
        if (p == NULL)
            return "it cannot be read";
        crc = crc_add(&st->crc, crc, p, (size_t)n);
        at += n;
    }
    p = reader_view(st, r, at, INDEX_END);
    if (p == NULL)
        return "it cannot be read";
    crc = crc_add(&st->crc, crc, p, INDEX_END - CRC_DIGITS);
    s = scan_begin(p, INDEX_END);
    (void)scan_field(&s, "end records=", 10, 10);
    expected = (uint32_t)scan_field(&s, " crc=", 8, 16);
    scan_text(&s, "\n");
    return !scan_done(&s) || crc != expected ? "it is torn or damaged" : NULL;
}

/* Copies of a store that went on by themselves have the same identity. */
static const char index_stray[] = "it belongs to another copy of this store";

/* Checks one `segment` line against the log, and keeps it as the place where
 * the log goes on. */
static const char *index_segment_check(struct store *st, const uint8_t *p)
{
    struct scan s = scan_begin(p, INDEX_SEGMENT);
    struct segment *segment;
    uint64_t salt;
    st->replay.resume_segment = (uint32_t)scan_field(&s, "segment ", 8, 10);
    st->replay.resume_at = scan_field(&s, " size=", 14, 10);
    salt = scan_field(&s, " salt=", 16, 16);
    scan_text(&s, "\n");
    if (!scan_done(&s))
        return "its list of segments is not valid";
    segment = segment_resolve(st, st->replay.resume_segment);
    if (segment == NULL)
        return "it is older than the last cleaning";
    if (segment->number == st->replay.resume_segment && segment->salt != salt)
        return index_stray;
    if (segment->size < st->replay.resume_at)
        return "a segment is shorter than it says";
    return NULL;
}

/* Does a batch of this number end where the index says that the log goes on?
 * If not, the index is of another copy, and a start from it would take its
 * place in the log for damage.  The salt has not told where that segment was
 * replaced by a copy of its own since. */
static int index_fits(struct store *st, uint64_t batch)
{
    struct segment *segment = segment_resolve(st, st->replay.resume_segment);
    uint64_t at = st->replay.resume_at;
    uint8_t line[BATCH_COMMIT];
    struct scan s = scan_begin(line, sizeof line);
    int fd;
    assert(segment != NULL); /* index_segment_check() saw it */
    if (at < SEGMENT_HEADER + BATCH_HEADER + BATCH_COMMIT)
        return at == SEGMENT_HEADER; /* it has no batch yet */
    fd = segment_fd(st, segment);
    return fd >= 0 &&
           file_read(st, fd, line, sizeof line, at - sizeof line) == 0 &&
           scan_field(&s, "commit ", 12, 10) == batch && !s.bad;
}

/* Checks the first lines.  NULL = it may be used, or why not. */
static const char *index_judge(struct store *st, struct reader *r,
                               uint64_t body_end)
{
    uint8_t *p = reader_view(st, r, 0, INDEX_HEADER);
    const char *why = NULL;
    struct scan s;
    uint64_t id, batch, segments, at = INDEX_HEADER;
    if (p == NULL)
        return "it cannot be read";
    s = scan_begin(p, INDEX_HEADER);
    id = scan_field(&s, "index 2 store=", 16, 16);
    batch = scan_field(&s, " batch=", 12, 10);
    (void)scan_field(&s, " at=", 14, 10);
    segments = scan_field(&s, " segments=", 8, 10);
    scan_text(&s, "\n");
    if (!scan_done(&s) || segments == 0)
        return "its first line is not valid";
    if (st->id != 0 && id != st->id)
        return "it belongs to another store";
    if (batch > st->last) {
        struct path path = path_make(st, "index");
        (void)store_fail(st,
                         "%s: knows batch %" PRIu64 ", but the log ends with "
                         "batch %" PRIu64 ": synced batches are lost; restore "
                         "the segments, or remove the index to accept it",
                         path.s, batch, st->last);
        return "";
    }
    for (; segments > 0 && why == NULL; segments--, at += INDEX_SEGMENT) {
        p = at < body_end ? reader_view(st, r, at, INDEX_SEGMENT) : NULL;
        why = p == NULL ? "it is not valid" : index_segment_check(st, p);
    }
    st->replay.last = batch;
    st->replay.at = at;
    if (why == NULL && at > body_end)
        why = "it is not valid";
    if (why == NULL && !index_fits(st, batch))
        why = index_stray;
    return why;
}

/* Opens the index if there is one, and decides whether replay uses it. */
static int index_load(struct store *st)
{
    struct path path = path_make(st, "index");
    struct reader *r = &st->replay.reader;
    const char *why = NULL;
    uint64_t size = 0, body_end = 0;
    int fd = file_open(st, path.s, O_RDONLY);
    st->replay.state = REPLAY_LOG;
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 || st->io->size(st->io->ctx, fd, &size) < 0)
        why = "it cannot be opened";
    reader_start(r, fd, size);
    if (why == NULL)
        why = index_verify(st, r, &body_end);
    if (why == NULL)
        why = index_judge(st, r, body_end);
    if (why == NULL) {
        st->replay.state = REPLAY_INDEX;
        st->replay.records_end = body_end;
        return 0;
    }
    file_close(st, fd);
    r->fd = -1;
    st->replay.last = 0;
    st->replay.resume_segment = 0;
    if (store_failed(st))
        return -1;
    store_notice(st, "%s: not used, %s; all of the log is read instead",
                 path.s, why);
    return 0;
}

/* ==== 9  The tail ========================================================= */

/* Removes the files that an earlier run left in the making.  First of all, as
 * a full disk may have no room for the tail but theirs; nothing depends on
 * them, so the sync of the fresh tail's name is soon enough. */
static int temps_remove(struct store *st, const struct listing *l)
{
    for (size_t i = 0; i < listing_count(&l->temps); i++) {
        uint32_t number = listing_number(&l->temps, i);
        struct path path = path_segment(st, number, ".new");
        if (file_unlink(st, path.s) < 0)
            return -1;
    }
    if (l->index_temp) {
        struct path path = path_make(st, "index.new");
        return file_unlink(st, path.s);
    }
    return 0;
}

/* Writes what was copied; at a full disk, with the help of the reserve. */
static int tail_write(struct store *st, const struct segment *from,
                      const struct segment *to, const struct buf *out)
{
    struct path path = path_segment(st, to->number, ".new");
    size_t done = 0;
    while (file_write(st, to->fd, out->p, out->n, to->size, &done) < 0)
        if (!reserve_drop(st))
            return store_fail(st,
                              "%s: cannot be written: %s; the start copies "
                              "the last segment and needs %" PRIu64
                              " bytes for it, make room or look after the "
                              "disk, then start again",
                              path.s, strerror(errno), from->size);
    return 0;
}

/* Copies the good batches of `from` to the same offsets of `to`, each one
 * verified and signed anew for its new place. */
static int tail_copy(struct store *st, const struct segment *from, int fd,
                     struct segment *to)
{
    struct reader r;
    struct batch b;
    struct buf out;
    int result = 0;
    memset(&r, 0, sizeof r);
    memset(&out, 0, sizeof out);
    reader_start(&r, fd, from->size);
    while (result == 0 && to->size + out.n < from->size) {
        uint64_t at = to->size + out.n;
        size_t n;
        result = batch_check(st, &r, from, at, &b) == 1
                     ? 0
                     : store_fail_rot(st, from->number, at,
                                      "a batch changed while it was read");
        if (result < 0)
            break;
        n = (size_t)(b.end - at);
        buf_add(&out, reader_view(st, &r, at, n), n);
        batch_sign(st, to, at, out.p + out.n - n, n);
        if (out.n >= MIB || b.end == from->size) {
            result = tail_write(st, from, to, &out);
            to->size += out.n;
            out.n = 0;
        }
    }
    buf_free(&r.window);
    buf_free(&out);
    return result;
}

/* Moves the tail into a fresh segment that replaces it, or begins the first
 * segment of a new store.  The old file is dead from the moment that the
 * fresh one has its name; leftovers_remove() unlinks it. */
static int tail_rewrite(struct store *st, uint32_t top)
{
    struct segment fresh, *old = NULL;
    int result;
    if (st->segment_count > 0)
        old = segment_current(st);
    if (st->id == 0 &&
        (st->io->random(st->io->ctx, &st->id, sizeof st->id) < 0 ||
         st->id == 0))
        return store_fail_system(st, st->dir, "no random bytes for its name",
                                 "see that /dev/urandom can be read");
    result = segment_create(st, top + 1, old != NULL ? old->first : 1, &fresh);
    if (result == 0 && old != NULL) {
        int fd = segment_fd(st, old);
        result = fd < 0 ? -1 : tail_copy(st, old, fd, &fresh);
    }
    if (result == 0)
        result = segment_publish(st, &fresh);
    if (result < 0) {
        segment_abandon(st, &fresh);
        return -1;
    }
    if (old != NULL)
        segment_remove(st, st->segment_count - 1);
    (void)segment_insert(st, st->segment_count, &fresh);
    return 0;
}

/* Removes what does not count any more: replaced segments and those below the
 * head, now that the batch that says so is certainly on disk. */
static int leftovers_remove(struct store *st, const struct listing *l)
{
    int removed = 0;
    for (size_t i = 0; i < listing_count(&l->logs); i++) {
        uint32_t number = listing_number(&l->logs, i);
        struct segment *segment = segment_resolve(st, number);
        struct path path = path_segment(st, number, ".log");
        if (segment != NULL && segment->number == number)
            continue;
        removed = 1;
        if (file_unlink(st, path.s) < 0)
            return -1;
    }
    return removed ? dir_sync(st) : 0;
}

/* The reserve is made at the first start and found at every other. */
static int reserve_open(struct store *st)
{
    struct path path = path_make(st, "reserve");
    uint64_t size = 0;
    int fd;
    if (st->full) { /* given up while the tail was moved */
        st->room = 0;  /* not known before the first look for it */
        return 0;
    }
    fd = file_open(st, path.s, O_RDONLY);
    if (fd >= 0 && st->io->size(st->io->ctx, fd, &size) < 0)
        size = 0;
    file_close(st, fd);
    st->reserve = fd >= 0;
    if (fd >= 0 && size == st->reserve_size)
        return 0;
    st->reserve = 0;
    if (reserve_make(st) < 0)
        return -1;
    if (!st->reserve) {
        full_begin(st);
        store_notice(st,
                     "%s: the disk is full, no room for the reserve; nothing "
                     "new is taken in until there is",
                     st->dir);
    }
    return 0;
}

/* When the last writer lived, as far as its lock file and batches tell.  The
 * ledger's time never goes back behind that. */
static void alive_read(struct store *st)
{
    if (st->last_at > st->alive)
        st->alive = st->last_at;
    if (st->segment_count == 0)
        st->alive = 0;
    if (st->alive <= st->now)
        return;
    store_notice(st,
                 "%s: the clock went back by %" PRIu64 " s since the store "
                 "was last written; time goes on from there, see that the "
                 "clock is right",
                 st->dir, (st->alive - st->now) / 1000);
    st->now = st->alive;
}

/* ==== 10  Replay ========================================================== */

/* Takes " body=<length> crc=<hex>" off the end of the line of *n bytes. */
static int record_body_parse(const uint8_t *line, size_t *n,
                             struct store_record *rec)
{
    struct scan s;
    size_t at = *n, digits = 0;
    rec->body_len = 0;
    rec->body_crc = 0;
    if (*n < 13 || memcmp(line + *n - 13, " crc=", 5) != 0)
        return 0;
    s = scan_begin(line + *n - 8, 8);
    rec->body_crc = (uint32_t)scan_number(&s, 8, 16);
    at -= 13;
    for (; at > 0 && digits <= 10 && line[at - 1] != '='; digits++)
        at--;
    if (s.bad || digits < 1 || digits > 10 || at < 7 ||
        memcmp(line + at - 6, " body=", 6) != 0)
        return -1;
    s = scan_begin(line + at, digits);
    rec->body_len = scan_number(&s, digits, 10);
    *n = at - 6;
    return s.bad || rec->body_len == 0 || rec->body_len > UINT32_MAX ? -1 : 0;
}

/* Copies the line's n bytes (no newline, no body field) and cuts its kind. */
static int record_line_parse(struct store *st, const uint8_t *p, size_t n,
                             struct store_record *rec)
{
    struct buf *line = &st->replay.line;
    char *text, *space;
    line->n = 0;
    buf_add(line, p, n);
    buf_add(line, "", 1);
    text = (char *)line->p;
    space = (char *)memchr(text, ' ', n);
    if (space != NULL)
        *space = '\0';
    rec->kind = text;
    rec->next = space != NULL ? space + 1 : text + n;
    rec->end = text + n;
    return text[0] >= 'a' && text[0] <= 'z' ? 0 : -1;
}

static int replay_rot(struct store *st, const char *why)
{
    struct replay *r = &st->replay;
    return store_fail_rot(st, st->segments[r->segment].number, r->at, why);
}

/* The rest of a batch cannot be cut into records, though its checksum is
 * right.  An audit goes on behind it. */
static int replay_rot_records(struct store *st, const char *why)
{
    struct replay *r = &st->replay;
    struct fault *fault;
    if (!st->audit.active)
        return replay_rot(st, why);
    fault = fault_add(st, st->segments[r->segment].number, r->at, why);
    fault->end = r->at = r->records_end;
    fault->records = r->left;
    r->left = 0;
    return 0;
}

/* What the caller sees of a file when it asks for all that was read. */
static void show_begin(struct store *st, uint64_t offset)
{
    char place[48];
    store_time_print(&st->audit.shown, st->replay.time);
    (void)snprintf(place, sizeof place, " %08" PRIu32 ".log:%-8" PRIu64 " ",
                   st->segments[st->replay.segment].number, offset);
    buf_text(&st->audit.shown, place);
}

static void show_batch(struct store *st, const struct batch *b)
{
    char line[128];
    if (!st->audit.show)
        return;
    (void)snprintf(line, sizeof line,
                   "batch %" PRIu64 ": sound, %" PRIu32 " records of %" PRIu64
                   " bytes\n",
                   b->number, b->records, b->bytes);
    show_begin(st, b->offset);
    buf_text(&st->audit.shown, line);
}

static void show_line(struct store *st, uint64_t offset, const char *what,
                      const uint8_t *line, size_t n)
{
    if (!st->audit.show)
        return;
    show_begin(st, offset);
    buf_text(&st->audit.shown, what);
    buf_add(&st->audit.shown, line, n);
    buf_text(&st->audit.shown, "\n");
}

/* Finds the end of the line at `at`, however long it is. */
static uint8_t *replay_line(struct store *st, uint64_t at, uint64_t end,
                            size_t *n)
{
    struct replay *r = &st->replay;
    uint64_t left = end - at;
    for (uint64_t size = 512;; size *= 2) {
        uint8_t *p, *newline;
        size = size < left ? size : left;
        p = reader_view(st, &r->reader, at, size);
        newline = p == NULL ? NULL : (uint8_t *)memchr(p, '\n', (size_t)size);
        if (newline != NULL) {
            *n = (size_t)(newline - p);
            return p;
        }
        if (p == NULL || size == left)
            return NULL;
    }
}

/* Could this be a record?  Kind, blank, key, "="; and no control characters,
 * which a value never has. */
static int lost_plausible(const uint8_t *p, size_t n)
{
    size_t i = 0;
    while (i < n && ((p[i] >= 'a' && p[i] <= 'z') || p[i] == '-'))
        i++;
    if (i == 0 || i == n || p[i] != ' ')
        return 0;
    for (i++; i < n && ((p[i] >= 'a' && p[i] <= 'z') || p[i] == '-'); i++)
        continue;
    if (i == n || p[i] != '=')
        return 0;
    for (; i < n; i++)
        if (p[i] < ' ' || p[i] == 0x7F)
            return 0;
    return 1;
}

/* What still reads like a record in the bytes that an audit went past: 1, or
 * 0 = no more.  It proves nothing, but tells what may be lost. */
static int lost_next(struct store *st, struct store_record *rec)
{
    struct replay *r = &st->replay;
    struct audit *a = &st->audit;
    while (a->lost_at < a->lost_end) {
        uint64_t at = a->lost_at;
        size_t n = 0, line;
        uint8_t *p = replay_line(st, at, a->lost_end, &n);
        if (p == NULL)
            break;
        line = n;
        a->lost_at = at + n + 1;
        if (!lost_plausible(p, n) || record_body_parse(p, &n, rec) < 0)
            continue;
        show_line(st, at, "LOST? ", p, line);
        if (record_line_parse(st, p, n, rec) < 0)
            continue;
        rec->lost = 1;
        rec->segment = st->segments[r->segment].number;
        rec->line_len = (uint32_t)line + 1;
        rec->body_at = at + rec->line_len;
        if (rec->body_len > 0 && rec->body_len < a->lost_end - a->lost_at) {
            p = reader_view(st, &r->reader, a->lost_at + rec->body_len, 1);
            if (p != NULL && *p == '\n') /* its body, not records */
                a->lost_at += rec->body_len + 1;
        }
        return 1;
    }
    a->lost_at = a->lost_end;
    return 0;
}

/* The next record of the batch in the window. */
static int replay_log_record(struct store *st, struct store_record *rec)
{
    struct replay *r = &st->replay;
    uint64_t left = r->records_end - r->at;
    uint8_t *p = reader_view(st, &r->reader, r->at, left);
    uint8_t *newline = NULL;
    size_t n, line;
    if (p != NULL)
        newline = (uint8_t *)memchr(p, '\n', (size_t)left);
    if (newline == NULL)
        return replay_rot_records(st, "a record has no end");
    line = n = (size_t)(newline - p);
    if (record_body_parse(p, &n, rec) < 0 ||
        record_line_parse(st, p, n, rec) < 0)
        return replay_rot_records(st, "a record is not valid");
    left -= line + 1;
    if (rec->body_len > 0 &&
        (left < rec->body_len + 1 || newline[1 + rec->body_len] != '\n'))
        return replay_rot_records(st, "a record's body has no end");
    show_line(st, r->at, "", p, line);
    rec->segment = st->segments[r->segment].number;
    rec->line_len = (uint32_t)line + 1;
    rec->body_at = r->at + rec->line_len;
    r->at = rec->body_at + (rec->body_len > 0 ? rec->body_len + 1 : 0);
    r->left--;
    rec->lost = 0;
    return 1;
}

/* An audit goes past what cannot be read, up to the next batch that begins
 * well, or to the end of the segment.  1, or -1 = failed. */
static int replay_skip(struct store *st)
{
    struct replay *r = &st->replay;
    const struct segment *s = &st->segments[r->segment];
    struct batch b;
    struct fault *fault;
    int more = batch_follows(st, &r->reader, s, r->at, &b);
    if (more < 0)
        return -1;
    fault = fault_add(st, s->number, r->at,
                      s->doubt ? "no batch here can be proven"
                               : "a batch here cannot be read, yet later ones "
                                 "were written");
    fault->end = more ? b.offset : s->size;
    fault->first = r->last != 0 ? r->last + 1 : 0;
    st->audit.open = fault_count(st);
    st->audit.lost_at = r->at;
    st->audit.lost_end = r->at = fault->end;
    return 1;
}

/* An audit has found a good batch: is it the one that was to come? */
static void replay_batch_expected(struct store *st, const struct batch *b)
{
    struct replay *r = &st->replay;
    struct segment *s = &st->segments[r->segment];
    struct fault *fault;
    s->from = s->good++ == 0 ? b->number : s->from;
    s->to = b->number;
    if (st->audit.open != 0) {
        fault_at(st, st->audit.open - 1)->last = b->number - 1;
    } else if (r->last != 0 && b->number != r->last + 1) {
        fault = fault_add(st, s->number, b->offset,
                          "batches are missing before this one");
        fault->first = r->last + 1;
        fault->last = b->number - 1;
    }
    st->audit.open = 0;
}

/* Only the newest segment may hold no batch; the next one could not tell what
 * the oldest has lost. */
static const char replay_empty[] = "the batches of this segment are missing";

/* Goes to the next batch: 1 = it has been verified (or, in an audit, passed
 * over), 0 = end, -1 = rot. */
static int replay_batch(struct store *st)
{
    struct replay *r = &st->replay;
    struct segment *s = &st->segments[r->segment];
    struct batch b;
    int good;
    while (r->at == s->size) {
        if (r->segment + 1 == st->segment_count)
            return 0;
        if (r->at == SEGMENT_HEADER && st->audit.active)
            (void)fault_add(st, s->number, r->at, replay_empty);
        else if (r->at == SEGMENT_HEADER)
            return replay_rot(st, replay_empty);
        r->segment++;
        s = &st->segments[r->segment];
        r->at = SEGMENT_HEADER;
        reader_start(&r->reader, -1, s->size);
    }
    r->reader.fd = segment_fd(st, s);
    if (r->reader.fd < 0)
        return -1;
    good = batch_check(st, &r->reader, s, r->at, &b);
    if (good == 0 && st->audit.active)
        return replay_skip(st);
    if (good != 1)
        return replay_rot(st, "a batch here cannot be read, yet later ones "
                              "were written");
    if (st->audit.active)
        replay_batch_expected(st, &b);
    else if (r->last != 0 && b.number != r->last + 1)
        return replay_rot(st, "batches are missing before this one");
    r->last = b.number;
    r->time = b.at;
    show_batch(st, &b);
    r->left = b.records;
    r->records_end = b.end - BATCH_COMMIT;
    r->at = b.offset + BATCH_HEADER;
    return 1;
}

/* The log from where it begins, or from where the index ends. */
static void replay_log_start(struct store *st)
{
    struct replay *r = &st->replay;
    struct segment *s = &st->segments[0];
    r->at = SEGMENT_HEADER;
    if (r->resume_segment != 0) {
        s = segment_resolve(st, r->resume_segment);
        assert(s != NULL); /* index_segment_check() saw it */
        r->at = r->resume_at;
    }
    r->segment = (size_t)(s - st->segments);
    r->left = 0;
    r->records_end = 0;
    reader_start(&r->reader, -1, s->size);
}

/* Everything is read: writing may begin. */
static int replay_end(struct store *st)
{
    struct replay *r = &st->replay;
    if (r->last != st->last && !st->audit.active)
        return store_fail(st,
                          "%s: the log ends with batch %" PRIu64 " where %"
                          PRIu64 " was found; the ledger is damaged, restore "
                          "it from a copy",
                          st->dir, r->last, st->last);
    buf_free(&r->reader.window);
    buf_free(&r->line);
    if (st->unsorted)
        object_sort(st);
    st->unsorted = 0;
    r->state = REPLAY_DONE;
    return 0;
}

/* The next record of the log. */
static int replay_log_next(struct store *st, struct store_record *rec)
{
    struct replay *r = &st->replay;
    int more = 1;
    while (more == 1 && r->left == 0) {
        if (lost_next(st, rec))
            return 1;
        if (r->records_end != 0 && r->at != r->records_end &&
            replay_rot_records(st, "a batch holds more than its records") < 0)
            return -1;
        if (r->records_end != 0)
            r->at += BATCH_COMMIT;
        r->records_end = 0;
        more = replay_batch(st);
    }
    if (more == 0)
        return replay_end(st);
    return more < 0 ? -1 : replay_log_record(st, rec);
}

/* Where an index record's body stands. */
static int index_place_parse(struct store *st, const uint8_t *p,
                             struct store_record *rec)
{
    struct scan s = scan_begin(p, INDEX_PLACE);
    struct segment *segment;
    uint64_t line_len;
    rec->segment = (uint32_t)scan_field(&s, " at=", 8, 10);
    rec->body_at = scan_field(&s, ":", 14, 10);
    line_len = scan_field(&s, " line=", 10, 10);
    rec->body_len = scan_field(&s, " body=", 10, 10);
    rec->body_crc = (uint32_t)scan_field(&s, " crc=", 8, 16);
    segment = scan_done(&s) ? segment_resolve(st, rec->segment) : NULL;
    if (segment == NULL || rec->body_at > segment->size ||
        rec->body_len > segment->size - rec->body_at ||
        rec->body_len > UINT32_MAX || line_len > rec->body_at)
        return -1;
    rec->line_len = (uint32_t)line_len;
    rec->segment = segment->number;
    return 0;
}

/* The next record of the index: 1, 0 = no more, -1 = failed.  Its checksum
 * was right at the opening, so nothing here is expected to fail. */
static int replay_index_next(struct store *st, struct store_record *rec)
{
    struct replay *r = &st->replay;
    uint8_t *p;
    size_t n = 0;
    if (r->at == r->records_end) {
        file_close(st, r->reader.fd);
        r->state = REPLAY_LOG;
        replay_log_start(st);
        return 0;
    }
    p = replay_line(st, r->at, r->records_end, &n);
    if (p == NULL || n <= INDEX_PLACE ||
        index_place_parse(st, p + n - INDEX_PLACE, rec) < 0 ||
        record_line_parse(st, p, n - INDEX_PLACE, rec) < 0) {
        struct path path = path_make(st, "index");
        return store_fail(st,
                          "%s: offset %" PRIu64 ": a record is not valid; "
                          "remove the index, the log holds everything",
                          path.s, r->at);
    }
    r->at += n + 1;
    rec->lost = 0;
    return 1;
}

int store_replay_next(struct store *st, struct store_record *rec)
{
    if (store_failed(st))
        return -1;
    if (st->replay.state == REPLAY_INDEX) {
        int more = replay_index_next(st, rec);
        if (more != 0)
            return more;
    }
    while (st->replay.state == REPLAY_LOG) {
        int more = replay_log_next(st, rec);
        if (more != 0 || st->replay.state == REPLAY_DONE)
            return more;
    }
    return 0;
}

int store_field_next(struct store *st, struct store_record *rec,
                     struct store_field *f)
{
    char *base = (char *)st->replay.line.p, *p, *end, *stop, *equal;
    long n;
    if (rec->next >= rec->end)
        return 0;
    p = base + (rec->next - base);
    end = base + (rec->end - base);
    stop = (char *)memchr(p, ' ', (size_t)(end - p));
    if (stop == NULL)
        stop = end;
    equal = (char *)memchr(p, '=', (size_t)(stop - p));
    if (equal == NULL || equal == p)
        return -1;
    rec->next = stop < end ? stop + 1 : end;
    n = text_unescape(equal + 1, (size_t)(stop - equal - 1));
    if (n < 0)
        return -1;
    *equal = '\0';
    equal[1 + n] = '\0';
    f->key = p;
    f->value = equal + 1;
    f->n = (size_t)n;
    return 1;
}

int store_field_number(const struct store_field *f, uint64_t max,
                       uint64_t *number)
{
    uint64_t value = 0;
    if (f->n == 0)
        return -1;
    for (size_t i = 0; i < f->n; i++) {
        int digit = digit_value((uint8_t)f->value[i], 10);
        if (digit < 0 || value > max / 10 ||
            (uint64_t)digit > max - value * 10)
            return -1;
        value = value * 10 + (uint64_t)digit;
    }
    *number = value;
    return 0;
}

int store_replay_refuse(struct store *st, const struct store_record *rec,
                        const char *why)
{
    uint64_t at = rec->body_at - rec->line_len;
    struct fault *fault;
    if (!st->audit.active)
        return store_fail_rot(st, rec->segment, at, why);
    fault = fault_add(st, rec->segment, at, why);
    fault->end = rec->body_at + (rec->body_len > 0 ? rec->body_len + 1 : 0);
    fault->records = 1;
    return 0;
}

/* ==== 11  Records ==========================================================
 *
 * Records go straight into the batch in memory.  Segment and offset of the
 * batch are settled with its first record, so every body's place is known
 * when it is written. */

/* Has the segment all that it should hold?  Less than else while the disk is
 * full: the next start must find room for a copy of the last one. */
static int segment_done(const struct store *st, const struct segment *s)
{
    uint64_t most = st->full ? st->segment_size / 16 : st->segment_size;
    return s->size >= most && (!st->full || s->size > SEGMENT_HEADER);
}

/* The first record of a batch: settle where the batch will stand. */
static void batch_begin(struct store *st)
{
    const struct segment *s = segment_current(st);
    int full = segment_done(st, s);
    st->batch_segment = full ? s->number + 1 : s->number;
    st->batch_at = full ? SEGMENT_HEADER : s->size;
    st->batch_records = 0;
    st->want = STORE_LATER;
    st->later_due = 0;
    (void)buf_room(&st->batch, BATCH_HEADER);
    st->batch.n = BATCH_HEADER; /* filled in by batch_write() */
}

void store_record_begin(struct store *st, const char *kind)
{
    if (store_failed(st))
        return;
    assert(st->replay.state == REPLAY_DONE && st->out == NULL);
    if (!st->index.active && st->batch.n == 0)
        batch_begin(st);
    st->out = st->index.active ? &st->index.out : &st->batch;
    st->line_at = st->out->n;
    buf_text(st->out, kind);
}

static void record_key(struct buf *out, const char *key)
{
    buf_add(out, " ", 1);
    buf_text(out, key);
    buf_add(out, "=", 1);
}

void store_record_number(struct store *st, const char *key, uint64_t number)
{
    char digits[20];
    if (st->out == NULL)
        return;
    record_key(st->out, key);
    buf_add(st->out, digits, number_print(digits, number));
}

void store_record_text(struct store *st, const char *key, const void *text,
                       size_t n)
{
    if (st->out == NULL)
        return;
    record_key(st->out, key);
    text_escape(st->out, (const uint8_t *)text, n);
}

/* Ends the line with the body's length and checksum, and adds the body.
 * Returns the length of the line. */
static uint32_t record_finish(struct store *st, enum store_when when,
                              const void *body, size_t n, uint32_t crc)
{
    uint8_t digits[8];
    uint32_t line;
    if (n > 0) {
        store_record_number(st, "body", n);
        crc_print(digits, crc);
        record_key(&st->batch, "crc");
        buf_add(&st->batch, digits, sizeof digits);
    }
    buf_add(&st->batch, "\n", 1);
    line = (uint32_t)(st->batch.n - st->line_at);
    buf_add(&st->batch, body, n);
    if (n > 0)
        buf_add(&st->batch, "\n", 1);
    st->batch_records++;
    if (when > st->want)
        st->want = when;
    st->out = NULL;
    return line;
}

/* The record just finished is now the object's. */
static void object_place(struct store *st, struct store_object *o,
                         uint32_t line, size_t n, uint32_t crc)
{
    store_object_drop(st, o);
    o->segment = st->batch_segment;
    o->body_at = st->batch_at + st->line_at + line;
    o->body_len = (uint32_t)n;
    o->body_crc = crc;
    o->line_len = line;
    object_append(st, o);
}

void store_record_end(struct store *st, enum store_when when)
{
    if (st->out == NULL)
        return;
    assert(!st->index.active);
    st->turn_appended += record_finish(st, when, NULL, 0, 0);
}

void store_record_end_object(struct store *st, enum store_when when,
                             struct store_object *o, const void *body,
                             size_t n)
{
    uint32_t crc, line;
    if (st->out == NULL)
        return;
    assert(!st->index.active && n <= UINT32_MAX);
    crc = n > 0 ? crc_add(&st->crc, 0, body, n) : 0;
    line = record_finish(st, when, body, n, crc);
    object_place(st, o, line, n, crc);
    st->turn_appended += object_size(o);
}

int store_record_end_fold(struct store *st, enum store_when when,
                          struct store_object *o)
{
    const uint8_t *body = NULL;
    uint32_t crc = o->body_crc, n = o->body_len, line;
    if (st->out == NULL)
        return -1;
    assert(!st->index.active);
    if (n > 0 && (body = store_body(st, o)) == NULL) {
        st->out = NULL;
        return -1;
    }
    line = record_finish(st, when, body, n, crc);
    object_place(st, o, line, n, crc);
    st->turn_folded += object_size(o);
    return 0;
}

/* ==== 12  Commit ========================================================== */

/* Makes the next segment, in which the batch will stand. */
static int segment_roll(struct store *st)
{
    struct segment fresh;
    if (segment_create(st, st->batch_segment, st->batch_segment, &fresh) < 0 ||
        segment_publish(st, &fresh) < 0) {
        segment_abandon(st, &fresh);
        return -1;
    }
    (void)segment_insert(st, st->segment_count, &fresh);
    return 0;
}

/* From `start` on, out holds room for a `batch` line and the records: fills in
 * the line (b: number, head, time, records), adds the `commit` line, signs
 * both for their place at b->offset of s. */
static void batch_finish(const struct store *st, const struct segment *s,
                         const struct batch *b, struct buf *out, size_t start)
{
    char line[BATCH_HEADER + 64];
    uint64_t bytes = out->n - start - BATCH_HEADER;
    (void)snprintf(line, sizeof line,
                   "batch %012" PRIu64 " head=%08" PRIu32 " at=%014" PRIu64
                   " records=%08" PRIu32 " bytes=%010" PRIu64
                   " crc=00000000\n",
                   b->number, b->head, b->at, b->records, bytes);
    memcpy(out->p + start, line, BATCH_HEADER);
    (void)snprintf(line, sizeof line, "commit %012" PRIu64 " 00000000\n",
                   b->number);
    buf_add(out, line, BATCH_COMMIT);
    batch_sign(st, s, b->offset, out->p + start, out->n - start);
}

/* Writes the batch in hand.  The one before it must be safe first: this is
 * what lets recovery tell a tear from rot. */
static int batch_write(struct store *st)
{
    struct segment *s;
    struct batch b;
    struct path path;
    int result;
    if (st->unsynced && segment_sync(st) < 0)
        return -1;
    if (st->batch_segment != segment_current(st)->number &&
        segment_roll(st) < 0)
        return -1;
    s = segment_current(st);
    path = path_segment(st, s->number, ".log");
    b.number = ++st->last;
    b.at = st->last_at = st->now > st->last_at ? st->now : st->last_at;
    b.head = st->head =
        st->oldest != NULL ? st->oldest->segment : st->batch_segment;
    b.offset = st->batch_at;
    b.records = st->batch_records;
    batch_finish(st, s, &b, &st->batch, 0);
    result = segment_write(st, s->fd, path.s, st->batch.p, st->batch.n,
                           st->batch_at);
    if (result < 0)
        return -1;
    s->size += st->batch.n;
    st->total += st->batch.n;
    room_take(st, st->batch.n);
    st->unsynced = 1;
    st->sync_due = st->now + SYNC_WAIT;
    st->batch.n = 0;
    if (st->batch.cap > 4 * MIB) /* one great turn; do not keep its memory */
        buf_free(&st->batch);
    return 0;
}

static int batch_due(const struct store *st)
{
    return st->batch.n > 0 &&
           (st->want > STORE_LATER || st->now >= st->later_due ||
            st->batch.n >= LATER_BYTES);
}

/* Bytes that cleaning may copy this turn; what an earlier turn copied beyond
 * its measure (one object too large for it) is paid back first. */
static uint64_t clean_measure(const struct store *st)
{
    return 2 * st->turn_appended + CLEAN_CHUNK;
}

static void clean_settle(struct store *st)
{
    uint64_t owed = st->debt + st->turn_folded;
    uint64_t measure = clean_measure(st);
    if (st->turn_appended > 0)
        st->debt = owed > measure ? owed - measure : 0;
    else
        st->debt = owed;
    st->turn_appended = 0;
    st->turn_folded = 0;
}

/* While the disk is full: would all that lives in the oldest segment fit into
 * the room, and leave a quarter of the reserve for deletions?  If not, moving
 * a part of it would only take room and give none back. */
static int clean_fits(const struct store *st)
{
    uint64_t need = st->reserve_size / 4;
    const struct store_object *o = st->oldest;
    uint32_t segment = o != NULL ? o->segment : 0;
    for (; o != NULL && o->segment == segment && need <= st->room; o = o->next)
        need += object_size(o);
    return need <= st->room;
}

size_t store_pending(const struct store *st)
{
    return st->batch.n > 0 ? st->batch.n - BATCH_HEADER : 0;
}

int store_commit(struct store *st, uint64_t now)
{
    int safe = 0; /* 1 = this turn asks for a sync */
    if (store_failed(st))
        return -1;
    assert(st->replay.state == REPLAY_DONE && st->out == NULL);
    if (now > st->now)
        st->now = now;
    clean_settle(st);
    if (st->batch.n > 0 && st->later_due == 0)
        st->later_due = st->now + LATER_WAIT;
    if (batch_due(st)) {
        safe = st->want == STORE_NOW;
        if (batch_write(st) < 0)
            return -1;
    }
    if (st->unsynced && (safe || st->now >= st->sync_due) &&
        segment_sync(st) < 0)
        return -1;
    reserve_retry(st);
    if (st->full)
        st->clean_fits = clean_fits(st);
    return store_failed(st) ? -1 : 0;
}

uint64_t store_due(const struct store *st)
{
    uint64_t due = UINT64_MAX;
    if (store_failed(st))
        return due;
    if (st->batch.n > 0)
        due = st->want > STORE_LATER ? 0 : st->later_due;
    if (st->unsynced && st->sync_due < due)
        due = st->sync_due;
    if (st->full && st->reserve_due < due)
        due = st->reserve_due;
    return due;
}

/* ==== 13  Cleaning and index ============================================== */

/* Cleaning is due when half of the log is dead, but never below one segment
 * and a half: with the copying itself (half as much again as what is
 * appended meanwhile, and one segment) the log stays under three times the
 * live bytes and two segments. */
static int clean_due(const struct store *st)
{
    uint64_t least = st->segment_size + st->segment_size / 2;
    uint64_t most = 2 * st->live > least ? 2 * st->live : least;
    return st->total + st->batch.n > most;
}

/* Cleaning never makes a batch so large that the reserve could not take it
 * and keep a quarter.  An object too large for what is left of that waits for
 * a turn in which the batch is smaller, be it one that appends nothing. */
static int clean_put_off(struct store *st, const struct store_object *o)
{
    uint64_t most = st->reserve_size - st->reserve_size / 4;
    if (st->batch.n == 0 || st->batch.n + object_size(o) <= most)
        return 0;
    st->clean_late = 1;
    return 1;
}

/* First in, first out: the oldest segment's objects, until none is left and
 * the next batch's head passes it (batch_finish()). */
struct store_object *store_clean_next(struct store *st)
{
    const struct store_object *o = st->oldest;
    if (store_failed(st) || o == NULL || st->segment_count < 2 ||
        o->segment != st->segments[0].number ||
        (st->turn_appended == 0 && !st->clean_late) ||
        st->debt + st->turn_folded >= clean_measure(st) || !clean_due(st) ||
        (st->full && !st->clean_fits) || clean_put_off(st, o))
        return NULL;
    st->clean_late = 0;
    return st->oldest;
}

/* The index is only a cache: whatever fails, the store goes on without. */
static void index_abandon(struct store *st, const char *why)
{
    struct path path = path_make(st, "index.new");
    if (st->index.fd < 0)
        return;
    file_close(st, st->index.fd);
    st->index.fd = -1;
    (void)st->io->unlink(st->io->ctx, path.s);
    store_notice(st, "%s: not written: %s; the next start reads all of the log",
                 path.s, why);
}

/* Writes what has gathered. */
static void index_flush(struct store *st)
{
    struct index_writer *x = &st->index;
    size_t done = 0;
    if (x->fd >= 0 && x->out.n > 0) {
        x->crc = crc_add(&st->crc, x->crc, x->out.p, x->out.n);
        if (file_write(st, x->fd, x->out.p, x->out.n, x->at, &done) < 0)
            index_abandon(st, strerror(errno));
        x->at += x->out.n;
    }
    x->out.n = 0;
}

/* The index's first lines: the segments from the oldest live object on. */
static void index_header(struct store *st)
{
    char line[INDEX_HEADER + 64];
    const struct segment *s = segment_current(st);
    size_t i = 0;
    int n;
    if (st->oldest != NULL)
        s = segment_resolve(st, st->oldest->segment);
    i = (size_t)(s - st->segments);
    n = snprintf(line, sizeof line,
                 "index 2 store=%016" PRIx64 " batch=%012" PRIu64
                 " at=%014" PRIu64 " segments=%08zu\n",
                 st->id, st->last, st->now, st->segment_count - i);
    buf_add(&st->index.out, line, (size_t)n);
    for (; i < st->segment_count; i++) {
        n = snprintf(line, sizeof line,
                     "segment %08" PRIu32 " size=%014" PRIu64
                     " salt=%016" PRIx64 "\n",
                     st->segments[i].number, st->segments[i].size,
                     st->segments[i].salt);
        buf_add(&st->index.out, line, (size_t)n);
    }
}

void store_index_begin(struct store *st)
{
    struct path path = path_make(st, "index.new");
    struct index_writer *x = &st->index;
    assert(!x->active && st->out == NULL);
    assert(st->replay.state == REPLAY_DONE || store_failed(st));
    memset(x, 0, sizeof *x);
    x->active = 1;
    x->fd = -1;
    /* The index must never know more than the log: all of it first. */
    if (store_failed(st) || (st->batch.n > 0 && batch_write(st) < 0) ||
        (st->unsynced && segment_sync(st) < 0))
        return;
    if (st->full) {
        store_notice(st, "%s: not written: the disk is full", path.s);
        return;
    }
    x->fd = file_open(st, path.s, O_WRONLY | O_CREAT | O_TRUNC);
    if (x->fd < 0) {
        store_notice(st, "%s: not written: %s", path.s, strerror(errno));
        return;
    }
    index_header(st);
}

void store_record_end_index(struct store *st, const struct store_object *o)
{
    char place[INDEX_PLACE + 64];
    if (st->out == NULL)
        return;
    assert(st->index.active && o->segment != 0);
    (void)snprintf(place, sizeof place,
                   " at=%08" PRIu32 ":%014" PRIu64 " line=%010" PRIu32
                   " body=%010" PRIu32 " crc=%08" PRIx32 "\n",
                   o->segment, o->body_at, o->line_len, o->body_len,
                   o->body_crc);
    buf_add(st->out, place, INDEX_PLACE + 1);
    st->out = NULL;
    st->index.records++;
    if (st->index.out.n >= MIB)
        index_flush(st);
}

/* The last line; its checksum covers its own beginning too. */
static void index_finish(struct store *st)
{
    struct index_writer *x = &st->index;
    char text[INDEX_END + 64];
    uint8_t line[INDEX_END];
    index_flush(st);
    (void)snprintf(text, sizeof text,
                   "end records=%010" PRIu64 " crc=00000000\n", x->records);
    memcpy(line, text, INDEX_END);
    crc_print(line + INDEX_END - CRC_DIGITS,
              crc_add(&st->crc, x->crc, line, INDEX_END - CRC_DIGITS));
    buf_add(&x->out, line, INDEX_END);
    index_flush(st);
}

int store_index_end(struct store *st)
{
    struct path from = path_make(st, "index.new");
    struct path to = path_make(st, "index");
    struct index_writer *x = &st->index;
    int result = -1;
    assert(x->active && st->out == NULL);
    index_finish(st);
    if (x->fd >= 0 && st->io->sync(st->io->ctx, x->fd) < 0)
        index_abandon(st, strerror(errno));
    if (x->fd >= 0 && st->io->rename(st->io->ctx, from.s, to.s) < 0)
        index_abandon(st, strerror(errno));
    if (x->fd >= 0) {
        file_close(st, x->fd);
        result = dir_sync(st);
    }
    buf_free(&x->out);
    x->fd = -1;
    x->active = 0;
    return result;
}

int store_full(const struct store *st)
{
    return st->full;
}

/* Not synced, and a failure is not worth a word: it only tells the next
 * start how long the process lived. */
void store_alive(struct store *st, uint64_t now)
{
    char line[64];
    (void)snprintf(line, sizeof line,
                   "pid=%010ld alive=%014" PRIu64 " crc=00000000\n",
                   (long)getpid(), now);
    crc_print((uint8_t *)line + LOCK_LINE - CRC_DIGITS,
              crc_add(&st->crc, 0, line, LOCK_LINE - CRC_DIGITS));
    if (!store_failed(st))
        (void)st->io->pwrite(st->io->ctx, st->lock_fd, line, LOCK_LINE, 0);
}

uint64_t store_last_alive(const struct store *st)
{
    return st->alive;
}

const char *store_error(const struct store *st)
{
    return store_failed(st) ? st->error : NULL;
}

struct buf *store_notices(struct store *st)
{
    return &st->notices;
}

struct store_figures store_figures(const struct store *st)
{
    struct store_figures f;
    f.live_bytes = st->live;
    f.total_bytes = st->total;
    f.segments = st->segment_count;
    f.batches = st->last;
    f.syncs = st->syncs;
    return f;
}

/* ==== 14  Open and close ================================================== */

static void store_free(struct store *st)
{
    if (st->replay.state == REPLAY_INDEX)
        file_close(st, st->replay.reader.fd);
    while (st->segment_count > 0)
        segment_remove(st, st->segment_count - 1);
    file_close(st, st->lock_fd);
    buf_free(&st->notices);
    buf_free(&st->batch);
    buf_free(&st->scratch);
    buf_free(&st->replay.reader.window);
    buf_free(&st->replay.line);
    buf_free(&st->index.out);
    buf_free(&st->audit.faults);
    buf_free(&st->audit.lines);
    buf_free(&st->audit.ahead);
    buf_free(&st->audit.shown);
    free(st->segments);
    free(st->dir);
    free(st);
}

static struct store *store_new(const struct store_options *options,
                               uint64_t now)
{
    struct store *st = (struct store *)mem_new(sizeof *st);
    size_t n = strlen(options->dir);
    st->io = options->io != NULL ? options->io : &store_io_posix;
    st->segment_size =
        options->segment_size != 0 ? options->segment_size : SEGMENT_SIZE;
    st->reserve_size =
        options->reserve_size != 0 ? options->reserve_size : RESERVE_SIZE;
    st->dir = (char *)mem_grow(NULL, n + 1);
    memcpy(st->dir, options->dir, n + 1);
    st->lock_fd = -1;
    st->index.fd = -1;
    st->now = now;
    st->replay.state = REPLAY_LOG;
    crc_prepare(&st->crc);
    return st;
}

/* Looks first, changes afterwards; see section 8. */
static int store_start(struct store *st, struct listing *l)
{
    if (strlen(st->dir) == 0 || strlen(st->dir) > DIR_MAX)
        return store_fail(st, "%.64s: no path for a store; use 1 to %d bytes",
                          st->dir, DIR_MAX);
    if (directory_make(st) < 0 || listing_read(st, l) < 0 ||
        lock_take(st) < 0 || listing_read(st, l) < 0 || log_load(st, l) < 0 ||
        index_load(st) < 0)
        return -1;
    if (l->logs.n == 0 && directory_sync_name(st) < 0)
        return -1;
    alive_read(st);
    st->reserve = l->reserve;
    if (temps_remove(st, l) < 0 || tail_rewrite(st, l->top) < 0 ||
        leftovers_remove(st, l) < 0 || reserve_open(st) < 0)
        return -1;
    if (st->replay.state == REPLAY_LOG)
        replay_log_start(st);
    store_alive(st, st->now);
    return 0;
}

struct store *store_open(const struct store_options *options, uint64_t now,
                         char err[STORE_ERROR_MAX])
{
    struct store *st = store_new(options, now);
    struct listing l;
    int result;
    memset(&l, 0, sizeof l);
    result = store_start(st, &l);
    listing_free(&l);
    err[0] = '\0';
    if (result == 0)
        return st;
    memcpy(err, st->error, STORE_ERROR_MAX);
    int locked = st->locked;
    store_free(st);
    errno = locked ? EAGAIN : 0;
    return NULL;
}

/* The seal is an empty batch: a good one after which nothing may be bad. */
void store_close(struct store *st, int clean)
{
    if (clean && !st->audit.active && !store_failed(st) &&
        st->replay.state == REPLAY_DONE && st->out == NULL &&
        !st->index.active) {
        int bad = st->batch.n > 0 ? batch_write(st) : 0;
        if (bad == 0) {
            batch_begin(st);
            bad = batch_write(st);
        }
        if (bad == 0)
            (void)segment_sync(st);
    }
    store_free(st);
}

/* ==== 15  Audit ============================================================
 *
 * The start's own reading (sections 8 and 10), except that damage is noted and
 * passed over, that all files stay open from the opening on, and that nothing
 * is written.
 *
 * Beside a running broker the log moves on.  What was listed and opened stays
 * readable, even when cleaning unlinks it; a batch that is just being written
 * is the torn end that any crash leaves, no fault.  Only the list itself may
 * be wrong, as it is not read in one moment: a segment may be gone when it is
 * to be opened, or seem to be missing between two others, and the index may
 * be newer than what was read before it.  So whatever is found wrong at the
 * opening counts only if a second look, from the list on, finds it too. */

/* The time that the lock file and the last batch tell. */
static void audit_alive(struct store *st)
{
    struct path path = path_make(st, "lock");
    st->lock_fd = file_open(st, path.s, O_RDONLY);
    if (st->lock_fd >= 0) {
        lock_read(st, &st->audit.pid, &st->alive);
        file_close(st, st->lock_fd);
        st->lock_fd = -1;
    }
    if (st->last_at > st->alive)
        st->alive = st->last_at;
    if (st->alive > st->now)
        st->now = st->alive;
}

/* The index is judged as by a start, and then left alone. */
static void audit_index(struct store *st)
{
    struct replay *r = &st->replay;
    if (index_load(st) < 0) {
        buf_text(&st->audit.ahead, st->error);
        buf_text(&st->audit.ahead, "\n");
        st->error[0] = '\0';
    }
    st->audit.index = r->state == REPLAY_INDEX;
    if (st->audit.index)
        file_close(st, r->reader.fd);
    r->state = REPLAY_LOG;
    r->last = 0;
    r->resume_segment = 0;
}

/* The store's name, from the newest segment whose first line is good: the
 * checksums of all batches begin with it. */
static void audit_name(struct store *st, const struct listing *l)
{
    for (size_t i = listing_count(&l->logs); i-- > 0 && st->id == 0;) {
        struct segment s;
        uint8_t line[SEGMENT_HEADER];
        uint64_t id;
        struct path path;
        int fd;
        s.number = listing_number(&l->logs, i);
        path = path_segment(st, s.number, ".log");
        fd = file_open(st, path.s, O_RDONLY);
        if (fd >= 0 && file_read(st, fd, line, sizeof line, 0) == 0 &&
            segment_header_parse(st, line, &s, &id) == 0)
            st->id = id;
        file_close(st, fd);
    }
}

/* One look at the store. */
static struct store *audit_look(const struct store_options *options,
                                uint64_t now, int show)
{
    struct store *st = store_new(options, now);
    struct listing l;
    memset(&l, 0, sizeof l);
    st->audit.active = 1;
    st->audit.show = show;
    if (strlen(st->dir) == 0 || strlen(st->dir) > DIR_MAX) {
        (void)store_fail(st, "%.64s: no path for a store; use 1 to %d bytes",
                         st->dir, DIR_MAX);
    } else if (listing_read(st, &l) == 0) {
        if (l.logs.n == 0)
            (void)store_fail(st, "%s: holds no ledger; name the directory of "
                                 "a store", st->dir);
        audit_name(st, &l);
        if (!store_failed(st) && log_load(st, &l) == 0) {
            audit_index(st);
            audit_alive(st);
        }
    }
    listing_free(&l);
    return st;
}

static int audit_clear(const struct store *st)
{
    return !store_failed(st) && fault_count(st) == 0 && st->audit.ahead.n == 0;
}

/* Did both looks find the same wrong? */
static int audit_agree(const struct store *a, const struct store *b)
{
    size_t n = a->audit.faults.n;
    return strcmp(a->error, b->error) == 0 && n == b->audit.faults.n &&
           (n == 0 || memcmp(a->audit.faults.p, b->audit.faults.p, n) == 0) &&
           a->audit.ahead.n == b->audit.ahead.n;
}

struct store *store_audit(const struct store_options *options, uint64_t now,
                          int show, char err[STORE_ERROR_MAX])
{
    struct store *st = audit_look(options, now, show);
    int agree = audit_clear(st);
    for (int i = 0; i < AUDIT_TRIES && !agree; i++) {
        struct store *before = st;
        st = audit_look(options, now, show);
        agree = audit_clear(st) || audit_agree(before, st);
        store_free(before);
    }
    err[0] = '\0';
    if (!store_failed(st)) {
        replay_log_start(st);
        return st;
    }
    memcpy(err, st->error, STORE_ERROR_MAX);
    store_free(st);
    return NULL;
}

struct buf *store_shown(struct store *st)
{
    return &st->audit.shown;
}

static int fault_compare(const void *a, const void *b)
{
    const struct fault *x = (const struct fault *)a;
    const struct fault *y = (const struct fault *)b;
    if (x->segment != y->segment)
        return x->segment < y->segment ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

/* Which batches went with the damage, as far as their neighbours tell. */
static void fault_print_batches(struct buf *out, const struct fault *f)
{
    if (f->first != 0 && f->last == f->first)
        buf_print(out, "; batch %" PRIu64 " is lost", f->first);
    else if (f->first != 0 && f->last > f->first)
        buf_print(out, "; batches %" PRIu64 " to %" PRIu64 " are lost",
                  f->first, f->last);
    else if (f->first != 0 && f->last == 0)
        buf_print(out, "; the batches from %" PRIu64 " on are lost", f->first);
    else if (f->first == 0 && f->last != 0)
        buf_print(out, "; the batches up to %" PRIu64 " are lost", f->last);
}

static void fault_print(const struct store *st, const struct fault *f,
                        struct buf *out)
{
    struct path path = path_segment(st, f->segment, ".log");
    buf_print(out, "%s: offset %" PRIu64 ": %s", path.s, f->at, f->why);
    if (f->files > 1)
        buf_print(out, ", and the %" PRIu32 " before it", f->files - 1);
    if (f->end > f->at)
        buf_print(out, "; damaged up to offset %" PRIu64 ", %" PRIu64 " bytes",
                  f->end, f->end - f->at);
    if (f->records > 0)
        buf_print(out, "; %" PRIu32 " of its batch's records are lost",
                  f->records);
    fault_print_batches(out, f);
    buf_text(out, "\n");
}

const struct buf *store_faults(struct store *st)
{
    st->audit.lines.n = 0;
    if (fault_count(st) > 0)
        qsort(st->audit.faults.p, fault_count(st), sizeof(struct fault),
              fault_compare);
    for (size_t i = 0; i < fault_count(st); i++)
        fault_print(st, fault_at(st, i), &st->audit.lines);
    buf_add(&st->audit.lines, st->audit.ahead.p, st->audit.ahead.n);
    return &st->audit.lines;
}

void store_time_print(struct buf *out, uint64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    char text[64];
    if (gmtime_r(&seconds, &tm) == NULL)
        memset(&tm, 0, sizeof tm);
    if (strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        text[0] = '\0';
    buf_print(out, "%s.%03u UTC", text, (unsigned)(ms % 1000));
}

static unsigned percent(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : (unsigned)(part * 100 / whole);
}

static void report_segment(const struct store *st, const struct segment *s,
                           const struct store_object **o, struct buf *out)
{
    uint64_t live = 0;
    size_t faults = 0;
    for (; *o != NULL && (*o)->segment == s->number; *o = (*o)->next)
        live += object_size(*o);
    for (size_t i = 0; i < fault_count(st); i++)
        faults += fault_at(st, i)->segment == s->number;
    buf_print(out, "  %08" PRIu32 ".log: %" PRIu64 " bytes, %u %% live, ",
              s->number, s->size, percent(live, s->size));
    if (s->good == 0)
        buf_print(out, "no batch");
    else
        buf_print(out, "batches %" PRIu64 " to %" PRIu64, s->from, s->to);
    if (faults > 0)
        buf_print(out, ", %" PRIu64 " are sound, DAMAGED in %zu places",
                  s->good, faults);
    else if (s->good > 0)
        buf_text(out, ", all sound");
    buf_text(out, "\n");
}

void store_report(struct store *st, struct buf *out)
{
    const struct store_object *o = st->oldest;
    buf_print(out,
              "ledger %016" PRIx64 " in %s: %zu segments of %" PRIu64
              " bytes, %u %% live\n",
              st->id, st->dir, st->segment_count, st->total,
              percent(st->live, st->total));
    buf_print(out, "  last written by process %" PRIu64 ", alive at ",
              st->audit.pid);
    store_time_print(out, st->alive);
    buf_text(out, "\n");
    for (size_t i = 0; i < st->segment_count; i++)
        report_segment(st, &st->segments[i], &o, out);
    buf_print(out, "  index: %s\n",
              st->audit.index ? "good" : "none, the next start reads all");
    buf_add(out, st->notices.p, st->notices.n);
    st->notices.n = 0;
}

/* ==== 16  Salvage ==========================================================
 *
 * Every segment with a good batch in it is copied, batch by batch, signed anew
 * for a new store.  The result has no gaps, so that a start takes it; what is
 * missing from it is what the audit has listed. */

struct salvage {
    struct store *from, *to;
    struct segment fresh; /* being written; its size without `out` */
    struct reader r;      /* of the segment being read */
    struct buf out;       /* batches to be written */
};

/* The records of the batch at p, without those that make no sense; returns
 * how many there are. */
static uint32_t salvage_records(struct salvage *v, const struct segment *s,
                                const struct batch *b, const uint8_t *p)
{
    uint64_t at = b->offset + BATCH_HEADER, end = b->end - BATCH_COMMIT;
    uint32_t records = b->records;
    for (size_t i = 0; i < fault_count(v->from); i++) {
        const struct fault *f = fault_at(v->from, i);
        if (f->segment != s->number || f->at < at || f->at >= end)
            continue;
        buf_add(&v->out, p + (at - b->offset), (size_t)(f->at - at));
        at = f->end;
        records -= f->records;
    }
    buf_add(&v->out, p + (at - b->offset), (size_t)(end - at));
    return records;
}

/* Adds the batch at p, or (NULL) an empty one, which seals the store. */
static void salvage_batch(struct salvage *v, const struct segment *s,
                          const struct batch *b, const uint8_t *p)
{
    struct store *to = v->to;
    struct batch copy = *b;
    size_t start = v->out.n;
    (void)buf_room(&v->out, BATCH_HEADER);
    v->out.n += BATCH_HEADER;
    copy.records = p != NULL ? salvage_records(v, s, b, p) : 0;
    if (to->last == 0)
        to->last = b->number - 1;
    copy.number = ++to->last;
    copy.head = 1;
    copy.offset = v->fresh.size + start;
    batch_finish(to, &v->fresh, &copy, &v->out, start);
}

static int salvage_write(struct salvage *v)
{
    struct path path = path_segment(v->to, v->fresh.number, ".new");
    if (segment_write(v->to, v->fresh.fd, path.s, v->out.p, v->out.n,
                      v->fresh.size) < 0)
        return -1;
    v->fresh.size += v->out.n;
    v->out.n = 0;
    return 0;
}

static int salvage_begin(struct salvage *v)
{
    uint32_t number = (uint32_t)v->to->segment_count + 1;
    return segment_create(v->to, number, number, &v->fresh);
}

static int salvage_end(struct salvage *v)
{
    if (salvage_write(v) < 0 || segment_publish(v->to, &v->fresh) < 0)
        return -1;
    file_close(v->to, v->fresh.fd);
    v->fresh.fd = -1;
    (void)segment_insert(v->to, v->to->segment_count, &v->fresh);
    return 0;
}

/* Copies what is sound in one segment. */
static int salvage_segment(struct salvage *v, const struct segment *s)
{
    struct store *st = v->from;
    struct batch b;
    uint64_t at = SEGMENT_HEADER, good = 0;
    if (s->good == 0)
        return 0;
    if (salvage_begin(v) < 0)
        return -1;
    reader_start(&v->r, s->fd, s->size);
    while (at < s->size && batch_seek(st, &v->r, s, &at, &b) == 1) {
        salvage_batch(v, s, &b, reader_view(st, &v->r, at, b.end - at));
        if (v->out.n >= MIB && salvage_write(v) < 0)
            return -1;
        at = b.end;
        good++;
    }
    if (good != s->good) {
        struct path path = path_segment(st, s->number, ".log");
        return store_fail(v->to, "%s: changed while it was read; begin again",
                          path.s);
    }
    return salvage_end(v);
}

/* A last segment for the seal alone: the next start copies no other.  Its time
 * is when the old store's writer was last alive, so that the sessions that
 * were online count as offline since then. */
static int salvage_seal(struct salvage *v)
{
    struct batch seal;
    memset(&seal, 0, sizeof seal);
    seal.number = 1;
    seal.at = v->from->alive;
    if (salvage_begin(v) < 0)
        return -1;
    salvage_batch(v, NULL, &seal, NULL);
    return salvage_end(v);
}

/* The directory must be new: nothing is ever mixed, nothing overwritten. */
static int salvage_directory(struct store *to)
{
    if (strlen(to->dir) == 0 || strlen(to->dir) > DIR_MAX)
        return store_fail(to, "%.64s: no path for a store; use 1 to %d bytes",
                          to->dir, DIR_MAX);
    if (to->io->mkdir(to->io->ctx, to->dir, 0700) < 0)
        return store_fail_system(to, to->dir, "cannot be made",
                                 "name a directory that does not exist yet, "
                                 "in one that does");
    if (to->io->random(to->io->ctx, &to->id, sizeof to->id) < 0 || to->id == 0)
        return store_fail_system(to, to->dir, "no random bytes for its name",
                                 "see that /dev/urandom can be read");
    return directory_sync_name(to);
}

int store_salvage(struct store *st, const char *dir)
{
    struct store_options options;
    struct salvage v;
    int result;
    assert(st->audit.active && st->replay.state == REPLAY_DONE);
    (void)store_faults(st); /* puts them into order */
    memset(&options, 0, sizeof options);
    memset(&v, 0, sizeof v);
    options.dir = dir;
    options.io = st->io;
    v.from = st;
    v.to = store_new(&options, st->now);
    v.fresh.fd = -1;
    result = salvage_directory(v.to);
    for (size_t i = 0; result == 0 && i < st->segment_count; i++)
        result = salvage_segment(&v, &st->segments[i]);
    if (result == 0)
        result = salvage_seal(&v);
    if (result < 0) {
        file_close(v.to, v.fresh.fd);
        (void)store_fail(st, "%s", v.to->error);
    }
    buf_free(&v.r.window);
    buf_free(&v.out);
    store_free(v.to);
    return result;
}
