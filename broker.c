/*
 * broker.c - the process around the server: sockets, time, signals, output.
 *
 *   1. Output       stdout and stderr, which may never hold up the loop
 *   2. Options      the command line
 *   3. Time         one timeline that never runs backwards
 *   4. Listeners    the sockets that accept
 *   5. Text         what requests of the status page are made of
 *   6. Requests     what its visitors ask for
 *   7. Pages        the answers for people
 *   8. Machines     the answers for programs
 *   9. Visitors     from a request to its answer
 *  10. Connections  the sockets that talk
 *  11. Signals      what the process is told to do
 *  12. The loop     one turn after the other
 *  13. Life         start, end
 *  14. Audit        the store looked at, or saved, without a broker; main
 *
 * All waiting is done by one poll() and all rules of MQTT stand in session.c.
 * One turn of the loop:
 *
 *     poll -> read every ready socket -> session_link_input()
 *          -> session_server_settle() -> ONE store_commit()
 *          -> conn_flush(), the only writer to client sockets
 *          -> close what is done
 *
 * Nothing that the server says leaves the process before the commit that
 * makes it true.  What the closing of a connection brings about (a will, a
 * session that goes offline) is committed by the next turn, which then
 * follows without a wait.
 *
 * The life of a connection:
 *
 *     OPEN ------> SENDING ---------> DRAINING ------------> closed
 *          done,           all sent:            peer closed,
 *          or EOF          SHUT_WR              or 1 s
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "audit.h"
#include "buf.h"
#include "inspect.h"
#include "session.h"
#include "store.h"

#define BROKER_VERSION "0.1.0"
#define BROKER_PORT 1883           /* registered with IANA for mqtt */
#define STATUS_PORT 8080           /* of the status page, if it is free */
#define LISTENER_MAX 16            /* addresses listened on, at most */
#define INPUT_SIZE 65536           /* bytes read of one connection in a turn */
#define OUTPUT_PENDING_MAX 1048576 /* bytes of log that wait for a reader */
#define FD_RESERVE 32              /* descriptors that are kept for the store */
#define SEND_WAIT 3000             /* ms for a peer to read our last bytes */
#define DRAIN_WAIT 1000            /* ms for a peer to close after SHUT_WR */
#define STOP_WAIT 1000             /* ms for all peers when we shut down */
#define ALIVE_EVERY 1000           /* ms between two notes of being alive */
#define ACCEPT_RETRY 1000          /* ms until accept() is tried again */
#define FULL_EVERY 60000           /* ms between two lines about that */
#define TIME_GAP 2000              /* ms of clock jump that are worth a line */
#define AWAY_MIN 60000             /* ms of absence that are worth a line */
#define START_WAIT 1000            /* ms a start waits for its predecessor */
#define START_STEP 20              /* ms between two attempts */
#define VISITOR_MAX 64             /* connections of the status page */
#define REQUEST_MAX 8192           /* bytes of a request's head */
#define REQUEST_WAIT 5000          /* ms for a request to be whole */
#define ANSWER_WAIT 10000          /* ms for its answer to be read */
#define ANSWERS_MAX 4              /* answers made in one turn */
#define FIELDS_MAX 8               /* query parameters of a request */
#define HISTOGRAM_BOUNDS 15        /* see histogram_bounds[] */

/* One of the process's own outputs. */
struct output {
    int fd;             /* STDOUT_FILENO or STDERR_FILENO */
    int dead;           /* 1 = its reader is gone for good */
    size_t chunk;       /* bytes that a ready pipe takes without blocking */
    uint64_t lost;      /* lines thrown away since it last kept up */
    uint64_t lost_ever; /* the same since the start */
    struct buf pending; /* whole lines, the first maybe half written */
};

/* What the command line says. */
struct settings {
    struct session_options session;    /* handed to the server */
    const char *dir;                   /* -d: the store */
    const char *address[LISTENER_MAX]; /* -b: addresses or names */
    size_t address_count;              /* 0 = loopback, both families */
    uint16_t port;                     /* -p: 0 = any */
    char status_host[256];             /* -s: without brackets; empty =
                                          loopback, both families */
    uint16_t status_port;              /* -s: 0 = any */
    int status_named;                  /* -s was given: it must be had */
    int status_off;                    /* -s off */
    int audit;                         /* -a: 2 = every record too */
    int salvage;                       /* -r */
    char *const *operand;              /* what follows the options */
};

/* The broker's idea of time; all in ms. */
struct timeline {
    uint64_t base;      /* ms since 1970 at the start */
    uint64_t mono_base; /* CLOCK_MONOTONIC at the same moment */
    uint64_t now;       /* ms since 1970; the time of this turn */
    uint64_t wall;      /* what the wall clock says about the same moment */
    int64_t gap;        /* wall - now, as was last said in the log */
};

/* How long something took, each time it was done. */
struct histogram {
    uint64_t bucket[HISTOGRAM_BOUNDS + 1]; /* times within histogram_bounds[i]
                                              but not before; the last: over
                                              all of them */
    uint64_t sum_us;                       /* us in all */
    uint64_t count;                        /* times in all */
    uint64_t max_us;                       /* us of the longest */
};

/* The address of either end of a socket. */
union address {
    struct sockaddr any;          /* as the system takes it */
    struct sockaddr_in v4;        /* any.sa_family is AF_INET */
    struct sockaddr_in6 v6;       /* any.sa_family is AF_INET6 */
    struct sockaddr_storage room; /* for whatever accept() writes */
};

struct listener {
    int fd;
    union address addr; /* as bound, with the real port */
};

/* All addresses of one service. */
struct listeners {
    struct listener at[LISTENER_MAX];
    size_t count;
};

enum conn_state {
    CONN_OPEN,    /* the server knows it: link is set; or it is a visitor
                     whose request is not answered yet */
    CONN_SENDING, /* the server is done with it; `rest` has to leave */
    CONN_DRAINING /* we have closed our half and wait for the peer's */
};

struct conn {
    int fd;
    enum conn_state state;
    int eof;                   /* the peer has closed its half */
    int broken;                /* nothing can be read any more */
    int mute;                  /* nothing can be sent any more */
    int visitor;               /* of the status page: it never has a link */
    int asked;                 /* a visitor's request is there: answer it */
    struct session_link *link; /* NULL unless CONN_OPEN */
    uint64_t deadline;         /* when patience ends; UINT64_MAX = a link's
                                  server knows */
    struct buf request;        /* a visitor's, as far as it has come */
    struct buf rest;           /* unsent bytes of a link that is gone, or the
                                  answer to a visitor */
};

struct broker {
    struct settings set;
    struct timeline time;
    struct output out; /* the ready line and the trace */
    struct output err; /* the log */
    struct store *store;
    struct session_server *server;
    struct listeners mqtt;   /* for clients */
    struct listeners status; /* for visitors; none = the page is off */
    struct conn *conns;  /* in no order; grows, never shrinks */
    size_t conn_count;   /* in use */
    size_t conn_cap;     /* allocated */
    size_t conn_max;     /* of clients: as many as descriptors allow */
    size_t visitors;     /* of conn_count */
    size_t visitor_max;  /* their part of the descriptors, at most */
    uint64_t http[6];    /* answers to visitors, by class of status */
    struct histogram sync; /* commits that synced */
    struct histogram turn; /* turns, without the wait for events */
    struct pollfd *poll; /* rebuilt each turn: fixed places, listeners, conns */
    size_t poll_cap;     /* allocated */
    size_t polled;       /* connections that this turn's poll() saw */
    uint64_t accept_at;  /* no accept() before this time */
    uint64_t full_at;    /* when the line about that may be said again */
    uint64_t alive_at;   /* when store_alive() is due */
    uint64_t born;       /* the wall clock when the start began, in ms */
    uint64_t started;    /* CLOCK_MONOTONIC when the start began, in ms */
    int again;           /* 1 = the next turn must not wait */
    int signal_fd;       /* the end of the signal pipe that is polled */
    uint8_t input[INPUT_SIZE];
};

/* The places in the poll array that come before the listeners. */
enum { PLACE_SIGNAL, PLACE_OUT, PLACE_ERR, PLACE_FIXED };

/* ============================ 1. Output ================================== */
/*
 * stdout and stderr may be pipes whose reader sleeps.  A write to a full
 * pipe would stop the broker, so nothing is written unless poll() says that
 * it can be, and never more at once than a ready pipe takes.  What waits is
 * bounded; beyond that whole lines are thrown away, counted, and reported.
 */

static void output_open(struct output *o, int fd)
{
    long chunk = fpathconf(fd, _PC_PIPE_BUF);

    memset(o, 0, sizeof *o);
    o->fd = fd;
    o->chunk = chunk >= _POSIX_PIPE_BUF ? (size_t)chunk : _POSIX_PIPE_BUF;
}

static void output_flush(struct output *o)
{
    while (o->pending.n > 0 && !o->dead) {
        struct pollfd ready = {o->fd, POLLOUT, 0};
        size_t n = o->pending.n < o->chunk ? o->pending.n : o->chunk;
        ssize_t written;

        if (poll(&ready, 1, 0) <= 0)
            return;
        written = ready.revents & POLLOUT ? write(o->fd, o->pending.p, n) : -1;
        if (written >= 0)
            buf_take(&o->pending, (size_t)written);
        else if (!(ready.revents & POLLOUT) ||
                 (errno != EINTR && errno != EAGAIN))
            o->dead = 1;
        else
            return;
    }
    if (o->dead)
        buf_free(&o->pending);
}

/* Adds a prefix and a line, newline included, or counts them as lost. */
static void output_line(struct output *o, const char *prefix,
                        const uint8_t *line, size_t n)
{
    if (o->dead)
        return;
    if (o->pending.n + n > OUTPUT_PENDING_MAX) {
        o->lost++;
        o->lost_ever++;
        return;
    }
    if (o->lost > 0) {
        char said[96];
        snprintf(said, sizeof said,
                 "%s%" PRIu64 " lines lost here: they were not read in time\n",
                 prefix, o->lost);
        o->lost = 0;
        buf_text(&o->pending, said);
    }
    buf_text(&o->pending, prefix);
    buf_add(&o->pending, line, n);
}

/* Moves all lines of `from` to the output, each behind the prefix; only one
 * that is indented goes without, for it belongs to the line before it. */
static void output_lines(struct output *o, const char *prefix, struct buf *from)
{
    while (from->n > 0) {
        const uint8_t *end = (const uint8_t *)memchr(from->p, '\n', from->n);
        size_t n = end == NULL ? from->n : (size_t)(end - from->p) + 1;
        output_line(o, from->p[0] == ' ' ? "" : prefix, from->p, n);
        buf_take(from, n);
    }
}

/* "2026-11-22T16:12:10.123Z ": the wall's time, to compare with other logs. */
static void output_stamp(uint64_t wall, char stamp[32])
{
    time_t seconds = (time_t)(wall / 1000);
    struct tm tm;
    size_t n = 0;

    if (gmtime_r(&seconds, &tm) != NULL)
        n = strftime(stamp, 24, "%Y-%m-%dT%H:%M:%S", &tm);
    stamp[n] = '\0';
    if (n > 0)
        snprintf(stamp + n, 32 - n, ".%03uZ ", (unsigned)(wall % 1000));
}

/* One line of the broker's own for the log. */
static void broker_say(struct broker *b, const char *line)
{
    char stamp[32];
    struct buf text = {0};

    output_stamp(b->time.wall, stamp);
    buf_text(&text, line);
    buf_text(&text, "\n");
    output_lines(&b->err, stamp, &text);
    buf_free(&text);
}

