/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The list of verdicts, and what the row of a port says of a datagram. Pure: only results are written. */
#pragma once
#include "parse.h"
#include "types.h"

/*
 * Frames that were not forwarded, by reason, for the whole relay, one copy for each CPU. Those named dropped_ were
 * dropped, all others went to the kernel's stack, and from there to userspace if they were ours. Forwarded packets are
 * the sum over `port_counters`. This is the only list of reasons: names are never reused, and new ones go last; a
 * new dropped_ goes into verdict_is_dropped(), too.
 */
struct verdicts {
	__u64 dropped_other_source; /* not from the locked source, and over the limit of those for this second */
	__u64 up_not_ip;            /* ARP, MPLS, ... */
	__u64 up_vlan;              /* tags of no VLAN interface of this host, or over two tags; or an unknown interface */
	__u64 up_not_udp;
	__u64 up_not_ours;          /* UDP to an address or a port that no stream owns */
	__u64 up_fragment;
	__u64 up_ip_options;        /* IPv4 */
	__u64 up_malformed;         /* lengths that contradict each other, or a multicast MAC */
	__u64 up_no_entry;          /* ours, but still learning, or relayed by userspace */
	__u64 up_entry_changing;    /* the entry or its next hop changed while it was read */
	__u64 up_other_address;     /* sent to another of our addresses than before */
	__u64 up_other_source;      /* not from the locked source: userspace applies the latching rules */
	__u64 up_no_next_hop;       /* the neighbour is unknown, or its interface is down */
	__u64 up_too_long;          /* over the MTU of the egress interface: a socket can fragment */
	__u64 up_doubled;           /* short, and short packets must be sent twice */
	__u64 up_extension_header;  /* IPv6 */
	__u64 up_other_mac;         /* sent to the MAC of another host, seen by a promiscuous interface */
	__u64 up_bad_checksum;      /* of the IPv4 header; that of UDP is checked by the receiver */
	__u64 up_no_checksum;       /* none over IPv6; or none or an unfinished one, and too long to be summed here */
	__u64 up_no_headroom;       /* the driver left no room before the frame for a longer header */
	__u64 up_aggregated;        /* several packets joined on reception (GRO): the stack takes them apart */
	__u64 up_to_tc;             /* leaves by an interface that takes no redirected frames: left to TC */
	__u64 dropped_going_round;  /* repeated packets, or packets without a number, so many that they must be in a loop */
	__u64 dropped_no_memory;    /* the kernel had no memory when the frame was already rewritten in part */
	__u64 dropped_not_sent;     /* redirected by XDP, and not sent by the driver: counted after that, from tracepoints */
	__u64 up_other_interface;   /* not by that of the route back to its source, where rp_filter is strict */
	__u64 dropped_learning;     /* to a port that is locked to no source yet, and over its limit for this second */
	__u64 dropped_known_source; /* from the known source, not forwarded, and over the limit of its port for this second */
	__u64 dropped_host_limit;   /* over this second's limit of its kind for the whole host */
	__u64 dropped_fragment;     /* not the first of its packet, and over the limit of its source for this second */
	__u64 dropped_rtcp_rate;    /* more RTCP than a stream may have each second */
	__u64 up_hidden;            /* of a payload type that is not relayed: userspace shows it to witnesses, and drops it */
};

/* The number of a counter in `struct verdicts`, by its name. */
#define VERDICT(name) (__builtin_offsetof(struct verdicts, name) / sizeof(__u64))
/* The one verdict without a counter there. */
#define FORWARD (sizeof(struct verdicts) / sizeof(__u64))

/* Does the verdict drop the frame? All others leave it to the stack. */
static __always_inline bool verdict_is_dropped(__u32 verdict)
{
	return verdict == VERDICT(dropped_other_source) || verdict == VERDICT(dropped_going_round) ||
	       verdict == VERDICT(dropped_no_memory) || verdict == VERDICT(dropped_not_sent) ||
	       verdict == VERDICT(dropped_learning) || verdict == VERDICT(dropped_known_source) ||
	       verdict == VERDICT(dropped_host_limit) || verdict == VERDICT(dropped_fragment) ||
	       verdict == VERDICT(dropped_rtcp_rate);
}

/* An IPv6 address as two words, for copying. */
struct address6 {
	__u64 head;
	__u64 tail;
};

/* A forwarding entry, copied out of its row as a whole. Each side has addresses of one family. */
struct entry {
	struct port_row row __attribute__((aligned(8)));
	struct address6 remote_host6;
	struct address6 local_host6;
	struct address6 from_host6;
	struct address6 to_host6;
};

#define READ_ONCE(x) (*(volatile __typeof__(x) *)&(x))
/* The compiler must not move a load across; x86 does not reorder loads with loads. */
#define compiler_barrier() asm volatile("" ::: "memory")

enum entry_result { ENTRY_OK, ENTRY_NONE, ENTRY_CHANGING };

