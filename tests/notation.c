/*
 * notation.c - MQTT packets written as text, both ways.
 *
 *   1. words   text to packets
 *   2. text    packets to text
 */
#include <stdio.h>
#include <string.h>

#include "notation.h"

/* ==== 1. words ============================================================
 *
 * One table serves both directions: the short name of each property and the
 * field of struct mqtt_properties that holds it. */

enum kind { BYTE, TWO, FOUR, BYTES };

struct property_word {
    const char *name;
    uint8_t id;
    enum kind kind;
    size_t at; /* offset in struct mqtt_properties */
};

#define AT(field) offsetof(struct mqtt_properties, field)

static const struct property_word property_words[] = {
    {"pfi", 0x01, BYTE, AT(payload_format_indicator)},
    {"mei", 0x02, FOUR, AT(message_expiry_interval)},
    {"ct", 0x03, BYTES, AT(content_type)},
    {"rt", 0x08, BYTES, AT(response_topic)},
    {"cd", 0x09, BYTES, AT(correlation_data)},
    {"x", 0x11, FOUR, AT(session_expiry_interval)},
    {"aci", 0x12, BYTES, AT(assigned_client_identifier)},
    {"ska", 0x13, TWO, AT(server_keep_alive)},
    {"am", 0x15, BYTES, AT(authentication_method)},
    {"ad", 0x16, BYTES, AT(authentication_data)},
    {"rpi", 0x17, BYTE, AT(request_problem_information)},
    {"wdi", 0x18, FOUR, AT(will_delay_interval)},
    {"rri", 0x19, BYTE, AT(request_response_information)},
    {"ri", 0x1A, BYTES, AT(response_information)},
    {"sr", 0x1C, BYTES, AT(server_reference)},
    {"rs", 0x1F, BYTES, AT(reason_string)},
    {"rm", 0x21, TWO, AT(receive_maximum)},
    {"tam", 0x22, TWO, AT(topic_alias_maximum)},
    {"ta", 0x23, TWO, AT(topic_alias)},
    {"mq", 0x24, BYTE, AT(maximum_qos)},
    {"ra", 0x25, BYTE, AT(retain_available)},
    {"mps", 0x27, FOUR, AT(maximum_packet_size)},
    {"wsa", 0x28, BYTE, AT(wildcard_subscription_available)},
    {"sia", 0x29, BYTE, AT(subscription_identifier_available)},
    {"ssa", 0x2A, BYTE, AT(shared_subscription_available)},
};

#define PROPERTY_WORDS (sizeof property_words / sizeof property_words[0])

static const char *const type_words[16] = {
    "?",          "connect", "connack",     "publish",  "puback",  "pubrec",
    "pubrel",     "pubcomp", "subscribe",   "suback",   "unsubscribe",
    "unsuback",   "pingreq", "pingresp",    "disconnect", "auth"};

