/*
 * test_status.c - the HTTP side of the status page, by bytes over loopback.
 *
 *   1. Tools      a broker with its page, one request and its whole answer
 *   2. Requests   each rule and the bytes that break it
 *   3. Visitors   slow ones, many, those that go
 *   4. Places     -s in all its forms, ports that are taken
 *   5. Machines   /metrics by its format's grammar, /healthz
 *   6. Signals    SIGUSR1, SIGHUP
 *   7. The crowd  MQTT goes on whatever visitors do
 *
 * /healthz at a full disk is not tested here: nothing fills the disk of a
 * process that runs on a real one.  When the store is full, test_fail tests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

#define ANSWER_MAX 262144 /* bytes of an answer that a test reads */
#define PLACES 64         /* visitors at a time, as README has it */
#define HEAD_MAX 8192     /* bytes of a request's head, as README has it */
#define LONG_LINE                                                              \
    "GET /api/sessions/m?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"

/* ============================ 1. Tools =================================== */

/* One test's broker. */
struct bench {
    char dir[64];            /* made for this test, removed after it */
    char store[96];          /* a name in it */
    struct client_broker b;  /* pid 0 = does not run */
    struct client mqtt;      /* fd -1 = not connected */
    char answer[ANSWER_MAX]; /* the last one, ended by a NUL */
    size_t n;                /* its bytes */
};

static int bench_setup(void **state)
{
    struct bench *t = (struct bench *)mem_new(sizeof *t);

    t->b.out = t->b.err = -1;
    t->mqtt.fd = -1;
    *state = t;
    if (client_dir_make(t->dir, sizeof t->dir) != 0)
        return -1;
    snprintf(t->store, sizeof t->store, "%s/data", t->dir);
    return 0;
}

static int bench_teardown(void **state)
{
    struct bench *t = (struct bench *)*state;

    client_close(&t->mqtt);
    if (t->b.pid > 0)
        client_broker_end(&t->b, SIGKILL);
    client_broker_forget(&t->b);
    client_dir_remove(t->store);
    client_dir_remove(t->dir);
    free(t);
    return 0;
}

/* Starts it with this -s, and connects an MQTT client. */
static void bench_start(struct bench *t, const char *place)
{
    const char *args[] = {"-s", place, NULL};
    struct mqtt_packet ack;

    client_broker_forget(&t->b);
    assert_int_equal(client_broker_start(&t->b, t->store, args), 0);
    assert_int_equal(
        client_connect(&t->mqtt, t->b.port, "m", 1, CLIENT_NO_EXPIRY, &ack), 0);
}

/* When the answer to a PINGREQ is here, the broker has read and accepted all
 * that was in its sockets before. */
static void bench_ping(struct bench *t)
{
    struct mqtt_packet packet;

    assert_int_equal(client_send_short(&t->mqtt, MQTT_PINGREQ, 0, 0), 0);
    assert_int_equal(client_expect(&t->mqtt, MQTT_PINGRESP, &packet), 0);
}

static void visitor_open(struct bench *t, struct client *c, const char *text)
{
    assert_int_equal(client_open(c, t->b.status), 0);
    assert_int_equal(client_send_bytes(c, text, strlen(text)), 0);
}

/* The same over IPv6.  0, or -1: this machine has none. */
static int visitor_open6(struct bench *t, struct client *c, const char *text)
{
    struct sockaddr_in6 addr;

    memset(c, 0, sizeof *c);
    memset(&addr, 0, sizeof addr);
    addr.sin6_family = AF_INET6;
    addr.sin6_addr = in6addr_loopback;
    addr.sin6_port = htons(t->b.status);
    c->fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (c->fd < 0)
        return -1;
    if (connect(c->fd, (struct sockaddr *)&addr, sizeof addr) != 0) {
        client_close(c);
        return -1;
    }
    assert_int_equal(client_send_bytes(c, text, strlen(text)), 0);
    return 0;
}

/* The whole answer, to the broker's end of the connection; its status, or 0:
 * there is none. */
static int visitor_read(struct bench *t, struct client *c)
{
    int status;

    t->n = client_read_raw(c, (uint8_t *)t->answer, ANSWER_MAX - 1);
    t->answer[t->n] = '\0';
    client_close(c);
    return sscanf(t->answer, "HTTP/1.1 %3d ", &status) == 1 ? status : 0;
}

static int ask_bytes(struct bench *t, const void *bytes, size_t n)
{
    struct client c;

    assert_int_equal(client_open(&c, t->b.status), 0);
    assert_int_equal(client_send_bytes(&c, bytes, n), 0);
    return visitor_read(t, &c);
}

static int ask(struct bench *t, const char *request)
{
    return ask_bytes(t, request, strlen(request));
}

