/* SPDX-License-Identifier: MIT */
/*
 * posix_io.c - reading and writing segments that live in the region.
 *
 * A write goes to the file first, so that the kernel decides all that it decides: rights,
 * limits, the position, the new size.  Then the bytes are put where the segment has its bytes,
 * and the file gives their memory back.  A read takes them from there.
 */
#define _GNU_SOURCE
#include "posix.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef RWF_APPEND
#define RWF_APPEND 0x10
#endif

/* The most that a write puts into the file before it gives it back. */
#define STEP ((size_t)4 << 20)
#define PARTS 16

static size_t total(const struct iovec *parts, int count)
{
	size_t sum = 0;
	int i;

	for (i = 0; i < count; i++)
		sum += parts[i].iov_len;
	return sum;
}

static long call_seek(int fd, off_t offset, int whence)
{
	int before = errno;
	long result = syscall(SYS_lseek, fd, offset, whence);
	long error = result < 0 ? -errno : result;

	errno = before;
	return error;
}

static long result_of(long result, int before)
{
	long error = result < 0 ? -errno : result;

	errno = before;
	return error;
}

static long kernel_reads(const struct io *io)
{
	int before = errno;

	return result_of(syscall(SYS_preadv2, io->fd, io->parts, (long)io->count, io->offset, 0L,
				 (long)io->flags), before);
}

static long kernel_writes(const struct io *io)
{
	int before = errno;

	return result_of(syscall(SYS_pwritev2, io->fd, io->parts, (long)io->count, io->offset, 0L,
				 (long)io->flags), before);
}

static bool may(int fd, int not_with)
{
	return (call_fcntl(fd, F_GETFL, NULL) & O_ACCMODE) != not_with;
}

/* The kernel copies, because the program's buffer may not be there. */
static long copy_out(const struct io *io, const struct view *view, size_t size)
{
	struct iovec from = {view->bytes, size};
	int before = errno;

	return result_of(syscall(SYS_process_vm_readv, getpid(), io->parts, (long)io->count, &from,
				 1L, 0L), before);
}

/* A sandbox may forbid that. */
static long copy_out_here(const struct io *io, const struct view *view, size_t size)
{
	size_t done = 0;
	int i;

	for (i = 0; i < io->count && done < size; i++) {
		size_t part = io->parts[i].iov_len < size - done ? io->parts[i].iov_len : size - done;

		memcpy(io->parts[i].iov_base, view->bytes + done, part);
		done += part;
	}
	return (long)done;
}

long posix_read(const struct segment *segment, const struct stat *status,
		const struct io *io)
{
	long start = io->offset == IO_POSITION ? call_seek(io->fd, 0, SEEK_CUR) : io->offset;
	size_t size = total(io->parts, io->count);
	struct view view;
	long result;

	/* At the end, or not to be read: as the file has it. */
	if (start < 0 || start >= status->st_size || !size || !may(io->fd, O_WRONLY))
		return kernel_reads(io);
	if (size > (size_t)(status->st_size - start))
		size = (size_t)(status->st_size - start);
	result = memory_view(run_file_if_mapped(), segment, (uint64_t)start, size, &view);
	if (result)
		return result;
	result = copy_out(io, &view, size);
	if (result == -EPERM || result == -ENOSYS)
		result = copy_out_here(io, &view, size);
	memory_end_view(&view);
	/* Else the bytes may be another segment's by now.  The close came first, as we have it. */
	if (!posix_is_still_open(io->fd, segment))
		return -EBADF;
	if (result > 0 && io->offset == IO_POSITION)
		call_seek(io->fd, start + result, SEEK_SET);
	return result;
}

/* Copy what the kernel has just read from the same buffers. */
static int copy_in(const struct visit *visit, const struct segment *segment, const struct io *io,
		   uint64_t start, size_t size)
{
	struct view view;
	size_t done = 0;
	int i, failed = memory_view(visit->run, segment, start, size, &view);

	if (failed)
		return failed;
	for (i = 0; done < size; i++) {
		size_t part = io->parts[i].iov_len;

		if (part > size - done)
			part = size - done;
		memcpy(view.bytes + done, io->parts[i].iov_base, part);
		done += part;
	}
	memory_end_view(&view);
	return 0;
}

