/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Parses a frame. Functions fill their result and return PARSE_OK or true, or the reason why not. Every access is
 * checked against data_end.
 */
#pragma once
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include "types.h"
#include "verifier.h"

#define IP_FRAGMENT_MASK 0x3fff /* more fragments, or an offset */
#define IP_OFFSET_MASK 0x1fff
#define IPV6_OFFSET_MASK 0xfff8
#define IP_DONT_FRAGMENT 0x4000
#define MAX_EXTENSION_HEADERS 6
#define MAX_HEADERS_MASK 0x3fff /* over all headers before UDP: MAX_EXTENSION_HEADERS of up to 2,048 bytes */
#define TAG_BYTES 4
#define VLAN_ID_MASK 0x0fff
#define RTP_HEADER_BYTES 12
#define RTP_PLAIN 0x80 /* version 2 without padding, extension and CSRC list */
#define RTP_PADDING 0x20
#define RTP_EXTENSION 0x10
#define RTCP_FIRST 200 /* second bytes of RTCP packets; on an RTP port they are the packets of rtcp-mux (RFC 5761 4) */
#define RTCP_LAST 213
#define MAX_FRAME_BYTES 0x3fff /* no XDP program gets a longer one in one piece */

/* A UDP datagram in an unfragmented IPv4 packet without options, or an IPv6 packet without extension headers. */
struct datagram {
	struct ethhdr *eth;
	struct udphdr *udp;
	struct iphdr *ip;        /* where is_ipv6 is not set */
	struct ipv6hdr *ipv6;    /* where it is */
	/* Members that offsets depend on have 64 bits: verifiers before Linux 5.16 do not track shorter ones on the stack. */
	__u64 is_ipv6;           /* 0 or 1 */
	__be16 tags[4] __attribute__((aligned(8))); /* as in struct link_key */
	__u64 tag_count;         /* in the frame, those with the reserved VLAN id 0 included */
	__u32 ip_bytes;          /* of the IP packet, with its header */
	__u32 payload_bytes;     /* of UDP */
};

/* The members of an RTP header that latching and statistics need, host order. */
struct rtp_mark {
	__u32 ssrc;
	__u32 timestamp;
	__u16 sequence;
	__u8 payload_type;
	bool is_marker;
};

/* Why a frame cannot be forwarded. */
enum parse_result {
	PARSE_OK,
	PARSE_NOT_IP,
	PARSE_VLAN,
	PARSE_NOT_UDP,
	PARSE_FRAGMENT,
	PARSE_IP_OPTIONS,
	PARSE_EXTENSION_HEADER,
	PARSE_MALFORMED
};

static __always_inline bool parse_is_tag(__be16 type)
{
	return type == __constant_htons(ETH_P_8021Q) || type == __constant_htons(ETH_P_8021AD);
}

/* Set what parse_datagram leaves alone where it is not in the frame. */
static __always_inline void parse_begin(struct datagram *d)
{
	__builtin_memset(d->tags, 0, sizeof(d->tags));
	d->tag_count = 0;
	d->ip = NULL;
	d->ipv6 = NULL;
}

/* Note a tag, unless it is only a priority tag (802.1Q, VLAN id 0). */
static __always_inline void parse_note_tag(struct datagram *d, __be16 type, __be16 tci)
{
	__be16 id = tci & __constant_htons(VLAN_ID_MASK);

	if (!id)
		return;
	if (!d->tags[0]) {
		d->tags[0] = type;
		d->tags[1] = id;
	} else {
		d->tags[2] = type;
		d->tags[3] = id;
	}
}

/* Parse the Ethernet header with up to `most` tags. `type` becomes the EtherType of the packet after them. */
static __always_inline enum parse_result parse_ethernet(void *data, void *data_end, __u32 most, struct datagram *d,
							__be16 *type)
{
	__be16 *words = data;

	d->eth = data;
	if ((void *)(d->eth + 1) > data_end)
		return PARSE_MALFORMED;
	*type = d->eth->h_proto;
	if (!parse_is_tag(*type))
		return PARSE_OK;
	if ((void *)(words + 9) > data_end)
		return PARSE_MALFORMED;
	parse_note_tag(d, *type, words[7]);
	*type = words[8];
	d->tag_count = 1;
	if (parse_is_tag(*type)) {
		if ((void *)(words + 11) > data_end)
			return PARSE_MALFORMED;
		parse_note_tag(d, *type, words[9]);
		*type = words[10];
		d->tag_count = 2;
	}
	return parse_is_tag(*type) || d->tag_count > most ? PARSE_VLAN : PARSE_OK;
}

