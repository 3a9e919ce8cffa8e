/*
 * test_page.c - the status page and its JSON, as a visitor gets them from the
 * running broker.
 *
 *   1. Tools        a broker, requests, exchanges that must succeed
 *   2. JSON         a strict reader
 *   3. HTML         a strict reader: balanced, quoted, nothing unknown
 *   4. Walkthrough  a session that stays, and the message that waits for it
 *   5. Names        hostile ones in pages, links and JSON
 *   6. Lists        paging, search, filters; long names; damage
 *   7. Facts        figures, stages, options, retained messages
 *   8. Marks        clients that kept and that broke the standard
 *
 * Every page that is asked for goes through the reader of its kind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"

#define ANSWER_MAX (4u << 20) /* bytes of an answer that a test reads */

/* ============================ 1. Tools =================================== */

/* One test's broker, and the answer that came last. */
struct bench {
    char dir[64];           /* made for this test, removed after it */
    char store[96];         /* in it */
    struct client_broker b; /* with a status page on any port */
    char *answer;           /* head and body, ended by a NUL */
    char *body;             /* in answer; NUL-ended */
};

static int bench_setup(void **state)
{
    static const char *const args[] = {"-s", "0", NULL};
    struct bench *t = (struct bench *)mem_new(sizeof *t);

    t->b.out = t->b.err = -1;
    t->answer = (char *)mem_new(ANSWER_MAX + 1);
    *state = t;
    if (client_dir_make(t->dir, sizeof t->dir) != 0)
        return -1;
    snprintf(t->store, sizeof t->store, "%s/data", t->dir);
    return client_broker_start(&t->b, t->store, args);
}

static int bench_teardown(void **state)
{
    struct bench *t = (struct bench *)*state;

    if (t->b.pid > 0)
        client_broker_end(&t->b, SIGKILL);
    client_broker_forget(&t->b);
    client_dir_remove(t->store);
    client_dir_remove(t->dir);
    free(t->answer);
    free(t);
    return 0;
}

/* GET; returns the status. */
static int fetch(struct bench *t, const char *target)
{
    struct client c;
    char *body;
    size_t n;

    assert_int_equal(client_open(&c, t->b.status), 0);
    assert_int_equal(client_send_bytes(&c, "GET ", 4), 0);
    assert_int_equal(client_send_bytes(&c, target, strlen(target)), 0);
    assert_int_equal(
        client_send_bytes(&c, " HTTP/1.1\r\nHost: localhost\r\n\r\n", 30), 0);
    n = client_read_raw(&c, (uint8_t *)t->answer, ANSWER_MAX);
    client_close(&c);
    t->answer[n] = '\0';
    body = strstr(t->answer, "\r\n\r\n");
    assert_non_null(body);
    t->body = body + 4;
    assert_int_equal(strncmp(t->answer, "HTTP/1.1 ", 9), 0);
    return (int)strtol(t->answer + 9, NULL, 10);
}

static void assert_has(const struct bench *t, const char *part)
{
    if (strstr(t->body, part) == NULL)
        fail_msg("\"%s\" is not in: %s", part, t->body);
}

static void assert_lacks(const struct bench *t, const char *part)
{
    if (strstr(t->body, part) != NULL)
        fail_msg("\"%s\" is in: %s", part, t->body);
}

static void join(struct bench *t, struct client *c, const char *id,
                 int64_t expiry)
{
    struct mqtt_packet ack;

    assert_int_equal(client_connect(c, t->b.port, id, 0, expiry, &ack), 0);
}

/* Everything sent before has been seen by the broker. */
static void settle(struct client *c)
{
    struct mqtt_packet packet;

    assert_int_equal(client_send_short(c, MQTT_PINGREQ, 0, 0), 0);
    assert_int_equal(client_expect(c, MQTT_PINGRESP, &packet), 0);
}

/* Waits until the session of this client is offline, then returns. */
static void leave(struct client *c)
{
    assert_int_equal(client_send_short(c, MQTT_DISCONNECT, 0, 0), 0);
    assert_int_equal(client_expect_eof(c), 0);
    client_close(c);
}

/* A session that is subscribed and offline. */
static void leave_session(struct bench *t, const char *id, const char *filter,
                          uint8_t qos)
{
    struct client c;

    join(t, &c, id, CLIENT_NO_EXPIRY);
    if (filter != NULL)
        assert_int_equal(client_subscribe(&c, filter, qos), 0);
    leave(&c);
}

static void publish(struct bench *t, const char *topic, const void *payload,
                    size_t n, uint8_t qos, uint8_t retain)
{
    struct client c;
    struct mqtt_packet ack, p;

    memset(&p, 0, sizeof p);
    p.type = MQTT_PUBLISH;
    p.publish.packet_id = qos > 0 ? 1 : 0;
    p.publish.topic.p = (const uint8_t *)topic;
    p.publish.topic.n = strlen(topic);
    p.publish.payload.p = (const uint8_t *)payload;
    p.publish.payload.n = n;
    p.publish.qos = qos;
    p.publish.retain = retain;
    assert_int_equal(
        client_connect(&c, t->b.port, "publisher", 1, CLIENT_NO_EXPIRY, &ack),
        0);
    assert_int_equal(client_send(&c, &p), 0);
    if (qos == 1)
        assert_int_equal(client_expect(&c, MQTT_PUBACK, &ack), 0);
    settle(&c);
    leave(&c);
}

static void publish_text(struct bench *t, const char *topic, const char *text,
                         uint8_t qos, uint8_t retain)
{
    publish(t, topic, text, strlen(text), qos, retain);
}

/* ============================ 2. JSON ==================================== */
/*
 * RFC 8259 and no more.  A value is where it begins; json_end() says where it
 * ends, or NULL where it is none.
 */

static const char *json_end(const char *p);

static const char *json_digits(const char *p)
{
    if (*p < '0' || *p > '9')
        return NULL;
    while (*p >= '0' && *p <= '9')
        p++;
    return p;
}

static const char *json_number_end(const char *p)
{
    if (*p == '-')
        p++;
    p = *p == '0' ? p + 1 : json_digits(p);
    if (p != NULL && *p == '.')
        p = json_digits(p + 1);
    if (p != NULL && (*p == 'e' || *p == 'E')) {
        p++;
        p = json_digits(*p == '+' || *p == '-' ? p + 1 : p);
    }
    return p;
}

static const char *json_string_end(const char *p)
{
    const char *start = p;

    for (p++; *p != '"'; p++) {
        if ((uint8_t)*p < 0x20)
            return NULL;
        if (*p != '\\')
            continue;
        p++;
        if (*p == 'u' && strspn(p + 1, "0123456789abcdefABCDEF") >= 4)
            p += 4;
        else if (*p == '\0' || strchr("\"\\/bfnrt", *p) == NULL)
            return NULL;
    }
    if (mqtt_utf8_check((const uint8_t *)start, (size_t)(p - start)) !=
        (size_t)(p - start))
        return NULL;
    return p + 1;
}

/* The members of an object or the elements of an array. */
static const char *json_list_end(const char *p, int object)
{
    char end = object ? '}' : ']';

    if (p[1] == end)
        return p + 2;
    do {
        p++;
        if (object) {
            p = *p == '"' ? json_string_end(p) : NULL;
            if (p == NULL || *p++ != ':')
                return NULL;
        }
        p = json_end(p);
    } while (p != NULL && *p == ',');
    return p != NULL && *p == end ? p + 1 : NULL;
}

static const char *json_end(const char *p)
{
    static const char *const words[] = {"true", "false", "null"};

    if (*p == '{' || *p == '[')
        return json_list_end(p, *p == '{');
    if (*p == '"')
        return json_string_end(p);
    for (size_t i = 0; i < 3; i++)
        if (strncmp(p, words[i], strlen(words[i])) == 0)
            return p + strlen(words[i]);
    return json_number_end(p);
}

/* One value and a newline. */
static int json_legal(const char *text)
{
    const char *end = json_end(text);

    return end != NULL && strcmp(end, "\n") == 0;
}

