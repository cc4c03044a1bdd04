/*
 * Thousands of random calls on shared memory, by two processes that take turns, and what each of
 * them gave: results, errors, signals and a sum of all bytes that a window shows.  The same
 * seed makes the same calls, so that two runs of it can be compared line by line.
 *
 * Where a mount cannot keep the holes of its regions at every moment, windows are touched only
 * within their segments ("within"), else also beyond the ends ("beyond").
 *
 * usage: answers SEED STEPS NAME within|beyond      names of segments begin with NAME
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define FILES 5
#define WINDOWS 6
#define NAMES 4
#define SEGMENTS 2

static const char *prefix;
static key_t first_key;
static uint64_t dice;
static sigjmp_buf escape;

static struct {
	char *at;
	size_t size;
	int file;     /* to see its size by (O_PATH), or -1 */
	off_t offset;
	int grows;
	int id;       /* of System V, or -1 */
} windows[WINDOWS];
static int only_within;
static int files[FILES];
static int ids[SEGMENTS]; /* System V: the same in both processes */
static int exchange[2];   /* a socket to the other process */
static char line[400];
static size_t length;

static uint64_t roll(uint64_t sides)
{
	dice ^= dice << 13;
	dice ^= dice >> 7;
	dice ^= dice << 17;
	return dice % sides;
}

static void say(const char *form, ...)
{
	va_list rest;

	va_start(rest, form);
	length += (size_t)vsnprintf(line + length, sizeof(line) - length, form, rest);
	va_end(rest);
}

static void say_result(long result)
{
	if (result < 0)
		say(" %s", strerrorname_np(errno));
	else
		say(" %ld", result);
}

/* Small, large, whole pages and odd ones. */
static size_t some_size(void)
{
	switch (roll(6)) {
	case 0:
		return 0;
	case 1:
		return roll(3 * PAGE);
	case 2:
		return roll(64) * PAGE;
	case 3:
		return 64 * PAGE + roll(PAGE);
	case 4:
		return roll(1 << 20);
	default:
		return (1 + roll(512)) * PAGE;
	}
}

static char *name_of(uint64_t number)
{
	static char path[2][200];
	static int turn;

	turn = !turn;
	/* The last ones are in a directory. */
	snprintf(path[turn], sizeof(path[turn]), "/dev/shm/%s%s%d", prefix,
		 number >= NAMES / 2 ? "d/" : "-", (int)number);
	return path[turn];
}

static void on_fault(int signal)
{
	siglongjmp(escape, signal);
}

static uint64_t add_to_sum(uint64_t sum, uint64_t value)
{
	return (sum ^ value) * 1099511628211UL;
}

/* All bytes of a window, a page at a time, as a sum in which a page that is not there counts. */
static size_t missing; /* so many pages were not there at the last sum */

static uint64_t sum_of(const char *at, size_t size)
{
	static volatile size_t page;
	static volatile uint64_t sum;
	const uint64_t *words;
	size_t i;

	sum = 14695981039346656037UL;
	missing = 0;
	for (page = 0; page < size; page += PAGE) {
		int signal = sigsetjmp(escape, 1);

		if (signal) {
			sum = add_to_sum(sum, (uint64_t)signal);
			missing++;
			continue;
		}
		words = (const uint64_t *)(at + page);
		for (i = 0; i < PAGE / 8; i++)
			if (words[i])
				sum = add_to_sum(sum, words[i] + i);
		sum = add_to_sum(sum, page);
	}
	return sum;
}

static void store(char *at, size_t size)
{
	size_t offset = roll(size), count = 1 + roll(2 * PAGE);
	int value = 1 + (int)roll(255);
	int signal = sigsetjmp(escape, 1);

	if (signal) {
		say(" SIG%s", sigabbrev_np(signal));
		return;
	}
	if (offset + count > size)
		count = size - offset;
	memset(at + offset, value, count);
	say(" %zu at %zu", count, offset);
}

