/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Counting, on pointers to map values. */
#pragma once
#include "parse.h"
#include "types.h"

#define SECOND_NS 1000000000ULL

/*
 * A forwarded packet. The totals are atomic, because a stream's packets may reach two CPUs at once; the memory of
 * SSRC and sequence number need not be, any of the two is right.
 */
static __always_inline void account_forwarded(struct port_counters *c, __u32 payload_bytes, __u64 now_ns)
{
	__sync_fetch_and_add(&c->packets, 1);
	__sync_fetch_and_add(&c->bytes, payload_bytes);
	c->last_seen_ns = now_ns;
}

/*
 * What the latching rules remember of an accepted source: its SSRC, and a sequence number not over a second old.
 * `known_ssrc` is what c->ssrc was.
 */
static __always_inline void account_rtp(struct port_counters *c, __u32 known_ssrc, const struct rtp_mark *mark,
					__u64 now_ns)
{
	if (known_ssrc != mark->ssrc || !c->ssrc_changed_ns) {
		c->ssrc = mark->ssrc;
		c->ssrc_changed_ns = now_ns;
	} else if (now_ns - c->sequence_set_ns < SECOND_NS) {
		return;
	}
	c->sequence = mark->sequence;
	c->sequence_set_ns = now_ns;
}

/* Whether a packet from another source may still go up this second. */
static __always_inline bool account_other_source(struct port_counters *c, __u64 now_ns)
{
	if (now_ns - c->others_since_ns >= SECOND_NS) {
		c->others_since_ns = now_ns;
		c->others_passed = 0;
	}
	if (c->others_passed >= OTHERS_PER_SECOND) {
		__sync_fetch_and_add(&c->others_dropped, 1);
		return false;
	}
	c->others_passed++;
	return true;
}
