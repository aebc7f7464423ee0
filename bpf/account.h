/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Counting, on pointers to map values. The rules are those of rtpproxy/session/stats.py, which goes on where this
 * stops and the other way round. They only count, but for packets that go round.
 */
#pragma once
#include "parse.h"
#include "types.h"

#define SECOND_NS 1000000000ULL
#define GAP_SHIFT 10
#define MEMORY_SHIFT 30 /* of nanoseconds: about a second */

/* Whether an RTP packet is the one that follows the highest of the run, as most are. */
static __always_inline bool account_is_next(const struct port_counters *c, const struct rtp_mark *mark)
{
	return c->is_running && c->ssrc == mark->ssrc && mark->sequence == (__u16)(c->highest + 1);
}

/* Whether the sequence number that the latching rules remember is due to be refreshed. */
static __always_inline bool account_is_memory_due(const struct port_counters *c, __u64 now_ns)
{
	return (c->last_seen_ns ^ now_ns) >> MEMORY_SHIFT;
}

/* What the latching rules remember of an accepted source: its SSRC, and a sequence number about a second old at most. */
static __always_inline void account_memory(struct port_events *ev, const struct rtp_mark *mark, __u64 now_ns)
{
	ev->sequence = mark->sequence;
	ev->sequence_set_ns = now_ns;
}

/* Every packet, after all else: when it came, and that it did. Atomic, because two CPUs may get packets at once. */
static __always_inline void account_forwarded(struct port_counters *c, __u64 now_ns)
{
	__u64 seen_ns = c->last_seen_ns, gap = (now_ns - seen_ns) >> GAP_SHIFT;

	if (gap > c->longest_gap && seen_ns && now_ns > seen_ns)
		c->longest_gap = gap > 0xffffffff ? 0xffffffff : gap;
	c->last_seen_ns = now_ns;
	__sync_fetch_and_add(&c->packets, 1);
}

/* Jitter */

/* 2^40 times the ticks of a clock in a nanosecond. */
#define TICKS(hz) (((__u64)(hz) * (1ULL << 40) + SECOND_NS / 2) / SECOND_NS)
#define IS_8000_HZ 0x4b3b9 /* bit n: payload type n */

/* The clock of a static payload type (RFC 3551 6), as TICKS; 0 when a relay cannot know it. */
static __always_inline __u64 jitter_clock(__u8 payload_type)
{
	if (payload_type > 18)
		return 0;
	if (IS_8000_HZ >> payload_type & 1)
		return TICKS(8000);
	switch (payload_type) {
	case 6:
		return TICKS(16000);
	case 10:
	case 11:
		return TICKS(44100);
	case 14:
		return TICKS(90000);
	case 16:
		return TICKS(11025);
	case 17:
		return TICKS(22050);
	default:
		return 0;
	}
}

/* Ticks in 1/256. What is over 2^36 ns (a minute) is shifted first, so that the product fits. */
static __always_inline __s64 jitter_elapsed(__u64 elapsed_ns, __u64 clock)
{
	return elapsed_ns >> 36 ? (elapsed_ns >> 16) * clock >> 16 : elapsed_ns * clock >> 32;
}

/* Measure the packet's deviation, unless its timestamp repeats the last one or was set anew (RFC 3550 6.4.1). */
static __always_inline void account_jitter(struct port_counters *c, const struct rtp_mark *mark, __u64 now_ns)
{
	__u64 clock = jitter_clock(mark->payload_type);
	__s64 step = (__s32)(mark->timestamp - c->timestamp), elapsed, deviation, jitter;
	__u64 arrived_ns = c->arrived_ns;

	if (!clock || (arrived_ns && !step))
		return;
	c->timestamp = mark->timestamp;
	c->arrived_ns = now_ns;
	if (!arrived_ns)
		return;
	elapsed = now_ns > arrived_ns ? jitter_elapsed(now_ns - arrived_ns, clock) : 0;
	if (elapsed >= 256 && (step * 256 < -50 * elapsed || step * 256 > 1024 * elapsed))
		return;
	deviation = elapsed - step * 256;
	if (deviation < 0)
		deviation = -deviation;
	jitter = c->is_jitter_new ? 0 : c->jitter;
	jitter += (deviation - jitter + 8) >> 4;
	if (jitter > 0xffffffff)
		jitter = 0xffffffff;
	c->is_jitter_new = 0;
	c->jitter = jitter;
	if (jitter > c->jitter_max)
		c->jitter_max = jitter;
	c->jitter_sum += jitter;
	c->jitter_count++;
}

/* Packets that only so many are believed of, a second */

#define WINDOW_SHIFT 20
#define WINDOW_UNITS (SECOND_NS >> WINDOW_SHIFT)

/* Start counting anew when the second is over. */
static __always_inline void account_window(struct port_events *ev, __u64 now_ns)
{
	__u32 now = now_ns >> WINDOW_SHIFT;

	if (now - ev->window_since > WINDOW_UNITS) {
		ev->window_since = now;
		ev->others_passed = 0;
		ev->suspects = 0;
	}
}

