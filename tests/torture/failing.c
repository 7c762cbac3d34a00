/* Fails calls of the system below a folder, whichever library makes them; for LD_PRELOAD.

   Nothing below the folder is flushed to the disk, either: only a power failure could tell. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char below[4096];
static long first, last;
static int failure, reads;
static atomic_long seen;

/* From now on the calls with these numbers fail; of no folder none is counted. */
void failing_arm(const char *folder, long from, long to, int error, int of_reads)
{
    below[0] = 0;
    seen = 0;
    first = from;
    last = to;
    failure = error;
    reads = of_reads;
    strncpy(below, folder, sizeof below - 1);
}

long failing_seen(void) { return seen; }

static int is_below(int folder, const char *path)
{
    char whole[8192], link[64];
    ssize_t length = 0;
    if (!below[0])
        return 0;
    if (!path || path[0] != '/') {
        if (folder == AT_FDCWD)
            strcpy(link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        int before = errno;
        length = readlink(link, whole, 4096);
        errno = before;
        if (length < 0)
            return 0;
        whole[length++] = '/';
    }
    whole[length] = 0;
    if (path)
        strncat(whole, path, 4000);
    size_t wanted = strlen(below);
    return !strncmp(whole, below, wanted) && (whole[wanted] == '/' || !whole[wanted]);
}

static int fails(int folder, const char *path, int reading)
{
    if (reading != reads || !is_below(folder, path))
        return 0;
    long number = ++seen;
    if (number < first || number > last)
        return 0;
    errno = failure;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CHANGES(flags) (((flags) & (O_CREAT | O_WRONLY | O_RDWR)) != 0)

#define OPEN(name)                                                                       \
    int name(const char *path, int flags, ...)                                           \
    {                                                                                    \
        va_list more;                                                                    \
        va_start(more, flags);                                                           \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;          \
        va_end(more);                                                                    \
        return fails(AT_FDCWD, path, !CHANGES(flags)) ? -1 : REAL(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                     \
    int name(int folder, const char *path, int flags, ...)                               \
    {                                                                                    \
        va_list more;                                                                    \
        va_start(more, flags);                                                           \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;          \
        va_end(more);                                                                    \
        return fails(folder, path, !CHANGES(flags)) ? -1 : REAL(name)(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int file, const void *data, size_t size)
{
    return fails(file, NULL, 0) ? -1 : REAL(write)(file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at)
{
    return fails(file, NULL, 0) ? -1 : REAL(pwrite)(file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at)
{
    return fails(file, NULL, 0) ? -1 : REAL(pwrite64)(file, data, size, at);
}
ssize_t read(int file, void *data, size_t size)
{
    return fails(file, NULL, 1) ? -1 : REAL(read)(file, data, size);
}
ssize_t pread(int file, void *data, size_t size, off_t at)
{
    return fails(file, NULL, 1) ? -1 : REAL(pread)(file, data, size, at);
}
ssize_t pread64(int file, void *data, size_t size, off64_t at)
{
    return fails(file, NULL, 1) ? -1 : REAL(pread64)(file, data, size, at);
}
int fsync(int file)
{
    return fails(file, NULL, 0) ? -1 : is_below(file, NULL) ? 0 : REAL(fsync)(file);
}
int fdatasync(int file)
{
    return fails(file, NULL, 0) ? -1 : is_below(file, NULL) ? 0 : REAL(fdatasync)(file);
}
int ftruncate64(int file, off64_t size)
{
    return fails(file, NULL, 0) ? -1 : REAL(ftruncate64)(file, size);
}
int mkdir(const char *path, mode_t mode)
{
    return fails(AT_FDCWD, path, 0) ? -1 : REAL(mkdir)(path, mode);
}
int rename(const char *from, const char *to)
{
    return fails(AT_FDCWD, to, 0) ? -1 : REAL(rename)(from, to);
}
int renameat(int one, const char *from, int other, const char *to)
{
    return fails(other, to, 0) ? -1 : REAL(renameat)(one, from, other, to);
}
int link(const char *from, const char *to)
{
    return fails(AT_FDCWD, to, 0) ? -1 : REAL(link)(from, to);
}
int linkat(int one, const char *from, int other, const char *to, int flags)
{
    return fails(other, to, 0) ? -1 : REAL(linkat)(one, from, other, to, flags);
}
