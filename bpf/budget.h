/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Bounds what may go to userspace, on pointers to map values: by port, and for the whole host. Counts start anew each
 * second. Nothing is atomic: two CPUs that count at once may let one packet more through. A packet that is refused
 * writes nothing here, so a flood takes no cache line away from another CPU.
 */
#pragma once
#include "types.h"
#include "verdict.h"

#define BUDGET_SHIFT 20 /* of nanoseconds: about a millisecond */
#define FRAGMENT_BITS 8  /* of the number of a bucket that sources of fragments share */
#define LEARNING_BITS 10 /* the same for sources that nobody expects */
#define BUDGET_UNITS (1000000000ULL >> BUDGET_SHIFT)
#define BUDGET_SKEW 64 /* units by which another CPU may have read a later time */

/* What a packet that is about to go to userspace is, by the source that is known at its port. */
enum budget_kind {
	BUDGET_KNOWN,    /* from the source that has the stream */
	BUDGET_ODD,      /* from a source that is expected, with what the kernel never forwards: options, extension headers, fragments */
	BUDGET_MOVED,    /* from another source than the locked one, but with its SSRC: the phone may have moved */
	BUDGET_OTHER,    /* from another source than the locked one */
	BUDGET_LEARNING, /* to a port that is locked to no source yet */
	BUDGET_UNKNOWN,  /* to a port that could not be found out */
	BUDGET_NAMED,    /* from the source that the newest command names, while another has the stream or may take it */
	BUDGET_RIVAL,    /* from another that may take the stream, because it had it before */
	BUDGET_CHANGING, /* from the source that has the stream, while its entry is being written or is still another's */
};
_Static_assert(BUDGET_CHANGING < BUDGET_KINDS, "each kind has a count");

/* May so many packets of the kind go up as of a source that is expected, but does not have the stream? */
static __always_inline bool budget_is_expected(enum budget_kind kind)
{
	return kind == BUDGET_NAMED || kind == BUDGET_RIVAL || kind == BUDGET_CHANGING;
}

/* Has the second ended that began at `since`? Units of 2^BUDGET_SHIFT ns, modulo 2^32. */
static __always_inline bool budget_is_over(__u32 since, __u32 now)
{
	return now - since + BUDGET_SKEW > BUDGET_UNITS + BUDGET_SKEW;
}

/* The number of a kind, so that the verifier sees that it is in bounds. */
static __always_inline __u64 budget_place(enum budget_kind kind)
{
	__u64 place = kind;

	asm volatile("" : "+r"(place));
	return place < BUDGET_KINDS ? place : 0;
}

/* Packets of a kind that a port may leave to userspace each second. */
static __always_inline __u32 budget_most_of_port(enum budget_kind kind, const struct port_source *source)
{
	if (kind == BUDGET_KNOWN)
		return source->most;
	if (kind == BUDGET_ODD)
		return ODD_PER_SECOND;
	if (budget_is_expected(kind))
		return EXPECTED_PER_SECOND;
	if (kind == BUDGET_LEARNING && source->is_contested)
		return SOURCE_LEARNING_PER_SECOND;
	return kind == BUDGET_LEARNING ? LEARNING_PER_SECOND : OTHERS_PER_SECOND;
}

/* Packets of a kind that all ports together may leave to userspace each second. */
static __always_inline __u32 budget_most_of_host(enum budget_kind kind)
{
	if (kind == BUDGET_KNOWN)
		return HOST_KNOWN_PER_SECOND;
	if (budget_is_expected(kind))
		return HOST_EXPECTED_PER_SECOND;
	return kind == BUDGET_ODD || kind == BUDGET_LEARNING ? HOST_LEARNING_PER_SECOND : HOST_OTHERS_PER_SECOND;
}

/* Count a packet at its port; false when there were enough of its kind this second. */
static __always_inline bool budget_take_of_port(struct port_budget *port, const struct port_source *source,
						enum budget_kind kind, __u32 now)
{
	__u64 place = budget_place(kind);

	if (budget_is_over(port->since, now)) {
		__builtin_memset(port->used, 0, sizeof(port->used));
		port->since = now;
	}
	if (port->used[place] >= budget_most_of_port(kind, source))
		return false;
	port->used[place]++;
	return true;
}

