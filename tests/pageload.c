/*
 * pageload.c - what the status page costs those who talk MQTT.
 *
 *     pageload [sessions]       100000
 *
 * The real broker, on a fresh directory, gets that many offline sessions, each
 * with a subscription and every tenth with a message queued, and is restarted,
 * so that its longest turn is not one that made them.  Then a client of MQTT
 * in a process of its own publishes to itself at QoS 1 and pings, one after
 * the other without a pause, and times each round trip, while
 *
 *     pages       each page is asked for ASKS times, one after the other; the
 *                 first of them also by CROWD visitors at once
 *     malformed   MALFORMED requests come that are none, CROWD at a time
 *     slow        SLOW visitors send a byte now and then and never finish;
 *                 who is sent away comes again; now and then a good request
 *
 * and again for as long while nobody asks for anything: `quiet`.  A line is
 * printed for each:
 *
 *     bytes      of the answer            answer  ms until it is whole
 *     turns      that it took to be made and sent
 *     longest    ms that no turn of the broker exceeded meanwhile: a bound of
 *                the histogram in /metrics
 *     mqtt       us of the client's round trips, and how many times as long
 *                as when it is quiet
 *
 * The exit status is 1 if an answer is missing or wrong, if one took more than
 * one turn, or if the client of MQTT lost anything; it never depends on how
 * long something took.
 *
 *   1. Clock and complaints
 *   2. Sessions      made, left alone, given messages
 *   3. The client    of MQTT, in its own process
 *   4. Visitors      one request and its answer; /metrics
 *   5. Pages
 *   6. Malformed requests
 *   7. Slow visitors
 *   8. The whole
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client.h"

#define SLOTS 256          /* connections at a time that make sessions */
#define ASKS 100           /* times each page is asked for */
#define COUNTED 20         /* times its turns are counted, at most */
#define SOCKET_TAKES 65536 /* bytes that a socket takes in one turn */
#define MALFORMED 10000    /* requests that are none */
#define CROWD 16           /* visitors at a time */
#define SLOW 200           /* visitors that never finish */
#define SLOW_ROUNDS 50     /* good requests in the presence of those */
#define SLOW_EVERY 100     /* ms between two of these, and two bytes */
#define EXPIRY 86400       /* s */
#define BURST 131072       /* bytes sent before the answers are read again */
#define ANSWER_MAX 8388608 /* bytes of an answer, more than any has */
#define SAMPLES 4000000    /* round trips whose times are kept */
#define LE_MAX 24          /* bounds of a histogram */
#define NAME "device-%08" PRIx32

/* What the client of MQTT saw; times in us. */
struct report {
    uint64_t ms;     /* how long it looked */
    uint64_t trips;  /* round trips */
    uint32_t median; /* of their times */
    uint32_t worst;
    uint32_t lost; /* 1 = an answer was missing or wrong: it has given up */
};

/* The client of MQTT as a process. */
struct watcher {
    pid_t pid;   /* 0 = there is none */
    int order;   /* ms to look for, as uint32_t; 0 = until the next order */
    int reports; /* a struct report for each */
};

/* What /metrics says about the turns, at one moment. */
struct turns {
    uint64_t count;          /* since the start */
    double max;              /* s, the longest */
    double le[LE_MAX];       /* s, rising; the last is infinity */
    uint64_t within[LE_MAX]; /* turns that took no longer */
    size_t n;                /* bounds */
};

struct test {
    struct client_broker broker;
    uint16_t page; /* port of the status page */
    char dir[64];
    uint32_t sessions;
    uint32_t *name; /* the numbers in their names, rising */
    struct watcher watcher;
    uint8_t answer[ANSWER_MAX + 1]; /* the last, ended by a NUL */
    size_t answer_n;                /* bytes of it */
    uint64_t errors;
};

/* ============================ 1. Clock and complaints ==================== */

static uint64_t clock_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* Says what went wrong; always -1. */
static int fail(struct test *t, const char *where, const char *what)
{
    if (t->errors++ < 20)
        fprintf(stderr, "pageload: %s: %s\n", where, what);
    return -1;
}

static int uint32_compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* The middle one; sorts them. */
static uint32_t median_of(uint32_t *all, size_t n)
{
    qsort(all, n, sizeof *all, uint32_compare);
    return n > 0 ? all[n / 2] : 0;
}

static double ratio(uint32_t a, uint32_t b)
{
    return b > 0 ? (double)a / b : 0;
}

/* ============================ 2. Sessions ================================ */

/* The number in the name of the i-th to come.  The factor is odd, so no two
 * are equal; it scatters them, as an order of coming that is the order of the
 * names would be the easy case for a page that sorts. */
