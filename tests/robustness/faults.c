/* Make one call fail that writes to a file. For LD_PRELOAD; `arm` chooses the call, counted from 1.
 *
 * Calls of write, writev, pwrite, fsync, rename and link on regular files are counted. A write that fails writes half of
 * its bytes first, as on a disk that fills up or a machine that stops.
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
static int kind;

/* Fail at call number `number` (0: never): this call only, this call and all later writes, or by SIGKILL. */
void arm(long number, int fault) {
    calls = 0;
    chosen = number;
    kind = fault;
}

long counted(void) { return calls; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int due(int writes) {
    long number = __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    return chosen && (number == chosen || (kind == FILL && writes && number > chosen));
}

static int fail(void) {
    if (kind == KILL) kill(getpid(), SIGKILL);
    errno = kind == FILL ? ENOSPC : EIO;
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
