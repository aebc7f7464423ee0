/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* XDP: the frame is rewritten in place. Its start is moved first, so that the payload stays where it is. */
#pragma once
#include <linux/bpf.h>
#include "frame.h"

/* Rewrite the frame; a verdict other than FORWARD if the driver left no room. */
static __always_inline __u32 hook_xdp_rewrite(struct xdp_md *ctx, struct frame *f)
{
	const struct datagram *d = &f->datagram;
	const struct next_hop *out = &f->out;
	__u32 ip_out = f->entry.row.is_to_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 ip_in = d->is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	int shorter = TAG_BYTES * d->tag_count + ip_in - out->tag_bytes - ip_out;
	__be16 id = d->is_ipv6 ? 0 : d->ip->id;
	__be16 check = f->is_summed ? f->check : d->udp->check ? rewrite_update(d->udp, &f->entry) : 0;
	struct ethhdr *eth;
	struct udphdr *udp;
	__be32 *tag;
	void *ip;

	if (shorter && bpf_xdp_adjust_head(ctx, shorter))
		return VERDICT(up_no_headroom);
	eth = (void *)(long)ctx->data;
	f->data_end = (void *)(long)ctx->data_end;
	ip = (void *)(eth + 1) + (out->tag_bytes & TAG_BYTES_MASK);
	tag = (void *)eth + 12;
	/* The frame was long enough before; the verifier does not know. */
	if ((void *)(eth + 1) + 2 * TAG_BYTES > f->data_end)
		return VERDICT(dropped_no_memory);
	rewrite_macs(eth, out);
	if (out->tag_bytes) {
		*tag++ = *(__be32 *)&out->tags[0];
		if (out->tag_bytes > TAG_BYTES)
			*tag++ = *(__be32 *)&out->tags[2];
	}
	*(__be16 *)tag = rewrite_type(&f->entry);
	if (f->entry.row.is_to_ipv6) {
		if (ip + sizeof(struct ipv6hdr) + sizeof(*udp) > f->data_end)
			return VERDICT(dropped_no_memory);
		udp = ip + sizeof(struct ipv6hdr);
		rewrite_ipv6(ip, &f->entry, frame_bytes_out(f));
	} else {
		if (ip + sizeof(struct iphdr) + sizeof(*udp) > f->data_end)
			return VERDICT(dropped_no_memory);
		udp = ip + sizeof(struct iphdr);
		rewrite_ipv4(ip, &f->entry, frame_bytes_out(f), id);
	}
	udp->source = f->entry.row.from_port;
	udp->dest = f->entry.row.to_port;
	udp->check = check;
	return FORWARD;
}

