// Numbers packets of RTP, gives every second a payload type without a clock, as those of Opus, the first one too, and
// hands all to the program of the relay.
//
// Compiled with PAYLOAD_AT, where the RTP header is in the frame.

BPF_PROG_ARRAY(programs, 1);
BPF_ARRAY(counts, __u64, 1);

int mix(struct xdp_md *ctx)
{
    __u8 *data = (void *)(long)ctx->data;
    int zero = 0;
    __u64 *count = counts.lookup(&zero);

    if (!count || (void *)(data + PAYLOAD_AT + 4) > (void *)(long)ctx->data_end)
        return XDP_ABORTED;
    data[PAYLOAD_AT + 1] = *count % 2 ? 8 : 96;
    data[PAYLOAD_AT + 3] = (*count)++;
    programs.call(ctx, 0);
    return XDP_ABORTED;
}
