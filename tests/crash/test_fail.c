/*
 * test_fail.c - every call that may fail, failing: what was acknowledged holds.
 *
 * One workload is played again and again on a disk in memory (disk.h), and
 * each time the n-th call of one kind fails, once or for good, for every n.
 * Memory fails in the same way: store.c and session.c are compiled for this
 * test with other names for realloc() and _exit(), so that the n-th request
 * finds none, and the end of the process leads back into the test.
 *
 * Then the process ends, if it has not ended by itself with one line that says
 * why, and the disk is started on twice, without failures: with all that was
 * written (a killed process), and with what was synced (a power cut).  Clients
 * come back and must find what they were told:
 *
 *   - Session Present, and the subscription;
 *   - each acknowledged message, unaltered, QoS 2 once, each under the Packet
 *     Identifier that it had before;
 *   - the Will, the retained message, the stage of each QoS 2 handshake.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "scene.h"

#define POSTS 120

/* The clients, by their links. */
enum { PUBLISHER, SUBSCRIBER, MOURNED, NEWCOMER, BRIEF, ROLES };

/* How far the subscriber answers. */
enum { ANSWER_ALL, ANSWER_RECEIVED, ANSWER_NOTHING };

/* One Application Message of the publisher; its number is in its payload. */
struct post {
    int qos, retain;
    size_t size;   /* bytes of the payload */
    int asked;     /* sent */
    int owed;      /* the subscriber's session matched it then */
    int told;      /* PUBACK or PUBREC says that it was taken, */
    int refused;   /* or that it was not */
    int released;  /* PUBREL was sent */
    int completed; /* PUBACK or PUBCOMP was heard */
    int got;       /* the subscriber has it, */
    unsigned id;   /* under this Packet Identifier */
    int received;  /* PUBREL told the subscriber that it will not come again */
};

struct cast {
    struct scene scene;
    struct post posts[POSTS];
    int count;
    int session[ROLES];  /* 1 = CONNACK was heard */
    int subscribed;      /* 1 = SUBACK was heard */
    int will_told;       /* the same of the client with a Will, if the */
    int will_got;        /* subscriber is owed it */
    int retained;        /* the retained message that a newcomer got, or -1 */
    int hold;            /* 1 = the publisher does not release */
    int answers;         /* how far the subscriber answers */
    char why[400];       /* the first broken promise, "" = none */
};

static void cast_fail(struct cast *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (c->why[0] == '\0')
        (void)vsnprintf(c->why, sizeof c->why, format, args);
    va_end(args);
}

/* ==== what clients hear =================================================== */

static const char *post_topic(const struct post *p)
{
    return p->retain ? "r/0" : "a/b";
}

static void post_payload(const struct cast *c, int number, char *text)
{
    size_t size = c->posts[number].size;
    int n = sprintf(text, "m%03d-", number);
    memset(text + n, 'a' + number % 26, size);
    text[(size_t)n + size] = '\0';
}

/* The post of this payload, whole and unaltered, or -1. */
static int post_find(const struct cast *c, struct mqtt_bytes payload)
{
    char text[1000];
    int number;
    if (payload.n < 5 || payload.p[0] != 'm')
        return -1;
    number = (payload.p[1] - '0') * 100 + (payload.p[2] - '0') * 10 +
             (payload.p[3] - '0');
    if (number < 0 || number >= c->count || !c->posts[number].asked)
        return -1;
    post_payload(c, number, text);
    if (payload.n != strlen(text) || memcmp(text, payload.p, payload.n) != 0)
        return -1;
    return number;
}

/* A delivery that the subscriber has had must say so, and be the same one. */
static void hear_again(struct cast *c, int number, const struct mqtt_packet *p)
{
    const struct post *post = &c->posts[number];
    if (post->received)
        cast_fail(c, "message %d came twice at QoS 2", number);
    if (post->id != p->publish.packet_id)
        cast_fail(c, "message %d came as #%u and again as #%u", number,
                  post->id, p->publish.packet_id);
    if (!p->publish.dup)
        cast_fail(c, "message %d came again without DUP", number);
}

