/*
 * test_marks.c - the record of how clients keep their side of the standard.
 *
 *   1. the table    for each statement of the record: how a client keeps it,
 *                   and how it breaks it
 *   2. the others   the client's statements that are not in the record
 *   3. lives        clients that break nothing; who is forgotten; the log
 */
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "inspect.h"
#include "notation.h"

/* ==== 1. the table ==========================================================
 *
 * A script is a list of steps, separated by semicolons: a packet in the
 * notation ("connect" opens a connection first), or
 *
 *     open           a connection on which CONNECT comes as a frame
 *     frame 30 0001  a packet: first byte, and all behind the length
 *     hex C000       bytes
 *     fill 20        so many QoS 2 PUBLISHes, identifiers from 1 on
 *     wait 500       milliseconds pass
 *     cut            the network fails
 *     hold, turn     nothing leaves the server in between
 *     no-alias       the server starts anew with Topic Alias Maximum 0
 *     server-ka      the server starts anew with Server Keep Alive 10
 */

#define ON "connect c1 id=x; "
#define STAY "connect c0 id=x x=100; "
#define SELF1 ON "subscribe #90 a,q1; publish q1 #91 a =1; "
#define SELF2 ON "subscribe #90 a,q2; publish q1 #91 a =1; "
#define SELF2_ALL ON "subscribe #90 a,q2; publish q2 #91 a =1; pubrel #91; "
#define CONNECT_FRAME(flags, rest)                                             \
    "open; frame 10 00044D51545405" flags "000000000178" rest

struct row {
    const char *id;
    const char *kept;   /* a script that keeps it; NULL = see another row, or
                           with says why not */
    const char *broken; /* one that breaks it; NULL = why says why not */
    const char *with;   /* what else these scripts break, or why not */
};

static const char nameless[] = "who breaks it has not said who it is";
static const char endless[] = "an answer may always come later";

