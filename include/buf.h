/*
 * buf.h - the growable byte buffer, and the one policy for lost memory.
 *
 * Out of memory ends the process at once, with one line on stderr and exit
 * status 71.  Nothing is lost by it: every acknowledgement waits for the
 * commit of the loop's turn, so a process that dies between two commits has
 * acknowledged nothing that the ledger does not hold.
 *
 * Shared by store.c, session.c and broker.c.  mqtt.c allocates nothing.
 */
#ifndef HOLDFAST_BUF_H
#define HOLDFAST_BUF_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bytes that grow at the end and are taken from the front.  All zero is an
 * empty buffer; buf_free() gives its memory back and leaves it empty. */
struct buf {
    uint8_t *p;  /* the first byte held; NULL while nothing was ever added */
    size_t n;    /* how many bytes are held */
    size_t cap;  /* how many fit before the next growth */
    size_t base; /* bytes already taken, still in front of p */
};

/* realloc() that never returns NULL for size > 0; size 0 is not allowed. */
static inline void *mem_grow(void *old, size_t size)
{
    void *p = realloc(old, size);
    if (p == NULL) {
        static const char line[] = "holdfast: out of memory, stopping; "
                                   "nothing acknowledged is lost\n";
        ssize_t ignored = write(STDERR_FILENO, line, sizeof line - 1);
        (void)ignored;
        _exit(71);
    }
    return p;
}

/* Zeroed memory for one object of this size; never NULL. */
static inline void *mem_new(size_t size)
{
    return memset(mem_grow(NULL, size), 0, size);
}

/* Makes room for `more` bytes after the last one and returns where they go;
 * the caller adds what it wrote there to b->n.  Valid until the next call. */
static inline uint8_t *buf_room(struct buf *b, size_t more)
{
    if (b->base > 0 && (b->n == 0 || b->base >= b->n)) {
        memmove(b->p - b->base, b->p, b->n);
        b->p -= b->base;
        b->cap += b->base;
        b->base = 0;
    }
    if (b->cap - b->n < more) {
        size_t size = b->base + b->n + more;
        size += (size < 2097152 ? size / 2 : 1048576) + 64;
        uint8_t *start = b->p == NULL ? NULL : b->p - b->base;
        start = (uint8_t *)mem_grow(start, size);
        b->p = start + b->base;
        b->cap = size - b->base;
    }
    return b->p + b->n;
}

static inline void buf_add(struct buf *b, const void *bytes, size_t n)
{
    if (n > 0) {
        memcpy(buf_room(b, n), bytes, n);
        b->n += n;
    }
}

static inline void buf_text(struct buf *b, const char *text)
{
    buf_add(b, text, strlen(text));
}

/* Appends printf()'s text. */
static inline void buf_print(struct buf *b, const char *format, ...)
{
    size_t room = 128; /* more than most texts need */
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf((char *)buf_room(b, room), room, format, args);
    va_end(args);
    if (n >= (int)room) {
        room = (size_t)n + 1;
        va_start(args, format);
        n = vsnprintf((char *)buf_room(b, room), room, format, args);
        va_end(args);
    }
    b->n += n > 0 ? (size_t)n : 0;
}

/* Takes n <= b->n bytes from the front. */
static inline void buf_take(struct buf *b, size_t n)
{
    b->p = n > 0 ? b->p + n : b->p;
    b->base += n;
    b->cap -= n;
    b->n -= n;
}

static inline void buf_free(struct buf *b)
{
    if (b->p != NULL)
        free(b->p - b->base);
    memset(b, 0, sizeof *b);
}

#endif