static void hear_publish(struct cast *c, int link, const struct mqtt_packet *p)
{
    unsigned id = p->publish.packet_id;
    int number = post_find(c, p->publish.payload);
    int will = p->publish.payload.n == 4 &&
               memcmp(p->publish.payload.p, "gone", 4) == 0;
    if (number < 0 && !will) {
        cast_fail(c, "a message that nobody sent");
    } else if (link == NEWCOMER) {
        c->retained = number;
    } else if (will) {
        c->will_got = 1;
    } else {
        struct post *post = &c->posts[number];
        if (p->publish.qos != post->qos)
            cast_fail(c, "message %d has another QoS", number);
        if (post->got && post->qos > 0)
            hear_again(c, number, p);
        post->got = 1;
        post->id = id;
    }
    if (p->publish.qos == 1 && c->answers == ANSWER_ALL)
        world_say(&c->scene.w, link, "puback #%u 00", id);
    if (p->publish.qos == 2 && c->answers != ANSWER_NOTHING)
        world_say(&c->scene.w, link, "pubrec #%u 00", id);
}

/* PUBREL to the subscriber. */
static void hear_pubrel(struct cast *c, int link, unsigned id)
{
    for (int i = 0; i < c->count; i++)
        if (c->posts[i].got && c->posts[i].qos == 2 && c->posts[i].id == id)
            c->posts[i].received = 1;
    if (c->answers == ANSWER_ALL)
        world_say(&c->scene.w, link, "pubcomp #%u 00", id);
}

/* PUBACK, PUBREC or PUBCOMP to the publisher. */
static void hear_answer(struct cast *c, const struct mqtt_packet *p)
{
    struct post *post = &c->posts[p->packet_id - 1];
    int good = p->reason < 0x80;
    if (p->type == MQTT_PUBCOMP) {
        post->completed = 1;
        return;
    }
    if (!good && p->reason != MQTT_QUOTA_EXCEEDED)
        cast_fail(c, "message %u is refused with 0x%02x", p->packet_id - 1u,
                  p->reason);
    if (!good && post->told)
        cast_fail(c, "message %u is refused after it was taken",
                  p->packet_id - 1u);
    post->told |= good;
    post->refused = !good;
    post->completed |= good && p->type == MQTT_PUBACK;
    if (good && p->type == MQTT_PUBREC && !c->hold) {
        post->released = 1;
        world_say(&c->scene.w, PUBLISHER, "pubrel #%u 00",
                  (unsigned)p->packet_id);
    }
}

static void cast_hear(void *arg, int link, const struct mqtt_packet *p)
{
    struct cast *c = (struct cast *)arg;
    switch (p->type) {
    case MQTT_CONNACK:
        if (p->reason == 0 && c->session[link] && !p->session_present &&
            link < MOURNED)
            cast_fail(c, "the session of client %d is lost", link);
        c->session[link] |= p->reason == 0;
        c->will_told |= p->reason == 0 && link == MOURNED && c->subscribed;
        break;
    case MQTT_SUBACK:
        c->subscribed |= link == SUBSCRIBER && p->list.p[0] < 0x80;
        break;
    case MQTT_PUBLISH:
        hear_publish(c, link, p);
        break;
    case MQTT_PUBREL:
        hear_pubrel(c, link, p->packet_id);
        break;
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBCOMP:
        hear_answer(c, p);
        break;
    default:
        break;
    }
}

/* ==== the workload ======================================================== *
 *
 * Each step does nothing once the process is dead. */

static void step_connect(struct cast *c, int link, const char *words)
{
    if (c->scene.dead)
        return;
    world_link_cut(&c->scene.w, link);
    world_link_open(&c->scene.w, link);
    world_say(&c->scene.w, link, "%s", words);
    (void)scene_turn(&c->scene);
}

static void step_say(struct cast *c, int link, const char *words)
{
    if (c->scene.dead)
        return;
    world_say(&c->scene.w, link, "%s", words);
    (void)scene_turn(&c->scene);
}

static void step_cut(struct cast *c, int link)
{
    if (c->scene.dead)
        return;
    world_link_cut(&c->scene.w, link);
    (void)scene_turn(&c->scene);
}

