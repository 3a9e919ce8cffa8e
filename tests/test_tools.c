/*
 * test_tools.c - the tools of the other tests: the notation there and back,
 * and each rule of the referee broken once.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "notation.h"
#include "referee.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* ==== 1. the notation =====================================================
 */

static char *words_copy(const char *words)
{
    size_t n = strlen(words) + 1;
    return (char *)memcpy(mem_new(n), words, n);
}

/* The bytes of one packet. */
static struct buf bytes_of(const char *packet)
{
    struct buf out = {NULL, 0, 0, 0};
    struct draft d;
    char *words = words_copy(packet);
    draft_parse(&d, words);
    draft_encode(&d, &out);
    draft_free(&d);
    free(words);
    return out;
}

/* Words to bytes and back to the same words. */
static void test_notation_there_and_back(void **state)
{
    static const char *const packets[] = {
        "connack 00 sp=1 x=300 aci=a ska=10 am=m ad=%00%FF ri=r sr=s rs=why "
        "rm=20 tam=5 mq=1 ra=0 mps=500 wsa=0 sia=0 ssa=0 up=a:b up=a:c",
        "connack 87 sp=0",
        "publish q1 dup retain #7 a/b =pay%20load pfi=1 mei=30 ct=c rt=r "
        "cd=%01 sid=1 sid=2 up=name:value",
        "publish q0 a =*500",
        "publish q2 #65535 %C3%A9 =",
        "puback #7 10 rs=no",
        "pubrec #1 00",
        "pubrel #1 92",
        "pubcomp #2 92 up=a:b",
        "suback #1 01 00 80",
        "unsuback #2 00 11",
        "pingresp",
        "disconnect 8e rs=x",
        "auth 18 am=name ad=bytes",
    };
    (void)state;
    for (size_t i = 0; i < COUNT(packets); i++) {
        struct buf bytes = bytes_of(packets[i]), text = {NULL, 0, 0, 0};
        struct mqtt_packet p;
        struct mqtt_error err;
        assert_int_equal(mqtt_packet_decode(&p, bytes.p, bytes.n,
                                            MQTT_FROM_SERVER, &err), 0);
        text_packet(&text, &p, p.publish.topic);
        assert_string_equal((char *)text.p, packets[i]);
        buf_free(&text);
        buf_free(&bytes);
    }
}

