/*
 * annotate.c - the bytes of an MQTT packet, each field with its name.
 *
 *   1. lines       hexadecimal, then words
 *   2. values      how long one is, and what it says
 *   3. fields      one line each; the first that cannot be read is the last
 *   4. layouts     what each packet type is made of
 *   5. properties
 *   6. packets
 *
 *     20 05               CONNACK, Remaining Length 5 (3.2.1)
 *     |     field_take    |                           line_close
 *     line_open           value_print
 *
 * The decoder of mqtt.c stops at the first wrong byte; this one has to show
 * where a wrong packet is wrong, so it walks the bytes by itself.
 */
#include <stdarg.h>
#include <stdio.h>

#include "annotate.h"

#define SHOWN 32  /* bytes of a field that are shown */
#define COLUMN 20 /* where the words begin */

/* A walk over some bytes.  Nothing is read where left is 0. */
struct walk {
    struct buf *out;    /* where the lines go */
    const char *indent; /* before each of them */
    const uint8_t *p;   /* the next byte */
    size_t left;        /* how many are here */
    int lost;           /* 1 = what follows cannot be told apart */
};

/* ==== 1. lines =========================================================== */

static void print(struct buf *out, const char *format, ...)
{
    char text[128];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buf_text(out, text);
}

/* Begins a line with the next n bytes, which are taken. */
static void line_open(struct walk *w, size_t n)
{
    size_t shown = n > SHOWN ? SHOWN : n;
    size_t start;

    buf_text(w->out, w->indent);
    start = w->out->n;
    for (size_t i = 0; i < shown; i++)
        print(w->out, i == 0 ? "%02X" : " %02X", (unsigned)w->p[i]);
    if (n > shown)
        print(w->out, " ... %zu more", n - shown);
    do
        buf_text(w->out, " ");
    while (w->out->n - start < COLUMN);
    if (w->out->n - start > COLUMN)
        buf_text(w->out, " ");
    w->p += n;
    w->left -= n;
}

static void line_close(struct walk *w, const char *section)
{
    print(w->out, " (%s)\n", section);
}

/* Shows all that is left, if anything is, as plain bytes. */
static void line_rest(struct walk *w)
{
    if (w->left == 0)
        return;
    line_open(w, w->left);
    print(w->out, "%s\n", w->lost ? "not read" : "after the last field");
}

/* ==== 2. values ========================================================== */

enum kind { NONE, BYTE, TWO, FOUR, VARINT, TEXT, BINARY, PAIR }; /* 1.5 */

/* The size of a value that begins at p.  Over n = it is cut off; 0 = a
 * Variable Byte Integer that does not end within four bytes. */
static size_t value_size(enum kind kind, const uint8_t *p, size_t n)
{
    size_t size = 0;

    switch (kind) {
    case NONE:
        return 0;
    case BYTE:
        return 1;
    case TWO:
        return 2;
    case FOUR:
        return 4;
    case VARINT:
        while (size < n && size < 4)
            if ((p[size++] & 0x80u) == 0)
                return size;
        return size < 4 ? n + 1 : 0;
    case TEXT:
    case BINARY:
        return n < 2 ? 2 : 2 + (size_t)(p[0] << 8 | p[1]);
    case PAIR:
        size = value_size(TEXT, p, n);
        return size > n ? size : size + value_size(TEXT, p + size, n - size);
    }
    return 0;
}

/* The value of an integer of this size. */
static uint32_t value_number(enum kind kind, const uint8_t *p, size_t size)
{
    uint32_t number = 0;

    if (kind == VARINT) {
        while (size-- > 0)
            number = number << 7 | (p[size] & 0x7Fu);
        return number;
    }
    for (size_t i = 0; i < size; i++)
        number = number << 8 | p[i];
    return number;
}

/* The bytes between quotation marks: as ASCII, \xNN where they are not. */
static void bytes_print(struct buf *out, const uint8_t *p, size_t n)
{
    if (n > SHOWN)
        print(out, " of %zu bytes", n);
    buf_text(out, " \"");
    for (size_t i = 0; i < n && i < SHOWN; i++) {
        int plain = p[i] >= 0x20 && p[i] <= 0x7E && p[i] != '"' && p[i] != '\\';
        print(out, plain ? "%c" : "\\x%02X", (int)p[i]);
    }
    buf_text(out, n > SHOWN ? "\"..." : "\"");
}