static const struct row rows[] = {
    {"MQTT-1.5.4-1", ON, ON "frame E0 00051F0002C328", ""},
    {"MQTT-1.5.4-2", ON, ON "frame E0 00041F000100", ""},
    {"MQTT-1.5.5-1", ON, ON "hex C08000", ""},
    {"MQTT-1.5.7-1", ON "publish q0 a =1 up=n:v",
     ON "frame 30 00016108260002C328000176", ""},
    {"MQTT-2.1.3-1", ON "pingreq", ON "hex C100", ""},
    {"MQTT-2.2.1-3", ON "subscribe #1 a; unsubscribe #1 a; publish q1 #1 a =1",
     ON "publish q2 #5 a =1; publish q2 #5 a =2", "MQTT-4.3.3-1"},
    {"MQTT-2.2.1-3", NULL, ON "publish q2 #5 a =1; subscribe #5 a", ""},
    {"MQTT-2.2.1-3", NULL, ON "hold; subscribe #5 a; unsubscribe #5 a; turn",
     ""},
    {"MQTT-2.2.1-3", NULL,
     ON "publish q2 #5 a =1; hold; pubrel #5; publish q1 #5 a =2; turn",
     "MQTT-4.3.2-1"},
    {"MQTT-2.2.1-3", NULL, ON "frame 82 00000000016100", ""},
    {"MQTT-2.2.1-5", SELF1 "puback #1", ON "puback #9", ""},
    {"MQTT-2.2.1-5", SELF2_ALL "pubrec #1; pubcomp #1", ON "pubrec #9", ""},
    {"MQTT-2.2.1-5", ON "publish q2 #1 a =1; pubrel #1", ON "frame 40 0000",
     ""},
    {"MQTT-2.2.2-1", ON "publish q0 a =1", ON "frame 30 000161", ""},
    {"MQTT-3.1.0-1", ON, NULL, nameless},
    {"MQTT-3.1.2-1", ON, "open; frame 10 00044D515458050200000000 0178", ""},
    {"MQTT-3.1.2-9", "connect c1 id=x will q0 w =g", CONNECT_FRAME("06", ""),
     ""},
    {"MQTT-3.1.2-11", ON, CONNECT_FRAME("0A", ""), ""},
    {"MQTT-3.1.2-12", "connect c1 id=x will q2 w =g",
     CONNECT_FRAME("1E", "00000177000167"), ""},
    {"MQTT-3.1.2-13", ON, CONNECT_FRAME("22", ""), ""},
    {"MQTT-3.1.2-16", ON, CONNECT_FRAME("02", "000175"), ""},
    {"MQTT-3.1.2-17", "connect c1 id=x user=u", CONNECT_FRAME("82", ""), ""},
    {"MQTT-3.1.2-18", "connect c1 id=x user=u",
     CONNECT_FRAME("82", "000175000170"), ""},
    {"MQTT-3.1.2-19", "connect c1 id=x user=u pass=p",
     NULL, "what is read as its Client Identifier may be the Password"},
    {"MQTT-3.1.2-20", "connect c1 id=x ka=10; wait 10000; pingreq",
     "connect c1 id=x ka=10; wait 11001; pingreq", ""},
    {"MQTT-3.1.2-20", NULL, "connect c1 id=x ka=1; wait 1500", ""},
    {"MQTT-3.1.2-21", "server-ka; connect c1 id=x ka=0; wait 10000; pingreq",
     "server-ka; connect c1 id=x ka=99; wait 11001; pingreq", "MQTT-3.2.2-21"},
    {"MQTT-3.1.3-3", ON, NULL, nameless},
    {"MQTT-3.1.3-4", ON, NULL, nameless},
    {"MQTT-3.1.3-11", "connect c1 id=x will q0 w =g",
     CONNECT_FRAME("06", "000002C328000167"), "MQTT-1.5.4-1"},
    {"MQTT-3.1.3-12", "connect c1 id=x user=u", CONNECT_FRAME("82", "0002C328"),
     "MQTT-1.5.4-1"},
    {"MQTT-3.2.2-15", ON "pingreq", ON "hex 30C19A0C", ""},
    {"MQTT-3.2.2-17", ON "publish q0 a =1 ta=8", ON "publish q0 a =1 ta=9",
     "MQTT-3.3.2-9"},
    {"MQTT-3.2.2-18", "no-alias; " ON "publish q0 a =1",
     "no-alias; " ON "publish q0 a =1 ta=1", ""},
    {"MQTT-3.2.2-21", "server-ka; connect c1 id=x ka=0; wait 9000; pingreq",
     "server-ka; connect c1 id=x ka=0; wait 15000", "MQTT-3.1.2-21"},
    {"MQTT-3.3.1-1",
     STAY "publish q2 #5 a =1; cut; " STAY "publish q2 dup #5 a =1",
     STAY "publish q2 #5 a =1; cut; " STAY "publish q2 #5 a =1", ""},
    {"MQTT-3.3.1-1", STAY "cut; " STAY "publish q1 dup #5 a =1", NULL,
     "at QoS 1 a server does not know what it acknowledged before"},
    {"MQTT-3.3.1-2", ON "publish q0 a =1", ON "frame 38 00016100",
     "MQTT-4.3.1-1"},
    {"MQTT-3.3.1-4", ON "publish q0 a =1", ON "frame 36 000161000100", ""},
    {"MQTT-3.3.2-1", ON "publish q0 a =1", ON "frame 30 0002C32800", ""},
    {"MQTT-3.3.2-2", ON "publish q0 a =1", ON "publish q0 a/+ =1",
     "MQTT-4.7.0-1"},
    {"MQTT-3.3.2-7", ON "publish q0 a =1 ta=1; frame 30 000003230001",
     ON "publish q0 a =1 ta=1; cut; " ON "frame 30 000003230001", ""},
    {"MQTT-3.3.2-8", ON "publish q0 a =1 ta=1", ON "frame 30 00016103230000",
     ""},
    {"MQTT-3.3.2-9", ON "publish q0 a =1 ta=1", ON "publish q0 a =1 ta=99",
     "MQTT-3.2.2-17"},
    {"MQTT-3.3.2-10",
     "connect c1 id=x tam=4; subscribe #1 a; publish q0 a =1; disconnect 00",
     "connect c1 id=x tam=4; subscribe #1 a; publish q0 a =1; disconnect 94",
     ""},
    {"MQTT-3.3.2-13", ON "publish q0 a =1 rt=r",
     ON "frame 30 00016105080002C328", "MQTT-1.5.4-1"},
    {"MQTT-3.3.2-14", ON "publish q0 a =1 rt=r", ON "publish q0 a =1 rt=r/+",
     ""},
    {"MQTT-3.3.2-19", ON "publish q0 a =1 ct=r",
     ON "frame 30 00016105030002C328", "MQTT-1.5.4-1"},
    {"MQTT-3.3.4-1", SELF1 "puback #1", SELF1 "pubrec #1", "MQTT-4.3.2-4"},
    {"MQTT-3.3.4-6", ON "publish q0 a =1", ON "frame 30 000161020B01", ""},
    {"MQTT-3.3.4-7", ON "fill 20", ON "fill 21", "MQTT-4.9.0-2"},
    {"MQTT-3.4.2-1", SELF1 "puback #1", SELF1 "frame 40 000101", ""},
    {"MQTT-3.5.2-1", SELF2_ALL "pubrec #1", SELF2_ALL "frame 50 000101", ""},
    {"MQTT-3.6.1-1", ON "publish q2 #1 a =1; pubrel #1", ON "hex 60020001", ""},
    {"MQTT-3.6.2-1", ON "publish q2 #1 a =1; pubrel #1",
     ON "publish q2 #1 a =1; frame 62 000101", ""},
    {"MQTT-3.7.2-1", SELF2_ALL "pubrec #1; pubcomp #1",
     SELF2_ALL "pubrec #1; frame 70 000101", ""},
    {"MQTT-3.8.1-1", ON "subscribe #1 a", ON "hex 80", ""},
    {"MQTT-3.8.3-1", ON "subscribe #1 a", ON "frame 82 0001000002C32800",
     "MQTT-1.5.4-1"},
    {"MQTT-3.8.3-2", ON "subscribe #1 a", ON "frame 82 000100", ""},
    {"MQTT-3.8.3-4", ON "subscribe #1 $share/g/t",
     ON "subscribe #1 $share/g/t,nl", ""},
    {"MQTT-3.10.1-1", ON "unsubscribe #1 a", ON "hex A0", ""},
    {"MQTT-3.10.3-1", ON "unsubscribe #1 a", ON "frame A2 0001000002C328",
     "MQTT-1.5.4-1"},
    {"MQTT-3.10.3-2", ON "unsubscribe #1 a", ON "frame A2 000100", ""},
    {"MQTT-3.14.1-1", ON "disconnect 00", ON "hex E1", ""},
    {"MQTT-3.14.2-1", ON "disconnect 04", ON "frame E0 01", ""},
    {"MQTT-3.14.4-1", ON "disconnect 00", ON "hex E000C000", ""},
    {"MQTT-3.15.1-1", ON "frame F0 18041500016D", ON "hex F1", "MQTT-4.12.0-7"},
    {"MQTT-3.15.2-1", ON "frame F0 18041500016D", ON "frame F0 0100",
     "MQTT-4.12.0-7"},
    {"MQTT-4.3.1-1", ON "publish q0 a =1", ON "frame 39 00016100",
     "MQTT-3.3.1-2"},
    {"MQTT-4.3.2-1", ON "publish q1 #1 a =1; publish q1 #1 a =2",
     ON "hold; publish q1 #1 a =1; publish q1 #1 a =2; turn", "MQTT-2.2.1-3"},
    {"MQTT-4.3.2-2", ON "publish q1 #1 a =1", ON "publish q1 dup #1 a =1", ""},
    {"MQTT-4.3.2-4", SELF1 "puback #1", SELF1 "pubrec #1", "MQTT-3.3.4-1"},
    {"MQTT-4.3.3-1", ON "publish q2 #1 a =1",
     ON "publish q2 #5 a =1; publish q2 #5 a =2", "MQTT-2.2.1-3"},
    {"MQTT-4.3.3-2", ON "publish q2 #1 a =1", ON "publish q2 dup #1 a =1", ""},
    {"MQTT-4.3.3-4", ON "publish q2 #1 a =1; pubrel #1", ON "pubrel #9", ""},
    {"MQTT-4.3.3-4", NULL, ON "hold; publish q2 #1 a =1; pubrel #1; turn", ""},
    {"MQTT-4.3.3-4", NULL, ON "publish q2 #1 $SYS/no =1; pubrel #1", ""},
    {"MQTT-4.3.3-8", SELF2_ALL "pubrec #1", SELF2_ALL "puback #1",
     "MQTT-3.3.4-1"},
    {"MQTT-4.3.3-11", SELF2_ALL "pubrec #1; pubcomp #1", SELF2_ALL "pubcomp #1",
     ""},
    {"MQTT-4.4.0-1",
     STAY "publish q2 #5 a =1; cut; " STAY "publish q2 dup #5 a =1",
     ON "publish q2 #5 a =1; publish q2 dup #5 a =1", ""},
    {"MQTT-4.4.0-1", STAY "publish q2 #5 a =1; cut; " STAY "pubrel #5",
     ON "hold; publish q1 #5 a =1; publish q1 dup #5 a =1; turn", ""},
    {"MQTT-4.5.0-2", SELF1 "puback #1", NULL, endless},
    {"MQTT-4.6.0-1",
     STAY "publish q2 #5 a =1; publish q2 #3 a =2; cut; " STAY
          "publish q2 dup #5 a =1; publish q2 dup #3 a =2",
     STAY "publish q2 #5 a =1; publish q2 #3 a =2; cut; " STAY
          "publish q2 dup #3 a =2; publish q2 dup #5 a =1",
     ""},
    {"MQTT-4.6.0-2", SELF1 "publish q1 #92 a =2; puback #1; puback #2",
     SELF1 "publish q1 #92 a =2; puback #2; puback #1", ""},
    {"MQTT-4.6.0-3", SELF2_ALL "publish q2 #92 a =2; pubrec #1; pubrec #2",
     SELF2_ALL "publish q2 #92 a =2; pubrec #2; pubrec #1", ""},
    {"MQTT-4.6.0-4", ON "fill 2; pubrel #1; pubrel #2",
     ON "fill 2; pubrel #2; pubrel #1", ""},
    {"MQTT-4.7.0-1", ON "publish q0 a =1", CONNECT_FRAME("06", "0000012B0000"),
     ""},
    {"MQTT-4.7.1-1", ON "subscribe #1 a/#", ON "subscribe #1 a#", ""},
    {"MQTT-4.7.1-2", ON "subscribe #1 a/+", ON "unsubscribe #1 a+", ""},
    {"MQTT-4.7.3-1", ON "subscribe #1 a", ON "frame 82 000100000000", ""},
    {"MQTT-4.7.3-2", ON "subscribe #1 a", ON "frame 82 00010000010000",
     "MQTT-1.5.4-2"},
    {"MQTT-4.8.2-1", ON "subscribe #1 $share/g/t", ON "subscribe #1 $share//t",
     ""},
    {"MQTT-4.8.2-2", ON "subscribe #1 $share/g/t", ON "subscribe #1 $share/g",
     ""},
    {"MQTT-4.9.0-2", ON "fill 20", ON "fill 21", "MQTT-3.3.4-7"},
    {"MQTT-4.9.0-3", SELF1 "fill 20; puback #1", NULL, endless},
    {"MQTT-4.12.0-7", NULL, ON "frame F0 18041500016D",
     "no packet of a connection that was accepted comes by this rule and keeps "
     "it"},
};

