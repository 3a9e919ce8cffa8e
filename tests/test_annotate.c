/*
 * test_annotate.c - annotated bytes: packets written by hand from the
 * standard, whole and broken, and the text that must come of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "annotate.h"
#include "buf.h"

#define C MQTT_FROM_CLIENT
#define S MQTT_FROM_SERVER

/* All lines of these bytes.  Their fields must be all of them, each once. */
static void show(struct buf *out, enum mqtt_side from, const uint8_t *bytes,
                 size_t n, int first)
{
    struct mqtt_annotate walk;
    struct mqtt_note note;
    char lines[MQTT_LINES_MAX];
    size_t at = 0, length;

    out->n = 0;
    mqtt_annotate_open(&walk, bytes, n, from, first);
    while (mqtt_annotate_next(&walk, &note)) {
        assert_int_equal(note.offset, at);
        at += note.n;
        length = mqtt_annotate_print(&walk, &note, "", lines, sizeof lines);
        assert_true(length < sizeof lines - 1);
        assert_int_equal(lines[length - 1], '\n');
        for (size_t i = 0; i < length; i++)
            assert_true(lines[i] == '\n' ||
                        (lines[i] >= ' ' && lines[i] <= '~'));
        buf_text(out, lines);
    }
    assert_int_equal(at, n);
    buf_add(out, "", 1);
}

/* These bytes, sent by this side, are shown as these lines.  The bytes are
 * copied to where a sanitizer sees any read beyond them. */
static void expect(enum mqtt_side from, const char *bytes, size_t n,
                   const char *lines)
{
    struct buf out;
    uint8_t *exact = malloc(n);

    assert_non_null(exact);
    memcpy(exact, bytes, n);
    memset(&out, 0, sizeof out);
    show(&out, from, exact, n, 0);
    assert_string_equal((const char *)out.p, lines);
    buf_free(&out);
    free(exact);
}

#define EXPECT(from, bytes, lines) expect(from, bytes, sizeof(bytes) - 1, lines)

/* 3.1: every field that a CONNECT can have. */
static void test_connect(void **state)
{
    (void)state;
    EXPECT(C,
           "\x10\x2E\x00\x04MQTT\x05\xF6\x00\x3C\x05\x11\x00\x00\x00\x78"
           "\x00\x01\x63\x07\x18\x00\x00\x00\x0A\x01\x01"
           "\x00\x03w/t\x00\x04gone\x00\x02us\x00\x02p\xFF",
           "10 2E               CONNECT, Remaining Length 46 (3.1.1)\n"
           "00 04 4D 51 54 54   Protocol Name \"MQTT\" (3.1.2.1)\n"
           "05                  Protocol Version 5 (3.1.2.2)\n"
           "F6                  Connect Flags: Clean Start, Will Flag, "
           "Will QoS 2, Will Retain, Password Flag, User Name Flag (3.1.2.3)\n"
           "00 3C               Keep Alive 60 (3.1.2.10)\n"
           "05                  Property Length 5 (3.1.2.11.1)\n"
           "11 00 00 00 78      Session Expiry Interval 120 (3.1.2.11.2)\n"
           "00 01 63            Client Identifier \"c\" (3.1.3.1)\n"
           "07                  Property Length 7 (3.1.3.2.1)\n"
           "18 00 00 00 0A      Will Delay Interval 10 (3.1.3.2.2)\n"
           "01 01               Payload Format Indicator 1 (3.1.3.2.3)\n"
           "00 03 77 2F 74      Will Topic \"w/t\" (3.1.3.3)\n"
           "00 04 67 6F 6E 65   Will Payload \"gone\" (3.1.3.4)\n"
           "00 02 75 73         User Name \"us\" (3.1.3.5)\n"
           "(hidden)            Password (3.1.3.6)\n");
}

/* 3.1.2.2: what follows another version is not this standard's. */
static void test_connect_of_another_version(void **state)
{
    (void)state;
    EXPECT(C, "\x10\x0D\x00\x04MQTT\x04\x02\x00\x3C\x00\x01\x63",
           "10 0D               CONNECT, Remaining Length 13 (3.1.1)\n"
           "00 04 4D 51 54 54   Protocol Name \"MQTT\" (3.1.2.1)\n"
           "04                  Protocol Version 4 (3.1.2.2)\n"
           "(hidden)            credentials may stand in these 6 bytes\n");
}

