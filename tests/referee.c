/*
 * referee.c - what must hold for every packet on a connection.
 *
 *   1. bits          sets of Packet Identifiers
 *   2. the client    what it sends: state, and rules
 *   3. the server    what it sends: rules, and state
 *
 * The Reason Codes are listed here once more, from the standard's own tables:
 * a referee that asked the codec would believe its mistakes.
 */
#include <stdio.h>
#include <string.h>

#include "buf.h"
#include "referee.h"

/* ==== 1. bits =============================================================
 */

static int id_get(const uint8_t *ids, uint16_t id)
{
    return ids[id / 8] >> (id % 8) & 1;
}

/* 1 = it was not there before. */
static int id_add(uint8_t *ids, uint16_t id)
{
    int added = !id_get(ids, id);
    ids[id / 8] |= (uint8_t)(1u << (id % 8));
    return added;
}

/* 1 = it was there. */
static int id_del(uint8_t *ids, uint16_t id)
{
    int deleted = id_get(ids, id);
    ids[id / 8] &= (uint8_t) ~(1u << (id % 8));
    return deleted;
}

/* 4.9: does this acknowledgement end the exchange?  A PUBREC of success leaves
 * it open; a PUBCOMP ends it whatever it says. */
static int is_last(const struct mqtt_packet *p)
{
    return p->type == MQTT_PUBACK || p->type == MQTT_PUBCOMP ||
           (p->type == MQTT_PUBREC && p->reason >= 0x80);
}

static int has_wildcard(struct mqtt_bytes topic)
{
    return topic.n > 0 && (memchr(topic.p, '+', topic.n) != NULL ||
                           memchr(topic.p, '#', topic.n) != NULL);
}

/* Is this Authentication Method the one of CONNECT? */
static int same_method(const struct referee *r, const struct mqtt_packet *p)
{
    struct mqtt_bytes name = p->props.authentication_method;
    size_t cut = sizeof r->method_name - 1;
    size_t n = name.n < cut ? name.n : cut;
    return MQTT_HAS(&p->props, MQTT_AUTHENTICATION_METHOD) &&
           strlen(r->method_name) == n &&
           (n == 0 || memcmp(r->method_name, name.p, n) == 0);
}

/* ==== 2. the client =======================================================
 *
 * Before CONNACK the server's limits are unknown: the defaults count. */

void referee_open(struct referee *r)
{
    memset(r, 0, sizeof *r);
    r->receive_max = r->server_receive_max = 65535; /* 3.1.2.11.3, 3.2.2.3.3 */
    r->server_qos_max = 2;                          /* 3.2.2.3.4 */
    r->server_retain = 1;                           /* 3.2.2.3.5 */
    r->problem_info = 1;                            /* 3.1.2.11.7 */
}

void referee_free(struct referee *r)
{
    for (int i = 0; i <= REFEREE_ALIASES; i++)
        free(r->aliases[i]);
    memset(r->aliases, 0, sizeof r->aliases);
}

static void connect_sent(struct referee *r, const struct mqtt_packet *p)
{
    const struct mqtt_properties *props = &p->props;
    struct mqtt_bytes method = props->authentication_method;
    if (r->connect++ > 0)
        return; /* an error, which alters nothing */
    r->packet_max = props->maximum_packet_size;
    r->alias_max = props->topic_alias_maximum;
    r->response_info = props->request_response_information;
    r->keep_alive = p->connect.keep_alive;
    if (MQTT_HAS(props, MQTT_RECEIVE_MAXIMUM))
        r->receive_max = props->receive_maximum;
    if (MQTT_HAS(props, MQTT_REQUEST_PROBLEM_INFORMATION))
        r->problem_info = props->request_problem_information;
    r->method = MQTT_HAS(props, MQTT_AUTHENTICATION_METHOD) != 0;
    size_t cut = sizeof r->method_name - 1;
    if (method.n > 0)
        memcpy(r->method_name, method.p, method.n < cut ? method.n : cut);
}