#define ROWS (sizeof rows / sizeof *rows)

static void server_anew(struct bench *t)
{
    bench_restart(t, 0);
}

/* The steps that are no packets; 1 = it was one. */
static int step_other(struct bench *t, struct bench_link **l, const char *step)
{
    unsigned first;
    int at = 0;
    if (strcmp(step, "open") == 0) {
        *l = bench_link_open(t);
    } else if (sscanf(step, "frame %2x %n", &first, &at) == 1 && at > 0) {
        bench_frame(*l, first, step + at);
    } else if (strncmp(step, "hex ", 4) == 0) {
        bench_feed(*l, step + 4);
    } else if (strncmp(step, "fill ", 5) == 0) {
        for (unsigned i = 1; i <= strtoul(step + 5, NULL, 10); i++)
            bench_say(*l, "publish q2 #%u b =%u", i, i);
    } else if (strncmp(step, "wait ", 5) == 0) {
        bench_advance(t, strtoul(step + 5, NULL, 10));
    } else if (strcmp(step, "cut") == 0) {
        bench_cut(*l);
    } else if (strcmp(step, "hold") == 0) {
        t->held = 1;
    } else if (strcmp(step, "turn") == 0) {
        bench_turn(t);
    } else if (strcmp(step, "no-alias") == 0) {
        t->options.alias_max = 0;
        server_anew(t);
    } else if (strcmp(step, "server-ka") == 0) {
        t->options.keep_alive_max = 10;
        server_anew(t);
    } else {
        return 0;
    }
    return 1;
}

