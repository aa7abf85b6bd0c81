/* A disk that kills, fills up or fails, for processes that start with LD_PRELOAD=disk.so.

   Everything that changes files below a folder is an operation, counted from 1 since `disk_arm`. At operation `at` the
   process is killed, half of what it writes written; or it gets an error, and so does everything from then on that
   needs room, while files can still be renamed and deleted, as on a full disk. If `at` is negative, it stops at each
   operation, in the state in which it would be killed, until it gets SIGCONT. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 65536
#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static char root[4096];
static size_t root_length;
static long at;
static int failure, names = -1;
static _Atomic long count;
static _Atomic char watched[FILES];

/* Watch a folder; `error` 0 kills. `log` is a descriptor that receives the names of operations, or -1. */
void disk_arm(const char *folder, long operation, int error, int log)
{
    strncpy(root, folder, sizeof root - 1);
    at = operation, failure = error, names = log, count = 0;
    root_length = strlen(root);
}

long disk_count(void) { return count; }

static int is_below(int folder, const char *path)
{
    if (!root_length || !path) return 0;
    if (path[0] == '/') return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
    return folder >= 0 && folder < FILES && watched[folder];
}

static int is_watched(int file) { return root_length && file >= 0 && file < FILES && watched[file]; }

/* Count an operation. Return whether it fails; `is_now` tells the first that does. */
static int happens(const char *name, const char *path, int needs_room, int *is_now)
{
    long number = ++count;
    if (names >= 0) dprintf(names, "%s%s %s\n", needs_room ? "+" : "", name, path ? path : "");
    int now = number == at;
    if (is_now) *is_now = now;
    if (at < 0) return is_now ? 1 : raise(SIGSTOP); // what writes stops in between
    if (!failure) {
        if (now && !is_now) kill(getpid(), SIGKILL);
        return now;
    }
    return at && number >= at && needs_room;
}

static void forget(int file, int folder, const char *path)
{
    if (file >= 0 && file < FILES) watched[file] = is_below(folder, path);
}

#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define REFUSED(name, path, room) (happens(name, path, room, NULL) && (errno = failure, 1))

#define OPEN(name, folder, call)                                                                                       \
    REAL(name);                                                                                                        \
    mode_t mode = 0;                                                                                                   \
    va_list rest;                                                                                                      \
    va_start(rest, flags);                                                                                             \
    if (flags & (O_CREAT | O_TMPFILE)) mode = va_arg(rest, mode_t);                                                    \
    va_end(rest);                                                                                                      \
    if (WRITES(flags) && is_below(folder, path) && REFUSED("open", path, flags & O_CREAT)) return -1;                  \
    int file = real call;                                                                                              \
    forget(file, folder, path);                                                                                        \
    return file;

int open(const char *path, int flags, ...) { OPEN(open, -1, (path, flags, mode)) }
int open64(const char *path, int flags, ...) { OPEN(open64, -1, (path, flags, mode)) }
int openat(int folder, const char *path, int flags, ...) { OPEN(openat, folder, (folder, path, flags, mode)) }
int openat64(int folder, const char *path, int flags, ...) { OPEN(openat64, folder, (folder, path, flags, mode)) }

int close(int file)
{
    REAL(close);
    if (is_watched(file)) watched[file] = 0;
    return real(file);
}

int dup(int file)
{
    REAL(dup);
    int copy = real(file);
    if (copy >= 0 && copy < FILES) watched[copy] = is_watched(file);
    return copy;
}

int fcntl64(int file, int command, ...)
{
    REAL(fcntl64);
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int result = real(file, command, argument);
    if ((command == F_DUPFD || command == F_DUPFD_CLOEXEC) && result >= 0 && result < FILES) watched[result] = is_watched(file);
    return result;
}

