/*
 * bench.h - the test bench of the server: session.c on a real store, driven
 * by packets written as text, with a clock that moves only when told to.
 *
 * What a client sends (bench_say) and what it must get back (bench_hear) are
 * written in the notation of notation.h.  Each packet of the server is shown
 * to a referee (referee.h), and the test fails if it breaks a rule.
 */
#ifndef HOLDFAST_BENCH_H
#define HOLDFAST_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <cmocka.h>

#include "buf.h"
#include "mqtt.h"
#include "referee.h"
#include "session.h"
#include "store.h"

#define BENCH_LINKS 2000 /* links that one test may open */

/* One packet that the server sent. */
struct bench_heard {
    char *text;         /* in the notation */
    uint8_t type;       /* an mqtt_type */
    uint8_t qos;        /* of a PUBLISH */
    uint16_t packet_id; /* 0 = none */
    uint32_t expiry;    /* Message Expiry Interval, if any */
    char *payload;      /* of a PUBLISH, ended by a NUL */
};

/* A client's end of one connection. */
struct bench_link {
    struct bench *bench;        /* the bench it belongs to */
    struct session_link *link;  /* NULL once the connection is gone */
    int number;                 /* of this link within the test */
    int raw;                    /* 1 = leave the server's bytes in `in` */
    int ended;                  /* 1 = the server closed it */
    struct referee ref;         /* what the rules know of it */
    struct buf in;              /* bytes of the server, no whole packet yet */
    struct bench_heard **heard; /* packets of the server, oldest first */
    struct bench_heard *taken;  /* the one that bench_next() gave last */
    size_t heard_first, heard_end, heard_cap;
};

struct bench {
    char dir[64];               /* the store's directory */
    struct store_io io;         /* POSIX without its syncs */
    int64_t room;               /* bytes left on the disk; -1 = no end */
    ino_t synced_file;          /* the file that was synced last */
    off_t synced_size;          /* and its size then */
    struct store *store;
    struct session_server *server;
    struct session_options options; /* used from the next start on */
    uint64_t now;               /* the clock, ms since 1970 */
    uint64_t alive;             /* when store_alive() was last told */
    int held;                   /* 1 = no turn until bench_turn() is called */
    struct bench_link *links[BENCH_LINKS];
    int link_count;
    struct buf story;           /* all packets both ways, as text */
    struct buf log;             /* what the server wrote to its log */
    int tracing;                /* 1 = keep its trace, too */
    struct buf trace;           /* as much of it as was kept */
};

/* Fixtures: a bench with a new store, and its end. */
int bench_setup(void **state);
int bench_teardown(void **state);

#define BENCH_TEST(f)                                                          \
    cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)

/* ---- the server and its clock ------------------------------------------- */

/* Settle, commit, collect the outputs, until the server is at rest. */
void bench_turn(struct bench *t);

/* One turn only, in which the network takes at most max bytes of each link:
 * 1 = something was sent.  For tests that hold the turns. */
int bench_step(struct bench *t, size_t max);

/* Moves the clock, with a turn whenever one is due. */
void bench_advance(struct bench *t, uint64_t ms);

/* The broker is killed without any goodbye, is dead for ms, and comes back. */
void bench_restart(struct bench *t, uint64_t ms);

/* The same by a power cut: what was written but not synced is lost. */
void bench_power_cut(struct bench *t, uint64_t ms);

/* session_server_stop() and what follows from it; no restart. */
void bench_stop(struct bench *t);

/* How many lines of the log hold this text. */
int bench_logged(const struct bench *t, const char *text);

/* ---- clients ------------------------------------------------------------- */

struct bench_link *bench_link_open(struct bench *t);

/* Opens a link and connects: the words of CONNECT.  CONNACK 0x00 must come;
 * it can be heard again by bench_hear(). */
struct bench_link *bench_join(struct bench *t, const char *words, ...);

/* The same, and the CONNACK is taken. */
struct bench_link *bench_meet(struct bench *t, const char *words, ...);

/* A client with Clean Start 1 that is subscribed to these filters. */
struct bench_link *bench_watch(struct bench *t, const char *filters);

/* A publisher beside the test says this and leaves, its exchange finished:
 * the words of PUBLISH but for QoS and Packet Identifier. */
void bench_publish(struct bench *t, int qos, const char *words);

/* The network connection breaks; DISCONNECT 0x00 and then EOF. */
void bench_cut(struct bench_link *l);
void bench_leave(struct bench_link *l);

/* Sends a packet; bytes in hexadecimal; bytes. */
void bench_say(struct bench_link *l, const char *words, ...);
void bench_feed(struct bench_link *l, const char *hex);
void bench_send(struct bench_link *l, const void *bytes, size_t n);

/* Sends a packet by its first byte and, in hexadecimal, what follows its
 * Remaining Length (less than 128 bytes). */
void bench_frame(struct bench_link *l, unsigned first, const char *hex);

/* The bytes of a packet, at most cap of them. */
size_t bench_encode(uint8_t *out, size_t cap, const char *words, ...);

/* The next packet, or NULL; valid until the next call for this link. */
const struct bench_heard *bench_next(struct bench_link *l);

/* How many packets wait to be heard. */
size_t bench_waiting(const struct bench_link *l);

/* Answers all that comes as a client must, until nothing more comes.
 * Appends the payloads to `got`, each followed by a blank; returns how many
 * PUBLISH packets there were. */
size_t bench_serve(struct bench_link *l, struct buf *got);

/* The next packet must match the pattern; returns its Packet Identifier. */
#define bench_hear(l, ...) bench_hear_at(__FILE__, __LINE__, l, __VA_ARGS__)
/* A packet that matches, wherever it stands among those that wait. */
#define bench_find(l, pattern) bench_find_at(__FILE__, __LINE__, l, pattern)
/* No packet waits and the connection stands. */
#define bench_silent(l) bench_silent_at(__FILE__, __LINE__, l)
/* The next packet matches ("": there is none), and then the link ends. */
#define bench_end(l, ...) bench_end_at(__FILE__, __LINE__, l, __VA_ARGS__)

uint16_t bench_hear_at(const char *file, int line, struct bench_link *l,
                       const char *pattern, ...);
uint16_t bench_find_at(const char *file, int line, struct bench_link *l,
                       const char *pattern);
void bench_silent_at(const char *file, int line, struct bench_link *l);
void bench_end_at(const char *file, int line, struct bench_link *l,
                  const char *pattern, ...);

#endif