static void do_open(void)
{
	static const int ways[] = {
		O_RDWR | O_CREAT, O_RDWR | O_CREAT | O_EXCL, O_RDWR, O_RDONLY,
		O_RDWR | O_CREAT | O_TRUNC, O_RDWR | O_TRUNC, O_WRONLY, O_RDWR | O_APPEND | O_CREAT,
	};
	uint64_t slot = roll(FILES), number = roll(NAMES);
	int how = ways[roll(sizeof(ways) / sizeof(ways[0]))];
	char short_name[100];

	if (files[slot] >= 0)
		close(files[slot]);
	snprintf(short_name, sizeof(short_name), "/%s-%d", prefix, (int)number);
	if (number < NAMES / 2 && roll(2))
		files[slot] = shm_open(short_name, how, 0600);
	else if (!roll(8))
		files[slot] = open("/dev/shm", O_TMPFILE | O_RDWR, 0600);
	else
		files[slot] = open(name_of(number), how, 0600);
	say("open %d of %d as %x:%s", (int)slot, (int)number, how,
	    files[slot] < 0 ? strerrorname_np(errno) : "ok");
}

static void do_close(void)
{
	uint64_t slot = roll(FILES);

	say("close %d:", (int)slot);
	say_result(close(files[slot]));
	files[slot] = -1;
}

static void do_size(void)
{
	static const int modes[] = {
		0, 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, FALLOC_FL_PUNCH_HOLE,
		FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE,
	};
	uint64_t slot = roll(FILES), number = roll(NAMES);
	size_t offset = some_size(), size = some_size();
	int mode = modes[roll(sizeof(modes) / sizeof(modes[0]))];

	switch (roll(6)) {
	case 0:
	case 1:
	case 2:
		say("ftruncate %d to %zu:", (int)slot, size);
		say_result(ftruncate(files[slot], (off_t)size));
		break;
	case 3:
		say("truncate %d to %zu:", (int)number, size);
		say_result(truncate(name_of(number), (off_t)size));
		break;
	case 4:
		say("fallocate %d, %x, %zu, %zu:", (int)slot, mode, offset, size);
		say_result(fallocate(files[slot], mode, (off_t)offset, (off_t)size));
		break;
	default:
		say("posix_fallocate %d, %zu, %zu: %s", (int)slot, offset, size,
		    strerrorname_np(posix_fallocate(files[slot], (off_t)offset, (off_t)size)));
	}
}

static void forget(uint64_t number)
{
	if (windows[number].file >= 0)
		close(windows[number].file);
	windows[number].file = -1;
	windows[number].id = -1;
	windows[number].at = NULL;
}

static void keep(uint64_t number, char *at, size_t size)
{
	if (at == MAP_FAILED) {
		say(" %s", strerrorname_np(errno));
		return;
	}
	if (windows[number].at)
		munmap(windows[number].at, windows[number].size);
	forget(number);
	windows[number].at = at;
	windows[number].grows = 0;
	windows[number].size = (size + PAGE - 1) / PAGE * PAGE;
	say(" ok");
}

static void do_map(void)
{
	uint64_t slot = roll(FILES), number = roll(WINDOWS);
	size_t size = some_size();
	off_t offset = roll(2) ? 0 : (off_t)(roll(64) * PAGE + (roll(8) ? 0 : 100));
	int prot = roll(3) ? PROT_READ | PROT_WRITE : PROT_READ;
	int flags = roll(6) ? MAP_SHARED : MAP_PRIVATE;
	char *at, path[40];

	/* What the kernel leaves of a private page that was written to depends on how it is taken. */
	if (flags == MAP_PRIVATE)
		prot = PROT_READ;
	if (!roll(8))
		flags |= MAP_POPULATE;
	say("map %d in %d, %zu at %ld, %d, %x:", (int)slot, (int)number, size, (long)offset, prot,
	    flags);
	at = mmap(NULL, size, prot, flags, files[slot], offset);
	keep(number, at, size);
	if (at != MAP_FAILED && only_within) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", files[slot]);
		windows[number].file = open(path, O_PATH);
		windows[number].offset = offset;
	}
	windows[number].grows = at != MAP_FAILED;
}

static void do_map_nothing(void)
{
	uint64_t number = roll(WINDOWS);
	size_t size = some_size();
	int flags = MAP_SHARED | MAP_ANONYMOUS | (roll(3) ? 0 : MAP_NORESERVE);

	say("map nothing in %d, %zu, %x:", (int)number, size, flags);
	keep(number, mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0), size);
}