void referee_sent(struct referee *r, const struct mqtt_packet *p)
{
    if (p->type == MQTT_CONNECT) {
        connect_sent(r, p);
    } else if (p->type == MQTT_SUBSCRIBE || p->type == MQTT_UNSUBSCRIBE) {
        id_add(r->sent_ids, p->packet_id);
    } else if (p->type == MQTT_PUBLISH && p->publish.qos > 0) {
        id_add(r->sent_ids, p->publish.packet_id);
        if (id_add(r->sent_publishes, p->publish.packet_id))
            r->sent_open++;
    } else if (is_last(p)) {
        if (id_del(r->open_ids, p->packet_id))
            r->open--;
    } else if (p->type == MQTT_DISCONNECT) {
        r->left++;
    }
}

static const char *judge_connect(const struct mqtt_packet *p)
{
    if (!p->connect.will_flag && p->connect.will_qos != 0)
        return "MQTT-3.1.2-11";
    if (!p->connect.will_flag && p->connect.will_retain)
        return "MQTT-3.1.2-13";
    return NULL;
}

static const char *judge_alias(const struct referee *r,
                               const struct mqtt_packet *p)
{
    uint16_t alias = p->props.topic_alias;
    if (!MQTT_HAS(&p->props, MQTT_TOPIC_ALIAS))
        return NULL;
    if (alias == 0)
        return "MQTT-3.3.2-8";
    if (r->server_alias_max == 0)
        return "MQTT-3.2.2-18";
    return alias > r->server_alias_max ? "MQTT-3.2.2-17" : NULL;
}

/* Identifier and window.  A repeat takes no second place in the window. */
static const char *judge_delivery(const struct referee *r,
                                  const struct mqtt_publish *p)
{
    if (p->qos == 0 && p->packet_id != 0)
        return "MQTT-2.2.1-2";
    if (p->qos == 0)
        return p->dup ? "MQTT-3.3.1-2" : NULL;
    if (p->packet_id == 0 || (!p->dup && id_get(r->sent_ids, p->packet_id)))
        return "MQTT-2.2.1-3";
    if (r->sent_open >= r->server_receive_max &&
        !id_get(r->sent_publishes, p->packet_id))
        return "MQTT-3.3.4-7";
    return NULL;
}

static const char *judge_publish(const struct referee *r,
                                 const struct mqtt_packet *p)
{
    if (has_wildcard(p->publish.topic))
        return "MQTT-3.3.2-2";
    if (p->publish.qos > r->server_qos_max)
        return "MQTT-3.2.2-11";
    if (p->publish.retain && !r->server_retain)
        return "MQTT-3.2.2-14";
    if (p->props.id_count > 0 ||
        MQTT_HAS(&p->props, MQTT_SUBSCRIPTION_IDENTIFIER))
        return "MQTT-3.3.4-6";
    const char *broken = judge_alias(r, p);
    return broken != NULL ? broken : judge_delivery(r, &p->publish);
}

/* SUBSCRIBE and UNSUBSCRIBE. */
static const char *judge_request(const struct referee *r,
                                 const struct mqtt_packet *p)
{
    struct mqtt_bytes rest = p->list;
    struct mqtt_subscription s;
    if (p->packet_id == 0 || id_get(r->sent_ids, p->packet_id))
        return "MQTT-2.2.1-3";
    if (p->type == MQTT_UNSUBSCRIBE)
        return rest.n == 0 ? "MQTT-3.10.3-2" : NULL;
    if (rest.n == 0)
        return "MQTT-3.8.3-2";
    while (mqtt_subscribe_next(&rest, &s))
        if (s.no_local && s.filter.n >= 7 &&
            memcmp(s.filter.p, "$share/", 7) == 0)
            return "MQTT-3.8.3-4";
    return NULL;
}

static const char *judge_auth(const struct referee *r,
                              const struct mqtt_packet *p)
{
    if (!r->method)
        return "MQTT-4.12.0-7";
    if (!r->accepted && p->reason != MQTT_CONTINUE_AUTHENTICATION)
        return "MQTT-4.12.0-3";
    if (same_method(r, p))
        return NULL;
    return p->reason == MQTT_REAUTHENTICATE ? "MQTT-4.12.1-1" : "MQTT-4.12.0-5";
}

