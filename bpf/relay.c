/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The data plane. The controller decides, these programs carry it out: what has no entry goes up to userspace, for a
 * counted reason. XDP and TC judge a frame alike; how it is rewritten and sent depends on the hook. Compiled by bcc,
 * which rewrites map accesses in this file only, so all lookups stand here.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include "maps.h"
#include "parse.h"
#include "verdict.h"
#include "rewrite.h"
#include "account.h"

/* Names carry the instance, so that a restarted controller finds what its killed predecessor left. */
#ifndef ON_XDP
#define ON_XDP on_xdp
#endif
#ifndef ON_TC
#define ON_TC on_tc
#endif
#ifndef ON_TC_BEHIND_XDP
#define ON_TC_BEHIND_XDP on_tc_behind_xdp
#endif
#ifndef ON_STEER
#define ON_STEER on_steer
#endif

/*
 * Which port space an address of ours has. ANY_IPV4_SLOT and ANY_IPV6_SLOT are set where one space holds the whole
 * family. Otherwise FIRST_IPV4 (network order) and FIRST_IPV6 (an initializer of four words) with FIRST_IPV4_SLOT and
 * FIRST_IPV6_SLOT save most packets the look-up.
 */
#define NO_SLOT LOCAL_SLOTS

#define AF_INET6 10

/* Payloads shorter than this are left to the controller, which sends them twice. */
#ifndef DOUBLED_BYTES
#define DOUBLED_BYTES 0
#endif

/* The number of a counter in `struct verdicts`, by its name. */
#define VERDICT(name) (__builtin_offsetof(struct verdicts, name) / sizeof(__u64))
#define FORWARD (sizeof(struct verdicts) / sizeof(__u64))

#define TAG_BYTES_MASK 0xc /* as the verifier must see: 0, 4 or 8 */

/* Bytes that every header of a datagram fits into, RTP's included. */
#define HEADER_BYTES (sizeof(struct ethhdr) + 2 * TAG_BYTES + sizeof(struct ipv6hdr) + sizeof(struct udphdr) + RTP_HEADER_BYTES)

enum hook { HOOK_XDP, HOOK_TC, HOOK_TC_BEHIND_XDP };

/* A frame at a hook, and what is found out about it on the way through the program. */
struct frame {
	void *data;
	void *data_end;
	__u32 bytes; /* of the whole frame, which may go on beyond data_end */
	__u32 ifindex;
	__be16 taken_tag[2]; /* protocol and tag control of a VLAN tag that was taken off the frame; 0: none */
	bool is_aggregated;
	bool is_ours; /* it is this hook's to forward, and to count */
	struct datagram datagram;
	struct port_row *row;
	struct port_hosts6 *hosts6; /* of the row; NULL until it is known to need them */
	__u32 index;                /* of the row */
	struct entry entry;
	struct way_out out;
	struct port_counters *counters;
	__u64 now_ns;
	bool is_rtp;
	struct rtp_mark mark;
	bool is_summed; /* the checksum was computed */
	__be16 check;
};

/* Counts a verdict other than forwarding. */
static __always_inline void count_verdict(__u32 verdict)
{
	__u32 zero = 0;
	struct verdicts *count = verdicts.lookup(&zero);

	if (count && verdict < FORWARD)
		((__u64 *)count)[verdict]++;
}

static __always_inline bool is_dropped(__u32 verdict)
{
	return verdict == VERDICT(dropped_other_source) || verdict == VERDICT(dropped_going_round) ||
	       verdict == VERDICT(dropped_no_memory);
}

static __always_inline __u32 slot_of(__be32 a, __be32 b, __be32 c, __be32 d)
{
	struct local_address address = {{a, b, c, d}};
	__u32 *slot = local_slots.lookup(&address);

	return slot ? *slot : NO_SLOT;
}

static __always_inline __u32 slot_of_ipv4(__be32 host)
{
#ifdef ANY_IPV4_SLOT
	return ANY_IPV4_SLOT;
#endif
#ifdef FIRST_IPV4
	if (host == FIRST_IPV4)
		return FIRST_IPV4_SLOT;
#endif
	return slot_of(0, 0, __constant_htonl(0xffff), host);
}

static __always_inline __u32 slot_of_ipv6(__be32 a, __be32 b, __be32 c, __be32 d)
{
#ifdef ANY_IPV6_SLOT
	return ANY_IPV6_SLOT;
#endif
#ifdef FIRST_IPV6
	const __be32 first[4] = FIRST_IPV6;

	if (a == first[0] && b == first[1] && c == first[2] && d == first[3])
		return FIRST_IPV6_SLOT;
#endif
	return slot_of(a, b, c, d);
}

