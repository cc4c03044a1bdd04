/* SPDX-License-Identifier: MIT */
/*
 * posix_size.c - calls that change how long a POSIX segment is, or what of it has memory.
 *
 * The file gets its new size as ever, and the memory in the region follows.  Some calls come
 * past the library (a shell's redirection, a static program): so the memory is fitted to the
 * size that the file has by now before anything else is done.
 */
#define _GNU_SOURCE
#include "posix.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int (*next_open)(const char *, int, ...);
static int (*next_openat)(int, const char *, int, ...);
static int (*next_shm_open)(const char *, int, mode_t);
static FILE *(*next_fopen)(const char *, const char *);

/* Before that a library's constructor may have called. */
__attribute__((constructor)) static void find_next(void)
{
	next_open = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
	next_openat = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat");
	next_shm_open = (int (*)(const char *, int, mode_t))dlsym(RTLD_NEXT, "shm_open");
	next_fopen = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen");
}

/* Memory for a segment that grows.  What cannot be set aside comes when it is touched, as in
 * /dev/shm. */
static int grow(const struct visit *visit, struct segment *segment, uint64_t size)
{
	int failed = memory_fit(visit, segment, size);

	return failed == -ENOMEM ? memory_fit_unreserved(visit, segment, size) : failed;
}

/* Memory for the size that the file has. */
static int catch_up(const struct visit *visit, struct segment *segment, uint64_t size)
{
	uint64_t pages = atomic_load(&segment->size);

	if (round_up(size, settings()->page) > pages)
		return grow(visit, segment, size);
	return round_up(size, settings()->page) < pages ? memory_cut(visit, segment, size) : 0;
}

static int resize(const struct visit *visit, struct segment *segment, int fd, uint64_t size)
{
	struct stat status;
	uint64_t before;
	int failed = (int)call_fstat(fd, &status);

	if (failed)
		return failed;
	before = (uint64_t)status.st_size;
	failed = catch_up(visit, segment, before);
	if (failed)
		return failed;
	if (size > before)
		failed = grow(visit, segment, size);
	if (failed)
		return failed;
	failed = (int)call_ftruncate(fd, size);
	if (failed) {
		/* What is behind the end in its last page stays, as with the kernel. */
		memory_fit(visit, segment, before);
		return failed;
	}
	return size <= before ? memory_cut(visit, segment, size) : 0;
}

HOOK int ftruncate(int fd, off_t size)
{
	struct segment *segment = NULL;
	struct visit visit;
	struct stat status;
	int failed;

	if (size >= 0)
		segment = posix_find(fd, &status);
	if (!segment)
		return (int)answer(call_ftruncate(fd, (uint64_t)size));
	failed = segments_enter(&visit);
	if (!failed) {
		failed = resize(&visit, segment, fd, (uint64_t)size);
		segments_leave(&visit);
	}
	return (int)answer(failed);
}

HOOK int ftruncate64(int fd, off64_t size) __attribute__((alias("ftruncate")));

/* After somebody has set the size of the file, which was `before` bytes.  One that has not become
 * longer has zeros in the rest of its last page. */
static void follow(const struct stat *status, uint64_t before)
{
	struct segment *segment = posix_of(status);
	uint64_t size = (uint64_t)status->st_size;
	struct visit visit;

	if (!segment || segments_enter(&visit))
		return;
	if (size <= before)
		memory_cut(&visit, segment, size);
	else
		catch_up(&visit, segment, size);
	segments_leave(&visit);
}

static void follow_descriptor(int fd)
{
	struct stat status;

	if (posix_find(fd, &status))
		follow(&status, 0);
}

HOOK int truncate(const char *path, off_t size)
{
	struct stat status;
	int error = errno, result;
	uint64_t before = posix_any() && !stat(path, &status) ? (uint64_t)status.st_size : 0;

	errno = error;
	result = (int)syscall(SYS_truncate, path, size);
	error = errno;
	if (!result && posix_any() && !stat(path, &status))
		follow(&status, before);
	errno = error;
	return result;
}

HOOK int truncate64(const char *path, off64_t size) __attribute__((alias("truncate")));

/* O_TRUNC: what was there is gone. */
static int opened(int fd, int flags)
{
	int before = errno;

	if (fd >= 0 && flags & O_TRUNC)
		follow_descriptor(fd);
	errno = before;
	return fd;
}

static bool has_mode(int flags)
{
	return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
}

static int open_at(int directory, const char *path, int flags, mode_t mode)
{
	if (directory == AT_FDCWD && next_open)
		return opened(next_open(path, flags, mode), flags);
	if (next_openat)
		return opened(next_openat(directory, path, flags, mode), flags);
	return opened((int)syscall(SYS_openat, directory, path, flags, mode), flags);
}

