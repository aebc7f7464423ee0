// What a relay is compared with: `forward` gives every frame the same new MAC addresses and redirects it, without a
// look-up or a count, which is the least that a relay can do; `drop` drops every frame.
// Compiled with EGRESS_IFINDEX and MACS_0 to MACS_2: destination and source address as three words, as in memory.
#include <linux/if_ether.h>

int forward(struct xdp_md *ctx)
{
    __u32 *macs = (void *)(long)ctx->data;
    void *data_end = (void *)(long)ctx->data_end;

    if ((void *)(macs + 3) > data_end)
        return XDP_ABORTED;
    macs[0] = MACS_0;
    macs[1] = MACS_1;
    macs[2] = MACS_2;
    return bpf_redirect(EGRESS_IFINDEX, 0);
}

int drop(struct xdp_md *ctx)
{
    return XDP_DROP;
}