static void script_run(struct bench *t, const char *script)
{
    struct bench_link *l = NULL;
    char step[200];
    while (*script != '\0') {
        size_t n = strcspn(script, ";");
        assert_true(n < sizeof step);
        memcpy(step, script, n);
        step[n] = '\0';
        script += n;
        script += strspn(script, "; ");
        if (step_other(t, &l, step))
            continue;
        if (strncmp(step, "connect ", 8) == 0)
            l = bench_link_open(t);
        bench_say(l, "%s", step);
    }
}

static struct mqtt_bytes name_of(const char *name)
{
    struct mqtt_bytes b = {(const uint8_t *)name, strlen(name)};
    return b;
}

/* The client's mark, all zero if it has none. */
static struct inspect_mark mark_of(struct bench *t, const char *client,
                                   const char *id)
{
    struct inspect_mark all[INSPECT_MARKS], none = {"", "", 0, 0, ""};
    size_t n = inspect_marks(t->server, name_of(client), all);
    for (size_t i = 0; i < n; i++)
        if (strcmp(all[i].statement, id) == 0)
            return all[i];
    return none;
}

/* How many marks are broken but `id` and what stands in `with`. */
static int check_others(struct bench *t, const char *script, const char *id,
                        const char *with)
{
    struct inspect_mark all[INSPECT_MARKS];
    size_t n = inspect_marks(t->server, name_of("x"), all);
    int wrong = 0;
    for (size_t i = 0; i < n; i++) {
        if (all[i].broken == 0 || strcmp(all[i].statement, id) == 0 ||
            (with != NULL && strstr(with, all[i].statement) != NULL))
            continue;
        print_error("[%s] also breaks %s: %s\n", script, all[i].statement,
                    all[i].how);
        wrong++;
    }
    return wrong;
}

/* Runs one script on a server of its own; returns how much was wrong, all of
 * which is shown. */
static int check_row(const struct row *row, int broken)
{
    const char *script = broken ? row->broken : row->kept;
    void *state = NULL;
    int wrong = 0;
    if (script == NULL)
        return 0;
    assert_int_equal(bench_setup(&state), 0);
    script_run((struct bench *)state, script);
    struct inspect_mark m = mark_of((struct bench *)state, "x", row->id);
    if (broken ? m.broken == 0 || m.how[0] == '\0'
               : m.kept == 0 || m.broken != 0 || m.how[0] != '\0') {
        print_error("%s: kept %lu, broken %lu (%s) by [%s]\n", row->id,
                    (unsigned long)m.kept, (unsigned long)m.broken, m.how,
                    script);
        wrong++;
    }
    wrong += check_others((struct bench *)state, script, broken ? row->id : "",
                          row->with);
    bench_teardown(&state);
    return wrong;
}

static void test_each_statement_is_seen_kept_and_broken(void **state)
{
    int wrong = 0;
    (void)state;
    for (size_t i = 0; i < ROWS; i++) {
        wrong += check_row(&rows[i], 0);
        wrong += check_row(&rows[i], 1);
    }
    assert_int_equal(wrong, 0);
}

/* ==== 2. the others =========================================================
 *
 * Statements that bind clients but of which a server like this one cannot
 * tell whether they were kept. */

