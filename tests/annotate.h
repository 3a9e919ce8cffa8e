/*
 * annotate.h - the bytes of an MQTT packet, each field with its name.
 *
 *     10 12               CONNECT, Remaining Length 18 (3.1.1)
 *     00 04 4D 51 54 54   Protocol Name "MQTT" (3.1.2.1)
 *     05                  Protocol Version 5 (3.1.2.2)
 *     02                  Connect Flags: Clean Start (3.1.2.3)
 *     ...
 *
 * The packets are shown as far as they can be read: a malformed one up to
 * where it stops making sense, the rest as plain bytes that say so.
 */
#ifndef HOLDFAST_ANNOTATE_H
#define HOLDFAST_ANNOTATE_H

#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "mqtt.h"

/* Appends the packets in these n bytes, sent by `from`, one line a field, each
 * behind `indent` and ended by a newline; printable ASCII only.  Long fields
 * are cut at 32 bytes of hexadecimal (" ... 468 more").  No NUL is added. */
void annotate_bytes(struct buf *out, const char *indent, const uint8_t *p,
                    size_t n, enum mqtt_side from);

#endif