static void post_send(struct cast *c, int number, int dup)
{
    struct post *p = &c->posts[number];
    char payload[1000], id[20] = "";
    post_payload(c, number, payload);
    if (p->qos > 0)
        (void)snprintf(id, sizeof id, "#%d", number + 1);
    p->asked = 1;
    world_say(&c->scene.w, PUBLISHER, "publish q%d %s %s %s %s =%s", p->qos,
              dup ? "dup" : "", p->retain ? "retain" : "", id, post_topic(p),
              payload);
}

/* Returns the number of the post, or -1. */
static int step_publish(struct cast *c, int qos, int retain, size_t size)
{
    struct post *p = &c->posts[c->count];
    if (c->scene.dead || c->scene.w.links[PUBLISHER].link == NULL)
        return -1;
    assert_true(c->count < POSTS);
    memset(p, 0, sizeof *p);
    p->qos = qos;
    p->retain = retain;
    p->size = size;
    p->owed = c->subscribed && !retain;
    post_send(c, c->count++, 0);
    (void)scene_turn(&c->scene);
    return c->count - 1;
}

static void step_advance(struct cast *c, uint64_t ms)
{
    if (!c->scene.dead)
        (void)scene_advance(&c->scene, ms);
}

static void step_start(struct cast *c, int orderly)
{
    struct disk *d = c->scene.w.disk;
    if (c->scene.dead)
        return;
    if (!orderly)
        scene_kill(&c->scene);
    if (!orderly || scene_stop(&c->scene) == 0)
        (void)scene_open(&c->scene, d, c->scene.w.now + 50);
}

static void connect_publisher(struct cast *c)
{
    step_connect(c, PUBLISHER, "connect c0 id=p x=1000");
}

static void connect_subscriber(struct cast *c, int answers)
{
    c->answers = answers;
    step_connect(c, SUBSCRIBER, "connect c0 id=s x=1000 rm=50");
}

/* Queues, a Will, retained messages, every stage of QoS 2. */
static void play_absent(struct cast *c)
{
    connect_subscriber(c, ANSWER_ALL);
    step_say(c, SUBSCRIBER, "subscribe #1 a/#,q2 w/#,q1");
    step_cut(c, SUBSCRIBER);
    connect_publisher(c);
    for (int i = 0; i < 5; i++)
        (void)step_publish(c, (i + 1) % 3, 0, 10 + 20 * (size_t)i);
    (void)step_publish(c, 1, 1, 30);
    (void)step_publish(c, 2, 1, 40);
    step_connect(c, MOURNED, "connect c1 id=w x=1000 will q1 w/t =gone");
    step_cut(c, MOURNED);
    c->hold = 1;
    (void)step_publish(c, 2, 0, 5);
    c->hold = 0;
    connect_subscriber(c, ANSWER_NOTHING);
    step_cut(c, SUBSCRIBER);
    connect_subscriber(c, ANSWER_RECEIVED);
    step_cut(c, SUBSCRIBER);
}

/* Enough to fill segments and have them cleaned, and a session that ends. */
static void play_present(struct cast *c)
{
    connect_subscriber(c, ANSWER_ALL);
    connect_publisher(c);
    for (int i = 0; i < c->count && !c->scene.dead; i++)
        if (c->posts[i].qos == 2 && c->posts[i].told &&
            !c->posts[i].released) {
            char words[40];
            (void)snprintf(words, sizeof words, "pubrel #%d 00", i + 1);
            c->posts[i].released = 1;
            step_say(c, PUBLISHER, words);
        }
    for (int i = 0; i < 8; i++)
        (void)step_publish(c, 1 + i % 2, i == 3, 150);
    step_advance(c, 1500);
    step_connect(c, BRIEF, "connect c0 id=e x=1");
    step_say(c, BRIEF, "subscribe #1 e/#,q1 f,q0");
    step_say(c, BRIEF, "unsubscribe #2 f");
    step_cut(c, BRIEF);
    step_advance(c, 2500);
    step_cut(c, SUBSCRIBER);
    for (int i = 0; i < 3; i++)
        (void)step_publish(c, i, 0, 20);
}

static void play(struct cast *c, struct disk *d)
{
    (void)scene_open(&c->scene, d, SCENE_T0);
    play_absent(c);
    step_start(c, 0);
    play_present(c);
    step_start(c, 1);
    connect_publisher(c);
    (void)step_publish(c, 1, 1, 20);
    (void)step_publish(c, 2, 0, 20);
    step_start(c, 0);
    connect_publisher(c);
    (void)step_publish(c, 1, 0, 20);
}

