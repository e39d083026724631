// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* dns: how long queries to name servers take, by UDP to port 53, from the packet that leaves to the answer that comes in, by the code of the answer.
 *
 * Both are seen at the network device, so that a query goes with its answer whatever translation of addresses lies between the program and the
 * device. Only packets that a socket of this host sends are queries, loopback included; what is forwarded is not. An answer must come from
 * where the query went, go to where it came from, and have its id. A query that is sent again, or passes several devices, began the first time. An
 * answer that was cut short ends the query and does not count: the resolver asks again over TCP.
 *
 * After 5 seconds, when resolvers give up, a query counts as "timeout", with those 5 seconds. The oldest queries are looked at whenever one is sent. */
#include "kernel.bpf.h"
#include "histogram.bpf.h"

#include <bpf/bpf_endian.h>

/* The codes of answers, of which the first ones have the protocol's numbers, and what stands for the lack of an answer. */
enum dns_rcode {
	DNS_RCODE_NOERROR,
	DNS_RCODE_FORMERR,
	DNS_RCODE_SERVFAIL,
	DNS_RCODE_NXDOMAIN,
	DNS_RCODE_NOTIMP,
	DNS_RCODE_REFUSED,
	DNS_RCODE_OTHER,
	DNS_RCODE_TIMEOUT,
};

#define DNS_RCODES 8

#define DNS_PORT       53
#define DNS_TIMEOUT_NS 5000000000ULL
#define QUERIES	       8192 /* that can be under way at once */
#define EXPIRIES       8    /* at most, whenever a query is sent */

#define FLAG_RESPONSE  0x8000
#define FLAG_TRUNCATED 0x0200
#define RCODE_MASK     0x000f

#define FRAGMENT_OFFSET 0x1fff

struct dns_key {
	enum dns_rcode rcode;
};

HISTOGRAM_MAP(dns_latency, struct dns_key, DNS_RCODES);

struct query {
	__u64 network; /* address of the network namespace */
	__u8 local[16];
	__u8 server[16];
	__u32 protocol;
	__u16 port;
	__u16 id;
};

/* Key: the query. Value: when it was sent, ns. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, QUERIES);
	__type(key, struct query);
	__type(value, __u64);
} queries SEC(".maps");

struct sent_query {
	struct query query;
	__u64 sent_ns;
};

/* The queries in the order in which they were sent, those that have been answered too. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, QUERIES);
	__type(value, struct sent_query);
} sent_queries SEC(".maps");

/* Key: always 0. Value: how many queries are under way, so that other packets cost little while none is. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __s64);
} queries_under_way SEC(".maps");

struct ipv4_header {
	__u8 version_and_length;
	__u8 type_of_service;
	__u16 total_length;
	__u16 id;
	__u16 fragment;
	__u8 time_to_live;
	__u8 protocol;
	__u16 checksum;
	__u8 source[4];
	__u8 destination[4];
};

struct ipv6_header {
	__u32 version_and_flow;
	__u16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__u8 source[16];
	__u8 destination[16];
};

/* The headers of UDP and of DNS. */
struct message {
	__u16 source_port;
	__u16 destination_port;
	__u16 length; /* of both headers and all that follows */
	__u16 checksum;
	__u16 id;
	__u16 flags;
	__u16 counts[4];
};

struct packet {
	__u8 source[16];
	__u8 destination[16];
	struct message message;
};

/* Reads an IPv4 packet's headers. Whoever sent it may have written anything into them. */
static __always_inline bool parse_ipv4(const unsigned char *data, __u32 length, struct packet *packet)
{
	struct ipv4_header ip;
	__u32 size;

	if (length < sizeof(ip) || bpf_probe_read_kernel(&ip, sizeof(ip), data) || ip.protocol != IPPROTO_UDP)
		return false;
	size = (ip.version_and_length & 0xf) * 4;
	if (size < sizeof(ip) || length < size + sizeof(packet->message) || (ip.fragment & bpf_htons(FRAGMENT_OFFSET)))
		return false;
	__builtin_memcpy(packet->source, ip.source, sizeof(ip.source));
	__builtin_memcpy(packet->destination, ip.destination, sizeof(ip.destination));
	return !bpf_probe_read_kernel(&packet->message, sizeof(packet->message), data + size);
}

