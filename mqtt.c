/*
 * mqtt.c - the wire of MQTT 5.0: bytes to packets and packets to bytes.
 *
 *   1. Rules            three tables: packet types, Reason Codes, properties
 *   2. Strings          UTF-8, Topic Names, Topic Filters, matching
 *   3. Reader           a cursor that never runs past its end
 *   4. Framing          the fixed header, judged byte by byte
 *   5. Properties       reading them, by the table
 *   6. Decoding         one function per kind of packet
 *   7. Writer           a cursor that counts what does not fit
 *   8. Encoding         one function per kind of packet
 *   9. Lists and peeks  filters in a payload, stored packets, old versions
 *  10. Names and text   for logs and people
 *  11. Annotation       the bytes, field by field
 *
 * Every packet has one shape (2.1):
 *
 *   | type << 4 | flags |  Remaining Length  |  Remaining Length bytes ...
 *     1 byte               1 to 4 bytes         variable header, payload
 *
 * and most of them carry properties (2.2.2) at a fixed place inside:
 *
 *   | Property Length |  identifier  value  identifier  value ...
 *     1 to 4 bytes       Property Length bytes
 *
 * Two habits keep this file short.  The reader remembers its first error and
 * then reads only zeroes, so that a decoder is a plain list of fields and the
 * verdict is asked for once.  The writer counts bytes also where it has no
 * room for them, so that the same function measures and writes.
 */
#include "annotate.h"
#include "mqtt.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------------------
 * 1. Rules
 *
 * What the standard says in tables stays a table here.  The code below asks
 * these three and has no second copy of what they say.
 * ------------------------------------------------------------------------- */

#define IN(type) (1u << (type)) /* a set of packet types, as bits */
#define WILL 0                  /* no packet type: the Will Properties */

#define BY_CLIENT (1u << MQTT_FROM_CLIENT)
#define BY_SERVER (1u << MQTT_FROM_SERVER)
#define BY_BOTH (BY_CLIENT | BY_SERVER)

/* 2.1.2 and 2.1.3: one packet type. */
struct type_rule {
    const char *name;      /* as the standard writes it */
    unsigned sides;        /* who may send it, BY_ bits (table 2-1) */
    unsigned flags;        /* its fixed flag bits (table 2-2) */
    const char *flags_id;  /* the statement that fixes them */
    const char *number_id; /* the statement that a Packet Identifier of 0
                              breaks; NULL = it has none */
    const char *reason_id; /* the statement on its Reason Codes, or NULL */
};

/* PUBLISH has flags of its own, see flags_check().  [MQTT-2.2.1-3] is for
 * those who choose an identifier; who answers one must repeat it
 * [MQTT-2.2.1-5] [MQTT-2.2.1-6], and so never gets to 0 either. */
static const struct type_rule type_rules[16] = {
    [MQTT_CONNECT] = {"CONNECT", BY_CLIENT, 0, "MQTT-2.1.3-1", NULL, NULL},
    [MQTT_CONNACK] = {"CONNACK", BY_SERVER, 0, "MQTT-2.1.3-1", NULL,
                      "MQTT-3.2.2-8"},
    [MQTT_PUBLISH] = {"PUBLISH", BY_BOTH, 0, NULL, "MQTT-2.2.1-3", NULL},
    [MQTT_PUBACK] = {"PUBACK", BY_BOTH, 0, "MQTT-2.1.3-1", "MQTT-2.2.1-5",
                     "MQTT-3.4.2-1"},
    [MQTT_PUBREC] = {"PUBREC", BY_BOTH, 0, "MQTT-2.1.3-1", "MQTT-2.2.1-5",
                     "MQTT-3.5.2-1"},
    [MQTT_PUBREL] = {"PUBREL", BY_BOTH, 2, "MQTT-3.6.1-1", "MQTT-2.2.1-5",
                     "MQTT-3.6.2-1"},
    [MQTT_PUBCOMP] = {"PUBCOMP", BY_BOTH, 0, "MQTT-2.1.3-1", "MQTT-2.2.1-5",
                      "MQTT-3.7.2-1"},
    [MQTT_SUBSCRIBE] = {"SUBSCRIBE", BY_CLIENT, 2, "MQTT-3.8.1-1",
                        "MQTT-2.2.1-3", NULL},
    [MQTT_SUBACK] = {"SUBACK", BY_SERVER, 0, "MQTT-2.1.3-1", "MQTT-2.2.1-6",
                     "MQTT-3.9.3-2"},
    [MQTT_UNSUBSCRIBE] = {"UNSUBSCRIBE", BY_CLIENT, 2, "MQTT-3.10.1-1",
                          "MQTT-2.2.1-3", NULL},
    [MQTT_UNSUBACK] = {"UNSUBACK", BY_SERVER, 0, "MQTT-2.1.3-1", "MQTT-2.2.1-6",
                       "MQTT-3.11.3-2"},
    [MQTT_PINGREQ] = {"PINGREQ", BY_CLIENT, 0, "MQTT-2.1.3-1", NULL, NULL},
    [MQTT_PINGRESP] = {"PINGRESP", BY_SERVER, 0, "MQTT-2.1.3-1", NULL, NULL},
    [MQTT_DISCONNECT] = {"DISCONNECT", BY_BOTH, 0, "MQTT-3.14.1-1", NULL,
                         "MQTT-3.14.2-1"},
    [MQTT_AUTH] = {"AUTH", BY_BOTH, 0, "MQTT-3.15.1-1", NULL, "MQTT-3.15.2-1"},
};

/* 2.4, and the tables of the single packets: one Reason Code. */
struct reason_rule {
    const char *name;   /* as the standard writes it */
    unsigned by_client; /* the packets in which a client may send it */
    unsigned by_server; /* the packets in which a server may send it */
};

#define CONNACK IN(MQTT_CONNACK)
#define RECEIVED (IN(MQTT_PUBACK) | IN(MQTT_PUBREC)) /* answers to PUBLISH */
#define RELEASED (IN(MQTT_PUBREL) | IN(MQTT_PUBCOMP))
#define SUBACK IN(MQTT_SUBACK)
#define UNSUBACK IN(MQTT_UNSUBACK)
#define BYE IN(MQTT_DISCONNECT)
#define AUTH IN(MQTT_AUTH)

/* Table 2-6 has Bad authentication method in DISCONNECT where the table of
 * 3.14.2.1 leaves it out; re-authentication has a use for it (4.12.1). */
static const struct reason_rule reason_rules[] = {
    [0x00] = {"Success", RECEIVED | RELEASED | BYE,
              CONNACK | RECEIVED | RELEASED | SUBACK | UNSUBACK | BYE | AUTH},
    [0x01] = {"Granted QoS 1", 0, SUBACK},
    [0x02] = {"Granted QoS 2", 0, SUBACK},
    [0x04] = {"Disconnect with Will Message", BYE, 0},
    [0x10] = {"No matching subscribers", 0, RECEIVED},
    [0x11] = {"No subscription existed", 0, UNSUBACK},
    [0x18] = {"Continue authentication", AUTH, AUTH},
    [0x19] = {"Re-authenticate", AUTH, 0},
    [0x80] = {"Unspecified error", RECEIVED | BYE,
              CONNACK | RECEIVED | SUBACK | UNSUBACK | BYE},
    [0x81] = {"Malformed Packet", BYE, CONNACK | BYE},
    [0x82] = {"Protocol Error", BYE, CONNACK | BYE},
    [0x83] = {"Implementation specific error", RECEIVED | BYE,
              CONNACK | RECEIVED | SUBACK | UNSUBACK | BYE},
    [0x84] = {"Unsupported Protocol Version", 0, CONNACK},
    [0x85] = {"Client Identifier not valid", 0, CONNACK},
    [0x86] = {"Bad User Name or Password", 0, CONNACK},
    [0x87] = {"Not authorized", RECEIVED,
              CONNACK | RECEIVED | SUBACK | UNSUBACK | BYE},
    [0x88] = {"Server unavailable", 0, CONNACK},
    [0x89] = {"Server busy", 0, CONNACK | BYE},
    [0x8A] = {"Banned", 0, CONNACK},
    [0x8B] = {"Server shutting down", 0, BYE},
    [0x8C] = {"Bad authentication method", 0, CONNACK | BYE},
    [0x8D] = {"Keep Alive timeout", 0, BYE},
    [0x8E] = {"Session taken over", 0, BYE},
    [0x8F] = {"Topic Filter invalid", 0, SUBACK | UNSUBACK | BYE},
    [0x90] = {"Topic Name invalid", RECEIVED | BYE, CONNACK | RECEIVED | BYE},
    [0x91] = {"Packet Identifier in use", RECEIVED,
              RECEIVED | SUBACK | UNSUBACK},
    [0x92] = {"Packet Identifier not found", RELEASED, RELEASED},
    [0x93] = {"Receive Maximum exceeded", BYE, BYE},
    [0x94] = {"Topic Alias invalid", BYE, BYE},
    [0x95] = {"Packet too large", BYE, CONNACK | BYE},
    [0x96] = {"Message rate too high", BYE, BYE},
    [0x97] = {"Quota exceeded", RECEIVED | BYE,
              CONNACK | RECEIVED | SUBACK | BYE},
    [0x98] = {"Administrative action", BYE, BYE},
    [0x99] = {"Payload format invalid", RECEIVED | BYE,
              CONNACK | RECEIVED | BYE},
    [0x9A] = {"Retain not supported", 0, CONNACK | BYE},
    [0x9B] = {"QoS not supported", 0, CONNACK | BYE},
    [0x9C] = {"Use another server", 0, CONNACK | BYE},
    [0x9D] = {"Server moved", 0, CONNACK | BYE},
    [0x9E] = {"Shared Subscriptions not supported", 0, SUBACK | BYE},
    [0x9F] = {"Connection rate exceeded", 0, CONNACK | BYE},
    [0xA0] = {"Maximum connect time", 0, BYE},
    [0xA1] = {"Subscription Identifiers not supported", 0, SUBACK | BYE},
    [0xA2] = {"Wildcard Subscriptions not supported", 0, SUBACK | BYE},
};

#define REASON_COUNT (sizeof reason_rules / sizeof *reason_rules)

/* A field on the wire, and what to say when its bytes are wrong. */
struct field {
    const char *name;    /* as the standard writes it */
    const char *cut;     /* it runs past the end of what holds it ... */
    const char *cut_id;  /* ... which breaks this statement, "" for none */
    const char *utf8;    /* it is not well-formed UTF-8 ... */
    const char *utf8_id; /* ... which breaks this statement */
    const char *null;    /* it holds U+0000 ... */
    const char *null_id; /* ... which breaks this statement */
};

#define FIELD(name, cut_id, utf8_id, null_id)                                  \
    {                                                                          \
        name, "the " name " is cut short", cut_id,                             \
            "the " name " is not well-formed UTF-8", utf8_id,                  \
            "the " name " holds the character U+0000", null_id                 \
    }

/* 2.2.2.2, table 2-4: the data types. */
enum kind {
    KIND_BYTE,
    KIND_TWO,
    KIND_FOUR,
    KIND_VARINT,
    KIND_TEXT,
    KIND_BINARY,
    KIND_PAIR
};

/* One property: what it is, where it may stand, what it may say. */
struct property_rule {
    struct field field;   /* its name and the sentences about its bytes */
    enum kind kind;       /* data type on the wire */
    size_t place;         /* offset of its member in mqtt_properties */
    unsigned packets;     /* where it is legal; 0 = no such property */
    unsigned many;        /* ... and where it may stand more than once */
    unsigned bar_client;  /* ... and where a client must not send it */
    unsigned bar_server;  /* ... and where a server must not send it */
    const char *bar_id;   /* the statement on who may send it, or NULL */
    uint32_t low, high;   /* legal values of the integer types */
    uint8_t range_reason; /* for other values; 0 = Protocol Error */
    const char *range_id; /* the statement on its value, or NULL */
    const char *foreign;  /* sentence: not legal in this packet */
    const char *barred;   /* sentence: not legal from this side */
    const char *twice;    /* sentence: more than one */
    const char *range;    /* sentence: a value that is not allowed */
};

#define AT(member) offsetof(struct mqtt_properties, member)

#define WORDS(name)                                                            \
    .foreign = "the property " name " has no place in this packet",            \
    .barred = "the property " name " must not come from this side",            \
    .twice = "the property " name " stands here a second time",                \
    .range = "the value of the property " name " is not allowed"

#define NUMBER(name, its_kind, its_place, where, from, to)                     \
    .field = FIELD(name, "", "", ""), WORDS(name), .kind = its_kind,           \
    .place = its_place, .packets = where, .low = from, .high = to

#define STRING(name, its_kind, its_place, where, utf8_id, null_id)             \
    .field = FIELD(name, "", utf8_id, null_id), WORDS(name), .kind = its_kind, \
    .place = its_place, .packets = where

#define MESSAGE (IN(MQTT_PUBLISH) | IN(WILL))
#define CONNECT IN(MQTT_CONNECT)
#define EVERY                                                                  \
    (CONNECT | CONNACK | MESSAGE | RECEIVED | RELEASED | IN(MQTT_SUBSCRIBE) |  \
     SUBACK | IN(MQTT_UNSUBSCRIBE) | UNSUBACK | BYE | AUTH)
#define ANSWERS (CONNACK | RECEIVED | RELEASED | SUBACK | UNSUBACK | BYE | AUTH)
#define U16 0xFFFFu
#define U32 0xFFFFFFFFu
#define UTF8_ID "MQTT-1.5.4-1"
#define NULL_ID "MQTT-1.5.4-2"

/* Indexed by identifier.  The value 0 of a Topic Alias has a Reason Code of
 * its own (3.3.2.3.4); all other illegal values are Protocol Errors.  A
 * Subscription Identifier may repeat only in what a server forwards. */
