/*
 * test_broker.c - the real program over loopback sockets, as users run it.
 *
 *   1. Tools         a broker with its directory, exchanges that must succeed
 *   2. Command line  options, and what a wrong one says
 *   3. Bad starts    each ends with one clear line
 *   4. Walkthrough   sessions that outlive SIGKILL, at each QoS and stage
 *   5. Strangers     other versions, other protocols, half-closed sockets
 *   6. Patience      slow readers, full pipes, no descriptors, signals
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
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

#include "client.h"

#define PAYLOAD "{\"temperature\": 25.5, \"humidity\": 60}"
#define TOPIC "sensor/temperature"
#define CLIENT_ID "robustmq_client"

/* ============================ 1. Tools =================================== */

/* One test's broker. */
struct bench {
    char dir[64];           /* made for this test, removed after it */
    char store[96];         /* a name in it that does not exist yet */
    struct client_broker b; /* pid 0 = does not run */
};

static int bench_setup(void **state)
{
    struct bench *t = (struct bench *)mem_new(sizeof *t);

    t->b.out = t->b.err = -1;
    *state = t;
    if (client_dir_make(t->dir, sizeof t->dir) != 0)
        return -1;
    snprintf(t->store, sizeof t->store, "%s/data", t->dir);
    return 0;
}

static int bench_teardown(void **state)
{
    struct bench *t = (struct bench *)*state;

    if (t->b.pid > 0)
        client_broker_end(&t->b, SIGKILL);
    client_broker_forget(&t->b);
    client_dir_remove(t->store);
    client_dir_remove(t->dir);
    free(t);
    return 0;
}

static void bench_start_with(struct bench *t, const char *const *args)
{
    client_broker_forget(&t->b);
    assert_int_equal(client_broker_start(&t->b, t->store, args), 0);
}

static void bench_start(struct bench *t)
{
    bench_start_with(t, NULL);
}

static void bench_kill(struct bench *t)
{
    int status = client_broker_end(&t->b, SIGKILL);

    assert_true(status != -1 && WIFSIGNALED(status));
}

static void bench_restart(struct bench *t)
{
    bench_kill(t);
    bench_start(t);
}

/* Runs a broker that must end by itself.  Returns its exit status; what it
 * wrote on stderr is in said. */
static int bench_fail(struct bench *t, const char *const *args, char *said,
                      size_t cap)
{
    struct client_broker b;
    int status;

    (void)t;
    assert_int_equal(client_broker_spawn(&b, args), 0);
    status = client_broker_end(&b, 0);
    client_broker_log(&b, said, cap);
    client_broker_forget(&b);
    assert_true(status != -1 && WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Exactly one line, ours, which holds this. */
static void assert_line(const char *said, const char *part)
{
    const char *end = strchr(said, '\n');

    if (strncmp(said, "holdfast: ", 10) != 0 || end == NULL || end[1] != '\0' ||
        strstr(said, part) == NULL)
        fail_msg("not one line with \"%s\": %s", part, said);
}

static void join_with(struct bench *t, struct client *c, const char *id,
                      int64_t expiry, int present)
{
    struct mqtt_packet ack;

    assert_int_equal(client_connect(c, t->b.port, id, 0, expiry, &ack), 0);
    assert_int_equal(ack.session_present, present);
}

/* Clean Start 0 without an expiry, as command line clients do. */
static void join(struct bench *t, struct client *c, const char *id, int present)
{
    join_with(t, c, id, CLIENT_NO_EXPIRY, present);
}

/* Nothing else was under way: the next packet answers a PINGREQ. */
static void assert_quiet(struct client *c)
{
    struct mqtt_packet packet;

    assert_int_equal(client_send_short(c, MQTT_PINGREQ, 0, 0), 0);
    assert_int_equal(client_expect(c, MQTT_PINGRESP, &packet), 0);
}

/* A publisher that comes, publishes and leaves.  At QoS 0, too, the broker
 * has read the message when this returns. */
static void publish_once(struct bench *t, const char *topic,
                         const char *payload, uint8_t qos)
{
    struct client c;
    struct mqtt_packet ack;

    assert_int_equal(
        client_connect(&c, t->b.port, "publisher", 1, CLIENT_NO_EXPIRY, &ack),
        0);
    assert_int_equal(client_publish_whole(&c, topic, payload, qos), 0);
    assert_quiet(&c);
    client_leave(&c);
}

static void assert_publish(const struct mqtt_packet *p, const char *topic,
                           const char *payload, uint8_t qos, uint8_t dup)
{
    assert_int_equal(p->publish.topic.n, strlen(topic));
    assert_memory_equal(p->publish.topic.p, topic, strlen(topic));
    assert_int_equal(p->publish.payload.n, strlen(payload));
    assert_memory_equal(p->publish.payload.p, payload, strlen(payload));
    assert_int_equal(p->publish.qos, qos);
    assert_int_equal(p->publish.dup, dup);
}

/* Receives this PUBLISH and finishes its exchange. */
static void receive(struct client *c, const char *topic, const char *payload,
                    uint8_t qos)
{
    struct mqtt_packet packet;

    assert_int_equal(client_expect(c, MQTT_PUBLISH, &packet), 0);
    assert_publish(&packet, topic, payload, qos, 0);
    assert_int_equal(client_answer(c, &packet), 0);
    if (qos < 2)
        return;
    assert_int_equal(client_expect(c, MQTT_PUBREL, &packet), 0);
    assert_int_equal(client_answer(c, &packet), 0);
}

/* A session that is subscribed and offline. */
static void leave_session(struct bench *t, const char *id, const char *filter,
                          uint8_t qos)
{
    struct client c;

    join(t, &c, id, 0);
    assert_int_equal(client_subscribe(&c, filter, qos), 0);
    client_leave(&c);
}

/* ============================ 2. Command line ============================ */

static void test_ready_line(void **state)
{
    struct bench *t = (struct bench *)*state;
    char expected[256];
    const char *ms;
    unsigned port;

    bench_start(t);
    assert_int_equal(sscanf(t->b.ready, "holdfast ready port=%u ", &port), 1);
    snprintf(expected, sizeof expected,
             "holdfast ready port=%u store=%s sessions=0 messages=0 "
             "recovered_ms=",
             port, t->store);
    assert_memory_equal(t->b.ready, expected, strlen(expected));
    ms = t->b.ready + strlen(expected);
    assert_true(strspn(ms, "0123456789") > 0);
    assert_string_equal(ms + strspn(ms, "0123456789"), " status=off");

    leave_session(t, "a", "x/#", 1);
    publish_once(t, "x/y", "1", 1);
    bench_restart(t);
    assert_non_null(strstr(t->b.ready, " sessions=1 messages=1 "));
}

/* The store's name may hold what would break the line's syntax. */
static void test_ready_escape(void **state)
{
    struct bench *t = (struct bench *)*state;

    snprintf(t->store, sizeof t->store, "%s/my 100%%", t->dir);
    bench_start(t);
    assert_non_null(strstr(t->b.ready, "/my%20100%25 sessions=0 "));
}

static void test_options_wrong(void **state)
{
    static const char *const wrong[][4] = {
        {"-p", "65536", NULL, "-p 65536 is no port"},
        {"-p", "x", NULL, "-p x is no port"},
        {"-p", "", NULL, "-p  is no port"},
        {"-p", "-1", NULL, "-p -1 is no port"},
        {"-x", "4294967296", NULL, "-x 4294967296 is no time"},
        {"-x", "soon", NULL, "-x soon is no time"},
        {"-q", NULL, NULL, "-q is no option"},
        {"-p", NULL, NULL, "-p needs a value"},
        {"-t", NULL, NULL, "-t needs a value"},
        {"-t", "", NULL, "-t needs a Client Identifier"},
        {"--help", NULL, NULL, "holdfast: --help is no option"},
        {"-v", "--version", NULL, "holdfast: --version is no option"},
        {"-v", "start", NULL, "start: holdfast takes no operands; see "},
    };
    char said[1024];

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        int status =
            bench_fail((struct bench *)*state, wrong[i], said, sizeof said);
        assert_int_equal(status, 2);
        assert_line(said, wrong[i][3]);
    }
}

/* -h and -V write on stdout and end well. */
static void test_options_help(void **state)
{
    static const char *const args[][2] = {{"-h", NULL}, {"-V", NULL}};
    static const char *const begins[] = {"usage: holdfast ", "holdfast "};
    static const char *const statuses[] = {" 0 = ", " 1 = ", " 2 = ", " 71 = ",
                                           NULL};
    char help[8192] = "";
    size_t n = 0;
    ssize_t got;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct client_broker b;
        char said[64];
        assert_int_equal(client_broker_spawn(&b, args[i]), 0);
        assert_int_equal(client_broker_await(&b), -1);
        assert_memory_equal(b.ready, begins[i], strlen(begins[i]));
        while (i == 0 && n < sizeof help - 1 &&
               (got = read(b.out, help + n, sizeof help - 1 - n)) > 0)
            n += (size_t)got;
        assert_int_equal(client_broker_end(&b, 0), 0);
        client_broker_log(&b, said, sizeof said);
        assert_string_equal(said, "");
        client_broker_forget(&b);
    }
    for (const char *const *s = statuses; *s != NULL; s++)
        assert_non_null(strstr(help, *s));
}