static void string_print(struct buf *out, const uint8_t *p, size_t size)
{
    size_t good = mqtt_utf8_check(p + 2, size - 2);

    bytes_print(out, p + 2, size - 2);
    if (good < size - 2)
        print(out, ", byte %zu is not legal UTF-8", good);
}

static void value_print(struct buf *out, enum kind kind, const uint8_t *p,
                        size_t size)
{
    size_t first;

    switch (kind) {
    case NONE:
        break;
    case BYTE:
    case TWO:
    case FOUR:
    case VARINT:
        print(out, " %lu", (unsigned long)value_number(kind, p, size));
        if (kind == VARINT && size > 1 && p[size - 1] == 0)
            buf_text(out, ", not in its shortest form");
        break;
    case TEXT:
        string_print(out, p, size);
        break;
    case BINARY:
        bytes_print(out, p + 2, size - 2);
        break;
    case PAIR:
        first = value_size(TEXT, p, size);
        string_print(out, p, first);
        buf_text(out, " =");
        string_print(out, p + first, size - first);
        break;
    }
}

/* ==== 3. fields ========================================================== */

/* One value as it stands in the packet. */
struct value {
    const uint8_t *p; /* its first byte */
    size_t size;      /* of all its bytes */
};

static void field_lose(struct walk *w, size_t shown, const char *name,
                       const char *what, const char *section)
{
    line_open(w, shown);
    print(w->out, "%s is %s", name, what);
    line_close(w, section);
    w->lost = 1;
}

/* Begins the line of a field: `skip` bytes that were understood already, then
 * a value of this kind.  1 = the caller says what it means and ends the line;
 * 0 = there is no such value, which has been said. */
static int field_take(struct walk *w, size_t skip, enum kind kind,
                      const char *name, const char *section, struct value *v)
{
    if (w->lost)
        return 0;
    v->p = w->p + skip;
    v->size = value_size(kind, v->p, w->left - skip);
    if (v->size == 0)
        field_lose(w, skip + 4, name, "longer than four bytes", section);
    else if (v->size > w->left - skip)
        field_lose(w, w->left, name, w->left > 0 ? "cut off" : "missing",
                   section);
    if (w->lost)
        return 0;
    line_open(w, skip + v->size);
    buf_text(w->out, name);
    return 1;
}

/* A field that needs no further words.  Returns an integer's value. */
static uint32_t field(struct walk *w, enum kind kind, const char *name,
                      const char *section)
{
    struct value v;

    if (!field_take(w, 0, kind, name, section, &v))
        return 0;
    value_print(w->out, kind, v.p, v.size);
    line_close(w, section);
    return kind < TEXT ? value_number(kind, v.p, v.size) : 0;
}

/* Bits of a byte that mean something together. */
struct bits {
    uint8_t mask;   /* 0 ends the table */
    uint8_t always; /* 1 = shown when they are 0, too */
    const char *name;
};

static const struct bits connect_bits[] = {
    {0x02, 0, "Clean Start"},   {0x04, 0, "Will Flag"},
    {0x18, 0, "Will QoS"},      {0x20, 0, "Will Retain"},
    {0x40, 0, "Password Flag"}, {0x80, 0, "User Name Flag"},
    {0x01, 0, "reserved bit"},  {0, 0, NULL}};
static const struct bits connack_bits[] = {
    {0x01, 0, "Session Present"}, {0xFE, 0, "reserved bits"}, {0, 0, NULL}};
static const struct bits publish_bits[] = {
    {0x08, 0, "DUP"}, {0x06, 1, "QoS"}, {0x01, 0, "RETAIN"}, {0, 0, NULL}};
static const struct bits option_bits[] = {
    {0x03, 1, "Maximum QoS"},         {0x04, 0, "No Local"},
    {0x08, 0, "Retain As Published"}, {0x30, 0, "Retain Handling"},
    {0xC0, 0, "reserved bits"},       {0, 0, NULL}};