static const struct property_rule property_rules[MQTT_PROPERTY_END] = {
    [0x01] = {NUMBER("Payload Format Indicator", KIND_BYTE,
                     AT(payload_format_indicator), MESSAGE, 0, 1)},
    [0x02] = {NUMBER("Message Expiry Interval", KIND_FOUR,
                     AT(message_expiry_interval), MESSAGE, 0, U32)},
    [0x03] = {STRING("Content Type", KIND_TEXT, AT(content_type), MESSAGE,
                     "MQTT-3.3.2-19", NULL_ID)},
    [0x08] = {STRING("Response Topic", KIND_TEXT, AT(response_topic), MESSAGE,
                     "MQTT-3.3.2-13", NULL_ID)},
    [0x09] = {STRING("Correlation Data", KIND_BINARY, AT(correlation_data),
                     MESSAGE, "", "")},
    [0x0B] = {NUMBER("Subscription Identifier", KIND_VARINT,
                     AT(subscription_identifier),
                     IN(MQTT_PUBLISH) | IN(MQTT_SUBSCRIBE), 1,
                     MQTT_REMAINING_LENGTH_MAX),
              .many = IN(MQTT_PUBLISH), .bar_client = IN(MQTT_PUBLISH),
              .bar_id = "MQTT-3.3.4-6"},
    [0x11] = {NUMBER("Session Expiry Interval", KIND_FOUR,
                     AT(session_expiry_interval), CONNECT | CONNACK | BYE, 0,
                     U32),
              .bar_server = BYE, .bar_id = "MQTT-3.14.2-2"},
    [0x12] = {STRING("Assigned Client Identifier", KIND_TEXT,
                     AT(assigned_client_identifier), CONNACK, UTF8_ID,
                     NULL_ID)},
    [0x13] = {NUMBER("Server Keep Alive", KIND_TWO, AT(server_keep_alive),
                     CONNACK, 0, U16)},
    [0x15] = {STRING("Authentication Method", KIND_TEXT,
                     AT(authentication_method), CONNECT | CONNACK | AUTH,
                     UTF8_ID, NULL_ID)},
    [0x16] = {STRING("Authentication Data", KIND_BINARY,
                     AT(authentication_data), CONNECT | CONNACK | AUTH, "",
                     "")},
    [0x17] = {NUMBER("Request Problem Information", KIND_BYTE,
                     AT(request_problem_information), CONNECT, 0, 1)},
    [0x18] = {NUMBER("Will Delay Interval", KIND_FOUR, AT(will_delay_interval),
                     IN(WILL), 0, U32)},
    [0x19] = {NUMBER("Request Response Information", KIND_BYTE,
                     AT(request_response_information), CONNECT, 0, 1)},
    [0x1A] = {STRING("Response Information", KIND_TEXT,
                     AT(response_information), CONNACK, UTF8_ID, NULL_ID)},
    [0x1C] = {STRING("Server Reference", KIND_TEXT, AT(server_reference),
                     CONNACK | BYE, UTF8_ID, NULL_ID),
              .bar_client = BYE},
    [0x1F] = {STRING("Reason String", KIND_TEXT, AT(reason_string), ANSWERS,
                     UTF8_ID, NULL_ID)},
    [0x21] = {NUMBER("Receive Maximum", KIND_TWO, AT(receive_maximum),
                     CONNECT | CONNACK, 1, U16)},
    [0x22] = {NUMBER("Topic Alias Maximum", KIND_TWO, AT(topic_alias_maximum),
                     CONNECT | CONNACK, 0, U16)},
    [0x23] = {NUMBER("Topic Alias", KIND_TWO, AT(topic_alias), IN(MQTT_PUBLISH),
                     1, U16),
              .range_reason = MQTT_TOPIC_ALIAS_INVALID,
              .range_id = "MQTT-3.3.2-8"},
    [0x24] = {NUMBER("Maximum QoS", KIND_BYTE, AT(maximum_qos), CONNACK, 0, 1)},
    [0x25] = {NUMBER("Retain Available", KIND_BYTE, AT(retain_available),
                     CONNACK, 0, 1)},
    [0x26] = {STRING("User Property", KIND_PAIR, 0, EVERY, "MQTT-1.5.7-1",
                     "MQTT-1.5.7-1"),
              .many = EVERY},
    [0x27] = {NUMBER("Maximum Packet Size", KIND_FOUR, AT(maximum_packet_size),
                     CONNECT | CONNACK, 1, U32)},
    [0x28] = {NUMBER("Wildcard Subscription Available", KIND_BYTE,
                     AT(wildcard_subscription_available), CONNACK, 0, 1)},
    [0x29] = {NUMBER("Subscription Identifier Available", KIND_BYTE,
                     AT(subscription_identifier_available), CONNACK, 0, 1)},
    [0x2A] = {NUMBER("Shared Subscription Available", KIND_BYTE,
                     AT(shared_subscription_available), CONNACK, 0, 1)},
};

/* The rule for an identifier, or NULL if there is no such property. */
static const struct property_rule *property_rule_find(uint32_t id)
{
    if (id >= MQTT_PROPERTY_END || property_rules[id].packets == 0)
        return NULL;
    return &property_rules[id];
}

int mqtt_reason_legal(uint8_t type, uint8_t reason, enum mqtt_side from)
{
    if (type > MQTT_AUTH || reason >= REASON_COUNT)
        return 0;
    unsigned packets = from == MQTT_FROM_CLIENT
                           ? reason_rules[reason].by_client
                           : reason_rules[reason].by_server;
    return (packets & IN(type)) != 0;
}

/* ---------------------------------------------------------------------------
 * 2. Strings
 *
 * A string is judged once, where it comes in; what works on strings later on
 * (matching above all) takes them as legal and looks at bytes only.  UTF-8 is
 * made so that this is right: no byte of a longer character looks like one of
 * the characters / + # $.
 * ------------------------------------------------------------------------- */

/* 10xxxxxx: a byte that continues a character. */
static int is_tail(uint8_t byte)
{
    return (byte & 0xC0u) == 0x80u;
}

/* The length of the well-formed UTF-8 sequence of two or more bytes at p, or
 * 0.  The second byte decides what is overlong (E0, F0), a surrogate (ED) or
 * over U+10FFFF (F4); C0, C1 and F5 to FF start nothing.  U+FEFF and the
 * noncharacters are characters like others [MQTT-1.5.4-3]. */
static size_t sequence_length(const uint8_t *p, size_t n)
{
    uint8_t lead = p[0];

    if (lead >= 0xC2 && lead <= 0xDF)
        return n >= 2 && is_tail(p[1]) ? 2 : 0;
    if (lead >= 0xE0 && lead <= 0xEF) {
        if (n < 3 || !is_tail(p[1]) || !is_tail(p[2]))
            return 0;
        if ((lead == 0xE0 && p[1] < 0xA0) || (lead == 0xED && p[1] > 0x9F))
            return 0;
        return 3;
    }
    if (lead >= 0xF0 && lead <= 0xF4) {
        if (n < 4 || !is_tail(p[1]) || !is_tail(p[2]) || !is_tail(p[3]))
            return 0;
        if ((lead == 0xF0 && p[1] < 0x90) || (lead == 0xF4 && p[1] > 0x8F))
            return 0;
        return 4;
    }
    return 0;
}

/* [MQTT-1.5.4-1] [MQTT-1.5.4-2] */
size_t mqtt_utf8_check(const uint8_t *p, size_t n)
{
    size_t i = 0;

    while (i < n) {
        if (p[i] < 0x80) {
            if (p[i] == 0)
                return i;
            i++;
            continue;
        }
        size_t length = sequence_length(p + i, n - i);
        if (length == 0)
            return i;
        i += length;
    }
    return n;
}

/* The offset of the first + or #, or n. */
static size_t wildcard_find(struct mqtt_bytes s)
{
    size_t i = 0;
    while (i < s.n && s.p[i] != '+' && s.p[i] != '#')
        i++;
    return i;
}

/* [MQTT-4.7.0-1] [MQTT-4.7.3-1]; the length field has no room for more than
 * the 65,535 bytes that are allowed [MQTT-4.7.3-3]. */
int mqtt_topic_name_valid(struct mqtt_bytes topic)
{
    return topic.n > 0 && wildcard_find(topic) == topic.n;
}

static int filter_fail(struct mqtt_error *err, const char *statement,
                       size_t offset, const char *what)
{
    err->reason = MQTT_TOPIC_FILTER_INVALID;
    err->statement = statement;
    err->offset = offset;
    err->what = what;
    return -1;
}

/* 4.7.1: where may the wildcards stand?  base: the filter's offset in what
 * the client wrote. */
static int filter_check(struct mqtt_bytes f, size_t base,
                        struct mqtt_error *err)
{
    for (size_t i = 0; i < f.n; i++) {
        int first = i == 0 || f.p[i - 1] == '/';
        int last = i + 1 == f.n;

        if (f.p[i] == 0) /* [MQTT-4.7.3-2] */
            return filter_fail(err, "MQTT-4.7.3-2", base + i,
                               "the Topic Filter holds U+0000");
        if (f.p[i] == '#' && !(first && last)) /* [MQTT-4.7.1-1] */
            return filter_fail(err, "MQTT-4.7.1-1", base + i,
                               "# must be the whole last level of a filter");
        if (f.p[i] == '+' && !(first && (last || f.p[i + 1] == '/')))
            return filter_fail(err, "MQTT-4.7.1-2", base + i,
                               "+ must be a whole level of a filter");
    }
    return 0;
}

static const char share_prefix[] = "$share/";
#define SHARE_PREFIX_SIZE (sizeof share_prefix - 1)

static int filter_is_shared(struct mqtt_bytes f)
{
    return f.n >= SHARE_PREFIX_SIZE &&
           memcmp(f.p, share_prefix, SHARE_PREFIX_SIZE) == 0;
}

/* 4.8.2: $share/{ShareName}/{filter}. */
static int share_parse(struct mqtt_bytes whole, struct mqtt_bytes *share,
                       struct mqtt_bytes *filter, struct mqtt_error *err)
{
    size_t from = SHARE_PREFIX_SIZE;
    size_t i = from;

    while (i < whole.n && whole.p[i] != '/') {
        if (whole.p[i] == '+' || whole.p[i] == '#')
            return filter_fail(err, "MQTT-4.8.2-2", i,
                               "a ShareName holds no wildcard");
        i++;
    }
    if (i == from)
        return filter_fail(err, "MQTT-4.8.2-1", from, "the ShareName is empty");
    if (i + 1 >= whole.n)
        return filter_fail(err, "MQTT-4.8.2-2", i,
                           "no Topic Filter follows the ShareName");
    share->p = whole.p + from;
    share->n = i - from;
    filter->p = whole.p + i + 1;
    filter->n = whole.n - i - 1;
    return filter_check(*filter, i + 1, err);
}

int mqtt_topic_filter_parse(struct mqtt_bytes whole, struct mqtt_bytes *share,
                            struct mqtt_bytes *filter, struct mqtt_error *err)
{
    share->p = NULL;
    share->n = 0;
    *filter = whole;
    if (whole.n == 0)
        return filter_fail(err, "MQTT-4.7.3-1", 0, "the Topic Filter is empty");
    if (whole.n > U16)
        return filter_fail(err, "MQTT-4.7.3-3", U16,
                           "the Topic Filter is longer than 65,535 bytes");
    if (filter_is_shared(whole))
        return share_parse(whole, share, filter, err);
    return filter_check(whole, 0, err);
}

/* The end of the level that begins at i.  A level may be empty: a//b has
 * three, and /a has two. */
static size_t level_end(struct mqtt_bytes s, size_t i)
{
    while (i < s.n && s.p[i] != '/')
        i++;
    return i;
}

/* Level by level, byte by byte, with nothing normalized [MQTT-4.7.3-4].  A
 * filter a/# also matches its parent a (4.7.1.2), which is why the end of the
 * topic looks for what is left of the filter. */
int mqtt_topic_match(struct mqtt_bytes filter, struct mqtt_bytes topic)
{
    size_t f = 0, t = 0;

    if (filter.n == 0 || topic.n == 0)
        return 0;
    /* [MQTT-4.7.2-1] */
    if (topic.p[0] == '$' && (filter.p[0] == '#' || filter.p[0] == '+'))
        return 0;
    for (;;) {
        size_t f_end = level_end(filter, f);
        size_t t_end = level_end(topic, t);
        size_t f_size = f_end - f;

        if (f_size == 1 && filter.p[f] == '#')
            return 1;
        if (!(f_size == 1 && filter.p[f] == '+') &&
            (f_size != t_end - t ||
             memcmp(filter.p + f, topic.p + t, f_size) != 0))
            return 0;
        if (t_end == topic.n)
            return f_end == filter.n ||
                   (filter.n - f_end == 2 && filter.p[f_end + 1] == '#');
        if (f_end == filter.n)
            return 0;
        f = f_end + 1;
        t = t_end + 1;
    }
}

/* ---------------------------------------------------------------------------
 * 3. Reader
 *
 * Reads fields from front to back.  The first error stays; after it every
 * read gives zero or nothing, so loops must look at `failed`.
 * ------------------------------------------------------------------------- */

struct reader {
    const uint8_t *p;       /* the packet's first byte */
    size_t at;              /* offset of the next byte to read */
    size_t end;             /* offset behind the last byte to read */
    uint8_t type;           /* the packet's type */
    enum mqtt_side from;    /* who sent it */
    int failed;             /* 1 = *err holds the first error */
    struct mqtt_error *err; /* where that error goes */
};

/* NULL stands for "no statement covers it", so that tables may leave it out. */
static void error_set(struct mqtt_error *err, uint8_t reason,
                      const char *statement, size_t offset, const char *what)
{
    err->reason = reason;
    err->statement = statement == NULL ? "" : statement;
    err->offset = offset;
    err->what = what;
}

/* What went wrong first is what counts; all that follows from it is noise. */
static void reader_fail(struct reader *r, uint8_t reason, const char *statement,
                        size_t offset, const char *what)
{
    if (!r->failed)
        error_set(r->err, reason, statement, offset, what);
    r->failed = 1;
}

