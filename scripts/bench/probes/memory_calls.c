/*
 * What programs that know nothing of mshare do with shared memory, a round each time they are told:
 * the bench starts one plainly and one under mshare run, and has them take turns.
 *
 * usage: memory_calls OPERATION COUNT SIZE
 *   anonymous   mmap and munmap of shared anonymous memory
 *   segment     shm_open, ftruncate, mmap, close, shm_unlink and munmap
 *   fork        fork, with 1,000 ranges mapped, and the child's end
 *   munmap      munmap of shared anonymous memory that was written to, with 400 more processes;
 *               mmap and writing are not timed
 * For each line on standard input it prints the nanoseconds of one operation.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

#define RANGES 1000
#define PROCESSES 400

static uint64_t size;

static void *map(int flags, int fd)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);

	if (at == MAP_FAILED)
		die("mmap", "shared memory");
	return at;
}

static void unmap(void *at)
{
	if (munmap(at, size) != 0)
		die("munmap", "shared memory");
}

static void nothing(void)
{
}

static uint64_t time_anonymous(uint64_t count)
{
	uint64_t start = now_ns();

	for (uint64_t i = 0; i < count; i++)
		unmap(map(MAP_ANONYMOUS, -1));
	return now_ns() - start;
}

static uint64_t time_segment(uint64_t count)
{
	char name[64];
	uint64_t start = now_ns();

	snprintf(name, sizeof(name), "/msharefs-bench-%d", (int)getpid());
	for (uint64_t i = 0; i < count; i++) {
		int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
		void *at;

		if (fd < 0)
			die("shm_open", name);
		if (ftruncate(fd, (off_t)size) != 0)
			die("ftruncate", name);
		at = map(0, fd);
		close(fd);
		if (shm_unlink(name) != 0)
			die("shm_unlink", name);
		unmap(at);
	}
	return now_ns() - start;
}

static void map_ranges(void)
{
	for (int i = 0; i < RANGES; i++)
		*(volatile char *)map(MAP_ANONYMOUS, -1) = 1;
}

static pid_t start_child(void)
{
	pid_t child = fork();

	if (child < 0)
		die("fork", "a process");
	return child;
}

static uint64_t time_fork(uint64_t count)
{
	uint64_t start = now_ns();

	for (uint64_t i = 0; i < count; i++) {
		pid_t child = start_child();

		if (child == 0)
			_exit(0);
		waitpid(child, NULL, 0);
	}
	return now_ns() - start;
}

static void start_processes(void)
{
	for (int i = 0; i < PROCESSES; i++)
		if (start_child() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			/* They hold what leads back to the bench no longer than this process does. */
			close(STDOUT_FILENO);
			close(STDERR_FILENO);
			pause();
		}
}

static uint64_t time_munmap(uint64_t count)
{
	uint64_t spent = 0;

	for (uint64_t i = 0; i < count; i++) {
		void *at = map(MAP_ANONYMOUS, -1);
		uint64_t start;

		memset(at, 1, size);
		start = now_ns();
		unmap(at);
		spent += now_ns() - start;
	}
	return spent;
}

static const struct {
	const char *name;
	void (*prepare)(void);
	uint64_t (*time)(uint64_t count);
} operations[] = {
	{"anonymous", nothing, time_anonymous},
	{"segment", nothing, time_segment},
	{"fork", map_ranges, time_fork},
	{"munmap", start_processes, time_munmap},
};

int main(int argc, char **argv)
{
	char line[16];
	size_t i = 0;

	while (i < sizeof(operations) / sizeof(*operations) &&
	       (argc != 4 || strcmp(argv[1], operations[i].name) != 0))
		i++;
	if (i == sizeof(operations) / sizeof(*operations)) {
		fprintf(stderr, "usage: memory_calls OPERATION COUNT SIZE\n");
		return 2;
	}
	size = number(argv[3]);
	operations[i].prepare();
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t count = number(argv[2]);

		printf("%.1f\n", (double)operations[i].time(count) / (double)count);
		fflush(stdout);
	}
	return 0;
}
