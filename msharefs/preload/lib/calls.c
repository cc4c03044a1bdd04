/* SPDX-License-Identifier: MIT */
/*
 * calls.c - system calls without the C library in between.
 *
 * syscall(3) is no cancellation point and does nothing but the call.  errno belongs to
 * the program: it is put back, and results carry their error as the kernel gives it.
 */
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* _NSIG / 8 of the kernel; the C library's sigset_t is larger. */
#define KERNEL_SIGSET 8

static long result_of(long result, int before)
{
	long error = result == -1 ? -errno : result;

	errno = before;
	return error;
}

long call_mmap(void *at, size_t size, int prot, int flags, int fd, uint64_t offset)
{
	int before = errno;

	return result_of(syscall(SYS_mmap, at, size, prot, flags, fd, offset), before);
}

long call_munmap(void *at, size_t size)
{
	int before = errno;

	return result_of(syscall(SYS_munmap, at, size), before);
}

long call_mremap(void *at, size_t size, size_t new_size, int flags, void *target)
{
	int before = errno;

	return result_of(syscall(SYS_mremap, at, size, new_size, flags, target), before);
}

long call_madvise(void *at, size_t size, int advice)
{
	int before = errno;

	return result_of(syscall(SYS_madvise, at, size, advice), before);
}

long call_open(const char *path, int flags)
{
	int before = errno;
	long fd;

	do
		fd = result_of(syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0), before);
	while (fd == -EINTR);
	return fd;
}

long call_close(int fd)
{
	int before = errno;

	return result_of(syscall(SYS_close, fd), before);
}

long call_fstat(int fd, struct stat *status)
{
	int before = errno;

	/* The one call here whose C library form does more, and only that: no cancellation. */
	return result_of(fstat(fd, status), before);
}

long call_ioctl(int fd, unsigned long number, const void *argument)
{
	int before = errno;
	long result;

	do
		result = result_of(syscall(SYS_ioctl, fd, number, argument), before);
	while (result == -EINTR);
	return result;
}

long call_ftruncate(int fd, uint64_t size)
{
	int before = errno;

	return result_of(syscall(SYS_ftruncate, fd, size), before);
}

long call_fallocate(int fd, int mode, uint64_t offset, uint64_t size)
{
	int before = errno;

	return result_of(syscall(SYS_fallocate, fd, mode, offset, size), before);
}

long call_fcntl(int fd, int command, void *argument)
{
	int before = errno;

	return result_of(syscall(SYS_fcntl, fd, command, argument), before);
}

void block_signals(sigset_t *before)
{
	sigset_t all;

	sigfillset(&all);
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, before, KERNEL_SIGSET);
}

void restore_signals(const sigset_t *before)
{
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, before, NULL, KERNEL_SIGSET);
}

long answer(long result)
{
	if (!is_error(result))
		return result;
	errno = (int)-result;
	return -1;
}