static __always_inline enum parse_result parse_ipv4(void *data_end, struct datagram *d)
{
	struct iphdr *ip = d->ip;

	if ((void *)(ip + 1) > data_end || ip->version != 4 || ip->ihl < 5)
		return PARSE_MALFORMED;
	if (ip->protocol != IPPROTO_UDP)
		return PARSE_NOT_UDP;
	if (ip->ihl != 5)
		return PARSE_IP_OPTIONS;
	if (ip->frag_off & __constant_htons(IP_FRAGMENT_MASK))
		return PARSE_FRAGMENT;
	d->udp = (void *)(ip + 1);
	d->ip_bytes = __builtin_bswap16(ip->tot_len);
	return PARSE_OK;
}

static __always_inline enum parse_result parse_ipv6(void *data_end, struct datagram *d)
{
	struct ipv6hdr *ipv6 = d->ipv6;

	if ((void *)(ipv6 + 1) > data_end || ipv6->version != 6)
		return PARSE_MALFORMED;
	switch (ipv6->nexthdr) {
	case IPPROTO_UDP:
		break;
	case IPPROTO_FRAGMENT:
		return PARSE_FRAGMENT;
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
	case IPPROTO_AH:
	case IPPROTO_MH:
		return PARSE_EXTENSION_HEADER;
	default:
		return PARSE_NOT_UDP;
	}
	d->udp = (void *)(ipv6 + 1);
	d->ip_bytes = sizeof(*ipv6) + __builtin_bswap16(ipv6->payload_len);
	return PARSE_OK;
}

/* Parse all headers of a frame of `frame_bytes`, whose end may lie beyond data_end. Up to `most` tags are allowed. */
static __always_inline enum parse_result parse_datagram(void *data, void *data_end, __u32 frame_bytes, __u32 most,
							struct datagram *d)
{
	__be16 type = 0;
	enum parse_result parsed = parse_ethernet(data, data_end, most, d, &type);
	__u64 is_ipv6 = type == __constant_htons(ETH_P_IPV6), ip_at, *tags = (void *)d->tags;
	__u32 headers;

	if (parsed != PARSE_OK)
		return parsed;
	d->tag_count = verifier_forget(d->tag_count, frame_bytes) & 3;
	*tags = verifier_forget(*tags, frame_bytes);
	ip_at = sizeof(*d->eth) + TAG_BYTES * d->tag_count;
	/* Makes the compiler test this once; otherwise the verifier follows packets that change their family on the way. */
	asm volatile("" : "+r"(is_ipv6));
	d->is_ipv6 = is_ipv6;
	if (is_ipv6) {
		d->ipv6 = data + ip_at;
		parsed = parse_ipv6(data_end, d);
		headers = sizeof(*d->ipv6) + sizeof(*d->udp);
	} else if (type == __constant_htons(ETH_P_IP)) {
		d->ip = data + ip_at;
		parsed = parse_ipv4(data_end, d);
		headers = sizeof(*d->ip) + sizeof(*d->udp);
	} else {
		return PARSE_NOT_IP;
	}
	if (parsed != PARSE_OK)
		return parsed;
	if ((void *)(d->udp + 1) > data_end || d->ip_bytes < headers || ip_at + d->ip_bytes > frame_bytes ||
	    __builtin_bswap16(d->udp->len) != d->ip_bytes - headers + sizeof(*d->udp) ||
	    d->eth->h_dest[0] & 1)
		return PARSE_MALFORMED;
	d->payload_bytes = d->ip_bytes - headers;
	return PARSE_OK;
}

/* What can be found out about a frame that parse_datagram refused. */
enum parse_odd_result {
	PARSE_ODD_OTHER,    /* it brings no UDP datagram to userspace */
	PARSE_ODD_PORTS,    /* it does, or its first fragment, to a known port */
	PARSE_ODD_FRAGMENT, /* not the first fragment, so without ports */
	PARSE_ODD_UNKNOWN,  /* the UDP header is too far behind */
};

static __always_inline bool parse_is_extension(__u32 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS;
}