/* Copy `bytes` that another CPU may be writing, eight at a time: members are many, and most are short. */
static __always_inline void verdict_copy(void *to, const void *from, __u32 bytes)
{
	for (__u32 at = 0; at < bytes; at += sizeof(__u64))
		*(__u64 *)(to + at) = READ_ONCE(*(__u64 *)(from + at));
}

/*
 * Copy the entry; ENTRY_CHANGING when the controller wrote to it meanwhile. `hosts6` may be NULL if the row did
 * not need it before.
 */
static __always_inline enum entry_result verdict_read_entry(struct port_row *row, struct port_hosts6 *hosts6,
							    struct entry *e)
{
	__u32 sequence = READ_ONCE(row->sequence);

	compiler_barrier();
	if (sequence & 1)
		return ENTRY_CHANGING;
	verdict_copy(&e->row.is_forwarding, &row->is_forwarding, sizeof(*row) - ENTRY_AT);
	if (!e->row.is_forwarding)
		return ENTRY_NONE;
	if (e->row.is_ipv6 || e->row.is_to_ipv6) {
		if (!hosts6)
			return ENTRY_CHANGING;
		verdict_copy(&e->remote_host6, hosts6, sizeof(*hosts6));
	} else {
		/* Never used. But before Linux 6.3 the verifier refuses what might read them unwritten, and does not know that. */
		__builtin_memset(&e->remote_host6, 0, sizeof(*hosts6));
	}
	compiler_barrier();
	return READ_ONCE(row->sequence) == sequence ? ENTRY_OK : ENTRY_CHANGING;
}

static __always_inline bool verdict_is_same(const struct in6_addr *there, const struct address6 *address)
{
	const __u32 *words = there->s6_addr32;

	return ((__u64)words[1] << 32 | words[0]) == address->head && ((__u64)words[3] << 32 | words[2]) == address->tail;
}

/* Does the datagram come from the source that the stream is locked to? */
static __always_inline bool verdict_is_locked_source(const struct entry *e, const struct datagram *d)
{
	if (d->udp->source != e->row.remote_port && !e->row.is_any_source_port)
		return false;
	if (d->is_ipv6)
		return e->row.is_ipv6 && verdict_is_same(&d->ipv6->saddr, &e->remote_host6);
	return !e->row.is_ipv6 && d->ip->saddr == e->row.remote_host;
}

/* Is the RTP packet of a payload type that the row names? */
static __always_inline bool verdict_is_of_type(const struct rtp_mark *mark, __u8 type)
{
	return type == (TYPE_GIVEN | mark->payload_type);
}

/* Is it sent to the local address of the entry? */
static __always_inline bool verdict_is_local_host(const struct entry *e, const struct datagram *d)
{
	if (d->is_ipv6)
		return e->row.is_ipv6 && verdict_is_same(&d->ipv6->daddr, &e->local_host6);
	return !e->row.is_ipv6 && d->ip->daddr == e->row.local_host;
}

/* Copy a next hop as a whole; ENTRY_NONE when it is not usable. */
static __always_inline enum entry_result verdict_read_next_hop(struct next_hop *hop, struct next_hop *out)
{
	__u32 sequence = READ_ONCE(hop->sequence);

	compiler_barrier();
	if (sequence & 1)
		return ENTRY_CHANGING;
	verdict_copy(out, hop, __builtin_offsetof(struct next_hop, reserved));
	compiler_barrier();
	if (READ_ONCE(hop->sequence) != sequence)
		return ENTRY_CHANGING;
	return out->ifindex ? ENTRY_OK : ENTRY_NONE;
}

static __always_inline bool verdict_is_to_mac(const struct ethhdr *eth, const __u8 *mac)
{
	return *(__u32 *)&eth->h_dest[0] == *(__u32 *)&mac[0] && *(__u16 *)&eth->h_dest[4] == *(__u16 *)&mac[4];
}

/* Did the frame come without tags, by the interface of the route back to the locked source, and to its MAC? Most do. */
static __always_inline bool verdict_is_by_route_back(const struct entry *e, const struct datagram *d, __u32 ifindex)
{
	return !d->tags[0] && ifindex == e->row.ingress_ifindex && verdict_is_to_mac(d->eth, e->row.ingress_mac);
}

/* Must the packet come by another interface? rp_filter is of IPv4 only. */
static __always_inline bool verdict_is_off_route(const struct entry *e, const struct link *link)
{
	return link->is_strict && !e->row.is_ipv6 && link->ifindex != e->row.ingress_ifindex;
}

/* The verdict on a frame that is not a datagram we could forward. */
static __always_inline __u32 verdict_of_unparsed(enum parse_result why)
{
	switch (why) {
	case PARSE_NOT_IP:
		return VERDICT(up_not_ip);
	case PARSE_VLAN:
		return VERDICT(up_vlan);
	case PARSE_NOT_UDP:
		return VERDICT(up_not_udp);
	case PARSE_FRAGMENT:
		return VERDICT(up_fragment);
	case PARSE_IP_OPTIONS:
		return VERDICT(up_ip_options);
	case PARSE_EXTENSION_HEADER:
		return VERDICT(up_extension_header);
	default:
		return VERDICT(up_malformed);
	}
}
