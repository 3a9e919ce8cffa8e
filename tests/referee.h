/*
 * referee.h - what must hold for every packet on a connection, whatever the
 * test is about.
 *
 * A referee stands beside one client.  It is shown each packet in both
 * directions and names the statement that a packet breaks: those of the
 * server, so that no test can overlook them; those of the client, so that no
 * test blames the server for a mistake of its own.
 */
#ifndef HOLDFAST_REFEREE_H
#define HOLDFAST_REFEREE_H

#include <stddef.h>
#include <stdint.h>

#include "mqtt.h"

#define REFEREE_ALIASES 64 /* the highest Topic Alias a test may allow */

struct referee {
    /* What the client announced in CONNECT. */
    uint32_t packet_max;  /* Maximum Packet Size; 0 = none */
    uint16_t receive_max; /* Receive Maximum */
    uint16_t alias_max;   /* Topic Alias Maximum */
    int problem_info;     /* Request Problem Information */
    int response_info;    /* Request Response Information */
    int method;           /* 1 = it named an Authentication Method */
    char method_name[64]; /* which; cut at 63 bytes */

    /* What the server announced in CONNACK. */
    uint32_t server_packet_max;  /* 0 = none */
    uint16_t server_receive_max;
    uint16_t server_alias_max;
    uint8_t server_qos_max;
    int server_retain;           /* Retain Available */
    uint16_t keep_alive;         /* seconds that count: the client's, or Server
                                    Keep Alive; 0 = none */

    /* The connection so far. */
    int connect, connack; /* how many were seen */
    int accepted;         /* 1 = CONNACK 0x00 */
    int left;             /* the client's DISCONNECTs seen */
    int goodbye;          /* the server's DISCONNECTs seen */

    /* Towards the client: QoS 1/2 deliveries that are not settled. */
    uint32_t open;
    uint8_t open_ids[65536 / 8];
    char *aliases[REFEREE_ALIASES + 1]; /* what the server set them to */
    unsigned aliased;                   /* deliveries without a topic */

    /* Towards the server: the client's exchanges that are not finished. */
    uint32_t sent_open;              /* QoS 1/2 PUBLISHes: Receive Maximum */
    uint8_t sent_ids[65536 / 8];     /* their Packet Identifiers, and those of
                                        SUBSCRIBE and UNSUBSCRIBE */
    uint8_t sent_publishes[65536 / 8]; /* those of PUBLISHes alone */
};

void referee_open(struct referee *r);
void referee_free(struct referee *r);

/* May the client send this packet of `size` bytes?  NULL = it may; else the
 * statement that it would break, a literal.  Changes nothing.  A PUBLISH with
 * DUP 1 may repeat a Packet Identifier. */
const char *referee_judge(const struct referee *r, const struct mqtt_packet *p,
                          size_t size);

/* The client has sent this packet, legal or not. */
void referee_sent(struct referee *r, const struct mqtt_packet *p);

/* The server has sent this decoded packet of `size` bytes.  *topic: a PUBLISH's
 * Topic Name, through the aliases of this connection; it lives until the next
 * call.  NULL = nothing is wrong; else the statement that is broken, a literal
 * (the packet was taken in nevertheless), or "" for a broken rule that has no
 * number; *what says it in words. */
const char *referee_heard(struct referee *r, const struct mqtt_packet *p,
                          size_t size, struct mqtt_bytes *topic,
                          const char **what);

#endif
