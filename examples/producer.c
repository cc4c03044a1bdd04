/* SPDX-License-Identifier: MIT */
/*
 * producer - make a region, put memory into it and numbers into the memory.
 *
 *   producer [MOUNT [NAME]]
 *
 * MOUNT is the directory where msharefs is mounted (default /sys/fs/mshare), NAME
 * that of the region (default exchange).  The program ends at once: the region
 * stays until somebody unlinks it.  Exit code 0, 1 if something failed, 2 for a
 * wrong command line.
 *
 * Step 1, mounting, is done before:  msharefs-mount msharefs /sys/fs/mshare
 */
#define _GNU_SOURCE
#include "exchange.h"

#include <msharefs.h>

/* Step 2: the size of a region is a multiple of the number in mshare_info. */
static size_t read_alignment(const char *mount)
{
	char path[PATH_MAX];
	char text[32] = "";
	size_t alignment;
	int fd;

	join(path, mount, "mshare_info");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd == -1)
		fail("open (is msharefs mounted?)", path);
	if (read(fd, text, sizeof text - 1) == -1)
		fail("read", path);
	close(fd);
	alignment = strtoull(text, NULL, 10);
	if (alignment == 0) {
		errno = EINVAL;
		fail("find a number in", path);
	}
	return alignment;
}

/* Step 3: a new file, its size, and memory at its start. */
static int make_region(const char *path, size_t region_size, size_t memory_size)
{
	struct mshare_create create = {
		.region_offset = 0,
		.size = memory_size,
		.offset = 0,
		.prot = PROT_READ | PROT_WRITE,
		.flags = MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS,
		.fd = -1,
	};
	const char *failed = NULL;
	int fd, reason;

	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd == -1)
		fail("create", path);
	if (ftruncate(fd, region_size) == -1)
		failed = "set the size of";
	else if (ioctl(fd, MSHAREFS_CREATE_MAPPING, &create) == -1)
		failed = "map memory in";
	if (failed != NULL) {
		/* Nobody has use for half a region. */
		reason = errno;
		unlink(path);
		errno = reason;
		fail(failed, path);
	}
	return fd;
}

static void write_numbers(struct exchange *exchange)
{
	uint64_t i;

	for (i = 0; i < EXCHANGE_COUNT; i++)
		exchange->numbers[i] = i * i;
	exchange->count = EXCHANGE_COUNT;
	exchange->checksum = exchange_checksum(exchange->numbers, EXCHANGE_COUNT);
	/* Last: who sees the state sees all that was written before it. */
	__atomic_store_n(&exchange->state, EXCHANGE_READY, __ATOMIC_RELEASE);
}

int main(int argc, char **argv)
{
	const char *mount = argc > 1 ? argv[1] : DEFAULT_MOUNT;
	const char *name = argc > 2 ? argv[2] : DEFAULT_NAME;
	struct exchange *exchange;
	char path[PATH_MAX];
	size_t size;
	int fd;

	if (argc > 3 || mount[0] == '-') {
		fprintf(stderr, "usage: producer [MOUNT [NAME]]\n");
		return 2;
	}
	join(path, mount, name);
	size = read_alignment(mount);
	while (size < sizeof *exchange)
		size *= 2;
	fd = make_region(path, size, sizeof *exchange);

	/* Still step 3: the whole region becomes part of this process... */
	exchange = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (exchange == MAP_FAILED)
		fail("attach", path);
	/* ...and is used like any memory. */
	write_numbers(exchange);
	printf("producer: wrote %d numbers with checksum %016llx to %s, attached at %p\n",
	       EXCHANGE_COUNT, (unsigned long long)exchange->checksum, path, (void *)exchange);

	/* Half of step 5: this process is done. The name and the memory stay for others. */
	munmap(exchange, size);
	close(fd);
	return 0;
}