/* A single bit is its name, more bits are a name and a number. */
static void bits_print(struct buf *out, unsigned byte, const struct bits *b)
{
    const char *comma = "";

    for (; b->mask != 0; b++) {
        unsigned lowest = b->mask & (0u - b->mask);
        if ((byte & b->mask) == 0 && !b->always)
            continue;
        print(out, "%s %s", comma, b->name);
        if (b->mask != lowest)
            print(out, " %u", (byte & b->mask) / lowest);
        comma = ",";
    }
    if (*comma == '\0')
        buf_text(out, " none");
}

/* A byte of flags; returns it. */
static unsigned field_bits(struct walk *w, const struct bits *bits,
                           const char *name, const char *section)
{
    struct value v;

    if (!field_take(w, 0, BYTE, name, section, &v))
        return 0;
    buf_text(w->out, ":");
    bits_print(w->out, v.p[0], bits);
    line_close(w, section);
    return v.p[0];
}

static void field_reason(struct walk *w, uint8_t type, const char *section)
{
    struct value v;

    if (!field_take(w, 0, BYTE, "Reason Code", section, &v))
        return;
    print(w->out, " 0x%02X %s", (unsigned)v.p[0],
          mqtt_reason_name(type, v.p[0]));
    if (!mqtt_reason_legal(type, v.p[0], MQTT_FROM_CLIENT) &&
        !mqtt_reason_legal(type, v.p[0], MQTT_FROM_SERVER))
        buf_text(w->out, ", not for this packet");
    line_close(w, section);
}

/* ==== 4. layouts ========================================================= */

/* Properties: those of section "x" are described in x.2, x.3, ... */
struct block {
    const char *section;
    uint8_t ids[18]; /* in the order of their sections, ended by 0 */
};

/* The fields of a packet type, a letter each:
 *
 *     C  all of CONNECT        i  Packet Identifier     f  Topic Filters
 *     P  all of PUBLISH        r  Reason Code           s  the same, with
 *     a  flags of CONNACK      R  Reason Codes             their options
 *     .  the packet may end    p  properties                              */
struct layout {
    const char *fields; /* NULL: there is no such packet type */
    const char *reason; /* the section of its Reason Code */
    uint8_t flags;      /* of the fixed header; PUBLISH has its own */
    int client, server; /* 1 = this side may send it */
    struct block block;
};

static const struct layout layouts[16] = {
    [MQTT_CONNECT] = {"C", "", 0, 1, 0,
                      {"3.1.2.11", {0x11, 0x21, 0x27, 0x22, 0x19, 0x17, 0x26,
                                    0x15, 0x16}}},
    [MQTT_CONNACK] = {"arp", "3.2.2.2", 0, 0, 1,
                      {"3.2.2.3", {0x11, 0x21, 0x24, 0x25, 0x27, 0x12, 0x22,
                                   0x1F, 0x26, 0x28, 0x29, 0x2A, 0x13, 0x1A,
                                   0x1C, 0x15, 0x16}}},
    [MQTT_PUBLISH] = {"P", "", 0, 1, 1,
                      {"3.3.2.3", {0x01, 0x02, 0x23, 0x08, 0x09, 0x26, 0x0B,
                                   0x03}}},
    [MQTT_PUBACK] = {"i.r.p", "3.4.2.1", 0, 1, 1, {"3.4.2.2", {0x1F, 0x26}}},
    [MQTT_PUBREC] = {"i.r.p", "3.5.2.1", 0, 1, 1, {"3.5.2.2", {0x1F, 0x26}}},
    [MQTT_PUBREL] = {"i.r.p", "3.6.2.1", 2, 1, 1, {"3.6.2.2", {0x1F, 0x26}}},
    [MQTT_PUBCOMP] = {"i.r.p", "3.7.2.1", 0, 1, 1, {"3.7.2.2", {0x1F, 0x26}}},
    [MQTT_SUBSCRIBE] = {"ips", "", 2, 1, 0, {"3.8.2.1", {0x0B, 0x26}}},
    [MQTT_SUBACK] = {"ipR", "3.9.3", 0, 0, 1, {"3.9.2.1", {0x1F, 0x26}}},
    [MQTT_UNSUBSCRIBE] = {"ipf", "", 2, 1, 0, {"3.10.2.1", {0x26}}},
    [MQTT_UNSUBACK] = {"ipR", "3.11.3", 0, 0, 1, {"3.11.2.1", {0x1F, 0x26}}},
    [MQTT_PINGREQ] = {"", "", 0, 1, 0, {"", {0}}},
    [MQTT_PINGRESP] = {"", "", 0, 0, 1, {"", {0}}},
    [MQTT_DISCONNECT] = {".r.p", "3.14.2.1", 0, 1, 1,
                         {"3.14.2.2", {0x11, 0x1F, 0x26, 0x1C}}},
    [MQTT_AUTH] = {".rp", "3.15.2.1", 0, 1, 1,
                   {"3.15.2.2", {0x15, 0x16, 0x1F, 0x26}}},
};