static void test_notation_of_clients(void **state)
{
    static const struct {
        const char *words, *hex;
    } rows[] = {
        {"connect c1 id=a ka=10 user=u pass=p x=1 will q1 retain w =gone wdi=5",
         "102800044D51545405EE000A051100000001000161"
         "0518000000050001770004676F6E65000175000170"},
        {"subscribe #1 a/b,q1,nl,rap,rh2 c sid=3",
         "820F0001020B030003612F622D00016300"},
        {"unsubscribe #258 a/b c", "A20B0102000003612F62000163"},
        {"publish q2 #1 t =x ta=2", "340A00017400010323000278"},
        {"pingreq", "C000"},
        {"auth 19 am=m", "F00619041500016D"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct buf bytes = bytes_of(rows[i].words);
        struct buf hex = {NULL, 0, 0, 0};
        for (size_t k = 0; k < bytes.n; k++)
            text_format(&hex, "%02X", bytes.p[k]);
        buf_add(&hex, "", 1);
        assert_string_equal((char *)hex.p, rows[i].hex);
        buf_free(&hex);
        buf_free(&bytes);
    }
}

/* What is no packet aborts, in a process of its own. */
static void test_notation_mistakes(void **state)
{
    static const char *const packets[] = {
        "",           "nonsense",  "puback #1 zz", "puback #1 000",
        "puback #1 0", "publish %4", "publish t up=x", "publish t rs=%",
        "suback #1 q1"};
    (void)state;
    for (size_t i = 0; i < COUNT(packets); i++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            signal(SIGABRT, SIG_DFL); /* cmocka has its own */
            if (freopen("/dev/null", "w", stderr) != NULL)
                bytes_of(packets[i]);
            _exit(0);
        }
        assert_true(child > 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

/* ==== 2. the referee ======================================================
 *
 * A script is packets one after the other, each ended by ";": "<" those of
 * the server, ">" those of the client. */

/* One packet of the server, as a client gets it; what the codec refuses to
 * read is shown as it was drafted. */
static const char *script_hear(struct referee *r, const struct draft *d,
                               struct mqtt_bytes *topic)
{
    struct mqtt_packet p;
    struct mqtt_error err;
    struct buf bytes = {NULL, 0, 0, 0};
    const char *what = NULL;
    draft_encode(d, &bytes);
    int bad = mqtt_packet_decode(&p, bytes.p, bytes.n, MQTT_FROM_SERVER, &err);
    const char *broken =
        referee_heard(r, bad ? &d->packet : &p, bytes.n, topic, &what);
    assert_true(broken == NULL || what[0] != '\0');
    buf_free(&bytes);
    return broken;
}

/* One packet of either side; returns what it breaks. */
static const char *script_step(struct referee *r, char *words,
                               struct mqtt_bytes *topic)
{
    struct draft d;
    const char *broken;
    draft_parse(&d, words + 1);
    if (words[0] == '<') {
        broken = script_hear(r, &d, topic);
    } else {
        broken = referee_judge(r, &d.packet,
                               mqtt_packet_encode(&d.packet, NULL, 0));
        referee_sent(r, &d.packet);
    }
    draft_free(&d);
    return broken;
}

/* Plays a script on a new referee, which the caller frees.  All but the last
 * packet must be right; returns what the last one breaks. */
static const char *script_play(struct referee *r, const char *script)
{
    char *words = words_copy(script), *rest = NULL;
    const char *broken = NULL;
    struct mqtt_bytes topic;
    referee_open(r);
    for (char *w = strtok_r(words, ";", &rest); w != NULL;
         w = strtok_r(NULL, ";", &rest)) {
        if (broken != NULL)
            fail_msg("%s in the midst of: %s", broken, script);
        broken = script_step(r, w + (w[0] == ' '), &topic);
    }
    free(words);
    return broken;
}

struct script {
    const char *packets;
    const char *broken; /* NULL = nothing */
};

static void scripts_check(const struct script *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct referee *r = (struct referee *)mem_new(sizeof *r);
        const char *broken = script_play(r, rows[i].packets);
        const char *expected = rows[i].broken;
        if (broken != expected &&
            (broken == NULL || expected == NULL || strcmp(broken, expected)))
            fail_msg("%s: %s, expected %s", rows[i].packets,
                     broken == NULL ? "nothing" : broken,
                     expected == NULL ? "nothing" : expected);
        referee_free(r);
        free(r);
    }
}

#define UP ">connect c1 id=a; <connack 00"
#define UP_METHOD ">connect c1 id=a am=m; <connack 00 am=m"

static void test_referee_judges_order(void **state)
{
    static const struct script rows[] = {
        {">pingreq", "MQTT-3.1.0-1"},
        {">connect c1 id=a; >connect c1 id=a", "MQTT-3.1.0-2"},
        {UP "; >connect c1 id=a", "MQTT-3.1.0-2"},
        {UP "; >disconnect 00; >pingreq", "MQTT-3.14.4-1"},
        {">connect c1 id=a; >subscribe #1 t; >publish q2 retain #2 t", NULL},
        {">connect c1 id=a am=m; >pingreq", "MQTT-3.1.2-30"},
        {">connect c1 id=a am=m; >disconnect 00", NULL},
        {">connect c1 id=a q1", "MQTT-3.1.2-11"},
        {">connect c1 id=a retain", "MQTT-3.1.2-13"},
        {">connect c1 id=a will q1 retain w =x", NULL},
        {UP " mps=20; >publish t =*14", NULL},
        {UP " mps=20; >publish t =*15", "MQTT-3.2.2-15"},
        {UP "; >auth 19 am=m", "MQTT-4.12.0-7"},
        {">connect c1 id=a am=m; <auth 18 am=m; >auth 18 am=m; "
         "<connack 00 am=m; >auth 19 am=m; <auth 00 am=m; >pingreq", NULL},
        {">connect c1 id=a am=m; <auth 18 am=m; >auth 19 am=m",
         "MQTT-4.12.0-3"},
        {UP_METHOD "; >auth 19 am=n", "MQTT-4.12.1-1"},
        {UP_METHOD "; >auth 18 am=mm", "MQTT-4.12.0-5"},
        {UP_METHOD "; >auth 18", "MQTT-4.12.0-5"},
    };
    (void)state;
    scripts_check(rows, COUNT(rows));
}

static void test_referee_judges_publish(void **state)
{
    static const struct script rows[] = {
        {UP "; >publish #1 t", "MQTT-2.2.1-2"},
        {UP "; >publish dup t", "MQTT-3.3.1-2"},
        {UP "; >publish q1 t", "MQTT-2.2.1-3"},
        {UP "; >publish q1 #1 t; >publish q1 #1 t", "MQTT-2.2.1-3"},
        {UP "; >publish q1 #1 t; >publish q1 dup #1 t", NULL},
        {UP "; >publish q1 #1 t; <puback #1 00; >publish q2 #1 t", NULL},
        {UP "; >publish q2 #1 t; <pubrec #1 00; >publish q1 #1 t",
         "MQTT-2.2.1-3"},
        {UP "; >publish q2 #1 t; <pubrec #1 80; >publish q1 #1 t", NULL},
        {UP " mq=1; >publish q1 #1 t", NULL},
        {UP " mq=1; >publish q2 #1 t", "MQTT-3.2.2-11"},
        {UP " ra=0; >publish retain t", "MQTT-3.2.2-14"},
        {UP " tam=2; >publish t ta=2", NULL},
        {UP " tam=2; >publish t ta=3", "MQTT-3.2.2-17"},
        {UP "; >publish t ta=1", "MQTT-3.2.2-18"},
        {">connect c1 id=a; >publish t ta=1", "MQTT-3.2.2-18"},
        {UP " tam=2; >publish t ta=0", "MQTT-3.3.2-8"},
        {UP "; >publish t sid=1", "MQTT-3.3.4-6"},
        {UP "; >publish a/+", "MQTT-3.3.2-2"},
        {UP "; >publish a/#/b", "MQTT-3.3.2-2"},
        {UP " rm=1; >publish q1 #1 t; >publish q1 #2 t", "MQTT-3.3.4-7"},
        {UP " rm=1; >publish q2 #1 t; <pubrec #1 00; >publish q1 #2 t",
         "MQTT-3.3.4-7"},
        {UP " rm=1; >publish q2 #1 t; <pubrec #1 00; >pubrel #1 00; "
         "<pubcomp #1 92; >publish q1 #2 t", NULL},
        {UP " rm=1; >publish q1 #1 t; >publish t; >subscribe #2 t; "
         "<suback #2 00; >publish q1 #2 t", "MQTT-3.3.4-7"},
        {UP " rm=1; >publish q1 #1 t; >publish q1 dup #1 t", NULL},
    };
    (void)state;
    scripts_check(rows, COUNT(rows));
}

static void test_referee_judges_requests(void **state)
{
    static const struct script rows[] = {
        {UP "; >subscribe t", "MQTT-2.2.1-3"},
        {UP "; >unsubscribe t", "MQTT-2.2.1-3"},
        {UP "; >subscribe #1 t; >unsubscribe #1 t", "MQTT-2.2.1-3"},
        {UP "; >unsubscribe #1 t; >publish q1 #1 t", "MQTT-2.2.1-3"},
        {UP "; >publish q1 #1 t; >subscribe #1 t", "MQTT-2.2.1-3"},
        {UP "; >subscribe #1 t; <suback #1 00; >unsubscribe #1 t; "
         "<unsuback #1 00; >subscribe #1 t", NULL},
        {UP "; >subscribe #1", "MQTT-3.8.3-2"},
        {UP "; >unsubscribe #1", "MQTT-3.10.3-2"},
        {UP "; >subscribe #1 t,nl $share/g/t,q1,nl", "MQTT-3.8.3-4"},
        {UP "; >subscribe #1 t,nl $share/g/t,q1", NULL},
    };
    (void)state;
    scripts_check(rows, COUNT(rows));
}

static void test_referee_hears_order(void **state)
{
    static const struct script rows[] = {
        {">connect c1 id=a; <pingresp", "MQTT-3.2.0-1"},
        {">connect c1 id=a; <publish q0 t", "MQTT-3.2.0-1"},
        {UP "; <connack 00", "MQTT-3.2.0-2"},
        {">connect c1 id=a; <connack 80; <connack 80", "MQTT-3.2.0-2"},
        {">connect c1 id=a; <connack 80; <publish t", "MQTT-3.2.2-7"},
        {">connect c1 id=a am=m; <connack 80; <auth 18 am=m", "MQTT-3.2.2-7"},
        {">connect c1 id=a; <disconnect 81", "MQTT-3.14.0-1"},
        {">connect c1 id=a; <connack 80; <disconnect 80", "MQTT-3.14.0-1"},
        {UP "; <disconnect 8e; <pingresp", "MQTT-3.14.4-1"},
        {UP "; <disconnect 8e x=1", "MQTT-3.14.2-2"},
        {UP "; <subscribe #1 t", ""},
        {UP "; >disconnect 00; <publish t", NULL}, /* it was on its way */
        {">connect c0 id=a; <connack 80 sp=1", "MQTT-3.2.2-6"},
        {">connect c1 id=a; <connack 00 ri=x", "MQTT-3.1.2-28"},
        {">connect c1 id=a rri=0; <connack 00 ri=x", "MQTT-3.1.2-28"},
        {">connect c1 id=a rri=1; <connack 00 ri=x", NULL},
        {">connect c1 id=a; <connack 00 am=m", "MQTT-4.12.0-6"},
        {">connect c1 id=a; <auth 18 am=m", "MQTT-4.12.0-6"},
        {UP "; <auth 18 am=m", "MQTT-4.12.0-6"},
        {">connect c1 id=a am=m; <connack 00", "MQTT-4.12.0-5"},
        {">connect c1 id=a am=m; <connack 00 am=n", "MQTT-4.12.0-5"},
        {">connect c1 id=a am=m; <connack 8c", NULL},
        {">connect c1 id=a am=m; <auth 18 am=n", "MQTT-4.12.0-5"},
        {">connect c1 id=a am=m; <auth 18", "MQTT-4.12.0-5"},
        {">connect c1 id=a am=m; <auth 00 am=m", "MQTT-4.12.0-2"},
    };
    (void)state;
    scripts_check(rows, COUNT(rows));
}

static void test_referee_hears_reasons(void **state)
{
    static const struct script rows[] = {
        {">connect c1 id=a; <connack 01", "MQTT-3.2.2-8"},
        {">connect c1 id=a; <connack 8b", "MQTT-3.2.2-8"},
        {UP "; <puback #1 92", "MQTT-3.4.2-1"},
        {UP "; <pubrec #1 92", "MQTT-3.5.2-1"},
        {UP "; <pubrel #1 80", "MQTT-3.6.2-1"},
        {UP "; <pubcomp #1 10", "MQTT-3.7.2-1"},
        {UP "; <suback #1 00 03", "MQTT-3.9.3-2"},
        {UP "; <unsuback #1 11 10", "MQTT-3.11.3-2"},
        {UP "; <disconnect 04", "MQTT-3.14.2-1"},
        {UP_METHOD "; <auth 19 am=m", "MQTT-3.15.2-1"},
        {UP "; <pubrel #1 92", NULL},
        {UP "; <suback #1 00 01 02 80 83 87 8f 91 97 9e a1 a2", NULL},
    };
    (void)state;
    scripts_check(rows, COUNT(rows));
}

static void test_referee_hears_wishes(void **state)
{
    static const struct script rows[] = {
        {">connect c1 id=a mps=20; <connack 00; <publish t =*14", NULL},
        {">connect c1 id=a mps=20; <connack 00; <publish t =*15",
         "MQTT-3.1.2-24"},
        {">connect c1 id=a rpi=0; <connack 87 rs=x up=a:b", NULL},
        {">connect c1 id=a rpi=0; <connack 00; <publish t up=a:b", NULL},
        {">connect c1 id=a rpi=0; <connack 00; <disconnect 81 rs=x", NULL},
        {">connect c1 id=a rpi=0; <connack 00; <puback #1 10 rs=x",
         "MQTT-3.1.2-29"},
        {">connect c1 id=a rpi=0; <connack 00; <suback #1 80 up=a:b",
         "MQTT-3.1.2-29"},
        {">connect c1 id=a rpi=0 am=m; <auth 18 am=m ad=x", NULL},
        {">connect c1 id=a rpi=0 am=m; <auth 18 am=m rs=x", "MQTT-3.1.2-29"},
    };
    (void)state;
    scripts_check(rows, COUNT(rows));
}

#define UP_2 ">connect c1 id=a tam=2 rm=2; <connack 00"

static void test_referee_hears_publish(void **state)
{
    static const struct script rows[] = {
        {UP "; <publish dup t", "MQTT-3.3.1-2"},
        {UP "; <publish q1 #0 t", "MQTT-2.2.1-4"},
        {UP "; <publish q1 #1 t; <publish q1 #1 t", "MQTT-2.2.1-4"},
        {UP "; <publish q1 dup #1 t", NULL}, /* from the last connection */
        {UP "; <publish q1 #1 t; <publish q1 dup #1 t", "MQTT-4.4.0-1"},
        {UP "; <publish q1 #1 t; >puback #1 00; <publish q2 #1 t", NULL},
        {UP "; <publish q2 #1 t; >pubrec #1 00; <publish q1 #1 t",
         "MQTT-2.2.1-4"},
        {UP_2 "; <publish q1 #1 t; <publish q2 #2 t; <publish t", NULL},
        {UP_2 "; <publish q1 #1 t; <publish q2 #2 t; <publish q1 #3 t",
         "MQTT-3.3.4-9"},
        {UP_2 "; <publish q1 #1 t; <publish q2 #2 t; >pubrec #2 00; "
              "<publish q1 #3 t", "MQTT-3.3.4-9"},
        {UP_2 "; <publish q1 #1 t; <publish q2 #2 t; >pubrec #2 80; "
              "<publish q1 #3 t", NULL},
        {UP "; <publish a/+", "MQTT-3.3.2-2"},
        {UP "; <publish #", "MQTT-3.3.2-2"},
        {UP "; <publish =x", "MQTT-4.7.3-1"},
        {UP "; <publish t ta=1", "MQTT-3.1.2-27"},
        {UP_2 "; <publish t ta=2; <publish =x ta=2", NULL},
        {UP_2 "; <publish t ta=3", "MQTT-3.3.2-11"},
        {UP_2 "; <publish t ta=0", "MQTT-3.3.2-8"},
        {UP_2 "; <publish =x ta=2", "MQTT-3.3.2-7"},
        {UP_2 "; <publish t ta=1000", "MQTT-3.3.2-11"},
        {">connect c1 id=a tam=1000; <connack 00; <publish t ta=65", ""},
    };
    (void)state;
    scripts_check(rows, COUNT(rows));
}

/* What the tests read off a referee. */
static void test_referee_state(void **state)
{
    struct referee *r = (struct referee *)mem_new(sizeof *r);
    struct mqtt_bytes topic;
    char words[] = "<publish =x ta=1";
    (void)state;
    assert_null(script_play(
        r, ">connect c0 id=a ka=5 tam=2 rm=9; <connack 00 ska=7 rm=3 tam=4; "
           ">publish q1 #1 t; >publish q2 #2 t; <puback #1 00; "
           ">subscribe #3 t; <publish q1 #8 t/u ta=1"));
    assert_int_equal(r->keep_alive, 7);
    assert_int_equal(r->receive_max, 9);
    assert_int_equal(r->server_receive_max, 3);
    assert_int_equal(r->server_alias_max, 4);
    assert_int_equal(r->sent_open, 1);
    assert_int_equal(r->sent_ids[0], 1 << 2 | 1 << 3);
    assert_int_equal(r->open, 1);
    assert_null(script_step(r, words, &topic));
    assert_int_equal(topic.n, 3);
    assert_memory_equal(topic.p, "t/u", 3);
    assert_int_equal(r->aliased, 1);
    referee_free(r);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notation_there_and_back),
        cmocka_unit_test(test_notation_of_clients),
        cmocka_unit_test(test_notation_mistakes),
        cmocka_unit_test(test_referee_judges_order),
        cmocka_unit_test(test_referee_judges_publish),
        cmocka_unit_test(test_referee_judges_requests),
        cmocka_unit_test(test_referee_hears_order),
        cmocka_unit_test(test_referee_hears_reasons),
        cmocka_unit_test(test_referee_hears_wishes),
        cmocka_unit_test(test_referee_hears_publish),
        cmocka_unit_test(test_referee_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
