/* SPDX-License-Identifier: MIT */
/*
 * collector.c - asks the run's collector to give back what nobody has.
 *
 * Who has what the collector is told by the kernel, and it comes by itself.  It is asked by who
 * needs memory now.  Where it is dead, or another user's, nobody waits for it.
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

/* What is asked, one byte (collecting.py). */
#define COLLECT 'c'
#define HOLD 'h'

/* How long a program waits at most for a collector that does not answer. */
#define PATIENCE_SECONDS 2

static socklen_t name_collector(struct sockaddr_un *name)
{
	size_t length = strlen(settings()->collector);

	memset(name, 0, sizeof(*name));
	name->sun_family = AF_UNIX;
	memcpy(name->sun_path, settings()->collector, length);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
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

static void ask(int fd)
{
	struct timeval patience = {PATIENCE_SECONDS, 0};
	sa_family_t family = AF_UNIX;
	char question = COLLECT;
	struct sockaddr_un name;
	socklen_t length = name_collector(&name);

	/* An address without a name makes the kernel choose one, so that there is an address to
	 * reply to. */
	if (syscall(SYS_bind, fd, &family, sizeof(family)) ||
	    syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)))
		return;
	if (syscall(SYS_sendto, fd, &question, sizeof(question), MSG_NOSIGNAL, &name, length) < 0)
		return;
	await_reply(fd);
}

void ask_to_collect(void)
{
	int before = errno;
	long fd;

	if (!settings()->collector)
		return;
	fd = syscall(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0) {
		ask((int)fd);
		call_close((int)fd);
	}
	errno = before;
}

static long send_file(int fd, int file)
{
	struct timeval patience = {PATIENCE_SECONDS, 0};
	char question = HOLD, control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec part = {&question, sizeof(question)};
	struct sockaddr_un name;
	struct msghdr message = {
		.msg_name = &name,
		.msg_namelen = name_collector(&name),
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(head), &file, sizeof(int));
	syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	return syscall(SYS_sendmsg, fd, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int ask_to_hold(int file)
{
	int before = errno;
	long fd, failed;

	if (!settings()->collector)
		return -EPERM;
	fd = syscall(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	failed = fd < 0 ? -errno : send_file((int)fd, file);
	if (fd >= 0)
		call_close((int)fd);
	errno = before;
	return (int)failed;
}