static uint32_t name_number(uint32_t i)
{
    return i * 2654435761u;
}

static void packet_put(struct buf *out, const struct mqtt_packet *packet)
{
    size_t n = mqtt_packet_encode(packet, NULL, 0);

    out->n += mqtt_packet_encode(packet, buf_room(out, n), n);
}

static struct mqtt_bytes name_make(char text[24], uint32_t number)
{
    struct mqtt_bytes name;

    name.n = (size_t)snprintf(text, 24, NAME, number);
    name.p = (const uint8_t *)text;
    return name;
}

/* CONNECT, SUBSCRIBE and DISCONNECT in one go: no client need wait for
 * CONNACK (3.1.4).  The filter is the name. */
static void join_put(struct buf *out, uint32_t number)
{
    struct mqtt_subscription s;
    struct mqtt_packet packet;
    uint8_t list[32];
    char text[24];

    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_CONNECT;
    packet.connect.client_id = name_make(text, number);
    packet.props.has = (uint64_t)1 << MQTT_SESSION_EXPIRY_INTERVAL;
    packet.props.session_expiry_interval = EXPIRY;
    packet_put(out, &packet);
    memset(&packet, 0, sizeof packet);
    memset(&s, 0, sizeof s);
    s.filter = name_make(text, number);
    s.qos = 1;
    packet.type = MQTT_SUBSCRIBE;
    packet.packet_id = 1;
    packet.list.p = list;
    packet.list.n = mqtt_subscribe_add(list, sizeof list, &s);
    packet_put(out, &packet);
    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_DISCONNECT;
    packet_put(out, &packet);
}

static int join_ask(struct test *t, struct client *c, uint32_t number)
{
    struct buf out = {0};
    int rc = client_open(c, t->broker.port);

    if (rc == 0) {
        join_put(&out, number);
        rc = client_send_bytes(c, out.p, out.n);
    }
    buf_free(&out);
    return rc;
}

static int join_hear(struct client *c)
{
    struct mqtt_packet packet;

    if (client_expect(c, MQTT_CONNACK, &packet) != 0 || packet.reason != 0 ||
        client_expect(c, MQTT_SUBACK, &packet) != 0 || packet.list.n != 1 ||
        packet.list.p[0] != 1)
        return -1;
    return client_expect_eof(c);
}

/* So many at once that one sync serves many of them. */
static int join_all(struct test *t)
{
    struct client slot[SLOTS];

    for (uint32_t first = 0; first < t->sessions; first += SLOTS) {
        uint32_t left = t->sessions - first, n = left < SLOTS ? left : SLOTS;
        int rc = 0;
        for (uint32_t i = 0; i < n; i++)
            rc |= join_ask(t, &slot[i], name_number(first + i));
        for (uint32_t i = 0; i < n; i++) {
            rc |= slot[i].fd < 0 ? -1 : join_hear(&slot[i]);
            client_close(&slot[i]);
        }
        if (rc != 0)
            return fail(t, "sessions", "one cannot be made");
    }
    return 0;
}

static void publish_put(struct buf *out, uint32_t i)
{
    struct mqtt_packet packet;
    char text[24];

    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_PUBLISH;
    packet.publish.qos = packet.publish.retain = 1;
    packet.publish.packet_id = (uint16_t)(i % 65535 + 1);
    packet.publish.topic = name_make(text, name_number(i * 10));
    packet.publish.payload = packet.publish.topic;
    packet_put(out, &packet);
}

/* Of any message that was published, in their order [MQTT-4.6.0-2]. */
static int ack_hear(struct client *c, uint32_t i)
{
    struct mqtt_packet packet;

    return client_expect(c, MQTT_PUBACK, &packet) == 0 && packet.reason == 0 &&
                   packet.packet_id == i % 65535 + 1
               ? 0
               : -1;
}

/* A message for every tenth, retained too; the broker's Receive Maximum is
 * kept in use (3.3.4). */
static int publish_all(struct test *t)
{
    uint32_t all = (t->sessions + 9) / 10, sent = 0, acked = 0, window = 65535;
    struct mqtt_packet ack;
    struct buf out = {0};
    struct client c;
    int rc = 0;

    if (client_connect(&c, t->broker.port, "publisher", 1, 0, &ack) != 0)
        return fail(t, "messages", "the publisher cannot connect");
    if (MQTT_HAS(&ack.props, MQTT_RECEIVE_MAXIMUM))
        window = ack.props.receive_maximum;
    while (acked < all && rc == 0) {
        while (sent < all && sent - acked < window && out.n < BURST)
            publish_put(&out, sent++);
        rc = client_send_bytes(&c, out.p, out.n);
        buf_take(&out, out.n);
        if (rc == 0)
            rc = ack_hear(&c, acked++);
    }
    buf_free(&out);
    client_leave(&c);
    return rc == 0 ? 0 : fail(t, "messages", "one was not acknowledged");
}

