/*
 * powercut.c - the file system dies under the broker; then the accounts.
 *
 *     powercut IMAGE MOUNTPOINT [cycles [seed]]      500 cycles
 *
 * powercut.sh makes the image of a file system and calls this as root.  In
 * each cycle the image is mounted, the broker starts on it and works for
 * clients (account.h), and at a random moment FS_IOC_SHUTDOWN stops the file
 * system at once, without a flush of its journal: all that was not synced is
 * gone, as after a power cut.  Then the image is unmounted, and the next cycle
 * finds what the disk kept.  There are two kinds of cuts, half of each:
 *
 *     in the midst   whatever call the broker is in, it never returns from it
 *     between calls  the broker goes on for up to 5 ms: it meets calls that
 *                    fail, and must not acknowledge anything any more
 *
 * Both begin with SIGSTOP, because Linux 6.18's fsync() returns 0 now and then
 * if the file system is stopped during the call, although nothing was written:
 * what a power cut never does, for nothing goes on after it.
 *
 * lost, duplicates, disorder, sessions and errors must all be 0, which is
 * also the exit status.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "account.h"

/* FS_IOC_SHUTDOWN of Linux, by the name of whichever file system had it
 * first; its argument 2 is "no flush of the log". */
#define SHUTDOWN _IOR('X', 125, uint32_t)
#define SHUTDOWN_NO_LOG_FLUSH 2

struct plug {
    const char *image, *dir;       /* the image, and where it is mounted */
    const struct account *account; /* whose broker it is */
    int between;                   /* 1 = the cut comes between two calls, */
    uint32_t delay;                /* and so many us before the kill */
};

/* Runs a program: 0, or -1 if it fails. */
static int run(const char *const *args)
{
    char *argv[8];
    size_t n = 0;
    int status = -1;
    pid_t pid;

    while (args[n] != NULL && n < 7) {
        argv[n] = strdup(args[n]);
        n++;
    }
    argv[n] = NULL;
    pid = fork();
    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    if (pid > 0)
        waitpid(pid, &status, 0);
    while (n > 0)
        free(argv[--n]);
    return status == 0 ? 0 : -1;
}

static int image_mount(const struct plug *p)
{
    const char *args[] = {"mount", "-o", "loop", p->image, p->dir, NULL};

    return run(args);
}

static int image_unmount(const struct plug *p)
{
    const char *args[] = {"umount", p->dir, NULL};

    return run(args);
}

/* Stops the file system.  0, or -1 and errno. */
static int image_cut(const struct plug *p)
{
    uint32_t how = SHUTDOWN_NO_LOG_FLUSH;
    int fd = open(p->dir, O_RDONLY);
    int rc = fd < 0 ? -1 : ioctl(fd, SHUTDOWN, &how);
    int error = errno;

    if (fd >= 0)
        close(fd);
    errno = error;
    return rc;
}

static void wait_us(uint32_t us)
{
    struct timespec time = {0, (long)us * 1000};

    nanosleep(&time, NULL);
}

/* 1 = the process has stopped: it is in no call, and runs none. */
static int process_stopped(pid_t pid)
{
    char path[64], text[256] = "";
    const char *name_end;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    f = fopen(path, "r");
    if (f == NULL)
        return 0;
    if (fgets(text, sizeof text, f) == NULL)
        text[0] = '\0';
    fclose(f);
    name_end = strrchr(text, ')');
    return name_end != NULL && strncmp(name_end, ") T", 3) == 0;
}

/* In the process that ends the broker, which does so after this. */
static int power_cut(void *arg)
{
    const struct plug *p = (const struct plug *)arg;
    pid_t broker = p->account->broker.pid;

    kill(broker, SIGSTOP);
    for (int i = 0; p->between && i < 5000 && !process_stopped(broker); i++)
        wait_us(1000);
    if (image_cut(p) != 0) {
        fprintf(stderr, "powercut: shutdown: %s\n", strerror(errno));
        return -1;
    }
    if (p->between) {
        kill(broker, SIGCONT);
        wait_us(p->delay);
    }
    return 0;
}

/* Does this system know the call, and does it lose what was not synced?
 * 1 = yes; 0 = no, and it is said; -1 = it does not even mount. */
static int plug_try(const struct plug *p)
{
    char path[512];
    int fd, works, kept;

    if (image_mount(p) != 0)
        return -1;
    snprintf(path, sizeof path, "%s/unsynced", p->dir);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    if (fd >= 0)
        close(fd);
    works = fd >= 0 && image_cut(p) == 0;
    if (!works)
        printf("powercut: skipped: no FS_IOC_SHUTDOWN: %s\n", strerror(errno));
    if (image_unmount(p) != 0)
        return -1;
    if (!works)
        return 0;
    if (image_mount(p) != 0)
        return -1;
    kept = access(path, F_OK) == 0;
    if (kept)
        fprintf(stderr, "powercut: what was not synced is still there\n");
    return image_unmount(p) != 0 || kept ? -1 : 1;
}

/* Each life of the broker is one mount.  0 or -1. */
static int cycle(struct account *a, struct plug *p,
                 int (*life)(struct account *a))
{
    int rc;

    p->between = account_random(a, 2) == 0;
    p->delay = account_random(a, 5000);
    if (image_mount(p) != 0)
        return -1;
    rc = life(a);
    return image_unmount(p) == 0 ? rc : -1;
}

int main(int argc, char **argv)
{
    struct plug p = {argc > 2 ? argv[1] : "", argc > 2 ? argv[2] : "", NULL, 0,
                     0};
    unsigned long cycles = argc > 3 ? strtoul(argv[3], NULL, 10) : 500;
    unsigned long seed =
        argc > 4 ? strtoul(argv[4], NULL, 10) : (unsigned long)time(NULL);
    struct account *a = account_new("powercut", seed);
    char store[512];
    int rc = plug_try(&p);

    if (rc == 0)
        return 0;
    printf("powercut seed=%lu cycles=%lu\n", seed, cycles);
    fflush(stdout);
    snprintf(store, sizeof store, "%s/store", p.dir);
    a->dir = store;
    a->disaster = power_cut;
    a->arg = &p;
    p.account = a;
    rc = rc < 0 ? -1 : cycle(a, &p, account_prepare);
    for (unsigned long i = 0; i < cycles && rc == 0; i++)
        rc = cycle(a, &p, account_life);
    if (rc == 0)
        rc = cycle(a, &p, account_finish);
    account_close(a);
    account_report(a);
    if (rc == 0 && account_good(a))
        return 0;
    fprintf(stderr, "powercut: FAILED\n");
    return 1;
}
