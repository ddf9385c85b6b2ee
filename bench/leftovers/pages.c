/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages in memory.  The receiver reads one byte of a page for each one, and at last of a page that says that it has
 * finished; the sender asks mincore(2) which are there.  Read once they stay: to use them again the sender has to take
 * them away, with MADV_REMOVE.  What a fault had begun to fill then is filled anew, so the last page is another one in
 * the next turn.
 *
 * A segment with a descriptor needs neither call: fallocate(2) takes the pages away, and SEEK_DATA finds those there.
 */
#define _GNU_SOURCE
#include "leftover.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL

static unsigned char *last_page(struct end *me, unsigned long turn)
{
    return me->pages + PAGE * ((size_t)me->bits + (turn & 1));
}

static int pages_reset(struct end *me)
{
    return me->take_away ? madvise(me->pages, PAGE * (size_t)(me->bits + 2), MADV_REMOVE) : 0;
}

static long long pages_look(struct end *me, unsigned long turn)
{
    unsigned char there[64];
    long long symbol = 0;

    if (mincore(last_page(me, turn), PAGE, there))
        return REFUSED;
    if (!(there[0] & 1))
        return NOTHING;
    if (mincore(me->pages, PAGE * (size_t)me->bits, there))
        return REFUSED;
    for (long bit = 0; bit < me->bits; bit++)
        symbol |= (long long)(there[bit] & 1) << bit;
    return symbol;
}

static int pages_act(struct end *me, unsigned long turn, unsigned long long symbol)
{
    for (long bit = 0; bit < me->bits; bit++)
        if (symbol >> bit & 1)
            (void)*(volatile unsigned char *)(me->pages + PAGE * (size_t)bit);
    (void)*(volatile unsigned char *)last_page(me, turn);
    return 0;
}

const struct way pages_resident = {"pages_resident", pages_reset, pages_look, pages_act, NULL};

static int punched_reset(struct end *me)
{
    return fallocate((int)me->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, me->pages - (unsigned char *)me->clock,
                     (off_t)PAGE * (me->bits + 2));
}

/* Whether a page of the file is there; -1 when that is not told. */
static int data_at(struct end *me, const unsigned char *page)
{
    off_t at = page - (unsigned char *)me->clock, found = lseek((int)me->file, at, SEEK_DATA);

    return found < 0 && errno != ENXIO ? -1 : found == at;
}

static long long punched_look(struct end *me, unsigned long turn)
{
    long long symbol = 0;
    int there = data_at(me, last_page(me, turn));

    if (there <= 0)
        return there ? REFUSED : NOTHING;
    for (long bit = 0; bit < me->bits; bit++) {
        there = data_at(me, me->pages + PAGE * (size_t)bit);
        if (there < 0)
            return REFUSED;
        symbol |= (long long)there << bit;
    }
    return symbol;
}

const struct way pages_punched = {"pages_punched", punched_reset, punched_look, pages_act, NULL};
