/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The maps: who writes what. Lookups stand in relay.c, because bcc rewrites only the main file. */
#pragma once
#include "types.h"

#ifndef MAX_NEXT_HOPS
#define MAX_NEXT_HOPS 4096
#endif
#ifndef STEERED_SOCKETS
#define STEERED_SOCKETS 8
#endif
#define PORTS 65536

/* BPF_F_MMAPABLE: the controller maps these arrays, so a row or a counter costs it a memory access. */
#define MAPPED 1024

/* An array, because the local port is the index: no hashing, and a flat cost at any number of calls. */
BPF_F_TABLE("array", __u32, struct port_row, port_rows, PORTS, MAPPED);

/* Apart from the rows, so that counting never writes to the line that other CPUs read. */
BPF_F_TABLE("array", __u32, struct port_counters, port_counters, PORTS, MAPPED);

/* Apart from the rows, so that a neighbour that moves changes one row, not ten thousand. */
BPF_F_TABLE("array", __u32, struct next_hop, next_hops, MAX_NEXT_HOPS, MAPPED);

/* One element; per CPU, because every packet of the host counts in it. */
BPF_TABLE("percpu_array", __u32, struct verdicts, verdicts, 1);

/* The controller's UDP sockets for all ports; a port always goes to the same one. */
BPF_TABLE("sockmap", __u32, int, steered_sockets, STEERED_SOCKETS);
