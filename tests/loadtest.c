/*
 * loadtest.c - long queues across a kill -9, and what they cost.
 *
 *     loadtest [one [sessions [each]]]     10000 1000 1000
 *     loadtest -w                          the walkthrough, for memcheck
 *
 * Each case runs the real broker on a fresh directory:
 *
 *     one      1 session, `one` messages of 1 KiB
 *     own      `sessions` sessions, `each` messages for each, every session
 *              on a topic of its own: one message for each delivery
 *     common   the same number of deliveries, all sessions on one topic:
 *              `each` messages that fan out
 *     cut      as `own`, and the broker is killed once more when two thirds
 *              are delivered and the ledger is being cleaned
 *
 *     sessions join and leave -> messages are published at QoS 1 -> SIGKILL
 *       -> restart -> SIGTERM -> restart with the index -> SIGTERM
 *       -> restart, the index removed -> sessions are resumed and drained
 *       -> SIGTERM -> restart: nothing may be left -> SIGTERM
 *
 * A line of figures is printed for each.  bytes_per_delivery is the growth of
 * resident memory by the queueing, divided by the queued deliveries;
 * restarted_per_delivery is the same after the restart.  recovered_ms is how
 * long the start took after SIGKILL, indexed_ms with the index, scanned_ms
 * without it.  headers_per_second is how many records' headers store.c reads
 * back and takes apart in a second of processor time, without the index and
 * without making anything of them.  A table of all that ends the output.
 *
 *     again      delivered again with DUP after a kill, as is right
 *     lost       not delivered            disorder   not in the order of
 *     repeated   delivered twice                     publishing
 *     altered    not the bytes (topic, payload, QoS) that were published
 *     errors     refusals, packets that make no sense, messages left over
 *
 * All but `again` must be 0; then so is the exit status.  The payload depends
 * on the session and the number of the message alone, so that nothing need be
 * kept to compare it with.
 *
 *   1. Figures       memory, disk, the ready line
 *   2. Messages      what is sent and what must come
 *   3. Joining       sessions are made and left alone
 *   4. Publishing    one publisher, its window always full
 *   5. Draining      a few sessions at a time in one poll()
 *   6. Cases
 *   7. Walkthrough   a little of everything, over four lives of the broker
 */
#include <dirent.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "store.h"

#define SLOTS 32          /* connections at a time */
#define PAYLOAD_MAX 1024  /* bytes of the largest payload */
#define SIZE_SMALL 64     /* bytes of a payload in the large cases */
#define BURST 131072      /* bytes sent before the answers are read again */
#define COMMON UINT32_MAX /* the "session" of messages that are for all */
#define EXPIRY 86400      /* s */

/* What is asked for. */
struct plan {
    const char *name;
    uint32_t sessions;
    uint32_t each; /* messages for each session */
    size_t size;   /* bytes of a payload, 8 or more */
    int common;    /* 1 = all sessions on one topic */
    int cut;       /* 1 = killed while it drains */
};

/* One connection of a session that is joined or drained. */
struct slot {
    struct client client; /* fd -1 = the slot is free */
    struct buf out;       /* answers of this turn */
    uint32_t session;
    int heard; /* a PUBLISH came since the last PINGREQ */
    int quiet; /* PINGRESPs in a row with nothing before them */
};

struct figures {
    uint64_t deliveries;                     /* that were queued */
    uint64_t publish_ms, drain_ms;
    uint64_t killed_ms, indexed_ms, scanned_ms; /* of the starts */
    uint64_t before, queued, restarted; /* resident memory, KiB */
    uint64_t disk; /* bytes of the ledger, when queued */
    double headers; /* records read per second by store.c alone */
    uint64_t delivered, again, lost, repeated, disorder, altered, errors;
};

struct test {
    struct plan plan;
    struct client_broker broker;
    char dir[64];
    struct slot slot[SLOTS];
    uint32_t next;    /* the next session to be resumed */
    uint64_t cut;     /* kill when so many are delivered; 0 = do not */
    uint8_t *got;     /* by session and number: 1 = delivered */
    uint32_t *newest; /* by session: one more than the highest number */
    struct figures fig;
};

/* ============================ 1. Figures ================================= */

/* Resident memory in KiB; 0 = the system does not say. */
static uint64_t memory_of(pid_t pid)
{
    char line[256];
    unsigned long kib = 0;
    FILE *f;

    snprintf(line, sizeof line, "/proc/%ld/status", (long)pid);
    f = fopen(line, "r");
    while (f != NULL && kib == 0 && fgets(line, sizeof line, f) != NULL)
        sscanf(line, "VmRSS: %lu", &kib);
    if (f != NULL)
        fclose(f);
    if (kib > 0)
        return kib;
    snprintf(line, sizeof line, "ps -o rss= -p %ld", (long)pid);
    f = popen(line, "r");
    if (f != NULL && fscanf(f, "%lu", &kib) != 1)
        kib = 0;
    if (f != NULL)
        pclose(f);
    return kib;
}

