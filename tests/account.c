/*
 * account.c - clients that lose nothing, and the accounts of a broker's lives.
 *
 *   1. Numbers       the seeded generator
 *   2. Publishers
 *   3. Subscribers
 *   4. The load      all clients in one poll()
 *   5. Lives         start, end, and the last one
 *   6. Accounts
 */
#include "account.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ============================ 1. Numbers ================================= */

/* xorshift64*: 0 .. bound - 1. */
uint32_t account_random(struct account *a, uint32_t bound)
{
    a->random ^= a->random >> 12;
    a->random ^= a->random << 25;
    a->random ^= a->random >> 27;
    return (uint32_t)((a->random * 2685821657736338717u) >> 33) % bound;
}

static uint16_t flight_id(uint32_t seq)
{
    return (uint16_t)(seq % 65535 + 1);
}

static void cut(struct account *a, size_t i)
{
    client_close(&a->client[i]);
}

/* ============================ 2. Publishers ============================== */

/* Sends a message; its payload depends on its number alone, so that a
 * repetition is the same bytes. */
static int publisher_send(struct account *a, size_t i, uint32_t seq, int dup)
{
    char topic[16], payload[PAYLOAD_MAX];
    size_t n = (size_t)snprintf(payload, sizeof payload, "%zu %u ", i, seq);
    size_t size = n + seq * 37 % (PAYLOAD_MAX - 32);

    memset(payload + n, '.', size - n);
    snprintf(topic, sizeof topic, "kill/%zu", i);
    return client_publish(&a->client[i], topic, payload, size, a->pub[i].qos,
                          flight_id(seq), dup);
}

/* After a CONNACK: everything open again, in its old order. */
static void publisher_resume(struct account *a, size_t i)
{
    struct publisher *p = &a->pub[i];

    for (size_t k = 0; k < p->n; k++) {
        struct flight *f = &p->flight[k];
        int rc = f->released ? client_send_short(&a->client[i], MQTT_PUBREL,
                                                 flight_id(f->seq), 0)
                             : publisher_send(a, i, f->seq, 1);
        if (rc != 0) {
            cut(a, i);
            return;
        }
    }
}

static void publisher_fill(struct account *a, size_t i)
{
    struct publisher *p = &a->pub[i];

    while (p->n < WINDOW && p->last + 1 < SEQ_MAX && a->client[i].fd >= 0) {
        struct flight *f = &p->flight[p->n++];
        f->seq = ++p->last;
        f->released = 0;
        a->fig.published++;
        if (publisher_send(a, i, f->seq, 0) != 0)
            cut(a, i);
    }
}

static void publisher_finish(struct publisher *p, size_t k)
{
    memmove(&p->flight[k], &p->flight[k + 1],
            (p->n - k - 1) * sizeof p->flight[0]);
    p->n--;
}

static void publisher_taken(struct account *a, struct publisher *p,
                            uint32_t seq)
{
    a->fig.acked += !p->acked[seq];
    p->acked[seq] = 1;
}

static void publisher_read(struct account *a, size_t i,
                           const struct mqtt_packet *packet)
{
    struct publisher *p = &a->pub[i];
    size_t k = 0;

    while (k < p->n && flight_id(p->flight[k].seq) != packet->packet_id)
        k++;
    if (k == p->n || (packet->reason >= 0x80 && packet->type != MQTT_PUBCOMP)) {
        a->fig.errors++;
        return;
    }
    if (packet->type == MQTT_PUBACK && p->qos == 1) {
        publisher_taken(a, p, p->flight[k].seq);
        publisher_finish(p, k);
    } else if (packet->type == MQTT_PUBREC && p->qos == 2) {
        publisher_taken(a, p, p->flight[k].seq);
        p->flight[k].released = 1;
        if (client_send_short(&a->client[i], MQTT_PUBREL, packet->packet_id,
                              0) != 0)
            cut(a, i);
    } else if (packet->type == MQTT_PUBCOMP && p->flight[k].released) {
        publisher_finish(p, k);
    } else {
        a->fig.errors++;
    }
}

/* ============================ 3. Subscribers ============================= */

