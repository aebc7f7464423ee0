/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Frames that a driver did not send after our XDP program had redirected them: only tracepoints tell. These hand over
 * structs of the kernel, whose members are where the running kernel's description of its types (BTF) says; the
 * controller hands the offsets in.
 */
#pragma once
#include <linux/types.h>

#define XDP_MODE_DRIVER 1   /* place of a native program in net_device.xdp_state */
#define XDP_STATE_BYTES 16  /* size of its elements: two pointers, that to the program first */
#define NET_IS_DOWN (-100)  /* ENETDOWN: of the link, which the controller hears of */

static __always_inline __u32 unsent_number(const void *from, __u32 offset)
{
	__u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), from + offset);
	return value;
}

static __always_inline const void *unsent_pointer(const void *from, __u32 offset)
{
	const void *value = NULL;

	bpf_probe_read_kernel(&value, sizeof(value), from + offset);
	return value;
}

/* The native XDP program of an interface. */
static __always_inline const void *unsent_program(const void *device)
{
	return unsent_pointer(device, NET_DEVICE_XDP_STATE + XDP_MODE_DRIVER * XDP_STATE_BYTES);
}

static __always_inline __u32 unsent_program_id(const void *program)
{
	return program ? unsent_number(unsent_pointer(program, BPF_PROG_AUX), BPF_PROG_AUX_ID) : 0;
}

static __always_inline __u32 unsent_ifindex(const void *device)
{
	return unsent_number(device, NET_DEVICE_IFINDEX);
}

/* Did the driver refuse the frames, rather than lack room or a carrier? */
static __always_inline bool unsent_is_refused(int error)
{
	return error < 0 && error != NET_IS_DOWN;
}
