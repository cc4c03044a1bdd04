/* An open region as a C program attaches it, which must be directly. */
#ifndef BENCH_PROBES_DIRECT_H
#define BENCH_PROBES_DIRECT_H

#include <msharefs_attach.h>

#include "common.h"

static inline char *attach_directly(int fd, uint64_t size, const char *path)
{
	char *at = msharefs_attach(fd, size, PROT_READ | PROT_WRITE);

	if (at == MAP_FAILED)
		die("attach", path);
	if (!(msharefs_attached(at) & MSHAREFS_DIRECT)) {
		errno = EXDEV;
		die("attach directly", path);
	}
	return at;
}

#endif