static int get(struct bench *t, const char *path)
{
    char request[256];

    snprintf(request, sizeof request,
             "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
    return ask(t, request);
}

/* The body of the last answer. */
static const char *body(const struct bench *t)
{
    const char *end = strstr(t->answer, "\r\n\r\n");

    assert_non_null(end);
    return end + 4;
}

/* Reads the log, without the lines about MQTT's clients. */
static void log_read(struct bench *t)
{
    char *kept = t->answer, *line = t->answer, *end;

    client_broker_log(&t->b, t->answer, sizeof t->answer);
    for (; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        size_t n = (size_t)(end + 1 - line);
        *end = '\0';
        if (strstr(line, "Z client \"") != NULL)
            continue;
        *end = '\n';
        memmove(kept, line, n);
        kept += n;
    }
    memmove(kept, line, strlen(line) + 1);
}

/* What every answer has, whatever was asked. */
static void assert_headers(const struct bench *t, int has_body)
{
    static const char *const lines[] = {
        "\r\nConnection: close\r\n",
        "\r\nCache-Control: no-store\r\n",
        "\r\nX-Content-Type-Options: nosniff\r\n",
        "\r\nReferrer-Policy: no-referrer\r\n",
        "\r\nContent-Security-Policy: default-src 'none'; script-src 'self'; "
        "style-src 'self'; connect-src 'self'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'\r\n",
        "\r\nDate: ",
        " GMT\r\n",
        "; charset=utf-8\r\n",
    };
    const char *length = strstr(t->answer, "\r\nContent-Length: ");
    size_t n = (size_t)(t->answer + t->n - body(t));

    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (strstr(t->answer, lines[i]) == NULL)
            fail_msg("without \"%s\": %s", lines[i], t->answer);
    assert_non_null(length);
    if (has_body)
        assert_int_equal(strtoul(length + 18, NULL, 10), n);
    else
        assert_int_equal(n, 0);
}

/* ============================ 2. Requests ================================ */

struct exchange {
    const char *request;
    size_t n;
    int status;
};

#define X(status, text)                                                        \
    {                                                                          \
        text, sizeof text - 1, status                                          \
    }
#define HOST "Host: localhost\r\n"
#define LINE "GET /healthz HTTP/1.1\r\n"

static const struct exchange exchanges[] = {
    /* RFC 9112, 2.2: bare LF, and empty lines in front */
    X(200, LINE HOST "\r\n"),
    X(200, "GET /healthz HTTP/1.1\nHost: localhost\n\n"),
    X(200, "\r\n\r\n" LINE HOST "\r\n"),
    X(400, LINE HOST "A: b\rc\r\n\r\n"),
    X(400, "GET /healthz\r HTTP/1.1\r\n" HOST "\r\n"),
    /* RFC 9112, 3: method, one space, target, one space, version */
    X(400, "GET /healthz\r\n" HOST "\r\n"),
    X(400, "GET  /healthz HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /healthz  HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /healthz HTTP/1.1 \r\n" HOST "\r\n"),
    X(400, " GET /healthz HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /health z HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET\t/healthz\tHTTP/1.1\r\n" HOST "\r\n"),
    X(400, "G(T /healthz HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET\r\n\r\n"),
    X(400, "GET / http/1.1\r\n" HOST "\r\n"),
    X(400, "GET / HTTP/11\r\n\r\n" HOST "\r\n"),
    X(400, "GET / HTTP/1.x\r\n" HOST "\r\n"),
    X(400, "\x16\x03\x01\0\xf8\x01\n\n"), /* TLS */
    X(400, "\x10\x0f\0\4MQTT\5\2\n\n"),
    /* RFC 9110, 15.6.6 */
    X(505, "GET /healthz HTTP/2.0\r\n" HOST "\r\n"),
    X(505, "GET /healthz HTTP/0.9\r\n" HOST "\r\n"),
    X(505, "GET /healthz HTTP/3.1\r\n" HOST "\r\n"),
    /* RFC 9110, 2.5: a higher minor version is as good as 1.1 */
    X(200, "GET /healthz HTTP/1.2\r\n" HOST "\r\n"),
    X(200, "GET /healthz HTTP/1.9\r\n" HOST "\r\n"),
    X(400, "GET /healthz HTTP/1.2\r\n\r\n"),
    X(400, "GET /healthz HTTP/1.10\r\n" HOST "\r\n"),
    X(505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    /* RFC 9110, 9.1 and 15.5.6 */
    X(405, "POST /healthz HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nhi"),
    X(405, "DELETE / HTTP/1.1\r\n" HOST "\r\n"),
    X(405, "OPTIONS * HTTP/1.1\r\n" HOST "\r\n"),
    X(405, "CONNECT localhost:80 HTTP/1.1\r\n" HOST "\r\n"),
    X(405, "get /healthz HTTP/1.1\r\n" HOST "\r\n"), /* case matters */
    /* RFC 9112, 3.2: forms of the target */
    X(200, "GET http://localhost/healthz HTTP/1.1\r\n" HOST "\r\n"),
    X(200, "GET HTTP://127.0.0.1:8/healthz HTTP/1.1\r\nHost: a.b\r\n\r\n"),
    X(200, "GET http://localhost HTTP/1.1\r\n" HOST "\r\n"),
    X(200, "GET http://localhost?a=b HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET http://localhost/ HTTP/1.1\r\n\r\n"),
    X(421, "GET http://a.b/healthz HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET http://me@localhost/ HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET https://localhost/ HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET healthz HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET * HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET ?q=a HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /#top HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /\xc3\xa4 HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /\x01 HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /a\0b HTTP/1.1\r\n" HOST "\r\n"),
    /* RFC 3986, 2.1: a % and two digits */
    X(404, "GET /%41%7e%C3%a4 HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /% HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /%4 HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /%4g HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /%g4 HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /?q=%zz HTTP/1.1\r\n" HOST "\r\n"),
    /* queries */
    X(200, "GET /healthz? HTTP/1.1\r\n" HOST "\r\n"),
    X(200, "GET /healthz?&=&a&b=&&c=d=e HTTP/1.1\r\n" HOST "\r\n"),
    X(400, "GET /?1&2&3&4&5&6&7&8&9 HTTP/1.1\r\n" HOST "\r\n"),
    /* paths that are not there */
    X(404, "GET /healthz/ HTTP/1.1\r\n" HOST "\r\n"),
    X(404, "GET /Healthz HTTP/1.1\r\n" HOST "\r\n"),
    X(404, "GET //healthz HTTP/1.1\r\n" HOST "\r\n"),
    X(404, "GET /sessions/a/b HTTP/1.1\r\n" HOST "\r\n"),
    X(404, "GET /../etc/passwd HTTP/1.1\r\n" HOST "\r\n"),
    /* RFC 9112, 5: header lines */
    X(200, LINE "host:localhost\r\nX-A:\r\nX-B: \xff\t \r\n\r\n"),
    X(400, LINE HOST "A : b\r\n\r\n"),
    X(400, LINE HOST "A\t: b\r\n\r\n"),
    X(400, LINE HOST "A: b\r\n c\r\n\r\n"), /* obs-fold */
    X(400, LINE " Host: localhost\r\n\r\n"),
    X(400, LINE HOST "no colon\r\n\r\n"),
    X(400, LINE HOST ": no name\r\n\r\n"),
    X(400, LINE HOST "A: b\0c\r\n\r\n"),
    X(400, LINE HOST "A\0: b\r\n\r\n"),
    X(400, LINE HOST "A: \x7f\r\n\r\n"),
    /* RFC 9112, 3.2: exactly one Host, but none in HTTP/1.0 */
    X(400, LINE "\r\n"),
    X(400, LINE HOST HOST "\r\n"),
    X(400, "GET /healthz HTTP/1.0\r\n" HOST HOST "\r\n"),
    X(200, "GET /healthz HTTP/1.0\r\n\r\n"),
    X(200, "GET /healthz HTTP/1.0\r\n" HOST "\r\n"),
    X(421, "GET /healthz HTTP/1.0\r\nHost: a.b\r\n\r\n"),
    /* Names that lead here, but are not ours, are another's page in a
     * browser; nobody can own an address or localhost. */
    X(200, LINE "Host: LocalHost:8080\r\n\r\n"),
    X(200, LINE "Host: \t127.0.0.1 \t\r\n\r\n"),
    X(200, LINE "Host: 192.0.2.7:80\r\n\r\n"),
    X(200, LINE "Host: [::1]\r\n\r\n"),
    X(200, LINE "Host: [2001:db8::7]:80\r\n\r\n"),
    X(200,
      LINE "Host: [2001:0db8:1111:2222:3333:4444:255.255.255.255]\r\n\r\n"),
    X(200, LINE "Host: localhost:\r\n\r\n"),
    X(421, LINE "Host: example.org\r\n\r\n"),
    X(421, LINE "Host: localhost.example.org\r\n\r\n"),
    X(421, LINE "Host: localhos\r\n\r\n"),
    X(421, LINE "Host: 127.0.0.1.example.org\r\n\r\n"),
    X(421, LINE "Host: 127.0.0.256\r\n\r\n"),
    X(421, LINE "Host: 127.1\r\n\r\n"),
    X(421, LINE "Host: [::1x]\r\n\r\n"),
    X(421, LINE "Host: []\r\n\r\n"),
    X(421, LINE "Host:\r\n\r\n"),
    X(400, LINE "Host: localhost:http\r\n\r\n"),
    X(400, LINE "Host: localhost/\r\n\r\n"),
    X(400, LINE "Host: local host\r\n\r\n"),
    X(400, LINE "Host: [::1\r\n\r\n"),
    X(400, LINE "Host: [::1]80\r\n\r\n"),
    X(400, LINE "Host: me@localhost\r\n\r\n"),
    /* A body is not read, nor what follows the request. */
    X(200, LINE HOST "Content-Length: 5\r\n\r\nhello"),
    X(200, LINE HOST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    X(200, LINE HOST "\r\n" LINE HOST "\r\n"),
    X(200, LINE HOST "\r\nPOST garbage\0\r\n\r\n"),
};

static void test_exchanges(void **state)
{
    struct bench *t = (struct bench *)*state;

    bench_start(t, "0");
    for (size_t i = 0; i < sizeof exchanges / sizeof *exchanges; i++) {
        const struct exchange *x = &exchanges[i];
        int status = ask_bytes(t, x->request, x->n);
        if (status != x->status)
            fail_msg("%d instead of %d for %s", status, x->status, x->request);
        assert_headers(t, 1);
        assert_null(strstr(body(t), "Connection:")); /* one answer, no more */
        if (status == 405)
            assert_non_null(strstr(t->answer, "\r\nAllow: GET, HEAD\r\n"));
        if (status == 200)
            continue;
        /* One line in plain words. */
        assert_non_null(strstr(t->answer, "\r\nContent-Type: text/plain;"));
        assert_true(strlen(body(t)) > 10);
        assert_ptr_equal(strchr(body(t), '\n'), t->answer + t->n - 1);
    }
    log_read(t);
    assert_string_equal(t->answer, ""); /* and none of them in the log */
}

/* A request with so many bytes up to its blank line, of which so many are the
 * request line's. */
static int ask_long(struct bench *t, size_t line, size_t head)
{
    char *request = (char *)mem_new(head + 1);
    size_t n = line - strlen(" HTTP/1.1\r\n");
    int status;

    memset(request, 'a', head);
    memcpy(request, "GET /", 5);
    memcpy(request + n, " HTTP/1.1\r\n", line - n);
    memcpy(request + line, HOST "A: ", strlen(HOST "A: "));
    memcpy(request + head - 4, "\r\n\r\n", 4);
    status = ask_bytes(t, request, head);
    free(request);
    return status;
}

/* RFC 9112, 3: too long a line is 414; RFC 6585, 5: too much header, 431. */
static void test_long(void **state)
{
    struct bench *t = (struct bench *)*state;
    char *line = (char *)mem_new(HEAD_MAX + 1);

    bench_start(t, "0");
    assert_int_equal(ask_long(t, 20, HEAD_MAX), 404);
    assert_int_equal(ask_long(t, 8000, HEAD_MAX), 404);
    assert_int_equal(ask_long(t, 20, HEAD_MAX + 1), 431);
    assert_int_equal(ask_long(t, 8000, HEAD_MAX + 1), 431);
    assert_int_equal(ask_long(t, 20, 10 * HEAD_MAX), 431);
    assert_int_equal(ask_long(t, HEAD_MAX + 1, 2 * HEAD_MAX), 414);
    assert_int_equal(ask_long(t, 10 * HEAD_MAX, 11 * HEAD_MAX), 414);
    assert_headers(t, 1);
    /* Nobody has to wait for an end that cannot come any more. */
    memset(line, 'a', HEAD_MAX);
    assert_int_equal(ask(t, line), 414);
    memcpy(line, LINE, strlen(LINE));
    assert_int_equal(ask(t, line), 431);
    free(line);
}

/* Wherever the network cuts the request: the same answer. */
static void test_cut(void **state)
{
    static const char request[] =
        "\r\n" LINE "Host: [::1]:8080\r\nA: b\r\n\r\n";
    struct bench *t = (struct bench *)*state;
    size_t n = sizeof request - 1;
    struct client c;

    bench_start(t, "0");
    for (size_t cut = 1; cut < n; cut++) {
        assert_int_equal(client_open(&c, t->b.status), 0);
        assert_int_equal(client_send_bytes(&c, request, cut), 0);
        bench_ping(t);
        assert_int_equal(client_send_bytes(&c, request + cut, n - cut), 0);
        assert_int_equal(visitor_read(t, &c), 200);
        assert_string_equal(body(t), "ok\n");
    }
    assert_int_equal(client_open(&c, t->b.status), 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(client_send_bytes(&c, request + i, 1), 0);
        bench_ping(t);
    }
    assert_int_equal(visitor_read(t, &c), 200);
}

/* The header lines of an answer, but for the time. */
static void head_copy(const struct bench *t, char *out, size_t cap)
{
    const char *date = strstr(t->answer, "\r\nDate: ");
    size_t n = (size_t)(body(t) - t->answer), first;

    assert_non_null(date);
    first = (size_t)(date - t->answer);
    assert_true(n < cap);
    memcpy(out, t->answer, n);
    out[n] = '\0';
    memset(out + first, '-', strcspn(date + 2, "\r") + 2);
}

/* RFC 9110, 9.3.2: what GET says, without the body. */
static void test_head(void **state)
{
    static const char *const rests[] = {
        "/healthz HTTP/1.1\r\n" HOST "\r\n", "/retained HTTP/1.0\r\n\r\n",
        "/none HTTP/1.1\r\n" HOST "\r\n",
        "/healthz HTTP/1.1\r\nHost: example.org\r\n\r\n",
        "/healthz HTTP/1.1\r\n" HOST "A : b\r\n\r\n",
        "/healthz HTTP/2.0\r\n" HOST "\r\n"};
    struct bench *t = (struct bench *)*state;
    char request[256], of_get[1024], of_head[1024];

    bench_start(t, "0");
    for (size_t i = 0; i < sizeof rests / sizeof *rests; i++) {
        snprintf(request, sizeof request, "GET %s", rests[i]);
        assert_int_not_equal(ask(t, request), 0);
        assert_headers(t, 1);
        head_copy(t, of_get, sizeof of_get);
        snprintf(request, sizeof request, "HEAD %s", rests[i]);
        assert_int_not_equal(ask(t, request), 0);
        assert_headers(t, 0);
        head_copy(t, of_head, sizeof of_head);
        assert_string_equal(of_head, of_get);
    }
}

/* ============================ 3. Visitors ================================ */

/* One that says nothing, and one that does not come to its end.  This test and
 * that of answers that are not read wait for the clock. */
static void test_slow(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client mute, slow;

    bench_start(t, "0");
    visitor_open(t, &mute, "");
    visitor_open(t, &slow, LINE HOST);
    assert_int_equal(visitor_read(t, &slow), 408);
    assert_headers(t, 1);
    assert_non_null(strstr(body(t), "too long"));
    assert_int_equal(visitor_read(t, &mute), 408);
}

/* One more than there are places: who has waited longest gives way. */
static void test_places(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c[PLACES], more;

    bench_start(t, "0");
    for (size_t i = 0; i < PLACES; i++)
        visitor_open(t, &c[i], LINE);
    bench_ping(t);
    assert_int_equal(get(t, "/healthz"), 200);
    assert_int_equal(visitor_read(t, &c[0]), 408);
    assert_non_null(strstr(body(t), "waiting"));
    /* The others have kept theirs; those who have asked are not put out. */
    for (size_t i = 1; i < PLACES; i++) {
        assert_int_equal(client_send_bytes(&c[i], HOST "\r\n", 19), 0);
        assert_int_equal(visitor_read(t, &c[i]), 200);
    }
    visitor_open(t, &more, LINE HOST "\r\n");
    assert_int_equal(visitor_read(t, &more), 200);
}

/* Many in one turn, over both families, all of whom have asked: each gets its
 * answer. */
static void test_burst(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c[3 * PLACES];

    bench_start(t, "0");
    assert_int_equal(kill(t->b.pid, SIGSTOP), 0);
    for (size_t i = 0; i < 3 * PLACES; i++)
        if (i % 2 == 0 || visitor_open6(t, &c[i], LINE HOST "\r\n") != 0)
            visitor_open(t, &c[i], LINE HOST "\r\n");
    assert_int_equal(kill(t->b.pid, SIGCONT), 0);
    for (size_t i = 0; i < 3 * PLACES; i++)
        assert_int_equal(visitor_read(t, &c[i]), 200);
}

/* Who closes its half is answered; who says nothing is told nothing. */
static void test_half_closed(void **state)
{
    static const struct {
        const char *text;
        int status;
    } halves[] = {
        {LINE HOST "\r\n", 200}, {LINE HOST, 400}, {"GET /", 400}, {"", 0}};
    struct bench *t = (struct bench *)*state;

    bench_start(t, "0");
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
        struct client c;
        visitor_open(t, &c, halves[i].text);
        assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
        assert_int_equal(visitor_read(t, &c), halves[i].status);
        if (halves[i].status != 0)
            assert_headers(t, 1);
        else
            assert_int_equal(t->n, 0);
    }
}

/* Who hangs up costs nothing, and an end is not held up by who stays. */
static void test_hang_up(void **state)
{
    static const struct linger reset = {1, 0};
    struct bench *t = (struct bench *)*state;
    struct client c;

    bench_start(t, "0");
    for (int i = 0; i < 2 * PLACES; i++) {
        visitor_open(t, &c, i % 2 ? LINE : LINE HOST "\r\n");
        assert_int_equal(
            setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset), 0);
        client_close(&c);
    }
    assert_int_equal(get(t, "/healthz"), 200);
    visitor_open(t, &c, LINE);
    bench_ping(t);
    client_leave(&t->mqtt);
    assert_int_equal(client_broker_end(&t->b, SIGTERM), 0);
    assert_int_equal(visitor_read(t, &c), 0);
}

#define UNREAD 24

/* How many of them have got something, waited for so long; *one: one of
 * those. */
static int visitors_answered(const struct client *c, int wait, size_t *one)
{
    struct pollfd ready[UNREAD];
    int answered;

    for (size_t i = 0; i < UNREAD; i++) {
        ready[i].fd = c[i].fd; /* -1 = it has read all that it wanted */
        ready[i].events = POLLIN;
    }
    answered = poll(ready, UNREAD, wait);
    for (size_t i = 0; i < UNREAD; i++)
        if (ready[i].revents != 0)
            *one = i;
    return answered;
}

static void visitors_unread(struct bench *t, struct client *c)
{
    for (size_t i = 0; i < UNREAD; i++)
        visitor_open(t, &c[i], LONG_LINE);
    for (size_t i = 0; i < 2 * UNREAD; i++) /* each is a turn, and an answer */
        bench_ping(t);
}

/* Answers that nobody reads are no more than 16 MiB: who comes later waits
 * until some are read, but not for ever. */
static void test_unread(void **state)
{
    struct bench *t = (struct bench *)*state;
    static char filter[65001];
    struct client c[UNREAD];
    size_t one = 0;
    int answered;

    bench_start(t, "0");
    memset(filter, 1, sizeof filter - 1);
    for (char i = 'a'; i < 'e'; i++) {
        filter[0] = i;
        assert_int_equal(client_subscribe(&t->mqtt, filter, 0), 0);
    }
    visitors_unread(t, c);
    answered = visitors_answered(c, 0, &one);
    assert_true(answered > 3 && answered < UNREAD);
    for (size_t i = 0; i < UNREAD; i++) {
        assert_true(visitors_answered(c, CLIENT_WAIT, &one) > 0);
        assert_int_equal(visitor_read(t, &c[one]), 200);
        assert_true(t->n == ANSWER_MAX - 1); /* there was more */
    }
    visitors_unread(t, c);
    assert_int_equal(get(t, "/healthz"), 503);
    assert_headers(t, 1);
    assert_non_null(strstr(body(t), "not read"));
    for (size_t i = 0; i < UNREAD; i++)
        client_close(&c[i]);
    assert_int_equal(get(t, "/healthz"), 200);
}

/* One less than there may be: beside 5 visitors, of half of 40 descriptors. */
#define CLIENTS 14

/* Visitors do not use up what MQTT's clients need. */
static void test_descriptors(void **state)
{
    struct bench *t = (struct bench *)*state;
    const char *program = getenv("HOLDFAST");
    const char *args[] = {"-c", "ulimit -n 40; exec \"$0\" \"$@\"",
                          NULL, "-p",
                          "0",  "-s",
                          "0",  "-d",
                          NULL, NULL};
    struct client visitors[2 * CLIENTS], clients[CLIENTS];
    struct mqtt_packet ack;
    char kept[512], name[16];

    snprintf(kept, sizeof kept, "%s", program != NULL ? program : "./holdfast");
    args[2] = kept;
    args[8] = t->store;
    assert_int_equal(setenv("HOLDFAST", "/bin/sh", 1), 0);
    assert_int_equal(client_broker_spawn(&t->b, args), 0);
    assert_int_equal(setenv("HOLDFAST", kept, 1), 0);
    assert_int_equal(client_broker_await(&t->b), 0);
    for (int i = 0; i < 2 * CLIENTS; i++)
        visitor_open(t, &visitors[i], "GET");
    for (int i = 0; i < CLIENTS; i++) {
        snprintf(name, sizeof name, "c%d", i);
        assert_int_equal(client_connect(&clients[i], t->b.port, name, 1,
                                        CLIENT_NO_EXPIRY, &ack),
                         0);
    }
    assert_int_equal(get(t, "/healthz"), 200);
    log_read(t);
    assert_string_equal(t->answer, ""); /* no client had to wait */
    for (int i = 0; i < CLIENTS; i++)
        client_leave(&clients[i]);
    for (int i = 0; i < 2 * CLIENTS; i++)
        client_close(&visitors[i]);
}

/* ============================ 4. Places ================================== */

/* Runs a broker that must end by itself; its exit status. */
static int run_fail(struct bench *t, const char *const *args)
{
    int status;

    client_broker_forget(&t->b);
    assert_int_equal(client_broker_spawn(&t->b, args), 0);
    status = client_broker_end(&t->b, 0);
    log_read(t);
    assert_true(status != -1 && WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* In stderr: exactly one line, ours, which holds this. */
static void assert_line(const struct bench *t, const char *part)
{
    const char *end = strchr(t->answer, '\n');

    if (strncmp(t->answer, "holdfast: ", 10) != 0 || end == NULL ||
        end[1] != '\0' || strstr(t->answer, part) == NULL)
        fail_msg("not one line with \"%s\": %s", part, t->answer);
}

static void test_option_wrong(void **state)
{
    static const char *const wrong[] = {"x",
                                        "70000",
                                        "",
                                        ":80",
                                        "127.0.0.1",
                                        "127.0.0.1:",
                                        "::1:0",
                                        "[::1]",
                                        "[::1]:x",
                                        "[]:80",
                                        "[::1]80",
                                        "[a]:80",
                                        "localhost:-1",
                                        "Off",
                                        "80 ",
                                        "0x50",
                                        "[::1:80"};
    struct bench *t = (struct bench *)*state;

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *args[] = {"-p", "0", "-d", t->store, "-s", wrong[i], NULL};
        char part[64];
        snprintf(part, sizeof part, "-s %s is no place", wrong[i]);
        if (run_fail(t, args) != 2)
            fail_msg("-s %s: %s", wrong[i], t->answer);
        assert_line(t, part);
    }
}

/* The last -s counts; a name given there may be asked for. */
static void test_option(void **state)
{
    static const char *const places[] = {"0", "127.0.0.1:0", "localhost:0",
                                         "127.1:0"};
    static const int named[] = {421, 421, 421, 200};
    struct bench *t = (struct bench *)*state;
    char expected[64];

    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        bench_start(t, places[i]);
        if (t->b.status == 0) /* where localhost is ::1 first */
            skip();
        snprintf(expected, sizeof expected, " status=http://127.0.0.1:%u/",
                 t->b.status);
        assert_string_equal(strstr(t->b.ready, " status="), expected);
        assert_int_equal(get(t, "/healthz"), 200);
        assert_int_equal(ask(t, LINE "Host: 127.1\r\n\r\n"), named[i]);
        client_close(&t->mqtt);
        client_broker_end(&t->b, SIGKILL);
        log_read(t);
        assert_string_equal(t->answer, "");
    }
}

/* Both families have the same port. */
static void test_option_v6(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;

    bench_start(t, "0");
    if (visitor_open6(t, &c, LINE HOST "\r\n") != 0)
        skip();
    assert_int_equal(visitor_read(t, &c), 200);
    client_close(&t->mqtt);
    client_broker_end(&t->b, SIGKILL);
    bench_start(t, "[::1]:0");
    assert_non_null(strstr(t->b.ready, " status=http://[::1]:"));
    assert_int_equal(t->b.status, 0);
}

/* It was asked for by name, so it is done, and said. */
static void test_option_open(void **state)
{
    struct bench *t = (struct bench *)*state;

    bench_start(t, "0.0.0.0:0");
    client_close(&t->mqtt);
    client_broker_end(&t->b, SIGKILL);
    log_read(t);
    assert_line(t, "warning: 0.0.0.0:");
}

static void test_off(void **state)
{
    struct bench *t = (struct bench *)*state;

    bench_start(t, "off");
    assert_string_equal(strstr(t->b.ready, " status="), " status=off");
    log_read(t);
    assert_string_equal(t->answer, "");
}

/* -s was given: it must be had, as -p must. */
static void test_taken(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client_broker first;
    char place[8], other[128];
    const char *args[] = {"-p", "0", "-s", place, "-d", other, NULL};

    bench_start(t, "0");
    first = t->b;
    snprintf(place, sizeof place, "%u", t->b.status);
    snprintf(other, sizeof other, "%s/other", t->dir);
    memset(&t->b, 0, sizeof t->b);
    t->b.out = t->b.err = -1;
    assert_int_equal(run_fail(t, args), 1);
    assert_line(t, place);
    assert_line(t, "taken");
    assert_int_not_equal(access(other, F_OK), 0); /* no store was made */
    client_broker_forget(&t->b);
    t->b = first;
}

/* An address of others (RFC 5737): as with -b, but it is -s that is wrong. */
static void test_foreign(void **state)
{
    struct bench *t = (struct bench *)*state;
    const char *args[] = {"-p", "0", "-s", "192.0.2.1:0", "-d", t->store, NULL};

    assert_int_equal(run_fail(t, args), 1);
    assert_line(t, "there can be no status page: 192.0.2.1 is no address of "
                   "this machine; correct -s\n");
}

/* -s was not given: the broker does without. */
static void test_taken_default(void **state)
{
    struct bench *t = (struct bench *)*state;
    const char *args[] = {"-p", "0", "-d", t->store, NULL};
    struct sockaddr_in addr;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&addr, 0, sizeof addr);
    addr.sin_family = AF_INET;
    addr.sin_port = htons(8080);
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    /* If somebody else has the port, it is taken just as well. */
    if (bind(fd, (struct sockaddr *)&addr, sizeof addr) == 0)
        assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(client_broker_spawn(&t->b, args), 0);
    assert_int_equal(client_broker_await(&t->b), 0);
    assert_string_equal(strstr(t->b.ready, " status="), " status=off");
    log_read(t);
    assert_line(t, "the status page is off: port 8080 on 127.0.0.1 is taken");
    close(fd);
}

