/*
 * peer.c - a test's process, and the connections of its clients.
 *
 *   1. The test       its names, its story, its end
 *   2. Words          "~", and bytes written in hexadecimal
 *   3. Connections    sockets, and one poll() for all of them
 *   4. Hearing        bytes to packets, past the referee
 *   5. Saying         packets and bytes to the broker
 *   6. Peers          to open, to join, to cut
 *   7. Scripts        a peer whose server is the test
 */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "annotate.h"
#include "notation.h"
#include "run.h"

#define STORY_SHOWN 6000 /* bytes of the story that a failure shows */
#define STORY_FIELDS 24  /* annotated fields of each thing said */

/* ============================ 1. The test ================================ */

uint64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

const struct offer *offer(const struct test *t)
{
    return &t->setup->offer;
}

int diagnosed(const struct test *t)
{
    return t->setup->diagnosed;
}

const char *prefix(const struct test *t)
{
    return t->prefix;
}

int test_name_split(const char *name, char id[24], const char **words)
{
    unsigned a, b, c, d;
    int n = 0;

    if (sscanf(name, "test_mqtt_%u_%u_%u_%u%n", &a, &b, &c, &d, &n) != 4)
        return -1;
    snprintf(id, 24, "MQTT-%u.%u.%u-%u", a, b, c, d);
    *words = name[n] == '_' ? name + n + 1 : name + n;
    return 0;
}

void story_add(struct test *t, const struct peer *p, const char *arrow,
               const char *text)
{
    size_t n = strlen(text);

    text_format(&t->story, "  %c %s ", p == NULL ? ' ' : p->name, arrow);
    buf_add(&t->story, text, n < 600 ? n : 600);
    buf_text(&t->story, n < 600 ? "\n" : " ...\n");
}

void story_bytes(struct test *t, const uint8_t *bytes, size_t n,
                 enum mqtt_side from)
{
    struct mqtt_annotate walk;
    struct mqtt_note note;
    char lines[MQTT_LINES_MAX];

    mqtt_annotate_open(&walk, bytes, n, from, 0);
    for (int i = 0; mqtt_annotate_next(&walk, &note); i++) {
        if (i == STORY_FIELDS) {
            buf_text(&t->story, "        ...\n");
            return;
        }
        mqtt_annotate_print(&walk, &note, "        ", lines, sizeof lines);
        buf_text(&t->story, lines);
    }
}

/* The end of the story, from the beginning of a line on. */
static void story_show(const struct test *t)
{
    size_t from = t->story.n > STORY_SHOWN ? t->story.n - STORY_SHOWN : 0;

    while (from > 0 && from < t->story.n && t->story.p[from - 1] != '\n')
        from++;
    if (from > 0)
        puts("  ...");
    fwrite(t->story.p + from, 1, t->story.n - from, stdout);
}

static void test_end(enum outcome outcome)
{
    fflush(stdout);
    _exit((int)outcome);
}

void story_fail(struct test *t, const char *expected, const char *came)
{
    printf("  %s\n", t->words);
    story_show(t);
    if (expected != NULL)
        printf("  expected: %s\n  came:     %s\n", expected, came);
    else
        printf("  %s\n", came);
    test_end(FAILED);
}

void test_fail(struct test *t, const char *format, ...)
{
    va_list args;
    char text[512];

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    story_fail(t, NULL, text);
}

void check(struct test *t, int holds, const char *format, ...)
{
    va_list args;
    char text[512];

    if (holds)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    story_fail(t, NULL, text);
}

void not_offered(struct test *t, const char *format, ...)
{
    va_list args;

    (void)t;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    puts("");
    test_end(NOT_OFFERED);
}

