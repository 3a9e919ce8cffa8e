/*
 * broker.c - the process around the server: sockets, time, signals, output.
 *
 *   1. Output       stdout and stderr, which may never hold up the loop
 *   2. Options      the command line
 *   3. Time         one timeline that never runs backwards
 *   4. Listeners    the sockets that accept
 *   5. Connections  the sockets that talk
 *   6. Signals      how the process is told to end
 *   7. The loop     one turn after the other
 *   8. Life         start, end
 *   9. Audit        the store looked at, or saved, without a broker; main
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
#include "session.h"
#include "store.h"

#define BROKER_VERSION "0.1.0"
#define BROKER_PORT 1883           /* registered with IANA for mqtt */
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

/* One of the process's own outputs. */
struct output {
    int fd;             /* STDOUT_FILENO or STDERR_FILENO */
    int dead;           /* 1 = its reader is gone for good */
    size_t chunk;       /* bytes that a ready pipe takes without blocking */
    uint64_t lost;      /* lines thrown away since it last kept up */
    struct buf pending; /* whole lines, the first maybe half written */
};

/* What the command line says. */
struct settings {
    struct session_options session;    /* handed to the server */
    const char *dir;                   /* -d: the store */
    const char *address[LISTENER_MAX]; /* -b: addresses or names */
    size_t address_count;              /* 0 = loopback, both families */
    uint16_t port;                     /* -p: 0 = any */
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

enum conn_state {
    CONN_OPEN,    /* the server knows it: link is set */
    CONN_SENDING, /* the server is done with it; `rest` has to leave */
    CONN_DRAINING /* we have closed our half and wait for the peer's */
};

struct conn {
    int fd;
    enum conn_state state;
    int eof;                   /* the peer has closed its half */
    int broken;                /* nothing can be read any more */
    int mute;                  /* nothing can be sent any more */
    struct session_link *link; /* NULL unless CONN_OPEN */
    uint64_t deadline;         /* when patience ends, unless CONN_OPEN */
    struct buf rest;           /* unsent bytes of a link that is gone */
};

struct broker {
    struct settings set;
    struct timeline time;
    struct output out; /* the ready line and the trace */
    struct output err; /* the log */
    struct store *store;
    struct session_server *server;
    struct listener listeners[LISTENER_MAX];
    size_t listener_count;
    struct conn *conns;  /* in no order; grows, never shrinks */
    size_t conn_count;   /* in use */
    size_t conn_cap;     /* allocated */
    size_t conn_max;     /* as many as descriptors allow */
    struct pollfd *poll; /* rebuilt each turn: fixed places, listeners, conns */
    size_t poll_cap;     /* allocated */
    size_t polled;       /* connections that this turn's poll() saw */
    uint64_t accept_at;  /* no accept() before this time */
    uint64_t full_at;    /* when the line about that may be said again */
    uint64_t alive_at;   /* when store_alive() is due */
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
    "                [-t client]\n"
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
    "\n"
    "Refusals, drops and expiries are logged on stderr.  SIGTERM and SIGINT\n"
    "end it in good order.  Exit status: 0 = told to end, 1 = it could not\n"
    "start or go on, or the store is not sound, 2 = wrong options.\n";

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

static void settings_default(struct settings *set)
{
    memset(set, 0, sizeof *set);
    session_options_default(&set->session);
    set->session.version = "holdfast " BROKER_VERSION;
    set->dir = "data";
    set->port = BROKER_PORT;
}

/* One option.  -1 = go on, else the status to exit with. */
static int settings_option(struct settings *set, int option)
{
    switch (option) {
    case 'p':
        return settings_port(set, optarg) == 0 ? -1 : 2;
    case 'b':
        return settings_address(set, optarg) == 0 ? -1 : 2;
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
    int option, status = -1;

    settings_default(set);
    opterr = 0;
    while (status < 0 &&
           (option = getopt(argc, argv, ":p:b:d:x:t:arvhV")) != -1)
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

static uint64_t clock_ms(clockid_t id)
{
    struct timespec ts;
    int rc = clock_gettime(id, &ts);

    assert(rc == 0);
    (void)rc;
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
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
static int listener_open(struct broker *b, const struct addrinfo *ai)
{
    struct listener *l = &b->listeners[b->listener_count];
    union address wanted;

    memset(&wanted, 0, sizeof wanted);
    memcpy(&wanted, ai->ai_addr, ai->ai_addrlen);
    for (size_t i = 0; i < b->listener_count; i++)
        if (address_equal(&b->listeners[i].addr, &wanted))
            return 0;
    if (b->listener_count == LISTENER_MAX)
        return EMFILE;
    l->fd = socket(ai->ai_family, ai->ai_socktype, ai->ai_protocol);
    if (l->fd < 0)
        return errno;
    if (listener_bind(l, ai) != 0) {
        int why = errno;
        close(l->fd);
        return why;
    }
    b->listener_count++;
    return 0;
}

static void listener_close_all(struct broker *b)
{
    for (size_t i = 0; i < b->listener_count; i++)
        close(b->listeners[i].fd);
    b->listener_count = 0;
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
static int listener_host(struct broker *b, const char *host, uint16_t *port)
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
                "holdfast: -b %s: %s; give an IPv4 or IPv6 address or a name\n",
                host, gai_strerror(rc));
        return -1;
    }
    for (struct addrinfo *ai = all; ai != NULL && why == 0; ai = ai->ai_next) {
        if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
            continue;
        why = listener_open(b, ai);
        if (why == 0 && *port == 0) {
            *port = address_port(&b->listeners[0].addr);
            if (ai->ai_next != NULL) { /* the others must share this port */
                freeaddrinfo(all);
                return listener_host(b, host, port);
            }
        }
    }
    freeaddrinfo(all);
    return why;
}

/* One attempt at all addresses.  0, an errno with *host the one at fault, or
 * -1 when it was said. */
static int listener_try(struct broker *b, uint16_t port, const char **host)
{
    int why = 0;

    for (size_t i = 0; i < b->set.address_count && why == 0; i++) {
        *host = b->set.address[i];
        why = listener_host(b, *host, &port);
    }
    if (b->set.address_count > 0 || why != 0)
        return why;
    *host = "127.0.0.1";
    why = listener_host(b, *host, &port);
    if (why == 0) {
        *host = "::1";
        why = listener_host(b, *host, &port);
        /* A machine without IPv6 is served over IPv4 alone. */
        if (why == EAFNOSUPPORT || why == EADDRNOTAVAIL)
            why = 0;
    }
    return why;
}

/* Whoever opens the broker to others has to know what that means. */
static void listener_warn(const struct broker *b)
{
    for (size_t i = 0; i < b->listener_count; i++) {
        const struct listener *l = &b->listeners[i];
        char text[80];
        if (address_loopback(&l->addr))
            continue;
        address_print(&l->addr, text, sizeof text);
        fprintf(stderr,
                "holdfast: warning: %s is open to other machines, and anyone "
                "there may connect without a name\n",
                text);
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
        listener_close_all(b);
        why = listener_try(b, b->set.port, &host);
    } while (why == EADDRINUSE && start_again(b));
    if (why > 0)
        listener_complain(host, b->set.port, why);
    else if (why == 0)
        listener_warn(b);
    return why == 0 ? 0 : -1;
}

/* ============================ 5. Connections ============================= */

static void conn_open(struct broker *b, int fd, const union address *peer)
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
    /* Replies leave in one write per turn, there is nothing to wait for.  If
     * it cannot be had, the connection is only slower. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    address_print(peer, name, sizeof name);
    c->link = session_link_open(b->server, name, b->time.now);
}

static void conn_close(struct broker *b, size_t i)
{
    struct conn *c = &b->conns[i];

    assert(c->link == NULL);
    close(c->fd);
    buf_free(&c->rest);
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
    const struct pollfd *polled = b->poll + PLACE_FIXED + b->listener_count;

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
             b->conn_count, why);
    broker_say(b, line);
}

static void accept_ready(struct broker *b, const struct listener *l)
{
    for (;;) {
        union address peer;
        socklen_t len = sizeof peer;
        int fd;
        if (b->conn_count >= b->conn_max) {
            accept_pause(b, "the store keeps the last descriptors");
            return;
        }
        fd = accept(l->fd, &peer.any, &len);
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
            conn_open(b, fd, &peer);
    }
}

static void accept_all(struct broker *b)
{
    for (size_t i = 0; i < b->listener_count; i++)
        if (b->poll[PLACE_FIXED + i].revents != 0)
            accept_ready(b, &b->listeners[i]);
}

/* ============================ 6. Signals ================================= */
/*
 * The handler counts and writes a byte into a pipe that poll() watches, so a
 * signal between the loop's check and its poll() is not overslept.
 */

static volatile sig_atomic_t signal_count; /* SIGTERM and SIGINT so far */
static volatile sig_atomic_t signal_pipe;  /* the end that is written to */

static void signal_note(int number)
{
    int kept = errno;
    ssize_t ignored;

    (void)number;
    if (signal_count < 2)
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
        sigaction(SIGINT, &action, NULL) != 0)
        return -1;
    /* A peer that is gone is an error of send(), not the end of us. */
    action.sa_handler = SIG_IGN;
    return sigaction(SIGPIPE, &action, NULL);
}

static void signal_drain(const struct broker *b)
{
    char bytes[16];

    while (read(b->signal_fd, bytes, sizeof bytes) > 0)
        continue;
}

/* ============================ 7. The loop ================================ */

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
        if (b->conns[i].state != CONN_OPEN && b->conns[i].deadline < due)
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
    size_t n = PLACE_FIXED + b->listener_count + b->conn_count;
    int accepting = b->time.now >= b->accept_at;

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
    for (size_t i = 0; i < b->listener_count; i++)
        poll_put(&b->poll[n++], accepting ? b->listeners[i].fd : -1, POLLIN);
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

/* The second half of a turn, from decisions to bytes on the wire.  0, or -1:
 * the commit failed, and nothing of this turn has left or may leave. */
static int turn_finish(struct broker *b)
{
    session_server_settle(b->server, b->time.now);
    if (store_commit(b->store, b->time.now) != 0)
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

    b->again = 0;
    timeline_read(&b->time);
    timeline_check(b);
    if (rc > 0) {
        if (b->poll[PLACE_SIGNAL].revents != 0)
            signal_drain(b);
        conn_read_all(b);
        accept_all(b);
    }
    return turn_finish(b);
}

/* ============================ 8. Life ==================================== */

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

static void broker_ready(struct broker *b, uint64_t recovered_ms)
{
    struct session_figures figures = *session_figures(b->server);
    char store[1024], line[1280];
    int n;

    ready_escape(b->set.dir, store, sizeof store);
    n = snprintf(line, sizeof line,
                 "holdfast ready port=%u store=%s sessions=%" PRIu64
                 " messages=%" PRIu64 " recovered_ms=%" PRIu64 "\n",
                 address_port(&b->listeners[0].addr), store, figures.sessions,
                 figures.messages, recovered_ms);
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
    settings_seed(&b->set, b->time.now);
    output_open(&b->out, STDOUT_FILENO);
    output_open(&b->err, STDERR_FILENO);
    b->conn_max = limit_raise();
    if (signal_open(b) != 0) {
        fprintf(stderr, "holdfast: cannot catch signals: %s\n",
                strerror(errno));
        return -1;
    }
    if (listener_open_all(b) != 0)
        return -1;
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
 * waiting: DISCONNECT is a courtesy, and so is the index.  0, or -1. */
static int broker_stop(struct broker *b)
{
    uint64_t deadline = b->time.now + STOP_WAIT;

    listener_close_all(b);
    session_server_stop(b->server, b->time.now);
    if (turn_finish(b) != 0)
        return -1;
    while ((b->again || b->conn_count > 0) && b->time.now < deadline &&
           signal_count < 2)
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
    listener_close_all(b);
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

/* ============================ 9. Audit =================================== */
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