static const struct {
    const char *ids; /* separated by blanks */
    const char *why;
} unseen[] = {
    {"MQTT-1.5.4-3 MQTT-4.3.2-5 MQTT-4.3.3-9 MQTT-4.3.3-10 MQTT-4.3.3-12 "
     "MQTT-4.3.3-13",
     "what a client does with what it was sent is inside the client"},
    {"MQTT-3.1.2-4 MQTT-3.1.2-23 MQTT-3.1.3-2 MQTT-3.2.2-4 MQTT-3.2.2-5 "
     "MQTT-4.1.0-1",
     "so is what it stores; what it forgot shows as other statements broken"},
    {"MQTT-2.2.1-2", "two such bytes are read as the Property Length"},
    {"MQTT-3.1.3-1", "the fields of the payload are known by their place"},
    {"MQTT-3.2.2-11 MQTT-3.2.2-14",
     "this server announces no Maximum QoS and no Retain Available 0"},
    {"MQTT-3.3.4-8", "what a client holds back is not seen"},
    {"MQTT-3.4.2-2 MQTT-3.4.2-3 MQTT-3.5.2-2 MQTT-3.5.2-3 MQTT-3.6.2-2 "
     "MQTT-3.6.2-3 MQTT-3.7.2-2 MQTT-3.7.2-3 MQTT-3.14.2-3 MQTT-3.14.2-4 "
     "MQTT-3.15.2-2 MQTT-3.15.2-3",
     "a packet that is too large is refused before it is read: MQTT-3.2.2-15"},
    {"MQTT-3.14.4-2 MQTT-4.13.2-1",
     "the server closes at once and does not wait for who closes first"},
    {"MQTT-4.2.0-1", "the transport is TCP"},
    {"MQTT-4.3.2-3 MQTT-4.3.3-3 MQTT-4.3.3-5 MQTT-4.3.3-6 MQTT-4.3.3-7 "
     "MQTT-4.4.0-2",
     "what a client does not repeat may have been answered; what it repeats "
     "is MQTT-4.4.0-1"},
    {"MQTT-4.7.3-3", "a longer one cannot be written"},
    {"MQTT-4.9.0-1", "a quota is a number inside the client: MQTT-4.9.0-2"},
    {"MQTT-3.1.2-30 MQTT-4.12.0-3 MQTT-4.12.0-5 MQTT-4.12.1-1 MQTT-4.12.1-2",
     "this server knows no Authentication Method and refuses the CONNECT"},
    {"MQTT-6.0.0-1 MQTT-6.0.0-2 MQTT-6.0.0-3",
     "this server does not listen for WebSockets"},
};

/* How often the id stands in the list, whole. */
static int listed(const char *ids, const char *id)
{
    int n = 0;
    size_t size = strlen(id);
    for (const char *at = ids; (at = strstr(at, id)) != NULL; at += size)
        n += at[size] == ' ' || at[size] == '\0';
    return n;
}

/* Every statement that binds the client stands in one of the two tables, and
 * no other does. */
static void test_no_statement_is_forgotten(void **state)
{
    char line[2000], id[40], actor[20];
    FILE *f = fopen("tests/statements", "r");
    int client = 0;
    (void)state;
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "%39s %19s", id, actor) != 2)
            continue;
        int in_rows = 0, in_others = 0;
        for (size_t i = 0; i < ROWS; i++)
            in_rows |= strcmp(rows[i].id, id) == 0;
        for (size_t i = 0; i < sizeof unseen / sizeof *unseen; i++)
            in_others += listed(unseen[i].ids, id);
        if (in_rows + in_others != (strcmp(actor, "server") != 0))
            fail_msg("%s, %s: in %d tables", id, actor, in_rows + in_others);
        client += strcmp(actor, "server") != 0;
    }
    fclose(f);
    assert_int_equal(client, 133);
}

/* ==== 3. lives ==============================================================
 */

static void check_perfect(struct bench *t, const char *client)
{
    struct inspect_mark all[INSPECT_MARKS];
    struct inspect_client c;
    size_t n = inspect_marks(t->server, name_of(client), all);
    for (size_t i = 0; i < n; i++)
        if (all[i].broken > 0)
            fail_msg("%s broke %s: %s", client, all[i].statement, all[i].how);
    assert_int_equal(inspect_client(t->server, name_of(client), &c), 1);
    assert_int_equal(c.broken, 0);
    assert_int_equal(c.kept, n);
}

/* One connection of a client that does all as it should: at each QoS both
 * ways, with aliases, and with two QoS 2 messages left open. */
static void life_day(struct bench_link *l, unsigned day)
{
    static const char *const topics[] = {"a", "b", "c/d"};
    bench_say(l, "subscribe #%u a,q1 b,q2 c/+,q0", 1 + day);
    for (unsigned i = 0; i < 60; i++) {
        unsigned qos = i % 3, id = 100 + i;
        if (i < 3)
            bench_say(l, "publish q0 %s =%u ta=%u", topics[i], i, i + 1);
        if (qos == 0)
            bench_say(l, "publish q0 %s =%u", topics[i % 3], i);
        else
            bench_say(l, "publish q%u #%u %s =%u", qos, id, topics[i % 3], i);
        if (qos == 2)
            bench_say(l, "pubrel #%u", id);
        if (i % 7 == 0)
            bench_serve(l, NULL);
    }
    bench_serve(l, NULL);
    bench_say(l, "unsubscribe #%u c/+", 1 + day);
    bench_say(l, "publish q2 #900 e =1");
    bench_say(l, "publish q2 #800 e =2");
    bench_say(l, "publish q2 #700 e =3");
    bench_serve(l, NULL);
}

static void life_resume(struct bench_link *l)
{
    bench_say(l, "publish q2 dup #900 e =1");
    bench_say(l, "publish q2 dup #800 e =2");
    bench_say(l, "pubrel #700");
    bench_say(l, "pubrel #900");
    bench_say(l, "pubrel #800");
    bench_serve(l, NULL);
    bench_silent(l);
}

