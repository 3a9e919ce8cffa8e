/*
 * states.h - the disks that a crash may leave, one by one.
 *
 * From the record of a disk (disk.h) and a crash point, which is how many of
 * its operations had been asked for, this makes the disks that the next
 * process may find.  The model:
 *
 *   - What a sync that had returned made safe is there, byte for byte.
 *   - Each 512-byte sector that was written or truncated since then has, in
 *     the bytes so changed, independently of all others: what was there
 *     before, what stood there after any one of the writes, zeros, random
 *     bytes, or old bytes of another file (a block used again).
 *   - A file's size is anything between the smallest and the largest that it
 *     had since its last sync.
 *   - Each creation, rename and unlink since the last sync of the directory
 *     is kept or lost, independently of all others and of the file's bytes.
 *   - The directory is not there unless its own name was made safe, or so it
 *     happens.
 *
 * Number 0 is always the disk as the process saw it: that process was killed,
 * the system went on.  If the rest are few they are all of them, from 1 on,
 * each one once, but for the lock file's bytes, which are drawn.  Else any
 * number is a state: 1 to 3 the extremes, the others drawn by (seed, crash
 * point, number), with a preference for states in which nearly all, or nearly
 * nothing, of what was pending is there.  The same triple is the same state.
 */
#ifndef HOLDFAST_TESTS_STATES_H
#define HOLDFAST_TESTS_STATES_H

#include "disk.h"

#define SECTOR 512

struct states; /* a crash point of a record, and what is open at it */

/* Begins before the first of `count` operations, recorded on a disk that held
 * what `base` holds.  The operations must outlive it; base need not. */
struct states *states_new(const struct disk *base, struct disk_op **ops,
                          size_t count, uint64_t seed);
void states_free(struct states *s);

/* Goes to a crash point, which must not lie before the present one. */
void states_at(struct states *s, size_t point);

/* How many states there are here, number 0 and doubles included: those of
 * the drawn lock file not.  UINT64_MAX = more than 2^62. */
uint64_t states_count(const struct states *s);

/* The disk of this number, all of it safe: to be freed.  all: states_count()
 * is small enough for the caller, and numbers from 1 on enumerate. */
struct disk *states_make(struct states *s, uint64_t number, int all);

#endif
