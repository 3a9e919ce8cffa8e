/*
 * session.h - the behaviour of an MQTT 5.0 server, without sockets or clock.
 *
 * Bytes and the time come in as arguments, records go to the store, replies
 * go into each link's output.  One turn, as its caller must do it:
 *
 *     session_link_open / _input / _lost ...   what the sockets brought
 *     session_server_settle(server, now)       timers, deliveries, cleaning
 *     store_commit(store, now)                 one sync for all of it
 *     session_link_output / _sent              only now may replies leave
 *
 * Times are milliseconds since 1970 and must never go backwards.
 */
#ifndef HOLDFAST_SESSION_H
#define HOLDFAST_SESSION_H

#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "store.h"

struct session_server; /* all sessions, subscriptions and messages */
struct session_link;   /* one network connection */

/* What the operator decides.  session_options_default() fills it. */
struct session_options {
    uint32_t expiry_default; /* s; granted to Clean Start 0 without a Session
                                Expiry Interval; 0 = the standard's own */
    uint32_t expiry_max;     /* s; more is cut to this; 0xFFFFFFFF = no end */
    uint32_t packet_max;     /* bytes; our Maximum Packet Size */
    uint16_t receive_max;    /* our Receive Maximum */
    uint16_t window_max;     /* deliveries open towards a client, at most,
                                even if its Receive Maximum is larger */
    uint16_t alias_max;      /* our Topic Alias Maximum */
    uint16_t alias_out_max;  /* aliases we use towards a client, at most */
    uint16_t keep_alive_max; /* s; 0 = none; a longer or absent Keep Alive is
                                overruled by Server Keep Alive */
    uint32_t connect_wait;   /* ms that a new connection has for CONNECT */
    uint32_t queue_max;      /* messages one session may have queued */
    uint32_t topics_max;     /* levels of all filters and retained topics */
    uint32_t output_high;    /* bytes of unsent output at which deliveries to
                                a link pause; at twice that, its input too */
    uint32_t memory_max;     /* bytes of unsent output of all links, and of
                                messages for sessions that are not stored */
    uint8_t seed[16];        /* of the hash tables and assigned names */
    uint32_t sys_every;      /* s between two rounds of the $SYS topics; 0 =
                                there are none */
    const char *version;     /* what $SYS/broker/version says, NULL = there is
                                no such topic; the caller's, kept */
    int trace;               /* 1 = a line per packet in the trace; 2 = and
                                its bytes, field by field */
    const char *trace_client; /* only packets of this Client Identifier; NULL
                                = of all; the caller's, kept */
};

void session_options_default(struct session_options *options);

/* Opens the server on a store whose replay has not begun, reads all of it,
 * and publishes what fell due while the broker was dead.  NULL: the store is
 * rotten, store_error() says where.  The store stays the caller's. */
struct session_server *session_server_open(struct store *st,
                                           const struct session_options *opt,
                                           uint64_t now);

/* Frees everything; writes nothing.  After store_close(), which still looks
 * at the server's objects. */
void session_server_close(struct session_server *server);

/* The server is shutting down: DISCONNECT 0x8B to every client, wills by the
 * rules (3.1.2.5).  Commit, flush the outputs, then close. */
void session_server_stop(struct session_server *server, uint64_t now);

/* Fires due timers, moves queued messages into outputs, folds what the store
 * wants cleaned.  Call once per turn, before store_commit(). */
void session_server_settle(struct session_server *server, uint64_t now);

/* When session_server_settle() is needed next: ms since 1970, 0 = at once,
 * UINT64_MAX = not until something happens. */
uint64_t session_server_due(const struct session_server *server);

/* Writes the store's index (see store.h).  0, or -1. */
int session_server_checkpoint(struct session_server *server);

/* ---- links -------------------------------------------------------------- */

/* A connection was accepted.  peer: its address, for the log; copied. */
struct session_link *session_link_open(struct session_server *server,
                                       const char *peer, uint64_t now);

