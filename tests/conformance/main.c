/*
 * main.c - runs the conformance tests against a broker, and reports.
 *
 *   1. Options
 *   2. Rows        one for each numbered statement, one entry for each test
 *   3. The broker  Holdfast as a process, or any other; what it offers
 *   4. Processes   one for each test, many side by side
 *   5. The report  lines and tables; cmocka's TAP and JUnit XML
 *
 *     sections' tables --> entries --> a process each --> outcome and report
 *                             |                               |
 *     tests/statements --> rows <------- breaches ------------+
 */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "client.h"
#include "run.h"

#define TEST_TIME 60000 /* ms after which a test has failed */
#define JOBS_MAX 200

static const struct section *const sections[] = {
    &section_1_5,  &section_2_1,  &section_2_2,   &section_3_1,
    &section_3_1_3, &section_3_2, &section_3_3,   &section_3_3_4,
    &section_3_4,  &section_3_5,  &section_3_6,   &section_3_7,
    &section_3_8,  &section_3_9,  &section_3_10,  &section_3_11,
    &section_3_12, &section_3_14, &section_3_15,  &section_4_1,
    &section_4_2,  &section_4_3,  &section_4_4,   &section_4_5,
    &section_4_6,  &section_4_7,  &section_4_8,   &section_4_9,
    &section_4_12, &section_4_13, &section_6_0,
};

#define SECTIONS COUNT(sections)

enum state { WAITING, RUNNING, OVER };

/* One test. */
struct entry {
    const struct test_case *test;
    unsigned number;   /* its own; 0 = the probe */
    size_t section;
    struct row *row;
    enum state state;
    enum outcome outcome;
    char *report;      /* what its process wrote */
    /* While it runs: */
    pid_t pid;
    int ctl;           /* socket to the process */
    int out;           /* a nameless file: its stdout and stderr */
    uint64_t deadline;
};

/* One statement of the standard. */
struct row {
    char id[24];
    char text[200];    /* what it asks */
    size_t section;    /* where its tests stand; SECTIONS = nowhere */
    int chosen;        /* 1 = --only names it */
    int told;          /* 1 = its line was printed */
    unsigned tests, over, passed, failed, not_offered;
    const char *unobservable; /* the reason, or NULL */
    char *breach;      /* where another test saw it broken, or NULL */
};

struct run {
    /* options */
    char *broker;            /* host:port, or NULL: Holdfast */
    const char *restart;     /* command, or NULL */
    const char *only, *holdfast, *statements, *results;
    unsigned jobs;
    int brief;
    struct setup setup;
    /* the broker, if it is ours */
    char dir[64];
    char port[8];
    struct client_broker process;
    /* what is tested */
    struct row rows[300];
    size_t row_count;
    struct entry *entries;
    size_t entry_count, running;
};

static volatile sig_atomic_t interrupted;

/* ============================ 1. Options ================================= */

static const char usage[] =
    "usage: conformance [option]...\n"
    "\n"
    "Tests an MQTT 5.0 broker against the standard's 251 numbered statements.\n"
    "\n"
    "  --broker host:port  the broker to test; without it, a Holdfast is\n"
    "                      started, with a store of its own\n"
    "  --restart command   kills (SIGKILL) and restarts that broker\n"
    "  --only pattern      the statements to test: 3.1.2-4, '3.8.*'\n"
    "  --jobs n            tests side by side (24)\n"
    "  --user name, --password word   for CONNECT\n"
    "  --holdfast program  the Holdfast to start (./holdfast)\n"
    "  --statements file   the list of statements (tests/statements)\n"
    "  --results dir       write cmocka's TAP and JUnit XML there\n"
    "  --brief             no line for what passed\n"
    "\n"
    "Exit status: 0 = nothing failed, 1 = something did, 2 = could not test\n"
    "or not write the results.\n";

