// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tcp_accept: how long a connection that is ready waits in the accept queue of its listener: from the packet that makes it a socket of its own, which
 * is the last one of the handshake, or with TCP_DEFER_ACCEPT the first one with data, or with TCP Fast Open the SYN, to accept(2), or whatever
 * else takes it from the queue. A connection that the peer has reset meanwhile is still taken, and counts; one that is freed because its
 * listener is closed does not. The family is that of the socket: an IPv6 socket may be connected to a mapped IPv4 address. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "socket.bpf.h"

struct tcp_accept_key {
	enum socket_family family;
};

HISTOGRAM_MAP(tcp_accept_latency, struct tcp_accept_key, SOCKET_FAMILIES);

struct waiting_connection {
	__u64 since_ns;
	__u64 family;
};

/* Key: address of the connection's socket. Value: since when it waits. As many entries as connections can wait for all listeners together. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct waiting_connection);
} waiting_connections SEC(".maps");

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

struct tcp_destroy_sock_record {
	__u64 common;
	__u64 socket;
};

/* The socket of a new connection begins as a copy of its listener. */
static __always_inline int handle_state(__u64 socket, __u16 protocol, __u16 family, int old_state, int new_state)
{
	struct waiting_connection connection = { .family = family };

	if (old_state != TCP_LISTEN || new_state != TCP_SYN_RECV || protocol != IPPROTO_TCP)
		return 0;
	connection.since_ns = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&waiting_connections, &socket, &connection, BPF_ANY))
		count_loss(in_flight_full);
	return 0;
}

static __always_inline int handle_destroy(__u64 socket)
{
	if (bpf_map_lookup_elem(&waiting_connections, &socket))
		bpf_map_delete_elem(&waiting_connections, &socket);
	return 0;
}

static __always_inline int handle_accept(__u64 socket)
{
	struct waiting_connection *found, connection;
	struct tcp_accept_key key = {};
	__u64 now = bpf_ktime_get_ns();

	found = bpf_map_lookup_elem(&waiting_connections, &socket);
	if (!found)
		return 0; /* Nothing was accepted, or it waited already when latpush was attached. */
	connection = *found;
	bpf_map_delete_elem(&waiting_connections, &socket);
	if (socket_family(connection.family, &key.family) && ascending(connection.since_ns, now))
		histogram_observe(&tcp_accept_latency, &key, NULL, now - connection.since_ns);
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

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroy_sock_tp_btf, __u64 socket)
{
	return handle_destroy(socket);
}

SEC("raw_tp/tcp_destroy_sock")
int BPF_PROG(tcp_destroy_sock_raw_tp, __u64 socket)
{
	return handle_destroy(socket);
}

SEC("tracepoint/tcp/tcp_destroy_sock")
int tcp_destroy_sock_tracepoint(struct tcp_destroy_sock_record *record)
{
	return handle_destroy(record->socket);
}

/* The socket that is returned follows the arguments, of which 6.10 made two out of four (92ef0fd55ac8). */
SEC("fexit/inet_csk_accept")
int inet_csk_accept_fexit(__u64 *ctx)
{
	__u64 socket;

	if (bpf_core_type_exists(struct proto_accept_arg))
		socket = context_place(ctx, 2);
	else
		socket = context_place(ctx, 4);
	return handle_accept(socket);
}

SEC("kretprobe/inet_csk_accept")
int BPF_KRETPROBE(inet_csk_accept_kretprobe, __u64 socket)
{
	return handle_accept(socket);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
