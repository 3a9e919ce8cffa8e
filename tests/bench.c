/*
 * bench.c - the test bench of the server: its notation, its clients, its
 * clock.
 *
 *   1. words        text to packets
 *   2. text         packets to text
 *   3. rules        what must hold for each packet the server sends
 *   4. links        bytes to and from the server
 *   5. the server   start, turn, clock, kill
 *   6. expectations
 *
 *     bench_say --words--> bytes --> session_link_input
 *                                          |
 *                  settle, store_commit (bench_turn)
 *                                          v
 *     bench_hear <--text-- rules <-- session_link_output
 */
#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"

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

/* A packet that is being written down; it owns all its bytes. */
struct draft {
    struct mqtt_packet packet;
    struct mqtt_properties *props;  /* those that the next word belongs to */
    struct mqtt_bytes *topic, *payload; /* likewise */
    struct buf user[2];             /* User Properties: packet's and Will's */
    uint32_t ids[8];                /* Subscription Identifiers */
    struct buf list;                /* filters */
    char *fill;                     /* a payload of many bytes, or NULL */
};

static unsigned hex_digit(char c)
{
    const char *digits = "0123456789abcdef";
    const char *at = strchr(digits, c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c);
    assert_true(c != '\0' && at != NULL);
    return (unsigned)(at - digits);
}

