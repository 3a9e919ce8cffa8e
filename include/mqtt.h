/*
 * mqtt.h - the wire of MQTT 5.0: bytes to packets and packets to bytes.
 *
 * Pure functions: no I/O, no clock, no globals that change, no allocation.
 * A decoded packet is a set of views into the bytes it was decoded from and
 * lives exactly as long as they do.  Section numbers are the standard's
 * (OASIS MQTT Version 5.0); "MQTT-x.y.z-n" names a numbered statement.
 */
#ifndef HOLDFAST_MQTT_H
#define HOLDFAST_MQTT_H

#include <stddef.h>
#include <stdint.h>

#include "mqtt_codes.h"

#define MQTT_REMAINING_LENGTH_MAX 268435455u /* 1.5.5 */

/* Who wrote the packet.  Some packets and properties are legal one way only. */
enum mqtt_side { MQTT_FROM_CLIENT, MQTT_FROM_SERVER };

/* ---- views and errors --------------------------------------------------- */

/* Bytes that belong to somebody else.  p may be NULL when n is 0. */
struct mqtt_bytes {
    const uint8_t *p;
    size_t n;
};

/* What is wrong with a packet, precise enough to be shown to its author. */
struct mqtt_error {
    uint8_t reason;        /* an mqtt_reason of 0x80 or more */
    const char *statement; /* "MQTT-1.5.4-1", or "" where no numbered
                              statement covers it; a literal */
    size_t offset;         /* of the offending byte, from the packet's first */
    const char *what;      /* one sentence, a literal, no final period */
};

/* ---- properties --------------------------------------------------------- */

/* The properties of one packet (2.2.2).
 *
 * Decoding fills `has`, the matching fields and `raw`.  User Properties and
 * Subscription Identifiers may repeat: walk them with mqtt_property_next().
 *
 * Encoding writes: each single-valued property whose bit is in `has`, in
 * rising order of identifier; then `id_count` Subscription Identifiers from
 * `ids`; then the bytes of `verbatim` as they are.  `raw` is not read. */
struct mqtt_properties {
    uint64_t has; /* bit (1 << id) for each property present */
    struct mqtt_bytes raw; /* decoded: all property bytes, length excluded */
    struct mqtt_bytes verbatim; /* to encode: finished property bytes */
    const uint32_t *ids; /* to encode: Subscription Identifiers */
    size_t id_count;     /* how many */

    uint8_t payload_format_indicator; /* 0 or 1 */
    uint8_t request_problem_information;
    uint8_t request_response_information;
    uint8_t maximum_qos;
    uint8_t retain_available;
    uint8_t wildcard_subscription_available;
    uint8_t subscription_identifier_available;
    uint8_t shared_subscription_available;
    uint16_t server_keep_alive; /* seconds */
    uint16_t receive_maximum;
    uint16_t topic_alias_maximum;
    uint16_t topic_alias;
    uint32_t message_expiry_interval; /* seconds */
    uint32_t session_expiry_interval; /* seconds */
    uint32_t will_delay_interval;     /* seconds */
    uint32_t maximum_packet_size;     /* bytes */
    uint32_t subscription_identifier; /* the first one, if any */
    struct mqtt_bytes content_type;
    struct mqtt_bytes response_topic;
    struct mqtt_bytes correlation_data;
    struct mqtt_bytes assigned_client_identifier;
    struct mqtt_bytes authentication_method;
    struct mqtt_bytes authentication_data;
    struct mqtt_bytes response_information;
    struct mqtt_bytes server_reference;
    struct mqtt_bytes reason_string;
};

#define MQTT_HAS(props, id) (((props)->has >> (id)) & 1u)

/* One property as it stands in `raw`. */
struct mqtt_property_view {
    uint8_t id;             /* an mqtt_property */
    uint32_t number;        /* value of the integer types */
    struct mqtt_bytes text; /* value of strings and binary; a pair's name */
    struct mqtt_bytes pair; /* the pair's value */
    struct mqtt_bytes whole; /* identifier and value as on the wire */
};