static void broker_output(struct broker *b)
{
    char stamp[32];

    output_stamp(b->time.wall, stamp);
    output_lines(&b->err, stamp, store_notices(b->store));
    if (b->server != NULL) {
        output_lines(&b->err, stamp, session_log(b->server));
        output_lines(&b->out, stamp, session_trace(b->server));
    }
    output_flush(&b->out);
    output_flush(&b->err);
}

/* ============================ 2. Options ================================= */

static const char usage[] =
    "usage: holdfast [-hvV] [-p port] [-b address]... [-d directory]"
    " [-x seconds]\n"
    "                [-s [address:]port | -s off] [-t client]\n"
    "       holdfast -a [-a] directory\n"
    "       holdfast -r directory new-directory\n"
    "\n"
    "Holdfast is an MQTT 5.0 broker whose sessions outlive everything.\n"
    "\n"
    "  -p port       listen on this TCP port; 0 = any free one (1883)\n"
    "  -b address    listen on this IPv4 or IPv6 address or name; may be\n"
    "                repeated (127.0.0.1 and ::1)\n"
    "  -d directory  keep the store here; made if it is missing (data)\n"
    "  -x seconds    how long a session is kept for a client that asked to\n"
    "                resume (Clean Start 0) without a Session Expiry\n"
    "                Interval; 0 = until it disconnects, as the standard has\n"
    "                it; `never` = without an end (604800, a week)\n"
    "  -s [address:]port\n"
    "                where the status page is, a port or an address with one\n"
    "                ([::1]:8080); 0 = any free port; `off` = nowhere\n"
    "                (127.0.0.1 and ::1, port 8080 if it is free)\n"
    "  -v            print a line per packet on stdout; given twice, its\n"
    "                bytes too, field by field\n"
    "  -t client     the same, but only packets of this Client Identifier and\n"
    "                connections that fail before theirs is known\n"
    "  -a            serve nobody; tell what the store in this directory\n"
    "                holds and whether every byte of it is sound; writes\n"
    "                nothing and may be used beside a running broker; given\n"
    "                twice, print every record with its time\n"
    "  -r            serve nobody; write all that is sound in a damaged store\n"
    "                into a new one and list what was lost; the damaged one\n"
    "                is not touched\n"
    "  -h            print this and exit\n"
    "  -V            print the version and exit\n"
    "\n"
    "When it accepts connections, one line on stdout says so:\n"
    "\n"
    "  holdfast ready port=1883 store=data sessions=0 messages=0"
    " recovered_ms=3\n"
    "      status=http://127.0.0.1:8080/\n"
    "\n"
    "Refusals, drops and expiries are logged on stderr; on SIGUSR1, how the\n"
    "broker is.  SIGTERM and SIGINT end it in good order; SIGHUP does\n"
    "nothing.  Exit status: 0 = told to end, 1 = it could not start or go on,\n"
    "or the store is not sound, 2 = wrong options.\n";

/* A decimal number of digits only, up to max: 0, or -1 if it is none. */
static int number_parse(const char *text, uint64_t max, uint64_t *number)
{
    uint64_t value = 0;

    if (*text == '\0')
        return -1;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        value = value * 10 + (uint64_t)(*text - '0');
        if (value > max)
            return -1;
    }
    *number = value;
    return 0;
}

static int settings_port(struct settings *set, const char *text)
{
    uint64_t number;

    if (number_parse(text, 65535, &number) != 0) {
        fprintf(stderr, "holdfast: -p %s is no port; give 0 to 65535\n", text);
        return -1;
    }
    set->port = (uint16_t)number;
    return 0;
}

static int settings_expiry(struct settings *set, const char *text)
{
    uint64_t number = UINT32_MAX; /* 3.1.2.11.2: does not expire */

    if (strcmp(text, "never") != 0 &&
        number_parse(text, UINT32_MAX, &number) != 0) {
        fprintf(stderr,
                "holdfast: -x %s is no time; give seconds up to 4294967295, "
                "or `never`\n",
                text);
        return -1;
    }
    set->session.expiry_default = (uint32_t)number;
    return 0;
}

static int settings_address(struct settings *set, const char *text)
{
    if (set->address_count == LISTENER_MAX) {
        fprintf(stderr, "holdfast: -b %s is one too many; give at most %d\n",
                text, LISTENER_MAX);
        return -1;
    }
    set->address[set->address_count++] = text;
    return 0;
}

/* off, port, address:port or [address]:port. */
static int settings_status(struct settings *set, const char *text)
{
    const char *colon = strrchr(text, ':');
    const char *port = colon == NULL ? text : colon + 1;
    size_t n = colon == NULL ? 0 : (size_t)(colon - text);
    int brackets = n > 1 && text[0] == '[' && text[n - 1] == ']';
    uint64_t number = 0;

    set->status_off = strcmp(text, "off") == 0;
    set->status_named = !set->status_off;
    if (set->status_off)
        return 0;
    if (brackets) {
        text++;
        n -= 2;
    }
    if (number_parse(port, 65535, &number) != 0 || (colon != NULL && n == 0) ||
        n >= sizeof set->status_host ||
        brackets != (memchr(text, ':', n) != NULL)) {
        fprintf(stderr,
                "holdfast: -s %s is no place; give a port, address:port, "
                "[IPv6 address]:port or `off`\n",
                text - brackets);
        return -1;
    }
    memcpy(set->status_host, text, n);
    set->status_host[n] = '\0';
    set->status_port = (uint16_t)number;
    return 0;
}

static void settings_default(struct settings *set)
{
    memset(set, 0, sizeof *set);
    session_options_default(&set->session);
    set->session.version = "holdfast " BROKER_VERSION;
    set->dir = "data";
    set->port = BROKER_PORT;
    set->status_port = STATUS_PORT;
}

/* One option.  -1 = go on, else the status to exit with. */
static int settings_option(struct settings *set, int option)
{
    switch (option) {
    case 'p':
        return settings_port(set, optarg) == 0 ? -1 : 2;
    case 'b':
        return settings_address(set, optarg) == 0 ? -1 : 2;
    case 's':
        return settings_status(set, optarg) == 0 ? -1 : 2;
    case 'x':
        return settings_expiry(set, optarg) == 0 ? -1 : 2;
    case 'd':
        set->dir = optarg;
        return -1;
    case 'v':
        set->session.trace++;
        return -1;
    case 't':
        set->session.trace_client = optarg;
        return -1;
    case 'a':
        set->audit++;
        return -1;
    case 'r':
        set->salvage = 1;
        return -1;
    case 'h':
        fputs(usage, stdout);
        return fflush(stdout) == 0 ? 0 : 1;
    case 'V':
        puts("holdfast " BROKER_VERSION);
        return fflush(stdout) == 0 ? 0 : 1;
    case ':':
        fprintf(stderr, "holdfast: -%c needs a value; see holdfast -h\n",
                optopt);
        return 2;
    default:
        fprintf(stderr, "holdfast: -%c is no option; see holdfast -h\n",
                optopt);
        return 2;
    }
}

/* Only an audit and a salvage name their directories so: neither must be the
 * default by chance.  -1 = right, else the status to exit with. */
static int settings_operands(const struct settings *set, int count)
{
    const char *wrong = NULL;

    if (set->audit > 0 && set->salvage)
        wrong = "-a and -r are two things; do one after the other";
    else if (set->audit > 0 && count != 1)
        wrong = "-a needs the directory of one store; see holdfast -h";
    else if (set->salvage && count != 2)
        wrong = "-r needs the directory of a store and the name of a new one; "
                "see holdfast -h";
    if (wrong != NULL)
        fprintf(stderr, "holdfast: %s\n", wrong);
    if (wrong != NULL || set->audit > 0 || set->salvage || count == 0)
        return wrong != NULL ? 2 : -1;
    fprintf(stderr, "holdfast: %s is no option; see holdfast -h\n",
            set->operand[0]);
    return 2;
}

/* -1 = run with these settings, else the status to exit with. */
static int settings_parse(struct settings *set, int argc, char **argv)
{
    static const char letters[] = ":p:b:d:s:x:t:arvhV";
    int option, status = -1;

    settings_default(set);
    opterr = 0;
    while (status < 0 && (option = getopt(argc, argv, letters)) != -1)
        status = settings_option(set, option);
    if (set->session.trace_client != NULL && set->session.trace == 0)
        set->session.trace = 1;
    set->operand = argv + optind;
    return status < 0 ? settings_operands(set, argc - optind) : status;
}

/* Hash tables must not be predictable to those who choose the names in them.
 * Without /dev/urandom the clock and the process id have to do. */
static void settings_seed(struct settings *set, uint64_t now)
{
    uint64_t fallback[2];
    int fd = open("/dev/urandom", O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, set->session.seed, 16);

    if (fd >= 0)
        close(fd);
    if (n != 16) {
        fallback[0] = now;
        fallback[1] = (uint64_t)getpid();
        memcpy(set->session.seed, fallback, 16);
    }
}

/* ============================ 3. Time ==================================== */
/*
 * Everything that expires does so on one timeline.  It begins at the wall
 * clock, or where the last broker stopped if that is later, and goes on by
 * CLOCK_MONOTONIC: a wall clock that is set back would otherwise prolong every
 * expiry, and one that is set forward would drop every session at once.  The
 * price is that the two may differ while the broker runs, so it is said.
 */

static uint64_t clock_us(clockid_t id)
{
    struct timespec ts;
    int rc = clock_gettime(id, &ts);

    assert(rc == 0);
    (void)rc;
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t clock_ms(clockid_t id)
{
    return clock_us(id) / 1000;
}

static void timeline_read(struct timeline *t)
{
    t->now = t->base + (clock_ms(CLOCK_MONOTONIC) - t->mono_base);
    t->wall = clock_ms(CLOCK_REALTIME);
}

static void timeline_open(struct timeline *t)
{
    memset(t, 0, sizeof *t);
    t->mono_base = clock_ms(CLOCK_MONOTONIC);
    t->base = clock_ms(CLOCK_REALTIME);
    timeline_read(t);
}

/* Time has been there before: go on from where it was. */
static void timeline_advance(struct timeline *t, uint64_t seen)
{
    if (seen > t->now)
        t->base += seen - t->now;
    timeline_read(t);
}

static void timeline_check(struct broker *b)
{
    struct timeline *t = &b->time;
    int64_t gap = (int64_t)(t->wall - t->now);
    int64_t jump = gap - t->gap;
    char line[160];

    if (jump <= TIME_GAP && jump >= -TIME_GAP)
        return;
    t->gap = gap;
    snprintf(line, sizeof line,
             "the wall clock jumped by %+" PRId64 " s and is now %" PRId64
             " s %s the broker's time; expiries go on undisturbed",
             jump / 1000, (gap < 0 ? -gap : gap) / 1000,
             gap < 0 ? "behind" : "ahead of");
    broker_say(b, line);
}

/* us, rising. */
static const uint32_t histogram_bounds[HISTOGRAM_BOUNDS] = {
    100,   250,    500,    1000,   2500,    5000,    10000,   25000,
    50000, 100000, 250000, 500000, 1000000, 2500000, 10000000};

static void histogram_add(struct histogram *h, uint64_t us)
{
    size_t i = 0;

    while (i < HISTOGRAM_BOUNDS && us > histogram_bounds[i])
        i++;
    h->bucket[i]++;
    h->sum_us += us;
    h->count++;
    if (us > h->max_us)
        h->max_us = us;
}

/* ============================ 4. Listeners =============================== */

/* 1 = the two are the same address and port. */
static int address_equal(const union address *a, const union address *b)
{
    if (a->any.sa_family != b->any.sa_family)
        return 0;
    if (a->any.sa_family == AF_INET)
        return a->v4.sin_port == b->v4.sin_port &&
               a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
    return a->v6.sin6_port == b->v6.sin6_port &&
           a->v6.sin6_scope_id == b->v6.sin6_scope_id &&
           memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, sizeof a->v6.sin6_addr) ==
               0;
}

