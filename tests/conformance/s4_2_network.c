/*
 * s4_2_network.c - 4.2 Network Connections.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "run.h"

/* What was held back, one byte a write. */
static void release_in_bytes(struct peer *p)
{
    for (size_t i = 0; i < p->out.n; i++)
        while (send(p->fd, p->out.p + i, 1, MSG_NOSIGNAL) != 1)
            if (!pump(p->test, now() + WAIT) || p->ended)
                test_fail(p->test, "the broker takes no more bytes");
    buf_take(&p->out, p->out.n);
    release(p);
}

/* One topic only: between two there is no order, and an UNSUBSCRIBE may cost
 * what waits to be delivered (3.10.4). */
static void say_all(struct peer *p)
{
    subscribe(p, "~/a ~/b");
    hold(p);
    say(p, "publish =1 ~/a");
    say(p, "subscribe #11 ~/c ~/d");
    say(p, "publish =2 ~/a ct=text up=n:v");
    say(p, "unsubscribe #12 ~/b");
    say(p, "publish =3 ~/b");
    say(p, "publish =4 ~/a");
    say(p, "pingreq");
}

static void hear_all(struct peer *p)
{
    hear(p, "suback #11 00 00");
    hear(p, "publish q0 ~/a =1");
    hear(p, "publish q0 ~/a =2 ct=text up=n:v");
    hear(p, "publish q0 ~/a =4");
    hear(p, "unsuback #12 00");
    hear(p, "pingresp");
    silent(p);
}

/* TCP is a stream: where it is cut means nothing. */
static void test_mqtt_4_2_0_1_one_byte_a_write(struct test *t)
{
    struct peer *p = peer_open(t);

    hold(p);
    say(p, "connect c1 id=~a");
    release_in_bytes(p);
    hear(p, "connack 00*");
    say_all(p);
    release_in_bytes(p);
    hear_all(p);
}

static void test_mqtt_4_2_0_1_all_in_one_write(struct test *t)
{
    struct peer *p = peer_join(t, "c1 id=~a");

    say_all(p);
    release(p);
    hear_all(p);
}

static void test_mqtt_4_2_0_1_connect_and_more_in_one_write(struct test *t)
{
    struct peer *p = peer_open(t);

    hold(p);
    say(p, "connect c1 id=~a");
    say(p, "subscribe #1 ~/a");
    say(p, "pingreq");
    release(p);
    hear(p, "connack 00*");
    hear(p, "suback #1 00");
    hear(p, "pingresp");
}

/* Every byte, and nothing between them. */
static void test_mqtt_4_2_0_1_every_byte_arrives(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a");
    char words[3 * 256 + 1];

    for (unsigned i = 0; i < 256; i++)
        sprintf(words + 3 * i, "%%%02X", i);
    publish(t, "=%s ~/a", words);
    const struct mqtt_bytes got =
        hear(p, "publish q0 ~/a =*")->packet.publish.payload;
    check(t, got.n == 256, "%u bytes, not 256", (unsigned)got.n);
    for (unsigned i = 0; i < 256; i++)
        check(t, got.p[i] == i, "byte %u is %02X", i, got.p[i]);
}

static void test_mqtt_4_2_0_1_large_packets_arrive_whole(struct test *t)
{
    static const unsigned sizes[] = {1000, 65535, 65536, 200000};
    struct peer *p = peer_watch(t, "~/a");

    for (size_t i = 0; i < COUNT(sizes); i++) {
        publish(t, "=*%u ~/a", sizes[i]);
        hear(p, "publish q0 ~/a =*%u", sizes[i]);
    }
}

/* It goes in several writes, and comes in several reads. */
static void test_mqtt_4_2_0_1_more_than_a_socket_holds_arrives(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a");

    publish(t, "=*6000000 ~/a");
    hear(p, "publish q0 ~/a =*6000000");
}

static void test_mqtt_4_2_0_1_nothing_is_lost_or_turned_round(struct test *t)
{
    struct peer *p = peer_watch(t, "~/a,q1");
    struct peer *from = peer_join(t, "c1 id=~a");
    unsigned count = offer(t)->receive_max < 20 ? offer(t)->receive_max : 20;
    char expected[100] = "";

    hold(from);
    for (unsigned i = 1; i <= count; i++) {
        say(from, "publish q1 #%u =%u ~/a", i, i);
        sprintf(expected + strlen(expected), "%u ", i);
    }
    release(from);
    const char *came = serve(p, count);
    check(t, strcmp(came, expected) == 0, "sent %s, came %s", expected, came);
}

static const struct test_case cases[] = {
    TEST(test_mqtt_4_2_0_1_one_byte_a_write),
    TEST(test_mqtt_4_2_0_1_all_in_one_write),
    TEST(test_mqtt_4_2_0_1_connect_and_more_in_one_write),
    TEST(test_mqtt_4_2_0_1_every_byte_arrives),
    TEST(test_mqtt_4_2_0_1_large_packets_arrive_whole),
    TEST(test_mqtt_4_2_0_1_more_than_a_socket_holds_arrives),
    TEST(test_mqtt_4_2_0_1_nothing_is_lost_or_turned_round),
};

const struct section section_4_2 = SECTION("4.2 Network Connections", cases);
