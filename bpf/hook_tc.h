/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * TC: the kernel's helpers change the packet, so that the kernel's record of its checksum stays true. The frame leaves
 * by the interface of the route itself, which writes its own tags: bonds, bridges and VLANs do their part. MACs come
 * from the next hop's row, as in XDP: bpf_redirect_neigh with a given gateway was 2 % slower, the controller follows
 * neighbours for XDP anyway, and a row says that a neighbour is unknown before a packet is lost.
 */
#pragma once
#include <linux/bpf.h>
#include "frame.h"

/* Make the first `bytes` of the frame lie in one piece, and load pointers and lengths. */
static __always_inline void hook_tc_load(struct __sk_buff *skb, struct frame *f, __u32 bytes)
{
	f->data = (void *)(long)skb->data;
	f->data_end = (void *)(long)skb->data_end;
	f->bytes = skb->len;
	if (bytes > f->bytes)
		bytes = f->bytes;
	if (f->data + bytes <= f->data_end)
		return;
	bpf_skb_pull_data(skb, bytes);
	f->data = (void *)(long)skb->data;
	f->data_end = (void *)(long)skb->data_end;
}

/* Remove the tags and make room for a header of the other family, whose contents are stored later. */
static __always_inline __u32 hook_tc_reshape(struct __sk_buff *skb, const struct frame *f)
{
	__u32 tags = f->datagram.tag_count + (f->taken_tag[0] ? 1 : 0);
	__be16 type = rewrite_type(&f->entry);

	for (__u32 tag = 0; tag < 2; tag++)
		if (tags > tag && bpf_skb_vlan_pop(skb))
			return VERDICT(dropped_no_memory);
	if (f->datagram.is_ipv6 != f->entry.row.is_to_ipv6 && bpf_skb_change_proto(skb, type, 0))
		return tags ? VERDICT(dropped_no_memory) : VERDICT(up_no_headroom);
	return FORWARD;
}

/* Rewrite the frame; a verdict other than FORWARD if the kernel refused. */
static __always_inline __u32 hook_tc_rewrite(struct __sk_buff *skb, struct frame *f)
{
	const struct entry *e = &f->entry;
	const struct udphdr *old = f->datagram.udp;
	__u32 ip_out = e->row.is_to_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 udp_at = sizeof(struct ethhdr) + ip_out, check_at = udp_at + __builtin_offsetof(struct udphdr, check);
	__be16 id = f->datagram.is_ipv6 ? 0 : f->datagram.ip->id;
	__be16 ports[2] = {e->row.from_port, e->row.to_port};
	/* The pseudo-header's part of udp_delta, and the ports'. */
	__u32 hosts = (__u32)e->row.udp_delta + (__u16)~e->row.from_port + (__u16)~e->row.to_port + old->dest;
	__u32 port_delta = (__u32)e->row.from_port + e->row.to_port + (__u16)~old->source + (__u16)~old->dest;
	bool has_check = old->check;
	struct ethhdr eth __attribute__((aligned(8))) = {.h_proto = rewrite_type(e)};
	__u32 verdict = hook_tc_reshape(skb, f);
	int failed = 0;

	if (verdict != FORWARD)
		return verdict;
	if (f->is_summed) {
		failed |= bpf_skb_store_bytes(skb, check_at, &f->check, sizeof(f->check), BPF_F_RECOMPUTE_CSUM);
	} else if (has_check) {
		failed |= bpf_l4_csum_replace(skb, check_at, 0, rewrite_fold(hosts), BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0);
		failed |= bpf_l4_csum_replace(skb, check_at, 0, rewrite_fold(port_delta), BPF_F_MARK_MANGLED_0);
	}
	failed |= bpf_skb_store_bytes(skb, udp_at, ports, sizeof(ports), has_check ? 0 : BPF_F_RECOMPUTE_CSUM);
	rewrite_macs(&eth, &f->out);
	failed |= bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0);
	if (e->row.is_to_ipv6) {
		struct ipv6hdr ipv6 __attribute__((aligned(8)));

		rewrite_ipv6(&ipv6, e, frame_bytes_out(f));
		failed |= bpf_skb_store_bytes(skb, sizeof(eth), &ipv6, sizeof(ipv6), BPF_F_RECOMPUTE_CSUM);
	} else {
		struct iphdr ip;

		rewrite_ipv4(&ip, e, frame_bytes_out(f), id);
		failed |= bpf_skb_store_bytes(skb, sizeof(eth), &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
	}
	return failed ? VERDICT(dropped_no_memory) : FORWARD;
}

