/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The run of sequence numbers at a port: which were received, which are missing. On pointers to map values. */
#pragma once
#include "types.h"
#include "verifier.h"

/* Index of the word of `missing` with a number's bit. The verifier must see that it is in bounds. */
static __always_inline __u64 run_word(__u32 place)
{
	__u64 word = place / 64;

	asm volatile("" : "+r"(word));
	return word < MISSING_WORDS ? word : MISSING_WORDS - 1;
}

#define RUN_COUNT_MASK 0x3ff
_Static_assert(MISSING_BITS <= RUN_COUNT_MASK && MAX_JUMP <= RUN_COUNT_MASK, "counts of numbers fit into the mask");

/* Mark `count` numbers from `start` on as missing, or as received. */
static __always_inline void run_note(struct port_events *ev, __u32 start, __u32 count, bool is_missing)
{
	__u64 noise = ev->lowest;

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
		start = verifier_forget(start + bits, noise);
		count = verifier_forget(count - bits, noise) & RUN_COUNT_MASK;
	}
}

/* Mark the numbers since the last unusual packet as received: none of them is missing. */
static __always_inline void run_settle(struct port_counters *c, struct port_events *ev)
{
	__u32 count = c->highest - ev->settled;

	run_note(ev, ev->settled + 1, count < MISSING_BITS ? count : MISSING_BITS, false);
	ev->settled = c->highest;
	/* Numbers further back have no bit any more. */
	if (c->highest - ev->lowest > MISSING_BITS)
		ev->lowest = c->highest - MISSING_BITS;
}

/*
 * Start a new run. Its numbers start above 65,535, so that earlier ones do not fall below 0 (_FIRST_NUMBER in
 * rtpproxy/offload/counters.py).
 */
static __always_inline void run_start(struct port_counters *c, struct port_events *ev, __u16 sequence)
{
	c->highest = ev->lowest = 0x10000 + sequence;
	ev->settled = c->highest - 1;
	c->is_running = 1;
}

/* Go on to a packet `ahead` numbers after the highest; those between are missing. */
static __always_inline void run_skip(struct port_counters *c, struct port_events *ev, __u32 ahead)
{
	run_note(ev, c->highest + 1, ahead - 1, true);
	ev->lost += ahead - 1;
	c->highest += ahead;
	ev->settled = c->highest - 1;
}

/* Take in a late packet. False means that it is a duplicate, which the caller has to count. */
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
