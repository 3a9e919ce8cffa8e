/*
 * world.c - the server on a disk in memory, its loop, and its clients' ends.
 */
#include "world.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "notation.h"

#define SEGMENT_BYTES 2048 /* so that a workload fills a dozen of them */
#define RESERVE_BYTES 4096
#define TURNS_MAX 10000    /* of which a server at rest needs a few */

/* ==== the process ========================================================= */

static int world_fail(struct world *w, const char *why)
{
    (void)snprintf(w->error, sizeof w->error, "%s", why);
    return -1;
}

/* Is every byte of this file safe? */
static int file_safe(const struct disk *d, const char *name)
{
    int file = disk_names_find(&d->now, name);
    return file < 0 || d->files[file].pending_count == 0;
}

/* An index has its name only after its bytes are safe: no crash tears it. */
static int index_torn(struct world *w)
{
    const struct buf *notes = store_notices(w->store);
    static const char text[] = "index: not used, it is torn";
    for (size_t i = 0; i + sizeof text - 1 <= notes->n; i++)
        if (memcmp(notes->p + i, text, sizeof text - 1) == 0)
            return 1;
    return 0;
}

static void logs_drop(struct world *w)
{
    struct buf *logs[3] = {session_log(w->server), session_trace(w->server),
                           store_notices(w->store)};
    for (int i = 0; i < 3; i++)
        buf_take(logs[i], logs[i]->n);
}

int world_open(struct world *w, struct disk *disk, uint64_t now)
{
    struct store_options options;
    struct session_options session;
    memset(&options, 0, sizeof options);
    options.dir = DISK_DIR;
    options.io = &disk->io;
    options.segment_size = SEGMENT_BYTES;
    options.reserve_size = RESERVE_BYTES;
    session_options_default(&session);
    session.alias_max = session.alias_out_max = 0;
    w->disk = disk;
    w->now = now;
    w->store = store_open(&options, now, w->error);
    if (w->store == NULL)
        return -1;
    if (index_torn(w) || !file_safe(disk, "reserve")) {
        store_close(w->store, 0);
        w->store = NULL;
        return world_fail(w, "the index is torn, or the reserve not safe");
    }
    if (store_last_alive(w->store) > w->now)
        w->now = store_last_alive(w->store);
    w->server = session_server_open(w->store, &session, w->now);
    if (w->server == NULL) {
        (void)world_fail(w, store_error(w->store));
        store_close(w->store, 0);
        w->store = NULL;
        return -1;
    }
    return world_turn(w);
}

static void world_close(struct world *w, int clean)
{
    for (int i = 0; i < WORLD_LINKS; i++) {
        w->links[i].link = NULL;
        buf_free(&w->links[i].in);
    }
    if (w->store != NULL) {
        store_close(w->store, clean);
        session_server_close(w->server);
    }
    w->store = NULL;
    w->server = NULL;
    disk_kill(w->disk);
}

void world_kill(struct world *w)
{
    world_close(w, 0);
}

/* A ledger that was sealed has nothing that a crash could take, but the
 * heartbeat. */
int world_stop(struct world *w)
{
    const struct disk *d = w->disk;
    int bad;
    session_server_stop(w->server, w->now);
    bad = world_turn(w);
    if (bad == 0 && session_server_checkpoint(w->server) < 0)
        bad = world_fail(w, "no index");
    world_close(w, bad == 0);
    for (size_t i = 0; bad == 0 && i < d->now.count; i++)
        if (strcmp(d->now.entries[i].name, "lock") != 0 &&
            !file_safe(d, d->now.entries[i].name))
            bad = world_fail(w, "the seal is not safe");
    if (bad == 0 && d->pending_count > 0)
        bad = world_fail(w, "a name is not safe after an orderly end");
    return bad;
}

/* ==== the loop ============================================================ */

int world_collect(struct world *w)
{
    int moved = 0;
    w->left = w->disk->op_count;
    for (int i = 0; i < WORLD_LINKS; i++) {
        struct world_link *l = &w->links[i];
        const uint8_t *p;
        size_t n;
        if (l->link == NULL)
            continue;
        p = session_link_output(l->link, &n);
        buf_add(&l->in, p, n);
        if (n > 0)
            session_link_sent(l->link, n);
        l->ended = session_link_done(l->link);
        moved |= n > 0 || l->ended;
    }
    return moved;
}

static void link_hear(struct world *w, int i)
{
    struct world_link *l = &w->links[i];
    struct mqtt_error err;
    struct mqtt_packet p;
    size_t size;
    while (l->in.n > 0) {
        enum mqtt_frame f = mqtt_frame_find(l->in.p, l->in.n, UINT32_MAX,
                                            MQTT_FROM_SERVER, &size, &err);
        int bad = f != MQTT_FRAME_COMPLETE;
        if (!bad)
            bad = mqtt_packet_decode(&p, l->in.p, size, MQTT_FROM_SERVER,
                                     &err);
        assert(!bad);
        (void)bad;
        if (w->hear != NULL)
            w->hear(w->arg, i, &p);
        buf_take(&l->in, size);
    }
}

void world_hear(struct world *w)
{
    for (int i = 0; i < WORLD_LINKS; i++) {
        struct world_link *l = &w->links[i];
        int ended = l->ended && l->link != NULL;
        link_hear(w, i);
        l->ended = 0;
        if (ended)
            world_link_cut(w, i);
    }
}

/* The one edge of the loop that no file of Holdfast but broker.c holds can be
 * broken here, to see that it is missed. */
static int flush_early(void)
{
    const char *set = getenv("CRASH_FLUSH_EARLY");
    return set != NULL && set[0] == '1';
}

