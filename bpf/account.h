/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Counts packets, on pointers to map values. The rules are those of rtpproxy/rtp/statistics.py: kernel and userspace
 * each go on where the other stopped. Only packets that may be in a loop are refused here; all else is only counted.
 */
#pragma once
#include "jitter.h"
#include "parse.h"
#include "run.h"
#include "types.h"

#define GAP_SHIFT 10 /* of nanoseconds: _GAP_NS in rtpproxy/offload/counters.py */
#define MEMORY_SHIFT 30 /* of nanoseconds: about a second */

/* Is this the RTP packet that follows the highest of the run? Most are. */
static __always_inline bool account_is_next(const struct port_counters *c, const struct rtp_mark *mark)
{
	return c->is_running && c->ssrc == mark->ssrc && mark->sequence == (__u16)(c->highest + 1);
}

/* Is it time to refresh the sequence number that the latching rules remember? */
static __always_inline bool account_is_memory_due(const struct port_counters *c, __u64 now_ns)
{
	return (c->last_seen_ns ^ now_ns) >> MEMORY_SHIFT;
}

/* Remember a sequence number of the accepted source, for the latching rules. It is at most about a second old. */
static __always_inline void account_memory(struct port_events *ev, const struct rtp_mark *mark, __u64 now_ns)
{
	ev->sequence = mark->sequence;
	ev->sequence_set_ns = now_ns;
}

/* Count a forwarded packet and note when it came. Called last; atomic, because two CPUs may get packets at once. */
static __always_inline void account_forwarded(struct port_counters *c, __u64 now_ns)
{
	__u64 seen_ns = c->last_seen_ns, gap = (now_ns - seen_ns) >> GAP_SHIFT;

	/* Not so where userspace saw a packet within this tick of the coarse clock, or another CPU counts one. */
	if (now_ns > seen_ns) {
		if (gap > c->longest_gap && seen_ns)
			c->longest_gap = gap > 0xffffffff ? 0xffffffff : gap;
		c->last_seen_ns = now_ns;
	}
	__sync_fetch_and_add(&c->packets, 1);
}

#define WINDOW_SHIFT 20
#define WINDOW_UNITS (SECOND_NS >> WINDOW_SHIFT)
#define COARSE_UNITS 16 /* the coarse clock may be a timer interrupt behind, 10 ms at most */

/* Start new counts when the second is over, but not because one clock is behind the one that it was started by. */
static __always_inline void account_window(struct port_events *ev, __u64 now_ns)
{
	__u32 now = now_ns >> WINDOW_SHIFT;

	if (now - ev->window_since + COARSE_UNITS > WINDOW_UNITS + COARSE_UNITS) {
		ev->window_since = now;
		ev->suspects = 0;
	}
}

/*
 * Count a packet that may be in a loop, between relays that take each other for phones. True when the port has seen
 * more than `most` of them this second. A relay sends with a new TTL, so nothing else ends such a loop. In a loop,
 * packets with a sequence number repeat it; packets without a number, and those that start a new run, cannot be told
 * from good ones, so their rate is limited. Userspace has the same rule (session/loops.py).
 */
static __always_inline bool account_is_going_round(struct port_events *ev, __u64 now_ns, __u32 most)
{
	account_window(ev, now_ns);
	if (ev->suspects >= most)
		return true;
	ev->suspects++;
	return false;
}

enum account_result { ACCOUNT_MEASURE, ACCOUNT_DONE, ACCOUNT_GOING_ROUND };

/* Count an RTP packet that is not the next one. Says if its jitter is to be measured, or if it must be dropped. */
static __always_inline enum account_result account_unusual(struct port_counters *c, struct port_events *ev,
							   const struct rtp_mark *mark, __u64 now_ns)
{
	__s32 ahead = (__s16)(mark->sequence - (__u16)c->highest);

	bool is_other = !c->is_running || c->ssrc != mark->ssrc;

	if (is_other || ahead > MAX_JUMP || ahead < -MAX_JUMP || (ahead < 0 && mark->is_marker)) {
		/* After a restart of the numbers, packets that repeat earlier ones look new. */
		if (account_is_going_round(ev, now_ns, UNNUMBERED_PER_SECOND))
			return ACCOUNT_GOING_ROUND;
		run_start(c, ev, mark->sequence);
		if (is_other) {
			c->ssrc = mark->ssrc;
			c->arrived_ns = 0;
			c->is_jitter_new = 1;
			ev->ssrc_changed_ns = now_ns;
			ev->ssrc_changes++;
			account_memory(ev, mark, now_ns);
			return ACCOUNT_MEASURE;
		}
		if (ahead > MAX_JUMP || ahead < -MAX_JUMP)
			return ACCOUNT_MEASURE;
		if (c->arrived_ns) {
			c->timestamp = mark->timestamp;
			c->arrived_ns = now_ns;
		}
		return ACCOUNT_DONE;
	}
	run_settle(c, ev);
	if (ahead > 0) {
		run_skip(c, ev, ahead);
		return ACCOUNT_MEASURE;
	}
	if (run_fill(ev, c->highest + ahead))
		return ACCOUNT_MEASURE;
	if (account_is_going_round(ev, now_ns, REPEATS_PER_SECOND))
		return ACCOUNT_GOING_ROUND;
	ev->duplicates++;
	return ACCOUNT_DONE;
}
