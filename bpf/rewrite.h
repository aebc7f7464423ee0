/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Turns a received frame into the one that leaves. A relay is the end of one path and the start of another: it writes a
 * new IP header (TTL or hop limit of a socket, the stream's DSCP with ECN cleared, don't-fragment set or no flow label)
 * and keeps only the identification where IPv4 stays IPv4. The UDP checksum is updated incrementally (RFC 1624), so a
 * wrong one stays wrong and the receiver notices; where there is none to update, it is computed.
 */
#pragma once
#include "verdict.h"

#define SUM_BLOCK_BYTES 64
/* Longer payloads without a checksum are left to userspace. */
#define MAX_SUMMED_BYTES 1472

/* Fold a sum of 16-bit words to one's complement; two rounds suffice for a sum below 2^32. */
static __always_inline __u16 rewrite_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Make the checksum of a sum. A computed 0 becomes 65535, because 0 would mean "no checksum" (RFC 768). */
static __always_inline __be16 rewrite_finish(__u32 sum)
{
	__u16 check = ~rewrite_fold(sum);

	return check ? check : 0xffff;
}

/* Is the checksum unfinished? Senders that leave it to their interface put the sum of the pseudo-header there. */
static __always_inline bool rewrite_is_unfinished(const struct datagram *d, const struct entry *e)
{
	return d->udp->check == rewrite_fold((__u32)e->row.pseudo_sum + d->udp->len);
}

/* The updated checksum of a datagram that came with one. */
static __always_inline __be16 rewrite_update(const struct udphdr *udp, const struct entry *e)
{
	return rewrite_finish((__u32)(__u16)~udp->check + e->row.udp_delta + (__u16)~udp->source);
}

/*
 * The one's complement sum of a payload of at most MAX_SUMMED_BYTES, all of which must be before data_end. Blocks, then
 * words, then bytes; each part computes its start again, and from numbers of which the verifier knows nothing from the
 * part before, so that it follows each part once, not once for every length.
 */
static __always_inline bool rewrite_sum(void *data_end, const struct datagram *d, __u32 *sum)
{
	__u8 *payload = (void *)(d->udp + 1), *at;
	__u64 noise = d->udp->len, total = 0, size, rest;

	if (d->payload_bytes > MAX_SUMMED_BYTES)
		return false;
	size = verifier_forget(d->payload_bytes, noise) & 0x7ff;
	rest = verifier_forget(d->payload_bytes, noise) & 0x7ff;
	at = payload + (verifier_forget(0, noise) & 1);
	for (__u32 end = SUM_BLOCK_BYTES; end <= MAX_SUMMED_BYTES && end <= size; end += SUM_BLOCK_BYTES) {
		if ((void *)(at + SUM_BLOCK_BYTES) > data_end)
			return false;
		total += (__u32)bpf_csum_diff(0, 0, (void *)at, SUM_BLOCK_BYTES, 0);
		at += SUM_BLOCK_BYTES;
	}
	total = verifier_forget(total, noise);
	at = payload + (rest & ~(SUM_BLOCK_BYTES - 1ULL));
	for (__u32 end = 4; end < SUM_BLOCK_BYTES && end <= rest % SUM_BLOCK_BYTES; end += 4) {
		if ((void *)(at + 4) > data_end)
			return false;
		total += *(__u32 *)at;
		at += 4;
	}
	total = verifier_forget(total, noise);
	at = payload + (rest & ~3ULL);
	if (rest & 2) {
		if ((void *)(at + 2) > data_end)
			return false;
		total += *(__u16 *)at;
	}
	at = payload + (rest & ~1ULL);
	if (rest & 1) {
		if ((void *)(at + 1) > data_end)
			return false;
		total += *at; /* the first byte of a word, the second of which is 0 */
	}
	total = (total & 0xffffffff) + (total >> 32);
	*sum = rewrite_fold((total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32));
	return true;
}

/* The checksum of a datagram from the sum of its payload. */
static __always_inline __be16 rewrite_compute(const struct udphdr *udp, const struct entry *e, __u32 payload_sum)
{
	/* udp_delta without what it takes away, and the length, once in the pseudo-header and once in UDP's. */
	return rewrite_finish((__u32)e->row.udp_delta + e->row.pseudo_sum + udp->dest + 2 * (__u32)udp->len + payload_sum);
}

/* Write an IPv4 header in place. */
static __always_inline void rewrite_ipv4(struct iphdr *ip, const struct entry *e, __u32 ip_bytes, __be16 id)
{
	__be16 tot_len = __builtin_bswap16(ip_bytes);

	*(__u8 *)ip = 0x45;
	ip->tos = e->row.tos;
	ip->tot_len = tot_len;
	ip->id = id;
	ip->frag_off = __constant_htons(IP_DONT_FRAGMENT);
	ip->ttl = e->row.ttl;
	ip->protocol = IPPROTO_UDP;
	ip->check = ~rewrite_fold((__u32)e->row.ip_sum + tot_len + id);
	ip->saddr = e->row.from_host;
	ip->daddr = e->row.to_host;
}

static __always_inline void rewrite_address6(struct in6_addr *there, const struct address6 *address)
{
	there->s6_addr32[0] = address->head;
	there->s6_addr32[1] = address->head >> 32;
	there->s6_addr32[2] = address->tail;
	there->s6_addr32[3] = address->tail >> 32;
}

static __always_inline void rewrite_ipv6(struct ipv6hdr *ipv6, const struct entry *e, __u32 ip_bytes)
{
	*(__be32 *)ipv6 = __builtin_bswap32(6U << 28 | (__u32)e->row.tos << 20);
	ipv6->payload_len = __builtin_bswap16(ip_bytes - sizeof(*ipv6));
	ipv6->nexthdr = IPPROTO_UDP;
	ipv6->hop_limit = e->row.ttl;
	rewrite_address6(&ipv6->saddr, &e->from_host6);
	rewrite_address6(&ipv6->daddr, &e->to_host6);
}

/* Both MACs, which follow each other in the frame and in a next hop. */
static __always_inline void rewrite_macs(struct ethhdr *eth, const struct next_hop *out)
{
	*(__u64 *)&eth->h_dest[0] = *(__u64 *)&out->to_mac[0];
	*(__u32 *)&eth->h_source[2] = *(__u32 *)&out->from_mac[2];
}

/* EtherType of the frame that leaves. */
static __always_inline __be16 rewrite_type(const struct entry *e)
{
	return e->row.is_to_ipv6 ? __constant_htons(ETH_P_IPV6) : __constant_htons(ETH_P_IP);
}
