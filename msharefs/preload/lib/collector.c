/* SPDX-License-Identifier: MIT */
/*
 * collector.c - tells mshare run that something has changed.
 *
 * Only mshare run gives ranges back, because only one process can decide that nobody has a
 * range attached any more without another deciding otherwise at the same moment.  A
 * message that is lost costs time, not correctness: mshare run looks by itself now and then.
 *
 * A datagram to an abstract socket needs no file and no descriptor kept open.
 */
#include "preload.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* How long a program waits at most for a collector that does not answer. */
#define PATIENCE_SECONDS 2

struct message {
	uint64_t what;
	uint64_t offset;
};

static socklen_t name_collector(struct sockaddr_un *name)
{
	const char *text = settings()->collector;
	size_t length = strlen(text);

	memset(name, 0, sizeof(*name));
	name->sun_family = AF_UNIX;
	memcpy(name->sun_path + 1, text, length);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

static void await_reply(int fd)
{
	struct timespec now, deadline;
	char reply;

	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += PATIENCE_SECONDS;
	/* A call with a time limit is interrupted by every signal, SA_RESTART or not. */
	do {
		if (syscall(SYS_recvfrom, fd, &reply, sizeof(reply), 0, NULL, NULL) >= 0 ||
		    errno != EINTR)
			return;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < deadline.tv_sec);
}

static void send_message(int fd, enum tell what, uint64_t offset)
{
	bool wait = what == TELL_GONE || what == TELL_COLLECT;
	struct message message = {(uint64_t)what, offset};
	struct timeval patience = {PATIENCE_SECONDS, 0};
	sa_family_t family = AF_UNIX;
	struct sockaddr_un name;
	socklen_t length = name_collector(&name);

	if (wait) {
		/* An address without a name makes the kernel choose one, so that there is an
		 * address to reply to. */
		if (syscall(SYS_bind, fd, &family, sizeof(family)) ||
		    syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
		    syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)))
			return;
	}
	if (syscall(SYS_sendto, fd, &message, sizeof(message),
		    MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT), &name, length) < 0)
		return;
	if (wait)
		await_reply(fd);
}

void tell_collector(enum tell what, uint64_t offset)
{
	int before = errno;
	long fd;

	if (!settings()->collector)
		return;
	fd = syscall(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0) {
		send_message((int)fd, what, offset);
		call_close((int)fd);
	}
	errno = before;
}
