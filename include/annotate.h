/*
 * annotate.h - the bytes of MQTT packets, field by field.
 *
 *     10 1E               CONNECT, Remaining Length 30 (3.1.1)
 *     00 04 4D 51 54 54   Protocol Name "MQTT" (3.1.2.1)
 *     05                  Protocol Version 5 (3.1.2.2)
 *     C2                  Connect Flags: Clean Start, ... (3.1.2.3)
 *     ...
 *     (hidden)            Password (3.1.3.6)
 *
 * The decoder stops at the first wrong byte; this walk shows where a wrong
 * packet is wrong: its fields up to the fault, and the rest as plain bytes.
 *
 * A Password (3.1.3.6) and Authentication Data are never shown.  Of a CONNECT
 * that cannot be decoded, no byte from the first on that may belong to a
 * Password is shown: behind Keep Alive a wrong length may have moved it
 * anywhere, into a later packet even.  The same holds for an AUTH or CONNACK
 * that cannot be decoded, behind its Reason Code.
 *
 * Part of mqtt.c: no I/O, no allocation.
 */
#ifndef HOLDFAST_ANNOTATE_H
#define HOLDFAST_ANNOTATE_H

#include "mqtt.h"

/* A walk over bytes; its fields are private. */
struct mqtt_annotate {
    const uint8_t *p;    /* the bytes, the caller's */
    size_t n;            /* how many */
    enum mqtt_side from; /* who sent them */
    int first;           /* 1 = a connection begins with them */
    size_t at;           /* where the next field begins */
    size_t end;          /* of the packet at hand; 0 = between two packets */
    size_t missing;      /* bytes of this packet that are not here */
    size_t block_end;    /* of the properties at hand */
    const void *block;   /* which properties they are; NULL = none */
    const char *next;    /* the fields to come, a letter each */
    uint8_t type;        /* of the packet */
    uint8_t flags;       /* that tell which of its fields are there */
    uint8_t malformed;   /* 1 = it cannot be decoded */
    uint8_t block_lost;  /* 1 = the rest of the properties makes no sense */
    uint8_t lost;        /* 1 = nor does the rest of the packet */
};

#define MQTT_NOTE_MAX 640 /* characters that the value of a field may take */

/* One field.  All the fields of a walk, one after the other, are all its
 * bytes, each once. */
struct mqtt_note {
    size_t offset;    /* of its first byte, from the first of the walk */
    size_t n;         /* how many bytes; 0 = something that is missing */
    const char *name; /* as the standard has it; a literal */
    char value[MQTT_NOTE_MAX]; /* to be read behind the name, printable ASCII
                                  only: " 5", ": Clean Start", or nothing */
    char section[16]; /* of the standard, "3.1.2.3"; "" = none */
    uint8_t hidden;   /* 1 = its bytes must not be shown */
};

/* Begins a walk over n bytes, which must stay where they are.  first: they
 * are the first of their connection, so that, if they are no CONNECT, nobody
 * can tell what they are and nothing behind the fixed header is shown. */
void mqtt_annotate_open(struct mqtt_annotate *w, const uint8_t *p, size_t n,
                        enum mqtt_side from, int first);

/* Takes the next field: 1 = *out is it, 0 = there is none left. */
int mqtt_annotate_next(struct mqtt_annotate *w, struct mqtt_note *out);

/* Writes the lines of a field of this walk, each behind `indent` and ended by
 * a newline: 16 bytes in hexadecimal a line, at most MQTT_SHOWN_MAX in all,
 * the words behind the last.  Ended by a NUL; what does not fit in cap is
 * cut, which MQTT_LINES_MAX rules out for an indent of up to 16.  Returns the
 * length. */
#define MQTT_LINES_MAX 1100
size_t mqtt_annotate_print(const struct mqtt_annotate *w,
                           const struct mqtt_note *note, const char *indent,
                           char *out, size_t cap);

#endif