static const struct block will_block = {
    "3.1.3.2", {0x18, 0x01, 0x02, 0x03, 0x08, 0x09, 0x26}};

/* ==== 5. properties ====================================================== */

static const uint8_t property_kinds[MQTT_PROPERTY_END] = {
    [0x01] = BYTE,   [0x02] = FOUR,   [0x03] = TEXT,   [0x08] = TEXT,
    [0x09] = BINARY, [0x0B] = VARINT, [0x11] = FOUR,   [0x12] = TEXT,
    [0x13] = TWO,    [0x15] = TEXT,   [0x16] = BINARY, [0x17] = BYTE,
    [0x18] = FOUR,   [0x19] = BYTE,   [0x1A] = TEXT,   [0x1C] = TEXT,
    [0x1F] = TEXT,   [0x21] = TWO,    [0x22] = TWO,    [0x23] = TWO,
    [0x24] = BYTE,   [0x25] = BYTE,   [0x26] = PAIR,   [0x27] = FOUR,
    [0x28] = BYTE,   [0x29] = BYTE,   [0x2A] = BYTE};

static void property(struct walk *w, const struct block *block)
{
    uint8_t id = w->p[0];
    enum kind kind = NONE;
    char section[24] = "2.2.2.2";
    struct value v;
    unsigned i = 0;

    if (id < MQTT_PROPERTY_END)
        kind = (enum kind)property_kinds[id];
    if (kind == NONE) {
        field_lose(w, 1, "Property Identifier", "unknown", section);
        return;
    }
    while (block->ids[i] != 0 && block->ids[i] != id)
        i++;
    if (block->ids[i] == id)
        snprintf(section, sizeof section, "%s.%u", block->section, i + 2);
    if (!field_take(w, 1, kind, mqtt_property_name(id), section, &v))
        return;
    value_print(w->out, kind, v.p, v.size);
    if (block->ids[i] != id)
        buf_text(w->out, ", not for this packet");
    line_close(w, section);
}

/* Property Length and the properties.  Those that cannot be read hide nothing
 * behind them, as long as their length is right. */
static void properties(struct walk *w, const struct block *block)
{
    struct walk in;
    struct value v;
    char section[24];

    snprintf(section, sizeof section, "%s.1", block->section);
    if (!field_take(w, 0, VARINT, "Property Length", section, &v))
        return;
    value_print(w->out, VARINT, v.p, v.size);
    size_t size = value_number(VARINT, v.p, v.size);
    w->lost = size > w->left;
    if (w->lost)
        buf_text(w->out, ", but the bytes end before");
    line_close(w, section);
    in = *w;
    in.left = w->lost ? w->left : size;
    w->p += in.left;
    w->left -= in.left;
    in.lost = 0;
    while (in.left > 0 && !in.lost)
        property(&in, block);
    line_rest(&in);
}

/* ==== 6. packets ========================================================= */

static void connect_fields(struct walk *w)
{
    field(w, TEXT, "Protocol Name", "3.1.2.1");
    if (field(w, BYTE, "Protocol Version", "3.1.2.2") != 5)
        w->lost = 1; /* others have other fields */
    unsigned flags = field_bits(w, connect_bits, "Connect Flags", "3.1.2.3");
    field(w, TWO, "Keep Alive", "3.1.2.10");
    properties(w, &layouts[MQTT_CONNECT].block);
    field(w, TEXT, "Client Identifier", "3.1.3.1");
    if ((flags & 0x04u) != 0) {
        properties(w, &will_block);
        field(w, TEXT, "Will Topic", "3.1.3.3");
        field(w, BINARY, "Will Payload", "3.1.3.4");
    }
    if ((flags & 0x80u) != 0)
        field(w, TEXT, "User Name", "3.1.3.5");
    if ((flags & 0x40u) != 0)
        field(w, BINARY, "Password", "3.1.3.6");
}