void need(struct test *t, int needs)
{
    const struct offer *o = offer(t);

    if ((needs & NEED_RETAIN) && !o->retain)
        not_offered(t, "CONNACK says Retain Available 0");
    if ((needs & NEED_WILDCARDS) && !o->wildcards)
        not_offered(t, "CONNACK says Wildcard Subscription Available 0");
    if ((needs & NEED_IDS) && !o->ids)
        not_offered(t, "CONNACK says Subscription Identifier Available 0");
    if ((needs & NEED_SHARED) && !o->shared)
        not_offered(t, "CONNACK says Shared Subscription Available 0");
    if ((needs & NEED_SESSIONS) && !o->sessions)
        not_offered(t, "CONNACK says Session Expiry Interval 0");
    if ((needs & NEED_QOS1) && o->qos_max < 1)
        not_offered(t, "CONNACK says Maximum QoS 0");
    if ((needs & NEED_QOS2) && o->qos_max < 2)
        not_offered(t, "CONNACK says Maximum QoS %u", o->qos_max);
}

void restart(struct test *t)
{
    char answer = 0;

    if (!t->setup->can_restart)
        not_offered(t, "no command to restart the broker was given");
    if (!t->setup->keeps)
        not_offered(t, "the broker loses in a crash what it acknowledged, "
                       "which 4.1.1 leaves open");
    need(t, NEED_SESSIONS | NEED_QOS1);
    story_add(t, NULL, "-", "(the broker is killed and started again)");
    if (write(t->ctl, "R", 1) != 1 || read(t->ctl, &answer, 1) != 1 ||
        answer != 'R')
        test_fail(t, "the broker did not come back after the restart");
    for (int i = 0; i < t->peer_count; i++)
        cut(t->peers[i]);
    t->publisher = NULL;
}

/* "hf", the run, the test: at most 11 letters and digits, so that a client
 * identifier stays within the 23 that every broker takes [MQTT-3.1.3-5].  The
 * last one is no digit: no test's prefix begins another's. */
static void test_prefix(struct test *t, unsigned number)
{
    snprintf(t->prefix, sizeof t->prefix, "hf%.5s%ux", t->setup->nonce,
             number % 1000);
}

void test_process(const struct setup *setup, const struct test_case *c,
                  unsigned number, int ctl)
{
    static struct test t;

    t.setup = setup;
    t.ctl = ctl;
    if (test_name_split(c->name, t.statement, &t.words) != 0)
        t.words = c->name;
    test_prefix(&t, number);
    c->run(&t);
    test_end(PASSED);
}

/* ============================ 2. Words =================================== */

char *words_expand(struct test *t, const char *format, va_list args)
{
    char *plain = words_print(format, args);
    struct buf b = {NULL, 0, 0, 0};

    for (const char *c = plain; *c != '\0'; c++)
        if (*c == '~')
            buf_text(&b, t->prefix);
        else
            buf_add(&b, c, 1);
    buf_add(&b, "", 1);
    free(plain);
    return (char *)b.p;
}

/* The prefix back to "~", in place. */
static void words_fold(const struct test *t, char *text)
{
    size_t n = strlen(t->prefix);
    char *to = text;

    while (*text != '\0')
        if (strncmp(text, t->prefix, n) == 0) {
            *to++ = '~';
            text += n;
        } else {
            *to++ = *text++;
        }
    *to = '\0';
}

static int hex_value(char c)
{
    const char *digits = "0123456789ABCDEF0123456789abcdef";
    const char *at = c == '\0' ? NULL : strchr(digits, c);

    return at == NULL ? -1 : (int)(at - digits) % 16;
}

/* Appends what stands at c up to the bracket `close` or, if that is 0, the
 * end; returns what follows.  See say_bytes(). */
