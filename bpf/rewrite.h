/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Turning a received frame into the one that leaves. A relay is the end of one path and the start of another: the
 * IPv4 header is written anew (TTL as a socket's, don't-fragment set, and the stream's TOS byte, so that ECN bits are
 * those that the configuration has there, whatever came in), only the identification is kept. The UDP checksum is
 * updated incrementally (RFC 1624), so a wrong one stays wrong and the receiver notices.
 */
#pragma once
#include "verdict.h"

/* Fold a sum of 16-bit words to one's complement; two rounds suffice for a sum below 2^32. */
static __always_inline __u16 rewrite_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline void rewrite_udp(struct udphdr *udp, const struct entry *e)
{
	if (udp->check) {
		__u32 sum = (__u16)~udp->check + e->udp_delta + (__u16)~udp->source;
		__u16 check = ~rewrite_fold(sum);

		udp->check = check ? check : 0xffff; /* 0 would mean "no checksum" (RFC 768) */
	}
	udp->source = e->from_port;
	udp->dest = e->to_port;
}

static __always_inline void rewrite_ipv4(struct iphdr *ip, const struct entry *e)
{
	ip->tos = e->tos;
	ip->frag_off = __constant_htons(IP_DONT_FRAGMENT);
	ip->ttl = e->ttl;
	ip->saddr = e->from_host;
	ip->daddr = e->to_host;
	ip->check = ~rewrite_fold((__u32)e->ip_sum + ip->tot_len + ip->id);
}

static __always_inline void rewrite_ethernet(struct ethhdr *eth, const struct way_out *out)
{
	*(__u32 *)&eth->h_dest[0] = out->to_mac_head;
	*(__u16 *)&eth->h_dest[4] = out->to_mac_tail;
	*(__u16 *)&eth->h_source[0] = out->from_mac_head;
	*(__u32 *)&eth->h_source[2] = out->from_mac_tail;
}