/* ============================ 3. The client ============================== */

/* What is sent to itself comes back, and is acknowledged both ways. */
static int trip_publish(struct client *c)
{
    struct mqtt_packet packet;
    uint16_t id = (uint16_t)(c->last_id % 65535 + 1);
    int acked = 0, heard = 0;

    c->last_id = id;
    if (client_publish(c, "watcher", "x", 1, 1, id, 0) != 0)
        return -1;
    while (!acked || !heard) {
        if (client_read(c, &packet, CLIENT_WAIT) != CLIENT_PACKET)
            return -1;
        if (packet.type == MQTT_PUBACK && !acked && packet.reason == 0 &&
            packet.packet_id == id)
            acked = 1;
        else if (packet.type == MQTT_PUBLISH && !heard && !packet.publish.dup)
            heard = client_answer(c, &packet) == 0;
        else
            return -1;
    }
    return 0;
}

static int trip_ping(struct client *c)
{
    struct mqtt_packet packet;

    return client_send_short(c, MQTT_PINGREQ, 0, 0) == 0
               ? client_expect(c, MQTT_PINGRESP, &packet)
               : -1;
}

/* 1 = there is an order (or nobody is left to give one). */
static int order_there(int fd)
{
    struct pollfd p = {fd, POLLIN, 0};

    return poll(&p, 1, 0) > 0;
}

/* Round trips for so many ms; 0: until there is an order; at least one. */
static void watch(struct client *c, int order, uint32_t ms, uint32_t *times,
                  struct report *r)
{
    uint64_t start = clock_us(), now = start;

    memset(r, 0, sizeof *r);
    do {
        uint64_t before = clock_us();
        r->lost = (r->trips % 2 == 0 ? trip_publish(c) : trip_ping(c)) != 0;
        now = clock_us();
        times[r->trips % SAMPLES] = (uint32_t)(now - before);
        if (now - before > r->worst)
            r->worst = (uint32_t)(now - before);
        r->trips++;
    } while (!r->lost && (ms > 0 ? now - start < (uint64_t)ms * 1000
                                 : !order_there(order)));
    r->ms = (now - start) / 1000;
    r->median =
        median_of(times, r->trips < SAMPLES ? (size_t)r->trips : SAMPLES);
}

/* The process: an order, a report.  Never returns. */
static void watcher_live(uint16_t port, int order, int reports)
{
    uint32_t *times = (uint32_t *)mem_new(SAMPLES * sizeof *times);
    struct mqtt_packet ack;
    struct report r;
    struct client c;
    uint32_t ms, end;
    int there = client_connect(&c, port, "watcher", 1, 0, &ack) == 0 &&
                client_subscribe(&c, "watcher", 1) == 0;

    while (read(order, &ms, sizeof ms) == (ssize_t)sizeof ms) {
        memset(&r, 0, sizeof r);
        r.lost = 1;
        if (there)
            watch(&c, order, ms, times, &r);
        there = there && !r.lost;
        if (ms == 0 && read(order, &end, sizeof end) != (ssize_t)sizeof end)
            break;
        if (write(reports, &r, sizeof r) != (ssize_t)sizeof r)
            break;
    }
    if (there)
        client_leave(&c);
    _exit(0);
}

static int watcher_start(struct test *t)
{
    int order[2], reports[2];

    if (pipe(order) != 0 || pipe(reports) != 0)
        return fail(t, "mqtt", "no pipe");
    t->watcher.pid = fork();
    if (t->watcher.pid == 0) {
        close(order[1]);
        close(reports[0]);
        watcher_live(t->broker.port, order[0], reports[1]);
    }
    close(order[0]);
    close(reports[1]);
    t->watcher.order = order[1];
    t->watcher.reports = reports[0];
    return t->watcher.pid > 0 ? 0 : fail(t, "mqtt", "no process");
}

static void watcher_end(struct test *t)
{
    if (t->watcher.pid <= 0)
        return;
    close(t->watcher.order);
    close(t->watcher.reports);
    waitpid(t->watcher.pid, NULL, 0);
    t->watcher.pid = 0;
}

static void watcher_order(struct test *t, uint32_t ms)
{
    if (write(t->watcher.order, &ms, sizeof ms) != (ssize_t)sizeof ms)
        fail(t, "mqtt", "the client's process is gone");
}