/* The next n bytes, or NULL and an error if there are not so many. */
static const uint8_t *reader_take(struct reader *r, size_t n, size_t start,
                                  const struct field *field)
{
    if (r->failed)
        return NULL;
    if (n > r->end - r->at) {
        reader_fail(r, MQTT_MALFORMED_PACKET, field->cut_id, start, field->cut);
        return NULL;
    }
    const uint8_t *p = r->p + r->at;
    r->at += n;
    return p;
}

/* An integer of 1, 2 or 4 bytes, the highest first (1.5.2, 1.5.3). */
static uint32_t reader_number(struct reader *r, size_t size,
                              const struct field *field)
{
    const uint8_t *p = reader_take(r, size, r->at, field);
    uint32_t value = 0;

    for (size_t i = 0; p != NULL && i < size; i++)
        value = value << 8 | p[i];
    return value;
}

enum { VARINT_MORE = 0, VARINT_LONG = -1, VARINT_NOT_SHORTEST = -2 };

/* 1.5.5: takes a Variable Byte Integer from the first n bytes at p.  Returns
 * its size, 1 to 4, or why there is none; never looks at a fifth byte. */
static int varint_read(const uint8_t *p, size_t n, uint32_t *value)
{
    *value = 0;
    for (int i = 0; i < 4; i++) {
        if ((size_t)i >= n)
            return VARINT_MORE;
        *value |= (uint32_t)(p[i] & 0x7Fu) << (7 * i);
        if ((p[i] & 0x80u) != 0)
            continue;
        if (i > 0 && p[i] == 0) /* [MQTT-1.5.5-1] */
            return VARINT_NOT_SHORTEST;
        return i + 1;
    }
    return VARINT_LONG;
}

/* Said in two places: of fields here and of the fixed header in section 4. */
static const char not_shortest[] =
    "a Variable Byte Integer is not in its shortest form";
static const char over_four[] =
    "a Variable Byte Integer is longer than four bytes";

/* The three ways to fail have three sentences; only the first has a number. */
static uint32_t reader_varint(struct reader *r, const struct field *field)
{
    uint32_t value = 0;

    if (r->failed)
        return 0;
    int size = varint_read(r->p + r->at, r->end - r->at, &value);
    if (size > 0) {
        r->at += (size_t)size;
        return value;
    }
    if (size == VARINT_NOT_SHORTEST)
        reader_fail(r, MQTT_MALFORMED_PACKET, "MQTT-1.5.5-1", r->at,
                    not_shortest);
    else if (size == VARINT_LONG)
        reader_fail(r, MQTT_MALFORMED_PACKET, NULL, r->at, over_four);
    else
        reader_fail(r, MQTT_MALFORMED_PACKET, field->cut_id, r->at, field->cut);
    return 0;
}

/* 1.5.6: a length of two bytes and so many bytes. */
static struct mqtt_bytes reader_binary(struct reader *r,
                                       const struct field *field)
{
    struct mqtt_bytes b = {NULL, 0};
    size_t start = r->at;
    size_t n = reader_number(r, 2, field);
    const uint8_t *p = reader_take(r, n, start, field);

    if (p != NULL) {
        b.p = p;
        b.n = n;
    }
    return b;
}

/* 1.5.4: the same, and it must be UTF-8 [MQTT-1.5.4-1] [MQTT-1.5.4-2]. */
static void text_check(struct reader *r, struct mqtt_bytes b,
                       const struct field *field)
{
    size_t bad = mqtt_utf8_check(b.p, b.n);

    if (r->failed || bad == b.n)
        return;
    size_t offset = (size_t)(b.p - r->p) + bad;
    if (b.p[bad] == 0)
        reader_fail(r, MQTT_MALFORMED_PACKET, field->null_id, offset,
                    field->null);
    else
        reader_fail(r, MQTT_MALFORMED_PACKET, field->utf8_id, offset,
                    field->utf8);
}

static struct mqtt_bytes reader_text(struct reader *r,
                                     const struct field *field)
{
    struct mqtt_bytes b = reader_binary(r, field);
    text_check(r, b, field);
    return b;
}

/* All that is left. */
static struct mqtt_bytes reader_rest(struct reader *r)
{
    struct mqtt_bytes b = {NULL, 0};

    if (!r->failed) {
        b.p = r->p + r->at;
        b.n = r->end - r->at;
        r->at = r->end;
    }
    return b;
}

/* ---------------------------------------------------------------------------
 * 4. Framing
 *
 * Bytes come as the network cuts them, so the question "is there a packet?"
 * is asked again and again about a growing beginning.  It must not wait with a
 * refusal until a whole packet is there: who announces 200 MB, or a packet
 * type that does not exist, is told so at that byte.
 * ------------------------------------------------------------------------- */

/* 2.1.3: are these the flags that this type must have?  PUBLISH alone has
 * flags that vary: DUP, QoS (two bits), RETAIN. */
static int flags_check(uint8_t first, struct mqtt_error *err)
{
    const struct type_rule *rule = &type_rules[first >> 4];
    unsigned flags = first & 0x0Fu;

    if (first >> 4 != MQTT_PUBLISH) {
        if (flags == rule->flags)
            return 0;
        error_set(err, MQTT_MALFORMED_PACKET, rule->flags_id, 0,
                  "the flags of the fixed header are not those of this packet "
                  "type");
        return -1;
    }
    if ((flags & 6u) == 6u) { /* [MQTT-3.3.1-4] */
        error_set(err, MQTT_MALFORMED_PACKET, "MQTT-3.3.1-4", 0,
                  "the QoS of a PUBLISH is 3");
        return -1;
    }
    if ((flags & 6u) == 0 && (flags & 8u) != 0) { /* [MQTT-3.3.1-2] */
        error_set(err, MQTT_MALFORMED_PACKET, "MQTT-3.3.1-2", 0,
                  "a PUBLISH of QoS 0 has DUP set");
        return -1;
    }
    return 0;
}

/* 2.1.2: type, direction, flags: all that the first byte can tell. */
static int first_byte_check(uint8_t first, enum mqtt_side from,
                            struct mqtt_error *err)
{
    const struct type_rule *rule = &type_rules[first >> 4];

    if (rule->sides == 0) {
        error_set(err, MQTT_MALFORMED_PACKET, NULL, 0,
                  "packet type 0 is reserved");
        return -1;
    }
    if ((rule->sides & (1u << from)) == 0) {
        error_set(err, MQTT_PROTOCOL_ERROR, NULL, 0,
                  "this side must not send a packet of this type");
        return -1;
    }
    return flags_check(first, err);
}

enum mqtt_frame mqtt_frame_find(const uint8_t *p, size_t n, uint32_t maximum,
                                enum mqtt_side from, size_t *size,
                                struct mqtt_error *err)
{
    uint32_t length = 0;

    if (n == 0)
        return MQTT_FRAME_MORE;
    if (first_byte_check(p[0], from, err) < 0)
        return MQTT_FRAME_MALFORMED;
    int used = varint_read(p + 1, n - 1, &length);
    if (used == VARINT_MORE)
        return MQTT_FRAME_MORE;
    if (used < 0) {
        error_set(err, MQTT_MALFORMED_PACKET,
                  used == VARINT_LONG ? NULL : "MQTT-1.5.5-1", 1,
                  used == VARINT_LONG ? over_four : not_shortest);
        return MQTT_FRAME_MALFORMED;
    }
    /* 3.12.1 and 3.13.1: there is nothing in them to come. */
    if (length != 0 &&
        (p[0] >> 4 == MQTT_PINGREQ || p[0] >> 4 == MQTT_PINGRESP)) {
        error_set(err, MQTT_MALFORMED_PACKET, NULL, 1,
                  "the Remaining Length of a ping is not 0");
        return MQTT_FRAME_MALFORMED;
    }
    size_t whole = 1 + (size_t)used + length;
    if (whole > maximum) { /* [MQTT-3.1.2-24] [MQTT-3.2.2-15] */
        error_set(err, MQTT_PACKET_TOO_LARGE,
                  from == MQTT_FROM_CLIENT ? "MQTT-3.2.2-15" : "MQTT-3.1.2-24",
                  1, "the packet is larger than the Maximum Packet Size");
        return MQTT_FRAME_TOO_LARGE;
    }
    if (whole > n)
        return MQTT_FRAME_MORE;
    *size = whole;
    return MQTT_FRAME_COMPLETE;
}

/* ---------------------------------------------------------------------------
 * 5. Properties
 *
 * Three steps for each property, the same for all 27: take it from the wire
 * by its data type, ask the table whether it may stand here, ask the table
 * whether it may say this.  Only then is it stored in its member.
 * ------------------------------------------------------------------------- */

static const struct field property_length_field =
    FIELD("Property Length", "MQTT-2.2.2-1", "", "");
static const struct field identifier_field =
    FIELD("identifier of a property", "", "", "");

/* Takes one property by its data type alone; no other rule is looked at.
 * NULL = there is none or it does not fit, *r has failed. */
static const struct property_rule *property_take(struct reader *r,
                                                 struct mqtt_property_view *v)
{
    size_t start = r->at;
    uint32_t id = reader_varint(r, &identifier_field);
    const struct property_rule *rule = property_rule_find(id);

    memset(v, 0, sizeof *v);
    if (rule == NULL) { /* 2.2.2.2 */
        reader_fail(r, MQTT_MALFORMED_PACKET, NULL, start,
                    "there is no property of this identifier");
        return NULL;
    }
    v->id = (uint8_t)id;
    switch (rule->kind) {
    case KIND_BYTE:
        v->number = reader_number(r, 1, &rule->field);
        break;
    case KIND_TWO:
        v->number = reader_number(r, 2, &rule->field);
        break;
    case KIND_FOUR:
        v->number = reader_number(r, 4, &rule->field);
        break;
    case KIND_VARINT:
        v->number = reader_varint(r, &rule->field);
        break;
    case KIND_PAIR:
        v->text = reader_binary(r, &rule->field);
        v->pair = reader_binary(r, &rule->field);
        break;
    case KIND_TEXT:
    case KIND_BINARY:
        v->text = reader_binary(r, &rule->field);
        break;
    }
    v->whole.p = r->p + start;
    v->whole.n = r->at - start;
    return r->failed ? NULL : rule;
}

int mqtt_property_next(struct mqtt_bytes *rest, struct mqtt_property_view *out)
{
    struct mqtt_error ignored;
    struct reader r = {rest->p, 0, rest->n, 0, MQTT_FROM_CLIENT, 0, &ignored};

    if (rest->n == 0 || property_take(&r, out) == NULL)
        return 0;
    rest->p += r.at;
    rest->n -= r.at;
    return 1;
}

/* Puts a value into its member, whose type follows from the data type. */
static void property_store(struct mqtt_properties *props,
                           const struct property_rule *rule,
                           const struct mqtt_property_view *v)
{
    uint8_t *member = (uint8_t *)props + rule->place;
    uint8_t one = (uint8_t)v->number;
    uint16_t two = (uint16_t)v->number;

    switch (rule->kind) {
    case KIND_BYTE:
        memcpy(member, &one, sizeof one);
        break;
    case KIND_TWO:
        memcpy(member, &two, sizeof two);
        break;
    case KIND_FOUR:
    case KIND_VARINT:
        memcpy(member, &v->number, sizeof v->number);
        break;
    case KIND_TEXT:
    case KIND_BINARY:
        memcpy(member, &v->text, sizeof v->text);
        break;
    case KIND_PAIR: /* has no member: see mqtt_property_next() */
        break;
    }
}

/* The way back: the same view of a member that property_take() gives of the
 * wire, so that writing and printing need not know members.  `whole` stays
 * empty, for there are no bytes yet. */
static const struct property_rule *
property_load(const struct mqtt_properties *props, uint8_t id,
              struct mqtt_property_view *v)
{
    const struct property_rule *rule = &property_rules[id];
    const uint8_t *member = (const uint8_t *)props + rule->place;
    uint16_t two;

    memset(v, 0, sizeof *v);
    v->id = id;
    switch (rule->kind) {
    case KIND_BYTE:
        v->number = *member;
        break;
    case KIND_TWO:
        memcpy(&two, member, sizeof two);
        v->number = two;
        break;
    case KIND_FOUR:
    case KIND_VARINT:
        memcpy(&v->number, member, sizeof v->number);
        break;
    case KIND_TEXT:
    case KIND_BINARY:
        memcpy(&v->text, member, sizeof v->text);
        break;
    case KIND_PAIR: /* has no member */
        break;
    }
    return rule;
}

/* May this property stand in this packet (or in its Will Properties), from
 * this side, after those that stood there before? */
static void property_place_check(struct reader *r,
                                 const struct property_rule *rule,
                                 unsigned where, int seen, size_t start)
{
    unsigned barred =
        r->from == MQTT_FROM_CLIENT ? rule->bar_client : rule->bar_server;

    if ((rule->packets & where) == 0) /* 2.2.2.2 */
        reader_fail(r, MQTT_MALFORMED_PACKET, NULL, start, rule->foreign);
    else if ((barred & where) != 0) /* [MQTT-3.3.4-6] [MQTT-3.14.2-2] */
        reader_fail(r, MQTT_PROTOCOL_ERROR, rule->bar_id, start, rule->barred);
    else if (seen && (rule->many & where) == 0)
        reader_fail(r, MQTT_PROTOCOL_ERROR, NULL, start, rule->twice);
}

/* 3.3.2.3.5: a Response Topic is a Topic Name. */
static void response_topic_check(struct reader *r, struct mqtt_bytes topic,
                                 size_t start)
{
    if (r->failed || mqtt_topic_name_valid(topic))
        return;
    if (topic.n == 0) /* [MQTT-4.7.3-1] */
        reader_fail(r, MQTT_PROTOCOL_ERROR, "MQTT-4.7.3-1", start,
                    "the Response Topic is empty");
    else /* [MQTT-3.3.2-14] */
        reader_fail(r, MQTT_PROTOCOL_ERROR, "MQTT-3.3.2-14",
                    (size_t)(topic.p - r->p) + wildcard_find(topic),
                    "the Response Topic holds a wildcard");
}