static const char *json_member(const char *object, const char *key)
{
    size_t n = strlen(key);

    for (const char *p = object; *p == '{' || *p == ',';) {
        const char *name = p + 1, *value = json_string_end(name) + 1;
        if (strncmp(name + 1, key, n) == 0 && name[n + 1] == '"')
            return value;
        p = json_end(value);
    }
    fail_msg("no member %s in %s", key, object);
    return NULL;
}

/* The i-th element, or NULL. */
static const char *json_element(const char *array, size_t i)
{
    const char *p = array + 1;

    if (*p == ']')
        return NULL;
    for (; i > 0; i--) {
        p = json_end(p);
        if (*p++ != ',')
            return NULL;
    }
    return p;
}

static uint64_t json_count(const char *array)
{
    uint64_t n = 0;

    while (json_element(array, (size_t)n) != NULL)
        n++;
    return n;
}

/* The text of a string value, unescaped. */
static void json_unescape(const char *p, char *out, size_t cap)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    size_t n = 0;

    assert_int_equal(*p, '"');
    for (p++; *p != '"' && n + 1 < cap; p++) {
        char byte = *p;
        if (byte == '\\') {
            const char *known = strchr(from, *++p);
            byte = known != NULL ? to[known - from] : *p;
            if (*p == 'u') {
                unsigned point = 0;
                assert_int_equal(sscanf(p + 1, "%4x", &point), 1);
                assert_true(point < 0x80);
                byte = (char)point;
                p += 4;
            }
        }
        out[n++] = byte;
    }
    out[n] = '\0';
}

static void assert_json_text(const char *object, const char *key,
                             const char *want)
{
    char text[1024];

    json_unescape(json_member(object, key), text, sizeof text);
    assert_string_equal(text, want);
}

static void assert_json_word(const char *object, const char *key,
                             const char *want)
{
    const char *value = json_member(object, key);

    if (strncmp(value, want, strlen(want)) != 0 ||
        json_end(value) != value + strlen(want))
        fail_msg("%s is not %s in %s", key, want, object);
}

static uint64_t json_figure(const char *object, const char *key)
{
    const char *value = json_member(object, key);

    assert_true(*value >= '0' && *value <= '9');
    return strtoull(value, NULL, 10);
}

static void assert_json_figure(const char *object, const char *key,
                               uint64_t want)
{
    if (json_figure(object, key) != want)
        fail_msg("%s is not %" PRIu64 " in %s", key, want, object);
}

/* GET of JSON; returns its value. */
static const char *api(struct bench *t, const char *target, int status)
{
    assert_int_equal(fetch(t, target), status);
    assert_non_null(strstr(t->answer, "Content-Type: application/json\r\n"));
    if (!json_legal(t->body))
        fail_msg("not JSON: %s", t->body);
    return t->body;
}

