/* The memory of a region itself, on a mount with data=direct: the protocol of docs/design/direct.md. */
#ifndef BENCH_PROBES_DIRECT_H
#define BENCH_PROBES_DIRECT_H

#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <msharefs.h>

#include "common.h"

static inline int connect_abstract(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = strlen(name);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	/* The first byte stays 0: the name is no file. */
	memcpy(address.sun_path + 1, name, length);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) != 0)
		die("connect", name);
	return fd;
}

/* The descriptor of the memory of an open region, which has to stay open itself. */
static inline int direct_descriptor(int region, const char *path)
{
	struct mshare_attach answer;
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	int32_t error = 0;
	struct iovec place = {.iov_base = &error, .iov_len = sizeof(error)};
	struct msghdr message = {.msg_iov = &place,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	int fd, memory;

	if (ioctl(region, MSHAREFS_ATTACH, &answer) != 0)
		die("MSHAREFS_ATTACH", path);
	fd = connect_abstract(answer.address);
	if (send(fd, answer.token, sizeof(answer.token), 0) != sizeof(answer.token))
		die("send", "the token");
	if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) != sizeof(error))
		die("recvmsg", "the memory");
	close(fd);
	errno = error;
	if (error || !CMSG_FIRSTHDR(&message))
		die("attach directly", path);
	memcpy(&memory, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(memory));
	return memory;
}

#endif