/* Is the value one that this property may have? */
static void property_value_check(struct reader *r,
                                 const struct property_rule *rule,
                                 const struct mqtt_property_view *v,
                                 size_t start)
{
    if (rule->kind == KIND_TEXT || rule->kind == KIND_PAIR)
        text_check(r, v->text, &rule->field);
    if (rule->kind == KIND_PAIR) /* [MQTT-1.5.7-1] */
        text_check(r, v->pair, &rule->field);
    if (v->id == MQTT_RESPONSE_TOPIC) /* [MQTT-3.3.2-13] */
        response_topic_check(r, v->text, start);
    if (v->number >= rule->low && v->number <= rule->high)
        return;
    if (rule->kind <= KIND_VARINT) /* [MQTT-3.3.2-8] */
        reader_fail(r,
                    rule->range_reason != 0 ? rule->range_reason
                                            : MQTT_PROTOCOL_ERROR,
                    rule->range_id, start + 1, rule->range);
}

/* 2.2.2: Property Length and properties.  where: the bit of the packet's
 * type, or of WILL. */
static void properties_decode(struct reader *r, struct mqtt_properties *props,
                              unsigned where)
{
    struct mqtt_property_view v;
    size_t start = r->at;
    size_t n = reader_varint(r, &property_length_field); /* [MQTT-2.2.2-1] */
    size_t end = r->end;

    if (!r->failed && n > r->end - r->at)
        reader_fail(r, MQTT_MALFORMED_PACKET, NULL, start,
                    "the Property Length runs past the end of the packet");
    if (r->failed)
        return;
    props->raw.p = r->p + r->at;
    props->raw.n = n;
    r->end = r->at + n;
    while (!r->failed && r->at < r->end) {
        start = r->at;
        const struct property_rule *rule = property_take(r, &v);
        if (rule == NULL)
            break;
        int seen = (int)MQTT_HAS(props, v.id);
        property_place_check(r, rule, where, seen, start);
        property_value_check(r, rule, &v, start);
        if (!seen)
            property_store(props, rule, &v);
        props->has |= (uint64_t)1 << v.id;
    }
    r->end = end;
}

/* Where in the packet does this property stand? */
static size_t property_offset(const struct reader *r,
                              const struct mqtt_properties *props, uint8_t id)
{
    struct mqtt_bytes rest = props->raw;
    struct mqtt_property_view v;

    while (mqtt_property_next(&rest, &v))
        if (v.id == id)
            return (size_t)(v.whole.p - r->p);
    return (size_t)(props->raw.p - r->p);
}

/* ---------------------------------------------------------------------------
 * 6. Decoding
 *
 * Each function reads the fields in the order of the wire and checks what
 * needs more than one field to be known.  Malformed (0x81) is what cannot be
 * read or has reserved bits set; Protocol Error (0x82) is what can be read but
 * must not be said (1.2, 4.13).  Where a clause names another Reason Code, the
 * check has it.
 * ------------------------------------------------------------------------- */

static const struct field number_field = FIELD("Packet Identifier", "", "", "");
static const struct field reason_field = FIELD("Reason Code", "", "", "");

/* 2.2.1: an identifier of 0 is none. */
static uint16_t packet_id_decode(struct reader *r)
{
    size_t start = r->at;
    uint16_t id = (uint16_t)reader_number(r, 2, &number_field);
    const char *statement = type_rules[r->type].number_id;

    /* [MQTT-2.2.1-4] is what [MQTT-2.2.1-3] is to a client. */
    if (r->type == MQTT_PUBLISH && r->from == MQTT_FROM_SERVER)
        statement = "MQTT-2.2.1-4";
    if (id == 0)
        reader_fail(r, MQTT_PROTOCOL_ERROR, statement, start,
                    "the Packet Identifier is 0");
    return id;
}

/* Checks a Reason Code against the table of its packet: [MQTT-3.2.2-8]
 * [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1] [MQTT-3.9.3-2]
 * [MQTT-3.11.3-2] [MQTT-3.14.2-1] [MQTT-3.15.2-1]. */
static void reason_check(struct reader *r, uint8_t reason, size_t offset)
{
    if (!mqtt_reason_legal(r->type, reason, r->from))
        reader_fail(r, MQTT_PROTOCOL_ERROR, type_rules[r->type].reason_id,
                    offset,
                    "this Reason Code is not allowed in this packet from "
                    "this side");
}

/* The one byte that says how it went. */
static uint8_t reason_decode(struct reader *r)
{
    size_t start = r->at;
    uint8_t reason = (uint8_t)reader_number(r, 1, &reason_field);
    reason_check(r, reason, start);
    return reason;
}

static const struct field protocol_field =
    FIELD("Protocol Name", "MQTT-3.1.2-1", "", "");
static const struct field version_field =
    FIELD("Protocol Version", "MQTT-3.1.2-2", "", "");
static const struct field connect_flags_field =
    FIELD("Connect Flags", "", "", "");
static const struct field keep_alive_field = FIELD("Keep Alive", "", "", "");
static const struct field client_id_field =
    FIELD("Client Identifier", "MQTT-3.1.3-3", "MQTT-3.1.3-4", NULL_ID);
static const struct field will_topic_field =
    FIELD("Will Topic", "MQTT-3.1.2-9", "MQTT-3.1.3-11", "MQTT-4.7.3-2");
static const struct field will_payload_field =
    FIELD("Will Payload", "MQTT-3.1.2-9", "", "");
static const struct field user_name_field =
    FIELD("User Name", "MQTT-3.1.2-17", "MQTT-3.1.3-12", NULL_ID);
static const struct field password_field =
    FIELD("Password", "MQTT-3.1.2-19", "", "");

/* 3.1.2.1 and 3.1.2.2.  Both have one Reason Code, for the answer to both is
 * the same: this server speaks MQTT 5.0. */
static void protocol_check(struct reader *r)
{
    size_t start = r->at;
    struct mqtt_bytes name = reader_binary(r, &protocol_field);

    /* [MQTT-3.1.2-1] */
    if (!r->failed && (name.n != 4 || memcmp(name.p, "MQTT", 4) != 0))
        reader_fail(r, MQTT_UNSUPPORTED_PROTOCOL_VERSION, "MQTT-3.1.2-1", start,
                    "the Protocol Name is not MQTT");
    start = r->at;
    if (reader_number(r, 1, &version_field) != 5) /* [MQTT-3.1.2-2] */
        reader_fail(r, MQTT_UNSUPPORTED_PROTOCOL_VERSION, "MQTT-3.1.2-2", start,
                    "the Protocol Version is not 5");
}

/* 3.1.2.3: the Connect Flags. */
static void connect_flags_decode(struct reader *r, struct mqtt_connect *c)
{
    size_t start = r->at;
    uint32_t flags = reader_number(r, 1, &connect_flags_field);

    c->clean_start = (flags & 0x02u) != 0;
    c->will_flag = (flags & 0x04u) != 0;
    c->will_qos = (uint8_t)(flags >> 3 & 3u);
    c->will_retain = (flags & 0x20u) != 0;
    c->has_password = (flags & 0x40u) != 0;
    c->has_user_name = (flags & 0x80u) != 0;
    if ((flags & 0x01u) != 0) /* [MQTT-3.1.2-3] */
        reader_fail(r, MQTT_MALFORMED_PACKET, "MQTT-3.1.2-3", start,
                    "the reserved bit of the Connect Flags is set");
    if (!c->will_flag && c->will_qos != 0) /* [MQTT-3.1.2-11] */
        reader_fail(r, MQTT_MALFORMED_PACKET, "MQTT-3.1.2-11", start,
                    "there is a Will QoS but no Will Flag");
    if (c->will_qos == 3) /* [MQTT-3.1.2-12] */
        reader_fail(r, MQTT_MALFORMED_PACKET, "MQTT-3.1.2-12", start,
                    "the Will QoS is 3");
    if (!c->will_flag && c->will_retain) /* [MQTT-3.1.2-13] */
        reader_fail(r, MQTT_MALFORMED_PACKET, "MQTT-3.1.2-13", start,
                    "there is a Will Retain but no Will Flag");
}

/* 3.1.3.2 to 3.1.3.4: all three or none [MQTT-3.1.2-9]. */
static void will_decode(struct reader *r, struct mqtt_connect *c)
{
    if (!c->will_flag)
        return;
    if (!r->failed && r->at == r->end)
        reader_fail(r, MQTT_MALFORMED_PACKET, "MQTT-3.1.2-9", r->at,
                    "there is a Will Flag but no will");
    properties_decode(r, &c->will_props, IN(WILL));
    size_t start = r->at;
    c->will_topic = reader_text(r, &will_topic_field); /* [MQTT-3.1.3-11] */
    c->will_payload = reader_binary(r, &will_payload_field);
    if (r->failed || mqtt_topic_name_valid(c->will_topic))
        return;
    if (c->will_topic.n == 0) /* [MQTT-4.7.3-1] */
        reader_fail(r, MQTT_TOPIC_NAME_INVALID, "MQTT-4.7.3-1", start,
                    "the Will Topic is empty");
    else /* [MQTT-4.7.0-1] */
        reader_fail(r, MQTT_TOPIC_NAME_INVALID, "MQTT-4.7.0-1",
                    start + 2 + wildcard_find(c->will_topic),
                    "the Will Topic holds a wildcard");
}

/* 3.1.3.5 and 3.1.3.6: what the flags announce and nothing beyond it. */
static void credentials_decode(struct reader *r, struct mqtt_connect *c)
{
    if (c->has_user_name) /* [MQTT-3.1.2-17] [MQTT-3.1.3-12] */
        c->user_name = reader_text(r, &user_name_field);
    if (c->has_password) /* [MQTT-3.1.2-19] */
        c->password = reader_binary(r, &password_field);
    if (r->failed || r->at == r->end)
        return;
    if (!c->has_user_name && !c->has_password) /* [MQTT-3.1.2-16] */
        reader_fail(r, MQTT_MALFORMED_PACKET, "MQTT-3.1.2-16", r->at,
                    "there is a User Name but no User Name Flag");
    if (!c->has_password) /* [MQTT-3.1.2-18] */
        reader_fail(r, MQTT_MALFORMED_PACKET, "MQTT-3.1.2-18", r->at,
                    "there is a Password but no Password Flag");
}

/* 3.1: the order of the payload is fixed [MQTT-3.1.3-1]. */
static void connect_decode(struct reader *r, struct mqtt_packet *out)
{
    struct mqtt_connect *c = &out->connect;

    protocol_check(r);
    connect_flags_decode(r, c);
    c->keep_alive = (uint16_t)reader_number(r, 2, &keep_alive_field);
    properties_decode(r, &out->props, CONNECT);
    /* 3.1.2.11.10 */
    if (!r->failed && MQTT_HAS(&out->props, MQTT_AUTHENTICATION_DATA) &&
        !MQTT_HAS(&out->props, MQTT_AUTHENTICATION_METHOD))
        reader_fail(r, MQTT_PROTOCOL_ERROR, NULL,
                    property_offset(r, &out->props, MQTT_AUTHENTICATION_DATA),
                    "there is Authentication Data but no Authentication "
                    "Method");
    /* [MQTT-3.1.3-3] [MQTT-3.1.3-4] */
    c->client_id = reader_text(r, &client_id_field);
    will_decode(r, c);
    credentials_decode(r, c);
}

static const struct field ack_flags_field =
    FIELD("Connect Acknowledge Flags", "", "", "");

/* 3.2 */
static void connack_decode(struct reader *r, struct mqtt_packet *out)
{
    size_t start = r->at;
    uint32_t flags = reader_number(r, 1, &ack_flags_field);

    out->session_present = flags & 1u;
    if ((flags & ~1u) != 0) /* [MQTT-3.2.2-1] */
        reader_fail(r, MQTT_MALFORMED_PACKET, "MQTT-3.2.2-1", start,
                    "reserved bits of the Connect Acknowledge Flags are set");
    out->reason = reason_decode(r);
    if (out->session_present && out->reason != 0) /* [MQTT-3.2.2-6] */
        reader_fail(r, MQTT_PROTOCOL_ERROR, "MQTT-3.2.2-6", start,
                    "Session Present is set but the connection is refused");
    properties_decode(r, &out->props, CONNACK);
}

static const struct field topic_field =
    FIELD("Topic Name", "MQTT-3.3.2-1", "MQTT-3.3.2-1", "MQTT-4.7.3-2");

/* 3.3.  The Topic Name is judged last, so that the Packet Identifier is
 * known by then and the refusal can be a PUBACK or PUBREC. */
static void publish_decode(struct reader *r, struct mqtt_packet *out)
{
    struct mqtt_publish *m = &out->publish;
    size_t start = r->at;

    m->dup = r->p[0] >> 3 & 1;
    m->qos = r->p[0] >> 1 & 3;
    m->retain = r->p[0] & 1;
    m->topic = reader_text(r, &topic_field); /* [MQTT-3.3.2-1] */
    if (m->qos > 0)                          /* [MQTT-2.2.1-2] */
        m->packet_id = packet_id_decode(r);
    properties_decode(r, &out->props, IN(MQTT_PUBLISH));
    m->payload = reader_rest(r);
    if (r->failed)
        return;
    if (m->topic.n == 0 && !MQTT_HAS(&out->props, MQTT_TOPIC_ALIAS))
        reader_fail(r, MQTT_PROTOCOL_ERROR, "MQTT-4.7.3-1", start,
                    "the Topic Name is empty and there is no Topic Alias");
    size_t wildcard = wildcard_find(m->topic);
    if (wildcard < m->topic.n) /* [MQTT-3.3.2-2] */
        reader_fail(r, MQTT_TOPIC_NAME_INVALID, "MQTT-3.3.2-2",
                    start + 2 + wildcard, "the Topic Name holds a wildcard");
}

/* 3.4 to 3.7: PUBACK, PUBREC, PUBREL, PUBCOMP.  Remaining Length 2 means
 * Success without properties, 3 means no properties (3.4.2.1, 3.4.2.2.1). */
static void puback_decode(struct reader *r, struct mqtt_packet *out)
{
    out->packet_id = packet_id_decode(r);
    if (r->failed || r->at == r->end)
        return;
    out->reason = reason_decode(r);
    if (r->at < r->end)
        properties_decode(r, &out->props, IN(r->type));
}

