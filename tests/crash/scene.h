/*
 * scene.h - the server on a disk that may fail, and what clients heard of it.
 *
 * It lends world.h its clients and its printed state, but has a loop of its
 * own: world.h demands things of every turn that only a sound disk grants.  A
 * turn that fails ends the process, as it ends broker.c: nothing leaves.
 */
#ifndef HOLDFAST_TESTS_SCENE_H
#define HOLDFAST_TESTS_SCENE_H

#include "world.h"

#define SCENE_T0 UINT64_C(1700000000000) /* the clock begins here */

struct scene {
    struct world w;        /* w.hear is told every packet, w.error why the
                              process ended */
    uint64_t segment_size; /* of the store; set before scene_open() */
    uint64_t reserve_size;
    struct buf notices;    /* all that the store told its operator; owned */
    int dead;              /* 1 = a turn or the start failed */
    long seal_faults;      /* faults that hit the disk in store_close(): it
                              has no way to tell, and no promise hangs on the
                              seal */
};

/* A process starts on the disk: 0, or -1 and it is dead. */
int scene_open(struct scene *s, struct disk *disk, uint64_t now);

/* Turns until nothing moves: 0, or -1 and it is dead. */
int scene_turn(struct scene *s);

/* Moves the clock, with turns whenever one is due. */
int scene_advance(struct scene *s, uint64_t ms);

/* The process is gone: killed, or by an orderly end with an index.  -1 = the
 * end was not orderly, s->w.error says why. */
void scene_kill(struct scene *s);
int scene_stop(struct scene *s);

/* Kills it if it still runs, and frees what it owns; the disk stays. */
void scene_free(struct scene *s);

/* Does the text hold these words? */
int scene_has(const struct buf *text, const char *words);

#endif
