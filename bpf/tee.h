/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Writes a forwarded packet, as it was received, into the ring of those who record. Its headers are kept before the
 * rewrite, with the time; it is written after it, when nothing can refuse the packet any more. Only there the verifier
 * has nothing else left to follow: written before the rewrite, each program took three times as long to verify, and that
 * for TC came near the most that a kernel is willing to look at.
 */
#pragma once
#include "frame.h"

#define TEE_BLOCK_BYTES 64
#define TEE_SHORT_BLOCK_BYTES 16
/* Copied with the payload, so that it never is shorter than a block; the headers are written over it. */
#define TEE_LEAD_BYTES (sizeof(struct iphdr) + sizeof(struct udphdr))

/* Copy `bytes`, a constant, eight at a time. */
static __always_inline void tee_copy_words(void *to, const void *from, __u32 bytes)
{
	for (__u32 at = 0; at < bytes; at += sizeof(__u64))
		*(__u64 *)(to + at) = *(volatile __u64 *)(from + at);
}

/* Keep the headers of a packet, and when it came: the clock of its batch may be some microseconds behind. */
static __always_inline void tee_keep(struct tee_record *kept, const struct frame *f)
{
	const struct datagram *d = &f->datagram;

	kept->arrived_ns = bpf_ktime_get_ns();
	kept->tee = f->entry.row.tee;
	kept->payload_bytes = d->payload_bytes;
	kept->is_ipv6 = d->is_ipv6;
	if (d->is_ipv6) {
		tee_copy_words(kept->headers, d->ipv6, sizeof(struct ipv6hdr) + sizeof(struct udphdr));
	} else {
		tee_copy_words(kept->headers + sizeof(kept->headers) - TEE_LEAD_BYTES, d->ip, 3 * sizeof(__u64));
		*(__u32 *)(kept->headers + sizeof(kept->headers) - 4) = *(volatile __u32 *)((void *)d->udp + 4);
	}
}

/*
 * Copy `size` bytes, no fewer than a block: blocks from the start, and one that ends where they end, whatever of it is
 * there already. So nothing is copied byte by byte. False if they do not fit into `room`, or go beyond data_end.
 */
static __always_inline bool tee_copy(void *to, const void *from, const void *data_end, __u64 size, __u32 room,
				     __u32 block)
{
	__u64 noise = size, last = verifier_forget(size - block, noise), blocks = verifier_forget(size, noise);

	for (__u64 end = block; end <= room && end <= blocks; end += block) {
		if (from + end > data_end)
			return false;
		tee_copy_words(to + end - block, from + end - block, block);
	}
	/* Computed anew, so that the verifier follows what comes now once, not once for every length. */
	if (last > room - block)
		return false;
	from += last;
	if (from + block > data_end)
		return false;
	tee_copy_words(to + last, from, block);
	return true;
}

/* Write a record that has room for `room` bytes of payload, a constant. False if the ring has none for it. */
static __always_inline bool tee_write_sized(void *ring, const struct tee_record *kept, const void *from,
					    const void *data_end, __u32 room)
{
	struct tee_record *record = bpf_ringbuf_reserve(ring, sizeof(*record) + room, 0);
	__u64 size = kept->payload_bytes + TEE_LEAD_BYTES;
	bool is_copied;
	void *to;

	if (!record)
		return false;
	to = (void *)(record + 1) - TEE_LEAD_BYTES;
	room += TEE_LEAD_BYTES;
	if (size >= TEE_BLOCK_BYTES)
		is_copied = tee_copy(to, from, data_end, size, room, TEE_BLOCK_BYTES);
	else
		is_copied = tee_copy(to, from, data_end, size, room, TEE_SHORT_BLOCK_BYTES);
	if (!is_copied) {
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		return false;
	}
	tee_copy_words(record, kept, sizeof(*record));
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return true;
}

#define TEE_ROOM(record_bytes) ((record_bytes) - sizeof(struct tee_record))

/*
 * Write a packet, whose headers were kept, into the ring: in one of a few sizes, because the verifier wants a constant. The
 * payload is that of the frame that leaves, where its headers take so many bytes. False if the packet finds no room, or
 * has more payload than 9,152 bytes.
 */
static __always_inline bool tee_write(void *ring, const struct tee_record *kept, const void *data, const void *data_end,
				      __u64 headers)
{
	const void *from = data + (verifier_forget(headers - TEE_LEAD_BYTES, kept->payload_bytes) & 0x3f);
	__u32 bytes = kept->payload_bytes;

	if (bytes <= TEE_ROOM(128))
		return tee_write_sized(ring, kept, from, data_end, TEE_ROOM(128));
	if (bytes <= TEE_ROOM(256))
		return tee_write_sized(ring, kept, from, data_end, TEE_ROOM(256));
	if (bytes <= TEE_ROOM(512))
		return tee_write_sized(ring, kept, from, data_end, TEE_ROOM(512));
	if (bytes <= TEE_ROOM(1024))
		return tee_write_sized(ring, kept, from, data_end, TEE_ROOM(1024));
	if (bytes <= TEE_ROOM(1536))
		return tee_write_sized(ring, kept, from, data_end, TEE_ROOM(1536));
	if (bytes <= TEE_ROOM(4096))
		return tee_write_sized(ring, kept, from, data_end, TEE_ROOM(4096));
	if (bytes <= TEE_ROOM(9216))
		return tee_write_sized(ring, kept, from, data_end, TEE_ROOM(9216));
	return false;
}
