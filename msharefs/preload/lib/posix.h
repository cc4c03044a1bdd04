/* SPDX-License-Identifier: MIT */
/*
 * posix.h - POSIX segments (shm_open) of a run with --shm.
 *
 * The file in /dev/shm stays what the segment is known by: its name, size, owner, mode and
 * life are the kernel's affair.  Only its bytes are elsewhere, in a range of the region.
 */
#ifndef MSHAREFS_POSIX_H
#define MSHAREFS_POSIX_H

#include "segments.h"

#include <sys/uio.h>

#define POSIX_WHAT "POSIX shared memory"

/* posix.c: which files are segments.  Whether it is a file of /dev/shm, and what fstat says. */
bool posix_is_file(int fd, struct stat *status);

/* The segment of a file that lives in the region, or NULL.  Next to nothing if none does. */
struct segment *posix_find(int fd, struct stat *status);
struct segment *posix_of(const struct stat *status);

/* Whether it is that segment's descriptor still.  Another thread may close it at any time, and a
 * segment that nobody can reach any more goes: what was done with its bytes before counts alone if
 * they can be reached afterwards. */
bool posix_is_still_open(int fd, const struct segment *segment);

/* Whether any segment lives in the region. */
bool posix_any(void);

/* The segment of a file that is about to be used up to byte `end`: it is in the region, or goes
 * there now.  NULL if the file stays in /dev/shm, for ever and for everybody; where it should
 * not a line says so. */
struct segment *posix_find_or_place(int fd, const struct stat *status, uint64_t end);

/* posix_memory.c: the memory of a segment.  All to be called inside of a visit; 0 or -errno. */

/* Memory for so many bytes, no more and no less; what is beyond them reads as zeros when it is
 * there again. */
int memory_fit(const struct visit *visit, struct segment *segment, uint64_t size);

/* The same for a file that has become shorter; the rest of its last page is zeros then. */
int memory_cut(const struct visit *visit, struct segment *segment, uint64_t size);

/* The same, and nothing set aside for what is new: it comes when it is touched. */
int memory_fit_unreserved(const struct visit *visit, struct segment *segment, uint64_t size);

/* Zeros from `start` to `end`. */
int memory_wipe(const struct visit *visit, struct segment *segment, uint64_t start, uint64_t end);

/* The bytes from `start` on, attached for as long as a call takes. */
struct view {
	char *bytes;
	void *at;
	size_t size;
};

int memory_view(struct run_header *run, const struct segment *segment, uint64_t start, size_t size,
		struct view *view);
void memory_end_view(const struct view *view);

/* posix_io.c: one call of read(2), write(2) or their like.  The number of bytes, or -errno. */
struct io {
	int fd;
	const struct iovec *parts;
	int count;
	off_t offset; /* or IO_POSITION */
	int flags;    /* of preadv2 and pwritev2 */
};

#define IO_POSITION (-1)

long posix_read(const struct segment *segment, const struct stat *status, const struct io *io);
long posix_write(struct segment *segment, const struct io *io);

#endif