/* 3.3: at QoS 0 there is no Packet Identifier. */
static void test_publish(void **state)
{
    (void)state;
    EXPECT(S, "\x30\x08\x00\x03" "a/b\x00hi",
           "30 08               PUBLISH, Remaining Length 8, QoS 0 (3.3.1)\n"
           "00 03 61 2F 62      Topic Name \"a/b\" (3.3.2.1)\n"
           "00                  Property Length 0 (3.3.2.3.1)\n"
           "68 69               Payload \"hi\" (3.3.3)\n");
    EXPECT(S,
           "\x3B\x13\x00\x01" "a\x00\x0A\x0D\x0B\x80\x01\x26\x00\x01n\x00\x01v"
           "\x23\x00\x02",
           "3B 13               PUBLISH, Remaining Length 19, DUP, QoS 1, "
           "RETAIN (3.3.1)\n"
           "00 01 61            Topic Name \"a\" (3.3.2.1)\n"
           "00 0A               Packet Identifier 10 (3.3.2.2)\n"
           "0D                  Property Length 13 (3.3.2.3.1)\n"
           "0B 80 01            Subscription Identifier 128 (3.3.2.3.8)\n"
           "26 00 01 6E 00 01 76  User Property \"n\" = \"v\" (3.3.2.3.7)\n"
           "23 00 02            Topic Alias 2 (3.3.2.3.4)\n");
}

/* 3.8.3.1: the options of each filter. */
static void test_subscribe(void **state)
{
    (void)state;
    EXPECT(C, "\x82\x0F\x00\x01\x02\x0B\x05\x00\x03" "a/b\x2D\x00\x01#\xC0",
           "82 0F               SUBSCRIBE, Remaining Length 15 (3.8.1)\n"
           "00 01               Packet Identifier 1 (2.2.1)\n"
           "02                  Property Length 2 (3.8.2.1.1)\n"
           "0B 05               Subscription Identifier 5 (3.8.2.1.2)\n"
           "00 03 61 2F 62      Topic Filter \"a/b\" (3.8.3)\n"
           "2D                  Subscription Options: Maximum QoS 1, No Local, "
           "Retain As Published, Retain Handling 2 (3.8.3.1)\n"
           "00 01 23            Topic Filter \"#\" (3.8.3)\n"
           "C0                  Subscription Options: Maximum QoS 0, "
           "reserved bits 3 (3.8.3.1)\n");
}

/* One behind the other; 2.4: a Reason Code that may be missing, and one that
 * another packet type has. */
static void test_answers_in_a_row(void **state)
{
    (void)state;
    EXPECT(S,
           "\x20\x06\x01\x00\x03\x21\x00\x14\x90\x05\x00\x01\x00\x01\x8F"
           "\x40\x02\x00\x02\x50\x03\x00\x03\x8E\xD0\x00"
           "\xE0\x09\x8E\x07\x1F\x00\x04" "busy\xE0\x00",
           "20 06               CONNACK, Remaining Length 6 (3.2.1)\n"
           "01                  Connect Acknowledge Flags: Session Present "
           "(3.2.2.1)\n"
           "00                  Reason Code 0x00 Success (3.2.2.2)\n"
           "03                  Property Length 3 (3.2.2.3.1)\n"
           "21 00 14            Receive Maximum 20 (3.2.2.3.3)\n"
           "90 05               SUBACK, Remaining Length 5 (3.9.1)\n"
           "00 01               Packet Identifier 1 (2.2.1)\n"
           "00                  Property Length 0 (3.9.2.1.1)\n"
           "01                  Reason Code 0x01 Granted QoS 1 (3.9.3)\n"
           "8F                  Reason Code 0x8F Topic Filter invalid "
           "(3.9.3)\n"
           "40 02               PUBACK, Remaining Length 2 (3.4.1)\n"
           "00 02               Packet Identifier 2 (2.2.1)\n"
           "50 03               PUBREC, Remaining Length 3 (3.5.1)\n"
           "00 03               Packet Identifier 3 (2.2.1)\n"
           "8E                  Reason Code 0x8E Session taken over, "
           "not for this packet (3.5.2.1)\n"
           "D0 00               PINGRESP, Remaining Length 0 (3.13.1)\n"
           "E0 09               DISCONNECT, Remaining Length 9 (3.14.1)\n"
           "8E                  Reason Code 0x8E Session taken over "
           "(3.14.2.1)\n"
           "07                  Property Length 7 (3.14.2.2.1)\n"
           "1F 00 04 62 75 73 79  Reason String \"busy\" (3.14.2.2.3)\n"
           "E0 00               DISCONNECT, Remaining Length 0 (3.14.1)\n");
}

