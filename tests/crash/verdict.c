/*
 * verdict.c - is a recovered server what its clients were promised?
 *
 * Sections
 *   1  the state of each client at the crash, from the story
 *   2  what comes: notes, and answers as a client must give them
 *   3  deliveries: what came, against what may and what must come
 *   4  retained messages, subscriptions, Packet Identifiers
 *   5  the whole
 */
#include "verdict.h"

#include <stdarg.h>
#include <stdio.h>

#define PROBER CLIENTS /* its link */
#define PROBE -2       /* "message" of a probe's PUBLISH */
#define EMPTY -3       /* and of one without payload */

/* One packet that a client was sent. */
struct receipt {
    int client;
    int message;  /* of a PUBLISH; -1 = altered */
    uint8_t type; /* PUBLISH or PUBREL */
    uint8_t qos, dup;
    uint16_t id;
    int topic;    /* of a probe */
    int late;     /* came after the publishers had said things again */
};

struct look {
    const struct story *s;
    size_t point;
    int killed;
    struct world *w;
    uint64_t died;           /* the clock at the crash */
    int epoch[CLIENTS];      /* the last one asked for; -1 = none */
    int certain[CLIENTS];    /* it must be there */
    int present[CLIENTS];    /* Session Present, as told; -1 = not heard */
    struct receipt *receipts;
    size_t count, cap;
    int late;
    uint8_t *used;           /* per delivery: 1 = it came, 2 = as PUBREL */
    uint8_t *again;          /* per message: 1 = was said again */
    uint8_t *extra;          /* per message and client: came without a
                                delivery in the story */
    int retained[2];         /* what r/0 and r/1 hold; -1 = nothing */
    int fresh_heard;         /* messages under Packet Identifiers used again */
    int refused;             /* acknowledgements of 0x80 or more */
    char *why;
    size_t why_cap;
};

static void look_fail(struct look *x, const char *format, ...)
{
    va_list args;
    if (x->why[0] != '\0')
        return;
    va_start(args, format);
    (void)vsnprintf(x->why, x->why_cap, format, args);
    va_end(args);
}

/* ==== 1. the state of each client at the crash ============================ */

/* Had it happened?  Stamps are those of the story. */
static int had(const struct look *x, size_t stamp)
{
    return stamp <= x->point;
}

/* The session that the client last asked for, and whether it must be there:
 * its CONNACK was seen, nothing has ended it, and it cannot have expired
 * (a crash may take the note of when the client left; then it counts from
 * when the broker was last known to live). */
static void look_epochs(struct look *x)
{
    for (int c = 0; c < CLIENTS; c++)
        x->epoch[c] = -1;
    for (size_t i = 0; i < x->s->epoch_count; i++) {
        const struct epoch *e = &x->s->epochs[i];
        int c = e->client;
        if (!had(x, e->asked))
            continue;
        x->epoch[c] = (int)i;
        x->certain[c] =
            had(x, e->told) && !had(x, e->end) &&
            (c != BRIEF || x->w->now < e->told_at + BRIEF_EXPIRY * 1000);
    }
}

/* May this delivery's session be the one that the client has now? */
static int epoch_possible(const struct look *x, int client, int epoch)
{
    if (x->s->epochs[epoch].client != client)
        return 0;
    return x->certain[client] ? epoch == x->epoch[client] : 1;
}

/* ==== 2. what comes ======================================================= */

static int look_retained_topic(const struct mqtt_bytes *topic)
{
    return topic->n == 3 && topic->p[0] == 'r' ? topic->p[2] - '0' : -1;
}

/* The number in the payload, if body and topic are what was published. */
static int look_message(const struct look *x, const struct mqtt_publish *p)
{
    int message;
    const char *topic;
    if (p->payload.n == 5 && memcmp(p->payload.p, "probe", 5) == 0)
        return PROBE;
    if (p->payload.n == 0 && look_retained_topic(&p->topic) >= 0)
        return EMPTY;
    message = story_message(x->s, p->payload);
    if (message < 0)
        return -1;
    topic = x->s->messages[message].topic;
    if (strlen(topic) != p->topic.n ||
        memcmp(topic, p->topic.p, p->topic.n) != 0)
        return -1;
    return message;
}