/* Bytes of the files in the directory that end in .log or are the index. */
static uint64_t disk_of(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    struct stat status;
    uint64_t sum = 0;
    char name[512];

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        int n = snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (n <= 0 || (size_t)n >= sizeof name || stat(name, &status) != 0)
            continue;
        if (strstr(entry->d_name, ".log") != NULL ||
            strcmp(entry->d_name, "index") == 0)
            sum += (uint64_t)status.st_size;
    }
    if (dir != NULL)
        closedir(dir);
    return sum;
}

/* A number of the ready line; UINT64_MAX = it is not there. */
static uint64_t ready_number(const struct test *t, const char *key)
{
    const char *at = strstr(t->broker.ready, key);

    return at == NULL ? UINT64_MAX : strtoull(at + strlen(key), NULL, 10);
}

/* Says what went wrong; always -1. */
static int fail(struct test *t, const char *what)
{
    t->fig.errors++;
    fprintf(stderr, "loadtest: %s: %s\n", t->plan.name, what);
    return -1;
}

static int broker_up(struct test *t)
{
    char said[1024];

    if (client_broker_start(&t->broker, t->dir, NULL) == 0)
        return 0;
    client_broker_log(&t->broker, said, sizeof said);
    fprintf(stderr, "%s", said);
    return fail(t, "the broker does not start");
}

/* 0 = it ended as it should by this signal. */
static int broker_down(struct test *t, int number)
{
    int status = client_broker_end(&t->broker, number);
    char said[1024];

    client_broker_log_end(&t->broker, said, sizeof said);
    client_broker_forget(&t->broker);
    if (number == SIGKILL ? status != -1 && WIFSIGNALED(status) : status == 0)
        return 0;
    fprintf(stderr, "%s", said);
    return fail(t, "the broker ended in its own way");
}

/* ============================ 2. Messages ================================ */

static void number_put(uint8_t *p, uint32_t number)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(number >> (24 - 8 * i));
}

static uint32_t number_get(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 |
           p[3];
}

/* Session, number, then bytes of a generator that both of them seed. */
static void payload_make(uint8_t *p, size_t n, uint32_t session,
                         uint32_t number)
{
    uint64_t x = ((uint64_t)session << 32 | number) * 2654435761u + 1;

    number_put(p, session);
    number_put(p + 4, number);
    for (size_t i = 8; i < n; i++) {
        if (i % 8 == 0) {
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
        }
        p[i] = (uint8_t)(x >> (8 * (i % 8)));
    }
}

static struct mqtt_bytes topic_make(char *text, size_t cap, uint32_t session)
{
    struct mqtt_bytes topic;
    int n = session == COMMON ? snprintf(text, cap, "load/all")
                              : snprintf(text, cap, "load/%" PRIu32, session);

    topic.p = (const uint8_t *)text;
    topic.n = (size_t)n;
    return topic;
}

static void packet_put(struct buf *out, const struct mqtt_packet *packet)
{
    size_t n = mqtt_packet_encode(packet, NULL, 0);

    out->n += mqtt_packet_encode(packet, buf_room(out, n), n);
}

static void short_put(struct buf *out, uint8_t type, uint16_t packet_id)
{
    struct mqtt_packet packet;

    memset(&packet, 0, sizeof packet);
    packet.type = type;
    packet.packet_id = packet_id;
    packet_put(out, &packet);
}

static void connect_put(struct buf *out, uint32_t session)
{
    struct mqtt_packet packet;
    char id[24];

    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_CONNECT;
    packet.connect.client_id.p = (const uint8_t *)id;
    packet.connect.client_id.n =
        (size_t)snprintf(id, sizeof id, "load%" PRIu32, session);
    packet.props.has = (uint64_t)1 << MQTT_SESSION_EXPIRY_INTERVAL;
    packet.props.session_expiry_interval = EXPIRY;
    packet_put(out, &packet);
}

static void subscribe_put(struct buf *out, uint32_t session)
{
    struct mqtt_subscription s;
    struct mqtt_packet packet;
    uint8_t list[64];
    char text[32];

    memset(&packet, 0, sizeof packet);
    memset(&s, 0, sizeof s);
    s.filter = topic_make(text, sizeof text, session);
    s.qos = 1;
    packet.type = MQTT_SUBSCRIBE;
    packet.packet_id = 1;
    packet.list.p = list;
    packet.list.n = mqtt_subscribe_add(list, sizeof list, &s);
    packet_put(out, &packet);
}

/* The n-th message of the plan: round-robin over the sessions, which makes
 * reading one session's queue back as scattered as it can be. */
