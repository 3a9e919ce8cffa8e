/*
 * scene.c - the server on a disk that may fail, and what clients heard of it.
 */
#include "scene.h"

#include <assert.h>
#include <stdio.h>

#define TURNS_MAX 2000 /* of which a server at rest needs a few */

static int scene_fail(struct scene *s, const char *why)
{
    (void)snprintf(s->w.error, sizeof s->w.error, "%s",
                   why != NULL ? why : "(no reason)");
    s->dead = 1;
    return -1;
}

static void logs_take(struct scene *s)
{
    struct buf *notes = store_notices(s->w.store);
    struct buf *log = session_log(s->w.server);
    struct buf *trace = session_trace(s->w.server);
    buf_add(&s->notices, notes->p, notes->n);
    buf_take(notes, notes->n);
    buf_take(log, log->n);
    buf_take(trace, trace->n);
}

int scene_open(struct scene *s, struct disk *disk, uint64_t now)
{
    struct store_options options;
    struct session_options session;
    memset(&options, 0, sizeof options);
    options.dir = DISK_DIR;
    options.io = &disk->io;
    options.segment_size = s->segment_size;
    options.reserve_size = s->reserve_size;
    session_options_default(&session);
    session.alias_max = session.alias_out_max = 0;
    s->dead = 0;
    s->w.disk = disk;
    s->w.now = now;
    s->w.server = NULL;
    s->w.store = store_open(&options, now, s->w.error);
    if (s->w.store == NULL) {
        s->dead = 1;
        return -1;
    }
    if (store_last_alive(s->w.store) > s->w.now)
        s->w.now = store_last_alive(s->w.store);
    s->w.server = session_server_open(s->w.store, &session, s->w.now);
    if (s->w.server == NULL)
        return scene_fail(s, store_error(s->w.store));
    return scene_turn(s);
}

/* ==== the loop ============================================================ */

/* One turn: 1 = something left, 0 = nothing, -1 = the commit failed. */
static int turn_run(struct scene *s)
{
    int moved;
    session_server_settle(s->w.server, s->w.now);
    if (store_commit(s->w.store, s->w.now) != 0) {
        logs_take(s);
        return scene_fail(s, store_error(s->w.store));
    }
    moved = world_collect(&s->w);
    world_hear(&s->w);
    logs_take(s);
    return moved;
}

int scene_turn(struct scene *s)
{
    for (int i = 0; !s->dead && i < TURNS_MAX; i++) {
        int moved = turn_run(s);
        if (moved == 0 && session_server_due(s->w.server) > s->w.now)
            return 0;
    }
    return s->dead ? -1 : scene_fail(s, "it never comes to rest");
}

int scene_advance(struct scene *s, uint64_t ms)
{
    uint64_t end = s->w.now + ms;
    while (scene_turn(s) == 0 && s->w.now < end) {
        uint64_t a = session_server_due(s->w.server);
        uint64_t b = store_due(s->w.store), due = a < b ? a : b;
        due = due <= s->w.now ? s->w.now + 1 : due;
        s->w.now = due < end ? due : end;
    }
    if (!s->dead)
        store_alive(s->w.store, s->w.now);
    return s->dead ? -1 : 0;
}

/* ==== the end ============================================================= */

static void scene_close(struct scene *s, int clean)
{
    for (int i = 0; i < WORLD_LINKS; i++) {
        s->w.links[i].link = NULL;
        buf_free(&s->w.links[i].in);
    }
    if (s->w.store != NULL) {
        long hits = s->w.disk->fault.hits;
        store_close(s->w.store, clean);
        s->seal_faults += s->w.disk->fault.hits - hits;
        if (s->w.server != NULL)
            session_server_close(s->w.server);
    }
    s->w.store = NULL;
    s->w.server = NULL;
    if (s->w.disk != NULL)
        disk_kill(s->w.disk);
}

void scene_kill(struct scene *s)
{
    scene_close(s, 0);
}

int scene_stop(struct scene *s)
{
    session_server_stop(s->w.server, s->w.now);
    if (scene_turn(s) == 0)
        (void)session_server_checkpoint(s->w.server);
    if (!s->dead)
        logs_take(s);
    if (!s->dead && store_error(s->w.store) != NULL)
        (void)scene_fail(s, store_error(s->w.store));
    scene_close(s, !s->dead);
    return s->dead ? -1 : 0;
}

void scene_free(struct scene *s)
{
    scene_kill(s);
    buf_free(&s->notices);
}

int scene_has(const struct buf *text, const char *words)
{
    size_t n = strlen(words);
    for (size_t i = 0; i + n <= text->n; i++)
        if (memcmp(text->p + i, words, n) == 0)
            return 1;
    return 0;
}