static void watcher_hear(struct test *t, struct report *r)
{
    memset(r, 0, sizeof *r);
    if (read(t->watcher.reports, r, sizeof *r) != (ssize_t)sizeof *r || r->lost)
        fail(t, "mqtt", "a packet was not answered, or the connection lost");
}

/* ============================ 4. Visitors ================================ */

/* Reads all of it up to the end that the broker makes, and judges the head
 * and the length.  0 = it is whole and has this status. */
static int answer_hear(struct test *t, struct client *c, int status)
{
    char *text = (char *)t->answer, *body, *length, head[24];

    t->answer_n = client_read_raw(c, t->answer, ANSWER_MAX);
    t->answer[t->answer_n] = '\0';
    snprintf(head, sizeof head, "HTTP/1.1 %d ", status);
    body = strstr(text, "\r\n\r\n");
    length = strstr(text, "\r\nContent-Length: ");
    if (strncmp(text, head, strlen(head)) != 0 || body == NULL ||
        length == NULL || length > body)
        return -1;
    body += 4;
    return strtoul(length + 18, NULL, 10) == t->answer_n - (size_t)(body - text)
               ? 0
               : -1;
}

static int ask_send(struct client *c, const char *target)
{
    char text[256];
    int n = snprintf(text, sizeof text,
                     "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", target);

    return client_send_bytes(c, text, (size_t)n);
}

/* The answer, which must hold this text; it is in t->answer then. */
static int ask_hear(struct test *t, struct client *c, const char *target,
                    const char *holds)
{
    if (answer_hear(t, c, 200) != 0)
        return fail(t, target, "no answer, or not the whole of a good one");
    if (strstr((char *)t->answer, holds) == NULL)
        return fail(t, target, "the answer does not hold what it should");
    return 0;
}

/* One request, with a connection of its own. */
static int ask(struct test *t, const char *target, const char *holds)
{
    struct client c;
    int rc = client_open(&c, t->page);

    if (rc == 0)
        rc = ask_send(&c, target);
    rc = rc == 0 ? ask_hear(t, &c, target, holds)
                 : fail(t, target, "cannot be asked for");
    client_close(&c);
    return rc;
}

/* The value of a line of /metrics that begins so; 0 = there is none. */
static double metric(struct test *t, const char *begin)
{
    const char *at = strstr((char *)t->answer, begin);

    return at == NULL ? 0 : strtod(at + strlen(begin), NULL);
}

#define BUCKET "\nholdfast_turn_duration_seconds_bucket{le=\""

/* Takes them from t->answer. */
static void turns_take(struct test *t, struct turns *turns)
{
    const char *at = strstr((char *)t->answer, BUCKET);
    char *end;

    memset(turns, 0, sizeof *turns);
    for (; at != NULL && turns->n < LE_MAX; at = strstr(end, BUCKET)) {
        turns->le[turns->n] = strtod(at + sizeof BUCKET - 1, &end);
        turns->within[turns->n++] = strtoull(end + 2, &end, 10);
    }
    turns->count =
        (uint64_t)metric(t, "\nholdfast_turn_duration_seconds_count ");
    turns->max = metric(t, "\nholdfast_turn_duration_max_seconds ");
}

static int turns_read(struct test *t, struct turns *turns)
{
    if (ask(t, "/metrics", BUCKET) != 0)
        return -1;
    turns_take(t, turns);
    return 0;
}

/* The least bound, in ms, that no turn between the two readings exceeded. */
static double turns_bound(const struct turns *a, const struct turns *b)
{
    size_t i = 0;

    while (i + 1 < b->n && b->within[i] - a->within[i] < b->count - a->count)
        i++;
    /* a new longest one is known exactly */
    return (b->max > a->max ? b->max : b->le[i]) * 1000;
}

/* ============================ 5. Pages =================================== */

struct page {
    char target[96];
    char holds[96]; /* what its answer must hold */
};

struct row {
    size_t bytes;           /* of the last answer's head and body */
    uint32_t median, worst; /* us for an answer */
    uint64_t turns;         /* the fewest that one took; 0 = not counted */
    double longest;         /* ms */
    struct report busy, quiet;
};

static void row_title(void)
{
    printf("%-31s %7s %8s %8s %5s %8s  %-15s %-15s %s\n", "", "", "answer",
           "ms", "", "longest", "mqtt us, asked", "quiet", "ratio");
    printf("%-31s %7s %8s %8s %5s %8s  %7s %7s %7s %7s %7s %7s\n", "", "bytes",
           "median", "worst", "turns", "turn <=", "median", "worst", "median",
           "worst", "median", "worst");
}