static void subscriber_take(struct account *a, struct subscriber *s,
                            size_t from, uint32_t seq, uint8_t qos)
{
    if (s->got[from][seq]) {
        if (qos == 2)
            a->fig.duplicates++;
        else
            a->fig.repeated++;
        return;
    }
    s->got[from][seq] = 1;
    a->fig.delivered++;
    if (seq < s->newest[from])
        a->fig.disorder++;
    else
        s->newest[from] = seq;
}

/* The publisher and number in the payload: 0, or -1. */
static int payload_parse(const struct mqtt_publish *p, size_t *from,
                         uint32_t *seq)
{
    char text[32] = "";
    unsigned a, b;

    memcpy(text, p->payload.p, p->payload.n < 31 ? p->payload.n : 31);
    if (sscanf(text, "%u %u ", &a, &b) != 2 || a >= PUBLISHERS || b >= SEQ_MAX)
        return -1;
    *from = a;
    *seq = b;
    return 0;
}

static void subscriber_publish(struct account *a, struct subscriber *s,
                               const struct mqtt_publish *p)
{
    uint32_t seq;
    size_t from;

    if (payload_parse(p, &from, &seq) != 0) {
        a->fig.errors++;
    } else if (p->qos < 2) {
        subscriber_take(a, s, from, seq, p->qos);
    } else if (s->open[p->packet_id] == 0) {
        s->open[p->packet_id] = seq + 1;
        subscriber_take(a, s, from, seq, 2);
    } else {
        /* 4.3.3: until PUBREL the same identifier is the same message. */
        a->fig.repeated++;
        a->fig.errors += s->open[p->packet_id] != seq + 1 || !p->dup;
    }
}

static void subscriber_read(struct account *a, size_t i,
                            const struct mqtt_packet *packet)
{
    struct subscriber *s = &a->sub[i - PUBLISHERS];

    if (packet->type == MQTT_PUBLISH)
        subscriber_publish(a, s, &packet->publish);
    else if (packet->type == MQTT_PUBREL)
        s->open[packet->packet_id] = 0;
    else
        a->fig.errors++;
    if (client_answer(&a->client[i], packet) != 0)
        cut(a, i);
}

/* ============================ 4. The load ================================ */

/* All that has arrived for one client. */
static void hear(struct account *a, size_t i)
{
    struct mqtt_packet packet;
    enum client_got got;

    while ((got = client_read(&a->client[i], &packet, 0)) == CLIENT_PACKET) {
        if (packet.type == MQTT_PINGRESP)
            a->ponged[i] = 1;
        else if (packet.type == MQTT_DISCONNECT)
            a->fig.errors++;
        else if (i < PUBLISHERS)
            publisher_read(a, i, &packet);
        else
            subscriber_read(a, i, &packet);
    }
    if (got == CLIENT_BAD)
        a->fig.errors++;
    if (got != CLIENT_SILENCE)
        cut(a, i);
}

/* Connects and resumes.  A failure only means that the broker is dead. */
static void join(struct account *a, size_t i)
{
    struct mqtt_packet ack;
    char id[16];

    snprintf(id, sizeof id, "client%zu", i);
    if (client_connect(&a->client[i], a->broker.port, id, 0, 86400, &ack) != 0)
        return;
    if (a->known[i] && !ack.session_present) {
        a->fig.sessions++;
        fprintf(stderr, "%s: the session of %s is lost\n", a->name, id);
    }
    a->known[i] = 1;
    if (i < PUBLISHERS)
        publisher_resume(a, i);
    hear(a, i); /* what came with the CONNACK is no event for poll() */
}

/* Nothing happened for too long: what is being waited for? */
static void complain(struct account *a)
{
    a->fig.errors++;
    fprintf(stderr, "%s: nothing happened for %d ms\n", a->name, CLIENT_WAIT);
    for (size_t i = 0; i < PUBLISHERS; i++) {
        const struct publisher *p = &a->pub[i];
        fprintf(stderr, "  client%zu (%s) has sent %u, %zu under way:", i,
                a->client[i].fd < 0 ? "offline" : "online", p->last, p->n);
        for (size_t k = 0; k < p->n; k++)
            fprintf(stderr, " %s %u",
                    p->flight[k].released ? "PUBREL" : "PUBLISH",
                    flight_id(p->flight[k].seq));
        for (size_t k = 0; k < SUBSCRIBERS; k++)
            fprintf(stderr, "; client%zu (%s) has %u", PUBLISHERS + k,
                    a->client[PUBLISHERS + k].fd < 0 ? "offline" : "online",
                    a->sub[k].newest[i]);
        fprintf(stderr, "\n");
    }
}

