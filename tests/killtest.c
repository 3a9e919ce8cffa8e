/*
 * killtest.c - kill -9 at random moments, under load; then the accounts.
 *
 *     killtest [rounds [seed]]          200 rounds; the seed is printed
 *
 * In each round the broker is started on the same store, publishers and
 * subscribers resume their sessions and work, and a second process kills the
 * broker at a random moment: while it recovers, while clients connect, or
 * under load.  Clients, too, are cut off at random.  At the end everything is
 * delivered and compared:
 *
 *     lost         acknowledged (PUBACK, PUBREC) and not delivered to each
 *     duplicates   QoS 2 messages that a subscriber got twice
 *     disorder     first deliveries out of the publisher's order
 *     sessions     sessions that the broker had granted and did not find
 *     errors       refusals and packets that make no sense
 *
 * All must be 0, which is also the exit status.  A client here is as
 * persistent as the standard wants it: it resends PUBLISH with DUP and
 * PUBREL under their old identifiers, and it remembers the QoS 2 identifiers
 * that it has received (4.4, 4.3.3).
 *
 *   1. Numbers       the seeded generator
 *   2. Publishers
 *   3. Subscribers
 *   4. The load      all clients in one poll()
 *   5. Rounds        start, kill, accounts
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client.h"

#define PUBLISHERS 4  /* even ones at QoS 1, odd ones at QoS 2 */
#define SUBSCRIBERS 3 /* the second at QoS 1, the others at QoS 2 */
#define CLIENTS (PUBLISHERS + SUBSCRIBERS)
#define WINDOW 8       /* unacknowledged messages of one publisher */
#define SEQ_MAX 400000 /* messages of one publisher, at most */
#define PAYLOAD_MAX 700

/* A message under way from a publisher. */
struct flight {
    uint32_t seq;
    int released; /* PUBREC came: only PUBREL may be sent now */
};

struct publisher {
    uint8_t qos;
    uint32_t last;                /* the last seq that was sent; from 1 on */
    struct flight flight[WINDOW]; /* in the order of sending */
    size_t n;                     /* how many */
    uint8_t *acked;               /* by seq: 1 = the broker took it over */
};

struct subscriber {
    uint8_t qos;
    uint8_t *got[PUBLISHERS];    /* by seq: 1 = delivered */
    uint32_t newest[PUBLISHERS]; /* highest seq delivered */
    uint32_t open[65536];        /* by packet id: seq + 1 of an unreleased
                                    QoS 2 message, 0 = none */
};

struct figures {
    uint64_t published, acked, delivered, repeated, restarts, cuts;
    uint64_t lost, duplicates, disorder, sessions, errors;
};

struct test {
    struct client_broker broker;
    char dir[64];
    uint64_t random;
    struct client client[CLIENTS]; /* publishers, then subscribers */
    int known[CLIENTS];            /* the broker has granted its session */
    int ponged[CLIENTS];           /* PINGRESP came */
    struct publisher pub[PUBLISHERS];
    struct subscriber sub[SUBSCRIBERS];
    struct figures fig;
};

/* ============================ 1. Numbers ================================= */

/* xorshift64*: 0 .. bound - 1. */
static uint32_t random_below(struct test *t, uint32_t bound)
{
    t->random ^= t->random >> 12;
    t->random ^= t->random << 25;
    t->random ^= t->random >> 27;
    return (uint32_t)((t->random * 2685821657736338717u) >> 33) % bound;
}

static uint16_t flight_id(uint32_t seq)
{
    return (uint16_t)(seq % 65535 + 1);
}

static void cut(struct test *t, size_t i)
{
    client_close(&t->client[i]);
}

/* ============================ 2. Publishers ============================== */

/* Sends a message; its payload depends on its number alone, so that a
 * repetition is the same bytes. */
static int publisher_send(struct test *t, size_t i, uint32_t seq, int dup)
{
    char topic[16], payload[PAYLOAD_MAX];
    size_t n = (size_t)snprintf(payload, sizeof payload, "%zu %u ", i, seq);
    size_t size = n + seq * 37 % (PAYLOAD_MAX - 32);

    memset(payload + n, '.', size - n);
    snprintf(topic, sizeof topic, "kill/%zu", i);
    return client_publish(&t->client[i], topic, payload, size, t->pub[i].qos,
                          flight_id(seq), dup);
}

/* After a CONNACK: everything open again, in its old order. */
static void publisher_resume(struct test *t, size_t i)
{
    struct publisher *p = &t->pub[i];

    for (size_t k = 0; k < p->n; k++) {
        struct flight *f = &p->flight[k];
        int rc = f->released ? client_send_short(&t->client[i], MQTT_PUBREL,
                                                 flight_id(f->seq), 0)
                             : publisher_send(t, i, f->seq, 1);
        if (rc != 0) {
            cut(t, i);
            return;
        }
    }
}

