/*
 * Prepares what the other probes measure.
 *
 * usage: fill plain PATH SIZE      a file of ordinary shared memory, every page written
 *        fill region PATH SIZE     a region, mapped as a whole, every page written
 *        fill mapped PATH SIZE     the same with no page touched
 *        fill sized PATH SIZE      a region (or file) of that size with nothing in it
 *        fill regions DIR COUNT    regions of 2 MiB, one page of each mapped
 *        fill mappings PATH COUNT  a region with COUNT mappings of one page, apart
 *        fill names DIR COUNT [THERE]  regions without a size, until there are COUNT; THERE
 *                                  of them are there already
 * prints: each NS                  for mappings and names: the time of one of them
 */
#include <fcntl.h>
#include <unistd.h>

#include "common.h"
#include "grid.h"
#include "mapping.h"

static int create(const char *path, uint64_t size)
{
	int fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0600);

	if (fd < 0)
		die("create", path);
	if (ftruncate(fd, (off_t)size) != 0)
		die("ftruncate", path);
	return fd;
}

static void write_every_page(int fd, uint64_t size, const char *path)
{
	memset(map_shared(fd, size, path), 0, size);
}

static void fill_regions(const char *directory, uint64_t count)
{
	char path[4096];

	for (uint64_t i = 0; i < count; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/region-%lu", directory, (unsigned long)i);
		fd = create(path, HUGE_PAGE);
		map_range(fd, 0, PAGE, path);
		close(fd);
	}
}

static void each(uint64_t start, uint64_t count)
{
	printf("each %.1f\n", (double)(now_ns() - start) / (double)count);
}

static void fill_names(const char *directory, uint64_t count, uint64_t there)
{
	char path[4096];
	uint64_t start = now_ns();

	for (uint64_t i = there; i < count; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/name-%lu", directory, (unsigned long)i);
		fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0600);
		if (fd < 0)
			die("create", path);
		close(fd);
	}
	each(start, count - there);
}

/* COUNT mappings spread over the whole grid. */
static void fill_mappings(const char *path, uint64_t count)
{
	uint64_t size = (GRID_CELLS * GRID_STRIDE + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	int fd = create(path, size);
	uint64_t start = now_ns();

	for (uint64_t i = 0; i < count; i++)
		map_range(fd, i * (GRID_CELLS / count) * GRID_STRIDE, PAGE, path);
	each(start, count);
}

int main(int argc, char **argv)
{
	const char *what = argc == 4 || argc == 5 ? argv[1] : "";
	uint64_t value = argc >= 4 ? number(argv[3]) : 0;
	uint64_t there = argc == 5 ? number(argv[4]) : 0;

	if (strcmp(what, "plain") == 0) {
		write_every_page(create(argv[2], value), value, argv[2]);
	} else if (strcmp(what, "region") == 0) {
		int fd = create(argv[2], value);

		map_range(fd, 0, value, argv[2]);
		write_every_page(fd, value, argv[2]);
	} else if (strcmp(what, "mapped") == 0) {
		map_range(create(argv[2], value), 0, value, argv[2]);
	} else if (strcmp(what, "sized") == 0) {
		create(argv[2], value);
	} else if (strcmp(what, "regions") == 0) {
		fill_regions(argv[2], value);
	} else if (strcmp(what, "mappings") == 0 && value > 0 && value <= GRID_CELLS) {
		fill_mappings(argv[2], value);
	} else if (strcmp(what, "names") == 0 && value > there) {
		fill_names(argv[2], value, there);
	} else {
		fprintf(stderr, "usage: fill plain|region|mapped|sized|regions|mappings|names WHERE NUMBER\n");
		return 2;
	}
	return 0;
}
