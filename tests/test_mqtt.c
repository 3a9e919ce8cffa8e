/*
 * test_mqtt.c - packets: bytes to structs, structs to bytes, and refusals.
 *
 *   1. Tools         exact copies, calls that check themselves, comparison
 *   2. Golden bytes  packets written by hand from the standard, both ways
 *   3. Refusals      one wrong packet per rule: Reason Code, statement, offset
 *   4. Framing       first bytes, Remaining Length, cuts
 *   5. Properties    each in each packet from each side, twice, out of range
 *   6. Encoding      room, limits, lists, stored packets
 *   7. Text          the printed line
 *   8. Mutants       100,000 damaged packets from a fixed seed
 *
 * A statement that a refusal names must stand in tests/statements: run from
 * the top of the tree.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mqtt.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define STATEMENTS "tests/statements"

/* Bytes given as a string literal. */
#define BYTES(s)                                                               \
    {                                                                          \
        (const uint8_t *)(s), sizeof(s) - 1                                    \
    }

#define C MQTT_FROM_CLIENT
#define S MQTT_FROM_SERVER

/* ---------------------------------------------------------------------------
 * 1. Tools
 * ------------------------------------------------------------------------- */

/* A copy of exactly n bytes, so that a sanitizer sees any read beyond. */
static uint8_t *exact(const uint8_t *bytes, size_t n)
{
    uint8_t *p = malloc(n > 0 ? n : 1);
    assert_non_null(p);
    if (n > 0)
        memcpy(p, bytes, n);
    return p;
}

static char statement_list[1 << 16]; /* tests/statements */

/* Statements are literals: each is looked up once. */
static const char *seen[512];
static size_t seen_count;

static int statements_load(void **state)
{
    FILE *f = fopen(STATEMENTS, "r");

    (void)state;
    assert_non_null(f);
    size_t n = fread(statement_list + 1, 1, sizeof statement_list - 2, f);
    statement_list[0] = '\n';
    statement_list[n + 1] = '\0';
    fclose(f);
    return 0;
}

static void statement_check(const char *statement)
{
    char line[64];
    int a, b, c, d, end = 0;

    assert_non_null(statement);
    for (size_t i = 0; i < seen_count; i++)
        if (seen[i] == statement)
            return;
    assert_true(seen_count < COUNT(seen));
    seen[seen_count++] = statement;
    if (*statement == '\0')
        return;
    assert_int_equal(
        sscanf(statement, "MQTT-%d.%d.%d-%d%n", &a, &b, &c, &d, &end), 4);
    assert_int_equal(statement[end], '\0');
    snprintf(line, sizeof line, "\n%s\t", statement);
    if (strstr(statement_list, line) == NULL)
        fail_msg("no such statement: %s", statement);
}

/* What holds for every error: a reason of 0x80 or more, a known statement, an
 * offset inside the packet or right behind it, a sentence. */
static void error_check(const struct mqtt_error *err, size_t n)
{
    assert_true(err->reason >= 0x80);
    statement_check(err->statement);
    assert_true(err->offset <= n);
    assert_non_null(err->what);
    assert_true(err->what[0] != '\0');
    assert_true(err->what[strlen(err->what) - 1] != '.');
}

/* Decodes from bytes that end where the packet ends.  The views in *out point
 * into p, which must outlive them. */
static int decode(struct mqtt_packet *out, const uint8_t *p, size_t n,
                  enum mqtt_side from, struct mqtt_error *err)
{
    memset(err, 0, sizeof *err);
    int result = mqtt_packet_decode(out, p, n, from, err);
    if (result < 0)
        error_check(err, n);
    else
        assert_int_equal(result, 0);
    return result;
}