static void do_unmap(void)
{
	uint64_t number = roll(WINDOWS);
	size_t pages = windows[number].size / PAGE, kept;

	if (!windows[number].at)
		return;
	kept = roll(2) ? 0 : roll(pages + 1);
	say("unmap %d but for %zu pages:", (int)number, kept);
	if (kept < pages)
		say_result(munmap(windows[number].at + kept * PAGE, (pages - kept) * PAGE));
	windows[number].size = kept * PAGE;
	if (!kept)
		forget(number);
}

static void do_remap(void)
{
	uint64_t number = roll(WINDOWS);
	size_t size = (1 + roll(256)) * PAGE;
	char *at;

	if (!windows[number].at)
		return;
	/* Memory without a name does not grow here. */
	if (size > windows[number].size && !windows[number].grows)
		return;
	say("remap %d to %zu:", (int)number, size);
	at = mremap(windows[number].at, windows[number].size, size, MREMAP_MAYMOVE);
	if (at == MAP_FAILED) {
		say(" %s", strerrorname_np(errno));
		return;
	}
	windows[number].at = at;
	windows[number].size = size;
	say(" ok");
}

static void do_advise(void)
{
	uint64_t number = roll(WINDOWS);
	size_t pages = windows[number].size / PAGE, first;
	int advice = roll(2) ? MADV_REMOVE : MADV_DONTNEED;

	if (!windows[number].at)
		return;
	first = roll(pages);
	say("advise %d from page %zu on, %d:", (int)number, first, advice);
	say_result(madvise(windows[number].at + first * PAGE, (1 + roll(pages - first)) * PAGE,
			   advice));
}

/* How much of a window lies within its segment, as far as that matters. */
static size_t within(uint64_t number)
{
	struct stat status;
	off_t end;

	if (windows[number].file < 0 || fstat(windows[number].file, &status))
		return windows[number].size;
	end = status.st_size - windows[number].offset;
	return end < 0 ? 0 : (size_t)end < windows[number].size ? (size_t)end : windows[number].size;
}

static void do_touch(void)
{
	uint64_t number = roll(WINDOWS);
	size_t size;

	if (!windows[number].at)
		return;
	size = within(number);
	if (size && roll(2)) {
		say("store in %d:", (int)number);
		store(windows[number].at, size);
	} else {
		say("window %d: %016lx", (int)number,
		    sum_of(windows[number].at, size / PAGE * PAGE));
		say(", %zu pages missing", missing);
	}
}

static void fill(char *buffer, size_t size)
{
	memset(buffer, 1 + (int)roll(255), size);
}

static void do_write(void)
{
	static char buffer[200000];
	uint64_t slot = roll(FILES);
	size_t size = roll(3) ? roll(2 * PAGE) : roll(sizeof(buffer));
	off_t offset = (off_t)some_size();
	struct iovec parts[3] = {{buffer, size / 3}, {buffer + 1, size / 2}, {buffer + 7, size / 5}};

	fill(buffer, sizeof(buffer));
	switch (roll(4)) {
	case 0:
		say("write %d, %zu:", (int)slot, size);
		say_result(write(files[slot], buffer, size));
		break;
	case 1:
		say("writev %d, %zu:", (int)slot, size);
		say_result(writev(files[slot], parts, 3));
		break;
	case 2:
		say("pwritev %d, %zu at %ld:", (int)slot, size, (long)offset);
		say_result(pwritev(files[slot], parts, 3, offset));
		break;
	default:
		say("pwrite %d, %zu at %ld:", (int)slot, size, (long)offset);
		say_result(pwrite(files[slot], buffer, size, offset));
	}
}

static void do_read(void)
{
	static char buffer[204800];
	uint64_t slot = roll(FILES);
	size_t size = roll(3) ? roll(2 * PAGE) : roll(200000);
	off_t offset = (off_t)some_size();
	struct iovec parts[2] = {{buffer, size / 3}, {buffer + 100000, size / 2}};

	memset(buffer, 0, sizeof(buffer));
	switch (roll(4)) {
	case 0:
		say("read %d, %zu:", (int)slot, size);
		say_result(read(files[slot], buffer, size));
		break;
	case 1:
		say("readv %d, %zu:", (int)slot, size);
		say_result(readv(files[slot], parts, 2));
		break;
	case 2:
		say("preadv %d, %zu at %ld:", (int)slot, size, (long)offset);
		say_result(preadv(files[slot], parts, 2, offset));
		break;
	default:
		say("pread %d, %zu at %ld:", (int)slot, size, (long)offset);
		say_result(pread(files[slot], buffer, size, offset));
	}
	say(" %016lx", sum_of(buffer, sizeof(buffer)));
}