/* ============================ 5. Machines ================================ */

static void test_healthz(void **state)
{
    struct bench *t = (struct bench *)*state;

    bench_start(t, "0");
    assert_int_equal(get(t, "/healthz"), 200);
    assert_non_null(
        strstr(t->answer, "\r\nContent-Type: text/plain; charset=utf-8\r\n"));
    assert_string_equal(body(t), "ok\n");
}

#define NAME_CHARS "abcdefghijklmnopqrstuvwxyz0123456789_"
#define SERIES_MAX 512

/* The exposition while it is read. */
struct exposition {
    char name[96];                /* of the metric that is being read */
    char type[16];                /* its type; "" before the TYPE line */
    char names[SERIES_MAX][96];   /* of all metrics so far */
    char series[SERIES_MAX][192]; /* name and labels of all samples */
    double values[SERIES_MAX];    /* the samples */
    size_t name_n, series_n;      /* how many of each */
    double bucket, le;            /* of a histogram: the last bucket */
    int sums, counts;             /* of a histogram: seen */
};

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

/* By Prometheus's conventions: base units, in plural, at the end; _total for
 * counters and for them alone; endings that belong to histograms. */
static void check_name(const char *name, const char *type)
{
    static const char *const reserved[] = {"_count", "_sum", "_bucket"};
    static const char *const units[] = {
        "milliseconds", "microseconds", "minutes", "hours", "days", "kilobytes",
        "_ms",          "_us",          "_kb",     "_mb",   "bits"};
    int counter = strcmp(type, "counter") == 0;

    assert_true(strncmp(name, "holdfast_", 9) == 0 ||
                strncmp(name, "process_", 8) == 0);
    assert_int_equal(strspn(name, NAME_CHARS), strlen(name));
    assert_int_equal(ends_with(name, "_total"), counter);
    assert_true(counter || strcmp(type, "gauge") == 0 ||
                strcmp(type, "histogram") == 0);
    assert_null(strstr(name, type));
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        assert_false(ends_with(name, reserved[i]));
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        assert_null(strstr(name, units[i]));
    if (strcmp(type, "histogram") == 0)
        assert_true(ends_with(name, "_seconds"));
}

