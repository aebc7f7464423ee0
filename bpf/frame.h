/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* A frame at a hook, and what is found out about it without a look-up. */
#pragma once
#include "rewrite.h"
#include "verdict.h"

#define TAG_BYTES_MASK 0xc /* shows the verifier that it is 0, 4 or 8 */

/* Room for all headers of a datagram, with that of RTP. */
#define HEADER_BYTES (sizeof(struct ethhdr) + 2 * TAG_BYTES + sizeof(struct ipv6hdr) + sizeof(struct udphdr) + RTP_HEADER_BYTES)

enum hook { HOOK_XDP, HOOK_TC, HOOK_TC_BEHIND_XDP };

/* A frame at a hook, with what the program has found out about it so far. */
struct frame {
	void *data;
	void *data_end;
	__u32 bytes; /* of the whole frame, whose end may lie beyond data_end */
	enum hook hook;
	__u32 ifindex;
	__be16 taken_tag[2]; /* protocol and tag control of a VLAN tag that was removed from the frame; 0: none */
	bool is_aggregated;
	bool is_ours; /* this hook forwards it, or counts why not */
	bool is_off_route; /* rp_filter does not allow the locked source to send by this interface */
	struct datagram datagram;
	struct port_row *row;
	struct port_hosts6 *hosts6; /* of the row; NULL until it is known to need them */
	__u32 index;                /* of the row */
	struct entry entry;
	struct next_hop out __attribute__((aligned(8)));
	struct port_counters *counters;
	__u64 now_ns;    /* CLOCK_MONOTONIC, or CLOCK_MONOTONIC_COARSE unless is_precise */
	bool is_precise;
	bool is_rtp;
	struct rtp_mark mark;
	bool is_summed; /* the checksum was computed */
	__be16 check;
};

/* A frame before anything is known of it. Everything else is set before it is read, because zeroing all costs 2 ns. */
static __always_inline void frame_begin(struct frame *f, enum hook hook, __u32 ifindex)
{
	f->hook = hook;
	f->ifindex = ifindex;
	f->taken_tag[0] = f->taken_tag[1] = 0;
	f->is_aggregated = false;
	f->is_ours = false;
}

/* Size of the IP packet that leaves, in bytes. */
static __always_inline __u32 frame_bytes_out(const struct frame *f)
{
	return f->datagram.payload_bytes + sizeof(struct udphdr) +
	       (f->entry.row.is_to_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
}

/* Compute the checksum where it cannot be updated: it is required but absent, or was left to an interface. */
static __always_inline __u32 frame_check_sum(struct frame *f, enum hook hook)
{
	const struct datagram *d = &f->datagram;
	__u32 sum;

	f->is_summed = false;
	if (!d->udp->check) {
		if (d->is_ipv6)
			return VERDICT(up_no_checksum);
		if (!f->entry.row.is_to_ipv6)
			return FORWARD;
	} else if (hook != HOOK_XDP || !rewrite_is_unfinished(d, &f->entry)) {
		/* At TC the kernel knows that a checksum is unfinished, and its helpers keep it so. */
		return FORWARD;
	}
	if (!rewrite_sum(f->data_end, d, &sum))
		return VERDICT(up_no_checksum);
	f->check = rewrite_compute(d->udp, &f->entry, sum);
	f->is_summed = true;
	return FORWARD;
}