static void look_note(struct look *x, int client, const struct mqtt_packet *p)
{
    struct receipt *r;
    if (x->count == x->cap) {
        x->cap = x->cap * 2 + 64;
        x->receipts = (struct receipt *)mem_grow(
            x->receipts, x->cap * sizeof *x->receipts);
    }
    r = &x->receipts[x->count++];
    memset(r, 0, sizeof *r);
    r->client = client;
    r->type = p->type;
    r->id = p->packet_id;
    r->late = x->late;
    if (p->type != MQTT_PUBLISH)
        return;
    r->message = look_message(x, &p->publish);
    r->id = p->publish.packet_id;
    r->qos = p->publish.qos;
    r->dup = p->publish.dup;
    r->topic = p->publish.topic.n == 3 ? p->publish.topic.p[2] - '0' : -1;
}

/* The prober sees retained messages and what is told to it by name. */
static void look_prober(struct look *x, const struct mqtt_publish *p)
{
    int topic = look_retained_topic(&p->topic);
    int message = look_message(x, p);
    if (message == -1)
        x->fresh_heard += p->payload.n == 5 &&
                          memcmp(p->payload.p, "fresh", 5) == 0;
    if (topic >= 0 && topic < 2 && p->retain && !x->late)
        x->retained[topic] = message;
}

/* Is this the identifier of a QoS 2 message whose PUBREC left, and which the
 * client had not released?  Then the server must know it. */
static int look_received(const struct look *x, int client, uint16_t id)
{
    for (size_t i = 0; client < CLIENTS && i < x->s->message_count; i++) {
        const struct message *m = &x->s->messages[i];
        if (m->from == client && m->epoch == x->epoch[client] && m->qos == 2 &&
            m->id == id && !m->will && had(x, m->told) &&
            !had(x, m->released))
            return 1;
    }
    return 0;
}

static void look_hear(void *arg, int link, const struct mqtt_packet *p)
{
    struct look *x = (struct look *)arg;
    static const char *const answers[] = {"", "puback", "pubrec"};
    uint16_t id = p->type == MQTT_PUBLISH ? p->publish.packet_id
                                          : p->packet_id;
    if (link == PROBER && p->type == MQTT_PUBLISH)
        look_prober(x, &p->publish);
    else if (p->type == MQTT_PUBLISH || p->type == MQTT_PUBREL)
        look_note(x, link, p);
    if (p->type == MQTT_CONNACK && link < CLIENTS)
        x->present[link] = p->session_present;
    if (p->type == MQTT_PUBACK || p->type == MQTT_PUBREC)
        x->refused += p->reason >= 0x80;
    if (p->type == MQTT_PUBCOMP && p->reason >= 0x80)
        x->refused += look_received(x, link, id);
    if (p->type == MQTT_PUBLISH && p->publish.qos > 0)
        world_say(x->w, link, "%s #%u", answers[p->publish.qos],
                  (unsigned)id);
    if (p->type == MQTT_PUBREL)
        world_say(x->w, link, "pubcomp #%u", (unsigned)id);
    if (p->type == MQTT_PUBREC && p->reason < 0x80)
        world_say(x->w, link, "pubrel #%u", (unsigned)id);
}

static void look_turn(struct look *x)
{
    if (world_turn(x->w) < 0)
        look_fail(x, "the recovered server fails: %s", x->w->error);
}

/* ==== 3. deliveries ======================================================= */

static size_t past(const struct look *x, const struct delivery *d)
{
    return x->killed ? d->past_killed : d->past_cut;
}

/* Must the ledger hold it?  README, "What is promised, and how it is
 * proven". */
static int delivery_firm(const struct look *x, const struct delivery *d)
{
    const struct message *m = &x->s->messages[d->message];
    if (d->qos == 0 && had(x, d->sending))
        return 0; /* it may have been on its way: at most once */
    if (had(x, x->killed ? d->firm_killed : d->firm_cut))
        return 1;
    if (d->qos == 0)
        return 0; /* best effort, whatever was told the publisher */
    if (m->will) /* from CONNACK on, unless taken back or yet to come */
        return m->at_once && had(x, m->told) && !had(x, m->cleared);
    return had(x, d->sent) || (!d->copy && had(x, m->told));
}