static void test_a_good_client_has_no_broken_mark(void **state)
{
    struct bench *t = *state;
    struct bench_link *l = bench_meet(t, "c0 id=x x=1000 ka=60 rm=7 tam=3");
    for (unsigned day = 0; day < 12; day++) {
        life_day(l, day);
        bench_advance(t, 60000);
        bench_say(l, "pingreq");
        bench_advance(t, 59000);
        bench_say(l, "publish q0 c/d =late");
        bench_serve(l, NULL);
        if (day % 3 == 0)
            bench_cut(l);
        if (day % 3 == 1)
            bench_leave(l);
        if (day % 4 == 3) /* its record is new from here on */
            bench_restart(t, 5000);
        /* else the next connection takes over */
        l = bench_meet(t, "c0 id=x x=1000 ka=60 rm=7 tam=3");
        life_resume(l);
        check_perfect(t, "x");
    }
    bench_leave(l);
    assert_int_equal(bench_logged(t, ", broke "), 0);
    assert_true(bench_logged(t, "client \"x\" 127.0.0.1:1: kept all ") >= 9);
}

/* What was sent before a connection ended is acknowledged on the next one
 * before it is repeated, and answered twice: nobody is to blame. */
static void test_late_answers_in_a_resumed_session_are_not_blamed(void **state)
{
    struct bench *t = *state;
    script_run(t, STAY "subscribe #1 a,q1 b,q2; publish q1 #2 a =1; "
                       "publish q2 #3 b =2; pubrel #3; cut; " STAY
                       "puback #1; puback #1; pubrec #2; pubrec #2; "
                       "pubcomp #2; pubcomp #2; pubrel #3; pubrel #9");
    check_perfect(t, "x");
    script_run(t, "connect c1 id=x x=100; subscribe #1 a,q1; "
                  "publish q1 #2 a =1; publish q1 #3 a =2; "
                  "publish q1 #4 a =3; puback #1; cut; "
                  "connect c0 id=x x=100 rm=1; puback #3; puback #2");
    check_perfect(t, "x");
    script_run(t, "connect c1 id=x x=100; subscribe #1 a,q1; "
                  "publish q1 #2 a =1; publish q1 #3 a =2; "
                  "publish q1 #4 a =3; puback #1; cut; " STAY
                  "puback #2; puback #3");
    check_perfect(t, "x");
}

/* DISCONNECT 0x94 where no alias was sent; PUBCOMP for our PUBREL 0x92; a
 * second PUBREC, which has no place in the order; a delay of the network. */
static void test_what_has_another_cause_is_not_blamed(void **state)
{
    struct bench *t = *state;
    script_run(t, ON "disconnect 94; " ON "pubrec #9; pubcomp #9");
    assert_int_equal(mark_of(t, "x", "MQTT-3.3.2-10").broken, 0);
    assert_int_equal(mark_of(t, "x", "MQTT-3.3.2-10").kept, 0);
    assert_int_equal(mark_of(t, "x", "MQTT-2.2.1-5").broken, 1);
    assert_int_equal(mark_of(t, "x", "MQTT-4.3.3-11").broken, 0);
    script_run(t, SELF2_ALL "pubrec #1; pubrec #1; publish q2 #92 a =2; "
                            "publish q2 #93 a =3; pubrec #2; pubrec #3");
    assert_int_equal(mark_of(t, "x", "MQTT-4.6.0-3").broken, 0);
    script_run(t, "connect c1 id=x ka=10; wait 10900; pingreq");
    assert_int_equal(mark_of(t, "x", "MQTT-3.1.2-20").broken, 0);
    assert_int_equal(mark_of(t, "x", "MQTT-3.1.2-20").kept, 0);
    /* a packet that takes longer than the Keep Alive to come, or for ever */
    script_run(t, "connect c1 id=x ka=10; wait 9000; hex 30; wait 5000; "
                  "hex 04000161; wait 500; hex 00C0; wait 9000; hex 00");
    assert_int_equal(mark_of(t, "x", "MQTT-3.1.2-20").broken, 0);
    assert_int_equal(mark_of(t, "x", "MQTT-3.1.2-20").kept, 1);
    script_run(t, "connect c1 id=x ka=1; hex 30; wait 1500");
    assert_int_equal(mark_of(t, "x", "MQTT-3.1.2-20").broken, 0);
}

static void test_counts_cover_all_connections(void **state)
{
    struct bench *t = *state;
    struct inspect_client c;
    uint64_t began = t->now;
    script_run(t, ON "puback #7; puback #8; pingreq; cut; wait 500; " ON
                     "puback #9; wait 500; pingreq");
    assert_int_equal(mark_of(t, "x", "MQTT-2.2.1-5").broken, 3);
    assert_non_null(
        strstr(mark_of(t, "x", "MQTT-2.2.1-5").how, "Identifier 9"));
    assert_int_equal(mark_of(t, "x", "MQTT-3.1.0-1").kept, 2);
    assert_int_equal(inspect_client(t->server, name_of("x"), &c), 1);
    assert_int_equal(c.connections, 2);
    assert_int_equal(c.packets, 7);
    assert_int_equal(c.broken, 1);
    assert_int_equal(c.online, 1);
    assert_int_equal(c.first, began);
    assert_int_equal(c.last, began + 1000);
    assert_int_equal(inspect_client(t->server, name_of("y"), &c), 0);
}

