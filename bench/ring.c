/* SPDX-License-Identifier: Apache-2.0
 *
 * Single-producer single-consumer ring of slots in shared memory; both ends spin.  The ceiling of bench/: two
 * copies, no system call, no Python between messages.  A message larger than a slot takes several.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#define LINE 64
#define PAGE 4096
#define SPINS 4096 /* then give up the core once, so that one core makes progress too */

struct ring {
    _Alignas(LINE) atomic_size_t head; /* slots filled */
    _Alignas(LINE) atomic_size_t tail; /* slots emptied */
};

size_t ring_bytes(size_t slots, size_t slot_size)
{
    return PAGE + slots * slot_size;
}

static void relax(unsigned *spins)
{
    if (++*spins % SPINS == 0)
        sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    else
        __builtin_ia32_pause();
#endif
}

void ring_send(void *base, size_t slots, size_t slot_size, const void *message, size_t size, size_t count)
{
    struct ring *ring = base;
    char *data = (char *)base + PAGE;
    size_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    size_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    unsigned spins = 0;

    for (; count; count--) {
        for (size_t done = 0; done < size;) {
            size_t part = size - done < slot_size ? size - done : slot_size;

            while (head - tail == slots) {
                relax(&spins);
                tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
            }
            memcpy(data + head % slots * slot_size, (const char *)message + done, part);
            atomic_store_explicit(&ring->head, ++head, memory_order_release);
            done += part;
        }
    }
}

void ring_receive(void *base, size_t slots, size_t slot_size, void *into, size_t size, size_t count)
{
    struct ring *ring = base;
    const char *data = (const char *)base + PAGE;
    size_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    size_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    unsigned spins = 0;

    for (; count; count--) {
        for (size_t done = 0; done < size;) {
            size_t part = size - done < slot_size ? size - done : slot_size;

            while (head == tail) {
                relax(&spins);
                head = atomic_load_explicit(&ring->head, memory_order_acquire);
            }
            memcpy((char *)into + done, data + tail % slots * slot_size, part);
            atomic_store_explicit(&ring->tail, ++tail, memory_order_release);
            done += part;
        }
    }
}
