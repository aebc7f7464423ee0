/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The batch that a frame came in. A driver hands frames to XDP in batches of up to 64, and what they redirect waits in a
 * list until the batch is over. While anything waits there, the batch goes on. Since Linux 6.11 the list is in a struct
 * that the running task points to; the controller hands in the offsets of its members, as for unsent.h.
 */
#pragma once
#include <linux/types.h>

#ifdef TASK_NET_CONTEXT
static __always_inline const void *batch_pointer(const void *from, __u32 offset)
{
	return *(const void *const volatile *)(from + offset);
}

/*
 * Has a frame of this batch been redirected? The list is not cleared before its first use, so that its first element must
 * point back to it, too. The verifier lets programs follow these pointers, and reads 0 where one leads nowhere.
 */
static __always_inline bool batch_goes_on(void)
{
	const void *context = batch_pointer((const void *)bpf_get_current_task_btf(), TASK_NET_CONTEXT);
	const void *list, *first;

	if (!context)
		return false;
	list = context + NET_CONTEXT_DEVICES;
	first = batch_pointer(list, LIST_NEXT);
	return first != list && batch_pointer(first, LIST_PREVIOUS) == list;
}
#else
/* Without these offsets, each frame is a batch of its own. */
static __always_inline bool batch_goes_on(void)
{
	return false;
}
#endif
