/* SPDX-License-Identifier: MIT */
/*
 * posix_calls.c - read(2), write(2) and their like as the program calls them.
 *
 * Where no segment in the region is concerned the call goes on to the C library, whose form is
 * a point of cancellation, as a system call from here would not be.  What moves bytes between
 * two files inside of the kernel is refused for a segment, with the errno at which programs
 * use read and write instead.
 */
#define _GNU_SOURCE
#include "posix.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
	ssize_t (*read)(int, void *, size_t);
	ssize_t (*write)(int, const void *, size_t);
	ssize_t (*pread)(int, void *, size_t, off_t);
	ssize_t (*pwrite)(int, const void *, size_t, off_t);
	ssize_t (*readv)(int, const struct iovec *, int);
	ssize_t (*writev)(int, const struct iovec *, int);
	ssize_t (*preadv)(int, const struct iovec *, int, off_t);
	ssize_t (*pwritev)(int, const struct iovec *, int, off_t);
	ssize_t (*preadv2)(int, const struct iovec *, int, off_t, int);
	ssize_t (*pwritev2)(int, const struct iovec *, int, off_t, int);
	ssize_t (*sendfile)(int, int, off_t *, size_t);
	ssize_t (*copy_file_range)(int, off_t *, int, off_t *, size_t, unsigned int);
	ssize_t (*splice)(int, off_t *, int, off_t *, size_t, unsigned int);
} next;

#define FIND(name) next.name = (__typeof__(next.name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void find_next(void)
{
	FIND(read);
	FIND(write);
	FIND(pread);
	FIND(pwrite);
	FIND(readv);
	FIND(writev);
	FIND(preadv);
	FIND(pwritev);
	FIND(preadv2);
	FIND(pwritev2);
	FIND(sendfile);
	FIND(copy_file_range);
	FIND(splice);
}

/* On to the C library, or before the constructor has run straight to the kernel. */
#define GO_ON(name, ...) \
	(next.name ? next.name(__VA_ARGS__) : (ssize_t)syscall(SYS_##name, __VA_ARGS__))
/* The kernel takes the offset of these in two halves; nobody calls them so early. */
#define GO_ON_AT(name, ...) (next.name ? next.name(__VA_ARGS__) : answer(-ENOSYS))

static bool reads(int fd, const struct iovec *parts, int count, off_t offset, ssize_t *result)
{
	struct io io = {fd, parts, count, offset, 0};
	struct segment *segment;
	struct stat status;

	segment = posix_find(fd, &status);
	if (segment)
		*result = answer(posix_read(segment, &status, &io));
	return segment;
}

static bool writes(int fd, const struct iovec *parts, int count, off_t offset, int flags,
		   ssize_t *result)
{
	struct io io = {fd, parts, count, offset, flags};
	struct segment *segment;
	struct stat status;

	segment = posix_find(fd, &status);
	if (segment)
		*result = answer(posix_write(segment, &io));
	return segment;
}

HOOK ssize_t read(int fd, void *buffer, size_t size)
{
	struct iovec part = {buffer, size};
	ssize_t result;

	return reads(fd, &part, 1, IO_POSITION, &result) ? result : GO_ON(read, fd, buffer, size);
}

HOOK ssize_t write(int fd, const void *buffer, size_t size)
{
	struct iovec part = {(void *)buffer, size};
	ssize_t result;

	if (writes(fd, &part, 1, IO_POSITION, 0, &result))
		return result;
	return GO_ON(write, fd, buffer, size);
}

HOOK ssize_t pread(int fd, void *buffer, size_t size, off_t offset)
{
	struct iovec part = {buffer, size};
	ssize_t result;

	if (offset >= 0 && reads(fd, &part, 1, offset, &result))
		return result;
	return next.pread ? next.pread(fd, buffer, size, offset)
			  : syscall(SYS_pread64, fd, buffer, size, offset);
}

HOOK ssize_t pread64(int fd, void *buffer, size_t size, off64_t offset)
	__attribute__((alias("pread")));

HOOK ssize_t pwrite(int fd, const void *buffer, size_t size, off_t offset)
{
	struct iovec part = {(void *)buffer, size};
	ssize_t result;

	if (offset >= 0 && writes(fd, &part, 1, offset, 0, &result))
		return result;
	return next.pwrite ? next.pwrite(fd, buffer, size, offset)
			   : syscall(SYS_pwrite64, fd, buffer, size, offset);
}

HOOK ssize_t pwrite64(int fd, const void *buffer, size_t size, off64_t offset)
	__attribute__((alias("pwrite")));

HOOK ssize_t readv(int fd, const struct iovec *parts, int count)
{
	ssize_t result;

	if (count > 0 && reads(fd, parts, count, IO_POSITION, &result))
		return result;
	return GO_ON(readv, fd, parts, count);
}

HOOK ssize_t writev(int fd, const struct iovec *parts, int count)
{
	ssize_t result;

	if (count > 0 && writes(fd, parts, count, IO_POSITION, 0, &result))
		return result;
	return GO_ON(writev, fd, parts, count);
}

HOOK ssize_t preadv(int fd, const struct iovec *parts, int count, off_t offset)
{
	ssize_t result;

	if (count > 0 && offset >= 0 && reads(fd, parts, count, offset, &result))
		return result;
	return GO_ON_AT(preadv, fd, parts, count, offset);
}

HOOK ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t offset)
	__attribute__((alias("preadv")));

HOOK ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
	ssize_t result;

	if (count > 0 && offset >= 0 && writes(fd, parts, count, offset, 0, &result))
		return result;
	return GO_ON_AT(pwritev, fd, parts, count, offset);
}