/* 3.2.2.3.2: the CONNACK says which Session Expiry Interval is used. */
static void test_option_expiry(void **state)
{
    static const char *const args[][3] = {
        {NULL, NULL, NULL}, {"-x", "77", NULL}, {"-x", "never", NULL}};
    static const uint32_t granted[] = {604800, 77, UINT32_MAX};
    struct bench *t = (struct bench *)*state;

    for (size_t i = 0; i < 3; i++) {
        struct client c;
        struct mqtt_packet ack;
        bench_start_with(t, args[i]);
        assert_int_equal(
            client_connect(&c, t->b.port, "x", 0, CLIENT_NO_EXPIRY, &ack), 0);
        assert_true(MQTT_HAS(&ack.props, MQTT_SESSION_EXPIRY_INTERVAL));
        assert_int_equal(ack.props.session_expiry_interval, granted[i]);
        client_leave(&c);
        bench_kill(t);
    }
}

/* With -x 0 the absence of the interval means 0, as in 3.1.2.11.2. */
static void test_option_expiry_zero(void **state)
{
    static const char *const args[] = {"-x", "0", NULL};
    struct bench *t = (struct bench *)*state;
    struct client c;

    bench_start_with(t, args);
    join(t, &c, "x", 0);
    assert_int_equal(client_subscribe(&c, "a", 1), 0);
    client_leave(&c);
    join(t, &c, "x", 0);
    client_leave(&c);
}

static void test_option_address(void **state)
{
    static const char *const twice[] = {"-b", "127.0.0.1", "-b", "127.0.0.1",
                                        NULL};
    static const char *const name[] = {"-b", "localhost", NULL};
    static const char *const wide[] = {"-b", "0.0.0.0", NULL};
    struct bench *t = (struct bench *)*state;
    char said[1024];

    bench_start_with(t, twice);
    bench_kill(t);
    bench_start_with(t, name);
    bench_kill(t);
    client_broker_log(&t->b, said, sizeof said);
    assert_string_equal(said, "");
    bench_start_with(t, wide);
    publish_once(t, "a", "b", 1);
    bench_kill(t);
    client_broker_log(&t->b, said, sizeof said);
    said[strcspn(said, "\n") + 1] = '\0'; /* after it come the client's */
    assert_line(said, "warning: 0.0.0.0:");
}

/* Does the line begin with a time like 2026-11-22T16:12:10.123Z? */
static int stamped(const char *line)
{
    static const char form[] = "0000-00-00T00:00:00.000Z ";

    for (size_t i = 0; form[i] != '\0'; i++)
        if (form[i] == '0' ? line[i] < '0' || line[i] > '9'
                           : line[i] != form[i])
            return 0;
    return 1;
}

/* Is it the time of now, in UTC? */
static void assert_now(const char *stamp)
{
    char before[32], after[32];
    time_t now = time(NULL), early = now - 60;

    strftime(before, sizeof before, "%Y-%m-%dT%H:%M:%S", gmtime(&early));
    strftime(after, sizeof after, "%Y-%m-%dT%H:%M:%S.999Z", gmtime(&now));
    assert_true(strcmp(before, stamp) < 0);
    assert_true(strncmp(stamp, after, 24) <= 0);
}