/* What is wrong with this PUBLISH, if it is this delivery.  NULL = nothing. */
static const char *publish_wrong(const struct look *x,
                                 const struct receipt *r,
                                 const struct delivery *d)
{
    const struct message *m = &x->s->messages[d->message];
    if (r->qos != d->qos)
        return "comes at another QoS";
    if (had(x, past(x, d)))
        return "was finished, and comes again";
    if (d->qos == 2 && had(x, d->released))
        return "had come as far as PUBREL, and is published again";
    if (d->qos > 0 && had(x, d->sent) && r->id != d->id)
        return "is repeated under another Packet Identifier";
    if (d->qos > 0 && had(x, d->sent) && !r->dup)
        return "is repeated without DUP";
    if (!r->dup && m->expires != 0 && x->w->now >= m->expires &&
        !x->again[d->message])
        return "had expired";
    return NULL;
}

/* The delivery that this PUBLISH is: of those that fit the one with its
 * Packet Identifier, else the first.  -1 = none; *wrong why not. */
static int delivery_of(const struct look *x, const struct receipt *r,
                       const char **wrong)
{
    int found = -1;
    for (size_t i = 0; i < x->s->delivery_count; i++) {
        const struct delivery *d = &x->s->deliveries[i];
        const char *why;
        if (d->message != r->message || x->used[i] || !had(x, d->asked) ||
            !epoch_possible(x, r->client, d->epoch))
            continue;
        why = publish_wrong(x, r, d);
        if (why != NULL)
            *wrong = why;
        else if (found < 0 || (had(x, d->sent) && d->id == r->id && r->dup))
            found = (int)i;
    }
    return found;
}

/* May it come though the story knows of no such delivery?  Only what was said
 * again after the crash, and what is QoS 2 only to whom it had not come. */
static int publish_extra(struct look *x, const struct receipt *r)
{
    uint8_t *extra = &x->extra[r->message * CLIENTS + r->client];
    if (!r->late || !x->again[r->message])
        return 0;
    if (x->s->messages[r->message].qos < 2)
        return 1;
    for (size_t i = 0; i < x->s->delivery_count; i++) {
        const struct delivery *d = &x->s->deliveries[i];
        if (d->message == r->message && had(x, d->asked) &&
            epoch_possible(x, r->client, d->epoch) &&
            (x->used[i] || had(x, d->sent)))
            return 0;
    }
    return ++*extra == 1;
}

static void check_publish(struct look *x, const struct receipt *r,
                          int *last)
{
    const char *wrong = "was never published to it";
    int i;
    if (r->message == PROBE || r->message == EMPTY)
        return;
    if (r->message == -1) {
        look_fail(x, "client %d: a message is altered", r->client);
        return;
    }
    i = delivery_of(x, r, &wrong);
    if (i < 0) {
        if (!publish_extra(x, r))
            look_fail(x, "client %d: message %d #%u qos %u dup %u: %s",
                      r->client, r->message, (unsigned)r->id,
                      (unsigned)r->qos, (unsigned)r->dup, wrong);
        return;
    }
    x->used[i] = 1;
    if (r->late || x->s->messages[r->message].will)
        return;
    if (i < *last)
        look_fail(x, "client %d: message %d comes after %d: out of order",
                  r->client, r->message,
                  x->s->deliveries[*last].message);
    *last = i;
}

/* A PUBREL must follow from a PUBREC that the client had sent, or has sent
 * just now; it is for what was sent last under this Packet Identifier. */
static void check_pubrel(struct look *x, const struct receipt *r)
{
    int found = -1;
    for (size_t i = 0; i < x->count; i++) {
        const struct receipt *p = &x->receipts[i];
        if (p < r && p->client == r->client && p->type == MQTT_PUBLISH &&
            p->qos == 2 && p->id == r->id)
            return;
    }
    for (size_t i = 0; i < x->s->delivery_count; i++) {
        const struct delivery *d = &x->s->deliveries[i];
        if (d->qos == 2 && d->id == r->id && had(x, d->got) &&
            !had(x, past(x, d)) && !x->used[i] &&
            epoch_possible(x, r->client, d->epoch) &&
            (found < 0 || d->sent > x->s->deliveries[found].sent))
            found = (int)i;
    }
    if (found >= 0)
        x->used[found] = 2;
    else
        look_fail(x, "client %d: PUBREL #%u for nothing", r->client,
                  (unsigned)r->id);
}

