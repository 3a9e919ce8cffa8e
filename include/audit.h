/*
 * audit.h - the ledger read without a broker, damaged or not.
 *
 * An audit is a store that was opened for reading only.  It takes no lock and
 * writes nothing, so it may stand beside a running broker: it shows the ledger
 * as of one moment of its opening.  Where a start would refuse, it notes a
 * fault and goes on behind the damage.  The index is looked at, not used:
 * every byte of the log is read and verified.  Part of store.c.
 *
 *     store_audit                       once
 *     store_replay_next, _field_next    all records, as at a start
 *     store_faults, store_report        what there is to say
 *     store_salvage                     what is sound, as a new store
 *     store_close(st, 0)
 */
#ifndef HOLDFAST_AUDIT_H
#define HOLDFAST_AUDIT_H

#include "store.h"

/* Opens the store in options->dir.  now: ms since 1970.  show: 1 = every batch
 * and record goes into store_shown() as it is read.  NULL: one line in err. */
struct store *store_audit(const struct store_options *options, uint64_t now,
                          int show, char err[STORE_ERROR_MAX]);

/* After the last record: a line for each stretch that is damaged or missing,
 * in the order of the log; each names file and offset.  Empty = the log is
 * sound.  Valid until the store is closed. */
const struct buf *store_faults(struct store *st);

/* Each batch and record that was read since the caller last took them out,
 * a line each, with its time. */
struct buf *store_shown(struct store *st);

/* After the last record: appends what the files look like: their sizes and
 * how much of each is live, the batches, the torn end, the index. */
void store_report(struct store *st, struct buf *out);

/* After the last record: writes all that is sound into a new store in `dir`,
 * which must not exist yet: every good batch, but for records in it that the
 * owner has refused.  The batches are numbered anew from the first gap on.
 * The store that is read stays as it is.  0, or -1: store_error(). */
int store_salvage(struct store *st, const char *dir);

/* Appends a time as people read it: 2026-01-31 08:05:09.120 UTC. */
void store_time_print(struct buf *out, uint64_t ms);

#endif
