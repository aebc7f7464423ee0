/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Jitter of a stream, as in RFC 3550 6.4.1, on a pointer to the counters of its port. */
#pragma once
#include "parse.h"
#include "types.h"

#define SECOND_NS 1000000000ULL

/* 2^40 times the ticks of a clock in a nanosecond. */
#define TICKS(hz) (((__u64)(hz) * (1ULL << 40) + SECOND_NS / 2) / SECOND_NS)
#define IS_8000_HZ 0x4b3b9 /* bit n: payload type n */

/* Clock rate of a static payload type (RFC 3551, section 6), as TICKS; 0 where a relay cannot know it. */
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

/* Will the jitter of this datagram be measured, if it is RTP? parse_rtp looks at as many bytes. */
static __always_inline bool jitter_is_wanted(void *data_end, const struct datagram *d)
{
	__u8 *rtp = (void *)(d->udp + 1);

	return (void *)(rtp + RTP_HEADER_BYTES) <= data_end && jitter_clock(rtp[1] & 0x7f);
}

/* Convert nanoseconds to 1/256 ticks (_JITTER_UNITS in rtpproxy/offload/counters.py). Over 2^36 ns (a minute) it shifts first, so that the product fits. */
static __always_inline __s64 jitter_elapsed(__u64 elapsed_ns, __u64 clock)
{
	return elapsed_ns >> 36 ? (elapsed_ns >> 16) * clock >> 16 : elapsed_ns * clock >> 32;
}

/* Measure the packet's deviation, unless its timestamp repeats the last one or was reset (RFC 3550 6.4.1). */
static __always_inline void jitter_measure(struct port_counters *c, const struct rtp_mark *mark, __u64 now_ns)
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
