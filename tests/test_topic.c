/*
 * test_topic.c - strings and names: UTF-8, Topic Names and Filters, matching,
 * Reason Codes by packet, and the standard's names for numbers.
 *
 *   1. UTF-8
 *   2. Topic Names and Topic Filters
 *   3. Matching
 *   4. Reason Codes and names
 *
 * All expectations are written from the standard, never from the program.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mqtt.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* A copy of exactly n bytes, so that a sanitizer sees any read beyond. */
static uint8_t *exact(const void *bytes, size_t n)
{
    uint8_t *p = malloc(n > 0 ? n : 1);
    assert_non_null(p);
    if (n == 0) {
        free(p);
        return NULL;
    }
    return memcpy(p, bytes, n);
}

/* ---------------------------------------------------------------------------
 * 1. UTF-8
 * ------------------------------------------------------------------------- */

struct utf8_case {
    const char *bytes; /* what to look at */
    size_t n;          /* how many */
    size_t bad;        /* offset of the first wrong byte, n if none */
};

#define U(s, bad)                                                              \
    {                                                                          \
        s, sizeof(s) - 1, bad                                                  \
    }

static void utf8_run(const struct utf8_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t *p = exact(cases[i].bytes, cases[i].n);
        assert_int_equal(mqtt_utf8_check(p, cases[i].n), cases[i].bad);
        free(p);
    }
}

static void test_mqtt_1_5_4_1_well_formed(void **state)
{
    static const struct utf8_case cases[] = {
        U("", 0),
        U("plain", 5),
        U("\x7F", 1),
        U("\xC2\x80", 2),          /* U+0080, the first of two bytes */
        U("\xDF\xBF", 2),          /* U+07FF */
        U("\xE0\xA0\x80", 3),      /* U+0800 */
        U("\xED\x9F\xBF", 3),      /* U+D7FF, before the surrogates */
        U("\xEE\x80\x80", 3),      /* U+E000, behind them */
        U("\xEF\xBF\xBF", 3),      /* U+FFFF, a noncharacter: allowed */
        U("\xEF\xB7\x90", 3),      /* U+FDD0, another one */
        U("\xF0\x90\x80\x80", 4),  /* U+10000 */
        U("\xF4\x8F\xBF\xBF", 4),  /* U+10FFFF, the last */
        U("\x01\x1F\xC2\x9F", 4),  /* control characters: allowed */
        U("a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z", 11),
    };
    (void)state;
    utf8_run(cases, COUNT(cases));
}

static void test_mqtt_1_5_4_1_ill_formed(void **state)
{
    static const struct utf8_case cases[] = {
        U("\x80", 0),                 /* a tail without a lead */
        U("a\xBF", 1),
        U("\xC0\x80", 0),             /* overlong U+0000 */
        U("\xC1\xBF", 0),             /* overlong U+007F */
        U("\xC3(", 0),                /* no tail */
        U("ab\xC3", 2),               /* cut */
        U("\xE0\x9F\xBF", 0),         /* overlong U+07FF */
        U("\xE2\x82", 0),             /* cut */
        U("\xE2(\xA1", 0),
        U("\xE2\x82(", 0),
        U("\xED\xA0\x80", 0),         /* U+D800 */
        U("\xED\xBF\xBF", 0),         /* U+DFFF */
        U("\xED\xA0\xBD\xED\xB8\x80", 0), /* a surrogate pair */
        U("\xF0\x8F\xBF\xBF", 0),     /* overlong U+FFFF */
        U("\xF0\x9F\x98", 0),         /* cut */
        U("\xF0\x9F\x98(", 0),
        U("\xF4\x90\x80\x80", 0),     /* U+110000 */
        U("\xF5\x80\x80\x80", 0),
        U("\xF8\x88\x80\x80\x80", 0),
        U("\xFE", 0),
        U("ok\xFF", 2),
    };
    (void)state;
    utf8_run(cases, COUNT(cases));
}

static void test_mqtt_1_5_4_2_null_character(void **state)
{
    static const struct utf8_case cases[] = {
        U("\0", 0),
        U("a\0b", 1),
        U("\xC3\xA9\0", 2),
    };
    (void)state;
    utf8_run(cases, COUNT(cases));
}