static void do_seek(void)
{
	static const int whences[] = {SEEK_SET, SEEK_CUR, SEEK_END};
	uint64_t slot = roll(FILES);
	off_t offset = (off_t)some_size() - (roll(3) ? 0 : 5000);
	int whence = whences[roll(3)];

	say("seek %d, %ld, %d:", (int)slot, (long)offset, whence);
	say_result(lseek(files[slot], offset, whence));
}

static void do_stat(void)
{
	uint64_t slot = roll(FILES);
	struct stat status;

	say("stat %d:", (int)slot);
	if (fstat(files[slot], &status))
		say_result(-1);
	else
		say(" %ld bytes, %ld names", (long)status.st_size, (long)status.st_nlink);
}

static void do_name(void)
{
	uint64_t number = roll(NAMES), other = roll(NAMES);

	switch (roll(4)) {
	case 0:
		say("rename %d to %d:", (int)number, (int)other);
		say_result(rename(name_of(number), name_of(other)));
		break;
	case 1:
		say("link %d as %d:", (int)number, (int)other);
		say_result(link(name_of(number), name_of(other)));
		break;
	default:
		say("unlink %d:", (int)number);
		say_result(unlink(name_of(number)));
	}
}

static void send_file(int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 'x';
	struct iovec part = {&byte, 1};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(head), &fd, sizeof(int));
	say_result(sendmsg(exchange[0], &message, MSG_DONTWAIT));
}

static int receive_file(void)
{
	char control[CMSG_SPACE(sizeof(int))] = {0}, byte;
	struct iovec part = {&byte, 1};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
		.msg_controllen = sizeof(control),
	};
	int fd = -1;

	if (recvmsg(exchange[0], &message, MSG_DONTWAIT) > 0 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	return fd;
}

static void do_pass(void)
{
	uint64_t slot = roll(FILES);
	char path[40];

	switch (roll(4)) {
	case 0:
		say("send %d:", (int)slot);
		send_file(files[slot]);
		return;
	case 1:
		if (files[slot] >= 0)
			close(files[slot]);
		files[slot] = receive_file();
		say("receive %d: %s", (int)slot, files[slot] < 0 ? "none" : "ok");
		return;
	default:
		snprintf(path, sizeof(path), "/proc/self/fd/%d", files[slot]);
		files[slot] = files[slot] < 0 ? -1 : open(path, roll(2) ? O_RDWR : O_RDONLY);
		say("open %d again: %s", (int)slot, files[slot] < 0 ? "no" : "ok");
	}
}

static void do_system_v(void)
{
	uint64_t which = roll(SEGMENTS), number = roll(WINDOWS);
	struct shmid_ds status;
	char *at;

	switch (roll(5)) {
	case 0:
		say("shmget %d:", (int)which);
		ids[which] = shmget(first_key + (key_t)which,
				    100 * PAGE + 5, 0600 | (roll(2) ? IPC_CREAT : 0));
		say(" %s", ids[which] < 0 ? strerrorname_np(errno) : "ok");
		break;
	case 1:
		say("shmat %d in %d:", (int)which, (int)number);
		at = shmat(ids[which], NULL, roll(4) ? 0 : SHM_RDONLY);
		keep(number, at == (void *)-1 ? MAP_FAILED : at, 100 * PAGE + 5);
		if (at != (void *)-1)
			windows[number].id = ids[which];
		break;
	case 2:
		if (!windows[number].at)
			return;
		say("shmdt %d:", (int)number);
		if (shmdt(windows[number].at))
			say_result(-1);
		else {
			forget(number);
			say(" ok");
		}
		break;
	case 3:
		say("shmctl %d:", (int)which);
		if (shmctl(ids[which], IPC_STAT, &status))
			say_result(-1);
		else
			say(" %zu, %ld", status.shm_segsz, (long)status.shm_nattch);
		break;
	default:
		say("shmrm %d:", (int)which);
		say_result(shmctl(ids[which], IPC_RMID, NULL));
	}
}

static unsigned long attached(int id)
{
	struct shmid_ds status;

	return id >= 0 && !shmctl(id, IPC_STAT, &status) ? status.shm_nattch : 0;
}