static struct cast *cast_new(void)
{
    struct cast *c = (struct cast *)mem_new(sizeof *c);
    c->scene.segment_size = 1024;
    c->scene.reserve_size = 8192;
    c->scene.w.hear = cast_hear;
    c->scene.w.arg = c;
    return c;
}

static void cast_free(struct cast *c)
{
    scene_free(&c->scene);
    free(c);
}

/* ==== what must be there afterwards ======================================= */

/* The publisher goes on with what it has not finished. */
static void verify_publisher(struct cast *c)
{
    connect_publisher(c);
    for (int i = 0; i < c->count && !c->scene.dead; i++) {
        struct post *p = &c->posts[i];
        if (p->qos != 2 || !p->told || p->completed)
            continue;
        if (p->released)
            world_say(&c->scene.w, PUBLISHER, "pubrel #%d 00", i + 1);
        else
            post_send(c, i, 1);
        (void)scene_turn(&c->scene);
        if (!p->completed)
            cast_fail(c, "message %d is not completed", i);
    }
}

static void verify_retained(struct cast *c)
{
    int least = -1;
    for (int i = 0; i < c->count; i++)
        if (c->posts[i].retain && c->posts[i].told)
            least = i;
    c->retained = -1;
    step_connect(c, NEWCOMER, "connect c1 id=n");
    step_say(c, NEWCOMER, "subscribe #1 r/0,q0");
    if (c->retained < least)
        cast_fail(c, "retained message %d is lost, %d is there", least,
                  c->retained);
}

/* Starts on the disk, which is freed, without failures. */
static void verify(struct cast *played, struct disk *d, const char *after)
{
    struct cast *c = (struct cast *)mem_new(sizeof *c);
    int number;
    *c = *played;
    memset(&c->scene, 0, sizeof c->scene);
    c->scene.segment_size = played->scene.segment_size;
    c->scene.reserve_size = played->scene.reserve_size;
    c->scene.w.hear = cast_hear;
    c->scene.w.arg = c;
    c->hold = 0;
    if (scene_open(&c->scene, d, played->scene.w.now + 1000) < 0)
        cast_fail(c, "no start: %s", c->scene.w.error);
    connect_subscriber(c, ANSWER_ALL);
    verify_publisher(c);
    step_advance(c, 200);
    for (int i = 0; i < c->count; i++)
        if (c->posts[i].told && c->posts[i].owed && !c->posts[i].got)
            cast_fail(c, "message %d was acknowledged and is lost", i);
    if (c->will_told && !c->will_got)
        cast_fail(c, "the Will is lost");
    verify_retained(c);
    number = step_publish(c, 2, 0, 10);
    if (!c->scene.dead && (number < 0 || !c->posts[number].completed ||
                           c->posts[number].got < c->subscribed))
        cast_fail(c, "nothing new is delivered");
    if (c->scene.dead)
        cast_fail(c, "died without a failure: %s", c->scene.w.error);
    if (c->why[0] != '\0')
        cast_fail(played, "after a %s: %s", after, c->why);
    cast_free(c);
    disk_free(d);
}

/* What is safe on the disk, as another disk. */
static struct disk *disk_copy_safe(const struct disk *d)
{
    struct disk *copy = disk_new(d->random), *safe;
    for (size_t i = 0; i < d->op_count; i++)
        disk_apply(copy, d->ops[i]);
    disk_power_cut(copy);
    safe = disk_copy(copy);
    disk_free(copy);
    return safe;
}

static void verify_both(struct cast *c, const struct disk *d)
{
    if (c->why[0] == '\0')
        verify(c, disk_copy(d), "kill");
    if (c->why[0] == '\0')
        verify(c, disk_copy_safe(d), "power cut");
}

/* ==== failing calls ======================================================= */

enum rule {
    RULE_NONE,  /* the process may end */
    RULE_LIVES, /* it must not */
    RULE_DIES   /* it must, but for the index, which is given up with a notice,
                  for the reserve, which may find no room, and for the seal */
};