static void test_mqtt_1_5_4_3_byte_order_mark(void **state)
{
    static const struct utf8_case cases[] = {
        U("\xEF\xBB\xBF", 3),
        U("a\xEF\xBB\xBF", 4),
    };
    (void)state;
    utf8_run(cases, COUNT(cases));
}

/* Every code point, encoded by the definition of UTF-8, is well formed but
 * for U+0000 and the surrogates. */
static void test_mqtt_1_5_4_1_every_code_point(void **state)
{
    (void)state;
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        uint8_t b[4];
        size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        static const uint8_t lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
        uint32_t rest = c;

        for (size_t i = n - 1; i > 0; i--, rest >>= 6)
            b[i] = (uint8_t)(0x80 | (rest & 0x3F));
        b[0] = (uint8_t)(lead[n] | rest);
        int wrong = c == 0 || (c >= 0xD800 && c <= 0xDFFF);
        assert_int_equal(mqtt_utf8_check(b, n), wrong ? 0 : n);
    }
}

/* ---------------------------------------------------------------------------
 * 2. Topic Names and Topic Filters
 * ------------------------------------------------------------------------- */

static struct mqtt_bytes text(const char *s)
{
    struct mqtt_bytes b = {(const uint8_t *)s, strlen(s)};
    return b;
}

static void test_mqtt_4_7_0_1_topic_names(void **state)
{
    static const char *const good[] = {
        "a",    "/",  "a/b", "//",           " ", "$a",
        "$SYS", "a/", "/a",  "\xEF\xBB\xBF",
    };
    static const char *const bad[] = {"+",   "#",  "a/+", "a/#",
                                      "a+b", "a#", "/#",  ""};
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++)
        assert_true(mqtt_topic_name_valid(text(good[i])));
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_false(mqtt_topic_name_valid(text(bad[i])));
}

static void test_mqtt_4_7_3_1_empty(void **state)
{
    struct mqtt_bytes none = {NULL, 0}, share, filter;
    struct mqtt_error err;

    (void)state;
    assert_false(mqtt_topic_name_valid(none));
    assert_int_equal(mqtt_topic_filter_parse(none, &share, &filter, &err), -1);
    assert_string_equal(err.statement, "MQTT-4.7.3-1");
    assert_int_equal(err.reason, 0x8F);
}

static void test_mqtt_4_7_3_3_longest(void **state)
{
    static uint8_t bytes[65536];
    struct mqtt_bytes whole = {bytes, 65535}, share, filter;
    struct mqtt_error err;

    (void)state;
    memset(bytes, 'a', sizeof bytes);
    assert_int_equal(mqtt_topic_filter_parse(whole, &share, &filter, &err), 0);
    assert_true(mqtt_topic_match(whole, whole));
    whole.n = 65536;
    assert_int_equal(mqtt_topic_filter_parse(whole, &share, &filter, &err), -1);
    assert_string_equal(err.statement, "MQTT-4.7.3-3");
}

static void test_mqtt_4_7_3_2_null_in_filter(void **state)
{
    struct mqtt_bytes whole = {(const uint8_t *)"a/\0b", 4}, share, filter;
    struct mqtt_error err;

    (void)state;
    assert_int_equal(mqtt_topic_filter_parse(whole, &share, &filter, &err), -1);
    assert_string_equal(err.statement, "MQTT-4.7.3-2");
    assert_int_equal(err.offset, 2);
}

/* A filter as a client writes it, and its parts. */
static void filter_good(const char *whole, const char *share,
                        const char *filter)
{
    struct mqtt_bytes s, f;
    struct mqtt_error err;
    uint8_t *p = exact(whole, strlen(whole));
    struct mqtt_bytes w = {p, strlen(whole)};

    assert_int_equal(mqtt_topic_filter_parse(w, &s, &f, &err), 0);
    assert_int_equal(s.n, strlen(share));
    assert_int_equal(f.n, strlen(filter));
    if (s.n > 0)
        assert_memory_equal(s.p, share, s.n);
    assert_memory_equal(f.p, filter, f.n);
    free(p);
}

