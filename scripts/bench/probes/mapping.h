/* The two ioctls of a region, as the probes use them: anonymous memory, or it fails. */
#ifndef BENCH_PROBES_MAPPING_H
#define BENCH_PROBES_MAPPING_H

#include <sys/ioctl.h>

#include <msharefs.h>

#include "common.h"

static inline void map_range(int fd, uint64_t offset, uint64_t size, const char *path)
{
	struct mshare_create request = {
		.region_offset = offset,
		.size = size,
		.prot = PROT_READ | PROT_WRITE,
		.flags = MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS,
		.fd = (uint32_t)-1,
	};

	if (ioctl(fd, MSHAREFS_CREATE_MAPPING, &request) != 0)
		die("CREATE_MAPPING", path);
}

static inline void unmap_range(int fd, uint64_t offset, uint64_t size, const char *path)
{
	struct mshare_unmap request = {.region_offset = offset, .size = size};

	if (ioctl(fd, MSHAREFS_UNMAP, &request) != 0)
		die("UNMAP", path);
}

#endif