/* One turn: 1 = something left, 0 = nothing, -1 = the commit failed. */
static int turn_run(struct world *w)
{
    int moved = 0, early = flush_early();
    w->began = w->disk->op_count;
    session_server_settle(w->server, w->now);
    if (early)
        moved = world_collect(w);
    if (store_commit(w->store, w->now) != 0)
        return world_fail(w, store_error(w->store));
    if (w->disk->pending_count > 0)
        return world_fail(w, "a name is not safe after a commit");
    if (!early)
        moved = world_collect(w);
    if (w->turned != NULL)
        w->turned(w->arg);
    world_hear(w);
    logs_drop(w);
    return moved;
}

int world_turn(struct world *w)
{
    for (int i = 0; i < TURNS_MAX; i++) {
        int moved = turn_run(w);
        if (moved < 0)
            return -1;
        if (moved == 0 && session_server_due(w->server) > w->now)
            return 0;
    }
    return world_fail(w, "it never comes to rest");
}

int world_advance(struct world *w, uint64_t ms)
{
    uint64_t end = w->now + ms;
    if (world_turn(w) < 0) /* what was said before belongs to that time */
        return -1;
    for (;;) {
        uint64_t a = session_server_due(w->server), b = store_due(w->store);
        uint64_t due = a < b ? a : b;
        w->now = due <= w->now ? w->now + 1 : due;
        if (w->now > end)
            break;
        if (world_turn(w) < 0)
            return -1;
    }
    w->now = end;
    if (world_turn(w) < 0)
        return -1;
    store_alive(w->store, w->now);
    return 0;
}

/* ==== clients ============================================================= */

void world_link_open(struct world *w, int link)
{
    assert(w->links[link].link == NULL);
    w->links[link].in.n = 0;
    w->links[link].link = session_link_open(w->server, "crash", w->now);
}

void world_say(struct world *w, int link, const char *format, ...)
{
    struct draft d;
    struct buf b = {NULL, 0, 0, 0};
    va_list args;
    char *words;
    if (w->links[link].link == NULL)
        return; /* the server closed it meanwhile */
    va_start(args, format);
    words = words_print(format, args);
    va_end(args);
    draft_parse(&d, words);
    draft_encode(&d, &b);
    session_link_input(w->links[link].link, b.p, b.n, w->now);
    buf_free(&b);
    draft_free(&d);
    free(words);
}

void world_link_cut(struct world *w, int link)
{
    struct session_link *l = w->links[link].link;
    w->links[link].link = NULL;
    if (l != NULL)
        session_link_lost(l, w->now);
}

/* ==== the state in words ================================================== */

/* Cuts the field, which begins with a blank, out of the line. */
static size_t field_cut(char *line, size_t n, const char *field)
{
    size_t m = strlen(field);
    for (size_t i = 0; i + m <= n; i++) {
        size_t end = i + m;
        if (line[i] != ' ' || memcmp(line + i, field, m) != 0)
            continue;
        while (end < n && line[end] != ' ')
            end++;
        memmove(line + i, line + end, n - end);
        n -= end - i;
        i--;
    }
    return n;
}

static int line_compare(const void *a, const void *b)
{
    const char *const *x = (const char *const *)a;
    const char *const *y = (const char *const *)b;
    return strcmp(*x, *y);
}

static int line_counts(const char *line)
{
    return strncmp(line, "index ", 6) != 0 && strncmp(line, "end ", 4) != 0 &&
           strncmp(line, "segment ", 8) != 0;
}

enum print { PRINT_FULL, PRINT_TEXT, PRINT_LOOSE };

/* Cuts what this kind of print leaves out. */
static size_t line_cut(char *line, size_t n, enum print print)
{
    static const char *const fields[] = {" line=", " at=", " offline=",
                                         " will-due=", " seq=", " to="};
    size_t count = print == PRINT_FULL ? 2 : print == PRINT_TEXT ? 4 : 6;
    for (size_t i = 0; i < count; i++)
        n = field_cut(line, n, fields[i]);
    return n;
}

/* The lines of the index that are of objects, in alphabetical order. */
static void lines_print(const struct buf *index, enum print print,
                        struct buf *out)
{
    char *all = (char *)mem_new(index->n + 1), *p = all;
    /* no line is shorter than eight bytes */
    char **lines = (char **)mem_new((index->n / 8 + 1) * sizeof *lines);
    size_t count = 0;
    memcpy(all, index->p, index->n);
    while (*p != '\0') {
        char *end = strchr(p, '\n');
        size_t n = end != NULL ? (size_t)(end - p) : strlen(p);
        char *next = end != NULL ? end + 1 : p + n;
        n = line_cut(p, n, print);
        p[n] = '\0';
        if (line_counts(p))
            lines[count++] = p;
        p = next;
    }
    qsort(lines, count, sizeof *lines, line_compare);
    for (size_t i = 0; i < count; i++) {
        buf_text(out, lines[i]);
        buf_add(out, "\n", 1);
    }
    free(lines);
    free(all);
}

int world_print(struct world *w, struct buf *text, struct buf *full)
{
    const struct buf *index;
    if (session_server_checkpoint(w->server) != 0) {
        const char *error = store_error(w->store);
        (void)snprintf(w->error, sizeof w->error, "no index: %s",
                       error != NULL ? error : "?");
        return -1;
    }
    index = disk_get(w->disk, "index");
    lines_print(index, PRINT_TEXT, text);
    lines_print(index, PRINT_FULL, full);
    return 0;
}

void world_print_loose(const struct buf *text, struct buf *loose)
{
    lines_print(text, PRINT_LOOSE, loose);
}