struct plan {
    const char *name;
    enum disk_call call;
    int error;   /* 0 = a short write */
    size_t part; /* of `part` bytes */
    int forever;
    enum rule rule;
};

/* EINTR for good is left out where the call is tried again: it would be, for
 * good. */
static const struct plan plans[] = {
    {"open EIO", DISK_OPEN, EIO, 0, 0, RULE_NONE},
    {"open EIO for good", DISK_OPEN, EIO, 0, 1, RULE_NONE},
    {"open ENOSPC", DISK_OPEN, ENOSPC, 0, 0, RULE_NONE},
    {"open ENOSPC for good", DISK_OPEN, ENOSPC, 0, 1, RULE_NONE},
    {"open EINTR", DISK_OPEN, EINTR, 0, 0, RULE_LIVES},
    {"close EIO", DISK_CLOSE, EIO, 0, 0, RULE_LIVES},
    {"close EIO for good", DISK_CLOSE, EIO, 0, 1, RULE_LIVES},
    {"close EINTR", DISK_CLOSE, EINTR, 0, 0, RULE_LIVES},
    {"pread EIO", DISK_PREAD, EIO, 0, 0, RULE_NONE},
    {"pread EIO for good", DISK_PREAD, EIO, 0, 1, RULE_NONE},
    {"pread EINTR", DISK_PREAD, EINTR, 0, 0, RULE_LIVES},
    {"pwrite EIO", DISK_PWRITE, EIO, 0, 0, RULE_NONE},
    {"pwrite EIO for good", DISK_PWRITE, EIO, 0, 1, RULE_NONE},
    {"pwrite EIO, half done", DISK_PWRITE, EIO, 90, 0, RULE_NONE},
    {"pwrite ENOSPC", DISK_PWRITE, ENOSPC, 0, 0, RULE_NONE},
    {"pwrite ENOSPC, half done", DISK_PWRITE, ENOSPC, 90, 0, RULE_NONE},
    {"pwrite ENOSPC for good", DISK_PWRITE, ENOSPC, 0, 1, RULE_NONE},
    {"pwrite EINTR", DISK_PWRITE, EINTR, 0, 0, RULE_LIVES},
    {"pwrite of 0 bytes", DISK_PWRITE, 0, 0, 0, RULE_NONE},
    {"pwrite of 1 byte", DISK_PWRITE, 0, 1, 0, RULE_LIVES},
    {"pwrite of 90 bytes", DISK_PWRITE, 0, 90, 0, RULE_LIVES},
    {"pwrite of 90 bytes for good", DISK_PWRITE, 0, 90, 1, RULE_LIVES},
    {"size EIO", DISK_SIZE, EIO, 0, 0, RULE_NONE},
    {"size EIO for good", DISK_SIZE, EIO, 0, 1, RULE_NONE},
    {"sync EIO", DISK_SYNC, EIO, 0, 0, RULE_DIES},
    {"sync EIO for good", DISK_SYNC, EIO, 0, 1, RULE_DIES},
    {"sync ENOSPC", DISK_SYNC, ENOSPC, 0, 0, RULE_DIES},
    {"sync ENOSPC for good", DISK_SYNC, ENOSPC, 0, 1, RULE_DIES},
    {"sync EINTR", DISK_SYNC, EINTR, 0, 0, RULE_DIES},
    {"sync of names EIO", DISK_SYNC_DIR, EIO, 0, 0, RULE_DIES},
    {"sync of names EIO for good", DISK_SYNC_DIR, EIO, 0, 1, RULE_DIES},
    {"sync of names ENOSPC", DISK_SYNC_DIR, ENOSPC, 0, 0, RULE_DIES},
    {"sync of names EINTR", DISK_SYNC_DIR, EINTR, 0, 0, RULE_DIES},
    {"rename EIO", DISK_RENAME, EIO, 0, 0, RULE_NONE},
    {"rename EIO for good", DISK_RENAME, EIO, 0, 1, RULE_NONE},
    {"rename ENOSPC", DISK_RENAME, ENOSPC, 0, 0, RULE_NONE},
    {"rename ENOSPC for good", DISK_RENAME, ENOSPC, 0, 1, RULE_NONE},
    {"unlink EIO", DISK_UNLINK, EIO, 0, 0, RULE_NONE},
    {"unlink EIO for good", DISK_UNLINK, EIO, 0, 1, RULE_NONE},
    {"unlink EINTR", DISK_UNLINK, EINTR, 0, 0, RULE_NONE},
    {"mkdir EIO", DISK_MKDIR, EIO, 0, 0, RULE_NONE},
    {"mkdir ENOSPC", DISK_MKDIR, ENOSPC, 0, 1, RULE_NONE},
    {"list EIO", DISK_LIST, EIO, 0, 0, RULE_NONE},
    {"list EIO for good", DISK_LIST, EIO, 0, 1, RULE_NONE},
    {"lock EIO", DISK_LOCK, EIO, 0, 0, RULE_NONE},
    {"lock EINTR", DISK_LOCK, EINTR, 0, 0, RULE_NONE},
    {"random EIO", DISK_RANDOM, EIO, 0, 0, RULE_NONE},
    {"random EIO for good", DISK_RANDOM, EIO, 0, 1, RULE_NONE},
};

