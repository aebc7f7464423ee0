/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the maps hold, but for the verdicts (verdict.h). These two headers are the only description of these layouts:
 * the loader reads them back from the compiled maps and hands them to the controller. Names ending in _ns are CLOCK_MONOTONIC nanoseconds; __be types
 * are network order; padding is spelled out and every size asserted.
 */
#pragma once
#include <linux/types.h>

/*
 * Limits, most of which userspace keeps as well. Their numbers are in Python only, and come by the compiler's command
 * line: LIMITS in rtpproxy/offload/programs.py.
 */
#if !defined(MAX_JUMP) || !defined(REPEATS_PER_SECOND) || !defined(UNNUMBERED_PER_SECOND) || !defined(RTCP_PER_SECOND)
#error "MAX_JUMP, REPEATS_PER_SECOND, UNNUMBERED_PER_SECOND and RTCP_PER_SECOND must be given"
#endif
#if !defined(OTHERS_PER_SECOND) || !defined(LEARNING_PER_SECOND) || !defined(ODD_PER_SECOND) || !defined(MOVED_DISTANCE)
#error "OTHERS_PER_SECOND, LEARNING_PER_SECOND, ODD_PER_SECOND and MOVED_DISTANCE must be given"
#endif
#if !defined(HOST_OTHERS_PER_SECOND) || !defined(HOST_LEARNING_PER_SECOND) || !defined(HOST_KNOWN_PER_SECOND)
#error "HOST_OTHERS_PER_SECOND, HOST_LEARNING_PER_SECOND and HOST_KNOWN_PER_SECOND must be given"
#endif
#if !defined(FRAGMENTS_PER_SECOND) || !defined(SOURCE_LEARNING_PER_SECOND)
#error "FRAGMENTS_PER_SECOND and SOURCE_LEARNING_PER_SECOND must be given"
#endif
#if !defined(EXPECTED_PER_SECOND) || !defined(HOST_EXPECTED_PER_SECOND)
#error "EXPECTED_PER_SECOND and HOST_EXPECTED_PER_SECOND must be given"
#endif

/* Bit of a payload type in a row, which tells 0 from none. */
#ifndef TYPE_GIVEN
#error "TYPE_GIVEN must be given"
#endif

/*
 * One row per media port of every port space, written by the controller, only read here. It holds two things:
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
	__u8 is_any_source_port; /* asymmetric leg: only the source host is locked */
	__u8 is_rtp;             /* remember SSRC and sequence number */
	__u8 is_ipv6;            /* of the packet that arrives */
	__u8 is_to_ipv6;         /* of the packet that leaves */
	__u8 tos;
	__u8 ttl;                /* or hop limit, of the packet that leaves */
	__u8 reserved2;
	__be32 remote_host;      /* locked source */
	__be32 local_host;       /* our address that it sends to */
	__be32 from_host;
	__be32 to_host;          /* destination of the packet that leaves */
	__be16 from_port;        /* source port of the packet that leaves */
	__be16 to_port;
	__be16 remote_port;      /* locked source port, unless is_any_source_port */
	__be16 udp_delta;        /* one's complement sum: all new words, less all old ones but the source port */
	__be16 ip_sum;           /* one's complement sum of the new IPv4 header, total length and id left out */
	__be16 pseudo_sum;       /* one's complement sum of the old addresses and the protocol number */
	__u32 next_hop;          /* number in `next_hops` */
	__u32 ingress_ifindex;   /* interface of the route back to the locked source; 0: none is known */
	__u8 ingress_mac[6];     /* its MAC: most frames come by it, untagged, and so need no other look-up */
	__u8 tee_type;           /* TYPE_GIVEN and the payload type of the only packets that are written; 0: all are */
	__u8 hidden_type;        /* TYPE_GIVEN and the payload type of packets that are not forwarded; 0: none */
	__u32 tee;               /* number in the records of what arrives here, which is also written into the ring; 0: it is not */
};
_Static_assert(sizeof(struct port_row) == 64, "a row is one cache line");
/* What is copied of a row, eight bytes at a time. */
#define ENTRY_AT __builtin_offsetof(struct port_row, is_forwarding)
_Static_assert(ENTRY_AT == 8, "an entry begins at a word");