static const struct field filter_field =
    FIELD("Topic Filter", "", "MQTT-3.8.3-1", "MQTT-4.7.3-2");
static const struct field gone_filter_field =
    FIELD("Topic Filter", "", "MQTT-3.10.3-1", "MQTT-4.7.3-2");
static const struct field options_field =
    FIELD("Subscription Options byte", "MQTT-3.8.3-2", "", "");

/* 3.8.3.1: bits 0-1 QoS, 2 No Local, 3 Retain As Published, 4-5 Retain
 * Handling, 6-7 reserved. */
static void options_check(struct reader *r, uint32_t options, size_t offset,
                          int shared)
{
    if ((options & 0xC0u) != 0) /* [MQTT-3.8.3-5] */
        reader_fail(r, MQTT_MALFORMED_PACKET, "MQTT-3.8.3-5", offset,
                    "reserved bits of the Subscription Options are set");
    if ((options & 0x03u) == 0x03u)
        reader_fail(r, MQTT_PROTOCOL_ERROR, NULL, offset,
                    "the Maximum QoS of a subscription is 3");
    if ((options & 0x30u) == 0x30u)
        reader_fail(r, MQTT_PROTOCOL_ERROR, NULL, offset,
                    "the Retain Handling of a subscription is 3");
    if ((options & 0x04u) != 0 && shared) /* [MQTT-3.8.3-4] */
        reader_fail(r, MQTT_PROTOCOL_ERROR, "MQTT-3.8.3-4", offset,
                    "No Local is set on a Shared Subscription");
}

/* 3.8.  What a filter says is not judged here: an illegal one gets a Reason
 * Code of its own in the SUBACK. */
static void subscribe_decode(struct reader *r, struct mqtt_packet *out)
{
    out->packet_id = packet_id_decode(r);
    properties_decode(r, &out->props, IN(MQTT_SUBSCRIBE));
    if (r->at == r->end) /* [MQTT-3.8.3-2] */
        reader_fail(r, MQTT_PROTOCOL_ERROR, "MQTT-3.8.3-2", r->at,
                    "a SUBSCRIBE names no Topic Filter");
    if (r->failed)
        return;
    out->list.p = r->p + r->at;
    out->list.n = r->end - r->at;
    while (!r->failed && r->at < r->end) {
        struct mqtt_bytes f = reader_text(r, &filter_field);
        size_t offset = r->at;
        uint32_t options = reader_number(r, 1, &options_field);
        options_check(r, options, offset, filter_is_shared(f));
    }
}

/* 3.10 */
static void unsubscribe_decode(struct reader *r, struct mqtt_packet *out)
{
    out->packet_id = packet_id_decode(r);
    properties_decode(r, &out->props, IN(MQTT_UNSUBSCRIBE));
    if (r->at == r->end) /* [MQTT-3.10.3-2] */
        reader_fail(r, MQTT_PROTOCOL_ERROR, "MQTT-3.10.3-2", r->at,
                    "an UNSUBSCRIBE names no Topic Filter");
    if (r->failed)
        return;
    out->list.p = r->p + r->at;
    out->list.n = r->end - r->at;
    while (!r->failed && r->at < r->end)
        reader_text(r, &gone_filter_field); /* [MQTT-3.10.3-1] */
}

/* 3.9 and 3.11: SUBACK and UNSUBACK. */
static void suback_decode(struct reader *r, struct mqtt_packet *out)
{
    out->packet_id = packet_id_decode(r);
    properties_decode(r, &out->props, IN(r->type));
    size_t start = r->at;
    out->list = reader_rest(r);
    for (size_t i = 0; !r->failed && i < out->list.n; i++)
        reason_check(r, out->list.p[i], start + i);
    if (out->list.n == 0) /* one for each filter, and there is one at least */
        reader_fail(r, MQTT_PROTOCOL_ERROR, type_rules[r->type].reason_id,
                    start, "there is no Reason Code");
}

/* 3.14: Remaining Length 0 means Normal disconnection, below 2 means no
 * properties. */
static void disconnect_decode(struct reader *r, struct mqtt_packet *out)
{
    if (r->at == r->end)
        return;
    out->reason = reason_decode(r);
    if (r->at < r->end)
        properties_decode(r, &out->props, BYE);
}

/* 3.15: Remaining Length 0 means Success without properties.  There is no
 * form that ends after the Reason Code.  All else names the method. */
static void auth_decode(struct reader *r, struct mqtt_packet *out)
{
    size_t start = r->at;

    if (r->at == r->end) {
        reason_check(r, MQTT_SUCCESS, 0);
        return;
    }
    out->reason = reason_decode(r);
    properties_decode(r, &out->props, AUTH);
    if (out->reason == MQTT_SUCCESS && out->props.raw.n == 0)
        return;
    if (!MQTT_HAS(&out->props, MQTT_AUTHENTICATION_METHOD)) /* 3.15.2.2.2 */
        reader_fail(r, MQTT_PROTOCOL_ERROR, NULL, start,
                    "an AUTH names no Authentication Method");
}

/* PINGREQ and PINGRESP are complete with their fixed header. */
static void body_decode(struct reader *r, struct mqtt_packet *out)
{
    switch (r->type) {
    case MQTT_CONNECT:
        connect_decode(r, out);
        break;
    case MQTT_CONNACK:
        connack_decode(r, out);
        break;
    case MQTT_PUBLISH:
        publish_decode(r, out);
        break;
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBREL:
    case MQTT_PUBCOMP:
        puback_decode(r, out);
        break;
    case MQTT_SUBSCRIBE:
        subscribe_decode(r, out);
        break;
    case MQTT_UNSUBSCRIBE:
        unsubscribe_decode(r, out);
        break;
    case MQTT_SUBACK:
    case MQTT_UNSUBACK:
        suback_decode(r, out);
        break;
    case MQTT_DISCONNECT:
        disconnect_decode(r, out);
        break;
    case MQTT_AUTH:
        auth_decode(r, out);
        break;
    default:
        break;
    }
}

int mqtt_packet_decode(struct mqtt_packet *out, const uint8_t *p, size_t n,
                       enum mqtt_side from, struct mqtt_error *err)
{
    struct reader r = {p, 1, n, 0, from, 0, err};
    size_t size = 0;

    memset(out, 0, sizeof *out);
    if (n > 0)
        out->type = r.type = p[0] >> 4;
    enum mqtt_frame frame = mqtt_frame_find(p, n, U32, from, &size, err);
    if (frame == MQTT_FRAME_MALFORMED)
        return -1;
    if (frame != MQTT_FRAME_COMPLETE)
        reader_fail(&r, MQTT_MALFORMED_PACKET, NULL, n,
                    "the packet ends before its Remaining Length");
    else if (size < n)
        reader_fail(&r, MQTT_MALFORMED_PACKET, NULL, size,
                    "bytes follow the end of the packet");
    if (r.failed)
        return -1;
    while ((p[r.at] & 0x80u) != 0) /* the frame is whole: this ends */
        r.at++;
    r.at++;
    body_decode(&r, out);
    if (!r.failed && r.at < r.end)
        reader_fail(&r, MQTT_MALFORMED_PACKET, NULL, r.at,
                    "bytes are left over after the last field");
    return r.failed ? -1 : 0;
}

/* ---------------------------------------------------------------------------
 * 7. Writer
 *
 * Counts every byte and writes those that fit.  With cap 0 it only measures.
 * ------------------------------------------------------------------------- */

struct writer {
    uint8_t *out; /* where the bytes go; not touched beyond cap */
    size_t cap;   /* room at out */
    size_t n;     /* bytes so far, also those that did not fit */
    int bad;      /* 1 = this cannot be written in MQTT at all */
};

/* Lengths beyond the largest packet stop the count, so that n never wraps. */
static void writer_put(struct writer *w, const void *bytes, size_t n)
{
    if (n > MQTT_REMAINING_LENGTH_MAX || w->n > MQTT_REMAINING_LENGTH_MAX)
        w->bad = 1;
    if (w->bad)
        return;
    if (n > 0 && w->n <= w->cap && n <= w->cap - w->n)
        memcpy(w->out + w->n, bytes, n);
    w->n += n;
}

static void writer_number(struct writer *w, size_t size, uint32_t value)
{
    uint8_t bytes[4];

    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> (8 * (size - 1 - i)));
    writer_put(w, bytes, size);
}

/* 1.5.5, in the shortest form [MQTT-1.5.5-1]. */
static void writer_varint(struct writer *w, size_t value)
{
    uint8_t bytes[4];
    size_t n = 0;

    if (value > MQTT_REMAINING_LENGTH_MAX) {
        w->bad = 1;
        return;
    }
    do {
        bytes[n] = (uint8_t)(value & 0x7Fu);
        value >>= 7;
        if (value > 0)
            bytes[n] |= 0x80u;
        n++;
    } while (value > 0);
    writer_put(w, bytes, n);
}

/* A string, binary data, a Will Payload, a Password. */
static void writer_binary(struct writer *w, struct mqtt_bytes b)
{
    if (b.n > U16)
        w->bad = 1;
    writer_number(w, 2, (uint32_t)b.n);
    writer_put(w, b.p, b.n);
}

/* What the entry points return: the size, or 0 if it cannot be written. */
static size_t writer_size(const struct writer *w)
{
    return w->bad ? 0 : w->n;
}

/* ---------------------------------------------------------------------------
 * 8. Encoding
 *
 * The functions write what they are given and judge nothing: also a client
 * that tests a server's strictness can use them.
 * ------------------------------------------------------------------------- */

/* One single-valued property: identifier and value by its data type. */
static void property_write(struct writer *w, uint8_t id,
                           const struct mqtt_properties *props)
{
    struct mqtt_property_view v;

    writer_number(w, 1, id);
    switch (property_load(props, id, &v)->kind) {
    case KIND_BYTE:
        writer_number(w, 1, v.number);
        break;
    case KIND_TWO:
        writer_number(w, 2, v.number);
        break;
    case KIND_FOUR:
        writer_number(w, 4, v.number);
        break;
    case KIND_VARINT:
        writer_varint(w, v.number);
        break;
    case KIND_TEXT:
    case KIND_BINARY:
        writer_binary(w, v.text);
        break;
    case KIND_PAIR: /* only in `verbatim`: see properties_write() */
        break;
    }
}

/* The properties without their length.  In SUBSCRIBE a Subscription
 * Identifier is a single value like others; `ids` goes before it. */
static void properties_write(struct writer *w,
                             const struct mqtt_properties *props,
                             unsigned where)
{
    uint64_t has = props->has & ~((uint64_t)1 << MQTT_USER_PROPERTY);

    if ((where & IN(MQTT_SUBSCRIBE)) == 0 || props->id_count > 0)
        has &= ~((uint64_t)1 << MQTT_SUBSCRIPTION_IDENTIFIER);
    /* most packets have no property, or a low one: stop when none is left */
    for (uint8_t id = 1; id < MQTT_PROPERTY_END && has >> id != 0; id++)
        if ((has >> id & 1u) != 0 && property_rules[id].packets != 0)
            property_write(w, id, props);
    for (size_t i = 0; i < props->id_count && !w->bad; i++) {
        writer_number(w, 1, MQTT_SUBSCRIPTION_IDENTIFIER);
        writer_varint(w, props->ids[i]);
    }
    writer_put(w, props->verbatim.p, props->verbatim.n);
}

/* The size of the properties, their length field excluded. */
static size_t properties_size(struct writer *w,
                              const struct mqtt_properties *props,
                              unsigned where)
{
    struct writer measure = {NULL, 0, 0, 0};

    properties_write(&measure, props, where);
    w->bad |= measure.bad;
    return measure.n;
}

/* Length and properties; a length of 0 if there are none [MQTT-2.2.2-1]. */
static void properties_encode(struct writer *w,
                              const struct mqtt_properties *props,
                              unsigned where)
{
    writer_varint(w, properties_size(w, props, where));
    properties_write(w, props, where);
}

/* 3.1.2.3.  Without a will its QoS and Retain are 0, whatever the members
 * hold [MQTT-3.1.2-11] [MQTT-3.1.2-13]. */
static uint32_t connect_flags(const struct mqtt_connect *c)
{
    uint32_t flags = c->clean_start ? 0x02u : 0;

    if (c->will_flag) {
        flags |= 0x04u | (uint32_t)(c->will_qos & 3u) << 3;
        flags |= c->will_retain ? 0x20u : 0;
    }
    flags |= c->has_password ? 0x40u : 0;
    flags |= c->has_user_name ? 0x80u : 0;
    return flags;
}

/* 3.1, in the one order there is [MQTT-3.1.3-1]. */
static void connect_encode(struct writer *w, const struct mqtt_packet *in)
{
    const struct mqtt_connect *c = &in->connect;

    writer_put(w, "\0\4MQTT\5", 7);
    writer_number(w, 1, connect_flags(c));
    writer_number(w, 2, c->keep_alive);
    properties_encode(w, &in->props, CONNECT);
    writer_binary(w, c->client_id);
    if (c->will_flag) {
        properties_encode(w, &c->will_props, IN(WILL));
        writer_binary(w, c->will_topic);
        writer_binary(w, c->will_payload);
    }
    if (c->has_user_name)
        writer_binary(w, c->user_name);
    if (c->has_password)
        writer_binary(w, c->password);
}

/* 3.2: the other seven bits of the flags are 0 [MQTT-3.2.2-1]. */
static void connack_encode(struct writer *w, const struct mqtt_packet *in)
{
    writer_number(w, 1, in->session_present ? 1 : 0);
    writer_number(w, 1, in->reason);
    properties_encode(w, &in->props, CONNACK);
}

/* 3.3: flags go into the first byte, see first_byte(). */
static void publish_encode(struct writer *w, const struct mqtt_packet *in)
{
    writer_binary(w, in->publish.topic);
    if ((in->publish.qos & 3u) > 0) /* [MQTT-2.2.1-2] */
        writer_number(w, 2, in->publish.packet_id);
    properties_encode(w, &in->props, IN(MQTT_PUBLISH));
    writer_put(w, in->publish.payload.p, in->publish.payload.n);
}