static void filter_bad(const char *whole, const char *statement, size_t offset)
{
    struct mqtt_bytes s, f;
    struct mqtt_error err = {0, NULL, 0, NULL};
    uint8_t *p = exact(whole, strlen(whole));
    struct mqtt_bytes w = {p, strlen(whole)};

    assert_int_equal(mqtt_topic_filter_parse(w, &s, &f, &err), -1);
    assert_int_equal(err.reason, MQTT_TOPIC_FILTER_INVALID);
    assert_string_equal(err.statement, statement);
    assert_int_equal(err.offset, offset);
    assert_non_null(err.what);
    free(p);
}

static void test_mqtt_4_7_1_1_multi_level_wildcard(void **state)
{
    (void)state;
    filter_good("#", "", "#");
    filter_good("a/#", "", "a/#");
    filter_good("/#", "", "/#");
    filter_bad("a#", "MQTT-4.7.1-1", 1);
    filter_bad("a/b#", "MQTT-4.7.1-1", 3);
    filter_bad("#/a", "MQTT-4.7.1-1", 0);
    filter_bad("a/#/b", "MQTT-4.7.1-1", 2);
    filter_bad("a/#/", "MQTT-4.7.1-1", 2);
    filter_bad("##", "MQTT-4.7.1-1", 0);
    filter_bad("#a", "MQTT-4.7.1-1", 0);
}

static void test_mqtt_4_7_1_2_single_level_wildcard(void **state)
{
    (void)state;
    filter_good("+", "", "+");
    filter_good("+/a/+", "", "+/a/+");
    filter_good("/+", "", "/+");
    filter_good("+/#", "", "+/#");
    filter_good("a/+/", "", "a/+/");
    filter_bad("a+", "MQTT-4.7.1-2", 1);
    filter_bad("+a", "MQTT-4.7.1-2", 0);
    filter_bad("a/b+", "MQTT-4.7.1-2", 3);
    filter_bad("a/+b/c", "MQTT-4.7.1-2", 2);
    filter_bad("++", "MQTT-4.7.1-2", 0);
    filter_bad("+#", "MQTT-4.7.1-2", 0);
}

static void test_mqtt_4_8_2_1_share_name(void **state)
{
    (void)state;
    filter_good("$share/g/t", "g", "t");
    filter_good("$share/group/a/+/#", "group", "a/+/#");
    filter_good("$share/g//t", "g", "/t");
    filter_good("$share/g/$share/h/t", "g", "$share/h/t");
    filter_bad("$share//t", "MQTT-4.8.2-1", 7);
    filter_bad("$share/", "MQTT-4.8.2-1", 7);
    /* not the prefix, hence ordinary filters */
    filter_good("$share", "", "$share");
    filter_good("$SHARE/g/t", "", "$SHARE/g/t");
    filter_good("$shared/g/t", "", "$shared/g/t");
    filter_good("a$share/g/t", "", "a$share/g/t");
}

static void test_mqtt_4_8_2_2_share_form(void **state)
{
    (void)state;
    filter_bad("$share/g", "MQTT-4.8.2-2", 8);
    filter_bad("$share/g/", "MQTT-4.8.2-2", 8);
    filter_bad("$share/g+/t", "MQTT-4.8.2-2", 8);
    filter_bad("$share/#/t", "MQTT-4.8.2-2", 7);
    filter_bad("$share/+", "MQTT-4.8.2-2", 7);
    filter_bad("$share/g/a#", "MQTT-4.7.1-1", 10);
    filter_bad("$share/g/+a", "MQTT-4.7.1-2", 9);
}

/* ---------------------------------------------------------------------------
 * 3. Matching
 * ------------------------------------------------------------------------- */

struct match_case {
    const char *filter; /* legal, not shared */
    const char *topic;  /* legal */
    int matches;        /* 1 or 0 */
};

static void match_run(const struct match_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct mqtt_bytes f = text(cases[i].filter), t = text(cases[i].topic);
        uint8_t *fp = exact(f.p, f.n), *tp = exact(t.p, t.n);
        f.p = fp;
        t.p = tp;
        if (mqtt_topic_match(f, t) != cases[i].matches)
            fail_msg("filter %s, topic %s", cases[i].filter, cases[i].topic);
        free(fp);
        free(tp);
    }
}