static void publish_put(const struct test *t, struct buf *out, uint64_t n)
{
    const struct plan *plan = &t->plan;
    uint8_t payload[PAYLOAD_MAX];
    uint32_t session = COMMON, number = (uint32_t)n;
    struct mqtt_packet packet;
    char text[32];

    if (!plan->common) {
        session = (uint32_t)(n % plan->sessions);
        number = (uint32_t)(n / plan->sessions);
    }
    payload_make(payload, plan->size, session, number);
    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_PUBLISH;
    packet.publish.qos = 1;
    packet.publish.packet_id = (uint16_t)(n % 65535 + 1);
    packet.publish.topic = topic_make(text, sizeof text, session);
    packet.publish.payload.p = payload;
    packet.publish.payload.n = plan->size;
    packet_put(out, &packet);
}

/* Is it, byte for byte, a message of this session?  *number: which. */
static int publish_check(const struct test *t, uint32_t session,
                         const struct mqtt_publish *p, uint32_t *number)
{
    uint8_t payload[PAYLOAD_MAX];
    struct mqtt_bytes topic;
    char text[32];

    session = t->plan.common ? COMMON : session;
    topic = topic_make(text, sizeof text, session);
    if (p->qos != 1 || p->retain || p->payload.n != t->plan.size ||
        p->topic.n != topic.n || memcmp(p->topic.p, topic.p, topic.n) != 0)
        return 0;
    *number = number_get(p->payload.p + 4);
    payload_make(payload, t->plan.size, session, *number);
    return *number < t->plan.each &&
           memcmp(payload, p->payload.p, t->plan.size) == 0;
}

/* ============================ 3. Joining ================================= */

static void slot_close(struct slot *s)
{
    client_close(&s->client);
    buf_free(&s->out);
}

static int slot_flush(struct slot *s)
{
    int rc = client_send_bytes(&s->client, s->out.p, s->out.n);

    buf_take(&s->out, s->out.n);
    return rc;
}

/* CONNECT, SUBSCRIBE and DISCONNECT in one go: no client need wait for
 * CONNACK (3.1.4). */
static int join_ask(struct test *t, struct slot *s, uint32_t session)
{
    if (client_open(&s->client, t->broker.port) != 0)
        return -1;
    connect_put(&s->out, session);
    subscribe_put(&s->out, t->plan.common ? COMMON : session);
    short_put(&s->out, MQTT_DISCONNECT, 0);
    return slot_flush(s);
}

static int join_hear(struct slot *s)
{
    struct mqtt_packet packet;

    if (client_expect(&s->client, MQTT_CONNACK, &packet) != 0 ||
        packet.reason != 0 ||
        client_expect(&s->client, MQTT_SUBACK, &packet) != 0 ||
        packet.list.n != 1 || packet.list.p[0] != 1)
        return -1;
    return client_expect_eof(&s->client);
}

static int join_all(struct test *t)
{
    for (uint32_t first = 0; first < t->plan.sessions; first += SLOTS) {
        uint32_t n = t->plan.sessions - first;
        int rc = 0;

        n = n < SLOTS ? n : SLOTS;
        for (uint32_t i = 0; i < n && rc == 0; i++)
            rc = join_ask(t, &t->slot[i], first + i);
        for (uint32_t i = 0; i < n && rc == 0; i++)
            rc = join_hear(&t->slot[i]);
        for (uint32_t i = 0; i < n; i++)
            slot_close(&t->slot[i]);
        if (rc != 0)
            return fail(t, "a session cannot be made");
    }
    return 0;
}

/* ============================ 4. Publishing ============================== */

/* All PUBACKs that are there, at least one: they come in the order of the
 * PUBLISH packets [MQTT-4.6.0-2]. */
static int acks_read(struct client *c, uint64_t sent, uint64_t *acked)
{
    struct mqtt_packet packet;
    enum client_got got;
    int wait = CLIENT_WAIT;

    while (*acked < sent &&
           (got = client_read(c, &packet, wait)) != CLIENT_SILENCE) {
        if (got != CLIENT_PACKET || packet.type != MQTT_PUBACK ||
            packet.reason != 0 || packet.packet_id != *acked % 65535 + 1)
            return -1;
        ++*acked;
        wait = 0;
    }
    return wait == 0 ? 0 : -1;
}

static int publish_window(const struct mqtt_packet *ack)
{
    return MQTT_HAS(&ack->props, MQTT_RECEIVE_MAXIMUM)
               ? ack->props.receive_maximum
               : 65535; /* 3.2.2.3.3 */
}