/* What was left open may be repeated without DUP, or its Packet Identifier
 * taken for another message: the server cannot tell. */
static void test_a_mark_names_what_else_it_may_be(void **state)
{
    struct bench *t = *state;
    script_run(t, STAY "publish q2 #5 a =1; cut; " STAY "publish q2 #5 a =1");
    assert_non_null(
        strstr(mark_of(t, "x", "MQTT-3.3.1-1").how, "MQTT-2.2.1-3)"));
}

static void test_marks_stand_in_the_order_of_the_standard(void **state)
{
    struct bench *t = *state;
    struct inspect_mark all[INSPECT_MARKS];
    int before[4] = {0, 0, 0, 0}, now[4];
    script_run(t, SELF2_ALL "pubrec #1; pubcomp #1; unsubscribe #1 a; "
                            "disconnect 00");
    size_t n = inspect_marks(t->server, name_of("x"), all);
    assert_true(n > 30);
    for (size_t i = 0; i < n; i++) {
        int later = 0;
        assert_int_equal(sscanf(all[i].statement, "MQTT-%d.%d.%d-%d", &now[0],
                                &now[1], &now[2], &now[3]),
                         4);
        for (int k = 0; k < 4 && later == 0; k++)
            later = now[k] - before[k];
        assert_true(later > 0);
        memcpy(before, now, sizeof now);
        assert_true(strlen(all[i].asks) > 10);
    }
}

/* The client heard longest ago makes room, though it is connected. */
static void test_the_1000_clients_heard_last_are_kept(void **state)
{
    struct bench *t = *state;
    struct inspect_client c[2];
    uint64_t matched = 0;
    struct bench_link *silent = bench_meet(t, "c1 id=silent");
    struct bench_link *talks = bench_meet(t, "c1 id=talks");
    for (unsigned i = 0; i < CLIENT_MARKS_MAX - 2; i++)
        bench_cut(bench_meet(t, "c1 id=c%u", i));
    bench_say(talks, "pingreq");
    assert_int_equal(inspect_client(t->server, name_of("silent"), c), 1);
    bench_meet(t, "c1 id=last");
    assert_int_equal(inspect_client(t->server, name_of("silent"), c), 0);
    assert_int_equal(inspect_client(t->server, name_of("talks"), c), 1);
    assert_int_equal(inspect_clients(t->server, 0, c, 2, &matched), 2);
    assert_int_equal(matched, CLIENT_MARKS_MAX);
    assert_memory_equal(c[0].client.p, "last", 4);
    assert_memory_equal(c[1].client.p, "talks", 5);
    assert_int_equal(
        inspect_clients(t->server, CLIENT_MARKS_MAX - 1, c, 2, &matched), 1);
    assert_memory_equal(c[0].client.p, "c0", 2);
    bench_say(silent, "puback #9");
    bench_leave(silent);
    assert_int_equal(inspect_client(t->server, name_of("silent"), c), 0);
    bench_cut(bench_meet(t, "c1 id=silent"));
    assert_int_equal(inspect_client(t->server, name_of("silent"), c), 1);
    assert_int_equal(inspect_client(t->server, name_of("c0"), c), 0);
}

static void test_the_line_at_the_end_names_what_was_broken(void **state)
{
    struct bench *t = *state;
    struct bench_link *l = bench_meet(t, "c1 id=<a%%20b>");
    bench_say(l, "puback #7");
    bench_say(l, "puback #8");
    bench_say(l, "pubrel #9");
    bench_cut(l);
    assert_int_equal(bench_logged(t,
                                  " statements of the client's side, broke 2: "
                                  "MQTT-2.2.1-5 (2 times), MQTT-4.3.3-4\n"),
                     1);
    bench_cut(bench_meet(t, "c1 id=<a%%20b>"));
    assert_int_equal(bench_logged(t, "client \"<a b>\" 127.0.0.1:1: kept all "),
                     1);
}

/* A CONNECT that fails is a mark for the client it names, but none of the
 * connection that this client has. */
static void test_a_failing_connect_counts_for_the_client_it_names(void **state)
{
    struct bench *t = *state;
    struct inspect_client c;
    struct bench_link *l = bench_meet(t, "c1 id=x");
    script_run(t, CONNECT_FRAME("0A", ""));
    assert_int_equal(mark_of(t, "x", "MQTT-3.1.2-11").broken, 1);
    assert_int_equal(inspect_client(t->server, name_of("x"), &c), 1);
    assert_int_equal(c.connections, 1);
    bench_cut(l);
    assert_int_equal(bench_logged(t, ", broke "), 0);
    /* a Client Identifier that is no UTF-8 is nobody's */
    script_run(t, "open; frame 10 00044D515454050A0000000002C328");
    uint64_t matched = 0;
    inspect_clients(t->server, 0, &c, 1, &matched);
    assert_int_equal(matched, 1);
}

/* It takes a free place, but pushes nobody out; who has a record has another
 * mark. */