/* The child goes on in this process's place, with all that it had, as soon as nothing of this one
 * counts any more.  Who looks at it in /proc just then makes its memory live a little longer. */
static void do_fork(void)
{
	unsigned long counts[WINDOWS];
	pid_t before = getpid();
	int i, looks = 0;

	say("fork");
	for (i = 0; i < WINDOWS; i++)
		counts[i] = attached(windows[i].id);
	if (fork() > 0)
		_exit(0);
	while (getppid() == before)
		sched_yield();
	for (i = 0; i < WINDOWS; i++)
		while (attached(windows[i].id) > counts[i] && looks++ < 5000)
			usleep(1000);
}

static void step(void)
{
	static void (*const calls[])(void) = {
		do_open, do_open, do_close, do_size, do_size, do_size, do_map, do_map, do_map,
		do_map_nothing, do_unmap, do_remap, do_advise, do_touch, do_touch, do_touch, do_touch,
		do_write, do_read, do_read, do_seek, do_stat, do_name, do_pass, do_system_v,
		do_system_v,
	};

	length = 0;
	line[0] = 0;
	if (!roll(60))
		do_fork();
	else
		calls[roll(sizeof(calls) / sizeof(calls[0]))]();
}

/* A process that takes a turn for each number that it reads. */
static void work(int orders, int answers, const char *who)
{
	int i;

	for (i = 0; i < FILES; i++)
		files[i] = -1;
	for (i = 0; i < SEGMENTS; i++)
		ids[i] = -1;
	for (i = 0; i < WINDOWS; i++)
		windows[i].file = windows[i].id = -1;
	while (read(orders, &dice, sizeof(dice)) == (ssize_t)sizeof(dice)) {
		step();
		if (length)
			dprintf(STDOUT_FILENO, "%s %s\n", who, line);
		if (write(answers, "", 1) != 1)
			break;
	}
	_exit(0);
}

struct worker {
	int orders;
	int answers;
};

static struct worker start(int own, int other, const char *who)
{
	int down[2], up[2];

	if (pipe(down) || pipe(up))
		exit(9);
	if (!fork()) {
		close(down[1]);
		close(up[0]);
		exchange[0] = own;
		exchange[1] = other;
		work(down[0], up[1], who);
	}
	close(down[0]);
	close(up[1]);
	return (struct worker){down[1], up[0]};
}

static void clean(void)
{
	char path[200];
	int i;

	for (i = 0; i < NAMES; i++)
		unlink(name_of((uint64_t)i));
	snprintf(path, sizeof(path), "/dev/shm/%sd", prefix);
	rmdir(path);
	for (i = 0; i < SEGMENTS; i++) {
		int id = shmget(first_key + i, 0, 0);

		if (id >= 0)
			shmctl(id, IPC_RMID, NULL);
	}
}

int main(int count, char **words)
{
	struct worker workers[2];
	uint64_t state, order;
	char path[200], done;
	int pair[2];
	long i;

	if (count != 5)
		return 9;
	state = strtoull(words[1], NULL, 0) * 6364136223846793005UL + 1442695040888963407UL;
	only_within = !strcmp(words[4], "within");
	prefix = words[3];
	first_key = (key_t)(0x6d000000 + getpid() * SEGMENTS);
	signal(SIGBUS, on_fault);
	signal(SIGSEGV, on_fault);
	signal(SIGCHLD, SIG_IGN);
	clean();
	snprintf(path, sizeof(path), "/dev/shm/%sd", prefix);
	mkdir(path, 0700);
	socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
	workers[0] = start(pair[0], pair[1], "a");
	workers[1] = start(pair[1], pair[0], "b");
	close(pair[0]);
	close(pair[1]);
	for (i = 0; i < atol(words[2]); i++) {
		struct worker *worker;

		dice = state += 0x9e3779b97f4a7c15;
		roll(1);
		order = roll(UINT64_MAX) | 1;
		worker = &workers[roll(2)];
		if (write(worker->orders, &order, sizeof(order)) != (ssize_t)sizeof(order) ||
		    read(worker->answers, &done, 1) != 1) {
			printf("a process has died\n");
			break;
		}
	}
	close(workers[0].orders);
	close(workers[1].orders);
	clean();
	return 0;
}