/* Keeps the broker's Receive Maximum in use (3.3.4) until all is taken. */
static int publish_all(struct test *t)
{
    uint64_t all =
        (uint64_t)t->plan.each * (t->plan.common ? 1 : t->plan.sessions);
    uint64_t start = client_clock(), sent = 0, acked = 0, window;
    struct mqtt_packet ack;
    struct buf out = {0};
    struct client c;
    int rc;

    if (client_connect(&c, t->broker.port, "publisher", 1, 0, &ack) != 0)
        return fail(t, "the publisher cannot connect");
    window = (uint64_t)publish_window(&ack);
    for (rc = 0; acked < all && rc == 0;) {
        while (sent < all && sent - acked < window && out.n < BURST)
            publish_put(t, &out, sent++);
        rc = client_send_bytes(&c, out.p, out.n);
        buf_take(&out, out.n);
        if (rc == 0)
            rc = acks_read(&c, sent, &acked);
    }
    buf_free(&out);
    client_leave(&c);
    t->fig.publish_ms = client_clock() - start;
    t->fig.deliveries = (uint64_t)t->plan.each * t->plan.sessions;
    return rc == 0 ? 0 : fail(t, "a message was not acknowledged");
}

/* ============================ 5. Draining ================================ */

static int slot_resume(struct test *t, struct slot *s)
{
    uint32_t session = t->next++;

    memset(s, 0, sizeof *s);
    s->session = session;
    if (client_open(&s->client, t->broker.port) != 0)
        return fail(t, "no connection");
    connect_put(&s->out, session);
    return slot_flush(s) == 0 ? 0 : fail(t, "no connection");
}

static void slot_deliver(struct test *t, struct slot *s,
                         const struct mqtt_publish *p)
{
    uint32_t number = 0, *newest = &t->newest[s->session];
    uint8_t *got;

    s->heard = 1;
    short_put(&s->out, MQTT_PUBACK, p->packet_id);
    if (!publish_check(t, s->session, p, &number)) {
        t->fig.altered++;
        return;
    }
    got = &t->got[(size_t)s->session * t->plan.each + number];
    if (*got && t->plan.cut && p->dup)
        t->fig.again++;
    else if (*got)
        t->fig.repeated++;
    else
        t->fig.delivered++;
    t->fig.disorder += !*got && number < *newest;
    *newest = number >= *newest ? number + 1 : *newest;
    *got = 1;
}

/* Two quiet PINGRESPs in a row show that nothing more comes; one alone may
 * have been written before what our last acknowledgements made room for. */
static int slot_pong(struct slot *s)
{
    s->quiet = s->heard ? 0 : s->quiet + 1;
    s->heard = 0;
    if (s->quiet == 2)
        return 1;
    short_put(&s->out, MQTT_PINGREQ, 0);
    return 0;
}

/* 1 = the session is drained, 0 = go on, -1 = it is of no use. */
static int slot_packet(struct test *t, struct slot *s,
                       const struct mqtt_packet *packet)
{
    switch (packet->type) {
    case MQTT_CONNACK:
        if (packet->reason != 0 || !packet->session_present)
            return fail(t, "a session is gone");
        short_put(&s->out, MQTT_PINGREQ, 0);
        return 0;
    case MQTT_PUBLISH:
        slot_deliver(t, s, &packet->publish);
        return 0;
    case MQTT_PINGRESP:
        return slot_pong(s);
    default:
        return fail(t, "a packet that makes no sense");
    }
}

/* All that has arrived; results as above. */
static int slot_read(struct test *t, struct slot *s)
{
    struct mqtt_packet packet;
    enum client_got got;
    int rc = 0;

    while (rc == 0 &&
           (got = client_read(&s->client, &packet, 0)) != CLIENT_SILENCE)
        rc = got == CLIENT_PACKET ? slot_packet(t, s, &packet)
                                  : fail(t, "a connection is lost");
    if (rc == 1)
        short_put(&s->out, MQTT_DISCONNECT, 0);
    if (slot_flush(s) != 0 && rc == 0)
        rc = fail(t, "a connection is lost");
    if (rc == 1 && client_expect_eof(&s->client) != 0)
        rc = fail(t, "DISCONNECT does not end a connection");
    return rc;
}

/* Fills free slots; returns how many are in use, or -1. */
static int drain_fill(struct test *t, struct pollfd *p)
{
    int used = 0;

    for (size_t i = 0; i < SLOTS; i++) {
        struct slot *s = &t->slot[i];
        if (s->client.fd < 0 && t->next < t->plan.sessions &&
            slot_resume(t, s) != 0)
            return -1;
        p[i].fd = s->client.fd;
        p[i].events = POLLIN;
        p[i].revents = 0;
        used += s->client.fd >= 0;
    }
    return used;
}

/* One look at all slots.  0, or -1. */
static int drain_step(struct test *t, struct pollfd *p)
{
    int rc = 0;

    if (poll(p, SLOTS, CLIENT_WAIT) <= 0)
        return fail(t, "deliveries have ceased");
    for (size_t i = 0; i < SLOTS && rc >= 0; i++) {
        if (p[i].revents == 0)
            continue;
        rc = slot_read(t, &t->slot[i]);
        if (rc != 0)
            slot_close(&t->slot[i]);
    }
    return rc < 0 ? -1 : 0;
}

