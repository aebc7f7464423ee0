// Makes RTP from nothing. Each run turns its frame into the next packet of the next stream. `generate`, run on live
// frames (BPF_PROG_TEST_RUN), sends it out of an interface, or drops it while the packet is not due. `walk`, run on one
// frame over and over, hands it to another program. One instance runs on one core.
//
// Live frames come back as the relay left them, so every header field of every frame is written. On an Intel Xeon with
// Linux 6.18 that takes 5 ns. The kernel's loop over live frames takes 20, the redirect and the way to the far end of a
// veth pair 25. A bare redirect over the second pair then adds 27 ns, and the sink 3.
//
// Some streams can be steady: they send at a pace of their own, whatever the others do.
//
// Compiled with EGRESS_IFINDEX, STREAMS, STEADY (so many of them, the first, are steady), IP_BYTES (20 or 40: the length of
// the IP header) and STAMP_OFFSET (where the frame says when it was sent: ktime, or zero for "not measured"; 8 bytes, host
// order).
#include <linux/if_ether.h>

#define UDP_OFFSET (ETH_HLEN + IP_BYTES)
#define UDP_CHECK_OFFSET (UDP_OFFSET + 6)
#define RTP_SEQUENCE_OFFSET (UDP_OFFSET + 10)
#define RTP_TIMESTAMP_OFFSET (UDP_OFFSET + 12)
#define RTP_SSRC_LOW_OFFSET (UDP_OFFSET + 18)
#define STAMP_END (STAMP_OFFSET + sizeof(__u64))
#define HEADER_WORDS ((STAMP_OFFSET + 7) / 8)  // the last may reach into the stamp
#define SAMPLES_PER_PACKET 160   // 20 ms at 8 kHz

// Of one run; written anew before each. `wanted` also ends the run, when its time is up.
struct run {
    __u64 wanted;                // packets
    __u64 duration_ns;
    __u64 interval_ns;           // 0: as fast as possible
    __u64 stamp_mask;            // the clock is read for packets whose number has none of these bits; 0: for each
    __u64 sent;
    __u64 first_ns;
    __u64 last_ns;
    __u64 due_ns;
    __u64 steady_interval_ns;    // between packets of steady streams, seen when the clock is read; 0: they send nothing
    __u64 steady_due_ns;
    __u64 steady_sent;           // of `sent`
};

// The next packet, of steady streams or of the others; kept between runs. Streams send in turn, so one sequence number
// serves them all.
struct next {
    __u64 header[HEADER_WORDS];  // the frame's first bytes; zero where packets differ
    __u32 stream;
    __u32 sequence;              // its low 16 bits are sent
    __u32 sum;                   // ones' complement sum of sequence and timestamp, in host order, 16 bits
    __u32 reserved;
};

// What distinguishes a stream's packets, as in memory.
struct stream {
    __u32 ports;                 // source and destination
    __u16 ssrc_low;
    __u16 sum;                   // ones' complement sum of all that the UDP checksum covers, but for sequence,
                                 // timestamp and stamp
};

#define NEVER (~0ULL)            // an interval: nothing is sent

BPF_ARRAY(run, struct run, 1);
BPF_ARRAY(next, struct next, 2);         // [1] is of steady streams
BPF_ARRAY(streams, struct stream, STREAMS);
BPF_PROG_ARRAY(walked, 1);

// Whether the run goes on. Here and below, `now` is zero where the clock was not read.
static __always_inline bool goes_on(struct run *run, __u64 now)
{
    if (run->sent >= run->wanted)
        return false;
    if (!now)
        return true;
    if (!run->first_ns) {
        run->first_ns = now;
        run->due_ns = run->interval_ns == NEVER ? NEVER : now;
        run->steady_due_ns = now;
    }
    if (now - run->first_ns >= run->duration_ns)
        run->wanted = 0;
    return run->wanted;
}

static __always_inline bool is_steady_due(struct run *run, __u64 now)
{
    if (!now || !run->steady_interval_ns || now < run->steady_due_ns)
        return false;
    run->last_ns = now;
    run->steady_due_ns += run->steady_interval_ns;
    run->steady_sent++;
    return true;
}

// Of the other streams: always, where the clock was not read.
static __always_inline bool is_due(struct run *run, __u64 now)
{
    if (!now)
        return true;
    if (now < run->due_ns)
        return false;
    run->last_ns = now;
    run->due_ns += run->interval_ns;
    return true;
}

static __always_inline __u32 fold(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (sum & 0xffff) + (sum >> 16);
}

static __always_inline void write_packet(void *data, const struct stream *stream, const struct next *next, __u64 now)
{
    __u64 *words = data;
    __u32 sum = next->sum + stream->sum;

#pragma unroll
    for (int i = 0; i < HEADER_WORDS; i++)
        words[i] = next->header[i];
    *(__u32 *)(data + UDP_OFFSET) = stream->ports;
    *(__u16 *)(data + RTP_SEQUENCE_OFFSET) = bpf_htons((__u16)next->sequence);
    *(__u32 *)(data + RTP_TIMESTAMP_OFFSET) = bpf_htonl(next->sequence * SAMPLES_PER_PACKET);
    *(__u16 *)(data + RTP_SSRC_LOW_OFFSET) = stream->ssrc_low;
    *(__u64 *)(data + STAMP_OFFSET) = now;
    if (now)
        sum += fold((now & 0xffffffff) + (now >> 32));
    *(__u16 *)(data + UDP_CHECK_OFFSET) = (__u16)~fold(sum) ?: 0xffff;
}

static __always_inline void advance(struct next *next, bool is_steady)
{
    if (++next->stream < (is_steady ? STEADY : STREAMS))
        return;
    next->stream = is_steady ? 0 : STEADY;
    next->sequence++;
    next->sum = fold(bpf_htons((__u16)next->sequence) + (__u64)bpf_htonl(next->sequence * SAMPLES_PER_PACKET));
}

// Turns the frame into the next packet; answers whether it could.
static __always_inline bool make_packet(void *data, __u64 now, bool is_steady)
{
    int index = is_steady;
    struct next *packet = next.lookup(&index);

    if (!packet)
        return false;
    struct stream *stream = streams.lookup(&packet->stream);
    if (!stream)
        return false;
    write_packet(data, stream, packet, now);
    advance(packet, is_steady);
    return true;
}

int generate(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *data_end = (void *)(long)ctx->data_end;
    int zero = 0;
    struct run *row = run.lookup(&zero);
    __u64 now = 0;
    bool is_steady;

    if (!row || data + STAMP_END > data_end)
        return XDP_ABORTED;
    if (!(row->sent & row->stamp_mask))
        now = bpf_ktime_get_ns();  // takes longer than all the rest
    if (!goes_on(row, now))
        return XDP_DROP;
    is_steady = is_steady_due(row, now);
    if (!is_steady && !is_due(row, now))
        return XDP_DROP;
    if (!make_packet(data, now, is_steady))
        return XDP_ABORTED;
    row->sent++;
    return bpf_redirect(EGRESS_IFINDEX, 0);
}

int walk(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *data_end = (void *)(long)ctx->data_end;

    if (data + STAMP_END > data_end || !make_packet(data, 0, false))
        return XDP_ABORTED;
    walked.call(ctx, 0);
    return XDP_ABORTED;
}

// Walked to learn what walking itself costs.
int nothing(struct xdp_md *ctx)
{
    return XDP_REDIRECT;
}