static int give_file_memory_back(int fd, uint64_t start, uint64_t size)
{
	uint64_t page = settings()->page;
	uint64_t first = start / page * page;

	return (int)call_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first,
				   round_up(start + size, page) - first);
}

/* Where a write that has ended began. */
static long began_at(const struct io *io, bool appends, long written)
{
	struct stat status;

	if (io->offset == IO_POSITION)
		return call_seek(io->fd, 0, SEEK_CUR) - written;
	if (!appends)
		return io->offset;
	return call_fstat(io->fd, &status) ? -EIO : status.st_size - written;
}

/* Memory for what is about to be written; -ENOSPC as in /dev/shm. */
static int make_room(const struct visit *visit, struct segment *segment, const struct io *io,
		     bool appends, uint64_t size)
{
	struct stat status;
	long start = io->offset == IO_POSITION ? call_seek(io->fd, 0, SEEK_CUR) : io->offset;
	int failed = (int)call_fstat(io->fd, &status);
	uint64_t end;

	if (failed || start < 0)
		return failed;
	end = (uint64_t)(appends ? status.st_size : start) + size;
	if (end <= (uint64_t)status.st_size)
		return 0;
	failed = memory_fit(visit, segment, end);
	return failed == -ENOMEM ? -ENOSPC : failed;
}

/* One step, inside of a visit. */
static long write_step(const struct visit *visit, struct segment *segment, const struct io *io)
{
	bool appends = io->flags & RWF_APPEND || call_fcntl(io->fd, F_GETFL, NULL) & O_APPEND;
	struct stat status;
	long start, written, failed;

	failed = make_room(visit, segment, io, appends, total(io->parts, io->count));
	if (failed)
		return failed;
	written = kernel_writes(io);
	if (!call_fstat(io->fd, &status))
		memory_fit(visit, segment, (uint64_t)status.st_size);
	if (written <= 0)
		return written;
	start = began_at(io, appends, written);
	failed = start < 0 ? start : copy_in(visit, segment, io, (uint64_t)start, (size_t)written);
	if (!failed)
		failed = give_file_memory_back(io->fd, (uint64_t)start, (uint64_t)written);
	return failed ? failed : written;
}

/* The first STEP bytes at most of what begins `done` bytes into the parts. */
static int slice(const struct io *io, size_t done, struct iovec *parts)
{
	size_t left = STEP;
	int i, count = 0;

	for (i = 0; i < io->count && count < PARTS && left; i++) {
		size_t length = io->parts[i].iov_len;

		if (done >= length) {
			done -= length;
			continue;
		}
		parts[count].iov_base = (char *)io->parts[i].iov_base + done;
		parts[count].iov_len = length - done < left ? length - done : left;
		left -= parts[count].iov_len;
		done = 0;
		count++;
	}
	return count;
}

static long write_steps(const struct visit *visit, struct segment *segment, const struct io *io)
{
	size_t done = 0, size = total(io->parts, io->count);
	struct iovec parts[PARTS];
	struct io step = *io;
	long written;

	step.parts = parts;
	do {
		step.count = slice(io, done, parts);
		if (io->offset != IO_POSITION)
			step.offset = io->offset + (off_t)done;
		written = write_step(visit, segment, &step);
		if (written <= 0)
			return done ? (long)done : written;
		done += (size_t)written;
	} while (done < size && (size_t)written == total(parts, step.count));
	return (long)done;
}

long posix_write(struct segment *segment, const struct io *io)
{
	struct visit visit;
	long result;

	if (!may(io->fd, O_RDONLY) || !total(io->parts, io->count))
		return kernel_writes(io);
	result = segments_enter(&visit);
	if (result)
		return result;
	result = write_steps(&visit, segment, io);
	segments_leave(&visit);
	return result;
}
