// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tcp_connect: how long an active TCP connect takes, from the first SYN to the SYN and ACK of the peer, or to the end of the attempt: a reset, a
 * time-out, or a close by the program. The family is that of the socket: an IPv6 socket may connect to a mapped IPv4 address. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "socket.bpf.h"

enum tcp_connect_result {
	TCP_CONNECT_RESULT_ESTABLISHED,
	TCP_CONNECT_RESULT_FAILED,
};

struct tcp_connect_key {
	enum socket_family family;
	enum tcp_connect_result result;
};

HISTOGRAM_MAP(tcp_connect_latency, struct tcp_connect_key, SOCKET_FAMILIES * 2);

/* Key: address of the socket. Value: when it sent its SYN, ns. As many entries as connects can be under way at once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} connecting SEC(".maps");

struct inet_sock_set_state_record {
	__u64 common;
	__u64 socket;
	__s32 old_state;
	__s32 new_state;
	__u16 source_port;
	__u16 destination_port;
	__u16 family;
	__u16 protocol;
};

static __always_inline int handle_end(__u64 socket, __u16 family, int state)
{
	struct tcp_connect_key key = {};
	__u64 now = bpf_ktime_get_ns(), *since, began;

	since = bpf_map_lookup_elem(&connecting, &socket);
	if (!since)
		return 0; /* It was under way already when latpush was attached. */
	began = *since;
	bpf_map_delete_elem(&connecting, &socket);
	if (!socket_family(family, &key.family) || !ascending(began, now))
		return 0;
	key.result = state == TCP_ESTABLISHED ? TCP_CONNECT_RESULT_ESTABLISHED : TCP_CONNECT_RESULT_FAILED;
	histogram_observe(&tcp_connect_latency, &key, NULL, now - began);
	return 0;
}

static __always_inline int handle_state(__u64 socket, __u16 protocol, __u16 family, int old_state, int new_state)
{
	__u64 now;

	if (protocol != IPPROTO_TCP)
		return 0;
	if (new_state == TCP_SYN_SENT) {
		now = bpf_ktime_get_ns();
		if (bpf_map_update_elem(&connecting, &socket, &now, BPF_ANY))
			count_loss(in_flight_full);
		return 0;
	}
	if (old_state == TCP_SYN_SENT && new_state != TCP_SYN_RECV)
		return handle_end(socket, family, new_state);
	/* Both ends have sent a SYN at the same time. */
	if (old_state == TCP_SYN_RECV)
		return handle_end(socket, family, new_state);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state_tp_btf, struct sock *sk, int old_state, int new_state)
{
	return handle_state((__u64)sk, sk->sk_protocol, sk->__sk_common.skc_family, old_state, new_state);
}

SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state_raw_tp, struct sock *sk, int old_state, int new_state)
{
	return handle_state((__u64)sk, BPF_CORE_READ(sk, sk_protocol), BPF_CORE_READ(sk, __sk_common.skc_family), old_state, new_state);
}

SEC("tracepoint/sock/inet_sock_set_state")
int inet_sock_set_state_tracepoint(struct inet_sock_set_state_record *record)
{
	return handle_state(record->socket, record->protocol, record->family, record->old_state, record->new_state);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