static void publish_fields(struct walk *w, unsigned first)
{
    field(w, TEXT, "Topic Name", "3.3.2.1");
    if ((first & 0x06u) != 0)
        field(w, TWO, "Packet Identifier", "3.3.2.2");
    properties(w, &layouts[MQTT_PUBLISH].block);
    if (w->lost || w->left == 0)
        return;
    struct value v = {w->p, w->left};
    line_open(w, v.size);
    buf_text(w->out, "Payload");
    bytes_print(w->out, v.p, v.size);
    line_close(w, "3.3.3");
}

static void filter_fields(struct walk *w, char letter)
{
    const char *section = letter == 's' ? "3.8.3" : "3.10.3";

    do {
        field(w, TEXT, "Topic Filter", section);
        if (letter == 's')
            field_bits(w, option_bits, "Subscription Options", "3.8.3.1");
    } while (w->left > 0 && !w->lost);
}

/* The fields that one letter of a layout stands for. */
static void letter_fields(struct walk *w, char letter, unsigned first)
{
    const struct layout *l = &layouts[first >> 4];

    if (letter == 'C')
        connect_fields(w);
    else if (letter == 'P')
        publish_fields(w, first);
    else if (letter == 'a')
        field_bits(w, connack_bits, "Connect Acknowledge Flags", "3.2.2.1");
    else if (letter == 'i')
        field(w, TWO, "Packet Identifier", "2.2.1");
    else if (letter == 'p')
        properties(w, &l->block);
    else if (letter == 'f' || letter == 's')
        filter_fields(w, letter);
    else if (letter == 'r' || letter == 'R')
        do
            field_reason(w, (uint8_t)(first >> 4), l->reason);
        while (letter == 'R' && w->left > 0 && !w->lost);
}

/* The fixed header in one line.  Returns Remaining Length. */
static size_t header(struct walk *w, enum mqtt_side from)
{
    unsigned first = w->p[0], type = first >> 4;
    const struct layout *l = &layouts[type];
    int sends = from == MQTT_FROM_CLIENT ? l->client : l->server;
    char name[40], section[24] = "2.1.2";
    struct value v;

    snprintf(name, sizeof name, "%s, Remaining Length",
             type == 0 ? "reserved type 0" : mqtt_type_name((uint8_t)type));
    if (type != 0)
        snprintf(section, sizeof section, "3.%u.1", type);
    if (!field_take(w, 1, VARINT, name, section, &v))
        return 0;
    value_print(w->out, VARINT, v.p, v.size);
    if (type == MQTT_PUBLISH) {
        buf_text(w->out, ",");
        bits_print(w->out, first, publish_bits);
    }
    print(w->out, " (%s)", section);
    if (type != 0 && type != MQTT_PUBLISH && (first & 15) != l->flags)
        print(w->out, "; flags %u, not %u (2.1.3)", first & 15,
              (unsigned)l->flags);
    if (type != 0 && !sends)
        print(w->out, "; not for a %s to send (2.1.2)",
              from == MQTT_FROM_CLIENT ? "client" : "server");
    buf_text(w->out, "\n");
    return value_number(VARINT, v.p, v.size);
}

static void packet(struct walk *w, enum mqtt_side from)
{
    unsigned first = w->p[0];
    const char *letter = layouts[first >> 4].fields;
    size_t size = header(w, from);
    struct walk in = *w;

    if (w->lost)
        return;
    if (size < in.left)
        in.left = size;
    w->p += in.left;
    w->left -= in.left;
    size -= in.left; /* the bytes that are not here */
    in.lost = letter == NULL;
    for (; letter != NULL && *letter != '\0'; letter++)
        if (*letter != '.')
            letter_fields(&in, *letter, first);
        else if (in.left == 0 && size == 0)
            break;
    line_rest(&in);
    if (size > 0) {
        line_open(w, 0);
        print(w->out, "cut here: %zu bytes are missing\n", size);
    }
}

void annotate_bytes(struct buf *out, const char *indent, const uint8_t *p,
                    size_t n, enum mqtt_side from)
{
    struct walk w = {out, indent, p, n, 0};

    while (w.left > 0 && !w.lost)
        packet(&w, from);
    line_rest(&w);
}