/* Until all sessions are drained, or the broker is to be killed. */
static int drain_all(struct test *t)
{
    uint64_t start = client_clock();
    struct pollfd p[SLOTS];
    int used, rc = 0;

    t->next = 0;
    while (rc == 0 && (used = drain_fill(t, p)) != 0 &&
           (t->cut == 0 || t->fig.delivered < t->cut))
        rc = used < 0 ? -1 : drain_step(t, p);
    for (size_t i = 0; i < SLOTS; i++)
        slot_close(&t->slot[i]);
    t->fig.drain_ms += client_clock() - start;
    return rc;
}

/* ============================ 6. Cases =================================== */

static void case_print(const struct test *t)
{
    const struct figures *f = &t->fig;
    double n = f->deliveries > 0 ? (double)f->deliveries : 1;
    double base = (double)f->before * 1024;

    printf("loadtest case=%s sessions=%" PRIu32 " each=%" PRIu32
           " payload=%zu queued=%" PRIu64 " publish_ms=%" PRIu64
           " rss_before_kib=%" PRIu64 " rss_queued_kib=%" PRIu64
           " rss_restarted_kib=%" PRIu64 " bytes_per_delivery=%.1f"
           " restarted_per_delivery=%.1f disk_bytes=%" PRIu64
           " recovered_ms=%" PRIu64 " indexed_ms=%" PRIu64
           " scanned_ms=%" PRIu64 " headers_per_second=%.0f drain_ms=%" PRIu64
           " delivered=%" PRIu64 " again=%" PRIu64 " lost=%" PRIu64
           " repeated=%" PRIu64 " disorder=%" PRIu64 " altered=%" PRIu64
           " errors=%" PRIu64 "\n",
           t->plan.name, t->plan.sessions, t->plan.each, t->plan.size,
           f->deliveries, f->publish_ms, f->before, f->queued, f->restarted,
           ((double)f->queued * 1024 - base) / n,
           ((double)f->restarted * 1024 - base) / n, f->disk, f->killed_ms,
           f->indexed_ms, f->scanned_ms, f->headers, f->drain_ms, f->delivered,
           f->again, f->lost, f->repeated, f->disorder, f->altered, f->errors);
    fflush(stdout);
}

/* Everything up to the kill. */
static int case_queue(struct test *t)
{
    if (broker_up(t) != 0 || join_all(t) != 0)
        return -1;
    t->fig.before = memory_of(t->broker.pid);
    if (publish_all(t) != 0)
        return -1;
    t->fig.queued = memory_of(t->broker.pid);
    if (broker_down(t, SIGKILL) != 0)
        return -1;
    t->fig.disk = disk_of(t->dir);
    return 0;
}

/* The second kill, while the queues are drained and the ledger is cleaned. */
static int case_cut(struct test *t)
{
    t->cut = t->fig.deliveries * 2 / 3;
    if (drain_all(t) != 0 || broker_down(t, SIGKILL) != 0)
        return -1;
    t->cut = 0;
    return broker_up(t);
}

/* A start that must find all that was queued.  *ms: how long it took. */
static int case_start(struct test *t, uint64_t *ms)
{
    uint64_t messages =
        (uint64_t)t->plan.each * (t->plan.common ? 1 : t->plan.sessions);

    if (broker_up(t) != 0)
        return -1;
    *ms = ready_number(t, "recovered_ms=");
    if (ready_number(t, "sessions=") != t->plan.sessions ||
        ready_number(t, "messages=") != messages)
        return fail(t, t->broker.ready);
    return 0;
}

/* Reads the ledger, which has no index and no broker, as a start does. */
static int case_scan(struct test *t)
{
    struct store_options options;
    struct store_record record;
    struct store_field field;
    char error[STORE_ERROR_MAX];
    clock_t start = clock();
    struct store *st;
    uint64_t count = 0;
    int more = -1;

    memset(&options, 0, sizeof options);
    options.dir = t->dir;
    st = store_open(&options, (uint64_t)time(NULL) * 1000, error);
    while (st != NULL && (more = store_replay_next(st, &record)) > 0) {
        count++;
        while (store_field_next(st, &record, &field) > 0)
            continue;
    }
    t->fig.headers = (double)count * CLOCKS_PER_SEC /
                     (double)(clock() - start + 1);
    if (st != NULL)
        store_close(st, 0);
    return more == 0 ? 0 : fail(t, "the ledger cannot be read");
}

/* An orderly end, and a start with the index that it left; once more, and the
 * index is removed. */
