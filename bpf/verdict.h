/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What to do with a datagram, given the row of its port. Pure: nothing is written but the result. */
#pragma once
#include "parse.h"
#include "types.h"

/* What an entry says, copied out of its row as a whole. */
struct entry {
	__be32 remote_host;
	__be32 local_host;
	__be32 from_host;
	__be32 to_host;
	__be16 remote_port;
	__be16 from_port;
	__be16 to_port;
	__be16 udp_delta;
	__be16 ip_sum;
	__u8 tos;
	__u8 ttl;
	__u8 is_any_source_port;
	__u8 is_rtp;
	__u32 next_hop;
};

#define READ_ONCE(x) (*(volatile __typeof__(x) *)&(x))
/* The compiler must not move a load across; x86 does not reorder loads with loads. */
#define compiler_barrier() asm volatile("" ::: "memory")

enum entry_result { ENTRY_OK, ENTRY_NONE, ENTRY_CHANGING };

/* Copy the entry; ENTRY_CHANGING when the controller wrote to it meanwhile. */
static __always_inline enum entry_result verdict_read_entry(struct port_row *row, struct entry *e)
{
	__u32 sequence = READ_ONCE(row->sequence);

	compiler_barrier();
	if (sequence & 1)
		return ENTRY_CHANGING;
	if (!READ_ONCE(row->is_forwarding))
		return ENTRY_NONE;
	e->remote_host = READ_ONCE(row->remote_host);
	e->local_host = READ_ONCE(row->local_host);
	e->from_host = READ_ONCE(row->from_host);
	e->to_host = READ_ONCE(row->to_host);
	e->remote_port = READ_ONCE(row->remote_port);
	e->from_port = READ_ONCE(row->from_port);
	e->to_port = READ_ONCE(row->to_port);
	e->udp_delta = READ_ONCE(row->udp_delta);
	e->ip_sum = READ_ONCE(row->ip_sum);
	e->tos = READ_ONCE(row->tos);
	e->ttl = READ_ONCE(row->ttl);
	e->is_any_source_port = READ_ONCE(row->is_any_source_port);
	e->is_rtp = READ_ONCE(row->is_rtp);
	e->next_hop = READ_ONCE(row->next_hop);
	compiler_barrier();
	return READ_ONCE(row->sequence) == sequence ? ENTRY_OK : ENTRY_CHANGING;
}

/* Whether the datagram comes from the source that the stream is locked to. */
static __always_inline bool verdict_is_locked_source(const struct entry *e, const struct datagram *d)
{
	return d->ip->saddr == e->remote_host && (d->udp->source == e->remote_port || e->is_any_source_port);
}

/* A next hop, copied as a whole; MACs as the words they are written with. */
struct way_out {
	__u32 ifindex;
	__u32 mtu;
	__u32 to_mac_head;
	__u16 to_mac_tail;
	__u16 from_mac_head;
	__u32 from_mac_tail;
};

static __always_inline enum entry_result verdict_read_next_hop(struct next_hop *hop, struct way_out *out)
{
	__u32 sequence = READ_ONCE(hop->sequence);

	compiler_barrier();
	if (sequence & 1)
		return ENTRY_CHANGING;
	out->ifindex = READ_ONCE(hop->ifindex);
	out->mtu = READ_ONCE(hop->mtu);
	out->to_mac_head = READ_ONCE(*(__u32 *)&hop->to_mac[0]);
	out->to_mac_tail = READ_ONCE(*(__u16 *)&hop->to_mac[4]);
	out->from_mac_head = READ_ONCE(*(__u16 *)&hop->from_mac[0]);
	out->from_mac_tail = READ_ONCE(*(__u32 *)&hop->from_mac[2]);
	compiler_barrier();
	if (READ_ONCE(hop->sequence) != sequence)
		return ENTRY_CHANGING;
	return out->ifindex ? ENTRY_OK : ENTRY_NONE;
}