/* What may be sent at all at this point of the connection. */
static const char *judge_order(const struct referee *r,
                               const struct mqtt_packet *p, size_t size)
{
    if (r->left)
        return "MQTT-3.14.4-1";
    if (!r->connect)
        return p->type != MQTT_CONNECT ? "MQTT-3.1.0-1" : NULL;
    if (p->type == MQTT_CONNECT)
        return "MQTT-3.1.0-2";
    if (r->method && !r->connack && p->type != MQTT_AUTH &&
        p->type != MQTT_DISCONNECT)
        return "MQTT-3.1.2-30";
    if (r->server_packet_max > 0 && size > r->server_packet_max)
        return "MQTT-3.2.2-15";
    return NULL;
}

const char *referee_judge(const struct referee *r, const struct mqtt_packet *p,
                          size_t size)
{
    const char *broken = judge_order(r, p, size);
    if (broken != NULL)
        return broken;
    switch (p->type) {
    case MQTT_CONNECT:
        return judge_connect(p);
    case MQTT_PUBLISH:
        return judge_publish(r, p);
    case MQTT_SUBSCRIBE:
    case MQTT_UNSUBSCRIBE:
        return judge_request(r, p);
    case MQTT_AUTH:
        return judge_auth(r, p);
    default:
        return NULL;
    }
}

/* ==== 3. the server =======================================================
 *
 * A packet is held against the connection as it was before, then taken in. */

/* The first rule that a packet breaks. */
struct verdict {
    const char *statement; /* NULL = none so far; "" = it has no number */
    const char *what;      /* in words */
};

static void rule(struct verdict *v, int holds, const char *statement,
                 const char *what)
{
    if (!holds && v->statement == NULL) {
        v->statement = statement;
        v->what = what;
    }
}

/* What a server may send, and with which Reason Codes. */
static const struct {
    const char *statement;
    const char *legal; /* NULL = it has none */
} reasons[16] = {
    [MQTT_CONNACK] = {"MQTT-3.2.2-8", "00 80 81 82 83 84 85 86 87 88 89 8a 8c "
                                      "90 95 97 99 9a 9b 9c 9d 9f"},
    [MQTT_PUBLISH] = {"", NULL},
    [MQTT_PUBACK] = {"MQTT-3.4.2-1", "00 10 80 83 87 90 91 97 99"},
    [MQTT_PUBREC] = {"MQTT-3.5.2-1", "00 10 80 83 87 90 91 97 99"},
    [MQTT_PUBREL] = {"MQTT-3.6.2-1", "00 92"},
    [MQTT_PUBCOMP] = {"MQTT-3.7.2-1", "00 92"},
    [MQTT_SUBACK] = {"MQTT-3.9.3-2", "00 01 02 80 83 87 8f 91 97 9e a1 a2"},
    [MQTT_UNSUBACK] = {"MQTT-3.11.3-2", "00 11 80 83 87 8f 91"},
    [MQTT_PINGRESP] = {"", NULL},
    [MQTT_DISCONNECT] = {"MQTT-3.14.2-1",
                         "00 80 81 82 83 87 89 8b 8c 8d 8e 8f 90 93 94 95 96 "
                         "97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2"},
    [MQTT_AUTH] = {"MQTT-3.15.2-1", "00 18"},
};

static void rule_reasons(struct verdict *v, const struct mqtt_packet *p)
{
    const char *legal = reasons[p->type].legal;
    int listed = p->type == MQTT_SUBACK || p->type == MQTT_UNSUBACK;
    char code[3];
    if (legal == NULL)
        return;
    for (size_t i = 0; i < (listed ? p->list.n : 1); i++) {
        snprintf(code, sizeof code, "%02x", listed ? p->list.p[i] : p->reason);
        rule(v, strstr(legal, code) != NULL, reasons[p->type].statement,
             "a Reason Code that this packet may not have");
    }
}