/* The examples of 4.7.1.2 and 4.7.1.3 and the corners beside them. */
static void test_match_wildcards(void **state)
{
    static const struct match_case cases[] = {
        {"sport/tennis/player1/#", "sport/tennis/player1", 1},
        {"sport/tennis/player1/#", "sport/tennis/player1/ranking", 1},
        {"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", 1},
        {"sport/tennis/player1/#", "sport/tennis/player2", 0},
        {"sport/tennis/player1/#", "sport/tennis", 0},
        {"sport/#", "sport", 1},
        {"sport/#", "sports", 0},
        {"#", "sport/tennis/player1", 1},
        {"#", "/", 1},
        {"sport/tennis/+", "sport/tennis/player1", 1},
        {"sport/tennis/+", "sport/tennis/player1/ranking", 0},
        {"sport/+", "sport", 0},
        {"sport/+", "sport/", 1},
        {"+", "sport", 1},
        {"+", "/finance", 0},
        {"/+", "/finance", 1},
        {"+/+", "/finance", 1},
        {"+/+", "/", 1},
        {"+/tennis/#", "sport/tennis", 1},
        {"+/tennis/#", "sport/tennis/a/b", 1},
        {"sport/+/player1", "sport/tennis/player1", 1},
        {"sport/+/player1", "sport//player1", 1},
        {"sport/+/player1", "sport/a/b/player1", 0},
        {"+/#", "a", 1},
        {"+/#", "a/b/c", 1},
        {"a/+/#", "a", 0},
        {"a/+/#", "a/", 1},
        {"a//#", "a", 0},
        {"a//#", "a/", 1},
        {"/#", "/", 1},
        {"/#", "a", 0},
        {"/#", "/a/b", 1},
    };
    (void)state;
    match_run(cases, COUNT(cases));
}

static void test_mqtt_4_7_2_1_dollar(void **state)
{
    static const struct match_case cases[] = {
        {"#", "$SYS/monitor/Clients", 0},
        {"#", "$SYS", 0},
        {"+", "$SYS", 0},
        {"+/monitor/Clients", "$SYS/monitor/Clients", 0},
        {"$SYS/#", "$SYS", 1},
        {"$SYS/#", "$SYS/a", 1},
        {"$SYS/monitor/+", "$SYS/monitor/Clients", 1},
        {"a/+", "a/$b", 1},
        {"#", "a/$b", 1},
        {"/#", "/$SYS", 1},
        {"$/+", "$/$", 1},
    };
    (void)state;
    match_run(cases, COUNT(cases));
}

static void test_mqtt_4_7_3_4_nothing_normalized(void **state)
{
    static const struct match_case cases[] = {
        {"a/b", "a/b", 1},   {"a/b", "A/b", 0},
        {"a/b", "a/b/", 0},  {"a/b", "/a/b", 0},
        {"a/b", "a//b", 0},  {"a/b/", "a/b", 0},
        {"/a", "a", 0},      {"a b", "a b", 1},
        {"a", "ab", 0},      {"ab", "a", 0},
        {"/", "/", 1},       {"//", "/", 0},
        {"\xC3\xA9", "\xC3\xA9", 1},
        {"\xC3\xA9", "e\xCC\x81", 0},
        {"\xEF\xBB\xBF" "a", "a", 0},
    };
    (void)state;
    match_run(cases, COUNT(cases));
}

/* A slow second opinion: split both into levels, compare by recursion. */
static int match_slow(const char *f, const char *t)
{
    size_t fn = strcspn(f, "/"), tn = strcspn(t, "/");

    if (strcmp(f, "#") == 0)
        return 1;
    int level = (fn == 1 && *f == '+') ||
                (fn == tn && strncmp(f, t, fn) == 0);
    if (!level)
        return 0;
    if (t[tn] == '\0')
        return f[fn] == '\0' || strcmp(f + fn, "/#") == 0;
    return f[fn] != '\0' && match_slow(f + fn + 1, t + tn + 1);
}

