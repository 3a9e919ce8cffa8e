/*
 * notation.h - MQTT packets written as text, both ways.
 *
 * Tests say what a client sends, and what it must get back, in one notation.
 * A packet is its name and words after it:
 *
 *     connect c0 id=a ka=10 user=u pass=p x=300 rm=2 will q1 w/t =gone wdi=5
 *     connack 00 sp=1 x=300 rm=20
 *     publish q1 dup retain #7 a/b =payload mei=30 sid=1 up=name:value
 *     puback #7 10            pubrel #7 00
 *     subscribe #1 a/b,q1,nl,rap,rh2 c/d      suback #1 01 00
 *     unsubscribe #2 a/b c/d                  unsuback #2 00 11
 *     pingreq   pingresp   disconnect 8e x=5  auth 18 am=name ad=bytes
 *
 * "#7" is a Packet Identifier, two hexadecimal digits are a Reason Code,
 * "=text" is a payload ("=*500": 500 bytes of x), "%20" is the byte 0x20, and
 * "name=value" a property.  What follows `will` is the Will's.  An expected
 * packet is a pattern of fnmatch(): "*" stands for anything.
 *
 * Properties come in rising order of identifier, the Subscription
 * Identifiers sorted, User Properties as they stood on the wire:
 *
 *     pfi mei ct rt cd sid x aci ska am ad rpi wdi rri ri sr rs rm tam ta mq
 *     ra mps wsa sia ssa up
 *
 * Words that are no packet are a mistake of the test: it is shown on stderr
 * and the process aborts.
 */
#ifndef HOLDFAST_NOTATION_H
#define HOLDFAST_NOTATION_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "mqtt.h"

/* A packet that is being written down; it owns all its bytes. */
struct draft {
    struct mqtt_packet packet;      /* ready for mqtt_packet_encode() */
    struct mqtt_properties *props;  /* those that the next word belongs to */
    struct mqtt_bytes *topic, *payload; /* likewise */
    struct buf user[2];             /* User Properties: packet's and Will's */
    uint32_t ids[8];                /* Subscription Identifiers */
    struct buf list;                /* filters */
    char *fill;                     /* a payload of many bytes, or NULL */
};

/* Fills d from the words, which it cuts up and which must outlive it. */
void draft_parse(struct draft *d, char *words);

/* Appends the packet's bytes to out. */
void draft_encode(const struct draft *d, struct buf *out);

void draft_free(struct draft *d);

/* What the format says, in memory that the caller frees. */
char *words_print(const char *format, va_list args);

/* Appends what the format says: at most 127 bytes. */
void text_format(struct buf *b, const char *format, ...);

/* Appends one packet of a server, and a NUL.  topic: that of a PUBLISH with
 * its alias resolved; the Topic Alias itself is not shown. */
void text_packet(struct buf *b, const struct mqtt_packet *p,
                 struct mqtt_bytes topic);

#endif