/* Walk over the extension headers at `at`. Not over AH: whoever can send it has a key. */
static __always_inline enum parse_odd_result parse_extensions(void *data, void *data_end, __u32 next, __u64 noise,
							    __u64 *at)
{
#pragma unroll
	for (int number = 0; number < MAX_EXTENSION_HEADERS; number++) {
		__u8 *header = data + *at;

		if (next == IPPROTO_UDP)
			return PARSE_ODD_PORTS;
		if (next != IPPROTO_FRAGMENT && !parse_is_extension(next))
			return PARSE_ODD_OTHER;
		if ((void *)(header + 4) > data_end)
			return PARSE_ODD_UNKNOWN;
		if (next != IPPROTO_FRAGMENT)
			*at += 8 * (__u64)header[1];
		else if (*(__be16 *)(header + 2) & __constant_htons(IPV6_OFFSET_MASK))
			return PARSE_ODD_FRAGMENT;
		*at = verifier_forget(*at + 8, noise) & MAX_HEADERS_MASK;
		next = header[0];
	}
	return next == IPPROTO_UDP ? PARSE_ODD_PORTS : PARSE_ODD_UNKNOWN;
}

/*
 * Find the ports of a frame that parse_datagram refused, though userspace may get it: behind options, behind extension
 * headers, in the first fragment, or with lengths that contradict each other. `ports` become source and destination.
 */
static __always_inline enum parse_odd_result parse_odd(void *data, void *data_end, struct datagram *d, __be16 ports[2])
{
	__u64 at = 2 * ETH_ALEN + TAG_BYTES * (d->tag_count & 3), noise = d->tag_count;
	__be16 *type = data + at, *found;
	enum parse_odd_result result = PARSE_ODD_PORTS;

	if ((void *)(type + 1) + sizeof(struct iphdr) > data_end)
		return PARSE_ODD_OTHER;
	at += sizeof(*type);
	if (*type == __constant_htons(ETH_P_IP)) {
		d->is_ipv6 = 0;
		d->ip = (void *)(type + 1);
		if (d->ip->version != 4 || d->ip->protocol != IPPROTO_UDP)
			return PARSE_ODD_OTHER;
		if (d->ip->frag_off & __constant_htons(IP_OFFSET_MASK))
			return PARSE_ODD_FRAGMENT;
		at += 4 * d->ip->ihl;
	} else if (*type == __constant_htons(ETH_P_IPV6)) {
		d->is_ipv6 = 1;
		d->ipv6 = (void *)(type + 1);
		if ((void *)(d->ipv6 + 1) > data_end || d->ipv6->version != 6)
			return PARSE_ODD_OTHER;
		at += sizeof(*d->ipv6);
		result = parse_extensions(data, data_end, d->ipv6->nexthdr, noise, &at);
	} else {
		return PARSE_ODD_OTHER;
	}
	if (result != PARSE_ODD_PORTS)
		return result;
	found = data + (verifier_forget(at, noise) & MAX_HEADERS_MASK);
	if ((void *)(found + 2) > data_end)
		return PARSE_ODD_UNKNOWN;
	ports[0] = found[0];
	ports[1] = found[1];
	return PARSE_ODD_PORTS;
}

/* Is the version 2, and do CSRC list, extension and padding fit into a payload of at least 12 bytes? */
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

/* Is the IPv4 header's checksum right? */
static __always_inline bool parse_is_ipv4_header_right(const struct iphdr *ip)
{
	const __u32 *words = (const void *)ip;
	__u64 sum = (__u64)words[0] + words[1] + words[2] + words[3] + words[4];

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

/* Parse the RTP header. False when the payload is not an RTP packet (protocol.md 5.8). */
static __always_inline bool parse_rtp(void *data_end, const struct datagram *d, struct rtp_mark *mark)
{
	__u8 *rtp = (void *)(d->udp + 1);

	if (d->payload_bytes < RTP_HEADER_BYTES || (void *)(rtp + RTP_HEADER_BYTES) > data_end)
		return false;
	if ((__u8)(rtp[1] - RTCP_FIRST) <= RTCP_LAST - RTCP_FIRST)
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

/* Read SSRC and sequence number of what looks like RTP. Few checks, so that the verifier has few paths to follow. */
static __always_inline bool parse_ssrc(void *data_end, const struct datagram *d, struct rtp_mark *mark)
{
	__u8 *rtp = (void *)(d->udp + 1);

	if (d->payload_bytes < RTP_HEADER_BYTES || (void *)(rtp + RTP_HEADER_BYTES) > data_end || rtp[0] >> 6 != 2)
		return false;
	mark->sequence = __builtin_bswap16(*(__u16 *)(rtp + 2));
	mark->ssrc = __builtin_bswap32(*(__u32 *)(rtp + 8));
	return true;
}
