/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Reading a frame. Functions return true and fill their result, or return false with a reason; every access is
 * checked against data_end here, and nowhere else.
 */
#pragma once
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include "types.h"

#define IP_FRAGMENT_MASK 0x3fff /* more fragments, or an offset */
#define IP_DONT_FRAGMENT 0x4000
#define RTP_HEADER_BYTES 12

/* A UDP datagram in an unfragmented IPv4 packet without options. */
struct datagram {
	struct ethhdr *eth;
	struct iphdr *ip;
	struct udphdr *udp;
	__u32 ip_bytes;      /* IPv4 total length */
	__u32 payload_bytes; /* of UDP */
};

/* The two members of an RTP header that latching needs, host order. */
struct rtp_mark {
	__u32 ssrc;
	__u16 sequence;
};

/* Why a frame is not one that can be forwarded: the member of `verdicts` to count. */
enum parse_result { PARSE_OK, PARSE_NOT_IPV4, PARSE_VLAN, PARSE_NOT_UDP, PARSE_FRAGMENT, PARSE_IP_OPTIONS, PARSE_MALFORMED };

static __always_inline enum parse_result parse_ethernet(void *data, void *data_end, struct datagram *d)
{
	d->eth = data;
	if ((void *)(d->eth + 1) > data_end)
		return PARSE_MALFORMED;
	if (d->eth->h_proto == __constant_htons(ETH_P_8021Q) || d->eth->h_proto == __constant_htons(ETH_P_8021AD))
		return PARSE_VLAN;
	return d->eth->h_proto == __constant_htons(ETH_P_IP) ? PARSE_OK : PARSE_NOT_IPV4;
}

static __always_inline enum parse_result parse_ipv4_udp(void *data_end, struct datagram *d)
{
	d->ip = (void *)(d->eth + 1);
	if ((void *)(d->ip + 1) > data_end || d->ip->version != 4 || d->ip->ihl < 5)
		return PARSE_MALFORMED;
	if (d->ip->protocol != IPPROTO_UDP)
		return PARSE_NOT_UDP;
	if (d->ip->ihl != 5)
		return PARSE_IP_OPTIONS;
	if (d->ip->frag_off & __constant_htons(IP_FRAGMENT_MASK))
		return PARSE_FRAGMENT;
	d->udp = (void *)(d->ip + 1);
	if ((void *)(d->udp + 1) > data_end)
		return PARSE_MALFORMED;
	d->ip_bytes = __builtin_bswap16(d->ip->tot_len);
	if (d->ip_bytes < sizeof(*d->ip) + sizeof(*d->udp) ||
	    d->ip_bytes > (__u64)(data_end - (void *)d->ip) ||
	    __builtin_bswap16(d->udp->len) != d->ip_bytes - sizeof(*d->ip) ||
	    d->eth->h_dest[0] & 1)
		return PARSE_MALFORMED;
	d->payload_bytes = d->ip_bytes - sizeof(*d->ip) - sizeof(*d->udp);
	return PARSE_OK;
}

/* True when the payload starts like RTP: 12 bytes and version 2 (RFC 3550 5.1). */
static __always_inline bool parse_rtp(void *data_end, const struct datagram *d, struct rtp_mark *mark)
{
	__u8 *rtp = (void *)(d->udp + 1);

	if (d->payload_bytes < RTP_HEADER_BYTES || (void *)(rtp + RTP_HEADER_BYTES) > data_end || rtp[0] >> 6 != 2)
		return false;
	mark->sequence = __builtin_bswap16(*(__u16 *)(rtp + 2));
	mark->ssrc = __builtin_bswap32(*(__u32 *)(rtp + 8));
	return true;
}