/* What may come at all at this point of the connection. */
static void rule_order(struct verdict *v, const struct referee *r,
                       const struct mqtt_packet *p)
{
    rule(v, reasons[p->type].statement != NULL, "",
         "a packet that only clients send");
    rule(v, r->goodbye == 0, "MQTT-3.14.4-1", "a packet after DISCONNECT");
    if (p->type == MQTT_CONNACK)
        rule(v, r->connack == 0, "MQTT-3.2.0-2", "a second CONNACK");
    else if (p->type == MQTT_AUTH)
        rule(v, r->method, "MQTT-4.12.0-6",
             "AUTH though CONNECT named no Authentication Method");
    else if (p->type == MQTT_DISCONNECT)
        rule(v, r->accepted, "MQTT-3.14.0-1",
             "DISCONNECT to a client that was not accepted");
    else
        rule(v, r->connack > 0, "MQTT-3.2.0-1", "a packet before CONNACK");
    rule(v, r->connack == 0 || r->accepted, "MQTT-3.2.2-7",
         "a packet after CONNACK refused the client");
}

/* What the client asked every packet to be. */
static void rule_wishes(struct verdict *v, const struct referee *r,
                        const struct mqtt_packet *p, size_t size)
{
    const struct mqtt_properties *props = &p->props;
    rule(v, r->packet_max == 0 || size <= r->packet_max, "MQTT-3.1.2-24",
         "over the client's Maximum Packet Size");
    if (!r->problem_info && p->type != MQTT_PUBLISH &&
        p->type != MQTT_CONNACK && p->type != MQTT_DISCONNECT)
        rule(v,
             !MQTT_HAS(props, MQTT_REASON_STRING) &&
                 !MQTT_HAS(props, MQTT_USER_PROPERTY) && props->verbatim.n == 0,
             "MQTT-3.1.2-29",
             "a Reason String or User Property that the client does not want");
}

static void rule_connack(struct verdict *v, const struct referee *r,
                         const struct mqtt_packet *p)
{
    rule(v, p->reason == 0 || !p->session_present, "MQTT-3.2.2-6",
         "Session Present 1 though the client is refused");
    rule(v,
         r->response_info == 1 ||
             !MQTT_HAS(&p->props, MQTT_RESPONSE_INFORMATION),
         "MQTT-3.1.2-28", "Response Information that nobody requested");
    rule(v, r->method || !MQTT_HAS(&p->props, MQTT_AUTHENTICATION_METHOD),
         "MQTT-4.12.0-6", "an Authentication Method that CONNECT did not name");
    rule(v, !r->method || p->reason != 0 || same_method(r, p), "MQTT-4.12.0-5",
         "not the Authentication Method of CONNECT");
}

static void rule_auth(struct verdict *v, const struct referee *r,
                      const struct mqtt_packet *p)
{
    rule(v, same_method(r, p), "MQTT-4.12.0-5",
         "not the Authentication Method of CONNECT");
    rule(v, r->accepted || p->reason == MQTT_CONTINUE_AUTHENTICATION,
         "MQTT-4.12.0-2", "AUTH before CONNACK is not 0x18");
}

static void rule_alias(struct verdict *v, const struct referee *r,
                       const struct mqtt_packet *p)
{
    uint16_t alias = p->props.topic_alias;
    if (!MQTT_HAS(&p->props, MQTT_TOPIC_ALIAS)) {
        rule(v, p->publish.topic.n > 0, "MQTT-4.7.3-1",
             "neither a Topic Name nor a Topic Alias");
        return;
    }
    rule(v, alias > 0, "MQTT-3.3.2-8", "Topic Alias 0");
    rule(v, r->alias_max > 0, "MQTT-3.1.2-27",
         "a Topic Alias though the client allows none");
    rule(v, alias <= r->alias_max, "MQTT-3.3.2-11",
         "Topic Alias over the client's maximum");
    rule(v, alias <= REFEREE_ALIASES, "",
         "Topic Alias over what a test can follow");
}

/* The topic of a delivery; empty if it cannot be told. */
static struct mqtt_bytes alias_heard(struct verdict *v, struct referee *r,
                                     const struct mqtt_packet *p)
{
    struct mqtt_bytes topic = p->publish.topic;
    uint16_t alias = p->props.topic_alias;
    if (!MQTT_HAS(&p->props, MQTT_TOPIC_ALIAS) || alias > REFEREE_ALIASES)
        return topic;
    if (topic.n > 0) {
        free(r->aliases[alias]);
        r->aliases[alias] = (char *)mem_new(topic.n + 1);
        memcpy(r->aliases[alias], topic.p, topic.n);
        return topic;
    }
    rule(v, r->aliases[alias] != NULL, "MQTT-3.3.2-7",
         "a Topic Alias that was never set on this connection");
    r->aliased++;
    if (r->aliases[alias] != NULL) {
        topic.p = (const uint8_t *)r->aliases[alias];
        topic.n = strlen(r->aliases[alias]);
    }
    return topic;
}

