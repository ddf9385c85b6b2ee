/* SPDX-License-Identifier: Apache-2.0
 *
 * Locks on a file that both may open.
 *
 * Place: the receiver locks one byte, and where it lies is the symbol, with the parity of the turn; the sender asks
 * F_GETLK where the lock is.  The byte need not exist.
 * Whole: flock(2), which the receiver holds for a one; the sender tries to take it.
 */
#define _GNU_SOURCE
#include "leftover.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

static int no_reset(struct end *me)
{
    (void)me;
    return 0;
}

static long long place_look(struct end *me, unsigned long turn)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    if (fcntl((int)me->file, F_GETLK, &lock))
        return REFUSED;
    return lock.l_type == F_UNLCK || (lock.l_start & 1) != (off_t)(turn & 1) ? NOTHING : lock.l_start >> 1;
}

static int place_act(struct end *me, unsigned long turn, unsigned long long symbol)
{
    struct flock none = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    struct flock lock = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)(symbol << 1 | (turn & 1)), .l_len = 1};

    return fcntl((int)me->file, F_SETLK, &none) || fcntl((int)me->file, F_SETLK, &lock) ? -1 : 0;
}

const struct way lock_place = {"lock_place", no_reset, place_look, place_act, NULL};

static long long whole_look(struct end *me, unsigned long turn)
{
    (void)turn;
    if (flock((int)me->file, LOCK_EX | LOCK_NB))
        return errno == EWOULDBLOCK ? 1 : REFUSED;
    return flock((int)me->file, LOCK_UN) ? REFUSED : 0;
}

static int whole_act(struct end *me, unsigned long turn, unsigned long long symbol)
{
    if ((long)symbol == me->state)
        return 0;
    while (flock((int)me->file, symbol ? LOCK_SH | LOCK_NB : LOCK_UN)) { /* the sender is looking */
        if (errno != EWOULDBLOCK)
            return -1;
        if (atomic_load_explicit(me->clock, memory_order_acquire) != turn)
            return 0;
    }
    me->state = (long)symbol;
    return 0;
}

const struct way lock_whole = {"lock_whole", no_reset, whole_look, whole_act, NULL};