static void give_up(const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fputs("conformance: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(2);
}

static void options_read(struct run *r, int argc, char **argv)
{
    char *jobs = NULL, *end = NULL;
    struct {
        const char *name;
        char **value;
    } table[] = {
        {"--broker", &r->broker},
        {"--restart", (char **)&r->restart},
        {"--only", (char **)&r->only},
        {"--jobs", &jobs},
        {"--user", (char **)&r->setup.user},
        {"--password", (char **)&r->setup.password},
        {"--holdfast", (char **)&r->holdfast},
        {"--statements", (char **)&r->statements},
        {"--results", (char **)&r->results},
    };
    size_t k;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            exit(0);
        }
        if (strcmp(argv[i], "--brief") == 0) {
            r->brief = 1;
            continue;
        }
        for (k = 0; k < COUNT(table); k++)
            if (strcmp(argv[i], table[k].name) == 0)
                break;
        if (k == COUNT(table) || argv[i + 1] == NULL)
            give_up("wrong option %s; --help lists them", argv[i]);
        /* An empty value is none: make passes those that were not set. */
        if (*argv[++i] != '\0')
            *table[k].value = argv[i];
    }
    long n = jobs == NULL ? 24 : strtol(jobs, &end, 10);
    if (n < 1 || n > JOBS_MAX || (end != NULL && *end != '\0'))
        give_up("--jobs %s: 1 to %d are possible", jobs, JOBS_MAX);
    r->jobs = (unsigned)n;
}

/* ============================ 2. Rows ==================================== */

/* tests/statements: id, who must keep it, what it asks, between tabs. */
static void rows_read(struct run *r)
{
    FILE *f = fopen(r->statements, "r");
    char line[1024];

    if (f == NULL)
        give_up("%s: %s; run it from the top of the tree", r->statements,
                strerror(errno));
    while (fgets(line, sizeof line, f) != NULL && r->row_count < 300) {
        struct row *row = &r->rows[r->row_count++];
        if (sscanf(line, "%23[^\t]\t%*[^\t]\t%199[^\n]", row->id, row->text) !=
            2)
            give_up("%s: not a statement: %s", r->statements, line);
        row->section = SECTIONS;
        row->chosen = r->only == NULL || fnmatch(r->only, row->id, 0) == 0 ||
                      fnmatch(r->only, row->id + 5, 0) == 0;
    }
    fclose(f);
}

static int rows_chosen(const struct run *r)
{
    for (size_t i = 0; i < r->row_count; i++)
        if (r->rows[i].chosen)
            return 1;
    return 0;
}

static struct row *row_find(struct run *r, const char *id)
{
    for (size_t i = 0; i < r->row_count; i++)
        if (strcmp(r->rows[i].id, id) == 0)
            return &r->rows[i];
    return NULL;
}

static void entry_add(struct run *r, const struct test_case *c, size_t section)
{
    struct entry *e = &r->entries[r->entry_count];
    const char *words;
    char id[24] = "";

    if (test_name_split(c->name, id, &words) == 0)
        e->row = row_find(r, id);
    if (e->row == NULL)
        give_up("%s: no statement has this number", c->name);
    e->row->section = section;
    if (!e->row->chosen)
        return;
    if (c->run == NULL) {
        e->row->unobservable = c->reason;
        return;
    }
    e->test = c;
    e->section = section;
    e->row->tests++;
    e->number = (unsigned)++r->entry_count;
}

static void entries_make(struct run *r)
{
    size_t n = 0;

    for (size_t s = 0; s < SECTIONS; s++)
        n += sections[s]->count;
    r->entries = (struct entry *)mem_new((n + 1) * sizeof *r->entries);
    for (size_t s = 0; s < SECTIONS; s++)
        for (size_t i = 0; i < sections[s]->count; i++)
            entry_add(r, &sections[s]->cases[i], s);
}

/* ============================ 3. The broker ============================== */

static void broker_stop(struct run *r, int number)
{
    if (r->process.pid > 0)
        client_broker_end(&r->process, number);
    client_broker_forget(&r->process);
}

/* Starts Holdfast on r->port ("0": any). */
static int broker_start(struct run *r)
{
    const char *args[] = {"-p", r->port, "-s", "off", "-d", r->dir, NULL};

    if (client_broker_spawn(&r->process, args) != 0 ||
        client_broker_await(&r->process) != 0)
        return -1;
    snprintf(r->port, sizeof r->port, "%u", r->process.port);
    return 0;
}