static void test_json_reader(void **state)
{
    static const char *const good[] = {"{}\n", "[1,-2.5e+3,0]\n",
                                       "{\"a\":[null,true]}\n",
                                       "\"\\u00e9\\n\\\"\"\n"};
    static const char *const bad[] = {
        "{\n",    "{}",         "{\"a\":}\n",  "[1,]\n",  "{a:1}\n",
        "[01]\n", "\"\x01\"\n", "\"\\x\"\n",   "[1 2]\n", "\"\xff\"\n",
        "[1]x\n", "[1]\n\n",    "{\"a\" 1}\n", "\"a\n",   "[.5]\n"};
    char text[8];

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(json_legal(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (json_legal(bad[i]))
            fail_msg("taken for JSON: %s", bad[i]);
    assert_json_figure("{\"a\":[1,2],\"b\":7}", "b", 7);
    assert_int_equal(json_count("[[1,2],{},3]"), 3);
    json_unescape("\"a\\n\\u0001\\\"\"", text, sizeof text);
    assert_string_equal(text, "a\n\x01\"");
}

/* ============================ 3. HTML ==================================== */
/*
 * What the pages are made of and nothing else: every element closed in its
 * order, every attribute quoted, every & the beginning of a known entity, one
 * script from this very host.
 */

#define HTML_DEPTH 16

struct html {
    const char *p;             /* what is still to be read */
    char open[HTML_DEPTH][16]; /* elements that are open */
    size_t depth;
    const char *wrong; /* NULL = nothing yet */
};

static void html_fail(struct html *h, const char *why)
{
    if (h->wrong == NULL)
        h->wrong = why;
}

static size_t html_name(const char *p)
{
    return strspn(p, "abcdefghijklmnopqrstuvwxyz0123456789-");
}

static int word_in(const char *word, size_t n, const char *const *list)
{
    for (; *list != NULL; list++)
        if (strlen(*list) == n && strncmp(word, *list, n) == 0)
            return 1;
    return 0;
}

/* A character of text or of a value.  What stands in an input is sent back
 * and not shown: it may hold controls. */
static void html_char(struct html *h, int input)
{
    static const char *const known[] = {"&amp;",  "&lt;",  "&gt;",
                                        "&quot;", "&#39;", "&micro;"};
    size_t n = 1;

    if (*h->p == '&') {
        n = 0;
        for (size_t i = 0; i < 6; i++)
            if (strncmp(h->p, known[i], strlen(known[i])) == 0)
                n = strlen(known[i]);
    }
    if (n == 0 || strchr("<>\"", *h->p) != NULL)
        html_fail(h, "a character that is not escaped");
    if (!input && (((uint8_t)*h->p < ' ' && *h->p != '\n') || *h->p == 127))
        html_fail(h, "a control character");
    h->p += n > 0 ? n : 1;
}

static void html_attribute(struct html *h)
{
    static const char *const known[] = {"lang",
                                        "charset",
                                        "name",
                                        "content",
                                        "rel",
                                        "href",
                                        "src",
                                        "defer",
                                        "class",
                                        "id",
                                        "role",
                                        "scope",
                                        "title",
                                        "value",
                                        "type",
                                        "for",
                                        "maxlength",
                                        "http-equiv",
                                        "action",
                                        "tabindex",
                                        "aria-label",
                                        "aria-current",
                                        "aria-labelledby",
                                        "data-key",
                                        "data-label",
                                        NULL};
    size_t n = html_name(h->p);
    int input = n == 5 && strncmp(h->p, "value", n) == 0;

    if (!word_in(h->p, n, known))
        html_fail(h, "an unknown attribute");
    h->p += n;
    if (*h->p != '=')
        return;
    if (*++h->p != '"')
        html_fail(h, "a value without quotes");
    for (h->p++; *h->p != '"' && *h->p != '\0';)
        html_char(h, input);
    h->p += *h->p == '"';
}

static void html_push(struct html *h, const char *name, size_t n)
{
    static const char *const void_elements[] = {"meta", "link", "input", NULL};

    if (word_in(name, n, void_elements))
        return;
    if (h->depth == HTML_DEPTH || n >= sizeof h->open[0]) {
        html_fail(h, "too deep");
        return;
    }
    memcpy(h->open[h->depth], name, n);
    h->open[h->depth++][n] = '\0';
}

static void html_tag(struct html *h)
{
    static const char *const known[] = {
        "html",  "head",   "meta",   "title",   "link",    "script", "noscript",
        "body",  "a",      "header", "p",       "nav",     "ul",     "li",
        "main",  "h1",     "h2",     "span",    "dl",      "div",    "dt",
        "dd",    "small",  "strong", "b",       "section", "form",   "label",
        "input", "button", "table",  "caption", "thead",   "tbody",  "tr",
        "th",    "td",     "code",   NULL};
    const char *tag = h->p, *name = h->p + 1;
    size_t n = html_name(name);

    if (!word_in(name, n, known))
        html_fail(h, "an unknown element");
    if (strncmp(name, "script", n) == 0 && n == 6 &&
        strncmp(tag, "<script src=\"/refresh.js\" defer></script>", 41) != 0)
        html_fail(h, "another script");
    h->p = name + n;
    while (*h->p == ' ') {
        h->p++;
        html_attribute(h);
    }
    if (*h->p != '>')
        html_fail(h, "a tag that does not end");
    h->p += *h->p != '\0';
    html_push(h, name, n);
}

static void html_end_tag(struct html *h)
{
    const char *name = h->p + 2;
    size_t n = html_name(name);

    if (h->depth == 0 || strlen(h->open[h->depth - 1]) != n ||
        strncmp(h->open[h->depth - 1], name, n) != 0)
        html_fail(h, "an end without its beginning");
    h->depth -= h->depth > 0;
    h->p = name + n;
    if (*h->p != '>')
        html_fail(h, "an end tag that does not end");
    h->p += *h->p != '\0';
}

/* NULL, or what is wrong with the page. */
static const char *html_wrong(const char *page, const char **where)
{
    static const char doctype[] = "<!DOCTYPE html>\n";
    struct html h;

    memset(&h, 0, sizeof h);
    h.p = page;
    if (strncmp(page, doctype, strlen(doctype)) != 0)
        html_fail(&h, "no doctype");
    else
        h.p += strlen(doctype);
    while (*h.p != '\0' && h.wrong == NULL) {
        *where = h.p;
        if (h.p[0] == '<' && h.p[1] == '/')
            html_end_tag(&h);
        else if (h.p[0] == '<')
            html_tag(&h);
        else
            html_char(&h, 0);
    }
    if (h.depth > 0)
        html_fail(&h, "an element that is not closed");
    return h.wrong;
}

static void page_with(struct bench *t, const char *target, int status)
{
    const char *where = "", *wrong;

    assert_int_equal(fetch(t, target), status);
    assert_non_null(strstr(t->answer, "Content-Type: text/html; "
                                      "charset=utf-8\r\n"));
    wrong = html_wrong(t->body, &where);
    if (wrong != NULL)
        fail_msg("%s: %s at: %.200s", target, wrong, where);
}

/* GET of a page. */
static void page(struct bench *t, const char *target)
{
    page_with(t, target, 200);
}

static void test_html_reader(void **state)
{
    static const char *const bad[] = {"<p>",
                                      "</p>",
                                      "<p></b>",
                                      "<p>a & b</p>",
                                      "<p>a < b</p>",
                                      "<p x=\"1\"></p>",
                                      "<p class=a></p>",
                                      "<p class=\"<\"></p>",
                                      "<p>\x01</p>",
                                      "<script>1</script>",
                                      "<p onclick=\"x\"></p>",
                                      "<script src=\"//x/\" defer></script>",
                                      "<img src=\"x\">",
                                      "<p class=\"a>x</p>",
                                      "<p>\"</p>",
                                      "<p"};
    const char *where;
    char text[256];

    (void)state;
    assert_null(html_wrong("<!DOCTYPE html>\n<p class=\"a &amp; b\">x &lt; y"
                           "<input name=\"q\"></p>\n",
                           &where));
    assert_non_null(html_wrong("<p></p>", &where));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(text, sizeof text, "<!DOCTYPE html>\n%s", bad[i]);
        if (html_wrong(text, &where) == NULL)
            fail_msg("taken for a page: %s", bad[i]);
    }
}

/* ============================ 4. Walkthrough ============================= */

static void test_walkthrough(void **state)
{
    struct bench *t = (struct bench *)*state;
    const char *payload = "{\"temperature\": 25.5, \"humidity\": 60}";
    const char *s;

    leave_session(t, "robustmq_client", "sensor/temperature", 0);
    page(t, "/");
    assert_has(t, "<a class=\"name\" href=\"/sessions/robustmq_client\">"
                  "robustmq_client</a>");
    assert_has(t, "<b class=\"offline\">offline</b>");
    assert_has(t, "data-label=\"Session expiry\">7 d ");
    assert_has(t, "data-label=\"Queued\" class=\"number\">0</td>");
    assert_has(t, "1 to 1 of 1<");
    publish_text(t, "sensor/temperature", payload, 0, 0);
    page(t, "/");
    assert_has(t, "data-label=\"Queued\" class=\"number\">1 "
                  "<small>QoS 0: 1</small></td>");
    page(t, "/sessions/robustmq_client");
    assert_has(t, ">sensor/temperature<");
    assert_has(t, "<code>{&quot;temperature&quot;: 25.5, "
                  "&quot;humidity&quot;: 60}</code>");
    assert_has(t, ">queued</td>");
    s = api(t, "/api/sessions/robustmq_client", 200);
    assert_json_word(s, "online", "false");
    assert_json_word(s, "address", "null");
    assert_json_figure(s, "expiry_seconds", 604800);
    assert_json_figure(s, "queued_qos0", 1);
    s = json_element(json_member(s, "deliveries"), 0);
    assert_json_text(s, "topic", "sensor/temperature");
    assert_json_text(s, "payload_head_text", payload);
    assert_json_text(s, "stage", "queued");
}

static void test_online(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    const char *s;

    join(t, &c, "here", 60);
    page(t, "/");
    assert_has(t, "<b class=\"online\">online</b>");
    page(t, "/sessions/here");
    assert_has(t, "127.0.0.1:");
    s = api(t, "/api/sessions/here", 200);
    assert_json_word(s, "online", "true");
    assert_json_word(s, "expires_in_ms", "null");
    assert_json_figure(s, "expiry_seconds", 60);
    leave(&c);
    s = api(t, "/api/sessions/here", 200);
    assert_json_word(s, "online", "false");
    assert_in_range(json_figure(s, "expires_in_ms"), 1, 60000);
}

/* Without a script the page is loaded again, unless it is told not to. */
static void test_refresh(void **state)
{
    struct bench *t = (struct bench *)*state;
    const char *reload = "<noscript><meta http-equiv=\"refresh\"";

    page(t, "/?q=a%22b&show=offline");
    assert_has(t, reload);
    assert_has(t, "href=\"?q=a%22b&amp;show=offline&amp;refresh=off\">Pause<");
    assert_has(t, "href=\"?q=a%22b&amp;show=waiting#sessions\">waiting<");
    page(t, "/?q=a%22b&refresh=off");
    assert_lacks(t, reload);
    assert_has(t, "href=\"?q=a%22b\">Resume<");
    assert_int_equal(fetch(t, "/refresh.js"), 200);
    assert_non_null(strstr(t->answer, "Content-Type: text/javascript"));
    assert_int_equal(fetch(t, "/style.css"), 200);
    assert_non_null(strstr(t->answer, "Content-Type: text/css"));
}

static void test_not_there(void **state)
{
    struct bench *t = (struct bench *)*state;
    const char *s;

    page_with(t, "/sessions/%3Cb%3E", 404);
    assert_has(t, "&lt;b&gt;");
    assert_int_equal(fetch(t, "/sessions/"), 404);
    assert_non_null(strstr(t->answer, "Content-Type: text/plain;"));
    assert_int_equal(fetch(t, "/clients/?id="), 404);
    assert_non_null(strstr(t->answer, "Content-Type: text/plain;"));
    page_with(t, "/clients/nobody", 404);
    s = api(t, "/api/sessions/nobody", 404);
    assert_json_text(s, "error", "there is no such session");
}

/* ============================ 5. Names =================================== */

/* The next link to a session in the page from *at on: its href, as an
 * attribute's value.  1, or 0: there is none. */
static int link_next(const char **at, char *href, size_t cap)
{
    static const char before[] = "<a class=\"name\" href=\"";
    const char *p = strstr(*at, before), *end;

    if (p == NULL)
        return 0;
    p += strlen(before);
    end = strchr(p, '"');
    assert_non_null(end);
    assert_true((size_t)(end - p) < cap);
    memcpy(href, p, (size_t)(end - p));
    href[end - p] = '\0';
    *at = end;
    return 1;
}

/* Browsers take these segments away, escaped or not (WHATWG URL, 4.5). */
static void assert_no_steps(const char *href)
{
    static const char *const steps[] = {".",      "..",   "%2E",
                                        "%2E%2E", ".%2E", "%2E."};
    const char *last = strrchr(href, '/');
    size_t n = strcspn(last + 1, "?");

    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        assert_false(n == strlen(steps[i]) &&
                     strncmp(last + 1, steps[i], n) == 0);
}

/* Where the link of the overview with this label leads; "": there is none. */
static void link_labelled(const struct bench *t, const char *label,
                          char *target, size_t cap)
{
    char tail[40];
    const char *end, *p;
    size_t n = 0;

    snprintf(tail, sizeof tail, "\">%s</a>", label);
    end = strstr(t->body, tail);
    if (end != NULL) {
        for (p = end - 1; *p != '"'; p--)
            assert_true(p > t->body);
        target[n++] = '/';
        for (p++; p < end && *p != '#';
             p += strncmp(p, "&amp;", 5) == 0 ? 5 : 1) {
            assert_true(n + 1 < cap);
            target[n++] = *p;
        }
    }
    target[n] = '\0';
}

/* All links of the page at *target, each to its own session, the next of ids.
 * Returns how many; *target: the page's Next, or "". */
static size_t follow_all(struct bench *t, char *target, size_t cap,
                         const char *const *ids)
{
    char links[64][512], path[600];
    const char *at;
    size_t n = 0;

    page(t, target);
    at = t->body;
    while (n < 64 && link_next(&at, links[n], sizeof links[n]))
        n++;
    link_labelled(t, "Next", target, cap);
    for (size_t i = 0; i < n; i++) {
        assert_no_steps(links[i]);
        page(t, links[i]);
        snprintf(path, sizeof path, "/api%.511s", links[i]);
        assert_json_text(api(t, path, 200), "client_id", ids[i]);
    }
    return n;
}

static const char *const hostile[] = {" a b ",
                                      "\"'",
                                      "#",
                                      "%",
                                      "%2F",
                                      "&amp;",
                                      "+",
                                      ".",
                                      "..",
                                      "...",
                                      "/",
                                      "//",
                                      "/..",
                                      "/a/",
                                      "<script>alert(1)</script>",
                                      "?q=1",
                                      "\\u0041",
                                      "a/../b",
                                      "a\x01\x1f\x7f",
                                      "a\xe2\x80\xaez",
                                      "{\"a\":1}",
                                      "\xc3\xa9",
                                      "\xef\xbb\xbf",
                                      "\xef\xbf\xbe",
                                      "\xf0\x9f\x98\x80"};
#define HOSTILE_COUNT (sizeof hostile / sizeof *hostile)

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void test_hostile_clients(void **state)
{
    struct bench *t = (struct bench *)*state;
    const char *ids[HOSTILE_COUNT];
    char target[600] = "/";

    memcpy(ids, hostile, sizeof hostile);
    qsort(ids, HOSTILE_COUNT, sizeof *ids, by_bytes);
    for (size_t i = 0; i < HOSTILE_COUNT; i++)
        leave_session(t, ids[i], NULL, 0);
    assert_int_equal(follow_all(t, target, sizeof target, ids), HOSTILE_COUNT);
    assert_string_equal(target, "");
    /* Each has marks, too; who was heard last comes first. */
    for (size_t i = 0; i < HOSTILE_COUNT / 2; i++) {
        const char *id = ids[i];
        ids[i] = ids[HOSTILE_COUNT - 1 - i];
        ids[HOSTILE_COUNT - 1 - i] = id;
    }
    strcpy(target, "/clients");
    assert_int_equal(follow_all(t, target, sizeof target, ids), HOSTILE_COUNT);
    page(t, "/clients");
    assert_has(t, ">&lt;script&gt;alert(1)&lt;/script&gt;</a>");
    page(t, "/clients/a%E2%80%AEz");
    assert_has(t, "<title>Marks of a{U+202E}z - Holdfast</title>");
    page(t, "/");
    assert_has(t, ">&lt;script&gt;alert(1)&lt;/script&gt;</a>");
    assert_has(t, ">a<span class=\"odd\">U+202E</span>z</a>");
    assert_has(t, "a<span class=\"odd\">\\x01</span>");
    assert_has(t, ">&amp;amp;</a>");
    assert_has(t, "><span class=\"odd\">U+FFFE</span></a>");
    assert_has(t, "><span class=\"odd\">\\x20</span>a b"
                  "<span class=\"odd\">\\x20</span></a>");
    page(t, "/sessions/a%E2%80%AEz");
    assert_has(t, "<title>Session a{U+202E}z - Holdfast</title>");
}

/* Every byte that UTF-8 can begin a character with by itself. */
static void test_every_byte(void **state)
{
    struct bench *t = (struct bench *)*state;
    char names[127][4], target[600] = "/";
    const char *ids[127];
    size_t done = 0;

    for (int i = 0; i < 127; i++) {
        names[i][0] = 'n';
        names[i][1] = (char)(i + 1);
        names[i][2] = 'x';
        names[i][3] = '\0';
        ids[i] = names[i];
        leave_session(t, ids[i], NULL, 0);
    }
    while (*target != '\0')
        done += follow_all(t, target, sizeof target, ids + done);
    assert_int_equal(done, 127);
}

static void test_hostile_messages(void **state)
{
    struct bench *t = (struct bench *)*state;
    static const char bytes[] = "\0<i>\xff\n\x1b'\"&";
    char payload[101];
    const char *list, *s;

    leave_session(t, "s", "#", 1);
    publish(t, "<b>/\"'\x01", bytes, sizeof bytes - 1, 1, 1);
    memset(payload, 'p', 63);
    strcpy(payload + 63, "\xc3\xa9-and-more-than-is-shown");
    publish_text(t, "cut", payload, 1, 1);
    publish_text(t, "empty", "", 1, 0);
    for (int i = 0; i < 2; i++) {
        page(t, i == 0 ? "/sessions/s" : "/retained");
        assert_has(t, "&lt;b&gt;/&quot;&#39;<span class=\"odd\">\\x01</span>");
        assert_has(t,
                   "<code><span class=\"odd\">\\x00</span>&lt;i&gt;"
                   "<span class=\"odd\">\\xFF</span>"
                   "<span class=\"odd\">\\x0A</span>"
                   "<span class=\"odd\">\\x1B</span>&#39;&quot;&amp;</code>");
        assert_has(t, "ppp</code> <small>and 25 bytes more</small>");
    }
    list = json_member(api(t, "/api/sessions/s", 200), "deliveries");
    s = json_element(list, 0);
    assert_json_text(s, "topic", "<b>/\"'\x01");
    assert_json_word(s, "payload_head_text", "null");
    assert_json_text(s, "payload_head_hex", "003c693eff0a1b272226");
    assert_json_figure(s, "payload_bytes", 10);
    payload[63] = '\0';
    assert_json_text(json_element(list, 1), "payload_head_text", payload);
    assert_json_figure(json_element(list, 1), "payload_bytes", 88);
    assert_json_text(json_element(list, 2), "payload_head_text", "");
}

/* What a visitor asks for comes back escaped, too. */
static void test_hostile_queries(void **state)
{
    struct bench *t = (struct bench *)*state;

    leave_session(t, "x", NULL, 0);
    page(t, "/?q=%22%3E%3Cscript%3E%00%FF&show=%3Cb%3E&%3Cb%3E=%22");
    assert_has(t, "value=\"&quot;&gt;&lt;script&gt;\xEF\xBF\xBD"
                  "\xEF\xBF\xBD\"");
    /* What was asked for must be what is asked for again. */
    page(t, "/?q=%20a%01%E2%80%AE%F0%9F%98%80%20");
    assert_has(t, "value=\" a\x01\xE2\x80\xAE\xF0\x9F\x98\x80 \"");
    page_with(t, "/retained?filter=%3Cb%3E%23", 400);
    assert_has(t, "value=\"&lt;b&gt;#\"");
    page(t, "/retained?filter=a%20");
    assert_has(t, "value=\"a \"");
    page(t, "/?after=%FF%00&skip=-1");
    page(t, "/sessions/x?skip=99999999999999999999&subs=1e9");
    (void)api(t, "/api/sessions?limit=999999&q=%22", 200);
    (void)api(t, "/api/sessions?limit=0", 200);
    (void)api(t, "/api/sessions/x?skip=18446744073709551615&limit=x", 200);
}

/* ============================ 6. Lists =================================== */

#define CROWD 120

/* crowd-000 to crowd-119; every third has a message, the last is online. */
static void crowd(struct bench *t, struct client *last)
{
    char id[32];

    for (int i = 0; i < CROWD - 1; i++) {
        snprintf(id, sizeof id, "crowd-%03d", i);
        leave_session(t, id, i % 3 == 0 ? "c" : NULL, 1);
    }
    snprintf(id, sizeof id, "crowd-%03d", CROWD - 1);
    join(t, last, id, 60);
    publish_text(t, "c", "m", 1, 0);
}

/* The page shows these sessions of the crowd, and says so. */
static void assert_range(const struct bench *t, int first, int end,
                         const char *words)
{
    char id[40];

    snprintf(id, sizeof id, ">crowd-%03d</a>", first);
    assert_has(t, id);
    snprintf(id, sizeof id, ">crowd-%03d</a>", end - 1);
    assert_has(t, id);
    snprintf(id, sizeof id, ">crowd-%03d</a>", end);
    assert_lacks(t, id);
    if (first > 0) {
        snprintf(id, sizeof id, ">crowd-%03d</a>", first - 1);
        assert_lacks(t, id);
    }
    assert_has(t, words);
}

/* Follows the link with this label. */
static void follow(struct bench *t, const char *label)
{
    char target[8192];

    link_labelled(t, label, target, sizeof target);
    page(t, target);
}

static void test_paging(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client last;

    crowd(t, &last);
    page(t, "/");
    assert_range(t, 0, 50, ">1 to 50 of 120<");
    assert_lacks(t, ">Previous<");
    follow(t, "Next");
    assert_range(t, 50, 100, ">51 to 100 of 120<");
    follow(t, "Next");
    assert_range(t, 100, 120, ">101 to 120 of 120<");
    assert_lacks(t, ">Next<");
    follow(t, "Previous");
    assert_range(t, 50, 100, ">51 to 100 of 120<");
    follow(t, "Previous");
    assert_range(t, 0, 50, ">1 to 50 of 120<");
    assert_lacks(t, ">Previous<");
    client_close(&last);
}

static void test_search_and_filters(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client last;

    crowd(t, &last);
    page(t, "/?q=CROWD-01");
    assert_has(t, ">1 to 10 of 10<");
    page(t, "/?q=nobody");
    assert_has(t, ">0 to 0 of 0<");
    page(t, "/?show=offline");
    assert_has(t, ">1 to 50 of 119<");
    follow(t, "waiting");
    assert_has(t, ">1 to 40 of 40<");
    follow(t, "online");
    assert_has(t, ">1 to 1 of 1<");
    assert_has(t, ">crowd-119</a>");
    page(t, "/?q=crowd-00&show=waiting");
    assert_has(t, ">1 to 4 of 4<");
    assert_has(t, "<input type=\"hidden\" name=\"show\" value=\"waiting\">");
    page(t, "/?show=offline");
    follow(t, "Next");
    assert_has(t, ">51 to 100 of 119<");
    client_close(&last);
}

static void test_api_paging(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client last;
    char target[600] = "/api/sessions?limit=50", after[64], id[32];
    size_t seen = 0;

    crowd(t, &last);
    for (;;) {
        const char *all = api(t, target, 200), *s;
        const char *list = json_member(all, "sessions");
        assert_json_figure(all, "matched", CROWD);
        assert_json_figure(all, "first", seen);
        for (size_t i = 0; (s = json_element(list, i)) != NULL; i++) {
            snprintf(id, sizeof id, "crowd-%03zu", seen++);
            assert_json_text(s, "client_id", id);
        }
        if (*json_member(all, "next_after") == 'n')
            break;
        json_unescape(json_member(all, "next_after"), after, sizeof after);
        snprintf(target, sizeof target, "/api/sessions?limit=50&after=%s",
                 after);
    }
    assert_int_equal(seen, CROWD);
    assert_int_equal(
        json_count(json_member(
            api(t, "/api/sessions?limit=1000&show=waiting", 200), "sessions")),
        40);
    client_close(&last);
}

static void test_long_queue(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    const char *s;
    char text[32];

    leave_session(t, "s", "t", 1);
    join(t, &c, "publisher", 0);
    for (int i = 0; i < 45; i++) {
        snprintf(text, sizeof text, "number-%d.", i);
        assert_int_equal(client_publish_whole(&c, "t", text, 1), 0);
    }
    leave(&c);
    page(t, "/sessions/s");
    assert_has(t, ">number-0.<");
    assert_has(t, ">number-19.<");
    assert_lacks(t, ">number-20.<");
    assert_has(t, ">1 to 20 of 45<");
    page(t, "/sessions/s?skip=40");
    assert_lacks(t, ">number-39.<");
    assert_has(t, ">number-40.<");
    assert_has(t, ">number-44.<");
    assert_has(t, ">41 to 45 of 45<");
    assert_has(t, "href=\"?skip=20\">Previous</a>");
    s = json_member(api(t, "/api/sessions/s?skip=44", 200), "deliveries");
    assert_int_equal(json_count(s), 1);
    assert_json_text(json_element(s, 0), "payload_head_text", "number-44.");
}

/* One answer reads back so much and no more; the rest is told without. */
static void test_large_messages(void **state)
{
    struct bench *t = (struct bench *)*state;
    static char payload[1572864];
    const char *list;

    leave_session(t, "s", "t", 1);
    memset(payload, 'p', sizeof payload);
    for (int i = 0; i < 3; i++)
        publish(t, "t", payload, sizeof payload, 1, 0);
    list = json_member(api(t, "/api/sessions/s", 200), "deliveries");
    assert_int_equal(json_count(list), 3);
    for (size_t i = 0; i < 2; i++)
        assert_json_figure(json_element(list, i), "payload_bytes",
                           sizeof payload);
    assert_json_word(json_element(list, 2), "topic", "null");
    assert_json_word(json_element(list, 2), "payload_bytes", "null");
    assert_true(json_figure(json_element(list, 2), "packet_bytes") >
                sizeof payload);
    page(t, "/sessions/s");
    assert_has(t, "and 1.5 MiB more");
    assert_has(t, "not read for this page");
}

/* What is searched for is short: each name is looked through for it. */
static void test_long_search(void **state)
{
    struct bench *t = (struct bench *)*state;
    char q[66], target[128];

    memset(q, 'q', sizeof q);
    for (size_t n = 64; n <= 65; n++) {
        q[n] = '\0';
        q[n - 1] = 'q';
        for (int i = 0; i < 2; i++) {
            snprintf(target, sizeof target, "%s?q=%s",
                     i == 0 ? "/" : "/api/sessions", q);
            assert_int_equal(fetch(t, target), n == 64 ? 200 : 400);
        }
    }
    assert_has(t, "64 bytes");
    page(t, "/");
    assert_has(t, " maxlength=\"64\"");
}

/* ---- long names --------------------------------------------------------- */

#define LONG_COUNT 12
#define LONG_NAME 65000

/* The i-th of these names: two digits, then what is longest when escaped. */
static void name_long(char name[LONG_NAME + 1], size_t i)
{
    memset(name, 1, LONG_NAME);
    name[0] = (char)('0' + i / 10);
    name[1] = (char)('0' + i % 10);
    name[LONG_NAME] = '\0';
}

/* An answer ends soon after a MiB: two rows of the longest names may follow,
 * each name six times as long, and a link. */
static void assert_bounded(const struct bench *t)
{
    assert_true(strlen(t->body) < (1u << 20) + 13 * LONG_NAME);
}

/* How often this is in the page. */
static size_t count_of(const struct bench *t, const char *part)
{
    size_t n = 0;

    for (const char *p = t->body; (p = strstr(p, part)) != NULL; p++)
        n++;
    return n;
}

/* Percent-encoded. */
static void escape(const char *text, char *out, size_t cap)
{
    size_t n = 0;

    for (; *text != '\0' && n + 4 < cap; text++)
        n += (size_t)snprintf(out + n, cap - n, "%%%02X", (uint8_t)*text);
    assert_true(*text == '\0');
}

/* Sessions with long Client Identifiers: no answer is long, and whoever goes
 * on sees all of them. */
static void test_long_clients(void **state)
{
    struct bench *t = (struct bench *)*state;
    static char name[LONG_NAME + 1], got[LONG_NAME + 1];
    char target[8192] = "/api/sessions?limit=1000", after[2100], place[6200];
    size_t pages = 0, seen = 0;

    for (size_t i = 0; i < LONG_COUNT; i++) {
        name_long(name, i);
        leave_session(t, name, NULL, 0);
    }
    page(t, "/");
    for (;;) {
        assert_bounded(t);
        seen += count_of(t, "<tr data-key=");
        pages++;
        if (strstr(t->body, ">Next</a>") == NULL)
            break;
        follow(t, "Next");
    }
    assert_int_equal(seen, LONG_COUNT);
    assert_true(pages > 1);
    for (seen = 0;;) {
        const char *all = api(t, target, 200), *s;
        assert_bounded(t);
        for (size_t i = 0; (s = json_element(json_member(all, "sessions"),
                                             i)) != NULL; i++) {
            name_long(name, seen++);
            json_unescape(json_member(s, "client_id"), got, sizeof got);
            assert_string_equal(got, name); /* whole */
        }
        if (*json_member(all, "next_after") == 'n')
            break;
        json_unescape(json_member(all, "next_after"), after, sizeof after);
        escape(after, place, sizeof place);
        snprintf(target, sizeof target, "/api/sessions?limit=1000&after=%s",
                 place);
    }
    assert_int_equal(seen, LONG_COUNT);
}

/* A page shows the first 256 bytes of a name, no character cut in two, and how
 * many there are beside. */
static void test_names_are_cut(void **state)
{
    static const struct {
        size_t n; /* how many a; then e with an acute accent, and b */
        const char *shown;
    } names[] = {{253, "a\xC3\xA9" "b</a>"},
                 {254, "a\xC3\xA9<span class=\"odd\">... and 1 more byte"
                       "</span></a>"},
                 {255, "a<span class=\"odd\">... and 3 more bytes</span></a>"},
                 {256, "a<span class=\"odd\">... and 3 more bytes</span></a>"}};
    struct bench *t = (struct bench *)*state;
    char name[300], target[320];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        memset(name, 'a', names[i].n);
        strcpy(name + names[i].n, "\xC3\xA9" "b");
        leave_session(t, name, NULL, 0);
        snprintf(target, sizeof target, "/?q=%s", "a%C3%A9b");
        page(t, target);
        assert_has(t, names[i].shown);
        snprintf(name + names[i].n, 10, "%s", "%C3%A9b");
        snprintf(target, sizeof target, "href=\"/sessions/%s\"", name);
        assert_has(t, target); /* a link has all of it */
    }
}