static __always_inline __u32 slot_of_datagram(const struct datagram *d)
{
	const __be32 *words;

	if (!d->is_ipv6)
		return slot_of_ipv4(d->ip->daddr);
	words = d->ipv6->daddr.s6_addr32;
	return slot_of_ipv6(words[0], words[1], words[2], words[3]);
}

/* A router sees packets to other machines, too, and a wildcard's port space has their destination ports. */
static __always_inline bool is_host_address(const struct datagram *d)
{
	struct local_address address = {{0, 0, __constant_htonl(0xffff), 0}};

	if (d->is_ipv6)
		__builtin_memcpy(&address, &d->ipv6->daddr, sizeof(address));
	else
		address.words[3] = d->ip->daddr;
	return host_addresses.lookup(&address) != NULL;
}

static __always_inline __u32 verdict_of_unparsed(enum parse_result why)
{
	switch (why) {
	case PARSE_NOT_IP:
		return VERDICT(up_not_ip);
	case PARSE_VLAN:
		return VERDICT(up_vlan);
	case PARSE_NOT_UDP:
		return VERDICT(up_not_udp);
	case PARSE_FRAGMENT:
		return VERDICT(up_fragment);
	case PARSE_IP_OPTIONS:
		return VERDICT(up_ip_options);
	case PARSE_EXTENSION_HEADER:
		return VERDICT(up_extension_header);
	default:
		return VERDICT(up_malformed);
	}
}

/* Find the row of the port that a frame is for; FORWARD when it has an open one. */
static __always_inline __u32 find_row(struct frame *f)
{
	struct datagram *d = &f->datagram;
	__u32 offset, slot;

	__builtin_memset(d, 0, sizeof(*d));
	if (f->taken_tag[0])
		parse_note_tag(d, f->taken_tag[0], f->taken_tag[1]);
	enum parse_result parsed = parse_datagram(f->data, f->data_end, f->bytes, f->taken_tag[0] ? 1 : 2, d);
	if (parsed != PARSE_OK)
		return verdict_of_unparsed(parsed);
	offset = __builtin_bswap16(d->udp->dest) - FIRST_PORT;
	if (offset >= PORT_SPAN)
		return VERDICT(up_not_ours);
	slot = slot_of_datagram(d);
	if (slot >= LOCAL_SLOTS)
		return VERDICT(up_not_ours);
	f->index = slot * PORT_SPAN + offset;
	/* Reading the clock waits for loads that are under way, so it comes before those that take long. */
	f->now_ns = bpf_ktime_get_ns();
	f->row = port_rows.lookup(&f->index);
	f->counters = port_counters.lookup(&f->index);
	if (!f->row || !f->counters)
		return VERDICT(up_not_ours);
	/* With thousands of calls, row and counters are both out of the nearer caches; loaded here, they come at once. */
	(void)READ_ONCE(f->counters->packets);
	f->hosts6 = NULL;
	if (d->is_ipv6) {
		f->hosts6 = port_hosts6.lookup(&f->index);
		if (f->hosts6)
			(void)READ_ONCE(f->hosts6->remote_host[0]);
	}
	return f->row->is_open ? FORWARD : VERDICT(up_not_ours);
}

/* The entry of the row, and the next hop that it names. */
static __always_inline __u32 read_entry(struct frame *f)
{
	__u32 index = f->index;

	if (!f->hosts6 && (READ_ONCE(f->row->is_ipv6) || READ_ONCE(f->row->is_to_ipv6)))
		f->hosts6 = port_hosts6.lookup(&index);
	switch (verdict_read_entry(f->row, f->hosts6, &f->entry)) {
	case ENTRY_NONE:
		return VERDICT(up_no_entry);
	case ENTRY_CHANGING:
		return VERDICT(up_entry_changing);
	case ENTRY_OK:
		break;
	}
	struct next_hop *hop = next_hops.lookup(&f->entry.next_hop);
	if (!hop)
		return VERDICT(up_no_next_hop);
	switch (verdict_read_next_hop(hop, &f->out)) {
	case ENTRY_NONE:
		return VERDICT(up_no_next_hop);
	case ENTRY_CHANGING:
		return VERDICT(up_entry_changing);
	case ENTRY_OK:
		break;
	}
	return FORWARD;
}