static int address_loopback(const union address *a)
{
    if (a->any.sa_family == AF_INET)
        return ntohl(a->v4.sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr) != 0;
}

static uint16_t address_port(const union address *a)
{
    return ntohs(a->any.sa_family == AF_INET ? a->v4.sin_port
                                             : a->v6.sin6_port);
}

/* "127.0.0.1:1883" or "[::1]:1883". */
static void address_print(const union address *a, char *out, size_t cap)
{
    int v6 = a->any.sa_family == AF_INET6;
    char host[64], port[8];

    if (getnameinfo(&a->any, v6 ? sizeof a->v6 : sizeof a->v4, host,
                    sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(out, cap, "unknown");
    else
        snprintf(out, cap, v6 ? "[%s]:%s" : "%s:%s", host, port);
}

static int socket_unblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

/* The configured socket of one listener: 0, or -1 and errno. */
static int listener_bind(struct listener *l, const struct addrinfo *ai)
{
    socklen_t len = sizeof l->addr;
    int on = 1;

    /* A broker that was killed leaves connections in TIME_WAIT; they must
     * not keep its successor from the port. */
    if (setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0)
        return -1;
    if (ai->ai_family == AF_INET6 &&
        setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) != 0)
        return -1;
    if (bind(l->fd, ai->ai_addr, ai->ai_addrlen) != 0 ||
        listen(l->fd, SOMAXCONN) != 0 || socket_unblock(l->fd) != 0)
        return -1;
    memset(&l->addr, 0, sizeof l->addr);
    return getsockname(l->fd, &l->addr.any, &len);
}

/* Listens on one address.  0, or an errno; a second time is no error. */
static int listener_open(struct listeners *all, const struct addrinfo *ai)
{
    struct listener *l = &all->at[all->count];
    union address wanted;

    memset(&wanted, 0, sizeof wanted);
    memcpy(&wanted, ai->ai_addr, ai->ai_addrlen);
    for (size_t i = 0; i < all->count; i++)
        if (address_equal(&all->at[i].addr, &wanted))
            return 0;
    if (all->count == LISTENER_MAX)
        return EMFILE;
    l->fd = socket(ai->ai_family, ai->ai_socktype, ai->ai_protocol);
    if (l->fd < 0)
        return errno;
    if (listener_bind(l, ai) != 0) {
        int why = errno;
        close(l->fd);
        return why;
    }
    all->count++;
    return 0;
}

static void listener_close_all(struct listeners *all)
{
    for (size_t i = 0; i < all->count; i++)
        close(all->at[i].fd);
    all->count = 0;
}

static void listener_complain(const char *host, uint16_t port, int why)
{
    if (why == EADDRINUSE)
        fprintf(stderr,
                "holdfast: port %u on %s is taken by another program; stop it, "
                "or choose another port with -p\n",
                port, host);
    else if (why == EACCES)
        fprintf(stderr,
                "holdfast: port %u on %s is not open to this user; choose one "
                "above 1023 with -p\n",
                port, host);
    else if (why == EADDRNOTAVAIL)
        fprintf(stderr,
                "holdfast: %s is no address of this machine; correct -b\n",
                host);
    else if (why == EMFILE || why == ENFILE)
        fprintf(stderr,
                "holdfast: cannot listen on %s port %u: %s; raise "
                "`ulimit -n`\n",
                host, port, strerror(why));
    else
        fprintf(stderr,
                "holdfast: cannot listen on %s port %u: %s; correct -b or -p\n",
                host, port, strerror(why));
}

/* Listens on every address that `host` stands for, on *port; if that is 0, on
 * any port, which *port then is.  0, an errno, or -1 when it was said. */
static int listener_host(struct listeners *to, const char *host, uint16_t *port)
{
    struct addrinfo hints, *all = NULL;
    char service[8];
    int why = 0, rc;

    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE;
    snprintf(service, sizeof service, "%u", *port);
    rc = getaddrinfo(host, service, &hints, &all);
    if (rc != 0) {
        fprintf(stderr,
                "holdfast: %s: %s; give an IPv4 or IPv6 address or a name\n",
                host, gai_strerror(rc));
        return -1;
    }
    for (struct addrinfo *ai = all; ai != NULL && why == 0; ai = ai->ai_next) {
        if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
            continue;
        why = listener_open(to, ai);
        if (why == 0 && *port == 0) {
            *port = address_port(&to->at[0].addr);
            if (ai->ai_next != NULL) { /* the others must share this port */
                freeaddrinfo(all);
                return listener_host(to, host, port);
            }
        }
    }
    freeaddrinfo(all);
    return why;
}

/* On 127.0.0.1 and ::1.  As above; *host is the one at fault. */
static int listener_loopback(struct listeners *to, uint16_t port,
                             const char **host)
{
    int why;

    *host = "127.0.0.1";
    why = listener_host(to, *host, &port);
    if (why == 0) {
        *host = "::1";
        why = listener_host(to, *host, &port);
        /* A machine without IPv6 is served over IPv4 alone. */
        if (why == EAFNOSUPPORT || why == EADDRNOTAVAIL)
            why = 0;
    }
    return why;
}

/* One attempt at all addresses.  0, an errno with *host the one at fault, or
 * -1 when it was said. */
static int listener_try(struct broker *b, uint16_t port, const char **host)
{
    int why = 0;

    if (b->set.address_count == 0)
        return listener_loopback(&b->mqtt, port, host);
    for (size_t i = 0; i < b->set.address_count && why == 0; i++) {
        *host = b->set.address[i];
        why = listener_host(&b->mqtt, *host, &port);
    }
    return why;
}

/* Whoever opens the broker to others has to know what that means. */
static void listener_warn(const struct listeners *all, const char *what)
{
    for (size_t i = 0; i < all->count; i++) {
        const struct listener *l = &all->at[i];
        char text[80];
        if (address_loopback(&l->addr))
            continue;
        address_print(&l->addr, text, sizeof text);
        fprintf(stderr,
                "holdfast: warning: %s is open to other machines, and anyone "
                "there may %s without a name\n",
                text, what);
        return;
    }
}

/* A broker that was killed a moment ago may still hold the port and the store:
 * the system takes a while to bury it.  1 = it is worth another attempt. */
static int start_again(const struct broker *b)
{
    if (clock_ms(CLOCK_MONOTONIC) - b->started >= START_WAIT)
        return 0;
    (void)poll(NULL, 0, START_STEP);
    return 1;
}

/* 0, or -1 when the reason was said. */
static int listener_open_all(struct broker *b)
{
    const char *host = "";
    int why;

    /* Where any port will do, another attempt also helps against a port that
     * is free on the first address and taken on the second. */
    do {
        listener_close_all(&b->mqtt);
        why = listener_try(b, b->set.port, &host);
    } while (why == EADDRINUSE && start_again(b));
    if (why > 0)
        listener_complain(host, b->set.port, why);
    else if (why == 0)
        listener_warn(&b->mqtt, "connect");
    return why == 0 ? 0 : -1;
}

/* The same for the status page: only one that was asked for must be had. */
static int status_open(struct broker *b)
{
    const char *host = b->set.status_host;
    uint16_t port;
    int why;

    if (b->set.status_off)
        return 0;
    do {
        listener_close_all(&b->status);
        port = b->set.status_port;
        why = *b->set.status_host == '\0'
                  ? listener_loopback(&b->status, port, &host)
                  : listener_host(&b->status, host, &port);
    } while (why == EADDRINUSE && start_again(b));
    if (why == 0)
        listener_warn(&b->status, "read the status page");
    else
        listener_close_all(&b->status);
    if (why > 0) {
        const char *so = b->set.status_named ? "there can be no status page"
                                             : "the status page is off";
        const char *because =
            why == EADDRINUSE ? "is taken by another program" : strerror(why);
        fprintf(stderr,
                "holdfast: %s: port %u on %s %s; choose another with -s\n", so,
                b->set.status_port, host, because);
    }
    return why == 0 || !b->set.status_named ? 0 : -1;
}

/* ============================ 5. Text ==================================== */
/*
 * The pieces that requests are made of: lines, tokens, percent-encoding.
 */

/* Takes a line off, without its end: CR LF, or LF alone (RFC 9112, 2.2).
 * 1 = *line, 0 = its end has not come. */
static int line_take(struct mqtt_bytes *rest, struct mqtt_bytes *line)
{
    const uint8_t *end = (const uint8_t *)memchr(rest->p, '\n', rest->n);

    if (end == NULL)
        return 0;
    line->p = rest->p;
    line->n = (size_t)(end - rest->p);
    rest->n -= line->n + 1;
    rest->p = end + 1;
    if (line->n > 0 && line->p[line->n - 1] == '\r')
        line->n--;
    return 1;
}

/* The request line: blank lines before it are skipped (RFC 9112, 2.2).
 * 1 = *line, 0 = its end has not come. */
static int line_first(struct mqtt_bytes *rest, struct mqtt_bytes *line)
{
    do
        if (!line_take(rest, line))
            return 0;
    while (line->n == 0);
    return 1;
}

/* 1 = the head is whole: there is a request line and a blank line after it. */
static int head_whole(const struct buf *head)
{
    struct mqtt_bytes rest = {head->p, head->n}, line;

    if (!line_first(&rest, &line))
        return 0;
    do
        if (!line_take(&rest, &line))
            return 0;
    while (line.n > 0);
    return 1;
}

static int bytes_equal(struct mqtt_bytes a, const char *text)
{
    return a.n == strlen(text) && memcmp(a.p, text, a.n) == 0;
}

static uint8_t byte_small(uint8_t byte)
{
    return byte >= 'A' && byte <= 'Z' ? byte | 32 : byte;
}

/* The same, but ASCII letters match in either case. */
static int bytes_like(struct mqtt_bytes a, const char *text)
{
    size_t i;

    for (i = 0; i < a.n && text[i] != '\0'; i++) {
        if (byte_small(a.p[i]) != byte_small((uint8_t)text[i]))
            return 0;
    }
    return i == a.n && text[i] == '\0';
}

/* Up to the first such byte, which is taken off too; all, if there is none. */
static struct mqtt_bytes bytes_until(struct mqtt_bytes *rest, char byte)
{
    struct mqtt_bytes found = *rest;
    const uint8_t *end =
        rest->n > 0 ? (const uint8_t *)memchr(rest->p, byte, rest->n) : NULL;

    if (end != NULL)
        found.n = (size_t)(end - rest->p);
    rest->p += found.n + (end != NULL);
    rest->n -= found.n + (end != NULL);
    return found;
}

static int byte_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

/* Is it one of these characters, or an ASCII letter or digit? */
static int byte_is(uint8_t byte, const char *others)
{
    if (byte_digit(byte) || ((byte | 32) >= 'a' && (byte | 32) <= 'z'))
        return 1;
    return byte != '\0' && strchr(others, byte) != NULL;
}

/* RFC 9110, 5.6.2: a method or a field name. */
static int token_valid(struct mqtt_bytes b)
{
    for (size_t i = 0; i < b.n; i++)
        if (!byte_is(b.p[i], "!#$%&'*+-.^_`|~"))
            return 0;
    return b.n > 0;
}

/* The value of a hexadecimal digit, or -1. */
static int hex_value(uint8_t byte)
{
    if (byte_digit(byte))
        return byte - '0';
    byte |= 32; /* small letters */
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* Is every byte visible ASCII, and every % followed by two digits? */
static int target_valid(struct mqtt_bytes t)
{
    for (size_t i = 0; i < t.n; i++) {
        if (t.p[i] <= ' ' || t.p[i] >= 127 || t.p[i] == '#')
            return 0;
        if (t.p[i] == '%' && (t.n - i < 3 || hex_value(t.p[i + 1]) < 0 ||
                              hex_value(t.p[i + 2]) < 0))
            return 0;
    }
    return 1;
}

/* The next byte of a valid target, decoded; it is taken off. */
static char target_byte(struct mqtt_bytes *rest)
{
    int byte = rest->p[0];
    size_t n = 1;

    if (byte == '%') {
        byte = hex_value(rest->p[1]) * 16 + hex_value(rest->p[2]);
        n = 3;
    }
    rest->p += n;
    rest->n -= n;
    return (char)byte;
}

/* ============================ 6. Requests ================================ */
/*
 * One HTTP request of a visitor of the status page, by RFC 9110 and 9112: the
 * head is collected until its blank line and then judged as a whole.  RFC 9112,
 * 3, wants room for a request line of 8000 bytes.
 */

/* A query parameter, decoded. */
struct field {
    const char *name;  /* NUL-ended; both point into the request's text */
    const char *value; /* NUL-ended, but may hold a NUL */
    size_t value_n;    /* bytes of value */
};

struct request {
    int head;                        /* HEAD: the answer has no body */
    const char *path;                /* raw; begins with '/'; in the head */
    size_t path_n;                   /* bytes of path, without the query */
    struct field fields[FIELDS_MAX]; /* the query's, in its order */
    size_t field_n;                  /* how many there are */
    struct mqtt_bytes host;          /* whom it is for, with the port if any */
    size_t hosts;                    /* Host header fields seen */
    const char *wrong;               /* after a refusal: why, a literal */
    char text[REQUEST_MAX + 1];      /* what the fields point into */
};

/* Its value says what is wrong with it. */
static int request_refuse(struct request *r, int status, const char *wrong)
{
    r->wrong = wrong;
    return status;
}

/* Decodes what a form sends (there, + is a space) to *to, with a NUL behind
 * it; returns where it went and leaves *to behind that. */
static const char *form_decode(struct mqtt_bytes raw, char **to, size_t *n)
{
    const char *start = *to;

    while (raw.n > 0) {
        int space = raw.p[0] == '+';
        char byte = target_byte(&raw);
        *(*to)++ = space ? ' ' : byte;
    }
    *n = (size_t)(*to - start);
    *(*to)++ = '\0';
    return start;
}

/* a=1&b=2.  The text has room: what stood between them makes room for the
 * NULs.  0, or a status. */
static int request_query(struct request *r, struct mqtt_bytes query)
{
    char *to = r->text;

    while (query.n > 0) {
        struct mqtt_bytes value = bytes_until(&query, '&');
        struct mqtt_bytes name = bytes_until(&value, '=');
        struct field *f = &r->fields[r->field_n];
        size_t ignored;
        if (r->field_n == FIELDS_MAX)
            return request_refuse(r, 400, "more than 8 query parameters");
        f->name = form_decode(name, &to, &ignored);
        f->value = to - 1; /* the name's NUL */
        f->value_n = 0;
        if (value.n > 0)
            f->value = form_decode(value, &to, &f->value_n);
        r->field_n++;
    }
    return 0;
}

/* origin-form, or absolute-form with its own authority (RFC 9112, 3.2).
 * 0, or a status. */
static int request_target(struct request *r, struct mqtt_bytes target)
{
    static const char scheme[] = "http://";
    struct mqtt_bytes start = {target.p, sizeof scheme - 1}, path;

    if (!target_valid(target))
        return request_refuse(r, 400,
                              "the request target holds a byte that must be "
                              "percent-encoded, or a % without two digits");
    if (target.n > start.n && bytes_like(start, scheme)) {
        target.p += start.n;
        target.n -= start.n;
        r->host.p = target.p;
        while (target.n > 0 && *target.p != '/' && *target.p != '?') {
            target.p++;
            target.n--;
        }
        r->host.n = (size_t)(target.p - r->host.p);
    } else if (target.n == 0 || target.p[0] != '/') {
        return request_refuse(r, 400, "what is asked for must begin with /");
    }
    path = bytes_until(&target, '?');
    r->path = path.n > 0 ? (const char *)path.p : "/";
    r->path_n = path.n > 0 ? path.n : 1;
    return request_query(r, target);
}

/* RFC 9112, 3.  *minor: of the version.  0, or a status. */
static int request_line(struct request *r, struct mqtt_bytes line, int *minor)
{
    struct mqtt_bytes rest = line;
    struct mqtt_bytes method = bytes_until(&rest, ' ');
    struct mqtt_bytes target = bytes_until(&rest, ' ');

    if (!token_valid(method) || target.n == 0 || rest.n != 8 ||
        memcmp(rest.p, "HTTP/", 5) != 0 || !byte_digit(rest.p[5]) ||
        rest.p[6] != '.' || !byte_digit(rest.p[7]))
        return request_refuse(r, 400,
                              "the first line is not `GET /path HTTP/1.1`");
    if (rest.p[5] != '1' || rest.p[7] > '1')
        return request_refuse(r, 505, "this is HTTP/1.1 and 1.0 only");
    *minor = rest.p[7] - '0';
    r->head = bytes_equal(method, "HEAD");
    if (!r->head && !bytes_equal(method, "GET"))
        return request_refuse(r, 405, "nothing can be changed; use GET");
    return request_target(r, target);
}

/* RFC 9112, 5: no blank before the colon, no folded lines, no controls.
 * 0, or a status. */
static int request_header(struct request *r, struct mqtt_bytes line)
{
    struct mqtt_bytes value = line;
    struct mqtt_bytes name = bytes_until(&value, ':');

    if (name.n == line.n || !token_valid(name))
        return request_refuse(r, 400,
                              "a header line is not `Name: value`; it may not "
                              "be folded nor have a blank before its colon");
    for (size_t i = 0; i < value.n; i++)
        if ((value.p[i] < ' ' && value.p[i] != '\t') || value.p[i] == 127)
            return request_refuse(r, 400,
                                  "a header value holds a control character");
    if (!bytes_like(name, "Host"))
        return 0;
    while (value.n > 0 && (value.p[0] == ' ' || value.p[0] == '\t')) {
        value.p++;
        value.n--;
    }
    while (value.n > 0 &&
           (value.p[value.n - 1] == ' ' || value.p[value.n - 1] == '\t'))
        value.n--;
    /* An authority in the target overrules it (RFC 9112, 3.2.2). */
    if (r->host.p == NULL)
        r->host = value;
    r->hosts++;
    return 0;
}

/* Its end is not there: there is no room for it, or no more will come. */
static int request_endless(struct request *r, size_t n, int status,
                           const char *wrong)
{
    if (n < REQUEST_MAX)
        return request_refuse(r, 400, "the request has no end");
    return request_refuse(r, status, wrong);
}

/* Judges the whole head, or as much as there will be of it.  0, or the status
 * to refuse it with.  What it finds lives as long as the head. */
static int request_parse(struct request *r, const struct buf *head)
{
    struct mqtt_bytes rest = {head->p, head->n}, line;
    int minor, status;

    memset(r, 0, sizeof *r);
    if (!line_first(&rest, &line))
        return request_endless(r, head->n, 414,
                               "the first line is too long; all of a request "
                               "may have 8192 bytes");
    status = request_line(r, line, &minor);
    while (status == 0) {
        if (!line_take(&rest, &line))
            return request_endless(r, head->n, 431,
                                   "the header is too long; all of a request "
                                   "may have 8192 bytes");
        if (line.n == 0)
            break;
        status = request_header(r, line);
    }
    if (status == 0 && (r->hosts > 1 || (r->hosts == 0 && minor == 1)))
        return request_refuse(r, 400, "there must be exactly one Host");
    return status;
}

/* host[:port] (RFC 9110, 7.2); an IPv6 address stands in brackets, which stay
 * on.  1 = *host, 0 = it is not of this form. */
static int host_split(struct mqtt_bytes all, struct mqtt_bytes *host)
{
    struct mqtt_bytes rest = all;

    if (all.n > 0 && all.p[0] == '[') {
        *host = bytes_until(&rest, ']');
        if (host->n == all.n)
            return 0;
        host->n++;
        if (rest.n > 0 && *rest.p != ':')
            return 0;
        (void)bytes_until(&rest, ':');
    } else {
        *host = bytes_until(&rest, ':');
        for (size_t i = 0; i < host->n; i++)
            if (!byte_is(host->p[i], "-._~!$&'()*+,;=%"))
                return 0;
    }
    for (; rest.n > 0; rest.p++, rest.n--)
        if (!byte_digit(*rest.p))
            return 0;
    return 1;
}

/* A page from elsewhere may have its own name lead to this machine, and would
 * then read the answers as its own.  The browser sends that name along: only
 * names that nobody else can own are ours, addresses for one. */
static int host_ours(const struct settings *set, struct mqtt_bytes host)
{
    char text[INET6_ADDRSTRLEN + 2]; /* with its brackets */
    uint8_t address[16];

    if (bytes_like(host, "localhost") ||
        (*set->status_host != '\0' && bytes_like(host, set->status_host)))
        return 1;
    if (host.n == 0 || host.n >= sizeof text)
        return 0;
    memcpy(text, host.p, host.n);
    text[host.n] = '\0';
    if (text[0] != '[')
        return inet_pton(AF_INET, text, address) == 1;
    text[host.n - 1] = '\0';
    return inet_pton(AF_INET6, text + 1, address) == 1;
}

/* 0, or the status to refuse it with. */
static int request_host(const struct settings *set, struct request *r)
{
    struct mqtt_bytes host;

    if (r->host.p == NULL) /* HTTP/1.0 */
        return 0;
    if (!host_split(r->host, &host))
        return request_refuse(r, 400, "Host is not `name:port`");
    if (!host_ours(set, host))
        return request_refuse(r, 421,
                              "this is not the host that was asked for; use "
                              "its address, or the name given with -s");
    return 0;
}

/* ============================ 7. Pages =================================== */

struct reply {
    int status;       /* 200 until somebody knows better */
    const char *type; /* Content-Type; a literal */
    struct buf body;  /* the visitor's, who frees it */
};

static const char type_text[] = "text/plain; charset=utf-8";

/* The whole answer in one line of plain words. */
static void reply_line(struct reply *reply, int status, const char *line)
{
    reply->status = status;
    reply->type = type_text;
    reply->body.n = 0;
    buf_text(&reply->body, line);
    buf_text(&reply->body, "\n");
}

static void page_overview(struct broker *b, const struct request *r,
                          struct reply *reply)
{
    (void)b;
    (void)r;
    buf_text(&reply->body, "page_overview\n");
}

static void page_session(struct broker *b, const struct request *r,
                         struct reply *reply)
{
    (void)b;
    (void)r;
    buf_text(&reply->body, "page_session\n");
}

static void page_retained(struct broker *b, const struct request *r,
                          struct reply *reply)
{
    (void)b;
    (void)r;
    buf_text(&reply->body, "page_retained\n");
}

static void page_clients(struct broker *b, const struct request *r,
                         struct reply *reply)
{
    (void)b;
    (void)r;
    buf_text(&reply->body, "page_clients\n");
}

static void page_client(struct broker *b, const struct request *r,
                        struct reply *reply)
{
    (void)b;
    (void)r;
    buf_text(&reply->body, "page_client\n");
}

static void style_css(struct broker *b, const struct request *r,
                      struct reply *reply)
{
    (void)b;
    (void)r;
    buf_text(&reply->body, "style_css\n");
}

static void refresh_js(struct broker *b, const struct request *r,
                       struct reply *reply)
{
    (void)b;
    (void)r;
    buf_text(&reply->body, "refresh_js\n");
}

/* ============================ 8. Machines ================================ */

static void api_overview(struct broker *b, const struct request *r,
                         struct reply *reply)
{
    (void)b;
    (void)r;
    buf_text(&reply->body, "api_overview\n");
}

static void api_sessions(struct broker *b, const struct request *r,
                         struct reply *reply)
{
    (void)b;
    (void)r;
    buf_text(&reply->body, "api_sessions\n");
}

static void api_session(struct broker *b, const struct request *r,
                        struct reply *reply)
{
    (void)b;
    (void)r;
    buf_text(&reply->body, "api_session\n");
}

/* Prometheus's text format 0.0.4: for each metric what it means, its type,
 * and its samples.  Nothing that clients choose becomes a label: there would
 * be no end of them. */
static void metric_begin(struct buf *out, const char *name, const char *type,
                         const char *help)
{
    char text[256];

    snprintf(text, sizeof text, "# HELP %s %s\n# TYPE %s %s\n", name, help,
             name, type);
    buf_text(out, text);
}

/* labels: as they are written, or "". */
static void metric_sample(struct buf *out, const char *name, const char *labels,
                          uint64_t value)
{
    char text[256];

    snprintf(text, sizeof text, "%s%s %" PRIu64 "\n", name, labels, value);
    buf_text(out, text);
}

/* The same in seconds. */
static void metric_seconds(struct buf *out, const char *name, uint64_t us)
{
    char text[128];

    snprintf(text, sizeof text, "%s %" PRIu64 ".%06" PRIu64 "\n", name,
             us / 1000000, us % 1000000);
    buf_text(out, text);
}

static void metric_gauge(struct buf *out, const char *name, const char *help,
                         uint64_t value)
{
    metric_begin(out, name, "gauge", help);
    metric_sample(out, name, "", value);
}

static void metric_counter(struct buf *out, const char *name, const char *help,
                           uint64_t value)
{
    metric_begin(out, name, "counter", help);
    metric_sample(out, name, "", value);
}

static void metric_histogram(struct buf *out, const char *name,
                             const char *help, const struct histogram *h)
{
    char series[96], label[48];
    uint64_t within = 0;

    metric_begin(out, name, "histogram", help);
    snprintf(series, sizeof series, "%s_bucket", name);
    for (size_t i = 0; i < HISTOGRAM_BOUNDS; i++) {
        unsigned us = histogram_bounds[i];
        within += h->bucket[i];
        snprintf(label, sizeof label, "{le=\"%u.%06u\"}", us / 1000000,
                 us % 1000000);
        metric_sample(out, series, label, within);
    }
    metric_sample(out, series, "{le=\"+Inf\"}", h->count);
    snprintf(series, sizeof series, "%s_sum", name);
    metric_seconds(out, series, h->sum_us);
    snprintf(series, sizeof series, "%s_count", name);
    metric_sample(out, series, "", h->count);
}

static void metrics_process(const struct broker *b, struct buf *out)
{
    char label[32];

    metric_begin(out, "holdfast_build_info", "gauge", "The program; always 1.");
    metric_sample(out, "holdfast_build_info",
                  "{version=\"" BROKER_VERSION "\"}", 1);
    metric_begin(out, "process_start_time_seconds", "gauge",
                 "When the process was started, in seconds since 1970.");
    metric_seconds(out, "process_start_time_seconds", b->born * 1000);
    metric_histogram(out, "holdfast_turn_duration_seconds",
                     "Turns of the loop, without the wait for events.",
                     &b->turn);
    metric_begin(out, "holdfast_turn_duration_max_seconds", "gauge",
                 "The longest turn since the start.");
    metric_seconds(out, "holdfast_turn_duration_max_seconds", b->turn.max_us);
    metric_begin(out, "holdfast_http_requests_total", "counter",
                 "Answers of the status page, by class of status.");
    for (unsigned i = 2; i < 6; i++) {
        snprintf(label, sizeof label, "{class=\"%uxx\"}", i);
        metric_sample(out, "holdfast_http_requests_total", label, b->http[i]);
    }
    metric_begin(out, "holdfast_lines_lost_total", "counter",
                 "Lines thrown away because nobody read them in time.");
    metric_sample(out, "holdfast_lines_lost_total", "{output=\"log\"}",
                  b->err.lost_ever);
    metric_sample(out, "holdfast_lines_lost_total", "{output=\"trace\"}",
                  b->out.lost_ever);
}

static void metrics_store(const struct broker *b, struct buf *out)
{
    struct store_figures f = store_figures(b->store);

    metric_gauge(out, "holdfast_store_live_bytes",
                 "Bytes of the ledger that still count.", f.live_bytes);
    metric_gauge(out, "holdfast_store_bytes",
                 "Bytes of all segments of the ledger.", f.total_bytes);
    metric_gauge(out, "holdfast_store_segments", "Segments of the ledger.",
                 f.segments);
    metric_counter(out, "holdfast_store_batches_total",
                   "Batches written since the ledger was begun.", f.batches);
    metric_counter(out, "holdfast_store_syncs_total", "Syncs since the start.",
                   f.syncs);
    metric_gauge(out, "holdfast_store_full",
                 "1 if the disk is full and publishing is refused.",
                 store_full(b->store) ? 1 : 0);
    metric_histogram(out, "holdfast_store_sync_duration_seconds",
                     "Commits that synced: write and sync.", &b->sync);
}

static void metrics_sessions(const struct broker *b, struct buf *out)
{
    const struct session_figures *f = session_figures(b->server);

    metric_gauge(out, "holdfast_connections", "Connections of MQTT now open.",
                 b->conn_count - b->visitors);
    metric_counter(out, "holdfast_connections_accepted_total",
                   "Connections of MQTT accepted.", f->links);
    metric_begin(out, "holdfast_sessions", "gauge", "Sessions.");
    metric_sample(out, "holdfast_sessions", "{state=\"online\"}", f->online);
    metric_sample(out, "holdfast_sessions", "{state=\"offline\"}",
                  f->sessions - f->online);
    metric_counter(out, "holdfast_sessions_expired_total",
                   "Sessions that expired.", f->expired);
    metric_gauge(out, "holdfast_subscriptions", "Subscriptions.",
                 f->subscriptions);
    metric_gauge(out, "holdfast_messages", "Messages held, each counted once.",
                 f->messages);
    metric_gauge(out, "holdfast_message_bytes",
                 "Bytes of their PUBLISH packets.", f->message_bytes);
    metric_gauge(out, "holdfast_deliveries",
                 "Deliveries queued or in flight, over all sessions.",
                 f->deliveries);
    metric_gauge(out, "holdfast_retained_messages", "Retained messages.",
                 f->retained);
}

/* By their enum session_drop. */
static const char *const drop_labels[DROP_KINDS] = {
    "{reason=\"expired\"}",       "{reason=\"too_large\"}",
    "{reason=\"queue_full\"}",    "{reason=\"disk_full\"}",
    "{reason=\"memory_full\"}",   "{reason=\"slow_reader\"}",
    "{reason=\"session_ended\"}",
};

/* What was not served. */
static void metrics_losses(const struct session_figures *f, struct buf *out)
{
    char label[96];

    metric_begin(out, "holdfast_dropped_total", "counter",
                 "Deliveries discarded, by reason.");
    for (size_t i = 0; i < DROP_KINDS; i++)
        metric_sample(out, "holdfast_dropped_total", drop_labels[i],
                      f->dropped_by[i]);
    metric_begin(out, "holdfast_refused_total", "counter",
                 "Negative Reason Codes sent, over all packets; only those "
                 "that were.");
    for (unsigned code = 0; code < 256; code++) {
        if (f->refused[code] == 0)
            continue;
        snprintf(label, sizeof label, "{code=\"0x%02X\",reason=\"%s\"}", code,
                 mqtt_reason_name(MQTT_DISCONNECT, (uint8_t)code));
        metric_sample(out, "holdfast_refused_total", label, f->refused[code]);
    }
}

/* One sample for each type of Control Packet. */
static void metric_packets(struct buf *out, const char *name, const char *help,
                           const uint64_t packets[16])
{
    char label[48];

    metric_begin(out, name, "counter", help);
    for (uint8_t type = 1; type < 16; type++) {
        snprintf(label, sizeof label, "{type=\"%s\"}", mqtt_type_name(type));
        metric_sample(out, name, label, packets[type]);
    }
}

static void metrics_traffic(const struct session_figures *f, struct buf *out)
{
    metric_packets(out, "holdfast_packets_received_total",
                   "MQTT Control Packets received.", f->received);
    metric_packets(out, "holdfast_packets_sent_total",
                   "MQTT Control Packets sent.", f->sent);
    metric_counter(out, "holdfast_network_received_bytes_total",
                   "Bytes received over MQTT's connections.",
                   f->bytes_received);
    metric_counter(out, "holdfast_network_sent_bytes_total",
                   "Bytes sent over MQTT's connections.", f->bytes_sent);
    metric_counter(out, "holdfast_payload_received_bytes_total",
                   "Bytes of payload in PUBLISH packets received.",
                   f->publish_bytes_received);
    metric_counter(out, "holdfast_payload_sent_bytes_total",
                   "Bytes of payload in PUBLISH packets sent.",
                   f->publish_bytes_sent);
}

static void metrics(struct broker *b, const struct request *r,
                    struct reply *reply)
{
    (void)r;
    reply->type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_process(b, &reply->body);
    metrics_sessions(b, &reply->body);
    metrics_traffic(session_figures(b->server), &reply->body);
    metrics_losses(session_figures(b->server), &reply->body);
    metrics_store(b, &reply->body);
}

static void healthz(struct broker *b, const struct request *r,
                    struct reply *reply)
{
    (void)r;
    if (store_full(b->store))
        reply_line(reply, 503, "the store refuses writes: its disk is full");
    else
        reply_line(reply, 200, "ok");
}

/* ============================ 9. Visitors ================================ */
/*
 * A visitor is a connection of the status page.  It has one request, whose
 * answer it gets whole, as the rest of a connection that is over:
 *
 *     OPEN ------------> SENDING ...  (as every connection)
 *        the request is whole, or refused; or its time is up
 *
 * Visitors look at what the turn has committed.  They have their own part of
 * the descriptors, and a few answers are made in one turn, so that however
 * many come, and whatever they send, MQTT's clients are served.
 */

struct route {
    const char *path; /* one that ends with / wants a last segment,
                         which may be empty */
    void (*answer)(struct broker *b, const struct request *r,
                   struct reply *reply);
};

static const struct route routes[] = {
    {"/", page_overview},
    {"/sessions/", page_session},
    {"/retained", page_retained},
    {"/clients", page_clients},
    {"/clients/", page_client},
    {"/style.css", style_css},
    {"/refresh.js", refresh_js},
    {"/api/overview", api_overview},
    {"/api/sessions", api_sessions},
    {"/api/sessions/", api_session},
    {"/metrics", metrics},
    {"/healthz", healthz},
};

static int route_matches(const struct route *route, const struct request *r)
{
    size_t n = strlen(route->path);

    if (r->path_n < n || memcmp(r->path, route->path, n) != 0)
        return 0;
    if (n == 1 || route->path[n - 1] != '/')
        return r->path_n == n;
    return memchr(r->path + n, '/', r->path_n - n) == NULL;
}

static void route_answer(struct broker *b, const struct request *r,
                         struct reply *reply)
{
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (route_matches(&routes[i], r)) {
            routes[i].answer(b, r, reply);
            return;
        }
    }
    reply_line(reply, 404, "there is no such page; begin at /");
}

/* RFC 9110, 15. */
static const char *status_phrase(int status)
{
    static const struct {
        int status;
        const char *phrase;
    } phrases[] = {
        {200, "OK"},
        {400, "Bad Request"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {414, "URI Too Long"},
        {421, "Misdirected Request"},
        {431, "Request Header Fields Too Large"}, /* RFC 6585, 5 */
        {503, "Service Unavailable"},
        {505, "HTTP Version Not Supported"},
    };

    for (size_t i = 0; i < sizeof phrases / sizeof *phrases; i++)
        if (phrases[i].status == status)
            return phrases[i].phrase;
    return "";
}

/* No page of ours needs anything from elsewhere, and nobody else's should
 * show one of ours. */
static const char reply_headers[] =
    "Connection: close\r\n"
    "Cache-Control: no-store\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "Content-Security-Policy: default-src 'none'; script-src 'self'; "
    "style-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'\r\n";

/* IMF-fixdate (RFC 9110, 5.6.7), by the wall clock. */
static void reply_date(uint64_t wall, struct buf *out)
{
    time_t seconds = (time_t)(wall / 1000);
    struct tm tm;
    char text[64];

    if (gmtime_r(&seconds, &tm) != NULL &&
        strftime(text, sizeof text, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n",
                 &tm) > 0)
        buf_text(out, text);
}

/* The answer, to be sent; frees the body.  The visitor is not heard again. */
static void visitor_send(struct broker *b, struct conn *c, int head,
                         struct reply *reply)
{
    char text[256];

    snprintf(text, sizeof text,
             "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s",
             reply->status, status_phrase(reply->status), reply->type,
             reply->body.n, reply->status == 405 ? "Allow: GET, HEAD\r\n" : "");
    buf_text(&c->rest, text);
    reply_date(b->time.wall, &c->rest);
    buf_text(&c->rest, reply_headers);
    buf_text(&c->rest, "\r\n");
    if (!head)
        buf_add(&c->rest, reply->body.p, reply->body.n);
    b->http[reply->status / 100]++;
    buf_free(&reply->body);
    buf_free(&c->request);
    c->state = CONN_SENDING;
    c->deadline = b->time.now + ANSWER_WAIT;
}

static void visitor_refuse(struct broker *b, struct conn *c, int status,
                           const char *why)
{
    struct reply reply = {0, NULL, {NULL, 0, 0, 0}};

    reply_line(&reply, status, why);
    visitor_send(b, c, 0, &reply);
}

static void visitor_answer(struct broker *b, struct conn *c)
{
    struct reply reply = {200, "text/html; charset=utf-8", {NULL, 0, 0, 0}};
    struct request r;
    int status = request_parse(&r, &c->request);

    if (status == 0)
        status = request_host(&b->set, &r);
    if (status == 0)
        route_answer(b, &r, &reply);
    else
        reply_line(&reply, status, r.wrong);
    visitor_send(b, c, r.head, &reply);
}

/* Visitors have a part of the descriptors that is nobody else's, and no more
 * than that. */
static void visitor_limit(struct broker *b)
{
    if (b->status.count == 0)
        return;
    b->visitor_max = b->conn_max / 4;
    if (b->visitor_max > VISITOR_MAX)
        b->visitor_max = VISITOR_MAX;
    b->conn_max -= b->visitor_max;
}

/* Bytes have come.  What goes beyond the request is not looked at. */
static void visitor_input(struct conn *c, const uint8_t *p, size_t n)
{
    size_t room = REQUEST_MAX - c->request.n;

    buf_add(&c->request, p, n < room ? n : room);
    c->asked = c->request.n == REQUEST_MAX || head_whole(&c->request);
}

/* Of the first n connections the visitor that has waited longest for the rest
 * of its own request; NULL: all have asked. */
static struct conn *visitor_oldest(struct broker *b, size_t n)
{
    struct conn *oldest = NULL;

    for (size_t i = 0; i < n; i++) {
        struct conn *c = &b->conns[i];
        if (c->visitor && c->state == CONN_OPEN && !c->asked &&
            (oldest == NULL || c->deadline < oldest->deadline))
            oldest = c;
    }
    return oldest;
}

/* One gives way to the next, who is let in by the next turn.  Not one that
 * came in this turn: it has not been read yet. */
static void visitor_evict(struct broker *b)
{
    struct conn *c = visitor_oldest(b, b->polled);

    if (c == NULL)
        return;
    visitor_refuse(b, c, 408, "others were waiting; send the request at once");
    c->broken = 1; /* nobody waits for it to close its half */
}

/* Moves a visitor that is OPEN along.  1 = it has cost an answer. */
static int visitor_advance(struct broker *b, struct conn *c)
{
    if (c->asked || (c->eof && c->request.n > 0)) {
        visitor_answer(b, c);
        return 1;
    }
    if (b->time.now >= c->deadline)
        visitor_refuse(b, c, 408, "the request took too long to come");
    else if (c->eof || c->broken)
        c->state = CONN_SENDING; /* there is nothing to be said */
    return 0;
}

static void visitor_advance_all(struct broker *b)
{
    int made = 0;

    for (size_t i = 0; i < b->conn_count && b->visitors > 0; i++) {
        struct conn *c = &b->conns[i];
        if (!c->visitor || c->state != CONN_OPEN)
            continue;
        if (made == ANSWERS_MAX)
            b->again = 1;
        else
            made += visitor_advance(b, c);
    }
}

/* ============================ 10. Connections ============================ */

static void conn_open(struct broker *b, int fd, const union address *peer,
                      int visitor)
{
    struct conn *c;
    char name[80];
    int on = 1;

    if (b->conn_count == b->conn_cap) {
        b->conn_cap = b->conn_cap * 2 + 64;
        b->conns =
            (struct conn *)mem_grow(b->conns, b->conn_cap * sizeof *b->conns);
    }
    c = &b->conns[b->conn_count++];
    memset(c, 0, sizeof *c);
    c->fd = fd;
    c->state = CONN_OPEN;
    c->visitor = visitor;
    c->deadline = visitor ? b->time.now + REQUEST_WAIT : UINT64_MAX;
    /* Replies leave in one write per turn, there is nothing to wait for.  If
     * it cannot be had, the connection is only slower. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (visitor) {
        b->visitors++;
        return;
    }
    address_print(peer, name, sizeof name);
    c->link = session_link_open(b->server, name, b->time.now);
}

static void conn_close(struct broker *b, size_t i)
{
    struct conn *c = &b->conns[i];

    assert(c->link == NULL);
    close(c->fd);
    buf_free(&c->request);
    buf_free(&c->rest);
    b->visitors -= c->visitor ? 1 : 0;
    *c = b->conns[--b->conn_count];
    b->accept_at = 0; /* there is a descriptor to be had again */
}

/* The bytes that this connection has to send. */
static const uint8_t *conn_output(const struct conn *c, size_t *n)
{
    if (c->link != NULL)
        return session_link_output(c->link, n);
    *n = c->rest.n;
    return c->rest.p;
}

/* The server lets go of the connection; what it said last still leaves. */
static void conn_release(struct broker *b, struct conn *c)
{
    size_t n;
    const uint8_t *p = conn_output(c, &n);

    buf_add(&c->rest, p, n);
    session_link_lost(c->link, b->time.now);
    c->link = NULL;
    c->state = CONN_SENDING;
    c->deadline = b->time.now + SEND_WAIT;
}

/* Reads once.  Bytes for a link that is done are thrown away: reading them
 * keeps the close from turning into a reset, which could destroy our last
 * packet before the peer has read it. */
static void conn_read(struct broker *b, struct conn *c)
{
    ssize_t n = recv(c->fd, b->input, sizeof b->input, 0);
    size_t unsent = 0;

    if (n > 0 && c->link != NULL && !session_link_done(c->link))
        session_link_input(c->link, b->input, (size_t)n, b->time.now);
    else if (n > 0 && c->visitor && c->state == CONN_OPEN)
        visitor_input(c, b->input, (size_t)n);
    else if (n == 0)
        c->eof = 1;
    else if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        c->broken = 1;
    if (c->link == NULL || (!c->eof && !c->broken))
        return;
    /* A peer that closed its half may still read the answers to what it sent
     * before; where there are none, the end belongs to this turn. */
    (void)conn_output(c, &unsent);
    if (c->broken || unsent == 0)
        conn_release(b, c);
}

/* The only writer to client sockets; called after the commit.  When sending
 * fails the peer reads no more, but what it sent before may still be in the
 * socket: the output is thrown away and the reading goes on to its end. */
static void conn_flush(struct conn *c)
{
    size_t n;

    for (;;) {
        const uint8_t *p = conn_output(c, &n);
        ssize_t sent;
        if (n == 0)
            return;
        sent = c->mute ? (ssize_t)n : send(c->fd, p, n, 0);
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (sent < 0 && errno != EINTR)
            c->mute = 1;
        if (sent > 0 && c->link != NULL)
            session_link_sent(c->link, (size_t)sent);
        else if (sent > 0)
            buf_take(&c->rest, (size_t)sent);
    }
}

/* Moves a connection along its life.  1 = it is over: close it. */
static int conn_advance(struct broker *b, struct conn *c)
{
    if (c->link != NULL && (session_link_done(c->link) || c->eof)) {
        conn_release(b, c);
        b->again = 1; /* what the server made of it must be committed */
    }
    switch (c->state) {
    case CONN_OPEN:
        return 0;
    case CONN_SENDING:
        if (c->rest.n > 0)
            return c->broken || c->mute || b->time.now >= c->deadline;
        if (c->broken || c->mute || c->eof)
            return 1;
        if (shutdown(c->fd, SHUT_WR) != 0)
            return 1;
        c->state = CONN_DRAINING;
        c->deadline = b->time.now + DRAIN_WAIT;
        return 0;
    case CONN_DRAINING:
    default:
        return c->eof || c->broken || b->time.now >= c->deadline;
    }
}

/* What poll() should wait for. */
static short conn_events(const struct conn *c)
{
    short events = 0;
    size_t n;

    if (!c->eof && (c->link == NULL || session_link_ready(c->link)))
        events |= POLLIN;
    (void)conn_output(c, &n);
    if (n > 0)
        events |= POLLOUT;
    return events;
}

static void conn_read_all(struct broker *b)
{
    const struct pollfd *polled =
        b->poll + PLACE_FIXED + b->mqtt.count + b->status.count;

    for (size_t i = 0; i < b->polled; i++) {
        struct conn *c = &b->conns[i];
        /* An error or a hangup is seen by reading, whatever was asked for. */
        if (polled[i].revents & (POLLIN | POLLERR | POLLHUP | POLLNVAL))
            conn_read(b, c);
    }
}

static void conn_flush_all(struct broker *b)
{
    for (size_t i = 0; i < b->conn_count; i++)
        conn_flush(&b->conns[i]);
}

static void conn_advance_all(struct broker *b)
{
    for (size_t i = 0; i < b->conn_count;) {
        if (conn_advance(b, &b->conns[i]))
            conn_close(b, i); /* the last one takes its place */
        else
            i++;
    }
}

/* Connections have to wait: there are no descriptors, or no memory in the
 * system.  The listeners are left alone until one is closed, or for a while:
 * to poll them would be to spin. */
static void accept_pause(struct broker *b, const char *why)
{
    char line[160];

    b->accept_at = b->time.now + ACCEPT_RETRY;
    if (b->time.now < b->full_at)
        return;
    b->full_at = b->time.now + FULL_EVERY;
    snprintf(line, sizeof line,
             "new connections wait: %zu are open and %s; raise `ulimit -n`",
             b->conn_count - b->visitors, why);
    broker_say(b, line);
}

/* Is there no room for one more?  Then it waits in the listener's queue. */
static int accept_full(struct broker *b, int visitor)
{
    if (visitor)
        return b->visitors >= b->visitor_max;
    if (b->conn_count - b->visitors < b->conn_max)
        return 0;
    accept_pause(b, "the store keeps the last descriptors");
    return 1;
}

static void accept_ready(struct broker *b, const struct listener *l,
                         int visitor)
{
    if (visitor && accept_full(b, 1))
        visitor_evict(b);
    while (!accept_full(b, visitor)) {
        union address peer;
        socklen_t len = sizeof peer;
        int fd = accept(l->fd, &peer.any, &len);
        if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0) {
            accept_pause(b, strerror(errno));
            return;
        }
        if (socket_unblock(fd) != 0)
            close(fd);
        else
            conn_open(b, fd, &peer, visitor);
    }
}

static void accept_all(struct broker *b)
{
    const struct pollfd *polled = b->poll + PLACE_FIXED;

    for (size_t i = 0; i < b->mqtt.count; i++)
        if (polled[i].revents != 0)
            accept_ready(b, &b->mqtt.at[i], 0);
    polled += b->mqtt.count;
    for (size_t i = 0; i < b->status.count; i++)
        if (polled[i].revents != 0)
            accept_ready(b, &b->status.at[i], 1);
}

/* ============================ 11. Signals ================================ */
/*
 * The handler counts and writes a byte into a pipe that poll() watches, so a
 * signal between the loop's check and its poll() is not overslept.
 */

static volatile sig_atomic_t signal_count; /* SIGTERM and SIGINT so far */
static volatile sig_atomic_t signal_tell;  /* SIGUSR1 came: tell how it is */
static volatile sig_atomic_t signal_pipe;  /* the end that is written to */

static void signal_note(int number)
{
    int kept = errno;
    ssize_t ignored;

    if (number == SIGUSR1)
        signal_tell = 1;
    else if (signal_count < 2)
        signal_count++;
    ignored = write(signal_pipe, "", 1);
    (void)ignored;
    errno = kept;
}

/* 0, or -1 and errno. */
static int signal_open(struct broker *b)
{
    struct sigaction action;
    int ends[2];

    if (pipe(ends) != 0 || socket_unblock(ends[0]) != 0 ||
        socket_unblock(ends[1]) != 0)
        return -1;
    b->signal_fd = ends[0];
    signal_pipe = ends[1];
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = signal_note;
    if (sigaction(SIGTERM, &action, NULL) != 0 ||
        sigaction(SIGINT, &action, NULL) != 0 ||
        sigaction(SIGUSR1, &action, NULL) != 0)
        return -1;
    /* A peer that is gone is an error of send(), not the end of us.  Nor is a
     * terminal that is gone: there is nothing to be opened anew. */
    action.sa_handler = SIG_IGN;
    if (sigaction(SIGHUP, &action, NULL) != 0)
        return -1;
    return sigaction(SIGPIPE, &action, NULL);
}

/* Lines of the overview for the log. */
static void tell_sessions(struct broker *b)
{
    const struct session_figures *f = session_figures(b->server);
    char line[256];

    snprintf(line, sizeof line,
             "overview: holdfast " BROKER_VERSION ", up %" PRIu64
             " s; %zu connections; %" PRIu64 " sessions, %" PRIu64
             " of them online; %" PRIu64 " subscriptions",
             clock_ms(CLOCK_MONOTONIC) / 1000 - b->started / 1000,
             b->conn_count - b->visitors, f->sessions, f->online,
             f->subscriptions);
    broker_say(b, line);
    snprintf(line, sizeof line,
             "overview: %" PRIu64 " messages of %" PRIu64
             " bytes held, %" PRIu64 " retained; %" PRIu64
             " deliveries wait; %" PRIu64 " dropped, %" PRIu64
             " sessions expired since the start",
             f->messages, f->message_bytes, f->retained, f->deliveries,
             f->dropped, f->expired);
    broker_say(b, line);
}

static void tell_store(struct broker *b)
{
    struct store_figures f = store_figures(b->store);
    uint64_t mean = b->sync.count > 0 ? b->sync.sum_us / b->sync.count : 0;
    char line[256];

    snprintf(line, sizeof line,
             "overview: store of %" PRIu64 " bytes, %" PRIu64
             " of them live, in %" PRIu64 " segments%s",
             f.total_bytes, f.live_bytes, f.segments,
             store_full(b->store) ? "; it refuses writes: its disk is full"
                                  : "");
    broker_say(b, line);
    snprintf(line, sizeof line,
             "overview: %" PRIu64 " syncs of %" PRIu64
             " us on average, the longest %" PRIu64 " us; longest turn %" PRIu64
             " us",
             f.syncs, mean, b->sync.max_us, b->turn.max_us);
    broker_say(b, line);
}

static void signal_drain(struct broker *b)
{
    char bytes[16];

    while (read(b->signal_fd, bytes, sizeof bytes) > 0)
        continue;
    if (signal_tell) {
        signal_tell = 0;
        tell_sessions(b);
        tell_store(b);
    }
}

/* ============================ 12. The loop =============================== */

/* When the next turn is due though nothing arrives. */
static uint64_t turn_due(const struct broker *b)
{
    uint64_t due = session_server_due(b->server);
    uint64_t other = store_due(b->store);

    due = other < due ? other : due;
    if (b->conn_count > 0 && b->alive_at < due)
        due = b->alive_at;
    if (b->accept_at > b->time.now && b->accept_at < due)
        due = b->accept_at;
    for (size_t i = 0; i < b->conn_count; i++)
        if (b->conns[i].deadline < due)
            due = b->conns[i].deadline;
    return due;
}

/* The same in ms from now, as poll() wants it. */
static int turn_wait(const struct broker *b)
{
    uint64_t due = turn_due(b);

    if (b->again || due <= b->time.now)
        return 0;
    due -= b->time.now;
    return due > 60000 ? 60000 : (int)due;
}

static void poll_put(struct pollfd *place, int fd, short events)
{
    place->fd = fd;
    place->events = events;
    place->revents = 0;
}

/* Fills the poll array; returns how many places are in use. */
static size_t poll_fill(struct broker *b)
{
    size_t n = PLACE_FIXED + b->mqtt.count + b->status.count + b->conn_count;
    int accepting = b->time.now >= b->accept_at;
    /* While all visitors' places are taken by those who get their answers,
     * to poll for more would be to spin. */
    int inviting = accepting && (b->visitors < b->visitor_max ||
                                 visitor_oldest(b, b->conn_count) != NULL);

    if (n > b->poll_cap) {
        b->poll_cap = n * 2;
        b->poll =
            (struct pollfd *)mem_grow(b->poll, b->poll_cap * sizeof *b->poll);
    }
    poll_put(&b->poll[PLACE_SIGNAL], b->signal_fd, POLLIN);
    poll_put(&b->poll[PLACE_OUT], b->out.pending.n > 0 ? b->out.fd : -1,
             POLLOUT);
    poll_put(&b->poll[PLACE_ERR], b->err.pending.n > 0 ? b->err.fd : -1,
             POLLOUT);
    n = PLACE_FIXED;
    for (size_t i = 0; i < b->mqtt.count; i++)
        poll_put(&b->poll[n++], accepting ? b->mqtt.at[i].fd : -1, POLLIN);
    for (size_t i = 0; i < b->status.count; i++)
        poll_put(&b->poll[n++], inviting ? b->status.at[i].fd : -1, POLLIN);
    for (size_t i = 0; i < b->conn_count; i++)
        poll_put(&b->poll[n++], b->conns[i].fd, conn_events(&b->conns[i]));
    b->polled = b->conn_count;
    return n;
}

static void broker_alive(struct broker *b)
{
    if (b->conn_count > 0 && b->time.now >= b->alive_at) {
        store_alive(b->store, b->time.now);
        b->alive_at = b->time.now + ALIVE_EVERY;
    }
}

/* 0, or -1: it failed. */
static int turn_commit(struct broker *b)
{
    uint64_t syncs = store_figures(b->store).syncs;
    uint64_t before = clock_us(CLOCK_MONOTONIC);
    int rc = store_commit(b->store, b->time.now);

    if (store_figures(b->store).syncs > syncs)
        histogram_add(&b->sync, clock_us(CLOCK_MONOTONIC) - before);
    return rc;
}

/* The second half of a turn, from decisions to bytes on the wire.  0, or -1:
 * the commit failed, and nothing of this turn has left or may leave. */
static int turn_finish(struct broker *b)
{
    session_server_settle(b->server, b->time.now);
    if (turn_commit(b) != 0)
        return -1;
    visitor_advance_all(b);
    if (store_error(b->store) != NULL) /* a page was to show what is rotten */
        return -1;
    conn_flush_all(b);
    conn_advance_all(b);
    broker_alive(b);
    broker_output(b);
    return 0;
}

/* One turn.  0, or -1 as above. */
static int turn_run(struct broker *b)
{
    size_t n = poll_fill(b);
    int rc = poll(b->poll, (nfds_t)n, turn_wait(b));
    uint64_t begin = clock_us(CLOCK_MONOTONIC);

    b->again = 0;
    timeline_read(&b->time);
    timeline_check(b);
    if (rc > 0) {
        if (b->poll[PLACE_SIGNAL].revents != 0)
            signal_drain(b);
        conn_read_all(b);
        accept_all(b);
    }
    rc = turn_finish(b);
    histogram_add(&b->turn, clock_us(CLOCK_MONOTONIC) - begin);
    return rc;
}

/* ============================ 13. Life =================================== */

/* Should 0, 1 or 2 be closed, the next file opened would become stdout, and
 * the log would be written into the ledger. */
static void stdio_fill(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

/* As many descriptors as the system grants; some stay the store's, for which
 * to find none would be the end. */
static size_t limit_raise(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 256 - FD_RESERVE;
    if (limit.rlim_cur != limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        (void)getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > INT_MAX)
        return INT_MAX;
    if (limit.rlim_cur < 2 * FD_RESERVE)
        return (size_t)limit.rlim_cur / 2;
    return (size_t)limit.rlim_cur - FD_RESERVE;
}

/* A value of the ready line: blanks, controls and % as %XX. */
static void ready_escape(const char *text, char *out, size_t cap)
{
    size_t n = 0;

    for (; *text != '\0' && n + 4 <= cap; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte <= ' ' || byte == '%' || byte == 127)
            n += (size_t)snprintf(out + n, cap - n, "%%%02X", byte);
        else
            out[n++] = (char)byte;
    }
    out[n] = '\0';
}

/* Where a browser finds the page. */
static void ready_status(const struct broker *b, char *out, size_t cap)
{
    char place[80];

    if (b->status.count == 0) {
        snprintf(out, cap, "off");
        return;
    }
    address_print(&b->status.at[0].addr, place, sizeof place);
    snprintf(out, cap, "http://%s/", place);
}

static void broker_ready(struct broker *b, uint64_t recovered_ms)
{
    struct session_figures figures = *session_figures(b->server);
    char store[1024], status[96], line[1408];
    int n;

    ready_escape(b->set.dir, store, sizeof store);
    ready_status(b, status, sizeof status);
    n = snprintf(line, sizeof line,
                 "holdfast ready port=%u store=%s sessions=%" PRIu64
                 " messages=%" PRIu64 " recovered_ms=%" PRIu64 " status=%s\n",
                 address_port(&b->mqtt.at[0].addr), store, figures.sessions,
                 figures.messages, recovered_ms, status);
    output_line(&b->out, "", (const uint8_t *)line, (size_t)n);
    output_flush(&b->out);
}

/* Says for how long nobody was here: expiries went on meanwhile, and if it
 * was the clock that jumped, the operator should know. */
static void broker_say_away(struct broker *b)
{
    uint64_t alive = store_last_alive(b->store);
    char line[128];

    if (alive == 0 || alive + AWAY_MIN > b->time.now)
        return;
    snprintf(line, sizeof line,
             "the store was last in use %" PRIu64 " s ago by the clock; "
             "expiries have gone on",
             (b->time.now - alive) / 1000);
    broker_say(b, line);
}

/* Opens the store and what it holds.  0, or -1 when the reason was said. */
static int broker_recover(struct broker *b)
{
    struct store_options options;
    char error[STORE_ERROR_MAX];

    memset(&options, 0, sizeof options);
    options.dir = b->set.dir;
    do
        b->store = store_open(&options, b->time.now, error);
    while (b->store == NULL && errno == EAGAIN && start_again(b));
    if (b->store == NULL) {
        fprintf(stderr, "holdfast: %s\n", error);
        return -1;
    }
    timeline_advance(&b->time, store_last_alive(b->store));
    broker_say_away(b);
    b->server = session_server_open(b->store, &b->set.session, b->time.now);
    if (b->server == NULL) {
        broker_output(b);
        fprintf(stderr, "holdfast: %s\n", store_error(b->store));
        return -1;
    }
    return 0;
}

/* Sockets first: a start that fails for want of a port leaves the store
 * untouched.  0, or -1 when the reason was said. */
static int broker_open(struct broker *b)
{
    uint64_t before;

    b->started = clock_ms(CLOCK_MONOTONIC);
    timeline_open(&b->time);
    b->born = b->time.wall;
    settings_seed(&b->set, b->time.now);
    output_open(&b->out, STDOUT_FILENO);
    output_open(&b->err, STDERR_FILENO);
    b->conn_max = limit_raise();
    if (signal_open(b) != 0) {
        fprintf(stderr, "holdfast: cannot catch signals: %s\n",
                strerror(errno));
        return -1;
    }
    if (listener_open_all(b) != 0 || status_open(b) != 0)
        return -1;
    visitor_limit(b);
    before = clock_ms(CLOCK_MONOTONIC);
    if (broker_recover(b) != 0)
        return -1;
    timeline_read(&b->time);
    if (turn_finish(b) != 0) {
        fprintf(stderr, "holdfast: %s\n", store_error(b->store));
        return -1;
    }
    broker_ready(b, clock_ms(CLOCK_MONOTONIC) - before);
    return 0;
}

/* Takes leave of the clients and of the store.  A second signal ends the
 * waiting: DISCONNECT is a courtesy, and so is the index.  Visitors are not
 * waited for.  0, or -1. */
static int broker_stop(struct broker *b)
{
    uint64_t deadline = b->time.now + STOP_WAIT;

    listener_close_all(&b->mqtt);
    listener_close_all(&b->status);
    session_server_stop(b->server, b->time.now);
    if (turn_finish(b) != 0)
        return -1;
    while ((b->again || b->conn_count > b->visitors) &&
           b->time.now < deadline && signal_count < 2)
        if (turn_run(b) != 0)
            return -1;
    if (signal_count < 2)
        (void)session_server_checkpoint(b->server);
    broker_output(b);
    return 0;
}

/* Gives everything back.  clean: the ledger is sealed. */
static void broker_close(struct broker *b, int clean)
{
    while (b->conn_count > 0) {
        struct conn *c = &b->conns[b->conn_count - 1];
        if (c->link != NULL)
            session_link_lost(c->link, b->time.now);
        c->link = NULL;
        conn_close(b, b->conn_count - 1);
    }
    listener_close_all(&b->mqtt);
    listener_close_all(&b->status);
    /* The store first: its list of what is alive runs through the server's
     * objects, and sealing the ledger still looks at it. */
    if (b->store != NULL)
        store_close(b->store, clean);
    if (b->server != NULL)
        session_server_close(b->server);
    buf_free(&b->out.pending);
    buf_free(&b->err.pending);
    free(b->conns);
    free(b->poll);
    free(b);
}

/* Runs until it is told to end or the store fails.  0, or -1. */
static int broker_run(struct broker *b)
{
    while (signal_count == 0)
        if (turn_run(b) != 0)
            return -1;
    return broker_stop(b);
}

/* ============================ 14. Audit ================================== */
/*
 * The ledger is read as a start would read it, but nothing is written to it,
 * and what would refuse a start is listed.  -a: what the ledger holds goes to
 * stdout, what is wrong with it to stderr.  -r: all of that to stdout.
 */

/* 0, or -1: stdout takes nothing any more. */
static int audit_print(struct buf *out)
{
    size_t n = out->n;
    size_t done = n > 0 ? fwrite(out->p, 1, n, stdout) : 0;

    out->n = 0;
    return done == n ? 0 : -1;
}

/* Each line of `from`, with a prefix, to stderr. */
static void audit_complain(const struct buf *from)
{
    size_t start = 0;

    for (size_t i = 0; i < from->n; i++) {
        if (from->p[i] != '\n')
            continue;
        fprintf(stderr, "holdfast: %.*s\n", (int)(i - start),
                (const char *)from->p + start);
        start = i + 1;
    }
}

/* Reads all of it, showing it if asked to.  0, or -1: it cannot be read to
 * its end, or not be shown. */
static int audit_read(struct store *st, struct session_audit *audit)
{
    int more = 1;

    while (more > 0) {
        more = session_audit_read(audit);
        if (audit_print(store_shown(st)) != 0)
            return -1;
    }
    return more;
}

/* What there is to say when all is read.  0, or -1: it cannot be shown. */
static int audit_report(struct store *st, struct session_audit *audit)
{
    struct buf out;
    int more = 1, bad = 0;

    memset(&out, 0, sizeof out);
    (void)store_faults(st);
    store_report(st, &out);
    while (more && bad == 0) {
        more = session_audit_report(audit, &out);
        bad = audit_print(&out);
    }
    buf_free(&out);
    return bad;
}

/* A store that is being looked at. */
struct view {
    struct store *store;
    struct session_audit *audit;
};

static void view_close(struct view *v)
{
    session_audit_close(v->audit);
    store_close(v->store, 0);
}

/* Opens the store in dir and reads all of it.  0, or -1 when the reason was
 * said. */
static int view_open(const struct settings *set, const char *dir,
                     struct view *v)
{
    struct store_options options;
    char error[STORE_ERROR_MAX];
    uint64_t now = clock_ms(CLOCK_REALTIME);

    memset(&options, 0, sizeof options);
    options.dir = dir;
    (void)limit_raise(); /* an audit holds all segments open */
    v->store = store_audit(&options, now, set->audit > 1, error);
    if (v->store == NULL) {
        fprintf(stderr, "holdfast: %s\n", error);
        return -1;
    }
    v->audit = session_audit_open(v->store, &set->session, now);
    if (audit_read(v->store, v->audit) == 0)
        return 0;
    if (store_error(v->store) != NULL)
        fprintf(stderr, "holdfast: %s\n", store_error(v->store));
    else
        fprintf(stderr, "holdfast: %s: the audit cannot be finished\n", dir);
    audit_complain(store_faults(v->store));
    view_close(v);
    return -1;
}

/* -a: the status to exit with. */
static int audit_run(const struct settings *set)
{
    struct view v;
    int status;

    if (view_open(set, set->operand[0], &v) != 0)
        return 1;
    status = audit_report(v.store, v.audit) != 0 ||
             store_faults(v.store)->n > 0;
    puts(status == 0 ? "sound: every byte of the log was read and verified"
                     : "NOT SOUND: stderr says where");
    if (fflush(stdout) != 0)
        status = 1;
    audit_complain(store_faults(v.store));
    view_close(&v);
    return status;
}

static const char salvage_meaning[] =
    "A line with `perhaps` is a record that can still be read in the damage;\n"
    "what else stood there is not known.  What was only there is gone: a\n"
    "message, a session, a subscription.  What was changed there is as it was\n"
    "before: a delivery whose end was noted there is made again.\n";

/* What the new store lacks. */
static void salvage_tell(const struct view *v)
{
    const struct buf *faults = store_faults(v->store);
    const struct buf *lost = session_audit_lost(v->audit);

    if (faults->n == 0) {
        puts("nothing is damaged, all was copied");
        return;
    }
    puts("lost:");
    (void)fwrite(faults->p, 1, faults->n, stdout);
    if (lost->n > 0)
        (void)fwrite(lost->p, 1, lost->n, stdout);
    fputs(salvage_meaning, stdout);
}

/* -r: the status to exit with.  What was written is audited before anybody is
 * told to rely on it. */
static int salvage_run(const struct settings *set)
{
    const char *dir = set->operand[1];
    struct view v;
    int status;

    if (view_open(set, set->operand[0], &v) != 0)
        return 1;
    status = store_salvage(v.store, dir) != 0;
    if (status == 0)
        salvage_tell(&v);
    else
        fprintf(stderr, "holdfast: %s\n", store_error(v.store));
    view_close(&v);
    if (status != 0 || view_open(set, dir, &v) != 0)
        return 1;
    puts("kept:");
    status = audit_report(v.store, v.audit) != 0 ||
             store_faults(v.store)->n > 0;
    audit_complain(store_faults(v.store));
    view_close(&v);
    return fflush(stdout) == 0 ? status : 1;
}

int main(int argc, char **argv)
{
    struct broker *b = (struct broker *)mem_new(sizeof *b);
    int status;

    stdio_fill();
    status = settings_parse(&b->set, argc, argv);
    if (status < 0 && b->set.audit > 0)
        status = audit_run(&b->set);
    if (status < 0 && b->set.salvage)
        status = salvage_run(&b->set);
    if (status >= 0) {
        free(b);
        return status;
    }
    if (broker_open(b) != 0) {
        broker_close(b, 0);
        return 1;
    }
    status = broker_run(b) == 0 ? 0 : 1;
    if (status != 0) {
        broker_output(b);
        fprintf(stderr, "holdfast: %s\n", store_error(b->store));
    }
    broker_close(b, status == 0);
    return status;
}