/* Long Topic Filters, and messages with long topics: as above. */
static void test_long_lists(void **state)
{
    struct bench *t = (struct bench *)*state;
    static char name[LONG_NAME + 1];
    struct client c;
    char target[128];
    size_t pages = 0, seen = 0, sent = 0, subs = 0, skip = 0;

    join(t, &c, "s", 600);
    for (size_t i = 0; i < LONG_COUNT; i++) {
        name_long(name, i);
        assert_int_equal(client_subscribe(&c, name, 1), 0);
    }
    leave(&c);
    for (size_t i = 0; i < LONG_COUNT; i++) {
        name_long(name, i);
        publish_text(t, name, "m", 1, 0);
    }
    for (; subs < LONG_COUNT || skip < LONG_COUNT; pages++) {
        const char *all, *next;
        snprintf(target, sizeof target,
                 "/api/sessions/s?limit=1000&subs=%zu&skip=%zu", subs, skip);
        all = api(t, target, 200);
        assert_bounded(t);
        seen += json_count(json_member(all, "subscriptions"));
        sent += json_count(json_member(all, "deliveries"));
        next = json_member(all, "next_subs");
        subs = *next == 'n' ? LONG_COUNT : (size_t)strtoul(next, NULL, 10);
        assert_int_equal(seen, subs);
        next = json_member(all, "next_skip");
        skip = *next == 'n' ? LONG_COUNT : (size_t)strtoul(next, NULL, 10);
        assert_int_equal(sent, skip);
    }
    assert_true(pages > 1);
    /* The page: each leads to the next one, by its number. */
    for (seen = 0; seen < LONG_COUNT;) {
        snprintf(target, sizeof target, "/sessions/s?subs=%zu&skip=%d", seen,
                 LONG_COUNT);
        page(t, target);
        assert_bounded(t);
        sent = count_of(t, "<tr data-key=");
        assert_true(sent > 0 && sent < LONG_COUNT);
        seen += sent;
        snprintf(target, sizeof target, "href=\"?subs=%zu\">Next</a>", seen);
        if (seen < LONG_COUNT)
            assert_has(t, target);
    }
    assert_int_equal(seen, LONG_COUNT);
    assert_lacks(t, ">Next</a>");
}

