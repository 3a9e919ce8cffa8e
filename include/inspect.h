/*
 * inspect.h - what the server holds, for those who only look.
 *
 * The status page and its kin ask here; nothing changes by being asked.  A
 * client identifier, filter, topic or payload in an answer is a view into the
 * server's memory, valid until the next call of any session_*, inspect_* or
 * store_* function that is not said to keep it; the caller escapes it.  Times
 * are ms since 1970.  Part of session.c.
 */
#ifndef HOLDFAST_INSPECT_H
#define HOLDFAST_INSPECT_H

#include "mqtt.h"
#include "session.h"

/* ---- sessions ----------------------------------------------------------- */

struct inspect_session {
    struct mqtt_bytes client; /* Client Identifier */
    uint64_t number;     /* its number in the ledger; 0 = it is not stored */
    const char *peer;    /* address of its connection; NULL = offline */
    uint64_t since;      /* online, or offline, since */
    uint32_t expiry;     /* Session Expiry Interval, s; UINT32_MAX = never */
    uint64_t ends;       /* when it expires; 0 = online, or never */
    uint32_t subscriptions;
    uint32_t queued[3];  /* deliveries not yet sent, by their QoS */
    uint32_t in_flight;  /* sent, not acknowledged */
    uint32_t receiving;  /* QoS 2 messages from it that are not released */
    uint64_t oldest;     /* when the oldest of what is in flight, or is next
                            in the queue, was accepted; 0 = there is none */
    uint64_t will_due;   /* when its will is to be published; 0 = not yet */
    uint8_t will;        /* 1 = it has a will */
};

enum inspect_which {
    INSPECT_ALL,
    INSPECT_ONLINE,
    INSPECT_OFFLINE,
    INSPECT_WAITING /* something is queued or in flight */
};

#define INSPECT_SEARCH_MAX 64

/* Which sessions are asked for, in rising order of their Client Identifier's
 * bytes.  All zero but limit: the first ones of all. */
struct inspect_query {
    struct mqtt_bytes search; /* part of the Client Identifier, of at most
                                 INSPECT_SEARCH_MAX bytes (longer: none has
                                 it); ASCII letters match in either case; n =
                                 0: any */
    enum inspect_which which;
    struct mqtt_bytes after;  /* only those behind this Client Identifier */
    struct mqtt_bytes before; /* only the last ones before this one; n = 0 of
                                 both: from the first on */
    size_t limit;             /* rows asked for */
};

/* Fills at most q->limit rows; returns how many.  *matched: how many sessions
 * there are that fit search and which; *first: how many of them stand before
 * the first row.  All rows stay valid until the next call that may change the
 * server.  Looks at every session once and sorts only the rows. */
size_t inspect_sessions(const struct session_server *server,
                        const struct inspect_query *q,
                        struct inspect_session *rows, uint64_t *matched,
                        uint64_t *first);

/* The session of one client: 1 = *out, 0 = there is none. */
int inspect_session(const struct session_server *server,
                    struct mqtt_bytes client, struct inspect_session *out);

struct inspect_sub {
    struct mqtt_bytes filter; /* whole, with $share/ */
    uint32_t id;              /* Subscription Identifier, 0 = none */
    uint8_t qos, no_local, retain_as_published, retain_handling;
};

/* The session's subscriptions, in no special order, from the skip-th on;
 * returns how many rows were filled.  They stay valid as those of
 * inspect_sessions() do. */
size_t inspect_subs(const struct session_server *server,
                    struct mqtt_bytes client, size_t skip,
                    struct inspect_sub *rows, size_t limit);

/* ---- messages ----------------------------------------------------------- */

/* Of an Application Message; inspect_message() opens it. */
struct inspect_message {
    uint64_t seq;     /* its number in the ledger */
    uint64_t at;      /* when it was accepted */
    uint64_t expires; /* 0 = never */
    uint32_t bytes;   /* of the PUBLISH packet as it is stored */
    uint8_t qos;      /* as published */
    uint32_t slot;    /* private: finds it again */
};

enum inspect_stage { INSPECT_QUEUED, INSPECT_SENT, INSPECT_RELEASED };

struct inspect_delivery {
    struct inspect_message message;
    enum inspect_stage stage;
    uint16_t packet_id; /* 0 = none yet */
    uint8_t qos;        /* of the delivery */
    uint8_t retain;     /* RETAIN of the delivery */
};

/* What the client has been sent and not acknowledged, by Packet Identifier,
 * and then what is queued for it, oldest first, from the skip-th of both on. */
size_t inspect_deliveries(const struct session_server *server,
                          struct mqtt_bytes client, size_t skip,
                          struct inspect_delivery *rows, size_t limit);

/* The Packet Identifiers of QoS 2 messages received and not released. */
size_t inspect_receiving(const struct session_server *server,
                         struct mqtt_bytes client, size_t skip,
                         uint16_t *rows, size_t limit);

/* The retained messages whose topics match a legal filter (not shared), in
 * the order of the topic tree, from the skip-th on.  *matched: how many there
 * are.  Rows as with inspect_sessions(). */
size_t inspect_retained(struct session_server *server, struct mqtt_bytes filter,
                        size_t skip, struct inspect_message *rows,
                        size_t limit, uint64_t *matched);

/* Topic and payload, read back from the ledger if need be; valid until the
 * next inspect_message() or store call.  0, or -1: the ledger is damaged where
 * it stands.  Then the server goes on until the message is to be sent. */
int inspect_message(const struct session_server *server,
                    const struct inspect_message *m, struct mqtt_bytes *topic,
                    struct mqtt_bytes *payload);

/* ---- marks: how clients keep their side of the standard ------------------ */

/* Of the statements that bind the client, those that a server can see kept or
 * broken.  Kept in memory only, for the CLIENT_MARKS_MAX clients heard last,
 * over all their connections since the broker's start.  A client that had to
 * make room while it was connected has no record until its next CONNECT.  A
 * CONNECT that is refused pushes nobody out.  A record takes up to 17 KB, so
 * all of them 17 MB; a Client Identifier over CLIENT_MARKS_NAME_MAX bytes has
 * none. */
#define CLIENT_MARKS_MAX 1000
#define CLIENT_MARKS_NAME_MAX 256

struct inspect_mark {
    const char *statement; /* "MQTT-2.2.1-3" */
    const char *asks;      /* what it asks of the client, a short sentence */
    uint32_t kept;         /* times it was seen kept */
    uint32_t broken;       /* times it was seen broken */
    const char *how;       /* the last time it was broken, in words; or "" */
};

struct inspect_client {
    struct mqtt_bytes client;
    uint64_t first, last;   /* when it was heard first and last */
    uint64_t connections;   /* CONNECTs that were accepted */
    uint64_t packets;       /* received from it */
    uint32_t kept, broken;  /* how many statements were only kept; were broken
                               at least once */
    uint8_t online;
};

/* The client's record: 1 = *out, 0 = there is none. */
int inspect_client(const struct session_server *server,
                   struct mqtt_bytes client, struct inspect_client *out);

/* Its marks in the order of the standard: those that were seen at least once.
 * At most INSPECT_MARKS rows. */
#define INSPECT_MARKS 128
size_t inspect_marks(const struct session_server *server,
                     struct mqtt_bytes client,
                     struct inspect_mark rows[INSPECT_MARKS]);

/* The clients with a record, those heard last first, from the skip-th on. */
size_t inspect_clients(const struct session_server *server, size_t skip,
                       struct inspect_client *rows, size_t limit,
                       uint64_t *matched);

#endif
