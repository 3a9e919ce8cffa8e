/*
 * bench.c - the test bench of the server: its clients, its clock.
 *
 *   1. the story
 *   2. links        bytes to and from the server
 *   3. the server   start, turn, clock, kill
 *   4. expectations
 *
 *     bench_say --words--> bytes --> session_link_input
 *                                          |
 *                  settle, store_commit (bench_turn)
 *                                          v
 *     bench_hear <--text-- referee <-- session_link_output
 */
#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"
#include "notation.h"

/* ==== 1. the story ==========================================================
 *
 * What a failing test shows: all that was said and heard before.  */

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

/* ==== 2. links ============================================================
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
    struct mqtt_bytes topic;
    const char *what = "";
    const char *broken = referee_heard(&l->ref, &p, n, &topic, &what);
    text_packet(&text, &p, topic);
    story_add(l->bench, l, "<", (char *)text.p);
    if (broken != NULL)
        story_fail(l->bench, __FILE__, __LINE__, broken, what);
    struct bench_heard *h = heard_add(l);
    h->text = (char *)text.p;
    h->type = p.type;
    h->packet_id = p.packet_id;
    if (p.type == MQTT_PUBLISH) {
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
    referee_open(&l->ref);
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
    referee_free(&l->ref);
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
        char digits[3] = {c[0], c[1], '\0'}, *end;
        uint8_t byte = (uint8_t)strtoul(digits, &end, 16);
        assert_true(end == digits + 2);
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

static void link_say(struct bench_link *l, char *words)
{
    struct draft d;
    struct buf b = {NULL, 0, 0, 0};
    story_add(l->bench, l, ">", words);
    draft_parse(&d, words);
    referee_sent(&l->ref, &d.packet);
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

void bench_publish(struct bench *t, int qos, const char *words)
{
    struct bench_link *p = bench_meet(t, "c1 id=side");
    bench_say(p, "publish q%d #%d %s", qos, qos ? 9 : 0, words);
    if (qos == 1)
        bench_hear(p, "puback #9 *");
    if (qos == 2) {
        bench_hear(p, "pubrec #9 *");
        bench_say(p, "pubrel #9");
        bench_hear(p, "pubcomp #9 00");
    }
    bench_leave(p);
}

/* ==== 3. the server ========================================================
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
    if (t->tracing)
        buf_add(&t->trace, trace->p, trace->n);
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
    buf_free(&t->trace);
    free(t);
    return 0;
}

/* ==== 4. expectations ======================================================
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
