/*
 * states.c - the disks that a crash may leave, one by one.
 *
 * Sections
 *   1  what is open   the pending parts of each file, at one crash point
 *   2  choices        a number, or a generator, decides each open question
 *   3  building       files and names by the choices made
 *   4  crash points
 */
#include "states.h"

#include <assert.h>

#define IMAGES 5 /* versions of a file that are looked at: the safe one, the
                    last ones before now, and now */

/* A file with pending changes. */
struct open_file {
    int file;                  /* index on the shadow */
    int drawn;                 /* 1 = the lock file: never enumerated */
    size_t low, high;          /* the sizes it may have */
    struct buf image[IMAGES];  /* versions, the safe one first, now last;
                                  each `high` bytes, zeros behind its end */
    size_t images;             /* how many */
    uint8_t *changed;          /* per byte: 1 = pending; `high` of them */
    size_t *sectors;           /* those with a changed byte */
    size_t sector_count;
};

struct states {
    struct disk *shadow;    /* the first `point` operations played on it */
    struct disk_op **ops;   /* the record; not owned */
    size_t count, point;
    uint64_t seed;
    struct open_file *open; /* what is pending at this point */
    size_t open_count;
};

/* ==== 1. what is open ===================================================== */

static void image_set(struct buf *image, const struct buf *from, size_t high)
{
    size_t n = from->n < high ? from->n : high;
    (void)buf_room(image, high + 1);
    memset(image->p, 0, high + 1);
    if (n > 0)
        memcpy(image->p, from->p, n);
    image->n = high;
}

static void image_change(struct buf *image, const struct disk_op *op)
{
    if (op->change == CHANGE_TRUNCATE)
        memset(image->p, 0, image->n);
    else
        memcpy(image->p + op->at, op->bytes, op->n);
}

/* The smallest and the largest size since the last sync. */
static void open_sizes(struct open_file *o, const struct disk_file *f)
{
    size_t size = f->safe.n;
    o->low = o->high = size;
    for (size_t i = 0; i < f->pending_count; i++) {
        const struct disk_op *op = f->pending[i];
        size_t end = (size_t)op->at + op->n;
        size = op->change == CHANGE_TRUNCATE ? 0 : size > end ? size : end;
        o->low = size < o->low ? size : o->low;
        o->high = size > o->high ? size : o->high;
    }
}

static void open_sectors(struct open_file *o)
{
    o->sectors = (size_t *)mem_new((o->high / SECTOR + 1) * sizeof(size_t));
    for (size_t at = 0; at < o->high; at++)
        if (o->changed[at] &&
            (o->sector_count == 0 ||
             o->sectors[o->sector_count - 1] != at / SECTOR))
            o->sectors[o->sector_count++] = at / SECTOR;
}

static void open_begin(struct open_file *o, const struct disk *d, int file)
{
    const struct disk_file *f = &d->files[file];
    struct buf image;
    memset(o, 0, sizeof *o);
    memset(&image, 0, sizeof image);
    o->file = file;
    o->drawn = disk_names_find(&d->now, "lock") == file;
    open_sizes(o, f);
    o->changed = (uint8_t *)mem_new(o->high + 1);
    image_set(&o->image[o->images++], &f->safe, o->high);
    image_set(&image, &f->safe, o->high);
    for (size_t i = 0; i < f->pending_count; i++) {
        const struct disk_op *op = f->pending[i];
        size_t at = op->change == CHANGE_TRUNCATE ? 0 : (size_t)op->at;
        size_t n = op->change == CHANGE_TRUNCATE ? f->safe.n : op->n;
        image_change(&image, op);
        memset(o->changed + at, 1, n);
        if (f->pending_count - i < IMAGES)
            image_set(&o->image[o->images++], &image, o->high);
    }
    buf_free(&image);
    open_sectors(o);
}

static void open_end(struct states *s)
{
    for (size_t i = 0; i < s->open_count; i++) {
        struct open_file *o = &s->open[i];
        for (size_t k = 0; k < o->images; k++)
            buf_free(&o->image[k]);
        free(o->changed);
        free(o->sectors);
    }
    s->open_count = 0;
}

/* May a crash leave this file under some name? */
static int file_named(const struct disk *d, int file)
{
    for (size_t i = 0; i < d->safe.count; i++)
        if (d->safe.entries[i].file == file)
            return 1;
    for (size_t i = 0; i < d->pending_count; i++)
        if (d->pending[i]->change != CHANGE_UNLINK &&
            d->pending[i]->file == file)
            return 1;
    return 0;
}

/* ==== 2. choices ========================================================== */