/* Undoes %NN in place; the bytes stay where the word was. */
static struct mqtt_bytes word_unescape(char *word)
{
    char *to = word;
    for (char *c = word; *c != '\0'; c++) {
        if (*c == '%') {
            *to++ = (char)(hex_digit(c[1]) << 4 | hex_digit(c[2]));
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
    assert_non_null(colon);
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
        assert_true(d->props->id_count < 8);
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
    assert_true(n > 0);
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
    } else if (p->type != MQTT_PUBLISH && p->type != MQTT_CONNECT) {
        p->reason = (uint8_t)(hex_digit(word[0]) << 4 | hex_digit(word[1]));
    } else if (word_is_flag(word)) {
        draft_flag(d, word);
    } else if (word[0] == '=') {
        draft_payload(d, word + 1);
    } else {
        *d->topic = word_unescape(word);
    }
}

/* Fills d from the words, which it cuts up and which must outlive it. */
static void draft_parse(struct draft *d, char *words)
{
    char *rest = NULL;
    memset(d, 0, sizeof *d);
    d->props = &d->packet.props;
    d->topic = &d->packet.publish.topic;
    d->payload = &d->packet.publish.payload;
    char *word = strtok_r(words, " ", &rest);
    while (d->packet.type < 15 &&
           strcmp(type_words[d->packet.type], word) != 0)
        d->packet.type++;
    assert_string_equal(type_words[d->packet.type], word);
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

static void draft_free(struct draft *d)
{
    buf_free(&d->user[0]);
    buf_free(&d->user[1]);
    buf_free(&d->list);
    free(d->fill);
}

static char *words_print(const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    assert_true(n >= 0);
    char *words = (char *)mem_new((size_t)n + 1);
    vsnprintf(words, (size_t)n + 1, format, again);
    va_end(again);
    return words;
}

/* The packet's bytes appended to out. */
static void draft_encode(const struct draft *d, struct buf *out)
{
    size_t n = mqtt_packet_encode(&d->packet, NULL, 0);
    assert_true(n > 0);
    mqtt_packet_encode(&d->packet, buf_room(out, n), n);
    out->n += n;
}

size_t bench_encode(uint8_t *out, size_t cap, const char *format, ...)
{
    struct draft d;
    va_list args;
    va_start(args, format);
    char *words = words_print(format, args);
    va_end(args);
    draft_parse(&d, words);
    size_t n = mqtt_packet_encode(&d.packet, out, cap);
    draft_free(&d);
    free(words);
    assert_true(n > 0 && n <= cap);
    return n;
}

/* ==== 2. text =============================================================
 */

static void text_format(struct buf *b, const char *format, ...)
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

/* One packet of the server; topic: with the alias resolved. */
static void text_packet(struct buf *b, const struct mqtt_packet *p,
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

/* ==== 3. rules ============================================================
 *
 * What no packet of the server may ever break, whatever the test is about.
 * The lists of Reason Codes are the standard's own tables.  */

static const char *const reasons_legal[16] = {
    [MQTT_CONNACK] = "00 80 81 82 83 84 85 86 87 88 89 8a 8c 90 95 97 99 9a "
                     "9b 9c 9d 9f",                  /* [MQTT-3.2.2-8] */
    [MQTT_PUBACK] = "00 10 80 83 87 90 91 97 99",    /* [MQTT-3.4.2-1] */
    [MQTT_PUBREC] = "00 10 80 83 87 90 91 97 99",    /* [MQTT-3.5.2-1] */
    [MQTT_PUBREL] = "00 92",                         /* [MQTT-3.6.2-1] */
    [MQTT_PUBCOMP] = "00 92",                        /* [MQTT-3.7.2-1] */
    [MQTT_SUBACK] = "00 01 02 80 83 87 8f 91 97 9e a1 a2", /* 3.9.3-2 */
    [MQTT_UNSUBACK] = "00 11 80 83 87 8f 91",        /* [MQTT-3.11.3-2] */
    [MQTT_DISCONNECT] = "00 80 81 82 83 87 89 8b 8c 8d 8e 8f 90 93 94 95 96 "
                        "97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2", /* 3.14.2-1 */
};

static void story_add(struct bench *t, const struct bench_link *l,
                      const char *arrow, const char *text)
{
    text_format(&t->story, "%8lu.%03u  link %d %s ",
                (unsigned long)(t->now / 1000 % 100000000),
                (unsigned)(t->now % 1000), l == NULL ? 0 : l->number, arrow);
    size_t n = strlen(text);
    buf_add(&t->story, text, n < 300 ? n : 300);
    buf_text(&t->story, "\n");
}

/* Shows the end of the story and fails the test. */
static void story_fail(struct bench *t, const char *file, int line,
                       const char *what, const char *detail)
{
    size_t n = t->story.n < 3000 ? t->story.n : 3000;
    fprintf(stderr, "%.*s", (int)n, (const char *)t->story.p + t->story.n - n);
    n = t->log.n < 1500 ? t->log.n : 1500;
    if (n > 0)
        fprintf(stderr, "log: %.*s", (int)n,
                (const char *)t->log.p + t->log.n - n);
    print_error("%s: %s\n", what, detail);
    _fail(file, line);
}

static void rule(const struct bench_link *l, int holds, const char *statement,
                 const char *text)
{
    if (!holds)
        story_fail(l->bench, __FILE__, __LINE__, statement, text);
}

static void rule_reasons(const struct bench_link *l,
                         const struct mqtt_packet *p, const char *text)
{
    const char *legal = reasons_legal[p->type];
    char code[3];
    if (legal == NULL)
        return;
    int listed = p->type == MQTT_SUBACK || p->type == MQTT_UNSUBACK;
    for (size_t i = 0; i < (listed ? p->list.n : 1); i++) {
        snprintf(code, sizeof code, "%02x", listed ? p->list.p[i] : p->reason);
        rule(l, strstr(legal, code) != NULL, "Reason Code not listed", text);
    }
}

/* The order of packets on a connection, and what they may hold. */
static void rule_packet(struct bench_link *l, const struct mqtt_packet *p,
                        size_t size, const char *text)
{
    rule(l, l->goodbye == 0, "MQTT-3.14.4-1", text);
    rule(l, p->type != MQTT_AUTH, "MQTT-4.12.0-6", text);
    rule(l, l->connack > 0 || p->type == MQTT_CONNACK, "MQTT-3.2.0-1", text);
    if (p->type == MQTT_CONNACK) {
        rule(l, l->connack++ == 0, "MQTT-3.2.0-2", text);
        rule(l, p->reason == 0 || !p->session_present, "MQTT-3.2.2-6", text);
        rule(l, !MQTT_HAS(&p->props, MQTT_AUTHENTICATION_METHOD),
             "MQTT-4.12.0-6", text);
    }
    if (p->type == MQTT_DISCONNECT) {
        l->goodbye++;
        rule(l, !MQTT_HAS(&p->props, MQTT_SESSION_EXPIRY_INTERVAL),
             "MQTT-3.14.2-2", text);
    }
    rule(l, l->packet_max == 0 || size <= l->packet_max, "MQTT-3.1.2-24",
         text);
    if (!l->problem_info && p->type != MQTT_PUBLISH &&
        p->type != MQTT_CONNACK && p->type != MQTT_DISCONNECT)
        rule(l, p->props.raw.n == 0, "MQTT-3.1.2-29", text);
    rule_reasons(l, p, text);
}

static int open_get(const struct bench_link *l, uint16_t id)
{
    return l->open_ids[id / 8] >> (id % 8) & 1;
}

static void open_del(struct bench_link *l, uint16_t id)
{
    if (open_get(l, id)) {
        l->open_ids[id / 8] &= (uint8_t) ~(1u << (id % 8));
        l->open--;
    }
}

/* Identifier and window of a delivery. */
static void rule_delivery(struct bench_link *l, const struct mqtt_packet *p,
                          const char *text)
{
    uint16_t id = p->publish.packet_id;
    if (p->publish.qos == 0) {
        rule(l, !p->publish.dup, "MQTT-3.3.1-2", text);
        return;
    }
    rule(l, id != 0 && !open_get(l, id), "MQTT-2.2.1-4", text);
    l->open_ids[id / 8] |= (uint8_t)(1u << (id % 8));
    l->open++;
    rule(l, l->open <= l->receive_max, "MQTT-3.3.4-9", text);
}

/* The topic of a delivery, through the aliases of this connection. */
static struct mqtt_bytes rule_alias(struct bench_link *l,
                                    const struct mqtt_packet *p)
{
    struct mqtt_bytes topic = p->publish.topic;
    if (!MQTT_HAS(&p->props, MQTT_TOPIC_ALIAS)) {
        rule(l, topic.n > 0, "MQTT-4.7.3-1", "no topic and no alias");
        return topic;
    }
    uint16_t alias = p->props.topic_alias;
    rule(l, alias > 0, "MQTT-3.3.2-8", "Topic Alias 0");
    rule(l, alias <= l->alias_max && alias <= BENCH_ALIASES, "MQTT-3.3.2-11",
         "Topic Alias over the client's maximum");
    if (topic.n > 0) {
        free(l->aliases[alias]);
        l->aliases[alias] = (char *)mem_new(topic.n + 1);
        memcpy(l->aliases[alias], topic.p, topic.n);
        return topic;
    }
    rule(l, l->aliases[alias] != NULL, "MQTT-3.3.2-7", "alias never set");
    l->aliased++;
    topic.p = (const uint8_t *)l->aliases[alias];
    topic.n = strlen(l->aliases[alias]);
    return topic;
}

/* ==== 4. links ============================================================
 */

static void heard_free(struct bench_heard *h)
{
    if (h != NULL) {
        free(h->text);
        free(h->payload);
        free(h);
    }
}

static struct bench_heard *heard_add(struct bench_link *l)
{
    if (l->heard_end == l->heard_cap) {
        l->heard_cap = l->heard_cap * 2 + 8;
        l->heard = (struct bench_heard **)mem_grow(
            l->heard, l->heard_cap * sizeof *l->heard);
    }
    l->heard[l->heard_end] = (struct bench_heard *)mem_new(sizeof **l->heard);
    return l->heard[l->heard_end++];
}

/* One packet of the server: checked and put into the list. */
static void link_packet(struct bench_link *l, const uint8_t *bytes, size_t n)
{
    struct mqtt_packet p;
    struct mqtt_error err;
    struct buf text = {NULL, 0, 0, 0};
    if (mqtt_packet_decode(&p, bytes, n, MQTT_FROM_SERVER, &err) != 0)
        story_fail(l->bench, __FILE__, __LINE__, "not a packet", err.what);
    struct mqtt_bytes topic = p.publish.topic;
    if (p.type == MQTT_PUBLISH)
        topic = rule_alias(l, &p);
    text_packet(&text, &p, topic);
    story_add(l->bench, l, "<", (char *)text.p);
    rule_packet(l, &p, n, (char *)text.p);
    struct bench_heard *h = heard_add(l);
    h->text = (char *)text.p;
    h->type = p.type;
    h->packet_id = p.packet_id;
    if (p.type == MQTT_PUBLISH) {
        rule_delivery(l, &p, h->text);
        h->packet_id = p.publish.packet_id;
        h->qos = p.publish.qos;
        h->expiry = p.props.message_expiry_interval;
        h->payload = (char *)mem_new(p.publish.payload.n + 1);
        if (p.publish.payload.n > 0)
            memcpy(h->payload, p.publish.payload.p, p.publish.payload.n);
    }
}

static void link_packets(struct bench_link *l)
{
    struct mqtt_error err;
    size_t size = 0;
    for (;;) {
        enum mqtt_frame f = mqtt_frame_find(l->in.p, l->in.n,
                                            MQTT_REMAINING_LENGTH_MAX + 5,
                                            MQTT_FROM_SERVER, &size, &err);
        if (f == MQTT_FRAME_MORE)
            return;
        if (f != MQTT_FRAME_COMPLETE)
            story_fail(l->bench, __FILE__, __LINE__, "no packet", err.what);
        link_packet(l, l->in.p, size);
        buf_take(&l->in, size);
    }
}

/* Takes what the server wants sent, at most max bytes; 1 = there was
 * something, or an end. */
static int link_collect(struct bench_link *l, size_t max)
{
    size_t n = 0;
    if (l->link == NULL)
        return 0;
    int done = session_link_done(l->link);
    const uint8_t *p = session_link_output(l->link, &n);
    if (n > max) {
        n = max;
        done = 0;
    }
    if (n > 0) {
        buf_add(&l->in, p, n);
        session_link_sent(l->link, n);
        if (!l->raw)
            link_packets(l);
    }
    if (done) {
        struct session_link *link = l->link;
        story_add(l->bench, l, "<", "(end)");
        l->link = NULL;
        l->ended = 1;
        session_link_lost(link, l->bench->now);
    }
    return n > 0 || done;
}

struct bench_link *bench_link_open(struct bench *t)
{
    assert_true(t->link_count < BENCH_LINKS);
    struct bench_link *l = (struct bench_link *)mem_new(sizeof *l);
    l->bench = t;
    l->receive_max = 65535;
    l->problem_info = 1;
    t->links[t->link_count++] = l;
    l->number = t->link_count;
    l->link = session_link_open(t->server, "127.0.0.1:1", t->now);
    assert_non_null(l->link);
    return l;
}

static void link_free(struct bench_link *l)
{
    for (size_t i = l->heard_first; i < l->heard_end; i++)
        heard_free(l->heard[i]);
    heard_free(l->taken);
    for (int i = 0; i <= BENCH_ALIASES; i++)
        free(l->aliases[i]);
    free(l->heard);
    buf_free(&l->in);
    free(l);
}

void bench_send(struct bench_link *l, const void *bytes, size_t n)
{
    if (l->link == NULL)
        return; /* the server closed it meanwhile: the bytes are lost */
    session_link_input(l->link, bytes, n, l->bench->now);
    if (!l->bench->held)
        bench_turn(l->bench);
}

void bench_feed(struct bench_link *l, const char *hex)
{
    struct buf b = {NULL, 0, 0, 0};
    for (const char *c = hex; *c != '\0'; c++) {
        if (*c == ' ')
            continue;
        uint8_t byte = (uint8_t)(hex_digit(c[0]) << 4 | hex_digit(c[1]));
        buf_add(&b, &byte, 1);
        c++;
    }
    story_add(l->bench, l, ">", hex);
    bench_send(l, b.p, b.n);
    buf_free(&b);
}

void bench_frame(struct bench_link *l, unsigned first, const char *hex)
{
    char head[16];
    size_t digits = 0;
    struct buf b = {NULL, 0, 0, 0};
    for (const char *c = hex; *c != '\0'; c++)
        digits += *c != ' ';
    assert_true(digits / 2 < 128);
    snprintf(head, sizeof head, "%02X %02X ", first, (unsigned)(digits / 2));
    buf_text(&b, head);
    buf_text(&b, hex);
    buf_add(&b, "", 1);
    bench_feed(l, (const char *)b.p);
    buf_free(&b);
}

/* What the rules must know of a packet that the client sends. */
static void link_note(struct bench_link *l, const struct mqtt_packet *p)
{
    if (p->type == MQTT_CONNECT) {
        if (MQTT_HAS(&p->props, MQTT_RECEIVE_MAXIMUM))
            l->receive_max = p->props.receive_maximum;
        if (MQTT_HAS(&p->props, MQTT_REQUEST_PROBLEM_INFORMATION))
            l->problem_info = p->props.request_problem_information;
        l->alias_max = p->props.topic_alias_maximum;
        l->packet_max = p->props.maximum_packet_size;
    } else if (p->type == MQTT_PUBACK || p->type == MQTT_PUBCOMP ||
               (p->type == MQTT_PUBREC && p->reason >= 0x80)) {
        open_del(l, p->packet_id);
    }
}

static void link_say(struct bench_link *l, char *words)
{
    struct draft d;
    struct buf b = {NULL, 0, 0, 0};
    story_add(l->bench, l, ">", words);
    draft_parse(&d, words);
    link_note(l, &d.packet);
    draft_encode(&d, &b);
    bench_send(l, b.p, b.n);
    buf_free(&b);
    draft_free(&d);
    free(words);
}

void bench_say(struct bench_link *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *words = words_print(format, args);
    va_end(args);
    link_say(l, words);
}

void bench_cut(struct bench_link *l)
{
    struct session_link *link = l->link;
    story_add(l->bench, l, ">", "(cut)");
    l->link = NULL;
    if (link != NULL)
        session_link_lost(link, l->bench->now);
    bench_turn(l->bench);
}

void bench_leave(struct bench_link *l)
{
    bench_say(l, "disconnect 00");
    bench_end(l, "");
}

static struct bench_link *link_join(struct bench *t, const char *format,
                                    va_list args)
{
    struct bench_link *l = bench_link_open(t);
    char *words = words_print(format, args);
    bench_say(l, "connect %s", words);
    free(words);
    if (bench_waiting(l) == 0 ||
        strncmp(l->heard[l->heard_first]->text, "connack 00 ", 11) != 0)
        story_fail(t, __FILE__, __LINE__, "no CONNACK 0x00", format);
    return l;
}

struct bench_link *bench_join(struct bench *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    struct bench_link *l = link_join(t, format, args);
    va_end(args);
    return l;
}

struct bench_link *bench_meet(struct bench *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    struct bench_link *l = link_join(t, format, args);
    va_end(args);
    bench_next(l);
    return l;
}

struct bench_link *bench_watch(struct bench *t, const char *filters)
{
    struct bench_link *l = bench_meet(t, "c1 id=watch%d", t->link_count);
    bench_say(l, "subscribe #1 %s", filters);
    bench_hear(l, "suback #1 0[012]*");
    return l;
}

/* ==== 5. the server ========================================================
 */

/* Notes what a power cut would leave. */
static int sync_note(void *ctx, int fd)
{
    struct bench *t = (struct bench *)ctx;
    struct stat s;
    assert_int_equal(fstat(fd, &s), 0);
    t->synced_file = s.st_ino;
    t->synced_size = s.st_size;
    return 0;
}

static int sync_dir_nothing(void *ctx, const char *path)
{
    (void)ctx;
    (void)path;
    return 0;
}

/* A disk of t->room bytes. */
static ssize_t write_in_room(void *ctx, int fd, const void *p, size_t n,
                             off_t at)
{
    struct bench *t = (struct bench *)ctx;
    struct stat s;
    assert_int_equal(fstat(fd, &s), 0);
    off_t grows = at + (off_t)n > s.st_size ? at + (off_t)n - s.st_size : 0;
    if (t->room >= 0 && grows > t->room) {
        n -= (size_t)(grows - t->room);
        grows = (off_t)t->room;
        errno = ENOSPC;
        if (n == 0)
            return -1;
    }
    t->room -= t->room >= 0 ? grows : 0;
    return pwrite(fd, p, n, at);
}

static int unlink_for_room(void *ctx, const char *path)
{
    struct bench *t = (struct bench *)ctx;
    struct stat s;
    if (t->room >= 0 && stat(path, &s) == 0)
        t->room += s.st_size;
    return unlink(path);
}

static void log_take(struct bench *t)
{
    struct buf *from[2] = {session_log(t->server), store_notices(t->store)};
    for (int i = 0; i < 2; i++) {
        buf_add(&t->log, from[i]->p, from[i]->n);
        buf_take(from[i], from[i]->n);
    }
    struct buf *trace = session_trace(t->server);
    buf_take(trace, trace->n);
}

/* A kill is no power cut: what was written stays, synced or not.  So the
 * bench leaves the syncs out, which makes it a hundred times faster, and only
 * notes them for bench_power_cut(). */
static void server_start(struct bench *t)
{
    struct store_options options;
    char err[STORE_ERROR_MAX] = "";
    t->io = store_io_posix;
    t->io.ctx = t;
    t->io.sync = sync_note;
    t->io.sync_dir = sync_dir_nothing;
    t->io.pwrite = write_in_room;
    t->io.unlink = unlink_for_room;
    memset(&options, 0, sizeof options);
    options.dir = t->dir;
    options.io = &t->io;
    options.segment_size = 256 * 1024; /* small, so that cleaning runs too */
    options.reserve_size = 64 * 1024;
    t->store = store_open(&options, t->now, err);
    if (t->store == NULL)
        story_fail(t, __FILE__, __LINE__, "store_open", err);
    t->server = session_server_open(t->store, &t->options, t->now);
    if (t->server == NULL)
        story_fail(t, __FILE__, __LINE__, "session_server_open",
                   store_error(t->store));
    bench_turn(t);
}

static void server_drop(struct bench *t)
{
    for (int i = 0; i < t->link_count; i++)
        t->links[i]->link = NULL;
    if (t->server != NULL)
        session_server_close(t->server);
    if (t->store != NULL)
        store_close(t->store, 0);
    t->server = NULL;
    t->store = NULL;
}

int bench_step(struct bench *t, size_t max)
{
    int moved = 0;
    session_server_settle(t->server, t->now);
    if (store_commit(t->store, t->now) != 0)
        story_fail(t, __FILE__, __LINE__, "store_commit",
                   store_error(t->store));
    for (int k = 0; k < t->link_count; k++)
        moved |= link_collect(t->links[k], max);
    log_take(t);
    return moved;
}

void bench_turn(struct bench *t)
{
    t->held = 0;
    for (int i = 0; i < 20000; i++) {
        int moved = bench_step(t, SIZE_MAX);
        if (!moved && session_server_due(t->server) > t->now)
            break;
        assert_true(i < 19999); /* else the server never comes to rest */
    }
    if (t->alive != t->now)
        store_alive(t->store, t->now);
    t->alive = t->now;
}

static uint64_t server_due(const struct bench *t)
{
    uint64_t a = session_server_due(t->server), b = store_due(t->store);
    return a < b ? a : b;
}

void bench_advance(struct bench *t, uint64_t ms)
{
    uint64_t end = t->now + ms;
    for (int i = 0; server_due(t) <= end; i++) {
        uint64_t due = server_due(t);
        if (due <= t->now && i > 0)
            due = t->now + 1; /* an unfair clock: at least it moves */
        t->now = due > t->now ? due : t->now;
        if (t->now > end)
            break;
        bench_turn(t);
        assert_true(i < 100000);
    }
    t->now = end;
    bench_turn(t);
}

void bench_restart(struct bench *t, uint64_t ms)
{
    story_add(t, NULL, "-", "(kill and restart)");
    server_drop(t);
    t->now += ms;
    server_start(t);
}

/* Cuts the file that was synced last to what was synced of it.  Later files
 * do not matter: none is begun before the one before it is synced whole. */
static void unsynced_cut(struct bench *t)
{
    char path[512];
    struct dirent *entry;
    struct stat s;
    DIR *dir = opendir(t->dir);
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        snprintf(path, sizeof path, "%s/%s", t->dir, entry->d_name);
        if (strstr(entry->d_name, ".log") != NULL && stat(path, &s) == 0 &&
            s.st_ino == t->synced_file && s.st_size > t->synced_size)
            assert_int_equal(truncate(path, t->synced_size), 0);
    }
    closedir(dir);
}

void bench_power_cut(struct bench *t, uint64_t ms)
{
    story_add(t, NULL, "-", "(power cut and restart)");
    server_drop(t);
    unsynced_cut(t);
    t->now += ms;
    server_start(t);
}

void bench_stop(struct bench *t)
{
    story_add(t, NULL, "-", "(stop)");
    session_server_stop(t->server, t->now);
    bench_turn(t);
}

int bench_logged(const struct bench *t, const char *text)
{
    int lines = 0;
    size_t n = strlen(text);
    for (size_t i = 0; i + n <= t->log.n; i++)
        if (memcmp(t->log.p + i, text, n) == 0) {
            lines++;
            while (i < t->log.n && t->log.p[i] != '\n')
                i++;
        }
    return lines;
}

/* Plain values, so that no test leans on what the broker's own are. */
static void options_fill(struct session_options *o)
{
    session_options_default(o);
    o->expiry_default = 604800;
    o->expiry_max = 0xFFFFFFFFu;
    o->packet_max = 200000;
    o->receive_max = 20;
    o->window_max = 65535;
    o->alias_max = 8;
    o->alias_out_max = 8;
    o->keep_alive_max = 0;
    o->connect_wait = 10000;
    o->queue_max = 100000;
    o->output_high = 65536;
    memset(o->seed, 7, sizeof o->seed);
    o->trace = 1;
}

int bench_setup(void **state)
{
    struct bench *t = (struct bench *)mem_new(sizeof *t);
    const char *tmp = getenv("TMPDIR");
    snprintf(t->dir, sizeof t->dir, "%s/holdfast-XXXXXX",
             tmp != NULL && strlen(tmp) < 40 ? tmp : "/tmp");
    if (mkdtemp(t->dir) == NULL)
        return -1;
    t->now = 1700000000000u;
    t->room = -1;
    options_fill(&t->options);
    *state = t;
    server_start(t);
    return 0;
}

int bench_teardown(void **state)
{
    struct bench *t = (struct bench *)*state;
    char path[512];
    server_drop(t);
    for (int i = 0; i < t->link_count; i++)
        link_free(t->links[i]);
    DIR *dir = opendir(t->dir);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        snprintf(path, sizeof path, "%s/%s", t->dir, entry->d_name);
        unlink(path);
    }
    if (dir != NULL)
        closedir(dir);
    rmdir(t->dir);
    buf_free(&t->story);
    buf_free(&t->log);
    free(t);
    return 0;
}

/* ==== 6. expectations ======================================================
 */

size_t bench_waiting(const struct bench_link *l)
{
    return l->heard_end - l->heard_first;
}

/* Takes the packet at i out of the list; it lives until the next is taken. */
static const struct bench_heard *heard_take(struct bench_link *l, size_t i)
{
    heard_free(l->taken);
    l->taken = l->heard[i];
    memmove(l->heard + l->heard_first + 1, l->heard + l->heard_first,
            (i - l->heard_first) * sizeof *l->heard);
    if (++l->heard_first == l->heard_end)
        l->heard_first = l->heard_end = 0;
    return l->taken;
}

const struct bench_heard *bench_next(struct bench_link *l)
{
    return bench_waiting(l) > 0 ? heard_take(l, l->heard_first) : NULL;
}

uint16_t bench_find_at(const char *file, int line, struct bench_link *l,
                       const char *pattern)
{
    for (size_t i = l->heard_first; i < l->heard_end; i++)
        if (fnmatch(pattern, l->heard[i]->text, 0) == 0)
            return heard_take(l, i)->packet_id;
    story_fail(l->bench, file, line, "not heard", pattern);
    return 0;
}

static uint16_t hear_pattern(const char *file, int line, struct bench_link *l,
                             const char *pattern)
{
    struct buf what = {NULL, 0, 0, 0};
    const struct bench_heard *h = bench_next(l);
    if (h != NULL && fnmatch(pattern, h->text, 0) == 0)
        return h->packet_id;
    text_format(&what, "link %d: expected [%.90s], heard", l->number, pattern);
    buf_add(&what, "", 1);
    story_fail(l->bench, file, line, (char *)what.p,
               h != NULL ? h->text : l->ended ? "the end" : "nothing");
    return 0;
}

uint16_t bench_hear_at(const char *file, int line, struct bench_link *l,
                       const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *pattern = words_print(format, args);
    va_end(args);
    uint16_t id = hear_pattern(file, line, l, pattern);
    free(pattern);
    return id;
}

void bench_silent_at(const char *file, int line, struct bench_link *l)
{
    const struct bench_heard *h = bench_next(l);
    if (h != NULL)
        story_fail(l->bench, file, line, "expected nothing, heard", h->text);
    if (l->ended)
        story_fail(l->bench, file, line, "the link", "was closed");
}

void bench_end_at(const char *file, int line, struct bench_link *l,
                  const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *pattern = words_print(format, args);
    va_end(args);
    if (pattern[0] != '\0')
        hear_pattern(file, line, l, pattern);
    free(pattern);
    const struct bench_heard *h = bench_next(l);
    if (h != NULL)
        story_fail(l->bench, file, line, "expected the end, heard", h->text);
    if (!l->ended)
        story_fail(l->bench, file, line, "expected the end", "link is open");
}

size_t bench_serve(struct bench_link *l, struct buf *got)
{
    const struct bench_heard *h;
    size_t count = 0;
    while ((h = bench_next(l)) != NULL) {
        uint16_t id = h->packet_id;
        if (h->type == MQTT_PUBLISH) {
            count++;
            if (got != NULL) {
                buf_text(got, h->payload);
                buf_text(got, " ");
            }
            if (h->qos > 0)
                bench_say(l, h->qos == 1 ? "puback #%u" : "pubrec #%u", id);
        } else if (h->type == MQTT_PUBREL) {
            bench_say(l, "pubcomp #%u", id);
        }
    }
    return count;
}