/*
 * Whether a packet that may come round again and again, between relays that take each other for phones, is one too many
 * at its port this second. A relay sets the TTL afresh, so nothing else ends such a loop. What carries a number shows
 * itself by repeating it; of what has none, or starts its numbers anew, only so many are believed. Userspace has the same
 * rule (session/loops.py).
 */
static __always_inline bool account_is_going_round(struct port_events *ev, __u64 now_ns, __u32 most)
{
	account_window(ev, now_ns);
	if (ev->suspects >= most)
		return true;
	ev->suspects++;
	return false;
}

/* Packets that are not the next one */

/* The word of `missing` that a number's bit is in; the last one is never passed, which the verifier has to see. */
static __always_inline __u64 run_word(__u32 place)
{
	__u64 word = place / 64;

	asm volatile("" : "+r"(word));
	return word < MISSING_WORDS ? word : MISSING_WORDS - 1;
}

/* Note of `count` numbers from `start` on that they are missing, or that they are not. */
static __always_inline void run_note(struct port_events *ev, __u32 start, __u32 count, bool is_missing)
{
	for (int part = 0; part <= MISSING_WORDS && count; part++) {
		__u32 place = start % MISSING_BITS, bit = place % 64, bits = 64 - bit;
		__u64 word = run_word(place);

		if (bits > count)
			bits = count;
		__u64 mask = (bits < 64 ? (1ULL << bits) - 1 : ~0ULL) << bit;
		if (is_missing)
			ev->missing[word] |= mask;
		else
			ev->missing[word] &= ~mask;
		start += bits;
		count -= bits;
	}
}

/* The packets since the last unusual one have all come. */
static __always_inline void run_settle(struct port_counters *c, struct port_events *ev)
{
	__u32 count = c->highest - ev->settled;

	run_note(ev, ev->settled + 1, count < MISSING_BITS ? count : MISSING_BITS, false);
	ev->settled = c->highest;
	/* What lies so far back is only asked for its order. */
	if (c->highest - ev->lowest > MISSING_BITS)
		ev->lowest = c->highest - MISSING_BITS;
}

/* The numbers start above 65,535, so that those before them are not below 0. */
static __always_inline void run_start(struct port_counters *c, struct port_events *ev, __u16 sequence)
{
	c->highest = ev->lowest = 0x10000 + sequence;
	ev->settled = c->highest - 1;
	c->is_running = 1;
}

static __always_inline void run_skip(struct port_counters *c, struct port_events *ev, __u32 ahead)
{
	run_note(ev, c->highest + 1, ahead - 1, true);
	ev->lost += ahead - 1;
	c->highest += ahead;
	ev->settled = c->highest - 1;
}

/* A late packet, or, where it answers false, a duplicate, which is still to be counted. */
static __always_inline bool run_fill(struct port_events *ev, __u32 number)
{
	__u32 place = number % MISSING_BITS, before = ev->lowest - number;
	__u64 word = run_word(place);

	if ((__s32)before > 0) {
		run_note(ev, number, 1, false);
		run_note(ev, number + 1, before - 1, true);
		ev->lost += before - 1;
		ev->lowest = number;
		return true;
	}
	if (ev->missing[word] >> place % 64 & 1) {
		ev->missing[word] &= ~(1ULL << place % 64);
		ev->lost--;
		return true;
	}
	return false;
}

enum account_result { ACCOUNT_MEASURE, ACCOUNT_DONE, ACCOUNT_GOING_ROUND };

/* An RTP packet that is not the next one: whether its jitter is to be measured, or it is not to be forwarded. */
static __always_inline enum account_result account_unusual(struct port_counters *c, struct port_events *ev,
							   const struct rtp_mark *mark, __u64 now_ns)
{
	__s32 ahead = (__s16)(mark->sequence - (__u16)c->highest);

	bool is_other = !c->is_running || c->ssrc != mark->ssrc;

	if (is_other || ahead > MAX_JUMP || ahead < -MAX_JUMP || (ahead < 0 && mark->is_marker)) {
		/* Whatever makes the numbers start anew makes all that came before look new, too. */
		if (account_is_going_round(ev, now_ns, UNNUMBERED_PER_SECOND))
			return ACCOUNT_GOING_ROUND;
		run_start(c, ev, mark->sequence);
		if (is_other) {
			c->ssrc = mark->ssrc;
			c->arrived_ns = 0;
			c->is_jitter_new = 1;
			ev->ssrc_changed_ns = now_ns;
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

/* Whether a packet from another source may still go up this second. */
static __always_inline bool account_other_source(struct port_events *ev, __u64 now_ns)
{
	account_window(ev, now_ns);
	if (ev->others_passed >= OTHERS_PER_SECOND) {
		__sync_fetch_and_add(&ev->others_dropped, 1);
		return false;
	}
	ev->others_passed++;
	return true;
}