/* Whether it is to this host, by its tags and its MAC. */
static __always_inline __u32 check_link(const struct frame *f)
{
	struct link_key key = {.ifindex = f->ifindex};
	struct link *link;

	if (!f->datagram.tags[0] && key.ifindex < UNTAGGED_LINKS) {
		link = untagged_links.lookup(&key.ifindex);
	} else {
		__builtin_memcpy(key.tags, f->datagram.tags, sizeof(key.tags));
		link = links.lookup(&key);
	}
	if (!link)
		return VERDICT(up_vlan);
	return verdict_is_to_link(f->datagram.eth, link) ? FORWARD : VERDICT(up_other_mac);
}

static __always_inline __u32 check_source(const struct frame *f)
{
	const struct datagram *d = &f->datagram;
	__u32 index = f->index;

	if (verdict_is_locked_source(&f->entry, d))
		return verdict_is_local_host(&f->entry, d) ? FORWARD : VERDICT(up_other_address);
	if (!verdict_is_local_host(&f->entry, d) && !is_host_address(d))
		return VERDICT(up_not_ours);
	struct port_events *events = port_events.lookup(&index);
	if (!events || account_other_source(events, f->now_ns))
		return VERDICT(up_other_source);
	return VERDICT(dropped_other_source);
}

/* The checksum where it cannot be updated: it is absent and may not stay so, or it was left to an interface. */
static __always_inline __u32 check_sum(struct frame *f, enum hook hook)
{
	const struct datagram *d = &f->datagram;
	__u32 sum;

	f->is_summed = false;
	if (!d->udp->check) {
		if (d->is_ipv6)
			return VERDICT(up_no_checksum);
		if (!f->entry.is_to_ipv6)
			return FORWARD;
	} else if (hook != HOOK_XDP || !rewrite_is_unfinished(d, &f->entry)) {
		/* At TC the kernel tells an unfinished checksum, and its helpers keep it so. */
		return FORWARD;
	}
	if (!rewrite_sum(f->data_end, d, &sum))
		return VERDICT(up_no_checksum);
	f->check = rewrite_compute(d->udp, &f->entry, sum);
	f->is_summed = true;
	return FORWARD;
}

