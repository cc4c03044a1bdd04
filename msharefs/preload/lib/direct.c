/* SPDX-License-Identifier: MIT */
/*
 * direct.c - the memory of the region itself, where its mount gives it: the direct data plane.
 *
 * A window on such a mount is one on the region's segment, whose descriptor the mount hands over
 * (msharefs_attach.h).  As long as anybody has a handle of the region's file, the mount lets
 * nobody have the region in another way.  Nothing may keep a descriptor, so this process
 * keeps a page of the file mapped: it goes along to forked children, and away with exec and exit,
 * as the windows do.
 */
#define _GNU_SOURCE
#include "runfile.h"

#include <msharefs_attach.h>

#include <pthread.h>

static _Atomic(void *) kept_open;

static int keep_open(int fd)
{
	void *expected = NULL;
	long at;

	if (atomic_load(&kept_open))
		return 0;
	/* Of a file that is had directly the kernel maps nothing shared. */
	at = call_mmap(NULL, settings()->page, PROT_NONE, MAP_PRIVATE, fd, 0);
	if (is_error(at))
		return (int)at;
	if (!atomic_compare_exchange_strong(&kept_open, &expected, (void *)at))
		call_munmap((void *)at, settings()->page);
	return 0;
}

/* The descriptor of the segment, or -errno.  Without points of cancellation, and errno stays. */
static int ask(int fd)
{
	int before = errno, state, segment;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	segment = msharefs__segment(fd, MSHAREFS_ATTACH);
	if (segment < 0)
		segment = -errno;
	pthread_setcancelstate(state, NULL);
	errno = before;
	return segment;
}

/* Where no descriptor for reading alone can be made, one for writing does. */
static int ask_for_more(void)
{
	int fd = region_open(O_RDWR);
	int segment;

	if (fd < 0)
		return fd;
	segment = ask(fd);
	call_close(fd);
	return segment;
}

int region_pages(int fd)
{
	int error = 0, segment;
	struct run_header *run = run_file(&error);

	if (!run)
		return error;
	if (!atomic_load(&run->direct))
		return fd;
	segment = ask(fd);
	if (segment == -EOPNOTSUPP || segment == -ENODEV)
		segment = ask_for_more();
	/* It is had plainly now, or the mount is another one. */
	if (segment == -ENOTTY || segment == -EBUSY)
		return fd;
	/* The mount is in another network or user namespace, and others have the memory: the file can
	 * be mapped beside them on some mounts, and not be touched. */
	if (segment == -EACCES || segment == -ECONNREFUSED)
		return -ENODEV;
	if (segment < 0)
		return segment;
	error = keep_open(fd);
	if (!error)
		return segment;
	call_close(segment);
	return error;
}
