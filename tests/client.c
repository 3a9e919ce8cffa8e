/*
 * client.c - a small MQTT 5.0 client for tests, and the broker as a process.
 *
 *   1. Waiting       poll() with one deadline
 *   2. The broker    start, ready line, signals, end
 *   3. Directories   one for each test
 *   4. Connections   bytes and packets
 *   5. Exchanges     CONNECT to CONNACK, PUBLISH to PUBCOMP
 */
#include "client.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ============================ 1. Waiting ================================= */

uint64_t client_clock(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* 1 = fd is ready for this, or has failed; 0 = not before the deadline. */
static int wait_for(int fd, short events, uint64_t deadline)
{
    for (;;) {
        struct pollfd p = {fd, events, 0};
        uint64_t now = client_clock();
        int rc = poll(&p, 1, now < deadline ? (int)(deadline - now) : 0);
        if (rc > 0)
            return 1;
        if (rc == 0 && now >= deadline)
            return 0;
    }
}

/* ============================ 2. The broker ============================== */

#define ARGS_MAX 32

/* In the child: never returns. */
static void broker_exec(const char *program, const char *const *args, int out,
                        int err)
{
    char *argv[ARGS_MAX + 2];
    size_t n = 0;

    argv[n++] = strdup(program);
    while (args != NULL && *args != NULL && n <= ARGS_MAX)
        argv[n++] = strdup(*args++);
    argv[n] = NULL;
    if (dup2(out, STDOUT_FILENO) < 0 || dup2(err, STDERR_FILENO) < 0)
        _exit(126);
    execv(program, argv);
    _exit(127);
}

/* The end that the test keeps must not live on in the brokers that it starts
 * later: they would hold a pipe open whose end is waited for. */
static int fd_keep(int fd)
{
    return fcntl(fd, F_SETFD, FD_CLOEXEC);
}

int client_broker_spawn(struct client_broker *b, const char *const *args)
{
    const char *program = getenv("HOLDFAST");
    char name[] = "/tmp/holdfast-err-XXXXXX";
    int ends[2];

    memset(b, 0, sizeof *b);
    b->out = -1;
    b->err = mkstemp(name);
    if (b->err < 0)
        return -1;
    unlink(name);
    if (fd_keep(b->err) != 0 || pipe(ends) != 0)
        return -1;
    b->out = ends[0];
    fd_keep(ends[0]);
    fd_keep(ends[1]);
    b->pid = fork();
    if (b->pid == 0)
        broker_exec(program != NULL ? program : "./holdfast", args, ends[1],
                    b->err);
    close(ends[1]);
    return b->pid > 0 ? 0 : -1;
}

/* The port that the ready line has behind this, or 0. */
static uint16_t ready_port(const char *line, const char *key)
{
    const char *at = strstr(line, key);
    long port = at == NULL ? 0 : strtol(at + strlen(key), NULL, 10);

    return port > 0 && port < 65536 ? (uint16_t)port : 0;
}

int client_broker_await(struct client_broker *b)
{
    uint64_t deadline = client_clock() + CLIENT_WAIT;
    size_t n = 0;

    while (n + 1 < sizeof b->ready && wait_for(b->out, POLLIN, deadline)) {
        ssize_t got = read(b->out, b->ready + n, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        if (b->ready[n] == '\n') {
            b->ready[n] = '\0';
            b->port = ready_port(b->ready, " port=");
            b->status = ready_port(b->ready, " status=http://127.0.0.1:");
            return b->port != 0 ? 0 : -1;
        }
        n++;
    }
    b->ready[n] = '\0';
    return -1;
}

int client_broker_start(struct client_broker *b, const char *dir,
                        const char *const *args)
{
    const char *all[ARGS_MAX + 1] = {"-p", "0", "-s", "off", "-d", dir};
    size_t n = 6;

    while (args != NULL && *args != NULL && n < ARGS_MAX)
        all[n++] = *args++;
    all[n] = NULL;
    if (client_broker_spawn(b, all) != 0)
        return -1;
    if (client_broker_await(b) == 0)
        return 0;
    client_broker_end(b, SIGKILL);
    return -1;
}

int client_broker_end(struct client_broker *b, int number)
{
    uint64_t deadline = client_clock() + CLIENT_WAIT;
    int status = -1;
    char rest[4096];

    if (b->pid <= 0)
        return -1;
    if (number != 0)
        kill(b->pid, number);
    /* Its end is the end of its stdout: an event that can be waited for. */
    while (wait_for(b->out, POLLIN, deadline)) {
        ssize_t n = read(b->out, rest, sizeof rest);
        if (n == 0 || (n < 0 && errno != EINTR))
            break;
    }
    if (client_clock() >= deadline)
        kill(b->pid, SIGKILL);
    if (waitpid(b->pid, &status, 0) != b->pid)
        return -1;
    b->pid = 0;
    return client_clock() >= deadline ? -1 : status;
}

void client_broker_log(const struct client_broker *b, char *out, size_t cap)
{
    ssize_t n = pread(b->err, out, cap - 1, 0);

    out[n > 0 ? n : 0] = '\0';
}

void client_broker_log_end(const struct client_broker *b, char *out, size_t cap)
{
    struct stat now;
    off_t from = 0;
    ssize_t n;

    if (fstat(b->err, &now) == 0 && now.st_size > (off_t)cap - 1)
        from = now.st_size - ((off_t)cap - 1);
    n = pread(b->err, out, cap - 1, from);
    out[n > 0 ? n : 0] = '\0';
}

void client_broker_forget(struct client_broker *b)
{
    if (b->out >= 0)
        close(b->out);
    if (b->err >= 0)
        close(b->err);
    b->out = b->err = -1;
}

/* ============================ 3. Directories ============================= */

int client_dir_make(char *path, size_t cap)
{
    snprintf(path, cap, "/tmp/holdfast-test-XXXXXX");
    return mkdtemp(path) != NULL ? 0 : -1;
}

void client_dir_remove(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    char name[512];

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        int n = snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (n > 0 && (size_t)n < sizeof name && entry->d_name[0] != '.')
            unlink(name);
    }
    if (dir != NULL)
        closedir(dir);
    rmdir(path);
}

/* ============================ 4. Connections ============================= */

int client_open(struct client *c, uint16_t port)
{
    struct sockaddr_in addr;
    int on = 1;

    memset(c, 0, sizeof *c);
    memset(&addr, 0, sizeof addr);
    addr.sin_family = AF_INET;
    addr.sin_port = htons(port);
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0)
        return -1;
    if (connect(c->fd, (struct sockaddr *)&addr, sizeof addr) != 0 ||
        fd_keep(c->fd) != 0 || fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0 ||
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
        client_close(c);
        return -1;
    }
    return 0;
}