/* Waits for something to arrive and deals with it.  1, or 0: the broker is
 * dead, and everything that it had sent was read. */
static int step(struct account *a)
{
    struct pollfd p[CLIENTS + 1];
    int dead;

    for (size_t i = 0; i < CLIENTS; i++) {
        p[i].fd = a->client[i].fd;
        p[i].events = POLLIN;
        p[i].revents = 0;
    }
    p[CLIENTS].fd = a->broker.out;
    p[CLIENTS].events = POLLIN;
    p[CLIENTS].revents = 0;
    if (poll(p, CLIENTS + 1, CLIENT_WAIT) == 0) {
        complain(a);
        return 0;
    }
    dead = p[CLIENTS].revents != 0;
    for (size_t i = 0; i < CLIENTS; i++)
        if (a->client[i].fd >= 0 && (dead || p[i].revents != 0))
            hear(a, i);
    return !dead;
}

/* Works until the broker dies. */
static void work(struct account *a)
{
    for (size_t i = 0; i < CLIENTS; i++)
        if (account_random(a, 5) > 0) /* some stay away for a while */
            join(a, i);
    do {
        for (size_t i = 0; i < PUBLISHERS; i++)
            publisher_fill(a, i);
        if (account_random(a, 40) == 0) {
            size_t i = account_random(a, CLIENTS);
            if (a->client[i].fd < 0) {
                join(a, i);
            } else {
                cut(a, i);
                a->fig.cuts++;
            }
        }
    } while (step(a));
    for (size_t i = 0; i < CLIENTS; i++)
        cut(a, i);
}

/* ============================ 5. Lives =================================== */

/* Sessions and subscriptions.  0 or -1. */
static int sessions_make(struct account *a)
{
    int rc = 0;

    for (size_t k = 0; k < SUBSCRIBERS; k++) {
        join(a, PUBLISHERS + k);
        rc |= client_subscribe(&a->client[PUBLISHERS + k], "kill/#",
                               a->sub[k].qos);
        cut(a, PUBLISHERS + k);
    }
    return rc;
}

int account_prepare(struct account *a)
{
    int rc;

    if (client_broker_start(&a->broker, a->dir, NULL) != 0)
        return -1;
    rc = sessions_make(a);
    client_broker_end(&a->broker, SIGKILL);
    client_broker_forget(&a->broker);
    return rc;
}

/* Forks a process that ends the broker after this time, without asking what
 * it is doing. */
static pid_t killer_start(const struct account *a, uint32_t microseconds)
{
    struct timespec delay = {0, (long)microseconds * 1000};
    pid_t pid = fork();
    int rc = 0;

    if (pid != 0)
        return pid;
    for (int fd = 3; fd < 256; fd++)
        close(fd); /* or connections that the test closes would stay open */
    nanosleep(&delay, NULL);
    if (a->disaster != NULL)
        rc = a->disaster(a->arg);
    kill(a->broker.pid, SIGKILL);
    _exit(rc == 0 ? 0 : 1);
}

/* Did the broker end as it must?  It was killed; or the disaster came first,
 * and it said that a call of the file system failed.  0, or -1 and it is
 * said. */