static void test_failing_connects_push_nobody_out(void **state)
{
    struct bench *t = *state;
    struct inspect_client c;
    uint64_t matched = 0;
    bench_meet(t, "c1 id=first");
    for (unsigned i = 0; i < CLIENT_MARKS_MAX - 2; i++)
        bench_cut(bench_meet(t, "c1 id=c%u", i));
    script_run(t, CONNECT_FRAME("0A", ""));
    assert_int_equal(mark_of(t, "x", "MQTT-3.1.2-11").broken, 1);
    script_run(t, "open; frame 10 00044D515454050A000000000179");
    assert_int_equal(inspect_client(t->server, name_of("y"), &c), 0);
    assert_int_equal(inspect_client(t->server, name_of("first"), &c), 1);
    script_run(t, CONNECT_FRAME("0A", ""));
    assert_int_equal(mark_of(t, "x", "MQTT-3.1.2-11").broken, 2);
    inspect_clients(t->server, 0, &c, 1, &matched);
    assert_int_equal(matched, CLIENT_MARKS_MAX);
}

/* A client whose name is too long for a record is served as any other. */
static void test_long_names_have_no_marks(void **state)
{
    struct bench *t = *state;
    struct inspect_client c;
    uint64_t matched = 0;
    bench_cut(bench_meet(t, "c1 id=%0*d", CLIENT_MARKS_NAME_MAX, 0));
    assert_int_equal(inspect_clients(t->server, 0, &c, 1, &matched), 1);
    assert_int_equal(c.client.n, CLIENT_MARKS_NAME_MAX);
    struct bench_link *l =
        bench_meet(t, "c1 id=%0*d", CLIENT_MARKS_NAME_MAX + 1, 0);
    bench_say(l, "puback #7");
    bench_say(l, "pingreq");
    bench_hear(l, "pingresp");
    bench_frame(l, 0xC1, "");
    bench_end(l, "disconnect 81*");
    inspect_clients(t->server, 0, &c, 1, &matched);
    assert_int_equal(matched, 1);
    assert_int_equal(bench_logged(t, "of the client's side"), 1);
}

static void test_what_nothing_came_by_is_not_kept(void **state)
{
    struct bench *t = *state;
    script_run(t, ON "disconnect 00");
    assert_int_equal(mark_of(t, "x", "MQTT-4.12.0-7").kept, 0);
    assert_int_equal(bench_logged(t, "client \"x\" 127.0.0.1:1: kept all "), 1);
}

/* Deliveries that overtook others are counted once; the late ones are not. */
static void test_order_is_judged_by_what_was_open(void **state)
{
    struct bench *t = *state;
    script_run(t, ON "subscribe #90 a,q1; publish q1 #91 a =1; "
                     "publish q1 #92 a =2; publish q1 #93 a =3; "
                     "publish q1 #94 a =4; puback #2; puback #3; puback #1; "
                     "puback #4");
    assert_int_equal(mark_of(t, "x", "MQTT-4.6.0-2").broken, 2);
    assert_int_equal(mark_of(t, "x", "MQTT-4.6.0-2").kept, 0);
    script_run(t, ON "subscribe #90 a,q1; publish q1 #91 a =1; "
                     "publish q1 #92 a =2; publish q1 #93 a =3; "
                     "publish q1 #94 a =4; puback #3; puback #2; puback #1; "
                     "puback #4");
    assert_int_equal(mark_of(t, "x", "MQTT-4.6.0-2").broken, 3);
    assert_int_equal(mark_of(t, "x", "MQTT-4.6.0-2").kept, 0);
    script_run(t, ON "subscribe #90 a,q1; publish q1 #91 a =1; puback #1; "
                     "publish q1 #92 a =1; publish q1 #93 a =1; puback #2; "
                     "puback #3");
    assert_int_equal(mark_of(t, "x", "MQTT-4.6.0-2").broken, 3);
    assert_int_equal(mark_of(t, "x", "MQTT-4.6.0-2").kept, 1);
}

/* While nothing leaves the server more identifiers come than it remembers:
 * of the rest it says neither. */
static void test_what_is_not_remembered_is_not_counted(void **state)
{
    struct bench *t = *state;
    struct bench_link *l = bench_meet(t, "c1 id=x");
    t->held = 1;
    for (unsigned i = 1; i <= 60; i++)
        bench_say(l, "subscribe #%u a", i);
    bench_turn(t);
    assert_int_equal(mark_of(t, "x", "MQTT-2.2.1-3").kept, 32);
    check_perfect(t, "x");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_statement_is_seen_kept_and_broken),
        cmocka_unit_test(test_no_statement_is_forgotten),
        BENCH_TEST(test_a_good_client_has_no_broken_mark),
        BENCH_TEST(test_late_answers_in_a_resumed_session_are_not_blamed),
        BENCH_TEST(test_what_has_another_cause_is_not_blamed),
        BENCH_TEST(test_counts_cover_all_connections),
        BENCH_TEST(test_a_mark_names_what_else_it_may_be),
        BENCH_TEST(test_marks_stand_in_the_order_of_the_standard),
        BENCH_TEST(test_the_1000_clients_heard_last_are_kept),
        BENCH_TEST(test_the_line_at_the_end_names_what_was_broken),
        BENCH_TEST(test_a_failing_connect_counts_for_the_client_it_names),
        BENCH_TEST(test_failing_connects_push_nobody_out),
        BENCH_TEST(test_long_names_have_no_marks),
        BENCH_TEST(test_what_nothing_came_by_is_not_kept),
        BENCH_TEST(test_order_is_judged_by_what_was_open),
        BENCH_TEST(test_what_is_not_remembered_is_not_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
