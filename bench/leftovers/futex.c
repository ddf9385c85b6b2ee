/* SPDX-License-Identifier: Apache-2.0
 *
 * Futexes in a mapping that the receiver may only read.  The symbol chooses one of 2^bits words.
 *
 * Woken: the sender sleeps on all of them, the receiver wakes one, and the sender's call says which.
 * Counted: the receiver sleeps on one, and the sender wakes each until a call says that somebody was there.
 */
#define _GNU_SOURCE
#include "leftover.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LINE 64
#define MOST 128 /* FUTEX_WAITV_MAX */

static uint32_t *word(struct end *me, unsigned long long symbol)
{
    return (uint32_t *)(void *)(me->pages + symbol * LINE);
}

static int no_reset(struct end *me)
{
    (void)me;
    return 0;
}

static long long woken_look(struct end *me, unsigned long turn)
{
#ifdef SYS_futex_waitv
    struct futex_waitv waiters[MOST];
    struct timespec until;
    long which;

    (void)turn;
    for (unsigned at = 0; at < 1U << me->bits; at++)
        waiters[at] = (struct futex_waitv){.uaddr = (uintptr_t)word(me, at), .flags = FUTEX_32};
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += PATIENCE;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    which = syscall(SYS_futex_waitv, waiters, 1U << me->bits, 0, &until, CLOCK_MONOTONIC);
    return which >= 0 ? which : errno == ETIMEDOUT || errno == EINTR ? NOTHING : REFUSED;
#else
    (void)me, (void)turn;
    errno = ENOSYS;
    return REFUSED;
#endif
}

static int woken_act(struct end *me, unsigned long turn, unsigned long long symbol)
{
    long count;

    do /* until the sender sleeps */
        count = syscall(SYS_futex, word(me, symbol), FUTEX_WAKE, 1, NULL, NULL, 0);
    while (!count && atomic_load_explicit(me->clock, memory_order_acquire) == turn);
    return count < 0 ? -1 : 0;
}

const struct way futex_woken = {"futex_woken", no_reset, woken_look, woken_act, NULL};

static long long counted_look(struct end *me, unsigned long turn)
{
    (void)turn;
    for (unsigned at = 0; at < 1U << me->bits; at++) {
        long count = syscall(SYS_futex, word(me, at), FUTEX_WAKE, 1, NULL, NULL, 0);

        if (count)
            return count < 0 ? REFUSED : at;
    }
    return NOTHING;
}

static int counted_act(struct end *me, unsigned long turn, unsigned long long symbol)
{
    const struct timespec patience = {.tv_nsec = PATIENCE};

    while (syscall(SYS_futex, word(me, symbol), FUTEX_WAIT, 0, &patience, NULL, 0)) {
        if (errno != ETIMEDOUT && errno != EINTR)
            return -1;
        if (atomic_load_explicit(me->clock, memory_order_acquire) != turn)
            return 0;
    }
    return 0;
}

const struct way futex_counted = {"futex_counted", no_reset, counted_look, counted_act, NULL};
