/* SPDX-License-Identifier: MIT */
/*
 * linux/msharefs.h - the name under which the kernel's mshare would have its header,
 * so that a program written for it is compiled as it is.  All is in msharefs.h.
 *
 * The guards are those that the kernel's own header has, before and after it is
 * installed: where there is one, it is not read after this one.
 */
#ifndef _UAPI_LINUX_MSHAREFS_H
#define _UAPI_LINUX_MSHAREFS_H
#define _LINUX_MSHAREFS_H

#include "../msharefs.h"

#endif /* _UAPI_LINUX_MSHAREFS_H */
