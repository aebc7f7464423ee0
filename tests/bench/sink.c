// Counts and drops the generator's packets where they arrive, measures how old those are that say when they were sent,
// and checks the checksums of some. Everything else goes up. Compiled with FIRST_PORT and LAST_PORT (destination, both
// included), UDP_BYTES (length of a packet from its UDP header on), VERIFY_EVERY (a power of two; 0: never), CPUS,
// BUCKETS and BUCKET_SHIFT (a bucket is 2^BUCKET_SHIFT ns wide; the last takes all that is older).
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#define STAMP_OFFSET 56          // as in generator.c

struct tally {
    __u64 packets;
    __u64 bytes;                 // of whole frames
    __u64 passed;                // frames of others
    __u64 wrong_length;          // counted in packets, too, but neither verified nor measured
    __u64 verified;
    __u64 bad_ip_checksum;
    __u64 bad_udp_checksum;      // wrong or missing
};

struct headers {
    struct ethhdr eth;
    struct iphdr ip;
    struct udphdr udp;
} __attribute__((packed));

// Each core writes to a row, and to a run of buckets, of its own.
BPF_ARRAY(tallies, struct tally, CPUS);
BPF_ARRAY(delays, __u64, CPUS * BUCKETS);

static __always_inline bool is_expected(const struct headers *headers)
{
    __u16 port = bpf_ntohs(headers->udp.dest);

    return headers->eth.h_proto == bpf_htons(ETH_P_IP) && headers->ip.ihl == 5 &&
           headers->ip.protocol == IPPROTO_UDP && port >= FIRST_PORT && port <= LAST_PORT;
}

static __always_inline bool is_right(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum == 0xffff;
}

static __always_inline void verify(struct tally *tally, struct headers *headers)
{
    __u64 pseudo = (__u64)headers->ip.saddr + headers->ip.daddr + bpf_htons(IPPROTO_UDP) + headers->udp.len;

    tally->verified++;
    if (!is_right((__u32)bpf_csum_diff(0, 0, (void *)&headers->ip, sizeof(headers->ip), 0)))
        tally->bad_ip_checksum++;
    if (!headers->udp.check || !is_right(pseudo + (__u32)bpf_csum_diff(0, 0, (void *)&headers->udp, UDP_BYTES, 0)))
        tally->bad_udp_checksum++;
}

// Number of the bucket for a packet that this core gets now.
static __always_inline __u32 delay_bucket(int cpu, __u64 sent_ns)
{
    __u64 bucket = (bpf_ktime_get_ns() - sent_ns) >> BUCKET_SHIFT;

    if (bucket > BUCKETS - 1)
        bucket = BUCKETS - 1;
    return cpu * BUCKETS + bucket;
}

int count(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *data_end = (void *)(long)ctx->data_end;
    struct headers *headers = data;
    int cpu = bpf_get_smp_processor_id();
    struct tally *tally = tallies.lookup(&cpu);

    if (!tally)
        return XDP_ABORTED;
    if (data + sizeof(*headers) > data_end || !is_expected(headers)) {
        tally->passed++;
        return XDP_PASS;
    }
    tally->packets++;
    tally->bytes += data_end - data;
    if (headers->udp.len != bpf_htons(UDP_BYTES) || (void *)&headers->udp + UDP_BYTES > data_end) {
        tally->wrong_length++;
        return XDP_DROP;
    }
    if (VERIFY_EVERY && !(tally->packets & (VERIFY_EVERY - 1)))
        verify(tally, headers);
    __u64 sent_ns = *(__u64 *)(data + STAMP_OFFSET);
    if (!sent_ns)
        return XDP_DROP;
    __u32 bucket = delay_bucket(cpu, sent_ns);
    __u64 *delay = delays.lookup(&bucket);
    if (delay)
        (*delay)++;
    return XDP_DROP;
}