/* What the broker prints after the ready line, until `last` has come. */
static void trace_read(struct bench *t, const char *last, char *out,
                       size_t cap)
{
    size_t n = 0;

    out[0] = '\0';
    while (strstr(out, last) == NULL) {
        struct pollfd ready = {t->b.out, POLLIN, 0};
        assert_int_equal(poll(&ready, 1, CLIENT_WAIT), 1);
        ssize_t got = read(t->b.out, out + n, cap - 1 - n);
        assert_true(got > 0);
        n += (size_t)got;
        out[n] = '\0';
    }
}

/* -v prints each packet on stdout, each line with its time. */
static void test_option_trace(void **state)
{
    static const char *const args[] = {"-v", NULL};
    struct bench *t = (struct bench *)*state;
    char said[8192];
    int lines = 0;

    bench_start_with(t, args);
    publish_once(t, "a", "b", 1);
    trace_read(t, " DISCONNECT ", said, sizeof said);
    assert_non_null(strstr(said, "Z < 127.0.0.1:"));
    assert_now(said);
    for (char *line = strtok(said, "\n"); line; line = strtok(NULL, "\n")) {
        assert_true(stamped(line));
        lines++;
    }
    assert_int_equal(lines, 7); /* CONNECT, PUBLISH, PINGREQ, their answers,
                                  DISCONNECT */
}

/* -vv adds the bytes, on lines that are indented instead. */
static void test_option_trace_bytes(void **state)
{
    static const char *const args[] = {"-vv", NULL};
    struct bench *t = (struct bench *)*state;
    char said[8192];

    bench_start_with(t, args);
    publish_once(t, "a", "b", 1);
    trace_read(t, " DISCONNECT, ", said, sizeof said);
    assert_non_null(strstr(
        said, "\n    00 04 4D 51 54 54   Protocol Name \"MQTT\" (3.1.2.1)\n"));
    for (char *line = strtok(said, "\n"); line; line = strtok(NULL, "\n"))
        assert_int_equal(stamped(line), strncmp(line, "    ", 4) != 0);
}

/* -t alone is a trace of one client. */
static void test_option_trace_client(void **state)
{
    static const char *const args[] = {"-t", "one", NULL};
    struct bench *t = (struct bench *)*state;
    struct client c;
    char said[8192];

    bench_start_with(t, args);
    join(t, &c, "other", 0);
    assert_quiet(&c);
    client_leave(&c);
    join(t, &c, "one", 0);
    client_leave(&c);
    trace_read(t, " CONNACK ", said, sizeof said);
    assert_null(strstr(said, "\"other\""));
    assert_non_null(strstr(said, " \"one\" CONNECT "));
    assert_null(strstr(said, "\n    "));
}

/* Each line of the log begins with its time. */
static void test_log_time(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    char said[1024];

    bench_start(t);
    assert_int_equal(client_open(&c, t->b.port), 0);
    assert_int_equal(client_send_bytes(&c, "\xC0\x00", 2), 0);
    assert_int_equal(client_expect_eof(&c), 0);
    client_close(&c);
    publish_once(t, "a", "b", 1); /* by then the line is written */
    bench_kill(t);
    client_broker_log(&t->b, said, sizeof said);
    assert_non_null(strstr(said, "MQTT-3.1.0-1"));
    assert_true(stamped(said));
    assert_now(said);
}

/* ============================ 3. Bad starts ============================== */

static void test_bad_port_taken(void **state)
{
    struct bench *t = (struct bench *)*state;
    char port[8], other[96], said[1024];
    const char *args[] = {"-p", port, "-d", other, NULL};

    bench_start(t);
    snprintf(port, sizeof port, "%u", t->b.port);
    snprintf(other, sizeof other, "%s/other", t->dir);
    assert_int_equal(bench_fail(t, args, said, sizeof said), 1);
    assert_line(said, port);
    assert_line(said, "taken");
    /* The store must not have been touched, not even made. */
    assert_int_not_equal(access(other, F_OK), 0);
}

static void test_bad_address(void **state)
{
    /* 192.0.2.0/24 is for documentation (RFC 5737): nobody has it. */
    static const char *const foreign[] = {"-p", "0", "-b", "192.0.2.1", NULL};
    static const char *const noname[] = {"-p", "0", "-b", "no.invalid", NULL};
    char said[1024];
    struct bench *t = (struct bench *)*state;

    assert_int_equal(bench_fail(t, foreign, said, sizeof said), 1);
    assert_line(said, "192.0.2.1");
    assert_int_equal(bench_fail(t, noname, said, sizeof said), 1);
    assert_line(said, "no.invalid");
}

static void bad_store(struct bench *t, const char *dir, const char *part)
{
    const char *args[] = {"-p", "0", "-s", "off", "-d", dir, NULL};
    char said[2048];

    assert_int_equal(bench_fail(t, args, said, sizeof said), 1);
    assert_line(said, part);
}

static void test_bad_store_locked(void **state)
{
    struct bench *t = (struct bench *)*state;

    bench_start(t);
    bad_store(t, t->store, t->store);
    /* The one that runs is none the worse for it. */
    publish_once(t, "a", "b", 1);
}

static void test_bad_store_unwritable(void **state)
{
    struct bench *t = (struct bench *)*state;

    if (geteuid() == 0) {
        if (access("/proc/self", F_OK) != 0)
            skip(); /* nothing is forbidden to this user */
        bad_store(t, "/proc", "/proc");
        bad_store(t, "/proc/data", "/proc/data");
        return;
    }
    assert_int_equal(mkdir(t->store, 0500), 0);
    bad_store(t, t->store, t->store);
}

static void test_bad_store_parent(void **state)
{
    struct bench *t = (struct bench *)*state;
    char dir[128];

    snprintf(dir, sizeof dir, "%s/no/such", t->dir);
    bad_store(t, dir, dir);
}