static int case_index(struct test *t)
{
    char index[80];

    snprintf(index, sizeof index, "%s/index", t->dir);
    if (broker_down(t, SIGTERM) != 0 ||
        case_start(t, &t->fig.indexed_ms) != 0 || broker_down(t, SIGTERM) != 0)
        return -1;
    if (unlink(index) != 0)
        return fail(t, "there is no index");
    if (case_scan(t) != 0)
        return -1;
    return case_start(t, &t->fig.scanned_ms);
}

/* Everything after the kill. */
static int case_resume(struct test *t)
{
    if (case_start(t, &t->fig.killed_ms) != 0)
        return -1;
    t->fig.restarted = memory_of(t->broker.pid);
    if (case_index(t) != 0 || (t->plan.cut && case_cut(t) != 0) ||
        drain_all(t) != 0 || broker_down(t, SIGTERM) != 0 ||
        broker_up(t) != 0)
        return -1;
    if (ready_number(t, "messages=") != 0)
        fail(t, "messages are left that were all acknowledged");
    return broker_down(t, SIGTERM);
}

/* 0 = everything arrived as it should.  *fig: its figures. */
static int case_run(const struct plan *plan, struct figures *fig)
{
    struct test *t = (struct test *)mem_new(sizeof *t);
    size_t n = (size_t)plan->sessions * plan->each;
    const struct figures *f = &t->fig;
    int rc = -1;

    t->plan = *plan;
    t->got = (uint8_t *)mem_new(n);
    t->newest = (uint32_t *)mem_new(plan->sessions * sizeof *t->newest);
    for (size_t i = 0; i < SLOTS; i++)
        t->slot[i].client.fd = -1;
    if (client_dir_make(t->dir, sizeof t->dir) != 0)
        fail(t, "no directory");
    else if (case_queue(t) == 0)
        rc = case_resume(t);
    for (size_t i = 0; i < n; i++)
        t->fig.lost += !t->got[i];
    for (size_t i = 0; i < SLOTS; i++)
        slot_close(&t->slot[i]);
    if (t->broker.pid > 0)
        broker_down(t, SIGKILL);
    case_print(t);
    rc |= f->lost + f->repeated + f->disorder + f->altered + f->errors != 0;
    if (rc == 0)
        client_dir_remove(t->dir);
    else
        fprintf(stderr, "loadtest: FAILED; the store is in %s\n", t->dir);
    *fig = *f;
    free(t->got);
    free(t->newest);
    free(t);
    return rc;
}

/* Bytes of resident memory for each queued delivery. */
static double memory_each(const struct figures *f, uint64_t kib)
{
    return ((double)kib - (double)f->before) * 1024 / (double)f->deliveries;
}

/* Of two cases with the same deliveries, `own` pays the entry of a message
 * for each, `common` for each `sessions`-th: from both follows what a delivery
 * takes beside the entry. */
static void table_print(const struct plan *plan, const struct figures *fig,
                        size_t n)
{
    double k = plan[2].sessions, own, common, each;

    printf("\n%-8s %9s %13s %13s %13s %12s\n", "case", "queued",
           "start, killed", "with index", "without", "headers/s");
    for (size_t i = 0; i < n; i++)
        printf("%-8s %9" PRIu64 " %10" PRIu64 " ms %10" PRIu64
               " ms %10" PRIu64 " ms %12.0f\n",
               plan[i].name, fig[i].deliveries, fig[i].killed_ms,
               fig[i].indexed_ms, fig[i].scanned_ms, fig[i].headers);
    for (int again = 0; again < 2 && k > 1; again++) {
        own = memory_each(&fig[1], again ? fig[1].restarted : fig[1].queued);
        common = memory_each(&fig[2], again ? fig[2].restarted : fig[2].queued);
        each = (common * k - own) / (k - 1);
        printf("%s: %.1f bytes for a delivery, %.0f for the entry that all "
               "receivers of a message share\n",
               again ? "after a restart" : "when queued", each, own - each);
    }
}

/* ============================ 7. Walkthrough ============================= */
/*
 * Not a test of what is right (tests/test_*.c are that) but a way through as
 * much of the broker as is quickly done, to be run under a checker of memory:
 *
 *   life 1   a session at each QoS, a will, retained, shared; SIGTERM
 *   life 2   resumed; taken over; QoS 2 left half done; SIGKILL
 *   life 3   PUBREL again; malformed and foreign packets; SIGTERM
 *   life 4   every session is ended; SIGTERM
 */

#define ID "robustmq_client"
#define TOPIC "sensor/temperature"

static void must(struct test *t, int ok, const char *what)
{
    if (!ok)
        fail(t, what);
}

static void walk_connect(struct test *t, struct client *c, const char *id,
                         int clean, int64_t expiry, int present)
{
    struct mqtt_packet ack;
    int rc = client_connect(c, t->broker.port, id, clean, expiry, &ack);

    must(t, rc == 0 && ack.session_present == present, "CONNECT");
}