static void check_receipts(struct look *x)
{
    int last[CLIENTS];
    for (int c = 0; c < CLIENTS; c++)
        last[c] = -1;
    for (size_t i = 0; i < x->count; i++) {
        const struct receipt *r = &x->receipts[i];
        if (r->type == MQTT_PUBLISH)
            check_publish(x, r, &last[r->client]);
        else
            check_pubrel(x, r);
    }
}

/* Acknowledged is a subset of recovered. */
static void check_missing(struct look *x)
{
    for (size_t i = 0; i < x->s->delivery_count; i++) {
        const struct delivery *d = &x->s->deliveries[i];
        const struct message *m = &x->s->messages[d->message];
        int client = x->s->epochs[d->epoch].client;
        if (!x->certain[client] || d->epoch != x->epoch[client] ||
            !had(x, d->asked) || had(x, d->done) || !delivery_firm(x, d))
            continue;
        if (m->expires != 0 && x->w->now >= m->expires && !had(x, d->sent))
            continue;
        if (x->used[i] == 0)
            look_fail(x, "client %d: message %d qos %d was promised, and is "
                         "lost", client, d->message, d->qos);
        else if (x->used[i] == 1 && d->qos == 2 && had(x, d->released))
            look_fail(x, "client %d: message %d: PUBREL is lost", client,
                      d->message);
    }
}

/* ==== 4. retained messages, subscriptions, Packet Identifiers ============= */

/* The newest acknowledged one, or any that was asked for after it. */
static void check_retained(struct look *x, int topic)
{
    const struct story *s = x->s;
    int possible = x->retained[topic] == -1;
    for (size_t i = 0; i < s->message_count; i++) {
        const struct message *m = &s->messages[i];
        int value = m->size > 0 ? (int)i : -1;
        if (!m->retain || m->topic[2] - '0' != topic || !had(x, m->asked))
            continue;
        if (m->qos > 0 && had(x, m->told))
            possible = value == x->retained[topic];
        else
            possible |= value == x->retained[topic];
    }
    if (!possible)
        look_fail(x, "r/%d: message %d is not what it holds", topic,
                  x->retained[topic]);
}

/* Which QoS the session has for the topic: the least and the most that it may
 * be; -1 = not subscribed. */
static void sub_expected(const struct look *x, int epoch, int topic,
                         int *least, int *most)
{
    *least = *most = -1;
    for (size_t i = 0; i < x->s->sub_count; i++) {
        const struct subscription *sub = &x->s->subs[i];
        if (sub->epoch != epoch || sub->topic != topic ||
            !had(x, sub->asked))
            continue;
        if (had(x, sub->told))
            *least = *most = sub->qos;
        *most = sub->qos > *most ? sub->qos : *most;
        *least = sub->qos < *least ? sub->qos : *least;
        if (had(x, sub->un_asked) && !sub->replaced)
            *least = -1;
        if (had(x, sub->un_told))
            *most = -1;
    }
}

/* A probe went out at QoS 2 to each topic, behind all else. */
static void check_subs(struct look *x, int client)
{
    for (int topic = 0; topic < TOPICS; topic++) {
        int least, most, came = -1;
        sub_expected(x, x->epoch[client], topic, &least, &most);
        for (size_t i = 0; i < x->count; i++) {
            const struct receipt *r = &x->receipts[i];
            if (r->client == client && r->type == MQTT_PUBLISH &&
                r->message == PROBE && r->topic == topic)
                came = r->qos;
        }
        if (came < least || came > most)
            look_fail(x, "client %d: subscription to t/%d is %d, not %d..%d",
                      client, topic, came, least, most);
    }
}

/* What the client has not seen acknowledged it says again.  Of a QoS 2
 * message whose PUBREC left, it may have got it or not. */
static void client_repeat(struct look *x, int client)
{
    for (size_t i = 0; i < x->s->message_count; i++) {
        const struct message *m = &x->s->messages[i];
        char *words;
        if (m->from != client || m->epoch != x->epoch[client] || m->will ||
            m->qos == 0 || !had(x, m->asked) || had(x, m->finished))
            continue;
        if (had(x, m->released) ||
            (had(x, m->told) && (i + x->point) % 2 == 0)) {
            world_say(x->w, client, "pubrel #%u", (unsigned)m->id);
            continue;
        }
        x->again[i] = 1;
        words = story_words(x->s, (int)i, 1);
        world_say(x->w, client, "%s", words);
        free(words);
    }
}

