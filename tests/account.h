/*
 * account.h - clients that lose nothing, and the accounts of a broker's lives.
 *
 * Publishers and subscribers with lasting sessions work while the broker is
 * ended again and again, at random moments; clients, too, are cut off at
 * random.  In the last life everything is delivered, and what was promised is
 * compared with what came:
 *
 *     lost         acknowledged (PUBACK, PUBREC) and not delivered to each
 *     duplicates   QoS 2 messages that a subscriber got twice
 *     disorder     first deliveries out of the publisher's order
 *     sessions     sessions that the broker had granted and did not find
 *     errors       refusals and packets that make no sense
 *
 * A client here is as persistent as the standard wants it: it resends PUBLISH
 * with DUP and PUBREL under their old identifiers, and it remembers the QoS 2
 * identifiers that it has received (4.4, 4.3.3).
 *
 *     a = account_new("killtest", seed);
 *     a->dir = ...                         where the store is
 *     account_prepare(a);                  sessions and subscriptions
 *     account_life(a);                     as often as wanted
 *     account_finish(a);
 *     account_close(a);
 *     account_report(a);
 */
#ifndef HOLDFAST_TESTS_ACCOUNT_H
#define HOLDFAST_TESTS_ACCOUNT_H

#include "client.h"

#define PUBLISHERS 4  /* even ones at QoS 1, odd ones at QoS 2 */
#define SUBSCRIBERS 3 /* the second at QoS 1, the others at QoS 2 */
#define CLIENTS (PUBLISHERS + SUBSCRIBERS)
#define WINDOW 8       /* unacknowledged messages of one publisher */
#define SEQ_MAX 400000 /* messages of one publisher, at most */
#define PAYLOAD_MAX 700

/* A message under way from a publisher. */
struct flight {
    uint32_t seq;
    int released; /* PUBREC came: only PUBREL may be sent now */
};

struct publisher {
    uint8_t qos;
    uint32_t last;                /* the last seq that was sent; from 1 on */
    struct flight flight[WINDOW]; /* in the order of sending */
    size_t n;                     /* how many */
    uint8_t *acked;               /* by seq: 1 = the broker took it over */
};

struct subscriber {
    uint8_t qos;
    uint8_t *got[PUBLISHERS];    /* by seq: 1 = delivered */
    uint32_t newest[PUBLISHERS]; /* highest seq delivered */
    uint32_t open[65536];        /* by packet id: seq + 1 of an unreleased
                                    QoS 2 message, 0 = none */
};

struct account_figures {
    uint64_t published, acked, delivered, repeated, restarts, cuts;
    uint64_t lost, duplicates, disorder, sessions, errors;
};

struct account {
    const char *name;   /* of the test, for its lines */
    const char *dir;    /* of the store */
    unsigned long seed; /* as it was given */
    uint64_t start;     /* by client_clock() */
    uint64_t random;    /* state of the generator */
    /* What happens before the broker is killed, in a process of its own:
     * 0, or -1 and it has said why.  NULL = nothing.  The broker may then find
     * a call failed with EIO or EROFS, say so, and end before it is killed. */
    int (*disaster)(void *arg);
    void *arg;
    struct client_broker broker;
    struct client client[CLIENTS]; /* publishers, then subscribers */
    int known[CLIENTS];            /* the broker has granted its session */
    int ponged[CLIENTS];           /* PINGRESP came */
    struct publisher pub[PUBLISHERS];
    struct subscriber sub[SUBSCRIBERS];
    struct account_figures fig;
};

struct account *account_new(const char *name, unsigned long seed);

/* 0 .. bound - 1, by the seed. */
uint32_t account_random(struct account *a, uint32_t bound);

/* A life in which sessions and subscriptions are made.  0, or -1. */
int account_prepare(struct account *a);

/* A life under load that ends at a random moment: while the broker recovers,
 * while clients connect, or later.  0, or -1 and it has said why. */
int account_life(struct account *a);

/* A last life that nothing disturbs: the rest is delivered.  0, or -1. */
int account_finish(struct account *a);

/* Counts what is lost. */
void account_close(struct account *a);

/* One line with all figures. */
void account_report(const struct account *a);

/* 1 = the broker kept what it had promised, and promised something. */
int account_good(const struct account *a);

#endif
