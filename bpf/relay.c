/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The data plane. The controller decides, these programs carry it out: what has no entry goes up to userspace, for a
 * counted reason. Compiled by bcc, which rewrites map accesses in this file only, so all lookups stand here.
 */
#include <linux/bpf.h>
#include "maps.h"
#include "parse.h"
#include "verdict.h"
#include "rewrite.h"
#include "account.h"

/* Names carry the instance, so that a restarted controller finds what its killed predecessor left. */
#ifndef ON_XDP
#define ON_XDP on_xdp
#endif
#ifndef ON_STEER
#define ON_STEER on_steer
#endif

/*
 * Which port space an address of ours has. ANY_IPV4_SLOT and ANY_IPV6_SLOT are set where one space holds the whole
 * family. Otherwise FIRST_IPV4 (network order) with FIRST_IPV4_SLOT saves most packets the look-up.
 */
#define NO_SLOT LOCAL_SLOTS

#define AF_INET6 10

/* Payloads shorter than this are left to the controller, which sends them twice. */
#ifndef DOUBLED_BYTES
#define DOUBLED_BYTES 0
#endif

/* The number of a counter in `struct verdicts`, by its name. */
#define VERDICT(name) (__builtin_offsetof(struct verdicts, name) / sizeof(__u64))

/* Counts a verdict other than forwarding, and answers it. */
static __always_inline int conclude(int action, __u32 verdict)
{
	__u32 zero = 0;
	struct verdicts *count = verdicts.lookup(&zero);

	if (count && verdict < sizeof(*count) / sizeof(__u64))
		((__u64 *)count)[verdict]++;
	return action;
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

static __always_inline __u32 slot_of_ipv6(const struct bpf_sk_lookup *ctx)
{
#ifdef ANY_IPV6_SLOT
	return ANY_IPV6_SLOT;
#endif
	return slot_of(ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3]);
}

/* A router sees packets to other machines, too, and a wildcard's port space has their destination ports. */
static __always_inline bool is_ours(__be32 host)
{
	return host_addresses.lookup(&host) != NULL;
}

static __always_inline int pass_unparsed(enum parse_result why)
{
	switch (why) {
	case PARSE_NOT_IPV4:
		return conclude(XDP_PASS, VERDICT(up_not_ipv4));
	case PARSE_VLAN:
		return conclude(XDP_PASS, VERDICT(up_vlan));
	case PARSE_NOT_UDP:
		return conclude(XDP_PASS, VERDICT(up_not_udp));
	case PARSE_FRAGMENT:
		return conclude(XDP_PASS, VERDICT(up_fragment));
	case PARSE_IP_OPTIONS:
		return conclude(XDP_PASS, VERDICT(up_ip_options));
	default:
		return conclude(XDP_PASS, VERDICT(up_malformed));
	}
}

/* The RTP statistics and the latching memory of a packet that is forwarded. */
static __always_inline void count_rtp(void *data_end, const struct datagram *d, struct port_counters *counters,
				      __u32 index, __u64 now_ns)
{
	struct rtp_mark mark = {};
	bool is_rtp = parse_rtp(data_end, d, &mark), is_measured = true;
	bool is_next = is_rtp && account_is_next(counters, &mark);

	if (!is_next || account_is_memory_due(counters, now_ns)) {
		struct port_events *events = port_events.lookup(&index);

		if (!events)
			return;
		if (!is_rtp) {
			events->parse_errors++;
			return;
		}
		if (account_is_memory_due(counters, now_ns))
			account_memory(events, &mark, now_ns);
		if (!is_next)
			is_measured = account_unusual(counters, events, &mark, now_ns);
	}
	if (is_next)
		counters->highest++;
	if (is_measured)
		account_jitter(counters, &mark, now_ns);
}

int ON_XDP(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct datagram d = {};
	struct entry e;
	struct way_out out;
	__u32 offset, slot, index;
	__u64 now_ns;

	enum parse_result parsed = parse_ethernet(data, data_end, &d);
	if (parsed == PARSE_OK)
		parsed = parse_ipv4_udp(data_end, &d);
	if (parsed != PARSE_OK)
		return pass_unparsed(parsed);

	offset = __builtin_bswap16(d.udp->dest) - FIRST_PORT;
	if (offset >= PORT_SPAN)
		return conclude(XDP_PASS, VERDICT(up_not_ours));
	slot = slot_of_ipv4(d.ip->daddr);
	if (slot >= LOCAL_SLOTS)
		return conclude(XDP_PASS, VERDICT(up_not_ours));
	index = slot * PORT_SPAN + offset;
	/* Reading the clock waits for loads that are under way, so it comes before those that take long. */
	now_ns = bpf_ktime_get_ns();
	struct port_row *row = port_rows.lookup(&index);
	struct port_counters *counters = port_counters.lookup(&index);
	if (!row || !counters)
		return XDP_PASS;
	/* With thousands of calls, row and counters are both out of the nearer caches; loaded here, they come at once. */
	(void)READ_ONCE(counters->packets);
	if (!row->is_open)
		return conclude(XDP_PASS, VERDICT(up_not_ours));
	switch (verdict_read_entry(row, &e)) {
	case ENTRY_OK:
		break;
	case ENTRY_NONE:
		return conclude(XDP_PASS, VERDICT(up_no_entry));
	case ENTRY_CHANGING:
		return conclude(XDP_PASS, VERDICT(up_entry_changing));
	}

	if (!verdict_is_locked_source(&e, &d)) {
		if (d.ip->daddr != e.local_host && !is_ours(d.ip->daddr))
			return conclude(XDP_PASS, VERDICT(up_not_ours));
		struct port_events *events = port_events.lookup(&index);
		if (!events || account_other_source(events, now_ns))
			return conclude(XDP_PASS, VERDICT(up_other_source));
		return conclude(XDP_DROP, VERDICT(dropped_other_source));
	}
	if (d.ip->daddr != e.local_host)
		return conclude(XDP_PASS, VERDICT(up_other_address));

	struct next_hop *hop = next_hops.lookup(&e.next_hop);
	if (!hop)
		return conclude(XDP_PASS, VERDICT(up_no_next_hop));
	switch (verdict_read_next_hop(hop, &out)) {
	case ENTRY_OK:
		break;
	case ENTRY_NONE:
		return conclude(XDP_PASS, VERDICT(up_no_next_hop));
	case ENTRY_CHANGING:
		return conclude(XDP_PASS, VERDICT(up_entry_changing));
	}
	if (d.ip_bytes > out.mtu)
		return conclude(XDP_PASS, VERDICT(up_too_long));
	if (d.payload_bytes < DOUBLED_BYTES)
		return conclude(XDP_PASS, VERDICT(up_doubled));

	if (e.is_rtp)
		count_rtp(data_end, &d, counters, index, now_ns);
	account_forwarded(counters, now_ns);
	rewrite_udp(d.udp, &e);
	rewrite_ipv4(d.ip, &e);
	rewrite_ethernet(d.eth, &out);
	return bpf_redirect(out.ifindex, 0);
}

/* Hands packets for an open port to one of the controller's sockets; everything else goes its usual way. */
int ON_STEER(struct bpf_sk_lookup *ctx)
{
	__u32 port = ctx->local_port, offset = port - FIRST_PORT, slot, index, number;
	bool is_ipv6 = ctx->family == AF_INET6;

	if (ctx->protocol != IPPROTO_UDP || offset >= PORT_SPAN)
		return SK_PASS;
	slot = is_ipv6 ? slot_of_ipv6(ctx) : slot_of_ipv4(ctx->local_ip4);
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