/* Write half and be killed, stopped or, later, have no room; then nothing. */
#define WRITE(name, size, half, rest)                                                                                  \
    REAL(name);                                                                                                        \
    int now = 0;                                                                                                       \
    if (is_watched(file) && happens(#name, NULL, 1, &now)) {                                                           \
        ssize_t written = now && (size) > 1 ? real half : 0;                                                           \
        if (at < 0) {                                                                                                  \
            raise(SIGSTOP);                                                                                            \
            if (written < 0) return written;                                                                           \
            ssize_t last = real rest;                                                                                  \
            return last < 0 ? last : written + last;                                                                   \
        }                                                                                                              \
        if (!failure) kill(getpid(), SIGKILL);                                                                         \
        if (written > 0) return written;                                                                               \
        errno = failure;                                                                                               \
        return -1;                                                                                                     \
    }

ssize_t write(int file, const void *data, size_t size)
{
    WRITE(write, size, (file, data, size / 2), (file, (const char *)data + written, size - written))
    return real(file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t place)
{
    WRITE(pwrite, size, (file, data, size / 2, place), (file, (const char *)data + written, size - written, place + written))
    return real(file, data, size, place);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t place)
{
    WRITE(pwrite64, size, (file, data, size / 2, place), (file, (const char *)data + written, size - written, place + written))
    return real(file, data, size, place);
}

ssize_t writev(int file, const struct iovec *parts, int number)
{
    WRITE(writev, number, (file, parts, number / 2), (file, parts + number / 2, number - number / 2))
    return real(file, parts, number);
}

ssize_t sendfile(int file, int from, off_t *place, size_t size)
{
    WRITE(sendfile, size, (file, from, place, size / 2), (file, from, place, size - written))
    return real(file, from, place, size);
}

ssize_t sendfile64(int file, int from, off64_t *place, size_t size)
{
    WRITE(sendfile64, size, (file, from, place, size / 2), (file, from, place, size - written))
    return real(file, from, place, size);
}

ssize_t copy_file_range(int from, off64_t *start, int file, off64_t *place, size_t size, unsigned flags)
{
    WRITE(copy_file_range, size, (from, start, file, place, size / 2, flags), (from, start, file, place, size - written, flags))
    return real(from, start, file, place, size, flags);
}

#define CHANGE(type, name, signature, arguments, is_ours, path, room)                                                  \
    type name signature                                                                                                \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        if ((is_ours) && REFUSED(#name, path, room)) return -1;                                                        \
        return real arguments;                                                                                         \
    }

CHANGE(int, fsync, (int file), (file), is_watched(file), NULL, 1)
CHANGE(int, fdatasync, (int file), (file), is_watched(file), NULL, 1)
CHANGE(int, ftruncate, (int file, off_t size), (file, size), is_watched(file), NULL, 0)
CHANGE(int, ftruncate64, (int file, off64_t size), (file, size), is_watched(file), NULL, 0)
CHANGE(int, mkdir, (const char *path, mode_t mode), (path, mode), is_below(-1, path), path, 1)
CHANGE(int, mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode), is_below(folder, path), path, 1)
CHANGE(int, rmdir, (const char *path), (path), is_below(-1, path), path, 0)
CHANGE(int, unlink, (const char *path), (path), is_below(-1, path), path, 0)
CHANGE(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags), is_below(folder, path), path, 0)
CHANGE(int, rename, (const char *from, const char *path), (from, path), is_below(-1, path), path, 0)
CHANGE(int, renameat, (int a, const char *from, int b, const char *path), (a, from, b, path), is_below(b, path), path, 0)
CHANGE(int, link, (const char *from, const char *path), (from, path), is_below(-1, path), path, 1)
CHANGE(int, linkat, (int a, const char *from, int b, const char *path, int flags), (a, from, b, path, flags), is_below(b, path), path, 1)
CHANGE(int, symlink, (const char *from, const char *path), (from, path), is_below(-1, path), path, 1)
CHANGE(int, chmod, (const char *path, mode_t mode), (path, mode), is_below(-1, path), path, 0)
