/* Preloaded into mvkit's processes: the n-th call that changes a file below a folder fails, kills or interrupts
   the process, or the folder vanishes; and the wall clock can be set back. Inert until fault_arm is called. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, ONCE, STICKY, KILL, INTERRUPT, VANISH };

static char folder[PATH_MAX];
static int armed, mode, error_number, torn;
static long target;
static volatile long calls;
static long clock_shift, clock_step;
static volatile long clock_calls;

void fault_arm(const char *dir, int kind, long nth, int number, int tear) {
    strncpy(folder, dir, sizeof folder - 1);
    mode = kind; target = nth; error_number = number; torn = tear; calls = 0; armed = 1;
}
long fault_calls(void) { return calls; }
void fault_clock(long shift, long step) { clock_shift = shift; clock_step = step; }

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })

static int below(const char *path) { return strncmp(path, folder, strlen(folder)) == 0; }

static int concerns_path(int at, const char *path) {
    char whole[2 * PATH_MAX], base[PATH_MAX];
    if (!armed || !path) return 0;
    if (path[0] == '/') return below(path);
    if (at == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = readlink(link, base, sizeof base - 1);
        if (n < 0) return 0;
        base[n] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    return below(whole);
}

static int concerns_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
}

/* Count a call; return 1 if it fails (errno is set), 2 if only half of what it writes is written. */
static int strike(int is_write) {
    long n = __sync_add_and_fetch(&calls, 1);
    if (mode == COUNT || n < target) return 0;
    if (mode == STICKY || n == target) {
        if (is_write && torn && n == target) return 2;
        switch (mode) {
        case ONCE: case STICKY: errno = error_number; return 1;
        case KILL: kill(getpid(), SIGKILL); pause(); break;
        case INTERRUPT: kill(0, SIGINT); break;
        case VANISH: {
            char gone[PATH_MAX + 8];
            snprintf(gone, sizeof gone, "%s.gone", folder);
            REAL(rename)(folder, gone);
        }
        }
    }
    return 0;
}

/* A torn write has written its half: now what was to happen. */
static void after_half(void) {
    if (mode == KILL) { kill(getpid(), SIGKILL); pause(); }
    if (mode == INTERRUPT) kill(0, SIGINT);
    if (mode == ONCE) target++; /* a short write, and the rest fails */
}

#define PATH_CALL(type, name, parameters, at, path, call) \
    type name parameters { if (concerns_path(at, path) && strike(0) == 1) return -1; return REAL(name) call; }
#define FD_CALL(type, name, parameters, fd, call) \
    type name parameters { if (concerns_fd(fd) && strike(0) == 1) return -1; return REAL(name) call; }
#define ALLOCATE(name, offset) \
    int name(int fd, offset start, offset length) { \
        if (concerns_fd(fd) && strike(0) == 1) return error_number; \
        return REAL(name)(fd, start, length); }
#define WRITE_CALL(name, parameters, half) \
    ssize_t name parameters { \
        int struck = concerns_fd(fd) ? strike(n > 1) : 0; \
        if (struck == 1) return -1; \
        ssize_t done = REAL(name) half; \
        if (struck == 2) after_half(); \
        return done; }
#define HALF(n) (struck == 2 ? (n) / 2 : (n))

WRITE_CALL(write, (int fd, const void *data, size_t n), (fd, data, HALF(n)))
WRITE_CALL(pwrite, (int fd, const void *data, size_t n, off_t at), (fd, data, HALF(n), at))
WRITE_CALL(pwrite64, (int fd, const void *data, size_t n, off64_t at), (fd, data, HALF(n), at))
WRITE_CALL(sendfile64, (int fd, int from, off64_t *at, size_t n), (fd, from, at, HALF(n)))
WRITE_CALL(sendfile, (int fd, int from, off_t *at, size_t n), (fd, from, at, HALF(n)))
ssize_t writev(int fd, const struct iovec *parts, int n) {
    if (concerns_fd(fd) && strike(0) == 1) return -1;
    return REAL(writev)(fd, parts, n);
}
FD_CALL(int, ftruncate, (int fd, off_t n), fd, (fd, n))
FD_CALL(int, ftruncate64, (int fd, off64_t n), fd, (fd, n))
FD_CALL(int, fsync, (int fd), fd, (fd))
FD_CALL(int, fdatasync, (int fd), fd, (fd))
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)
PATH_CALL(int, mkdir, (const char *path, mode_t bits), AT_FDCWD, path, (path, bits))
PATH_CALL(int, rename, (const char *from, const char *to), AT_FDCWD, to, (from, to))
PATH_CALL(int, renameat, (int a, const char *from, int b, const char *to), b, to, (a, from, b, to))
PATH_CALL(int, link, (const char *from, const char *to), AT_FDCWD, to, (from, to))
PATH_CALL(int, linkat, (int a, const char *from, int b, const char *to, int flags), b, to, (a, from, b, to, flags))

/* Removing needs no room: it fails on a read-only file system only. */
static int may_remove(int at, const char *path) {
    if (!concerns_path(at, path)) return 1;
    if ((mode == ONCE || mode == STICKY) && error_number != EROFS) return 1;
    return strike(0) != 1;
}
int unlink(const char *path) { return may_remove(AT_FDCWD, path) ? REAL(unlink)(path) : -1; }
int unlinkat(int at, const char *path, int flags) { return may_remove(at, path) ? REAL(unlinkat)(at, path, flags) : -1; }
int rmdir(const char *path) { return may_remove(AT_FDCWD, path) ? REAL(rmdir)(path) : -1; }

/* Opening for reading is never a fault; a full disk still opens files that are there. */
static int may_open(int at, const char *path, int flags) {
    if ((flags & O_ACCMODE) == O_RDONLY && !(flags & O_CREAT)) return 1;
    return !(concerns_path(at, path) && strike(0) == 1);
}
#define OPEN_CALL(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t bits = va_arg(more, mode_t); va_end(more); \
        return may_open(AT_FDCWD, path, flags) ? REAL(name)(path, flags, bits) : -1; }
#define OPENAT_CALL(name) \
    int name(int at, const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t bits = va_arg(more, mode_t); va_end(more); \
        return may_open(at, path, flags) ? REAL(name)(at, path, flags, bits) : -1; }
OPEN_CALL(open)
OPEN_CALL(open64)
OPENAT_CALL(openat)
OPENAT_CALL(openat64)
#define FOPEN_CALL(name) \
    FILE *name(const char *path, const char *how) { \
        if ((how[0] != 'r' || strchr(how, '+')) && concerns_path(AT_FDCWD, path) && strike(0) == 1) return NULL; \
        return REAL(name)(path, how); }
FOPEN_CALL(fopen)
FOPEN_CALL(fopen64)

static long shifted(void) {
    return clock_shift - clock_step * __sync_add_and_fetch(&clock_calls, 1);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if ((clock_shift || clock_step) && clock == CLOCK_REALTIME && result == 0) now->tv_sec += shifted();
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = REAL(gettimeofday)(now, zone);
    if ((clock_shift || clock_step) && result == 0) now->tv_sec += shifted();
    return result;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