/* ---- damage ------------------------------------------------------------- */

/* Changes the byte of the ledger where this text begins. */
static void damage(const struct bench *t, const char *text)
{
    char path[128], *bytes = t->answer;
    size_t n, at = 0;
    FILE *f;

    snprintf(path, sizeof path, "%s/00000001.log", t->store);
    f = fopen(path, "r+b");
    assert_non_null(f);
    n = fread(bytes, 1, ANSWER_MAX, f);
    while (at < n && (n - at < strlen(text) ||
                      memcmp(bytes + at, text, strlen(text)) != 0))
        at++;
    assert_true(at < n);
    assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
    assert_int_equal(fputc('X', f), 'X');
    assert_int_equal(fclose(f), 0);
}

/* The ledger rots below a broker that runs: the pages say where they cannot
 * read it, and all else goes on. */
static void test_damage(void **state)
{
    struct bench *t = (struct bench *)*state;
    const char *list;

    leave_session(t, "s", "t", 1);
    publish_text(t, "t", "words-that-rot", 1, 1);
    publish_text(t, "t", "sound", 1, 0);
    damage(t, "words-that-rot");
    for (int i = 0; i < 2; i++) {
        page(t, i == 0 ? "/sessions/s" : "/retained");
        assert_has(t, "unreadable: the ledger is damaged here");
        assert_lacks(t, "ords-that-rot");
    }
    list = json_member(api(t, "/api/sessions/s", 200), "deliveries");
    assert_json_word(json_element(list, 0), "damaged", "true");
    assert_json_word(json_element(list, 0), "topic", "null");
    assert_json_word(json_element(list, 0), "payload_bytes", "null");
    assert_json_word(json_element(list, 1), "damaged", "false");
    assert_json_text(json_element(list, 1), "topic", "t");
    publish_text(t, "t", "taken", 1, 0);
    page(t, "/sessions/s");
    assert_has(t, ">taken<");
}