static const char *bytes_parse(struct test *t, struct buf *out, const char *c,
                               char close)
{
    while (*c != close && *c != '\0') {
        if (*c == ' ') {
            c++;
        } else if (*c == '\'') {
            for (c++; *c != '\'' && *c != '\0'; c++)
                buf_add(out, c, 1);
            c += *c == '\'';
        } else if (*c == '{' || *c == '[') {
            struct buf inner = {NULL, 0, 0, 0};
            char kind = *c;
            c = bytes_parse(t, &inner, c + 1, kind == '{' ? '}' : ']');
            uint8_t length[2] = {(uint8_t)(inner.n >> 8), (uint8_t)inner.n};
            /* A property block of a test is shorter than 128 bytes. */
            buf_add(out, kind == '{' ? length : length + 1,
                    kind == '{' ? 2 : 1);
            if (inner.n > 0)
                buf_add(out, inner.p, inner.n);
            check(t, kind == '{' || inner.n < 128, "a block of %zu", inner.n);
            buf_free(&inner);
        } else {
            int high = hex_value(c[0]), low = high < 0 ? -1 : hex_value(c[1]);
            check(t, low >= 0, "the test's bytes make no sense: %.30s", c);
            uint8_t byte = (uint8_t)(high * 16 + low);
            buf_add(out, &byte, 1);
            c += 2;
        }
    }
    return *c == '\0' ? c : c + 1;
}

/* ============================ 3. Connections ============================= */

static struct peer *peer_new(struct test *t, int fd)
{
    struct peer *p = (struct peer *)mem_new(sizeof *p);

    check(t, t->peer_count < PEERS_MAX, "the test has too many clients");
    p->test = t;
    p->name = (char)('A' + t->peer_count % 26);
    p->fd = fd;
    p->server = -1;
    referee_open(&p->referee);
    t->peers[t->peer_count++] = p;
    return p;
}

int socket_open(const struct setup *s)
{
    struct addrinfo hints, *list = NULL;
    int fd = -1, on = 1;

    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(s->host, s->port, &hints, &list) != 0)
        return -1;
    for (struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        fcntl(fd, F_SETFL, O_NONBLOCK);
    }
    return fd;
}

struct peer *peer_open(struct test *t)
{
    int fd = socket_open(t->setup);

    if (fd < 0)
        test_fail(t, "no connection to %s:%s: %s", t->setup->host,
                  t->setup->port, strerror(errno));
    return peer_new(t, fd);
}

static void peer_end(struct peer *p)
{
    if (!p->ended)
        story_add(p->test, p, "<", "(end)");
    p->ended_at = p->ended ? p->ended_at : now();
    p->ended = 1;
}

/* ============================ 4. Hearing ================================= */

static uint16_t packet_number(const struct mqtt_packet *p)
{
    return p->type == MQTT_PUBLISH ? p->publish.packet_id : p->packet_id;
}

/* Takes ` rs=...` and ` up=...` out: any packet but PUBLISH may have them
 * where nobody asked for them. */
static void text_plain(char *text)
{
    char *to = text;

    while (*text != '\0') {
        if (strncmp(text, " rs=", 4) == 0 || strncmp(text, " up=", 4) == 0)
            text += 1 + strcspn(text + 1, " ");
        else
            *to++ = *text++;
    }
    *to = '\0';
}

/* Told to the runner, which fails the row of this statement, with the story up
 * to here; the test goes on. */
static void breach(struct peer *p, const char *statement, const char *what,
                   const char *text)
{
    if (statement[0] == '\0')
        story_fail(p->test, "a packet that keeps the rules", what);
    printf("breach %s\n", statement);
    story_show(p->test);
    printf("  %s, in %s\n", what, text);
    story_add(p->test, p, "!", what);
}

static struct heard *heard_new(const uint8_t *bytes, size_t n)
{
    /* One piece: the struct and behind it the bytes its views look at. */
    struct heard *h = (struct heard *)mem_new(sizeof *h + n);

    memcpy((uint8_t *)(h + 1), bytes, n);
    h->size = n;
    h->first = bytes[0];
    h->at = now();
    return h;
}

static void heard_free(struct heard *h)
{
    if (h != NULL)
        free(h->text);
    free(h);
}

static void heard_add(struct peer *p, struct heard *h)
{
    if (p->pings > 0 && h->packet.type == MQTT_PINGRESP) {
        p->pings--;
        heard_free(h);
        return;
    }
    if (p->heard_count == p->heard_cap) {
        p->heard_cap = p->heard_cap * 2 + 8;
        p->heard = (struct heard **)mem_grow(p->heard,
                                             p->heard_cap * sizeof *p->heard);
    }
    p->heard[p->heard_count++] = h;
}