/* Reason Code and properties, left out from the end where they say nothing:
 * both (3.4.2.1, 3.14.2.1, 3.15.2.1), or the properties alone, for which
 * AUTH has no short form. */
static void reason_encode(struct writer *w, const struct mqtt_packet *in)
{
    unsigned where = IN(in->type);
    size_t size = properties_size(w, &in->props, where);

    if (size == 0 && in->reason == 0)
        return;
    writer_number(w, 1, in->reason);
    if (size > 0 || in->type == MQTT_AUTH)
        properties_encode(w, &in->props, where);
}

/* 3.8 to 3.11: the payload was built or checked before. */
static void list_encode(struct writer *w, const struct mqtt_packet *in)
{
    writer_number(w, 2, in->packet_id);
    properties_encode(w, &in->props, IN(in->type));
    writer_put(w, in->list.p, in->list.n);
}

/* All that the Remaining Length counts. */
static void body_encode(struct writer *w, const struct mqtt_packet *in)
{
    switch (in->type) {
    case MQTT_CONNECT:
        connect_encode(w, in);
        break;
    case MQTT_CONNACK:
        connack_encode(w, in);
        break;
    case MQTT_PUBLISH:
        publish_encode(w, in);
        break;
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBREL:
    case MQTT_PUBCOMP:
        writer_number(w, 2, in->packet_id);
        reason_encode(w, in);
        break;
    case MQTT_SUBSCRIBE:
    case MQTT_SUBACK:
    case MQTT_UNSUBSCRIBE:
    case MQTT_UNSUBACK:
        list_encode(w, in);
        break;
    case MQTT_PINGREQ:
    case MQTT_PINGRESP:
        break;
    case MQTT_DISCONNECT:
    case MQTT_AUTH:
        reason_encode(w, in);
        break;
    default:
        w->bad = 1;
        break;
    }
}

/* 2.1.1: the type, and the flags that the table fixes [MQTT-2.1.3-1]. */
static uint32_t first_byte(const struct mqtt_packet *in)
{
    unsigned flags = type_rules[in->type & 15u].flags;

    if (in->type == MQTT_PUBLISH)
        flags = (in->publish.dup ? 8u : 0) | (in->publish.qos & 3u) << 1 |
                (in->publish.retain ? 1u : 0);
    return (uint32_t)in->type << 4 | flags;
}

/* Measures first: the Remaining Length stands before what it counts. */
size_t mqtt_packet_encode(const struct mqtt_packet *in, uint8_t *out,
                          size_t cap)
{
    struct writer body = {NULL, 0, 0, 0};
    struct writer head = {NULL, 0, 0, 0};

    body_encode(&body, in);
    writer_number(&head, 1, first_byte(in));
    writer_varint(&head, body.n);
    if (body.bad || head.bad)
        return 0;
    size_t size = head.n + body.n;
    if (size > cap)
        return size;
    struct writer w = {out, cap, 0, 0};
    writer_number(&w, 1, first_byte(in));
    writer_varint(&w, body.n);
    body_encode(&w, in);
    return size;
}

/* 2.2.2.2: a pair is its identifier and two strings [MQTT-1.5.7-1]. */
static void user_property_write(struct writer *w, struct mqtt_bytes name,
                                struct mqtt_bytes value)
{
    writer_number(w, 1, MQTT_USER_PROPERTY);
    writer_binary(w, name);
    writer_binary(w, value);
}

size_t mqtt_user_property_encode(uint8_t *out, size_t cap,
                                 struct mqtt_bytes name,
                                 struct mqtt_bytes value)
{
    struct writer measure = {NULL, 0, 0, 0};
    struct writer w = {out, cap, 0, 0};

    user_property_write(&measure, name, value);
    if (!measure.bad && measure.n <= cap)
        user_property_write(&w, name, value);
    return writer_size(&measure);
}

/* ---------------------------------------------------------------------------
 * 9. Lists and peeks
 *
 * The payloads of SUBSCRIBE and UNSUBSCRIBE are walked where they lie, without
 * an array of filters that somebody would have to own and to bound.
 * ------------------------------------------------------------------------- */

/* Cuts the first n bytes off. */
static void bytes_skip(struct mqtt_bytes *b, size_t n)
{
    b->p += n;
    b->n -= n;
}

int mqtt_unsubscribe_next(struct mqtt_bytes *rest, struct mqtt_bytes *filter)
{
    struct mqtt_error ignored;
    struct reader r = {rest->p, 0, rest->n, 0, MQTT_FROM_CLIENT, 0, &ignored};

    if (rest->n == 0)
        return 0;
    *filter = reader_binary(&r, &filter_field);
    if (r.failed)
        return 0;
    bytes_skip(rest, r.at);
    return 1;
}

int mqtt_subscribe_next(struct mqtt_bytes *rest, struct mqtt_subscription *out)
{
    struct mqtt_bytes after = *rest;

    memset(out, 0, sizeof *out);
    if (!mqtt_unsubscribe_next(&after, &out->filter) || after.n == 0)
        return 0;
    uint8_t options = after.p[0];
    out->qos = options & 3u;
    out->no_local = options >> 2 & 1u;
    out->retain_as_published = options >> 3 & 1u;
    out->retain_handling = options >> 4 & 3u;
    bytes_skip(&after, 1);
    *rest = after;
    return 1;
}

size_t mqtt_unsubscribe_add(uint8_t *out, size_t cap, struct mqtt_bytes filter)
{
    struct writer w = {out, cap, 0, 0};

    if (filter.n > U16 || cap < 2 + filter.n)
        return 0;
    writer_binary(&w, filter);
    return writer_size(&w);
}

size_t mqtt_subscribe_add(uint8_t *out, size_t cap,
                          const struct mqtt_subscription *s)
{
    if (cap == 0)
        return 0;
    size_t n = mqtt_unsubscribe_add(out, cap - 1, s->filter);
    if (n == 0)
        return 0;
    out[n] = (uint8_t)((s->qos & 3u) | (s->no_local ? 4u : 0) |
                       (s->retain_as_published ? 8u : 0) |
                       (s->retain_handling & 3u) << 4);
    return n + 1;
}

/* DUP and QoS are 0 in what this codec stored; RETAIN may be either. */
int mqtt_publish_open(struct mqtt_packet *out, const uint8_t *p, size_t n)
{
    struct mqtt_error ignored;
    struct reader r = {p, 1, n, MQTT_PUBLISH, MQTT_FROM_SERVER, 0, &ignored};

    if (n == 0 || (p[0] & 0xFEu) != MQTT_PUBLISH << 4)
        return -1;
    size_t length = reader_varint(&r, &property_length_field);
    if (r.failed || length != n - r.at)
        return -1;
    struct mqtt_bytes topic = reader_binary(&r, &topic_field);
    size_t size = reader_varint(&r, &property_length_field);
    const uint8_t *raw = reader_take(&r, size, r.at, &property_length_field);
    if (raw == NULL)
        return -1;
    out->publish.topic = topic;
    out->props.raw.p = raw;
    out->props.raw.n = size;
    out->publish.payload = reader_rest(&r);
    return 0;
}

/* 3.1.2.1: MQTT 3.1 is called MQIsdp and has version 3, MQTT 3.1.1 is called
 * MQTT and has version 4. */
int mqtt_connect_version(const uint8_t *p, size_t n)
{
    static const uint8_t v31[] = {0, 6, 'M', 'Q', 'I', 's', 'd', 'p', 3};
    static const uint8_t v311[] = {0, 4, 'M', 'Q', 'T', 'T', 4};
    uint32_t length;

    if (n == 0 || p[0] != MQTT_CONNECT << 4)
        return 0;
    int used = varint_read(p + 1, n - 1, &length);
    if (used <= 0)
        return 0;
    const uint8_t *name = p + 1 + used;
    size_t left = n - 1 - (size_t)used;
    if (left >= sizeof v31 && memcmp(name, v31, sizeof v31) == 0)
        return 3;
    if (left >= sizeof v311 && memcmp(name, v311, sizeof v311) == 0)
        return 3;
    return 0;
}

/* 3.1.2 and 3.1.3.1: reads past what stands before it, without a judgement;
 * only of version 5 is it known where that ends.  A wrong length may have put
 * the Password where the Client Identifier is looked for: if there is one,
 * only a CONNECT without a fault is believed. */
struct mqtt_bytes mqtt_connect_client_id(const uint8_t *p, size_t n)
{
    struct mqtt_bytes none = {NULL, 0};
    struct mqtt_error ignored;
    struct reader r = {p, 1, n, MQTT_CONNECT, MQTT_FROM_CLIENT, 0, &ignored};
    struct mqtt_packet whole;
    size_t size;

    if (n == 0 || p[0] >> 4 != MQTT_CONNECT)
        return none;
    if (mqtt_frame_find(p, n, UINT32_MAX, MQTT_FROM_CLIENT, &size, &ignored) ==
        MQTT_FRAME_COMPLETE) {
        if (mqtt_packet_decode(&whole, p, size, MQTT_FROM_CLIENT, &ignored) ==
            0)
            return whole.connect.client_id;
        r.end = size;
    }
    reader_varint(&r, &property_length_field); /* Remaining Length */
    reader_binary(&r, &protocol_field);
    if (reader_number(&r, 1, &version_field) != 5)
        return none;
    if (reader_number(&r, 1, &connect_flags_field) & 0x40) /* Password Flag */
        return none;
    reader_number(&r, 2, &keep_alive_field);
    size_t properties = reader_varint(&r, &property_length_field);
    reader_take(&r, properties, r.at, &property_length_field);
    return reader_binary(&r, &client_id_field);
}

/* ---------------------------------------------------------------------------
 * 10. Names and text
 *
 * A line of the log is written for people and may hold what a stranger sent:
 * nothing but printable ASCII gets through, and no secret.
 * ------------------------------------------------------------------------- */

static const char unknown[] = "unknown";

const char *mqtt_type_name(uint8_t type)
{
    if (type > MQTT_AUTH || type_rules[type].name == NULL)
        return unknown;
    return type_rules[type].name;
}

const char *mqtt_reason_name(uint8_t type, uint8_t reason)
{
    if (reason == 0 && type == MQTT_DISCONNECT)
        return "Normal disconnection";
    if (reason == 0 && type == MQTT_SUBACK)
        return "Granted QoS 0";
    if (reason >= REASON_COUNT || reason_rules[reason].name == NULL)
        return unknown;
    return reason_rules[reason].name;
}

const char *mqtt_property_name(uint8_t id)
{
    const struct property_rule *rule = property_rule_find(id);
    return rule == NULL ? unknown : rule->field.name;
}

/* A line of text that is cut where its room ends. */
struct line {
    char *out;  /* where it goes */
    size_t cap; /* room at out, the final NUL included; at least 1 */
    size_t n;   /* characters so far */
};

/* Cuts instead of failing: half a line of a log is better than none. */
static void line_text(struct line *l, const char *text)
{
    size_t n = strlen(text);

    if (n > l->cap - 1 - l->n)
        n = l->cap - 1 - l->n;
    memcpy(l->out + l->n, text, n);
    l->n += n;
}

/* A space, the name, an equals sign, the number. */
static void line_number(struct line *l, const char *name, uint32_t value)
{
    char digits[16];

    snprintf(digits, sizeof digits, "=%lu", (unsigned long)value);
    line_text(l, " ");
    line_text(l, name);
    line_text(l, digits);
}

/* Quoted, printable ASCII as it is, all else, quotes and backslashes too, as
 * \xNN: so that no packet can forge a line of the log. */
static void line_quoted(struct line *l, struct mqtt_bytes b, size_t most)
{
    line_text(l, "\"");
    for (size_t i = 0; i < b.n && i < most && l->n + 1 < l->cap; i++) {
        char shown[8];
        int plain =
            b.p[i] >= 0x20 && b.p[i] < 0x7F && b.p[i] != '"' && b.p[i] != '\\';
        snprintf(shown, sizeof shown, plain ? "%c" : "\\x%02X",
                 (unsigned)b.p[i]);
        line_text(l, shown);
    }
    line_text(l, b.n > most ? "\"..." : "\"");
}

/* A space, the name, an equals sign, the value in quotes. */
static void line_string(struct line *l, const char *name, struct mqtt_bytes b)
{
    line_text(l, " ");
    line_text(l, name);
    line_text(l, "=");
    line_quoted(l, b, b.n);
}

/* " name(size)", and its first bytes where they may be seen. */
static void line_binary(struct line *l, const char *name, struct mqtt_bytes b,
                        int visible)
{
    char size[32];

    snprintf(size, sizeof size, "(%lu)", (unsigned long)b.n);
    line_text(l, " ");
    line_text(l, name);
    line_text(l, size);
    if (visible) {
        line_text(l, "=");
        line_quoted(l, b, MQTT_SHOWN_MAX);
    }
}

/* The number for the eye that knows it, the name for all others. */
static void line_reason(struct line *l, uint8_t type, uint8_t reason)
{
    char code[24];

    snprintf(code, sizeof code, " Reason Code=0x%02X (", (unsigned)reason);
    line_text(l, code);
    line_text(l, mqtt_reason_name(type, reason));
    line_text(l, ")");
}

/* Authentication Data may hold a password and is not shown. */
static void line_property(struct line *l, const struct mqtt_property_view *v)
{
    const struct property_rule *rule = &property_rules[v->id];

    switch (rule->kind) {
    case KIND_TEXT:
        line_string(l, rule->field.name, v->text);
        break;
    case KIND_BINARY:
        line_binary(l, rule->field.name, v->text,
                    v->id != MQTT_AUTHENTICATION_DATA);
        break;
    case KIND_PAIR:
        line_string(l, rule->field.name, v->text);
        line_text(l, ":");
        line_quoted(l, v->pair, v->pair.n);
        break;
    case KIND_BYTE:
    case KIND_TWO:
    case KIND_FOUR:
    case KIND_VARINT:
        line_number(l, rule->field.name, v->number);
        break;
    }
}

