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
#define RTP_PLAIN 0x80 /* version 2 without padding, extension and CSRC list */
#define RTP_PADDING 0x20
#define RTP_EXTENSION 0x10
#define MAX_FRAME_BYTES 0x3fff /* no XDP program gets a longer one in one piece */

/* A UDP datagram in an unfragmented IPv4 packet without options. */
struct datagram {
	struct ethhdr *eth;
	struct iphdr *ip;
	struct udphdr *udp;
	__u32 ip_bytes;      /* IPv4 total length */
	__u32 payload_bytes; /* of UDP */
};

/* The members of an RTP header that latching and statistics need, host order. */
struct rtp_mark {
	__u32 ssrc;
	__u32 timestamp;
	__u16 sequence;
	__u8 payload_type;
	bool is_marker;
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

/* Whether version is 2, and CSRC list, extension and padding fit into a payload of at least 12 bytes. */
static __always_inline bool parse_rtp_extras(void *data_end, const __u8 *rtp, __u32 size)
{
	__u32 payload_at = RTP_HEADER_BYTES + 4 * (rtp[0] & 0x0f), padding = 0, last = size - 1;

	if (rtp[0] >> 6 != 2)
		return false;
	if (rtp[0] & RTP_EXTENSION) {
		if (size < payload_at + 4 || (void *)(rtp + payload_at + 4) > data_end)
			return false;
		payload_at += 4 + 4 * __builtin_bswap16(*(__u16 *)(rtp + payload_at + 2));
	}
	if (rtp[0] & RTP_PADDING) {
		if (last > MAX_FRAME_BYTES || (void *)(rtp + last + 1) > data_end)
			return false;
		padding = rtp[last];
		if (!padding)
			return false;
	}
	return payload_at + padding <= size;
}

/* True when the payload is an RTP packet (protocol.md 5.8). */
static __always_inline bool parse_rtp(void *data_end, const struct datagram *d, struct rtp_mark *mark)
{
	__u8 *rtp = (void *)(d->udp + 1);

	if (d->payload_bytes < RTP_HEADER_BYTES || (void *)(rtp + RTP_HEADER_BYTES) > data_end)
		return false;
	if (rtp[0] != RTP_PLAIN && !parse_rtp_extras(data_end, rtp, d->payload_bytes))
		return false;
	mark->is_marker = rtp[1] >> 7;
	mark->payload_type = rtp[1] & 0x7f;
	mark->sequence = __builtin_bswap16(*(__u16 *)(rtp + 2));
	mark->timestamp = __builtin_bswap32(*(__u32 *)(rtp + 4));
	mark->ssrc = __builtin_bswap32(*(__u32 *)(rtp + 8));
	return true;
}