/* The next packet is this PUBLISH; it is acknowledged, but for PUBCOMP. */
static void walk_hear(struct test *t, struct client *c, const char *payload,
                      uint8_t qos)
{
    struct mqtt_packet packet;
    int rc = client_expect(c, MQTT_PUBLISH, &packet);

    must(t,
         rc == 0 && packet.publish.qos == qos &&
             packet.publish.payload.n == strlen(payload) &&
             memcmp(packet.publish.payload.p, payload, strlen(payload)) == 0,
         payload);
    must(t, rc == 0 && client_answer(c, &packet) == 0, "answer");
}

static void walk_release(struct test *t, struct client *c)
{
    struct mqtt_packet packet;

    must(t,
         client_expect(c, MQTT_PUBREL, &packet) == 0 &&
             client_answer(c, &packet) == 0,
         "PUBREL");
}

static struct mqtt_bytes bytes_of(const char *text)
{
    struct mqtt_bytes b = {(const uint8_t *)text, strlen(text)};
    return b;
}

/* Publishes a message with many properties, to be retained. */
static void walk_retain(struct test *t, struct client *c)
{
    struct mqtt_packet packet, ack;
    uint8_t pair[32];

    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_PUBLISH;
    packet.publish.qos = packet.publish.retain = 1;
    packet.publish.packet_id = 77;
    packet.publish.topic = bytes_of("sensor/state");
    packet.publish.payload = bytes_of("state");
    packet.props.has = (uint64_t)1 << MQTT_MESSAGE_EXPIRY_INTERVAL |
                       (uint64_t)1 << MQTT_PAYLOAD_FORMAT_INDICATOR |
                       (uint64_t)1 << MQTT_RESPONSE_TOPIC;
    packet.props.message_expiry_interval = 3600;
    packet.props.payload_format_indicator = 1;
    packet.props.response_topic = bytes_of("sensor/answer");
    packet.props.verbatim.p = pair;
    packet.props.verbatim.n = mqtt_user_property_encode(
        pair, sizeof pair, bytes_of("unit"), bytes_of("degree"));
    must(t,
         client_send(c, &packet) == 0 &&
             client_expect(c, MQTT_PUBACK, &ack) == 0 && ack.reason < 0x80,
         "retained message");
}

/* A client that dies without DISCONNECT, and whose will is then heard. */
static void walk_will(struct test *t, struct client *watcher)
{
    struct mqtt_packet packet, ack;
    struct client c;

    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_CONNECT;
    packet.connect.clean_start = packet.connect.will_flag = 1;
    packet.connect.client_id = bytes_of("mortal");
    packet.connect.will_topic = bytes_of("sensor/will");
    packet.connect.will_payload = bytes_of("dead");
    must(t,
         client_open(&c, t->broker.port) == 0 &&
             client_send(&c, &packet) == 0 &&
             client_expect(&c, MQTT_CONNACK, &ack) == 0 && ack.reason == 0,
         "CONNECT with a will");
    client_close(&c);
    walk_hear(t, watcher, "dead", 0);
}

static void walk_first(struct test *t)
{
    struct client c, worker, publisher;

    walk_connect(t, &c, ID, 0, CLIENT_NO_EXPIRY, 0);
    must(t, client_subscribe(&c, TOPIC, 2) == 0, "SUBSCRIBE");
    client_leave(&c);
    walk_connect(t, &worker, "worker", 0, EXPIRY, 0);
    must(t,
         client_subscribe(&worker, "$share/team/job/+", 1) == 0 &&
             client_subscribe(&worker, "sensor/#", 1) == 0,
         "SUBSCRIBE");
    walk_connect(t, &publisher, "publisher", 1, 0, 0);
    walk_will(t, &worker);
    must(t,
         client_publish_whole(&publisher, TOPIC, "zero", 0) == 0 &&
             client_publish_whole(&publisher, TOPIC, "one", 1) == 0 &&
             client_publish_whole(&publisher, TOPIC, "two", 2) == 0 &&
             client_publish_whole(&publisher, "job/1", "work", 1) == 0,
         "PUBLISH");
    walk_retain(t, &publisher);
    walk_hear(t, &worker, "zero", 0);
    walk_hear(t, &worker, "one", 1);
    client_close(&worker);
    must(t, broker_down(t, SIGTERM) == 0, "SIGTERM");
    must(t, client_expect_eof(&publisher) == 0, "the publisher is told");
    client_close(&publisher);
}

static void walk_second(struct test *t)
{
    struct client c, again;
    struct mqtt_packet packet;

    walk_connect(t, &c, ID, 0, CLIENT_NO_EXPIRY, 1);
    walk_hear(t, &c, "zero", 0);
    walk_hear(t, &c, "one", 1);
    walk_hear(t, &c, "two", 2);
    walk_connect(t, &again, ID, 0, CLIENT_NO_EXPIRY, 1);
    must(t, client_expect_eof(&c) == 0, "the old connection ends");
    client_close(&c);
    must(t, client_expect(&again, MQTT_PUBREL, &packet) == 0, "PUBREL");
    client_close(&again); /* not answered: it comes again in the next life */
    must(t, broker_down(t, SIGKILL) == 0, "SIGKILL");
}

