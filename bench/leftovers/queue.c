/* SPDX-License-Identifier: Apache-2.0
 *
 * The queue is full or not, and how full.
 *
 * Whole messages: the queue is full; the receiver takes a message for a one and none for a zero.  The sender tries to
 * put one there.
 *
 * Sizes: the kernel counts bytes, not messages, and a receiver may ask for a message by its type.  So the sender keeps
 * messages of 1, 2, 4, ... bytes there, each of a type of its own, and one that is larger than these together.  The
 * receiver takes those of its ones and at last the large one, which tells the sender that the rest is settled.  The
 * sender tries from the largest to the smallest; each that has room again was taken, and what it reads the code with
 * puts everything back.
 */
#define _GNU_SOURCE
#include "leftover.h"

#include <errno.h>
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>

#define MESSAGE 32 /* a control message of the wire */

struct message {
    long type;
    char body[64];
};

static int put(struct end *me, long type, size_t size)
{
    struct message message = {.type = type};

    return msgsnd((int)me->queue, &message, size, IPC_NOWAIT);
}

static int get(struct end *me, long type)
{
    struct message message;

    return msgrcv((int)me->queue, &message, sizeof message.body, type, IPC_NOWAIT) < 0 && errno != ENOMSG ? -1 : 0;
}

static long long shown(int failed)
{
    return !failed ? 1 : errno == EAGAIN ? NOTHING : REFUSED;
}

static int sysv_reset(struct end *me)
{
    while (!put(me, 1, MESSAGE))
        ;
    return errno == EAGAIN ? 0 : -1;
}

static long long sysv_look(struct end *me, unsigned long turn)
{
    (void)turn;
    return shown(put(me, 1, MESSAGE));
}

static int sysv_act(struct end *me, unsigned long turn, unsigned long long symbol)
{
    (void)turn;
    return symbol ? get(me, 1) : 0;
}

const struct way queue_sysv = {"queue_sysv", sysv_reset, sysv_look, sysv_act, NULL};

static int sizes_reset(struct end *me)
{
    if (me->state)
        return 0;
    me->state = 1;
    for (long bit = me->bits; bit >= 0; bit--)
        if (put(me, bit + 1, 1UL << bit))
            return -1;
    /* What is left of the room would hide the smallest messages. */
    return put(me, me->bits + 2, (size_t)me->room - ((2UL << me->bits) - 1));
}

static long long sizes_look(struct end *me, unsigned long turn)
{
    long long symbol = shown(put(me, me->bits + 1, 1UL << me->bits));

    (void)turn;
    if (symbol < 0)
        return symbol;
    symbol = 0;
    for (long bit = me->bits - 1; bit >= 0; bit--) {
        long long there = shown(put(me, bit + 1, 1UL << bit));

        if (there == REFUSED)
            return REFUSED;
        symbol |= (there == 1 ? 1LL : 0LL) << bit;
    }
    return symbol;
}

static int sizes_act(struct end *me, unsigned long turn, unsigned long long symbol)
{
    (void)turn;
    for (long bit = 0; bit < me->bits; bit++)
        if (symbol >> bit & 1 && get(me, bit + 1))
            return -1;
    return get(me, me->bits + 1);
}

const struct way queue_sizes = {"queue_sizes", sizes_reset, sizes_look, sizes_act, NULL};

static int posix_put(struct end *me)
{
    static const char body[MESSAGE];

    return mq_send((mqd_t)me->queue, body, sizeof body, 0);
}

static int posix_reset(struct end *me)
{
    while (!posix_put(me))
        ;
    return errno == EAGAIN ? 0 : -1;
}

static long long posix_look(struct end *me, unsigned long turn)
{
    (void)turn;
    return shown(posix_put(me));
}

static int posix_act(struct end *me, unsigned long turn, unsigned long long symbol)
{
    char body[MESSAGE];

    (void)turn;
    return symbol && mq_receive((mqd_t)me->queue, body, sizeof body, NULL) < 0 && errno != EAGAIN ? -1 : 0;
}

const struct way queue_posix = {"queue_posix", posix_reset, posix_look, posix_act, NULL};