/* 1 = a broker answers there.  That it accepts the connection is not enough:
 * one that is dying may do so too.  The answer may be a refusal. */
static int broker_answers(const struct run *r)
{
    static const uint8_t connect[] = "\x10\x0f\0\4MQTT\5\2\0\0\0\0\2hf";
    int fd = socket_open(&r->setup);
    struct pollfd one = {fd, POLLIN, 0};
    uint8_t byte;
    int answers = fd >= 0 &&
                  send(fd, connect, sizeof connect - 1, MSG_NOSIGNAL) > 0 &&
                  poll(&one, 1, 1000) == 1 && recv(fd, &byte, 1, 0) == 1;

    if (fd >= 0)
        close(fd);
    return answers;
}

/* What a test asked for by restart(). */
static int broker_restart(struct run *r)
{
    uint64_t deadline = now() + 2 * WAIT;

    if (r->broker == NULL) {
        broker_stop(r, SIGKILL);
        return broker_start(r);
    }
    if (system(r->restart) != 0)
        return -1;
    while (!broker_answers(r)) {
        if (now() >= deadline)
            return -1;
        poll(NULL, 0, 50); /* nothing tells when a foreign broker is ready */
    }
    return 0;
}

static void address_split(struct run *r)
{
    char *colon = strrchr(r->broker, ':');

    if (colon == NULL || colon == r->broker || colon[1] == '\0')
        give_up("--broker %s: it is host:port", r->broker);
    *colon = '\0';
    r->setup.host = r->broker;
    r->setup.port = colon + 1;
    if (r->broker[0] == '[' && colon[-1] == ']') {
        colon[-1] = '\0';
        r->setup.host++;
    }
}

static void broker_close(struct run *r)
{
    if (r->broker != NULL)
        return;
    broker_stop(r, SIGTERM);
    client_dir_remove(r->dir);
}

static struct run *ours; /* the run whose Holdfast must not outlive it */

static void broker_abandon(void)
{
    broker_close(ours);
}

static void broker_open(struct run *r)
{
    char log[2000];

    r->setup.diagnosed = r->broker == NULL;
    r->setup.can_restart = r->broker == NULL || r->restart != NULL;
    r->setup.keeps = 1; /* until the canary has died */
    if (r->broker != NULL) {
        address_split(r);
        return;
    }
    snprintf(r->port, sizeof r->port, "0");
    if (r->holdfast != NULL)
        setenv("HOLDFAST", r->holdfast, 1);
    if (client_dir_make(r->dir, sizeof r->dir) != 0)
        give_up("/tmp: no directory can be made: %s", strerror(errno));
    ours = r;
    atexit(broker_abandon); /* also by give_up(); the tests end by _exit() */
    if (broker_start(r) != 0) {
        client_broker_log(&r->process, log, sizeof log);
        give_up("Holdfast does not start: %s",
                *log != '\0' ? log : "is there a program ./holdfast?");
    }
    r->setup.host = "127.0.0.1";
    r->setup.port = r->port;
}

#define PROBE_SENDS 20