static void file_write(const char *dir, const char *name, const char *text)
{
    char path[256];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void test_bad_store_foreign(void **state)
{
    struct bench *t = (struct bench *)*state;

    assert_int_equal(mkdir(t->store, 0700), 0);
    file_write(t->store, "00000001.log", "Dear diary,\n");
    bad_store(t, t->store, t->store);
}

/* All of a file; the caller frees it. */
static char *file_read(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    char *bytes;

    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *n = (size_t)ftell(f);
    rewind(f);
    bytes = (char *)mem_new(*n + 1);
    assert_int_equal(fread(bytes, 1, *n, f), *n);
    fclose(f);
    return bytes;
}

static void file_put(const char *path, long at, char byte)
{
    FILE *f = fopen(path, "r+b");

    assert_non_null(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fputc(byte, f), byte);
    assert_int_equal(fclose(f), 0);
}

/* A store with thirty batches, whose broker was killed. */
static void make_ledger(struct bench *t, char *log, size_t cap)
{
    bench_start(t);
    leave_session(t, "a", "#", 1);
    for (int i = 0; i < 30; i++)
        publish_once(t, "a/b", PAYLOAD, 1);
    bench_kill(t);
    snprintf(log, cap, "%s/00000001.log", t->store);
}

/* Where this text stands in n bytes, from `at` on; NULL = nowhere. */
static char *bytes_find(char *bytes, size_t at, size_t n, const char *text)
{
    size_t size = strlen(text);

    for (; at + size <= n; at++)
        if (memcmp(bytes + at, text, size) == 0)
            return bytes + at;
    return NULL;
}

/* One payload's byte in the middle of the ledger has changed. */
static void test_bad_store_rotten(void **state)
{
    struct bench *t = (struct bench *)*state;
    char log[128];
    char *bytes, *at;
    size_t n;

    make_ledger(t, log, sizeof log);
    bytes = file_read(log, &n);
    at = bytes_find(bytes, n / 2, n, "temperature\":");
    assert_non_null(at);
    file_put(log, (long)(at - bytes), 'T');
    free(bytes);
    bad_store(t, t->store, "00000001.log");
    bad_store(t, t->store, "00000001.log"); /* the evidence is kept */
    bytes = file_read(log, &n);
    assert_non_null(bytes_find(bytes, 0, n, "Temperature"));
    free(bytes);
}

/* The first line of a segment names the format's version. */
static void test_bad_store_newer(void **state)
{
    struct bench *t = (struct bench *)*state;
    char log[128];
    char *bytes;
    size_t n, at;

    make_ledger(t, log, sizeof log);
    bytes = file_read(log, &n);
    at = strcspn(bytes, "0123456789");
    assert_true(at < strcspn(bytes, "\n"));
    file_put(log, (long)at, '9');
    free(bytes);
    bad_store(t, t->store, "newer");
}

/* ============================ 4. Walkthrough ============================= */

static void walkthrough(struct bench *t, uint8_t qos)
{
    struct client c;

    bench_start(t);
    leave_session(t, CLIENT_ID, TOPIC, qos);
    publish_once(t, TOPIC, PAYLOAD, qos);
    bench_restart(t);
    join(t, &c, CLIENT_ID, 1);
    receive(&c, TOPIC, PAYLOAD, qos);
    assert_quiet(&c);
    client_leave(&c);
    join(t, &c, CLIENT_ID, 1);
    assert_quiet(&c);
    client_leave(&c);
}

static void test_walkthrough_qos0(void **state)
{
    walkthrough((struct bench *)*state, 0);
}

static void test_walkthrough_qos1(void **state)
{
    walkthrough((struct bench *)*state, 1);
}

static void test_walkthrough_qos2(void **state)
{
    walkthrough((struct bench *)*state, 2);
}

/* The subscription alone survives, too: SIGKILL before the message. */
static void test_walkthrough_subscription(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;

    bench_start(t);
    leave_session(t, CLIENT_ID, TOPIC, 1);
    bench_restart(t);
    publish_once(t, TOPIC, PAYLOAD, 1);
    bench_restart(t);
    bench_restart(t);
    join(t, &c, CLIENT_ID, 1);
    receive(&c, TOPIC, PAYLOAD, 1);
    client_leave(&c);
}

/* A publisher cut off after each step of its exchange. */
static void test_sender_stages(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    struct mqtt_packet ack;

    bench_start(t);
    leave_session(t, CLIENT_ID, TOPIC, 2);
    join_with(t, &c, "p", 600, 0);
    assert_int_equal(client_publish(&c, TOPIC, "once", 4, 2, 7, 0), 0);
    assert_int_equal(client_expect(&c, MQTT_PUBREC, &ack), 0);
    for (int i = 0; i < 2; i++) { /* PUBREC was lost, twice */
        client_close(&c);
        bench_restart(t);
        join_with(t, &c, "p", 600, 1);
        assert_int_equal(client_publish(&c, TOPIC, "once", 4, 2, 7, 1), 0);
        assert_int_equal(client_expect(&c, MQTT_PUBREC, &ack), 0);
        assert_int_equal(ack.packet_id, 7);
        assert_true(ack.reason < 0x80);
    }
    for (int i = 0; i < 2; i++) { /* PUBCOMP was lost */
        assert_int_equal(client_send_short(&c, MQTT_PUBREL, 7, 0), 0);
        assert_int_equal(client_expect(&c, MQTT_PUBCOMP, &ack), 0);
        assert_int_equal(ack.packet_id, 7);
        client_close(&c);
        bench_restart(t);
        join_with(t, &c, "p", 600, 1);
    }
    client_leave(&c);
    join(t, &c, CLIENT_ID, 1);
    receive(&c, TOPIC, "once", 2);
    assert_quiet(&c);
    client_leave(&c);
}

/* A subscriber cut off after each step of its exchange. */
static void test_receiver_stages(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    struct mqtt_packet packet;
    uint16_t id;

    bench_start(t);
    leave_session(t, CLIENT_ID, TOPIC, 2);
    publish_once(t, TOPIC, "once", 2);
    join(t, &c, CLIENT_ID, 1);
    assert_int_equal(client_expect(&c, MQTT_PUBLISH, &packet), 0);
    assert_publish(&packet, TOPIC, "once", 2, 0);
    id = packet.publish.packet_id;
    client_close(&c);
    bench_restart(t); /* PUBREC was never sent */
    join(t, &c, CLIENT_ID, 1);
    assert_int_equal(client_expect(&c, MQTT_PUBLISH, &packet), 0);
    assert_publish(&packet, TOPIC, "once", 2, 1);
    assert_int_equal(packet.publish.packet_id, id);
    assert_int_equal(client_answer(&c, &packet), 0);
    assert_int_equal(client_expect(&c, MQTT_PUBREL, &packet), 0);
    client_close(&c);
    bench_restart(t); /* PUBCOMP was never sent */
    join(t, &c, CLIENT_ID, 1);
    assert_int_equal(client_expect(&c, MQTT_PUBREL, &packet), 0);
    assert_int_equal(packet.packet_id, id);
    assert_int_equal(client_answer(&c, &packet), 0);
    assert_quiet(&c);
    client_close(&c);
    bench_restart(t);
    /* A PUBCOMP that is forgotten repeats the PUBREL, never the PUBLISH. */
    join(t, &c, CLIENT_ID, 1);
    assert_int_equal(client_send_short(&c, MQTT_PINGREQ, 0, 0), 0);
    assert_int_equal(client_read(&c, &packet, CLIENT_WAIT), CLIENT_PACKET);
    assert_true(packet.type == MQTT_PUBREL || packet.type == MQTT_PINGRESP);
    client_close(&c);
}

/* At QoS 1 the same packet comes again, marked, until it is acknowledged. */
static void test_receiver_stages_qos1(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    struct mqtt_packet packet;
    uint16_t id;

    bench_start(t);
    leave_session(t, CLIENT_ID, TOPIC, 1);
    publish_once(t, TOPIC, "some", 1);
    join(t, &c, CLIENT_ID, 1);
    assert_int_equal(client_expect(&c, MQTT_PUBLISH, &packet), 0);
    assert_publish(&packet, TOPIC, "some", 1, 0);
    id = packet.publish.packet_id;
    client_close(&c);
    bench_restart(t);
    join(t, &c, CLIENT_ID, 1);
    assert_int_equal(client_expect(&c, MQTT_PUBLISH, &packet), 0);
    assert_publish(&packet, TOPIC, "some", 1, 1);
    assert_int_equal(packet.publish.packet_id, id);
    assert_int_equal(client_answer(&c, &packet), 0);
    assert_quiet(&c);
    client_leave(&c);
}

#define MANY 500

/* Many messages with properties, pipelined: complete, in order, and each
 * property as it was sent. */
static void test_many_in_order(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    struct mqtt_packet packet;
    uint8_t user[64];
    char text[16];
    struct mqtt_bytes name = {(const uint8_t *)"n\xC3\xA4me", 5};
    struct mqtt_bytes value = {(const uint8_t *)"v", 1};
    size_t n = mqtt_user_property_encode(user, sizeof user, name, value);

    bench_start(t);
    leave_session(t, CLIENT_ID, "m/#", 2);
    join_with(t, &c, "p", 600, 0);
    for (uint16_t i = 1; i <= MANY; i++) {
        uint8_t qos = (uint8_t)(1 + i % 2);
        memset(&packet, 0, sizeof packet);
        packet.type = MQTT_PUBLISH;
        packet.publish.qos = qos;
        packet.publish.packet_id = i;
        packet.publish.topic.p = (const uint8_t *)"m/1";
        packet.publish.topic.n = 3;
        packet.publish.payload.p = (const uint8_t *)text;
        packet.publish.payload.n =
            (size_t)snprintf(text, sizeof text, "%u", (unsigned)i);
        packet.props.has = (uint64_t)1 << MQTT_CORRELATION_DATA;
        packet.props.correlation_data.p = (const uint8_t *)"\0\xFF\n";
        packet.props.correlation_data.n = 3;
        packet.props.verbatim.p = user;
        packet.props.verbatim.n = n;
        assert_int_equal(client_send(&c, &packet), 0);
        assert_int_equal(
            client_expect(&c, qos == 1 ? MQTT_PUBACK : MQTT_PUBREC, &packet),
            0);
        if (qos == 2) {
            assert_int_equal(client_send_short(&c, MQTT_PUBREL, i, 0), 0);
            assert_int_equal(client_expect(&c, MQTT_PUBCOMP, &packet), 0);
        }
    }
    client_leave(&c);
    bench_restart(t);
    join(t, &c, CLIENT_ID, 1);
    for (unsigned got = 0; got < MANY;) {
        assert_int_equal(client_read(&c, &packet, CLIENT_WAIT), CLIENT_PACKET);
        assert_int_equal(client_answer(&c, &packet), 0);
        if (packet.type != MQTT_PUBLISH)
            continue;
        snprintf(text, sizeof text, "%u", ++got);
        assert_publish(&packet, "m/1", text, (uint8_t)(1 + got % 2), 0);
        assert_int_equal(packet.props.raw.n, 6 + n);
        assert_memory_equal(packet.props.raw.p, "\x09\0\x03\0\xFF\n", 6);
        assert_memory_equal(packet.props.raw.p + 6, user, n);
    }
    client_close(&c);
}

/* Retained messages outlive the broker, and so does their removal. */
static void test_retained(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    struct mqtt_packet packet;

    bench_start(t);
    join(t, &c, "p", 0);
    for (int i = 0; i < 3; i++) {
        memset(&packet, 0, sizeof packet);
        packet.type = MQTT_PUBLISH;
        packet.publish.qos = 1;
        packet.publish.retain = 1;
        packet.publish.packet_id = 1;
        packet.publish.topic.p = (const uint8_t *)(i == 1 ? "r/2" : "r/1");
        packet.publish.topic.n = 3;
        packet.publish.payload.p = (const uint8_t *)"kept";
        packet.publish.payload.n = i == 2 ? 0 : 4;
        assert_int_equal(client_send(&c, &packet), 0);
        assert_int_equal(client_expect(&c, MQTT_PUBACK, &packet), 0);
    }
    client_leave(&c);
    bench_restart(t);
    join(t, &c, "s", 0);
    assert_int_equal(client_subscribe(&c, "r/#", 1), 0);
    assert_int_equal(client_expect(&c, MQTT_PUBLISH, &packet), 0);
    assert_publish(&packet, "r/2", "kept", 1, 0);
    assert_int_equal(packet.publish.retain, 1);
    assert_int_equal(client_answer(&c, &packet), 0);
    assert_quiet(&c);
    client_leave(&c);
}

/* The broker dies while a will waits for its delay; its successor publishes
 * it. */
static void test_will_delayed(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    struct mqtt_packet packet;

    bench_start(t);
    leave_session(t, "watcher", "will", 1);
    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_CONNECT;
    packet.connect.client_id.p = (const uint8_t *)"mortal";
    packet.connect.client_id.n = 6;
    packet.connect.will_flag = 1;
    packet.connect.will_qos = 1;
    packet.connect.will_topic.p = (const uint8_t *)"will";
    packet.connect.will_topic.n = 4;
    packet.connect.will_payload.p = (const uint8_t *)"gone";
    packet.connect.will_payload.n = 4;
    packet.connect.will_props.has = (uint64_t)1 << MQTT_WILL_DELAY_INTERVAL;
    packet.connect.will_props.will_delay_interval = 1;
    packet.props.has = (uint64_t)1 << MQTT_SESSION_EXPIRY_INTERVAL;
    packet.props.session_expiry_interval = 600;
    assert_int_equal(client_open(&c, t->b.port), 0);
    assert_int_equal(client_send(&c, &packet), 0);
    assert_int_equal(client_expect(&c, MQTT_CONNACK, &packet), 0);
    client_close(&c);
    bench_restart(t);
    join(t, &c, "watcher", 1);
    receive(&c, "will", "gone", 1);
    client_leave(&c);
}

/* An expiry runs down while the broker is dead, however often it starts. */
static void test_expiry_while_dead(void **state)
{
    struct bench *t = (struct bench *)*state;
    uint64_t deadline = client_clock() + CLIENT_WAIT;
    struct client c;

    bench_start(t);
    join_with(t, &c, "short", 1, 0);
    assert_int_equal(client_subscribe(&c, "a", 1), 0);
    client_leave(&c);
    leave_session(t, "long", "a", 1);
    do
        bench_restart(t);
    while (strstr(t->b.ready, " sessions=2 ") != NULL &&
           client_clock() < deadline);
    assert_non_null(strstr(t->b.ready, " sessions=1 "));
    join(t, &c, "short", 0);
    client_leave(&c);
    join(t, &c, "long", 1);
    client_leave(&c);
}

/* ============================ 5. Strangers =============================== */

/* Sends these bytes and expects those, then the end. */
static void stranger(struct bench *t, const void *bytes, size_t n,
                     const void *answer, size_t answer_n)
{
    struct client c;
    uint8_t got[256];

    assert_int_equal(client_open(&c, t->b.port), 0);
    assert_int_equal(client_send_bytes(&c, bytes, n), 0);
    assert_int_equal(client_read_raw(&c, got, sizeof got), answer_n);
    if (answer_n > 0)
        assert_memory_equal(got, answer, answer_n);
    client_close(&c);
}

/* 3.1.2.1: a client of 3.1.1 or 3.1 is refused in its own language. */
static void test_stranger_old_version(void **state)
{
    static const uint8_t v311[] = {0x10, 0x0D, 0, 4,  'M', 'Q', 'T', 'T',
                                   4,    2,    0, 60, 0,   1,   'a'};
    static const uint8_t v31[] = {0x10, 0x0F, 0, 6, 'M', 'Q', 'I', 's', 'd',
                                  'p',  3,    2, 0, 60,  0,   1,   'a'};
    static const uint8_t refusal[] = {0x20, 0x02, 0x00, 0x01};
    struct bench *t = (struct bench *)*state;

    bench_start(t);
    stranger(t, v311, sizeof v311, refusal, sizeof refusal);
    stranger(t, v31, sizeof v31, refusal, sizeof refusal);
}

/* TLS begins like a CONNECT with wrong flags: CONNACK 0x81 may come first. */
static void stranger_tls(struct bench *t)
{
    static const uint8_t tls[] = {0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3};
    struct client c;
    struct mqtt_packet packet;

    assert_int_equal(client_open(&c, t->b.port), 0);
    assert_int_equal(client_send_bytes(&c, tls, sizeof tls), 0);
    if (client_read(&c, &packet, CLIENT_WAIT) == CLIENT_PACKET) {
        assert_int_equal(packet.type, MQTT_CONNACK);
        assert_int_equal(packet.reason, MQTT_MALFORMED_PACKET);
        assert_int_equal(client_expect_eof(&c), 0);
    }
    client_close(&c);
}

static void test_stranger_protocol(void **state)
{
    static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    static const uint8_t ping[] = {0xC0, 0x00};
    struct bench *t = (struct bench *)*state;

    bench_start(t);
    stranger(t, http, sizeof http - 1, NULL, 0);
    stranger(t, ping, sizeof ping, NULL, 0);
    stranger(t, "\0\0\0\0", 4, NULL, 0);
    stranger_tls(t);
    publish_once(t, "a", "b", 2); /* others are served as before */
}

static const uint8_t connect_bytes[] = {0x10, 0x0E, 0, 4, 'M', 'Q', 'T', 'T',
                                        5,    2,    0, 0, 0,   0,   1,   'h'};

/* A peer that has closed its half still reads the answers. */
static void test_half_closed(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    struct mqtt_packet packet;

    bench_start(t);
    assert_int_equal(client_open(&c, t->b.port), 0);
    assert_int_equal(client_send_bytes(&c, connect_bytes, sizeof connect_bytes),
                     0);
    assert_int_equal(client_publish(&c, "a", "b", 1, 1, 9, 0), 0);
    assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
    assert_int_equal(client_expect(&c, MQTT_CONNACK, &packet), 0);
    assert_int_equal(client_expect(&c, MQTT_PUBACK, &packet), 0);
    assert_int_equal(client_expect_eof(&c), 0);
    client_close(&c);
}

/* What a client sent right before it hung up counts. */
static void test_send_and_hang_up(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client s, c;
    char text[16];

    bench_start(t);
    join(t, &s, "s", 0);
    assert_int_equal(client_subscribe(&s, "a", 0), 0);
    join(t, &c, "c", 0);
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "%d", i);
        assert_int_equal(client_publish(&c, "a", text, strlen(text), 0, 0, 0),
                         0);
    }
    client_leave(&c);
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "%d", i);
        receive(&s, "a", text, 0);
    }
    client_leave(&s);
}