/* Decides questions one after the other: each has so many answers, of which
 * 0 is "as it was before" and the last "as it is now", but for sectors. */
struct chooser {
    int all;        /* 1 = by the digits of `rest`, 0 = drawn */
    uint64_t rest;  /* what is left of the number */
    uint64_t dice;  /* state of the generator */
    unsigned names; /* in 16: how readily a change of names is kept */
    unsigned bytes; /* and a sector is new */
    unsigned odd;   /* else: in 16, how readily it is something odd */
};

static uint64_t dice_mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

static uint64_t chooser_draw(struct chooser *c, uint64_t sides)
{
    c->dice += UINT64_C(0x9E3779B97F4A7C15);
    return dice_mix(c->dice) % sides;
}

static uint64_t chooser_digit(struct chooser *c, uint64_t base)
{
    uint64_t digit = c->rest % base;
    c->rest /= base;
    return digit;
}

/* How likely things are kept in this state: each is a world of its own. */
static void chooser_mood(struct chooser *c, uint64_t number)
{
    static const unsigned moods[5] = {0, 1, 8, 15, 16};
    c->names = moods[chooser_draw(c, 5)];
    c->bytes = moods[chooser_draw(c, 5)];
    c->odd = moods[chooser_draw(c, 5)];
    if (number <= 3) {
        c->names = number == 3 ? 16 : 0;
        c->bytes = number == 2 ? 16 : 0;
        c->odd = 0;
    }
}

static struct chooser chooser_begin(const struct states *s, uint64_t number,
                                    int all)
{
    struct chooser c;
    memset(&c, 0, sizeof c);
    c.all = all;
    c.rest = number - 1;
    c.dice = dice_mix(s->seed ^ dice_mix(s->point ^ dice_mix(number)));
    chooser_mood(&c, all ? 4 : number);
    return c;
}

static int choose_kept(struct chooser *c)
{
    if (c->all)
        return (int)chooser_digit(c, 2);
    return chooser_draw(c, 16) < c->names;
}

/* What fills a sector: an image, or one of three odd things behind them. */
static size_t sector_choices(const struct open_file *o)
{
    return o->images + 3;
}

static size_t choose_sector(struct chooser *c, const struct open_file *o)
{
    if (c->all && !o->drawn)
        return (size_t)chooser_digit(c, sector_choices(o));
    if (chooser_draw(c, 16) < c->bytes)
        return o->images - 1;
    if (chooser_draw(c, 16) < c->odd)
        return o->images + (size_t)chooser_draw(c, 3);
    return (size_t)chooser_draw(c, o->images);
}

/* Sizes are mostly the ends, or whole sectors: there the errors are. */
static size_t choose_size(struct chooser *c, const struct open_file *o)
{
    size_t size, range = o->high - o->low + 1;
    if (c->all && !o->drawn)
        return o->low + (size_t)chooser_digit(c, range);
    if (chooser_draw(c, 16) < c->bytes || chooser_draw(c, 3) == 0)
        return o->high;
    if (chooser_draw(c, 4) == 0)
        return o->low;
    size = o->low + (size_t)chooser_draw(c, range);
    if (chooser_draw(c, 2) == 0 && size / SECTOR * SECTOR >= o->low)
        size = size / SECTOR * SECTOR;
    return size;
}

/* ==== 3. building ========================================================= */

/* Bytes of another file at the same place, as a block used again shows. */
static const struct buf *stale_bytes(const struct states *s,
                                     struct chooser *c, int file)
{
    size_t i = (size_t)chooser_draw(c, s->shadow->file_count);
    const struct buf *b = &s->shadow->files[i].now;
    return (int)i == file ? NULL : b;
}

static void sector_fill(const struct states *s, struct chooser *c,
                        const struct open_file *o, size_t sector,
                        uint8_t *out)
{
    size_t choice = choose_sector(c, o);
    size_t end = (sector + 1) * SECTOR;
    const struct buf *stale = NULL;
    end = end < o->high ? end : o->high;
    if (choice == o->images + 2)
        stale = stale_bytes(s, c, o->file);
    for (size_t at = sector * SECTOR; at < end; at++) {
        if (!o->changed[at])
            continue;
        if (choice < o->images)
            out[at] = o->image[choice].p[at];
        else if (choice == o->images)
            out[at] = 0;
        else if (choice == o->images + 1)
            out[at] = (uint8_t)chooser_draw(c, 256);
        else
            out[at] = stale != NULL && at < stale->n ? stale->p[at] : 0;
    }
}