/* ============================ 7. Facts =================================== */

static void test_overview(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client a, b;
    struct mqtt_packet ack;
    const char *o;

    leave_session(t, "one", "x", 1);
    leave_session(t, "two", "x", 1);
    join(t, &a, "three", 60);
    publish_text(t, "x", "hello", 1, 1);
    publish_text(t, "x", "hello", 1, 0);
    o = api(t, "/api/overview", 200);
    assert_json_figure(o, "connections", 1);
    assert_json_figure(o, "sessions", 3);
    assert_json_figure(o, "sessions_online", 1);
    assert_json_figure(o, "sessions_offline", 2);
    assert_json_figure(o, "subscriptions", 2);
    assert_json_figure(o, "deliveries_waiting", 4);
    assert_json_figure(o, "retained_messages", 1);
    assert_json_figure(o, "dropped", 0);
    assert_json_word(o, "store_refuses_writes", "false");
    assert_true(json_figure(o, "syncs") > 0);
    assert_true(json_figure(o, "sync_max_us") >=
                json_figure(o, "sync_mean_us"));
    assert_true(json_figure(o, "store_total_bytes") >=
                json_figure(o, "store_live_bytes"));
    /* Clean Start ends a session, and what waited for it is dropped. */
    assert_int_equal(
        client_connect(&b, t->b.port, "one", 1, CLIENT_NO_EXPIRY, &ack), 0);
    o = api(t, "/api/overview", 200);
    assert_json_figure(o, "dropped", 2);
    assert_json_figure(json_member(o, "dropped_by"), "session_ended", 2);
    assert_json_figure(json_member(o, "dropped_by"), "expired", 0);
    page(t, "/");
    assert_has(t, "<dt>Sessions online</dt>"
                  "<dd><a href=\"/?show=online#sessions\">2</a></dd>");
    assert_has(t, "<dt>Sessions offline</dt>"
                  "<dd><a href=\"/?show=offline#sessions\">1</a></dd>");
    assert_has(t, "<dt>Waiting deliveries</dt>"
                  "<dd><a href=\"/?show=waiting#sessions\">2</a>");
    assert_has(t, "<dt>Connections</dt><dd>2</dd>");
    assert_has(t, "<small>2: the session ended</small>");
    client_close(&a);
    client_close(&b);
}

