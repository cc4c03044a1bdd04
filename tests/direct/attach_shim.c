/* The functions of msharefs_attach.h as a library, so that tests can call them. */

#include <msharefs_attach.h>

void *attach(int fd, size_t size, int prot)
{
	return msharefs_attach(fd, size, prot);
}

int claim(int fd)
{
	return msharefs_claim(fd);
}

int attached(const void *address)
{
	return msharefs_attached(address);
}

int detach(void *address)
{
	return msharefs_detach(address);
}