static int end_check(const struct account *a, int status)
{
    char said[1024];

    if (status != -1 && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return 0;
    client_broker_log_end(&a->broker, said, sizeof said);
    if (a->disaster != NULL && status != -1 && WIFEXITED(status) &&
        WEXITSTATUS(status) != 0 &&
        (strstr(said, strerror(EIO)) != NULL ||
         strstr(said, strerror(EROFS)) != NULL))
        return 0;
    fprintf(stderr, "%s: the broker ended by itself: %s\n", a->name, said);
    return -1;
}

int account_life(struct account *a)
{
    const char *args[] = {"-p", "0", "-s", "off", "-d", a->dir, NULL};
    int early = account_random(a, 8) == 0;
    uint32_t most = account_random(a, 4) == 0 ? 10000 : 250000;
    pid_t killer = -1;
    int status, done = 0;

    if (client_broker_spawn(&a->broker, args) != 0)
        return -1;
    if (early)
        killer = killer_start(a, account_random(a, 20000));
    if (client_broker_await(&a->broker) == 0) {
        if (!early)
            killer = killer_start(a, account_random(a, most));
        work(a);
    }
    /* The killer ends first: until the broker is waited for, its process id
     * belongs to nobody else. */
    if (killer > 0)
        waitpid(killer, &done, 0);
    status = client_broker_end(&a->broker, killer > 0 ? 0 : SIGKILL);
    if (end_check(a, status) != 0)
        return -1;
    client_broker_forget(&a->broker);
    a->fig.restarts++;
    if (killer > 0 && done == 0)
        return 0;
    fprintf(stderr, "%s: the broker was not ended as it should\n", a->name);
    return -1;
}

/* 1 = nothing is under way and everything acknowledged was delivered. */
static int settled(const struct account *a)
{
    for (size_t i = 0; i < PUBLISHERS; i++) {
        if (a->pub[i].n > 0)
            return 0;
        for (size_t k = 0; k < SUBSCRIBERS; k++)
            if (a->sub[k].newest[i] < a->pub[i].last)
                return 0;
    }
    return 1;
}

/* A last life without a killer: the rest is delivered.  A PINGRESP after it
 * shows that nothing more comes. */
int account_finish(struct account *a)
{
    if (client_broker_start(&a->broker, a->dir, NULL) != 0)
        return -1;
    for (size_t i = 0; i < CLIENTS; i++)
        join(a, i);
    while (!settled(a) && step(a))
        continue;
    for (size_t i = 0; i < CLIENTS; i++) {
        a->ponged[i] = 0;
        client_send_short(&a->client[i], MQTT_PINGREQ, 0, 0);
        while (a->client[i].fd >= 0 && !a->ponged[i] && step(a))
            continue;
        a->fig.errors += !a->ponged[i];
        client_leave(&a->client[i]);
    }
    a->fig.errors += client_broker_end(&a->broker, SIGTERM) != 0;
    client_broker_forget(&a->broker);
    return 0;
}

/* ============================ 6. Accounts ================================ */

struct account *account_new(const char *name, unsigned long seed)
{
    struct account *a = (struct account *)mem_new(sizeof *a);

    a->name = name;
    a->seed = seed;
    a->start = client_clock();
    a->random = (uint64_t)seed * 2654435761u + 88172645463325252u;
    for (size_t i = 0; i < CLIENTS; i++)
        a->client[i].fd = -1;
    for (size_t i = 0; i < PUBLISHERS; i++) {
        a->pub[i].qos = (uint8_t)(1 + i % 2);
        a->pub[i].acked = (uint8_t *)mem_new(SEQ_MAX);
        for (size_t k = 0; k < SUBSCRIBERS; k++)
            a->sub[k].got[i] = (uint8_t *)mem_new(SEQ_MAX);
    }
    for (size_t k = 0; k < SUBSCRIBERS; k++)
        a->sub[k].qos = k == 1 ? 1 : 2;
    return a;
}

void account_close(struct account *a)
{
    for (size_t i = 0; i < PUBLISHERS; i++)
        for (size_t k = 0; k < SUBSCRIBERS; k++)
            for (uint32_t seq = 1; seq <= a->pub[i].last; seq++)
                a->fig.lost += a->pub[i].acked[seq] && !a->sub[k].got[i][seq];
}

void account_report(const struct account *a)
{
    const struct account_figures *f = &a->fig;

    printf("%s seed=%lu lives=%llu cuts=%llu published=%llu "
           "acknowledged=%llu delivered=%llu repeated=%llu lost=%llu "
           "duplicates=%llu disorder=%llu sessions_lost=%llu errors=%llu "
           "seconds=%llu\n",
           a->name, a->seed, (unsigned long long)f->restarts,
           (unsigned long long)f->cuts, (unsigned long long)f->published,
           (unsigned long long)f->acked, (unsigned long long)f->delivered,
           (unsigned long long)f->repeated, (unsigned long long)f->lost,
           (unsigned long long)f->duplicates, (unsigned long long)f->disorder,
           (unsigned long long)f->sessions, (unsigned long long)f->errors,
           (unsigned long long)((client_clock() - a->start) / 1000));
}

int account_good(const struct account *a)
{
    const struct account_figures *f = &a->fig;

    return f->acked > 0 &&
           f->lost + f->duplicates + f->disorder + f->sessions + f->errors == 0;
}
