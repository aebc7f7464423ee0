// A flood: each run turns its frame into the next packet and sends it out of an interface, or drops it when enough were
// sent or none is due. Live frames come back as the other end left them, so all that a template has is written anew.
//
// Compiled with EGRESS_IFINDEX, TEMPLATE_BYTES (a multiple of 8), PORTS (destination ports that take turns) and PORT_AT
// (where the destination port is in the frame).

// Of one run; written anew before each.
struct run {
    __u64 wanted;       // packets
    __u64 interval_ns;  // 0: as fast as possible
    __u64 sent;
    __u64 due_ns;
};

struct template {
    __u64 words[TEMPLATE_BYTES / 8];
};

BPF_ARRAY(run, struct run, 1);
BPF_ARRAY(templates, struct template, 1);

static __always_inline bool is_due(struct run *run)
{
    __u64 now;

    if (run->sent >= run->wanted)
        return false;
    if (!run->interval_ns)
        return true;
    now = bpf_ktime_get_ns();
    if (now < run->due_ns)
        return false;
    // What was missed is not made up for, but for a batch.
    if (now - run->due_ns > 64 * run->interval_ns)
        run->due_ns = now - 64 * run->interval_ns;
    run->due_ns += run->interval_ns;
    return true;
}

int flood(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *data_end = (void *)(long)ctx->data_end;
    __u64 *words = data;
    int zero = 0;
    struct run *row = run.lookup(&zero);
    struct template *template = templates.lookup(&zero);

    if (!row || !template || data + TEMPLATE_BYTES > data_end)
        return XDP_ABORTED;
    if (!is_due(row))
        return XDP_DROP;
#pragma unroll
    for (int i = 0; i < TEMPLATE_BYTES / 8; i++)
        words[i] = template->words[i];
#if PORTS > 1
    __u16 first = bpf_ntohs(*(__u16 *)(data + PORT_AT));
    *(__u16 *)(data + PORT_AT) = bpf_htons(first + row->sent % PORTS);
#endif
    row->sent++;
    return bpf_redirect(EGRESS_IFINDEX, 0);
}