/* A refusal is read to its end though the peer had sent much more: the
 * connection is closed, never reset. */
static void test_refusal_is_read(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    struct mqtt_packet packet;
    uint8_t *junk = (uint8_t *)mem_new(300000);

    bench_start(t);
    assert_int_equal(
        client_connect(&c, t->b.port, "j", 1, CLIENT_NO_EXPIRY, &packet), 0);
    assert_int_equal(client_send_bytes(&c, junk, 300000), 0);
    free(junk);
    assert_int_equal(client_expect(&c, MQTT_DISCONNECT, &packet), 0);
    assert_int_equal(packet.reason, MQTT_MALFORMED_PACKET);
    assert_int_equal(client_expect_eof(&c), 0);
    client_close(&c);
}

/* ============================ 6. Patience ================================ */

#define BIG_COUNT 600
#define BIG_SIZE 32768

/* Receives the next message of a series and answers it. */
static void receive_big(struct client *c, unsigned number)
{
    struct mqtt_packet packet;
    unsigned got;

    assert_int_equal(client_expect(c, MQTT_PUBLISH, &packet), 0);
    assert_int_equal(packet.publish.payload.n, BIG_SIZE);
    memcpy(&got, packet.publish.payload.p, sizeof got);
    assert_int_equal(got, number);
    assert_int_equal(client_answer(c, &packet), 0);
}