/* n bytes arrived.  Any number, cut anywhere. */
void session_link_input(struct session_link *link, const void *bytes, size_t n,
                        uint64_t now);

/* May bytes be read from this link now?  0 while its output is too long, or
 * while what it sent waits for the next turn. */
int session_link_ready(const struct session_link *link);

/* The bytes to send, and how many; valid until the next session call. */
const uint8_t *session_link_output(const struct session_link *link, size_t *n);

/* The first n of them were sent. */
void session_link_sent(struct session_link *link, size_t n);

/* 1 = the server is done with it: send what is left, then close. */
int session_link_done(const struct session_link *link);

/* The network connection is gone (or is being closed because of _done).
 * Frees the link; the caller must forget it. */
void session_link_lost(struct session_link *link, uint64_t now);

/* ---- a ledger without a broker ------------------------------------------ */

struct session_audit; /* what a ledger holds, to be told in words */

/* Of a store opened by store_audit() (audit.h), which stays the caller's.
 * now: ms since 1970. */
struct session_audit *session_audit_open(struct store *st,
                                         const struct session_options *opt,
                                         uint64_t now);

/* Reads the next records.  1 = there are more, 0 = all is read, -1 = it
 * cannot go on: store_error(). */
int session_audit_read(struct session_audit *audit);

/* When all is read: what damage may have taken, as far as it can be read, a
 * line each. */
const struct buf *session_audit_lost(const struct session_audit *audit);

/* When all is read: appends the next piece of what the ledger holds.  1 =
 * there is more to tell, 0 = that was all. */
int session_audit_report(struct session_audit *audit, struct buf *out);

void session_audit_close(struct session_audit *audit);

/* ---- what is going on --------------------------------------------------- */

/* Lines for stderr (who connects and leaves, refusals, drops, expiries, notes
 * on habits) and, with options.trace, for stdout (one per packet).  Each ends
 * with a newline; the caller takes them out. */
struct buf *session_log(struct session_server *server);
struct buf *session_trace(struct session_server *server);

/* Why a delivery was discarded. */
enum session_drop {
    DROP_EXPIRED,       /* its Message Expiry Interval passed */
    DROP_TOO_LARGE,     /* for the client's Maximum Packet Size */
    DROP_QUEUE_FULL,    /* the session's */
    DROP_DISK_FULL,     /* QoS 0 */
    DROP_MEMORY_FULL,   /* for a session that ends with its connection */
    DROP_SLOW_READER,   /* QoS 0 to a client that does not read */
    DROP_SESSION_ENDED, /* what was queued or in flight when it ended */
    DROP_KINDS          /* how many there are */
};

/* Of now. */
struct session_figures {
    uint64_t sessions;      /* in all, online and offline */
    uint64_t online;        /* with a connection */
    uint64_t subscriptions;
    uint64_t messages;      /* distinct messages held */
    uint64_t message_bytes; /* of their PUBLISH packets */
    uint64_t deliveries;    /* queued or in flight, over all sessions */
    uint64_t retained;      /* retained messages */

    /* Since the server was opened. */
    uint64_t online_max;   /* the most sessions that were online at once */
    uint64_t links;        /* connections accepted */
    uint64_t expired;      /* sessions that expired */
    uint64_t dropped;      /* deliveries discarded */
    uint64_t dropped_by[DROP_KINDS]; /* the same by reason */
    uint64_t refused[256]; /* negative Reason Codes sent, over all packets */
    uint64_t received[16]; /* MQTT Control Packets by their mqtt_type */
    uint64_t sent[16];
    uint64_t bytes_received, bytes_sent; /* over all connections */
    uint64_t publish_bytes_received, publish_bytes_sent; /* payloads only */
};

/* Valid as long as the server; changes with every call. */
const struct session_figures *
session_figures(const struct session_server *server);

#endif
