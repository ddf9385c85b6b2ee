/* SPDX-License-Identifier: Apache-2.0
 *
 * A leftover: something that a receiver does and a sender sees.  One turn carries one symbol of `bits` bits.
 */
#ifndef LEFTOVER_H
#define LEFTOVER_H

#include <stdatomic.h>
#include <stddef.h>

#define NOTHING (-1LL) /* the sender sees nothing yet */
#define REFUSED (-2LL) /* a call failed; errno says how */
#define PATIENCE 20000000LL /* ns that a call may wait before the engine looks around */

enum mode {
    SHOWS,   /* every symbol shows by itself */
    ABSENT,  /* a one shows; nothing within span_ns is a zero */
    SAMPLED, /* looked at once, span_ns after the turn began */
    WHEN,    /* the symbol is when it shows: in which of 2^bits parts of span_ns each, over and over */
};

struct end { /* bench/leftover_ways.py has the same */
    _Atomic unsigned long *clock; /* in the segment, written by the sender: number of the turn; when it began, ns */
    unsigned char *pages;         /* behind it, filled; read-only for the receiver */
    long queue;                   /* System V number or POSIX descriptor */
    long room;                    /* bytes that the queue takes */
    long file;                    /* descriptor */
    long bits;                    /* of one symbol */
    long take_away;               /* the sender takes the pages away before each turn */
    long mode;
    long long span_ns;
    long state, helper, pipe;     /* the way's own */
};

struct way {
    const char *name;
    int (*reset)(struct end *);                                           /* sender, before a turn: 0, or -1 and errno */
    long long (*look)(struct end *, unsigned long turn);                  /* sender: symbol, NOTHING, REFUSED */
    int (*act)(struct end *, unsigned long turn, unsigned long long);     /* receiver: 0, or -1 and errno */
    void (*done)(struct end *);                                           /* receiver, at the end */
};

extern const struct way queue_sysv, queue_sizes, queue_posix, futex_woken, futex_counted, pages_resident,
    pages_punched, lock_place, lock_whole, last_receiver;

#endif