/* One subscriber reads nothing while 20 MB are for it.  Another gets each
 * message at once; in the end the first gets all of them too, in order. */
static void test_slow_reader(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client slow, fast, p;
    struct mqtt_packet ack;
    uint8_t *big = (uint8_t *)mem_new(BIG_SIZE);

    bench_start(t);
    join(t, &slow, "slow", 0);
    join(t, &fast, "fast", 0);
    join(t, &p, "p", 0);
    assert_int_equal(client_subscribe(&slow, "big", 1), 0);
    assert_int_equal(client_subscribe(&fast, "big", 1), 0);
    for (unsigned i = 0; i < BIG_COUNT; i++) {
        memcpy(big, &i, sizeof i);
        assert_int_equal(client_publish(&p, "big", big, BIG_SIZE, 1, 1, 0), 0);
        assert_int_equal(client_expect(&p, MQTT_PUBACK, &ack), 0);
        assert_int_equal(ack.reason, 0);
        receive_big(&fast, i);
    }
    for (unsigned i = 0; i < BIG_COUNT; i++)
        receive_big(&slow, i);
    assert_quiet(&slow);
    client_leave(&slow);
    client_leave(&fast);
    client_leave(&p);
    free(big);
}

/* Nobody reads the trace: it must not hold up the loop. */
static void test_stdout_full(void **state)
{
    static const char *const args[] = {"-v", NULL};
    struct bench *t = (struct bench *)*state;
    struct client c;

    bench_start_with(t, args);
    join(t, &c, "c", 0);
    for (int i = 0; i < 4000; i++)
        assert_int_equal(client_publish(&c, "a", PAYLOAD, 32, 0, 0, 0), 0);
    assert_quiet(&c);
    client_leave(&c);
}

