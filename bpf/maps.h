/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The maps, and who writes them. Look-ups are in relay.c, because bcc rewrites the main file only. */
#pragma once
#include "budget.h"
#include "types.h"
#include "verdict.h"

#ifndef MAX_NEXT_HOPS
#define MAX_NEXT_HOPS 4096
#endif
/* Sockets of each family; those of IPv6 come after those of IPv4. */
#ifndef STEERED_SOCKETS
#define STEERED_SOCKETS 8
#endif
/* The media ports, and how many port spaces there are; a space belongs to a local address, or to all of a family. */
#ifndef PORT_SPAN
#define FIRST_PORT 0
#define PORT_SPAN 65536
#endif
#ifndef LOCAL_SLOTS
#define LOCAL_SLOTS 1
#endif
#ifndef MAX_HOST_ADDRESSES
#define MAX_HOST_ADDRESSES 1024
#endif
#ifndef MAX_LINKS
#define MAX_LINKS 4096
#endif
#ifndef UNTAGGED_LINKS
#define UNTAGGED_LINKS 1024
#endif
#define PORT_ROWS (LOCAL_SLOTS * PORT_SPAN)
/* Room for addresses that commands name later; they share the port space of another. */
#ifndef MORE_ADDRESSES
#define MORE_ADDRESSES 64
#endif

/*
 * BPF_F_MMAPABLE: elements are aligned to cache lines, and the controller maps these arrays, so that a row or a counter
 * costs it one memory access. It does not map `port_hosts6`, which would count as memory of every relay.
 */
#define MAPPED 1024

/*
 * The index of a port's row, `offset` ports after FIRST_PORT, in a port space: every second port first, then the others. So
 * the RTP ports of all calls lie together, and RTCP ports, which few packets come to, are not fetched with them.
 * Userspace has the same rule (ByPort in rtpproxy/offload/layout.py).
 */
static __always_inline __u32 row_of(__u32 slot, __u32 offset)
{
	return slot * PORT_SPAN + (offset & 1 ? (PORT_SPAN + 1) / 2 : 0) + (offset >> 1);
}

/* An array, because port space and local port make the index: no hashing, and a flat cost at any number of calls. */
BPF_F_TABLE("array", __u32, struct port_row, port_rows, PORT_ROWS, MAPPED);
BPF_F_TABLE("array", __u32, struct port_hosts6, port_hosts6, PORT_ROWS, MAPPED);

/* Separate from the rows, so that counting never writes to a cache line that other CPUs read. */
BPF_F_TABLE("array", __u32, struct port_counters, port_counters, PORT_ROWS, MAPPED);

/* Separate from the counters, so that a usual packet touches one cache line only. */
BPF_F_TABLE("array", __u32, struct port_events, port_events, PORT_ROWS, MAPPED);

/* Separate from all that forwarding touches, so that a flood by strangers does not slow a call down. */
BPF_F_TABLE("array", __u32, struct port_source, port_sources, PORT_ROWS, MAPPED);
BPF_TABLE("array", __u32, struct port_budget, port_budgets, PORT_ROWS);

/* One element. */
BPF_TABLE("array", __u32, struct host_budget, host_budgets, 1);

/* By source address, hashed: those whom no port expects. */
BPF_TABLE("array", __u32, struct source_budget, learning_budgets, 1 << LEARNING_BITS);

/* The same for fragments; per CPU, because each of a flood's fragments is looked up here. */
BPF_TABLE("percpu_array", __u32, struct source_budget, fragment_budgets, 1 << FRAGMENT_BITS);

/* Separate from the port rows, so that a neighbour with a new MAC changes one row, not ten thousand. */
BPF_F_TABLE("array", __u32, struct next_hop, next_hops, MAX_NEXT_HOPS, MAPPED);

/* One element; per CPU, because every packet of the host counts in it. */
BPF_TABLE("percpu_array", __u32, struct verdicts, verdicts, 1);

/* One element: when the batch began that this CPU has from a driver (batch.h). */
BPF_TABLE("percpu_array", __u32, __u64, batch_began, 1);

/* Port spaces by local address, written by the controller; not looked up where one space holds a whole family. */
BPF_TABLE("hash", struct local_address, __u32, local_slots, LOCAL_SLOTS + MORE_ADDRESSES);

/* Addresses of this host, kept up to date by the controller. Those that do not fit count as other machines'. */
BPF_TABLE("hash", struct local_address, __u8, host_addresses, MAX_HOST_ADDRESSES);

/* Interfaces by index, separate from `links`, because most frames look here: a hash costs 5 % of the throughput. */
BPF_TABLE("array", __u32, struct link, untagged_links, UNTAGGED_LINKS);

/* Other interfaces and VLANs of this host, kept up to date by the controller. Frames of those without room go to
 * userspace. */
BPF_TABLE("hash", struct link_key, struct link, links, MAX_LINKS);

/* One element: the id of our XDP program, written by the controller. */
BPF_TABLE("array", __u32, __u32, own_program, 1);

/* Frames that XDP redirected to an interface, by its index, and whose driver refused them, though the link was up. */
BPF_TABLE("array", __u32, __u64, refused_frames, UNTAGGED_LINKS);

/* The controller's UDP sockets for all ports. A port always leads to the same one. */
BPF_TABLE("sockmap", __u32, int, steered_sockets, 2 * STEERED_SOCKETS);

/* One element: the record of a packet that is being forwarded, without its payload (tee.h). */
BPF_TABLE("percpu_array", __u32, struct tee_record, tee_kept, 1);

/*
 * One element, empty until something is teed for the first time: the ring that records are written to, so that its memory
 * is there only then. The prototype tells the kernel of what kind it is; any size will do.
 */
BPF_RINGBUF_OUTPUT(tee_prototype, 1);
BPF_ARRAY_OF_MAPS(tee_rings, "tee_prototype", 1);