/* One line that begins with a file of the store and says what to do; and the
 * store does nothing any more. */
static void death_check(struct cast *c)
{
    struct scene *s = &c->scene;
    const char *e = s->w.error;
    if (strncmp(e, DISK_DIR, strlen(DISK_DIR)) != 0 || strchr(e, '\n') ||
        strchr(e, ':') == NULL || strchr(e, ';') == NULL)
        cast_fail(c, "no clear line: [%s]", e);
    if (s->w.store == NULL || s->w.server == NULL)
        return;
    world_say(&s->w, PUBLISHER, "publish q1 #900 a/b =never");
    if (store_commit(s->w.store, s->w.now + 10000) != -1)
        cast_fail(c, "it commits again after: %s", e);
}

static void rule_check(struct cast *c, const struct plan *p)
{
    const struct buf *notes = &c->scene.notices;
    int excused = c->scene.seal_faults > 0 ||
                  scene_has(notes, "index.new: not written") ||
                  (p->error == ENOSPC && scene_has(notes, "reserve"));
    if (p->rule == RULE_LIVES && c->scene.dead)
        cast_fail(c, "it ended: %s", c->scene.w.error);
    if (p->rule == RULE_DIES && !c->scene.dead && !excused)
        cast_fail(c, "it went on, without a word");
}

/* The n-th call fails: 1, or 0 if there is none. */
static int plan_run(const struct plan *p, long n, long *deaths)
{
    struct disk *d = disk_new(7);
    struct cast *c = cast_new();
    char why[sizeof c->why];
    int hit;
    d->fault.calls = DISK_BIT(p->call);
    d->fault.nth = n;
    d->fault.error = p->error;
    d->fault.part = p->part;
    d->fault.forever = p->forever;
    play(c, d);
    hit = d->fault.hits > 0;
    d->fault.nth = 0;
    if (c->scene.dead)
        death_check(c);
    if (hit)
        rule_check(c, p);
    else if (c->scene.dead)
        cast_fail(c, "died without a failure: %s", c->scene.w.error);
    *deaths += c->scene.dead;
    scene_kill(&c->scene);
    verify_both(c, d);
    (void)snprintf(why, sizeof why, "%s", c->why);
    cast_free(c);
    disk_free(d);
    if (why[0] != '\0')
        fail_msg("%s, call %ld: %s", p->name, n, why);
    return hit;
}

static void test_every_call_fails(void **state)
{
    long runs = 0, deaths = 0;
    (void)state;
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        long n = 1;
        while (plan_run(&plans[i], n, &deaths))
            n++;
        assert_true(n > 1);
        runs += n - 1;
    }
    printf("failing calls tried: %ld, %zu kinds; the process ended at %ld\n",
           runs, sizeof plans / sizeof plans[0], deaths);
}

/* The workload is worth it: all of it happens. */
static void test_the_workload_reaches_everything(void **state)
{
    struct disk *d = disk_new(7);
    struct cast *c = cast_new();
    (void)state;
    play(c, d);
    assert_false(c->scene.dead);
    assert_true(c->will_told);
    assert_true(c->count >= 20);
    for (int i = 0; i < c->count; i++)
        assert_true(c->posts[i].told || c->posts[i].qos == 0);
    assert_null(disk_get(d, "00000001.log")); /* replaced and cleaned */
    assert_non_null(disk_get(d, "index"));
    for (int call = 0; call < DISK_CALLS; call++)
        assert_true(d->counts[call] > 0);
    scene_kill(&c->scene);
    verify_both(c, d);
    assert_string_equal(c->why, "");
    cast_free(c);
    disk_free(d);
}

