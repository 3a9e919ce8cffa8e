/*
 * run.h - what the parts of the conformance suite share: the runner (main.c),
 * the peers (peer.c) and what is expected of them (hear.c).
 *
 * The runner forks a process for each test.  The process writes its report to
 * stdout and tells its result by its exit status; a socket to the runner
 * carries its requests: to restart the broker.
 */
#ifndef HOLDFAST_RUN_H
#define HOLDFAST_RUN_H

#include "buf.h"
#include "referee.h"
#include "suite.h"

#define PEERS_MAX 64

/* How a test's process ends. */
enum outcome { PASSED = 0, FAILED = 1, NOT_OFFERED = 2 };

/* What all tests of a run share. */
struct setup {
    const char *host, *port; /* of the broker */
    const char *user, *password; /* for CONNECT; NULL = none */
    int diagnosed;           /* 1 = the broker is Holdfast */
    int can_restart;
    int keeps;               /* 1 = its store outlives a crash */
    char nonce[8];           /* letters and digits: this run's alone */
    struct offer offer;
};

struct test {
    const struct setup *setup;
    char statement[24];  /* "MQTT-3.1.2-4" */
    const char *words;   /* "clean_start_discards_the_session" */
    char prefix[16];     /* what "~" stands for */
    int ctl;             /* socket to the runner */
    struct buf story;    /* all that was said and heard */
    struct buf memory;   /* what serve() returned last */
    struct peer *peers[PEERS_MAX];
    int peer_count;
    struct peer *publisher; /* of publish(); NULL = none yet */
};

/* One client's end of a connection. */
struct peer {
    struct test *test;
    char name;               /* 'A' for the first of its test */
    int fd;                  /* -1 = closed by this side */
    int server;              /* a scripted peer's other end; -1 = none */
    struct buf in;           /* bytes of the server, no whole packet yet */
    struct buf out;          /* held back */
    int holding;             /* 1 = hold() was called */
    int ended;               /* 1 = the broker closed it */
    uint64_t ended_at;
    uint64_t said_at;        /* when the last bytes were sent */
    unsigned pings;          /* PINGRESPs that let_pass() will swallow */
    uint16_t last_id;
    struct referee referee;
    struct heard **heard;    /* not yet taken, oldest first */
    size_t heard_count, heard_cap;
    struct heard *taken;     /* the one handed out last */
    struct heard *ack;       /* CONNACK 0x00 */
    struct buf seen;         /* a scripted peer: what its server has read */
};

/* ---- peer.c -------------------------------------------------------------- */

/* Splits "test_mqtt_3_1_2_4_words" into the statement's id and the words;
 * 0, or -1: the name has another form. */
int test_name_split(const char *name, char id[24], const char **words);

/* A connection to the broker: a socket that does not block, or -1. */
int socket_open(const struct setup *s);

/* Runs the test in this process, and ends it. */
void test_process(const struct setup *setup, const struct test_case *c,
                  unsigned number, int ctl);

/* Reads what has come for any peer, waiting for it up to the deadline (of
 * now()).  0 = the deadline passed and nothing had come. */
int pump(struct test *t, uint64_t deadline);

/* A line of the story: "A > words". */
void story_add(struct test *t, const struct peer *p, const char *arrow,
               const char *text);

/* What was said, field by field: the first fields of it. */
void story_bytes(struct test *t, const uint8_t *bytes, size_t n,
                 enum mqtt_side from);

/* Shows the story and ends the test. */
void story_fail(struct test *t, const char *expected, const char *came);

/* The format's text with "~" replaced; the caller frees it. */
char *words_expand(struct test *t, const char *format, va_list args);

#endif