static int bytes_equal(struct mqtt_bytes a, struct mqtt_bytes b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* What may repeat, as decoded (`raw`) or to be encoded (`ids`, `verbatim`). */
struct repeats {
    uint32_t ids[512];   /* Subscription Identifiers in their order */
    size_t id_count;     /* how many */
    uint8_t pairs[4096]; /* the User Properties as on the wire */
    size_t n;            /* how many bytes of them */
};

static void repeats_take(struct repeats *r, struct mqtt_bytes rest)
{
    struct mqtt_property_view v;

    while (mqtt_property_next(&rest, &v)) {
        if (v.id == MQTT_SUBSCRIPTION_IDENTIFIER)
            r->ids[r->id_count++ % COUNT(r->ids)] = v.number;
        if (v.id != MQTT_USER_PROPERTY)
            continue;
        assert_true(r->n + v.whole.n <= sizeof r->pairs);
        memcpy(r->pairs + r->n, v.whole.p, v.whole.n);
        r->n += v.whole.n;
    }
    assert_int_equal(rest.n, 0);
}

static void repeats_fill(struct repeats *r, const struct mqtt_properties *p)
{
    r->id_count = r->n = 0;
    for (size_t i = 0; i < p->id_count; i++)
        r->ids[r->id_count++] = p->ids[i];
    repeats_take(r, p->verbatim.n > 0 ? p->verbatim : p->raw);
}

/* Decoded properties as ones to encode. */
static void props_turn(struct mqtt_properties *p, struct repeats *r)
{
    repeats_fill(r, p);
    p->ids = r->ids;
    p->id_count = r->id_count;
    p->verbatim.p = r->pairs;
    p->verbatim.n = r->n;
    p->raw.n = 0;
}

static int props_equal(const struct mqtt_properties *a,
                       const struct mqtt_properties *b)
{
    static struct repeats ra, rb;

    repeats_fill(&ra, a);
    repeats_fill(&rb, b);
    return a->has == b->has && ra.id_count == rb.id_count &&
           memcmp(ra.ids, rb.ids, ra.id_count * sizeof *ra.ids) == 0 &&
           ra.n == rb.n && memcmp(ra.pairs, rb.pairs, ra.n) == 0 &&
           a->payload_format_indicator == b->payload_format_indicator &&
           a->request_problem_information == b->request_problem_information &&
           a->request_response_information ==
               b->request_response_information &&
           a->maximum_qos == b->maximum_qos &&
           a->retain_available == b->retain_available &&
           a->wildcard_subscription_available ==
               b->wildcard_subscription_available &&
           a->subscription_identifier_available ==
               b->subscription_identifier_available &&
           a->shared_subscription_available ==
               b->shared_subscription_available &&
           a->server_keep_alive == b->server_keep_alive &&
           a->receive_maximum == b->receive_maximum &&
           a->topic_alias_maximum == b->topic_alias_maximum &&
           a->topic_alias == b->topic_alias &&
           a->message_expiry_interval == b->message_expiry_interval &&
           a->session_expiry_interval == b->session_expiry_interval &&
           a->will_delay_interval == b->will_delay_interval &&
           a->maximum_packet_size == b->maximum_packet_size &&
           a->subscription_identifier == b->subscription_identifier &&
           bytes_equal(a->content_type, b->content_type) &&
           bytes_equal(a->response_topic, b->response_topic) &&
           bytes_equal(a->correlation_data, b->correlation_data) &&
           bytes_equal(a->assigned_client_identifier,
                       b->assigned_client_identifier) &&
           bytes_equal(a->authentication_method, b->authentication_method) &&
           bytes_equal(a->authentication_data, b->authentication_data) &&
           bytes_equal(a->response_information, b->response_information) &&
           bytes_equal(a->server_reference, b->server_reference) &&
           bytes_equal(a->reason_string, b->reason_string);
}

static int connect_equal(const struct mqtt_connect *a,
                         const struct mqtt_connect *b)
{
    return a->clean_start == b->clean_start && a->will_flag == b->will_flag &&
           a->will_qos == b->will_qos && a->will_retain == b->will_retain &&
           a->has_user_name == b->has_user_name &&
           a->has_password == b->has_password &&
           a->keep_alive == b->keep_alive &&
           bytes_equal(a->client_id, b->client_id) &&
           props_equal(&a->will_props, &b->will_props) &&
           bytes_equal(a->will_topic, b->will_topic) &&
           bytes_equal(a->will_payload, b->will_payload) &&
           bytes_equal(a->user_name, b->user_name) &&
           bytes_equal(a->password, b->password);
}

static int packet_equal(const struct mqtt_packet *a,
                        const struct mqtt_packet *b)
{
    return a->type == b->type && a->reason == b->reason &&
           a->session_present == b->session_present &&
           a->packet_id == b->packet_id && bytes_equal(a->list, b->list) &&
           props_equal(&a->props, &b->props) &&
           connect_equal(&a->connect, &b->connect) &&
           a->publish.dup == b->publish.dup &&
           a->publish.qos == b->publish.qos &&
           a->publish.retain == b->publish.retain &&
           a->publish.packet_id == b->publish.packet_id &&
           bytes_equal(a->publish.topic, b->publish.topic) &&
           bytes_equal(a->publish.payload, b->publish.payload);
}

/* ---------------------------------------------------------------------------
 * 2. Golden bytes
 * ------------------------------------------------------------------------- */

#define HAS(id) ((uint64_t)1 << (id))

/* A packet's bytes and the same packet as a struct; each was written by hand
 * from the packet's section. */
struct golden {
    const char *name;          /* of the test */
    enum mqtt_side from;       /* its sender */
    struct mqtt_bytes bytes;   /* the wire */
    struct mqtt_packet packet; /* its meaning, ready to be encoded */
};

static const uint32_t one_id[] = {5};
static const uint32_t two_ids[] = {1, 128};

static const struct golden goldens[] = {
    {"golden_connect_smallest", C,
     BYTES("\x10\x0D" "\0\4MQTT\5" "\x02" "\0\x3C" "\0" "\0\0"),
     {.type = MQTT_CONNECT,
      .connect = {.clean_start = 1, .keep_alive = 60}}},
    {"golden_connect_name_only", C,
     BYTES("\x10\x12" "\0\4MQTT\5" "\x80" "\0\0" "\0" "\0\1c" "\0\2us"),
     {.type = MQTT_CONNECT,
      .connect = {.has_user_name = 1, .client_id = BYTES("c"),
                  .user_name = BYTES("us")}}},
    {"golden_connect_password_only", C, /* 3.1.2.9: legal in 5.0 */
     BYTES("\x10\x11" "\0\4MQTT\5" "\x40" "\0\0" "\0" "\0\0" "\0\2\0\xFF"),
     {.type = MQTT_CONNECT,
      .connect = {.has_password = 1, .password = BYTES("\0\xFF")}}},
    {"golden_connect_will_qos_2", C,
     BYTES("\x10\x15" "\0\4MQTT\5" "\x14" "\0\x0A" "\0" "\0\1c"
           "\0" "\0\1w" "\0\1x"),
     {.type = MQTT_CONNECT,
      .connect = {.will_flag = 1, .will_qos = 2, .keep_alive = 10,
                  .client_id = BYTES("c"), .will_topic = BYTES("w"),
                  .will_payload = BYTES("x")}}},
    {"golden_connect_everything", C,
     BYTES("\x10\x68" "\0\4MQTT\5" "\xEE" "\0\x0A"
           "\x28" "\x11\0\0\x0E\x10" "\x15\0\5PLAIN" "\x16\0\2\1\2" "\x17\1"
           "\x19\1" "\x21\0\x14" "\x22\0\x0A" "\x27\0\1\0\0"
           "\x26\0\1k\0\1v"
           "\0\5" "dev-1"
           "\x1C" "\1\1" "\2\0\0\0\x3C" "\3\0\4text" "\x08\0\1r"
           "\x09\0\2\0\xFF" "\x18\0\0\0\5"
           "\0\3w/t" "\0\4gone" "\0\1u" "\0\1p"),
     {.type = MQTT_CONNECT,
      .props = {.has = HAS(0x11) | HAS(0x15) | HAS(0x16) | HAS(0x17) |
                       HAS(0x19) | HAS(0x21) | HAS(0x22) | HAS(0x26) |
                       HAS(0x27),
                .session_expiry_interval = 3600,
                .authentication_method = BYTES("PLAIN"),
                .authentication_data = BYTES("\1\2"),
                .request_problem_information = 1,
                .request_response_information = 1,
                .receive_maximum = 20,
                .topic_alias_maximum = 10,
                .maximum_packet_size = 65536,
                .verbatim = BYTES("\x26\0\1k\0\1v")},
      .connect = {.clean_start = 1, .will_flag = 1, .will_qos = 1,
                  .will_retain = 1, .has_user_name = 1, .has_password = 1,
                  .keep_alive = 10, .client_id = BYTES("dev-1"),
                  .will_props = {.has = HAS(1) | HAS(2) | HAS(3) | HAS(8) |
                                        HAS(9) | HAS(0x18),
                                 .payload_format_indicator = 1,
                                 .message_expiry_interval = 60,
                                 .content_type = BYTES("text"),
                                 .response_topic = BYTES("r"),
                                 .correlation_data = BYTES("\0\xFF"),
                                 .will_delay_interval = 5},
                  .will_topic = BYTES("w/t"), .will_payload = BYTES("gone"),
                  .user_name = BYTES("u"), .password = BYTES("p")}}},

    {"golden_connack_present", S, BYTES("\x20\3\1\0\0"),
     {.type = MQTT_CONNACK, .session_present = 1}},
    {"golden_connack_refused", S, BYTES("\x20\3\0\x87\0"),
     {.type = MQTT_CONNACK, .reason = 0x87}},
    {"golden_connack_everything", S,
     BYTES("\x20\x41" "\0\0"
           "\x3E" "\x11\xFF\xFF\xFF\xFF" "\x12\0\2id" "\x13\0\x1E"
           "\x15\0\1M" "\x16\0\1\0" "\x1A\0\1i" "\x1C\0\1s" "\x1F\0\2ok"
           "\x21\0\1" "\x22\xFF\xFF" "\x24\1" "\x25\0" "\x27\0\0\1\0"
           "\x28\1" "\x29\0" "\x2A\1" "\x26\0\1a\0\1b"),
     {.type = MQTT_CONNACK,
      .props = {.has = HAS(0x11) | HAS(0x12) | HAS(0x13) | HAS(0x15) |
                       HAS(0x16) | HAS(0x1A) | HAS(0x1C) | HAS(0x1F) |
                       HAS(0x21) | HAS(0x22) | HAS(0x24) | HAS(0x25) |
                       HAS(0x26) | HAS(0x27) | HAS(0x28) | HAS(0x29) |
                       HAS(0x2A),
                .session_expiry_interval = 0xFFFFFFFF,
                .assigned_client_identifier = BYTES("id"),
                .server_keep_alive = 30,
                .authentication_method = BYTES("M"),
                .authentication_data = BYTES("\0"),
                .response_information = BYTES("i"),
                .server_reference = BYTES("s"),
                .reason_string = BYTES("ok"),
                .receive_maximum = 1,
                .topic_alias_maximum = 65535,
                .maximum_qos = 1,
                .maximum_packet_size = 256,
                .wildcard_subscription_available = 1,
                .shared_subscription_available = 1,
                .verbatim = BYTES("\x26\0\1a\0\1b")}}},

    {"golden_publish_qos_0", C, BYTES("\x30\x08" "\0\3a/b" "\0" "hi"),
     {.type = MQTT_PUBLISH,
      .publish = {.topic = BYTES("a/b"), .payload = BYTES("hi")}}},
    {"golden_publish_qos_1_dup_retain", C,
     BYTES("\x3B\6" "\0\1a" "\0\7" "\0"),
     {.type = MQTT_PUBLISH,
      .publish = {.dup = 1, .qos = 1, .retain = 1, .packet_id = 7,
                  .topic = BYTES("a")}}},
    {"golden_publish_alias_only", C,
     BYTES("\x30\7" "\0\0" "\3\x23\0\1" "x"),
     {.type = MQTT_PUBLISH,
      .props = {.has = HAS(0x23), .topic_alias = 1},
      .publish = {.payload = BYTES("x")}}},
    {"golden_publish_everything", S,
     BYTES("\x34\x2D" "\0\1t" "\x12\x34"
           "\x25" "\1\1" "\2\0\0\0\x1E" "\3\0\1c" "\x08\0\3r/1"
           "\x09\0\3\1\2\3" "\x23\0\5" "\x0B\1" "\x0B\x80\1"
           "\x26\0\1k\0\0"
           "{}"),
     {.type = MQTT_PUBLISH,
      .props = {.has = HAS(1) | HAS(2) | HAS(3) | HAS(8) | HAS(9) |
                       HAS(0x0B) | HAS(0x23) | HAS(0x26),
                .payload_format_indicator = 1,
                .message_expiry_interval = 30,
                .content_type = BYTES("c"),
                .response_topic = BYTES("r/1"),
                .correlation_data = BYTES("\1\2\3"),
                .topic_alias = 5,
                .subscription_identifier = 1,
                .ids = two_ids, .id_count = 2,
                .verbatim = BYTES("\x26\0\1k\0\0")},
      .publish = {.qos = 2, .packet_id = 0x1234, .topic = BYTES("t"),
                  .payload = BYTES("{}")}}},

    {"golden_puback_short", C, BYTES("\x40\2\0\7"),
     {.type = MQTT_PUBACK, .packet_id = 7}},
    {"golden_puback_reason", S, BYTES("\x40\3\0\7\x10"),
     {.type = MQTT_PUBACK, .packet_id = 7, .reason = 0x10}},
    {"golden_puback_reason_string", C,
     BYTES("\x40\x09\0\7\x97\5\x1F\0\2no"),
     {.type = MQTT_PUBACK, .packet_id = 7, .reason = 0x97,
      .props = {.has = HAS(0x1F), .reason_string = BYTES("no")}}},
    {"golden_puback_success_with_string", S,
     BYTES("\x40\x09\0\7\0\5\x1F\0\2ok"),
     {.type = MQTT_PUBACK, .packet_id = 7,
      .props = {.has = HAS(0x1F), .reason_string = BYTES("ok")}}},
    {"golden_pubrec_short", C, BYTES("\x50\2\xFF\xFF"),
     {.type = MQTT_PUBREC, .packet_id = 65535}},
    {"golden_pubrec_reason", S, BYTES("\x50\3\0\1\x80"),
     {.type = MQTT_PUBREC, .packet_id = 1, .reason = 0x80}},
    {"golden_pubrel_short", C, BYTES("\x62\2\0\1"),
     {.type = MQTT_PUBREL, .packet_id = 1}},
    {"golden_pubrel_reason", C, BYTES("\x62\3\0\1\x92"),
     {.type = MQTT_PUBREL, .packet_id = 1, .reason = 0x92}},
    {"golden_pubcomp_short", S, BYTES("\x70\2\0\1"),
     {.type = MQTT_PUBCOMP, .packet_id = 1}},
    {"golden_pubcomp_user_property", S,
     BYTES("\x70\x0B\0\1\x92\7\x26\0\1a\0\1b"),
     {.type = MQTT_PUBCOMP, .packet_id = 1, .reason = 0x92,
      .props = {.has = HAS(0x26), .verbatim = BYTES("\x26\0\1a\0\1b")}}},

    {"golden_subscribe", C,
     BYTES("\x82\x18\0\x0A\2\x0B\5" "\0\3a/#\x2D" "\0\x0A$share/g/t\2"),
     {.type = MQTT_SUBSCRIBE, .packet_id = 10,
      .props = {.has = HAS(0x0B), .subscription_identifier = 5,
                .ids = one_id, .id_count = 1},
      .list = BYTES("\0\3a/#\x2D" "\0\x0A$share/g/t\2")}},
    {"golden_suback", S, BYTES("\x90\7\0\x0A\0\0\1\2\x80"),
     {.type = MQTT_SUBACK, .packet_id = 10, .list = BYTES("\0\1\2\x80")}},
    {"golden_unsubscribe", C, BYTES("\xA2\x0B\0\x0B\0" "\0\1a" "\0\3b/+"),
     {.type = MQTT_UNSUBSCRIBE, .packet_id = 11,
      .list = BYTES("\0\1a" "\0\3b/+")}},
    {"golden_unsuback", S, BYTES("\xB0\5\0\x0B\0\0\x11"),
     {.type = MQTT_UNSUBACK, .packet_id = 11, .list = BYTES("\0\x11")}},

    {"golden_pingreq", C, BYTES("\xC0\0"), {.type = MQTT_PINGREQ}},
    {"golden_pingresp", S, BYTES("\xD0\0"), {.type = MQTT_PINGRESP}},

    {"golden_disconnect_short", C, BYTES("\xE0\0"),
     {.type = MQTT_DISCONNECT}},
    {"golden_disconnect_reason", C, BYTES("\xE0\1\4"),
     {.type = MQTT_DISCONNECT, .reason = 4}},
    {"golden_disconnect_expiry", C, BYTES("\xE0\7\0\5\x11\0\0\0\0"),
     {.type = MQTT_DISCONNECT, .props = {.has = HAS(0x11)}}},
    {"golden_disconnect_moved", S,
     BYTES("\xE0\x0D\x9D\x0B\x1C\0\3s:1\x1F\0\2mv"),
     {.type = MQTT_DISCONNECT, .reason = 0x9D,
      .props = {.has = HAS(0x1C) | HAS(0x1F),
                .server_reference = BYTES("s:1"),
                .reason_string = BYTES("mv")}}},

    {"golden_auth_short", S, BYTES("\xF0\0"), {.type = MQTT_AUTH}},
    {"golden_auth_continue", S,
     BYTES("\xF0\x0B\x18\x09\x15\0\1M\x16\0\2\xAA\xBB"),
     {.type = MQTT_AUTH, .reason = 0x18,
      .props = {.has = HAS(0x15) | HAS(0x16),
                .authentication_method = BYTES("M"),
                .authentication_data = BYTES("\xAA\xBB")}}},
    {"golden_auth_again", C, BYTES("\xF0\6\x19\4\x15\0\1M"),
     {.type = MQTT_AUTH, .reason = 0x19,
      .props = {.has = HAS(0x15), .authentication_method = BYTES("M")}}},
};

static void golden_decodes(const struct golden *g)
{
    struct mqtt_packet packet;
    struct mqtt_error err;
    uint8_t *p = exact(g->bytes.p, g->bytes.n);

    if (decode(&packet, p, g->bytes.n, g->from, &err) < 0)
        fail_msg("refused at %u: %s", (unsigned)err.offset, err.what);
    assert_true(packet_equal(&packet, &g->packet));
    free(p);
}

static void golden_encodes(const struct golden *g)
{
    uint8_t *out = exact(g->bytes.p, g->bytes.n);

    memset(out, 0xA5, g->bytes.n);
    assert_int_equal(mqtt_packet_encode(&g->packet, out, g->bytes.n),
                     g->bytes.n);
    assert_memory_equal(out, g->bytes.p, g->bytes.n);
    free(out);
}

/* With one byte too few the size comes back and nothing is written. */
static void golden_needs_room(const struct golden *g)
{
    for (size_t cap = 0; cap < g->bytes.n; cap++) {
        uint8_t *out = exact(g->bytes.p, cap);
        memset(out, 0xA5, cap);
        assert_int_equal(mqtt_packet_encode(&g->packet, out, cap), g->bytes.n);
        for (size_t i = 0; i < cap; i++)
            assert_int_equal(out[i], 0xA5);
        free(out);
    }
}

/* Every truncation: more is asked for, and the decoder refuses. */
static void golden_cut(const struct golden *g)
{
    for (size_t n = 0; n < g->bytes.n; n++) {
        struct mqtt_packet packet;
        struct mqtt_error err;
        size_t size = 0;
        uint8_t *p = exact(g->bytes.p, n);
        assert_int_equal(mqtt_frame_find(p, n, 1000, g->from, &size, &err),
                         MQTT_FRAME_MORE);
        assert_int_equal(decode(&packet, p, n, g->from, &err), -1);
        assert_int_equal(err.reason, MQTT_MALFORMED_PACKET);
        free(p);
    }
}

/* The same truncations with a Remaining Length that agrees with them: the
 * fields themselves are cut.  Some are legal packets of their own. */
static void golden_cut_inside(const struct golden *g)
{
    for (size_t n = 2; n < g->bytes.n; n++) {
        struct mqtt_packet packet;
        struct mqtt_error err;
        uint8_t *p = exact(g->bytes.p, n);
        p[1] = (uint8_t)(n - 2); /* all goldens are below 128 bytes */
        decode(&packet, p, n, g->from, &err);
        free(p);
    }
}

static void golden_frames(const struct golden *g)
{
    struct mqtt_error err;
    size_t size = 0, n = g->bytes.n;
    uint8_t *p = exact(g->bytes.p, n);

    assert_int_equal(
        mqtt_frame_find(p, n, (uint32_t)n, g->from, &size, &err),
        MQTT_FRAME_COMPLETE);
    assert_int_equal(size, n);
    assert_int_equal(
        mqtt_frame_find(p, 2, (uint32_t)n - 1, g->from, &size, &err),
        MQTT_FRAME_TOO_LARGE);
    assert_int_equal(err.reason, MQTT_PACKET_TOO_LARGE);
    error_check(&err, n);
    free(p);
}

static void golden_test(void **state)
{
    const struct golden *g = *state;

    golden_decodes(g);
    golden_encodes(g);
    golden_needs_room(g);
    golden_cut(g);
    golden_cut_inside(g);
    golden_frames(g);
}

/* Fifty packets in one read are found one after the other. */
static void test_many_packets_in_one_read(void **state)
{
    uint8_t all[4096];
    size_t n = 0, at = 0;

    (void)state;
    for (size_t i = 0; i < COUNT(goldens); i++) {
        if (goldens[i].from != C)
            continue;
        memcpy(all + n, goldens[i].bytes.p, goldens[i].bytes.n);
        n += goldens[i].bytes.n;
    }
    for (size_t i = 0; i < COUNT(goldens); i++) {
        struct mqtt_packet packet;
        struct mqtt_error err;
        size_t size = 0;
        if (goldens[i].from != C)
            continue;
        assert_int_equal(
            mqtt_frame_find(all + at, n - at, 1000, C, &size, &err),
            MQTT_FRAME_COMPLETE);
        assert_int_equal(decode(&packet, all + at, size, C, &err), 0);
        assert_true(packet_equal(&packet, &goldens[i].packet));
        at += size;
    }
    assert_int_equal(at, n);
}

/* Forms that are legal but not the shortest: read, and written shorter. */
static void test_longer_legal_forms(void **state)
{
    static const struct {
        enum mqtt_side from;    /* sender */
        struct mqtt_bytes wire; /* as received */
        struct mqtt_bytes best; /* as this codec writes it */
    } cases[] = {
        {C, BYTES("\x40\3\0\7\0"), BYTES("\x40\2\0\7")},
        {C, BYTES("\x40\4\0\7\0\0"), BYTES("\x40\2\0\7")},
        {C, BYTES("\x50\4\0\7\x80\0"), BYTES("\x50\3\0\7\x80")},
        {C, BYTES("\xE0\1\0"), BYTES("\xE0\0")},
        {C, BYTES("\xE0\2\0\0"), BYTES("\xE0\0")},
        {C, BYTES("\xE0\2\4\0"), BYTES("\xE0\1\4")},
        {S, BYTES("\xF0\2\0\0"), BYTES("\xF0\0")},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct mqtt_packet packet;
        struct mqtt_error err;
        uint8_t out[16];
        assert_int_equal(decode(&packet, cases[i].wire.p, cases[i].wire.n,
                                cases[i].from, &err),
                         0);
        assert_int_equal(mqtt_packet_encode(&packet, out, sizeof out),
                         cases[i].best.n);
        assert_memory_equal(out, cases[i].best.p, cases[i].best.n);
    }
}

/* ---------------------------------------------------------------------------
 * 3. Refusals
 * ------------------------------------------------------------------------- */

/* A wrong packet, and exactly what must be said about it. */
struct refusal {
    const char *name;        /* of the test */
    enum mqtt_side from;     /* sender */
    struct mqtt_bytes bytes; /* the packet */
    uint8_t reason;          /* Reason Code */
    const char *statement;   /* "" where none covers it */
    size_t offset;           /* of the offending byte */
};

/* CONNECT up to the Connect Flags. */
#define HELLO "\0\4MQTT\5"

static const struct refusal refusals[] = {
    /* 1.5: data types */
    {"test_mqtt_1_5_4_1_reason_string", C,
     BYTES("\x40\x09\0\7\0\5\x1F\0\2a\xFF"), 0x81, "MQTT-1.5.4-1", 10},
    {"test_mqtt_1_5_4_2_reason_string", C,
     BYTES("\x40\x09\0\7\0\5\x1F\0\2\0a"), 0x81, "MQTT-1.5.4-2", 9},
    {"test_mqtt_1_5_4_2_client_id", C,
     BYTES("\x10\x0E" HELLO "\2\0\0\0" "\0\1\0"), 0x81, "MQTT-1.5.4-2", 15},
    {"test_mqtt_1_5_5_1_remaining_length", C, BYTES("\xC0\x80\0"), 0x81,
     "MQTT-1.5.5-1", 1},
    {"test_mqtt_1_5_5_1_property_length", C,
     BYTES("\x30\5\0\1a\x80\0"), 0x81, "MQTT-1.5.5-1", 5},
    {"test_mqtt_1_5_5_1_identifier", C,
     BYTES("\x30\7\0\1a\3\x81\0\1"), 0x81, "MQTT-1.5.5-1", 6},
    {"test_mqtt_1_5_5_1_subscription_identifier", C,
     BYTES("\x82\x0A\0\1\3\x0B\x85\0\0\1a\0"), 0x81, "MQTT-1.5.5-1", 6},
    {"remaining_length_of_five_bytes", C,
     BYTES("\x30\x80\x80\x80\x80\1"), 0x81, "", 1},
    {"property_length_of_five_bytes", C,
     BYTES("\x30\x08\0\1a\xFF\xFF\xFF\xFF\1"), 0x81, "", 5},
    {"test_mqtt_1_5_7_1_pair_name", C,
     BYTES("\x40\x0B\0\7\0\7\x26\0\1\x80\0\1v"), 0x81, "MQTT-1.5.7-1", 9},
    {"test_mqtt_1_5_7_1_pair_value", C,
     BYTES("\x40\x0B\0\7\0\7\x26\0\1k\0\1\0"), 0x81, "MQTT-1.5.7-1", 12},
    {"pair_without_value", C,
     BYTES("\x40\x08\0\7\0\4\x26\0\1k"), 0x81, "", 10},

    /* 2.1: the fixed header */
    {"type_0", C, BYTES("\0\0"), 0x81, "", 0},
    {"connack_from_client", C, BYTES("\x20\3\0\0\0"), 0x82, "", 0},
    {"subscribe_from_server", S, BYTES("\x82\x06\0\1\0\0\1a"), 0x82, "", 0},
    {"pingresp_from_client", C, BYTES("\xD0\0"), 0x82, "", 0},
    {"test_mqtt_2_1_3_1_pingreq", C, BYTES("\xC1\0"), 0x81, "MQTT-2.1.3-1",
     0},
    {"test_mqtt_2_1_3_1_connect", C, BYTES("\x11\0"), 0x81, "MQTT-2.1.3-1",
     0},
    {"test_mqtt_2_1_3_1_puback", C, BYTES("\x42\2\0\1"), 0x81,
     "MQTT-2.1.3-1", 0},
    {"test_mqtt_2_1_3_1_pubrec", C, BYTES("\x52\2\0\1"), 0x81,
     "MQTT-2.1.3-1", 0},
    {"test_mqtt_2_1_3_1_pubcomp", C, BYTES("\x72\2\0\1"), 0x81,
     "MQTT-2.1.3-1", 0},
    {"test_mqtt_2_1_3_1_connack", S, BYTES("\x21\3\0\0\0"), 0x81,
     "MQTT-2.1.3-1", 0},
    {"test_mqtt_2_1_3_1_suback", S, BYTES("\x92\4\0\1\0\0"), 0x81,
     "MQTT-2.1.3-1", 0},
    {"test_mqtt_2_1_3_1_unsuback", S, BYTES("\xB2\4\0\1\0\0"), 0x81,
     "MQTT-2.1.3-1", 0},
    {"test_mqtt_2_1_3_1_pingresp", S, BYTES("\xD1\0"), 0x81,
     "MQTT-2.1.3-1", 0},
    {"test_mqtt_3_6_1_1_pubrel", C, BYTES("\x60\2\0\1"), 0x81,
     "MQTT-3.6.1-1", 0},
    {"test_mqtt_3_8_1_1_subscribe", C, BYTES("\x80\6\0\1\0\0\1a\0"), 0x81,
     "MQTT-3.8.1-1", 0},
    {"test_mqtt_3_10_1_1_unsubscribe", C, BYTES("\xA3\6\0\1\0\0\1a"), 0x81,
     "MQTT-3.10.1-1", 0},
    {"test_mqtt_3_14_1_1_disconnect", C, BYTES("\xE1\0"), 0x81,
     "MQTT-3.14.1-1", 0},
    {"test_mqtt_3_15_1_1_auth", C, BYTES("\xF2\0"), 0x81, "MQTT-3.15.1-1",
     0},
    {"pingreq_with_a_body", C, BYTES("\xC0\1\0"), 0x81, "", 1},
    {"pingresp_with_a_body", S, BYTES("\xD0\1\0"), 0x81, "", 1},
    {"bytes_behind_the_packet", C, BYTES("\xC0\0\0"), 0x81, "", 2},

    /* 2.2: Packet Identifier and properties */
    {"test_mqtt_2_2_1_3_publish", C, BYTES("\x32\6\0\1a\0\0\0"), 0x82,
     "MQTT-2.2.1-3", 5},
    {"test_mqtt_2_2_1_3_subscribe", C, BYTES("\x82\7\0\0\0\0\1a\0"), 0x82,
     "MQTT-2.2.1-3", 2},
    {"test_mqtt_2_2_1_3_unsubscribe", C, BYTES("\xA2\6\0\0\0\0\1a"), 0x82,
     "MQTT-2.2.1-3", 2},
    {"test_mqtt_2_2_1_4_publish", S, BYTES("\x34\6\0\1a\0\0\0"), 0x82,
     "MQTT-2.2.1-4", 5},
    {"test_mqtt_2_2_1_5_puback", C, BYTES("\x40\2\0\0"), 0x82,
     "MQTT-2.2.1-5", 2},
    {"test_mqtt_2_2_1_5_pubrel", C, BYTES("\x62\2\0\0"), 0x82,
     "MQTT-2.2.1-5", 2},
    {"test_mqtt_2_2_1_5_pubrec", C, BYTES("\x50\2\0\0"), 0x82,
     "MQTT-2.2.1-5", 2},
    {"test_mqtt_2_2_1_5_pubcomp", C, BYTES("\x70\2\0\0"), 0x82,
     "MQTT-2.2.1-5", 2},
    {"test_mqtt_2_2_1_6_suback", S, BYTES("\x90\4\0\0\0\0"), 0x82,
     "MQTT-2.2.1-6", 2},
    {"test_mqtt_2_2_1_6_unsuback", S, BYTES("\xB0\4\0\0\0\0"), 0x82,
     "MQTT-2.2.1-6", 2},
    {"packet_identifier_cut", C, BYTES("\x40\1\0"), 0x81, "", 2},
    {"test_mqtt_2_2_2_1_publish", C, BYTES("\x30\3\0\1a"), 0x81,
     "MQTT-2.2.2-1", 5},
    {"test_mqtt_2_2_2_1_subscribe", C, BYTES("\x82\2\0\1"), 0x81,
     "MQTT-2.2.2-1", 4},
    {"test_mqtt_2_2_2_1_connack", S, BYTES("\x20\2\0\0"), 0x81,
     "MQTT-2.2.2-1", 4},
    {"test_mqtt_2_2_2_1_auth", S, BYTES("\xF0\1\0"), 0x81, "MQTT-2.2.2-1",
     3},
    {"property_length_over_the_packet", C, BYTES("\x30\5\0\1a\2\1"), 0x81,
     "", 5},
    {"property_over_its_section", C,
     BYTES("\x30\x09\0\1a\2\2\0\0\0\1"), 0x81, "", 7},
    {"string_over_its_section", C,
     BYTES("\x30\x09\0\1a\3\3\0\2xy"), 0x81, "", 7},
    {"property_identifier_unknown", C, BYTES("\x30\6\0\1a\2\4\0"), 0x81, "",
     6},
    {"property_identifier_two_bytes", C,
     BYTES("\x30\7\0\1a\3\x81\1\0"), 0x81, "", 6},
    {"property_identifier_zero", C, BYTES("\x30\6\0\1a\2\0\0"), 0x81, "", 6},

    /* 3.1: CONNECT */
    {"test_mqtt_3_1_2_1_name", C,
     BYTES("\x10\x0D\0\4mqtt\5\2\0\0\0\0\0"), 0x84, "MQTT-3.1.2-1", 2},
    {"test_mqtt_3_1_2_1_old_name", C,
     BYTES("\x10\x0E\0\6MQIsdp\3\2\0\0\0\0"), 0x84, "MQTT-3.1.2-1", 2},
    {"test_mqtt_3_1_2_1_name_cut", C, BYTES("\x10\4\0\4MQ"), 0x81,
     "MQTT-3.1.2-1", 2},
    {"test_mqtt_3_1_2_2_version_cut", C, BYTES("\x10\6\0\4MQTT"), 0x81,
     "MQTT-3.1.2-2", 8},
    {"test_mqtt_3_1_2_2_version_4", C,
     BYTES("\x10\x0C\0\4MQTT\4\2\0\0\0\0"), 0x84, "MQTT-3.1.2-2", 8},
    {"test_mqtt_3_1_2_2_version_6", C,
     BYTES("\x10\x0D\0\4MQTT\6\2\0\0\0\0\0"), 0x84, "MQTT-3.1.2-2", 8},
    {"test_mqtt_3_1_2_3_reserved_flag", C,
     BYTES("\x10\x0D" HELLO "\3\0\0\0\0\0"), 0x81, "MQTT-3.1.2-3", 9},
    {"test_mqtt_3_1_2_9_no_will", C,
     BYTES("\x10\x0D" HELLO "\6\0\0\0\0\0"), 0x81, "MQTT-3.1.2-9", 15},
    {"test_mqtt_3_1_2_9_no_will_topic", C,
     BYTES("\x10\x0E" HELLO "\6\0\0\0\0\0\0"), 0x81, "MQTT-3.1.2-9", 16},
    {"test_mqtt_3_1_2_9_no_will_payload", C,
     BYTES("\x10\x11" HELLO "\6\0\0\0\0\0\0\0\1w"), 0x81, "MQTT-3.1.2-9",
     19},
    {"test_mqtt_3_1_2_11_qos_without_will", C,
     BYTES("\x10\x0D" HELLO "\x0A\0\0\0\0\0"), 0x81, "MQTT-3.1.2-11", 9},
    {"test_mqtt_3_1_2_12_will_qos_3", C,
     BYTES("\x10\x14" HELLO "\x1E\0\0\0\0\0\0\0\1w\0\1x"), 0x81,
     "MQTT-3.1.2-12", 9},
    {"test_mqtt_3_1_2_13_retain_without_will", C,
     BYTES("\x10\x0D" HELLO "\x22\0\0\0\0\0"), 0x81, "MQTT-3.1.2-13", 9},
    {"test_mqtt_3_1_2_16_user_name_unflagged", C,
     BYTES("\x10\x10" HELLO "\2\0\0\0\0\0\0\1u"), 0x81, "MQTT-3.1.2-16",
     15},
    {"test_mqtt_3_1_2_17_no_user_name", C,
     BYTES("\x10\x0D" HELLO "\x82\0\0\0\0\0"), 0x81, "MQTT-3.1.2-17", 15},
    {"test_mqtt_3_1_2_18_password_unflagged", C,
     BYTES("\x10\x13" HELLO "\x82\0\0\0\0\0\0\1u\0\1p"), 0x81,
     "MQTT-3.1.2-18", 18},
    {"test_mqtt_3_1_2_19_no_password", C,
     BYTES("\x10\x0D" HELLO "\x42\0\0\0\0\0"), 0x81, "MQTT-3.1.2-19", 15},
    {"connect_bytes_left_over", C,
     BYTES("\x10\x11" HELLO "\x42\0\0\0\0\0\0\1pX"), 0x81, "", 18},
    {"test_mqtt_3_1_3_3_no_client_id", C,
     BYTES("\x10\x0B" HELLO "\2\0\0\0"), 0x81, "MQTT-3.1.3-3", 13},
    {"test_mqtt_3_1_3_4_client_id", C,
     BYTES("\x10\x10" HELLO "\2\0\0\0\0\3\xED\xA0\x80"), 0x81,
     "MQTT-3.1.3-4", 15},
    {"test_mqtt_3_1_3_11_will_topic", C,
     BYTES("\x10\x14" HELLO "\6\0\0\0\0\0\0\0\2\xC3(\0\0"), 0x81,
     "MQTT-3.1.3-11", 18},
    {"test_mqtt_3_1_3_12_user_name", C,
     BYTES("\x10\x11" HELLO "\x82\0\0\0\0\0\0\2u\xC0"), 0x81,
     "MQTT-3.1.3-12", 18},
    {"test_mqtt_4_7_0_1_will_topic", C,
     BYTES("\x10\x15" HELLO "\6\0\0\0\0\0\0\0\3w/#\0\0"), 0x90,
     "MQTT-4.7.0-1", 20},
    {"test_mqtt_4_7_3_1_will_topic", C,
     BYTES("\x10\x12" HELLO "\6\0\0\0\0\0\0\0\0\0\0"), 0x90, "MQTT-4.7.3-1",
     16},
    {"test_mqtt_4_7_3_2_will_topic", C,
     BYTES("\x10\x14" HELLO "\6\0\0\0\0\0\0\0\2w\0\0\0"), 0x81,
     "MQTT-4.7.3-2", 19},
    {"authentication_data_without_method", C,
     BYTES("\x10\x13" HELLO "\2\0\0\6\x21\0\1\x16\0\0\0\0"), 0x82, "", 16},

    /* 3.2: CONNACK */
    {"test_mqtt_3_2_2_1_flags", S, BYTES("\x20\3\2\0\0"), 0x81,
     "MQTT-3.2.2-1", 2},
    {"test_mqtt_3_2_2_6_present_but_refused", S, BYTES("\x20\3\1\x80\0"),
     0x82, "MQTT-3.2.2-6", 2},
    {"test_mqtt_3_2_2_8_reason", S, BYTES("\x20\3\0\x8D\0"), 0x82,
     "MQTT-3.2.2-8", 3},

    /* 3.3: PUBLISH */
    {"test_mqtt_3_3_1_2_dup_at_qos_0", C, BYTES("\x38\4\0\1a\0"), 0x81,
     "MQTT-3.3.1-2", 0},
    {"test_mqtt_3_3_1_4_qos_3", C, BYTES("\x36\6\0\1a\0\1\0"), 0x81,
     "MQTT-3.3.1-4", 0},
    {"test_mqtt_3_3_2_1_topic_utf8", C, BYTES("\x30\5\0\2\xC3(\0"), 0x81,
     "MQTT-3.3.2-1", 4},
    {"test_mqtt_3_3_2_1_topic_cut", C, BYTES("\x30\4\0\x09" "a\0"), 0x81,
     "MQTT-3.3.2-1", 2},
    {"test_mqtt_3_3_2_2_wildcard", C, BYTES("\x30\6\0\3a/+\0"), 0x90,
     "MQTT-3.3.2-2", 6},
    {"test_mqtt_3_3_2_8_alias_0", C, BYTES("\x30\7\0\1a\3\x23\0\0"), 0x94,
     "MQTT-3.3.2-8", 7},
    {"test_mqtt_3_3_2_13_response_topic_utf8", C,
     BYTES("\x30\x08\0\1a\4\x08\0\1\xFF"), 0x81, "MQTT-3.3.2-13", 9},
    {"test_mqtt_3_3_2_14_response_topic", C,
     BYTES("\x30\x0A\0\1a\6\x08\0\3r/#"), 0x82, "MQTT-3.3.2-14", 11},
    {"test_mqtt_3_3_2_14_will_response_topic", C,
     BYTES("\x10\x17" HELLO "\6\0\0\0\0\0\4\x08\0\1+\0\1w\0\0"), 0x82,
     "MQTT-3.3.2-14", 19},
    {"test_mqtt_4_7_3_1_response_topic", C,
     BYTES("\x30\7\0\1a\3\x08\0\0"), 0x82, "MQTT-4.7.3-1", 6},
    {"test_mqtt_3_3_2_19_content_type_utf8", C,
     BYTES("\x30\x08\0\1a\4\3\0\1\x80"), 0x81, "MQTT-3.3.2-19", 9},
    {"test_mqtt_3_3_4_6_subscription_identifier", C,
     BYTES("\x30\6\0\1a\2\x0B\1"), 0x82, "MQTT-3.3.4-6", 6},
    {"test_mqtt_4_7_3_1_topic", C, BYTES("\x30\3\0\0\0"), 0x82,
     "MQTT-4.7.3-1", 2},
    {"test_mqtt_4_7_3_2_topic", C, BYTES("\x30\6\0\3a\0b\0"), 0x81,
     "MQTT-4.7.3-2", 5},

    /* 3.4 to 3.7: the acknowledgements */
    {"test_mqtt_3_4_2_1_reason", C, BYTES("\x40\3\0\1\1"), 0x82,
     "MQTT-3.4.2-1", 4},
    {"test_mqtt_3_4_2_1_server_only_reason", C, BYTES("\x40\3\0\1\x10"),
     0x82, "MQTT-3.4.2-1", 4},
    {"test_mqtt_3_5_2_1_reason", C, BYTES("\x50\3\0\1\x92"), 0x82,
     "MQTT-3.5.2-1", 4},
    {"test_mqtt_3_6_2_1_reason", C, BYTES("\x62\3\0\1\x80"), 0x82,
     "MQTT-3.6.2-1", 4},
    {"test_mqtt_3_7_2_1_reason", C, BYTES("\x70\3\0\1\x97"), 0x82,
     "MQTT-3.7.2-1", 4},
    {"puback_bytes_left_over", C, BYTES("\x40\5\0\1\0\0X"), 0x81, "", 6},

    /* 3.8 to 3.11: subscribing */
    {"test_mqtt_3_8_3_1_filter", C, BYTES("\x82\7\0\1\0\0\1\xC1\0"), 0x81,
     "MQTT-3.8.3-1", 7},
    {"test_mqtt_3_8_3_2_no_filter", C, BYTES("\x82\3\0\1\0"), 0x82,
     "MQTT-3.8.3-2", 5},
    {"test_mqtt_3_8_3_4_no_local_shared", C,
     BYTES("\x82\x10\0\1\0\0\x0A$share/g/t\4"), 0x82, "MQTT-3.8.3-4", 17},
    {"test_mqtt_3_8_3_5_reserved_bit_6", C, BYTES("\x82\7\0\1\0\0\1a\x40"),
     0x81, "MQTT-3.8.3-5", 8},
    {"test_mqtt_3_8_3_5_reserved_bit_7", C,
     BYTES("\x82\x0B\0\1\0\0\1a\0\0\1b\x80"), 0x81, "MQTT-3.8.3-5", 12},
    {"subscribe_qos_3", C, BYTES("\x82\7\0\1\0\0\1a\3"), 0x82, "", 8},
    {"subscribe_retain_handling_3", C, BYTES("\x82\7\0\1\0\0\1a\x30"), 0x82,
     "", 8},
    {"test_mqtt_3_8_3_2_options_cut", C, BYTES("\x82\6\0\1\0\0\1a"), 0x81,
     "MQTT-3.8.3-2", 8},
    {"subscribe_filter_cut", C, BYTES("\x82\x08\0\1\0\0\1a\0\0"), 0x81, "",
     9},
    {"test_mqtt_4_7_3_2_filter", C, BYTES("\x82\7\0\1\0\0\1\0\0"), 0x81,
     "MQTT-4.7.3-2", 7},
    {"test_mqtt_3_9_3_2_reason", S, BYTES("\x90\5\0\1\0\0\3"), 0x82,
     "MQTT-3.9.3-2", 6},
    {"test_mqtt_3_9_3_2_none", S, BYTES("\x90\3\0\1\0"), 0x82,
     "MQTT-3.9.3-2", 5},
    {"test_mqtt_3_10_3_1_filter", C, BYTES("\xA2\6\0\1\0\0\1\xFF"), 0x81,
     "MQTT-3.10.3-1", 7},
    {"test_mqtt_3_10_3_2_no_filter", C, BYTES("\xA2\3\0\1\0"), 0x82,
     "MQTT-3.10.3-2", 5},
    {"unsubscribe_filter_cut", C, BYTES("\xA2\6\0\1\0\0\2a"), 0x81, "", 5},
    {"test_mqtt_4_7_3_2_unsubscribe", C, BYTES("\xA2\6\0\1\0\0\1\0"), 0x81,
     "MQTT-4.7.3-2", 7},
    {"test_mqtt_3_11_3_2_reason", S, BYTES("\xB0\4\0\1\0\1"), 0x82,
     "MQTT-3.11.3-2", 5},

    /* 3.14 and 3.15 */
    {"test_mqtt_3_14_2_1_reason", C, BYTES("\xE0\1\x8E"), 0x82,
     "MQTT-3.14.2-1", 2},
    {"test_mqtt_3_14_2_1_will_from_server", S, BYTES("\xE0\1\4"), 0x82,
     "MQTT-3.14.2-1", 2},
    {"test_mqtt_3_14_2_2_expiry_from_server", S,
     BYTES("\xE0\7\0\5\x11\0\0\0\0"), 0x82, "MQTT-3.14.2-2", 4},
    {"disconnect_bytes_left_over", C, BYTES("\xE0\3\0\0X"), 0x81, "", 4},
    {"test_mqtt_3_15_2_1_success_from_client", C, BYTES("\xF0\0"), 0x82,
     "MQTT-3.15.2-1", 0},
    {"test_mqtt_3_15_2_1_again_from_server", S,
     BYTES("\xF0\6\x19\4\x15\0\1M"), 0x82, "MQTT-3.15.2-1", 2},
    {"auth_without_method", S, BYTES("\xF0\2\x18\0"), 0x82, "", 2},
};

static void refusal_test(void **state)
{
    const struct refusal *r = *state;
    struct mqtt_packet packet;
    struct mqtt_error err;
    uint8_t *p = exact(r->bytes.p, r->bytes.n);

    assert_int_equal(decode(&packet, p, r->bytes.n, r->from, &err), -1);
    assert_int_equal(err.reason, r->reason);
    assert_string_equal(err.statement, r->statement);
    assert_int_equal(err.offset, r->offset);
    assert_int_equal(packet.type, r->bytes.p[0] >> 4);
    free(p);
}

/* A refused packet still tells its Packet Identifier, for the answer. */
static void test_packet_id_survives_refusal(void **state)
{
    static const struct mqtt_bytes publish =
        BYTES("\x32\x08\0\3a/#\0\x2A\0");
    static const struct mqtt_bytes subscribe =
        BYTES("\x82\7\0\x2A\0\0\1a\x40");
    struct mqtt_packet packet;
    struct mqtt_error err;

    (void)state;
    assert_int_equal(decode(&packet, publish.p, publish.n, C, &err), -1);
    assert_int_equal(err.reason, MQTT_TOPIC_NAME_INVALID);
    assert_int_equal(packet.publish.packet_id, 42);
    assert_int_equal(packet.publish.qos, 1);
    assert_int_equal(decode(&packet, subscribe.p, subscribe.n, C, &err), -1);
    assert_int_equal(packet.packet_id, 42);
}

/* What the codec leaves to the server: the syntax of filters, and a payload
 * that is not the UTF-8 that its indicator promises. */
static void test_left_to_the_server(void **state)
{
    static const struct mqtt_bytes filters =
        BYTES("\x82\x19\0\1\0" "\0\2a#\0" "\0\0\0" "\0\7$share/\4"
              "\0\1+\0");
    static const struct mqtt_bytes payload =
        BYTES("\x30\7\0\1a\2\1\1\xFF");
    struct mqtt_packet packet;
    struct mqtt_error err;

    (void)state;
    /* the third filter is shared by its prefix: No Local is refused */
    assert_int_equal(decode(&packet, filters.p, filters.n, C, &err), -1);
    assert_string_equal(err.statement, "MQTT-3.8.3-4");
    uint8_t *p = exact(filters.p, filters.n);
    p[22] = 0;
    assert_int_equal(decode(&packet, p, filters.n, C, &err), 0);
    assert_int_equal(packet.list.n, 22);
    free(p);
    assert_int_equal(decode(&packet, payload.p, payload.n, C, &err), 0);
    assert_int_equal(packet.publish.payload.n, 1);
}

/* [MQTT-1.5.4-3]: U+FEFF is kept where it stands. */
static void test_mqtt_1_5_4_3_kept(void **state)
{
    static const struct mqtt_bytes wire =
        BYTES("\x30\7\0\4\xEF\xBB\xBF" "a\0");
    struct mqtt_packet packet;
    struct mqtt_error err;

    (void)state;
    assert_int_equal(decode(&packet, wire.p, wire.n, C, &err), 0);
    assert_int_equal(packet.publish.topic.n, 4);
    assert_memory_equal(packet.publish.topic.p, "\xEF\xBB\xBF" "a", 4);
}

/* ---------------------------------------------------------------------------
 * 4. Framing
 * ------------------------------------------------------------------------- */

static enum mqtt_frame frame(const char *bytes, size_t n, uint32_t maximum,
                             enum mqtt_side from, struct mqtt_error *err)
{
    uint8_t *p = exact((const uint8_t *)bytes, n);
    size_t size = 0;
    enum mqtt_frame f = mqtt_frame_find(p, n, maximum, from, &size, err);
    free(p);
    return f;
}

/* Each first byte is judged alone, before anything follows.  The list is
 * table 2-1 and table 2-2 as text: C client, S server, B both. */
static void test_mqtt_2_1_3_1_every_first_byte(void **state)
{
    static const char side[] = "-CSBBBBBCSCSCSBB";
    static const unsigned fixed[16] = {[6] = 2, [8] = 2, [10] = 2};

    (void)state;
    for (unsigned b = 0; b < 256; b++)
        for (unsigned from = 0; from < 2; from++) {
            char byte = (char)b;
            struct mqtt_error err;
            unsigned type = b >> 4, flags = b & 15;
            int good = side[type] == 'B' || side[type] == "CS"[from];
            if (type == MQTT_PUBLISH)
                good &= (flags & 6) != 6 && flags != 8 && flags != 9;
            else
                good &= flags == fixed[type];
            assert_int_equal(frame(&byte, 1, 100, (enum mqtt_side)from, &err),
                             good ? MQTT_FRAME_MORE : MQTT_FRAME_MALFORMED);
        }
}

static void test_mqtt_1_5_5_1_shortest_length(void **state)
{
    static const struct {
        struct mqtt_bytes bytes; /* the beginning of a PUBLISH */
        enum mqtt_frame frame;   /* what it is */
    } cases[] = {
        {BYTES(""), MQTT_FRAME_MORE},
        {BYTES("\x30"), MQTT_FRAME_MORE},
        {BYTES("\x30\x80"), MQTT_FRAME_MORE},
        {BYTES("\x30\x80\x80\x80"), MQTT_FRAME_MORE},
        {BYTES("\x30\x80\1"), MQTT_FRAME_MORE},
        {BYTES("\x30\xFF\xFF\xFF\x7F"), MQTT_FRAME_MORE},
        {BYTES("\x30\x80\x80\x80\x80"), MQTT_FRAME_MALFORMED},
        {BYTES("\x30\xFF\xFF\xFF\xFF"), MQTT_FRAME_MALFORMED},
        {BYTES("\x30\x80\0"), MQTT_FRAME_MALFORMED},
        {BYTES("\x30\xFF\0"), MQTT_FRAME_MALFORMED},
        {BYTES("\x30\x80\x80\0"), MQTT_FRAME_MALFORMED},
        {BYTES("\x30\xFF\xFF\xFF\0"), MQTT_FRAME_MALFORMED},
    };
    struct mqtt_error err;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(frame((const char *)cases[i].bytes.p,
                               cases[i].bytes.n, 0xFFFFFFFF, C, &err),
                         cases[i].frame);
}

static void test_mqtt_3_2_2_15_maximum(void **state)
{
    struct mqtt_error err;

    (void)state;
    assert_int_equal(frame("\x30\x7F", 2, 129, C, &err), MQTT_FRAME_MORE);
    assert_int_equal(frame("\x30\x7F", 2, 128, C, &err),
                     MQTT_FRAME_TOO_LARGE);
    assert_string_equal(err.statement, "MQTT-3.2.2-15");
    assert_int_equal(err.reason, 0x95);
    assert_int_equal(frame("\x30\x80\1", 3, 131, S, &err), MQTT_FRAME_MORE);
    assert_int_equal(frame("\x30\x80\1", 3, 130, S, &err),
                     MQTT_FRAME_TOO_LARGE);
    assert_string_equal(err.statement, "MQTT-3.1.2-24");
    assert_int_equal(frame("\x30\xFF\xFF\xFF\x7F", 5, 268435460, C, &err),
                     MQTT_FRAME_MORE);
    assert_int_equal(frame("\x30\xFF\xFF\xFF\x7F", 5, 268435459, C, &err),
                     MQTT_FRAME_TOO_LARGE);
}

static void test_connect_version(void **state)
{
    static const struct {
        struct mqtt_bytes bytes; /* the beginning of a connection */
        int version;             /* 3 or 0 */
    } cases[] = {
        {BYTES("\x10\x0C\0\4MQTT\4\2\0\0\0\0"), 3},
        {BYTES("\x10\x0E\0\6MQIsdp\3\2\0\0\0\0"), 3},
        {BYTES("\x10\x0C\0\4MQTT\4"), 3},
        {BYTES("\x10\x8C\1\0\4MQTT\4"), 3},
        {BYTES("\x10\x0C\0\4MQTT"), 0},
        {BYTES("\x10\x0D\0\4MQTT\5\2\0\0\0\0\0"), 0},
        {BYTES("\x10\x0D\0\4MQTT\3\2\0\0\0\0\0"), 0},
        {BYTES("\x10\x0E\0\6MQIsdp\4\2\0\0\0\0"), 0},
        {BYTES("\x11\x0C\0\4MQTT\4\2\0\0\0\0"), 0},
        {BYTES("GET / HTTP/1.1\r\n"), 0},
        {BYTES("\x10\x80\x80\x80\x80\1\0\4MQTT\4"), 0},
        {BYTES("\x10"), 0},
        {BYTES(""), 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint8_t *p = exact(cases[i].bytes.p, cases[i].bytes.n);
        assert_int_equal(mqtt_connect_version(p, cases[i].bytes.n),
                         cases[i].version);
        free(p);
    }
}

/* Whatever is wrong with the CONNECT, but for what stands before the name. */
static void test_connect_client_id(void **state)
{
    static const struct {
        struct mqtt_bytes bytes; /* the beginning of a connection */
        const char *id;
    } cases[] = {
        {BYTES("\x10\x0F\0\4MQTT\5\2\0\0\0\0\2ab"), "ab"},
        {BYTES("\x10\x7F\0\4MQTX\5\xBF\0\0\0\0\2abc"), "ab"},
        {BYTES("\x10\x12\0\4MQTT\5\x42\0\0\0\0\2ab\0\1p"), "ab"},
        /* a length that is wrong by the Client Identifier's three bytes */
        {BYTES("\x10\x13\0\4MQTT\5\x42\0\0\3\0\1a\0\3pwd"), ""},
        {BYTES("\x10\x0E\0\4MQTT\5\2\0\0\0\0\2a" "\xC0\0"), ""},
        {BYTES("\x11\x12\0\4MQTT\5\2\0\0\3\x21\0\0\0\2ab"), "ab"},
        {BYTES("\x10\x0D\0\4MQTT\5\2\0\0\0\0\0"), ""},
        {BYTES("\x10\x0F\0\4MQTT\4\2\0\0\0\0\2ab"), ""},
        {BYTES("\x10\x0F\0\4MQTT\5\2\0\0\4\0\2ab"), ""},
        {BYTES("\x20\x0F\0\4MQTT\5\2\0\0\0\0\2ab"), ""},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        for (size_t n = 0; n <= cases[i].bytes.n; n++) {
            uint8_t *p = exact(cases[i].bytes.p, n);
            struct mqtt_bytes id = mqtt_connect_client_id(p, n);
            if (n == cases[i].bytes.n)
                assert_int_equal(id.n, strlen(cases[i].id));
            if (id.n > 0)
                assert_memory_equal(id.p, cases[i].id, id.n);
            free(p);
        }
}

/* ---------------------------------------------------------------------------
 * 5. Properties
 * ------------------------------------------------------------------------- */

/* A place where properties stand: a packet with a gap for them. */
struct place {
    char letter;            /* names the place in `places` below */
    enum mqtt_side from;    /* who sends it */
    uint8_t first;          /* its first byte */
    struct mqtt_bytes head; /* between the fixed header and the gap */
    struct mqtt_bytes tail; /* behind the gap */
};

/* Letters: C CONNECT, W Will, k CONNACK, p PUBLISH, a PUBACK, r PUBREC, l
 * PUBREL, c PUBCOMP, s SUBSCRIBE, b SUBACK, u UNSUBSCRIBE, n UNSUBACK, d
 * DISCONNECT, A AUTH. */
static const struct place places[] = {
    {'C', C, 0x10, BYTES("\0\4MQTT\5\2\0\0"), BYTES("\0\0")},
    {'W', C, 0x10, BYTES("\0\4MQTT\5\6\0\0\0\0\0"), BYTES("\0\1w\0\0")},
    {'k', S, 0x20, BYTES("\0\0"), BYTES("")},
    {'p', C, 0x30, BYTES("\0\1t"), BYTES("x")},
    {'p', S, 0x30, BYTES("\0\1t"), BYTES("x")},
    {'a', C, 0x40, BYTES("\0\1\0"), BYTES("")},
    {'a', S, 0x40, BYTES("\0\1\0"), BYTES("")},
    {'r', C, 0x50, BYTES("\0\1\0"), BYTES("")},
    {'r', S, 0x50, BYTES("\0\1\0"), BYTES("")},
    {'l', C, 0x62, BYTES("\0\1\0"), BYTES("")},
    {'l', S, 0x62, BYTES("\0\1\0"), BYTES("")},
    {'c', C, 0x70, BYTES("\0\1\0"), BYTES("")},
    {'c', S, 0x70, BYTES("\0\1\0"), BYTES("")},
    {'s', C, 0x82, BYTES("\0\1"), BYTES("\0\1t\0")},
    {'b', S, 0x90, BYTES("\0\1"), BYTES("\0")},
    {'u', C, 0xA2, BYTES("\0\1"), BYTES("\0\1t")},
    {'n', S, 0xB0, BYTES("\0\1"), BYTES("\0")},
    {'d', C, 0xE0, BYTES("\0"), BYTES("")},
    {'d', S, 0xE0, BYTES("\0"), BYTES("")},
    {'A', C, 0xF0, BYTES("\x18"), BYTES("")},
    {'A', S, 0xF0, BYTES("\x18"), BYTES("")},
};

/* Table 2-4, and what the sections say about the sender. */
struct sample {
    uint8_t id;             /* the property */
    struct mqtt_bytes wire; /* one legal instance */
    const char *places;     /* where it is legal, in letters */
    const char *barred;     /* where one side must not send it: "pC" = a
                               client in PUBLISH; its error is 0x82 */
};

static const struct sample samples[] = {
    {0x01, BYTES("\x01\1"), "pW", ""},
    {0x02, BYTES("\x02\0\0\0\1"), "pW", ""},
    {0x03, BYTES("\x03\0\1c"), "pW", ""},
    {0x08, BYTES("\x08\0\1r"), "pW", ""},
    {0x09, BYTES("\x09\0\1\0"), "pW", ""},
    {0x0B, BYTES("\x0B\1"), "ps", "pC"},
    {0x11, BYTES("\x11\0\0\0\1"), "Ckd", "dS"},
    {0x12, BYTES("\x12\0\1i"), "k", ""},
    {0x13, BYTES("\x13\0\1"), "k", ""},
    {0x15, BYTES("\x15\0\1M"), "CkA", ""},
    {0x16, BYTES("\x16\0\1\0"), "CkA", ""},
    {0x17, BYTES("\x17\1"), "C", ""},
    {0x18, BYTES("\x18\0\0\0\1"), "W", ""},
    {0x19, BYTES("\x19\1"), "C", ""},
    {0x1A, BYTES("\x1A\0\1i"), "k", ""},
    {0x1C, BYTES("\x1C\0\1s"), "kd", "dC"},
    {0x1F, BYTES("\x1F\0\1r"), "karlcbndA", ""},
    {0x21, BYTES("\x21\0\1"), "Ck", ""},
    {0x22, BYTES("\x22\0\1"), "Ck", ""},
    {0x23, BYTES("\x23\0\1"), "p", ""},
    {0x24, BYTES("\x24\1"), "k", ""},
    {0x25, BYTES("\x25\1"), "k", ""},
    {0x26, BYTES("\x26\0\1k\0\1v"), "CkpWarlcsbundA", ""},
    {0x27, BYTES("\x27\0\0\0\1"), "Ck", ""},
    {0x28, BYTES("\x28\1"), "k", ""},
    {0x29, BYTES("\x29\1"), "k", ""},
    {0x2A, BYTES("\x2A\1"), "k", ""},
};

/* Puts a property into a place `times` times and decodes the packet. */
static int place_decode(const struct place *where, struct mqtt_bytes property,
                        unsigned times, struct mqtt_error *err)
{
    uint8_t b[128];
    size_t n = 2;
    struct mqtt_packet packet;
    /* AUTH must name a method, and so must who sends Authentication Data. */
    int method = property.p[0] != MQTT_AUTHENTICATION_METHOD &&
                 (where->letter == 'A' || (where->letter == 'C' &&
                                           property.p[0] == 0x16));

    memcpy(b + n, where->head.p, where->head.n);
    n += where->head.n;
    b[n++] = (uint8_t)(property.n * times + (method ? 4 : 0));
    for (unsigned i = 0; i < times; i++, n += property.n)
        memcpy(b + n, property.p, property.n);
    if (method) {
        memcpy(b + n, "\x15\0\1M", 4);
        n += 4;
    }
    memcpy(b + n, where->tail.p, where->tail.n);
    n += where->tail.n;
    b[0] = where->first;
    b[1] = (uint8_t)(n - 2);
    uint8_t *p = exact(b, n);
    int result = decode(&packet, p, n, where->from, err);
    free(p);
    return result;
}

static int is_barred(const struct sample *s, const struct place *where)
{
    return s->barred[0] == where->letter &&
           s->barred[1] == (where->from == C ? 'C' : 'S');
}

/* Each property in each packet from each side. */
static void test_every_property_in_every_packet(void **state)
{
    (void)state;
    assert_int_equal(COUNT(samples), 27);
    for (size_t i = 0; i < COUNT(samples); i++)
        for (size_t j = 0; j < COUNT(places); j++) {
            struct mqtt_error err = {0, "", 0, ""};
            int result = place_decode(&places[j], samples[i].wire, 1, &err);
            int legal = strchr(samples[i].places, places[j].letter) != NULL;
            int barred = is_barred(&samples[i], &places[j]);
            if (result != (legal && !barred ? 0 : -1))
                fail_msg("property 0x%02X in %c from %d: %s", samples[i].id,
                         places[j].letter, (int)places[j].from, err.what);
            if (result < 0)
                assert_int_equal(err.reason, legal ? 0x82 : 0x81);
        }
}

/* Each property twice: only a User Property, and in what a server forwards a
 * Subscription Identifier, may repeat. */
static void test_every_property_twice(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(samples); i++)
        for (size_t j = 0; j < COUNT(places); j++) {
            struct mqtt_error err = {0, "", 0, ""};
            if (strchr(samples[i].places, places[j].letter) == NULL)
                continue;
            int result = place_decode(&places[j], samples[i].wire, 2, &err);
            int many = samples[i].id == 0x26 ||
                       (samples[i].id == 0x0B && places[j].letter == 'p' &&
                        places[j].from == S);
            assert_int_equal(result, many ? 0 : -1);
            if (!many)
                assert_int_equal(err.reason, 0x82);
        }
}

/* Every other identifier is unknown everywhere. */
static void test_unknown_properties(void **state)
{
    (void)state;
    for (unsigned id = 0; id < 128; id++) {
        uint8_t wire[5] = {(uint8_t)id, 0, 0, 0, 0};
        struct mqtt_bytes property = {wire, sizeof wire};
        struct mqtt_error err;
        if (strcmp(mqtt_property_name((uint8_t)id), "unknown") != 0)
            continue;
        for (size_t j = 0; j < COUNT(places); j++) {
            assert_int_equal(place_decode(&places[j], property, 1, &err), -1);
            assert_int_equal(err.reason, 0x81);
        }
    }
}

/* The edges of the legal values; reason 0 = accepted. */
static void test_property_values(void **state)
{
    static const struct {
        char place;              /* where */
        enum mqtt_side from;     /* from whom */
        struct mqtt_bytes wire;  /* the property */
        uint8_t reason;          /* the refusal, 0 for none */
    } cases[] = {
        {'p', C, BYTES("\1\0"), 0},
        {'p', C, BYTES("\1\2"), 0x82},
        {'W', C, BYTES("\1\xFF"), 0x82},
        {'p', C, BYTES("\2\0\0\0\0"), 0},
        {'p', C, BYTES("\2\xFF\xFF\xFF\xFF"), 0},
        {'p', C, BYTES("\3\0\0"), 0},
        {'p', C, BYTES("\x09\0\0"), 0},
        {'s', C, BYTES("\x0B\0"), 0x82},
        {'p', S, BYTES("\x0B\0"), 0x82},
        {'s', C, BYTES("\x0B\xFF\xFF\xFF\x7F"), 0},
        {'s', C, BYTES("\x0B\xFF\xFF\xFF\xFF\1"), 0x81},
        {'C', C, BYTES("\x11\0\0\0\0"), 0},
        {'C', C, BYTES("\x11\xFF\xFF\xFF\xFF"), 0},
        {'k', S, BYTES("\x13\0\0"), 0},
        {'C', C, BYTES("\x17\0"), 0},
        {'C', C, BYTES("\x17\2"), 0x82},
        {'C', C, BYTES("\x19\0"), 0},
        {'C', C, BYTES("\x19\2"), 0x82},
        {'C', C, BYTES("\x21\0\0"), 0x82},
        {'k', S, BYTES("\x21\0\0"), 0x82},
        {'C', C, BYTES("\x21\xFF\xFF"), 0},
        {'C', C, BYTES("\x22\0\0"), 0},
        {'p', C, BYTES("\x23\0\0"), 0x94},
        {'p', C, BYTES("\x23\xFF\xFF"), 0},
        {'k', S, BYTES("\x24\0"), 0},
        {'k', S, BYTES("\x24\2"), 0x82},
        {'k', S, BYTES("\x25\2"), 0x82},
        {'p', C, BYTES("\x26\0\0\0\0"), 0},
        {'C', C, BYTES("\x27\0\0\0\0"), 0x82},
        {'k', S, BYTES("\x27\0\0\0\0"), 0x82},
        {'C', C, BYTES("\x27\xFF\xFF\xFF\xFF"), 0},
        {'k', S, BYTES("\x28\2"), 0x82},
        {'k', S, BYTES("\x29\2"), 0x82},
        {'k', S, BYTES("\x2A\2"), 0x82},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        for (size_t j = 0; j < COUNT(places); j++) {
            struct mqtt_error err = {0, "", 0, ""};
            if (places[j].letter != cases[i].place ||
                places[j].from != cases[i].from)
                continue;
            int result = place_decode(&places[j], cases[i].wire, 1, &err);
            assert_int_equal(result, cases[i].reason == 0 ? 0 : -1);
            assert_int_equal(err.reason, cases[i].reason);
        }
}

/* A walk over properties gives them in their order, whole and in parts. */
static void test_property_next(void **state)
{
    static const struct mqtt_bytes raw =
        BYTES("\x26\0\1k\0\1v" "\x0B\x80\1" "\x26\0\1k\0\0" "\2\0\0\1\0");
    struct mqtt_bytes rest = raw;
    struct mqtt_property_view v;

    (void)state;
    assert_int_equal(mqtt_property_next(&rest, &v), 1);
    assert_int_equal(v.id, MQTT_USER_PROPERTY);
    assert_memory_equal(v.text.p, "k", 1);
    assert_memory_equal(v.pair.p, "v", 1);
    assert_int_equal(v.whole.n, 7);
    assert_int_equal(mqtt_property_next(&rest, &v), 1);
    assert_int_equal(v.number, 128);
    assert_int_equal(mqtt_property_next(&rest, &v), 1);
    assert_int_equal(v.pair.n, 0);
    assert_int_equal(mqtt_property_next(&rest, &v), 1);
    assert_int_equal(v.id, MQTT_MESSAGE_EXPIRY_INTERVAL);
    assert_int_equal(v.number, 256);
    assert_int_equal(mqtt_property_next(&rest, &v), 0);
    assert_int_equal(rest.n, 0);
}

/* ---------------------------------------------------------------------------
 * 6. Encoding
 * ------------------------------------------------------------------------- */

static void test_user_property_encode(void **state)
{
    static uint8_t big[65536];
    struct mqtt_bytes k = BYTES("k"), v = BYTES("vw"), none = {NULL, 0};
    struct mqtt_bytes longest = {big, 65535}, over = {big, 65536};
    uint8_t out[16];

    (void)state;
    assert_int_equal(mqtt_user_property_encode(out, sizeof out, k, v), 8);
    assert_memory_equal(out, "\x26\0\1k\0\2vw", 8);
    out[0] = 0xA5;
    assert_int_equal(mqtt_user_property_encode(out, 7, k, v), 8);
    assert_int_equal(out[0], 0xA5);
    assert_int_equal(mqtt_user_property_encode(out, 5, none, none), 5);
    assert_int_equal(mqtt_user_property_encode(NULL, 0, longest, k), 65541);
    assert_int_equal(mqtt_user_property_encode(NULL, 0, over, k), 0);
    assert_int_equal(mqtt_user_property_encode(NULL, 0, k, over), 0);
}

/* What has no form in MQTT gives 0; sizes at each step of the length. */
static void test_encode_limits(void **state)
{
    static uint8_t big[65536];
    struct mqtt_packet m = {.type = MQTT_PUBLISH};

    (void)state;
    m.publish.topic.p = big;
    m.publish.topic.n = 65535;
    assert_int_equal(mqtt_packet_encode(&m, NULL, 0), 1 + 3 + 65538);
    m.publish.topic.n = 65536;
    assert_int_equal(mqtt_packet_encode(&m, NULL, 0), 0);
    m.publish.topic.n = 1;
    m.publish.payload.p = big; /* never read: there is no room */
    m.publish.payload.n = MQTT_REMAINING_LENGTH_MAX - 4;
    assert_int_equal(mqtt_packet_encode(&m, NULL, 0), 268435460);
    m.publish.payload.n++;
    assert_int_equal(mqtt_packet_encode(&m, NULL, 0), 0);
    m.publish.payload.n = SIZE_MAX;
    assert_int_equal(mqtt_packet_encode(&m, NULL, 0), 0);
    m.publish.payload.n = 123;
    assert_int_equal(mqtt_packet_encode(&m, NULL, 0), 2 + 127);
    m.publish.payload.n = 124;
    assert_int_equal(mqtt_packet_encode(&m, NULL, 0), 3 + 128);
    m.type = 0;
    assert_int_equal(mqtt_packet_encode(&m, NULL, 0), 0);
    m.type = 16;
    assert_int_equal(mqtt_packet_encode(&m, NULL, 0), 0);
}

/* [MQTT-1.5.5-1]: lengths at the edges of one, two and three bytes come back
 * as they went, each in its shortest form. */
static void test_mqtt_1_5_5_1_written_shortest(void **state)
{
    static const size_t sizes[] = {0,     1,     122,   123,    124,
                                   16378, 16379, 16380, 100000, 2097147};
    static uint8_t payload[2097147], wire[2097200];

    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct mqtt_packet m = {.type = MQTT_PUBLISH}, back;
        struct mqtt_error err;
        struct mqtt_bytes topic = BYTES("t");
        m.publish.topic = topic;
        m.publish.payload.p = payload;
        m.publish.payload.n = sizes[i];
        size_t n = mqtt_packet_encode(&m, wire, sizeof wire);
        assert_int_equal(decode(&back, wire, n, C, &err), 0);
        assert_true(packet_equal(&m, &back));
    }
}

/* In SUBSCRIBE the identifier may also be given as a single value. */
static void test_subscription_identifier_as_value(void **state)
{
    struct mqtt_packet s = {.type = MQTT_SUBSCRIBE, .packet_id = 1};
    struct mqtt_bytes list = BYTES("\0\1a\0");
    uint8_t out[32];

    (void)state;
    s.list = list;
    s.props.has = HAS(0x0B);
    s.props.subscription_identifier = 9;
    assert_int_equal(mqtt_packet_encode(&s, out, sizeof out), 11);
    assert_memory_equal(out, "\x82\x09\0\1\2\x0B\x09\0\1a\0", 11);
}

static void test_subscription_lists(void **state)
{
    struct mqtt_subscription in = {BYTES("a/+"), 2, 1, 1, 2}, back;
    struct mqtt_bytes rest, filter;
    uint8_t list[32];
    size_t n;

    (void)state;
    assert_int_equal(mqtt_subscribe_add(list, 5, &in), 0);
    assert_int_equal(mqtt_subscribe_add(list, 0, &in), 0);
    n = mqtt_subscribe_add(list, 6, &in);
    assert_int_equal(n, 6);
    assert_memory_equal(list, "\0\3a/+\x2E", 6);
    in.qos = in.no_local = in.retain_as_published = in.retain_handling = 0;
    n += mqtt_subscribe_add(list + n, sizeof list - n, &in);
    rest.p = list;
    rest.n = n;
    assert_int_equal(mqtt_subscribe_next(&rest, &back), 1);
    assert_true(bytes_equal(back.filter, in.filter));
    assert_int_equal(back.qos, 2);
    assert_int_equal(back.no_local, 1);
    assert_int_equal(back.retain_as_published, 1);
    assert_int_equal(back.retain_handling, 2);
    assert_int_equal(mqtt_subscribe_next(&rest, &back), 1);
    assert_int_equal(back.qos + back.no_local + back.retain_handling, 0);
    assert_int_equal(mqtt_subscribe_next(&rest, &back), 0);
    assert_int_equal(mqtt_unsubscribe_add(list, 4, in.filter), 0);
    n = mqtt_unsubscribe_add(list, 5, in.filter);
    assert_int_equal(n, 5);
    rest.p = list;
    rest.n = n;
    assert_int_equal(mqtt_unsubscribe_next(&rest, &filter), 1);
    assert_true(bytes_equal(filter, in.filter));
    assert_int_equal(mqtt_unsubscribe_next(&rest, &filter), 0);
}

/* A stored PUBLISH opens to the views that decoding gives; each cut of it is
 * refused without a read beyond. */
static void test_publish_open(void **state)
{
    static const struct mqtt_bytes wire =
        BYTES("\x31\x11\0\3a/b\x09\2\0\0\0\1\3\0\1cxy");
    struct mqtt_packet packet;

    (void)state;
    memset(&packet, 0, sizeof packet);
    for (size_t n = 0; n < wire.n; n++) {
        uint8_t *p = exact(wire.p, n);
        assert_int_equal(mqtt_publish_open(&packet, p, n), -1);
        if (n > 1) {
            p[1] = (uint8_t)(n - 2);
            mqtt_publish_open(&packet, p, n);
        }
        free(p);
    }
    assert_int_equal(mqtt_publish_open(&packet, wire.p, wire.n), 0);
    assert_int_equal(packet.publish.topic.n, 3);
    assert_int_equal(packet.props.raw.n, 9);
    assert_int_equal(packet.publish.payload.n, 2);
    assert_memory_equal(packet.publish.payload.p, "xy", 2);
    assert_int_equal(
        mqtt_publish_open(&packet, (const uint8_t *)"\x32\4\0\1a\0", 6), -1);
}

/* ---------------------------------------------------------------------------
 * 7. Text
 * ------------------------------------------------------------------------- */

static void print_check(const char *wire, size_t n, enum mqtt_side from,
                        const char *expected)
{
    struct mqtt_packet packet;
    struct mqtt_error err;
    char line[1024];

    assert_int_equal(decode(&packet, (const uint8_t *)wire, n, from, &err), 0);
    assert_int_equal(mqtt_packet_print(&packet, line, sizeof line),
                     strlen(expected));
    assert_string_equal(line, expected);
}

#define PRINT(wire, from, expected)                                            \
    print_check(wire, sizeof(wire) - 1, from, expected)

static void test_print_lines(void **state)
{
    (void)state;
    PRINT("\x32\x11\0\3a/b\0\7\5\2\0\0\0\x1E" "hell", C,
          "PUBLISH DUP=0 QoS=1 RETAIN=0 Packet Identifier=7 "
          "Topic Name=\"a/b\" Message Expiry Interval=30 "
          "Payload(4)=\"hell\"");
    PRINT("\x30\x0D\0\1t\7\x26\0\1k\0\1\"a\n", S,
          "PUBLISH DUP=0 QoS=0 RETAIN=0 Topic Name=\"t\" "
          "User Property=\"k\":\"\\x22\" Payload(2)=\"a\\x0A\"");
    PRINT("\x10\x16" HELLO "\xC2\0\x3C\0\0\1c\0\1u\0\3pwd", C,
          "CONNECT Clean Start=1 Keep Alive=60 Client Identifier=\"c\" "
          "User Name=\"u\" Password=(hidden)");
    PRINT("\x20\3\1\0\0", S,
          "CONNACK Session Present=1 Reason Code=0x00 (Success)");
    PRINT("\x62\3\0\1\x92", C,
          "PUBREL Packet Identifier=1 Reason Code=0x92 "
          "(Packet Identifier not found)");
    PRINT("\x82\x09\0\1\2\x0B\5\0\1a\x2D", C,
          "SUBSCRIBE Packet Identifier=1 Subscription Identifier=5 "
          "Topic Filter=\"a\" QoS=1 No Local=1 Retain As Published=1 "
          "Retain Handling=2");
    PRINT("\x90\5\0\1\0\0\x8F", S,
          "SUBACK Packet Identifier=1 Reason Code=0x00 (Granted QoS 0) "
          "Reason Code=0x8F (Topic Filter invalid)");
    PRINT("\xC0\0", C, "PINGREQ");
    PRINT("\xE0\0", C,
          "DISCONNECT Reason Code=0x00 (Normal disconnection)");
    PRINT("\xF0\x0B\x18\x09\x15\0\1M\x16\0\2\xAA\xBB", S,
          "AUTH Reason Code=0x18 (Continue authentication) "
          "Authentication Method=\"M\" Authentication Data(2)");
}

/* A long payload is shown up to 64 bytes, and every room is respected. */
static void test_print_room(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(goldens); i++) {
        char whole[2048];
        size_t n = mqtt_packet_print(&goldens[i].packet, whole, sizeof whole);
        assert_int_equal(strlen(whole), n);
        assert_int_equal(mqtt_packet_print(&goldens[i].packet, NULL, 0), 0);
        for (size_t cap = 1; cap <= n + 1; cap++) {
            char *out = (char *)exact((const uint8_t *)whole, cap);
            assert_int_equal(mqtt_packet_print(&goldens[i].packet, out, cap),
                             cap - 1);
            assert_memory_equal(out, whole, cap - 1);
            assert_int_equal(out[cap - 1], '\0');
            free(out);
        }
    }
}

/* A packet to be sent prints as the same packet received does. */
static void test_print_both_ways(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(goldens); i++) {
        struct mqtt_packet packet;
        struct mqtt_error err;
        char sent[2048], received[2048];
        decode(&packet, goldens[i].bytes.p, goldens[i].bytes.n,
               goldens[i].from, &err);
        mqtt_packet_print(&packet, received, sizeof received);
        mqtt_packet_print(&goldens[i].packet, sent, sizeof sent);
        assert_string_equal(sent, received);
    }
}