HOOK ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
	__attribute__((alias("pwritev")));

HOOK ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
	ssize_t result;

	/* What the flags ask for is about devices and waiting; here is nothing to wait for. */
	if (count > 0 && offset >= IO_POSITION && reads(fd, parts, count, offset, &result))
		return result;
	return GO_ON_AT(preadv2, fd, parts, count, offset, flags);
}

HOOK ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
	__attribute__((alias("preadv2")));

HOOK ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
	ssize_t result;

	if (count > 0 && offset >= IO_POSITION && writes(fd, parts, count, offset, flags, &result))
		return result;
	return GO_ON_AT(pwritev2, fd, parts, count, offset, flags);
}

HOOK ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
	__attribute__((alias("pwritev2")));

/* What read and pread are where the program was compiled with _FORTIFY_SOURCE. */
void __chk_fail(void) __attribute__((noreturn));
HOOK ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room);
HOOK ssize_t __pread_chk(int fd, void *buffer, size_t size, off_t offset, size_t room);
HOOK ssize_t __pread64_chk(int fd, void *buffer, size_t size, off64_t offset, size_t room)
	__attribute__((alias("__pread_chk")));

HOOK ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room)
{
	if (size > room)
		__chk_fail();
	return read(fd, buffer, size);
}

HOOK ssize_t __pread_chk(int fd, void *buffer, size_t size, off_t offset, size_t room)
{
	if (size > room)
		__chk_fail();
	return pread(fd, buffer, size, offset);
}

static bool is_segment(int fd)
{
	struct stat status;

	return posix_find(fd, &status);
}

HOOK ssize_t sendfile(int to, int from, off_t *offset, size_t size)
{
	if (is_segment(to) || is_segment(from))
		return answer(-EINVAL);
	return GO_ON(sendfile, to, from, offset, size);
}

HOOK ssize_t sendfile64(int to, int from, off64_t *offset, size_t size)
	__attribute__((alias("sendfile")));

HOOK ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t size,
			     unsigned int flags)
{
	if (is_segment(to) || is_segment(from))
		return answer(-EXDEV);
	return GO_ON(copy_file_range, from, from_offset, to, to_offset, size, flags);
}

HOOK ssize_t splice(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t size,
		    unsigned int flags)
{
	if (is_segment(to) || is_segment(from))
		return answer(-EINVAL);
	return GO_ON(splice, from, from_offset, to, to_offset, size, flags);
}

/* The file has no memory of its own, so that for the kernel all of it is one hole.  All of the
 * segment is data. */
HOOK off_t lseek(int fd, off_t offset, int whence)
{
	struct stat status;

	if ((whence == SEEK_DATA || whence == SEEK_HOLE) && posix_find(fd, &status) && offset >= 0 &&
	    offset < status.st_size) {
		offset = whence == SEEK_DATA ? offset : status.st_size;
		whence = SEEK_SET;
	}
	return (off_t)syscall(SYS_lseek, fd, offset, whence);
}

HOOK off64_t lseek64(int fd, off64_t offset, int whence) __attribute__((alias("lseek")));
