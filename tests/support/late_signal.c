/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded: SIGTERM comes once in the last moment before a system call that waits, behind everything that looked.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/types.h>
#include <time.h>

static void late(void)
{
    static int done;
    if (!done) {
        done = 1;
        raise(SIGTERM);
    }
}

ssize_t msgrcv(int id, void *to, size_t size, long kind, int flags)
{
    ssize_t (*real)(int, void *, size_t, long, int) = dlsym(RTLD_NEXT, "msgrcv");
    if (!(flags & IPC_NOWAIT)) late();
    return real(id, to, size, kind, flags);
}

int msgsnd(int id, const void *from, size_t size, int flags)
{
    int (*real)(int, const void *, size_t, int) = dlsym(RTLD_NEXT, "msgsnd");
    if (!(flags & IPC_NOWAIT)) late();
    return real(id, from, size, flags);
}

int sigtimedwait(const sigset_t *set, siginfo_t *info, const struct timespec *most)
{
    int (*real)(const sigset_t *, siginfo_t *, const struct timespec *) = dlsym(RTLD_NEXT, "sigtimedwait");
    late();
    return real(set, info, most);
}