/* A histogram has all its parts before the next metric begins. */
static void check_end(struct exposition *e)
{
    if (strcmp(e->type, "histogram") == 0)
        assert_true(e->sums == 1 && e->counts == 1);
    else if (e->name[0] != '\0')
        assert_string_not_equal(e->type, "");
    e->bucket = e->le = 0;
    e->sums = e->counts = 0;
}

/* HELP first, once; TYPE next, once. */
static void check_comment(struct exposition *e, const char *line)
{
    char name[96], type[16];
    int at = 0;

    if (sscanf(line, "# HELP %95s %n", name, &at) == 1) {
        assert_true(at > 0 && line[at] != '\0');
        check_end(e);
        for (size_t i = 0; i < e->name_n; i++)
            assert_string_not_equal(e->names[i], name);
        snprintf(e->names[e->name_n++], 96, "%s", name);
        snprintf(e->name, sizeof e->name, "%s", name);
        e->type[0] = '\0';
        return;
    }
    assert_int_equal(sscanf(line, "# TYPE %95s %15s%n", name, type, &at), 2);
    assert_int_equal(line[at], '\0');
    assert_string_equal(name, e->name);
    assert_string_equal(e->type, "");
    snprintf(e->type, sizeof e->type, "%s", type);
    check_name(name, type);
}

