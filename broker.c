/*
 * broker.c - the process around the server: sockets, time, signals, output.
 *
 *   1. Output       stdout and stderr, which may never hold up the loop
 *   2. Options      the command line
 *   3. Time         one timeline that never runs backwards
 *   4. Listeners    the sockets that accept
 *   5. Text         what requests of the status page are made of
 *   6. Requests     what its visitors ask for
 *   7. Escapes      names and payloads in HTML, links and JSON
 *   8. Parts        what all pages of the status page are made of
 *   9. Overview     the page /, with the table of sessions
 *  10. Sessions     a page for each: its messages and subscriptions
 *  11. Others       retained messages, the marks of clients
 *  12. Look         the pages' style and script
 *  13. Machines     the answers for programs: JSON, metrics
 *  14. Visitors     from a request to its answer
 *  15. Connections  the sockets that talk
 *  16. Signals      what the process is told to do
 *  17. The loop     one turn after the other
 *  18. Life         start, end
 *  19. Audit        the store looked at, or saved, without a broker; main
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
#define VISITOR_SENDS 65536        /* bytes that the system keeps for one */
#define REQUEST_MAX 8192           /* bytes of a request's head */
#define REQUEST_WAIT 5000          /* ms for a request to be whole */
#define ANSWER_WAIT 10000          /* ms for its answer to be read */
#define ANSWERS_MAX 1              /* answers made in one turn: clients are
                                      served between any two of them */
#define ANSWER_FULL 1048576        /* bytes of an answer that end its lists */
#define ANSWERS_HELD 16777216      /* bytes of answers that are not read yet:
                                      then no more are made */
#define NAME_SHOWN 256             /* bytes of a name that a page shows */
#define PLACE_MAX 2000             /* bytes of a name that say where a list
                                      goes on: three times as many, escaped,
                                      have room in a request */
#define FIELDS_MAX 8               /* query parameters of a request */
#define PACE_EVERY 30000           /* ms between two looks at the syncs */
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

/* How far the syncs had come at one moment. */
struct pace {
    uint64_t at;    /* ms since 1970 */
    uint64_t syncs; /* since the start */
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
    struct pace pace[2]; /* a while ago, and PACE_EVERY or more later */
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

/* Adds a line, newline included, behind its time, or counts it as lost; only
 * one that is indented has none, for it belongs to the line before it. */
static void output_line(struct output *o, const char *stamp,
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
                 stamp, o->lost);
        o->lost = 0;
        buf_text(&o->pending, said);
    }
    if (line[0] != ' ')
        buf_text(&o->pending, stamp);
    buf_add(&o->pending, line, n);
}

