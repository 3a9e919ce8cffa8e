/*
 * killtest.c - kill -9 at random moments, under load; then the accounts.
 *
 *     killtest [rounds [seed]]          200 rounds; the seed is printed
 *
 * In each round the broker is started on the same store, publishers and
 * subscribers resume their sessions and work, and a second process kills the
 * broker at a random moment: while it recovers, while clients connect, or
 * under load (account.h).  lost, duplicates, disorder, sessions and errors
 * must all be 0, which is also the exit status.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "account.h"

int main(int argc, char **argv)
{
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 200;
    unsigned long seed =
        argc > 2 ? strtoul(argv[2], NULL, 10) : (unsigned long)time(NULL);
    struct account *a = account_new("killtest", seed);
    char dir[64];
    int rc;

    printf("killtest seed=%lu rounds=%lu\n", seed, rounds);
    fflush(stdout);
    if (client_dir_make(dir, sizeof dir) != 0)
        return 1;
    a->dir = dir;
    rc = account_prepare(a);
    for (unsigned long i = 0; i < rounds && rc == 0; i++)
        rc = account_life(a);
    if (rc == 0)
        rc = account_finish(a);
    account_close(a);
    account_report(a);
    if (rc == 0 && account_good(a)) {
        client_dir_remove(dir);
        return 0;
    }
    fprintf(stderr, "killtest: FAILED; the store is kept in %s\n", dir);
    return 1;
}