void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    buf_free(&c->in);
    c->fd = -1;
    c->taken = 0;
}

int client_send_bytes(struct client *c, const void *bytes, size_t n)
{
    const uint8_t *p = (const uint8_t *)bytes;
    uint64_t deadline = client_clock() + CLIENT_WAIT;

    while (n > 0) {
        ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL);
        if (sent >= 0) {
            p += sent;
            n -= (size_t)sent;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!wait_for(c->fd, POLLOUT, deadline))
                return -1;
        } else if (errno != EINTR) {
            return -1;
        }
    }
    return 0;
}

int client_send(struct client *c, const struct mqtt_packet *packet)
{
    size_t n = mqtt_packet_encode(packet, NULL, 0);
    uint8_t *bytes;
    int rc;

    if (n == 0)
        return -1;
    bytes = (uint8_t *)mem_new(n);
    mqtt_packet_encode(packet, bytes, n);
    rc = client_send_bytes(c, bytes, n);
    free(bytes);
    return rc;
}

int client_send_short(struct client *c, uint8_t type, uint16_t packet_id,
                      uint8_t reason)
{
    struct mqtt_packet packet;

    memset(&packet, 0, sizeof packet);
    packet.type = type;
    packet.packet_id = packet_id;
    packet.reason = reason;
    return client_send(c, &packet);
}