/* {a="b",c="d"}; returns what follows.  *le: the value of le, or -1. */
static const char *check_labels(const char *at, double *le)
{
    *le = -1;
    if (*at != '{')
        return at;
    do {
        const char *name = ++at;
        size_t n = strspn(name, NAME_CHARS);
        assert_true(n > 0);
        assert_memory_equal(name + n, "=\"", 2);
        at = name + n + 2;
        if (n == 2 && memcmp(name, "le", 2) == 0)
            *le = strtod(at, NULL); /* +Inf too */
        for (; *at != '"'; at++) {
            assert_int_not_equal(*at, '\0');
            if (*at == '\\')
                assert_non_null(strchr("\\\"n", *++at));
        }
        at++;
    } while (*at == ',');
    assert_int_equal(*at, '}');
    return at + 1;
}

/* Which part of its histogram a sample is, and whether it fits the others. */
static void check_part(struct exposition *e, const char *part, double le,
                       double value)
{
    if (strcmp(part, "_bucket") == 0) {
        assert_true(le > e->le && value >= e->bucket);
        e->le = le;
        e->bucket = value;
        return;
    }
    assert_true(le == -1);
    if (strcmp(part, "_sum") == 0) {
        e->sums++;
        return;
    }
    assert_string_equal(part, "_count");
    assert_true(e->le > 1e300); /* +Inf was the last */
    assert_true(value == e->bucket);
    e->counts++;
}