static void row_print(const char *name, const struct row *row)
{
    const struct report *b = &row->busy, *q = &row->quiet;

    printf("%-31s %7zu %8.2f %8.2f %5" PRIu64 " %8.2f  %7" PRIu32 " %7" PRIu32
           " %7" PRIu32 " %7" PRIu32 " %7.2f %7.2f\n",
           name, row->bytes, row->median / 1e3, row->worst / 1e3, row->turns,
           row->longest, b->median, b->worst, q->median, q->worst,
           ratio(b->median, q->median), ratio(b->worst, q->worst));
    fflush(stdout);
}

/* The turns between two readings of /metrics that the request lies between;
 * the first reading's own turn is not in that reading.  All three connections
 * are there before and stay until after, so that no turn is due to them. */
static int turns_between(struct test *t, const struct page *p, uint64_t *n)
{
    const char *target[3] = {"/metrics", p->target, "/metrics"};
    const char *holds[3] = {BUCKET, p->holds, BUCKET};
    struct client c[3];
    struct turns turns[3];
    int rc = 0;

    for (int i = 0; i < 3; i++)
        rc |= client_open(&c[i], t->page);
    for (int i = 0; i < 3 && rc == 0; i++) {
        rc = ask_send(&c[i], target[i]);
        if (rc == 0)
            rc = ask_hear(t, &c[i], target[i], holds[i]);
        turns_take(t, &turns[i]);
    }
    for (int i = 0; i < 3; i++)
        client_close(&c[i]);
    if (rc != 0)
        return fail(t, p->target, "its turns cannot be counted");
    *n = turns[2].count - turns[0].count - 1;
    return 0;
}

/* The fewest: the broker has turns that time alone makes.  The client of MQTT
 * rests meanwhile.  What is longer than a socket takes at once leaves it in
 * turns of its own. */
static int turns_count(struct test *t, const struct page *p, struct row *row)
{
    uint64_t n = 0;

    row->turns = UINT64_MAX;
    for (int i = 0; i < COUNTED && row->turns > 1; i++) {
        if (turns_between(t, p, &n) != 0)
            return -1;
        row->turns = n < row->turns ? n : row->turns;
    }
    if (ask(t, p->target, p->holds) != 0)
        return -1;
    row->bytes = t->answer_n;
    return row->turns <= 1 + row->bytes / SOCKET_TAKES
               ? 0
               : fail(t, p->target, "it took more than one turn");
}

/* The same time again, without anybody who asks. */
static void quiet(struct test *t, struct row *row)
{
    watcher_order(t, row->busy.ms > 0 ? (uint32_t)row->busy.ms : 1);
    watcher_hear(t, &row->quiet);
}

/* Ways to ask for a page. */
typedef int page_way(struct test *t, const struct page *p, uint32_t *time);

static int one_ask(struct test *t, const struct page *p, uint32_t *time)
{
    uint64_t before = clock_us();
    int rc = ask(t, p->target, p->holds);

    *time = (uint32_t)(clock_us() - before);
    return rc;
}

/* By a crowd at once; the time is that from the first to the last. */
static int crowd_ask(struct test *t, const struct page *p, uint32_t *time)
{
    struct client slot[CROWD];
    uint64_t before = clock_us();
    int rc = 0;

    for (int i = 0; i < CROWD; i++) {
        rc |= client_open(&slot[i], t->page);
        rc |= rc == 0 ? ask_send(&slot[i], p->target) : -1;
    }
    if (rc != 0)
        fail(t, p->target, "cannot be asked for");
    for (int i = 0; i < CROWD; i++) {
        rc |= rc == 0 ? ask_hear(t, &slot[i], p->target, p->holds) : -1;
        client_close(&slot[i]);
    }
    *time = (uint32_t)(clock_us() - before);
    return rc;
}

static int page_run(struct test *t, const char *name, const struct page *p,
                    page_way *way, size_t n)
{
    uint32_t times[ASKS];
    struct turns a, b;
    struct row row;

    memset(&row, 0, sizeof row);
    if (turns_count(t, p, &row) != 0 || turns_read(t, &a) != 0)
        return -1;
    watcher_order(t, 0);
    for (size_t i = 0; i < n && t->errors == 0; i++)
        way(t, p, &times[i]);
    watcher_order(t, 0);
    watcher_hear(t, &row.busy);
    if (t->errors > 0 || turns_read(t, &b) != 0)
        return -1;
    quiet(t, &row);
    row.median = median_of(times, n);
    row.worst = times[n - 1];
    row.longest = turns_bound(&a, &b);
    row_print(name, &row);
    return 0;
}

static void page_set(struct page *p, const char *target, const char *holds,
                     uint32_t number)
{
    snprintf(p->target, sizeof p->target, target, number);
    snprintf(p->holds, sizeof p->holds, holds, number);
}