/* These two have no single value: line_properties() takes them elsewhere. */
static int property_repeats(uint8_t id)
{
    return id == MQTT_USER_PROPERTY || id == MQTT_SUBSCRIPTION_IDENTIFIER;
}

/* Single values from their members; what may repeat from `raw` of a decoded
 * packet, or from `ids` and `verbatim` of one that is to be sent. */
static void line_properties(struct line *l, const struct mqtt_properties *props)
{
    int to_send = props->verbatim.n > 0 || props->id_count > 0;
    struct mqtt_bytes rest = to_send ? props->verbatim : props->raw;
    struct mqtt_property_view v;

    for (uint8_t id = 1; id < MQTT_PROPERTY_END; id++)
        if (MQTT_HAS(props, id) && property_rules[id].packets != 0 &&
            !property_repeats(id)) {
            property_load(props, id, &v);
            line_property(l, &v);
        }
    for (size_t i = 0; i < props->id_count; i++)
        line_number(l, mqtt_property_name(MQTT_SUBSCRIPTION_IDENTIFIER),
                    props->ids[i]);
    while (mqtt_property_next(&rest, &v))
        if (to_send || property_repeats(v.id))
            line_property(l, &v);
    if (!to_send && props->raw.n == 0 &&
        MQTT_HAS(props, MQTT_SUBSCRIPTION_IDENTIFIER))
        line_number(l, mqtt_property_name(MQTT_SUBSCRIPTION_IDENTIFIER),
                    props->subscription_identifier);
}

/* A Password is a secret: only that there is one is told. */
static void line_connect(struct line *l, const struct mqtt_packet *packet)
{
    const struct mqtt_connect *c = &packet->connect;

    line_number(l, "Clean Start", c->clean_start);
    line_number(l, "Keep Alive", c->keep_alive);
    line_string(l, "Client Identifier", c->client_id);
    line_properties(l, &packet->props);
    if (c->will_flag) {
        line_number(l, "Will QoS", c->will_qos);
        line_number(l, "Will Retain", c->will_retain);
        line_string(l, "Will Topic", c->will_topic);
        line_properties(l, &c->will_props);
        line_binary(l, "Will Payload", c->will_payload, 1);
    }
    if (c->has_user_name)
        line_string(l, "User Name", c->user_name);
    if (c->has_password)
        line_text(l, " Password=(hidden)");
}

/* 3.3, in the order of the wire. */
static void line_publish(struct line *l, const struct mqtt_packet *packet)
{
    const struct mqtt_publish *m = &packet->publish;

    line_number(l, "DUP", m->dup);
    line_number(l, "QoS", m->qos);
    line_number(l, "RETAIN", m->retain);
    if (m->qos > 0)
        line_number(l, "Packet Identifier", m->packet_id);
    line_string(l, "Topic Name", m->topic);
    line_properties(l, &packet->props);
    line_binary(l, "Payload", m->payload, 1);
}

/* The payloads of SUBSCRIBE, UNSUBSCRIBE, SUBACK and UNSUBACK. */
static void line_list(struct line *l, const struct mqtt_packet *packet)
{
    struct mqtt_bytes rest = packet->list;
    struct mqtt_subscription s;

    if (packet->type == MQTT_SUBSCRIBE) {
        while (mqtt_subscribe_next(&rest, &s)) {
            line_string(l, "Topic Filter", s.filter);
            line_number(l, "QoS", s.qos);
            line_number(l, "No Local", s.no_local);
            line_number(l, "Retain As Published", s.retain_as_published);
            line_number(l, "Retain Handling", s.retain_handling);
        }
    } else if (packet->type == MQTT_UNSUBSCRIBE) {
        while (mqtt_unsubscribe_next(&rest, &s.filter))
            line_string(l, "Topic Filter", s.filter);
    } else {
        for (size_t i = 0; i < rest.n && l->n + 1 < l->cap; i++)
            line_reason(l, packet->type, rest.p[i]);
    }
}

/* The packets whose fields need no function of their own. */
static void line_other(struct line *l, const struct mqtt_packet *packet)
{
    const struct type_rule *rule = &type_rules[packet->type & 15u];
    int lists = packet->type >= MQTT_SUBSCRIBE && packet->type <= MQTT_UNSUBACK;

    if (packet->type == MQTT_CONNACK)
        line_number(l, "Session Present", packet->session_present);
    if (rule->number_id != NULL)
        line_number(l, "Packet Identifier", packet->packet_id);
    if (rule->reason_id != NULL && !lists)
        line_reason(l, packet->type, packet->reason);
    line_properties(l, &packet->props);
    if (lists)
        line_list(l, packet);
}

size_t mqtt_packet_print(const struct mqtt_packet *packet, char *out,
                         size_t cap)
{
    struct line l = {out, cap, 0};

    if (cap == 0)
        return 0;
    line_text(&l, mqtt_type_name(packet->type));
    if (packet->type == MQTT_CONNECT)
        line_connect(&l, packet);
    else if (packet->type == MQTT_PUBLISH)
        line_publish(&l, packet);
    else
        line_other(&l, packet);
    out[l.n] = '\0';
    return l.n;
}

/* ---------------------------------------------------------------------------
 * 11. Annotation
 *
 *     20 05               CONNACK, Remaining Length 5 (3.2.1)
 *     its bytes           name     value              section
 *
 * A packet type is a row of letters, each letter a field; properties are a
 * row within the row.  Nothing is read where the bytes have ended.
 * ------------------------------------------------------------------------- */

/* Bits of a byte that mean something together. */
struct bits {
    uint8_t mask;     /* 0 ends the table */
    uint8_t always;   /* 1 = shown when they are 0, too */
    const char *name; /* as the standard writes it */
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

/* What a letter stands for. */
struct part {
    char letter;             /* in struct layout */
    enum kind kind;          /* of its value */
    uint8_t needs;           /* it is there if one of these flags is set; 0 =
                                always */
    const char *name;        /* NULL: it is properties */
    const char *section;     /* NULL: the layout has it */
    const struct bits *bits; /* what its bits mean; NULL = it is a number */
};

static const struct part parts[] = {
    {'N', KIND_TEXT, 0, "Protocol Name", "3.1.2.1", NULL},
    {'V', KIND_BYTE, 0, "Protocol Version", "3.1.2.2", NULL},
    {'F', KIND_BYTE, 0, "Connect Flags", "3.1.2.3", connect_bits},
    {'K', KIND_TWO, 0, "Keep Alive", "3.1.2.10", NULL},
    {'C', KIND_TEXT, 0, "Client Identifier", "3.1.3.1", NULL},
    {'W', KIND_VARINT, 0x04, NULL, NULL, NULL}, /* Will Properties */
    {'T', KIND_TEXT, 0x04, "Will Topic", "3.1.3.3", NULL},
    {'M', KIND_BINARY, 0x04, "Will Payload", "3.1.3.4", NULL},
    {'U', KIND_TEXT, 0x80, "User Name", "3.1.3.5", NULL},
    {'X', KIND_BINARY, 0x40, "Password", "3.1.3.6", NULL},
    {'a', KIND_BYTE, 0, "Connect Acknowledge Flags", "3.2.2.1", connack_bits},
    {'t', KIND_TEXT, 0, "Topic Name", "3.3.2.1", NULL},
    {'q', KIND_TWO, 0x06, "Packet Identifier", "3.3.2.2", NULL},
    {'i', KIND_TWO, 0, "Packet Identifier", "2.2.1", NULL},
    {'r', KIND_BYTE, 0, "Reason Code", NULL, NULL},
    {'p', KIND_VARINT, 0, NULL, NULL, NULL}, /* properties */
    {'s', KIND_TEXT, 0, "Topic Filter", "3.8.3", NULL},
    {'o', KIND_BYTE, 0, "Subscription Options", "3.8.3.1", option_bits},
    {'u', KIND_TEXT, 0, "Topic Filter", "3.10.3", NULL},
};

/* Properties: those of section "x" are described in x.2, x.3, ... */
struct block {
    const char *section;
    uint8_t ids[18]; /* in the order of their sections, ended by 0 */
};

/* A packet type.  Beside the letters of parts[]: `.` the packet may end here;
 * `*` what follows is repeated to its end; `m` all that is left is Payload. */
struct layout {
    const char *letters; /* NULL: there is no such packet type */
    const char *reason;  /* the section of its Reason Code */
    struct block block;  /* its properties */
};

static const struct layout layouts[16] = {
    [MQTT_CONNECT] = {"NVFKpCWTMUX", "",
                      {"3.1.2.11", {0x11, 0x21, 0x27, 0x22, 0x19, 0x17, 0x26,
                                    0x15, 0x16}}},
    [MQTT_CONNACK] = {"arp", "3.2.2.2",
                      {"3.2.2.3", {0x11, 0x21, 0x24, 0x25, 0x27, 0x12, 0x22,
                                   0x1F, 0x26, 0x28, 0x29, 0x2A, 0x13, 0x1A,
                                   0x1C, 0x15, 0x16}}},
    [MQTT_PUBLISH] = {"tqpm", "",
                      {"3.3.2.3", {0x01, 0x02, 0x23, 0x08, 0x09, 0x26, 0x0B,
                                   0x03}}},
    [MQTT_PUBACK] = {"i.r.p", "3.4.2.1", {"3.4.2.2", {0x1F, 0x26}}},
    [MQTT_PUBREC] = {"i.r.p", "3.5.2.1", {"3.5.2.2", {0x1F, 0x26}}},
    [MQTT_PUBREL] = {"i.r.p", "3.6.2.1", {"3.6.2.2", {0x1F, 0x26}}},
    [MQTT_PUBCOMP] = {"i.r.p", "3.7.2.1", {"3.7.2.2", {0x1F, 0x26}}},
    [MQTT_SUBSCRIBE] = {"ip*so", "", {"3.8.2.1", {0x0B, 0x26}}},
    [MQTT_SUBACK] = {"ip*r", "3.9.3", {"3.9.2.1", {0x1F, 0x26}}},
    [MQTT_UNSUBSCRIBE] = {"ip*u", "", {"3.10.2.1", {0x26}}},
    [MQTT_UNSUBACK] = {"ip*r", "3.11.3", {"3.11.2.1", {0x1F, 0x26}}},
    [MQTT_PINGREQ] = {"", "", {"", {0}}},
    [MQTT_PINGRESP] = {"", "", {"", {0}}},
    [MQTT_DISCONNECT] = {".r.p", "3.14.2.1",
                         {"3.14.2.2", {0x11, 0x1F, 0x26, 0x1C}}},
    [MQTT_AUTH] = {".rp", "3.15.2.1", {"3.15.2.2", {0x15, 0x16, 0x1F, 0x26}}},
};

static const struct block will_block = {
    "3.1.3.2", {0x18, 0x01, 0x02, 0x03, 0x08, 0x09, 0x26}};

/* ---- what a field says ---- */

/* The size of a value that begins at p.  Over n = it is cut off; 0 = a
 * Variable Byte Integer that does not end within four bytes. */
static size_t value_size(enum kind kind, const uint8_t *p, size_t n)
{
    size_t size = 0;

    switch (kind) {
    case KIND_BYTE:
        return 1;
    case KIND_TWO:
        return 2;
    case KIND_FOUR:
        return 4;
    case KIND_VARINT:
        while (size < n && size < 4)
            if ((p[size++] & 0x80u) == 0)
                return size;
        return size < 4 ? n + 1 : 0;
    case KIND_TEXT:
    case KIND_BINARY:
        return n < 2 ? 2 : 2 + (size_t)(p[0] << 8 | p[1]);
    case KIND_PAIR:
        size = value_size(KIND_TEXT, p, n);
        if (size > n)
            return size;
        return size + value_size(KIND_TEXT, p + size, n - size);
    }
    return 0;
}

/* The value of an integer of this size. */
static uint32_t value_number(enum kind kind, const uint8_t *p, size_t size)
{
    uint32_t number = 0;

    if (kind == KIND_VARINT) {
        while (size-- > 0)
            number = number << 7 | (p[size] & 0x7Fu);
        return number;
    }
    for (size_t i = 0; i < size; i++)
        number = number << 8 | p[i];
    return number;
}

static void note_add(struct mqtt_note *note, const char *format, ...)
{
    size_t n = strlen(note->value);
    va_list args;

    va_start(args, format);
    vsnprintf(note->value + n, sizeof note->value - n, format, args);
    va_end(args);
}

static void note_bytes(struct mqtt_note *note, const uint8_t *p, size_t n)
{
    struct line l = {note->value, sizeof note->value, 0};
    struct mqtt_bytes b = {p, n};

    if (n > MQTT_SHOWN_MAX)
        note_add(note, " of %lu bytes", (unsigned long)n);
    note_add(note, " ");
    l.n = strlen(note->value);
    line_quoted(&l, b, MQTT_SHOWN_MAX);
    note->value[l.n] = '\0';
}

static void note_text(struct mqtt_note *note, const uint8_t *p, size_t size)
{
    size_t good = mqtt_utf8_check(p + 2, size - 2);

    note_bytes(note, p + 2, size - 2);
    if (good < size - 2)
        note_add(note, ", byte %lu is not legal UTF-8", (unsigned long)good);
}

static void note_value(struct mqtt_note *note, enum kind kind, const uint8_t *p,
                       size_t size)
{
    size_t first;

    switch (kind) {
    case KIND_BYTE:
    case KIND_TWO:
    case KIND_FOUR:
    case KIND_VARINT:
        note_add(note, " %lu", (unsigned long)value_number(kind, p, size));
        if (kind == KIND_VARINT && size > 1 && p[size - 1] == 0)
            note_add(note, ", not in its shortest form");
        break;
    case KIND_TEXT:
        note_text(note, p, size);
        break;
    case KIND_BINARY:
        note_bytes(note, p + 2, size - 2);
        break;
    case KIND_PAIR:
        first = value_size(KIND_TEXT, p, size);
        note_text(note, p, first);
        note_add(note, " =");
        note_text(note, p + first, size - first);
        break;
    }
}

/* A single bit is its name, more bits are a name and a number. */
static void note_bits(struct mqtt_note *note, unsigned byte,
                      const struct bits *b)
{
    const char *comma = "";

    for (; b->mask != 0; b++) {
        unsigned lowest = b->mask & (0u - b->mask);
        if ((byte & b->mask) == 0 && !b->always)
            continue;
        note_add(note, "%s %s", comma, b->name);
        if (b->mask != lowest)
            note_add(note, " %u", (byte & b->mask) / lowest);
        comma = ",";
    }
    if (*comma == '\0')
        note_add(note, " none");
}

static void note_reason(struct mqtt_note *note, uint8_t type, uint8_t reason)
{
    note_add(note, " 0x%02X %s", (unsigned)reason,
             mqtt_reason_name(type, reason));
    if (!mqtt_reason_legal(type, reason, MQTT_FROM_CLIENT) &&
        !mqtt_reason_legal(type, reason, MQTT_FROM_SERVER))
        note_add(note, ", not for this packet");
}

/* ---- the walk ---- */

static void note_section(struct mqtt_note *note, const char *section)
{
    snprintf(note->section, sizeof note->section, "%s", section);
}

/* The next n bytes are this field. */
static void note_take(struct mqtt_annotate *w, struct mqtt_note *note, size_t n,
                      const char *name)
{
    note->n = n;
    note->name = name;
    w->at += n;
}

/* Takes a field that ends at `end` at the latest: `skip` bytes that were
 * understood already, then a value of this kind.  1 = *value is what they say,
 * to be told by the caller; 0 = there is no such value, which has been said. */
static int note_field(struct mqtt_annotate *w, struct mqtt_note *note,
                      size_t end, size_t skip, enum kind kind, const char *name,
                      struct mqtt_bytes *value)
{
    size_t left = end - w->at;