/* Moves all lines of `from` to the output. */
static void output_lines(struct output *o, const char *stamp, struct buf *from)
{
    while (from->n > 0) {
        const uint8_t *end = (const uint8_t *)memchr(from->p, '\n', from->n);
        size_t n = end == NULL ? from->n : (size_t)(end - from->p) + 1;
        output_line(o, stamp, from->p, n);
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
    "or the store is not sound, 2 = wrong options, 71 = out of memory.\n";

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

static int settings_trace(struct settings *set, const char *text)
{
    /* 3.1.3.1: a client may send none, but is then given one. */
    if (*text == '\0') {
        fprintf(stderr, "holdfast: -t needs a Client Identifier of at least "
                        "one character\n");
        return -1;
    }
    set->session.trace_client = text;
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

/* One option, found in this word of the command line.  -1 = go on, else the
 * status to exit with. */
static int settings_option(struct settings *set, int option, const char *word)
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
        return settings_trace(set, optarg) == 0 ? -1 : 2;
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
        if (strncmp(word, "--", 2) == 0)
            fprintf(stderr, "holdfast: %s is no option; see holdfast -h\n",
                    word);
        else
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
    fprintf(stderr,
            "holdfast: %s: holdfast takes no operands; see holdfast -h\n",
            set->operand[0]);
    return 2;
}

/* -1 = run with these settings, else the status to exit with. */
static int settings_parse(struct settings *set, int argc, char **argv)
{
    static const char letters[] = ":p:b:d:s:x:t:arvhV";
    const char *word = argv[optind];
    int option, status = -1;

    settings_default(set);
    opterr = 0;
    while (status < 0 && (option = getopt(argc, argv, letters)) != -1) {
        status = settings_option(set, option, word);
        word = argv[optind];
    }
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

/* The very moment, which within a turn only patience goes by. */
static uint64_t timeline_moment(const struct timeline *t)
{
    return t->base + (clock_ms(CLOCK_MONOTONIC) - t->mono_base);
}

static void timeline_read(struct timeline *t)
{
    t->now = timeline_moment(t);
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

/* Notes how far the syncs are, so that pace_rate() can speak of the last
 * minute.  Where there was no turn for longer, there was no sync either. */
static void pace_note(struct broker *b)
{
    struct pace now = {b->time.now, store_figures(b->store).syncs};

    if (b->pace[1].at == 0)
        b->pace[0] = b->pace[1] = now;
    if (now.at - b->pace[1].at < PACE_EVERY)
        return;
    b->pace[0] = b->pace[1];
    b->pace[1] = now;
}

/* Syncs per second since b->pace[0]. */
static double pace_rate(const struct broker *b)
{
    uint64_t ms = b->time.now - b->pace[0].at;
    uint64_t syncs = store_figures(b->store).syncs - b->pace[0].syncs;

    return ms == 0 ? 0 : (double)syncs * 1000 / (double)ms;
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

/* What listeners are opened for, in a line about one that cannot be. */
struct purpose {
    const char *so;      /* what the line begins with, after our name */
    const char *port;    /* the option that changes the port */
    const char *address; /* the one that changes the address */
    const char *both;    /* the two of them */
};

static void listener_complain(const struct purpose *use, const char *host,
                              uint16_t port, int why)
{
    fprintf(stderr, "holdfast: %s", use->so);
    if (why == EADDRINUSE)
        fprintf(stderr,
                "port %u on %s is taken by another program; stop it, or "
                "choose another port with %s\n",
                port, host, use->port);
    else if (why == EACCES)
        fprintf(stderr,
                "port %u on %s is not open to this user; choose one above "
                "1023 with %s\n",
                port, host, use->port);
    else if (why == EADDRNOTAVAIL)
        fprintf(stderr, "%s is no address of this machine; correct %s\n",
                host, use->address);
    else if (why == EMFILE || why == ENFILE)
        fprintf(stderr, "cannot listen on %s port %u: %s; raise `ulimit -n`\n",
                host, port, strerror(why));
    else
        fprintf(stderr, "cannot listen on %s port %u: %s; correct %s\n", host,
                port, strerror(why), use->both);
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
    static const struct purpose use = {"", "-p", "-b", "-b or -p"};
    const char *host = "";
    int why;

    /* Where any port will do, another attempt also helps against a port that
     * is free on the first address and taken on the second. */
    do {
        listener_close_all(&b->mqtt);
        why = listener_try(b, b->set.port, &host);
    } while (why == EADDRINUSE && start_again(b));
    if (why > 0)
        listener_complain(&use, host, b->set.port, why);
    else if (why == 0)
        listener_warn(&b->mqtt, "connect");
    return why == 0 ? 0 : -1;
}

/* The same for the status page: only one that was asked for must be had. */
static int status_open(struct broker *b)
{
    static const struct purpose uses[] = {
        {"the status page is off: ", "-s", "-s", "-s"},
        {"there can be no status page: ", "-s", "-s", "-s"}};
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
    if (why > 0)
        listener_complain(&uses[b->set.status_named], host, b->set.status_port,
                          why);
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

    r->head = bytes_equal(method, "HEAD");
    if (!token_valid(method) || target.n == 0 || rest.n != 8 ||
        memcmp(rest.p, "HTTP/", 5) != 0 || !byte_digit(rest.p[5]) ||
        rest.p[6] != '.' || !byte_digit(rest.p[7]))
        return request_refuse(r, 400,
                              "the first line is not `GET /path HTTP/1.1`");
    /* A higher minor version is this one with additions (RFC 9110, 2.5). */
    if (rest.p[5] != '1')
        return request_refuse(r, 505, "this is HTTP/1.1 only");
    *minor = rest.p[7] - '0';
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
    if (status == 0 && (r->hosts > 1 || (r->hosts == 0 && minor > 0)))
        return request_refuse(r, 400, "there must be exactly one Host");
    return status;
}

/* The value of the first query parameter of this name: 1, or 0. */
static int request_field(const struct request *r, const char *name,
                         struct mqtt_bytes *value)
{
    for (size_t i = 0; i < r->field_n; i++) {
        if (strcmp(r->fields[i].name, name) == 0) {
            value->p = (const uint8_t *)r->fields[i].value;
            value->n = r->fields[i].value_n;
            return 1;
        }
    }
    return 0;
}

/* Adds the i-th segment of the path, decoded, to `out`; /a/b has two, / has
 * one that is empty.  1, or 0: there are not so many. */
static int path_segment(const struct request *r, size_t i, struct buf *out)
{
    struct mqtt_bytes rest, segment;

    rest.p = (const uint8_t *)r->path + 1;
    rest.n = r->path_n - 1;
    for (; i > 0; i--) {
        const uint8_t *slash = (const uint8_t *)memchr(rest.p, '/', rest.n);
        if (slash == NULL)
            return 0;
        rest.n -= (size_t)(slash + 1 - rest.p);
        rest.p = slash + 1;
    }
    segment = bytes_until(&rest, '/');
    while (segment.n > 0) {
        char byte = target_byte(&segment);
        buf_add(out, &byte, 1);
    }
    return 1;
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

/* ============================ 7. Escapes ================================= */
/*
 * Client identifiers, filters and topics come from clients, payloads from
 * anywhere, and queries from visitors.  What of them goes into a page, a link
 * or a JSON text passes through html_text(), html_title(), html_value(),
 * url_text() or json_text(), and through nothing else.
 */

static struct mqtt_bytes bytes_of(const char *text)
{
    struct mqtt_bytes bytes = {(const uint8_t *)text, strlen(text)};

    return bytes;
}

/* The code point at p and how many bytes it takes; 0: those at p are not
 * UTF-8 (1.5.4), which a payload need not be. */
static size_t utf8_next(const uint8_t *p, size_t n, uint32_t *point)
{
    static const uint8_t mask[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    size_t len = p[0] < 0x80 ? 1 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;

    if (len > n || mqtt_utf8_check(p, len) != len)
        return 0;
    *point = p[0] & mask[len];
    for (size_t i = 1; i < len; i++)
        *point = *point << 6 | (p[i] & 0x3Fu);
    return len;
}

/* The first bytes of a text, no character cut in two. */
static struct mqtt_bytes bytes_head(struct mqtt_bytes text, size_t max)
{
    struct mqtt_bytes head = text;
    uint32_t point;

    if (text.n <= max)
        return head;
    head.n = max;
    for (size_t k = 1; k < 4; k++)
        if (utf8_next(text.p + max - k, text.n - max + k, &point) > k)
            head.n = max - k;
    return head;
}

/* Code points that do not show, look like a blank, or turn the direction of
 * what follows: two names that differ must look different. */
static int point_hidden(uint32_t point)
{
    static const uint32_t ranges[][2] = {
        {0x00, 0x1F},     {0x7F, 0xA0},      {0xAD, 0xAD},
        {0x034F, 0x034F}, {0x061C, 0x061C},  {0x115F, 0x1160},
        {0x1680, 0x1680}, {0x17B4, 0x17B5},  {0x180B, 0x180F},
        {0x2000, 0x200F}, {0x2028, 0x202F},  {0x205F, 0x206F},
        {0x2800, 0x2800}, {0x3000, 0x3000},  {0x3164, 0x3164},
        {0xFE00, 0xFE0F}, {0xFEFF, 0xFEFF},  {0xFFA0, 0xFFA0},
        {0xFFF0, 0xFFFB}, {0xE0000, 0xE0FFF}};

    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (point >= ranges[i][0] && point <= ranges[i][1])
            return 1;
    return (point & 0xFFFE) == 0xFFFE;
}

/* A byte in hexadecimal. */
static void hex_text(struct buf *out, const char *front, uint8_t byte)
{
    static const char digits[] = "0123456789ABCDEF";

    buf_text(out, front);
    buf_add(out, &digits[byte >> 4], 1);
    buf_add(out, &digits[byte & 15], 1);
}

/* What stands for bytes that cannot be shown: "\x0A" or "U+202E". */
static void html_hidden(struct buf *out, const uint8_t *p, size_t len,
                        uint32_t point)
{
    if (len < 2)
        hex_text(out, "\\x", p[0]);
    else
        buf_print(out, "U+%04" PRIX32, point);
}

static void html_byte(struct buf *out, uint8_t byte)
{
    switch (byte) {
    case '&':
        buf_text(out, "&amp;");
        break;
    case '<':
        buf_text(out, "&lt;");
        break;
    case '>':
        buf_text(out, "&gt;");
        break;
    case '"':
        buf_text(out, "&quot;");
        break;
    case '\'':
        buf_text(out, "&#39;");
        break;
    default:
        buf_add(out, &byte, 1);
    }
}

/* "", or what makes a word stand for more than one. */
static const char *plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

/* Bytes for HTML, but not more than anybody reads: a name may have 64 KiB.
 * What stands for hidden ones is put between open and close.  A blank at
 * either end is as good as hidden. */
static void html_put(struct buf *out, struct mqtt_bytes all, const char *open,
                     const char *close)
{
    struct mqtt_bytes text = bytes_head(all, NAME_SHOWN);
    size_t len, more = all.n - text.n;

    for (size_t i = 0; i < text.n; i += len == 0 ? 1 : len) {
        uint32_t point = 0;
        int edge = i == 0 || i + 1 == text.n;
        len = utf8_next(text.p + i, text.n - i, &point);
        if (len == 0 || point_hidden(point) || (edge && point == ' ')) {
            buf_text(out, open);
            html_hidden(out, text.p + i, len, point);
            buf_text(out, close);
        } else if (len == 1) {
            html_byte(out, text.p[i]);
        } else {
            buf_add(out, text.p + i, len);
        }
    }
    if (more > 0)
        buf_print(out, "%s... and %zu more byte%s%s", open, more, plural(more),
                  close);
}

/* Between tags. */
static void html_text(struct buf *out, struct mqtt_bytes text)
{
    html_put(out, text, "<span class=\"odd\">", "</span>");
}

/* For the title, where no tag may stand. */
static void html_title(struct buf *out, struct mqtt_bytes text)
{
    html_put(out, text, "{", "}");
}

/* The value of an input, which is sent back: the text itself.  What no
 * Client Identifier and no filter can hold is U+FFFD. */
static void html_value(struct buf *out, struct mqtt_bytes text)
{
    size_t len;

    for (size_t i = 0; i < text.n; i += len == 0 ? 1 : len) {
        uint32_t point;
        len = utf8_next(text.p + i, text.n - i, &point);
        if (len == 0)
            buf_text(out, "\xEF\xBF\xBD");
        else if (len == 1)
            html_byte(out, text.p[i]);
        else
            buf_add(out, text.p + i, len);
    }
}

/* A segment of a path, or a value of a query (RFC 3986, 2.3). */
static void url_text(struct buf *out, struct mqtt_bytes text)
{
    for (size_t i = 0; i < text.n; i++)
        if (byte_is(text.p[i], "-._~"))
            buf_add(out, text.p + i, 1);
        else
            hex_text(out, "%", text.p[i]);
}

/* UTF-8 as a JSON string (RFC 8259, 7), quotes included. */
static void json_text(struct buf *out, struct mqtt_bytes text)
{
    buf_text(out, "\"");
    for (size_t i = 0; i < text.n; i++) {
        uint8_t byte = text.p[i];
        if (byte < 0x20 || byte == 0x7F)
            hex_text(out, "\\u00", byte);
        else {
            if (byte == '"' || byte == '\\')
                buf_text(out, "\\");
            buf_add(out, &byte, 1);
        }
    }
    buf_text(out, "\"");
}

/* "1,234,567" */
static void number_text(struct buf *out, uint64_t number)
{
    char digits[24];
    size_t n = (size_t)snprintf(digits, sizeof digits, "%" PRIu64, number);

    for (size_t i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            buf_text(out, ",");
        buf_add(out, digits + i, 1);
    }
}

/* "1 byte", "9,999 bytes", "12.3 MiB" */
static void size_text(struct buf *out, uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    double size = (double)bytes / 1024;
    size_t i = 0;

    if (bytes < 10000) {
        number_text(out, bytes);
        buf_text(out, bytes == 1 ? " byte" : " bytes");
        return;
    }
    for (; size >= 1024 && i < 3; i++)
        size /= 1024;
    buf_print(out, "%.1f %s", size, units[i]);
}

/* "340 us", "1.2 ms", "2.05 s" */
static void micros_text(struct buf *out, uint64_t us)
{
    if (us < 1000)
        buf_print(out, "%" PRIu64 " &micro;s", us);
    else if (us < 1000000)
        buf_print(out, "%.1f ms", (double)us / 1e3);
    else
        buf_print(out, "%.2f s", (double)us / 1e6);
}

/* The two greatest units: "3 d 4 h", "12 s". */
static void span_text(struct buf *out, uint64_t ms)
{
    static const struct {
        uint64_t seconds; /* in one of it */
        const char *name;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    uint64_t rest = ms / 1000;
    size_t i = 0;

    while (i < 3 && rest < units[i].seconds)
        i++;
    number_text(out, rest / units[i].seconds);
    buf_print(out, " %s", units[i].name);
    rest %= units[i].seconds;
    if (i < 3 && rest >= units[i + 1].seconds)
        buf_print(out, " %" PRIu64 " %s", rest / units[i + 1].seconds,
                  units[i + 1].name);
}

/* "2026-03-01 12:00:00 UTC" */
static void stamp_text(struct buf *out, uint64_t at)
{
    time_t seconds = (time_t)(at / 1000);
    char text[40] = "";
    struct tm tm;

    if (gmtime_r(&seconds, &tm) != NULL)
        strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &tm);
    buf_text(out, text);
}

/* How long ago, or how long from now, with the time itself in a tooltip. */
static void time_text(struct buf *out, uint64_t now, uint64_t at)
{
    buf_text(out, "<span class=\"keep\" title=\"");
    stamp_text(out, at);
    buf_text(out, "\">");
    span_text(out, at < now ? now - at : at - now);
    buf_text(out, "</span>");
}

static void ago_text(struct buf *out, uint64_t now, uint64_t at)
{
    time_text(out, now, at);
    buf_text(out, " ago");
}

/* ============================ 8. Parts =================================== */
/*
 * One function per page asks inspect.h and writes HTML; here is what they
 * share: the query, the frame, links, facts, tables.  No page needs a script:
 * one that finds it (/refresh.js) changes what has changed in place, others
 * are loaded again by their browser.
 */

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

static void reply_none(struct reply *reply)
{
    reply_line(reply, 404, "there is no such page; begin at /");
}

/* The query's field of this name; no bytes: there is none. */
static struct mqtt_bytes query_value(const struct request *r, const char *name)
{
    struct mqtt_bytes value = {NULL, 0};

    (void)request_field(r, name, &value);
    return value;
}

/* A number in the query, up to max; absent or no number: other. */
static uint64_t query_number(const struct request *r, const char *name,
                             uint64_t max, uint64_t other)
{
    struct mqtt_bytes value = query_value(r, name);
    uint64_t number = 0;

    if (value.n == 0)
        return other;
    for (size_t i = 0; i < value.n; i++) {
        if (value.p[i] < '0' || value.p[i] > '9')
            return other;
        number = number * 10 + (uint64_t)(value.p[i] - '0');
        if (number > max)
            return max;
    }
    return number;
}

/* 1 = a field that says where in a list the page begins. */
static int query_position(const char *name)
{
    static const char *const names[] = {"after", "before", "skip", "subs"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return 0;
}

/* The same page with one field of its query changed: ` href="?..."`.  A
 * value of no bytes drops it.  Positions in a list are dropped, too, unless
 * it is only the refreshing that changes.  On the overview it leads to the
 * sessions: nobody wants to pass the figures again. */
static void query_link(struct buf *out, const struct request *r,
                       const char *name, struct mqtt_bytes value)
{
    int moves = strcmp(name, "refresh") != 0;
    const char *join = "?";

    buf_text(out, " href=\"");
    for (size_t i = 0; i < r->field_n; i++) {
        const struct field *f = &r->fields[i];
        if (strcmp(f->name, name) == 0 || (moves && query_position(f->name)))
            continue;
        buf_text(out, join);
        join = "&amp;";
        url_text(out, bytes_of(f->name));
        buf_text(out, "=");
        url_text(out,
                 (struct mqtt_bytes){(const uint8_t *)f->value, f->value_n});
    }
    if (value.n > 0) {
        buf_print(out, "%s%s=", join, name);
        url_text(out, value);
    } else if (strcmp(join, "?") == 0) {
        buf_text(out, join);
    }
    buf_text(out, moves && r->path_n == 1 ? "#sessions\"" : "\"");
}

/* ---- the frame ---------------------------------------------------------- */

static void nav_link(struct buf *out, const struct request *r, const char *path,
                     const char *label)
{
    int here =
        strlen(path) == r->path_n && memcmp(path, r->path, r->path_n) == 0;

    buf_print(out, "<li><a href=\"%s\"%s>%s</a></li>\n", path,
              here ? " aria-current=\"page\"" : "", label);
}

/* Whether the page refreshes itself, and the way to change that. */
static void refresh_control(struct buf *out, const struct request *r, int off)
{
    buf_text(out, "<p class=\"refresh\"><span id=\"state\" role=\"status\">");
    buf_text(out, off ? "Not refreshed." : "Refreshed every few seconds.");
    buf_text(out, "</span> <a id=\"pause\"");
    query_link(out, r, "refresh", bytes_of(off ? "" : "off"));
    buf_text(out, off ? ">Resume</a></p>\n" : ">Pause</a></p>\n");
}

/* Begins a page of this kind about this name (n = 0: none), up to its heading
 * h1; returns where the rest goes. */
static struct buf *page_open(const struct request *r, struct reply *reply,
                             const char *kind, struct mqtt_bytes name)
{
    struct buf *out = &reply->body;
    int off = bytes_equal(query_value(r, "refresh"), "off");

    buf_text(out,
             "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n"
             "<meta charset=\"utf-8\">\n"
             "<meta name=\"viewport\" "
             "content=\"width=device-width, initial-scale=1\">\n"
             "<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    buf_text(out, kind);
    html_title(out, name);
    buf_text(out, " - Holdfast</title>\n"
                  "<link rel=\"stylesheet\" href=\"/style.css\">\n"
                  "<script src=\"/refresh.js\" defer></script>\n");
    if (!off)
        buf_text(out, "<noscript><meta http-equiv=\"refresh\" content=\"5\">"
                      "</noscript>\n");
    buf_text(out, "</head>\n<body>\n"
                  "<a class=\"skip\" href=\"#main\">Skip to the content</a>\n"
                  "<header>\n<p class=\"brand\">Holdfast</p>\n"
                  "<nav aria-label=\"Pages\">\n<ul>\n");
    nav_link(out, r, "/", "Overview");
    nav_link(out, r, "/retained", "Retained");
    nav_link(out, r, "/clients", "Marks");
    buf_text(out, "</ul>\n</nav>\n");
    refresh_control(out, r, off);
    buf_print(out, "</header>\n<main id=\"main\" tabindex=\"-1\">\n<h1>%s",
              kind);
    buf_text(out, "<span class=\"name\">");
    html_text(out, name);
    buf_text(out, "</span></h1>\n");
    return out;
}

static void page_close(const struct broker *b, struct buf *out)
{
    buf_text(out, "<p class=\"as-of\">As of <span id=\"as-of\">");
    stamp_text(out, b->time.now);
    buf_text(out, "</span>, by Holdfast " BROKER_VERSION ".</p>\n"
                  "</main>\n</body>\n</html>\n");
}

/* What was asked for is not there (any more); why: HTML. */
static void page_missing(const struct broker *b, const struct request *r,
                         struct reply *reply, const char *kind,
                         struct mqtt_bytes name, const char *why)
{
    struct buf *out = page_open(r, reply, kind, name);

    reply->status = 404;
    buf_print(out, "<p>%s</p>\n", why);
    page_close(b, out);
}

/* ---- links, facts, tables ----------------------------------------------- */

/* href to the page of one client: ` href="/sessions/a%2Fb"`.  Browsers take
 * "." and ".." as steps even where they are escaped: those two stand in the
 * query. */
static void client_link(struct buf *out, const char *path,
                        struct mqtt_bytes client)
{
    int dots = bytes_equal(client, ".") || bytes_equal(client, "..");

    buf_print(out, " href=\"%s%s", path, dots ? "?id=" : "");
    url_text(out, client);
    buf_text(out, "\"");
}

/* Such a link by itself. */
static void page_link(struct buf *out, const char *path,
                      struct mqtt_bytes client, const char *label)
{
    buf_text(out, "<p><a");
    client_link(out, path, client);
    buf_print(out, ">%s</a></p>\n", label);
}

/* The client that such a link, its query aside, leads to; `out` holds it. */
static struct mqtt_bytes client_linked(const struct request *r, size_t segment,
                                       struct buf *out)
{
    struct mqtt_bytes client = {NULL, 0};

    (void)path_segment(r, segment, out);
    if (out->n == 0)
        return query_value(r, "id");
    client.p = out->p;
    client.n = out->n;
    return client;
}

/* One row of a list of facts: its name, then what the caller adds. */
static void fact_open(struct buf *out, const char *name)
{
    buf_print(out, "<div><dt>%s</dt><dd>", name);
}

static void fact_close(struct buf *out)
{
    buf_text(out, "</dd></div>\n");
}

static void fact_number(struct buf *out, const char *name, uint64_t number)
{
    fact_open(out, name);
    number_text(out, number);
    fact_close(out);
}

/* The number of the sessions, or of what waits for them, that the filter
 * `show` leads to; the fact stays open. */
static void fact_sessions(struct buf *out, const char *name, const char *show,
                          uint64_t number)
{
    fact_open(out, name);
    buf_print(out, "<a href=\"/?show=%s#sessions\">", show);
    number_text(out, number);
    buf_text(out, "</a>");
}

/* Of the last fact: less important, below it. */
static void fact_note(struct buf *out, const char *note)
{
    buf_print(out, " <small>%s</small>", note);
}

/* A table that is being written.  On a narrow screen each row is a block,
 * whose cells carry their column's name. */
struct table {
    struct buf *out;
    const char *const *heads; /* the columns, NULL at the end; # in front =
                                 numbers, * = long texts, - = long texts that
                                 do without the column's name */
    size_t cells;             /* begun in this row */
};

static const char *head_name(const char *head)
{
    return head + (*head == '#' || *head == '*' || *head == '-');
}

static const char *head_class(const char *head)
{
    if (*head == '#')
        return " class=\"number\"";
    return *head == '*' || *head == '-' ? " class=\"wide\"" : "";
}

/* The caption is for who hears the page: others see the heading above. */
static void table_open(struct table *t, struct buf *out, const char *caption,
                       const char *const *heads)
{
    t->out = out;
    t->heads = heads;
    t->cells = 0;
    buf_print(out, "<table>\n<caption>%s</caption>\n<thead><tr>", caption);
    for (; *heads != NULL; heads++)
        buf_print(out, "<th scope=\"col\"%s>%s</th>", head_class(*heads),
                  head_name(*heads));
    buf_text(out, "</tr></thead>\n<tbody>\n");
}

/* The key tells the rows apart for the refreshing script. */
static void row_open(struct table *t, struct mqtt_bytes key)
{
    t->cells = 0;
    buf_text(t->out, "<tr data-key=\"");
    url_text(t->out, key);
    buf_text(t->out, "\">");
}

static void row_open_number(struct table *t, uint64_t key)
{
    t->cells = 0;
    buf_print(t->out, "<tr data-key=\"%" PRIu64 "\">", key);
}

static void cell_close(struct table *t)
{
    if (t->cells > 0)
        buf_text(t->out, t->cells == 1 ? "</th>" : "</td>");
}

/* Begins the next cell; its content is added to what this returns. */
static struct buf *cell(struct table *t)
{
    const char *head = t->heads[t->cells];

    cell_close(t);
    buf_print(t->out, "<%s data-label=\"%s\"%s>",
              t->cells == 0 ? "th scope=\"row\"" : "td",
              *head == '-' ? "" : head_name(head), head_class(head));
    t->cells++;
    return t->out;
}

static void cell_number(struct table *t, uint64_t number)
{
    number_text(cell(t), number);
}

static void cell_text(struct table *t, const char *literal)
{
    buf_text(cell(t), literal);
}

static void cell_name(struct table *t, struct mqtt_bytes name)
{
    struct buf *out = cell(t);

    buf_text(out, "<span class=\"name\">");
    html_text(out, name);
    buf_text(out, "</span>");
}

static void cell_client(struct table *t, const char *path,
                        struct mqtt_bytes client)
{
    struct buf *out = cell(t);

    buf_text(out, "<a class=\"name\"");
    client_link(out, path, client);
    buf_text(out, ">");
    html_text(out, client);
    buf_text(out, "</a>");
}

static void row_close(struct table *t)
{
    cell_close(t);
    buf_text(t->out, "</tr>\n");
}

static void table_close(struct table *t)
{
    buf_text(t->out, "</tbody>\n</table>\n");
}

/* ---- lists in pages ----------------------------------------------------- */

#define PAGE_ROWS 50       /* of most lists */
#define PAGE_DELIVERIES 20 /* of a session's messages: each is read back */

/* Does the list end after so many rows, because the answer is long?  The next
 * page goes on, and even one row of long names brings it further. */
static int list_full(const struct buf *out, size_t rows)
{
    return rows > 0 && out->n > ANSWER_FULL;
}

/* Where a list of clients goes on, behind this one or before it.  That goes
 * into a request, which a long name would not fit into: its beginning stands
 * for all that begin so.  `room` may hold what is returned. */
static struct mqtt_bytes list_place(struct mqtt_bytes client, int behind,
                                    struct buf *room)
{
    struct mqtt_bytes place = bytes_head(client, PLACE_MAX);

    if (place.n == client.n || !behind)
        return place;
    buf_add(room, place.p, place.n);
    buf_text(room, "\xF4\x8F\xBF\xBF"); /* U+10FFFF, the last character */
    return (struct mqtt_bytes){room->p, room->n};
}

/* "51 to 100 of 12,345" */
static void range_text(struct buf *out, uint64_t first, uint64_t n,
                       uint64_t total)
{
    number_text(out, n > 0 ? first + 1 : 0);
    buf_text(out, " to ");
    number_text(out, n > 0 ? first + n : 0);
    buf_text(out, " of ");
    number_text(out, total);
}

static void pager_open(struct buf *out, const char *what)
{
    buf_print(out, "<nav class=\"pager\" aria-label=\"More %s\">", what);
}

static void pager_link(struct buf *out, const struct request *r,
                       const char *name, struct mqtt_bytes value,
                       const char *label)
{
    buf_text(out, "<a");
    query_link(out, r, name, value);
    buf_print(out, ">%s</a>", label);
}

/* Below a list of n rows from `first` on, whose place is a number in the
 * query. */
static void pager(struct buf *out, const struct request *r, const char *name,
                  const char *what, uint64_t step, uint64_t first, uint64_t n,
                  uint64_t total)
{
    char place[24];

    if (first == 0 && n >= total)
        return;
    pager_open(out, what);
    if (first > 0) {
        snprintf(place, sizeof place, "%" PRIu64,
                 first > step ? first - step : 0);
        pager_link(out, r, name, bytes_of(place), "Previous");
    }
    buf_text(out, " <span>");
    range_text(out, first, n, total);
    buf_text(out, "</span> ");
    if (first + n < total) {
        snprintf(place, sizeof place, "%" PRIu64, first + n);
        pager_link(out, r, name, bytes_of(place), "Next");
    }
    buf_text(out, "</nav>\n");
}

/* ============================ 9. Overview ================================ */

/* In the order of enum session_drop: for people, and for programs. */
static const struct {
    const char *words;
    const char *name;
} drops[DROP_KINDS] = {
    {"expired (Message Expiry Interval)", "expired"},
    {"larger than the client's Maximum Packet Size", "too_large"},
    {"the session's queue was full", "queue_full"},
    {"the disk was full (QoS 0)", "disk_full"},
    {"no memory left for sessions that are not stored", "memory_full"},
    {"the client did not read (QoS 0)", "slow_reader"},
    {"the session ended", "session_ended"},
};

static uint64_t uptime_ms(const struct broker *b)
{
    return clock_ms(CLOCK_MONOTONIC) - b->started;
}

static void overview_sessions(struct buf *out, const struct session_figures *f)
{
    fact_sessions(out, "Sessions online", "online", f->online);
    fact_close(out);
    fact_sessions(out, "Sessions offline", "offline", f->sessions - f->online);
    fact_close(out);
    fact_sessions(out, "Waiting deliveries", "waiting", f->deliveries);
    fact_note(out, "queued or in flight");
    fact_close(out);
    fact_open(out, "Messages held");
    number_text(out, f->messages);
    buf_text(out, " <small>");
    size_text(out, f->message_bytes);
    buf_text(out, "; retained: ");
    number_text(out, f->retained);
    buf_text(out, "</small>");
    fact_close(out);
}

static void overview_store(const struct broker *b, struct buf *out)
{
    struct store_figures s = store_figures(b->store);

    fact_open(out, "Store");
    size_text(out, s.total_bytes);
    buf_text(out, " <small>");
    size_text(out, s.live_bytes);
    buf_text(out, " of it live, in ");
    number_text(out, s.segments);
    buf_text(out, s.segments == 1 ? " segment; " : " segments; ");
    buf_text(out, store_full(b->store) ? "<strong>refuses writes</strong>"
                                       : "takes writes");
    buf_text(out, "</small>");
    fact_close(out);
}

static void overview_syncs(const struct broker *b, struct buf *out)
{
    const struct histogram *h = &b->sync;
    uint64_t over = b->time.now - b->pace[0].at;

    fact_open(out, "Syncs per second");
    buf_print(out, "%.1f", pace_rate(b));
    buf_text(out, " <small>over the last ");
    span_text(out, over);
    if (h->count > 0) {
        buf_text(out, "; one takes ");
        micros_text(out, h->sum_us / h->count);
        buf_text(out, ", at most ");
        micros_text(out, h->max_us);
    }
    buf_text(out, "</small>");
    fact_close(out);
    fact_open(out, "Longest turn");
    micros_text(out, b->turn.max_us);
    fact_note(out, "since the start");
    fact_close(out);
}

static void overview_drops(struct buf *out, const struct session_figures *f)
{
    fact_open(out, "Dropped");
    number_text(out, f->dropped);
    fact_note(out, "since the start");
    for (size_t i = 0; i < DROP_KINDS; i++) {
        if (f->dropped_by[i] == 0)
            continue;
        buf_text(out, " <small>");
        number_text(out, f->dropped_by[i]);
        buf_print(out, ": %s</small>", drops[i].words);
    }
    fact_close(out);
}

static void overview_facts(const struct broker *b, struct buf *out)
{
    const struct session_figures *f = session_figures(b->server);

    if (store_full(b->store))
        buf_text(out, "<p class=\"alarm\">The disk is full: the store "
                      "refuses writes.  Publishing is answered with 0x97 Quota "
                      "exceeded until there is room again.</p>\n");
    buf_text(out, "<dl class=\"tiles\">\n");
    fact_open(out, "Up for");
    span_text(out, uptime_ms(b));
    fact_note(out, "Holdfast " BROKER_VERSION);
    fact_close(out);
    fact_number(out, "Connections", b->conn_count - b->visitors);
    overview_sessions(out, f);
    overview_store(b, out);
    overview_syncs(b, out);
    overview_drops(out, f);
    buf_text(out, "</dl>\n");
}

/* ---- the table of sessions ---------------------------------------------- */

static const char *const shows[] = {"all", "online", "offline", "waiting"};

/* What the query asks for; one function for the page and for the API. */
static void sessions_query(const struct request *r, struct inspect_query *q)
{
    struct mqtt_bytes show = query_value(r, "show");

    memset(q, 0, sizeof *q);
    q->search = query_value(r, "q");
    q->after = query_value(r, "after");
    q->before = query_value(r, "before");
    for (size_t i = 0; i < sizeof shows / sizeof shows[0]; i++)
        if (bytes_equal(show, shows[i]))
            q->which = (enum inspect_which)i;
}

/* Is there more to search for than inspect.h takes?  Then that is said. */
static int search_refused(const struct request *r, struct reply *reply)
{
    if (query_value(r, "q").n <= INSPECT_SEARCH_MAX)
        return 0;
    reply_line(reply, 400, "q, what Client Identifiers are searched for, may "
                           "have 64 bytes");
    return 1;
}

static void online_text(struct buf *out, int online)
{
    buf_text(out, online ? "<b class=\"online\">online</b>"
                         : "<b class=\"offline\">offline</b>");
}

static void state_text(struct buf *out, uint64_t now,
                       const struct inspect_session *s)
{
    online_text(out, s->peer != NULL);
    buf_text(out, " for ");
    time_text(out, now, s->since);
}

/* The Session Expiry Interval and what is left of it. */
static void expiry_text(struct buf *out, uint64_t now,
                        const struct inspect_session *s)
{
    if (s->expiry == 0) {
        buf_text(out, "at disconnect");
        return;
    }
    if (s->expiry == UINT32_MAX) {
        buf_text(out, "never");
        return;
    }
    span_text(out, (uint64_t)s->expiry * 1000);
    if (s->ends == 0)
        return;
    buf_text(out, " <small>");
    time_text(out, now, s->ends > now ? s->ends : now);
    buf_text(out, " left</small>");
}

static uint64_t queued_sum(const struct inspect_session *s)
{
    return (uint64_t)s->queued[0] + s->queued[1] + s->queued[2];
}

/* "3", and below it "QoS 0: 1, QoS 1: 2" */
static void queued_text(struct buf *out, const struct inspect_session *s)
{
    const char *join = " <small>";

    number_text(out, queued_sum(s));
    for (int qos = 0; qos < 3; qos++) {
        if (s->queued[qos] == 0)
            continue;
        buf_print(out, "%sQoS %d: ", join, qos);
        number_text(out, s->queued[qos]);
        join = ", ";
    }
    if (queued_sum(s) > 0)
        buf_text(out, "</small>");
}

static void will_text(struct buf *out, uint64_t now,
                      const struct inspect_session *s)
{
    buf_text(out, s->will ? "yes" : "none");
    if (s->will_due == 0)
        return;
    buf_text(out, ", due in ");
    time_text(out, now, s->will_due > now ? s->will_due : now);
}

static void oldest_text(struct buf *out, uint64_t now,
                        const struct inspect_session *s)
{
    if (s->oldest == 0)
        buf_text(out, "none");
    else
        time_text(out, now, s->oldest);
}

static void session_row(struct table *t, uint64_t now,
                        const struct inspect_session *s)
{
    row_open(t, s->client);
    cell_client(t, "/sessions/", s->client);
    state_text(cell(t), now, s);
    expiry_text(cell(t), now, s);
    cell_number(t, s->subscriptions);
    queued_text(cell(t), s);
    cell_number(t, s->in_flight);
    oldest_text(cell(t), now, s);
    will_text(cell(t), now, s);
    row_close(t);
}

/* The search box.  What it does not change stands in hidden fields. */
static void sessions_form(struct buf *out, const struct request *r,
                          const struct inspect_query *q)
{
    buf_text(out, "<form role=\"search\" action=\"/#sessions\">\n");
    if (q->which != INSPECT_ALL)
        buf_print(out, "<input type=\"hidden\" name=\"show\" value=\"%s\">",
                  shows[q->which]);
    if (query_value(r, "refresh").n > 0)
        buf_text(out, "<input type=\"hidden\" name=\"refresh\" value=\"off\">");
    buf_text(out, "<label for=\"q\">Client Identifier contains</label> "
                  "<input id=\"q\" name=\"q\" type=\"search\"");
    buf_print(out, " maxlength=\"%d\" value=\"", INSPECT_SEARCH_MAX);
    html_value(out, q->search);
    buf_text(out, "\"> <button>Search</button>\n</form>\n");
}

static void sessions_filters(struct buf *out, const struct request *r,
                             const struct inspect_query *q)
{
    buf_text(out, "<ul class=\"filters\" aria-label=\"Show\">\n");
    for (size_t i = 0; i < sizeof shows / sizeof shows[0]; i++) {
        buf_text(out, "<li><a");
        query_link(out, r, "show", bytes_of(i == 0 ? "" : shows[i]));
        buf_print(out, "%s>%s</a></li>\n",
                  i == (size_t)q->which ? " aria-current=\"true\"" : "",
                  shows[i]);
    }
    buf_text(out, "</ul>\n");
}

static void sessions_pager(struct buf *out, const struct request *r,
                           const struct inspect_session *rows, uint64_t n,
                           uint64_t first, uint64_t matched)
{
    struct buf room = {NULL, 0, 0, 0};

    pager_open(out, "sessions");
    if (first > 0 && n > 0)
        pager_link(out, r, "before", list_place(rows[0].client, 0, &room),
                   "Previous");
    else if (n == 0 && matched > 0)
        pager_link(out, r, "after", bytes_of(""), "First");
    buf_text(out, " <span>");
    range_text(out, first, n, matched);
    buf_text(out, "</span> ");
    if (n > 0 && first + n < matched)
        pager_link(out, r, "after", list_place(rows[n - 1].client, 1, &room),
                   "Next");
    buf_text(out, "</nav>\n");
    buf_free(&room);
}

static const char *const session_heads[] = {
    "Client Identifier", "State",   "Session expiry",
    "#Subscriptions",    "#Queued", "#In flight",
    "Oldest message",    "Will",    NULL};

static void sessions_table(const struct broker *b, const struct request *r,
                           struct buf *out)
{
    struct inspect_session rows[PAGE_ROWS];
    struct inspect_query q;
    struct table t;
    uint64_t matched, first;
    size_t n, shown = 0;

    sessions_query(r, &q);
    q.limit = PAGE_ROWS;
    n = inspect_sessions(b->server, &q, rows, &matched, &first);
    buf_text(out, "<section aria-labelledby=\"sessions\">\n"
                  "<h2 id=\"sessions\">Sessions</h2>\n");
    sessions_form(out, r, &q);
    sessions_filters(out, r, &q);
    if (n > 0) {
        table_open(&t, out, "Sessions", session_heads);
        while (shown < n && !list_full(out, shown))
            session_row(&t, b->time.now, &rows[shown++]);
        table_close(&t);
    } else {
        buf_text(out, "<p class=\"empty\">No session fits.</p>\n");
    }
    sessions_pager(out, r, rows, shown, first, matched);
    buf_text(out, "</section>\n");
}

static void page_overview(struct broker *b, const struct request *r,
                          struct reply *reply)
{
    struct mqtt_bytes none = {NULL, 0};
    struct buf *out;

    if (search_refused(r, reply))
        return;
    out = page_open(r, reply, "Overview", none);
    overview_facts(b, out);
    sessions_table(b, r, out);
    page_close(b, out);
}

/* ============================ 10. Sessions =============================== */

/* ---- messages ----------------------------------------------------------- */

#define HEAD_BYTES 64       /* of a payload are shown */
#define READ_MAX (4u << 20) /* bytes of messages read back for one answer */

/* Reads a message back, unless this answer has read so much already that the
 * turn would become long.  1 = topic and payload are there, 0 = they were not
 * read, -1 = the ledger is damaged there. */
static int message_open(const struct broker *b, const struct inspect_message *m,
                        uint64_t *spent, struct mqtt_bytes *topic,
                        struct mqtt_bytes *payload)
{
    if (*spent > 0 && *spent + m->bytes > READ_MAX)
        return 0;
    *spent += m->bytes;
    return inspect_message(b->server, m, topic, payload) == 0 ? 1 : -1;
}

/* What stands in the place of what was not opened. */
static const char *unread_text(int opened)
{
    return opened < 0 ? "<strong>unreadable: the ledger is damaged here"
                        "</strong>"
                      : "<small>not read for this page</small>";
}

static void cell_topic(struct table *t, int opened, struct mqtt_bytes topic)
{
    if (opened > 0)
        cell_name(t, topic);
    else
        cell_text(t, unread_text(opened));
}

static void cell_payload(struct table *t, int opened, struct mqtt_bytes payload)
{
    struct mqtt_bytes head = bytes_head(payload, HEAD_BYTES);
    struct buf *out = cell(t);

    if (opened <= 0) {
        buf_text(out, unread_text(opened));
        return;
    }
    buf_text(out, payload.n == 0 ? "<small>empty" : "<code>");
    html_text(out, head);
    buf_text(out, payload.n == 0 ? "</small>" : "</code>");
    if (head.n == payload.n)
        return;
    buf_text(out, " <small>and ");
    size_text(out, payload.n - head.n);
    buf_text(out, " more</small>");
}

static void cell_expires(struct table *t, uint64_t now, uint64_t expires)
{
    if (expires == 0)
        cell_text(t, "never");
    else
        time_text(cell(t), now, expires > now ? expires : now);
}

/* ---- one session -------------------------------------------------------- */

/* The stages of a delivery: for people, and for programs. */
static const struct {
    const char *words;
    const char *name;
} stages[] = {
    {"queued", "queued"},
    {"sent, awaits PUBACK", "awaits_puback"},
    {"sent, awaits PUBREC", "awaits_pubrec"},
    {"PUBREC came, awaits PUBCOMP", "awaits_pubcomp"},
};

static size_t stage_of(const struct inspect_delivery *d)
{
    if (d->stage == INSPECT_QUEUED)
        return 0;
    if (d->stage == INSPECT_RELEASED)
        return 3;
    return d->qos == 2 ? 2 : 1;
}

static void session_facts(const struct broker *b, struct buf *out,
                          const struct inspect_session *s)
{
    struct inspect_client marks;
    uint64_t now = b->time.now;

    buf_text(out, "<dl class=\"facts\">\n");
    fact_open(out, "State");
    state_text(out, now, s);
    if (s->peer != NULL) {
        buf_text(out, ", from ");
        html_text(out, bytes_of(s->peer));
    }
    fact_close(out);
    fact_open(out, "Session expiry");
    expiry_text(out, now, s);
    fact_close(out);
    fact_open(out, "In the store");
    if (s->number > 0)
        buf_print(out, "session %" PRIu64, s->number);
    else
        buf_text(out, "no: it ends with its connection");
    fact_close(out);
    fact_open(out, "Queued");
    queued_text(out, s);
    fact_close(out);
    fact_number(out, "In flight", s->in_flight);
    fact_open(out, "Oldest message");
    oldest_text(out, now, s);
    fact_close(out);
    fact_open(out, "Will");
    will_text(out, now, s);
    fact_close(out);
    buf_text(out, "</dl>\n");
    if (inspect_client(b->server, s->client, &marks))
        page_link(out, "/clients/", s->client,
                  "How this client keeps the standard");
}

static void cell_flag(struct table *t, int flag)
{
    cell_text(t, flag ? "1" : "0");
}

static void section_open(struct buf *out, const char *title, uint64_t count)
{
    buf_print(out, "<section>\n<h2>%s <small>", title);
    number_text(out, count);
    buf_text(out, "</small></h2>\n");
}

static const char *const sub_heads[] = {"Topic Filter",
                                        "#Maximum QoS",
                                        "#No Local",
                                        "#Retain As Published",
                                        "#Retain Handling",
                                        "#Subscription Identifier",
                                        NULL};

static void sub_row(struct table *t, const struct inspect_sub *sub)
{
    row_open(t, sub->filter);
    cell_name(t, sub->filter);
    cell_number(t, sub->qos);
    cell_flag(t, sub->no_local);
    cell_flag(t, sub->retain_as_published);
    cell_number(t, sub->retain_handling);
    if (sub->id > 0)
        cell_number(t, sub->id);
    else
        cell_text(t, "none");
    row_close(t);
}

static void session_subs(const struct broker *b, const struct request *r,
                         struct buf *out, const struct inspect_session *s)
{
    struct inspect_sub rows[PAGE_ROWS];
    uint64_t skip = query_number(r, "subs", UINT32_MAX, 0);
    size_t shown = 0;
    size_t n =
        inspect_subs(b->server, s->client, (size_t)skip, rows, PAGE_ROWS);
    struct table t;

    section_open(out, "Subscriptions", s->subscriptions);
    if (n > 0) {
        table_open(&t, out, "Subscriptions", sub_heads);
        while (shown < n && !list_full(out, shown))
            sub_row(&t, &rows[shown++]);
        table_close(&t);
    }
    pager(out, r, "subs", "subscriptions", PAGE_ROWS, skip, shown,
          s->subscriptions);
    buf_text(out, "</section>\n");
}

static void delivery_row(const struct broker *b, struct table *t,
                         const struct inspect_delivery *d, uint64_t *spent)
{
    const struct inspect_message *m = &d->message;
    struct mqtt_bytes topic = {NULL, 0}, payload = {NULL, 0};
    int opened = message_open(b, m, spent, &topic, &payload);

    row_open_number(t, m->seq);
    cell_topic(t, opened, topic);
    cell_payload(t, opened, payload);
    cell_text(t, stages[stage_of(d)].words);
    cell_number(t, d->qos);
    cell_flag(t, d->retain);
    if (d->packet_id > 0)
        buf_print(cell(t), "%u", d->packet_id);
    else
        cell_text(t, "none");
    size_text(cell(t), m->bytes);
    time_text(cell(t), b->time.now, m->at);
    cell_expires(t, b->time.now, m->expires);
    row_close(t);
}

static const char *const delivery_heads[] = {
    "Topic", "*Payload", "Stage",      "#QoS", "#RETAIN", "#Packet Identifier",
    "#Size", "Age",      "Expires in", NULL};

static void session_deliveries(const struct broker *b, const struct request *r,
                               struct buf *out, const struct inspect_session *s)
{
    struct inspect_delivery rows[PAGE_DELIVERIES];
    uint64_t total = queued_sum(s) + s->in_flight, spent = 0;
    uint64_t skip = query_number(r, "skip", UINT32_MAX, 0);
    size_t n = inspect_deliveries(b->server, s->client, (size_t)skip, rows,
                                  PAGE_DELIVERIES);
    size_t shown = 0;
    struct table t;

    section_open(out, "Messages for the client", total);
    if (n > 0) {
        buf_text(out, "<p class=\"note\">In flight, then queued, oldest "
                      "first.</p>\n");
        table_open(&t, out, "Messages for the client", delivery_heads);
        while (shown < n && !list_full(out, shown))
            delivery_row(b, &t, &rows[shown++], &spent);
        table_close(&t);
    }
    pager(out, r, "skip", "messages", PAGE_DELIVERIES, skip, shown, total);
    buf_text(out, "</section>\n");
}

/* QoS 2 messages from it, whose PUBREL has not come. */
static void session_receiving(const struct broker *b, struct buf *out,
                              const struct inspect_session *s)
{
    uint16_t ids[PAGE_ROWS];
    size_t n = inspect_receiving(b->server, s->client, 0, ids, PAGE_ROWS);

    section_open(out, "QoS 2 messages from the client, not released",
                 s->receiving);
    if (n > 0)
        buf_text(out, "<p>Packet Identifiers:");
    for (size_t i = 0; i < n; i++)
        buf_print(out, "%s %u", i > 0 ? "," : "", ids[i]);
    if (n < s->receiving) {
        buf_text(out, " and ");
        number_text(out, s->receiving - n);
        buf_text(out, " more");
    }
    if (n > 0)
        buf_text(out, "</p>\n");
    buf_text(out, "</section>\n");
}

static void page_session(struct broker *b, const struct request *r,
                         struct reply *reply)
{
    struct buf id = {NULL, 0, 0, 0};
    struct mqtt_bytes client = client_linked(r, 1, &id);
    struct inspect_session s;

    if (inspect_session(b->server, client, &s)) {
        struct buf *out = page_open(r, reply, "Session ", client);
        session_facts(b, out, &s);
        session_deliveries(b, r, out, &s);
        session_subs(b, r, out, &s);
        session_receiving(b, out, &s);
        page_close(b, out);
    } else if (client.n == 0) {
        reply_none(reply);
    } else {
        page_missing(b, r, reply, "Session ", client,
                     "There is no such session.  It never was, or it has "
                     "ended or expired.</p>\n"
                     "<p><a href=\"/\">All sessions</a>");
    }
    buf_free(&id);
}

/* ============================ 11. Others ================================= */

/* ---- retained messages -------------------------------------------------- */

static void retained_form(struct buf *out, struct mqtt_bytes filter)
{
    buf_text(out, "<form role=\"search\" action=\"/retained\">\n"
                  "<label for=\"filter\">Topic Filter</label> "
                  "<input id=\"filter\" name=\"filter\" value=\"");
    html_value(out, filter);
    buf_text(out, "\"> <button>Show</button>\n</form>\n");
}

/* Is it a Topic Filter that retained messages can be asked for by?  If not,
 * the page says why. */
static int retained_filter(struct buf *out, struct mqtt_bytes filter)
{
    struct mqtt_error err;
    struct mqtt_bytes share, plain;

    memset(&err, 0, sizeof err);
    if (mqtt_utf8_check(filter.p, filter.n) < filter.n) {
        err.statement = "MQTT-1.5.4-1";
        err.what = "it is not UTF-8 as the standard asks for";
    } else if (mqtt_topic_filter_parse(filter, &share, &plain, &err) == 0) {
        if (share.n == 0)
            return 1;
        err.statement = "";
        err.what = "a Shared Subscription gets no retained messages (4.8.2)";
    }
    buf_print(out, "<p class=\"alarm\">Not a filter for this page: %s",
              err.what);
    if (*err.statement != '\0')
        buf_print(out, " [%s]", err.statement);
    buf_text(out, "</p>\n");
    return 0;
}

static const char *const retained_heads[] = {
    "Topic", "*Payload", "#QoS", "#Size", "Age", "Expires in", NULL};

static void retained_row(const struct broker *b, struct table *t,
                         const struct inspect_message *m, uint64_t *spent)
{
    struct mqtt_bytes topic = {NULL, 0}, payload = {NULL, 0};
    int opened = message_open(b, m, spent, &topic, &payload);

    row_open_number(t, m->seq);
    cell_topic(t, opened, topic);
    cell_payload(t, opened, payload);
    cell_number(t, m->qos);
    size_text(cell(t), m->bytes);
    time_text(cell(t), b->time.now, m->at);
    cell_expires(t, b->time.now, m->expires);
    row_close(t);
}

static void retained_table(struct broker *b, const struct request *r,
                           struct buf *out, struct mqtt_bytes filter)
{
    struct inspect_message rows[PAGE_ROWS];
    uint64_t skip = query_number(r, "skip", UINT32_MAX, 0), spent = 0, matched;
    size_t n = inspect_retained(b->server, filter, (size_t)skip, rows,
                                PAGE_ROWS, &matched);
    size_t shown = 0;
    struct table t;

    if (n > 0) {
        table_open(&t, out, "Retained messages", retained_heads);
        while (shown < n && !list_full(out, shown))
            retained_row(b, &t, &rows[shown++], &spent);
        table_close(&t);
    } else {
        buf_text(out, "<p class=\"empty\">No retained message fits.</p>\n");
    }
    pager(out, r, "skip", "retained messages", PAGE_ROWS, skip, shown, matched);
}

static void page_retained(struct broker *b, const struct request *r,
                          struct reply *reply)
{
    struct mqtt_bytes none = {NULL, 0};
    struct mqtt_bytes filter = query_value(r, "filter");
    struct buf *out = page_open(r, reply, "Retained messages", none);

    if (filter.n == 0)
        filter = bytes_of("#");
    retained_form(out, filter);
    buf_text(out, "<p><small>A wildcard at the beginning does not match "
                  "topics that begin with $ [MQTT-4.7.2-1].</small></p>\n");
    if (retained_filter(out, filter))
        retained_table(b, r, out, filter);
    else
        reply->status = 400;
    page_close(b, out);
}

/* ---- marks -------------------------------------------------------------- */

static const char *const client_heads[] = {
    "Client Identifier", "State",        "Statements broken",
    "#Statements kept",  "#Connections", "#Packets",
    "Heard first",       "Heard last",   NULL};

/* "none", or how many, so that it strikes the eye. */
static void broken_text(struct buf *out, uint32_t broken)
{
    if (broken == 0) {
        buf_text(out, "none");
        return;
    }
    buf_text(out, "<strong class=\"broken\">");
    number_text(out, broken);
    buf_text(out, " broken</strong>");
}

static void client_row(struct table *t, uint64_t now,
                       const struct inspect_client *c)
{
    row_open(t, c->client);
    cell_client(t, "/clients/", c->client);
    online_text(cell(t), c->online);
    broken_text(cell(t), c->broken);
    cell_number(t, c->kept);
    cell_number(t, c->connections);
    cell_number(t, c->packets);
    ago_text(cell(t), now, c->first);
    ago_text(cell(t), now, c->last);
    row_close(t);
}

static void page_clients(struct broker *b, const struct request *r,
                         struct reply *reply)
{
    struct mqtt_bytes none = {NULL, 0};
    struct inspect_client rows[PAGE_ROWS];
    uint64_t skip = query_number(r, "skip", UINT32_MAX, 0), matched;
    size_t n =
        inspect_clients(b->server, (size_t)skip, rows, PAGE_ROWS, &matched);
    struct buf *out = page_open(r, reply, "Marks", none);
    size_t shown = 0;
    struct table t;

    buf_text(out, "<p class=\"note\">How clients keep their side of the "
                  "standard, as far as a server can see it, since the "
                  "broker's start.  The ");
    number_text(out, CLIENT_MARKS_MAX);
    buf_text(out, " clients heard last have a record; the last one comes "
                  "first.</p>\n");
    if (n > 0) {
        table_open(&t, out, "Clients", client_heads);
        while (shown < n && !list_full(out, shown))
            client_row(&t, b->time.now, &rows[shown++]);
        table_close(&t);
    } else {
        buf_text(out, "<p class=\"empty\">No client was heard.</p>\n");
    }
    pager(out, r, "skip", "clients", PAGE_ROWS, skip, shown, matched);
    page_close(b, out);
}

static const char *const broken_heads[] = {
    "Statement", "-What it asks", "*How it was broken last",
    "#Broken",   "#Kept",         NULL};
static const char *const kept_heads[] = {"Statement", "-What it asks", "#Kept",
                                         NULL};

static void mark_row(struct table *t, const struct inspect_mark *m)
{
    row_open(t, bytes_of(m->statement));
    buf_print(cell(t), "<span class=\"keep\">[%s]</span>", m->statement);
    html_text(cell(t), bytes_of(m->asks));
    if (m->broken > 0) {
        html_text(cell(t), bytes_of(m->how));
        buf_text(cell(t), "<strong class=\"broken\">");
        number_text(t->out, m->broken);
        buf_text(t->out, "</strong>");
    }
    cell_number(t, m->kept);
    row_close(t);
}

/* A section of those that were broken at least once, or of the others, in
 * the order of the standard. */
static void marks_section(struct buf *out, const struct inspect_mark *rows,
                          size_t n, int broken, uint32_t count)
{
    const char *title = broken ? "Broken" : "Kept";
    struct table t;

    section_open(out, title, count);
    if (count > 0) {
        table_open(&t, out, title, broken ? broken_heads : kept_heads);
        for (size_t i = 0; i < n; i++)
            if ((rows[i].broken > 0) == broken)
                mark_row(&t, &rows[i]);
        table_close(&t);
    } else {
        buf_text(out, "<p class=\"empty\">None was seen.</p>\n");
    }
    buf_text(out, "</section>\n");
}

static const char marks_note[] =
    "<section>\n<h2>What is judged</h2>\n"
    "<p class=\"note\">Each packet is held against the statements that bind "
    "clients.  Numbers count how often each was seen kept or broken; one that "
    "is not listed has not come up.  A packet that cannot be read ends its "
    "connection, and counts only for what it broke first.</p>\n"
    "<p class=\"note\">A server sees no more than what is sent.  What a client "
    "stores, holds back, or does with its messages is not judged: marks find "
    "faults, they do not prove that there are none.</p>\n</section>\n";

static void client_facts(const struct broker *b, struct buf *out,
                         const struct inspect_client *c)
{
    struct inspect_session s;

    buf_text(out, "<dl class=\"facts\">\n");
    fact_open(out, "State");
    online_text(out, c->online);
    fact_close(out);
    fact_open(out, "Statements broken");
    broken_text(out, c->broken);
    fact_close(out);
    fact_number(out, "Statements kept", c->kept);
    fact_number(out, "Connections", c->connections);
    fact_number(out, "Packets", c->packets);
    fact_open(out, "Heard first");
    ago_text(out, b->time.now, c->first);
    fact_close(out);
    fact_open(out, "Heard last");
    ago_text(out, b->time.now, c->last);
    fact_close(out);
    buf_text(out, "</dl>\n");
    if (inspect_session(b->server, c->client, &s))
        page_link(out, "/sessions/", c->client, "Its session");
}

static void page_client(struct broker *b, const struct request *r,
                        struct reply *reply)
{
    struct inspect_mark rows[INSPECT_MARKS];
    struct buf id = {NULL, 0, 0, 0};
    struct mqtt_bytes client = client_linked(r, 1, &id);
    struct inspect_client c;

    if (inspect_client(b->server, client, &c)) {
        struct buf *out = page_open(r, reply, "Marks of ", client);
        size_t n = inspect_marks(b->server, client, rows);
        client_facts(b, out, &c);
        buf_text(out, "<div class=\"marks\">\n");
        marks_section(out, rows, n, 1, c.broken);
        marks_section(out, rows, n, 0, c.kept);
        buf_text(out, "</div>\n");
        buf_text(out, marks_note);
        page_close(b, out);
    } else if (client.n == 0) {
        reply_none(reply);
    } else {
        page_missing(b, r, reply, "Marks of ", client,
                     "There is no record of this client: it was not heard "
                     "since the broker's start, or too many others were.</p>\n"
                     "<p><a href=\"/clients\">All clients</a>");
    }
    buf_free(&id);
}

/* ============================ 12. Look =================================== */

static void lines_add(struct reply *reply, const char *type,
                      const char *const *lines)
{
    reply->type = type;
    for (; *lines != NULL; lines++) {
        buf_text(&reply->body, *lines);
        buf_text(&reply->body, "\n");
    }
}

static const char *const style_lines[] = {
    ":root {",
    "  color-scheme: light dark;",
    "  --ground: #fbfbf9; --raised: #ffffff; --ink: #1d2126;",
    "  --quiet: #565d66; --line: #d9dcd8; --link: #0b57a8;",
    "  --good: #1a6b3c; --bad: #a3180f; --bad-ground: #fdeceb;",
    "  --odd: #7a3e00; --odd-ground: #fbeeda;",
    "}",
    "@media (prefers-color-scheme: dark) {",
    "  :root {",
    "    --ground: #14171a; --raised: #1c2024; --ink: #e4e7ea;",
    "    --quiet: #a3abb4; --line: #363c43; --link: #84bdf7;",
    "    --good: #78d19a; --bad: #ff9c92; --bad-ground: #3a1a18;",
    "    --odd: #f0bf80; --odd-ground: #3a2b16;",
    "  }",
    "}",
    "* { box-sizing: border-box; }",
    "body {",
    "  margin: 0 auto; padding: 0 1rem 2rem; max-width: 84rem;",
    "  background: var(--ground); color: var(--ink);",
    "  font: 1rem/1.5 system-ui, sans-serif;",
    "}",
    "a { color: var(--link); text-underline-offset: .15em; }",
    ":focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }",
    "main:focus { outline: none; }",
    ".skip { position: absolute; left: -100rem; }",
    ".skip:focus { left: 1rem; top: .5rem; background: var(--raised);",
    "  padding: .5rem 1rem; z-index: 1; }",
    "header { display: flex; flex-wrap: wrap; align-items: center;",
    "  gap: 0 1.25rem; border-bottom: 1px solid var(--line); }",
    "header p { margin: 0; }",
    ".brand { font-weight: 700; padding: .7rem 0; }",
    ".refresh { margin-left: auto; color: var(--quiet);",
    "  font-size: .875rem; padding: .4rem 0; }",
    ".refresh .lost { color: var(--bad); font-weight: 600; }",
    "header:has(.lost) { position: sticky; top: 0; z-index: 1;",
    "  background: var(--ground); }",
    ".refresh a { padding: .4rem 0; }",
    "nav ul, .filters { display: flex; flex-wrap: wrap; gap: 0 1rem;",
    "  margin: 0; padding: 0; list-style: none; }",
    "nav ul a, .filters a, .pager a { display: inline-block;",
    "  padding: .6rem 0; }",
    "[aria-current] { color: var(--ink); text-decoration: none;",
    "  box-shadow: inset 0 -3px var(--link); }",
    "h1 { font-size: 1.5rem; line-height: 1.3; margin: 1.25rem 0 .75rem; }",
    "h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }",
    "h2 small { color: var(--quiet); font-weight: 400; margin-left: .25em; }",
    "small { font-size: .8125rem; color: var(--quiet); }",
    ".name, code { font-family: ui-monospace, monospace; font-size: .9375em;",
    "  white-space: pre-wrap; overflow-wrap: anywhere; }",
    ".odd { color: var(--odd); background: var(--odd-ground);",
    "  border-radius: .2em; padding: 0 .15em; font-size: .85em;",
    "  white-space: nowrap; }",
    ".online { color: var(--good); }",
    ".offline { color: var(--quiet); }",
    ".alarm { border: 1px solid var(--bad); border-left-width: .4rem;",
    "  background: var(--bad-ground); padding: .6rem 1rem;",
    "  overflow-wrap: anywhere; }",
    ".broken { color: var(--bad); }",
    ".note { color: var(--quiet); max-width: 48rem; margin: .5rem 0; }",
    ".empty { color: var(--quiet); }",
    ".as-of { color: var(--quiet); font-size: .8125rem; margin-top: 2rem; }",
    "dl { margin: 0; }",
    "dd { margin: 0; overflow-wrap: anywhere; }",
    "dt { color: var(--quiet); font-size: .8125rem; }",
    "dd small { display: block; }",
    ".tiles { display: grid; gap: 1px; background: var(--line);",
    "  border: 1px solid var(--line); border-radius: .4rem;",
    "  overflow: hidden;",
    "  grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); }",
    ".tiles div { background: var(--raised); padding: .6rem .8rem; }",
    ".tiles dd { font-size: 1.25rem; font-weight: 600; line-height: 1.35; }",
    ".tiles small { font-weight: 400; line-height: 1.4; }",
    ".facts { display: grid; gap: .6rem 1.5rem;",
    "  grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); }",
    "form { display: flex; flex-wrap: wrap; align-items: center;",
    "  gap: .5rem; margin: .5rem 0; }",
    "input, button { font: inherit; color: inherit; padding: .4rem .6rem;",
    "  background: var(--raised); border: 1px solid var(--quiet);",
    "  border-radius: .3rem; }",
    "input { flex: 1 1 12rem; max-width: 28rem; min-width: 0; }",
    "button { cursor: pointer; padding: .4rem 1rem; }",
    "table { width: 100%; border-collapse: collapse; margin: .5rem 0;",
    "  font-variant-numeric: tabular-nums; }",
    "caption { position: absolute; width: 1px; height: 1px;",
    "  overflow: hidden; clip-path: inset(50%); white-space: nowrap; }",
    "th, td { text-align: left; vertical-align: top; font-weight: 400;",
    "  padding: .45rem .9rem .45rem 0; border-top: 1px solid var(--line); }",
    "thead th { color: var(--quiet); font-size: .8125rem;",
    "  vertical-align: bottom; border-top: 0; line-height: 1.3; }",
    "td, .keep { white-space: nowrap; }",
    ".wide { white-space: normal; }",
    ".marks th:first-child { width: 10rem; }",
    ".number { text-align: right; }",
    ".number + :not(.number) { padding-left: 1.25rem; }",
    "th:last-child, td:last-child { padding-right: 0; }",
    "td small { display: block; }",
    "tbody tr:hover { background: var(--raised); }",
    ".pager { display: flex; flex-wrap: wrap; align-items: center;",
    "  gap: 0 1.25rem; color: var(--quiet); }",
    "@media (max-width: 52rem) {",
    "  table, tbody, tr, th, td { display: block; }",
    "  thead { position: absolute; left: -100rem; }",
    "  tbody tr { display: grid; gap: .35rem 1rem; padding: .75rem 0;",
    "    grid-template-columns: repeat(2, minmax(0, 1fr));",
    "    border-top: 1px solid var(--line); }",
    "  tbody tr:hover { background: none; }",
    "  tbody th, tbody td, tbody td.number { border: 0; padding: 0;",
    "    text-align: left; white-space: normal; }",
    "  tbody th, td.wide { grid-column: 1 / 3; }",
    "  tbody th { font-weight: 600; }",
    "  td:empty { display: none; }",
    "  .number + :not(.number) { padding-left: 0; }",
    "  td::before { content: attr(data-label); display: block;",
    "    color: var(--quiet); font-size: .8125rem; }",
    "  .marks tbody tr { gap: 0 1rem; padding: .5rem 0; }",
    "  .marks td:not([data-label=''])::before { display: inline;",
    "    content: attr(data-label) ': '; }",
    "  form label { flex-basis: 100%; }",
    "  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }",
    "  .facts { grid-template-columns: repeat(2, minmax(0, 1fr)); }",
    "  .tiles div { padding: .4rem .6rem; }",
    "  .tiles dd { font-size: 1.1rem; }",
    "  header { gap: 0 .9rem; }",
    "  nav ul { gap: 0 .8rem; }",
    "  .refresh { margin-left: 0; flex-basis: 100%; }",
    "}",
    NULL};

static void style_css(struct broker *b, const struct request *r,
                      struct reply *reply)
{
    (void)b;
    (void)r;
    lines_add(reply, "text/css; charset=utf-8", style_lines);
}

static const char *const refresh_lines[] = {
    "\"use strict\";",
    "// Fetches the page again every few seconds and changes in place what",
    "// has changed, so that focus, typed text, selection and position stay.",
    "(() => {",
    "  const every = 3000, patience = 10000;",
    "  const state = document.getElementById(\"state\");",
    "  const pause = document.getElementById(\"pause\");",
    "  const query = new URLSearchParams(location.search);",
    "  let off = query.get(\"refresh\") === \"off\";",
    "  let busy = false;",
    "",
    "  const say = (text, name) => {",
    "    if (state.textContent !== text) state.textContent = text;",
    "    state.className = name;",
    "  };",
    "  const show = () => {",
    "    say(off ? \"Not refreshed.\" : \"Refreshed every 3 seconds.\", \"\");",
    "    pause.textContent = off ? \"Resume\" : \"Pause\";",
    "  };",
    "",
    "  const attributes = (old, fresh) => {",
    "    for (const a of [...old.attributes])",
    "      if (!fresh.hasAttribute(a.name)) old.removeAttribute(a.name);",
    "    for (const a of fresh.attributes)",
    "      if (old.getAttribute(a.name) !== a.value)",
    "        old.setAttribute(a.name, a.value);",
    "  };",
    "  const key = (node) => node.dataset && node.dataset.key;",
    "  const alike = (a, b) => a.nodeName === b.nodeName && key(a) === key(b);",
    "  // The old node that becomes this one: a row is looked for by its key,",
    "  // all else must stand in its place.",
    "  const find = (at, node) => {",
    "    if (key(node))",
    "      while (at && !alike(at, node)) at = at.nextSibling;",
    "    return at && alike(at, node) ? at : null;",
    "  };",
    "  const update = (old, fresh) => {",
    "    if (old.nodeType !== Node.ELEMENT_NODE) {",
    "      if (old.data !== fresh.data) old.data = fresh.data;",
    "      return;",
    "    }",
    "    attributes(old, fresh);",
    "    let at = old.firstChild;",
    "    const drop = (end) => {",
    "      while (at !== end) {",
    "        const gone = at;",
    "        at = at.nextSibling;",
    "        gone.remove();",
    "      }",
    "    };",
    "    for (const node of [...fresh.childNodes]) {",
    "      const found = find(at, node);",
    "      if (!found) {",
    "        old.insertBefore(node, at);",
    "        continue;",
    "      }",
    "      drop(found);",
    "      at = found.nextSibling;",
    "      update(found, node);",
    "    }",
    "    drop(null);",
    "  };",
    "",
    "  const refresh = async () => {",
    "    if (off || busy || document.hidden) return;",
    "    busy = true;",
    "    try {",
    "      const signal = AbortSignal.timeout(patience);",
    "      const reply = await fetch(location.href, { signal });",
    "      const text = await reply.text();",
    "      const page = new DOMParser().parseFromString(text, \"text/html\");",
    "      if (off) return;",
    "      const main = page.getElementById(\"main\");",
    "      update(document.getElementById(\"main\"), main);",
    "      document.title = page.title;",
    "      show();",
    "    } catch {",
    "      if (!off)",
    "        say(\"The broker has not answered since \" +",
    "          document.getElementById(\"as-of\").textContent + \".\",",
    "          \"lost\");",
    "    } finally {",
    "      busy = false;",
    "    }",
    "  };",
    "",
    "  pause.addEventListener(\"click\", (event) => {",
    "    const there = pause.href;",
    "    event.preventDefault();",
    "    pause.href = location.href;",
    "    history.replaceState(null, \"\", there);",
    "    off = !off;",
    "    show();",
    "    refresh();",
    "  });",
    "  document.addEventListener(\"visibilitychange\", refresh);",
    "  setInterval(refresh, every);",
    "  show();",
    "})();",
    NULL};

static void refresh_js(struct broker *b, const struct request *r,
                       struct reply *reply)
{
    (void)b;
    (void)r;
    lines_add(reply, "text/javascript; charset=utf-8", refresh_lines);
}

/* ============================ 13. Machines =============================== */
/*
 * The same facts for programs.  /api/...: JSON (RFC 8259).  Times are ms
 * since 1970, durations and sizes have their unit in the name, null = there
 * is none.
 */

/* Begins a member, or an element where key is NULL. */
static struct buf *json_key(struct buf *out, const char *key)
{
    uint8_t last = out->n > 0 ? out->p[out->n - 1] : '{';

    if (last != '{' && last != '[')
        buf_text(out, ",");
    if (key != NULL)
        buf_print(out, "\"%s\":", key);
    return out;
}

static void json_number(struct buf *out, const char *key, uint64_t number)
{
    buf_print(json_key(out, key), "%" PRIu64, number);
}

static void json_null(struct buf *out, const char *key)
{
    buf_text(json_key(out, key), "null");
}

/* 0 stands for what there is not. */
static void json_some(struct buf *out, const char *key, uint64_t number)
{
    if (number > 0)
        json_number(out, key, number);
    else
        json_null(out, key);
}

static void json_flag(struct buf *out, const char *key, int flag)
{
    buf_text(json_key(out, key), flag ? "true" : "false");
}

static void json_name(struct buf *out, const char *key, struct mqtt_bytes name)
{
    json_text(json_key(out, key), name);
}

static struct buf *json_open(struct reply *reply)
{
    reply->type = "application/json";
    buf_text(&reply->body, "{");
    return &reply->body;
}

static void json_close(struct buf *out)
{
    buf_text(out, "}\n");
}

static void json_overview_store(const struct broker *b, struct buf *out)
{
    struct store_figures s = store_figures(b->store);
    const struct histogram *h = &b->sync;

    json_number(out, "store_live_bytes", s.live_bytes);
    json_number(out, "store_total_bytes", s.total_bytes);
    json_number(out, "store_segments", s.segments);
    json_flag(out, "store_refuses_writes", store_full(b->store));
    json_number(out, "syncs", s.syncs);
    buf_print(json_key(out, "syncs_per_second"), "%.3f", pace_rate(b));
    json_some(out, "sync_mean_us", h->count > 0 ? h->sum_us / h->count : 0);
    json_some(out, "sync_max_us", h->max_us);
    json_number(out, "turn_max_us", b->turn.max_us);
}

static void api_overview(struct broker *b, const struct request *r,
                         struct reply *reply)
{
    const struct session_figures *f = session_figures(b->server);
    struct buf *out = json_open(reply);

    (void)r;
    json_name(out, "version", bytes_of(BROKER_VERSION));
    json_number(out, "uptime_seconds", uptime_ms(b) / 1000);
    json_number(out, "connections", b->conn_count - b->visitors);
    json_number(out, "sessions", f->sessions);
    json_number(out, "sessions_online", f->online);
    json_number(out, "sessions_offline", f->sessions - f->online);
    json_number(out, "sessions_expired", f->expired);
    json_number(out, "subscriptions", f->subscriptions);
    json_number(out, "deliveries_waiting", f->deliveries);
    json_number(out, "messages", f->messages);
    json_number(out, "message_bytes", f->message_bytes);
    json_number(out, "retained_messages", f->retained);
    json_overview_store(b, out);
    json_number(out, "dropped", f->dropped);
    buf_text(json_key(out, "dropped_by"), "{");
    for (size_t i = 0; i < DROP_KINDS; i++)
        json_number(out, drops[i].name, f->dropped_by[i]);
    buf_text(out, "}");
    json_close(out);
}

/* What is left of an interval that ends then; null = it has no end yet. */
static void json_left(struct buf *out, const char *key, uint64_t now,
                      uint64_t ends)
{
    if (ends == 0)
        json_null(out, key);
    else
        json_number(out, key, ends > now ? ends - now : 0);
}

static void json_age(struct buf *out, const char *key, uint64_t now,
                     uint64_t at)
{
    if (at == 0)
        json_null(out, key);
    else
        json_number(out, key, now > at ? now - at : 0);
}

/* The members of a session's object. */
static void json_session(struct buf *out, uint64_t now,
                         const struct inspect_session *s)
{
    json_name(out, "client_id", s->client);
    json_some(out, "store_number", s->number);
    json_flag(out, "online", s->peer != NULL);
    if (s->peer != NULL)
        json_name(out, "address", bytes_of(s->peer));
    else
        json_null(out, "address");
    json_number(out, "since_unix_ms", s->since);
    json_flag(out, "expires", s->expiry != UINT32_MAX);
    if (s->expiry == UINT32_MAX)
        json_null(out, "expiry_seconds");
    else
        json_number(out, "expiry_seconds", s->expiry);
    json_left(out, "expires_in_ms", now, s->ends);
    json_number(out, "subscription_count", s->subscriptions);
    json_number(out, "queued_qos0", s->queued[0]);
    json_number(out, "queued_qos1", s->queued[1]);
    json_number(out, "queued_qos2", s->queued[2]);
    json_number(out, "in_flight", s->in_flight);
    json_number(out, "receiving_count", s->receiving);
    json_age(out, "oldest_age_ms", now, s->oldest);
    json_flag(out, "will", s->will);
    json_left(out, "will_due_in_ms", now, s->will_due);
}

#define API_ROWS 100      /* in an answer, unless limit says otherwise */
#define API_ROWS_MAX 1000 /* what limit may say */

static size_t query_limit(const struct request *r)
{
    return (size_t)query_number(r, "limit", API_ROWS_MAX, API_ROWS);
}

/* Where the rest of a list begins, of which there were n from `first` on. */
static void json_next(struct buf *out, const char *key, uint64_t first,
                      size_t n, uint64_t total)
{
    if (n > 0 && first + n < total)
        json_number(out, key, first + n);
    else
        json_null(out, key);
}

/* "next_after": where the next sessions begin, for the field `after`. */
static void api_sessions(struct broker *b, const struct request *r,
                         struct reply *reply)
{
    struct inspect_session *rows;
    struct inspect_query q;
    uint64_t matched, first;
    struct buf *out, room = {NULL, 0, 0, 0};
    size_t n, shown = 0;

    if (search_refused(r, reply))
        return;
    out = json_open(reply);
    sessions_query(r, &q);
    q.limit = query_limit(r);
    rows = (struct inspect_session *)mem_new((q.limit + 1) * sizeof *rows);
    n = inspect_sessions(b->server, &q, rows, &matched, &first);
    json_number(out, "matched", matched);
    json_number(out, "first", first);
    buf_text(json_key(out, "sessions"), "[");
    while (shown < n && !list_full(out, shown)) {
        buf_text(json_key(out, NULL), "{");
        json_session(out, b->time.now, &rows[shown++]);
        buf_text(out, "}");
    }
    buf_text(out, "]");
    if (shown > 0 && first + shown < matched)
        json_name(out, "next_after",
                  list_place(rows[shown - 1].client, 1, &room));
    else
        json_null(out, "next_after");
    json_close(out);
    buf_free(&room);
    free(rows);
}

static void json_sub(struct buf *out, const struct inspect_sub *sub)
{
    buf_text(json_key(out, NULL), "{");
    json_name(out, "filter", sub->filter);
    json_number(out, "qos", sub->qos);
    json_flag(out, "no_local", sub->no_local);
    json_flag(out, "retain_as_published", sub->retain_as_published);
    json_number(out, "retain_handling", sub->retain_handling);
    json_some(out, "subscription_id", sub->id);
    buf_text(out, "}");
}

static void json_subs(const struct broker *b, struct buf *out,
                      const struct inspect_session *s, size_t skip,
                      size_t limit)
{
    struct inspect_sub *rows =
        (struct inspect_sub *)mem_new((limit + 1) * sizeof *rows);
    size_t n = inspect_subs(b->server, s->client, skip, rows, limit), shown = 0;

    buf_text(json_key(out, "subscriptions"), "[");
    while (shown < n && !list_full(out, shown))
        json_sub(out, &rows[shown++]);
    buf_text(out, "]");
    json_next(out, "next_subs", skip, shown, s->subscriptions);
    free(rows);
}

/* The first bytes of a payload, as text if they are UTF-8 by 1.5.4, and in
 * hexadecimal if not: the other of the two is null. */
static void json_payload(struct buf *out, struct mqtt_bytes payload)
{
    struct mqtt_bytes head = bytes_head(payload, HEAD_BYTES);
    int text = mqtt_utf8_check(head.p, head.n) == head.n;

    json_number(out, "payload_bytes", payload.n);
    json_key(out, "payload_head_text");
    if (text)
        json_text(out, head);
    else
        buf_text(out, "null");
    json_key(out, "payload_head_hex");
    buf_text(out, text ? "null" : "\"");
    for (size_t i = 0; !text && i < head.n; i++)
        buf_print(out, "%02x", head.p[i]);
    buf_text(out, text ? "" : "\"");
}

/* The members that have to be read back; null: they were not, or cannot be. */
static void json_message(const struct broker *b, struct buf *out,
                         const struct inspect_message *m, uint64_t *spent)
{
    struct mqtt_bytes topic, payload;
    int opened = message_open(b, m, spent, &topic, &payload);

    json_flag(out, "damaged", opened < 0);
    if (opened > 0) {
        json_name(out, "topic", topic);
        json_payload(out, payload);
        return;
    }
    json_null(out, "topic");
    json_null(out, "payload_bytes");
    json_null(out, "payload_head_text");
    json_null(out, "payload_head_hex");
}

static void json_delivery(const struct broker *b, struct buf *out,
                          const struct inspect_delivery *d, uint64_t *spent)
{
    const struct inspect_message *m = &d->message;

    buf_text(json_key(out, NULL), "{");
    json_number(out, "number", m->seq);
    json_message(b, out, m, spent);
    json_name(out, "stage", bytes_of(stages[stage_of(d)].name));
    json_number(out, "qos", d->qos);
    json_flag(out, "retain", d->retain);
    json_some(out, "packet_id", d->packet_id);
    json_number(out, "packet_bytes", m->bytes);
    json_age(out, "age_ms", b->time.now, m->at);
    json_left(out, "expires_in_ms", b->time.now, m->expires);
    buf_text(out, "}");
}

static void json_deliveries(const struct broker *b, struct buf *out,
                            const struct inspect_session *s, size_t skip,
                            size_t limit)
{
    struct inspect_delivery *rows =
        (struct inspect_delivery *)mem_new((limit + 1) * sizeof *rows);
    size_t n = inspect_deliveries(b->server, s->client, skip, rows, limit);
    size_t shown = 0;
    uint64_t spent = 0;

    buf_text(json_key(out, "deliveries"), "[");
    while (shown < n && !list_full(out, shown))
        json_delivery(b, out, &rows[shown++], &spent);
    buf_text(out, "]");
    json_next(out, "next_skip", skip, shown, queued_sum(s) + s->in_flight);
    free(rows);
}

static void json_receiving(const struct broker *b, struct buf *out,
                           struct mqtt_bytes client, size_t limit)
{
    uint16_t *ids = (uint16_t *)mem_new((limit + 1) * sizeof *ids);
    size_t n = inspect_receiving(b->server, client, 0, ids, limit);

    buf_text(json_key(out, "receiving"), "[");
    for (size_t i = 0; i < n; i++)
        json_number(out, NULL, ids[i]);
    buf_text(out, "]");
    free(ids);
}

/* limit bounds each of its lists; subs and skip say where those of
 * subscriptions and of deliveries begin. */
static void api_session(struct broker *b, const struct request *r,
                        struct reply *reply)
{
    struct buf *out = json_open(reply), id = {NULL, 0, 0, 0};
    struct mqtt_bytes client = client_linked(r, 2, &id);
    size_t limit = query_limit(r);
    struct inspect_session s;

    if (inspect_session(b->server, client, &s)) {
        json_session(out, b->time.now, &s);
        json_subs(b, out, &s,
                  (size_t)query_number(r, "subs", UINT32_MAX, 0), limit);
        json_deliveries(b, out, &s,
                        (size_t)query_number(r, "skip", UINT32_MAX, 0), limit);
        json_receiving(b, out, client, limit);
    } else {
        reply->status = 404;
        json_name(out, "error", bytes_of("there is no such session"));
    }
    json_close(out);
    buf_free(&id);
}

static void json_marks(const struct broker *b, struct buf *out,
                       struct mqtt_bytes client)
{
    struct inspect_mark rows[INSPECT_MARKS];
    size_t n = inspect_marks(b->server, client, rows);

    buf_text(json_key(out, "marks"), "[");
    for (size_t i = 0; i < n; i++) {
        buf_text(json_key(out, NULL), "{");
        json_name(out, "statement", bytes_of(rows[i].statement));
        json_name(out, "asks", bytes_of(rows[i].asks));
        json_number(out, "kept", rows[i].kept);
        json_number(out, "broken", rows[i].broken);
        if (rows[i].broken > 0)
            json_name(out, "how", bytes_of(rows[i].how));
        else
            json_null(out, "how");
        buf_text(out, "}");
    }
    buf_text(out, "]");
}

static void api_client(struct broker *b, const struct request *r,
                       struct reply *reply)
{
    struct buf *out = json_open(reply), id = {NULL, 0, 0, 0};
    struct mqtt_bytes client = client_linked(r, 2, &id);
    struct inspect_client c;

    if (inspect_client(b->server, client, &c)) {
        json_name(out, "client_id", c.client);
        json_flag(out, "online", c.online);
        json_number(out, "statements_broken", c.broken);
        json_number(out, "statements_kept", c.kept);
        json_number(out, "connections", c.connections);
        json_number(out, "packets", c.packets);
        json_number(out, "heard_first_unix_ms", c.first);
        json_number(out, "heard_last_unix_ms", c.last);
        json_marks(b, out, client);
    } else {
        reply->status = 404;
        json_name(out, "error", bytes_of("there is no record of this client"));
    }
    json_close(out);
    buf_free(&id);
}

/* Prometheus's text format 0.0.4: for each metric what it means, its type,
 * and its samples.  Nothing that clients choose becomes a label: there would
 * be no end of them. */
static void metric_begin(struct buf *out, const char *name, const char *type,
                         const char *help)
{
    buf_print(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* labels: as they are written, or "". */
static void metric_sample(struct buf *out, const char *name, const char *labels,
                          uint64_t value)
{
    buf_print(out, "%s%s %" PRIu64 "\n", name, labels, value);
}

/* The same in seconds. */
static void metric_seconds(struct buf *out, const char *name, uint64_t us)
{
    buf_print(out, "%s %" PRIu64 ".%06" PRIu64 "\n", name, us / 1000000,
              us % 1000000);
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

/* What was not served. */
static void metrics_losses(const struct session_figures *f, struct buf *out)
{
    char label[96];

    metric_begin(out, "holdfast_dropped_total", "counter",
                 "Deliveries discarded, by reason.");
    for (size_t i = 0; i < DROP_KINDS; i++) {
        snprintf(label, sizeof label, "{reason=\"%s\"}", drops[i].name);
        metric_sample(out, "holdfast_dropped_total", label, f->dropped_by[i]);
    }
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

/* ============================ 14. Visitors =============================== */
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
    {"/api/clients/", api_client},
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
    reply_none(reply);
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
    c->deadline = timeline_moment(&b->time) + ANSWER_WAIT;
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

/* Is there room for one more answer?  Visitors who do not read theirs must
 * not use up the memory.  What was sent of an answer counts until all was: so
 * long its memory is not given back. */
static int visitor_room(const struct broker *b)
{
    size_t held = 0;

    for (size_t i = 0; i < b->conn_count && b->visitors > 0; i++)
        if (b->conns[i].visitor)
            held += b->conns[i].rest.base + b->conns[i].rest.cap;
    return held <= ANSWERS_HELD;
}

/* Moves a visitor that is OPEN along; room: as above.  1 = it has cost an
 * answer. */
static int visitor_advance(struct broker *b, struct conn *c, int room)
{
    int asks = c->asked || (c->eof && c->request.n > 0);

    if (asks && room) {
        visitor_answer(b, c);
        return 1;
    }
    if (asks && b->time.now >= c->deadline)
        visitor_refuse(b, c, 503, "too many answers are not read yet");
    else if (asks)
        return 0;
    else if (b->time.now >= c->deadline)
        visitor_refuse(b, c, 408, "the request took too long to come");
    else if (c->eof || c->broken)
        c->state = CONN_SENDING; /* there is nothing to be said */
    return 0;
}

static void visitor_advance_all(struct broker *b)
{
    int made = 0, room = visitor_room(b);

    for (size_t i = 0; i < b->conn_count && b->visitors > 0; i++) {
        struct conn *c = &b->conns[i];
        if (c->visitor && c->state == CONN_OPEN && made < ANSWERS_MAX)
            made += visitor_advance(b, c, room);
    }
}

/* Is there anything left for the next turn?  Asked when this one's bytes have
 * left: that may have made room. */
static void visitor_left(struct broker *b)
{
    int room = b->visitors > 0 && visitor_room(b);

    for (size_t i = 0; i < b->conn_count && room && !b->again; i++) {
        const struct conn *c = &b->conns[i];
        b->again = c->visitor && c->state == CONN_OPEN && (c->asked || c->eof);
    }
}

/* ============================ 15. Connections ============================ */

static void conn_open(struct broker *b, int fd, const union address *peer,
                      int visitor)
{
    struct conn *c;
    char name[80];
    int on = 1, room = VISITOR_SENDS;

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
        /* What is not read stays with us, where it counts: the system would
         * take several MiB of each. */
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
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
        buf_free(&c->rest);
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

/* ============================ 16. Signals ================================ */
/*
 * The handler counts and writes a byte into a pipe that poll() watches, so a
 * signal between the loop's check and its poll() is not overslept.
 */

static volatile sig_atomic_t signal_count; /* SIGTERM and SIGINT so far */
static volatile sig_atomic_t signal_end;   /* the last of them */
static volatile sig_atomic_t signal_tell;  /* SIGUSR1 came: tell how it is */
static volatile sig_atomic_t signal_pipe;  /* the end that is written to */

static void signal_note(int number)
{
    int kept = errno;
    ssize_t ignored;

    if (number == SIGUSR1)
        signal_tell = 1;
    else
        signal_end = number;
    if (number != SIGUSR1 && signal_count < 2)
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
    size_t clients = b->conn_count - b->visitors;
    char line[256];

    snprintf(line, sizeof line,
             "overview: holdfast " BROKER_VERSION ", up %" PRIu64
             " s; %zu connection%s; %" PRIu64 " session%s, %" PRIu64
             " of them online; %" PRIu64 " subscription%s",
             uptime_ms(b) / 1000, clients, plural(clients), f->sessions,
             plural(f->sessions), f->online, f->subscriptions,
             plural(f->subscriptions));
    broker_say(b, line);
    snprintf(line, sizeof line,
             "overview: %" PRIu64 " message%s of %" PRIu64
             " byte%s held, %" PRIu64 " retained; deliveries waiting: %" PRIu64
             "; since the start, deliveries dropped: %" PRIu64
             ", sessions expired: %" PRIu64,
             f->messages, plural(f->messages), f->message_bytes,
             plural(f->message_bytes), f->retained, f->deliveries, f->dropped,
             f->expired);
    broker_say(b, line);
}

static void tell_store(struct broker *b)
{
    struct store_figures f = store_figures(b->store);
    uint64_t mean = b->sync.count > 0 ? b->sync.sum_us / b->sync.count : 0;
    char line[256];

    snprintf(line, sizeof line,
             "overview: store of %" PRIu64 " bytes, %" PRIu64
             " of them live, in %" PRIu64 " segment%s%s",
             f.total_bytes, f.live_bytes, f.segments, plural(f.segments),
             store_full(b->store) ? "; it refuses writes: its disk is full"
                                  : "");
    broker_say(b, line);
    snprintf(line, sizeof line,
             "overview: %" PRIu64 " sync%s of %" PRIu64
             " us on average, the longest %" PRIu64 " us; longest turn %" PRIu64
             " us",
             f.syncs, plural(f.syncs), mean, b->sync.max_us, b->turn.max_us);
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

/* ============================ 17. The loop =============================== */

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
    pace_note(b);
    visitor_advance_all(b);
    conn_flush_all(b);
    conn_advance_all(b);
    visitor_left(b);
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

/* ============================ 18. Life =================================== */

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

    broker_say(b, signal_end == SIGINT ? "told to end by SIGINT"
                                       : "told to end by SIGTERM");
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
    if (clean) {
        broker_say(b, "ended in good order");
        output_flush(&b->err);
    }
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

/* ============================ 19. Audit ================================== */
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