/* What makes no sense is refused, without harm. */
static void walk_strange(struct test *t)
{
    static const uint8_t old[] = "\x10\x0F\x00\x04MQTT\x04\x02\x00\x00\x00"
                                 "\x03old";
    static const uint8_t reserved[] = "\x82\x08\x00\x01\x00\x00\x02#x\xC0";
    struct client c;
    uint8_t answer[8];

    must(t,
         client_open(&c, t->broker.port) == 0 &&
             client_send_bytes(&c, old, sizeof old - 1) == 0 &&
             client_read_raw(&c, answer, sizeof answer) == 4,
         "a client of MQTT 3.1.1");
    client_close(&c);
    walk_connect(t, &c, "strange", 1, 0, 0);
    must(t,
         client_send_bytes(&c, reserved, sizeof reserved - 1) == 0 &&
             client_expect_eof(&c) == 0,
         "reserved bits of Subscription Options");
    client_close(&c);
    must(t,
         client_open(&c, t->broker.port) == 0 &&
             client_send_bytes(&c, "GET / HTTP/1.1\r\n\r\n", 18) == 0 &&
             client_expect_eof(&c) == 0,
         "another protocol");
    client_close(&c);
}

static void walk_third(struct test *t)
{
    struct client c, worker;

    walk_strange(t);
    walk_connect(t, &c, ID, 0, CLIENT_NO_EXPIRY, 1);
    walk_release(t, &c);
    must(t, client_subscribe(&c, "sensor/state", 1) == 0, "SUBSCRIBE");
    walk_hear(t, &c, "state", 1);
    walk_connect(t, &worker, "worker", 0, EXPIRY, 1);
    must(t, broker_down(t, SIGTERM) == 0, "SIGTERM");
    client_close(&c);
    client_close(&worker);
}

static void walk_fourth(struct test *t)
{
    struct client c;

    walk_connect(t, &c, ID, 1, 0, 0);
    client_leave(&c);
    walk_connect(t, &c, "worker", 1, 0, 0);
    must(t, client_publish_whole(&c, "sensor/state", "", 1) == 0, "PUBLISH");
    must(t, broker_down(t, SIGTERM) == 0, "SIGTERM");
    client_close(&c);
}

/* 0 = nothing of note. */
static int walk_run(void)
{
    static void (*const life[])(struct test *) = {walk_first, walk_second,
                                                  walk_third, walk_fourth};
    struct test *t = (struct test *)mem_new(sizeof *t);
    uint64_t errors;

    t->plan.name = "walkthrough";
    must(t, client_dir_make(t->dir, sizeof t->dir) == 0, "a directory");
    for (size_t i = 0; i < 4 && t->fig.errors == 0; i++)
        if (broker_up(t) == 0)
            life[i](t);
    if (t->broker.pid > 0)
        broker_down(t, SIGKILL);
    errors = t->fig.errors;
    client_dir_remove(t->dir);
    free(t);
    printf("loadtest walkthrough errors=%" PRIu64 "\n", errors);
    return errors == 0 ? 0 : -1;
}

/* An argument, or what stands for it when it is not there. */
static uint32_t count_get(int argc, char **argv, int i, uint32_t otherwise)
{
    unsigned long n = i < argc ? strtoul(argv[i], NULL, 10) : otherwise;

    if (n == 0 || n > 10000000) {
        fprintf(stderr, "usage: loadtest [one [sessions [each]]] | -w\n");
        exit(2);
    }
    return (uint32_t)n;
}

int main(int argc, char **argv)
{
    struct plan plan[4] = {{"one", 1, 10000, 1024, 0, 0},
                           {"own", 1000, 1000, SIZE_SMALL, 0, 0},
                           {"common", 1000, 1000, SIZE_SMALL, 1, 0},
                           {"cut", 1000, 1000, SIZE_SMALL, 0, 1}};
    struct figures fig[4];
    int rc = 0;

    if (argc == 2 && strcmp(argv[1], "-w") == 0)
        return walk_run() == 0 ? 0 : 1;
    plan[0].each = count_get(argc, argv, 1, plan[0].each);
    for (size_t i = 1; i < 4; i++) {
        plan[i].sessions = count_get(argc, argv, 2, plan[i].sessions);
        plan[i].each = count_get(argc, argv, 3, plan[i].each);
    }
    for (size_t i = 0; i < 4; i++)
        rc |= case_run(&plan[i], &fig[i]);
    if (rc == 0)
        table_print(plan, fig, 4);
    return rc == 0 ? 0 : 1;
}