/* The bytes that a crash leaves of a file: appended to out. */
static void file_build(const struct states *s, struct chooser *c,
                       const struct open_file *o, struct buf *out)
{
    size_t size = choose_size(c, o);
    buf_add(out, o->image[0].p, o->high);
    for (size_t i = 0; i < o->sector_count; i++)
        sector_fill(s, c, o, o->sectors[i], out->p);
    out->n = size;
}

static void names_build(const struct states *s, struct chooser *c,
                        struct disk_names *names)
{
    const struct disk *d = s->shadow;
    for (size_t i = 0; i < d->safe.count; i++) {
        struct disk_op op;
        memset(&op, 0, sizeof op);
        op.change = CHANGE_CREATE;
        op.file = d->safe.entries[i].file;
        memcpy(op.name, d->safe.entries[i].name, DISK_NAME);
        disk_names_change(names, &op);
    }
    for (size_t i = 0; i < d->pending_count; i++)
        if (choose_kept(c))
            disk_names_change(names, d->pending[i]);
}

static const struct open_file *open_find(const struct states *s, int file)
{
    for (size_t i = 0; i < s->open_count; i++)
        if (s->open[i].file == file)
            return &s->open[i];
    return NULL;
}

/* All files first, whether they have a name in this state or not, so that the
 * digits of a number always mean the same. */
static struct disk *state_build(struct states *s, struct chooser *c)
{
    struct disk *d = disk_new(s->seed ^ s->point);
    struct disk_names names;
    struct buf *bytes =
        (struct buf *)mem_new((s->open_count + 1) * sizeof *bytes);
    memset(&names, 0, sizeof names);
    if (s->shadow->made_safe || (s->shadow->made && choose_kept(c))) {
        d->made = d->made_safe = 1;
        names_build(s, c, &names);
    }
    for (size_t i = 0; i < s->open_count; i++)
        file_build(s, c, &s->open[i], &bytes[i]);
    for (size_t i = 0; i < names.count; i++) {
        const struct disk_entry *e = &names.entries[i];
        const struct open_file *o = open_find(s, e->file);
        const struct buf *b = &s->shadow->files[e->file].safe;
        b = o != NULL ? &bytes[o - s->open] : b;
        disk_put(d, e->name, b->p, b->n);
    }
    for (size_t i = 0; i < s->open_count; i++)
        buf_free(&bytes[i]);
    free(bytes);
    free(names.entries);
    return d;
}

struct disk *states_make(struct states *s, uint64_t number, int all)
{
    struct chooser c;
    struct disk *d;
    if (number == 0) {
        d = disk_copy(s->shadow);
        d->random = s->seed ^ s->point;
        return d;
    }
    c = chooser_begin(s, number, all);
    return state_build(s, &c);
}

/* ==== 4. crash points ===================================================== */

struct states *states_new(const struct disk *base, struct disk_op **ops,
                          size_t count, uint64_t seed)
{
    struct states *s = (struct states *)mem_new(sizeof *s);
    s->shadow = disk_copy(base);
    s->ops = ops;
    s->count = count;
    s->seed = seed;
    states_at(s, 0);
    return s;
}

void states_free(struct states *s)
{
    open_end(s);
    free(s->open);
    disk_free(s->shadow);
    free(s);
}

void states_at(struct states *s, size_t point)
{
    const struct disk *d = s->shadow;
    assert(point >= s->point && point <= s->count);
    while (s->point < point)
        disk_apply(s->shadow, s->ops[s->point++]);
    open_end(s);
    free(s->open);
    s->open = (struct open_file *)mem_new((d->file_count + 1) *
                                          sizeof *s->open);
    for (size_t i = 0; i < d->file_count; i++)
        if (d->files[i].pending_count > 0 && file_named(d, (int)i))
            open_begin(&s->open[s->open_count++], d, (int)i);
}

static uint64_t count_times(uint64_t count, uint64_t n)
{
    return count > (UINT64_C(1) << 62) / n ? UINT64_MAX : count * n;
}

uint64_t states_count(const struct states *s)
{
    const struct disk *d = s->shadow;
    uint64_t count = d->made && !d->made_safe ? 2 : 1;
    for (size_t i = 0; i < d->pending_count; i++)
        count = count_times(count, 2);
    for (size_t i = 0; i < s->open_count; i++) {
        const struct open_file *o = &s->open[i];
        if (o->drawn)
            continue;
        count = count_times(count, o->high - o->low + 1);
        for (size_t k = 0; k < o->sector_count; k++)
            count = count_times(count, sector_choices(o));
    }
    return count == UINT64_MAX ? count : count + 1;
}
