/*
 * Two processes hand a word in shared memory to each other, by reading and writing it.
 *
 * usage: pingpong ROUNDS COUNT FILE OTHER
 * prints: ours NS / theirs NS a line           nanoseconds for there and back
 */
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

/* The word counts up; each side waits for its turn, odd or even. */
static void play(atomic_ulong *word, uint64_t count, uint64_t first)
{
	for (uint64_t turn = first; turn < 2 * count; turn += 2) {
		while (atomic_load(word) != turn)
			;
		atomic_store(word, turn + 1);
	}
}

static double game(atomic_ulong *word, uint64_t count)
{
	uint64_t start;
	pid_t other;

	atomic_store(word, 0);
	other = fork();
	if (other < 0)
		die("fork", "the other player");
	if (other == 0) {
		play(word, count, 1);
		_exit(0);
	}
	/* The other has started when it has answered once. */
	play(word, 1, 0);
	while (atomic_load(word) != 2)
		;
	start = now_ns();
	play(word, count, 2);
	if (waitpid(other, NULL, 0) != other)
		die("waitpid", "the other player");
	return (double)(now_ns() - start) / (double)count;
}

int main(int argc, char **argv)
{
	atomic_ulong *side[2];

	if (argc != 5) {
		fprintf(stderr, "usage: pingpong ROUNDS COUNT FILE OTHER\n");
		return 2;
	}
	side[0] = (atomic_ulong *)attach(argv[3], PAGE);
	side[1] = (atomic_ulong *)attach(argv[4], PAGE);
	for (uint64_t round = 0; round < number(argv[1]); round++)
		for (int i = 0; i < 2; i++)
			printf("%s %.1f\n", i == 0 ? "ours" : "theirs", game(side[i], number(argv[2])));
	return 0;
}