static __always_inline bool parse_ipv6(const unsigned char *data, __u32 length, struct packet *packet)
{
	struct ipv6_header ip;

	if (length < sizeof(ip) + sizeof(packet->message) || bpf_probe_read_kernel(&ip, sizeof(ip), data) || ip.next_header != IPPROTO_UDP)
		return false;
	__builtin_memcpy(packet->source, ip.source, sizeof(ip.source));
	__builtin_memcpy(packet->destination, ip.destination, sizeof(ip.destination));
	return !bpf_probe_read_kernel(&packet->message, sizeof(packet->message), data + sizeof(ip));
}

/* Reads the headers of a packet that begin at data. Only what lies in the packet's own buffer is read: headers always do. */
static __always_inline bool parse(struct sk_buff *skb, const unsigned char *data, struct packet *packet)
{
	__u32 length = BPF_CORE_READ(skb, len) - BPF_CORE_READ(skb, data_len) - (__u32)(data - BPF_CORE_READ(skb, data));
	__u16 protocol = BPF_CORE_READ(skb, protocol);
	bool parsed = false;

	if (protocol == bpf_htons(ETH_P_IP))
		parsed = parse_ipv4(data, length, packet);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		parsed = parse_ipv6(data, length, packet);
	return parsed && bpf_ntohs(packet->message.length) >= sizeof(packet->message);
}

static __always_inline __u64 network_of(struct sk_buff *skb)
{
	struct net_device *device = BPF_CORE_READ(skb, dev);

	return bpf_core_field_exists(device->nd_net) ? (__u64)BPF_CORE_READ(device, nd_net.net) : 0;
}

static __always_inline void count(enum dns_rcode rcode, __u64 ns)
{
	struct dns_key key = { .rcode = rcode };

	histogram_observe(&dns_latency, &key, NULL, ns);
}

/* Ends a query. Returns whether it was under way: of several that try to end it, one does. */
static __always_inline bool finish(const struct query *query)
{
	__u32 zero = 0;
	__s64 *under_way;

	if (bpf_map_delete_elem(&queries, query))
		return false;
	under_way = bpf_map_lookup_elem(&queries_under_way, &zero);
	if (under_way)
		__sync_fetch_and_add(under_way, -1);
	return true;
}

/* Returns whether a query of the queue has no answer yet. */
static __always_inline bool unanswered(const struct sent_query *sent)
{
	__u64 *sent_ns = bpf_map_lookup_elem(&queries, &sent->query);

	return sent_ns && *sent_ns == sent->sent_ns;
}

static __always_inline bool old(const struct sent_query *sent, __u64 now)
{
	return now >= sent->sent_ns + DNS_TIMEOUT_NS;
}

/* Takes the oldest queries from the queue: those that have an answer, and those that are old enough to count as timed out. */
static __always_inline void expire(__u64 now)
{
	struct sent_query oldest;
	int i;

	for (i = 0; i < EXPIRIES; i++) {
		if (bpf_map_peek_elem(&sent_queries, &oldest) || (!old(&oldest, now) && unanswered(&oldest)))
			return;
		/* Another CPU may have taken that one meanwhile. */
		if (bpf_map_pop_elem(&sent_queries, &oldest))
			return;
		if (!unanswered(&oldest))
			continue;
		if (!old(&oldest, now))
			bpf_map_push_elem(&sent_queries, &oldest, BPF_ANY);
		else if (finish(&oldest.query))
			count(DNS_RCODE_TIMEOUT, DNS_TIMEOUT_NS);
	}
}