/*
 * The IPv6 addresses of an entry, in place of those in the row. Same index as the row, and part of its entry; separate,
 * so that hosts with IPv4 only do not pay for it.
 */
struct port_hosts6 {
	__be32 remote_host[4];
	__be32 local_host[4];
	__be32 from_host[4];
	__be32 to_host[4];
};
_Static_assert(sizeof(struct port_hosts6) == 64, "the addresses of a row are one cache line");

/*
 * Counters of a port that every packet changes. Same index as the row. Totals are never reset. The rest is the state
 * of the RTP statistics (protocol.md 11.1): the controller writes it while `sequence` of the row is odd, so that the
 * kernel goes on where userspace stopped, and reads it when userspace goes on. A program that had read the row before
 * counts its packet after that, at most one on each CPU. The packets of a stream reach one CPU at a time (its flow
 * decides); where they do not, totals are right, but a packet may count as lost or twice.
 */
struct port_counters {
	__u64 packets;       /* forwarded; counted last: the other members have every packet that is counted here */
	__u64 jitter_sum;    /* of `jitter` after each measured packet */
	__u32 jitter_count;  /* packets measured */
	__u32 ssrc;          /* of the latest RTP packet, host order */
	__u64 last_seen_ns;  /* last packet; 0: none */
	__u64 arrived_ns;    /* arrival of the packet that jitter is measured from; 0: no packet of `ssrc` had a known clock */
	__u32 highest;       /* sequence number of the run, extended beyond 16 bits */
	__u32 timestamp;     /* of the packet that came at arrived_ns */
	__u32 jitter;        /* RFC 3550 6.4.1, in 1/256 of a timestamp unit; of the newest SSRC that has any */
	__u32 jitter_max;
	__u32 longest_gap;   /* between two packets, in 1024 ns */
	__u8 is_running;     /* `ssrc` and `highest` are valid */
	__u8 is_jitter_new;  /* no packet of `ssrc` was measured yet; an SSRC that comes back starts anew, too */
	__u8 payload_type;   /* of the latest RTP packet */
	__u8 reserved;
};
_Static_assert(sizeof(struct port_counters) == 64, "counters are one cache line");

#define MISSING_WORDS 9
#define MISSING_BITS (64 * MISSING_WORDS)
_Static_assert(MISSING_BITS > MAX_JUMP, "all numbers that may still come have a bit");

/*
 * Counters that only unusual packets change, and every stream about once a second. Same index as the row; totals are
 * never reset. `lowest` and what follows is part of the state of the statistics.
 */
struct port_events {
	__u32 window_since;        /* start of the second of `suspects`: units of 2^20 ns, modulo 2^32 */
	__u32 ssrc_changes;        /* the first SSRC of a stream is one */
	__u32 tee_missed;          /* packets that were forwarded and not written into the ring: no room, or too long */
	__u32 tee_chosen;          /* packets that were written into the ring for their payload type (tee_type) */
	__u64 ssrc_changed_ns;     /* when the SSRC last changed; 0: no RTP seen */
	__u64 sequence_set_ns;     /* when `sequence` was set */
	__u16 sequence;            /* a recent one of the SSRC, host order */
	__u16 suspects;            /* packets that may be in a loop, or are too many (account.h) */
	__u32 lost;                /* sent but not received; goes down when a late packet comes */
	__u32 duplicates;
	__u32 parse_errors;        /* forwarded though they are not RTP */
	__u32 lowest;              /* first number of the run, extended like `highest`; seeded at most MISSING_BITS behind it */
	__u32 settled;             /* `missing` is right up to this number; those after it were all received */
	__u64 missing[MISSING_WORDS]; /* bit n % MISSING_BITS: number n of the run was not received */
};
_Static_assert(sizeof(struct port_events) == 128, "events are two cache lines");

/*
 * From whom packets are expected at a port, whether or not the kernel forwards them. Same index as the row. Written by
 * the controller, and not as a whole: a packet that meets a change counts as another kind.
 *
 * Three sources: the one that has the stream, the one that the newest command names if that is another, and one that had
 * the stream before. Where several take the stream in turn, the one that a command names is the first, and the others
 * are two who had it. A source that is not there is all 0, as no packet has it.
 */
