/*
 * world.h - the server on a disk in memory, its loop, and its clients' ends.
 *
 * The loop is that of broker.c: settle, commit, and only then does output
 * leave.  What leaves is stamped: `left` is how many operations the disk had
 * seen by then, and so the first crash point at which a client may know it.
 */
#ifndef HOLDFAST_TESTS_WORLD_H
#define HOLDFAST_TESTS_WORLD_H

#include "disk.h"
#include "mqtt.h"
#include "session.h"
#include "store.h"

#define WORLD_LINKS 16

struct world_link {
    struct session_link *link; /* NULL = not connected */
    struct buf in;             /* bytes of the server, not yet looked at */
    int ended;                 /* 1 = the server closed it */
};

struct world {
    struct disk *disk;             /* not owned */
    struct store *store;           /* NULL = it does not run */
    struct session_server *server;
    uint64_t now;                  /* the clock, ms since 1970 */
    size_t left;                   /* stamp of what clients hear now, */
    size_t began;                  /* and of the turn that it left in */
    struct world_link links[WORLD_LINKS];
    char error[STORE_ERROR_MAX];   /* why it does not run */
    /* Each packet of the server, after all output of the turn was taken. */
    void (*hear)(void *arg, int link, const struct mqtt_packet *p);
    void (*turned)(void *arg);     /* after each commit; NULL = nobody asks */
    void *arg;
};

/* A process starts on the disk: 0, or -1 and w->error. */
int world_open(struct world *w, struct disk *disk, uint64_t now);

/* The process is killed. */
void world_kill(struct world *w);

/* An orderly end: stop, index, seal.  0, or -1. */
int world_stop(struct world *w);

/* Turns until nothing moves: 0, or -1 and w->error. */
int world_turn(struct world *w);

/* The end of a turn.  Takes what has to leave: 1 = something left; and then
 * the clients look at it, when all of it was taken, so that nothing they say in
 * answer gets out with it. */
int world_collect(struct world *w);
void world_hear(struct world *w);

/* Moves the clock, with turns whenever one is due. */
int world_advance(struct world *w, uint64_t ms);

/* A client connects, speaks in the words of notation.h, breaks off.  What it
 * causes happens in the next turn. */
void world_link_open(struct world *w, int link);
void world_say(struct world *w, int link, const char *words, ...);
void world_link_cut(struct world *w, int link);

/* The whole state, by way of the index, which is left on the disk: lines in
 * order, without their places in the log.  full: with the times at which
 * clients went offline.  Text without a NUL is appended.  0, or -1. */
int world_print(struct world *w, struct buf *text, struct buf *full);

/* The same text without the order of the messages. */
void world_print_loose(const struct buf *text, struct buf *loose);

#endif