static void check_sample(struct exposition *e, const char *line)
{
    size_t n = strspn(line, NAME_CHARS), length;
    const char *end;
    char *rest, name[96];
    double le, value;

    end = check_labels(line + n, &le);
    length = (size_t)(end - line);
    assert_int_equal(*end, ' ');
    value = strtod(end + 1, &rest);
    assert_true(rest > end + 1 && *rest == '\0' && value >= 0);
    snprintf(name, sizeof name, "%.*s", (int)n, line);
    assert_memory_equal(name, e->name, strlen(e->name));
    if (strcmp(e->type, "histogram") == 0)
        check_part(e, name + strlen(e->name), le, value);
    else
        assert_true(strcmp(name, e->name) == 0 && e->type[0] != '\0' &&
                    le == -1);
    assert_true(e->series_n < SERIES_MAX && length < sizeof e->series[0]);
    snprintf(e->series[e->series_n], sizeof e->series[0], "%.*s", (int)length,
             line);
    for (size_t i = 0; i < e->series_n; i++)
        assert_string_not_equal(e->series[i], e->series[e->series_n]);
    e->values[e->series_n++] = value;
}

/* Asks for /metrics and holds every line of it against the format. */
static void exposition_get(struct bench *t, struct exposition *e)
{
    char *line, *end;

    memset(e, 0, sizeof *e);
    assert_int_equal(get(t, "/metrics"), 200);
    assert_headers(t, 1);
    assert_non_null(strstr(t->answer, "\r\nContent-Type: text/plain; "
                                      "version=0.0.4; charset=utf-8\r\n"));
    for (line = strstr(t->answer, "\r\n\r\n") + 4; *line != '\0';
         line = end + 1) {
        end = strchr(line, '\n');
        assert_non_null(end);
        *end = '\0';
        if (*line == '#')
            check_comment(e, line);
        else
            check_sample(e, line);
    }
    check_end(e);
    assert_true(e->name_n > 20);
}

