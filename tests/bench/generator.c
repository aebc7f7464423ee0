// Makes RTP from nothing: run on live frames (BPF_PROG_TEST_RUN), each run turns its frame into the next packet of the
// next stream and sends it out of one interface, or drops it while the next packet is not due.
// Compiled with EGRESS_IFINDEX, STREAMS, IP_BYTES (20 or 40: the length of the IP header) and STAMP_OFFSET (where the
// frame says when it was sent: ktime, or zero for "not measured"; 8 bytes, host order). One instance runs on one core.
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#define UDP_OFFSET (ETH_HLEN + IP_BYTES)
#define UDP_CHECK_OFFSET (UDP_OFFSET + 6)
#define RTP_SEQUENCE_OFFSET (UDP_OFFSET + 10)
#define RTP_TIMESTAMP_OFFSET (UDP_OFFSET + 12)
#define STAMP_END (STAMP_OFFSET + sizeof(__u64))
#define HEADER_WORDS ((STAMP_OFFSET + 7) / 8)  // all before the stamp; the last may be over into it
#define SAMPLES_PER_PACKET 160   // 20 ms at 8 kHz

struct pace {
    __u64 duration_ns;
    __u64 interval_ns;           // 0: as fast as possible
    __u64 stamp_mask;            // the clock is read for packets whose number has none of these bits; 0: for each
};

struct progress {
    __u64 sent;
    __u64 first_ns;
    __u64 last_ns;
    __u64 due_ns;
    __u32 next_stream;
    __u32 is_done;
};

struct stream {
    __u64 header[HEADER_WORDS];  // the frame's first bytes; sequence, timestamp, stamp and UDP checksum are filled in
    __u32 sum;                   // ones' complement sum, in host order, of all that the UDP checksum covers but those
    __u32 sequence;              // of the next packet; its low 16 bits are sent
};
_Static_assert(IP_BYTES != 20 || sizeof(struct stream) == 64, "one cache line");

BPF_ARRAY(pace, struct pace, 1);
BPF_ARRAY(progress, struct progress, 1);
BPF_ARRAY(streams, struct stream, STREAMS);

// Of a packet for which the clock is not read: `now` is zero, and it is always due.
static __always_inline bool is_due(struct progress *progress, const struct pace *pace, __u64 now)
{
    if (!now)
        return !progress->is_done;
    if (!progress->first_ns) {
        progress->first_ns = now;
        progress->due_ns = now;
    }
    if (now - progress->first_ns >= pace->duration_ns)
        progress->is_done = 1;
    if (progress->is_done || now < progress->due_ns)
        return false;
    progress->last_ns = now;
    progress->due_ns += pace->interval_ns;
    return true;
}

static __always_inline __u32 sum_words(const void *at, int words)
{
    const __u16 *word = at;
    __u32 sum = 0;

#pragma unroll
    for (int i = 0; i < words; i++)
        sum += word[i];
    return sum;
}

static __always_inline __u16 finish_checksum(__u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (__u16)~sum ?: 0xffff;
}

static __always_inline void write_packet(void *data, const struct stream *stream, __u64 now)
{
    __u64 *words = data;
    __u16 sequence = bpf_htons((__u16)stream->sequence);
    __u32 timestamp = bpf_htonl(stream->sequence * SAMPLES_PER_PACKET);
    __u32 sum = stream->sum;

#pragma unroll
    for (int i = 0; i < HEADER_WORDS; i++)
        words[i] = stream->header[i];
    *(__u16 *)(data + RTP_SEQUENCE_OFFSET) = sequence;
    *(__u32 *)(data + RTP_TIMESTAMP_OFFSET) = timestamp;
    *(__u64 *)(data + STAMP_OFFSET) = now;
    sum += sequence + sum_words(&timestamp, 2) + sum_words(&now, 4);
    *(__u16 *)(data + UDP_CHECK_OFFSET) = finish_checksum(sum);
}

int generate(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *data_end = (void *)(long)ctx->data_end;
    int zero = 0;
    struct progress *progress_row = progress.lookup(&zero);
    const struct pace *pace_row = pace.lookup(&zero);
    __u64 now = 0;

    if (!progress_row || !pace_row || data + STAMP_END > data_end)
        return XDP_ABORTED;
    if (!(progress_row->sent & pace_row->stamp_mask))
        now = bpf_ktime_get_ns();  // takes longer than all the rest
    if (!is_due(progress_row, pace_row, now))
        return XDP_DROP;

    __u32 number = progress_row->next_stream;
    struct stream *stream = streams.lookup(&number);
    if (!stream)
        return XDP_ABORTED;
    progress_row->next_stream = number + 1 < STREAMS ? number + 1 : 0;
    write_packet(data, stream, now);
    stream->sequence++;
    progress_row->sent++;
    return bpf_redirect(EGRESS_IFINDEX, 0);
}