/* ==== a full disk ========================================================= */

/* Publishes until one is refused.  Nothing ends the process. */
static void full_reach(struct cast *c)
{
    int n = -1;
    for (int i = 0; i < 60 && (n < 0 || !c->posts[n].refused); i++) {
        n = step_publish(c, 1 + i % 2, 0, 200);
        if (n < 0 || (!c->posts[n].told && !c->posts[n].refused))
            cast_fail(c, "no answer to a publish: %s", c->scene.w.error);
    }
    if (n < 0 || !c->posts[n].refused || !store_full(c->scene.w.store))
        cast_fail(c, "it was never full");
    if (!scene_has(&c->scene.notices, "the disk is full"))
        cast_fail(c, "it was full without a word");
}

/* Full, and full it stays: a subscriber takes what it is owed and finishes it,
 * a session ends, what was begun is completed. */
static void full_use(struct cast *c)
{
    connect_subscriber(c, ANSWER_ALL);
    step_advance(c, 300);
    for (int i = 0; i < c->count; i++)
        if (c->posts[i].told &&
            (!c->posts[i].got || (c->posts[i].qos == 2 &&
                                  !(c->posts[i].received &&
                                    c->posts[i].completed))))
            cast_fail(c, "message %d is not finished while full", i);
    step_connect(c, BRIEF, "connect c0 id=e x=1000");
    step_say(c, BRIEF, "disconnect 00 x=0");
    step_cut(c, SUBSCRIBER);
    if (c->scene.dead)
        cast_fail(c, "it ended while full: %s", c->scene.w.error);
}

/* There is room again: nobody has to be asked. */
static void full_leave(struct cast *c, struct disk *d)
{
    int n;
    d->room = -1;
    step_advance(c, 6000);
    if (!c->scene.dead && store_full(c->scene.w.store))
        cast_fail(c, "there is room, and it stays full");
    if (!scene_has(&c->scene.notices, "there is room again"))
        cast_fail(c, "it went on without a word");
    connect_publisher(c);
    n = step_publish(c, 2, 0, 200);
    if (n < 0 || !c->posts[n].completed)
        cast_fail(c, "there is room, and nothing is taken");
}

/* Frees both, and fails if a promise was broken. */
static void room_end(struct cast *c, struct disk *d, int64_t room)
{
    char why[sizeof c->why];
    (void)snprintf(why, sizeof why, "%s", c->why);
    cast_free(c);
    disk_free(d);
    if (why[0] != '\0')
        fail_msg("room for %d bytes: %s", (int)room, why);
}

static void test_full_disk_refuses_finishes_and_resumes(void **state)
{
    (void)state;
    for (int64_t room = 0; room < 2600; room += 13) {
        struct disk *d = disk_new(7);
        struct cast *c = cast_new();
        (void)scene_open(&c->scene, d, SCENE_T0);
        connect_subscriber(c, ANSWER_ALL);
        step_say(c, SUBSCRIBER, "subscribe #1 a/#,q2 w/#,q1");
        step_cut(c, SUBSCRIBER);
        step_connect(c, BRIEF, "connect c0 id=e x=1000");
        step_cut(c, BRIEF);
        connect_publisher(c);
        for (int i = 0; i < 4; i++)
            (void)step_publish(c, 1 + i % 2, 0, 50);
        d->room = room;
        full_reach(c);
        full_use(c);
        full_leave(c, d);
        scene_kill(&c->scene);
        verify_both(c, d);
        room_end(c, d, room);
    }
}

/* Room for any number of bytes from the first start on: each start and each
 * turn either works, or says why it does not; what was told holds. */
static void test_little_room_from_the_first_start(void **state)
{
    (void)state;
    for (int64_t room = 0; room < 20000; room += room < 1000 ? 17 : 97) {
        struct disk *d = disk_new(7);
        struct cast *c = cast_new();
        d->room = room;
        play(c, d);
        if (c->scene.dead)
            death_check(c);
        scene_kill(&c->scene);
        verify_both(c, d); /* the copies have room */
        room_end(c, d, room);
    }
}