/* Adds what the socket has.  1 = bytes, 0 = end, -1 = nothing now. */
static int client_fill(struct client *c)
{
    uint8_t *room = buf_room(&c->in, 65536);
    ssize_t n = recv(c->fd, room, 65536, 0);

    if (n > 0) {
        c->in.n += (size_t)n;
        c->heard += (uint64_t)n;
        return 1;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return -1;
    return 0;
}

/* The packet at the front of the buffer, if it is whole. */
static enum client_got client_take(struct client *c, struct mqtt_packet *out)
{
    struct mqtt_error err;
    size_t size;

    switch (mqtt_frame_find(c->in.p, c->in.n, UINT32_MAX, MQTT_FROM_SERVER,
                            &size, &err)) {
    case MQTT_FRAME_MORE:
        return CLIENT_SILENCE;
    case MQTT_FRAME_COMPLETE:
        if (mqtt_packet_decode(out, c->in.p, size, MQTT_FROM_SERVER, &err) != 0)
            return CLIENT_BAD;
        c->taken = size;
        return CLIENT_PACKET;
    default:
        return CLIENT_BAD;
    }
}

enum client_got client_read(struct client *c, struct mqtt_packet *out, int wait)
{
    uint64_t deadline = client_clock() + (uint64_t)wait;

    if (c->fd < 0)
        return CLIENT_EOF;
    buf_take(&c->in, c->taken);
    c->taken = 0;
    for (;;) {
        enum client_got got =
            c->in.n > 0 ? client_take(c, out) : CLIENT_SILENCE;
        int filled;
        if (got != CLIENT_SILENCE)
            return got;
        filled = client_fill(c);
        if (filled == 0)
            return CLIENT_EOF;
        if (filled < 0 && !wait_for(c->fd, POLLIN, deadline))
            return CLIENT_SILENCE;
    }
}

int client_expect(struct client *c, uint8_t type, struct mqtt_packet *out)
{
    if (client_read(c, out, CLIENT_WAIT) != CLIENT_PACKET)
        return -1;
    return out->type == type ? 0 : -1;
}

int client_expect_eof(struct client *c)
{
    struct mqtt_packet packet;
    enum client_got got;

    do
        got = client_read(c, &packet, CLIENT_WAIT);
    while (got == CLIENT_PACKET);
    return got == CLIENT_EOF ? 0 : -1;
}

size_t client_read_raw(struct client *c, uint8_t *out, size_t cap)
{
    uint64_t deadline = client_clock() + CLIENT_WAIT;
    size_t n = 0;

    while (n < cap && wait_for(c->fd, POLLIN, deadline)) {
        ssize_t got = recv(c->fd, out + n, cap - n, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            break;
        n += got > 0 ? (size_t)got : 0;
    }
    return n;
}

/* ============================ 5. Exchanges =============================== */

static struct mqtt_bytes bytes_of(const char *text)
{
    struct mqtt_bytes b = {(const uint8_t *)text, strlen(text)};
    return b;
}

int client_connect(struct client *c, uint16_t port, const char *id, int clean,
                   int64_t expiry, struct mqtt_packet *ack)
{
    struct mqtt_packet packet;

    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_CONNECT;
    packet.connect.client_id = bytes_of(id);
    packet.connect.clean_start = clean ? 1 : 0;
    if (expiry >= 0) {
        packet.props.has = (uint64_t)1 << MQTT_SESSION_EXPIRY_INTERVAL;
        packet.props.session_expiry_interval = (uint32_t)expiry;
    }
    if (client_open(c, port) != 0)
        return -1;
    if (client_send(c, &packet) == 0 &&
        client_expect(c, MQTT_CONNACK, ack) == 0 && ack->reason == 0)
        return 0;
    client_close(c);
    return -1;
}

int client_subscribe(struct client *c, const char *filter, uint8_t qos)
{
    uint8_t *list = (uint8_t *)mem_new(strlen(filter) + 3);
    struct mqtt_subscription s = {bytes_of(filter), qos, 0, 0, 0};
    struct mqtt_packet packet, ack;
    int rc;

    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_SUBSCRIBE;
    packet.packet_id = ++c->last_id;
    packet.list.p = list;
    packet.list.n = mqtt_subscribe_add(list, strlen(filter) + 3, &s);
    rc = client_send(c, &packet);
    free(list);
    if (rc != 0 || client_expect(c, MQTT_SUBACK, &ack) != 0)
        return -1;
    return ack.packet_id == c->last_id && ack.list.n == 1 &&
                   ack.list.p[0] == qos
               ? 0
               : -1;
}

int client_publish(struct client *c, const char *topic, const void *payload,
                   size_t n, uint8_t qos, uint16_t packet_id, int dup)
{
    struct mqtt_packet packet;

    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_PUBLISH;
    packet.publish.topic = bytes_of(topic);
    packet.publish.payload.p = (const uint8_t *)payload;
    packet.publish.payload.n = n;
    packet.publish.qos = qos;
    packet.publish.packet_id = packet_id;
    packet.publish.dup = dup ? 1 : 0;
    return client_send(c, &packet);
}

int client_publish_whole(struct client *c, const char *topic,
                         const char *payload, uint8_t qos)
{
    uint16_t id = qos > 0 ? ++c->last_id : 0;
    struct mqtt_packet ack;

    if (client_publish(c, topic, payload, strlen(payload), qos, id, 0) != 0)
        return -1;
    if (qos == 0)
        return 0;
    if (client_expect(c, qos == 1 ? MQTT_PUBACK : MQTT_PUBREC, &ack) != 0 ||
        ack.packet_id != id || ack.reason >= 0x80)
        return -1;
    if (qos == 1)
        return 0;
    if (client_send_short(c, MQTT_PUBREL, id, 0) != 0 ||
        client_expect(c, MQTT_PUBCOMP, &ack) != 0)
        return -1;
    return ack.packet_id == id && ack.reason == 0 ? 0 : -1;
}

int client_answer(struct client *c, const struct mqtt_packet *packet)
{
    switch (packet->type) {
    case MQTT_PUBLISH:
        if (packet->publish.qos == 0)
            return 0;
        return client_send_short(
            c, packet->publish.qos == 1 ? MQTT_PUBACK : MQTT_PUBREC,
            packet->publish.packet_id, 0);
    case MQTT_PUBREL:
        return client_send_short(c, MQTT_PUBCOMP, packet->packet_id, 0);
    default:
        return 0;
    }
}

void client_leave(struct client *c)
{
    client_send_short(c, MQTT_DISCONNECT, 0, MQTT_NORMAL_DISCONNECTION);
    client_close(c);
}