/* What was not read in time is counted in a line with its time, also in front
 * of one that has none: where a long line had no room a short one may have. */
static void test_stdout_late(void **state)
{
    static const char *const args[] = {"-vv", NULL};
    static char said[4u << 20];
    struct bench *t = (struct bench *)*state;
    char id[64], *line;
    int lost = 0, indented = 0;
    size_t n = 0;
    struct client c;

    bench_start_with(t, args);
    memset(id, 'i', sizeof id - 1);
    id[sizeof id - 1] = '\0';
    join(t, &c, id, 0);
    for (int i = 0; i < 12000; i++)
        assert_int_equal(client_publish(&c, "a", PAYLOAD, 32, 0, 0, 0), 0);
    while (n + 65536 < sizeof said && n < 3u << 20) {
        ssize_t got = read(t->b.out, said + n, 65536);
        assert_true(got > 0);
        n += (size_t)got;
        for (size_t i = 0; i < 300; i++)
            assert_int_equal(
                client_publish(&c, "a", PAYLOAD, i % 32, 0, 0, 0), 0);
        assert_quiet(&c);
    }
    for (line = strtok(said, "\n"); line; line = strtok(NULL, "\n")) {
        int notice = strstr(line, " lines lost here: ") != NULL;
        if (notice)
            assert_true(stamped(line));
        indented += lost && *line == ' ';
        lost = notice;
    }
    assert_true(indented > 0);
    client_leave(&c);
}

/* The reader of the trace is gone: that must not end the broker. */
static void test_stdout_gone(void **state)
{
    static const char *const args[] = {"-v", NULL};
    struct bench *t = (struct bench *)*state;

    bench_start_with(t, args);
    close(t->b.out);
    t->b.out = -1;
    for (int i = 0; i < 3; i++)
        publish_once(t, "a", "b", 1);
    assert_int_equal(kill(t->b.pid, SIGTERM), 0);
    assert_int_equal(waitpid(t->b.pid, NULL, 0), t->b.pid);
    t->b.pid = 0;
}

#define FEW 20 /* connections for which a limit of 40 descriptors has room */

/* Without descriptors new connections wait, and are served when one closes. */
static void test_descriptors_used_up(void **state)
{
    struct bench *t = (struct bench *)*state;
    const char *program = getenv("HOLDFAST");
    const char *real = program != NULL ? program : "./holdfast";
    const char *args[] = {"-c",     "ulimit -n 40; exec \"$0\" \"$@\"",
                          real,     "-p",
                          "0",      "-s",
                          "off",    "-d",
                          t->store, NULL};
    struct client c[FEW], late;
    struct mqtt_packet packet;
    char name[16], kept[512];

    snprintf(kept, sizeof kept, "%s", real);
    args[2] = kept;
    assert_int_equal(setenv("HOLDFAST", "/bin/sh", 1), 0);
    assert_int_equal(client_broker_spawn(&t->b, args), 0);
    assert_int_equal(setenv("HOLDFAST", kept, 1), 0);
    assert_int_equal(client_broker_await(&t->b), 0);
    for (int i = 0; i < FEW; i++) {
        snprintf(name, sizeof name, "c%d", i);
        join(t, &c[i], name, 0);
    }
    assert_int_equal(client_open(&late, t->b.port), 0);
    assert_int_equal(
        client_send_bytes(&late, connect_bytes, sizeof connect_bytes), 0);
    assert_quiet(&c[0]);
    assert_quiet(&c[FEW - 1]);
    assert_int_equal(client_read(&late, &packet, 0), CLIENT_SILENCE);
    client_leave(&c[0]);
    assert_int_equal(client_expect(&late, MQTT_CONNACK, &packet), 0);
    client_leave(&late);
    for (int i = 1; i < FEW; i++)
        client_leave(&c[i]);
}