/* What leaves, in bytes of IP packet. */
static __always_inline __u32 bytes_out(const struct frame *f)
{
	return f->datagram.payload_bytes + sizeof(struct udphdr) +
	       (f->entry.is_to_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
}

/* All that is asked of a frame whose row was found; nothing is changed but what is counted of strangers. */
static __always_inline __u32 judge(struct frame *f, enum hook hook)
{
	const struct datagram *d = &f->datagram;
	__u32 verdict = read_entry(f);

	if (verdict != FORWARD)
		return verdict;
	if (hook == HOOK_XDP && !f->out.xdp_ifindex)
		return VERDICT(up_to_tc);
	if (hook == HOOK_TC_BEHIND_XDP && f->out.xdp_ifindex)
		return VERDICT(up_no_entry); /* XDP's, which counted it; not counted here, because it is not ours */
	f->is_ours = true;
	verdict = check_link(f);
	if (verdict == FORWARD)
		verdict = check_source(f);
	if (verdict != FORWARD)
		return verdict;
	if (!d->is_ipv6 && !parse_is_ipv4_header_right(d->ip))
		return VERDICT(up_bad_checksum);
	if (f->is_aggregated)
		return VERDICT(up_aggregated);
	if (bytes_out(f) > f->out.mtu)
		return VERDICT(up_too_long);
	if (d->payload_bytes < DOUBLED_BYTES)
		return VERDICT(up_doubled);
	f->is_rtp = f->entry.is_rtp && parse_rtp(f->data_end, d, &f->mark);
	return check_sum(f, hook);
}

/* Of a packet that has no number to tell whether it came before. */
static __always_inline __u32 count_unnumbered(const struct frame *f)
{
	__u32 index = f->index;
	struct port_events *events = port_events.lookup(&index);

	if (!events)
		return FORWARD;
	if (account_is_going_round(events, f->now_ns, UNNUMBERED_PER_SECOND))
		return VERDICT(dropped_going_round);
	if (f->entry.is_rtp)
		events->parse_errors++;
	return FORWARD;
}

/* The RTP statistics and the latching memory. */
static __always_inline __u32 count_rtp(const struct frame *f)
{
	struct port_counters *counters = f->counters;
	bool is_next = account_is_next(counters, &f->mark);
	enum account_result result = ACCOUNT_MEASURE;
	__u32 index = f->index;

	if (!is_next || account_is_memory_due(counters, f->now_ns)) {
		struct port_events *events = port_events.lookup(&index);

		if (!events)
			return FORWARD;
		if (account_is_memory_due(counters, f->now_ns))
			account_memory(events, &f->mark, f->now_ns);
		if (!is_next)
			result = account_unusual(counters, events, &f->mark, f->now_ns);
		if (result == ACCOUNT_GOING_ROUND)
			return VERDICT(dropped_going_round);
	}
	if (is_next)
		counters->highest++;
	if (result == ACCOUNT_MEASURE)
		account_jitter(counters, &f->mark, f->now_ns);
	return FORWARD;
}

/*
 * Counts a frame that nothing can keep from being forwarded any more, unless it goes round. After all else, so that the
 * verifier has nothing but this left to follow, and follows it once for all kinds of frames.
 */
static __always_inline __u32 count_forwarded(const struct frame *f)
{
	__u32 verdict = f->is_rtp ? count_rtp(f) : count_unnumbered(f);

	if (verdict == FORWARD)
		account_forwarded(f->counters, f->now_ns);
	return verdict;
}

/* XDP: the frame is rewritten where it lies, after its start was moved so that its payload stays in place. */

static __always_inline __u32 rewrite_xdp(struct xdp_md *ctx, struct frame *f)
{
	const struct datagram *d = &f->datagram;
	const struct way_out *out = &f->out;
	__u32 ip_out = f->entry.is_to_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
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
		*tag++ = out->outer_tag;
		if (out->tag_bytes > TAG_BYTES)
			*tag++ = out->inner_tag;
	}
	*(__be16 *)tag = rewrite_type(&f->entry);
	if (f->entry.is_to_ipv6) {
		if (ip + sizeof(struct ipv6hdr) + sizeof(*udp) > f->data_end)
			return VERDICT(dropped_no_memory);
		udp = ip + sizeof(struct ipv6hdr);
		rewrite_ipv6(ip, &f->entry, bytes_out(f));
	} else {
		if (ip + sizeof(struct iphdr) + sizeof(*udp) > f->data_end)
			return VERDICT(dropped_no_memory);
		udp = ip + sizeof(struct iphdr);
		rewrite_ipv4(ip, &f->entry, bytes_out(f), id);
	}
	udp->source = f->entry.from_port;
	udp->dest = f->entry.to_port;
	udp->check = check;
	return FORWARD;
}

int ON_XDP(struct xdp_md *ctx)
{
	struct frame f = {
		.data = (void *)(long)ctx->data,
		.data_end = (void *)(long)ctx->data_end,
		.bytes = ctx->data_end - ctx->data,
		.ifindex = ctx->ingress_ifindex,
	};
	__u32 verdict = find_row(&f);

	if (verdict == FORWARD)
		verdict = judge(&f, HOOK_XDP);
	if (verdict == FORWARD)
		verdict = rewrite_xdp(ctx, &f);
	if (verdict == FORWARD)
		verdict = count_forwarded(&f);
	if (verdict == FORWARD)
		return bpf_redirect(f.out.xdp_ifindex, 0);
	count_verdict(verdict);
	return is_dropped(verdict) ? XDP_DROP : XDP_PASS;
}

/*
 * TC: the kernel's helpers change the packet, because what the interface knows of the checksum must stay true. The
 * frame leaves by the interface of the route itself, which writes its own tags: bonds, bridges and VLANs do their part.
 * MACs come from the next hop's row, as in XDP. bpf_redirect_neigh with the gateway given was 2 % slower, the controller
 * follows neighbours for XDP anyway, and a row tells it before a packet is lost that there is none.
 */

/* Load pointers and lengths, after `bytes` of the frame were made to lie in one piece. */
static __always_inline void load_tc(struct __sk_buff *skb, struct frame *f, __u32 bytes)
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

/* Take off the tags and put the header of the other family in place of the old one, for its contents to be stored. */
static __always_inline __u32 reshape_tc(struct __sk_buff *skb, const struct frame *f)
{
	__u32 tags = f->datagram.tag_count + (f->taken_tag[0] ? 1 : 0);
	__be16 type = rewrite_type(&f->entry);

	for (int tag = 0; tag < 2; tag++)
		if (tags > tag && bpf_skb_vlan_pop(skb))
			return VERDICT(dropped_no_memory);
	if (f->datagram.is_ipv6 != f->entry.is_to_ipv6 && bpf_skb_change_proto(skb, type, 0))
		return tags ? VERDICT(dropped_no_memory) : VERDICT(up_no_headroom);
	return FORWARD;
}