static void test_print_long_payload(void **state)
{
    struct mqtt_packet m = {.type = MQTT_PUBLISH};
    struct mqtt_bytes topic = BYTES("t");
    uint8_t payload[65];
    char line[256], end[80];

    (void)state;
    memset(payload, 'z', sizeof payload);
    m.publish.topic = topic;
    m.publish.payload.p = payload;
    m.publish.payload.n = sizeof payload;
    size_t n = mqtt_packet_print(&m, line, sizeof line);
    memset(end, 'z', 64);
    memcpy(end + 64, "\"...", 5);
    assert_string_equal(line + n - 68, end);
    assert_non_null(strstr(line, " Payload(65)=\"zzz"));
}

/* ---------------------------------------------------------------------------
 * 8. Mutants
 * ------------------------------------------------------------------------- */

#define MUTANTS 100000

/* xorshift32: the same mutants on every machine. */
static uint32_t chance(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* One small damage; returns the new size.  b has room for one byte more. */
static size_t mutate(uint8_t *b, size_t n, uint32_t *seed)
{
    size_t at = chance(seed) % n;

    switch (chance(seed) % 6) {
    case 0:
        b[at] ^= (uint8_t)(1u << (chance(seed) % 8));
        return n;
    case 1:
        b[at] = (uint8_t)chance(seed);
        return n;
    case 2:
        b[at] = (uint8_t)(b[at] + 1);
        return n;
    case 3:
        memmove(b + at, b + at + 1, n - at - 1);
        return n - 1;
    case 4:
        memmove(b + at + 1, b + at, n - at);
        return n + 1;
    default:
        b[at] = (uint8_t)(chance(seed) % 0x2B); /* an identifier perhaps */
        return n;
    }
}

/* What was accepted is written again, and reads as the same. */
static void round_trip(const struct mqtt_packet *first, enum mqtt_side from)
{
    static struct repeats own, will;
    struct mqtt_packet turned = *first, back;
    struct mqtt_error err;
    uint8_t out[512];

    props_turn(&turned.props, &own);
    props_turn(&turned.connect.will_props, &will);
    size_t n = mqtt_packet_encode(&turned, out, sizeof out);
    assert_in_range(n, 2, sizeof out);
    uint8_t *p = exact(out, n);
    if (decode(&back, p, n, from, &err) < 0)
        fail_msg("refused what was written: %s", err.what);
    assert_true(packet_equal(first, &back));
    free(p);
}

static void test_mutants(void **state)
{
    uint32_t seed = 20190307; /* the day MQTT 5.0 became a standard */
    unsigned accepted = 0;
    char line[64];

    (void)state;
    for (unsigned i = 0; i < MUTANTS; i++) {
        const struct golden *g = &goldens[i % COUNT(goldens)];
        struct mqtt_packet packet;
        struct mqtt_error err;
        uint8_t b[160];
        size_t n = g->bytes.n;
        unsigned times = 1 + chance(&seed) % 3;

        memcpy(b, g->bytes.p, n);
        while (times-- > 0 && n > 2)
            n = mutate(b, n, &seed);
        if (chance(&seed) % 4 != 0 && n < 130)
            b[1] = (uint8_t)(n - 2); /* let it get past the frame */
        uint8_t *p = exact(b, n);
        if (decode(&packet, p, n, g->from, &err) == 0) {
            accepted++;
            round_trip(&packet, g->from);
            mqtt_packet_print(&packet, line, sizeof line);
        }
        free(p);
    }
    print_message("             %u of %u mutants were legal packets\n",
                  accepted, (unsigned)MUTANTS);
    assert_true(accepted > MUTANTS / 50 && accepted < MUTANTS);
}

static const struct CMUnitTest functions[] = {
    cmocka_unit_test(test_many_packets_in_one_read),
    cmocka_unit_test(test_longer_legal_forms),
    cmocka_unit_test(test_packet_id_survives_refusal),
    cmocka_unit_test(test_left_to_the_server),
    cmocka_unit_test(test_mqtt_1_5_4_3_kept),
    cmocka_unit_test(test_mqtt_2_1_3_1_every_first_byte),
    cmocka_unit_test(test_mqtt_1_5_5_1_shortest_length),
    cmocka_unit_test(test_mqtt_3_2_2_15_maximum),
    cmocka_unit_test(test_connect_version),
    cmocka_unit_test(test_connect_client_id),
    cmocka_unit_test(test_every_property_in_every_packet),
    cmocka_unit_test(test_every_property_twice),
    cmocka_unit_test(test_unknown_properties),
    cmocka_unit_test(test_property_values),
    cmocka_unit_test(test_property_next),
    cmocka_unit_test(test_user_property_encode),
    cmocka_unit_test(test_encode_limits),
    cmocka_unit_test(test_mqtt_1_5_5_1_written_shortest),
    cmocka_unit_test(test_subscription_identifier_as_value),
    cmocka_unit_test(test_subscription_lists),
    cmocka_unit_test(test_publish_open),
    cmocka_unit_test(test_print_lines),
    cmocka_unit_test(test_print_room),
    cmocka_unit_test(test_print_both_ways),
    cmocka_unit_test(test_print_long_payload),
    cmocka_unit_test(test_mutants),
};

/* One test per golden packet, per refusal and per function. */
int main(void)
{
    struct CMUnitTest tests[COUNT(goldens) + COUNT(refusals) +
                            COUNT(functions)];
    size_t n = 0;

    memset(tests, 0, sizeof tests);
    for (size_t i = 0; i < COUNT(goldens); i++, n++) {
        tests[n].name = goldens[i].name;
        tests[n].test_func = golden_test;
        tests[n].initial_state = (void *)(uintptr_t)&goldens[i];
    }
    for (size_t i = 0; i < COUNT(refusals); i++, n++) {
        tests[n].name = refusals[i].name;
        tests[n].test_func = refusal_test;
        tests[n].initial_state = (void *)(uintptr_t)&refusals[i];
    }
    memcpy(tests + n, functions, sizeof functions);
    return cmocka_run_group_tests(tests, statements_load, NULL);
}