/* The packet ends in a field, before a field, in its fixed header. */
static void test_cut(void **state)
{
    (void)state;
    EXPECT(C, "\x32\x0A\x00\x03" "a/",
           "32 0A               PUBLISH, Remaining Length 10, QoS 1 (3.3.1)\n"
           "00 03 61 2F         Topic Name is cut off (3.3.2.1)\n"
           "                    cut here: 6 bytes are missing\n");
    EXPECT(C, "\x40\x04\x00\x01",
           "40 04               PUBACK, Remaining Length 4 (3.4.1)\n"
           "00 01               Packet Identifier 1 (2.2.1)\n"
           "                    Reason Code is missing (3.4.2.1)\n"
           "                    cut here: 2 bytes are missing\n");
    EXPECT(C, "\xC0\x00\x30\x80",
           "C0 00               PINGREQ, Remaining Length 0 (3.12.1)\n"
           "30 80               PUBLISH, Remaining Length is cut off "
           "(3.3.1)\n");
    EXPECT(C, "\x30\xFF\xFF\xFF\xFF\x01",
           "30 FF FF FF FF      PUBLISH, Remaining Length is longer than four "
           "bytes (3.3.1)\n"
           "01                  not read\n");
}

/* 2.1.2, 2.1.3: types and flags that must not be. */
static void test_reserved(void **state)
{
    (void)state;
    EXPECT(C, "\x00\x01\x07\x61\x02\x00\x05\xC1\x00\xD0\x81\x00\x99",
           "00 01               reserved type 0, Remaining Length 1 (2.1.2)\n"
           "07                  not read\n"
           "61 02               PUBREL, Remaining Length 2, "
           "flags 1 instead of 2 (2.1.3)\n"
           "00 05               Packet Identifier 5 (2.2.1)\n"
           "C1 00               PINGREQ, Remaining Length 0, "
           "flags 1 instead of 0 (2.1.3)\n"
           "D0 81 00            PINGRESP, Remaining Length 1, "
           "not in its shortest form, not for a client to send (2.1.2)\n"
           "99                  after the last field\n");
}

/* 2.2.2: in a packet that has no such property, unknown, longer than the
 * packet. */
static void test_wrong_properties(void **state)
{
    (void)state;
    EXPECT(C, "\x30\x0C\x00\x01" "a\x06\x24\x01\x7F\x01\x02\x03hi",
           "30 0C               PUBLISH, Remaining Length 12, QoS 0 (3.3.1)\n"
           "00 01 61            Topic Name \"a\" (3.3.2.1)\n"
           "06                  Property Length 6 (3.3.2.3.1)\n"
           "24 01               Maximum QoS 1, not for this packet "
           "(2.2.2.2)\n"
           "7F                  Property Identifier is unknown (2.2.2.2)\n"
           "01 02 03            not read\n"
           "68 69               Payload \"hi\" (3.3.3)\n");
    EXPECT(C, "\xE0\x04\x00\x09\x11\x00",
           "E0 04               DISCONNECT, Remaining Length 4 (3.14.1)\n"
           "00                  Reason Code 0x00 Normal disconnection "
           "(3.14.2.1)\n"
           "09                  Property Length 9, but the bytes end before "
           "(3.14.2.2.1)\n"
           "11 00               Session Expiry Interval is cut off "
           "(3.14.2.2.2)\n");
}

/* 1.5.4: what is no text is shown as numbers. */
static void test_strings(void **state)
{
    (void)state;
    EXPECT(C, "\xA2\x0C\x00\x01\x00\x00\x02\xC3\x28\x00\x03\"\\\x7F",
           "A2 0C               UNSUBSCRIBE, Remaining Length 12 (3.10.1)\n"
           "00 01               Packet Identifier 1 (2.2.1)\n"
           "00                  Property Length 0 (3.10.2.1.1)\n"
           "00 02 C3 28         Topic Filter \"\\xC3(\", byte 0 is not legal "
           "UTF-8 (3.10.3)\n"
           "00 03 22 5C 7F      Topic Filter \"\\x22\\x5C\\x7F\" (3.10.3)\n");
}