static void test_stages(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    struct mqtt_packet packet;
    const char *s, *list;

    join(t, &c, "s", 60);
    assert_int_equal(client_subscribe(&c, "x", 2), 0);
    for (uint8_t i = 0; i < 3; i++) {
        struct client p;
        join(t, &p, "publisher", 0);
        assert_int_equal(client_publish_whole(&p, "x", "m", i == 0 ? 1 : 2), 0);
        leave(&p);
        assert_int_equal(client_expect(&c, MQTT_PUBLISH, &packet), 0);
    }
    assert_int_equal(client_answer(&c, &packet), 0);
    assert_int_equal(client_expect(&c, MQTT_PUBREL, &packet), 0);
    assert_int_equal(client_publish(&c, "y", "m", 1, 2, 513, 0), 0);
    assert_int_equal(client_expect(&c, MQTT_PUBREC, &packet), 0);
    page(t, "/sessions/s");
    assert_has(t, ">sent, awaits PUBACK<");
    assert_has(t, ">sent, awaits PUBREC<");
    assert_has(t, ">PUBREC came, awaits PUBCOMP<");
    assert_has(t, "Packet Identifiers: 513</p>");
    s = api(t, "/api/sessions/s", 200);
    assert_json_figure(s, "in_flight", 3);
    assert_json_figure(s, "receiving_count", 1);
    assert_int_equal(strtol(json_member(s, "receiving") + 1, NULL, 10), 513);
    list = json_member(s, "deliveries");
    assert_json_text(json_element(list, 0), "stage", "awaits_puback");
    assert_json_text(json_element(list, 1), "stage", "awaits_pubrec");
    assert_json_text(json_element(list, 2), "stage", "awaits_pubcomp");
    assert_json_figure(json_element(list, 2), "packet_id", 3);
    client_close(&c);
}

/* SUBSCRIBE, all options set, Subscription Identifier 300; a CONNECT with a
 * will in front of it. */
static void test_options_and_will(void **state)
{
    struct bench *t = (struct bench *)*state;
    static const uint8_t connect[] = {
        0x10, 0x1D, 0,   4,   'M',  'Q', 'T', 'T', 5,   4,    0,
        0,    5,    17,  255, 255,  255, 255, 0,   1,   's',  0,
        0,    4,    'w', 'i', 'l',  'l', 0,   1,   'b', 0x82, 0x0B,
        0,    1,    3,   11,  0xAC, 2,   0,   2,   'a', '/'};
    struct client c;
    struct mqtt_packet packet;
    const char *s;

    assert_int_equal(client_open(&c, t->b.port), 0);
    assert_int_equal(client_send_bytes(&c, connect, sizeof connect), 0);
    assert_int_equal(client_send_bytes(&c, "\x2D", 1), 0);
    assert_int_equal(client_expect(&c, MQTT_CONNACK, &packet), 0);
    assert_int_equal(client_expect(&c, MQTT_SUBACK, &packet), 0);
    s = api(t, "/api/sessions/s", 200);
    assert_json_word(s, "will", "true");
    assert_json_word(s, "expires", "false");
    assert_json_word(s, "expiry_seconds", "null");
    s = json_element(json_member(s, "subscriptions"), 0);
    assert_json_text(s, "filter", "a/");
    assert_json_figure(s, "qos", 1);
    assert_json_word(s, "no_local", "true");
    assert_json_word(s, "retain_as_published", "true");
    assert_json_figure(s, "retain_handling", 2);
    assert_json_figure(s, "subscription_id", 300);
    page(t, "/sessions/s");
    assert_has(t, "data-label=\"Retain Handling\" class=\"number\">2</td>");
    assert_has(t, "class=\"number\">300</td>");
    assert_has(t, "<dt>Will</dt><dd>yes</dd>");
    assert_has(t, "<dt>Session expiry</dt><dd>never</dd>");
    client_close(&c);
}

static void test_retained(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;
    char topic[32];

    publish_text(t, "a/1", "red", 1, 1);
    publish_text(t, "b/1", "green", 1, 1);
    page(t, "/retained");
    assert_has(t, ">a/1<");
    assert_has(t, "<code>green</code>");
    page(t, "/retained?filter=%2B%2F1");
    assert_has(t, ">b/1<");
    page(t, "/retained?filter=a%2F%23");
    assert_has(t, ">a/1<");
    assert_lacks(t, ">b/1<");
    page_with(t, "/retained?filter=a%23", 400);
    assert_has(t, "[MQTT-4.7.1-1]");
    page_with(t, "/retained?filter=a%2B", 400);
    assert_has(t, "[MQTT-4.7.1-2]");
    page_with(t, "/retained?filter=%FF", 400);
    assert_has(t, "[MQTT-1.5.4-1]");
    page_with(t, "/retained?filter=%24share%2Fg%2Fa", 400);
    join(t, &c, "publisher", 0);
    for (int i = 0; i < 53; i++) {
        struct mqtt_packet p;
        memset(&p, 0, sizeof p);
        snprintf(topic, sizeof topic, "many/%d", i);
        p.type = MQTT_PUBLISH;
        p.publish.retain = 1;
        p.publish.topic.p = (const uint8_t *)topic;
        p.publish.topic.n = strlen(topic);
        p.publish.payload = p.publish.topic;
        assert_int_equal(client_send(&c, &p), 0);
    }
    settle(&c);
    leave(&c);
    page(t, "/retained?filter=many%2F%23");
    assert_has(t, ">1 to 50 of 53<");
    assert_has(t, "href=\"?filter=many%2F%23&amp;skip=50\">Next</a>");
    page(t, "/retained?filter=many%2F%23&skip=50");
    assert_has(t, ">51 to 53 of 53<");
    assert_has(t, "href=\"?filter=many%2F%23&amp;skip=0\">Previous</a>");
}

/* ============================ 8. Marks =================================== */

/* These stand in the page in this order. */
static void assert_order(const struct bench *t, const char *const *parts)
{
    const char *at = t->body;

    for (; *parts != NULL; parts++) {
        const char *found = strstr(at, *parts);
        if (found == NULL)
            fail_msg("\"%s\" is not in its place in: %s", *parts, t->body);
        at = found + strlen(*parts);
    }
}

