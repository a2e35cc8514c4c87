/* What a process writes to files, with one call in it failing. For LD_PRELOAD; `arm` chooses the call, counted from 1.
 *
 * Counted are write, writev, pwrite, fsync, rename and link, of regular files. A call that fails does half of its work
 * first if it is a write, as a disk does that fills up or a machine that stops.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FAIL, FILL, KILL };

static long chosen, calls;
static int how;

/* Fail at call number `number`: that one alone, that and every later write, or by SIGKILL. 0 for never. */
void arm(long number, int manner) {
    calls = 0;
    chosen = number;
    how = manner;
}

long counted(void) { return calls; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int due(int writes) {
    long number = __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    return chosen && (number == chosen || (how == FILL && writes && number > chosen));
}

static int fail(void) {
    if (how == KILL) kill(getpid(), SIGKILL);
    errno = how == FILL ? ENOSPC : EIO;
    return -1;
}

static int regular(int file) {
    struct stat status;
    return fstat(file, &status) == 0 && S_ISREG(status.st_mode);
}

ssize_t write(int file, const void *bytes, size_t count) {
    if (regular(file) && due(1)) {
        REAL(write)(file, bytes, count / 2);
        return fail();
    }
    return REAL(write)(file, bytes, count);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (regular(file) && due(1)) {
        REAL(writev)(file, parts, count / 2);
        return fail();
    }
    return REAL(writev)(file, parts, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset) {
    if (regular(file) && due(1)) {
        REAL(pwrite)(file, bytes, count / 2, offset);
        return fail();
    }
    return REAL(pwrite)(file, bytes, count, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset) {
    if (regular(file) && due(1)) {
        REAL(pwrite64)(file, bytes, count / 2, offset);
        return fail();
    }
    return REAL(pwrite64)(file, bytes, count, offset);
}

int fsync(int file) { return due(0) ? fail() : REAL(fsync)(file); }

int rename(const char *old, const char *new) { return due(0) ? fail() : REAL(rename)(old, new); }

int renameat(int from, const char *old, int to, const char *new) {
    return due(0) ? fail() : REAL(renameat)(from, old, to, new);
}

int link(const char *old, const char *new) { return due(0) ? fail() : REAL(link)(old, new); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    return due(0) ? fail() : REAL(linkat)(from, old, to, new, flags);
}
