/* What /proc tells a probe of itself. Plain reads into static room: looking needs no new pages. */
#ifndef BENCH_PROBES_PROC_H
#define BENCH_PROBES_PROC_H

#include "common.h"

static char proc_text[1 << 16];

static inline uint64_t field_kb(const char *from, const char *name)
{
	const char *at = strstr(from, name);

	return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static inline void load(const char *path)
{
	int fd = open(path, O_RDONLY);
	size_t have = 0;
	ssize_t got;

	if (fd < 0)
		die("open", path);
	while (have < sizeof(proc_text) - 1 &&
	       (got = read(fd, proc_text + have, sizeof(proc_text) - 1 - have)) > 0)
		have += (size_t)got;
	proc_text[have] = '\0';
	close(fd);
}

/* VmPTE counts every level on today's kernels; older ones count the second apart. */
static inline uint64_t tables_kb(void)
{
	load("/proc/self/status");
	return field_kb(proc_text, "\nVmPTE:") + field_kb(proc_text, "\nVmPMD:");
}

/* Page tables of the whole machine. Each processor keeps a share of the counter to itself until
 * root asks for it; for others it may be off by half a MiB. */
static inline uint64_t all_tables_kb(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY);

	if (fd >= 0) {
		if (write(fd, "1", 1) != 1)
			die("write", "stat_refresh");
		close(fd);
	}
	load("/proc/meminfo");
	return field_kb(proc_text, "\nPageTables:");
}

/* The same when no more page tables are on their way out: those of processes that have ended and of ranges
 * that are unmapped are freed some milliseconds later (RCU). */
static inline uint64_t settled_tables_kb(void)
{
	static const struct timespec pause = {.tv_nsec = 40000000};
	uint64_t before, now = all_tables_kb();

	for (int tries = 0; tries < 50; tries++) {
		before = now;
		nanosleep(&pause, NULL);
		now = all_tables_kb();
		if (now >= before)
			break;
	}
	return now;
}

#endif