#define ROW "78 78 78 78 78 78 78 78 78 78 78 78 78 78 78 78"
#define TEXT16 "xxxxxxxxxxxxxxxx"

/* 64 bytes of a long field are enough. */
static void test_long_payload(void **state)
{
    char bytes[3 + 4 + 500] = "\x30\xF8\x03\x00\x01" "a";

    (void)state;
    memset(bytes + 7, 'x', 500);
    expect(C, bytes, sizeof bytes,
           "30 F8 03            PUBLISH, Remaining Length 504, QoS 0 (3.3.1)\n"
           "00 01 61            Topic Name \"a\" (3.3.2.1)\n"
           "00                  Property Length 0 (3.3.2.3.1)\n"
           ROW "\n" ROW "\n" ROW "\n" ROW " ... 436 more"
           "  Payload of 500 bytes \"" TEXT16 TEXT16 TEXT16 TEXT16 "\"... "
           "(3.3.3)\n");
}

/* The longest lines that a field can take still fit. */
static void test_longest_lines(void **state)
{
    char bytes[10 + 500] = "\x30\xFB\x03\x00\x01"
                           "a\xF5\x03\x26\x00\xF7";
    struct buf out;

    (void)state;
    memset(&out, 0, sizeof out);
    memset(bytes + 11, 0xFF, sizeof bytes - 11);
    bytes[11 + 247] = 0;
    bytes[11 + 248] = (char)0xF9;
    show(&out, C, (uint8_t *)bytes, sizeof bytes, 0);
    assert_non_null(strstr((char *)out.p, "byte 0 is not legal UTF-8 = of 249 "
                                          "bytes"));
    assert_non_null(strstr((char *)out.p, "UTF-8 (3.3.2.3.7)\n"));
    buf_free(&out);
}

/* ---- secrets ------------------------------------------------------------ */

#define SECRET "Zq9#Kv7!" /* no two bytes of it stand anywhere else */

/* No two bytes of the secret in a row, as text or in hexadecimal. */
static void keeps_secret(const struct buf *out)
{
    const char *text = (const char *)out->p;

    for (size_t i = 0; i + 1 < sizeof SECRET - 1; i++) {
        char pair[3] = {SECRET[i], SECRET[i + 1], '\0'}, hex[8];
        snprintf(hex, sizeof hex, "%02X %02X", (unsigned)pair[0],
                 (unsigned)pair[1]);
        if (strstr(text, pair) != NULL || strstr(text, hex) != NULL)
            fail_msg("%s is shown:\n%s", pair, text);
    }
}

/* Each byte as each other value, from byte `begin` on, and cut at each
 * length: the secret never shows.  The identifier of Authentication Data is
 * left alone: with another one it is legal data of another name. */
static void keep(enum mqtt_side from, const char *bytes, size_t n,
                 size_t begin, int first)
{
    struct buf out;
    uint8_t *p = malloc(n);

    assert_non_null(p);
    memset(&out, 0, sizeof out);
    for (size_t i = begin; i < n; i++)
        for (unsigned value = 0; bytes[i] != 0x16 && value < 256; value++) {
            memcpy(p, bytes, n);
            p[i] = (uint8_t)value;
            show(&out, from, p, n, first);
            keeps_secret(&out);
        }
    memcpy(p, bytes, n);
    for (size_t i = 0; i <= n; i++) {
        show(&out, from, p, i, first);
        keeps_secret(&out);
    }
    free(p);
    buf_free(&out);
}

#define KEEP(from, bytes, begin, first)                                        \
    keep(from, bytes, sizeof(bytes) - 1, begin, first)

/* Behind user name and will, behind a user name, before another packet.  A
 * lone Password is left out: one flag makes it a legal User Name. */