/* The n-th string over an alphabet; 0 when n has no such string left. */
static void nth_string(char *out, size_t n, const char *alphabet)
{
    size_t size = strlen(alphabet), i = 0;

    for (; n > 0; n = (n - 1) / size)
        out[i++] = alphabet[(n - 1) % size];
    out[i] = '\0';
}

static void test_match_every_short_pair(void **state)
{
    struct mqtt_bytes share, filter;
    struct mqtt_error err;
    char f[16], t[16];

    (void)state;
    for (size_t i = 1; i < 1365; i++) { /* up to 5 of 4 letters */
        nth_string(f, i, "a/+#");
        if (mqtt_topic_filter_parse(text(f), &share, &filter, &err) < 0)
            continue;
        for (size_t j = 1; j < 63; j++) { /* up to 5 of 2 letters */
            nth_string(t, j, "a/");
            assert_int_equal(mqtt_topic_match(text(f), text(t)),
                             match_slow(f, t));
        }
    }
}

/* ---------------------------------------------------------------------------
 * 4. Reason Codes and names
 * ------------------------------------------------------------------------- */

/* The tables of chapter 3, code by code.  The list ends with -1. */
struct legal_case {
    uint8_t type;         /* the packet, an mqtt_type */
    enum mqtt_side from;  /* its sender */
    int codes[40];        /* every legal Reason Code */
};

static const struct legal_case legal_cases[] = {
    /* 3.2.2.2 */
    {MQTT_CONNACK,
     MQTT_FROM_SERVER,
     {0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A,
      0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F, -1}},
    /* 3.4.2.1: 0x10 is sent by the server only */
    {MQTT_PUBACK,
     MQTT_FROM_SERVER,
     {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99, -1}},
    {MQTT_PUBACK,
     MQTT_FROM_CLIENT,
     {0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99, -1}},
    /* 3.5.2.1 */
    {MQTT_PUBREC,
     MQTT_FROM_SERVER,
     {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99, -1}},
    {MQTT_PUBREC,
     MQTT_FROM_CLIENT,
     {0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99, -1}},
    /* 3.6.2.1 and 3.7.2.1 */
    {MQTT_PUBREL, MQTT_FROM_SERVER, {0x00, 0x92, -1}},
    {MQTT_PUBREL, MQTT_FROM_CLIENT, {0x00, 0x92, -1}},
    {MQTT_PUBCOMP, MQTT_FROM_SERVER, {0x00, 0x92, -1}},
    {MQTT_PUBCOMP, MQTT_FROM_CLIENT, {0x00, 0x92, -1}},
    /* 3.9.3 */
    {MQTT_SUBACK,
     MQTT_FROM_SERVER,
     {0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
      -1}},
    /* 3.11.3 */
    {MQTT_UNSUBACK,
     MQTT_FROM_SERVER,
     {0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91, -1}},
    /* 3.14.2.1, with 0x8C from table 2-6 */
    {MQTT_DISCONNECT,
     MQTT_FROM_SERVER,
     {0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D,
      0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
      0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2, -1}},
    {MQTT_DISCONNECT,
     MQTT_FROM_CLIENT,
     {0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
      0x98, 0x99, -1}},
    /* 3.15.2.1 */
    {MQTT_AUTH, MQTT_FROM_SERVER, {0x00, 0x18, -1}},
    {MQTT_AUTH, MQTT_FROM_CLIENT, {0x18, 0x19, -1}},
};

/* Every code of every packet, from both sides: legal if and only if listed,
 * MQTT-3.2.2-8 and its like. */
static void test_mqtt_3_4_2_1_and_all_reason_tables(void **state)
{
    (void)state;
    for (unsigned type = 0; type < 32; type++)
        for (unsigned side = 0; side < 2; side++)
            for (unsigned code = 0; code < 256; code++) {
                int legal = 0;
                for (size_t i = 0; i < COUNT(legal_cases); i++)
                    for (const int *c = legal_cases[i].codes; *c >= 0; c++)
                        legal |= legal_cases[i].type == type &&
                                 legal_cases[i].from == side &&
                                 *c == (int)code;
                assert_int_equal(
                    mqtt_reason_legal((uint8_t)type, (uint8_t)code,
                                      (enum mqtt_side)side),
                    legal);
            }
}

