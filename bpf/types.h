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
	__u8 ttl;                /* or hop limit, of what leaves */
	__u8 is_ipv6;            /* what arrives */
	__u32 next_hop;          /* number in `next_hops` */
	__be16 pseudo_sum;       /* one's complement sum of the old addresses and the protocol number */
	__u8 is_to_ipv6;         /* what leaves */
	__u8 reserved2[17];
};
_Static_assert(sizeof(struct port_row) == 64, "a row is one cache line");

/*
 * In place of the addresses in the row, those of its sides that are IPv6. Same index as the row, and part of its entry;
 * apart from it, so that nobody pays for it who has IPv4 only.
 */
struct port_hosts6 {
	__be32 remote_host[4];
	__be32 local_host[4];
	__be32 from_host[4];
	__be32 to_host[4];
};
_Static_assert(sizeof(struct port_hosts6) == 64, "the addresses of a row are one cache line");

/*
 * What happened at a port, as far as every packet changes it. Same index as the row. The totals are never reset. The
 * rest is where the RTP statistics stand (protocol.md 11.1): the controller writes it while `sequence` of the row is
 * odd, so that counting goes on where it stopped, and reads it to go on itself. A program that was past the row by then
 * counts its packet after that, one on each CPU at most. A stream's packets reach one CPU at a time (its flow decides);
 * where they do not, totals are right, and a packet may count as lost or twice.
 */
struct port_counters {
	__u64 packets;       /* forwarded; counted last, so that who sees it sees the rest of the packet counted */
	__u64 jitter_sum;    /* of `jitter` after each measured packet */
	__u32 jitter_count;  /* packets measured */
	__u32 ssrc;          /* of the latest RTP packet, host order */
	__u64 last_seen_ns;  /* last packet; 0: none */
	__u64 arrived_ns;    /* jitter is measured from a packet that came then; 0: no packet of `ssrc` had a known clock */
	__u32 highest;       /* sequence number, extended beyond 16 bits, of the run */
	__u32 timestamp;     /* of the packet that came at arrived_ns */
	__u32 jitter;        /* RFC 3550 6.4.1, in 1/256 of a timestamp unit; of the newest SSRC that has any */
	__u32 jitter_max;
	__u32 longest_gap;   /* between two packets, in 1024 ns */
	__u8 is_running;     /* `ssrc` and `highest` mean something */
	__u8 is_jitter_new;  /* no packet of `ssrc` was measured yet; an SSRC that comes back starts anew too */
	__u8 reserved[2];
};
_Static_assert(sizeof(struct port_counters) == 64, "counters are one cache line");

/* Numbers ahead of or behind the highest that a packet may be and still belong to the run. */
#define MAX_JUMP 536
#define MISSING_WORDS 9
#define MISSING_BITS (64 * MISSING_WORDS)
_Static_assert(MISSING_BITS > MAX_JUMP, "all numbers that may still come have a bit");

/*
 * What only unusual packets change, and every stream about once a second. Same index as the row; totals are never
 * reset. `lowest` and what follows is part of where the statistics stand.
 */
struct port_events {
	__u32 window_since;        /* when the second began that the next two count in: units of 2^20 ns, modulo 2^32 */
	__u16 others_passed;       /* packets from other sources passed up */
	__u16 suspects;            /* packets that may be going round (account.h) */
	__u64 others_dropped;      /* packets from other sources */
	__u64 ssrc_changed_ns;     /* when the SSRC became what it is; 0: no RTP seen */
	__u64 sequence_set_ns;     /* when `sequence` was set */
	__u16 sequence;            /* a recent one of the SSRC, host order */
	__u16 reserved;
	__u32 lost;                /* sent and not received; goes down when a late packet comes */
	__u32 duplicates;
	__u32 parse_errors;        /* forwarded though they are not RTP */
	__u32 lowest;              /* number of the run, extended like `highest`; not over MISSING_BITS behind it when seeded */
	__u32 settled;             /* `missing` is true of the numbers up to here; those after it have all come */
	__u64 missing[MISSING_WORDS]; /* bit n % MISSING_BITS: number n of the run has not come */
};
_Static_assert(sizeof(struct port_events) == 128, "events are two cache lines");

/* An address of ours, network order; IPv4 as ::ffff:a.b.c.d. */
struct local_address {
	__be32 words[4];
};
_Static_assert(sizeof(struct local_address) == 16, "a hash key has no padding");