/* The test is wrong, not the server: there is nothing to go on with. */
static void mistake(const char *what, const char *word)
{
    fprintf(stderr, "notation: %s: [%s]\n", what, word);
    abort();
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The two digits at c, somewhere in the word. */
static uint8_t hex_byte(const char *c, const char *word)
{
    int high = hex_digit(c[0]);
    int low = high < 0 ? -1 : hex_digit(c[1]);
    if (low < 0)
        mistake("no two hexadecimal digits", word);
    return (uint8_t)(high << 4 | low);
}

/* Undoes %NN in place; the bytes stay where the word was. */
static struct mqtt_bytes word_unescape(char *word)
{
    char *to = word;
    for (char *c = word; *c != '\0'; c++) {
        if (*c == '%') {
            *to++ = (char)hex_byte(c + 1, word);
            c += 2;
        } else {
            *to++ = *c;
        }
    }
    struct mqtt_bytes out = {(const uint8_t *)word, (size_t)(to - word)};
    return out;
}

static void property_put(struct mqtt_properties *props,
                         const struct property_word *w, char *value)
{
    unsigned long number = w->kind == BYTES ? 0 : strtoul(value, NULL, 10);
    void *field = (char *)props + w->at;
    props->has |= (uint64_t)1 << w->id;
    switch (w->kind) {
    case BYTE:
        *(uint8_t *)field = (uint8_t)number;
        break;
    case TWO:
        *(uint16_t *)field = (uint16_t)number;
        break;
    case FOUR:
        *(uint32_t *)field = (uint32_t)number;
        break;
    case BYTES:
        *(struct mqtt_bytes *)field = word_unescape(value);
        break;
    }
}

/* up=name:value */
static void draft_user_property(struct draft *d, char *value)
{
    struct buf *user = &d->user[d->props != &d->packet.props];
    char *colon = strchr(value, ':');
    if (colon == NULL)
        mistake("no name:value", value);
    *colon = '\0';
    struct mqtt_bytes name = word_unescape(value);
    struct mqtt_bytes text = word_unescape(colon + 1);
    size_t n = mqtt_user_property_encode(NULL, 0, name, text);
    mqtt_user_property_encode(buf_room(user, n), n, name, text);
    user->n += n;
}

/* 1 = the word was name=value with a property's name. */
static int draft_property(struct draft *d, char *word)
{
    char *equal = strchr(word, '=');
    if (equal == NULL || equal == word)
        return 0;
    size_t n = (size_t)(equal - word);
    for (size_t i = 0; i < PROPERTY_WORDS; i++)
        if (strlen(property_words[i].name) == n &&
            strncmp(property_words[i].name, word, n) == 0) {
            property_put(d->props, &property_words[i], equal + 1);
            return 1;
        }
    if (strncmp(word, "sid=", 4) == 0) {
        if (d->props->id_count == sizeof d->ids / sizeof d->ids[0])
            mistake("too many Subscription Identifiers", word);
        d->ids[d->props->id_count++] = (uint32_t)strtoul(equal + 1, NULL, 10);
        d->props->ids = d->ids;
        return 1;
    }
    if (strncmp(word, "up=", 3) == 0) {
        draft_user_property(d, equal + 1);
        return 1;
    }
    return 0;
}

/* filter,q1,nl,rap,rh2 */
static void draft_filter(struct draft *d, char *word)
{
    struct mqtt_subscription s;
    memset(&s, 0, sizeof s);
    char *comma = strchr(word, ',');
    while (comma != NULL) {
        *comma = '\0';
        char *option = comma + 1;
        comma = strchr(option, ',');
        if (option[0] == 'q')
            s.qos = (uint8_t)(option[1] - '0');
        else if (strncmp(option, "nl", 2) == 0)
            s.no_local = 1;
        else if (strncmp(option, "rap", 3) == 0)
            s.retain_as_published = 1;
        else
            s.retain_handling = (uint8_t)(option[2] - '0');
    }
    s.filter = word_unescape(word);
    uint8_t *room = buf_room(&d->list, s.filter.n + 3);
    size_t n = d->packet.type == MQTT_SUBSCRIBE
                   ? mqtt_subscribe_add(room, s.filter.n + 3, &s)
                   : mqtt_unsubscribe_add(room, s.filter.n + 3, s.filter);
    if (n == 0)
        mistake("no filter", word);
    d->list.n += n;
}

static void draft_payload(struct draft *d, char *word)
{
    if (word[0] != '*') {
        *d->payload = word_unescape(word);
        return;
    }
    size_t n = strtoul(word + 1, NULL, 10);
    d->fill = (char *)mem_grow(d->fill, n + 1);
    memset(d->fill, 'x', n);
    d->payload->p = (const uint8_t *)d->fill;
    d->payload->n = n;
}

/* The words that only CONNECT knows; 1 = this was one. */
static int draft_connect(struct draft *d, char *word)
{
    struct mqtt_connect *c = &d->packet.connect;
    if (strcmp(word, "c0") == 0 || strcmp(word, "c1") == 0) {
        c->clean_start = word[1] == '1';
    } else if (strncmp(word, "id=", 3) == 0) {
        c->client_id = word_unescape(word + 3);
    } else if (strncmp(word, "ka=", 3) == 0) {
        c->keep_alive = (uint16_t)strtoul(word + 3, NULL, 10);
    } else if (strncmp(word, "user=", 5) == 0) {
        c->has_user_name = 1;
        c->user_name = word_unescape(word + 5);
    } else if (strncmp(word, "pass=", 5) == 0) {
        c->has_password = 1;
        c->password = word_unescape(word + 5);
    } else if (strcmp(word, "will") == 0) {
        c->will_flag = 1;
        d->props = &c->will_props;
        d->topic = &c->will_topic;
        d->payload = &c->will_payload;
    } else {
        return 0;
    }
    return 1;
}

static void draft_flag(struct draft *d, const char *word)
{
    struct mqtt_publish *p = &d->packet.publish;
    struct mqtt_connect *c = &d->packet.connect;
    int connect = d->packet.type == MQTT_CONNECT;
    if (word[0] == 'q')
        *(connect ? &c->will_qos : &p->qos) = (uint8_t)(word[1] - '0');
    else if (word[0] == 'd')
        p->dup = 1;
    else
        *(connect ? &c->will_retain : &p->retain) = 1;
}

static int word_is_flag(const char *word)
{
    return (word[0] == 'q' && word[1] >= '0' && word[1] <= '2' &&
            word[2] == '\0') ||
           strcmp(word, "dup") == 0 || strcmp(word, "retain") == 0;
}

/* SUBACK and UNSUBACK have a list of them. */
static void draft_reason(struct draft *d, const char *word)
{
    d->packet.reason = hex_byte(word, word);
    if (word[2] != '\0')
        mistake("no Reason Code", word);
    if (d->packet.type == MQTT_SUBACK || d->packet.type == MQTT_UNSUBACK)
        buf_add(&d->list, &d->packet.reason, 1);
}

static void draft_word(struct draft *d, char *word)
{
    struct mqtt_packet *p = &d->packet;
    if (p->type == MQTT_CONNECT && draft_connect(d, word))
        return;
    if (draft_property(d, word))
        return;
    if (word[0] == '#' && word[1] >= '0' && word[1] <= '9') {
        p->packet_id = (uint16_t)strtoul(word + 1, NULL, 10);
        p->publish.packet_id = p->packet_id;
    } else if (p->type == MQTT_SUBSCRIBE || p->type == MQTT_UNSUBSCRIBE) {
        draft_filter(d, word);
    } else if (p->type == MQTT_CONNACK && strncmp(word, "sp=", 3) == 0) {
        p->session_present = word[3] == '1';
    } else if (p->type != MQTT_PUBLISH && p->type != MQTT_CONNECT) {
        draft_reason(d, word);
    } else if (word_is_flag(word)) {
        draft_flag(d, word);
    } else if (word[0] == '=') {
        draft_payload(d, word + 1);
    } else {
        *d->topic = word_unescape(word);
    }
}

/* The type that the first word names. */
static uint8_t draft_type(const char *word)
{
    for (uint8_t type = MQTT_CONNECT; word != NULL && type <= MQTT_AUTH; type++)
        if (strcmp(type_words[type], word) == 0)
            return type;
    mistake("no packet", word != NULL ? word : "");
    return 0;
}

void draft_parse(struct draft *d, char *words)
{
    char *rest = NULL;
    memset(d, 0, sizeof *d);
    d->props = &d->packet.props;
    d->topic = &d->packet.publish.topic;
    d->payload = &d->packet.publish.payload;
    d->packet.type = draft_type(strtok_r(words, " ", &rest));
    char *word;
    while ((word = strtok_r(NULL, " ", &rest)) != NULL)
        draft_word(d, word);
    d->packet.list.p = d->list.p;
    d->packet.list.n = d->list.n;
    struct mqtt_properties *props[2] = {&d->packet.props,
                                        &d->packet.connect.will_props};
    for (int i = 0; i < 2; i++) {
        props[i]->verbatim.p = d->user[i].p;
        props[i]->verbatim.n = d->user[i].n;
    }
}

void draft_free(struct draft *d)
{
    buf_free(&d->user[0]);
    buf_free(&d->user[1]);
    buf_free(&d->list);
    free(d->fill);
}

char *words_print(const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    if (n < 0)
        mistake("no format", format);
    char *words = (char *)mem_new((size_t)n + 1);
    vsnprintf(words, (size_t)n + 1, format, again);
    va_end(again);
    return words;
}

void draft_encode(const struct draft *d, struct buf *out)
{
    size_t n = mqtt_packet_encode(&d->packet, NULL, 0);
    if (n == 0)
        mistake("cannot be encoded", type_words[d->packet.type]);
    mqtt_packet_encode(&d->packet, buf_room(out, n), n);
    out->n += n;
}

/* ==== 2. text =============================================================
 */

void text_format(struct buf *b, const char *format, ...)
{
    char line[128];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    buf_text(b, line);
}

static void text_bytes(struct buf *b, struct mqtt_bytes v)
{
    for (size_t i = 0; i < v.n; i++) {
        uint8_t c = v.p[i];
        if (c <= ' ' || c > '~' || c == '%' || c == '\\')
            text_format(b, "%%%02X", c);
        else
            buf_add(b, &c, 1);
    }
}

static void text_payload(struct buf *b, struct mqtt_bytes v)
{
    size_t same = 0;
    while (same < v.n && v.p[same] == 'x')
        same++;
    if (v.n >= 100 && same == v.n)
        text_format(b, " =*%zu", v.n);
    else {
        buf_text(b, " =");
        text_bytes(b, v);
    }
}

static void text_property(struct buf *b, const struct mqtt_properties *props,
                          const struct property_word *w)
{
    const void *field = (const char *)props + w->at;
    text_format(b, " %s=", w->name);
    switch (w->kind) {
    case BYTE:
        text_format(b, "%u", *(const uint8_t *)field);
        break;
    case TWO:
        text_format(b, "%u", *(const uint16_t *)field);
        break;
    case FOUR:
        text_format(b, "%lu", (unsigned long)*(const uint32_t *)field);
        break;
    case BYTES:
        text_bytes(b, *(const struct mqtt_bytes *)field);
        break;
    }
}

/* All Subscription Identifiers in rising order: 3.3.4 leaves it free. */
static void text_ids(struct buf *b, struct mqtt_bytes raw)
{
    uint32_t last = 0;
    for (;;) {
        struct mqtt_bytes rest = raw;
        struct mqtt_property_view v;
        uint32_t least = UINT32_MAX;
        unsigned times = 0;
        while (mqtt_property_next(&rest, &v))
            if (v.id == MQTT_SUBSCRIPTION_IDENTIFIER && v.number > last &&
                v.number <= least) {
                times = v.number == least ? times + 1 : 1;
                least = v.number;
            }
        for (unsigned i = 0; i < times; i++)
            text_format(b, " sid=%lu", (unsigned long)least);
        if (times == 0)
            return;
        last = least;
    }
}

static void text_properties(struct buf *b, const struct mqtt_properties *props)
{
    struct mqtt_bytes rest = props->raw;
    struct mqtt_property_view v;
    for (size_t i = 0; i < PROPERTY_WORDS; i++) {
        if (property_words[i].id == MQTT_SESSION_EXPIRY_INTERVAL)
            text_ids(b, props->raw);
        if (MQTT_HAS(props, property_words[i].id) &&
            property_words[i].id != MQTT_TOPIC_ALIAS)
            text_property(b, props, &property_words[i]);
    }
    while (mqtt_property_next(&rest, &v))
        if (v.id == MQTT_USER_PROPERTY) {
            buf_text(b, " up=");
            text_bytes(b, v.text);
            buf_text(b, ":");
            text_bytes(b, v.pair);
        }
}

void text_packet(struct buf *b, const struct mqtt_packet *p,
                 struct mqtt_bytes topic)
{
    buf_text(b, type_words[p->type]);
    if (p->type == MQTT_PUBLISH) {
        text_format(b, " q%u%s%s", p->publish.qos,
                    p->publish.dup ? " dup" : "",
                    p->publish.retain ? " retain" : "");
        if (p->publish.qos > 0)
            text_format(b, " #%u", p->publish.packet_id);
        buf_text(b, " ");
        text_bytes(b, topic);
        text_payload(b, p->publish.payload);
    } else if (p->type == MQTT_SUBACK || p->type == MQTT_UNSUBACK) {
        text_format(b, " #%u", p->packet_id);
        for (size_t i = 0; i < p->list.n; i++)
            text_format(b, " %02x", p->list.p[i]);
    } else if (p->type == MQTT_CONNACK) {
        text_format(b, " %02x sp=%u", p->reason, p->session_present);
    } else if (p->type >= MQTT_PUBACK && p->type <= MQTT_PUBCOMP) {
        text_format(b, " #%u %02x", p->packet_id, p->reason);
    } else if (p->type != MQTT_PINGRESP) {
        text_format(b, " %02x", p->reason);
    }
    text_properties(b, &p->props);
    buf_add(b, "", 1);
}
