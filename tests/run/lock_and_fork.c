/*
 * Processes that make segments in one thread and fork children in another, and are killed in the
 * middle of it, while their children live on.  After each of them a segment is made: how often that
 * worked is printed.
 *
 * usage: lock_and_fork ROUNDS
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (1UL << 20)

static int make_one(void)
{
	int fd = open("/dev/shm", O_TMPFILE | O_RDWR, 0600);
	char *at;

	if (fd < 0 || ftruncate(fd, SIZE))
		return 0;
	at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return 0;
	at[0] = 1;
	munmap(at, SIZE);
	close(fd);
	return 1;
}

static void *make_many(void *unused)
{
	while (make_one())
		;
	return unused;
}

static void work(void)
{
	pthread_t thread;
	int i;

	setpgid(0, 0);
	pthread_create(&thread, NULL, make_many, NULL);
	for (i = 0; i < 100; i++) {
		if (!fork()) {
			for (;;)
				pause();
		}
		usleep(700);
	}
	for (;;)
		pause();
}

int main(int count, char **words)
{
	int i, good = 0, rounds = count > 1 ? atoi(words[1]) : 1;

	for (i = 0; i < rounds; i++) {
		pid_t worker = fork();

		if (!worker)
			work();
		setpgid(worker, worker);
		usleep(20000 + (unsigned int)(rand() % 60000));
		kill(worker, SIGKILL);
		waitpid(worker, NULL, 0);
		good += make_one();
		kill(-worker, SIGKILL);
		while (waitpid(-worker, NULL, 0) > 0)
			;
	}
	printf("%d\n", good);
	return 0;
}