/* Takes the next property from the front of *rest, which is (a remainder of)
 * the `raw` of a packet that mqtt_packet_decode() accepted.  1 = one was
 * taken, 0 = none is left. */
int mqtt_property_next(struct mqtt_bytes *rest, struct mqtt_property_view *out);

/* Writes one User Property to out if it fits in cap; returns its size. */
size_t mqtt_user_property_encode(uint8_t *out, size_t cap,
                                 struct mqtt_bytes name,
                                 struct mqtt_bytes value);

/* ---- packets ------------------------------------------------------------ */

/* 3.1 CONNECT.  The Will fields mean something only with will_flag. */
struct mqtt_connect {
    uint8_t clean_start, will_flag, will_qos, will_retain;
    uint8_t has_user_name, has_password;
    uint16_t keep_alive; /* seconds, 0 = none */
    struct mqtt_bytes client_id;
    struct mqtt_properties will_props;
    struct mqtt_bytes will_topic, will_payload;
    struct mqtt_bytes user_name, password;
};

/* 3.3 PUBLISH.  packet_id is 0 at QoS 0; topic is empty with an alias only. */
struct mqtt_publish {
    uint8_t dup, qos, retain;
    uint16_t packet_id;
    struct mqtt_bytes topic;
    struct mqtt_bytes payload;
};

/* 3.8.3.1: one Topic Filter and its Subscription Options. */
struct mqtt_subscription {
    struct mqtt_bytes filter;
    uint8_t qos, no_local, retain_as_published, retain_handling;
};

/* Any packet.  `reason` serves CONNACK, PUBACK..PUBCOMP, DISCONNECT, AUTH;
 * `packet_id` serves PUBACK..PUBCOMP and SUBSCRIBE..UNSUBACK; PUBLISH has its
 * own.  `list` is the payload of SUBSCRIBE and UNSUBSCRIBE (filters) and of
 * SUBACK and UNSUBACK (one Reason Code a byte), undecoded but checked. */
struct mqtt_packet {
    uint8_t type; /* an mqtt_type */
    uint8_t reason;
    uint8_t session_present; /* CONNACK */
    uint16_t packet_id;
    struct mqtt_bytes list;
    struct mqtt_properties props;
    struct mqtt_connect connect;
    struct mqtt_publish publish;
};

enum mqtt_frame {
    MQTT_FRAME_MORE,      /* not all of it is here yet */
    MQTT_FRAME_COMPLETE,  /* *size bytes from p on are one packet */
    MQTT_FRAME_MALFORMED, /* the fixed header is wrong: *err says how */
    MQTT_FRAME_TOO_LARGE  /* over maximum bytes: *err says so (0x95) */
};

/* Looks for one whole packet at p.  Judges the fixed header as soon as its
 * bytes are there (type, flags, Remaining Length), never later bytes.
 * *size is set for COMPLETE only.  `from` tells who sent it: a packet type
 * that this side may not send is malformed (2.1.2). */
enum mqtt_frame mqtt_frame_find(const uint8_t *p, size_t n, uint32_t maximum,
                                enum mqtt_side from, size_t *size,
                                struct mqtt_error *err);

/* Decodes the one packet of n bytes at p (as mqtt_frame_find() cut it).
 * 0 = *out holds views into p; -1 = *err says what is wrong and *out holds
 * nothing of use but type (and packet_id and, of CONNECT,
 * props.maximum_packet_size where they had been read). */
int mqtt_packet_decode(struct mqtt_packet *out, const uint8_t *p, size_t n,
                       enum mqtt_side from, struct mqtt_error *err);

/* Writes the packet to out if it fits in cap.  Returns its size, which is
 * the size needed when that is over cap (nothing is written then), or 0 if
 * no such packet exists (over 268,435,455 bytes, a string over 65,535).
 * The shortest legal form is written (a PUBACK 0x00 without properties has
 * Remaining Length 2; 3.4.2.1). */
size_t mqtt_packet_encode(const struct mqtt_packet *in, uint8_t *out,
                          size_t cap);

/* Takes the next Topic Filter and its options from the front of *rest, the
 * `list` of a decoded SUBSCRIBE or (options left 0) UNSUBSCRIBE. 1 or 0. */
