// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tcp_retransmit: how many segments TCP has sent again, by what they are: the SYN of a connect that nobody answers, the SYN and ACK of a listener, or
 * anything later. What could not be sent, such as for want of a route, is not in it. */
#include "kernel.bpf.h"
#include "counter.bpf.h"
#include "socket.bpf.h"

enum tcp_segment {
	TCP_SEGMENT_SYN,
	TCP_SEGMENT_SYN_ACK,
	TCP_SEGMENT_DATA,
};

struct tcp_retransmit_key {
	enum socket_family family;
	enum tcp_segment segment;
};

/* Set by the loader: whether tcp_retransmit_skb also reports what could not be sent, with the error as its third argument (since 6.17). */
const volatile bool failures_reported;

COUNTER_MAP(tcp_retransmits, struct tcp_retransmit_key, SOCKET_FAMILIES * 3);

static __always_inline int count(struct sock *sk, enum tcp_segment segment, __u64 segments)
{
	struct tcp_retransmit_key key = { .segment = segment };

	if (socket_family(BPF_CORE_READ(sk, __sk_common.skc_family), &key.family))
		counter_add(&tcp_retransmits, &key, NULL, segments);
	return 0;
}

/* A packet is as many segments as it will be cut into, by the kernel or by the device. */
static __always_inline int handle_segments(struct sock *sk, struct sk_buff *skb, int error)
{
	struct tcp_skb_cb *control = (void *)__builtin_preserve_access_index(&skb->cb);
	unsigned char state = BPF_CORE_READ(sk, __sk_common.skc_state);

	if (error)
		return 0;
	return count(sk, state == TCP_SYN_SENT ? TCP_SEGMENT_SYN : TCP_SEGMENT_DATA, BPF_CORE_READ(control, tcp_gso_segs));
}

SEC("tp_btf/tcp_retransmit_skb")
int tcp_retransmit_skb_tp_btf(__u64 *ctx)
{
	return handle_segments((struct sock *)ctx[0], (struct sk_buff *)ctx[1], failures_reported ? (int)ctx[2] : 0);
}

SEC("raw_tp/tcp_retransmit_skb")
int tcp_retransmit_skb_raw_tp(__u64 *ctx)
{
	return handle_segments((struct sock *)ctx[0], (struct sk_buff *)ctx[1], failures_reported ? (int)ctx[2] : 0);
}

SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_retransmit_synack_tp_btf, struct sock *sk)
{
	return count(sk, TCP_SEGMENT_SYN_ACK, 1);
}

SEC("raw_tp/tcp_retransmit_synack")
int BPF_PROG(tcp_retransmit_synack_raw_tp, struct sock *sk)
{
	return count(sk, TCP_SEGMENT_SYN_ACK, 1);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
