/*
 * How long each control operation takes, one by one, for one client or for many at once.
 *
 * usage: latency DIRECTORY CLIENTS COUNT
 * prints: OPERATION P50 P99 a line, nanoseconds of all clients' operations together;
 *         OPERATION unsupported where the file system does not have it
 *
 * Each client makes names of its own: create, size, CREATE_MAPPING of 2 MiB, open and close
 * by name, stat by name, UNMAP, close, rename, unlink. COUNT times.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common.h"
#include "mapping.h"

enum { CREATE, SIZE, MAP, OPEN, STAT, UNMAP, CLOSE, RENAME, UNLINK, OPERATIONS };

static const char *const names[OPERATIONS] = {
	"create", "size", "map", "open", "stat", "unmap", "close", "rename", "unlink",
};

/* Nanoseconds by operation, client and turn; 0: the operation is not there. */
static uint64_t *samples;
static uint64_t clients, count;

static uint64_t *sample(int operation, uint64_t client, uint64_t turn)
{
	return &samples[((uint64_t)operation * clients + client) * count + turn];
}

static int unsupported(void)
{
	return errno == ENOTTY || errno == ENOSYS || errno == EOPNOTSUPP;
}

/* The time of what was begun at START; gives up on any failure but that it is not there. */
static void note(int failed, uint64_t start, int operation, uint64_t client, uint64_t turn)
{
	uint64_t end = now_ns();

	if (failed && !unsupported())
		die(names[operation], "by a client");
	*sample(operation, client, turn) = failed ? 0 : end - start;
}

#define TIMED(operation, call)                                                                     \
	do {                                                                                       \
		uint64_t start = now_ns();                                                         \
		note((call) != 0, start, operation, client, turn);                                 \
	} while (0)

static int open_and_close(const char *path)
{
	int fd = open(path, O_RDWR);

	return fd < 0 ? -1 : close(fd);
}

static void life(const char *directory, uint64_t client, uint64_t turn)
{
	struct mshare_create create = {
		.size = HUGE_PAGE,
		.prot = PROT_READ | PROT_WRITE,
		.flags = MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS,
		.fd = (uint32_t)-1,
	};
	struct mshare_unmap unmap = {.size = HUGE_PAGE};
	char path[4096], other[4096];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/life-%lu-%lu", directory, (unsigned long)client,
		 (unsigned long)turn);
	snprintf(other, sizeof(other), "%s/after-%lu-%lu", directory, (unsigned long)client,
		 (unsigned long)turn);
	TIMED(CREATE, (fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0600)) < 0);
	TIMED(SIZE, ftruncate(fd, HUGE_PAGE));
	TIMED(MAP, ioctl(fd, MSHAREFS_CREATE_MAPPING, &create));
	TIMED(OPEN, open_and_close(path));
	TIMED(STAT, stat(path, &st));
	TIMED(UNMAP, ioctl(fd, MSHAREFS_UNMAP, &unmap));
	TIMED(CLOSE, close(fd));
	TIMED(RENAME, rename(path, other));
	TIMED(UNLINK, unlink(*sample(RENAME, client, turn) ? other : path));
}

static void run_client(const char *directory, uint64_t client, int gate)
{
	char nothing;

	if (read(gate, &nothing, 1) != 0)
		die("read", "the gate");
	for (uint64_t turn = 0; turn < count; turn++)
		life(directory, client, turn);
	_exit(0);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void report(int operation)
{
	uint64_t *first = sample(operation, 0, 0), total = clients * count;

	qsort(first, total, sizeof(*first), compare);
	if (first[0] == 0)
		printf("%s unsupported\n", names[operation]);
	else
		printf("%s %lu %lu\n", names[operation], (unsigned long)first[total / 2],
		       (unsigned long)first[total * 99 / 100]);
}

int main(int argc, char **argv)
{
	int gate[2];

	if (argc != 4) {
		fprintf(stderr, "usage: latency DIRECTORY CLIENTS COUNT\n");
		return 2;
	}
	clients = number(argv[2]);
	count = number(argv[3]);
	samples = mmap(NULL, OPERATIONS * clients * count * sizeof(*samples),
		       PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (samples == MAP_FAILED || pipe(gate) != 0)
		die("mmap", "the samples");
	for (uint64_t client = 0; client < clients; client++) {
		pid_t child = fork();

		if (child < 0)
			die("fork", "a client");
		if (child == 0) {
			close(gate[1]);
			run_client(argv[1], client, gate[0]);
		}
	}
	close(gate[1]);
	for (uint64_t client = 0; client < clients; client++) {
		int status;

		if (wait(&status) < 0 || status != 0) {
			fprintf(stderr, "a client failed\n");
			return 1;
		}
	}
	for (int operation = 0; operation < OPERATIONS; operation++)
		report(operation);
	return 0;
}
