/*
 * badpeer.c - a server that is no broker: what the suite must bear.
 *
 *     badpeer garbage   answers everything with random bytes
 *     badpeer random    accepts the CONNECT; then, by a throw of dice, closes,
 *                       sends a PINGRESP, sends random bytes, or is silent
 *     badpeer hang      never answers
 *     badpeer half      begins a CONNACK and never ends it
 *
 * It listens on a free port of the loopback, says "port N" on stdout and
 * serves until SIGTERM.  The dice fall the same way at each start.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum mode { GARBAGE, RANDOM, HANG, HALF, MODES };

static const char *const mode_names[MODES] = {"garbage", "random", "hang",
                                              "half"};

#define PEERS 1000 /* connections at once; those beyond are closed */

static struct pollfd peers[PEERS + 1]; /* the first one listens */
static int heard[PEERS + 1];           /* 1 = it has sent something */
static nfds_t peer_count = 1;

static void listen_open(void)
{
    struct sockaddr_in a;
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 ||
        listen(fd, 100) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &size) != 0) {
        perror("badpeer");
        exit(1);
    }
    peers[0].fd = fd;
    peers[0].events = POLLIN;
    printf("port %u\n", (unsigned)ntohs(a.sin_port));
    fflush(stdout);
}

static void peer_add(void)
{
    int fd = accept(peers[0].fd, NULL, NULL);

    if (fd < 0)
        return;
    if (peer_count > PEERS || fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        close(fd);
        return;
    }
    heard[peer_count] = 0;
    peers[peer_count].fd = fd;
    peers[peer_count].revents = 0;
    peers[peer_count++].events = POLLIN;
}

/* Sends what there is room for; the rest is lost. */
static void say(int fd, const char *bytes, size_t n)
{
    ssize_t ignored = write(fd, bytes, n);
    (void)ignored;
}

static void say_junk(int fd)
{
    char junk[40];
    size_t n = 1 + (size_t)(rand() % (int)sizeof junk);

    for (size_t i = 0; i < n; i++)
        junk[i] = (char)(rand() >> 4);
    say(fd, junk, n);
}

/* The peer has sent something.  Returns 0 to close its connection. */
static int answer(int fd, int first, enum mode mode)
{
    int dice;

    if (mode == GARBAGE)
        say_junk(fd);
    if (mode == RANDOM && first)
        say(fd, "\x20\x03\x00\x00\x00", 5);
    if (mode == HALF && first)
        say(fd, "\x20\x03\x00", 3);
    if (mode != RANDOM || first)
        return 1;
    dice = (rand() >> 4) % 4;
    if (dice == 1)
        say(fd, "\xD0\x00", 2);
    if (dice == 2)
        say_junk(fd);
    return dice != 0;
}

/* Reads from those that have something to say, the last one first: whoever
 * takes the place of one that is gone was asked already. */
static void peers_serve(enum mode mode)
{
    char bytes[4096];

    for (nfds_t i = peer_count; i-- > 1;) {
        if (peers[i].revents == 0)
            continue;
        if (read(peers[i].fd, bytes, sizeof bytes) > 0 &&
            answer(peers[i].fd, !heard[i], mode)) {
            heard[i] = 1;
            continue;
        }
        close(peers[i].fd);
        peers[i] = peers[--peer_count];
        heard[i] = heard[peer_count];
    }
}

int main(int argc, char **argv)
{
    unsigned mode = 0;

    while (argc == 2 && mode < MODES && strcmp(argv[1], mode_names[mode]) != 0)
        mode++;
    if (argc != 2 || mode == MODES) {
        fputs("usage: badpeer garbage | random | hang | half\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    srand(1);
    listen_open();
    while (poll(peers, peer_count, -1) > 0) {
        peers_serve((enum mode)mode);
        if (peers[0].revents != 0)
            peer_add();
    }
    return 1;
}