/* Two different numbers may stand in target and `holds`. */
static void page_link(struct page *p, const char *target, uint32_t number,
                      uint32_t held)
{
    snprintf(p->target, sizeof p->target, target, number);
    snprintf(p->holds, sizeof p->holds, NAME, held);
}

static int pages_run(struct test *t)
{
    const uint32_t *name = t->name;
    uint32_t last = t->sessions - 1, middle = last / 2;
    struct page page[14];
    size_t n = 0;
    int rc = 0;

    page_link(&page[n++], "/", 0, name[0]);
    page_link(&page[n++], "/?q=" NAME, name[last], name[last]);
    page_set(&page[n++], "/?q=device-z", "No session fits", 0);
    page_link(&page[n++], "/?after=" NAME, name[middle], name[middle + 1]);
    page_link(&page[n++], "/?before=" NAME, name[last], name[last - 1]);
    page_link(&page[n++], "/?show=waiting", 0, name_number(0)); /* the least */
    page_link(&page[n++], "/sessions/" NAME, name_number(0), name_number(0));
    page_set(&page[n++], "/retained", "device-", 0);
    page_set(&page[n++], "/clients", "watcher", 0);
    page_set(&page[n++], "/api/overview", "\"sessions_offline\":%" PRIu32 ",",
             t->sessions);
    page_set(&page[n++], "/api/sessions?limit=1000", "\"matched\":%" PRIu32 ",",
             t->sessions + 1);
    page_set(&page[n++], "/api/sessions?show=offline",
             "\"matched\":%" PRIu32 ",", t->sessions);
    page_set(&page[n++], "/metrics",
             "\nholdfast_sessions{state=\"offline\"} %" PRIu32 "\n",
             t->sessions);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = page_run(t, page[i].target, &page[i], one_ask, ASKS);
    return rc == 0
               ? page_run(t, "/ for 16 at once", page, crowd_ask, ASKS / CROWD)
               : -1;
}

/* ============================ 6. Malformed requests ====================== */

/* A request that is none.  What follows it is the end of the sender's half,
 * so that none of them is merely unfinished. */
struct malformed {
    int status; /* of the answer, by RFC 9110 and 9112 */
    size_t pad; /* bytes 'a' between the two */
    const char *first, *rest;
};

#define HOST "Host: localhost\r\n"

static const struct malformed malformed[] = {
    {400, 0, "GET\r\n", HOST "\r\n"},
    {400, 0, "GET /\r\n", HOST "\r\n"},
    {400, 0, "GET  / HTTP/1.1\r\n", HOST "\r\n"},
    {400, 0, "GET / HTTP/1.1 \r\n", HOST "\r\n"},
    {400, 0, "GET / http/1.1\r\n", HOST "\r\n"},
    {400, 0, "GET / HTTP/1.10\r\n", HOST "\r\n"},
    {400, 0, "G@T / HTTP/1.1\r\n", HOST "\r\n"},
    {400, 0, "GET retained HTTP/1.1\r\n", HOST "\r\n"},
    {400, 0, "GET /%zz HTTP/1.1\r\n", HOST "\r\n"},
    {400, 0, "GET /\x01 HTTP/1.1\r\n", HOST "\r\n"},
    {400, 0, "GET /\xC3\xA9 HTTP/1.1\r\n", HOST "\r\n"},
    {505, 0, "GET / HTTP/2.0\r\n", HOST "\r\n"},
    {405, 0, "POST / HTTP/1.1\r\n", HOST "Content-Length: 3\r\n\r\nabc"},
    {405, 0, "DELETE /sessions/watcher HTTP/1.1\r\n", HOST "\r\n"},
    {400, 0, "GET / HTTP/1.1\r\n", "\r\n"},
    {400, 0, "GET / HTTP/1.1\r\n", HOST HOST "\r\n"},
    {400, 0, "GET / HTTP/1.1\r\n", "Host : localhost\r\n\r\n"},
    {400, 0, "GET / HTTP/1.1\r\n", HOST " folded: line\r\n\r\n"},
    {400, 0, "GET / HTTP/1.1\r\n", HOST "no colon\r\n\r\n"},
    {400, 0, "GET / HTTP/1.1\r\n", HOST "X: \x07\r\n\r\n"},
    {421, 0, "GET / HTTP/1.1\r\n", "Host: elsewhere.example\r\n\r\n"},
    {414, 9000, "GET /", " HTTP/1.1\r\n" HOST "\r\n"},
    {431, 9000, "GET / HTTP/1.1\r\n" HOST "X: ", "\r\n\r\n"},
    {400, 0, "GET / HTTP/1.1\r\n" HOST, ""},
    {400, 0, "\x10\x0D", "hello"},             /* as MQTT begins */
    {400, 0, "\x16\x03\x01\x02", "\x01\x01\n"} /* as TLS begins */
};

