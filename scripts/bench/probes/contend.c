/*
 * One operation on two file systems in turns: a round is COUNT operations on
 * one, then COUNT on the other.
 *
 * usage: contend OPERATION ROUNDS COUNT OURS THEIRS
 *   stat, fstat, open         OURS and THEIRS are existing files
 *   create                    directories: create, size, close, unlink
 *   map-unmap                 files: CREATE_MAPPING and UNMAP of 2 MiB
 *   create-map                directories: create, size, map 2 MiB, close, unlink
 *   map-in-gap                files made by "fill mappings": CREATE_MAPPING of one
 *                             page between two others; its UNMAP is not timed
 * prints: ours NS / theirs NS a line, nanoseconds of one operation
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "grid.h"
#include "mapping.h"

static int open_file(const char *path)
{
	int fd = open(path, O_RDWR);

	if (fd < 0)
		die("open", path);
	return fd;
}

static uint64_t time_stat(const char *path, uint64_t count)
{
	struct stat st;
	uint64_t start = now_ns();

	for (uint64_t i = 0; i < count; i++)
		if (stat(path, &st) != 0)
			die("stat", path);
	return now_ns() - start;
}

static uint64_t time_fstat(const char *path, uint64_t count)
{
	struct stat st;
	int fd = open_file(path);
	uint64_t start = now_ns(), spent;

	for (uint64_t i = 0; i < count; i++)
		if (fstat(fd, &st) != 0)
			die("fstat", path);
	spent = now_ns() - start;
	close(fd);
	return spent;
}

static uint64_t time_open(const char *path, uint64_t count)
{
	uint64_t start = now_ns();

	for (uint64_t i = 0; i < count; i++)
		if (close(open_file(path)) != 0)
			die("close", path);
	return now_ns() - start;
}

static uint64_t time_create_as(const char *directory, uint64_t count, int map)
{
	/* A new name each time: a name used before may be known to the kernel. */
	static uint64_t serial;
	char path[4096];
	uint64_t start = now_ns();

	for (uint64_t i = 0; i < count; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/new-%lu", directory, (unsigned long)serial++);
		fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0600);
		if (fd < 0)
			die("create", path);
		if (ftruncate(fd, HUGE_PAGE) != 0)
			die("ftruncate", path);
		if (map)
			map_range(fd, 0, HUGE_PAGE, path);
		if (close(fd) != 0)
			die("close", path);
		if (unlink(path) != 0)
			die("unlink", path);
	}
	return now_ns() - start;
}

static uint64_t time_create(const char *directory, uint64_t count)
{
	return time_create_as(directory, count, 0);
}

static uint64_t time_create_map(const char *directory, uint64_t count)
{
	return time_create_as(directory, count, 1);
}

static uint64_t time_map_unmap(const char *path, uint64_t count)
{
	int fd = open_file(path);
	uint64_t start = now_ns(), spent;

	for (uint64_t i = 0; i < count; i++) {
		map_range(fd, 0, HUGE_PAGE, path);
		unmap_range(fd, 0, HUGE_PAGE, path);
	}
	spent = now_ns() - start;
	close(fd);
	return spent;
}

static uint64_t time_map_in_gap(const char *path, uint64_t count)
{
	/* Both contenders get the same places: one round of each uses one seed. */
	static uint64_t turn;
	uint64_t seed = 88172645463325252u + turn++ / 2, spent = 0;
	int fd = open_file(path);

	for (uint64_t i = 0; i < count; i++) {
		uint64_t offset = next_random(&seed) % GRID_CELLS * GRID_STRIDE + GRID_STRIDE / 2;
		uint64_t start = now_ns();

		map_range(fd, offset, PAGE, path);
		spent += now_ns() - start;
		unmap_range(fd, offset, PAGE, path);
	}
	close(fd);
	return spent;
}

static const struct {
	const char *name;
	uint64_t (*time)(const char *path, uint64_t count);
} operations[] = {
	{"stat", time_stat},
	{"fstat", time_fstat},
	{"open", time_open},
	{"create", time_create},
	{"map-unmap", time_map_unmap},
	{"create-map", time_create_map},
	{"map-in-gap", time_map_in_gap},
};

int main(int argc, char **argv)
{
	uint64_t (*operation)(const char *path, uint64_t count) = NULL;
	uint64_t rounds, count;

	for (size_t i = 0; argc == 6 && i < sizeof(operations) / sizeof(*operations); i++)
		if (strcmp(argv[1], operations[i].name) == 0)
			operation = operations[i].time;
	if (!operation) {
		fprintf(stderr, "usage: contend OPERATION ROUNDS COUNT OURS THEIRS\n");
		return 2;
	}
	rounds = number(argv[2]);
	count = number(argv[3]);
	/* One round unseen: caches fill, daemons wake up. */
	for (uint64_t round = 0; round <= rounds; round++) {
		double ours = (double)operation(argv[4], count) / (double)count;
		double theirs = (double)operation(argv[5], count) / (double)count;

		if (round > 0)
			printf("ours %.1f\ntheirs %.1f\n", ours, theirs);
	}
	return 0;
}