HOOK int open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list rest;

	if (has_mode(flags)) {
		va_start(rest, flags);
		mode = va_arg(rest, mode_t);
		va_end(rest);
	}
	return open_at(AT_FDCWD, path, flags, mode);
}

HOOK int open64(const char *path, int flags, ...) __attribute__((alias("open")));

HOOK int openat(int directory, const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list rest;

	if (has_mode(flags)) {
		va_start(rest, flags);
		mode = va_arg(rest, mode_t);
		va_end(rest);
	}
	return open_at(directory, path, flags, mode);
}

HOOK int openat64(int directory, const char *path, int flags, ...)
	__attribute__((alias("openat")));

HOOK int creat(const char *path, mode_t mode)
{
	return open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

HOOK int creat64(const char *path, mode_t mode) __attribute__((alias("creat")));

/* What open is where the program was compiled with _FORTIFY_SOURCE. */
HOOK int __open_2(const char *path, int flags);
HOOK int __open64_2(const char *path, int flags) __attribute__((alias("__open_2")));

HOOK int __open_2(const char *path, int flags)
{
	return open_at(AT_FDCWD, path, flags, 0);
}

HOOK int __openat_2(int directory, const char *path, int flags);
HOOK int __openat64_2(int directory, const char *path, int flags)
	__attribute__((alias("__openat_2")));

HOOK int __openat_2(int directory, const char *path, int flags)
{
	return open_at(directory, path, flags, 0);
}

HOOK FILE *fopen(const char *path, const char *mode)
{
	FILE *file;

	if (!next_fopen)
		find_next();
	file = next_fopen(path, mode);
	if (file && mode[0] == 'w')
		opened(fileno(file), O_TRUNC);
	return file;
}

HOOK FILE *fopen64(const char *path, const char *mode) __attribute__((alias("fopen")));

HOOK int shm_open(const char *name, int flags, mode_t mode)
{
	if (!next_shm_open)
		find_next();
	if (!next_shm_open)
		return (int)answer(-ENOSYS);
	return opened(next_shm_open(name, flags, mode), flags);
}

/* fallocate(2) of a segment in the region. */
static long allocate_here(struct segment *segment, int fd, int mode, uint64_t offset, uint64_t end)
{
	struct visit visit;
	struct stat status;
	int failed = segments_enter(&visit);

	if (failed)
		return failed;
	failed = (int)call_fstat(fd, &status);
	if (!failed)
		failed = catch_up(&visit, segment, (uint64_t)status.st_size);
	if (!failed && mode & FALLOC_FL_PUNCH_HOLE)
		failed = memory_wipe(&visit, segment, offset, end);
	else if (!failed && !(mode & FALLOC_FL_KEEP_SIZE) && end > (uint64_t)status.st_size) {
		failed = memory_fit(&visit, segment, end);
		if (!failed)
			failed = (int)call_ftruncate(fd, end);
		if (failed)
			memory_fit(&visit, segment, (uint64_t)status.st_size);
	}
	segments_leave(&visit);
	return failed == -ENOMEM ? -ENOSPC : failed;
}

/* The calls that tmpfs knows; what it refuses the kernel refuses for the file itself. */
static bool is_understood(int fd, int mode, off_t offset, off_t size)
{
	return offset >= 0 && size > 0 && size <= INT64_MAX - offset &&
	       (!mode || mode == FALLOC_FL_KEEP_SIZE ||
		mode == (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)) &&
	       (call_fcntl(fd, F_GETFL, NULL) & O_ACCMODE) != O_RDONLY;
}

static long allocate(int fd, int mode, off_t offset, off_t size)
{
	struct segment *segment = NULL;
	struct stat status;

	if (!is_understood(fd, mode, offset, size) || !posix_is_file(fd, &status))
		return call_fallocate(fd, mode, (uint64_t)offset, (uint64_t)size);
	segment = posix_of(&status);
	/* Memory for a new file: from now on in the region. */
	if (!segment && !(mode & FALLOC_FL_PUNCH_HOLE) &&
	    (uint64_t)(offset + size) >= settings()->min_size)
		segment = posix_find_or_place(fd, &status, (uint64_t)(offset + size));
	if (!segment)
		return call_fallocate(fd, mode, (uint64_t)offset, (uint64_t)size);
	return allocate_here(segment, fd, mode, (uint64_t)offset, (uint64_t)(offset + size));
}

HOOK int fallocate(int fd, int mode, off_t offset, off_t size)
{
	return (int)answer(allocate(fd, mode, offset, size));
}

HOOK int fallocate64(int fd, int mode, off64_t offset, off64_t size)
	__attribute__((alias("fallocate")));

HOOK int posix_fallocate(int fd, off_t offset, off_t size)
{
	return (int)-allocate(fd, 0, offset, size);
}

HOOK int posix_fallocate64(int fd, off64_t offset, off64_t size)
	__attribute__((alias("posix_fallocate")));
