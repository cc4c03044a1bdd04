/* SPDX-License-Identifier: MIT */
/*
 * attach - make a region and attach it as fast as the mount allows.
 *
 *   attach FILE
 *
 * FILE is a name on a mounted msharefs, which is removed again in the end.  With an
 * ordinary user's mount this is what gives memory speed and small page tables; the
 * same program runs on every other mount.  Exit code 0, 1 if something failed, 2 for a
 * wrong command line.
 */
#define _GNU_SOURCE
#include <msharefs_attach.h>

#include <stdio.h>

#define SIZE ((size_t)64 << 20)

static int fail(const char *what, const char *file)
{
	fprintf(stderr, "attach: cannot %s %s: %s\n", what, file, strerror(errno));
	return 1;
}

/* Attach what is open as `fd`, write into all of it, and say how that was done. */
static int use(int fd, const char *file)
{
	unsigned char *memory;
	int how;

	memory = msharefs_attach(fd, SIZE, PROT_READ | PROT_WRITE);
	if (memory == MAP_FAILED)
		return fail("attach", file);
	memset(memory, 42, SIZE);
	how = msharefs_attached(memory);
	printf("wrote %zu bytes of %s %s\n", SIZE, file,
	       how & MSHAREFS_DIRECT ? "directly" : "as mapped by the kernel");
	return msharefs_detach(memory) ? fail("detach", file) : 0;
}

int main(int argc, char **argv)
{
	struct mshare_create create = {
		.region_offset = 0,
		.size = SIZE,
		.offset = 0,
		.prot = PROT_READ | PROT_WRITE,
		.flags = MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS,
		.fd = -1,
	};
	int fd, result;

	if (argc != 2) {
		fprintf(stderr, "usage: attach FILE\n");
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd == -1)
		return fail("create", argv[1]);
	if (ftruncate(fd, SIZE) || ioctl(fd, MSHAREFS_CREATE_MAPPING, &create))
		result = fail("map memory in", argv[1]);
	else
		result = use(fd, argv[1]);
	close(fd);
	unlink(argv[1]);
	return result;
}