/* A packet that does not decode breaks the statement that the codec names;
 * nothing after it can be trusted. */
static void packet_malformed(struct peer *p, const struct mqtt_error *err)
{
    char what[200];

    snprintf(what, sizeof what, "a malformed packet: %s (byte %zu)", err->what,
             err->offset);
    if (err->statement[0] != '\0')
        breach(p, err->statement, what, "a packet of the broker");
    story_bytes(p->test, p->in.p, p->in.n, MQTT_FROM_SERVER);
    story_fail(p->test, "an MQTT packet", what);
}

static void packet_take(struct peer *p, size_t size)
{
    struct heard *h = heard_new(p->in.p, size);
    struct buf text = {NULL, 0, 0, 0};
    struct mqtt_bytes topic = {NULL, 0};
    struct mqtt_error err;
    const char *what = "", *broken;

    if (mqtt_packet_decode(&h->packet, (uint8_t *)(h + 1), size,
                           MQTT_FROM_SERVER, &err) != 0)
        packet_malformed(p, &err);
    broken = referee_heard(&p->referee, &h->packet, size, &topic, &what);
    text_packet(&text, &h->packet, topic);
    h->text = (char *)text.p;
    words_fold(p->test, h->text);
    story_add(p->test, p, "<", h->text);
    if (broken != NULL)
        breach(p, broken, what, h->text);
    if (h->packet.type != MQTT_PUBLISH)
        text_plain(h->text);
    h->packet_id = packet_number(&h->packet);
    if (MQTT_HAS(&h->packet.props, MQTT_TOPIC_ALIAS))
        h->alias = h->packet.props.topic_alias;
    heard_add(p, h);
    buf_take(&p->in, size);
}

static void packets_take(struct peer *p)
{
    struct mqtt_error err;
    size_t size = 0;

    while (p->in.n > 0)
        switch (mqtt_frame_find(p->in.p, p->in.n,
                                MQTT_REMAINING_LENGTH_MAX + 5,
                                MQTT_FROM_SERVER, &size, &err)) {
        case MQTT_FRAME_MORE:
            return;
        case MQTT_FRAME_COMPLETE:
            packet_take(p, size);
            break;
        default:
            packet_malformed(p, &err);
        }
}