/* Identifier and window of a delivery. */
static void delivery_heard(struct verdict *v, struct referee *r,
                           const struct mqtt_publish *p)
{
    uint16_t id = p->packet_id;
    if (p->qos == 0) {
        rule(v, !p->dup, "MQTT-3.3.1-2", "DUP 1 at QoS 0");
        return;
    }
    rule(v, id != 0, "MQTT-2.2.1-4", "Packet Identifier 0");
    rule(v, !p->dup || !id_get(r->open_ids, id), "MQTT-4.4.0-1",
         "sent again on the same connection");
    rule(v, !id_get(r->open_ids, id), "MQTT-2.2.1-4",
         "a Packet Identifier that is in use");
    if (id_add(r->open_ids, id))
        r->open++;
    rule(v, r->open <= r->receive_max, "MQTT-3.3.4-9",
         "over the client's Receive Maximum");
}

static void connack_heard(struct referee *r, const struct mqtt_packet *p)
{
    const struct mqtt_properties *props = &p->props;
    if (r->connack++ > 0)
        return;
    r->accepted = p->reason == 0;
    r->server_packet_max = props->maximum_packet_size;
    r->server_alias_max = props->topic_alias_maximum;
    if (MQTT_HAS(props, MQTT_RECEIVE_MAXIMUM))
        r->server_receive_max = props->receive_maximum;
    if (MQTT_HAS(props, MQTT_MAXIMUM_QOS))
        r->server_qos_max = props->maximum_qos;
    if (MQTT_HAS(props, MQTT_RETAIN_AVAILABLE))
        r->server_retain = props->retain_available;
    if (MQTT_HAS(props, MQTT_SERVER_KEEP_ALIVE))
        r->keep_alive = props->server_keep_alive;
}

/* Frees the Packet Identifiers of what the server has answered. */
static void answer_heard(struct referee *r, const struct mqtt_packet *p)
{
    uint16_t id = p->packet_id;
    if (is_last(p) && id_del(r->sent_publishes, id)) {
        r->sent_open--;
        id_del(r->sent_ids, id);
    }
    if ((p->type == MQTT_SUBACK || p->type == MQTT_UNSUBACK) &&
        !id_get(r->sent_publishes, id))
        id_del(r->sent_ids, id);
}

/* What is particular to some types. */
static void type_heard(struct verdict *v, struct referee *r,
                       const struct mqtt_packet *p, struct mqtt_bytes *topic)
{
    switch (p->type) {
    case MQTT_CONNACK:
        rule_connack(v, r, p);
        connack_heard(r, p);
        break;
    case MQTT_PUBLISH:
        rule_alias(v, r, p);
        *topic = alias_heard(v, r, p);
        rule(v, !has_wildcard(*topic), "MQTT-3.3.2-2", "a wildcard in a topic");
        delivery_heard(v, r, &p->publish);
        break;
    case MQTT_DISCONNECT:
        rule(v, !MQTT_HAS(&p->props, MQTT_SESSION_EXPIRY_INTERVAL),
             "MQTT-3.14.2-2", "a Session Expiry Interval from a server");
        r->goodbye++;
        break;
    case MQTT_AUTH:
        rule_auth(v, r, p);
        break;
    default:
        answer_heard(r, p);
        break;
    }
}

const char *referee_heard(struct referee *r, const struct mqtt_packet *p,
                          size_t size, struct mqtt_bytes *topic,
                          const char **what)
{
    struct verdict v = {NULL, ""};
    topic->p = NULL;
    topic->n = 0;
    rule_order(&v, r, p);
    rule_wishes(&v, r, p, size);
    rule_reasons(&v, p);
    type_heard(&v, r, p, topic);
    *what = v.what;
    return v.statement;
}
