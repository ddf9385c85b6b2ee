/* SPDX-License-Identifier: Apache-2.0
 *
 * Turns.  The forward direction is free, so the sender says in the segment which turn it is and the receiver, that may
 * only read there, acts by its symbol of that turn.  A receiver that was kept from its processor spoils the turns that
 * it missed, never the numbering of the others.
 */
#define _GNU_SOURCE
#include "leftover.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define OVER (~0UL)
#define GIVE_UP 300000000LL /* ns after which a symbol that must show never will: the receiver was refused */
#define BEFORE 300 /* ns from the turn's beginning to its first part: the receiver has to see it */

static const struct way *const ways[] = {&queue_sysv,     &queue_sizes,   &queue_posix, &futex_woken, &futex_counted,
                                         &pages_resident, &pages_punched, &lock_place,  &lock_whole,  &last_receiver};

static const struct way *find(const char *name)
{
    for (size_t at = 0; at < sizeof ways / sizeof *ways; at++)
        if (!strcmp(ways[at]->name, name))
            return ways[at];
    return NULL;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static long long now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* One step each, for tests: what the loops below do, without a clock. */
int leftover_reset(const char *name, struct end *me)
{
    return find(name)->reset(me) ? errno : 0;
}

long long leftover_look(const char *name, struct end *me, unsigned long turn)
{
    return find(name)->look(me, turn);
}

int leftover_act(const char *name, struct end *me, unsigned long turn, unsigned long long symbol)
{
    return find(name)->act(me, turn, symbol) ? errno : 0;
}

void leftover_done(const char *name, struct end *me)
{
    if (find(name)->done)
        find(name)->done(me);
}

/* Neighbours in time differ in one bit. */
static unsigned long long part_of(unsigned long long symbol)
{
    for (int shift = 1; shift < 64; shift *= 2)
        symbol ^= symbol >> shift;
    return symbol;
}

/* A receiver that is late takes the same part of a later round of parts. */
static int act_when(const struct way *way, struct end *me, unsigned long turn, unsigned long long symbol)
{
    long long start = (long long)atomic_load_explicit(me->clock + 1, memory_order_relaxed);
    long long at = start + BEFORE + (long long)part_of(symbol) * me->span_ns, time = now();

    for (; at < time; at += me->span_ns << me->bits)
        ;
    while (now() < at)
        ;
    return way->act(me, turn, 1);
}

static long long one_turn(const struct way *way, struct end *me, unsigned long turn, long long start)
{
    int bounded = me->mode == ABSENT || me->mode == SAMPLED;
    long long until = start + (bounded ? me->span_ns : GIVE_UP), symbol;

    if (me->mode == SAMPLED)
        while (now() < until)
            relax();
    do
        symbol = way->look(me, turn);
    while (symbol == NOTHING && now() < until);
    if (symbol == NOTHING && bounded)
        return 0;
    return symbol >= 0 && me->mode == WHEN ? now() - start : symbol;
}

/* The sender: `turns` symbols into `symbols`; how many came in `seen`, the time they took in `took`, in ns.
 * In the mode WHEN a symbol is given as the ns after which it showed.  Returns 0 or the errno of the call that was
 * refused. */
int leftover_send(const char *name, struct end *me, size_t turns, unsigned long long *symbols, size_t *seen,
                  long long *took)
{
    const struct way *way = find(name);
    int error = 0;
    long long first = now(), symbol;

    for (*seen = 0; *seen < turns; symbols[(*seen)++] = (unsigned long long)symbol) {
        unsigned long turn = *seen + 1;
        long long start;

        symbol = REFUSED;
        if (!way->reset(me)) {
            start = now();
            atomic_store_explicit(me->clock + 1, (unsigned long)start, memory_order_relaxed);
            atomic_store_explicit(me->clock, turn, memory_order_release);
            symbol = one_turn(way, me, turn, start);
        }
        if (symbol < 0) {
            error = symbol == REFUSED ? errno : 0;
            break;
        }
    }
    *took = now() - first;
    atomic_store_explicit(me->clock, OVER, memory_order_release);
    return error;
}

/* The receiver: acts until the sender says that it is over.  Returns 0 or the errno of the call that was refused. */
int leftover_receive(const char *name, struct end *me, size_t turns, const unsigned long long *symbols)
{
    const struct way *way = find(name);
    unsigned long last = 0, turn;
    int error = 0;

    while (!error && (turn = atomic_load_explicit(me->clock, memory_order_acquire)) != OVER) {
        if (turn == last || turn > turns) {
            relax();
            continue;
        }
        last = turn;
        if (me->mode == WHEN ? act_when(way, me, turn, symbols[turn - 1]) : way->act(me, turn, symbols[turn - 1]))
            error = errno;
    }
    if (way->done)
        way->done(me);
    return error;
}