/* A subscriber that answers a message, and twice one that it never got. */
static void clumsy(struct bench *t, struct client *c)
{
    struct mqtt_packet packet;

    join(t, c, "clumsy", 60);
    assert_int_equal(client_subscribe(c, "a", 1), 0);
    publish_text(t, "a", "m", 1, 0);
    assert_int_equal(client_expect(c, MQTT_PUBLISH, &packet), 0);
    assert_int_equal(client_answer(c, &packet), 0);
    assert_int_equal(client_send_short(c, MQTT_PUBACK, 77, 0), 0);
    assert_int_equal(client_send_short(c, MQTT_PUBACK, 78, 0), 0);
    settle(c);
}

static const char *mark_of(const char *client, const char *statement)
{
    const char *list = json_member(client, "marks"), *mark;
    char text[32];

    for (size_t i = 0; (mark = json_element(list, i)) != NULL; i++) {
        json_unescape(json_member(mark, "statement"), text, sizeof text);
        if (strcmp(text, statement) == 0)
            return mark;
    }
    fail_msg("%s is not in %s", statement, client);
    return NULL;
}

static void test_broken_marks(void **state)
{
    struct bench *t = (struct bench *)*state;
    static const char *const rows[] = {
        "/clients/clumsy\">clumsy</a>",
        "online</b>",
        "<strong class=\"broken\">1 broken</strong>",
        "/clients/publisher\">publisher</a>",
        "offline</b>",
        ">none</td>",
        NULL};
    static const char *const marks[] = {"<dt>Statements broken</dt>",
                                        "1 broken",
                                        ">Its session</a>",
                                        "<h2>Broken <small>1<",
                                        "[MQTT-2.2.1-5]",
                                        "Identifier 78",
                                        "<strong class=\"broken\">2</strong>",
                                        ">1</td>",
                                        "<h2>Kept <small>",
                                        "[MQTT-3.1.0-1]",
                                        ">1</td>",
                                        "What is judged",
                                        NULL};
    struct client c;

    clumsy(t, &c);
    page(t, "/clients");
    assert_order(t, rows);
    page(t, "/clients/clumsy");
    assert_order(t, marks);
    assert_has(t, "<a href=\"/sessions/clumsy\">");
    assert_null(strstr(strstr(t->body, "<h2>Kept"), "[MQTT-2.2.1-5]"));
    page(t, "/sessions/clumsy");
    assert_has(t, "<a href=\"/clients/clumsy\">");
    client_close(&c);
}

static void test_marks_for_programs(void **state)
{
    struct bench *t = (struct bench *)*state;
    const char *s, *mark;
    struct client c;

    clumsy(t, &c);
    s = api(t, "/api/clients/clumsy", 200);
    assert_json_word(s, "online", "true");
    assert_json_figure(s, "statements_broken", 1);
    assert_json_figure(s, "connections", 1);
    assert_json_figure(s, "packets", 6);
    assert_true(json_figure(s, "heard_first_unix_ms") <=
                json_figure(s, "heard_last_unix_ms"));
    assert_int_equal(json_count(json_member(s, "marks")),
                     json_figure(s, "statements_kept") + 1);
    mark = mark_of(s, "MQTT-2.2.1-5");
    assert_json_figure(mark, "broken", 2);
    assert_json_figure(mark, "kept", 1);
    assert_non_null(strstr(json_member(mark, "how"), "Identifier 78"));
    mark = mark_of(s, "MQTT-3.1.0-1");
    assert_json_figure(mark, "broken", 0);
    assert_json_figure(mark, "kept", 1);
    assert_json_word(mark, "how", "null");
    client_close(&c);
}

/* One that kept all, and whose session ended with its connection. */
static void test_kept_marks(void **state)
{
    struct bench *t = (struct bench *)*state;
    struct client c;

    page(t, "/clients");
    assert_has(t, "No client was heard.");
    join(t, &c, "good", 0);
    assert_int_equal(client_subscribe(&c, "a", 1), 0);
    leave(&c);
    page(t, "/clients/good");
    assert_has(t, "<dt>Statements broken</dt><dd>none</dd>");
    assert_has(t, "<h2>Broken <small>0</small></h2>\n"
                  "<p class=\"empty\">None was seen.</p>");
    assert_has(t, "[MQTT-3.8.3-2]");
    assert_lacks(t, "class=\"broken\"");
    assert_lacks(t, ">Its session<");
    assert_json_figure(api(t, "/api/clients/good", 200), "statements_broken",
                       0);
    assert_json_text(api(t, "/api/clients/nobody", 404), "error",
                     "there is no record of this client");
}

/* A CONNECT that is refused: Will Flag 0, Will QoS 1. */
static void test_marks_of_a_refused_client(void **state)
{
    struct bench *t = (struct bench *)*state;
    static const uint8_t connect[] = {0x10, 14, 0, 4, 'M', 'Q', 'T', 'T',
                                      5,    10, 0, 0, 0,   0,   1,   'x'};
    struct client c;
    const char *s;

    assert_int_equal(client_open(&c, t->b.port), 0);
    assert_int_equal(client_send_bytes(&c, connect, sizeof connect), 0);
    assert_int_equal(client_expect_eof(&c), 0);
    client_close(&c);
    s = api(t, "/api/clients/x", 200);
    assert_json_figure(s, "connections", 0);
    assert_json_word(s, "online", "false");
    assert_json_figure(mark_of(s, "MQTT-3.1.2-11"), "broken", 1);
    page(t, "/clients/x");
    assert_has(t, "[MQTT-3.1.2-11]");
    assert_lacks(t, ">Its session<");
}

/* Who was heard last comes first. */
static void test_paging_of_clients(void **state)
{
    struct bench *t = (struct bench *)*state;
    char id[32];

    for (int i = 0; i < 53; i++) {
        snprintf(id, sizeof id, "crowd-%03d", i);
        leave_session(t, id, NULL, 0);
    }
    page(t, "/clients");
    assert_has(t, ">1 to 50 of 53<");
    assert_has(t, ">crowd-052</a>");
    assert_has(t, ">crowd-003</a>");
    assert_lacks(t, ">crowd-002</a>");
    assert_has(t, "href=\"?skip=50\">Next</a>");
    page(t, "/clients?skip=50");
    assert_has(t, ">51 to 53 of 53<");
    assert_has(t, ">crowd-002</a>");
    assert_has(t, ">crowd-000</a>");
    assert_lacks(t, ">crowd-003</a>");
    assert_lacks(t, ">Next<");
    assert_has(t, "href=\"?skip=0\">Previous</a>");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_reader),
        cmocka_unit_test(test_html_reader),
#define WITH_BROKER(test)                                                      \
    cmocka_unit_test_setup_teardown(test, bench_setup, bench_teardown)
        WITH_BROKER(test_walkthrough),
        WITH_BROKER(test_online),
        WITH_BROKER(test_refresh),
        WITH_BROKER(test_not_there),
        WITH_BROKER(test_hostile_clients),
        WITH_BROKER(test_every_byte),
        WITH_BROKER(test_hostile_messages),
        WITH_BROKER(test_hostile_queries),
        WITH_BROKER(test_paging),
        WITH_BROKER(test_search_and_filters),
        WITH_BROKER(test_api_paging),
        WITH_BROKER(test_long_queue),
        WITH_BROKER(test_large_messages),
        WITH_BROKER(test_long_search),
        WITH_BROKER(test_long_clients),
        WITH_BROKER(test_names_are_cut),
        WITH_BROKER(test_long_lists),
        WITH_BROKER(test_damage),
        WITH_BROKER(test_overview),
        WITH_BROKER(test_stages),
        WITH_BROKER(test_options_and_will),
        WITH_BROKER(test_retained),
        WITH_BROKER(test_broken_marks),
        WITH_BROKER(test_marks_for_programs),
        WITH_BROKER(test_kept_marks),
        WITH_BROKER(test_marks_of_a_refused_client),
        WITH_BROKER(test_paging_of_clients),
    };

    return cmocka_run_group_tests_name("page", tests, NULL, NULL);
}