/* ==== memory ============================================================== */

static long memory_count, memory_nth; /* the nth request fails; 0 = none */
static jmp_buf memory_end;            /* where the end of the process leads */
static int memory_exits;              /* 1 = it really ends */

/* What store.c and session.c call here for realloc() and _exit(). */
void *fail_realloc(void *old, size_t size);
void fail_exit(int status) __attribute__((noreturn));

void *fail_realloc(void *old, size_t size)
{
    memory_count++;
    return memory_count == memory_nth ? NULL : realloc(old, size);
}

void fail_exit(int status)
{
    if (memory_exits)
        _exit(status);
    longjmp(memory_end, status);
}

/* What has been written to the pipe so far must be the one line, or nothing. */
static void memory_line_check(struct cast *c, int fd, int dead)
{
    static const char line[] = "holdfast: out of memory, stopping; nothing "
                               "acknowledged is lost\n";
    char text[400];
    ssize_t n = read(fd, text, sizeof text);
    if (dead && (n != (ssize_t)sizeof line - 1 ||
                 memcmp(text, line, sizeof line - 1) != 0))
        cast_fail(c, "it ended without its line");
    if (!dead && n > 0)
        cast_fail(c, "it said: %.*s", (int)n, text);
}

/* Plays with stderr led into the pipe: 0, or the exit status. */
static int memory_play(struct cast *c, struct disk *d, long n, int pipe_in)
{
    int screen = dup(STDERR_FILENO), status;
    (void)dup2(pipe_in, STDERR_FILENO);
    memory_count = 0;
    memory_nth = n;
    status = setjmp(memory_end);
    if (status == 0)
        play(c, d);
    memory_nth = 0;
    (void)dup2(screen, STDERR_FILENO);
    (void)close(screen);
    return status;
}

/* The n-th request finds no memory: 1, or 0 if there is none.  The process
 * that died leaves its objects behind, as the dead do. */
static int memory_run(long n, const int fds[2])
{
    struct disk *d = disk_new(7);
    struct cast *c = cast_new();
    int status = memory_play(c, d, n, fds[1]), hit = memory_count >= n;
    if (status != (hit ? 71 : 0))
        cast_fail(c, "exit status %d", status);
    memory_line_check(c, fds[0], status != 0);
    if (status != 0) {
        c->scene.w.store = NULL;
        c->scene.w.server = NULL;
        memset(c->scene.w.links, 0, sizeof c->scene.w.links);
    }
    scene_kill(&c->scene);
    verify_both(c, d);
    if (c->why[0] != '\0') {
        printf("no memory at request %ld: %s\n", n, c->why);
        (void)fflush(stdout);
        _exit(1);
    }
    cast_free(c);
    disk_free(d);
    return hit;
}

static void test_every_request_for_memory_fails(void **state)
{
    int status = -1, fds[2];
    pid_t child;
    (void)state;
    (void)fflush(stdout);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        long n = 1;
        if (pipe(fds) != 0 || fcntl(fds[0], F_SETFL, O_NONBLOCK) != 0)
            _exit(2);
        while (memory_run(n, fds))
            n++;
        printf("requests for memory that failed: %ld\n", n - 1);
        (void)fflush(stdout);
        _exit(n > 100 ? 0 : 3);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* And once without the test's way back. */
static void test_no_memory_ends_the_process_with_71(void **state)
{
    int status = -1;
    pid_t child = fork();
    (void)state;
    assert_true(child >= 0);
    if (child == 0) {
        memory_exits = 1;
        memory_count = 0;
        memory_nth = 50;
        (void)close(STDERR_FILENO);
        play(cast_new(), disk_new(7));
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 71);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_workload_reaches_everything),
        cmocka_unit_test(test_every_call_fails),
        cmocka_unit_test(test_full_disk_refuses_finishes_and_resumes),
        cmocka_unit_test(test_little_room_from_the_first_start),
        cmocka_unit_test(test_every_request_for_memory_fails),
        cmocka_unit_test(test_no_memory_ends_the_process_with_71),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
