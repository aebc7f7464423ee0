// A flood: each run turns its frame into the next packet and sends it out of an interface, or drops it when enough were
// sent or none is due. Live frames come back as the other end left them, so all that a template has is written anew.
//
// Compiled with EGRESS_IFINDEX, TEMPLATE_BYTES (a multiple of 8), PORTS (destination ports that take turns), PORT_AT
// (where the destination port is in the frame) and SOURCES (IPv4 source addresses that take turns).

#define CHECK_AT 24   // the checksum of an IPv4 header
#define SOURCE_AT 28  // the second half of its source address

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
#if SOURCES > 1
    __u16 more = row->sent % SOURCES;
    __u16 source = bpf_ntohs(*(__u16 *)(data + SOURCE_AT));
    __u16 check = bpf_ntohs(*(__u16 *)(data + CHECK_AT));
    *(__u16 *)(data + SOURCE_AT) = bpf_htons(source + more);
    *(__u16 *)(data + CHECK_AT) = bpf_htons(check - more - (check < more));
#endif
    row->sent++;
    return bpf_redirect(EGRESS_IFINDEX, 0);
}