int mqtt_subscribe_next(struct mqtt_bytes *rest, struct mqtt_subscription *out);
int mqtt_unsubscribe_next(struct mqtt_bytes *rest, struct mqtt_bytes *filter);

/* Appends one entry to the payload of a SUBSCRIBE or UNSUBSCRIBE that is
 * being built at out; returns the entry's size, or 0 if it does not fit. */
size_t mqtt_subscribe_add(uint8_t *out, size_t cap,
                          const struct mqtt_subscription *s);
size_t mqtt_unsubscribe_add(uint8_t *out, size_t cap, struct mqtt_bytes filter);

/* Opens a PUBLISH that this codec wrote at QoS 0 and that is known to be
 * unaltered (its checksum was verified): no rule is checked again, but no
 * byte beyond n is ever read.  0, or -1 if it is no such packet.  Fills
 * publish.topic, publish.payload and props.raw only. */
int mqtt_publish_open(struct mqtt_packet *out, const uint8_t *p, size_t n);

/* 3.1.2.1: what to say to a CONNECT of another version.  Looks at the first
 * bytes of a connection.  0 = MQTT 5.0 or not decidable yet, 3 = a CONNECT of
 * MQTT 3.1 or 3.1.1, whose own refusal is the bytes 20 02 00 01. */
int mqtt_connect_version(const uint8_t *p, size_t n);

/* The Client Identifier of a CONNECT, which may be wrong elsewhere, from the
 * first n bytes of a connection; n of it is 0: it is empty or cannot be told,
 * as in a wrong CONNECT with Password Flag 1, where it might be the Password.
 * Its UTF-8 is not checked. */
struct mqtt_bytes mqtt_connect_client_id(const uint8_t *p, size_t n);

/* ---- strings, topics, names --------------------------------------------- */

/* 1.5.4: the offset of the first byte that is not well-formed UTF-8, or is
 * part of U+0000 or a surrogate; n if there is none. */
size_t mqtt_utf8_check(const uint8_t *p, size_t n);

/* 4.7: 1 if it is a legal Topic Name: not empty, no wildcard; UTF-8 assumed. */
int mqtt_topic_name_valid(struct mqtt_bytes topic);

/* 4.7.1 and 4.8.2: checks a Topic Filter.  0 = legal: *share is the ShareName
 * (n = 0 if it is not shared) and *filter what topics are matched against;
 * -1 = *err names the statement (reason 0x8F, offset inside the filter). */
int mqtt_topic_filter_parse(struct mqtt_bytes whole, struct mqtt_bytes *share,
                            struct mqtt_bytes *filter, struct mqtt_error *err);

/* 4.7: does this filter (not shared, legal) match this Topic Name (legal)? */
int mqtt_topic_match(struct mqtt_bytes filter, struct mqtt_bytes topic);

/* Is this Reason Code legal in this packet type? (the tables 3.2.2.2,
 * 3.4.2.1, 3.5.2.1, 3.6.2.1, 3.7.2.1, 3.9.3, 3.11.3, 3.14.2.1, 3.15.2.1). */
int mqtt_reason_legal(uint8_t type, uint8_t reason, enum mqtt_side from);

/* Names as the standard writes them: "PUBLISH", "Quota exceeded",
 * "Session Expiry Interval".  Never NULL; "unknown" for an unknown number.
 * 0x00 is "Normal disconnection" in DISCONNECT, "Granted QoS 0" in SUBACK. */
const char *mqtt_type_name(uint8_t type);
const char *mqtt_reason_name(uint8_t type, uint8_t reason);
const char *mqtt_property_name(uint8_t id);

/* Bytes of a payload, or of another long field, that a line of text shows. */
#define MQTT_SHOWN_MAX 64

/* Writes one line without newline, ended by a NUL: the packet's name and all
 * its fields by the standard's names, printable ASCII only (others as \xNN),
 * a payload shown up to MQTT_SHOWN_MAX, a Password never.  Returns the length
 * written (less than cap); what does not fit is cut. */
size_t mqtt_packet_print(const struct mqtt_packet *packet, char *out,
                         size_t cap);

#endif