#define KINDS (sizeof malformed / sizeof *malformed)

static int malformed_ask(struct test *t, struct client *c,
                         const struct malformed *m)
{
    struct buf out = {0};
    int rc = client_open(c, t->page);

    buf_text(&out, m->first);
    memset(buf_room(&out, m->pad + 1), 'a', m->pad);
    out.n += m->pad;
    buf_text(&out, m->rest);
    if (rc == 0)
        rc = client_send_bytes(c, out.p, out.n);
    if (rc == 0)
        rc = shutdown(c->fd, SHUT_WR);
    buf_free(&out);
    return rc;
}

/* A crowd of them at once, from the number-th on. */
static void malformed_crowd(struct test *t, uint32_t number)
{
    struct client slot[CROWD];
    char which[16];

    for (uint32_t i = 0; i < CROWD; i++)
        if (malformed_ask(t, &slot[i], &malformed[(number + i) % KINDS]) != 0)
            fail(t, "malformed", "cannot be sent");
    for (uint32_t i = 0; i < CROWD; i++) {
        const struct malformed *m = &malformed[(number + i) % KINDS];
        snprintf(which, sizeof which, "kind %zu", (number + i) % KINDS);
        if (slot[i].fd >= 0 && answer_hear(t, &slot[i], m->status) != 0)
            fail(t, which, "the answer is missing, or has another status");
        client_close(&slot[i]);
    }
}

static int malformed_run(struct test *t)
{
    struct turns a, b;
    struct row row;
    uint64_t start;

    memset(&row, 0, sizeof row);
    if (turns_read(t, &a) != 0)
        return -1;
    watcher_order(t, 0);
    start = clock_us();
    for (uint32_t i = 0; i < MALFORMED && t->errors == 0; i += CROWD)
        malformed_crowd(t, i);
    row.median = (uint32_t)((clock_us() - start) / MALFORMED);
    watcher_order(t, 0);
    watcher_hear(t, &row.busy);
    if (t->errors > 0 || turns_read(t, &b) != 0)
        return -1;
    quiet(t, &row);
    row.longest = turns_bound(&a, &b);
    row_print("10000 malformed (mean)", &row);
    return 0;
}

/* ============================ 7. Slow visitors =========================== */

/* What one has been sending since it came, over and over. */
static const char slow_text[] = "GET / HTTP/1.1\r\nHost: localhost\r\nX: ";

struct slow {
    struct client client; /* fd -1 = it is away */
    size_t sent;          /* bytes, since it came */
};

struct slows {
    struct slow at[SLOW];
    uint64_t sent;      /* bytes, of all */
    uint64_t sent_away; /* times that one was sent away */
};

/* Its next byte; who was sent away comes again.  The broker may be done with
 * it while the byte is on its way, which resets the connection: then the 408
 * is not seen. */
static void slow_step(struct test *t, struct slows *all, struct slow *s)
{
    char answer[64];
    ssize_t n;

    if (s->client.fd < 0 && client_open(&s->client, t->page) != 0) {
        fail(t, "slow", "cannot connect");
        return;
    }
    n = recv(s->client.fd, answer, sizeof answer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        char byte = s->sent < sizeof slow_text - 1 ? slow_text[s->sent] : 'x';
        all->sent += send(s->client.fd, &byte, 1, MSG_NOSIGNAL) == 1;
        s->sent++;
        return;
    }
    if (n > 0 && (n < 13 || memcmp(answer, "HTTP/1.1 408 ", 13) != 0))
        fail(t, "slow", "an answer that is not 408");
    all->sent_away++;
    client_close(&s->client);
    s->sent = 0;
}

/* All send a byte, then one asks as it should, then time goes by. */
static void slow_round(struct test *t, struct slows *all, uint32_t *time)
{
    uint64_t before, due = client_clock() + SLOW_EVERY, now;

    for (size_t i = 0; i < SLOW; i++)
        slow_step(t, all, &all->at[i]);
    before = clock_us();
    ask(t, "/api/overview", "\"sessions\":");
    *time = (uint32_t)(clock_us() - before);
    while ((now = client_clock()) < due)
        poll(NULL, 0, (int)(due - now));
}

