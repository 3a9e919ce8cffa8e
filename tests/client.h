/*
 * client.h - a small MQTT 5.0 client for tests, and the broker as a process.
 *
 * Every call waits for what it needs and gives up after CLIENT_WAIT; nothing
 * sleeps.  The packets are those of mqtt.h, so that a test sees each field.
 * The broker under test is the program that the environment's HOLDFAST names,
 * else ./holdfast.
 */
#ifndef HOLDFAST_CLIENT_H
#define HOLDFAST_CLIENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "buf.h"
#include "mqtt.h"

#define CLIENT_WAIT 30000     /* ms after which an awaited event has failed */
#define CLIENT_NO_EXPIRY (-1) /* no Session Expiry Interval in CONNECT */

/* ---- the broker as a process ------------------------------------------ */

struct client_broker {
    pid_t pid;       /* 0 = it does not run */
    int out;         /* read end of its stdout; -1 = none */
    int err;         /* a nameless file that holds its stderr; -1 = none */
    uint16_t port;   /* taken from the ready line */
    uint16_t status; /* of the page on 127.0.0.1, as well; 0 = none there */
    char ready[512]; /* the ready line without its newline */
};

/* Starts it with these arguments (NULL at the end), without a wait. */
int client_broker_spawn(struct client_broker *b, const char *const *args);

/* Waits for the ready line.  0, or -1: it ended or was silent for too long. */
int client_broker_await(struct client_broker *b);

/* `-p 0 -s off -d dir` and these arguments (may be NULL): both of the above. */
int client_broker_start(struct client_broker *b, const char *dir,
                        const char *const *args);

/* Sends the signal (0 = none), waits for the end and returns the status as
 * waitpid() gives it, or -1 when it does not end. */
int client_broker_end(struct client_broker *b, int number);

/* What is in its stderr so far, ended by a NUL: the first cap - 1 bytes of
 * it, or the last ones. */
void client_broker_log(const struct client_broker *b, char *out, size_t cap);
void client_broker_log_end(const struct client_broker *b, char *out,
                           size_t cap);

/* Frees what client_broker_spawn() took; it must have ended. */
void client_broker_forget(struct client_broker *b);

/* A new directory of its own under /tmp, its path in `path`.  0 or -1. */
int client_dir_make(char *path, size_t cap);

/* Removes it and the files in it. */
void client_dir_remove(const char *path);

/* Milliseconds that only go up. */
uint64_t client_clock(void);

/* ---- connections ----------------------------------------------------------
 */

/* One connection.  All zero but fd = -1 is a closed one. */
struct client {
    int fd;           /* -1 = closed */
    struct buf in;    /* bytes received and not yet taken */
    size_t taken;     /* length of the packet that was handed out last */
    uint16_t last_id; /* the Packet Identifier that was used last */
    uint64_t heard;   /* bytes received in all */
};

enum client_got {
    CLIENT_BAD = -2,     /* what came is no packet of a server */
    CLIENT_SILENCE = -1, /* nothing came in time */
    CLIENT_EOF = 0,      /* the broker closed the connection */
    CLIENT_PACKET = 1    /* *out holds views that live until the next call */
};

/* Connects the socket only.  0 or -1. */
int client_open(struct client *c, uint16_t port);
void client_close(struct client *c);

/* Sends all of it.  0, or -1: the connection is gone, or stuck. */
int client_send_bytes(struct client *c, const void *bytes, size_t n);
int client_send(struct client *c, const struct mqtt_packet *packet);

/* Sends a packet that has no more than this (PUBACK..PUBCOMP, PINGREQ,
 * DISCONNECT). */
int client_send_short(struct client *c, uint8_t type, uint16_t packet_id,
                      uint8_t reason);

/* The next packet, waited for up to wait ms (0 = what is here already). */
enum client_got client_read(struct client *c, struct mqtt_packet *out,
                            int wait);

/* The next packet, which must be of this type: 0, or -1. */
int client_expect(struct client *c, uint8_t type, struct mqtt_packet *out);

/* Discards what comes until the broker closes: 0; -1 when it does not. */
int client_expect_eof(struct client *c);

/* Up to cap raw bytes, until the broker closes; returns how many. */
size_t client_read_raw(struct client *c, uint8_t *out, size_t cap);

/* ---- whole exchanges -------------------------------------------------------
 */

/* Opens, sends CONNECT and reads CONNACK into *ack.  expiry: seconds or
 * CLIENT_NO_EXPIRY.  0 = accepted, -1. */
int client_connect(struct client *c, uint16_t port, const char *id, int clean,
                   int64_t expiry, struct mqtt_packet *ack);

/* SUBSCRIBE and SUBACK for one filter.  0 = granted this very QoS. */
int client_subscribe(struct client *c, const char *filter, uint8_t qos);

/* Sends one PUBLISH; at QoS 0 the packet_id is 0. */
int client_publish(struct client *c, const char *topic, const void *payload,
                   size_t n, uint8_t qos, uint16_t packet_id, int dup);

/* The same with a new packet identifier and all acknowledgements. */
int client_publish_whole(struct client *c, const char *topic,
                         const char *payload, uint8_t qos);

/* What a receiver owes for this packet: PUBACK or PUBREC for a PUBLISH, PUBCOMP
 * for a PUBREL, nothing for others.  0, or -1: it could not be sent. */
int client_answer(struct client *c, const struct mqtt_packet *packet);

/* DISCONNECT and close. */
void client_leave(struct client *c);

#endif