/* SIGTERM: every client is told, the process ends well, sessions stay. */
static void test_stop(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client a, b, mute;
    struct mqtt_packet packet;
    char said[4096];

    bench_start(t);
    join(t, &a, "a", 0);
    assert_int_equal(
        client_connect(&b, t->b.port, "b", 1, CLIENT_NO_EXPIRY, &packet), 0);
    assert_int_equal(client_open(&mute, t->b.port), 0);
    assert_quiet(&b);
    assert_int_equal(kill(t->b.pid, SIGTERM), 0);
    assert_int_equal(client_expect(&a, MQTT_DISCONNECT, &packet), 0);
    assert_int_equal(packet.reason, MQTT_SERVER_SHUTTING_DOWN);
    assert_int_equal(client_expect_eof(&a), 0);
    assert_int_equal(client_expect(&b, MQTT_DISCONNECT, &packet), 0);
    assert_int_equal(packet.reason, MQTT_SERVER_SHUTTING_DOWN);
    assert_int_equal(client_expect_eof(&b), 0);
    assert_int_equal(client_expect_eof(&mute), 0);
    client_close(&a);
    client_close(&b);
    client_close(&mute);
    assert_int_equal(client_broker_end(&t->b, 0), 0);
    client_broker_log(&t->b, said, sizeof said);
    assert_non_null(strstr(said, "Z told to end by SIGTERM"));
    assert_string_equal(strrchr(said, 'Z'), "Z ended in good order\n");
    bench_start(t);
    assert_non_null(strstr(t->b.ready, " sessions=1 "));
    join(t, &a, "a", 1);
    client_leave(&a);
}

/* SIGINT does the same, and a client that does not close cannot hold it up;
 * a second signal does not spoil the end. */
static void test_stop_twice(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    struct mqtt_packet packet;
    char said[4096];

    bench_start(t);
    join(t, &c, "c", 0);
    assert_int_equal(client_broker_end(&t->b, SIGINT), 0);
    client_broker_log(&t->b, said, sizeof said);
    assert_non_null(strstr(said, "Z told to end by SIGINT"));
    client_close(&c);
    bench_start(t);
    join(t, &c, "c", 1);
    assert_int_equal(kill(t->b.pid, SIGTERM), 0);
    assert_int_equal(client_expect(&c, MQTT_DISCONNECT, &packet), 0);
    assert_int_equal(client_broker_end(&t->b, SIGTERM), 0);
    client_close(&c);
    bench_start(t);
    join(t, &c, "c", 1);
    client_leave(&c);
}

#define T(name, function)                                                      \
    {                                                                          \
        name, function, bench_setup, bench_teardown, NULL                      \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        T("the ready line has its syntax and counts", test_ready_line),
        T("the ready line escapes the store's name", test_ready_escape),
        T("a wrong option: one line, status 2", test_options_wrong),
        T("-h and -V", test_options_help),
        T("-x is granted and said in CONNACK", test_option_expiry),
        T("-x 0 is the standard's own default", test_option_expiry_zero),
        T("-b: twice, a name, an open address", test_option_address),
        T("-v prints the packets", test_option_trace),
        T("-vv prints their bytes", test_option_trace_bytes),
        T("-t prints those of one client", test_option_trace_client),
        T("the log has the time", test_log_time),
        T("bad start: port taken", test_bad_port_taken),
        T("bad start: no such address", test_bad_address),
        T("bad start: store locked", test_bad_store_locked),
        T("bad start: store not writable", test_bad_store_unwritable),
        T("bad start: no parent directory", test_bad_store_parent),
        T("bad start: no Holdfast store", test_bad_store_foreign),
        T("bad start: rotten in the middle", test_bad_store_rotten),
        T("bad start: a newer format", test_bad_store_newer),
        T("walkthrough, QoS 0 [MQTT-3.1.2-5]", test_walkthrough_qos0),
        T("walkthrough, QoS 1 [MQTT-4.3.2-4]", test_walkthrough_qos1),
        T("walkthrough, QoS 2 [MQTT-4.3.3-8]", test_walkthrough_qos2),
        T("the subscription survives [MQTT-3.1.2-23] [MQTT-3.2.2-3]",
          test_walkthrough_subscription),
        T("QoS 2 publisher cut at each stage [MQTT-4.3.3-10] [MQTT-4.3.3-11]",
          test_sender_stages),
        T("QoS 2 subscriber cut at each stage [MQTT-4.3.3-3] [MQTT-4.3.3-5] "
          "[MQTT-4.3.3-6]",
          test_receiver_stages),
        T("QoS 1 subscriber cut off [MQTT-4.3.2-3] [MQTT-4.4.0-1]",
          test_receiver_stages_qos1),
        T("many messages in order, with properties [MQTT-4.6.0-5]",
          test_many_in_order),
        T("retained messages survive", test_retained),
        T("a will waits through a crash", test_will_delayed),
        T("sessions expire while the broker is dead [MQTT-4.1.0-2]",
          test_expiry_while_dead),
        T("MQTT 3.1 and 3.1.1 are refused in their words",
          test_stranger_old_version),
        T("other protocols are closed [MQTT-3.1.0-1] [MQTT-3.14.0-1]",
          test_stranger_protocol),
        T("a half-closed peer reads its answers", test_half_closed),
        T("what was sent before hanging up counts", test_send_and_hang_up),
        T("a refusal is read, not reset [MQTT-3.14.4-2] [MQTT-4.13.1-1]",
          test_refusal_is_read),
        T("a slow reader stalls nobody", test_slow_reader),
        T("an unread trace stalls nobody", test_stdout_full),
        T("an unread trace says what it lacks", test_stdout_late),
        T("a closed stdout does not end it", test_stdout_gone),
        T("connections wait for descriptors", test_descriptors_used_up),
        T("SIGTERM: DISCONNECT 0x8B to all, status 0", test_stop),
        T("SIGINT, and a second signal", test_stop_twice),
    };

    return cmocka_run_group_tests_name("broker", tests, NULL, NULL);
}