/* The first test of all: tells the runner what CONNACK offers. */
static void probe_run(struct test *t)
{
    struct peer *p = peer_join(t, "c0 id=~a x=300");
    const struct mqtt_properties *props = &connack(p)->packet.props;
    struct offer o = {2, 1, 1, 1, 1, 1, 65535, 0, 0, 0, PROBE_SENDS};

    if (MQTT_HAS(props, MQTT_MAXIMUM_QOS))
        o.qos_max = props->maximum_qos;
    if (MQTT_HAS(props, MQTT_RETAIN_AVAILABLE))
        o.retain = props->retain_available;
    if (MQTT_HAS(props, MQTT_WILDCARD_SUBSCRIPTION_AVAILABLE))
        o.wildcards = props->wildcard_subscription_available;
    if (MQTT_HAS(props, MQTT_SUBSCRIPTION_IDENTIFIER_AVAILABLE))
        o.ids = props->subscription_identifier_available;
    if (MQTT_HAS(props, MQTT_SHARED_SUBSCRIPTION_AVAILABLE))
        o.shared = props->shared_subscription_available;
    if (MQTT_HAS(props, MQTT_SESSION_EXPIRY_INTERVAL))
        o.sessions = props->session_expiry_interval > 0;
    if (MQTT_HAS(props, MQTT_RECEIVE_MAXIMUM))
        o.receive_max = props->receive_maximum;
    if (MQTT_HAS(props, MQTT_TOPIC_ALIAS_MAXIMUM))
        o.alias_max = props->topic_alias_maximum;
    if (MQTT_HAS(props, MQTT_SERVER_KEEP_ALIVE))
        o.keep_alive = props->server_keep_alive;
    if (MQTT_HAS(props, MQTT_MAXIMUM_PACKET_SIZE))
        o.packet_max = props->maximum_packet_size;
    check(t, write(t->ctl, &o, sizeof o) == (ssize_t)sizeof o, "no runner");
    say(p, "disconnect 00 x=0");
}

/* The second one: how many deliveries the broker leaves open at a time.  Of
 * twenty none is answered. */
static void sends_run(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");
    unsigned n = 0;

    subscribe(p, "~/a,q1");
    for (unsigned i = 0; i < PROBE_SENDS; i++)
        publish(t, "q1 ~/a =%u", i);
    while (next(p, n == 0 ? WAIT / 4 : 2 * QUIET) != NULL)
        n++;
    check(t, n > 0, "nothing comes");
    check(t, write(t->ctl, &n, sizeof n) == (ssize_t)sizeof n, "no runner");
}

/* Before the tests that restart a foreign broker: passes if a session with a
 * queued message, and a retained message, outlive a crash. */
static void canary_run(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a x=300");
    int lives;

    subscribe(p, "~/a,q1");
    leave(p);
    publish(t, "q1 ~/a =x");
    if (offer(t)->retain)
        publish(t, "q1 retain ~/r =x");
    restart(t);
    p = peer_join(t, "c0 id=~a x=300");
    lives = comes(p, WAIT / 4, "publish* ~/a =x*");
    say(p, "disconnect 00 x=0");
    if (offer(t)->retain) {
        p = peer_watch(t, "~/r");
        lives = lives && comes(p, WAIT / 4, "publish* ~/r =x*");
        publish(t, "retain ~/r =");
    }
    if (!lives)
        not_offered(t, "what was acknowledged did not outlive a crash");
}

/* ============================ 4. Processes =============================== */