struct port_source {
	__be32 host[4];        /* IPv4 as ::ffff:a.b.c.d */
	__be32 other_hosts[8]; /* of the second and the third source */
	__u32 ssrc;            /* of the locked source where userspace counts its packets; 0: unknown */
	__be16 port;           /* 0: any */
	__be16 other_ports[2];
	__u16 most;            /* packets of the source that has the stream that may go to userspace each second */
	__u8 is_known;         /* else nobody is expected, and all of the above is 0 */
	__u8 is_locked;        /* packets from others are refused, unless they show that the phone moved */
	__u8 is_contested;     /* several sources take the stream in turn */
	__u8 reserved;
};
_Static_assert(sizeof(struct port_source) == 64, "a cache line");

/* Kinds of packets that are counted on their way to userspace (budget.h). */
#define BUDGET_KINDS 9

/* Packets that went to userspace from a port this second, by kind. Same index as the row. */
struct port_budget {
	__u32 since;              /* start of the second, in units of 2^20 ns, modulo 2^32 */
	__u16 used[BUDGET_KINDS]; /* in the order of enum budget_kind */
	__u16 reserved;
};
_Static_assert(sizeof(struct port_budget) == 24, "nothing but its members");

/* The same for all ports together. */
struct host_budget {
	__u32 since;
	__u32 used[BUDGET_KINDS];
	__u32 reserved[6];
};
_Static_assert(sizeof(struct host_budget) == 64, "a cache line of its own");

/* Packets that went to userspace this second, of the sources that share a bucket. */
struct source_budget {
	__u32 since;
	__u32 used;
};
_Static_assert(sizeof(struct source_budget) == 8, "eight of them in a cache line");

/* An address of ours, network order; IPv4 as ::ffff:a.b.c.d. */
struct local_address {
	__be32 words[4];
};
_Static_assert(sizeof(struct local_address) == 16, "a hash key has no padding");

/*
 * Frames for this host: received by an interface with these VLAN tags (none has the reserved id 0), and sent to this
 * MAC. Every interface has an element, in `untagged_links` if its number is small, and one in `links` for each VLAN
 * interface that it carries. A VLAN behind two tags also has one without the outer tag, which a driver may take off.
 */
struct link_key {
	__u32 ifindex;
	__be16 tags[4]; /* protocol and VLAN id of each tag, outer first; 0: none */
};
_Static_assert(sizeof(struct link_key) == 12, "a hash key has no padding");

struct link {
	__u8 mac[6];
	__u8 is_strict; /* rp_filter: IPv4 packets must come by the interface of the route back to their source */
	__u8 reserved;
	__u32 ifindex;  /* of the interface by which the kernel's stack takes them: a VLAN, a bond, ... */
};
_Static_assert(sizeof(struct link) == 12, "nothing but its members");

/* A neighbour on an interface. Written by the controller as a whole, with `sequence` as in port_row. */
struct next_hop {
	__u32 sequence;
	__u32 ifindex;     /* of the interface that TC sends by; 0: not usable now */
	__u32 xdp_ifindex; /* XDP sends by this one: the same, or what carries it; 0: frames cannot be redirected there */
	__u32 mtu;         /* of the IP packet, bytes */
	__u8 to_mac[6];
	__u8 from_mac[6];
	__be16 tags[4];    /* protocol and VLAN id of the tags that XDP writes, outer first */
	__u32 tag_bytes;   /* of all tags in the frame: 0, 4 or 8 */
	__u8 reserved[24];
};
_Static_assert(__builtin_offsetof(struct next_hop, reserved) == 40, "copied eight bytes at a time");
_Static_assert(sizeof(struct next_hop) == 64, "a next hop is one cache line");

/*
 * What the ring (tee_rings) holds of a packet that arrived at a port whose row has a tee: this, and the payload. With the
 * headers it is the IP packet as it was received, whole. The rest is in host order.
 */
struct tee_record {
	__u64 arrived_ns;    /* of this packet alone */
	__u32 tee;
	__u16 payload_bytes; /* of UDP */
	__u8 is_ipv6;
	__u8 reserved;
	__u8 headers[48];    /* of IP and UDP; those of IPv4 are shorter, and begin later */
};
_Static_assert(sizeof(struct tee_record) == 64, "a cache line");
