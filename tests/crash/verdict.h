/*
 * verdict.h - is a recovered server what its clients were promised?
 *
 * Looked at from outside: each client connects again, answers all that it is
 * sent, says again what was not acknowledged, and a stranger looks at the
 * retained messages and sends probes.  What comes is held against the story.
 */
#ifndef HOLDFAST_TESTS_VERDICT_H
#define HOLDFAST_TESTS_VERDICT_H

#include "story.h"

/* What is known of the crash, beside what the story tells. */
struct crash {
    size_t point; /* the story broke off here */
    int killed;   /* 1 = the process was killed, nothing unsynced was lost */
    int again;    /* 1 = so did the first process that recovered: it may have
                     left a heartbeat, from which sessions count as away */
};

/* w is the recovered server, at rest, no client connected.  0 = all promises
 * are kept; -1 = why (of `cap` bytes) says which is not. */
int verdict(const struct story *s, const struct crash *crash, struct world *w,
            char *why, size_t cap);

#endif