/* Whatever is legal somewhere has a name. */
static void test_reason_names_complete(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(legal_cases); i++)
        for (const int *c = legal_cases[i].codes; *c >= 0; c++)
            assert_string_not_equal(
                mqtt_reason_name(legal_cases[i].type, (uint8_t)*c), "unknown");
}

static void test_reason_names(void **state)
{
    (void)state;
    assert_string_equal(mqtt_reason_name(MQTT_PUBACK, 0x00), "Success");
    assert_string_equal(mqtt_reason_name(MQTT_DISCONNECT, 0x00),
                        "Normal disconnection");
    assert_string_equal(mqtt_reason_name(MQTT_SUBACK, 0x00), "Granted QoS 0");
    assert_string_equal(mqtt_reason_name(MQTT_SUBACK, 0x02), "Granted QoS 2");
    assert_string_equal(mqtt_reason_name(MQTT_DISCONNECT, 0x8E),
                        "Session taken over");
    assert_string_equal(mqtt_reason_name(MQTT_PUBREC, 0x97), "Quota exceeded");
    assert_string_equal(mqtt_reason_name(MQTT_SUBACK, 0xA2),
                        "Wildcard Subscriptions not supported");
    assert_string_equal(mqtt_reason_name(MQTT_CONNACK, 0x05), "unknown");
    assert_string_equal(mqtt_reason_name(MQTT_CONNACK, 0xFF), "unknown");
}

static void test_type_and_property_names(void **state)
{
    int named = 0;

    (void)state;
    assert_string_equal(mqtt_type_name(0), "unknown");
    assert_string_equal(mqtt_type_name(1), "CONNECT");
    assert_string_equal(mqtt_type_name(3), "PUBLISH");
    assert_string_equal(mqtt_type_name(7), "PUBCOMP");
    assert_string_equal(mqtt_type_name(15), "AUTH");
    assert_string_equal(mqtt_type_name(16), "unknown");
    assert_string_equal(mqtt_property_name(0x11), "Session Expiry Interval");
    assert_string_equal(mqtt_property_name(0x2A),
                        "Shared Subscription Available");
    assert_string_equal(mqtt_property_name(0x04), "unknown");
    for (unsigned id = 0; id < 256; id++)
        named += strcmp(mqtt_property_name((uint8_t)id), "unknown") != 0;
    assert_int_equal(named, 27);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mqtt_1_5_4_1_well_formed),
        cmocka_unit_test(test_mqtt_1_5_4_1_ill_formed),
        cmocka_unit_test(test_mqtt_1_5_4_2_null_character),
        cmocka_unit_test(test_mqtt_1_5_4_3_byte_order_mark),
        cmocka_unit_test(test_mqtt_1_5_4_1_every_code_point),
        cmocka_unit_test(test_mqtt_4_7_0_1_topic_names),
        cmocka_unit_test(test_mqtt_4_7_3_1_empty),
        cmocka_unit_test(test_mqtt_4_7_3_3_longest),
        cmocka_unit_test(test_mqtt_4_7_3_2_null_in_filter),
        cmocka_unit_test(test_mqtt_4_7_1_1_multi_level_wildcard),
        cmocka_unit_test(test_mqtt_4_7_1_2_single_level_wildcard),
        cmocka_unit_test(test_mqtt_4_8_2_1_share_name),
        cmocka_unit_test(test_mqtt_4_8_2_2_share_form),
        cmocka_unit_test(test_match_wildcards),
        cmocka_unit_test(test_mqtt_4_7_2_1_dollar),
        cmocka_unit_test(test_mqtt_4_7_3_4_nothing_normalized),
        cmocka_unit_test(test_match_every_short_pair),
        cmocka_unit_test(test_mqtt_3_4_2_1_and_all_reason_tables),
        cmocka_unit_test(test_reason_names_complete),
        cmocka_unit_test(test_reason_names),
        cmocka_unit_test(test_type_and_property_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