/* Notes a query, unless it has been sent before. */
static __always_inline void begin(const struct query *query, __u64 now)
{
	struct sent_query sent = { .query = *query, .sent_ns = now };
	__u32 zero = 0;
	__s64 *under_way;
	int error; /* no long: before 6.4 the upper half is not part of what the kernel returns */

	error = bpf_map_update_elem(&queries, query, &now, BPF_NOEXIST);
	if (error) {
		if (error != -EEXIST)
			count_loss(in_flight_full);
		return;
	}
	under_way = bpf_map_lookup_elem(&queries_under_way, &zero);
	if (under_way)
		__sync_fetch_and_add(under_way, 1);
	/* What is not in the queue could stay for ever. */
	if (bpf_map_push_elem(&sent_queries, &sent, BPF_ANY) && finish(query))
		count_loss(in_flight_full);
}

static __always_inline int handle_sent(struct sk_buff *skb)
{
	const unsigned char *data = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	struct packet packet = {};
	struct query query = {};
	__u64 now;

	if (!parse(skb, data, &packet) || packet.message.destination_port != bpf_htons(DNS_PORT) || packet.message.flags & bpf_htons(FLAG_RESPONSE))
		return 0;
	now = bpf_ktime_get_ns();
	expire(now);
	query.network = network_of(skb);
	__builtin_memcpy(query.local, packet.source, sizeof(query.local));
	__builtin_memcpy(query.server, packet.destination, sizeof(query.server));
	query.protocol = BPF_CORE_READ(skb, protocol);
	query.port = packet.message.source_port;
	query.id = packet.message.id;
	begin(&query, now);
	return 0;
}

static __always_inline int handle_received(struct sk_buff *skb)
{
	struct packet packet = {};
	struct query query = {};
	__u64 now, *sent, began;
	__s64 *under_way;
	__u32 zero = 0;
	__u16 flags;

	under_way = bpf_map_lookup_elem(&queries_under_way, &zero);
	if (!under_way || !*under_way)
		return 0;
	if (!parse(skb, BPF_CORE_READ(skb, data), &packet) || packet.message.source_port != bpf_htons(DNS_PORT))
		return 0;
	flags = bpf_ntohs(packet.message.flags);
	if (!(flags & FLAG_RESPONSE))
		return 0;
	query.network = network_of(skb);
	__builtin_memcpy(query.local, packet.destination, sizeof(query.local));
	__builtin_memcpy(query.server, packet.source, sizeof(query.server));
	query.protocol = BPF_CORE_READ(skb, protocol);
	query.port = packet.message.destination_port;
	query.id = packet.message.id;
	sent = bpf_map_lookup_elem(&queries, &query);
	if (!sent)
		return 0;
	began = *sent;
	now = bpf_ktime_get_ns();
	if (!finish(&query) || flags & FLAG_TRUNCATED || !ascending(began, now))
		return 0;
	flags &= RCODE_MASK;
	count(flags < DNS_RCODE_OTHER ? flags : DNS_RCODE_OTHER, now - began);
	return 0;
}

/* Most packets are not of UDP, and what is forwarded belongs to no socket. */
SEC("tp_btf/net_dev_queue")
int BPF_PROG(net_dev_queue_tp_btf, struct sk_buff *skb)
{
	struct sock *sk = skb->sk;

	return sk && sk->sk_protocol == IPPROTO_UDP ? handle_sent(skb) : 0;
}

SEC("raw_tp/net_dev_queue")
int BPF_PROG(net_dev_queue_raw_tp, struct sk_buff *skb)
{
	struct sock *sk = BPF_CORE_READ(skb, sk);

	return sk && BPF_CORE_READ(sk, sk_protocol) == IPPROTO_UDP ? handle_sent(skb) : 0;
}

SEC("tp_btf/netif_receive_skb")
int BPF_PROG(netif_receive_skb_tp_btf, struct sk_buff *skb)
{
	return handle_received(skb);
}

SEC("raw_tp/netif_receive_skb")
int BPF_PROG(netif_receive_skb_raw_tp, struct sk_buff *skb)
{
	return handle_received(skb);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
