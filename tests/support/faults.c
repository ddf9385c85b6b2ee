// SPDX-License-Identifier: Apache-2.0
// Fails a chosen system call of the calling thread, or sends a signal at it, for real: the kernel never runs a call
// that fails, or that SIGKILL comes before.
//
// A seccomp filter hands every call of the arming thread to a supervisor thread of the same process (which has no
// filter), and that one counts, logs, and answers "go on", an error number, or a signal.  So nothing has to be
// guessed about which function of which library makes which call.  See seccomp_unotify(2).
//
// Left alone, and not counted, are calls that can not fail (umask, shmdt of what is attached, who am I) and those by
// which an interpreter keeps house: memory, threads, signals, time, questions to terminals.  A mapping of shared memory is counted.

#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRIES = 2048, TEXT = 48 };

struct entry {
    uint32_t number;
    char text[TEXT];  // "name" or "name path"
};

// Shared with the test process, which made it before it forked.  Calls are counted from 1; 0 means never.
struct plan {
    uint32_t first, second;  // these two fail
    uint32_t code;           // with this error number
    uint32_t sticky;         // and so does every later call of the same number as the first
    uint32_t at, signal;     // at this call this signal comes; any but SIGKILL is handled after the call
    uint32_t count;          // how many there were
    struct entry log[ENTRIES];
};

struct known {
    int number;
    int path;  // which argument is one, -1 for none
    const char *name;
};

#define CALL(name, path) {SYS_##name, path, #name}
static const struct known known[] = {
    CALL(openat, 1),      CALL(mkdirat, 1),  CALL(renameat, 3),   CALL(renameat2, 3),    CALL(unlinkat, 1),
    CALL(newfstatat, 1),  CALL(mq_open, 0),  CALL(mq_unlink, 0),  CALL(mq_getsetattr, -1), CALL(msgget, -1),
    CALL(msgctl, -1),     CALL(shmget, -1),  CALL(shmat, -1),     CALL(shmctl, -1),
    CALL(fchmod, -1),     CALL(fchown, -1),  CALL(fsync, -1),     CALL(ftruncate, -1),   CALL(fallocate, -1),
    CALL(mmap, -1),       CALL(read, -1),    CALL(write, -1),     CALL(pwrite64, -1),    CALL(close, -1),
    CALL(lseek, -1),      CALL(flock, -1),   CALL(fcntl, -1),     CALL(getdents64, -1),  CALL(getrandom, -1),
    CALL(dup, -1),        CALL(readlinkat, 1),    CALL(statx, 1),      CALL(fstat, -1),       CALL(faccessat, 1),
#ifdef SYS_open
    CALL(open, 0),        CALL(mkdir, 0),    CALL(rename, 1),     CALL(unlink, 0),       CALL(rmdir, 0),
    CALL(stat, 0),        CALL(lstat, 0),
#endif
};

static struct plan *plan;
static int listener = -1;
static sem_t ready;

static void note(struct entry *entry, const struct seccomp_data *call) {
    entry->number = (uint32_t)call->nr;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].number != call->nr) continue;
        strncpy(entry->text, known[i].name, TEXT - 1);
        size_t used = strlen(entry->text);
        if (known[i].path >= 0 && used + 2 < TEXT) {
            const char *path = (const char *)(uintptr_t)call->args[known[i].path];
            size_t length = path ? strlen(path) : 0, room = TEXT - 2 - used;
            entry->text[used] = ' ';
            // the end of a long path says more than its beginning
            if (path) strncpy(entry->text + used + 1, path + (length > room ? length - room : 0), room);
        }
    }
}

static void *supervise(void *unused) {
    (void)unused;
    sem_wait(&ready);
    for (;;) {
        struct seccomp_notif call;
        struct seccomp_notif_resp answer = {0};
        memset(&call, 0, sizeof call);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call)) {
            if (errno == EINTR || errno == ENOENT) continue;
            return NULL;
        }
        uint32_t number = ++plan->count;
        if (number <= ENTRIES) note(&plan->log[number - 1], &call.data);
        if (number == plan->at) kill(getpid(), (int)plan->signal);
        int fails = number == plan->first || number == plan->second;
        if (plan->sticky && plan->first && plan->first <= ENTRIES && number > plan->first)
            fails |= (uint32_t)call.data.nr == plan->log[plan->first - 1].number;
        answer.id = call.id;
        if (fails)
            answer.error = -(int32_t)plan->code;
        else
            answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

#define NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define FREE(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define LOW(i) (offsetof(struct seccomp_data, args[i]) + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 4 : 0))

// Returns 0, or an error number: from then on the calling thread's system calls go by `shared`.
int faults_arm(struct plan *shared) {
    static const struct sock_filter filter[] = {
        NUMBER,
        FREE(brk), FREE(munmap), FREE(mprotect), FREE(madvise), FREE(mremap), FREE(futex), FREE(sched_yield),
        FREE(rt_sigaction), FREE(rt_sigprocmask), FREE(rt_sigreturn), FREE(sigaltstack), FREE(exit), FREE(exit_group),
        FREE(clock_gettime), FREE(clock_nanosleep), FREE(restart_syscall), FREE(getpid), FREE(gettid), FREE(geteuid),
        FREE(getuid), FREE(getegid), FREE(getgid), FREE(ioctl), FREE(umask), FREE(shmdt), FREE(membarrier), FREE(rseq), FREE(uname),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, LOW(3)),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, MAP_SHARED, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
    };
    const struct sock_fprog program = {sizeof filter / sizeof *filter, (struct sock_filter *)filter};
    pthread_t thread;
    plan = shared;
    sem_init(&ready, 0, 0);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited by the supervisor: signals are for the calling thread
    int failed = pthread_create(&thread, NULL, supervise, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) return failed;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return errno;
    // The second flag, since Linux 5.19: a signal waits for the call to be answered, as it does for a real one.
    const unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
    listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags | 1ul << 5, &program);
    if (listener < 0 && errno == EINVAL)
        listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (listener < 0) return errno;
    sem_post(&ready);
    return 0;
}