static void publisher_fill(struct test *t, size_t i)
{
    struct publisher *p = &t->pub[i];

    while (p->n < WINDOW && p->last + 1 < SEQ_MAX && t->client[i].fd >= 0) {
        struct flight *f = &p->flight[p->n++];
        f->seq = ++p->last;
        f->released = 0;
        t->fig.published++;
        if (publisher_send(t, i, f->seq, 0) != 0)
            cut(t, i);
    }
}

static void publisher_finish(struct publisher *p, size_t k)
{
    memmove(&p->flight[k], &p->flight[k + 1],
            (p->n - k - 1) * sizeof p->flight[0]);
    p->n--;
}

static void publisher_taken(struct test *t, struct publisher *p, uint32_t seq)
{
    t->fig.acked += !p->acked[seq];
    p->acked[seq] = 1;
}

static void publisher_read(struct test *t, size_t i,
                           const struct mqtt_packet *packet)
{
    struct publisher *p = &t->pub[i];
    size_t k = 0;

    while (k < p->n && flight_id(p->flight[k].seq) != packet->packet_id)
        k++;
    if (k == p->n || (packet->reason >= 0x80 && packet->type != MQTT_PUBCOMP)) {
        t->fig.errors++;
        return;
    }
    if (packet->type == MQTT_PUBACK && p->qos == 1) {
        publisher_taken(t, p, p->flight[k].seq);
        publisher_finish(p, k);
    } else if (packet->type == MQTT_PUBREC && p->qos == 2) {
        publisher_taken(t, p, p->flight[k].seq);
        p->flight[k].released = 1;
        if (client_send_short(&t->client[i], MQTT_PUBREL, packet->packet_id,
                              0) != 0)
            cut(t, i);
    } else if (packet->type == MQTT_PUBCOMP && p->flight[k].released) {
        publisher_finish(p, k);
    } else {
        t->fig.errors++;
    }
}

/* ============================ 3. Subscribers ============================= */