static void test_password(void **state)
{
    (void)state;
    KEEP(C,
         "\x10\x33\x00\x04MQTT\x05\xF6\x00\x3C\x05\x11\x00\x00\x00\x78"
         "\x00\x01\x63\x07\x18\x00\x00\x00\x0A\x01\x01"
         "\x00\x03w/t\x00\x04gone\x00\x02us\x00\x08" SECRET,
         0, 1);
    KEEP(C,
         "\x10\x1C\x00\x04MQTT\x05\xC2\x00\x3C\x00"
         "\x00\x01\x63\x00\x02us\x00\x08" SECRET "\xC0\x00",
         0, 1);
}

/* It is a credential, too. */
static void test_authentication_data(void **state)
{
    (void)state;
    KEEP(C,
         "\x10\x1E\x00\x04MQTT\x05\x02\x00\x3C\x10\x15\x00\x02us\x16\x00\x08"
         SECRET "\x00\x01" "c",
         0, 1);
    KEEP(C, "\xF0\x12\x18\x10\x15\x00\x02us\x16\x00\x08" SECRET, 1, 0);
    KEEP(S, "\x20\x13\x00\x00\x10\x15\x00\x02us\x16\x00\x08" SECRET, 1, 0);
    EXPECT(C, "\xF0\x0D\x18\x0B\x15\x00\x02us\x16\x00\x03key",
           "F0 0D               AUTH, Remaining Length 13 (3.15.1)\n"
           "18                  Reason Code 0x18 Continue authentication "
           "(3.15.2.1)\n"
           "0B                  Property Length 11 (3.15.2.2.1)\n"
           "15 00 02 75 73      Authentication Method \"us\" (3.15.2.2.2)\n"
           "(hidden)            Authentication Data (3.15.2.2.3)\n");
    EXPECT(C, "\x40\x09\x00\x01\x00\x05\x16\x00\x04" "a\xC0",
           "40 09               PUBACK, Remaining Length 9 (3.4.1)\n"
           "00 01               Packet Identifier 1 (2.2.1)\n"
           "00                  Reason Code 0x00 Success (3.4.2.1)\n"
           "05                  Property Length 5 (3.4.2.2.1)\n"
           "(hidden)            credentials may stand in these 5 bytes\n");
}

/* What begins a connection and is no CONNECT may be anything. */
static void test_first_packet(void **state)
{
    static const char http[] = "GET / HTTP/1.1\r\nAuthorization: Basic eDp5";
    struct buf out;

    (void)state;
    memset(&out, 0, sizeof out);
    show(&out, C, (const uint8_t *)http, sizeof http - 1, 1);
    assert_string_equal(
        (const char *)out.p,
        "47 45               PUBACK, Remaining Length 69, "
        "flags 7 instead of 0 (2.1.3)\n"
        "(hidden)            credentials may stand in these 39 bytes\n");
    buf_free(&out);
}

/* ---- anything ----------------------------------------------------------- */

static uint32_t random_state = 1;

/* xorshift32 (Marsaglia 2003). */
static uint32_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

/* Random bytes, half of them small, so that lengths are often right: show()
 * sees that each is accounted for. */
static void test_random_bytes(void **state)
{
    struct buf out;

    (void)state;
    memset(&out, 0, sizeof out);
    for (int round = 0; round < 30000; round++) {
        size_t n = random_next() % 80;
        uint8_t *p = malloc(n + 1);
        assert_non_null(p);
        for (size_t i = 0; i < n; i++) {
            uint32_t x = random_next();
            p[i] = (uint8_t)(x & 1 ? x >> 8 : (x >> 8) % 8);
        }
        if (n > 1 && round % 2 == 0) {
            p[0] = (uint8_t)(random_next() % 16 << 4 | p[0] % 4);
            p[1] = (uint8_t)(n - 2);
        }
        show(&out, round % 3 == 0 ? S : C, p, n, round % 5 == 0);
        free(p);
    }
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_connect),
        cmocka_unit_test(test_connect_of_another_version),
        cmocka_unit_test(test_publish),
        cmocka_unit_test(test_subscribe),
        cmocka_unit_test(test_answers_in_a_row),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_reserved),
        cmocka_unit_test(test_wrong_properties),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_long_payload),
        cmocka_unit_test(test_longest_lines),
        cmocka_unit_test(test_password),
        cmocka_unit_test(test_authentication_data),
        cmocka_unit_test(test_first_packet),
        cmocka_unit_test(test_random_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