/* Count a packet for the whole host; false when there were enough of its kind this second. */
static __always_inline bool budget_take_of_host(struct host_budget *host, enum budget_kind kind, __u32 now)
{
	__u64 place = budget_place(kind);

	if (budget_is_over(host->since, now)) {
		__builtin_memset(host->used, 0, sizeof(host->used));
		host->since = now;
	}
	if (host->used[place] >= budget_most_of_host(kind))
		return false;
	host->used[place]++;
	return true;
}

/* The verdict on a packet for which its port has enough. */
static __always_inline __u32 budget_verdict(enum budget_kind kind)
{
	if (kind == BUDGET_LEARNING)
		return VERDICT(dropped_learning);
	return kind == BUDGET_MOVED || kind == BUDGET_OTHER ? VERDICT(dropped_other_source) : VERDICT(dropped_known_source);
}

static __always_inline bool budget_is_host(const __be32 *expected, const struct local_address *host)
{
	return expected[0] == host->words[0] && expected[1] == host->words[1] && expected[2] == host->words[2] &&
	       expected[3] == host->words[3];
}

/*
 * The kind of a packet of a source that is expected at a port; BUDGET_UNKNOWN for that of any other. Addresses and port
 * are in network order, an IPv4 one as ::ffff:a.b.c.d.
 */
static __always_inline enum budget_kind budget_expected(const struct port_source *source,
							const struct local_address *host, __be16 port)
{
	if (!source->is_known)
		return BUDGET_UNKNOWN;
	if ((source->port == port || !source->port) && budget_is_host(source->host, host))
		return source->is_contested ? BUDGET_NAMED : BUDGET_KNOWN;
	if (source->other_ports[0] == port && budget_is_host(source->other_hosts, host))
		return source->is_contested ? BUDGET_RIVAL : BUDGET_NAMED;
	if (source->other_ports[1] == port && budget_is_host(source->other_hosts + 4, host))
		return BUDGET_RIVAL;
	return BUDGET_UNKNOWN;
}

/*
 * The kind of a packet by the verdict on it. The moments in which an entry is written are short, so few packets of a phone
 * fall into them. Of somebody who has just taken a stream by a flood, thousands would: each that userspace counts holds
 * the entry, and lets more come up.
 */
static __always_inline enum budget_kind budget_by_verdict(enum budget_kind kind, __u32 verdict)
{
	bool is_changing = verdict == VERDICT(up_entry_changing) || verdict == VERDICT(up_other_source);

	return kind == BUDGET_KNOWN && is_changing ? BUDGET_CHANGING : kind;
}

/*
 * Does an RTP packet of another source go on where the locked one ended? `counters` are those of the port where the
 * kernel counts its packets, else NULL: then only the SSRC is known here. Userspace judges the packet in either case, by
 * all rules (rtpproxy/session/latch.py).
 */
static __always_inline bool budget_goes_on(const struct port_source *source, const struct port_counters *counters,
					   const struct rtp_mark *mark)
{
	__u16 ahead;

	if (!counters)
		return source->ssrc && source->ssrc == mark->ssrc;
	ahead = mark->sequence - (__u16)counters->highest + MOVED_DISTANCE;
	return counters->is_running && counters->ssrc == mark->ssrc && ahead <= 2 * MOVED_DISTANCE;
}

/* The bucket of a source, out of 2^bits; those of one source share one. */
static __always_inline __u32 budget_bucket(const struct local_address *source, __u32 bits)
{
	__u32 mixed = source->words[0] ^ source->words[1] ^ source->words[2] ^ source->words[3];

	return mixed * 0x9e3779b1U >> (32 - bits);
}

/* Count a packet in the bucket of its source; false when there were enough this second. */
static __always_inline bool budget_take_of_source(struct source_budget *bucket, __u32 now, __u32 most)
{
	if (budget_is_over(bucket->since, now)) {
		bucket->since = now;
		bucket->used = 0;
	}
	if (bucket->used >= most)
		return false;
	bucket->used++;
	return true;
}