static void subscriber_take(struct test *t, struct subscriber *s, size_t from,
                            uint32_t seq, uint8_t qos)
{
    if (s->got[from][seq]) {
        if (qos == 2)
            t->fig.duplicates++;
        else
            t->fig.repeated++;
        return;
    }
    s->got[from][seq] = 1;
    t->fig.delivered++;
    if (seq < s->newest[from])
        t->fig.disorder++;
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

static void subscriber_publish(struct test *t, struct subscriber *s,
                               const struct mqtt_publish *p)
{
    uint32_t seq;
    size_t from;

    if (payload_parse(p, &from, &seq) != 0) {
        t->fig.errors++;
    } else if (p->qos < 2) {
        subscriber_take(t, s, from, seq, p->qos);
    } else if (s->open[p->packet_id] == 0) {
        s->open[p->packet_id] = seq + 1;
        subscriber_take(t, s, from, seq, 2);
    } else {
        /* 4.3.3: until PUBREL the same identifier is the same message. */
        t->fig.repeated++;
        t->fig.errors += s->open[p->packet_id] != seq + 1 || !p->dup;
    }
}

static void subscriber_read(struct test *t, size_t i,
                            const struct mqtt_packet *packet)
{
    struct subscriber *s = &t->sub[i - PUBLISHERS];

    if (packet->type == MQTT_PUBLISH)
        subscriber_publish(t, s, &packet->publish);
    else if (packet->type == MQTT_PUBREL)
        s->open[packet->packet_id] = 0;
    else
        t->fig.errors++;
    if (client_answer(&t->client[i], packet) != 0)
        cut(t, i);
}

/* ============================ 4. The load ================================ */

/* All that has arrived for one client. */
static void hear(struct test *t, size_t i)
{
    struct mqtt_packet packet;
    enum client_got got;

    while ((got = client_read(&t->client[i], &packet, 0)) == CLIENT_PACKET) {
        if (packet.type == MQTT_PINGRESP)
            t->ponged[i] = 1;
        else if (packet.type == MQTT_DISCONNECT)
            t->fig.errors++;
        else if (i < PUBLISHERS)
            publisher_read(t, i, &packet);
        else
            subscriber_read(t, i, &packet);
    }
    if (got == CLIENT_BAD)
        t->fig.errors++;
    if (got != CLIENT_SILENCE)
        cut(t, i);
}

/* Connects and resumes.  A failure only means that the broker is dead. */
static void join(struct test *t, size_t i)
{
    struct mqtt_packet ack;
    char id[16];

    snprintf(id, sizeof id, "client%zu", i);
    if (client_connect(&t->client[i], t->broker.port, id, 0, 86400, &ack) != 0)
        return;
    if (t->known[i] && !ack.session_present) {
        t->fig.sessions++;
        fprintf(stderr, "killtest: the session of %s is lost\n", id);
    }
    t->known[i] = 1;
    if (i < PUBLISHERS)
        publisher_resume(t, i);
    hear(t, i); /* what came with the CONNACK is no event for poll() */
}

/* Nothing happened for too long: what is being waited for? */
static void complain(struct test *t)
{
    t->fig.errors++;
    fprintf(stderr, "killtest: nothing happened for %d ms\n", CLIENT_WAIT);
    for (size_t i = 0; i < PUBLISHERS; i++) {
        const struct publisher *p = &t->pub[i];
        fprintf(stderr, "  client%zu (%s) has sent %u, %zu under way:", i,
                t->client[i].fd < 0 ? "offline" : "online", p->last, p->n);
        for (size_t k = 0; k < p->n; k++)
            fprintf(stderr, " %s %u",
                    p->flight[k].released ? "PUBREL" : "PUBLISH",
                    flight_id(p->flight[k].seq));
        for (size_t k = 0; k < SUBSCRIBERS; k++)
            fprintf(stderr, "; client%zu (%s) has %u", PUBLISHERS + k,
                    t->client[PUBLISHERS + k].fd < 0 ? "offline" : "online",
                    t->sub[k].newest[i]);
        fprintf(stderr, "\n");
    }
}

/* Waits for something to arrive and deals with it.  1, or 0: the broker is
 * dead, and everything that it had sent was read. */
static int step(struct test *t)
{
    struct pollfd p[CLIENTS + 1];
    int dead;

    for (size_t i = 0; i < CLIENTS; i++) {
        p[i].fd = t->client[i].fd;
        p[i].events = POLLIN;
        p[i].revents = 0;
    }
    p[CLIENTS].fd = t->broker.out;
    p[CLIENTS].events = POLLIN;
    p[CLIENTS].revents = 0;
    if (poll(p, CLIENTS + 1, CLIENT_WAIT) == 0) {
        complain(t);
        return 0;
    }
    dead = p[CLIENTS].revents != 0;
    for (size_t i = 0; i < CLIENTS; i++)
        if (t->client[i].fd >= 0 && (dead || p[i].revents != 0))
            hear(t, i);
    return !dead;
}

/* Works until the broker dies. */
static void work(struct test *t)
{
    for (size_t i = 0; i < CLIENTS; i++)
        if (random_below(t, 5) > 0) /* some stay away for a while */
            join(t, i);
    do {
        for (size_t i = 0; i < PUBLISHERS; i++)
            publisher_fill(t, i);
        if (random_below(t, 40) == 0) {
            size_t i = random_below(t, CLIENTS);
            if (t->client[i].fd < 0) {
                join(t, i);
            } else {
                cut(t, i);
                t->fig.cuts++;
            }
        }
    } while (step(t));
    for (size_t i = 0; i < CLIENTS; i++)
        cut(t, i);
}

/* ============================ 5. Rounds ================================== */

/* Forks a process that kills the broker after this time, without asking what
 * it is doing. */
static pid_t killer_start(const struct test *t, uint32_t microseconds)
{
    struct timespec delay = {0, (long)microseconds * 1000};
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    for (int fd = 3; fd < 256; fd++)
        close(fd); /* or connections that the test closes would stay open */
    nanosleep(&delay, NULL);
    kill(t->broker.pid, SIGKILL);
    _exit(0);
}

/* One life of the broker.  0, or -1: it did not start. */
static int round_run(struct test *t)
{
    const char *args[] = {"-p", "0", "-d", t->dir, NULL};
    int early = random_below(t, 8) == 0;
    uint32_t most = random_below(t, 4) == 0 ? 10000 : 250000;
    pid_t killer = -1;
    int status;

    if (client_broker_spawn(&t->broker, args) != 0)
        return -1;
    if (early)
        killer = killer_start(t, random_below(t, 20000));
    if (client_broker_await(&t->broker) == 0) {
        if (!early)
            killer = killer_start(t, random_below(t, most));
        work(t);
    }
    /* The killer ends first: until the broker is waited for, its process id
     * belongs to nobody else. */
    if (killer > 0)
        waitpid(killer, NULL, 0);
    status = client_broker_end(&t->broker, killer > 0 ? 0 : SIGKILL);
    if (status == -1 || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        char said[1024];
        client_broker_log(&t->broker, said, sizeof said);
        fprintf(stderr, "killtest: the broker ended by itself: %s\n", said);
        return -1;
    }
    client_broker_forget(&t->broker);
    t->fig.restarts++;
    return 0;
}

/* 1 = nothing is under way and everything acknowledged was delivered. */
static int settled(const struct test *t)
{
    for (size_t i = 0; i < PUBLISHERS; i++) {
        if (t->pub[i].n > 0)
            return 0;
        for (size_t k = 0; k < SUBSCRIBERS; k++)
            if (t->sub[k].newest[i] < t->pub[i].last)
                return 0;
    }
    return 1;
}

/* A last life without a killer: the rest is delivered.  A PINGRESP after it
 * shows that nothing more comes. */
static int finish(struct test *t)
{
    if (client_broker_start(&t->broker, t->dir, NULL) != 0)
        return -1;
    for (size_t i = 0; i < CLIENTS; i++)
        join(t, i);
    while (!settled(t) && step(t))
        continue;
    for (size_t i = 0; i < CLIENTS; i++) {
        t->ponged[i] = 0;
        client_send_short(&t->client[i], MQTT_PINGREQ, 0, 0);
        while (t->client[i].fd >= 0 && !t->ponged[i] && step(t))
            continue;
        t->fig.errors += !t->ponged[i];
        client_leave(&t->client[i]);
    }
    t->fig.errors += client_broker_end(&t->broker, SIGTERM) != 0;
    client_broker_forget(&t->broker);
    return 0;
}

static void account(struct test *t)
{
    for (size_t i = 0; i < PUBLISHERS; i++)
        for (size_t k = 0; k < SUBSCRIBERS; k++)
            for (uint32_t seq = 1; seq <= t->pub[i].last; seq++)
                t->fig.lost += t->pub[i].acked[seq] && !t->sub[k].got[i][seq];
}

static void report(const struct test *t, unsigned long seed, uint64_t ms)
{
    const struct figures *f = &t->fig;

    printf("killtest seed=%lu kills=%llu cuts=%llu published=%llu "
           "acknowledged=%llu delivered=%llu repeated=%llu lost=%llu "
           "duplicates=%llu disorder=%llu sessions_lost=%llu errors=%llu "
           "seconds=%llu\n",
           seed, (unsigned long long)f->restarts, (unsigned long long)f->cuts,
           (unsigned long long)f->published, (unsigned long long)f->acked,
           (unsigned long long)f->delivered, (unsigned long long)f->repeated,
           (unsigned long long)f->lost, (unsigned long long)f->duplicates,
           (unsigned long long)f->disorder, (unsigned long long)f->sessions,
           (unsigned long long)f->errors, (unsigned long long)(ms / 1000));
}

/* Sessions and subscriptions, before the first kill.  0 or -1. */
static int prepare(struct test *t)
{
    int rc = 0;

    if (client_dir_make(t->dir, sizeof t->dir) != 0)
        return -1;
    for (size_t i = 0; i < PUBLISHERS; i++) {
        t->pub[i].qos = (uint8_t)(1 + i % 2);
        t->pub[i].acked = (uint8_t *)mem_new(SEQ_MAX);
        for (size_t k = 0; k < SUBSCRIBERS; k++)
            t->sub[k].got[i] = (uint8_t *)mem_new(SEQ_MAX);
    }
    if (client_broker_start(&t->broker, t->dir, NULL) != 0)
        return -1;
    for (size_t i = 0; i < CLIENTS; i++)
        t->client[i].fd = -1;
    for (size_t k = 0; k < SUBSCRIBERS; k++) {
        t->sub[k].qos = k == 1 ? 1 : 2;
        join(t, PUBLISHERS + k);
        rc |= client_subscribe(&t->client[PUBLISHERS + k], "kill/#",
                               t->sub[k].qos);
        cut(t, PUBLISHERS + k);
    }
    client_broker_end(&t->broker, SIGKILL);
    client_broker_forget(&t->broker);
    return rc;
}

int main(int argc, char **argv)
{
    struct test *t = (struct test *)mem_new(sizeof *t);
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 200;
    unsigned long seed =
        argc > 2 ? strtoul(argv[2], NULL, 10) : (unsigned long)time(NULL);
    uint64_t start = client_clock();
    const struct figures *f = &t->fig;
    int rc;

    printf("killtest seed=%lu rounds=%lu\n", seed, rounds);
    fflush(stdout);
    t->random = (uint64_t)seed * 2654435761u + 88172645463325252u;
    rc = prepare(t);
    for (unsigned long i = 0; i < rounds && rc == 0; i++)
        rc = round_run(t);
    if (rc == 0)
        rc = finish(t);
    account(t);
    report(t, seed, client_clock() - start);
    if (rc == 0 && f->acked > 0 &&
        f->lost + f->duplicates + f->disorder + f->sessions + f->errors == 0) {
        client_dir_remove(t->dir);
        return 0;
    }
    fprintf(stderr, "killtest: FAILED; the store is kept in %s\n", t->dir);
    return 1;
}