/* Reads what one socket has; 1 = there was something, or the end. */
static int peer_read(struct peer *p)
{
    int got = 0;

    for (;;) {
        uint8_t *room = buf_room(&p->in, 65536);
        ssize_t n = recv(p->fd, room, 65536, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return got;
        got = 1;
        if (n <= 0) {
            peer_end(p);
            return got;
        }
        p->in.n += (size_t)n;
        packets_take(p);
    }
}

int pump(struct test *t, uint64_t deadline)
{
    struct pollfd fds[PEERS_MAX];
    struct peer *of[PEERS_MAX];
    nfds_t n = 0;
    uint64_t at = now();
    int got = 0;

    fflush(stdout); /* breaches count even if the test is killed */
    for (int i = 0; i < t->peer_count; i++)
        if (t->peers[i]->fd >= 0 && !t->peers[i]->ended) {
            struct pollfd one = {t->peers[i]->fd, POLLIN, 0};
            of[n] = t->peers[i];
            fds[n++] = one;
        }
    int rc = poll(fds, n, at < deadline ? (int)(deadline - at) : 0);
    for (nfds_t i = 0; rc > 0 && i < n; i++)
        if (fds[i].revents != 0)
            got |= peer_read(of[i]);
    return got || now() < deadline;
}

/* ============================ 5. Saying ================================== */

/* Writes it all; while the broker does not read, what it sends is read. */
static void peer_write(struct peer *p, const uint8_t *bytes, size_t n)
{
    uint64_t deadline = now() + WAIT;

    while (n > 0 && p->fd >= 0 && !p->ended) {
        ssize_t sent = send(p->fd, bytes, n, MSG_NOSIGNAL);
        if (sent >= 0) {
            bytes += sent;
            n -= (size_t)sent;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            struct pollfd one = {p->fd, POLLIN | POLLOUT, 0};
            check(p->test, now() < deadline, "the broker reads nothing");
            if (poll(&one, 1, WAIT) > 0 && (one.revents & POLLIN))
                peer_read(p);
        } else if (errno != EINTR) {
            return; /* the broker has closed: hear() will tell */
        }
    }
    p->said_at = now();
}

static void peer_send(struct peer *p, const uint8_t *bytes, size_t n)
{
    story_bytes(p->test, bytes, n, MQTT_FROM_CLIENT);
    if (p->holding)
        buf_add(&p->out, bytes, n);
    else
        peer_write(p, bytes, n);
}

void hold(struct peer *p)
{
    p->holding = 1;
}

void release(struct peer *p)
{
    p->holding = 0;
    peer_write(p, p->out.p, p->out.n);
    buf_take(&p->out, p->out.n);
}

static void credentials_add(const struct setup *s, struct mqtt_connect *c)
{
    if (s->user != NULL && !c->has_user_name) {
        c->has_user_name = 1;
        c->user_name.p = (const uint8_t *)s->user;
        c->user_name.n = strlen(s->user);
    }
    if (s->password != NULL && !c->has_password) {
        c->has_password = 1;
        c->password.p = (const uint8_t *)s->password;
        c->password.n = strlen(s->password);
    }
}

/* What this filter needs of the broker. */
static int filter_needs(struct mqtt_bytes filter)
{
    int needs = 0;

    for (size_t i = 0; i < filter.n; i++)
        if (filter.p[i] == '+' || filter.p[i] == '#')
            needs |= NEED_WILDCARDS;
    if (filter.n >= 7 && memcmp(filter.p, "$share/", 7) == 0)
        needs |= NEED_SHARED;
    return needs;
}

/* What this packet needs of the broker.  A SUBSCRIBE may ask for any QoS,
 * whatever the broker serves [MQTT-3.2.2-10]. */
static int packet_needs(const struct mqtt_packet *p)
{
    const uint8_t qos_needs[3] = {0, NEED_QOS1, NEED_QOS1 | NEED_QOS2};
    struct mqtt_bytes rest = p->list;
    struct mqtt_subscription s;
    int needs = 0;

    switch (p->type) {
    case MQTT_CONNECT:
        needs |= qos_needs[p->connect.will_qos % 3];
        needs |= p->connect.will_retain ? NEED_RETAIN : 0;
        break;
    case MQTT_PUBLISH:
        needs |= qos_needs[p->publish.qos % 3];
        needs |= p->publish.retain ? NEED_RETAIN : 0;
        break;
    case MQTT_SUBSCRIBE:
        needs |= p->props.id_count > 0 ? NEED_IDS : 0;
        while (mqtt_subscribe_next(&rest, &s))
            needs |= filter_needs(s.filter);
        break;
    default:
        break;
    }
    return needs;
}

/* The test must not break a rule itself. */
static void draft_judge(struct peer *p, const struct draft *d, size_t size)
{
    const char *broken = referee_judge(&p->referee, &d->packet, size);

    if (p->server < 0)
        need(p->test, packet_needs(&d->packet));
    if (broken == NULL)
        return;
    if (strcmp(broken, "MQTT-3.2.2-15") == 0)
        not_offered(p->test, "Maximum Packet Size is %u, this needs %zu",
                    (unsigned)p->referee.server_packet_max, size);
    if (strcmp(broken, "MQTT-3.2.2-17") == 0 ||
        strcmp(broken, "MQTT-3.2.2-18") == 0)
        not_offered(p->test, "Topic Alias Maximum is %u",
                    p->referee.server_alias_max);
    if (strcmp(broken, "MQTT-3.3.4-7") == 0)
        not_offered(p->test, "Receive Maximum is %u",
                    p->referee.server_receive_max);
    test_fail(p->test, "the test is wrong: its client would break %s", broken);
}

static void packet_say(struct peer *p, char *words, int legal)
{
    struct draft d;
    struct buf b = {NULL, 0, 0, 0};
    char *shown = strdup(words);

    words_fold(p->test, shown);
    story_add(p->test, p, ">", shown);
    free(shown);
    draft_parse(&d, words);
    if (d.packet.type == MQTT_CONNECT && p->server < 0)
        credentials_add(p->test->setup, &d.packet.connect);
    draft_encode(&d, &b);
    if (legal)
        draft_judge(p, &d, b.n);
    referee_sent(&p->referee, &d.packet);
    peer_send(p, b.p, b.n);
    buf_free(&b);
    draft_free(&d);
    free(words);
}

void say(struct peer *p, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    packet_say(p, words_expand(p->test, format, args), 1);
    va_end(args);
}

void say_wrong(struct peer *p, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    packet_say(p, words_expand(p->test, format, args), 0);
    va_end(args);
}

/* The referee is shown the packets among the bytes, as far as they are any. */
static void bytes_note(struct peer *p, const uint8_t *bytes, size_t n)
{
    struct mqtt_packet packet;
    struct mqtt_error err;
    size_t size = 0;

    while (n > 0 &&
           mqtt_frame_find(bytes, n, MQTT_REMAINING_LENGTH_MAX + 5,
                           MQTT_FROM_CLIENT, &size,
                           &err) == MQTT_FRAME_COMPLETE &&
           mqtt_packet_decode(&packet, bytes, size, MQTT_FROM_CLIENT, &err) ==
               0) {
        referee_sent(&p->referee, &packet);
        bytes += size;
        n -= size;
    }
}

static void bytes_say(struct peer *p, char *text, const char *head)
{
    struct buf body = {NULL, 0, 0, 0}, all = {NULL, 0, 0, 0};

    bytes_parse(p->test, &body, text, '\0');
    if (head != NULL) {
        size_t rest = body.n;
        bytes_parse(p->test, &all, head, '\0');
        do { /* 1.5.5 */
            uint8_t byte = (uint8_t)(rest % 128 | (rest > 127 ? 128u : 0));
            buf_add(&all, &byte, 1);
            rest /= 128;
        } while (rest > 0);
    }
    if (body.n > 0)
        buf_add(&all, body.p, body.n);
    story_add(p->test, p, ">", "(bytes)");
    bytes_note(p, all.p, all.n);
    peer_send(p, all.p, all.n);
    buf_free(&body);
    buf_free(&all);
    free(text);
}

void say_bytes(struct peer *p, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    bytes_say(p, words_expand(p->test, format, args), NULL);
    va_end(args);
}

void say_frame(struct peer *p, unsigned first, const char *format, ...)
{
    va_list args;
    char head[4];

    snprintf(head, sizeof head, "%02X", first & 0xFF);
    va_start(args, format);
    bytes_say(p, words_expand(p->test, format, args), head);
    va_end(args);
}

uint16_t new_id(struct peer *p)
{
    do
        p->last_id = (uint16_t)(p->last_id % 65535 + 1);
    while (p->referee.sent_ids[p->last_id / 8] >> (p->last_id % 8) & 1);
    return p->last_id;
}

/* ============================ 6. Peers =================================== */

const struct heard *connack(const struct peer *p)
{
    return p->ack;
}

int present(const struct peer *p)
{
    return connack(p)->packet.session_present;
}

struct mqtt_bytes assigned(const struct peer *p)
{
    return connack(p)->packet.props.assigned_client_identifier;
}

/* Waits for CONNACK 0x00 and puts it aside. */
static void peer_accepted(struct peer *p)
{
    hear(p, "connack 00*");
    p->ack = p->taken;
    p->taken = NULL;
}

struct peer *peer_join(struct test *t, const char *format, ...)
{
    struct peer *p = peer_open(t);
    va_list args;

    va_start(args, format);
    char *words = words_print(format, args);
    va_end(args);
    say(p, "connect %s", words);
    free(words);
    peer_accepted(p);
    return p;
}

struct peer *peer_watch(struct test *t, const char *format, ...)
{
    struct peer *p = peer_join(t, "c1 id=~w%d", t->peer_count);
    va_list args;

    va_start(args, format);
    char *filters = words_print(format, args);
    va_end(args);
    subscribe(p, "%s", filters);
    free(filters);
    return p;
}

void cut(struct peer *p)
{
    uint64_t deadline = now() + WAIT;

    if (p->fd < 0)
        return;
    story_add(p->test, p, "-", "(cut)");
    /* The end of what this side sends is all the broker sees of a cut; its
     * own end tells that it has seen it. */
    shutdown(p->fd, SHUT_WR);
    while (!p->ended && pump(p->test, deadline))
        ;
    close(p->fd);
    p->fd = -1;
    p->ended = 1;
    while (p->heard_count > 0)
        heard_free(p->heard[--p->heard_count]);
}

void leave(struct peer *p)
{
    say(p, "disconnect 00");
    cut(p);
}

/* ============================ 7. Scripts ================================= */

/* The server's end of a scripted peer is read whenever it is asked for. */
static void script_read(struct peer *p)
{
    uint8_t bytes[4096];
    ssize_t n;

    while ((n = recv(p->server, bytes, sizeof bytes, 0)) > 0)
        buf_add(&p->seen, bytes, (size_t)n);
}

const char *sent(struct peer *p)
{
    struct buf *out = &p->test->memory;
    struct mqtt_error err;
    size_t size = 0;

    script_read(p);
    buf_take(out, out->n);
    while (p->seen.n > 0 &&
           mqtt_frame_find(p->seen.p, p->seen.n, MQTT_REMAINING_LENGTH_MAX + 5,
                           MQTT_FROM_CLIENT, &size,
                           &err) == MQTT_FRAME_COMPLETE) {
        buf_text(out, mqtt_type_name(p->seen.p[0] >> 4));
        buf_text(out, " ");
        buf_take(&p->seen, size);
    }
    buf_add(out, "", 1);
    return (const char *)out->p;
}

void server_says(struct peer *p, const char *format, ...)
{
    struct buf b = {NULL, 0, 0, 0};
    struct draft d;
    va_list args;

    va_start(args, format);
    char *words = words_expand(p->test, format, args);
    va_end(args);
    draft_parse(&d, words);
    draft_encode(&d, &b);
    check(p->test, send(p->server, b.p, b.n, MSG_NOSIGNAL) == (ssize_t)b.n,
          "the script's socket is full");
    buf_free(&b);
    draft_free(&d);
    free(words);
}

struct peer *peer_scripted(struct test *t, const char *connect_words,
                           const char *connack_words)
{
    int ends[2];

    check(t, socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "no socketpair");
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    struct peer *p = peer_new(t, ends[0]);
    p->server = ends[1];
    say(p, "connect %s", connect_words);
    server_says(p, "%s", connack_words);
    if (strncmp(connack_words, "connack 00", 10) == 0)
        peer_accepted(p);
    sent(p);
    return p;
}

void client_refuses(struct peer *p, const char *statement, const char *format,
                    ...)
{
    struct draft d;
    va_list args;

    va_start(args, format);
    char *words = words_expand(p->test, format, args);
    va_end(args);
    story_add(p->test, p, "?", words);
    draft_parse(&d, words);
    const char *broken = referee_judge(
        &p->referee, &d.packet, mqtt_packet_encode(&d.packet, NULL, 0));
    if (broken == NULL || strcmp(broken, statement) != 0)
        story_fail(p->test, statement,
                   broken == NULL ? "the client would send it" : broken);
    draft_free(&d);
    free(words);
}
