/*
 * story.h - a workload, and what everybody was told in it, and when.
 *
 * Clients publish, subscribe, come, go and are taken over, drawn by a seed;
 * the broker is stopped and killed and goes on.  "When" is always a stamp: how
 * many operations the disk had seen.  What was asked has the stamp of the
 * moment before the bytes were handed to the server, what was told that of
 * the moment when they left it.  At crash point k something has happened if
 * its stamp is <= k; NOT_YET never has.
 */
#ifndef HOLDFAST_TESTS_STORY_H
#define HOLDFAST_TESTS_STORY_H

#include "world.h"

#define NOT_YET SIZE_MAX
#define CLIENTS 6
#define WATCHER 3 /* the client that gets the wills, and keeps its session */
#define BRIEF 5   /* the client whose sessions expire */
#define BRIEF_EXPIRY 2 /* s */
#define TOPICS 3  /* t/0..: live; r/0 and r/1 hold retained messages */

/* One Application Message; its number is in its payload. */
struct message {
    int from, epoch;    /* the client, and its session */
    char topic[8];
    int qos, retain;
    int will;           /* 1 = a Will: asked and told are its CONNECT's */
    int at_once;        /* of a will: no Will Delay Interval */
    size_t size;        /* bytes of the payload; 0 clears a retained one */
    uint16_t id;        /* Packet Identifier */
    uint64_t expires;   /* ms; 0 = never */
    size_t asked;
    size_t told;        /* PUBACK or PUBREC; the will's CONNACK */
    size_t released;    /* the client's PUBREL */
    size_t finished;    /* PUBACK or PUBCOMP */
    size_t cleared;     /* of a will: DISCONNECT 0x00 asked for */
};

/* A message on its way to a session. */
struct delivery {
    int epoch, message;
    int qos;
    int copy;           /* 1 = a retained message, because of a SUBSCRIBE */
    uint16_t id;        /* Packet Identifier, once sent */
    size_t asked;       /* the publisher's bytes */
    size_t firm_killed; /* from here on it must be there after a kill */
    size_t firm_cut;    /* and after a power cut, beside what `told` says */
    size_t sending;     /* the turn began in which */
    size_t sent;        /* PUBLISH left */
    size_t got;         /* the client's PUBACK or PUBREC */
    size_t released;    /* PUBREL left */
    size_t done;        /* the client's PUBACK or PUBCOMP; QoS 0: sent */
    size_t past_killed; /* from here on no kill brings it back */
    size_t past_cut;    /* nor does a power cut */
    uint64_t asked_at, done_at; /* the clock then, ms */
    int stored;         /* QoS 0: 1 = queued for an absent client */
};

/* A session, from its beginning to its end. */
struct epoch {
    int client;
    size_t asked, told; /* CONNECT and CONNACK */
    uint64_t told_at;   /* ms */
    size_t end;         /* what ends it was asked */
    uint64_t away;      /* since when the client is away, ms; 0 = it is here */
};

struct subscription {
    int epoch, topic, qos;
    size_t asked, told;       /* SUBSCRIBE and SUBACK */
    size_t un_asked, un_told; /* UNSUBSCRIBE and UNSUBACK */
    int replaced;             /* by another SUBSCRIBE, at un_asked */
};

/* An answer that a client owes. */
struct answer {
    uint8_t type;
    uint16_t id;
    int delivery; /* -1 = none */
};

struct player {
    int epoch;     /* -1 = no session */
    int link;      /* -1 = away */
    int will;      /* message of the will, -1 = none */
    int connecting; /* 1 = CONNACK is due */
    int subscribing; /* subscription that SUBACK or UNSUBACK is about, -1 */
    struct buf answers; /* struct answer */
};

struct moment {
    size_t stamp;
    uint64_t now;
};

struct story {
    uint64_t seed, dice;
    struct disk *disk;
    struct world world;
    struct player players[CLIENTS];
    struct message *messages;       /* all lists are owned, and only grow */
    struct delivery *deliveries;
    struct epoch *epochs;
    struct subscription *subs;
    struct moment *moments;         /* what time it was */
    size_t message_count, delivery_count, epoch_count, sub_count,
        moment_count;
    size_t settled;                 /* deliveries before this are history */
    char error[STORE_ERROR_MAX + 100]; /* "", or what went wrong though there
                                          was no crash */
};

/* Plays a workload of so many actions to its end; the last process is then
 * killed.  story->error must be looked at. */
struct story *story_new(uint64_t seed, int actions);
void story_free(struct story *s);

/* The time when the disk had seen so many operations. */
uint64_t story_time(const struct story *s, size_t stamp);

/* The words of a message's PUBLISH, and its payload: both to be freed. */
char *story_words(const struct story *s, int message, int dup);
char *story_payload(const struct story *s, int message);

/* The message of this payload, whole and unaltered, or -1. */
int story_message(const struct story *s, struct mqtt_bytes payload);

#endif