/*
 * Frames of this host: those that come by an interface with these VLAN tags, none of which is a reserved 0, and to this
 * MAC. An interface has an element of its own, in `untagged_links` if its number is small, and one in `links` for each
 * VLAN interface of the host that it carries; behind two tags also one without the outer tag, which a driver may take off.
 */
struct link_key {
	__u32 ifindex;
	__be16 tags[4]; /* protocol and VLAN id of each tag, outer first; 0: none */
};
_Static_assert(sizeof(struct link_key) == 12, "a hash key has no padding");

struct link {
	__u8 mac[6];
	__u8 reserved[2];
};
_Static_assert(sizeof(struct link) == 8, "read as one word");

/* A neighbour on an interface. Written by the controller as a whole, with `sequence` as in port_row. */
struct next_hop {
	__u32 sequence;
	__u32 ifindex;     /* of the interface, by which TC sends; 0: not usable now */
	__u32 xdp_ifindex; /* by which XDP sends: the same, or what carries it; 0: frames cannot be redirected there */
	__u32 mtu;         /* of the IP packet, bytes */
	__u8 to_mac[6];
	__u8 from_mac[6];
	__be16 tags[4];    /* protocol and VLAN id of the tags that XDP writes, outer first */
	__u32 tag_bytes;   /* of all tags in the frame: 0, 4 or 8 */
	__u8 reserved[24];
};
_Static_assert(sizeof(struct next_hop) == 64, "a next hop is one cache line");

/*
 * Packets that were not forwarded, by reason, for the whole process, one copy a CPU. Those named dropped_ were dropped,
 * all others went up to the kernel's stack. What was forwarded is the sum over `port_counters`. This is the only list
 * of reasons: names are never reused for something else, and new ones go last.
 */
struct verdicts {
	__u64 dropped_other_source; /* not the locked source, and enough of those went up this second */
	__u64 up_not_ip;            /* ARP, MPLS, ... */
	__u64 up_vlan;              /* tags of no VLAN interface of this host, or more than two; or an unknown interface */
	__u64 up_not_udp;
	__u64 up_not_ours;          /* UDP to an address or a port that no stream owns */
	__u64 up_fragment;
	__u64 up_ip_options;        /* IPv4 */
	__u64 up_malformed;         /* lengths that contradict each other, or a multicast MAC */
	__u64 up_no_entry;          /* ours, but still learning, or relayed by userspace */
	__u64 up_entry_changing;    /* the entry or its next hop changed while we looked */
	__u64 up_other_address;     /* to another address of ours than the phone used before */
	__u64 up_other_source;      /* not the locked source: userspace applies the latching rules */
	__u64 up_no_next_hop;       /* the neighbour is unknown, or its interface is down */
	__u64 up_too_long;          /* over the MTU of the way out: a socket can fragment */
	__u64 up_doubled;           /* short, and short packets are to be sent twice */
	__u64 up_extension_header;  /* IPv6 */
	__u64 up_other_mac;         /* to the MAC of another host, seen by a promiscuous interface */
	__u64 up_bad_checksum;      /* of the IPv4 header; that of UDP is the receiver's to judge */
	__u64 up_no_checksum;       /* none over IPv6, or none or an unfinished one, and too long to be summed here */
	__u64 up_no_headroom;       /* the driver left no room before the frame for a longer header */
	__u64 up_aggregated;        /* several packets put together on the way (GRO): the stack takes them apart */
	__u64 up_to_tc;             /* leaves by an interface that takes no redirected frames: TC's, on the same interface */
	__u64 dropped_going_round;  /* repeats, or packets without a number, so many that they must be in a loop */
	__u64 dropped_no_memory;    /* the kernel had none when the frame was rewritten in part */
};

/* Packets from other sources than the locked one that go up, per port and second. */
#ifndef OTHERS_PER_SECOND
#define OTHERS_PER_SECOND 8
#endif

/* Of RTP packets that repeat a number, and of packets without one or that start anew, so many go on a second and port. */
#ifndef REPEATS_PER_SECOND
#define REPEATS_PER_SECOND 200
#endif
#ifndef UNNUMBERED_PER_SECOND
#define UNNUMBERED_PER_SECOND 5000
#endif