static int slow_run(struct test *t)
{
    struct slows *all = (struct slows *)mem_new(sizeof *all);
    uint32_t times[SLOW_ROUNDS] = {0};
    struct turns a, b;
    struct row row;

    memset(&row, 0, sizeof row);
    for (size_t i = 0; i < SLOW; i++)
        all->at[i].client.fd = -1;
    turns_read(t, &a);
    watcher_order(t, 0);
    for (size_t i = 0; i < SLOW_ROUNDS && t->errors == 0; i++)
        slow_round(t, all, &times[i]);
    row.bytes = t->answer_n;
    watcher_order(t, 0);
    watcher_hear(t, &row.busy);
    turns_read(t, &b);
    for (size_t i = 0; i < SLOW; i++)
        client_close(&all->at[i].client);
    if (t->errors == 0) {
        quiet(t, &row);
        row.median = median_of(times, SLOW_ROUNDS);
        row.worst = times[SLOW_ROUNDS - 1];
        row.longest = turns_bound(&a, &b);
        row_print("200 slow; /api/overview", &row);
        printf("the slow ones sent %" PRIu64
               " bytes and were sent away %" PRIu64 " times\n",
               all->sent, all->sent_away);
    }
    free(all);
    return t->errors == 0 ? 0 : -1;
}

/* ============================ 8. The whole =============================== */

static int broker_up(struct test *t)
{
    const char *args[] = {"-p", "0", "-s", "127.0.0.1:0", "-d", t->dir, NULL};
    const char *page;
    char said[1024];

    if (client_broker_spawn(&t->broker, args) == 0 &&
        client_broker_await(&t->broker) == 0 &&
        (page = strstr(t->broker.ready, "http://127.0.0.1:")) != NULL) {
        t->page = (uint16_t)strtoul(page + 17, NULL, 10);
        return 0;
    }
    client_broker_log(&t->broker, said, sizeof said);
    fprintf(stderr, "%s", said);
    return fail(t, "broker", "it does not start, or has no status page");
}

static int broker_down(struct test *t)
{
    int status = client_broker_end(&t->broker, SIGTERM);

    client_broker_forget(&t->broker);
    return status == 0 ? 0 : fail(t, "broker", "it ended in its own way");
}

/* The sessions, and a broker that has done nothing yet but to find them. */
static int prepare(struct test *t)
{
    uint64_t start = client_clock();

    for (uint32_t i = 0; i < t->sessions; i++)
        t->name[i] = name_number(i);
    qsort(t->name, t->sessions, sizeof *t->name, uint32_compare);
    if (broker_up(t) != 0 || join_all(t) != 0 || publish_all(t) != 0)
        return -1;
    printf("pageload: %" PRIu32 " sessions made in %" PRIu64 " ms\n",
           t->sessions, client_clock() - start);
    fflush(stdout);
    return broker_down(t) == 0 ? broker_up(t) : -1;
}

/* The broker's own account of its clients, at the end: the one of MQTT is
 * connected since the beginning, and nobody was refused anything. */
static int account(struct test *t)
{
    struct turns all;

    if (turns_read(t, &all) != 0)
        return -1;
    printf("longest turn of all: %.3f ms\n", all.max * 1000);
    if (metric(t, "\nholdfast_connections ") != 1 ||
        metric(t, "\nholdfast_connections_accepted_total ") != 1)
        return fail(t, "mqtt", "it is not the one connection any more");
    if (strstr((char *)t->answer, "\nholdfast_refused_total{") != NULL)
        return fail(t, "mqtt", "something was refused");
    return 0;
}

static int run(struct test *t)
{
    struct turns start;

    if (prepare(t) != 0 || watcher_start(t) != 0 || turns_read(t, &start) != 0)
        return -1;
    printf("longest turn before anything was asked: %.3f ms\n",
           start.max * 1000);
    row_title();
    if (pages_run(t) != 0 || malformed_run(t) != 0 || slow_run(t) != 0)
        return -1;
    return account(t);
}

int main(int argc, char **argv)
{
    struct test *t = (struct test *)mem_new(sizeof *t);
    unsigned long n = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000;
    int rc;

    if (argc > 2 || n < 2 || n > 10000000) {
        fprintf(stderr, "usage: pageload [sessions], 2 or more\n");
        return 2;
    }
    t->sessions = (uint32_t)n;
    t->name = (uint32_t *)mem_new(n * sizeof *t->name);
    rc = client_dir_make(t->dir, sizeof t->dir) == 0 ? run(t) : -1;
    watcher_end(t);
    if (t->broker.pid > 0)
        rc |= broker_down(t);
    rc |= t->errors > 0;
    if (rc == 0)
        client_dir_remove(t->dir);
    else
        fprintf(stderr, "pageload: FAILED; the store is in %s\n", t->dir);
    printf("pageload sessions=%" PRIu32 " errors=%" PRIu64 " %s\n", t->sessions,
           t->errors, rc == 0 ? "ok" : "FAILED");
    free(t->name);
    free(t);
    return rc == 0 ? 0 : 1;
}
