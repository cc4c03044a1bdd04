/*
 * Many processes open and close a file at once, on two file systems in turns.
 *
 * usage: crowd ROUNDS CLIENTS COUNT OURS THEIRS     OURS and THEIRS are existing files
 * prints: ours N / theirs N a line                  opens a second of all clients together
 */
#include <sys/wait.h>

#include "common.h"

static void open_and_close(const char *path, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		int fd = open(path, O_RDWR);

		if (fd < 0)
			die("open", path);
		close(fd);
	}
}

/* All clients wait at a pipe; its end is the start. */
static double rate(const char *path, uint64_t clients, uint64_t count)
{
	uint64_t start;
	int gate[2];

	if (pipe(gate) != 0)
		die("pipe", path);
	for (uint64_t i = 0; i < clients; i++) {
		pid_t child = fork();

		if (child < 0)
			die("fork", "a client");
		if (child == 0) {
			char nothing;

			close(gate[1]);
			if (read(gate[0], &nothing, 1) != 0)
				die("read", "the gate");
			open_and_close(path, count);
			_exit(0);
		}
	}
	start = now_ns();
	close(gate[1]);
	for (uint64_t i = 0; i < clients; i++) {
		int status;

		if (wait(&status) < 0 || status != 0)
			die("wait", "a client");
	}
	close(gate[0]);
	return (double)(clients * count) * 1e9 / (double)(now_ns() - start);
}

int main(int argc, char **argv)
{
	uint64_t rounds, clients, count;

	if (argc != 6) {
		fprintf(stderr, "usage: crowd ROUNDS CLIENTS COUNT OURS THEIRS\n");
		return 2;
	}
	rounds = number(argv[1]);
	clients = number(argv[2]);
	count = number(argv[3]);
	/* One round unseen, as in contend. */
	for (uint64_t round = 0; round <= rounds; round++) {
		double ours = rate(argv[4], clients, count);
		double theirs = rate(argv[5], clients, count);

		if (round > 0)
			printf("ours %.1f\ntheirs %.1f\n", ours, theirs);
	}
	return 0;
}
