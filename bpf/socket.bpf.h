/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs on sockets share. */
#ifndef LATPUSH_SOCKET_BPF_H
#define LATPUSH_SOCKET_BPF_H

#include "kernel.bpf.h"

/* A label. */
enum socket_family {
	SOCKET_FAMILY_IPV4,
	SOCKET_FAMILY_IPV6,
};

#define SOCKET_FAMILIES 2

/* Returns whether a socket's family is one that is counted, and which. */
static __always_inline bool socket_family(__u16 family, enum socket_family *label)
{
	if (family != AF_INET && family != AF_INET6)
		return false;
	*label = family == AF_INET ? SOCKET_FAMILY_IPV4 : SOCKET_FAMILY_IPV6;
	return true;
}

#endif
