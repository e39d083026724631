// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tcp_rtt: the smoothed round-trip time of TCP connections, as the kernel estimates it. A sample is taken when a packet comes, but at most one a
 * second of each connection, so that a busy one does not count for more than a quiet one that is alive. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"
#include "socket.bpf.h"

#define SAMPLE_INTERVAL_NS 1000000000ULL

struct tcp_rtt_key {
	enum socket_family family;
};

HISTOGRAM_MAP(tcp_rtt, struct tcp_rtt_key, SOCKET_FAMILIES);

struct connection {
	__u64 socket; /* its address, which comes back with another connection when it is freed */
	__u64 ports;
};

/* Key: the connection. Value: when its last sample was taken, ns. The least recently used entry makes room, which costs a sample too many. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct connection);
	__type(value, __u64);
} sampled SEC(".maps");

static __always_inline int handle_packet(struct sock *sk)
{
	struct tcp_rtt_key key = {};
	struct connection connection = { .socket = (__u64)sk };
	__u64 now = bpf_ktime_get_ns(), *last;
	__u32 smoothed;

	connection.ports = (__u64)BPF_CORE_READ(sk, __sk_common.skc_num) << 16 | BPF_CORE_READ(sk, __sk_common.skc_dport);
	last = bpf_map_lookup_elem(&sampled, &connection);
	if (last && now - *last < SAMPLE_INTERVAL_NS)
		return 0;
	smoothed = BPF_CORE_READ((struct tcp_sock *)sk, srtt_us) >> 3; /* the kernel keeps eight times the estimate */
	if (!smoothed || !socket_family(BPF_CORE_READ(sk, __sk_common.skc_family), &key.family))
		return 0;
	if (last)
		*last = now;
	else
		bpf_map_update_elem(&sampled, &connection, &now, BPF_ANY);
	histogram_observe(&tcp_rtt, &key, NULL, smoothed * 1000ULL);
	return 0;
}

SEC("tp_btf/tcp_probe")
int BPF_PROG(tcp_probe_tp_btf, struct sock *sk)
{
	return handle_packet(sk);
}

SEC("raw_tp/tcp_probe")
int BPF_PROG(tcp_probe_raw_tp, struct sock *sk)
{
	return handle_packet(sk);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
