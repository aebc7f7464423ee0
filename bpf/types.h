/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the maps hold. This header is the only description of these layouts: the loader reads them back from the
 * compiled maps and hands them to the controller. Names ending in _ns are CLOCK_MONOTONIC nanoseconds; __be types
 * are network order; padding is spelled out and every size asserted.
 */
#pragma once
#include <linux/types.h>

/*
 * One row per media port of every port space, written by the controller, only read here. Two facts live in it:
 * `is_open` (the port belongs to a stream, so its packets are steered to the controller's socket), and the
 * forwarding entry, everything from `sequence` on. An entry changes as a whole: the writer makes `sequence` odd,
 * writes the members and makes it even again; a reader that saw it odd, or sees another value after copying, leaves
 * the packet to userspace.
 */
struct port_row {
	__u8 is_open;
	__u8 reserved[3];
	__u32 sequence;
	__u8 is_forwarding;      /* an entry is installed */
	__u8 is_any_source_port; /* asymmetric party: only the source host is locked */
	__u8 is_rtp;             /* remember SSRC and sequence number */
	__u8 tos;
	__be32 remote_host;      /* locked source */
	__be32 local_host;       /* our address it sends to */
	__be16 remote_port;      /* locked source port, unless is_any_source_port */
	__be16 from_port;        /* what leaves comes from here */
	__be32 from_host;
	__be32 to_host;          /* and goes there */
	__be16 to_port;
	__be16 udp_delta;        /* one's complement sum: all new words, less all old ones but the source port */
	__be16 ip_sum;           /* one's complement sum of the new IPv4 header, total length and id left out */
	__u8 ttl;
	__u8 reserved2;
	__u32 next_hop;          /* number in `next_hops` */
	__u8 reserved3[20];
};
_Static_assert(sizeof(struct port_row) == 64, "a row is one cache line");

/* What happened at a port; written here, only read by the controller, never reset. Same index as the row. */
struct port_counters {
	__u64 packets;             /* forwarded */
	__u64 bytes;               /* of UDP payload */
	__u64 last_seen_ns;        /* last packet forwarded */
	__u64 ssrc_changed_ns;     /* when `ssrc` became what it is; 0: no RTP seen */
	__u64 sequence_set_ns;     /* when `sequence` was set, at most once a second for one SSRC */
	__u32 ssrc;                /* host order */
	__u16 sequence;            /* host order */
	__u16 others_passed;       /* packets from other sources passed up since others_since_ns */
	__u64 others_since_ns;
	__u64 others_dropped;
};
_Static_assert(sizeof(struct port_counters) == 64, "counters are one cache line");

/* An address of ours, network order; IPv4 as ::ffff:a.b.c.d. */
struct local_address {
	__be32 words[4];
};
_Static_assert(sizeof(struct local_address) == 16, "a hash key has no padding");

/* A neighbour on an interface. Written by the controller as a whole, with `sequence` as in port_row. */
struct next_hop {
	__u32 sequence;
	__u32 ifindex; /* 0: not usable now */
	__u32 mtu;     /* of the IP packet, bytes */
	__u8 to_mac[6];
	__u8 from_mac[6];
	__u8 reserved[8];
};
_Static_assert(sizeof(struct next_hop) == 32, "two next hops are one cache line");

/*
 * Packets that were not forwarded, by reason, for the whole process, one copy a CPU. The first were dropped, all others
 * went up to the kernel's stack. What was forwarded is the sum over `port_counters`. Names are never reused for
 * something else, and new ones go last.
 */
struct verdicts {
	__u64 dropped_other_source; /* not the locked source, and enough of those went up this second */
	__u64 up_not_ipv4;          /* ARP, IPv6, ... */
	__u64 up_vlan;              /* an 802.1Q or 802.1ad tag in the frame */
	__u64 up_not_udp;
	__u64 up_not_ours;          /* UDP to an address or a port that no stream owns */
	__u64 up_fragment;
	__u64 up_ip_options;
	__u64 up_malformed;         /* lengths that contradict each other, or a multicast MAC */
	__u64 up_no_entry;          /* ours, but still learning, or relayed by userspace */
	__u64 up_entry_changing;    /* the entry or its next hop changed while we looked */
	__u64 up_other_address;     /* to another address of ours than the phone used before */
	__u64 up_other_source;      /* not the locked source: userspace applies the latching rules */
	__u64 up_no_next_hop;       /* the neighbour is unknown, or its interface cannot send frames */
	__u64 up_too_long;          /* over the MTU of the way out: a socket can fragment */
};

/* Packets from other sources than the locked one that go up, per port and second. */
#ifndef OTHERS_PER_SECOND
#define OTHERS_PER_SECOND 8
#endif