    value->p = w->p + w->at + skip;
    value->n = value_size(kind, value->p, left - skip);
    if (value->n == 0) {
        note_add(note, " is longer than four bytes");
        note_take(w, note, skip + 4, name);
        return 0;
    }
    if (value->n > left - skip) {
        note_add(note, left > 0 ? " is cut off" : " is missing");
        note_take(w, note, left, name);
        return 0;
    }
    note_take(w, note, skip + value->n, name);
    return 1;
}

/* What is left up to `end`, as plain bytes. */
static void note_rest(struct mqtt_annotate *w, struct mqtt_note *note,
                      size_t end, int lost)
{
    note_take(w, note, end - w->at, lost ? "not read" : "after the last field");
}

/* All bytes that are left, not to be shown. */
static void note_hide(struct mqtt_annotate *w, struct mqtt_note *note)
{
    note->hidden = 1;
    note_add(note, " %lu bytes", (unsigned long)(w->n - w->at));
    note_take(w, note, w->n - w->at, "credentials may stand in these");
    w->end = w->n;
    w->lost = 1;
    w->missing = 0;
    w->block = NULL;
}

/* Can the packet that begins here be decoded? */
static int annotate_decodes(const struct mqtt_annotate *w)
{
    const uint8_t *p = w->p + w->at;
    struct mqtt_packet packet;
    struct mqtt_error err;
    size_t size;

    return mqtt_frame_find(p, w->n - w->at, UINT32_MAX, w->from, &size, &err) ==
               MQTT_FRAME_COMPLETE &&
           mqtt_packet_decode(&packet, p, size, w->from, &err) == 0;
}

/* What the first byte says, and whether it may. */
static void annotate_first(const struct mqtt_annotate *w,
                           struct mqtt_note *note, unsigned first)
{
    const struct type_rule *rule = &type_rules[first >> 4];
    unsigned side = w->from == MQTT_FROM_CLIENT ? BY_CLIENT : BY_SERVER;

    if (w->type == MQTT_PUBLISH) {
        note_add(note, ",");
        note_bits(note, first, publish_bits);
    } else if ((first & 15) != rule->flags) {
        note_add(note, ", flags %u instead of %u", first & 15, rule->flags);
        note_section(note, "2.1.3");
    }
    if ((rule->sides & side) == 0) {
        note_add(note, ", not for a %s to send",
                 side == BY_CLIENT ? "client" : "server");
        note_section(note, "2.1.2");
    }
}

/* The fixed header in one line. */
static void annotate_header(struct mqtt_annotate *w, struct mqtt_note *note)
{
    unsigned first = w->p[w->at];
    struct mqtt_bytes length;
    char section[8];
    size_t size, left;

    w->malformed = !annotate_decodes(w);
    w->type = (uint8_t)(first >> 4);
    w->flags = w->type == MQTT_PUBLISH ? first & 15u : 0;
    w->next = layouts[w->type].letters;
    w->end = w->n;
    snprintf(section, sizeof section, "3.%u.1", (unsigned)w->type);
    note_section(note, w->type == 0 ? "2.1.2" : section);
    note_add(note, ", Remaining Length");
    w->lost = !note_field(
        w, note, w->n, 1, KIND_VARINT,
        w->type == 0 ? "reserved type 0" : mqtt_type_name(w->type), &length);
    if (w->lost)
        return;
    note_value(note, KIND_VARINT, length.p, length.n);
    size = value_number(KIND_VARINT, length.p, length.n);
    left = w->n - w->at;
    w->end = w->at + (size < left ? size : left);
    w->missing = size < left ? 0 : size - left;
    w->lost = w->next == NULL;
    if (!w->lost)
        annotate_first(w, note, first);
}

static void annotate_property(struct mqtt_annotate *w, struct mqtt_note *note)
{
    const struct block *block = (const struct block *)w->block;
    uint8_t id = w->p[w->at];
    const struct property_rule *rule = property_rule_find(id);
    struct mqtt_bytes value;
    unsigned i = 0;

    note_section(note, "2.2.2.2");
    if (rule == NULL) {
        w->block_lost = 1;
        note_add(note, " is unknown");
        note_take(w, note, 1, "Property Identifier");
        return;
    }
    while (block->ids[i] != 0 && block->ids[i] != id)
        i++;
    if (block->ids[i] == id)
        snprintf(note->section, sizeof note->section, "%s.%u", block->section,
                 i + 2);
    w->block_lost = !note_field(w, note, w->block_end, 1, rule->kind,
                                rule->field.name, &value);
    if (w->block_lost)
        return;
    note->hidden = id == MQTT_AUTHENTICATION_DATA;
    if (!note->hidden)
        note_value(note, rule->kind, value.p, value.n);
    if (block->ids[i] != id)
        note_add(note, ", not for this packet");
}

/* Property Length.  Properties that cannot be read hide nothing behind them,
 * as long as their length is right. */
static void annotate_block(struct mqtt_annotate *w, struct mqtt_note *note,
                           const struct block *block)
{
    struct mqtt_bytes length;
    size_t size;

    snprintf(note->section, sizeof note->section, "%s.1", block->section);
    w->lost = !note_field(w, note, w->end, 0, KIND_VARINT, "Property Length",
                          &length);
    if (w->lost)
        return;
    note_value(note, KIND_VARINT, length.p, length.n);
    size = value_number(KIND_VARINT, length.p, length.n);
    w->block = block;
    w->block_lost = 0;
    w->block_end = w->end;
    w->lost = size > w->end - w->at;
    if (w->lost)
        note_add(note, ", but the bytes end before");
    else
        w->block_end = w->at + size;
}

static void annotate_part(struct mqtt_annotate *w, struct mqtt_note *note,
                          const struct part *part)
{
    const struct layout *l = &layouts[w->type];
    struct mqtt_bytes value;

    if (part->name == NULL) {
        annotate_block(w, note, part->letter == 'W' ? &will_block : &l->block);
        return;
    }
    note_section(note, part->section != NULL ? part->section : l->reason);
    w->lost = !note_field(w, note, w->end, 0, part->kind, part->name, &value);
    note->hidden = part->letter == 'X';
    if (w->lost || note->hidden)
        return;
    if (part->bits != NULL) {
        note_add(note, ":");
        note_bits(note, value.p[0], part->bits);
    } else if (part->letter == 'r') {
        note_reason(note, w->type, value.p[0]);
    } else {
        note_value(note, part->kind, value.p, value.n);
    }
    if (part->letter == 'F')
        w->flags = value.p[0];
    if (part->letter == 'V' && value.p[0] != 5)
        w->lost = 1; /* others have other fields */
}

/* The next field that this packet has, or NULL: there is none to come. */
static const struct part *part_next(struct mqtt_annotate *w)
{
    while (*w->next != 'm') {
        const struct part *part = parts;
        const char *again = strchr(layouts[w->type].letters, '*');
        if (*w->next == '\0' && again != NULL && w->at < w->end)
            w->next = again;
        if (*w->next == '\0' ||
            (*w->next == '.' && w->at == w->end && w->missing == 0))
            break;
        char letter = *w->next++;
        if (letter == '.' || letter == '*')
            continue;
        while (part->letter != letter)
            part++;
        if (part->needs == 0 || (part->needs & w->flags) != 0)
            return part;
    }
    return NULL;
}

/* May a secret stand in the bytes that come next?  Of a CONNECT that cannot
 * be decoded only what has a fixed place is none.  An AUTH or CONNACK without
 * Authentication Method has no Authentication Data either. */
static int annotate_secret(const struct mqtt_annotate *w)
{
    const uint8_t *p = w->p + w->at;
    size_t left = w->n - w->at;

    if (left == 0)
        return 0;
    if (w->first && w->type != MQTT_CONNECT)
        return 1;
    if (!w->malformed)
        return 0;
    if (w->type == MQTT_CONNECT && !w->lost && *w->next == 'N')
        return left < 6 || memcmp(p, "\0\4MQTT", 6) != 0;
    if (w->type == MQTT_CONNECT)
        return w->lost || *w->next == 'p';
    if (w->type == MQTT_CONNACK || w->type == MQTT_AUTH)
        return (w->lost || *w->next == 'p') &&
               (memchr(p, MQTT_AUTHENTICATION_METHOD, left) != NULL ||
                memchr(p, MQTT_AUTHENTICATION_DATA, left) != NULL);
    return w->block != NULL && w->at < w->block_end && !w->block_lost &&
           p[0] == MQTT_AUTHENTICATION_DATA;
}

/* What is left when all fields of a packet are told.  0 = nothing is. */
static int annotate_tail(struct mqtt_annotate *w, struct mqtt_note *note)
{
    size_t left = w->end - w->at;

    if (left > 0 && !w->lost && *w->next == 'm') {
        note_bytes(note, w->p + w->at, left);
        note_section(note, "3.3.3");
        note_take(w, note, left, "Payload");
    } else if (left > 0) {
        note_rest(w, note, w->end, w->lost);
    } else if (w->missing > 0) {
        note_add(note, ": %lu bytes are missing", (unsigned long)w->missing);
        note_take(w, note, 0, "cut here");
        w->missing = 0;
        w->lost = 1;
    } else {
        return 0;
    }
    return 1;
}

/* The next field of the packet at hand: 1, or 0: it has no more. */
static int annotate_field(struct mqtt_annotate *w, struct mqtt_note *note)
{
    const struct part *part;

    if (annotate_secret(w)) {
        note_hide(w, note);
        return 1;
    }
    if (w->block != NULL && w->at == w->block_end)
        w->block = NULL;
    if (w->block != NULL) {
        if (w->block_lost)
            note_rest(w, note, w->block_end, 1);
        else
            annotate_property(w, note);
        return 1;
    }
    part = w->lost ? NULL : part_next(w);
    if (part == NULL)
        return annotate_tail(w, note);
    annotate_part(w, note, part);
    return 1;
}

void mqtt_annotate_open(struct mqtt_annotate *w, const uint8_t *p, size_t n,
                        enum mqtt_side from, int first)
{
    memset(w, 0, sizeof *w);
    w->p = p;
    w->n = n;
    w->from = from;
    w->first = first;
}

int mqtt_annotate_next(struct mqtt_annotate *w, struct mqtt_note *out)
{
    memset(out, 0, sizeof *out);
    out->offset = w->at;
    if (w->end > 0 && annotate_field(w, out))
        return 1;
    if (w->end > 0)
        w->first = 0;
    w->end = 0;
    if (w->at == w->n)
        return 0;
    annotate_header(w, out);
    return 1;
}

/* The bytes of a field in hexadecimal; returns how wide the last row is. */
static size_t line_hex(struct line *l, const uint8_t *p, size_t n,
                       const char *indent)
{
    size_t from = l->n;
    char text[32];

    for (size_t i = 0; i < n && i < MQTT_SHOWN_MAX; i++) {
        if (i > 0 && i % 16 == 0) {
            line_text(l, "\n");
            line_text(l, indent);
            from = l->n;
        }
        snprintf(text, sizeof text, i % 16 == 0 ? "%02X" : " %02X",
                 (unsigned)p[i]);
        line_text(l, text);
    }
    if (n > MQTT_SHOWN_MAX) {
        snprintf(text, sizeof text, " ... %lu more",
                 (unsigned long)(n - MQTT_SHOWN_MAX));
        line_text(l, text);
    }
    return l->n - from;
}

size_t mqtt_annotate_print(const struct mqtt_annotate *w,
                           const struct mqtt_note *note, const char *indent,
                           char *out, size_t cap)
{
    static const char hidden[] = "(hidden)";
    struct line l = {out, cap, 0};
    size_t width = sizeof hidden - 1;
    char blanks[24];

    if (cap == 0)
        return 0;
    line_text(&l, indent);
    if (note->hidden)
        line_text(&l, hidden);
    else
        width = line_hex(&l, w->p + note->offset, note->n, indent);
    snprintf(blanks, sizeof blanks, "%*s", width < 18 ? 20 - (int)width : 2,
             "");
    line_text(&l, blanks);
    line_text(&l, note->name);
    line_text(&l, note->value);
    if (note->section[0] != '\0') {
        line_text(&l, " (");
        line_text(&l, note->section);
        line_text(&l, ")");
    }
    line_text(&l, "\n");
    out[l.n] = '\0';
    return l.n;
}