static void entry_start(struct run *r, struct entry *e)
{
    char name[] = "/tmp/holdfast-report-XXXXXX";
    int ends[2];

    e->out = mkstemp(name);
    if (e->out < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        give_up("no file or socket for a test: %s", strerror(errno));
    unlink(name);
    fcntl(e->out, F_SETFD, FD_CLOEXEC);
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    fflush(stdout);
    e->pid = fork();
    if (e->pid < 0)
        give_up("no process for a test: %s", strerror(errno));
    if (e->pid == 0) {
        dup2(e->out, STDOUT_FILENO);
        dup2(e->out, STDERR_FILENO);
        /* A test must not keep its neighbours' sockets open. */
        for (size_t i = 0; i < r->entry_count; i++)
            if (r->entries[i].state == RUNNING)
                close(r->entries[i].ctl);
        close(ends[0]);
        test_process(&r->setup, e->test, e->number, ends[1]);
    }
    close(ends[1]);
    e->ctl = ends[0];
    e->state = RUNNING;
    e->deadline = now() + TEST_TIME;
    r->running++;
}

static char *file_text(int fd)
{
    struct stat s;
    size_t n = fstat(fd, &s) == 0 ? (size_t)s.st_size : 0;
    char *text = (char *)mem_new(n + 100), *end;

    if (n > 0 && pread(fd, text, n, 0) < 0)
        text[0] = '\0';
    /* cmocka puts it into a CDATA section, which these would end. */
    for (end = text; (end = strstr(end, "]]>")) != NULL;)
        *end = ')';
    return text;
}

/* A statement, which may be no test's own, was seen broken: "breach ID" and
 * the lines behind it that begin with a blank.  Returns what follows. */
static char *breach_take(struct run *r, const struct entry *e, char *line)
{
    char id[24] = "", *rest = strchr(line, '\n');
    struct row *row;

    sscanf(line, "breach %23s", id);
    while (rest != NULL && rest[1] == ' ')
        rest = strchr(rest + 1, '\n');
    row = row_find(r, id);
    if (row == NULL || row->breach != NULL || rest == NULL)
        return rest;
    size_t n = (size_t)(rest - line);
    row->breach = (char *)mem_new(n + 200);
    snprintf(row->breach, n + 200, "  in %s:%.*s\n", e->test->name,
             (int)(n - strcspn(line, "\n")), line + strcspn(line, "\n"));
    if (row->told)
        printf("FAILED        %-13s %s\n%s", id, row->text, row->breach);
    return rest;
}

static void breaches_take(struct run *r, const struct entry *e)
{
    for (char *line = e->report; line != NULL;) {
        if (strncmp(line, "breach ", 7) == 0)
            line = breach_take(r, e, line);
        else
            line = strchr(line, '\n');
        line = line == NULL ? NULL : line + 1;
    }
}

static void row_tell(const struct run *r, struct row *row);

/* The process has ended, or must. */
static void entry_end(struct run *r, struct entry *e)
{
    int status = 0, late = now() >= e->deadline;

    if (late)
        kill(e->pid, SIGKILL);
    waitpid(e->pid, &status, 0);
    close(e->ctl);
    e->report = file_text(e->out);
    close(e->out);
    if (WIFEXITED(status) && WEXITSTATUS(status) <= NOT_OFFERED) {
        e->outcome = (enum outcome)WEXITSTATUS(status);
    } else {
        e->outcome = FAILED;
        sprintf(e->report + strlen(e->report), "  the test %s\n",
                late ? "did not end" : "crashed");
    }
    e->state = OVER;
    r->running--;
    if (e->row == NULL || interrupted)
        return;
    e->row->over++;
    e->row->passed += e->outcome == PASSED;
    e->row->failed += e->outcome == FAILED;
    e->row->not_offered += e->outcome == NOT_OFFERED;
    breaches_take(r, e);
    row_tell(r, e->row);
}

/* A test asks for something, or its process has ended. */
static void entry_serve(struct run *r, struct entry *e)
{
    char request = 0, answer;

    if (now() >= e->deadline || read(e->ctl, &request, 1) != 1) {
        entry_end(r, e);
        return;
    }
    answer = broker_restart(r) == 0 ? 'R' : 'X';
    /* If it has died meanwhile the next read tells. */
    (void)send(e->ctl, &answer, 1, MSG_NOSIGNAL);
}

/* Waits until a test asks, ends or is late. */
static void entries_await(struct run *r)
{
    struct pollfd fds[JOBS_MAX];
    struct entry *of[JOBS_MAX];
    uint64_t deadline = UINT64_MAX, at = now();
    nfds_t n = 0;

    for (size_t i = 0; i < r->entry_count; i++) {
        struct entry *e = &r->entries[i];
        if (e->state != RUNNING)
            continue;
        struct pollfd one = {e->ctl, POLLIN, 0};
        of[n] = e;
        fds[n++] = one;
        deadline = e->deadline < deadline ? e->deadline : deadline;
    }
    poll(fds, n, deadline > at ? (int)(deadline - at) : 0);
    for (nfds_t i = 0; i < n; i++)
        if (fds[i].revents != 0 || now() >= of[i]->deadline)
            entry_serve(r, of[i]);
}

/* All tests that restart the broker, or all that do not. */
static void entries_run(struct run *r, int restarts, unsigned jobs)
{
    size_t i = 0;

    while (!interrupted) {
        for (; i < r->entry_count && r->running < jobs; i++)
            if (r->entries[i].test->restarts == restarts)
                entry_start(r, &r->entries[i]);
        if (r->running == 0)
            break;
        entries_await(r);
    }
    for (i = 0; i < r->entry_count; i++)
        if (r->entries[i].state == RUNNING) {
            r->entries[i].deadline = 0; /* interrupted */
            entry_end(r, &r->entries[i]);
        }
}

/* Runs this before all tests; what it writes to its socket is the answer of n
 * bytes.  0, or -1: there is none. */
static int probe(struct run *r, const struct test_case *c, void *answer,
                 size_t n)
{
    struct entry e;

    memset(&e, 0, sizeof e);
    e.test = c;
    entry_start(r, &e);
    int whole = recv(e.ctl, answer, n, MSG_WAITALL) == (ssize_t)n;
    entry_end(r, &e);
    if (!whole && e.outcome == FAILED) {
        printf("%s", e.report);
        fflush(stdout);
    }
    free(e.report);
    return whole ? 0 : -1;
}

/* Learns what the broker offers; 0, or -1: no test makes sense. */
static int broker_probe(struct run *r)
{
    static const struct test_case offers = {"the first CONNECT", probe_run,
                                            NULL, 0};
    static const struct test_case sends = {"the send quota", sends_run, NULL,
                                           0};

    if (probe(r, &offers, &r->setup.offer, sizeof r->setup.offer) != 0)
        return -1;
    if (r->setup.offer.qos_max > 0)
        probe(r, &sends, &r->setup.offer.send_max,
              sizeof r->setup.offer.send_max);
    return 0;
}

/* Learns if what the broker stores outlives it. */
static void canary(struct run *r)
{
    static const struct test_case c = {"the canary", canary_run, NULL, 1};
    struct entry e;

    if (!r->setup.can_restart || r->setup.diagnosed)
        return;
    memset(&e, 0, sizeof e);
    e.test = &c;
    entry_start(r, &e);
    while (e.state == RUNNING) {
        struct pollfd one = {e.ctl, POLLIN, 0};
        poll(&one, 1, TEST_TIME);
        entry_serve(r, &e);
    }
    r->setup.keeps = e.outcome == PASSED;
    if (e.outcome != PASSED)
        printf("Before the restarts: %s", e.report);
    free(e.report);
}

/* ============================ 5. The report ============================== */

enum verdict { V_PASSED, V_FAILED, V_NOT_OFFERED, V_UNOBSERVABLE, VERDICTS };

static const char *const verdict_words[VERDICTS] = {
    "passed", "FAILED", "not offered", "unobservable"};

static enum verdict row_verdict(const struct row *row)
{
    if (row->failed > 0 || row->breach != NULL)
        return V_FAILED;
    if (row->tests == 0 && row->unobservable != NULL)
        return V_UNOBSERVABLE;
    if (row->tests > 0 && row->not_offered == row->tests)
        return V_NOT_OFFERED;
    /* No test at all is no pass. */
    return row->passed > 0 ? V_PASSED : V_FAILED;
}

/* The reports of its tests that did not pass. */
static void row_reports(const struct run *r, const struct row *row,
                        enum outcome outcome)
{
    for (size_t i = 0; i < r->entry_count; i++)
        if (r->entries[i].row == row && r->entries[i].state == OVER &&
            r->entries[i].outcome == outcome)
            printf("%s%s", outcome == NOT_OFFERED ? "              " : "",
                   r->entries[i].report);
    if (outcome == FAILED && row->breach != NULL)
        printf("%s", row->breach);
}

/* The row's line, once all its tests are over. */
static void row_tell(const struct run *r, struct row *row)
{
    enum verdict v = row_verdict(row);

    if (row->over < row->tests)
        return;
    row->told = 1;
    if (r->brief && v == V_PASSED)
        return;
    printf("%-13s %-13s %s\n", verdict_words[v], row->id,
           v == V_UNOBSERVABLE ? row->unobservable : row->text);
    if (v == V_FAILED)
        row_reports(r, row, FAILED);
    else if (v == V_NOT_OFFERED)
        row_reports(r, row, NOT_OFFERED);
    if (row->tests == 0 && row->unobservable == NULL)
        puts("  no test has its number in its name");
    fflush(stdout);
}

/* What became of the tests that restart the broker. */
static void report_restarts(const struct run *r)
{
    unsigned counts[3] = {0}, all = 0;

    for (size_t i = 0; i < r->entry_count; i++)
        if (r->entries[i].test->restarts) {
            counts[r->entries[i].outcome]++;
            all++;
        }
    if (all > 0)
        printf("Across a kill and restart of the broker: %u tests, %u passed "
               "/ %u failed / %u not offered\n",
               all, counts[PASSED], counts[FAILED], counts[NOT_OFFERED]);
}

static void table_line(const char *title, const unsigned counts[VERDICTS])
{
    printf("%-36s %8u %8u %13u %13u\n", title, counts[V_PASSED],
           counts[V_FAILED], counts[V_NOT_OFFERED], counts[V_UNOBSERVABLE]);
}

/* The table and the last line; returns how many failed. */
static unsigned report_table(const struct run *r, uint64_t began)
{
    unsigned counts[SECTIONS + 1][VERDICTS], all[VERDICTS] = {0}, rows = 0;

    memset(counts, 0, sizeof counts);
    for (size_t i = 0; i < r->row_count; i++)
        if (r->rows[i].chosen) {
            enum verdict v = row_verdict(&r->rows[i]);
            counts[r->rows[i].section][v]++;
            all[v]++;
            rows++;
        }
    printf("\n%-36s %8s %8s %13s %13s\n", "section", "passed", "failed",
           "not offered", "unobservable");
    for (size_t s = 0; s < SECTIONS; s++)
        if (counts[s][V_PASSED] + counts[s][V_FAILED] +
                counts[s][V_NOT_OFFERED] + counts[s][V_UNOBSERVABLE] >
            0)
            table_line(sections[s]->title, counts[s]);
    puts("");
    report_restarts(r);
    printf("%u statements: %u passed / %u failed / %u not offered / "
           "%u unobservable; %zu tests in %.1f s\n",
           rows, all[V_PASSED], all[V_FAILED], all[V_NOT_OFFERED],
           all[V_UNOBSERVABLE], r->entry_count,
           (double)(now() - began) / 1000);
    return all[V_FAILED];
}

/* What cmocka runs: no test but its result.  The report takes the place of
 * the expression that is false: so it comes into cmocka's own file, whole. */
static void entry_repeat(void **state)
{
    const struct entry *e = (const struct entry *)*state;

    _assert_true(e->outcome != FAILED, e->report, e->test->name, 0);
    if (e->outcome == NOT_OFFERED)
        skip();
}

static void row_repeat(void **state)
{
    const struct row *row = (const struct row *)*state;

    _assert_true(row->breach == NULL, row->breach, row->id, 0);
    if (row->unobservable != NULL)
        skip();
}

/* One group, for TAP has one plan and XML one root: the tests, the
 * unobservable rows, the breaches that other tests saw. */
static void group_report(struct run *r)
{
    struct CMUnitTest *list = (struct CMUnitTest *)mem_new(
        (r->entry_count + r->row_count) * sizeof *list);
    size_t n = 0;

    for (size_t i = 0; i < r->entry_count; i++) {
        struct CMUnitTest t = {r->entries[i].test->name, entry_repeat, NULL,
                               NULL, &r->entries[i]};
        list[n++] = t;
    }
    for (size_t i = 0; i < r->row_count; i++)
        if (r->rows[i].chosen &&
            (r->rows[i].breach != NULL || r->rows[i].unobservable != NULL)) {
            struct CMUnitTest t = {r->rows[i].id, row_repeat, NULL, NULL,
                                   &r->rows[i]};
            list[n++] = t;
        }
    if (n > 0) /* the macro around it wants an array of fixed size */
        _cmocka_run_group_tests("conformance", list, n, NULL, NULL);
    free(list);
}

/* In a process of its own, for cmocka decides once where its output goes. */
static int cmocka_report(struct run *r, enum cm_message_output format,
                         const char *file)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        cmocka_set_message_output(format);
        if (freopen(file, "w", stdout) == NULL ||
            dup2(STDOUT_FILENO, STDERR_FILENO) < 0)
            _exit(1);
        group_report(r);
        _exit(fflush(stdout) != 0 || ferror(stdout));
    }
    int status = -1;
    if (pid >= 0 && waitpid(pid, &status, 0) == pid && status == 0)
        return 0;
    fprintf(stderr, "conformance: %s cannot be written\n", file);
    return -1;
}