static double sample(const struct exposition *e, const char *series)
{
    for (size_t i = 0; i < e->series_n; i++)
        if (strcmp(e->series[i], series) == 0)
            return e->values[i];
    fail_msg("no sample %s", series);
    return -1;
}

static void assert_sample(const struct exposition *e, const char *series,
                          double value)
{
    if (sample(e, series) != value)
        fail_msg("%s is %g, not %g", series, sample(e, series), value);
}

/* One session online, one offline with a message that is retained, too. */
static void metrics_scene(struct bench *t)
{
    static const uint8_t nonsense[] = {0, 0};
    struct client c;
    struct mqtt_packet packet;

    assert_int_equal(
        client_connect(&c, t->b.port, "away\"\\\n", 0, 100, &packet), 0);
    assert_int_equal(client_subscribe(&c, "a/#", 1), 0);
    assert_int_equal(client_subscribe(&c, "b", 1), 0);
    client_leave(&c);
    assert_int_equal(
        client_connect(&c, t->b.port, "x", 1, CLIENT_NO_EXPIRY, &packet), 0);
    assert_int_equal(client_send_bytes(&c, nonsense, sizeof nonsense), 0);
    assert_int_equal(client_expect_eof(&c), 0);
    client_close(&c);
    memset(&packet, 0, sizeof packet);
    packet.type = MQTT_PUBLISH;
    packet.publish.topic.p = (const uint8_t *)"a/b";
    packet.publish.topic.n = 3;
    packet.publish.payload = packet.publish.topic;
    packet.publish.qos = packet.publish.retain = 1;
    packet.publish.packet_id = 1;
    assert_int_equal(client_send(&t->mqtt, &packet), 0);
    assert_int_equal(client_expect(&t->mqtt, MQTT_PUBACK, &packet), 0);
}