/* PUBCOMP said that the Packet Identifier is free: a message under it is a
 * new one.  1 = there was such an identifier. */
static int client_reuse(struct look *x, int client)
{
    for (size_t i = x->s->message_count; i-- > 0;) {
        const struct message *m = &x->s->messages[i];
        if (m->from != client || m->epoch != x->epoch[client] || m->will ||
            m->qos != 2 || !had(x, m->asked))
            continue;
        if (!had(x, m->finished))
            continue;
        world_say(x->w, client, "publish q2 #%u fresh =fresh",
                  (unsigned)m->id);
        return 1;
    }
    return 0;
}

/* ==== 5. the whole ======================================================== */

static void look_at_sessions(struct look *x)
{
    for (int c = 0; c < CLIENTS; c++) {
        world_link_open(x->w, c);
        world_say(x->w, c, "connect c0 id=c%d x=%u", c,
                  c == BRIEF ? BRIEF_EXPIRY : 0xFFFFFFFEu);
    }
    world_link_open(x->w, PROBER);
    world_say(x->w, PROBER, "connect c1 id=probe");
    world_say(x->w, PROBER, "subscribe #1 r/+,q0 fresh,q0");
    look_turn(x);
    for (int c = 0; c < CLIENTS; c++) {
        const struct epoch *e =
            x->epoch[c] >= 0 ? &x->s->epochs[x->epoch[c]] : NULL;
        if (x->certain[c] && x->present[c] != 1)
            look_fail(x, "client %d: its session is lost", c);
        if (e == NULL && x->present[c] != 0)
            look_fail(x, "client %d: a session from nowhere", c);
        if (c == BRIEF && x->present[c] != 0 &&
            x->w->now >= x->died + 1000 + BRIEF_EXPIRY * 1000)
            look_fail(x, "client %d: its session has expired", c);
    }
}

static void look_at_publishers(struct look *x)
{
    int fresh = 0;
    x->late = 1;
    for (int c = 0; c < CLIENTS; c++)
        if (x->certain[c])
            client_repeat(x, c);
    look_turn(x);
    for (int c = 0; c < CLIENTS; c++)
        if (x->certain[c])
            fresh += client_reuse(x, c);
    for (int topic = 0; topic < TOPICS; topic++)
        world_say(x->w, PROBER, "publish q2 #%d t/%d =probe", topic + 1,
                  topic);
    look_turn(x);
    if (x->fresh_heard != fresh)
        look_fail(x, "of %d messages under free Packet Identifiers %d were "
                     "taken as new", fresh, x->fresh_heard);
    if (x->refused > 0)
        look_fail(x, "%d messages are refused", x->refused);
}

static void look_init(struct look *x, const struct story *s, struct world *w)
{
    memset(x, 0, sizeof *x);
    x->s = s;
    x->w = w;
    x->used = (uint8_t *)mem_new(s->delivery_count + 1);
    x->again = (uint8_t *)mem_new(s->message_count + 1);
    x->extra = (uint8_t *)mem_new((s->message_count + 1) * CLIENTS);
    x->retained[0] = x->retained[1] = -1;
    for (int c = 0; c < CLIENTS; c++)
        x->present[c] = -1;
    w->hear = look_hear;
    w->arg = x;
    w->turned = NULL;
}

int verdict(const struct story *s, const struct crash *crash, struct world *w,
            char *why, size_t cap)
{
    struct look x;
    look_init(&x, s, w);
    x.point = crash->point;
    x.killed = crash->killed;
    x.died = crash->again ? w->now : story_time(s, crash->point);
    x.why = why;
    x.why_cap = cap;
    why[0] = '\0';
    look_epochs(&x);
    look_at_sessions(&x);
    look_at_publishers(&x);
    check_receipts(&x);
    check_missing(&x);
    for (int topic = 0; topic < 2; topic++)
        check_retained(&x, topic);
    for (int c = 0; c < CLIENTS; c++)
        if (x.certain[c])
            check_subs(&x, c);
    free(x.receipts);
    free(x.used);
    free(x.again);
    free(x.extra);
    return why[0] == '\0' ? 0 : -1;
}