/* 0, or -1: --results names a place where nothing can be written. */
static int results_write(struct run *r)
{
    char tap[300], xml[300];

    if (r->results == NULL)
        return 0;
    mkdir(r->results, 0777);
    snprintf(tap, sizeof tap, "%s/conformance.tap", r->results);
    snprintf(xml, sizeof xml, "%s/conformance.xml", r->results);
    unsetenv("CMOCKA_MESSAGE_OUTPUT"); /* both are wanted, not one of them */
    unsetenv("CMOCKA_XML_FILE");
    if (cmocka_report(r, CM_OUTPUT_TAP, tap) != 0)
        return -1;
    return cmocka_report(r, CM_OUTPUT_XML, xml);
}

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static void offer_show(const struct run *r)
{
    const struct offer *o = &r->setup.offer;

    printf("Broker %s:%s%s.  It offers QoS %u%s%s%s%s%s, Receive Maximum %u, "
           "Topic Alias Maximum %u, Maximum Packet Size %lu%s; it leaves "
           "%s%u deliveries open.\n",
           r->setup.host, r->setup.port,
           r->broker == NULL ? " (Holdfast, started for this)" : "",
           o->qos_max, o->sessions ? ", sessions" : "",
           o->retain ? ", retained messages" : "",
           o->wildcards ? ", wildcards" : "",
           o->ids ? ", Subscription Identifiers" : "",
           o->shared ? ", Shared Subscriptions" : "", o->receive_max,
           o->alias_max, (unsigned long)o->packet_max,
           o->packet_max == 0 ? " (none)" : "",
           o->send_max < PROBE_SENDS ? "" : "at least ", o->send_max);
    if (!r->setup.can_restart)
        puts("No --restart: what survives a crash of the broker is not "
             "tested.");
    fflush(stdout);
}

