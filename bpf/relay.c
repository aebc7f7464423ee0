/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The data plane: all look-ups, and all entry points. The controller decides and these programs execute: a frame
 * without an entry goes to userspace, for a counted reason. XDP and TC judge frames alike; rewriting and sending depend
 * on the hook. bcc rewrites map accesses in this file only, so all look-ups are here; what needs none is in headers.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include "maps.h"
#include "account.h"
#include "batch.h"
#include "budget.h"
#include "frame.h"
#include "hook_tc.h"
#include "hook_xdp.h"
#include "tee.h"
#ifdef NET_DEVICE_IFINDEX
#include "unsent.h"
#endif

/*
 * The port space of a local address. ANY_IPV4_SLOT and ANY_IPV6_SLOT are set where one space holds the whole
 * family. Otherwise FIRST_IPV4 (network order) and FIRST_IPV6 (an initializer of four words) with FIRST_IPV4_SLOT and
 * FIRST_IPV6_SLOT save most packets the look-up.
 */
#define NO_SLOT LOCAL_SLOTS

#define AF_INET6 10

/* Payloads shorter than this are left to the controller, which sends them twice. */
#ifndef DOUBLED_BYTES
#define DOUBLED_BYTES 0
#endif

/* Count a verdict other than FORWARD. */
static __always_inline void count_verdict(__u32 verdict)
{
	__u32 zero = 0;
	__u64 place = verdict;
	struct verdicts *count = verdicts.lookup(&zero);

	/* The number that is tested is the one that is used, so that the verifier sees the bound. */
	asm volatile("" : "+r"(place));
	if (count && place < FORWARD)
		((__u64 *)count)[place]++;
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

/* Is it for an address of this host? A router also sees packets to other machines, with ports of a wildcard's space. */
static __always_inline bool is_host_address(const struct datagram *d)
{
	struct local_address address = {{0, 0, __constant_htonl(0xffff), 0}};

	if (d->is_ipv6)
		__builtin_memcpy(&address, &d->ipv6->daddr, sizeof(address));
	else
		address.words[3] = d->ip->daddr;
	return host_addresses.lookup(&address) != NULL;
}

/* When the batch began that this CPU has from a driver; 0 until that was read. NULL at TC, which gets no batches. */
static __always_inline __u64 *batch_time(const struct frame *f)
{
	__u32 zero = 0;

	return f->hook == HOOK_XDP ? batch_began.lookup(&zero) : NULL;
}

/* Every frame that may be redirected comes by here, because that is how the next batch is noticed. */
static __always_inline void note_batch(const struct frame *f)
{
	__u64 *began_ns = batch_time(f);

	if (began_ns && !batch_goes_on())
		*began_ns = 0;
}

/*
 * Read the precise clock, once for the packets of a batch: their driver hands them over together, and when each of them
 * came, nobody knows any more.
 */
static __always_inline void read_precise_clock(struct frame *f)
{
	__u64 *began_ns = batch_time(f);

	f->is_precise = true;
	f->now_ns = began_ns ? *began_ns : 0;
	if (f->now_ns)
		return;
	f->now_ns = bpf_ktime_get_ns();
	if (began_ns)
		*began_ns = f->now_ns;
}

/*
 * Read the clock that the packet deserves. The precise one costs 22 ns, as much as all else but the look-ups, so it is
 * for packets whose jitter will be measured; the other is that of the last timer interrupt, 1 to 10 ms ago. Here, before
 * the look-ups, the precise one costs least: it waits for loads under way, and those that follow do not wait for it.
 */
static __always_inline void read_clock(struct frame *f)
{
	f->is_precise = false;
	note_batch(f);
	if (jitter_is_wanted(f->data_end, &f->datagram))
		read_precise_clock(f);
	else
		f->now_ns = bpf_ktime_get_coarse_ns();
}

static __always_inline void read_source(const struct datagram *d, struct local_address *source)
{
	source->words[0] = source->words[1] = 0;
	source->words[2] = __constant_htonl(0xffff);
	if (d->is_ipv6)
		__builtin_memcpy(source, &d->ipv6->saddr, sizeof(*source));
	else
		source->words[3] = d->ip->saddr;
}

/* Find the row of the port that a frame is for; FORWARD when it has an open one. */
static __always_inline __u32 find_row(struct frame *f)
{
	struct datagram *d = &f->datagram;
	__u32 offset, slot;

	parse_begin(d);
	f->row = NULL;
	if (f->taken_tag[0])
		parse_note_tag(d, f->taken_tag[0], f->taken_tag[1]);
	enum parse_result parsed = parse_datagram(f->data, f->data_end, f->bytes, f->taken_tag[0] ? 1 : 2, d);
	if (parsed != PARSE_OK)
		return verdict_of_unparsed(parsed);
	read_clock(f);
	offset = __builtin_bswap16(d->udp->dest) - FIRST_PORT;
	if (offset >= PORT_SPAN)
		return VERDICT(up_not_ours);
	slot = slot_of_datagram(d);
	if (slot >= LOCAL_SLOTS)
		return VERDICT(up_not_ours);
	f->index = row_of(slot, offset);
	f->row = port_rows.lookup(&f->index);
	f->counters = port_counters.lookup(&f->index);
	if (!f->row || !f->counters)
		return VERDICT(up_not_ours);
	/* With thousands of calls, row and counters are not in the nearer caches; read here, both are fetched at once. */
	(void)READ_ONCE(f->counters->packets);
	f->hosts6 = NULL;
	if (d->is_ipv6) {
		f->hosts6 = port_hosts6.lookup(&f->index);
		if (f->hosts6)
			(void)READ_ONCE(f->hosts6->remote_host[0]);
	}
	return f->row->is_open ? FORWARD : VERDICT(up_not_ours);
}

/* Read the entry of the row, and the next hop that it names. */
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
	struct next_hop *hop = next_hops.lookup(&f->entry.row.next_hop);
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

/* Is the frame for this host, by its VLAN tags and its MAC? */
static __always_inline __u32 check_link(struct frame *f)
{
	struct link_key key = {.ifindex = f->ifindex};
	struct link *link;

	f->is_off_route = false;
	if (verdict_is_by_route_back(&f->entry, &f->datagram, f->ifindex))
		return FORWARD;
	if (!f->datagram.tags[0] && key.ifindex < UNTAGGED_LINKS) {
		link = untagged_links.lookup(&key.ifindex);
	} else {
		__builtin_memcpy(key.tags, f->datagram.tags, sizeof(key.tags));
		link = links.lookup(&key);
	}
	if (!link)
		return VERDICT(up_vlan);
	f->is_off_route = verdict_is_off_route(&f->entry, link);
	return verdict_is_to_mac(f->datagram.eth, link->mac) ? FORWARD : VERDICT(up_other_mac);
}

/* Does it come from the locked source? */
static __always_inline __u32 check_source(const struct frame *f)
{
	const struct datagram *d = &f->datagram;

	if (verdict_is_locked_source(&f->entry, d)) {
		if (!verdict_is_local_host(&f->entry, d))
			return VERDICT(up_other_address);
		/* The stack drops it, and says so where the operator looks for it. */
		return f->is_off_route ? VERDICT(up_other_interface) : FORWARD;
	}
	if (!verdict_is_local_host(&f->entry, d) && !is_host_address(d))
		return VERDICT(up_not_ours);
	return VERDICT(up_other_source);
}

/* Judge a frame whose row was found: FORWARD, or why not. Changes nothing. */
static __always_inline __u32 judge(struct frame *f, enum hook hook)
{
	const struct datagram *d = &f->datagram;
	__u32 verdict = read_entry(f);

	if (verdict != FORWARD)
		return verdict;
	if (hook == HOOK_XDP && !f->out.xdp_ifindex)
		return VERDICT(up_to_tc);
	if (hook == HOOK_TC_BEHIND_XDP && f->out.xdp_ifindex)
		return VERDICT(up_no_entry); /* XDP forwards it, or has counted why not; here it is not ours */
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
	if (frame_bytes_out(f) > f->out.mtu)
		return VERDICT(up_too_long);
	if (d->payload_bytes < DOUBLED_BYTES)
		return VERDICT(up_doubled);
	f->is_rtp = f->entry.row.is_rtp && parse_rtp(f->data_end, d, &f->mark);
	if (f->is_rtp && verdict_is_of_type(&f->mark, f->entry.row.hidden_type))
		return VERDICT(up_hidden);
	return frame_check_sum(f, hook);
}

/* The time that budgets count in. It need not be precise, and a coarse clock is cheaper. */
static __always_inline __u32 budget_now(void)
{
	return bpf_ktime_get_coarse_ns() >> BUDGET_SHIFT;
}

/*
 * Bound the packets of a kind that go to userspace from a port, where `source` is expected, and `sender` sent this one.
 * Returns the verdict, or the one that drops the packet.
 */
static __always_inline __u32 spend(__u32 index, const struct port_source *source, const struct local_address *sender,
				   enum budget_kind kind, __u32 verdict)
{
	__u32 bucket = budget_bucket(sender, LEARNING_BITS), now = budget_now(), zero = 0;
	struct port_budget *port = port_budgets.lookup(&index);
	struct host_budget *host = host_budgets.lookup(&zero);
	struct source_budget *unexpected = learning_budgets.lookup(&bucket);

	if (!port || !host || !unexpected)
		return verdict;
	if (!budget_take_of_port(port, source, kind, now))
		return budget_verdict(kind);
	if (kind == BUDGET_LEARNING && !budget_take_of_source(unexpected, now, SOURCE_LEARNING_PER_SECOND))
		return VERDICT(dropped_learning);
	return budget_take_of_host(host, kind, now) ? verdict : VERDICT(dropped_host_limit);
}

/* Bound what goes to userspace without telling its port. */
static __always_inline __u32 limit_portless(const struct datagram *d, bool is_fragment, __u32 verdict)
{
	struct local_address source;
	__u32 bucket, zero = 0;

	if (!is_host_address(d))
		return verdict;
	if (is_fragment) {
		read_source(d, &source);
		bucket = budget_bucket(&source, FRAGMENT_BITS);
		struct source_budget *fragments = fragment_budgets.lookup(&bucket);
		if (!fragments || budget_take_of_source(fragments, budget_now(), FRAGMENTS_PER_SECOND))
			return verdict;
		return VERDICT(dropped_fragment);
	}
	struct host_budget *host = host_budgets.lookup(&zero);
	if (!host || budget_take_of_host(host, BUDGET_UNKNOWN, budget_now()))
		return verdict;
	return VERDICT(dropped_host_limit);
}

/*
 * Bound what goes to userspace: returns the verdict, or one that drops the frame. Packets of the source that is known at
 * a port have room of their own, so strangers do not displace them, and so have those of a phone that moved. What is
 * not for an open port of this host is none of our business.
 */
static __always_inline __u32 limit(struct frame *f, enum hook hook, __u32 verdict)
{
	struct datagram *d = &f->datagram;
	struct port_counters *counters = NULL;
	enum parse_odd_result odd = PARSE_ODD_OTHER;
	enum budget_kind kind = BUDGET_LEARNING, expected;
	struct local_address sender;
	__be16 ports[2] = {0, 0};
	__u32 index, slot;

	verdict = verifier_forget(verdict, f->bytes);
	/* Behind XDP only frames come here that XDP left to TC, and so could parse. */
	if (hook != HOOK_TC_BEHIND_XDP &&
	    (verdict == VERDICT(up_ip_options) || verdict == VERDICT(up_fragment) ||
	     verdict == VERDICT(up_extension_header) || verdict == VERDICT(up_malformed))) {
		odd = parse_odd(f->data, f->data_end, d, ports);
		if (odd == PARSE_ODD_OTHER)
			return verdict;
		if (odd != PARSE_ODD_PORTS)
			return limit_portless(d, odd == PARSE_ODD_FRAGMENT, verdict);
		slot = slot_of_datagram(d);
		index = __builtin_bswap16(ports[1]) - FIRST_PORT;
		if (index >= PORT_SPAN || slot >= LOCAL_SLOTS)
			return verdict;
		index = row_of(slot, index);
		struct port_row *row = port_rows.lookup(&index);
		if (!row || !row->is_open)
			return verdict;
	} else if (f->row && verdict != VERDICT(up_not_ours) && verdict != VERDICT(up_to_tc)) {
		index = f->index;
		ports[0] = d->udp->source;
	} else {
		return verdict;
	}
	struct port_source *source = port_sources.lookup(&index);
	if (!source)
		return verdict;
	read_source(d, &sender);
	expected = budget_expected(source, &sender, ports[0]);
	if (expected != BUDGET_UNKNOWN) {
		kind = odd == PARSE_ODD_PORTS ? BUDGET_ODD : budget_by_verdict(expected, verdict);
	} else if (!source->is_contested && (source->is_locked || verdict == VERDICT(up_other_source))) {
		kind = BUDGET_OTHER;
		if (verdict == VERDICT(up_other_source))
			counters = port_counters.lookup(&index);
		if (odd != PARSE_ODD_PORTS && parse_ssrc(f->data_end, d, &f->mark) &&
		    budget_goes_on(source, counters, &f->mark))
			kind = BUDGET_MOVED;
	}
	if (verdict != VERDICT(up_other_source) && !is_host_address(d))
		return verdict;
	return spend(index, source, &sender, kind, verdict);
}

/* Count a packet without a sequence number, which cannot be recognized when it comes again. */
static __always_inline __u32 count_unnumbered(const struct frame *f)
{
	__u32 index = f->index;
	struct port_events *events = port_events.lookup(&index);

	if (!events)
		return FORWARD;
	if (!f->entry.row.is_rtp)
		return account_is_going_round(events, f->now_ns, RTCP_PER_SECOND) ? VERDICT(dropped_rtcp_rate) : FORWARD;
	if (account_is_going_round(events, f->now_ns, UNNUMBERED_PER_SECOND))
		return VERDICT(dropped_going_round);
	events->parse_errors++;
	return FORWARD;
}

/* Update the RTP statistics, and what the latching rules remember. */
static __always_inline __u32 count_rtp(const struct frame *f)
{
	struct port_counters *counters = f->counters;
	bool is_next = account_is_next(counters, &f->mark);
	enum account_result result = ACCOUNT_MEASURE;
	__u32 index = f->index;

	counters->payload_type = f->mark.payload_type;
	if (!is_next || account_is_memory_due(counters, f->now_ns)) {
		struct port_events *events = port_events.lookup(&index);
		/* Userspace compares these times with its own. */
		__u64 now_ns = f->is_precise ? f->now_ns : bpf_ktime_get_ns();

		if (!events)
			return FORWARD;
		if (account_is_memory_due(counters, f->now_ns))
			account_memory(events, &f->mark, now_ns);
		if (!is_next)
			result = account_unusual(counters, events, &f->mark, now_ns);
		if (result == ACCOUNT_GOING_ROUND)
			return VERDICT(dropped_going_round);
	}
	if (is_next)
		counters->highest++;
	if (result == ACCOUNT_MEASURE)
		jitter_measure(counters, &f->mark, f->now_ns);
	return FORWARD;
}

/*
 * Count a frame that is ready to be forwarded; only one that is in a loop is still refused. This comes last, so that
 * the verifier has nothing else left to follow and follows it once for all kinds of frames.
 */
static __always_inline __u32 count_forwarded(struct frame *f)
{
	__u32 verdict;

	/* Another payload type in a stream with jitter, as of DTMF: its gaps stay exact. */
	if (!f->is_precise && f->counters->arrived_ns)
		read_precise_clock(f);
	verdict = f->is_rtp ? count_rtp(f) : count_unnumbered(f);

	if (verdict == FORWARD)
		account_forwarded(f->counters, f->now_ns);
	return verdict;
}

/* Is a packet that is about to be forwarded to be written into the ring? */
static __always_inline bool is_teed(const struct frame *f)
{
	const struct port_row *row = &f->entry.row;

	return row->tee && (!row->tee_type || (f->is_rtp && verdict_is_of_type(&f->mark, row->tee_type)));
}

/* Before the rewrite of a packet that is to be written into the ring: keep what will be changed. */
static __always_inline void begin_tee(const struct frame *f)
{
	__u32 zero = 0;
	struct tee_record *kept = tee_kept.lookup(&zero);

	if (kept)
		tee_keep(kept, f);
}

/* After it: write the packet into the ring, or count it where that cannot be done. The frame now has so many tags. */
static __always_inline void end_tee(const void *data, const void *data_end, const struct frame *f, __u32 tag_bytes)
{
	__u32 ip_bytes = f->entry.row.is_to_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 zero = 0, index = f->index;
	void *ring = tee_rings.lookup(&zero);
	struct tee_record *kept = tee_kept.lookup(&zero);
	struct port_events *events;

	bool is_written =
		ring && kept &&
		tee_write(ring, kept, data, data_end, sizeof(struct ethhdr) + tag_bytes + ip_bytes + sizeof(struct udphdr));
	if (is_written && !f->entry.row.tee_type)
		return; /* all that are forwarded are: userspace counts them */
	events = port_events.lookup(&index);
	if (!events)
		return;
	if (is_written)
		__sync_fetch_and_add(&events->tee_chosen, 1);
	else
		__sync_fetch_and_add(&events->tee_missed, 1);
}

int on_xdp(struct xdp_md *ctx)
{
	struct frame f;
	bool is_written;
	__u32 verdict;

	frame_begin(&f, HOOK_XDP, ctx->ingress_ifindex);
	f.data = (void *)(long)ctx->data;
	f.data_end = (void *)(long)ctx->data_end;
	f.bytes = ctx->data_end - ctx->data;
	verdict = find_row(&f);
	if (verdict == FORWARD)
		verdict = judge(&f, HOOK_XDP);
	if (verdict == FORWARD) {
		is_written = is_teed(&f);
		if (is_written)
			begin_tee(&f);
		verdict = hook_xdp_rewrite(ctx, &f);
		if (verdict == FORWARD)
			verdict = count_forwarded(&f);
		if (verdict == FORWARD) {
			if (is_written)
				end_tee((void *)(long)ctx->data, (void *)(long)ctx->data_end, &f,
					f.out.tag_bytes & TAG_BYTES_MASK);
			return bpf_redirect(f.out.xdp_ifindex, 0);
		}
	} else {
		verdict = limit(&f, HOOK_XDP, verdict);
	}
	count_verdict(verdict);
	return verdict_is_dropped(verdict) ? XDP_DROP : XDP_PASS;
}

static __always_inline int serve_tc(struct __sk_buff *skb, enum hook hook)
{
	struct frame f;
	bool is_written;
	__u32 verdict;

	frame_begin(&f, hook, skb->ifindex);
	f.is_aggregated = skb->gso_size;
	if (skb->vlan_present) {
		f.taken_tag[0] = skb->vlan_proto;
		f.taken_tag[1] = __builtin_bswap16(skb->vlan_tci);
	}
	hook_tc_load(skb, &f, HEADER_BYTES);
	verdict = find_row(&f);
	if (verdict == FORWARD && f.data + f.bytes > f.data_end) {
		hook_tc_load(skb, &f, f.bytes);
		verdict = find_row(&f);
	}
	if (verdict == FORWARD)
		verdict = judge(&f, hook);
	if (verdict == FORWARD) {
		is_written = is_teed(&f);
		if (is_written)
			begin_tee(&f);
		verdict = hook_tc_rewrite(skb, &f);
		if (verdict == FORWARD)
			verdict = count_forwarded(&f);
		if (verdict == FORWARD) {
			if (is_written)
				end_tee((void *)(long)skb->data, (void *)(long)skb->data_end, &f, 0);
			return bpf_redirect(f.out.ifindex, 0);
		}
	} else if (hook == HOOK_TC || f.is_ours) {
		verdict = limit(&f, hook, verdict);
	}
	if (hook == HOOK_TC || f.is_ours)
		count_verdict(verdict);
	/* Other filters after ours decide, too. */
	return verdict_is_dropped(verdict) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

int on_tc(struct __sk_buff *skb)
{
	return serve_tc(skb, HOOK_TC);
}

/* For an interface with the XDP program: forwards only what that program left to TC, and counted as such. */
int on_tc_behind_xdp(struct __sk_buff *skb)
{
	return serve_tc(skb, HOOK_TC_BEHIND_XDP);
}

/* Hands packets for an open port to one of the controller's sockets; everything else takes its usual path. */
int on_steer(struct bpf_sk_lookup *ctx)
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
	index = row_of(slot, offset);
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

/* Where the kernel's description of its types is missing, frames that were not sent are not seen. */
#ifdef NET_DEVICE_IFINDEX
/* Is it our XDP program? The tracepoints tell of all programs of all network namespaces. */
static __always_inline bool is_own_program(const void *program)
{
	__u32 zero = 0;
	__u32 *id = own_program.lookup(&zero);

	return id && *id && unsent_program_id(program) == *id;
}

/* Count frames that were forwarded, as far as our program knows, and not sent by interface `ifindex`. */
static __always_inline void count_not_sent(__u32 frames, __u32 ifindex, bool is_refused)
{
	__u32 zero = 0;
	struct verdicts *count = verdicts.lookup(&zero);

	if (count)
		count->dropped_not_sent += frames;
	if (!is_refused)
		return;
	__u64 *refused = refused_frames.lookup(&ifindex);
	if (refused)
		__sync_fetch_and_add(refused, frames);
}

/* Tracepoint xdp_devmap_xmit: a driver was handed frames that arrived at the first interface, to send by the second. */
int on_sent(struct bpf_raw_tracepoint_args *ctx)
{
	const void *from = (const void *)ctx->args[0], *to = (const void *)ctx->args[1];
	int drops = ctx->args[3], error = ctx->args[4];

	if (drops > 0 && is_own_program(unsent_program(from)))
		count_not_sent(drops, unsent_ifindex(to), unsent_is_refused(error));
	return 0;
}

/* Tracepoint xdp_redirect_err (its form since Linux 5.13): a frame was not even handed to the driver. */
int on_refused(struct bpf_raw_tracepoint_args *ctx)
{
	const void *program = (const void *)ctx->args[1];

	if (is_own_program(program))
		count_not_sent(1, ctx->args[6], unsent_is_refused(ctx->args[3]));
	return 0;
}
#endif