static void test_metrics(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct exposition *e = (struct exposition *)mem_new(sizeof *e);
    double syncs, turns;

    bench_start(t, "0");
    exposition_get(t, e);
    assert_sample(e, "holdfast_build_info{version=\"0.1.0\"}", 1);
    assert_sample(e, "holdfast_connections", 1);
    assert_sample(e, "holdfast_deliveries", 0);
    assert_sample(e, "holdfast_http_requests_total{class=\"2xx\"}", 0);
    assert_sample(e, "holdfast_store_full", 0);
    syncs = sample(e, "holdfast_store_sync_duration_seconds_count");
    turns = sample(e, "holdfast_turn_duration_seconds_count");
    metrics_scene(t);
    assert_int_equal(get(t, "/none"), 404);
    assert_int_equal(ask(t, "GET / HTTP/3.0\r\n\r\n"), 505);
    exposition_get(t, e);
    assert_sample(e, "holdfast_sessions{state=\"online\"}", 1);
    assert_sample(e, "holdfast_sessions{state=\"offline\"}", 1);
    assert_sample(e, "holdfast_subscriptions", 2);
    assert_sample(e, "holdfast_messages", 1);
    assert_sample(e, "holdfast_deliveries", 1);
    assert_sample(e, "holdfast_retained_messages", 1);
    assert_sample(e, "holdfast_http_requests_total{class=\"2xx\"}", 1);
    assert_sample(e, "holdfast_http_requests_total{class=\"4xx\"}", 1);
    assert_sample(e, "holdfast_http_requests_total{class=\"5xx\"}", 1);
    assert_sample(e, "holdfast_connections_accepted_total", 3);
    assert_sample(e, "holdfast_packets_received_total{type=\"CONNECT\"}", 3);
    assert_sample(e, "holdfast_packets_received_total{type=\"SUBSCRIBE\"}", 2);
    assert_sample(e, "holdfast_packets_sent_total{type=\"PUBACK\"}", 1);
    assert_sample(e, "holdfast_payload_received_bytes_total", 3);
    assert_sample(e, "holdfast_payload_sent_bytes_total", 0);
    /* What follows a type of 0 is malformed (2.1.2). */
    assert_sample(e,
                  "holdfast_refused_total{code=\"0x81\","
                  "reason=\"Malformed Packet\"}",
                  1);
    assert_sample(e, "holdfast_dropped_total{reason=\"expired\"}", 0);
    /* CONNACK, SUBACK and PUBACK each came after a sync. */
    assert_true(sample(e, "holdfast_store_sync_duration_seconds_count") >=
                syncs + 4);
    assert_true(sample(e, "holdfast_turn_duration_seconds_count") > turns);
    assert_true(sample(e, "holdfast_turn_duration_max_seconds") <=
                sample(e, "holdfast_turn_duration_seconds_sum"));
    assert_true(sample(e, "holdfast_store_live_bytes") <=
                sample(e, "holdfast_store_bytes"));
    free(e);
}

/* ============================ 6. Signals ================================= */

/* Waits until stderr holds this. */
static void await_log(struct bench *t, const char *part)
{
    uint64_t deadline = client_clock() + CLIENT_WAIT;

    do {
        assert_true(client_clock() < deadline);
        bench_ping(t);
        log_read(t);
    } while (strstr(t->answer, part) == NULL);
}

static void test_usr1(void **state)
{
    struct bench *t = (struct bench *)*state;

    bench_start(t, "off");
    assert_int_equal(kill(t->b.pid, SIGUSR1), 0);
    await_log(t, "longest turn");
    assert_non_null(strstr(t->answer, "overview: holdfast "));
    assert_non_null(strstr(t->answer, "; 1 connection; 1 session, 1 of them "
                                      "online; 0 subscriptions\n"));
    assert_non_null(strstr(t->answer, "overview: 0 messages of 0 bytes "));
    assert_non_null(strstr(t->answer, ", in 1 segment\n"));
    assert_non_null(strstr(t->answer, "overview: store of "));
    assert_int_equal(client_broker_end(&t->b, SIGTERM), 0);
}

static void test_hup(void **state)
{
    struct bench *t = (struct bench *)*state;

    bench_start(t, "0");
    assert_int_equal(kill(t->b.pid, SIGHUP), 0);
    bench_ping(t);
    assert_int_equal(get(t, "/healthz"), 200);
    log_read(t);
    assert_string_equal(t->answer, "");
    client_leave(&t->mqtt);
    assert_int_equal(client_broker_end(&t->b, SIGTERM), 0);
}

/* ============================ 7. The crowd =============================== */

#define MALFORMED 10000
#define SLOW 200
#define BATCH 50

/* Some that are wrong, each in its own way, all at once. */
static void crowd_batch(struct bench *t, size_t first)
{
    struct client c[BATCH];
    size_t all = sizeof exchanges / sizeof *exchanges;

    for (size_t i = 0; i < BATCH; i++) {
        const struct exchange *x = &exchanges[(first + i) % all];
        assert_int_equal(client_open(&c[i], t->b.status), 0);
        assert_int_equal(client_send_bytes(&c[i], x->request, x->n), 0);
    }
    bench_ping(t);
    assert_int_equal(client_publish_whole(&t->mqtt, "a", "b", 1), 0);
    for (size_t i = 0; i < BATCH; i++)
        assert_int_equal(visitor_read(t, &c[i]),
                         exchanges[(first + i) % all].status);
}

/* Slow ones and malformed ones: MQTT goes on. */
static void test_crowd(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client slow[SLOW];

    bench_start(t, "0");
    for (size_t i = 0; i < SLOW; i++)
        visitor_open(t, &slow[i], LINE);
    bench_ping(t);
    for (size_t i = 0; i < MALFORMED; i += BATCH) {
        size_t which = i / BATCH % SLOW;
        crowd_batch(t, i);
        if (slow[which].fd >= 0) /* one more byte, if it is still there */
            (void)client_send_bytes(&slow[which], "A", 1);
    }
    for (size_t i = 0; i < SLOW; i++)
        client_close(&slow[i]);
    bench_ping(t);
    assert_int_equal(get(t, "/healthz"), 200);
}

#define T(name, function)                                                      \
    {                                                                          \
        name, function, bench_setup, bench_teardown, NULL                      \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        T("each rule of HTTP, and what breaks it", test_exchanges),
        T("too long: 414, 431", test_long),
        T("a request cut at every byte", test_cut),
        T("HEAD is GET without a body", test_head),
        T("slow: 408", test_slow),
        T("one more than there are places", test_places),
        T("a burst of good ones", test_burst),
        T("half-closed", test_half_closed),
        T("hanging up, and the broker's end", test_hang_up),
        T("answers that are not read: 503", test_unread),
        T("visitors do not use up descriptors", test_descriptors),
        T("-s: wrong forms", test_option_wrong),
        T("-s: forms, and names that may be asked for", test_option),
        T("-s: IPv6", test_option_v6),
        T("-s: an open address is warned of", test_option_open),
        T("-s off", test_off),
        T("-s: port taken", test_taken),
        T("-s: not ours", test_foreign),
        T("no -s: port taken", test_taken_default),
        T("/healthz", test_healthz),
        T("/metrics, by the grammar and the conventions", test_metrics),
        T("SIGUSR1: the overview in the log", test_usr1),
        T("SIGHUP: nothing", test_hup),
        T("MQTT goes on among malformed and slow visitors", test_crowd),
    };

    return cmocka_run_group_tests_name("status", tests, NULL, NULL);
}