static int run_all(struct run *r)
{
    uint64_t began = now();

    if (broker_probe(r) != 0)
        give_up("%s:%s does not answer a plain CONNECT as a broker does",
                r->setup.host, r->setup.port);
    offer_show(r);
    for (size_t i = 0; i < r->row_count; i++)
        if (r->rows[i].chosen && r->rows[i].tests == 0)
            row_tell(r, &r->rows[i]);
    entries_run(r, 0, r->jobs);
    canary(r);
    /* One at a time, for each takes the broker from all others. */
    entries_run(r, 1, r->setup.can_restart && r->setup.keeps ? 1 : r->jobs);
    if (interrupted)
        give_up("interrupted");
    unsigned failed = report_table(r, began);
    if (failed > 0 && !broker_answers(r))
        printf("%s:%s answers no more: the broker has died in this run.\n",
               r->setup.host, r->setup.port);
    if (results_write(r) != 0)
        return 2;
    return failed > 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
    static struct run r;
    struct sigaction sa;

    r.statements = "tests/statements";
    options_read(&r, argc, argv);
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = on_interrupt;
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGHUP, &sa, NULL);
    sigaction(SIGPIPE, &sa, NULL); /* "| head" */
    snprintf(r.setup.nonce, sizeof r.setup.nonce, "%05x",
             ((unsigned)getpid() * 7919u + (unsigned)now()) & 0xFFFFF);
    rows_read(&r);
    entries_make(&r);
    if (!rows_chosen(&r))
        give_up("--only %s: there is no such statement", r.only);
    broker_open(&r);
    return run_all(&r);
}