static __always_inline __u32 rewrite_tc(struct __sk_buff *skb, struct frame *f)
{
	const struct entry *e = &f->entry;
	const struct udphdr *old = f->datagram.udp;
	__u32 ip_out = e->is_to_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 udp_at = sizeof(struct ethhdr) + ip_out, check_at = udp_at + __builtin_offsetof(struct udphdr, check);
	__be16 id = f->datagram.is_ipv6 ? 0 : f->datagram.ip->id;
	__be16 ports[2] = {e->from_port, e->to_port};
	/* The pseudo-header's part of udp_delta, and the ports'. */
	__u32 hosts = (__u32)e->udp_delta + (__u16)~e->from_port + (__u16)~e->to_port + old->dest;
	__u32 port_delta = (__u32)e->from_port + e->to_port + (__u16)~old->source + (__u16)~old->dest;
	bool has_check = old->check;
	struct ethhdr eth __attribute__((aligned(8))) = {.h_proto = rewrite_type(e)};
	__u32 verdict = reshape_tc(skb, f);
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
	if (e->is_to_ipv6) {
		struct ipv6hdr ipv6 __attribute__((aligned(8)));

		rewrite_ipv6(&ipv6, e, bytes_out(f));
		failed |= bpf_skb_store_bytes(skb, sizeof(eth), &ipv6, sizeof(ipv6), BPF_F_RECOMPUTE_CSUM);
	} else {
		struct iphdr ip;

		rewrite_ipv4(&ip, e, bytes_out(f), id);
		failed |= bpf_skb_store_bytes(skb, sizeof(eth), &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
	}
	return failed ? VERDICT(dropped_no_memory) : FORWARD;
}

static __always_inline int serve_tc(struct __sk_buff *skb, enum hook hook)
{
	struct frame f = {.ifindex = skb->ifindex, .is_aggregated = skb->gso_size};
	__u32 verdict;

	if (skb->vlan_present) {
		f.taken_tag[0] = skb->vlan_proto;
		f.taken_tag[1] = __builtin_bswap16(skb->vlan_tci);
	}
	load_tc(skb, &f, HEADER_BYTES);
	verdict = find_row(&f);
	if (verdict == FORWARD && f.data + f.bytes > f.data_end) {
		load_tc(skb, &f, f.bytes);
		verdict = find_row(&f);
	}
	if (verdict == FORWARD)
		verdict = judge(&f, hook);
	if (verdict == FORWARD)
		verdict = rewrite_tc(skb, &f);
	if (verdict == FORWARD)
		verdict = count_forwarded(&f);
	if (verdict == FORWARD)
		return bpf_redirect(f.out.ifindex, 0);
	if (hook == HOOK_TC || f.is_ours)
		count_verdict(verdict);
	/* Filters of others that come after ours have their say. */
	return is_dropped(verdict) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

int ON_TC(struct __sk_buff *skb)
{
	return serve_tc(skb, HOOK_TC);
}

/* On an interface where the XDP program runs, too: only what that leaves to TC, which it has counted as such. */
int ON_TC_BEHIND_XDP(struct __sk_buff *skb)
{
	return serve_tc(skb, HOOK_TC_BEHIND_XDP);
}

/* Hands packets for an open port to one of the controller's sockets; everything else goes its usual way. */
int ON_STEER(struct bpf_sk_lookup *ctx)
{
	__u32 port = ctx->local_port, offset = port - FIRST_PORT, slot, index, number;
	bool is_ipv6 = ctx->family == AF_INET6;

	if (ctx->protocol != IPPROTO_UDP || offset >= PORT_SPAN)
		return SK_PASS;
	if (is_ipv6)
		slot = slot_of_ipv6(ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3]);
	else
		slot = slot_of_ipv4(ctx->local_ip4);
	if (slot >= LOCAL_SLOTS)
		return SK_PASS;
	index = slot * PORT_SPAN + offset;
	struct port_row *row = port_rows.lookup(&index);
	if (!row || !row->is_open)
		return SK_PASS;
	number = (port >> 1) % STEERED_SOCKETS + (is_ipv6 ? STEERED_SOCKETS : 0);
	struct bpf_sock *socket = (void *)steered_sockets.lookup(&number);
	if (!socket)
		return SK_PASS;
	bpf_sk_assign(ctx, socket, 0);
	bpf_sk_release(socket);
	return SK_PASS;
}
